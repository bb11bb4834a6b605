"""
Memory in a plain zone, request by request and without time: scenes that claims about memory are measured on.

Time plays no part in which page is taken; a zone driven from here shows every take, and what else there was to take.
"""

import dataclasses
import functools
import random
from collections.abc import Iterable
from typing import Any, NamedTuple

from ..cma import fill_up, linked_cma, use
from ..errors import OutOfPages
from ..metrics import unusable_index
from ..names import CMA, MAX_PAGE_ORDER, MOVABLE, NR_ORDERS, PAGEBLOCK_ORDER, PAGEBLOCK_PAGES, RECLAIMABLE, UNMOVABLE
from ..zone import Node, Zone

__all__ = [
    "COUNTED",
    "PIECES",
    "Adoption",
    "Churn",
    "Fill",
    "Takes",
    "adoption",
    "audit",
    "churn",
    "cma_pages",
    "fill",
    "fresh",
    "passed_over",
    "used_before",
    "x7",
    "x8",
]

# P-82 (docs/reference/rfc.md, section 10).
BLOCKS, CMA_BLOCKS = 64, 40  # 62 %
FREED = 28768
BATCH = 63
HIGH = (1000, 4096)
SMALL_HIGH = (252, 252)  # no whole block fits under it: the gate of P-34 is closed
COUNTED = (4096, 8192, 12288, 16384)
ELSEWHERE = 0.3  # of the frees, on another CPU than took the pages
CHUNK_ORDER = 8  # the largest that phase 2 looks at (phase2_max of all profiles)


def fresh(
    policy: str, *, cpus: int = 1, cma_blocks: int = CMA_BLOCKS, high: tuple[int, int] = HIGH, exact: bool = True
) -> Zone:
    """
    A zone of 64 blocks, nothing of it used. exact: its counters do not drift.
    """
    return Zone(
        BLOCKS * PAGEBLOCK_PAGES,
        cpus=cpus,
        policy=policy,
        cma_pages=cma_blocks * PAGEBLOCK_PAGES,
        batch=BATCH,
        high_min=high[0],
        high_max=high[1],
        stat_threshold=0 if exact else None,
    )


def used_before(
    policy: str, seed: int, *, cpus: int = 1, high: tuple[int, int] = HIGH, exact: bool = True, freed: int = FREED
) -> Zone:
    """
    The zone of P-82: first filled, CPUs in turn, then so many pages freed at random and all PCPs drained.
    """
    zone = fresh(policy, cpus=cpus, high=high, exact=exact)
    use(zone, freed, seed)
    return zone


def cma_pages(zone: Zone, counted: Iterable[int] = COUNTED) -> dict[int, int]:
    """
    How many of the first so many movable pages came from the CMA area. CPUs take a page in turn.
    """
    first_cma = zone.start_pfn + zone.pages - int(zone.summary()["cma"])
    found: dict[int, int] = {}
    taken = of_cma = 0
    for until in sorted(counted):
        while taken < until:
            of_cma += zone.alloc(0, MOVABLE, taken % zone.cpus) >= first_cma
            taken += 1
        found[until] = of_cma
    return found


@functools.cache
def cma_shares(policy: str, seed: int, cpus: int, used: bool) -> dict[int, float]:
    """
    The share of CMA pages among the first so many movable ones, in a zone that was used before, or in a fresh one.
    """
    zone = used_before(policy, seed, cpus=cpus) if used else fresh(policy, cpus=cpus)
    return {taken: pages / taken for taken, pages in cma_pages(zone).items()}


# Whether takes follow the 50 % rule


class Takes(NamedTuple):
    """
    Pages that one phase took for movable requests, against the exact 50 % rule at each take.

    pages: all. against: of the other type, though there was a chunk of that size, or a larger one, of the preferred
    type. finer: of the other type while the preferred one had smaller chunks only, which fit the request. edge: like
    against, but as near to 50 % as counters may drift.
    """

    pages: int = 0
    against: int = 0
    finer: int = 0
    edge: int = 0


@functools.cache
def audit(policy: str, seed: int, scene: str) -> dict[int, Takes]:
    """
    Take 16384 movable pages and check every take from outside, by the zone's events. Phase -> its takes.

    scene: "fresh" (whole blocks, phase 1), "used" (as P-82), "small" (as P-82 with PCPs that no block fits into), and
    "drift": small, four CPUs, counters that drift. The free chunks of each order and type are followed take by take, so
    what the rule says and what there is to choose from are known exactly, whatever the allocator believes.
    """
    cpus = 4 if scene == "drift" else 1
    if scene == "fresh":
        zone = fresh(policy)
    else:
        zone = used_before(policy, seed, cpus=cpus, high=HIGH if scene == "used" else SMALL_HIGH, exact=cpus == 1)
    ledger = _Ledger(zone)
    zone.trace(1 << 18)
    for number in range(COUNTED[-1]):
        zone.alloc(0, MOVABLE, number % cpus)
    if zone.events_lost:
        raise MemoryError(f"{zone.events_lost} events of an audit were lost")
    return ledger.follow(zone.events())


class _Ledger:
    """
    Free chunks of a zone by order and type, followed through the events of refills. Nothing is freed meanwhile.
    """

    def __init__(self, zone: Zone) -> None:
        self.free: list[list[int]] = [[int(count) for count in row] for row in zone.census()["nr_free"]]
        self.of_cma = self.pages([CMA])
        self.of_all = self.pages([UNMOVABLE, MOVABLE, RECLAIMABLE, CMA])
        self.type_of = [int(block[0]) for block in zone.state()["blocks"]]
        self.start_pfn = zone.start_pfn
        # A counter may be off by the threshold on each CPU; the rule compares one with the half of another.
        self.drift = 3 * zone.cpus * int(zone.summary()["stat_threshold"])

    def pages(self, types: Iterable[int]) -> int:
        return sum(self.free[order][type_] << order for order in range(NR_ORDERS) for type_ in types)

    def has(self, type_: int, least: int, most: int = MAX_PAGE_ORDER) -> bool:
        return any(self.free[order][type_] for order in range(least, most + 1))

    def follow(self, events: list[tuple[Any, ...]]) -> dict[int, Takes]:
        counted: dict[int, list[int]] = {}
        for at, event in enumerate(events):
            if event[0] not in ("recover", "zone_locked"):
                continue
            name, _, pfn, order = event[:4]
            type_ = self.type_of[(pfn - self.start_pfn) // PAGEBLOCK_PAGES]
            if name == "recover":
                phase = 0
            else:
                after = events[at + 1][0] if at + 1 < len(events) else ""
                phase = {"claim": 1, "chunk": 2}.get(after, 3)
            tally = counted.setdefault(phase, [0, 0, 0, 0])
            tally[0] += 1 << order
            judged = self.judge(type_, order, phase)
            if judged:
                tally[judged] += 1 << order
            self.take(type_, order, exactly=phase == 0)
        return {phase: Takes(*tally) for phase, tally in sorted(counted.items())}

    def judge(self, type_: int, order: int, phase: int) -> int:
        """
        0: as the rule says, or there was nothing else; else the place in Takes.
        """
        preferred = CMA if self.of_cma > self.of_all // 2 else MOVABLE
        if type_ == preferred:
            return 0
        most = CHUNK_ORDER if phase == 2 else MAX_PAGE_ORDER
        if self.has(preferred, order, most):
            return 3 if abs(2 * self.of_cma - self.of_all) <= self.drift + 1 else 1
        return 2 if self.has(preferred, 0, most) else 0

    def take(self, type_: int, order: int, *, exactly: bool) -> None:
        source = order
        while not exactly and not self.free[source][type_]:
            source += 1
        self.free[source][type_] -= 1
        for surplus in range(order, source):
            self.free[surplus][type_] += 1
        self.of_all -= 1 << order
        self.of_cma -= (type_ == CMA) << order


def x7(policy: str) -> tuple[int, int]:
    """
    The vector X7: the page that the first request gets, and how many CMA pages the refill took.
    """
    zone = _vector(policy, [MOVABLE, CMA], {(7, MOVABLE): [256], (8, CMA): [768]}, high=SMALL_HIGH)
    zone.trace(1 << 10)
    got = zone.alloc(0, MOVABLE)
    taken = [event for event in zone.events() if event[0] == "zone_locked"]
    return got, sum(1 << order for _, _, pfn, order, *_ in taken if pfn >= PAGEBLOCK_PAGES)


def x8(policy: str) -> tuple[int, int]:
    """
    The vector X8: the page that a request gets after the drain, and CMA blocks that stay on their owner's list then.

    Page 6 is a fragment of the owned CMA block, page 512 is in the next one, untouched so far.
    """
    zone = _vector(policy, [CMA, CMA, MOVABLE], {(10, CMA): [0], (9, MOVABLE): [1024]}, high=(2000, 4096))
    for _ in range(6):
        zone.alloc(0, MOVABLE)
    zone.drain()
    return zone.alloc(0, MOVABLE), linked_cma(zone)


def _vector(policy: str, types: list[int], free: dict[tuple[int, int], list[int]], high: tuple[int, int]) -> Zone:
    """
    A zone of blocks of these types, in which nothing is there but these free chunks.
    """
    zone = Zone(
        len(types) * PAGEBLOCK_PAGES,
        policy=policy,
        batch=BATCH,
        high_min=high[0],
        high_max=high[1],
        stat_threshold=0,
        watermark=(0, 0, 0, 0),
    )
    state = zone.state()
    for block, type_ in zip(state["blocks"], types, strict=True):
        block[0] = type_
    state["free"] = free
    pages = {key: len(chunks) << key[0] for key, chunks in free.items()}
    state["stat"] = [
        sum(pages.values()),
        sum(count for (_, type_), count in pages.items() if type_ == CMA),
        sum(count for (order, _), count in pages.items() if order >= PAGEBLOCK_ORDER),
    ]
    return Zone.from_state(state, policy)


# Blocks that phase 0 leaves behind


@functools.cache
def passed_over(policy: str, seed: int, scene: str) -> tuple[int, int, int]:
    """
    CMA blocks on their owners' lists; of them, those still there once all memory is in use again; and pages that
    phase 0 recovered from CMA blocks.

    Every owner allocates until nothing is left, so each has walked its whole list. scene: "used" (P-82) or "pressure":
    four CPUs fill three quarters, free halves at random, fill again, as the workload cma/pressure does, then a drain.
    """
    zone = used_before(policy, seed) if scene == "used" else _pressed(policy, seed)
    before = linked_cma(zone)
    recovered = int(zone.cma_by_phase()[0, :, 1].sum())
    for cpu in range(zone.cpus):
        try:
            while True:
                zone.alloc(0, MOVABLE, cpu)
        except OutOfPages:
            pass
    recovered = int(zone.cma_by_phase()[0, :, 1].sum()) - recovered
    return before, linked_cma(zone), recovered


def _pressed(policy: str, seed: int, rounds: int = 2) -> Zone:
    """
    The zone after some rounds of what cma/pressure does, in turn over four CPUs.
    """
    draw = random.Random(seed)
    zone = fresh(policy, cpus=4)
    share = zone.pages * 3 // 4 // zone.cpus
    for _ in range(rounds):
        held: list[list[int]] = [[] for _ in range(zone.cpus)]
        for cpu in range(zone.cpus):
            held[cpu] += [zone.alloc(0, MOVABLE, cpu) for _ in range(share)]
        for cpu in range(zone.cpus):
            draw.shuffle(held[cpu])
            for _ in range(share // 2):
                zone.free(held[cpu].pop(), cpu)
        for cpu in range(zone.cpus):
            held[cpu] += [zone.alloc(0, MOVABLE, cpu) for _ in range(share // 2)]
        for cpu in range(zone.cpus):
            # An exit frees in the order of addresses, which is no order of pages; one in eight stays.
            for pfn in held[cpu][share // 8 :]:
                zone.free(pfn, cpu)
            del held[cpu][share // 8 :]
    zone.drain()
    return zone


# Blocks in pieces that nobody owns


class Adoption(NamedTuple):
    """
    What a load did on memory in pieces: share of local frees, PCP merges for 1000 frees, pages parked in the mean of
    the rounds, zone-lock holds for 1000 allocations, blocks owned at the end.
    """

    local: float
    merges: float
    parked: float
    holds: float
    owned: int


PIECES_CPUS = 8
PIECES_BLOCKS = 128
PIECES_ROUNDS = 8
# What is free, of memory that was full: single pages, or aligned runs, drawn at random.
PIECES: dict[str, tuple[int, float]] = {"single pages, 90 % free": (1, 0.9), "runs of 64 pages, 60 % free": (64, 0.6)}


@functools.cache
def adoption(policy: str, seed: int, pieces: str) -> Adoption:
    """
    Rounds of processes on memory in pieces without owners: all CPUs take pages in turn, then give them back.

    The memory was filled and freed by mainline, so no block has an owner, as after a boot or a change of type. A
    process takes and frees 32 pages at a time; three in ten are freed by another CPU. Half of what is free is used.
    """
    run, share = PIECES[pieces]
    before = Zone(PIECES_BLOCKS * PAGEBLOCK_PAGES, cpus=PIECES_CPUS, policy="mainline", zone_index=2)
    fill_up(before)
    draw = random.Random(seed)
    runs = draw.sample(range(before.pages // run), int(share * before.pages) // run)
    for number, at in enumerate(runs):
        for pfn in range(at * run, (at + 1) * run):
            before.free(pfn, number % PIECES_CPUS)
    before.drain()
    zone = Zone.from_state(before.state(), policy)
    each = int(share * zone.pages) // 2 // PIECES_CPUS // 32
    parked = []
    for _ in range(PIECES_ROUNDS):
        groups: list[tuple[int, list[int]]] = []
        for _ in range(each):
            for cpu in range(PIECES_CPUS):
                groups.append((cpu, [zone.alloc(0, MOVABLE, cpu) for _ in range(32)]))
        for cpu, group in groups:
            by = draw.randrange(PIECES_CPUS) if draw.random() < ELSEWHERE else cpu
            for pfn in group:
                zone.free(pfn, by)
        parked.append(int(zone.census()["parked_pages"]))
    counted = zone.counters()
    frees = counted["frees_local"] + counted["frees_remote"] + counted["frees_direct"]
    holds = sum(value for name, value in counted.items() if name.startswith("holds_"))
    return Adoption(
        counted["frees_local"] / frees,
        1000 * counted["pcp_merges"] / frees,
        sum(parked) / len(parked),
        1000 * holds / counted["allocs"],
        int(zone.census()["owned_blocks"]),
    )


# Fragmentation in the long run


@dataclasses.dataclass(frozen=True, slots=True)
class Churn:
    """
    What memory was like in the second half of a long run, and at its end.

    unusable: unusable index of order 9, of 1000, over the zone's free memory. mixed, foreign: shares of the blocks
    that have pages of more than one type, that are unmovable or reclaimable. huge, drained: 2 MiB pages that could be
    had at the end, before and after all PCPs were drained, as a share of what free memory would make. failed: requests
    of 1000 that found nothing.
    """

    unusable: float
    mixed: float
    foreign: float
    huge: float
    drained: float
    failed: float


CHURN_CPUS = 4
CHURN_BLOCKS = 128
USED = (0.7, 0.85)  # of memory
TICK_EVERY = 2000  # turns
# Type, its share of the bursts, pages or objects of a burst at most, orders and their weights, and how likely a burst
# is chosen to be freed: unmovable ones live longer. Made up; in no recording are all three types under pressure.
KINDS: tuple[tuple[int, float, int, tuple[int, ...], tuple[float, ...], float], ...] = (
    (MOVABLE, 0.70, 64, (0,), (1.0,), 1.0),
    (UNMOVABLE, 0.20, 8, (0, 1, 2, 3), (0.6, 0.15, 0.15, 0.1), 0.5),
    (RECLAIMABLE, 0.10, 8, (0, 2), (0.7, 0.3), 0.7),
)


class _Burst(NamedTuple):
    """
    Pages that were taken together.
    """

    cpu: int
    order: int
    pfns: list[int]


@functools.cache
def churn(policy: str, seed: int, times: int, used: float) -> Churn:
    """
    Bursts of all three types come and go, until memory was allocated so many times over. used: share in use.

    Half of the bursts die as a whole, of the others a random half goes first. A CPU that frees is now and then another
    one than the one that took. All PCPs are ticked now and then.
    """
    zone = Zone(CHURN_BLOCKS * PAGEBLOCK_PAGES, cpus=CHURN_CPUS, policy=policy, zone_index=2)
    draw = random.Random(seed)
    live: list[list[_Burst]] = [[] for _ in KINDS]
    shares = [kind[1] for kind in KINDS]
    in_use = taken = turn = failed = 0
    seen: list[tuple[float, int, int]] = []
    steps = 32
    while taken < times * zone.pages:
        turn += 1
        number = draw.choices(range(len(KINDS)), shares)[0]
        type_, _, most, orders, weights, _ = KINDS[number]
        burst = _Burst(draw.randrange(zone.cpus), draw.choices(orders, weights)[0], [])
        for _ in range(draw.randint(1, most)):
            try:
                burst.pfns.append(zone.alloc(burst.order, type_, burst.cpu))
            except OutOfPages:
                # What is free lies in other PCPs or in pieces: direct reclaim drains, and the request is given up.
                failed += 1
                zone.drain()
                break
        if not burst.pfns:
            in_use -= _free_some(zone, draw, live)
            continue
        pages = len(burst.pfns) << burst.order
        in_use, taken = in_use + pages, taken + pages
        live[number].append(burst)
        while in_use > used * zone.pages:
            in_use -= _free_some(zone, draw, live)
        if turn % TICK_EVERY == 0:
            for cpu in range(zone.cpus):
                zone.tick(cpu)
        if taken * steps >= (len(seen) + 1) * times * zone.pages:
            census = zone.census()
            by_type = census["blocks_by_type"]
            foreign = by_type[UNMOVABLE] + by_type[RECLAIMABLE]
            seen.append((unusable_index(census["nr_free"].sum(axis=1), 9), census["blocks_mixed"], foreign))
    late = seen[len(seen) // 2 :]
    unusable, mixed, foreign_blocks = (sum(values) / len(late) for values in zip(*late, strict=True))
    possible = (zone.pages - in_use) // PAGEBLOCK_PAGES
    huge = _huge_pages(zone)
    zone.drain()
    drained = huge + _huge_pages(zone)
    return Churn(
        unusable=unusable,
        mixed=mixed / CHURN_BLOCKS,
        foreign=foreign_blocks / CHURN_BLOCKS,
        huge=huge / possible,
        drained=drained / possible,
        failed=1000 * failed / zone.counters()["allocs"],
    )


def _free_some(zone: Zone, draw: random.Random, live: list[list[_Burst]]) -> int:
    """
    Free a burst of some kind, or a random half of it. Returns how many pages.
    """
    weights = [len(bursts) * kind[5] for bursts, kind in zip(live, KINDS, strict=True)]
    bursts = draw.choices(live, weights)[0]
    at = draw.randrange(len(bursts))
    burst = bursts[at]
    if draw.random() < 0.5 and len(burst.pfns) > 1:
        draw.shuffle(burst.pfns)
        going = [burst.pfns.pop() for _ in range(len(burst.pfns) // 2)]
    else:
        going = burst.pfns
        bursts[at] = bursts[-1]
        bursts.pop()
    cpu = draw.randrange(zone.cpus) if draw.random() < ELSEWHERE else burst.cpu
    for pfn in going:
        zone.free(pfn, cpu)
    return len(going) << burst.order


def _huge_pages(zone: Zone) -> int:
    """
    2 MiB pages that a CPU gets until there are no more. They stay allocated.
    """
    got = 0
    try:
        while True:
            zone.alloc(PAGEBLOCK_ORDER, MOVABLE, 0)
            got += 1
    except OutOfPages:
        return got


# Memory that fills


class Fill(NamedTuple):
    """
    Pages in use when free memory was first seen below the low watermark, and when a request first failed; how much then
    lay in PCPs at the first of them; and the pages of the zone.
    """

    low: int
    failed: int
    parked: int
    managed: int


FILL_CPUS = 16


@functools.cache
def fill(policy: str, seed: int, alone: bool, blocks: int) -> Fill:
    """
    All CPUs take and free, each page on a CPU drawn by chance, so that PCPs are as full as they get; then memory fills.

    alone: by the requests of one CPU, while all others sleep on what lies in their PCPs; else by all in turn.
    """
    zone = Zone(blocks * PAGEBLOCK_PAGES, cpus=FILL_CPUS, policy=policy, zone_index=2)
    node = Node([zone])
    draw = random.Random(seed)
    pages = [node.alloc(cpu=number % FILL_CPUS) for number in range(zone.pages * 7 // 10)]
    draw.shuffle(pages)
    for pfn in pages:
        node.free(pfn, draw.randrange(FILL_CPUS))
    low_mark = int(zone.summary()["watermark"][1])
    below: tuple[int, int] | None = None
    taken = 0
    try:
        while True:
            node.alloc(cpu=0 if alone else taken % FILL_CPUS)
            taken += 1
            if below is None and not zone.watermark_ok(0, low_mark):
                below = taken, int(zone.census()["parked_pages"])
    except OutOfPages:
        low, parked = below or (taken, 0)
        return Fill(low, taken, parked, zone.pages)
