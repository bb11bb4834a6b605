"""
The rows of a recording as the core takes them: one record of fixed size a row, batch by batch.
"""

from collections.abc import Iterator

import numpy as np

from .files import MISSING, RowFile

REPLAYED = 1  # the phase between the two snapshots
NO_PFN = 0xFFFFFFFF
NO_FIELD = -(1 << 31)  # of the 32-bit fields; the smaller ones have -1 where the row has nothing

# Field, type, column. row is the number of the row in the file.
_FIELDS = (
    ("row", "u8", None),
    ("owner", "u8", None),  # the core's: which request a row under the zone lock belongs to
    ("pfn", "u4", "pfn"),
    ("gfp", "u4", "gfp_flags"),
    ("pid", "i4", "pid"),
    ("count", "i4", "count"),
    ("high", "i4", "high"),
    ("free_count", "i4", "fcount"),
    ("nr", "i4", "nr"),
    ("aflags", "i4", "aflags"),
    ("cpu", "u2", "cpu"),
    ("pcp_cpu", "i2", "pcp_cpu"),
    ("event", "u1", "event"),
    ("order", "i1", "order"),
    ("type", "i1", "migratetype"),
    ("zone", "i1", "zone"),
    ("pcp_flags", "i1", "pflags"),
    ("alloc_factor", "i1", "afactor"),
    ("zone_flags", "i1", "zflags"),
    ("fpi", "i1", "fpi"),
    ("pindex", "i1", "pindex"),
    ("fallback_order", "i1", "fallback_order"),
    ("fallback_type", "i1", "fallback_migratetype"),
    ("change_ownership", "i1", "change_ownership"),
    ("percpu_refill", "i1", "percpu_refill"),
    ("block_flags", "i1", "pbflags"),
    ("old_type", "i1", "old_migratetype"),
    ("ret", "i1", "ret"),
    ("isolate", "i1", "isolate"),
    ("context", "u1", "irq_flags"),
    ("done", "u1", None),  # the core's: what has been done of it already
)
ROW = np.dtype([(name, kind) for name, kind, _ in _FIELDS], align=True)
COLUMNS = ("phase", *(column for _, _, column in _FIELDS if column is not None))


def pack(file: RowFile, size: int = 1 << 16) -> Iterator[np.ndarray]:
    """
    The rows of phase 1 as arrays of ROW, at most ``size`` at a time.
    """
    first = 0
    for batch in file.batches(COLUMNS, size):
        numbers = np.flatnonzero(batch["phase"] == REPLAYED)
        rows = np.zeros(len(numbers), ROW)
        rows["row"] = numbers + first
        for name, kind, column in _FIELDS:
            if column is not None:
                values = batch[column][numbers]
                rows[name] = np.where(values == MISSING, _absent(name, kind), values).astype(ROW[name], casting="unsafe")
        first += len(batch["phase"])
        yield rows


def _absent(name: str, kind: str) -> int:
    if name == "pfn":
        return NO_PFN
    if kind == "i4":
        return NO_FIELD
    return -1 if kind[0] == "i" else 0
