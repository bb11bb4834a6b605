# Allocators under timed loads: what poolbench/worker.py runs. Every allocator comes through one table of functions
# (pa_ops, include/pcpbuddy.h), so that each pays for the same indirect calls. Times are nanoseconds. Beside time, a
# timed part counts page faults and the CPU time of its thread: without the first, with all of the second, time is true.

# cython: embedsignature=False, freethreading_compatible=True
# cython: boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True

from ..errors import PcpBuddyError

from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport free as c_free, malloc
from libc.string cimport memset
from posix.time cimport CLOCK_MONOTONIC, CLOCK_THREAD_CPUTIME_ID, clock_gettime, clockid_t, timespec
from .atomic cimport relax

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <sched.h>
    #include <sys/resource.h>
    struct pb_ops {
        const char *name;
        int (*init)(size_t, int, void *);
        uint64_t (*get)(int, int);
        void (*put)(int, uint64_t, int);
        int handle_is_ptr;
        size_t (*meta_bytes)(void);
        void (*thread_init)(int);
    };
    /* Allocators of the malloc kind, and none at all, as such a table. */
    static void *(*pb_memalign)(size_t alignment, size_t size);
    static void *(*pb_memalign_swapped)(size_t size, size_t alignment);
    static void (*pb_give_back)(void *);
    static uint64_t pb_malloc_get(int cpu, int order) {
        void *p = pb_memalign(4096, (size_t)4096 << order);
        (void)cpu;
        return p ? (uint64_t)(uintptr_t)p : ~(uint64_t)0;
    }
    static uint64_t pb_swapped_get(int cpu, int order) {
        void *p = pb_memalign_swapped((size_t)4096 << order, 4096);
        (void)cpu;
        return p ? (uint64_t)(uintptr_t)p : ~(uint64_t)0;
    }
    static void pb_malloc_put(int cpu, uint64_t p, int order) {
        (void)cpu;
        (void)order;
        pb_give_back((void *)(uintptr_t)p);
    }
    static uint64_t pb_empty_get(int cpu, int order) { return (uint64_t)(cpu + order); }
    static void pb_empty_put(int cpu, uint64_t p, int order) { (void)cpu; (void)p; (void)order; }
    static int pb_no_init(size_t frames, int ncpu, void *arena) { (void)frames; (void)ncpu; (void)arena; return 0; }
    static int64_t pb_faults(void) {
        struct rusage used;
        return getrusage(RUSAGE_THREAD, &used) ? 0 : (int64_t)used.ru_minflt + used.ru_majflt;
    }
    static struct pb_ops pb_malloc = {"malloc", pb_no_init, pb_malloc_get, pb_malloc_put, 1, 0, 0};
    static struct pb_ops pb_swapped = {"malloc", pb_no_init, pb_swapped_get, pb_malloc_put, 1, 0, 0};
    static struct pb_ops pb_empty = {"empty", pb_no_init, pb_empty_get, pb_empty_put, 0, 0, 0};
    static void pb_use_malloc(size_t get, size_t put) {
        pb_memalign = (void *(*)(size_t, size_t))get;
        pb_memalign_swapped = (void *(*)(size_t, size_t))get;
        pb_give_back = (void (*)(void *))put;
    }
    #define pb_get_ordered(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
    #define pb_set_ordered(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
    #define pb_count_in(p) __atomic_add_fetch((p), 1, __ATOMIC_ACQ_REL)
    """
    cdef struct pb_ops:
        int (*init)(size_t, int, void *) nogil
        uint64_t (*get)(int, int) nogil
        void (*put)(int, uint64_t, int) nogil
        size_t (*meta_bytes)() nogil
        void (*thread_init)(int) nogil
    pb_ops pb_malloc
    pb_ops pb_swapped
    pb_ops pb_empty
    void pb_use_malloc(size_t get, size_t put) nogil
    uint64_t get_ordered "pb_get_ordered"(uint64_t *p) nogil
    void set_ordered "pb_set_ordered"(uint64_t *p, uint64_t v) nogil
    uint64_t count_in "pb_count_in"(uint64_t *p) nogil
    int64_t faults_so_far "pb_faults"() nogil
    int sched_yield() nogil

cdef enum:
    LIVE = 8192                # pages of churn, and at most between the two threads of xfree and xchg
    LINE = 16                  # words: what two threads write lies that far apart
    MOST_BATCH = 512
    CROSSED = 64               # pages of xcpu at a time

cdef uint64_t NO_PAGE = ~<uint64_t>0

cdef inline int64_t now(clockid_t clock) noexcept nogil:
    cdef timespec t
    clock_gettime(clock, &t)
    return <int64_t>t.tv_sec * 1_000_000_000 + t.tv_nsec

cdef struct Taken:             # by the timed parts of one thread's round
    int64_t wall_ns
    int64_t cpu_ns
    int64_t faults

cdef inline void begin(Taken *taken) noexcept nogil:
    taken.faults -= faults_so_far()
    taken.cpu_ns -= now(CLOCK_THREAD_CPUTIME_ID)
    taken.wall_ns -= now(CLOCK_MONOTONIC)

cdef inline void end(Taken *taken) noexcept nogil:
    taken.wall_ns += now(CLOCK_MONOTONIC)
    taken.cpu_ns += now(CLOCK_THREAD_CPUTIME_ID)
    taken.faults += faults_so_far()

cdef inline uint64_t next_random(uint64_t *x) noexcept nogil:
    x[0] ^= x[0] << 13
    x[0] ^= x[0] >> 7
    x[0] ^= x[0] << 17
    return x[0]


cdef class Allocator:
    """One allocator and the loads on it. Every method but `start` may run in several threads, one a number."""
    cdef pb_ops *ops
    cdef uint64_t *page        # handles of all threads, n for each
    cdef uint64_t *ring        # batches on their way: two rings of LIVE handles
    cdef uint64_t sync[8 * 16]    # counters of threads that have come, and positions in the rings, a line each
    cdef int64_t n
    cdef uint64_t depth        # handles that a ring holds
    cdef int threads
    cdef int order
    cdef bint failed

    def __cinit__(self):
        self.ops = NULL

    def __dealloc__(self):
        c_free(self.page)
        c_free(self.ring)

    @staticmethod
    def table(size_t address):
        cdef Allocator self = Allocator.__new__(Allocator)
        self.ops = <pb_ops *>address
        return self

    @staticmethod
    def malloc_kind(size_t get, size_t put, bint size_first):
        cdef Allocator self = Allocator.__new__(Allocator)
        pb_use_malloc(get, put)
        self.ops = &pb_swapped if size_first else &pb_malloc
        return self

    @staticmethod
    def empty():
        cdef Allocator self = Allocator.__new__(Allocator)
        self.ops = &pb_empty
        return self

    def init(self, int64_t frames, int cpus):
        if self.ops.init(frames, cpus, NULL):
            raise PcpBuddyError(f"the allocator cannot be made with {frames} pages")

    def meta_bytes(self):
        return self.ops.meta_bytes() if self.ops.meta_bytes is not NULL else 0

    def start(self, int64_t n, int threads, int order):
        """Before a round of so many pages a thread."""
        c_free(self.page)
        c_free(self.ring)
        self.page = <uint64_t *>malloc(8 * n * threads)
        self.ring = <uint64_t *>malloc(8 * 2 * LIVE)
        if self.page is NULL or self.ring is NULL:
            raise MemoryError()
        memset(self.page, 1, 8 * n * threads)    # touched, so that no page fault is timed
        memset(self.ring, 1, 8 * 2 * LIVE)
        memset(self.sync, 0, sizeof(self.sync))
        self.n = n
        self.depth = <uint64_t>min(n, LIVE)
        self.threads = threads
        self.order = order
        self.failed = False

    # -- what threads share ---------------------------------------------------------------------------------------

    cdef void meet(self, int which) noexcept nogil:
        """All threads are here."""
        cdef uint64_t *come = &self.sync[which * LINE]
        cdef int k = 0
        count_in(come)
        while get_ordered(come) < <uint64_t>self.threads:
            k += 1
            if k & 0xff:
                relax()
            else:
                sched_yield()

    cdef void wait_below(self, uint64_t *position, uint64_t least) noexcept nogil:
        """The other thread has a CPU of its own, so to yield early would only invite strangers into the timed part."""
        cdef int k = 0
        while get_ordered(position) < least and not self.failed:
            k += 1
            if k & 0xffff:
                relax()
            else:
                sched_yield()

    cdef inline uint64_t get(self, int cpu) noexcept nogil:
        cdef uint64_t page = self.ops.get(cpu, self.order)
        if page == NO_PAGE:
            self.failed = True
        return page

    # -- loads: what this thread's timed parts took ------------------------------------------------------------------

    cdef void bulk(self, int me, bint shuffled, Taken *taken) noexcept nogil:
        """n gets, then n puts, newest first, or shuffled across the threads."""
        cdef uint64_t *page = self.page + me * self.n
        cdef uint64_t x = 88172645463325252u + <uint64_t>me
        cdef uint64_t kept
        cdef int64_t k
        cdef int64_t j
        self.meet(0)
        begin(taken)
        for k in range(self.n):
            page[k] = self.get(me)
        end(taken)
        self.meet(1)
        if shuffled and me == 0:
            for k in range(self.n * self.threads - 1, 0, -1):
                j = <int64_t>(next_random(&x) % <uint64_t>(k + 1))
                kept = self.page[k]
                self.page[k] = self.page[j]
                self.page[j] = kept
        self.meet(2)
        begin(taken)
        for k in range(self.n - 1, -1, -1):
            if page[k] != NO_PAGE:
                self.ops.put(me, page[k], self.order)
        end(taken)

    cdef void pairs(self, int me, int64_t held, int64_t rounds, int burst, Taken *taken) noexcept nogil:
        """While `held` pages are: bursts of gets, then their puts, newest first."""
        cdef uint64_t *page = self.page + me * self.n
        cdef uint64_t some[MOST_BATCH]
        cdef int64_t k
        cdef int64_t _k
        cdef int i
        memset(some, 0, 8 * burst)    # so that the stack is touched
        for k in range(held):
            page[k] = self.get(me)
        self.meet(0)
        begin(taken)
        for _k in range(rounds):
            for i in range(burst):
                some[i] = self.get(me)
            for i in range(burst - 1, -1, -1):
                if some[i] != NO_PAGE:
                    self.ops.put(me, some[i], self.order)
        end(taken)
        self.meet(1)
        for k in range(held):
            if page[k] != NO_PAGE:
                self.ops.put(me, page[k], self.order)

    cdef void churn(self, int me, int64_t rounds, Taken *taken) noexcept nogil:
        """LIVE pages (or n), and one at random is replaced."""
        cdef uint64_t *page = self.page + me * self.n
        cdef uint64_t live = <uint64_t>min(self.n, LIVE)
        cdef uint64_t x = 88172645463325252u + <uint64_t>me
        cdef uint64_t j
        cdef int64_t _k
        for j in range(live):
            page[j] = self.get(me)
        self.meet(0)
        begin(taken)
        for _k in range(rounds):
            j = next_random(&x) % live
            if page[j] != NO_PAGE:
                self.ops.put(me, page[j], self.order)
            page[j] = self.get(me)
        end(taken)
        self.meet(1)
        for j in range(live):
            if page[j] != NO_PAGE:
                self.ops.put(me, page[j], self.order)

    cdef void send(self, int ring, int cpu, int batch, uint64_t at) noexcept nogil:
        """A batch from its position on; waits while the ring is full."""
        cdef uint64_t *slots = self.ring + ring * LIVE
        cdef int k
        self.wait_below(&self.sync[(4 + 2 * ring) * LINE], at + batch - min(at + batch, self.depth))
        for k in range(batch):
            slots[(at + k) % self.depth] = self.get(cpu)
        set_ordered(&self.sync[(3 + 2 * ring) * LINE], at + batch)

    cdef void receive(self, int ring, int cpu, int batch, uint64_t at) noexcept nogil:
        """Nothing is taken once a get has failed: what the ring has is then not known."""
        cdef uint64_t *slots = self.ring + ring * LIVE
        cdef int k
        self.wait_below(&self.sync[(3 + 2 * ring) * LINE], at + batch)
        if self.failed:
            return
        for k in range(batch):
            self.ops.put(cpu, slots[(at + k) % self.depth], self.order)
        set_ordered(&self.sync[(4 + 2 * ring) * LINE], at + batch)

    cdef void passed_on(self, int me, int batch, int64_t batches, bint both, Taken *taken) noexcept nogil:
        """One gets and the other puts; or each puts what the other got."""
        cdef uint64_t at = 0
        cdef int64_t _k
        self.meet(0)
        begin(taken)
        for _k in range(batches):
            if self.failed:
                break
            if both or me == 0:
                self.send(me if both else 0, me, batch, at)
            if both or me == 1:
                self.receive(1 - me if both else 0, me, batch, at)
            at += batch
        end(taken)
        self.meet(1)

    cdef void crossed(self, int64_t rounds, Taken *taken) noexcept nogil:
        """One thread plays both CPUs: 64 gets on one, 64 puts on the other, in turn."""
        cdef uint64_t some[CROSSED]
        cdef int64_t _k
        cdef int i
        memset(some, 0, sizeof(some))
        begin(taken)
        for _k in range(rounds):
            for i in range(CROSSED):
                some[i] = self.get(0)
            for i in range(CROSSED):
                if some[i] != NO_PAGE:
                    self.ops.put(1, some[i], self.order)
        end(taken)

    def work(self, str load, int me, int batch, int64_t pairs):
        """
        One thread's part of a round. Returns (wall ns, CPU ns, page faults, pairs); PcpBuddyError if there was no page.

        batch: 1 to 512, and no more than n.
        """
        cdef int kind = ("bulk", "rand", "repeat", "lifo", "churn", "xfree", "xchg", "xcpu").index(load)
        cdef Taken taken
        if not 1 <= batch <= min(self.n, MOST_BATCH):
            raise PcpBuddyError(f"a batch of {batch}: expected 1 to {min(self.n, MOST_BATCH)}")
        memset(&taken, 0, sizeof(taken))
        if self.ops.thread_init is not NULL:
            self.ops.thread_init(me)
        if kind <= 1:
            pairs = self.n
        elif kind == 7:
            pairs -= pairs % CROSSED
        elif kind in (3, 5, 6):
            pairs -= pairs % batch
        with nogil:
            if kind <= 1:
                self.bulk(me, kind == 1, &taken)
            elif kind == 2:
                self.pairs(me, self.n, pairs, 1, &taken)
            elif kind == 3:
                self.pairs(me, 0, pairs // batch, batch, &taken)
            elif kind == 4:
                self.churn(me, pairs, &taken)
            elif kind <= 6:
                self.passed_on(me, batch, pairs // batch, kind == 6, &taken)
            else:
                self.crossed(pairs // CROSSED, &taken)
        if self.failed:
            raise PcpBuddyError(f"no page was left under {load}: more memory would do")
        return taken.wall_ns, taken.cpu_ns, taken.faults, pairs
