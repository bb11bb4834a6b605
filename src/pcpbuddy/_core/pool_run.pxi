# What a pool's threads run. Included by core.pyx and native.pyx, behind step.pxi.

from .atomic cimport likely
from .call cimport bulk_op
from .op cimport F_PREPARE, OP_BATCH
from .pool cimport Pool, pool_flags, put, this_slot, tick_if_due, try_get

cdef enum:
    AT_ONCE = 512              # pages of a bulk call between two looks at which CPU this is


cdef void run_pool(CZone *z, void *opaque) noexcept nogil:
    """Real threads; and what the kernel's timer does, since a pool has none. No lock is held here."""
    run_spinning(z, opaque)
    tick_if_due(z)

cdef idx get_drained(Pool *p, int cpu, int o, int T) noexcept nogil:
    """What lies in the lists of other CPUs counts, too. 0: there is none."""
    drain_all(p.z, cpu)
    return try_get(p, cpu, o, T)

cdef inline idx get_by(Pool *p, int cpu, int o, int T) noexcept nogil:
    """0: there is none, not even in the lists of other CPUs."""
    cdef idx i = try_get(p, cpu, o, T)
    return i if likely(i) else get_drained(p, cpu, o, T)

cdef inline idx get_page(Pool *p, int o, int T) noexcept nogil:
    return get_by(p, this_slot(p), o, T)

cdef int64_t get_many(Pool *p, int64_t n, int64_t *pages) noexcept nogil:
    """B-93, as often as it takes. Returns how many there were."""
    cdef Op op
    cdef idx got[AT_ONCE]
    cdef int64_t done = 0
    cdef int nr
    cdef int k
    while done < n:
        bulk_op(&op, this_slot(p), <int>min(n - done, AT_ONCE), MOVABLE, pool_flags(MOVABLE), got)
        run_pool(p.z, &op)
        nr = op.k
        if nr == 0:
            got[0] = get_page(p, 0, MOVABLE)
            if got[0] == 0:
                break
            nr = 1
        for k in range(nr):
            pages[done + k] = <int64_t>got[k] - p.z.s.first
        done += nr
    return done

cdef void put_many(Pool *p, int64_t n, const int64_t *pages) noexcept nogil:
    """B-91. Allocations of any order, each once."""
    cdef Op op
    cdef idx group[AT_ONCE]
    cdef int64_t done = 0
    cdef int k
    while done < n:
        begin(&op, F_PREPARE, False, this_slot(p))
        op.flags = OP_BATCH
        op.pages = group
        op.nr = <int>min(n - done, AT_ONCE)
        for k in range(op.nr):
            group[k] = <idx>pages[done + k] + p.z.s.first
        done += op.nr
        run_pool(p.z, &op)
