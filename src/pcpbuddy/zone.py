"""
``Zone`` and ``Node``: the allocator step by step, deterministic, its state open to inspection.

The methods that do the work are the compiled core's (_core/core.pyi says what each takes and
raises); here are the parts that are made of text: sizes as people write them, and /proc.
"""

import mmap
import re

from . import _core, procfs
from .config import Policy
from .errors import ConfigError
from .names import PAGE_SIZE

__all__ = ["Node", "Zone", "parse_size"]

_UNITS = {"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_size(size: str | int) -> int:
    """
    Bytes of "256MiB", "1G", "4096" or a plain number of bytes; whole pages only.

    Raises ConfigError for anything else.
    """
    if isinstance(size, int):
        size_bytes = size
    else:
        match = re.fullmatch(r"\s*(\d+)\s*([KMGT]?)(?:i?B)?\s*", size, re.IGNORECASE)
        if not match:
            raise ConfigError(f"size {size!r}: expected a number with KiB, MiB, GiB or TiB, such as 256MiB")
        size_bytes = int(match[1]) * _UNITS[match[2].upper()]
    if size_bytes < 0 or size_bytes % PAGE_SIZE:
        raise ConfigError(f"size {size!r}: expected a multiple of {PAGE_SIZE} bytes")
    return size_bytes


class Zone(_core.Zone):
    """
    One zone with its per-CPU lists, driven by one thread.

    Pages are named by pfn, CPUs by number. A fresh zone has all its memory free and movable; the
    last ``cma`` bytes are a CMA area. Watermarks, PCP limits and counter drift follow the kernel's
    formulas (docs/reference/baseline.md sections 1.9 to 1.11) unless they are given.

    Args:
        pages: number of 4 KiB pages; or ``size``, memory such as "1GiB".
        cpus: 1 to 512 CPUs, all on-line.
        policy: a ``Policy``, or text as ``pcpbuddy.policy()`` takes it, such as "fixed+merge=free".
        cma: size of the CMA area, whole pageblocks (2 MiB); or ``cma_pages``.
        start_pfn: pfn of the first page.
        zone_index, name: place in a node: "DMA", "DMA32", "Normal" or "Movable".
        batch, high_min, high_max: PCP limits, all three or none (then B-12 and B-13).
        stat_threshold: counter drift a CPU may hold back, 0 to 125 (default B-16; 0: exact).
        watermark: (min, low, high, promo) in pages (default B-20).
        llc_pages: a CPU's share of the last-level cache, in pages (B-14).
        memory: where its state shall lie, all zero; a zone of its own else.

    Raises:
        ConfigError: a size, policy or number that cannot be.
    """

    def __init__(
        self,
        pages: int | None = None,
        *,
        size: str | int | None = None,
        cpus: int = 1,
        policy: str | Policy = "fixed",
        cma: str | int | None = None,
        cma_pages: int = 0,
        start_pfn: int = 0,
        zone_index: int = 0,
        name: str = "Normal",
        batch: int | None = None,
        high_min: int | None = None,
        high_max: int | None = None,
        stat_threshold: int | None = None,
        watermark: tuple[int, int, int, int] | None = None,
        llc_pages: int = 512,
        memory: mmap.mmap | None = None,
    ) -> None:
        if (size is None) == (pages is None):
            raise ConfigError('a zone needs its size, such as size="1GiB", or its number of pages, and not both')
        if pages is None:
            pages = parse_size(size or 0) // PAGE_SIZE
        if cma is not None:
            cma_pages = parse_size(cma) // PAGE_SIZE
        super().__init__(
            pages,
            cpus=cpus,
            policy=policy,
            cma_pages=cma_pages,
            start_pfn=start_pfn,
            zone_index=zone_index,
            name=name,
            batch=batch,
            high_min=high_min,
            high_max=high_max,
            stat_threshold=stat_threshold,
            watermark=watermark,
            llc_pages=llc_pages,
            memory=memory,
        )

    def __repr__(self) -> str:
        return f"<Zone {self.name}: {self.pages} pages from pfn {self.start_pfn}, {self.cpus} CPUs, {self.policy.name}>"

    def buddyinfo(self) -> str:
        """
        The zone's line of /proc/buddyinfo.
        """
        return procfs.buddyinfo([self])

    def pagetypeinfo(self) -> str:
        """
        The zone as /proc/pagetypeinfo.
        """
        return procfs.pagetypeinfo([self])

    def zoneinfo(self) -> str:
        """
        The allocator's lines of the zone in /proc/zoneinfo.
        """
        return procfs.zoneinfo([self])


class Node(_core.Node):
    """
    Several zones of one node, ascending (DMA, DMA32, Normal, Movable), and the choice between them.

    Requests are GFP masks here: the zone and the migratetype come from them (B-25 to B-29), watermarks
    are tested (B-73 to B-77). All zones have the same CPUs.
    """

    zone_class = Zone

    def __repr__(self) -> str:
        return f"<Node of {', '.join(zone.name for zone in self.zones)}: {self.cpus} CPUs>"

    def buddyinfo(self) -> str:
        """
        All zones as /proc/buddyinfo.
        """
        return procfs.buddyinfo(self.zones)

    def pagetypeinfo(self) -> str:
        """
        All zones as /proc/pagetypeinfo.
        """
        return procfs.pagetypeinfo(self.zones)

    def zoneinfo(self) -> str:
        """
        The allocator's lines of /proc/zoneinfo.
        """
        return procfs.zoneinfo(self.zones)
