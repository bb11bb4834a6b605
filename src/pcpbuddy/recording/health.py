"""
What a recording can and cannot answer: its rows, its snapshots, and the lives of the pages in it.

``examine`` reads the rows twice, batch by batch: once for numbers, clock and phases, once for pages. Damage that the
format can hold is counted and described, never refused. What follows from it is said in ``verdicts``.
"""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import RecordingError
from . import files, proctexts, snapshot
from .files import EVENT_CODES, MISSING, OTHER_EVENT
from .numbering import Clock, Cpu, Impossible, Numbers
from .pagestates import NAMED, Pages, PageStates
from .sources import origin

__all__ = ["Clock", "Cpu", "Health", "Impossible", "Pages", "Signs", "SnapshotHealth", "examine"]

Progress = Callable[[int, int], None]

RING_LOSSES = ("overrun", "commit_overrun", "dropped_events")
EXTFRAG = frozenset(("mm_page_alloc_extfrag", "claim"))
PCP_FIELDS = frozenset(("pcp_alloc", "pcp_alloc_bulk", "pcp_free", "pcp_bulk_free", "decay"))
# Columns that a reader may miss, what it would miss, and the events that fill them (none named: every event).
# A column that no row here would fill is absent by right.
USES: tuple[tuple[str, str, frozenset[str]], ...] = (
    ("pid", "which task", frozenset()),
    ("comm", "the name of the task", frozenset()),
    ("irq_flags", "whether an interrupt did it", frozenset()),
    ("preempt_count", "whether it could be preempted", frozenset()),
    ("percpu_refill", "whether a zone take was a refill", frozenset(("mm_page_alloc_zone_locked",))),
    ("fallback_order", "the size of the block fallen back on", EXTFRAG),
    ("fallback_migratetype", "the type of the block fallen back on", EXTFRAG),
    ("change_ownership", "whether a fallback changed the block's type", frozenset(("mm_page_alloc_extfrag",))),
    ("zone", "the zone of a tick or a claim", PCP_FIELDS),
    ("pcp_cpu", "whose PCP it was", PCP_FIELDS),
    ("aflags", "alloc_flags of a request", frozenset(("pcp_alloc",))),
    ("count", "pages in the PCP", PCP_FIELDS),
    ("high", "the PCP's high", PCP_FIELDS),
    ("zflags", "zone flags", frozenset(("pcp_free",))),
    ("fpi", "which frees were contiguous", frozenset(("pcp_free", "free_one"))),
    ("pagesets", "what a fold of counters was asked to do", frozenset(("vmfold",))),
    ("isolate", "whether a block was isolated or given back", frozenset(("block_isolate",))),
    ("marker", "where the workload began and ended", frozenset(("print",))),
)
COMPACTION = ("isolate", "putback", "block_isolate", "take_buddy", "test_pages_isolated")
COMPACTION_FAMILIES = ("mm_compaction_", "mm_migrate_", "cma_")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotHealth:
    """
    One snapshot. problem: why it cannot be used, in words; None for one that is whole and belongs to the rows.

    cut_off: CPUs of which fewer rows are here than had been written when the snapshot was taken.
    """

    which: int
    there: bool
    usable: bool
    derived: str | None
    problem: str | None
    rows_contradicting: int
    cut_off: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Signs:
    """
    Counts that tell which R-items of baseline section 18.4 a recording answers.

    Of rows between the snapshots; ``compaction`` (with migration, isolation and CMA ranges) and ``reclaim`` of all.
    ``None``: the rows or the snapshot that would tell are not there.
    """

    bulk_pages: int
    tryfails: int
    frees_past_pcp: int
    moved: int
    contiguous: int
    drained_contiguous: int
    compaction: int
    reclaim: int
    decays: int
    folds: int
    zone_flags_set: int
    claims: int
    cma_takes: int
    cma_pages: int | None
    in_interrupt: int | None
    requests: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """
    All that was found.

    lost: rows that the numbers of the CPUs skip; without a snapshot all that are lost before it, or behind it, count
    as between the snapshots. ring_losses: events that the kernel itself counted as overwritten or dropped.
    first_loss_row: where the first row between the snapshots is missing, None if none is.
    columns_missing: column -> what cannot be told without it.
    trace: what the rows were imported from, in words, None for a recording; trace_incomplete and trace_notes: what the
    import found. proc: which /proc texts of its machine came with it.
    """

    name: str
    kernel: str | None
    managed_pages: int | None
    rows: int
    with_probes: bool
    events: dict[str, int]
    events_unknown: dict[str, int]
    phases: tuple[int, int, int]
    columns_missing: dict[str, str]
    impossible: tuple[Impossible, ...]
    cpus: tuple[Cpu, ...]
    clock: Clock
    lost: int
    lost_between_snapshots: int
    ring_losses: int
    first_loss_row: int | None
    snapshots: tuple[SnapshotHealth, SnapshotHealth]
    pages: Pages
    signs: Signs
    trace: str | None = None
    trace_incomplete: str | None = None
    trace_notes: tuple[str, ...] = ()
    proc: tuple[str, ...] = ()

    @property
    def repeated(self) -> int:
        """
        Rows whose number another row of the same CPU has.
        """
        return sum(cpu.repeated for cpu in self.cpus)

    @property
    def displaced(self) -> int:
        """
        Rows that stand behind a later one of the same CPU.
        """
        return sum(cpu.went_back for cpu in self.cpus)


def examine(path: Path, *, progress: Progress | None = None) -> Health:
    """
    Examine NAME.parquet, and NAME.snap0 and NAME.snap1 where they are there.

    progress: called as progress(rows done, rows in all), rows counted once for each of the two readings.
    Raises RecordingError for a file that is no recording at all.
    """
    rows = _Rows(path)
    base = path.with_name(path.name.removesuffix(".parquet"))
    found = [_open_snapshot(base, which) for which in (0, 1)]
    told = _Told(progress, 2 * rows.nr_rows)

    numbers = Numbers([_entries(snap) for snap, _ in found])
    for batch in rows.batches(("ts_ns", "cpu", "cpu_seq", "phase", "event")):
        numbers.add(batch)
        told.add(len(batch["event"]))
    snapshots = _judge_snapshots(found, numbers)

    first, last = (snap if health.usable else None for (snap, _), health in zip(found, snapshots, strict=True))
    with_probes = bool(rows.counts.keys() & {"pcp_alloc", "pcp_free"})  # as Rows.with_probes
    lives = PageStates(first, with_probes)
    wanted = ("event", "cpu", "phase", "pfn", "order", "migratetype", "gfp_flags", *PageStates.OPTIONAL)
    for batch in rows.batches(wanted):
        lives.add(batch)
        told.add(len(batch["event"]))
    found_all = _collect(rows, base.name, numbers, lives, snapshots, (first, last))
    from_trace = origin(path)
    texts = proctexts.beside(base) or (from_trace.proc if from_trace else {})
    found_all = dataclasses.replace(found_all, proc=tuple(sorted(texts)))
    if from_trace is None:
        return found_all
    return dataclasses.replace(
        found_all,
        kernel=found_all.kernel or from_trace.kernel,
        trace=from_trace.words,
        trace_incomplete=from_trace.incomplete,
        trace_notes=tuple(from_trace.notes),
    )


class _Told:
    """
    Progress, if anybody asked for it.
    """

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def add(self, rows: int) -> None:
        self.done += rows
        if self.progress is not None:
            self.progress(self.done, self.total)


class _Rows(files.RowFile):
    """
    A RowFile that counts events by name and lets those pass that no recording has; they become OTHER_EVENT.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        # Reading ahead keeps all that was read: memory would grow with the file after all.
        self._parquet = self._pa.parquet.ParquetFile(path, pre_buffer=False)
        self.counts: dict[str, int] = {}
        self._counted = 0

    def _array(self, pa: Any, name: str, batch: Any, done: int) -> np.ndarray:
        if name != "event":
            return super()._array(pa, name, batch, done)
        column = batch.column(name)
        if column.null_count:
            column = column.cast(pa.string()).fill_null("(no event name)")
        names, numbers = files._events(pa, pa.chunked_array([column]))
        if done >= self._counted:  # only in the first reading
            self._counted = done + batch.num_rows
            for text, count in zip(names, np.bincount(numbers, minlength=len(names)).tolist(), strict=True):
                self.counts[text] = self.counts.get(text, 0) + count
        codes = np.array([EVENT_CODES.get(text, OTHER_EVENT) for text in names], np.int64)
        return codes[numbers] if len(codes) else numbers


def _open_snapshot(base: Path, which: int) -> tuple[files.Snapshot | None, str | None]:
    """
    A snapshot whose two files agree, or why there is none. (None, None): there are no such files.
    """
    try:
        snap = files.read_snapshot(base, which)
        if snap is not None:
            snapshot.verify(snap)
            snapshot.node_state(snap)  # what a replay takes from it
            _entries(snap)
    except RecordingError as error:
        return None, str(error)
    except Exception as error:  # whatever damaged files make their readers raise is found here, not a crash
        return None, f"{base.name}.snap{which} is damaged ({type(error).__name__}: {error}); copy or record it again"
    return snap, None


def _entries(snap: files.Snapshot | None) -> np.ndarray | None:
    """
    How many rows each CPU had written when the snapshot was taken.
    """
    return None if snap is None else np.array([ring["entries"] for ring in snap.json["ring"]], np.int64)


def _judge_snapshots(
    found: list[tuple[files.Snapshot | None, str | None]], numbers: Numbers
) -> tuple[SnapshotHealth, SnapshotHealth]:
    """
    Whether each snapshot can be used, and if not, why.
    """
    first, last = (_judge_snapshot(which, *one, numbers) for which, one in enumerate(found))
    begin, end = found[0][0], found[1][0]
    if begin is None or end is None or not last.usable:
        return first, last
    sizes = [(snap.json["max_pfn"], len(snap.json["ring"])) for snap in (begin, end)]
    wrong = None
    if not first.usable and last.cut_off:
        # Rows may be cut off, but beside a snapshot of another recording this is the likelier one.
        wrong = f"it was taken after more rows of CPU {last.cut_off[0]} than are here, as of another recording"
    elif first.usable and sizes[0] != sizes[1]:
        wrong = (
            f"it has {sizes[1][0]} pages and {sizes[1][1]} CPUs, but snapshot 0 has {sizes[0][0]} and {sizes[0][1]}: "
            "it belongs to another recording"
        )
    if wrong is not None:
        last = dataclasses.replace(last, usable=False, problem=wrong)
    return first, last


def _judge_snapshot(which: int, snap: files.Snapshot | None, problem: str | None, numbers: Numbers) -> SnapshotHealth:
    contradicting = numbers.contradicting[which]
    if contradicting:
        problem = f"{numbers.contradiction[which]} ({contradicting} such rows): it belongs to another recording"
    derived = None if snap is None else snap.json.get("derived")
    return SnapshotHealth(
        which=which,
        there=snap is not None or problem is not None,
        usable=snap is not None and problem is None,
        derived=None if derived is None else str(derived),
        problem=problem,
        rows_contradicting=contradicting,
        cut_off=() if contradicting else numbers.cut_off(which),
    )


def _collect(
    rows: _Rows,
    name: str,
    numbers: Numbers,
    lives: PageStates,
    snapshots: tuple[SnapshotHealth, SnapshotHealth],
    states: tuple[files.Snapshot | None, files.Snapshot | None],
) -> Health:
    usable = (snapshots[0].usable, snapshots[1].usable)
    cpus = numbers.cpus(usable)
    faults = numbers.faults.found | lives.faults.found
    state = states[0] or states[1]
    ring: list[dict[str, Any]] = next((snap.json["ring"] for snap in reversed(states) if snap is not None), [])
    return Health(
        name=name,
        kernel=None if state is None else str(state.json["kernel"]),
        managed_pages=None if state is None else sum(int(zone["managed_pages"]) for zone in state.json["zones"]),
        rows=rows.nr_rows,
        with_probes=lives.with_probes,
        events=dict(sorted(rows.counts.items(), key=lambda item: (-item[1], item[0]))),
        events_unknown={text: count for text, count in sorted(rows.counts.items()) if not _is_known(text)},
        phases=(int(numbers.phases[0]), int(numbers.phases[1]), int(numbers.phases[2])),
        columns_missing=_missing_columns(rows.columns, rows.counts),
        impossible=tuple(faults[column] for column in sorted(faults)),
        cpus=cpus,
        clock=Clock(
            first_ns=None if numbers.first_ns == MISSING else numbers.first_ns,
            span_ns=numbers.most_ns - numbers.least_ns,
            span_between_ns=max(0, numbers.between_ns[1] - numbers.between_ns[0]),
            back=numbers.back,
            back_first_row=numbers.back_first_row,
            back_within_cpu=sum(cpu.clock_back for cpu in cpus),
            ties=numbers.ties,
        ),
        lost=sum(cpu.lost for cpu in cpus),
        lost_between_snapshots=sum(cpu.lost_between_snapshots for cpu in cpus),
        ring_losses=sum(int(one.get(loss) or 0) for one in ring for loss in RING_LOSSES),
        first_loss_row=numbers.first_loss(cpus, usable),
        snapshots=snapshots,
        pages=lives.result(states[1]),
        signs=_signs(rows, lives, states[0]),
    )


def _is_known(name: str) -> bool:
    return name in files.EVENTS or name.startswith(files.EVENT_FAMILIES)


def _missing_columns(there: Iterable[str], events: dict[str, int]) -> dict[str, str]:
    """
    Columns that some row here would fill, but that the file does not have.
    """
    absent = [(name, use, by) for name, use, by in USES if name not in there]
    return {name: use for name, use, by in absent if not by or by & events.keys()}


def _signs(rows: _Rows, lives: PageStates, first: files.Snapshot | None) -> Signs:
    counted = {name: int(lives.counts[code]) for name, code in NAMED.items()}
    families = sum(count for name, count in rows.counts.items() if name.startswith(COMPACTION_FAMILIES))
    return Signs(
        bulk_pages=lives.bulk_pages,
        tryfails=counted["pcp_alloc_tryfail"],
        frees_past_pcp=lives.frees_past_pcp,
        moved=lives.moved,
        contiguous=lives.contiguous,
        drained_contiguous=lives.drained_contiguous,
        compaction=sum(counted[name] for name in COMPACTION) + families,
        reclaim=sum(count for name, count in rows.counts.items() if name.startswith("mm_vmscan_")),
        decays=counted["decay"],
        folds=counted["vmfold"],
        zone_flags_set=lives.zone_flags_set,
        claims=lives.claims,
        cma_takes=lives.cma_takes,
        cma_pages=None if first is None else sum(int(zone["cma_pages"]) for zone in first.json["zones"]),
        in_interrupt=lives.in_interrupt if "irq_flags" in rows.columns else None,
        requests=lives.requests,
    )
