# The zones that a request may use, which of them it tries, and with which flags (baseline sections 8 and 9).
# What is done with this, call by call: request.pxd.

from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t

from .atomic cimport load32, set_bits
from .page cimport (
    BELOW_HIGH, KSWAPD, MIN_RESERVE, MOVABLE, NOFRAGMENT, NON_BLOCK, NO_WATERMARKS, USE_CMA, USE_HIGHATOMIC,
    WMARK_LOW, WMARK_MIN, Zone,
)
from .watermark cimport watermark_fast

cdef enum:
    MAX_NODES = 8
    MAX_ZONES = 40             # five kinds in each node
    ZONE_DMA = 0
    ZONE_DMA32 = 1
    ZONE_NORMAL = 2
    ZONE_MOVABLE = 3
    GFP_HIGH = 0x20
    GFP_DIRECT_RECLAIM = 0x400
    GFP_KSWAPD_RECLAIM = 0x800
    GFP_NOMEMALLOC = 0x80000

cdef struct NodeRef:           # all zones as one NUMA node sees them, the last choice first: far nodes, then the own
    Zone *zones[40]            # of each node ascending; a walk goes downwards
    int nr
    uint8_t kinds[40]          # ZONE_* by name
    uint8_t node[40]           # which NUMA node each is of
    uint32_t *drain_mutex      # shared by all nodes; NULL: there is one thread (B-100)

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

cdef inline int next_zone(NodeRef *node, int k, int highest, bint near) noexcept nogil:
    """The zone after zone k in the zonelist of a request; near: of the same NUMA node. Negative: none."""
    cdef int next = k - 1
    while next >= 0 and node.kinds[next] > highest:
        next -= 1
    if near and next >= 0 and node.node[next] != node.node[k]:
        return -1
    return next

cdef inline int preferred(NodeRef *node, int highest) noexcept nogil:
    """The first zone of the zonelist: descending from the highest that the request allows. -1: none."""
    return next_zone(node, node.nr, highest, False)

cdef inline bint avoids_fragments(NodeRef *node, int first) noexcept nogil:
    """B-28: is NOFRAGMENT for requests that prefer this zone? On several nodes, where their own has a DMA32 zone."""
    if node.kinds[first] != ZONE_NORMAL:
        return False
    if node.node[0] == node.node[node.nr - 1]:
        return True
    return first > 0 and node.kinds[first - 1] == ZONE_DMA32 and node.node[first - 1] == node.node[first]

cdef inline int fast_flags(NodeRef *node, int first, int o, int gfp) noexcept nogil:
    """B-28."""
    cdef int flags = WMARK_LOW | high_atomic(o, gfp)
    if gfp_type(gfp) == MOVABLE:
        flags |= USE_CMA
    if gfp & GFP_KSWAPD_RECLAIM:
        flags |= KSWAPD
    if avoids_fragments(node, first):
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

cdef inline bint below_high(Zone *z, int o, int highest, int aflags) noexcept nogil:
    set_bits(&z.s.flags, BELOW_HIGH)
    return aflags & NO_WATERMARKS or watermark_fast(z, o, aflags & 3, highest, aflags)

cdef inline int passing(NodeRef *node, int k, int highest, int o, int aflags) noexcept nogil:
    """
    B-75: from zone k on the first that may be tried; one found below its high watermark says so. -1: none.

    NOFRAGMENT ends where another NUMA node begins. Either way out of a walk with it is the same: drop it, and
    walk again (B-76).
    """
    cdef Zone *z
    while k >= 0:
        z = node.zones[k]
        if (not load32(&z.s.flags) & BELOW_HIGH and watermark_fast(z, o, 2, highest, aflags)) or below_high(
            z, o, highest, aflags
        ):
            return k
        k = next_zone(node, k, highest, aflags & NOFRAGMENT)
    return -1

cdef inline int node_zone_of(NodeRef *node, int64_t pfn) noexcept nogil:
    cdef int k = node.nr - 1
    cdef Zone *z
    while k >= 0:                          # the highest first: it has most of the memory
        z = node.zones[k]
        if <uint64_t>(pfn - z.s.start_pfn) < <uint64_t>z.s.spanned:
            return k
        k -= 1
    return -1
