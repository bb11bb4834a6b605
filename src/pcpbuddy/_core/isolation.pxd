# Isolation of pageblocks, and what contiguous allocation does to isolated ones (baseline section 14, rfc.md P-86,
# contiguous.md). Zone lock.

from libc.stdint cimport uint32_t, uint8_t

from .atomic cimport bump, store8
from .buddy cimport account, is_free_chunk, merge_free, move_block, remove, split_free
from .ownership cimport BY_ISOLATE, disown, retype
from .page cimport (
    ALLOC, BUDDY, CMA, DEFERRED, HIGHATOMIC, HOLE, ISOLATE, MARK, MAX_ORDER, MOVABLE, MOVABLE_BIT, ORDER_SHIFT, PB,
    PB_PAGES, PCP, REMOTE, STATE_MASK, STRADDLES, TYPE_SHIFT, Block, Zone, block_number, block_of, block_type, idx,
    index_of, mergeable, set_block_type, set_word, word_of, word_order,
)

cdef enum:  # what came of a contiguous range (CT-8): positions in contig.CONTIG_REASONS
    OBTAINED = 0
    BUSY_ISOLATED = 1
    BUSY_EDGE = 2
    BUSY_CMA = 3
    BUSY_UNMOVABLE = 4
    BUSY_HOLE = 5
    BUSY_PCP = 6
    BUSY_OWNED = 7
    BUSY_REMOTE = 8
    BUSY_DEFERRED = 9
    BUSY_PINNED = 10
    NO_TARGET = 11
    NO_RUN = 12


# -- isolation ---------------------------------------------------------------------------------------------

cdef inline int unmovable_page(Zone *z, idx *page) noexcept nogil:
    """B-110: the first page of the block that cannot be migrated: a hole, or in an allocation."""
    cdef idx end = page[0] + PB_PAGES
    cdef uint32_t word = word_of(z, page[0] & ~((<idx>1 << MAX_ORDER) - 1))
    if (word & STATE_MASK) == ALLOC and word_order(word) == MAX_ORDER:     # the block is half of it, or all of it
        return 0 if word & MOVABLE_BIT else BUSY_UNMOVABLE
    while page[0] < end:
        word = word_of(z, page[0])
        if (word & STATE_MASK) == HOLE:
            return BUSY_HOLE
        if (word & STATE_MASK) == ALLOC:
            if not word & MOVABLE_BIT:
                return BUSY_UNMOVABLE
            page[0] += 1u << word_order(word)
        else:
            page[0] += 1
    return 0

cdef inline int obstacle(Zone *z, bint for_cma, bint check, idx *page) noexcept nogil:
    """CT-2: why the block that begins at page must not be isolated, and at which page; 0: it may be."""
    cdef Block *b = block_of(z, page[0])
    if b.eff == ISOLATE:
        return BUSY_ISOLATED
    if b.flags & STRADDLES:
        page[0] = max(page[0], index_of(z, z.s.start_pfn))
        return BUSY_EDGE
    if not check or b.type == CMA and for_cma:
        return 0
    return BUSY_CMA if b.type == CMA else unmovable_page(z, page)

cdef inline void set_isolated(Zone *z, int cpu, idx start, bint isolate) noexcept nogil:
    """The free chunks of a block from or to the isolate lists; a chunk that is larger than the block is cut (B-110)."""
    cdef Block *b = block_of(z, start)
    cdef idx big = start & ~((<idx>1 << MAX_ORDER) - 1)
    cdef int before = b.eff
    cdef int after = ISOLATE if isolate else b.type
    if is_free_chunk(z, big, MAX_ORDER):
        remove(z, cpu, big, MAX_ORDER, before)
        account(z, cpu, -(1 << MAX_ORDER), before)
        store8(&b.eff, <uint8_t>after)
        split_free(z, cpu, big, MAX_ORDER, False)
    else:
        move_block(z, cpu, start, before, after)
        store8(&b.eff, <uint8_t>after)

cdef inline int isolate_block(Zone *z, int cpu, idx *page, bint for_cma, bint check) noexcept nogil:
    """B-110 of page's block. T7: an isolated block is nobody's. Returns 0, or what stood in the way, and where."""
    cdef idx start = page[0] & ~(<idx>PB_PAGES - 1)
    cdef int reason
    page[0] = start
    reason = obstacle(z, for_cma, check, page)
    if not reason:
        disown(z, block_number(z, start), BY_ISOLATE)
        set_isolated(z, cpu, start, True)
        z.s.nr_isolate_pageblock += 1
    return reason

cdef inline bint unisolate_block(Zone *z, int cpu, idx i) noexcept nogil:
    """B-111: a whole free block may merge with its buddy; else its chunks go back, unmerged."""
    cdef idx start = i & ~(<idx>PB_PAGES - 1)
    cdef Block *b = block_of(z, start)
    if b.eff != ISOLATE:
        return False
    if is_free_chunk(z, start, PB) and is_free_chunk(z, start ^ PB_PAGES, PB) and (
        block_of(z, start ^ PB_PAGES).eff != ISOLATE
    ):
        remove(z, cpu, start, PB, ISOLATE)
        store8(&b.eff, b.type)
        merge_free(z, cpu, start, PB, b.type, True)
    else:
        set_isolated(z, cpu, start, False)
    z.s.nr_isolate_pageblock -= 1
    return True

cdef inline void forget_block(Zone *z, idx start) noexcept nogil:
    """CT-11: a block without memory is movable, and reserved for nobody."""
    cdef Block *b = block_of(z, start)
    if b.type == HIGHATOMIC:
        z.s.nr_reserved_highatomic -= PB_PAGES
    set_block_type(b, MOVABLE)


# -- isolated blocks ------------------------------------------------------------------------------------------

cdef inline idx head_of(Zone *z, idx p, int *order) noexcept nogil:
    """The head of what page p lies in (chunk, entry, allocation, hole), and its order; 0: of none that is aligned."""
    cdef int o
    cdef idx i
    for o in range(MAX_ORDER + 1):
        i = p & ~((<idx>1 << o) - 1)
        order[0] = word_order(word_of(z, i))
        if word_of(z, i) & STATE_MASK and order[0] >= o:
            return i
        order[0] = block_of(z, i).order
        if o >= PB and order[0] >= o:
            return i
    return 0

cdef inline int free_order(Zone *z, idx i) noexcept nogil:
    """The order of the chunk on the zone's lists that begins at page i; -1: none does."""
    if (word_of(z, i) & STATE_MASK) == BUDDY:
        return word_order(word_of(z, i))
    return block_of(z, i).order if not i & (PB_PAGES - 1) and block_of(z, i).order else -1

cdef inline int what_holds(Zone *z, idx p) noexcept nogil:
    """CT-8: where page p is that is not free in the zone."""
    cdef int o
    cdef idx i = head_of(z, p, &o)
    cdef uint32_t word = word_of(z, i) if i else 0
    cdef int state = word & STATE_MASK
    if state == PCP:
        return BUSY_OWNED if word & MARK else BUSY_PCP
    if state == REMOTE:
        return BUSY_REMOTE
    if state == DEFERRED:
        return BUSY_DEFERRED
    return BUSY_HOLE if state == HOLE else BUSY_PINNED

cdef inline int test_isolated(Zone *z, idx *page, int n) noexcept nogil:
    """CT-5: n pages from page on are free. Returns 0; else what holds the first that is not, and that page."""
    cdef int o
    cdef idx end = page[0] + <idx>n
    cdef idx i
    while page[0] < end:
        i = head_of(z, page[0], &o)
        if not i or free_order(z, i) < 0:
            return what_holds(z, page[0])
        page[0] = i + (1u << o)
    return 0

cdef inline void take_free(Zone *z, int cpu, idx i, int o) noexcept nogil:
    """
    B-115: a free chunk leaves the buddy lists and is an allocation from then on.

    Large ones make the blocks that they cover movable. The watermark is the caller's to test.
    """
    cdef int T = block_type(z, i)
    cdef idx p = i & ~(<idx>PB_PAGES - 1)
    remove(z, cpu, i, o, T)
    account(z, cpu, -(1 << o), T)
    bump(&z.counts[cpu].pages_moved, 1 << o)
    set_word(z, i, ALLOC | o << ORDER_SHIFT | MOVABLE << TYPE_SHIFT)
    while o >= PB - 1 and p < i + (1u << o):
        T = block_type(z, p)
        if mergeable(T) and not block_of(z, p).flags & STRADDLES:
            move_block(z, cpu, p, T, MOVABLE)
            if T != MOVABLE:
                retype(z, p, MOVABLE)
        p += PB_PAGES

cdef inline int capture(Zone *z, int cpu, idx *page, int n) noexcept nogil:
    """
    CT-6: of n pages, all free, from page on: the chunk that the first is in, and those that begin in its block.

    Answered with the head of the first, which may have changed since the test: what is freed beside the range, in its
    isolated blocks, merges with it. Returns how many pages there are from that head on.
    """
    cdef idx end = min(page[0] + <idx>n, (page[0] | (PB_PAGES - 1)) + 1)
    cdef int o
    cdef idx i = head_of(z, page[0], &o)
    page[0] = i
    while i < end:
        o = free_order(z, i)
        take_free(z, cpu, i, o)
        i += 1u << o
    return <int>(i - page[0])
