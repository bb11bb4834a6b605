"""
Everything that a zone remembers, as plain records; the rules that change them live in the other files.

One ``Memory`` is the whole state of a zone: copying it is a snapshot. It also keeps the books: the
zone counters with their drift (B-15 to B-18), the event counters (P-111) and the event ring (P-110).
"""

import dataclasses
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from ..names import (
    CMA,
    HIGHATOMIC,
    ISOLATE,
    MAX_PAGE_ORDER,
    NR_MIGRATETYPES,
    NR_ORDERS,
    PAGEBLOCK_ORDER,
    PAGEBLOCK_PAGES,
)

# The three zone counters (B-15).
NR_FREE, NR_FREE_CMA, NR_FREE_BLOCKS = range(3)

# Who owns a block that nobody owns.
NOBODY = -1

COUNTERS = (
    *("allocs", "allocs_failed", "allocs_from_pcp", "pages_allocated", "pages_freed"),
    *("holds_refill", "holds_direct_alloc", "holds_direct_free", "holds_drain", "holds_other"),
    *("list_ops", "moves", "pages_moved", "zone_merges", "pcp_merges", "zone_splits", "pcp_splits"),
    *("refills", "phase0_pages", "phase1_pages", "phase2_pages", "phase3_pages"),
    *("frees_local", "frees_remote", "frees_direct", "frees_failed_trylock"),
    *("cma_pages", "movable_pages", "movable_cma_pages"),
    *("walks", "walked_blocks", "skipped_blocks", "scanned_pfns"),
    *("merge_visited", "drained_entries", "drained_pages"),
)


def pcp_capable(order: int) -> bool:
    """
    Whether requests and frees of this order may use a PCP (B-11, P-30).
    """
    return order <= 3 or order == PAGEBLOCK_ORDER


class PageList:
    """
    A doubly linked list: insertion at both ends, removal anywhere.
    """

    def __init__(self, items: Iterable[int] = ()) -> None:
        self._items: OrderedDict[int, None] = OrderedDict.fromkeys(items)

    def add_head(self, item: int) -> None:
        self._items[item] = None
        self._items.move_to_end(item, last=False)

    def add_tail(self, item: int) -> None:
        self._items[item] = None

    def remove(self, item: int) -> None:
        del self._items[item]

    def head(self) -> int:
        return next(iter(self._items))

    def tail(self) -> int:
        return next(reversed(self._items))

    def __iter__(self) -> Iterator[int]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)


class Chunk(NamedTuple):
    """
    A free run on a zone list, known by its head (state BUDDY of 1.4).
    """

    order: int
    type: int


class Entry(NamedTuple):
    """
    A free run on a PCP list, known by its head; ``index`` is the list it is on (P-4).
    """

    cpu: int
    order: int
    index: int


class Allocation(NamedTuple):
    """
    A run that a user holds. type: of the request; movable: on an LRU list or movable_ops, all pages of it.
    """

    order: int
    type: int
    movable: int


@dataclasses.dataclass(slots=True)
class Block:
    """
    The record of one pageblock (1.3, P-1).
    """

    type: int
    iso: int = 0
    owner: int = NOBODY
    linked: int = 0

    @property
    def effective(self) -> int:
        """
        Isolate if isolated, else the stored type (1.3).
        """
        return ISOLATE if self.iso else self.type


@dataclasses.dataclass(slots=True)
class Pcp:
    """
    per_cpu_pages of one CPU (1.7, P-2), with that CPU's counter differences.
    """

    batch: int
    high_min: int
    high_max: int
    lists: list[PageList]
    online: int = 1
    remote_node: int = 0
    count: int = 0
    high: int = 0
    flags: int = 0
    alloc_factor: int = 0
    free_count: int = 0
    expire: int = 0
    stat_diff: list[int] = dataclasses.field(default_factory=lambda: [0, 0, 0])
    marked: set[int] = dataclasses.field(default_factory=set)
    owned: PageList = dataclasses.field(default_factory=PageList)


@dataclasses.dataclass(kw_only=True)
class Memory:
    """
    One zone. All page frame numbers are absolute.
    """

    start_pfn: int
    spanned: int
    managed: int
    zone_index: int
    name: str
    watermark: list[int]
    lowmem_reserve: list[int]
    pageset: list[int]
    auto_sizing: bool
    auto_threshold: bool
    stat_threshold: int
    blocks: list[Block]
    pcps: list[Pcp]
    watermark_boost: int = 0
    flags: int = 0
    nr_reserved_highatomic: int = 0
    nr_free_highatomic: int = 0
    nr_isolate_pageblock: int = 0
    boost_factor: int = 15000
    stat: list[int] = dataclasses.field(default_factory=lambda: [0, 0, 0])

    def __post_init__(self) -> None:
        self.free = [[PageList() for _ in range(NR_MIGRATETYPES)] for _ in range(NR_ORDERS)]
        self.chunks: dict[int, Chunk] = {}  # heads on zone lists
        self.entries: dict[int, Entry] = {}  # heads on PCP lists
        self.allocated: dict[int, Allocation] = {}
        self.deferred: list[tuple[int, int]] = []  # B-92; the last is popped first

        # What check() compares with: pages that are not holes, blocks that are C (I-1, I-27).
        self.populated = 0
        self.cma_blocks: frozenset[int] = frozenset()

        # Who is executing, and which of its trylocks fail.
        self.this_cpu = 0
        self.failing = 0
        self.tries = 0

        self.counters = [dict.fromkeys(COUNTERS, 0) for _ in self.pcps]
        self.ring: deque[tuple[Any, ...]] | None = None

    # Where things are

    @property
    def end_pfn(self) -> int:
        return self.start_pfn + self.spanned

    def block_index(self, pfn: int) -> int:
        """
        Blocks are numbered from the start of the zone rounded down to the largest chunk.
        """
        return (pfn >> PAGEBLOCK_ORDER) - (self.start_pfn >> MAX_PAGE_ORDER << 1)

    def block_pfn(self, index: int) -> int:
        """
        First page frame of a block.
        """
        return (index + (self.start_pfn >> MAX_PAGE_ORDER << 1)) << PAGEBLOCK_ORDER

    def block(self, pfn: int) -> Block:
        return self.blocks[self.block_index(pfn)]

    def type_of(self, pfn: int) -> int:
        """
        Effective type of the block of a page.
        """
        return self.block(pfn).effective

    def covered_blocks(self, pfn: int, order: int) -> range:
        """
        Indices of all blocks that a run touches.
        """
        first = self.block_index(pfn)
        return range(first, first + max(1, (1 << order) >> PAGEBLOCK_ORDER))

    def block_inside(self, index: int) -> bool:
        """
        Whether a block lies wholly inside the zone.
        """
        pfn = self.block_pfn(index)
        return self.start_pfn <= pfn and pfn + PAGEBLOCK_PAGES <= self.end_pfn

    def run_at(self, pfn: int) -> tuple[int, Chunk | Entry | Allocation] | None:
        """
        The chunk, PCP entry or allocation that holds a page, and its head.
        """
        for order in range(NR_ORDERS):
            head = pfn >> order << order
            run = self.chunks.get(head) or self.entries.get(head) or self.allocated.get(head)
            if run is not None and run.order >= order:
                return head, run
        return None

    # Zone counters

    def visible(self, item: int) -> int:
        """
        The global part of a counter, clamped at 0: what all rules see (1.10).
        """
        return max(0, self.stat[item])

    def add_stat(self, item: int, nr_pages: int) -> None:
        """
        B-15: the whole difference moves when it exceeds the threshold.
        """
        diff = self.pcps[self.this_cpu].stat_diff
        diff[item] += nr_pages
        if abs(diff[item]) > self.stat_threshold:
            self.stat[item] += diff[item]
            diff[item] = 0

    def account(self, nr_pages: int, mt: int) -> None:
        """
        B-18: free pages of a type appear or disappear.
        """
        if mt == ISOLATE:
            return
        self.add_stat(NR_FREE, nr_pages)
        if mt == CMA:
            self.add_stat(NR_FREE_CMA, nr_pages)
        if mt == HIGHATOMIC:
            self.nr_free_highatomic += nr_pages

    def fold(self, cpu: int) -> bool:
        """
        B-17: one CPU's differences move into the globals. Whether there were any.
        """
        diff = self.pcps[cpu].stat_diff
        changed = any(diff)
        for item in range(3):
            self.stat[item] += diff[item]
            diff[item] = 0
        return changed

    # Locks: nothing to wait for here; they are counted, and trylocks fail when told to

    def hold(self, kind: str) -> None:
        """
        One zone-lock hold begins; it ends with the function that took it.
        """
        self.count("holds_" + kind)

    def trylock(self) -> bool:
        """
        Whether this trylock succeeds (fail_trylocks).
        """
        fails = self.failing >> self.tries & 1
        self.tries += 1
        return not fails

    # Books

    def count(self, name: str, n: int = 1) -> None:
        self.counters[self.this_cpu][name] += n

    def emit(self, kind: str, *values: Any) -> None:
        """
        An event of the executing CPU.
        """
        self.emit_for(self.this_cpu, kind, *values)

    def emit_for(self, cpu: int, kind: str, *values: Any) -> None:
        """
        An event that names another CPU than the executing one.
        """
        if self.ring is not None:
            self.ring.append((kind, cpu, *values))
