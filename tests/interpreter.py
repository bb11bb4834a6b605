"""
A tiny machine for programs: it carries out loads without an allocator, to see that they make sense.

Entries of a queue are only (order, how many); free memory is a number. It knows nothing of lists, PCPs or costs.
"""

import collections
import heapq
import random

from pcpbuddy import requests as R
from pcpbuddy.workload import program as P

BLOCK_PAGES = 512  # pages of a pageblock
ALLOC_NS, FREE_NS, ZERO_NS, FAULT_NS = 100, 60, 100, 500
PAGE_SIZE = 4096
FOREVER = float("inf")


class Deadlock(Exception):
    """
    Nobody can go on, and not all are done.
    """


class Entries:
    """
    A queue: runs of entries of one order, oldest first.
    """

    def __init__(self):
        self.runs = collections.deque()
        self.nr = 0
        self.longest = 0

    def push(self, order, nr):
        if nr:
            if self.runs and self.runs[-1][0] == order:
                self.runs[-1][1] += nr
            else:
                self.runs.append([order, nr])
            self.nr += nr
            self.longest = max(self.longest, self.nr)

    def pop(self, nr, how, choose):
        """
        Up to ``nr`` entries as [(order, how many)].
        """
        taken = []
        while nr and self.runs:
            at = {P.NEWEST: -1, P.OLDEST: 0}.get(how, choose.randrange(len(self.runs)))
            run = self.runs[at]
            part = min(nr, run[1]) if how != P.RANDOM or len(self.runs) == 1 else 1
            run[1] -= part
            if not run[1]:
                del self.runs[at]
            taken.append((run[0], part))
            nr -= part
            self.nr -= part
        return taken


class Interpreter:
    """
    Runs a load to the end, until ``limit_ns`` after MEASURE, or for so many instructions after it.
    """

    def __init__(self, load, seed=1):
        self.load = load
        self.programs = [[tuple(row) for row in program.tolist()] for program in load.programs]
        self.interrupt = None if load.irq_program is None else [tuple(row) for row in load.irq_program.tolist()]
        self.random = random.Random(seed)
        self.queues = [Entries() for _ in range(load.nr_queues)]
        self.total = load.memory_bytes // PAGE_SIZE
        self.free = self.total
        self.least_free = None
        self.watermarks = [self.total * share // 1000 for share in (15, 20, 25)]
        self.pc = [0] * load.cpus
        self.counters = [[0] * P.NR_COUNTERS for _ in range(load.cpus)]
        self.asleep = collections.defaultdict(dict)  # what they wait for: {cpu: whether it may go on, a function}
        self.changed = set()  # what others may wait for
        self.barriers = [[] for _ in range(load.nr_barriers)]
        self.locks = [collections.deque() for _ in range(load.nr_locks)]
        self.handles = {}
        if load.stream is not None:
            self.first = load.stream.first.tolist()
            self.at = self.first[:-1]
            self.requests = load.stream.requests[["op", "pfn", "order"]].tolist()
            self.gaps_ns = (load.stream.think_ps / 1000).tolist()
            self.live = (load.stream.handles > 0).tolist()
        self.now = 0
        self.measured_from = None
        self.measures = 0
        self.done = set()
        self.stopped = False
        self.work = [0] * load.cpus
        self.allocs = self.failed = self.frees = self.steps = self.slept = 0
        self.cpus_that_free = collections.Counter()

    def run(self, limit_ns=FOREVER, limit_steps=FOREVER, warm_up_steps=1_000_000):
        events = [(0.0, cpu) for cpu in range(self.load.cpus)]
        while events and not self.stopped:
            self.now, cpu = heapq.heappop(events)
            if self.measured_from is not None and (
                self.now > self.measured_from + limit_ns or self.steps > limit_steps
            ):
                return self
            self.steps += 1
            assert self.measured_from is not None or self.steps < warm_up_steps, "it never begins"
            took = self.step(cpu)
            if took is not None:
                heapq.heappush(events, (self.now + took, cpu))
            for what in self.changed & self.asleep.keys():
                for other in [other for other, ready in self.asleep[what].items() if ready()]:
                    del self.asleep[what][other]
                    heapq.heappush(events, (self.now, other))
            self.changed.clear()
        if not self.stopped and len(self.done) < self.load.cpus:
            asleep = sorted(cpu for waiting in self.asleep.values() for cpu in waiting)
            raise Deadlock(f"CPUs {asleep[:4]}... sleep at instructions {[self.pc[cpu] for cpu in asleep[:4]]}")
        return self

    def row(self, cpu):
        return dict(zip(P.INSTRUCTION.names, self.programs[self.load.cpu_program[cpu]][self.pc[cpu]], strict=True))

    def number(self, row, field, cpu):
        per_cpu, per_pair = (P.A_PER_CPU, P.A_PER_PAIR) if field == "a" else (P.C_PER_CPU, 0)
        shift = cpu if row["flags"] & per_cpu else cpu // 2 if row["flags"] & per_pair else 0
        return row[field] + shift

    def queue(self, row, field, cpu):
        number = self.number(row, field, cpu)
        self.changed.add(number)
        return self.queues[number]

    def sleep(self, cpu, what, ready):
        if ready():
            return 0
        self.slept += 1
        self.asleep[what][cpu] = ready
        return None

    def take(self, order, nr):
        """
        How many of the requests succeed: ordinary ones leave the min watermark.
        """
        got = max(0, min(nr, (self.free - self.watermarks[0]) >> order))
        self.allocs += got
        self.failed += got < nr
        self.free -= got << order
        self.changed.add("free")
        if self.measured_from is not None:
            self.least_free = min(self.free, self.least_free)
        return got

    def step(self, cpu):
        """
        One instruction; the time it takes, or None if the CPU sleeps or is done.
        """
        row = self.row(cpu)
        op, a, b = row["op"], row["a"], row["b"]
        self.pc[cpu] += 1
        user_ns = row["ps"] / 1000
        if op == P.END:
            self.done.add(cpu)
            return None
        if op in (P.ALLOC, P.BULK):
            got = self.take(row["order"], b)
            self.queue(row, "a", cpu).push(row["order"], got)
            each = ALLOC_NS + FAULT_NS * bool(row["flags"] & P.FAULT) + user_ns
            each += (ZERO_NS << row["order"]) * bool(row["flags"] & P.ZERO)
            return ALLOC_NS + got * each
        if op == P.FREE:
            taken = self.queue(row, "a", cpu).pop(b, row["how"], self.random)
            self.free += sum(nr << order for order, nr in taken)
            self.changed.add("free")
            entries = sum(nr for _, nr in taken)
            self.frees += entries
            self.cpus_that_free[cpu] += entries
            return entries * (FREE_NS + user_ns)
        if op == P.CMA_ALLOC:
            self.free -= b
            self.queue(row, "a", cpu).push(0, 1)  # a range is one entry
            return b * user_ns
        if op == P.CMA_RELEASE:
            self.free += b * len(self.queue(row, "a", cpu).pop(1, row["how"], self.random))
            return b * FREE_NS
        if op in (P.OFFLINE_MEMORY, P.ONLINE_MEMORY):
            pages = BLOCK_PAGES * b
            self.free += pages if op == P.ONLINE_MEMORY else -pages
            return pages * user_ns
        if op == P.THINK:
            spread = (lambda: 1, lambda: self.random.expovariate(1), lambda: self.random.uniform(0, 2))[row["how"]]
            return user_ns * spread()
        if op == P.WAIT_LEAST:
            queue = self.queue(row, "a", cpu)
            return self.sleep(cpu, self.number(row, "a", cpu), lambda: queue.nr >= b)
        if op == P.WAIT_MOST:
            queue = self.queue(row, "a", cpu)
            return self.sleep(cpu, self.number(row, "a", cpu), lambda: queue.nr <= b)
        if op == P.WAIT_FREE:
            mark = self.watermarks[a]
            return self.sleep(cpu, "free", (lambda: self.free > mark) if row["how"] else (lambda: self.free < mark))
        if op == P.GOTO:
            self.pc[cpu] = a
        elif op == P.REPEAT:
            counters = self.counters[cpu]
            counters[row["c"]] += 1
            if counters[row["c"]] < b:
                self.pc[cpu] = a
            else:
                counters[row["c"]] = 0
        elif op == P.CHANCE:
            if self.random.random() < row["x"]:
                self.pc[cpu] = a
        elif op == P.BARRIER:
            return self.barrier(cpu, a, b)
        elif op == P.LOCK:
            self.locks[a].append(cpu)
            return self.sleep(cpu, ("lock", a), lambda: self.locks[a][0] == cpu)
        elif op == P.UNLOCK:
            assert self.locks[a].popleft() == cpu
            self.changed.add(("lock", a))
        elif op == P.MOVE:
            to = self.queue(row, "c", cpu)
            for order, nr in self.queue(row, "a", cpu).pop(b, row["how"], self.random):
                to.push(order, nr)
        elif op == P.MEASURE:
            self.measured_from = self.now
            self.steps = 0
            self.measures += 1
            self.least_free = self.free
            self.allocs = self.frees = self.failed = 0
            self.cpus_that_free.clear()
            self.work = [0] * self.load.cpus
        elif op == P.WORK:
            self.work[cpu] += b
        elif op == P.REPLAY:
            return self.replay(cpu)
        elif op == P.STOP:
            self.stopped = True
            return None
        else:
            assert op in (P.RECLAIM, P.DRAIN, P.TICK, P.OFFLINE, P.ONLINE)
        return 0

    def barrier(self, cpu, barrier, parties):
        waiting = self.barriers[barrier]
        waiting.append(cpu)
        self.changed.add(("barrier", barrier))
        if len(waiting) < parties:
            # All that wait are let go at once; the list of the next round is another one.
            return self.sleep(cpu, ("barrier", barrier), lambda: len(waiting) >= parties)
        self.barriers[barrier] = []
        return 0

    def replay(self, cpu):
        """
        One request of the CPU's share; the instruction is carried out again until there is none left.
        """
        at = self.at[cpu]
        if at == self.first[cpu + 1]:
            return 0
        op, handle, order = self.requests[at]
        handles = range(handle, handle + (1 << order))
        self.pc[cpu] -= 1
        if op == R.FREE:
            if not all(self.live[h] or h in self.handles for h in handles):
                return self.sleep(cpu, "handle", lambda: all(h in self.handles for h in handles))
            for h in handles:
                assert self.handles.get(h) != "freed"
                self.handles[h] = "freed"
            self.frees += len(handles)
        elif op in (R.ALLOC, R.BULK, R.BULK_MORE):
            for h in handles:
                assert h not in self.handles
                assert not self.live[h]
                self.handles[h] = "allocated"
            self.allocs += len(handles)
            self.changed.add("handle")
        self.at[cpu] += 1
        return self.gaps_ns[at + 1] if at + 1 < self.first[cpu + 1] else 0
