"""
Published measurements of the page allocator, repeated in the laboratory, side by side.

    python tools/published.py                 # all of docs/case-studies/published.md, in some minutes
    python tools/published.py --only 3,6      # some of them, to stdout
    python tools/published.py --quick         # smaller and shorter: does it run, not what comes out

Direction and order of magnitude are what can be compared: the machines are not those of the authors, nor are the
kernels. Each result says what differs.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pcpbuddy.metrics import Metrics
from pcpbuddy.names import PAGE_SIZE
from pcpbuddy.run import Run
from pcpbuddy.statistics import Interval, difference, interval
from pcpbuddy.sweeps import sweep
from pcpbuddy.workload.load import Load
from pcpbuddy.workload.program import Program, Queues

WHERE = Path(__file__).parent.parent / "docs" / "case-studies" / "published.md"
SEEDS, QUICK_SEEDS = 3, 2
HEAD = """\
# Published results in the laboratory

*Made by `{command}`; do not edit. Cost model {costs}, {seeds} seeds.*

What others have measured of this path on real machines, repeated with virtual CPUs in virtual time. To be compared are
direction and order of magnitude: whether the same change moves the same figure the same way, and about as far. The
laboratory has the allocator's own text, locks, and a cost for every cache line of it; it has no other kernel code, no
memory bandwidth, no hyper-threads and no time slices. A share of CPU time that waits for the zone lock stands for what
perf shows there as cycles in `native_queued_spin_lock_slowpath`. No cost was fitted to any figure below.

- *agrees*: **yes**: the same direction, and within a third to three times of the published figure; **direction**: the
  same direction only; **no**: neither.
- In brackets: the 95 % interval of the mean over seeds. A seed decides all that is drawn by chance, and nothing else.
- *before* is the text of Linux 7.3 with per-CPU lists of a fixed size (option `--pcp`); what else the older kernels
  did otherwise stands under *what differs*.
"""


@dataclasses.dataclass(frozen=True)
class Row:
    """
    One published figure and what the laboratory says. agrees: "yes", "direction" or "no". main: stands in the summary.
    """

    figure: str
    published: str
    here: str
    agrees: str
    main: bool = False


@dataclasses.dataclass(frozen=True)
class Result:
    """
    One published result. short: what differs, in few words. measure: its rows.
    """

    title: str
    source: str
    setting: str
    short: str
    differs: str
    measure: Callable[["Laboratory"], list[Row]]


class Laboratory:
    """
    Runs for one document.
    """

    def __init__(self, seeds: int, costs: str, quick: bool) -> None:
        self.seeds = seeds
        self.costs = costs
        self.quick = quick
        self.commands: list[str] = []

    def runs(self, load: str | Load, cpus: int, policy: str = "mainline", **options: Any) -> list[Run]:
        """
        A run for each seed.
        """
        made = sweep(load, [policy], cpus=cpus, seeds=self.seeds, costs=self.costs, progress=_told, **options)
        if made.partial:
            raise KeyboardInterrupt
        runs = [made.runs[policy, cpus, seed] for seed in made.seeds]
        if isinstance(load, str):
            self.commands.append(str(runs[0].manifest["command"]))
        return runs

    def pick(self, full: Any, quick: Any) -> Any:
        return quick if self.quick else full


def _told(words: str, done: int, total: int) -> None:
    print(f"    {words}: {done} of {total}", file=sys.stderr)


def values(runs: Sequence[Run], of: str | Callable[[Metrics], float]) -> list[float]:
    """
    A figure of each run.
    """
    if isinstance(of, str):
        return [float(run.metrics[of]) for run in runs]
    return [of(run.metrics) for run in runs]


def percent(of: Interval) -> str:
    """
    "12.3 % [11.0, 13.6]"; small shares get more digits.
    """
    digits = 1 if abs(of.mean) >= 0.01 else 2
    return _with_bounds(f"{of.mean * 100:.{digits}f} %", of, lambda bound: f"{bound * 100:.{digits}f}")


def change(before: Sequence[float], after: Sequence[float]) -> Interval:
    """
    Relative change, seed by seed.
    """
    return interval([new / old - 1 if old else 0.0 for old, new in zip(before, after, strict=True)])


def signed(of: Interval) -> str:
    """
    "-81 % [-83, -79]".
    """
    digits = 0 if abs(of.mean) >= 0.1 else 1
    return _with_bounds(f"{of.mean * 100:+.{digits}f} %", of, lambda bound: f"{bound * 100:+.{digits}f}")


def ns(of: Interval) -> str:
    """
    "98 ns [97, 99]".
    """
    return _with_bounds(f"{of.mean:.0f} ns", of, lambda bound: f"{bound:.0f}")


def _with_bounds(text: str, of: Interval, words: Callable[[float], str]) -> str:
    low, high = (words(bound if float(words(bound)) else 0.0) for bound in (of.low, of.high))
    return text if of.n < 2 or low == high else f"{text} [{low}, {high}]"


WAIT = "zone_lock.wait_ns.share"


def _from_zone(m: Metrics) -> float:
    """
    Pages that refills took from the zone, for each allocation.
    """
    return float(sum(m[f"refill.phase{phase}_pages"] for phase in range(4)) / m["allocs"])


# Builds. 34 µs of user time for each fault are of an idle machine; PRESSED is a build that presses harder, so that
# the lock is about as busy before as it was for the authors.
PRESSED_NS = 10_000
BUILD = {"cache_mib": 4}


def _builds(lab: Laboratory, cpus: int, nodes: int, user_ns: int) -> tuple[list[Run], list[Run]]:
    cpus = lab.pick(cpus, 8)
    options = {
        "nodes": lab.pick(nodes, 1),
        "duration": lab.pick("60ms", "5ms"),
        "parameters": {**BUILD, "user_ns": user_ns},
    }
    return lab.runs("build/kernel", cpus, pcp={"high": "min"}, **options), lab.runs("build/kernel", cpus, **options)


def _shares(
    what: str, published: tuple[float, float], before: Sequence[Run], after: Sequence[Run], *, main: bool = False
) -> Row:
    """
    The share of CPU time that waits for the zone lock, before and after.
    """
    old, new = interval(values(before, WAIT)), interval(values(after, WAIT))
    falls = difference(values(before, WAIT), values(after, WAIT)).high < 0
    agrees = "no" if not falls else "yes" if _about(old.mean, published[0]) else "direction"
    words = " → ".join(f"{share * 100:g} %" for share in published)
    return Row(what, words, f"{percent(old)} → {percent(new)}", agrees, main)


def _about(here: float, published: float) -> bool:
    """
    The order of magnitude.
    """
    return published / 3 <= here <= published * 3


def _build_time(before: Sequence[Run], after: Sequence[Run]) -> Interval:
    """
    Change of the time that a build takes: its own work is what is not spent in the allocator or waiting.
    """
    return change(values(after, "cpu.user"), values(before, "cpu.user"))


def _auto_tuning(lab: Laboratory) -> list[Row]:
    rows = []
    for user_ns, words in ((34_000, "34 µs of user time a fault"), (PRESSED_NS, "10 µs")):
        before, after = _builds(lab, 224, 2, user_ns)
        zone = change(values(before, _from_zone), values(after, _from_zone))
        time = _build_time(before, after)
        rows += [
            _shares(f"waiting for the zone lock ({words})", (0.14, 0.01), before, after, main=True),
            Row(f"pages from the zone ({words})", "-80 %", signed(zone), _same_sign(zone, -0.8), user_ns == PRESSED_NS),
            Row(f"build time ({words})", "-5 %", signed(time), _same_sign(time, -0.05)),
        ]
    return rows


def _same_sign(of: Interval, published: float) -> str:
    """
    Whether a change goes the same way, and is between a third and three times as large.
    """
    if of.n > 1 and of.holds_zero:
        return "no difference found"
    if of.mean * published <= 0:
        return "no"
    return "yes" if _about(abs(of.mean), abs(published)) else "direction"


def _one_socket(lab: Laboratory) -> list[Row]:
    rows = []
    for user_ns, words in ((34_000, "34 µs of user time a fault"), (PRESSED_NS, "10 µs")):
        before, after = _builds(lab, 112, 1, user_ns)
        time = _build_time(before, after)
        rows += [
            _shares(f"waiting for the zone lock ({words})", (0.436, 0.094), before, after, main=True),
            Row(f"build time ({words})", "-14 %", signed(time), _same_sign(time, -0.14)),
        ]
    return rows


def _grade(of: Interval, published: float) -> str:
    return "yes" if _about(of.mean, published) else "direction" if of.mean > 0 else "no"


# will-it-scale on kernels of 2018. pcp->high was 6 * batch.
OLD_BATCH, NEW_BATCH = 31, 63
FAULTS = {"mapping_mib": 16}


def _old_lists(batch: int) -> dict[str, int]:
    return {"batch": batch, "high": 6 * batch}


def _page_fault1(lab: Laboratory) -> list[Row]:
    options = {
        "nodes": lab.pick(2, 1),
        "duration": lab.pick("20ms", "1ms"),
        "parameters": lab.pick(FAULTS, {"mapping_mib": 2}),
    }
    cpus = lab.pick(112, 8)
    then = lab.runs("wis/page_fault1", cpus, pcp=_old_lists(OLD_BATCH), **options)
    now = lab.runs("wis/page_fault1", cpus, **options)
    fixed = lab.runs("wis/page_fault1", cpus, policy="fixed", pcp=_old_lists(OLD_BATCH), **options)
    share, today, owned = (interval(values(runs, WAIT)) for runs in (then, now, fixed))
    free = [
        run.metrics["zone_lock.wait_ns.drain.share"] + run.metrics["zone_lock.wait_ns.direct_free.share"]
        for run in then
    ]
    return [
        Row("waiting for the zone lock", "80 %", percent(share), _grade(share, 0.80), main=True),
        Row("of it on the free path", "35 %", percent(interval(free)), _grade(interval(free), 0.35)),
        Row("with the lists of today", "not published", percent(today), "—"),
        Row("with ownership of blocks (fixed), lists of 2018", "not published", percent(owned), "—"),
    ]


def _batch(lab: Laboratory) -> list[Row]:
    options = {
        "nodes": lab.pick(4, 1),
        "duration": lab.pick("20ms", "1ms"),
        "parameters": lab.pick({"mapping_mib": 8}, {"mapping_mib": 2}),
    }
    cpus = lab.pick(192, 8)
    small = lab.runs("wis/page_fault2", cpus, pcp=_old_lists(OLD_BATCH), **options)
    large = lab.runs("wis/page_fault2", cpus, pcp=_old_lists(NEW_BATCH), **options)
    faster = change(values(small, "work.per_s"), values(large, "work.per_s"))
    return [
        Row("page faults a second", "+10 % to +18 %", signed(faster), _same_sign(faster, 0.14), main=True),
        Row(
            "waiting for the zone lock",
            "not published",
            f"{percent(interval(values(small, WAIT)))} → {percent(interval(values(large, WAIT)))}",
            "—",
        ),
    ]


# System time of a build for each page fault: 274.6 s and 43.6 million faults (make -j24 of a kernel on a Ryzen 9
# 3900X, perf stat, gist mcgrof/94dbf0185f0d69f7879639939e795806).
SYSTEM_NS_PER_FAULT = 6300


def _allocator_ns(m: Metrics) -> float:
    """
    Time in the allocator, waits included, for each allocation; nearly all are page faults.
    """
    shares = m["cpu.allocator"] + m["cpu.zone_wait"] + m["cpu.pcp_wait"]
    return float(shares * m["time.measured_ns"] * m["time.cpus"] / m["allocs"])


def _system_time(lab: Laboratory) -> list[Row]:
    rows = []
    for user_ns, memory, words in (
        (34_000, None, "34 µs of user time a fault, 1 GiB a CPU"),
        (PRESSED_NS, None, "10 µs, 1 GiB"),
        (PRESSED_NS, lab.pick("4GiB", "1GiB"), "10 µs, 128 MiB"),
    ):
        options = {
            "duration": lab.pick("200ms", "5ms"),
            "memory": memory,
            "parameters": {**BUILD, "user_ns": user_ns},
        }
        cpus = lab.pick(32, 8)
        old = lab.runs("build/kernel", cpus, **options)
        new = lab.runs("build/kernel", cpus, policy="fixed", **options)
        allocator = values(old, _allocator_ns), values(new, _allocator_ns)
        share = interval([(b - a) / SYSTEM_NS_PER_FAULT for a, b in zip(*allocator, strict=True)])
        rows += [
            Row(f"system time ({words})", "-3 % to -4 %", signed(share), _same_sign(share, -0.035), main=True),
            Row(
                f"time in the allocator for an allocation, with waits ({words})",
                "not published",
                " → ".join(ns(interval(each)) for each in allocator),
                "—",
            ),
        ]
    return rows


# LLFree's benchmarks: bulk takes and gives back half of memory, repeat one page again and again.
BULK_PAGES = 16384
REPEATS = 4096


def _bulk(cpus: int) -> Load:
    queues = Queues(cpus)
    mine = queues.per_cpu()
    p = Program("bulk")
    p.alloc(mine, BULK_PAGES)
    p.barrier(0, cpus)
    p.free(mine, BULK_PAGES, "oldest")
    return _load("bulk", cpus, queues, p, p)


def _repeat(cpus: int) -> Load:
    queues = Queues(cpus)
    mine = queues.per_cpu()
    first, other = Program("repeat, first CPU"), Program("repeat")
    for p in (first, other):
        p.alloc(mine)
        p.free(mine)
        p.barrier(0, cpus)
        if p is first:
            p.measure()
        with p.repeat(REPEATS):
            p.alloc(mine)
            p.free(mine)
    return _load("repeat", cpus, queues, first, other)


def _load(name: str, cpus: int, queues: Queues, first: Program, other: Program) -> Load:
    """
    A load with one program for CPU 0 and one for all others, all behind barrier 0 once.
    """
    return Load(
        name=name,
        meaning=f"LLFree's benchmark {name}",
        source="L. Wrenger et al., LLFree, USENIX ATC 2023",
        parameters={},
        programs=(first.instructions(), other.instructions()),
        cpu_program=np.minimum(np.arange(cpus), 1).astype(np.uint32),
        nr_queues=queues.nr,
        nr_barriers=1,
        memory_bytes=4 * cpus * BULK_PAGES * PAGE_SIZE,
    )


def _llfree(lab: Laboratory) -> list[Row]:
    published = {1: "90 ns", 26: "984 ns"}
    bulk: dict[int, Interval] = {}
    rows = []
    sizes = lab.pick((1, 2, 4, 8, 16, 26), (1, 4))
    for cpus in sizes:
        runs = lab.runs(_bulk(cpus), cpus, pcp={"high": "min"})
        bulk[cpus] = interval(values(runs, "call.alloc.ns.mean"))
        waits = interval(values(runs, WAIT))
        here = f"{ns(bulk[cpus])}; {percent(waits)} of CPU time waits for the zone lock"
        rows.append(Row(f"get, bulk, {cpus} core{'s' * (cpus > 1)}", published.get(cpus, "between"), here, "—"))
    first, last = bulk[sizes[0]].mean, bulk[sizes[-1]].mean
    times = last / first
    rows.append(
        Row(
            f"get, bulk, {sizes[-1]} cores against 1",
            "10.9 times",
            f"{times:.1f} times",
            "yes" if _about(times, 10.9) else "direction" if times > 1 else "no",
            main=True,
        )
    )
    pairs: dict[int, float] = {}
    for cpus in (sizes[0], sizes[-1]):
        runs = lab.runs(_repeat(cpus), cpus, pcp={"high": "min"})
        pair = interval(values(runs, lambda m: m["call.alloc.ns.mean"] + m["call.free.ns.mean"]))
        pairs[cpus] = pair.mean
        rows.append(Row(f"get and put, hot page, {cpus} core{'s' * (cpus > 1)}", "112 ns", ns(pair), "—"))
    flat = max(pairs.values()) / min(pairs.values())
    rows.append(Row("hot repeat against cores", "flat", f"{flat:.2f} times", "yes" if flat < 1.2 else "no", True))
    return rows


RESULTS: Mapping[str, Result] = {
    "1": Result(
        "PCP auto-tuning, builds on 224 CPUs",
        "Huang Ying, mm: PCP high auto-tuning, v3, cover letter, October 2023 (Linux 6.7)",
        "build/kernel on 224 CPUs in 2 nodes; before: high fixed at what B-13 gives as high_min.",
        "Compilers are alike and made up; no hyper-threads; the rest of the series is in both.",
        "Compilers are made up of published counts of faults and processes, alike on all CPUs. The series also changed "
        "how high-order frees drain, and doubled refills (patch 5), which `before` has already here. Two hyper-threads "
        "share a core there. Which share of cycles waits depends steeply on how hard the build presses: the lock was "
        "nearer to saturation there than our 34 µs make it, so a build that presses harder stands beside it; its 10 µs "
        "were chosen for that.",
        _auto_tuning,
    ),
    "2": Result(
        "PCP auto-tuning, a build on one socket",
        "Huang Ying, an earlier version of the same series, 2023",
        "build/kernel on 112 CPUs in 1 node.",
        "As 1.",
        "As 1. Only the figure is known to us, not the version's other changes.",
        _one_socket,
    ),
    "3": Result(
        "page_fault1 on 112 CPUs",
        "Aaron Lu, RFC v2, mm: zone lock scalability, linux-mm, March 2018 (2 sockets Skylake)",
        "wis/page_fault1 on 112 CPUs in 2 nodes, batch 31 and high 186, mappings of 16 MiB.",
        "Smaller mappings; refills may double, which they did not in 2018; no LRU lock.",
        "The mapping is 128 MiB there. Refills of today double while the list has room (B-64), up to 124 pages here; "
        "they were 31 then. There is no LRU lock here, which takes over there once the zone lock is free.",
        _page_fault1,
    ),
    "4": Result(
        "Batch 31 or 63",
        "Aaron Lu, commit d8a759b57035 (mm, page_alloc: double zone's batchsize), 2018",
        "wis/page_fault2 on 192 CPUs in 4 nodes, high 6 times batch, mappings of 8 MiB.",
        "As 3: no LRU lock takes over what the zone lock leaves.",
        "As 3. The gain there is what is left after the LRU lock took over a part of the time that was won; nothing "
        "takes it over here.",
        _batch,
    ),
    "5": Result(
        "The proposal, a build on 32 CPUs",
        "Johannes Weiner, RFC of the per-CPU pageblock buddy, April 2026 (as reported second hand)",
        "build/kernel on 32 CPUs in 1 node, fixed against mainline.",
        "Only the allocator is simulated; the rest of system time is taken from a published build.",
        "The laboratory knows the allocator's share of system time only. The rest is taken from a published build: "
        "6.3 µs of system time for each page fault (make -j24 on a Ryzen 9 3900X: 274.6 s, 43.6 million faults). Lists "
        "hold up to an eighth of memory: with 1 GiB a CPU the pages of a compiler fit, and mainline hardly needs the "
        "zone; with 128 MiB they do not. That line was added when the first two had shown next to no gain.",
        _system_time,
    ),
    "6": Result(
        "LLFree's bulk and repeat on Linux",
        "L. Wrenger et al., LLFree, USENIX ATC 2023 (2 sockets, 26 cores each; figures of its Linux baseline)",
        "Each CPU takes 16384 pages, then gives them back (bulk); or takes and gives one page (repeat). 1 node.",
        "64 MiB a CPU instead of half of memory; no kernel around alloc_page.",
        "Half of memory is taken there, 64 MiB a CPU here. A module calls alloc_page there, with the accounting and "
        "tracing of a real kernel around it.",
        _llfree,
    ),
}


def document(lab: Laboratory, chosen: Sequence[str], command: str) -> str:
    """
    The results as Markdown.
    """
    summary = ["| | figure | published | laboratory | agrees | what differs |", "|---|---|---|---|---|---|"]
    parts = []
    for number in chosen:
        result = RESULTS[number]
        print(f"{number}. {result.title}", file=sys.stderr)
        lab.commands = []
        rows = result.measure(lab)
        for row in rows:
            if row.main:
                figure = f"{result.title}: {row.figure}"
                cells = (number, figure, row.published, row.here, row.agrees, result.short)
                summary.append("| " + " | ".join(cells) + " |")
        lines = [f"## {number}. {result.title}", "", f"{result.source}. Here: {result.setting}", ""]
        lines += ["| figure | published | laboratory | agrees |", "|---|---|---|---|"]
        lines += [f"| {row.figure} | {row.published} | {row.here} | {row.agrees} |" for row in rows]
        lines += ["", f"What differs: {result.differs}"]
        if lab.commands:
            lines += ["", "The first seed of each:", "", "```", *lab.commands, "```"]
        parts.append("\n".join(lines) + "\n")
    head = HEAD.format(command=command, costs=lab.costs, seeds=lab.seeds)
    return "\n".join([head, "\n".join(summary) + "\n", *parts])


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Write the document, or print parts of it.
    """
    parser = argparse.ArgumentParser(description="Published results in the laboratory.")
    parser.add_argument("--seeds", type=int, metavar="N", help="runs of each point (default: 3)")
    parser.add_argument("--costs", default="server-2s", metavar="PROFILE", help="cost model (default: server-2s)")
    parser.add_argument("--only", metavar="N,...", help="some results, to stdout: " + ", ".join(RESULTS))
    parser.add_argument("--quick", action="store_true", help="smaller and shorter, to stdout")
    args = parser.parse_args(arguments)
    chosen = args.only.split(",") if args.only else list(RESULTS)
    unknown = [number for number in chosen if number not in RESULTS]
    if unknown:
        parser.error(f"--only {unknown[0]}: results are {', '.join(RESULTS)}")
    seeds = args.seeds or (QUICK_SEEDS if args.quick else SEEDS)
    words = ["python tools/published.py", *([f"--seeds {seeds}"] if args.seeds else [])]
    words += [f"--costs {args.costs}"] if args.costs != "server-2s" else []
    text = document(Laboratory(seeds, args.costs, args.quick), chosen, " ".join(words))
    if args.only or args.quick:
        print(text)
    else:
        WHERE.parent.mkdir(exist_ok=True)
        WHERE.write_text(text, encoding="utf-8")
        print(f"{WHERE.relative_to(WHERE.parent.parent.parent)} written", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
