# Merging inside a PCP, and draining by size (rfc.md sections 7 and 8). The PCP lock is held;
# drain holds run under the zone lock too.

from libc.stdint cimport uint32_t

from .atomic cimport bump
from .events cimport E_PMERGE, emit
from .page cimport (
    BUDDY_MASK, DRAIN_NEAR, DRAIN_SMALLEST, MARK, MERGE_DRAIN, MERGE_TAIL, OVERSHOOT_SPLIT, OVERSHOOT_STOP, PB,
    PB_PAGES, Zone, block_type,
    cpu_head, idx, word_of, word_type,
)
from .pcp cimport drained, free_entry, list_type, pcp_del, pcp_put, split_entry

cdef enum:
    LOOKS = 4                  # at entries, for each that a drain can use (P-55)


# -- merging ---------------------------------------------------------------------------------------

cdef inline void merge_pair(Zone *z, int cpu, int c, idx i, idx b, int o, int T) noexcept nogil:
    """P-51: an entry of a list of type T and its buddy become one, on the tail."""
    cdef int Tb = word_type(word_of(z, b))
    pcp_del(z, c, i, o)
    pcp_del(z, c, b, o)
    i &= b
    pcp_put(z, c, i, o + 1, T if Tb == T else list_type(block_type(z, i)), MARK, True)
    bump(&z.counts[cpu].pcp_merges, 1)
    emit(z, E_PMERGE, cpu, i, o + 1, 0)

cdef inline bint meets_buddy(Zone *z, int cpu, idx i, idx b) noexcept nogil:
    """Are both marked, and of one order in one PCP? Reads the neighbour's word without its lock (P-102)."""
    bump(&z.counts[cpu].merge_visited, 1)
    return word_of(z, i) & MARK and not (word_of(z, i) ^ word_of(z, b)) & BUDDY_MASK

cdef inline void merge_pass(Zone *z, int cpu, int c) noexcept nogil:
    """P-50: marked buddies of this PCP meet, bottom up."""
    cdef int o
    cdef int T
    cdef idx head
    cdef idx i
    cdef idx b
    cdef idx next
    for o in range(PB):
        for T in range(3):
            head = cpu_head(c, 3 * o + T)
            i = z.page[head].next
            while i != head:
                next = z.page[i].next
                b = i ^ (1u << o)
                if meets_buddy(z, cpu, i, b):
                    if next == b:
                        next = z.page[b].next
                    merge_pair(z, cpu, c, i, b, o, T)
                i = next

cdef inline void merge_tail(Zone *z, int cpu, int c, int n) noexcept nogil:
    """P-55: the same from the tails on: as much as a drain of n pages, a block or more, can use."""
    cdef int o
    cdef int T
    cdef int looks
    cdef int merges
    cdef idx head
    cdef idx i
    cdef idx b
    cdef idx prev
    for o in range(PB):
        for T in range(3):
            head = cpu_head(c, 3 * o + T)
            i = z.page[head].prev
            looks = LOOKS * (n >> o)
            merges = ((n >> o) + 1) // 2
            while i != head and looks > 0 and merges > 0:
                looks -= 1
                prev = z.page[i].prev
                b = i ^ (1u << o)
                if meets_buddy(z, cpu, i, b):
                    merges -= 1
                    if prev == b:
                        prev = z.page[b].prev
                    merge_pair(z, cpu, c, i, b, o, T)
                i = prev

cdef inline void merge_before(Zone *z, int cpu, int c, int n) noexcept nogil:
    """P-54: before the first hold of a drain of n pages."""
    if z.s.policy.merge == MERGE_DRAIN:
        merge_pass(z, cpu, c)
    elif z.s.policy.merge == MERGE_TAIL:
        merge_tail(z, cpu, c, max(min(n, z.pcp[c].count), PB_PAGES))

cdef inline bint merges_late(Zone *z) noexcept nogil:
    """P-55: the drain that a commit asks for has its pass when nothing fits well any more."""
    return z.s.policy.merge == MERGE_TAIL and z.s.policy.drain == DRAIN_NEAR


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

cdef inline idx smallest_entry(Zone *z, int c, int start, int *order) noexcept nogil:
    cdef int o
    cdef idx i
    for o in range(PB + 1):
        i = oldest(z, c, o, start)
        if i:
            order[0] = o
            return i
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
    return smallest_entry(z, c, start, order)

cdef inline idx well_fitting(Zone *z, int c, int n, int start, int *order) noexcept nogil:
    """P-64: the largest entry of at most n pages, and of an eighth of them at least; or 0."""
    cdef int o = PB
    cdef idx i
    while o >= 0 and (8 << o) >= n:
        if (1 << o) <= n:
            i = oldest(z, c, o, start)
            if i:
                order[0] = o
                return i
        o -= 1
    return 0

cdef inline idx nearest(Zone *z, int c, int n, int start, int *order) noexcept nogil:
    """P-64: what fits well; else a whole block, if n is an eighth of it at least; else as P-61."""
    cdef idx i = well_fitting(z, c, n, start, order)
    if not i and n >= PB_PAGES >> 3:
        i = oldest(z, c, PB, start)
        order[0] = PB
    return i if i else best_fit(z, c, n, start, order)

cdef inline bint wants_pass(Zone *z, int c, int n, int start) noexcept nogil:
    cdef int o
    return not well_fitting(z, c, n, start, &o)

cdef inline int drain_split(Zone *z, int cpu, int c, idx i, int have, int n) noexcept nogil:
    """P-61, split: of an entry larger than n pages, the low part that fits. Returns its pages."""
    cdef int o = 0
    while (2 << o) <= n:
        o += 1
    split_entry(z, c, i, have, o, word_type(word_of(z, i)), cpu)
    drained(z, cpu, i, o)
    return 1 << o

cdef inline int drain_by_size(Zone *z, int cpu, int c, int n, int start, bint merged) noexcept nogil:
    """
    P-60: at most `batch` entries under one zone-lock hold. Returns what is left of n.

    merged: has there been a pass, or is there none? Else the hold ends where it wants one.
    """
    cdef int entries = max(z.pcp[c].batch, 1)
    cdef int o = 0
    cdef idx i
    while n > 0 and entries > 0 and z.pcp[c].count > 0:
        if z.s.policy.drain == DRAIN_SMALLEST:
            i = smallest_entry(z, c, start, &o)
        elif z.s.policy.drain == DRAIN_NEAR:
            if not merged and wants_pass(z, c, n, start):
                return n
            i = nearest(z, c, n, start, &o)
        else:
            i = best_fit(z, c, n, start, &o)
        if (1 << o) > n and z.s.policy.drain_overshoot == OVERSHOOT_STOP:
            return 0
        if (1 << o) > n and z.s.policy.drain_overshoot == OVERSHOOT_SPLIT:
            n -= drain_split(z, cpu, c, i, o, n)
        else:
            free_entry(z, cpu, c, i, o)
            n -= 1 << o
        entries -= 1
    return n
