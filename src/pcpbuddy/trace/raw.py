"""
Sub-buffers as ``trace_pipe_raw`` gives them: one file per CPU, with the kernel's descriptions beside them.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ..errors import TraceError
from . import formats
from .source import shown
from .tracedat import parse_cmdlines

__all__ = ["RawFiles", "find_raw", "looks_raw"]

MOST_FILES = 100_000
LARGEST_TEXT = 64 << 20
_CPU_FILE = re.compile(r"(?:^|/)cpu(\d{1,4})(?:\.raw|/trace_pipe_raw)$|(?:^|/)trace_pipe_raw\.?(?:cpu)?(\d{1,4})$")
_FORMAT_FILE = re.compile(r"(?:^|/)(?:formats?|formats?\.txt|[\w.-]+\.format)$")
_HEADER_FILE = re.compile(r"(?:^|/)header_page(?:\.txt)?$")
RECORDER_FILE = "recorder.json"  # what `pcpbuddy record` says of the kernel and the clock
_CMDLINES_FILE = re.compile(r"(?:^|/)saved_cmdlines(?:\.txt)?$")


class RawFiles:
    """
    The files of one recording. cpus: (cpu, file); described: the events' formats, from the files beside them.
    """

    def __init__(self, cpus: list[tuple[int, Path]], texts: list[Path], label: str) -> None:
        self.cpus, self.label = cpus, label
        self.notes: list[str] = []
        self.kernel: str | None = None
        self.clock: str | None = None
        self.cmdlines: dict[int, bytes] = {}
        found: dict[int, formats.Format] = {}
        geometry = None
        for path in texts:
            name = path.as_posix()
            if _FORMAT_FILE.search(name):
                found |= {one.number: one for one in formats.parse_formats(_text(path))}
            elif path.name == RECORDER_FILE:
                self._recorded(path)
            elif _HEADER_FILE.search(name):
                geometry = formats.geometry(_text(path))
            else:
                self.cmdlines |= parse_cmdlines(_text(path).encode("utf-8", "surrogateescape"))
        if not formats.plans(found.values()):
            raise TraceError(
                f"{label} has raw sub-buffers but no format file of an event of the page allocator; copy "
                "events/kmem/*/format and events/header_page of that machine's tracefs into the same folder"
            )
        self.described = list(found.values())
        self.geometry = geometry or formats.DEFAULT_GEOMETRY
        if geometry is None:
            self.notes.append(
                f"no header_page beside the sub-buffers; {formats.DEFAULT_GEOMETRY[0]} bytes each are assumed"
            )

    def _recorded(self, path: Path) -> None:
        """
        What the recorder wrote down.
        """
        try:
            facts = json.loads(_text(path))
            self.kernel, self.clock = shown(str(facts["kernel"])), shown(str(facts["clock"]))
        except (ValueError, KeyError, TypeError):
            self.notes.append(f"{RECORDER_FILE} is damaged; what it says of kernel and clock is not known")

    @property
    def size_bytes(self) -> int:
        """
        Of all sub-buffers.
        """
        return sum(path.stat().st_size for _, path in self.cpus)


def find_raw(folder: Path, only: Path | None = None) -> RawFiles:
    """
    The raw files in a folder, or ``only`` one of them, with the descriptions in it and, if it has none, above it.
    """
    label = shown((only or folder).name or str(folder))
    # Beside a single file only what tracefs calls so is looked through, whatever else lies there.
    inside = _files(folder) if only is None else [*_files(folder / "events"), *_beside(folder)]
    cpus = [(int(match[1] or match[2]), path) for path in inside if (match := _CPU_FILE.search(path.as_posix()))]
    if only is not None:
        match = _CPU_FILE.search(only.resolve().as_posix())
        cpus = [(int(match[1] or match[2]) if match else 0, only)]
    if not cpus:
        raise TraceError(
            f"{label} is a folder without raw sub-buffers; expected cpu0.raw or per_cpu/cpu0/trace_pipe_raw, one for "
            "each CPU, and the format files beside them"
        )
    if len({cpu for cpu, _ in cpus}) < len(cpus):
        raise TraceError(f"{label} has more than one raw file of a CPU; give the folder of one recording")
    texts = [path for path in inside if _is_text(path)]
    if not any(_FORMAT_FILE.search(path.as_posix()) for path in texts):
        texts += [path for path in _beside(folder.resolve().parent) if _is_text(path)]
    return RawFiles(sorted(cpus), texts, label)


def looks_raw(head: bytes, size_bytes: int | None) -> bool:
    """
    Whether a file can be sub-buffers: whole ones, the first with a length that fits and an event that fits into it.
    """
    size, count_at, count_size, data_at = formats.DEFAULT_GEOMETRY
    if not size_bytes or size_bytes % size or len(head) < size:
        return False
    used = int.from_bytes(head[count_at : count_at + count_size], "little")
    word = int.from_bytes(head[data_at : data_at + 4], "little")
    flags = used & ~((1 << 27) - 1)
    return flags in (0, 1 << 31, 3 << 30) and used & (1 << 27) - 1 <= size - data_at and (word != 0 or not used)


def blocks(file: IO[bytes], size: int, label: str) -> Iterator[tuple[bytes, int]]:
    """
    A file, some whole sub-buffers at a time.
    """
    at = 0
    try:
        while data := file.read(size):
            yield data, at
            at += len(data)
    except OSError as error:
        raise TraceError(f"{label}, byte {at}: cannot be read: {error.strerror}") from None


def _files(folder: Path) -> list[Path]:
    found: list[Path] = []
    for path in folder.rglob("*"):
        if len(found) >= MOST_FILES:
            raise TraceError(f"{shown(folder.name)} has more than {MOST_FILES} files; give the folder of one recording")
        if path.is_file():
            found.append(path)
    return sorted(found)


def _beside(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file())


def _is_text(path: Path) -> bool:
    name = path.as_posix()
    known = any(one.search(name) for one in (_FORMAT_FILE, _HEADER_FILE, _CMDLINES_FILE))
    return known or path.name == RECORDER_FILE


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(LARGEST_TEXT).decode("utf-8", "surrogateescape")
    except OSError as error:
        raise TraceError(f"{shown(path.name)} cannot be read: {error.strerror}") from None
