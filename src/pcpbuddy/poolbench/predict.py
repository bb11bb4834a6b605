"""
What the laboratory says of the same loads: the allocator's text on as many virtual CPUs, with this machine's costs.

Only what calls take is compared: threads of ``pcpbuddy bench pool`` wait in loops of their own, which no allocator has.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from ..config import PROFILES, Policy
from ..costs import Costs
from ..machine import Machine
from ..names import GFP_HIGHUSER_MOVABLE, PAGE_SIZE
from ..workload.plan import Kind, Load, Plan
from .measure import Point, Result

__all__ = ["predicted", "predictions"]

DURATION_NS = 5_000_000
ON_THEIR_WAY = 8192


def _bulk(plan: Plan, *, pages: int) -> Load:
    plan.needs(plan.cpus * pages * PAGE_SIZE, head_room=2, least_per_cpu=0)
    queue, warm, taken, given = plan.queues.per_cpu(), plan.barrier(), plan.barrier(), plan.barrier()
    for p, first in plan.programs("thread", range(plan.cpus)):
        plan.measure(p, first, warm, plan.cpus)
        with p.repeat(3):
            p.alloc(queue, pages, gfp=GFP_HIGHUSER_MOVABLE)
            p.barrier(taken, plan.cpus)
            p.free(queue, pages, "newest")
            p.barrier(given, plan.cpus)
            p.work(pages)
        p.stop()
    return plan.load(unit="pairs", duration_ns=None)


def _lifo(plan: Plan, *, pages: int) -> Load:
    plan.needs(plan.cpus * pages * PAGE_SIZE, head_room=2, least_per_cpu=0)
    queue, warm = plan.queues.per_cpu(), plan.barrier()
    for p, first in plan.programs("thread", range(plan.cpus)):
        p.alloc(queue, 64, gfp=GFP_HIGHUSER_MOVABLE)
        p.free(queue, 64, "newest")
        plan.measure(p, first, warm, plan.cpus)
        with p.forever():
            p.alloc(queue, 64, gfp=GFP_HIGHUSER_MOVABLE)
            p.free(queue, 64, "newest")
            p.work(64)
    return plan.load(unit="pairs", duration_ns=DURATION_NS)


def _xfree(plan: Plan, *, pages: int) -> Load:
    plan.needs(plan.cpus * pages * PAGE_SIZE, head_room=2, least_per_cpu=0)
    mine, theirs, warm = plan.queues.per_cpu(), plan.queues.shared(), plan.barrier()
    for p, first in plan.programs("gets", [0]):
        plan.measure(p, first, warm, 2)
        with p.forever():
            p.wait_at_most(theirs, min(pages, ON_THEIR_WAY) - 64)
            p.alloc(mine, 64, gfp=GFP_HIGHUSER_MOVABLE)
            p.move(mine, theirs, 64)
    for p, first in plan.programs("puts", [1]):
        plan.measure(p, first, warm, 2)
        with p.forever():
            p.wait_at_least(theirs, 64)
            p.free(theirs, 64, "oldest")
            p.work(64)
    return plan.load(unit="pairs", duration_ns=DURATION_NS)


PREDICTED: dict[str, Callable[..., Load]] = {"bulk": _bulk, "lifo": _lifo, "xfree": _xfree}


def predicted(point: Point, policy: Policy, costs: Costs, frames: int) -> float | None:
    """
    Nanoseconds for a get and its put: what their calls take in the mean. None: this load is not predicted.

    Of xfree the slower side, since the other one waits for it.
    """
    if point.load not in PREDICTED or point.order:
        return None
    kind = Kind(f"pool/{point.load}", "a load of pcpbuddy bench pool", "performance.md", PREDICTED[point.load])
    pages = frames // point.threads // 2
    options: dict[str, Any] = {"pages": pages}
    common = {"fragment": 0.0, "cma": 0.0, "interrupt_us": 0.0}
    plan = Plan(kind, kind.name, point.threads, frames * PAGE_SIZE, 1, common, common | options)
    machine = Machine(cpus=point.threads, memory=frames * PAGE_SIZE, policy=policy, costs=costs, seed=1)
    metrics = machine.run(kind.make(plan, **options)).metrics
    get, put = metrics["call.alloc.ns.mean"], metrics["call.free.ns.mean"]
    return max(get, put) if point.load == "xfree" else get + put


def predictions(results: Sequence[Result], costs: Costs, frames: int) -> list[Result]:
    """
    The same results, with what the laboratory says of our profiles.
    """
    return [
        dataclasses.replace(one, predicted=predicted(one.point, PROFILES[one.peer.what], costs, frames) or 0.0)
        if one.peer.kind == "our"
        else one
        for one in results
    ]
