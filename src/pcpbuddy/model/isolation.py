"""
Isolation of pageblocks (B-110, B-111; rfc.md P-86).
"""

from itertools import chain

from .. import names
from .memory import PB, Allocation, Chunk
from .paths import Paths

Busy = tuple[str, int]  # what stood in the way (CT-8), and the page


class Isolation(Paths):
    """Isolation and its inverse are one zone-lock hold each, taken here."""

    def isolate_block(self, index: int, cma: bool, check: bool) -> bool:
        """B-110. False if the block is isolated already or must not be. Then outboxes are handed over (P-46b)."""
        if self.try_to_isolate(index, cma, check) is not None:
            return False
        self.flush_all()
        return True

    def try_to_isolate(self, index: int, cma: bool, check: bool) -> Busy | None:
        """B-110, CT-2: the block's free pages leave the free memory. Else what stands in the way."""
        self.count(holds_other=1)
        busy = self._obstacle(index, cma, check)
        if busy is None:
            self.disown(index, "isolate")  # T7
            self._switch(index, 1)
            self.nr_isolate_pageblock += 1
        return busy

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

    def _obstacle(self, index: int, cma: bool, check: bool) -> Busy | None:
        """CT-2: why a block must not be isolated. Everything in a C block counts as movable for a CMA allocation."""
        block, start = self.blocks[index], self.block_pfn(index)
        if block.iso:
            return "isolated", start
        if not self.inside(index):
            return "edge", max(start, self.start_pfn)
        if not check or (block.type == names.CMA and cma):
            return None
        return ("cma", start) if block.type == names.CMA else self._unmovable(start)

    def _unmovable(self, start: int) -> Busy | None:
        """B-110: the first hole, or page of an allocation that cannot be moved."""
        for pfn in range(start, start + names.PAGEBLOCK_PAGES):
            found = self.run_at(pfn)
            if found is None and not self.is_on_its_way(pfn):
                return "hole", pfn
            if found is not None and isinstance(found[1], Allocation) and not found[1].movable:
                return "unmovable", pfn
        return None

    def is_on_its_way(self, pfn: int) -> bool:
        """Freed, but in no list of the zone or a PCP yet."""
        return any(head <= pfn < head + (1 << order) for head, order in chain(self.deferred, self.remote_runs()))
