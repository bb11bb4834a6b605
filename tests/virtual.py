"""
Two drivers over ``_core.Operation`` and ``_core.Call`` that suspend at every lock, for tests.

``Schedule`` runs operations in an order that the test chooses, step by step; ``VirtualTime`` lets virtual
time choose: locks are granted in the order of virtual arrival. Both assert I-23 on the way.
"""

import heapq
from collections import deque


class Locks:
    """
    Who holds what. I-23: never two PCP locks, never a PCP lock taken under the zone lock.
    """

    def __init__(self):
        self.holder = {}

    def held_by(self, who):
        return [lock for lock, holder in self.holder.items() if holder == who]

    def acquire(self, who, lock):
        assert lock not in self.holder
        held = self.held_by(who)
        if lock[0] == "pcp":
            assert not held, f"takes {lock} while it holds {held}"
        else:
            assert not [other for other in held if other[0] == "zone"]
        self.holder[lock] = who

    def release(self, who, lock):
        assert self.holder.pop(lock) == who


class Schedule:
    """
    Operations under a schedule: ``step(k)`` carries operation k over its pending lock action to the next.

    moves(old_pfn, new_pfn, order) answers a contiguous allocation that wants to move a page.
    """

    def __init__(self, operations, moves=lambda old, new, order: True):
        self.operations = operations
        self.moves = moves
        self.locks = Locks()
        self.pending = [operation.step() for operation in operations]

    def runnable(self):
        """
        Numbers of the operations that are neither done nor waiting for a lock that another holds.
        """
        return [
            k
            for k, action in enumerate(self.pending)
            if action is not None and not (action[0] == "lock" and action[1] in self.locks.holder)
        ]

    def step(self, k):
        verb, lock = self.pending[k]
        got = True
        if verb == "move":
            got = self.moves(*lock)
        elif verb == "unlock":
            self.locks.release(k, lock)
        elif verb == "try" and lock in self.locks.holder:
            got = False
        elif verb != "next":
            self.locks.acquire(k, lock)
        self.pending[k] = self.operations[k].step(got)
        if self.pending[k] is None:
            assert not self.locks.held_by(k), f"ended with {self.locks.held_by(k)}"


def every_schedule(make_operations, limit):
    """
    Run all interleavings of the operations that ``make_operations()`` makes anew each time, depth first.

    Yields after each complete run; stops after ``limit`` runs.
    """
    prefix = []
    for _ in range(limit):
        schedule = Schedule(make_operations())
        widths = []
        depth = 0
        while runnable := schedule.runnable():
            if depth == len(prefix):
                prefix.append(0)
            widths.append(len(runnable))
            schedule.step(runnable[prefix[depth]])
            depth += 1
        assert all(action is None for action in schedule.pending), "deadlock"
        yield schedule.operations
        del prefix[depth:]
        while prefix and prefix[-1] + 1 >= widths[len(prefix) - 1]:
            prefix.pop()
        if not prefix:
            return
        prefix[-1] += 1


class VirtualTime:
    """
    Operations in virtual time. ``cost_ns(verb, lock)`` is what an operation does after that lock action.

    With ``suspend=False`` it takes the tempting shortcut: a whole operation runs at its start time.
    """

    def __init__(self, cost_ns, suspend=True):
        self.cost_ns = cost_ns
        self.suspend = suspend
        self.locks = Locks()
        self.waiting = {}
        self.events = []
        self.done = {}
        self.serial = 0

    def start(self, time_ns, who, operation):
        self._at(time_ns, who, operation, None, True)

    def run(self):
        """
        Until nothing is left to do. Returns {who: virtual end time in ns}.
        """
        while self.events:
            time_ns, _, who, operation, action, got = heapq.heappop(self.events)
            self._carry(time_ns, who, operation, action, got)
        return self.done

    def _at(self, time_ns, who, operation, action, got):
        self.serial += 1
        heapq.heappush(self.events, (time_ns, self.serial, who, operation, action, got))

    def _carry(self, time_ns, who, operation, action, got):
        if action is not None:
            verb, lock = action
            if verb == "lock" and lock in self.locks.holder:
                self.waiting.setdefault(lock, deque()).append((who, operation, action))
                return
            if verb == "unlock":
                self.locks.release(who, lock)
                if self.waiting.get(lock):
                    self._at(time_ns, *self.waiting[lock].popleft(), True)
            elif verb == "try" and lock in self.locks.holder:
                got = False
            else:
                self.locks.acquire(who, lock)
        after = operation.step(got)
        if after is None:
            self.done[who] = time_ns
            return
        time_ns += self.cost_ns(*(action or (None, None)))
        if self.suspend:
            self._at(time_ns, who, operation, after, True)
        else:
            self._carry(time_ns, who, operation, after, True)
