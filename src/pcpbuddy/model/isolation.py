"""
Isolation of pageblocks (B-110, B-111; rfc.md P-86).
"""

from ..names import CMA, ISOLATE, PAGEBLOCK_ORDER, PAGEBLOCK_PAGES
from .buddy import Buddy
from .memory import Allocation, Memory
from .ownership import Ownership


class Isolation:
    """
    Both operations run under one zone-lock hold, taken here.
    """

    def __init__(self, memory: Memory, buddy: Buddy, ownership: Ownership) -> None:
        self._memory = memory
        self._buddy = buddy
        self._ownership = ownership

    def isolate(self, pfn: int, cma: bool, check: bool) -> bool:
        """
        B-110: the block's free pages leave the free memory. False if it is isolated already or cannot be.
        """
        m = self._memory
        m.hold("other")
        index = m.block_index(pfn)
        block = m.blocks[index]
        if block.iso or not m.block_inside(index) or (check and self._unmovable(index, cma)):
            return False
        self._ownership.disown(index, "isolate")  # T7
        self._switch(index, 1)
        m.nr_isolate_pageblock += 1
        return True

    def unisolate(self, pfn: int) -> bool:
        """
        B-111. A block that was one chunk merges with its buddy if it can; ownership does not return (T7).
        """
        m = self._memory
        index = m.block_index(pfn)
        block = m.blocks[index]
        m.hold("other")
        if not block.iso:
            return False
        first = m.block_pfn(index)
        chunk = m.chunks.get(first)
        buddy = m.chunks.get(first ^ PAGEBLOCK_PAGES)
        if (
            chunk is not None
            and chunk.order == PAGEBLOCK_ORDER
            and buddy is not None
            and buddy.order == PAGEBLOCK_ORDER
            and buddy.type != ISOLATE
        ):
            self._buddy.remove(first)
            block.iso = 0
            self._buddy.merge_free(first, PAGEBLOCK_ORDER, block.type, to_tail=True)
        else:
            self._switch(index, 0)
        m.nr_isolate_pageblock -= 1
        return True

    def _switch(self, index: int, iso: int) -> None:
        """
        Set or clear the isolate bit, and move the block's free chunks to the lists of its type then.
        """
        m = self._memory
        block = m.blocks[index]
        first = m.block_pfn(index)
        whole = first & -(2 * PAGEBLOCK_PAGES)
        chunk = m.chunks.get(whole)
        if chunk is not None and chunk.order > PAGEBLOCK_ORDER:
            # Half of a larger chunk: that is freed anew as two blocks, each of its own type.
            self._buddy.remove(whole)
            m.account(-(1 << chunk.order), chunk.type)
            block.iso = iso
            self._buddy.split_free(whole, chunk.order)
        else:
            self._buddy.move_block(index, ISOLATE if iso else block.type)
            block.iso = iso

    def _unmovable(self, index: int, cma: bool) -> bool:
        """
        Whether the block holds pages that cannot be moved away: holes, allocations that are not movable, C pages.
        """
        m = self._memory
        if m.blocks[index].type == CMA and not cma:
            return True
        pfn = m.block_pfn(index)
        end = pfn + PAGEBLOCK_PAGES
        deferred = {page for head, order in m.deferred for page in range(head, head + (1 << order))}
        while pfn < end:
            found = m.run_at(pfn)
            if found is not None:
                head, run = found
                if isinstance(run, Allocation) and not run.movable:
                    return True
                pfn = head + (1 << run.order)
            elif pfn in deferred:
                pfn += 1
            else:
                return True
        return False
