"""
The request stream of a replay in handle mode: one 16-byte record a request.

A request says what was asked for, never what the answer was. ``pfn`` is a handle (docs/reference/replay.md,
section 2): the page frame that the recording saw, or a running number where a workload made the request up.
"""

import numpy as np

__all__ = [
    "ALLOC",
    "BULK",
    "BULK_MORE",
    "FOLD",
    "FREE",
    "ISOLATE",
    "OFFLINE",
    "ONLINE",
    "OP_NAMES",
    "REQUEST",
    "TICK",
    "UNISOLATE",
]

REQUEST = np.dtype([("pfn", "u4"), ("gfp", "u4"), ("nr", "u4"), ("cpu", "u2"), ("op", "u1"), ("order", "u1")])

# What the fields mean, by op. The migratetype always comes from gfp (B-25).
ALLOC = 0  # pfn: handle; gfp, cpu, order
FREE = 1  # pfn: handle of the first page; cpu, order
BULK = 2  # nr pages of order 0 (B-93); pfn: handle of the first, the others follow as nr - 1 BULK_MORE
BULK_MORE = 3  # pfn: handle of one further page of the BULK before
TICK = 4  # vmstat tick (B-101) of one cpu in one zone; nr: zone index
FOLD = 5  # fold the counter differences of one cpu in all zones (B-17)
OFFLINE = 6  # cpu (B-105)
ONLINE = 7  # cpu (B-105)
ISOLATE = 8  # pfn: any page of the pageblock, no handle (B-110)
UNISOLATE = 9  # pfn: any page of the pageblock, no handle (B-111)

OP_NAMES = ("alloc", "free", "bulk", "bulk_more", "tick", "fold", "offline", "online", "isolate", "unisolate")
