"""
What is measured: loads, with their threads, orders and batches, on which allocators.
"""

import dataclasses
import os
from collections.abc import Sequence

from ..errors import ConfigError
from ..names import MAX_PAGE_ORDER, PAGE_SIZE
from .peers import Peer

__all__ = ["BATCH", "IN_BATCHES", "LOADS", "MOST_BATCH", "Plan", "Point"]

LOADS = ("bulk", "rand", "repeat", "lifo", "churn", "xfree", "xchg", "xcpu")
PAIRS = 1_000_000  # of the loads that do not take all memory
BATCH = 64
MOST_BATCH = 512  # _core/poolbench.pyx
LEAST_CHUNKS = 1024
IN_BATCHES = ("lifo", "xfree", "xchg")
TWO_THREADS = ("xfree", "xchg")
ONE_THREAD = ("xcpu",)


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    """
    One load with its number of threads and its order; batch: of those that have one, pages at a time.
    """

    load: str
    threads: int
    order: int = 0
    batch: int = BATCH

    def __str__(self) -> str:
        batch = f" {self.batch}" if self.load in IN_BATCHES else ""
        order = f" order {self.order}" if self.order else ""
        return f"{self.load}{batch}{order}, {self.threads} thread{'s' * (self.threads > 1)}"


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """
    What is measured. frames: pages of each allocator. rounds: without the first, which is dropped.

    Raises ConfigError for what cannot be.
    """

    points: tuple[Point, ...]
    peers: tuple[Peer, ...]
    frames: int
    rounds: int = 7
    pairs: int = PAIRS

    @classmethod
    def of(
        cls,
        loads: Sequence[str],
        threads: Sequence[int],
        orders: Sequence[int],
        peers: Sequence[Peer],
        *,
        memory: int,
        batches: Sequence[int] = (BATCH,),
        **more: int,
    ) -> "Plan":
        """
        All combinations that make sense: two threads for xfree and xchg, one for xcpu, whatever else is asked for.
        """
        cpus = len(os.sched_getaffinity(0))
        _refuse(loads, threads, orders, batches, cpus)
        names = [peer.name for peer in peers]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ConfigError(f"{twice} is there twice; once is enough")
        frames = memory // PAGE_SIZE
        largest = max(orders, default=0)
        if frames >> largest < LEAST_CHUNKS:
            raise ConfigError(
                f"{memory} bytes are {frames >> largest} chunks of order {largest}: expected {LEAST_CHUNKS} or more"
            )
        points = []
        for load in loads:
            for order in orders:
                for batch in batches if load in IN_BATCHES else (BATCH,):
                    wanted = [2] if load in TWO_THREADS else [1] if load in ONE_THREAD else list(threads)
                    points += [Point(load, number, order, batch) for number in wanted if number <= cpus]
        if not points:
            raise ConfigError("nothing to measure: xfree and xchg need two CPUs")
        plan = cls(tuple(dict.fromkeys(points)), tuple(peers), frames, **more)
        for point in plan.points:
            if point.batch > plan.n(point):
                raise ConfigError(
                    f"--batch {point.batch}: {point} has {plan.n(point)} chunks of order {point.order} for each thread"
                )
        return plan

    def n(self, point: Point) -> int:
        """
        Pages of a thread: half of what there is.
        """
        return (self.frames >> point.order) // point.threads // 2

    def question(self, point: Point) -> dict[str, int | str]:
        """
        A round of that point, as worker.py is asked for it.
        """
        return {
            "load": point.load,
            "threads": point.threads,
            "order": point.order,
            "n": self.n(point),
            "batch": min(point.batch, self.n(point)),
            "pairs": max(self.pairs >> point.order, 1 << 14),
        }


def _refuse(
    loads: Sequence[str], threads: Sequence[int], orders: Sequence[int], batches: Sequence[int], cpus: int
) -> None:
    for load in loads:
        if load not in LOADS:
            raise ConfigError(f"--workload {load}: expected some of {', '.join(LOADS)}")
    for option, given, least, most, what in (
        ("--threads", threads, 1, cpus, f"1 to {cpus}, the CPUs that may be used"),
        ("--order", orders, 0, MAX_PAGE_ORDER, f"0 to {MAX_PAGE_ORDER}"),
        ("--batch", batches, 1, MOST_BATCH, f"1 to {MOST_BATCH}"),
    ):
        if not all(isinstance(one, int) and least <= one <= most for one in given):
            raise ConfigError(f"{option} {','.join(map(str, given))}: expected {what}")
