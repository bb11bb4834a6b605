"""
Rounds of all allocators in turn, and what comes of them.
"""

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import PcpBuddyError
from .peers import Peer
from .plan import IN_BATCHES, Plan, Point
from .process import Worker

__all__ = ["FAULTS", "LEAST_SHARE", "Measured", "Result", "Round", "best_peers", "measure", "rows"]

FAULTS = 0.01  # a pair: with more, a round measured the system's memory
LEAST_SHARE = 0.9  # of a CPU, for each of several threads: with less, wall time is others' too
MORE_WARM = 2  # rounds after the first that may be dropped too


@dataclasses.dataclass(frozen=True, slots=True)
class Round:
    """
    ns: of a pair. faults: page faults a pair in what was timed. cpu_share: CPU time over wall time of the thread that
    had the least.
    """

    ns: float
    faults: float = 0.0
    cpu_share: float = 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """
    One allocator at one point: every round but the first ones. error: why there are none.

    predicted: ns a pair that the laboratory says; 0: nothing.
    """

    point: Point
    peer: Peer
    rounds: tuple[Round, ...]
    meta_bytes_per_page: float = 0.0
    predicted: float = 0.0
    error: str = ""

    @property
    def ns(self) -> tuple[float, ...]:
        """
        Of every round.
        """
        return tuple(one.ns for one in self.rounds)

    @property
    def median(self) -> float:
        return statistics.median(self.ns)

    @property
    def faults(self) -> float:
        """
        Page faults a pair, the mean of the rounds.
        """
        return statistics.fmean(one.faults for one in self.rounds)

    @property
    def cpu_share(self) -> float:
        """
        Of the round that had the least.
        """
        return min(one.cpu_share for one in self.rounds)

    def row(self) -> dict[str, Any]:
        """
        As in the JSON document, without what depends on the others.
        """
        done = bool(self.rounds)
        return {
            "workload": self.point.load,
            "threads": self.point.threads,
            "order": self.point.order,
            "batch": self.point.batch if self.point.load in IN_BATCHES else None,
            "allocator": self.peer.name,
            "ns_pair": round(self.median, 2) if done else None,
            "ns_min": round(min(self.ns), 2) if done else None,
            "ns_max": round(max(self.ns), 2) if done else None,
            "rounds": len(self.rounds),
            "faults_per_pair": round(self.faults, 4) if done else None,
            "cpu_share": round(self.cpu_share, 3) if done else None,
            "meta_bytes_per_page": round(self.meta_bytes_per_page, 2) if done else None,
            "predicted_ns_pair": round(self.predicted, 2) if self.predicted else None,
            "predicted_ratio": round(self.median / self.predicted, 3) if self.predicted and done else None,
            "error": self.error or None,
        }


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """
    All results, point by point. points: how many are whole. partial: it was stopped; a point that it was stopped in is
    there if every allocator had a round.
    """

    results: tuple[Result, ...]
    points: int
    partial: bool = False

    @property
    def failed(self) -> bool:
        """
        Whether some allocator failed at some point.
        """
        return any(one.error for one in self.results)


def best_peers(results: Sequence[Result]) -> dict[Point, Result]:
    """
    At each point the fastest that is neither ours nor the empty harness, where there is one.
    """
    best: dict[Point, Result] = {}
    for one in results:
        if one.rounds and one.peer.kind in ("malloc", "object"):
            best[one.point] = min(best.get(one.point, one), one, key=lambda each: each.median)
    return best


def rows(results: Sequence[Result]) -> list[dict[str, Any]]:
    """
    The results of the JSON document; of our own also the ratio to the best peer, of medians.
    """
    best = best_peers(results)
    made = []
    for one in results:
        peer = best.get(one.point) if one.peer.kind == "our" and one.rounds else None
        ratio = {"best_peer": peer and peer.peer.name, "ratio_to_best_peer": peer and one.median / peer.median}
        made.append({**one.row(), **{k: round(v, 3) if isinstance(v, float) else v for k, v in ratio.items()}})
    return made


def measure(plan: Plan, progress: Callable[[str, int, int], None] | None = None) -> Measured:
    """
    Point by point, round by round, every allocator once in each round, in a process that is new at each point.

    What fails at a point is left out of its further rounds. Stopped by KeyboardInterrupt, it returns what was measured
    until then, marked partial.
    """
    results: list[Result] = []
    done = 0
    try:
        for point in plan.points:
            _at(plan, point, results)
            done += 1
            if progress is not None:
                progress("bench pool", done, len(plan.points))
    except KeyboardInterrupt:
        return Measured(tuple(results), done, partial=True)
    return Measured(tuple(results), done)


def _at(plan: Plan, point: Point, results: list[Result]) -> None:
    took: dict[Peer, list[Round]] = {peer: [] for peer in plan.peers}
    errors: dict[Peer, str] = {}
    workers: dict[Peer, Worker] = {}
    try:
        for peer in plan.peers:
            workers[peer] = Worker(peer, plan.frames)
        question = plan.question(point)
        first = _warm_up(workers, question, errors)
        for number in range(plan.rounds):
            for peer, one in (_round(workers, question, errors) if number else first).items():
                took[peer].append(one)
    finally:
        for worker in workers.values():
            worker.close()
        if plan.peers and all(took[peer] or peer in errors for peer in plan.peers):
            results += [_result(point, peer, took[peer], workers[peer], errors.get(peer, "")) for peer in plan.peers]


def _warm_up(workers: dict[Peer, Worker], question: dict[str, Any], errors: dict[Peer, str]) -> dict[Peer, Round]:
    """
    The first round is dropped; one or two more too, for all, while an allocator still meets memory that it has not
    touched. Returns the first that counts.
    """
    _round(workers, question, errors)
    for _ in range(MORE_WARM):
        took = _round(workers, question, errors)
        if all(one.faults <= FAULTS for one in took.values()):
            return took
    return _round(workers, question, errors)


def _round(workers: dict[Peer, Worker], question: dict[str, Any], errors: dict[Peer, str]) -> dict[Peer, Round]:
    """
    Of all that have not failed; who fails now is closed.
    """
    took = {}
    for peer, worker in workers.items():
        if peer not in errors:
            try:
                took[peer] = Round(**worker.round(question))
            except PcpBuddyError as error:
                errors[peer] = str(error)
                worker.close()
    return took


def _result(point: Point, peer: Peer, took: list[Round], worker: Worker, error: str) -> Result:
    if error:
        return Result(point, peer, (), error=error)
    return Result(point, peer, tuple(took), worker.meta_bytes_per_page)
