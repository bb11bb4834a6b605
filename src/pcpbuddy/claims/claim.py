"""
What a claim is, what its measurement gives back, and the means of measuring that all claims share.
"""

import dataclasses
import math
import os
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..comparison import Comparison, compare
from ..config import parse_policies
from ..errors import ConfigError
from ..statistics import Interval
from ..sweeps import Point, Sweep, sweep
from ..workload.load import Load

__all__ = [
    "NOT_DECIDABLE",
    "QUICK_SEEDS",
    "REFUTED",
    "SEEDS",
    "SUPPORTED",
    "Claim",
    "Finding",
    "Settings",
    "any_of",
    "decided",
    "recordings_here",
    "verdict",
]

SUPPORTED, REFUTED, NOT_DECIDABLE = "supported", "refuted", "not decidable"
SEEDS, QUICK_SEEDS = 3, 3
RECORDINGS = ("tiny-4c", "affinity-cut-4c", "exits-cut-4c", "mixed-cut-4c", "cma-cut-4c")

Progress = Callable[[str, int, int], None]
T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """
    What measuring a claim has shown.

    claim: "K-1". verdict: "supported", "refuted" or "not decidable". figure: one sentence, with the figures and what
    they were measured on. value, interval: the figure that decides, and its 95 % interval (None: there is none, as for
    exact counts). command: what measures it again; also: further commands that show the same figures by themselves.
    why: limits, and what would decide what is not decided. table: rows to be shown below, a dict of texts each.
    """

    claim: str
    verdict: str
    figure: str
    command: str
    value: float | None = None
    interval: tuple[float, float] | None = None
    also: tuple[str, ...] = ()
    why: str = ""
    table: tuple[dict[str, str], ...] = ()

    def __post_init__(self) -> None:
        if self.verdict not in (SUPPORTED, REFUTED, NOT_DECIDABLE):
            raise ValueError(f"{self.claim}: no verdict {self.verdict!r}")

    def row(self) -> dict[str, Any]:
        """
        The row of the JSON document. What is not a number there is null.
        """
        bounds = None if self.interval is None else [bound if math.isfinite(bound) else None for bound in self.interval]
        value = self.value if self.value is not None and math.isfinite(self.value) else None
        return {**dataclasses.asdict(self), "value": value, "interval": bounds}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """
    One claim of the discussion of the proposal (docs/reference/rfc.md, section 19).

    name: "K-1". text: the claim in a sentence. source: who said it, by the tags of rfc.md. measurement: how it is
    measured here. rule: when it counts as supported, fixed before anything was measured. measure: does it.
    changed: what of the measurement or the rule was changed after figures of it had been seen.
    """

    name: str
    text: str
    source: str
    measurement: str
    rule: str
    measure: "Callable[[Settings], Finding]"
    changed: str = ""

    def command(self, settings: "Settings") -> str:
        """
        The command that measures this claim again.
        """
        return settings.command(self.name)


@dataclasses.dataclass(slots=True)
class Settings:
    """
    How claims are measured, and the runs that were made so far: a run that several claims need is made once.

    seeds: runs of each point, for the intervals. costs: the cost model. quick: fewer CPUs and shorter runs. recordings:
    the directory of the project's recordings; None: there are none. progress: called as progress(words, done, in all)
    with the runs of one sweep. workers: threads (default: one for each real CPU).
    """

    seeds: int = SEEDS
    costs: str = "default"
    quick: bool = False
    recordings: Path | None = None
    progress: Progress | None = None
    workers: int | None = None
    _runs: dict[tuple[str, Point], Any] = dataclasses.field(default_factory=dict, repr=False)
    _comparisons: dict[tuple[str, tuple[str, ...]], Comparison] = dataclasses.field(default_factory=dict, repr=False)

    def pick(self, full: T, quick: T) -> T:
        """
        One of two sizes of a measurement.
        """
        return quick if self.quick else full

    def command(self, *claims: str) -> str:
        """
        The command that measures claims again with these settings.
        """
        words = ["pcpbuddy", "claims", *claims]
        if self.seeds != (QUICK_SEEDS if self.quick else SEEDS):
            words += ["--seeds", str(self.seeds)]
        if self.costs != "default":
            words += ["--costs", self.costs]
        return shlex.join([*words, "--quick"] if self.quick else words)

    def sweep(
        self,
        workload: str | Load,
        policies: Iterable[str],
        cpus: int | Iterable[int],
        *,
        seeds: int | None = None,
        parameters: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Sweep:
        """
        Runs of a workload by policy, CPUs and seed, in parallel; those that were made before are not made again.

        seeds: other than those of the settings. parameters: of the workload. options: those of ``sweeps.sweep``, such
        as duration, memory, nodes, tick.
        Raises KeyboardInterrupt when it was stopped: a part of a sweep decides nothing.
        """
        chosen, sizes = parse_policies(policies), [cpus] if isinstance(cpus, int) else list(cpus)
        drawn = list(range(self.seeds if seeds is None else seeds))
        what = workload if isinstance(workload, str) else f"{workload.name} {workload.digest()}"
        key = repr((what, sorted((parameters or {}).items()), sorted(options.items())))
        options = {"costs": self.costs, "workers": self.workers, **options}
        # Sizes of which the same policies are missing are made together: no thread waits at the end of each.
        missing: dict[tuple[str, ...], list[int]] = {}
        for size in sizes:
            known = (all((key, (each.name, size, seed)) in self._runs for seed in drawn) for each in chosen)
            names = tuple(each.name for each, is_known in zip(chosen, known, strict=True) if not is_known)
            missing.setdefault(names, []).append(size)
        for names, of_sizes in missing.items():
            if not names:
                continue
            asked = [each for each in chosen if each.name in names]
            made = sweep(
                workload, asked, cpus=of_sizes, seeds=drawn, parameters=parameters, progress=self.progress, **options
            )
            if made.partial:
                raise KeyboardInterrupt
            self._runs |= {(key, point): run for point, run in made.runs.items()}
        points = [(each.name, size, seed) for size in sizes for seed in drawn for each in chosen]
        name = workload if isinstance(workload, str) else workload.name
        return Sweep(name, chosen, sizes, drawn, {point: self._runs[key, point] for point in points})

    def compare(self, source: str, policies: Sequence[str]) -> Comparison:
        """
        A shape vector or a recording, replayed request by request without time (handle mode). Made once.
        """
        key = source, tuple(policies)
        if key not in self._comparisons:
            self._comparisons[key] = compare(source, list(policies))
        return self._comparisons[key]

    def recorded(self) -> list[str]:
        """
        Paths of the project's recordings that are there.
        """
        if self.recordings is None:
            return []
        return [str(self.recordings / name) for name in RECORDINGS if (self.recordings / f"{name}.parquet").exists()]

    def compare_command(
        self,
        workload: str,
        policies: Iterable[str],
        cpus: int | Iterable[int],
        metrics: Iterable[str] = (),
        parameters: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> str:
        """
        The `pcpbuddy compare` that shows the figures of a sweep.
        """
        sizes = [cpus] if isinstance(cpus, int) else list(cpus)
        words = ["pcpbuddy", "compare", workload, "--policy", ",".join(policies), "--cpus", ",".join(map(str, sizes))]
        words += ["--seeds", str(self.seeds)]
        if self.costs != "default":
            words += ["--costs", self.costs]
        for name, value in options.items():
            words += [f"--{name}", str(value)]
        for name, value in (parameters or {}).items():
            words += ["--set", f"{name}={value}"]
        shown = ",".join(metrics)
        return shlex.join([*words, "--metric", shown] if shown else words)


def verdict(of: Interval, *, above: float | None = None, below: float | None = None) -> str:
    """
    Whether an interval lies wholly above (or below) a mark; not decidable if it holds the mark.

    Of one value, or of equal ones, the interval is that value.
    """
    low, high = (of.mean, of.mean) if of.n < 2 else (of.low, of.high)
    if above is None and below is None:
        raise ConfigError("verdict: above or below what?")
    if math.isnan(low):
        return NOT_DECIDABLE
    if above is not None:
        return SUPPORTED if low > above else REFUTED if high <= above else NOT_DECIDABLE
    assert below is not None
    return SUPPORTED if high < below else REFUTED if low >= below else NOT_DECIDABLE


def decided(holds: bool) -> str:
    """
    The verdict where something is exact.
    """
    return SUPPORTED if holds else REFUTED


def any_of(verdicts: Iterable[str]) -> str:
    """
    Supported if one is, refuted if all are.
    """
    given = set(verdicts)
    return SUPPORTED if SUPPORTED in given else NOT_DECIDABLE if NOT_DECIDABLE in given else REFUTED


def recordings_here() -> Path | None:
    """
    The directory ``recordings`` of the project, if the program runs in a checkout of it.
    """
    return Path("recordings") if os.path.isdir("recordings") else None
