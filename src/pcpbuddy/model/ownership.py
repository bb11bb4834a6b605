"""
Who owns a pageblock, and which owned blocks have fragments in the zone (rfc.md section 3).

The zone lock is held: it protects owners, links and the ``owned`` lists of all CPUs (P-2).
"""

from .. import names
from .memory import NOBODY, PB
from .watermark import Watermark


class Ownership(Watermark):
    """The transitions T1 to T8 of P-10, and adoption."""

    def own(self, index: int, cpu: int) -> None:  # T1; no page of the block is anywhere but here (P-11)
        self.blocks[index].owner = cpu
        self.emit("claim", self.block_pfn(index), self.blocks[index].effective, cpu=cpu)

    def adopt(self, index: int, cpu: int) -> None:
        """P-17: own a block of which a chunk was taken, and link it if others are left."""
        self.blocks[index].owner = cpu
        self.emit("adopt", self.block_pfn(index), self.blocks[index].effective)
        for step in range(names.PAGEBLOCK_PAGES):
            self.count(scanned_pfns=1)
            if self.block_pfn(index) + step in self.chunks:
                self.link(index)
                break

    def link(self, index: int) -> None:  # T2, P-16
        block = self.blocks[index]
        block.linked = 1
        self.owned_list(block.owner, index).add(index, tail=self.policy.owned_order == "tail")
        self.emit("own_link", self.block_pfn(index), cpu=block.owner)

    def unlink(self, index: int) -> None:  # T3
        block = self.blocks[index]
        block.linked = 0
        del self.owned_list(block.owner, index)[index]
        self.emit("own_unlink", self.block_pfn(index), cpu=block.owner)

    def disown(self, index: int, reason: str) -> None:
        """T5 to T8. Entries marked in the old owner's PCP stay marked (P-13)."""
        block = self.blocks[index]
        if block.owner == NOBODY:
            return
        if block.linked:
            self.unlink(index)
        self.emit("disown", self.block_pfn(index), reason, cpu=block.owner)
        block.owner = NOBODY

    def disown_all(self, cpu: int) -> None:
        """T8, P-85. Takes the zone lock."""
        self.count(holds_other=1)
        for index, block in enumerate(self.blocks):
            if block.owner == cpu:
                self.disown(index, "offline")

    def retype(self, index: int, mt: int) -> None:
        """Set a block's type, which also clears the isolate bit (1.3) and may end ownership (T6, P-12)."""
        block = self.blocks[index]
        if self.policy.retype == "disown":
            self.disown(index, "retype")
        moves = block.linked and len(self.pcps[block.owner].owned) > 1
        if moves:
            self.unlink(index)
        block.type, block.iso = mt, 0
        if moves:
            self.link(index)

    def before_placing(self, pfn: int, order: int) -> None:
        """P-62, T5: a freed run that has grown to whole blocks ends their ownership before it is listed."""
        if order >= PB:
            for index in self.covered(pfn, order):
                self.disown(index, "free")

    def after_placing(self, pfn: int, order: int) -> None:
        """P-62, T2: a fragment of an owned block links it once it is listed."""
        block = self.block(pfn)
        if order < PB and block.owner != NOBODY and not block.linked:
            self.link(self.block_index(pfn))
