"""
The few packets of Perfetto's own form that stand once in a file: names, and the description of each track.

What stands there once per event is made by the compiled writers. Numbers of fields are those of perfetto_trace.proto.
"""

from collections.abc import Iterable, Mapping
from typing import IO

from . import Trace, gfp, shapes
from ._write import NUMBERS, PerfettoRows
from .export import Exported, Progress, as_bytes, batches, left_out
from .schema import KNOWN, columns
from .source import shown
from .stored import StoredRows

__all__ = [
    "COUNT",
    "ROOT",
    "counter",
    "export_rows",
    "head",
    "note_number",
    "note_text",
    "track",
]

ROOT = 1  # the track that all others hang from
COUNT = 2  # of CounterDescriptor.Unit
_EXPLICIT = 3  # TrackDescriptor.ChildTracksOrdering
_CLEARED = 1  # TracePacket.SequenceFlags: what was interned before is forgotten
_SEQUENCE = 1
_FIRST_WAIT, _MOST_LOCK_FLAGS = 256, 64  # as in write_perfetto.pxi
_CPUS, _TASKS, _SUMS, _PCPS = 0x1000, 1 << 32, 0x100, 0x10000  # the first track of each kind
_TASKS_ROOT, _COUNTERS_ROOT, _PCPS_ROOT = 2, 3, 4
_MOST_CPUS = 8192
_MOST_COMM = 64  # characters; the kernel has 15, and a byte that is no UTF-8 makes four
_SUM_NAMES = (
    "pages allocated less freed",
    "pages from the zone to PCPs (refill)",
    "pages from PCPs to the zone (drain)",
    "fallbacks to another migratetype",
    "CMA pages allocated less released",
)


def export_rows(source: Trace | StoredRows, output: IO[bytes], progress: Progress | None = None) -> Exported:
    """
    Rows of a trace: a track a CPU with its events, waits for locks as slices, counters.
    """
    tracks = _Tracks()
    names = {code + 1: name for code, name in enumerate(KNOWN)}
    for flags in range(_MOST_LOCK_FLAGS):
        names[_FIRST_WAIT + flags] = f"wait: {gfp.lock_names(flags).decode()}" if flags else "wait"
    names[_FIRST_WAIT + _MOST_LOCK_FLAGS] = "wait"
    categories = dict(enumerate(shapes.CATEGORIES, 1))
    output.write(head(source.name, names, categories, {NUMBERS[name]: name for name in columns()}))
    writer = PerfettoRows(
        shapes.shapes(shapes.words(source.kernel)), {name: code for code, name in enumerate(KNOWN)}, tracks.describe
    )
    for batch in batches(source, progress):
        comms = [name[:_MOST_COMM].encode("utf-8", "replace") for name in batch.comms]
        markers = [text.encode("utf-8", "replace") for text in batch.markers]
        output.write(writer.rows(as_bytes(batch), comms, markers))
    output.write(writer.finish())
    notes = []
    if writer.waits:
        notes.append(f"{writer.waits} waits for locks as slices; a trace does not say who holds a lock")
    if writer.cut_off:
        notes.append(f"{writer.cut_off} of them end where their end was not seen")
    if writer.ends:
        notes.append(f"{writer.ends} ends of waits whose beginning was not seen are events of their own")
    return Exported(writer.nr_rows, (*notes, *left_out(source, writer.left_out)))


class _Tracks:
    """
    Describes tracks of a trace where the compiled writer first needs them.
    """

    def __init__(self) -> None:
        self._roots: set[int] = set()

    def describe(self, what: int, number: int, name: bytes) -> tuple[int, bytes]:
        """
        (the track, the packet). what: 0 CPU, 1 task, 2 counter over all, 3 a PCP, numbered zone * 8192 + CPU.
        """
        if what == 0:
            return _CPUS + number, track(_CPUS + number, f"CPU {number}", ROOT, rank=number)
        if what == 1:
            words = f"{shown(name.decode('utf-8', 'replace'), 64)} {number}"
            packet = self._root(_TASKS_ROOT, "tasks that wait") + track(_TASKS + number, words, _TASKS_ROOT)
            return _TASKS + number, packet
        if what == 2:
            packet = counter(_SUMS + number, _SUM_NAMES[number], _COUNTERS_ROOT, COUNT, rank=number)
            return _SUMS + number, self._root(_COUNTERS_ROOT, "pages") + packet
        zone, cpu = divmod(number, _MOST_CPUS)
        packet = counter(_PCPS + number, f"zone {zone}, CPU {cpu}", _PCPS_ROOT, COUNT, rank=number)
        return _PCPS + number, self._root(_PCPS_ROOT, "pages in PCPs") + packet

    def _root(self, number: int, name: str) -> bytes:
        if number in self._roots:
            return b""
        self._roots.add(number)
        return track(number, name, ROOT, rank=_MOST_CPUS + number)


def head(name: str, names: Mapping[int, str], categories: Mapping[int, str], annotations: Mapping[int, str]) -> bytes:
    """
    The first packets: what is interned, and the track that all others hang from.
    """
    interned = b"".join(
        _bytes(field, _number(1, iid) + _bytes(2, text.encode()))
        for field, table in ((1, categories), (2, names), (3, annotations))
        for iid, text in table.items()
    )
    return _packet(_bytes(12, interned), first=True) + track(ROOT, shown(name, 120), None)


def track(uuid: int, name: str, parent: int | None, rank: int | None = None) -> bytes:
    """
    The packet that describes a track; its children stand in the order of their ranks.
    """
    return _described(uuid, name, parent, rank, b"")


def counter(uuid: int, name: str, parent: int, unit: int, rank: int | None = None) -> bytes:
    """
    The packet that describes a counter.
    """
    return _described(uuid, name, parent, rank, _bytes(8, _number(3, unit)))


def note_text(name: int, text: str) -> bytes:
    """
    An annotation that is a text; name: its interned number.
    """
    return _bytes(4, _number(1, name) + _bytes(6, text.encode()))


def note_number(name: int, value: int) -> bytes:
    """
    An annotation that is a number, not below 0.
    """
    return _bytes(4, _number(1, name) + _number(4, value))


def _described(uuid: int, name: str, parent: int | None, rank: int | None, more: bytes) -> bytes:
    parts: Iterable[bytes] = (
        _number(1, uuid),
        _bytes(2, name.encode()),
        b"" if parent is None else _number(5, parent),
        more,
        _number(11, _EXPLICIT),
        b"" if rank is None else _number(12, rank),
    )
    return _packet(_bytes(60, b"".join(parts)))


def _packet(content: bytes, first: bool = False) -> bytes:
    more = _number(13, _CLEARED) + _number(87, 1) if first else b""
    return _bytes(1, content + _number(10, _SEQUENCE) + more)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content
