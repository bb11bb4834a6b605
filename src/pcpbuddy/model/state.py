"""
A zone as a dictionary of plain values, and back: exact, and not verified (``check()`` does that).
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

from .. import names
from ..config import Policy
from ..errors import UsageError
from .contig import joined
from .memory import Allocation, Block, Chunk, Entry, Layout, Memory, PageList, Pcp, Run

State = dict[str, Any]

_ZONE_VALUES = (
    *("start_pfn", "spanned", "managed", "zone_index", "name", "watermark_boost", "flags"),
    *("nr_reserved_highatomic", "nr_free_highatomic", "nr_isolate_pageblock"),
    *("auto_sizing", "auto_threshold", "auto_watermark", "boost_factor", "stat_threshold"),
)
_ZONE_LISTS = ("watermark", "lowmem_reserve", "pageset", "stat")
_PCP_VALUES = (
    *("online", "remote_node", "count", "high", "high_min", "high_max", "batch", "flags"),
    *("alloc_factor", "free_count", "expire"),
)


def to_state(m: Memory) -> State:
    keys = [(order, mt) for order in range(names.NR_ORDERS) for mt in range(names.NR_MIGRATETYPES)]
    return {
        **{name: getattr(m, name) for name in _ZONE_VALUES},
        **{name: list(getattr(m, name)) for name in _ZONE_LISTS},
        "blocks": [[block.type, block.iso, block.owner, block.linked] for block in m.blocks],
        "free": {(order, mt): list(m.free_area[order][mt]) for order, mt in keys if m.free_area[order][mt]},
        "deferred": m.deferred[::-1],
        "allocated": {pfn: tuple(m.allocated[pfn]) for pfn in sorted(m.allocated)},
        "cma_claimed": [list(run) for run in joined((pfn, 1) for pfn in sorted(m.claimed))],
        "pcp": [
            {
                **{name: getattr(pcp, name) for name in _PCP_VALUES},
                "stat_diff": list(pcp.stat_diff),
                "lists": {m.layout.key(index): list(entries) for index, entries in enumerate(pcp.lists) if entries},
                "marked": sorted(pcp.marked),
                "owned": list(chain(*pcp.owned)),
                "remote": list(pcp.remote),
                "outboxes": [(target, list(runs)) for target, runs in pcp.outboxes.items()],
                "pending": pcp.pending,
            }
            for pcp in m.pcps
        ],
    }


def fields(state: Mapping[str, Any], policy: Policy) -> dict[str, Any]:
    """What a Memory is made from; ``fill()`` adds where the pages are."""
    if not policy.owns and any(owner >= 0 for _, _, owner, _ in state["blocks"]):
        raise UsageError(f"a state with owned blocks: policy {policy.name} (gate=never) owns none")
    if policy.remote not in ("llist", "handover") and any(
        pcp.get(name) for pcp in state["pcp"] for name in ("remote", "outboxes", "pending")
    ):
        raise UsageError(f"a state with pages on remote lists: policy {policy.name} (remote={policy.remote}) has none")
    return {
        "policy": policy,
        **{name: state[name] for name in _ZONE_VALUES if name in state},  # auto_watermark is newer
        **{name: list(state[name]) for name in _ZONE_LISTS},
        "blocks": [Block(*block) for block in state["blocks"]],
        "pcps": [_pcp(pcp, Layout(policy)) for pcp in state["pcp"]],
    }


def _pcp(state: Mapping[str, Any], layout: Layout) -> Pcp:
    lists = [PageList() for _ in range(layout.nr_lists)]
    for (order, mt), pfns in state["lists"].items():
        if not layout.has(order):
            raise UsageError(f"PCP entries of order {order} have no list under pcp_lists={layout.nr_lists}")
        lists[layout.index(order, mt)].update(PageList(dict.fromkeys(pfns)))
    return Pcp(
        **{name: state[name] for name in _PCP_VALUES},
        stat_diff=list(state["stat_diff"]),
        lists=lists,
        marked=set(state["marked"]),
        remote=_runs(state.get("remote", [])),
        outboxes=OrderedDict((target, _runs(runs)) for target, runs in state.get("outboxes", [])),
        pending=state.get("pending", 0),
    )


def _runs(pairs: Iterable[tuple[int, int]]) -> list[Run]:
    return [(pfn, order) for pfn, order in pairs]


def fill(m: Memory, state: Mapping[str, Any]) -> None:
    for (order, mt), pfns in state["free"].items():
        m.free_area[order][mt] = PageList(dict.fromkeys(pfns))
        m.chunks |= dict.fromkeys(pfns, Chunk(order, mt))
    for cpu, pcp in enumerate(m.pcps):
        for index, entries in enumerate(pcp.lists):
            m.entries |= dict.fromkeys(entries, Entry(cpu, m.layout.key(index)[0], index))
            if m.policy.mark == "all":
                pcp.marked.update(entries)
        for index in state["pcp"][cpu]["owned"]:
            m.owned_list(cpu, index).add(index, tail=True)
    m.deferred = _runs(reversed(state["deferred"]))
    m.claimed = {pfn for start, pages in state.get("cma_claimed", []) for pfn in range(start, start + pages)}
    m.allocated = {pfn: Allocation(*allocation) for pfn, allocation in state["allocated"].items()}
