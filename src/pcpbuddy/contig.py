"""
What came of a contiguous range: docs/reference/contiguous.md.
"""

from typing import NamedTuple

__all__ = ["CONTIG_REASONS", "ContigResult"]

# What stood in the way of a range (CT-8); the first is that nothing did.
CONTIG_REASONS = (
    "",
    "isolated",
    "edge",
    "cma",
    "unmovable",
    "hole",
    "pcp",
    "owned",
    "remote",
    "deferred",
    "pinned",
    "no_memory",
    "no_run",
)


class ContigResult(NamedTuple):
    """
    What a contiguous request got, and what it took.

    pfn: the first page of the range; None: it failed. reason: "" or one of CONTIG_REASONS. page: the pfn that stood in
    the way. pages_migrated: pages moved out of all ranges that were tried. refused: moves that ``move`` refused, each
    time. tried: (start, end, reason, page) of each range, in order, the one that was obtained included.
    """

    pfn: int | None
    reason: str
    page: int | None
    pages_migrated: int
    refused: int
    tried: tuple[tuple[int, int, str, int | None], ...]
