"""
The metrics of a run without time: one vocabulary, dotted names, defined in docs/reference/replay.md, section 3.

The core counts (P-111), this module names. All figures are of the whole run and all zones; the same names below
``zones.<name>.`` and ``cpus.<n>.`` break them down.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .contig import CONTIG_REASONS
from .names import MIGRATETYPE_NAMES, NR_ORDERS

__all__ = ["HOLDS", "Metrics", "Number", "collect", "fragmentation_index", "of_cpu", "of_zones", "unusable_index"]

Number = int | float
Metrics = dict[str, Number]

HOLDS = ("refill", "direct_alloc", "direct_free", "drain", "other")
RULES = ("other", "cma")  # what the 50 % rule of B-40 said: take CMA first, or not


def fragmentation_index(nr_free: Sequence[int], order: int) -> int:
    """
    Fragmentation index x 1000 of ``order``, as the kernel computes it (baseline section 20).

    nr_free: chunks of each order 0..10, all types. -1000: such a chunk is free; towards 0: the memory is short;
    towards 1000: it is there, but in pieces.
    """
    free, chunks, fit = _free(nr_free, order)
    if not chunks:
        return 0
    if fit:
        return -1000
    return 1000 - (1000 + (free * 1000 >> order)) // chunks


def unusable_index(nr_free: Sequence[int], order: int) -> int:
    """
    Unusable free space index x 1000 of ``order``: the share of free memory in chunks too small (baseline section 20).
    """
    free, _, fit = _free(nr_free, order)
    if not free:
        return 1000
    unusable = free - fit * (1 << order)
    return unusable * 1000 // free


def _free(nr_free: Sequence[int], order: int) -> tuple[int, int, int]:
    """
    Free pages, chunks, and how many chunks of ``order`` could be made of them.
    """
    counts = [int(count) for count in nr_free]
    free = sum(count << k for k, count in enumerate(counts))
    fit = sum(count << (k - order) for k, count in enumerate(counts) if k >= order)
    return free, sum(counts), fit


def collect(node: Any, result: Mapping[str, int]) -> Metrics:
    """
    All metrics of a finished replay.

    node: the Node after the run; result: what the replay counted itself.
    """
    zones = list(node.zones)
    metrics = of_zones({zone.name: zone for zone in zones})
    metrics["frees.unknown"] = int(result["frees_unknown"])
    metrics["frees.double"] = int(result["frees_double"])
    metrics["pcp.parked_pages_max"] = int(result["parked_pages_max"])
    for cpu in range(_nr_cpus(zones)):
        metrics |= {f"cpus.{cpu}.{name}": value for name, value in of_cpu(zones, cpu).items()}
    return metrics


def of_zones(zones: Mapping[str, Any]) -> Metrics:
    """
    All metrics that the zones counted themselves: of all of them, and below ``zones.<name>.`` of each.
    """
    census = [zone.census() for zone in zones.values()]  # looks at every page: once each
    metrics = _of_zones(list(zones.values()), census)
    for (zone, counting), of_zone in zip(zones.items(), census, strict=True):
        metrics |= {f"zones.{zone}.{name}": value for name, value in _of_zones([counting], [of_zone]).items()}
    return metrics


def of_cpu(zones: Iterable[Any], cpu: int) -> Metrics:
    """
    What one CPU counted in the zones: all metrics that can be told apart by CPU.
    """
    return _of_counters(_sum(zone.counters(cpu) for zone in zones))


def _nr_cpus(zones: Sequence[Any]) -> int:
    return max(int(zone.cpus) for zone in zones)


def _of_zones(zones: Sequence[Any], census: Sequence[Mapping[str, Any]]) -> Metrics:
    """
    Every metric that a set of zones has. census: of each.
    """
    metrics = _of_counters(_sum(zone.counters() for zone in zones))
    for phase, by_rule in enumerate(_add(zone.cma_by_phase() for zone in zones)):
        for rule, (other, cma) in zip(RULES, by_rule, strict=True):
            metrics[f"cma.by_phase.{phase}.rule_{rule}.cma_pages"] = int(cma)
            metrics[f"cma.by_phase.{phase}.rule_{rule}.other_pages"] = int(other)
    for name, blocks in zip(MIGRATETYPE_NAMES, _add(c["blocks_by_type"] for c in census), strict=True):
        metrics[f"blocks.by_type.{name.lower()}"] = int(blocks)
    metrics["blocks.mixed"] = sum(int(c["blocks_mixed"]) for c in census)
    nr_free = _add(c["nr_free"] for c in census).sum(axis=1)
    for order in range(1, NR_ORDERS):
        metrics[f"frag.index_{order}"] = fragmentation_index(nr_free, order)
        metrics[f"frag.unusable_{order}"] = unusable_index(nr_free, order)
    metrics["pcp.parked_pages"] = sum(int(c["parked_pages"]) for c in census)
    metrics["owned.blocks"] = sum(int(c["owned_blocks"]) for c in census)
    metrics["owned.walk_len.p99"] = _percentile(_add(zone.walk_lengths() for zone in zones), 99)
    return metrics


def _of_counters(c: Mapping[str, int]) -> Metrics:
    """
    The metrics that come from counters alone; all but those can be told apart by CPU.
    """
    holds = {kind: c[f"holds_{kind}"] for kind in HOLDS}
    total = sum(holds.values())
    return {
        "allocs": c["allocs"],
        "allocs.failed": c["allocs_failed"],
        "allocs.from_pcp": _share(c["allocs_from_pcp"], c["allocs"]),
        "pages.allocated": c["pages_allocated"],
        "pages.freed": c["pages_freed"],
        "zone_lock.holds": total,
        **{f"zone_lock.holds.{kind}": count for kind, count in holds.items()},
        "zone_lock.holds_per_1000_allocs": 1000 * _share(total, c["allocs"]),
        "zone_lock.list_ops": c["list_ops"],
        "zone_lock.moves": c["moves"],
        "zone_lock.pages_moved": c["pages_moved"],
        "zone_lock.pages_per_hold": _share(c["pages_moved"], total),
        "zone_lock.merges": c["zone_merges"],
        "zone_lock.splits": c["zone_splits"],
        "pcp.merges": c["pcp_merges"],
        "pcp.splits": c["pcp_splits"],
        "refill.count": c["refills"],
        **{f"refill.phase{phase}_pages": c[f"phase{phase}_pages"] for phase in range(4)},
        "frees.local": c["frees_local"],
        "frees.remote": c["frees_remote"],
        "frees.direct": c["frees_direct"],
        "frees.failed_trylock": c["frees_failed_trylock"],
        "remote.pushes": c["remote_pushes"],
        "remote.over_bound": c["remote_over_bound"],
        "remote.absorbs": c["absorbs"],
        "remote.absorbed_pages": c["absorbed_pages"],
        "cma.alloc_share": _share(c["cma_pages"], c["pages_allocated"]),
        "cma.movable_share": _share(c["movable_cma_pages"], c["movable_pages"]),
        "owned.skipped": c["skipped_blocks"],
        "owned.walks": c["walks"],
        "owned.walked": c["walked_blocks"],
        "owned.scanned_pfns": c["scanned_pfns"],
        "pcp.merge_visited": c["merge_visited"],
        "drain.entries": c["drained_entries"],
        "drain.pages": c["drained_pages"],
        **_contig(c),
    }


def _contig(c: Mapping[str, int]) -> Metrics:
    """
    Contiguous ranges that were tried: what came of them (docs/reference/contiguous.md, CT-8).
    """
    ranges = {reason or "ok": c[f"contig_{reason or 'ok'}"] for reason in CONTIG_REASONS}
    tried = sum(ranges.values())
    return {
        "contig.ranges": tried,
        **{f"contig.ranges.{reason}": count for reason, count in ranges.items()},
        "contig.ok_share": _share(ranges["ok"], tried),
        "contig.pages": c["contig_pages"],
        "contig.pages_migrated": c["pages_migrated"],
        "contig.moves_refused": c["migrations_refused"],
    }


def _share(part: int, whole: int) -> float:
    """
    Part / whole, 0 where there is nothing to share.
    """
    return part / whole if whole else 0.0


def _sum(counters: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """
    Counters of several zones added up.
    """
    total: dict[str, int] = {}
    for some in counters:
        for name, value in some.items():
            total[name] = total.get(name, 0) + int(value)
    return total


def _add(arrays: Iterable[Any]) -> np.ndarray:
    total: np.ndarray = np.sum([np.asarray(array, np.int64) for array in arrays], axis=0)
    return total


def _percentile(histogram: np.ndarray, percent: int) -> int:
    """
    The smallest bin that at least ``percent`` of the entries do not exceed; 0 without entries.
    """
    reached = np.cumsum(histogram)
    if not reached[-1]:
        return 0
    return int(np.searchsorted(reached, -(-int(reached[-1]) * percent // 100)))
