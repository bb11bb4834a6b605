"""
Stubs of the compiled machine (_core/machine.pyx): virtual CPUs that run the core's text in virtual time.

``pcpbuddy.Machine`` is what people use; this is what it stands on. Arguments are trusted here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .core import Zone

class Simulation:
    """
    One run. The zones are the core's; their state is worked on in place, and shown between any two calls of run.

    Args:
        zones, addresses: Zone objects, and where their states lie (``core.address_of``).
        zone_node, zone_kind: NUMA node of each, and 0 to 3 for DMA, DMA32, Normal, Movable; ascending in each node.
        cpu_node: NUMA node of each virtual CPU.
        costs: the cost model, name to value (``costs.FIELDS``).
        programs, cpu_program: arrays of ``program.INSTRUCTION``, and which of them each CPU carries out.
        irq_program, irq_every_ns: what each CPU does in interrupt context, at exponential distances of that mean.
        stream: a recording's requests by CPU, in closed loop: {"requests", "think_ps", "first", "handles"}.
        tick_ns: distance of the vmstat ticks of a CPU (B-101), staggered over the CPUs; 0: none.
        sample_ns: distance of samples of memory, which doubles whenever there are 512 of them; 0: none.
        seed: of all chance.
        log: keep a row of every step of every call.
        holds: keep a row of every hold of a lock that tells something.
    """

    seed: int
    def __init__(
        self,
        zones: Sequence[Zone],
        addresses: Sequence[int],
        zone_node: Sequence[int],
        zone_kind: Sequence[int],
        cpu_node: Sequence[int],
        costs: Mapping[str, float],
        programs: Sequence[npt.NDArray[np.void]],
        cpu_program: Sequence[int] | npt.NDArray[np.integer[Any]],
        *,
        nr_queues: int = 0,
        nr_barriers: int = 0,
        nr_locks: int = 0,
        irq_program: npt.NDArray[np.void] | None = None,
        irq_every_ns: float = 0,
        stream: Mapping[str, npt.NDArray[Any]] | None = None,
        tick_ns: float = 1e9,
        sample_ns: float = 0,
        seed: int = 0,
        log: bool = False,
        holds: bool = False,
    ) -> None: ...
    def run(self, until_ns: float = -1, events: int = 1000000) -> bool:
        """
        Up to that virtual time, or that many events more. True when nothing is left to do.
        """
    def stop(self) -> None:
        """
        The measured part ends now; calls under way are carried to their end: the state is sound. Before result().
        """
    @property
    def trouble(self) -> tuple[str, Any] | None:
        """
        Why the run cannot go on: ("endless", cpu), ("memory", 0), or ("stuck", rows of who waits for what and whom).
        """
    @property
    def now_ns(self) -> float: ...
    @property
    def start_ns(self) -> float:
        """
        When the measured part began; 0: from the start, or it has not begun.
        """
    @property
    def events(self) -> int: ...
    @property
    def requests(self) -> int: ...
    def result(self) -> dict[str, Any]:
        """
        Everything that was measured. Times in ps; histograms have 32 bins an octave of nanoseconds.
        """
    def log(self) -> bytes:
        """
        The rows of the log (machine.pxd, LogRow).
        """
    def holds(self) -> tuple[bytes, int]:
        """
        Holds of locks (machine.pxd, HoldRow) in the order in which they ended, and how many were left out.
        """
