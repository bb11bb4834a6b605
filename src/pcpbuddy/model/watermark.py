"""
Watermark tests (B-73, B-74).
"""

from ..names import (
    ALLOC_CMA,
    ALLOC_HIGHATOMIC,
    ALLOC_MIN_RESERVE,
    ALLOC_NON_BLOCK,
    ALLOC_OOM,
    ALLOC_RESERVES,
    CMA,
    HIGHATOMIC,
    MOVABLE,
    NR_ORDERS,
    RECLAIMABLE,
    UNMOVABLE,
    WMARK_MIN,
)
from .memory import NR_FREE, NR_FREE_CMA, Memory


def wmark_pages(memory: Memory, mark: int) -> int:
    """
    A watermark as the allocator reads it: with the boost (B-22).
    """
    return memory.watermark[mark] + memory.watermark_boost


def watermark_ok(memory: Memory, order: int, mark: int, aflags: int, hz: int) -> bool:
    """
    B-73. hz: index of the highest zone that the request could use.
    """
    free = memory.visible(NR_FREE) - ((1 << order) - 1) - _unusable(memory, aflags)
    least = mark
    if aflags & ALLOC_MIN_RESERVE:
        least -= least // 2
        if aflags & ALLOC_NON_BLOCK:
            least -= least // 4
    if aflags & ALLOC_OOM:
        least -= least // 2
    if free <= least + memory.lowmem_reserve[hz]:
        return False
    if order == 0:
        return True
    types = [UNMOVABLE, MOVABLE, RECLAIMABLE]
    if aflags & ALLOC_CMA:
        types.append(CMA)
    if aflags & (ALLOC_HIGHATOMIC | ALLOC_OOM):
        types.append(HIGHATOMIC)
    return any(memory.free[current][mt] for current in range(order, NR_ORDERS) for mt in types)


def watermark_fast(memory: Memory, order: int, mark: int, aflags: int, hz: int) -> bool:
    """
    B-74: what zone selection asks.
    """
    if order == 0:
        free = memory.visible(NR_FREE)
        if free - min(free, _unusable(memory, aflags)) > mark + memory.lowmem_reserve[hz]:
            return True
    if watermark_ok(memory, order, mark, aflags, hz):
        return True
    if order == 0 and aflags & ALLOC_MIN_RESERVE and memory.watermark_boost and aflags & 3 == WMARK_MIN:
        return watermark_ok(memory, order, memory.watermark[WMARK_MIN], aflags, hz)
    return False


def _unusable(memory: Memory, aflags: int) -> int:
    """
    Free pages that this request must not count on.
    """
    unusable = 0
    if not aflags & ALLOC_RESERVES:
        unusable += memory.nr_free_highatomic
    if not aflags & ALLOC_CMA:
        unusable += memory.visible(NR_FREE_CMA)
    return unusable
