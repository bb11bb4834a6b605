# The pool for C, without Python: libpcpbuddy.so, and what include/pcpbuddy.h declares. From the same text.
#
# The functions need nothing of Python. What else Cython writes into a module nobody reaches: the linker leaves it out.

# cython: boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True

from libc.stdint cimport int64_t, uint64_t, uint8_t
from libc.stdlib cimport calloc, free as c_free
from libc.string cimport memset, strcmp

from .alloc cimport alloc_step, bulk_alloc_step
from .buddy cimport visible
from .call cimport Call
from .calls cimport drain_all, tick
from .check cimport Fault, check
from .cma cimport next_area
from .contig cimport (
    G_CALL, G_MOVE, G_OVER, MOVED, REFUSED, Contig, begin_cma_alloc, begin_cma_release, contig_next,
)
from .drain cimport drain_step, flush_step, zone_step
from .driver cimport NO_LOCKS, SPIN, begin, perform
from .free cimport free_step
from .init cimport attach, empty_lists, fit_policy, measure, start_zone
from .node cimport ZONE_NORMAL, NodeRef
from .op cimport B_START, DONE, D_START, ELSEWHERE, F_NEXT, Op, X_START, Z_START
from .page cimport (
    MOVABLE, MOVABLE_BIT, NR_FREE, PB_PAGES, Policy, Zone as CZone, ZoneState, idx, set_word, word_of, word_order,
)
from .pool cimport MAX_IDS, TICK_NS, pb_now_ns
from .request cimport carry

include "step.pxi"
include "pool_run.pxi"

cdef extern from "profiles.h" nogil:
    enum:
        PB_PROFILES
    const char *pb_profile_name(int k)
    void pb_profile(int k, Policy *p)

cdef extern from "<sys/mman.h>" nogil:
    enum:
        PROT_READ
        PROT_WRITE
        MAP_PRIVATE
        MAP_ANONYMOUS
        MAP_NORESERVE
        MADV_HUGEPAGE
    void *mmap(void *address, size_t length, int protection, int flags, int fd, int64_t offset)
    int munmap(void *address, size_t length)
    int madvise(void *address, size_t length, int advice)
    void *MAP_FAILED

cdef struct Native:
    Pool pool                  # first: a pcpbuddy_pool is any Pool
    CZone zone
    bint own_arena
    uint64_t arena_bytes

cdef int find_profile(const char *name) noexcept nogil:
    cdef int k
    for k in range(PB_PROFILES):
        if strcmp(pb_profile_name(k), name) == 0:
            return k
    return -1

cdef char *mapped(uint64_t size) noexcept nogil:
    cdef void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    if p == MAP_FAILED:
        return NULL
    madvise(p, size, MADV_HUGEPAGE)
    return <char *>p

cdef public Native *pcpbuddy_create(
    uint64_t pages, uint64_t cma_pages, int cpus, const char *policy, void *arena
) noexcept nogil:
    cdef int profile = find_profile(policy)
    cdef Native *self
    cdef ZoneState s
    cdef char *state
    cdef int k
    if profile < 0 or cpus < 1 or cpus > 512 or pages < 1 or pages > <uint64_t>1 << 31:
        return NULL
    if cma_pages and (cma_pages > pages or (pages | cma_pages) & (PB_PAGES - 1)):
        return NULL
    pb_profile(profile, &s.policy)
    fit_policy(&s.policy, cpus)
    measure(&s, 0, <int64_t>pages, cpus)
    self = <Native *>calloc(1, sizeof(Native))
    state = mapped(s.size)
    if self is NULL or state is NULL:
        c_free(self)
        return NULL
    (<ZoneState *>state).policy = s.policy
    measure(<ZoneState *>state, 0, <int64_t>pages, cpus)
    attach(&self.zone, state)
    empty_lists(&self.zone)
    self.zone.s.auto_sizing = True
    start_zone(&self.zone, <int64_t>pages, <int64_t>cma_pages, 512)
    self.zone.run = run_pool
    self.zone.s.tick_ns = pb_now_ns() + TICK_NS
    self.pool.z = &self.zone
    self.own_arena = arena is NULL
    self.arena_bytes = pages << 12
    self.pool.arena = mapped(self.arena_bytes) if self.own_arena else <char *>arena
    for k in range(MAX_IDS):
        self.pool.slot[k] = <unsigned short>(k % cpus)
    if self.pool.arena is NULL:
        munmap(state, s.size)
        c_free(self)
        return NULL
    return self

cdef public void pcpbuddy_destroy(Native *self) noexcept nogil:
    if self.own_arena:
        munmap(self.pool.arena, self.arena_bytes)
    munmap(self.zone.s, self.zone.s.size)
    c_free(self)

cdef public int64_t pcpbuddy_get(Pool *pool, int order) noexcept nogil:
    cdef idx i = get_page(pool, order, MOVABLE)
    return <int64_t>i - pool.z.s.first if i else -1

cdef public void pcpbuddy_put(Pool *pool, int64_t page) noexcept nogil:
    put(pool, this_slot(pool), <idx>page + pool.z.s.first)

cdef public int64_t pcpbuddy_get_bulk(Pool *pool, int64_t n, int64_t *pages) noexcept nogil:
    return get_many(pool, n, pages)

cdef public void pcpbuddy_put_bulk(Pool *pool, int64_t n, const int64_t *pages) noexcept nogil:
    put_many(pool, n, pages)

cdef public void *pcpbuddy_memory(Pool *pool, int64_t page) noexcept nogil:
    return pool.arena + (page << 12)

cdef public uint64_t pcpbuddy_meta_bytes(Pool *pool) noexcept nogil:
    return pool.z.s.size


# -- upkeep, and contiguous memory -----------------------------------------------------------------------------

cdef public void pcpbuddy_drain(Pool *pool) noexcept nogil:
    drain_all(pool.z, this_slot(pool))

cdef public void pcpbuddy_tick(Pool *pool) noexcept nogil:
    cdef int c
    for c in range(pool.z.s.cpus):
        tick(pool.z, c)

cdef public int64_t pcpbuddy_free_pages(Pool *pool) noexcept nogil:
    return visible(pool.z, NR_FREE)

cdef public int64_t pcpbuddy_free_chunks(Pool *pool, int order) noexcept nogil:
    return pool.z.s.nr_free[order]

cdef public int pcpbuddy_check(Pool *pool) noexcept nogil:
    cdef Fault fault
    cdef uint8_t *seen = <uint8_t *>calloc(pool.z.s.nr_pages - pool.z.s.first, 1)
    fault.rule = -1
    if seen is not NULL:
        check(pool.z, seen, &fault)
    c_free(seen)
    return fault.rule

cdef public void pcpbuddy_set_movable(Pool *pool, int64_t page, int movable) noexcept nogil:
    cdef idx i = <idx>page + pool.z.s.first
    set_word(pool.z, i, word_of(pool.z, i) | MOVABLE_BIT if movable else word_of(pool.z, i) & ~MOVABLE_BIT)

ctypedef public int (*Move)(void *argument, int64_t old, int64_t new, int order) noexcept nogil

cdef public int64_t pcpbuddy_cma_alloc(
    Pool *pool, int64_t count, int align, Move move, void *argument
) noexcept nogil:
    cdef Contig g
    cdef Call call
    cdef NodeRef node
    cdef idx area = 0
    cdef idx end = 0
    cdef int asked = G_CALL
    cdef int64_t first = pool.z.s.first
    memset(&node, 0, sizeof(node))
    node.nr = 1
    node.zones[0] = pool.z
    node.kinds[0] = ZONE_NORMAL
    if not next_area(pool.z, &area, &end):
        return -1
    begin_cma_alloc(&g, &call, &node, pool.z, area, end, count, align, this_slot(pool))
    while asked != G_OVER:
        asked = contig_next(&g)
        if asked == G_CALL:
            carry(&call)
        elif asked == G_MOVE:
            g.moved = REFUSED
            if move is not NULL and move(argument, g.old - first, g.target - first, word_order(g.word)):
                g.moved = MOVED
    return g.page - first if g.page else -1

cdef public void pcpbuddy_cma_release(Pool *pool, int64_t page, int64_t count) noexcept nogil:
    cdef Contig g
    cdef Call call
    begin_cma_release(&g, &call, pool.z, <idx>page + pool.z.s.first, count, this_slot(pool))
    while contig_next(&g) == G_CALL:
        carry(&call)


# -- pa_ops: the table of functions by which allocators are measured (docs/reference/bench-pool.md) ----------------

cdef Native *measured
cdef int measured_profile

cdef public int pb_pa_init(size_t frames, int ncpu, void *arena) noexcept nogil:
    global measured
    measured = pcpbuddy_create(frames, 0, ncpu, pb_profile_name(measured_profile), arena)
    return 0 if measured is not NULL else -1

cdef public uint64_t pb_pa_get(int cpu, int order) noexcept nogil:
    cdef idx i = get_by(&measured.pool, cpu, order, MOVABLE)
    return i - measured.zone.s.first if i else ~<uint64_t>0

cdef public void pb_pa_put(int cpu, uint64_t page, int order) noexcept nogil:
    put(&measured.pool, cpu, <idx>page + measured.zone.s.first)

cdef public size_t pb_pa_meta_bytes() noexcept nogil:
    return measured.zone.s.size

cdef public void pa_exit() noexcept nogil:
    global measured
    if measured is not NULL:
        pcpbuddy_destroy(measured)
    measured = NULL

cdef public int pb_pa_choose(const char *policy) noexcept nogil:
    global measured_profile
    cdef int k = find_profile(policy)
    if k >= 0:
        measured_profile = k
    return k

cdef extern from *:
    """
    int pb_pa_init(size_t, int, void *);
    uint64_t pb_pa_get(int, int);
    void pb_pa_put(int, uint64_t, int);
    size_t pb_pa_meta_bytes(void);
    int pb_pa_choose(const char *);
    struct pa_ops {
        const char *name;
        int (*init)(size_t frames, int ncpu, void *arena);
        uint64_t (*get)(int cpu, int order);
        void (*put)(int cpu, uint64_t handle, int order);
        int handle_is_ptr;
        size_t (*meta_bytes)(void);
        void (*thread_init)(int cpu);
    };
    struct pa_ops pa_ops = {"pcpbuddy", pb_pa_init, pb_pa_get, pb_pa_put, 0, pb_pa_meta_bytes, 0};
    /* The same under another profile, from the next init on; NULL: there is no such profile. */
    const struct pa_ops *pcpbuddy_pa_ops(const char *policy) {
        if (pb_pa_choose(policy) < 0)
            return 0;
        pa_ops.name = policy;
        return &pa_ops;
    }
    """
