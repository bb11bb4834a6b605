"""
What a SOURCE names: a recording, or a trace of any form, which is then imported into a temporary file.

An imported trace is kept until the program ends, so that asking for the same one again costs nothing.
"""

import dataclasses
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..arrow import arrow
from ..errors import RecordingError, TraceError
from ..manifest import manifest
from ..trace import open_trace
from ..trace.importing import import_trace
from ..trace.store import METADATA_KEY, PROC_KEY
from . import proctexts

__all__ = ["Origin", "locate", "origin"]

SUFFIX = ".parquet"
MAGIC = b"PAR1"
Progress = Callable[[int, int | None], None]

_imported: dict[tuple[str, int, int], tuple[tempfile.TemporaryDirectory[str], Path]] = {}


@dataclasses.dataclass(frozen=True, slots=True)
class Origin:
    """
    The trace that a file of rows was made from. facts: what the import wrote down of it; health is among them.

    proc: /proc texts of its machine that came with it.
    """

    facts: Mapping[str, Any]
    proc: Mapping[str, str]

    @property
    def kernel(self) -> str | None:
        """
        The release of the kernel, where the trace says it.
        """
        release = self.facts.get("kernel")
        return None if release is None else str(release)

    @property
    def words(self) -> str:
        """
        What it was.
        """
        facts = self.facts
        parts = [f"{facts['source']}, {facts['form']}"]
        if facts.get("clock"):
            parts.append(f"clock {facts['clock']}")
        return ", ".join(parts)

    @property
    def incomplete(self) -> str | None:
        """
        Why events are missing, None if none are.
        """
        reason = self.facts["health"].get("incomplete")
        return None if reason is None else str(reason)

    @property
    def notes(self) -> list[str]:
        """
        What a reader of figures made from it must know: missing events, events that were not kept, notes of the import.
        """
        health = self.facts["health"]
        found = []
        if self.incomplete:
            found.append(f"the trace is incomplete ({self.incomplete}): requests among what is missing are not here")
        if health.get("back"):
            found.append(f"{health['back']} events of the trace are earlier than the one before them")
        return [*found, *(str(note) for note in health.get("notes", ()))]


def locate(source: str | os.PathLike[str], progress: Progress | None = None) -> Path:
    """
    The parquet file that SOURCE names, with or without its ending; of a trace, a temporary one.

    progress: called as progress(bytes done, bytes in all or None) while a trace is imported. Raises RecordingError for
    what is not there, TraceError for what is no trace.
    """
    path = Path(source)
    for candidate in (path, path.with_name(path.name + SUFFIX)) if path.name else ():
        if candidate.is_file():
            return candidate if _is_rows(candidate) else _import(candidate, progress)
    if str(source) == "-":
        return _import(path, progress)
    if path.is_dir():
        if not _is_raw(path):
            raise RecordingError(
                f"{source} is a folder; name one recording in it, for example {path / 'NAME'}{SUFFIX}, or give a "
                "folder with raw sub-buffers (cpu0.raw)"
            )
        return _import(path, progress)
    if path.exists():  # a pipe
        return _import(path, progress)
    raise RecordingError(f"{source} is neither a workload nor a file (tried {path.name} and {path.name}{SUFFIX})")


def _is_rows(path: Path) -> bool:
    """
    Whether it is a file of rows, or looks so much like one that its reader should say what is wrong with it.
    """
    try:
        with path.open("rb") as file:
            return file.read(4) == MAGIC or path.suffix == SUFFIX
    except OSError as error:
        raise RecordingError(f"{path.name} cannot be read: {error.strerror}") from None


def _is_raw(folder: Path) -> bool:
    return any(any(folder.glob(pattern)) for pattern in ("cpu*.raw", "*/cpu*.raw", "**/trace_pipe_raw*"))


def _import(path: Path, progress: Progress | None) -> Path:
    """
    A trace as a file of rows of its name, in a folder that is gone when the program ends.
    """
    piped = str(path) == "-" or not (path.is_file() or path.is_dir())
    key = ("-", 0, 0) if str(path) == "-" else (str(path.resolve()), *_stamp(path))
    if key in _imported:
        return _imported[key][1]
    texts = {} if piped else proctexts.beside(path)
    try:
        opened = open_trace(path, digest=True)
    except TraceError as error:
        raise TraceError(str(error).replace("is not a trace", "is not a recording and not a trace", 1)) from None
    with opened as trace:
        folder = tempfile.TemporaryDirectory(prefix="pcpbuddy-")
        try:
            name = "standard-input" if str(path) == "-" else path.resolve().name
            target = Path(folder.name) / f"{name}{SUFFIX}"
            import_trace(trace, target, manifest(()), progress, texts)
        except BaseException:
            folder.cleanup()
            raise
    _imported[key] = folder, target
    return target


def _stamp(path: Path) -> tuple[int, int]:
    """
    Size and time: of a folder those of all its files.
    """
    files = [path, *path.rglob("*")] if path.is_dir() else [path]
    stats = [one.stat() for one in files]
    return sum(one.st_size for one in stats), max(one.st_mtime_ns for one in stats)


def origin(path: Path) -> Origin | None:
    """
    What the file of rows says it was made from; None for a recording, which was not imported.
    """
    pa = arrow("a recording", RecordingError)
    try:
        stored = pa.parquet.read_metadata(path).metadata or {}
        facts = json.loads(stored.get(METADATA_KEY, b"null"))
        proc = json.loads(stored.get(PROC_KEY, b"{}"))
    except (pa.ArrowException, OSError, ValueError):
        return None  # its reader says what is wrong with it
    if (
        not isinstance(facts, dict)
        or not isinstance(facts.get("health"), dict)
        or not {"source", "form"} <= facts.keys()
    ):
        return None
    return Origin(facts, proc if isinstance(proc, dict) else {})
