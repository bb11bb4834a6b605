# PagePool: the zone under real threads, over memory that pages really are. Included by core.pyx.
#
# Arguments are checked here, then all is C. A single call keeps the GIL, where there is one: it is over before the GIL
# could be had again. Who is waited for holds a lock without the GIL (a bulk call, C, another process), so it goes on.

from cpython.buffer cimport PyBuffer_FillInfo
from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport uint32_t
from libc.string cimport memcpy, memset

from .atomic cimport addi32, load32, loadi32, store32
from .lock cimport holder_gone, lock_spin, unlock_spin
from .pool cimport MAX_IDS, TICK_NS, pb_now_ns

import array

from ..errors import PoolBroken

include "pool_run.pxi"

cdef enum:
    PAGE_BYTES = 4096


def zone_bytes(int64_t pages, int cpus, policy):
    """Bytes of the state of such a zone."""
    cdef ZoneState s
    set_policy(&s, policy, cpus)
    measure(&s, 0, pages, cpus)
    return s.size


cdef inline bint may_free(CZone *z, int64_t pfn, int order) noexcept nogil:
    """An allocation begins there, of this order if one is said, that cma_alloc did not make."""
    cdef uint32_t word
    if not 0 <= pfn < z.s.spanned:
        return False
    word = word_of(z, <idx>pfn + z.s.first)
    return (word & STATE_MASK) == ALLOC and (order < 0 or word_order(word) == order) and not is_claimed(
        z, <idx>pfn + z.s.first
    )


cdef class PagePool:
    def __init__(self, Zone zone not None, arena, slots, bint by_thread=False, bint ticks=True, int me=1, int fd=-1):
        """
        zone: with stat_threshold 0. arena: writable memory of all its pages, from pfn 0 on. slots: pageset of each CPU
        number that may occur; of any other it is the number modulo the CPUs of the zone. me, fd: lock.pxd.
        """
        cdef int k
        if zone.z.s.start_pfn or zone.z.s.stat_threshold:
            raise ConfigError("a pool's zone begins at pfn 0 and has stat_threshold=0")
        PyObject_GetBuffer(arena, &self.arena, PyBUF_SIMPLE | PyBUF_WRITABLE)
        if self.arena.len < zone.z.s.spanned * PAGE_BYTES:
            raise ConfigError(f"an arena of {self.arena.len} bytes for {zone.z.s.spanned} pages")
        self.p.arena = <char *>self.arena.buf
        self.zone = zone
        self.p.z = &zone.z
        self.p.by_thread = by_thread
        for k in range(MAX_IDS):
            self.p.slot[k] = slots.get(k, k % zone.z.s.cpus)
        zone.z.me = me
        zone.z.fd = fd
        zone.z.run = run_pool
        if ticks and not zone.z.s.tick_ns:
            zone.z.s.tick_ns = pb_now_ns() + TICK_NS
        if zone.z.s.cma_pages:
            import threading
            self.mutex = threading.Lock()
            self.movable = {}

    # -- for C and Cython: arguments are trusted ---------------------------------------------------------------

    cdef int64_t get(self, int order) noexcept nogil:
        cdef idx i = get_page(&self.p, order, MOVABLE)
        return <int64_t>i - self.p.z.s.first if i else -1

    cdef void put(self, int64_t page) noexcept nogil:
        put(&self.p, this_slot(&self.p), <idx>page + self.p.z.s.first)

    cdef char *memory_of(self, int64_t page) noexcept nogil:
        return self.p.arena + page * PAGE_BYTES

    cdef int64_t get_bulk(self, int64_t n, int64_t *pages) noexcept nogil:
        return get_many(&self.p, n, pages)

    cdef void put_bulk(self, int64_t n, const int64_t *pages) noexcept nogil:
        put_many(&self.p, n, pages)

    # -- for Python: arguments are checked ---------------------------------------------------------------------

    cdef int usable(self) except -1:
        """Say why not. One byte and one word are read each time, no more."""
        if self.closed:
            raise UsageError("the pool is closed")
        if self.p.z.s.broken:
            raise PoolBroken(
                f"process {self.p.z.s.broken} of this pool died with a lock in its hands: lists may be half changed. "
                "What is held may still be read; make a new pool"
            )
        return 0

    def alloc(self, int order=0, int migratetype=1, bint zero=False):
        cdef idx i
        cdef int64_t pfn
        if <unsigned>order > MAX_ORDER or <unsigned>migratetype > 2:
            bad_request(self.zone, order, migratetype, 0)
        if self.closed or self.p.z.s.broken:
            self.usable()
        i = get_page(&self.p, order, migratetype)
        if i == 0:
            self.none(order, migratetype)
        pfn = <int64_t>i - self.p.z.s.first
        if zero:
            memset(self.p.arena + pfn * PAGE_BYTES, 0, <size_t>PAGE_BYTES << order)
        return pfn

    cdef none(self, int order, int migratetype):
        self.usable()
        not_served(self.p.z, this_slot(&self.p), order, migratetype)
        raise OutOfPages(
            f"the pool has no chunk of order {order} for {MIGRATETYPE_NAMES[migratetype]}: "
            f"{visible(self.p.z, NR_FREE)} of {self.p.z.s.managed} pages are free. Free some, or make a larger pool"
        )

    def free(self, int64_t pfn, int order=-1):
        if self.closed or self.p.z.s.broken:
            self.usable()
        if not may_free(self.p.z, pfn, order):
            need_freeable(self.zone, pfn, order)
        put(&self.p, this_slot(&self.p), <idx>pfn + self.p.z.s.first)
        if self.p.z.s.broken:
            self.usable()

    def alloc_bulk(self, n, out=None):
        cdef Py_buffer view
        cdef int64_t nr = n
        cdef int64_t got
        cdef int64_t *pages
        self.usable()
        if nr < 1:
            raise UsageError(f"{nr} pages: expected 1 or more")
        if out is None:
            out = array.array("q", bytes(8 * nr))
        PyObject_GetBuffer(out, &view, PyBUF_SIMPLE | PyBUF_WRITABLE)
        try:
            if view.len < 8 * nr:
                raise UsageError(f"out has {view.len} bytes: expected {8 * nr}, an int64 for each page")
            pages = <int64_t *>view.buf
            with nogil:
                got = self.get_bulk(nr, pages)
                if got < nr:
                    self.put_bulk(got, pages)
        finally:
            PyBuffer_Release(&view)
        if got < nr:
            self.none(0, MOVABLE)
        return out

    def free_bulk(self, pfns):
        cdef Py_buffer view
        cdef int64_t k
        cdef int64_t nr
        cdef int64_t *pages
        self.usable()
        if isinstance(pfns, (list, tuple)):
            pfns = array.array("q", pfns)
        PyObject_GetBuffer(pfns, &view, PyBUF_SIMPLE)
        try:
            if view.len % 8:
                raise UsageError(f"pfns of {view.len} bytes: expected int64, eight for each page")
            pages = <int64_t *>view.buf
            nr = view.len // 8
            self.need_once(pages, nr)
            with nogil:
                self.put_bulk(nr, pages)
        finally:
            PyBuffer_Release(&view)
        self.usable()

    cdef need_once(self, const int64_t *pages, int64_t nr):
        """Allocations, each once: a dead bit of their words says which were seen; the free writes the words anew."""
        cdef int64_t k
        cdef int64_t seen = 0
        cdef idx i
        while seen < nr and may_free(self.p.z, pages[seen], -1):
            i = <idx>pages[seen] + self.p.z.s.first
            if word_of(self.p.z, i) & MARK:
                break
            set_word(self.p.z, i, word_of(self.p.z, i) | MARK)
            seen += 1
        if seen == nr:
            return
        for k in range(seen):
            i = <idx>pages[k] + self.p.z.s.first
            set_word(self.p.z, i, word_of(self.p.z, i) & ~MARK)
        need_freeable(self.zone, pages[seen], -1)
        raise BadFree(f"pfn {pages[seen]} is in the batch twice")

    def view(self, int64_t pfn, int64_t pages=1):
        """Nothing keeps it from being freed meanwhile; `pages()` does."""
        self.usable()
        if pages < 1 or not 0 <= pfn <= self.p.z.s.spanned - pages:
            raise UsageError(f"pages {pfn}..{pfn + pages - 1}: the pool has 0..{self.p.z.s.spanned - 1}")
        return memoryview(self)[pfn * PAGE_BYTES:(pfn + pages) * PAGE_BYTES]

    def address(self, int64_t pfn):
        self.view(pfn)
        return <size_t>self.memory_of(pfn)

    def pages(self, int order=0, int migratetype=1, bint zero=False):
        cdef Pages pages = Pages.__new__(Pages)
        pages.pfn = self.alloc(order, migratetype, zero)
        pages.order = order
        pages.pool = self
        if self.movable is not None and migratetype == MOVABLE:
            with self.mutex:
                self.movable[pages.pfn] = pages
            self.zone.set_movable(pages.pfn)
        return pages

    # -- contiguous memory --------------------------------------------------------------------------------------

    def moved(self, int64_t old, int64_t new, int order):
        """Contents of `pages()` that nobody looks at move; everything else stays."""
        cdef Pages pages
        with self.mutex:
            pages = self.movable.get(old)
            if pages is None or loadi32(&pages.exports):
                return False
            memcpy(self.memory_of(new), self.memory_of(old), <size_t>PAGE_BYTES << order)
            pages.pfn = new
            del self.movable[old]
            self.movable[new] = pages
            return True

    # -- upkeep -------------------------------------------------------------------------------------------------

    def tick(self):
        cdef int c
        self.usable()
        with nogil:
            for c in range(self.p.z.s.cpus):
                tick(self.p.z, c)

    def drain(self):
        self.usable()
        with nogil:
            drain_all(self.p.z, this_slot(&self.p))

    def this_slot(self):
        return this_slot(&self.p)

    def take_largest(self, int order):
        """A free chunk out of the zone, past the lists, or None: for trim()."""
        cdef Op op
        self.usable()
        begin(&op, A_ZONE, False, this_slot(&self.p))
        op.flags = OP_BARE
        op.order = order
        op.type = MOVABLE
        op.aflags = WMARK_LOW | USE_CMA
        with nogil:
            run_pool(self.p.z, &op)
        return <int64_t>op.page - self.p.z.s.first if op.page else None

    def lock_all(self):
        """Before a fork: nobody is inside. P-100: a PCP's lock before the zone's; two of them only here."""
        cdef int c
        for c in range(self.p.z.s.cpus):
            if not lock_spin(self.p.z, &self.p.z.pcp[c].lock):
                return
        lock_spin(self.p.z, &self.p.z.s.lock)

    def unlock_all(self):
        cdef int c
        unlock_spin(&self.p.z.s.lock)
        for c in range(self.p.z.s.cpus):
            unlock_spin(&self.p.z.pcp[c].lock)

    def look_for_dead(self):
        """PoolBroken if a process that is gone holds a lock that nobody has waited for yet."""
        cdef int c
        self.note_dead(&self.p.z.s.lock)
        for c in range(self.p.z.s.cpus):
            self.note_dead(&self.p.z.pcp[c].lock)
        self.usable()

    cdef note_dead(self, uint32_t *lock):
        cdef uint32_t holder = load32(lock)
        if holder_gone(self.p.z, holder) and load32(lock) == holder:
            store32(&self.p.z.s.broken, holder)

    def set_process(self, int me, int fd):
        self.p.z.me = me
        self.p.z.fd = fd

    @property
    def broken(self):
        return self.p.z.s.broken

    @property
    def capsule(self):
        return PyCapsule_New(&self.p, "pcpbuddy.pool", NULL)

    def shut(self):
        """No more calls, and no hold on the arena. BufferError, and nothing changes, while buffers show parts of it."""
        if loadi32(&self.exports):
            raise BufferError(f"{self.exports} buffers of the pool still exist: delete them, then close it")
        self.closed = True
        PyBuffer_Release(&self.arena)

    def __dealloc__(self):
        PyBuffer_Release(&self.arena)

    def __getbuffer__(self, Py_buffer *view, int flags):
        self.usable()
        PyBuffer_FillInfo(view, self, self.p.arena, self.p.z.s.spanned * PAGE_BYTES, 0, flags)
        addi32(&self.exports, 1)

    def __releasebuffer__(self, Py_buffer *view):
        addi32(&self.exports, -1)


cdef class Pages:
    """2^order pages: a writable buffer, and a context that gives them back."""
    cdef PagePool pool
    cdef readonly int64_t pfn
    cdef readonly int order
    cdef int32_t exports
    cdef list shown            # weak: memoryviews that `view` gave out

    def __cinit__(self):
        self.shown = []

    def __getbuffer__(self, Py_buffer *view, int flags):
        if self.pool is None:
            raise BufferError("these pages were freed")
        if self.pool.movable is None:
            addi32(&self.exports, 1)
        else:
            with self.pool.mutex:          # they do not move from now on
                addi32(&self.exports, 1)
        try:
            self.pool.usable()
            PyBuffer_FillInfo(view, self, self.pool.memory_of(self.pfn), len(self), 0, flags)
        except BaseException:
            addi32(&self.exports, -1)
            raise
        addi32(&self.pool.exports, 1)

    def __releasebuffer__(self, Py_buffer *view):
        addi32(&self.pool.exports, -1)
        addi32(&self.exports, -1)

    def __len__(self):
        return PAGE_BYTES << self.order

    @property
    def view(self):
        """A memoryview. It is released with the pages, so it needs no care; buffers made of it do."""
        import weakref
        view = memoryview(self)
        self.shown = [one for one in self.shown if one() is not None] + [weakref.ref(view)]
        return view

    def __array__(self, dtype=None, copy=None):
        import numpy
        return numpy.array(numpy.frombuffer(self, numpy.uint8), dtype=dtype or numpy.uint8, copy=bool(copy))

    def __dlpack__(self, **options):
        import numpy
        return numpy.frombuffer(self, numpy.uint8).__dlpack__(**options)

    def __dlpack_device__(self):
        return 1, 0                        # kDLCPU

    def free(self):
        cdef PagePool pool = self.pool
        if pool is None:
            raise BadFree("these pages were freed already")
        for one in self.shown:
            view = one()
            if view is not None:
                view.release()
        if loadi32(&self.exports):
            raise BufferError(f"pfn {self.pfn} is in use: {self.exports} buffers of it exist. Delete them first")
        if pool.movable is not None:
            with pool.mutex:
                pool.movable.pop(self.pfn, None)
        pool.free(self.pfn, self.order)
        self.pool = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.free()

    def __repr__(self):
        return "<Pages, freed>" if self.pool is None else f"<Pages pfn {self.pfn}, order {self.order}>"
