"""
``Zone``: one zone with its PCPs, as a user sees it. Arguments are checked here and trusted below.
"""

import copy
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, Self

from .. import config
from ..errors import BadFree, CpuOffline, OutOfPages, UsageError
from ..names import (
    CMA,
    MAX_CPUS,
    MAX_PAGE_ORDER,
    MOVABLE,
    NR_PCP_TYPES,
    PAGEBLOCK_PAGES,
    PCPF_FREE_HIGH_BATCH,
    UNMOVABLE,
    WMARK_LOW,
)
from . import check, sizing, state
from .alloc import Alloc, default_aflags
from .buddy import Buddy
from .drain import Drain
from .free import Free, largest_aligned
from .isolation import Isolation
from .memory import COUNTERS, Allocation, Block, Chunk, Entry, Memory, PageList, Pcp
from .ownership import Ownership
from .pcp import Layout, PcpLists, Tuning
from .refill import Refill
from .watermark import watermark_ok, wmark_pages


class Zone:
    """
    A zone and its per-CPU lists, driven one operation at a time.

    batch, high_min, high_max: given together they fix the PCPs' sizing (else B-12, B-13).
    stat_threshold: given, it fixes the drift of the counters (else B-16).
    llc_pages: one CPU's share of the last-level cache (B-14).
    """

    def __init__(
        self,
        pages: int,
        *,
        cpus: int = 1,
        policy: str | config.Policy = "fixed",
        cma_pages: int = 0,
        start_pfn: int = 0,
        zone_index: int = 0,
        name: str = "Normal",
        batch: int | None = None,
        high_min: int | None = None,
        high_max: int | None = None,
        stat_threshold: int | None = None,
        watermark: Sequence[int] | None = None,
        llc_pages: int = 512,
    ) -> None:
        chosen = config.policy(policy)
        if pages < 1 or start_pfn < 0:
            raise UsageError(f"a zone has pages and starts at 0 or later, got {pages} pages at pfn {start_pfn}")
        if not 1 <= cpus <= MAX_CPUS:
            raise UsageError(f"cpus is {cpus}, must be 1..{MAX_CPUS}")
        if not 0 <= cma_pages <= pages:
            raise UsageError(f"cma_pages is {cma_pages}, the zone has {pages} pages")
        if cma_pages % PAGEBLOCK_PAGES or (cma_pages and (start_pfn + pages) % PAGEBLOCK_PAGES):
            raise UsageError(
                f"cma_pages is {cma_pages} at the end of a zone that ends at pfn {start_pfn + pages}; "
                f"CMA is made of whole blocks of {PAGEBLOCK_PAGES} pages"
            )
        if stat_threshold is not None and not 0 <= stat_threshold <= 125:
            raise UsageError(f"stat_threshold is {stat_threshold}, must be 0..125")
        explicit = (batch, high_min, high_max)
        if batch is not None and high_min is not None and high_max is not None:
            if batch < 1 or not 0 <= high_min <= high_max:
                raise UsageError(f"need batch >= 1 and 0 <= high_min <= high_max, got {explicit}")
            sizes = explicit
        elif explicit == (None, None, None):
            sizes = None
        else:
            raise UsageError(f"batch, high_min and high_max are given together or not at all, got {explicit}")
        if watermark is None:
            kbytes = max(sizing.min_free_kbytes(pages * 4), sizing.thp_min_free_kbytes(pages, zones=1))
            watermark = sizing.watermarks(pages, pages, kbytes)
        elif len(watermark) != 4:
            raise UsageError(f"watermark is (min, low, high, promo), got {len(watermark)} values")

        size = sizes or sizing.pcp_sizing(pages, cpus, watermark[WMARK_LOW])
        layout = Layout(chosen)
        flags = PCPF_FREE_HIGH_BATCH if llc_pages > 3 * size[0] else 0
        first = start_pfn // (2 * PAGEBLOCK_PAGES) * 2
        last = -(-(start_pfn + pages) // PAGEBLOCK_PAGES)
        memory = Memory(
            start_pfn=start_pfn,
            spanned=pages,
            managed=pages,
            zone_index=zone_index,
            name=name,
            watermark=list(watermark),
            lowmem_reserve=[0, 0, 0, 0, 0],
            pageset=[size[1], size[2], size[0]],
            auto_sizing=sizes is None,
            auto_threshold=stat_threshold is None,
            stat_threshold=sizing.stat_threshold(pages, cpus) if stat_threshold is None else stat_threshold,
            blocks=[Block(MOVABLE) for _ in range(first, last)],
            pcps=[Pcp(*size, [PageList() for _ in range(layout.nr_lists)], flags=flags) for _ in range(cpus)],
        )
        self._assemble(memory, chosen, layout)
        self._boot(cma_pages)

    def _assemble(self, memory: Memory, policy: config.Policy, layout: Layout) -> None:
        """
        Put the parts together over one memory.
        """
        self._policy = policy
        self._layout = layout
        self._memory = memory
        ownership = Ownership(memory)
        pcp_lists = PcpLists(memory, policy, layout)
        tuning = Tuning(memory)
        refill = Refill(memory, policy, buddy := Buddy(memory, ownership), ownership, pcp_lists)
        self._ownership = ownership
        self._buddy = buddy
        self._isolation = Isolation(memory, buddy, ownership)
        self._drain = Drain(memory, policy, layout, buddy, pcp_lists, tuning)
        self._free = Free(memory, policy, buddy, pcp_lists, tuning, self._drain)
        self._alloc = Alloc(memory, buddy, pcp_lists, tuning, refill)

    def _boot(self, cma_pages: int) -> None:
        """
        B-97: all pages in the largest aligned pieces, ascending, each to the tail.
        """
        m = self._memory
        cma_start = m.end_pfn - cma_pages
        pfn = m.start_pfn
        while pfn < m.end_pfn:
            if pfn < cma_start:
                order = min(largest_aligned(pfn), (cma_start - pfn).bit_length() - 1)
            else:
                order = PAGEBLOCK_PAGES.bit_length() - 1
                m.block(pfn).type = CMA
            self._buddy.split_free(pfn, order, to_tail=True)
            pfn += 1 << order
        m.fold(0)
        m.counters = [dict.fromkeys(COUNTERS, 0) for _ in m.pcps]
        check.remember(m)

    @classmethod
    def from_state(cls, state_: Mapping[str, Any], policy: str | config.Policy = "fixed") -> Self:
        """
        The zone that ``state()`` described. Not verified: ``check()`` does that.
        """
        chosen = config.policy(policy)
        layout = Layout(chosen)
        zone = cls.__new__(cls)
        zone._assemble(state.from_state(state_, layout), chosen, layout)
        check.remember(zone._memory)
        return zone

    def state(self) -> dict[str, Any]:
        """
        Everything, as plain values.
        """
        return state.to_state(self._memory, self._layout)

    def snapshot(self) -> object:
        """
        Something that ``restore()`` takes back: state, counters and events.
        """
        return copy.deepcopy(self._memory)

    def restore(self, snapshot: object) -> None:
        """
        Be as at the time of the snapshot.
        """
        if not isinstance(snapshot, Memory):
            raise UsageError(f"restore() takes what snapshot() gave, got {type(snapshot).__name__}")
        self._assemble(copy.deepcopy(snapshot), self._policy, self._layout)

    def check(self) -> None:
        """
        Raise Corruption if an invariant is broken.
        """
        check.check(self._memory, self._layout)

    # What there is

    @property
    def policy(self) -> config.Policy:
        return self._policy

    @property
    def cpus(self) -> int:
        return len(self._memory.pcps)

    @property
    def pages(self) -> int:
        return self._memory.spanned

    @property
    def managed(self) -> int:
        return self._memory.managed

    @property
    def start_pfn(self) -> int:
        return self._memory.start_pfn

    @property
    def zone_index(self) -> int:
        return self._memory.zone_index

    @property
    def name(self) -> str:
        return self._memory.name

    @property
    def flags(self) -> int:
        """
        Zone flags (1.5); may be set.
        """
        return self._memory.flags

    @flags.setter
    def flags(self, flags: int) -> None:
        self._memory.flags = flags

    def counters(self, cpu: int | None = None) -> dict[str, int]:
        """
        Counters of one CPU, or of all together (P-111).
        """
        if cpu is not None:
            self._check_cpu(cpu)
            return dict(self._memory.counters[cpu])
        return {name: sum(counters[name] for counters in self._memory.counters) for name in COUNTERS}

    def events(self) -> list[tuple[Any, ...]]:
        """
        The latest events, oldest first (P-110).
        """
        return list(self._memory.ring or ())

    def trace(self, capacity: int = 65536) -> None:
        """
        Keep the latest ``capacity`` events from now on; 0: none.
        """
        if capacity < 0:
            raise UsageError(f"capacity is {capacity}, must be 0 or more")
        self._memory.ring = deque(maxlen=capacity) if capacity else None

    def watermark_ok(self, order: int, mark: int, aflags: int = 0, hz: int = 0) -> bool:
        """
        B-73, with the visible counters.
        """
        self._check_order(order)
        if not 0 <= hz < len(self._memory.lowmem_reserve):
            raise UsageError(f"hz is {hz}, must be 0..{len(self._memory.lowmem_reserve) - 1}")
        return watermark_ok(self._memory, order, mark, aflags, hz)

    # Operations

    def fail_trylocks(self, mask: int) -> None:
        """
        For the next operation only: bit k set = its k-th trylock fails.
        """
        self._memory.failing = mask

    def alloc(self, order: int = 0, migratetype: int = MOVABLE, cpu: int = 0, aflags: int = -1) -> int:
        """
        B-60; no watermark test here. Returns the first page frame, or raises OutOfPages.
        """
        self._check_request(order, migratetype, cpu)
        flags = default_aflags(migratetype) if aflags == -1 else aflags
        with self._operation(cpu):
            pfn = self._alloc.rmqueue(order, migratetype, flags)
            return self._serve(pfn, order, migratetype)

    def take(self, order: int = 0, migratetype: int = MOVABLE, aflags: int = -1, cpu: int = 0) -> int:
        """
        B-66: past the PCPs, straight from the zone.
        """
        self._check_request(order, migratetype, cpu)
        flags = default_aflags(migratetype) if aflags == -1 else aflags
        with self._operation(cpu):
            pfn = self._buddy.zone_alloc(order, migratetype, flags)
            return self._serve(pfn, order, migratetype)

    def _serve(self, pfn: int | None, order: int, mt: int) -> int:
        if pfn is None:
            self._alloc.failed(order, mt)
            raise OutOfPages(f"zone {self.name} has no run of order {order} for type {mt} under these flags")
        return self._alloc.served(pfn, order, mt)

    def alloc_bulk(self, n: int, migratetype: int = MOVABLE, cpu: int = 0) -> list[int]:
        """
        B-93: up to n pages of order 0; empty if there is none.
        """
        self._check_count(n)
        self._check_request(0, migratetype, cpu)
        with self._operation(cpu):
            pfns = self._alloc.bulk(n, migratetype, self.zone_index)
            if pfns:
                return pfns
            pfn = self._alloc.rmqueue(0, migratetype, default_aflags(migratetype))
            if pfn is None:
                self._alloc.failed(0, migratetype)
                return []
            return [self._alloc.served(pfn, 0, migratetype)]

    def free(self, pfn: int, cpu: int = 0, order: int = -1, irq: bool = False, nolock: bool = False) -> None:
        """
        B-80; nolock: B-92. order -1: whatever the head says.
        """
        self._check_executing(cpu)
        self._check_free(pfn, order)
        with self._operation(cpu):
            self._free.free(pfn, self._free.prepare(pfn), irq=irq, nolock=nolock)

    def free_direct(self, pfn: int, cpu: int = 0, to_tail: bool = False) -> None:
        """
        B-90: past the PCPs, straight into the zone.
        """
        self._check_executing(cpu)
        self._check_free(pfn)
        with self._operation(cpu):
            self._free.direct(pfn, self._free.prepare(pfn), to_tail=to_tail)

    def free_batch(self, pfns: Iterable[int], cpu: int = 0) -> None:
        """
        B-91, P-47: many allocations of any order.
        """
        folios = [int(pfn) for pfn in pfns]
        self._check_executing(cpu)
        check_batch([(self, pfn) for pfn in folios])
        with self._operation(cpu):
            self._free.batch(folios)

    def free_contig(self, pfn: int, n: int, cpu: int = 0) -> None:
        """
        B-94: n allocations of order 0 that lie side by side.
        """
        self._check_count(n)
        self._check_executing(cpu)
        for page in range(pfn, pfn + n):
            self._check_free(page, 0)
        with self._operation(cpu):
            self._free.contig(pfn, n)

    def split(self, pfn: int) -> None:
        """
        Make an allocation one of order 0 for each of its pages.
        """
        order, mt, movable = self._check_free(pfn)
        for page in range(pfn, pfn + (1 << order)):
            self._memory.allocated[page] = Allocation(0, mt, movable)

    def set_movable(self, pfn: int, movable: bool = True) -> None:
        """
        Whether the pages of an allocation are on an LRU list, or movable_ops pages (1.4).
        """
        order, mt, _ = self._check_free(pfn)
        self._memory.allocated[pfn] = Allocation(order, mt, int(movable))

    def drain(
        self, cpu: int | None = None, n: int | None = None, start: int = UNMOVABLE, by: int | None = None
    ) -> None:
        """
        Empty all PCPs, one PCP (B-100), or free about n pages of one, beginning with type ``start`` (P-60).
        """
        if cpu is not None:
            self._check_cpu(cpu)
        if n is not None:
            self._check_count(n)
            if cpu is None:
                raise UsageError(f"a drain of n={n} pages needs the CPU whose pages they are")
        if not 0 <= start < NR_PCP_TYPES:
            raise UsageError(f"start is {start}, must be a type 0..{NR_PCP_TYPES - 1}")
        with self._operation(self._executing(by, cpu)):
            if cpu is None:
                self._drain.drain_all()
            elif n is None:
                self._drain.drain_zone(cpu)
            else:
                self._drain.drain(cpu, n, 0, start)

    def tick(self, cpu: int = 0) -> None:
        """
        The vmstat tick of a CPU (B-101).
        """
        self._check_executing(cpu)
        with self._operation(cpu):
            self._drain.tick(cpu)

    def fold(self, cpu: int = 0) -> None:
        """
        Fold a CPU's counter differences only, as on idle entry (B-17).
        """
        self._check_executing(cpu)
        with self._operation(cpu):
            self._drain.fold(cpu)

    def decay(self, cpu: int = 0) -> None:
        """
        The part of the tick that shrinks the PCP (B-102).
        """
        self._check_executing(cpu)
        with self._operation(cpu):
            self._drain.decay(cpu)

    def offline(self, cpu: int) -> None:
        """
        B-105, P-85: a CPU dies; another one cleans up.
        """
        self._check_executing(cpu)
        m = self._memory
        others = [other for other, pcp in enumerate(m.pcps) if pcp.online and other != cpu]
        if not others:
            raise CpuOffline(f"CPU {cpu} is the last one on-line, it cannot go off-line")
        with self._operation(others[0]):
            m.pcps[cpu].online = 0  # first: from now on nothing is routed to it
            self._drain.drain_zone(cpu)
            m.fold(cpu)
            if self._policy.gate != "never":  # nobody owns blocks otherwise, and mainline has no such scan
                self._ownership.disown_all(cpu)
            self._resize()

    def online(self, cpu: int) -> None:
        """
        B-105: a CPU comes back, with an empty PCP.
        """
        self._check_cpu(cpu)
        if self._memory.pcps[cpu].online:
            raise CpuOffline(f"CPU {cpu} is on-line already")
        with self._operation(self._executing(None, None)):
            self._memory.pcps[cpu].online = 1
            self._resize()

    def _resize(self) -> None:
        """
        B-13, B-16: sizes follow the number of CPUs, unless they were given.
        """
        m = self._memory
        cpus = sum(pcp.online for pcp in m.pcps)
        if m.auto_sizing:
            batch, high_min, high_max = sizing.pcp_sizing(m.managed, cpus, wmark_pages(m, WMARK_LOW))
            if m.pageset != [high_min, high_max, batch]:
                m.pageset = [high_min, high_max, batch]
                for pcp in m.pcps:
                    pcp.high_min, pcp.high_max, pcp.batch = high_min, high_max, batch
        if m.auto_threshold:
            m.stat_threshold = sizing.stat_threshold(m.managed, cpus)

    def isolate(self, pfn: int, cma: bool = False, check: bool = True, by: int | None = None) -> bool:
        """
        B-110 of the block that holds pfn; check=False skips the test for unmovable pages. False: refused.
        """
        self._check_inside(pfn)
        with self._operation(self._executing(by, None)):
            return self._isolation.isolate(pfn, cma, check)

    def unisolate(self, pfn: int, by: int | None = None) -> bool:
        """
        B-111. False if the block is not isolated.
        """
        self._check_inside(pfn)
        with self._operation(self._executing(by, None)):
            return self._isolation.unisolate(pfn)

    def unreserve(self, force: bool = False, migratetype: int = MOVABLE, by: int | None = None) -> bool:
        """
        B-71 for this zone: give one high-atomic block to a type. False: nothing moved.
        """
        self._check_type(migratetype)
        with self._operation(self._executing(by, None)):
            return self._buddy.unreserve(migratetype, force)

    # Arguments

    @contextmanager
    def _operation(self, cpu: int) -> Iterator[None]:
        """
        One operation, executed by ``cpu``; trylocks that were to fail in it are forgotten afterwards.
        """
        m = self._memory
        m.this_cpu, m.tries = cpu, 0
        try:
            yield
        finally:
            m.failing = 0

    def _executing(self, by: int | None, cpu: int | None) -> int:
        """
        The CPU that executes: ``by``, else the CPU that it is about, else the lowest on-line one.
        """
        pcps = self._memory.pcps
        if by is not None:
            self._check_executing(by)
            return by
        if cpu is not None and pcps[cpu].online:
            return cpu
        return next(other for other, pcp in enumerate(pcps) if pcp.online)

    def _check_request(self, order: int, migratetype: int, cpu: int) -> None:
        self._check_order(order)
        self._check_type(migratetype)
        self._check_executing(cpu)

    def _check_order(self, order: int) -> None:
        if not 0 <= order <= MAX_PAGE_ORDER:
            raise UsageError(f"order is {order}, must be 0..{MAX_PAGE_ORDER}")

    def _check_type(self, mt: int) -> None:
        if not 0 <= mt < NR_PCP_TYPES:
            raise UsageError(f"migratetype is {mt}, must be 0..{NR_PCP_TYPES - 1} (Unmovable, Movable, Reclaimable)")

    def _check_count(self, n: int) -> None:
        if n < 1:
            raise UsageError(f"n is {n}, must be at least 1")

    def _check_cpu(self, cpu: int) -> None:
        if not 0 <= cpu < self.cpus:
            raise UsageError(f"cpu is {cpu}, the zone has CPUs 0..{self.cpus - 1}")

    def _check_executing(self, cpu: int) -> None:
        self._check_cpu(cpu)
        if not self._memory.pcps[cpu].online:
            raise CpuOffline(f"CPU {cpu} is off-line")

    def _check_inside(self, pfn: int) -> None:
        m = self._memory
        if not m.start_pfn <= pfn < m.end_pfn:
            raise UsageError(f"pfn {pfn} is outside zone {m.name}, which has {m.start_pfn}..{m.end_pfn - 1}")

    def _check_free(self, pfn: int, order: int = -1) -> Allocation:
        """
        The allocation that begins at pfn, which must be of that order; -1: of any.
        """
        if order != -1:
            self._check_order(order)
        allocation = self._memory.allocated.get(pfn)
        if allocation is None:
            self._refuse(pfn)
        if order not in (-1, allocation.order):
            raise BadFree(f"pfn {pfn} heads an allocation of order {allocation.order}, not of order {order}")
        return allocation

    def _refuse(self, pfn: int) -> NoReturn:
        """
        BadFree, with what is there instead of the head of an allocation.
        """
        m = self._memory
        if not m.start_pfn <= pfn < m.end_pfn:
            raise BadFree(f"pfn {pfn} is outside zone {m.name}, which has {m.start_pfn}..{m.end_pfn - 1}")
        there = "a hole"
        found = m.run_at(pfn)
        deferred = any(head <= pfn < head + (1 << order) for head, order in m.deferred)
        if found is not None:
            head, run = found
            what = "interior" if pfn != head else "head"
            if isinstance(run, Chunk):
                there = f"free in the zone, {what} of the chunk of order {run.order} at {head}"
            elif isinstance(run, Entry):
                there = f"on CPU {run.cpu}'s PCP list, {what} of the entry of order {run.order} at {head}"
            else:
                there = f"interior of the allocation of order {run.order} at {head}"
        elif deferred:
            there = "freed already, it waits on the zone's deferred stack"
        raise BadFree(f"pfn {pfn} is not the head of an allocation: it is {there}")


def check_batch(folios: Sequence[tuple[Zone, int]]) -> None:
    """
    Every folio of a batch is an allocation of its zone, and none comes twice.
    """
    seen: set[int] = set()
    for zone, pfn in folios:
        zone._check_free(pfn)
        if pfn in seen:
            raise BadFree(f"pfn {pfn} comes twice in the batch")
        seen.add(pfn)
