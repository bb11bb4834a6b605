"""
Contiguous allocation against what other CPUs do meanwhile (contiguous.md, rfc.md T7, P-13, P-46b, P-86).

Two records, each carried lock by lock: after each step of the one the other begins, and stops after each of its own,
while the first goes on; so a free, an allocation, an off-lining stands at its suspension points at those of the
isolation, drain, migration, test and capture: at every pair of them in the long run, at up to 60 times 12 otherwise.
"""

import os

import pytest
from virtual import Schedule, every_schedule

from pcpbuddy import Node, Zone
from pcpbuddy._core import Call
from pcpbuddy._core.core import Contig
from pcpbuddy.config import PROFILES
from pcpbuddy.contig import CONTIG_REASONS

LONG = bool(os.environ.get("PCPBUDDY_LONG"))
MANY = [pytest.mark.long, pytest.mark.skipif(not LONG, reason="takes long; set PCPBUDDY_LONG=1")]
BLOCK = 512
MOVABLE = 0x100CCA
ROOMY = {"batch": 7, "high_min": 1200, "high_max": 1200, "stat_threshold": 0, "watermark": (0, 0, 0, 0)}
# What a page that is in somebody's hands may be found as; "unmovable" if it was handed out a moment ago.
BUSY_LATER = ("pcp", "owned", "remote", "pinned", "unmovable")


class Scene:
    """
    A zone of six blocks, the last four CMA or none; three CPUs that hold pages of the range, and some in their lists.

    Who takes the first page of a type owns a block, where the policy has owners. ``held``: pfn -> a stamp that moves
    with the contents.
    """

    def __init__(self, policy, cma):
        self.zone = Zone(6 * BLOCK, cpus=3, policy=policy, cma_pages=4 * BLOCK if cma else 0, **ROOMY)
        self.node = Node([self.zone])
        self.held = {}
        self.nr_cma = 4 if cma else 0
        for cpu in (2, 1, 2, 0):
            for _ in range(20):
                pfn = self.zone.alloc(cpu=cpu)
                self.zone.set_movable(pfn)
                self.held[pfn] = len(self.held)
        for nr, pfn in enumerate(sorted(self.held)):
            if nr % 3 == 0:
                del self.held[pfn]
                self.zone.free(pfn, cpu=nr % 2)  # to its owner, or over an outbox or a remote list
        self.pages = self.zone.pages
        self.before = dict(self.held)

    def block(self, cma):
        """
        The block that has most of the pages: the range.
        """
        firsts = range(2 * BLOCK if cma else 0, 6 * BLOCK, BLOCK)
        return max(firsts, key=lambda first: sum(first <= pfn < first + BLOCK for pfn in self.held))

    def moves(self, old, new, order):
        """
        A page that no call has in its hands goes where it is told to.
        """
        assert order == 0
        if old not in self.held:
            return False
        self.held[new] = self.held.pop(old)
        return True

    def stamps(self):
        return sorted(self.held.values())

    def give_all_back(self):
        """
        Everything that is held goes back, all lists are drained: the zone has all its pages, in whole blocks again.
        """
        for pfn in list(self.held):
            self.zone.free(pfn, cpu=0)
        self.zone.drain()
        self.zone.check()
        for cpu in range(3):
            if self.zone.summary()["pcp"][cpu]["online"]:
                self.zone.fold(cpu)
        free = sum(nr << order for order, nr in enumerate(self.zone.census()["nr_free"].sum(1).tolist()))
        assert free == self.pages
        assert self.zone.census()["blocks_by_type"][4] == self.nr_cma


def contig_of(scene, cma, first):
    if cma:
        return Contig.alloc(scene.node, first, first + BLOCK, cma=True, cpu=0)
    return Contig.alloc(scene.node, first + 3, first + BLOCK - 5, cpu=0)


def free_one(scene, first, cpu=1):
    """
    One page of the range is on its way back: in the call's hands from now on.
    """
    pfn = next(pfn for pfn in sorted(scene.held) if first + 3 <= pfn < first + BLOCK - 5)
    del scene.held[pfn]
    return Call.free(scene.node, pfn, cpu)


def free_batch(scene, first):
    pfns = [pfn for pfn in sorted(scene.held) if first <= pfn < first + BLOCK][1:8:2]
    for pfn in pfns:
        del scene.held[pfn]
    return Call.free_batch(scene.node, pfns, 2)


OTHERS = {
    "free": free_one,
    "free by the owner": lambda scene, first: free_one(scene, first, 2),
    "batch": free_batch,
    "alloc": lambda scene, first: Call.alloc(scene.node, 0, MOVABLE, 1),
    "owner off-line": lambda scene, first: Call.offline(scene.node, 2, 1),
    "drain": lambda scene, first: Call.drain(scene.node, 1),
    "tick": lambda scene, first: Call.tick(scene.node, 2),
}


def run_to(schedule, k, steps):
    """
    Operation k so many steps on, while it can go. Returns whether it came that far.
    """
    for _ in range(steps):
        if k not in schedule.runnable():
            return False
        schedule.step(k)
    return True


def finish(schedule):
    while runnable := schedule.runnable():
        schedule.step(runnable[0])
    assert schedule.pending == [None] * len(schedule.pending), "deadlock"


def one_order(policy, cma, make_other, begun, steps):
    """
    The contiguous allocation so far, the other call so far, then both to their ends. Returns (result, so far?).
    """
    scene = Scene(policy, cma)
    first = scene.block(cma)
    contig = contig_of(scene, cma, first)
    other = make_other(scene, first)
    stamps = scene.stamps()
    schedule = Schedule([contig, other], scene.moves)
    reached = run_to(schedule, 0, begun) and run_to(schedule, 1, steps)
    finish(schedule)
    result = contig.result
    scene.zone.check()
    assert scene.stamps() == stamps
    if result.pfn is not None:
        taken = range(first, first + BLOCK) if cma else range(first + 3, first + BLOCK - 5)
        assert not set(taken) & set(scene.held)
        scene.zone.free_contig(taken[0], len(taken))
    else:
        assert result.reason in BUSY_LATER, result
        assert first <= result.page < first + BLOCK
    assert scene.zone.state()["nr_isolate_pageblock"] == 0
    for pfn in getattr(other, "pfns", []):
        scene.held[pfn] = None
    scene.give_all_back()
    return result, reached


def lengths(policy, cma, make_other):
    """
    How many steps each of the two takes when nothing is in its way.
    """
    counts = []
    for make in (lambda scene, first: contig_of(scene, cma, first), make_other):
        scene = Scene(policy, cma)
        schedule = Schedule([make(scene, scene.block(cma))], scene.moves)
        steps = 0
        while schedule.runnable():
            schedule.step(0)
            steps += 1
        counts.append(steps)
    return counts


@pytest.mark.parametrize("cma", [False, True], ids=["movable", "CMA"])
@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("policy", ["mainline", "posted", "fixed", "llist", "handover", "tuned"])
@pytest.mark.parametrize("points", [(60, 12), pytest.param((10**6, 10**6), marks=MANY)], ids=["some", "every"])
def test_suspension_points(points, policy, other, cma):
    """
    Nothing is lost, doubled or left isolated; the range is had, or what kept it is said.
    """
    of_contig, of_other = lengths(policy, cma, OTHERS[other])
    assert of_contig > 20
    outcomes = set()
    for begun in range(0, of_contig + 1, of_contig // points[0] + 1):
        for steps in range(0, of_other + 2, of_other // points[1] + 1):
            result, _ = one_order(policy, cma, OTHERS[other], begun, steps)
            outcomes.add(result.reason)
    assert "" in outcomes
    assert outcomes <= {"", *BUSY_LATER} <= set(CONTIG_REASONS)


@pytest.mark.parametrize("policy", ["mainline", "fixed", "handover", "tuned"])
def test_all_schedules_of_a_free_and_an_isolation(policy):
    """
    B-110 alone against one free, in all orders: the page ends on the isolate lists or in a list from where a drain
    brings it there (B-113).
    """
    ran = 0

    def make():
        nonlocal scene, pfn
        scene = Scene(policy, False)
        first = scene.block(False)
        pfn = next(pfn for pfn in scene.held if first <= pfn < first + BLOCK)
        del scene.held[pfn]
        return [Call.isolate(scene.node, first, check=False, cpu=0), Call.free(scene.node, pfn, 1)]

    scene = pfn = None
    for isolation, _ in every_schedule(make, 5000):
        ran += 1
        assert isolation.got
        scene.zone.check()
        scene.zone.drain()
        scene.zone.check()
        isolated = {p for (_, mt), heads in scene.zone.state()["free"].items() if mt == 5 for p in heads}
        assert any(head <= pfn < head + BLOCK for head in isolated)
        assert scene.zone.unisolate(pfn)
        scene.give_all_back()
    assert ran > 3


def test_the_schedules_hold_what_they_promise():
    """
    Pages in flight do keep ranges busy: these races are real, not avoided by the order of things.
    """
    seen = set()
    for policy in PROFILES:
        of_contig, of_other = lengths(policy, False, OTHERS["free"])
        for begun in range(0, of_contig, 3):
            for steps in range(of_other + 1):
                seen.add(one_order(policy, False, OTHERS["free"], begun, steps)[0].reason)
    assert {"", "pinned"} <= seen
    assert seen & {"pcp", "owned", "remote"}


@pytest.mark.parametrize("policy", ["mainline", "fixed"])
def test_a_chunk_that_grows_between_test_and_capture(policy):
    """
    A free beside the range, in its isolated block, merges with what the range begins in: CT-6 looks for the head anew.

    Pages 0 to 255 of block 0 are one allocation, the range is what is behind it: at the test its first chunk begins at
    256, at the capture at 0.
    """
    options = {"batch": 1, "high_min": 0, "high_max": 0, "stat_threshold": 0, "watermark": (0, 0, 0, 0)}
    zone = Zone(2 * BLOCK, cpus=2, policy=policy, **options)
    assert zone.alloc(8) == 0
    zone.set_movable(0)
    contig = Contig.alloc(Node([zone]), 256, BLOCK, cpu=0)
    holds = 0
    while (action := contig.step()) is not None:
        holds += action[0] == "lock" and action[1][0] == "zone"
        if holds == 3:  # of the isolation and the test; now the capture's is asked for
            zone.free_direct(0, cpu=1)
            holds += 1
    assert contig.result.pfn == 256
    zone.check()
    zone.free_contig(256, 256)
    zone.drain()
    zone.fold(0)
    zone.fold(1)
    zone.check()
    assert int(zone.census()["nr_free"][10].sum()) == 1
