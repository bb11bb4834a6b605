# Drains of a PCP, flushes of outboxes, and single zone sections (B-85, B-100, B-102, P-46b,
# P-60 to P-63). Step functions: see op.pxd.

from libc.stdint cimport uint32_t

from .atomic cimport bump, loadi32
from .direct cimport direct_free
from .fallback cimport unreserve
from .isolation cimport capture, forget_block, isolate_block, test_isolated, unisolate_block
from .op cimport (
    AT_END, D_HELD, D_HOLD, D_LOCKED, D_REJECT, D_SETTLE, D_START, DONE, ELSEWHERE, LOCK_PCP, LOCK_ZONE, OP_AGAIN,
    OP_ALL, OP_CHECK, OP_FOR_CMA, OP_GONE, OP_ONE_HOLD, UNLOCK_PCP, UNLOCK_ZONE, X_LOCKED, X_START, Z_CAPTURE,
    Z_DISOWN, Z_ISOLATE, Z_LOCKED, Z_START, Z_TEST, Z_UNISOLATE, Z_UNRESERVE, Op, settle_then,
)
from .ownership cimport BY_OFFLINE, disown
from .page cimport DRAIN_INDEX, H_DRAIN, H_OTHER, PB, SCALE_MAX, Pcp, Zone, first_block, idx
from .pcp cimport bulk_free
from .pcpblock cimport drain_by_size, merge_before
from .remote cimport absorb, flush_outbox, has_remote, nr_outboxes


cdef inline int drain_start(Zone *z, int o, int T) noexcept nogil:
    """A drain begins at the freed entry: at its list (B-82), or at its type (P-61)."""
    if z.s.policy.drain == DRAIN_INDEX:
        return 3 * o + (0 if o == PB and T == 2 and z.s.policy.pcp_lists == 14 else T)
    return T

cdef inline void drain_hold(Zone *z, Op *op, int most) noexcept nogil:
    """What one zone-lock hold drains from target's PCP: B-85 of at most `most` pages, or P-60."""
    cdef int chunk
    bump(&z.counts[op.cpu].holds[H_DRAIN], 1)
    if z.s.policy.drain == DRAIN_INDEX:
        chunk = min(op.n, most)
        bulk_free(z, op.cpu, op.target, chunk, op.start)
        op.n -= chunk
    else:
        op.n = min(op.n, z.pcp[op.target].count)
        op.n = drain_by_size(z, op.cpu, op.target, op.n, op.start, op.merged)


# -- a drain --------------------------------------------------------------------------------------------

cdef inline int drain_locked(Zone *z, Op *op) noexcept nogil:
    """D_LOCKED: the first lock of a round absorbs and merges (P-46, P-54); then holds until op.n is 0."""
    cdef Pcp *p = &z.pcp[op.target]
    if not op.flags & OP_AGAIN:
        op.flags |= OP_AGAIN
        absorb(z, op)
        if op.flags & OP_ALL:
            op.n = p.count
        if op.n > 0 and p.count > 0:
            op.merged = True
            merge_before(z, op.cpu, op.target, op.n)
    if op.n > 0 and p.count > 0:
        op.at = D_HOLD
        return LOCK_ZONE
    op.at = D_SETTLE
    return UNLOCK_PCP

cdef inline int drain_held(Zone *z, Op *op) noexcept nogil:
    """D_HELD: a hold is over, the PCP lock is held."""
    if op.n > 0 and z.pcp[op.target].count > 0:
        if op.flags & OP_ONE_HOLD and z.s.policy.drain == DRAIN_INDEX:
            op.at = D_HOLD
            return LOCK_ZONE
        op.at = D_START
    else:
        op.at = D_SETTLE
    return UNLOCK_PCP

cdef inline void drain_round(Op *op, int target) noexcept nogil:
    """B-100 of target from its start."""
    op.target = <unsigned short>target
    op.start = 0
    op.flags = (op.flags & ~OP_AGAIN) | OP_ALL
    op.at = D_START

cdef inline int settled(Zone *z, Op *op) noexcept nogil:
    """D_SETTLE, rejects are freed: on to a dead target's PCP, to the next round, or to where this was called from."""
    if op.dead:
        drain_round(op, op.dead - 1)
        op.dead = 0
    elif op.flags & OP_ALL and (loadi32(&z.pcp[op.target].count) > 0 or has_remote(z, op.target)):
        drain_round(op, op.target)
    else:
        op.flags &= ~OP_ALL
        op.at = op.then if op.then else AT_END
        op.then = 0
        return ELSEWHERE
    return -1

cdef inline int drain_step(Zone *z, Op *op) noexcept nogil:
    """From target's PCP: op.n pages, or all. The waiting kind: task context only."""
    cdef idx i
    cdef int action = -1
    while action < 0:
        if op.at == D_START:
            op.at = D_LOCKED
            return LOCK_PCP
        if op.at == D_LOCKED:
            return drain_locked(z, op)
        if op.at == D_HOLD:
            drain_hold(z, op, z.pcp[op.target].batch << SCALE_MAX if op.flags & OP_ALL else z.pcp[op.target].batch)
            op.at = D_HELD
            return UNLOCK_ZONE
        if op.at == D_HELD:
            return drain_held(z, op)
        if op.at == D_SETTLE:
            if op.reject:
                op.at = D_REJECT
                return LOCK_ZONE
            action = settled(z, op)
        else:                              # D_REJECT
            i = op.reject
            op.reject = z.page[i].next
            direct_free(z, op, i)
            op.at = D_SETTLE
            return UNLOCK_ZONE
    return action


# -- a flush of all outboxes of one CPU (P-46b) --------------------------------------------------------------

cdef inline int flush_step(Zone *z, Op *op) noexcept nogil:
    """One by one, the least recently used first; what one leaves behind is settled before the next."""
    cdef int owner = op.owner
    if op.at == X_START:
        if not nr_outboxes(z, owner):
            return DONE
        op.target = <unsigned short>owner
        op.at = X_LOCKED
        return LOCK_PCP
    if nr_outboxes(z, owner):
        flush_outbox(z, op, owner, 0)
    settle_then(op, X_START)
    return UNLOCK_PCP


# -- one zone section ---------------------------------------------------------------------------------------

cdef inline void disown_all(Zone *z, int cpu) noexcept nogil:
    """P-85 step 3, T8: every block of a dead CPU."""
    cdef uint32_t n
    for n in range(first_block(z), first_block(z) + z.s.nr_blocks):
        if z.block[n].owner == cpu + 1:
            disown(z, n, BY_OFFLINE)

cdef inline int zone_step(Zone *z, Op *op) noexcept nogil:
    if op.at == Z_START:
        op.at = Z_LOCKED
        return LOCK_ZONE
    if op.at == Z_LOCKED:
        op.at = AT_END
        bump(&z.counts[op.cpu].holds[H_OTHER], 1)
        if op.section == Z_ISOLATE:
            op.result = isolate_block(z, op.cpu, &op.page, op.flags & OP_FOR_CMA, op.flags & OP_CHECK)
        elif op.section == Z_UNISOLATE:
            op.result = unisolate_block(z, op.cpu, op.page)
            if op.flags & OP_GONE:
                forget_block(z, op.page)
        elif op.section == Z_UNRESERVE:
            op.result = unreserve(z, op.cpu, op.type)
        elif op.section == Z_TEST:
            op.result = test_isolated(z, &op.page, op.n)
        elif op.section == Z_CAPTURE:
            op.n = capture(z, op.cpu, &op.page, op.n)
        else:
            disown_all(z, op.target)
        return UNLOCK_ZONE
    return DONE
