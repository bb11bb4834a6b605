"""
One load under several policies, side by side: the main job.

Without time it is always handle mode (docs/reference/replay.md, section 2), for ``mainline`` too, so that every policy
sees the same requests. In virtual time it is a machine for each policy, number of CPUs and seed (sweeps.py).
"""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterable
from typing import Any, overload

import numpy as np

from . import _core, metrics, recording
from .config import Policy, parse_policies
from .errors import ConfigError
from .manifest import manifest
from .sweeps import Sweep, sweep
from .workload import is_workload_name, workload

__all__ = ["DEFAULT_POLICIES", "SCHEMA", "Comparison", "PolicyRun", "compare", "in_virtual_time"]

SCHEMA = "pcpbuddy.compare/1"
DEFAULT_POLICIES = ("mainline", "fixed")
STARTS = {
    "snapshot": "",
    "proc": "; start state ASSUMED from /proc texts",
    "inferred": "; start state INFERRED from the trace alone",
}
SLICE = 1 << 16  # requests between two calls of progress

Progress = Callable[[str, int, int], None]
Source = str | os.PathLike[str]
Policies = str | Policy | Iterable[str | Policy]


@dataclasses.dataclass(frozen=True, slots=True)
class PolicyRun:
    """
    One policy's share: its metrics, what its replay had to skip, and how long the loop took.
    """

    policy: Policy
    metrics: dict[str, metrics.Number]
    skipped: dict[str, int]
    elapsed_ns: int


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """
    The runs of one load, the first being what the others are measured against.

    load: what was replayed, in words. left_out: what of the source became no request, or not as recorded (law L8).
    notes: what else belongs beside the figures: a start state that was made up, events that the trace lost.
    """

    source: str
    load: str
    nr_requests: int
    left_out: dict[str, int]
    manifest: dict[str, Any]
    runs: list[PolicyRun]
    notes: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """
        The comparison as one JSON document: the same source and policies give the same bytes.
        """
        return {
            "schema": SCHEMA,
            "manifest": self.manifest,
            "results": [
                {"policy": run.policy.name, "metrics": run.metrics, "skipped": run.skipped} for run in self.runs
            ],
        }


@dataclasses.dataclass(frozen=True, slots=True)
class _Load:
    """
    A SOURCE, opened.
    """

    name: str
    words: str
    requests: np.ndarray
    nr_handles: int
    left_out: dict[str, int]
    digest: str
    node: Callable[[Policy], Any]
    start: str = "snapshot"
    notes: tuple[str, ...] = ()


@overload
def compare(
    source: Source,
    policies: Policies = DEFAULT_POLICIES,
    *,
    progress: Progress | None = None,
    proc: Source | None = None,
) -> Comparison: ...
@overload
def compare(
    source: Source,
    policies: Policies = DEFAULT_POLICIES,
    *,
    progress: Progress | None = None,
    proc: Source | None = None,
    cpus: int | Iterable[int] | None,
    **options: Any,
) -> Sweep: ...
def compare(
    source: Source,
    policies: Policies = DEFAULT_POLICIES,
    *,
    progress: Progress | None = None,
    proc: Source | None = None,
    cpus: int | Iterable[int] | bool | None = False,
    **options: Any,
) -> Comparison | Sweep:
    """
    Run a recording or workload under several policies.

    source: NAME or NAME.parquet of a recording, a trace of any form that ``pcpbuddy import`` reads, or a workload name
        such as ``shape/S1`` or ``exit/storm``.
    policies: text as ``policy()`` takes it, comma-separated ("mainline,fixed+gate=never,mine.toml"), or a list of
        such texts and Policy values; the first is the one to compare with.
    progress: called as progress(what runs, done, in all): requests of a policy, or runs in virtual time.
    proc: a folder with /proc texts of the machine of a trace (recording.load).
    cpus: how many virtual CPUs, one number or several; None: those of the recording, else 16. Given, all runs are in
        virtual time, and further options are those of ``sweeps.sweep``: seeds=5, memory="64GiB", costs="laptop" ..
        Not given, the requests are replayed without time; a workload of virtual CPUs always has time.
    Raises ConfigError, RecordingError or UsageError before anything runs.
    """
    if proc is not None and (is_workload_name(os.fspath(source)) or in_virtual_time(source)):
        raise ConfigError(f"proc: {source} is a workload and brings its own zones; leave it out")
    if cpus is not False or in_virtual_time(source):
        if proc is not None:
            options["parameters"] = {**(options.get("parameters") or {}), "proc": os.fspath(proc)}
        return sweep(source, policies, cpus=None if cpus is False else cpus, progress=progress, **options)
    if options:
        raise ConfigError(f"{next(iter(options))}: only runs in virtual time have it; give cpus too")
    chosen = parse_policies(policies)
    load = _open(os.fspath(source), proc)
    runs = [_run(load, which, progress) for which in chosen]
    made = _manifest(load, chosen)
    return Comparison(load.name, load.words, len(load.requests), load.left_out, made, runs, load.notes)


def in_virtual_time(source: Source) -> bool:
    """
    Whether a SOURCE is a workload of virtual CPUs, which has no meaning without time.
    """
    from .workload.load import is_load_name

    return is_load_name(os.fspath(source))


def _open(source: str, proc: Source | None) -> _Load:
    if is_workload_name(source):
        return _open_workload(source)
    return _open_recording(source, proc)


def _open_workload(name: str) -> _Load:
    made = workload(name)

    def node(which: Policy) -> Any:
        return _core.Node([_core.Zone(policy=which, **made.zone)])

    digest = hashlib.sha256(made.requests.tobytes() + repr(sorted(made.zone.items())).encode()).hexdigest()
    words = f"{name}: {made.meaning}; {len(made.requests)} requests"
    return _Load(name, words, made.requests, made.nr_handles, {}, digest, node)


def _open_recording(source: str, proc: Source | None) -> _Load:
    recorded = recording.load(source, proc)
    state = recorded.state

    def node(which: Policy) -> Any:
        zones = [recording.adapt(zone, which) for zone in state["zones"]]
        return _core.Node.from_state({**state, "zones": zones}, which)

    managed = sum(zone["managed"] for zone in state["zones"])
    words = (
        f"{recorded.name}: Linux {recorded.kernel}, {state['cpus']} CPUs, {managed // 256} MiB, "
        f"{recorded.seconds:.1f} s recorded; {len(recorded.requests)} requests"
    )
    if not recorded.with_probes:
        words += " (standard tracepoints only)"
    words += STARTS[recorded.start]
    return _Load(
        recorded.name,
        words,
        recorded.requests,
        recorded.nr_handles,
        recorded.left_out,
        recorded.digest,
        node,
        recorded.start,
        recorded.notes,
    )


def _run(load: _Load, which: Policy, progress: Progress | None) -> PolicyRun:
    """
    One policy over the whole load. The loop is compiled and holds no GIL; progress is told between slices.
    """
    node = load.node(which)
    replay = _core.HandleReplay(node, load.nr_handles)
    total = len(load.requests)
    for start in range(0, total, SLICE):
        if progress is not None:
            progress(which.name, start, total)
        replay.run(load.requests[start : start + SLICE])
    if progress is not None:
        progress(which.name, total, total)
    result = replay.result()
    skipped = {name: int(result[name]) for name in sorted(result) if name.startswith("frees_") and result[name]}
    return PolicyRun(which, metrics.collect(node, result), skipped, int(result["elapsed_ns"]))


def _manifest(load: _Load, chosen: list[Policy]) -> dict[str, Any]:
    """
    What made the figures.
    """
    made_up = {} if load.start == "snapshot" else {"start_state": load.start}
    noted = {"notes": list(load.notes)} if load.notes else {}
    return manifest(
        chosen,
        mode="handle",
        **made_up,
        **noted,
        seed=None,
        source=load.name,
        source_sha256=load.digest,
        requests=len(load.requests),
        left_out=load.left_out,
    )
