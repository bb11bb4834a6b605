"""
``pcpbuddy bench pool`` as a table and as a picture.
"""

from collections.abc import Sequence
from math import log10
from xml.sax.saxutils import escape

from ..poolbench import Point, Result
from .chart import STYLES
from .drawing import FAINT, INK, MARGIN, PAPER, SMALL, TEXT, TITLE, WIDTH

__all__ = ["chart", "table"]

NAME = 24  # columns of a load's name
NOTES = """\
ns for a get and its put: medians of the rounds, below them least and most; * the fastest that allocates at all.
One thread: CPU time; several: wall time. empty: the harness and its indirect calls alone; nothing is subtracted."""


def table(results: Sequence[Result]) -> str:
    """
    A row for each load, a column for each allocator.
    """
    names = list(dict.fromkeys(result.peer.name for result in results))
    wide = max(10, *(len(name) + 2 for name in names))
    lines = ["".ljust(NAME) + "".join(name.rjust(wide) for name in names)]
    for point, row in _rows(results):
        best = min((one.median for name, one in row.items() if name != "empty"), default=0.0)
        cells = (_number(row[name].median) + ("*" if row[name].median == best else " ") for name in names)
        lines.append(str(point).ljust(NAME) + "".join(cell.rjust(wide) for cell in cells))
        spans = (f"{_number(min(row[name].rounds))}-{_number(max(row[name].rounds))} " for name in names)
        lines.append("".ljust(NAME) + "".join(span.rjust(wide) for span in spans))
        if any(one.predicted for one in row.values()):
            told = (_number(row[name].predicted) + " " if row[name].predicted else "" for name in names)
            lines.append("  predicted".ljust(NAME) + "".join(one.rjust(wide) for one in told))
    meta = {result.peer.name: result.meta_bytes_per_page for result in results}
    lines.append("metadata, bytes a page".ljust(NAME) + "".join(_meta(meta[name]).rjust(wide) for name in names))
    return "\n".join([*lines, "", NOTES]) + "\n"


def _rows(results: Sequence[Result]) -> list[tuple[Point, dict[str, Result]]]:
    rows: dict[Point, dict[str, Result]] = {}
    for result in results:
        rows.setdefault(result.point, {})[result.peer.name] = result
    return list(rows.items())


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _meta(value: float) -> str:
    return f"{value:.1f} " if value else "? "


def chart(results: Sequence[Result]) -> str:
    """
    A bar for each allocator under each load, on a logarithmic scale from 1 ns on, with a line from least to most.
    """
    names = list(dict.fromkeys(result.peer.name for result in results))
    styles = {name: STYLES[k % len(STYLES)].colour for k, name in enumerate(names)}
    most = max(max(result.rounds) for result in results)
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
        for name, one in row.items():
            end = at(one.median)
            parts.append(
                f'<rect x="{left}" y="{y}" width="{max(end - left, 1):.1f}" height="{bar - 2}" fill="{styles[name]}">'
                f"<title>{escape(name)}, {escape(str(point))}: {_number(one.median)} ns</title></rect>"
            )
            low, high = at(min(one.rounds)), at(max(one.rounds))
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
