# One step of an operation of any kind, and the two drivers that carry one to its end. Included by
# core.pyx, not cimported: this is compiled once, while all that it calls is inlined.

cdef int step(CZone *z, Op *op) noexcept nogil:
    """Carry an operation to its next lock action, through whatever kinds of states it passes."""
    cdef int action = ELSEWHERE
    while action == ELSEWHERE:
        if op.at < B_START:
            action = alloc_step(z, op)
        elif op.at < F_NEXT:
            action = bulk_alloc_step(z, op)
        elif op.at < D_START:
            action = free_step(z, op)
        elif op.at < X_START:
            action = drain_step(z, op)
        elif op.at < Z_START:
            action = flush_step(z, op)
        else:
            action = zone_step(z, op)
    return action

cdef void run_unlocked(CZone *z, void *opaque) noexcept nogil:
    """One thread: locks are free, trylocks fail when told to."""
    cdef Op *op = <Op *>opaque
    cdef int action = step(z, op)
    while action != DONE:
        perform(z, op, action, NO_LOCKS)
        action = step(z, op)

cdef void run_spinning(CZone *z, void *opaque) noexcept nogil:
    """Real threads, real spin locks. A broken zone ends the operation where it stands, what it had with it."""
    cdef Op *op = <Op *>opaque
    cdef int action = step(z, op)
    while action != DONE:
        if not perform(z, op, action, SPIN):
            op.page = 0
            op.k = 0
            return
        action = step(z, op)
