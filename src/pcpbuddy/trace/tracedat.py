"""
``trace.dat`` of trace-cmd, versions 6 and 7: where everything lies in it.

The formats are described in trace-cmd's manual pages trace-cmd.dat.v6(5) and .v7(5). Version 6 is one sequence of
parts; version 7 has sections that options point to, any of them compressed.
"""

import dataclasses
import itertools
import os
import re
import zlib
from collections.abc import Callable, Iterator
from typing import IO

from ..errors import TraceError
from .formats import Format, parse_formats
from .source import first_line, shown, zstd_block

__all__ = ["MAGIC", "Buffer", "Content", "check_places", "parse_cmdlines", "read_content", "stored_pages"]

MAGIC = b"\x17\x08\x44tracing"
LARGEST_BLOB = 64 << 20
BLOCKS_TOGETHER = 512 << 20  # unpacked, two of each CPU
MOST_CPUS = 8192
MOST_BUFFERS = 1024
MOST_SYSTEMS = 10_000
MOST_EVENTS = 100_000
MOST_CMDLINES = 1 << 18
DONE, CPUSTAT, BUFFER, CLOCK, UNAME, CPUCOUNT, TSC2NSEC = 0, 2, 3, 4, 5, 8, 14
HEADER_INFO, FTRACE_EVENTS, EVENT_FORMATS, CMDLINES, BUFFER_TEXT = 16, 17, 18, 21, 22
COMPRESSED = 1


@dataclasses.dataclass(frozen=True, slots=True)
class Buffer:
    """
    The ring buffers of one instance; cpus: (cpu, byte, size) of the data of each CPU in the file.
    """

    name: str
    page_size: int
    cpus: list[tuple[int, int, int]]
    compressed: bool


@dataclasses.dataclass(slots=True)
class Content:
    """
    What a file holds besides events, and where those are.
    """

    version: int
    page_size: int
    codec: str = "none"
    header_page: str = ""
    formats: dict[int, Format] = dataclasses.field(default_factory=dict)
    cmdlines: dict[int, bytes] = dataclasses.field(default_factory=dict)
    kernel: str | None = None
    clock: str | None = None
    ticks: tuple[int, int, int] = (1, 0, 0)
    overrun: dict[int, int] = dataclasses.field(default_factory=dict)
    buffers: list[Buffer] = dataclasses.field(default_factory=list)


class _Cursor:
    """
    Numbers and texts one after the other; never further than what is there.
    """

    def __init__(self, read_at: Callable[[int, int], bytes], size: int, at: int, label: str) -> None:
        self._read_at, self.size, self.at, self.label = read_at, size, at, label

    def fail(self, what: str) -> TraceError:
        return TraceError(f"{self.label}, byte {self.at}: {what}; the trace.dat is cut off or damaged, copy it again")

    def take(self, count: int) -> bytes:
        if count > self.size - self.at or count > LARGEST_BLOB:
            raise self.fail(f"{count} bytes should follow, {max(0, self.size - self.at)} do")
        try:
            data = self._read_at(self.at, count)
        except OSError as error:
            raise self.fail(f"cannot be read: {error.strerror}") from None
        if len(data) != count:
            raise self.fail(f"{count} bytes should follow, {len(data)} do")
        self.at += count
        return data

    def skip(self, count: int) -> None:
        if count > self.size - self.at:
            raise self.fail(f"{count} bytes should follow, {max(0, self.size - self.at)} do")
        self.at += count

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def count(self, most: int, what: str) -> int:
        """
        How many follow: 32 bits that say no more than can be.
        """
        count = self.number(4)
        if count > most:
            self.at -= 4
            raise self.fail(f"{count} {what}, at most {most} can be")
        return count

    def text(self) -> bytes:
        """
        A text that a zero ends.
        """
        data = self._read_at(self.at, min(4096, self.size - self.at))
        end = data.find(b"\0")
        if end < 0:
            raise self.fail("a text has no end")
        self.at += end + 1
        return data[:end]

    def expect(self, word: bytes) -> None:
        start = self.at
        if self.take(len(word)) != word:
            self.at = start
            raise self.fail(f"{word.rstrip(bytes(1)).decode()} should stand here")


def read_content(file: IO[bytes], label: str) -> Content:
    """
    Everything but the events. Raises TraceError for a file that is damaged, big-endian or of another version.
    """
    size = os.fstat(file.fileno()).st_size
    cursor = _Cursor(lambda at, count: os.pread(file.fileno(), count, at), size, 0, label)
    cursor.expect(MAGIC)
    version = cursor.text()
    if version not in (b"6", b"7"):
        raise TraceError(
            f"{label} is a trace.dat of version {shown(version, 20)}, and versions 6 and 7 are read; "
            "`trace-cmd convert --file-version 7` makes one"
        )
    if cursor.number(1):
        raise TraceError(
            f"{label} was recorded on a big-endian machine, which is not read; "
            "`trace-cmd report` on it makes a text that is"
        )
    cursor.number(1)  # size of a long in user space: nothing here depends on it
    content = Content(int(version), cursor.number(4))
    if version == b"6":
        _read_6(cursor, content)
    else:
        _read_7(cursor, content)
    return content


def _read_6(cursor: _Cursor, content: Content) -> None:
    _header_info(cursor, content)
    _ftrace_events(cursor, content)
    _event_formats(cursor, content)
    for width in (4, 4):  # kallsyms, printk formats
        cursor.skip(cursor.number(width))
    _cmdlines(cursor, content)
    cpus = cursor.count(MOST_CPUS, "CPUs")
    instances: list[tuple[int, bytes]] = []
    word = cursor.take(10)
    if word == b"options  \0":
        while option := cursor.number(2):
            data = cursor.take(cursor.number(4))
            if option == BUFFER and len(data) > 8 and len(instances) < MOST_BUFFERS:
                instances.append((int.from_bytes(data[:8], "little"), data[8:].partition(b"\0")[0]))
            _option(option, data, content)
        word = cursor.take(10)
    if word == b"latency  \0":
        raise TraceError(
            f"{cursor.label} holds the text of a latency tracer, which has no events; record it with `trace-cmd record`"
        )
    for at, name in [(cursor.at - 10, b""), *instances]:
        cursor.at = at
        cursor.expect(b"flyrecord\0")
        found = [(cpu, cursor.number(8), cursor.number(8)) for cpu in range(cpus)]
        content.buffers.append(Buffer(shown(name), content.page_size, found, False))


def _header_info(cursor: _Cursor, content: Content) -> None:
    cursor.expect(b"header_page\0")
    content.header_page = _text(cursor.take(cursor.number(8)))
    cursor.expect(b"header_event\0")
    cursor.skip(cursor.number(8))


def _ftrace_events(cursor: _Cursor, content: Content) -> None:
    for _ in range(cursor.count(MOST_EVENTS, "events")):
        _one_format(cursor, content)


def _event_formats(cursor: _Cursor, content: Content) -> None:
    for _ in range(cursor.count(MOST_SYSTEMS, "systems of events")):
        cursor.text()
        for _ in range(cursor.count(MOST_EVENTS, "events")):
            _one_format(cursor, content)


def _one_format(cursor: _Cursor, content: Content) -> None:
    for one in parse_formats(_text(cursor.take(cursor.number(8)))):
        content.formats[one.number] = one


def _cmdlines(cursor: _Cursor, content: Content) -> None:
    content.cmdlines = parse_cmdlines(cursor.take(cursor.number(8)))


def parse_cmdlines(data: bytes) -> dict[int, bytes]:
    """
    The ``saved_cmdlines`` of tracefs: "PID NAME" a line.
    """
    found = re.finditer(rb"^(\d{1,10}) (.{0,64})$", data, re.MULTILINE)
    return {int(one[1]): one[2] for one in itertools.islice(found, MOST_CMDLINES)}


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


def _option(option: int, data: bytes, content: Content) -> None:
    """
    The options that say something about events, the same in both versions.
    """
    if option == UNAME:
        words = _text(data.partition(b"\0")[0]).split()  # system, host, release, machine: the host is nobody's business
        content.kernel = words[2] if len(words) > 2 else None
    elif option == CLOCK:
        chosen = re.search(rb"\[([\w-]+)\]", data)
        content.clock = _text(chosen[1]) if chosen else None
    elif option == TSC2NSEC and len(data) == 16:
        mult, shift, offset = (int.from_bytes(data[at:end], "little") for at, end in ((0, 4), (4, 8), (8, 16)))
        if mult and shift <= 32 and offset < 1 << 62:
            content.ticks = (mult, shift, offset)
    elif option == CPUSTAT:
        numbers = dict(re.findall(rb"^(\w[\w ]*):\s*(\d{1,18})", data, re.MULTILINE))
        lost = sum(int(numbers.get(key, 0)) for key in (b"overrun", b"commit overrun", b"dropped events"))
        if lost:
            cpu = int(numbers.get(b"CPU", -1))
            content.overrun[cpu] = content.overrun.get(cpu, 0) + lost


def _read_7(cursor: _Cursor, content: Content) -> None:
    content.codec = shown(cursor.text(), 20)
    cursor.text()
    place = cursor.number(8)
    seen = set()
    readers = {
        HEADER_INFO: _header_info,
        FTRACE_EVENTS: _ftrace_events,
        EVENT_FORMATS: _event_formats,
        CMDLINES: _cmdlines,
    }
    while place:
        if place in seen:
            raise cursor.fail(f"the options at byte {place} lead back to themselves")
        seen.add(place)
        options = _section(cursor, place, DONE, content)
        place = 0
        while options.at < options.size:
            option, data = options.number(2), options.take(options.number(4))
            if option == DONE:
                place = int.from_bytes(data[:8], "little")
                break
            if option in readers and len(data) == 8:
                readers[option](_section(cursor, int.from_bytes(data, "little"), option, content), content)
            elif option == BUFFER and len(content.buffers) < MOST_BUFFERS:
                content.buffers.append(_buffer(cursor, data))
            elif option == BUFFER_TEXT:
                raise TraceError(
                    f"{cursor.label} holds the text of a latency tracer, which has no events; "
                    "record it with `trace-cmd record`"
                )
            else:
                _option(option, data, content)


def _section(cursor: _Cursor, place: int, expected: int, content: Content) -> _Cursor:
    """
    What a section holds, unpacked, behind its header.
    """
    cursor.at = place
    number, flags = cursor.number(2), cursor.number(2)
    cursor.number(4)
    size = cursor.number(8)
    if number != expected:
        cursor.at = place
        raise cursor.fail(f"section {expected} should stand here, {number} does")
    if not flags & COMPRESSED:
        if size > cursor.size - cursor.at:
            raise cursor.fail(f"{size} bytes should follow, {cursor.size - cursor.at} do")
        return _Cursor(cursor._read_at, cursor.at + size, cursor.at, cursor.label)
    packed, unpacked = cursor.number(4), cursor.number(4)
    at = cursor.at
    data = unpack(cursor.take(packed), unpacked, content.codec, f"{cursor.label}, byte {at}")
    return _Cursor(lambda at, count: data[at : at + count], len(data), 0, f"{cursor.label}, section {number}")


def _buffer(cursor: _Cursor, data: bytes) -> Buffer:
    """
    The option that describes one instance, and the flags of the section with its events.
    """
    option = _Cursor(lambda at, count: data[at : at + count], len(data), 0, f"{cursor.label}, option of a buffer")
    place, name, _ = option.number(8), option.text(), option.text()
    page_size, cpus = option.number(4), option.count(MOST_CPUS, "CPUs")
    found = [(option.number(4), option.number(8), option.number(8)) for _ in range(cpus)]
    if any(cpu >= MOST_CPUS for cpu, _, _ in found):
        raise option.fail(f"CPU {max(cpu for cpu, _, _ in found)}, at most {MOST_CPUS} can be")
    cursor.at = place
    number, flags = cursor.number(2), cursor.number(2)
    if number != BUFFER:
        cursor.at = place
        raise cursor.fail(f"section {BUFFER} should stand here, {number} does")
    return Buffer(shown(name), page_size, found, bool(flags & COMPRESSED))


def unpack(data: bytes, size: int, codec: str, where: str, most: int = LARGEST_BLOB) -> bytes:
    """
    A block that is ``size`` bytes long when unpacked.
    """
    if codec not in ("zstd", "zlib"):
        raise TraceError(f"{where}: compressed with {codec}; zstd and zlib are read, `trace-cmd convert` makes them")
    if size > most:
        raise TraceError(f"{where}: a block of {size} bytes, at most {most} can be; the trace.dat is damaged")
    try:
        unpacked = zstd_block(data, size) if codec == "zstd" else zlib.decompressobj().decompress(data, size)
    except (OSError, ValueError, zlib.error) as error:
        raise TraceError(
            f"{where}: a block cannot be unpacked ({first_line(error)}); copy the trace.dat again"
        ) from None
    if len(unpacked) != size:
        raise TraceError(f"{where}: a block has {len(unpacked)} bytes and should have {size}; copy the trace.dat again")
    return unpacked


def check_places(file: IO[bytes], label: str, cpus: list[tuple[int, int, int]]) -> None:
    """
    The data of all CPUs, (cpu, byte, size), lie in the file, and no two over one another. Raises TraceError.
    """
    total, before = os.fstat(file.fileno()).st_size, 0
    for cpu, place, size in sorted(cpus, key=lambda one: one[1]):
        if place + size > total:
            missing = place + size - total
            raise TraceError(
                f"{label}, byte {place}: the data of CPU {cpu} should be {size} bytes, {missing} of them are missing; "
                "the trace.dat is cut off, copy it again"
            )
        if place < before:
            raise TraceError(f"{label}, byte {place}: the data of CPU {cpu} lie over those of another; it is damaged")
        before = place + size


def stored_pages(
    file: IO[bytes], label: str, content: Content, buffer: Buffer, place: int, size: int, block: int, streams: int
) -> Iterator[tuple[bytes, int]]:
    """
    The sub-buffers of one CPU, some at a time: (bytes, where they begin in the file).

    block: bytes at a time of what is not compressed; streams: how many are read at the same time, which bounds what a
    compressed block may become. Of compressed ones the place is that of the packed block.
    """
    total = os.fstat(file.fileno()).st_size
    end = place + size + (4 if buffer.compressed else 0)  # the size of packed blocks leaves out their count
    cursor = _Cursor(lambda at, count: os.pread(file.fileno(), count, at), min(total, end), place, label)
    if not buffer.compressed:
        while cursor.at < cursor.size:
            at = cursor.at
            yield cursor.take(min(block, cursor.size - at)), at
        return
    most = min(LARGEST_BLOB, max(buffer.page_size, BLOCKS_TOGETHER // (2 * streams)))
    for _ in range(cursor.number(4)):
        at = cursor.at
        packed, unpacked = cursor.number(4), cursor.number(4)
        if unpacked:
            yield unpack(cursor.take(packed), unpacked, content.codec, f"{label}, byte {at}", most), at
