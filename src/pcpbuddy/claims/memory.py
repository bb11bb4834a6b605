"""
Claims about memory: CMA, adoption of blocks, fragmentation, parked pages (K-15 to K-19, K-27 to K-29).
"""

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
ADOPTION: dict[str, dict[str, float]] = {
    "exit/storm": {"touch_mib": 16, "rounds": 3, "fragment": 0.9},
    "purge/jemalloc": {"fragment": 0.9},
    "build/kernel": {"user_ns": 2000, "cache_mib": 4, "fragment": 0.9},
}
ADOPTION_DURATION = {"purge/jemalloc": "10ms", "build/kernel": "60ms"}
ADOPTION_CPUS = 16

LONG = ("mainline", "fixed", "fixed+phase1_source=own_type")
CHURN_TIMES = 12
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
    table, verdicts, changes = [], [], {}
    for name in s.pick(tuple(ADOPTION), ("exit/storm",)):
        options = _duration(ADOPTION_DURATION.get(name))
        runs = s.sweep(name, ADOPTING, ADOPTION_CPUS, parameters=ADOPTION[name], **options)

        def figure(policy: str, of: Callable[[Mapping[str, float]], float], runs: Sweep = runs) -> list[float]:
            return [of(runs.runs[policy, ADOPTION_CPUS, seed].metrics) for seed in runs.seeds]

        def change(policy: str, of: Callable[[Mapping[str, float]], float]) -> Interval:
            return difference(figure("fixed", of), figure(policy, of))

        for policy in ADOPTING[1:]:
            local, merges = change(policy, _local_frees), change(policy, _merges)
            parked = change(policy, lambda m: m["pcp.parked_pages.mean"])
            base = interval(figure("fixed", lambda m: m["pcp.parked_pages.mean"])).mean
            holds = change(policy, lambda m: m["zone_lock.holds_per_1000_allocs"])
            if policy == ADOPTING[1]:
                verdicts += [
                    verdict(local, above=0),
                    verdict(merges, above=0),
                    not_above(parked, 0.05 * base),
                ]
                changes[name] = local
            table.append(
                {
                    "workload": name,
                    "policy": policy,
                    "local frees": points(local),
                    "PCP merges per 1000 frees": signed(merges, 1),
                    "pages parked, mean": signed(parked),
                    "zone-lock holds per 1000 allocs": signed(holds, 2),
                }
            )
    first = next(iter(changes))
    return Finding(
        claim="K-27",
        verdict=all_of(verdicts),
        figure=(
            f"On zones without whole blocks, adoption changes the share of local frees in {first} by "
            f"{points(changes[first])}"
            + "".join(f", in {name} by {points(of)}" for name, of in changes.items() if name != first)
            + f" ({ADOPTION_CPUS} CPUs, adopt=on against fixed)."
        ),
        command=s.command("K-27"),
        value=changes[first].mean,
        interval=bounds(changes[first]),
        also=tuple(
            s.compare_command(
                name,
                ADOPTING,
                ADOPTION_CPUS,
                ["frees.local", "frees.remote", "pcp.merges", "pcp.parked_pages.mean", "zone_lock.holds"],
                ADOPTION[name],
                **_duration(ADOPTION_DURATION.get(name)),
            )
            for name in changes
        ),
        why="An owner draws the frees of all CPUs to itself; what is local to the CPU that frees is not the same.",
        table=tuple(table),
    )


def _local_frees(m: Mapping[str, float]) -> float:
    frees = m["frees.local"] + m["frees.remote"] + m["frees.direct"]
    return m["frees.local"] / frees if frees else 0.0


def _merges(m: Mapping[str, float]) -> float:
    frees = m["frees.local"] + m["frees.remote"] + m["frees.direct"]
    return 1000 * m["pcp.merges"] / frees if frees else 0.0


# K-28: whole blocks


def _k28(s: Settings) -> Finding:
    times = s.pick(CHURN_TIMES, 2)
    seeds = list(range(s.seeds))
    runs: dict[str, list[scenes.Churn]] = {}
    for number, policy in enumerate(LONG):
        runs[policy] = []
        for seed in seeds:
            if s.progress is not None:
                s.progress(f"mixed types, {policy}, seed {seed}", number * len(seeds) + seed, len(LONG) * len(seeds))
            runs[policy].append(scenes.churn(policy, seed, times))
    duration = s.pick("300ms", "60ms")
    builds = s.sweep("build/kernel", LONG, BUILD_CPUS, parameters=BUILD, duration=duration)

    def churned(policy: str, of: Callable[[scenes.Churn], float]) -> list[float]:
        return [of(run) for run in runs[policy]]

    def built(policy: str, metric: str) -> list[float]:
        return list(builds.values(metric, policy, BUILD_CPUS).values())

    blocks = float(scenes.CHURN_BLOCKS)
    figures: dict[str, tuple[Callable[[str], list[float]], float, int]] = {
        # what: values by policy, margin, and 1 if more is worse, -1 if less is
        "mixed types: unusable index 9": (lambda p: churned(p, lambda c: c.unusable), SAME_UNUSABLE, 1),
        "mixed types: blocks of several types": (lambda p: churned(p, lambda c: c.mixed / blocks), SAME_MIXED, 1),
        "mixed types: 2 MiB pages, share of what is possible": (
            lambda p: churned(p, lambda c: c.drained),
            SAME_HUGE,
            -1,
        ),
        "build/kernel: unusable index 9": (lambda p: built(p, "frag.unusable_9.mean"), SAME_UNUSABLE, 1),
        "build/kernel: blocks of several types": (lambda p: _mixed_share(builds, p), SAME_MIXED, 1),
    }
    table, verdicts = [], {}
    changes: dict[str, Interval] = {}
    for what, (values, margin, sign) in figures.items():
        changes[what] = difference(values("mainline"), values("fixed"))
        worse = changes[what] if sign > 0 else difference(values("fixed"), values("mainline"))
        verdicts[what] = not_above(worse, margin)
        is_index = "index" in what
        table.append(
            {
                "figure": what,
                **{p: plain(interval(values(p)), 1) if is_index else percent(interval(values(p))) for p in LONG},
                "fixed against mainline": signed(changes[what], 1) if is_index else points(changes[what]),
                "neutral or better": {SUPPORTED: "yes", REFUTED: "no"}.get(verdicts[what], "not sure"),
            }
        )
    for what, of in (
        ("mixed types: unmovable and reclaimable blocks", lambda c: c.foreign / blocks),
        ("mixed types: 2 MiB pages before PCPs are drained", lambda c: c.huge),
    ):
        row = {policy: percent(interval(churned(policy, of))) for policy in LONG}
        against = points(difference(churned("mainline", of), churned("fixed", of)))
        table.append({"figure": what, **row, "fixed against mainline": against, "neutral or better": ""})
    decisive = "mixed types: 2 MiB pages, share of what is possible"
    unusable = changes["mixed types: unusable index 9"]
    return Finding(
        claim="K-28",
        verdict=all_of(verdicts.values()),
        figure=(
            f"After memory was allocated {times} times over in mixed types, "
            f"{percent(interval(churned('fixed', _had)))} of the possible 2 MiB pages can be had under fixed, "
            f"{percent(interval(churned('mainline', _had)))} under mainline ({points(changes[decisive])}); the "
            f"unusable index of order 9 changes by {signed(unusable, 1)} of 1000."
        ),
        command=s.command("K-28"),
        value=changes[decisive].mean,
        interval=bounds(changes[decisive]),
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


def _had(of: scenes.Churn) -> float:
    return of.drained


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
            f"nothing is reclaimed; a crossing up to {EARLIER:.0%} of memory earlier counts as no earlier one."
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
            "adopt=on against fixed on zones where 90 % of the pages, drawn at random, are free: exits, purging, a "
            f"build, on {ADOPTION_CPUS} CPUs."
        ),
        rule=(
            "Supported if in every workload the share of local frees and PCP merges per free rise, by intervals above "
            "0, and pages parked on average do not rise by more than 5 %. Refuted if in one workload one of them does "
            "not."
        ),
        measure=_k27,
    ),
    Claim(
        name="K-28",
        text="More whole blocks stay available than today.",
        source="C0 (implied)",
        measurement=(
            f"Memory allocated {CHURN_TIMES} times over in bursts of unmovable, movable and reclaimable pages, and a "
            "kernel build, fixed against mainline: unusable index of order 9, blocks of several types, and at the end "
            "the 2 MiB pages that can be had."
        ),
        rule=(
            "Supported (neutral or better) if no figure is worse by more than 20 of 1000 (index) or 2 points (shares), "
            "by the near end of its interval. Refuted if one is, by its whole interval."
        ),
        measure=_k28,
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
