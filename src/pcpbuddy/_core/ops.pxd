# Operations: which lock is taken when, and what is done under it.
#
# An operation is a small record. `step` carries it to its next lock action and returns
# that action; the driver performs it (does nothing, spins, or waits in virtual time) and
# calls `step` again, with op.got as the answer to a trylock. So an operation can be
# suspended at every lock, and there is one text of it for all drivers (decision 0001).
#
# The names of states: A_ allocation, B_ bulk allocation, F_ free, D_ drain, Z_ one zone section.
# Each says in which situation the next step begins.

from libc.stdint cimport uint16_t, uint32_t, uint8_t

from .atomic cimport load16, unlikely
from .buddy cimport split_free
from .events cimport E_ALLOC, E_FREE, E_FREE_BATCHED, E_REMOTE_FAIL, emit, emit_other
from .fallback cimport reserve, reserve_has_room, unreserve, zone_alloc
from .isolation cimport isolate_block, unisolate_block
from .ownership cimport BY_OFFLINE, disown
from .page cimport (
    BELOW_HIGH, BOOSTED_WATERMARK, CMA, DEFERRED, DRAIN_INDEX, H_DIRECT_ALLOC, H_DIRECT_FREE, H_DRAIN, H_OTHER,
    H_REFILL, ISOLATE, KSWAPD, MARK, MERGE_DRAIN, MOVABLE, NOLOCK, ORDER_SHIFT, PB, REMOTE_BLOCK, REMOTE_LOCAL,
    SCALE_MAX, USE_HIGHATOMIC, WMARK_MIN, Counts, Pcp, Zone, block_of, block_type, idx, set_word, word_of,
    word_order,
)
from .pcp cimport bulk_free, commit, list_type, pcp_order, pcp_take, refill_size, take_away
from .pcpblock cimport drain_largest_fit, merge_pass, refill
from .watermark cimport high_watermark_ok

cdef enum:  # lock actions
    DONE = 0
    LOCK_PCP = 1               # op.target's
    TRY_PCP = 2
    UNLOCK_PCP = 3
    LOCK_ZONE = 4
    TRY_ZONE = 5
    UNLOCK_ZONE = 6

cdef enum:  # states
    A_START = 0
    A_TRIED = 1                # own PCP lock tried
    A_REFILL = 2               # PCP lock held, zone lock taken or tried
    A_REFILLED = 3             # PCP lock held, zone lock dropped
    A_ZONE = 4                 # no lock; the lists had nothing
    A_DIRECT = 5               # zone lock taken or tried
    A_DIRECTED = 6             # zone lock dropped
    A_RESERVE = 7              # zone lock taken for the high-atomic reserve
    A_SERVED = 8               # no lock, op.page is the answer

    B_START = 10
    B_TRIED = 11
    B_TAKE = 12                # PCP lock held
    B_REFILL = 13
    B_REFILLED = 14
    B_END = 15

    F_NEXT = 20                # op.held says whether target's PCP lock is held
    F_PICK = 22                # no lock held, the next page waits for a lock
    F_TRIED = 23
    F_DRAIN = 24               # PCP lock held, op.n pages to drain
    F_DRAINING = 25            # zone lock taken too
    F_DRAINED = 26
    F_GAP = 27                 # between holds, no lock held
    F_RELOCKED = 28
    F_DIRECT = 29              # no lock held, the next page goes to the zone
    F_DIRECTING = 30           # zone lock taken or tried
    F_PREPARE = 31             # first pass over a group
    F_PREPARING = 32           # zone lock taken for a page that no PCP serves

    D_START = 40
    D_LOCKED = 41              # PCP lock taken
    D_HOLD = 42                # zone lock taken too
    D_HELD = 43

    Z_START = 50
    Z_LOCKED = 51

    AT_END = 60

cdef enum:  # op.flags
    OP_BARE = 1                # A: B-66 alone
    OP_IRQ = 1                 # F: in interrupt context: never waits for a PCP lock (P-42)
    OP_NOLOCK = 2              # F: B-92
    OP_BATCH = 4               # F: B-91: emits mm_page_free_batched
    OP_PREPARED = 8            # F: no mm_page_free any more (B-94)
    OP_ALL = 16                # D: until the PCP is empty (B-100)
    OP_ONE_HOLD = 32           # D: keep the PCP lock between zone-lock holds
    OP_AGAIN = 64              # D: the merge pass is done, op.n counts down
    OP_TAIL = 128              # F: direct frees to the tail (B-97)

cdef enum:  # op.section of a Z_ operation
    Z_ISOLATE = 0
    Z_UNISOLATE = 1
    Z_UNRESERVE = 2
    Z_DISOWN = 3

    GROUP = 31                 # folio batch (B-91)

cdef struct Op:
    uint8_t at
    uint8_t got                # did the last trylock succeed?
    uint8_t order
    uint8_t type
    uint8_t flags
    uint8_t held               # F: target's PCP lock is held
    uint8_t section
    uint8_t locked             # A, B: the zone lock was taken for this page
    uint16_t cpu               # executes
    uint16_t target            # whose PCP lock is meant
    uint32_t aflags
    idx page                   # A: the page, or 0. F, Z: the page
    int n                      # A, B: entries to refill. D, F: pages still to drain
    int start                  # D, F: where the drain starts: list (index) or type (largest_fit)
    int nr                     # F, B: pages in `pages`
    int k                      # F: next page; B: pages obtained
    int end                    # F: end of the group
    int result
    idx *pages


# -- allocation (B-60 to B-66, P-31) -----------------------------------------------------------------

cdef inline int zone_lock_for(Op *op) noexcept nogil:
    op.locked = True
    return TRY_ZONE if op.aflags & NOLOCK else LOCK_ZONE

cdef inline void count_alloc(Zone *z, int cpu, idx i, int o, int T) noexcept nogil:
    cdef Counts *counts = &z.counts[cpu]
    counts.allocs += 1
    counts.pages_allocated += 1 << o
    if T == MOVABLE:
        counts.movable_pages += 1 << o
    if z.s.cma_pages:
        count_cma(z, counts, i, o, T)

cdef inline void count_cma(Zone *z, Counts *counts, idx i, int o, int T) noexcept nogil:
    if block_of(z, i).type == CMA:
        counts.cma_pages += 1 << o
        if T == MOVABLE:
            counts.movable_cma_pages += 1 << o

cdef inline void hand_out(Zone *z, int cpu, idx i, int o, int T, int aflags) noexcept nogil:
    """After the locks: B-60 step 3, and the tracepoint as the very last (17.1)."""
    count_alloc(z, cpu, i, o, T)
    wake_kswapd(z, aflags)
    emit(z, E_ALLOC, cpu, i, o, T)

cdef inline void wake_kswapd(Zone *z, int aflags) noexcept nogil:
    """B-60 step 3, whether a page was obtained or not."""
    if aflags & KSWAPD and z.s.flags & BOOSTED_WATERMARK:
        z.s.flags &= ~BOOSTED_WATERMARK

cdef inline int served(Zone *z, Op *op) noexcept nogil:
    if op.flags & OP_BARE:
        op.aflags &= ~KSWAPD
    if op.page:
        z.counts[op.cpu].allocs_locked += op.locked
        hand_out(z, op.cpu, op.page, op.order, op.type, op.aflags)
    else:
        wake_kswapd(z, op.aflags)
    return DONE

cdef inline void not_served(Zone *z, int cpu, int o, int T) noexcept nogil:
    """The request as a whole failed, whichever zones were tried."""
    z.counts[cpu].allocs_failed += 1
    emit(z, E_ALLOC, cpu, 0, o, T)

cdef inline int alloc_step(Zone *z, Op *op) noexcept nogil:
    cdef Pcp *p = &z.pcp[op.cpu]
    if op.at == A_START:
        op.target = op.cpu
        if pcp_order(op.order):
            op.at = A_TRIED
            return TRY_PCP
        op.at = A_ZONE
    if op.at == A_TRIED:
        op.at = A_ZONE
        if op.got:
            p.free_count >>= 1
            op.page = pcp_take(z, op.cpu, op.order, op.type)
            if op.page:
                op.at = A_SERVED
                return UNLOCK_PCP
            op.n = refill_size(z, p, op.order)
            if op.aflags & USE_HIGHATOMIC:
                return UNLOCK_PCP
            op.at = A_REFILL
            return zone_lock_for(op)
    if op.at == A_REFILL:
        op.at = A_REFILLED
        if op.aflags & NOLOCK == 0 or op.got:
            z.counts[op.cpu].holds[H_REFILL] += 1
            refill(z, op.cpu, op.order, op.type, op.aflags, op.n)
            return UNLOCK_ZONE
    if op.at == A_REFILLED:
        op.page = pcp_take(z, op.cpu, op.order, op.type)
        op.at = A_SERVED if op.page else A_ZONE
        return UNLOCK_PCP
    if op.at == A_ZONE:
        op.at = A_DIRECT
        return zone_lock_for(op)
    if op.at == A_DIRECT:
        op.at = A_DIRECTED
        if op.aflags & NOLOCK == 0 or op.got:
            z.counts[op.cpu].holds[H_DIRECT_ALLOC] += 1
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
        z.counts[op.cpu].holds[H_OTHER] += 1
        reserve(z, op.cpu, op.page, op.order)
        return UNLOCK_ZONE
    return served(z, op)


# -- bulk allocation (B-93) ---------------------------------------------------------------------------

cdef inline int bulk_alloc_step(Zone *z, Op *op) noexcept nogil:
    """Fills op.pages; with none, the caller asks for one ordinary page. No mm_page_alloc, free_count not halved."""
    cdef idx i
    if op.at == B_START:
        op.target = op.cpu
        op.at = B_TRIED
        return TRY_PCP
    if op.at == B_END or op.at == B_TRIED and not op.got:
        return DONE
    if op.at == B_REFILL:
        z.counts[op.cpu].holds[H_REFILL] += 1
        refill(z, op.cpu, 0, op.type, op.aflags, op.n)
        op.at = B_REFILLED
        return UNLOCK_ZONE
    while op.k < op.nr:
        i = pcp_take(z, op.cpu, 0, op.type)
        if i:
            count_alloc(z, op.cpu, i, 0, op.type)
            z.counts[op.cpu].allocs_locked += op.locked
            op.locked = False
            op.pages[op.k] = i
            op.k += 1
            op.at = B_TAKE
        elif op.at == B_REFILLED:
            break
        else:
            op.n = refill_size(z, &z.pcp[op.cpu], 0)
            op.at = B_REFILL
            op.locked = True
            return LOCK_ZONE
    op.at = B_END
    return UNLOCK_PCP


# -- free (B-80 to B-82, B-90 to B-92, P-40 to P-47) ------------------------------------------------------

cdef inline int route(Zone *z, int cpu, int owner) noexcept nogil:
    """P-40: the owner of the page's block, if it has one that is on-line; else the freeing CPU."""
    if owner == 0 or owner == cpu + 1 or z.s.policy.remote == REMOTE_LOCAL or not z.pcp[owner - 1].online:
        return cpu
    return owner - 1

cdef inline uint32_t mark_for(Zone *z, idx i, int target) noexcept nogil:
    """P-44: marked iff the block is the target's, read again under the target's lock."""
    return MARK if load16(&block_of(z, i).owner) == target + 1 else 0

cdef inline int lock_target(Zone *z, Op *op) noexcept nogil:
    if op.target != op.cpu and z.s.policy.remote == REMOTE_BLOCK and not op.flags & (OP_IRQ | OP_NOLOCK):
        op.got = True
        return LOCK_PCP
    return TRY_PCP

cdef inline void prepare(Zone *z, int cpu, idx i, int o) noexcept nogil:
    """17.2: mm_page_free comes before any list operation."""
    z.counts[cpu].pages_freed += 1 << o
    emit(z, E_FREE, cpu, i, o, 0)

cdef inline void direct_free(Zone *z, Op *op, idx i) noexcept nogil:
    """B-90 (zone lock): first the deferred stack, then the page."""
    cdef int o
    cdef idx d
    z.counts[op.cpu].holds[H_DIRECT_FREE] += 1
    z.counts[op.cpu].frees_direct += 1
    while z.s.deferred and not op.flags & OP_NOLOCK:
        d = z.s.deferred
        z.s.deferred = z.page[d].next
        o = word_order(word_of(z, d))
        z.page[d].next = 0
        set_word(z, d, 0)
        split_free(z, op.cpu, d, o, op.flags & OP_TAIL != 0)
    o = word_order(word_of(z, i))
    set_word(z, i, 0)
    split_free(z, op.cpu, i, o, op.flags & OP_TAIL != 0)

cdef inline void defer(Zone *z, Op *op, idx i) noexcept nogil:
    """B-92: neither lock was to be had. (The real driver makes this push atomic.)"""
    set_word(z, i, DEFERRED | word_order(word_of(z, i)) << ORDER_SHIFT)
    z.page[i].next = z.s.deferred
    z.s.deferred = i
    z.counts[op.cpu].frees_direct += 1

cdef inline void drain_hold(Zone *z, Op *op, int most) noexcept nogil:
    """What one zone-lock hold drains from target's PCP: B-85 of at most `most` pages, or P-60."""
    cdef int chunk
    z.counts[op.cpu].holds[H_DRAIN] += 1
    if z.s.policy.drain == DRAIN_INDEX:
        chunk = min(op.n, most)
        bulk_free(z, op.cpu, op.target, chunk, op.start)
        op.n -= chunk
    else:
        op.n = min(op.n, z.pcp[op.target].count)
        op.n = drain_largest_fit(z, op.cpu, op.target, op.n, op.start)

cdef inline void limit_end(Zone *z, Op *op) noexcept nogil:
    """B-82 step 6."""
    if unlikely(z.s.flags & BELOW_HIGH) and high_watermark_ok(z):
        z.s.flags &= ~BELOW_HIGH

cdef inline int drain_start(Zone *z, int o, int T) noexcept nogil:
    """A drain begins at the freed entry: at its list (B-82), or at its type (P-61)."""
    if z.s.policy.drain == DRAIN_INDEX:
        return 3 * o + (0 if o == PB and T == 2 and z.s.policy.pcp_lists == 14 else T)
    return T

cdef inline void drain_begin(Zone *z, Op *op, int o, int T) noexcept nogil:
    """A commit asked for op.n pages: one merge pass before the first zone-lock hold (P-54)."""
    op.at = F_DRAIN
    op.start = drain_start(z, o, T)
    if z.s.policy.merge == MERGE_DRAIN:
        merge_pass(z, op.cpu, op.target)

cdef inline void commit_next(Zone *z, Op *op) noexcept nogil:
    """The next page into target's PCP, whose lock is held."""
    cdef idx i = op.pages[op.k]
    cdef int o = word_order(word_of(z, i))
    cdef int T = list_type(block_type(z, i))
    op.k += 1
    if op.flags & OP_BATCH:
        emit(z, E_FREE_BATCHED, op.cpu, i, 0, 0)
    if op.target == op.cpu:
        z.counts[op.cpu].frees_local += 1
    else:
        z.counts[op.cpu].frees_remote += 1
    op.n = commit(z, &z.pcp[op.target], op.target, i, o, T, mark_for(z, i, op.target), op.flags & OP_NOLOCK != 0)
    op.at = F_NEXT
    if op.n:
        drain_begin(z, op, o, T)

cdef inline int free_next(Zone *z, Op *op) noexcept nogil:
    """Choose the next page's way. Returns a lock action, or -1 to go on in op.at."""
    cdef idx i
    cdef int target
    while True:
        if op.k == op.end:
            if op.held:
                op.held = False
                return UNLOCK_PCP
            op.at = F_PREPARE
            return -1
        i = op.pages[op.k]
        if not i:                              # freed in the first pass
            op.k += 1
            continue
        if not pcp_order(word_order(word_of(z, i))) or block_type(z, i) == ISOLATE:
            op.at = F_DIRECT
            target = -1
        else:
            target = route(z, op.cpu, load16(&block_of(z, i).owner))
            op.at = F_PICK
        if op.held:
            if target == op.target:
                commit_next(z, op)
                return -1
            op.held = False
            return UNLOCK_PCP
        if target >= 0:
            op.target = <uint16_t>target
        return -1

cdef inline int free_prepare(Zone *z, Op *op) noexcept nogil:
    """B-91 pass 1 over the next group: mm_page_free of each; what no PCP serves goes to the zone at once."""
    cdef idx i
    cdef int o
    while op.end < op.nr and op.end < op.k + GROUP:
        i = op.pages[op.end]
        o = word_order(word_of(z, i))
        op.end += 1
        if not op.flags & OP_PREPARED:
            prepare(z, op.cpu, i, o)
        if op.flags & OP_BATCH and not pcp_order(o):
            op.page = i
            op.pages[op.end - 1] = 0
            op.at = F_PREPARING
            return LOCK_ZONE
    op.at = F_NEXT
    return -1

cdef inline int free_step(Zone *z, Op *op) noexcept nogil:
    cdef int action
    while True:
        if op.at == F_PREPARE:
            if op.k == op.nr:
                return DONE
            action = free_prepare(z, op)
            if action >= 0:
                return action
        elif op.at == F_PREPARING:
            direct_free(z, op, op.page)
            op.at = F_PREPARE
            return UNLOCK_ZONE
        elif op.at == F_NEXT:
            action = free_next(z, op)
            if action >= 0:
                op.at = F_NEXT
                return action
        elif op.at == F_PICK:
            op.at = F_TRIED
            return lock_target(z, op)
        elif op.at == F_TRIED:
            if not op.got:
                z.counts[op.cpu].frees_failed_trylock += 1
                if op.target != op.cpu:
                    emit_other(z, E_REMOTE_FAIL, op.cpu, op.pages[op.k], op.target)
                op.at = F_DIRECT
            elif not z.pcp[op.target].online:      # P-44: went off-line before we had its lock
                op.at = F_NEXT
                return UNLOCK_PCP
            else:
                op.held = True
                commit_next(z, op)
        elif op.at == F_DRAIN:
            op.at = F_DRAINING
            return LOCK_ZONE
        elif op.at == F_DRAINING:
            drain_hold(z, op, z.pcp[op.target].batch)
            op.at = F_DRAINED
            return UNLOCK_ZONE
        elif op.at == F_DRAINED:
            if op.n > 0 and z.pcp[op.target].count > 0:
                op.held = False
                op.at = F_GAP
                return UNLOCK_PCP
            limit_end(z, op)
            op.at = F_NEXT
        elif op.at == F_GAP:
            op.at = F_RELOCKED
            return TRY_PCP
        elif op.at == F_RELOCKED:
            if op.got:
                op.held = True
                op.at = F_DRAIN
            else:
                limit_end(z, op)
                op.at = F_NEXT
        elif op.at == F_DIRECT:
            op.at = F_DIRECTING
            return TRY_ZONE if op.flags & OP_NOLOCK else LOCK_ZONE
        else:                                      # F_DIRECTING
            op.at = F_NEXT
            op.k += 1
            if op.flags & OP_NOLOCK and not op.got:
                defer(z, op, op.pages[op.k - 1])
            else:
                direct_free(z, op, op.pages[op.k - 1])
                return UNLOCK_ZONE


# -- drains (B-100, B-102, P-63) ---------------------------------------------------------------------------

cdef inline int drain_step(Zone *z, Op *op) noexcept nogil:
    """From target's PCP: op.n pages, or all. The waiting kind: task context only."""
    cdef Pcp *p = &z.pcp[op.target]
    cdef bint index = z.s.policy.drain == DRAIN_INDEX
    while True:
        if op.at == D_START:
            op.at = D_LOCKED
            return LOCK_PCP
        if op.at == D_LOCKED:
            if not op.flags & OP_AGAIN:
                if op.flags & OP_ALL:
                    op.n = p.count
                if op.n > 0 and p.count > 0 and z.s.policy.merge == MERGE_DRAIN:
                    merge_pass(z, op.cpu, op.target)
                op.flags |= OP_AGAIN
            if op.n > 0 and p.count > 0:
                op.at = D_HOLD
                return LOCK_ZONE
            op.at = D_HELD
            op.n = 0
        if op.at == D_HOLD:
            drain_hold(z, op, p.batch << SCALE_MAX if op.flags & OP_ALL else p.batch)
            op.at = D_HELD
            return UNLOCK_ZONE
        if op.at == D_HELD:
            if op.n > 0 and p.count > 0:
                if op.flags & OP_ONE_HOLD and index:
                    op.at = D_HOLD
                    return LOCK_ZONE
                op.at = D_START
                return UNLOCK_PCP
            op.at = AT_END
            if op.flags & OP_ALL and p.count > 0:
                op.flags &= ~OP_AGAIN
                op.at = D_START
            return UNLOCK_PCP
        return DONE


# -- one zone section ---------------------------------------------------------------------------------------

cdef inline void disown_all(Zone *z, int cpu) noexcept nogil:
    """P-85 step 3, T8: every block of a dead CPU."""
    cdef uint32_t n
    for n in range(first_block(z), first_block(z) + z.s.nr_blocks):
        if z.block[n].owner == cpu + 1:
            disown(z, n, BY_OFFLINE)

cdef inline uint32_t first_block(Zone *z) noexcept nogil:
    return 12 + z.s.cpus

cdef inline int zone_step(Zone *z, Op *op) noexcept nogil:
    if op.at == Z_START:
        op.at = Z_LOCKED
        return LOCK_ZONE
    if op.at == Z_LOCKED:
        op.at = AT_END
        z.counts[op.cpu].holds[H_OTHER] += 1
        if op.section == Z_ISOLATE:
            op.result = isolate_block(z, op.cpu, op.page, op.flags & 1, op.flags & 2)
        elif op.section == Z_UNISOLATE:
            op.result = unisolate_block(z, op.cpu, op.page)
        elif op.section == Z_UNRESERVE:
            op.result = unreserve(z, op.cpu, op.type)
        else:
            disown_all(z, op.target)
        return UNLOCK_ZONE
    return DONE
