# Allocation: through the PCP with a refill if need be, past it, and in bulk (B-60 to B-66,
# B-93, P-31). Step functions: see op.pxd.

from .atomic cimport bump, clear_bits, load32, load8
from .events cimport E_ALLOC, emit
from .fallback cimport reserve, reserve_has_room, zone_alloc
from .op cimport (
    A_DIRECT, A_DIRECTED, A_PHASE, A_REFILL, A_REFILLED, A_RESERVE, A_SERVED, A_START, A_TRIED, A_ZONE, B_END,
    B_PHASE, B_REFILL, B_REFILLED, B_START, B_TAKE, B_TRIED, DONE, LOCK_ZONE, OP_BARE, TRY_PCP, UNLOCK_PCP,
    UNLOCK_ZONE, Op, settle_then, unsettled, zone_lock_for,
)
from .page cimport (
    BOOSTED_WATERMARK, CMA, HOLD_PER_PHASE, H_DIRECT_ALLOC, H_OTHER, H_REFILL, KSWAPD, MOVABLE, NOLOCK,
    USE_HIGHATOMIC, WMARK_MIN, Counts, Pcp, Zone, block_of, idx,
)
from .pcp cimport grow_high, pcp_order, pcp_take, refill_size, take_away, take_row
from .refill cimport NR_PHASES, refill_begin, run_phase
from .remote cimport absorb


# -- telling -------------------------------------------------------------------------------------------

cdef inline void count_allocs(Counts *counts, int nr, int pages, int T) noexcept nogil:
    bump(&counts.allocs, nr)
    bump(&counts.pages_allocated, pages)
    if T == MOVABLE:
        bump(&counts.movable_pages, pages)

cdef inline void count_alloc(Zone *z, int cpu, idx i, int o, int T) noexcept nogil:
    cdef Counts *counts = &z.counts[cpu]
    count_allocs(counts, 1, 1 << o, T)
    if z.s.cma_pages:
        count_cma(z, counts, i, o, T)

cdef inline void count_cma(Zone *z, Counts *counts, idx i, int o, int T) noexcept nogil:
    if load8(&block_of(z, i).type) == CMA:
        bump(&counts.cma_pages, 1 << o)
        if T == MOVABLE:
            bump(&counts.movable_cma_pages, 1 << o)

cdef inline void count_row(Zone *z, Op *op, int nr) noexcept nogil:
    """The next nr pages of a bulk allocation are there. No mm_page_alloc."""
    cdef Counts *counts = &z.counts[op.cpu]
    cdef int k
    count_allocs(counts, nr, nr, op.type)
    if z.s.cma_pages:
        for k in range(op.k, op.k + nr):
            count_cma(z, counts, op.pages[k], 0, op.type)
    bump(&counts.allocs_locked, op.locked)
    op.locked = False
    op.k += nr

cdef inline void hand_out(Zone *z, int cpu, idx i, int o, int T, int aflags) noexcept nogil:
    """After the locks: B-60 step 3, and the tracepoint as the very last (17.1)."""
    count_alloc(z, cpu, i, o, T)
    wake_kswapd(z, aflags)
    emit(z, E_ALLOC, cpu, i, o, T)

cdef inline void wake_kswapd(Zone *z, int aflags) noexcept nogil:
    """B-60 step 3, whether a page was obtained or not."""
    if aflags & KSWAPD and load32(&z.s.flags) & BOOSTED_WATERMARK:
        clear_bits(&z.s.flags, BOOSTED_WATERMARK)

cdef inline int served(Zone *z, Op *op) noexcept nogil:
    if op.flags & OP_BARE:
        op.aflags &= ~KSWAPD
    if op.page:
        bump(&z.counts[op.cpu].allocs_locked, op.locked)
        hand_out(z, op.cpu, op.page, op.order, op.type, op.aflags)
    else:
        wake_kswapd(z, op.aflags)
    return DONE

cdef inline void not_served(Zone *z, int cpu, int o, int T) noexcept nogil:
    """The request as a whole failed, whichever zones were tried."""
    bump(&z.counts[cpu].allocs_failed, 1)
    emit(z, E_ALLOC, cpu, 0, o, T)


# -- one allocation --------------------------------------------------------------------------------------

cdef inline int after_phase(Zone *z, Op *op, int again, int over) noexcept nogil:
    """The zone lock was taken or tried for a phase; P-32: all phases under it, or one. Where to go on is in op.at."""
    op.at = <unsigned char>over
    if op.aflags & NOLOCK and not op.got:  # the refill ends with what it has
        op.phase = NR_PHASES
        return -1
    bump(&z.counts[op.cpu].holds[H_REFILL], 1)
    bump(&z.counts[op.cpu].refills, not op.held)
    op.held = True
    while op.phase < NR_PHASES:
        run_phase(z, op)
        if z.s.policy.refill_hold == HOLD_PER_PHASE:
            break
    if op.phase < NR_PHASES:
        op.at = <unsigned char>again
    return UNLOCK_ZONE

cdef inline int start_refill(Zone *z, Op *op, int at) noexcept nogil:
    """The PCP lock is held and the lists have nothing: B-64, then the first phase's hold."""
    refill_begin(z, op, refill_size(z, &z.pcp[op.cpu], op.order, &op.raised))
    op.at = <unsigned char>at
    op.held = False
    return zone_lock_for(op)

cdef inline int alloc_from_pcp(Zone *z, Op *op) noexcept nogil:
    """A_TRIED, with the PCP lock had: B-61."""
    cdef int raised
    z.pcp[op.cpu].free_count >>= 1
    if not op.aflags & NOLOCK:             # rejects would wait for the zone lock
        absorb(z, op)
    op.page = pcp_take(z, op.cpu, op.order, op.type)
    if op.page:
        op.at = A_SERVED
        return UNLOCK_PCP
    if op.aflags & USE_HIGHATOMIC:         # no refill, but B-64's side effects
        refill_size(z, &z.pcp[op.cpu], op.order, &raised)
        op.at = A_ZONE
        return UNLOCK_PCP
    return start_refill(z, op, A_REFILL)

cdef inline int alloc_step(Zone *z, Op *op) noexcept nogil:
    cdef int action
    if op.at == A_START:
        op.target = op.cpu
        if pcp_order(z, op.order):
            op.at = A_TRIED
            return TRY_PCP
        op.at = A_ZONE
    if op.at == A_TRIED:
        if op.got:
            return alloc_from_pcp(z, op)
        op.at = A_ZONE
    if op.at == A_PHASE:
        op.at = A_REFILL
        return zone_lock_for(op)
    if op.at == A_REFILL:
        action = after_phase(z, op, A_PHASE, A_REFILLED)
        if action >= 0:
            return action
    if op.at == A_REFILLED:
        grow_high(z, &z.pcp[op.cpu], op.pages_in, op.raised)
        op.page = pcp_take(z, op.cpu, op.order, op.type)
        op.at = A_SERVED if op.page else A_ZONE
        return UNLOCK_PCP
    if unsettled(op):
        return settle_then(op, op.at)
    if op.at == A_ZONE:
        op.at = A_DIRECT
        return zone_lock_for(op)
    if op.at == A_DIRECT:
        op.at = A_DIRECTED
        if op.aflags & NOLOCK == 0 or op.got:
            bump(&z.counts[op.cpu].holds[H_DIRECT_ALLOC], 1)
            op.page = zone_alloc(z, op.cpu, op.order, op.type, op.aflags)
            if op.page:
                take_away(z, op.page, op.order, op.type)
            return UNLOCK_ZONE
    if op.at == A_DIRECTED:
        op.at = A_SERVED
        if op.page and op.aflags & USE_HIGHATOMIC and op.aflags & 3 == WMARK_MIN and reserve_has_room(z):
            op.at = A_RESERVE
            return LOCK_ZONE
    if op.at == A_RESERVE:
        op.at = A_SERVED
        bump(&z.counts[op.cpu].holds[H_OTHER], 1)
        reserve(z, op.cpu, op.page, op.order)
        return UNLOCK_ZONE
    return served(z, op)


# -- bulk allocation (B-93) ---------------------------------------------------------------------------

cdef inline int bulk_alloc_step(Zone *z, Op *op) noexcept nogil:
    """Fills op.pages; with none, the caller asks for one ordinary page. No mm_page_alloc, free_count not halved."""
    cdef int nr
    if op.at == B_START:
        op.target = op.cpu
        op.at = B_TRIED
        return TRY_PCP
    if op.at == B_TRIED:
        if not op.got:
            return DONE
        absorb(z, op)
    if op.at == B_END:
        return settle_then(op, 0) if unsettled(op) else DONE
    if op.at == B_PHASE:
        op.at = B_REFILL
        return zone_lock_for(op)
    if op.at == B_REFILL:
        return after_phase(z, op, B_PHASE, B_REFILLED)
    if op.at == B_REFILLED:
        grow_high(z, &z.pcp[op.cpu], op.pages_in, op.raised)
    while op.k < op.nr:
        nr = take_row(z, op.cpu, op.type, op.pages + op.k, op.nr - op.k)
        if nr == 0:                        # of a larger entry, if there is one
            op.pages[op.k] = pcp_take(z, op.cpu, 0, op.type)
            nr = op.pages[op.k] != 0
        if nr == 0 and op.at == B_REFILLED:
            break
        if nr == 0:
            return start_refill(z, op, B_REFILL)
        count_row(z, op, nr)
        op.at = B_TAKE
    op.at = B_END
    return UNLOCK_PCP
