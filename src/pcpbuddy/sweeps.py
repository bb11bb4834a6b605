"""
One workload in virtual time, over policies, numbers of CPUs and seeds: what differs, and how sure that is.

Each figure is the mean over the seeds, with Student's t interval. Two policies are compared seed by seed: both get the
same load, so that the differences of pairs are what the interval is of.
"""

import concurrent.futures
import dataclasses
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .config import Policy, parse_policies
from .errors import ConfigError
from .machine import Machine, find_load
from .run import Run
from .statistics import LEVEL, Interval, difference, interval

if TYPE_CHECKING:
    from .workload.load import Load

__all__ = ["SCHEMA", "SEEDS", "Change", "Sweep", "sweep"]

SCHEMA = "pcpbuddy.sweep/1"
SEEDS = 5
CPUS = 16
METHOD = (
    "mean over seeds with its {level:.0%} interval (Student's t); a change is the mean of the paired differences, seed "
    "by seed, with the {level:.0%} interval of that mean; no difference found: the interval contains 0"
)
MOST_SEEDS = 1000

Progress = Callable[[str, int, int], None]
Point = tuple[str, int, int]  # name of the policy, CPUs, seed


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """
    One figure under two policies, over the seeds that both have run.

    difference: second - first, of pairs. base: mean under the first.
    """

    difference: Interval
    base: float

    @property
    def verdict(self) -> str:
        """
        "equal" (every pair is), "no difference found", "lower", "higher", or "one seed" where there is no interval.
        """
        if self.difference.mean == self.difference.low == self.difference.high == 0:
            return "equal"
        if self.difference.n < 2:
            return "one seed" if self.difference.n else "not run"
        if self.difference.holds_zero:
            return "no difference found"
        return "lower" if self.difference.mean < 0 else "higher"

    def relative(self) -> Interval | None:
        """
        The difference as a share of the base; None where the base is 0. The base is taken as exact.
        """
        if not self.base:
            return None
        mean, low, high, n = self.difference
        low, high = sorted((low / self.base, high / self.base))
        return Interval(mean / self.base, low, high, n)


@dataclasses.dataclass(frozen=True, slots=True, repr=False, eq=False)
class Sweep:
    """
    Runs of one workload, by policy, CPUs and seed; the first policy is what the others are compared with.

    partial: whether it was stopped before all were done; those that were are here.
    """

    workload: str
    policies: list[Policy]
    cpus: list[int]
    seeds: list[int]
    runs: Mapping[Point, Run]
    partial: bool = False
    level: float = LEVEL

    def __repr__(self) -> str:
        names = ", ".join(policy.name for policy in self.policies)
        kind = "partial Sweep" if self.partial else "Sweep"
        return f"<{kind} of {self.workload}: {names} on {self.cpus} CPUs, {len(self.runs)} runs>"

    def values(self, metric: str, policy: str, cpus: int) -> dict[int, float]:
        """
        The values by seed.
        """
        found = {seed: self.runs.get((policy, cpus, seed)) for seed in self.seeds}
        return {seed: run.metrics[metric] for seed, run in found.items() if run is not None}

    def interval(self, metric: str, policy: str, cpus: int) -> Interval:
        """
        The mean over seeds and its interval.
        """
        return interval(list(self.values(metric, policy, cpus).values()), self.level)

    def change(self, metric: str, policy: str, cpus: int, base: str | None = None) -> Change:
        """
        What a policy changes against another one (default: the first), by the seeds that both have run.
        """
        first = self.values(metric, self.policies[0].name if base is None else base, cpus)
        second = self.values(metric, policy, cpus)
        both = [seed for seed in first if seed in second]
        pairs = [first[seed] for seed in both], [second[seed] for seed in both]
        return Change(difference(*pairs, self.level), interval(pairs[0]).mean)

    def seedless(self) -> bool:
        """
        Whether every seed gave the same figures, under each policy.
        """
        first: dict[tuple[str, int], Run] = {}
        return all(
            run.metrics == first.setdefault((policy, cpus), run).metrics for (policy, cpus, _), run in self.runs.items()
        )

    def method(self) -> str:
        """
        How the figures were made, in words.
        """
        return METHOD.format(level=self.level)

    def manifest(self) -> dict[str, Any]:
        """
        What made the figures: what all runs have in common, and each policy.
        """
        first = next(iter(self.runs.values())).manifest
        own = ("command", "config", "seed", "partial", "zones", "policies")
        return {
            **{key: value for key, value in first.items() if key not in own},
            "config": {key: value for key, value in first["config"].items() if key not in ("cpus", "memory", "cma")},
            "method": self.method(),
            "partial": self.partial,
            "cpus": self.cpus,
            "seeds": self.seeds,
            "policies": {policy.name: policy.switches() for policy in self.policies},
        }

    def document(self) -> dict[str, Any]:
        """
        The comparison as one JSON document: a result for each policy and number of CPUs, without figures of zones.
        """
        return {"schema": SCHEMA, "manifest": self.manifest(), "results": list(self._results())}

    def _results(self) -> Iterator[dict[str, Any]]:
        for cpus in self.cpus:
            for policy in self.policies:
                runs = [self.runs[point] for seed in self.seeds if (point := (policy.name, cpus, seed)) in self.runs]
                if not runs:
                    continue
                names = [name for name in runs[0].metrics if not name.startswith("zones.")]
                yield {
                    "policy": policy.name,
                    "cpus": cpus,
                    "memory": runs[0].manifest["config"]["memory"],
                    "command": runs[0].manifest["command"],
                    "seeds": [run.manifest["seed"] for run in runs],
                    "digests": [run.digest for run in runs],
                    "metrics": {name: self._figure(name, policy.name, cpus) for name in names},
                }

    def _figure(self, metric: str, policy: str, cpus: int) -> dict[str, Any]:
        figure: dict[str, Any] = {
            **_bounds(self.interval(metric, policy, cpus)),
            "values": list(self.values(metric, policy, cpus).values()),
        }
        if policy != self.policies[0].name:
            change = self.change(metric, policy, cpus)
            figure["change"] = {**_bounds(change.difference), "verdict": change.verdict}
        return figure


def _bounds(of: Interval) -> dict[str, float | None]:
    """
    An interval for JSON, which knows no NaN.
    """
    known = of.n > 1
    return {"mean": of.mean if of.n else None, "low": of.low if known else None, "high": of.high if known else None}


def sweep(
    workload: "str | os.PathLike[str] | Load",
    policies: str | Policy | Iterable[str | Policy] = ("mainline", "fixed"),
    *,
    cpus: int | Iterable[int] | None = None,
    seeds: int | Iterable[int] | None = None,
    duration: str | float | None = None,
    sample: str | float | None = None,
    parameters: Mapping[str, Any] | None = None,
    level: float = LEVEL,
    workers: int | None = None,
    progress: Progress | None = None,
    **machine: Any,
) -> Sweep:
    """
    Run a workload once for each policy, number of CPUs and seed.

    cpus: how many, one number or several; None: as many as the workload is for, else 16.
    seeds: the seeds, or how many of them, from 0 on; None: 5, of a recording 1.
    parameters: of the workload. level: of the intervals.
    workers: threads that run at once (default: one for each real CPU). machine: further arguments of ``Machine``.
    progress: called as progress(words for a run, runs done, runs in all).

    Stopped by KeyboardInterrupt, it returns the runs that were done, marked partial.
    Raises ConfigError or RecordingError before anything runs.
    """
    chosen = parse_policies(policies)
    if cpus is None:
        probe = find_load(workload, CPUS, parameters=parameters)
        if probe.stream is not None:
            workload, parameters = probe, None  # read once
        cpus = probe.cpus
    sizes = _numbers("cpus", [cpus] if isinstance(cpus, int) else cpus)
    if not 0 < level < 1:
        raise ConfigError(f"level={level}: expected a number between 0 and 1, such as 0.95")
    loads = {nr: _load(workload, Machine(nr, **machine), parameters) for nr in sizes}
    if seeds is None:
        seeds = 1 if loads[sizes[0]].stream is not None else SEEDS
    drawn = _numbers("seeds", range(_nr_seeds(seeds)) if isinstance(seeds, int | str) else seeds)
    plan = [
        (Machine(nr, policy=policy, seed=seed, **machine), (policy.name, nr, seed))
        for nr in sizes
        for seed in drawn
        for policy in chosen
    ]
    options = {"duration": duration, "sample": sample}
    runs, partial = _carry_out(plan, loads, options, workers or os.cpu_count() or 1, progress)
    return Sweep(loads[sizes[0]].name, chosen, sizes, drawn, runs, partial, level)


def metric_names() -> list[str]:
    """
    All metrics that a run in virtual time has, but those of single zones and locks of the workload.
    """
    import numpy as np

    from .workload.load import Load
    from .workload.program import Program

    nothing = Load(
        name="nothing",
        meaning="a CPU that is done",
        source="",
        parameters={},
        programs=(Program("nothing").instructions(),),
        cpu_program=np.zeros(1, np.uint32),
        nr_queues=0,
    )
    run = Machine(1, "2MiB", tick=0).run(nothing)
    return [name for name in run.metrics if not name.startswith("zones.")]


def _nr_seeds(seeds: int | str) -> int:
    if isinstance(seeds, bool | str) or not 1 <= seeds <= MOST_SEEDS:
        raise ConfigError(f"seeds={seeds}: expected how many, 1 to {MOST_SEEDS}, or a list of seeds")
    return seeds


def _numbers(key: str, numbers: Iterable[int]) -> list[int]:
    given = list(numbers)
    if not given:
        raise ConfigError(f"{key}: expected one number or more, none given")
    for number in given:
        if given.count(number) > 1:
            raise ConfigError(f"{key}: {number} is given {given.count(number)} times; once is enough")
    return given


def _carry_out(
    plan: Sequence[tuple[Machine, Point]],
    loads: Mapping[int, "Load"],
    options: Mapping[str, Any],
    workers: int,
    progress: Progress | None,
) -> tuple[dict[Point, Run], bool]:
    """
    All runs, as many at once as there are workers. Returns those that came to their end, and whether some did not.

    The machine's loop holds no GIL, so threads are enough. Each asks between two slices whether to go on.
    """
    stop = threading.Event()

    def go_on(*_: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt

    def carry_out(machine: Machine) -> Run:
        go_on()
        return machine.run(loads[machine.cpus], progress=go_on, **options)

    runs: dict[Point, Run] = {}
    partial = False
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        try:
            futures = {pool.submit(carry_out, machine): point for machine, point in plan}
            for future in concurrent.futures.as_completed(futures):
                run = future.result()
                runs[futures[future]] = run
                if progress is not None:
                    progress(_words(futures[future]), len(runs), len(plan))
        except KeyboardInterrupt:
            partial = True
        finally:
            # Whatever ended the loop: what runs stops soon, what waits never starts.
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
    return {point: runs[point] for _, point in plan if point in runs and not runs[point].partial}, partial


def _load(workload: "str | os.PathLike[str] | Load", machine: Machine, parameters: Mapping[str, Any] | None) -> "Load":
    return find_load(workload, machine.cpus, machine.memory_bytes, machine.nodes, parameters)


def _words(point: Point) -> str:
    policy, cpus, seed = point
    return f"{policy}, {cpus} CPUs, seed {seed}"
