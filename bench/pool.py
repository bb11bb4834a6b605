"""
The page pool beside the mallocs of this system, and one call of it from Python.
"""

from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import compiled
from measure import Figure, Spread, interleave, ratios, timed

import pcpbuddy
from pcpbuddy.config import POOL_PROFILE
from pcpbuddy.poolbench import Plan, Point, Result, measure, on_this_system, our

__all__ = ["figures"]

# load, threads, batch: the peer that is the goal's, and the goal (performance.md section 6)
GOALS = {
    ("repeat", 1): ("tcmalloc", 1.0),
    ("lifo", 1): ("tcmalloc", 1.0),
    ("churn", 1): ("tcmalloc", 1.0),
    ("bulk", 1): ("mimalloc", 0.75),
    ("bulk", 2): ("mimalloc", 0.75),
    ("rand", 1): ("mimalloc", 0.51),
    ("xfree", 2): ("mimalloc", 0.8),
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
    points = tuple(Point(load, threads, 0) for load, threads in GOALS)
    frames = (64 if quick else 1024) << 8
    plan = Plan(points, tuple(peers), frames, rounds, pairs=100_000 if quick else 1_000_000)
    results = {(one.point, one.peer.name): one for one in measure(plan)}
    for point in points:
        peer, goal = GOALS[point.load, point.threads]
        for profile in profiles:
            judged = goal if profile == POOL_PROFILE else None
            yield _against(results[point, profile], results.get((point, peer)), peer, judged)
    yield from _calls(folder, quick=quick, rounds=rounds)


def _against(mine: Result, theirs: Result | None, peer: str, goal: float | None) -> Figure:
    return Figure(
        group="page pool, a get and its put, against a malloc",
        name=f"{mine.point}, {mine.peer.name}",
        unit="ns",
        value=Spread.of(list(mine.rounds)),
        reference=theirs and Spread.of(list(theirs.rounds)),
        ratio=theirs and ratios(list(mine.rounds), list(theirs.rounds)),
        goal=goal if theirs else None,
        note=f"against {peer}" if theirs else f"{peer} is not on this system",
    )


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
