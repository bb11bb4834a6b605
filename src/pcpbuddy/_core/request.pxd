# Whole calls, from the beginning to the end: `begin_..` fills a record (call.pxd), `next_op` carries it from one
# operation to the next. There is one text of each call, for all drivers: a thread carries each operation to its end at
# once (`carry`), virtual time suspends it at every lock.

from libc.stdint cimport int64_t, uint32_t, uint8_t

from .alloc cimport not_served
from .atomic cimport bump, fence, loadi32, release32, store8, storei32
from .buddy cimport visible
from .call cimport (
    AGAIN, ANSWERED, CALL_ALLOC, CALL_BATCH, CALL_BULK, CALL_DRAIN, CALL_FREE, CALL_OFFLINE, CALL_RUN, CALL_SECTION,
    CALL_TICK, FAST, ISOLATED, LAST, O_DRAIN, O_FOLD, O_RESIZE, O_START, OVER, READY, RUN, SLOW, S_DRAIN, S_FLUSH,
    T_ABSORB, T_DECAY, T_EXPIRE, T_START, W_BULK, W_BULK_TRIED, W_DRAINED, W_TRIED, W_UNRESERVE, W_UNRESERVED, W_ZONE,
    Call, begin_call, bulk_op, drain_everything, drain_op, flush_op, free_op, sweep, zone_op,
)
from .driver cimport begin
from .events cimport E_FREE, emit
from .fallback cimport worth_unreserving
from .init cimport fold
from .isolation cimport OBTAINED
from .node cimport (
    GFP_DIRECT_RECLAIM, NodeRef, fast_flags, gfp_type, gfp_zone, next_zone, passing, preferred, slow_flags,
)
from .op cimport (
    A_START, F_DIRECT, OP_ALL, OP_BATCH, OP_ONE_HOLD, OP_PREPARED, OP_TAIL, Z_DISOWN, Z_ISOLATE, Z_UNRESERVE,
)
from .page cimport (
    ALLOC, MOVABLE, NOFRAGMENT, NR_FREE, ORDER_SHIFT, SCALE_MAX, USE_CMA, WMARK_LOW, Pcp, Zone, idx, largest_aligned,
    set_word,
)
from .remote cimport has_remote, slots
from .sizing cimport resize
from .watermark cimport watermark, watermark_ok

cdef extern from *:
    """
    /* f(call), but not inlined: the compiler does not see which function this is. */
    #define pb_apart(f, call) __extension__ ({ \
        __typeof__(&f) apart = (f); __asm__("" : "+r" (apart)); apart(call); })
    """
    Zone *apart "pb_apart"(Zone *(*f)(Call *call) noexcept nogil, Call *call) noexcept nogil


# -- allocation: the walk through the zones, and the slow path ----------------------------------------------------

cdef inline void walk_from(Call *call, int walk, int k, int aflags) noexcept nogil:
    call.at = W_ZONE
    call.walk = <uint8_t>walk
    call.k = k
    call.aflags = aflags

cdef inline void unreserve_from_first(Call *call) noexcept nogil:
    call.at = W_UNRESERVE
    call.k = call.first

cdef inline void alloc_served(Call *call) noexcept nogil:
    call.at = OVER
    call.page = call.op.page
    call.where = call.k
    if call.kind == CALL_BULK:
        call.pages[0] = call.page
        call.got = 1

cdef inline void alloc_failed(Call *call) noexcept nogil:
    call.at = OVER
    not_served(call.node.zones[call.first], call.cpu, call.order, call.type)

cdef inline void walk_failed(Call *call) noexcept nogil:
    """
    B-76, then the part of the slow path that touches free lists (section 9).

    There is no reclaim here: where the kernel would reclaim, the drain and the unreserve that
    follow it still happen, once without and once with force.
    """
    if call.aflags & NOFRAGMENT:
        walk_from(call, FAST, call.first, call.aflags & ~NOFRAGMENT)
    elif call.walk == FAST:
        walk_from(call, SLOW, call.first, slow_flags(call.order, call.gfp))
    elif call.walk != LAST and call.gfp & GFP_DIRECT_RECLAIM:
        unreserve_from_first(call)
    else:
        alloc_failed(call)

cdef inline Zone *walk_next(Call *call) noexcept nogil:
    """W_ZONE: B-75."""
    call.k = passing(call.node, call.k, call.highest, call.order, call.aflags)
    if call.k < 0:
        walk_failed(call)
        return NULL
    begin(&call.op, A_START, False, call.cpu)
    call.op.order = call.order
    call.op.type = call.type
    call.op.aflags = call.aflags
    call.at = W_TRIED
    return call.node.zones[call.k]

cdef inline void walk_on(Call *call) noexcept nogil:
    """W_TRIED."""
    if call.op.page:
        alloc_served(call)
        return
    call.k = next_zone(call.node, call.k, call.highest, call.aflags & NOFRAGMENT)
    call.at = W_ZONE

cdef inline Zone *unreserve_next(Call *call) noexcept nogil:
    """W_UNRESERVE: B-71 over the zonelist, one block; with force before the last walk."""
    while call.k >= 0 and not worth_unreserving(call.node.zones[call.k], call.walk == AGAIN):
        call.k = next_zone(call.node, call.k, call.highest, False)
    if call.k < 0:
        unreserve_over(call, False)
        return NULL
    zone_op(&call.op, call.cpu, Z_UNRESERVE)
    call.op.type = call.type
    call.at = W_UNRESERVED
    return call.node.zones[call.k]

cdef inline void unreserve_on(Call *call) noexcept nogil:
    """W_UNRESERVED."""
    if call.op.result:
        unreserve_over(call, True)
        return
    call.k = next_zone(call.node, call.k, call.highest, False)
    call.at = W_UNRESERVE

cdef inline void unreserve_over(Call *call, bint gave) noexcept nogil:
    if call.walk == SLOW:
        drain_everything(call, call.node, W_DRAINED)
    elif gave:
        walk_from(call, LAST, call.first, call.aflags)
    else:
        alloc_failed(call)

cdef inline bint bulk_watermark_ok(Zone *z, int n, int hz, int aflags) noexcept nogil:
    return watermark_ok(z, 0, watermark(z, WMARK_LOW) + n, hz, aflags, visible(z, NR_FREE))

cdef inline Zone *bulk_next(Call *call) noexcept nogil:
    """W_BULK: B-93, from the first zone of the node that is n pages above its low watermark, else one ordinary page."""
    while call.n > 1 and call.k >= 0:
        if bulk_watermark_ok(call.node.zones[call.k], <int>call.n, call.highest, call.aflags):
            bulk_op(&call.op, call.cpu, <int>call.n, call.type, call.aflags, call.pages)
            call.at = W_BULK_TRIED
            return call.node.zones[call.k]
        call.k = next_zone(call.node, call.k, call.highest, True)
    walk_from(call, FAST, call.first, fast_flags(call.node, call.first, 0, call.gfp))
    return NULL

cdef inline void bulk_on(Call *call) noexcept nogil:
    """W_BULK_TRIED."""
    call.got = call.op.k
    call.where = call.k
    if call.got:
        call.at = OVER
    else:
        walk_from(call, FAST, call.first, fast_flags(call.node, call.first, 0, call.gfp))

cdef inline Zone *alloc_next(Call *call) noexcept nogil:
    if call.at == W_BULK:
        return bulk_next(call)
    if call.at == W_ZONE:
        return walk_next(call)
    if call.at == W_UNRESERVE:
        return unreserve_next(call)
    if call.at == W_BULK_TRIED:
        bulk_on(call)
    elif call.at == W_TRIED:
        walk_on(call)
    elif call.at == W_UNRESERVED:
        unreserve_on(call)
    else:                                  # W_DRAINED
        walk_from(call, AGAIN, call.first, call.aflags)
    return NULL


# -- a sweep: outboxes and PCPs of all on-line CPUs, zone by zone (B-100, P-46b) ------------------------------------

cdef inline bint sweep_here(Call *call, Zone *z, int c) noexcept nogil:
    """Has CPU c what this pass is for? Then its operation is prepared."""
    if not z.pcp[c].online:
        return False
    if call.at == S_FLUSH:
        flush_op(&call.op, call.cpu, c)
        return True
    if loadi32(&z.pcp[c].count) > 0 or has_remote(z, c):
        drain_op(&call.op, call.cpu, c, 0, OP_ALL, 0)
        return True
    return False

cdef inline Zone *sweep_next(Call *call) noexcept nogil:
    """CPUs ascending; the outboxes of all before the first drain. Only CPUs that have pages are drained."""
    cdef Zone *z
    while call.s < call.nr:
        z = call.zones[call.s]
        while call.c < z.s.cpus and (call.at == S_DRAIN or slots(z)):
            call.c += 1
            if sweep_here(call, z, call.c - 1):
                return z
        call.c = 0
        if call.at == S_FLUSH and call.drains:
            call.at = S_DRAIN
        else:
            call.at = S_FLUSH
            call.s += 1
    if call.mutex is not NULL:
        release32(call.mutex, 0)
    call.at = call.then
    return NULL


# -- ticks and CPU hotplug ------------------------------------------------------------------------------------------

cdef inline int decay_high(Pcp *p) noexcept nogil:
    """B-102: high sinks towards high_min. Returns how many pages are above it then."""
    cdef int count = loadi32(&p.count)     # no lock: a guess
    cdef int high = loadi32(&p.high)
    if high > p.high_min:
        high = max(max(count - (p.batch << SCALE_MAX), high - (high >> 3)), p.high_min)
        storei32(&p.high, high)
    return count - high

cdef inline bint expires(Pcp *p) noexcept nogil:
    """B-103: another node's pages, unused for three ticks."""
    if not p.expire or not loadi32(&p.count):
        return False
    if not p.remote_node:
        p.expire = 0
        return False
    p.expire -= 1
    return p.expire == 0

cdef inline Zone *tick_next(Call *call) noexcept nogil:
    """B-101: fold, decay, and the expiry of another node's pages; what is remote comes between (P-46)."""
    cdef Zone *z = call.zone
    cdef Pcp *p = &z.pcp[call.cpu]
    cdef int excess
    if call.at == T_START:
        call.at = T_ABSORB
        fold(z, call.cpu, True)
        if slots(z):
            flush_op(&call.op, call.cpu, call.cpu)
            return z
    if call.at == T_ABSORB:
        call.at = T_DECAY
        if has_remote(z, call.cpu):        # absorbs, and drains nothing
            drain_op(&call.op, call.cpu, call.cpu, 0, 0, 0)
            return z
    if call.at == T_DECAY:
        call.at = T_EXPIRE
        excess = decay_high(p)
        if excess > 0:
            drain_op(&call.op, call.cpu, call.cpu, excess, 0, 0)
            return z
    call.at = OVER
    if not expires(p):
        return NULL
    drain_op(&call.op, call.cpu, call.cpu, min(loadi32(&p.count), p.batch), OP_ONE_HOLD, 0)
    return z

cdef inline int lowest_online(Zone *z) noexcept nogil:
    cdef int c = 0
    while not z.pcp[c].online:
        c += 1
    return c

cdef inline Zone *offline_next(Call *call) noexcept nogil:
    """B-105, P-85: no new routing, drain, fold, disown; then the limits for one CPU less."""
    cdef Zone *z = call.zone
    if call.at == O_START:
        call.at = O_DRAIN
        store8(&z.pcp[call.target].online, False)
        fence()                            # see remote.alive
        if call.cpu < 0:
            call.cpu = lowest_online(z)
        if slots(z):
            flush_op(&call.op, call.cpu, call.target)
            return z
    if call.at == O_DRAIN:
        call.at = O_FOLD
        drain_op(&call.op, call.cpu, call.target, 0, OP_ALL, 0)
        return z
    if call.at == O_FOLD:
        call.at = O_RESIZE
        fold(z, call.target, False)
        if z.s.policy.owns:                # nobody owns blocks otherwise
            zone_op(&call.op, call.cpu, Z_DISOWN)
            call.op.target = <unsigned short>call.target
            return z
    call.at = OVER
    resize(z)
    return NULL


# -- a contiguous free ------------------------------------------------------------------------------------------------

cdef inline Zone *run_next(Call *call) noexcept nogil:
    """B-94: the largest naturally aligned piece; no event any more."""
    cdef Zone *z = call.zone
    cdef idx i = call.i
    cdef idx p
    cdef int o = largest_aligned(i, i + <idx>call.n)
    if call.n <= 0:
        call.at = OVER
        return NULL
    for p in range(i + 1, i + (1u << o)):
        set_word(z, p, 0)
    set_word(z, i, ALLOC | o << ORDER_SHIFT)
    free_op(&call.op, call.cpu, i, OP_PREPARED)
    call.i += 1u << o
    call.n -= 1 << o
    return z


# -- a call from the beginning to the end -----------------------------------------------------------------------------

cdef inline Zone *next_op(Call *call) noexcept nogil:
    """The next operation is in call.op, and belongs in the zone returned; NULL: the call is over."""
    cdef Zone *z = NULL
    while z is NULL and call.at != OVER:
        if call.at < S_FLUSH:
            z = alloc_next(call)
        elif call.at < T_START:
            z = sweep_next(call)
        elif call.at < O_START:
            z = tick_next(call)
        elif call.at < RUN:
            z = offline_next(call)
        elif call.at == RUN:
            z = run_next(call)
        elif call.at == READY:
            call.at = call.then
            return call.zone
        elif call.at == ANSWERED:
            call.at = OVER
            call.got = call.op.result
        else:                              # ISOLATED: what waits in outboxes is handed over (P-46b)
            call.at = OVER
            call.got = call.op.result == OBTAINED
            if call.got:
                sweep(call, &call.zone, 1, False, OVER)
    return z

cdef inline void carry(Call *call) noexcept nogil:
    """One thread, or real ones: to the end. next_op is as large as all calls together, so there is one body for all."""
    cdef Zone *z = apart(next_op, call)
    while z is not NULL:
        z.run(z, &call.op)
        z = apart(next_op, call)

cdef inline void begin_request(Call *call, NodeRef *node, int order, int gfp) noexcept nogil:
    call.node = node
    call.order = <uint8_t>order
    call.gfp = gfp
    call.type = <uint8_t>gfp_type(gfp)
    call.highest = gfp_zone(gfp)
    call.first = preferred(node, call.highest)
    call.k = call.first

cdef inline void begin_alloc(Call *call, NodeRef *node, int order, int gfp, int cpu) noexcept nogil:
    """B-75, B-76, then the slow path. Results: page, where."""
    begin_call(call, NULL, CALL_ALLOC, OVER, cpu)
    begin_request(call, node, order, gfp)
    if call.first >= 0:
        walk_from(call, FAST, call.first, fast_flags(node, call.first, order, gfp))

cdef inline void begin_bulk(Call *call, NodeRef *node, int n, int gfp, int cpu, idx *pages) noexcept nogil:
    """B-93. Results: got, where, and the pages."""
    begin_call(call, NULL, CALL_BULK, OVER, cpu)
    begin_request(call, node, 0, gfp)
    call.n = n
    call.pages = pages
    pages[0] = 0
    if call.first >= 0:
        call.at = W_BULK
        call.aflags = WMARK_LOW | USE_CMA if call.type == MOVABLE else WMARK_LOW

cdef inline void begin_free(Call *call, Zone *z, idx i, int cpu, int op_flags) noexcept nogil:
    """B-80, P-40: one operation."""
    begin_call(call, z, CALL_FREE, READY, cpu)
    free_op(&call.op, cpu, i, op_flags)

cdef inline void begin_free_batch(Call *call, Zone *z, idx *pages, int nr, int cpu, int op_flags) noexcept nogil:
    """B-91: one operation. The pages are sorted in their place (P-47)."""
    begin_call(call, z, CALL_BATCH, READY, cpu)
    free_op(&call.op, cpu, 0, op_flags | OP_BATCH)
    call.op.pages = pages
    call.op.nr = nr

cdef inline void begin_free_run(Call *call, Zone *z, idx i, int64_t n, int cpu) noexcept nogil:
    """B-94: n single pages from i on, each prepared already."""
    begin_call(call, z, CALL_RUN, RUN, cpu)
    call.i = i
    call.n = n

cdef inline void begin_free_contig(Call *call, Zone *z, idx i, int64_t n, int cpu) noexcept nogil:
    """B-94: every page is prepared on its own first."""
    cdef idx p
    for p in range(i, i + <idx>n):
        emit(z, E_FREE, cpu, p, 0, 0)
    bump(&z.counts[cpu].pages_freed, n)
    begin_free_run(call, z, i, n, cpu)

cdef inline void begin_tick(Call *call, Zone *z, int cpu) noexcept nogil:
    """B-101 to B-103."""
    begin_call(call, z, CALL_TICK, T_START, cpu)

cdef inline void begin_drain_all(Call *call, NodeRef *node, int cpu) noexcept nogil:
    """B-100 of all zones."""
    begin_call(call, NULL, CALL_DRAIN, OVER, cpu)
    drain_everything(call, node, OVER)

cdef inline void begin_drain_zone(Call *call, Zone *z, int cpu) noexcept nogil:
    """B-100 of one zone."""
    begin_call(call, z, CALL_DRAIN, OVER, cpu)
    sweep(call, &call.zone, 1, True, OVER)

cdef inline void begin_offline(Call *call, Zone *z, int target, int cpu) noexcept nogil:
    """B-105 in one zone. cpu: who does it; -1: the lowest CPU that stays on-line."""
    begin_call(call, z, CALL_OFFLINE, O_START, cpu)
    call.target = target

cdef inline void begin_isolate(Call *call, Zone *z, idx i, int flags, int cpu) noexcept nogil:
    """B-110. flags: 1 for a CMA allocation, 2 with the check. Result: got."""
    begin_section(call, z, Z_ISOLATE, i, cpu)
    call.then = ISOLATED
    call.op.flags = <uint8_t>flags

cdef inline void begin_section(Call *call, Zone *z, int section, idx i, int cpu) noexcept nogil:
    """One zone-lock hold. Results: got, its answer; op.page, the page that it is about."""
    begin_call(call, z, CALL_SECTION, READY, cpu)
    call.then = ANSWERED
    zone_op(&call.op, cpu, section)
    call.op.page = i

cdef inline void begin_direct(Call *call, Zone *z, idx i, int cpu) noexcept nogil:
    """B-97: a page that has no user yet, to the tail."""
    begin_call(call, z, CALL_FREE, READY, cpu)
    free_op(&call.op, cpu, i, OP_PREPARED | OP_TAIL)
    call.op.at = F_DIRECT
    call.op.end = 1
