"""
Returning pages from PCPs to the zone: amounts, selection, holds, periodic work (B-85, B-100 to B-103; rfc.md 8).

The caller holds the lock of the PCP that is drained; each zone-lock hold is one function here.
"""

from ..config import Policy
from ..names import NR_PCP_TYPES, PAGEBLOCK_ORDER, PCP_BATCH_SCALE_MAX, UNMOVABLE
from .buddy import Buddy
from .memory import Memory, Pcp
from .pcp import Layout, PcpLists, Tuning


class Drain:
    """
    Drains of one zone's PCPs, executed by whichever CPU needs them.
    """

    def __init__(
        self, memory: Memory, policy: Policy, layout: Layout, buddy: Buddy, pcp_lists: PcpLists, tuning: Tuning
    ) -> None:
        self._memory = memory
        self._layout = layout
        self._buddy = buddy
        self._lists = pcp_lists
        self._tuning = tuning
        self._merge = policy.merge == "drain"
        self._by_index = policy.drain == "index"

    def drain(self, cpu: int, amount: int, order: int, mt: int, gaps: bool = False) -> bool:
        """
        Return about ``amount`` pages, beginning with the list of (order, mt).

        gaps: between two holds the PCP lock is dropped and only tried for again (B-82).
        Returns whether the lock is still held.
        """
        pcp = self._memory.pcps[cpu]
        if min(amount, pcp.count) <= 0:
            return True
        if self._merge:
            self._lists.merge_pass(cpu)  # P-54: once, before the first hold
        while True:
            if self._by_index:
                chunk = min(amount, pcp.batch)
                self._free_by_index(pcp, chunk, self._layout.index(order, mt))
                amount -= chunk  # what was asked for, not what was freed (B-82)
            else:
                amount = self._free_largest_fit(pcp, min(amount, pcp.count), mt)
            if amount <= 0 or pcp.count == 0:
                return True
            if gaps and not self._memory.trylock():
                return False

    def _free_by_index(self, pcp: Pcp, amount: int, start: int) -> None:
        """
        One zone-lock hold of B-85: empty list after list, beginning with ``start``.
        """
        self._memory.hold("drain")
        amount = min(amount, pcp.count)
        walk = self._layout.walk
        position = walk.index(start)
        while amount > 0:
            entries = pcp.lists[walk[position]]
            while entries and amount > 0:
                amount -= self._free_entry(entries.tail())
            position = (position + 1) % len(walk)

    def _free_largest_fit(self, pcp: Pcp, amount: int, start: int) -> int:
        """
        One zone-lock hold of P-60: at most ``batch`` entries. Returns the pages still to free.
        """
        self._memory.hold("drain")
        for _ in range(max(pcp.batch, 1)):
            amount -= self._free_entry(self._select(pcp, amount, start))
            if amount <= 0:
                break
        return amount

    def _select(self, pcp: Pcp, amount: int, start: int) -> int:
        """
        P-61: the tail of the highest order that fits; if none does, of the lowest there is.
        """
        fitting = range(min(amount.bit_length() - 1, PAGEBLOCK_ORDER), -1, -1)
        for order in (*fitting, *range(PAGEBLOCK_ORDER + 1)):
            if not self._layout.has(order):
                continue
            for step in range(NR_PCP_TYPES):
                entries = pcp.lists[self._layout.index(order, (start + step) % NR_PCP_TYPES)]
                if entries:
                    return entries.tail()
        raise AssertionError("a PCP whose count is not 0 has an entry (I-5)")

    def _free_entry(self, pfn: int) -> int:
        """
        One entry into the zone, as the type that its block has now. Returns its pages.
        """
        m = self._memory
        entry, _ = self._lists.delete(pfn)
        mt = m.type_of(pfn)
        self._buddy.merge_free(pfn, entry.order, mt)
        m.emit("pcpu_drain", pfn, entry.order, mt)
        m.count("drained_entries")
        m.count("drained_pages", 1 << entry.order)
        return 1 << entry.order

    def drain_zone(self, cpu: int) -> None:
        """
        B-100: empty a PCP, waiting for its lock.
        """
        pcp = self._memory.pcps[cpu]
        if not self._by_index:
            self.drain(cpu, pcp.count, 0, UNMOVABLE)
            return
        if self._merge and pcp.count:
            self._lists.merge_pass(cpu)
        while pcp.count:
            self._free_by_index(pcp, pcp.batch << PCP_BATCH_SCALE_MAX, 0)

    def drain_all(self) -> None:
        """
        B-100: every on-line CPU that has pages, ascending.
        """
        for cpu, pcp in enumerate(self._memory.pcps):
            if pcp.online and pcp.count:
                self.drain_zone(cpu)

    def decay(self, cpu: int) -> None:
        """
        B-102.
        """
        excess = self._tuning.decay(self._memory.pcps[cpu])
        self.drain(cpu, excess, 0, UNMOVABLE)

    def tick(self, cpu: int) -> None:
        """
        B-101: fold the counters, decay, and expire what a CPU holds of another node's zone (B-103).
        """
        self.fold(cpu)
        self.decay(cpu)
        pcp = self._memory.pcps[cpu]
        if not pcp.expire or not pcp.count:
            return
        if not pcp.remote_node:
            pcp.expire = 0
            return
        pcp.expire -= 1
        if pcp.expire == 0:
            self.drain(cpu, min(pcp.count, pcp.batch), 0, UNMOVABLE)

    def fold(self, cpu: int) -> None:
        """
        B-17, on the CPU itself.
        """
        if self._memory.fold(cpu):
            self._memory.pcps[cpu].expire = 3
