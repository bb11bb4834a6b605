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
    """__putback_isolated_page: merged, to the tail, with the block's type."""
    cdef int zone = node_zone_of(&r.node, row.pfn)
    cdef CZone *z = zone_nr(r, zone)
    cdef idx i
    r.taken[6] += 1
    if row.order < 0:
        return
    i = own_entry(r, row, &zone)
    if not i:
        r.unexpected += 1
        return
    forget(r, row)
    z = zone_nr(r, zone)
    set_word(z, i, 0)
    merge_free(z, row.cpu, i, row.order, block_type(z, i), True)

cdef void on_move_block(Retrace *r, Row *row) noexcept nogil:
    """Not of a claim or reserve of ours: free chunks of a block change their type (unreserve, isolation)."""
    cdef CZone *z = zone_nr(r, node_zone_of(&r.node, row.pfn))
    cdef idx i = index_of(z, row.pfn)
    if row.done or not 0 <= row.type < 5 or block_of(z, i).flags & STRADDLES or block_type(z, i) == row.type:
        return
    r.taken[6] += 1
    if block_type(z, i) == HIGHATOMIC:
        z.s.nr_reserved_highatomic -= min(z.s.nr_reserved_highatomic, <int64_t>PB_PAGES)
    elif row.type == HIGHATOMIC:
        z.s.nr_reserved_highatomic += PB_PAGES
    move_block(z, row.cpu, i, block_type(z, i), row.type)
    set_block_type(block_of(z, i), row.type)

cdef void on_set_block(Retrace *r, Row *row) noexcept nogil:
    """Not of a claim of ours, nor of a merge in a drain. The type of a block that moved has been set with it."""
    cdef CZone *z = zone_nr(r, node_zone_of(&r.node, row.pfn))
    cdef idx i = index_of(z, row.pfn)
    cdef Block *b = block_of(z, i)
    cdef int T = row.block_flags & 7
    if row.done or row.block_flags < 0 or T > CMA or b.eff == ISOLATE or b.eff == T or r.draining[row.cpu] is not NULL:
        return
    r.taken[6] += 1
    if b.eff == HIGHATOMIC:
        z.s.nr_reserved_highatomic -= min(z.s.nr_reserved_highatomic, <int64_t>PB_PAGES)
    elif T == HIGHATOMIC:
        z.s.nr_reserved_highatomic += PB_PAGES
    if b.order == 0:
        move_block(z, row.cpu, i, b.eff, T)
    else:
        move(z, row.cpu, i, b.order, b.eff, T)
    set_block_type(b, T)

cdef void on_block_isolate(Retrace *r, Row *row) noexcept nogil:
    cdef CZone *z = zone_nr(r, node_zone_of(&r.node, row.pfn))
    cdef idx i = index_of(z, row.pfn)
    r.taken[6] += 1
    if row.isolate == 0:
        unisolate_block(z, row.cpu, i)
    else:
        isolate_section(z, row.cpu, i, True, False)
