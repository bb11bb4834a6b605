# KernelReplay: rows of a recording against a node under `mainline`. Included by core.pyx; see core.pyi.

include "retrace_link.pxi"
include "retrace_under.pxi"
include "retrace_plain.pxi"
include "retrace_order.pxi"
include "retrace_outside.pxi"
include "retrace_rows.pxi"


cdef class KernelReplay:
    cdef Retrace *r
    cdef readonly Node node
    cdef uint64_t elapsed_ns

    def __cinit__(self):
        self.r = <Retrace *>calloc(1, sizeof(Retrace))
        if self.r is NULL:
            raise MemoryError()

    def __dealloc__(self):
        cdef Retrace *r = self.r
        cdef int k
        if r is NULL:
            return
        c_free(r.saved)
        c_free(r.next_of)
        c_free(r.last_of)
        c_free(r.pushed)
        c_free(r.notes)
        c_free(r.observed)
        c_free(r.latest)
        for k in range(r.node.nr):
            r.node.zones[k].ring = NULL
            r.node.zones[k].told = NULL
            c_free(r.ring[k].events)
            c_free(r.told[k].pfn)
            c_free(r.told[k].from_cma)
            c_free(r.told[k].claimed)
        c_free(r.map)
        c_free(r.links)
        c_free(r.under)
        c_free(r.holder)
        c_free(r.draining)
        c_free(r.rows)
        c_free(r.by_cpu)
        c_free(r)

    def __init__(self, Node node, uint32_t nr_handles, *, str mode="free-run", bint folds=False, bint plain=False,
                 drift_marks=None):
        cdef Retrace *r = self.r
        cdef Zone zone
        cdef int64_t end = 0
        cdef int k
        cdef idx i
        cdef idx p
        if mode not in MODES:
            raise UsageError(f"mode {mode!r}: expected one of {', '.join(MODES)}")
        self.node = node
        r.node = node.ref
        r.cpus = node.cpus
        r.folds = folds
        r.mode = MODES.index(mode)
        for zone in node.zones:
            end = max(end, zone.z.s.start_pfn + zone.z.s.spanned)
        r.nr_handles = max(nr_handles, end) + (1 << MAX_ORDER)
        r.map = <uint32_t *>calloc(r.nr_handles, sizeof(uint32_t))
        r.notes = <uint8_t *>calloc(r.nr_handles, 1)
        r.links = <Link *>calloc(r.cpus, sizeof(Link))
        r.under = <Under *>calloc(r.cpus * DEPTH, sizeof(Under))
        r.holder = <Under **>calloc(r.node.nr * r.cpus, sizeof(void *))
        r.draining = <Under **>calloc(r.cpus, sizeof(void *))
        r.by_cpu = <Tally *>calloc(r.cpus, sizeof(Tally))
        if NULL in (r.map, r.notes, r.links, r.under, r.holder, r.draining, r.by_cpu):
            raise MemoryError()
        if plain:
            self.open_plain()
        for k in range(r.node.nr):
            zone = node.zones[k]
            self.open_zone(k, zone)
            r.drift_mark[k] = drift_marks[k] if drift_marks else 0
            for i in range(zone.z.s.first, zone.z.s.nr_pages):
                if (word_of(&zone.z, i) & 7) == ALLOC:
                    for p in range(i, i + (1u << word_order(word_of(&zone.z, i)))):
                        r.map[pfn_of(&zone.z, p)] = <uint32_t>pfn_of(&zone.z, p) + 1

    cdef open_plain(self):
        """What is remembered of each page, to find the true order of operations."""
        cdef Retrace *r = self.r
        r.plain = True
        r.next_of = <uint64_t *>calloc(r.nr_handles, sizeof(uint64_t))
        r.last_of = <uint64_t *>calloc(r.nr_handles, sizeof(uint64_t))
        r.pushed = <uint64_t *>calloc(r.nr_handles, sizeof(uint64_t))
        r.observed = <uint32_t *>malloc(OBSERVED * sizeof(uint32_t))
        if NULL in (r.next_of, r.last_of, r.pushed, r.observed):
            raise MemoryError()

    cdef open_zone(self, int k, Zone zone):
        cdef Retrace *r = self.r
        r.section[k].kind = NOT_OPEN
        r.threshold[k] = zone.z.s.stat_threshold
        r.ring[k].events = <Event *>calloc(RING, sizeof(Event))
        r.ring[k].mask = RING - 1
        r.told[k].pfn = <uint32_t *>malloc(TAKES * sizeof(uint32_t))
        r.told[k].from_cma = <uint8_t *>malloc(TAKES)
        r.told[k].claimed = <int8_t *>malloc(TAKES)
        if NULL in (r.ring[k].events, r.told[k].pfn, r.told[k].from_cma, r.told[k].claimed):
            raise MemoryError()
        zone.z.ring = &r.ring[k]

    cdef int append(self, rows) except -1:
        """Behind the rows that are not executed yet, and in plain recordings some that are."""
        cdef Retrace *r = self.r
        cdef Py_buffer view
        cdef Row *room
        cdef uint64_t n
        cdef uint64_t base = max(r.base, r.done - min(r.done, <uint64_t>HISTORY)) if r.plain else r.done
        cdef uint64_t keep = r.base + r.len - base
        PyObject_GetBuffer(rows, &view, PyBUF_SIMPLE)
        try:
            n = view.len // sizeof(Row)
            if view.len % sizeof(Row) or rows.dtype.itemsize != sizeof(Row):
                raise UsageError(f"rows of {rows.dtype}: expected pcpbuddy.recording.rows.ROW")
            if keep + n > r.room:
                room = <Row *>malloc(2 * (keep + n) * sizeof(Row))
                if room is NULL:
                    raise MemoryError()
                if keep:
                    memmove(room, &r.rows[base - r.base], keep * sizeof(Row))
                c_free(r.rows)
                r.rows = room
                r.room = 2 * (keep + n)
            elif keep:
                memmove(r.rows, &r.rows[base - r.base], keep * sizeof(Row))
            if n:
                memmove(&r.rows[keep], view.buf, n * sizeof(Row))
            r.base = base
            r.len = keep + n
        finally:
            PyBuffer_Release(&view)
        return 0

    cdef int make_room(self, uint64_t n) except -1:
        """For n more tasks. Those whose last row is not kept any more are forgotten."""
        cdef Retrace *r = self.r
        cdef Latest *table
        cdef uint64_t size = 1 << 10
        cdef uint64_t k
        while size < 2 * (r.nr_latest + n):
            size *= 2
        if size <= r.latest_size:
            return 0
        table = <Latest *>calloc(size, sizeof(Latest))
        if table is NULL:
            raise MemoryError()
        r.nr_latest = 0
        for k in range(r.latest_size):
            if r.latest[k].row > r.base:
                latest_of(table, size, r.latest[k].task)[0] = r.latest[k]
                r.nr_latest += 1
        c_free(r.latest)
        r.latest = table
        r.latest_size = size
        return 0

    def feed(self, rows, *, bint last=False, bint until_difference=False, int64_t until=-1):
        """See core.pyi."""
        import time
        cdef Retrace *r = self.r
        cdef uint64_t stop
        cdef uint64_t kept = r.nr_kept
        cdef bint cut = False
        cdef int k
        self.append(rows)
        if r.plain:
            self.make_room(r.base + r.len - r.linked)
        start = time.perf_counter_ns()
        with nogil:
            while r.linked < r.base + r.len:
                link_row(r, r.linked)
                r.linked += 1
            stop = r.linked if last else first_open(r)
            if r.plain and not last:
                stop = max(r.done, min(stop, r.linked - min(r.linked, <uint64_t>LAG)))
            while r.done < stop:
                if until >= 0 and <int64_t>row_at(r, r.done).row >= until:
                    cut = True
                    break
                execute(r, r.done)
                r.done += 1
                if until_difference and r.nr_kept != kept:
                    break
            if cut:
                note_parked_pages(r)
            elif last and r.done == stop:
                for k in range(r.node.nr):
                    run_all_waiting(r, k)
                note_parked_pages(r)
                for k in range(r.node.nr):
                    close_section(r, k)
                for k in range(r.cpus * DEPTH):
                    if r.under[k].kind != C_FREE_SLOT and r.under[k].kind != C_DRAIN:
                        give_up(r, &r.under[k])
        self.elapsed_ns += time.perf_counter_ns() - start
        return "until" if cut else "difference" if r.done < stop else None

    def result(self):
        cdef Retrace *r = self.r
        return {
            "allocs": (r.allocs.seen, r.allocs.exact),
            "refills": (r.refills.seen, r.refills.exact),
            "drains": (r.drains.seen, r.drains.exact),
            "drained": (r.drained.seen, r.drained.exact),
            "fields": (r.fields.seen, r.fields.exact),
            "by_order": {k: (r.by_order[k].seen, r.by_order[k].exact) for k in range(NR_ORDERS) if r.by_order[k].seen},
            "by_type": {k: (r.by_type[k].seen, r.by_type[k].exact) for k in range(3) if r.by_type[k].seen},
            "by_cpu": {k: (r.by_cpu[k].seen, r.by_cpu[k].exact) for k in range(r.cpus) if r.by_cpu[k].seen},
            "frees": r.frees,
            "frees_unknown": r.frees_unknown,
            "frees_unseen": r.frees_unseen,
            "abandoned": r.abandoned,
            "unexpected": r.unexpected,
            "taken": {k: r.taken[k] for k in range(NR_CAUSES) if r.taken[k]},
            "causes": {k: r.causes[k] for k in range(NR_CAUSES) if r.causes[k]},
            "found": [r.found[k] for k in range(NR_FOUND)],
            "differences": [r.nr_diffs[k] for k in range(NR_DIFFS)],
            "requests": r.allocs.seen + r.frees,
            "parked_pages_max": r.parked_max,
            "elapsed_ns": self.elapsed_ns,
        }

    def open_operations(self):
        """
        How many drains were predicted and have not come yet; the state may lack them.
        """
        return sum([self.r.under[k].kind != C_FREE_SLOT for k in range(self.r.cpus * DEPTH)])

    def differences(self):
        """
        The first of them, as dicts of row, kind, cpu, order, type, zone, predicted, recorded and cause.
        """
        return [self.r.diffs[k] for k in range(self.r.nr_kept)]


MODES = ("free-run", "guided", "resync")
