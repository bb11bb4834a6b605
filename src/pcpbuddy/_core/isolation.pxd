# Isolation of pageblocks (baseline section 14, rfc.md P-86). Zone lock.

from libc.stdint cimport uint8_t

from .atomic cimport store8
from .buddy cimport account, is_free_chunk, merge_free, move_block, remove, split_free
from .ownership cimport BY_ISOLATE, disown, retype
from .page cimport (
    ALLOC, CMA, HOLE, ISOLATE, MAX_ORDER, MOVABLE, MOVABLE_BIT, ORDER_SHIFT, PB, PB_PAGES, STRADDLES, TYPE_SHIFT,
    Block, Zone, block_number, block_of, block_type, idx, mergeable, set_word, word_of, word_order,
)


cdef inline bint has_unmovable(Zone *z, idx start, bint for_cma) noexcept nogil:
    """B-110: holes and allocations that cannot be migrated; C blocks unless the caller is a CMA allocation."""
    cdef idx p = start
    cdef int state
    if block_of(z, start).type == CMA and not for_cma:
        return True
    while p < start + PB_PAGES:
        state = word_of(z, p) & 7
        if state == HOLE:
            return True
        if state == ALLOC:
            if not word_of(z, p) & MOVABLE_BIT:
                return True
            p += 1u << word_order(word_of(z, p))
        else:
            p += 1
    return False

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

cdef inline bint isolate_block(Zone *z, int cpu, idx i, bint for_cma, bint check) noexcept nogil:
    """B-110. T7: an isolated block is nobody's."""
    cdef idx start = i & ~(<idx>PB_PAGES - 1)
    cdef Block *b = block_of(z, start)
    if b.eff == ISOLATE or b.flags & STRADDLES or check and has_unmovable(z, start, for_cma):
        return False
    disown(z, block_number(z, start), BY_ISOLATE)
    set_isolated(z, cpu, start, True)
    z.s.nr_isolate_pageblock += 1
    return True

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

cdef inline void take_free(Zone *z, int cpu, idx i, int o) noexcept nogil:
    """
    B-115: a free chunk leaves the buddy lists and is an allocation from then on.

    Large ones make the blocks that they cover movable. The watermark is the caller's to test.
    """
    cdef int T = block_type(z, i)
    cdef idx p = i & ~(<idx>PB_PAGES - 1)
    remove(z, cpu, i, o, T)
    account(z, cpu, -(1 << o), T)
    z.counts[cpu].pages_moved += 1 << o
    set_word(z, i, ALLOC | o << ORDER_SHIFT | MOVABLE << TYPE_SHIFT)
    while o >= PB - 1 and p < i + (1u << o):
        T = block_type(z, p)
        if mergeable(T) and not block_of(z, p).flags & STRADDLES:
            move_block(z, cpu, p, T, MOVABLE)
            if T != MOVABLE:
                retype(z, p, MOVABLE)
        p += PB_PAGES
