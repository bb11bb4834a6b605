"""
Recordings of a real kernel's page allocator: the state before, every event, the state after.

``load`` opens one, proves that its parts belong together, and gives what a replay in handle mode needs:
the state to start from and the requests. What a recording is: docs/reference/replay.md, section 1. A trace of any form
is taken too (sources.py); its start state is made up of /proc texts or of its rows (startstate.py), and says so.
"""

import dataclasses
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import RecordingError
from . import files, proctexts, snapshot, startstate, stream
from .files import Rows
from .snapshot import adapt
from .sources import Origin, locate, origin

__all__ = ["Origin", "Recording", "adapt", "digest", "load", "locate", "origin"]

SUFFIX = ".parquet"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """
    A recording, ready to be replayed.

    state: of the node at snapshot 0, in the form that Node.from_state takes, with the kernel's 14 PCP lists.
    requests: REQUEST records in their true order; times_ns: when each was recorded.
    nr_handles: one more than the largest page frame that can occur.
    left_out: what was not made a request, or not as recorded, and how often (law L8).
    start: where the state comes from: "snapshot", or made up: "proc" (of /proc texts), "inferred" (of the rows alone).
    notes: sentences that belong beside every figure made from it: how the state was made up, what the trace lacks.
    """

    name: str
    kernel: str
    derived: bool
    rows: int
    seconds: float
    with_probes: bool
    state: dict[str, Any]
    requests: np.ndarray
    times_ns: np.ndarray
    nr_handles: int
    left_out: dict[str, int]
    digest: str
    start: str = "snapshot"
    notes: tuple[str, ...] = ()


def load(source: str | os.PathLike[str], proc: str | os.PathLike[str] | None = None) -> Recording:
    """
    Open NAME or NAME.parquet, with NAME.snap0 (and NAME.snap1, where there is one) beside it; or a trace of any form.

    proc: a folder with /proc texts of the machine, to start from where there is no snapshot; by default those that came
    with the trace (in the file or its folder, or in NAME.proc), else the state is inferred from the rows.
    Raises RecordingError for a file that is not a recording or is damaged, for impossible rows, for a snapshot of
    another recording, and for texts of another machine; TraceError for what is no trace.
    """
    path = locate(source)
    base = path.with_name(path.name.removesuffix(SUFFIX))
    rows = files.read_rows(path)
    first = files.read_snapshot(base, 0)
    if first is None:
        if files.read_snapshot(base, 1) is not None:
            raise RecordingError(
                f"{path.name} has snapshot 1 beside it but no snapshot 0; a replay starts from "
                f"{base.name}.snap0.json.zst and {base.name}.snap0.npz: put both into the same folder, or move "
                "snapshot 1 away to start from a state that is made up"
            )
        return _without_snapshot(path, rows, proc, proctexts.beside(base))
    if proc is not None:
        raise RecordingError(
            f"{path.name} has a snapshot beside it, which is exact; leave the /proc texts of {proc} out, or move the "
            "snapshot away"
        )
    last = files.read_snapshot(base, 1)
    snapshot.verify(first)
    if last is not None:
        snapshot.verify(last)
    stream.verify(rows, first, last)
    requests, times_ns, left_out = stream.timed_requests(rows, first)
    return Recording(
        name=base.name,
        kernel=first.json["kernel"],
        derived=last is not None and bool(last.json.get("derived")),
        rows=len(rows.event),
        seconds=stream.seconds(rows),
        with_probes=rows.with_probes,
        state=snapshot.node_state(first),
        requests=requests,
        times_ns=times_ns,
        nr_handles=first.json["max_pfn"],
        left_out=left_out,
        digest=digest(path, first),
    )


def _without_snapshot(
    path: Path, rows: Rows, proc: str | os.PathLike[str] | None, found: Mapping[str, str]
) -> Recording:
    """
    A trace from a state that is made up.
    """
    base = path.name.removesuffix(SUFFIX)
    from_trace = origin(path)
    texts = proctexts.read_folder(proc) if proc is not None else found or (from_trace.proc if from_trace else {})
    kernel = from_trace.kernel if from_trace else None
    if not len(rows.event):
        raise RecordingError(f"{path.name} has no rows")
    rows = _all_replayed(rows)
    made = startstate.from_proc(rows, texts, kernel) if texts else startstate.from_rows(rows, kernel)
    first = made.snapshot
    snapshot.verify(first)
    rows, elsewhere = _of_zones(rows, first) if made.node is not None else (rows, 0)
    stream.verify(rows, first, None)
    requests, times_ns, left_out = stream.timed_requests(rows, first)
    if elsewhere:
        left_out = {startstate.OTHER_NODES: elsewhere, **left_out}
    return Recording(
        name=base,
        kernel=first.json["kernel"],
        derived=False,
        rows=len(rows.event),
        seconds=stream.seconds(rows),
        with_probes=rows.with_probes,
        state=snapshot.node_state(first),
        requests=requests,
        times_ns=times_ns,
        nr_handles=first.json["max_pfn"],
        left_out=left_out,
        digest=_digest_of_trace(path, from_trace, texts),
        start=made.kind,
        notes=(*made.notes, *(from_trace.notes if from_trace else ())),
    )


def _all_replayed(rows: Rows) -> Rows:
    """
    Phases lie between snapshots; where there are none, all rows are one phase.
    """
    phase = np.full(len(rows.event), stream.REPLAYED, np.int64)
    return dataclasses.replace(rows, columns={**rows.columns, "phase": phase})


def _of_zones(rows: Rows, first: files.Snapshot) -> tuple[Rows, int]:
    """
    Without the rows of pages that are in none of the zones. The numbers of the rows stay: what is left out is not lost.
    """
    inside = rows.pfn < 0
    for zone in first.json["zones"]:
        start = zone["zone_start_pfn"]
        inside |= (rows.pfn >= start) & (rows.pfn < start + zone["spanned_pages"])
    columns = {name: column[inside] for name, column in rows.columns.items()}
    order = np.lexsort((columns["cpu_seq"], columns["cpu"]))
    cpu = columns["cpu"][order]
    number = np.empty(len(order), np.int64)
    number[order] = np.arange(len(order)) - np.searchsorted(cpu, cpu)
    left = dataclasses.replace(rows, event=rows.event[inside], columns={**columns, "cpu_seq": number})
    return left, int(np.count_nonzero(~inside))


def _digest_of_trace(path: Path, from_trace: Origin | None, texts: Mapping[str, str]) -> str:
    """
    SHA-256 over the trace, as it was imported, and the texts that decide the start state.
    """
    digest = hashlib.sha256()
    stored = from_trace.facts.get("source_sha256") if from_trace else None
    digest.update(str(stored).encode() if stored else path.read_bytes())
    for name in sorted(texts):
        digest.update(texts[name].encode())
    return digest.hexdigest()


def digest(path: Path, first: "files.Snapshot") -> str:
    """
    SHA-256 over the files that decide the result: rows and snapshot 0.
    """
    digest = hashlib.sha256()
    for part in (path, *first.paths):
        digest.update(part.read_bytes())
    return digest.hexdigest()
