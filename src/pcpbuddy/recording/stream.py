"""
From rows to requests, and the proof that rows and snapshots belong together.

Vectorised: nothing here runs once per row in Python. Which rows are requests: docs/reference/replay.md, section 1.

A request stands where it cannot meet its own page still in use: a free where the page enters a list or before, an
allocation where it left one or after. So a handle is never live twice, however late a task printed its event.
"""

import numpy as np

from ..errors import RecordingError
from ..names import GFP_HIGHUSER_MOVABLE, GFP_KERNEL, NR_MIGRATETYPES, NR_ORDERS, NR_PCP_TYPES
from ..requests import ALLOC, BULK, BULK_MORE, FOLD, FREE, ISOLATE, REQUEST, TICK, UNISOLATE
from .files import MISSING, Rows, Snapshot

REPLAYED = 1  # the phase between the two snapshots
TICK_NS = 1_000_000_000
BOTH_MOBILITIES = 0x18
# A request of which only the migratetype was seen (bulk pages, B-93; a charge that failed, 17.1).
ASSUMED_GFP = np.array([GFP_KERNEL, GFP_HIGHUSER_MOVABLE, GFP_KERNEL | 0x10], np.int64)

# Outside causes that are no request in handle mode: they are counted, by name (law L8).
OUTSIDE = (
    "drain_zone",
    "drain_zone_pages",
    "move_block",
    "unreserve",
    "isolate",
    "putback",
    "take_buddy",
)
# Where the page frame of each event may be -1: nothing was obtained.
MAY_FAIL = ("mm_page_alloc", "pcp_alloc", "pcp_alloc_bulk", "pcp_alloc_tryfail")
WITH_PAGE = (
    "mm_page_free",
    "mm_page_free_batched",
    "mm_page_alloc_zone_locked",
    "mm_page_pcpu_drain",
    "mm_page_alloc_extfrag",
    "pcp_free",
    "free_one",
    "block_isolate",
)
WITH_ORDER = (
    "mm_page_alloc",
    "mm_page_free",
    "mm_page_alloc_zone_locked",
    "mm_page_pcpu_drain",
    "mm_page_alloc_extfrag",
    "pcp_alloc",
    "pcp_free",
    "free_one",
    "isolate",
    "putback",
)
TAKEN = ("mm_page_alloc_zone_locked", "mm_page_pcpu_drain", "mm_page_alloc_extfrag")
REQUEST_TYPED = ("mm_page_alloc", "pcp_alloc", "pcp_alloc_bulk")


def verify(rows: Rows, first: Snapshot, last: Snapshot | None) -> None:
    """
    Refuse impossible rows, and snapshots that were not taken at these rows.
    """
    if not len(rows.event):
        raise RecordingError(f"{rows.label} has no rows")
    verify_numbering(rows, first)
    _verify_positions(rows, first, last)
    verify_values(rows, first)


def verify_numbering(rows: Rows, first: Snapshot) -> None:
    """
    Refuse rows of CPUs or phases that cannot be.
    """
    nr_cpus = len(first.json["ring"])
    _refuse(rows, (rows.cpu < 0) | (rows.cpu >= nr_cpus), "cpu", f"the snapshot has CPUs 0 to {nr_cpus - 1}")
    _refuse(rows, (rows.phase < 0) | (rows.phase > 2), "phase", "phases are 0, 1 and 2")
    _refuse(rows, rows.cpu_seq < 0, "cpu_seq", "each CPU counts its rows from 0")


def verify_values(rows: Rows, first: Snapshot) -> None:
    """
    Refuse rows that name pages, orders, types, zones or CPUs that cannot be.
    """
    nr_cpus = len(first.json["ring"])
    paged, may_fail = rows.which(*WITH_PAGE), rows.which(*MAY_FAIL)
    orders = (rows.order < 0) | (rows.order >= NR_ORDERS)
    missing = rows.order == MISSING
    needs_order = rows.which(*WITH_ORDER)
    _refuse(rows, orders & (needs_order | ~missing), "order", "orders are 0 to 10")
    max_pfn = first.json["max_pfn"]
    _refuse(rows, paged & (rows.pfn < 0), "pfn", "such a row names a page")
    _refuse(rows, may_fail & (rows.pfn < -1) & (rows.pfn != MISSING), "pfn", "a page is 0 or more, or -1 for none")
    # A page far out of range must not become a small number by adding to it.
    end = np.minimum(rows.pfn, max_pfn) + np.where(
        missing | orders, 1, np.left_shift(1, np.clip(rows.order, 0, NR_ORDERS - 1))
    )
    _refuse(rows, (paged | may_fail) & (end > max_pfn), "pfn", f"the snapshot ends at page {max_pfn - 1}")
    # A batched folio shows order 0 whatever its size (17.6), a contiguous free the order of its piece.
    heads = (paged | may_fail | rows.which("isolate", "putback")) & (rows.pfn >= 0) & ~missing
    sizes = np.left_shift(1, np.clip(rows.order, 0, NR_ORDERS - 1))
    _refuse(rows, heads & (rows.pfn % sizes != 0), "pfn", "the first page of an order is aligned to its size")
    typed = rows.which(*REQUEST_TYPED)
    wrong = typed & ((rows.migratetype < 0) | (rows.migratetype >= NR_PCP_TYPES))
    _refuse(rows, wrong & (rows.pfn >= 0), "migratetype", "a request is of type 0, 1 or 2")
    taken = rows.which(*TAKEN)
    wrong = (rows.migratetype < 0) | (rows.migratetype >= NR_MIGRATETYPES)
    _refuse(rows, taken & wrong, "migratetype", f"types are 0 to {NR_MIGRATETYPES - 1}")
    gfp = rows.which("mm_page_alloc") & (rows.pfn >= 0)
    wrong = (rows.gfp_flags < 0) | (rows.gfp_flags & BOTH_MOBILITIES == BOTH_MOBILITIES)
    _refuse(rows, gfp & wrong, "gfp_flags", "a request has flags, and not both mobility bits 0x8 and 0x10 (B-25)")
    if rows.with_probes:
        zones = {zone["index"] for zone in first.json["zones"]}
        wrong = rows.which("decay") & ~np.isin(rows.zone, list(zones))
        _refuse(rows, wrong, "zone", f"the snapshot has zones {', '.join(map(str, sorted(zones)))}")
        wrong = (rows.pcp_cpu != MISSING) & ((rows.pcp_cpu < 0) | (rows.pcp_cpu >= nr_cpus))
        _refuse(rows, wrong, "pcp_cpu", f"the snapshot has CPUs 0 to {nr_cpus - 1}")


def _refuse(rows: Rows, wrong: np.ndarray, column: str, expected: str) -> None:
    """
    Raise RecordingError for the first wrong row, if there is one.
    """
    if not wrong.any():
        return
    row = int(np.argmax(wrong))
    value = int(rows.columns[column][row])
    seen = f"no {column}" if value == MISSING else f"{column} {value}"
    more = int(np.count_nonzero(wrong)) - 1
    others = f" (and {more} more rows like it)" if more else ""
    raise RecordingError(
        f"{rows.label}, row {rows.first + row} ({rows.names[rows.event[row]]}): {seen}, but {expected}{others}; "
        "the file is damaged: copy or record it again"
    )


def _verify_positions(rows: Rows, first: Snapshot, last: Snapshot | None) -> None:
    """
    A snapshot lies behind row ``entries - 1`` of every CPU; column phase must say the same.
    """
    seen = np.zeros(len(first.json["ring"]), np.int64)
    np.maximum.at(seen, rows.cpu, rows.cpu_seq + 1)
    for snap, phase in ((first, 0), (last, 1)):
        if snap is None:
            continue
        entries = np.array([ring["entries"] for ring in snap.json["ring"]], np.int64)
        if len(entries) != len(seen):
            raise RecordingError(
                f"{snap.label} has {len(entries)} CPUs, not {len(seen)}: it belongs to another recording"
            )
        before = rows.cpu_seq < entries[rows.cpu]
        if (seen < entries).any():
            cpu = int(np.argmax(seen < entries))
            raise RecordingError(
                f"{snap.label} was taken after {entries[cpu]} events of CPU {cpu}, but {rows.label} has only "
                f"{seen[cpu]}: it belongs to another recording, or rows are cut off"
            )
        wrong = before != (rows.phase <= phase)
        if wrong.any():
            row = int(np.argmax(wrong))
            cpu = int(rows.cpu[row])
            raise RecordingError(
                f"{snap.label} was taken after {entries[cpu]} events of CPU {cpu}, but row {row} of {rows.label} (its "
                f"number {rows.cpu_seq[row]}) is of phase {rows.phase[row]}: the snapshot belongs to another recording"
            )
    if last is not None and last.json["max_pfn"] != first.json["max_pfn"]:
        raise RecordingError(
            f"{first.label} ends at page {first.json['max_pfn'] - 1} and {last.label} at "
            f"{last.json['max_pfn'] - 1}: they belong to different recordings"
        )


def seconds(rows: Rows) -> float:
    """
    Recorded time between the snapshots.
    """
    stamps = rows.ts_ns[rows.phase == REPLAYED]
    return float(stamps.max() - stamps.min()) / 1e9 if len(stamps) else 0.0


def requests(rows: Rows, first: Snapshot) -> tuple[np.ndarray, dict[str, int]]:
    """
    The request stream, and what was left out of it or assumed, by name.
    """
    records, _, left_out = timed_requests(rows, first)
    return records, left_out


def timed_requests(rows: Rows, first: Snapshot) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """
    The same with when each request was recorded (ns, never going back).
    """
    left_out = _counted(rows)
    parts = _with_probes(rows, left_out) if rows.with_probes else _plain(rows, left_out, first)
    records = np.concatenate([record for _, record in parts])
    position = np.concatenate([at for at, _ in parts])
    order = np.argsort(position, kind="stable")
    times_ns = np.maximum.accumulate(rows.ts_ns[position[order]])
    return records[order], times_ns, {name: count for name, count in left_out.items() if count}


def _counted(rows: Rows) -> dict[str, int]:
    """
    What is certain not to become a request.
    """
    inside = rows.phase == REPLAYED
    counts = {
        "rows_before_snapshot_0": int(np.count_nonzero(rows.phase < REPLAYED)),
        "rows_after_snapshot_1": int(np.count_nonzero(rows.phase > REPLAYED)),
        "rows_lost": _lost(rows),
        "allocs_failed": int(np.count_nonzero(inside & rows.which("mm_page_alloc") & (rows.pfn == -1))),
        "pcp_alloc_without_page": int(
            np.count_nonzero(inside & rows.which("pcp_alloc", "pcp_alloc_bulk") & (rows.pfn == -1))
        ),
    }
    for name in (*OUTSIDE, *(name for name in rows.names if name.startswith("cma_"))):
        counts[name] = int(np.count_nonzero(inside & rows.which(name)))
    return counts


def _lost(rows: Rows) -> int:
    """
    Rows that the numbering of a CPU skips.
    """
    order = np.lexsort((rows.cpu_seq, rows.cpu))
    cpu, number = rows.cpu[order], rows.cpu_seq[order]
    first = np.r_[True, cpu[1:] != cpu[:-1]]
    steps = np.where(first, number + 1, np.diff(number, prepend=0))
    if (steps < 1).any():
        row = int(order[np.argmax(steps < 1)])
        raise RecordingError(
            f"{rows.label}, row {row}: CPU {rows.cpu[row]} has its row number {rows.cpu_seq[row]} twice; "
            "the file is damaged: copy or record it again"
        )
    return int((steps - 1).sum())


Part = tuple[np.ndarray, np.ndarray]


def _with_probes(rows: Rows, left_out: dict[str, int]) -> list[Part]:
    """
    Requests of a recording with ``ora/*`` rows: they are in the true order, and show contiguous frees as entries (R5).
    """
    inside = rows.phase == REPLAYED
    got = rows.pfn >= 0
    popped = rows.which("pcp_alloc") & got
    returned = rows.which("mm_page_alloc") & got
    freed = rows.which("pcp_free", "free_one")

    # The tracepoint of a pop is the next row of its page, and it alone shows gfp. One without a pop went past
    # the PCP: another order, a failed trylock, or an empty zone before. It is a request of its own.
    chain = _by_page(rows, popped | returned | freed)
    before, after = chain[:-1], chain[1:]
    pair = (
        popped[before]
        & returned[after]
        & (rows.pfn[before] == rows.pfn[after])
        & (rows.order[before] == rows.order[after])
    )
    event_of = np.full(len(rows.event), -1, np.int64)
    event_of[before[pair]] = after[pair]
    direct = returned.copy()
    direct[after[pair]] = False

    alloc = np.flatnonzero(popped & inside)
    event = event_of[alloc]
    gfp = np.where(event >= 0, rows.gfp_flags[event], ASSUMED_GFP[rows.migratetype[alloc]])
    left_out["gfp_assumed"] = int(np.count_nonzero(event < 0))
    past = np.flatnonzero(direct & inside)
    frees = np.flatnonzero(freed & inside)
    return [
        (alloc, _records(rows, alloc, ALLOC, gfp=gfp, order=rows.order[alloc])),
        (past, _records(rows, past, ALLOC, gfp=rows.gfp_flags[past], order=rows.order[past])),
        (frees, _records(rows, frees, FREE, order=rows.order[frees])),
        _bulks(rows, left_out),
        _ticks_recorded(rows),
        _isolations(rows),
    ]


def _bulks(rows: Rows, left_out: dict[str, int]) -> Part:
    """
    Runs of ``pcp_alloc_bulk`` rows of one CPU: one request of n pages (B-93), where its last page was taken.

    Calls that follow each other without another PCP operation of that CPU cannot be told apart and count as one.
    """
    inside = rows.phase == REPLAYED
    bulk = rows.which("pcp_alloc_bulk") & (rows.pfn >= 0) & inside
    if not bulk.any():
        return np.zeros(0, np.int64), np.zeros(0, REQUEST)
    others = rows.which("pcp_alloc", "pcp_alloc_tryfail", "pcp_free", "free_one", "mm_page_alloc") & inside
    chain = np.flatnonzero(bulk | others)
    chain = chain[np.argsort(rows.cpu[chain], kind="stable")]
    same = (rows.cpu[chain[1:]] == rows.cpu[chain[:-1]]) & (rows.migratetype[chain[1:]] == rows.migratetype[chain[:-1]])
    goes_on = np.r_[False, same & bulk[chain[1:]] & bulk[chain[:-1]]]
    members = bulk[chain]
    at, goes_on = chain[members], goes_on[members]
    run = np.cumsum(~goes_on) - 1
    length = np.bincount(run)
    last = at[np.cumsum(length) - 1]
    records = _records(rows, at, BULK, gfp=ASSUMED_GFP[rows.migratetype[at]])
    records["op"] = np.where(goes_on, BULK_MORE, BULK)
    records["nr"] = np.where(goes_on, 0, length[run])
    left_out["gfp_assumed"] += len(at)
    return last[run], records


def _plain(rows: Rows, left_out: dict[str, int], first: Snapshot) -> list[Part]:
    """
    Requests of a recording with the standard tracepoints only.

    A batched page is free where ``mm_page_free_batched`` says so, but its order stands in the ``mm_page_free``
    before: the batched row prints 0 whatever the size (17.6).
    """
    inside = rows.phase == REPLAYED
    alloc = rows.which("mm_page_alloc") & (rows.pfn >= 0)
    single, batched = rows.which("mm_page_free"), rows.which("mm_page_free_batched")
    chain = _by_page(rows, alloc | single | batched)
    before, after = chain[:-1], chain[1:]
    pair = single[before] & batched[after] & (rows.pfn[before] == rows.pfn[after])
    order = np.where(batched, 0, rows.order)
    order[after[pair]] = rows.order[before[pair]]
    known = np.zeros(len(rows.event), bool)
    known[after[pair]] = True
    left_out["batched_without_free"] = int(np.count_nonzero(batched & inside & ~known))
    freed = single | batched
    freed[before[pair]] = False

    at = np.flatnonzero(alloc & inside)
    frees = np.flatnonzero(freed & inside)
    return [
        _ticks_assumed(rows, first),  # before the request that stands at the same row
        (at, _records(rows, at, ALLOC, gfp=rows.gfp_flags[at], order=rows.order[at])),
        (frees, _records(rows, frees, FREE, order=order[frees])),
        _isolations(rows),
    ]


def _by_page(rows: Rows, mask: np.ndarray) -> np.ndarray:
    """
    The rows of a mask sorted by page frame, in time within one.
    """
    at = np.flatnonzero(mask)
    return at[np.argsort(rows.pfn[at], kind="stable")]


def _records(rows: Rows, at: np.ndarray, op: int, **fields: np.ndarray) -> np.ndarray:
    records = np.zeros(len(at), REQUEST)
    records["op"] = op
    records["cpu"] = rows.cpu[at]
    records["pfn"] = np.maximum(rows.pfn[at], 0)
    for name, values in fields.items():
        records[name] = values & 0xFFFFFFFF if name == "gfp" else values
    return records


def _ticks_recorded(rows: Rows) -> Part:
    """
    ``decay`` rows are ticks of one CPU in one zone, ``vmfold`` rows fold one CPU's counters in all.
    """
    inside = rows.phase == REPLAYED
    decay, fold = rows.which("decay"), rows.which("vmfold")
    at = np.flatnonzero((decay | fold) & inside)
    records = np.zeros(len(at), REQUEST)
    records["op"] = np.where(decay[at], TICK, FOLD)
    records["cpu"] = np.where(rows.pcp_cpu[at] >= 0, rows.pcp_cpu[at], rows.cpu[at])
    records["nr"] = np.where(decay[at], rows.zone[at], 0)
    return at, records


def _ticks_assumed(rows: Rows, first: Snapshot) -> Part:
    """
    One tick per CPU and second of recorded time, in every zone, before the first row of that second.
    """
    inside = np.flatnonzero(rows.phase == REPLAYED)
    if not len(inside):
        return np.zeros(0, np.int64), np.zeros(0, REQUEST)
    stamps = np.maximum.accumulate(rows.ts_ns[inside])
    due = np.arange(stamps[0] + TICK_NS, stamps[-1] + 1, TICK_NS)
    at = inside[np.searchsorted(stamps, due)]
    cpus, zones = first.json["online_cpus"], [zone["index"] for zone in first.json["zones"]]
    records = np.zeros((len(due), len(cpus), len(zones)), REQUEST)
    records["op"] = TICK
    records["cpu"] = np.array(cpus)[None, :, None]
    records["nr"] = np.array(zones)[None, None, :]
    return np.repeat(at, len(cpus) * len(zones)), records.ravel()


def _isolations(rows: Rows) -> Part:
    """
    Pageblocks that the recorded kernel isolated and gave back.
    """
    at = np.flatnonzero(rows.which("block_isolate") & (rows.phase == REPLAYED))
    records = _records(rows, at, ISOLATE)
    records["op"] = np.where(rows.isolate[at] == 0, UNISOLATE, ISOLATE)
    return at, records
