"""
``Node``: several zones, and the choice between them (sections 8 and 9).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

from .. import config
from ..errors import BadFree, OutOfPages, UsageError
from ..names import (
    ALLOC_HIGHATOMIC,
    ALLOC_KSWAPD,
    ALLOC_MIN_RESERVE,
    ALLOC_NO_WATERMARKS,
    ALLOC_NOFRAGMENT,
    ALLOC_NON_BLOCK,
    GFP_BITS,
    GFP_HIGHUSER_MOVABLE,
    WMARK_HIGH,
    WMARK_LOW,
    WMARK_MIN,
    ZONE_BELOW_HIGH,
    gfp_migratetype,
)
from .alloc import default_aflags
from .watermark import watermark_fast, wmark_pages
from .zone import Zone, check_batch

# Zone indices by name (B-26). A zone is recognised by its name.
ZONE_INDEX = {"DMA": 0, "DMA32": 1, "Normal": 2, "Movable": 3}

# The highest zone of a request by its low four bits (B-26); other combinations mean nothing.
_BIT = {name: GFP_BITS[name] for name in ("__GFP_DMA", "__GFP_HIGHMEM", "__GFP_DMA32", "__GFP_MOVABLE")}
_HIGHEST_ZONE = {
    0: "Normal",
    _BIT["__GFP_MOVABLE"]: "Normal",
    _BIT["__GFP_DMA"]: "DMA",
    _BIT["__GFP_DMA"] | _BIT["__GFP_MOVABLE"]: "DMA",
    _BIT["__GFP_DMA32"]: "DMA32",
    _BIT["__GFP_DMA32"] | _BIT["__GFP_MOVABLE"]: "DMA32",
    _BIT["__GFP_HIGHMEM"]: "Normal",
    _BIT["__GFP_HIGHMEM"] | _BIT["__GFP_MOVABLE"]: "Movable",
}


def highest_zone(gfp: int) -> int:
    """
    Index of the highest zone that a request may use (B-26).
    """
    name = _HIGHEST_ZONE.get(gfp & 0xF)
    if name is None:
        raise UsageError(f"gfp {gfp:#x} names more than one zone; its low four bits must be one of B-26")
    return ZONE_INDEX[name]


def request_type(gfp: int) -> int:
    """
    B-25.
    """
    mt = gfp_migratetype(gfp)
    if mt == 3:
        raise UsageError(f"gfp {gfp:#x} has both __GFP_MOVABLE and __GFP_RECLAIMABLE, a migratetype is one of them")
    return mt


class Node:
    """
    The zones of one node, ascending by index, and B-73 to B-77 between them.
    """

    def __init__(self, zones: Sequence[Zone]) -> None:
        if not zones:
            raise UsageError("a node has at least 1 zone, got 0")
        for zone in zones:
            if zone.name not in ZONE_INDEX:
                raise UsageError(f"zone is called {zone.name!r}, must be one of {', '.join(ZONE_INDEX)}")
        if len({zone.cpus for zone in zones}) > 1:
            raise UsageError(f"all zones of a node have the same CPUs, got {[zone.cpus for zone in zones]}")
        self.zones = list(zones)

    @classmethod
    def from_state(cls, state: Mapping[str, Any], policy: str | config.Policy = "fixed") -> Self:
        """
        A node of {"cpus": n, "zones": [state, ...]}.
        """
        return cls([Zone.from_state(zone, policy) for zone in state["zones"]])

    def state(self) -> dict[str, Any]:
        """
        The same form as from_state() takes.
        """
        return {"cpus": self.cpus, "zones": [zone.state() for zone in self.zones]}

    @property
    def cpus(self) -> int:
        return self.zones[0].cpus

    def zone_of(self, pfn: int) -> Zone:
        """
        The zone that holds a page; BadFree if none does.
        """
        for zone in self.zones:
            if zone.start_pfn <= pfn < zone.start_pfn + zone.pages:
                return zone
        spans = ", ".join(f"{zone.start_pfn}..{zone.start_pfn + zone.pages - 1}" for zone in self.zones)
        raise BadFree(f"pfn {pfn} is outside every zone; there are {spans}")

    # Allocation

    def alloc(self, order: int = 0, gfp: int = GFP_HIGHUSER_MOVABLE, cpu: int = 0) -> int:
        """
        B-75, then the slow path as far as it touches the allocator (section 9). Raises OutOfPages.
        """
        mt, hz = request_type(gfp), highest_zone(gfp)
        self.zones[0]._check_request(order, mt, cpu)
        self._begin(cpu)
        try:
            return self._alloc(self._zonelist(hz), order, gfp, hz, cpu)
        finally:
            self._end()

    def _alloc(self, zonelist: Sequence[Zone], order: int, gfp: int, hz: int, cpu: int) -> int:
        mt = request_type(gfp)
        found = self._fast_path(zonelist, order, gfp, hz)
        if found is None:
            found = self._slow_path(zonelist, order, gfp, hz)
        if found is None:
            zonelist[0]._alloc.failed(order, mt)
            raise OutOfPages(f"no zone has a run of order {order} for gfp {gfp:#x} under its watermarks")
        zone, pfn = found
        return zone._alloc.served(pfn, order, mt)

    def _zonelist(self, hz: int) -> list[Zone]:
        """
        B-26: descending from the highest allowed zone.
        """
        zonelist = [zone for zone in reversed(self.zones) if ZONE_INDEX[zone.name] <= hz]
        if not zonelist:
            raise OutOfPages(f"the node has no zone of index {hz} or lower; it has {[z.name for z in self.zones]}")
        return zonelist

    def _fast_path(self, zonelist: Sequence[Zone], order: int, gfp: int, hz: int) -> tuple[Zone, int] | None:
        """
        B-28, B-76: one node, so other zones are tried before a block of the preferred one is fragmented.
        """
        aflags = default_aflags(request_type(gfp)) | _common_aflags(gfp, order)
        if zonelist[0].name == "Normal":
            found = self._walk(zonelist, order, request_type(gfp), aflags | ALLOC_NOFRAGMENT, hz)
            if found is not None:
                return found
        return self._walk(zonelist, order, request_type(gfp), aflags, hz)

    def _slow_path(self, zonelist: Sequence[Zone], order: int, gfp: int, hz: int) -> tuple[Zone, int] | None:
        """
        Section 9 without reclaim: B-29 flags, then what is reserved or parked is given back.
        """
        mt = request_type(gfp)
        aflags = (default_aflags(mt) & ~WMARK_LOW) | WMARK_MIN | _common_aflags(gfp, order)
        if gfp & GFP_BITS["__GFP_HIGH"]:
            aflags |= ALLOC_MIN_RESERVE
        if not gfp & (GFP_BITS["__GFP_DIRECT_RECLAIM"] | GFP_BITS["__GFP_NOMEMALLOC"]):
            aflags |= ALLOC_NON_BLOCK
        found = self._walk(zonelist, order, mt, aflags, hz)
        if found is not None or not gfp & GFP_BITS["__GFP_DIRECT_RECLAIM"]:
            return found
        self._unreserve(zonelist, mt, force=False)
        for zone in self.zones:
            zone._drain.drain_all()
        found = self._walk(zonelist, order, mt, aflags, hz)
        if found is None and self._unreserve(zonelist, mt, force=True):
            found = self._walk(zonelist, order, mt, aflags, hz)
        return found

    def _unreserve(self, zonelist: Sequence[Zone], mt: int, force: bool) -> bool:
        """
        B-71: the first zone that has something.
        """
        return any(zone._buddy.unreserve(mt, force) for zone in zonelist)

    def _walk(self, zonelist: Sequence[Zone], order: int, mt: int, aflags: int, hz: int) -> tuple[Zone, int] | None:
        """
        B-75: the first zone that passes its watermark and has a run.
        """
        for zone in zonelist:
            if self._may_try(zone, order, aflags, hz):
                pfn = zone._alloc.rmqueue(order, mt, aflags)
                if pfn is not None:
                    return zone, pfn
        return None

    @staticmethod
    def _may_try(zone: Zone, order: int, aflags: int, hz: int) -> bool:
        """
        The two tests of B-75; failing the high watermark is remembered in BELOW_HIGH (B-77).
        """
        m = zone._memory
        if not m.flags & ZONE_BELOW_HIGH:
            if watermark_fast(m, order, wmark_pages(m, WMARK_HIGH), aflags, hz):
                return True
            m.flags |= ZONE_BELOW_HIGH
        if watermark_fast(m, order, wmark_pages(m, aflags & 3), aflags, hz):
            return True
        return bool(aflags & ALLOC_NO_WATERMARKS)

    def alloc_bulk(self, n: int, gfp: int = GFP_HIGHUSER_MOVABLE, cpu: int = 0) -> list[int]:
        """
        B-93, from the first zone that has LOW + n pages; otherwise one ordinary allocation.
        """
        mt, hz = request_type(gfp), highest_zone(gfp)
        self.zones[0]._check_count(n)
        self.zones[0]._check_request(0, mt, cpu)
        self._begin(cpu)
        try:
            zonelist = self._zonelist(hz)
            for zone in zonelist:
                m = zone._memory
                if watermark_fast(m, 0, wmark_pages(m, WMARK_LOW) + n, default_aflags(mt), hz):
                    pfns = zone._alloc.bulk(n, mt, hz)
                    if pfns:
                        return pfns
                    break
            return [self._alloc(zonelist, 0, gfp, hz, cpu)]
        except OutOfPages:
            return []
        finally:
            self._end()

    def _begin(self, cpu: int) -> None:
        for zone in self.zones:
            zone._memory.this_cpu, zone._memory.tries = cpu, 0

    def _end(self) -> None:
        for zone in self.zones:
            zone._memory.failing = 0

    # Frees go to the zone of the page

    def free(self, pfn: int, cpu: int = 0, order: int = -1, irq: bool = False, nolock: bool = False) -> None:
        """
        B-80.
        """
        self.zone_of(pfn).free(pfn, cpu, order, irq, nolock)

    def free_batch(self, pfns: Iterable[int], cpu: int = 0) -> None:
        """
        B-91; folios of one zone that follow each other share a batch.
        """
        folios = [(self.zone_of(int(pfn)), int(pfn)) for pfn in pfns]
        self.zones[0]._check_executing(cpu)
        check_batch(folios)
        while folios:
            zone = folios[0][0]
            run = next((i for i, (other, _) in enumerate(folios) if other is not zone), len(folios))
            zone.free_batch([pfn for _, pfn in folios[:run]], cpu)
            folios = folios[run:]

    def free_contig(self, pfn: int, n: int, cpu: int = 0) -> None:
        """
        B-94.
        """
        self.zone_of(pfn).free_contig(pfn, n, cpu)

    def split(self, pfn: int) -> None:
        """
        Make an allocation one of order 0 for each of its pages.
        """
        self.zone_of(pfn).split(pfn)

    # Periodic work and hotplug: every zone, ascending

    def drain(self, cpu: int | None = None) -> None:
        """
        B-100.
        """
        for zone in self.zones:
            zone.drain(cpu)

    def tick(self, cpu: int = 0) -> None:
        """
        B-101.
        """
        for zone in self.zones:
            zone.tick(cpu)

    def fold(self, cpu: int = 0) -> None:
        """
        B-17.
        """
        for zone in self.zones:
            zone.fold(cpu)

    def decay(self, cpu: int = 0) -> None:
        """
        B-102.
        """
        for zone in self.zones:
            zone.decay(cpu)

    def offline(self, cpu: int) -> None:
        """
        B-105.
        """
        for zone in self.zones:
            zone.offline(cpu)

    def online(self, cpu: int) -> None:
        """
        B-105.
        """
        for zone in self.zones:
            zone.online(cpu)


def _common_aflags(gfp: int, order: int) -> int:
    """
    What B-28 and B-29 share: KSWAPD, and HIGHATOMIC for high-order requests that may dip but not wait.
    """
    aflags = ALLOC_KSWAPD if gfp & GFP_BITS["__GFP_KSWAPD_RECLAIM"] else 0
    if (
        order > 0
        and gfp & GFP_BITS["__GFP_HIGH"]
        and not gfp & (GFP_BITS["__GFP_DIRECT_RECLAIM"] | GFP_BITS["__GFP_NOMEMALLOC"])
    ):
        aflags |= ALLOC_HIGHATOMIC
    return aflags
