"""
Whole PCPs and the periodic work (B-100 to B-103; P-46b for outboxes).

Each method takes the locks that it needs. Waiting for a PCP lock is allowed here.
"""

from .. import names
from .drain import Drain
from .memory import NOBODY
from .pcp import SCALE


class Upkeep(Drain):
    """What keeps pages from staying where they are."""

    def drain_some(self, cpu: int, amount: int, mt: int = names.UNMOVABLE) -> None:
        """P-60, and what it rejected."""
        self.drain_pcp(cpu, amount, mt=mt)
        self.free_rejects()

    def drain_zone(self, cpu: int) -> None:  # B-100
        pcp = self.pcps[cpu]
        self.absorb(cpu)
        if self.policy.drain != "index":
            self.drain_some(cpu, pcp.count)
            return
        self.merge_pass(cpu, pcp.count)
        while pcp.count:
            self.free_by_index(pcp, pcp.batch << SCALE, 0)
        self.free_rejects()

    def drain_all(self) -> None:  # B-100
        self.flush_all()
        for cpu, pcp in enumerate(self.pcps):
            if pcp.online and (pcp.count or pcp.remote):
                self.drain_zone(cpu)

    def flush_outboxes(self, cpu: int) -> None:
        """P-46b: all that a CPU has gathered, for on-line CPUs or not; what one leaves behind before the next."""
        for target in list(self.pcps[cpu].outboxes):
            self.flush(cpu, target)
            self.overfull = NOBODY  # who flushes all visits nobody (P-45)
            self.free_rejects()
            self.drain_dead([target])

    def flush_all(self) -> None:
        for cpu, pcp in enumerate(self.pcps):
            if pcp.online:
                self.flush_outboxes(cpu)

    def drain_dead(self, targets: list[int]) -> None:
        """P-46: nothing may stay with a CPU that is found off-line after a push."""
        for target in targets:
            if not self.pcps[target].online:
                self.drain_zone(target)

    def fold_cpu(self, cpu: int) -> None:  # B-17, on the CPU itself
        if self.fold_stat(cpu):
            self.pcps[cpu].expire = 3

    def decay_pcp(self, cpu: int) -> None:  # B-102
        pcp = self.pcps[cpu]
        if pcp.high > pcp.high_min:
            pcp.high = max(pcp.count - (pcp.batch << SCALE), pcp.high - pcp.high // 8, pcp.high_min)
        self.drain_some(cpu, pcp.count - pcp.high)

    def vmstat_tick(self, cpu: int) -> None:
        """B-101: fold, hand over and absorb, decay, and expire what a CPU holds of another node's zone (B-103)."""
        pcp = self.pcps[cpu]
        self.fold_cpu(cpu)
        self.flush_outboxes(cpu)
        self.absorb(cpu)
        self.free_rejects()
        self.decay_pcp(cpu)
        if pcp.expire and pcp.count:
            pcp.expire = pcp.expire - 1 if pcp.remote_node else 0
            if pcp.remote_node and not pcp.expire:
                self.drain_some(cpu, min(pcp.count, pcp.batch))
