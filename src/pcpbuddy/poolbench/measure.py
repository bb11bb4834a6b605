"""
Rounds of all allocators in turn, and what comes of them.
"""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import ConfigError, PcpBuddyError
from ..names import MAX_PAGE_ORDER, PAGE_SIZE
from .peers import Peer

__all__ = ["LOADS", "Plan", "Point", "Result", "measure"]

LOADS = ("bulk", "rand", "repeat", "lifo", "churn", "xfree", "xchg", "xcpu")
PAIRS = 1_000_000  # of the loads that do not take all memory
BATCH = 64
TWO_THREADS = ("xfree", "xchg")
ONE_THREAD = ("xcpu",)


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    """
    One load with its number of threads and its order.
    """

    load: str
    threads: int
    order: int

    def __str__(self) -> str:
        order = f" order {self.order}" if self.order else ""
        return f"{self.load}{order}, {self.threads} thread{'s' * (self.threads > 1)}"


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
    batch: int = BATCH
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
        **more: int,
    ) -> "Plan":
        """
        All combinations that make sense: two threads for xfree and xchg, one for xcpu, whatever else is asked for.
        """
        for load in loads:
            if load not in LOADS:
                raise ConfigError(f"--workload {load}: expected some of {', '.join(LOADS)}")
        cpus = len(os.sched_getaffinity(0))
        if not all(isinstance(one, int) and 1 <= one <= cpus for one in threads):
            raise ConfigError(
                f"--threads {','.join(map(str, threads))}: expected 1 to {cpus}, the CPUs that may be used"
            )
        if not all(isinstance(one, int) and 0 <= one <= MAX_PAGE_ORDER for one in orders):
            raise ConfigError(f"--order {','.join(map(str, orders))}: expected 0 to {MAX_PAGE_ORDER}")
        names = [peer.name for peer in peers]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ConfigError(f"{twice} is there twice; once is enough")
        points = []
        for load in loads:
            for order in orders:
                wanted = [2] if load in TWO_THREADS else [1] if load in ONE_THREAD else list(threads)
                points += [Point(load, number, order) for number in wanted if number <= cpus]
        frames = memory // PAGE_SIZE
        largest = max(orders, default=0)
        if frames >> largest < 1024:
            raise ConfigError(
                f"{memory} bytes are {frames >> largest} chunks of order {largest}: expected 1024 or more"
            )
        if not points:
            raise ConfigError("nothing to measure: xfree and xchg need two CPUs")
        return cls(tuple(points), tuple(peers), frames, **more)

    def n(self, point: Point) -> int:
        """
        Pages of a thread: half of what there is.
        """
        return (self.frames >> point.order) // point.threads // 2


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """
    ns a pair of one allocator at one point: every round but the first. predicted: what the laboratory says; 0: nothing.
    """

    point: Point
    peer: Peer
    rounds: tuple[float, ...]
    meta_bytes_per_page: float
    predicted: float = 0.0

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    def row(self) -> dict[str, Any]:
        """
        As in the JSON document.
        """
        return {
            "workload": self.point.load,
            "threads": self.point.threads,
            "order": self.point.order,
            "allocator": self.peer.name,
            "ns_pair": round(self.median, 2),
            "ns_min": round(min(self.rounds), 2),
            "ns_max": round(max(self.rounds), 2),
            "rounds": len(self.rounds),
            "meta_bytes_per_page": round(self.meta_bytes_per_page, 2),
            "predicted_ns_pair": round(self.predicted, 2) if self.predicted else None,
        }


class Worker:
    """
    One allocator in a process of its own, so that none lives in the other's memory.
    """

    def __init__(self, peer: Peer, frames: int) -> None:
        self.peer = peer
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pcpbuddy.poolbench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | peer.environment,
        )
        cpus = len(os.sched_getaffinity(0))
        # Twice, since whoever keeps lists for each CPU may have pages in them that another CPU looks for.
        answer = self.ask({"peer": dataclasses.asdict(peer), "frames": frames, "cpus": max(cpus, 2)})
        self.meta_bytes_per_page = answer["meta_bytes"] / frames

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """
        The worker's answer. Raises PcpBuddyError with what it says, or if it died.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(question) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise PcpBuddyError(f"{self.peer.name} ended with exit code {self.process.wait()} in the middle of a round")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise PcpBuddyError(f"{self.peer.name}: {answer['error']}")
        return answer

    def close(self) -> None:
        """
        The process ends with its input.
        """
        self.process.communicate()


def measure(plan: Plan, progress: Callable[[str, int, int], None] | None = None) -> list[Result]:
    """
    Point by point, round by round, every allocator once in each round.
    """
    workers: list[Worker] = []
    results = []
    try:
        for peer in plan.peers:
            workers.append(Worker(peer, plan.frames))
        for number, point in enumerate(plan.points):
            took: dict[str, list[float]] = {peer.name: [] for peer in plan.peers}
            question = {
                "load": point.load,
                "threads": point.threads,
                "order": point.order,
                "n": plan.n(point),
                "batch": min(plan.batch, plan.n(point)),
                "pairs": max(plan.pairs >> point.order, 1 << 14),
            }
            for _ in range(plan.rounds + 1):
                for worker in workers:
                    took[worker.peer.name].append(worker.ask(question)["ns"])
            results += [
                Result(point, worker.peer, tuple(took[worker.peer.name][1:]), worker.meta_bytes_per_page)
                for worker in workers
            ]
            if progress is not None:
                progress("bench pool", number + 1, len(plan.points))
    finally:
        for worker in workers:
            worker.close()
    return results
