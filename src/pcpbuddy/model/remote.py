"""
What reaches a CPU's PCP from elsewhere: remote lists and outboxes (P-46, P-46b, remote=llist and handover).

A push needs no lock. Absorbing needs the lock of the PCP, an outbox that of the CPU that fills it. Under other policies
all of this stays empty.
"""

from .. import names
from .memory import Run
from .pcp import PcpLists
from .sizing import clamp


def pages_in(runs: list[Run]) -> int:
    """How many pages they are."""
    return sum(1 << order for _, order in runs)


class Remote(PcpLists):
    """Pages that are on their way (state REMOTE)."""

    def _exceeds(self, target: int, nr_pages: int) -> bool:
        """P-46: whether so many pages must not wait for a CPU."""
        bound = self.policy.remote_bound
        if bound == "inf":
            return False
        return nr_pages > (self.pcps[target].high_max if bound == "high_max" else int(bound))

    def turned_away(self, target: int, order: int) -> bool:
        """Whether the bound keeps a run off: it has a direct free instead."""
        if not self._exceeds(target, self.pcps[target].pending + (1 << order)):
            return False
        self.count(remote_over_bound=1)
        return True

    def push(self, target: int, runs: list[Run]) -> None:
        """One atomic push; the pages are in ``pending`` already. Whether the target has too much is seen now (P-45)."""
        pcp = self.pcps[target]
        self.count(remote_pushes=1)
        pcp.remote += runs
        for pfn, _ in runs:
            self.emit("remote_push", pfn, target)
        if self.policy.drain_by == "visitor" and pcp.online and self.overfull_with(target, pcp.pending):
            self.overfull = target

    def overfull_with(self, cpu: int, nr_pages: int) -> bool:
        """P-40b, P-45: whether so many pages more would reach the limit that B-83 gives."""
        pcp = self.pcps[cpu]
        limit = clamp(pcp.high, pcp.high_min, pcp.high_max)
        if self.flags & names.ZONE_RECLAIM_ACTIVE:
            limit = min(4 * pcp.batch, limit)
        return pcp.count + nr_pages >= limit

    def push_one(self, target: int, pfn: int, order: int) -> None:
        self.pcps[target].pending += 1 << order
        self.push(target, [(pfn, order)])

    def absorb(self, cpu: int) -> None:
        """P-46: the remote list moves into its PCP. What may not be there any more is rejected."""
        pcp = self.pcps[cpu]
        if not pcp.remote:
            return
        runs, pcp.remote = pcp.remote, []
        pcp.pending -= pages_in(runs)
        pcp.alloc_factor >>= 1
        self.count(absorbs=1)
        for pfn, order in runs:
            if not self.layout.serves(order) or self.type_of(pfn) == names.ISOLATE:
                self.rejects.append((pfn, order))
                continue
            self.pcp_put_freed(cpu, pfn, order)
            self.charge_free(pcp, order)
            self.count(absorbed_pages=1 << order)
            self.emit("absorb", pfn, order)
            self.merge_up(cpu, pfn, order)

    def free_rejects(self) -> None:
        """No PCP lock is held any more: rejected pages go to the zone. Their frees were counted long ago."""
        while self.rejects:
            self.direct_free(*self.rejects.pop(0))

    # Outboxes

    def make_room(self, cpu: int, target: int) -> int | None:
        """P-46b: the least recently used outbox goes if another is needed and may not be. Its target."""
        outboxes = self.pcps[cpu].outboxes
        if target in outboxes or len(outboxes) < self.policy.handover_targets:
            return None
        oldest = next(iter(outboxes))
        self.flush(cpu, oldest)
        return oldest

    def append(self, cpu: int, target: int, pfn: int, order: int) -> None:
        """A run joins an outbox, which is handed over if that fills it."""
        outboxes = self.pcps[cpu].outboxes
        outboxes.setdefault(target, []).append((pfn, order))
        outboxes.move_to_end(target)
        self.pcps[target].pending += 1 << order
        if pages_in(outboxes[target]) >= self.policy.handover_batch:
            self.flush(cpu, target)

    def flush(self, cpu: int, target: int) -> None:
        """The outbox becomes one push, or is rejected as a whole if the bound has sunk below what is pending."""
        runs = self.pcps[cpu].outboxes.pop(target)
        if self._exceeds(target, self.pcps[target].pending):
            self.count(remote_over_bound=len(runs))
            self.pcps[target].pending -= pages_in(runs)
            self.rejects += runs
        else:
            self.push(target, runs)
