"""
Loads of the laboratory, without the machine: they are well formed, nothing in them waits for ever, memory lasts.
"""

import inspect
import os
import re
from pathlib import Path

import numpy as np
import pytest
from interpreter import Deadlock, Interpreter

from pcpbuddy import ConfigError, Machine, RecordingError
from pcpbuddy import requests as R
from pcpbuddy.names import GFP_COMPOSITES, GFP_HIGHUSER_MOVABLE, GFP_KERNEL, gfp_migratetype
from pcpbuddy.workload import plan as plans
from pcpbuddy.workload import program as P
from pcpbuddy.workload.load import KINDS, LOADS, Load, is_load_name, load, parameters
from pcpbuddy.workload.program import Program, Queue, Queues, show, verify
from pcpbuddy.workload.recorded import closed_loop, recording_load

ROOT = Path(__file__).parent.parent
CORE = ROOT / "src" / "pcpbuddy" / "_core"
RECORDINGS = ("tiny-4c", "affinity-cut-4c", "mixed-cut-4c", "cma-cut-4c")
LONG = bool(os.environ.get("PCPBUDDY_LONG"))
CPUS = (1, 2, 3, 64)
MANY = pytest.param(
    512, marks=[pytest.mark.long, pytest.mark.skipif(not LONG, reason="takes long; set PCPBUDDY_LONG=1")]
)
STEPS = 60_000 if LONG else 20_000  # instructions of the measured part that the tests look at

# What makes the warm-up short enough for the interpreter.
SMALLER = {"interleave/N": {"turn": 256, "pages": 1024, "rounds": 1}, "exit/storm": {"touch_mib": 8}}


# Programs


def test_numbers_are_those_of_the_machine():
    """
    Op numbers, flags and fields stand in the compiled core too.
    """
    text = (CORE / "machine.pxd").read_text()
    values = {name: int(value) for name, value in re.findall(r"\bI_(\w+) = (\d+)", text)}
    for name in ("FAULT", "ZERO", "BATCH", "IRQ", "A_PER_CPU", "C_PER_CPU", "A_PER_PAIR"):
        assert values.pop(name) == getattr(P, name), name
    assert {name: getattr(P, name) for name in values} == values
    assert len(values) >= len(P.OP_NAMES)
    fields = re.search(r"packed struct Instruction:.*\n((?:    \w+ \w+\n)+)", text)[1].split("\n")[:-1]
    kinds = {"uint8_t": "u1", "uint32_t": "u4", "int64_t": "i8", "double": "f8"}
    assert [(line.split()[1], kinds[line.split()[0]]) for line in fields] == [
        (name, P.INSTRUCTION[name].str[1:]) for name in P.INSTRUCTION.names
    ]
    assert P.INSTRUCTION.itemsize == 48
    for name in ("NEWEST", "OLDEST", "RANDOM"):
        assert int(re.search(rf"\b{name} = (\d)", text)[1]) == getattr(P, name)
    assert tuple(name.lower() for name in P.OP_NAMES) == P.OP_NAMES
    assert [P.OP_NAMES[P.ALLOC], P.OP_NAMES[P.STOP], P.OP_NAMES[P.ONLINE_MEMORY]] == ["alloc", "stop", "online_memory"]


def program(write, name="test"):
    p = Program(name)
    write(p)
    return p.instructions()


def test_loops():
    own = Queue(3, "cpu")

    def write(p):
        with p.forever():
            with p.repeat(4):
                p.alloc(own, 2)
                with p.repeat(5):
                    p.think(10)
            with p.chance(0.25):
                p.free(own, 8, "oldest", batch=True)
            with p.repeat(0):
                p.drain()
            with p.repeat(1):
                p.work()

    rows = program(write)
    assert [P.OP_NAMES[op] for op in rows["op"]] == [
        *("alloc", "think", "repeat", "repeat", "chance", "free", "work", "goto", "end")
    ]
    assert rows[2][["a", "b", "c"]].tolist() == (1, 5, 1)
    assert rows[3][["a", "b", "c"]].tolist() == (0, 4, 0)
    assert (rows[4]["x"], rows[4]["a"]) == (0.75, 6)
    assert rows[5][["a", "b", "how", "flags"]].tolist() == (3, 8, P.OLDEST, P.BATCH | P.A_PER_CPU)
    assert rows[7]["a"] == 0
    verify(rows, cpus=[0, 1], nr_cpus=2, nr_queues=5)


def test_times_are_picoseconds():
    rows = program(lambda p: (p.think(1.5, "exponential"), p.think(0), p.alloc(Queue(0), each_ns=0.25)))
    assert rows["ps"].tolist() == [1500, 250, 0]
    assert rows[0]["how"] == P.EXPONENTIAL


def test_queues():
    queues = Queues(5)
    shared, own, pair = queues.shared(), queues.per_cpu(), queues.per_pair()
    assert [queue.number(4) for queue in (shared, own, pair)] == [0, 5, 8]
    assert queues.nr == 1 + 5 + 3


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda p: p.alloc(Queue(0), 0), "nr=0: expected a whole number 1 to"),
        (lambda p: p.alloc(Queue(0), 1.5), "nr=1.5"),
        (lambda p: p.alloc(Queue(0), order=11), "order=11: expected a whole number 0 to 10"),
        (lambda p: p.free(Queue(0), which="middle"), "expected one of newest, oldest, random"),
        (lambda p: p.think(-1), "ns=-1: expected nanoseconds"),
        (lambda p: p.think(float("nan")), "ns=nan: expected nanoseconds"),
        (lambda p: p.think(1, "evenly"), "exactly, exponential, uniform"),
        (lambda p: p.move(Queue(0), Queue(1, "pair")), "not of a pair"),
        (lambda p: p.wait_free("near", "low"), "below, above"),
        (lambda p: p.wait_free("below", "boost"), "min, low, high"),
        (lambda p: p.repeat(-1).__enter__(), "times=-1"),
        (lambda p: p.chance(1.5).__enter__(), "probability=1.5: expected 0 to 1"),
    ],
)
def test_the_builder_refuses(write, words):
    with pytest.raises(ConfigError, match=re.escape(words)) as caught:
        program(write, "mine")
    assert "'mine'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_can_be_wrong_with_loops():
    def nest(p, depth):
        with p.repeat(2):
            p.think(1)
            if depth > 1:
                nest(p, depth - 1)

    rows = program(lambda p: nest(p, 8))
    assert sorted(rows[rows["op"] == P.REPEAT]["c"]) == list(range(8))
    with pytest.raises(ConfigError, match="8 deep at most"):
        program(lambda p: nest(p, 9))
    p = Program("open")
    block = p.forever()
    block.__enter__()
    with pytest.raises(ConfigError, match="still open"):
        p.instructions()
    with pytest.raises(ConfigError, match="never end"), Program("x").forever():
        pass


def edited(field, value, at=0):
    rows = program(
        lambda p: (p.alloc(Queue(0)), p.barrier(0, 2), p.lock(0), p.think(1), p.offline(1), p.wait_free("below", "low"))
    )
    rows[at][field] = value
    return rows


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (edited("op", len(P.OP_NAMES)), "instruction 0 (op 28): ops are 0 to 27"),
        (edited("op", 99), "instruction 0 (op 99)"),
        (edited("a", 1), "instruction 0 (alloc): queues are 0 to 0"),
        (edited("b", 0), "b counts from 1"),
        (edited("order", 11), "orders are 0 to 10"),
        (edited("ps", -1), "ps is 0 to"),
        (edited("how", 3), "how=3"),
        (edited("b", 3, 1), "for up to 2 CPUs"),
        (edited("a", 1, 1), "barriers are 0 to 0"),
        (edited("a", 1, 2), "locks are 0 to 0"),
        (edited("a", 2, 4), "CPUs are 0 to 1"),
        (edited("a", 3, 5), "watermarks are 0 (min) to 2 (high)"),
        (edited("op", P.GOTO, 3)[:4], "ends with end, stop or goto"),
        (edited("a", 7)[:0], "an array of INSTRUCTION"),
        (np.zeros(3), "an array of INSTRUCTION"),
    ],
)
def test_verify_refuses(rows, words):
    if words.startswith("ends with"):
        rows[-1]["op"] = P.THINK
    with pytest.raises(ConfigError, match=re.escape(words)):
        verify(rows, cpus=[0, 1], nr_cpus=2, nr_queues=1, nr_barriers=1, nr_locks=1)


def test_verify_looks_at_every_cpu_and_jump():
    own = program(lambda p: p.alloc(Queue(2, "cpu")))
    verify(own, cpus=[0, 3], nr_cpus=4, nr_queues=6)
    with pytest.raises(ConfigError, match="queues are 0 to 4"):
        verify(own, cpus=[0, 3], nr_cpus=4, nr_queues=5)
    pair = program(lambda p: p.free(Queue(2, "pair")))
    verify(pair, cpus=[0, 3], nr_cpus=4, nr_queues=4)
    to = program(lambda p: p.move(Queue(0), Queue(2, "cpu")))
    with pytest.raises(ConfigError, match="queues"):
        verify(to, cpus=[3], nr_cpus=4, nr_queues=5)
    jumps = np.zeros(3, P.INSTRUCTION)
    for op, a, words in ((P.GOTO, 3, "instructions 0 to 2"), (P.REPEAT, 1, "goes back"), (P.REPEAT, 9, "instructions")):
        jumps[1] = 0
        jumps[1]["op"], jumps[1]["a"], jumps[1]["b"] = op, a, 2
        with pytest.raises(ConfigError, match=words):
            verify(jumps, cpus=[0], nr_cpus=1, nr_queues=0)


def test_show_reads_like_the_program():
    def write(p):
        with p.forever():
            p.alloc(Queue(2, "cpu"), 5, order=2, gfp=GFP_KERNEL, fault=True, each_ns=40)
            with p.repeat(3):
                p.free(Queue(1), irq=True)
            p.wait_free("above", "min")

    assert show(program(write)) == (
        "0      alloc 5 of order 2 -> queue 2 + cpu  GFP_KERNEL  [fault, 40 ns each]\n"
        "1          free newest 1 of queue 1  [irq]\n"
        "2      3 times in all, from 1\n"
        "3      wait until free pages are above min\n"
        "4  goto 0\n"
        "5  end\n"
    )


# Loads


@pytest.mark.parametrize("name", LOADS)
def test_every_load_says_what_it_stands_for(name):
    kind = KINDS[name]
    text = inspect.getdoc(kind.make)
    own = [key for key in parameters(name) if key not in plans.COMMON]
    assert len(text.split("\n\n")) >= 3, "one sentence, what it stands for, its parameters"
    for key in own:
        assert re.search(rf"\b{key}: ", text), key
    assert kind.source
    made = load(name, 2)
    assert (made.name, made.meaning, made.source) == (name, LOADS[name], kind.source)
    assert made.unit
    assert dict(made.parameters).keys() == parameters(name).keys()


@pytest.mark.parametrize("cpus", [*CPUS, 512])
@pytest.mark.parametrize("name", LOADS)
def test_every_load_can_be_made(name, cpus):
    """
    For any number of CPUs, the same every time; each CPU has a program, each program a CPU.
    """
    made = load(name, cpus)
    assert made.cpus == cpus
    assert set(made.cpu_program.tolist()) == set(range(len(made.programs)))
    assert made.digest() == load(name, cpus).digest()
    assert made.digest() != load(name, cpus % 512 + 1).digest()


@pytest.mark.parametrize("cpus", [*CPUS, MANY])
@pytest.mark.parametrize("name", LOADS)
def test_every_load_runs(name, cpus):
    """
    All get to the measured part and do work in it, nobody waits for ever, and there is memory to spare.
    """
    made = load(name, cpus, **SMALLER.get(name, {}))
    run = Interpreter(made).run(made.duration_ns or float("inf"), STEPS)
    assert run.measures == 1
    assert run.allocs > 0
    assert run.frees > 0
    full = name in ("reclaim/kswapd", "cma/pressure", "cma/alloc")
    assert full or run.failed == 0
    assert full or run.least_free > made.memory_bytes // 4096 // 2
    if run.steps < STEPS:
        assert all(run.work[cpu] for cpu in range(cpus) if made.cpu_program[cpu] not in idle_programs(made))


def idle_programs(made):
    """
    Programs that do no work of the load: purgers, kswapd, those that only answer or are at it for long.
    """
    return {number for number, rows in enumerate(made.programs) if not (rows["op"] == P.WORK).any()}


@pytest.mark.parametrize("name", LOADS)
def test_weak_scaling(name):
    """
    The same programs on more CPUs: a CPU's work does not depend on how many there are, unless memory is to be full.
    """
    few, many = (load(name, cpus, **SMALLER.get(name, {})) for cpus in (32, 256))
    assert 7 <= many.memory_bytes / few.memory_bytes <= 9
    assert many.duration_ns == few.duration_ns
    allocs = [np.concatenate(made.programs) for made in (few, many)]
    biggest = [int(rows[rows["op"] == P.ALLOC]["b"].max()) for rows in allocs]
    assert biggest[0] == pytest.approx(biggest[1], rel=0.1)


@pytest.mark.parametrize("name", LOADS)
@pytest.mark.parametrize("cpus", [1, 5, 64])
def test_memory_that_was_used(name, cpus):
    """
    fragment= fills memory and frees a share at random before; what the load needs still fits.
    """
    small = {
        "wis/page_fault1": {"mapping_mib": 2},
        "wis/page_fault2": {"mapping_mib": 2},
        "exit/storm": {"touch_mib": 2},
        "build/kernel": {"cache_mib": 1},
    }
    given = {**SMALLER.get(name, {}), **small.get(name, {}), "fragment": 0.4}
    made = load(name, cpus, **given)
    run = Interpreter(made)
    run.watermarks = [0, 0, 0] if name != "reclaim/kswapd" else run.watermarks
    run.run(made.duration_ns or float("inf"), 3000)
    pages = made.memory_bytes // 4096
    assert run.queues[0].longest > 0.95 * pages
    assert run.queues[0].nr == pytest.approx(0.6 * pages, rel=0.03)
    assert run.measures == 1
    first = [rows for rows in made.programs if (rows["op"] == P.DRAIN).any()]
    assert len(first) == 1
    assert made.cpu_program[0] == next(n for n, rows in enumerate(made.programs) if rows is first[0])


def test_cma_and_interrupts():
    made = load("local/loop", 4, cma=0.5, interrupt_us=50)
    assert made.cma == 0.5
    assert made.irq_every_ns == 50_000
    assert [P.OP_NAMES[op] for op in made.irq_program["op"]] == ["free", "bulk", "end"]
    assert made.irq_program[0]["flags"] & P.IRQ
    assert load("local/loop", 4).irq_program is None
    assert load("cma/pressure", 4).cma == 0.6
    assert load("cma/pressure", 4, cma="0.3").cma == 0.3


def test_interleave_has_its_turn_in_the_name():
    assert load("interleave/16", 4).parameters["turn"] == 16
    assert load("interleave/16", 4).digest() == load("interleave/N", 4, turn=16).digest()
    assert load("interleave/16", 4).digest() != load("interleave/17", 4).digest()
    assert "turn" not in parameters("interleave/16")
    run = Interpreter(load("interleave/64", 3, rounds=1)).run()
    assert run.allocs == run.frees == 3 * 6144


def test_the_storm_of_the_issue():
    """
    256 CPUs touch 64 GiB of 256 GiB once.
    """
    made = load("exit/storm", 256, touch_mib=256, rounds=1, warm_up=0)
    assert made.memory_bytes == 256 << 30
    run = Interpreter(made).run()
    assert run.total - run.least_free == pytest.approx((64 << 30) / 4096, rel=0.01)
    assert sum(run.work) == 256
    assert run.free == run.total
    last = Interpreter(load("exit/storm", 4, only_exit=True)).run()
    assert last.allocs == 0
    assert last.frees == 4 * (64 * 256 + 32)


def test_purgers_free_what_others_took():
    made = load("purge/jemalloc", 64)
    run = Interpreter(made).run(limit_steps=STEPS)
    assert sorted(run.cpus_that_free) == [0, 16, 32, 48]
    assert len(idle_programs(made)) == 4
    assert sorted(Interpreter(load("purge/jemalloc", 8, purgers=3)).run(limit_steps=9000).cpus_that_free) == [0, 2, 5]


def test_reclaim_on_several_nodes():
    made = load("reclaim/kswapd", 8, nodes=2, direct=0)
    run = Interpreter(made).run(limit_steps=3000)
    assert sorted(run.cpus_that_free) == [0, 4]
    assert load("reclaim/kswapd", 8, nodes=8).digest() != load("reclaim/kswapd", 8, nodes=4).digest()


@pytest.mark.parametrize("memory", ["64MiB", "256MiB"])
def test_one_cpu_makes_room_for_itself(memory):
    run = Machine(1, memory, "tuned").run("reclaim/kswapd", duration="5ms")
    assert not run.manifest["stuck"]
    assert run.metrics["work"] > 0
    assert run.metrics["call.failed"] == 0


def test_builds_ask_for_all_types_and_orders():
    rows = np.concatenate(load("build/kernel", 2).programs)
    asked = {(gfp_migratetype(int(row["gfp"])), int(row["order"])) for row in rows[rows["op"] == P.ALLOC]}
    assert asked == {(0, 0), (0, 2), (0, 3), (1, 0), (2, 0), (2, 2)}


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("wis/page_fault3", {}, "unknown load 'wis/page_fault3' (did you mean wis/page_fault2?); loads are: wis/"),
        ("interleave/x", {}, "unknown load 'interleave/x'"),
        ("interleave/0", {}, "load interleave/0, turn=0: expected 1 to 6144"),
        ("exit/storm", {"touch": 5}, "no parameter 'touch' (did you mean touch_mib?); it has: touch_mib, rounds"),
        ("exit/storm", {"touch_mib": 1}, "load exit/storm, touch_mib=1: expected 2 to"),
        ("exit/storm", {"touch_mib": 2.5}, "touch_mib=2.5: expected a whole number"),
        ("exit/storm", {"touch_mib": "many"}, "touch_mib='many': expected a whole number"),
        ("exit/storm", {"touch_mib": True}, "touch_mib=True: expected a whole number"),
        ("exit/storm", {"only_exit": "maybe"}, "only_exit='maybe': expected true or false"),
        ("exit/storm", {"only_exit": 1}, "only_exit=1: expected true or false"),
        ("exit/storm", {"jitter_us": float("nan")}, "jitter_us=nan: expected 0 to"),
        ("local/loop", {"cma": 1}, "cma=1.0: expected 0 to 0.95"),
        ("local/loop", {"fragment": 0.001}, "fragment=0.001: expected 0, or 0.01 to 0.9"),
        ("local/loop", {"interrupt_us": -1}, "interrupt_us=-1.0: expected 0 to"),
        ("local/loop", {"cpus": 0}, "cpus=0: expected 1 to 512"),
        ("local/loop", {"cpus": 513}, "cpus=513: expected 1 to 512"),
        ("local/loop", {"cpus": "4"}, "cpus='4': expected 1 to 512"),
        ("local/loop", {"nodes": 5}, "nodes=5: expected 1 to 4"),
        ("local/loop", {"memory_bytes": 5000}, "memory_bytes=5000: expected a multiple of 4096"),
        ("wis/page_fault1", {"memory_bytes": 256 << 20}, "needs 512 MiB on 4 CPUs and 256 MiB are free"),
        ("purge/jemalloc", {"purgers": 4}, "purgers=4: expected 0 to 3"),
        ("build/kernel", {"migrate": 2}, "migrate=2.0: expected 0 to 1"),
    ],
)
def test_refused(name, given, words):
    with pytest.raises(ConfigError, match=re.escape(words)) as caught:
        load(name, **{"cpus": 4, **given})
    assert "\n" not in str(caught.value)


def test_parameters_may_be_text():
    made = load("exit/storm", 4, touch_mib="8", jitter_us="2.5", only_exit="true")
    assert made.digest() == load("exit/storm", 4, touch_mib=8, jitter_us=2.5, only_exit=True).digest()


def test_names():
    assert is_load_name("exit/storm")
    assert is_load_name("interleave/7")
    assert is_load_name("exit/strom")
    assert not is_load_name("recordings/tiny-4c")
    assert not is_load_name("shape/S1")


def test_a_load_of_ones_own_is_checked():
    def made(**changed):
        rows = program(lambda p: p.alloc(Queue(0)))
        fields = {"programs": (rows,), "cpu_program": np.zeros(2, np.uint32), "nr_queues": 1, **changed}
        return Load(name="mine", meaning="", source="", parameters={}, **fields)

    assert made().cpus == 2
    for changed, words in (
        ({"nr_queues": 0}, "load mine: instruction 0 (alloc): queues are"),
        ({"cpu_program": np.ones(2, np.uint32)}, "a program that is not there"),
        ({"cpu_program": np.zeros(0, np.uint32)}, "0 CPUs: expected 1 to 512"),
        ({"cma": 1.0}, "cma=1.0"),
        ({"memory_bytes": 100}, "memory_bytes=100"),
        ({"irq_every_ns": 5.0}, "without an irq_program"),
        ({"programs": (program(lambda p: p.replay()),)}, "replay without a recording"),
    ):
        with pytest.raises(ConfigError, match=re.escape(words)):
            made(**changed)


def test_the_interpreter_finds_deadlocks():
    """
    The test of the tests.
    """
    rows = program(lambda p: p.wait_at_least(Queue(0), 1))
    stuck = Load(
        name="stuck", meaning="", source="", parameters={}, programs=(rows,), cpu_program=np.zeros(1, int), nr_queues=1
    )
    with pytest.raises(Deadlock, match="CPUs"):
        Interpreter(stuck).run()


def test_flags_of_requests():
    assert gfp_migratetype(plans.GFP_ANONYMOUS) == gfp_migratetype(plans.GFP_PAGE_CACHE) == 1
    assert gfp_migratetype(plans.GFP_SLAB_RECLAIMABLE) == 2
    for gfp in (plans.GFP_PIPE, plans.GFP_PGTABLE_USER, plans.GFP_SLAB, plans.GFP_NETWORK, plans.GFP_STACK):
        assert gfp_migratetype(gfp) == 0
    assert plans.GFP_PGTABLE_USER == 0x400DC0
    assert plans.GFP_ANONYMOUS == GFP_HIGHUSER_MOVABLE | 0x100
    assert GFP_COMPOSITES["GFP_HIGHUSER"] | 0x400000 == plans.GFP_PIPE


# Recordings in closed loop


def stream_of(rows, allocated=(), cpus=2):
    """
    A stream from (op, pfn, order, cpu) or (op, pfn, order, cpu, nr), a microsecond apart.
    """
    records = np.zeros(len(rows), R.REQUEST)
    for record, (op, pfn, order, cpu, *nr) in zip(records, rows, strict=True):
        record["op"], record["pfn"], record["order"], record["cpu"] = op, pfn, order, cpu
        record["nr"] = nr[0] if nr else 0
    state = {"cpus": cpus, "zones": [{"allocated": np.array([(*row, 7, 0) for row in allocated], np.int64)}]}
    return closed_loop(records, 5_000 + 1_000 * np.arange(len(rows)), state, {})


def listed(stream):
    return [
        [(R.OP_NAMES[row["op"]], int(row["pfn"]), int(row["order"])) for row in stream.requests[begin:end]]
        for begin, end in zip(stream.first[:-1], stream.first[1:], strict=True)
    ]


def test_each_allocation_has_handles_of_its_own():
    stream = stream_of(
        [
            (R.ALLOC, 64, 0, 0),
            (R.FREE, 64, 0, 1),
            (R.ALLOC, 64, 2, 0),
            (R.FREE, 66, 1, 1),
            (R.FREE, 64, 1, 0),
            (R.TICK, 0, 0, 1),
        ]
    )
    assert listed(stream) == [
        [("alloc", 0, 0), ("alloc", 1, 2), ("free", 1, 1)],
        [("free", 0, 0), ("free", 3, 1), ("tick", 0, 0)],
    ]
    assert stream.handles.tolist() == [0] * 5
    assert stream.think_ps.tolist() == [0, 2_000_000, 2_000_000, 1_000_000, 2_000_000, 2_000_000]
    assert stream.left_out == {}


def test_pages_of_the_start_state():
    stream = stream_of([(R.FREE, 32, 2, 0), (R.FREE, 9, 0, 1), (R.FREE, 8, 0, 1)], allocated=[(8, 1), (16, 0), (32, 2)])
    assert stream.handles.tolist() == [8 + 3, 9 + 3, 32 + 3, 33 + 3, 34 + 3, 35 + 3]
    assert listed(stream) == [[("free", 2, 2)], [("free", 1, 0), ("free", 0, 0)]]


def test_a_free_of_several_allocations_is_several_frees():
    stream = stream_of([(R.ALLOC, 8, 1, 0), (R.ALLOC, 10, 0, 0), (R.ALLOC, 11, 0, 1), (R.FREE, 8, 2, 1)])
    assert listed(stream) == [
        [("alloc", 0, 1), ("alloc", 2, 0)],
        [("alloc", 3, 0), ("free", 0, 1), ("free", 2, 0), ("free", 3, 0)],
    ]
    assert stream.think_ps[-3:].tolist() == [1_000_000, 0, 0]
    assert stream.left_out == {"frees_in_pieces": 2}
    three = stream_of([(R.ALLOC, 8, 2, 0), (R.FREE, 8, 0, 0), (R.FREE, 8, 2, 1)])
    assert listed(three)[1] == [("free", 1, 1), ("free", 3, 0)]
    assert three.left_out == {"frees_double": 1, "frees_in_pieces": 1}


def test_bulks_stay_together():
    stream = stream_of(
        [(R.BULK, 70, 0, 1, 3), (R.BULK_MORE, 3, 0, 1), (R.BULK_MORE, 90, 0, 1), (R.FREE, 90, 0, 0), (R.FREE, 3, 0, 0)]
    )
    assert listed(stream)[1] == [("bulk", 0, 0), ("bulk_more", 1, 0), ("bulk_more", 2, 0)]
    assert listed(stream)[0] == [("free", 2, 0), ("free", 1, 0)]
    assert int(stream.requests[2]["nr"]) == 3


def test_what_makes_no_sense_is_counted():
    stream = stream_of(
        [
            (R.FREE, 5, 0, 0),  # nobody allocated it
            (R.ALLOC, 6, 0, 0),
            (R.FREE, 6, 0, 1),
            (R.FREE, 6, 0, 1),  # a second time
            (R.ALLOC, 7, 0, 0),
            (R.ALLOC, 7, 0, 1),  # freed unseen before
            (R.ALLOC, 16, 0, 1),  # a page of the start state, the same
        ],
        allocated=[(16, 0)],
    )
    assert listed(stream) == [
        [("alloc", 1, 0), ("alloc", 2, 0)],
        [("free", 1, 0), ("free", 2, 0), ("alloc", 3, 0), ("free", 0, 0), ("alloc", 4, 0)],
    ]
    assert stream.left_out == {"frees_unknown": 1, "frees_double": 1, "frees_unseen": 2}


def test_isolation_keeps_its_page():
    stream = stream_of([(R.ISOLATE, 512, 0, 0), (R.UNISOLATE, 512, 0, 0), (R.OFFLINE, 0, 0, 1)])
    assert listed(stream) == [[("isolate", 512, 0), ("unisolate", 512, 0)], [("offline", 0, 0)]]


def test_an_empty_recording():
    stream = stream_of([])
    assert stream.first.tolist() == [0, 0, 0]
    assert len(stream.requests) == len(stream.handles) == 0


@pytest.mark.parametrize("name", RECORDINGS)
@pytest.mark.parametrize("gaps", [0, 5])
def test_recordings_run_in_closed_loop(name, gaps):
    """
    However the CPUs drift apart: no handle is used twice, every free finds its allocation, and all ends.
    """
    pytest.importorskip("pyarrow")
    made = recording_load(ROOT / "recordings" / name, gaps=gaps)
    assert made.cpus == 4
    run = Interpreter(made)
    run.measured_from = run.least_free = 0
    run.run(limit_steps=float("inf"))
    records = made.stream.requests
    pages = {op: int((1 << records[records["op"] == op]["order"].astype(int)).sum()) for op in (R.ALLOC, R.FREE)}
    bulk = int(np.isin(records["op"], (R.BULK, R.BULK_MORE)).sum())
    assert run.allocs == pages[R.ALLOC] + bulk
    assert run.frees == pages[R.FREE]
    assert made.memory_bytes > 700 << 20
    assert made.digest() == recording_load(ROOT / "recordings" / name, gaps=gaps).digest()


@pytest.mark.parametrize("name", RECORDINGS)
def test_a_closed_loop_is_the_recording(name):
    """
    In the recorded order it asks for the same pages as handle mode does (docs/reference/replay.md, section 2).
    """
    pytest.importorskip("pyarrow")
    from pcpbuddy import _core, recording
    from pcpbuddy.config import PROFILES

    recorded = recording.load(ROOT / "recordings" / name)
    which = PROFILES["mainline"]
    zones = [recording.adapt(zone, which) for zone in recorded.state["zones"]]
    replay = _core.HandleReplay(_core.Node.from_state({**recorded.state, "zones": zones}, which), recorded.nr_handles)
    replay.run(recorded.requests)
    counters = [zone.counters() for zone in replay.node.zones]
    stream = recording_load(ROOT / "recordings" / name).stream
    frees = stream.requests[stream.requests["op"] == R.FREE]
    assert int((1 << frees["order"].astype(int)).sum()) == sum(each["pages_freed"] for each in counters)
    seconds = (recorded.times_ns[-1] - recorded.times_ns[0]) / 1e9
    for begin, end in zip(stream.first[:-1], stream.first[1:], strict=True):
        assert stream.think_ps[begin:end].sum() / 1e12 <= seconds + 1e-9


def test_recordings_refused():
    with pytest.raises(ConfigError, match="gaps=-1: expected a number"):
        recording_load("recordings/tiny-4c", gaps=-1)
    pytest.importorskip("pyarrow")
    with pytest.raises(RecordingError, match="neither a workload nor a file"):
        recording_load("nowhere")
