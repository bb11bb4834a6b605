# The per-CPU pageblock buddy allocator: refill phases, merging and draining by size
# (rfc.md sections 5, 7 and 8). The PCP lock is held; refills and drain holds run under
# the zone lock too.

from libc.stdint cimport uint16_t, uint32_t

from .atomic cimport store16
from .buddy cimport account, first, remove, take
from .events cimport E_CHUNK, E_CLAIM, E_PMERGE, E_RECOVER, emit, emit_zone_locked
from .fallback cimport M_NORMAL, cma_first, zone_take
from .ownership cimport own_unlink
from .page cimport (
    BELOW_HIGH, BUDDY, BUDDY_MASK, CMA, CMA_AS_POSTED, GATE_FIT, MARK, MOVABLE, OFF, PB, PB_PAGES, USE_CMA, Block,
    Pcp, Zone, block_of, block_page, block_type, cpu_head, idx, owned_head, word_of, word_order, word_type,
)
from .pcp cimport free_entry, list_type, pcp_del, pcp_put


# -- refill ----------------------------------------------------------------------------------------

cdef inline void obtained(Zone *z, int c, int phase, idx i, int o, int T, bint rule) noexcept nogil:
    """A phase put 2^o pages into the PCP."""
    z.counts[c].phase_pages[phase] += 1 << o
    if T == MOVABLE and z.s.cma_pages:
        z.counts[c].cma_by_phase[phase * 4 + (2 if rule else 0) + (block_of(z, i).type == CMA)] += 1 << o

cdef inline bint recoverable(Zone *z, Block *b, int T, int aflags) noexcept nogil:
    """P-33: the block's type serves the request. `as-posted` forgets that C serves M."""
    if b.type == T:
        return True
    return z.s.policy.cma != CMA_AS_POSTED and T == MOVABLE and b.type == CMA and aflags & USE_CMA

cdef inline int recover(Zone *z, int c, uint32_t n, int o, int T) noexcept nogil:
    """Every free chunk of block n, ascending, off the zone lists; T3. Returns the pages that serve order o."""
    cdef idx i = block_page(z, n)
    cdef idx end = i + PB_PAGES
    cdef uint32_t word
    cdef int k
    cdef int got = 0
    cdef int type = z.block[n].type
    cdef bint rule = T == MOVABLE and cma_first(z)
    while i < end:
        z.counts[c].scanned_pfns += 1
        word = word_of(z, i)
        if (word & 7) != BUDDY:
            i += 1
            continue
        k = word_order(word)
        remove(z, c, i, k, type)
        account(z, c, -(1 << k), type)
        z.counts[c].pages_moved += 1 << k
        pcp_put(z, c, i, k, T, MARK, True)
        emit(z, E_RECOVER, c, i, k, 0)
        obtained(z, c, 0, i, k, T, rule)
        if k >= o:
            got += 1 << k
        i += 1u << k
    own_unlink(z, n)
    return got

cdef inline int phase0(Zone *z, int c, int o, int T, int aflags, int want) noexcept nogil:
    """P-33: recover the fragments of own blocks, the longest linked first. Other types stay linked."""
    cdef uint32_t n
    cdef uint32_t next
    cdef int got = 0
    cdef int walked = 0
    if o >= PB:
        return 0
    n = z.block[owned_head(c)].own_next
    while n != owned_head(c) and got < want:
        next = z.block[n].own_next
        walked += 1
        if recoverable(z, &z.block[n], T, aflags):
            got += recover(z, c, n, o, T)
        else:
            z.counts[c].skipped_blocks += 1
        n = next
    z.counts[c].walks += 1
    z.counts[c].walked_blocks += walked
    z.counts[c].walk_lengths[min(walked, 63)] += 1
    return got

cdef inline bint gate_open(Zone *z, Pcp *p) noexcept nogil:
    """P-34: a block that does not fit under high would be drained again at once."""
    return z.s.policy.gate == GATE_FIT and p.count + PB_PAGES <= p.high and not z.s.flags & BELOW_HIGH

cdef inline int phase1(Zone *z, int c, int T, int aflags, int want) noexcept nogil:
    """P-34: claim whole blocks; T1."""
    cdef int mode = M_NORMAL
    cdef int got = 0
    cdef idx i
    cdef bint rule
    while got < want and gate_open(z, &z.pcp[c]):
        rule = T == MOVABLE and cma_first(z)
        i = zone_take(z, c, PB, T, aflags, &mode)
        if not i:
            break
        store16(&block_of(z, i).owner, <uint16_t>(c + 1))
        emit(z, E_CLAIM, c, i, 0, block_type(z, i))
        pcp_put(z, c, i, PB, T, MARK, True)
        obtained(z, c, 1, i, PB, T, rule)
        got += PB_PAGES
    return got

cdef inline idx find_chunk(Zone *z, int c, int o, int T) noexcept nogil:
    """The smallest chunk of one type from order o up to phase2_max; the surplus stays in the zone."""
    cdef int k
    cdef idx i
    for k in range(o, z.s.policy.phase2_max + 1):
        i = first(z, k, T)
        if i:
            take(z, c, i, k, o, T)
            emit_zone_locked(z, c, i, o, T)
            emit(z, E_CHUNK, c, i, o, 0)
            return i
    return 0

cdef inline int phase2(Zone *z, int c, int o, int T, int aflags, int want) noexcept nogil:
    """P-35: chunks larger than the request, without stealing. `fixed` applies the 50 % rule per chunk (P-36)."""
    cdef int got = 0
    cdef int k = PB - 1
    cdef bint with_cma = aflags & USE_CMA and z.s.policy.cma != CMA_AS_POSTED
    cdef bint rule
    cdef idx i
    if o >= PB:
        return 0
    while k > o and (1 << k) > want:
        k -= 1
    while k >= o and got < want:
        if (1 << k) > want - got and k > o:
            k -= 1
            continue
        rule = T == MOVABLE and cma_first(z)
        i = find_chunk(z, c, k, CMA if with_cma and rule else T)
        if not i and with_cma:
            i = find_chunk(z, c, k, T if rule else CMA)
        if not i:
            k -= 1
            continue
        pcp_put(z, c, i, k, T, 0, True)
        obtained(z, c, 2, i, k, T, rule)
        got += 1 << k
    return got

cdef inline int phase3(Zone *z, int c, int o, int T, int aflags, int want) noexcept nogil:
    """P-37, B-63: page by page as in mainline, onto the tail."""
    cdef int mode = M_NORMAL
    cdef int got = 0
    cdef bint rule = False
    cdef idx i
    while got < want:
        if T == MOVABLE and z.s.cma_pages:
            rule = cma_first(z)
        i = zone_take(z, c, o, T, aflags, &mode)
        if not i:
            break
        pcp_put(z, c, i, o, T, 0, True)
        obtained(z, c, 3, i, o, T, rule)
        got += 1 << o
    return got

cdef inline void refill(Zone *z, int c, int o, int T, int aflags, int n) noexcept nogil:
    """P-32: n entries of order o, all phases under one zone-lock hold; `mainline` has phase 3 only."""
    cdef Pcp *p = &z.pcp[c]
    cdef int want = n << o
    cdef int got = 0
    z.counts[c].refills += 1
    if p.high >= p.batch:                  # else the PCP is disabled: phase 3, one entry
        if z.s.policy.phase0 != OFF:
            got = phase0(z, c, o, T, aflags, want)
        if got < want:
            got += phase1(z, c, T, aflags, want - got)
        if got < want and z.s.policy.phase2 != OFF:
            got += phase2(z, c, o, T, aflags, want - got)
    if got < want:
        phase3(z, c, o, T, aflags, want - got)


# -- merging ---------------------------------------------------------------------------------------

cdef inline void merge_pass(Zone *z, int cpu, int c) noexcept nogil:
    """P-50, P-51: marked buddies of this PCP meet, bottom up. Reads neighbours' words without their lock (P-102)."""
    cdef int o
    cdef int T
    cdef idx head
    cdef idx i
    cdef idx b
    cdef idx next
    cdef int Tb
    for o in range(PB):
        for T in range(3):
            head = cpu_head(c, 3 * o + T)
            i = z.page[head].next
            while i != head:
                next = z.page[i].next
                z.counts[cpu].merge_visited += 1
                b = i ^ (1u << o)
                if word_of(z, i) & MARK and not (word_of(z, i) ^ word_of(z, b)) & BUDDY_MASK:
                    Tb = word_type(word_of(z, b))
                    if next == b:
                        next = z.page[b].next
                    pcp_del(z, c, i, o)
                    pcp_del(z, c, b, o)
                    i &= b
                    pcp_put(z, c, i, o + 1, T if Tb == T else list_type(block_type(z, i)), MARK, True)
                    z.counts[cpu].pcp_merges += 1
                    emit(z, E_PMERGE, cpu, i, o + 1, 0)
                i = next


# -- draining --------------------------------------------------------------------------------------

cdef inline idx oldest(Zone *z, int c, int o, int start) noexcept nogil:
    """The tail of the order's lists, types cyclically from `start`; or 0."""
    cdef int k
    cdef idx head
    for k in range(3):
        head = cpu_head(c, 3 * o + (start + k) % 3)
        if z.page[head].prev != head:
            return z.page[head].prev
    return 0

cdef inline idx best_fit(Zone *z, int c, int n, int start, int *order) noexcept nogil:
    """P-61: the largest entry of at most n pages, else the smallest there is."""
    cdef int o = PB
    cdef idx i
    while o >= 0:
        if (1 << o) <= n:
            i = oldest(z, c, o, start)
            if i:
                order[0] = o
                return i
        o -= 1
    for o in range(PB + 1):
        i = oldest(z, c, o, start)
        if i:
            order[0] = o
            return i
    return 0

cdef inline int drain_largest_fit(Zone *z, int cpu, int c, int n, int start) noexcept nogil:
    """P-60: at most `batch` entries under one zone-lock hold. Returns what is left of n."""
    cdef int entries = max(z.pcp[c].batch, 1)
    cdef int o = 0
    cdef idx i
    while n > 0 and entries > 0 and z.pcp[c].count > 0:
        i = best_fit(z, c, n, start, &o)
        free_entry(z, cpu, c, i, o)
        n -= 1 << o
        entries -= 1
    return n
