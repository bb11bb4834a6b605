"""
The shape vectors S1 to S6 of docs/reference/rfc.md, section 17: small loads with known zone-lock traffic.

All run in one fresh zone of 64 M pageblocks with exact counters and without watermarks, and ask for
movable pages of order 0. Handles are running numbers: the n-th allocation has handle n.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from ..names import GFP_HIGHUSER_MOVABLE, PAGEBLOCK_PAGES
from ..requests import ALLOC, FREE, REQUEST

__all__ = ["SHAPES", "Shape"]

NR_BLOCKS = 64
BATCH = 63
HIGH_MIN = 1000
HIGH_MAX = 4096
SMALL_HIGH = 252  # 4 * batch, which no whole block fits under: the gate of P-34 stays closed
LAG = 256  # pages between an allocation and its free in S2 and S4


@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    """
    One shape vector.
    """

    name: str
    meaning: str
    cpus: int
    high: tuple[int, int]
    make: Callable[[], np.ndarray]

    def requests(self) -> np.ndarray:
        """
        The REQUEST records.
        """
        return self.make()

    def zone(self) -> dict[str, Any]:
        """
        The zone of this shape, as keyword arguments of Zone.
        """
        high_min, high_max = self.high
        return {
            "pages": NR_BLOCKS * PAGEBLOCK_PAGES,
            "cpus": self.cpus,
            "batch": BATCH,
            "high_min": high_min,
            "high_max": high_max,
            "stat_threshold": 0,
            "watermark": [0, 0, 0, 0],
        }


def _allocs(handles: np.ndarray, cpus: np.ndarray | int) -> np.ndarray:
    records = np.zeros(len(handles), REQUEST)
    records["op"], records["pfn"], records["cpu"] = ALLOC, handles, cpus
    records["gfp"] = GFP_HIGHUSER_MOVABLE
    return records


def _frees(handles: np.ndarray, cpus: np.ndarray | int) -> np.ndarray:
    records = np.zeros(len(handles), REQUEST)
    records["op"], records["pfn"], records["cpu"] = FREE, handles, cpus
    return records


def _hand_over() -> np.ndarray:
    """
    CPU 0 allocates 8192 pages, then CPU 1 frees them in order.
    """
    handles = np.arange(8192)
    return np.concatenate([_allocs(handles, 0), _frees(handles, 1)])


def _stream() -> np.ndarray:
    """
    16384 times: CPU 0 allocates; CPU 1 frees the page allocated LAG earlier.
    """
    handles = np.arange(16384)
    both = np.concatenate([_allocs(handles, 0), _frees(handles[:-LAG], 1)])
    turn = np.concatenate([2 * handles, 2 * handles[LAG:] + 1])
    return both[np.argsort(turn, kind="stable")]


def _in_turns(each: int) -> np.ndarray:
    """
    Four CPUs take ``each`` pages page by page in turns, then free their own, again in turns.
    """
    handles = np.arange(4 * each)
    return np.concatenate([_allocs(handles, handles % 4), _frees(handles, handles % 4)])


SHAPES = (
    Shape("S1", "CPU 0 allocates 8192 pages, CPU 1 frees them", 2, (HIGH_MIN, HIGH_MAX), _hand_over),
    Shape("S2", "CPU 0 allocates, CPU 1 frees 256 pages behind", 2, (HIGH_MIN, HIGH_MAX), _stream),
    Shape("S3", "4 CPUs take 2048 pages each, then free them", 4, (HIGH_MIN, HIGH_MAX), lambda: _in_turns(2048)),
    Shape("S4", "S2 with high 252: no whole block fits", 2, (SMALL_HIGH, SMALL_HIGH), _stream),
    Shape("S5", "4 CPUs take 6144 pages each, then free them", 4, (HIGH_MIN, HIGH_MAX), lambda: _in_turns(6144)),
    Shape("S6", "S1 with high 252: no whole block fits", 2, (SMALL_HIGH, SMALL_HIGH), _hand_over),
)
