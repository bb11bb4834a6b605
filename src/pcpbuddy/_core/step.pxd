# One step of an operation of any kind, and the two drivers that carry one to its end.

from .alloc cimport alloc_step, bulk_alloc_step
from .drain cimport drain_step, flush_step, zone_step
from .driver cimport NO_LOCKS, SPIN, perform
from .free cimport free_step
from .op cimport B_START, DONE, D_START, ELSEWHERE, F_NEXT, X_START, Z_START, Op
from .page cimport Zone


cdef inline int step(Zone *z, Op *op) noexcept nogil:
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

cdef inline void run_unlocked(Zone *z, void *opaque) noexcept nogil:
    """One thread: locks are free, trylocks fail when told to."""
    cdef Op *op = <Op *>opaque
    cdef int action = step(z, op)
    while action != DONE:
        perform(z, op, action, NO_LOCKS)
        action = step(z, op)

cdef inline void run_spinning(Zone *z, void *opaque) noexcept nogil:
    """Real threads, real spin locks."""
    cdef Op *op = <Op *>opaque
    cdef int action = step(z, op)
    while action != DONE:
        perform(z, op, action, SPIN)
        action = step(z, op)
