"""
The one shape of an event, whatever it was read from: columns, event names, and which field fills which column.

Names and meanings are those of the recordings (docs/reference/replay.md); what was added for the companions of the
page allocator's events is said in docs/reference/traces.md. A batch is an array of EVENT records; texts are numbers of
entries in the batch's own tables, and null is a number for each width of a column.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = [
    "ARROW",
    "EVENT",
    "EVENTS",
    "KNOWN",
    "NULLS",
    "TEXTS",
    "Batch",
    "Field",
    "blank",
    "columns",
    "place",
]

# Of columns of 8, 4 and 2 bytes.
NULLS = {8: -(1 << 62), 4: -(1 << 31), 2: -(1 << 15)}

# Column -> (type in memory, type in a file), in the order of the recordings.
_COLUMNS = {
    "ts_ns": ("i8", "int64"),
    "cpu": ("i2", "int16"),
    "cpu_seq": ("i8", "int64"),
    "pid": ("i4", "int32"),
    "comm": ("i4", "text"),
    "irq_flags": ("i2", "uint8"),
    "preempt_count": ("i2", "uint8"),
    "event": ("i2", "event"),
    "pfn": ("i8", "int64"),
    "order": ("i2", "int8"),
    "migratetype": ("i2", "int8"),
    "gfp_flags": ("i8", "int64"),
    "percpu_refill": ("i2", "int8"),
    "fallback_order": ("i2", "int8"),
    "fallback_migratetype": ("i2", "int8"),
    "change_ownership": ("i2", "int8"),
    "zone": ("i2", "int8"),
    "pcp_cpu": ("i2", "int16"),
    "aflags": ("i4", "int32"),
    "count": ("i4", "int64"),
    "high": ("i4", "int64"),
    "pflags": ("i2", "int16"),
    "afactor": ("i2", "int16"),
    "fcount": ("i4", "int32"),
    "zflags": ("i2", "int16"),
    "fpi": ("i2", "int8"),
    "nr": ("i4", "int64"),
    "pindex": ("i2", "int8"),
    "boost": ("i4", "int64"),
    "pbflags": ("i2", "int16"),
    "old_migratetype": ("i2", "int8"),
    "ret": ("i4", "int32"),
    "isolate": ("i2", "int8"),
    "pagesets": ("i4", "int64"),
    "lock_addr": ("i8", "int64"),
    "lock_flags": ("i2", "int16"),
    "nid": ("i2", "int16"),
    "marker": ("i4", "text"),
}
# These stand first in a row, where the compiled readers know them by place (Head in _parse.pyx); then the wider ones.
# A row is 128 bytes, two cache lines.
_HEAD = ("ts_ns", "cpu_seq", "pfn", "gfp_flags", "pid", "comm", "marker", "cpu", "event", "irq_flags", "preempt_count")
_TAIL = sorted(set(_COLUMNS) - set(_HEAD), key=lambda name: ("i8 i4 i2".index(_COLUMNS[name][0]), name))
EVENT = np.dtype([(name, _COLUMNS[name][0]) for name in (*_HEAD, *_TAIL)])
ARROW = {name: arrow for name, (_, arrow) in _COLUMNS.items()}
TEXTS = ("comm", "marker")


@dataclasses.dataclass(frozen=True, slots=True)
class Field:
    """
    What fills a column: the names that a field has in one kernel or another, and how its text is read.

    kind: number; gfp or lock, a number or names of flags; needed: a line without it is not that event.
    """

    column: str
    names: tuple[str, ...]
    kind: str = "number"
    needed: bool = False


def _same(*names: str) -> tuple[Field, ...]:
    return tuple(Field(name, (name,)) for name in names)


_PFN = Field("pfn", ("pfn",), needed=True)
_GFP = Field("gfp_flags", ("gfp_flags", "gfpflags"), "gfp")
_TYPE = Field("migratetype", ("migratetype", "mt"))
_PCP = (_TYPE, *_same("count", "high", "pflags", "afactor", "fcount"))
_CMA = Field("nr", ("count",))

# The six of kmem, then their companions, then the probes that the recordings have. Families that name no field of ours
# are kept as rows all the same: that they happened is what a reader of the rows asks.
EVENTS: dict[str, tuple[Field, ...]] = {
    "mm_page_alloc": (_PFN, Field("order", ("order",), needed=True), _TYPE, _GFP),
    "mm_page_free": (_PFN, Field("order", ("order",), needed=True)),
    "mm_page_free_batched": (_PFN,),
    "mm_page_alloc_zone_locked": (_PFN, Field("order", ("order",), needed=True), _TYPE, *_same("percpu_refill")),
    "mm_page_pcpu_drain": (_PFN, Field("order", ("order",), needed=True), _TYPE),
    "mm_page_alloc_extfrag": (
        _PFN,
        Field("order", ("alloc_order",), needed=True),
        Field("migratetype", ("alloc_migratetype",)),
        *_same("fallback_order", "fallback_migratetype", "change_ownership"),
    ),
    "print": (),
    "contention_begin": (Field("lock_addr", ("lock_addr",)), Field("lock_flags", ("flags",), "lock")),
    "contention_end": (Field("lock_addr", ("lock_addr",)), *_same("ret")),
    "mm_vmscan_kswapd_wake": _same("nid", "order"),
    "mm_vmscan_kswapd_sleep": _same("nid"),
    "mm_vmscan_wakeup_kswapd": (*_same("nid", "order"), _GFP),
    "mm_vmscan_direct_reclaim_begin": (*_same("order"), _GFP),
    "mm_vmscan_direct_reclaim_end": (Field("nr", ("nr_reclaimed",)),),
    "mm_vmscan_memcg_reclaim_begin": (*_same("order"), _GFP),
    "mm_vmscan_memcg_reclaim_end": (Field("nr", ("nr_reclaimed",)),),
    "mm_vmscan_node_reclaim_begin": (*_same("nid", "order"), _GFP),
    "mm_vmscan_node_reclaim_end": (Field("nr", ("nr_reclaimed",)),),
    "mm_vmscan_lru_shrink_inactive": (*_same("nid"), Field("nr", ("nr_reclaimed",))),
    "mm_vmscan_lru_shrink_active": _same("nid"),
    "mm_vmscan_throttled": _same("nid"),
    "mm_compaction_begin": (Field("pfn", ("zone_start",)),),
    "mm_compaction_end": (Field("pfn", ("zone_start",)),),
    "mm_compaction_isolate_migratepages": (
        Field("pfn", ("start_pfn",)),
        Field("nr", ("nr_taken",)),
    ),
    "mm_compaction_isolate_freepages": (
        Field("pfn", ("start_pfn",)),
        Field("nr", ("nr_taken",)),
    ),
    "mm_compaction_migratepages": (Field("nr", ("nr_migrated",)),),
    "mm_compaction_try_to_compact_pages": (*_same("order"), _GFP),
    "mm_compaction_finished": _same("nid", "order"),
    "mm_compaction_suitable": _same("nid", "order"),
    "mm_compaction_deferred": _same("nid", "order"),
    "mm_compaction_defer_compaction": _same("nid", "order"),
    "mm_compaction_defer_reset": _same("nid", "order"),
    "mm_compaction_kcompactd_sleep": _same("nid"),
    "mm_compaction_kcompactd_wake": _same("nid", "order"),
    "mm_compaction_wakeup_kcompactd": _same("nid", "order"),
    "cma_alloc": (Field("pfn", ("pfn",)), _CMA),
    "cma_alloc_start": (_CMA,),
    "cma_alloc_finish": (Field("pfn", ("pfn",)), _CMA, Field("ret", ("errorno",))),
    "cma_alloc_busy_retry": (Field("pfn", ("pfn",)), _CMA),
    "cma_release": (Field("pfn", ("pfn",)), _CMA),
    "test_pages_isolated": (Field("pfn", ("start_pfn",)),),
    "mm_migrate_pages": (Field("nr", ("nr_succeeded", "succeeded")),),
    "mm_migrate_pages_start": (),
    "mark_victim": (),
    "pcp_alloc": (*_same("pfn", "order", "aflags"), *_PCP),
    "pcp_alloc_bulk": (*_same("pfn"), *_PCP),
    "pcp_alloc_tryfail": (*_same("order"), _TYPE),
    "pcp_free": (*_same("pfn", "order", "fpi", "zflags"), *_PCP),
    "pcp_bulk_free": (Field("nr", ("nr", "n")), *_same("pindex", "count", "high")),
    "free_one": _same("pfn", "order", "fpi"),
    "buddy_free": _same("pfn", "order", "fpi"),
    "claim": (
        *_same("pfn", "order", "boost"),
        Field("fallback_order", ("cur_order",)),
        Field("migratetype", ("start",)),
        Field("fallback_migratetype", ("block",)),
    ),
    "set_pageblock": _same("pfn", "pbflags"),
    "move_block": (*_same("pfn"), Field("old_migratetype", ("old",)), Field("migratetype", ("new",))),
    "unreserve": _same("ret"),
    "isolate": _same("pfn", "order", "ret"),
    "putback": (*_same("pfn", "order"), _TYPE),
    "block_isolate": _same("pfn", "isolate"),
    "take_buddy": _same("pfn"),
    "decay": _same("count", "high"),
    "vmfold": _same("pagesets"),
    "drain_zone": (Field("pcp_cpu", ("zcpu",)),),
    "drain_zone_pages": (),
    "split": _same("pfn", "order"),
}
KNOWN = tuple(EVENTS)
# What the trace of a kernel calls the text that somebody wrote into trace_marker.
MARKERS = ("print", "tracing_mark_write")


@dataclasses.dataclass(frozen=True, slots=True)
class Batch:
    """
    Some rows in global order. ``rows["comm"]`` and ``rows["marker"]`` are positions in the two lists, or null.
    """

    rows: np.ndarray
    comms: list[str]
    markers: list[str]

    def __len__(self) -> int:
        return len(self.rows)

    def texts(self, column: str) -> list[str]:
        """
        The table of ``comm`` or ``marker``.
        """
        return self.comms if column == "comm" else self.markers

    def null(self, column: str) -> np.ndarray:
        """
        A mask of the rows in which the column is null.
        """
        values = self.rows[column]
        mask: np.ndarray = values == NULLS[values.dtype.itemsize]
        return mask


def blank() -> np.ndarray:
    """
    One row of nulls.
    """
    row = np.zeros(1, EVENT)
    for name in columns():
        row[name] = NULLS[EVENT[name].itemsize]
    return row


def place(column: str) -> tuple[int, int]:
    """
    Where a column is in a row, and how many bytes wide.
    """
    fields: Mapping[str, Any] = EVENT.fields or {}
    dtype, at, *_ = fields[column]
    return at, dtype.itemsize


def columns() -> tuple[str, ...]:
    """
    The names of all columns.
    """
    return tuple(_COLUMNS)
