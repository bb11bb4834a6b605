# Whole calls on one thread, or on real ones: each a record carried to its end (request.pxd), or one operation.

from libc.stdint cimport int64_t, uint32_t

from .call cimport Call, bulk_op, drain_op
from .driver cimport alloc_by_policy
from .node cimport NodeRef, fast_flags, gfp_type, gfp_zone, next_zone, passing, preferred
from .op cimport Op
from .page cimport NOFRAGMENT, Zone, idx
from .request cimport (
    begin_alloc, begin_bulk, begin_drain_zone, begin_free_contig, begin_free_run, begin_isolate, begin_offline,
    begin_tick, carry, decay_high,
)
from .sizing cimport resize


# -- requests with GFP flags -----------------------------------------------------------------------------------

cdef inline idx node_alloc(NodeRef *node, int o, int gfp, int cpu, int *where) noexcept nogil:
    """B-75, B-76, section 9. In front the first zone that may be tried, which serves nearly all: without a record."""
    cdef Call call
    cdef int highest = gfp_zone(gfp)
    cdef int first = preferred(node, highest)
    cdef int aflags
    cdef int k
    cdef idx i
    if first < 0:
        return 0
    aflags = fast_flags(node, first, o, gfp)
    k = passing(node, first, highest, o, aflags)
    if k >= 0:
        i = alloc_by_policy(node.zones[k], cpu, o, gfp_type(gfp), aflags)
        if i:
            where[0] = k
            return i
    begin_alloc(&call, node, o, gfp, cpu)
    call.k = next_zone(node, k, highest, aflags & NOFRAGMENT)
    carry(&call)
    where[0] = call.where
    return call.page

cdef inline int node_bulk(NodeRef *node, int n, int gfp, int cpu, idx *pages, int *where) noexcept nogil:
    """B-93. Returns how many pages came."""
    cdef Call call
    begin_bulk(&call, node, n, gfp, cpu, pages)
    carry(&call)
    where[0] = call.where
    return call.got

cdef inline int bulk(Zone *z, int cpu, int n, int T, int aflags, idx *pages) noexcept nogil:
    """B-93 in a zone that passed the watermark. Returns how many pages came; 0: ask for an ordinary one."""
    cdef Op op
    bulk_op(&op, cpu, n, T, aflags, pages)
    z.run(z, &op)
    return op.k


# -- frees -------------------------------------------------------------------------------------------------------

cdef inline void free_run(Zone *z, int cpu, idx i, int64_t n) noexcept nogil:
    """B-94: a run of single pages, freed in the largest naturally aligned pieces; no event any more."""
    cdef Call call
    begin_free_run(&call, z, i, n, cpu)
    carry(&call)

cdef inline void free_contig(Zone *z, int cpu, idx i, int64_t n) noexcept nogil:
    """B-94."""
    cdef Call call
    begin_free_contig(&call, z, i, n, cpu)
    carry(&call)


# -- drains, ticks, CPU hotplug, isolation ---------------------------------------------------------------------------

cdef inline void drain_pcp(Zone *z, int target, int cpu, int n, int flags, int start) noexcept nogil:
    cdef Op op
    drain_op(&op, cpu, target, n, flags, start)
    z.run(z, &op)

cdef inline void drain_all(Zone *z, int cpu) noexcept nogil:
    """B-100: on-line CPUs ascending, those that have pages. Outboxes before (P-46b)."""
    cdef Call call
    begin_drain_zone(&call, z, cpu)
    carry(&call)

cdef inline void decay(Zone *z, int cpu) noexcept nogil:
    """B-102, P-63."""
    cdef int excess = decay_high(&z.pcp[cpu])
    if excess > 0:
        drain_pcp(z, cpu, cpu, excess, 0, 0)

cdef inline void tick(Zone *z, int cpu) noexcept nogil:
    """B-101 to B-103."""
    cdef Call call
    begin_tick(&call, z, cpu)
    carry(&call)

cdef inline void offline_cpu(Zone *z, int cpu) noexcept nogil:
    """B-105, P-85; the lowest CPU that stays on-line does it."""
    cdef Call call
    begin_offline(&call, z, cpu, -1)
    carry(&call)

cdef inline void online_cpu(Zone *z, int cpu) noexcept nogil:
    """B-105. No lock is taken, so virtual time needs no more than this."""
    z.pcp[cpu].online = True
    resize(z)

cdef inline bint isolate(Zone *z, idx i, int flags, int cpu) noexcept nogil:
    """B-110. flags: 1 for a CMA allocation, 2 with the check."""
    cdef Call call
    begin_isolate(&call, z, i, flags, cpu)
    carry(&call)
    return call.got
