"""
What stands under every table of a run: what its times are made of, and what of a kernel is not in them.
"""

from collections.abc import Mapping
from typing import Any

__all__ = ["limits"]

LEFT_OUT = (
    "Not in the model: reclaim, compaction and OOM (a request that finds no page fails and is counted), memory "
    "cgroups, locks other than the allocator's, TLB flushes, memory bandwidth, preemption, and what a CPU that waits "
    "for a lock costs the others beyond the hand-over."
)


def limits(manifest: Mapping[str, Any]) -> list[str]:
    """
    One sentence or more a line; wrap as you like.
    """
    costs = manifest["costs"]
    if costs["calibrated"]:
        times = f"Virtual time. Costs: {costs['name']}, calibrated on the machine that it names."
    else:
        times = (
            f"Virtual time. Costs: {costs['name']}, not calibrated on any machine here: compare runs with one another, "
            "do not quote single times."
        )
    notes = manifest.get("workload", {}).get("notes", ())
    return [*(f"{note[:1].upper()}{note[1:]}." for note in notes), times, LEFT_OUT]
