"""
One call from Python: Zone.alloc and Zone.free beside empty compiled methods of the same signature.
"""

from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import compiled
from measure import Figure, Spread, interleave, ratios, timed

import pcpbuddy

__all__ = ["figures"]

GOAL = 2.0
FRESH = 20_000  # allocations of one timing: refills are in it
PAIRS = 200_000


def _allocs(target: Any, n: int) -> None:
    for _ in repeat(None, n):
        target.alloc(0)


def _pairs(target: Any, n: int) -> None:
    for _ in repeat(None, n):
        target.free(target.alloc(0))


def _nothing(target: Any, n: int) -> None:
    for _ in repeat(None, n):
        pass


def figures(folder: Path, *, quick: bool, rounds: int) -> Iterator[Figure]:
    """
    A call and a pair for each policy; the empty loop stands beside them and is subtracted from nothing.
    """
    empty = compiled.empty_module(folder).Empty()
    n = PAIRS // 10 if quick else PAIRS
    tasks = {
        "loop": _per_call(_nothing, empty, n),
        "empty alloc": _per_call(_allocs, empty, n),
        "empty pair": _per_call(_pairs, empty, n),
    }
    for policy in ("mainline", "fixed"):
        zone = pcpbuddy.Zone(size="1GiB", cpus=4, policy=policy)
        tasks[f"{policy} alloc"] = _fresh(zone, FRESH)
        tasks[f"{policy} pair"] = _per_call(_pairs, zone, n)
    taken = interleave(tasks, rounds)
    yield _figure("the loop alone", taken["loop"])
    for policy in ("mainline", "fixed"):
        for what, name in (("alloc", "alloc(0)"), ("pair", "free(alloc(0))")):
            mine, empties = taken[f"{policy} {what}"], taken[f"empty {what}"]
            yield _figure(f"{name}, {policy}", mine, empties)


def _figure(name: str, mine: list[float], empties: list[float] | None = None) -> Figure:
    reference = ratio = goal = None
    if empties is not None:
        reference, ratio, goal = Spread.of(empties), ratios(mine, empties), GOAL
    return Figure(
        group="one call from Python, 1 GiB",
        name=name,
        unit="ns",
        value=Spread.of(mine),
        reference=reference,
        ratio=ratio,
        goal=goal,
    )


def _per_call(loop: Callable[[Any, int], None], target: Any, n: int) -> Callable[[], float]:
    return lambda: timed(lambda: loop(target, n)) / n


def _fresh(zone: pcpbuddy.Zone, n: int) -> Callable[[], float]:
    """
    Allocations only, so the zone is put back before each timing.
    """
    snapshot = zone.snapshot()

    def once() -> float:
        zone.restore(snapshot)
        spent = timed(lambda: _allocs(zone, n)) / n
        zone.restore(snapshot)
        return spent

    return once
