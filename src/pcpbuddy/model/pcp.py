"""
Per-CPU lists and their tuning: list primitives, refill size, limits, decay (sections 6, 10, 12; rfc.md 4, 7).

Everything here runs with the lock of the PCP held and does not touch the zone.
"""

from ..config import Policy
from ..names import (
    MOVABLE,
    NR_PCP_TYPES,
    PAGEBLOCK_ORDER,
    PCP_BATCH_SCALE_MAX,
    PCPF_FREE_HIGH_BATCH,
    PCPF_PREV_FREE_HIGH_ORDER,
    UNMOVABLE,
    ZONE_BELOW_HIGH,
    ZONE_RECLAIM_ACTIVE,
)
from .memory import Entry, Memory, Pcp
from .sizing import clamp


def pcp_type(block_type: int) -> int:
    """
    The type of the list that a freed page joins: H, C and I ride on M (1.2, P-25, P-51).
    """
    return block_type if block_type < NR_PCP_TYPES else MOVABLE


class Layout:
    """
    Which (order, type) is which PCP list: the kernel's 14 (B-10) or one for each (P-3).
    """

    def __init__(self, policy: Policy) -> None:
        self.nr_lists = policy.pcp_lists
        self._shared = policy.pcp_lists == 14
        # The order in which an index drain walks; U and R of order 9 come before M, as in list 12 (P-95).
        self.walk = list(range(14)) if self._shared else [*range(27), 27, 29, 28]

    def index(self, order: int, mt: int) -> int:
        """
        B-10, P-3.
        """
        if self._shared and order > 3:
            return 13 if mt == MOVABLE else 12
        return 3 * order + mt

    def key(self, index: int) -> tuple[int, int]:
        """
        (order, type) of a list; the shared list 12 is called (9, U).
        """
        if self._shared and index >= 12:
            return PAGEBLOCK_ORDER, (UNMOVABLE, MOVABLE)[index - 12]
        return index // 3, index % 3

    def has(self, order: int) -> bool:
        """
        Whether entries of this order have a list.
        """
        return order <= 3 or order == PAGEBLOCK_ORDER or not self._shared


class PcpLists:
    """
    Entries in, entries out; ``count`` follows (P-20 to P-24).
    """

    def __init__(self, memory: Memory, policy: Policy, layout: Layout) -> None:
        self._memory = memory
        self._layout = layout
        self._split = policy.local_split == "on"

    def put(self, cpu: int, pfn: int, order: int, mt: int, mark: bool, tail: bool = False) -> None:
        """
        P-20. mark: PCPBuddy, the entry may merge here.
        """
        pcp = self._memory.pcps[cpu]
        index = self._layout.index(order, mt)
        if tail:
            pcp.lists[index].add_tail(pfn)
        else:
            pcp.lists[index].add_head(pfn)
        self._memory.entries[pfn] = Entry(cpu, order, index)
        pcp.count += 1 << order
        if mark:
            pcp.marked.add(pfn)

    def delete(self, pfn: int) -> tuple[Entry, bool]:
        """
        P-21. Returns the entry and whether it was marked; nothing outside a PCP is.
        """
        entry = self._memory.entries.pop(pfn)
        pcp = self._memory.pcps[entry.cpu]
        pcp.lists[entry.index].remove(pfn)
        pcp.count -= 1 << entry.order
        mark = pfn in pcp.marked
        pcp.marked.discard(pfn)
        return entry, mark

    def take(self, cpu: int, order: int, mt: int) -> int | None:
        """
        P-22: the head of the smallest sufficient list, split here; without local_split, of this order only (B-62).
        """
        pcp = self._memory.pcps[cpu]
        for current in range(order, PAGEBLOCK_ORDER + 1 if self._split else order + 1):
            entries = pcp.lists[self._layout.index(current, mt)]
            if entries:
                pfn = entries.head()
                _, mark = self.delete(pfn)
                for half in range(current - 1, order - 1, -1):
                    self.put(cpu, pfn + (1 << half), half, mt, mark)
                    self._memory.count("pcp_splits")
                return pfn
        return None

    def merge_pass(self, cpu: int) -> None:
        """
        P-50: merge marked buddies bottom-up. With the kernel's 14 lists nothing is marked (P-3, P-4).
        """
        pcp = self._memory.pcps[cpu]
        for order in filter(self._layout.has, range(PAGEBLOCK_ORDER)):
            for mt in range(NR_PCP_TYPES):
                for pfn in list(pcp.lists[self._layout.index(order, mt)]):
                    self._merge(cpu, pfn, order)

    def _merge(self, cpu: int, pfn: int, order: int) -> None:
        """
        One step of P-50, if the entry is still there and its buddy is in the same PCP.
        """
        m = self._memory
        marked = m.pcps[cpu].marked
        buddy = pfn ^ (1 << order)
        entry, other = m.entries.get(pfn), m.entries.get(buddy)
        if entry is None or entry.order != order:
            return
        m.count("merge_visited")
        if pfn not in marked or other is None or other.order != order or other.cpu != cpu or buddy not in marked:
            return
        self.delete(pfn)
        self.delete(buddy)
        # P-51: types may differ if the block was converted while the first of them was here.
        mt = self._layout.key(entry.index)[1] if entry.index == other.index else pcp_type(m.type_of(pfn))
        self.put(cpu, pfn & buddy, order + 1, mt, mark=True, tail=True)
        m.count("pcp_merges")
        m.emit("pmerge", pfn & buddy, order + 1)


class Tuning:
    """
    How much to move at a time, and how much may stay (B-64, B-81, B-83, B-84, B-102). Unchanged by rfc.md (P-70).
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def refill_size(self, pcp: Pcp, order: int) -> int:
        """
        B-64: entries of a refill. Advances high and alloc_factor, even if no refill follows.
        """
        pcp.high = clamp(pcp.high, pcp.high_min, pcp.high_max)
        if pcp.high < pcp.batch:
            return 1
        b = pcp.batch if order else pcp.batch << pcp.alloc_factor
        if pcp.high_min != pcp.high_max and not self._memory.flags & ZONE_BELOW_HIGH:
            pcp.high = min(pcp.high + b, pcp.high_max)
        if order == 0:
            most = max(pcp.high - pcp.count - pcp.batch, pcp.batch)
            if b <= most and pcp.alloc_factor < PCP_BATCH_SCALE_MAX:
                pcp.alloc_factor += 1
            b = min(b, most)
        if b > 1:
            b = max(b >> order, 2)
        return b

    def freed(self, pcp: Pcp, order: int) -> bool:
        """
        B-81 steps 2 and 3, after the entry was put. Whether a run of high-order frees is under way (free_high).
        """
        free_high = False
        if 1 <= order <= 3:
            free_high = (
                pcp.free_count >= pcp.batch + pcp.high_min // 2
                and bool(pcp.flags & PCPF_PREV_FREE_HIGH_ORDER)
                and (not pcp.flags & PCPF_FREE_HIGH_BATCH or pcp.count >= pcp.batch)
            )
            pcp.flags |= PCPF_PREV_FREE_HIGH_ORDER
        else:
            pcp.flags &= ~PCPF_PREV_FREE_HIGH_ORDER
        if pcp.free_count < pcp.batch << PCP_BATCH_SCALE_MAX:
            pcp.free_count += 1 << order
        return free_high

    def free_limit(self, pcp: Pcp, free_high: bool) -> int:
        """
        B-83: the count that a free must not reach. A raised high applies from the next free on.
        """
        high = pcp.high = clamp(pcp.high, pcp.high_min, pcp.high_max)
        if high == 0:
            return 0
        if free_high:
            pcp.high = max(high - (pcp.batch << PCP_BATCH_SCALE_MAX), pcp.high_min)
            return 0
        shrunk = max(high - max(pcp.free_count, pcp.batch), pcp.high_min)
        if self._memory.flags & ZONE_RECLAIM_ACTIVE:
            pcp.high = shrunk
            return min(4 * pcp.batch, pcp.high)
        if pcp.high_min == pcp.high_max:
            return high
        if self._memory.flags & ZONE_BELOW_HIGH:
            pcp.high = shrunk
            return max(pcp.count, pcp.high_min)
        if pcp.count >= high:
            need = pcp.free_count + pcp.batch
            if pcp.high < need:
                pcp.high = clamp(need, pcp.high_min, pcp.high_max)
        return high

    def free_amount(self, pcp: Pcp, limit: int, free_high: bool) -> int:
        """
        B-84: pages to drain once the limit is reached.
        """
        if free_high:
            return min(pcp.count, pcp.batch << PCP_BATCH_SCALE_MAX)
        if limit < pcp.batch:
            return 1
        return clamp(pcp.free_count, pcp.batch, limit - pcp.batch)

    def decay(self, pcp: Pcp) -> int:
        """
        B-102: lower high; returns the pages that are now too many.
        """
        if pcp.high > pcp.high_min:
            keep = pcp.count - (pcp.batch << PCP_BATCH_SCALE_MAX)
            pcp.high = max(keep, pcp.high - pcp.high // 8, pcp.high_min)
        return pcp.count - pcp.high
