"""
From a snapshot to the state of a node: the form that Node.from_state and Zone.from_state take.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..config import Policy
from ..errors import RecordingError
from ..names import CMA, MOVABLE, NR_MIGRATETYPES, NR_ORDERS, NR_PCP_TYPES, PAGEBLOCK_ORDER, PAGEBLOCK_PAGES, UNKNOWN
from .files import Snapshot

# page_state of the npz file; 0 is no memory and 1 reserved, both holes to the allocator.
BUDDY, PCP, ALLOCATED, TAIL = 2, 3, 4, 5
PAGE_LRU = 1 << 5
BLOCK_TYPE = 0x7
BLOCK_ISOLATED = 1 << 4
MAX_ZONES = 5
MOST_BATCH = 512  # zone_batchsize() gives 63 at most; a section of more would not fit the replay's ring
NR_PCP_LISTS = 14
ORDER_9_LIST = 12  # the first of the two lists that are not 3 * order + type (B-10)
COUNTERS = ("NR_FREE_PAGES", "NR_FREE_CMA_PAGES", "NR_FREE_PAGES_BLOCKS")
NEEDED = ("kernel", "max_pfn", "online_cpus", "zone_stat_items", "globals", "ring", "zones")


@contextlib.contextmanager
def _described(snap: Snapshot) -> Iterator[None]:
    """
    Turn what a document lacks, or has in another form, into one sentence.
    """
    try:
        yield
    except RecordingError:
        raise
    except (KeyError, TypeError, IndexError, ValueError, AttributeError, OverflowError, StopIteration) as error:
        raise RecordingError(
            f"{snap.label}.json.zst is not a snapshot of an allocator ({type(error).__name__}: {error}); "
            "copy or record it again"
        ) from None


def verify(snap: Snapshot) -> None:
    """
    Prove that the two files of a snapshot describe the same memory.

    The lists of the JSON document must cover exactly the pages that the arrays call BUDDY and PCP, at
    the same orders, and every managed page must have a state. Raises RecordingError.
    """
    with _described(snap):
        _verify(snap)


def _verify(snap: Snapshot) -> None:
    document, arrays = snap.json, snap.arrays
    absent = [name for name in NEEDED if name not in document]
    if absent:
        raise KeyError(*absent)
    if not document["zones"] or any(ring["entries"] < 0 for ring in document["ring"]):
        raise ValueError("no zones, or a CPU with fewer than no events")
    max_pfn = document["max_pfn"]
    lengths = {name: len(arrays[name]) for name in ("page_state", "page_order", "page_flags")}
    nr_blocks = -(-max_pfn // PAGEBLOCK_PAGES)
    if set(lengths.values()) != {max_pfn} or len(arrays["pageblock_flags"]) < nr_blocks:
        raise RecordingError(
            f"{snap.label}.npz describes {lengths['page_state']} pages and {snap.label}.json.zst {max_pfn}: "
            "they are not parts of one snapshot"
        )
    _verify_ranges(document)
    types = np.unique(arrays["pageblock_flags"][:nr_blocks] & BLOCK_TYPE)
    if types.max(initial=0) > CMA:
        raise ValueError(f"pageblocks of types {types.tolist()}")
    listed = np.zeros(max_pfn, np.uint8)
    orders = np.zeros(max_pfn, np.uint8)
    for zone in document["zones"]:
        start, end = zone["zone_start_pfn"], zone["zone_start_pfn"] + zone["spanned_pages"]
        for state, order, pfns in _entries(zone):
            heads = np.asarray(pfns, np.int64)
            if len(heads) and (heads.min() < start or heads.max() + (1 << order) > end or (heads % (1 << order)).any()):
                raise RecordingError(
                    f"{snap.label}.json.zst lists a chunk of order {order} that does not fit zone {zone['name']} "
                    f"(pages {start} to {end - 1}); the file is damaged: copy or record it again"
                )
            orders[heads] = order
            for offset in range(1 << order):
                listed[heads + offset] = state
        states = arrays["page_state"][start:end]
        managed = np.count_nonzero(states >= BUDDY)
        if managed != zone["managed_pages"]:
            raise RecordingError(
                f"{snap.label}.npz has {managed} managed pages in zone {zone['name']} and {snap.label}.json.zst "
                f"{zone['managed_pages']}: they are not parts of one snapshot"
            )
    states = arrays["page_state"]
    expected = np.where((states == BUDDY) | (states == PCP), states, 0)
    wrong = np.flatnonzero((listed != expected) | ((orders != arrays["page_order"]) & (listed != 0)))
    if len(wrong):
        names = {0: "on no list", BUDDY: "free in the zone", PCP: "on a PCP list"}
        page = wrong[0]
        raise RecordingError(
            f"page {page} is {names[int(listed[page])]} in {snap.label}.json.zst but "
            f"{names[int(expected[page])]} (or of another order) in {snap.label}.npz: "
            "they are not parts of one snapshot"
        )


def _verify_ranges(document: dict[str, Any]) -> None:
    """
    What the core takes as an index, a divisor or a shift.
    """
    cpus = set(range(len(document["ring"])))
    for zone in document["zones"]:
        name = zone["name"]
        if not 0 <= zone["zone_start_pfn"] < zone["zone_start_pfn"] + zone["spanned_pages"] <= document["max_pfn"]:
            raise ValueError(f"zone {name} goes beyond page {document['max_pfn'] - 1}")
        if not 0 <= zone["index"] < MAX_ZONES or not cpus <= {pcp["cpu"] for pcp in zone["pcp"]}:
            raise ValueError(f"zone {name} has index {zone['index']} or no PCP for one of {len(cpus)} CPUs")
        for area in zone["free_area"]:
            if not 0 <= area["order"] < NR_ORDERS or any(not 0 <= int(T) < NR_MIGRATETYPES for T in area["free_list"]):
                raise ValueError(f"zone {name} has free lists of order {area['order']}, types {[*area['free_list']]}")
        for pcp in zone["pcp"]:
            if pcp["batch"] < 1 or not 0 <= pcp["high_min"] <= pcp["high_max"] or not 0 <= pcp["alloc_factor"] <= 5:
                raise ValueError(f"CPU {pcp['cpu']} of zone {name} has batch {pcp['batch']} or limits that cannot be")
            if pcp["batch"] > MOST_BATCH or not 0 <= max(pcp["high"], pcp["high_max"], pcp["free_count"]) < 1 << 24:
                raise ValueError(f"CPU {pcp['cpu']} of zone {name} has a batch, high or free_count beyond all bounds")
            if any(not 0 <= int(index) < NR_PCP_LISTS for index in pcp["lists"]):
                raise ValueError(f"CPU {pcp['cpu']} of zone {name} has PCP lists {[*pcp['lists']]}")


def _entries(zone: dict[str, Any]) -> list[tuple[int, int, list[int]]]:
    """
    Every list of a zone as (page state, order, heads).
    """
    found = []
    for area in zone["free_area"]:
        found += [(BUDDY, area["order"], pfns) for pfns in area["free_list"].values()]
    for pcp in zone["pcp"]:
        found += [(PCP, _list_key(int(index))[0], pfns) for index, pfns in pcp["lists"].items()]
    return found


def _list_key(index: int) -> tuple[int, int]:
    """
    (order, type) of a list of the 14-list form (B-10); both lists of order 9 get (9, 0) and (9, 1).
    """
    if index >= ORDER_9_LIST:
        return PAGEBLOCK_ORDER, index - ORDER_9_LIST
    return index // NR_PCP_TYPES, index % NR_PCP_TYPES


def node_state(snap: Snapshot) -> dict[str, Any]:
    """
    The state of the node: {"cpus": n, "zones": [state, ...]}, PCP lists in the 14-list form.

    Allocated pages are an array of rows pfn, order, type, movable; their type is UNKNOWN, for nobody saw the request.
    """
    with _described(snap):
        cpus = 1 + max(pcp["cpu"] for zone in snap.json["zones"] for pcp in zone["pcp"])
        return {"cpus": cpus, "zones": [_zone_state(snap, zone, cpus) for zone in snap.json["zones"]]}


def _zone_state(snap: Snapshot, zone: dict[str, Any], cpus: int) -> dict[str, Any]:
    items = snap.json["zone_stat_items"]
    online = set(snap.json["online_cpus"])
    by_cpu = {pcp["cpu"]: pcp for pcp in zone["pcp"]}
    start, spanned = zone["zone_start_pfn"], zone["spanned_pages"]
    blocks = _blocks(snap, start, start + spanned)
    return {
        "start_pfn": start,
        "spanned": spanned,
        "managed": zone["managed_pages"],
        "zone_index": zone["index"],
        "name": zone["name"],
        "watermark": list(zone["watermark"]),
        "watermark_boost": zone["watermark_boost"],
        "lowmem_reserve": list(zone["lowmem_reserve"]),
        "flags": zone["flags"],
        "nr_reserved_highatomic": zone["nr_reserved_highatomic"],
        "nr_free_highatomic": zone["nr_free_highatomic"],
        "nr_isolate_pageblock": sum(block[1] for block in blocks),
        "pageset": [zone["pageset_high_min"], zone["pageset_high_max"], zone["pageset_batch"]],
        "auto_sizing": snap.json["globals"]["percpu_pagelist_high_fraction"] == 0,
        "auto_threshold": True,
        "boost_factor": snap.json["globals"]["watermark_boost_factor"],
        "stat": [zone["vm_stat"][name] for name in COUNTERS],
        "stat_threshold": zone["pcp"][0]["stat_threshold"],
        "blocks": blocks,
        "free": {
            (area["order"], int(T)): list(pfns)
            for area in zone["free_area"]
            for T, pfns in sorted(area["free_list"].items(), key=lambda item: int(item[0]))
            if pfns
        },
        "deferred": [],
        "allocated": _allocated(snap, start, start + spanned),
        "pcp": [_pcp_state(by_cpu[cpu], items, cpu in online) for cpu in range(cpus)],
    }


def _blocks(snap: Snapshot, start: int, end: int) -> list[list[int]]:
    """
    [type, iso, owner, linked] of each pageblock of the zone; a block without a flag byte is M, as all are at boot.
    """
    first = start // (1 << (NR_ORDERS - 1)) * 2
    flags = snap.arrays["pageblock_flags"][first : -(-end // PAGEBLOCK_PAGES)].tolist()
    flags += [MOVABLE] * (-(-end // PAGEBLOCK_PAGES) - first - len(flags))
    return [[byte & BLOCK_TYPE, int(bool(byte & BLOCK_ISOLATED)), -1, 0] for byte in flags]


def _allocated(snap: Snapshot, start: int, end: int) -> np.ndarray:
    """
    Rows pfn, order, type, movable of the allocations, ascending.

    A compound page is one allocation; a high-order one that is not compound shows page by page. The LRU bit
    is that of the head and covers the allocation.
    """
    states = snap.arrays["page_state"][start:end]
    orders = snap.arrays["page_order"][start:end]
    flags = snap.arrays["page_flags"][start:end]
    heads = np.flatnonzero(states == ALLOCATED)
    if len(heads) + int(((1 << orders[heads].astype(np.int64)) - 1).sum()) != np.count_nonzero(states >= ALLOCATED):
        raise RecordingError(
            f"{snap.label}.npz has tails of compound pages without a head; the file is damaged: copy or record it again"
        )
    if ((heads + start) % (1 << orders[heads].astype(np.int64))).any():
        raise RecordingError(
            f"{snap.label}.npz has compound pages that are not aligned to their size; the file is damaged: copy or "
            "record it again"
        )
    rows = np.empty((len(heads), 4), np.int64)
    rows[:, 0] = heads + start
    rows[:, 1] = orders[heads]
    rows[:, 2] = UNKNOWN
    rows[:, 3] = (flags[heads] & PAGE_LRU) != 0
    return rows


def _pcp_state(pcp: dict[str, Any], items: dict[str, int], online: bool) -> dict[str, Any]:
    lists = {_list_key(int(index)): list(pfns) for index, pfns in pcp["lists"].items() if pfns}
    return {
        "online": int(online),
        "remote_node": 0,
        **{name: pcp[name] for name in ("count", "high", "high_min", "high_max", "batch", "flags", "alloc_factor")},
        "free_count": pcp["free_count"],
        "expire": pcp["expire"],
        "stat_diff": [pcp["vm_stat_diff"][items[name]] for name in COUNTERS],
        "lists": dict(sorted(lists.items())),
        "marked": [],
        "owned": [],
        "remote": [],
        "outboxes": [],
        "pending": 0,
    }


def adapt(state: dict[str, Any], policy: Policy) -> dict[str, Any]:
    """
    The state of a zone as a policy can take it over (docs/reference/replay.md, section 2).

    The 14-list form keeps U and R of order 9 on one list (B-10). For 30 lists each entry goes to the list
    of its block's type, behind what is there; entries come unmarked and blocks unowned.
    """
    shared = (PAGEBLOCK_ORDER, 0)
    if policy.pcp_lists == 14 or not any(shared in pcp["lists"] for pcp in state["pcp"]):
        return state
    first = state["start_pfn"] // (1 << (NR_ORDERS - 1)) * 2
    pcps = []
    for pcp in state["pcp"]:
        lists = {key: pfns for key, pfns in pcp["lists"].items() if key != shared}
        for pfn in pcp["lists"].get(shared, ()):
            kind, isolated = state["blocks"][pfn // PAGEBLOCK_PAGES - first][:2]
            if isolated or kind >= NR_PCP_TYPES:  # H and C ride on M (P-25)
                kind = MOVABLE
            key = (PAGEBLOCK_ORDER, kind)
            lists[key] = [*lists.get(key, ()), pfn]
        pcps.append({**pcp, "lists": dict(sorted(lists.items()))})
    return {**state, "pcp": pcps}
