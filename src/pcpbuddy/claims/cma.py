"""
Claims about CMA: whom movable requests are served from (K-15 to K-19).
"""

from collections.abc import Callable, Iterable, Sequence

from ..statistics import Interval, difference, interval
from ..sweeps import Sweep
from . import scenes
from .claim import NOT_DECIDABLE, REFUTED, SUPPORTED, Claim, Finding, Settings, verdict
from .words import all_of, bounds, percent, plain, points, within

__all__ = ["CLAIMS"]

OURS = "fixed+cma=rule"
CMA_POLICIES = ("mainline", "posted", "fixed", OURS)
SCENE_SEEDS = 3  # a scene is so much cheaper than a run that it has so many seeds for one of those
DECIDING = 8192  # of the pages counted (P-82): mainline still has a choice there, and used to take 94 % CMA
FEW = 64  # pages a phase must have taken before its takes decide anything

# The load cma/pressure at several shares of CMA, fresh and with memory that was used before.
PRESSURE_CPUS = 4
PRESSURE: tuple[dict[str, float], ...] = (
    {"cma": 0.3},
    {"cma": 0.6},
    {"cma": 0.8},
    {"cma": 0.6, "fragment": 0.8},
)

NEUTRAL = 0.05  # K-19: within five percentage points of mainline


def _seeds(s: Settings) -> list[int]:
    """
    Seeds of scenes, which are our own: P-82's figures are of one drawing that nobody has.
    """
    return list(range(s.pick(SCENE_SEEDS, 1) * s.seeds))


def _all(
    s: Settings, what: str, policies: Iterable[str], seeds: Sequence[int], scene: Callable[[str, int], float]
) -> dict[str, list[float]]:
    """
    A figure of a scene by policy, one value a seed.
    """
    chosen = list(policies)
    found: dict[str, list[float]] = {}
    for number, policy in enumerate(chosen):
        found[policy] = []
        for seed in seeds:
            if s.progress is not None:
                s.progress(f"{what}, {policy}, seed {seed}", number * len(seeds) + seed, len(chosen) * len(seeds))
            found[policy].append(scene(policy, seed))
    return found


# K-15 and K-19: the share of CMA


def _scene_shares(s: Settings, cpus: int, used: bool, taken: int) -> dict[str, list[float]]:
    """
    Share of CMA among the first so many movable pages, by policy.
    """
    what = f"the zone of P-82, {cpus} CPU{'s' if cpus > 1 else ''}"
    return _all(
        s, what, CMA_POLICIES, _seeds(s), lambda policy, seed: scenes.cma_shares(policy, seed, cpus, used)[taken]
    )


def _k15(s: Settings) -> Finding:
    table = []
    for cpus in (1, scenes.CHURN_CPUS):
        for taken in scenes.COUNTED:
            shares = _scene_shares(s, cpus, True, taken)
            row = {"CPUs": str(cpus), "first pages": str(taken)}
            table.append(row | {policy: percent(interval(values)) for policy, values in shares.items()})
    shares = _scene_shares(s, 1, True, DECIDING)
    lower = difference(shares["mainline"], shares["posted"])
    back = difference(shares["posted"], shares["fixed"])
    figure = (
        f"Of the first {DECIDING} movable pages of a zone that was used before (P-82), "
        f"{percent(interval(shares['mainline']))} are CMA under mainline, {percent(interval(shares['posted']))} under "
        f"posted ({points(lower)}), {percent(interval(shares['fixed']))} under fixed."
    )
    return Finding(
        claim="K-15",
        verdict=all_of((verdict(lower, below=0), verdict(back, above=0))),
        figure=figure,
        command=s.command("K-15"),
        value=lower.mean,
        interval=bounds(lower),
        why=f"{len(_seeds(s))} drawings of the freed pages. K-19 says how near fixed comes to mainline.",
        table=tuple(table),
    )


def _k19(s: Settings) -> Finding:
    tests: dict[str, dict[str, list[float]]] = {}
    for cpus, counted in ((1, scenes.COUNTED), (scenes.CHURN_CPUS, scenes.COUNTED[1::2])):
        for taken in counted:
            tests[f"P-82, {cpus} CPU{'s' if cpus > 1 else ''}, first {taken}"] = _scene_shares(s, cpus, True, taken)
    tests[f"never used before, first {DECIDING}"] = _scene_shares(s, 1, False, DECIDING)
    for parameters in s.pick(PRESSURE, PRESSURE[1:2]):
        runs = s.sweep("cma/pressure", CMA_POLICIES, PRESSURE_CPUS, parameters=parameters)
        words = ", ".join(f"{name} {value}" for name, value in parameters.items())
        tests[f"cma/pressure, {words}"] = {
            policy: list(runs.values("cma.movable_share", policy, PRESSURE_CPUS).values()) for policy in CMA_POLICIES
        }
    table, verdicts = [], {}
    changes: dict[str, Interval] = {}
    for test, shares in tests.items():
        changes[test] = difference(shares["mainline"], shares["fixed"])
        verdicts[test] = within(changes[test], NEUTRAL)
        table.append(
            {
                "test": test,
                "mainline": percent(interval(shares["mainline"])),
                **{p: points(difference(shares["mainline"], shares[p])) for p in CMA_POLICIES[1:]},
                "fixed within 5 points": {SUPPORTED: "yes", REFUTED: "no"}.get(verdicts[test], "not sure"),
            }
        )
    ours = [difference(shares["mainline"], shares[OURS]) for shares in tests.values()]
    worst = max(changes, key=lambda test: abs(changes[test].mean))
    near = sum(each == SUPPORTED for each in verdicts.values())
    return Finding(
        claim="K-19",
        verdict=all_of(verdicts.values()),
        figure=(
            f"fixed's share of CMA among movable pages is within 5 percentage points of mainline's in {near} of "
            f"{len(tests)} tests; furthest from it in {worst}: {points(changes[worst])}. With "
            f"cma=rule, which is ours, it is in {sum(within(each, NEUTRAL) == SUPPORTED for each in ours)}."
        ),
        command=s.command("K-19"),
        value=changes[worst].mean,
        interval=bounds(changes[worst]),
        also=(
            s.compare_command(
                "cma/pressure", CMA_POLICIES, PRESSURE_CPUS, ["cma.movable_share", "cma.alloc_share"], PRESSURE[1]
            ),
        ),
        why=(
            "fixed corrects what the review named: which types phases 0 and 2 look at. It still recovers own "
            "fragments, in the order of the list, before the 50 % rule is asked at all (P-81)."
        ),
        table=tuple(table),
    )


# K-16: blocks that phase 0 passes over


def _k16(s: Settings) -> Finding:
    table = []
    left: dict[str, list[int]] = {}
    for policy in CMA_POLICIES[1:]:
        got, linked = scenes.x8(policy)
        row = {"policy": policy, "X8: next page": str(got), "X8: CMA blocks left": str(linked)}
        left[policy] = []
        for scene in ("used", "pressure"):
            counts = [scenes.passed_over(policy, seed, scene) for seed in _seeds(s)]
            before, after, recovered = (interval([count[k] for count in counts]) for k in range(3))
            left[policy] += [count[1] for count in counts]
            row[f"{scene}: listed"] = plain(before, 1)
            row[f"{scene}: never recovered"] = plain(after, 1)
            row[f"{scene}: pages recovered"] = plain(recovered)
        table.append(row)
    runs = s.sweep("cma/pressure", CMA_POLICIES, PRESSURE_CPUS, parameters=PRESSURE[1])
    pages = {
        policy: sum(interval_of.mean for interval_of in _phase_pages(runs, policy, 0, "cma"))
        for policy in CMA_POLICIES[1:]
    }
    for row in table:
        row["cma/pressure: pages recovered"] = f"{pages[row['policy']]:.0f}"
    posted, fixed = interval(left["posted"]), interval(left["fixed"])
    some = all(left["posted"]) and pages["posted"] == 0
    none = not any(left["fixed"]) and pages["fixed"] > 0
    return Finding(
        claim="K-16",
        verdict=SUPPORTED if some and none else REFUTED if not any(left["posted"]) else NOT_DECIDABLE,
        figure=(
            f"Once every owner has allocated until nothing is left, {plain(posted, 1)} CMA blocks lie on lists of "
            f"owned blocks that phase 0 never recovered under posted, {plain(fixed, 1)} under fixed; in cma/pressure "
            f"phase 0 recovers {pages['posted']:.0f} CMA pages under posted, {pages['fixed']:.0f} under fixed."
        ),
        command=s.command("K-16"),
        value=posted.mean,
        interval=bounds(posted),
        also=(
            s.compare_command(
                "cma/pressure", CMA_POLICIES, PRESSURE_CPUS, ["cma.by_phase.0.rule_cma.cma_pages"], PRESSURE[1]
            ),
        ),
        why="Their pages are not lost: other phases take them, and drains return them; their blocks stay on the list.",
        table=tuple(table),
    )


def _phase_pages(runs: Sweep, policy: str, phase: int, kind: str) -> list[Interval]:
    """
    Pages of a kind that a phase took, where the rule said other and where it said CMA.
    """
    return [
        runs.interval(f"cma.by_phase.{phase}.rule_{rule}.{kind}_pages", policy, PRESSURE_CPUS)
        for rule in ("other", "cma")
    ]


# K-17 and K-18: takes against the 50 % rule

SCENES = ("fresh", "used", "small", "drift")
AUDITED = ("mainline", "posted", "fixed", OURS)


def _audits(s: Settings, policy: str, phases: Iterable[int]) -> dict[int, list[scenes.Takes]]:
    """
    What an audit found in each seed, all scenes added up: phase -> takes.
    """
    found: dict[int, list[scenes.Takes]] = {phase: [] for phase in phases}
    seeds = _seeds(s)
    for seed in seeds:
        if s.progress is not None:
            s.progress(f"takes one by one, {policy}, seed {seed}", seed, len(seeds))
        audits = [scenes.audit(policy, seed, scene) for scene in SCENES]
        for phase in found:
            takes = [audit.get(phase, scenes.Takes()) for audit in audits]
            found[phase].append(scenes.Takes(*(sum(values) for values in zip(*takes, strict=True))))
    return found


def _takes_table(s: Settings, phases: Sequence[int]) -> tuple[dict[str, str], ...]:
    table = []
    for policy in AUDITED:
        for phase, takes in _audits(s, policy, phases).items():
            if any(take.pages for take in takes):
                total = scenes.Takes(*(sum(values) for values in zip(*takes, strict=True)))
                table.append(
                    {
                        "policy": policy,
                        "phase": str(phase),
                        "pages": str(total.pages),
                        "against the rule": f"{total.against} ({total.against / total.pages * 100:.1f} %)",
                        "with drift": str(total.edge),
                        "only smaller chunks preferred": f"{total.finer} ({total.finer / total.pages * 100:.1f} %)",
                    }
                )
    return tuple(table)


def _k17(s: Settings) -> Finding:
    against, pages = 0, {1: 0, 3: 0}
    for policy in ("posted", "fixed"):
        for phase, takes in _audits(s, policy, (1, 3)).items():
            against += sum(take.against for take in takes)
            pages[phase] += sum(take.pages for take in takes)
    enough = min(pages.values()) >= FEW
    return Finding(
        claim="K-17",
        verdict=REFUTED if against else SUPPORTED if enough else NOT_DECIDABLE,
        figure=(
            f"Of {pages[1]} pages taken by phase 1 and {pages[3]} by phase 3, under posted and fixed, {against} were "
            "of the other type than the exact 50 % rule said at that take while the preferred one had such a chunk."
        ),
        command=s.command("K-17"),
        value=float(against),
        interval=(float(against), float(against)),
        also=(
            s.compare_command(
                "cma/pressure",
                CMA_POLICIES,
                PRESSURE_CPUS,
                [
                    f"cma.by_phase.{phase}.rule_{rule}"
                    for phase in (1, 3)
                    for rule in ("cma.other_pages", "other.cma_pages")
                ],
                PRESSURE[1],
            ),
        ),
        why=(
            "Judged from outside, by following every free chunk through the events; takes as near to 50 % as the "
            "counters of four CPUs may drift are counted apart, and a take of phase 1 is one decision for 512 pages."
        ),
        table=_takes_table(s, (1, 3)),
    )


def _k18(s: Settings) -> Finding:
    shares = {
        policy: interval([take.against / take.pages if take.pages else 0.0 for take in _audits(s, policy, (2,))[2]])
        for policy in ("posted", "fixed")
    }
    pages = sum(take.pages for take in _audits(s, "posted", (2,))[2])
    vectors = {policy: scenes.x7(policy) for policy in ("posted", "fixed")}
    posted = verdict(shares["posted"], above=0)
    clean = shares["fixed"].mean == 0
    decided = posted if clean else NOT_DECIDABLE
    return Finding(
        claim="K-18",
        verdict=decided if pages >= FEW else NOT_DECIDABLE,
        figure=(
            f"{percent(shares['posted'])} of the pages that phase 2 takes under posted are movable ones although the "
            f"50 % rule says CMA and CMA has such a chunk, {percent(shares['fixed'])} under fixed. In X7 posted gets "
            f"page {vectors['posted'][0]} with {vectors['posted'][1]} CMA pages, fixed {vectors['fixed'][0]} with "
            f"{vectors['fixed'][1]}."
        ),
        command=s.command("K-18"),
        value=shares["posted"].mean,
        interval=bounds(shares["posted"]),
        why=(
            "fixed asks the rule for each chunk, as P-36 says, and takes a large chunk of the other type rather than a "
            "small one of the preferred type; the last column counts those pages."
        ),
        table=_takes_table(s, (2,)),
    )


CLAIMS: tuple[Claim, ...] = (
    Claim(
        name="K-15",
        text="Compared with today the change prefers movable blocks over CMA.",
        source="RF",
        measurement=(
            "A zone of 64 blocks, 62 % CMA, is filled; 28768 pages drawn at random are freed, all PCPs drained (P-82). "
            f"Then the share of CMA among the first movable pages is counted, at {DECIDING} of them, over seeds."
        ),
        rule=(
            "Supported if posted's share is lower than mainline's, and fixed's higher than posted's, each by an "
            "interval of the paired differences that does not hold 0. Refuted if one of them lies wholly on the other "
            "side."
        ),
        measure=_k15,
        changed="a difference that may be chance is not decidable now; it was a refutation.",
    ),
    Claim(
        name="K-16",
        text="Phase 0 ignores CMA blocks for movable requests.",
        source="S",
        measurement=(
            "Vector X8; zones of P-82 and after some rounds like cma/pressure: every owner allocates until nothing is "
            "left, and CMA blocks still on lists of owned blocks are counted; pages that phase 0 recovers from CMA "
            "blocks in cma/pressure."
        ),
        rule=(
            "Supported if under posted such blocks are left in every seed and phase 0 recovers no CMA page, and under "
            "fixed none is left and phase 0 recovers some. Refuted if posted leaves none."
        ),
        measure=_k16,
    ),
    Claim(
        name="K-17",
        text="Phases 1 and 3 honour the CMA rule.",
        source="S",
        measurement=(
            "Every take of 16384 movable pages against the exact 50 % rule at that moment, phase by phase, in fresh "
            "zones, used ones, with small PCPs, and with drifting counters on four CPUs."
        ),
        rule=(
            "Supported if under posted and fixed no page of phases 1 and 3 is of the other type while the preferred "
            "one has such a chunk, but where drift explains it. Refuted by one page."
        ),
        measure=_k17,
    ),
    Claim(
        name="K-18",
        text="Phase 2 ignores the CMA rule.",
        source="S",
        measurement="As K-17, for phase 2; and vector X7.",
        rule=(
            "Supported if under posted the share of pages against the rule is above 0 by its interval, and under fixed "
            "there is none. Refuted if there is none under posted."
        ),
        measure=_k18,
    ),
    Claim(
        name="K-19",
        text="The preference for movable blocks is not hard to fix.",
        source="S",
        measurement=(
            "The share of CMA among movable pages, fixed against mainline, over seeds: zones of P-82 at four counts, "
            "by one CPU and by four; a zone never used before; cma/pressure at 30, 60 and 80 % CMA, and fragmented."
        ),
        rule=(
            "Supported if in every test the interval of the difference lies within 5 percentage points. Refuted if in "
            "one it lies beyond them."
        ),
        measure=_k19,
    ),
)
