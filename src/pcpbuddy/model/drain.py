"""
Returning pages from PCPs to the zone, and the periodic work (B-85, B-100 to B-103; rfc.md section 8).

The lock of the PCP is held; each zone-lock hold is one method.
"""

from .. import names
from .memory import PB, Pcp
from .pcp import SCALE
from .refill import Refill


class Drain(Refill):
    """Drains of any CPU's PCP by the executing CPU."""

    def drain_pcp(self, cpu: int, amount: int, order: int = 0, mt: int = names.UNMOVABLE, gaps: bool = False) -> bool:
        """
        P-60, B-82: return about ``amount`` pages, beginning with the list of (order, mt).

        gaps: between holds the PCP lock is dropped and only tried for again. Whether it is still held.
        """
        pcp = self.pcps[cpu]
        if min(amount, pcp.count) <= 0:
            return True
        self.merge_pass(cpu)  # P-54: once, before the first hold
        while True:
            if self.policy.drain == "index":
                chunk = min(amount, pcp.batch)
                self._free_by_index(pcp, chunk, self.layout.index(order, mt))
                amount -= chunk  # what was asked for, not what was freed (B-82)
            else:
                amount = self._free_largest_fit(pcp, min(amount, pcp.count), mt)
            if amount <= 0 or pcp.count == 0:
                return True
            if gaps and not self.trylock():
                return False

    def _free_by_index(self, pcp: Pcp, amount: int, start: int) -> None:
        """One hold of B-85: list after list is emptied, beginning with ``start``."""
        self.count(holds_drain=1)
        amount = min(amount, pcp.count)
        position = self.layout.walk.index(start)
        while amount > 0:
            entries = pcp.lists[self.layout.walk[position]]
            while entries and amount > 0:
                amount -= self._free_entry(entries.tail)
            position = (position + 1) % self.layout.nr_lists

    def _free_largest_fit(self, pcp: Pcp, amount: int, start: int) -> int:
        """One hold of P-60: at most ``batch`` entries. Returns the pages still to free."""
        self.count(holds_drain=1)
        for _ in range(max(pcp.batch, 1)):
            amount -= self._free_entry(self._select(pcp, amount, start))
            if amount <= 0:
                break
        return amount

    def _select(self, pcp: Pcp, amount: int, start: int) -> int:
        """P-61: the tail of the highest order that fits; if none does, of the lowest there is."""
        fitting = range(min(amount.bit_length() - 1, PB), -1, -1)
        for order in filter(self.layout.has, (*fitting, *range(PB + 1))):
            for step in range(names.NR_PCP_TYPES):
                entries = pcp.lists[self.layout.index(order, (start + step) % names.NR_PCP_TYPES)]
                if entries:
                    return entries.tail
        raise AssertionError("a PCP whose count is not 0 has an entry (I-5)")

    def _free_entry(self, pfn: int) -> int:
        """An entry into the zone, as the type that its block has now. Returns its pages."""
        order = self.pcp_del(pfn)[0].order
        mt = self.type_of(pfn)
        self.merge_free(pfn, order, mt)
        self.emit("pcpu_drain", pfn, order, mt)
        self.count(drained_entries=1, drained_pages=1 << order)
        return 1 << order

    def drain_zone(self, cpu: int) -> None:  # B-100
        pcp = self.pcps[cpu]
        if self.policy.drain != "index":
            self.drain_pcp(cpu, pcp.count)
            return
        self.merge_pass(cpu)
        while pcp.count:
            self._free_by_index(pcp, pcp.batch << SCALE, 0)

    def drain_all(self) -> None:  # B-100
        for cpu, pcp in enumerate(self.pcps):
            if pcp.online and pcp.count:
                self.drain_zone(cpu)

    def fold_cpu(self, cpu: int) -> None:  # B-17, on the CPU itself
        if self.fold_stat(cpu):
            self.pcps[cpu].expire = 3

    def decay_pcp(self, cpu: int) -> None:  # B-102
        pcp = self.pcps[cpu]
        if pcp.high > pcp.high_min:
            pcp.high = max(pcp.count - (pcp.batch << SCALE), pcp.high - pcp.high // 8, pcp.high_min)
        self.drain_pcp(cpu, pcp.count - pcp.high)

    def vmstat_tick(self, cpu: int) -> None:
        """B-101: fold, decay, and expire what a CPU holds of another node's zone (B-103)."""
        pcp = self.pcps[cpu]
        self.fold_cpu(cpu)
        self.decay_pcp(cpu)
        if pcp.expire and pcp.count:
            pcp.expire = pcp.expire - 1 if pcp.remote_node else 0
            if pcp.remote_node and not pcp.expire:
                self.drain_pcp(cpu, min(pcp.count, pcp.batch))
