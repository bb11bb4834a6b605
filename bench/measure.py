"""
Rounds, medians and ratios: how every figure of this folder is taken.
"""

import dataclasses
import gc
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["Figure", "Spread", "interleave", "ratios", "timed"]


@dataclasses.dataclass(frozen=True, slots=True)
class Spread:
    """
    Median, least and greatest of several rounds.
    """

    median: float
    least: float
    greatest: float
    rounds: int

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        """
        The spread of the values of some rounds.
        """
        return cls(statistics.median(values), min(values), max(values), len(values))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """
    One line of the table.

    value: what was measured, in `unit`. reference: the same unit, from the same rounds. ratio: of the two, round by
    round; the goal is about it where there is one, else about the value. goal None: measured for orientation.
    """

    group: str
    name: str
    unit: str
    value: Spread
    reference: Spread | None = None
    ratio: Spread | None = None
    goal: float | None = None
    at_least: bool = False
    note: str = ""

    @property
    def decides(self) -> Spread:
        """
        What the goal is compared with.
        """
        return self.ratio if self.ratio is not None else self.value

    @property
    def met(self) -> bool | None:
        """
        Whether the median reaches the goal; None without a goal.
        """
        if self.goal is None:
            return None
        return self.decides.median >= self.goal if self.at_least else self.decides.median <= self.goal

    def document(self) -> dict[str, Any]:
        """
        The line as JSON.
        """
        return {**dataclasses.asdict(self), "met": self.met}


def interleave(tasks: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """
    Every task once a round, in turn; each round starts with another one. The first round is dropped.
    """
    names = list(tasks)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            value = tasks[name]()
            if turn:
                taken[name].append(value)
    return taken


def ratios(values: list[float], reference: list[float]) -> Spread:
    """
    Round by round, so that a slow minute of the machine slows both sides.
    """
    return Spread.of([value / other for value, other in zip(values, reference, strict=True)])


def timed(work: Callable[[], object]) -> float:
    """
    CPU nanoseconds of this thread, with the garbage collector off.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        start = time.thread_time_ns()
        work()
        return float(time.thread_time_ns() - start)
    finally:
        if enabled:
            gc.enable()
