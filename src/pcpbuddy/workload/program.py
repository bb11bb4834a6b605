"""
Programs: what one virtual CPU of the laboratory does, as data.

A program is an array of INSTRUCTION records; the compiled machine carries it out. ``Program`` writes one,
``verify`` refuses what cannot be meant, ``show`` prints one. A queue holds allocations, one entry each, of any
order; programs pass pages to each other through queues. docs/reference/workloads.md has the whole table.
"""

import contextlib
import dataclasses
from collections.abc import Iterator

import numpy as np

from ..errors import ConfigError
from ..names import GFP_HIGHUSER_MOVABLE, MAX_PAGE_ORDER, gfp_text

__all__ = ["INSTRUCTION", "OP_NAMES", "Program", "Queue", "Queues", "show", "verify"]

INSTRUCTION = np.dtype(
    [
        ("op", "u1"),
        ("order", "u1"),
        ("how", "u1"),
        ("flags", "u1"),
        ("a", "u4"),
        ("b", "u4"),
        ("c", "u4"),
        ("gfp", "u4"),
        ("pad", "u4"),
        ("ps", "i8"),
        ("ps2", "i8"),
        ("x", "f8"),
    ]
)

# What the fields mean, by op. The same numbers are in _core/machine.pxd; a test compares them.
END = 0  # the CPU is done
ALLOC = 1  # b requests of one order, gfp, each one entry of queue a; after each its costs and ps of the user's time
BULK = 2  # one alloc_bulk of b pages of order 0 (B-93) onto queue a
FREE = 3  # up to b entries of queue a, how: which first; after each (BATCH: after each batch, for all of it) ps
THINK = 4  # user's time. how: how ps is spread
WAIT_LEAST = 5  # until queue a has b entries or more
WAIT_MOST = 6  # until queue a has b entries or fewer
WAIT_FREE = 7  # until the free pages of this CPU's node are below (how 0) or above (how 1) watermark a
GOTO = 8  # to instruction a
REPEAT = 9  # b - 1 times back to instruction a, counted in slot c
CHANCE = 10  # with probability x to instruction a
BARRIER = 11  # until b CPUs are at barrier a
LOCK = 12  # user's lock a, first come, first served
UNLOCK = 13
MOVE = 14  # up to b entries of queue a, how: which first, to queue c
MEASURE = 15  # all statistics begin here
WORK = 16  # b units of work are done
RECLAIM = 17  # how 1: reclaim is active in this CPU's node (B-83); 0: it is not
DRAIN = 18  # drain_all of all zones (B-100)
TICK = 19  # vmstat tick (B-101) now
REPLAY = 20  # carry out this CPU's share of a recording
STOP = 21  # the run ends for all
OFFLINE = 22  # CPU a (B-105)
ONLINE = 23  # CPU a
CMA_ALLOC = 24  # b pages of a CMA area, aligned to the order (CT-9): one entry of queue a. ps for each page moved
CMA_RELEASE = 25  # a range of b pages from queue a
OFFLINE_MEMORY = 26  # b pageblocks of the node's last zone, from its block a on (CT-11); ps for each page moved
ONLINE_MEMORY = 27

OP_NAMES = (
    "end",
    "alloc",
    "bulk",
    "free",
    "think",
    "wait_at_least",
    "wait_at_most",
    "wait_free",
    "goto",
    "repeat",
    "chance",
    "barrier",
    "lock",
    "unlock",
    "move",
    "measure",
    "work",
    "reclaim",
    "drain",
    "tick",
    "replay",
    "stop",
    "offline",
    "online",
    "cma_alloc",
    "cma_release",
    "offline_memory",
    "online_memory",
)

# flags
FAULT = 1  # the cost model's fault_ns for each request
ZERO = 2  # its zero_ns for each page
BATCH = 4  # freed as folio batches (B-91)
IRQ = 8  # freed as in an interrupt
A_PER_CPU = 16  # queue a + cpu
C_PER_CPU = 32  # queue c + cpu
A_PER_PAIR = 64  # queue a + cpu // 2

NEWEST, OLDEST, RANDOM = 0, 1, 2  # how: which entry of a queue
EXACTLY, EXPONENTIAL, UNIFORM = 0, 1, 2  # how: a time; UNIFORM is between 0 and twice the mean
BELOW, ABOVE = 0, 1  # how: of WAIT_FREE
WHICH = ("newest", "oldest", "random")
SPREAD = ("exactly", "exponential", "uniform")
WATERMARKS = ("min", "low", "high")

NR_COUNTERS = 8  # counters of REPEAT that a CPU has: how deep they nest
LARGEST = (1 << 32) - 1
LARGEST_ALIGN = 20
LARGEST_NS = 10**15  # eleven days; in picoseconds it still leaves room to add
PS_PER_NS = 1000
WITH_QUEUE_A = (ALLOC, BULK, FREE, WAIT_LEAST, WAIT_MOST, MOVE, CMA_ALLOC, CMA_RELEASE)
WITH_TARGET = (GOTO, REPEAT, CHANCE)
WITH_TIME = (ALLOC, BULK, FREE, THINK, CMA_ALLOC, OFFLINE_MEMORY)
CONTIGUOUS = (CMA_ALLOC, CMA_RELEASE, OFFLINE_MEMORY, ONLINE_MEMORY)
# A loop without one of these would never let time pass.
TAKES_TIME = (ALLOC, BULK, THINK, WAIT_LEAST, WAIT_MOST, WAIT_FREE, BARRIER, DRAIN, TICK, REPLAY, STOP, END)


@dataclasses.dataclass(frozen=True, slots=True)
class Queue:
    """
    A queue as a program names it.

    first: its number, or that of the first CPU's. per: "" for one queue, "cpu" or "pair" for one each.
    """

    first: int
    per: str = ""

    def number(self, cpu: int) -> int:
        """
        Which queue it is for that CPU.
        """
        return self.first + {"": 0, "cpu": cpu, "pair": cpu // 2}[self.per]


class Queues:
    """
    Hands out queue numbers for a load on so many CPUs. ``nr``: how many there are.
    """

    def __init__(self, cpus: int) -> None:
        self._cpus = cpus
        self.nr = 0

    def _take(self, nr: int, per: str) -> Queue:
        self.nr += nr
        return Queue(self.nr - nr, per)

    def shared(self) -> Queue:
        """
        One queue for all CPUs.
        """
        return self._take(1, "")

    def per_cpu(self) -> Queue:
        """
        A queue of its own for each CPU.
        """
        return self._take(self._cpus, "cpu")

    def per_pair(self) -> Queue:
        """
        One queue for CPUs 0 and 1, one for 2 and 3, and so on.
        """
        return self._take(-(-self._cpus // 2), "pair")


class Program:
    """
    Writes a program, instruction by instruction.

    Times are nanoseconds. ``which`` is "newest", "oldest" or "random". Loops are ``with`` blocks::

        p = Program("one page at a time")
        with p.forever():
            p.alloc(mine, fault=True, zero=True)
            p.think(500, "exponential")
            p.free(mine)

    Every method raises ConfigError for a number that cannot be.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._rows: list[dict[str, int | float]] = []
        self._depth = 0
        self._open = 0

    def _add(self, op: int, **fields: int | float) -> None:
        self._rows.append({"op": op, **fields})

    def _number(self, what: str, value: int, least: int = 0, most: int = LARGEST) -> int:
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or not least <= value <= most:
            raise ConfigError(f"program {self.name!r}, {what}={value!r}: expected a whole number {least} to {most}")
        return int(value)

    def _choice(self, what: str, value: str, choices: tuple[str, ...]) -> int:
        if value not in choices:
            raise ConfigError(f"program {self.name!r}, {what}={value!r}: expected one of {', '.join(choices)}")
        return choices.index(value)

    def _ps(self, what: str, ns: float) -> int:
        if isinstance(ns, bool) or not isinstance(ns, int | float) or not 0 <= ns <= LARGEST_NS:
            raise ConfigError(f"program {self.name!r}, {what}={ns!r}: expected nanoseconds, 0 to {LARGEST_NS}")
        return round(ns * PS_PER_NS)

    @staticmethod
    def _a(queue: Queue) -> tuple[int, int]:
        """
        (a, flags) of a queue.
        """
        return queue.first, {"": 0, "cpu": A_PER_CPU, "pair": A_PER_PAIR}[queue.per]

    # Pages

    def alloc(
        self,
        queue: Queue,
        nr: int = 1,
        *,
        order: int = 0,
        gfp: int = GFP_HIGHUSER_MOVABLE,
        fault: bool = False,
        zero: bool = False,
        each_ns: float = 0,
    ) -> None:
        """
        ``nr`` requests, onto the queue; the first that fails is counted and ends it.

        fault, zero: after each the cost model's page fault, and clearing its pages. each_ns: after each, user's time.
        """
        a, flags = self._a(queue)
        self._add(
            ALLOC,
            a=a,
            b=self._number("nr", nr, 1),
            order=self._number("order", order, 0, MAX_PAGE_ORDER),
            gfp=self._number("gfp", gfp),
            flags=flags | FAULT * fault | ZERO * zero,
            ps=self._ps("each_ns", each_ns),
        )

    def bulk(self, queue: Queue, nr: int, *, gfp: int, zero: bool = False, each_ns: float = 0) -> None:
        """
        One bulk request (B-93) of ``nr`` single pages; what it gives, onto the queue.
        """
        a, flags = self._a(queue)
        self._add(
            BULK,
            a=a,
            b=self._number("nr", nr, 1),
            gfp=self._number("gfp", gfp),
            flags=flags | ZERO * zero,
            ps=self._ps("each_ns", each_ns),
        )

    def free(
        self,
        queue: Queue,
        nr: int = 1,
        which: str = "newest",
        *,
        batch: bool = False,
        irq: bool = False,
        each_ns: float = 0,
    ) -> None:
        """
        Free up to ``nr`` entries; an empty queue ends it.

        batch: in folio batches (B-91), as exit, reclaim and madvise do. irq: as in an interrupt. each_ns: user's time
        for each entry.
        """
        a, flags = self._a(queue)
        self._add(
            FREE,
            a=a,
            b=self._number("nr", nr, 1),
            how=self._choice("which", which, WHICH),
            flags=flags | BATCH * batch | IRQ * irq,
            ps=self._ps("each_ns", each_ns),
        )

    def move(self, queue: Queue, to: Queue, nr: int = 1, which: str = "oldest") -> None:
        """
        Up to ``nr`` entries from one queue to another, which takes no time.
        """
        a, flags = self._a(queue)
        if to.per == "pair":
            raise ConfigError(f"program {self.name!r}: a move goes to a queue of a CPU or of all, not of a pair")
        self._add(
            MOVE,
            a=a,
            b=self._number("nr", nr, 1),
            c=to.first,
            how=self._choice("which", which, WHICH),
            flags=flags | C_PER_CPU * (to.per == "cpu"),
        )

    # Time

    def think(self, ns: float, spread: str = "exactly") -> None:
        """
        User's time: exactly so long, exponential with that mean, or uniform between 0 and twice the mean.
        """
        ps = self._ps("ns", ns)
        if ps:
            self._add(THINK, ps=ps, how=self._choice("spread", spread, SPREAD))

    def wait_at_least(self, queue: Queue, nr: int) -> None:
        """
        Sleep until the queue has ``nr`` entries or more.
        """
        a, flags = self._a(queue)
        self._add(WAIT_LEAST, a=a, b=self._number("nr", nr), flags=flags)

    def wait_at_most(self, queue: Queue, nr: int) -> None:
        """
        Sleep until the queue has ``nr`` entries or fewer.
        """
        a, flags = self._a(queue)
        self._add(WAIT_MOST, a=a, b=self._number("nr", nr), flags=flags)

    def wait_free(self, side: str, watermark: str) -> None:
        """
        Sleep until the free pages of this node are "below" or "above" its "min", "low" or "high" watermark.
        """
        self._add(
            WAIT_FREE,
            a=self._choice("watermark", watermark, WATERMARKS),
            how=self._choice("side", side, ("below", "above")),
        )

    def barrier(self, barrier: int, parties: int) -> None:
        """
        Sleep until so many CPUs are at the barrier.
        """
        self._add(BARRIER, a=self._number("barrier", barrier), b=self._number("parties", parties, 1))

    def lock(self, lock: int) -> None:
        """
        Take a lock of the program's own.
        """
        self._add(LOCK, a=self._number("lock", lock))

    def unlock(self, lock: int) -> None:
        """
        Release it.
        """
        self._add(UNLOCK, a=self._number("lock", lock))

    # The way through the program

    @contextlib.contextmanager
    def repeat(self, times: int) -> Iterator[None]:
        """
        Carry out the block so many times; 0 leaves it out.
        """
        self._number("times", times)
        if self._depth == NR_COUNTERS:
            raise ConfigError(f"program {self.name!r}: repeat() nests {NR_COUNTERS} deep at most")
        start, slot = len(self._rows), self._depth
        self._depth += 1
        self._open += 1
        yield
        self._depth -= 1
        self._open -= 1
        if times == 0:
            del self._rows[start:]
        elif times > 1 and len(self._rows) > start:
            self._add(REPEAT, a=start, b=times, c=slot)

    @contextlib.contextmanager
    def forever(self) -> Iterator[None]:
        """
        Carry out the block again and again; nothing after it is ever reached.
        """
        start = len(self._rows)
        self._open += 1
        yield
        self._open -= 1
        if not any(row["op"] in TAKES_TIME for row in self._rows[start:]):
            raise ConfigError(f"program {self.name!r}: a forever() in which no time can pass would never end")
        self._add(GOTO, a=start)

    @contextlib.contextmanager
    def chance(self, probability: float) -> Iterator[None]:
        """
        Carry out the block with that probability.
        """
        if not 0 <= probability <= 1:
            raise ConfigError(f"program {self.name!r}, probability={probability!r}: expected 0 to 1")
        at = len(self._rows)
        self._add(CHANCE, x=1.0 - probability)
        self._open += 1
        yield
        self._open -= 1
        if probability == 0:
            del self._rows[at:]
        else:
            self._rows[at]["a"] = len(self._rows)

    # What else a CPU can do

    def measure(self) -> None:
        """
        All statistics begin here.
        """
        self._add(MEASURE)

    def work(self, units: int = 1) -> None:
        """
        Count units of work done.
        """
        self._add(WORK, b=self._number("units", units))

    def reclaim(self, active: bool) -> None:
        """
        Reclaim is active in this CPU's node from here on, or no longer.
        """
        self._add(RECLAIM, how=int(active))

    def drain(self) -> None:
        """
        Drain the PCPs of all CPUs (B-100).
        """
        self._add(DRAIN)

    def tick(self) -> None:
        """
        A vmstat tick (B-101), now.
        """
        self._add(TICK)

    def replay(self) -> None:
        """
        Carry out this CPU's share of the recording.
        """
        self._add(REPLAY)

    def offline(self, cpu: int) -> None:
        """
        Take a CPU off-line (B-105).
        """
        self._add(OFFLINE, a=self._number("cpu", cpu))

    def online(self, cpu: int) -> None:
        """
        Bring it back.
        """
        self._add(ONLINE, a=self._number("cpu", cpu))

    def cma_alloc(self, queue: Queue, pages: int, *, align: int = 0, move_ns: float = 0) -> None:
        """
        ``pages`` of a CMA area, side by side, from a multiple of 2^align (CT-9). The range is one entry of the queue.

        move_ns: what moving a page out of the way takes. A failure leaves the queue as it is; the zone counts it.
        """
        a, flags = self._a(queue)
        self._add(
            CMA_ALLOC,
            a=a,
            b=self._number("pages", pages, 1),
            order=self._number("align", align, 0, LARGEST_ALIGN),
            flags=flags,
            ps=self._ps("move_ns", move_ns),
        )

    def cma_release(self, queue: Queue, pages: int, which: str = "newest") -> None:
        """
        Give back a range of so many pages; an empty queue does nothing. The queue has ranges of that size only.
        """
        a, flags = self._a(queue)
        self._add(
            CMA_RELEASE,
            a=a,
            b=self._number("pages", pages, 1),
            how=self._choice("which", which, WHICH),
            flags=flags,
        )

    def offline_memory(self, first: int, blocks: int, *, move_ns: float = 0) -> None:
        """
        Take pageblocks of the node's last zone off-line, from its whole block ``first`` on (CT-11).
        """
        self._add(
            OFFLINE_MEMORY,
            a=self._number("first", first),
            b=self._number("blocks", blocks, 1),
            ps=self._ps("move_ns", move_ns),
        )

    def online_memory(self, first: int, blocks: int) -> None:
        """
        Bring them back (CT-12). Blocks that are not off-line are left alone.
        """
        self._add(ONLINE_MEMORY, a=self._number("first", first), b=self._number("blocks", blocks, 1))

    def stop(self) -> None:
        """
        The run ends here, for all CPUs.
        """
        self._add(STOP)

    def instructions(self) -> np.ndarray:
        """
        The program as INSTRUCTION records, with an END behind it.
        """
        if self._open:
            raise ConfigError(f"program {self.name!r}: a repeat(), forever() or chance() is still open")
        records = np.zeros(len(self._rows) + 1, INSTRUCTION)
        for record, row in zip(records, self._rows, strict=False):
            for field, value in row.items():
                record[field] = value
        records[-1]["op"] = END
        return records


# What can be wrong with a program that somebody else wrote


def verify(
    program: np.ndarray, *, cpus: list[int], nr_cpus: int, nr_queues: int, nr_barriers: int = 0, nr_locks: int = 0
) -> None:
    """
    Refuse a program that the machine could not carry out; ConfigError names the instruction.

    cpus: those that run it, out of nr_cpus.
    """
    if program.dtype != INSTRUCTION or program.ndim != 1 or not len(program):
        raise ConfigError(f"a program is an array of INSTRUCTION records; seen: {program.dtype} of {program.shape}")
    last = len(program) - 1
    if program[last]["op"] not in (END, STOP, GOTO):
        raise ConfigError(f"instruction {last} ({_name(program[last])}): a program ends with end, stop or goto")
    for at, row in enumerate(program):
        wrong = _wrong(program, at, cpus, nr_cpus, nr_queues, nr_barriers, nr_locks)
        if wrong:
            raise ConfigError(f"instruction {at} ({_name(row)}): {wrong}")


def _name(row: np.void) -> str:
    return OP_NAMES[row["op"]] if row["op"] < len(OP_NAMES) else f"op {row['op']}"


def _wrong(
    program: np.ndarray, at: int, cpus: list[int], nr_cpus: int, nr_queues: int, nr_barriers: int, nr_locks: int
) -> str:
    """
    What is wrong with one instruction, in words.
    """
    row = program[at]
    op, how, a, b, c = (int(row[field]) for field in ("op", "how", "a", "b", "c"))
    if op >= len(OP_NAMES):
        return f"ops are 0 to {len(OP_NAMES) - 1}"
    if op in WITH_QUEUE_A and any(queue >= nr_queues for queue in _queues_of(row, "a", cpus)):
        return f"queues are 0 to {nr_queues - 1}"
    if op == MOVE and any(queue >= nr_queues for queue in _queues_of(row, "c", cpus)):
        return f"queues are 0 to {nr_queues - 1}"
    if op in WITH_TARGET and a >= len(program):
        return f"the program has instructions 0 to {len(program) - 1}"
    if op in (ALLOC, BULK, FREE, MOVE, BARRIER, REPEAT, *CONTIGUOUS) and b == 0:
        return "b counts from 1"
    if op in WITH_TIME and not 0 <= row["ps"] <= LARGEST_NS * PS_PER_NS:
        return f"ps is 0 to {LARGEST_NS * PS_PER_NS}"
    if (op in (ALLOC, FREE, THINK, MOVE, CMA_RELEASE) and how > RANDOM) or (op in (WAIT_FREE, RECLAIM) and how > 1):
        return f"how={how} means nothing"
    if op == ALLOC and row["order"] > MAX_PAGE_ORDER:
        return f"orders are 0 to {MAX_PAGE_ORDER}"
    if op == CMA_ALLOC and row["order"] > LARGEST_ALIGN:
        return f"alignments are orders 0 to {LARGEST_ALIGN}"
    if op == WAIT_FREE and a >= len(WATERMARKS):
        return "watermarks are 0 (min) to 2 (high)"
    if op == REPEAT and c >= NR_COUNTERS:
        return f"counters are 0 to {NR_COUNTERS - 1}"
    if op == REPEAT and (a >= at or any(r["op"] == REPEAT and r["c"] == c for r in program[a:at])):
        return "a repeat goes back, over no other repeat with its counter"
    if op == CHANCE and not 0 <= row["x"] <= 1:
        return "x is a probability, 0 to 1"
    if op == BARRIER and (a >= nr_barriers or b > nr_cpus):
        return f"barriers are 0 to {nr_barriers - 1}, for up to {nr_cpus} CPUs"
    if op in (LOCK, UNLOCK) and a >= nr_locks:
        return f"locks are 0 to {nr_locks - 1}"
    if op in (OFFLINE, ONLINE) and a >= nr_cpus:
        return f"CPUs are 0 to {nr_cpus - 1}"
    return ""


def _queues_of(row: np.void, field: str, cpus: list[int]) -> set[int]:
    """
    The queues that a field means, over the CPUs that run the program.
    """
    first, flags = int(row[field]), int(row["flags"])
    if flags & (A_PER_CPU if field == "a" else C_PER_CPU):
        return {first + cpu for cpu in cpus}
    if field == "a" and flags & A_PER_PAIR:
        return {first + cpu // 2 for cpu in cpus}
    return {first}


# Reading one


def show(program: np.ndarray) -> str:
    """
    The program as text, an instruction a line; what is repeated stands further in.
    """
    depth = np.zeros(len(program) + 1, int)
    for at, row in enumerate(program):
        if row["op"] in (REPEAT, GOTO) and row["a"] < at:
            depth[row["a"] : at] += 1
        elif row["op"] == CHANCE and row["a"] > at:
            depth[at + 1 : row["a"]] += 1
    width = len(str(len(program) - 1))
    return "".join(f"{at:{width}}  {'    ' * depth[at]}{_line(row)}\n" for at, row in enumerate(program))


def _line(row: np.void) -> str:
    """
    One instruction in words.
    """
    op, a, b, how = (int(row[field]) for field in ("op", "a", "b", "how"))
    queue = _queue_text(row, "a")
    which = WHICH[how] if how < len(WHICH) else f"how {how}"
    words = {
        ALLOC: f"alloc {b} of order {row['order']} -> {queue}  {gfp_text(int(row['gfp']))}",
        BULK: f"alloc {b} in bulk -> {queue}  {gfp_text(int(row['gfp']))}",
        FREE: f"free {which} {b} of {queue}",
        THINK: f"think {_time(row)} {SPREAD[how] if how < len(SPREAD) else how}",
        WAIT_LEAST: f"wait until {queue} has at least {b}",
        WAIT_MOST: f"wait until {queue} has at most {b}",
        WAIT_FREE: f"wait until free pages are {'above' if how else 'below'} {(*WATERMARKS, '?')[min(a, 3)]}",
        GOTO: f"goto {a}",
        REPEAT: f"{b} times in all, from {a}",
        CHANCE: f"with probability {row['x']:.4g} goto {a}",
        BARRIER: f"barrier {a} for {b} CPUs",
        LOCK: f"lock {a}",
        UNLOCK: f"unlock {a}",
        MOVE: f"move {which} {b} of {queue} -> {_queue_text(row, 'c')}",
        WORK: f"work {b}",
        RECLAIM: f"reclaim is {'active' if how else 'over'}",
        OFFLINE: f"CPU {a} goes off-line",
        ONLINE: f"CPU {a} comes on-line",
        CMA_ALLOC: f"cma_alloc {b} pages, aligned to order {row['order']} -> {queue}",
        CMA_RELEASE: f"cma_release {which} {b} pages of {queue}",
        OFFLINE_MEMORY: f"blocks {a} to {a + b - 1} go off-line",
        ONLINE_MEMORY: f"blocks {a} to {a + b - 1} come on-line",
    }.get(op, _name(row))
    return words + _costs_text(row)


def _costs_text(row: np.void) -> str:
    flags = int(row["flags"])
    parts = [name for bit, name in ((FAULT, "fault"), (ZERO, "zero"), (BATCH, "batch"), (IRQ, "irq")) if flags & bit]
    if row["op"] in (ALLOC, BULK, FREE) and row["ps"]:
        parts.append(f"{_time(row)} each")
    if row["op"] in (CMA_ALLOC, OFFLINE_MEMORY) and row["ps"]:
        parts.append(f"{_time(row)} for each page moved")
    return f"  [{', '.join(parts)}]" if parts else ""


def _time(row: np.void) -> str:
    return f"{int(row['ps']) / PS_PER_NS:g} ns"


def _queue_text(row: np.void, field: str) -> str:
    flags = int(row["flags"])
    per_cpu = flags & (A_PER_CPU if field == "a" else C_PER_CPU)
    per_pair = field == "a" and flags & A_PER_PAIR
    return f"queue {row[field]}" + (" + cpu" if per_cpu else " + cpu // 2" if per_pair else "")
