"""
Traces as kernels write them, whatever wrote them down: one event schema, batch by batch, in the order of time.

``open_trace`` recognises the form from the content. What is read, what differs between kernels, and what each form
loses: docs/reference/traces.md.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..errors import TraceError
from . import formats, gfp, perfdata, raw, rings, text, tracedat
from .health import Health
from .schema import EVENTS, KNOWN, NULLS, Batch, columns
from .source import Source, shown

__all__ = ["EVENTS", "KNOWN", "NULLS", "Batch", "Health", "Trace", "columns", "open_trace"]

Progress = Callable[[int, int | None], None]
TRACE_DAT, RAW = "trace.dat", "raw sub-buffers"
MOST_TOGETHER = 1 << 30  # bytes of one sub-buffer of each CPU
FOREIGN = {
    b"PAR1": ("a parquet file", "it is imported already: use it as it is"),
    perfdata.MAGIC: ("a perf.data in a pipe or packed", "give the unpacked file, or the text of `perf script`"),
    b"2ELIFREP": ("a perf.data of a big-endian machine", "run `perf script` on it there and import the text"),
    b"PK\x03\x04": ("a zip archive", "unpack it"),
    b"\x7fELF": ("a program", "give a trace"),
}
EXPECTED = "expected the text of tracefs, trace-cmd report or perf script, a trace.dat, or raw sub-buffers"


class Trace:
    """
    A trace that is open. ``batches`` gives its rows once; ``health`` is complete when they were all taken.

    form: what it is, in words. name: how messages call it. kernel: the release that wrote it, None if nobody says.
    """

    def __init__(self, form: str, name: str, reader: Any, close: Callable[[], None]) -> None:
        self.form, self.name = form, name
        self._reader, self._close = reader, close

    def __enter__(self) -> "Trace":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    @property
    def kernel(self) -> str | None:
        """
        The release of the kernel, as the trace or the caller says it.
        """
        release: str | None = self._reader.kernel
        return release

    @property
    def clock(self) -> str | None:
        """
        The trace clock, where the form says which.
        """
        clock: str | None = self._reader.clock
        return clock

    @property
    def size_bytes(self) -> int | None:
        """
        Of the file as it is stored; None for a pipe.
        """
        size: int | None = self._reader.source.size_bytes
        return size

    @property
    def sha256(self) -> str | None:
        """
        Of the file as it is stored, once all was read; None if it was not asked for.
        """
        digest: str | None = self._reader.source.sha256
        return digest

    def batches(self, progress: Progress | None = None) -> Iterator[Batch]:
        """
        The rows in global order, some thousands at a time; memory does not grow with their number.

        progress: called as progress(bytes done, bytes in all or None). Raises TraceError where the trace is damaged
        so that nothing after that place can be read, and at the end if there was damage and not one row.
        """
        for batch in self._reader.batches():
            yield batch
            if progress is not None:
                progress(self._reader.source.done_bytes, self.size_bytes)

    def health(self) -> Health:
        """
        What is wrong with it, as far as it was read.
        """
        health: Health = self._reader.health()
        return health


def open_trace(
    path: str | os.PathLike[str], *, kernel: str | None = None, buffer: str | None = None, digest: bool = False
) -> Trace:
    """
    Open a trace: a file, a folder of raw sub-buffers, or "-" for standard input; plain, or packed by gzip, zstd or xz.

    kernel: the release that wrote a text, "5.15" say, where it is known; the names of flags are read by it. buffer: the
    instance to read of a trace.dat that has several, "" for the top one; None: all of them. digest: keep a SHA-256.
    Raises TraceError for what is no trace, and UsageError for a kernel that cannot be.
    """
    if kernel is not None:
        gfp.parse_kernel(kernel)
    where = Path(path)
    if str(path) != "-" and where.is_dir():
        return _open_raw(raw.find_raw(where), kernel, digest, buffer)
    source = Source(path, digest=digest)
    if source.head.startswith(perfdata.MAGIC) and source.packed is None and str(path) != "-":
        source.close()
        source = perfdata.PerfSource(where, digest=digest)
    try:
        form = _recognise(source)
        if form == RAW:
            source.close()
            return _open_raw(raw.find_raw(where.resolve().parent, where), kernel, digest, buffer)
        if form == TRACE_DAT:
            return _open_dat(source, kernel, buffer)
        _has_one_buffer(source.name, form, buffer)
        return Trace(form, source.name, text.TextReader(source, form, kernel), source.close)
    except BaseException:
        source.close()
        raise


def _recognise(source: Source) -> str:
    head = source.head
    if not head:
        raise TraceError(f"{source.name} is empty; {EXPECTED}")
    if head.startswith(tracedat.MAGIC):
        return TRACE_DAT
    for magic, (what, hint) in FOREIGN.items():
        if head.startswith(magic):
            raise TraceError(f"{source.name} is {what}, not a trace that is read here; {hint}")
    if b"\0" in head[:16]:
        if source.packed is None and raw.looks_raw(head, source.size_bytes):
            return RAW
        raise TraceError(f"{source.name} is not a trace: it begins with {shown(head[:16])}; {EXPECTED}")
    try:
        form = text.form_of(head)
    except TraceError as error:
        raise TraceError(f"{source.name}: {error}") from None
    if form is None:
        raise TraceError(
            f"{source.name} is not a trace: none of its first lines has a task, a [CPU], a time and an event "
            f"(line 1: {shown(head.split(bytes([10]))[0])!r}); {EXPECTED}"
        )
    return form


class _RingReader:
    """
    What trace.dat and raw files have in common: streams of sub-buffers that are merged.
    """

    def __init__(
        self,
        source: Any,
        found: list[rings.Ring],
        described: list[formats.Format],
        geometry: formats.Geometry,
        *,
        ticks: tuple[int, int, int] = (1, 0, 0),
        cmdlines: dict[int, bytes],
        overwritten: dict[int, int],
        notes: list[str],
        kernel: str | None,
        clock: str | None,
    ) -> None:
        self.source, self.kernel, self.clock = source, kernel, clock
        self._rings, self._described, self._overwritten, self._notes = found, described, overwritten, notes
        self._parser = rings.ring_parser(found, described, geometry, ticks, cmdlines)
        ns = ticks != (1, 0, 0) or clock in (None, "local", "global", "mono", "mono_raw", "boot", "tai", "perf")
        if not ns:
            notes.append(f"the clock {clock} does not count nanoseconds, and ts_ns holds its numbers as they are")

    def batches(self) -> Iterator[Batch]:
        yield from rings.merged(self._parser, self._rings, self.source.told)
        if not self._parser.tally.numbers()[0] and self._parser.damages:
            cpu, place, what = self._parser.damages[0]
            raise TraceError(
                f"{self.source.name}, byte {place}: {what} (CPU {cpu}), and no event could be read; copy it again"
            )

    def health(self) -> Health:
        return rings.ring_health(self._parser, self._described, self._overwritten, self._notes)


class _Fed:
    """
    How much was read of files that are not read in order, for progress and for the manifest.
    """

    def __init__(self, name: str, size_bytes: int | None, sha256: str | None) -> None:
        self.name, self.size_bytes, self.sha256 = name, size_bytes, sha256
        self.done_bytes = 0

    def told(self, count: int) -> None:
        self.done_bytes += count
        if self.size_bytes is not None:
            self.done_bytes = min(self.done_bytes, self.size_bytes)


def _open_dat(source: Source, kernel: str | None, buffer: str | None) -> Trace:
    stack = contextlib.ExitStack()
    try:
        file = stack.enter_context(source.seekable_file())
        content = tracedat.read_content(file, source.name)
        chosen = [one for one in content.buffers if buffer is None or one.name == buffer]
        if not chosen:
            there = ", ".join(one.name or '""' for one in content.buffers) or "none"
            raise TraceError(f"{source.name} has no buffer {shown(buffer or '')!r}; it has {there}")
        geometry = _dat_geometry(content, chosen, source.name)
        cpus = [(one, *cpu) for one in chosen for cpu in one.cpus if cpu[2]]
        tracedat.check_places(file, source.name, [(cpu, place, size) for _, cpu, place, size in cpus])
        if geometry[0] * len(cpus) > MOST_TOGETHER:
            raise TraceError(
                f"{source.name} has {len(cpus)} CPUs with sub-buffers of {geometry[0]} bytes; it is damaged"
            )
        block = rings.block_bytes(geometry[0], len(cpus))
        pool = ThreadPoolExecutor(max_workers=1)
        stack.callback(pool.shutdown, cancel_futures=True)
        found = []
        for one, cpu, place, size in cpus:
            stored = tracedat.stored_pages(file, source.name, content, one, place, size, block, len(cpus))
            found.append(rings.Ring(cpu, rings.ahead(stored, pool) if one.compressed else stored))
        reader = _RingReader(
            _Fed(source.name, source.size_bytes, source.sha256),
            found,
            list(content.formats.values()),
            geometry,
            ticks=content.ticks,
            cmdlines=content.cmdlines,
            overwritten=content.overrun,
            notes=_buffer_notes(chosen),
            kernel=kernel or content.kernel,
            clock=content.clock,
        )
    except BaseException:
        stack.close()
        raise
    stack.callback(source.close)
    return Trace(f"{TRACE_DAT} version {content.version}", source.name, reader, stack.close)


def _dat_geometry(content: tracedat.Content, chosen: list[tracedat.Buffer], name: str) -> formats.Geometry:
    """
    As header_page says; a buffer may have larger sub-buffers than that.
    """
    geometry = formats.geometry(content.header_page) or formats.DEFAULT_GEOMETRY
    sizes = sorted({one.page_size for one in chosen if one.page_size})
    if len(sizes) > 1:
        raise TraceError(f"{name} has buffers with sub-buffers of {sizes} bytes; read one of them with --buffer")
    if sizes and 64 <= sizes[0] <= 1 << 24:
        geometry = (sizes[0], *geometry[1:])
    return geometry


def _buffer_notes(chosen: list[tracedat.Buffer]) -> list[str]:
    if len(chosen) < 2:
        return []
    names = ", ".join(one.name or "the top one" for one in chosen)
    return [f"{len(chosen)} buffers in one order of time: {names}; --buffer reads one"]


def _has_one_buffer(name: str, form: str, buffer: str | None) -> None:
    if buffer is not None:
        raise TraceError(f"{name} is {form}, which has one buffer; leave --buffer out")


def _open_raw(files: raw.RawFiles, kernel: str | None, digest: bool, buffer: str | None) -> Trace:
    _has_one_buffer(files.label, RAW, buffer)
    stack = contextlib.ExitStack()
    try:
        block = rings.block_bytes(files.geometry[0], len(files.cpus))
        opened = [(cpu, stack.enter_context(_opened(path))) for cpu, path in files.cpus]
        reader = _RingReader(
            _Fed(files.label, files.size_bytes, _digest(files) if digest else None),
            [rings.Ring(cpu, raw.blocks(file, block, files.label)) for cpu, file in opened],
            files.described,
            files.geometry,
            cmdlines=files.cmdlines,
            overwritten={},
            notes=files.notes,
            kernel=kernel or files.kernel,
            clock=files.clock,
        )
    except BaseException:
        stack.close()
        raise
    return Trace(RAW, files.label, reader, stack.close)


def _opened(path: Path) -> Any:
    try:
        return path.open("rb")
    except OSError as error:
        raise TraceError(f"{shown(path.name)} cannot be read: {error.strerror}") from None


def _digest(files: raw.RawFiles) -> str:
    """
    SHA-256 over the sub-buffers of all CPUs, in the order of the CPUs.
    """
    digest = hashlib.sha256()
    for _, path in files.cpus:
        with _opened(path) as file:
            while data := file.read(1 << 20):
                digest.update(data)
    return digest.hexdigest()
