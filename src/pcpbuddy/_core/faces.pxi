# Node, HandleReplay, bench. Included by core.pyx.

# -- Node ----------------------------------------------------------------------------------------------------

cdef int need_type(int gfp) except -1:
    if not gfp_valid(gfp):
        raise UsageError(f"gfp {gfp:#x}: expected at most one of DMA, DMA32, HIGHMEM, and of MOVABLE, RECLAIMABLE")
    return gfp_type(gfp)

cdef class Node:
    cdef NodeRef ref
    cdef uint32_t drain_mutex  # of calls that are carried step by step
    cdef readonly list zones

    def __init__(self, zones):
        cdef int k
        cdef Zone zone
        zones = list(zones)
        if not 1 <= len(zones) <= 5:
            raise ConfigError(f"a node of {len(zones)} zones: expected 1..5")
        if len({zone.cpus for zone in zones}) != 1:
            raise ConfigError("the zones of a node have the same CPUs; these have different numbers")
        kinds = [ZONE_KINDS.get(zone.name, 2) for zone in zones]
        if sorted(set(kinds)) != kinds:
            raise ConfigError(f"zones {[zone.name for zone in zones]}: expected ascending DMA, DMA32, Normal, Movable")
        self.zones = zones
        self.ref.nr = len(zones)
        for k in range(self.ref.nr):
            zone = zones[k]
            self.ref.zones[k] = &zone.z
            self.ref.kinds[k] = kinds[k]
            self.ref.node[k] = 0

    @classmethod
    def from_state(cls, state, policy="fixed"):
        return cls([cls.zone_class.from_state(zone, policy) for zone in state["zones"]])

    zone_class = Zone

    @property
    def cpus(self):
        return self.zones[0].cpus

    cdef Zone zone_of(self, int64_t pfn):
        cdef int k = node_zone_of(&self.ref, pfn)
        if k < 0:
            raise BadFree(f"pfn {pfn} is in none of the zones {[zone.name for zone in self.zones]}")
        return self.zones[k]

    def describe(self, int64_t pfn):
        cdef Zone zone = self.zone_of(pfn)
        return f"{describe(&zone.z, index_of(&zone.z, pfn))}, zone {zone.name}"

    def alloc(self, int order=0, int gfp=0x100cca, int cpu=0):
        cdef int where = 0
        cdef idx i
        cdef Zone zone = self.zones[0]
        bad_request(zone, order, need_type(gfp), cpu)
        i = node_alloc(&self.ref, order, gfp, cpu, &where)
        self.rest()
        if i:
            return pfn_of(self.ref.zones[where], i)
        raise OutOfPages(f"no zone has a chunk of order {order} for gfp {gfp:#x}")

    cdef rest(self):
        for zone in self.zones:
            (<Zone>zone).done()

    def alloc_bulk(self, int n, int gfp=0x100cca, int cpu=0):
        cdef int where = 0
        cdef int got
        cdef idx *pages
        cdef Zone zone = self.zones[0]
        if n < 1:
            raise UsageError(f"{n} pages: expected 1 or more")
        bad_request(zone, 0, need_type(gfp), cpu)
        pages = <idx *>malloc(n * sizeof(idx))
        if pages is NULL:
            raise MemoryError()
        got = node_bulk(&self.ref, n, gfp, cpu, pages, &where)
        self.rest()
        out = [pfn_of(self.ref.zones[where], pages[k]) for k in range(got)]
        c_free(pages)
        return out

    def free(self, int64_t pfn, int cpu=0, int order=-1, bint irq=False, bint nolock=False):
        self.zone_of(pfn).free(pfn, cpu, order, irq, nolock)

    def free_contig(self, int64_t pfn, int64_t n, int cpu=0):
        self.zone_of(pfn).free_contig(pfn, n, cpu)

    def free_batch(self, pfns, int cpu=0):
        """
        B-91 per zone: a group is cut where the zone changes.
        """
        run = []
        pfns = [int(pfn) for pfn in pfns]
        for pfn in pfns:
            need_allocation(self.zone_of(pfn), pfn, -1)
        if len(set(pfns)) != len(pfns):
            raise BadFree("a pfn is in the batch twice")
        need_cpu(<Zone>self.zones[0], cpu)
        for pfn in pfns:
            if run and self.zone_of(run[0]) is not self.zone_of(pfn):
                self.zone_of(run[0]).free_batch(run, cpu)
                run = []
            run.append(pfn)
        if run:
            self.zone_of(run[0]).free_batch(run, cpu)

    def split(self, int64_t pfn):
        self.zone_of(pfn).split(pfn)

    def alloc_contig_range(self, int64_t start, int64_t end, *, bint cma=False, move=None, int cpu=0):
        return Contig.alloc(self, start, end, cma, cpu).run(move)

    def cma_alloc(self, int64_t count, int align=0, *, int area=0, move=None, int cpu=0):
        return Contig.cma_alloc(self, count, align, area, cpu).run(move)

    def cma_release(self, int64_t pfn, int64_t count, int cpu=0):
        Contig.cma_release(self, pfn, count, cpu).run()

    def cma_areas(self):
        return [area for zone in self.zones for area in zone.cma_areas()]

    def offline_pages(self, int64_t start, int64_t pages, *, move=None, int cpu=0):
        return Contig.offline_pages(self, start, pages, cpu).run(move)

    def online_pages(self, int64_t start, int64_t pages, int cpu=0):
        Contig.online_pages(self, start, pages, cpu).run()

    def drain(self, cpu=None, by=None):
        for zone in self.zones:
            zone.drain(cpu, by=by)

    def tick(self, int cpu=0):
        for zone in self.zones:
            zone.tick(cpu)

    def fold(self, int cpu=0):
        for zone in self.zones:
            zone.fold(cpu)

    def decay(self, int cpu=0):
        for zone in self.zones:
            zone.decay(cpu)

    def offline(self, int cpu):
        for zone in self.zones:
            zone.offline(cpu)

    def online(self, int cpu):
        for zone in self.zones:
            zone.online(cpu)

    def check(self):
        for zone in self.zones:
            zone.check()

    def state(self):
        return {"cpus": self.cpus, "zones": [zone.state() for zone in self.zones]}


ZONE_KINDS = {"DMA": 0, "DMA32": 1, "Normal": 2, "Movable": 3}


# -- HandleReplay ----------------------------------------------------------------------------------------------

cdef class HandleReplay:
    cdef Replay r
    cdef readonly Node node
    cdef uint64_t elapsed_ns

    def __cinit__(self):
        self.r.map = NULL
        self.r.scratch = NULL

    def __dealloc__(self):
        c_free(self.r.map)
        c_free(self.r.scratch)

    def __init__(self, Node node, uint32_t nr_handles):
        cdef Zone zone
        cdef idx i
        cdef idx p
        cdef uint32_t word
        cdef int64_t end = 0
        cdef int c
        self.node = node
        self.r.node = node.ref
        for zone in node.zones:
            end = max(end, zone.z.s.start_pfn + zone.z.s.spanned)
        self.r.nr_handles = max(nr_handles, end) + (1 << MAX_ORDER)
        self.r.map = <uint32_t *>calloc(self.r.nr_handles, sizeof(uint32_t))
        self.r.scratch = <idx *>malloc(65536 * sizeof(idx))
        if self.r.map is NULL or self.r.scratch is NULL:
            raise MemoryError()
        self.r.all_pages = 0
        for zone in node.zones:
            self.r.all_pages += zone.z.s.zone_pages
            for c in range(zone.z.s.cpus):
                self.r.all_pages += zone.z.pcp[c].count + zone.z.remote[c].pending
            for i in range(zone.z.s.first, zone.z.s.nr_pages):
                word = word_of(&zone.z, i)
                if (word & 7) == ALLOC:
                    self.r.live += 1 << word_order(word)
                    for p in range(i, i + (1u << word_order(word))):
                        map_page(&self.r, pfn_of(&zone.z, p), pfn_of(&zone.z, p))
        self.r.all_pages += self.r.live
        note_parked(&self.r)

    def run(self, requests):
        """
        Replay a slice of requests (requests.REQUEST, contiguous). Releases the GIL.

        Raises UsageError, before anything runs, for a request that names no CPU, order or handle of this node.
        """
        import time
        cdef Py_buffer view
        cdef Request *q
        cdef uint64_t n
        cdef uint64_t k
        cdef int cpus = self.node.cpus
        PyObject_GetBuffer(requests, &view, PyBUF_SIMPLE)
        try:
            if view.len % sizeof(Request) or requests.dtype.itemsize != sizeof(Request):
                raise UsageError(f"requests of {requests.dtype}: expected pcpbuddy.requests.REQUEST")
            q = <Request *>view.buf
            n = view.len // sizeof(Request)
            k = first_bad_request(&self.r, q, n, cpus)
            if k < n:
                raise UsageError(
                    f"request {k} (op {q[k].op}, cpu {q[k].cpu}, order {q[k].order}, pfn {q[k].pfn}, nr {q[k].nr}) "
                    f"does not fit a node of {cpus} CPUs and {self.r.nr_handles} handles"
                )
            start = time.perf_counter_ns()
            with nogil:
                replay_requests(&self.r, q, n)
            self.elapsed_ns += time.perf_counter_ns() - start
        finally:
            PyBuffer_Release(&view)

    def result(self):
        return {
            "requests": self.r.requests,
            "frees_unknown": self.r.frees_unknown,
            "frees_double": self.r.frees_double,
            "frees_unseen": self.r.frees_unseen,
            "frees_of_failed": self.r.frees_of_failed,
            "parked_pages_max": self.r.parked_max,
            "elapsed_ns": self.elapsed_ns,
        }

cdef uint64_t first_bad_request(Replay *r, Request *q, uint64_t n, int cpus) noexcept nogil:
    cdef uint64_t k = 0
    cdef uint64_t more = 0
    while k < n:
        if q[k].op == 1 and not more and q[k].cpu < cpus and not q[k].order and q[k].pfn < r.nr_handles:
            k += 1                         # a free of one page: half of all requests
            continue
        if q[k].cpu >= cpus or q[k].order > MAX_ORDER or <uint64_t>q[k].pfn + (1u << q[k].order) > r.nr_handles:
            return k
        if q[k].op > 9 or not gfp_valid(q[k].gfp) and q[k].op in (0, 2):
            return k
        if (q[k].op == 3) != (more > 0) or q[k].op == 2 and (q[k].nr < 1 or q[k].nr > 65536 or k + q[k].nr > n):
            return k
        if q[k].op == 2:
            more = q[k].nr
        if more:
            more -= 1
        k += 1
    return n


# -- bench: the hot pair for instruction counts --------------------------------------------------------------------

cdef void pairs_unlocked(CZone *z, int cpu, uint64_t n) noexcept nogil:
    cdef uint64_t k
    for k in range(n):
        free_page(z, cpu, alloc_locked(z, cpu, 0, MOVABLE, WMARK_LOW | USE_CMA, NO_LOCKS | PLAIN), 0, NO_LOCKS | PLAIN)

cdef void pairs_spinning(CZone *z, int cpu, uint64_t n) noexcept nogil:
    cdef uint64_t k
    for k in range(n):
        free_page(z, cpu, alloc_locked(z, cpu, 0, MOVABLE, WMARK_LOW | USE_CMA, SPIN | PLAIN), 0, SPIN | PLAIN)

cdef void pairs_looking(CZone *z, int cpu, uint64_t n) noexcept nogil:
    """The short cuts under a policy that is not plain."""
    cdef uint64_t k
    for k in range(n):
        free_page(z, cpu, alloc_locked(z, cpu, 0, MOVABLE, WMARK_LOW | USE_CMA, SPIN), 0, SPIN)

cdef void pairs_stepped(CZone *z, int cpu, uint64_t n) noexcept nogil:
    cdef Op op
    cdef idx i
    cdef uint64_t k
    for k in range(n):
        begin(&op, A_START, False, cpu)
        op.order = 0
        op.type = MOVABLE
        op.aflags = WMARK_LOW | USE_CMA
        run_spinning(z, &op)
        i = op.page
        begin(&op, F_PREPARE, False, cpu)
        op.page = i
        op.pages = &op.page
        op.nr = 1
        run_spinning(z, &op)

def bench(Zone zone, str what, uint64_t n, int cpu=0):
    """
    n times alloc + free of one page on one CPU. Returns nanoseconds. For bench/ and callgrind.

    what: "pair" without locks, "spin" under real spin locks, "steps" the same without the short cuts of
    driver.pxd (every lock action is a return of `step`), "none" nothing.
    """
    import time
    cdef CZone *z = &zone.z
    cdef int kind = {"none": 0, "pair": 1, "spin": 2, "steps": 3}[what]
    start = time.perf_counter_ns()
    with nogil:
        if kind == 1 and z.s.policy.plain:
            pairs_unlocked(z, cpu, n)
        elif kind:
            z.run = run_spinning
            if kind == 2 and z.s.policy.plain:
                pairs_spinning(z, cpu, n)
            elif kind == 2:
                pairs_looking(z, cpu, n)
            else:
                pairs_stepped(z, cpu, n)
            z.run = run_unlocked
    return time.perf_counter_ns() - start
