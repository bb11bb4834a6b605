"""
Where every page of a zone is, block by block: as data, and as text for a terminal.

Works on the dictionary that ``state()`` of any zone gives, compiled or plain Python. ``drawing`` makes pictures of it.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any, NamedTuple

from ..errors import Corruption, UsageError
from ..names import ISOLATE, MAX_PAGE_ORDER, PAGEBLOCK_ORDER, PAGEBLOCK_PAGES

__all__ = [
    "ALLOCATED",
    "DEFERRED",
    "FREE",
    "HOLE",
    "LETTERS",
    "PCP",
    "REMOTE",
    "Block",
    "Piece",
    "blocks",
    "pieces",
    "text_map",
]

# The states of a page (rfc.md P-5), as words.
FREE = "free"
PCP = "pcp"
REMOTE = "remote"
DEFERRED = "deferred"
ALLOCATED = "allocated"
HOLE = "hole"

LETTERS = "UMRHCI"
"""The migratetypes 0 to 5 as letters."""

NOBODY = -1
_CPU_SIGNS = "0123456789abcdefghijklmnopqrstuvwxyz"
_SIGNS = {FREE: ".", REMOTE: "~", DEFERRED: "~", ALLOCATED: "#", HOLE: " "}
_MIXED = "+"
_UNICODE = str.maketrans({".": "░", "#": "█", "+": "▓"})


class Piece(NamedTuple):
    """
    A run of pages that belong together: a free chunk, a PCP entry, an allocation, or a hole between them.

    Fields:
        pfn: the first page.
        pages: how many; 2^order, but fewer if only the part within one block is told.
        kind: FREE (in the zone), PCP, REMOTE (on its way to a CPU), DEFERRED, ALLOCATED or HOLE.
        order: -1 for a hole.
        type: migratetype of the list or of the request, 7 where unknown; of remote and deferred pages and holes -1.
        cpu: whose PCP it is in, or on its way to; -1 for the other kinds.
        marked: a PCP entry that may merge (PCPBuddy, P-4).
    """

    pfn: int
    pages: int
    kind: str
    order: int = -1
    type: int = -1
    cpu: int = NOBODY
    marked: bool = False


class Block(NamedTuple):
    """
    A pageblock: its record, its name in the life of an owned block, and what lies in it.

    Fields:
        number, pfn: its number in ``state()["blocks"]``, and its first page.
        letter: its effective type, one of U M R H C I.
        owner: the CPU, or -1.
        linked: it is on its owner's list of blocks with fragments in the zone.
        word: FREE, PRIVATE, PARTIAL, STALE, ORPHAN or ISOLATED (P-10); HOLE if it has no page at all.
        pieces: ascending, 512 pages together; the parts of a larger chunk keep its order.
    """

    number: int
    pfn: int
    letter: str
    owner: int
    linked: bool
    word: str
    pieces: tuple[Piece, ...]


def pieces(state: Mapping[str, Any]) -> list[Piece]:
    """
    The whole zone, ascending and without gaps, from the first page of its first block to the end of its last.

    Raises Corruption if a page is in two places, or outside the blocks (I-1).
    """
    begin = _first_pfn(state)
    end = begin + len(state["blocks"]) * PAGEBLOCK_PAGES
    result: list[Piece] = []
    at = begin
    for piece in sorted(_known(state)):
        if piece.pfn < at or piece.pfn + piece.pages > end:
            where = f"{piece.kind} of order {piece.order}"
            raise Corruption(f"I-1 pfn {piece.pfn}: {where} overlaps something, or is outside the blocks")
        if piece.pfn > at:
            result.append(Piece(at, piece.pfn - at, HOLE))
        result.append(piece)
        at = piece.pfn + piece.pages
    if at < end:
        result.append(Piece(at, end - at, HOLE))
    return result


def blocks(state: Mapping[str, Any]) -> list[Block]:
    """
    The pageblocks of a zone, ascending.

    Raises Corruption as ``pieces()`` does.
    """
    base = _first_pfn(state)
    inside: list[list[Piece]] = [[] for _ in state["blocks"]]
    for piece in pieces(state):
        pfn, end = piece.pfn, piece.pfn + piece.pages
        while pfn < end:
            index = (pfn - base) // PAGEBLOCK_PAGES
            stop = min(end, base + (index + 1) * PAGEBLOCK_PAGES)
            inside[index].append(piece._replace(pfn=pfn, pages=stop - pfn))
            pfn = stop
    result = []
    for index, ((mt, iso, owner, linked), content) in enumerate(zip(state["blocks"], inside, strict=True)):
        result.append(
            Block(
                index,
                base + index * PAGEBLOCK_PAGES,
                LETTERS[ISOLATE if iso else mt],
                owner,
                bool(linked),
                _word(iso, owner, linked, content),
                tuple(content),
            )
        )
    return result


def text_map(
    state: Mapping[str, Any],
    *,
    only: Iterable[int] | None = None,
    width: int = 64,
    rows: int = 1,
    unicode: bool = False,
    ownership: bool = True,
) -> str:
    """
    The blocks as lines of text, each with its type, state and owner, and a last line that says what the signs mean.

    A character stands for 512 / (width * rows) pages: ``.`` free in the zone, a digit (from 10 on a letter, from 36
    on again) in that CPU's PCP, ``#`` allocated, ``+`` partly allocated, ``~`` waiting on a remote or deferred list,
    blank a hole. Where no page is allocated and signs differ, the most frequent stands, the first of equals. Blocks in
    a row that look the same share a line.

    only: numbers of the blocks to show (default: all).
    width, rows: characters in a line and lines for a block; both powers of two, together 512 at most.
    unicode: shades instead of ``. # +``.
    ownership: False leaves out owners and states, for policies that own nothing.

    Raises UsageError for a width, a number of rows or a block that cannot be; Corruption as ``pieces()`` does.
    """
    if not _fits(width) or not _fits(rows) or width * rows > PAGEBLOCK_PAGES:
        raise UsageError(f"width={width}, rows={rows}: expected powers of two, together at most {PAGEBLOCK_PAGES}")
    shown = blocks(state)
    if only is not None:
        shown = [shown[index] for index in checked(only, len(shown))]
    lines: list[str] = []
    used: set[str] = set()

    def look(block: Block) -> tuple[str, ...]:
        title = f"{block.letter} {block.word:<8} {_possession(block):<11}" if ownership else block.letter
        cells = _cells(block, width * rows)
        used.update(cells)
        return (title, *(cells[at : at + width] for at in range(0, len(cells), width)))

    for (title, *strips), same in _runs(shown, look):
        first, last = same[0].number, same[-1].number
        span = str(first) if first == last else f"{first}-{last}"
        for row, strip in enumerate(strips):
            lines.append(f"{span:>9} {title} |{strip}|" if row == 0 else f"{'':>{10 + len(title)}} |{strip}|")
    pages = PAGEBLOCK_PAGES // (width * rows)
    lines.append(f"One sign: {pages} page{'s' * (pages > 1)}. {_legend(used)}")
    text = "\n".join(lines) + "\n"
    return text.translate(_UNICODE) if unicode else text


def checked(indices: Iterable[int], count: int) -> list[int]:
    """
    The block numbers as a list.

    Raises UsageError for one that is not below ``count``.
    """
    result = list(indices)
    for index in result:
        if not 0 <= index < count:
            raise UsageError(f"block {index}: the zone has blocks 0 to {count - 1}")
    return result


# How it is found


def _first_pfn(state: Mapping[str, Any]) -> int:
    """
    Blocks are numbered from the start rounded down to the largest chunk.
    """
    return int(state["start_pfn"]) >> MAX_PAGE_ORDER << MAX_PAGE_ORDER


def _known(state: Mapping[str, Any]) -> Iterator[Piece]:
    """
    Everything but the holes, in no order.
    """
    for (order, mt), pfns in state["free"].items():
        for pfn in pfns:
            yield Piece(pfn, 1 << order, FREE, order, mt)
    for pfn, order in state["deferred"]:
        yield Piece(pfn, 1 << order, DEFERRED, order)
    for pfn, (order, mt, _) in state["allocated"].items():
        yield Piece(pfn, 1 << order, ALLOCATED, order, mt)
    for cpu, pcp in enumerate(state["pcp"]):
        marked = set(pcp["marked"])
        for (order, mt), pfns in pcp["lists"].items():
            for pfn in pfns:
                yield Piece(pfn, 1 << order, PCP, order, mt, cpu, pfn in marked)
        for pfn, order in pcp.get("remote", ()):
            yield Piece(pfn, 1 << order, REMOTE, order, cpu=cpu)
        for target, pages in pcp.get("outboxes", ()):
            for pfn, order in pages:
                yield Piece(pfn, 1 << order, REMOTE, order, cpu=target)


def _word(iso: int, owner: int, linked: int, content: list[Piece]) -> str:
    if all(piece.kind == HOLE for piece in content):
        return "HOLE"
    if iso:
        return "ISOLATED"
    if owner == NOBODY:
        whole = all(piece.kind == FREE and piece.order >= PAGEBLOCK_ORDER for piece in content)
        return "FREE" if whole else "ORPHAN"
    if not linked:
        return "PRIVATE"
    return "PARTIAL" if any(piece.kind == FREE for piece in content) else "STALE"


def _fits(number: int) -> bool:
    return 0 < number <= PAGEBLOCK_PAGES and number & (number - 1) == 0


def _possession(block: Block) -> str:
    if block.owner == NOBODY:
        return ""
    return f"CPU {block.owner}{' list' if block.linked else ''}"


def _sign(piece: Piece) -> str:
    return _CPU_SIGNS[piece.cpu % len(_CPU_SIGNS)] if piece.kind == PCP else _SIGNS[piece.kind]


def _cells(block: Block, count: int) -> str:
    pages = "".join(_sign(piece) * piece.pages for piece in block.pieces)
    step = PAGEBLOCK_PAGES // count
    return "".join(_cell(pages[at : at + step]) for at in range(0, len(pages), step))


def _cell(signs: str) -> str:
    if "#" in signs:
        return "#" if signs == "#" * len(signs) else _MIXED
    return Counter(signs).most_common(1)[0][0]


def _runs(
    shown: list[Block], look: Callable[[Block], tuple[str, ...]]
) -> Iterator[tuple[tuple[str, ...], list[Block]]]:
    """
    Neighbouring blocks that look the same, together; a gap in the numbers parts them.
    """
    places = enumerate(shown)
    for (_, appearance), group in groupby(places, key=lambda item: (item[1].number - item[0], look(item[1]))):
        yield appearance, [block for _, block in group]


def _legend(used: set[str]) -> str:
    words = {
        ".": ". free in the zone",
        "#": "# allocated",
        _MIXED: "+ partly allocated",
        "~": "~ waiting on a list",
        " ": "blank: no memory",
    }
    parts = [text for sign, text in words.items() if sign in used]
    if used & set(_CPU_SIGNS):
        parts.insert(1 if "." in used else 0, "0 1 .. in that CPU's list")
    return ", ".join(parts) + "."
