"""
One request on its way through several zones (sections 8 and 9).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .. import names
from ..errors import OutOfPages
from .paths import default_aflags

if TYPE_CHECKING:
    from .zone import Zone

# A zone is recognised by its name. One that is alone may have any, and then counts as Normal.
ZONE_INDEX = {"DMA": 0, "DMA32": 1, "Normal": 2, "Movable": 3}
HIGHEST_ZONE = {0x0: 2, 0x8: 2, 0x1: 0, 0x9: 0, 0x4: 1, 0xC: 1, 0x2: 2, 0xA: 3}  # by the low four gfp bits (B-26)

HIGH, DIRECT_RECLAIM = names.GFP_BITS["__GFP_HIGH"], names.GFP_BITS["__GFP_DIRECT_RECLAIM"]
KSWAPD_RECLAIM, NOMEMALLOC = names.GFP_BITS["__GFP_KSWAPD_RECLAIM"], names.GFP_BITS["__GFP_NOMEMALLOC"]

Found = tuple["Zone", int]


class Request:
    """One request on its way through the zones that it may use, best first (B-26)."""

    def __init__(self, zones: "Sequence[Zone]", order: int, gfp: int) -> None:
        self.zones = zones
        self.order = order
        self.gfp = gfp
        self.mt = names.gfp_migratetype(gfp)
        self.hz = HIGHEST_ZONE[gfp & 0xF]
        self.zonelist = [zone for zone in reversed(zones) if ZONE_INDEX.get(zone.name, 2) <= self.hz]

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
        if ZONE_INDEX.get(self.zonelist[0].name, 2) == 2:
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

    def _may_try(self, zone: "Zone", aflags: int) -> bool:
        """The two tests of B-75; failing the first is remembered in BELOW_HIGH (B-77)."""
        if not zone.flags & names.ZONE_BELOW_HIGH:
            if zone.watermark_fast(self.order, zone.wmark(names.WMARK_HIGH), aflags, self.hz):
                return True
            zone.flags |= names.ZONE_BELOW_HIGH
        passed = zone.watermark_fast(self.order, zone.wmark(aflags & 3), aflags, self.hz)
        return passed or bool(aflags & names.ALLOC_NO_WATERMARKS)
