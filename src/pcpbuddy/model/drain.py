"""
Returning pages from PCPs to the zone (B-85; rfc.md section 8).

The lock of the PCP is held; each zone-lock hold is one method.
"""

from collections.abc import Iterable

from .. import names
from .memory import PB, Pcp, Run
from .refill import Refill


class Drain(Refill):
    """Drains of any CPU's PCP by the executing CPU."""

    def drain_pcp(self, cpu: int, amount: int, order: int = 0, mt: int = names.UNMOVABLE, gaps: bool = False) -> bool:
        """
        P-60, B-82: return about ``amount`` pages, beginning with the list of (order, mt).

        gaps: between holds the PCP lock is dropped and only tried for again. Whether it is still held.
        """
        pcp = self.pcps[cpu]
        if amount <= 0:
            return True
        self.absorb(cpu)
        if pcp.count == 0:
            return True
        # P-54: once, before the first hold; or what a commit asks for has it when nothing fits well any more (P-55).
        late = gaps and self.policy.merge == "tail" and self.policy.drain == "near"
        if not late:
            self.merge_pass(cpu, amount)
        while True:
            if late and self._fits_well(pcp, min(amount, pcp.count), mt) is None:
                self.merge_pass(cpu, amount)
                late = False
            if self.policy.drain == "index":
                chunk = min(amount, pcp.batch)
                self.free_by_index(pcp, chunk, self.layout.index(order, mt))
                amount -= chunk  # what was asked for, not what was freed (B-82)
            else:
                amount = self._free_selected(pcp, min(amount, pcp.count), mt, late)
            if amount <= 0 or pcp.count == 0:
                return True
            if gaps and not self.trylock():
                return False

    def free_by_index(self, pcp: Pcp, amount: int, start: int) -> None:
        """One hold of B-85: list after list is emptied, beginning with ``start``."""
        self.count(holds_drain=1)
        amount = min(amount, pcp.count)
        position = self.layout.walk.index(start)
        while amount > 0:
            entries = pcp.lists[self.layout.walk[position]]
            while entries and amount > 0:
                pfn = entries.tail
                amount -= self._free_entry(pfn, self.entries[pfn].order)
            position = (position + 1) % self.layout.nr_lists

    def _free_selected(self, pcp: Pcp, amount: int, start: int, late: bool) -> int:
        """One hold of P-60: at most ``batch`` entries, or until a late pass is due. Returns the pages still to free."""
        self.count(holds_drain=1)
        for _ in range(max(pcp.batch, 1)):
            if late and self._fits_well(pcp, amount, start) is None:
                break
            selected = self._select(pcp, amount, start)
            if selected is None:
                return 0
            amount -= self._free_entry(*selected)
            if amount <= 0:
                break
        return amount

    def _select(self, pcp: Pcp, amount: int, start: int) -> Run | None:
        """P-61: the next entry, and the order to cut it to. None: nothing fits, and that ends the drain."""
        fitting = range(min(amount.bit_length() - 1, PB) + 1)
        pfn = self._near(pcp, amount, start) if self.policy.drain == "near" else None
        if pfn is None:
            pfn = self._oldest(pcp, fitting if self.policy.drain == "smallest" else reversed(fitting), start)
        overshoot = self.policy.drain_overshoot
        if pfn is None and overshoot == "stop":
            return None
        if pfn is None:
            pfn = self._oldest(pcp, range(PB + 1), start)
            assert pfn is not None, "a PCP whose count is not 0 has an entry (I-5)"
            if overshoot == "split":
                return pfn, fitting[-1]
        return pfn, self.entries[pfn].order

    def _near(self, pcp: Pcp, amount: int, start: int) -> int | None:
        """P-64: what fits well, else a whole block, if an eighth of it is asked for."""
        pfn = self._fits_well(pcp, amount, start)
        if pfn is None and amount >= names.PAGEBLOCK_PAGES // 8:
            pfn = self._oldest(pcp, [PB], start)
        return pfn

    def _fits_well(self, pcp: Pcp, amount: int, start: int) -> int | None:
        """P-64: the largest entry of at most so many pages, and of an eighth of them at least."""
        return self._oldest(pcp, (o for o in range(PB, -1, -1) if 1 << o <= amount <= 8 << o), start)

    def _oldest(self, pcp: Pcp, orders: Iterable[int], start: int) -> int | None:
        """The tail of the first list that has one: order by order, in each the types cyclically."""
        for order in filter(self.layout.has, orders):
            for step in range(names.NR_PCP_TYPES):
                entries = pcp.lists[self.layout.index(order, (start + step) % names.NR_PCP_TYPES)]
                if entries:
                    return entries.tail
        return None

    def _free_entry(self, pfn: int, order: int) -> int:
        """An entry, or its lower part, into the zone, as the type that its block has now. Returns its pages."""
        self.pcp_cut(pfn, order)
        mt = self.type_of(pfn)
        self.merge_free(pfn, order, mt)
        self.emit("pcpu_drain", pfn, order, mt)
        self.count(drained_entries=1, drained_pages=1 << order)
        return 1 << order
