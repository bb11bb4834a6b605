"""
What a recording can and cannot answer: its rows, its snapshots, and the lives of the pages in it.

``examine`` reads the rows twice, batch by batch: once for numbers, clock and phases, once for pages. Damage that the
format can hold is counted and described, never refused. What follows from it is judged in ``verdicts``.
"""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import RecordingError
from ..names import CMA, COSTLY_ORDER, MAX_CPUS, NR_ORDERS, NR_PCP_TYPES, PAGEBLOCK_ORDER, PAGEBLOCK_PAGES
from . import files, snapshot, stream
from .files import EVENT_CODES, EVENT_ORDER, MISSING, OTHER_EVENT

__all__ = ["Clock", "Cpu", "Health", "Impossible", "Pages", "Signs", "SnapshotHealth", "examine"]

Progress = Callable[[int, int], None]

WINDOW = 1 << 20  # how far behind the highest number of a CPU a row is still told from a repeated one
MOST_PFN = 1 << 40  # 52 bits of physical address: the most that x86-64 has
MOST_SEQ = 1 << 56
MOST_PAGES = 1 << 20  # page operations followed at a time
FPI_CONTIGUOUS = 8
IN_INTERRUPT = 0x18  # hard and soft, of the ftrace common flags
RING_LOSSES = ("overrun", "commit_overrun", "dropped_events")

PROBES = frozenset(EVENT_ORDER[EVENT_ORDER.index("pcp_alloc") : EVENT_ORDER.index("print")])
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

# What the last row of a page did to it. With probes FREED is pcp_free and free_one, without it is mm_page_free.
NOTHING, HELD_FREE, HELD, POPPED, BULK, RETURNED, FREED, BATCHED = range(8)
NR_OPS = 8
# What that says of the row after it.
FINE, PAIR, SAME, UNSEEN_FREE, UNKNOWN_FREE, DOUBLE_FREE, EARLIER = range(7)


def _outcomes() -> np.ndarray:
    """
    The outcome of an operation on a page, by what was done to the page before.
    """
    table = np.full((NR_OPS, NR_OPS), FINE, np.uint8)
    taking, giving = [POPPED, BULK, RETURNED], [FREED, BATCHED]
    table[np.ix_([HELD, *taking], taking)] = UNSEEN_FREE
    table[POPPED, RETURNED] = PAIR  # mm_page_alloc of a page whose pop was seen: one allocation
    table[NOTHING, giving] = EARLIER
    table[HELD_FREE, giving] = UNKNOWN_FREE
    table[np.ix_(giving, giving)] = DOUBLE_FREE
    table[FREED, BATCHED] = SAME  # a batched page shows both rows (17.6)
    return table


OUTCOME = _outcomes()

# A page's word: what was done last (3 bits), the order if the page was its first one (4), the CPU (9).
ORDER_SHIFT, CPU_SHIFT, NOT_FIRST = 3, 7, 15


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cpu:
    """
    The rows of one CPU and their numbers.

    first_cpu_seq, last_cpu_seq: the lowest and the highest; None without rows. lost: numbers below the end that no
    row has; the end is where snapshot 1 lies, if it lies behind the last row. went_back: rows whose number is lower
    than that of the row before. clock_back: the same of time; where the number went back too, the row is out of
    place and not the clock (clock_back_rows_displaced).
    """

    cpu: int
    rows: int
    first_cpu_seq: int | None
    last_cpu_seq: int | None
    lost: int
    lost_between_snapshots: int
    repeated: int
    went_back: int
    clock_back: int
    clock_back_rows_displaced: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """
    Time stamps in row order. ties: neighbouring rows of different CPUs with one stamp.
    """

    first_ns: int | None
    span_ns: int
    back: int
    back_first_row: int | None
    back_within_cpu: int
    ties: int


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
class Impossible:
    """
    Rows that no kernel writes: a value out of range, or missing where the event has one.
    """

    column: str
    rows: int
    first_row: int
    first_event: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pages:
    """
    The lives of pages, each followed by itself: a large allocation may be freed in pieces, and pieces together (R5).

    from_snapshot: the state before the rows is known. Otherwise a page counts from its first row on.
    frees_unknown: pages freed that were not allocated in snapshot 0 nor by a row. frees_double: freed, and free by
    the row before. frees_unseen: allocated while still allocated, so a free was not seen. frees_earlier: freed by
    the first row of a page of which nothing is known.
    differ_allocated, differ_free: pages that snapshot 1 shows allocated (free) and the rows leave free (allocated);
    None where the two cannot be compared.
    """

    from_snapshot: bool
    allocs: int
    allocs_failed: int
    pages_allocated: int
    frees: int
    pages_freed: int
    frees_unknown: int
    frees_unknown_rows: int
    frees_double: int
    frees_double_rows: int
    frees_unseen: int
    frees_unseen_rows: int
    frees_earlier: int
    held: int
    held_pages: int
    pops_without_event: int
    differ_allocated: int | None
    differ_free: int | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Signs:
    """
    Counts that tell which R-items of baseline section 18.4 a recording answers; rows between the snapshots.
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

    lost: rows that the numbers of the CPUs skip. ring_losses: events that the kernel itself counted as overwritten
    or dropped. first_loss_row: where the first row between the snapshots is missing, None if none is.
    columns_missing: column -> what cannot be told without it.
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

    numbers = _Numbers([_entries(snap) for snap, _ in found])
    for batch in rows.batches(("ts_ns", "cpu", "cpu_seq", "phase", "event")):
        numbers.add(batch)
        told.add(len(batch["event"]))
    snapshots = _judge_snapshots(found, numbers)

    first, last = (snap if health.usable else None for (snap, _), health in zip(found, snapshots, strict=True))
    with_probes = bool(rows.counts.keys() & PROBES)
    lives = _Lives(first, with_probes)
    wanted = ("event", "cpu", "phase", "pfn", "order", "migratetype", "gfp_flags", *_Lives.OPTIONAL)
    for batch in rows.batches(wanted):
        lives.add(batch)
        told.add(len(batch["event"]))
    return _collect(rows, base.name, numbers, lives, snapshots, (first, last))


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


class _Seen:
    """
    Which numbers of one CPU occurred, in memory that does not grow: a window behind the highest.

    A number further back than the window is taken for a repeated one. That is what a file shows in which two
    recordings stand one behind the other.
    """

    def __init__(self) -> None:
        self.top = -1
        self.distinct = 0
        self.repeated = 0
        self._bits = np.zeros(WINDOW, bool)

    def add(self, numbers: np.ndarray) -> np.ndarray:
        """
        Take more numbers; those that are new come back, ascending.
        """
        unique = np.unique(numbers)
        before, ahead = unique[unique <= self.top], unique[unique > self.top]
        before = before[before > self.top - WINDOW]
        before = before[~self._bits[before % WINDOW]]
        self._bits[before % WINDOW] = True
        if len(ahead):
            top = int(ahead[-1])
            if top - self.top >= WINDOW:
                self._bits[:] = False
            else:
                self._bits[np.arange(self.top + 1, top + 1) % WINDOW] = False
            self._bits[ahead[ahead > top - WINDOW] % WINDOW] = True
            self.top = top
        new = np.r_[before, ahead]
        self.distinct += len(new)
        self.repeated += len(numbers) - len(new)
        return new


class _Faults:
    """
    Impossible rows, by column.
    """

    def __init__(self) -> None:
        self.found: dict[str, Impossible] = {}

    def add(self, column: str, wrong: np.ndarray, event: np.ndarray, first_row: int) -> None:
        rows = int(np.count_nonzero(wrong))
        if not rows:
            return
        old = self.found.get(column)
        if old is not None:
            self.found[column] = dataclasses.replace(old, rows=old.rows + rows)
            return
        at = int(np.argmax(wrong))
        code = int(event[at])
        name = EVENT_ORDER[code] if code < OTHER_EVENT else "another event"
        self.found[column] = Impossible(column=column, rows=rows, first_row=first_row + at, first_event=name)


class _Numbers:
    """
    The first reading: CPUs, their numbers, the clock, phases, and whether snapshots lie where the phases say.
    """

    def __init__(self, entries: list[np.ndarray | None]) -> None:
        self.entries = entries
        self.rows = 0
        self.faults = _Faults()
        self.phases = np.zeros(3, np.int64)
        self.seen: dict[int, _Seen] = {}
        self.distinct_before = np.zeros((2, MAX_CPUS), np.int64)  # numbers that lie before snapshot 0, before 1
        self.lowest = np.full(MAX_CPUS, MOST_SEQ, np.int64)
        self.of_cpu = np.zeros(MAX_CPUS, np.int64)
        self.last_seq = np.full(MAX_CPUS, -1, np.int64)
        self.last_ts = np.full(MAX_CPUS, MISSING, np.int64)
        self.last_row = np.full(MAX_CPUS, -1, np.int64)
        self.went_back = np.zeros(MAX_CPUS, np.int64)
        self.clock_back = np.zeros(MAX_CPUS, np.int64)
        self.displaced = np.zeros(MAX_CPUS, np.int64)
        self.contradicting = [0, 0]
        self.contradiction: list[str] = ["", ""]
        self.first_ns = self.least_ns = self.most_ns = MISSING
        self.before = (MISSING, -1)  # stamp and CPU of the row before
        self.back = self.ties = 0
        self.back_first_row: int | None = None
        self.first_of_phase_1: int | None = None
        # The first place before which a row is missing, by which snapshots turn out to belong here.
        self.first_jump: dict[tuple[bool, bool], int] = {}

    def add(self, batch: dict[str, np.ndarray]) -> None:
        """
        Take the next rows.
        """
        event, cpu, seq, phase, stamp = (batch[name] for name in ("event", "cpu", "cpu_seq", "phase", "ts_ns"))
        wrong = {
            "cpu": (cpu < 0) | (cpu >= MAX_CPUS),
            "cpu_seq": (seq < 0) | (seq >= MOST_SEQ),
            "phase": (phase < 0) | (phase > 2),
            "ts_ns": stamp == MISSING,
        }
        for column, mask in wrong.items():
            self.faults.add(column, mask, event, self.rows)
        self.phases += np.bincount(phase[~wrong["phase"]], minlength=3)
        inside = np.flatnonzero(phase == stream.REPLAYED)
        if self.first_of_phase_1 is None and len(inside):
            self.first_of_phase_1 = self.rows + int(inside[0])
        self._clock(stamp[~wrong["ts_ns"]], cpu[~wrong["ts_ns"]], np.flatnonzero(~wrong["ts_ns"]))
        numbered = np.flatnonzero(~(wrong["cpu"] | wrong["cpu_seq"]))
        self._number(numbered, cpu[numbered], seq[numbered], stamp[numbered])
        placed = np.flatnonzero(~(wrong["cpu"] | wrong["cpu_seq"] | wrong["phase"]))
        self._place(placed, cpu[placed], seq[placed], phase[placed])
        self.rows += len(event)

    def _clock(self, stamp: np.ndarray, cpu: np.ndarray, at: np.ndarray) -> None:
        if not len(stamp):
            return
        if self.first_ns == MISSING:
            self.first_ns = self.least_ns = self.most_ns = int(stamp[0])
            self.before = (int(stamp[0]), int(cpu[0]))
        self.least_ns = min(self.least_ns, int(stamp.min()))
        self.most_ns = max(self.most_ns, int(stamp.max()))
        earlier, whose = np.r_[self.before[0], stamp[:-1]], np.r_[self.before[1], cpu[:-1]]
        back = stamp < earlier
        if back.any() and self.back_first_row is None:
            self.back_first_row = self.rows + int(at[np.argmax(back)])
        self.back += int(np.count_nonzero(back))
        self.ties += int(np.count_nonzero((stamp == earlier) & (cpu != whose)))
        self.before = (int(stamp[-1]), int(cpu[-1]))

    def _number(self, at: np.ndarray, cpu: np.ndarray, seq: np.ndarray, stamp: np.ndarray) -> None:
        """
        Steps from row to row of each CPU.
        """
        if not len(at):
            return
        by_cpu = np.argsort(cpu, kind="stable")
        at, cpu, seq, stamp = at[by_cpu], cpu[by_cpu], seq[by_cpu], stamp[by_cpu]
        starts = np.flatnonzero(np.r_[True, cpu[1:] != cpu[:-1]])
        ends = np.r_[starts[1:], len(cpu)]
        which = cpu[starts]
        earlier_seq, earlier_ts = np.r_[-1, seq[:-1]], np.r_[MISSING, stamp[:-1]]
        earlier_seq[starts], earlier_ts[starts] = self.last_seq[which], self.last_ts[which]
        back = seq < earlier_seq
        clock = (stamp < earlier_ts) & (stamp != MISSING)
        self.of_cpu[which] += ends - starts
        self.went_back += np.bincount(cpu[back], minlength=MAX_CPUS)
        self.clock_back += np.bincount(cpu[clock], minlength=MAX_CPUS)
        self.displaced += np.bincount(cpu[clock & back], minlength=MAX_CPUS)
        self._note_jump(at, cpu, earlier_seq, seq)
        for start, end, number in zip(starts.tolist(), ends.tolist(), which.tolist(), strict=True):
            new = self.seen.setdefault(number, _Seen()).add(seq[start:end])
            for snap, entries in enumerate(self.entries):
                if entries is not None and number < len(entries):
                    self.distinct_before[snap, number] += np.count_nonzero(new < entries[number])
        np.minimum.at(self.lowest, cpu, seq)
        self.last_seq[which], self.last_ts[which] = seq[ends - 1], stamp[ends - 1]
        self.last_row[which] = self.rows + at[ends - 1]

    def _note_jump(self, at: np.ndarray, cpu: np.ndarray, earlier: np.ndarray, seq: np.ndarray) -> None:
        """
        The first row before which another is missing, counting those between the snapshots only.
        """
        jump = seq > earlier + 1
        if not jump.any():
            return
        for use in ((False, False), (False, True), (True, False), (True, True)):
            between = jump.copy()
            if use[0] and self.entries[0] is not None:
                between &= seq > _at_cpu(self.entries[0], cpu, 0)
            if use[1] and self.entries[1] is not None:
                between &= earlier + 1 < _at_cpu(self.entries[1], cpu, MOST_SEQ)
            if between.any():
                self.first_jump.setdefault(use, self.rows + int(at[between].min()))

    def _place(self, at: np.ndarray, cpu: np.ndarray, seq: np.ndarray, phase: np.ndarray) -> None:
        """
        A snapshot lies behind row ``entries - 1`` of every CPU; column phase must say the same.
        """
        for which, entries in enumerate(self.entries):
            if entries is None:
                continue
            before = seq < _at_cpu(entries, cpu, 0)
            wrong = (before != (phase <= which)) | (cpu >= len(entries))
            if wrong.any() and not self.contradicting[which]:
                k = int(np.argmax(wrong))
                row, whose = self.rows + int(at[k]), int(cpu[k])
                self.contradiction[which] = (
                    f"it was taken after {entries[whose]} events of CPU {whose}, but row {row} (its number {seq[k]}) "
                    f"is of phase {phase[k]}"
                    if whose < len(entries)
                    else f"it has no CPU {whose}, but row {row} has"
                )
            self.contradicting[which] += int(np.count_nonzero(wrong))

    def cut_off(self, which: int) -> tuple[int, ...]:
        """
        CPUs whose rows end before the snapshot.
        """
        entries = self.entries[which]
        if entries is None:
            return ()
        return tuple(cpu for cpu, count in enumerate(entries.tolist()) if self._top(cpu) + 1 < count)

    def _top(self, cpu: int) -> int:
        return self.seen[cpu].top if cpu in self.seen else -1

    def cpus(self, usable: tuple[bool, bool]) -> tuple[Cpu, ...]:
        """
        Every CPU that has rows, or that a snapshot which belongs here says had some.
        """
        entries = [one if good else None for one, good in zip(self.entries, usable, strict=True)]
        named = set(self.seen)
        for one in entries:
            named |= set() if one is None else set(np.flatnonzero(one).tolist())
        return tuple(self._cpu(cpu, entries) for cpu in sorted(named))

    def _cpu(self, cpu: int, entries: list[np.ndarray | None]) -> Cpu:
        seen = self.seen.get(cpu)
        top, distinct = (seen.top, seen.distinct) if seen else (-1, 0)
        begin, end = (int(one[cpu]) if one is not None and cpu < len(one) else None for one in entries)
        until = max([top + 1] + [count for count in (begin, end) if count is not None])
        lost = until - distinct
        lost_before = 0 if begin is None else begin - int(self.distinct_before[0, cpu])
        lost_after = 0 if end is None else (until - end) - (distinct - int(self.distinct_before[1, cpu]))
        return Cpu(
            cpu=cpu,
            rows=int(self.of_cpu[cpu]),
            first_cpu_seq=int(self.lowest[cpu]) if seen else None,
            last_cpu_seq=top if seen else None,
            lost=lost,
            lost_between_snapshots=lost - lost_before - lost_after,
            repeated=seen.repeated if seen else 0,
            went_back=int(self.went_back[cpu]),
            clock_back=int(self.clock_back[cpu]),
            clock_back_rows_displaced=int(self.displaced[cpu]),
        )

    def first_loss(self, cpus: tuple[Cpu, ...], usable: tuple[bool, bool]) -> int | None:
        """
        The row at which the first one between the snapshots is missing.
        """
        if not any(cpu.lost_between_snapshots for cpu in cpus):
            return None
        places = [self.first_jump[usable]] if usable in self.first_jump else []
        cut_off = self.cut_off(1) if usable[1] else ()
        places += [int(self.last_row[cpu]) + 1 if cpu in self.seen else self.first_of_phase_1 or 0 for cpu in cut_off]
        return min(places, default=0)


def _at_cpu(entries: np.ndarray, cpu: np.ndarray, otherwise: int) -> np.ndarray:
    """
    Entries of each row's CPU; ``otherwise`` for a CPU that the snapshot does not have.
    """
    known = np.full(MAX_CPUS, otherwise, np.int64)
    known[: len(entries)] = entries[:MAX_CPUS]
    return known[cpu]


class _Words:
    """
    A word for every page that occurs, kept by pageblock: memory follows the pages, not the largest frame.
    """

    def __init__(self) -> None:
        self.blocks = np.zeros(0, np.int64)  # ascending
        self.slots = np.zeros(0, np.int64)
        self.words = np.zeros(0, np.uint16)
        self.dense = 0  # pages of which index and frame are the same

    def fill(self, words: np.ndarray) -> None:
        """
        Begin with words of pages 0, 1, 2 and so on.
        """
        blocks = -(-len(words) // PAGEBLOCK_PAGES)
        self.words = np.zeros(blocks * PAGEBLOCK_PAGES, np.uint16)
        self.words[: len(words)] = words
        self.blocks = self.slots = np.arange(blocks)
        self.dense = len(self.words)

    def index(self, pages: np.ndarray) -> np.ndarray:
        """
        Where the words of these pages are; pages not met before get one.
        """
        if not len(pages) or pages.max() < self.dense:
            return pages
        block = pages // PAGEBLOCK_PAGES
        unique, inverse = np.unique(block, return_inverse=True)
        new = np.setdiff1d(unique, self.blocks, assume_unique=True)
        if len(new):
            used = len(self.blocks)
            need = (used + len(new)) * PAGEBLOCK_PAGES
            if need > len(self.words):
                grown = np.zeros(max(need, 2 * len(self.words)), np.uint16)
                grown[: len(self.words)] = self.words
                self.words = grown
            blocks, slots = np.r_[self.blocks, new], np.r_[self.slots, np.arange(used, used + len(new))]
            order = np.argsort(blocks)
            self.blocks, self.slots = blocks[order], slots[order]
        slot = self.slots[np.searchsorted(self.blocks, unique)]
        return slot[inverse] * PAGEBLOCK_PAGES + pages % PAGEBLOCK_PAGES


def _mask(*names: str) -> np.ndarray:
    """
    A table: whether an event code is one of these.
    """
    table = np.zeros(OTHER_EVENT + 1, bool)
    table[[EVENT_CODES[name] for name in names]] = True
    return table


PAGED, MAY_FAIL, TYPED = _mask(*stream.WITH_PAGE), _mask(*stream.MAY_FAIL), _mask(*stream.REQUEST_TYPED)
ORDERED = _mask("mm_page_alloc", "mm_page_free", "pcp_alloc", "pcp_free", "free_one")
NAMED = {name: EVENT_CODES[name] for name in EVENT_ORDER}
FREE_ROWS = _mask("pcp_free", "free_one")
REQUEST_ROWS = _mask("mm_page_alloc", "mm_page_free")


class _Lives:
    """
    The second reading: every page from row to row, and signs of what rows alone leave open.
    """

    OPTIONAL = ("zone", "pcp_cpu", "fpi", "zflags", "fallback_order", "irq_flags")

    def __init__(self, first: files.Snapshot | None, with_probes: bool) -> None:
        self.first = first
        self.with_probes = with_probes
        self.rows = 0
        self.faults = _Faults()
        self.words = _Words()
        self.max_pfn = MOST_PFN
        self.zones: list[int] | None = None
        self.nr_cpus = MAX_CPUS
        if first is not None:
            states = first.arrays["page_state"]
            self.words.fill(np.where(states >= snapshot.ALLOCATED, HELD, HELD_FREE) | (NOT_FIRST << ORDER_SHIFT))
            self.max_pfn = int(first.json["max_pfn"])
            self.zones = [zone["index"] for zone in first.json["zones"]]
            self.nr_cpus = len(first.json["ring"])
        self.ops = self._operations()
        self.pages = np.zeros(7, np.int64)  # by outcome
        self.outcome_rows = np.zeros(7, np.int64)
        self.done_rows = np.zeros(NR_OPS, np.int64)
        self.done_pages = np.zeros(NR_OPS, np.int64)
        self.whole = np.zeros(7, np.int64)  # by outcome of the first page
        self.whole_pages = np.zeros(7, np.int64)
        self.moved = self.drained_contiguous = self.allocs_failed = 0
        self.counts = np.zeros(OTHER_EVENT + 1, np.int64)
        self.bulk_pages = self.frees_past_pcp = self.contiguous = self.zone_flags_set = self.claims = 0
        self.cma_takes = self.in_interrupt = self.requests = 0

    def _operations(self) -> np.ndarray:
        """
        What each event does to its page, NOTHING for most: those that become requests (replay.md, section 1).
        """
        ops = np.zeros(OTHER_EVENT + 1, np.uint8)
        ops[NAMED["mm_page_alloc"]] = RETURNED
        if self.with_probes:
            ops[NAMED["pcp_alloc"]] = POPPED
            ops[NAMED["pcp_alloc_bulk"]] = BULK
            ops[[NAMED["pcp_free"], NAMED["free_one"]]] = FREED
        else:
            ops[NAMED["mm_page_free"]] = FREED
            ops[NAMED["mm_page_free_batched"]] = BATCHED
        return ops

    def add(self, batch: dict[str, np.ndarray]) -> None:
        """
        Take the next rows.
        """
        possible = self._check(batch)
        inside = (batch["phase"] == stream.REPLAYED) if self.first is not None else np.ones(len(possible), bool)
        self._signs({name: column[inside] for name, column in batch.items()})
        event, pfn, order = batch["event"], batch["pfn"], batch["order"]
        drains = inside & possible & (event == NAMED["mm_page_pcpu_drain"]) & (order > 0) & (not self.with_probes)
        followed = np.flatnonzero(inside & possible & (((self.ops[event] != NOTHING) & (pfn >= 0)) | drains))
        op = np.where(drains, NOTHING, self.ops[event])[followed]
        orders = np.where((op == BATCHED) | (op == BULK) | (order[followed] < 0), 0, order[followed])
        # A drain only looks at its first page.
        pages = np.where(op == NOTHING, 1, np.left_shift(1, orders))
        cpu = np.clip(batch["cpu"][followed], 0, MAX_CPUS - 1)
        start = 0
        total = np.cumsum(pages)
        while start < len(followed):
            done = int(total[start - 1]) if start else 0
            end = max(start + 1, int(np.searchsorted(total, done + MOST_PAGES, side="right")))
            part = slice(start, end)
            self._follow(op[part], pfn[followed[part]], orders[part], pages[part], cpu[part])
            start = end
        self.rows += len(event)

    def _check(self, batch: dict[str, np.ndarray]) -> np.ndarray:
        """
        Which rows can be; the others are counted. The same that ``stream.verify`` refuses.
        """
        event, pfn, order, kind = batch["event"], batch["pfn"], batch["order"], batch["migratetype"]
        paged, may_fail = PAGED[event], MAY_FAIL[event]
        absent = order == MISSING
        bad_order = (order < 0) | (order >= NR_ORDERS)
        bad_order &= ORDERED[event] | ~absent
        sizes = np.left_shift(1, np.where(bad_order | absent, 0, order))
        far = pfn > self.max_pfn - sizes
        wrong = {
            "order": bad_order,
            "pfn": (paged & (pfn < 0))
            | (may_fail & (pfn < -1) & (pfn != MISSING))
            | ((paged | may_fail) & far)
            | ((paged | may_fail) & (pfn >= 0) & (pfn % sizes != 0)),
            "migratetype": TYPED[event] & (pfn >= 0) & ((kind < 0) | (kind >= NR_PCP_TYPES)),
        }
        gfp = batch["gfp_flags"]
        both = gfp & stream.BOTH_MOBILITIES == stream.BOTH_MOBILITIES
        wrong["gfp_flags"] = (event == NAMED["mm_page_alloc"]) & (pfn >= 0) & ((gfp < 0) | both)
        if self.zones is not None:
            wrong["zone"] = (event == NAMED["decay"]) & ~np.isin(batch["zone"], self.zones)
        whose = batch["pcp_cpu"]
        wrong["pcp_cpu"] = (whose != MISSING) & ((whose < 0) | (whose >= self.nr_cpus))
        impossible = np.zeros(len(event), bool)
        for column, mask in wrong.items():
            self.faults.add(column, mask, event, self.rows)
            impossible |= mask
        return ~impossible

    def _signs(self, batch: dict[str, np.ndarray]) -> None:
        """
        Count what tells R-items apart.
        """
        event, pfn, order = batch["event"], batch["pfn"], batch["order"]
        self.counts += np.bincount(event, minlength=OTHER_EVENT + 1)
        self.allocs_failed += _number(event == NAMED["mm_page_alloc"], pfn == -1)
        self.bulk_pages += _number(event == NAMED["pcp_alloc_bulk"], pfn >= 0)
        on_lists = (order <= COSTLY_ORDER) | (order == PAGEBLOCK_ORDER)
        fpi, flags, gone = batch["fpi"], batch["zflags"], batch["fallback_order"]
        self.frees_past_pcp += _number(event == NAMED["free_one"], on_lists)
        self.contiguous += _number(FREE_ROWS[event], fpi >= 0, fpi & FPI_CONTIGUOUS != 0)
        self.zone_flags_set += _number(event == NAMED["pcp_free"], flags > 0)
        claim = NAMED["claim"] if self.with_probes else NAMED["mm_page_alloc_extfrag"]
        self.claims += _number(event == claim, gone >= 0, gone < PAGEBLOCK_ORDER)
        self.cma_takes += _number(event == NAMED["mm_page_alloc_zone_locked"], batch["migratetype"] == CMA)
        asked = REQUEST_ROWS[event]
        self.requests += _number(asked)
        self.in_interrupt += _number(asked, batch["irq_flags"] > 0, batch["irq_flags"] & IN_INTERRUPT != 0)

    def _follow(self, op: np.ndarray, pfn: np.ndarray, order: np.ndarray, pages: np.ndarray, cpu: np.ndarray) -> None:
        """
        Operations in row order, page by page: what each does, by what was done to the page before.
        """
        row = np.repeat(np.arange(len(op)), pages)
        offset = np.arange(len(row)) - np.repeat(np.cumsum(pages) - pages, pages)
        at = self.words.index(pfn[row] + offset)
        shown = np.where(offset == 0, order[row], NOT_FIRST)
        word = op[row].astype(np.int64) | (shown << ORDER_SHIFT) | (cpu[row] << CPU_SHIFT)
        looking = op[row] == NOTHING
        looked = np.flatnonzero(looking)
        by_page = np.flatnonzero(~looking)
        by_page = by_page[np.argsort(at[by_page], kind="stable")]
        where, word = at[by_page], word[by_page]
        begins = np.r_[True, where[1:] != where[:-1]] if len(where) else np.zeros(0, bool)
        earlier = np.r_[0, word[:-1]] if len(word) else word
        earlier[begins] = self.words.words[where[begins]]
        outcome = OUTCOME[earlier & 7, word & 7]
        # The batched row prints order 0; the order stands in the row before.
        same = outcome == SAME
        word[same] = (word[same] & ~(15 << ORDER_SHIFT)) | (earlier[same] & (15 << ORDER_SHIFT))
        if len(looked):
            self._drained(at[looked], row[looked], order[row[looked]], where, row[by_page], word)
        self._count(op, pages, outcome, row[by_page], offset[by_page] == 0, pages[row[by_page]])
        self.moved += _number(outcome == PAIR, offset[by_page] == 0, earlier >> CPU_SHIFT != word >> CPU_SHIFT)
        ends = np.r_[begins[1:], True] if len(begins) else begins
        self.words.words[where[ends]] = word[ends].astype(np.uint16)

    def _drained(
        self,
        at: np.ndarray,
        row: np.ndarray,
        order: np.ndarray,
        where: np.ndarray,
        rows: np.ndarray,
        words: np.ndarray,
    ) -> None:
        """
        Entries of higher order that a drain shows, but whose first page was freed as a single one (R5).
        """
        span = int(max(row.max(), rows.max() if len(rows) else 0)) + 1
        place = np.searchsorted(where * span + rows, at * span + row) - 1
        here = (place >= 0) & (where[np.maximum(place, 0)] == at) if len(where) else np.zeros(len(at), bool)
        last = self.words.words[at].astype(np.int64)
        last[here] = words[place[here]]
        freed = (last & 7 == FREED) | (last & 7 == BATCHED)
        self.drained_contiguous += _number(freed, (last >> ORDER_SHIFT) & 15 == 0)

    def _count(
        self,
        op: np.ndarray,
        pages: np.ndarray,
        outcome: np.ndarray,
        row: np.ndarray,
        first: np.ndarray,
        size: np.ndarray,
    ) -> None:
        self.done_rows += np.bincount(op, minlength=NR_OPS)
        self.done_pages += np.bincount(op, pages, minlength=NR_OPS).astype(np.int64)
        self.pages += np.bincount(outcome, minlength=7)
        self.whole += np.bincount(outcome[first], minlength=7)
        self.whole_pages += np.bincount(outcome[first], size[first], minlength=7).astype(np.int64)
        for what in (UNSEEN_FREE, UNKNOWN_FREE, DOUBLE_FREE, EARLIER):
            if (found := outcome == what).any():
                self.outcome_rows[what] += len(np.unique(row[found]))

    def result(self, last: files.Snapshot | None) -> Pages:
        """
        The lives of all pages, compared with snapshot 1 if there is one.
        """
        words = self.words.words
        did = words & 7
        held = (did == POPPED) | (did == BULK) | (did == RETURNED)
        first = (words >> ORDER_SHIFT) & 15 != NOT_FIRST
        differ: tuple[int, int] | None = None
        if self.first is not None and last is not None:
            state = last.arrays["page_state"]
            ours = (held | (did == HELD))[: len(state)]
            theirs = state >= snapshot.ALLOCATED
            differ = _number(theirs, ~ours), _number(ours, ~theirs)
        taken = self.done_rows[[POPPED, BULK, RETURNED]].sum() - self.whole[PAIR]
        taken_pages = self.done_pages[[POPPED, BULK, RETURNED]].sum() - self.whole_pages[PAIR]
        given = self.done_rows[[FREED, BATCHED]].sum() - self.whole[SAME]
        given_pages = self.done_pages[[FREED, BATCHED]].sum() - self.whole_pages[SAME]
        return Pages(
            from_snapshot=self.first is not None,
            allocs=int(taken),
            allocs_failed=self.allocs_failed,
            pages_allocated=int(taken_pages),
            frees=int(given),
            pages_freed=int(given_pages),
            frees_unknown=int(self.pages[UNKNOWN_FREE]),
            frees_unknown_rows=int(self.outcome_rows[UNKNOWN_FREE]),
            frees_double=int(self.pages[DOUBLE_FREE]),
            frees_double_rows=int(self.outcome_rows[DOUBLE_FREE]),
            frees_unseen=int(self.pages[UNSEEN_FREE]),
            frees_unseen_rows=int(self.outcome_rows[UNSEEN_FREE]),
            frees_earlier=int(self.pages[EARLIER]),
            held=_number(held, first),
            held_pages=_number(held),
            pops_without_event=int(self.done_rows[POPPED] - self.whole[PAIR]),
            differ_allocated=None if differ is None else differ[0],
            differ_free=None if differ is None else differ[1],
        )


def _number(*masks: np.ndarray) -> int:
    """
    In how many rows all masks hold.
    """
    return int(np.count_nonzero(np.logical_and.reduce(masks)))


def _judge_snapshots(
    found: list[tuple[files.Snapshot | None, str | None]], numbers: _Numbers
) -> tuple[SnapshotHealth, SnapshotHealth]:
    """
    Whether each snapshot can be used, and if not, why.
    """
    first, last = (_judge_snapshot(which, *one, numbers) for which, one in enumerate(found))
    begin, end = found[0][0], found[1][0]
    if begin is not None and end is not None and first.usable and last.usable:
        sizes = [(snap.json["max_pfn"], len(snap.json["ring"])) for snap in (begin, end)]
        if sizes[0] != sizes[1]:
            told = "it has {} pages and {} CPUs".format(*sizes[1]) + ", snapshot 0 {} and {}".format(*sizes[0])
            last = dataclasses.replace(last, usable=False, problem=f"{told}: it belongs to another recording")
    return first, last


def _judge_snapshot(which: int, snap: files.Snapshot | None, problem: str | None, numbers: _Numbers) -> SnapshotHealth:
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
    numbers: _Numbers,
    lives: _Lives,
    snapshots: tuple[SnapshotHealth, SnapshotHealth],
    states: tuple[files.Snapshot | None, files.Snapshot | None],
) -> Health:
    usable = (snapshots[0].usable, snapshots[1].usable)
    cpus = numbers.cpus(usable)
    faults = numbers.faults.found | lives.faults.found
    state = states[0] or states[1]
    ring = next((snap.json["ring"] for snap in reversed(states) if snap is not None), [])
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


def _signs(rows: _Rows, lives: _Lives, first: files.Snapshot | None) -> Signs:
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
