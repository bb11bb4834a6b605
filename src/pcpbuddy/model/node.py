"""
``Node``: several zones, and the choice between them (sections 8 and 9).

A system of one NUMA node. What B-28, B-76 (a), B-93 and B-103 say of several is the core's alone (request.pxd).
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, Self

from .. import config, names
from ..errors import BadFree, UsageError
from .contig import Face
from .request import HIGHEST_ZONE, ZONE_INDEX, Request
from .zone import Zone, check_batch


class Node(Face):
    """The zones of one node, ascending by index."""

    def __init__(self, zones: Sequence[Zone]) -> None:
        if not zones or any(zone.name not in ZONE_INDEX for zone in zones):
            raise UsageError(f"a node has zones called {', '.join(ZONE_INDEX)}, got {[zone.name for zone in zones]}")
        if len({zone.cpus for zone in zones}) > 1:
            raise UsageError(f"all zones of a node have the same CPUs, got {[zone.cpus for zone in zones]}")
        self.zones = list(zones)

    @classmethod
    def from_state(cls, state: Mapping[str, Any], policy: str | config.Policy = "fixed") -> Self:
        """A node of {"cpus": n, "zones": [state, ...]}."""
        return cls([Zone.from_state(zone, policy) for zone in state["zones"]])

    def state(self) -> dict[str, Any]:
        """What from_state() takes."""
        return {"cpus": self.cpus, "zones": [zone.state() for zone in self.zones]}

    @property
    def cpus(self) -> int:
        return self.zones[0].cpus

    def zone_of(self, pfn: int) -> Zone:
        """The zone that holds a page; BadFree if none does."""
        for zone in self.zones:
            if zone.start_pfn <= pfn < zone.end_pfn:
                return zone
        spans = ", ".join(f"{zone.start_pfn}..{zone.end_pfn - 1}" for zone in self.zones)
        raise BadFree(f"pfn {pfn} is outside every zone; there are {spans}")

    def alloc(self, order: int = 0, gfp: int = names.GFP_HIGHUSER_MOVABLE, cpu: int = 0) -> int:
        """B-75, and of the slow path what touches the allocator (section 9). OutOfPages if there is nothing."""
        return self._request(order, gfp, cpu).alloc()

    def alloc_bulk(self, n: int, gfp: int = names.GFP_HIGHUSER_MOVABLE, cpu: int = 0) -> list[int]:
        """B-93, from the first zone that has LOW + n pages to spare; else one ordinary allocation."""
        if n < 1:
            raise UsageError(f"n is {n}, must be at least 1")
        return self._request(0, gfp, cpu).alloc_bulk(n)

    def _request(self, order: int, gfp: int, cpu: int) -> Request:
        if names.gfp_migratetype(gfp) == 3:
            raise UsageError(f"gfp {gfp:#x} has __GFP_MOVABLE and __GFP_RECLAIMABLE, a migratetype is one of them")
        if gfp & 0xF not in HIGHEST_ZONE:
            raise UsageError(f"gfp {gfp:#x} names more than one zone in its low four bits (B-26)")
        self.zones[0].check_request(order, names.gfp_migratetype(gfp), cpu)
        for zone in self.zones:
            zone.begin(cpu)
        return Request(self.zones, order, gfp)

    # Everything else is what Zone says of it, in the zone of the page or in every zone, ascending

    def free(self, pfn: int, cpu: int = 0, order: int = -1, irq: bool = False, nolock: bool = False) -> None:
        self.zone_of(pfn).free(pfn, cpu, order, irq, nolock)

    def free_batch(self, pfns: Iterable[int], cpu: int = 0) -> None:
        """B-91; folios of one zone that follow each other are one batch."""
        folios = [(self.zone_of(int(pfn)), int(pfn)) for pfn in pfns]
        self.zones[0].check_online(cpu)
        check_batch(folios)
        for zone, batch in groupby(folios, key=lambda folio: folio[0]):
            zone.free_batch([pfn for _, pfn in batch], cpu)

    def free_contig(self, pfn: int, n: int, cpu: int = 0) -> None:
        self.zone_of(pfn).free_contig(pfn, n, cpu)

    def split(self, pfn: int) -> None:
        self.zone_of(pfn).split(pfn)

    def members(self) -> Sequence[Zone]:
        return self.zones

    def cma_areas(self) -> list[tuple[int, int]]:
        return [area for zone in self.zones for area in zone.cma_areas()]

    def drain(self, cpu: int | None = None) -> None:
        for zone in self.zones:
            zone.drain(cpu)

    def tick(self, cpu: int = 0) -> None:
        for zone in self.zones:
            zone.tick(cpu)

    def fold(self, cpu: int = 0) -> None:
        for zone in self.zones:
            zone.fold(cpu)

    def decay(self, cpu: int = 0) -> None:
        for zone in self.zones:
            zone.decay(cpu)

    def offline(self, cpu: int) -> None:
        for zone in self.zones:
            zone.offline(cpu)

    def online(self, cpu: int) -> None:
        for zone in self.zones:
            zone.online(cpu)
