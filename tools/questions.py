#!/usr/bin/env python3
"""
The open questions of docs/reference/rfc.md, section 18, on the machine of virtual CPUs: one command a question.

    python tools/questions.py [NAME ...] [--cpus 16,64] [--seeds 3] [--costs server-2s] [--write]

NAME: Q-1, Q-2, Q-4, Q-7, Q-8, Q-10, Q-13, Q-15, or tuned (the profile against the others, every load); default: all.
Prints Markdown tables. --write puts them into docs/case-studies/questions.md, between the marks that name them; the
text around them stays. Loads are a quarter of their usual size where they would take long: 256 MiB for each CPU.

Work is what the load counts, for each second of virtual time. A change is of pairs of runs with the same seed, with
its 95 % interval (Student's t); "=" where all pairs are equal.
"""

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pcpbuddy.errors import PcpBuddyError
from pcpbuddy.machine import Machine
from pcpbuddy.names import GFP_BITS, GFP_COMPOSITES, GFP_HIGHUSER_MOVABLE
from pcpbuddy.sweeps import Change, Sweep, sweep
from pcpbuddy.workload.load import Load as MachineLoad
from pcpbuddy.workload.program import Program, Queues

PAGE = Path(__file__).parent.parent / "docs" / "case-studies" / "questions.md"
MIB_PER_CPU = 256  # of the loads of a quarter's size; high_max is then 8192 pages, 32 MiB (B-13)
Metrics = Mapping[str, float]


class Settings(NamedTuple):
    """
    What a command line can change. cpus: None for what each table is made for.
    """

    cpus: tuple[int, ...] | None
    seeds: int
    costs: str
    workers: int


class Load(NamedTuple):
    """
    A load as the tables run it. mib: memory of each CPU; None: what the load asks for.
    """

    name: str
    parameters: Mapping[str, Any] = {}
    duration: str | None = None
    mib: int | None = None
    nodes: int = 1
    label: str = ""

    def __str__(self) -> str:
        return self.label or self.name


class Column(NamedTuple):
    """
    A column: heading, how to get the number from a run's metrics, and how many digits.
    """

    heading: str
    value: Callable[[Metrics], float]
    digits: int = 0


# Loads

FAULT1 = Load("wis/page_fault1", {"mapping_mib": 32}, "20ms", MIB_PER_CPU)
FAULT2 = Load("wis/page_fault2", {"mapping_mib": 32}, "20ms", MIB_PER_CPU)
MALLOC1 = Load("wis/malloc1", {}, "2ms")
LOCAL = Load("local/loop", {}, "300us")
TURNS = Load("interleave/1", {"pages": 10240, "rounds": 1}, None, MIB_PER_CPU)
PURGE = Load("purge/jemalloc", {"live_mib": 2}, "10ms")
STORM = Load("exit/storm", {"touch_mib": 16, "rounds": 1}, None, MIB_PER_CPU)
BIG_STORM = Load("exit/storm", {"touch_mib": 48, "rounds": 1}, None, MIB_PER_CPU, label="exit/storm, 48 MiB")
RECLAIM = Load("reclaim/kswapd", {}, "100ms")
BUILD = Load("build/kernel", {"user_ns": 2000, "cache_mib": 4}, "20ms", MIB_PER_CPU)
PIPE = Load("pipe/pingpong", {}, "4ms")
CMA = Load("cma/pressure", {"pipe_rounds": 32}, None, 64)
ALL = (FAULT1, FAULT2, MALLOC1, LOCAL, TURNS, PURGE, STORM, BIG_STORM, RECLAIM, BUILD, PIPE, CMA)
# Loads in which the zone lock matters, each in another way.
TELLING = (FAULT1, TURNS, BIG_STORM, PURGE, RECLAIM, CMA)
SMALL = tuple(
    load._replace(mib=mib, label=f"{load.name}, {mib} MiB a CPU")
    for mib in (4, 16, 64)
    for load in (
        Load("wis/page_fault1", {"mapping_mib": 2}, "5ms"),
        Load("purge/jemalloc", {"live_mib": 1, "backlog": 2, "extent_pages": 16}, "5ms"),
        Load("exit/storm", {"touch_mib": 2, "rounds": 2}),
    )
)

LARGE = (
    Load("wis/page_fault1", {"mapping_mib": 16}, "10ms", 128),
    Load("wis/page_fault2", {"mapping_mib": 16}, "10ms", 128),
    Load("wis/malloc1", {}, "500us"),
    Load("local/loop", {}, "100us"),
    Load("interleave/1", {"pages": 3072, "rounds": 1}, None, 128),
    Load("purge/jemalloc", {"live_mib": 1}, "4ms", 128),
    Load("exit/storm", {"touch_mib": 8, "rounds": 1}, None, 128),
    Load("reclaim/kswapd", {}, "60ms"),
    Load("build/kernel", {"user_ns": 2000, "cache_mib": 2}, "8ms", 128),
    Load("pipe/pingpong", {}, "2ms", 64),
    Load("cma/pressure", {"pipe_rounds": 8}, None, 32),
)

# Columns


def metric(name: str, factor: float = 1) -> Callable[[Metrics], float]:
    """
    A metric, times a factor.
    """
    return lambda metrics: metrics.get(name, 0) * factor


def ratio(part: str, whole: str, factor: float = 1) -> Callable[[Metrics], float]:
    """
    One metric over another.
    """
    return lambda metrics: factor * metrics.get(part, 0) / metrics[whole] if metrics.get(whole) else 0.0


ZONE_WAIT = Column("zone wait %", metric("cpu.zone_wait", 100), 1)
PCP_WAIT = Column("PCP wait %", metric("cpu.pcp_wait", 100), 1)
ALLOCATOR = Column("allocator %", metric("cpu.allocator", 100), 1)
HOLDS = Column("holds / 1000 allocs", metric("zone_lock.holds_per_1000_allocs"), 2)
HOLD_P99 = Column("hold p99 us", metric("zone_lock.hold_ns.p99", 1e-3), 1)
HOLD_MAX = Column("hold max us", metric("zone_lock.hold_ns.max", 1e-3), 1)
PCP_HOLD_MAX = Column("PCP hold max us", metric("pcp_lock.hold_ns.max", 1e-3), 0)
PARKED = Column("parked max, pages a CPU", ratio("pcp.parked_pages_max", "time.cpus"), 0)
FAILED = Column("failed", metric("call.failed"), 0)
DIRECT = Column("direct frees / 1000", ratio("frees.direct", "pages.freed", 1000), 1)
TRY_LOCAL = Column("own lock missed / 1000 allocs", ratio("pcp_lock.try_failed.local", "allocs", 1000), 2)
TRY_REMOTE = Column("other's missed / 1000 frees", ratio("pcp_lock.try_failed.remote", "pages.freed", 1000), 2)
PUSHES = Column("pushes / 1000 frees", ratio("remote.pushes", "pages.freed", 1000), 0)
FREE_NS = Column(
    "ns a free", lambda m: (m["call.free_batch.ns.total"] + m["call.free.ns.total"]) / max(1, m["pages.freed"]), 1
)
ALLOC_NS = Column("ns an alloc", metric("call.alloc.ns.mean"), 1)
REFILLS = Column("refills / 1000 allocs", ratio("refill.count", "allocs", 1000), 3)
DRAINED = Column("pages drained / 1000 freed", ratio("drain.pages", "pages.freed", 1000), 0)
DRAIN_SIZE = Column("pages / drained entry", ratio("drain.pages", "drain.entries"), 1)
RECOVERED = Column("recovered / drained", ratio("refill.phase0_pages", "drain.pages"), 2)
LIST_OPS = Column("zone list ops / 1000 freed", ratio("zone_lock.list_ops", "pages.freed", 1000), 0)
UNUSABLE = Column("unusable 9, x 1000", metric("frag.unusable_9.mean"), 0)
LOOKS = Column("looks / 1000 freed", ratio("pcp.merge_visited", "pages.freed", 1000), 0)
WASTED = Column(
    "looks in vain %",
    lambda m: 100 * (1 - m["pcp.merges"] / m["pcp.merge_visited"]) if m["pcp.merge_visited"] else 0.0,
    0,
)
OUTSIDE = Column(
    "merged outside %", lambda m: 100 * m["pcp.merges"] / max(1, m["pcp.merges"] + m["zone_lock.merges"]), 0
)
CLAIMED = Column("pages by claim %", ratio("refill.phase1_pages", "pages.allocated", 100), 1)


# Tables


def work(change: Change | None, mean: float) -> str:
    """
    Work, or its change against the base.
    """
    if change is None:
        return f"{mean:,.0f}" if mean >= 1000 else f"{mean:.1f}"
    if change.verdict == "equal":
        return "="
    relative = change.relative()
    if relative is None:
        return f"{mean:.1f}"
    if relative.n < 2:
        return f"{relative.mean * 100:+.1f} %"
    return f"{relative.mean * 100:+.1f} % ({relative.low * 100:+.1f} .. {relative.high * 100:+.1f})"


def run(settings: Settings, load: Load, policies: Sequence[str], cpus: int) -> Sweep:
    """
    A load under several policies.
    """
    machine: dict[str, Any] = {"nodes": load.nodes, "costs": settings.costs}
    if load.mib is not None:
        machine["memory"] = f"{load.mib * cpus}MiB"
    return sweep(
        load.name,
        policies,
        cpus=cpus,
        seeds=settings.seeds,
        duration=load.duration,
        parameters=dict(load.parameters),
        workers=settings.workers,
        progress=lambda *_: None,
        **machine,
    )


def table(
    settings: Settings,
    loads: Sequence[Load],
    policies: Mapping[str, str],
    columns: Sequence[Column],
    cpus: Sequence[int],
    first: str = "load",
) -> Iterator[str]:
    """
    One line for each load, number of CPUs and policy; the first policy is the base.

    policies: label -> policy.
    """
    yield f"| {first} | CPUs | policy | work | {' | '.join(column.heading for column in columns)} |"
    yield f"|---|---:|---|---:|{'---:|' * len(columns)}"
    for load in loads:
        for number in settings.cpus or cpus:
            done = run(settings, load, list(dict.fromkeys(policies.values())), number)
            base = done.policies[0].name
            for label, text in policies.items():
                runs = [done.runs[(text, number, seed)].metrics for seed in done.seeds]
                change = None if text == base else done.change("work.per_s", text, number)
                cells = [work(change, done.interval("work.per_s", text, number).mean)]
                for column in columns:
                    value = sum(map(column.value, runs)) / len(runs)
                    cells.append(f"{value:,.{column.digits}f}")
                yield f"| {load} | {number} | {label} | {' | '.join(cells)} |"
                print(f"  {load} {number} {label}: {cells}", file=sys.stderr)


def same(*policies: str) -> dict[str, str]:
    """
    Policies that are called what they are.
    """
    return {policy: policy for policy in policies}


def variants(base: str, *changes: str) -> dict[str, str]:
    """
    A policy, and the same with other values; labelled by these.
    """
    return {base: base} | {change: f"{base}+{change}" for change in changes}


# Questions


def q1(settings: Settings) -> dict[str, Iterator[str]]:
    """
    Remote lock contention: how many purgers free, how many owners allocate.
    """
    policies = {
        "fixed (trylock)": "fixed",
        "remote=block": "fixed+remote=block",
        **same("llist", "handover", "tuned", "mainline"),
    }
    columns = (ZONE_WAIT, PCP_WAIT, HOLDS, TRY_LOCAL, TRY_REMOTE, DIRECT, FREE_NS, ALLOC_NS)
    loads = [
        Load(
            PURGE.name,
            {**PURGE.parameters, "purgers": purgers, "use_ns": 100, "extent_pages": 16},
            "10ms",
            label=f"{purgers} purger{'s' if purgers > 1 else ''}",
        )
        for purgers in (1, 4, 8)
    ]
    return {"purgers": table(settings, loads, policies, columns, (16, 64), "freeing")}


def q2(settings: Settings) -> dict[str, Iterator[str]]:
    """
    The remote list: batches, outboxes, bound, and who absorbs.
    """
    columns = (PUSHES, FREE_NS, ALLOC_NS, HOLDS, PARKED)
    batches = [f"handover_batch={nr}" for nr in (8, 32, 128)] + ["handover_targets=1", "handover_targets=16"]
    bounds = {
        **same("fixed", "llist"),
        "llist, inf": "llist+remote_bound=inf",
        "llist, bound 512": "llist+remote_bound=512",
        "llist, visitor": "llist+drain_by=visitor",
        **same("handover"),
        "handover, visitor": "handover+drain_by=visitor",
        **same("mainline"),
    }
    return {
        "batches": table(
            settings, (PURGE, RECLAIM), same("llist") | variants("tuned", *batches[:1], *batches[2:]), columns, (16,)
        ),
        "bounds": table(
            settings, (RECLAIM._replace(duration="60ms"),), bounds, (*columns, ZONE_WAIT, FAILED), (4, 16, 64)
        ),
    }


def q4(settings: Settings) -> dict[str, Iterator[str]]:
    """
    Stranding: what idle CPUs keep, for how long, and whether another CPU can get it.
    """
    return {"idle": idle_table(settings, ("mainline", "fixed", "llist", "handover", "tuned"))}


IDLE_MIB = 64  # of each CPU: high_max is 2048 pages
BURST = 4096  # pages that a CPU takes, and gives back


def idle_load(cpus: int, foreign: bool, idle_ns: float, order: int) -> MachineLoad:
    """
    All CPUs take pages and give them back; then all but one sleep, and after some time that one takes all it can get.

    foreign: the one that stays awake gives everything back. Measured is what it gets; its requests do not reclaim, so
    what lies in PCPs is out of its reach.
    """
    queues = Queues(cpus)
    held, shared, taken = queues.per_cpu(), queues.shared(), queues.shared()
    mine = shared if foreign else held
    gfp = GFP_COMPOSITES["GFP_TRANSHUGE_LIGHT"] if order else GFP_HIGHUSER_MOVABLE & ~GFP_BITS["__GFP_DIRECT_RECLAIM"]
    programs = [Program("awake"), Program("idle")]
    for number, p in enumerate(programs):
        p.alloc(mine, BURST)
        p.barrier(0, cpus)
        if not foreign or number == 0:
            p.free(mine, BURST * (cpus if foreign else 1), "oldest", batch=True)
        p.barrier(1, cpus)
    programs[0].measure()
    programs[0].think(idle_ns)
    programs[0].alloc(taken, cpus * IDLE_MIB << 8 >> order, order=order, gfp=gfp)
    programs[0].stop()
    return MachineLoad(
        name=f"idle {'foreign' if foreign else 'own'} {idle_ns:g} {order}",
        meaning=idle_load.__doc__.strip().splitlines()[0],
        source="rfc.md, Q-4",
        parameters={},
        programs=tuple(p.instructions() for p in programs),
        cpu_program=np.array([0] + [1] * (cpus - 1), np.uint32),
        nr_queues=queues.nr,
        nr_barriers=2,
        memory_bytes=cpus * IDLE_MIB << 20,
        unit="pages",
    )


def idle_table(settings: Settings, policies: Sequence[str]) -> Iterator[str]:
    """
    By who freed and how long the others have been idle: parked pages, and what the one that is awake can get.
    """
    times = {"at once": 1e3, "1.5 s": 1.5e9, "5.5 s": 5.5e9, "20.5 s": 20.5e9}
    cpus = (settings.cpus or (16,))[0]
    pages = cpus * IDLE_MIB << 8
    headings = [f"{what}, {name}" for what in ("parked %", "2 MiB blocks to be had") for name in times]
    yield f"| freed by | policy | {' | '.join(headings)} | pages to be had %, at once |"
    yield f"|---|---|{'---:|' * (len(headings) + 1)}"
    for foreign in (False, True):
        for policy in policies:
            parked, blocks = [], []
            for idle_ns in times.values():
                done = Machine(cpus, policy=policy, costs=settings.costs).run(
                    idle_load(cpus, foreign, idle_ns, 9), sample=max(idle_ns / 64, 100)
                )
                over = done.over_time()
                parked.append(100 * over["parked_pages"][over["t_ns"] <= idle_ns][-1] / pages)
                blocks.append(done.metrics["pages.allocated"] >> 9)
            done = Machine(cpus, policy=policy, costs=settings.costs).run(idle_load(cpus, foreign, 1e3, 0), sample=1e6)
            cells = [f"{share:.1f}" for share in parked] + [str(number) for number in blocks]
            cells.append(f"{100 * done.metrics['pages.allocated'] / pages:.1f}")
            yield f"| {'another CPU' if foreign else 'each CPU'} | {policy} | {' | '.join(cells)} |"
            print(f"  idle {foreign} {policy}: {cells}", file=sys.stderr)


def q7(settings: Settings) -> dict[str, Iterator[str]]:
    """
    Which entries a drain returns first.
    """
    policies = variants("tuned", "drain=largest_fit", "drain=index", "drain=smallest") | {
        "largest_fit, stop": "tuned+drain=largest_fit+drain_overshoot=stop",
        "largest_fit, split": "tuned+drain=largest_fit+drain_overshoot=split",
        "near, owned_order=head": "tuned+owned_order=head",
    }
    columns = (ZONE_WAIT, LIST_OPS, DRAINED, DRAIN_SIZE, RECOVERED, UNUSABLE, HOLD_P99)
    return {"drains": table(settings, (FAULT1, TURNS, BIG_STORM, CMA), policies, columns, (16,))}


def q8(settings: Settings) -> dict[str, Iterator[str]]:
    """
    Merging: at the drain, at its tail, at the free, never.
    """
    policies = {label: f"tuned+merge={label}" for label in ("drain", "free", "never")}
    policies = {"tail": "tuned", **policies}
    columns = (ALLOCATOR, ZONE_WAIT, LOOKS, WASTED, OUTSIDE, PCP_HOLD_MAX, UNUSABLE)
    return {"merging": table(settings, (FAULT1, TURNS, BIG_STORM, CMA, LOCAL), policies, columns, (16, 64))}


def q10(settings: Settings) -> dict[str, Iterator[str]]:
    """
    The gate: when a refill may claim whole blocks.
    """
    policies = variants("tuned", "gate=fit", "gate=always", "gate=min", "gate=never")
    columns = (ZONE_WAIT, HOLDS, CLAIMED, PARKED, UNUSABLE, FAILED)
    return {
        "large": table(settings, (FAULT1, TURNS, PURGE, CMA), policies, columns, (16, 64)),
        "small": table(settings, SMALL, policies, columns, (4, 16)),
    }


def q13(settings: Settings) -> dict[str, Iterator[str]]:
    """
    Auto-tuning: what high grows by.
    """
    policies = {"tuned (pages)": "tuned", "refill": "tuned+high_growth=refill", **same("mainline")}
    columns = (ZONE_WAIT, REFILLS, DRAINED, PARKED, ALLOCATOR)
    return {"growth": table(settings, (STORM, BIG_STORM, FAULT1, TURNS, BUILD), policies, columns, (16, 64))}


def q15(settings: Settings) -> dict[str, Iterator[str]]:
    """
    Ablation: chunks, merging, routing.
    """
    policies = {
        **same("mainline", "chunk-only", "merge-only", "own-no-merge"),
        "routing only": "own-no-merge+phase2=off",
        **same("fixed", "tuned"),
    }
    return {"parts": table(settings, TELLING, policies, (ZONE_WAIT, HOLDS, LIST_OPS, OUTSIDE), (16, 64))}


def tuned(settings: Settings) -> dict[str, Iterator[str]]:
    """
    The profile against the others.
    """
    return {
        name: against(settings, loads, cpus)
        for name, loads, cpus in (
            ("tuned", ALL, (4, 16, 64)),
            ("large", LARGE, (256,)),
            ("small", SMALL, (4, 16)),
            ("nodes", [load._replace(nodes=2) for load in (PURGE, PIPE, RECLAIM, TURNS)], (16,)),
            (
                "used",
                [
                    load._replace(parameters={**load.parameters, "fragment": 0.5}, label=f"{load.name}, fragmented")
                    for load in (FAULT1, PURGE, STORM)
                ],
                (16,),
            ),
        )
    }


def against(settings: Settings, loads: Sequence[Load], cpus: Sequence[int]) -> Iterator[str]:
    """
    A line a load and number of CPUs: what tuned changes against each of the others.
    """
    others = ("mainline", "fixed", "llist", "handover")
    headings = [f"against {name}" for name in others]
    headings += ["zone wait %: mainline, fixed, tuned", "parked max, pages a CPU: mainline, fixed, llist, tuned"]
    yield f"| load | CPUs | work of tuned | {' | '.join(headings)} |"
    yield f"|---|---:|---:|{'---:|' * len(headings)}"
    for load in loads:
        for number in settings.cpus or cpus:
            done = run(settings, load, (*others, "tuned"), number)
            cells = [work(None, done.interval("work.per_s", "tuned", number).mean)]
            cells += [work(done.change("work.per_s", "tuned", number, base=name), 0) for name in others]
            waits = [done.interval("cpu.zone_wait", name, number).mean for name in ("mainline", "fixed", "tuned")]
            cells.append(", ".join(f"{wait * 100:.1f}" for wait in waits))
            parked = [
                done.interval("pcp.parked_pages_max", name, number).mean / number
                for name in ("mainline", "fixed", "llist", "tuned")
            ]
            cells.append(", ".join(f"{pages:,.0f}" for pages in parked))
            yield f"| {load} | {number} | {' | '.join(cells)} |"
            print(f"  {load} {number}: {cells}", file=sys.stderr)


QUESTIONS: dict[str, Callable[[Settings], dict[str, Iterator[str]]]] = {
    "Q-1": q1,
    "Q-2": q2,
    "Q-4": q4,
    "Q-7": q7,
    "Q-8": q8,
    "Q-10": q10,
    "Q-13": q13,
    "Q-15": q15,
    "tuned": tuned,
}


def written(page: str, name: str, lines: Sequence[str]) -> str:
    """
    The page with another table between its marks.
    """
    pattern = re.compile(rf"(<!-- table {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not pattern.search(page):
        raise PcpBuddyError(f"{PAGE.name} has no place for the table {name}")
    return pattern.sub(lambda found: found[1] + "\n".join(lines) + "\n" + found[2], page)


def main() -> None:
    """
    Print the tables, or write them into the page.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", metavar="NAME", nargs="*", help=", ".join(QUESTIONS))
    parser.add_argument("--cpus", type=lambda text: tuple(map(int, text.split(","))))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--costs", default="server-2s")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", help="one table of a question")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    settings = Settings(args.cpus, args.seeds, args.costs, args.workers)
    try:
        for name in args.names or QUESTIONS:
            if name not in QUESTIONS:
                raise PcpBuddyError(f"unknown question {name}; there are: {', '.join(QUESTIONS)}")
            for part, rows in QUESTIONS[name](settings).items():
                if args.only not in (None, part):
                    continue
                lines = list(rows)
                print(f"### {name}, {part}\n\n" + "\n".join(lines) + "\n")
                if args.write:
                    PAGE.write_text(written(PAGE.read_text(), f"{name} {part}", lines))
    except PcpBuddyError as error:
        sys.exit(f"questions: {error}")


if __name__ == "__main__":
    main()
