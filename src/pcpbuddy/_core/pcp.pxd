# The per-CPU lists: primitives, tuning, and what one zone-lock hold does for them in
# mainline (baseline sections 1.8, 6, 10 and 12; rfc.md section 4). The PCP lock of the
# target is held throughout; functions that also need the zone lock say so.

cimport cython
from libc.stdint cimport uint32_t

from .atomic cimport bump, bumpi32, likely, load16, load32, store32
from .buddy cimport merge_free
from .cache cimport WATCHED
from .events cimport E_PCPU_DRAIN, E_PMERGE, emit
from .page cimport (
    ALLOC, BELOW_HIGH, BUDDY_MASK, COSTLY, CPU_SHIFT, FREE_HIGH_BATCH, GROWTH_PAGES, MARK, MARK_ALL, MERGE_FREE,
    MOVABLE, NR_LISTS, OFF, ORDER_SHIFT, PB, PCP, PREFER_UNMARKED, PREV_FREE_HIGH_ORDER, RECLAIM_ACTIVE, RECLAIMABLE,
    SCALE_MAX, TYPE_SHIFT, UNMOVABLE, Block, Pcp, Zone, block_type, cpu_head, high_of, idx, list_add, list_del,
    set_high, set_word, word_of, word_type,
)
from .watermark cimport leave_below_high


cdef inline bint pcp_order(Zone *z, int o) noexcept nogil:
    """B-11, P-30: orders that the per-CPU lists serve."""
    return (z.s.policy.pcp_orders >> o) & 1

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
    bumpi32(&z.pcp[c].count, 1 << o)

cdef inline void pcp_del(Zone *z, int c, idx i, int o) noexcept nogil:
    """P-21: no mark leaves the PCP."""
    list_del(z, i)
    set_word(z, i, 0)
    bumpi32(&z.pcp[c].count, -(1 << o))

cdef inline void take_away(Zone *z, idx i, int o, int T) noexcept nogil:
    """
    The page is allocated, for a request of type T.

    Written while the lock that freed it is held: from then on no merge takes it for its buddy (P-102).
    """
    set_word(z, i, ALLOC | o << ORDER_SHIFT | T << TYPE_SHIFT)

cdef inline void split_entry(Zone *z, int c, idx i, int have, int o, int T, int cpu) noexcept nogil:
    """P-22: off its list, and the upper halves to the heads of the lower ones. They inherit type and mark."""
    cdef uint32_t mark = word_of(z, i) & MARK
    pcp_del(z, c, i, have)
    while have > o:
        have -= 1
        pcp_put(z, c, i + (1u << have), have, T, mark, False)
        bump(&z.counts[cpu].pcp_splits, 1)

cdef inline idx preferred_entry(Zone *z, idx head) noexcept nogil:
    """P-23: the first unmarked entry, where the policy prefers those; else the head. The list is not empty."""
    cdef idx i = z.page[head].next
    if z.s.policy.take_prefer != PREFER_UNMARKED:
        return i
    while i != head and word_of(z, i) & MARK:
        i = z.page[i].next
    return i if i != head else z.page[head].next

cdef inline idx pcp_take(Zone *z, int c, int o, int T) noexcept nogil:
    """B-62, P-22: from the smallest sufficient list; without local splitting, from that of the order only."""
    cdef int last = o if z.s.policy.local_split == OFF else PB
    cdef int k
    cdef idx head
    cdef idx i
    for k in range(o, last + 1):
        head = cpu_head(c, list_index(z, k, T))
        if z.page[head].next != head:
            i = preferred_entry(z, head)
            split_entry(z, c, i, k, o, T, c)
            take_away(z, i, o, T)
            return i
    return 0

cdef inline int take_row(Zone *z, int c, int T, idx *pages, int n) noexcept nogil:
    """
    pcp_take of order 0, n times or until its list is empty; the list is mended and counted once. Returns how many.

    Not where each entry must be looked at, or each touch is charged: there 0.
    """
    cdef idx head = cpu_head(c, list_index(z, 0, T))
    cdef idx i = z.page[head].next
    cdef int k = 0
    if WATCHED or z.s.policy.take_prefer == PREFER_UNMARKED or i == head:
        return 0
    while k < n and i != head:
        pages[k] = i
        i = z.page[i].next
        z.page[pages[k]].next = 0
        z.page[pages[k]].prev = 0
        take_away(z, pages[k], 0, T)
        k += 1
    z.page[i].prev = head
    store32(&z.page[head].next, i)
    bumpi32(&z.pcp[c].count, -k)
    return k


# -- tuning --------------------------------------------------------------------------------------

cdef inline int clamp(int value, int low, int high) noexcept nogil:
    """high where value reaches it, even if high < low (B-84)."""
    if value >= high:
        return high
    return value if value > low else low

cdef inline bint may_grow(Zone *z, Pcp *p) noexcept nogil:
    return p.high_min != p.high_max and not load32(&z.s.flags) & BELOW_HIGH

cdef inline int refill_size(Zone *z, Pcp *p, int o, int *raised) noexcept nogil:
    """B-64: entries of order o to obtain; raises high and alloc_factor on the way. `raised`: by how much, or -1."""
    cdef int b
    cdef int most
    raised[0] = -1
    set_high(p, clamp(high_of(p), p.high_min, p.high_max))
    if high_of(p) < p.batch:
        return 1
    b = p.batch if o > 0 else p.batch << p.alloc_factor
    if may_grow(z, p):
        set_high(p, min(high_of(p) + b, p.high_max))
        raised[0] = b
    if o == 0:
        most = max(high_of(p) - p.count - p.batch, p.batch)
        if b <= most and p.alloc_factor < SCALE_MAX:
            p.alloc_factor += 1
        b = min(b, most)
    if b > 1:
        b = max(b >> o, 2)
    return b

@cython.cdivision(True)
cdef inline void grow_high(Zone *z, Pcp *p, int pages, int raised) noexcept nogil:
    """P-70 by pages: what the refill put into the PCP beyond what B-64 raised high for raises it too."""
    if z.s.policy.high_growth == GROWTH_PAGES and raised >= 0 and may_grow(z, p):
        set_high(p, min(high_of(p) + max(pages // p.batch * p.batch - raised, 0), p.high_max))

cdef inline int free_limit(Zone *z, Pcp *p, bint free_high) noexcept nogil:
    """B-83: the count at which frees start to drain. The raised high applies next time."""
    cdef int high = high_of(p)                 # clamped by the caller
    if high == 0:
        return 0
    if free_high:
        set_high(p, max(high - (p.batch << SCALE_MAX), p.high_min))
        return 0
    if load32(&z.s.flags) & RECLAIM_ACTIVE:
        set_high(p, max(high - max(p.free_count, p.batch), p.high_min))
        return min(4 * p.batch, high_of(p))
    if p.high_min == p.high_max:
        return high
    if load32(&z.s.flags) & BELOW_HIGH:
        set_high(p, max(high - max(p.free_count, p.batch), p.high_min))
        return max(p.count, p.high_min)
    if p.count >= high and high_of(p) < p.free_count + p.batch:
        set_high(p, clamp(p.free_count + p.batch, p.high_min, p.high_max))
    return high

cdef inline int free_amount(Pcp *p, int limit, bint free_high) noexcept nogil:
    """B-84: pages to drain once the limit is reached."""
    if free_high:
        return min(p.count, p.batch << SCALE_MAX)
    if limit < p.batch:
        return 1
    return clamp(p.free_count, p.batch, limit - p.batch)

cdef inline int over_limit(Zone *z, Pcp *p, bint free_high) noexcept nogil:
    """B-83, B-84: pages to drain now; high is clamped."""
    cdef int limit = free_limit(z, p, free_high)
    cdef int n
    if p.count < limit:
        return 0
    n = free_amount(p, limit, free_high)
    if n == 0:
        leave_below_high(z)
    return n

cdef inline uint32_t mark_for(Zone *z, Block *b, int c) noexcept nogil:
    """P-44: marked iff the block is c's, read under c's lock; or everything is."""
    if z.s.policy.mark == MARK_ALL:
        return MARK
    return MARK if load16(&b.owner) == c + 1 else 0

cdef inline void merge_up(Zone *z, int cpu, int c, idx i, int o, int T) noexcept nogil:
    """P-53: a marked entry and its marked buddy become one, as far as it goes; to the tail (P-51)."""
    cdef idx b
    cdef int Tb
    while o < PB and word_of(z, i) & MARK:
        bump(&z.counts[cpu].merge_visited, 1)
        b = i ^ (1u << o)
        if (word_of(z, i) ^ word_of(z, b)) & BUDDY_MASK:
            return
        Tb = word_type(word_of(z, b))
        pcp_del(z, c, i, o)
        pcp_del(z, c, b, o)
        i &= b
        o += 1
        if Tb != T:
            T = list_type(block_type(z, i))
        pcp_put(z, c, i, o, T, MARK, True)
        bump(&z.counts[cpu].pcp_merges, 1)
        emit(z, E_PMERGE, cpu, i, o, 0)

cdef inline void put_freed(Zone *z, int cpu, int c, idx i, int o, int T, uint32_t mark) noexcept nogil:
    """A freed page to the head of its list (B-81 step 1); merged at once where the policy says so."""
    pcp_put(z, c, i, o, T, mark, False)
    if z.s.policy.merge == MERGE_FREE:
        merge_up(z, cpu, c, i, o, T)

cdef inline int commit(
    Zone *z, Pcp *p, int cpu, int c, idx i, int o, int T, uint32_t mark, bint limit_later, const bint plain
) noexcept nogil:
    """
    B-81, P-45: a freed page into CPU c's PCP p. Returns the pages that the caller must drain.

    limit_later: B-92, and frees whose drain is left to the owner. plain: a literal; see driver.pxd.
    """
    cdef bint free_high = False
    cdef int high
    p.alloc_factor >>= 1
    if plain:
        pcp_put(z, c, i, o, T, mark, False)
    else:
        put_freed(z, cpu, c, i, o, T, mark)
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
    if limit_later:
        return 0
    high = clamp(high_of(p), p.high_min, p.high_max)
    set_high(p, high)
    if likely(p.count < high and not free_high and not load32(&z.s.flags) & (RECLAIM_ACTIVE | BELOW_HIGH)):
        return 0                           # below every limit of B-83
    return over_limit(z, p, free_high)

cdef inline void row_committed(Pcp *p, int n, int high) noexcept nogil:
    """What n commits of single pages leave behind, all below every limit."""
    p.alloc_factor >>= min(n, 7)
    p.flags &= ~PREV_FREE_HIGH_ORDER
    p.free_count = max(p.free_count, min(p.free_count + n, p.batch << SCALE_MAX))
    set_high(p, high)


# -- draining under one zone-lock hold --------------------------------------------------------------

cdef inline void free_entry(Zone *z, int cpu, int c, idx i, int o) noexcept nogil:
    """One entry into the zone."""
    pcp_del(z, c, i, o)
    drained(z, cpu, i, o)

cdef inline void drained(Zone *z, int cpu, idx i, int o) noexcept nogil:
    """Off its list already. Its block's type counts now, not when it was freed (pitfall 4)."""
    cdef int T = block_type(z, i)
    merge_free(z, cpu, i, o, T, False)
    emit(z, E_PCPU_DRAIN, cpu, i, o, T)
    bump(&z.counts[cpu].drained_entries, 1)
    bump(&z.counts[cpu].drained_pages, 1 << o)

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
