"""
What is measured: zones, what was done to them before, policies, seeds.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

from ..config import Policy, parse_policies
from ..errors import ConfigError
from ..names import PAGE_SIZE, PAGEBLOCK_PAGES
from ..quantities import size_text
from ..zone import Zone, parse_size

__all__ = ["BEFORE", "KEPT", "LEAST_BLOCKS", "MOST_SEEDS", "POLICIES", "UNMOVABLE_EVERY", "Setting"]

POLICIES = "mainline,posted,fixed,balanced,tuned"
BEFORE = ("used", "churned", "fresh")
FREED = 899 / 1024  # of the pages, drawn at random: 28768 of 32768 (P-82)
HELD = 3 / 4  # of the pages, that the processes of a churned zone hold together
KEPT = 8  # one in so many of their pages outlives them
UNMOVABLE_EVERY = 8
SHARES = (0.10, 0.90)  # of CMA, that a zone may have
LEAST_BLOCKS = 8
MOST_SEEDS = 100


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """
    What is measured. Everything that is drawn by chance follows from a seed.

    size_bytes: memory of the zone, whole pageblocks. shares: of CMA, each 0.1 to 0.9; taken as whole blocks, at the
    end of the zone. before: "used": all pages are taken, CPUs in turn, a share ``freed`` of them is freed at random
    and all PCPs are drained (P-82); "churned": processes have come and gone in rounds (``trial``); "fresh": nothing.
    pages: how many movable pages are taken and counted; 0: until no CPU gets one. unmovable_every: in a second pass,
    one request in so many is unmovable; 0: no second pass. pcp: (batch, high_min, high_max), None: as the kernel sizes
    them (B-12, B-13).

    Raises ConfigError for what cannot be.
    """

    policies: tuple[Policy, ...]
    size_bytes: int = 1 << 30
    shares: tuple[float, ...] = (0.625,)
    before: str = "used"
    freed: float = FREED
    cpus: int = 4
    pages: int = 0
    unmovable_every: int = UNMOVABLE_EVERY
    seeds: tuple[int, ...] = (0, 1, 2)
    pcp: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        block_bytes = PAGEBLOCK_PAGES * PAGE_SIZE
        if self.size_bytes % block_bytes or self.size_bytes < LEAST_BLOCKS * block_bytes:
            raise ConfigError(
                f"size={size_text(self.size_bytes)}: expected whole pageblocks of 2MiB, {LEAST_BLOCKS} or more of them"
            )
        for share in self.shares:
            if not SHARES[0] <= share <= SHARES[1]:
                raise ConfigError(f"cma={100 * share:g}: expected per cent of the zone, 10 to 90")
        blocks = [self.cma_blocks(share) for share in self.shares]
        if not blocks or len(set(blocks)) < len(blocks):
            raise ConfigError("cma: expected one or more shares, each another number of pageblocks")
        if self.before not in BEFORE:
            raise ConfigError(f"before={self.before}: expected one of {', '.join(BEFORE)}")
        if not 0 < self.freed <= 1 or not self.free_pages:
            raise ConfigError(
                f"freed={100 * self.freed:g}: expected per cent of the zone's pages, one page or more, up to 100"
            )
        if self.pages < 0:
            raise ConfigError(f"pages={self.pages}: expected how many movable pages to take, or 0 for all")
        if self.unmovable_every < 0 or self.unmovable_every == 1:
            raise ConfigError(f"unmovable={self.unmovable_every}: expected one request in how many, 2 or more; 0: none")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or len(self.seeds) > MOST_SEEDS:
            raise ConfigError(f"seeds: expected 1 to {MOST_SEEDS} different ones")
        self.zone(self.policies[0], self.shares[0])  # refuses CPUs and PCP limits that cannot be

    @classmethod
    def of(
        cls, policies: str | Iterable[str | Policy] = POLICIES, *, size: str | int = "1GiB", **rest: Any
    ) -> "Setting":
        """
        With policies as ``parse_policies`` takes them and a size such as "128MiB"; the rest as the fields.
        """
        return cls(tuple(parse_policies(policies)), parse_size(size), **rest)

    @property
    def total(self) -> int:
        """
        Pages of the zone.
        """
        return self.size_bytes // PAGE_SIZE

    @property
    def free_pages(self) -> int:
        """
        Pages that are free when counting begins.
        """
        if self.before == "churned":
            return self.total - self.cpus * (self.held // KEPT)
        return int(self.freed * self.total) if self.before == "used" else self.total

    @property
    def held(self) -> int:
        """
        Pages that each process of a churned zone holds, one process a CPU.
        """
        return int(HELD * self.total) // self.cpus

    @property
    def counted(self) -> int:
        """
        Movable pages that are taken at most.
        """
        return min(self.pages, self.free_pages) if self.pages else self.free_pages

    @property
    def drawn(self) -> tuple[int, ...]:
        """
        The seeds that make a difference: nothing is drawn for a fresh zone.
        """
        return self.seeds[:1] if self.before == "fresh" else self.seeds

    def cma_blocks(self, share: float) -> int:
        """
        Pageblocks of the CMA area.
        """
        return round(share * self.total / PAGEBLOCK_PAGES)

    def zone(self, policy: Policy, share: float) -> Zone:
        """
        A fresh zone.
        """
        batch, high_min, high_max = self.pcp or (None, None, None)
        return Zone(
            self.total,
            cpus=self.cpus,
            policy=policy,
            cma_pages=self.cma_blocks(share) * PAGEBLOCK_PAGES,
            batch=batch,
            high_min=high_min,
            high_max=high_max,
            stat_threshold=0,
        )

    def command(self) -> str:
        """
        The command line that measures this again.
        """
        parts = ["pcpbuddy cma", f"--size {size_text(self.size_bytes)}"]
        parts.append(f"--cma {','.join(f'{100 * share:g}' for share in self.shares)}")
        parts.append(f"--before {self.before}")
        if self.before == "used" and self.freed != FREED:
            parts.append(f"--freed {100 * self.freed:g}")
        parts.append(f"--cpus {self.cpus}")
        if self.pages:
            parts.append(f"--pages {self.pages}")
        if self.unmovable_every != UNMOVABLE_EVERY:
            parts.append(f"--unmovable {self.unmovable_every}")
        if self.pcp:
            parts.append("--pcp batch={},high_min={},high_max={}".format(*self.pcp))
        n = len(self.seeds)
        listed = ",".join(map(str, self.seeds)) if n > 1 else f"{self.seeds[0]},"
        parts.append(f"--seeds {n if self.seeds == tuple(range(n)) else listed}")
        parts.append(f"--policy {','.join(which.name for which in self.policies)}")
        return " ".join(parts)
