"""
Recordings of a real kernel's page allocator: the state before, every event, the state after.

``load`` opens one, proves that its parts belong together, and gives what a replay in handle mode needs:
the state to start from and the requests. What a recording is: docs/reference/replay.md, section 1.
"""

import dataclasses
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import RecordingError
from . import files, snapshot, stream
from .snapshot import adapt

__all__ = ["Recording", "adapt", "digest", "load", "locate"]

SUFFIX = ".parquet"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """
    A recording, ready to be replayed.

    state: of the node at snapshot 0, in the form that Node.from_state takes, with the kernel's 14 PCP lists.
    requests: REQUEST records in their true order; times_ns: when each was recorded.
    nr_handles: one more than the largest page frame that can occur.
    left_out: what was not made a request, or not as recorded, and how often (law L8).
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


def load(source: str | os.PathLike[str]) -> Recording:
    """
    Open NAME or NAME.parquet, with NAME.snap0 (and NAME.snap1, where there is one) beside it.

    Raises RecordingError for a file that is not a recording or is damaged, for impossible rows,
    and for a snapshot of another recording.
    """
    path = locate(source)
    base = path.with_name(path.name.removesuffix(SUFFIX))
    rows = files.read_rows(path)
    first = files.read_snapshot(base, 0)
    if first is None:
        raise RecordingError(
            f"{path.name} has no snapshot beside it; a replay starts from {base.name}.snap0.json.zst and "
            f"{base.name}.snap0.npz: put both into the same folder"
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


def locate(source: str | os.PathLike[str]) -> Path:
    """
    The parquet file that SOURCE names, with or without its ending.
    """
    path = Path(source)
    for candidate in (path, path.with_name(path.name + SUFFIX)):
        if candidate.is_file():
            return candidate
    if path.is_dir():
        raise RecordingError(f"{source} is a folder; name one recording in it, for example {path / 'NAME'}{SUFFIX}")
    raise RecordingError(f"{source} is neither a workload nor a file (tried {path.name} and {path.name}{SUFFIX})")


def digest(path: Path, first: "files.Snapshot") -> str:
    """
    SHA-256 over the files that decide the result: rows and snapshot 0.
    """
    digest = hashlib.sha256()
    for part in (path, *first.paths):
        digest.update(part.read_bytes())
    return digest.hexdigest()
