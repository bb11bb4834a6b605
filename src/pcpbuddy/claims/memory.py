"""
Claims about memory: CMA, adoption of blocks, fragmentation, parked pages (K-15 to K-19, K-27 to K-29).
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..names import PAGEBLOCK_PAGES
from ..run import Run
from ..statistics import Interval, difference, interval
from ..sweeps import Sweep
from . import cma, scenes
from .claim import REFUTED, SUPPORTED, Claim, Finding, Settings, verdict
from .loads import PRESSING, press, press_command
from .words import all_of, bounds, not_above, percent, plain, points, signed

__all__ = ["CLAIMS"]

ADOPTING = ("fixed", "fixed+adopt=on", "fixed+adopt=on+adopt_min_order=2")
MORE_PARKED = 0.05
SCENE_SEEDS = 3  # a scene is so much cheaper than a run that it has so many seeds for one of those

LONG = ("mainline", "fixed", "fixed+phase1_source=own_type")
CHURN_TIMES = 10
BUILD = {"user_ns": 2000.0}
BUILD_CPUS = 8
# K-28: what is still neutral. Unusable index (of 1000); mixed blocks and huge pages as shares.
SAME_UNUSABLE, SAME_MIXED, SAME_HUGE = 20.0, 0.02, 0.02

# K-29: besides the loads that press the zone lock.
PARKING = {"pipe/pingpong": "10ms", "reclaim/kswapd": "20ms"}
PARKING_CPUS = (8, 32)
PARKED_SHARE = 1 / 8  # B-13: all high_max together are an eighth of the zone
EARLIER = 0.01  # of the zone: a crossing that much earlier is no earlier one
FILL_BLOCKS = 512  # 1 GiB


def _duration(duration: str | None) -> dict[str, Any]:
    """
    The option of a sweep, or none where the workload's own is meant.
    """
    return {} if duration is None else {"duration": duration}


# K-27: adoption


def _k27(s: Settings) -> Finding:
    seeds = range(SCENE_SEEDS * s.seeds)
    table, verdicts = [], []
    changes: dict[str, list[Interval]] = {}
    holds: list[tuple[Interval, Interval]] = []
    for pieces in scenes.PIECES:
        runs: dict[str, list[scenes.Adoption]] = {}
        for policy in ADOPTING:
            if s.progress is not None:
                s.progress(f"{pieces}, {policy}", len(runs), len(ADOPTING))
            runs[policy] = [scenes.adoption(policy, seed, pieces) for seed in seeds]
        columns = {
            policy: [interval(list(values)) for values in zip(*runs[policy], strict=True)] for policy in ADOPTING
        }
        against = {
            policy: [
                difference(list(base), list(values))
                for base, values in zip(zip(*runs["fixed"], strict=True), zip(*runs[policy], strict=True), strict=True)
            ]
            for policy in ADOPTING[1:]
        }
        local, merges, parked, *_ = against[ADOPTING[1]]
        changes[pieces] = against[ADOPTING[1]]
        holds.append((columns["fixed"][3], columns[ADOPTING[1]][3]))
        verdicts += [
            verdict(local, above=0),
            verdict(merges, above=0),
            not_above(parked, MORE_PARKED * columns["fixed"][2].mean),
        ]
        for policy in ADOPTING:
            local, merges, parked, held, owned = columns[policy]
            row = {
                "memory": pieces,
                "policy": policy,
                "local frees": percent(local),
                "PCP merges per 1000 frees": plain(merges, 1),
                "pages parked": plain(parked),
                "zone-lock holds per 1000 allocs": plain(held, 2),
                "owned blocks": plain(owned),
            }
            if policy != "fixed":
                row["merges against fixed"] = signed(against[policy][1], 1)
            table.append(row)
    first = next(iter(changes))
    return Finding(
        claim="K-27",
        verdict=all_of(verdicts),
        figure=(
            "On memory in pieces that nobody owns, adopt=on changes the share of local frees by "
            + " and ".join(f"{points(local)} ({pieces})" for pieces, (local, *_) in changes.items())
            + ", PCP merges per 1000 frees by "
            + " and ".join(signed(merges) for _, merges, *_ in changes.values())
            + ", pages parked by "
            + " and ".join(signed(parked) for _, _, parked, *_ in changes.values())
            + "; zone-lock holds per 1000 allocations go from "
            + " and ".join(" to ".join(plain(of, 1) for of in pair) for pair in holds)
            + "."
        ),
        command=s.command("K-27"),
        value=changes[first][0].mean,
        interval=bounds(changes[first][0]),
        why=(
            "A page of a block without an owner always goes to the CPU that frees it, so adoption can only make local "
            "frees remote: that condition, taken literally, cannot hold in this design, whatever adoption is good for. "
            "The columns of merges and holds say that it does help. Memory that was filled under fixed "
            "itself has an owner for every block, and there is nothing to adopt."
        ),
        table=tuple(table),
    )


# K-28: whole blocks


def _k28(s: Settings) -> Finding:
    times, seeds = s.pick(CHURN_TIMES, 2), range(SCENE_SEEDS * s.seeds)
    runs: dict[tuple[str, float], list[scenes.Churn]] = {}
    for used in scenes.USED:
        for policy in LONG:
            if s.progress is not None:
                s.progress(f"mixed types, {used * 100:.0f} % used, {policy}", len(runs), len(LONG) * len(scenes.USED))
            runs[policy, used] = [scenes.churn(policy, seed, times, used) for seed in seeds]
    duration = s.pick("300ms", "60ms")
    builds = s.sweep("build/kernel", LONG, BUILD_CPUS, parameters=BUILD, duration=duration)
    figures: dict[str, _Compared] = {}
    for used in scenes.USED:
        of = f"mixed types, {used * 100:.0f} % used: "
        figures |= {
            f"{of}unusable index 9": _Compared(_churned(runs, used, lambda c: c.unusable), SAME_UNUSABLE, 1),
            f"{of}blocks of several types": _Compared(_churned(runs, used, lambda c: c.mixed), SAME_MIXED, 1),
            f"{of}2 MiB pages to be had": _Compared(_churned(runs, used, lambda c: c.drained), SAME_HUGE, -1),
            f"{of}the same, PCPs not drained": _Compared(_churned(runs, used, lambda c: c.huge), None, -1),
            f"{of}requests that failed": _Compared(_churned(runs, used, lambda c: c.failed / 1000), None, 1),
            f"{of}unmovable and reclaimable blocks": _Compared(_churned(runs, used, lambda c: c.foreign), None, 1),
        }
    unusable = {p: list(builds.values("frag.unusable_9.mean", p, BUILD_CPUS).values()) for p in LONG}
    figures |= {
        "build/kernel: unusable index 9": _Compared(unusable, SAME_UNUSABLE, 1),
        "build/kernel: blocks of several types": _Compared({p: _mixed_share(builds, p) for p in LONG}, SAME_MIXED, 1),
    }
    table, verdicts = [], {}
    changes: dict[str, Interval] = {}
    for what, figure in figures.items():
        changes[what] = difference(figure.values["mainline"], figure.values["fixed"])
        is_index = "index" in what
        row = {
            "figure": what,
            **{p: plain(interval(figure.values[p])) if is_index else percent(interval(figure.values[p])) for p in LONG},
            "fixed against mainline": signed(changes[what]) if is_index else points(changes[what]),
        }
        if figure.margin is not None:
            first, second = ("mainline", "fixed")[:: figure.worse]
            worse = difference(figure.values[first], figure.values[second])
            verdicts[what] = not_above(worse, figure.margin)
            row["neutral or better"] = {SUPPORTED: "yes", REFUTED: "no"}.get(verdicts[what], "not sure")
        table.append(row)
    had = f"mixed types, {scenes.USED[0] * 100:.0f} % used: 2 MiB pages to be had"
    index = f"mixed types, {scenes.USED[0] * 100:.0f} % used: unusable index 9"
    shares = {policy: percent(interval(values)) for policy, values in figures[had].values.items()}
    good = sum(each == SUPPORTED for each in verdicts.values())
    return Finding(
        claim="K-28",
        verdict=all_of(verdicts.values()),
        figure=(
            f"After memory was allocated {times} times over in mixed types, {scenes.USED[0] * 100:.0f} % of it in use, "
            f"{shares['fixed']} of the possible 2 MiB pages can be had under fixed, {shares['mainline']} under "
            f"mainline ({points(changes[had])}); the unusable index of order 9 changes by "
            f"{signed(changes[index])} of 1000. Neutral or better: {good} of {len(verdicts)} figures."
        ),
        command=s.command("K-28"),
        value=changes[had].mean,
        interval=bounds(changes[had]),
        also=(
            s.compare_command(
                "build/kernel",
                LONG,
                BUILD_CPUS,
                ["frag.unusable_9.mean", "blocks.mixed", "blocks.by_type.unmovable"],
                BUILD,
                duration=duration,
            ),
        ),
        why=(
            "Neutral: within 20 of 1000 of the index, 2 points of a share. The mixture is made up; compaction, which "
            "would repair both, is left out. own_type is Q-3's remedy: phase 1 converts no foreign blocks."
        ),
        table=tuple(table),
    )


@dataclasses.dataclass(frozen=True, slots=True)
class _Compared:
    """
    A figure by policy, one value a seed. margin: what is neutral; None: shown only. worse: 1 if more is, -1 if less.
    """

    values: Mapping[str, Sequence[float]]
    margin: float | None
    worse: int


def _churned(
    runs: Mapping[tuple[str, float], Sequence[scenes.Churn]], used: float, of: Callable[[scenes.Churn], float]
) -> dict[str, list[float]]:
    return {policy: [of(run) for run in each] for (policy, share), each in runs.items() if share == used}


def _mixed_share(builds: Sweep, policy: str) -> list[float]:
    """
    Blocks of several types as a share of all blocks, in each run of the build.
    """
    runs = [builds.runs[policy, BUILD_CPUS, seed] for seed in builds.seeds]
    return [run.metrics["blocks.mixed"] * PAGEBLOCK_PAGES / _managed(run) for run in runs]


def _managed(run: Run) -> int:
    """
    Pages of all zones.
    """
    return sum(int(zone["pages"]) for zone in run.manifest["zones"])


# K-29: parked pages


def _parking(s: Settings, policies: Sequence[str]) -> Iterator[tuple[str, int, Sweep]]:
    """
    Runs that fill PCPs: workload, CPUs, runs.
    """
    for cpus in s.pick(PARKING_CPUS, PARKING_CPUS[:1]):
        for load in PRESSING:
            yield load.workload, cpus, press(s, load, policies, cpus)
        for name, duration in PARKING.items():
            yield name, cpus, s.sweep(name, policies, cpus, duration=duration)


def _k29(s: Settings) -> Finding:
    policies = ("mainline", "fixed")
    table, verdicts = [], []
    worst, where = Interval(0.0, 0.0, 0.0, 0), ""
    for name, cpus, runs in _parking(s, policies):
        share = {
            policy: [
                run.metrics["pcp.parked_pages_max"] / _managed(run)
                for seed in runs.seeds
                for run in [runs.runs[policy, cpus, seed]]
            ]
            for policy in policies
        }
        most = interval(share["fixed"])
        verdicts.append(not_above(most, PARKED_SHARE))
        if most.mean > worst.mean:
            worst, where = most, f"{name} on {cpus} CPUs"
        table.append(
            {
                "what": f"{name}: most pages parked, share of memory",
                "CPUs": str(cpus),
                **{policy: percent(interval(share[policy])) for policy in policies},
                "change": points(difference(share["mainline"], share["fixed"])),
            }
        )
    crossed: dict[bool, Interval] = {}
    for alone in (True, False):
        who = "by one CPU" if alone else "by all CPUs"
        fills = {
            policy: [scenes.fill(policy, seed, alone, s.pick(FILL_BLOCKS, 64)) for seed in range(s.seeds)]
            for policy in policies
        }
        for field in ("low", "failed", "parked"):
            share = {policy: [getattr(one, field) / one.managed for one in fills[policy]] for policy in policies}
            change = difference(share["mainline"], share["fixed"])
            if field != "parked":
                verdicts.append(not_above(difference(share["fixed"], share["mainline"]), EARLIER))
            if field == "low":
                crossed[alone] = change
            words = {
                "low": "in use when the low watermark is crossed",
                "failed": "in use at the first failure",
                "parked": "parked at the crossing",
            }
            table.append(
                {
                    "what": f"memory filled {who}: {words[field]}",
                    "CPUs": str(scenes.FILL_CPUS),
                    **{policy: percent(interval(share[policy])) for policy in policies},
                    "change": points(change),
                }
            )
    return Finding(
        claim="K-29",
        verdict=all_of(verdicts),
        figure=(
            f"At most {percent(worst)} of memory is parked under fixed, in {where} (the limit is 12.5 %); when memory "
            f"fills, the low watermark is crossed at {points(crossed[True])} of memory in use against mainline if one "
            f"CPU fills it, {points(crossed[False])} if all do."
        ),
        command=s.command("K-29"),
        value=worst.mean,
        interval=bounds(worst),
        also=tuple(
            press_command(s, load, policies, ["pcp.parked_pages_max", "pcp.parked_pages.mean"], PARKING_CPUS[-1])
            for load in PRESSING
        ),
        why=(
            "Parked: pages in PCPs, on remote lists and in outboxes, at the worst of the samples. When memory fills "
            f"nothing is reclaimed; a crossing up to {EARLIER * 100:.0f} % of memory earlier counts as no earlier one."
        ),
        table=tuple(table),
    )


CLAIMS: tuple[Claim, ...] = (
    *cma.CLAIMS,
    Claim(
        name="K-27",
        text="Adopting partial blocks helps where whole blocks are rare.",
        source="F3",
        measurement=(
            "adopt=on against fixed on memory that mainline has left in pieces: 90 % of all single pages free, or 60 % "
            "of all runs of 64 pages, drawn at random; rounds of processes on eight CPUs, three frees in ten remote."
        ),
        rule=(
            "Supported if on both the share of local frees and PCP merges per free rise, by intervals above 0, and "
            "pages parked on average do not rise by more than 5 %. Refuted if on one of them one of these does not."
        ),
        measure=_k27,
        changed=(
            "it was zones where 90 % of the pages were free, with owners, under exits, purging and a build; "
            "memory has no owners now and is in pieces of two kinds, and the load is rounds of processes."
        ),
    ),
    Claim(
        name="K-28",
        text="More whole blocks stay available than today.",
        source="C0 (implied)",
        measurement=(
            f"Memory allocated {CHURN_TIMES} times over in bursts of unmovable, movable and reclaimable pages, 70 and "
            "85 % of it in use, and a kernel build, fixed against mainline: unusable index of order 9, blocks of "
            "several types, and at the end the 2 MiB pages that can be had."
        ),
        rule=(
            "Supported (neutral or better) if no figure is worse by more than 20 of 1000 (index) or 2 points (shares), "
            "by the near end of its interval. Refuted if one is, by its whole interval."
        ),
        measure=_k28,
        changed=(
            "a second degree of use was added, and what can be had counts after requests that fail have drained "
            "all PCPs, as reclaim would."
        ),
    ),
    Claim(
        name="K-29",
        text="The memory that lies in per-CPU lists is acceptable.",
        source="implied by high limits",
        measurement=(
            "The most pages parked in five workloads, against an eighth of memory; and memory that fills up after all "
            "CPUs have filled their PCPs: how much is in use when the low watermark is crossed, and when a request "
            "first fails, fixed against mainline."
        ),
        rule=(
            "Supported if in every workload the most pages parked are at most an eighth of memory, by the upper end of "
            "the interval, and neither crossing nor failure comes earlier than under mainline by more than 1 % of "
            "memory. Refuted if one is worse by its whole interval."
        ),
        measure=_k29,
    ),
)
