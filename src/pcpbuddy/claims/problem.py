"""
Claims K-1 to K-3: the zone lock is a bottleneck, and why. All on mainline, and the same curves for what shall help.
"""

import itertools
from collections.abc import Iterable

from ..comparison import Comparison
from ..metrics import Metrics
from ..quantities import count_text, ns_text, share_text
from ..statistics import Interval, difference, interval
from ..sweeps import Sweep
from .claim import SUPPORTED, Claim, Finding, Settings, any_of, decided, verdict
from .loads import MIDDLE, PRESSING, Pressing, curve_policies, curve_sizes, per_1000, press, press_command, text, values
from .shapes import shape
from .words import all_of

__all__ = ["CLAIMS", "curves"]

WAIT = "zone_lock.wait_ns.share"
FEW = 8  # CPUs from which on a curve must be steeper than the number of CPUs
MARK = 0.05  # of CPU time, at MIDDLE CPUs
CONTROL = "local/loop"
SEVERAL = 3
PURGE, STORM, FAULTS = PRESSING


def curves(settings: Settings) -> tuple[dict[str, str], ...]:
    """
    The zone lock's share of CPU time by load, policy and number of CPUs: a row for each load and policy.

    Of the largest machines one seed is enough: what differs there differs by far.
    """
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for load in PRESSING:
        for size in curve_sizes(settings):
            for policy, share in _shares(settings, load, size):
                row = rows.setdefault((load.workload, policy), {"load": load.workload, "policy": policy})
                row["1 CPU" if size == 1 else f"{size} CPUs"] = share_text(share)
    return tuple(rows.values())


def _shares(settings: Settings, load: Pressing, size: int) -> Iterable[tuple[str, float]]:
    """
    Of every policy at one size.
    """
    policies = curve_policies(settings)
    sweep = press(settings, load, policies, size, seeds=None if size <= MIDDLE else 1)
    for policy in policies:
        yield policy, sweep.interval(WAIT, policy, size).mean


def k1(settings: Settings) -> Finding:
    rows = curves(settings)
    waits, found = {}, {}
    for load in PRESSING:
        at = {
            size: values(press(settings, load, curve_policies(settings), size), "mainline", WAIT)
            for size in (FEW, MIDDLE)
        }
        waits[load.workload] = interval(at[MIDDLE])
        steep = difference([MIDDLE / FEW * share for share in at[FEW]], at[MIDDLE])
        found[load.workload] = all_of([verdict(waits[load.workload], above=MARK), verdict(steep, above=0)])
    control = settings.sweep(CONTROL, ["mainline"], MIDDLE).interval(WAIT, "mainline", MIDDLE)
    most = max(waits, key=lambda name: waits[name].mean)
    at_middle = "; ".join(f"{name} {text(wait, 'share')}" for name, wait in waits.items())
    last = {row["load"]: list(row.items())[-1] for row in rows if row["policy"] == "mainline"}
    at_end = ", ".join(f"{name} {share}" for name, (_, share) in last.items())
    figure = (
        f"share of CPU time that mainline waits for the zone lock at {MIDDLE} CPUs: {at_middle}; {CONTROL} "
        f"{text(control, 'share')}; at {next(iter(last.values()))[0]}: {at_end}. "
        f"Above {share_text(MARK)}, and more than {MIDDLE // FEW} times the share at {FEW}: "
        f"{' and '.join(name for name, each in found.items() if each == SUPPORTED) or 'none'}"
    )
    return Finding(
        claim="K-1",
        verdict=all_of([any_of(found.values()), verdict(control, below=MARK)]),
        figure=figure,
        value=waits[most].mean,
        interval=(waits[most].low, waits[most].high),
        command=settings.command("K-1"),
        also=tuple(press_command(settings, load, curve_policies(settings), [WAIT]) for load in PRESSING),
        why=(
            "All CPUs are on one node and share one zone; a machine with more nodes has a lock for each. exit/storm is "
            "an eighth of a real one, which understates its waits: by a fifth at 32 CPUs. How high the "
            "share is depends on the load's other work; the loads are what will-it-scale and the cover letter name, "
            "with nothing between the page faults but clearing and a little use of the page. Where the share nears 1, "
            "as in exit/storm, it can no longer grow faster than the number of CPUs; in purge/jemalloc threads fall "
            "asleep when their purger, who waits for the lock, is too far behind."
        ),
        table=rows,
    )


def _sides(m: Metrics) -> tuple[float, float]:
    """
    Zone-lock holds per 1000 pages: of the side that allocates, and of the side that frees.
    """
    allocating = m["zone_lock.holds.refill"] + m["zone_lock.holds.direct_alloc"]
    freeing = m["zone_lock.holds.drain"] + m["zone_lock.holds.direct_free"]
    return per_1000(allocating, m["pages.allocated"]), per_1000(freeing, m["pages.freed"])


def _by_side(sweep: Sweep, side: int) -> list[float]:
    """
    One side's holds under mainline, by seed.
    """
    return values(sweep, "mainline", lambda m: _sides(m)[side])


def k2(settings: Settings) -> Finding:
    crossed = press(settings, PURGE, ["mainline"], MIDDLE)
    alone = press(settings, PURGE, ["mainline"], 1)
    beyond: list[Interval] = []
    rows = []
    for side, which in enumerate(("allocating", "freeing")):
        there, here = (_by_side(sweep, side) for sweep in (crossed, alone))
        beyond.append(difference([SEVERAL * count for count in here], there))
        rows.append(
            {
                "load": f"purge/jemalloc, {MIDDLE} CPUs, against one that purges by itself",
                "side": which,
                "crossed": text(interval(there)),
                "local": text(interval(here)),
            }
        )
    s2 = []
    for name in ("S1", "S2"):
        both = [_sides(shape(name, "mainline", local=local)) for local in (False, True)]
        for side, which in enumerate(("allocating", "freeing")):
            cells = {"crossed": count_text(both[0][side]), "local": count_text(both[1][side])}
            rows.append({"load": f"shape/{name}, and freed where it was taken", "side": which, **cells})
            if name == "S2":
                s2.append(decided(both[0][side] > SEVERAL * both[1][side]))
    holds = values(crossed, "mainline", "zone_lock.holds_per_1000_allocs")
    return Finding(
        claim="K-2",
        verdict=all_of([*s2, *(verdict(side, above=0) for side in beyond)]),
        figure=(
            f"purge/jemalloc on {MIDDLE} CPUs takes the zone lock {rows[0]['crossed']} times per 1000 pages where it "
            f"allocates and {rows[1]['crossed']} where it frees, against {rows[0]['local']} and {rows[1]['local']} of "
            f"a thread that purges by itself; shape/S2 {rows[4]['crossed']} and {rows[5]['crossed']} against "
            f"{rows[4]['local']} and {rows[5]['local']}"
        ),
        value=interval(holds).mean,
        interval=(interval(holds).low, interval(holds).high),
        command=settings.command("K-2"),
        also=(
            press_command(settings, PURGE, ["mainline"], ["zone_lock.holds.refill", "zone_lock.holds.drain"]),
            "pcpbuddy compare shape/S2 --policy mainline",
        ),
        why="S1 takes all pages before it frees one, so that no page can be used again: its control is no better.",
        table=tuple(rows),
    )


def k3(settings: Settings) -> Finding:
    sizes = [size for size in curve_sizes(settings) if size >= FEW]

    def wait(m: Metrics) -> float:
        return (m["zone_lock.wait_ns.drain.total"] + m["zone_lock.wait_ns.direct_free.total"]) / m["work"]

    rows, waits = [], {}
    for size in sizes:
        sweep = press(settings, STORM, ["mainline"], size)
        waits[size] = values(sweep, "mainline", wait)
        per_hold = values(sweep, "mainline", lambda m: m["drain.pages"] / max(m["zone_lock.holds.drain"], 1))
        merges = values(sweep, "mainline", lambda m: m["zone_lock.merges"] / m["pages.freed"])
        rows.append(
            {
                "CPUs": str(size),
                "wait of an exit": text(interval(waits[size]), "ns"),
                "pages per drain hold": count_text(interval(per_hold).mean),
                "merge steps per page": count_text(interval(merges).mean),
            }
        )
    steps = [difference(waits[few], waits[more]) for few, more in itertools.pairwise(sizes)]
    last = interval(waits[sizes[-1]])
    s3, s5 = (settings.compare(f"shape/{name}", ("mainline",)) for name in ("S3", "S5"))
    return Finding(
        claim="K-3",
        verdict=all_of(verdict(step, above=0) for step in steps),
        figure=(
            f"an exit under exit/storm waits {ns_text(interval(waits[FEW]).mean)} for the zone lock where {FEW} exit "
            f"at once and {text(last, 'ns')} where {sizes[-1]} do; shape/S5, whose pages outgrow the PCPs, takes the "
            f"lock {_holds(s5)} times, S3 {_holds(s3)}"
        ),
        value=last.mean,
        interval=(last.low, last.high),
        command=settings.command("K-3"),
        also=(press_command(settings, STORM, ["mainline"], ["zone_lock.wait_ns.drain.total"]),),
        why="A process touches twice what a PCP may hold. One that touches less stays in the PCPs, and takes no lock.",
        table=tuple(rows),
    )


def _holds(of: Comparison) -> str:
    return count_text(of.runs[0].metrics["zone_lock.holds"])


CLAIMS = (
    Claim(
        name="K-1",
        text="The zone lock is a scaling bottleneck on large machines",
        source="C0, P2",
        measurement="mainline: share of CPU time spent waiting for the zone lock, against the number of CPUs",
        rule=(
            f"in at least one of the three loads the share at {MIDDLE} CPUs is above {share_text(MARK)} and more than "
            f"{MIDDLE // FEW} times that at {FEW} (whole interval), and {CONTROL} stays below"
        ),
        measure=k1,
    ),
    Claim(
        name="K-2",
        text="Pages freed on other CPUs than took them defeat the PCPs: both sides go to the zone",
        source="C0, P2",
        measurement="mainline: zone-lock holds per 1000 pages on both sides, against a run that frees locally",
        rule=f"on both sides more than {SEVERAL} times the holds of the control (whole interval), in S2 too",
        measure=k2,
    ),
    Claim(
        name="K-3",
        text="Concurrent exits overflow the PCPs and queue at the zone lock",
        source="C0, P2",
        measurement="mainline, exit/storm: time that an exit waits for the zone lock, against the number of exits",
        rule="the wait of an exit grows from each number of CPUs to the next (whole interval)",
        measure=k3,
    ),
)
