"""
The specification as a program: the allocator in the plainest Python, one concern a file.

Each class builds on the one before: Memory (what there is), Watermark, Ownership (of pageblocks), Buddy (free lists),
Fallback (where a run comes from), PcpLists, Remote (what other CPUs send), Refill, Drain, Upkeep, Paths (of requests),
Isolation, Contiguous (ranges, and memory that goes and comes), and last Zone, the face.
Node chooses between zones; check says what always holds. Rules B-n are those of docs/reference/baseline.md,
P-n, T-n and I-n those of docs/reference/rfc.md. It shares no code with the compiled core, which is compared with it.
"""

from .node import Node
from .sizing import min_free_kbytes, pcp_sizing, stat_threshold, watermarks
from .zone import Zone

__all__ = ["Node", "Zone", "min_free_kbytes", "pcp_sizing", "stat_threshold", "watermarks"]
