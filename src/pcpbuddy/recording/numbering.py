"""
The numbers of rows: which CPU wrote them, in which order, what is missing, and when.

One reading, batch by batch, for ``health``. Memory grows with the CPUs and with nothing else.
"""

import dataclasses

import numpy as np

from ..names import MAX_CPUS
from . import stream
from .files import EVENT_ORDER, MISSING, OTHER_EVENT

__all__ = ["Clock", "Cpu", "Faults", "Impossible", "Numbers"]

WINDOW = 1 << 20  # how far behind the highest number of a CPU a row is still told from a repeated one
MOST_SEQ = 1 << 62  # beyond every row number


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

    span_ns: from the earliest stamp to the latest; span_between_ns: the same of the rows between the snapshots.
    """

    first_ns: int | None
    span_ns: int
    span_between_ns: int
    back: int
    back_first_row: int | None
    back_within_cpu: int
    ties: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Impossible:
    """
    Rows that no kernel writes: a value out of range, or missing where the event has one.
    """

    column: str
    rows: int
    first_row: int
    first_event: str


class Faults:
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


class Numbers:
    """
    The first reading: CPUs, their numbers, the clock, phases, and whether snapshots lie where the phases say.
    """

    def __init__(self, entries: list[np.ndarray | None]) -> None:
        self.entries = entries
        self.rows = 0
        self.faults = Faults()
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
        self.between_ns = (1 << 62, -(1 << 62))  # least and most of phase 1
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
        between = stamp[(phase == stream.REPLAYED) & ~wrong["ts_ns"]]
        if len(between):
            least, most = self.between_ns
            self.between_ns = (min(least, int(between.min())), max(most, int(between.max())))
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
        # In order and without repetition, as nearly always: nothing to sort.
        unique = numbers if (np.diff(numbers) > 0).all() else np.unique(numbers)
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
        new: np.ndarray = np.concatenate((before, ahead))
        self.distinct += len(new)
        self.repeated += len(numbers) - len(new)
        return new


def _at_cpu(entries: np.ndarray, cpu: np.ndarray, otherwise: int) -> np.ndarray:
    """
    Entries of each row's CPU; ``otherwise`` for a CPU that the snapshot does not have.
    """
    known: np.ndarray = np.full(MAX_CPUS, otherwise, np.int64)
    known[: len(entries)] = entries[:MAX_CPUS]
    at_row: np.ndarray = known[cpu]
    return at_row
