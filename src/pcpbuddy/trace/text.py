"""
Text of tracefs, of ``trace-cmd report`` and of ``perf script`` as batches of rows, in the order of the file.
"""

import functools
import re
from collections.abc import Iterator

import numpy as np

from ..errors import TraceError
from . import gfp
from ._parse import TextParser
from .health import Health, Odd
from .rings import BATCH_ROWS, cpu_healths, losses
from .schema import EVENT, EVENTS, MARKERS, Batch, Field, place
from .source import Source, shown

__all__ = ["FORMS", "TextReader", "form_of"]

TRACEFS, REPORT, PERF = "tracefs text", "trace-cmd report", "perf script"
FORMS = (TRACEFS, REPORT, PERF)
NUMBER, WORDS, PAGE = 1, 2, 3  # as in text.pxi
GFP_TABLE, LOCK_TABLE = 0, 1
MOST_ODD = 10

_TASK = rb"[^\n]{1,60}?"
_TIME = rb"(?:[^\s\d]\S{3,7}\s+)?\d+(?:\.\d+)?:\s"
_TRACEFS_LINE = re.compile(rb"^" + _TASK + rb"-\d+ .{0,30}?\[\d{3,}\]\s+" + _TIME, re.MULTILINE)
_PERF_LINE = re.compile(rb"^" + _TASK + rb"\s\d+(?:/\d+)?\s+\[\d{3,}\]\s+" + _TIME, re.MULTILINE)
_LOST = re.compile(rb"^\s*CPU:\s*(\d{1,5}) \[(?:LOST )?(\d{1,18})? ?EVENTS(?: DROPPED)?\]")
_PERF_LOST = re.compile(rb"\[(\d{3,5})\].*PERF_RECORD_LOST(?:_SAMPLES)? lost (\d{1,18})")
_WRITTEN = re.compile(rb"^#\s*entries-in-buffer/entries-written: (\d{1,18})/(\d{1,18})")
_RELEASE = re.compile(rb"^# os release : (\d{1,3}\.\d{1,3}(?!\d)\S{0,60})", re.MULTILINE)
_HEADINGS = re.compile(rb"^(cpus=\d+|version = \d+|CPU ?\d+ is empty|[\w.-]+: *)\s*$")


def form_of(head: bytes) -> str | None:
    """
    Which of the three forms a text has, from its beginning; None if it is none of them.
    """
    if re.search(rb"^# .*latency trace v", head, re.MULTILINE):
        raise TraceError(
            "this is the text of a latency tracer, whose times are not those of a clock; set tracefs option "
            "latency-format to 0, or record with `trace-cmd record`"
        )
    if head.startswith(b"# tracer:"):
        return TRACEFS
    if re.match(rb"(?:version = \d+\s+)?cpus=\d+\s", head):
        return REPORT
    perf, other = _PERF_LINE.search(head), _TRACEFS_LINE.search(head)
    if other and (perf is None or other.start() <= perf.start()):
        return TRACEFS
    return PERF if perf or _RELEASE.search(head) else None


class TextReader:
    """
    The rows of a text. kernel: the release that wrote it, where the caller knows.
    """

    unit = "line"

    def __init__(self, source: Source, form: str, kernel: str | None = None) -> None:
        self.source, self.form = source, form
        named = _RELEASE.search(source.head)
        self.kernel = kernel or (shown(named[1]) if named else None)
        version = gfp.parse_kernel(self.kernel) if self.kernel else gfp.NEWEST
        self._words = gfp.Words(version)
        self._parser = TextParser(_specs(), self._words, self._odd_line)
        self._odd: list[Odd] = []
        self._not_understood = self._broken = 0
        self._overwritten = 0
        self._truncated: Odd | None = None
        self.clock: str | None = None

    def batches(self) -> Iterator[Batch]:
        """
        The rows, some thousands at a time.
        """
        parser, source = self._parser, self.source
        rows, filled = np.empty(BATCH_ROWS, EVENT), 0
        while True:
            got = source.readinto(parser.window())
            parser.filled(got)
            while (filled := parser.fill(rows.view(np.uint8), filled)) == BATCH_ROWS:
                yield Batch(rows, *parser.tally.take_texts())
                rows, filled = np.empty(BATCH_ROWS, EVENT), 0
            if not got:
                break
        if rest := parser.left():
            self._truncated = Odd(parser.lines + 1, shown(rest.strip(), 160))
        if filled:
            yield Batch(rows[:filled], *parser.tally.take_texts())

    def _odd_line(self, line: int, text: bytes, kind: int) -> None:
        """
        A line that gave no row.
        """
        if text.startswith(b"#"):
            if written := _WRITTEN.match(text):
                self._overwritten = max(0, int(written[2]) - int(written[1]))
            return
        lost = _LOST.match(text) or _PERF_LOST.search(text)
        if lost:
            self._parser.tally.lose(int(lost[1]), int(lost[2]) if lost[2] else -1, line)
            return
        if kind == 0 and (_HEADINGS.match(text) or (self.form == PERF and text.startswith(b" ") and b"[" not in text)):
            return
        if kind:
            self._broken += 1
        else:
            self._not_understood += 1
        if len(self._odd) < MOST_ODD:
            self._odd.append(Odd(line, shown(text.strip(), 160)))

    def health(self) -> Health:
        """
        What became known while the rows were read.
        """
        parser, tally = self._parser, self._parser.tally
        rows, back, back_at, ties, out_of_range = tally.numbers()
        return Health(
            unit=self.unit,
            rows=rows,
            cpus=cpu_healths(tally.of_cpus()),
            losses=losses(tally.losses),
            overwritten={-1: self._overwritten} if self._overwritten else {},
            back=back,
            back_at=None if back_at < 0 else back_at,
            ties=ties,
            truncated=self._truncated,
            broken=self._broken,
            not_understood=self._not_understood,
            odd=tuple(self._odd),
            damages=(),
            nr_damages=0,
            unknown_events={shown(name): (seen[0], seen[1]) for name, seen in sorted(parser.unknown.items())},
            unknown_flags={shown(name): count for name, count in sorted(self._words.unknown.items())},
            out_of_range=out_of_range,
            notes=tuple(self._notes()),
        )

    def _notes(self) -> Iterator[str]:
        if self.kernel is None:
            newest = ".".join(map(str, gfp.NEWEST))
            yield f"the text does not say which kernel wrote it; names of flags are read as those of Linux {newest}"
        if self._parser.ticks:
            yield (
                f"{self._parser.ticks} rows have whole numbers for times: of a clock that does not count nanoseconds, "
                "and ts_ns holds them as they are"
            )


@functools.cache
def _specs() -> list[tuple[list[bytes], int, list[tuple[int, int, list[bytes], int, int, bool]], int, bool, int]]:
    """
    The events as TextParser takes them.
    """
    specs = []
    for code, (name, fields) in enumerate(EVENTS.items()):
        wanted = [_wanted(field) for field in fields]
        pfn = any(field.column == "pfn" for field in fields)
        if pfn:
            wanted.append((-1, 0, [b"page"], PAGE, 0, False))
        names = [one.encode() for one in (MARKERS if name == "print" else (name,))]
        address = place("lock_addr")[0] if name.startswith("contention_") else -1
        specs.append((names, code, wanted, place("pfn")[0] if pfn else -1, name == "print", address))
    return specs


def _wanted(field: Field) -> tuple[int, int, list[bytes], int, int, bool]:
    kind = NUMBER if field.kind == "number" else WORDS
    table = LOCK_TABLE if field.kind == "lock" else GFP_TABLE
    return (*place(field.column), [name.encode() for name in field.names], kind, table, field.needed)
