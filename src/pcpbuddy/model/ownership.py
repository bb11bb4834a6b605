"""
Who owns a pageblock, and which owned blocks have fragments in the zone (rfc.md section 3).

Everything here runs with the zone lock held: it protects owners, links and the ``owned`` lists of all CPUs.
"""

from ..names import PAGEBLOCK_ORDER
from .memory import NOBODY, Memory


class Ownership:
    """
    The transitions T1 to T8 of P-10.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def claim(self, index: int, cpu: int) -> None:
        """
        T1: FREE -> PRIVATE. The block was one free chunk, so no page of it is anywhere else (P-11).
        """
        m = self._memory
        block = m.blocks[index]
        block.owner = cpu
        m.emit_for(cpu, "claim", m.block_pfn(index), block.effective)

    def link(self, index: int) -> None:
        """
        T2: fragments of an owned block are in the zone; it joins its owner's list at the tail (P-16).
        """
        m = self._memory
        block = m.blocks[index]
        block.linked = 1
        m.pcps[block.owner].owned.add_tail(index)
        m.emit_for(block.owner, "own_link", m.block_pfn(index))

    def unlink(self, index: int) -> None:
        """
        T3, and first step of every disowning.
        """
        m = self._memory
        block = m.blocks[index]
        block.linked = 0
        m.pcps[block.owner].owned.remove(index)
        m.emit_for(block.owner, "own_unlink", m.block_pfn(index))

    def disown(self, index: int, reason: str) -> None:
        """
        T5 to T8: the block is nobody's. Entries marked in the old owner's PCP stay marked (P-13).
        """
        m = self._memory
        block = m.blocks[index]
        if block.owner == NOBODY:
            return
        if block.linked:
            self.unlink(index)
        owner, block.owner = block.owner, NOBODY
        m.emit_for(owner, "disown", m.block_pfn(index), reason)

    def retype(self, index: int, mt: int) -> None:
        """
        Set the type of a block, which also clears the isolate bit (1.3) and ends ownership (T6, P-12).
        """
        block = self._memory.blocks[index]
        block.type = mt
        block.iso = 0
        self.disown(index, "retype")

    def before_placing(self, pfn: int, order: int) -> None:
        """
        P-62, first half: T5 when a freed chunk has grown to whole blocks, before it is listed.
        """
        if order >= PAGEBLOCK_ORDER:
            for index in self._memory.covered_blocks(pfn, order):
                self.disown(index, "free")

    def after_placing(self, pfn: int, order: int) -> None:
        """
        P-62, second half: T2 when a fragment of an owned block has been listed.
        """
        m = self._memory
        block = m.block(pfn)
        if order < PAGEBLOCK_ORDER and block.owner != NOBODY and not block.linked:
            self.link(m.block_index(pfn))

    def disown_all(self, cpu: int) -> None:
        """
        T8: a CPU went off-line; its PCP is drained already (P-85).
        """
        self._memory.hold("other")
        for index, block in enumerate(self._memory.blocks):
            if block.owner == cpu:
                self.disown(index, "offline")
