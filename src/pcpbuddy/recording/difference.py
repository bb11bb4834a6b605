"""
Where two states of a node differ, list by list.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ..names import MIGRATETYPE_NAMES, PAGEBLOCK_ORDER

__all__ = ["differences"]

# Fields of a PCP and of a zone that are state, not set-up.
PCP_FIELDS = ("count", "high", "high_min", "high_max", "batch", "flags", "alloc_factor", "free_count")
ZONE_FIELDS = ("flags", "watermark_boost", "nr_reserved_highatomic", "nr_free_highatomic", "nr_isolate_pageblock")
COUNTERS = ("NR_FREE_PAGES", "NR_FREE_CMA_PAGES", "NR_FREE_PAGES_BLOCKS")
SHOWN = 4  # entries of a list around the first that differs


def differences(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], *, folds: bool, ticks: bool = True
) -> list[dict[str, Any]]:
    """
    Every list, field and pageblock in which a node's state and a snapshot's differ.

    folds: whether folds of counters were recorded; else only the sum of a counter is compared, not its split into
    the visible part and the differences of each CPU, nor ``expire``, which a fold sets.
    ticks: whether ticks were recorded; else a ``high`` that is lower there, as ticks make it (B-102), is no difference.
    Each difference is a dict of zone, what, and what both have.
    """
    found: list[dict[str, Any]] = []
    for mine, real in zip(ours["zones"], theirs["zones"], strict=True):
        name = real["name"]
        found += _lists(name, "free list", mine["free"], real["free"])
        found += _fields(name, "zone", mine, real, ZONE_FIELDS)
        found += _counters(name, mine, real, folds=folds)
        found += _blocks(name, mine, real)
        for cpu, (pcp, truth) in enumerate(zip(mine["pcp"], real["pcp"], strict=True)):
            if not ticks and pcp["high"] > truth["high"]:
                pcp = {**pcp, "high": truth["high"]}
            found += _fields(name, f"pcp of CPU {cpu}", pcp, truth, (*PCP_FIELDS, *(("expire",) if folds else ())))
            found += _lists(name, f"pcp list of CPU {cpu}", pcp["lists"], truth["lists"])
    return found


def _fields(
    zone: str, what: str, mine: Mapping[str, Any], real: Mapping[str, Any], names: Sequence[str]
) -> list[dict[str, Any]]:
    return [
        {"zone": zone, "what": f"{what}: {name}", "ours": mine[name], "kernel": real[name]}
        for name in names
        if mine[name] != real[name]
    ]


def _lists(zone: str, what: str, mine: Mapping[Any, Any], real: Mapping[Any, Any]) -> list[dict[str, Any]]:
    found = []
    for order, kind in sorted({*mine, *real}):
        ours, kernel = list(mine.get((order, kind), ())), list(real.get((order, kind), ()))
        if ours == kernel:
            continue
        at = next((k for k, pair in enumerate(zip(ours, kernel, strict=False)) if pair[0] != pair[1]), None)
        at = min(len(ours), len(kernel)) if at is None else at
        found.append(
            {
                "zone": zone,
                "what": f"{what}: order {order} {_type_name(what, order, kind)}",
                "ours": len(ours),
                "kernel": len(kernel),
                "same_pages": sorted(ours) == sorted(kernel),
                "first_difference": at,
                "ours_there": ours[at : at + SHOWN],
                "kernel_there": kernel[at : at + SHOWN],
            }
        )
    return found


def _type_name(what: str, order: int, kind: int) -> str:
    if what != "free list" and order == PAGEBLOCK_ORDER:  # the kernel's two lists of that order (B-10)
        return "Movable" if kind else "Unmovable and Reclaimable"
    return MIGRATETYPE_NAMES[kind]


def _counters(zone: str, mine: Mapping[str, Any], real: Mapping[str, Any], *, folds: bool) -> list[dict[str, Any]]:
    found = []
    for item, name in enumerate(COUNTERS):
        sums = [state["stat"][item] + sum(pcp["stat_diff"][item] for pcp in state["pcp"]) for state in (mine, real)]
        if sums[0] != sums[1]:
            found.append({"zone": zone, "what": f"counter {name}", "ours": sums[0], "kernel": sums[1]})
        elif folds and mine["stat"][item] != real["stat"][item]:
            found.append(
                {
                    "zone": zone,
                    "what": f"counter {name}: visible part",
                    "ours": mine["stat"][item],
                    "kernel": real["stat"][item],
                }
            )
    return found


def _blocks(zone: str, mine: Mapping[str, Any], real: Mapping[str, Any]) -> list[dict[str, Any]]:
    first = real["start_pfn"] // 1024 * 1024
    return [
        {
            "zone": zone,
            "what": f"type of the pageblock of page {first + (number << PAGEBLOCK_ORDER)}",
            "ours": MIGRATETYPE_NAMES[block[0]] + (", isolated" if block[1] else ""),
            "kernel": MIGRATETYPE_NAMES[truth[0]] + (", isolated" if truth[1] else ""),
        }
        for number, (block, truth) in enumerate(zip(mine["blocks"], real["blocks"], strict=True))
        if block[:2] != truth[:2]
    ]
