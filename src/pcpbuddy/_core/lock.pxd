# Spin locks of the real drivers: a word of the zone's state that is 0, or says which process holds it.
#
# Who waits spins for a moment, then yields, since a holder may be preempted: never a bare spin for a whole time slice.
# A process of a shared pool may die while it holds a lock. Each holds a lock on a byte of the file (F_OFD_SETLK, byte
# `me`) that the system drops when it ends, however it ends; so a waiter can ask whether the holder is still there.
# If not, `broken` says so for good: whoever waits gives up, and the pool's faces say what to do.

from libc.stdint cimport uint32_t

from .atomic cimport load32, release32, relax, store32, take32, unlikely
from .page cimport Zone

cdef extern from *:
    """
    #include <fcntl.h>
    #include <sched.h>
    #include <time.h>
    #include <unistd.h>
    #ifndef F_OFD_GETLK
    #define F_OFD_GETLK 36
    #endif
    #ifdef PCPBUDDY_CHAOS  /* a build for tests: who takes or drops a lock may be preempted there */
    #include <stdint.h>
    static __thread uint64_t pb_chaos_state;
    static __attribute__((noinline, unused)) void pb_chaos(void) {
        pb_chaos_state = pb_chaos_state * 6364136223846793005u + 1442695040888963407u + (uintptr_t)&pb_chaos_state;
        if ((pb_chaos_state >> 60) == 0)
            sched_yield();
    }
    #else
    #define pb_chaos() ((void)0)
    #endif
    static __attribute__((noinline, unused)) void pb_yield(void) {
        sched_yield();
    }
    static __attribute__((noinline, unused)) void pb_sleep(void) {
        struct timespec t = {0, 50000};
        nanosleep(&t, 0);
    }
    /* Does some other open file hold this byte? True also if that cannot be known. */
    static __attribute__((noinline, unused)) int pb_byte_locked(int fd, uint32_t byte) {
        struct flock f = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
        return fcntl(fd, F_OFD_GETLK, &f) != 0 || f.l_type != F_UNLCK;
    }
    """
    void pb_chaos() nogil
    void pb_yield() nogil
    void pb_sleep() nogil
    bint pb_byte_locked(int fd, uint32_t byte) nogil

cdef enum:
    SPINS = 100                # a critical section is shorter
    YIELDS = 1000


cdef inline bint try_spin(Zone *z, uint32_t *lock) noexcept nogil:
    pb_chaos()
    return take32(lock, z.me)

cdef inline bint lock_spin(Zone *z, uint32_t *lock) noexcept nogil:
    """False: it can never be had, the pool is broken."""
    pb_chaos()
    while unlikely(not take32(lock, z.me)):
        if not wait_spin(z, lock):
            return False
    return True

cdef inline void unlock_spin(uint32_t *lock) noexcept nogil:
    pb_chaos()
    release32(lock, 0)

cdef inline bint holder_gone(Zone *z, uint32_t holder) noexcept nogil:
    return z.fd >= 0 and holder and holder != z.me and not pb_byte_locked(z.fd, holder)

cdef inline bint wait_spin(Zone *z, uint32_t *lock) noexcept nogil:
    """Until the lock was seen free."""
    cdef int k = 0
    cdef uint32_t holder = load32(lock)
    while holder:
        k += 1
        if k < SPINS:
            relax()
        elif k < YIELDS:
            pb_yield()
        elif load32(&z.s.broken):
            return False
        elif holder_gone(z, holder):
            if load32(lock) == holder:
                store32(&z.s.broken, holder)
                return False
        else:
            pb_sleep()
        holder = load32(lock)
    return True
