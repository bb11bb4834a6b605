"""
Replay of a recording against the kernel that made it: the same requests in the same order, every page compared.

The contract is docs/reference/replay.md. Modes free-run, guided and resync are for ``mainline``; handle is a load
without comparison, for any policy.
"""

import collections
import dataclasses
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from . import _core, metrics
from .comparison import compare
from .config import Policy
from .config import policy as find_policy
from .errors import BadFree, Corruption, RecordingError, UsageError
from .manifest import manifest
from .names import MIGRATETYPE_NAMES, NR_PCP_TYPES
from .procfs import buddyinfo
from .recording import digest, files, locate, rows, snapshot
from .recording.difference import differences
from .workload import is_workload_name

__all__ = ["COMPARING_MODES", "MODES", "SCHEMA", "Replay", "replay"]

SCHEMA = "pcpbuddy.replay/1"
COMPARING_MODES = ("free-run", "guided", "resync")
MODES = (*COMPARING_MODES, "handle")
KINDS = ("alloc", "refill", "drain", "drained", "pcp_fields", "list_type", "free")
FOUND = ("nowhere", "pcp_of_this_cpu", "pcp_of_another_cpu", "zone", "allocated")
AROUND = 8  # entries of a list that the report of a divergence shows
SHOWN_DIFFERENCES = 200
PATIENCE, LAG = 1 << 16, 1 << 18  # rows that are read before one is replayed, at most: _core/retrace.pxd

Progress = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Replay:
    """
    A finished replay.

    words: what was replayed. results: as docs/reference/replay.md section 5 names them. elapsed_ns: of the replay loop.
    nr_requests: what it served in that time.
    """

    words: str
    results: dict[str, Any]
    manifest: dict[str, Any]
    elapsed_ns: int
    nr_requests: int

    def document(self) -> dict[str, Any]:
        """
        The replay as one JSON document: the same recording and mode give the same bytes.
        """
        return {"schema": SCHEMA, "manifest": self.manifest, "results": self.results}


def replay(
    source: str | os.PathLike[str],
    mode: str | None = None,
    policy: str | Policy = "mainline",
    *,
    until: int | None = None,
    progress: Progress | None = None,
    proc: str | os.PathLike[str] | None = None,
) -> Replay:
    """
    Replay a recording.

    source: NAME or NAME.parquet, with NAME.snap0 beside it (and NAME.snap1, to compare the end with). In handle mode
        also a trace of any form, from a state that is made up; proc: a folder with /proc texts of its machine.
    mode: free-run, guided, resync or handle; by default free-run for mainline and handle for every other policy.
    until: stop before this row of the file; then the final state is not compared.
    progress: called as progress(mode, rows done, rows in all).
    Raises RecordingError, ConfigError or UsageError before anything runs.
    """
    if is_workload_name(os.fspath(source)):
        raise UsageError(f"{source} is a workload, and no kernel was recorded with it; use `pcpbuddy compare {source}`")
    chosen = find_policy(policy)
    mode = mode or ("free-run" if chosen.name == "mainline" else "handle")
    if mode not in MODES:
        raise UsageError(f"mode {mode!r}: expected one of {', '.join(MODES)}")
    if mode == "handle":
        return _handle(source, chosen, until, progress, proc)
    if chosen.name != "mainline":
        raise UsageError(
            f"mode {mode} compares with a kernel that runs mainline, so it cannot be used with policy {chosen.name}; "
            "use --mode handle, or --policy mainline"
        )
    if until is not None and until < 0:
        raise UsageError(f"until row {until}: expected 0 or more")
    if proc is not None:
        raise UsageError(f"mode {mode} starts from a snapshot; /proc texts are for --mode handle and for compare")
    opened = _Opened(source)
    done = opened.run(mode, chosen, until, progress)
    if mode == "free-run" and done.results["causes"] and "unexplained" not in done.results["causes"]:
        # What the recording leaves open is supplied where it was missing; nothing else changes.
        supplied = opened.run("guided", chosen, until, progress)
        done.results["guided"] = {
            name: supplied.results[name] for name in ("allocs", "exact", "exact_share", "taken", "final_state")
        }
    return done


def _handle(
    source: str | os.PathLike[str],
    chosen: Policy,
    until: int | None,
    progress: Progress | None,
    proc: str | os.PathLike[str] | None,
) -> Replay:
    """
    As a load: what the policy makes of it, in the metrics of section 3.
    """
    if until is not None:
        raise UsageError("--until is for the modes that compare; handle mode replays all of a recording")
    done = compare(source, [chosen], progress=progress, proc=proc)
    run = done.runs[0]
    results = {
        "mode": "handle",
        "allocs": run.metrics["allocs"],
        "metrics": run.metrics,
        "skipped": run.skipped,
        "left_out": done.left_out,
        **({"notes": list(done.notes)} if done.notes else {}),
    }
    return Replay(done.load, results, done.manifest, run.elapsed_ns, done.nr_requests)


class _Opened:
    """
    A recording, checked as far as can be before its rows are read.
    """

    def __init__(self, source: str | os.PathLike[str]) -> None:
        path = locate(source)
        base = path.with_name(path.name.removesuffix(".parquet"))
        self.name = base.name
        self.file = files.RowFile(path)
        first = files.read_snapshot(base, 0)
        if first is None:
            raise RecordingError(
                f"{path.name} has no snapshot beside it; modes free-run, guided and resync compare page frames from "
                f"{self.name}.snap0.json.zst and {self.name}.snap0.npz on: put both into the same folder, or use "
                "--mode handle or `pcpbuddy compare`, which make up a start state and say so"
            )
        self.first, self.last = first, files.read_snapshot(base, 1)
        for snap in (self.first, self.last):
            if snap is not None:
                snapshot.verify(snap)
        self.state = snapshot.node_state(self.first)
        self.digest = digest(path, self.first)
        self.events = self.file.event_names()
        self.plain = not self.events & {"pcp_alloc", "pcp_free"}  # standard tracepoints only

    def run(self, mode: str, chosen: Policy, until: int | None, progress: Progress | None) -> Replay:
        """
        All rows, in one mode, from snapshot 0.
        """
        try:
            node = _core.Node.from_state(self.state, chosen)
            node.check()
        except (UsageError, Corruption, OverflowError) as error:
            raise RecordingError(f"{self.first.label} is not the state of an allocator: {error}") from None
        marks = [zone["percpu_drift_mark"] for zone in self.first.json["zones"]]
        core = _core.KernelReplay(
            node,
            self.first.json["max_pfn"],
            mode=mode,
            folds="vmfold" in self.events,
            plain=self.plain,
            drift_marks=marks,
        )
        reader = rows.Reader(self.file, self.first, self.last)
        waiting = LAG if self.plain else PATIENCE
        recent: collections.deque[np.ndarray] = collections.deque(maxlen=waiting // rows.BATCH + 2)
        divergence: dict[str, Any] | None = None
        done, cut = 0, False
        for batch in reader.batches():
            if progress is not None:
                progress(mode, done, self.file.nr_rows)
            done = min(done + rows.BATCH, self.file.nr_rows)
            recent.append(batch)
            divergence, cut = self._feed(core, node, batch, recent, divergence, until, last=False)
            if cut:
                break
        if not cut:
            divergence, cut = self._feed(core, node, batch[:0], recent, divergence, until, last=True)
        if progress is not None:
            progress(mode, self.file.nr_rows, self.file.nr_rows)
        counted = core.result()
        results = _results(mode, counted, divergence, core.differences())
        results["final_state"] = self._final(node, core.open_operations(), cut=cut)
        results["recording"] = _recording(reader.health)
        results["metrics"] = {
            name: value for name, value in metrics.collect(node, _as_handle(counted)).items() if "." in name
        }
        if cut:
            results["state"] = {"before_row": until, "buddyinfo": buddyinfo(node.zones)}
        facts = {"mode": mode, "seed": None, "source": self.name, "source_sha256": self.digest, "until": until}
        return Replay(self._words(), results, manifest([chosen], **facts), counted["elapsed_ns"], counted["requests"])

    def _feed(
        self,
        core: Any,
        node: Any,
        batch: np.ndarray,
        recent: "collections.deque[np.ndarray]",
        divergence: dict[str, Any] | None,
        until: int | None,
        *,
        last: bool,
    ) -> tuple[dict[str, Any] | None, bool]:
        """
        One batch; stops once, behind the first row that differs, to look around. Also: was row ``until`` reached?
        """
        limit = -1 if until is None else until
        stopped = core.feed(batch, last=last, until_difference=divergence is None, until=limit)
        if divergence is None and core.differences():
            divergence = _look_around(core.differences()[0], node, recent)
        if stopped == "difference":
            stopped = core.feed(batch[:0], last=last, until=limit)
        return divergence, stopped == "until"

    def _final(self, node: Any, open_operations: int, *, cut: bool) -> dict[str, Any]:
        """
        Our state at the end against snapshot 1.
        """
        if cut:
            return {"equal": None, "differences": [], "why": "the replay was stopped before the end"}
        if self.last is None:
            return {"equal": None, "differences": [], "why": "the recording has no snapshot 1"}
        folds = "vmfold" in self.events
        ticks = "decay" in self.events
        found = differences(node.state(), snapshot.node_state(self.last), folds=folds, ticks=ticks)
        final: dict[str, Any] = {"equal": not found, "differences": found[:SHOWN_DIFFERENCES]}
        if len(found) > SHOWN_DIFFERENCES:
            final["further_differences"] = len(found) - SHOWN_DIFFERENCES
        if self.last.json.get("derived"):
            final["derived"] = "snapshot 1 was worked out from the rows, not taken from a machine"
        hidden = []
        if not folds:
            hidden.append("the split of counters into visible part and per-CPU differences (folds are not recorded)")
        if not ticks:
            hidden.append("how far silent ticks have lowered the high of a PCP (ticks are not recorded)")
        if hidden:
            final["not_compared"] = "; ".join(hidden)
        if open_operations:
            final["open_operations"] = open_operations
        return final

    def _words(self) -> str:
        document = self.first.json
        managed = sum(zone["managed_pages"] for zone in document["zones"])
        zones = ", ".join(zone["name"] for zone in document["zones"])
        cpus = len(document["ring"])
        return f"{self.name}: Linux {document['kernel']}, {cpus} CPUs, {managed // 256} MiB, zones {zones}"


def _as_handle(counted: dict[str, Any]) -> dict[str, int]:
    return {
        "frees_unknown": counted["frees_unknown"],
        "frees_double": 0,
        "parked_pages_max": counted["parked_pages_max"],
    }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _item(number: int) -> str:
    """
    R-items of baseline section 18.4.
    """
    return f"R{number}" if number else "unexplained"


def _results(
    mode: str, counted: dict[str, Any], divergence: dict[str, Any] | None, kept: list[dict[str, Any]]
) -> dict[str, Any]:
    def pair(name: str) -> tuple[int, int]:
        seen, exact = counted[name]
        return seen, exact

    results: dict[str, Any] = {"mode": mode}
    for name in ("allocs", "refills", "drains", "drained", "fields"):
        seen, exact = pair(name)
        key = "exact" if name == "allocs" else f"{name}_exact"
        results |= {name: seen, key: exact}
        if name == "allocs":
            results["exact_share"] = _share(exact, seen)
    for name, label in (
        ("by_order", str),
        ("by_type", lambda kind: MIGRATETYPE_NAMES[kind] if kind < NR_PCP_TYPES else str(kind)),
        ("by_cpu", str),
    ):
        results[name] = {label(key): {"allocs": seen, "exact": exact} for key, (seen, exact) in counted[name].items()}
    results |= {
        "first_divergence": divergence,
        "causes": {_item(number): count for number, count in counted["causes"].items()},
        "taken": {_item(number): count for number, count in counted["taken"].items()},
        "differences": dict(zip(KINDS, counted["differences"], strict=True)),
        "divergences": [_described(diff) for diff in kept[:SHOWN_DIFFERENCES]],
        "frees": counted["frees"],
        "frees_unknown": counted["frees_unknown"],
        "frees_unseen": counted["frees_unseen"],
        "rows_without_operation": counted["unexpected"],
        "operations_without_rows": counted["abandoned"],
    }
    if mode == "resync":
        results["resyncs"] = {name: n for name, n in zip(FOUND, counted["found"], strict=True) if n}
    return results


def _pfn(value: int) -> int | None:
    return None if value == rows.NO_PFN else value


def _described(diff: dict[str, Any]) -> dict[str, Any]:
    """
    One difference as plain values.
    """
    kind = KINDS[diff["kind"]]
    numbers = kind in ("drain", "pcp_fields", "list_type")  # pages, counts and types; else page frames
    return {
        "row": diff["row"],
        "what": kind,
        "event": files.EVENT_ORDER[diff["event"]],
        "cpu": diff["cpu"],
        "zone": diff["zone"],
        "order": diff["order"] if diff["order"] < 11 else None,
        "migratetype": diff["type"] if diff["type"] >= 0 else None,
        "predicted": diff["predicted"] if numbers else _pfn(diff["predicted"]),
        "recorded": diff["recorded"] if numbers else _pfn(diff["recorded"]),
        "cause": _item(diff["cause"]),
    }


def _look_around(diff: dict[str, Any], node: Any, recent: "collections.deque[np.ndarray]") -> dict[str, Any]:
    """
    The first difference with the state behind it: the PCP, its list, the zone, and where both pages are.
    """
    found = _described(diff)
    zone = node.zones[diff["zone"]]
    state = zone.state()
    pcp = state["pcp"][diff["cpu"]]
    row = next((batch[at] for batch in recent for at in np.flatnonzero(batch["row"] == diff["row"])), None)
    if row is not None:
        found["fields"] = {
            name: int(row[name])
            for name in rows.ROW.names or ()
            if name not in ("row", "next", "earlier", "later", "owner", "done", "event")
            and int(row[name]) not in (-1, rows.NO_FIELD, rows.NO_PFN)
        }
    key = (found["order"] or 0, min(found["migratetype"] or 0, 1 if (found["order"] or 0) > 3 else 2))
    found["state"] = {
        "pcp": {name: pcp[name] for name in ("count", "high", "flags", "alloc_factor", "free_count")},
        "pcp_list": pcp["lists"].get(key, [])[:AROUND],
        "free_heads": {
            f"order {order} {MIGRATETYPE_NAMES[kind]}": pfns[0] for (order, kind), pfns in sorted(state["free"].items())
        },
        "visible": dict(zip(("free", "free_cma", "free_blocks"), state["stat"], strict=True)),
        "zone_flags": state["flags"],
        "buddyinfo": buddyinfo([zone]).strip(),
    }
    for name in ("predicted", "recorded"):
        if found["what"] in ("alloc", "refill", "drained", "free") and found[name] is not None:
            found["state"][f"{name}_page"] = _where(node, found[name])
    return found


def _where(node: Any, pfn: int) -> str:
    try:
        return str(node.describe(pfn))
    except BadFree as error:
        return str(error)


def _recording(health: rows.Health) -> dict[str, Any]:
    """
    What the rows themselves lack. A replay of all that is left can be exact and still not be the whole story.
    """
    lost = {str(cpu): count for cpu, count in health.lost.items()}
    return {
        "rows": health.rows,
        "replayed": health.replayed,
        "complete": not lost and health.disordered == 0 and health.outside == 0,
        "lost": sum(lost.values()),
        "lost_by_cpu": lost,
        "disordered": health.disordered,
        "clock_back": health.clock_back,
        "outside_zones": health.outside,
        "events": dict(sorted(health.events.items())),
    }
