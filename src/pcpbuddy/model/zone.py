"""
``Zone``: one zone with its PCPs, as a user sees it. Arguments are checked here and trusted below.
"""

import copy
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn, Self

from .. import config, names
from ..errors import BadFree, Corruption, CpuOffline, OutOfPages, UsageError
from . import check, sizing, state
from .contig import Contiguous, Face
from .memory import COUNTERS, PB, Allocation, Block, Chunk, Entry, Memory, PageList, Pcp, largest_aligned
from .paths import default_aflags


class Zone(Contiguous, Face):
    """
    A zone and its per-CPU lists, driven one operation at a time.

    batch, high_min, high_max: given together they fix the PCPs' sizing (else B-12, B-13).
    stat_threshold: given, it fixes the drift of the counters (else B-16).
    llc_pages: one CPU's share of the last-level cache (B-14).

    ``cpu`` and ``by`` are the CPU that executes; ``by`` is by default the CPU that an operation is about
    if that is on-line, else the lowest on-line one.
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
        end_pfn = start_pfn + pages
        given = [size for size in (batch, high_min, high_max) if size is not None]
        _require(pages >= 1, f"pages is {pages}, must be at least 1")
        _require(start_pfn >= 0, f"start_pfn is {start_pfn}, must be at least 0")
        _require(1 <= cpus <= names.MAX_CPUS, f"cpus is {cpus}, must be 1..{names.MAX_CPUS}")
        _require(0 <= cma_pages <= pages, f"cma_pages is {cma_pages}, must be 0..{pages}")
        whole = not cma_pages or cma_pages % names.PAGEBLOCK_PAGES == end_pfn % names.PAGEBLOCK_PAGES == 0
        _require(
            whole, f"cma_pages is {cma_pages} up to pfn {end_pfn}, must be whole blocks of {names.PAGEBLOCK_PAGES}"
        )
        _require(len(given) in (0, 3), "batch, high_min and high_max are given together or not at all")
        _require(not given or (given[0] >= 1 and 0 <= given[1] <= given[2]), f"batch, high_min, high_max are {given}")
        _require(0 <= (stat_threshold or 0) <= 125, f"stat_threshold is {stat_threshold}, must be 0..125")
        _require(watermark is None or len(watermark) == 4, "watermark is (min, low, high, promo)")
        marks = sizing.zone_watermarks(pages) if watermark is None else list(watermark)
        sizes = given or sizing.pcp_sizing(pages, cpus, marks[names.WMARK_LOW])
        flags = names.PCPF_FREE_HIGH_BATCH if llc_pages > 3 * sizes[0] else 0
        super().__init__(
            policy=chosen,
            start_pfn=start_pfn,
            spanned=pages,
            managed=pages,
            zone_index=zone_index,
            name=name,
            watermark=marks,
            auto_watermark=watermark is None,
            lowmem_reserve=[0, 0, 0, 0, 0],
            pageset=[sizes[1], sizes[2], sizes[0]],
            auto_sizing=not given,
            auto_threshold=stat_threshold is None,
            stat_threshold=sizing.stat_threshold(pages, cpus) if stat_threshold is None else stat_threshold,
            blocks=[],
            pcps=[
                Pcp(sizes[0], sizes[1], sizes[2], [PageList() for _ in range(chosen.pcp_lists)], flags=flags)
                for _ in range(cpus)
            ],
        )
        self.blocks = [Block(names.MOVABLE) for _ in range(self.block_index(end_pfn - 1) + 1)]
        self._boot(end_pfn - cma_pages)

    def _boot(self, cma_start: int) -> None:
        """B-97: all pages in the largest aligned pieces, ascending, each to the tail."""
        pfn = self.start_pfn
        while pfn < self.end_pfn:
            order = largest_aligned(pfn, cma_start) if pfn < cma_start else PB
            if pfn >= cma_start:
                self.block(pfn).type = names.CMA
            self.split_free(pfn, order, to_tail=True)
            pfn += 1 << order
        self.fold_stat(0)
        self.books = [dict.fromkeys(COUNTERS, 0) for _ in self.pcps]
        check.remember(self)

    @classmethod
    def from_state(cls, values: Mapping[str, Any], policy: str | config.Policy = "fixed") -> Self:
        """The zone that ``state()`` described. Not verified: ``check()`` does that."""
        zone = cls.__new__(cls)
        Memory.__init__(zone, **state.fields(values, config.policy(policy)))
        state.fill(zone, values)
        check.remember(zone)
        return zone

    def state(self) -> dict[str, Any]:
        """Everything, as plain values."""
        return state.to_state(self)

    def snapshot(self) -> object:
        """What ``restore()`` takes back."""
        return copy.deepcopy(vars(self))

    def restore(self, snapshot: Any) -> None:
        """Be as at the time of the snapshot, counters and events included."""
        vars(self).update(copy.deepcopy(snapshot))

    def check(self) -> None:
        """Raise Corruption for the first broken invariant."""
        for violation in check.violations(self):
            raise Corruption(violation)

    def members(self) -> "Sequence[Zone]":
        return [self]

    @property
    def cpus(self) -> int:
        return len(self.pcps)

    @property
    def pages(self) -> int:
        return self.spanned

    def counters(self, cpu: int | None = None) -> dict[str, int]:
        """Counters of one CPU, or of all together (P-111)."""
        if cpu is not None:
            self._check_cpu(cpu)
        books = self.books if cpu is None else [self.books[cpu]]
        return {counter: sum(book[counter] for book in books) for counter in COUNTERS}

    def trace(self, capacity: int = 65536) -> None:
        """Keep the latest ``capacity`` events from now on; 0: none."""
        _require(capacity >= 0, f"capacity is {capacity}, must be at least 0")
        self.ring = deque(maxlen=capacity)

    def events(self) -> list[tuple[Any, ...]]:
        """The latest events, oldest first (P-110)."""
        return list(self.ring)

    def watermark_ok(self, order: int, mark: int, aflags: int = 0, hz: int = 0) -> bool:
        """B-73, with the visible counters."""
        _check_order(order)
        _require(0 <= hz < len(self.lowmem_reserve), f"hz is {hz}, must be 0..{len(self.lowmem_reserve) - 1}")
        return super().watermark_ok(order, mark, aflags, hz)

    # Operations

    def fail_trylocks(self, mask: int) -> None:
        """For the next operation only: bit k set = its k-th trylock fails."""
        self.to_fail = mask

    def begin(self, cpu: int) -> None:
        """An operation begins, executed by ``cpu``."""
        self.this_cpu, self.tries = cpu, 0
        self.failing, self.to_fail = self.to_fail, 0

    def alloc(self, order: int = 0, migratetype: int = names.MOVABLE, cpu: int = 0, aflags: int = -1) -> int:
        """B-60; no watermark test here. OutOfPages if there is nothing."""
        return self._alloc(self.rmqueue, order, migratetype, cpu, aflags)

    def take(
        self, order: int = 0, migratetype: int = names.MOVABLE, aflags: int = names.WMARK_LOW, cpu: int = 0
    ) -> int:
        """B-66: past the PCPs."""
        return self._alloc(self.zone_alloc, order, migratetype, cpu, aflags)

    def _alloc(self, path: Callable[[int, int, int], int | None], order: int, mt: int, cpu: int, aflags: int) -> int:
        self.check_request(order, mt, cpu)
        self.begin(cpu)
        pfn = path(order, mt, default_aflags(mt) if aflags == -1 else aflags)
        self.answer(pfn, order, mt)
        if pfn is None:
            raise OutOfPages(f"zone {self.name} has no run of order {order} for type {mt} under these flags")
        return pfn

    def alloc_bulk(self, n: int, migratetype: int = names.MOVABLE, cpu: int = 0) -> list[int]:
        """B-93: up to n pages of order 0."""
        _check_count(n)
        self.check_request(0, migratetype, cpu)
        self.begin(cpu)
        pfns = self.bulk(n, migratetype, self.zone_index)
        if not pfns:
            pfn = self.rmqueue(0, migratetype, default_aflags(migratetype))
            self.answer(pfn, 0, migratetype)
            pfns = [pfn] if pfn is not None else []
        return pfns

    def free(self, pfn: int, cpu: int = 0, order: int = -1, irq: bool = False, nolock: bool = False) -> None:
        """B-80; nolock: B-92. order -1: whatever the head says."""
        self.check_online(cpu)
        self.check_freeable(pfn, order)
        self.begin(cpu)
        self.free_prepared(pfn, self.prepare(pfn), irq=irq, nolock=nolock)

    def free_direct(self, pfn: int, cpu: int = 0, to_tail: bool = False) -> None:
        """B-90: past the PCPs."""
        self.check_online(cpu)
        self.check_freeable(pfn)
        self.begin(cpu)
        self.free_past_pcp(pfn, self.prepare(pfn), to_tail=to_tail)

    def free_batch(self, pfns: Iterable[int], cpu: int = 0) -> None:
        """B-91, P-47: allocations of any order, in groups."""
        folios = [int(pfn) for pfn in pfns]
        self.check_online(cpu)
        check_batch([(self, pfn) for pfn in folios])
        self.begin(cpu)
        for first in range(0, len(folios), names.FOLIO_BATCH):
            self.free_group(folios[first : first + names.FOLIO_BATCH])

    def free_contig(self, pfn: int, n: int, cpu: int = 0) -> None:
        """B-94: n allocations of order 0, side by side."""
        _check_count(n)
        self.check_online(cpu)
        for page in range(pfn, pfn + n):
            self.check_freeable(page, 0)
        self.begin(cpu)
        self.free_range(pfn, pfn + n)

    def split(self, pfn: int) -> None:
        """Make an allocation one of order 0 for each of its pages."""
        order, mt, movable = self.check_allocated(pfn)
        self.allocated |= dict.fromkeys(range(pfn, pfn + (1 << order)), Allocation(0, mt, movable))

    def set_movable(self, pfn: int, movable: bool = True) -> None:
        """Whether the pages of an allocation are lru or movable_ops (1.4)."""
        self.allocated[pfn] = self.check_allocated(pfn)._replace(movable=int(movable))

    def drain(self, cpu: int | None = None, n: int | None = None, start: int = 0, by: int | None = None) -> None:
        """Empty all PCPs or one (B-100), or free about n pages of one, beginning with type ``start`` (P-60)."""
        if cpu is not None:
            self._check_cpu(cpu)
        if n is not None:
            _check_count(n)
            _require(cpu is not None, f"a drain of n={n} pages needs the CPU whose pages they are")
        _check_type(start, "start")
        self.begin(self._executing(by, cpu))
        if cpu is None:
            self.drain_all()
        elif n is None:
            self.drain_zone(cpu)
        else:
            self.drain_some(cpu, n, start)

    def tick(self, cpu: int = 0) -> None:
        """The vmstat tick of a CPU (B-101)."""
        self._enter(cpu)
        self.vmstat_tick(cpu)

    def fold(self, cpu: int = 0) -> None:
        """A CPU's counter differences only, as on idle entry (B-17)."""
        self._enter(cpu)
        self.fold_cpu(cpu)

    def decay(self, cpu: int = 0) -> None:
        """The part of the tick that shrinks the PCP (B-102)."""
        self._enter(cpu)
        self.decay_pcp(cpu)

    def offline(self, cpu: int) -> None:
        """B-105, P-85: a CPU dies, the lowest other one cleans up."""
        self.check_online(cpu)
        others = [other for other, pcp in enumerate(self.pcps) if pcp.online and other != cpu]
        if not others:
            raise CpuOffline(f"CPU {cpu} is the last one on-line, it cannot go off-line")
        self.begin(others[0])
        self.pcps[cpu].online = 0  # first: from now on nothing is routed to it
        self.flush_outboxes(cpu)
        self.drain_zone(cpu)
        self.fold_stat(cpu)
        if self.policy.owns:  # otherwise nobody does, and the baseline has no such scan
            self.disown_all(cpu)
        self.resize()

    def online(self, cpu: int) -> None:
        """B-105: a CPU comes back, with an empty PCP."""
        self._check_cpu(cpu)
        if self.pcps[cpu].online:
            raise CpuOffline(f"CPU {cpu} is on-line already")
        self.begin(self._executing(None))
        self.pcps[cpu].online = 1
        self.resize()

    def isolate(self, pfn: int, cma: bool = False, check: bool = True, by: int | None = None) -> bool:
        """B-110 of the block that holds pfn; check=False skips the test for unmovable pages. False: refused."""
        self._check_inside(pfn)
        self.begin(self._executing(by))
        return self.isolate_block(self.block_index(pfn), cma, check)

    def unisolate(self, pfn: int, by: int | None = None) -> bool:
        """B-111. False if the block is not isolated."""
        self._check_inside(pfn)
        self.begin(self._executing(by))
        return self.unisolate_block(self.block_index(pfn))

    def unreserve(self, force: bool = False, migratetype: int = names.MOVABLE, by: int | None = None) -> bool:
        """B-71 for this zone. False: nothing moved."""
        _check_type(migratetype)
        self.begin(self._executing(by))
        return self.give_back_reserve(migratetype, force)

    # Arguments

    def _enter(self, cpu: int) -> None:
        self.check_online(cpu)
        self.begin(cpu)

    def _executing(self, by: int | None, cpu: int | None = None) -> int:
        if by is not None:
            self.check_online(by)
            return by
        if cpu is not None and self.pcps[cpu].online:
            return cpu
        return next(other for other, pcp in enumerate(self.pcps) if pcp.online)

    def check_request(self, order: int, migratetype: int, cpu: int) -> None:
        _check_order(order)
        _check_type(migratetype)
        self.check_online(cpu)

    def _check_cpu(self, cpu: int) -> None:
        _require(0 <= cpu < self.cpus, f"cpu is {cpu}, must be 0..{self.cpus - 1}")

    def check_online(self, cpu: int) -> None:
        self._check_cpu(cpu)
        if not self.pcps[cpu].online:
            raise CpuOffline(f"CPU {cpu} is off-line")

    def _check_inside(self, pfn: int) -> None:
        inside = self.start_pfn <= pfn < self.end_pfn
        _require(inside, f"pfn {pfn} is outside zone {self.name}, which has {self.start_pfn}..{self.end_pfn - 1}")

    def check_allocated(self, pfn: int, order: int = -1) -> Allocation:
        """The allocation that begins at pfn and is of that order; -1: of any."""
        if order != -1:
            _check_order(order)
        allocation = self.allocated.get(pfn)
        if allocation is None:
            self._refuse(pfn)
        if order not in (-1, allocation.order):
            raise BadFree(f"pfn {pfn} heads an allocation of order {allocation.order}, not of order {order}")
        return allocation

    def check_freeable(self, pfn: int, order: int = -1) -> None:
        """The same, and cma_alloc has not handed it out."""
        self.check_allocated(pfn, order)
        if pfn in self.claimed:
            raise BadFree(f"pfn {pfn} was handed out by cma_alloc, so cma_release gives it back")

    def _refuse(self, pfn: int) -> NoReturn:
        """BadFree, with what is there instead."""
        there = "a hole"
        found = self.run_at(pfn)
        if not self.start_pfn <= pfn < self.end_pfn:
            there = f"outside zone {self.name}, which has {self.start_pfn}..{self.end_pfn - 1}"
        elif found is not None:
            head, run = found
            part = f"{'interior' if pfn != head else 'head'} of the run of order {run.order} at {head}"
            if isinstance(run, Chunk):
                there = f"free in the zone, {part}"
            else:
                there = f"on CPU {run.cpu}'s PCP list, {part}" if isinstance(run, Entry) else f"{part}, an allocation"
        elif any(head <= pfn < head + (1 << order) for head, order in self.deferred):
            there = "freed already, on the zone's deferred stack"
        elif any(head <= pfn < head + (1 << order) for head, order in self.remote_runs()):
            there = "freed already, on its way to the PCP of the CPU that owns its block"
        raise BadFree(f"pfn {pfn} is not the head of an allocation: it is {there}")


def _require(ok: bool, text: str) -> None:
    if not ok:
        raise UsageError(text)


def _check_order(order: int) -> None:
    _require(0 <= order <= names.MAX_PAGE_ORDER, f"order is {order}, must be 0..{names.MAX_PAGE_ORDER}")


def _check_type(mt: int, argument: str = "migratetype") -> None:
    _require(0 <= mt < names.NR_PCP_TYPES, f"{argument} is {mt}, must be 0 Unmovable, 1 Movable or 2 Reclaimable")


def _check_count(n: int) -> None:
    _require(n >= 1, f"n is {n}, must be at least 1")


def check_batch(folios: Iterable[tuple[Zone, int]]) -> None:
    """Every folio of a batch is an allocation of its zone, and none comes twice."""
    seen: set[int] = set()
    for zone, pfn in folios:
        zone.check_freeable(pfn)
        if pfn in seen:
            raise BadFree(f"pfn {pfn} comes twice in the batch")
        seen.add(pfn)
