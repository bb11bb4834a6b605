# The per-CPU lists: primitives, tuning, and what one zone-lock hold does for them in
# mainline (baseline sections 1.8, 6, 10 and 12; rfc.md section 4). The PCP lock of the
# target is held throughout; functions that also need the zone lock say so.

from libc.stdint cimport uint32_t

from .atomic cimport likely
from .buddy cimport merge_free
from .events cimport E_PCPU_DRAIN, emit
from .page cimport (
    ALLOC, BELOW_HIGH, COSTLY, CPU_SHIFT, FREE_HIGH_BATCH, MARK, MOVABLE, NR_LISTS, OFF, ORDER_SHIFT, PB, PCP,
    PREV_FREE_HIGH_ORDER, RECLAIMABLE, RECLAIM_ACTIVE, SCALE_MAX, TYPE_SHIFT, UNMOVABLE, Pcp, Zone, block_type,
    cpu_head, idx, list_add, list_del, set_word, word_of,
)


cdef enum:
    PCP_ORDERS = 0x20f                     # 0 to 3, and 9


cdef inline bint pcp_order(int o) noexcept nogil:
    """B-11: orders that the per-CPU lists serve."""
    return (1 << o) & PCP_ORDERS != 0

cdef inline int list_index(Zone *z, int o, int T) noexcept nogil:
    """P-3: one list per order and type. With 14 lists U and R share one at order 9 (B-10)."""
    if o == PB and T == RECLAIMABLE and z.s.policy.pcp_lists == 14:
        T = UNMOVABLE
    return 3 * o + T

cdef inline int list_type(int eff) noexcept nogil:
    """The list of a freed page: its block's type; H and C ride on M (B-80)."""
    return MOVABLE if eff > RECLAIMABLE else eff

cdef inline void pcp_put(Zone *z, int c, idx i, int o, int T, uint32_t mark, bint tail) noexcept nogil:
    """P-20. The word is written before the entry is linked: a merge pass trusts it (P-102)."""
    cdef idx head = cpu_head(c, list_index(z, o, T))
    set_word(z, i, PCP | o << ORDER_SHIFT | T << TYPE_SHIFT | mark | c << CPU_SHIFT)
    list_add(z, i, z.page[head].prev if tail else head)
    z.pcp[c].count += 1 << o

cdef inline void pcp_del(Zone *z, int c, idx i, int o) noexcept nogil:
    """P-21: no mark leaves the PCP."""
    list_del(z, i)
    set_word(z, i, 0)
    z.pcp[c].count -= 1 << o

cdef inline void take_away(Zone *z, idx i, int o, int T) noexcept nogil:
    """
    The page is allocated, for a request of type T.

    Written while the lock that freed it is held: from then on no merge takes it for its buddy (P-102).
    """
    set_word(z, i, ALLOC | o << ORDER_SHIFT | T << TYPE_SHIFT)

cdef inline idx pcp_split(Zone *z, int c, int o, int T) noexcept nogil:
    """P-22: the head of the smallest larger list, split down; the halves inherit type and mark."""
    cdef int k = o + 1
    cdef idx i
    cdef uint32_t mark
    while k <= PB:
        i = z.page[cpu_head(c, list_index(z, k, T))].next
        if i != cpu_head(c, list_index(z, k, T)):
            mark = word_of(z, i) & MARK
            pcp_del(z, c, i, k)
            while k > o:
                k -= 1
                pcp_put(z, c, i + (1u << k), k, T, mark, False)
                z.counts[c].pcp_splits += 1
            take_away(z, i, o, T)
            return i
        k += 1
    return 0

cdef inline idx pcp_take(Zone *z, int c, int o, int T) noexcept nogil:
    """The head of the list (B-62), or a larger entry's lowest part where the policy splits locally."""
    cdef idx head = cpu_head(c, list_index(z, o, T))
    cdef idx i = z.page[head].next
    if likely(i != head):
        list_del(z, i)
        z.pcp[c].count -= 1 << o
        take_away(z, i, o, T)
        return i
    if z.s.policy.local_split == OFF:
        return 0
    return pcp_split(z, c, o, T)


# -- tuning --------------------------------------------------------------------------------------

cdef inline int clamp(int value, int low, int high) noexcept nogil:
    """high where value reaches it, even if high < low (B-84)."""
    if value >= high:
        return high
    return value if value > low else low

cdef inline int refill_size(Zone *z, Pcp *p, int o) noexcept nogil:
    """B-64: entries of order o to obtain; raises high and alloc_factor on the way."""
    cdef int b
    cdef int most
    p.high = clamp(p.high, p.high_min, p.high_max)
    if p.high < p.batch:
        return 1
    b = p.batch if o > 0 else p.batch << p.alloc_factor
    if p.high_min != p.high_max and not z.s.flags & BELOW_HIGH:
        p.high = min(p.high + b, p.high_max)
    if o == 0:
        most = max(p.high - p.count - p.batch, p.batch)
        if b <= most and p.alloc_factor < SCALE_MAX:
            p.alloc_factor += 1
        b = min(b, most)
    if b > 1:
        b = max(b >> o, 2)
    return b

cdef inline int free_limit(Zone *z, Pcp *p, bint free_high) noexcept nogil:
    """B-83: the count at which frees start to drain. The raised high applies next time."""
    cdef int high = p.high                 # clamped by the caller
    if high == 0:
        return 0
    if free_high:
        p.high = max(high - (p.batch << SCALE_MAX), p.high_min)
        return 0
    if z.s.flags & RECLAIM_ACTIVE:
        p.high = max(high - max(p.free_count, p.batch), p.high_min)
        return min(4 * p.batch, p.high)
    if p.high_min == p.high_max:
        return high
    if z.s.flags & BELOW_HIGH:
        p.high = max(high - max(p.free_count, p.batch), p.high_min)
        return max(p.count, p.high_min)
    if p.count >= high and p.high < p.free_count + p.batch:
        p.high = clamp(p.free_count + p.batch, p.high_min, p.high_max)
    return high

cdef inline int free_amount(Pcp *p, int limit, bint free_high) noexcept nogil:
    """B-84: pages to drain once the limit is reached."""
    if free_high:
        return min(p.count, p.batch << SCALE_MAX)
    if limit < p.batch:
        return 1
    return clamp(p.free_count, p.batch, limit - p.batch)

cdef inline int commit(Zone *z, Pcp *p, int c, idx i, int o, int T, uint32_t mark, bint nolock) noexcept nogil:
    """B-81, P-45: a freed page into CPU c's PCP p. Returns the pages that the caller must drain."""
    cdef bint free_high = False
    cdef int limit
    p.alloc_factor >>= 1
    pcp_put(z, c, i, o, T, mark, False)
    if 1 <= o <= COSTLY:
        free_high = (
            p.flags & PREV_FREE_HIGH_ORDER
            and p.free_count >= p.batch + p.high_min // 2
            and (not p.flags & FREE_HIGH_BATCH or p.count >= p.batch)
        )
        p.flags |= PREV_FREE_HIGH_ORDER
    else:
        p.flags &= ~PREV_FREE_HIGH_ORDER
    if p.free_count < p.batch << SCALE_MAX:
        p.free_count += 1 << o
    if nolock:
        return 0
    p.high = clamp(p.high, p.high_min, p.high_max)
    if likely(p.count < p.high and not free_high and not z.s.flags & (RECLAIM_ACTIVE | BELOW_HIGH)):
        return 0                           # below every limit of B-83
    limit = free_limit(z, p, free_high)
    if p.count < limit:
        return 0
    return free_amount(p, limit, free_high)


# -- draining under one zone-lock hold --------------------------------------------------------------

cdef inline void free_entry(Zone *z, int cpu, int c, idx i, int o) noexcept nogil:
    """One entry into the zone. Its block's type counts now, not when it was freed (pitfall 5)."""
    cdef int T = block_type(z, i)
    pcp_del(z, c, i, o)
    merge_free(z, cpu, i, o, T, False)
    emit(z, E_PCPU_DRAIN, cpu, i, o, T)
    z.counts[cpu].drained_entries += 1
    z.counts[cpu].drained_pages += 1 << o

cdef inline int list_at(int position) noexcept nogil:
    """The order in which drains visit the lists: ascending, but movable order 9 last, as in the kernel's 14."""
    if position < 28:
        return position
    return 57 - position

cdef inline void bulk_free(Zone *z, int cpu, int c, int n, int start) noexcept nogil:
    """B-85 (zone lock held): list after list from `start` on, oldest entries first."""
    cdef int position = list_at(start)
    cdef int which
    cdef idx head
    n = min(n, z.pcp[c].count)
    while n > 0:
        which = list_at(position)
        head = cpu_head(c, which)
        while n > 0 and z.page[head].prev != head:
            free_entry(z, cpu, c, z.page[head].prev, which // 3)
            n -= 1 << (which // 3)
        position = position + 1 if position < NR_LISTS - 1 else 0
