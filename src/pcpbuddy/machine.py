"""
``Machine``: up to 512 virtual CPUs, several nodes and zones, in virtual time.

The machine is the compiled core's (_core/machine.pyx); here are its configuration, the loop between whose slices a run
can be stopped, and what becomes of the figures.
"""

import itertools
import os
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from . import _core, metrics
from .config import PROFILES, Policy
from .config import policy as parse_policy
from .costs import Costs
from .costs import costs as parse_costs
from .errors import ConfigError
from .manifest import manifest
from .names import MAX_CPUS, PAGE_SIZE, PAGEBLOCK_PAGES
from .quantities import ns_exact, parse_ns, size_text
from .run import Run, measured
from .zone import Zone, parse_size

if TYPE_CHECKING:
    from .workload.load import Load

__all__ = ["MOST_NODES", "Machine", "find_load"]

ZONES = ("DMA", "DMA32", "Normal", "Movable")
MOST_NODES = 8
CHUNK_PAGES = 1024  # of order 10: the border between two nodes never lies within one
TICK = "1s"
SAMPLES = 256  # of a run whose length is known, unless another distance is asked for
MOST_HIGH = (1 << 30) - 1
SAMPLE_NS = 1_000_000  # the distance where it is not
EVENTS_PER_SLICE = 1 << 18

Progress = Callable[[str, int, int], None]


class _Place(NamedTuple):
    """
    Where a zone lies. kind: 0 DMA to 3 Movable.
    """

    name: str
    node: int
    kind: int
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
        nodes: 1 to 8 NUMA nodes, which share CPUs and memory equally, neighbours together.
        cma: size of a CMA area at the end of node 0's zone Normal; None: what the workload asks for.
        zones: sizes of further zones, such as {"DMA32": "2GiB"}: DMA and DMA32 lie below zone Normal of node 0, Movable
            at the end of every node.
        pcp: limits of the per-CPU lists that differ from B-12 and B-13: "batch", and "high", which is then fixed;
            {"high": "min"}: at the least that auto-tuning would give, as before there was auto-tuning.
        costs: a ``Costs``, or text as ``pcpbuddy.costs.costs()`` takes it, such as "server-2s".
        seed: of everything that is drawn by chance.
        tick: distance of a CPU's vmstat ticks; 0: none. A recording has its own.

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
        pcp: Mapping[str, str | int] | None = None,
        costs: str | Costs = "default",
        seed: int = 0,
        tick: str | float = TICK,
    ) -> None:
        self.cpus = _number("cpus", cpus, 1, MAX_CPUS)
        self.nodes = _number("nodes", nodes, 1, min(self.cpus, MOST_NODES))
        self.seed = _number("seed", seed, 0, (1 << 63) - 1)
        self.memory_bytes = None if memory is None else _size("memory", memory)
        self.cma_bytes = None if cma is None else _size("cma", cma)
        self.zones = {name: _size(f"zones.{name}", size) for name, size in (zones or {}).items()}
        for name in self.zones:
            if name not in ZONES or name == "Normal":
                raise ConfigError(f"zones.{name}: expected DMA, DMA32 or Movable; zone Normal gets what they leave")
        self.pcp = _limits(pcp or {})
        self.policy = parse_policy(policy)
        self.costs = parse_costs(costs)
        self.tick_ns = parse_ns(tick, "tick")
        if self.memory_bytes is not None:
            self._places(self.memory_bytes, self.cma_bytes or 0)

    def __repr__(self) -> str:
        memory = "memory as the workload asks" if self.memory_bytes is None else size_text(self.memory_bytes)
        nodes = f" in {self.nodes} nodes" if self.nodes > 1 else ""
        return f"<Machine of {self.cpus} CPUs{nodes}, {memory}, {self.policy.name}, costs {self.costs.name}>"

    def run(
        self,
        workload: "str | os.PathLike[str] | Load",
        *,
        duration: str | float | None = None,
        sample: str | float | None = None,
        log: bool = False,
        progress: Progress | None = None,
        **parameters: Any,
    ) -> Run:
        """
        Carry out a workload, and measure.

        workload: a name such as "exit/storm", a recording (in closed loop), or a ``Load``. duration: virtual time to
        measure (default: what the workload is made for). sample: distance of the samples of memory (default: 256 in
        all, or 1 ms). log: keep the log of its locks (run/locks.py), a million holds at most; it changes nothing else.
        parameters: of the workload. progress: called as progress(policy name, virtual ns measured, ns in
        all) now and then; 0 in all: nobody knows, and the first is all virtual time so far.

        Stopped by KeyboardInterrupt, it returns what was measured until then, marked partial. A run in which every CPU
        waits for another one ends there, and ``stuck`` says who waits for what.
        Raises ConfigError or RecordingError before anything runs.
        """
        load = find_load(workload, self.cpus, self.memory_bytes, self.nodes, parameters)
        self._refuse(load)
        asked = load.duration_ns if duration is None else parse_ns(duration, "duration")
        duration_ns = None if asked is None else round(asked)
        sample_ns = _sample_ns(sample, duration_ns, load)
        places, zones = self._recorded(load) if load.stream is not None else self._fresh(load)
        tick_ns = 0 if load.stream is not None else self.tick_ns
        simulation = self._simulation(load, places, zones, tick_ns, sample_ns, log)
        began = time.perf_counter_ns()
        partial = not _to_the_end(simulation, duration_ns, _measures(load), self.policy.name, progress)
        simulation.stop()
        holds, left_out = simulation.holds() if log else (None, 0)
        elapsed_ns = time.perf_counter_ns() - began
        named = dict(zip(_zone_names(places, self.nodes), zones, strict=True))
        facts = manifest(
            [self.policy],
            mode="machine",
            command=self._command(load, duration_ns, sample, log),
            workload={
                "name": load.name,
                "meaning": load.meaning,
                "source": load.source,
                "unit": load.unit,
                "parameters": dict(load.parameters),
                "left_out": dict(load.stream.left_out) if load.stream is not None else {},
                **({"notes": list(load.notes)} if load.notes else {}),
            },
            config={
                "cpus": self.cpus,
                "nodes": self.nodes,
                "memory": size_text(sum(place.pages for place in places) * PAGE_SIZE),
                "cma": size_text(sum(place.cma_pages for place in places) * PAGE_SIZE),
                **({"pcp": self.pcp} if self.pcp else {}),
                "tick_ns": tick_ns,
                "duration_ns": duration_ns,
                "sample_ns": sample_ns,
                **({"log": {"left_out": left_out}} if log else {}),
            },
            costs=self.costs.document(),
            seed=self.seed,
            partial=partial,
            stuck=_stuck(simulation.trouble),
            zones=[{"name": name, **_facts(place, named[name])} for name, place in zip(named, places, strict=True)],
        )
        by_cpu = [metrics.of_cpu(zones, cpu) for cpu in range(self.cpus)]
        return measured(simulation.result(), metrics.of_zones(named), by_cpu, facts, elapsed_ns, holds)

    def _refuse(self, load: "Load") -> None:
        """
        What does not go together.
        """
        if load.cpus != self.cpus:
            raise ConfigError(f"cpus={self.cpus}: {load.name} is for {load.cpus} CPUs; expected {load.cpus}")
        if load.stream is None:
            return
        given = {"memory": self.memory_bytes is not None, "nodes": self.nodes > 1, "zones": self.zones, "pcp": self.pcp}
        for key, is_given in {**given, "cma": self.cma_bytes is not None}.items():
            if is_given:
                raise ConfigError(f"{key}: a recording brings its own zones and pages; leave it out")

    def _fresh(self, load: "Load") -> tuple[list[_Place], list[_core.Zone]]:
        """
        Fresh zones. Alone, a zone sizes itself; else watermarks and PCPs depend on the other zones and on local CPUs.
        """
        memory_bytes = load.memory_bytes if self.memory_bytes is None else self.memory_bytes
        block_bytes = PAGEBLOCK_PAGES * PAGE_SIZE
        cma_bytes = int(load.cma * memory_bytes) // block_bytes * block_bytes
        places = self._places(memory_bytes, cma_bytes if self.cma_bytes is None else self.cma_bytes)
        lowmem = sum(place.pages for place in places if place.name != "Movable")
        populated = sum(place.name != "Movable" for place in places)
        kbytes = max(_core.min_free_kbytes(lowmem * 4), 4 * min(PAGEBLOCK_PAGES * populated * 11, lowmem * 5 // 100))
        zones: list[_core.Zone] = []
        for place in places:
            sizing: dict[str, Any] = {}
            if len(places) > 1 or self.pcp:
                mark = _watermarks(place, lowmem, kbytes)
                batch, low, high = _core.pcp_sizing(place.pages, self._cpu_node().count(place.node), mark[1])
                if self.pcp:
                    batch = int(self.pcp.get("batch", batch))
                    fixed = self.pcp.get("high")
                    if fixed is not None:
                        low = high = low if fixed == "min" else int(fixed)
                sizing = {"watermark": mark, "batch": batch, "high_min": low, "high_max": high}
            zones.append(
                Zone(
                    place.pages,
                    cpus=self.cpus,
                    policy=self.policy,
                    cma_pages=place.cma_pages,
                    start_pfn=place.start_pfn,
                    zone_index=place.kind,
                    name=place.name,
                    **sizing,
                )
            )
        return places, zones

    def _places(self, memory_bytes: int, cma_bytes: int) -> list[_Place]:
        """
        Where each zone lies, in ascending order. Raises ConfigError for a zone that is too small.
        """
        places: list[_Place] = []
        start, pages = 0, memory_bytes // PAGE_SIZE
        for node in range(self.nodes):
            of_node = pages // self.nodes // CHUNK_PAGES * CHUNK_PAGES if node < self.nodes - 1 else pages - start
            sizes = {name: size // PAGE_SIZE for name, size in self.zones.items() if node == 0 or name == "Movable"}
            sizes["Normal"] = of_node - sum(sizes.values())
            for name in sorted(sizes, key=ZONES.index):
                cma_pages = cma_bytes // PAGE_SIZE if node == 0 and name == "Normal" else 0
                places.append(_Place(name, node, ZONES.index(name), start, sizes[name], cma_pages))
                self._check(places[-1], memory_bytes)
                start += sizes[name]
        return places

    def _check(self, place: _Place, memory_bytes: int) -> None:
        where = f"zone {place.name} of node {place.node}" if self.nodes > 1 else f"zone {place.name}"
        if place.pages < PAGEBLOCK_PAGES:
            key = "memory" if place.name == "Normal" else f"zones.{place.name}"
            size = size_text(memory_bytes if place.name == "Normal" else place.pages * PAGE_SIZE)
            left = size_text(max(place.pages, 0) * PAGE_SIZE)
            raise ConfigError(f"{key}={size}: {where} would have {left}; expected at least one pageblock, 2MiB")
        if place.cma_pages > place.pages or place.cma_pages % PAGEBLOCK_PAGES:
            most = size_text(place.pages // PAGEBLOCK_PAGES * PAGEBLOCK_PAGES * PAGE_SIZE)
            cma = size_text(place.cma_pages * PAGE_SIZE)
            raise ConfigError(f"cma={cma}: expected whole pageblocks, a multiple of 2MiB, up to the {most} of {where}")

    def _recorded(self, load: "Load") -> tuple[list[_Place], list[_core.Zone]]:
        """
        The zones of a recording, in their recorded state.
        """
        from . import recording

        assert load.stream is not None
        state = load.stream.state
        adapted = [recording.adapt(zone, self.policy) for zone in state["zones"]]
        zones = _core.Node.from_state({**state, "zones": adapted}, self.policy).zones
        places = [
            _Place(zone.name, 0, zone.zone_index, zone.start_pfn, zone.pages, zone.summary()["cma"]) for zone in zones
        ]
        return places, list(zones)

    def _cpu_node(self) -> list[int]:
        return [cpu * self.nodes // self.cpus for cpu in range(self.cpus)]

    def _simulation(
        self,
        load: "Load",
        places: Sequence[_Place],
        zones: Sequence[_core.Zone],
        tick_ns: int,
        sample_ns: int,
        log: bool,
    ) -> Any:
        """
        The compiled machine with everything in it, at time 0.
        """
        from ._core import core, machine

        return machine.Simulation(
            zones,
            [core.address_of(zone) for zone in zones],
            [place.node for place in places],
            [place.kind for place in places],
            self._cpu_node(),
            self.costs.numbers(),
            load.programs,
            load.cpu_program,
            nr_queues=load.nr_queues,
            nr_barriers=load.nr_barriers,
            nr_locks=load.nr_locks,
            irq_program=load.irq_program,
            irq_every_ns=load.irq_every_ns,
            stream=_stream(load),
            tick_ns=tick_ns,
            sample_ns=sample_ns,
            seed=self.seed,
            holds=log,
        )

    def _command(self, load: "Load", duration_ns: int | None, sample: str | float | None, log: bool) -> str:
        """
        The command line that does the same, without options that say what is the default anyway.
        """
        words = ["pcpbuddy", "run", load.name, "--cpus", str(self.cpus), "--policy", _policy_text(self.policy)]
        if self.memory_bytes is not None:
            words += ["--memory", size_text(self.memory_bytes)]
        if self.nodes != 1:
            words += ["--nodes", str(self.nodes)]
        if self.zones:
            words += ["--zones", ",".join(f"{name}={size_text(size)}" for name, size in self.zones.items())]
        if self.cma_bytes is not None:
            words += ["--cma", size_text(self.cma_bytes)]
        if self.pcp:
            words += ["--pcp", ",".join(f"{name}={value}" for name, value in self.pcp.items())]
        words += ["--costs", self.costs.name, "--seed", str(self.seed)]
        if self.tick_ns != parse_ns(TICK, "tick"):
            words += ["--tick", ns_exact(self.tick_ns)]
        if duration_ns is not None and duration_ns != load.duration_ns:
            words += ["--duration", ns_exact(duration_ns)]
        if sample is not None:
            words += ["--sample", ns_exact(parse_ns(sample, "sample"))]
        if log:
            words += ["--log"]
        for name, value in _changed_parameters(load).items():
            words += ["--set", f"{name}={value}"]
        return shlex.join(words)


def find_load(
    workload: "str | os.PathLike[str] | Load",
    cpus: int,
    memory_bytes: int | None = None,
    nodes: int = 1,
    parameters: Mapping[str, Any] | None = None,
) -> "Load":
    """
    A workload for a number of CPUs, by name; or a recording in closed loop, which is for its own number of CPUs.

    Raises ConfigError or RecordingError for one that does not exist.
    """
    from .workload import is_workload_name
    from .workload.load import Load, is_load_name, load

    given = dict(parameters or {})
    if isinstance(workload, Load):
        if given:
            raise ConfigError(f"parameter {next(iter(given))!r}: a Load has its parameters already")
        return workload
    name = os.fspath(workload)
    if is_load_name(name):
        return load(name, cpus, memory_bytes, nodes=nodes, **given)
    if is_workload_name(name):
        raise ConfigError(f"{name} is a fixed sequence of requests without time: `pcpbuddy compare {name}` runs it")
    from .workload.recorded import recording_load

    for key in given:
        if key not in ("gaps", "proc"):
            raise ConfigError(f"a recording has no parameter {key!r}; it has: gaps, proc")
    return recording_load(name, **given)


def _stream(load: "Load") -> dict[str, Any] | None:
    """
    A recording's requests as the compiled machine takes them. Handles change as it runs, so each run has its own.
    """
    if load.stream is None:
        return None
    names = ("requests", "think_ps", "first", "handles")
    return {name: getattr(load.stream, name) for name in names} | {"handles": load.stream.handles.copy()}


def _changed_parameters(load: "Load") -> dict[str, Any]:
    """
    The parameters that are not what they are if nobody says anything.
    """
    from .workload.load import is_load_name, parameters

    defaults = parameters(load.name) if is_load_name(load.name) else {"gaps": 1.0}
    return {name: value for name, value in load.parameters.items() if name in defaults and value != defaults[name]}


def _measures(load: "Load") -> bool:
    """
    Whether measuring begins when a program says so, and not at time 0.
    """
    from .workload.program import MEASURE

    return any(bool((program["op"] == MEASURE).any()) for program in load.programs)


def _to_the_end(simulation: Any, duration_ns: int | None, measures: bool, name: str, progress: Progress | None) -> bool:
    """
    Run the machine in slices that hold no GIL. False: stopped by the user.

    Until measuring has begun, nobody knows when it will end; but the end is no nearer than a whole duration.
    """
    start_ns = None if measures else 0.0
    total = duration_ns or 0
    until_ns = -1.0 if duration_ns is None else float(duration_ns)
    try:
        while True:
            over = simulation.run(until_ns, EVENTS_PER_SLICE)
            now_ns = simulation.now_ns
            reached = 0 <= until_ns <= now_ns
            if start_ns is None:
                start_ns = simulation.start_ns or None
                if duration_ns is not None:
                    until_ns = (now_ns if start_ns is None else start_ns) + duration_ns
            if over and not (reached and until_ns > now_ns):
                break
            if progress is not None:
                measured_ns = 0.0 if start_ns is None else now_ns - start_ns
                progress(name, int(measured_ns if total else now_ns), total)
        if progress is not None:
            progress(name, total, total)
    except KeyboardInterrupt:
        return False
    return True


def _sample_ns(sample: str | float | None, duration_ns: int | None, load: "Load") -> int:
    if sample is not None:
        return parse_ns(sample, "sample")
    if duration_ns is None and load.stream is not None:
        # A recording takes about as long as it took: the recorded time of the CPU that was seen longest.
        sums = [int(load.stream.think_ps[a:b].sum()) for a, b in itertools.pairwise(load.stream.first.tolist())]
        return max(max(sums, default=0) // 1000 // SAMPLES, SAMPLE_NS // 10)
    return SAMPLE_NS if duration_ns is None else max(duration_ns // SAMPLES, 1)


def _stuck(trouble: Any) -> list[dict[str, Any]]:
    """
    Who waits for what, where every CPU waits. Raises MemoryError, and ConfigError for a program that takes no time.
    """
    if trouble is None:
        return []
    what, which = trouble
    if what == "memory":
        raise MemoryError("the machine's queues, samples or log")
    if what == "endless":
        raise ConfigError(f"the program of CPU {which} goes round without ever taking time")
    return [
        {"cpu": cpu, "context": context, "waits_for": thing, "number": number, "holder": None if holder < 0 else holder}
        for cpu, context, thing, number, holder in which
    ]


def _watermarks(place: _Place, lowmem: int, kbytes: int) -> tuple[int, int, int, int]:
    """
    B-20, with what it says of zone Movable.
    """
    if place.name != "Movable":
        return _core.watermarks(place.pages, lowmem, kbytes)
    least = min(max(place.pages // 1024, 32), 128)
    delta = max(least // 4, place.pages * 10 // 10000)
    return (least, least + delta, least + 2 * delta, least + 3 * delta)


def _zone_names(places: Sequence[_Place], nodes: int) -> list[str]:
    """
    Names of the zones in metrics: with several nodes the node stands before the zone.
    """
    return [f"node{place.node}.{place.name}" if nodes > 1 else place.name for place in places]


def _facts(place: _Place, zone: _core.Zone) -> dict[str, Any]:
    """
    What a zone was like: where it lies, and how it and its PCPs were sized at the end.
    """
    summary = zone.summary()
    pcp = summary["pcp"][0]
    return {
        "node": place.node,
        "pages": place.pages,
        "cma_pages": place.cma_pages,
        "watermark": list(summary["watermark"]),
        "batch": pcp["batch"],
        "high_min": pcp["high_min"],
        "high_max": pcp["high_max"],
    }


def _policy_text(which: Policy) -> str:
    """
    The policy as an option takes it: of one from a file, the changes against fixed.
    """
    base = which.name.split("+")[0]
    switches: dict[str, Any] = which.switches()
    return which.name if base in PROFILES else Policy(**switches).name


def _limits(pcp: Mapping[str, Any]) -> dict[str, str | int]:
    """
    Limits of PCPs, checked. Raises ConfigError.
    """
    limits: dict[str, str | int] = {}
    for name, value in pcp.items():
        number = int(value) if isinstance(value, str) and value.isdecimal() else value
        if name == "high" and number == "min":
            limits[name] = "min"
        elif name in ("batch", "high"):
            limits[name] = _number(f"pcp.{name}", number, 1, MOST_HIGH)
        else:
            raise ConfigError(f"pcp.{name}: expected batch or high")
    return limits


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
