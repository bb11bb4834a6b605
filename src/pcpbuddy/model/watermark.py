"""
Watermark tests (B-73, B-74).
"""

from .. import names
from .memory import NR_FREE, NR_FREE_CMA, Memory

ZONE_MOVABLE = 3  # the zone index that B-82 tests with


class Watermark(Memory):
    """Whether the zone has pages to spare. hz: index of the highest zone that the request could use."""

    def wmark(self, level: int) -> int:  # B-22
        return self.watermark[level] + self.watermark_boost

    def ownership_rests(self) -> bool:  # P-40b
        if self.policy.pressure != "local":
            return False
        reclaims = bool(self.flags & names.ZONE_RECLAIM_ACTIVE)
        return reclaims or self.visible(NR_FREE) < self.wmark(names.WMARK_PROMO)

    def _unusable(self, aflags: int) -> int:  # free pages that a request must not count on
        highatomic = 0 if aflags & names.ALLOC_RESERVES else self.nr_free_highatomic
        return highatomic + (0 if aflags & names.ALLOC_CMA else self.visible(NR_FREE_CMA))

    def watermark_ok(self, order: int, mark: int, aflags: int, hz: int) -> bool:  # B-73
        free = self.visible(NR_FREE) - ((1 << order) - 1) - self._unusable(aflags)
        least = mark
        if aflags & names.ALLOC_MIN_RESERVE:
            least -= least // 2
            if aflags & names.ALLOC_NON_BLOCK:
                least -= least // 4
        if aflags & names.ALLOC_OOM:
            least -= least // 2
        if free <= least + self.lowmem_reserve[hz]:
            return False
        types = [names.UNMOVABLE, names.MOVABLE, names.RECLAIMABLE]
        if aflags & names.ALLOC_CMA:
            types.append(names.CMA)
        if aflags & (names.ALLOC_HIGHATOMIC | names.ALLOC_OOM):
            types.append(names.HIGHATOMIC)
        return order == 0 or any(free_lists[mt] for free_lists in self.free_area[order:] for mt in types)

    def watermark_fast(self, order: int, mark: int, aflags: int, hz: int) -> bool:  # B-74
        free = self.visible(NR_FREE)
        if order == 0 and free - min(free, self._unusable(aflags)) > mark + self.lowmem_reserve[hz]:
            return True
        if self.watermark_ok(order, mark, aflags, hz):
            return True
        if order or not aflags & names.ALLOC_MIN_RESERVE or aflags & 3 != names.WMARK_MIN or not self.watermark_boost:
            return False
        return self.watermark_ok(order, self.watermark[names.WMARK_MIN], aflags, hz)
