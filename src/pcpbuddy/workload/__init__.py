"""
Workloads by name: where a load comes from when no recording gives it.

``workload("shape/S1")`` gives the zone to run it in and the requests.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import ConfigError
from . import shapes

__all__ = ["NAMES", "Workload", "is_workload_name", "workload"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """
    A made-up load, the same in every run.

    zone: keyword arguments of Zone, without the policy.
    requests: REQUEST records; nr_handles: one more than the largest handle in them.
    """

    name: str
    meaning: str
    zone: Mapping[str, Any]
    requests: np.ndarray
    nr_handles: int


NAMES = {f"shape/{shape.name}": shape for shape in shapes.SHAPES}


def is_workload_name(source: str) -> bool:
    """
    Whether a SOURCE means a workload and not a file: it is one, or lies under a family of them.
    """
    return source in NAMES or source.split("/")[0] in {name.split("/")[0] for name in NAMES}


def workload(name: str) -> Workload:
    """
    The workload of that name.

    Raises ConfigError for an unknown name, and says which there are.
    """
    if name not in NAMES:
        raise ConfigError(f"unknown workload {name!r}; workloads are: {', '.join(NAMES)}")
    shape = NAMES[name]
    requests = shape.requests()
    return Workload(
        name=name,
        meaning=shape.meaning,
        zone=shape.zone(),
        requests=requests,
        nr_handles=int(requests["pfn"].max()) + 1,
    )
