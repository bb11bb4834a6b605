"""
The formulas that size things (B-12 to B-20).
"""

from math import isqrt

from ..names import NR_PCP_TYPES, PAGEBLOCK_PAGES


def clamp(value: int, low: int, high: int) -> int:
    """Value within [low, high]; high wins if the limits cross (B-84)."""
    return high if value >= high else max(value, low)


def pcp_sizing(managed: int, cpus: int, low: int, fraction: int = 0) -> tuple[int, int, int]:
    """(batch, high_min, high_max) of every PCP (B-12, B-13). low: the low watermark with boost."""
    b = min(managed >> 12, 64)
    batch = (1 << ((b + b // 2).bit_length() - 1)) - 1 if b > 1 else 1
    high_min = managed // fraction if fraction else low
    high_max = managed // (fraction or 8)
    return batch, max(high_min // cpus, 4 * batch), max(high_max // cpus, 4 * batch)


def stat_threshold(managed: int, cpus: int) -> int:
    """How far a per-CPU counter drifts before it moves into the global one (B-16)."""
    return min(125, 2 * cpus.bit_length() * (1 + (managed >> 15).bit_length()))


def min_free_kbytes(lowmem_kbytes: int) -> int:
    """Default of the sysctl (B-20)."""
    return clamp(isqrt(16 * lowmem_kbytes), 128, 262144)


def thp_min_free_kbytes(lowmem_pages: int, zones: int) -> int:
    """What THP raises min_free_kbytes to (B-20)."""
    return 4 * min(PAGEBLOCK_PAGES * zones * (2 + NR_PCP_TYPES * NR_PCP_TYPES), lowmem_pages * 5 // 100)


def zone_watermarks(managed: int) -> list[int]:
    """B-20 for the only zone of a node."""
    kbytes = max(min_free_kbytes(managed * 4), thp_min_free_kbytes(managed, zones=1))
    return list(watermarks(managed, managed, kbytes))


def watermarks(managed: int, lowmem_pages: int, min_free_kbytes: int) -> tuple[int, int, int, int]:
    """(min, low, high, promo) of a zone that is neither highmem nor Movable (B-20)."""
    scale_factor = 10
    base = min_free_kbytes // 4 * managed // max(lowmem_pages, 1)
    delta = max(base // 4, managed * scale_factor // 10000)
    return base, base + delta, base + 2 * delta, base + 3 * delta
