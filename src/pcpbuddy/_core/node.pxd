# Several zones of one node: which zone serves a request (baseline sections 8 and 9).

from libc.stdint cimport int64_t, uint64_t

from .alloc cimport not_served
from .calls cimport bulk, bulk_watermark_ok, drain_all
from .driver cimport alloc_by_policy, begin
from .fallback cimport worth_unreserving
from .op cimport Z_START, Z_UNRESERVE, Op
from .page cimport (
    BELOW_HIGH, KSWAPD, MIN_RESERVE, MOVABLE, NOFRAGMENT, NON_BLOCK, NO_WATERMARKS, USE_CMA, USE_HIGHATOMIC,
    WMARK_LOW, WMARK_MIN, Zone, idx,
)
from .watermark cimport watermark_fast

cdef enum:
    MAX_ZONES = 5
    ZONE_DMA = 0
    ZONE_DMA32 = 1
    ZONE_NORMAL = 2
    ZONE_MOVABLE = 3
    GFP_HIGH = 0x20
    GFP_DIRECT_RECLAIM = 0x400
    GFP_KSWAPD_RECLAIM = 0x800
    GFP_NOMEMALLOC = 0x80000

cdef struct NodeRef:
    Zone *zones[5]             # ascending
    int kinds[5]               # ZONE_* by name
    int nr

cdef inline int gfp_type(int gfp) noexcept nogil:
    """B-25."""
    return (gfp & 0x18) >> 3

cdef inline bint gfp_valid(int gfp) noexcept nogil:
    """B-25, B-26: at most one of DMA, DMA32 and HIGHMEM, and not both mobilities."""
    return (gfp & 7) in (0, 1, 2, 4) and gfp & 0x18 != 0x18

cdef inline int gfp_zone(int gfp) noexcept nogil:
    """B-26 on a 64-bit machine."""
    if gfp & 1:
        return ZONE_DMA
    if gfp & 4:
        return ZONE_DMA32
    if gfp & 0xa == 0xa:
        return ZONE_MOVABLE
    return ZONE_NORMAL

cdef inline int high_atomic(int o, int gfp) noexcept nogil:
    if o > 0 and gfp & GFP_HIGH and not gfp & (GFP_DIRECT_RECLAIM | GFP_NOMEMALLOC):
        return USE_HIGHATOMIC
    return 0

cdef inline int preferred(NodeRef *node, int highest) noexcept nogil:
    """The first zone of the zonelist: descending from the highest that the request allows. -1: none."""
    cdef int k = node.nr - 1
    while k >= 0 and node.kinds[k] > highest:
        k -= 1
    return k

cdef inline int fast_flags(NodeRef *node, int first, int o, int gfp) noexcept nogil:
    """B-28 on a system of one node."""
    cdef int flags = WMARK_LOW | high_atomic(o, gfp)
    if gfp_type(gfp) == MOVABLE:
        flags |= USE_CMA
    if gfp & GFP_KSWAPD_RECLAIM:
        flags |= KSWAPD
    if node.kinds[first] == ZONE_NORMAL:
        flags |= NOFRAGMENT
    return flags

cdef inline int slow_flags(int o, int gfp) noexcept nogil:
    """B-29."""
    cdef int flags = WMARK_MIN | high_atomic(o, gfp)
    if gfp & GFP_HIGH:
        flags |= MIN_RESERVE
    if gfp & GFP_KSWAPD_RECLAIM:
        flags |= KSWAPD
    if not gfp & (GFP_DIRECT_RECLAIM | GFP_NOMEMALLOC):
        flags |= NON_BLOCK
    if gfp_type(gfp) == MOVABLE:
        flags |= USE_CMA
    return flags

cdef inline idx walk(
    NodeRef *node, int first, int highest, int o, int T, int aflags, int cpu, int *where
) noexcept nogil:
    """B-75: from the preferred zone down; a zone found below its high watermark says so."""
    cdef int k = first
    cdef Zone *z
    cdef idx i
    while k >= 0:
        z = node.zones[k]
        if (not z.s.flags & BELOW_HIGH and watermark_fast(z, o, 2, highest, aflags)) or below_high(
            z, o, highest, aflags
        ):
            i = alloc_by_policy(z, cpu, o, T, aflags)
            if i:
                where[0] = k
                return i
        k -= 1
    return 0

cdef inline bint below_high(Zone *z, int o, int highest, int aflags) noexcept nogil:
    z.s.flags |= BELOW_HIGH
    return aflags & NO_WATERMARKS or watermark_fast(z, o, aflags & 3, highest, aflags)

cdef inline bint unreserve_all(NodeRef *node, int first, int T, int cpu, bint force) noexcept nogil:
    """B-71 over the zonelist: one block."""
    cdef Op op
    cdef int k = first
    while k >= 0:
        begin(&op, Z_START, False, cpu)
        op.section = Z_UNRESERVE
        op.type = <unsigned char>T
        if worth_unreserving(node.zones[k], force):
            node.zones[k].run(node.zones[k], &op)
            if op.result:
                return True
        k -= 1
    return False

cdef inline idx slow_path(NodeRef *node, int first, int highest, int o, int gfp, int cpu, int *where) noexcept nogil:
    """
    The part of the slow path that touches free lists (section 9).

    There is no reclaim here: where the kernel would reclaim, the drain and the unreserve that
    follow it still happen, once without and once with force.
    """
    cdef int T = gfp_type(gfp)
    cdef int aflags = slow_flags(o, gfp)
    cdef int k
    cdef idx i = walk(node, first, highest, o, T, aflags, cpu, where)
    if i or not gfp & GFP_DIRECT_RECLAIM:
        return i
    unreserve_all(node, first, T, cpu, False)
    for k in range(node.nr):
        drain_all(node.zones[k], cpu)
    i = walk(node, first, highest, o, T, aflags, cpu, where)
    if not i and unreserve_all(node, first, T, cpu, True):
        i = walk(node, first, highest, o, T, aflags, cpu, where)
    return i

cdef inline idx node_alloc(NodeRef *node, int o, int gfp, int cpu, int *where) noexcept nogil:
    """B-28, B-75, B-76, then the slow path."""
    cdef int highest = gfp_zone(gfp)
    cdef int first = preferred(node, highest)
    cdef int aflags
    cdef idx i
    if first < 0:
        return 0
    aflags = fast_flags(node, first, o, gfp)
    i = walk(node, first, highest, o, gfp_type(gfp), aflags, cpu, where)
    if not i and aflags & NOFRAGMENT:
        i = walk(node, first, highest, o, gfp_type(gfp), aflags & ~NOFRAGMENT, cpu, where)
    if not i:
        i = slow_path(node, first, highest, o, gfp, cpu, where)
    if not i:
        not_served(node.zones[first], cpu, o, gfp_type(gfp))
    return i

cdef inline int node_bulk(NodeRef *node, int n, int gfp, int cpu, idx *pages, int *where) noexcept nogil:
    """B-93: from the first zone that is n pages above its low watermark, else one ordinary page."""
    cdef int highest = gfp_zone(gfp)
    cdef int T = gfp_type(gfp)
    cdef int aflags = WMARK_LOW | USE_CMA if T == MOVABLE else WMARK_LOW
    cdef int k = preferred(node, highest)
    cdef int got
    while n > 1 and k >= 0:
        if bulk_watermark_ok(node.zones[k], n, highest, aflags):
            got = bulk(node.zones[k], cpu, n, T, aflags, pages)
            where[0] = k
            if got:
                return got
            break
        k -= 1
    pages[0] = node_alloc(node, 0, gfp, cpu, where)
    return pages[0] != 0

cdef inline int node_zone_of(NodeRef *node, int64_t pfn) noexcept nogil:
    cdef int k = node.nr - 1
    cdef Zone *z
    while k >= 0:                          # the highest first: it has most of the memory
        z = node.zones[k]
        if <uint64_t>(pfn - z.s.start_pfn) < <uint64_t>z.s.spanned:
            return k
        k -= 1
    return -1
