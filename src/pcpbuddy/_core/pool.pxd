# A pool: one zone under real threads, and the memory that its pages are.
#
# Nothing here waits for the kernel or asks Python. A thread that is moved to another CPU between asking where it is and
# taking the lock uses a pageset that is not its own: that costs a line transfer, no more.

cimport cython
from libc.stdint cimport int64_t, uint16_t

from .calls cimport drain_all, tick
from .driver cimport PLAIN, SPIN, alloc, free_page
from .page cimport MOVABLE, USE_CMA, WMARK_LOW, Zone, idx

cdef extern from *:
    """
    #include <sched.h>
    #include <stddef.h>
    #include <stdint.h>
    #include <time.h>
    /* Which CPU this thread is on: what the kernel keeps in the thread's rseq area (glibc 2.35), else a call. */
    #if defined(__GLIBC__) && (defined(__x86_64__) || defined(__aarch64__))
    extern const ptrdiff_t __rseq_offset __attribute__((weak));
    extern const unsigned int __rseq_size __attribute__((weak));
    #define PB_RSEQ (&__rseq_size != NULL && __rseq_size != 0)
    #define PB_RSEQ_CPU (*(volatile uint32_t *)((char *)__builtin_thread_pointer() + __rseq_offset)) /* cpu_id_start */
    #else
    #define PB_RSEQ 0
    #define PB_RSEQ_CPU 0
    #endif
    static inline __attribute__((always_inline, unused)) unsigned pb_this_cpu(void) {
        if (__builtin_expect(PB_RSEQ, 1))
            return PB_RSEQ_CPU;
        int cpu = sched_getcpu();
        return cpu < 0 ? 0 : (unsigned)cpu;
    }
    /* A number for each thread that asks, in the order in which they first do. */
    static inline __attribute__((unused)) unsigned pb_this_thread(void) {
        static unsigned next;
        static __thread unsigned mine;
        if (!mine)
            mine = __atomic_add_fetch(&next, 1, __ATOMIC_RELAXED);
        return mine - 1;
    }
    static __attribute__((noinline, unused)) int64_t pb_now_ns(void) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
        return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
    }
    #define pb_load64(p) __atomic_load_n((p), __ATOMIC_RELAXED)
    #define pb_cas64(p, old, v) __atomic_compare_exchange_n((p), (old), (v), 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED)
    """
    unsigned pb_this_cpu() nogil
    unsigned pb_this_thread() nogil
    int64_t pb_now_ns() nogil
    int64_t load_ns "pb_load64"(int64_t *p) nogil
    bint cas_ns "pb_cas64"(int64_t *p, int64_t *old, int64_t v) nogil

cdef enum:
    MAX_IDS = 4096             # CPU numbers that are told apart
    TICK_NS = 1000000000       # vmstat_interval

cdef struct Pool:
    Zone *z
    char *arena                # page 0's memory
    int by_thread              # a pageset for a thread, not for a CPU
    uint16_t slot[4096]        # of a CPU number: its pageset


@cython.cdivision(True)
cdef inline int this_slot(Pool *p) noexcept nogil:
    """The pageset that the calling thread is to use."""
    if p.by_thread:
        return <int>(pb_this_thread() % <unsigned>p.z.s.cpus)
    return p.slot[pb_this_cpu() & (MAX_IDS - 1)]

cdef inline int pool_flags(int T) noexcept nogil:
    """No watermark holds anything back: whoever runs a pool has no reclaim that could need it."""
    return WMARK_LOW | USE_CMA if T == MOVABLE else WMARK_LOW

cdef inline idx try_get(Pool *p, int cpu, int o, int T) noexcept nogil:
    if p.z.s.policy.plain:
        return alloc(p.z, cpu, o, T, pool_flags(T), SPIN | PLAIN)
    return alloc(p.z, cpu, o, T, pool_flags(T), SPIN)

cdef inline void put(Pool *p, int cpu, idx i) noexcept nogil:
    if p.z.s.policy.plain:
        free_page(p.z, cpu, i, 0, SPIN | PLAIN)
    else:
        free_page(p.z, cpu, i, 0, SPIN)

cdef inline void tick_if_due(Zone *z) noexcept nogil:
    """B-101 to B-103 for every CPU, by whoever comes along the slow way first when a second is over; 0: by nobody."""
    cdef int64_t due = load_ns(&z.s.tick_ns)
    cdef int64_t now
    cdef int c
    if not due:
        return
    now = pb_now_ns()
    if now < due or not cas_ns(&z.s.tick_ns, &due, now + TICK_NS):
        return
    for c in range(z.s.cpus):
        if z.pcp[c].online:
            tick(z, c)
