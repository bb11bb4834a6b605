"""
A zone as a dictionary of plain values, and back: exact, and not verified (``check()`` does that).
"""

from collections.abc import Mapping
from typing import Any

from ..errors import UsageError
from ..names import NR_MIGRATETYPES, NR_ORDERS
from .memory import Allocation, Block, Chunk, Entry, Memory, PageList, Pcp
from .pcp import Layout

State = dict[str, Any]

# Fields that are the same on both sides.
_ZONE_VALUES = (
    *("start_pfn", "spanned", "managed", "zone_index", "name", "watermark_boost", "flags"),
    *("nr_reserved_highatomic", "nr_free_highatomic", "nr_isolate_pageblock"),
    *("auto_sizing", "auto_threshold", "boost_factor", "stat_threshold"),
)
_ZONE_LISTS = ("watermark", "lowmem_reserve", "pageset", "stat")
_PCP_VALUES = (
    *("online", "remote_node", "count", "high", "high_min", "high_max", "batch", "flags"),
    *("alloc_factor", "free_count", "expire"),
)


def to_state(memory: Memory, layout: Layout) -> State:
    """
    The state dictionary of a zone.
    """
    m = memory
    state: State = {name: getattr(m, name) for name in _ZONE_VALUES}
    state |= {name: list(getattr(m, name)) for name in _ZONE_LISTS}
    state["blocks"] = [[block.type, block.iso, block.owner, block.linked] for block in m.blocks]
    state["free"] = {
        (order, mt): list(m.free[order][mt])
        for order in range(NR_ORDERS)
        for mt in range(NR_MIGRATETYPES)
        if m.free[order][mt]
    }
    state["deferred"] = m.deferred[::-1]
    state["allocated"] = {pfn: tuple(m.allocated[pfn]) for pfn in sorted(m.allocated)}
    state["pcp"] = [_pcp_state(pcp, layout) for pcp in m.pcps]
    return state


def _pcp_state(pcp: Pcp, layout: Layout) -> State:
    state: State = {name: getattr(pcp, name) for name in _PCP_VALUES}
    state["stat_diff"] = list(pcp.stat_diff)
    state["lists"] = {layout.key(index): list(entries) for index, entries in enumerate(pcp.lists) if entries}
    state["marked"] = sorted(pcp.marked)
    state["owned"] = list(pcp.owned)
    return state


def from_state(state: Mapping[str, Any], layout: Layout) -> Memory:
    """
    The memory that a state dictionary describes.
    """
    values = {name: state[name] for name in _ZONE_VALUES}
    values |= {name: list(state[name]) for name in _ZONE_LISTS}
    blocks = [Block(*block) for block in state["blocks"]]
    m = Memory(**values, blocks=blocks, pcps=[_pcp(pcp, layout) for pcp in state["pcp"]])
    for (order, mt), pfns in state["free"].items():
        m.free[order][mt] = PageList(pfns)
        m.chunks |= {pfn: Chunk(order, mt) for pfn in pfns}
    m.deferred = [(pfn, order) for pfn, order in reversed(state["deferred"])]
    m.allocated = {pfn: Allocation(*allocation) for pfn, allocation in state["allocated"].items()}
    for cpu, pcp in enumerate(m.pcps):
        for index, entries in enumerate(pcp.lists):
            order, _ = layout.key(index)
            m.entries |= {pfn: Entry(cpu, order, index) for pfn in entries}
    return m


def _pcp(state: Mapping[str, Any], layout: Layout) -> Pcp:
    lists: list[list[int]] = [[] for _ in range(layout.nr_lists)]
    for (order, mt), pfns in state["lists"].items():
        if not layout.has(order):
            raise UsageError(f"PCP entries of order {order} have no list in a policy with pcp_lists={layout.nr_lists}")
        lists[layout.index(order, mt)] += pfns
    return Pcp(
        **{name: state[name] for name in _PCP_VALUES},
        stat_diff=list(state["stat_diff"]),
        lists=[PageList(pfns) for pfns in lists],
        marked=set(state["marked"]),
        owned=PageList(state["owned"]),
    )
