"""
Freeing: which PCP a page goes to, what it triggers there, and the ways past it (sections 10 and 11; rfc.md 6).
"""

from collections.abc import Sequence

from ..config import Policy
from ..names import FOLIO_BATCH, ISOLATE, MAX_PAGE_ORDER, WMARK_HIGH, ZONE_BELOW_HIGH
from .buddy import Buddy
from .drain import Drain
from .memory import NOBODY, Memory, pcp_capable
from .pcp import PcpLists, Tuning, pcp_type
from .watermark import watermark_ok, wmark_pages

# The zone index that B-82 step 6 tests for.
ZONE_MOVABLE = 3


class Free:
    """
    Frees, on the executing CPU. All arguments are validated before.
    """

    def __init__(
        self, memory: Memory, policy: Policy, buddy: Buddy, pcp_lists: PcpLists, tuning: Tuning, drain: Drain
    ) -> None:
        self._memory = memory
        self._buddy = buddy
        self._lists = pcp_lists
        self._tuning = tuning
        self._drain = drain
        self._remote = policy.remote

    def prepare(self, pfn: int) -> int:
        """
        17.2: the user gives the run up; nothing has it until it is listed. Returns its order.
        """
        m = self._memory
        order = m.allocated.pop(pfn).order
        m.emit("free", pfn, order)
        m.count("pages_freed", 1 << order)
        return order

    def free(self, pfn: int, order: int, *, irq: bool = False, nolock: bool = False) -> None:
        """
        B-80 after preparation, P-40 to P-45.
        """
        m = self._memory
        if not pcp_capable(order) or m.type_of(pfn) == ISOLATE:
            self.direct(pfn, order, nolock=nolock)
            return
        target = self._target(pfn)
        if self._lock(target, pfn, atomic=irq or nolock):
            self._commit(target, pfn, order, nolock)
        else:
            self._direct_for_want_of_lock(pfn, order, nolock)

    def direct(self, pfn: int, order: int, *, nolock: bool = False, to_tail: bool = False) -> None:
        """
        B-90.
        """
        self._memory.count("frees_direct")
        self._buddy.direct_free(pfn, order, nolock=nolock, to_tail=to_tail)

    def batch(self, pfns: Sequence[int]) -> None:
        """
        B-91, P-47: groups of folios, and one PCP lock kept while the target stays the same.
        """
        for first in range(0, len(pfns), FOLIO_BATCH):
            self._group(pfns[first : first + FOLIO_BATCH])

    def _group(self, pfns: Sequence[int]) -> None:
        m = self._memory
        folios = []
        for pfn in pfns:
            order = self.prepare(pfn)
            if pcp_capable(order):
                folios.append((pfn, order))
            else:
                self.direct(pfn, order)
        locked = NOBODY
        for pfn, order in folios:
            if m.type_of(pfn) == ISOLATE:
                locked = NOBODY
                self.direct(pfn, order)
                continue
            target = self._target(pfn)
            if locked != target:
                locked = target if self._lock(target, pfn) else NOBODY
            if locked == NOBODY:
                self._direct_for_want_of_lock(pfn, order)
                continue
            m.emit("free_batched", pfn)
            if not self._commit(target, pfn, order):
                locked = NOBODY

    def contig(self, pfn: int, nr_pages: int) -> None:
        """
        B-94: order-0 pages are prepared one by one, then freed in the largest aligned pieces.
        """
        end = pfn + nr_pages
        for page in range(pfn, end):
            self.prepare(page)
        while pfn < end:
            order = min(largest_aligned(pfn), (end - pfn).bit_length() - 1)
            self.free(pfn, order)
            pfn += 1 << order

    def _target(self, pfn: int) -> int:
        """
        P-40: the CPU whose PCP the page goes to. Nobody's and an off-line owner's pages stay local.
        """
        m = self._memory
        owner = m.block(pfn).owner
        if self._remote != "local" and owner != NOBODY and m.pcps[owner].online:
            return owner
        return m.this_cpu

    def _lock(self, target: int, pfn: int, atomic: bool = False) -> bool:
        """
        P-41, P-42: try for the lock of a PCP; with remote=block, task context waits for another CPU's.
        """
        m = self._memory
        if self._remote == "block" and target != m.this_cpu and not atomic:
            return True
        if m.trylock():
            return True
        if target != m.this_cpu:
            m.emit("remote_fail", pfn, target)
        return False

    def _direct_for_want_of_lock(self, pfn: int, order: int, nolock: bool = False) -> None:
        self._memory.count("frees_failed_trylock")
        self.direct(pfn, order, nolock=nolock)

    def _commit(self, target: int, pfn: int, order: int, nolock: bool = False) -> bool:
        """
        B-81, B-82, P-45: put the entry on the target's list and drain what is too much there.

        Returns whether the target's lock is still held.
        """
        m = self._memory
        pcp = m.pcps[target]
        m.count("frees_local" if target == m.this_cpu else "frees_remote")
        mt = pcp_type(m.type_of(pfn))
        pcp.alloc_factor >>= 1
        # P-44: the owner is read again under the lock. Here it cannot have changed.
        self._lists.put(target, pfn, order, mt, mark=m.block(pfn).owner == target)
        free_high = self._tuning.freed(pcp, order)
        if nolock:
            return True
        limit = self._tuning.free_limit(pcp, free_high)
        if pcp.count < limit:
            return True
        amount = self._tuning.free_amount(pcp, limit, free_high)
        locked = self._drain.drain(target, amount, order, mt, gaps=True)
        # B-82 step 6, the only place where the flag is cleared (B-77).
        if m.flags & ZONE_BELOW_HIGH and watermark_ok(m, 0, wmark_pages(m, WMARK_HIGH), 0, ZONE_MOVABLE):
            m.flags &= ~ZONE_BELOW_HIGH
        return locked


def largest_aligned(pfn: int) -> int:
    """
    The largest order that a run at pfn can have (B-94, B-97).
    """
    return min((pfn & -pfn).bit_length() - 1, MAX_PAGE_ORDER) if pfn else MAX_PAGE_ORDER
