"""
One trial: a policy, a share of CMA, a seed. The zone is prepared, filled with movable pages, and each is looked at.
"""

import dataclasses
import functools
import random
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ..config import Policy
from ..errors import OutOfPages
from ..names import CMA, MOVABLE, UNMOVABLE
from ..zone import Zone
from .setting import KEPT, Setting

__all__ = [
    "NR_PHASES",
    "POINTS",
    "ROUNDS",
    "Mixed",
    "Point",
    "Steps",
    "Trial",
    "fill_up",
    "linked_cma",
    "marks",
    "rule_path",
    "trial",
    "use",
]

POINTS = 32
ROUNDS = 4  # of processes, in a churned zone
NR_PHASES = 4


class Point(NamedTuple):
    """
    The zone after so many movable pages were taken.

    cma: of them, from CMA. rule: of so many, those that the 50 % rule gives from CMA when it is asked for each page,
    with neither PCPs nor batches. free, free_cma: NR_FREE_PAGES and NR_FREE_CMA_PAGES, exactly; pages in PCPs are not
    in them.
    """

    taken: int
    cma: int
    rule: int
    free: int
    free_cma: int

    @property
    def rule_says_cma(self) -> bool:
        """
        What the 50 % rule says at that moment (B-40).
        """
        return self.free_cma > self.free // 2


class Steps(NamedTuple):
    """
    How the share moves once free memory is half CMA (P-80).

    A CMA page that no request has got yet is left, in the zone or in a PCP. balanced_at: pages taken when half of what
    is left was CMA for the first time; -1: never while there was a choice. swing: from then on, as long as both kinds
    are left, the furthest from half, in pages of CMA. longest_run: pages of one kind that one CPU got in a row then.
    """

    balanced_at: int
    swing: int
    longest_run: int


class Mixed(NamedTuple):
    """
    The second pass: one request in so many is unmovable, until no movable page is left.

    requests: for unmovable pages. slow: of them, those that found nothing at first; all PCPs are drained then, and they
    ask again, as the slow path does. failed: of these, those that found nothing either. slow_cma_free, failed_cma_free:
    of both, those while pages lay free in CMA. cma_free_at_failure: NR_FREE_CMA_PAGES when the first one failed, -1:
    none did. converted: pageblocks that became unmovable, counted at 32 moments. converted_cma_free: of them, those up
    to the last moment at which CMA lay free. movable: pages taken; cma: of them, from CMA.
    """

    requests: int
    slow: int
    slow_cma_free: int
    failed: int
    failed_cma_free: int
    converted: int
    converted_cma_free: int
    cma_free_at_failure: int
    movable: int
    cma: int


@dataclasses.dataclass(frozen=True, slots=True)
class Trial:
    """
    One policy, one share of CMA, one seed.

    points: the first before any page is taken, the others as memory fills. by_phase: pages that refills obtained
    meanwhile, [phase 0 to 3][the rule said CMA][page is CMA]. listed: CMA blocks on lists of owned blocks before the
    first page is taken; left: those there at the end, which phase 0 never recovered, for nothing is freed meanwhile.
    rounds: of the processes before, in a churned zone: (movable pages taken, of them from CMA) of each round.
    """

    policy: str
    share: float
    seed: int
    points: tuple[Point, ...]
    by_phase: tuple[tuple[tuple[int, int], tuple[int, int]], ...]
    listed: int
    left: int
    steps: Steps
    mixed: Mixed | None
    rounds: tuple[tuple[int, int], ...] = ()

    def refilled(self, phase: int, *, rule_cma: bool, cma: bool) -> int:
        """
        Pages that a phase put into PCPs: of a kind, while the rule said CMA or not.
        """
        return self.by_phase[phase][rule_cma][cma]

    def against(self, phase: int) -> int:
        """
        Pages of a phase that are of the other kind than the rule said.
        """
        return self.refilled(phase, rule_cma=True, cma=False) + self.refilled(phase, rule_cma=False, cma=True)


def marks(counted: int) -> tuple[int, ...]:
    """
    How many pages are taken at each point: 0, and 32 equal parts; fewer for fewer pages.
    """
    return tuple(sorted({counted * k // POINTS for k in range(POINTS + 1)}))


@functools.cache
def rule_path(free: int, free_cma: int, counted: tuple[int, ...]) -> tuple[int, ...]:
    """
    How many of the first so many movable pages are CMA, if the 50 % rule is asked for each page (B-40 steps 1 to 3).

    free, free_cma: pages free before the first, all of them movable or CMA. counted: ascending.
    """
    left, cma, path = free, free_cma, []
    for taken in counted:
        while free - left < taken:
            if cma and (cma > left // 2 or cma == left):
                cma -= 1
            left -= 1
        path.append(free_cma - cma)
    return tuple(path)


def trial(setting: Setting, policy: Policy, share: float, seed: int) -> Trial:
    """
    Run one.
    """
    zone = setting.zone(policy, share)
    rounds: tuple[tuple[int, int], ...] = ()
    if setting.before == "used":
        use(zone, setting.free_pages, seed)
    elif setting.before == "churned":
        rounds = _churn(zone, setting, seed)
    prepared = zone.snapshot()
    before = zone.cma_by_phase()
    listed = linked_cma(zone)
    points, pages, by = _fill(zone, setting)
    phases = (zone.cma_by_phase() - before).tolist()
    left = linked_cma(zone)
    steps = _steps(points[0], np.array(pages) >= _first_cma(zone), np.array(by))
    zone.restore(prepared)
    return Trial(
        policy=policy.name,
        share=share,
        seed=seed,
        points=tuple(points),
        by_phase=tuple((tuple(other), tuple(cma)) for other, cma in phases),
        listed=listed,
        left=left,
        steps=steps,
        mixed=_mixed(zone, setting) if setting.unmovable_every else None,
        rounds=rounds,
    )


def fill_up(zone: Zone) -> None:
    """
    All CPUs take single movable pages, a batch each in turn, until none of them gets one.
    """
    for _ in _taken(zone, batch=int(zone.summary()["pageset"][2])):
        pass


def use(zone: Zone, freed: int, seed: int) -> None:
    """
    As P-82: take all pages of a fresh zone, free so many of them at random, CPUs in turn, drain all PCPs.
    """
    fill_up(zone)
    drawn = random.Random(seed).sample(range(zone.pages), freed)
    for number, pfn in enumerate(drawn):
        zone.free(pfn, number % zone.cpus)
    zone.drain()


def _churn(zone: Zone, setting: Setting, seed: int) -> tuple[tuple[int, int], ...]:
    """
    Rounds of processes, one on each CPU; then all PCPs are drained.

    All take their pages in turn, free a random half, take as many again, and exit; one page in eight outlives the
    process, until the next ones are there, and is freed by the next CPU.
    """
    draw = random.Random(seed)
    kept: list[list[int]] = [[] for _ in range(zone.cpus)]
    rounds, told = [], (0, 0)
    for _ in range(ROUNDS):
        held: list[list[int]] = [[] for _ in range(zone.cpus)]
        _take_in_turn(zone, held, setting.held)
        for cpu, pfns in enumerate(kept):
            for pfn in pfns:
                zone.free(pfn, (cpu + 1) % zone.cpus)
        for cpu, pfns in enumerate(held):
            draw.shuffle(pfns)
            for _ in range(setting.held // 2):
                zone.free(pfns.pop(), cpu)
        _take_in_turn(zone, held, setting.held // 2)
        for cpu, pfns in enumerate(held):
            draw.shuffle(pfns)
            kept[cpu] = pfns[: setting.held // KEPT]
            for pfn in pfns[setting.held // KEPT :]:
                zone.free(pfn, cpu)
        counters = zone.counters()
        now = (counters["movable_pages"], counters["movable_cma_pages"])
        rounds.append((now[0] - told[0], now[1] - told[1]))
        told = now
    zone.drain()
    return tuple(rounds)


def _take_in_turn(zone: Zone, held: list[list[int]], each: int) -> None:
    """
    So many pages for each CPU. One that finds none drains all PCPs and asks again, as the slow path does.
    """
    for _ in range(each):
        for cpu, pfns in enumerate(held):
            try:
                pfns.append(zone.alloc(0, MOVABLE, cpu))
            except OutOfPages:
                zone.drain()
                pfns.append(zone.alloc(0, MOVABLE, cpu))


def _taken(zone: Zone, batch: int = 1) -> Iterator[tuple[int, int]]:
    """
    Take single movable pages, CPUs in turn, so many each, until none of them gets one. Yields (pfn, CPU).
    """
    takers = list(range(zone.cpus))
    while takers:
        for cpu in list(takers):
            try:
                for _ in range(batch):
                    yield zone.alloc(0, MOVABLE, cpu), cpu
            except OutOfPages:
                takers.remove(cpu)


def _fill(zone: Zone, setting: Setting) -> tuple[list[Point], list[int], list[int]]:
    """
    Take the pages that are counted. Returns the points, and for each page its pfn and the CPU that took it.
    """
    first_cma = _first_cma(zone)
    stops = marks(setting.counted)
    source = _taken(zone)
    pages: list[int] = []
    by: list[int] = []
    free, free_cma, _ = zone.summary()["stat"]
    points, of_cma = [], 0
    for stop, rule in zip(stops, rule_path(int(free), int(free_cma), stops), strict=True):
        while len(pages) < stop:
            pfn, cpu = next(source, (-1, -1))
            if cpu < 0:
                break
            pages.append(pfn)
            by.append(cpu)
            of_cma += pfn >= first_cma
        free, free_cma, _ = zone.summary()["stat"]
        points.append(Point(len(pages), of_cma, rule, int(free), int(free_cma)))
    if not setting.pages:
        next(source, None)  # every CPU asks once more: now each owner has walked its whole list
    return points, pages, by


def _mixed(zone: Zone, setting: Setting) -> Mixed:
    """
    The same again with unmovable requests in between.
    """
    first_cma = _first_cma(zone)
    found = dict.fromkeys(Mixed._fields, 0) | {"cma_free_at_failure": -1}
    blocks = int(zone.census()["blocks_by_type"][UNMOVABLE])
    look = max(setting.free_pages // POINTS // setting.cpus, 1)
    takers = list(range(setting.cpus))
    turn = 0
    while takers:
        turn += 1
        for cpu in list(takers):
            # The CPUs' unmovable requests do not come all in one turn.
            if (turn + cpu) % setting.unmovable_every == 0:
                _unmovable(zone, cpu, found)
                continue
            try:
                found["cma"] += zone.alloc(0, MOVABLE, cpu) >= first_cma
                found["movable"] += 1
            except OutOfPages:
                takers.remove(cpu)
        if turn % look == 0 or not takers:
            now = int(zone.census()["blocks_by_type"][UNMOVABLE])
            # Movable requests that find nothing else turn some of them back.
            found["converted"] += max(now - blocks, 0)
            found["converted_cma_free"] += max(now - blocks, 0) * (_free_cma(zone) > 0)
            blocks = now
    return Mixed(**found)


def _unmovable(zone: Zone, cpu: int, found: dict[str, int]) -> None:
    """
    One unmovable request, counted.

    Once one has failed with all PCPs drained there is nothing left but CMA, and nothing is freed: all others fail too,
    and are counted without another drain.
    """
    found["requests"] += 1
    if not found["failed"]:
        try:
            zone.alloc(0, UNMOVABLE, cpu)
            return
        except OutOfPages:
            found["slow"] += 1
            found["slow_cma_free"] += _free_cma(zone) > 0
        zone.drain()
        try:
            zone.alloc(0, UNMOVABLE, cpu)
            return
        except OutOfPages:
            found["cma_free_at_failure"] = _free_cma(zone)
    else:
        found["slow"] += 1
        found["slow_cma_free"] += _free_cma(zone) > 0
    found["failed"] += 1
    found["failed_cma_free"] += _free_cma(zone) > 0


def _free_cma(zone: Zone) -> int:
    return int(zone.summary()["stat"][1])


def _first_cma(zone: Zone) -> int:
    return zone.start_pfn + zone.pages - int(zone.summary()["cma"])


def linked_cma(zone: Zone) -> int:
    """
    CMA blocks on the lists of owned blocks (I-13).
    """
    if not zone.census()["owned_blocks"]:
        return 0
    return sum(1 for type_, _, _, linked in zone.state()["blocks"] if type_ == CMA and linked)


def _steps(start: Point, is_cma: np.ndarray, by: np.ndarray) -> Steps:
    """
    From the kind of each page and the CPU that took it, in order.
    """
    cma_left = start.free_cma - np.cumsum(is_cma)
    left = start.free - np.arange(1, len(is_cma) + 1)
    beyond = cma_left - left / 2  # pages of CMA above half
    sign = 1 if start.free_cma > start.free - start.free_cma else -1
    choice = (cma_left > 0) & (cma_left < left)
    reached = np.flatnonzero(choice & (sign * beyond <= 0))
    if not len(reached):
        return Steps(-1, 0, 0)
    first = int(reached[0])
    gone = np.flatnonzero(~choice[first:])
    last = first + int(gone[0]) if len(gone) else len(is_cma)
    longest = 0
    for cpu in np.unique(by):
        kinds = is_cma[first:last][by[first:last] == cpu]
        edges = np.flatnonzero(np.diff(kinds.astype(np.int8))) + 1
        runs = np.diff(np.concatenate(([0], edges, [len(kinds)])))
        longest = max(longest, int(runs.max(initial=0)))
    return Steps(first + 1, int(np.abs(beyond[first:last]).max()), longest)
