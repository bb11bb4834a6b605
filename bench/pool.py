"""
The page pool beside the mallocs of this system, and one call of it from Python.
"""

import os
import sys
from collections.abc import Iterable, Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import compiled
from measure import Figure, Spread, interleave, ratios, timed

import pcpbuddy
from pcpbuddy.config import POOL_PROFILE
from pcpbuddy.poolbench import FAULTS, LEAST_SHARE, Plan, Point, Result, measure, on_this_system, our

__all__ = ["figures"]

# the peer that is the goal's, and the goal (performance.md section 6)
GOALS = {
    Point("repeat", 1): ("tcmalloc", 1.0),
    Point("lifo", 1): ("tcmalloc", 1.0),
    Point("churn", 1): ("tcmalloc", 1.0),
    Point("bulk", 1): ("mimalloc", 0.75),
    Point("bulk", 2): ("mimalloc", 0.75),
    Point("rand", 1): ("mimalloc", 0.51),
    Point("xfree", 2, batch=64): ("mimalloc", 0.8),
    Point("xfree", 2, batch=512): ("mimalloc", 0.8),
}
CALL_GOAL = 2.0
VECTOR_GOAL_NS = 5.0
AT_ONCE = 512


def figures(folder: Path, *, quick: bool, rounds: int) -> Iterator[Figure]:
    """
    Loads first, for the pool's own profile, then fixed and mainline; then calls.
    """
    profiles = list(dict.fromkeys((POOL_PROFILE, "fixed", "mainline")))
    peers = [*(our(name) for name in profiles), *on_this_system()]
    frames = (64 if quick else 1024) << 8
    # One CPU cannot show what two do.
    points = tuple(point for point in GOALS if point.threads <= len(os.sched_getaffinity(0)))
    plan = Plan(points, tuple(peers), frames, rounds, pairs=100_000 if quick else 1_000_000)
    results = {(one.point, one.peer.name): one for one in measured(plan)}
    for point in points:
        peer, goal = GOALS[point]
        for profile in profiles:
            mine = results[point, profile]
            if mine.error:
                print(f"{profile}, {point}: {mine.error}", file=sys.stderr)
            else:
                judged = goal if profile == POOL_PROFILE else None
                yield _against(mine, results.get((point, peer)), peer, judged)
    yield from _calls(folder, quick=quick, rounds=rounds)


def measured(plan: Plan) -> Iterable[Result]:
    """
    All of it, or none: half a table has no verdicts.
    """
    outcome = measure(plan)
    if outcome.partial:
        raise KeyboardInterrupt
    return outcome.results


def _against(mine: Result, theirs: Result | None, peer: str, goal: float | None) -> Figure:
    """
    No ratio, and no verdict, where the peer failed.
    """
    there = theirs if theirs and theirs.rounds else None
    note = f"{peer} is not on this system"
    if theirs is not None:
        note = f"{peer} failed: {theirs.error}" if theirs.error else f"against {peer}"
    return Figure(
        group="page pool, a get and its put, against a malloc",
        name=f"{mine.point}, {mine.peer.name}",
        unit="ns",
        value=Spread.of(list(mine.ns)),
        reference=there and Spread.of(list(there.ns)),
        ratio=there and ratios(list(mine.ns), list(there.ns)),
        goal=goal if there else None,
        note="; ".join([note, *_doubts(mine), *(_doubts(there) if there else [])]),
    )


def _doubts(one: Result) -> list[str]:
    """
    What makes a figure less than true.
    """
    doubts = []
    if one.faults > FAULTS:
        doubts.append(f"{one.peer.name}: {one.faults:.2g} page faults a pair")
    if one.point.threads > 1 and one.cpu_share < LEAST_SHARE:
        doubts.append(f"{one.peer.name}: a thread had {one.cpu_share:.2f} of its CPU in some round")
    return doubts


def _pairs(target: Any, n: int) -> None:
    for _ in repeat(None, n):
        target.free(target.alloc(0))


def _calls(folder: Path, *, quick: bool, rounds: int) -> Iterator[Figure]:
    n = 20_000 if quick else 200_000
    empty = compiled.empty_module(folder).Empty()
    with pcpbuddy.PagePool("1GiB") as pool:

        def vectors() -> None:
            for _ in repeat(None, n // AT_ONCE):
                pool.free_bulk(pool.alloc_bulk(AT_ONCE))

        tasks = {
            "empty": lambda: timed(lambda: _pairs(empty, n)) / n,
            "pool": lambda: timed(lambda: _pairs(pool, n)) / n,
            "bulk": lambda: timed(vectors) / (n // AT_ONCE * AT_ONCE),
        }
        taken = interleave(tasks, rounds)
    group = f"page pool, from Python, {POOL_PROFILE}"
    yield Figure(
        group=group,
        name="free(alloc(0))",
        unit="ns",
        value=Spread.of(taken["pool"]),
        reference=Spread.of(taken["empty"]),
        ratio=ratios(taken["pool"], taken["empty"]),
        goal=CALL_GOAL,
        note="against two empty compiled methods",
    )
    yield Figure(
        group=group,
        name=f"alloc_bulk, free_bulk of {AT_ONCE}",
        unit="ns a page",
        value=Spread.of(taken["bulk"]),
        goal=VECTOR_GOAL_NS,
    )
