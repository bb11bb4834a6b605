"""
Whole calls are records too (decision 0001): suspended between and within their operations, and on several NUMA nodes.
"""

import random

import pytest
from virtual import every_schedule

from pcpbuddy import Node, OutOfPages, Zone
from pcpbuddy._core import Call

POLICIES = ("mainline", "posted", "fixed", "llist", "handover")
MOVABLE, UNMOVABLE, ATOMIC = 0x100CCA, 0xCC0, 0x820  # GFP flags: a user's page, the kernel's, one that may not sleep
SIZES = {"batch": 7, "high_min": 28, "high_max": 28, "stat_threshold": 0, "watermark": (0, 0, 0, 0)}


def zone_of(blocks, policy="mainline", start=0, name="Normal", **options):
    index = {"DMA": 0, "DMA32": 1, "Normal": 2}[name]
    options = {"cpus": 3, "start_pfn": 512 * start, "zone_index": index} | SIZES | options
    return Zone(512 * blocks, policy=policy, name=name, **options)


def carry(call):
    """
    To its end. Returns its lock actions with names and numbers for zones.
    """
    out = []
    while (action := call.step()) is not None:
        verb, (kind, zone, *cpu) = action
        out.append((verb, kind, zone.name, *cpu))
    return out


# -- one text of each call ---------------------------------------------------------------------------------------


class Pair:
    """
    The same history twice: by the node's own methods, and call by call, lock by lock.
    """

    def __init__(self, policy):
        self.whole, self.cut = (self.make(policy) for _ in range(2))
        self.live = []
        self.rng = random.Random(policy)
        self.failed = 0

    @staticmethod
    def make(policy):
        options = {"watermark": (10, 20, 30, 40), "high_max": 200}
        dma32 = zone_of(4, policy, name="DMA32", **options)
        return Node([dma32, zone_of(8, policy, 4, cma_pages=1024, **options)])

    def step(self, filling):
        self.cpu, self.gfp = self.rng.randrange(3), self.rng.choice((MOVABLE, MOVABLE, UNMOVABLE, ATOMIC))
        if not self.live or self.rng.random() < (0.75 if filling else 0.2):
            self.alloc()
        elif self.rng.random() < 0.7:
            self.free()
        else:
            others = (self.bulk, self.free_batch, self.free_run, self.tick, self.drain, self.offline, self.isolate)
            self.rng.choice(others)()

    def alloc(self):
        order = self.rng.choice((0, 0, 0, 1, 3, 7, 9))
        call = Call.alloc(self.cut, order, self.gfp, self.cpu)
        carry(call)
        try:
            pfns = [self.whole.alloc(order, self.gfp, self.cpu)]
        except OutOfPages:
            pfns = []
            self.failed += 1
        assert call.pfns == pfns
        self.live += [(pfn, order) for pfn in pfns]

    def bulk(self):
        n = self.rng.choice((1, 12, 40))
        call = Call.alloc_bulk(self.cut, n, self.gfp, self.cpu)
        carry(call)
        pfns = self.whole.alloc_bulk(n, self.gfp, self.cpu)
        assert call.pfns == pfns
        assert call.got == len(pfns)
        self.live += [(pfn, 0) for pfn in pfns]

    def free(self):
        pfn, _ = self.live.pop(self.rng.randrange(len(self.live)))
        carry(Call.free(self.cut, pfn, self.cpu))
        self.whole.free(pfn, self.cpu)

    def free_batch(self):
        self.rng.shuffle(self.live)
        boundary = self.whole.zones[1].start_pfn
        pfns = [pfn for pfn, _ in self.live[-40:] if pfn >= boundary]
        self.live = [entry for entry in self.live if entry[0] not in pfns]
        if pfns:
            carry(Call.free_batch(self.cut, pfns, self.cpu))
            self.whole.free_batch(pfns, self.cpu)

    def free_run(self):
        pfn = next((pfn for pfn, order in self.live if order == 3), None)
        if pfn is None:
            return
        self.live.remove((pfn, 3))
        for node in (self.whole, self.cut):
            node.split(pfn)
        carry(Call.free_run(self.cut, pfn, 7, self.cpu))
        self.whole.free_contig(pfn, 7, self.cpu)
        self.live.append((pfn + 7, 0))

    def tick(self):
        for k in range(2):
            carry(Call.tick(self.cut, self.cpu, zone=k))
        self.whole.tick(self.cpu)

    def drain(self):
        carry(Call.drain(self.cut, self.cpu))
        self.whole.drain(by=self.cpu)

    def offline(self):
        for k in range(2):
            carry(Call.offline(self.cut, 2, 0, zone=k))
        self.whole.offline(2)
        for node in (self.whole, self.cut):
            node.online(2)

    def isolate(self):
        call = Call.isolate(self.cut, 5 * 512, check=False, cpu=self.cpu)
        carry(call)
        assert self.whole.zones[1].isolate(5 * 512, check=False, by=self.cpu) == bool(call.got)
        for node in (self.whole, self.cut):
            node.zones[1].unisolate(5 * 512, by=self.cpu)

    def same(self):
        self.cut.check()
        assert self.cut.state() == self.whole.state()


@pytest.mark.parametrize("policy", POLICIES)
def test_there_is_one_text_of_each_call(policy):
    """
    Carried lock by lock, calls do what the same calls do as a whole, through exhaustion too.
    """
    pair = Pair(policy)
    for k in range(1200):
        pair.step(k % 400 < 300)
        if k % 50 == 0:
            pair.same()
    pair.same()
    assert pair.failed > 20


# -- suspended within ------------------------------------------------------------------------------------------------


def test_lock_actions_of_a_slow_path():
    """
    Section 9: what CPU 1 holds is drained, zone by zone, and then there is a page for CPU 0.
    """
    node = Node([zone_of(1, name="DMA32"), zone_of(1, start=1)])
    pfns = [node.alloc(cpu=1) for _ in range(1024)]
    for pfn in (pfns[3], pfns[700]):
        node.free(pfn, cpu=1)
    call = Call.alloc(node, cpu=0)
    drained = [
        action
        for name in ("DMA32", "Normal")
        for action in (
            ("lock", "pcp", name, 1),
            ("lock", "zone", name),
            ("unlock", "zone", name),
            ("unlock", "pcp", name, 1),
        )
    ]
    refilled = [("try", "pcp", "Normal", 0), ("lock", "zone", "Normal"), ("unlock", "zone", "Normal")]
    assert carry(call) == [*drained, *refilled, ("unlock", "pcp", "Normal", 0)]
    assert call.pfns == [pfns[3]]


def exhausted(policy, kinds):
    """
    Fresh calls on a node whose last free pages are in CPU 1's PCP.
    """

    def make():
        node = Node([zone_of(1, policy, name="DMA32"), zone_of(2, policy, 1)])
        pfns = [node.alloc(cpu=1) for _ in range(3 * 512)]
        for pfn in pfns[40:46]:
            node.free(pfn, cpu=1)
        make.node = node
        made = {
            "slow path": lambda: Call.alloc(node, cpu=0),
            "slow path, order 1": lambda: Call.alloc(node, order=1, gfp=UNMOVABLE, cpu=2),
            "bulk": lambda: Call.alloc_bulk(node, 3, cpu=2),
            "free": lambda: Call.free(node, pfns[100], cpu=1),
            "foreign free": lambda: Call.free(node, pfns[101], cpu=2),
            "batch": lambda: Call.free_batch(node, [pfns[102], pfns[300]], cpu=2),
            "run": lambda: Call.free_run(node, min(pfns), 6, cpu=2),
            "drain": lambda: Call.drain(node, cpu=2),
            "tick": lambda: Call.tick(node, cpu=1),
            "offline": lambda: Call.offline(node, 1, cpu=2),
            "isolate": lambda: Call.isolate(node, min(pfns) + 512, check=False, cpu=2),
        }
        return [made[kind]() for kind in kinds]

    return make


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    "kinds",
    [
        ("slow path", "free"),
        ("slow path", "foreign free"),
        ("slow path", "drain"),
        ("slow path", "tick", "free"),
        ("slow path", "slow path, order 1"),
        ("slow path", "bulk", "free"),
        ("slow path", "batch"),
        ("run", "drain"),
        ("slow path", "offline"),
        ("foreign free", "offline"),
        ("isolate", "free", "foreign free"),
    ],
    ids=" + ".join,
)
def test_every_interleaving_is_sound(policy, kinds):
    """
    Whatever comes between the operations of a call: no deadlock, no page lost, every invariant holds at the end.
    """
    make = exhausted(policy, kinds)
    freed = sum({"free": 1, "foreign free": 1, "batch": 2, "run": 6}.get(kind, 0) for kind in kinds)
    runs = 0
    for calls in every_schedule(make, limit=400):
        make.node.check()
        obtained = [pfn for call in calls for pfn in call.pfns]
        assert len(set(obtained)) == len(obtained)
        pairs = [call for call, kind in zip(calls, kinds, strict=True) if call.pfns and "order 1" in kind]
        allocated = sum(zone.census()["allocated_pages"] for zone in make.node.zones)
        assert allocated == 3 * 512 - 6 - freed + len(obtained) + len(pairs)
        runs += 1
    assert runs >= 5


# -- several NUMA nodes ----------------------------------------------------------------------------------------------


def fragmented(blocks, start):
    """
    A zone of unmovable blocks, half of each free: a movable request has to fragment one.
    """
    zone = zone_of(blocks, start=start)
    pfns = [zone.alloc(8, 0) for _ in range(2 * blocks)]
    for pfn in pfns[::2]:
        zone.free(pfn)
    return zone


def served_by(nodes, **options):
    """
    The zone that a call of CPU 0 gets its page from, by name and first block.
    """
    call = Call.alloc(nodes, **options)
    carry(call)
    (pfn,) = call.pfns
    (zone,) = (zone for zone in call.zones if zone.start_pfn <= pfn < zone.start_pfn + zone.pages)
    zone.check()
    return zone.name, zone.start_pfn // 512


def test_fragmenting_comes_after_the_own_node_but_before_others():
    """
    B-76: NOFRAGMENT is dropped where the walk would leave the node, and the walk begins again.
    """
    dma32 = zone_of(2, name="DMA32")
    near = Node([dma32, fragmented(4, start=2)])
    far = Node([zone_of(8, start=8)])
    assert served_by([near, far]) == ("DMA32", 0)  # not fragmenting, there is a zone of the own node below
    dma32 = zone_of(2, name="DMA32", watermark=(2048, 2048, 2048, 2048))
    near = Node([dma32, fragmented(4, start=2)])
    assert served_by([near, far]) == ("Normal", 2)
    assert served_by([far, near]) == ("Normal", 8)


def test_fragments_are_avoided_where_the_own_node_has_a_dma32_zone():
    """
    B-28: on several nodes. On a single one in any case.
    """
    far = Node([zone_of(8, start=8)])
    for name, alone, one_of_two in (("DMA32", "DMA32", "DMA32"), ("DMA", "DMA", "Normal")):
        assert served_by(Node([zone_of(2, name=name), fragmented(4, start=2)]))[0] == alone
        assert served_by([Node([zone_of(2, name=name), fragmented(4, start=2)]), far])[0] == one_of_two


def test_the_walk_goes_on_to_other_nodes():
    """
    B-26, B-75: each node's zones descending, none above the highest that the request allows.
    """
    zones = [zone_of(1, start=16)], [zone_of(1, name="DMA32"), zone_of(1, start=1)], [zone_of(1, start=8)]
    nodes = [Node(of_node) for of_node in zones]
    assert [served_by(nodes, order=8, gfp=gfp) for gfp in (0xCC4, UNMOVABLE)] == [("DMA32", 0), ("Normal", 16)]
    order = [served_by(nodes, order=8, gfp=UNMOVABLE)[1] for _ in range(6)]
    assert order == [16, 1, 1, 0, 8, 8]
    failed = Call.alloc(nodes, order=8, gfp=UNMOVABLE)
    carry(failed)
    assert failed.pfns == []
    assert [zone.counters()["allocs_failed"] for zone in failed.zones] == [0, 0, 0, 1]


def test_the_slow_path_drains_all_nodes():
    """
    Section 9: PCPs of all zones, as the last page may be in one of them.
    """
    near, far = Node([zone_of(1)]), Node([zone_of(1, start=1)])
    pfns = [[node.alloc(cpu=1) for _ in range(512)] for node in (near, far)]
    far.free(pfns[1][7], cpu=1)
    call = Call.alloc([near, far], cpu=0)
    carry(call)
    assert call.pfns == [pfns[1][7]]
    far.check()


def test_bulk_allocation_stays_on_the_node():
    """
    B-93: only its zones are asked for all pages at once; from others comes one.
    """
    near, far = Node([zone_of(1)]), Node([zone_of(4, start=1)])
    for _ in range(500):
        near.alloc(cpu=1)
    near.drain()
    bulk = Call.alloc_bulk([near, far], 40)
    carry(bulk)
    assert len(bulk.pfns) == 1
    bulk = Call.alloc_bulk([far, near], 40)
    carry(bulk)
    assert len(bulk.pfns) == 40
