"""
Line charts as SVG text, side by side in rows. Equal data give equal bytes.

Colours are Okabe and Ito's, which differ for colour-blind readers too; each line has a marker of its own as well.
"""

import dataclasses
from collections.abc import Sequence
from xml.sax.saxutils import escape

from .drawing import FAINT, FRAME, INK, MARGIN, PAPER, SMALL, TEXT, TITLE, WIDTH

__all__ = ["STYLES", "Line", "Panel", "charts"]

PLOT_HEIGHT = 210
AXIS = 40  # left of a plot, for its numbers
GAP = 24  # between two plots
TICKS = 5
MARK_EVERY = 4  # points between two markers of a line


@dataclasses.dataclass(frozen=True, slots=True)
class Style:
    """
    How a line looks. marker: "circle", "square", "triangle", "diamond", "cross" or none.
    """

    colour: str
    width: float = 2.0
    marker: str = ""


STYLES = (
    Style("#0072B2", 3.4, "circle"),
    Style("#D55E00", marker="square"),
    Style("#E69F00", marker="triangle"),
    Style("#009E73", marker="diamond"),
    Style("#CC79A7", marker="cross"),
    Style("#56B4E9", marker="square"),
    Style("#8f8600", marker="triangle"),
)
REFERENCE = Style("#c4c9cf", 9.0)  # a broad line below the others, so that what lies on it can be seen


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """
    Points (x, y) of one name, both 0 to 1. The same name has the same style in all panels of a chart.

    low, high: ends of a band around y, for each point; empty: no band.
    """

    name: str
    points: Sequence[tuple[float, float]]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Panel:
    """
    One plot: shares, 0 to 100 %, against shares, with a title above and a name of the x axis below.
    """

    title: str
    x_title: str
    lines: Sequence[Line]


def charts(title: str, captions: Sequence[str], rows: Sequence[Sequence[Panel]], reference: str = "") -> str:
    """
    Rows of panels with one legend, as an SVG document that ends in a newline.

    reference: name of the line that the others are held against. Others get their styles by their order in the first
    panel.
    """
    names = [line.name for line in rows[0][0].lines]
    plain = [name for name in names if name != reference]
    styles = {name: STYLES[k % len(STYLES)] for k, name in enumerate(plain)} | {reference: REFERENCE}
    body = [_text(MARGIN, MARGIN + TITLE, title, size=TITLE, bold=True)]
    y = float(MARGIN + TITLE + 4)
    for caption in captions:
        y += 17
        body.append(_text(MARGIN, y, caption, fill=FAINT))
    y += 14
    x = float(MARGIN)
    for name in [*([reference] if reference in names else []), *plain]:
        wide = 34 + 7.2 * len(name) + 16
        if x + wide > WIDTH:
            x, y = float(MARGIN), y + 20
        body += _sample(x, y + 8, styles[name])
        body.append(_text(x + 34, y + 12, name))
        x += wide
    y += 24
    for row in rows:
        wide = (WIDTH - 2 * MARGIN - GAP * (len(row) - 1)) / len(row)
        for number, panel in enumerate(row):
            body += _panel(panel, MARGIN + number * (wide + GAP), y, wide, styles, reference)
        y += PLOT_HEIGHT + 76
    height = int(y)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
            f'viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title, {chr(34): "&quot;"})}" '
            f"font-family=\"system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif\" "
            f'font-size="{TEXT}">',
            f"<title>{escape(title)}</title>",
            f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8" fill="{PAPER}" stroke="{FRAME}"/>',
            *body,
            "</svg>",
            "",
        ]
    )


def _panel(panel: Panel, x: float, y: float, wide: float, styles: dict[str, Style], reference: str) -> list[str]:
    left, top, width = x + AXIS, y + 24, wide - AXIS - 8
    bottom = top + PLOT_HEIGHT
    parts = [_text(x, y + 12, panel.title, bold=True)]
    for k in range(TICKS):
        share = k / (TICKS - 1)
        level, column = bottom - share * PLOT_HEIGHT, left + share * width
        parts.append(f'<path d="M{left:.1f} {level:.1f}h{width:.1f}" stroke="{FRAME}" stroke-width="0.7"/>')
        parts.append(f'<path d="M{column:.1f} {bottom:.1f}v4" stroke="{INK}" stroke-width="0.8"/>')
        parts.append(_text(left - 6, level + 4, f"{100 * share:.0f}%", size=SMALL, anchor="end"))
        parts.append(_text(column, bottom + 17, f"{100 * share:.0f}%", size=SMALL, anchor="middle"))
    parts.append(_text(left + width / 2, bottom + 34, panel.x_title, size=12, anchor="middle", fill=FAINT))
    parts.append(
        f'<path d="M{left:.1f} {top:.1f}V{bottom:.1f}H{left + width:.1f}" fill="none" stroke="{INK}" '
        'stroke-width="0.8"/>'
    )

    def place(at: float, share: float) -> str:
        return f"{left + at * width:.1f} {bottom - share * PLOT_HEIGHT:.1f}"

    ordered = sorted(panel.lines, key=lambda line: line.name != reference)
    for line in ordered:
        style = styles[line.name]
        if line.low:
            xs = [at for at, _ in line.points]
            edge = [place(*point) for point in zip(xs, line.high, strict=True)]
            edge += [place(*point) for point in zip(reversed(xs), reversed(line.low), strict=True)]
            parts.append(f'<path d="M{"L".join(edge)}Z" fill="{style.colour}" fill-opacity="0.18"/>')
        path = "L".join(place(*point) for point in line.points)
        parts.append(
            f'<path d="M{path}" fill="none" stroke="{style.colour}" stroke-width="{style.width:g}" '
            'stroke-linejoin="round"/>'
        )
    for number, line in enumerate(ordered):
        style = styles[line.name]
        if style.marker:
            # Lines that lie on one another show their markers in turn.
            for at, share in line.points[number % MARK_EVERY :: MARK_EVERY]:
                parts.append(_marker(left + at * width, bottom - share * PLOT_HEIGHT, style))
    return parts


def _sample(x: float, y: float, style: Style) -> list[str]:
    """
    A piece of a line for the legend.
    """
    parts = [f'<path d="M{x:g} {y:g}h28" stroke="{style.colour}" stroke-width="{style.width:g}"/>']
    return [*parts, _marker(x + 14, y, style)] if style.marker else parts


def _marker(x: float, y: float, style: Style) -> str:
    shapes = {
        "circle": "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0Z",
        "square": "M-3.5 -3.5h7v7h-7Z",
        "triangle": "M0 -4.5L4.3 3.2H-4.3Z",
        "diamond": "M0 -5L4.4 0L0 5L-4.4 0Z",
        "cross": "M-3.5 -3.5L3.5 3.5M-3.5 3.5L3.5 -3.5",
    }
    line = f'stroke="{style.colour}" stroke-width="2"' if style.marker == "cross" else f'stroke="{PAPER}"'
    return f'<path d="{shapes[style.marker]}" transform="translate({x:.1f} {y:.1f})" fill="{style.colour}" {line}/>'


def _text(
    x: float, y: float, text: str, *, size: int = TEXT, bold: bool = False, anchor: str = "", fill: str = INK
) -> str:
    more = f' font-size="{size}"' * (size != TEXT) + ' font-weight="600"' * bold
    more += f' text-anchor="{anchor}"' * bool(anchor)
    return f'<text x="{x:g}" y="{y:g}" fill="{fill}"{more}>{escape(text)}</text>'
