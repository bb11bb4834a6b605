"""
Refill of a PCP from the zone: own fragments, whole blocks, chunks, single runs (rfc.md section 5, B-63).
"""

from ..config import Policy
from ..names import (
    ALLOC_CMA,
    ALLOC_NOLOCK,
    CMA,
    MOVABLE,
    NR_ORDERS,
    PAGEBLOCK_ORDER,
    PAGEBLOCK_PAGES,
    ZONE_BELOW_HIGH,
)
from .buddy import NORMAL, Buddy
from .memory import Memory
from .ownership import Ownership
from .pcp import PcpLists


class Refill:
    """
    The four phases of P-32. The PCP's lock is held by the caller; the zone lock is taken once, here.
    """

    def __init__(self, memory: Memory, policy: Policy, buddy: Buddy, ownership: Ownership, pcp_lists: PcpLists) -> None:
        self._memory = memory
        self._policy = policy
        self._buddy = buddy
        self._ownership = ownership
        self._lists = pcp_lists

    def refill(self, cpu: int, entries: int, order: int, mt: int, aflags: int) -> None:
        """
        P-32: obtain ``entries`` << order pages in runs of at least that order. A phase runs if some are missing.
        """
        m = self._memory
        pcp = m.pcps[cpu]
        if aflags & ALLOC_NOLOCK and not m.trylock():
            return
        m.hold("refill")
        m.count("refills")
        want = entries << order
        got = 0
        if pcp.high >= pcp.batch:  # else the PCP is disabled: one entry of phase 3
            if self._policy.phase0 == "on" and order < PAGEBLOCK_ORDER:
                got += self._recover(cpu, want, order, mt, aflags)
            if got < want:
                got += self._claim_blocks(cpu, want - got, mt, aflags)
            if got < want and self._policy.phase2 == "on" and order < PAGEBLOCK_ORDER:
                got += self._take_chunks(cpu, want - got, order, mt, aflags)
        if got < want:
            self._take_runs(cpu, want - got, order, mt, aflags)

    def _recover(self, cpu: int, want: int, order: int, mt: int, aflags: int) -> int:
        """
        Phase 0, P-33: all zone fragments of own blocks, block by block. Smaller ones come along uncounted.
        """
        m = self._memory
        types = {mt}
        if self._policy.cma == "fixed" and mt == MOVABLE and aflags & ALLOC_CMA:
            types.add(CMA)
        got = 0
        m.count("walks")
        for index in list(m.pcps[cpu].owned):
            if got >= want:
                break
            m.count("walked_blocks")
            if m.blocks[index].effective not in types:
                m.count("skipped_blocks")
                continue
            got += self._recover_block(cpu, index, order, mt)
        return got

    def _recover_block(self, cpu: int, index: int, order: int, mt: int) -> int:
        """
        T3: nothing of the block stays in the zone, even if nothing was found (STALE).
        """
        m = self._memory
        got = 0
        pfn = m.block_pfn(index)
        end = pfn + PAGEBLOCK_PAGES
        while pfn < end:
            m.count("scanned_pfns")
            if pfn not in m.chunks:
                pfn += 1
                continue
            nr_pages = 1 << m.chunks[pfn].order
            chunk = self._buddy.remove(pfn)
            m.account(-nr_pages, chunk.type)
            m.count("pages_moved", nr_pages)
            m.count("phase0_pages", nr_pages)
            self._lists.put(cpu, pfn, chunk.order, mt, mark=True, tail=True)
            m.emit("recover", pfn, chunk.order)
            if chunk.order >= order:
                got += nr_pages
            pfn += nr_pages
        self._ownership.unlink(index)
        return got

    def _claim_blocks(self, cpu: int, want: int, mt: int, aflags: int) -> int:
        """
        Phase 1, P-34: whole blocks, owned from now on (T1).
        """
        m = self._memory
        got, mode = 0, NORMAL
        while got < want and self._gate_open(cpu):
            pfn, mode = self._buddy.zone_take(PAGEBLOCK_ORDER, mt, aflags, mode)
            if pfn is None:
                break
            self._ownership.claim(m.block_index(pfn), cpu)
            self._lists.put(cpu, pfn, PAGEBLOCK_ORDER, mt, mark=True, tail=True)
            m.count("phase1_pages", PAGEBLOCK_PAGES)
            got += PAGEBLOCK_PAGES
        return got

    def _gate_open(self, cpu: int) -> bool:
        """
        P-34: a block that does not fit under high would be drained again at once.
        """
        pcp = self._memory.pcps[cpu]
        if self._policy.gate == "never":
            return False
        return pcp.count + PAGEBLOCK_PAGES <= pcp.high and not self._memory.flags & ZONE_BELOW_HIGH

    def _take_chunks(self, cpu: int, want: int, order: int, mt: int, aflags: int) -> int:
        """
        Phase 2, P-35: the largest chunks that are not too large; no stealing, no ownership, no mark.
        """
        m = self._memory
        got = 0
        current = max(order, min(want.bit_length() - 1, 8))
        while current >= order and got < want:
            if 1 << current > want - got and current > order:
                current -= 1
                continue
            found = self._find_chunk(current, mt, aflags)
            if found is None:
                current -= 1
                continue
            chunk_type = m.chunks[found].type
            pfn = self._buddy.take(found, current)
            self._buddy.emit_zone_locked(pfn, current, chunk_type)
            m.emit("chunk", pfn, current)
            self._lists.put(cpu, pfn, current, mt, mark=False, tail=True)
            m.count("phase2_pages", 1 << current)
            got += 1 << current
        return got

    def _find_chunk(self, current: int, mt: int, aflags: int) -> int | None:
        """
        Head of the smallest sufficient order, type by type in the order of P-36.
        """
        types = [mt]
        if self._policy.cma == "fixed" and mt == MOVABLE and aflags & ALLOC_CMA:
            types = [CMA, MOVABLE] if self._buddy.prefer_cma() else [MOVABLE, CMA]
        for chunk_type in types:
            for order in range(current, min(self._policy.phase2_max + 1, NR_ORDERS)):
                free_list = self._memory.free[order][chunk_type]
                if free_list:
                    return free_list.head()
        return None

    def _take_runs(self, cpu: int, want: int, order: int, mt: int, aflags: int) -> None:
        """
        Phase 3, P-37, which is all of B-63: runs of the order asked for, by every means of B-40.
        """
        m = self._memory
        got, mode = 0, NORMAL
        while got < want:
            pfn, mode = self._buddy.zone_take(order, mt, aflags, mode)
            if pfn is None:
                break
            self._lists.put(cpu, pfn, order, mt, mark=False, tail=True)
            m.count("phase3_pages", 1 << order)
            got += 1 << order
