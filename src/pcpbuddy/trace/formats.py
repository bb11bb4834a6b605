"""
What a kernel says about its own events: the ``format`` files and ``header_page`` of tracefs, made into plans.
"""

import dataclasses
import re
from collections.abc import Iterable

from .schema import EVENTS, KNOWN, place

__all__ = ["DEFAULT_GEOMETRY", "Format", "Geometry", "Plan", "geometry", "names_by_id", "parse_formats", "plans"]

FIELD, ORDER_IS_0, TEXT = range(3)  # as in ring_page.pxi

Geometry = tuple[int, int, int, int]
Copy = tuple[int, int, int, bool, int, int]
Plan = tuple[int, int, list[Copy]]

# (size of a sub-buffer, place and size of its count of bytes, place of its data): 64 bits, pages of 4 KiB.
DEFAULT_GEOMETRY: Geometry = (4096, 8, 8, 16)
LARGEST_OFFSET = 1 << 16
MOST_FORMATS = 1 << 16  # as many as there are numbers
_FIELD = re.compile(r"field:([^;]{1,200});\s*offset:(\d{1,6});\s*size:(\d{1,6});\s*signed:([01]);")
_COMMON = {"pid": "common_pid", "irq_flags": "common_flags", "preempt_count": "common_preempt_count"}
_SIZES = (1, 2, 4, 8)


@dataclasses.dataclass(frozen=True, slots=True)
class Format:
    """
    One event: its name, its number, where each field is as (byte, size, signed), and how the kernel prints it.

    Of an event that no column is for there is no more than name and number.
    """

    name: str
    number: int
    fields: dict[str, tuple[int, int, bool]]
    printed: str


def parse_formats(text: str) -> list[Format]:
    """
    All the events that a text describes, one ``format`` file or several behind one another.
    """
    found = []
    for part in f"\n{text}".split("\nname: ", MOST_FORMATS)[1:]:
        name, _, rest = part.partition("\n")
        number = re.match(r"ID: (\d{1,5})$", rest, re.MULTILINE)
        if not number or int(number[1]) >= 1 << 16:
            continue
        name = name.strip()
        if name not in EVENTS:  # thousands in a trace.dat, of which only the name is asked for
            found.append(Format(name, int(number[1]), {}, ""))
            continue
        layout, _, printed = rest.partition("print fmt:")
        fields = {}
        for declared, offset, size, signed in _FIELD.findall(layout):
            match = re.search(r"(\w+)\s*(?:\[[^\]]*\])?\s*$", declared)
            if match and int(offset) < LARGEST_OFFSET and int(size) < LARGEST_OFFSET:
                fields[match[1]] = (int(offset), int(size), signed == "1")
        found.append(Format(name, int(number[1]), fields, printed))
    return found


def names_by_id(formats: Iterable[Format]) -> dict[int, str]:
    """
    The names of events by their numbers in the ring buffer.
    """
    return {one.number: one.name for one in formats}


def plans(formats: Iterable[Format]) -> dict[int, Plan]:
    """
    {number of an event: (code, least bytes, copies)} for RingParser, of the events that a column is for.
    """
    return {one.number: _plan(one) for one in formats if one.name in EVENTS}


def _plan(event: Format) -> Plan:
    copies = [_copy(event, name, column) for column, name in _COMMON.items()]
    for field in EVENTS[event.name]:
        copies.append(next((copy for name in field.names if (copy := _copy(event, name, field.column))), None))
    if event.name == "print" and "buf" in event.fields:
        copies.append((TEXT, event.fields["buf"][0], 0, False, *place("marker")))
    # Until 5.18 the kernel printed percpu_refill without keeping it: a zone take of order 0 was one.
    if event.name == "mm_page_alloc_zone_locked" and "percpu_refill" not in event.fields:
        order = _copy(event, "order", "percpu_refill")
        if order and "percpu_refill" in event.printed:
            copies.append((ORDER_IS_0, *order[1:]))
    done = [copy for copy in copies if copy is not None]
    return KNOWN.index(event.name), max((at + size for _, at, size, *_ in done), default=2), done


def _copy(event: Format, name: str, column: str) -> Copy | None:
    if name not in event.fields:
        return None
    offset, size, signed = event.fields[name]
    if size not in _SIZES:
        return None
    # Of 32 bits, pfn -1 is NULL all the same.
    return (FIELD, offset, size, signed or column == "pfn", *place(column))


def geometry(header_page: str) -> Geometry | None:
    """
    How sub-buffers are laid out, from the text of ``header_page``; None if it does not say.
    """
    found = {}
    for declared, offset, size, _ in _FIELD.findall(header_page):
        found[declared.split()[-1]] = (int(offset), int(size))
    if "commit" not in found or "data" not in found:
        return None
    (count_at, count_size), (data_at, data_size) = found["commit"], found["data"]
    size = data_at + data_size
    fits = count_size in (4, 8) and count_at >= 8 and count_at + count_size <= data_at <= 32 and 64 <= size <= 1 << 24
    return (size, count_at, count_size, data_at) if fits else None
