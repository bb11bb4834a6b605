"""
The specification as a program: the allocator in the plainest Python, one concern a file.

Read in this order: memory (what there is), buddy (the zone), ownership (who owns a block), pcp, refill and drain
(per-CPU lists), alloc and free (the paths), isolation, watermark, zone and node (the faces), check (what always holds).
Rule numbers B-n are those of docs/reference/baseline.md, P-n, T-n and I-n those of docs/reference/rfc.md.

It shares no code with the compiled core, which is compared with it operation by operation.
"""

from .node import Node
from .sizing import min_free_kbytes, pcp_sizing, stat_threshold, watermarks
from .zone import Zone

__all__ = ["Node", "Zone", "min_free_kbytes", "pcp_sizing", "stat_threshold", "watermarks"]
