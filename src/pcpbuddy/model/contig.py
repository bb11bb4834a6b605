"""
Contiguous allocation, cma_alloc, and memory that goes off-line and comes on-line (docs/reference/contiguous.md).

What is done under one zone-lock hold is a method of the zone, here; ``Task`` is what a caller does, hold by hold.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from .. import names
from ..contig import ContigResult
from ..errors import BadFree, OutOfPages, UsageError
from . import sizing
from .isolation import Busy, Isolation
from .memory import Allocation, Chunk, Entry, largest_aligned
from .request import Request

if TYPE_CHECKING:
    from .zone import Zone

CLUSTER = 32  # candidates that are tried again together
TRIES = 5
LARGEST_ALIGN = 20
GFP_TARGET = 0x104CC8  # GFP_USER | __GFP_MOVABLE | __GFP_RETRY_MAYFAIL
GFP_LARGE_TARGET = 0x1C64CA  # of a large folio: without __GFP_RECLAIM, then | GFP_TRANSHUGE
GFP_HIGHMEM = 0x2

Move = Callable[[int, int, int], bool | None]


class MigrationEnds(Exception):
    """CT-4: no further page of the range is moved, and it is not tested."""

    def __init__(self, reason: str, pfn: int) -> None:
        super().__init__(reason, pfn)
        self.busy: Busy = reason, pfn


def joined(pieces: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """(first page, pages), ascending: what lies side by side as one."""
    out: list[tuple[int, int]] = []
    for pfn, pages in pieces:
        if out and sum(out[-1]) == pfn:
            pfn, pages = out[-1][0], out.pop()[1] + pages
        out.append((pfn, pages))
    return out


class Contiguous(Isolation):
    """What is done with isolated blocks, and sizes that follow the memory."""

    def first_busy(self, start: int, end: int) -> Busy | None:
        """CT-5: the first page of the range that is not free in the zone, and why."""
        self.count(holds_other=1)
        pfn = start
        while pfn < end:
            found = self.run_at(pfn)
            if found is None or not isinstance(found[1], Chunk):
                return self._what_holds(pfn, found and found[1]), pfn
            pfn = found[0] + (1 << found[1].order)
        return None

    def _what_holds(self, pfn: int, run: Chunk | Entry | Allocation | None) -> str:
        """CT-8."""
        if isinstance(run, Entry):
            found = self.run_at(pfn)
            return "owned" if found and found[0] in self.pcps[run.cpu].marked else "pcp"
        if run is not None:
            return "pinned"
        if any(head <= pfn < head + (1 << order) for head, order in self.remote_runs()):
            return "remote"
        if any(head <= pfn < head + (1 << order) for head, order in self.deferred):
            return "deferred"
        return "hole"

    def capture_block(self, pfn: int, end: int) -> int:
        """CT-6: the free chunks that begin in pfn's block, from pfn on, become single pages. Returns where they end."""
        self.count(holds_other=1)
        end = min(end, (pfn | (names.PAGEBLOCK_PAGES - 1)) + 1)
        while pfn < end:
            chunk = self.chunks[pfn]
            nr_pages = 1 << chunk.order
            self.remove(pfn)
            self.account(-nr_pages, chunk.type)
            self.count(pages_moved=nr_pages)
            self.allocated |= dict.fromkeys(range(pfn, pfn + nr_pages), Allocation(0, names.MOVABLE, 0))
            pfn += nr_pages
        return pfn

    def forget_block(self, index: int) -> None:
        """CT-11, in the hold of B-111: a block without memory is movable, and reserved for nobody."""
        if self.blocks[index].type == names.HIGHATOMIC:
            self.nr_reserved_highatomic -= names.PAGEBLOCK_PAGES
        self.blocks[index].type = names.MOVABLE

    def cma_areas(self) -> list[tuple[int, int]]:
        """CT-9: runs of whole C blocks: (first page, pages)."""
        blocks = (self.block_pfn(index) for index, block in enumerate(self.blocks) if block.type == names.CMA)
        return joined((pfn, names.PAGEBLOCK_PAGES) for pfn in blocks)

    def clear_run(self, pfn: int, end: int, count: int, align: int) -> int | None:
        """CT-9: first fit in what is not handed out."""
        pfn = -(-pfn >> align) << align
        while pfn + count <= end:
            taken = next((page for page in range(pfn, pfn + count) if page in self.claimed), None)
            if taken is None:
                return pfn
            pfn = -(-(taken + 1) >> align) << align
        return None

    # Sizes that follow the memory (CT-10 to CT-12)

    def disable_pcps(self) -> None:
        """B-106, CT-10."""
        self.pcp_disabled = True
        for pcp in self.pcps:
            pcp.high_min, pcp.high_max, pcp.batch = 0, 0, 1

    def enable_pcps(self) -> None:
        self.pcp_disabled = False
        for pcp in self.pcps:
            pcp.high_min, pcp.high_max, pcp.batch = self.pageset

    def managed_changed(self, nr_pages: int) -> None:
        """Memory came, or went."""
        self.managed += nr_pages
        self.populated += nr_pages
        if self.auto_watermark:
            self.watermark = sizing.zone_watermarks(self.managed)
        self.resize()

    def resize(self) -> None:
        """B-13, B-16: sizes follow the number of CPUs and the memory, unless they were given."""
        cpus = sum(pcp.online for pcp in self.pcps)
        if self.auto_threshold:
            self.stat_threshold = sizing.stat_threshold(self.managed, cpus)
        batch, high_min, high_max = sizing.pcp_sizing(self.managed, cpus, self.wmark(names.WMARK_LOW))
        if self.auto_sizing and self.pageset != [high_min, high_max, batch]:
            self.pageset = [high_min, high_max, batch]
            if not self.pcp_disabled:
                self.enable_pcps()


class Face:
    """Of a zone or a node; what each does with its arguments is told in contiguous.md."""

    def members(self) -> "Sequence[Zone]":
        """The zones that pages of contiguous ranges may move to."""
        raise NotImplementedError

    def alloc_contig_range(
        self, start: int, end: int, *, cma: bool = False, move: Move | None = None, cpu: int = 0
    ) -> ContigResult:
        """B-112: pages [start, end); what is movable there moves to elsewhere in these zones."""
        return Task(self.members(), cpu, move).alloc_contig_range(start, end, cma)

    def cma_alloc(
        self, count: int, align: int = 0, *, area: int = 0, move: Move | None = None, cpu: int = 0
    ) -> ContigResult:
        """CT-9: pages of a CMA area, the first pfn a multiple of 2^align."""
        return Task(self.members(), cpu, move).cma_alloc(count, align, area)

    def cma_release(self, pfn: int, count: int, cpu: int = 0) -> None:
        """CT-9."""
        Task(self.members(), cpu).cma_release(pfn, count)

    def offline_pages(self, start: int, pages: int, *, move: Move | None = None, cpu: int = 0) -> ContigResult:
        """CT-11: whole pageblocks go off-line."""
        return Task(self.members(), cpu, move).offline_pages(start, pages)

    def online_pages(self, start: int, pages: int, cpu: int = 0) -> None:
        """CT-12: they come back."""
        Task(self.members(), cpu).online_pages(start, pages)


class Task:
    """
    A caller on one CPU, with the zones of its node, who moves pages by ``move`` (None: all moves are granted).
    """

    def __init__(self, zones: "Sequence[Zone]", cpu: int, move: Move | None = None) -> None:
        zones[0].check_online(cpu)
        self.zones = list(zones)
        self.cpu = cpu
        self.move = move
        self.migrated = 0
        self.refused = 0
        self.tried: list[tuple[int, int, str, int | None]] = []
        self.error: BaseException | None = None  # what ``move`` raised: it comes out when all is put back

    # What is asked for

    def alloc_contig_range(self, start: int, end: int, cma: bool) -> ContigResult:
        """CT-1 to CT-8."""
        zone = self._begin(start, end)
        if cma and not zone.claimed.isdisjoint(range(start, end)):
            raise UsageError(f"pages {start}..{end - 1}: some were handed out by cma_alloc")
        return self._result(start, self._range(zone, start, end, cma))

    def cma_alloc(self, count: int, align: int, area: int) -> ContigResult:
        """CT-9."""
        areas = [(zone, *found) for zone in self.zones for found in zone.cma_areas()]
        if not 0 <= area < len(areas):
            raise UsageError(f"area is {area}: there are {len(areas)} CMA areas")
        if count < 1 or not 0 <= align <= LARGEST_ALIGN:
            raise UsageError(f"count is {count}, align {align}: must be at least 1, and 0..{LARGEST_ALIGN}")
        zone, base, pages = areas[area]
        self._begin(base, base + pages)
        pfn = zone.clear_run(base, base + pages, count, align)
        busy: Busy | None = None
        while pfn is not None:
            busy = self._range(zone, pfn, pfn + count, True)
            if busy is None:
                zone.claimed |= set(range(pfn, pfn + count))
                return self._result(pfn, None)
            if busy[0] == "no_memory" or self.error is not None:
                break
            pfn = zone.clear_run(pfn + (1 << align), base + pages, count, align)
        if busy is None:
            zone.count(contig_no_run=1)
        return self._result(base, busy or ("no_run", None))

    def cma_release(self, pfn: int, count: int) -> None:
        zone = self._begin(pfn, pfn + count)
        run = range(pfn, pfn + count)
        if not zone.claimed.issuperset(run):
            raise UsageError(f"pages {pfn}..{pfn + count - 1} were not all handed out by cma_alloc")
        zone.free_range(pfn, pfn + count)
        zone.claimed -= set(run)

    def offline_pages(self, start: int, pages: int) -> ContigResult:
        """CT-11."""
        zone = self._begin(start, start + pages, whole=True)
        zone.disable_pcps()
        busy = self._range(zone, start, start + pages, False, rounds=TRIES)
        if busy is None:
            zone.managed_changed(-pages)
        zone.enable_pcps()
        return self._result(start, busy)

    def online_pages(self, start: int, pages: int) -> None:
        """CT-12."""
        zone = self._begin(start, start + pages, whole=True)
        for pfn in range(start, start + pages):
            there = zone.run_at(pfn)
            if there is not None or zone.is_on_its_way(pfn):
                raise UsageError(f"pfn {pfn} is on-line")
        pfn = start
        while pfn < start + pages:
            order = largest_aligned(pfn, start + pages)
            zone.free_past_pcp(pfn, order, to_tail=True)
            pfn += 1 << order
        zone.managed_changed(pages)

    def _begin(self, start: int, end: int, whole: bool = False) -> "Zone":
        """The zone that has all of these pages; an operation begins in every zone."""
        for zone in self.zones:
            if zone.start_pfn <= start < end <= zone.end_pfn:
                break
        else:
            raise UsageError(f"pages {start}..{end - 1} are not one page or more, all in one zone")
        if whole and (start | end) % names.PAGEBLOCK_PAGES:
            raise UsageError(f"pages {start}..{end - 1} are not whole pageblocks")
        for each in self.zones:
            each.begin(self.cpu)
        return zone

    def _result(self, pfn: int, busy: tuple[str, int | None] | None) -> ContigResult:
        if self.error is not None:
            raise self.error
        reason, page = busy or ("", None)
        return ContigResult(None if busy else pfn, reason, page, self.migrated, self.refused, tuple(self.tried))

    # One range

    def _range(self, zone: "Zone", start: int, end: int, cma: bool, rounds: int = 0) -> Busy | None:
        """CT-2 to CT-8; with ``rounds`` the drain, the migration and the test are repeated: memory goes off-line."""
        blocks = range(zone.block_index(start), zone.block_index(end - 1) + 1)
        isolated: list[int] = []
        busy = self._isolate(zone, blocks, cma, isolated)
        if busy is None:
            busy = self._empty(zone, start, end, max(rounds, 1))
        if busy is None:
            self._capture(zone, start, end)
        gone = busy is None and rounds > 0
        for pfn in range(start, end) if gone else ():
            del zone.allocated[pfn]
        for index in sorted(isolated):
            zone.unisolate_block(index)
            if gone:
                zone.forget_block(index)
        reason = busy[0] if busy else ""
        self.tried.append((start, end, reason, busy[1] if busy else None))
        zone.count(**{f"contig_{reason or 'ok'}": 1}, contig_pages=0 if busy or rounds else end - start)
        return busy

    def _isolate(self, zone: "Zone", blocks: range, cma: bool, isolated: list[int]) -> Busy | None:
        """CT-2."""
        ends = list(dict.fromkeys((blocks[0], blocks[-1])))
        for index in [*ends, *blocks[1:-1]]:
            busy = zone.try_to_isolate(index, cma, check=True)
            if busy is not None:
                return busy
            isolated.append(index)
        return None

    def _empty(self, zone: "Zone", start: int, end: int, rounds: int) -> Busy | None:
        """CT-3 to CT-5."""
        busy: Busy | None = None
        for _ in range(rounds):
            zone.drain_all()
            try:
                self._migrate(zone, start, end)
            except MigrationEnds as ended:
                return ended.busy
            busy = zone.first_busy(start, end)
            if busy is None:
                break
        return busy

    def _migrate(self, zone: "Zone", start: int, end: int) -> None:
        """CT-4. What is in the way the test finds."""
        cluster, refused = start, 0
        while cluster < end and not refused:
            stop, refused = self._pass(zone, cluster, end, CLUSTER)
            for _ in range(TRIES - 1):
                if refused:
                    _, refused = self._pass(zone, cluster, stop, stop - cluster)
            cluster = stop

    def _pass(self, zone: "Zone", start: int, end: int, limit: int) -> tuple[int, int]:
        """Candidates up to ``end`` or to their limit: where that is, and how many pages ``move`` refused."""
        found = refused = 0
        pfn = start
        while pfn < end and found < limit:
            allocation = zone.allocated.get(pfn)  # as it is now: nothing is locked, and ``move`` may free others
            if allocation is None or not allocation.movable:
                pfn += 1
                continue
            found += 1
            refused += not self._move(zone, pfn, allocation.order)
            pfn += 1 << allocation.order
        return min(pfn, end), refused

    def _move(self, zone: "Zone", pfn: int, order: int) -> bool:
        """One page: was it moved?"""
        gfp = (GFP_LARGE_TARGET if order else GFP_TARGET) | (GFP_HIGHMEM if zone.name == "Movable" else 0)
        try:
            target = Request(self.zones, order, gfp).alloc()
        except OutOfPages:
            raise MigrationEnds("no_memory", pfn) from None
        to = next(one for one in self.zones if one.start_pfn <= target < one.end_pfn)
        to.allocated[target] = to.allocated[target]._replace(movable=1)
        moved = self._agreed(pfn, target, order)
        where, what = (zone, pfn) if moved else (to, target)
        if where.allocated.get(what, Allocation(-1, 0, 0)).order == order:
            where.free_prepared(what, where.prepare(what))
        elif self.error is None:
            self.error = BadFree(f"move freed pfn {what} itself")
        self.migrated += moved << order
        self.refused += not moved
        zone.count(pages_migrated=moved << order, migrations_refused=int(not moved))
        if self.error is not None:
            raise MigrationEnds("pinned", pfn)
        return moved

    def _agreed(self, pfn: int, target: int, order: int) -> bool:
        """What ``move`` says; that it raises is a refusal, and the last that it is asked for."""
        try:
            answer = True if self.move is None else self.move(pfn, target, order)
        except BaseException as error:
            self.error = error
            return False
        finally:
            for zone in self.zones:  # whatever the holder did there, by whichever CPU
                zone.this_cpu = self.cpu
        return answer is None or bool(answer)

    def _capture(self, zone: "Zone", start: int, end: int) -> None:
        """CT-6."""
        found = zone.run_at(start)
        assert found is not None, "CT-5 has found everything free"
        first = pfn = found[0]
        while pfn < end:
            pfn = zone.capture_block(pfn, end)
        if first < start:
            zone.free_range(first, start)
        if pfn > end:
            zone.free_range(end, pfn)
