"""
What the laboratory says of the same loads: the allocator's text on as many virtual CPUs, with this machine's costs.

Only what calls take is compared: threads of ``pcpbuddy bench pool`` wait in loops of their own, which no allocator has.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .measure import Result
from .plan import Point

if TYPE_CHECKING:
    from ..config import Policy
    from ..costs import Costs

__all__ = ["predicted", "predictions"]


def predicted(point: Point, policy: "Policy", costs: "Costs", frames: int) -> float | None:
    """
    Nanoseconds for a get and its put: what their calls take in the mean. None: single pages only are predicted.

    Of xfree the slower side, since the other one waits for it. xcpu is one thread, so what its other CPU touched last
    is in the same cache.
    """
    # Here and not above: the processes that measure need neither numpy nor the machine.
    from ..machine import Machine
    from ..names import PAGE_SIZE
    from .virtual import load

    if point.order:
        return None
    cpus = 2 if point.load == "xcpu" else point.threads
    if point.load == "xcpu":
        costs = dataclasses.replace(costs, line_near_ns=0.0, descriptor_near_ns=costs.descriptor_own_ns)
    work = load(point.load, cpus=cpus, frames=frames, pages=frames // point.threads // 2, batch=point.batch)
    machine = Machine(cpus=cpus, memory=frames * PAGE_SIZE, policy=policy, costs=costs, seed=1)
    metrics = machine.run(work).metrics
    get, put = metrics["call.alloc.ns.mean"], metrics["call.free.ns.mean"]
    return max(get, put) if point.load == "xfree" else get + put


def predictions(results: Sequence[Result], costs: "Costs", frames: int) -> list[Result]:
    """
    The same results, with what the laboratory says of our profiles.
    """
    from ..config import PROFILES

    return [
        dataclasses.replace(one, predicted=predicted(one.point, PROFILES[one.peer.what], costs, frames) or 0.0)
        if one.peer.kind == "our"
        else one
        for one in results
    ]
