# The zone buddy (baseline sections 2 to 4). Everything here runs under the zone lock.

from libc.stdint cimport int64_t, int8_t, uint32_t, uint8_t

from .atomic cimport add64, bump, bumpi64, load32, load64, store32, store8
from .events cimport emit_zone_locked
from .ownership cimport disown_chunk, link_fragment
from .page cimport (
    BUDDY, CMA, HEAD_MASK, HIGHATOMIC, ISOLATE, MAX_ORDER, NR_FREE, NR_FREE_BLOCKS, NR_FREE_CMA, ORDER_SHIFT, PB,
    PB_PAGES, Block, Zone, block_head, block_number, block_of, block_page, block_type, idx, list_add, list_del,
    mergeable, set_block_type, set_word, touch_block, word_of,
    zone_head,
)


# -- accounting ----------------------------------------------------------------------------------

cdef inline void stat_add(Zone *z, int cpu, int item, int d) noexcept nogil:
    """B-15: a signed delta per CPU, moved whole into the global value when it crosses the threshold."""
    cdef int8_t *diff = &z.pcp[cpu].diff[item]
    cdef int x = diff[0] + d
    cdef int t = z.s.stat_threshold
    if x > t or -x > t:
        add64(&z.s.stat[item], x)
        x = 0
    store8(<uint8_t *>diff, <uint8_t>x)

cdef inline int64_t visible(Zone *z, int item) noexcept nogil:
    """The global part of a counter, clamped at 0 (1.10)."""
    cdef int64_t value = load64(&z.s.stat[item])
    return value if value > 0 else 0

cdef inline void account(Zone *z, int cpu, int n, int T) noexcept nogil:
    """B-18."""
    if T == ISOLATE:
        return
    stat_add(z, cpu, NR_FREE, n)
    if T == CMA:
        stat_add(z, cpu, NR_FREE_CMA, n)
    elif T == HIGHATOMIC:
        z.s.nr_free_highatomic += n


# -- list primitives -----------------------------------------------------------------------------

cdef inline bint is_free_chunk(Zone *z, idx i, int o) noexcept nogil:
    """Is i the head of a chunk of exactly order o on a zone list?"""
    if o < PB:
        return (word_of(z, i) & HEAD_MASK) == (BUDDY | o << ORDER_SHIFT)
    touch_block(z, block_number(z, i))
    return block_of(z, i).order == o

cdef inline void zone_link(Zone *z, idx i, int o, int T, bint tail) noexcept nogil:
    cdef uint32_t head
    cdef uint32_t prev
    cdef uint32_t n
    if o < PB:
        head = zone_head(o, T)
        list_add(z, i, z.page[head].prev if tail else head)
        set_word(z, i, BUDDY | o << ORDER_SHIFT)
    else:
        head = block_head(o, T)
        prev = z.block[head].prev if tail else head
        n = block_number(z, i)
        touch_block(z, n)
        touch_block(z, prev)
        touch_block(z, z.block[prev].next)
        z.block[n].next = z.block[prev].next
        z.block[n].prev = prev
        z.block[z.block[prev].next].prev = n
        store32(&z.block[prev].next, n)
        store8(&z.block[n].order, <uint8_t>o)

cdef inline void zone_unlink(Zone *z, idx i, int o) noexcept nogil:
    cdef Block *b
    if o < PB:
        list_del(z, i)
        set_word(z, i, 0)
    else:
        b = block_of(z, i)
        touch_block(z, block_number(z, i))
        touch_block(z, b.prev)
        touch_block(z, b.next)
        store32(&z.block[b.prev].next, b.next)
        z.block[b.next].prev = b.prev
        b.next = 0
        b.prev = 0
        store8(&b.order, 0)

cdef inline void insert(Zone *z, int cpu, idx i, int o, int T, bint tail) noexcept nogil:
    """B-30. Does not touch NR_FREE_PAGES: callers account."""
    zone_link(z, i, o, T, tail)
    bumpi64(&z.s.nr_free[o], 1)
    z.s.zone_pages += 1 << o
    bump(&z.counts[cpu].list_ops, 1)
    if o >= PB and T != ISOLATE:
        stat_add(z, cpu, NR_FREE_BLOCKS, 1 << o)

cdef inline void remove(Zone *z, int cpu, idx i, int o, int T) noexcept nogil:
    """B-31."""
    zone_unlink(z, i, o)
    bumpi64(&z.s.nr_free[o], -1)
    z.s.zone_pages -= 1 << o
    bump(&z.counts[cpu].list_ops, 1)
    if o >= PB and T != ISOLATE:
        stat_add(z, cpu, NR_FREE_BLOCKS, -(1 << o))

cdef inline void move(Zone *z, int cpu, idx i, int o, int T1, int T2) noexcept nogil:
    """B-32: to the tail of the other type's list."""
    zone_unlink(z, i, o)
    zone_link(z, i, o, T2, True)
    bump(&z.counts[cpu].moves, 1)
    account(z, cpu, -(1 << o), T1)
    account(z, cpu, 1 << o, T2)
    if o >= PB and (T1 == ISOLATE) != (T2 == ISOLATE):
        stat_add(z, cpu, NR_FREE_BLOCKS, (1 << o) if T1 == ISOLATE else -(1 << o))

cdef inline idx first(Zone *z, int o, int T) noexcept nogil:
    """B-33: the head of F[o][T], or 0. Watermarks ask without the zone lock whether there is any."""
    cdef uint32_t head
    cdef uint32_t n
    if o < PB:
        head = zone_head(o, T)
        n = load32(&z.page[head].next)
        return n if n != head else 0
    head = block_head(o, T)
    n = load32(&z.block[head].next)
    return block_page(z, n) if n != head else 0

cdef inline void rotate(Zone *z, idx i, int o, int T) noexcept nogil:
    """B-117: chunk i becomes the head of its list; what was before it goes to the tail, in its order."""
    cdef uint32_t head
    cdef uint32_t n
    if o < PB:
        head = zone_head(o, T)
        list_del(z, head)
        list_add(z, head, z.page[i].prev)
        return
    head = block_head(o, T)
    n = block_number(z, i)
    z.block[z.block[head].prev].next = z.block[head].next
    z.block[z.block[head].next].prev = z.block[head].prev
    z.block[head].prev = z.block[n].prev
    z.block[head].next = n
    z.block[z.block[n].prev].next = head
    z.block[n].prev = head

cdef inline int expand(Zone *z, int cpu, idx i, int low, int high, int T) noexcept nogil:
    """B-34: the upper halves to the heads of the lower orders. Returns the pages put back."""
    cdef int added = (1 << high) - (1 << low)
    while high > low:
        high -= 1
        insert(z, cpu, i + (1u << high), high, T, False)
        bump(&z.counts[cpu].zone_splits, 1)
    return added

cdef inline void take(Zone *z, int cpu, idx i, int have, int want, int T) noexcept nogil:
    """B-35: one accounting call for the pages that leave."""
    remove(z, cpu, i, have, T)
    expand(z, cpu, i, want, have, T)
    account(z, cpu, -(1 << want), T)
    bump(&z.counts[cpu].pages_moved, 1 << want)

cdef inline idx smallest(Zone *z, int cpu, int o, int T) noexcept nogil:
    """B-41: the first chunk of the smallest sufficient order of that type."""
    cdef int k
    cdef idx i
    for k in range(o, MAX_ORDER + 1):
        i = first(z, k, T)
        if i:
            take(z, cpu, i, k, o, T)
            emit_zone_locked(z, cpu, i, o, T)
            return i
    return 0


# -- freeing -------------------------------------------------------------------------------------

cdef inline bint merge_likely(Zone *z, idx i, int o) noexcept nogil:
    """B-37: would the union with my busy buddy find its own buddy free?"""
    if o >= PB:
        return False
    return is_free_chunk(z, (i & ~((1u << o))) ^ (2u << o), o + 1)

cdef inline void merge_free(Zone *z, int cpu, idx i, int o, int T, bint to_tail) noexcept nogil:
    """B-36, and rfc.md P-62 for every chunk that it places. The page is on no list, its word is clear."""
    cdef idx b
    cdef int Tb
    cdef int k
    account(z, cpu, 1 << o, T)
    bump(&z.counts[cpu].pages_moved, 1 << o)
    while o < MAX_ORDER:
        b = i ^ (1u << o)
        if not is_free_chunk(z, b, o):
            break
        Tb = T
        if o >= PB:
            Tb = block_type(z, b)
            if Tb != T and not (mergeable(T) and mergeable(Tb)):
                break
        remove(z, cpu, b, o, Tb)
        if Tb != T:
            for k in range(1 << (o - PB)):
                set_block_type(block_of(z, b + k * PB_PAGES), T)
        i &= b
        o += 1
        bump(&z.counts[cpu].zone_merges, 1)
    if o >= PB:
        disown_chunk(z, i, o)              # T5: before the chunk is anyone's to take
        insert(z, cpu, i, o, T, to_tail)
    else:
        insert(z, cpu, i, o, T, to_tail or merge_likely(z, i, o))
        link_fragment(z, i)                # T2

cdef inline void split_free(Zone *z, int cpu, idx i, int o, bint to_tail) noexcept nogil:
    """B-38: more than a pageblock is freed in pageblocks, each with its own type."""
    cdef idx end = i + (1u << o)
    if o > PB:
        o = PB
    while i < end:
        merge_free(z, cpu, i, o, block_type(z, i), to_tail)
        i += 1u << o

cdef inline int move_block(Zone *z, int cpu, idx i, int T1, int T2) noexcept nogil:
    """Every free chunk of the block of i from T1 to T2, ascending. The caller sets the type. Returns pages moved."""
    cdef idx end
    cdef int o
    cdef int moved = 0
    i &= ~(<idx>PB_PAGES - 1)
    end = i + PB_PAGES
    o = block_of(z, i).order
    if o:                                  # the block is one free chunk
        move(z, cpu, i, o, T1, T2)
        return 1 << o
    while i < end:
        if (word_of(z, i) & 7) == BUDDY:
            o = (word_of(z, i) >> ORDER_SHIFT) & 15
            move(z, cpu, i, o, T1, T2)
            moved += 1 << o
            i += 1u << o
        else:
            i += 1
    return moved
