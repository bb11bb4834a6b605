"""
Isolation of pageblocks (B-110, B-111; rfc.md P-86).
"""

from itertools import chain

from .. import names
from .memory import PB, Allocation, Chunk
from .paths import Paths


class Isolation(Paths):
    """Both operations are one zone-lock hold, taken here. After an isolation the outboxes are handed over (P-46b)."""

    def isolate_block(self, index: int, cma: bool, check: bool) -> bool:
        """B-110: the block's free pages leave the free memory. False if it is isolated already or must not be."""
        self.count(holds_other=1)
        if self.blocks[index].iso or not self.inside(index) or (check and self._has_unmovable(index, cma)):
            return False
        self.disown(index, "isolate")  # T7
        self._switch(index, 1)
        self.nr_isolate_pageblock += 1
        self.flush_all()
        return True

    def unisolate_block(self, index: int) -> bool:
        """B-111: a block that is one chunk may merge with its buddy. Ownership does not return (T7)."""
        self.count(holds_other=1)
        if not self.blocks[index].iso:
            return False
        pfn = self.block_pfn(index)
        chunk, buddy = self.chunks.get(pfn), self.chunks.get(pfn ^ names.PAGEBLOCK_PAGES, Chunk(0, names.ISOLATE))
        if chunk == (PB, names.ISOLATE) and buddy.order == PB and buddy.type != names.ISOLATE:
            self.remove(pfn)
            self.blocks[index].iso = 0
            self.merge_free(pfn, PB, self.blocks[index].type, to_tail=True)
        else:
            self._switch(index, 0)
        self.nr_isolate_pageblock -= 1
        return True

    def _switch(self, index: int, iso: int) -> None:
        """Set or clear the bit; the block's free chunks follow to the lists of its effective type."""
        block = self.blocks[index]
        pair = self.block_pfn(index) & ~names.PAGEBLOCK_PAGES
        chunk = self.chunks.get(pair)
        if chunk is None or chunk.order <= PB:
            self.move_block(index, names.ISOLATE if iso else block.type)
            block.iso = iso
            return
        self.remove(pair)  # half of a larger chunk: two blocks again, each of its own type
        self.account(-(1 << chunk.order), chunk.type)
        block.iso = iso
        self.split_free(pair, chunk.order)

    def _has_unmovable(self, index: int, cma: bool) -> bool:
        """Holes, allocations that cannot be moved, and C pages for anyone but a CMA allocation."""
        if self.blocks[index].type == names.CMA and not cma:
            return True
        start = self.block_pfn(index)
        freed = chain(self.deferred, self.remote_runs())
        waiting = {page for pfn, order in freed for page in range(pfn, pfn + (1 << order))}
        for pfn in range(start, start + names.PAGEBLOCK_PAGES):
            found = self.run_at(pfn)
            if found is None and pfn not in waiting:
                return True
            if found is not None and isinstance(found[1], Allocation) and not found[1].movable:
                return True
        return False
