"""
The share of CMA among movable allocations, under several policies, while a zone with much CMA fills up.

The question is a reviewer's: "have you tested this with a zone that has a large amount of CMA in it and checked the
percentages?" A zone is driven request by request and without time, so every page is seen; the zone's counters are exact
(stat_threshold 0), so that what is left is the policy's doing.
"""

from .setting import BEFORE, LEAST_BLOCKS, MOST_SEEDS, POLICIES, Setting
from .study import Study, measure
from .trial import NR_PHASES, POINTS, ROUNDS, Mixed, Point, Steps, Trial, fill_up, linked_cma, marks, rule_path, use

__all__ = [
    "BEFORE",
    "LEAST_BLOCKS",
    "MOST_SEEDS",
    "NR_PHASES",
    "POINTS",
    "POLICIES",
    "ROUNDS",
    "Mixed",
    "Point",
    "Setting",
    "Steps",
    "Study",
    "Trial",
    "fill_up",
    "linked_cma",
    "marks",
    "measure",
    "rule_path",
    "use",
]
