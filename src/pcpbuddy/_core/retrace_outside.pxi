# What a recording shows of compaction, isolation and the high-atomic reserve: done as it was done there (R6).
# Included by core.pyx.

cdef void on_isolate(Retrace *r, Row *row) noexcept nogil:
    """__isolate_free_page, after it was done."""
    cdef int zone = node_zone_of(&r.node, row.pfn)
    cdef CZone *z = zone_nr(r, zone)
    cdef idx i = index_of(z, row.pfn)
    cdef uint32_t k
    r.compacts = True
    if row.ret == 0 or row.order < 0:
        return
    r.taken[6] += 1
    if is_free_chunk(z, i, row.order):
        take_free(z, row.cpu, i, row.order)
    elif r.mode != RESYNC or not resync(r, zone, row, 0):
        r.unexpected += 1
        return
    for k in range(1u << row.order):
        r.map[row.pfn + k] = row.pfn + k + 1

cdef void on_putback(Retrace *r, Row *row) noexcept nogil:
    """__putback_isolated_page: merged, to the tail, with the block's type. So an isolated block ends too (B-111)."""
    cdef int zone = node_zone_of(&r.node, row.pfn)
    cdef CZone *z = zone_nr(r, zone)
    cdef idx i
    cdef idx k
    r.taken[6] += 1
    if row.order < 0:
        return
    i = own_entry(r, row, &zone)
    if not i:
        r.unexpected += 1
        return
    forget(r, row)
    z = zone_nr(r, zone)
    k = i
    while row.order >= PB and k < i + (1u << row.order):
        if block_type(z, k) == ISOLATE:
            set_block_type(block_of(z, k), block_of(z, k).type)
            z.s.nr_isolate_pageblock -= 1
        k += PB_PAGES
    set_word(z, i, 0)
    split_free(z, row.cpu, i, row.order, True)

cdef void change_block(Retrace *r, CZone *z, int cpu, idx i, int T) noexcept nogil:
    """The block of page i, or all of the free chunk that it is in, from its type to T."""
    cdef idx big = i & ~((<idx>1 << MAX_ORDER) - 1)
    cdef int before = block_type(z, i)
    cdef int blocks = 1
    cdef int k
    if before == CMA or T == CMA or before == ISOLATE:   # CMA since boot and for ever; isolation has its own rows
        r.unexpected += 1
        return
    r.taken[6] += 1
    i &= ~(<idx>PB_PAGES - 1)
    if is_free_chunk(z, big, MAX_ORDER):
        i = big
        blocks = 2
    if before == HIGHATOMIC:
        z.s.nr_reserved_highatomic -= min(z.s.nr_reserved_highatomic, <int64_t>blocks * PB_PAGES)
    elif T == HIGHATOMIC:
        z.s.nr_reserved_highatomic += blocks * PB_PAGES
    move_block(z, cpu, i, before, T)
    for k in range(blocks):
        set_block_type(block_of(z, i + k * PB_PAGES), T)

cdef void on_move_block(Retrace *r, Row *row) noexcept nogil:
    """Not of a claim or reserve of ours: free chunks of a block change their type (unreserve, isolation)."""
    cdef CZone *z = zone_nr(r, node_zone_of(&r.node, row.pfn))
    cdef idx i = index_of(z, row.pfn)
    if not row.done and 0 <= row.type < 5 and not block_of(z, i).flags & STRADDLES and block_type(z, i) != row.type:
        change_block(r, z, row.cpu, i, row.type)

cdef void on_set_block(Retrace *r, Row *row) noexcept nogil:
    """Not of a claim of ours, nor of a merge in a drain. The type of a block that moved has been set with it."""
    cdef CZone *z = zone_nr(r, node_zone_of(&r.node, row.pfn))
    cdef idx i = index_of(z, row.pfn)
    cdef Block *b = block_of(z, i)
    cdef int T = row.block_flags & 7
    if row.done or row.block_flags < 0 or T > CMA or b.eff == ISOLATE or b.eff == T or r.draining[row.cpu] is not NULL:
        return
    change_block(r, z, row.cpu, i, T)

cdef void on_block_isolate(Retrace *r, Row *row) noexcept nogil:
    cdef CZone *z = zone_nr(r, node_zone_of(&r.node, row.pfn))
    cdef idx i = index_of(z, row.pfn)
    cdef idx big = i & ~((<idx>1 << MAX_ORDER) - 1)
    r.taken[6] += 1
    r.halved = 0
    if row.isolate == 0:
        unisolate_block(z, row.cpu, i)
    else:
        if is_free_chunk(z, big, MAX_ORDER):
            r.halved = pfn_of(z, big) + 1
        isolate_section(z, row.cpu, &i, True, False)
