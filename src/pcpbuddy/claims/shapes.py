"""
The shape vectors (docs/reference/rfc.md, section 17) in ways that `pcpbuddy compare` does not have.
"""

import functools

import numpy as np

from .. import _core
from ..config import policy
from ..metrics import Metrics, collect
from ..requests import ALLOC, FREE
from ..workload import NAMES

__all__ = ["shape"]


@functools.cache
def shape(name: str, under: str, *, local: bool = False) -> Metrics:
    """
    The metrics of a shape vector under a policy. local: every page is freed by the CPU that took it.
    """
    made = NAMES[f"shape/{name}"]
    requests = made.requests()
    if local:
        taker = np.zeros(int(requests["pfn"].max()) + 1, requests["cpu"].dtype)
        taken, freed = requests["op"] == ALLOC, requests["op"] == FREE
        taker[requests["pfn"][taken]] = requests["cpu"][taken]
        requests["cpu"][freed] = taker[requests["pfn"][freed]]
    node = _core.Node([_core.Zone(policy=policy(under), **made.zone())])
    replay = _core.HandleReplay(node, int(requests["pfn"].max()) + 1)
    replay.run(requests)
    return collect(node, replay.result())
