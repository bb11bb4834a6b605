"""
The life of one page in a recording: where snapshot 0 has it, every row in which it took part, where it ended.

Rows do not say what a freed page merged with, nor what a page that was taken was split out of. Both follow from the
states of the pages around it. A chunk never leaves its aligned 1024 pages (order 10 is the largest), so these are
followed from snapshot 0, and no others: the neighbourhood. What the neighbours' states do not settle is told as not
known. Rows are streamed; Python sees only those that name a page of the neighbourhood.
"""

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import RecordingError, UsageError
from ..names import (
    CMA,
    COSTLY_ORDER,
    GFP_BITS,
    ISOLATE,
    MAX_PAGE_ORDER,
    MOVABLE,
    NR_ORDERS,
    NR_PCP_TYPES,
    PAGEBLOCK_ORDER,
    PAGEBLOCK_PAGES,
    ZONE_RECLAIM_ACTIVE,
)
from . import files, snapshot
from .files import EVENT_CODES, EVENT_ORDER, MISSING, RowFile, Snapshot

__all__ = ["Life", "Place", "Step", "explain"]

NEIGHBOURHOOD = 1 << MAX_PAGE_ORDER
BATCH = 1 << 16
LONGEST_SEARCH = 64  # how many rows back the reason of a drain is looked for among those that could be it

# Where a page can be. MOVING: off a zone list and not yet handed out.
UNKNOWN, HOLE, RESERVED, ZONE, PCP, ALLOCATED, MOVING = (
    "unknown",
    "hole",
    "reserved",
    "zone",
    "pcp",
    "allocated",
    "moving",
)
# What a share of time is counted as. From the take on, the page is on its way to the one who asked.
COUNTED_AS = {MOVING: ALLOCATED}

PROBES = ("pcp_alloc", "pcp_free", "pcp_alloc_bulk", "pcp_bulk_free", "free_one", "buddy_free")
TAKES = ("mm_page_alloc_zone_locked", "mm_page_alloc_extfrag")
# What a CPU writes while it holds the zone lock and takes: nothing else of that CPU comes in between.
TAKING = (*TAKES, "claim", "set_pageblock")
REASONS = ("pcp_free", "decay", "drain_zone", "drain_zone_pages")
# Steps of the pageblock: a change of the chunk that comes with one is told beside it.
OF_THE_BLOCK = ("retyped", "isolated", "unisolated")
SOFTIRQ, HARDIRQ = 1 << 4, 1 << 3  # irq_flags of ftrace
# Rows of kprobes: their irq_flags show the trap of the probe, not the context of the allocator.
TRAPS = frozenset(EVENT_CODES[name] for name in ("pcp_alloc", "pcp_alloc_bulk"))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """
    Where pages are: one object for all pages of a chunk, a PCP entry or an allocation.

    head, order: of the chunk, entry or allocation; in the zone with no order: free there, chunk not known.
    cpu: the owner of the PCP, or the CPU that allocated. index: the PCP list (B-10).
    taken: it came off a zone list, and no row has said yet whether into a PCP. popped: mm_page_alloc is still to come.
    """

    kind: str
    head: int | None = None
    order: int | None = None
    cpu: int | None = None
    index: int | None = None
    compound: bool = False
    lru: bool | None = None
    taken: bool = False
    popped: bool = False

    def facts(self) -> dict[str, Any]:
        """
        What is known, for a document.
        """
        shown = {name: getattr(self, name) for name in ("kind", "head", "order", "cpu", "index", "lru")}
        return {name: value for name, value in shown.items() if value is not None}


NOT_KNOWN = Place(kind=UNKNOWN)
LOOSE = Place(kind=ZONE)  # free in the zone, in a chunk of which the size is not known


@dataclasses.dataclass(slots=True)
class Step:
    """
    One thing that happened to the page; ``rows`` are the rows that show it, in order.
    """

    kind: str
    t_ns: int
    rows: list[int]
    cpu: int
    pid: int | None
    comm: str | None
    facts: dict[str, Any]


@dataclasses.dataclass(slots=True, kw_only=True)
class Life:
    """
    All that is known of one page; times are ns since the first row of the recording.

    zone: name, index, first and last page; None without a snapshot. start, end: what the snapshots show, with the
    position in the list; None where there is no snapshot. followed: where the rows lead to.
    agrees: whether ``followed`` is what snapshot 1 shows; None where one of the two is not known.
    neighbours: pages of the neighbourhood by whether they agree: {"agree", "differ", "not_known"}. places: where the
    rows lead each of them to.
    times: ns by kind of place. misfits: rows of the neighbourhood that do not fit what was followed.
    """

    name: str
    pfn: int
    nr_rows: int
    span_ns: int
    kernel: str | None
    probes: bool
    tasks: bool
    digest: str
    zone: dict[str, Any] | None
    start: dict[str, Any] | None
    end: dict[str, Any] | None
    end_derived: bool
    followed: Place
    steps: list[Step]
    agrees: bool | None
    neighbours: dict[str, int] | None
    places: list[Place]
    times: dict[str, int]
    lost: dict[str, int]
    outside: int
    misfits: int

    @property
    def base(self) -> int:
        """
        The first page of the neighbourhood.
        """
        return self.pfn & -NEIGHBOURHOOD

    def summary(self) -> dict[str, Any]:
        """
        Who allocated and freed the page how often, and where it spent its time.
        """
        allocated = [step for step in self.steps if step.kind == "allocated"]
        freed = [step for step in self.steps if step.kind == "freed"]
        pairs = [(step.facts["allocated_on"], step.cpu) for step in freed if "allocated_on" in step.facts]
        total = sum(self.times.values())
        return {
            "allocated": len(allocated),
            "allocated_by_cpu": _count(step.cpu for step in allocated),
            "allocated_unseen": sum("unseen" in step.facts for step in self.steps),
            "freed": len(freed),
            "freed_by_cpu": _count(step.cpu for step in freed),
            "freed_both_known": len(pairs),
            "freed_on_another_cpu": sum(a != b for a, b in pairs),
            "drained": sum(step.kind == "drained" for step in self.steps),
            "time_share": {kind: ns / total for kind, ns in self.times.items() if ns} if total else {},
        }

    def document(self) -> dict[str, Any]:
        """
        Everything as one JSON-able value.
        """
        return {
            "pfn": self.pfn,
            "probes": self.probes,
            "zone": self.zone,
            "pageblock": self.pfn // PAGEBLOCK_PAGES,
            "neighbourhood": [self.base, self.base + NEIGHBOURHOOD - 1],
            "start": self.start,
            "steps": [
                {name: value for name, value in dataclasses.asdict(step).items() if value is not None}
                for step in self.steps
            ],
            "summary": self.summary(),
            "followed_to": self.followed.facts(),
            "end": self.end,
            "end_derived": self.end_derived,
            "agrees": self.agrees,
            "neighbours": self.neighbours,
            "rows_lost": self.lost,
            "rows_outside": self.outside,
            "misfits": self.misfits,
        }


class Row(NamedTuple):
    """
    A row that names a page of the neighbourhood.
    """

    number: int
    ts_ns: int
    cpu: int
    event: int
    pfn: int
    order: int
    migratetype: int
    gfp_flags: int
    fallback_order: int
    fallback_migratetype: int
    pcp_cpu: int
    pbflags: int
    isolate: int
    ret: int
    pid: int
    irq_flags: int


COLUMNS = (*Row._fields[1:], "cpu_seq", "phase", "nr", "pindex", "count", "high", "zone", "zflags")
NEED_ORDER = frozenset(
    EVENT_CODES[name]
    for name in (
        "mm_page_alloc",
        "mm_page_free",
        "mm_page_alloc_zone_locked",
        "mm_page_alloc_extfrag",
        "mm_page_pcpu_drain",
        "pcp_alloc",
        "pcp_alloc_bulk",
        "pcp_free",
        "free_one",
        "buddy_free",
        "split",
    )
)


def explain(path: Path, pfn: int, *, batch: int = BATCH) -> Life:
    """
    Follow page ``pfn`` through the recording whose rows are the file ``path``, its snapshots beside it.

    Raises UsageError for a page outside all zones, RecordingError for damage.
    """
    base = path.with_name(path.name.removesuffix(".parquet"))
    rows = RowFile(path)
    snaps = [files.read_snapshot(base, which) for which in (0, 1)]
    for snap in snaps:
        if snap is not None:
            snapshot.verify(snap)
    first, last = snaps
    zones = _zones(first or last)
    zone = _zone_of(zones, pfn, base.name)
    reader = _Reader(rows, first, last, pfn & -NEIGHBOURHOOD, batch)
    follower = _Follower(pfn, first, zones, probes=_with_probes(rows))
    for window, row in reader.selected():
        follower.step(row, window)
    reader.finish()
    end = _places(last, follower.base) if last is not None else None
    verdicts = [_agrees(a, b, probes=follower.probes) for a, b in zip(follower.at, end or ())]  # noqa: B905
    derived = last is not None and bool(last.json.get("derived"))
    life = Life(
        name=base.name,
        pfn=pfn,
        nr_rows=rows.nr_rows,
        span_ns=reader.last_ns - reader.first_ns,
        kernel=next((snap.json["kernel"] for snap in snaps if snap is not None), None),
        probes=follower.probes,
        tasks="pid" in rows.columns,
        digest=_digest(path, snaps),
        zone=zone,
        start=_shown(first, pfn) if first is not None else None,
        end=_shown(last, pfn) if last is not None else None,
        end_derived=derived,
        followed=follower.at[follower.target],
        steps=follower.steps,
        agrees=verdicts[follower.target] if verdicts else None,
        neighbours={
            name: sum(verdict is value for verdict in verdicts)
            for name, value in (("agree", True), ("differ", False), ("not_known", None))
        }
        if verdicts
        else None,
        places=follower.at,
        times=follower.times(reader.begins_ns, reader.last_ns),
        lost=reader.lost,
        outside=reader.outside(pfn),
        misfits=follower.misfits,
    )
    if reader.first_gap is not None:
        number, ts_ns, cpu = reader.first_gap
        life.steps.append(Step("lost", ts_ns, [number], cpu, None, None, {}))
        life.steps.sort(key=lambda step: step.rows[0])
    if derived and life.end is not None:
        life.end.pop("lru", None)  # a derived snapshot does not know LRU flags
    for step in life.steps:
        step.t_ns -= reader.first_ns
    _name_tasks(rows, life.steps, batch)
    return life


def _count(cpus: Iterator[int] | Any) -> dict[str, int]:
    """
    How often each CPU occurs, by its number as text, as JSON has it.
    """
    found: dict[int, int] = {}
    for cpu in cpus:
        found[cpu] = found.get(cpu, 0) + 1
    return {str(cpu): found[cpu] for cpu in sorted(found)}


def _digest(path: Path, snaps: list[Snapshot | None]) -> str:
    """
    SHA-256 over the rows and both snapshots.
    """
    digest = hashlib.sha256()
    for part in (path, *(part for snap in snaps if snap is not None for part in snap.paths)):
        with part.open("rb") as file:
            while data := file.read(1 << 20):
                digest.update(data)
    return digest.hexdigest()


def _with_probes(rows: RowFile) -> bool:
    """
    Whether ``ora/*`` rows are there. The first batch says so, if they are.
    """
    probes = [EVENT_CODES[name] for name in PROBES]
    return any(np.isin(batch["event"], probes).any() for batch in rows.batches(("event",)))


def _name_tasks(rows: RowFile, steps: list[Step], batch: int) -> None:
    """
    Put names of tasks into the steps; read only as far as the last one.
    """
    wanted: dict[int, list[Step]] = {}
    for step in steps:
        if step.pid is not None:
            wanted.setdefault(step.rows[0], []).append(step)
    if "comm" not in rows.columns or not wanted:
        return
    first, last = 0, max(wanted)
    for arrays in rows.batches(("comm",), batch):
        names = arrays["comm"]
        for number in [number for number in wanted if number < first + len(names)]:
            for step in wanted.pop(number):
                step.comm = names[number - first]
        first += len(names)
        if first > last:
            return


# Snapshots.


def _zones(snap: Snapshot | None) -> list[dict[str, Any]]:
    if snap is None:
        return []
    return [
        {
            "name": zone["name"],
            "index": zone["index"],
            "first": zone["zone_start_pfn"],
            "last": zone["zone_start_pfn"] + zone["spanned_pages"] - 1,
        }
        for zone in snap.json["zones"]
    ]


def _zone_of(zones: list[dict[str, Any]], pfn: int, name: str) -> dict[str, Any] | None:
    """
    The zone of a page; None if no snapshot tells. Raises UsageError for one outside all zones.
    """
    for zone in zones:
        if zone["first"] <= pfn <= zone["last"]:
            return zone
    if not zones and 0 <= pfn < 1 << 52:
        return None
    ranges = ", ".join(f"{zone['name']} {zone['first']} to {zone['last']}" for zone in zones)
    expected = f"the zones are {ranges}; give a page of one of them" if zones else "a page frame number is 0 or more"
    raise UsageError(f"page {pfn} is in no zone of {name}: {expected}")


def _places(snap: Snapshot, base: int) -> list[Place]:
    """
    Where a snapshot has each page of a neighbourhood.
    """
    states = snap.arrays["page_state"][base : base + NEIGHBOURHOOD].tolist()
    orders = snap.arrays["page_order"][base : base + NEIGHBOURHOOD].tolist()
    flags = snap.arrays["page_flags"][base : base + NEIGHBOURHOOD].tolist()
    places = [Place(kind=HOLE)] * NEIGHBOURHOOD
    for at, state in enumerate(states):
        if state == 1:
            places[at] = Place(kind=RESERVED)
        elif state == snapshot.ALLOCATED:
            order, size = orders[at], 1 << orders[at]
            lru = bool(flags[at] & snapshot.PAGE_LRU)
            place = Place(kind=ALLOCATED, head=base + at, order=order, compound=order > 0, lru=lru)
            places[at : at + size] = [place] * len(places[at : at + size])
    for zone in snap.json["zones"]:
        for area in zone["free_area"]:
            for pfns in area["free_list"].values():
                for pfn in _inside(pfns, base):
                    _put(places, base, Place(kind=ZONE, head=pfn, order=area["order"]))
        for pcp in zone["pcp"]:
            for index, pfns in pcp["lists"].items():
                for pfn in _inside(pfns, base):
                    order = _list_order(int(index))
                    _put(places, base, Place(kind=PCP, head=pfn, order=order, cpu=pcp["cpu"], index=int(index)))
    return places


def _inside(pfns: list[int], base: int) -> list[int]:
    if not pfns:
        return []
    array = np.asarray(pfns, np.int64)
    return array[(array >= base) & (array < base + NEIGHBOURHOOD)].tolist()  # type: ignore[no-any-return]


def _put(places: list[Place], base: int, place: Place) -> None:
    assert place.head is not None
    assert place.order is not None
    size = 1 << place.order
    places[place.head - base : place.head - base + size] = [place] * size


def _shown(snap: Snapshot, pfn: int) -> dict[str, Any]:
    """
    What a snapshot says of one page: its place, the type of its block, and the position in its list, counted from 1.
    """
    place = _places(snap, pfn & -NEIGHBOURHOOD)[pfn % NEIGHBOURHOOD]
    shown = place.facts() | {"block_type": _block_types(snap, pfn & -NEIGHBOURHOOD)[_block(pfn)]}
    for zone in snap.json["zones"]:
        for area in zone["free_area"]:
            for T, pfns in area["free_list"].items():
                if place.kind == ZONE and area["order"] == place.order and place.head in pfns:
                    shown |= {"list_type": int(T), "position": pfns.index(place.head) + 1, "of": len(pfns)}
        for pcp in zone["pcp"]:
            pfns = pcp["lists"].get(str(place.index), [])
            if place.kind == PCP and pcp["cpu"] == place.cpu and place.head in pfns:
                shown |= {"position": pfns.index(place.head) + 1, "of": len(pfns)}
    return shown


def _block_types(snap: Snapshot, base: int) -> list[int | None]:
    """
    The effective types of the two blocks of a neighbourhood (1.3); a block without a flag byte is M, as at boot.
    """
    flags = snap.arrays["pageblock_flags"][base // PAGEBLOCK_PAGES :][:2].tolist()
    types: list[int | None] = [
        ISOLATE if byte & snapshot.BLOCK_ISOLATED else byte & snapshot.BLOCK_TYPE for byte in flags
    ]
    return types + [MOVABLE] * (2 - len(types))


def _list_order(index: int) -> int:
    """
    The order of a PCP list (B-11).
    """
    return PAGEBLOCK_ORDER if index >= snapshot.ORDER_9_LIST else index // NR_PCP_TYPES


def _list_index(order: int, T: int | None) -> int | None:
    """
    The PCP list of an order and type (B-10), H and C riding on M (B-80); None where the type is not known.
    """
    if T is None:
        return None
    T = T if T < NR_PCP_TYPES else MOVABLE
    return NR_PCP_TYPES * order + T if order <= COSTLY_ORDER else snapshot.ORDER_9_LIST + (T == MOVABLE)


def _pcp_capable(order: int) -> bool:
    return order <= COSTLY_ORDER or order == PAGEBLOCK_ORDER


def _block(pfn: int) -> int:
    """
    Which of the two blocks of its neighbourhood a page is in.
    """
    return pfn % NEIGHBOURHOOD // PAGEBLOCK_PAGES


def _agrees(followed: Place, found: Place, *, probes: bool) -> bool | None:
    """
    Whether the followed place is what a snapshot shows; None where it was not known.

    Of an allocation the state alone is compared: that a huge page was split into single pages has no row. Nor has a
    plain trace one for the larger entry that contiguous frees become (R5).
    """
    if followed.kind == UNKNOWN:
        return None
    if followed.kind != found.kind:
        return False
    if followed.kind == ZONE:
        return None if followed.order is None else (followed.head, followed.order) == (found.head, found.order)
    if followed.kind == PCP:
        if not probes and followed.cpu == found.cpu and (followed.order or 0) < (found.order or 0):
            return None
        same = (followed.head, followed.order, followed.cpu) == (found.head, found.order, found.cpu)
        return same and followed.index in (None, found.index)
    return True


# Reading.


class _Window:
    """
    The batches around a row: what its CPU did before and after it.
    """

    def __init__(self, parts: list[dict[str, np.ndarray]], first: int) -> None:
        self._parts = parts
        self._first = first
        self._joined: dict[str, np.ndarray] = {}
        self._cpus: dict[int, np.ndarray] = {}

    def column(self, name: str) -> np.ndarray:
        """
        A column of all batches of the window.
        """
        if name not in self._joined:
            self._joined[name] = np.concatenate([part[name] for part in self._parts])
        return self._joined[name]

    def value(self, name: str, at: int) -> int | None:
        """
        One field; None where it is null.
        """
        value = int(self.column(name)[at])
        return None if value == MISSING else value

    def of_cpu(self, number: int, cpu: int) -> tuple[np.ndarray, int]:
        """
        The positions of a CPU's rows in the window, and which of them is row ``number``.
        """
        if cpu not in self._cpus:
            self._cpus[cpu] = np.flatnonzero(self.column("cpu") == cpu)
        positions = self._cpus[cpu]
        return positions, int(np.searchsorted(positions, number - self._first))

    def unbroken(self, rows: np.ndarray, begin: int, end: int) -> bool:
        """
        Whether no row is lost between two of the rows of a CPU.
        """
        count = self.column("cpu_seq")
        return int(count[rows[end]] - count[rows[begin]]) == end - begin

    def number(self, at: int) -> int:
        """
        The row number of a position.
        """
        return self._first + int(at)


class _Reader:
    """
    Streams a recording once and picks the rows of a neighbourhood, and what is known of lost rows.

    lost: how many rows are lost, and at how many places.
    """

    def __init__(self, rows: RowFile, first: Snapshot | None, last: Snapshot | None, base: int, batch: int) -> None:
        self._rows, self._base, self._batch = rows, base, batch
        self._snaps = [(snap, which) for which, snap in enumerate((first, last)) if snap is not None]
        self._phases = (0 if first is None else 1, 2 if last is None else 1)
        self._seen: dict[int, int] = {}  # CPU -> number of its last row
        self._entered: dict[int, int] = {}  # CPU -> rows up to the last one of the followed phases
        self._outside: list[tuple[np.ndarray, np.ndarray]] = []
        self.lost = {"rows": 0, "places": 0}
        self.first_gap: tuple[int, int, int] | None = None
        self.first_ns = self.last_ns = self.begins_ns = -1

    def selected(self) -> Iterator[tuple[_Window, Row]]:
        """
        Each row of the neighbourhood, with the rows around it.
        """
        parts: list[dict[str, np.ndarray]] = []
        start = 0  # the number of the first row of parts[0]
        current = -1  # the batch in parts whose rows are being given out
        for part in self._rows.batches(COLUMNS, self._batch):
            parts.append(part)
            if len(parts) > 1:
                current += 1
                yield from self._give(parts, current, start)
            if len(parts) == 3:
                start += len(parts.pop(0)["event"])
                current -= 1
        if not parts:
            raise RecordingError(f"{self._rows.label} has no rows; record it again")
        yield from self._give(parts, current + 1, start)

    def _give(self, parts: list[dict[str, np.ndarray]], current: int, start: int) -> Iterator[tuple[_Window, Row]]:
        part = parts[current]
        number = start + sum(len(before["event"]) for before in parts[:current])
        self._verify(part, number)
        inside = (part["phase"] >= self._phases[0]) & (part["phase"] <= self._phases[1])
        self._times(part, inside)
        self._gaps(part, inside, number)
        near = (part["pfn"] >= self._base) & (part["pfn"] < self._base + NEIGHBOURHOOD)
        if (near & ~inside).any():
            beside = near & ~inside
            self._outside.append((part["pfn"][beside], np.maximum(part["order"][beside], 0)))
        at = np.flatnonzero(near & inside)
        self._verify_orders(part, at, number)
        window = _Window(list(parts), start)
        columns = [(at + number).tolist(), *(part[name][at].tolist() for name in Row._fields[1:])]
        for values in zip(*columns, strict=True):
            yield window, Row(*values)

    def outside(self, pfn: int) -> int:
        """
        How many rows before snapshot 0 or after snapshot 1 name the page.
        """
        return sum(
            int(np.count_nonzero((pfns <= pfn) & (pfn < pfns + (1 << np.minimum(orders, MAX_PAGE_ORDER)))))
            for pfns, orders in self._outside
        )

    def _times(self, part: dict[str, np.ndarray], inside: np.ndarray) -> None:
        if self.first_ns < 0:
            self.first_ns = self.last_ns = self.begins_ns = int(part["ts_ns"][0])
        stamps = part["ts_ns"][inside]
        if len(stamps):
            if not self._entered:
                self.begins_ns = int(stamps[0])
            self.last_ns = int(stamps[-1])

    def _verify(self, part: dict[str, np.ndarray], number: int) -> None:
        """
        Refuse rows that cannot be, and a snapshot that was not taken at these rows.
        """
        cpus = self._nr_cpus()
        for name, wrong, expected in (
            ("cpu", (part["cpu"] < 0) | (part["cpu"] >= cpus), f"CPUs are 0 to {cpus - 1}"),
            ("cpu_seq", part["cpu_seq"] < 0, "each CPU counts its rows from 0"),
            ("phase", (part["phase"] < 0) | (part["phase"] > 2), "phases are 0, 1 and 2"),
            ("ts_ns", part["ts_ns"] < 0, "a time is 0 or more"),
        ):
            if wrong.any():
                self._refuse(part, int(np.argmax(wrong)), number, name, expected)
        for snap, which in self._snaps:
            entries = np.array([ring["entries"] for ring in snap.json["ring"]], np.int64)
            wrong = (part["cpu_seq"] < entries[part["cpu"]]) != (part["phase"] <= which)
            if wrong.any():
                at = int(np.argmax(wrong))
                cpu = int(part["cpu"][at])
                raise RecordingError(
                    f"{snap.label} was taken after {entries[cpu]} events of CPU {cpu}, but row {number + at} of "
                    f"{self._rows.label} (its number {part['cpu_seq'][at]}) is of phase {part['phase'][at]}: the "
                    "snapshot belongs to another recording"
                )

    def _nr_cpus(self) -> int:
        return min((len(snap.json["ring"]) for snap, _ in self._snaps), default=1 << 16)

    def _refuse(self, part: dict[str, np.ndarray], at: int, number: int, name: str, expected: str) -> None:
        value = int(part[name][at])
        code = int(part["event"][at])
        event = EVENT_ORDER[code] if code < len(EVENT_ORDER) else "another event"
        seen = f"no {name}" if value == MISSING else f"{name} {value}"
        raise RecordingError(
            f"{self._rows.label}, row {number + at} ({event}): {seen}, but {expected}; the file is damaged: copy or "
            "record it again"
        )

    def _verify_orders(self, part: dict[str, np.ndarray], at: np.ndarray, number: int) -> None:
        needed = np.isin(part["event"][at], list(NEED_ORDER))
        order = part["order"][at]
        wrong = ((order < 0) | (order >= NR_ORDERS)) & (needed | (order != MISSING))
        if wrong.any():
            self._refuse(part, int(at[np.argmax(wrong)]), number, "order", "orders are 0 to 10")
        wrong = (part["pfn"][at] & ((1 << np.maximum(order, 0)) - 1) != 0) & (needed | (order != MISSING))
        if wrong.any():
            expected = "the first page of an order is aligned to its size"
            self._refuse(part, int(at[np.argmax(wrong)]), number, "pfn", expected)
        have = part["fallback_order"][at]
        wrong = ((have < order) | (have >= NR_ORDERS)) & np.isin(part["event"][at], [_EXTFRAG, _CLAIM])
        if wrong.any():
            expected = "a fallback is of the order asked for, up to 10"
            self._refuse(part, int(at[np.argmax(wrong)]), number, "fallback_order", expected)

    def _gaps(self, part: dict[str, np.ndarray], inside: np.ndarray, number: int) -> None:
        """
        Rows that the numbering of a CPU skips.
        """
        for cpu in np.unique(part["cpu"]).tolist():
            rows = np.flatnonzero(part["cpu"] == cpu)
            count = part["cpu_seq"][rows]
            back = np.diff(count, prepend=self._seen.get(cpu, -1)) < 1
            if back.any():
                self._refuse(part, int(rows[np.argmax(back)]), number, "cpu_seq", "the rows of a CPU count upwards")
            self._seen[cpu] = int(count[-1])
            rows, count = rows[inside[rows]], count[inside[rows]]
            if not len(rows):
                continue
            skipped = np.diff(count, prepend=self._entered.get(cpu, self._entries(0).get(cpu, 0)) - 1) - 1
            self._entered[cpu] = int(count[-1]) + 1
            gaps = np.flatnonzero(skipped > 0)
            if len(gaps):
                self.lost["rows"] += int(skipped[gaps].sum())
                self.lost["places"] += len(gaps)
                at = int(rows[gaps[0]])
                if self.first_gap is None or self.first_gap[0] > number + at:
                    self.first_gap = number + at, int(part["ts_ns"][at]), cpu

    def _entries(self, which: int) -> dict[int, int]:
        """
        How many rows each CPU had written when a snapshot was taken; nothing if there is none.
        """
        return {ring["cpu"]: ring["entries"] for snap, n in self._snaps if n == which for ring in snap.json["ring"]}

    def finish(self) -> None:
        """
        Rows that the last snapshot has seen and the file has not: its end is cut off.
        """
        first = self._entries(0)
        for cpu, entries in self._entries(1).items():
            missing = entries - self._entered.get(cpu, first.get(cpu, 0))
            if missing > 0:
                self.lost["rows"] += missing
                self.lost["places"] += 1
                if self.first_gap is None:
                    self.first_gap = self._rows.nr_rows, self.last_ns, cpu


# Following.

_CODE = {name: EVENT_CODES[name] for name in EVENT_ORDER}
_EXTFRAG, _CLAIM = _CODE["mm_page_alloc_extfrag"], _CODE["claim"]


class _Follower:
    """
    The places of all pages of a neighbourhood after each row, and the steps of the one page that is told.

    misfits: rows that contradict the followed places. With probes and no lost row there are none.
    """

    def __init__(self, pfn: int, first: Snapshot | None, zones: list[dict[str, Any]], *, probes: bool) -> None:
        self.base, self.pfn, self.target = pfn & -NEIGHBOURHOOD, pfn, pfn % NEIGHBOURHOOD
        self.probes = probes
        self.at = [NOT_KNOWN] * NEIGHBOURHOOD
        self.types: list[int | None] = [None, None]
        if first is not None:
            self.at = _places(first, self.base)
            self.types = _block_types(first, self.base)
        self._stored: list[int | None] = [None, None]  # the types of blocks while they are isolated
        self._zones = zones
        self._claims: dict[int, Row] = {}
        self._freeing: Step | None = None  # mm_page_free came, the page is not on a list yet
        self._popped: Step | None = None  # pcp_alloc came, mm_page_alloc did not
        self._last_free: Step | None = None
        self._told = False
        self._began = self.at[self.target].kind
        self._changes: list[tuple[int, str]] = []
        self.steps: list[Step] = []
        self.misfits = 0
        self._window: _Window | None = None
        self._handlers = {
            _CODE[name.removeprefix("_on_")]: getattr(self, name) for name in dir(self) if name.startswith("_on_")
        }

    def step(self, row: Row, window: _Window) -> None:
        """
        Follow one row.
        """
        handler = self._handlers.get(row.event)
        if handler is None:
            return
        self._window = window
        before = self.at[self.target]
        self._told = False
        handler(row)
        after = self.at[self.target]
        if after is before:
            return
        self._changes.append((row.ts_ns, after.kind))
        if not self._told and before.kind == after.kind == ZONE:
            facts = {"before": before.facts(), "after": after.facts(), "by": EVENT_ORDER[row.event], "pfn": row.pfn}
            self._tell("chunk", row, facts)

    def times(self, begins_ns: int, ends_ns: int) -> dict[str, int]:
        """
        How long the page was in each kind of place.
        """
        times: dict[str, int] = {}
        since, kind = begins_ns, self._began
        for ts_ns, after in [*self._changes, (ends_ns, "")]:
            kind = COUNTED_AS.get(kind, kind)
            times[kind] = times.get(kind, 0) + max(ts_ns - since, 0)
            since, kind = ts_ns, after
        return times

    def _tell(self, kind: str, row: Row, facts: dict[str, Any]) -> Step:
        """
        Add a step. Facts that are None are not known and are left out.
        """
        pid = None if row.pid == MISSING else row.pid
        step = Step(
            kind, row.ts_ns, [row.number], row.cpu, pid, None, {k: v for k, v in facts.items() if v is not None}
        )
        self._context(step, row)
        self.steps.append(step)
        self._told = self._told or kind not in OF_THE_BLOCK
        return step

    def _context(self, step: Step, row: Row) -> None:
        """
        Note that an interrupt did it: the task is only who was interrupted.
        """
        if row.irq_flags != MISSING and row.event not in TRAPS and row.irq_flags & (SOFTIRQ | HARDIRQ):
            step.facts["context"] = "hardirq" if row.irq_flags & HARDIRQ else "softirq"

    # Places.

    def _covers(self, pfn: int, order: int) -> bool:
        return pfn <= self.pfn < pfn + (1 << order)

    def _fill(self, pfn: int, order: int, place: Place) -> None:
        at = pfn - self.base
        self.at[at : at + (1 << order)] = [place] * (1 << order)

    def _among(self, pfn: int, order: int) -> list[Place]:
        """
        The different places of a range of pages.
        """
        at = pfn - self.base
        if not order:
            return [self.at[at]]
        return list({id(place): place for place in self.at[at : at + (1 << order)]}.values())

    def _loosen(self, pfn: int, order: int) -> None:
        """
        Chunks that reach into the range were changed by rows that are not there: their sizes are no longer known.
        """
        for place in self._among(pfn, order):
            if place.kind == ZONE and place.head is not None and place.order is not None:
                self._fill(place.head, place.order, LOOSE)

    def _effective(self, pfn: int) -> int | None:
        return self.types[_block(pfn)]

    def _learn_type(self, pfn: int, T: int) -> None:
        """
        A take or drain says the type of the list, which is that of the block.
        """
        if 0 <= T <= ISOLATE:
            self.types[_block(pfn)] = T

    def _take(self, pfn: int, order: int, have: int | None = None) -> tuple[Place | None, str | None]:
        """
        Take pages off the zone lists (B-34, B-35): what they were split out of, and what does not fit.

        have: the order of the chunk, where the row says it.
        """
        chunk = self.at[pfn - self.base]
        exact = chunk.kind == ZONE and chunk.order is not None
        fits = exact and chunk.head == pfn and chunk.order >= order and have in (None, chunk.order)  # type: ignore[operator]
        doubt = None
        if not fits:
            others = {place.kind for place in self._among(pfn, order)} - {UNKNOWN}
            if exact or others - {ZONE}:
                doubt = self._doubt(chunk, ZONE)
            self._loosen(pfn, order if have is None else have)
            chunk = Place(kind=ZONE, head=pfn, order=have)
        if chunk.order is None:
            return None, doubt
        for high in range(chunk.order - 1, order - 1, -1):
            self._fill(pfn + (1 << high), high, Place(kind=ZONE, head=pfn + (1 << high), order=high))
        return chunk, doubt

    def _merge(self, pfn: int, order: int) -> dict[str, Any]:
        """
        Free a chunk into the zone (B-36): what it became, and over how many steps.

        exact: False where a buddy's state is not known, so the chunk may be larger than told.
        """
        began, exact = order, True
        while order < MAX_PAGE_ORDER and exact:
            buddy = pfn ^ (1 << order)
            place = self.at[buddy - self.base]
            if self._zone(buddy) != self._zone(pfn):
                break
            if place.kind != ZONE or place.head != buddy or place.order != order:
                # Not one free chunk: known for sure if any page of it is known to be elsewhere, or in a smaller chunk.
                parts = self._among(buddy, order)
                exact = any(part.kind not in (UNKNOWN, ZONE) or part.order is not None for part in parts)
                break
            if order >= PAGEBLOCK_ORDER:
                mine, its = self._effective(pfn), self._effective(buddy)
                if mine != its:
                    if mine is None or its is None:
                        exact = False
                        break
                    if mine >= NR_PCP_TYPES or its >= NR_PCP_TYPES:
                        break
                    self.types[_block(buddy)] = mine
            pfn, order = pfn & buddy, order + 1
        self._fill(pfn, order, Place(kind=ZONE, head=pfn, order=order) if exact else LOOSE)
        return {"head": pfn, "order": order, "steps": order - began, "exact": exact}

    def _zone(self, pfn: int) -> int:
        for zone in self._zones:
            if zone["first"] <= pfn <= zone["last"]:
                return int(zone["index"])
        return -1

    def _doubt(self, place: Place, needed: str) -> str:
        """
        A row needs the page somewhere else than it was followed to: say what the rows do not show.
        """
        self.misfits += 1
        if place.kind == ZONE and needed == ZONE:
            return f"it was followed as part of a chunk of order {place.order} at {place.head}; a row is missing"
        seen = {
            ZONE: "no row shows it leaving the zone",
            PCP: "no row shows it leaving the PCP",
            ALLOCATED: "no row shows it being freed",
            MOVING: "no row shows who got it after it left the zone",
            RESERVED: "it was a reserved page before",
            HOLE: "there was no memory before",
        }
        return seen.get(place.kind, "where it was before is not known")

    # The zone lists.

    def _on_mm_page_alloc_zone_locked(self, row: Row) -> None:
        self._learn_type(row.pfn, row.migratetype)
        source, doubt = self._take(row.pfn, row.order)
        self._taken(row, row.migratetype, source, doubt, {})

    def _on_mm_page_alloc_extfrag(self, row: Row) -> None:
        place, have = self.at[row.pfn - self.base], row.fallback_order
        fallback = {"fallback_order": have, "fallback_type": row.fallback_migratetype}
        if place.taken and (place.head, place.order, place.cpu) == (row.pfn, row.order, row.cpu):
            # A claim of part of a block: the take had its own row (17.4).
            if self._covers(row.pfn, row.order) and self.steps and self.steps[-1].kind == "taken":
                self.steps[-1].facts |= fallback
                self.steps[-1].rows.append(row.number)
            return
        self._claims.pop(row.cpu, None)
        head = row.pfn % (1 << have) == 0  # if not, the take of a claim of part of a block is missing
        source, doubt = self._take(row.pfn, row.order, have if head else None)
        if head and have >= PAGEBLOCK_ORDER:  # B-47: the whole chunk and its blocks become the type asked for
            for pfn in range(row.pfn, row.pfn + (1 << have), PAGEBLOCK_PAGES):
                self._retype(row, pfn, row.migratetype)
        elif head:  # B-48: the block keeps its type
            self._learn_type(row.pfn, row.fallback_migratetype)
        self._taken(row, row.migratetype, source, doubt, fallback)

    def _taken(self, row: Row, T: int, source: Place | None, doubt: str | None, fallback: dict[str, Any]) -> None:
        pcp = _pcp_capable(row.order) and (T < NR_PCP_TYPES or T == CMA)
        place = Place(
            kind=PCP if pcp else MOVING,
            head=row.pfn,
            order=row.order,
            cpu=row.cpu,
            index=_list_index(row.order, T) if pcp else None,
            taken=True,
        )
        if self._covers(row.pfn, row.order):
            refill = self._refill(row) if pcp else {"into": "request"}
            if refill["into"] == "request":
                place = dataclasses.replace(place, kind=MOVING, index=None)
            facts = {"head": row.pfn, "order": row.order, "type": T, "doubt": doubt, "refill": refill, **fallback}
            self._tell("taken", row, facts | {"source": source.facts() if source else None, "list": place.index})
        self._fill(row.pfn, row.order, place)

    def _refill(self, row: Row) -> dict[str, Any]:
        """
        Whether a take filled the PCP or served one request, and which entry of the refill it was.

        into: "pcp", "request", or "either": a refill of one entry looks like a direct take (R4).
        """
        assert self._window is not None
        rows, at = self._window.of_cpu(row.number, row.cpu)
        event, pfns = self._window.column("event"), self._window.column("pfn")
        taking = {_CODE[name] for name in TAKING}
        begin, end = at, at + 1
        while begin > 0 and int(event[rows[begin - 1]]) in taking:
            begin -= 1
        while end < len(rows) and int(event[rows[end]]) in taking:
            end += 1
        takes = [_CODE[name] for name in TAKES]
        entries = [int(pfns[i]) for i in rows[begin:end] if event[i] in takes]
        entries = [pfn for n, pfn in enumerate(entries) if n == 0 or pfn != entries[n - 1]]
        facts = {"nth": entries.index(row.pfn) + 1, "of": len(entries)}
        if not self._window.unbroken(rows, begin, end - 1):
            facts = {}
        after = rows[end:]
        handed = (event[after] == _CODE["mm_page_alloc"]) & (pfns[after] == row.pfn)
        if self.probes:
            pops = np.isin(event[after], [_CODE["pcp_alloc"], _CODE["pcp_alloc_bulk"]])
            first = int(np.argmax(handed | pops)) if len(after) else 0
            if not len(after) or not (handed | pops)[first]:
                return {"into": "pcp", **facts}
            if pops[first]:
                return {"into": "pcp", **facts}
            failed = begin > 0 and int(event[rows[begin - 1]]) == _CODE["pcp_alloc_tryfail"]
            return {"into": "request"} | ({"trylock_failed": True} if failed else {})
        if len(entries) == 1 and len(after) and handed[0]:
            return {"into": "either"}
        return {"into": "pcp", **facts}

    def _on_claim(self, row: Row) -> None:
        self._claims[row.cpu] = row

    def _on_set_pageblock(self, row: Row) -> None:
        claim = self._claims.get(row.cpu)
        self._retype(row, row.pfn, row.pbflags & snapshot.BLOCK_TYPE, claim)

    def _on_move_block(self, row: Row) -> None:
        if 0 <= row.migratetype < ISOLATE:
            self._retype(row, row.pfn, row.migratetype, self._claims.get(row.cpu))

    def _retype(self, row: Row, pfn: int, T: int, claim: Row | None = None) -> None:
        """
        The type of a block changes: free chunks in it go to the lists of the new type.
        """
        before = self.types[_block(pfn)]
        if before == T:
            return
        self.types[_block(pfn)] = T
        if _block(pfn) == _block(self.pfn) and before is not None:
            facts: dict[str, Any] = {"before": before, "after": T}
            if claim is not None and 0 <= pfn - claim.pfn < max(1 << claim.fallback_order, PAGEBLOCK_PAGES):
                facts["claim"] = {"order": claim.order, "type": claim.migratetype, "have": claim.fallback_order}
            self._tell("retyped", row, facts)

    def _on_block_isolate(self, row: Row) -> None:
        block, isolate = _block(row.pfn), row.isolate != 0
        head = self.base + block * PAGEBLOCK_PAGES
        place = self.at[head - self.base]
        if isolate:  # B-110: a chunk of order 10 is cut, so that the blocks can be of different types
            if place.kind == ZONE and place.order == MAX_PAGE_ORDER:
                for part in (self.base, self.base + PAGEBLOCK_PAGES):
                    self._fill(part, PAGEBLOCK_ORDER, Place(kind=ZONE, head=part, order=PAGEBLOCK_ORDER))
            self._stored[block], self.types[block] = self.types[block], ISOLATE
        else:  # B-111
            self.types[block] = self._stored[block]
            if place.kind == ZONE and place.order == PAGEBLOCK_ORDER:
                self._merge(head, PAGEBLOCK_ORDER)
        if block == _block(self.pfn):
            self._tell("isolated" if isolate else "unisolated", row, {})

    def _on_isolate(self, row: Row) -> None:
        """
        Compaction or page reporting takes a free chunk (B-115); ``ret`` is its size, 0 if it was refused.
        """
        order = row.order if row.order >= 0 else max(row.ret, 1).bit_length() - 1
        if row.ret == 0 or order >= NR_ORDERS or row.pfn % (1 << order):
            return
        self._take(row.pfn, order)
        self._fill(row.pfn, order, Place(kind=MOVING, head=row.pfn, order=order))
        if self._covers(row.pfn, order):
            self._tell("held", row, {"head": row.pfn, "order": order})

    def _on_putback(self, row: Row) -> None:
        order = max(row.order, 0)
        self._loosen(row.pfn, order)
        merged = self._merge(row.pfn, order)
        if self._covers(row.pfn, order):
            self._tell("put_back", row, {"head": row.pfn, "order": order, "merged": merged})

    def _on_take_buddy(self, row: Row) -> None:
        """
        A broken page leaves its free chunk (B-119); how the rest was cut is not followed.
        """
        self._loosen(row.pfn, 0)
        self._fill(row.pfn, 0, Place(kind=MOVING, head=row.pfn, order=0))
        if row.pfn == self.pfn:
            self._tell("held", row, {"head": row.pfn, "order": 0})

    # Allocations.

    def _on_pcp_alloc(self, row: Row) -> None:
        self._allocated(row, row.order, popped=True)

    def _on_pcp_alloc_bulk(self, row: Row) -> None:
        self._allocated(row, row.order, popped=True, bulk=True)

    def _on_mm_page_alloc(self, row: Row) -> None:
        place = self.at[row.pfn - self.base]
        compound = row.order > 0 and bool(row.gfp_flags & GFP_BITS["__GFP_COMP"])
        if place.popped and (place.head, place.order) == (row.pfn, row.order):
            self._fill(row.pfn, row.order, dataclasses.replace(place, popped=False, compound=compound))
            if self._covers(row.pfn, row.order) and self._popped is not None:
                self._popped.rows.append(row.number)
                self._popped.facts |= {"gfp_flags": row.gfp_flags, "type": row.migratetype}
                self._popped.facts["returned_after_ns"] = row.ts_ns - self._popped.t_ns
                self._context(self._popped, row)
                if row.cpu != self._popped.cpu:
                    self._popped.facts["returned_on"] = row.cpu
                self._popped = None
            return
        self._allocated(row, row.order, compound=compound)

    def _allocated(
        self, row: Row, order: int, *, popped: bool = False, bulk: bool = False, compound: bool = False
    ) -> None:
        owner = row.pcp_cpu if row.pcp_cpu >= 0 else None
        parts = self._among(row.pfn, order)
        place = self.at[row.pfn - self.base]
        whole = len(parts) == 1 and (place.head, place.order) == (row.pfn, order)
        if popped:
            good = whole and place.kind == PCP and place.cpu == owner
        else:
            good = whole and (place.taken or (place.kind == PCP and not self.probes))
        # In a plain trace, a large entry that came from contiguous frees was followed page by page (R5).
        pieces = not self.probes and not good and all(part.kind == PCP for part in parts) and order > 0
        doubt = None
        if pieces:
            self._entered_as(row.pfn, order)
        elif not good and any(part.kind != UNKNOWN for part in parts):
            doubt = self._doubt(next(part for part in parts if part.kind != UNKNOWN), PCP)
        self._loosen(row.pfn, order)
        if self._covers(row.pfn, order):
            facts: dict[str, Any] = {"head": row.pfn, "order": order, "type": row.migratetype, "doubt": doubt}
            facts["from"] = self.at[self.target].facts()
            facts["bulk"] = bulk or None
            if popped:
                facts |= {"pcp_cpu": owner, "list": _list_index(order, row.migratetype)}
            else:
                facts["gfp_flags"] = row.gfp_flags
            step = self._tell("allocated", row, facts)
            self._popped = step if popped and not bulk else None
            self._freeing = None
        self._fill(
            row.pfn,
            order,
            Place(
                kind=ALLOCATED,
                head=row.pfn,
                order=order,
                cpu=row.cpu,
                compound=compound,
                popped=popped and not bulk,
            ),
        )

    def _on_split(self, row: Row) -> None:
        place = self.at[row.pfn - self.base]
        if place.kind == ALLOCATED:
            for pfn in range(row.pfn, row.pfn + (1 << row.order)):
                self._fill(pfn, 0, Place(kind=ALLOCATED, head=pfn, order=0, cpu=place.cpu))
        if self._covers(row.pfn, row.order):
            self._tell("split", row, {"head": row.pfn, "order": row.order})

    # Frees.

    def _on_mm_page_free(self, row: Row) -> None:
        if self._covers(row.pfn, row.order):
            self._freeing = self._freed(row)
        if self.probes:
            return
        if _pcp_capable(row.order) and self._effective(row.pfn) != ISOLATE:
            self._into_pcp(row, row.order, row.cpu, _list_index(row.order, self._effective(row.pfn)))
        else:
            self._into_zone(row, row.order)

    def _freed(self, row: Row, *, missing: bool = False) -> Step:
        """
        The first row of a free of the page.
        """
        place = self.at[self.target]
        order = max(row.order, 0)
        facts: dict[str, Any] = {"head": row.pfn, "order": order, "missing": missing or None}
        if place.kind == ALLOCATED:
            facts["allocation"] = place.facts()
            facts["allocated_on"] = place.cpu
        elif place.kind in (PCP, MOVING) and not self.probes:
            facts["unseen"] = True  # R1: bulk allocations have no row in a plain trace
        elif place.kind != UNKNOWN:
            facts["doubt"] = self._doubt(place, ALLOCATED)
        if not self.probes and order == 0 and not missing:
            facts["contiguous"] = self._contiguous(row) or None
        self._popped = None
        self._last_free = self._tell("freed", row, facts)
        return self._last_free

    def _contiguous(self, row: Row) -> bool:
        """
        Whether the CPU frees the page before or behind this one in the rows beside this one (R5).
        """
        assert self._window is not None
        rows, at = self._window.of_cpu(row.number, row.cpu)
        event, pfns = self._window.column("event"), self._window.column("pfn")
        beside = [(at + way, row.pfn + way) for way in (-1, 1) if 0 <= at + way < len(rows)]
        return any(event[rows[i]] == row.event and int(pfns[rows[i]]) == pfn for i, pfn in beside)

    def _on_mm_page_free_batched(self, row: Row) -> None:
        """
        A folio of a batch goes onto a list now; the order printed is always 0 (17.6).
        """
        if self._freeing is not None and self._freeing.facts["head"] == row.pfn:
            self._freeing.rows.append(row.number)
            self._freeing.facts["batched"] = True
        elif row.pfn == self.pfn:
            known = self.at[self.target].kind == ALLOCATED
            self._freeing = self._freed(row._replace(order=0), missing=True)
            self._freeing.facts["batched"] = True
            if not self.probes and known:
                self._into_pcp(row, 0, row.cpu, _list_index(0, self._effective(row.pfn)))

    def _on_pcp_free(self, row: Row) -> None:
        self._into_pcp(row, row.order, row.pcp_cpu, _list_index(row.order, row.migratetype))

    def _into_pcp(self, row: Row, order: int, cpu: int, index: int | None) -> None:
        """
        An entry goes to the head of a PCP list (B-81).
        """
        self._loosen(row.pfn, order)
        if self._covers(row.pfn, order):
            step = self._freeing or self._freed(row, missing=True)
            if step.rows[-1] != row.number:
                step.rows.append(row.number)
            step.facts |= {"pcp_cpu": cpu, "entry": {"head": row.pfn, "order": order}}
            step.facts["entered_after_ns"] = row.ts_ns - step.t_ns
            if index is not None:
                step.facts["list"] = index
            self._told = True
            self._freeing = None if self.probes else step
        self._fill(row.pfn, order, Place(kind=PCP, head=row.pfn, order=order, cpu=cpu, index=index))

    def _on_free_one(self, row: Row) -> None:
        if self._covers(row.pfn, row.order):
            step = self._freeing or self._freed(row, missing=True)
            if step.rows[-1] != row.number:
                step.rows.append(row.number)
            self._freeing = step

    def _on_buddy_free(self, row: Row) -> None:
        self._into_zone(row, row.order)

    def _into_zone(self, row: Row, order: int) -> None:
        """
        A free past the PCPs (B-38): in pieces of a pageblock, each with the type of its block.
        """
        self._loosen(row.pfn, order)
        covers = self._covers(row.pfn, order)
        step = None
        if covers:
            step = self._freeing or self._freed(row, missing=True)
            if step.rows[-1] != row.number:
                step.rows.append(row.number)
            self._told = True
        piece = min(order, PAGEBLOCK_ORDER)
        self._fill(row.pfn, order, Place(kind=MOVING, head=row.pfn, order=order))
        for pfn in range(row.pfn, row.pfn + (1 << order), 1 << piece):
            merged = self._merge(pfn, piece)
            if step is not None and (self._covers(pfn, piece) or self._covers(merged["head"], merged["order"])):
                steps = merged["order"] - order
                step.facts |= {"merged": merged | {"steps": max(steps, 0)}, "type": self._effective(pfn)}
                step.facts |= {"entered_after_ns": row.ts_ns - step.t_ns, "entry": {"head": row.pfn, "order": order}}
        if covers:
            self._freeing = None

    def _on_mm_page_pcpu_drain(self, row: Row) -> None:
        self._learn_type(row.pfn, row.migratetype)
        parts = self._among(row.pfn, row.order)
        place = self.at[row.pfn - self.base]
        good = len(parts) == 1 and place.kind == PCP and (place.head, place.order) == (row.pfn, row.order)
        pieces = not self.probes and not good and all(part.kind == PCP for part in parts)
        doubt = None
        if pieces:
            self._entered_as(row.pfn, row.order)
        elif not good and any(part.kind != UNKNOWN for part in parts):
            doubt = self._doubt(next(part for part in parts if part.kind != UNKNOWN), ALLOCATED)
        self._loosen(row.pfn, row.order)
        owner = self.at[self.target].cpu if self.at[self.target].kind == PCP else None
        merged = self._merge(row.pfn, row.order)
        if self._covers(row.pfn, row.order):
            self._freeing = None
            why = self._why(row)
            facts = {"head": row.pfn, "order": row.order, "type": row.migratetype, "doubt": doubt}
            self._tell("drained", row, facts | {"pcp_cpu": why.pop("pcp_cpu", owner), "why": why, "merged": merged})

    def _entered_as(self, pfn: int, order: int) -> None:
        """
        A later row shows that contiguous frees were put on a list as one larger entry (B-94, R5).
        """
        if self._covers(pfn, order) and self._last_free is not None:
            facts = self._last_free.facts
            facts["entry"] = {"head": pfn, "order": order}
            if "list" in facts:
                facts["list"] = _list_index(order, facts["list"] % NR_PCP_TYPES)

    def _why(self, row: Row) -> dict[str, Any]:
        """
        Why a PCP was drained: the pcp_bulk_free before the row, and what led to that.

        In a plain trace there is no such row; the free just before is a likely reason (R7).
        """
        assert self._window is not None
        window = self._window
        rows, at = window.of_cpu(row.number, row.cpu)
        event = window.column("event")
        if not self.probes:
            while at >= 0 and int(event[rows[at]]) == _CODE["mm_page_pcpu_drain"]:
                at -= 1
            if at >= 0 and int(event[rows[at]]) in (_CODE["mm_page_free"], _CODE["mm_page_free_batched"]):
                i = int(rows[at])
                if window.value("pid", i) == (None if row.pid == MISSING else row.pid):
                    return {"likely": "free", "pfn": window.value("pfn", i), "row": window.number(i)}
            return {}
        before = rows[:at]
        bulks = np.flatnonzero(event[before] == _CODE["pcp_bulk_free"])
        if not len(bulks):
            return {}
        bulk = int(before[bulks[-1]])
        facts = {"pcp_cpu": window.value("pcp_cpu", bulk), "row": window.number(bulk)}
        facts |= {"asked": window.value("nr", bulk), "count": window.value("count", bulk)}
        facts["high"] = window.value("high", bulk)
        if not window.unbroken(rows, int(bulks[-1]), at):
            return {"lost": True}  # the pcp_bulk_free that counts may be among the lost rows
        candidates = np.flatnonzero(np.isin(event[before[: bulks[-1]]], [_CODE[name] for name in REASONS]))
        for i in candidates[::-1][:LONGEST_SEARCH].tolist():
            reason = self._reason(window, int(before[i]), bulk)
            if reason is not None:
                facts |= reason if window.unbroken(rows, i, int(bulks[-1])) else {"lost": True}
                break
        return {name: value for name, value in facts.items() if value is not None}

    def _reason(self, window: _Window, i: int, bulk: int) -> dict[str, Any] | None:
        """
        Whether the row at ``i`` led to the pcp_bulk_free at ``bulk``.

        A free starts at the list of its own entry, all others at list 0 (B-82, B-85). A decay may cut into the
        batches of a drain and be over before it goes on, so the nearest row need not be the reason.
        """
        name = EVENT_ORDER[int(window.column("event")[i])]
        same = ("pid", "zone", "pcp_cpu") if name != "drain_zone_pages" else ("pid",)
        if any(window.value(field, i) != window.value(field, bulk) for field in same):
            return None
        start = window.value("pindex", bulk)
        if name != "pcp_free":
            return {"reason": name, "reason_row": window.number(i)} if start in (None, 0) else None
        order = window.value("order", i)
        if order is None or _list_index(order, window.value("migratetype", i)) != start:
            return None
        count, high = window.value("count", i), window.value("high", i)
        limit = None
        if count is not None and high is not None:
            if count + (1 << order) >= high:
                limit = "high"
            elif (window.value("zflags", i) or 0) & ZONE_RECLAIM_ACTIVE:
                limit = "reclaim"
            elif 1 <= order <= COSTLY_ORDER:
                limit = "free_high"
        return {"reason": "free", "reason_row": window.number(i), "pfn": window.value("pfn", i), "limit": limit}
