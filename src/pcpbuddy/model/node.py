"""
``Node``: several zones, and the choice between them (sections 8 and 9).

A system of one NUMA node. What B-28, B-76 (a), B-93 and B-103 say of several is the core's alone (request.pxd).
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, Self

from .. import config, names
from ..errors import BadFree, OutOfPages, UsageError
from .paths import default_aflags
from .zone import Zone, check_batch

ZONE_INDEX = {"DMA": 0, "DMA32": 1, "Normal": 2, "Movable": 3}  # a zone is recognised by its name
HIGHEST_ZONE = {0x0: 2, 0x8: 2, 0x1: 0, 0x9: 0, 0x4: 1, 0xC: 1, 0x2: 2, 0xA: 3}  # by the low four gfp bits (B-26)

HIGH, DIRECT_RECLAIM = names.GFP_BITS["__GFP_HIGH"], names.GFP_BITS["__GFP_DIRECT_RECLAIM"]
KSWAPD_RECLAIM, NOMEMALLOC = names.GFP_BITS["__GFP_KSWAPD_RECLAIM"], names.GFP_BITS["__GFP_NOMEMALLOC"]

Found = tuple[Zone, int]


class Node:
    """The zones of one node, ascending by index."""

    def __init__(self, zones: Sequence[Zone]) -> None:
        if not zones or any(zone.name not in ZONE_INDEX for zone in zones):
            raise UsageError(f"a node has zones called {', '.join(ZONE_INDEX)}, got {[zone.name for zone in zones]}")
        if len({zone.cpus for zone in zones}) > 1:
            raise UsageError(f"all zones of a node have the same CPUs, got {[zone.cpus for zone in zones]}")
        self.zones = list(zones)

    @classmethod
    def from_state(cls, state: Mapping[str, Any], policy: str | config.Policy = "fixed") -> Self:
        """A node of {"cpus": n, "zones": [state, ...]}."""
        return cls([Zone.from_state(zone, policy) for zone in state["zones"]])

    def state(self) -> dict[str, Any]:
        """What from_state() takes."""
        return {"cpus": self.cpus, "zones": [zone.state() for zone in self.zones]}

    @property
    def cpus(self) -> int:
        return self.zones[0].cpus

    def zone_of(self, pfn: int) -> Zone:
        """The zone that holds a page; BadFree if none does."""
        for zone in self.zones:
            if zone.start_pfn <= pfn < zone.end_pfn:
                return zone
        spans = ", ".join(f"{zone.start_pfn}..{zone.end_pfn - 1}" for zone in self.zones)
        raise BadFree(f"pfn {pfn} is outside every zone; there are {spans}")

    def alloc(self, order: int = 0, gfp: int = names.GFP_HIGHUSER_MOVABLE, cpu: int = 0) -> int:
        """B-75, and of the slow path what touches the allocator (section 9). OutOfPages if there is nothing."""
        return self._request(order, gfp, cpu).alloc()

    def alloc_bulk(self, n: int, gfp: int = names.GFP_HIGHUSER_MOVABLE, cpu: int = 0) -> list[int]:
        """B-93, from the first zone that has LOW + n pages to spare; else one ordinary allocation."""
        if n < 1:
            raise UsageError(f"n is {n}, must be at least 1")
        return self._request(0, gfp, cpu).alloc_bulk(n)

    def _request(self, order: int, gfp: int, cpu: int) -> "Request":
        if names.gfp_migratetype(gfp) == 3:
            raise UsageError(f"gfp {gfp:#x} has __GFP_MOVABLE and __GFP_RECLAIMABLE, a migratetype is one of them")
        if gfp & 0xF not in HIGHEST_ZONE:
            raise UsageError(f"gfp {gfp:#x} names more than one zone in its low four bits (B-26)")
        self.zones[0].check_request(order, names.gfp_migratetype(gfp), cpu)
        for zone in self.zones:
            zone.begin(cpu)
        return Request(self.zones, order, gfp)

    # Everything else is what Zone says of it, in the zone of the page or in every zone, ascending

    def free(self, pfn: int, cpu: int = 0, order: int = -1, irq: bool = False, nolock: bool = False) -> None:
        self.zone_of(pfn).free(pfn, cpu, order, irq, nolock)

    def free_batch(self, pfns: Iterable[int], cpu: int = 0) -> None:
        """B-91; folios of one zone that follow each other are one batch."""
        folios = [(self.zone_of(int(pfn)), int(pfn)) for pfn in pfns]
        self.zones[0].check_online(cpu)
        check_batch(folios)
        for zone, batch in groupby(folios, key=lambda folio: folio[0]):
            zone.free_batch([pfn for _, pfn in batch], cpu)

    def free_contig(self, pfn: int, n: int, cpu: int = 0) -> None:
        self.zone_of(pfn).free_contig(pfn, n, cpu)

    def split(self, pfn: int) -> None:
        self.zone_of(pfn).split(pfn)

    def drain(self, cpu: int | None = None) -> None:
        for zone in self.zones:
            zone.drain(cpu)

    def tick(self, cpu: int = 0) -> None:
        for zone in self.zones:
            zone.tick(cpu)

    def fold(self, cpu: int = 0) -> None:
        for zone in self.zones:
            zone.fold(cpu)

    def decay(self, cpu: int = 0) -> None:
        for zone in self.zones:
            zone.decay(cpu)

    def offline(self, cpu: int) -> None:
        for zone in self.zones:
            zone.offline(cpu)

    def online(self, cpu: int) -> None:
        for zone in self.zones:
            zone.online(cpu)


class Request:
    """One request on its way through the zones that it may use, best first (B-26)."""

    def __init__(self, zones: Sequence[Zone], order: int, gfp: int) -> None:
        self.zones = zones
        self.order = order
        self.gfp = gfp
        self.mt = names.gfp_migratetype(gfp)
        self.hz = HIGHEST_ZONE[gfp & 0xF]
        self.zonelist = [zone for zone in reversed(zones) if ZONE_INDEX[zone.name] <= self.hz]

    def alloc(self) -> int:
        if not self.zonelist:
            raise OutOfPages(f"the node has no zone that gfp {self.gfp:#x} may use")
        found = self._fast_path() or self._slow_path()
        if found is None:
            self.zonelist[0].answer(None, self.order, self.mt)
            raise OutOfPages(f"no zone has a run of order {self.order} for gfp {self.gfp:#x} under its watermarks")
        zone, pfn = found
        zone.answer(pfn, self.order, self.mt)
        return pfn

    def alloc_bulk(self, n: int) -> list[int]:
        pfns: list[int] = []
        for zone in self.zonelist:
            if zone.watermark_fast(0, zone.wmark(names.WMARK_LOW) + n, default_aflags(self.mt), self.hz):
                pfns = zone.bulk(n, self.mt, self.hz)
                break
        try:
            return pfns or [self.alloc()]
        except OutOfPages:
            return []

    def _fast_path(self) -> Found | None:
        """B-28, B-76: the other zones are tried before the preferred one is fragmented."""
        aflags = default_aflags(self.mt) | self._common_aflags()
        found = None
        if self.zonelist[0].name == "Normal":
            found = self._walk(aflags | names.ALLOC_NOFRAGMENT)
        return found or self._walk(aflags)

    def _common_aflags(self) -> int:
        """What B-28 and B-29 share."""
        aflags = names.ALLOC_KSWAPD if self.gfp & KSWAPD_RECLAIM else 0
        if self.order > 0 and self.gfp & HIGH and not self.gfp & (DIRECT_RECLAIM | NOMEMALLOC):
            aflags |= names.ALLOC_HIGHATOMIC
        return aflags

    def _slow_path(self) -> Found | None:
        """Section 9 without reclaim: B-29 flags, then what is parked or reserved is given back."""
        aflags = default_aflags(self.mt) & ~names.WMARK_LOW | names.WMARK_MIN | self._common_aflags()
        if self.gfp & HIGH:
            aflags |= names.ALLOC_MIN_RESERVE
        if not self.gfp & (DIRECT_RECLAIM | NOMEMALLOC):
            aflags |= names.ALLOC_NON_BLOCK
        found = self._walk(aflags)
        if found or not self.gfp & DIRECT_RECLAIM:
            return found
        self._unreserve(force=False)
        for zone in self.zones:
            zone.drain_all()
        found = self._walk(aflags)
        if not found and self._unreserve(force=True):
            found = self._walk(aflags)
        return found

    def _unreserve(self, force: bool) -> bool:
        """B-71: the first zone that has something."""
        return any(zone.give_back_reserve(self.mt, force) for zone in self.zonelist)

    def _walk(self, aflags: int) -> Found | None:
        """B-75: the first zone that passes its watermark and has a run."""
        for zone in self.zonelist:
            if self._may_try(zone, aflags):
                pfn = zone.rmqueue(self.order, self.mt, aflags)
                if pfn is not None:
                    return zone, pfn
        return None

    def _may_try(self, zone: Zone, aflags: int) -> bool:
        """The two tests of B-75; failing the first is remembered in BELOW_HIGH (B-77)."""
        if not zone.flags & names.ZONE_BELOW_HIGH:
            if zone.watermark_fast(self.order, zone.wmark(names.WMARK_HIGH), aflags, self.hz):
                return True
            zone.flags |= names.ZONE_BELOW_HIGH
        passed = zone.watermark_fast(self.order, zone.wmark(aflags & 3), aflags, self.hz)
        return passed or bool(aflags & names.ALLOC_NO_WATERMARKS)
