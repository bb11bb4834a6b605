# Operation and Call: what can be suspended at every lock, for drivers in tests. Included by core.pyx.

from .call cimport CALL_BULK, Call as CCall
from .node cimport MAX_NODES
from .request cimport (
    apart, begin_alloc as begin_alloc_call, begin_bulk, begin_drain_all, begin_free as begin_free_call,
    begin_free_batch, begin_free_run, begin_isolate, begin_offline, begin_tick, next_op,
)


# -- Operation: one operation, lock by lock ----------------------------------------------------------------

cdef tuple ACTIONS = (None, ("lock", "pcp"), ("try", "pcp"), ("unlock", "pcp"), ("lock", "zone"), ("try", "zone"),
                      ("unlock", "zone"))


cdef class Operation:
    cdef Op op
    cdef readonly Zone zone

    @staticmethod
    def alloc(Zone zone, int order=0, int migratetype=1, int cpu=0, int aflags=-1):
        cdef Operation self = Operation.__new__(Operation)
        bad_request(zone, order, migratetype, cpu)
        begin(&self.op, A_START, False, cpu)
        self.zone = zone
        self.op.order = order
        self.op.type = migratetype
        self.op.aflags = aflags if aflags >= 0 else (WMARK_LOW | USE_CMA if migratetype == MOVABLE else WMARK_LOW)
        return self

    @staticmethod
    def free(Zone zone, int64_t pfn, int cpu=0, bint irq=False):
        cdef Operation self = Operation.__new__(Operation)
        need_cpu(zone, cpu)
        begin(&self.op, F_PREPARE, False, cpu)
        self.zone = zone
        self.op.page = need_allocation(zone, pfn, -1)
        self.op.pages = &self.op.page
        self.op.nr = 1
        self.op.flags = OP_IRQ if irq else 0
        return self

    @staticmethod
    def drain(Zone zone, int target, int cpu=0):
        cdef Operation self = Operation.__new__(Operation)
        need_cpu(zone, target)
        need_cpu(zone, cpu)
        begin(&self.op, D_START, False, cpu)
        self.zone = zone
        self.op.target = target
        self.op.flags = OP_ALL
        return self

    def step(self, bint got=True):
        cdef int action
        self.op.got = got
        action = step(&self.zone.z, &self.op)
        if action == DONE:
            return None
        verb, kind = ACTIONS[action]
        return verb, ("zone",) if kind == "zone" else ("pcp", self.op.target)

    @property
    def pfn(self):
        return pfn_of(&self.zone.z, self.op.page) if self.op.page else None


# -- Call: a whole call, lock by lock ----------------------------------------------------------------------------

cdef class Call:
    cdef CCall call
    cdef NodeRef ref
    cdef CZone *z              # of the operation under way
    cdef idx *pages
    cdef readonly list zones   # as in ref
    cdef Node lowest           # of the nodes: its drain mutex is that of all of them

    def __dealloc__(self):
        c_free(self.pages)

    cdef Zone look(self, nodes, int cpu):
        """Of one Node, or of several NUMA nodes, the nearest first. Returns the nearest node's first zone."""
        cdef Node node
        cdef int nid
        cdef int k
        nodes = [nodes] if isinstance(nodes, Node) else list(nodes)
        if not 1 <= len(nodes) <= MAX_NODES:
            raise ConfigError(f"{len(nodes)} nodes: expected 1..{MAX_NODES}")
        self.zones = []
        self.ref.nr = 0
        for nid in range(len(nodes) - 1, -1, -1):
            node = nodes[nid]
            if node.cpus != (<Node>nodes[0]).cpus:
                raise ConfigError("all zones have the same CPUs; these have different numbers")
            for k in range(node.ref.nr):
                self.ref.zones[self.ref.nr] = node.ref.zones[k]
                self.ref.kinds[self.ref.nr] = node.ref.kinds[k]
                self.ref.node[self.ref.nr] = nid
                self.ref.nr += 1
            self.zones += node.zones
        self.lowest = min(nodes, key=lambda one: one.zones[0].start_pfn)
        self.ref.drain_mutex = &self.lowest.drain_mutex
        need_cpu(node.zones[0], cpu)
        return node.zones[0]

    cdef Zone zone_of(self, nodes, int64_t pfn, int cpu):
        cdef int k
        self.look(nodes, cpu)
        k = node_zone_of(&self.ref, pfn)
        if k < 0:
            raise BadFree(f"pfn {pfn} is in none of the zones {[zone.name for zone in self.zones]}")
        return self.zones[k]

    @staticmethod
    def alloc(nodes, int order=0, int gfp=0x100cca, int cpu=0):
        cdef Call self = Call.__new__(Call)
        bad_request(self.look(nodes, cpu), order, need_type(gfp), cpu)
        begin_alloc_call(&self.call, &self.ref, order, gfp, cpu)
        return self

    @staticmethod
    def alloc_bulk(nodes, int n, int gfp=0x100cca, int cpu=0):
        cdef Call self = Call.__new__(Call)
        bad_request(self.look(nodes, cpu), 0, need_type(gfp), cpu)
        self.room(n)
        begin_bulk(&self.call, &self.ref, n, gfp, cpu, self.pages)
        return self

    cdef room(self, int n):
        if n < 1:
            raise UsageError(f"{n} pages: expected 1 or more")
        self.pages = <idx *>malloc(n * sizeof(idx))
        if self.pages is NULL:
            raise MemoryError()

    @staticmethod
    def free(nodes, int64_t pfn, int cpu=0, bint irq=False):
        cdef Call self = Call.__new__(Call)
        cdef Zone zone = self.zone_of(nodes, pfn, cpu)
        begin_free_call(&self.call, &zone.z, need_allocation(zone, pfn, -1), cpu, OP_IRQ if irq else 0)
        return self

    @staticmethod
    def free_batch(nodes, pfns, int cpu=0, bint irq=False):
        cdef Call self = Call.__new__(Call)
        cdef Zone zone
        cdef int k
        pfns = list(pfns)
        if not pfns:
            raise UsageError("a batch of no pages")
        zone = self.zone_of(nodes, pfns[0], cpu)
        pfns = need_batch(zone, pfns, True)
        self.room(len(pfns))
        for k in range(len(pfns)):
            self.pages[k] = index_of(&zone.z, pfns[k])
        begin_free_batch(&self.call, &zone.z, self.pages, k + 1, cpu, OP_IRQ if irq else 0)
        return self

    @staticmethod
    def free_run(nodes, int64_t pfn, int64_t n, int cpu=0):
        cdef Call self = Call.__new__(Call)
        cdef Zone zone = self.zone_of(nodes, pfn, cpu)
        cdef int64_t p
        for p in range(pfn, pfn + n):
            need_allocation(zone, p, 0)
        begin_free_run(&self.call, &zone.z, index_of(&zone.z, pfn), n, cpu)
        return self

    cdef Zone zone_nr(self, nodes, int k, int cpu):
        self.look(nodes, cpu)
        if not 0 <= k < self.ref.nr:
            raise UsageError(f"zone {k}: expected 0..{self.ref.nr - 1}")
        return self.zones[k]

    @staticmethod
    def tick(nodes, int cpu=0, int zone=0):
        cdef Call self = Call.__new__(Call)
        begin_tick(&self.call, &self.zone_nr(nodes, zone, cpu).z, cpu)
        return self

    @staticmethod
    def drain(nodes, int cpu=0):
        cdef Call self = Call.__new__(Call)
        self.look(nodes, cpu)
        begin_drain_all(&self.call, &self.ref, cpu)
        return self

    @staticmethod
    def offline(nodes, int target, int cpu, int zone=0):
        cdef Call self = Call.__new__(Call)
        cdef Zone there = self.zone_nr(nodes, zone, cpu)
        need_cpu(there, target)
        if cpu == target:
            raise CpuOffline(f"CPU {cpu} cannot take itself off-line")
        begin_offline(&self.call, &there.z, target, cpu)
        return self

    @staticmethod
    def isolate(nodes, int64_t pfn, bint cma=False, bint check=True, int cpu=0):
        cdef Call self = Call.__new__(Call)
        cdef Zone zone = self.zone_of(nodes, pfn, cpu)
        begin_isolate(&self.call, &zone.z, need_block(zone, pfn), cma | check << 1, cpu)
        return self

    def step(self, bint got=True):
        return self.on(&self.call, got)

    cdef on(self, CCall *call, bint got):
        """The call to its next lock action, or None: it is over."""
        cdef int action = DONE
        cdef int k = 0
        call.op.got = got
        while action == DONE:
            if self.z is NULL:
                self.z = apart(next_op, call)
            if self.z is NULL:
                return None
            action = step(self.z, &call.op)
            if action == DONE:
                self.z = NULL
        while self.ref.zones[k] != self.z:
            k += 1
        verb, kind = ACTIONS[action]
        return verb, ("zone", self.zones[k]) if kind == "zone" else ("pcp", self.zones[k], call.op.target)

    @property
    def pfns(self):
        cdef CZone *z = self.ref.zones[self.call.where]
        if self.call.kind == CALL_BULK:
            return [pfn_of(z, self.pages[k]) for k in range(self.call.got)]
        return [pfn_of(z, self.call.page)] if self.call.page else []

    @property
    def got(self):
        return self.call.got
