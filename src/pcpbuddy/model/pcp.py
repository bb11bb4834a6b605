"""
Per-CPU lists and how they are tuned: list primitives, merging, amounts and limits (sections 6, 10; rfc.md 4, 7).

The lock of the PCP is held, and the zone is not touched.
"""

from .. import names
from .fallback import Fallback
from .memory import PB, Entry, PageList, Pcp
from .sizing import clamp

SCALE = names.PCP_BATCH_SCALE_MAX
LOOKS = 4  # at entries, for each that a drain can use (P-55)


def pcp_type(block_type: int) -> int:
    """The type of the list that a freed page joins: H and C ride on M (1.2, P-25, P-51)."""
    return block_type if block_type < names.NR_PCP_TYPES else names.MOVABLE


class PcpLists(Fallback):
    """Entries in, entries out, and merging inside."""

    def pcp_put(self, cpu: int, pfn: int, order: int, mt: int, mark: bool, tail: bool = False) -> None:  # P-20
        pcp, index = self.pcps[cpu], self.layout.index(order, mt)
        pcp.lists[index].add(pfn, tail)
        pcp.count += 1 << order
        self.entries[pfn] = Entry(cpu, order, index)
        if mark or self.policy.mark == "all":
            pcp.marked.add(pfn)

    def pcp_put_freed(self, cpu: int, pfn: int, order: int) -> None:
        """B-81 step 1, P-44: a freed run joins the list of its block's type."""
        self.pcp_put(cpu, pfn, order, pcp_type(self.type_of(pfn)), mark=self.block(pfn).owner == cpu)

    def pcp_del(self, pfn: int) -> tuple[Entry, bool]:
        """P-21. Returns the entry and whether it was marked; nothing outside a PCP is (I-9)."""
        entry = self.entries.pop(pfn)
        pcp = self.pcps[entry.cpu]
        del pcp.lists[entry.pindex][pfn]
        pcp.count -= 1 << entry.order
        mark = pfn in pcp.marked
        pcp.marked.discard(pfn)
        return entry, mark

    def pcp_cut(self, pfn: int, order: int) -> None:
        """P-22: an entry leaves the PCP; what exceeds ``order`` stays, as halves on lists of the same type."""
        entry, mark = self.pcp_del(pfn)
        _, mt = self.layout.key(entry.pindex)
        for half in range(entry.order - 1, order - 1, -1):
            self.pcp_put(entry.cpu, pfn + (1 << half), half, mt, mark)
            self.count(pcp_splits=1)

    def pcp_take(self, cpu: int, order: int, mt: int) -> int | None:
        """P-22: from the smallest sufficient list, split here. Without local_split, of this order only (B-62)."""
        for current in range(order, PB + 1) if self.policy.local_split == "on" else [order]:
            entries = self.pcps[cpu].lists[self.layout.index(current, mt)]
            if entries:
                pfn = self._preferred(self.pcps[cpu], entries)
                self.pcp_cut(pfn, order)
                return pfn
        return None

    def _preferred(self, pcp: Pcp, entries: PageList) -> int:
        """P-23: the head, or the first entry that keeps no owned block from becoming whole."""
        if self.policy.take_prefer == "unmarked":
            return next((pfn for pfn in entries if pfn not in pcp.marked), entries.head)
        return entries.head

    def merge_pass(self, cpu: int, amount: int) -> None:
        """P-50, P-55: before a drain of ``amount`` pages. With 14 lists nothing is marked (P-3, P-4)."""
        if self.policy.merge not in ("drain", "tail"):
            return
        amount = max(min(amount, self.pcps[cpu].count), names.PAGEBLOCK_PAGES)  # P-55: at least a block
        for order in filter(self.layout.has, range(PB)):
            for mt in range(names.NR_PCP_TYPES):
                entries = list(self.pcps[cpu].lists[self.layout.index(order, mt)])
                if self.policy.merge == "tail":
                    self._merge_from_tail(cpu, entries, order, amount >> order)
                else:
                    for pfn in entries:
                        self._merge(cpu, pfn, order)

    def _merge_from_tail(self, cpu: int, entries: list[int], order: int, most: int) -> None:
        """P-55: until so many entries have merged, or four times as many were looked at."""
        looks, merges = LOOKS * most, (most + 1) // 2
        for pfn in reversed(entries):
            if looks == 0 or merges == 0:
                return
            before = self.entries.get(pfn)
            if before is not None and before.order == order:
                looks -= 1
                merges -= self._merge(cpu, pfn, order) is not None

    def merge_up(self, cpu: int, pfn: int, order: int) -> None:
        """P-53, merge=free: a freed entry that is marked merges for as long as it finds its buddy."""
        merged = pfn if self.policy.merge == "free" and pfn in self.pcps[cpu].marked else None
        while merged is not None and order < PB:
            merged = self._merge(cpu, merged, order)
            order += 1

    def _merge(self, cpu: int, pfn: int, order: int) -> int | None:
        """An entry and its buddy become one, if both are marked entries of this PCP. Its first page."""
        buddy = pfn ^ (1 << order)
        first, second = self.entries.get(pfn), self.entries.get(buddy)
        if first is None or first.order != order:
            return None  # merged already
        self.count(merge_visited=1)
        if second is None or second[:2] != (cpu, order) or not {pfn, buddy} <= self.pcps[cpu].marked:
            return None
        self.pcp_del(pfn)
        self.pcp_del(buddy)
        # P-51: the lists differ if the block was converted while one of the two was here already.
        mt = self.layout.key(first.pindex)[1] if first.pindex == second.pindex else pcp_type(self.type_of(pfn))
        self.pcp_put(cpu, pfn & buddy, order + 1, mt, mark=True, tail=True)
        self.count(pcp_merges=1)
        self.emit("pmerge", pfn & buddy, order + 1)
        return pfn & buddy

    # Tuning, which rfc.md leaves as it is (P-70)

    def high_step(self, pcp: Pcp, order: int) -> int:
        """B-64 step 2: by how much a refill raises high."""
        return pcp.batch if order else pcp.batch << pcp.alloc_factor

    def raise_high(self, pcp: Pcp, amount: int) -> None:
        """B-64 step 3."""
        if pcp.high_min != pcp.high_max and not self.flags & names.ZONE_BELOW_HIGH:
            pcp.high = min(pcp.high + amount, pcp.high_max)

    def raise_high_by_pages(self, pcp: Pcp, nr_pages: int, step: int) -> None:
        """P-70, high_growth=pages: what a refill got counts, and B-64 has raised high by ``step`` already."""
        if self.policy.high_growth == "pages" and pcp.high >= pcp.batch:
            self.raise_high(pcp, max(0, nr_pages // pcp.batch * pcp.batch - step))

    def refill_size(self, pcp: Pcp, order: int) -> int:
        """B-64: entries of a refill. Moves high and alloc_factor even if no refill follows."""
        pcp.high = clamp(pcp.high, pcp.high_min, pcp.high_max)
        if pcp.high < pcp.batch:
            return 1
        b = self.high_step(pcp, order)
        self.raise_high(pcp, b)
        if order == 0:
            most = max(pcp.high - pcp.count - pcp.batch, pcp.batch)
            if b <= most and pcp.alloc_factor < SCALE:
                pcp.alloc_factor += 1
            b = min(b, most)
        return max(b >> order, 2) if b > 1 else b

    def charge_free(self, pcp: Pcp, order: int) -> None:  # B-81 step 3
        if pcp.free_count < pcp.batch << SCALE:
            pcp.free_count += 1 << order

    def free_high(self, pcp: Pcp, order: int) -> bool:
        """B-81 steps 2 and 3, the entry being on its list: whether a run of high-order frees is under way."""
        free_high = False
        if 1 <= order <= 3:
            free_high = (
                pcp.free_count >= pcp.batch + pcp.high_min // 2
                and bool(pcp.flags & names.PCPF_PREV_FREE_HIGH_ORDER)
                and (not pcp.flags & names.PCPF_FREE_HIGH_BATCH or pcp.count >= pcp.batch)
            )
            pcp.flags |= names.PCPF_PREV_FREE_HIGH_ORDER
        else:
            pcp.flags &= ~names.PCPF_PREV_FREE_HIGH_ORDER
        self.charge_free(pcp, order)
        return free_high

    def free_limit(self, pcp: Pcp, free_high: bool) -> int:
        """B-83: the count that a free must not reach. A raised high holds from the next free on."""
        high = pcp.high = clamp(pcp.high, pcp.high_min, pcp.high_max)
        if high == 0:
            return 0
        if free_high:
            pcp.high = max(high - (pcp.batch << SCALE), pcp.high_min)
            return 0
        shrunk = max(high - max(pcp.free_count, pcp.batch), pcp.high_min)
        if self.flags & names.ZONE_RECLAIM_ACTIVE:
            pcp.high = shrunk
            return min(4 * pcp.batch, pcp.high)
        if pcp.high_min == pcp.high_max:
            return high
        if self.flags & names.ZONE_BELOW_HIGH:
            pcp.high = shrunk
            return max(pcp.count, pcp.high_min)
        need = pcp.free_count + pcp.batch
        if pcp.count >= high and high < need:
            pcp.high = clamp(need, pcp.high_min, pcp.high_max)
        return high

    def free_amount(self, pcp: Pcp, limit: int, free_high: bool) -> int:
        """B-84: pages to drain once the limit is reached."""
        if free_high:
            return min(pcp.count, pcp.batch << SCALE)
        return 1 if limit < pcp.batch else clamp(pcp.free_count, pcp.batch, limit - pcp.batch)
