"""
A cost model of the machine that runs us: small loops, timed in turn, and what each number is made of.

The loops are compiled (_core/calibrate.pyx) and short. What disturbs one only makes it longer, so of a few bursts in a
row the lower quartile counts. Every round runs each loop, starting with another one; a number is made within its round,
and what counts is the median of the rounds, so a slow moment spoils one round and not one number.
"""

import itertools
import math
import mmap
import os
import platform
import statistics
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import PcpBuddyError, UsageError
from . import DEFAULT, FIELDS, Costs, Source, costs

__all__ = ["ROUNDS", "Topology", "calibrate", "topology"]

ROUNDS = 21
CALIBRATED = "calibrated"
LINE_BYTES = 64
DESCRIPTOR = 64  # bytes
HEADS = 16  # descriptors at the beginning of a memory that are list heads
HOT = 112  # descriptors that the first cache has
HUGE_PAGE = 2 << 20
SYSTEM = Path("/sys/devices/system")
TOUCHES = 8  # descriptors that relink touches as the machine counts them; two of them not just before
COLD = 2
PAIR_TOUCHES = 12  # of an allocation and a free on the short path, about
WORK = 1_000  # steps of a multiplication in a contended lock: long enough for the other CPU to queue up
BURSTS, PAIRED_BURSTS = 4, 8
FAULTS = 4 << 20  # bytes of a new mapping
SLEEP = 60_000  # and before a wake-up: long enough for the other CPU to fall asleep
NOISY = 1.5


# What the machine is


class Topology(NamedTuple):
    """
    CPUs that this process may use, and caches. near, far: CPUs of the same node and of others, to pair with `cpu`.

    own_bytes: the second cache. shared_bytes, sharers: the third, and how many CPUs have it together.
    """

    cpu: int
    near: tuple[int, ...]
    far: tuple[int, ...]
    nodes: int
    own_bytes: int | None
    shared_bytes: int | None
    sharers: int


def topology() -> Topology:
    """
    Of the machine as sysfs shows it. Caches that it does not show are None, and so all CPUs are on one node.
    """
    allowed = sorted(os.sched_getaffinity(0))
    node_of = {}
    for folder in sorted(SYSTEM.glob("node/node[0-9]*")):
        for cpu in _cpus(_read(folder / "cpulist")):
            node_of[cpu] = folder.name
    cpu = allowed[0]
    siblings = _cpus(_read(SYSTEM / f"cpu/cpu{cpu}/topology/thread_siblings_list"))
    others = [other for other in allowed if other != cpu]
    others = [other for other in others if other not in siblings] or others
    near = [other for other in others if node_of.get(other) == node_of.get(cpu)]
    far = [other for other in others if other not in near]
    caches = {
        _read(folder / "level"): folder
        for folder in sorted((SYSTEM / f"cpu/cpu{cpu}/cache").glob("index*"))
        if _read(folder / "type") != "Instruction"
    }
    own, shared = (_bytes(_read(caches[level] / "size")) if level in caches else None for level in ("2", "3"))
    sharers = len(_cpus(_read(caches["3"] / "shared_cpu_list"))) if "3" in caches else 0
    nodes = len({node_of[each] for each in allowed if each in node_of})
    return Topology(cpu, _some(near), _some(far), max(nodes, 1), own, shared, max(sharers, 1))


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _cpus(text: str) -> set[int]:
    """
    The CPUs of a list such as 0-3,8.
    """
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        if first.strip().isdecimal():
            found |= set(range(int(first), int(last or first) + 1))
    return found


def _bytes(text: str) -> int | None:
    """
    The bytes of a size such as 512K.
    """
    unit = {"K": 1 << 10, "M": 1 << 20}.get(text[-1:], 1)
    digits = text.rstrip("KM")
    return int(digits) * unit if digits.isdecimal() else None


def _some(cpus: list[int], most: int = 8) -> tuple[int, ...]:
    """
    A few of the CPUs, from all over the list.
    """
    return tuple(cpus[k * len(cpus) // min(len(cpus), most)] for k in range(min(len(cpus), most)))


def _available_bytes() -> int:
    for line in _read(Path("/proc/meminfo")).splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return 1 << 30


def _facts(machine: Topology) -> dict[str, Any]:
    """
    What a profile says of the machine; no host name, no date.
    """
    from ..manifest import manifest

    info = _read(Path("/proc/cpuinfo")).splitlines()
    model = [line.partition(":")[2].strip() for line in info if line.startswith("model name")]
    made = manifest([])
    return {
        "cpu": model[0] if model else platform.processor() or "unknown",
        "cpus": len(os.sched_getaffinity(0)),
        "nodes": machine.nodes,
        "arch": made["machine"]["arch"],
        "system": f"{platform.system()} {platform.release()}",
        "python": made["python"],
        "pcpbuddy": made["version"],
        "commit": made["commit"] or "",
        "load": round(os.getloadavg()[0], 2),
    }


# Loops


def _memory(size: int, *, huge: bool = True) -> memoryview:
    """
    A mapping of its own, in huge pages if the kernel gives them, as it does for its own descriptors.
    """
    whole = (size + HUGE_PAGE - 1) // HUGE_PAGE * HUGE_PAGE
    mapping = mmap.mmap(-1, whole, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # A kernel without huge pages refuses both.
    with suppress(OSError):
        mapping.madvise(mmap.MADV_HUGEPAGE if huge else mmap.MADV_NOHUGEPAGE)
    return memoryview(mapping)


class _Loops:
    """
    The memories, and every loop by name; what a loop gives is nanoseconds.
    """

    def __init__(self, machine: Topology, *, quick: bool) -> None:
        # Here and not above: whoever only reads profiles needs neither of the extensions.
        from .._core import calibrate as core

        self.core = core
        self.machine = machine
        self.own = max((machine.own_bytes or 1 << 20) // DESCRIPTOR // 2 - HEADS, 4 * HOT)
        shared_bytes = machine.shared_bytes or machine.own_bytes or 32 << 20
        wanted = 32 << 20 if quick else max(256 << 20, 8 * shared_bytes)
        self.large = max(min(wanted, 1 << 30, _available_bytes() // 4), 16 << 20) // DESCRIPTOR - HEADS
        self.shared = _memory(1).cast("B").cast("I")
        # Not where a page begins, as descriptors do: CPUs first take addresses that differ by whole pages for the same.
        self.counters = _memory(1)[3072:].cast("B").cast("q")
        self.hot, self.plain = self._descriptors(HOT), self._descriptors(HOT)
        self.block, self.warm = self._descriptors(2048), self._descriptors(self.own)
        self.cold = self._descriptors(self.large)
        self.pages = _memory(32 << 20 if quick else min(4 * shared_bytes, 256 << 20))
        self.pages[:] = bytes(len(self.pages))
        self.seed = 0

    def _descriptors(self, nr: int) -> memoryview:
        memory = _memory((nr + HEADS) * DESCRIPTOR)
        self.core.prepare(memory, nr, nr)
        return memory

    def alone(self) -> dict[str, Callable[[], float]]:
        """
        What one CPU does by itself. A burst takes some hundred microseconds, of memory a few milliseconds.
        """
        core, hot, plain = self.core, self.hot, self.plain
        bursts: dict[str, Callable[[], float]] = {
            "lock": lambda: core.lock(self.shared, 20_000),
            "push": lambda: core.push(self.shared, 20_000),
            "clock": lambda: core.clock(3_000),
            "entry": lambda: core.entry(hot, 30_000),
            "list_op": lambda: core.list_op(self.block, self.counters, 2_000),
            "move": lambda: core.move(hot, self.counters, 30_000),
            "ladder": lambda: core.ladder(self.block, self.counters, 2_000),
            "scan": lambda: core.scan(plain, HOT, 500),
            "visit": lambda: core.visit(plain, True, 30_000),
            "walk": lambda: core.visit(plain, False, 30_000),
            "page": lambda: core.page(plain, HOT, 30_000),
            "relink.own": lambda: core.relink(self.warm, self.own),
            "relink.memory": lambda: core.relink(self.cold, 5_000),
            "chase": lambda: core.chase(self.cold, 5_000),
            "touch": lambda: core.touch(self.cold, self.large, 20_000, self._next_seed()),
            "clear": lambda: core.clear(self.pages, 1_000, self._next_seed()),
            "fault": self._fault,
            "pair": self._pair(),
        }
        return {name: _repeated(burst) for name, burst in bursts.items()}

    def _next_seed(self) -> int:
        self.seed += 1
        return self.seed

    def _fault(self) -> float:
        return self.core.fault(_memory(FAULTS, huge=False))

    def _pair(self) -> Callable[[], float]:
        from .._core.core import Zone, bench

        zone = Zone(1 << 16, policy="mainline")
        return lambda: bench(zone, "pair", 20_000) / 20_000

    def paired(self, partners: tuple[int, ...], suffix: str) -> dict[str, Callable[[], float]]:
        """
        What takes two CPUs; each time with another partner. Most bursts of some ten microseconds find both CPUs free.
        """
        core, turn = self.core, itertools.cycle(partners)
        both: dict[str, Callable[[int], float]] = {
            "line": lambda side: core.line(self.shared, side, 200),
            "hand_over": lambda side: core.hand_over(self.shared, side, WORK, 50),
            "relink": lambda side: core.relink_in_turn(self.warm, self.shared, side, self.own, 1),
            "wake": lambda side: core.wake(self.shared, side, SLEEP, 4),
        }
        return {f"{name}.{suffix}": _together(loop, turn) for name, loop in both.items()}


def _quiet(bursts: list[float]) -> float:
    """
    The lower quartile of those that measured something; infinity if none did.
    """
    finite = sorted(burst for burst in bursts if math.isfinite(burst))
    return finite[len(finite) // 4] if finite else math.inf


def _repeated(burst: Callable[[], float]) -> Callable[[], float]:
    return lambda: _quiet([burst() for _ in range(BURSTS)])


def _together(loop: Callable[[int], float], partners: Iterator[int]) -> Callable[[], float]:
    """
    The loop on this CPU and the next partner at once; what this one measures.
    """

    def partner(cpu: int) -> None:
        # If it fails, the other side waits in vain, and says so.
        with suppress(OSError, PcpBuddyError):
            os.sched_setaffinity(0, {cpu})
            for _ in range(PAIRED_BURSTS):
                loop(1)

    def measure() -> float:
        thread = threading.Thread(target=partner, args=(next(partners),), daemon=True)
        thread.start()
        bursts = [loop(0) for _ in range(PAIRED_BURSTS)]
        thread.join()
        return _quiet(bursts)

    return measure


@contextmanager
def _pinned(cpu: int) -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


# Numbers


def _numbers(t: Mapping[str, float]) -> dict[str, float]:
    """
    One round's times as fields of the cost model. A free that touches descriptors as relink does takes two entry_ns,
    six times descriptor_own_ns and twice what a descriptor costs that was not touched just before: as measured.
    """
    own = max(t["relink.own"] - t["entry"], 0.0) / TOUCHES
    hot = t["entry"] + (TOUCHES - COLD) * own
    fixed = max(t["pair"] - t["entry"] - t["page"] - PAIR_TOUCHES * own, 0.0)
    step = max(t["ladder"] - t["list_op"], 0.0) / 2
    made = {
        "lock_ns": t["lock"],
        "entry_ns": t["entry"] / 2,
        "list_op_ns": t["list_op"] / 2,
        "move_ns": t["move"],
        "merge_ns": step,
        "split_ns": step,
        "scan_ns": max(t["scan"] - own, 0.0),
        "visit_ns": max(t["visit"] - 2 * own, 0.0),
        "walk_ns": t["walk"],
        "descriptor_own_ns": own,
        "descriptor_memory_ns": max((t["relink.memory"] - hot) / COLD, own),
        "alloc_ns": 0.6 * fixed,
        "free_ns": 0.4 * fixed,
        "page_ns": t["page"] / 2,
        "push_ns": t["push"],
        "fault_ns": max(t["fault"] - t["clear"], 0.0),
        "zero_ns": t["clear"],
    }
    for suffix in ("near", "far"):
        if f"line.{suffix}" in t:
            made[f"line_{suffix}_ns"] = t[f"line.{suffix}"]
            made[f"handover_{suffix}_ns"] = max(t[f"hand_over.{suffix}"] - t["clock"], 0.0)
            made[f"descriptor_{suffix}_ns"] = max((t[f"relink.{suffix}"] - hot) / COLD, own)
    if "wake.near" in t:
        made["wake_ns"] = max(t["wake.near"] - t["clock"], 0.0)
    return made


HOW_MADE = {  # what each measured number is
    "lock_ns": "an exchange and a release; the kernel's lock also counts preemption",
    "line_near_ns": "half of there and back, between two CPUs of a node",
    "line_far_ns": "half of there and back, between CPUs of two nodes",
    "handover_near_ns": "from leaving an MCS lock that two CPUs always want to the next holder's first instruction",
    "handover_far_ns": "the same, CPUs of two nodes",
    "entry_ns": "half of taking the first of a list and adding it as the last, in cache",
    "list_op_ns": "half of adding a chunk to a zone list and taking it away, with page words and counters",
    "move_ns": "an unlink, a link and two counters, in cache",
    "merge_ns": "half of a split and the merge that undoes it, less their two list operations",
    "split_ns": "half of a split and the merge that undoes it, less their two list operations",
    "scan_ns": "a walk over page words in cache, less the touch",
    "visit_ns": "a walk along a list with a look at each buddy, less the two touches",
    "walk_ns": "a walk along a list in cache",
    "descriptor_own_ns": "a free's work on descriptors in the own cache less the list operations, an eighth: 8 touches",
    "descriptor_near_ns": "the same where another CPU touched them last, for each of the 2 that come from there",
    "descriptor_far_ns": "the same, a CPU of another node",
    "descriptor_memory_ns": "the same where no cache has them, for each of the 2 that come from memory",
    "alloc_ns": "0.6 of what the core's own pair takes beside lists, pages and touches; less than the kernel's",
    "free_ns": "0.4 of what the core's own pair takes beside lists, pages and touches; less than the kernel's",
    "page_ns": "half of preparing and checking a page, with a third of the kernel's fields",
    "push_ns": "a compare-and-exchange on a line of its own",
    "fault_ns": "first write to a page of a new mapping, less zero_ns; the kernel's allocation is in it",
    "zero_ns": "memset of a page, pages in random order, from memory",
    "wake_ns": "from waking a thread that sleeps on a futex, on another CPU, to its first instruction",
}


def calibrate(
    *,
    profile: str | Costs = DEFAULT,
    rounds: int = ROUNDS,
    quick: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> Costs:
    """
    Measure this machine. What cannot be measured here is taken from the profile, and says so.

    rounds: of which each number is the median. quick: small memories, for a try; the profile says so. progress: is
    called with a name, how many rounds are done, and how many there will be.
    """
    if rounds < 1:
        raise UsageError(f"{rounds} rounds: expected 1 or more")
    base, machine = costs(profile), topology()
    taken = []
    with _pinned(machine.cpu):
        loops = _Loops(machine, quick=quick)
        tasks = loops.alone()
        if machine.near:
            tasks |= loops.paired(machine.near, "near")
        if machine.far:
            tasks |= loops.paired(machine.far, "far")
        for number in range(rounds + 1):
            if progress is not None:
                progress("rounds", number, rounds + 1)
            times = _round(tasks, number)
            if number:  # the first one warms up
                taken.append(times)
        if progress is not None:
            progress("rounds", rounds + 1, rounds + 1)
    values, sources = _measured(taken, loops.large)
    _caches(values, sources, machine)
    _fill(values, sources, base)
    facts = _facts(machine)
    return Costs(
        name=CALIBRATED,
        calibrated=True,
        meaning=f"{'tried with small memories on' if quick else 'measured on'} {facts['cpu']}, {facts['cpus']} CPUs",
        machine={**facts, "rounds": rounds},
        sources={field: sources[field] for field in FIELDS},
        **{field: values[field] for field in FIELDS},
    )


def _measured(taken: list[dict[str, float]], nr_cold: int) -> tuple[dict[str, float], dict[str, Source]]:
    """
    The medians of what the rounds made, and how they were made.
    """
    made: dict[str, list[float]] = {}
    for times in taken:
        for field, value in _numbers(times).items():
            if math.isfinite(value):
                made.setdefault(field, []).append(value)
    values = {field: _rounded(statistics.median(each)) for field, each in made.items()}
    sources = {field: Source("measured", f"{_spread(each)}: {HOW_MADE[field]}.") for field, each in made.items()}
    chase, touch = (statistics.median(times[name] for times in taken) for name in ("chase", "touch"))
    memory = sources["descriptor_memory_ns"]
    reads = f"In {nr_cold * DESCRIPTOR >> 20} MiB; reads that wait for each other took {chase:.3g}, others {touch:.3g}."
    sources["descriptor_memory_ns"] = memory._replace(text=f"{memory.text} {reads}")
    return values, sources


def _caches(values: dict[str, float], sources: dict[str, Source], machine: Topology) -> None:
    """
    Half of the second cache, and half of a CPU's share of the third: the other halves are for all else.
    """
    if machine.own_bytes is None:
        return
    own = machine.own_bytes // LINE_BYTES // 2
    values["cache_descriptors"] = own
    sources["cache_descriptors"] = Source("measured", f"half of the second cache, {machine.own_bytes >> 10} KiB.")
    shared = (machine.shared_bytes or 0) // machine.sharers // LINE_BYTES // 2
    values["shared_descriptors"] = own + shared
    text = f"that, and half of a CPU's share of the third cache, {(machine.shared_bytes or 0) >> 10} KiB for"
    sources["shared_descriptors"] = Source("measured", f"{text} {machine.sharers} CPUs.")


def _round(tasks: Mapping[str, Callable[[], float]], number: int) -> dict[str, float]:
    """
    Every loop once, starting with another one each time.
    """
    names = list(tasks)
    shift = number % len(names)
    return {name: tasks[name]() for name in names[shift:] + names[:shift]}


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def _spread(values: list[float]) -> str:
    """
    How many, and the middle half of them; said when that is wide.
    """
    if len(values) < 2:
        return "once"
    low, _, high = statistics.quantiles(values, n=4)
    noisy = ", noisy" if high > NOISY * low and high - low > 1 else ""
    return f"median of {len(values)}, half of them {low:.3g} to {high:.3g}{noisy}"


def _fill(values: dict[str, float], sources: dict[str, Source], base: Costs) -> None:
    """
    What was not measured: other nodes in the profile's proportion to this one, all else as in the profile.
    """
    for field in FIELDS:
        if field in values:
            continue
        near = field.replace("_far_", "_near_")
        if near != field and sources[near].how == "measured" and getattr(base, near):
            ratio = getattr(base, field) / getattr(base, near)
            values[field] = _rounded(values[near] * ratio)
            text = f"not measured, there is one node: {ratio:.2g} times {near}, as in {base.name}."
        else:
            why = "it takes two CPUs" if field in HOW_MADE else "it cannot be, from outside the kernel"
            values[field] = getattr(base, field)
            source = base.sources[field]
            text = f"not measured, {why}; from {base.name}, {source.how}: {source.text}"
        sources[field] = Source("taken", text)
