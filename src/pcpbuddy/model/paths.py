"""
The paths of a request: allocation through the PCP or past it, and frees to wherever they belong
(sections 6, 10 and 11; rfc.md P-31 and section 6). Executed by ``this_cpu``.
"""

from collections.abc import Sequence

from .. import names
from .memory import NOBODY, Allocation, largest_aligned
from .pcp import pcp_type
from .upkeep import Upkeep
from .watermark import ZONE_MOVABLE


def default_aflags(mt: int) -> int:
    """Flags of a request that states none."""
    return names.WMARK_LOW | (names.ALLOC_CMA if mt == names.MOVABLE else 0)


class Paths(Upkeep):
    """Allocations and frees. Their arguments are validated already."""

    def rmqueue(self, order: int, mt: int, aflags: int) -> int | None:
        """B-60. Without a page, the tuning of the PCP may have moved all the same."""
        pfn = None
        if self.layout.serves(order) and self.trylock():  # B-61
            self.pcps[self.this_cpu].free_count >>= 1
            if not aflags & names.ALLOC_NOLOCK:  # a reject would have to wait
                self.absorb(self.this_cpu)
            pfn = self._pcp_pop(order, mt, aflags)
            self.free_rejects()
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
        pcp = self.pcps[self.this_cpu]
        step, before = self.high_step(pcp, order), pcp.count
        entries = self.refill_size(pcp, order)
        if aflags & names.ALLOC_HIGHATOMIC:
            return None
        self.refill(self.this_cpu, entries, order, mt, aflags)
        self.raise_high_by_pages(pcp, pcp.count - before, step)
        return self.pcp_take(self.this_cpu, order, mt)

    def bulk(self, nr_pages: int, mt: int, hz: int) -> list[int]:
        """B-93: nothing if an ordinary allocation has to do. free_count stays, and there are no events."""
        aflags = default_aflags(mt)
        mark = self.wmark(names.WMARK_LOW) + nr_pages
        if nr_pages == 1 or not self.watermark_fast(0, mark, aflags, hz) or not self.trylock():
            return []
        self.absorb(self.this_cpu)
        pfns: list[int] = []
        while len(pfns) < nr_pages and (pfn := self._pcp_pop(0, mt, aflags)) is not None:
            self._hand_out(pfn, 0, mt)
            pfns.append(pfn)
        self.free_rejects()
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

    def free_prepared(
        self, pfn: int, order: int, locked: int = NOBODY, irq: bool = False, nolock: bool = False, batched: bool = False
    ) -> int:
        """B-80, P-40 to P-45: one run, to where it belongs. locked: whose PCP lock is held before; returns it after."""
        if not self.layout.serves(order) or self.type_of(pfn) == names.ISOLATE:
            return self.free_past_pcp(pfn, order, nolock=nolock)
        target = self._target(pfn)
        pushes = self.policy.remote in ("llist", "handover") and not nolock
        if pushes and target != self.this_cpu:
            return self._hand_over(target, pfn, order, locked, irq, batched)
        if locked != target and not self._lock_target(target, atomic=irq or nolock):
            if not pushes or self.turned_away(target, order):
                return self._lock_missed(target, pfn, order, nolock)
            self._accept(target, pfn, batched)
            self.push_one(target, pfn, order)
            return self._settle(NOBODY, irq)
        self._accept(target, pfn, batched)
        return self._settle(target if self._commit(target, pfn, order, nolock) else NOBODY)

    def free_past_pcp(self, pfn: int, order: int, *, nolock: bool = False, to_tail: bool = False) -> int:
        """B-90 as the end of a request to free. No PCP lock is held, before and after."""
        self.count(frees_direct=1)
        self.direct_free(pfn, order, nolock=nolock, to_tail=to_tail)
        return NOBODY

    def _target(self, pfn: int) -> int:
        """P-40: the CPU whose PCP the page goes to. What nobody or an off-line CPU owns stays local."""
        owner = self.block(pfn).owner
        if self.policy.remote == "local" or owner == NOBODY or not self.pcps[owner].online:
            return self.this_cpu
        if self.ownership_rests() and not self.overfull_with(self.this_cpu, 1):  # P-40b
            return self.this_cpu
        return owner

    def _lock_target(self, target: int, atomic: bool) -> bool:
        """P-41, P-42: try for the target's lock; with remote=block, task context waits for another CPU's."""
        waits = self.policy.remote == "block" and target != self.this_cpu and not atomic
        return waits or self.trylock()

    def _lock_missed(self, target: int, pfn: int, order: int, nolock: bool) -> int:
        self.count(frees_failed_trylock=1)
        if target != self.this_cpu:
            self.emit("remote_fail", pfn, target)
        return self.free_past_pcp(pfn, order, nolock=nolock)

    def _accept(self, target: int, pfn: int, batched: bool) -> None:
        """A free that reaches a PCP, or is on its way there."""
        local = target == self.this_cpu
        self.count(frees_local=int(local), frees_remote=int(not local))
        if batched:
            self.emit("free_batched", pfn)

    def _settle(self, locked: int, irq: bool = False) -> int:
        """The end of one free. Its rejects need the PCP lock dropped (P-46), and so does a visit (P-45)."""
        overfull, self.overfull = self.overfull, NOBODY
        if self.rejects:
            self.free_rejects()
            locked = NOBODY
        return locked if irq or overfull == NOBODY else self._visit(overfull)

    def _visit(self, target: int) -> int:
        """P-45, drain_by=visitor: the limit is looked at for a CPU that was pushed too much, if its lock is free."""
        if not self.trylock():
            return NOBODY
        self.absorb(target)
        return self._settle(target if self._keep_limit(target, free_high=False) else NOBODY)

    def _hand_over(self, target: int, pfn: int, order: int, locked: int, irq: bool, batched: bool) -> int:
        """P-46, P-46b: a foreign run joins the outbox for its owner, or is pushed alone without any lock."""
        gathers = self.policy.remote == "handover"
        if gathers and locked != self.this_cpu:
            locked = self.this_cpu if self.trylock() else NOBODY
        if self.turned_away(target, order):
            return self.free_past_pcp(pfn, order)
        if not gathers or locked == NOBODY:
            self._accept(target, pfn, batched)
            self.push_one(target, pfn, order)
            return self._settle(locked, irq)
        flushed = self.make_room(self.this_cpu, target)
        if flushed is not None and not self.pcps[flushed].online:
            self.free_rejects()
            self.drain_zone(flushed)
            return self._hand_over(target, pfn, order, NOBODY, irq, batched)
        if self.overfull != NOBODY and not irq:
            return self._hand_over(target, pfn, order, self._settle(NOBODY), irq, batched)
        self._accept(target, pfn, batched)
        self.append(self.this_cpu, target, pfn, order)
        return self._settle(self.this_cpu, irq)

    def _commit(self, target: int, pfn: int, order: int, nolock: bool) -> bool:
        """B-81 to B-84 on the target's PCP (P-45), which the executing CPU drains. Whether its lock is still held."""
        pcp = self.pcps[target]
        mt = pcp_type(self.type_of(pfn))
        pcp.alloc_factor >>= 1
        # P-44: the owner is read again under the lock; in a sequence of operations it cannot have changed.
        self.pcp_put_freed(target, pfn, order)
        self.merge_up(target, pfn, order)
        free_high = self.free_high(pcp, order)
        if nolock or (target != self.this_cpu and self.policy.drain_by == "owner"):
            return True
        return self._keep_limit(target, free_high, order, mt)

    def _keep_limit(self, target: int, free_high: bool, order: int = 0, mt: int = names.UNMOVABLE) -> bool:
        """B-82 to B-84 after an entry of that order and type joined target's PCP. Whether its lock is still held."""
        pcp = self.pcps[target]
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
            if self.layout.serves(order):
                folios.append((pfn, order))
            else:
                self.free_past_pcp(pfn, order)
        if self.policy.batch_sort == "on":
            folios.sort(key=lambda folio: (self.type_of(folio[0]) == names.ISOLATE, self._target(folio[0])))
        locked = NOBODY
        for pfn, order in folios:
            locked = self.free_prepared(pfn, order, locked, batched=True)

    def free_range(self, pfn: int, end: int) -> None:
        """B-94: order-0 pages are prepared one by one, then freed in the largest aligned pieces."""
        for page in range(pfn, end):
            self.prepare(page)
        while pfn < end:
            order = largest_aligned(pfn, end)
            self.free_prepared(pfn, order)
            pfn += 1 << order
