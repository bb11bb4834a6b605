"""
How each event is written: what stands where in the kernel's text, and what its columns are called elsewhere.

Fields are those of ``schema.EVENTS``, in that order, by the first name that a kernel of today has for them. What a row
does not keep is not made up, with one exception: the page, which the tracepoints print as a pointer, and which stands
here as it would on x86-64 without address randomisation.
"""

from collections.abc import Callable

from ..names import MIGRATETYPE_NAMES
from . import gfp
from ._write import NUMBERS, Shapes
from .schema import EVENTS, KNOWN, Field, place

__all__ = ["CATEGORIES", "category", "cleaned_comm", "cleaned_marker", "shapes", "words"]

# As in _write.pyx.
DECIMAL, PFN, ADDRESS, GFP, LOCK, TYPE = range(6)

CATEGORIES = ("kmem", "lock", "vmscan", "compaction", "cma", "migrate", "page_isolation", "oom", "marker", "probe")

_PREFIXES = {
    "mm_page_": "kmem",
    "contention_": "lock",
    "mm_vmscan_": "vmscan",
    "mm_compaction_": "compaction",
    "cma_": "cma",
    "mm_migrate_": "migrate",
    "test_pages_": "page_isolation",
    "mark_victim": "oom",
    "print": "marker",
}
_TAILS = {"mm_page_free_batched": b" order=0"}
_TEXT_NAMES = {"print": "tracing_mark_write"}
_MOST_COMM = 15  # bytes, as in the kernel
_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), 127)} | {9: "\\t", 10: "\\n", 13: "\\r"}


def category(event: str) -> str:
    """
    The tracepoint system of an event; "probe" for those of the recordings.
    """
    return next((name for prefix, name in _PREFIXES.items() if event.startswith(prefix)), "probe")


def shapes(words: Callable[[int, int], bytes]) -> Shapes:
    """
    All events, for the compiled writers. words(kind, number) names flags.
    """
    return Shapes(
        {
            code: (
                _TEXT_NAMES.get(name, name).encode(),
                CATEGORIES.index(category(name)) + 1,
                name == "print",
                name.startswith(("mm_page_", "cma_")) and any(field.column == "pfn" for field in EVENTS[name]),
                _TAILS.get(name, b""),
                [_piece(name, field) for field in EVENTS[name]],
            )
            for code, name in enumerate(KNOWN)
        },
        words,
    )


def words(kernel: str | None) -> Callable[[int, int], bytes]:
    """
    Names of flags as that kernel has them; None: the newest that is known.
    """
    named = gfp.Names(gfp.parse_kernel(kernel) if kernel else gfp.NEWEST)

    def of(kind: int, number: int) -> bytes:
        if kind == TYPE:
            known = 0 <= number < len(MIGRATETYPE_NAMES)
            return (MIGRATETYPE_NAMES[number] if known else str(number)).encode()
        return named(number) if kind == GFP else gfp.lock_names(number)

    return of


def cleaned_comm(name: str) -> bytes:
    r"""
    The name of a task as a line can hold it: in the kernel's 15 bytes, and without what would end the line.

    A byte that was no UTF-8 stands in a row as \xNN, and is that byte again.
    """
    raw = name.encode("utf-8", "replace")
    if len(raw) > _MOST_COMM:
        raw = _raw_bytes(raw)[:_MOST_COMM]
    return bytes(0x3F if byte < 32 or byte == 127 else byte for byte in raw)


def cleaned_marker(text: str) -> bytes:
    r"""
    The text of a marker on one line: control characters stand as \n, \x1b and so on.
    """
    return text.translate(_ESCAPES).encode("utf-8", "replace")


def _raw_bytes(text: bytes) -> bytes:
    r"""
    ``\xNN`` of bytes that no UTF-8 has, as bytes.
    """
    parts = text.split(b"\\x")
    out = parts[0]
    for part in parts[1:]:
        try:
            byte = int(part[:2], 16) if len(part) >= 2 else 0
        except ValueError:
            byte = 0
        out += bytes([byte]) + part[2:] if byte >= 0x80 else b"\\x" + part
    return out


def _piece(event: str, field: Field) -> tuple[bytes, int, int, int, int, int]:
    """
    (what stands before it, place and width of its column, kind, what stands behind it, the column's number).
    """
    kind = {"gfp": GFP, "lock": LOCK}.get(field.kind, DECIMAL)
    if field.column == "pfn":
        kind = PFN
    if field.column in ("migratetype", "fallback_migratetype", "old_migratetype"):
        kind = TYPE
    before, after = f" {field.names[0]}=", 0
    if field.column == "lock_addr":
        kind, before = ADDRESS, " "
    elif event.startswith("contention_"):
        before, after = f" ({field.names[0]}=", ord(")")
    return before.encode(), *place(field.column), kind, after, NUMBERS[field.column]
