"""
The free lists of a zone: primitives, and freeing into them (sections 2 and 3, B-90).

The zone lock is held, unless a method says that it takes it.
"""

from collections.abc import Iterator

from .. import names
from .memory import NR_FREE_BLOCKS, PB, Chunk
from .ownership import Ownership


class Buddy(Ownership):
    """Insert, remove, move, expand, take; merge on free."""

    def insert(self, pfn: int, order: int, mt: int, tail: bool = False) -> None:  # B-30
        self.free_area[order][mt].add(pfn, tail)
        self.chunks[pfn] = Chunk(order, mt)
        self.count(list_ops=1)
        self._add_blocks(order, mt, 1 << order)

    def remove(self, pfn: int) -> Chunk:  # B-31
        order, mt = chunk = self.chunks.pop(pfn)
        del self.free_area[order][mt][pfn]
        self.count(list_ops=1)
        self._add_blocks(order, mt, -(1 << order))
        return chunk

    def _add_blocks(self, order: int, mt: int, nr_pages: int) -> None:
        if order >= PB and mt != names.ISOLATE:
            self.add_stat(NR_FREE_BLOCKS, nr_pages)

    def move(self, pfn: int, mt: int) -> None:
        """B-32: to the tail of the same order's list of another type."""
        order, old = self.chunks[pfn]
        del self.free_area[order][old][pfn]
        self.free_area[order][mt].add(pfn, tail=True)
        self.chunks[pfn] = Chunk(order, mt)
        self.count(moves=1)
        self.account(-(1 << order), old)
        self.account(1 << order, mt)
        if (old == names.ISOLATE) != (mt == names.ISOLATE):
            self._add_blocks(order, old, -(1 << order))
            self._add_blocks(order, mt, 1 << order)

    def expand(self, pfn: int, low: int, high: int, mt: int) -> None:
        """B-34: upper halves go back to the list heads, from large to small; the lowest pages are kept."""
        for order in range(high - 1, low - 1, -1):
            self.insert(pfn + (1 << order), order, mt)
            self.count(zone_splits=1)

    def take_chunk(self, pfn: int, order: int) -> int:
        """B-35: a chunk leaves its list; what exceeds ``order`` stays in the zone."""
        chunk = self.remove(pfn)
        self.expand(pfn, order, chunk.order, chunk.type)
        self.account(-(1 << order), chunk.type)
        self.count(pages_moved=1 << order)
        return pfn

    def emit_zone_locked(self, pfn: int, order: int, mt: int) -> None:
        """17.3: percpu_refill is what order and list type allow, not what happens."""
        self.emit("zone_locked", pfn, order, mt, int(self.layout.serves(order) and mt < names.NR_PCP_TYPES))

    def chunks_of(self, index: int) -> Iterator[tuple[int, int]]:
        """(pfn, order) of the free chunks that start in a block, ascending."""
        pfn = self.block_pfn(index)
        end = pfn + names.PAGEBLOCK_PAGES
        while pfn < end:
            chunk = self.chunks.get(pfn)
            if chunk is not None:
                yield pfn, chunk.order
            pfn += 1 << chunk.order if chunk is not None else 1

    def move_block(self, index: int, mt: int) -> None:  # all free chunks of a block, ascending
        for pfn, _ in self.chunks_of(index):
            self.move(pfn, mt)

    # Freeing

    def merge_free(self, pfn: int, order: int, mt: int, to_tail: bool = False) -> None:
        """B-36: merge a freed run with its free buddies and list the result. The one way into the zone."""
        self.count(pages_moved=1 << order)
        self.account(1 << order, mt)
        while order < names.MAX_PAGE_ORDER:
            buddy = pfn ^ (1 << order)
            chunk = self.chunks.get(buddy)
            if chunk is None or chunk.order != order:
                break
            if chunk.type != mt and (chunk.type >= names.NR_PCP_TYPES or mt >= names.NR_PCP_TYPES):
                break  # whole blocks: only U, M and R mix, and the block freed last wins
            self.remove(buddy)
            if chunk.type != mt:
                for index in self.covered(buddy, order):
                    self.retype(index, mt)
            pfn &= buddy
            order += 1
            self.count(zone_merges=1)
        self.before_placing(pfn, order)
        self.insert(pfn, order, mt, tail=to_tail or self._merge_likely(pfn, order))
        self.after_placing(pfn, order)

    def _merge_likely(self, pfn: int, order: int) -> bool:
        """B-37: whether the union with our buddy could merge again."""
        chunk = self.chunks.get((pfn & ~(1 << order)) ^ (1 << (order + 1)))
        return order < PB and chunk is not None and chunk.order == order + 1

    def split_free(self, pfn: int, order: int, to_tail: bool = False) -> None:
        """B-38: whole blocks are freed one by one, each as what it is."""
        piece = min(order, PB)
        for start in range(pfn, pfn + (1 << order), 1 << piece):
            self.merge_free(start, piece, self.type_of(start), to_tail)

    def direct_free(self, pfn: int, order: int, *, nolock: bool = False, to_tail: bool = False) -> None:
        """B-90, takes the zone lock; with nolock it only tries to, and failing that defers the free (B-92)."""
        if nolock and not self.trylock():
            self.deferred.append((pfn, order))
            return
        self.count(holds_direct_free=1)
        while self.deferred and not nolock:
            self.split_free(*self.deferred.pop(), to_tail)
        self.split_free(pfn, order, to_tail)
