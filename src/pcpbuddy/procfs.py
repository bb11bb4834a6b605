"""
Zones as /proc prints them: buddyinfo, pagetypeinfo, and the lines of zoneinfo that are the allocator's.

Formats of Linux 7.3 (docs/reference/baseline.md section 19). Counters are the visible ones, as there.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .names import MIGRATETYPE_NAMES, NR_ORDERS, PAGEBLOCK_ORDER, PAGEBLOCK_PAGES

_LIST_LIMIT = 100_000


def buddyinfo(zones: Iterable[Any], node: int = 0) -> str:
    """
    One line a zone: free chunks per order, all types (B-30 nr_free).
    """
    lines = []
    for zone in zones:
        counts = zone.census()["nr_free"].sum(axis=1)
        lines.append(f"Node {node:d}, zone {zone.name:>8s} " + "".join(f"{n:6d} " for n in counts))
    return "\n".join(lines) + "\n"


def pagetypeinfo(zones: Sequence[Any], node: int = 0) -> str:
    """
    Free chunks per order and migratetype, then pageblocks per effective migratetype.
    """
    census = [zone.census() for zone in zones]
    out = [f"Page block order: {PAGEBLOCK_ORDER:d}", f"Pages per block:  {PAGEBLOCK_PAGES:d}", ""]
    out.append(
        f"{'Free pages count per migrate type at order':<43s} " + "".join(f"{order:6d} " for order in range(NR_ORDERS))
    )
    for zone, counted in zip(zones, census, strict=True):
        for number, kind in enumerate(MIGRATETYPE_NAMES):
            cells = "".join(
                f"{'>' if n >= _LIST_LIMIT else ''}{min(n, _LIST_LIMIT):{5 if n >= _LIST_LIMIT else 6}d} "
                for n in (int(counted["nr_free"][order][number]) for order in range(NR_ORDERS))
            )
            out.append(f"Node {node:4d}, zone {zone.name:>8s}, type {kind:>12s} {cells}")
    out.append("")
    out.append(f"{'Number of blocks type ':<23s}" + "".join(f"{kind:>12s} " for kind in MIGRATETYPE_NAMES))
    for zone, counted in zip(zones, census, strict=True):
        cells = "".join(f"{n:12d} " for n in counted["blocks_by_type"])
        out.append(f"Node {node:d}, zone {zone.name:>8s} {cells}")
    return "\n".join(out) + "\n"


def zoneinfo(zones: Iterable[Any], node: int = 0) -> str:
    """
    The zone and pageset lines of /proc/zoneinfo; what is not the page allocator's is left out.
    """
    out = []
    for zone in zones:
        state = zone.summary()
        out.append(f"Node {node:d}, zone {zone.name:>8s}")
        out += _zone_lines(state)
        out.append("  pagesets")
        for cpu, pcp in enumerate(state["pcp"]):
            if pcp["online"]:
                out += _pageset_lines(cpu, pcp, state["stat_threshold"])
        out.append(f"  start_pfn:           {state['start_pfn']:d}")
        out.append(f"  reserved_highatomic: {state['nr_reserved_highatomic']:d}")
        out.append(f"  free_highatomic:     {state['nr_free_highatomic']:d}")
    return "\n".join(out) + "\n"


def _zone_lines(state: Mapping[str, Any]) -> list[str]:
    free, free_cma, free_blocks = (max(0, value) for value in state["stat"])
    boost = state["watermark_boost"]
    lines = [f"  pages free     {free:d}", f"        boost    {boost:d}"]
    for name, value in zip(("min", "low", "high", "promo"), state["watermark"], strict=True):
        lines.append(f"        {name:<8s} {value + boost:d}")
    for name in ("spanned", "present", "managed", "cma"):
        lines.append(f"        {name:<8s} {state[name]:d}")
    reserve = ", ".join(str(pages) for pages in state["lowmem_reserve"])
    lines.append(f"        protection: ({reserve})")
    lines.append(f"      {'nr_free_pages':<12s} {free:d}")
    lines.append(f"      {'nr_free_pages_blocks':<12s} {free_blocks:d}")
    lines.append(f"      {'nr_free_cma':<12s} {free_cma:d}")
    return lines


def _pageset_lines(cpu: int, pcp: Mapping[str, Any], threshold: int) -> list[str]:
    return [
        f"    cpu: {cpu:d}",
        f"              count:    {pcp['count']:d}",
        f"              high:     {pcp['high']:d}",
        f"              batch:    {pcp['batch']:d}",
        f"              high_min: {pcp['high_min']:d}",
        f"              high_max: {pcp['high_max']:d}",
        f"  vm stats threshold: {threshold:d}",
    ]
