# Frees: to the owner of the page's block, to the own PCP, or past the PCPs (B-80 to B-82,
# B-90 to B-92, P-40 to P-47). Step functions: see op.pxd.

from .atomic cimport bump, load16, load32
from .cache cimport WATCHED
from .direct cimport defer, direct_free
from .drain cimport drain_hold, drain_start
from .events cimport E_FREE, E_FREE_BATCHED, E_REMOTE_FAIL, emit, emit_other
from .op cimport (
    DONE, F_ASKED, F_DIRECT, F_DIRECTING, F_DRAIN, F_DRAINED, F_DRAINING, F_GAP, F_NEXT, F_PICK, F_PREPARE, F_PREPARING,
    F_RELOCKED, F_TRIED, F_VISITED, GROUP, LOCK_PCP, LOCK_ZONE, OP_BATCH, OP_IRQ, OP_NOLOCK, OP_PREPARED, TRY_PCP,
    TRY_ZONE, UNLOCK_PCP, UNLOCK_ZONE, Op, settle_then, unsettled,
)
from .page cimport (
    BELOW_HIGH, DRAIN_BY_OWNER, ISOLATE, MERGE_FREE, ON, RECLAIM_ACTIVE, REMOTE_BLOCK, REMOTE_HANDOVER,
    REMOTE_LLIST, REMOTE_LOCAL, UNMOVABLE, Pcp, Zone, block_of, block_type, high_of, idx, set_high, word_of, word_order,
)
from .pcp cimport clamp, commit, list_type, mark_for, over_limit, pcp_order, pcp_put, row_committed
from .pcpblock cimport merge_before, merges_late, wants_pass
from .remote cimport absorb, announce, append, find_outbox, flush_outbox, overfull, push, pushed, slots, withdraw
from .watermark cimport leave_below_high, ownership_rests

cdef enum:
    GO_ON = -1                 # no lock action: op.at says what is next


# -- which way --------------------------------------------------------------------------------------------

cdef inline int route(Zone *z, int cpu, int owner) noexcept nogil:
    """P-40: the owner of the page's block, if it has one that is on-line; else the freeing CPU."""
    if owner == 0 or owner == cpu + 1 or z.s.policy.remote == REMOTE_LOCAL or not z.pcp[owner - 1].online:
        return cpu
    return cpu if ownership_rests(z) and not overfull(z, cpu, 1) else owner - 1

cdef inline bint to_zone(Zone *z, idx i) noexcept nogil:
    """No PCP serves the page's order, or its block is isolated."""
    return not pcp_order(z, word_order(word_of(z, i))) or block_type(z, i) == ISOLATE

cdef inline bint lock_free(Zone *z, Op *op) noexcept nogil:
    """P-42: foreign pages go by remote lists. B-92's frees try for the target's lock all the same (P-48)."""
    return z.s.policy.remote in (REMOTE_LLIST, REMOTE_HANDOVER) and not op.flags & OP_NOLOCK

cdef inline int lock_target(Zone *z, Op *op) noexcept nogil:
    if op.target != op.cpu and z.s.policy.remote == REMOTE_BLOCK and not op.flags & (OP_IRQ | OP_NOLOCK):
        op.got = True
        return LOCK_PCP
    return TRY_PCP

cdef inline void prepare(Zone *z, int cpu, idx i, int o) noexcept nogil:
    """17.2: mm_page_free comes before any list operation."""
    bump(&z.counts[cpu].pages_freed, 1 << o)
    emit(z, E_FREE, cpu, i, o, 0)

cdef inline int sort_key(Zone *z, Op *op, idx i) noexcept nogil:
    if not i:
        return -1
    return z.s.cpus if to_zone(z, i) else route(z, op.cpu, load16(&block_of(z, i).owner))

cdef inline void sort_group(Zone *z, Op *op) noexcept nogil:
    """P-47, batch_sort: the group by target, stable; what goes to the zone last. Insertion, for at most 31."""
    cdef int a
    cdef int b
    cdef idx i
    for a in range(op.k + 1, op.end):
        i = op.pages[a]
        b = a
        while b > op.k and sort_key(z, op, op.pages[b - 1]) > sort_key(z, op, i):
            op.pages[b] = op.pages[b - 1]
            b -= 1
        op.pages[b] = i


# -- into a PCP, or towards one -------------------------------------------------------------------------------

cdef inline void count_freed(Zone *z, Op *op, idx i) noexcept nogil:
    """The page is in a PCP, on a remote list or in an outbox: on with the next."""
    if op.flags & OP_BATCH:
        emit(z, E_FREE_BATCHED, op.cpu, i, 0, 0)
    if op.to == op.cpu:
        bump(&z.counts[op.cpu].frees_local, 1)
    else:
        bump(&z.counts[op.cpu].frees_remote, 1)
    op.k += 1
    op.at = F_NEXT

cdef inline void ask_drain(Zone *z, Op *op, int n, int o, int T) noexcept nogil:
    """A commit of an entry of order o and type T asks for n pages."""
    op.at = F_ASKED
    op.n = n
    op.start = drain_start(z, o, T)

cdef inline void drain_begin(Zone *z, Op *op) noexcept nogil:
    """What others pushed joins in, and one merge pass before the first hold (P-54), or late (P-55)."""
    op.at = F_DRAIN
    absorb(z, op)
    op.merged = not merges_late(z)
    if op.merged:
        merge_before(z, op.cpu, op.target, op.n)

cdef inline void drain_next(Zone *z, Op *op) noexcept nogil:
    """F_DRAIN: before each hold."""
    if not op.merged and wants_pass(z, op.target, min(op.n, z.pcp[op.target].count), op.start):
        op.merged = True
        merge_before(z, op.cpu, op.target, op.n)
    op.at = F_DRAINING

cdef inline bint limit_later(Zone *z, Op *op) noexcept nogil:
    return op.flags & OP_NOLOCK or z.s.policy.drain_by == DRAIN_BY_OWNER and op.target != op.cpu

cdef inline void commit_next(Zone *z, Op *op) noexcept nogil:
    """The next page into target's PCP, whose lock is held."""
    cdef idx i = op.pages[op.k]
    cdef int o = word_order(word_of(z, i))
    cdef int T = list_type(block_type(z, i))
    cdef int n
    count_freed(z, op, i)
    n = commit(
        z, &z.pcp[op.target], op.cpu, op.target, i, o, T, mark_for(z, block_of(z, i), op.target), limit_later(z, op),
        False,
    )
    if n:
        ask_drain(z, op, n, o, T)

cdef inline bint row_stops(Zone *z, Op *op) noexcept nogil:
    """Not below every limit of B-83, or each page that comes in is looked at; or each touch is charged."""
    return (
        WATCHED or z.s.policy.merge == MERGE_FREE or op.flags & OP_NOLOCK
        or load32(&z.s.flags) & (RECLAIM_ACTIVE | BELOW_HIGH)
    )

cdef inline bint commit_row(Zone *z, Op *op) noexcept nogil:
    """commit_next for the single pages of the own lists that come next, the rest changed once. False: not even one."""
    cdef Pcp *p = &z.pcp[op.cpu]
    cdef int high = clamp(high_of(p), p.high_min, p.high_max)
    cdef int end = min(op.end, op.k + high - 1 - p.count)
    cdef int own = op.cpu + 1
    cdef int owner
    cdef int k = op.k
    cdef int T
    cdef idx i
    if row_stops(z, op):
        return False
    while k < end and op.pages[k]:
        i = op.pages[k]
        owner = load16(&block_of(z, i).owner)
        T = block_type(z, i)
        if word_order(word_of(z, i)) or T == ISOLATE or owner and owner != own:
            break
        if op.flags & OP_BATCH:
            emit(z, E_FREE_BATCHED, op.cpu, i, 0, 0)
        pcp_put(z, op.cpu, i, 0, list_type(T), mark_for(z, block_of(z, i), op.cpu), False)
        k += 1
    if k == op.k:
        return False
    row_committed(p, k - op.k, high)
    bump(&z.counts[op.cpu].frees_local, k - op.k)
    op.k = k
    op.at = F_NEXT
    return True

cdef inline bint push_next(Zone *z, Op *op) noexcept nogil:
    """P-46: the next page onto op.to's remote list, without any lock. False: over its bound."""
    cdef idx i = op.pages[op.k]
    if not announce(z, op.cpu, op.to, 1 << word_order(word_of(z, i))):
        op.at = F_DIRECT
        return False
    count_freed(z, op, i)
    push(z, op.cpu, op.to, i)
    pushed(z, op, op.to)
    return True

cdef inline int gather_next(Zone *z, Op *op) noexcept nogil:
    """P-46b: the next page into the outbox for op.to. The own PCP lock is held."""
    cdef idx i = op.pages[op.k]
    cdef int pages = 1 << word_order(word_of(z, i))
    cdef int k = find_outbox(z, op.cpu, op.to)
    op.at = F_NEXT
    if not announce(z, op.cpu, op.to, pages):
        op.at = F_DIRECT
        op.held = False
        return UNLOCK_PCP
    if k == slots(z):   # all are in use, for others
        flush_outbox(z, op, op.cpu, 0)
        if op.dead or op.full:             # settled first, without the lock; then this page again
            withdraw(z, op.to, pages)
            return GO_ON
    count_freed(z, op, i)
    append(z, op, i)
    return GO_ON

cdef inline int deal(Zone *z, Op *op) noexcept nogil:
    """target's PCP lock is held."""
    if op.to != op.target:
        return gather_next(z, op)
    if op.end == 1 or op.to != op.cpu or not commit_row(z, op):   # a single free is no row
        commit_next(z, op)
    return GO_ON

cdef inline int release(Op *op) noexcept nogil:
    op.held = False
    op.at = F_NEXT
    return UNLOCK_PCP

cdef inline int visit(Op *op) noexcept nogil:
    """P-45: the CPU that was pushed too much; if somebody has its lock, the next push will see."""
    op.target = <unsigned short>(op.full - 1)
    op.full = 0
    op.at = F_VISITED
    return TRY_PCP

cdef inline int visited(Zone *z, Op *op) noexcept nogil:
    """F_VISITED: what waits moves in, and the limit is looked at as after a free."""
    cdef Pcp *p = &z.pcp[op.target]
    cdef int n
    op.at = F_NEXT
    op.held = op.got
    if not op.got or not p.online:         # gone: whoever takes it off-line has drained it, or will
        return GO_ON
    absorb(z, op)
    set_high(p, clamp(high_of(p), p.high_min, p.high_max))
    n = over_limit(z, p, False)
    if n:
        ask_drain(z, op, n, 0, UNMOVABLE)
    return GO_ON

cdef inline int free_next(Zone *z, Op *op) noexcept nogil:
    """Choose the next page's way. Returns a lock action, ELSEWHERE, or GO_ON."""
    cdef idx i
    if unsettled(op):
        return release(op) if op.held else settle_then(op, F_NEXT)
    if op.full:
        return release(op) if op.held else visit(op)
    while op.k < op.end and not op.pages[op.k]:    # freed in the first pass
        op.k += 1
    if op.k == op.end:
        if op.held:
            return release(op)
        op.at = F_PREPARE
        return GO_ON
    i = op.pages[op.k]
    if to_zone(z, i):
        if op.held:
            return release(op)
        op.at = F_DIRECT
        return GO_ON
    op.to = <unsigned short>route(z, op.cpu, load16(&block_of(z, i).owner))
    if op.to != op.cpu and z.s.policy.remote == REMOTE_LLIST and not op.flags & OP_NOLOCK:
        if not push_next(z, op) and op.held:
            op.held = False
            return UNLOCK_PCP
        return GO_ON
    return lock_next(z, op)

cdef inline int lock_next(Zone *z, Op *op) noexcept nogil:
    """Whose lock the next page needs: that of its target; with outboxes always the own."""
    cdef int target = op.to
    if z.s.policy.remote == REMOTE_HANDOVER and not op.flags & OP_NOLOCK:
        target = op.cpu
    if op.held and target == op.target:
        return deal(z, op)
    if op.held:
        return release(op)
    op.target = <unsigned short>target
    op.at = F_PICK
    return GO_ON

cdef inline void not_locked(Zone *z, Op *op) noexcept nogil:
    """The trylock failed. With remote lists the page is pushed alone: that is safe anywhere (P-41)."""
    if lock_free(z, op) and push_next(z, op):
        return
    op.at = F_DIRECT
    if op.to != op.target:                 # the own lock was for an outbox only: the bound keeps the page off
        return
    bump(&z.counts[op.cpu].frees_failed_trylock, 1)
    if op.to != op.cpu:
        emit_other(z, E_REMOTE_FAIL, op.cpu, op.pages[op.k], op.to)


# -- one free, or a row of them ---------------------------------------------------------------------------------

cdef inline void prepare_row(Zone *z, Op *op, int end) noexcept nogil:
    """Pass 1 over the single pages that come next."""
    cdef int first = op.end
    cdef int k = first
    while k < end and not word_order(word_of(z, op.pages[k])):
        emit(z, E_FREE, op.cpu, op.pages[k], 0, 0)
        k += 1
    bump(&z.counts[op.cpu].pages_freed, k - first)
    op.end = k

cdef inline int free_prepare(Zone *z, Op *op) noexcept nogil:
    """B-91 pass 1 over the next group: mm_page_free of each; what no PCP serves goes to the zone at once."""
    cdef int end = min(op.nr, op.k + GROUP)
    cdef idx i
    cdef int o
    if op.k == op.nr:
        return DONE
    while op.end < end:
        if op.flags & OP_BATCH and not op.flags & OP_PREPARED:
            prepare_row(z, op, end)
            if op.end == end:
                break
        i = op.pages[op.end]
        o = word_order(word_of(z, i))
        op.end += 1
        if not op.flags & OP_PREPARED:
            prepare(z, op.cpu, i, o)
        if op.flags & OP_BATCH and not pcp_order(z, o):
            op.page = i
            op.pages[op.end - 1] = 0
            op.at = F_PREPARING
            return LOCK_ZONE
    if z.s.policy.batch_sort == ON:
        sort_group(z, op)
    op.at = F_NEXT
    return GO_ON

cdef inline int after_drain(Zone *z, Op *op) noexcept nogil:
    """B-82 step 6: the drain that a commit asked for is over."""
    leave_below_high(z)
    op.at = F_NEXT
    return GO_ON

cdef inline int drain_on(Zone *z, Op *op) noexcept nogil:
    """F_DRAINED: between two holds the PCP lock is dropped and tried again (B-82)."""
    if op.n > 0 and z.pcp[op.target].count > 0:
        op.held = False
        op.at = F_GAP
        return UNLOCK_PCP
    return after_drain(z, op)

cdef inline int locked_or_not(Zone *z, Op *op) noexcept nogil:
    """F_TRIED."""
    if not op.got:
        not_locked(z, op)
        return GO_ON
    op.held = True
    if op.target != op.cpu and not z.pcp[op.target].online:    # P-44: went off-line before we had its lock
        return release(op)
    return deal(z, op)

cdef inline int zone_tried(Zone *z, Op *op) noexcept nogil:
    """F_DIRECTING."""
    op.at = F_NEXT
    op.k += 1
    bump(&z.counts[op.cpu].frees_direct, 1)
    if op.flags & OP_NOLOCK and not op.got:
        defer(z, op, op.pages[op.k - 1])
        return GO_ON
    direct_free(z, op, op.pages[op.k - 1])
    return UNLOCK_ZONE

cdef inline int free_step(Zone *z, Op *op) noexcept nogil:
    cdef int action = GO_ON
    while action == GO_ON:
        if op.at == F_PREPARE:
            action = free_prepare(z, op)
        elif op.at == F_PREPARING:
            bump(&z.counts[op.cpu].frees_direct, 1)
            direct_free(z, op, op.page)
            op.at = F_PREPARE
            return UNLOCK_ZONE
        elif op.at == F_NEXT:
            action = free_next(z, op)
        elif op.at == F_PICK:
            op.at = F_TRIED
            return lock_target(z, op)
        elif op.at == F_TRIED:
            action = locked_or_not(z, op)
        elif op.at == F_VISITED:
            action = visited(z, op)
        elif op.at == F_ASKED:
            drain_begin(z, op)
        elif op.at == F_DRAIN:
            drain_next(z, op)
            return LOCK_ZONE
        elif op.at == F_DRAINING:
            drain_hold(z, op, z.pcp[op.target].batch)
            op.at = F_DRAINED
            return UNLOCK_ZONE
        elif op.at == F_DRAINED:
            action = drain_on(z, op)
        elif op.at == F_GAP:
            op.at = F_RELOCKED
            return TRY_PCP
        elif op.at == F_RELOCKED:
            op.held = op.got
            if op.got and z.pcp[op.target].count > 0:
                op.at = F_DRAIN
            else:
                action = after_drain(z, op)
        elif op.at == F_DIRECT:
            op.at = F_DIRECTING
            return TRY_ZONE if op.flags & OP_NOLOCK else LOCK_ZONE
        else:
            action = zone_tried(z, op)
    return action
