"""
Claims K-4 to K-10, K-13 and K-14: what the proposal gains, by its own account and by its authors'.

Those that the cover letter makes are decided with ``posted``, the proposal as it was mailed; ``fixed`` and the other
profiles stand beside it.
"""

from collections.abc import Callable
from typing import Any

from .. import replay
from ..config import PROFILES
from ..costs import costs
from ..metrics import Metrics
from ..names import PAGEBLOCK_PAGES
from ..quantities import count_text, ns_text, share_text, size_text
from ..statistics import Interval, interval
from ..sweeps import Sweep
from .claim import NOT_DECIDABLE, REFUTED, SUPPORTED, Claim, Finding, Settings, decided, verdict
from .loads import (
    MIDDLE,
    PRESSING,
    changes,
    curve_policies,
    drain_pages,
    outright,
    per_1000,
    press,
    press_command,
    refilled_pages,
    text,
    values,
)
from .shapes import shape
from .words import all_of, within

__all__ = ["CLAIMS"]

MIB = 1 << 20
BOTH = ("mainline", "posted")
HALF_BLOCK = PAGEBLOCK_PAGES // 2
NEUTRAL = 0.01  # refills per 1000 allocations
PURGE, STORM, FAULTS = PRESSING
Of = str | Callable[[Metrics], float]


def _pages_per_refill(m: Metrics) -> float:
    return refilled_pages(m) / m["refill.count"] if m["refill.count"] else 0.0


def _falls(sweep: Sweep, of: Of, policy: str = "posted") -> str:
    """
    Whether a figure falls against mainline, as a verdict.
    """
    return verdict(changes(sweep, "mainline", policy, of), below=0)


def _mean(sweep: Sweep, policy: str, of: Of) -> Interval:
    return interval(values(sweep, policy, of))


def k4(settings: Settings) -> Finding:
    holds = "zone_lock.holds_per_1000_allocs"
    rows, fewer, coarser = [], [], []
    which = Interval(float("inf"), 0, 0, 0)
    for load in PRESSING:
        sweep = press(settings, load, curve_policies(settings))
        fewer.append(_falls(sweep, holds))
        pages = _mean(sweep, "posted", _pages_per_refill)
        if _mean(sweep, "posted", "refill.count").mean:  # without a refill there is nothing to be coarse
            which = min(which, pages)
            coarser.append(verdict(pages, above=HALF_BLOCK))
        rows += [
            {
                "load": load.workload,
                "policy": policy,
                "holds per 1000 allocations": text(_mean(sweep, policy, holds)),
                "pages per refill": text(_mean(sweep, policy, _pages_per_refill)),
                "pages per hold": text(_mean(sweep, policy, "zone_lock.pages_per_hold")),
            }
            for policy in curve_policies(settings)
        ]
    pairs = "; ".join(
        f"{load.workload} {row['holds per 1000 allocations']} instead of {base['holds per 1000 allocations']}"
        for load, base, row in zip(PRESSING, _of(rows, "mainline"), _of(rows, "posted"), strict=True)
    )
    return Finding(
        claim="K-4",
        verdict=all_of([*fewer, *coarser]),
        figure=(
            f"zone-lock holds per 1000 allocations under posted at {MIDDLE} CPUs: {pairs}; where there are refills, "
            f"one brings {text(which)} pages or more"
        ),
        value=which.mean,
        interval=(which.low, which.high),
        command=settings.command("K-4"),
        also=tuple(press_command(settings, load, curve_policies(settings), [holds]) for load in PRESSING),
        why=(
            "Memory is fresh. Where nearly all pages return to their owner, as in purge/jemalloc, no block is claimed "
            "any more; the holds that are left there are of single pages, for which the CPU found its own PCP lock "
            "taken by a CPU that was freeing to it (P-31, P-41) or, under fixed, the owner's (K-24). Refills are large "
            "under mainline too, once its tuning has grown them, but page by page."
        ),
        table=tuple(rows),
    )


def _of(rows: list[dict[str, str]], policy: str) -> list[dict[str, str]]:
    return [row for row in rows if row["policy"] == policy]


FRAGMENTED = (0.3, 0.7)
CHUNKS = ("chunk-only+phase2=off", "chunk-only")


def k5(settings: Settings) -> Finding:
    def ops(m: Metrics) -> float:
        """
        List operations of refills for 1000 pages: all but those of frees, an insertion each and a removal a merge.
        """
        frees = m["drain.entries"] + m["frees.direct"] + m["zone_lock.merges"]
        return per_1000(m["zone_lock.list_ops"] - frees, refilled_pages(m))

    rows, fewer, shorter = [], [], []
    without, chunks = CHUNKS
    cpus = 8
    saved = Interval(0, 0, 0, 0)
    for fragment in FRAGMENTED:
        parameters = {"touch_mib": 12, "warm_up": 0, "rounds": 1, "fragment": fragment}
        sweep = settings.sweep("exit/storm", CHUNKS, cpus, parameters=parameters, memory=64 * cpus * MIB)
        less = changes(sweep, without, chunks, ops)
        hold = changes(sweep, without, chunks, "zone_lock.hold_ns.refill.mean")
        fewer.append(verdict(less, below=0))
        shorter.append(verdict(hold, below=0))
        base = _mean(sweep, without, ops).mean
        saved = Interval(less.mean / base, less.low / base, less.high / base, less.n)
        rows.append(
            {
                "load": f"exit/storm, once, {share_text(fragment)} of memory free at random",
                "list operations per 1000 pages": f"{text(_mean(sweep, chunks, ops))}, not {count_text(base)}",
                "mean hold of a refill": _instead(sweep, "zone_lock.hold_ns.refill.mean", "ns"),
                "holds per 1000 allocations": _instead(sweep, "zone_lock.holds_per_1000_allocs", "count"),
            }
        )
    for name in ("S4", "S6"):
        found = {policy: shape(name, policy) for policy in (*CHUNKS, "mainline", "fixed")}
        rows.append(
            {
                "load": f"shape/{name} (fixed {count_text(found['fixed']['zone_lock.list_ops'])} operations, "
                f"mainline {count_text(found['mainline']['zone_lock.list_ops'])})",
                "list operations per 1000 pages": (
                    f"{count_text(ops(found[chunks]))}, not {count_text(ops(found[without]))}"
                ),
                "mean hold of a refill": "-",
                "holds per 1000 allocations": (
                    f"{count_text(found[chunks]['zone_lock.holds_per_1000_allocs'])}, not "
                    f"{count_text(found[without]['zone_lock.holds_per_1000_allocs'])}"
                ),
            }
        )
    return Finding(
        claim="K-5",
        verdict=all_of([*fewer, *shorter]),
        figure=(
            f"without whole blocks, taking chunks changes list operations per page by {text(saved, 'share')} where "
            f"{share_text(FRAGMENTED[-1])} of memory is free at random; mean hold of a refill "
            f"{rows[1]['mean hold of a refill']}; where {share_text(FRAGMENTED[0])} is free: operations per 1000 pages "
            f"{rows[0]['list operations per 1000 pages']}, hold {rows[0]['mean hold of a refill']}"
        ),
        value=saved.mean,
        interval=(saved.low, saved.high),
        command=settings.command("K-5"),
        also=(
            settings.compare_command(
                "exit/storm",
                CHUNKS,
                cpus,
                ["zone_lock.list_ops", "zone_lock.hold_ns.refill.mean"],
                parameters,
                memory=f"{64 * cpus}MiB",
            ),
            "pcpbuddy compare shape/S4 --policy mainline,chunk-only,fixed",
        ),
        why=(
            "Eight processes take pages for the first time. Memory is fragmented page by page at random, which leaves "
            "fewer chunks than memory that processes have used."
        ),
        table=tuple(rows),
    )


def _instead(sweep: Sweep, metric: str, kind: str) -> str:
    """
    "new, not old" of the two policies of K-5.
    """
    without, chunks = (_mean(sweep, policy, metric) for policy in CHUNKS)
    return f"{text(chunks, kind)}, not {text(without, kind)}"


def _refills(m: Metrics) -> float:
    return per_1000(m["refill.count"], m["allocs"])


def k6(settings: Settings) -> Finding:
    def fetched(m: Metrics) -> float:
        return per_1000(refilled_pages(m), m["pages.allocated"])

    rows = []
    purge = press(settings, PURGE, curve_policies(settings))
    control = settings.sweep("local/loop", BOTH, MIDDLE)
    refills = changes(purge, "mainline", "posted", _refills)
    pages = changes(purge, "mainline", "posted", fetched)
    neutral = changes(control, *BOTH, _refills)
    for name, sweep, policies in (("purge/jemalloc", purge, curve_policies(settings)), ("local/loop", control, BOTH)):
        rows += [
            {
                "load": f"{name}, {MIDDLE} CPUs",
                "policy": policy,
                "served without the zone lock": text(_mean(sweep, policy, "allocs.from_pcp"), "share"),
                "refills per 1000 allocations": text(_mean(sweep, policy, _refills)),
                "pages from the zone per 1000": text(_mean(sweep, policy, fetched)),
            }
            for policy in policies
        ]
    for name in ("S1", "S2"):
        rows += [
            {
                "load": f"shape/{name}",
                "policy": policy,
                "served without the zone lock": share_text(m["allocs.from_pcp"]),
                "refills per 1000 allocations": count_text(_refills(m)),
                "pages from the zone per 1000": count_text(fetched(m)),
            }
            for policy in BOTH
            for m in [shape(name, policy)]
        ]
    shapes = {(name, policy): shape(name, policy) for name in ("S1", "S2") for policy in BOTH}
    fewer = [
        decided(of(shapes[name, "posted"]) < of(shapes[name, "mainline"]))
        for name in ("S1", "S2")
        for of in (_refills, fetched)
    ]
    base, new = (_mean(purge, policy, "allocs.from_pcp") for policy in BOTH)
    was, now = (_mean(purge, policy, fetched) for policy in BOTH)
    return Finding(
        claim="K-6",
        verdict=all_of([*fewer, verdict(refills, below=0), verdict(pages, below=0), within(neutral, NEUTRAL)]),
        figure=(
            f"of 1000 pages allocated in purge/jemalloc at {MIDDLE} CPUs {text(now)} came from the zone under posted, "
            f"{text(was)} under mainline; refills per 1000 allocations change by {text(refills)} there and by "
            f"{text(neutral)} in local/loop; in S2 {rows[-1]['pages from the zone per 1000']} pages instead of "
            f"{rows[-2]['pages from the zone per 1000']}. Served without any zone lock: {text(new, 'share')}, mainline "
            f"{text(base, 'share')}"
        ),
        value=pages.mean,
        interval=(pages.low, pages.high),
        command=settings.command("K-6"),
        also=(press_command(settings, PURGE, curve_policies(settings), ["allocs.from_pcp", "refill.count"]),),
        why=(
            "By allocations served without the zone lock posted and fixed are worse than mainline in purge/jemalloc, "
            "and llist, where nobody takes a foreign PCP lock, is not. S1 has nothing to use again."
        ),
        table=tuple(rows),
    )


def k7(settings: Settings) -> Finding:
    sweeps = {load.workload: press(settings, load, curve_policies(settings)) for load in PRESSING}

    def pooled(which: str, policy: str) -> list[float]:
        sums = [values(sweep, policy, which) for sweep in sweeps.values()]
        return [sum(of_seed) for of_seed in zip(*sums, strict=True)]

    def share(policy: str) -> Interval:
        inside, outside = pooled("pcp.merges", policy), pooled("zone_lock.merges", policy)
        return interval([i / (i + o) if i + o else 0.0 for i, o in zip(inside, outside, strict=True)])

    def entry(policy: str) -> Interval:
        pages, entries = pooled("drain.pages", policy), pooled("drain.entries", policy)
        return interval([p / e if e else 0.0 for p, e in zip(pages, entries, strict=True)])

    moved, pages = share("posted"), entry("posted")
    rows = [
        {
            "load": name,
            "policy": policy,
            "merge steps in PCPs": text(_mean(sweep, policy, "pcp.merges")),
            "under the zone lock": text(_mean(sweep, policy, "zone_lock.merges")),
            "pages of a drained entry": text(_mean(sweep, policy, drain_pages)),
        }
        for name, sweep in sweeps.items()
        for policy in curve_policies(settings)
    ]
    return Finding(
        claim="K-7",
        verdict=all_of([verdict(moved, above=0.5), verdict(pages, above=1)]),
        figure=(
            f"of all merge steps of posted in the three loads at {MIDDLE} CPUs, {text(moved, 'share')} happen in PCPs "
            f"(fixed {text(share('fixed'), 'share')}); a drained entry has {text(pages)} pages, mainline's "
            f"{text(entry('mainline'))}"
        ),
        value=moved.mean,
        interval=(moved.low, moved.high),
        command=settings.command("K-7"),
        also=tuple(press_command(settings, load, BOTH, ["pcp.merges", "zone_lock.merges"]) for load in PRESSING),
        why="A load without drains has no merge steps at all: the pass of P-50 runs only when a PCP is drained.",
        table=tuple(rows),
    )


def k8(settings: Settings) -> Finding:
    def total(m: Metrics) -> float:
        return m["zone_lock.hold_ns.total"] / m["allocs"]

    tail = "zone_lock.hold_ns.p99"
    rows, falls = [], []
    for load in PRESSING:
        sweep = press(settings, load, curve_policies(settings))
        falls += [_falls(sweep, of) for of in (tail, total)]
        for policy in curve_policies(settings):
            cells = {
                f"{kind} {which}": ns_text(_mean(sweep, policy, f"zone_lock.hold_ns.{kind}.{which}").mean)
                for kind in ("refill", "drain")
                for which in ("p50", "p99", "max")
            }
            rows.append(
                {
                    "load": load.workload,
                    "policy": policy,
                    **cells,
                    "p99": text(_mean(sweep, policy, tail), "ns"),
                    "held per allocation": text(_mean(sweep, policy, total), "ns"),
                }
            )
    first = press(settings, STORM, curve_policies(settings))
    base, new = (_mean(first, policy, tail) for policy in BOTH)
    return Finding(
        claim="K-8",
        verdict=all_of(falls),
        figure=(
            f"p99 of a zone-lock hold in exit/storm at {MIDDLE} CPUs: posted {text(new, 'ns')}, mainline "
            f"{text(base, 'ns')}; held per allocation in all three loads: "
            + "; ".join(
                f"{load.workload} {there['held per allocation']} instead of {here['held per allocation']}"
                for load, here, there in zip(PRESSING, _of(rows, "mainline"), _of(rows, "posted"), strict=True)
            )
        ),
        value=new.mean,
        interval=(new.low, new.high),
        command=settings.command("K-8"),
        also=tuple(press_command(settings, load, curve_policies(settings), [tail]) for load in PRESSING),
        why="Times are those of the cost model. A whole block that is drained is one list operation, without a merge.",
        table=tuple(rows),
    )


BUILD = "build/kernel"
PATH_NS = 100_000  # fork, exec and exit of a process: workload/mixed.py


def k9(settings: Settings) -> Finding:
    model = costs(settings.costs)
    duration = settings.pick("300ms", "100ms")
    sweep = settings.sweep(BUILD, curve_policies(settings), MIDDLE, duration=duration)

    def allocator(m: Metrics) -> float:
        """
        Time in the allocator and waiting for its locks, a process.
        """
        shares = m["cpu.allocator"] + m["cpu.zone_wait"] + m["cpu.pcp_wait"]
        return shares * m["time.measured_ns"] * m["time.cpus"] / m["work"]

    def system(m: Metrics) -> float:
        """
        What counts as system time in a build: the allocator, its locks, faults, clearing, and the path of a process.
        """
        return allocator(m) + PATH_NS + m["pages.allocated"] / m["work"] * (model.fault_ns + model.zero_ns)

    rows = []
    relative = Interval(0, 0, 0, 0)
    for policy in curve_policies(settings):
        less = [
            (b - a) / s
            for a, b, s in zip(
                values(sweep, "mainline", allocator),
                values(sweep, policy, allocator),
                values(sweep, "mainline", system),
                strict=True,
            )
        ]
        if policy == "posted":
            relative = interval(less)
        rows.append(
            {
                "policy": policy,
                "allocator and its locks, a process": text(_mean(sweep, policy, allocator), "ns"),
                "system time, a process": text(_mean(sweep, policy, system), "ns"),
                "change of system time": "-" if policy == "mainline" else text(interval(less), "share"),
                "zone lock wait, of CPU time": text(_mean(sweep, policy, "zone_lock.wait_ns.share"), "share"),
                "holds per 1000 allocations": text(_mean(sweep, policy, "zone_lock.holds_per_1000_allocs")),
            }
        )
    return Finding(
        claim="K-9",
        verdict=NOT_DECIDABLE,
        figure=(
            f"build/kernel on {MIDDLE} virtual CPUs: posted changes system time by {text(relative, 'share')}, "
            "counting as system time the allocator, its locks, page faults, clearing of pages and the path of a "
            "process; 3 to 4 % less was reported"
        ),
        value=relative.mean,
        interval=(relative.low, relative.high),
        command=settings.command("K-9"),
        also=(
            settings.compare_command(
                BUILD,
                curve_policies(settings),
                MIDDLE,
                ["cpu.allocator", "zone_lock.wait_ns.share"],
                duration=duration,
            ),
        ),
        why=(
            "The sign and the order of magnitude are the most that a model can say. A recording of a kernel build on "
            "32 CPUs would decide it (`pcpbuddy compare RECORDING --machine`, its system time beside it), or a build "
            "on a kernel with the patches; this project has neither."
        ),
        table=tuple(rows),
    )


SMALL = ((64, 1), (64, 4), (256, 16), (1024, 64))  # MiB and CPUs
DECIDING = ("posted", "fixed")
TESTED = tuple(name for name in ("mainline", *DECIDING, "llist", "handover", "tuned") if name in PROFILES)
BUSY = {"read_ns": 1000}  # a reader that gets a page every microsecond, 4 GB/s, so that nearly all reclaim directly
WORSE_WORK, WORSE_HOLDS, WORSE_REFUSED = 0.01, 0.10, 1.0
WORSE = (
    f"{share_text(WORSE_WORK)} of work, {share_text(WORSE_HOLDS)} of holds (and one in 1000 allocations) or "
    f"{WORSE_REFUSED:.0f} refusal in 1000"
)


def k10(settings: Settings) -> Finding:
    rows = []
    lowest, where = Interval(0, 0, 0, 0), ""
    for mib, cpus in settings.pick(SMALL, SMALL[:3]):
        slow: dict[str, Any] = {"duration": settings.pick("100ms", "40ms")}
        busy: dict[str, Any] = {"duration": "20ms", "parameters": BUSY}
        exits: dict[str, Any] = {"parameters": {"touch_mib": max(2, mib * 3 // 4 // cpus // 2 * 2)}}
        loads = (("reclaim/kswapd", slow), ("reclaim/kswapd, 1 us a page", busy), ("exit/storm", exits))
        for name, options in loads if cpus > 1 else loads[2:]:  # reclaim takes a CPU of its own
            sweep = settings.sweep(name.split(",")[0], TESTED, cpus, memory=mib * MIB, **options)
            for policy in TESTED[1:]:
                work = _relative(sweep, policy, "work.per_s")
                rows.append({"load": name, "memory": f"{mib} MiB", "CPUs": str(cpus), **_worse(sweep, policy, work)})
                if policy in DECIDING and work.mean < lowest.mean:
                    lowest, where = work, f"{name} on {cpus} CPUs in {mib} MiB under {policy}"
    for name in ("S4", "S6"):
        base, new = (shape(name, policy)["zone_lock.holds"] for policy in ("mainline", "fixed"))
        change = share_text(new / base - 1)
        cells = {"work": "-", "holds": change, "refused per 1000": "-", "worse": "holds" if new > base else "-"}
        rows.append({"load": f"shape/{name}", "memory": "128 MiB", "CPUs": "2", "policy": "fixed", **cells})
    worse = [row for row in rows if row["policy"] in DECIDING and row["worse"] != "-"]
    names = sorted({row["load"] for row in worse})
    ours = [row for row in rows if row["policy"] == "tuned"]
    worse_ours = ", ".join(
        f"{row['worse']} in {row['load']} on {row['CPUs']} CPUs" for row in ours if row["worse"] != "-"
    )
    return Finding(
        claim="K-10",
        verdict=decided(not worse),
        figure=(
            f"posted and fixed against mainline on zones of 64 MiB to {mib} MiB, 1 to {cpus} CPUs: worse in "
            f"{len(worse)} of {sum(row['policy'] in DECIDING for row in rows)} lines"
            + (f" ({' and '.join(names)})" if names else "")
            + (f"; least work done: {text(lowest, 'share')}, {where}" if where else "; nowhere less work done")
            + f"; tuned, whose ownership rests while memory is short (P-40b), is worse in {worse_ours or 'no line'}"
        ),
        value=lowest.mean,
        interval=(lowest.low, lowest.high),
        command=settings.command("K-10"),
        also=(
            settings.compare_command(
                "reclaim/kswapd", TESTED, 64, ["work.per_s"], BUSY, memory="1GiB", duration="20ms"
            ),
            "pcpbuddy compare shape/S4 --policy mainline,posted,fixed",
        ),
        why=(
            f"Worse: the whole interval, and the mean by more than {WORSE}. Where all CPUs reclaim for one another, "
            "mainline's PCPs are in balance without the zone: each frees as many pages as it takes, whoever's they "
            "are. A free that goes to its owner meets that owner's lock instead. Reclaim is a load of the laboratory, "
            "not the kernel's code: no OOM, no compaction, clean pages only."
        ),
        table=tuple(rows),
    )


def _worse(sweep: Sweep, policy: str, work: Interval) -> dict[str, str]:
    """
    A line of K-10, and in what it is worse than mainline.
    """
    count = "zone_lock.holds_per_1000_allocs"
    holds, more = _relative(sweep, policy, count), changes(sweep, "mainline", policy, count)
    refused = changes(sweep, "mainline", policy, lambda m: per_1000(m["allocs.failed"], m["allocs"]))
    found = {
        "work": outright(work)[1] < 0 and work.mean < -WORSE_WORK,
        "holds": outright(holds)[0] > 0 and holds.mean > WORSE_HOLDS and more.mean > 1,
        "refused": outright(refused)[0] > 0 and refused.mean > WORSE_REFUSED,
    }
    return {
        "policy": policy,
        "work": text(work, "share"),
        "holds": text(holds, "share"),
        "refused per 1000": text(refused),
        "worse": ", ".join(name for name, is_worse in found.items() if is_worse) or "-",
    }


def _relative(sweep: Sweep, policy: str, metric: str) -> Interval:
    """
    The change of a metric as a share of mainline's mean; of nothing to nothing, 0.
    """
    change = changes(sweep, "mainline", policy, metric)
    base = _mean(sweep, "mainline", metric).mean
    if not base:
        return Interval(float(change.mean > 0), float(change.low > 0), float(change.high > 0), change.n)
    return Interval(change.mean / base, change.low / base, change.high / base, change.n)


RECORD_BYTES = 40  # of a pageblock in patch 2/2: rfc.md, P-1
CORE_BYTES = 32  # of a Block in the core: _core/page.pxd
BLOCKS_PER_GIB = 512
MOST_KIB = 20


def k13(settings: Settings) -> Finding:
    rows = []
    for path in settings.recorded():
        base, new = (run.metrics for run in settings.compare(path, ("mainline", "null")).runs)
        against = replay.replay(path)
        differing = [name for name in base if base[name] != new[name]]
        rows.append(
            {
                "recording": path.rsplit("/", 1)[-1],
                "metrics that null changes": f"{len(differing)} of {len(base)}",
                "pages equal to the kernel's": f"{against.results['exact']} of {against.results['allocs']}",
            }
        )
    kib = BLOCKS_PER_GIB * RECORD_BYTES / 1024
    same = all(row["metrics that null changes"].startswith("0 ") for row in rows)
    cost = (
        f"a record of {RECORD_BYTES} bytes a pageblock, as patch 2/2 needs, is {kib:.0f} KiB per GiB (the core's, of "
        f"{CORE_BYTES} bytes, {size_text(BLOCKS_PER_GIB * CORE_BYTES)})"
    )
    if not rows:
        verdict, found = NOT_DECIDABLE, "no recordings here to compare with"
    else:
        verdict = SUPPORTED if same and kib <= MOST_KIB else REFUTED
        found = (
            f"over {len(rows)} recordings null, the proposal's code with everything off, "
            f"{'gives the same as' if same else 'differs from'} mainline in every metric"
        )
    return Finding(
        claim="K-13",
        verdict=verdict,
        figure=f"{cost}; {found}",
        value=kib,
        command=settings.command("K-13"),
        also=tuple(f"pcpbuddy compare {path} --policy mainline,null" for path in settings.recorded()[:1])
        + tuple(f"pcpbuddy replay {path}" for path in settings.recorded()[:1]),
        why=(
            "The recorded kernel keeps its block types in a bitmap, this core in records: a replay that gives the same "
            "page for every request shows that the storage makes no difference. Pages that are not equal there are "
            "due to what a recording does not hold, which `pcpbuddy replay` names."
            if rows
            else "Recordings of the project lie in its directory recordings/; run this in a checkout of it."
        ),
        table=tuple(rows),
    )


def k14(settings: Settings) -> Finding:
    return Finding(
        claim="K-14",
        verdict=NOT_DECIDABLE,
        figure="not measured: in virtual time nothing depends on which words of a block's record share a cache line",
        command=settings.command("K-14"),
        why=(
            "The cost model charges page descriptors and locks, not single words; charging them would decide the "
            "claim by assumption. Free-path time of real threads on two or more sockets decides it, type and owner in "
            "one cache line against two arrays, everything else equal: cycles per free, and cache misses by perf."
        ),
    )


CLAIMS = (
    Claim(
        name="K-4",
        text="Claims of whole blocks make zone transactions fewer and coarser",
        source="C0",
        measurement="holds per 1000 allocations and pages per refill in fresh memory, posted against mainline",
        rule=(
            f"in each of the three loads holds fall (whole interval) and a refill brings more than {HALF_BLOCK} pages, "
            "half a block"
        ),
        measure=k4,
        changed=(
            "a load in which nobody refills counted as one whose refills are not coarse; now it says nothing of "
            "refills."
        ),
    ),
    Claim(
        name="K-5",
        text="Where no whole blocks are free, taking larger chunks helps too",
        source="C0",
        measurement="gate=never, phase 2 on and off in fragmented memory: list operations per page, hold of a refill",
        rule="fewer list operations per page and shorter holds of refills, both fragmentations (whole interval)",
        measure=k5,
    ),
    Claim(
        name="K-6",
        text="Pages return to where they are allocated, so more of them are used again",
        source="C0",
        measurement="refills and pages from the zone per 1000 allocated: S1, S2, purge/jemalloc; local/loop as control",
        rule=(
            "refills per 1000 allocations, and pages that come from the zone, fall in S1, S2 and purge/jemalloc (whole "
            "interval); refills do not change in local/loop"
        ),
        measure=k6,
        changed=(
            "the rule counted allocations served without the zone lock. That mixes reuse with locks: an "
            "allocation that finds its own PCP lock taken, by a CPU that frees to it, goes to the zone although "
            "pages are there."
        ),
    ),
    Claim(
        name="K-7",
        text="Buddies merge outside the zone lock",
        source="C0, P2",
        measurement="merge steps in PCPs against those in the zone; pages of a drained entry; posted, three loads",
        rule="more than half of all merge steps happen in PCPs, and a drained entry has more than one page",
        measure=k7,
    ),
    Claim(
        name="K-8",
        text="The zone lock is held for shorter times",
        source="P2",
        measurement="distribution of zone-lock holds, refills and drains apart, posted against mainline, three loads",
        rule="p99 and total per allocation fall in each of the three loads (whole interval)",
        measure=k8,
    ),
    Claim(
        name="K-9",
        text="About 3 to 4 % less system time in kernel builds on 32 CPUs",
        source="P2 (second hand)",
        measurement="build/kernel at 32 CPUs: change of time in the allocator and its locks, of system time",
        rule="sign and order of magnitude only: a model of a build cannot confirm a percentage of a real one",
        measure=k9,
    ),
    Claim(
        name="K-10",
        text="On small or pressured machines it degrades gracefully to what there is today",
        source="P2 (second hand)",
        measurement=(
            "zones of 64 MiB to 1 GiB, 1 to 64 CPUs, full memory: work, holds and refusals against mainline, in exits "
            "and in reclaim with 20 us for a page and with 1 us; S4 and S6"
        ),
        rule=f"posted and fixed are nowhere worse beyond the interval and beyond {WORSE}",
        measure=k10,
        changed=(
            "reclaim with 1 us for a page was added to that with 20 us, and a rise of holds counts only if it is "
            "more than one in 1000 allocations too."
        ),
    ),
    Claim(
        name="K-13",
        text="A record for each pageblock costs little memory and changes nothing by itself",
        source="P1",
        measurement="memory per GiB; null against mainline over the recordings, and mainline against the kernel",
        rule=f"identical results, and at most {MOST_KIB} KiB per GiB",
        measure=k13,
    ),
    Claim(
        name="K-14",
        text="Type and owner in one cache line help the free path",
        source="P1",
        measurement="free-path time of real threads, co-located against split",
        rule="measurable on two sockets or more",
        measure=k14,
    ),
)
