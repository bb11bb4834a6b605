"""
A recorder for our own allocator: the rows that a kernel with probes would have written for random operations.

``record(plan)`` runs a machine of several CPUs on the pieces of ``pcpbuddy.model`` and writes a recording of it, with
both snapshots. The model shares no code with the core that is to replay it. Operations are generators that stop
at locks and wherever another CPU, an interrupt or another task can come in between; a seed decides who goes on.
Where each row is written: /docs/reference/baseline.md section 17, and the README of the recordings.

What no policy can know of such a run is noted in ``Recording.hidden``, by R-item. Without a plan for it, nothing is.
"""

import collections
import dataclasses
import json
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pcpbuddy import model, names
from pcpbuddy.model import check
from pcpbuddy.model.fallback import NORMAL
from pcpbuddy.model.memory import NR_FREE, NR_FREE_BLOCKS, NR_FREE_CMA, PB, Allocation, largest_aligned
from pcpbuddy.model.paths import default_aflags
from pcpbuddy.model.pcp import SCALE, pcp_type
from pcpbuddy.model.request import DIRECT_RECLAIM, HIGH, HIGHEST_ZONE, KSWAPD_RECLAIM, NOMEMALLOC, ZONE_INDEX
from pcpbuddy.model.watermark import ZONE_MOVABLE

U, M, R, H, C, ISOLATED = range(6)
FPI_TO_TAIL, FPI_CONTIG = 2, 8
HARD_IRQ, SOFT_IRQ, IRQS_OFF = 8, 16, 1  # irq_flags
KERNEL, USER, RECLAIMABLE, ATOMIC = 0xCC0, 0x100CCA, 0xCD0, 0x820
DMA, DMA32 = 0x1, 0x4

# columns of the rows, as in the recordings
TYPES = {
    **dict.fromkeys(("ts_ns", "pfn", "gfp_flags", "count", "high", "nr", "boost"), pa.int64()),
    **dict.fromkeys(("cpu_seq", "aflags", "fcount", "pid", "ret"), pa.int32()),
    **dict.fromkeys(("cpu", "pcp_cpu", "pflags", "afactor", "zflags", "pbflags", "irq_flags"), pa.int16()),
    **dict.fromkeys(
        (
            *("order", "migratetype", "percpu_refill", "fallback_order", "fallback_migratetype", "change_ownership"),
            *("zone", "fpi", "pindex", "old_migratetype", "isolate", "pagesets", "phase"),
        ),
        pa.int8(),
    ),
    "event": pa.string(),
}
PROBES = frozenset(
    (
        *("pcp_alloc", "pcp_alloc_bulk", "pcp_alloc_tryfail", "pcp_free", "pcp_bulk_free", "free_one", "buddy_free"),
        *("claim", "set_pageblock", "move_block", "unreserve", "isolate", "putback", "block_isolate", "take_buddy"),
        *("decay", "vmfold", "drain_zone", "drain_zone_pages", "split"),
    )
)


@dataclasses.dataclass(frozen=True)
class ZoneSpec:
    """
    A zone to be made: where it begins and ends, and how its PCPs are sized.
    """

    name: str
    start: int
    end: int
    batch: int = 3
    high: tuple[int, int] = (12, 60)
    watermark: tuple[int, int, int, int] = (0, 0, 0, 0)
    reserve: tuple[int, ...] = (0, 0, 0, 0, 0)
    threshold: int = 0
    cma_blocks: int = 0
    drift_mark: int = 0
    llc_pages: int = 512


# What a machine does, by weight. Operations are methods of Machine with the prefix ``do_``.
WORK = {"alloc": 40, "free": 30, "free_batch": 4, "tick": 4, "fold": 2}


@dataclasses.dataclass(frozen=True)
class Plan:
    """
    What to record. The same plan gives the same recording.

    steps: operations begun between the snapshots. overlap: how likely it is, at each stop, that somebody else goes on.
    irqs: how likely at a stop that an interrupt allocates or frees. folds: write vmfold rows; without, nothing folds
    but decay. pids: the rows have them. hidden: R-items of which the machine does what no policy can know. windows:
    rare moments that rows do show and a replay does not follow: "moves", a task leaves its CPU between a pop without a
    page and its section past the PCP; "kswapd", the threshold of counters changes in the middle of a section; "decay",
    it reads count in the middle of a drain of its PCP; "rounds", an emptied PCP is filled again between two rounds of
    a drain that goes on; "expire", others empty a PCP while its decay drains it.
    """

    seed: int = 0
    zones: tuple[ZoneSpec, ...] = (ZoneSpec("Normal", 0, 8 * 512),)
    cpus: int = 2
    steps: int = 150
    work: dict = dataclasses.field(default_factory=lambda: WORK)
    orders: tuple[int, ...] = (0, 0, 0, 0, 1, 2, 3)
    gfps: tuple[int, ...] = (USER, USER, KERNEL, RECLAIMABLE)
    overlap: float = 0.3
    irqs: float = 0.02
    folds: bool = True
    pids: bool = True
    hidden: frozenset = frozenset()
    windows: frozenset = frozenset()


@dataclasses.dataclass
class Recording:
    """
    A finished recording. hidden: what the rows do not tell and a policy cannot know, by R-item.
    """

    rows: list
    snapshots: list
    hidden: collections.Counter
    plan: Plan

    def table(self, keep=None):
        """
        The rows as a table, all of them or those of a list of row numbers.
        """
        rows = self.rows if keep is None else [self.rows[number] for number in keep]
        columns = {name: pa.array([row.get(name) for row in rows], kind) for name, kind in TYPES.items()}
        columns["event"] = columns["event"].dictionary_encode()
        return pa.table(columns)

    def write(self, folder, name="fake-1c", keep=None):
        """
        The files of the recording; the path without an ending.
        """
        base = Path(folder) / name
        pq.write_table(self.table(keep), base.with_name(name + ".parquet"))
        for which, (document, arrays) in enumerate(self.snapshots):
            packed = pa.Codec("zstd").compress(json.dumps(document).encode(), asbytes=True)
            base.with_name(f"{name}.snap{which}.json.zst").write_bytes(packed)
            np.savez(base.with_name(f"{name}.snap{which}.npz"), **arrays)
        return base

    def plain(self):
        """
        The same machine recorded without probes: standard tracepoints only.
        """
        kept = [row for row in self.rows if row["event"] not in PROBES]
        seen = collections.Counter()
        renumbered = []
        positions = [collections.Counter(), collections.Counter()]
        for row in kept:
            renumbered.append(row | {"cpu_seq": seen[row["cpu"]]})
            seen[row["cpu"]] += 1
            for which in range(2):
                positions[which][row["cpu"]] += row["phase"] <= which
        snapshots = []
        for which, (document, arrays) in enumerate(self.snapshots):
            ring = [{**ring, "entries": positions[which][ring["cpu"]]} for ring in document["ring"]]
            snapshots.append((document | {"ring": ring}, arrays))
        return dataclasses.replace(self, rows=renumbered, snapshots=snapshots)


def _normal(blocks, **fields):
    return {"zones": (ZoneSpec("Normal", 0, blocks * 512, **fields),)}


_MIXED = (USER, KERNEL, RECLAIMABLE, ATOMIC)
_ZONES = {
    "two": (
        ZoneSpec("DMA", 1, 1025, batch=1, high=(4, 30)),
        ZoneSpec("DMA32", 1025, 1025 + 6 * 512, threshold=5),
    ),
    "three": (
        ZoneSpec("DMA", 0, 1024, 1, (4, 30), (10, 20, 30, 40), (0, 50, 60, 60, 0)),
        ZoneSpec("DMA32", 1024, 3072, 3, (12, 60), (20, 60, 100, 140), (0, 0, 40, 40, 0), 5),
        ZoneSpec("Normal", 3072, 6144, 3, (12, 60), (30, 200, 400, 600), threshold=5),
    ),
}
# A zone that is not Normal: no NOFRAGMENT, so requests claim and steal as soon as their own lists are empty.
_CLAIMS = {
    **{"cpus": 3, "overlap": 0.5, "irqs": 0.1, "steps": 250, "orders": (0, 0, 2, 4, 5, 6)},
    "zones": (ZoneSpec("DMA32", 0, 4 * 512, 7, (28, 60), threshold=3),),
    **{"gfps": (*(USER,) * 6, KERNEL, RECLAIMABLE), "work": WORK | {"alloc": 50}},
}
_COMPACTION = {"isolate_free": 10, "putback": 8, "release_isolated": 6}

# name -> what differs from the default plan; each makes rows that others do not
PLANS = {
    "basic": {},
    "without ticks": {
        "folds": False,
        "cpus": 3,
        "overlap": 0.5,
        "pids": False,
        "irqs": 0,
        "work": {"alloc": 5, "free": 4},
    },
    "busy": {"cpus": 4, "overlap": 0.8, "irqs": 0.3},
    "eight CPUs": {"cpus": 8, "overlap": 0.9, "irqs": 0.5, "steps": 300, "work": WORK | {"drain_all": 2}},
    "drains": {"cpus": 3, "overlap": 0.7, "irqs": 0.2, "work": WORK | {"drain_all": 6}},
    "bulk": {"cpus": 3, "overlap": 0.5, "irqs": 0.2, "work": WORK | {"alloc_bulk": 20}},
    "ranges": {
        **{"cpus": 3, "overlap": 0.5, "irqs": 0.1, "orders": (0, 0, 0, 1, 2, 3, 4, 5, 6, 9)},
        **_normal(24, threshold=5),
        "work": WORK | {"alloc": 60, "split": 15, "free_range": 15},
    },
    "high orders": {"overlap": 0.5, "orders": (0, 0, *range(1, 11)), **_normal(24, threshold=5)},
    "drift": {"cpus": 4, "overlap": 0.6, "irqs": 0.2, **_normal(8, threshold=30, batch=7, high=(28, 200))},
    "cma": {"cpus": 4, "overlap": 0.6, "irqs": 0.2, **_normal(8, threshold=10, cma_blocks=4, batch=7, high=(28, 200))},
    "two zones": {"zones": _ZONES["two"], "overlap": 0.5, "irqs": 0.1, "gfps": (USER, USER, KERNEL, KERNEL | DMA)},
    "three zones": {
        **{"zones": _ZONES["three"], "cpus": 3, "overlap": 0.5, "irqs": 0.1},
        "gfps": (*_MIXED, USER, KERNEL | DMA, KERNEL | DMA32),
    },
    "claims": _CLAIMS,
    "marks": {
        **{"cpus": 3, "overlap": 0.4, "irqs": 0.1, "steps": 250, "orders": (0, 0, 0, 1, 2, 3, 4, 6), "gfps": _MIXED},
        **_normal(6, threshold=3, watermark=(100, 600, 1100, 1600)),
    },
    "full": {
        **{"cpus": 3, "overlap": 0.4, "irqs": 0.1, "steps": 250, "orders": (0, 0, 2, 3, 4, 6, 9), "gfps": _MIXED},
        **_normal(4, threshold=3, watermark=(30, 60, 90, 120)),
        "work": WORK | {"alloc": 80},
    },
    "isolation": {
        **{"cpus": 3, "overlap": 0.5, "irqs": 0.1, "orders": (0, 0, 0, 1, 2, 3, 4, 6), **_normal(16, threshold=5)},
        "work": WORK | {"isolate_block": 10},
    },
    "compaction": {
        **{"cpus": 3, "overlap": 0.5, "irqs": 0.1, "orders": (0, 0, 0, 1, 2, 3, 4, 6), **_normal(16, threshold=5)},
        "work": WORK | _COMPACTION,
    },
    "kswapd": {
        **{"cpus": 3, "overlap": 0.5, "irqs": 0.1, "work": WORK | {"kswapd": 6}},
        **_normal(8, threshold=20, drift_mark=5, watermark=(10, 40, 70, 100), batch=7, high=(28, 200)),
    },
    "high-atomic": {
        **{
            "cpus": 3,
            "overlap": 0.5,
            "irqs": 0.1,
            "orders": (0, 0, 1, 2, 3, 4),
            "gfps": (USER, KERNEL, ATOMIC, ATOMIC),
        },
        **_normal(104, threshold=20, watermark=(100, 52000, 53000, 54000), batch=7, high=(28, 200)),
        "work": WORK | {"unreserve": 5},
    },
    "reserve": {
        **{
            "cpus": 3,
            "overlap": 0.7,
            "irqs": 0.3,
            "orders": (0, 1, 2, 3, 4, 9),
            "gfps": (USER, KERNEL, ATOMIC, ATOMIC),
        },
        **_normal(104, threshold=20, watermark=(10, 53300, 53400, 53500), batch=7, high=(28, 200)),
        "work": WORK | {"unreserve": 6},
    },
    "LRU bits": {**_CLAIMS, "hidden": frozenset(["R9"])},
    "late folds": {
        **{"cpus": 4, "overlap": 0.6, "irqs": 0.2, "gfps": (USER, USER, USER, KERNEL), "hidden": frozenset(["R10"])},
        **_normal(8, threshold=30, cma_blocks=4, batch=7, high=(28, 200)),
        **{"steps": 300, "work": WORK | {"alloc": 60, "tick": 10, "fold": 10}},
    },
    "rotation": {
        **{"cpus": 3, "overlap": 0.5, "irqs": 0.1, "orders": (0, 0, 0, 1, 2, 3, 4, 6), "hidden": frozenset(["R6"])},
        **_normal(16, threshold=5),
        "work": WORK | _COMPACTION | {"rotate": 10},
    },
}


def planned(name, seed=0):
    """
    One of PLANS.
    """
    return Plan(seed=seed, **PLANS[name])


def record(plan):
    """
    Run a machine as planned, and record it.
    """
    return Machine(plan).record()


# One zone that tells what happens under its lock.


class ToldZone(model.Zone):
    """
    A zone of the model whose steps under the zone lock write their rows.
    """

    machine = None

    def emit(self, kind, *values, cpu=None):
        row = self.machine and self.machine.row
        if not row:
            return
        if kind == "zone_locked":
            pfn, order, mt, refill = values
            row("mm_page_alloc_zone_locked", pfn=pfn, order=order, migratetype=mt, percpu_refill=refill)
        elif kind == "extfrag":
            pfn, order, current, mt, fallback, change = values
            row(
                *("mm_page_alloc_extfrag",),
                pfn=pfn,
                order=order,
                migratetype=mt,
                fallback_order=current,
                fallback_migratetype=fallback,
                change_ownership=change,
            )
        elif kind == "pcpu_drain":
            pfn, order, mt = values
            row("mm_page_pcpu_drain", pfn=pfn, order=order, migratetype=mt)

    def tell_claim(self, pfn, order, mt, current, fallback):
        self.machine.row(
            *("claim",),
            pfn=pfn,
            order=order,
            migratetype=mt,
            fallback_order=current,
            fallback_migratetype=fallback,
            boost=self.watermark_boost,
        )

    def _claim_whole(self, candidate, order, mt):
        chunk = self.chunks[candidate]
        self.tell_claim(candidate, order, mt, chunk.order, chunk.type)
        return super()._claim_whole(candidate, order, mt)

    def _claim_part(self, candidate, mt, fallback, aflags):
        self.tell_claim(candidate, self.machine.wanted, mt, self.chunks[candidate].order, fallback)
        before = self.flags
        claimed = super()._claim_part(candidate, mt, fallback, aflags)
        self.machine.known[self.name] |= self.flags & ~before
        return claimed

    def zone_take(self, order, mt, aflags, mode=NORMAL, foreign=True):
        self.machine.wanted = order
        return super().zone_take(order, mt, aflags, mode, foreign)

    def retype(self, index, mt):
        if self.machine:
            self.machine.row("set_pageblock", pfn=self.block_pfn(index), pbflags=mt)
        super().retype(index, mt)

    def tell_move(self, pfn, old, mt):
        """
        Entry of move_freepages_block: all free chunks of a block are about to change their list.
        """
        start = self.block_pfn(self.block_index(pfn))
        self.machine.row("move_block", pfn=start, migratetype=mt, old_migratetype=old)


def make_zone(spec, cpus):
    zone = ToldZone(
        spec.end - spec.start,
        cpus=cpus,
        policy="mainline",
        cma_pages=spec.cma_blocks * 512,
        start_pfn=spec.start,
        zone_index=ZONE_INDEX[spec.name],
        name=spec.name,
        batch=spec.batch,
        high_min=spec.high[0],
        high_max=spec.high[1],
        stat_threshold=spec.threshold,
        watermark=spec.watermark,
        llc_pages=spec.llc_pages,
    )
    zone.lowmem_reserve = list(spec.reserve)
    zone.drift_mark = spec.drift_mark
    zone.normal_threshold = spec.threshold
    return zone


# A machine: tasks and interrupts on CPUs, and who goes on.

LOCK, STOP, PINNED, HELD = "lock", "stop", "pinned", "held"  # why a context has stopped


class Context:
    """
    A task or an interrupt in the middle of an operation.

    why: LOCK, it waits for ``lock``; STOP, it holds nothing and may be preempted or moved; PINNED, it holds a PCP lock,
    so only an interrupt can come in; HELD, it holds the zone lock, with interrupts off.
    """

    def __init__(self, cpu, pid, irq, steps):
        self.cpu, self.pid, self.irq, self.steps = cpu, pid, irq, steps
        self.why, self.lock = STOP, None
        self.zone_locked = False
        self.bound = False  # a task that cannot leave its CPU
        self.asking = False  # between a pop without a page and its section past the PCP


class Machine:
    """
    CPUs, zones and locks. Methods ``do_*`` are the operations; those that yield stop there.
    """

    def __init__(self, plan):
        self.plan = plan
        self.random = random.Random(plan.seed)
        self.zones = [make_zone(spec, plan.cpus) for spec in plan.zones]
        for zone in self.zones:
            zone.machine = self
        self.stacks = [[] for _ in range(plan.cpus)]
        self.locks = {}
        self.rows = []
        self.seq = [0] * plan.cpus
        self.now_ns = 1_000_000
        self.context = None
        self.live = {}  # page frame -> order: what a user holds and may free
        self.isolated = {}  # the same for what compaction holds
        self.iso_blocks = []  # (zone, page) of isolated pageblocks
        self.wanted = 0
        self.pids = 100
        self.hidden = collections.Counter()  # R-items
        self.entries = []
        self.growing = True
        self.awake = False
        self.known = {zone.name: zone.flags for zone in self.zones}  # zone flags as far as rows tell

    # -- recording

    def record(self):
        plan = self.plan
        self.work(plan.steps // 4)
        self.settle()
        self.known = {zone.name: zone.flags for zone in self.zones}
        self.hidden.clear()
        snapshots = [self.snapshot()]
        self.work(plan.steps)
        self.settle()
        snapshots.append(self.snapshot())
        self.work(5)
        for row in self.rows:
            row["phase"] = sum(row["cpu_seq"] >= entries[row["cpu"]] for entries in self.entries)
        return Recording(self.rows, snapshots, +self.hidden, plan)

    def row(self, event, **fields):
        """
        One row, written by whoever runs now.
        """
        context = self.context
        self.now_ns += self.random.choice((1, 50, 700))
        row = {
            "ts_ns": self.now_ns,
            "cpu": context.cpu,
            "cpu_seq": self.seq[context.cpu],
            "event": event,
            "irq_flags": context.irq | (IRQS_OFF if context.zone_locked else 0),
            **fields,
        }
        if self.plan.pids:
            row["pid"] = context.pid
        self.seq[context.cpu] += 1
        self.rows.append(row)

    def snapshot(self):
        """
        The JSON document and the arrays, everything being at rest.
        """
        assert not any(self.stacks)
        assert not self.locks
        for zone in self.zones:
            zone.check()
        self.entries.append(list(self.seq))
        return document(self), arrays(self)

    # -- who goes on

    def work(self, steps):
        """
        Begin that many operations, and end them all.
        """
        while steps or any(self.stacks):
            if steps and self._may_begin():
                steps -= 1
            elif any(self.stacks):
                self._go_on()

    def settle(self):
        """
        Nobody reclaims any more: kswapd sleeps, its flags are gone. Where rows do not tell, a free in the zone does.
        """
        if self.awake:
            self._begin(0, self.kswapd(), 0)
            self.work(0)
        for zone in self.zones:
            zone.flags &= ~names.ZONE_RECLAIM_ACTIVE
            if self.known[zone.name] == zone.flags:
                continue
            pfn = next((pfn for pfn, order in self.live.items() if order == 0 and self.zone_of(pfn) is zone), None)
            if pfn is not None:
                del self.live[pfn]
                self._begin(0, self.free(pfn, 0), 0)
                self.work(0)
            self.read_flags(zone, -1)

    def _may_begin(self):
        """
        Begin an operation on some CPU, if one can be begun there.
        """
        busy = [cpu for cpu, stack in enumerate(self.stacks) if stack]
        if busy and self.random.random() >= self.plan.overlap:
            return False
        cpu = self.random.randrange(self.plan.cpus)
        stack = self.stacks[cpu]
        if len(stack) >= 4:
            return False
        top = stack[-1] if stack else None
        if top and (top.zone_locked or (top.why == LOCK and top.lock[0] == "zone") or top.irq & HARD_IRQ):
            return False  # interrupts are off
        irq = 0
        if top and (top.why != STOP or top.irq):
            if self.random.random() >= self.plan.irqs:
                return False
            irq = HARD_IRQ if top.irq else self.random.choice((HARD_IRQ, SOFT_IRQ))
        elif top and self.random.random() < self.plan.irqs:
            irq = self.random.choice((HARD_IRQ, SOFT_IRQ))
        steps = self._interrupt() if irq else self._task(cpu)
        if steps is None:
            return False
        self._begin(cpu, steps, irq)
        self.stacks[cpu][-1].bound = not irq and steps.__name__ == "tick"
        return True

    def _begin(self, cpu, steps, irq):
        stack = self.stacks[cpu]
        if irq:
            pid = stack[-1].pid if stack else 0
        else:
            self.pids += 1
            pid = self.pids
        stack.append(Context(cpu, pid, irq, steps))

    def _go_on(self):
        """
        One context goes on to its next stop, unless the CPUs' tasks change places first.
        """
        ready = [cpu for cpu, stack in enumerate(self.stacks) if stack and self._ready(stack[-1])]
        cpu = self.random.choice(ready)
        stack = self.stacks[cpu]
        top = stack[-1]
        if top.why == STOP and not top.irq and self.random.random() < self.plan.overlap / 4:
            below = stack[-2] if len(stack) > 1 else None
            if below and below.why == STOP and not below.irq:
                stack[-2:] = [top, below]  # the other task's turn
                return
            other = self.random.randrange(self.plan.cpus)
            there = self.stacks[other]
            if (
                other != cpu
                and not (top.bound or top.asking)
                and len(there) < 3
                and (not there or (there[-1].why == STOP and not there[-1].irq))
            ):
                there.append(stack.pop())  # migrated
                top.cpu = other
                return
        self._run(top)

    def _ready(self, context):
        return context.why != LOCK or context.lock not in self.locks

    def _run(self, context):
        """
        To the next stop: a generator yields (LOCK, lock), STOP, PINNED or HELD.
        """
        if context.why == LOCK:
            self.locks[context.lock] = context
            context.zone_locked = context.lock[0] == "zone"
        self.context = context
        for zone in self.zones:
            zone.this_cpu = context.cpu
        stop = next(context.steps, None)
        if stop is None:
            stack = self.stacks[context.cpu]
            assert stack.pop() is context
            assert context not in self.locks.values()
            return
        context.why, context.lock = stop if isinstance(stop, tuple) else (stop, None)

    # -- locks

    def lock_zone(self, zone):
        yield LOCK, ("zone", zone.zone_index)

    def unlock_zone(self, zone):
        del self.locks["zone", zone.zone_index]
        self.context.zone_locked = False

    def try_pcp(self, zone, cpu):
        lock = ("pcp", zone.zone_index, cpu)
        if lock in self.locks:
            return False
        self.locks[lock] = self.context
        return True

    def lock_pcp(self, zone, cpu):
        yield LOCK, ("pcp", zone.zone_index, cpu)

    def unlock_pcp(self, zone, cpu):
        del self.locks["pcp", zone.zone_index, cpu]

    def quiet(self, zone):
        """
        Nobody is in the middle of a section of this zone: what is read without a lock is what a section leaves.
        """
        return ("zone", zone.zone_index) not in self.locks

    def wait_quiet(self, zones):
        """
        Lock-free tests of watermarks read counters: not while a section is under way, for no row says how far it is.
        """
        while not all(map(self.quiet, zones)):
            yield STOP

    # -- zone flags: which of them rows tell

    def know_search(self, search, zone):
        """
        A search for a zone has come as far as this one, and a row shows it: B-75 as a reader of rows can follow it.
        """
        if search is None:
            return
        zonelist, order, aflags, hz = search
        for passed in zonelist[: zonelist.index(zone) + 1]:
            high = passed.wmark(names.WMARK_HIGH)
            if not passed.watermark_fast(order, high, aflags, hz):
                self.known[passed.name] |= names.ZONE_BELOW_HIGH

    def read_flags(self, zone, mask):
        """
        A rule reads some of the flags. If rows do not tell them, no replay can be exact from here on (R8).
        """
        self.hidden["R8"] += bool((self.known[zone.name] ^ zone.flags) & mask)

    # -- rows with the fields of a PCP

    def pcp_row(self, event, zone, cpu, *, tuning=True, **fields):
        pcp = zone.pcps[cpu]
        fields |= {"zone": zone.zone_index, "pcp_cpu": cpu, "count": pcp.count, "high": pcp.high}
        if tuning:
            fields |= {"pflags": pcp.flags, "afactor": pcp.alloc_factor, "fcount": pcp.free_count}
        self.row(event, **fields)

    # -- what there is to do

    def zone_of(self, pfn):
        return next(zone for zone in self.zones if zone.start_pfn <= pfn < zone.end_pfn)

    def _task(self, cpu):
        """
        An operation of a task: a generator, or None if there is nothing to do it with.
        """
        if self.random.random() < 0.02:
            self.growing = not self.growing
        work = self.plan.work
        weights = [
            weight * (3 if name.startswith("alloc") == self.growing else 1)
            if name.startswith(("alloc", "free"))
            else weight
            for name, weight in work.items()
        ]
        name = self.random.choices(list(work), weights)[0]
        return getattr(self, f"do_{name}")(cpu)

    def _interrupt(self):
        if self.random.random() < 0.5 and self.live:
            return self.do_free(0)
        return self.alloc(self.random.choice((0, 0, 0, 1, 2)), ATOMIC)

    def take_live(self, orders=range(11)):
        """
        A page that a user gives back. None: there is none.
        """
        for _ in range(8):
            if not self.live:
                return None
            pfn = self.random.choice(list(self.live))
            if self.live[pfn] in orders:
                return pfn, self.live.pop(pfn)
        return None

    def do_alloc(self, cpu):
        return self.alloc(self.random.choice(self.plan.orders), self.random.choice(self.plan.gfps))

    def do_alloc_bulk(self, cpu):
        return self.alloc_bulk(self.random.randint(2, 12), self.random.choice(self.plan.gfps))

    def do_free(self, cpu):
        found = self.take_live()
        return found and self.free(*found)

    def do_free_batch(self, cpu):
        found = [self.take_live() for _ in range(self.random.randint(2, 20))]
        found = [pair for pair in found if pair]
        return self.free_batch(found) if found else None

    def do_free_range(self, cpu):
        """
        B-94: pages side by side, each an allocation of order 0.
        """
        found = self.take_live((0,))
        if not found:
            return None
        first = end = found[0]
        zone = self.zone_of(first)
        most = self.random.choice((2, 5, 40, 1000))
        while end - first < most and end + 1 < zone.end_pfn and self.live.get(end + 1) == 0:
            end += 1
            del self.live[end]
        return self.free_range(zone, first, end + 1)

    def do_split(self, cpu):
        found = self.take_live(range(1, 11))
        return found and self.split(*found)

    def do_tick(self, cpu):
        """
        One worker of each CPU does that.
        """
        return None if any(context.bound for context in self.stacks[cpu]) else self.tick(pagesets=True)

    def do_fold(self, cpu):
        """
        A CPU that goes idle folds its counters.
        """
        return self.tick(pagesets=False) if self.plan.folds and not self.stacks[cpu] else None

    def do_drain_all(self, cpu):
        return self.drain_all()

    def do_isolate_free(self, cpu):
        """
        B-115, as compaction does.
        """
        zone = self.random.choice(self.zones)
        pfns = list(zone.chunks)
        return self.isolate_free(zone, self.random.choice(pfns)) if pfns else None

    def do_putback(self, cpu):
        if not self.isolated:
            return None
        pfn = self.random.choice(list(self.isolated))
        return self.putback(pfn, self.isolated.pop(pfn))

    def do_release_isolated(self, cpu):
        """
        B-116: what compaction did not need goes back as an ordinary free, or its pages now hold a user's data.
        """
        if not self.isolated:
            return None
        pfn = self.random.choice(list(self.isolated))
        order = self.isolated.pop(pfn)
        if self.random.random() < 0.5:
            self.live[pfn] = order
            return None
        return self.free(pfn, order)

    def do_isolate_block(self, cpu):
        if self.iso_blocks and self.random.random() < 0.6:
            return self.unisolate(*self.iso_blocks.pop(self.random.randrange(len(self.iso_blocks))))
        zone = self.random.choice(self.zones)
        index = self.random.randrange(len(zone.blocks))
        if zone.blocks[index].iso or not zone.inside(index):
            return None
        return self.isolate_block(zone, zone.block_pfn(index))

    def do_rotate(self, cpu):
        """
        B-117: compaction's searches move what they came by to the tail. No row tells (R6).
        """
        if "R6" not in self.plan.hidden or not any(row["event"] == "isolate" for row in self.rows[-200:]):
            return None
        return self.rotate(self.random.choice(self.zones))

    def do_unreserve(self, cpu):
        return self.unreserve([self.zones[-1]], self.random.choice((U, M, R)), force=True)

    def do_kswapd(self, cpu):
        return self.kswapd()

    # -- allocations (sections 6 to 9)

    def alloc(self, order, gfp):
        """
        One call of the entry point for pages, up to its event.
        """
        mt = names.gfp_migratetype(gfp)
        hz = HIGHEST_ZONE[gfp & 0xF]
        zonelist = [zone for zone in reversed(self.zones) if zone.zone_index <= hz]
        common = names.ALLOC_KSWAPD if gfp & KSWAPD_RECLAIM else 0
        if order > 0 and gfp & HIGH and not gfp & (DIRECT_RECLAIM | NOMEMALLOC):
            common |= names.ALLOC_HIGHATOMIC
        aflags = default_aflags(mt) | common
        pfn = None
        if zonelist and zonelist[0].name == "Normal":
            pfn = yield from self.walk(zonelist, order, mt, aflags | names.ALLOC_NOFRAGMENT, hz)
        if pfn is None:
            pfn = yield from self.walk(zonelist, order, mt, aflags, hz)
        if pfn is None:
            pfn = yield from self.slow_path(zonelist, order, mt, gfp, common, hz)
        yield STOP
        self.row("mm_page_alloc", pfn=-1 if pfn is None else pfn, order=order, migratetype=mt, gfp_flags=gfp)
        if pfn is not None:
            self.hand_over(pfn, order, mt)
            self.live[pfn] = order

    def hand_over(self, pfn, order, mt):
        """
        A movable page joins an LRU list where a replay supposes that it does: when it is handed over (corrections.md).
        """
        movable = int(mt == M)
        if "R9" in self.plan.hidden and self.random.random() < 0.5:
            movable ^= 1
            self.hidden["R9"] += 1
        self.zone_of(pfn).allocated[pfn] = Allocation(order, mt, movable)

    def slow_path(self, zonelist, order, mt, gfp, common, hz):
        """
        Section 9: other flags, then what is parked or reserved is given back.
        """
        aflags = default_aflags(mt) & ~names.WMARK_LOW | names.WMARK_MIN | common
        if gfp & HIGH:
            aflags |= names.ALLOC_MIN_RESERVE
        if not gfp & (DIRECT_RECLAIM | NOMEMALLOC):
            aflags |= names.ALLOC_NON_BLOCK
        pfn = yield from self.walk(zonelist, order, mt, aflags, hz)
        if pfn is not None or not gfp & DIRECT_RECLAIM or not zonelist:
            return pfn
        yield from self.unreserve(zonelist, mt, force=False)
        yield from self.drain_all()
        pfn = yield from self.walk(zonelist, order, mt, aflags, hz)
        if pfn is None and (yield from self.unreserve(zonelist, mt, force=True)):
            pfn = yield from self.walk(zonelist, order, mt, aflags, hz)
        return pfn

    def walk(self, zonelist, order, mt, aflags, hz):
        """
        B-75.
        """
        for zone in zonelist:
            yield from self.wait_quiet([zone])
            if not zone.flags & names.ZONE_BELOW_HIGH and not zone.watermark_fast(
                order, zone.wmark(names.WMARK_HIGH), aflags, hz
            ):
                zone.flags |= names.ZONE_BELOW_HIGH
            if zone.flags & names.ZONE_BELOW_HIGH and not zone.watermark_fast(
                order, zone.wmark(aflags & 3), aflags, hz
            ):
                continue
            pfn = yield from self.rmqueue(zone, order, mt, aflags, (zonelist, order, aflags, hz))
            if pfn is not None:
                return pfn
        return None

    def rmqueue(self, zone, order, mt, aflags, search):
        """
        B-60.
        """
        pfn = None
        if zone.layout.serves(order):
            cpu = self.context.cpu
            if self.try_pcp(zone, cpu):
                zone.pcps[cpu].free_count >>= 1
                pfn = yield from self.pop(zone, cpu, order, mt, aflags, search)
                self.pcp_row(
                    "pcp_alloc", zone, cpu, pfn=-1 if pfn is None else pfn, order=order, migratetype=mt, aflags=aflags
                )
                if pfn is not None:
                    self.hand_over(pfn, order, mt)
                self.unlock_pcp(zone, cpu)
                self.context.asking = pfn is None and "moves" not in self.plan.windows
                yield STOP
                self.context.asking = False
            else:
                self.know_search(search, zone)
                self.row("pcp_alloc_tryfail", order=order, migratetype=mt, zone=zone.zone_index, aflags=aflags)
            search = None
        if pfn is None:
            pfn = yield from self.take_direct(zone, order, mt, aflags, search)
        if aflags & names.ALLOC_KSWAPD:
            zone.flags &= ~names.ZONE_BOOSTED_WATERMARK
            self.known[zone.name] &= ~names.ZONE_BOOSTED_WATERMARK
        return pfn

    def pop(self, zone, cpu, order, mt, aflags, search):
        """
        B-62, the PCP lock being held.
        """
        pcp = zone.pcps[cpu]
        entries = pcp.lists[zone.layout.index(order, mt)]
        if entries:
            self.know_search(search, zone)
        elif aflags & names.ALLOC_HIGHATOMIC:
            self.know_search(search, zone)
            self.read_flags(zone, names.ZONE_BELOW_HIGH)
            zone.refill_size(pcp, order)
            return None
        else:
            flags = zone.flags
            n = zone.refill_size(pcp, order)
            yield from self.refill(zone, cpu, n, order, mt, aflags, search, flags)
            if not entries:
                return None
            yield PINNED
        pfn = entries.head
        zone.pcp_del(pfn)
        return pfn

    def refill(self, zone, cpu, n, order, mt, aflags, search, flags):
        """
        B-63: one hold. Between its takes, others fold their counters and use their PCPs. flags: that gave n.
        """
        yield from self.lock_zone(zone)
        self.know_search(search, zone)  # here a reader sees that there was a request, and a refill
        self.hidden["R8"] += bool((self.known[zone.name] ^ flags) & names.ZONE_BELOW_HIGH)
        mode = NORMAL
        for _ in range(n):
            pfn, mode = zone.zone_take(order, mt, aflags, mode)
            if pfn is None:
                break
            zone.pcp_put(cpu, pfn, order, mt, mark=False, tail=True)
            yield HELD
        self.unlock_zone(zone)

    def take_direct(self, zone, order, mt, aflags, search):
        """
        B-66, and B-70 after it.
        """
        yield from self.lock_zone(zone)
        known = dict(self.known)
        self.know_search(search, zone)
        pfn = zone.smallest(order, H) if aflags & names.ALLOC_HIGHATOMIC else None
        if pfn is None:
            pfn, _ = zone.zone_take(order, mt, aflags)
        if pfn is None and aflags & (names.ALLOC_OOM | names.ALLOC_NON_BLOCK):
            pfn = zone.smallest(order, H)
        self.unlock_zone(zone)
        if pfn is None:
            self.known = known  # it left no row
            return None
        zone.allocated[pfn] = Allocation(order, mt, 0)
        if aflags & names.ALLOC_HIGHATOMIC and aflags & 3 == names.WMARK_MIN:
            yield from self.reserve(zone, pfn, order)
        return pfn

    def reserve(self, zone, pfn, order):
        """
        B-70.
        """
        share = zone.managed // 100
        limit = -(-share // 512) * 512
        if share < 512 or zone.nr_reserved_highatomic >= limit:
            return
        yield from self.lock_zone(zone)
        index = zone.block_index(pfn)
        old = zone.type_of(pfn)
        if zone.nr_reserved_highatomic < limit and old < names.NR_PCP_TYPES and (order >= PB or zone.inside(index)):
            if order < PB:
                zone.tell_move(pfn, old, H)
                zone.move_block(index, H)
            for index in zone.covered(pfn, order):
                zone.retype(index, H)
                zone.nr_reserved_highatomic += 512
        self.unlock_zone(zone)

    def alloc_bulk(self, n, gfp):
        """
        B-93. No event tells of its pages.
        """
        mt = names.gfp_migratetype(gfp)
        hz = HIGHEST_ZONE[gfp & 0xF]
        aflags = default_aflags(mt)
        got = 0
        for zone in [zone for zone in reversed(self.zones) if zone.zone_index <= hz]:
            yield from self.wait_quiet([zone])
            if not zone.watermark_fast(0, zone.wmark(names.WMARK_LOW) + n, aflags, hz):
                continue
            cpu = self.context.cpu
            if not self.try_pcp(zone, cpu):
                break
            while got < n:
                pfn = yield from self.pop(zone, cpu, 0, mt, aflags, None)
                shown = -1 if pfn is None else pfn
                self.pcp_row("pcp_alloc_bulk", zone, cpu, pfn=shown, order=0, migratetype=mt, aflags=aflags)
                if pfn is None:
                    break
                self.hand_over(pfn, 0, mt)
                self.live[pfn] = 0
                got += 1
            self.unlock_pcp(zone, cpu)
            break
        if not got:
            yield from self.alloc(0, gfp)

    # -- frees (sections 10 and 11)

    def free(self, pfn, order):
        """
        B-80.
        """
        self.row("mm_page_free", pfn=pfn, order=order)
        yield STOP
        yield from self.free_prepared(self.zone_of(pfn), pfn, order, 0)

    def free_prepared(self, zone, pfn, order, fpi):
        if not zone.layout.serves(order) or zone.type_of(pfn) == ISOLATED:
            yield from self.free_past_pcp(zone, pfn, order, fpi)
            return
        cpu = self.context.cpu
        if not self.try_pcp(zone, cpu):
            yield from self.free_past_pcp(zone, pfn, order, fpi)
        elif (yield from self.commit(zone, cpu, pfn, order, fpi)):
            self.unlock_pcp(zone, cpu)

    def free_past_pcp(self, zone, pfn, order, fpi):
        """
        B-90.
        """
        self.row("free_one", pfn=pfn, order=order, fpi=fpi)
        yield from self.lock_zone(zone)
        self.row("buddy_free", pfn=pfn, order=order, fpi=fpi)
        del zone.allocated[pfn]
        zone.split_free(pfn, order, to_tail=bool(fpi & FPI_TO_TAIL))
        self.unlock_zone(zone)

    def commit(self, zone, cpu, pfn, order, fpi):
        """
        B-81 to B-84, the PCP lock being held. Whether it still is at the end.
        """
        pcp = zone.pcps[cpu]
        mt = pcp_type(zone.type_of(pfn))
        self.pcp_row("pcp_free", zone, cpu, pfn=pfn, order=order, migratetype=mt, zflags=zone.flags, fpi=fpi)
        self.known[zone.name] = zone.flags
        del zone.allocated[pfn]
        pcp.alloc_factor >>= 1
        zone.pcp_put(cpu, pfn, order, mt, mark=False)
        free_high = zone.free_high(pcp, order)
        limit = zone.free_limit(pcp, free_high)
        if pcp.count < limit:
            return True
        n = zone.free_amount(pcp, limit, free_high)
        locked = True
        while n > 0 and pcp.count > 0:
            chunk = min(n, pcp.batch)
            yield from self.bulk_free(zone, cpu, chunk, zone.layout.index(order, mt))
            n -= chunk
            if n <= 0 or pcp.count == 0:
                break
            self.unlock_pcp(zone, cpu)
            yield STOP
            if self.context.cpu != cpu or not self.try_pcp(zone, cpu):
                locked = False
                break
        high = zone.wmark(names.WMARK_HIGH)
        if zone.flags & names.ZONE_BELOW_HIGH and zone.watermark_ok(0, high, 0, ZONE_MOVABLE):
            zone.flags &= ~names.ZONE_BELOW_HIGH
        if locked and self.known[zone.name] & names.ZONE_BELOW_HIGH and zone.watermark_ok(0, high, 0, ZONE_MOVABLE):
            self.known[zone.name] &= ~names.ZONE_BELOW_HIGH
        return locked

    def bulk_free(self, zone, cpu, n, start):
        """
        One hold of B-85.
        """
        pcp = zone.pcps[cpu]
        self.pcp_row("pcp_bulk_free", zone, cpu, tuning=False, nr=n, pindex=start)
        yield from self.lock_zone(zone)
        left = min(n, pcp.count)
        position = zone.layout.walk.index(start)
        while left > 0:
            entries = pcp.lists[zone.layout.walk[position]]
            while entries and left > 0:
                pfn = entries.tail
                left -= zone._free_entry(pfn, zone.entries[pfn].order)
                yield HELD
            position = (position + 1) % zone.layout.nr_lists
        self.unlock_zone(zone)

    def free_batch(self, folios):
        """
        B-91.
        """
        for pfn, order in folios:
            self.row("mm_page_free", pfn=pfn, order=order)
        later = []
        for pfn, order in folios:
            zone = self.zone_of(pfn)
            if zone.layout.serves(order):
                later.append((zone, pfn, order))
            else:
                yield from self.free_past_pcp(zone, pfn, order, 0)
        yield STOP
        locked = None  # (zone, cpu) of the PCP lock that is held
        for zone, pfn, order in later:
            isolated = zone.type_of(pfn) == ISOLATED
            if locked and (locked[0] is not zone or isolated):
                self.unlock_pcp(*locked)
                locked = None
            if not isolated and not locked and self.try_pcp(zone, self.context.cpu):
                locked = zone, self.context.cpu
            if not locked:
                yield from self.free_past_pcp(zone, pfn, order, 0)
                continue
            self.row("mm_page_free_batched", pfn=pfn)
            if not (yield from self.commit(*locked, pfn, order, 0)):
                locked = None
        if locked:
            self.unlock_pcp(*locked)

    def free_range(self, zone, first, end):
        """
        B-94: prepared page by page, freed in the largest aligned pieces.
        """
        for page in range(first, end):
            self.row("mm_page_free", pfn=page, order=0)
        yield STOP
        while first < end:
            order = largest_aligned(first, end)
            for page in range(first, first + (1 << order)):
                del zone.allocated[page]
            zone.allocated[first] = Allocation(order, names.UNKNOWN, 0)
            yield from self.free_prepared(zone, first, order, FPI_CONTIG)
            first += 1 << order

    def split(self, pfn, order):
        self.row("split", pfn=pfn, order=order)
        self.zone_of(pfn).split(pfn)
        self.live |= dict.fromkeys(range(pfn, pfn + (1 << order)), 0)
        return
        yield

    # -- drains and periodic work (section 12)

    def tick(self, pagesets):
        """
        B-101 on this CPU.
        """
        cpu = self.context.cpu
        if self.plan.folds:
            self.row("vmfold", pagesets=int(pagesets))
            if "R10" in self.plan.hidden:
                self.hidden["R10"] += 1
                for _ in range(self.random.randrange(6)):
                    yield STOP
            for zone in self.zones:
                zone.fold_cpu(cpu)
        if not pagesets:
            return
        for zone in self.zones:
            pcp = zone.pcps[cpu]
            if not self.plan.folds:
                zone.fold_cpu(cpu)
            while ("pcp", zone.zone_index, cpu) in self.locks and "decay" not in self.plan.windows:
                yield STOP
            self.pcp_row("decay", zone, cpu, tuning=False)
            if pcp.high > pcp.high_min:
                pcp.high = max(pcp.count - (pcp.batch << SCALE), pcp.high - pcp.high // 8, pcp.high_min)
            excess, parked = pcp.count - pcp.high, pcp.count
            while excess > 0:
                yield from self.lock_pcp(zone, cpu)
                yield from self.bulk_free(zone, cpu, min(excess, pcp.batch), 0)
                self.unlock_pcp(zone, cpu)
                excess -= pcp.batch
                if pcp.count or "rounds" in self.plan.windows:
                    yield STOP
            if pcp.expire and (pcp.count if "expire" in self.plan.windows else parked):
                pcp.expire = 0

    def drain_all(self):
        """
        B-100, of every CPU that has pages.
        """
        for cpu in range(self.plan.cpus):
            if any(zone.pcps[cpu].count for zone in self.zones):
                for zone in self.zones:
                    yield from self.drain_zone(zone, cpu)

    def drain_zone(self, zone, cpu):
        pcp = zone.pcps[cpu]
        self.row("drain_zone", zone=zone.zone_index, pcp_cpu=cpu)
        while True:
            yield from self.lock_pcp(zone, cpu)
            count = pcp.count
            if count:
                n = min(count, pcp.batch << SCALE)
                yield from self.bulk_free(zone, cpu, n, 0)
                count -= n
            self.unlock_pcp(zone, cpu)
            if count <= 0 or (not pcp.count and "rounds" not in self.plan.windows):
                return
            yield STOP

    def kswapd(self):
        """
        B-16: counters fold earlier while it runs; and it marks zones in which it reclaims.
        """
        yield STOP
        if "kswapd" not in self.plan.windows:
            yield from self.wait_quiet(self.zones)
        self.awake = not self.awake
        self.row("mm_vmscan_kswapd_wake" if self.awake else "mm_vmscan_kswapd_sleep")
        for zone in self.zones:
            if not self.awake:
                zone.watermark_boost = 0  # it takes back what it was woken for
            if zone.drift_mark:
                pressure = min(125, max(1, (zone.watermark[1] - zone.watermark[0]) // self.plan.cpus))
                zone.stat_threshold = pressure if self.awake else zone.normal_threshold
            if self.awake and self.random.random() < 0.5:
                zone.flags |= names.ZONE_RECLAIM_ACTIVE
            elif not self.awake and self.random.random() < 0.5:
                zone.flags &= ~names.ZONE_RECLAIM_ACTIVE

    # -- the high-atomic reserve, isolation, compaction (sections 7, 14, 15)

    def unreserve(self, zonelist, mt, force):
        """
        B-71. Whether a block was given back.
        """
        self.row("unreserve")
        for zone in zonelist:
            if not force and zone.nr_reserved_highatomic <= 512:
                continue
            yield from self.lock_zone(zone)
            for order, free_lists in enumerate(zone.free_area):
                if not free_lists[H]:
                    continue
                pfn = free_lists[H].head
                zone.nr_reserved_highatomic -= min(max(512, 1 << order), zone.nr_reserved_highatomic)
                if order < PB:
                    zone.tell_move(pfn, H, mt)
                    zone.move_block(zone.block_index(pfn), mt)
                else:
                    zone.move(pfn, mt)
                for index in zone.covered(pfn, order):
                    zone.retype(index, mt)
                self.unlock_zone(zone)
                return True
            self.unlock_zone(zone)
        return False

    def isolate_block(self, zone, pfn):
        """
        B-110.
        """
        yield from self.lock_zone(zone)
        index = zone.block_index(pfn)
        if not zone.blocks[index].iso:
            self.row("block_isolate", pfn=pfn, isolate=1)
            self.switch(zone, index, 1)
            zone.nr_isolate_pageblock += 1
            self.iso_blocks.append((zone, pfn))
        self.unlock_zone(zone)

    def switch(self, zone, index, iso):
        pair = zone.block_pfn(index) & ~512
        if pair in zone.chunks and zone.chunks[pair].order > PB:
            self.row(
                "buddy_free", pfn=pair, order=zone.chunks[pair].order, fpi=0
            )  # the halves go back as what they are
        zone._switch(index, iso)

    def unisolate(self, zone, pfn):
        """
        B-111, for a block of which nothing is one chunk with its buddy free.
        """
        yield from self.lock_zone(zone)
        index = zone.block_index(pfn)
        chunk, buddy = zone.chunks.get(pfn), zone.chunks.get(pfn ^ 512)
        if chunk and chunk.order == PB and buddy and buddy.order == PB and buddy.type != ISOLATED:
            self.row("isolate", pfn=pfn, order=PB, ret=512)
            zone.remove(pfn)
            zone.blocks[index].iso = 0
            zone.nr_isolate_pageblock -= 1
            self.row("putback", pfn=pfn, order=PB, migratetype=zone.blocks[index].type)
            zone.merge_free(pfn, PB, zone.blocks[index].type, to_tail=True)
        else:
            self.row("block_isolate", pfn=pfn, isolate=0)
            self.switch(zone, index, 0)
            zone.nr_isolate_pageblock -= 1
        self.unlock_zone(zone)

    def isolate_free(self, zone, pfn):
        """
        B-115; the row comes when it is done.
        """
        yield from self.lock_zone(zone)
        chunk = zone.chunks.get(pfn)
        if chunk is not None:
            iso = chunk.type == ISOLATED
            mark = zone.watermark[names.WMARK_MIN] + (1 << chunk.order)
            if not iso and not zone.watermark_ok(0, mark, names.ALLOC_CMA, 0):
                self.row("isolate", pfn=pfn, order=chunk.order, ret=0)
            else:
                zone.remove(pfn)
                zone.account(-(1 << chunk.order), chunk.type)
                zone.allocated[pfn] = Allocation(chunk.order, names.UNKNOWN, 0)
                if chunk.order >= PB - 1:
                    for index in zone.covered(pfn, chunk.order):
                        old = zone.blocks[index].effective
                        if old < names.NR_PCP_TYPES:
                            zone.tell_move(zone.block_pfn(index), old, M)
                            zone.move_block(index, M)
                            zone.retype(index, M)
                self.isolated[pfn] = chunk.order
                self.row("isolate", pfn=pfn, order=chunk.order, ret=1 << chunk.order)
        self.unlock_zone(zone)

    def rotate(self, zone):
        yield from self.lock_zone(zone)
        lists = [lists[M] for lists in zone.free_area if len(lists[M]) > 1]
        if lists:
            chosen = self.random.choice(lists)
            for _ in range(self.random.randrange(1, len(chosen))):
                chosen.move_to_end(chosen.head)
            self.hidden["R6"] += 1
        self.unlock_zone(zone)

    def putback(self, pfn, order):
        zone = self.zone_of(pfn)
        yield from self.lock_zone(zone)
        mt = zone.type_of(pfn)
        self.row("putback", pfn=pfn, order=order, migratetype=mt)
        del zone.allocated[pfn]
        zone.merge_free(pfn, order, mt, to_tail=True)
        self.unlock_zone(zone)


# Snapshots.

ITEMS = {"NR_FREE_PAGES": NR_FREE, "NR_FREE_PAGES_BLOCKS": NR_FREE_BLOCKS, "NR_FREE_CMA_PAGES": NR_FREE_CMA}


def document(machine):
    """
    The JSON document of a snapshot.
    """
    return {
        "kernel": "7.3.4-fake",
        "max_pfn": machine.zones[-1].end_pfn,
        "online_cpus": list(range(machine.plan.cpus)),
        "zone_stat_items": {name: number for number, name in enumerate(ITEMS)},
        "globals": {"percpu_pagelist_high_fraction": 8, "watermark_boost_factor": names.WATERMARK_BOOST_FACTOR},
        "ring": [
            {"cpu": cpu, "entries": entries, "overrun": 0, "commit_overrun": 0, "dropped_events": 0}
            for cpu, entries in enumerate(machine.seq)
        ],
        "all_locks_free": True,
        "cma": [],
        "zones": [_zone(zone) for zone in machine.zones],
    }


def _zone(zone):
    return {
        "index": zone.zone_index,
        "name": zone.name,
        "node": 0,
        "zone_start_pfn": zone.start_pfn,
        "spanned_pages": zone.spanned,
        "present_pages": zone.managed,
        "managed_pages": zone.managed,
        "cma_pages": 512 * len(zone.cma_blocks),
        "watermark": list(zone.watermark),
        "watermark_boost": zone.watermark_boost,
        "nr_reserved_highatomic": zone.nr_reserved_highatomic,
        "nr_free_highatomic": zone.nr_free_highatomic,
        "lowmem_reserve": list(zone.lowmem_reserve),
        "flags": zone.flags,
        "percpu_drift_mark": zone.drift_mark,
        "pageset_high_min": zone.pageset[0],
        "pageset_high_max": zone.pageset[1],
        "pageset_batch": zone.pageset[2],
        "vm_stat": {name: zone.stat[item] for name, item in ITEMS.items()},
        "free_area": [
            {
                "order": order,
                "nr_free": sum(map(len, lists)),
                "free_list": {str(mt): list(pfns) for mt, pfns in enumerate(lists)},
            }
            for order, lists in enumerate(zone.free_area)
        ],
        "pcp": [
            {
                "cpu": cpu,
                **{name: getattr(pcp, name) for name in ("count", "high", "high_min", "high_max", "batch", "flags")},
                **{name: getattr(pcp, name) for name in ("alloc_factor", "expire", "free_count")},
                "lists": {str(index): list(pfns) for index, pfns in enumerate(pcp.lists)},
                "vm_stat_diff": [pcp.stat_diff[item] for item in ITEMS.values()],
                "stat_threshold": zone.stat_threshold,
            }
            for cpu, pcp in enumerate(zone.pcps)
        ],
    }


def arrays(machine):
    """
    The arrays of a snapshot, one element a page or pageblock.
    """
    end = machine.zones[-1].end_pfn
    state, order_of = np.zeros(end, np.uint8), np.zeros(end, np.uint8)
    flags = np.zeros(end, np.uint32)
    blocks = np.full(-(-end // 512), M, np.uint8)
    for zone in machine.zones:
        for pfn, order, where in check.runs(zone):
            kind = {"ZONE": 2, "PCP": 3, "ALLOC": 4}[where[:5].split()[0]]
            state[pfn : pfn + (1 << order)] = kind
            order_of[pfn] = order
            if kind == 4:
                state[pfn + 1 : pfn + (1 << order)] = 5
                flags[pfn : pfn + (1 << order)] = 32 * zone.allocated[pfn].movable
        for index, block in enumerate(zone.blocks):
            if 0 <= zone.block_pfn(index) // 512 < len(blocks) and zone.block_pfn(index) + 512 > zone.start_pfn:
                blocks[zone.block_pfn(index) // 512] = block.type | block.iso << 4
    return {"pageblock_flags": blocks, "page_state": state, "page_order": order_of, "page_flags": flags}
