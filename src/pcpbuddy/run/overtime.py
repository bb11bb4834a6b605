"""
What a machine's memory was like over time, from samples at equal distances.
"""

from collections.abc import Callable, Sequence

import numpy as np

from ..metrics import Metrics, Number
from ..names import NR_ORDERS

__all__ = ["figures", "frag_index", "series", "unusable"]

_REDUCE: dict[str, Callable[[np.ndarray], Number]] = {
    "mean": lambda values: float(values.mean()),
    "min": lambda values: int(values.min()),
    "max": lambda values: int(values.max()),
}


def series(samples: np.ndarray, zones: Sequence[int]) -> dict[str, np.ndarray]:
    """
    Columns of the samples, zones added up, one element a sample: ``t_ps``, ``nr_free`` (n, 11), ``parked_pages`` ..
    """
    names = [name for name in samples.dtype.names or () if name not in ("t_ps", "zone")]
    of_zone = [samples[samples["zone"] == zone] for zone in zones]
    columns = {name: np.sum([rows[name].astype(np.int64) for rows in of_zone], axis=0) for name in names}
    return {"t_ps": of_zone[0]["t_ps"].astype(np.int64), **columns}


def figures(samples: np.ndarray, zones: Sequence[int]) -> Metrics:
    """
    Means and extremes over the samples of a set of zones.
    """
    columns = series(samples, zones)
    if not len(columns["t_ps"]):
        return {}
    named = {
        "pages.free": (columns["free_pages"], ("mean", "min")),
        "pages.in_use": (columns["allocated_pages"], ("mean", "max")),
        "pcp.parked_pages": (columns["parked_pages"], ("mean",)),
        "cma.free_pages": (columns["cma_free"], ("mean", "min", "max")),
        "owned.blocks": (columns["owned_blocks"], ("mean", "max")),
    }
    for order in range(1, NR_ORDERS):
        named[f"frag.index_{order}"] = (frag_index(columns["nr_free"], order), ("mean", "max"))
        named[f"frag.unusable_{order}"] = (unusable(columns["nr_free"], order), ("mean", "max"))
    metrics = {
        f"{name}.{which}": _REDUCE[which](values)
        for name, (values, reductions) in named.items()
        for which in reductions
    }
    return metrics | {"pcp.parked_pages_max": int(columns["parked_pages"].max())}


def frag_index(nr_free: np.ndarray, order: int) -> np.ndarray:
    """
    ``metrics.fragmentation_index`` of each row of ``nr_free`` (n, 11).
    """
    free, chunks, fit = _free(nr_free, order)
    index = 1000 - (1000 + (free * 1000 >> order)) // np.maximum(chunks, 1)
    return np.where(chunks == 0, 0, np.where(fit > 0, -1000, index))


def unusable(nr_free: np.ndarray, order: int) -> np.ndarray:
    """
    ``metrics.unusable_index`` of each row of ``nr_free`` (n, 11).
    """
    free, _, fit = _free(nr_free, order)
    index = (free - (fit << order)) * 1000 // np.maximum(free, 1)
    return np.where(free == 0, 1000, index)


def _free(nr_free: np.ndarray, order: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Free pages, chunks, and how many chunks of ``order`` could be made of them.
    """
    orders = np.arange(nr_free.shape[1])
    free = (nr_free << orders).sum(axis=1)
    fit = (nr_free[:, order:] << (orders[order:] - order)).sum(axis=1)
    return free, nr_free.sum(axis=1), fit
