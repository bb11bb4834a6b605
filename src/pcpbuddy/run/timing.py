"""
Metrics of time: from what a machine in virtual time counted to the names of docs/reference/replay.md, section 3.

The machine counts in picoseconds, by zone and by kind of section; names end in _ns and say nanoseconds.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..metrics import HOLDS, Metrics
from . import overtime
from .histogram import Distribution

__all__ = ["CALLS", "CATEGORIES", "HISTOGRAMS", "LOCKS", "figures", "histograms", "kinds_of", "per_cpu", "rates"]

# Lock -> kinds of its sections, as the machine counts them; and groups of kinds that get a name of their own.
LOCKS: dict[str, tuple[str, ...]] = {
    "zone_lock": HOLDS,
    "pcp_lock": ("alloc", "free_local", "free_remote", "drain_local", "drain_remote"),
}
GROUPS: dict[str, dict[str, tuple[int, ...]]] = {
    "zone_lock": {},
    "pcp_lock": {"local": (0, 1, 3), "remote": (2, 4)},
}
CALLS = ("alloc", "free", "free_batch", "bulk", "tick", "drain", "other", "contig")
CATEGORIES = ("user", "allocator", "zone_wait", "pcp_wait", "user_wait", "sleep", "interrupt", "done")
HISTOGRAMS = (
    "zone_lock.wait_ns",
    "zone_lock.hold_ns",
    "pcp_lock.wait_ns",
    "pcp_lock.hold_ns",
    "call.ns",
    "user_lock.wait_ns",
    "user_lock.hold_ns",
)
HISTOGRAM = np.dtype([("what", "u1"), ("kind", "u1"), ("zone", "u2"), ("bin", "u2"), ("count", "i8")])

_PS_PER_S = 1e12


def figures(result: Mapping[str, Any], zones: Sequence[str]) -> Metrics:
    """
    All metrics that have to do with time.

    result: what the machine counted. zones: names of its zones, in the order in which it counted.
    """
    duration_ps = int(result["now_ps"]) - int(result["start_ps"])
    nr_cpus = len(result["work"])
    cpu_time_ns = duration_ps * nr_cpus / 1000
    work = int(np.sum(result["work"]))
    metrics: Metrics = {
        "time.measured_ns": duration_ps / 1000,
        "time.before_ns": int(result["start_ps"]) / 1000,
        "time.cpus": nr_cpus,
        "work": work,
        "work.per_s": _per_s(work, duration_ps),
        "call.failed": int(result["failed"]),
        "stall.count": int(result["stalls"]),
        "stall.ns.total": int(result["stall_ps"]) / 1000,
        "stall.ns.share": int(result["stall_ps"]) / 1000 / cpu_time_ns if cpu_time_ns else 0.0,
        "machine.events": int(result["events"]),
        "machine.calls": int(result["calls"]),
    }
    metrics |= _cpu(result["cpu_ps"], duration_ps)
    for number, kind in enumerate(CALLS):
        arrays = (result[f"call_{key}"][number] for key in ("count", "ps", "max_ps", "hist"))
        spread = Distribution(*arrays)
        metrics[f"call.{kind}.count"] = spread.count
        metrics |= spread.metrics(f"call.{kind}.ns", cpu_time_ns)
    for number in range(len(result["user_lock"]["count"])):
        metrics |= _lock(f"user_lock.{number}", result["user_lock"], np.s_[number : number + 1], {}, cpu_time_ns)
    metrics |= _of_zones(result, range(len(zones)), duration_ps, cpu_time_ns)
    for number, name in enumerate(zones):
        of_zone = _of_zones(result, [number], duration_ps, cpu_time_ns)
        metrics |= {f"zones.{name}.{key}": value for key, value in of_zone.items()}
    return metrics


def rates(metrics: Metrics) -> Metrics:
    """
    Counts of the allocator as rates of virtual time.
    """
    duration_ps = metrics["time.measured_ns"] * 1000
    rates = {"allocs": "allocs.per_s", "pages.allocated": "pages.allocated_per_s", "pages.freed": "pages.freed_per_s"}
    return {rate: _per_s(metrics[count], duration_ps) for count, rate in rates.items()}


def per_cpu(result: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """
    The same for each CPU: one array a metric, an element a CPU.
    """
    duration_ps = max(int(result["now_ps"]) - int(result["start_ps"]), 1)
    times = np.asarray(result["cpu_ps"], np.int64)
    columns = {f"cpu.{name}": times[:, number] / duration_ps for number, name in enumerate(CATEGORIES)}
    return {"work": np.asarray(result["work"], np.int64), **columns}


def histograms(result: Mapping[str, Any]) -> np.ndarray:
    """
    All histograms in one array of HISTOGRAM records, one for each bin that is not empty.

    what: of HISTOGRAMS. zone: number of the zone, or of the user lock. kind: of section or call.
    """
    found: dict[str, np.ndarray] = {"call.ns": np.asarray(result["call_hist"], np.int64)[np.newaxis]}
    for lock in (*LOCKS, "user_lock"):
        counted = _by_kind(result[lock])
        for time in ("wait", "hold"):
            found[f"{lock}.{time}_ns"] = counted[f"{time}_hist"]
    parts = []
    for what, name in enumerate(HISTOGRAMS):
        zone, kind, index = np.nonzero(found[name])
        part = np.zeros(len(zone), HISTOGRAM)
        part["what"], part["zone"], part["kind"], part["bin"] = what, zone, kind, index
        part["count"] = found[name][zone, kind, index]
        parts.append(part)
    return np.concatenate(parts)


def _of_zones(result: Mapping[str, Any], zones: Iterable[int], duration_ps: int, cpu_time_ns: float) -> Metrics:
    """
    Metrics of time that a set of zones has.
    """
    chosen = list(zones)
    metrics: Metrics = {}
    for lock, kinds in LOCKS.items():
        groups = {**GROUPS[lock], **{kind: (number,) for number, kind in enumerate(kinds)}}
        metrics |= _lock(lock, result[lock], chosen, groups, cpu_time_ns)
    holds = np.asarray(result["zone_lock"]["hold_ps"])[chosen].sum(axis=1)
    metrics["zone_lock.utilisation"] = int(holds.max(initial=0)) / duration_ps if duration_ps else 0.0
    tries = np.asarray(result["pcp_lock"]["failed"])[chosen].sum(axis=0)
    metrics["pcp_lock.try_failed"] = int(tries.sum())
    for name, numbers in GROUPS["pcp_lock"].items():
        metrics[f"pcp_lock.try_failed.{name}"] = int(tries[list(numbers)].sum())
    return metrics | overtime.figures(result["samples"], chosen)


def _lock(
    name: str, counted: Mapping[str, Any], chosen: Any, groups: Mapping[str, tuple[int, ...]], cpu_time_ns: float
) -> Metrics:
    """
    One lock, or one in each of some zones: holds, waits, and how long; below them the same of each group of kinds.
    """
    arrays = {key: array[chosen] for key, array in _by_kind(counted).items()}
    everything = tuple(range(arrays["count"].shape[1]))
    metrics: Metrics = {}
    for group, kinds in (("", everything), *((f".{group}", kinds) for group, kinds in groups.items())):
        part = {key: array[:, list(kinds)] for key, array in arrays.items()}
        metrics[f"{name}.holds{group}"] = int(part["count"].sum())
        metrics[f"{name}.waits{group}"] = int(part["waited"].sum())
        for time in ("wait", "hold"):
            keys = (f"{time}_ps", f"{time}_max_ps", f"{time}_hist")
            spread = Distribution(part["count"], *(part[key] for key in keys))
            metrics |= spread.metrics(f"{name}.{time}_ns{group}", cpu_time_ns)
    return metrics


def _by_kind(counted: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """
    The arrays of a lock as [zone][kind], histograms as [zone][kind][bin].
    """
    return {key: np.asarray(array, np.int64) for key, array in counted.items()}


def _cpu(times_ps: Any, duration_ps: int) -> Metrics:
    """
    What the CPUs did, as shares of all CPU time.
    """
    times = np.asarray(times_ps, np.int64)
    cpu_time = duration_ps * len(times)
    shares = {
        f"cpu.{name}": int(times[:, number].sum()) / cpu_time if cpu_time else 0.0
        for number, name in enumerate(CATEGORIES)
    }
    return {"cpu.utilisation": 1 - shares["cpu.sleep"] - shares["cpu.done"] if cpu_time else 0.0, **shares}


def _per_s(count: float, duration_ps: float) -> float:
    return count * _PS_PER_S / duration_ps if duration_ps else 0.0


def kinds_of(what: str) -> tuple[str, ...]:
    """
    Names of the kinds that a histogram is split by.
    """
    if what.startswith("call."):
        return CALLS
    return LOCKS.get(what.split(".")[0], ("all",))
