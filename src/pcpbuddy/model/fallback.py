"""
Taking from the free lists: own type, CMA, other types; the high-atomic reserve (sections 4, 5 and 7, B-66).

The zone lock is held, unless a method says that it takes it.
"""

from .. import names
from .buddy import Buddy
from .memory import NR_FREE, NR_FREE_CMA, PB

# Modes of B-40: where the next take of a bulk begins, because the steps before have failed.
NORMAL, FROM_CMA, CLAIM, STEAL = range(4)

# 1.2, first tried first. H, C and I are never fallbacks (B-42).
U, M, R = names.UNMOVABLE, names.MOVABLE, names.RECLAIMABLE
FALLBACKS = {U: (R, M), M: (R, U), R: (U, M)}


class Fallback(Buddy):
    """Where a run comes from."""

    def prefer_cma(self) -> bool:  # the 50 % rule of B-40
        return self.visible(NR_FREE_CMA) > self.visible(NR_FREE) // 2

    def zone_take(
        self, order: int, mt: int, aflags: int, mode: int = NORMAL, foreign: bool = True
    ) -> tuple[int | None, int]:
        """B-40: a run for type mt, and the mode for the next take of the same bulk. foreign: steps 4, 5."""
        pfn = None
        cma = bool(aflags & names.ALLOC_CMA)
        if cma and self.prefer_cma():
            pfn = self.smallest(order, names.CMA)
        if pfn is None and mode <= NORMAL:
            pfn = self.smallest(order, mt)
        if pfn is not None:
            return pfn, mode
        if mode <= FROM_CMA and cma:
            pfn = self.smallest(order, names.CMA)
            if pfn is not None:
                return pfn, FROM_CMA
        if not foreign:
            return None, mode
        if mode <= CLAIM:
            pfn = self._claim(order, mt, aflags)
            if pfn is not None:
                return pfn, NORMAL
        if not aflags & names.ALLOC_NOFRAGMENT:
            pfn = self._steal(order, mt)
        return (pfn, mode) if pfn is None else (pfn, STEAL)

    def smallest(self, order: int, mt: int) -> int | None:
        """B-41: from the smallest sufficient order of one type."""
        for free_lists in self.free_area[order:]:
            if free_lists[mt]:
                pfn = self.take_chunk(free_lists[mt].head, order)
                self.emit_zone_locked(pfn, order, mt)
                return pfn
        return None

    def _first_fallback(self, current: int, mt: int) -> int | None:
        return next((fallback for fallback in FALLBACKS[mt] if self.free_area[current][fallback]), None)

    def _emit_extfrag(self, pfn: int, order: int, current: int, mt: int, fallback: int) -> None:  # 17.4
        self.emit("extfrag", pfn, order, current, mt, fallback, int(self.type_of(pfn) == mt))

    def _claim(self, order: int, mt: int, aflags: int) -> int | None:
        """B-43: convert the block of the largest foreign chunk, if it can be converted."""
        least = PB if aflags & names.ALLOC_NOFRAGMENT and order < PB else order
        for current in range(names.MAX_PAGE_ORDER, least - 1, -1):
            if current < PB // 2 and mt == M:
                return None  # B-44: movable requests do not convert blocks for small chunks
            fallback = self._first_fallback(current, mt)
            if fallback is None:
                continue
            candidate = self.free_area[current][fallback].head
            pfn: int | None
            if current >= PB:
                pfn = self._claim_whole(candidate, order, mt)
            elif self._claim_part(candidate, mt, fallback, aflags):
                pfn = self.smallest(order, mt)  # B-46: not always the candidate
            else:
                continue
            assert pfn is not None
            self._emit_extfrag(pfn, order, current, mt, fallback)
            return pfn
        return None

    def _claim_whole(self, candidate: int, order: int, mt: int) -> int:
        """B-47: one or two whole blocks; no threshold."""
        chunk = self.remove(candidate)
        self.account(-(1 << chunk.order), chunk.type)
        for index in self.covered(candidate, chunk.order):
            self.retype(index, mt)
        self.expand(candidate, order, chunk.order, mt)
        self.account((1 << chunk.order) - (1 << order), mt)
        self.count(pages_moved=1 << order)
        return candidate

    def _claim_part(self, candidate: int, mt: int, fallback: int, aflags: int) -> bool:
        """B-45, B-46: a block changes its type if half of it is free or alike."""
        self._boost_watermark(aflags)
        index = self.block_index(candidate)
        if not self.inside(index):
            return False
        start = self.block_pfn(index)
        held = (self.allocated.get(pfn) for pfn in range(start, start + names.PAGEBLOCK_PAGES))
        movable = sum(1 << allocation.order for allocation in held if allocation and allocation.movable)
        free = sum(1 << order for _, order in self.chunks_of(index))
        if mt == M:
            alike = movable
        else:
            alike = names.PAGEBLOCK_PAGES - free - movable if fallback == M else 0
        if free + alike < names.PAGEBLOCK_PAGES // 2:
            return False
        self.move_block(index, mt)
        self.retype(index, mt)
        return True

    def _boost_watermark(self, aflags: int) -> None:  # B-45, successful or not
        limit = self.watermark[names.WMARK_HIGH] * self.boost_factor // 10000
        if self.managed >= 4 * names.PAGEBLOCK_PAGES and limit:
            boost = self.watermark_boost + names.PAGEBLOCK_PAGES
            self.watermark_boost = min(boost, max(names.PAGEBLOCK_PAGES, limit))
            if aflags & names.ALLOC_KSWAPD:
                self.flags |= names.ZONE_BOOSTED_WATERMARK

    def _steal(self, order: int, mt: int) -> int | None:
        """B-48: the smallest foreign chunk; block and remainder keep their type."""
        for current in range(order, names.NR_ORDERS):
            fallback = self._first_fallback(current, mt)
            if fallback is not None:
                pfn = self.take_chunk(self.free_area[current][fallback].head, order)
                self._emit_extfrag(pfn, order, current, mt, fallback)
                return pfn
        return None

    def zone_alloc(self, order: int, mt: int, aflags: int) -> int | None:
        """B-66, takes the zone lock: a run past the PCPs."""
        if aflags & names.ALLOC_NOLOCK and not self.trylock():
            return None
        self.count(holds_direct_alloc=1)
        pfn = self.smallest(order, names.HIGHATOMIC) if aflags & names.ALLOC_HIGHATOMIC else None
        if pfn is None:
            pfn, _ = self.zone_take(order, mt, aflags)
        if pfn is None and aflags & (names.ALLOC_OOM | names.ALLOC_NON_BLOCK):
            pfn = self.smallest(order, names.HIGHATOMIC)
        if pfn is not None and aflags & names.ALLOC_HIGHATOMIC and aflags & 3 == names.WMARK_MIN:
            self._reserve(pfn, order)
        return pfn

    def _reserve(self, pfn: int, order: int) -> None:
        """B-70, takes the zone lock again: the page's block serves high-atomic requests from now on."""
        share = self.managed // 100
        limit = -(-share // names.PAGEBLOCK_PAGES) * names.PAGEBLOCK_PAGES
        if share < names.PAGEBLOCK_PAGES or self.nr_reserved_highatomic >= limit:
            return
        self.count(holds_other=1)
        index = self.block_index(pfn)
        if self.type_of(pfn) >= names.NR_PCP_TYPES or (order < PB and not self.inside(index)):
            return
        if order < PB:
            self.move_block(index, names.HIGHATOMIC)
        for index in self.covered(pfn, order):
            self.retype(index, names.HIGHATOMIC)
            self.nr_reserved_highatomic += names.PAGEBLOCK_PAGES

    def give_back_reserve(self, mt: int, force: bool) -> bool:
        """B-71 for one zone, takes the zone lock: a high-atomic block that has free pages becomes ordinary."""
        if not force and self.nr_reserved_highatomic <= names.PAGEBLOCK_PAGES:
            return False
        self.count(holds_other=1)
        for order, free_lists in enumerate(self.free_area):
            if not free_lists[names.HIGHATOMIC]:
                continue
            pfn = free_lists[names.HIGHATOMIC].head
            nr_pages = max(names.PAGEBLOCK_PAGES, 1 << order)
            self.nr_reserved_highatomic -= min(nr_pages, self.nr_reserved_highatomic)
            index = self.block_index(pfn)
            if order < PB and not self.inside(index):
                continue
            if order < PB:
                self.move_block(index, mt)
            else:
                self.move(pfn, mt)
            for index in self.covered(pfn, order):
                self.retype(index, mt)
            return True
        return False
