"""
What is wrong with a trace: counted, and located in its file.
"""

import dataclasses
from typing import Any

__all__ = ["CpuHealth", "Health", "Loss", "Odd"]


@dataclasses.dataclass(frozen=True, slots=True)
class CpuHealth:
    """
    One CPU. lost: events counted as lost; gaps: losses that nobody counted; back: rows whose time went back.
    """

    cpu: int
    rows: int
    first_ns: int | None
    last_ns: int | None
    lost: int
    gaps: int
    back: int


@dataclasses.dataclass(frozen=True, slots=True)
class Loss:
    """
    Events that are missing before a place; events None: nobody knows how many.
    """

    cpu: int
    events: int | None
    place: int
    ts_ns: int | None


@dataclasses.dataclass(frozen=True, slots=True)
class Odd:
    """
    Something that gave no row: where, and what was seen.
    """

    place: int
    what: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """
    All that was found. A place is a line or a byte of the file, as ``unit`` says.

    overwritten: CPU (-1 for all together) -> events that the ring buffer dropped before or while it was read, as the
    kernel counted them. truncated: the last line or sub-buffer was cut off. broken: lines of an event that lack what
    it must have, or events that are too short. not_understood: other lines. unknown_events: name -> (events, place of
    the first or None); they have no row. unknown_flags: names without a number, which is not in the number of the row.
    out_of_range: numbers that no column can hold, null in the row, and texts that were cut.
    """

    unit: str
    rows: int
    cpus: tuple[CpuHealth, ...]
    losses: tuple[Loss, ...]
    overwritten: dict[int, int]
    back: int
    back_at: int | None
    ties: int
    truncated: Odd | None
    broken: int
    not_understood: int
    odd: tuple[Odd, ...]
    damages: tuple[Odd, ...]
    nr_damages: int
    unknown_events: dict[str, tuple[int, int | None]]
    unknown_flags: dict[str, int]
    out_of_range: int
    notes: tuple[str, ...]

    @property
    def lost(self) -> int:
        """
        Events counted as lost, those that the ring buffer overwrote included.
        """
        return sum(cpu.lost for cpu in self.cpus) + sum(self.overwritten.values())

    @property
    def gaps(self) -> int:
        """
        Losses that nobody counted.
        """
        return sum(cpu.gaps for cpu in self.cpus)

    @property
    def incomplete(self) -> str | None:
        """
        Why events are missing, in words; None if none are.
        """
        reasons = [
            (self.lost, f"{self.lost} events lost"),
            (self.gaps, f"{self.gaps} gaps of unknown size"),
            (self.nr_damages, f"{self.nr_damages} damaged sub-buffers"),
            (self.broken, f"{self.broken} broken events"),
            (self.truncated, "cut off at the end"),
        ]
        return ", ".join(text for there, text in reasons if there) or None

    @property
    def starts_apart_ns(self) -> int:
        """
        From the first row of the first CPU to the first row of the last.
        """
        first = [cpu.first_ns for cpu in self.cpus if cpu.first_ns is not None]
        return max(first) - min(first) if first else 0

    def document(self) -> dict[str, Any]:
        """
        All of it, for JSON.
        """
        return dataclasses.asdict(self) | {
            "lost": self.lost,
            "gaps": self.gaps,
            "incomplete": self.incomplete,
            "starts_apart_ns": self.starts_apart_ns,
        }
