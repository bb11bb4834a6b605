"""
The formulas that size things: watermarks, per-CPU limits, counter drift (B-12 to B-20).
"""

from math import isqrt

from ..names import NR_PCP_TYPES, PAGEBLOCK_PAGES


def clamp(value: int, low: int, high: int) -> int:
    """
    value within [low, high]; high wins if the limits cross (B-84).
    """
    if value >= high:
        return high
    return max(value, low)


def pcp_batch(managed: int) -> int:
    """
    Base transfer size of a PCP (B-12).
    """
    b = min(managed >> 12, 64)
    if b <= 1:
        return 1
    return (1 << ((b + b // 2).bit_length() - 1)) - 1


def pcp_high(managed: int, cpus: int, low: int, fraction: int, batch: int) -> int:
    """
    One CPU's share of the low watermark, or of managed/fraction (B-13).
    """
    total = managed // fraction if fraction else low
    return max(total // cpus, 4 * batch)


def pcp_sizing(managed: int, cpus: int, low: int, fraction: int = 0) -> tuple[int, int, int]:
    """
    (batch, high_min, high_max) of every PCP; low includes the boost (B-12, B-13).
    """
    batch = pcp_batch(managed)
    high_min = pcp_high(managed, cpus, low, fraction, batch)
    high_max = pcp_high(managed, cpus, low, fraction or 8, batch)
    return batch, high_min, high_max


def stat_threshold(managed: int, cpus: int) -> int:
    """
    How far a per-CPU counter may drift before it is folded into the global one (B-16).
    """
    return min(125, 2 * cpus.bit_length() * (1 + (managed >> 15).bit_length()))


def min_free_kbytes(lowmem_kbytes: int) -> int:
    """
    The default of the sysctl, before the THP raise (B-20).
    """
    return clamp(isqrt(16 * lowmem_kbytes), 128, 262144)


def thp_min_free_kbytes(lowmem_pages: int, zones: int) -> int:
    """
    What min_free_kbytes is raised to with THP enabled (B-20).
    """
    pages = min(PAGEBLOCK_PAGES * zones * (2 + NR_PCP_TYPES * NR_PCP_TYPES), lowmem_pages * 5 // 100)
    return pages * 4


def watermarks(managed: int, lowmem_pages: int, min_free_kbytes: int) -> tuple[int, int, int, int]:
    """
    (min, low, high, promo) of a zone that is neither highmem nor Movable (B-20).
    """
    scale_factor = 10
    base = min_free_kbytes // 4 * managed // lowmem_pages
    delta = max(base // 4, managed * scale_factor // 10000)
    return base, base + delta, base + 2 * delta, base + 3 * delta
