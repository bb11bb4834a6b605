"""
Loads: what the virtual CPUs of the laboratory do, as data that the machine runs.
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import ConfigError
from ..names import MAX_CPUS, PAGE_SIZE
from . import program
from .program import INSTRUCTION, verify

__all__ = ["Load", "Stream"]

NO_PROGRAM = np.zeros(0, INSTRUCTION)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """
    A recording's requests for a run in closed loop, sorted by CPU, in their order within one.

    requests: REQUEST records. ``pfn`` is a handle that no other allocation of the recording has: page k of an
        allocation is handle pfn + k. A free names handles of one allocation, all of it or a piece. It waits for that
        allocation, which may be another CPU's; the allocation comes earlier in the recording, so all ends.
        Of ISOLATE and UNISOLATE ``pfn`` is a page of the recorded machine.
    think_ps: the recorded time between the request of this CPU before and this one.
    start: requests start[c] to start[c + 1] - 1 are those of CPU c.
    nr_handles: one more than the largest handle.
    live: page frames of the start state that handles 0, 1, 2 ... name.
    state: the node to start from, as Node.from_state takes it when each zone went through recording.adapt.
    left_out: what of the recording is not in here, or not as recorded, and how often (law L8).
    """

    requests: np.ndarray
    think_ps: np.ndarray
    start: np.ndarray
    nr_handles: int
    live: np.ndarray
    state: Mapping[str, Any]
    left_out: Mapping[str, int]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """
    What every CPU of a machine does.

    name, meaning, source: how results call it, what real load it stands for, and where its numbers come from.
    parameters: all that made it, defaults included.
    programs, cpu_program: CPU c carries out programs[cpu_program[c]].
    nr_queues, nr_barriers, nr_locks: how many of each the programs name.
    irq_program, irq_every_ns: what an interrupt does, and the mean time between two on one CPU (0: there are none).
    stream: the recording that REPLAY carries out.
    memory_bytes, cma: size of the machine's memory, and the share of it in a CMA area.
    duration_ns: virtual time to measure, from MEASURE on; None: to the end of all programs.
    unit: what WORK counts.
    """

    name: str
    meaning: str
    source: str
    parameters: Mapping[str, Any]
    programs: tuple[np.ndarray, ...]
    cpu_program: np.ndarray
    nr_queues: int
    nr_barriers: int = 0
    nr_locks: int = 0
    irq_program: np.ndarray | None = None
    irq_every_ns: float = 0.0
    stream: Stream | None = None
    memory_bytes: int = 1 << 30
    cma: float = 0.0
    duration_ns: float | None = None
    unit: str = ""

    def __post_init__(self) -> None:
        nr = self.cpus
        if not 1 <= nr <= MAX_CPUS:
            raise ConfigError(f"load {self.name} with {nr} CPUs: expected 1 to {MAX_CPUS}")
        if not 0 <= self.cma < 1:
            raise ConfigError(f"load {self.name}, cma={self.cma!r}: expected a share of memory, 0 to less than 1")
        if self.memory_bytes < PAGE_SIZE or self.memory_bytes % PAGE_SIZE:
            raise ConfigError(f"load {self.name}, memory_bytes={self.memory_bytes}: expected a multiple of {PAGE_SIZE}")
        if int(self.cpu_program.max()) >= len(self.programs):
            raise ConfigError(f"load {self.name}: cpu_program names a program that is not there")
        if self.irq_every_ns and self.irq_program is None:
            raise ConfigError(f"load {self.name}: interrupts without an irq_program")
        limits = {
            "nr_cpus": nr,
            "nr_queues": self.nr_queues,
            "nr_barriers": self.nr_barriers,
            "nr_locks": self.nr_locks,
        }
        try:
            for number, instructions in enumerate(self.programs):
                verify(instructions, cpus=np.flatnonzero(self.cpu_program == number).tolist(), **limits)
                if self.stream is None and (instructions["op"] == program.REPLAY).any():
                    raise ConfigError("replay without a recording")
            if self.irq_program is not None:
                verify(self.irq_program, cpus=list(range(nr)), **limits)
        except ConfigError as error:
            raise ConfigError(f"load {self.name}: {error}") from None

    @property
    def cpus(self) -> int:
        """
        How many CPUs it needs.
        """
        return len(self.cpu_program)

    def digest(self) -> str:
        """
        SHA-256 over all that decides what the CPUs do.
        """
        digest = hashlib.sha256()
        for instructions in (*self.programs, self.irq_program if self.irq_program is not None else NO_PROGRAM):
            digest.update(len(instructions).to_bytes(8, "little") + instructions.tobytes())
        digest.update(self.cpu_program.tobytes() + repr(self.irq_every_ns).encode())
        if self.stream is not None:
            digest.update(self.stream.requests.tobytes() + self.stream.think_ps.tobytes())
        return digest.hexdigest()
