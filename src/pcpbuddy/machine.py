"""
``Machine``: up to 512 virtual CPUs, several nodes and zones, in virtual time.

The machine is the compiled core's (_core/machine.pyx); here are its configuration, the loop between whose slices a run
can be stopped, and what becomes of the figures.
"""

import dataclasses
import shlex
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from . import _core, metrics
from .config import Policy
from .config import policy as parse_policy
from .costs import Costs
from .costs import costs as parse_costs
from .errors import ConfigError
from .manifest import manifest
from .names import MAX_CPUS, PAGE_SIZE, PAGEBLOCK_PAGES
from .quantities import parse_ns, size_text
from .run import Run, measured
from .zone import Zone, parse_size

if TYPE_CHECKING:
    from .workload.load import Load

__all__ = ["Machine"]

ZONES = ("DMA", "DMA32", "Normal", "Movable")
NORMAL = ZONES.index("Normal")
CHUNK_PAGES = 1024  # of order 10: the border between two nodes never lies within one
EVENTS_PER_SLICE = 1 << 18
SAMPLES = 256  # of a run whose length is known, unless another distance is asked for
SAMPLE_NS = 1_000_000  # the distance where it is not
FOREVER_NS = 3_600_000_000_000

Progress = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True, slots=True)
class _Place:
    """
    Where a zone lies.
    """

    name: str
    node: int
    index: int
    start_pfn: int
    pages: int
    cma_pages: int


class Machine:
    """
    A machine of virtual CPUs, in virtual time. Each run begins with a fresh one: same arguments, same bytes.

    Args:
        cpus: 1 to 512 virtual CPUs.
        memory: memory of all nodes, such as "256GiB"; None: what the workload is made for.
        policy: a ``Policy``, or text as ``pcpbuddy.policy()`` takes it.
        nodes: NUMA nodes; CPUs and memory are divided equally, neighbours together.
        cma: size of a CMA area at the end of node 0's zone Normal; None: what the workload asks for.
        zones: sizes of further zones, such as {"DMA32": "2GiB"}: DMA and DMA32 lie below zone Normal of node 0, Movable
            at the end of every node.
        costs: a ``Costs``, or text as ``pcpbuddy.costs()`` takes it, such as "server-2s".
        seed: of everything that is drawn by chance, in the workload and in the machine.
        tick: distance of a CPU's vmstat ticks; 0: none.
        interrupts: mean distance of interrupts on each CPU; 0: none; None: as the workload has them.

    Raises:
        ConfigError: a number, size, policy or cost model that cannot be.
    """

    def __init__(
        self,
        cpus: int,
        memory: str | int | None = None,
        policy: str | Policy = "fixed",
        *,
        nodes: int = 1,
        cma: str | int | None = None,
        zones: Mapping[str, str | int] | None = None,
        costs: str | Costs = "default",
        seed: int = 0,
        tick: str | float = "1s",
        interrupts: str | float | None = None,
    ) -> None:
        self.cpus = _number("cpus", cpus, 1, MAX_CPUS)
        self.nodes = _number("nodes", nodes, 1, self.cpus)
        self.seed = _number("seed", seed, 0, (1 << 63) - 1)
        self.memory_bytes = None if memory is None else _size("memory", memory)
        self.cma_bytes = None if cma is None else _size("cma", cma)
        self.zones = {name: _size(f"zones.{name}", size) for name, size in (zones or {}).items()}
        for name in self.zones:
            if name not in ZONES or name == "Normal":
                raise ConfigError(f"zones.{name}: expected DMA, DMA32 or Movable; Normal gets what they leave")
        self.policy = parse_policy(policy)
        self.costs = parse_costs(costs)
        self.tick_ns = parse_ns(tick, "tick")
        self.interrupts_ns = None if interrupts is None else parse_ns(interrupts, "interrupts")
        if self.memory_bytes is not None:
            self._places(self.memory_bytes, self.cma_bytes or 0)

    def __repr__(self) -> str:
        memory = "memory as the workload asks" if self.memory_bytes is None else size_text(self.memory_bytes)
        nodes = f" in {self.nodes} nodes" if self.nodes > 1 else ""
        return f"<Machine of {self.cpus} CPUs{nodes}, {memory}, {self.policy.name}, costs {self.costs.name}>"

    def run(
        self,
        workload: "str | Load",
        *,
        duration: str | float | None = None,
        sample: str | float | None = None,
        progress: Progress | None = None,
        **parameters: Any,
    ) -> Run:
        """
        Carry out a workload, and measure.

        workload: a name such as "exit/storm", a recording, or a ``Load``. duration: virtual time to run for (default:
        what the workload is made for). sample: distance of the samples of memory (default: 256 in all, or 1 ms).
        parameters: of the workload. progress: called as progress(policy name, virtual ns done, ns in all) now and then;
        0 in all: nobody knows.

        Stopped by KeyboardInterrupt, it returns what was measured until then, marked partial.
        Raises ConfigError before anything runs.
        """
        load = self._load(workload, parameters)
        asked = load.duration_ns if duration is None else parse_ns(duration, "duration")
        duration_ns = None if asked is None else round(asked)
        distance_ns = _sample_ns(sample, duration_ns)
        memory_bytes = self.memory_bytes if self.memory_bytes is not None else load.memory_bytes
        places = self._places(memory_bytes, self._cma(load, memory_bytes))
        zones = self._zones(places)
        simulation = self._simulation(load, places, zones, distance_ns)
        began = time.perf_counter_ns()
        partial = not _to_the_end(simulation, duration_ns, self.policy.name, progress)
        elapsed_ns = time.perf_counter_ns() - began
        config = {
            "cpus": self.cpus,
            "memory": size_text(memory_bytes),
            "nodes": self.nodes,
            "zones": {name: size_text(size) for name, size in self.zones.items()},
            "cma": size_text(sum(place.cma_pages for place in places) * PAGE_SIZE),
            "tick_ns": self.tick_ns,
            "interrupts_ns": self._interrupts(load),
            "duration_ns": duration_ns,
            "sample_ns": distance_ns,
        }
        named = dict(zip(_zone_names(places, self.nodes), zones, strict=True))
        facts = manifest(
            [self.policy],
            mode="machine",
            command=self._command(load, parameters, duration_ns),
            workload={
                "name": load.name,
                "meaning": load.meaning,
                "source": load.source,
                "unit": load.unit,
                "parameters": dict(load.parameters),
            },
            config=config,
            costs=self.costs.document(),
            seed=self.seed,
            partial=partial,
            zones=[_facts(name, place) for name, place in zip(named, places, strict=True)],
        )
        by_cpu = [metrics.of_cpu(zones, cpu) for cpu in range(self.cpus)]
        return measured(simulation.result(), metrics.of_zones(named), by_cpu, facts, elapsed_ns)

    def _load(self, workload: "str | Load", parameters: Mapping[str, Any]) -> "Load":
        from .workload.load import Load, load

        if isinstance(workload, Load):
            if parameters:
                raise ConfigError(f"{next(iter(parameters))}: a Load has its parameters already")
            return workload
        return load(workload, self.cpus, self.memory_bytes, nodes=self.nodes, **parameters)

    def _cma(self, load: "Load", memory_bytes: int) -> int:
        if self.cma_bytes is not None:
            return self.cma_bytes
        block_bytes = PAGEBLOCK_PAGES * PAGE_SIZE
        return int(load.cma * memory_bytes) // block_bytes * block_bytes

    def _places(self, memory_bytes: int, cma_bytes: int) -> list[_Place]:
        """
        Where each zone lies, in ascending order. Raises ConfigError for a zone that is too small.
        """
        places, start = [], 0
        pages = memory_bytes // PAGE_SIZE
        for node in range(self.nodes):
            share = pages // self.nodes // CHUNK_PAGES * CHUNK_PAGES if node < self.nodes - 1 else pages - start
            sizes = {
                name: size // PAGE_SIZE
                for name, size in sorted(self.zones.items(), key=lambda item: ZONES.index(item[0]))
                if node == 0 or name == "Movable"
            }
            sizes["Normal"] = share - sum(sizes.values())
            for name in sorted(sizes, key=ZONES.index):
                cma_pages = cma_bytes // PAGE_SIZE if node == 0 and name == "Normal" else 0
                places.append(_Place(name, node, ZONES.index(name), start, sizes[name], cma_pages))
                self._check(places[-1], memory_bytes)
                start += sizes[name]
        return places

    def _check(self, place: _Place, memory_bytes: int) -> None:
        where = f"zone {place.name} of node {place.node}" if self.nodes > 1 else f"zone {place.name}"
        key = f"memory={size_text(memory_bytes)}" if place.name == "Normal" else f"zones.{place.name}"
        if place.pages < PAGEBLOCK_PAGES:
            left = f"{max(place.pages, 0) * PAGE_SIZE >> 10} KiB"
            raise ConfigError(f"{key}: {where} would have {left}; expected at least one pageblock, 2MiB, in each zone")
        if place.cma_pages > place.pages or place.cma_pages % PAGEBLOCK_PAGES:
            most = size_text(place.pages // PAGEBLOCK_PAGES * PAGEBLOCK_PAGES * PAGE_SIZE)
            cma = size_text(place.cma_pages * PAGE_SIZE)
            raise ConfigError(f"cma={cma}: expected whole pageblocks, a multiple of 2MiB, up to the {most} of {where}")

    def _zones(self, places: list[_Place]) -> list[Zone]:
        """
        Fresh zones. Alone, a zone sizes itself; else watermarks and PCPs depend on the other zones and on local CPUs.
        """
        lowmem = sum(place.pages for place in places if place.name != "Movable")
        populated = sum(place.name != "Movable" for place in places)
        kbytes = max(_core.min_free_kbytes(lowmem * 4), 4 * min(PAGEBLOCK_PAGES * populated * 11, lowmem * 5 // 100))
        zones = []
        for place in places:
            sizing: dict[str, Any] = {}
            if len(places) > 1:
                mark = _watermarks(place, lowmem, kbytes)
                local = sum(node == place.node for node in self._cpu_node())
                batch, low, high = _core.pcp_sizing(place.pages, local, mark[1])
                sizing = {"watermark": mark, "batch": batch, "high_min": low, "high_max": high}
            zones.append(
                Zone(
                    place.pages,
                    cpus=self.cpus,
                    policy=self.policy,
                    cma_pages=place.cma_pages,
                    start_pfn=place.start_pfn,
                    zone_index=place.index,
                    name=place.name,
                    **sizing,
                )
            )
        return zones

    def _cpu_node(self) -> list[int]:
        return [cpu * self.nodes // self.cpus for cpu in range(self.cpus)]

    def _simulation(self, load: "Load", places: list[_Place], zones: list[Zone], sample_ns: int) -> Any:
        """
        The compiled machine with everything in it, at time 0.
        """
        from ._core import machine

        return machine.Simulation(
            zones,
            [zone.address for zone in zones],
            [place.node for place in places],
            [place.index for place in places],
            self._cpu_node(),
            self.costs.numbers(),
            load.programs,
            load.cpu_program,
            nr_queues=load.nr_queues,
            nr_barriers=load.nr_barriers,
            nr_locks=load.nr_locks,
            irq_program=load.irq_program,
            irq_every_ns=self._interrupts(load),
            stream=None,
            tick_ns=self.tick_ns,
            sample_ns=sample_ns,
            seed=self.seed,
        )

    def _interrupts(self, load: "Load") -> float:
        return load.irq_every_ns if self.interrupts_ns is None else self.interrupts_ns

    def _command(self, load: "Load", parameters: Mapping[str, Any], duration_ns: int | None) -> str:
        """
        The command line that does the same, without options that say what is the default anyway.
        """
        words = ["pcpbuddy", "run", load.name, "--cpus", str(self.cpus), "--policy", self.policy.name]
        if self.memory_bytes is not None:
            words += ["--memory", size_text(self.memory_bytes)]
        if self.nodes != 1:
            words += ["--nodes", str(self.nodes)]
        if self.zones:
            words += ["--zones", ",".join(f"{name}={size_text(size)}" for name, size in self.zones.items())]
        if self.cma_bytes is not None:
            words += ["--cma", size_text(self.cma_bytes)]
        words += ["--costs", self.costs.name, "--seed", str(self.seed)]
        if self.tick_ns != FOREVER_NS // 3600:
            words += ["--tick", f"{self.tick_ns}ns"]
        if self.interrupts_ns is not None:
            words += ["--interrupts", f"{self.interrupts_ns}ns"]
        if duration_ns is not None and duration_ns != load.duration_ns:
            words += ["--duration", f"{duration_ns}ns"]
        for name, value in parameters.items():
            words += ["--set", f"{name}={value}"]
        return shlex.join(words)


def _to_the_end(simulation: Any, duration_ns: int | None, name: str, progress: Progress | None) -> bool:
    """
    Run the machine in slices that hold no GIL. False: stopped by the user.
    """
    until_ps = (FOREVER_NS if duration_ns is None else duration_ns) * 1000
    try:
        done = False
        while not done:
            if progress is not None:
                progress(name, simulation.now_ps // 1000, duration_ns or 0)
            done = simulation.run(until_ps, EVENTS_PER_SLICE)
        if progress is not None:
            progress(name, duration_ns or 0, duration_ns or 0)
    except KeyboardInterrupt:
        return False
    return True


def _sample_ns(sample: str | float | None, duration_ns: int | None) -> int:
    if sample is not None:
        return parse_ns(sample, "sample")
    return SAMPLE_NS if duration_ns is None else max(duration_ns // SAMPLES, 1)


def _watermarks(place: _Place, lowmem: int, kbytes: int) -> tuple[int, int, int, int]:
    """
    B-20, with what it says of zone Movable.
    """
    if place.name != "Movable":
        return _core.watermarks(place.pages, lowmem, kbytes)
    least = min(max(place.pages // 1024, 32), 128)
    delta = max(least // 4, place.pages * 10 // 10000)
    return (least, least + delta, least + 2 * delta, least + 3 * delta)


def _zone_names(places: list[_Place], nodes: int) -> list[str]:
    """
    Names of the zones in metrics: with several nodes the node stands before the zone.
    """
    return [f"node{place.node}.{place.name}" if nodes > 1 else place.name for place in places]


def _facts(name: str, place: _Place) -> dict[str, Any]:
    return {"name": name, "node": place.node, "pages": place.pages, "cma_pages": place.cma_pages}


def _number(key: str, value: object, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ConfigError(f"{key}={value}: expected a whole number from {least} to {most}")
    return value


def _size(key: str, size: str | int) -> int:
    try:
        if isinstance(size, bool) or not isinstance(size, str | int):
            raise ConfigError(f"size {size!r}: expected a text such as 256MiB")
        return parse_size(size)
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}") from None
