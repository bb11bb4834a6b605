# The faces of the compiled core: Zone here; Node, HandleReplay in faces.pxi; Operation, Call in suspended.pxi.
#
# Arguments are checked (args.pxi) and trusted inside. Stubs and docstrings for readers: core.pyi.

# cython: embedsignature=False, freethreading_compatible=True
# cython: boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True

import mmap

from .atomic cimport bump
from ..config import Policy as PolicyConfig, policy as find_policy
from ..errors import BadFree, ConfigError, Corruption, CpuOffline, OutOfPages, UsageError
from ..names import DISOWN_REASONS, EVENT_NAMES, MAX_CPUS, MIGRATETYPE_NAMES

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport calloc, free as c_free, malloc
from libc.string cimport memcmp
from .alloc cimport alloc_step, bulk_alloc_step, not_served
from .buddy cimport visible, zone_link
from .calls cimport (
    bulk, decay, drain_all, drain_pcp, free_contig, isolate as isolate_block, node_alloc, node_bulk, offline_cpu,
    online_cpu, tick,
)
from .check cimport CHECKED, Fault, check as check_state
from .drain cimport drain_step, flush_step, zone_step
from .driver cimport (
    NO_LOCKS, PLAIN, SPIN, alloc as alloc_locked, alloc_by_policy as alloc_page, begin, free_by_policy, free_page,
    perform,
)
from .events cimport E_FREE, NO_PFN, emit
from .fallback cimport worth_unreserving
from .free cimport free_step
from .init cimport attach, empty_lists, fit_policy, fold, init_blocks, measure, start_zone
from .isolation cimport head_of
from .node cimport NodeRef, gfp_type, gfp_valid, node_zone_of
from .op cimport (
    A_START, A_ZONE, B_START, DONE, D_START, ELSEWHERE, F_NEXT, F_PREPARE, F_PREPARING, OP_ALL, OP_BARE, OP_BATCH,
    OP_IRQ, OP_NOLOCK, OP_ONE_HOLD, OP_PREPARED, OP_TAIL, X_START, Z_START, Z_UNISOLATE, Z_UNRESERVE, Op,
)
from .page cimport (
    ALLOC, BUDDY, CMA, CPU_SHIFT, DEFERRED, HOLE, INTERIOR, ISOLATE, LINKED, MARK, MARK_ALL, MAX_ORDER,
    MOVABLE, MOVABLE_BIT, NR_FREE, NR_LISTS, NR_ORDERS, NR_TYPES, ORDER_SHIFT, OWNED_HEADS, OWNED_PER_TYPE, PB,
    PB_PAGES, PCP, REMOTE, STATE_MASK, TYPE_SHIFT, UNKNOWN, USE_CMA, WMARK_LOW, Block, Counts, Event, Outbox, Pcp,
    Policy, Ring, Zone as CZone, ZoneState, block_head, block_page, cpu_head, first_block, idx, index_of, owned_head,
    pfn_of, set_block_type, set_word, split_page, word_of, word_order, word_type, zone_head,
)
from .replay cimport Replay, Request, map_page, note_parked, replay_requests
from .request cimport bulk_watermark_ok, lowest_online
from .sizing cimport (
    default_min_free_kbytes, online_cpus, pcp_batch, pcp_high, threshold, zone_watermarks,
)
from .watermark cimport watermark_ok

# Python names MAP_NORESERVE only from 3.13 on; the number is the same on all of Linux but Alpha, MIPS and SPARC.
MAP_FLAGS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)

include "step.pxi"

# -- Zone ----------------------------------------------------------------------------------------------------

cdef class Zone:
    cdef CZone z
    cdef Ring ring
    cdef Py_buffer view
    cdef object memory
    cdef readonly object policy
    cdef readonly str name

    def __cinit__(self):
        self.z.s = NULL

    def __dealloc__(self):
        if self.z.s is not NULL:
            PyBuffer_Release(&self.view)
        c_free(self.ring.events)

    def __init__(self, int64_t pages, *, int cpus=1, policy="fixed", int64_t cma_pages=0, int64_t start_pfn=0,
                 int zone_index=0, str name="Normal", batch=None, high_min=None, high_max=None, stat_threshold=None,
                 watermark=None, int64_t llc_pages=512, memory=None):
        cdef int c
        cdef ZoneState *s
        check_sizes(pages, start_pfn, cma_pages, batch, high_min, high_max, watermark, zone_index, stat_threshold)
        self.create(start_pfn, pages, cpus, find_policy(policy), name, memory)
        s = self.z.s
        s.zone_index = zone_index
        s.auto_watermark = watermark is None
        for c in range(0 if watermark is None else 4):
            s.watermark[c] = watermark[c]
        s.auto_threshold = stat_threshold is None
        s.stat_threshold = stat_threshold or 0
        s.auto_sizing = batch is None
        if batch is not None:
            s.pageset[0], s.pageset[1], s.pageset[2] = high_min, high_max, batch
        start_zone(&self.z, pages, cma_pages, llc_pages)
        self.reset_counters()

    cdef create(self, int64_t start_pfn, int64_t spanned, int cpus, policy, str name, memory):
        """Lay out an empty zone, in memory of its own or in what is given, all zero."""
        cdef ZoneState s
        cdef ZoneState *state
        if not 1 <= cpus <= MAX_CPUS:
            raise ConfigError(f"cpus={cpus}: expected 1..{MAX_CPUS}")
        if not isinstance(policy, PolicyConfig):
            raise ConfigError(f"policy {policy!r}: expected a Policy or the name of a profile")
        set_policy(&s, policy, cpus)
        measure(&s, start_pfn, spanned, cpus)
        self.map(mmap.mmap(-1, s.size, flags=MAP_FLAGS) if memory is None else memory, s.size)
        state = <ZoneState *>self.view.buf
        state.policy = s.policy
        measure(state, start_pfn, spanned, cpus)
        attach(&self.z, state)
        self.z.run = run_unlocked
        self.policy = policy
        self.name = name
        empty_lists(&self.z)

    cdef map(self, memory, uint64_t size):
        PyObject_GetBuffer(memory, &self.view, PyBUF_SIMPLE | PyBUF_WRITABLE)
        self.memory = memory
        if <uint64_t>self.view.len < size:
            raise ConfigError(f"memory of {self.view.len} bytes for a zone: expected {size}")
        self.z.s = <ZoneState *>self.view.buf

    cdef int done(self) except -1:
        """An operation has ended: what was said about its trylocks is forgotten; a checked build checks."""
        self.z.fail = 0
        if CHECKED:
            self.check()
        return 0

    # -- allocation and free ---------------------------------------------------------------------------

    def alloc(self, int order=0, int migratetype=1, int cpu=0, int aflags=-1):
        cdef idx i
        if (
            <unsigned>order > MAX_ORDER or <unsigned>migratetype > 2
            or <unsigned>cpu >= <unsigned>self.z.s.cpus or not self.z.pcp[cpu].online
        ):
            bad_request(self, order, migratetype, cpu)
        if aflags < 0:
            aflags = WMARK_LOW | USE_CMA if migratetype == MOVABLE else WMARK_LOW
        i = alloc_page(&self.z, cpu, order, migratetype, aflags)
        self.done()
        if i:
            return pfn_of(&self.z, i)
        not_served(&self.z, cpu, order, migratetype)
        raise OutOfPages(
            f"zone {self.name} has no chunk of order {order} for {MIGRATETYPE_NAMES[migratetype]} "
            f"(alloc flags {aflags:#x}, {visible(&self.z, NR_FREE)} pages free)"
        )

    def free(self, int64_t pfn, int cpu=0, int order=-1, bint irq=False, bint nolock=False):
        cdef idx i
        if <unsigned>cpu >= <unsigned>self.z.s.cpus or not self.z.pcp[cpu].online:
            need_cpu(self, cpu)
        if not -1 <= order <= MAX_ORDER:
            bad_request(self, order, 0, cpu)
        i = need_freeable(self, pfn, order)
        free_by_policy(&self.z, cpu, i, (OP_IRQ if irq else 0) | (OP_NOLOCK if nolock else 0))
        self.done()

    def alloc_bulk(self, int n, int migratetype=1, int cpu=0):
        cdef CZone *z = &self.z
        cdef int aflags = WMARK_LOW | USE_CMA if migratetype == MOVABLE else WMARK_LOW
        cdef idx *pages
        cdef int k
        if n < 1:
            raise UsageError(f"{n} pages: expected 1 or more")
        bad_request(self, 0, migratetype, cpu)
        pages = <idx *>malloc(n * sizeof(idx))
        if pages is NULL:
            raise MemoryError()
        try:
            k = 0
            if n > 1 and bulk_watermark_ok(z, n, z.s.zone_index, aflags):
                k = bulk(z, cpu, n, migratetype, aflags, pages)
            if k == 0:
                pages[0] = alloc_page(z, cpu, 0, migratetype, aflags)
                k = pages[0] != 0
            if k == 0:
                not_served(z, cpu, 0, migratetype)
            self.done()
            return [pfn_of(z, pages[i]) for i in range(k)]
        finally:
            c_free(pages)

    def free_batch(self, pfns, int cpu=0):
        cdef Op op
        cdef idx *pages
        cdef int k
        cdef int nr
        need_cpu(self, cpu)
        pfns = need_batch(self, pfns, False)
        nr = len(pfns)
        if nr == 0:
            return
        pages = <idx *>malloc(nr * sizeof(idx))
        if pages is NULL:
            raise MemoryError()
        for k in range(nr):
            pages[k] = index_of(&self.z, pfns[k])
        begin(&op, F_PREPARE, False, cpu)
        op.flags = OP_BATCH
        op.pages = pages
        op.nr = nr
        self.z.run(&self.z, &op)
        self.done()
        c_free(pages)

    def free_contig(self, int64_t pfn, int64_t n, int cpu=0):
        cdef int64_t p
        if n < 1:
            raise UsageError(f"{n} pages: expected 1 or more")
        need_cpu(self, cpu)
        for p in range(pfn, pfn + n):
            need_freeable(self, p, 0)
        free_contig(&self.z, cpu, index_of(&self.z, pfn), n)
        self.done()

    def split(self, int64_t pfn):
        split_page(&self.z, need_allocation(self, pfn, -1))

    def set_movable(self, int64_t pfn, bint movable=True):
        cdef idx i = need_allocation(self, pfn, -1)
        cdef uint32_t word = word_of(&self.z, i)
        set_word(&self.z, i, word | MOVABLE_BIT if movable else word & ~MOVABLE_BIT)

    def take(self, int order, int migratetype, int aflags=1, int cpu=0):
        cdef Op op
        bad_request(self, order, migratetype, cpu)
        begin(&op, A_ZONE, False, cpu)
        op.flags = OP_BARE
        op.order = order
        op.type = migratetype
        op.aflags = aflags
        self.z.run(&self.z, &op)
        self.done()
        if not op.page:
            not_served(&self.z, cpu, order, migratetype)
            raise OutOfPages(f"zone {self.name} has no chunk of order {order} for {MIGRATETYPE_NAMES[migratetype]}")
        return pfn_of(&self.z, op.page)

    def free_direct(self, int64_t pfn, int cpu=0, bint to_tail=False):
        cdef Op op
        cdef idx i = need_freeable(self, pfn, -1)
        need_cpu(self, cpu)
        begin(&op, F_PREPARING, False, cpu)
        op.flags = OP_BATCH | OP_PREPARED | (OP_TAIL if to_tail else 0)
        op.page = i
        bump(&self.z.counts[cpu].pages_freed, 1 << word_order(word_of(&self.z, i)))
        emit(&self.z, E_FREE, cpu, i, word_order(word_of(&self.z, i)), 0)
        self.z.run(&self.z, &op)
        self.done()

    # -- drains and periodic work --------------------------------------------------------------------------

    def drain(self, cpu=None, n=None, int start=0, by=None):
        cdef int doing
        if not 0 <= start < 3:
            raise UsageError(f"start {start}: a drain starts at type 0, 1 or 2")
        if cpu is None and n is not None:
            raise UsageError(f"drain of {n} pages: of which CPU?")
        if cpu is not None and not 0 <= cpu < self.z.s.cpus:
            need_cpu(self, cpu)
        doing = executing(self, by, -1 if cpu is None else cpu)
        if cpu is None:
            drain_all(&self.z, doing)
        elif n is None:
            drain_pcp(&self.z, cpu, doing, 0, OP_ALL, 0)
        elif n < 1:
            raise UsageError(f"{n} pages: expected 1 or more")
        else:
            drain_pcp(&self.z, cpu, doing, n, OP_ONE_HOLD, start)
        self.done()

    def tick(self, int cpu=0):
        need_cpu(self, cpu)
        tick(&self.z, cpu)
        self.done()

    def fold(self, int cpu=0):
        need_cpu(self, cpu)
        fold(&self.z, cpu, True)
        self.done()

    def decay(self, int cpu=0):
        need_cpu(self, cpu)
        decay(&self.z, cpu)
        self.done()

    def offline(self, int cpu):
        need_cpu(self, cpu)
        if online_cpus(&self.z) == 1:
            raise CpuOffline(f"CPU {cpu} is the last one on-line")
        offline_cpu(&self.z, cpu)
        self.done()

    def online(self, int cpu):
        if not 0 <= cpu < self.z.s.cpus:
            raise UsageError(f"CPU {cpu}: this zone has CPUs 0..{self.z.s.cpus - 1}")
        if self.z.pcp[cpu].online:
            raise CpuOffline(f"CPU {cpu} is on-line already")
        online_cpu(&self.z, cpu)
        self.done()

    # -- isolation and the high-atomic reserve -----------------------------------------------------------------

    cdef int zone_section(self, int section, idx page, int flags, int type, int cpu):
        cdef Op op
        begin(&op, Z_START, False, cpu)
        op.section = section
        op.page = page
        op.flags = flags
        op.type = type
        self.z.run(&self.z, &op)
        self.done()
        return op.result

    def isolate(self, int64_t pfn, bint cma=False, bint check=True, by=None):
        cdef idx i = need_block(self, pfn)
        cdef bint done = isolate_block(&self.z, i, cma | check << 1, executing(self, by, -1))
        self.done()
        return bool(done)

    def unisolate(self, int64_t pfn, by=None):
        cdef idx i = need_block(self, pfn)
        return bool(self.zone_section(Z_UNISOLATE, i, 0, 0, executing(self, by, -1)))

    def alloc_contig_range(self, start, end, **options):
        return Node([self]).alloc_contig_range(start, end, **options)

    def cma_alloc(self, count, align=0, **options):
        return Node([self]).cma_alloc(count, align, **options)

    def cma_release(self, pfn, count, cpu=0):
        Node([self]).cma_release(pfn, count, cpu)

    def cma_areas(self):
        return areas_of(self)

    def offline_pages(self, start, pages, **options):
        return Node([self]).offline_pages(start, pages, **options)

    def online_pages(self, start, pages, cpu=0):
        Node([self]).online_pages(start, pages, cpu)

    def unreserve(self, bint force=False, int migratetype=1, by=None):
        bad_request(self, 0, migratetype, executing(self, by, -1))
        if not worth_unreserving(&self.z, force):
            return False
        return bool(self.zone_section(Z_UNRESERVE, 0, 0, migratetype, executing(self, by, -1)))

    def watermark_ok(self, int order, int64_t mark, int aflags=0, int hz=0):
        bad_request(self, order, 0, lowest_online(&self.z))
        if not 0 <= hz < 5:
            raise UsageError(f"highest zone {hz}: expected 0..4")
        return bool(watermark_ok(&self.z, order, mark, hz, aflags, visible(&self.z, NR_FREE)))

    def fail_trylocks(self, uint64_t mask):
        self.z.fail = mask

    # -- looking ---------------------------------------------------------------------------------------------------

    @property
    def cpus(self):
        return self.z.s.cpus

    @property
    def pages(self):
        return self.z.s.spanned

    @property
    def managed(self):
        return self.z.s.managed

    @property
    def start_pfn(self):
        return self.z.s.start_pfn

    @property
    def zone_index(self):
        return self.z.s.zone_index

    @property
    def meta_bytes(self):
        return self.z.s.size

    @property
    def flags(self):
        return self.z.s.flags

    @flags.setter
    def flags(self, uint32_t flags):
        self.z.s.flags = flags

    def check(self):
        check_zone(self)

    def counters(self, cpu=None):
        return counters_of(self, -1 if cpu is None else cpu)

    cdef reset_counters(self):
        cdef int c
        cdef size_t k
        for c in range(self.z.s.cpus):
            for k in range(sizeof(Counts) // 8):
                (<uint64_t *>&self.z.counts[c])[k] = 0

    def walk_lengths(self):
        return summed(self, [self.z.counts[c].walk_lengths for c in range(self.z.s.cpus)])

    def cma_by_phase(self):
        return summed(self, [self.z.counts[c].cma_by_phase for c in range(self.z.s.cpus)]).reshape(4, 2, 2)

    def census(self):
        return census_of(self)

    # -- events ------------------------------------------------------------------------------------------------------

    def trace(self, size_t capacity=65536):
        start_trace(self, capacity)

    @property
    def events_lost(self):
        """
        Events that the ring has overwritten.
        """
        if self.ring.events is NULL or self.ring.written <= self.ring.mask:
            return 0
        return self.ring.written - self.ring.mask - 1

    def events(self):
        return list_events(self)

    # -- state -------------------------------------------------------------------------------------------------------

    def snapshot(self):
        return bytes(self.memory[:self.z.s.size])

    def restore(self, snapshot):
        if len(snapshot) != self.z.s.size:
            raise UsageError(f"a snapshot of {len(snapshot)} bytes: this zone has {self.z.s.size}, so it is another's")
        need_same_zone(self, bytes(snapshot[:sizeof(ZoneState)]))
        self.memory[:len(snapshot)] = snapshot

    @classmethod
    def from_state(cls, state, policy="fixed"):
        cdef Zone self = cls.__new__(cls)
        self.create(state["start_pfn"], state["spanned"], len(state["pcp"]), find_policy(policy), state["name"], None)
        load_zone(self, state)
        load_blocks(self, state["blocks"])
        load_pages(self, state)
        load_pcps(self, state["pcp"])
        return self

    @classmethod
    def attached(cls, memory, policy, str name="Normal"):
        cdef Zone self = cls.__new__(cls)
        self.map(memory, sizeof(ZoneState))
        need_state(self, policy)
        attach(&self.z, self.z.s)
        self.policy = policy
        self.name = name
        return self

    def summary(self):
        """
        The state without the pages: zone fields, and each PCP's fields. Cheap.
        """
        pcps = []
        for c in range(self.z.s.cpus):
            p = save_pcp(self, c)
            del p["lists"], p["marked"], p["owned"]
            pcps.append(p)
        return {**save_zone(self), "present": self.z.s.managed, "cma": self.z.s.cma_pages, "pcp": pcps}

    def state(self):
        return {
            **save_zone(self),
            "blocks": save_blocks(self),
            "free": save_free(self),
            "deferred": save_deferred(self),
            "allocated": save_allocated(self),
            "cma_claimed": save_claimed(self),
            "pcp": [save_pcp(self, c) for c in range(self.z.s.cpus)],
        }


include "args.pxi"
include "looking.pxi"
include "state.pxi"
include "faces.pxi"
include "suspended.pxi"
include "contig.pxi"
include "retrace_face.pxi"
include "pool.pxi"
