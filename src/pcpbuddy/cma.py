"""
The share of CMA among movable allocations, under several policies, while a zone with much CMA fills up.

The question is a reviewer's: "have you tested this with a zone that has a large amount of CMA in it and checked the
percentages?" A zone is driven request by request and without time, so every page is seen; the zone's counters are exact
(stat_threshold 0), so that what is left is the policy's doing.
"""

import dataclasses
import functools
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from .config import Policy, parse_policies
from .errors import ConfigError, OutOfPages
from .manifest import manifest
from .names import CMA, MOVABLE, PAGE_SIZE, PAGEBLOCK_PAGES, UNMOVABLE
from .quantities import size_text
from .zone import Zone, parse_size

__all__ = [
    "BEFORE",
    "POINTS",
    "POLICIES",
    "Mixed",
    "Point",
    "Setting",
    "Steps",
    "Study",
    "Trial",
    "measure",
    "rule_path",
]

SCHEMA = "pcpbuddy.cma/1"
POLICIES = "mainline,posted,fixed,balanced,tuned"
BEFORE = ("used", "fresh")
POINTS = 32
FREED = 899 / 1024  # of the pages, drawn at random: 28768 of 32768 (P-82)
SHARES = (0.10, 0.90)  # of CMA, that a zone may have
LEAST_BLOCKS = 8
MOST_SEEDS = 100
NR_PHASES = 4

Progress = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """
    What is measured. Everything that is drawn by chance follows from a seed.

    size_bytes: memory of the zone, whole pageblocks. shares: of CMA, each 0.1 to 0.9; taken as whole blocks, at the end
    of the zone. before: "used": all pages are taken, CPUs in turn, a share ``freed`` of them is freed at random and
    all PCPs are drained (P-82); "fresh": nothing. pages: how many movable pages are taken and counted; 0: until no CPU
    gets one. unmovable_every: in a second pass, one request in so many is unmovable; 0: no second pass. pcp: (batch,
    high_min, high_max), None: as the kernel sizes them (B-12, B-13).

    Raises ConfigError for what cannot be.
    """

    policies: tuple[Policy, ...]
    size_bytes: int = 1 << 30
    shares: tuple[float, ...] = (0.625,)
    before: str = "used"
    freed: float = FREED
    cpus: int = 4
    pages: int = 0
    unmovable_every: int = 8
    seeds: tuple[int, ...] = (0, 1, 2)
    pcp: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        block_bytes = PAGEBLOCK_PAGES * PAGE_SIZE
        if self.size_bytes % block_bytes or self.size_bytes < LEAST_BLOCKS * block_bytes:
            raise ConfigError(
                f"size={size_text(self.size_bytes)}: expected whole pageblocks of 2MiB, {LEAST_BLOCKS} or more of them"
            )
        for share in self.shares:
            if not SHARES[0] <= share <= SHARES[1]:
                raise ConfigError(f"cma={100 * share:g}: expected per cent of the zone, 10 to 90")
        blocks = [self.cma_blocks(share) for share in self.shares]
        if not blocks or len(set(blocks)) < len(blocks):
            raise ConfigError("cma: expected one or more shares, each another number of pageblocks")
        if self.before not in BEFORE:
            raise ConfigError(f"before={self.before}: expected {' or '.join(BEFORE)}")
        if not 0 < self.freed <= 1:
            raise ConfigError(
                f"freed={100 * self.freed:g}: expected per cent of the zone's pages, more than 0, up to 100"
            )
        if self.pages < 0:
            raise ConfigError(f"pages={self.pages}: expected how many movable pages to take, or 0 for all")
        if self.unmovable_every < 0 or self.unmovable_every == 1:
            raise ConfigError(f"unmovable={self.unmovable_every}: expected one request in how many, 2 or more; 0: none")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or len(self.seeds) > MOST_SEEDS:
            raise ConfigError(f"seeds: expected 1 to {MOST_SEEDS} different ones")
        self.zone(self.policies[0], self.shares[0])  # refuses CPUs and PCP limits that cannot be

    @classmethod
    def of(
        cls, policies: str | Iterable[str | Policy] = POLICIES, *, size: str | int = "1GiB", **rest: Any
    ) -> "Setting":
        """
        With policies as ``parse_policies`` takes them and a size such as "128MiB"; the rest as the fields.
        """
        return cls(tuple(parse_policies(policies)), parse_size(size), **rest)

    @property
    def total(self) -> int:
        """
        Pages of the zone.
        """
        return self.size_bytes // PAGE_SIZE

    @property
    def free_pages(self) -> int:
        """
        Pages that are free when counting begins.
        """
        return int(self.freed * self.total) if self.before == "used" else self.total

    @property
    def counted(self) -> int:
        """
        Movable pages that are taken at most.
        """
        return min(self.pages, self.free_pages) if self.pages else self.free_pages

    @property
    def drawn(self) -> tuple[int, ...]:
        """
        The seeds that make a difference: nothing is drawn for a fresh zone.
        """
        return self.seeds if self.before == "used" else self.seeds[:1]

    def cma_blocks(self, share: float) -> int:
        """
        Pageblocks of the CMA area.
        """
        return round(share * self.total / PAGEBLOCK_PAGES)

    def zone(self, policy: Policy, share: float) -> Zone:
        """
        A fresh zone.
        """
        batch, high_min, high_max = self.pcp or (None, None, None)
        return Zone(
            self.total,
            cpus=self.cpus,
            policy=policy,
            cma_pages=self.cma_blocks(share) * PAGEBLOCK_PAGES,
            batch=batch,
            high_min=high_min,
            high_max=high_max,
            stat_threshold=0,
        )

    def command(self) -> str:
        """
        The command line that measures this again.
        """
        parts = ["pcpbuddy cma", f"--size {size_text(self.size_bytes)}"]
        parts.append(f"--cma {','.join(f'{100 * share:g}' for share in self.shares)}")
        parts.append(f"--before {self.before}")
        if self.before == "used" and self.freed != FREED:
            parts.append(f"--freed {100 * self.freed:g}")
        parts.append(f"--cpus {self.cpus}")
        if self.pages:
            parts.append(f"--pages {self.pages}")
        if self.unmovable_every != 8:
            parts.append(f"--unmovable {self.unmovable_every}")
        if self.pcp:
            parts.append("--pcp batch={},high_min={},high_max={}".format(*self.pcp))
        n = len(self.seeds)
        listed = ",".join(map(str, self.seeds)) if n > 1 else f"{self.seeds[0]},"
        parts.append(f"--seeds {n if self.seeds == tuple(range(n)) else listed}")
        parts.append(f"--policy {','.join(which.name for which in self.policies)}")
        return " ".join(parts)


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

    requests: for unmovable pages. failed: of them, refused. failed_cma_free: refused while pages lay free in CMA.
    converted: pageblocks that became unmovable, counted at 32 moments. converted_cma_free: of them, those up to the
    last moment at which CMA lay free. cma_free_at_failure: NR_FREE_CMA_PAGES when the first one was refused, -1: none
    was. movable: pages taken; cma: of them, from CMA.
    """

    requests: int
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


@dataclasses.dataclass(frozen=True, slots=True)
class Study:
    """
    All trials of a setting. partial: it was ended before it was through.
    """

    setting: Setting
    trials: tuple[Trial, ...]
    partial: bool = False

    @property
    def pages_at(self) -> tuple[int, ...]:
        """
        How many pages are taken at each point.
        """
        return marks(self.setting.counted)

    def of(self, policy: str, share: float) -> list[Trial]:
        """
        The trials of a policy, seed by seed.
        """
        return [trial for trial in self.trials if (trial.policy, trial.share) == (policy, share)]

    def document(self) -> dict[str, Any]:
        """
        As one JSON document: the same setting gives the same bytes.
        """
        setting = self.setting
        config = {field.name: getattr(setting, field.name) for field in dataclasses.fields(setting)[1:]}
        facts = {"command": setting.command(), "config": config, "partial": self.partial}
        return {
            "schema": SCHEMA,
            "manifest": manifest(setting.policies, **facts),
            "results": [
                {
                    **{name: getattr(trial, name) for name in ("policy", "share", "seed", "listed", "left")},
                    "points": [point._asdict() | {"rule_says_cma": point.rule_says_cma} for point in trial.points],
                    "by_phase": trial.by_phase,
                    "steps": trial.steps._asdict(),
                    "mixed": trial.mixed and trial.mixed._asdict(),
                }
                for trial in self.trials
            ],
        }


def measure(setting: Setting, progress: Progress | None = None) -> Study:
    """
    Run all trials, policy after policy for each seed. Ctrl-C ends it with what was measured, as a partial study.

    progress: called as f(name, done, total) before each trial and at the end.
    """
    wanted = [
        (share, seed, policy) for share in setting.shares for seed in setting.drawn for policy in setting.policies
    ]
    trials: list[Trial] = []
    try:
        for done, (share, seed, policy) in enumerate(wanted):
            if progress is not None:
                progress("cma", done, len(wanted))
            trials.append(_trial(setting, policy, share, seed))
    except KeyboardInterrupt:
        return Study(setting, tuple(trials), partial=True)
    if progress is not None:
        progress("cma", len(wanted), len(wanted))
    return Study(setting, tuple(trials))


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


# One trial


def _trial(setting: Setting, policy: Policy, share: float, seed: int) -> Trial:
    zone = _prepared(setting, policy, share, seed)
    prepared = zone.snapshot()
    before = zone.cma_by_phase()
    listed = _linked_cma(zone)
    points, pages, by = _fill(zone, setting)
    phases = (zone.cma_by_phase() - before).tolist()
    left = _linked_cma(zone)
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
    )


def _prepared(setting: Setting, policy: Policy, share: float, seed: int) -> Zone:
    """
    The zone before the first page is counted.
    """
    zone = setting.zone(policy, share)
    if setting.before == "used":
        for _ in _taken(zone, batch=int(zone.summary()["pageset"][2])):
            pass
        drawn = random.Random(seed).sample(range(zone.pages), setting.free_pages)
        for number, pfn in enumerate(drawn):
            zone.free(pfn, number % setting.cpus)
        zone.drain()
    return zone


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
    requests = failed = failed_cma_free = converted = converted_cma_free = movable = of_cma = number = 0
    at_failure = -1
    blocks = int(zone.census()["blocks_by_type"][UNMOVABLE])
    free_cma = int(zone.summary()["stat"][1])
    look = max(setting.free_pages // POINTS, 1)
    takers = list(range(setting.cpus))
    while takers:
        for cpu in list(takers):
            number += 1
            if number % setting.unmovable_every:
                try:
                    of_cma += zone.alloc(0, MOVABLE, cpu) >= first_cma
                    movable += 1
                except OutOfPages:
                    takers.remove(cpu)
            else:
                requests += 1
                try:
                    zone.alloc(0, UNMOVABLE, cpu)
                except OutOfPages:
                    # Nothing is freed here: once CMA is used up it stays so.
                    free_cma = free_cma and int(zone.summary()["stat"][1])
                    failed += 1
                    failed_cma_free += free_cma > 0
                    at_failure = free_cma if at_failure < 0 else at_failure
            if number % look == 0 or not takers:
                now = int(zone.census()["blocks_by_type"][UNMOVABLE])
                free_cma = int(zone.summary()["stat"][1])
                # Movable requests that find nothing else turn some of them back.
                converted += max(now - blocks, 0)
                converted_cma_free += max(now - blocks, 0) * (free_cma > 0)
                blocks = now
    return Mixed(requests, failed, failed_cma_free, converted, converted_cma_free, at_failure, movable, of_cma)


def _first_cma(zone: Zone) -> int:
    return zone.start_pfn + zone.pages - int(zone.summary()["cma"])


def _linked_cma(zone: Zone) -> int:
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
