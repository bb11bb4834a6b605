"""
``pcpbuddy bench pool`` as a table and as a picture.
"""

from collections.abc import Iterable, Sequence
from math import log10
from textwrap import wrap
from xml.sax.saxutils import escape

from ..poolbench import FAULTS, LEAST_SHARE, Point, Result, best_peers
from .chart import STYLES
from .drawing import FAINT, INK, MARGIN, PAPER, SMALL, TEXT, TITLE, WIDTH

__all__ = ["chart", "table"]

COLOURS = (*(style.colour for style in STYLES), "#8a5a44", "#7048c0", "#1f2d3a")
EMPTY = "#9aa3ab"  # the harness alone is no allocator
NAME = 30  # columns of a load's name
LINE = 118
NOTES = """\
ns for a get and its put: medians of the rounds, below them least and most; * the fastest that allocates at all.
One thread: CPU time; several: wall time. empty: the harness and its indirect calls alone; nothing is subtracted."""
FAULTED = f"! more than {FAULTS} page faults a pair, so the system's memory was measured too; the most:"
DISTURBED = (
    f"~ a thread had less than {LEAST_SHARE} of its CPU in some round (other load, a lock that sleeps); the least:"
)


def table(results: Sequence[Result], *, stopped: tuple[int, int] | None = None) -> str:
    """
    A row for each load, a column for each allocator. stopped: after how many points, of how many.
    """
    names = list(dict.fromkeys(result.peer.name for result in results))
    wide = max(10, *(len(name) + 2 for name in names))
    reasons = [f"{one.peer.name}, {one.point}: {one.error}." for one in results if one.error]
    best = best_peers(results)

    def line(label: str, cells: Iterable[str]) -> str:
        return label.ljust(NAME) + "".join(cell.rjust(wide) for cell in cells)

    lines = [line("", names)]
    for point, row in _rows(results):
        fastest = min((one.median for name, one in row.items() if name != "empty" and one.rounds), default=0.0)
        lines.append(line(str(point), (_cell(row[name], fastest, reasons) for name in names)))
        lines.append(line("", (_span(row[name]) for name in names)))
        if point in best and any(one.peer.kind == "our" for one in row.values()):
            label = f"  ratio to {best[point].peer.name}"[: NAME - 1]
            lines.append(line(label, (_ratio(row[name], best[point]) for name in names)))
        if any(one.predicted for one in row.values()):
            told = (_number(row[name].predicted) + " " if row[name].predicted else "" for name in names)
            lines.append(line("  predicted", told))
    meta = {result.peer.name: result.meta_bytes_per_page for result in results if result.rounds}
    lines.append(line("metadata, bytes a page", (_meta(meta.get(name, 0.0)) for name in names)))
    if stopped is not None:
        lines[:0] = [f"PARTIAL: stopped when {stopped[0]} of {stopped[1]} points were done.", ""]
    return "\n".join([*lines, "", NOTES, *_footnotes(results, reasons)]) + "\n"


def _rows(results: Sequence[Result]) -> list[tuple[Point, dict[str, Result]]]:
    rows: dict[Point, dict[str, Result]] = {}
    for result in results:
        rows.setdefault(result.point, {})[result.peer.name] = result
    return list(rows.items())


def _cell(one: Result, fastest: float, reasons: Sequence[str]) -> str:
    if one.error:
        return f"-[{reasons.index(f'{one.peer.name}, {one.point}: {one.error}.') + 1}]"
    marks = ("*" if one.median == fastest else "") + "!" * _faulted(one) + "~" * _disturbed(one)
    return _number(one.median) + (marks or " ")


def _faulted(one: Result) -> bool:
    return bool(one.rounds) and one.faults > FAULTS


def _disturbed(one: Result) -> bool:
    return bool(one.rounds) and one.point.threads > 1 and one.cpu_share < LEAST_SHARE


def _span(one: Result) -> str:
    return f"{_number(min(one.ns))}-{_number(max(one.ns))} " if one.rounds else ""


def _ratio(one: Result, best: Result) -> str:
    return f"{one.median / best.median:.2f} " if one.peer.kind == "our" and one.rounds else ""


def _footnotes(results: Sequence[Result], reasons: Sequence[str]) -> list[str]:
    """
    What the marks mean, and why there is no figure.
    """
    texts = []
    if faulted := [one for one in results if _faulted(one)]:
        most = max(faulted, key=lambda one: one.faults)
        texts.append(f"{FAULTED} {most.faults:.2g}, {most.peer.name}, {most.point}.")
    if disturbed := [one for one in results if _disturbed(one)]:
        least = min(disturbed, key=lambda one: one.cpu_share)
        texts.append(f"{DISTURBED} {least.cpu_share:.2f}, {least.peer.name}, {least.point}.")
    texts += [f"[{number}] {reason}" for number, reason in enumerate(reasons, 1)]
    return [line for text in texts for line in wrap(text, LINE, subsequent_indent="  ")]


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _meta(value: float) -> str:
    return f"{value:.1f} " if value else "? "


def chart(results: Sequence[Result]) -> str:
    """
    A bar for each allocator under each load, on a logarithmic scale from 1 ns on, with a line from least to most.
    Nothing for what failed.
    """
    names = list(dict.fromkeys(result.peer.name for result in results))
    styles = {name: COLOURS[k % len(COLOURS)] for k, name in enumerate(names)} | {"empty": EMPTY}
    most = max((max(result.ns) for result in results if result.rounds), default=1.0)
    decades = max(1, int(log10(max(most, 1.0))) + 1)
    left, bar = MARGIN + 150, 11
    right = WIDTH - MARGIN - 60
    y = MARGIN + TITLE

    def at(ns: float) -> float:
        return left + (right - left) * log10(max(ns, 1.0)) / decades

    parts = [_text(MARGIN, y, "Nanoseconds for a get and its put, logarithmic", TITLE, INK)]
    y += 22
    x = float(MARGIN)
    for name in names:
        parts.append(f'<rect x="{x:.1f}" y="{y - 9}" width="10" height="10" fill="{styles[name]}"/>')
        parts.append(_text(x + 14, y, name, TEXT, INK))
        x += 14 + 8 * len(name) + 18
    top = y + 12
    y = top + 8
    for point, row in _rows(results):
        parts.append(_text(MARGIN, y + bar * len(row) / 2 + 4, str(point), SMALL, INK))
        for name, one in ((name, one) for name, one in row.items() if one.rounds):
            end = at(one.median)
            parts.append(
                f'<rect x="{left}" y="{y}" width="{max(end - left, 1):.1f}" height="{bar - 2}" fill="{styles[name]}">'
                f"<title>{escape(name)}, {escape(str(point))}: {_number(one.median)} ns</title></rect>"
            )
            low, high = at(min(one.ns)), at(max(one.ns))
            middle = y + (bar - 2) / 2
            parts.append(
                f'<line x1="{low:.1f}" y1="{middle}" x2="{high:.1f}" y2="{middle}" stroke="{INK}" stroke-width="1.2"/>'
            )
            parts.append(_text(max(end, high) + 4, y + bar - 3, _number(one.median), SMALL, FAINT))
            y += bar
        y += 10
    grid = [
        f'<line x1="{at(10.0**k):.1f}" y1="{top}" x2="{at(10.0**k):.1f}" y2="{y}" stroke="#e3e6e9"/>'
        + _text(at(10.0**k) - 8, y + 14, f"{10**k}", SMALL, FAINT)
        for k in range(decades + 1)
    ]
    height = y + 26
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}">'
    paper = f'<rect width="{WIDTH}" height="{height}" fill="{PAPER}"/>'
    return "\n".join([head, paper, *grid, *parts, "</svg>"]) + "\n"


def _text(x: float, y: float, text: str, size: int, colour: str) -> str:
    where = f'x="{x:.1f}" y="{y:.1f}" font-family="sans-serif" font-size="{size}"'
    return f'<text {where} fill="{colour}">{escape(text)}</text>'
