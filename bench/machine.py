"""
The machine of virtual CPUs: its events beside those of SimPy, which has nothing but the queue for a lock; its memory.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from measure import Figure, Spread, interleave, ratios, timed

import pcpbuddy
from pcpbuddy.workload.load import Load
from pcpbuddy.workload.program import Program

try:
    import simpy
except ImportError:
    simpy = None

__all__ = ["figures"]

GOAL_TIMES, GOAL_LARGE, GOAL_SECONDS, GOAL_PROPORTION = 10.0, 0.5, 60.0, 1.1
MANY, MOST = 64, 512
THINK_NS, HOLD_NS = 20_000.0, 200.0  # 64 CPUs keep the lock busy two thirds of the time
EVENTS_A_TURN = 4  # of SimPy: the end of thinking, the grant, the end of the hold, the release
LOADS: dict[str, dict[str, Any]] = {
    "wis/page_fault1": {"mapping_mib": 16},
    "purge/jemalloc": {"live_mib": 1},
    "exit/storm": {"touch_mib": 16, "rounds": 1},
}
DURATION = {"wis/page_fault1": "4ms", "purge/jemalloc": "4ms", "exit/storm": None}
STORM_CPUS, STORM_GIB, GIB = 256, 256, 1 << 30
TOUCHED_GIB = (16, 64)


def figures(*, quick: bool, rounds: int) -> Iterator[Figure]:
    """
    Speed at 64 and 512 virtual CPUs, then memory and time of a large storm. A timing is one whole run.
    """
    yield from _speeds(quick, rounds)
    if not quick:
        yield from _storms()


# -- speed -------------------------------------------------------------------------------------------------------------


def _speeds(quick: bool, rounds: int) -> Iterator[Figure]:
    turns = 2000 if quick else 20_000
    tasks: dict[str, Callable[[], float]] = {}
    calls: dict[tuple[str, int], float] = {}
    if simpy is not None:
        tasks["simpy"] = lambda: _with_simpy(turns)
    for cpus in (MANY, MOST):
        tasks[f"queue {cpus}"] = _queue(cpus, turns * 20)
        for load in LOADS:
            tasks[f"{load} {cpus}"] = _events(load, cpus, calls)
    taken = interleave(tasks, rounds)
    bare = [value / EVENTS_A_TURN for value in taken["simpy"]] if simpy is not None else []
    if simpy is not None:
        yield _figure(f"SimPy, {MANY} CPUs, events", taken["simpy"])
    else:
        print("  SimPy is not installed, so nothing stands beside the machine: pip install 'simpy>=4.1'")
    yield _figure(f"a queue for a lock, {MANY} CPUs", taken[f"queue {MANY}"], bare, note="both sides in acquisitions")
    yield _figure(f"a queue for a lock, {MOST} CPUs", taken[f"queue {MOST}"])
    for load in LOADS:
        few, many = taken[f"{load} {MANY}"], taken[f"{load} {MOST}"]
        yield _figure(f"{load}, {MANY} CPUs, events", few, taken.get("simpy"), GOAL_TIMES, note="beside SimPy's")
        each = calls[load, MANY]
        yield _figure(f"{load}, {MANY} CPUs, calls", [value * each for value in few], taken.get("simpy"))
        yield _figure(f"{load}, {MOST} CPUs, events", many, few, GOAL_LARGE, note=f"beside those of {MANY} CPUs")


def _figure(
    name: str, mine: list[float], other: list[float] | None = None, goal: float | None = None, note: str = ""
) -> Figure:
    return Figure(
        group="the machine of virtual CPUs",
        name=name,
        unit="M/s",
        value=Spread.of(mine),
        reference=Spread.of(other) if other else None,
        ratio=ratios(mine, other) if other else None,
        goal=goal if other else None,
        at_least=True,
        note=note if other else "",
    )


def _per_us(work: Callable[[], int]) -> float:
    """
    How many of what ``work`` counts go into a microsecond of CPU time.
    """
    done = 0

    def once() -> None:
        nonlocal done
        done = work()

    ns = timed(once)
    return done / ns * 1000


def _with_simpy(turns: int) -> float:
    """
    Events of SimPy: CPUs that think, queue for one lock, hold it and let go. Millions a second.
    """
    rng = np.random.default_rng(0)
    thinking = rng.exponential(THINK_NS, turns).tolist()
    holding = rng.exponential(HOLD_NS, turns).tolist()

    def work() -> int:
        env = simpy.Environment()
        lock = simpy.Resource(env, capacity=1)

        def cpu(number: int) -> Iterator[Any]:
            for turn in range(number, turns, MANY):
                yield env.timeout(thinking[turn])
                with lock.request() as asked:
                    yield asked
                    yield env.timeout(holding[turn])

        for number in range(MANY):
            env.process(cpu(number))
        env.run()
        return turns * EVENTS_A_TURN

    return _per_us(work)


def _queue(cpus: int, turns: int) -> Callable[[], float]:
    """
    The same in the machine, without an allocator: acquisitions.
    """
    p = Program("queue")
    with p.repeat(turns // cpus):
        p.think(THINK_NS * cpus / MANY, "exponential")
        p.lock(0)
        p.think(HOLD_NS, "exponential")
        p.unlock(0)
    load = Load(
        name="bench/queue",
        meaning="CPUs that think, queue for one lock, hold it and let go",
        source="bench/README.md",
        parameters={},
        programs=(p.instructions(),),
        cpu_program=np.zeros(cpus, np.uint32),
        nr_queues=0,
        nr_locks=1,
        memory_bytes=64 << 20,
    )
    return lambda: _per_us(lambda: _run_queue(load, cpus, turns))


def _run_queue(load: Load, cpus: int, turns: int) -> int:
    pcpbuddy.Machine(cpus, policy="mainline", tick=0).run(load)
    return turns // cpus * cpus


def _events(load: str, cpus: int, calls: dict[tuple[str, int], float]) -> Callable[[], float]:
    """
    Events of a load under mainline. calls: gets how many calls of the allocator there are to an event; a batch of frees
    is one.
    """
    memory = cpus * 64 << 20

    def work() -> int:
        run = pcpbuddy.Machine(cpus, memory, "mainline").run(load, duration=DURATION[load], **LOADS[load])
        calls[load, cpus] = run.metrics["machine.calls"] / run.metrics["machine.events"]
        return int(run.metrics["machine.events"])

    return lambda: _per_us(work)


# -- a large storm ----------------------------------------------------------------------------------------------------


def _storms() -> Iterator[Figure]:
    """
    256 CPUs that exit at once in 256 GiB, of which they touch a part. Each run is a process of its own.
    """
    runs = {gib: _storm(gib) for gib in TOUCHED_GIB}
    few, many = (_per_page(gib, runs[gib]) for gib in TOUCHED_GIB)
    group = f"exit/storm of {STORM_CPUS} CPUs in {STORM_GIB} GiB, mainline"
    for gib, one in runs.items():
        seconds, mb = (Spread.of([one[key]]) for key in ("seconds", "peak_mb"))
        goal = GOAL_SECONDS if gib == TOUCHED_GIB[-1] else None
        yield Figure(group=group, name=f"{gib} GiB touched, wall time", unit="s", value=seconds, goal=goal)
        yield Figure(group=group, name=f"{gib} GiB touched, peak memory", unit="MB", value=mb)
    yield Figure(
        group=group,
        name="bytes a touched page",
        unit="bytes",
        value=Spread.of([many]),
        reference=Spread.of([few]),
        ratio=ratios([many], [few]),
        goal=GOAL_PROPORTION,
        note=f"{TOUCHED_GIB[-1]} GiB beside {TOUCHED_GIB[0]} GiB: peak memory follows what is touched",
    )


def _per_page(gib: int, one: dict[str, float]) -> float:
    return (one["peak_mb"] - one["base_mb"]) * 1e6 / (gib * GIB / 4096)


def _storm(gib: int) -> dict[str, float]:
    return json.loads(subprocess.check_output([sys.executable, __file__, str(gib)], text=True))


def _peak_mb() -> float:
    status = Path("/proc/self/status").read_text()  # ru_maxrss would begin with what the parent had
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) * 1024 / 1e6


def _child(gib: int) -> None:
    touch_mib = gib * 1024 // STORM_CPUS
    pcpbuddy.Machine(4, "64MiB", "mainline").run("exit/storm", touch_mib=2, rounds=1)  # what any run loads
    base = _peak_mb()
    start = time.perf_counter()
    pcpbuddy.Machine(STORM_CPUS, STORM_GIB * GIB, "mainline").run("exit/storm", touch_mib=touch_mib, rounds=1)
    json.dump({"seconds": time.perf_counter() - start, "peak_mb": _peak_mb(), "base_mb": base}, sys.stdout)


if __name__ == "__main__":
    _child(int(sys.argv[1]))
