# Where the zone finds a page: CMA preference, own type, claims, steals; the high-atomic
# reserve (baseline sections 4, 5 and 7). Everything here runs under the zone lock.

from libc.stdint cimport int64_t, uint32_t

from .atomic cimport bump, set_bits, unlikely
from .buddy cimport (
    account, expand, first, is_free_chunk, move_block, remove, rotate, smallest, take, visible,
)
from .events cimport emit_extfrag
from .init cimport fold
from .ownership cimport retype
from .page cimport (
    ALLOC, BOOSTED_WATERMARK, BUDDY, HIGHATOMIC, KSWAPD, MAX_ORDER, MOVABLE, MOVABLE_BIT, NOFRAGMENT, NON_BLOCK,
    NR_FREE, NR_FREE_CMA, OOM, PB, PB_PAGES, RECLAIMABLE, STRADDLES, Told, UNMOVABLE, USE_CMA, USE_HIGHATOMIC, CMA as
    CMA_TYPE, Zone, block_of, block_type, idx, index_of, mergeable, set_block_type, word_of, word_order,
)

cdef enum:  # the mode of B-40: where a bulk take last had to look
    M_NORMAL = 0
    M_CMA = 1
    M_CLAIM = 2
    M_STEAL = 3


cdef inline int fallback_type(int T, int k) noexcept nogil:
    """Table 1.2: U tries R, M; M tries R, U; R tries U, M."""
    if T == RECLAIMABLE:
        return UNMOVABLE if k == 0 else MOVABLE
    if k == 0:
        return RECLAIMABLE
    return MOVABLE if T == UNMOVABLE else UNMOVABLE

cdef inline int fallback_at(Zone *z, int o, int T) noexcept nogil:
    """The first fallback type of T with a chunk of order o, or -1."""
    cdef int k
    if z.s.nr_free[o]:
        for k in range(2):
            if first(z, o, fallback_type(T, k)):
                return fallback_type(T, k)
    return -1

cdef inline void boost_watermark(Zone *z, int aflags) noexcept nogil:
    """B-45: on every attempt, successful or not."""
    cdef int64_t limit = z.s.watermark[2] * z.s.boost_factor // 10000
    if z.s.boost_factor == 0 or z.s.managed < 4 * PB_PAGES or limit == 0:
        return
    z.s.watermark_boost = min(z.s.watermark_boost + PB_PAGES, max(<int64_t>PB_PAGES, limit))
    if aflags & KSWAPD:
        set_bits(&z.s.flags, BOOSTED_WATERMARK)

cdef inline bint convertible(Zone *z, idx i, int T, int Tf) noexcept nogil:
    """B-46: is half of the block free, or of a kind that suits the new type?"""
    cdef idx start = i & ~(<idx>PB_PAGES - 1)
    cdef idx p = start
    cdef uint32_t word
    cdef int free = 0
    cdef int movable = 0
    while p < start + PB_PAGES:
        word = word_of(z, p)
        if (word & 7) == BUDDY:
            free += 1 << word_order(word)
            p += 1u << word_order(word)
        elif (word & 7) == ALLOC:
            if word & MOVABLE_BIT:
                movable += 1 << word_order(word)
            p += 1u << word_order(word)
        else:
            p += 1
    if T != MOVABLE:
        movable = PB_PAGES - free - movable if Tf == MOVABLE else 0
    return free + movable >= PB_PAGES // 2

cdef inline bint claimed(Zone *z, idx i, int have, int T, int Tf) noexcept nogil:
    """B-46, or what the recording says became of it (R9: LRU bits are in no row)."""
    cdef bint ours = convertible(z, i, T, Tf)
    cdef bint theirs
    if unlikely(z.told is not NULL and z.told.nr_takes <= z.told.nr_outcomes):
        theirs = z.told.claimed[z.told.nr_takes - 1] == have
        z.told.claims_differ += ours != theirs
        return theirs if z.told.follow else ours
    return ours

cdef inline idx try_claim(Zone *z, int cpu, idx i, int have, int o, int T, int Tf, int aflags) noexcept nogil:
    """B-45 to B-47."""
    cdef int k
    if have >= PB:                         # a whole free block, hence unowned (I-12)
        remove(z, cpu, i, have, Tf)
        account(z, cpu, -(1 << have), Tf)
        for k in range(1 << (have - PB)):
            set_block_type(block_of(z, i + k * PB_PAGES), T)
        account(z, cpu, expand(z, cpu, i, o, have, T), T)
        bump(&z.counts[cpu].pages_moved, 1 << o)
        return i
    boost_watermark(z, aflags)
    if block_of(z, i).flags & STRADDLES or not claimed(z, i, have, T, Tf):
        return 0
    move_block(z, cpu, i, Tf, T)
    retype(z, i, T)
    return smallest(z, cpu, o, T)          # may be another chunk than the candidate

cdef inline idx claim(Zone *z, int cpu, int o, int T, int aflags) noexcept nogil:
    """B-43: convert the block of the largest foreign chunk."""
    cdef int lowest = PB if aflags & NOFRAGMENT and o < PB else o
    cdef int k = MAX_ORDER
    cdef int Tf
    cdef idx i
    while k >= lowest:
        if k < PB // 2 and T == MOVABLE:   # B-44
            break
        Tf = fallback_at(z, k, T)
        if Tf >= 0:
            i = try_claim(z, cpu, first(z, k, Tf), k, o, T, Tf, aflags)
            if i:
                emit_extfrag(z, cpu, i, o, k, T, Tf, block_type(z, i) == T)
                return i
        k -= 1
    return 0

cdef inline idx steal(Zone *z, int cpu, int o, int T) noexcept nogil:
    """B-48: the smallest foreign chunk; its block keeps its type."""
    cdef int k
    cdef int Tf
    cdef idx i
    for k in range(o, MAX_ORDER + 1):
        Tf = fallback_at(z, k, T)
        if Tf >= 0:
            i = first(z, k, Tf)
            take(z, cpu, i, k, o, Tf)
            emit_extfrag(z, cpu, i, o, k, T, Tf, block_type(z, i) == T)
            return i
    return 0

cdef inline bint cma_first(Zone *z) noexcept nogil:
    """The 50 % rule: more than half of the visible free memory is CMA (B-40 step 1)."""
    return visible(z, NR_FREE_CMA) > visible(z, NR_FREE) // 2

cdef inline void look_for_rotation(Zone *z, int o, int T) noexcept nogil:
    """In a replay: is the page that the recording took next the head of a chunk that is not first in its list (R6)?"""
    cdef Told *told = z.told
    cdef idx i
    cdef idx first_there
    cdef int k
    if told.nr_takes >= told.nr_outcomes or told.claimed[told.nr_takes] >= 0:
        return
    if not z.s.start_pfn <= told.pfn[told.nr_takes] < z.s.start_pfn + z.s.spanned:
        return
    if told.from_cma[told.nr_takes]:
        T = CMA_TYPE
    for k in range(o, MAX_ORDER + 1):
        first_there = first(z, k, T)
        if first_there:
            i = index_of(z, told.pfn[told.nr_takes])
            if i != first_there and is_free_chunk(z, i, k) and block_type(z, i) == T:
                told.rotated += 1
                if told.follow:
                    rotate(z, i, k, T)
            return

cdef inline void begin_take(Zone *z, int o, int T) noexcept nogil:
    """In a replay: what others did without the zone lock between two takes of this section, or in no row at all."""
    cdef Told *told = z.told
    while told.folded < told.nr_folds and told.fold_take[told.folded] <= told.nr_takes:
        fold(z, told.fold_cpu[told.folded], True)
        told.folded += 1
    if told.rotates:
        look_for_rotation(z, o, T)
    told.nr_takes += 1

cdef inline bint has_chunk(Zone *z, int o, int T) noexcept nogil:
    cdef int k
    for k in range(o, MAX_ORDER + 1):
        if first(z, k, T):
            return True
    return False

cdef inline bint prefers_cma(Zone *z, int o, int T) noexcept nogil:
    """The 50 % rule, or what the recording says became of it (R10: counters drift)."""
    cdef bint ours = cma_first(z)
    cdef bint theirs
    if unlikely(z.told is not NULL and z.told.nr_takes <= z.told.nr_outcomes):
        theirs = z.told.from_cma[z.told.nr_takes - 1]
        if ours != theirs and has_chunk(z, o, T if theirs else CMA_TYPE):
            z.told.cma_differs += 1        # and another page comes of it
            return theirs if z.told.follow else ours
    return ours

cdef inline idx own_take(Zone *z, int cpu, int o, int T, int aflags, int *mode) noexcept nogil:
    """Steps 1 to 3 of B-40: CMA where it is preferred, the own type, CMA as a fallback. No other type is touched."""
    cdef idx i
    if unlikely(z.told is not NULL):
        begin_take(z, o, T)
    if aflags & USE_CMA and prefers_cma(z, o, T):
        i = smallest(z, cpu, o, CMA_TYPE)
        if i:
            return i
    if mode[0] <= M_NORMAL:
        i = smallest(z, cpu, o, T)
        if i:
            return i
    if mode[0] <= M_CMA and aflags & USE_CMA:
        i = smallest(z, cpu, o, CMA_TYPE)
        if i:
            mode[0] = M_CMA
            return i
    return 0

cdef inline idx zone_take(Zone *z, int cpu, int o, int T, int aflags, int *mode) noexcept nogil:
    """B-40. The mode is the caller's, kept over the takes of one bulk operation."""
    cdef idx i = own_take(z, cpu, o, T, aflags, mode)
    if i:
        return i
    if mode[0] <= M_CLAIM:
        i = claim(z, cpu, o, T, aflags)
        if i:
            mode[0] = M_NORMAL
            return i
    if not aflags & NOFRAGMENT:
        i = steal(z, cpu, o, T)
        if i:
            mode[0] = M_STEAL
            return i
    return 0

cdef inline idx zone_alloc(Zone *z, int cpu, int o, int T, int aflags) noexcept nogil:
    """B-66."""
    cdef idx i = 0
    cdef int mode = M_NORMAL
    if aflags & USE_HIGHATOMIC:
        i = smallest(z, cpu, o, HIGHATOMIC)
    if not i:
        i = zone_take(z, cpu, o, T, aflags, &mode)
    if not i and aflags & (OOM | NON_BLOCK):
        i = smallest(z, cpu, o, HIGHATOMIC)
    return i

cdef inline int64_t reserve_limit(Zone *z) noexcept nogil:
    """B-70: 1 % of the zone in whole blocks; 0 where that is less than a block."""
    cdef int64_t percent = z.s.managed // 100
    if percent < PB_PAGES:
        return 0
    return (percent + PB_PAGES - 1) // PB_PAGES * PB_PAGES

cdef inline bint reserve_has_room(Zone *z) noexcept nogil:
    """B-70: looked at before the lock, and again under it."""
    return z.s.nr_reserved_highatomic < reserve_limit(z)

cdef inline void reserve(Zone *z, int cpu, idx i, int o) noexcept nogil:
    """B-70: the block of a page that a high-atomic request got becomes high-atomic."""
    cdef int T = block_type(z, i)
    cdef int k
    if not reserve_has_room(z) or not mergeable(T):
        return
    if o < PB:
        if block_of(z, i).flags & STRADDLES:
            return
        move_block(z, cpu, i, T, HIGHATOMIC)
        retype(z, i, HIGHATOMIC)
        z.s.nr_reserved_highatomic += PB_PAGES
        return
    for k in range(1 << (o - PB)):
        retype(z, i + k * PB_PAGES, HIGHATOMIC)
    z.s.nr_reserved_highatomic += 1 << o

cdef inline bint worth_unreserving(Zone *z, bint force) noexcept nogil:
    """B-71, before the lock."""
    return force or z.s.nr_reserved_highatomic > PB_PAGES

cdef inline bint unreserve(Zone *z, int cpu, int T) noexcept nogil:
    """B-71 for one zone whose reserve is worth it: one block per call."""
    cdef int o
    cdef int k
    cdef idx i
    cdef int moved
    for o in range(MAX_ORDER + 1):
        i = first(z, o, HIGHATOMIC)
        if not i:
            continue
        z.s.nr_reserved_highatomic -= min(max(<int64_t>PB_PAGES, <int64_t>1 << o), z.s.nr_reserved_highatomic)
        moved = move_block(z, cpu, i, HIGHATOMIC, T)
        if o < PB:
            retype(z, i, T)
        else:
            for k in range(1 << (o - PB)):
                set_block_type(block_of(z, i + k * PB_PAGES), T)
        if moved > 0:
            return True
    return False
