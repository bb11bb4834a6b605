"""
Simulations with hand-made programs, and their logs carried out again on plain zones, for tests of the machine.
"""

import numpy as np

from pcpbuddy import Node, Zone
from pcpbuddy._core import Call, core, machine
from pcpbuddy._core.core import Contig
from pcpbuddy.costs import MEANINGS
from pcpbuddy.names import ZONE_RECLAIM_ACTIVE
from pcpbuddy.workload.program import Program

CPU_TIMES = ("user", "allocator", "zone_wait", "pcp_wait", "user_lock_wait", "sleep", "interrupt", "done")
CALLS = ("alloc", "free", "free_batch", "bulk", "tick", "drain", "other", "contig")
ZONE_SECTIONS = ("refill", "direct_alloc", "direct_free", "drain", "other")
PCP_SECTIONS = ("alloc", "free_local", "free_remote", "drain_local", "drain_remote")
KINDS = {"DMA": 0, "DMA32": 1, "Normal": 2, "Movable": 3}
LOG_ROW = np.dtype(
    [("slot", "u4"), ("what", "u2"), ("bits", "u2"), ("zone", "u4"), ("gfp", "u4"), ("nr", "u4"), ("pfn", "u4")]
)
(STEP, ALLOC, FREE, BATCH, BULK, TICK, DRAIN, RUN, ISOLATE, UNISOLATE, OFFLINE) = range(11)
CMA_ALLOC, CMA_RELEASE, OFFLINE_MEMORY, ONLINE_MEMORY = range(11, 15)
ONLINE, MOVABLE, SPLIT, RECLAIM, FOLD = range(16, 21)


def costs(**given):
    """
    A cost model in which nothing costs anything but what is given; names without _ns.
    """
    model = dict.fromkeys(MEANINGS, 0.0)
    for name, value in given.items():
        model[name if name in model else f"{name}_ns"] = value
    assert len(model) == len(MEANINGS), given
    return model


class Machine:
    """
    A Simulation over fresh zones, run by hand. programs: of each CPU, or one for all.

    The zones are those that `zones()` makes anew each time; zone k lies on node zone_node[k].
    """

    def __init__(
        self, programs, cpus=None, *, zones=None, zone_node=None, cpu_node=None, model=None, policy="fixed", **options
    ):
        programs = programs if isinstance(programs, list) else [programs] * (cpus or 1)
        self.cpus = len(programs)
        self.make = zones or (lambda: [Zone(4 * 512, cpus=self.cpus, policy=policy)])
        self.zones = self.make()
        self.zone_node = zone_node or [0] * len(self.zones)
        self.cpu_node = cpu_node or [0] * self.cpus
        texts = [p.instructions() if isinstance(p, Program) else p for p in programs]
        options.setdefault("tick_ns", 0)
        if isinstance(irq := options.get("irq_program"), Program):
            options["irq_program"] = irq.instructions()
        self.simulation = machine.Simulation(
            self.zones,
            [core.address_of(zone) for zone in self.zones],
            self.zone_node,
            [KINDS[zone.name] for zone in self.zones],
            self.cpu_node,
            model or costs(),
            texts,
            list(range(self.cpus)),
            **options,
        )

    def run(self, until_ns=-1, events=1 << 60):
        """
        To the end, or until then; then stop, and look at everything.
        """
        self.simulation.run(until_ns, events)
        self.simulation.stop()
        self.result = self.simulation.result()
        return self

    @property
    def zone(self):
        return self.zones[0]

    @property
    def ns(self):
        """
        How long the measured part was.
        """
        return (self.result["now_ps"] - self.result["start_ps"]) / 1000

    @property
    def trouble(self):
        return self.simulation.trouble

    def cpu_ns(self, cpu=None):
        """
        Nanoseconds by what a CPU, or all together, spent them on, without those that are zero.
        """
        spent = self.result["cpu_ps"].sum(0) if cpu is None else self.result["cpu_ps"][cpu]
        return {name: ps / 1000 for name, ps in zip(CPU_TIMES, spent.tolist(), strict=True) if ps}

    def locks(self, which, zone=0, field="count"):
        """
        A statistic of the zone, PCP or program's locks, by kind of section, without those that are zero.
        """
        values = self.result[f"{which}_lock"][field][zone]
        names = {"zone": ZONE_SECTIONS, "pcp": PCP_SECTIONS, "user": ("user",)}[which]
        return {name: value for name, value in zip(names, values.tolist(), strict=True) if value}

    def calls(self, field="count"):
        values = self.result[f"call_{field}"]
        return {name: value for name, value in zip(CALLS, values.tolist(), strict=True) if value}

    def check(self):
        """
        What must hold after any run that had no trouble.
        """
        assert self.trouble is None
        for zone in self.zones:
            zone.check()
        adds_up(self)
        return self


def adds_up(run):
    """
    CPU time is all there, waits are the same in both books, holds are those that the zones counted.
    """
    result = run.result
    length_ps = result["now_ps"] - result["start_ps"]
    assert (result["cpu_ps"] >= 0).all()
    assert (result["cpu_ps"].sum(1) == length_ps).all()
    spent = dict(zip(CPU_TIMES, result["cpu_ps"].sum(0).tolist(), strict=True))
    for which in ("zone", "pcp", "user"):
        lock = result[f"{which}_lock"]
        assert spent["user_lock_wait" if which == "user" else f"{which}_wait"] == lock["wait_ps"].sum()
        assert (lock["wait_hist"].sum(-1) == lock["count"]).all()
        assert (lock["waited"] <= lock["count"]).all()
        assert (lock["hold_ps"] <= length_ps * run.cpus).all()
    assert (result["zone_lock"]["hold_ps"].sum(-1) <= length_ps).all()
    assert (result["call_hist"].sum(-1) == result["call_count"]).all()
    for k, zone in enumerate(run.zones):
        counters = zone.counters()
        for kind, name in enumerate(ZONE_SECTIONS):
            assert result["zone_lock"]["count"][k, kind] == counters[f"holds_{name}"], name


class Replayed:
    """
    The log of a simulation, carried out on fresh zones by the Python face of calls, step by step.
    """

    def __init__(self, run):
        self.run = run
        self.zones = run.make()
        by_node = {}
        for zone, node in zip(self.zones, run.zone_node, strict=True):
            by_node.setdefault(node, []).append(zone)
        nodes = {node: Node(zones) for node, zones in by_node.items()}
        nr = max(run.zone_node) + 1
        # As a node sees them: its own first, then the next, and round.
        self.seen = [[nodes[(node + k) % nr] for k in range(nr) if (node + k) % nr in nodes] for node in range(nr)]
        self.calls = {}
        self.contigs = {}
        self.steps = 0

    def nodes_of(self, cpu):
        return self.seen[self.run.cpu_node[cpu]]

    def carry_out(self):
        rows = np.frombuffer(self.run.simulation.log(), LOG_ROW)
        k = 0
        while k < len(rows):
            row = {name: int(rows[k][name]) for name in LOG_ROW.names}
            slot, what = row["slot"], row["what"]
            if what == STEP:
                self.steps += 1
                self.step(slot, bool(row["bits"]))
            elif what < ONLINE:
                pfns = rows["pfn"][k : k + row["nr"]].tolist() if what == BATCH else [row["pfn"]]
                self.calls[slot] = self.begin(slot // 2, row, pfns)
                self.step(slot, True)
                k += len(pfns) - 1
            else:
                self.change(slot // 2, row)
            k += 1
        return self

    def step(self, slot, got):
        """
        The call of that slot: a tick may come between two calls of a contiguous allocation, which then goes on.
        """
        if self.calls[slot] is None:
            self.calls[slot] = self.contigs[slot]
        if self.calls[slot].step(got) is None:
            self.calls[slot] = None

    def begin(self, cpu, row, pfns):
        what, zone = row["what"], self.zones[row["zone"]]
        nodes = self.nodes_of(cpu)
        if CMA_ALLOC <= what <= ONLINE_MEMORY:
            self.contigs[2 * cpu] = self.begin_contig(cpu, row, zone, nodes)
            return self.contigs[2 * cpu]
        if what == ALLOC:
            return Call.alloc(nodes, row["bits"], row["gfp"], cpu)
        if what == BULK:
            return Call.alloc_bulk(nodes, row["nr"], row["gfp"], cpu)
        if what == FREE:
            return Call.free(nodes, pfns[0], cpu, irq=bool(row["bits"] & 1))
        if what == BATCH:
            return Call.free_batch(nodes, pfns, cpu, irq=bool(row["bits"] & 1))
        if what == RUN:
            return Call.free_run(nodes, pfns[0], row["nr"], cpu)
        if what == DRAIN:
            return Call.drain(nodes, cpu)
        if what == TICK:
            return Call.tick(Node([zone]), cpu)
        if what == ISOLATE:
            return Call.isolate(nodes, pfns[0], True, False, cpu)
        assert what == OFFLINE
        target = row["nr"]
        online = [c for c, pcp in enumerate(zone.summary()["pcp"]) if pcp["online"] and c != target]
        return Call.offline(Node([zone]), target, cpu if cpu != target else online[0])

    def begin_contig(self, cpu, row, zone, nodes):
        what, pfn, nr = row["what"], row["pfn"], row["nr"]
        if what == CMA_RELEASE:
            return Contig.cma_release(nodes, pfn, nr, cpu)
        if what == OFFLINE_MEMORY:
            return Contig.offline_pages(nodes, pfn, nr, cpu)
        if what == ONLINE_MEMORY:
            return Contig.online_pages(nodes, pfn, nr, cpu)
        areas = [first for node in reversed(nodes) for first, _ in node.cma_areas()]  # as a Call numbers zones
        return Contig.cma_alloc(nodes, nr, row["bits"], areas.index(pfn), cpu)

    def change(self, cpu, row):
        what, zone = row["what"], self.zones[row["zone"]]
        if what == MOVABLE:
            zone.set_movable(row["pfn"])
        elif what == SPLIT:
            zone.split(row["pfn"])
        elif what == ONLINE:
            zone.online(row["nr"])
        elif what == FOLD:
            zone.fold(cpu)
        else:
            assert what == RECLAIM
            zone.flags = zone.flags | ZONE_RECLAIM_ACTIVE if row["bits"] else zone.flags & ~ZONE_RECLAIM_ACTIVE

    def same(self):
        for zone, own in zip(self.run.zones, self.zones, strict=True):
            own.check()
            assert own.state() == zone.state()
        return self
