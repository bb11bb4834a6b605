"""
A whole CMA area taken back again and again (contiguous.md), and what the machine interleaves.

The ordinary run is short. With PCPBUDDY_LONG=1 and -m long: a thousand takings in a row under every policy, and more
than a million operations in the machine under each.
"""

import random

import pytest
from simulated import Machine, Replayed, costs
from test_machine_state import MANY, whole

from pcpbuddy import OutOfPages, Zone
from pcpbuddy.config import PROFILES
from pcpbuddy.names import CMA, GFP_HIGHUSER_MOVABLE, GFP_KERNEL
from pcpbuddy.workload.program import Program, Queues

BLOCK = 512
CPUS = 4


class Tenant:
    """
    A zone of 24 MiB, a third of it a CMA area, and all the pages that somebody holds in it: pfn -> (order, stamp).

    The stamp stands for the contents: it travels with them, and nothing else may change it.
    """

    def __init__(self, policy, seed):
        self.zone = Zone(12 * BLOCK, cpus=CPUS, policy=policy, cma_pages=4 * BLOCK)
        self.area = self.zone.cma_areas()[0]
        self.random = random.Random(f"{policy} {seed}")
        self.held = {}
        self.stamps = {}
        self.online = set(range(CPUS))
        self.next_stamp = 0

    def cpu(self):
        return self.random.choice(sorted(self.online))

    def alloc(self, order=0, mt=1):
        pfn = self.zone.alloc(order, mt, self.cpu())
        assert pfn not in self.held
        assert mt == 1 or pfn < self.area[0], "a CMA page for an unmovable request"
        if mt == 1:
            self.zone.set_movable(pfn)
        self.held[pfn] = order, self.next_stamp
        self.stamps[self.next_stamp] = order
        self.next_stamp += 1

    def free(self, pfn):
        order, stamp = self.held.pop(pfn)
        assert self.stamps.pop(stamp) == order
        self.zone.free(pfn, self.cpu(), order)

    def move(self, old, new, order):
        assert self.held[old][0] == order
        assert new not in self.held
        self.held[new] = self.held.pop(old)

    def fill(self):
        """
        Movable pages of some orders from all CPUs, until nothing is left; then room is made outside the area.
        """
        try:
            while True:
                self.alloc(self.random.choice((0, 0, 0, 0, 1, 2, 3)))
        except OutOfPages:
            pass
        inside = self.pages_inside()
        runs = self.random.sample(range(0, self.area[0], 64), self.area[0] // 64)
        room = 0
        while room < inside + 700:  # in runs, so that orders 1 to 3 find room too
            first = runs.pop()
            for pfn in [pfn for pfn in range(first, first + 64) if pfn in self.held]:
                room += 1 << self.held[pfn][0]
                self.free(pfn)
        return inside

    def pages_inside(self):
        return sum(1 << order for pfn, (order, _) in self.held.items() if pfn >= self.area[0])

    def in_between(self):
        """
        Random frees and allocations, and a CPU that goes or comes.
        """
        for pfn in self.random.sample(sorted(self.held), min(len(self.held), 200)):
            self.free(pfn)
        for _ in range(50):
            try:
                self.alloc(self.random.choice((0, 0, 1, 3)), 1)
            except OutOfPages:
                break
        if self.random.random() < 0.5 and len(self.online) > 1:
            self.online.remove(cpu := self.cpu())
            self.zone.offline(cpu)
        elif len(self.online) < CPUS:
            cpu = self.random.choice(sorted(set(range(CPUS)) - self.online))
            self.zone.online(cpu)
            self.online.add(cpu)

    def sound(self):
        """
        Every invariant; every stamp is with one page, which is an allocation of its order; no block has drifted.
        """
        self.zone.check()
        state = self.zone.state()
        allocated = state["allocated"]
        assert sorted(stamp for _, stamp in self.held.values()) == sorted(self.stamps)
        assert all(allocated[pfn][0] == order for pfn, (order, _) in self.held.items())
        claimed = {pfn for start, pages in state["cma_claimed"] for pfn in range(start, start + pages)}
        assert set(allocated) == set(self.held) | claimed
        types = [block[0] for block in state["blocks"]]
        assert [nr for nr, mt in enumerate(types) if mt == CMA] == [8, 9, 10, 11]
        assert state["nr_isolate_pageblock"] == 0


@pytest.mark.parametrize("rounds", [10, pytest.param(1000, marks=MANY)])
@pytest.mark.parametrize("policy", PROFILES)
def test_the_whole_area_again_and_again(policy, rounds):
    """
    Filled by all CPUs with movable pages, with room for the migrants outside; every content arrives.
    """
    tenant = Tenant(policy, 1)
    area, pages = tenant.area
    for _ in range(rounds):
        assert tenant.fill() > 0.9 * pages
        result = tenant.zone.cma_alloc(pages, move=tenant.move, cpu=tenant.cpu())
        assert result.pfn == area, result
        tenant.sound()
        assert not set(range(area, area + pages)) & set(tenant.held)
        tenant.in_between()
        tenant.sound()
        tenant.zone.cma_release(area, pages, tenant.cpu())
        tenant.in_between()
        tenant.sound()
    assert tenant.zone.counters()["contig_ok"] == rounds
    assert tenant.zone.counters()["pages_migrated"] > 0.9 * pages * rounds


# -- the machine chooses what meets what -------------------------------------------------------------------------------


def programs(cpus, rounds):
    """
    CMA buffers of two sizes from two CPUs at once, CPUs and memory that go and come, pages of all types and orders.
    """
    numbers = Queues(cpus)
    own, shared, small, large = numbers.per_cpu(), numbers.shared(), numbers.shared(), numbers.shared()

    def churn(p):
        p.alloc(own, 60, gfp=GFP_HIGHUSER_MOVABLE, each_ns=20)
        p.alloc(shared, 9, gfp=GFP_KERNEL)
        p.free(own, 25, "random", each_ns=10)
        p.alloc(own, 3, order=3, gfp=GFP_HIGHUSER_MOVABLE)
        p.move(own, shared, 30, "random")
        p.free(shared, 38, "oldest", batch=True)
        p.free(own, 12, "random", irq=True)

    def takes(queue, pages, align):
        p = Program("takes")
        with p.repeat(rounds):
            p.cma_alloc(queue, pages, align=align, move_ns=150)
            churn(p)
            p.cma_release(queue, pages)
        return p

    def hotplug():
        p = Program("hotplug")
        with p.repeat(rounds):
            p.offline(cpus - 1)
            churn(p)
            p.online(cpus - 1)
            p.offline_memory(2, 1, move_ns=100)
            churn(p)
            p.online_memory(2, 1)
        return p

    def users():
        p = Program("uses")
        with p.repeat(2 * rounds):
            churn(p)
            p.drain()
        return p

    all_of_them = [takes(small, 100, 2), takes(large, 900, 9), hotplug(), *(users() for _ in range(cpus - 3))]
    return all_of_them, numbers.nr


def simulate(policy, seed, rounds, *, log):
    cpus = 6
    texts, nr_queues = programs(cpus, rounds)
    machine = Machine(
        texts,
        zones=lambda: [Zone(10 * BLOCK, cpus=cpus, policy=policy, cma_pages=6 * BLOCK)],
        model=costs(lock=20, list_op=15, entry=8, alloc=40, free=40, handover_near=80, wake=50, scan=1),
        nr_queues=nr_queues,
        tick_ns=30_000,
        sample_ns=20_000,
        seed=seed,
        log=log,
    )
    return whole(machine.run().check())


@pytest.mark.parametrize("policy", PROFILES)
def test_the_machine_interleaves(policy):
    """
    No page lost, none handed out twice, no CMA page for an unmovable request, no CMA block of another type: check() and
    whole(). And all of it the same, step by step, on a plain zone.
    """
    machine = simulate(policy, 1, 12, log=True)
    assert machine.result["calls"] > 3000
    counters = machine.zone.counters()
    assert counters["contig_ok"] > 20
    assert counters["pages_migrated"] > 0
    assert machine.zone.census()["blocks_by_type"][CMA] == 6
    Replayed(machine).carry_out().same()


@pytest.mark.parametrize("policy", [pytest.param(policy, marks=MANY) for policy in PROFILES])
def test_the_machine_interleaves_for_long(policy):
    """
    More than a million calls, over seeds.
    """
    calls = 0
    for seed in range(200):
        machine = simulate(policy, seed, 60, log=False)
        calls += int(machine.result["calls"])
        assert machine.zone.census()["blocks_by_type"][CMA] == 6
        if calls > 1_100_000:
            return
    raise AssertionError(f"{calls} calls only")
