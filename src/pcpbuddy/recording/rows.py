"""
The rows of a recording as the core takes them: one record of fixed size a row, batch by batch, checked.

What is missing between rows is counted here too: a replay must say on what it stands (law L8).
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..errors import RecordingError
from ..names import NR_PCP_TYPES
from . import stream
from .files import EVENT_CODES, EVENT_ORDER, MISSING, OTHER_EVENT, RowFile, Rows, Snapshot

REPLAYED = stream.REPLAYED
NO_PFN = 0xFFFFFFFF
NO_FIELD = -(1 << 31)  # of the 32-bit fields; the smaller ones have -1 where the row has nothing

# Field, type, column. row is the number of the row in the file; next, owner and done are the core's own notes.
_FIELDS = (
    ("row", "u8", None),
    ("next", "u8", None),
    ("earlier", "u8", None),
    ("later", "u8", None),
    ("owner", "u8", None),
    ("ts_ns", "i8", "ts_ns"),
    ("pfn", "u4", "pfn"),
    ("gfp", "u4", "gfp_flags"),
    ("pid", "i4", "pid"),
    ("count", "i4", "count"),
    ("high", "i4", "high"),
    ("free_count", "i4", "fcount"),
    ("nr", "i4", "nr"),
    ("aflags", "i4", "aflags"),
    ("boost", "i4", "boost"),
    ("cpu", "u2", "cpu"),
    ("pcp_cpu", "i2", "pcp_cpu"),
    ("event", "u1", "event"),
    ("order", "i1", "order"),
    ("type", "i1", "migratetype"),
    ("zone", "i1", "zone"),
    ("pcp_flags", "i1", "pflags"),
    ("alloc_factor", "i1", "afactor"),
    ("zone_flags", "i1", "zflags"),
    ("fpi", "i1", "fpi"),
    ("pindex", "i1", "pindex"),
    ("fallback_order", "i1", "fallback_order"),
    ("fallback_type", "i1", "fallback_migratetype"),
    ("change_ownership", "i1", "change_ownership"),
    ("percpu_refill", "i1", "percpu_refill"),
    ("block_flags", "i1", "pbflags"),
    ("old_type", "i1", "old_migratetype"),
    ("ret", "i1", "ret"),
    ("isolate", "i1", "isolate"),
    ("context", "u1", "irq_flags"),
    ("done", "u1", None),
)
ROW = np.dtype([(name, kind) for name, kind, _ in _FIELDS], align=True)
COLUMNS = ("phase", "cpu_seq", *(column for _, _, column in _FIELDS if column is not None))

# Rows that name one page or the first of several, and rows about the PCP of one CPU.
_PAGED = tuple(
    EVENT_CODES[name]
    for name in (
        *("mm_page_free", "mm_page_free_batched", "mm_page_alloc_zone_locked", "mm_page_pcpu_drain"),
        *("mm_page_alloc_extfrag", "pcp_free", "free_one", "buddy_free", "claim", "set_pageblock", "move_block"),
        *("isolate", "putback", "block_isolate", "take_buddy", "split"),
    )
)
_OF_PCP = tuple(EVENT_CODES[name] for name in ("pcp_alloc", "pcp_alloc_bulk", "pcp_alloc_tryfail", "pcp_free"))
_OF_ZONE = (*_OF_PCP, *(EVENT_CODES[name] for name in ("pcp_bulk_free", "decay", "drain_zone", "drain_zone_pages")))
_PCP_ORDERS = (0, 1, 2, 3, 9)
_MOST_LATE = 1 << 16  # numbers that are remembered of one CPU
BATCH = 1 << 14  # rows that are read at a time


@dataclasses.dataclass
class Health:
    """
    What is between the rows that are there.

    rows: of the file; replayed: of phase 1. lost: rows that the numbering of each CPU skips between the snapshots, or
    that snapshot 1 counted and the file has not. disordered: rows numbered before one that stands before them.
    clock_back: rows with an earlier time than one before. outside: rows about pages of no zone, left out.
    """

    rows: int = 0
    replayed: int = 0
    lost: dict[int, int] = dataclasses.field(default_factory=dict)
    disordered: int = 0
    clock_back: int = 0
    outside: int = 0
    events: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """
        Whether nothing is known to be missing or out of order.
        """
        return not (self.lost or self.disordered or self.outside)


class Reader:
    """
    The rows of phase 1 of a recording, checked against its snapshots.
    """

    def __init__(self, file: RowFile, first: Snapshot, last: Snapshot | None) -> None:
        self.health = Health(rows=file.nr_rows)
        self._file = file
        self._snapshots = [snap for snap in (first, last) if snap is not None]
        self._entries = [
            np.array([ring["entries"] for ring in snap.json["ring"]], np.int64) for snap in self._snapshots
        ]
        if last is not None:
            _same_machine(first, last)
        zones = first.json["zones"]
        self._zone_of = np.full(first.json["max_pfn"] + 1, -1, np.int8)
        for zone in zones:
            start = zone["zone_start_pfn"]
            self._zone_of[start : start + zone["spanned_pages"]] = zone["index"]
        self._indices = [zone["index"] for zone in zones]
        cpus = len(self._entries[0])
        self._next = self._entries[0].copy()  # one more than the highest cpu_seq that each CPU has shown
        self._seen = np.zeros(cpus, np.int64)  # how many different ones
        self._late: list[set[int]] = [set() for _ in range(cpus)]  # numbers below the highest that have not come
        self._latest_ns = -(1 << 62)

    def batches(self, size: int = BATCH) -> Iterator[np.ndarray]:
        """
        Arrays of ROW. Raises RecordingError for rows that cannot be, and for a snapshot of another recording.
        """
        done = 0
        for columns in self._file.batches(COLUMNS, size):
            names = [*EVENT_ORDER, "other"]
            rows = Rows(self._file.label, names, columns["event"], columns, done)
            stream.verify_numbering(rows, self._snapshots[0])
            self._verify_phase(rows)
            stream.verify_values(rows, self._snapshots[0])
            done += len(columns["phase"])
            del columns
            yield self._pack(rows)
            del rows  # before the next ones are made
        self._end()

    def _verify_phase(self, rows: Rows) -> None:
        for phase, entries in enumerate(self._entries):
            wrong = (rows.cpu_seq < entries[rows.cpu]) != (rows.phase <= phase)
            if wrong.any():
                row = int(np.argmax(wrong))
                cpu = int(rows.cpu[row])
                raise RecordingError(
                    f"{self._snapshots[phase].label} was taken after {entries[cpu]} events of CPU {cpu}, but row "
                    f"{rows.first + row} of {rows.label} (its number {rows.cpu_seq[row]}) is of phase "
                    f"{rows.phase[row]}: the snapshot belongs to another recording"
                )

    def _pack(self, rows: Rows) -> np.ndarray:
        inside = np.flatnonzero(rows.phase == REPLAYED)
        columns = rows.columns
        if len(inside) < len(rows.phase):
            columns = {name: values[inside] for name, values in columns.items()}
        self._watch(columns)
        packed = np.zeros(len(inside), ROW)
        packed["row"] = inside + rows.first
        for name, kind, column in _FIELDS:
            if column is not None:
                values = columns[column]
                if name == "ret":  # of __isolate_free_page: 0, or as many pages
                    values = np.minimum(values, 1)
                field = packed[name]
                np.copyto(field, values, casting="unsafe")
                field[values == MISSING] = _absent(name, kind)
        packed["pcp_cpu"] = np.where(packed["pcp_cpu"] < 0, packed["cpu"], packed["pcp_cpu"])
        placed = self._placed(rows.label, packed)
        return packed if placed.all() else packed[placed]

    def _watch(self, columns: dict[str, np.ndarray]) -> None:
        """
        Numbering and clock of the rows of phase 1.
        """
        cpu, number, stamps = columns["cpu"], columns["cpu_seq"], columns["ts_ns"]
        self.health.replayed += len(cpu)
        if not len(cpu):
            return
        for c in np.unique(cpu).tolist():
            numbers = number[cpu == c]
            reached = np.maximum.accumulate(np.r_[self._next[c] - 1, numbers])
            fresh = numbers > reached[:-1]
            self.health.disordered += int(np.count_nonzero(~fresh))
            self._seen[c] += int(np.count_nonzero(fresh))
            self._missed(c, reached[:-1][fresh], numbers[fresh])
            for late in numbers[~fresh].tolist():
                if late in self._late[c]:
                    self._late[c].remove(late)
                    self._seen[c] += 1
            self._next[c] = reached[-1] + 1
        self.health.lost = self._lost(self._next)
        reached = np.maximum.accumulate(np.r_[self._latest_ns, stamps])
        self.health.clock_back += int(np.count_nonzero(stamps < reached[:-1]))
        self._latest_ns = int(reached[-1])
        names, counts = np.unique(columns["event"], return_counts=True)
        for code, count in zip(names.tolist(), counts.tolist(), strict=True):
            name = "other" if code == OTHER_EVENT else EVENT_ORDER[code]
            self.health.events[name] = self.health.events.get(name, 0) + count

    def _missed(self, cpu: int, before: np.ndarray, numbers: np.ndarray) -> None:
        """
        Remember the last numbers that were skipped: a row out of order may still bring one, and a doubled row none.
        """
        skips = numbers - before > 1
        for start, end in zip(before[skips].tolist(), numbers[skips].tolist(), strict=True):
            if len(self._late[cpu]) < _MOST_LATE:
                self._late[cpu].update(range(start + 1, min(end, start + _MOST_LATE)))

    def _lost(self, end: np.ndarray) -> dict[int, int]:
        missing = end - self._entries[0] - self._seen
        return {int(c): int(missing[c]) for c in np.flatnonzero(missing > 0)}

    def _end(self) -> None:
        """
        How many rows each CPU wrote between the snapshots, against those that are here.
        """
        self.health.lost = self._lost(self._entries[1] if len(self._entries) > 1 else self._next)

    def _placed(self, label: str, packed: np.ndarray) -> np.ndarray:
        """
        Which rows lie in a zone of the snapshot. Raises RecordingError for rows about a PCP or zone that is not there.
        """
        paged = np.isin(packed["event"], _PAGED) | (packed["pfn"] != NO_PFN) & (packed["event"] != OTHER_EVENT)
        pfn = np.minimum(packed["pfn"], len(self._zone_of) - 1)
        nowhere = paged & (self._zone_of[pfn] < 0)
        of_zone = np.isin(packed["event"], _OF_ZONE)
        packed["zone"] = np.where((packed["zone"] < 0) & (packed["pfn"] != NO_PFN), self._zone_of[pfn], packed["zone"])
        wrong = of_zone & ~np.isin(packed["zone"], self._indices) & ~nowhere
        _refuse(label, packed, wrong, "zone", f"the snapshot has zones {', '.join(map(str, self._indices))}")
        wrong = (packed["event"] == EVENT_CODES["pcp_bulk_free"]) & (packed["nr"] < 0)
        _refuse(label, packed, wrong, "nr", "a drain frees 0 pages or more")
        of_pcp = np.isin(packed["event"], _OF_PCP)
        wrong = (packed["event"] == EVENT_CODES["pcp_alloc_bulk"]) & (packed["order"] != 0)
        _refuse(label, packed, wrong, "order", "pages in bulk are of order 0")
        wrong = of_pcp & ~np.isin(packed["order"], _PCP_ORDERS)
        _refuse(label, packed, wrong, "order", "a PCP serves orders 0 to 3 and 9")
        wrong = of_pcp & ((packed["type"] < 0) | (packed["type"] >= NR_PCP_TYPES))
        _refuse(label, packed, wrong, "type", "a PCP list is of type 0, 1 or 2")
        # The zone of a page counts, not what a damaged row says of it.
        packed["zone"] = np.where(of_zone & paged & ~nowhere, self._zone_of[pfn], packed["zone"])
        self.health.outside += int(np.count_nonzero(nowhere))
        placed: np.ndarray = ~nowhere
        return placed


def _refuse(label: str, packed: np.ndarray, wrong: np.ndarray, field: str, expected: str) -> None:
    if wrong.any():
        row = packed[int(np.argmax(wrong))]
        raise RecordingError(
            f"{label}, row {row['row']} ({EVENT_ORDER[row['event']]}): {field} {row[field]}, but {expected}; "
            "the file is damaged: copy or record it again"
        )


def _same_machine(first: Snapshot, last: Snapshot) -> None:
    def shape(snap: Snapshot) -> tuple[Any, ...]:
        zones = [(z["name"], z["zone_start_pfn"], z["spanned_pages"]) for z in snap.json["zones"]]
        return len(snap.json["ring"]), snap.json["max_pfn"], zones

    if shape(first) != shape(last):
        raise RecordingError(
            f"{first.label} and {last.label} are of different machines (CPUs, memory or zones): "
            "they belong to different recordings"
        )


def _absent(name: str, kind: str) -> int:
    if name == "pfn":
        return NO_PFN
    if kind == "i4":
        return NO_FIELD
    return -1 if kind[0] == "i" else 0
