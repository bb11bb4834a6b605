"""
Log-linear histograms of nanoseconds: each value below 32 has its own bin, each octave above has 32.

So a value is known to 1 part in 32, and the maximum exactly, as it is kept apart.
"""

from typing import Any

import numpy as np

__all__ = ["NR_BINS", "PERCENTILES", "Distribution", "bin_edges", "bin_of", "percentile"]

_BITS = 5
_PER_OCTAVE = 1 << _BITS
NR_BINS = 40 * _PER_OCTAVE

PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p999": 99.9}


def bin_of(ns: int) -> int:
    """
    The bin that a number of nanoseconds falls in.
    """
    if ns < _PER_OCTAVE:
        return ns
    exponent = ns.bit_length() - 1
    return _PER_OCTAVE * (exponent - _BITS + 1) + (ns >> (exponent - _BITS)) - _PER_OCTAVE


def bin_edges() -> np.ndarray:
    """
    Lower edges of all bins and the upper edge of the last: NR_BINS + 1 numbers of nanoseconds.
    """
    bins = np.arange(NR_BINS + 1, dtype=np.int64)
    octave = np.maximum(bins // _PER_OCTAVE - 1, 0)
    edges: np.ndarray = np.where(bins < _PER_OCTAVE, bins, (bins % _PER_OCTAVE + _PER_OCTAVE) << octave)
    return edges


_EDGES = bin_edges()


def percentile(histogram: np.ndarray, percent: float, most: float = np.inf) -> float:
    """
    The value that ``percent`` of the entries do not exceed; 0 without entries.

    Nearest rank, its place within a bin taken as if the bin's entries lay evenly in it. most: the largest value.
    """
    reached = np.cumsum(histogram)
    total = int(reached[-1])
    if not total:
        return 0.0
    # Of a share such as 99.9 % the product is not exact: the rank must not slip over a whole number.
    rank = max(int(np.ceil(total * percent / 100 - 1e-9 * total)), 1)
    index = int(np.searchsorted(reached, rank))
    low, width = int(_EDGES[index]), int(_EDGES[index + 1] - _EDGES[index])
    if width == 1:
        return float(min(low, most))
    before = int(reached[index - 1]) if index else 0
    return float(min(low + width * (rank - before - 0.5) / int(histogram[index]), most))


class Distribution:
    """
    A number of times: how many, their sum and maximum, and their histogram, all from arrays that are added up.

    count: all entries; those that the histogram lacks were 0.
    """

    def __init__(self, count: Any, total_ps: Any, max_ps: Any, histogram: np.ndarray) -> None:
        self.count = int(np.sum(count))
        self.total_ns = int(np.sum(total_ps)) / 1000
        self.max_ns = int(np.max(max_ps, initial=0)) / 1000
        self.histogram = np.asarray(histogram, np.int64).reshape(-1, NR_BINS).sum(axis=0)
        self.histogram[0] += self.count - int(self.histogram.sum())

    def metrics(self, name: str, cpu_time_ns: float) -> dict[str, float]:
        """
        ``NAME.total`` and so on: the figures of docs/reference/replay.md, section 3.
        """
        figures = {
            "total": self.total_ns,
            "share": self.total_ns / cpu_time_ns if cpu_time_ns else 0.0,
            "mean": self.total_ns / self.count if self.count else 0.0,
            **{key: percentile(self.histogram, percent, self.max_ns) for key, percent in PERCENTILES.items()},
            "max": self.max_ns,
        }
        return {f"{name}.{key}": value for key, value in figures.items()}
