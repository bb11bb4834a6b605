"""
Everything that a zone remembers, and the books it keeps: drift counters, statistics, events.

One ``Memory`` is the whole state of a zone: a copy of it is a snapshot. The rules live in the classes
that build on it, each adding one concern to the one before (see __init__.py).
"""

import dataclasses
from collections import OrderedDict, deque
from collections.abc import Iterator
from itertools import chain
from typing import Any, NamedTuple

from .. import names
from ..config import Policy
from ..contig import CONTIG_REASONS

NR_FREE, NR_FREE_CMA, NR_FREE_BLOCKS = range(3)  # the zone counters (B-15)
PB = names.PAGEBLOCK_ORDER
NOBODY = -1  # owner of a block that nobody owns

COUNTERS = (
    *("allocs", "allocs_failed", "allocs_from_pcp", "pages_allocated", "pages_freed"),
    *("holds_refill", "holds_direct_alloc", "holds_direct_free", "holds_drain", "holds_other"),
    *("list_ops", "moves", "pages_moved", "zone_merges", "pcp_merges", "zone_splits", "pcp_splits"),
    *("refills", "phase0_pages", "phase1_pages", "phase2_pages", "phase3_pages"),
    *("frees_local", "frees_remote", "frees_direct", "frees_failed_trylock"),
    *("remote_pushes", "remote_over_bound", "absorbs", "absorbed_pages"),
    *("cma_pages", "movable_pages", "movable_cma_pages"),
    *("walks", "walked_blocks", "skipped_blocks", "scanned_pfns"),
    *("merge_visited", "drained_entries", "drained_pages"),
    *(f"contig_{reason or 'ok'}" for reason in CONTIG_REASONS),
    *("contig_pages", "pages_migrated", "migrations_refused"),
)


Run = tuple[int, int]  # first page and order of pages that are on their way


def largest_aligned(pfn: int, end: int) -> int:
    """The largest order that a run at pfn can have without passing end (B-94, B-97)."""
    aligned = (pfn & -pfn).bit_length() - 1 if pfn else names.MAX_PAGE_ORDER
    return min(aligned, (end - pfn).bit_length() - 1, names.MAX_PAGE_ORDER)


class PageList(OrderedDict[int, None]):
    """A doubly linked list: insertion at both ends, removal (``del``) anywhere."""

    def add(self, item: int, tail: bool) -> None:
        self[item] = None
        self.move_to_end(item, last=tail)

    @property
    def head(self) -> int:
        return next(iter(self))

    @property
    def tail(self) -> int:
        return next(reversed(self))


class Chunk(NamedTuple):
    """A free run on the zone list of a type, known by its head (BUDDY, 1.4)."""

    order: int
    type: int


class Entry(NamedTuple):
    """A free run on list ``pindex`` of a CPU's PCP, known by its head (P-4)."""

    cpu: int
    order: int
    pindex: int


class Allocation(NamedTuple):
    """A run that a user holds. type: of the request; movable: all its pages are lru or movable_ops (1.4)."""

    order: int
    type: int
    movable: int


@dataclasses.dataclass(slots=True)
class Block:
    """The record of a pageblock (1.3, P-1)."""

    type: int
    iso: int = 0
    owner: int = NOBODY
    linked: int = 0

    @property
    def effective(self) -> int:
        return names.ISOLATE if self.iso else self.type


@dataclasses.dataclass(slots=True)
class Pcp:
    """per_cpu_pages of a CPU (1.7, P-2) and its counter differences."""

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
    owned: list[PageList] = dataclasses.field(default_factory=list)  # one, or one for each block type (P-15)
    remote: list[Run] = dataclasses.field(default_factory=list)  # what others have pushed, in arrival order (P-46)
    outboxes: OrderedDict[int, list[Run]] = dataclasses.field(default_factory=OrderedDict)  # P-46b; oldest use first
    pending: int = 0  # pages on the remote list and in all outboxes for this CPU


class Layout:
    """Which (order, type) is which PCP list: the kernel's 14 (B-10), or one for each (P-3)."""

    def __init__(self, policy: Policy) -> None:
        self.nr_lists = policy.pcp_lists
        self.shared = self.nr_lists == 14
        self.requests = range(PB + 1) if policy.pcp_orders == "all" else (0, 1, 2, 3, PB)
        # An index drain walks U and R of order 9 before M, as if they were still list 12 (null in rfc.md 15).
        self.walk = list(range(14)) if self.shared else [*range(27), 27, 29, 28]

    def serves(self, order: int) -> bool:
        """Whether requests and frees of that order go to a PCP (B-11, P-30)."""
        return order in self.requests

    def has(self, order: int) -> bool:
        return not self.shared or self.serves(order)

    def index(self, order: int, mt: int) -> int:
        if self.shared and order > 3:
            return 13 if mt == names.MOVABLE else 12
        return 3 * order + mt

    def key(self, index: int) -> tuple[int, int]:  # the shared list 12 counts as (9, U)
        if self.shared and index >= 12:
            return PB, index - 12
        return index // 3, index % 3


@dataclasses.dataclass(kw_only=True, eq=False, repr=False)
class Memory:
    """One zone (1.5). All page frame numbers are absolute."""

    policy: Policy
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
    auto_watermark: bool = False
    boost_factor: int = names.WATERMARK_BOOST_FACTOR
    stat: list[int] = dataclasses.field(default_factory=lambda: [0, 0, 0])

    def __post_init__(self) -> None:
        self.layout = Layout(self.policy)
        self.free_area = [[PageList() for _ in range(names.NR_MIGRATETYPES)] for _ in range(names.NR_ORDERS)]
        self.chunks: dict[int, Chunk] = {}
        self.entries: dict[int, Entry] = {}
        self.allocated: dict[int, Allocation] = {}
        self.claimed: set[int] = set()  # pages that cma_alloc handed out (CT-9)
        self.pcp_disabled = False  # B-106
        self.deferred: list[Run] = []  # B-92; the last is popped first
        self.overfull = NOBODY  # the CPU that this operation pushed too much (P-45)
        self.rejects: list[Run] = []  # pages that this operation frees directly when it holds no PCP lock (P-46)
        for pcp in self.pcps:
            pcp.owned = [PageList() for _ in range(names.CMA + 1 if self.policy.owned_lists == "per_type" else 1)]
        self.populated = 0  # what check() compares with: pages that are not holes, blocks that are C
        self.cma_blocks: list[int] = []
        self.this_cpu = 0  # who is executing, and which of its trylocks fail
        self.failing = 0
        self.to_fail = 0
        self.tries = 0
        self.books = [dict.fromkeys(COUNTERS, 0) for _ in self.pcps]
        self.ring: deque[tuple[Any, ...]] = deque(maxlen=0)

    # Where things are

    @property
    def end_pfn(self) -> int:
        return self.start_pfn + self.spanned

    @property
    def first_block(self) -> int:  # blocks are numbered from the start rounded down to the largest chunk
        return self.start_pfn >> names.MAX_PAGE_ORDER << 1

    def block_index(self, pfn: int) -> int:
        return (pfn >> PB) - self.first_block

    def block_pfn(self, index: int) -> int:
        return (index + self.first_block) << PB

    def block(self, pfn: int) -> Block:
        return self.blocks[self.block_index(pfn)]

    def type_of(self, pfn: int) -> int:
        return self.block(pfn).effective

    def covered(self, pfn: int, order: int) -> range:
        """Indices of all blocks that a run touches."""
        first = self.block_index(pfn)
        return range(first, first + max(1, (1 << order) >> PB))

    def inside(self, index: int) -> bool:
        """Whether a block lies wholly inside the zone."""
        pfn = self.block_pfn(index)
        return self.start_pfn <= pfn and pfn + names.PAGEBLOCK_PAGES <= self.end_pfn

    def owned_list(self, cpu: int, index: int) -> PageList:
        """Where an owned block is linked: by its type if there is a list for each (P-15)."""
        lists = self.pcps[cpu].owned
        return lists[self.blocks[index].type] if len(lists) > 1 else lists[0]

    def remote_runs(self) -> Iterator[Run]:
        """Everything freed that has not reached its PCP yet: REMOTE (P-5)."""
        for pcp in self.pcps:
            yield from chain(pcp.remote, *pcp.outboxes.values())

    def run_at(self, pfn: int) -> tuple[int, Chunk | Entry | Allocation] | None:
        """The chunk, PCP entry or allocation that a page belongs to, after its head."""
        for order in range(names.NR_ORDERS):
            head = pfn >> order << order
            run = self.chunks.get(head) or self.entries.get(head) or self.allocated.get(head)
            if run is not None and run.order >= order:
                return head, run
        return None

    # Zone counters

    def visible(self, item: int) -> int:  # what all rules see (1.10)
        return max(0, self.stat[item])

    def add_stat(self, item: int, nr_pages: int) -> None:
        """B-15: the whole difference moves when it exceeds the threshold."""
        diff = self.pcps[self.this_cpu].stat_diff
        diff[item] += nr_pages
        if abs(diff[item]) > self.stat_threshold:
            self.stat[item] += diff[item]
            diff[item] = 0

    def account(self, nr_pages: int, mt: int) -> None:
        """B-18: free pages of a type appear or disappear."""
        if mt == names.ISOLATE:
            return
        self.add_stat(NR_FREE, nr_pages)
        if mt == names.CMA:
            self.add_stat(NR_FREE_CMA, nr_pages)
        if mt == names.HIGHATOMIC:
            self.nr_free_highatomic += nr_pages

    def fold_stat(self, cpu: int) -> bool:
        """B-17: a CPU's differences move into the globals. Whether there were any."""
        diff = self.pcps[cpu].stat_diff
        changed = any(diff)
        self.stat = [total + d for total, d in zip(self.stat, diff, strict=True)]
        diff[:] = [0, 0, 0]
        return changed

    # Books. There is nothing to wait for: holds are counted, trylocks fail when told to

    def count(self, **amounts: int) -> None:
        for counter, n in amounts.items():
            self.books[self.this_cpu][counter] += n

    def trylock(self) -> bool:
        self.tries += 1
        return not self.failing >> (self.tries - 1) & 1

    def emit(self, kind: str, *values: Any, cpu: int | None = None) -> None:
        self.ring.append((kind, self.this_cpu if cpu is None else cpu, *values))
