"""
Allocation: the PCP first, then the zone (sections 6 and 11; rfc.md P-31, P-48).
"""

from ..names import (
    ALLOC_CMA,
    ALLOC_HIGHATOMIC,
    ALLOC_KSWAPD,
    CMA,
    MOVABLE,
    WMARK_LOW,
    ZONE_BOOSTED_WATERMARK,
)
from .buddy import Buddy
from .memory import Allocation, Memory, pcp_capable
from .pcp import PcpLists, Tuning
from .refill import Refill
from .watermark import watermark_fast, wmark_pages


def default_aflags(mt: int) -> int:
    """
    Flags of a request that states none: WMARK_LOW, and CMA for type M.
    """
    return WMARK_LOW | (ALLOC_CMA if mt == MOVABLE else 0)


class Alloc:
    """
    Requests, on the executing CPU.
    """

    def __init__(self, memory: Memory, buddy: Buddy, pcp_lists: PcpLists, tuning: Tuning, refill: Refill) -> None:
        self._memory = memory
        self._buddy = buddy
        self._lists = pcp_lists
        self._tuning = tuning
        self._refill = refill

    def rmqueue(self, order: int, mt: int, aflags: int) -> int | None:
        """
        B-60. Without a page, the tuning of the PCP may have moved all the same.
        """
        m = self._memory
        pfn = self._pcp_alloc(order, mt, aflags) if pcp_capable(order) else None
        if pfn is None:
            pfn = self._buddy.zone_alloc(order, mt, aflags)
        if aflags & ALLOC_KSWAPD:
            m.flags &= ~ZONE_BOOSTED_WATERMARK
        return pfn

    def _pcp_alloc(self, order: int, mt: int, aflags: int) -> int | None:
        """
        B-61: the local PCP, if its lock is free.
        """
        m = self._memory
        if not m.trylock():
            return None
        m.pcps[m.this_cpu].free_count >>= 1
        return self._pcp_pop(order, mt, aflags)

    def _pcp_pop(self, order: int, mt: int, aflags: int) -> int | None:
        """
        B-62, P-31: one entry, after a refill if there is none. High-atomic requests get no refill.
        """
        m = self._memory
        pfn = self._lists.take(m.this_cpu, order, mt)
        if pfn is not None:
            m.count("allocs_from_pcp")
            return pfn
        entries = self._tuning.refill_size(m.pcps[m.this_cpu], order)
        if aflags & ALLOC_HIGHATOMIC:
            return None
        self._refill.refill(m.this_cpu, entries, order, mt, aflags)
        return self._lists.take(m.this_cpu, order, mt)

    def bulk(self, nr_pages: int, mt: int, hz: int) -> list[int]:
        """
        B-93 in a zone that is to serve it: empty if an ordinary allocation has to. free_count stays as it is.
        """
        m = self._memory
        aflags = default_aflags(mt)
        if nr_pages == 1 or not watermark_fast(m, 0, wmark_pages(m, WMARK_LOW) + nr_pages, aflags, hz):
            return []
        if not m.trylock():
            return []
        pfns: list[int] = []
        while len(pfns) < nr_pages:
            pfn = self._pcp_pop(0, mt, aflags)
            if pfn is None:
                break
            self.hand_out(pfn, 0, mt)
            pfns.append(pfn)
        return pfns

    def hand_out(self, pfn: int, order: int, mt: int) -> None:
        """
        The run is the user's now.
        """
        m = self._memory
        nr_pages = 1 << order
        m.allocated[pfn] = Allocation(order, mt, 0)
        m.count("allocs")
        m.count("pages_allocated", nr_pages)
        if any(block.type == CMA for block in m.blocks):  # elsewhere a share of CMA says nothing
            self.count_cma(pfn, nr_pages, mt)

    def count_cma(self, pfn: int, nr_pages: int, mt: int) -> None:
        """
        P-111: the CMA share of what is handed out, of any type and of movable requests.
        """
        m = self._memory
        in_cma = m.block(pfn).type == CMA
        if in_cma:
            m.count("cma_pages", nr_pages)
        if mt == MOVABLE:
            m.count("movable_pages", nr_pages)
            if in_cma:
                m.count("movable_cma_pages", nr_pages)

    def served(self, pfn: int, order: int, mt: int) -> int:
        """
        17.1: the event of a request that got its run.
        """
        self.hand_out(pfn, order, mt)
        self._memory.emit("alloc", pfn, order, mt)
        return pfn

    def failed(self, order: int, mt: int) -> None:
        """
        17.1: the event of a request that got nothing.
        """
        self._memory.count("allocs_failed")
        self._memory.emit("alloc", -1, order, mt)
