"""
Requests per second of a replay in handle mode, beside a bare C lock buddy over the same records.
"""

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import compiled
import numpy as np
import streams
from measure import Figure, Spread, interleave, ratios, timed

from pcpbuddy import _core, config

__all__ = ["figures"]

POLICIES = ("mainline", "null", "fixed", "posted")
GOAL = 0.35
ENOUGH = 2_000_000  # a timing repeats a short recording until it has seen this many requests


class Reference:
    """
    The lock buddy of reference.c, in the state that a load begins with.
    """

    def __init__(self, library: ctypes.CDLL, load: streams.Load) -> None:
        self._library = library
        self._buddy = library.ref_new(load.nr_pages, max(load.nr_handles, load.nr_pages))
        if not self._buddy:
            raise MemoryError
        for name, rows in (("ref_fill", load.free), ("ref_allocated", load.allocated)):
            rows = np.ascontiguousarray(rows, np.uint32)
            getattr(library, name)(self._buddy, rows.ctypes.data, len(rows))
        library.ref_save(self._buddy)
        self._requests = load.requests

    def nanoseconds(self) -> float:
        """
        One pass from the beginning.
        """
        self._library.ref_restore(self._buddy)
        address, nr = self._requests.ctypes.data, len(self._requests)
        return timed(lambda: self._library.ref_run(self._buddy, address, nr))

    def lost(self) -> tuple[int, int]:
        """
        Failed allocations and frees of pages that are not live, in the last pass.
        """
        return self._library.ref_failed(self._buddy), self._library.ref_skipped(self._buddy)

    def close(self) -> None:
        """
        Give the memory back.
        """
        self._library.ref_delete(self._buddy)
        self._buddy = None


class Ours:
    """
    One policy over a load: the state is put back before each pass, as the reference's is.
    """

    def __init__(self, load: streams.Load, policy: str) -> None:
        self._node = load.node(config.policy(policy))
        self._snapshots = [zone.snapshot() for zone in self._node.zones]
        self._load = load
        self.result: dict[str, Any] = {}

    def nanoseconds(self) -> float:
        """
        One pass: the check of the records included, the making of the handle map not.
        """
        for zone, snapshot in zip(self._node.zones, self._snapshots, strict=True):
            zone.restore(snapshot)
        replay = _core.HandleReplay(self._node, self._load.nr_handles)
        spent = timed(lambda: replay.run(self._load.requests))
        self.result = replay.result()
        return spent


def figures(folder: Path, *, quick: bool, rounds: int) -> Iterator[Figure]:
    """
    One line for every load and policy.
    """
    library = compiled.reference_library(folder)
    for load in streams.loads(quick):
        reference = Reference(library, load)
        ours = {policy: Ours(load, policy) for policy in POLICIES}
        nr = len(load.requests)
        passes = max(1, (ENOUGH // 10 if quick else ENOUGH) // nr)
        tasks = {"reference": _rate(reference.nanoseconds, passes, nr)}
        tasks |= {policy: _rate(one.nanoseconds, passes, nr) for policy, one in ours.items()}
        taken = interleave(tasks, rounds)
        failed, skipped = reference.lost()
        for policy, one in ours.items():
            lost = {name: one.result[name] for name in sorted(one.result) if name.startswith("frees_")}
            note = ", ".join(f"{name} {count}" for name, count in lost.items() if count)
            yield Figure(
                group=f"replay {load.name}, {nr} requests",
                name=policy,
                unit="M/s",
                value=Spread.of(taken[policy]),
                reference=Spread.of(taken["reference"]),
                ratio=ratios(taken[policy], taken["reference"]),
                goal=GOAL,
                at_least=True,
                note=f"{note}; reference: {failed} failed, {skipped} skipped" if note or failed or skipped else "",
            )
        reference.close()


def _rate(nanoseconds: Callable[[], float], passes: int, nr: int) -> Callable[[], float]:
    """
    Million requests a second over some passes.
    """
    return lambda: 1e3 * nr * passes / sum(nanoseconds() for _ in range(passes))
