# What this machine needs for the things that the cost model charges for: loops that are timed, each with the
# smallest thing it can measure. costs/calibration.py says which loops make which number.
#
# Loops run over memory that the caller maps: lines of 128 bytes (two cache lines, since some CPUs fetch pairs) for
# what two CPUs share, or descriptors of 64 bytes, as large as the kernel's struct page. A loop that needs a partner is
# called by two threads at once, side 0 and side 1; each gives up when the other does not come.

# cython: embedsignature=False, freethreading_compatible=True
# cython: boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True

from ..errors import PcpBuddyError

from libc.math cimport INFINITY
from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport free as c_free, malloc
from libc.string cimport memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from .atomic cimport cas32, exchange32, load32, relax, release32

cdef extern from *:
    """
    #include <linux/futex.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    #define cal_acquire(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
    #define cal_exchange(p, v) __atomic_exchange_n((p), (v), __ATOMIC_ACQ_REL)
    static long cal_wait(unsigned *p, unsigned seen)
    {
        return syscall(SYS_futex, p, FUTEX_WAIT_PRIVATE, seen, 0, 0, 0);
    }
    static void cal_wake(unsigned *p)
    {
        syscall(SYS_futex, p, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0);
    }
    /* The compiler takes x for changed, so no loop around it is folded. */
    #define cal_keep(x) __asm__ __volatile__("" : "+r"(x))
    """
    uint32_t acquire32 "cal_acquire"(uint32_t *p) noexcept nogil
    uint32_t exchange32_both "cal_exchange"(uint32_t *p, uint32_t v) noexcept nogil
    long futex_wait "cal_wait"(uint32_t *p, uint32_t seen) noexcept nogil
    void futex_wake "cal_wake"(uint32_t *p) noexcept nogil
    void keep "cal_keep"(uint64_t x) noexcept nogil

cdef enum:
    LINE = 32                  # words between two things that are to share no line
    MET = 0                    # lines of the shared memory: where the two sides meet, one each
    FLAG = 2
    TAIL = 3
    NODE = 4                   # of each side: whether it has the lock, who comes next, and when the lock was left
    STAMP = 2                  # word of that time
    SAMPLES = 128
    PATIENCE_NS = 2_000_000_000

    FREE = 1                   # page words, as the core's: state and order
    ORDER_SHIFT = 3
    LADDER = 9                 # orders of the ladder of splits and merges
    HEADS = 16                 # descriptors that are list heads; an even number, for buddies

cdef struct Descriptor:        # of a page
    uint32_t next
    uint32_t prev
    uint32_t word
    uint32_t refs
    uint64_t private
    uint64_t mapping
    uint64_t pad[4]

cdef inline int64_t now() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <int64_t>t.tv_sec * 1_000_000_000 + t.tv_nsec

cdef inline uint64_t spin(uint64_t steps) noexcept nogil:
    """Some time that no other CPU can shorten: a chain of multiplications."""
    cdef uint64_t x = steps
    cdef uint64_t _k
    for _k in range(steps):
        x *= 0x9e3779b97f4a7c15u
        keep(x)
    return x

cdef double median(int64_t *values, int n) noexcept nogil:
    """Of a few values, which it sorts; infinity if there are none."""
    cdef int64_t value
    cdef int i
    cdef int j
    if n == 0:
        return INFINITY
    for i in range(1, n):
        value = values[i]
        j = i
        while j > 0 and values[j - 1] > value:
            values[j] = values[j - 1]
            j -= 1
        values[j] = value
    return <double>values[n // 2]

cdef double per(int64_t spent, uint64_t n) except -1.0:
    """Nanoseconds for each of n; spent is negative when a partner stayed away."""
    if spent < 0:
        raise PcpBuddyError("calibration: the second thread did not come; is its CPU busy or not allowed?")
    return <double>spent / <double>n


# -- one CPU, nothing shared --------------------------------------------------------------------------------

def clock(uint64_t n):
    """ns of reading the clock, which every loop does twice."""
    cdef int64_t start = now()
    cdef uint64_t _k
    with nogil:
        for _k in range(n):
            now()
    return per(now() - start, n)

def lock(uint32_t[::1] shared, uint64_t n):
    """ns of taking and releasing a spin lock that nobody else wants."""
    cdef uint32_t *p = &shared[FLAG * LINE]
    cdef int64_t start = now()
    cdef uint64_t _k
    release32(p, 0)
    with nogil:
        for _k in range(n):
            while exchange32(p, 1):
                relax()
            release32(p, 0)
    return per(now() - start, n)

def push(uint32_t[::1] shared, uint64_t n):
    """ns of a push on a lockless list whose head is in the own cache."""
    cdef uint32_t *head = &shared[FLAG * LINE]
    cdef uint32_t *next = &shared[NODE * LINE]
    cdef int64_t start = now()
    cdef uint32_t old
    cdef uint64_t k
    with nogil:
        for k in range(n):
            old = load32(head)
            while True:
                next[0] = old
                if cas32(head, &old, <uint32_t>k):
                    break
    return per(now() - start, n)

def clear(uint8_t[::1] memory, uint64_t n, uint64_t seed):
    """ns of clearing a page, of pages in random order."""
    cdef uint64_t pages = memory.shape[0] >> 12
    cdef uint64_t x = seed
    cdef int64_t start = now()
    cdef uint64_t _k
    with nogil:
        for _k in range(n):
            x = x * 0x5851f42d4c957f2du + 0x14057b7ef767814fu
            memset(&memory[((x >> 33) % pages) << 12], 0, 4096)
    return per(now() - start, n)

def fault(uint8_t[::1] memory):
    """ns of the first write to a page of a new mapping."""
    cdef uint64_t pages = memory.shape[0] >> 12
    cdef int64_t start = now()
    cdef uint64_t k
    with nogil:
        for k in range(pages):
            memory[k << 12] = 1
    return per(now() - start, pages)


# -- descriptors and lists --------------------------------------------------------------------------------------

cdef inline Descriptor *descriptors(uint8_t[::1] memory) noexcept nogil:
    return <Descriptor *>&memory[0]

cdef inline void link_tail(Descriptor *d, uint32_t head, uint32_t i) noexcept nogil:
    cdef uint32_t last = d[head].prev
    d[i].prev = last
    d[i].next = head
    d[last].next = i
    d[head].prev = i

cdef inline void unlink(Descriptor *d, uint32_t i) noexcept nogil:
    cdef uint32_t next = d[i].next
    cdef uint32_t prev = d[i].prev
    d[prev].next = next
    d[next].prev = prev

def prepare(uint8_t[::1] memory, uint64_t nr, uint64_t seed):
    """The first list gets `nr` descriptors in random order; the other heads get empty lists."""
    cdef Descriptor *d = descriptors(memory)
    cdef uint32_t *order
    cdef uint64_t x = seed
    cdef uint64_t k
    cdef uint64_t j
    if nr < 2 or (nr + HEADS) * sizeof(Descriptor) > <uint64_t>memory.shape[0]:
        raise PcpBuddyError(f"calibration: {nr} descriptors do not fit in {memory.shape[0]} bytes")
    order = <uint32_t *>malloc(nr * sizeof(uint32_t))
    if order is NULL:
        raise MemoryError()
    with nogil:
        memset(d, 0, (nr + HEADS) * sizeof(Descriptor))
        for k in range(HEADS):
            d[k].next = <uint32_t>k
            d[k].prev = <uint32_t>k
        for k in range(nr):
            order[k] = <uint32_t>k
        for k in range(nr - 1, 0, -1):
            x = x * 0x5851f42d4c957f2du + 0x14057b7ef767814fu
            j = (x >> 33) % (k + 1)
            order[k], order[j] = order[j], order[k]
        for k in range(nr):
            link_tail(d, 0, HEADS + order[k])
    c_free(order)

cdef uint64_t relink_nogil(Descriptor *d, uint64_t n) noexcept nogil:
    cdef uint64_t found = 0
    cdef uint32_t i
    cdef uint64_t _k
    for _k in range(n):
        i = d[0].next
        unlink(d, i)
        if (d[i ^ 1].word & 7) == FREE:
            found += 1
        d[i].word += 8
        link_tail(d, 0, i)
    return found

def relink(uint8_t[::1] memory, uint64_t n):
    """
    ns of what a free does to descriptors, n times: the first leaves the list, its buddy is looked at, it becomes the
    last. Two of the descriptors that this touches, the next of the list and the buddy, were not touched just before.
    """
    cdef Descriptor *d = descriptors(memory)
    cdef int64_t start = now()
    cdef uint64_t found
    with nogil:
        found = relink_nogil(d, n)
        keep(found)
    return per(now() - start, n)

def chase(uint8_t[::1] memory, uint64_t n):
    """ns of one read that must wait for the one before it: along the list."""
    cdef Descriptor *d = descriptors(memory)
    cdef int64_t start = now()
    cdef uint64_t i = 0
    cdef uint64_t _k
    with nogil:
        for _k in range(n):
            i = d[i].next
        keep(i)
    return per(now() - start, n)

def touch(uint8_t[::1] memory, uint64_t nr, uint64_t n, uint64_t seed):
    """ns of one touch of a random descriptor of the first `nr`; no touch waits for another."""
    cdef Descriptor *d = descriptors(memory)
    cdef uint64_t x = seed
    cdef int64_t start = now()
    cdef uint64_t _k
    with nogil:
        for _k in range(n):
            x = x * 0x5851f42d4c957f2du + 0x14057b7ef767814fu
            d[HEADS + (x >> 33) % nr].word += 8
    return per(now() - start, n)

def entry(uint8_t[::1] memory, uint64_t n):
    """ns of taking the first entry of a list and adding it as the last."""
    cdef Descriptor *d = descriptors(memory)
    cdef int64_t start = now()
    cdef uint32_t i
    cdef uint64_t _k
    with nogil:
        for _k in range(n):
            i = d[0].next
            unlink(d, i)
            link_tail(d, 0, i)
    return per(now() - start, n)

cdef inline void account(int64_t *counters, int o, int64_t sign) noexcept nogil:
    """What a zone counts with every chunk: chunks of the order, free pages, list operations."""
    counters[o] += sign
    counters[12] += sign << o
    counters[13] += 1

cdef int clear_lists(Descriptor *d, int64_t size) except -1:
    """Empty lists of all orders below a pageblock, for descriptors of a whole one."""
    cdef int o
    if size < (2 << LADDER) * <int64_t>sizeof(Descriptor):
        raise PcpBuddyError(f"calibration: {size} bytes hold no pageblock")
    for o in range(LADDER):
        d[1 + o].next = d[1 + o].prev = 1 + o
    return 0

def list_op(uint8_t[::1] memory, int64_t[::1] counters, uint64_t n):
    """ns of adding a chunk to a zone list and taking it away again, with its word and the zone's counters."""
    cdef Descriptor *d = descriptors(memory)
    cdef int64_t *c = &counters[0]
    cdef int64_t start
    cdef uint32_t base = 1 << LADDER
    cdef int o
    cdef uint64_t _k
    clear_lists(d, memory.shape[0])
    start = now()
    with nogil:
        for _k in range(n):
            for o in range(LADDER - 1, -1, -1):
                d[base + o].word = FREE
                link_tail(d, 1 + o, base + o)
                account(c, o, 1)
            for o in range(LADDER):
                unlink(d, base + o)
                d[base + o].word = 0
                account(c, o, -1)
    return per(now() - start, n * LADDER)

def move(uint8_t[::1] memory, int64_t[::1] counters, uint64_t n):
    """ns of moving a chunk to the list of another type: here to the end of its own, with its counters."""
    cdef Descriptor *d = descriptors(memory)
    cdef int64_t *c = &counters[0]
    cdef int64_t start = now()
    cdef uint32_t i
    cdef uint64_t k
    with nogil:
        for k in range(n):
            i = d[0].next
            unlink(d, i)
            link_tail(d, 0, i)
            c[k & 1] -= 1
            c[14 + (k & 1)] += 1
    return per(now() - start, n)

def ladder(uint8_t[::1] memory, int64_t[::1] counters, uint64_t n):
    """The same as splits of a block down to order 0 and merges up again: buddies are reckoned, and looked at."""
    cdef Descriptor *d = descriptors(memory)
    cdef int64_t *c = &counters[0]
    cdef int64_t start
    cdef uint32_t base = 1 << LADDER
    cdef uint32_t b
    cdef int o
    cdef uint64_t _k
    clear_lists(d, memory.shape[0])
    start = now()
    with nogil:
        for _k in range(n):
            for o in range(LADDER - 1, -1, -1):
                b = base + (1u << o)
                d[b].word = FREE | <uint32_t>o << ORDER_SHIFT
                link_tail(d, 1 + o, b)
                account(c, o, 1)
            for o in range(LADDER):
                b = base ^ (1u << o)
                if d[b].word != (FREE | <uint32_t>o << ORDER_SHIFT):
                    break
                unlink(d, b)
                d[b].word = 0
                account(c, o, -1)
    return per(now() - start, n * LADDER)

def scan(uint8_t[::1] memory, uint64_t nr, uint64_t n):
    """ns of one pfn in a walk over the words of `nr` descriptors, none of which is free."""
    cdef Descriptor *d = descriptors(memory)
    cdef int64_t start = now()
    cdef uint64_t found = 0
    cdef uint64_t _k
    cdef uint64_t i
    with nogil:
        for _k in range(n):
            i = HEADS
            while i < HEADS + nr:
                if (d[i].word & 7) == FREE:
                    found += 1
                    i += 1u << ((d[i].word >> ORDER_SHIFT) & 15)
                else:
                    i += 1
            keep(found)
    return per(now() - start, n * nr)

def visit(uint8_t[::1] memory, bint buddies, uint64_t n):
    """ns of one entry in a walk along the list; with its buddy looked at, or not."""
    cdef Descriptor *d = descriptors(memory)
    cdef int64_t start = now()
    cdef uint64_t found = 0
    cdef uint32_t i = 0
    cdef uint64_t _k
    with nogil:
        for _k in range(n):
            i = d[i].next
            found += d[i].word & 7
            if buddies and (d[i ^ 1].word & 7) == FREE:
                found += 1
        keep(found)
    return per(now() - start, n)

def page(uint8_t[::1] memory, uint64_t nr, uint64_t n):
    """ns of preparing a page for its user and of checking it when it comes back, of `nr` pages in turn."""
    cdef Descriptor *d = descriptors(memory)
    cdef Descriptor *p
    cdef int64_t start = now()
    cdef uint64_t bad = 0
    cdef uint64_t i = 0
    cdef uint64_t k
    with nogil:
        for k in range(n):
            p = d + HEADS + i
            if p.mapping or p.refs:
                bad += 1
            p.private = 0
            p.refs = 1
            p.pad[0] = k
            keep(bad)
            p.refs = 0
            if p.mapping or p.private or p.pad[1]:
                bad += 1
            p.pad[2] = 0
            i += 1
            if i == nr:
                i = 0
    return per(now() - start, n)

include "calibrate_pair.pxi"
