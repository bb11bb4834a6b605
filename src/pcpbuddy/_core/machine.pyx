# The machine: virtual CPUs that run the core's text in virtual time. The face is Simulation.
#
# A second extension, compiled from the same text with cache.WATCHED (decision 0005). Zones are those of the
# core's Zone objects: their state is one block of memory, in which this module works too. Docstrings for
# readers: machine.pyi. Arguments are checked in pcpbuddy.machine, and trusted here.

# cython: embedsignature=False, freethreading_compatible=True
# cython: boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.math cimport log as ln
from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free as c_free, malloc, realloc
from libc.string cimport memcpy, memset
from .atomic cimport bump
from .alloc cimport alloc_step, bulk_alloc_step
from .buddy cimport visible
from .cache cimport STAMP_BITS, STAMP_MASK, STAMP_SHIFT, Caches, Toucher
from .call cimport OVER
from .calls cimport online_cpu
from .cma cimport next_area
from .contig cimport (
    Contig, G_CALL, G_MOVE, G_RANGE, MOVED, REFUSED, begin_cma_alloc, begin_cma_release, begin_offline_pages,
    begin_online_pages, contig_next, first_memory,
)
from .drain cimport drain_step, flush_step, zone_step
from .driver cimport NO_LOCKS, SPIN, perform
from .free cimport free_step
from .init cimport attach, fold
from .node cimport NodeRef, gfp_type
from .op cimport (
    A_DIRECT, A_REFILL, A_TRIED, B_REFILL, B_START, B_TRIED, D_HOLD, D_REJECT, D_START, DONE, ELSEWHERE, F_DIRECTING,
    F_DRAINING, F_NEXT, F_PREPARING, F_TRIED, LOCK_ZONE, OP_IRQ, TRY_PCP, TRY_ZONE, UNLOCK_PCP, UNLOCK_ZONE, X_START,
    Z_START, Z_UNISOLATE, Op,
)
from .page cimport (
    ALLOC, H_DIRECT_ALLOC, H_DIRECT_FREE, H_DRAIN, H_OTHER, H_REFILL, MOVABLE, MOVABLE_BIT, NR_FREE,
    NR_FREE_CMA, NR_ORDERS, PB, PB_PAGES, RECLAIM_ACTIVE, Counts, Zone as CZone, Zone, ZoneState,
    first_block, idx, index_of, pfn_of, split_page, word_of, word_order,
)
from .replay cimport (
    H_BIAS, H_FAILED, H_UNKNOWN, R_ALLOC, R_BULK, R_BULK_MORE, R_FOLD, R_FREE, R_ISOLATE, R_OFFLINE, R_ONLINE, R_TICK,
    R_UNISOLATE, Request, map_run, unmap_run,
)
from .request cimport (
    begin_alloc, begin_bulk, begin_drain_all, begin_free, begin_free_batch, begin_free_run, begin_isolate,
    begin_offline, begin_tick, next_op,
)
from .watermark cimport watermark

cdef extern from *:
    """
    #define pb_clz(x) __builtin_clzll(x)
    #define PB_NEVER INT64_C(0x3fffffffffffff)
    #define PB_HORIZON INT64_C(0x1fffffffffffff)
    """
    int clz "pb_clz"(uint64_t x) noexcept nogil
    const int64_t NEVER "PB_NEVER"    # ps; a tree's key has room for no more
    const int64_t HORIZON "PB_HORIZON"    # no run is longer, no time in it: two hours and a half

cdef extern from "<stdlib.h>" nogil:
    void *aligned_alloc(size_t alignment, size_t size) noexcept

cdef enum:
    MOST_SAMPLES = 512         # of a zone
    MOST_HOLDS = 1048576       # kept rows; a power of two
    IDLE_STEPS = 1000000       # instructions in a row that take no time: such a program never ends
    ROUNDS = 64                # of one event
    PATIENCE = 1000            # ticks, or interrupts, that may wake somebody where all sleep
    ENDLESS = 1                # s.trouble
    NO_MEMORY = 2
    STUCK = 3
    CPU_BITS = 9
    TREE = 1096                # nodes, for 512 CPUs


include "step.pxi"
include "machine_clock.pxi"
include "machine_cpu.pxi"
include "machine_contig.pxi"
include "machine_program.pxi"
include "machine_replay.pxi"
include "machine_result.pxi"


# -- the run -----------------------------------------------------------------------------------------------------

cdef int zone_number(Sim *s, int node, int where) noexcept nogil:
    return <int>(s.node[node].zones[where] - s.zone)

cdef int zone_of_pfn(Sim *s, int64_t pfn) noexcept nogil:
    cdef int k = s.nr_zones - 1
    while k > 0 and not 0 <= pfn - s.zone[k].s.start_pfn < s.zone[k].s.spanned:
        k -= 1
    return k

cdef void advance(Sim *s, int64_t until_ps, uint64_t budget) noexcept nogil:
    """Event after event, until that time, for so many events, or until nothing is left to happen."""
    cdef int cpu
    cdef int64_t at_ps
    while budget and not s.trouble:
        budget -= 1
        cpu = <int>(s.tree[0] & ((1 << CPU_BITS) - 1))
        at_ps = <int64_t>(s.tree[0] >> CPU_BITS)
        if (s.awake == 0 or at_ps == NEVER) and nothing_left(s, at_ps):
            return
        if at_ps > until_ps and s.stop_ps < 0:
            s.now_ps = max(s.now_ps, until_ps)
            return
        while s.next_sample_ps <= at_ps and s.stop_ps < 0:
            s.now_ps = s.next_sample_ps
            take_samples(s)
            s.next_sample_ps += s.sample_ps
        if at_ps > s.now_ps:
            s.idle_steps = 0
        s.now_ps = at_ps
        s.events += 1
        event(s, cpu)

cdef bint nothing_left(Sim *s, int64_t at_ps) noexcept nogil:
    """Everybody sleeps or waits: all programs are at their end, or some wait for what will never come."""
    if s.nr_done == s.cpus and s.stop_ps < 0:
        stop_now(s)
    if s.stop_ps >= 0:
        s.finished = not dismiss_interrupts(s)
        if s.finished and calls_under_way(s):
            s.trouble = STUCK
        return s.finished
    if at_ps < HORIZON and may_be_woken(s):
        return False
    s.trouble = STUCK
    return True

cdef bint may_be_woken(Sim *s) noexcept nogil:
    """By what ticks and interrupts do? They may free memory, or give and take pages; but not for ever."""
    cdef int cpu
    cdef int64_t patience_ps = 0
    if s.irq_program is not NULL:
        patience_ps = PATIENCE * max(s.irq_mean_ps, <int64_t>1)
    if s.nr_free_sleepers:
        patience_ps = max(patience_ps, PATIENCE * s.tick_ps)
    if s.now_ps - s.program_ps > patience_ps:
        return False
    for cpu in range(s.cpus):
        if S_LEAST <= s.cpu[cpu].sleeps <= S_FREE:
            return True
    return False

cdef bint dismiss_interrupts(Sim *s) noexcept nogil:
    """The run is over: interrupts that wait for a lock of the program's wait no more. Were there any?"""
    cdef bint found = False
    cdef int cpu
    for cpu in range(s.cpus):
        if s.cpu[cpu].level and s.cpu[cpu].waits > s.nr_zones * (s.cpus + 1):
            leave_queue(s, cpu)
            end_interrupt(s, cpu)
            plan(s, cpu)
            found = True
    return found

cdef bint calls_under_way(Sim *s) noexcept nogil:
    cdef int cpu
    for cpu in range(s.cpus):
        if s.cpu[cpu].level or s.cpu[cpu].context[0].in_call or s.contig[cpu].on:
            return True
    return False


# -- the face ----------------------------------------------------------------------------------------------------

cdef object most_bulk(programs, irq_program, stream):
    """Pages of the largest bulk request."""
    wanted = [0]
    for program in (*programs, *([] if irq_program is None else [irq_program])):
        wanted += program["b"][program["op"] == I_BULK].tolist()
    if stream is not None:
        wanted += stream["requests"]["nr"][stream["requests"]["op"] == R_BULK].tolist()
    return max(wanted)


cdef object within_time(program):
    """A program whose times can be added up; for each of a bulk's pages it is a 4096th."""
    import numpy as np

    program = program.copy()
    several = np.isin(program["op"], (I_ALLOC, I_BULK, I_FREE))
    program["ps"] = program["ps"].clip(0, np.where(several, HORIZON // MOST_BULK, HORIZON))
    return program


cdef class Simulation:
    cdef Sim s
    cdef list zones
    cdef list kept             # buffers that the records point into
    cdef list stuck            # who waited for what, when nothing could go on
    cdef readonly object seed

    def __cinit__(self):
        memset(&self.s, 0, sizeof(Sim))

    def __dealloc__(self):
        free_all(&self.s)

    def __init__(self, zones, addresses, zone_node, zone_kind, cpu_node, costs, programs, cpu_program, *,
                 int nr_queues=0, int nr_barriers=0, int nr_locks=0, irq_program=None, double irq_every_ns=0,
                 stream=None, double tick_ns=1e9, double sample_ns=0, uint64_t seed=0, bint log=False,
                 bint holds=False):
        cdef Sim *s = &self.s
        cdef int k
        self.zones = list(zones)
        self.kept = []
        self.seed = seed
        s.cpus = len(cpu_node)
        s.nr_zones = len(zones)
        s.nr_nodes = max(zone_node) + 1
        s.nr_queues, s.nr_barriers, s.nr_user_locks = nr_queues, nr_barriers, nr_locks
        s.tick_ps = <int64_t>min(tick_ns * 1000, HORIZON / 4)
        s.sample_ps = <int64_t>min(sample_ns * 1000, HORIZON)
        s.next_sample_ps = s.sample_ps if s.sample_ps else NEVER
        s.irq_mean_ps = <int64_t>min(irq_every_ns * 1000, HORIZON)
        s.stop_ps = -1
        s.first_leaf = 8
        while 7 * s.first_leaf + 8 < 8 * s.cpus:    # as many leaves as 8, 64, 512
            s.first_leaf = 8 * (s.first_leaf + 1)
        s.most_pages = max(BATCH, min(most_bulk(programs, irq_program, stream), MOST_BULK))
        if not allocate(s):
            raise MemoryError()
        set_charges(s, costs)
        set_toucher(s, costs)
        s.homes = any([(program["op"] >= I_CMA_ALLOC).any() for program in programs])
        for k in range(s.nr_zones):
            attach_zone(s, k, <size_t>addresses[k], zone_node[k])
        make_nodes(s, zone_node, zone_kind)
        if irq_program is not None:
            s.irq_program = <Instruction *>self.keep(within_time(irq_program))
        if stream is not None:
            self.take_stream(stream)
        if log:
            s.room_log = 1024
            s.log = <LogRow *>malloc(s.room_log * sizeof(LogRow))
        if holds:
            s.room_holds = 1024
            s.holds = <HoldRow *>malloc(s.room_holds * sizeof(HoldRow))
            if s.holds is NULL:
                raise MemoryError()
        self.start_cpus([self.keep(within_time(program)) for program in programs], cpu_program, cpu_node, seed)

    cdef size_t keep(self, array) except? 0:
        """The address of an array's data, which lives as long as this does."""
        cdef Py_buffer view
        cdef size_t address
        PyObject_GetBuffer(array, &view, PyBUF_SIMPLE)
        address = <size_t>view.buf
        PyBuffer_Release(&view)
        self.kept.append(array)
        return address

    cdef take_stream(self, stream):
        """A recording: requests sorted by CPU, the time before each, where each CPU's begin, the handles."""
        self.s.request = <Request *><size_t>self.keep(stream["requests"])
        self.s.think_ps = <int64_t *><size_t>self.keep(stream["think_ps"].clip(0, HORIZON))
        self.s.first_request = <uint64_t *><size_t>self.keep(stream["first"])
        self.s.handle = <uint32_t *><size_t>self.keep(stream["handles"])
        self.s.nr_handles = len(stream["handles"])

    cdef start_cpus(self, programs, cpu_program, cpu_node, uint64_t seed):
        cdef Sim *s = &self.s
        cdef Cpu *me
        cdef int cpu
        memset(s.tree, 255, TREE * sizeof(uint64_t))
        s.awake = s.cpus
        for cpu in range(s.cpus):
            me = &s.cpu[cpu]
            me.node = s.cpu_node[cpu] = cpu_node[cpu]
            me.random = seed * <uint64_t>0x9e3779b97f4a7c15 + <uint64_t>cpu
            random64(me)
            me.random ^= random64(me) + <uint64_t>cpu
            me.context[0].program = <Instruction *><size_t>programs[cpu_program[cpu]]
            me.context[0].call = &me.context[0].record
            me.context[1].call = &me.context[1].record
            me.context[0].pages = &s.pages[2 * cpu * s.most_pages]
            me.context[1].pages = &s.pages[(2 * cpu + 1) * s.most_pages]
            set_outside(
                me, s.tick_ps // s.cpus * (cpu + 1) + s.tick_ps if s.tick_ps else NEVER,
                exponential(me, s.irq_mean_ps) if s.irq_program is not NULL else NEVER,
            )
            if s.first_request is not NULL:
                me.cursor = s.first_request[cpu]
            plan(s, cpu)

    def run(self, double until_ns=-1, uint64_t events=1000000):
        """
        Up to that virtual time, or that many events more. Returns True when there is nothing left to do.
        """
        cdef int64_t until_ps = HORIZON
        if 0 <= until_ns < until_ps / 1000.0:
            until_ps = <int64_t>(until_ns * 1000)
        if not self.s.finished and not self.s.trouble:
            with nogil:
                advance(&self.s, until_ps, events)
        return (
            self.s.finished or self.s.trouble != 0 or self.stuck is not None
            or self.s.now_ps >= until_ps and self.s.stop_ps < 0
        )

    def stop(self):
        """
        The measured part ends now. Calls under way are carried to their end, so that the state is sound.
        """
        if self.s.stop_ps < 0:
            stop_now(&self.s)
        if self.s.trouble == STUCK and self.stuck is None:
            self.stuck = waits(&self.s)
            self.s.trouble = 0
        while not self.s.finished and not self.s.trouble:
            with nogil:
                advance(&self.s, NEVER, 1000000)
        if self.s.holds is not NULL:
            keep_unfinished(&self.s)
        restore_stats(&self.s)

    @property
    def trouble(self):
        """
        None, or ("endless", cpu), ("memory", 0), or ("stuck", [what each CPU waits for]).
        """
        if self.stuck is not None:
            return "stuck", self.stuck
        if self.s.trouble == 0:
            return None
        if self.s.trouble == STUCK:
            return "stuck", waits(&self.s)
        return ("endless" if self.s.trouble == ENDLESS else "memory"), self.s.trouble_cpu

    @property
    def now_ns(self):
        return self.s.now_ps / 1000.0

    @property
    def start_ns(self):
        """
        When the measured part began; 0: from the start, or it has not begun.
        """
        return self.s.start_ps / 1000.0

    @property
    def events(self):
        return self.s.events

    @property
    def requests(self):
        return self.s.requests

    def result(self):
        return result_of(&self.s)

    def log(self):
        """
        The rows of LogRow: every step of every call, in the order in which they happened.
        """
        return bytes((<char *>self.s.log)[:self.s.nr_log * sizeof(LogRow)])

    def holds(self):
        """
        (rows of HoldRow in the order in which they ended, how many were left out for want of room).
        """
        return bytes((<char *>self.s.holds)[:self.s.nr_holds * sizeof(HoldRow)]), self.s.holds_left_out
