"""
What a load is, and how one is put together.

A ``Load`` is data that the machine runs. A function that makes one works on a ``Plan``: it says how much memory it
needs, takes queues and barriers, gives each CPU a program, and closes the plan. The plan adds what all loads share:
memory that was used before (``fragment``), a CMA area (``cma``), interrupts (``interrupt_us``).
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from ..errors import ConfigError
from ..names import GFP_ATOMIC, GFP_BITS, GFP_COMPOSITES, GFP_HIGHUSER_MOVABLE, GFP_KERNEL, MAX_CPUS, PAGE_SIZE
from . import program
from .program import INSTRUCTION, Program, Queues, verify

__all__ = ["COMMON", "Kind", "Load", "Plan", "Stream"]

# What the kernel asks with: anonymous memory, page cache filled by readahead, page tables, pipe buffers, kernel
# stacks, slabs that can be reclaimed (dentries, inodes) and that cannot, a network driver's receive buffers.
GFP_ANONYMOUS = GFP_HIGHUSER_MOVABLE | GFP_BITS["__GFP_ZERO"]
GFP_PAGE_CACHE = GFP_HIGHUSER_MOVABLE | GFP_BITS["__GFP_NORETRY"] | GFP_BITS["__GFP_NOWARN"]
GFP_PGTABLE_USER = GFP_COMPOSITES["GFP_KERNEL_ACCOUNT"] | GFP_BITS["__GFP_ZERO"]
GFP_PIPE = GFP_COMPOSITES["GFP_HIGHUSER"] | GFP_BITS["__GFP_ACCOUNT"]
GFP_STACK = GFP_PGTABLE_USER
GFP_SLAB = GFP_KERNEL | GFP_BITS["__GFP_COMP"]
GFP_SLAB_RECLAIMABLE = GFP_SLAB | GFP_BITS["__GFP_RECLAIMABLE"]
GFP_NETWORK = GFP_ATOMIC | GFP_BITS["__GFP_NOWARN"]

MIB = 1 << 20
GIB = 1 << 30
PAGES_PER_MIB = MIB // PAGE_SIZE
PAGES_PER_TABLE = 512  # PTEs of one page table on x86-64
HEAD_ROOM = 4  # memory is so many times what a load needs, if nobody says how much
BYTES_PER_CPU = GIB  # and at least that for each CPU, as servers have: high_max is then 32768 pages (B-13)
LEAST_BYTES = GIB
MOST_BYTES = 1 << 44
LEAST_FRAGMENT = 0.01
INTERRUPT_PAGES = 32

HANDLE_BIAS = 3  # replay.pxd; smaller numbers say what became of a handle
NO_PROGRAM = np.zeros(0, INSTRUCTION)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """
    A recording's requests for a run in closed loop, sorted by CPU, in their order within one.

    requests: REQUEST records, the vmstat ticks among them: the machine has none of its own here. ``pfn`` is a handle
        that no other allocation of the recording has: page k of an allocation is handle pfn + k. A free names handles
        of one allocation, all of it or a piece. It waits for that allocation, which may be another CPU's; the
        allocation comes earlier in the recording, so all ends. Of ISOLATE and UNISOLATE ``pfn`` is a page frame.
    think_ps: the recorded time between the request of this CPU before and this one.
    first: requests first[c] to first[c + 1] - 1 are those of CPU c.
    handles: what each handle names at the start: HANDLE_BIAS + page frame of the start state, or 0 for not yet.
    state: the node to start from, as Node.from_state takes it when each zone went through recording.adapt.
    left_out: what of the recording is not in here, or not as recorded, and how often (law L8).
    """

    requests: np.ndarray
    think_ps: np.ndarray
    first: np.ndarray
    handles: np.ndarray
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
    notes: sentences that belong under every figure, such as that the start state was made up.
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
    notes: tuple[str, ...] = ()

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


Number = int | float

# Parameters of every load, with their defaults and what they mean.
COMMON: dict[str, tuple[Number, str]] = {
    "fragment": (
        0.0,
        "first fill memory with single pages and free random ones, this share of it (0: memory is fresh)",
    ),
    "cma": (0.0, "share of memory in a CMA area"),
    "interrupt_us": (0.0, "mean time between two network interrupts of a CPU (0: none)"),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Kind:
    """
    A load by name: how it is made for a number of CPUs.

    make: a function of a Plan; its keyword arguments are the parameters. defaults: other defaults for COMMON.
    """

    name: str
    meaning: str
    source: str
    make: Callable[..., Load]
    defaults: Mapping[str, Number] = dataclasses.field(default_factory=dict)


class Plan:
    """
    A load in the making.

    CPU c belongs to node c * nodes // cpus. memory_bytes: of all nodes; None: what the load needs, HEAD_ROOM times.
    common: a value for each of COMMON. parameters: all of them and the load's own.
    """

    def __init__(
        self,
        kind: Kind,
        name: str,
        cpus: int,
        memory_bytes: int | None,
        nodes: int,
        common: Mapping[str, Number],
        parameters: Mapping[str, Any],
    ) -> None:
        self.kind = kind
        self.name = name
        self.cpus = cpus
        self.nodes = nodes
        self.parameters = dict(parameters)
        self.queues = Queues(cpus)
        self._given_bytes = memory_bytes
        self._memory_bytes = 0
        self._common = dict(common)
        self._barriers = 0
        self._locks = 0
        self._programs: list[Program] = []
        self._cpu_program = np.zeros(cpus, np.uint32)
        self._unused = set(range(cpus))
        self.number("fragment", common["fragment"], 0, 0.9)
        if 0 < common["fragment"] < LEAST_FRAGMENT:
            raise ConfigError(
                f"load {self.name}, fragment={common['fragment']!r}: expected 0, or {LEAST_FRAGMENT} to 0.9"
            )
        self.number("cma", common["cma"], 0, 0.95)
        self.number("interrupt_us", common["interrupt_us"], 0, 1e9)
        if self.fragment:
            self._remains = self.queues.shared()
            self._filled, self._freed, self._drained = self.barrier(), self.barrier(), self.barrier()

    @property
    def fragment(self) -> float:
        """
        Share of memory that is free once the load begins; 0: all of it, and never used.
        """
        return float(self._common["fragment"])

    def number(self, what: str, value: Number, least: Number, most: Number) -> None:
        """
        Refuse a parameter out of range.
        """
        if not least <= value <= most:
            raise ConfigError(f"load {self.name}, {what}={value!r}: expected {least} to {most}")

    def needs(self, needed_bytes: int, head_room: float = HEAD_ROOM, least_per_cpu: int = BYTES_PER_CPU) -> int:
        """
        Say how much memory the load has in use at most, all CPUs together; the answer is how much there is.

        Unless it was given, that is head_room times as much, a power of two, and not less than least_per_cpu for each.
        """
        free = self.fragment or 1.0
        if self._given_bytes is None:
            # Memory that is to be filled first must not be more than necessary.
            least = max(LEAST_BYTES, least_per_cpu * self.cpus) if not self.fragment else LEAST_BYTES
            wanted = max(least if least_per_cpu else 0, needed_bytes * head_room / free)
            self._memory_bytes = 1 << (int(wanted) - 1).bit_length()
        else:
            self._memory_bytes = self._given_bytes
        if needed_bytes > self._memory_bytes * free or self._memory_bytes > MOST_BYTES:
            have = self._memory_bytes * free / MIB
            raise ConfigError(
                f"load {self.name} needs {needed_bytes / MIB:.0f} MiB on {self.cpus} CPUs and {have:.0f} MiB are free: "
                "give it more memory, fewer CPUs or smaller parameters"
            )
        return self._memory_bytes

    def barrier(self) -> int:
        """
        The number of a new barrier.
        """
        self._barriers += 1
        return self._barriers - 1

    def lock(self) -> int:
        """
        The number of a new lock.
        """
        self._locks += 1
        return self._locks - 1

    def node(self, cpu: int) -> int:
        """
        The node of a CPU.
        """
        return cpu * self.nodes // self.cpus

    def programs(self, name: str, cpus: Iterable[int]) -> Iterator[tuple[Program, bool]]:
        """
        Programs for these CPUs, which begin with what all loads share: one for the first CPU, on which fall the things
        that are done once, and one for the others. With each, whether it is the first's.
        """
        first, *others = sorted(cpus)
        for group in ([first], others):
            if group:
                new = Program(f"{self.name}: {name}")
                self._programs.append(new)
                self._cpu_program[group] = len(self._programs) - 1
                self._unused -= set(group)
                if self.fragment:
                    self._use_memory(new, 0 in group)
                yield new, group is not others

    def measure(self, p: Program, first: bool, barrier: int, parties: int, spread_ns: float = 0) -> None:
        """
        Statistics begin when so many CPUs got here; each goes on at a moment of its own within spread_ns.

        Without the spread they would go through their loops in step, which separate tasks do not.
        """
        p.barrier(barrier, parties)
        if first:
            p.think(spread_ns)
            p.measure()
        else:
            p.think(spread_ns / 2, "uniform")

    def _use_memory(self, p: Program, drains: bool) -> None:
        """
        All CPUs fill the memory, free a share of it at random, and one drains all PCPs (P-82).

        What is left stays for good. The fill ends where requests fail, at the watermarks.
        """
        pages = self._memory_bytes // PAGE_SIZE
        p.alloc(self._remains, -(-pages // self.cpus))
        p.barrier(self._filled, self.cpus)
        p.free(self._remains, max(1, round(pages * self.fragment / self.cpus)), "random")
        p.barrier(self._freed, self.cpus)
        if drains:
            p.drain()
        p.barrier(self._drained, self.cpus)

    def load(self, *, unit: str, duration_ns: float | None = None) -> Load:
        """
        The finished load.
        """
        if self._unused:
            raise ConfigError(f"load {self.name}: CPUs {sorted(self._unused)} have no program")
        interrupt_ns = float(self._common["interrupt_us"]) * 1000
        interrupt = self._interrupt().instructions() if interrupt_ns else None
        return Load(
            name=self.name,
            meaning=self.kind.meaning,
            source=self.kind.source,
            parameters=self.parameters,
            programs=tuple(each.instructions() for each in self._programs),
            cpu_program=self._cpu_program,
            nr_queues=self.queues.nr,
            nr_barriers=self._barriers,
            nr_locks=self._locks,
            irq_program=interrupt,
            irq_every_ns=interrupt_ns,
            memory_bytes=self._memory_bytes,
            cma=float(self._common["cma"]),
            duration_ns=duration_ns,
            unit=unit,
        )

    def _interrupt(self) -> Program:
        """
        A network card's interrupt: buffers that were sent are freed, whoever filled them, and as many are taken to
        receive into (page_pool refills in bulk, net/core/page_pool.c).
        """
        buffers = self.queues.shared()
        p = Program(f"{self.name}: interrupt")
        p.free(buffers, INTERRUPT_PAGES, "oldest", irq=True)
        p.bulk(buffers, INTERRUPT_PAGES, gfp=GFP_NETWORK)
        return p
