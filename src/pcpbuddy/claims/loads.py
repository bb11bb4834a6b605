"""
What the claims about locks are measured on: loads that press the zone lock, the same for all, and figures of runs.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ..config import PROFILES
from ..metrics import Metrics
from ..quantities import count_text, ns_text, share_text
from ..statistics import Interval, difference, interval
from ..sweeps import Sweep
from .claim import Settings

__all__ = [
    "CURVES",
    "PRESSING",
    "Pressing",
    "changes",
    "curve_sizes",
    "drain_pages",
    "outright",
    "per_1000",
    "press",
    "press_command",
    "refilled_pages",
    "text",
    "values",
]

MIB = 1 << 20
CURVES = ("mainline", "posted", "fixed", "llist", "handover", "tuned")  # those of them that are there
QUICK_CURVES = tuple(name for name in CURVES if name != "handover")
MIDDLE = 32  # CPUs at which most claims are measured


class Pressing(NamedTuple):
    """
    A load that presses the zone lock.

    Memory is so much for each CPU: mib_per_cpu. What a PCP may hold at most is then an eighth of that (B-13).
    """

    workload: str
    mib_per_cpu: int
    duration: str | None
    parameters: Mapping[str, int]


# The cover letter's two cases, and the benchmark by which the zone lock is usually judged. A process of exit/storm has
# twice as many pages as a PCP may hold: 256 MiB where there is 1 GiB for each CPU, and an eighth of both here, so that
# 512 CPUs can be simulated in seconds. That understates: at 32 CPUs mainline waits for 63 % of CPU time with 256 MiB,
# 51 % with 64 MiB, 49 % with 32. The others are as they are by default; wis/page_fault1 would change too much.
PRESSING = (
    Pressing("purge/jemalloc", 1024, "20ms", {}),
    Pressing("exit/storm", 128, None, {"touch_mib": 32, "rounds": 1}),
    Pressing("wis/page_fault1", 1024, None, {}),
)


def curve_sizes(settings: Settings) -> tuple[int, ...]:
    """
    The numbers of CPUs of the curves.
    """
    return settings.pick((1, 8, 32, 128, 512), (1, 8, 32))


def curve_policies(settings: Settings) -> list[str]:
    """
    The policies of the curves.
    """
    return [name for name in settings.pick(CURVES, QUICK_CURVES) if name in PROFILES]


def press(
    settings: Settings, load: Pressing, policies: Iterable[str], cpus: int = MIDDLE, *, seeds: int | None = None
) -> Sweep:
    """
    Runs of one of the loads on so many CPUs.
    """
    options: dict[str, Any] = {"duration": load.duration} if load.duration else {}
    return settings.sweep(
        load.workload,
        policies,
        cpus,
        seeds=seeds,
        parameters=load.parameters,
        memory=load.mib_per_cpu * cpus * MIB,
        **options,
    )


def press_command(
    settings: Settings, load: Pressing, policies: Iterable[str], metrics: Iterable[str], cpus: int = MIDDLE
) -> str:
    """
    The command that shows the figures of ``press``.
    """
    options: dict[str, Any] = {"duration": load.duration} if load.duration else {}
    memory = f"{load.mib_per_cpu * cpus}MiB"
    return settings.compare_command(load.workload, policies, cpus, metrics, load.parameters, memory=memory, **options)


# Figures of a run


def per_1000(count: float, of: float) -> float:
    """
    So many of 1000.
    """
    return 1000 * count / of if of else 0.0


def refilled_pages(m: Metrics) -> float:
    """
    Pages that refills took from the zone.
    """
    return sum(m[f"refill.phase{phase}_pages"] for phase in range(4))


def drain_pages(m: Metrics) -> float:
    """
    Pages of a drained entry, in the mean; 0 where nothing was drained.
    """
    return m["drain.pages"] / m["drain.entries"] if m["drain.entries"] else 0.0


# Figures of a sweep


def values(sweep: Sweep, policy: str, of: str | Callable[[Metrics], float], cpus: int | None = None) -> list[float]:
    """
    A figure by seed: a metric, or what a function makes of all metrics.
    """
    size = sweep.cpus[0] if cpus is None else cpus
    runs = [sweep.runs[policy, size, seed] for seed in sweep.seeds]
    return [float(run.metrics[of] if isinstance(of, str) else of(run.metrics)) for run in runs]


def changes(
    sweep: Sweep, base: str, policy: str, of: str | Callable[[Metrics], float], cpus: int | None = None
) -> Interval:
    """
    What the policy changes in a figure against the base, seed by seed.
    """
    return difference(values(sweep, base, of, cpus), values(sweep, policy, of, cpus))


def outright(of: Interval) -> tuple[float, float]:
    """
    The bounds of an interval; of a single value, that value.
    """
    return (of.mean, of.mean) if of.n < 2 else (of.low, of.high)


def text(of: Interval | Sequence[float], kind: str = "count") -> str:
    """
    "4.8% [4.6%, 5.0%]": the mean and its interval. kind: share, ns or count.
    """
    which = of if isinstance(of, Interval) else interval(of)
    write = {"share": share_text, "ns": ns_text, "count": count_text}[kind]
    if which.n < 2:
        return write(which.mean)
    mean, low, high = (write(value) for value in which[:3])
    return mean if mean == low == high else f"{mean} [{low}, {high}]"
