"""
The zone's buddy system: free lists, merging, taking, and the fallback between types (B-30 to B-49, B-70, B-71).

Everything here runs with the zone lock held, unless it says that it takes it.
"""

from collections.abc import Iterator

from ..names import (
    ALLOC_CMA,
    ALLOC_HIGHATOMIC,
    ALLOC_KSWAPD,
    ALLOC_NOFRAGMENT,
    ALLOC_NOLOCK,
    ALLOC_NON_BLOCK,
    ALLOC_OOM,
    CMA,
    HIGHATOMIC,
    ISOLATE,
    MAX_PAGE_ORDER,
    MOVABLE,
    NR_ORDERS,
    NR_PCP_TYPES,
    PAGEBLOCK_ORDER,
    PAGEBLOCK_PAGES,
    RECLAIMABLE,
    UNMOVABLE,
    WMARK_HIGH,
    WMARK_MIN,
    ZONE_BOOSTED_WATERMARK,
)
from .memory import NR_FREE, NR_FREE_BLOCKS, NR_FREE_CMA, Chunk, Memory, pcp_capable
from .ownership import Ownership

# Where a bulk of takes continues: the steps of B-40 before it have failed already.
NORMAL, FROM_CMA, CLAIM, STEAL = range(4)

# Types to fall back to, first tried first (1.2). H, C and I are never fallbacks (B-42).
FALLBACKS = {
    UNMOVABLE: (RECLAIMABLE, MOVABLE),
    MOVABLE: (RECLAIMABLE, UNMOVABLE),
    RECLAIMABLE: (UNMOVABLE, MOVABLE),
}


class Buddy:
    """
    The free lists of a zone and all that is done to them under the zone lock.
    """

    def __init__(self, memory: Memory, ownership: Ownership) -> None:
        self._memory = memory
        self._ownership = ownership

    # List primitives (section 2)

    def insert(self, pfn: int, order: int, mt: int, tail: bool = False) -> None:
        """
        B-30. Does not touch NR_FREE_PAGES.
        """
        m = self._memory
        free_list = m.free[order][mt]
        if tail:
            free_list.add_tail(pfn)
        else:
            free_list.add_head(pfn)
        m.chunks[pfn] = Chunk(order, mt)
        m.count("list_ops")
        if order >= PAGEBLOCK_ORDER and mt != ISOLATE:
            m.add_stat(NR_FREE_BLOCKS, 1 << order)

    def remove(self, pfn: int) -> Chunk:
        """
        B-31. Returns what was removed.
        """
        m = self._memory
        chunk = m.chunks.pop(pfn)
        m.free[chunk.order][chunk.type].remove(pfn)
        m.count("list_ops")
        if chunk.order >= PAGEBLOCK_ORDER and chunk.type != ISOLATE:
            m.add_stat(NR_FREE_BLOCKS, -(1 << chunk.order))
        return chunk

    def move(self, pfn: int, mt: int) -> None:
        """
        B-32: to the tail of the same order's list of another type.
        """
        m = self._memory
        order, old_mt = m.chunks[pfn]
        m.free[order][old_mt].remove(pfn)
        m.free[order][mt].add_tail(pfn)
        m.chunks[pfn] = Chunk(order, mt)
        m.count("moves")
        m.account(-(1 << order), old_mt)
        m.account(1 << order, mt)
        if order >= PAGEBLOCK_ORDER and (old_mt == ISOLATE) != (mt == ISOLATE):
            m.add_stat(NR_FREE_BLOCKS, 1 << order if old_mt == ISOLATE else -(1 << order))

    def expand(self, pfn: int, low: int, high: int, mt: int) -> None:
        """
        B-34: give back the upper halves; the lowest pages are kept.
        """
        while high > low:
            high -= 1
            self.insert(pfn + (1 << high), high, mt)
            self._memory.count("zone_splits")

    def take(self, pfn: int, order: int) -> int:
        """
        B-35: a chunk leaves its list, and what exceeds ``order`` returns to it.
        """
        m = self._memory
        chunk = self.remove(pfn)
        self.expand(pfn, order, chunk.order, chunk.type)
        m.account(-(1 << order), chunk.type)
        m.count("pages_moved", 1 << order)
        return pfn

    def chunks_of(self, index: int) -> Iterator[tuple[int, int]]:
        """
        (pfn, order) of every free chunk that starts in a block, ascending.
        """
        m = self._memory
        pfn = m.block_pfn(index)
        end = pfn + PAGEBLOCK_PAGES
        while pfn < end:
            chunk = m.chunks.get(pfn)
            if chunk is None:
                pfn += 1
            else:
                yield pfn, chunk.order
                pfn += 1 << chunk.order

    def move_block(self, index: int, mt: int) -> int:
        """
        Move all free chunks of a block to another type's lists, ascending. Returns the number of pages.
        """
        nr_pages = 0
        for pfn, order in self.chunks_of(index):
            self.move(pfn, mt)
            nr_pages += 1 << order
        return nr_pages

    # Freeing (section 3)

    def merge_free(self, pfn: int, order: int, mt: int, to_tail: bool = False) -> None:
        """
        B-36: merge a freed run with its free buddies and list the result. The one way into the zone.
        """
        m = self._memory
        m.count("pages_moved", 1 << order)
        m.account(1 << order, mt)
        while order < MAX_PAGE_ORDER:
            buddy = pfn ^ (1 << order)
            chunk = m.chunks.get(buddy)
            if chunk is None or chunk.order != order:
                break
            if order >= PAGEBLOCK_ORDER and chunk.type != mt:
                # Only U, M and R mix, and the block freed last wins.
                if chunk.type >= NR_PCP_TYPES or mt >= NR_PCP_TYPES:
                    break
                self.remove(buddy)
                for index in m.covered_blocks(buddy, order):
                    self._ownership.retype(index, mt)
            else:
                self.remove(buddy)
            pfn &= buddy
            order += 1
            m.count("zone_merges")
        self._ownership.before_placing(pfn, order)
        self.insert(pfn, order, mt, tail=to_tail or self.merge_likely(pfn, order))
        self._ownership.after_placing(pfn, order)

    def merge_likely(self, pfn: int, order: int) -> bool:
        """
        B-37: whether the union with our buddy could merge again.
        """
        if order >= PAGEBLOCK_ORDER:
            return False
        chunk = self._memory.chunks.get((pfn & ~(1 << order)) ^ (1 << (order + 1)))
        return chunk is not None and chunk.order == order + 1

    def split_free(self, pfn: int, order: int, to_tail: bool = False) -> None:
        """
        B-38: free whole blocks one by one, each as what it is.
        """
        piece = min(order, PAGEBLOCK_ORDER)
        for start in range(pfn, pfn + (1 << order), 1 << piece):
            self.merge_free(start, piece, self._memory.type_of(start), to_tail)

    def direct_free(self, pfn: int, order: int, *, nolock: bool = False, to_tail: bool = False) -> None:
        """
        B-90, takes the zone lock; with nolock (B-92) only tries to, and defers the free if that fails.
        """
        m = self._memory
        if nolock and not m.trylock():
            m.deferred.append((pfn, order))
            return
        m.hold("direct_free")
        while m.deferred and not nolock:
            self.split_free(*m.deferred.pop(), to_tail)
        self.split_free(pfn, order, to_tail)

    # Taking (section 4)

    def prefer_cma(self) -> bool:
        """
        The 50 % rule of B-40: more than half of the free memory is CMA, as far as is visible.
        """
        m = self._memory
        return m.visible(NR_FREE_CMA) > m.visible(NR_FREE) // 2

    def zone_take(self, order: int, mt: int, aflags: int, mode: int = NORMAL) -> tuple[int | None, int]:
        """
        B-40: one run for a request of type mt, and the mode for the next take of the same bulk.
        """
        cma_allowed = bool(aflags & ALLOC_CMA)
        if cma_allowed and self.prefer_cma():
            pfn = self.smallest(order, CMA)
            if pfn is not None:
                return pfn, mode
        if mode <= NORMAL:
            pfn = self.smallest(order, mt)
            if pfn is not None:
                return pfn, mode
        if mode <= FROM_CMA and cma_allowed:
            pfn = self.smallest(order, CMA)
            if pfn is not None:
                return pfn, FROM_CMA
        if mode <= CLAIM:
            pfn = self.claim(order, mt, aflags)
            if pfn is not None:
                return pfn, NORMAL
        if not aflags & ALLOC_NOFRAGMENT:
            pfn = self.steal(order, mt)
            if pfn is not None:
                return pfn, STEAL
        return None, mode

    def smallest(self, order: int, mt: int) -> int | None:
        """
        B-41: the head of the smallest sufficient order; never another type.
        """
        for current in range(order, NR_ORDERS):
            free_list = self._memory.free[current][mt]
            if free_list:
                pfn = self.take(free_list.head(), order)
                self.emit_zone_locked(pfn, order, mt)
                return pfn
        return None

    def emit_zone_locked(self, pfn: int, order: int, mt: int) -> None:
        """
        17.3: percpu_refill says what the order and the list's type allow, not what happens.
        """
        refill = int(pcp_capable(order) and mt < NR_PCP_TYPES)
        self._memory.emit("zone_locked", pfn, order, mt, refill)

    # Fallback (section 5)

    def claim(self, order: int, mt: int, aflags: int) -> int | None:
        """
        B-43: convert the block of the largest foreign chunk, if the block can be converted.
        """
        min_order = PAGEBLOCK_ORDER if aflags & ALLOC_NOFRAGMENT and order < PAGEBLOCK_ORDER else order
        for current in range(MAX_PAGE_ORDER, min_order - 1, -1):
            if not self.claimable(current, mt):
                return None
            fallback = self.first_fallback(current, mt)
            if fallback is None:
                continue
            candidate = self._memory.free[current][fallback].head()
            if current >= PAGEBLOCK_ORDER:
                pfn = self.claim_whole(candidate, order, mt)
            else:
                pfn = self.claim_block_of(candidate, order, mt, fallback, aflags)
            if pfn is not None:
                self.emit_extfrag(pfn, order, current, mt, fallback)
                return pfn
        return None

    @staticmethod
    def claimable(current: int, mt: int) -> bool:
        """
        B-44: movable requests do not convert blocks for small chunks.
        """
        return current >= PAGEBLOCK_ORDER // 2 or mt in (UNMOVABLE, RECLAIMABLE)

    def first_fallback(self, current: int, mt: int) -> int | None:
        """
        The first fallback type that has a chunk of this order.
        """
        for fallback in FALLBACKS[mt]:
            if self._memory.free[current][fallback]:
                return fallback
        return None

    def claim_whole(self, candidate: int, order: int, mt: int) -> int:
        """
        B-47: one or two whole blocks change their type; no threshold.
        """
        m = self._memory
        chunk = self.remove(candidate)
        m.account(-(1 << chunk.order), chunk.type)
        for index in m.covered_blocks(candidate, chunk.order):
            self._ownership.retype(index, mt)
        self.expand(candidate, order, chunk.order, mt)
        m.account((1 << chunk.order) - (1 << order), mt)
        m.count("pages_moved", 1 << order)
        return candidate

    def claim_block_of(self, candidate: int, order: int, mt: int, fallback: int, aflags: int) -> int | None:
        """
        B-45, B-46: a block changes its type if half of it is free or alike.
        """
        m = self._memory
        self.boost_watermark(aflags)
        index = m.block_index(candidate)
        if not m.block_inside(index):
            return None
        free = sum(1 << chunk_order for _, chunk_order in self.chunks_of(index))
        movable = self.movable_pages(index)
        if mt == MOVABLE:
            alike = movable
        elif fallback == MOVABLE:
            alike = PAGEBLOCK_PAGES - free - movable
        else:
            alike = 0
        if free + alike < PAGEBLOCK_PAGES // 2:
            return None
        self.move_block(index, mt)
        self._ownership.retype(index, mt)
        return self.smallest(order, mt)

    def boost_watermark(self, aflags: int) -> None:
        """
        B-45: every attempt to convert part of a block raises the watermarks for a while.
        """
        m = self._memory
        limit = m.watermark[WMARK_HIGH] * m.boost_factor // 10000
        if m.managed < 4 * PAGEBLOCK_PAGES or not limit:
            return
        m.watermark_boost = min(m.watermark_boost + PAGEBLOCK_PAGES, max(PAGEBLOCK_PAGES, limit))
        if aflags & ALLOC_KSWAPD:
            m.flags |= ZONE_BOOSTED_WATERMARK

    def movable_pages(self, index: int) -> int:
        """
        Pages of movable allocations in a block that has free chunks (so no allocation crosses it).
        """
        m = self._memory
        start = m.block_pfn(index)
        found = (m.allocated.get(pfn) for pfn in range(start, start + PAGEBLOCK_PAGES))
        return sum(1 << allocation.order for allocation in found if allocation and allocation.movable)

    def steal(self, order: int, mt: int) -> int | None:
        """
        B-48: the smallest foreign chunk; block and remainder keep their type.
        """
        for current in range(order, NR_ORDERS):
            fallback = self.first_fallback(current, mt)
            if fallback is not None:
                pfn = self.take(self._memory.free[current][fallback].head(), order)
                self.emit_extfrag(pfn, order, current, mt, fallback)
                return pfn
        return None

    def emit_extfrag(self, pfn: int, order: int, current: int, mt: int, fallback: int) -> None:
        """
        17.4: change_ownership says whether the block is of the request's type afterwards.
        """
        m = self._memory
        m.emit("extfrag", pfn, order, current, mt, fallback, int(m.type_of(pfn) == mt))

    # Past the PCP, and the high-atomic reserve (B-66, section 7)

    def zone_alloc(self, order: int, mt: int, aflags: int) -> int | None:
        """
        B-66, takes the zone lock: one run straight from the zone.
        """
        m = self._memory
        if aflags & ALLOC_NOLOCK and not m.trylock():
            return None
        m.hold("direct_alloc")
        pfn = self.smallest(order, HIGHATOMIC) if aflags & ALLOC_HIGHATOMIC else None
        if pfn is None:
            pfn, _ = self.zone_take(order, mt, aflags)
        if pfn is None and aflags & (ALLOC_OOM | ALLOC_NON_BLOCK):
            pfn = self.smallest(order, HIGHATOMIC)
        if pfn is not None and aflags & ALLOC_HIGHATOMIC and aflags & 3 == WMARK_MIN:
            self.reserve(pfn, order)
        return pfn

    def reserve(self, pfn: int, order: int) -> None:
        """
        B-70, takes the zone lock again: the block of this page serves high-atomic requests from now on.
        """
        m = self._memory
        hundredth = m.managed // 100
        limit = -(-hundredth // PAGEBLOCK_PAGES) * PAGEBLOCK_PAGES
        if hundredth < PAGEBLOCK_PAGES or m.nr_reserved_highatomic >= limit:
            return
        m.hold("other")
        if m.type_of(pfn) >= NR_PCP_TYPES:
            return
        if order < PAGEBLOCK_ORDER:
            index = m.block_index(pfn)
            if not m.block_inside(index):
                return
            self.move_block(index, HIGHATOMIC)
        for index in m.covered_blocks(pfn, order):
            self._ownership.retype(index, HIGHATOMIC)
            m.nr_reserved_highatomic += PAGEBLOCK_PAGES

    def unreserve(self, mt: int, force: bool) -> bool:
        """
        B-71 for one zone, takes the zone lock: give back one high-atomic block that has free pages.
        """
        m = self._memory
        if not force and m.nr_reserved_highatomic <= PAGEBLOCK_PAGES:
            return False
        m.hold("other")
        for order in range(NR_ORDERS):
            if not m.free[order][HIGHATOMIC]:
                continue
            pfn = m.free[order][HIGHATOMIC].head()
            m.nr_reserved_highatomic -= min(max(PAGEBLOCK_PAGES, 1 << order), m.nr_reserved_highatomic)
            if order >= PAGEBLOCK_ORDER:
                self.move(pfn, mt)
            elif m.block_inside(m.block_index(pfn)):
                self.move_block(m.block_index(pfn), mt)
            else:
                continue
            for index in m.covered_blocks(pfn, order):
                self._ownership.retype(index, mt)
            return True
        return False
