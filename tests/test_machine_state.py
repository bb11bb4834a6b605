"""
What the machine leaves is what the same calls leave, step by step in the same order, on plain zones.

The log of a run has every call and every step with the answer that its lock action got (simulated.Replayed). So state
is compared with that of the core's own face, whatever the machine does about time.
"""

import dataclasses
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from simulated import Machine, Replayed, costs

from pcpbuddy import Node, Zone, recording
from pcpbuddy import requests as R
from pcpbuddy.config import PROFILES
from pcpbuddy.costs import costs as profile
from pcpbuddy.names import GFP_HIGHUSER_MOVABLE, PAGE_SIZE
from pcpbuddy.workload.load import KINDS, load
from pcpbuddy.workload.program import Program, Queue, Queues, show
from pcpbuddy.workload.recorded import recording_load

LONG = bool(os.environ.get("PCPBUDDY_LONG"))
MANY = [pytest.mark.long, pytest.mark.skipif(not LONG, reason="takes long; set PCPBUDDY_LONG=1")]
GFPS = (GFP_HIGHUSER_MOVABLE, GFP_HIGHUSER_MOVABLE, 0xCC0, 0x820)  # a user's page, the kernel's, one that may not sleep


def whole(machine):
    """
    No page is lost: what is allocated, parked and free is all there is; the samples say the same.
    """
    for k, zone in enumerate(machine.zones):
        census = zone.census()
        free = sum(int(np.sum(chunks)) << order for order, chunks in enumerate(np.asarray(census["nr_free"])))
        assert census["allocated_pages"] + census["parked_pages"] + free == zone.managed
        samples = machine.result["samples"][machine.result["samples"]["zone"] == k]
        pages = samples["allocated_pages"] + samples["parked_pages"] + samples["free_pages"]
        # A page in the middle of a call is none of the three.
        assert (pages <= zone.managed).all()
        assert (pages > zone.managed - 2048 * machine.cpus).all()
    return machine


# -- every load, under every profile ---------------------------------------------------------------------------------

SMALL = {
    "interleave/N": {"pages": 256, "rounds": 1},
    "exit/storm": {"touch_mib": 2, "warm_up": 0, "rounds": 1},
    "purge/jemalloc": {"live_mib": 1, "extent_pages": 16},
    "wis/page_fault1": {"mapping_mib": 2},
    "wis/page_fault2": {"mapping_mib": 2},
    "build/kernel": {"cache_mib": 1},
    "cma/pressure": {"pipe_rounds": 8},
    "reclaim/kswapd": {"read_ns": 2000.0},
    "wis/malloc1": {},
    "local/loop": {},
    "pipe/pingpong": {},
    "cma/alloc": {"buffer_mib": 2, "use_us": 50.0, "move_ns": 200.0},
    "hotplug/cycle": {"block_mib": 4, "away_us": 20.0, "mapping_mib": 2, "move_ns": 200.0},
}


def simulate(what, policy, *, duration_ns, events=1 << 60, nodes=1):
    """
    A Load in the machine, over one zone a node.
    """
    pages = what.memory_bytes // PAGE_SIZE // nodes
    cma = int(what.cma * pages) // 512 * 512

    def make():
        return [
            Zone(
                pages, cpus=what.cpus, policy=policy, start_pfn=k * pages, cma_pages=cma if k == 0 else 0, zone_index=2
            )
            for k in range(nodes)
        ]

    machine = Machine(
        [what.programs[k] for k in what.cpu_program],
        zones=make,
        zone_node=list(range(nodes)),
        cpu_node=[cpu * nodes // what.cpus for cpu in range(what.cpus)],
        model=profile("server-2s").numbers(),
        nr_queues=what.nr_queues,
        nr_barriers=what.nr_barriers,
        nr_locks=what.nr_locks,
        irq_program=what.irq_program,
        irq_every_ns=what.irq_every_ns,
        tick_ns=50_000,
        sample_ns=100_000,
        seed=1,
        log=True,
    )
    return machine.run(duration_ns, events)


@pytest.mark.parametrize("policy", PROFILES)
@pytest.mark.parametrize("name", KINDS)
def test_every_load_under_every_profile(name, policy):
    """
    Four CPUs; every second one on two nodes, with interrupts.
    """
    assert set(SMALL) == set(KINDS)
    number = list(KINDS).index(name) + list(PROFILES).index(policy)
    given = dict(SMALL[name]) | ({"interrupt_us": 30.0} if number % 2 else {})
    what = load(name.replace("/N", "/16"), 4, 256 << 20, nodes=1 + number % 2, **given)
    machine = whole(simulate(what, policy, duration_ns=1_000_000, events=5000, nodes=1 + number % 2).check())
    assert machine.result["calls"] > 100
    Replayed(machine).carry_out().same()


@pytest.mark.parametrize("policy", [pytest.param(policy, marks=MANY) for policy in PROFILES])
@pytest.mark.parametrize("name", KINDS)
def test_every_load_in_used_memory(name, policy):
    """
    On 16 CPUs, longer, in memory that is full of single pages.
    """
    given = SMALL[name] | {"interrupt_us": 50.0} | ({} if name == "cma/pressure" else {"fragment": 0.5})
    what = load(name.replace("/N", "/16"), 16, (2 << 30 if name == "build/kernel" else 256 << 20), nodes=2, **given)
    machine = simulate(what, policy, duration_ns=20_000_000, nodes=2)
    whole(machine.check())
    Replayed(machine).carry_out().same()


# -- recordings --------------------------------------------------------------------------------------------------------


class Recorded(Machine):
    """
    A recording in closed loop, from its own state.
    """

    def __init__(self, what, policy, **options):
        state = what.stream.state
        adapted = [recording.adapt(zone, policy) for zone in state["zones"]]

        def make():
            return list(Node.from_state({**state, "zones": adapted}, policy).zones)

        stream = {name: getattr(what.stream, name) for name in ("requests", "think_ps", "first")}
        self.handles = what.stream.handles.copy()  # the machine writes into it
        super().__init__(
            [what.programs[k] for k in what.cpu_program],
            zones=make,
            zone_node=[0] * len(adapted),
            stream={**stream, "handles": self.handles},
            **options,
        )


def parsed(policy):
    from pcpbuddy.config import policy as parse

    return parse(policy)


@pytest.mark.parametrize("policy", ["mainline", "fixed", "handover"])
@pytest.mark.parametrize("name", ["tiny-4c", pytest.param("mixed-cut-4c", marks=MANY)])
def test_recordings_in_closed_loop(name, policy):
    """
    Every request is carried out: allocations, frees, ticks and folds; in the end every handle is known.
    """
    what = recording_load(f"recordings/{name}")
    machine = Recorded(what, parsed(policy), model=profile("server-2s").numbers(), log=True).run()
    whole(machine.check())
    requests = what.stream.requests
    number = {op: int((requests["op"] == op).sum()) for op in (R.ALLOC, R.FREE, R.TICK)}
    calls = machine.calls()
    assert calls["alloc"] == number[R.ALLOC]
    assert calls["free"] >= number[R.FREE]
    assert calls["tick"] == number[R.TICK] > 0
    assert (machine.handles > 0).all()
    Replayed(machine).carry_out().same()


def stream_of(cpus, rows, nr_handles):
    """
    A stream by hand: rows of (cpu, think_ns, op, handle, order, nr), in the order of each CPU.
    """
    rows = sorted(rows, key=lambda row: row[0])
    requests = np.zeros(len(rows), R.REQUEST)
    for request, (cpu, _, op, handle, order, nr) in zip(requests, rows, strict=True):
        request["cpu"], request["op"], request["pfn"], request["order"], request["nr"] = cpu, op, handle, order, nr
        request["gfp"] = GFP_HIGHUSER_MOVABLE
    return {
        "requests": requests,
        "think_ps": np.array([1000 * row[1] for row in rows], np.int64),
        "first": np.searchsorted([row[0] for row in rows], range(cpus + 1)).astype(np.uint64),
        "handles": np.zeros(nr_handles, np.uint32),
    }


def replayed(cpus, rows, nr_handles, **options):
    p = Program("replays")
    p.replay()
    stream = stream_of(cpus, rows, nr_handles)
    machine = Machine(p, cpus, stream=stream, log=True, **options).run().check()
    Replayed(machine).carry_out().same()
    return machine, stream["handles"]


def test_a_free_waits_for_its_allocation():
    """
    A stall, which is counted. The gap before the free is computed once, and was over by then.
    """
    rows = [(0, 1000, R.ALLOC, 0, 0, 0), (1, 100, R.FREE, 0, 0, 0), (1, 50, R.ALLOC, 1, 3, 0)]
    machine, handles = replayed(2, rows, 9, model=costs(wake=5))
    assert machine.result["stalls"] == 1
    assert machine.result["stall_ps"] == 900_000
    assert machine.cpu_ns(1) == {"user": 100 + 5 + 50, "sleep": 900}
    assert handles.tolist()[0] == 1
    assert (np.diff(handles[1:].astype(int)) == 1).all()


def test_bulks_and_pieces_of_a_recording():
    """
    A bulk's rows may have frees between them; a piece of an allocation is split off.
    """
    rows = [
        (0, 10, R.BULK, 0, 0, 3),
        (0, 0, R.FREE, 3, 0, 0),  # of what CPU 1 allocated
        (0, 0, R.BULK_MORE, 1, 0, 0),
        (0, 0, R.BULK_MORE, 2, 0, 0),
        (0, 10, R.FREE, 1, 0, 0),
        (0, 10, R.TICK, 0, 0, 0),
        (0, 10, R.FOLD, 0, 0, 0),
        (1, 5, R.ALLOC, 3, 0, 0),
        (1, 5, R.ALLOC, 4, 2, 0),
        (1, 50, R.FREE, 5, 1, 0),
        (1, 50, R.FREE, 4, 0, 0),
    ]
    machine, handles = replayed(2, rows, 8)
    assert machine.calls() == {"alloc": 2, "bulk": 1, "free": 4, "tick": 1}
    freed = 1
    assert (handles == freed).tolist() == [False, True, False, True, True, True, True, False]
    assert machine.zone.census()["allocated_pages"] == 3


def test_cpus_of_a_recording_go_and_come():
    rows = [
        (0, 10, R.ALLOC, 0, 0, 0),
        (0, 10, R.OFFLINE, 0, 0, 0),
        (0, 100, R.ONLINE, 0, 0, 0),
        (0, 10, R.FREE, 0, 0, 0),
        (1, 10, R.ALLOC, 1, 0, 0),
        (1, 50, R.FREE, 1, 0, 0),
    ]
    machine, _ = replayed(2, rows, 2, zones=lambda: [Zone(64 * 512, cpus=2, policy="fixed")])
    assert machine.calls() == {"alloc": 2, "free": 2, "other": 1}
    assert machine.zone.summary()["pcp"][0]["online"]


# -- any program, any policy ------------------------------------------------------------------------------------


@dataclasses.dataclass(repr=False)
class Drawn:
    """
    A machine as it is drawn: small zones, so that they run empty; every instruction; costs that make things meet.
    """

    cpus: int
    nodes: int
    policy: str
    blocks: int
    programs: list
    queues: int
    irq: object
    seed: int
    costs: dict

    def __repr__(self):
        """
        All of it, so that a failing example can be read.
        """
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        fields["costs"] = {name: value for name, value in self.costs.items() if value}
        fields["programs"] = [show(p.instructions()) for p in self.programs]
        fields["irq"] = self.irq and show(self.irq.instructions())
        return "\n".join(f"{name}: {value}" for name, value in fields.items())

    def make(self):
        return [
            Zone(
                self.blocks * 512 if k < self.nodes else 512,
                cpus=self.cpus,
                policy=self.policy,
                start_pfn=1024 * 64 * k,
                zone_index=2,
                cma_pages=512 if self.blocks > 2 else 0,
                batch=7,
                high_min=20,
                high_max=120,
                watermark=(8, 16, 24, 32),
            )
            for k in range(self.nodes)
        ]

    def run(self):
        machine = Machine(
            self.programs,
            zones=self.make,
            zone_node=list(range(self.nodes)),
            cpu_node=[cpu * self.nodes // self.cpus for cpu in range(self.cpus)],
            model=self.costs,
            nr_queues=self.queues,
            nr_barriers=1,
            nr_locks=1,
            irq_program=self.irq,
            irq_every_ns=700 if self.irq else 0,
            tick_ns=3000,
            seed=self.seed,
            log=True,
        )
        return machine.run(60_000)


RANGE = 70  # pages of a contiguous range


def instructions(draw, p, queues, depth=0):
    """
    A few instructions onto a program, all of which come to an end. The last queue has contiguous ranges.
    """
    *queues, ranges = queues
    which = st.sampled_from(("newest", "oldest", "random"))
    few = st.integers(1, 40)
    for _ in range(draw(st.integers(1, 6))):
        queue, other = (queues[draw(st.integers(0, len(queues) - 1))] for _ in range(2))
        kind = draw(st.integers(0, 17))
        if kind <= 2:
            order = draw(st.sampled_from((0, 0, 0, 1, 2, 3, 5, 9)))
            p.alloc(queue, draw(few), order=order, gfp=draw(st.sampled_from(GFPS)), each_ns=draw(st.integers(0, 90)))
        elif kind <= 4:
            p.free(queue, draw(few), draw(which), irq=draw(st.booleans()), each_ns=draw(st.integers(0, 90)))
        elif kind == 5:
            p.free(queue, draw(few), draw(which), batch=True)
        elif kind == 6:
            p.bulk(queue, draw(few), gfp=draw(st.sampled_from(GFPS)))
        elif kind == 7:
            p.think(draw(st.integers(1, 900)), draw(st.sampled_from(("exactly", "exponential", "uniform"))))
        elif kind == 8 and other.per != "pair":
            p.move(queue, other, draw(few), draw(which))
        elif kind == 9:
            p.lock(0)
            p.think(draw(st.integers(1, 200)))
            p.unlock(0)
        elif kind == 10 and depth < 2:
            with p.repeat(draw(st.integers(2, 12))):
                instructions(draw, p, [*queues, ranges], depth + 1)
        elif kind == 11 and depth < 2:
            with p.chance(draw(st.floats(0.1, 0.9))):
                instructions(draw, p, [*queues, ranges], depth + 1)
        elif kind == 12:
            p.drain()
        elif kind == 13:
            p.tick()
        elif kind == 14:
            p.reclaim(draw(st.booleans()))
        elif kind == 15:
            p.cma_alloc(ranges, RANGE, align=draw(st.integers(0, 9)), move_ns=draw(st.integers(0, 90)))
        elif kind == 16:
            p.cma_release(ranges, RANGE, draw(which))
        elif kind == 17:
            first, blocks = draw(st.integers(0, 4)), draw(st.integers(1, 3))
            p.offline_memory(first, blocks, move_ns=draw(st.integers(0, 90)))
            p.think(draw(st.integers(1, 900)))
            p.online_memory(first, blocks)


@st.composite
def machines(draw):
    cpus = draw(st.integers(1, 8))
    nodes = draw(st.integers(1, min(cpus, 2)))
    numbers = Queues(cpus)
    queues = [numbers.per_cpu(), numbers.shared(), numbers.shared(), numbers.per_pair(), numbers.shared()]
    programs = []
    for k in range(draw(st.integers(1, min(cpus, 3)))):
        p = Program(f"drawn {k}")
        instructions(draw, p, queues)
        programs.append(p)
    of_cpu = [programs[cpu % len(programs)] for cpu in range(cpus)]
    if cpus > 1 and draw(st.booleans()):
        of_cpu[-1] = p = Program("takes others off-line")
        for _ in range(draw(st.integers(1, 3))):
            target = draw(st.integers(0, cpus - 2))
            p.think(draw(st.integers(1, 3000)))
            p.offline(target)
            instructions(draw, p, queues, 2)
            p.online(target)
    irq = None
    if draw(st.booleans()):
        irq = Program("interrupt")
        buffers = Queue(queues[1].first)
        irq.free(buffers, draw(st.integers(1, 3)), irq=True)
        irq.bulk(buffers, draw(st.integers(1, 5)), gfp=0x820)
    model = profile("laptop").numbers() if draw(st.booleans()) else costs(**drawn_costs(draw))
    remote = draw(st.sampled_from(("trylock", "llist", "handover", "local", "block")))
    policy = draw(st.sampled_from((*PROFILES, f"fixed+remote={remote}")))
    return Drawn(
        cpus,
        nodes,
        policy,
        draw(st.sampled_from((1, 2, 3, 12))),
        of_cpu,
        numbers.nr,
        irq,
        draw(st.integers(0, 1 << 40)),
        model,
    )


def drawn_costs(draw):
    names = ("lock", "handover_near", "line_near", "entry", "list_op", "alloc", "free", "descriptor_memory", "page")
    return {name: float(draw(st.sampled_from((0, 1, 10, 100)))) for name in names} | {"alloc": 1.0, "interrupt": 20.0}


def effort(examples, derandomize):
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=derandomize,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )


def sound(drawn):
    """
    Nothing is stuck, all adds up, no invariant is broken, no page lost, and the same calls leave the same state.
    """
    machine = drawn.run()
    whole(machine.check())
    Replayed(machine).carry_out().same()


@effort(80, True)
@given(machines())
def test_any_program_under_any_policy(drawn):
    sound(drawn)


@pytest.mark.long
@pytest.mark.skipif(not LONG, reason="takes long; set PCPBUDDY_LONG=1")
@effort(4000, False)
@given(machines())
def test_many_programs_under_any_policy(drawn):
    sound(drawn)
