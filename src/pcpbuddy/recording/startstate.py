"""
A plausible state to start from, where no snapshot was taken.

Of /proc texts: zones, watermarks, pagesets, CPUs and the number of free chunks of each order and type are those of the
texts. Which page frames they have nobody wrote down; they are chosen so that the rows make sense: a page that is freed
before it is allocated was allocated, one that is taken from the zone was free there, one that is allocated without
that, or drained, was in a PCP. Of the rows alone: the same, with the zones of an x86-64 machine that reaches to the
last page seen. Either is a ``Snapshot`` as the recordings have them, with a key ``assumed``; nothing else knows the
difference.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from ..errors import RecordingError
from ..model.sizing import min_free_kbytes, pcp_sizing, stat_threshold, thp_min_free_kbytes, watermarks
from ..names import (
    CMA,
    HIGHATOMIC,
    MAX_CPUS,
    MOVABLE,
    NR_MIGRATETYPES,
    NR_ORDERS,
    NR_PCP_TYPES,
    PAGEBLOCK_ORDER,
    PAGEBLOCK_PAGES,
    PCPF_FREE_HIGH_BATCH,
    RECLAIMABLE,
    UNMOVABLE,
    WATERMARK_BOOST_FACTOR,
)
from . import proctexts
from .files import Rows, Snapshot
from .proctexts import ZONES, Pageset, ZoneText
from .snapshot import ALLOCATED, BUDDY, MOST_BATCH, ORDER_9_LIST, PAGE_LRU, PCP, TAIL

__all__ = ["INFERRED", "PROC", "Start", "from_proc", "from_rows"]

PROC, INFERRED = "proc", "inferred"
FREE, TAKEN, DRAINED, ALLOC = range(4)  # what the first row of a page did
TOP_PAGES = 1 << (NR_ORDERS - 1)
MOST_PCP_ORDER = 3
NEAR = 16  # rows between what a fallback takes and the row that tells of it
DMA_END, DMA32_END = 1 << 12, 1 << 20
RESERVE_RATIO = (256, 256, 32, 0)  # lowmem_reserve_ratio as it is at boot
RESERVED, HOLE = 1, 0
NONE = np.iinfo(np.int64).max
OTHER_NODES = "rows_of_other_nodes"
STAT_ITEMS = {"NR_FREE_PAGES": 0, "NR_FREE_PAGES_BLOCKS": 1, "NR_FREE_CMA_PAGES": 2}


@dataclasses.dataclass(frozen=True, slots=True)
class Start:
    """
    A state that was made up. kind: PROC or INFERRED; notes: what it rests on and what did not fit, in words.

    node: the NUMA node that it is of, where the machine has several; only rows of its pages can be replayed.
    """

    snapshot: Snapshot
    kind: str
    notes: tuple[str, ...]
    node: int | None = None


@dataclasses.dataclass(slots=True)
class _Evidence:
    """
    What the rows show of single pages: the first row of each, ascending by page.

    page, row, what (FREE ..), cpu, kind (migratetype), order, head: of that row.
    fallbacks: row, head, order and type of each chunk that a request of another type fell back on.
    """

    page: np.ndarray
    row: np.ndarray
    what: np.ndarray
    cpu: np.ndarray
    kind: np.ndarray
    order: np.ndarray
    head: np.ndarray
    fallbacks: np.ndarray

    def inside(self, start: int, end: int) -> "_Evidence":
        """
        That of the pages from start to end.
        """
        part = slice(*np.searchsorted(self.page, (start, end)))
        columns = (self.page, self.row, self.what, self.cpu, self.kind, self.order, self.head)
        page, row, what, cpu, kind, order, head = (column[part] for column in columns)
        here = (self.fallbacks[:, 1] >= start) & (self.fallbacks[:, 1] < end)
        return _Evidence(page, row, what, cpu, kind, order, head, self.fallbacks[here])


def from_proc(rows: Rows, texts: Mapping[str, str], kernel: str | None) -> Start:
    """
    The state that the texts allow. Raises RecordingError if they cannot be those of the machine that was traced.
    """
    said = proctexts.parse(texts)
    seen = _evidence(rows)
    zones, node, notes = _one_node(said.zones, seen)
    last = max(zone.end_pfn for zone in said.zones)
    if len(seen.page) and seen.page[-1] >= last:
        raise RecordingError(
            f"{rows.label} has rows of page {seen.page[-1]}, but zoneinfo ends at page {last - 1}: these texts are of "
            "another machine"
        )
    seen_cpus = int(rows.cpu.max(initial=-1)) + 1
    cpus = max(seen_cpus, 1 + max(cpu for zone in zones for cpu in zone.pagesets))
    _refuse_cpus(rows, cpus)
    online = sorted({cpu for zone in zones for cpu in zone.pagesets} | {int(cpu) for cpu in np.unique(rows.cpu)})
    words = "start state assumed from /proc texts: counts are those of zoneinfo"
    words += "".join(f" and {name}" for name in ("pagetypeinfo", "buddyinfo") if name in texts)
    words += ", page frames are plausible ones; no snapshot was taken"
    made = [_Zone(zone, seen, said.ram) for zone in zones]
    for one in made:
        one.place_counted()
    fallen = _not_placed(made)
    snapshot = _snapshot(rows, made, cpus, online, PROC, words, kernel)
    return Start(snapshot, PROC, (words, *said.notes, *notes, *fallen), node)


def from_rows(rows: Rows, kernel: str | None) -> Start:
    """
    The state that the rows alone suggest.
    """
    seen = _evidence(rows)
    if not len(seen.page):
        raise RecordingError(f"{rows.label} has no row that names a page, so there is nothing to replay")
    cpus = int(rows.cpu.max(initial=0)) + 1
    _refuse_cpus(rows, cpus)
    end = (int(seen.page[-1]) // TOP_PAGES + 1) * TOP_PAGES
    if end > 1 << 31:
        raise RecordingError(f"{rows.label} has rows of page {seen.page[-1]}, beyond 8 TiB; the file is damaged")
    zones = _guessed_zones(end, cpus)
    made = [_Zone(zone, seen, []) for zone in zones]
    for one in made:
        one.place_all()
    words = (
        "start state inferred from the trace alone, weaker than one from /proc texts: zones of an x86-64 machine up to "
        f"page {end - 1}, {cpus} CPUs; free at the start is what was allocated first, and every pageblock that no row "
        "touches"
    )
    return Start(_snapshot(rows, made, cpus, list(range(cpus)), INFERRED, words, kernel), INFERRED, (words,))


def _refuse_cpus(rows: Rows, cpus: int) -> None:
    if cpus > MAX_CPUS:
        raise RecordingError(f"{rows.label} is of a machine with {cpus} CPUs; {MAX_CPUS} are the most")


def _one_node(zones: list[ZoneText], seen: _Evidence) -> tuple[list[ZoneText], int | None, list[str]]:
    """
    The zones of the node with the most pages in the rows: a replay is of one node.
    """
    nodes = sorted({zone.node for zone in zones})
    if len(nodes) < 2:
        return zones, None, []
    pages = {
        node: sum(len(seen.inside(zone.start_pfn, zone.end_pfn).page) for zone in zones if zone.node == node)
        for node in nodes
    }
    node = max(nodes, key=lambda one: (pages[one], -one))
    note = f"the machine has {len(nodes)} NUMA nodes; node {node} is replayed, the one with the most pages in the trace"
    return [zone for zone in zones if zone.node == node], node, [note]


def _evidence(rows: Rows) -> _Evidence:
    """
    The first row of every page. A folio that is freed in a batch shows its order in the row of mm_page_free before.
    """
    wanted_of = {
        "mm_page_free": FREE,
        "mm_page_free_batched": FREE,
        "pcp_free": FREE,
        "free_one": FREE,
        "mm_page_alloc_zone_locked": TAKEN,
        "mm_page_pcpu_drain": DRAINED,
        "mm_page_alloc": ALLOC,
        "pcp_alloc": ALLOC,
        "pcp_alloc_bulk": ALLOC,
    }
    of_event = np.array([wanted_of.get(name, -1) for name in rows.names], np.int64)
    what = of_event[rows.event] if len(of_event) else np.zeros(0, np.int64)
    at = np.flatnonzero((what >= 0) & (rows.pfn >= 0))
    order = np.clip(rows.order[at], 0, NR_ORDERS - 1)
    sizes = np.left_shift(1, order)
    row = np.repeat(at, sizes)
    pages = np.repeat(rows.pfn[at], sizes) + np.arange(len(row)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    page, first = np.unique(pages, return_index=True)
    row = row[first]
    kinds = np.clip(rows.migratetype[row], 0, NR_MIGRATETYPES - 1)
    orders = np.clip(rows.order[row], 0, NR_ORDERS - 1)
    did, cpu = what[row], rows.cpu[row]
    # A list of a PCP is refilled when it is empty: what it held at the start was all taken before.
    refilled = _first_refills(rows)
    did[(did == ALLOC) & (row > refilled[np.clip(cpu, 0, len(refilled) - 1), orders, kinds])] = TAKEN
    return _Evidence(page, row, did, cpu, kinds, orders, rows.pfn[row], _fallbacks(rows))


def _first_refills(rows: Rows) -> np.ndarray:
    """
    By CPU, order and type: the first row in which pages were taken from the zone; NONE if there is none.
    """
    first = np.full((max(1, int(rows.cpu.max(initial=0)) + 1), NR_ORDERS, NR_MIGRATETYPES), NONE, np.int64)
    at = np.flatnonzero(rows.which("mm_page_alloc_zone_locked") & (rows.cpu >= 0))[::-1]
    order, kind = np.clip(rows.order[at], 0, NR_ORDERS - 1), np.clip(rows.migratetype[at], 0, NR_MIGRATETYPES - 1)
    first[rows.cpu[at], order, kind] = at
    return first


def _fallbacks(rows: Rows) -> np.ndarray:
    order, kind = rows.fallback_order, rows.fallback_migratetype
    told = rows.which("mm_page_alloc_extfrag") & (rows.pfn >= 0) & (kind >= 0) & (kind < NR_MIGRATETYPES)
    at = np.flatnonzero(told & (order >= 0) & (order < NR_ORDERS))
    heads = rows.pfn[at] >> order[at] << order[at]
    found: np.ndarray = np.stack([at, heads, order[at], kind[at]], axis=1)
    return found


def _guessed_zones(end: int, cpus: int) -> list[ZoneText]:
    """
    Zones of x86-64 up to a page, all of it managed, sized as the kernel would (B-12 to B-20).
    """
    borders = [(1, min(end, DMA_END)), (DMA_END, min(end, DMA32_END)), (DMA32_END, end)]
    zones = []
    for name, (start, stop) in zip(ZONES[:3], borders, strict=True):
        if stop > start:
            zones.append(ZoneText(0, name, spanned=stop - start, present=stop - start, managed=stop - start))
            zones[-1].start_pfn = start
    lowmem = sum(zone.managed for zone in zones)
    kbytes = max(min_free_kbytes(lowmem * 4), thp_min_free_kbytes(lowmem, len(zones)))
    for zone in zones:
        zone.watermark = list(watermarks(zone.managed, lowmem, kbytes))
        index = ZONES.index(zone.name)
        above = [sum(other.managed for other in zones if index < ZONES.index(other.name) <= top) for top in range(5)]
        zone.lowmem_reserve = [pages // RESERVE_RATIO[index] if pages else 0 for pages in above]
        zone.stat_threshold = stat_threshold(zone.managed, cpus)
        batch, low, high = pcp_sizing(zone.managed, cpus, zone.watermark[1])
        zone.pagesets = {cpu: Pageset(0, low, batch, low, high) for cpu in range(cpus)}
    return zones


class _Zone:
    """
    One zone while it is filled. Arrays are by page from ``base`` on, which is aligned to the largest order.

    state, order: as in a snapshot; wanted: pages that the rows show free at the start; fixed: pages that were not.
    """

    def __init__(self, text: ZoneText, seen: _Evidence, ram: list[tuple[int, int]]) -> None:
        self.text = text
        self.seen = seen.inside(text.start_pfn, text.end_pfn)
        self.base = text.start_pfn // TOP_PAGES * TOP_PAGES
        self.nr = -(-(text.end_pfn - self.base) // TOP_PAGES) * TOP_PAGES
        self.nr_blocks = self.nr // PAGEBLOCK_PAGES
        self.state = np.full(self.nr, ALLOCATED, np.uint8)
        self.order = np.zeros(self.nr, np.uint8)
        at = self.seen.page - self.base
        self.touched = np.zeros(self.nr, bool)
        self.touched[at] = True
        self.fixed = np.zeros(self.nr, bool)
        self.fixed[at[self.seen.what == FREE]] = True
        self.wanted = np.full(self.nr, NONE, np.int64)  # the row that takes it; NONE: nobody wants it free
        taken = self.seen.what != FREE
        self.wanted[at[taken]] = self.seen.row[taken]
        self.free: dict[tuple[int, int], list[int]] = {}
        self.lists: dict[int, dict[int, list[int]]] = {}
        self.missing = 0  # pages that the texts count free and that found no place
        self.unmanaged = text.present - text.managed  # pages that were never given to the allocator
        self._cut_holes(ram)
        self.types = self._types()

    # -- what there is ------------------------------------------------------------------------------------------------

    def _cut_holes(self, ram: list[tuple[int, int]]) -> None:
        """
        Pages that are not present: outside of the zone, outside of RAM where iomem says, else untouched ones.
        """
        text = self.text
        first = text.start_pfn - self.base
        self.state[:first] = self.state[first + text.spanned :] = HOLE
        holes = text.spanned - text.present
        if ram and holes:
            there = np.zeros(self.nr, bool)
            for low, high in ram:
                there[max(0, low - self.base) : max(0, high - self.base)] = True
            outside = ~there & (self.state != HOLE)
            if np.count_nonzero(outside) == holes and not (outside & self.touched).any():
                self.state[outside] = HOLE
                return
        if text.blocks is not None:
            # So many pageblocks are there that pagetypeinfo does not count; other holes lie inside of some.
            first, last = text.start_pfn // PAGEBLOCK_PAGES, (text.end_pfn - 1) // PAGEBLOCK_PAGES
            absent = max(0, last - first + 1 - int(text.blocks.sum())) * PAGEBLOCK_PAGES
            holes, self.unmanaged = min(holes, absent), self.unmanaged + max(0, holes - absent)
        self.state[self._untouched(holes)] = HOLE

    def _untouched(self, count: int) -> np.ndarray:
        """
        So many allocated pages that no row touches: whole pageblocks from the top of the zone, the rest where least is
        left, so that no further block is broken.
        """
        if not count:
            return np.zeros(0, np.int64)
        may = ((self.state == ALLOCATED) & ~self.touched).reshape(-1, PAGEBLOCK_PAGES)
        whole = may.all(axis=1)
        top = np.flatnonzero(whole)[::-1]
        top = top[np.argsort(whole[top ^ 1], kind="stable")][: count // PAGEBLOCK_PAGES]  # half a pair is worth less
        others = np.setdiff1d(np.flatnonzero(may.any(axis=1)), top)
        others = others[np.argsort(may[others].sum(axis=1), kind="stable")]
        blocks = np.concatenate([top, others])
        inside = may[blocks]
        pages = (blocks[:, None] * PAGEBLOCK_PAGES + np.arange(PAGEBLOCK_PAGES))[inside]
        found: np.ndarray = pages[:count]
        return found

    def _types(self) -> np.ndarray:
        """
        The type of each pageblock: as many of each as the texts say, first where rows show it.
        """
        seen, text = self.seen, self.text
        present = (self.state != HOLE).reshape(-1, PAGEBLOCK_PAGES).any(axis=1)
        votes = np.zeros((self.nr_blocks, NR_MIGRATETYPES), np.int64)
        told = (seen.what == TAKEN) | (seen.what == DRAINED) | (seen.what == ALLOC)
        np.add.at(votes, ((seen.page[told] - self.base) // PAGEBLOCK_PAGES, seen.kind[told]), 1)
        leading = votes.argmax(axis=1)
        shown = votes.max(axis=1)
        self._before_claims(leading, shown)
        types = np.full(self.nr_blocks, -1, np.int64)
        counts = self._block_counts(leading, shown, present)
        quiet = ((self.state == ALLOCATED) & ~self.touched).reshape(-1, PAGEBLOCK_PAGES).all(axis=1)
        managed = (self.state == ALLOCATED).reshape(-1, PAGEBLOCK_PAGES).any(axis=1)
        touched = self.touched.reshape(-1, PAGEBLOCK_PAGES).any(axis=1)
        types[self._area(counts[CMA], leading, shown, present)] = CMA
        for kind in (HIGHATOMIC, RECLAIMABLE, UNMOVABLE):  # movable are the others, by far the most
            open_ = present & (types < 0)
            by_vote = np.flatnonzero(open_ & (leading == kind) & (shown > 0))
            by_vote = by_vote[np.argsort(-shown[by_vote], kind="stable")]
            whole = np.flatnonzero(open_ & quiet)
            rest = np.flatnonzero(open_ & ~((leading == kind) & (shown > 0)))
            # Where no row says: blocks with holes, then what no row touches, before that of which half a pair is left.
            paired = quiet & quiet[np.arange(self.nr_blocks) ^ 1]
            rank = np.where(shown > 0, 4, np.where(touched, 3, quiet * 1 + paired))
            rest = rest[np.lexsort((rest, rank[rest], ~managed[rest]))]
            chosen = np.concatenate([by_vote, whole[: self._whole_blocks(kind)], rest])
            _, first = np.unique(chosen, return_index=True)
            types[chosen[np.sort(first)][: counts[kind]]] = kind
        types[types < 0] = MOVABLE
        if text.blocks is not None:
            self._pair_up(types, quiet)
        return types

    def _area(self, count: int, leading: np.ndarray, shown: np.ndarray, present: np.ndarray) -> slice:
        """
        The CMA area, taken as one: so many blocks where rows speak for it rather than against; the highest.
        """
        if not 0 < count <= self.nr_blocks:
            return slice(0, 0)
        score = np.where(shown > 0, np.select([leading == CMA, leading == MOVABLE], [4, 0], -1), 0)
        score = np.where(present, score, -self.nr_blocks * 4)
        sums = np.r_[0, np.cumsum(score)]
        windows = sums[count:] - sums[:-count]
        first = len(windows) - 1 - int(windows[::-1].argmax())
        return slice(first, first + int(count))

    def _before_claims(self, leading: np.ndarray, shown: np.ndarray) -> None:
        """
        A block that rows show in one type may have been claimed: a fallback among its first rows tells the type before.
        """
        first = np.full(self.nr_blocks, NONE, np.int64)
        told = self.seen.what != FREE
        np.minimum.at(first, (self.seen.page[told] - self.base) // PAGEBLOCK_PAGES, self.seen.row[told])
        for row, head, order, kind in self.seen.fallbacks[::-1].tolist():
            block = (head - self.base) // PAGEBLOCK_PAGES
            for one in range(block, min(block + max(1, 1 << order >> PAGEBLOCK_ORDER), self.nr_blocks)):
                if row - NEAR <= first[one]:
                    leading[one], shown[one] = kind, PAGEBLOCK_PAGES

    def _whole_blocks(self, kind: int) -> int:
        """
        How many pageblocks of a type are free as a whole.
        """
        free = self.text.free
        return 0 if free is None else int(2 * free[NR_ORDERS - 1, kind] + free[PAGEBLOCK_ORDER, kind])

    def _pair_up(self, types: np.ndarray, quiet: np.ndarray) -> None:
        """
        Chunks of order 10 need two blocks of one type: swap untouched ones until there are as many.
        """
        free = self.text.free
        for kind in (UNMOVABLE, RECLAIMABLE, HIGHATOMIC, CMA):
            need = 0 if free is None else int(free[NR_ORDERS - 1, kind])
            pairs = (types.reshape(-1, 2) == kind).all(axis=1) & quiet.reshape(-1, 2).all(axis=1)
            single = np.flatnonzero((types == kind) & quiet & ~np.repeat(pairs, 2))
            movable = np.flatnonzero((types.reshape(-1, 2) == MOVABLE).all(axis=1) & quiet.reshape(-1, 2).all(axis=1))
            for pair in movable[: max(0, min(need - int(np.count_nonzero(pairs)), len(single) // 2))]:
                types[single[:2]] = MOVABLE
                types[2 * pair : 2 * pair + 2] = kind
                single = single[2:]

    def _make_pairs(self, kind: int, need: int, held: dict[int, int]) -> None:
        """
        So many pairs of blocks of a type in which nothing is in use: swaps types with blocks that are in none, then
        takes entries of PCPs out of those that hold fewest. held: what the PCPs are still short of, which grows then.
        """
        empty = ((self.state == ALLOCATED) & ~self.fixed).reshape(-1, PAGEBLOCK_PAGES).all(axis=1)
        both = np.repeat(empty.reshape(-1, 2).all(axis=1), 2)
        mine = self.types == kind
        whole = np.repeat(mine.reshape(-1, 2).all(axis=1), 2) & both
        short = need - int(np.count_nonzero(whole)) // 2
        spare = np.flatnonzero(mine & ~whole & ~both).tolist()
        half = np.flatnonzero(mine & ~whole & both)
        single = np.flatnonzero(~mine & both & mine[np.arange(self.nr_blocks) ^ 1] & (self.types != CMA))
        if kind != CMA and len(half) >= len(single):
            for block in single[: max(0, min(short, len(spare)))].tolist():
                other = spare.pop()
                self.types[other], self.types[block] = self.types[block], kind
        pairs = (self.types.reshape(-1, 2) == kind).all(axis=1)
        short = need - int(np.count_nonzero(pairs & empty.reshape(-1, 2).all(axis=1)))
        parked = (self.state == PCP).reshape(-1, TOP_PAGES)
        usable = (parked | ((self.state == ALLOCATED) & ~self.fixed).reshape(-1, TOP_PAGES)).all(axis=1)
        some = np.flatnonzero(pairs & usable & parked.any(axis=1))
        some = some[np.argsort(parked[some].sum(axis=1), kind="stable")][: max(0, short)]
        if len(some):
            self._empty(set(some.tolist()), held)

    def _empty(self, pairs: set[int], held: dict[int, int]) -> None:
        """
        No PCP has anything there any more.
        """
        for cpu, lists in self.lists.items():
            for index, pfns in lists.items():
                gone = [pfn for pfn in pfns if (pfn - self.base) // TOP_PAGES in pairs]
                size = 1 << _list_order(index)
                held[cpu] += len(gone) * size
                for pfn in gone:
                    self.state[pfn - self.base : pfn - self.base + size] = ALLOCATED
                    self.order[pfn - self.base] = 0
                lists[index] = [pfn for pfn in pfns if (pfn - self.base) // TOP_PAGES not in pairs]

    def _block_counts(self, leading: np.ndarray, shown: np.ndarray, present: np.ndarray) -> np.ndarray:
        if self.text.blocks is not None:
            return self.text.blocks
        counts = np.bincount(leading[present & (shown > 0)], minlength=NR_MIGRATETYPES)
        counts[CMA] = max(counts[CMA], self.text.cma // PAGEBLOCK_PAGES)
        return counts

    # -- filling ------------------------------------------------------------------------------------------------------

    def place_counted(self) -> None:
        """
        PCPs and free lists with as many pages as the texts count, the largest chunks first.
        """
        assert self.text.free is not None
        held = self._hold_for_pcps({cpu: pageset.count for cpu, pageset in self.text.pagesets.items()})
        free = self.text.free
        for kind in np.argsort(free[NR_ORDERS - 1], kind="stable").tolist():
            self._make_pairs(kind, int(free[NR_ORDERS - 1, kind]), held)
        for order in range(NR_ORDERS - 1, -1, -1):
            for kind in range(NR_MIGRATETYPES):
                if free[order, kind]:
                    self._place(order, kind, int(free[order, kind]))
        self.state[self._untouched(self.unmanaged)] = RESERVED
        self._fill_pcps(held)
        self._join_allocated()

    def place_all(self) -> None:
        """
        Free is what rows allocate first, and every pageblock that none touches, in the largest chunks that fit.
        """
        most = {cpu: pageset.high_max or 0 for cpu, pageset in self.text.pagesets.items()}
        self._hold_for_pcps(most)
        quiet = ~self.touched.reshape(-1, PAGEBLOCK_PAGES).any(axis=1)
        free = (np.repeat(quiet, PAGEBLOCK_PAGES) | (self.wanted != NONE)) & (self.state == ALLOCATED)
        for order in range(NR_ORDERS - 1, -1, -1):
            for kind in range(NR_MIGRATETYPES):
                self._place(order, kind, self.nr, only=free, alone=False)
        for cpu, pageset in self.text.pagesets.items():
            pageset.count = sum(len(pfns) << _list_order(index) for index, pfns in self.lists.get(cpu, {}).items())
            pageset.high = max(pageset.high, pageset.count)
        self._join_allocated()

    def _place(self, order: int, kind: int, count: int, *, only: np.ndarray | None = None, alone: bool = True) -> None:
        """
        Up to ``count`` chunks into blocks of a type: first those whose pages rows take, the earliest before others.

        alone: never both of two buddies, which would have merged.
        """
        size = 1 << order
        usable = (self.state == ALLOCATED) & ~self.fixed
        if only is not None:
            usable &= only
        ok = usable.reshape(-1, size).all(axis=1)
        blocks = self.types == kind
        if order > PAGEBLOCK_ORDER:
            ok &= blocks.reshape(-1, 2).all(axis=1)
        else:
            ok &= np.repeat(blocks, PAGEBLOCK_PAGES >> order)
        chunks = np.flatnonzero(ok)
        if not len(chunks):
            self.missing += count << order if alone else 0
            return
        first = self.wanted.reshape(-1, size)[chunks].min(axis=1)
        shown = (self.wanted.reshape(-1, size)[chunks] != NONE).sum(axis=1)
        if alone and order < NR_ORDERS - 1:
            # A chunk whose buddy can be free as well is the worse choice: it leaves half of a larger one.
            best = np.lexsort((chunks, ok[chunks ^ 1], -shown))
            _, where = np.unique(chunks[best] >> 1, return_index=True)
            best = best[np.sort(where)]
        else:
            best = np.lexsort((chunks, -shown))
        best = best[:count]
        if alone:
            self.missing += (count - len(best)) << order
        best = best[np.lexsort((chunks[best], first[best]))]
        heads = chunks[best] * size
        self.state.reshape(-1, size)[chunks[best]] = BUDDY
        self.order[heads] = order
        self.free[order, kind] = (heads + self.base).tolist()

    def _hold_for_pcps(self, room: Mapping[int, int]) -> dict[int, int]:
        """
        Entries that rows show in PCPs, up to so many pages each CPU. Gives how many pages are still to be found.

        Taken by an allocation: near the head, the first taken first. Drained: from the tail, the last drained first.
        """
        seen = self.seen
        heads = np.flatnonzero((seen.page == seen.head) & ((seen.what == ALLOC) | (seen.what == DRAINED)))
        small = (seen.order[heads] <= MOST_PCP_ORDER) | (seen.order[heads] == PAGEBLOCK_ORDER)
        heads = heads[small]
        rank = np.where(seen.what[heads] == ALLOC, seen.row[heads], NONE - 1 - seen.row[heads])
        heads = heads[np.argsort(rank, kind="stable")]
        left = dict(room)
        for at in heads.tolist():
            if not any(left.values()):
                break
            cpu, order, size = int(seen.cpu[at]), int(seen.order[at]), 1 << int(seen.order[at])
            page = int(seen.head[at]) - self.base
            if left.get(cpu, 0) < size or (self.state[page : page + size] != ALLOCATED).any():
                continue
            if self.fixed[page : page + size].any():
                continue
            left[cpu] -= size
            self._into_pcp(cpu, page, order)
        return left

    def _into_pcp(self, cpu: int, page: int, order: int) -> None:
        kind = int(self.types[page // PAGEBLOCK_PAGES])
        kind = kind if kind < NR_PCP_TYPES else MOVABLE  # H and C ride on M
        index = NR_PCP_TYPES * order + kind if order <= MOST_PCP_ORDER else ORDER_9_LIST + (kind == MOVABLE)
        self.state[page : page + (1 << order)] = PCP
        self.order[page] = order
        self.wanted[page : page + (1 << order)] = NONE
        self.lists.setdefault(cpu, {}).setdefault(index, []).append(page + self.base)

    def _fill_pcps(self, left: Mapping[int, int]) -> None:
        """
        The rest of what the texts count in PCPs: single pages that rows take, else any that no row touches.
        """
        need = sum(left.values())
        if not need:
            return
        may = (self.state == ALLOCATED) & ~self.fixed & np.repeat(self.types < NR_PCP_TYPES, PAGEBLOCK_PAGES)
        shown = np.flatnonzero(may & (self.wanted != NONE))
        shown = shown[np.argsort(self.wanted[shown], kind="stable")]
        quiet = np.flatnonzero(may & ~self.touched)
        # Movable first; scattered, for what is parked in a PCP comes from everywhere.
        quiet = quiet[np.lexsort((quiet * 2654435761 & 0xFFFFF, self.types[quiet // PAGEBLOCK_PAGES] != MOVABLE))]
        pages = np.concatenate([shown, quiet])[:need].tolist()
        self.missing += need - len(pages)
        for cpu, count in left.items():
            for page in pages[:count]:
                self._into_pcp(cpu, page, 0)
            del pages[:count]
        for cpu, pageset in self.text.pagesets.items():
            pageset.count = sum(len(pfns) << _list_order(index) for index, pfns in self.lists.get(cpu, {}).items())

    def _join_allocated(self) -> None:
        """
        Allocated pages as allocations: those that rows free as one, and the largest pieces of what no row touches.
        """
        seen = self.seen
        heads = np.flatnonzero((seen.what == FREE) & (seen.order > 0) & (seen.page == seen.head))
        for order in np.unique(seen.order[heads]).tolist():
            size = 1 << order
            at = heads[seen.order[heads] == order]
            at = at[at + size <= len(seen.page)]
            inside = (seen.row[at[:, None] + np.arange(size)] == seen.row[at][:, None]).all(axis=1)
            page = seen.page[at[inside]] - self.base
            page = page[(self.state[page[:, None] + np.arange(size)] == ALLOCATED).all(axis=1)]
            self._compound(page, order)
        rest = (self.state == ALLOCATED) & ~self.touched
        for order in range(PAGEBLOCK_ORDER, 0, -1):
            whole = np.flatnonzero(rest.reshape(-1, 1 << order).all(axis=1))
            rest.reshape(-1, 1 << order)[whole] = False
            self._compound(whole << order, order)

    def _compound(self, heads: np.ndarray, order: int) -> None:
        self.order[heads] = order
        for offset in range(1, 1 << order):
            self.state[heads + offset] = TAIL

    # -- what came of it ----------------------------------------------------------------------------------------------

    def document(self, cpus: int, online: list[int]) -> dict[str, object]:
        """
        The zone as a snapshot has it.
        """
        text = self.text
        free = dict.fromkeys(STAT_ITEMS, 0)
        highatomic = 0
        for (order, kind), pfns in self.free.items():
            pages = len(pfns) << order
            free["NR_FREE_PAGES"] += pages
            free["NR_FREE_PAGES_BLOCKS"] += pages if order >= PAGEBLOCK_ORDER else 0
            free["NR_FREE_CMA_PAGES"] += pages if kind == CMA else 0
            highatomic += pages if kind == HIGHATOMIC else 0
        like = next(iter(text.pagesets.values()))
        reserve = [*text.lowmem_reserve, 0, 0, 0, 0, 0][:5]
        return {
            "index": ZONES.index(text.name),
            "name": text.name,
            "zone_start_pfn": text.start_pfn,
            "spanned_pages": text.spanned,
            "present_pages": text.present,
            "managed_pages": int(np.count_nonzero(self.state >= BUDDY)),
            "cma_pages": int(np.count_nonzero(self.types == CMA)) * PAGEBLOCK_PAGES,
            "watermark": text.watermark,
            "watermark_boost": text.boost,
            "nr_reserved_highatomic": int(np.count_nonzero(self.types == HIGHATOMIC)) * PAGEBLOCK_PAGES,
            "nr_free_highatomic": highatomic,
            "lowmem_reserve": reserve,
            "flags": 0,
            "percpu_drift_mark": 0,
            "pageset_high_min": _least(like, text),
            "pageset_high_max": _most(like, text),
            "pageset_batch": min(like.batch, MOST_BATCH),
            "vm_stat": free,
            "free_area": [
                {
                    "order": order,
                    "nr_free": sum(len(self.free.get((order, kind), ())) for kind in range(NR_MIGRATETYPES)),
                    "free_list": {str(kind): self.free.get((order, kind), []) for kind in range(NR_MIGRATETYPES)},
                }
                for order in range(NR_ORDERS)
            ],
            "pcp": [self._pageset(cpu, text.pagesets.get(cpu, like), cpu in online) for cpu in range(cpus)],
        }

    def _pageset(self, cpu: int, pageset: Pageset, online: bool) -> dict[str, object]:
        lists = self.lists.get(cpu, {})
        return {
            "cpu": cpu,
            "count": sum(len(pfns) << _list_order(index) for index, pfns in lists.items()),
            "high": pageset.high,
            "high_min": _least(pageset, self.text),
            "high_max": _most(pageset, self.text),
            "batch": min(pageset.batch, MOST_BATCH),
            "flags": PCPF_FREE_HIGH_BATCH,  # as where a CPU's share of the last cache holds some batches
            "alloc_factor": 0,
            "expire": 0,
            "free_count": 0,
            "lists": {str(index): lists.get(index, []) for index in range(ORDER_9_LIST + 2)},
            "vm_stat_diff": [0] * len(STAT_ITEMS),
            "stat_threshold": self.text.stat_threshold,
        }


def _least(pageset: Pageset, text: ZoneText) -> int:
    """
    high_min; of kernels before 6.7, which have high alone, that.
    """
    return pageset.high if pageset.high_min is None else pageset.high_min


def _most(pageset: Pageset, text: ZoneText) -> int:
    return max(_least(pageset, text), pageset.high if pageset.high_max is None else pageset.high_max)


def _list_order(index: int) -> int:
    return PAGEBLOCK_ORDER if index >= ORDER_9_LIST else index // NR_PCP_TYPES


def _not_placed(zones: list[_Zone]) -> list[str]:
    found = [
        f"{zone.missing} free pages of zone {zone.text.name} found no place that the rows allow, and are allocated"
        for zone in zones
        if zone.missing
    ]
    left = sum(int(np.count_nonzero((zone.wanted != NONE) & (zone.state >= ALLOCATED))) for zone in zones)
    if left:
        found.append(
            f"{left} pages that rows take free are more than the texts count; they are allocated at the start, and "
            "freed when they are taken"
        )
    return found


def _snapshot(
    rows: Rows, zones: list[_Zone], cpus: int, online: list[int], kind: str, words: str, kernel: str | None
) -> Snapshot:
    """
    All of it as the two files of a snapshot would hold it.
    """
    max_pfn = max(zone.text.end_pfn for zone in zones)
    nr_blocks = -(-max_pfn // PAGEBLOCK_PAGES)
    arrays = {
        "page_state": np.zeros(max_pfn, np.uint8),
        "page_order": np.zeros(max_pfn, np.uint8),
        "page_flags": np.zeros(max_pfn, np.uint8),
        "pageblock_flags": np.full(nr_blocks, MOVABLE, np.uint8),
    }
    for zone in zones:
        start, end, at = zone.text.start_pfn, zone.text.end_pfn, zone.text.start_pfn - zone.base
        inside = slice(at, at + end - start)
        arrays["page_state"][start:end] = zone.state[inside]
        arrays["page_order"][start:end] = zone.order[inside]
        # What lies in movable blocks is on an LRU list, for the most part; a claim of such a block counts it so.
        movable = np.repeat((zone.types == MOVABLE) | (zone.types == CMA), PAGEBLOCK_PAGES)[inside]
        arrays["page_flags"][start:end] = np.where(movable & (zone.state[inside] == ALLOCATED), PAGE_LRU, 0)
        first = zone.base // PAGEBLOCK_PAGES
        count = min(zone.nr_blocks, nr_blocks - first)
        begin = start // PAGEBLOCK_PAGES - first  # a block that two zones share is the lower one's
        arrays["pageblock_flags"][first + begin : first + count] = zone.types[begin:count]
    document = {
        "kernel": kernel or "(release unknown)",
        "assumed": kind,
        "assumed_how": words,
        "max_pfn": max_pfn,
        "online_cpus": online,
        "zone_stat_items": STAT_ITEMS,
        "globals": {"percpu_pagelist_high_fraction": 0, "watermark_boost_factor": WATERMARK_BOOST_FACTOR},
        "ring": [{"cpu": cpu, "entries": 0} for cpu in range(cpus)],
        "zones": [zone.document(cpus, online) for zone in zones],
    }
    return Snapshot(f"the start state of {rows.label}", document, arrays, ())
