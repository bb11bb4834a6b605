"""
Operations are cut at locks (law L2, decision 0001): they can be suspended at each and resumed when granted.
"""

import pytest
from virtual import VirtualTime, every_schedule

from pcpbuddy import Zone
from pcpbuddy._core import Operation

POLICIES = ("mainline", "null", "posted", "fixed")


def zone_for(policy, cpus=2, **options):
    options = {"batch": 7, "high_min": 28, "high_max": 28, "stat_threshold": 0, "watermark": (0, 0, 0, 0)} | options
    return Zone(8 * 512, cpus=cpus, policy=policy, **options)


def steps(operation):
    out = []
    while (action := operation.step()) is not None:
        out.append(action)
    return out


def test_lock_actions_of_an_allocation():
    """
    B-61 to B-63: own PCP by trylock, the zone lock inside it for the refill; a second one needs only the PCP.
    """
    zone = zone_for("mainline")
    pcp, refill = [("try", ("pcp", 0))], [("lock", ("zone",)), ("unlock", ("zone",))]
    assert steps(Operation.alloc(zone)) == [*pcp, *refill, ("unlock", ("pcp", 0))]
    assert steps(Operation.alloc(zone)) == [*pcp, ("unlock", ("pcp", 0))]
    assert steps(Operation.alloc(zone, order=5)) == refill


def test_lock_actions_of_a_free_that_drains():
    """
    B-82: between the chunks of a drain the PCP lock is dropped and tried again; a failure ends the drain.
    """
    zone = zone_for("mainline", high_min=56, high_max=56)
    pfns = [zone.alloc(cpu=1) for _ in range(80)]
    for pfn in pfns[:55]:
        zone.free(pfn)
    assert zone.summary()["pcp"][0]["count"] == 55
    hold = [("lock", ("zone",)), ("unlock", ("zone",))]
    gap = [("unlock", ("pcp", 0)), ("try", ("pcp", 0))]
    before = zone.snapshot()
    whole = steps(Operation.free(zone, pfns[55]))
    assert whole == [("try", ("pcp", 0)), *([*hold, *gap] * 6), *hold, ("unlock", ("pcp", 0))]
    assert zone.summary()["pcp"][0]["count"] == 56 - 49
    zone.restore(before)
    operation = Operation.free(zone, pfns[55])
    assert [operation.step() for _ in range(4)] == [("try", ("pcp", 0)), *hold, gap[0]]
    assert operation.step() == gap[1]
    assert operation.step(False) is None
    assert zone.summary()["pcp"][0]["count"] == 56 - 7
    zone.check()


@pytest.mark.parametrize("suspend", [True, False])
def test_the_zone_lock_goes_by_virtual_arrival(suspend):
    """
    CPU 0 starts first but reaches the zone lock at 900 ns; CPU 1 starts later and reaches it at 850.

    So CPU 1 takes the first chunk. The shortcut, a whole operation at its start time, gives it to CPU 0.
    """
    zone = zone_for("mainline")
    machine = VirtualTime(lambda verb, lock: 900 if verb == "try" else 10, suspend)
    slow = Operation.alloc(zone, order=3, cpu=0)  # PCP section first: 900 ns
    fast = Operation.alloc(zone, order=4, cpu=1)  # straight to the zone lock
    machine.start(-10, 0, slow)
    machine.start(840, 1, fast)
    machine.run()
    assert zone.counters()["allocs"] == 2
    assert ((fast.pfn, slow.pfn) == (0, 16)) is suspend
    assert ((slow.pfn, fast.pfn) == (0, 16)) is not suspend
    zone.check()


def test_a_trylock_fails_exactly_while_the_lock_is_held():
    """
    CPU 1 frees to CPU 0, whose PCP is locked for a refill from 100 to 400 ns.
    """

    def freed(start_ns):
        zone = zone_for("fixed", high_min=1000, high_max=1000)
        pfn = zone.alloc(cpu=0)
        zone.drain(0)
        machine = VirtualTime(lambda verb, lock: 100)
        machine.start(0, 0, Operation.alloc(zone, cpu=0))
        machine.start(start_ns - 100, 1, Operation.free(zone, pfn, cpu=1))
        machine.run()
        zone.check()
        return zone.counters()["frees_failed_trylock"]

    assert [freed(ns) for ns in (99, 101, 399, 401)] == [0, 1, 1, 0]


def mixed_operations(policy, kinds):
    """
    Fresh operations on a zone in which CPU 0 owns a block that is spread over users and the zone.
    """

    def make():
        zone = zone_for(policy, cpus=3, high_min=600, high_max=600, batch=7)
        pfns = [zone.alloc(cpu=0) for _ in range(12)]
        for pfn in pfns[:4]:
            zone.free_direct(pfn, cpu=1)
        zone.drain(0)
        make.zone = zone
        made = {
            "alloc": lambda: Operation.alloc(zone, cpu=0),
            "foreign alloc": lambda: Operation.alloc(zone, cpu=1),
            "unmovable": lambda: Operation.alloc(zone, migratetype=0, cpu=1),
            "order 4": lambda: Operation.alloc(zone, order=4, cpu=2),
            "free": lambda: Operation.free(zone, pfns[5], cpu=0),
            "foreign free": lambda: Operation.free(zone, pfns[6], cpu=1),
            "free in irq": lambda: Operation.free(zone, pfns[7], cpu=2, irq=True),
            "drain": lambda: Operation.drain(zone, 0, cpu=2),
        }
        return [made[kind]() for kind in kinds]

    return make


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    "kinds",
    [
        ("alloc", "foreign free"),
        ("alloc", "drain", "foreign free"),
        ("foreign alloc", "drain", "free"),
        ("unmovable", "alloc", "free in irq"),
        ("order 4", "drain", "alloc"),
        ("foreign free", "free in irq", "drain"),
    ],
    ids=" + ".join,
)
def test_every_interleaving_is_sound(policy, kinds):
    """
    Whatever the order of lock grants: no deadlock, no page lost, every invariant holds at the end.
    """
    make = mixed_operations(policy, kinds)
    runs = 0
    for operations in every_schedule(make, limit=1500):
        zone = make.zone
        zone.check()
        allocated = zone.state()["allocated"]
        for kind, operation in zip(kinds, operations, strict=True):
            if "free" not in kind and kind != "drain":
                assert operation.pfn in allocated
        runs += 1
    assert runs >= 5


def test_owner_goes_offline_before_its_lock_is_had():
    """
    P-44: the target is looked at again under its lock; off-line, the free goes on as a local one.
    """
    zone = zone_for("fixed", cpus=2, high_min=1000, high_max=1000)
    pfn = zone.alloc(cpu=0)
    operation = Operation.free(zone, pfn, cpu=1)
    assert operation.step() == ("try", ("pcp", 0))
    zone.offline(0)
    assert steps(operation) == [("unlock", ("pcp", 0)), ("try", ("pcp", 1)), ("unlock", ("pcp", 1))]
    assert zone.state()["pcp"][1]["lists"] == {(0, 1): [pfn]}
    assert zone.state()["pcp"][1]["marked"] == []
    zone.check()
