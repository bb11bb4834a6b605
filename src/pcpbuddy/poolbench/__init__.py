"""
Allocators measured side by side on this machine: docs/reference/bench-pool.md.
"""

from .measure import FAULTS, LEAST_SHARE, Measured, Result, Round, best_peers, measure, rows
from .peers import Peer, empty, object_file, on_this_system, our
from .plan import IN_BATCHES, LOADS, Plan, Point
from .predict import predictions

__all__ = [
    "FAULTS",
    "IN_BATCHES",
    "LEAST_SHARE",
    "LOADS",
    "Measured",
    "Peer",
    "Plan",
    "Point",
    "Result",
    "Round",
    "best_peers",
    "empty",
    "measure",
    "object_file",
    "on_this_system",
    "our",
    "predictions",
    "rows",
]
