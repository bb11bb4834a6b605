"""
The paths of a request: allocation through the PCP or past it, and frees to wherever they belong
(sections 6, 10 and 11; rfc.md P-31 and section 6). Executed by ``this_cpu``.
"""

from collections.abc import Sequence

from .. import names
from .drain import Drain
from .memory import NOBODY, Allocation, largest_aligned, pcp_capable
from .pcp import pcp_type
from .watermark import ZONE_MOVABLE


def default_aflags(mt: int) -> int:
    """Flags of a request that states none."""
    return names.WMARK_LOW | (names.ALLOC_CMA if mt == names.MOVABLE else 0)


class Paths(Drain):
    """Allocations and frees. Their arguments are validated already."""

    def rmqueue(self, order: int, mt: int, aflags: int) -> int | None:
        """B-60. Without a page, the tuning of the PCP may have moved all the same."""
        pfn = None
        if pcp_capable(order) and self.trylock():  # B-61
            self.pcps[self.this_cpu].free_count >>= 1
            pfn = self._pcp_pop(order, mt, aflags)
        if pfn is None:
            pfn = self.zone_alloc(order, mt, aflags)
        if aflags & names.ALLOC_KSWAPD:
            self.flags &= ~names.ZONE_BOOSTED_WATERMARK
        return pfn

    def _pcp_pop(self, order: int, mt: int, aflags: int) -> int | None:
        """B-62, P-31: an entry, after a refill if there is none. High-atomic requests get no refill."""
        pfn = self.pcp_take(self.this_cpu, order, mt)
        if pfn is not None:
            self.count(allocs_from_pcp=1)
            return pfn
        entries = self.refill_size(self.pcps[self.this_cpu], order)
        if aflags & names.ALLOC_HIGHATOMIC:
            return None
        self.refill(self.this_cpu, entries, order, mt, aflags)
        return self.pcp_take(self.this_cpu, order, mt)

    def bulk(self, nr_pages: int, mt: int, hz: int) -> list[int]:
        """B-93: nothing if an ordinary allocation has to do. free_count stays, and there are no events."""
        aflags = default_aflags(mt)
        mark = self.wmark(names.WMARK_LOW) + nr_pages
        if nr_pages == 1 or not self.watermark_fast(0, mark, aflags, hz) or not self.trylock():
            return []
        pfns: list[int] = []
        while len(pfns) < nr_pages and (pfn := self._pcp_pop(0, mt, aflags)) is not None:
            self._hand_out(pfn, 0, mt)
            pfns.append(pfn)
        return pfns

    def _hand_out(self, pfn: int, order: int, mt: int) -> None:
        self.allocated[pfn] = Allocation(order, mt, 0)
        nr_pages = 1 << order
        movable = nr_pages if mt == names.MOVABLE else 0
        self.count(allocs=1, pages_allocated=nr_pages, movable_pages=movable)
        if self.block(pfn).type == names.CMA:
            self.count(cma_pages=nr_pages, movable_cma_pages=movable)

    def answer(self, pfn: int | None, order: int, mt: int) -> None:
        """The end of a request, served or not: 17.1."""
        if pfn is None:
            self.count(allocs_failed=1)
        else:
            self._hand_out(pfn, order, mt)
        self.emit("alloc", -1 if pfn is None else pfn, order, mt)

    # Frees

    def prepare(self, pfn: int) -> int:
        """17.2: the user gives a run up; for now it is nowhere. Returns its order."""
        order = self.allocated.pop(pfn).order
        self.emit("free", pfn, order)
        self.count(pages_freed=1 << order)
        return order

    def free_prepared(self, pfn: int, order: int, *, irq: bool = False, nolock: bool = False) -> None:
        """B-80, P-40 to P-45."""
        if not pcp_capable(order) or self.type_of(pfn) == names.ISOLATE:
            self.free_past_pcp(pfn, order, nolock=nolock)
            return
        target = self._target(pfn)
        if self._lock_target(target, pfn, atomic=irq or nolock):
            self._commit(target, pfn, order, nolock)
        else:
            self.free_past_pcp(pfn, order, nolock=nolock)

    def free_past_pcp(self, pfn: int, order: int, *, nolock: bool = False, to_tail: bool = False) -> None:
        self.count(frees_direct=1)
        self.direct_free(pfn, order, nolock=nolock, to_tail=to_tail)

    def _target(self, pfn: int) -> int:
        """P-40: the CPU whose PCP the page goes to. What nobody or an off-line CPU owns stays local."""
        owner = self.block(pfn).owner
        if self.policy.remote == "local" or owner == NOBODY or not self.pcps[owner].online:
            return self.this_cpu
        return owner

    def _lock_target(self, target: int, pfn: int, atomic: bool = False) -> bool:
        """P-41, P-42: try for the target's lock; with remote=block, task context waits for another CPU's."""
        remote = target != self.this_cpu
        if (remote and self.policy.remote == "block" and not atomic) or self.trylock():
            return True
        self.count(frees_failed_trylock=1)
        if remote:
            self.emit("remote_fail", pfn, target)
        return False

    def _commit(self, target: int, pfn: int, order: int, nolock: bool = False) -> bool:
        """B-81 to B-84 on the target's PCP (P-45), which the executing CPU drains. Whether its lock is still held."""
        pcp = self.pcps[target]
        mt = pcp_type(self.type_of(pfn))
        local = target == self.this_cpu
        self.count(frees_local=int(local), frees_remote=int(not local))
        pcp.alloc_factor >>= 1
        # P-44: the owner is read again under the lock; in a sequence of operations it cannot have changed.
        self.pcp_put(target, pfn, order, mt, mark=self.block(pfn).owner == target)
        free_high = self.free_high(pcp, order)
        if nolock:
            return True
        limit = self.free_limit(pcp, free_high)
        if pcp.count < limit:
            return True
        locked = self.drain_pcp(target, self.free_amount(pcp, limit, free_high), order, mt, gaps=True)
        high = self.wmark(names.WMARK_HIGH)
        if self.flags & names.ZONE_BELOW_HIGH and self.watermark_ok(0, high, 0, ZONE_MOVABLE):
            self.flags &= ~names.ZONE_BELOW_HIGH  # B-82 step 6, B-77
        return locked

    def free_group(self, pfns: Sequence[int]) -> None:
        """B-91, P-47, for at most 31 folios: one lock is kept while the target stays the same."""
        folios = []
        for pfn in pfns:
            order = self.prepare(pfn)
            if pcp_capable(order):
                folios.append((pfn, order))
            else:
                self.free_past_pcp(pfn, order)
        locked = NOBODY
        for pfn, order in folios:
            isolated = self.type_of(pfn) == names.ISOLATE
            target = self._target(pfn)
            if isolated:
                locked = NOBODY
            elif locked != target:
                locked = target if self._lock_target(target, pfn) else NOBODY
            if locked == NOBODY:
                self.free_past_pcp(pfn, order)
                continue
            self.emit("free_batched", pfn)
            if not self._commit(target, pfn, order):
                locked = NOBODY

    def free_range(self, pfn: int, end: int) -> None:
        """B-94: order-0 pages are prepared one by one, then freed in the largest aligned pieces."""
        for page in range(pfn, end):
            self.prepare(page)
        while pfn < end:
            order = largest_aligned(pfn, end)
            self.free_prepared(pfn, order)
            pfn += 1 << order
