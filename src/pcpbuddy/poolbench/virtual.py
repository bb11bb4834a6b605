"""
The loads of ``pcpbuddy bench pool`` as programs of virtual CPUs. Each runs once, or for a while, before it is measured:
the first round is dropped here too.
"""

from collections.abc import Callable

from ..names import PAGE_SIZE
from ..workload.plan import Kind, Load, Plan
from ..workload.program import Program, Queue

__all__ = ["load"]

DURATION_NS = 5_000_000
ON_THEIR_WAY = 8192  # LIVE of _core/poolbench.pyx
CROSSED = 64


def _all_memory(plan: Plan, pages: int, *, shuffled: bool) -> Load:
    """
    All take, then all give back: their own, newest first, or any of all.
    """
    mine, all_of_them = plan.queues.per_cpu(), plan.queues.shared()
    warm, taken, shuffle, given = (plan.barrier() for _ in range(4))

    def once(p: Program) -> None:
        p.alloc(mine, pages)
        p.barrier(taken, plan.cpus)
        if shuffled:
            p.move(mine, all_of_them, pages)
            p.barrier(shuffle, plan.cpus)
        p.free(all_of_them if shuffled else mine, pages, "random" if shuffled else "newest")
        p.barrier(given, plan.cpus)

    for p, first in plan.programs("thread", range(plan.cpus)):
        once(p)
        plan.measure(p, first, warm, plan.cpus)
        with p.repeat(2):
            once(p)
            p.work(pages)
        p.stop()
    return plan.load(unit="pairs")


def _bulk(plan: Plan, pages: int, _: int) -> Load:
    return _all_memory(plan, pages, shuffled=False)


def _rand(plan: Plan, pages: int, _: int) -> Load:
    return _all_memory(plan, pages, shuffled=True)


def _again(plan: Plan, held: int, round_of: Callable[[Program, Queue, Queue], None]) -> Load:
    """
    While each CPU holds so many pages: the same again and again.
    """
    holds, mine, warm = plan.queues.per_cpu(), plan.queues.per_cpu(), plan.barrier()
    for p, first in plan.programs("thread", range(plan.cpus)):
        if held:
            p.alloc(holds, held)
        with p.repeat(max(held // 8, 8)):
            round_of(p, holds, mine)
        plan.measure(p, first, warm, plan.cpus)
        with p.forever():
            round_of(p, holds, mine)
            p.work()
    return plan.load(unit="rounds", duration_ns=DURATION_NS)


def _repeat(plan: Plan, pages: int, _: int) -> Load:
    def one(p: Program, holds: Queue, mine: Queue) -> None:
        p.alloc(mine)
        p.free(mine)

    return _again(plan, pages, one)


def _lifo(plan: Plan, pages: int, batch: int) -> Load:
    def burst(p: Program, holds: Queue, mine: Queue) -> None:
        p.alloc(mine, batch)
        p.free(mine, batch, "newest")

    return _again(plan, 0, burst)


def _churn(plan: Plan, pages: int, _: int) -> Load:
    def replace(p: Program, holds: Queue, mine: Queue) -> None:
        p.free(holds, 1, "random")
        p.alloc(holds)

    return _again(plan, min(pages, ON_THEIR_WAY), replace)


def _send(p: Program, mine: Queue, way: Queue, pages: int, batch: int) -> None:
    p.wait_at_most(way, min(pages, ON_THEIR_WAY) - batch)
    p.alloc(mine, batch)
    p.move(mine, way, batch)


def _receive(p: Program, way: Queue, batch: int) -> None:
    p.wait_at_least(way, batch)
    p.free(way, batch, "oldest")


def _xfree(plan: Plan, pages: int, batch: int) -> Load:
    mine, way, warm = plan.queues.per_cpu(), plan.queues.shared(), plan.barrier()
    warm_up = ON_THEIR_WAY // batch
    for p, first in plan.programs("gets", [0]):
        with p.repeat(warm_up):
            _send(p, mine, way, pages, batch)
        plan.measure(p, first, warm, 2)
        with p.forever():
            _send(p, mine, way, pages, batch)
    for p, _ in plan.programs("puts", [1]):
        with p.repeat(warm_up):
            _receive(p, way, batch)
        plan.measure(p, False, warm, 2)
        with p.forever():
            _receive(p, way, batch)
            p.work(batch)
    return plan.load(unit="pairs", duration_ns=DURATION_NS)


def _xchg(plan: Plan, pages: int, batch: int) -> Load:
    mine, ways, warm = plan.queues.per_cpu(), [plan.queues.shared() for _ in range(2)], plan.barrier()

    def both(p: Program, me: int) -> None:
        _send(p, mine, ways[me], pages, batch)
        _receive(p, ways[1 - me], batch)

    for me in range(2):
        for p, _ in plan.programs("gets and puts", [me]):
            with p.repeat(ON_THEIR_WAY // batch):
                both(p, me)
            plan.measure(p, me == 0, warm, 2)
            with p.forever():
                both(p, me)
                p.work(batch)
    return plan.load(unit="pairs", duration_ns=DURATION_NS)


def _xcpu(plan: Plan, pages: int, _: int) -> Load:
    """
    Two CPUs that never run at once: what one took, the other gives back before it goes on.
    """
    mine, way, warm = plan.queues.per_cpu(), plan.queues.shared(), plan.barrier()
    for p, first in plan.programs("gets", [0]):
        plan.measure(p, first, warm, 2)
        with p.forever():
            p.wait_at_most(way, 0)
            p.alloc(mine, CROSSED)
            p.move(mine, way, CROSSED)
    for p, _ in plan.programs("puts", [1]):
        plan.measure(p, False, warm, 2)
        with p.forever():
            _receive(p, way, CROSSED)
            p.work(CROSSED)
    return plan.load(unit="pairs", duration_ns=DURATION_NS)


LOADS: dict[str, Callable[[Plan, int, int], Load]] = {
    "bulk": _bulk,
    "rand": _rand,
    "repeat": _repeat,
    "lifo": _lifo,
    "churn": _churn,
    "xfree": _xfree,
    "xchg": _xchg,
    "xcpu": _xcpu,
}


def load(name: str, *, cpus: int, frames: int, pages: int, batch: int) -> Load:
    """
    A load on so many CPUs with so much memory; pages: a thread's, half of it in all.
    """
    common = {"fragment": 0.0, "cma": 0.0, "interrupt_us": 0.0}
    what = ("a load of pcpbuddy bench pool", "docs/reference/bench-pool.md")
    kind = Kind(f"pool/{name}", *what, lambda plan: LOADS[name](plan, pages, batch))
    plan = Plan(kind, kind.name, cpus, frames * PAGE_SIZE, 1, common, common | {"pages": pages, "batch": batch})
    plan.needs(frames * PAGE_SIZE // 2, head_room=2, least_per_cpu=0)
    return kind.make(plan)
