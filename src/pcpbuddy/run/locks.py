"""
The log of locks of a run: who asked for which lock when, got it, and gave it back.

A row is a hold, written when it ends. All holds of zone locks and of a program's locks are kept; of the locks of PCPs
those that were waited for, before or during the hold.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .timing import LOCKS

if TYPE_CHECKING:
    from . import Run

__all__ = ["HOLD", "UNFINISHED", "WHAT", "Locks", "columns", "rows"]

# As the compiled machine writes it (_core/machine.pxd, HoldRow).
HOLD = np.dtype(
    [
        ("asked_ps", "i8"),
        ("from_ps", "i8"),
        ("to_ps", "i8"),
        ("lock", "u4"),
        ("cpu", "u2"),
        ("kind", "u1"),
        ("bits", "u1"),
    ]
)
INTERRUPT, UNFINISHED = 1, 2  # bits
WHAT = ("zone_lock", "pcp_lock", "user_lock")


class Locks:
    """
    What the numbers of locks mean: those of a zone are its CPUs' PCPs and then its own; behind all, the program's.
    """

    def __init__(self, cpus: int, zones: Sequence[str]) -> None:
        self.cpus, self.zones = cpus, list(zones)

    def what(self, lock: np.ndarray) -> np.ndarray:
        """
        Places in WHAT.
        """
        own = lock % (self.cpus + 1) == self.cpus
        return np.where(lock >= len(self.zones) * (self.cpus + 1), 2, np.where(own, 0, 1))

    def place(self, lock: int) -> tuple[str, str | None, int | None]:
        """
        (which of WHAT, zone, CPU of the PCP or number of the program's lock).
        """
        zone, target = divmod(lock, self.cpus + 1)
        if zone >= len(self.zones):
            return WHAT[2], None, lock - len(self.zones) * (self.cpus + 1)
        return (WHAT[0], self.zones[zone], None) if target == self.cpus else (WHAT[1], self.zones[zone], target)


def rows(data: bytes) -> np.ndarray:
    """
    The log as an array.
    """
    return np.frombuffer(data, HOLD).copy()


def columns(run: "Run") -> dict[str, Any]:
    """
    The log as columns; times in nanoseconds since measuring began. A wait that was not over has no from_ns.
    """
    assert run.holds is not None
    locks, log = Locks(run.nr_cpus, run.zones), run.holds
    what = locks.what(log["lock"])
    places = {int(lock): locks.place(int(lock)) for lock in np.unique(log["lock"])}
    kinds = [LOCKS.get(name, ("",)) for name in WHAT]
    start = run.metrics["time.before_ns"]
    got = log["from_ps"] >= 0
    return {
        "cpu": np.ascontiguousarray(log["cpu"]),
        "lock": [WHAT[one] for one in what],
        "zone": [places[lock][1] for lock in log["lock"].tolist()],
        "number": [places[lock][2] for lock in log["lock"].tolist()],
        "kind": [kinds[one][kind] or None for one, kind in zip(what, log["kind"].tolist(), strict=True)],
        "interrupt": (log["bits"] & INTERRUPT) != 0,
        "asked_ns": log["asked_ps"] / 1000 - start,
        "from_ns": np.where(got, log["from_ps"] / 1000 - start, np.nan),
        "to_ns": log["to_ps"] / 1000 - start,
        "finished": (log["bits"] & UNFINISHED) == 0,
    }
