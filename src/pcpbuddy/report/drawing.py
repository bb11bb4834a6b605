"""
Pictures of a zone as SVG text: blocks with their pages, free lists, per-CPU lists. Equal states give equal bytes.

The colours are Okabe and Ito's, which differ for colour-blind readers too; each CPU has a hatching of its own as well.
"""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self
from xml.sax.saxutils import escape

from ..errors import UsageError
from ..names import (
    MIGRATETYPE_NAMES,
    MOVABLE,
    NR_ORDERS,
    NR_PCP_TYPES,
    PAGEBLOCK_ORDER,
    PAGEBLOCK_PAGES,
    RECLAIMABLE,
    UNMOVABLE,
)
from .blockmap import ALLOCATED, DEFERRED, FREE, HOLE, LETTERS, NOBODY, PCP, REMOTE, Block, Piece, blocks, checked

__all__ = ["WIDTH", "Drawing"]

WIDTH = 800
MARGIN = 18
INNER = WIDTH - 2 * MARGIN
ROW = 18  # height of a row of pages, and of an entry in a list
SMALL, TEXT, TITLE = 11, 13, 16  # sizes of letters, in pixels
WRAP = 100  # characters of a caption's line

PAPER, FRAME, INK, FAINT, LINE = "#fdfdfb", "#c9cdd2", "#1c2127", "#5b6470", "#ffffff"
FREE_FILL = "#93d3b8"
USED = {UNMOVABLE: "#20262e", MOVABLE: "#6a737e", RECLAIMABLE: "#7d5a2b"}
USED_UNKNOWN = "#8f969e"
# CPU: fill, line of the hatching. From the fifth on the fills come again, hatched in another way.
CPUS = (("#7cc4ee", "#2f7fae"), ("#f2b544", "#a86f00"), ("#dd9ec0", "#94527a"), ("#f3ea72", "#8f8600"))
HATCH = ("M-2 8L8 -2M4 14L14 4M-2 2L2 -2", "M-2 2L8 12M-2 -8L14 8", "M3 0V6", "M0 3H6")
HATCH_SIZE = (10, 10, 6, 6)


class Drawing:
    """
    A picture that grows downwards: each method adds something below what is there, and returns the drawing.

    title: in large letters at the top, and the text for those who cannot see the picture.
    ownership: False leaves out owners and the words that rest on them, for policies that own nothing.

    States are the dictionaries of ``Zone.state()``. A legend of what was drawn comes last, by itself.
    """

    def __init__(self, title: str, *, ownership: bool = True) -> None:
        self.title = title
        self.ownership = ownership
        self._parts: list[str] = []
        self._patterns: dict[str, str] = {}
        self._legend: dict[str, str] = {}  # text -> fill
        self._marks = self._owners = False
        self._y = float(MARGIN + TITLE)
        self._text(MARGIN, self._y, title, size=TITLE, weight=True)
        self._y += 12

    def caption(self, text: str) -> Self:
        """
        A paragraph, wrapped.
        """
        for line in textwrap.wrap(text, WRAP):
            self._y += 17
            self._text(MARGIN, self._y, line)
        self._y += 8
        return self

    def step(self, number: int, text: str) -> Self:
        """
        A numbered heading, wrapped.
        """
        self._y += 10
        middle = self._y + 12
        self._add(f'<circle cx="{MARGIN + 10}" cy="{middle:g}" r="10" fill="{INK}"/>')
        self._text(MARGIN + 10, middle + 4.5, str(number), weight=True, anchor="middle", fill=PAPER)
        for line in textwrap.wrap(text, WRAP - 4):
            self._text(MARGIN + 28, self._y + 16.5, line, weight=True)
            self._y += 17
        self._y += 9
        return self

    def strips(self, state: Mapping[str, Any], only: Iterable[int] | None = None, *, rows: int = 4) -> Self:
        """
        Pageblocks, each as a strip of its 512 pages with a heading.

        only: numbers of the blocks (default: all). rows: 1, 2, 4 or 8 rows for a block, read like lines of text; a
        chunk is a rectangle in each. Chunks have their order written in where there is room.

        Raises UsageError for other rows and for a block that does not exist, Corruption for a page in two places.
        """
        if rows not in (1, 2, 4, 8):
            raise UsageError(f"rows={rows}: expected 1, 2, 4 or 8")
        shown = blocks(state)
        for index in range(len(shown)) if only is None else checked(only, len(shown)):
            self._heading(shown[index])
            self._strip(shown[index], rows)
        return self

    def free_lists(self, state: Mapping[str, Any], *, orders: Sequence[int] = range(NR_ORDERS)) -> Self:
        """
        The zone's free lists: a line for each order, a column for each type that has chunks; the head at the left.
        """
        types = sorted({mt for _, mt in state["free"]}) or [MOVABLE]
        entries = {key: [(pfn, False) for pfn in pfns] for key, pfns in state["free"].items()}
        self._caption_small("The zone's free lists: first pfn of each chunk, head of the list at the left")
        self._grid(orders, types, entries, self._zone())
        return self

    def pcp_lists(self, state: Mapping[str, Any], cpu: int = 0, *, orders: Sequence[int] = range(10)) -> Self:
        """
        The lists of a CPU: a line for each order, a column for each of U, M, R; marked entries underlined.

        Raises UsageError for a CPU that does not exist.
        """
        if not 0 <= cpu < len(state["pcp"]):
            raise UsageError(f"cpu {cpu}: the zone has CPUs 0 to {len(state['pcp']) - 1}")
        pcp = state["pcp"][cpu]
        marked = set(pcp["marked"])
        entries = {key: [(pfn, pfn in marked) for pfn in pfns] for key, pfns in pcp["lists"].items()}
        self._caption_small(f"CPU {cpu}'s lists: count {pcp['count']} pages, high {pcp['high']}, batch {pcp['batch']}")
        self._grid(orders, range(NR_PCP_TYPES), entries, self._cpu(cpu))
        self._marks = self._marks or any(mark for key in entries for _, mark in entries[key])
        return self

    def boxes(
        self,
        height: int,
        places: Mapping[str, tuple[float, float, float, float]],
        arrows: Sequence[tuple[Sequence[tuple[float, float]], str, tuple[float, float], bool]],
        colours: Mapping[str, int] | None = None,
    ) -> Self:
        """
        Labelled boxes and arrows between points; coordinates in pixels, from the left edge and from here downwards.

        places: text (lines parted by newlines) -> (x, y, width, height).
        arrows: (points of the line, text, (x, y) of the middle of the text, whether it is thick).
        colours: text of a place -> the CPU whose colour it has, or -1: that of memory which is free in the zone.
        """
        self._patterns["head"] = (
            '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="9" markerHeight="9" '
            f'markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0L8 4L0 8Z" fill="{INK}"/></marker>'
        )
        top = self._y
        for text, (x, y, width, tall) in places.items():
            cpu = (colours or {}).get(text)
            fill = LINE if cpu is None else self._zone() if cpu == NOBODY else self._cpu(cpu)
            self._add(
                f'<rect x="{x:g}" y="{top + y:g}" width="{width:g}" height="{tall:g}" rx="6" '
                f'fill="{fill}" stroke="{INK}"/>'
            )
            lines = text.split("\n")
            for number, line in enumerate(lines):
                base = top + y + tall / 2 + 4.5 + 17 * (number - (len(lines) - 1) / 2)
                self._text(x + width / 2, base, line, anchor="middle", weight=number == 0)
        for points, text, (x, y), thick in arrows:
            path = "L".join(f"{px:g} {top + py:g}" for px, py in points)
            self._add(
                f'<path d="M{path}" fill="none" stroke="{INK}" stroke-width="{3 if thick else 1.5:g}" '
                'marker-end="url(#head)"/>'
            )
            for number, line in enumerate(text.split("\n")):
                self._text(x, top + y + 16 * number, line, anchor="middle", size=12)
        self._y += height
        return self

    def gap(self, pixels: int = 10) -> Self:
        """
        Empty room.
        """
        self._y += pixels
        return self

    def svg(self) -> str:
        """
        The picture as an SVG document, 800 pixels wide, on paper of its own; ends in a newline.
        """
        drawn, y = len(self._parts), self._y
        self._draw_legend()
        body, height = list(self._parts), int(self._y) + MARGIN
        del self._parts[drawn:]  # more may be drawn yet
        self._y = y
        defs = "".join(self._patterns[name] for name in sorted(self._patterns))
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
                f'viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(self.title, {chr(34): "&quot;"})}" '
                f"font-family=\"system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif\" "
                f'font-size="{TEXT}">',
                f"<title>{escape(self.title)}</title>",
                f"<defs>{defs}</defs>",
                f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8" '
                f'fill="{PAPER}" stroke="{FRAME}"/>',
                *body,
                "</svg>",
                "",
            ]
        )

    # A block

    def _heading(self, block: Block) -> None:
        self._y += 20
        base = self._y
        self._add(f'<rect x="{MARGIN}" y="{base - 13:g}" width="17" height="17" rx="3" fill="{INK}"/>')
        self._text(MARGIN + 8.5, base, block.letter, weight=True, anchor="middle", fill=PAPER)
        last = block.pfn + PAGEBLOCK_PAGES - 1
        name = f"block {block.number}"
        self._text(MARGIN + 24, base, name, weight=True)
        self._text(MARGIN + 34 + 8.4 * len(name), base, f"pfn {block.pfn} to {last}", fill=FAINT)
        if self.ownership:
            told = ""
            if block.owner != NOBODY:
                told = f", owner CPU {block.owner}" + (", on its list" if block.linked else "")
            self._text(WIDTH - MARGIN, base, block.word + told, anchor="end", weight=True)
        self._y += 7

    def _strip(self, block: Block, rows: int) -> None:
        top = self._y
        per_row = PAGEBLOCK_PAGES // rows
        scale = INNER / per_row
        tall = rows * ROW
        if self.ownership and block.owner != NOBODY:
            self._owners = True
            self._add(
                f'<rect x="{MARGIN - 10}" y="{top:g}" width="7" height="{tall}" fill="{self._cpu(block.owner)}" '
                f'stroke="{INK}" stroke-width="0.6"/>'
            )
        edges: list[str] = []
        bars: list[str] = []
        labels: list[tuple[float, float, str, str]] = []
        for x, y, width, height, fill in _rectangles(block.pieces, per_row, self._fill):
            self._add(
                f'<rect x="{MARGIN + x * scale:g}" y="{top + y * ROW:g}" width="{width * scale:g}" '
                f'height="{height * ROW}" fill="{fill}"/>'
            )
        for piece in block.pieces:
            for x, y, width, height in _areas(piece.pfn - block.pfn, piece.pages, per_row):
                left, upper = MARGIN + x * scale, top + y * ROW
                if x:
                    edges.append(f"M{left:g} {upper:g}v{height * ROW}")
                if y:
                    edges.append(f"M{left:g} {upper:g}h{width * scale:g}")
                if piece.marked:
                    self._marks = True
                    bars.append(f"M{left + 1:g} {upper + height * ROW - 2.5:g}h{width * scale - 1.5:g}")
                text = _label(piece, width * scale)
                if text:
                    middle = upper + height * ROW / 2 + 4 - (1.5 if piece.marked and height == 1 else 0)
                    labels.append((left + width * scale / 2, middle, text, _text_on(piece)))
        if edges:
            self._add(f'<path d="{"".join(edges)}" stroke="{LINE}" stroke-width="{min(1.6, 0.3 + scale / 5):.2f}"/>')
        if bars:
            self._add(f'<path d="{"".join(bars)}" stroke="{INK}" stroke-width="2.6"/>')
        self._add(
            f'<rect x="{MARGIN}" y="{top:g}" width="{INNER}" height="{tall}" fill="none" '
            f'stroke="{INK}" stroke-width="0.8"/>'
        )
        for middle, base, text, colour in labels:
            self._text(middle, base, text, size=SMALL, anchor="middle", fill=colour)
        self._y += tall + 6

    def _fill(self, piece: Piece) -> str:
        if piece.kind == FREE:
            return self._zone()
        if piece.kind == PCP:
            return self._cpu(piece.cpu)
        if piece.kind == ALLOCATED:
            fill = USED.get(piece.type, USED_UNKNOWN)
            name = MIGRATETYPE_NAMES[piece.type].lower() if piece.type in USED else "type unknown"
            self._legend.setdefault(f"allocated, {name}", fill)
            return fill
        if piece.kind == HOLE:
            self._pattern("hole", LINE, "M0 0L6 6M6 0L0 6", 6, FRAME)
            self._legend.setdefault("no memory (hole)", "url(#hole)")
            return "url(#hole)"
        if piece.kind == REMOTE:
            _, dark = CPUS[piece.cpu % len(CPUS)]
            self._pattern(f"r{piece.cpu}", LINE, "M2 3h2", 6, dark, 2)
            self._legend.setdefault(f"on its way to CPU {piece.cpu}", f"url(#r{piece.cpu})")
            return f"url(#r{piece.cpu})"
        self._pattern(DEFERRED, LINE, "M2 3h2", 6, FAINT, 2)
        self._legend.setdefault("deferred, to be freed later", f"url(#{DEFERRED})")
        return f"url(#{DEFERRED})"

    def _zone(self) -> str:
        self._legend["free, in the zone"] = FREE_FILL
        return FREE_FILL

    def _cpu(self, cpu: int) -> str:
        colour, dark = CPUS[cpu % len(CPUS)]
        kind = (cpu + cpu // len(CPUS)) % len(HATCH)
        self._pattern(f"c{cpu}", colour, HATCH[kind], HATCH_SIZE[kind], dark, 1, opacity=0.45)
        self._legend.setdefault(f"free, in CPU {cpu}'s lists", f"url(#c{cpu})")
        return f"url(#c{cpu})"

    def _pattern(
        self, name: str, ground: str, path: str, size: int, colour: str, width: float = 1, *, opacity: float = 1
    ) -> None:
        self._patterns[name] = (
            f'<pattern id="{name}" width="{size}" height="{size}" patternUnits="userSpaceOnUse">'
            f'<rect width="{size}" height="{size}" fill="{ground}"/>'
            f'<path d="{path}" stroke="{colour}" stroke-width="{width:g}" stroke-opacity="{opacity:g}"/></pattern>'
        )

    # Lists

    def _grid(
        self,
        orders: Sequence[int],
        types: Sequence[int],
        entries: Mapping[tuple[int, int], Sequence[tuple[int, bool]]],
        fill: str,
    ) -> None:
        left = MARGIN + 62
        wanted = [
            max([sum(_width(pfn) + 4 for pfn, _ in entries.get((order, mt), ())) for order in orders] + [0]) + 14
            for mt in types
        ]
        widths = _share(wanted, MARGIN + INNER - left, at_least=118)
        self._y += 18
        x = float(left)
        for mt, width in zip(types, widths, strict=True):
            self._text(x + 4, self._y, f"{MIGRATETYPE_NAMES[mt]} ({LETTERS[mt]})", size=12, fill=FAINT)
            x += width
        self._y += 6
        for order in orders:
            self._add(f'<path d="M{MARGIN} {self._y:g}h{INNER}" stroke="{FRAME}" stroke-width="0.7"/>')
            self._text(MARGIN, self._y + 16, f"order {order}", size=12)
            x = float(left)
            for mt, width in zip(types, widths, strict=True):
                self._entries(entries.get((order, mt), ()), x + 4, width - 8, fill)
                x += width
            self._y += ROW + 5
        self._add(f'<path d="M{MARGIN} {self._y:g}h{INNER}" stroke="{FRAME}" stroke-width="0.7"/>')
        self._y += 10

    def _entries(self, entries: Sequence[tuple[int, bool]], x: float, width: float, fill: str) -> None:
        """
        As many as fit, and how many do not.
        """
        if not entries:
            self._text(x, self._y + 16, "\u2013", size=12, fill=FRAME)
        end, top = x + width, self._y + 3
        for number, (pfn, mark) in enumerate(entries):
            rest = len(entries) - number
            room = end - x - (0 if rest == 1 else 6 + 6.7 * len(f"and {rest} more"))
            if _width(pfn) > room:
                self._text(x + 2, top + 13, f"and {rest} more", size=SMALL, fill=FAINT)
                break
            wide = _width(pfn)
            self._add(
                f'<rect x="{x:g}" y="{top:g}" width="{wide:g}" height="{ROW - 1}" rx="2" fill="{fill}" '
                f'stroke="{INK}" stroke-width="0.6"/>'
            )
            if mark:
                self._add(f'<path d="M{x + 1:g} {top + ROW - 3:g}h{wide - 2:g}" stroke="{INK}" stroke-width="2.4"/>')
            self._text(x + wide / 2, top + 12, str(pfn), size=SMALL, anchor="middle")
            x += wide + 4

    # Letters

    def _draw_legend(self) -> None:
        items = sorted(self._legend.items())
        items += [("underlined: marked, may merge", "mark")] * self._marks
        items += [("bar at the left: owner", "owner")] * self._owners
        if not items:
            return
        self._y += 14
        self._add(f'<path d="M{MARGIN} {self._y:g}h{INNER}" stroke="{FRAME}"/>')
        x, base = float(MARGIN), self._y + 22
        for text, fill in items:
            wide = 27 + 7.1 * len(text) + 14
            if x + wide > WIDTH - MARGIN + 14:
                x, base = float(MARGIN), base + 22
            if fill == "owner":
                shape = f'<rect x="{x + 7:g}" y="{base - 12:g}" width="7" height="15" fill="{LINE}" stroke="{INK}"/>'
            else:
                colour = LINE if fill == "mark" else fill
                shape = (
                    f'<rect x="{x:g}" y="{base - 12:g}" width="20" height="15" fill="{colour}" '
                    f'stroke="{INK}" stroke-width="0.6"/>'
                )
                if fill == "mark":
                    shape += f'<path d="M{x:g} {base + 1.2:g}h20" stroke="{INK}" stroke-width="2.6"/>'
            self._add(shape)
            self._text(x + 27, base, text, size=12)
            x += wide
        self._y = base + 4

    def _caption_small(self, text: str) -> None:
        self._y += 18
        self._text(MARGIN, self._y, text, weight=True, size=12)
        self._y += 2

    def _add(self, element: str) -> None:
        self._parts.append(element)

    def _text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: int = TEXT,
        weight: bool = False,
        anchor: str = "",
        fill: str = INK,
    ) -> None:
        more = f' font-size="{size}"' * (size != TEXT) + ' font-weight="600"' * weight
        more += f' text-anchor="{anchor}"' * bool(anchor)
        self._add(f'<text x="{x:g}" y="{y:g}" fill="{fill}"{more}>{escape(text)}</text>')


# Geometry


def _areas(at: int, pages: int, per_row: int) -> list[tuple[int, int, int, int]]:
    """
    The rectangles that pages at .. at + pages fill, as (x, y, width, height) in pages and rows.

    One for a chunk, for it is aligned; up to three for a run of any length.
    """
    result = []
    end = at + pages
    while at < end:
        x, y = at % per_row, at // per_row
        whole = (end - at) // per_row
        if x == 0 and whole:
            result.append((0, y, per_row, whole))
            at += whole * per_row
        else:
            width = min(per_row - x, end - at)
            result.append((x, y, width, 1))
            at += width
    return result


def _rectangles(content: Sequence[Piece], per_row: int, fill: Any) -> list[tuple[int, int, int, int, str]]:
    """
    What to colour: neighbours of one colour together, so that a picture stays small.
    """
    runs: list[list[Any]] = []
    for piece in content:
        colour = fill(piece)
        if runs and runs[-1][1] == colour:
            runs[-1][0] += piece.pages
        else:
            runs.append([piece.pages, colour])
    result, at = [], 0
    for pages, colour in runs:
        result += [(*area, colour) for area in _areas(at, pages, per_row)]
        at += pages
    return result


def _label(piece: Piece, width: float) -> str:
    """
    The longest text that fits into so many pixels; none for holes.
    """
    if piece.order < 0:
        return ""
    where = {FREE: "free", ALLOCATED: "allocated", PCP: f"CPU {piece.cpu}", REMOTE: f"to CPU {piece.cpu}"}
    place = where.get(piece.kind, piece.kind)
    name = f"{place}, order {piece.order}"
    long = f"{name}: pfn {piece.pfn}, {piece.pages} pages"
    for text in (
        f"{place}, half of a chunk of order {piece.order}" if piece.order > PAGEBLOCK_ORDER else long,
        name,
        f"order {piece.order}",
        str(piece.order),
    ):
        if len(text) * 6.9 + 4 <= width:
            return text
    return ""


def _text_on(piece: Piece) -> str:
    return PAPER if piece.kind == ALLOCATED else INK


def _width(pfn: int) -> float:
    return 7.1 * len(str(pfn)) + 8


def _share(wanted: Sequence[float], room: float, *, at_least: float) -> list[float]:
    """
    Widths of columns: each what it wants, if that is not too much for all; small wishes are met first.
    """
    widths = [0.0] * len(wanted)
    for place, index in enumerate(sorted(range(len(wanted)), key=lambda i: wanted[i])):
        widths[index] = min(max(wanted[index], at_least), room / (len(wanted) - place))
        room -= widths[index]
    return [width + room / len(widths) for width in widths]
