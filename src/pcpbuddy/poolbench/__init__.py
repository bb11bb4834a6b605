"""
Allocators measured side by side on this machine: docs/reference/bench-pool.md.
"""

from .measure import LOADS, Plan, Point, Result, measure
from .peers import Peer, empty, object_file, on_this_system, our
from .predict import predictions

__all__ = [
    "LOADS",
    "Peer",
    "Plan",
    "Point",
    "Result",
    "empty",
    "measure",
    "object_file",
    "on_this_system",
    "our",
    "predictions",
]
