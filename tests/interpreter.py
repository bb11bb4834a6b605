"""
A tiny machine for programs: it carries out loads without an allocator, to see that they make sense.

Entries of a queue are only (order, how many); free memory is a number. It knows nothing of lists, PCPs or costs.
"""

import collections
import heapq
import random

from pcpbuddy.workload import program as P

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
            part = min(nr, run[1]) if how != P.RANDOM else 1
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
        self.asleep = {}  # cpu: a function that says whether it may go on
        self.barriers = [[] for _ in range(load.nr_barriers)]
        self.locks = [collections.deque() for _ in range(load.nr_locks)]
        self.handles = {}
        self.at = [0 if load.stream is None else int(load.stream.start[cpu]) for cpu in range(load.cpus)]
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
            if self.measured_from is not None and (self.now > self.measured_from + limit_ns or self.steps > limit_steps):
                return self
            self.steps += 1
            assert self.measured_from is not None or self.steps < warm_up_steps, "it never begins"
            took = self.step(cpu)
            if took is not None:
                heapq.heappush(events, (self.now + took, cpu))
            for other in [other for other, ready in self.asleep.items() if ready()]:
                del self.asleep[other]
                heapq.heappush(events, (self.now, other))
        if not self.stopped and len(self.done) < self.load.cpus:
            asleep = sorted(self.asleep)
            raise Deadlock(f"CPUs {asleep[:4]}... sleep at instructions {[self.pc[cpu] for cpu in asleep[:4]]}")
        return self

    def row(self, cpu):
        return dict(
            zip(P.INSTRUCTION.names, self.programs[self.load.cpu_program[cpu]][self.pc[cpu]], strict=True)
        )

    def queue(self, row, field, cpu):
        per_cpu, per_pair = (P.A_PER_CPU, P.A_PER_PAIR) if field == "a" else (P.C_PER_CPU, 0)
        shift = cpu if row["flags"] & per_cpu else cpu // 2 if row["flags"] & per_pair else 0
        return self.queues[row[field] + shift]

    def sleep(self, cpu, ready):
        if ready():
            return 0
        self.slept += 1
        self.asleep[cpu] = ready
        return None

    def take(self, order, nr):
        """
        How many of the requests succeed: ordinary ones leave the min watermark.
        """
        got = max(0, min(nr, (self.free - self.watermarks[0]) >> order))
        self.allocs += got
        self.failed += got < nr
        self.free -= got << order
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
            entries = sum(nr for _, nr in taken)
            self.frees += entries
            self.cpus_that_free[cpu] += entries
            return entries * (FREE_NS + user_ns)
        if op == P.THINK:
            spread = (lambda: 1, lambda: self.random.expovariate(1), lambda: self.random.uniform(0, 2))[row["how"]]
            return user_ns * spread()
        if op == P.WAIT_LEAST:
            queue = self.queue(row, "a", cpu)
            return self.sleep(cpu, lambda: queue.nr >= b)
        if op == P.WAIT_MOST:
            queue = self.queue(row, "a", cpu)
            return self.sleep(cpu, lambda: queue.nr <= b)
        if op == P.WAIT_FREE:
            mark = self.watermarks[a]
            return self.sleep(cpu, (lambda: self.free > mark) if row["how"] else (lambda: self.free < mark))
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
            return self.sleep(cpu, lambda: self.locks[a][0] == cpu)
        elif op == P.UNLOCK:
            assert self.locks[a].popleft() == cpu
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
        if len(waiting) < parties:
            # All that wait are let go at once; the list of the next round is another one.
            return self.sleep(cpu, lambda: len(waiting) >= parties)
        self.barriers[barrier] = []
        return 0

    def replay(self, cpu):
        """
        One request of the CPU's share; the instruction is carried out again until there is none left.
        """
        from pcpbuddy import requests as R

        stream = self.load.stream
        at = self.at[cpu]
        if at == stream.start[cpu + 1]:
            return 0
        request = stream.requests[at]
        handles = range(int(request["pfn"]), int(request["pfn"]) + (1 << int(request["order"])))
        self.pc[cpu] -= 1
        if request["op"] == R.FREE:
            known = [handle < len(stream.live) or handle in self.handles for handle in handles]
            if not all(known):
                return self.sleep(cpu, lambda: all(h in self.handles for h in handles))
            for handle in handles:
                assert self.handles.get(handle) != "freed"
                self.handles[handle] = "freed"
            self.frees += len(handles)
        elif request["op"] in (R.ALLOC, R.BULK, R.BULK_MORE):
            for handle in handles:
                assert handle not in self.handles
                assert len(stream.live) <= handle < stream.nr_handles
                self.handles[handle] = "allocated"
            self.allocs += len(handles)
        self.at[cpu] += 1
        gap = int(stream.think_ps[at + 1]) / 1000 if at + 1 < stream.start[cpu + 1] else 0
        return gap
