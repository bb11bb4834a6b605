"""
The compiled core: one text of the allocator for every driver (docs/reference/core.md).
"""

from .core import (
    Call,
    HandleReplay,
    KernelReplay,
    Node,
    Operation,
    PagePool,
    Pages,
    Zone,
    bench,
    min_free_kbytes,
    pcp_sizing,
    stat_threshold,
    watermarks,
    zone_bytes,
)

__all__ = [
    "Call",
    "HandleReplay",
    "KernelReplay",
    "Node",
    "Operation",
    "PagePool",
    "Pages",
    "Zone",
    "bench",
    "min_free_kbytes",
    "pcp_sizing",
    "stat_threshold",
    "watermarks",
    "zone_bytes",
]
