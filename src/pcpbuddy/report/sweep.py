"""
Policies over numbers of CPUs and seeds, in virtual time, as plain ASCII: 72 columns hold two policies, 100 hold three.

With more, the first policy comes again beside the next two. A change is said only where the interval of the difference
does not contain 0.
"""

import textwrap
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..quantities import count_text, ns_text, share_text, size_words
from ..run import Run
from ..run.limits import limits
from ..statistics import Interval
from ..sweeps import Change, Sweep
from .run import command

__all__ = ["FEW", "ROWS", "table"]

TITLE, FIRST, VALUE, CHANGE = 28, 16, 14, 14
OTHERS = 2  # policies beside the first, before the table begins again
WIDTH = TITLE + FIRST + OTHERS * (VALUE + CHANGE)
NO_DIFFERENCE = "no difference"

SHARE, NS, COUNT = "share", "ns", "count"
# (metric, title, kind of figure); a kind decides how a figure and its change are written.
FEW: tuple[tuple[str, str, str], ...] = (
    ("zone_lock.wait_ns.share", "zone lock wait, CPU time", SHARE),
    ("zone_lock.wait_ns.mean", "  per hold, mean", NS),
    ("zone_lock.wait_ns.p99", "  p99", NS),
    ("zone_lock.hold_ns.mean", "zone lock hold, mean", NS),
    ("zone_lock.hold_ns.p99", "  p99", NS),
    ("zone_lock.utilisation", "zone lock held, of time", SHARE),
    ("zone_lock.holds_per_1000_allocs", "holds per 1000 allocations", COUNT),
    ("zone_lock.pages_per_hold", "pages per hold", COUNT),
    ("pcp_lock.wait_ns.share", "PCP lock wait, CPU time", SHARE),
    ("allocs.from_pcp", "served without zone lock", SHARE),
    ("call.alloc.ns.mean", "allocation, mean", NS),
    ("call.alloc.ns.p99", "  p99", NS),
    ("call.free.ns.mean", "free, mean", NS),
    ("call.free.ns.p99", "  p99", NS),
    ("call.free_batch.ns.mean", "batch of frees, mean", NS),
    ("call.free_batch.ns.p99", "  p99", NS),
    ("contig.ok_share", "contiguous ranges obtained", SHARE),
    ("call.contig.ns.mean", "  cma_alloc, mean", NS),
    ("call.contig.ns.p99", "  p99", NS),
    ("contig.pages_migrated", "  pages moved out", COUNT),
    ("contig.moves_refused", "  moves refused", COUNT),
    ("allocs.per_s", "allocations per second", COUNT),
    ("work.per_s", "work per second", COUNT),
    ("time.measured_ns", "virtual time", NS),
    ("allocs.failed", "allocations refused", COUNT),
    ("frees.failed_trylock", "frees after failed trylock", COUNT),
    ("pcp.parked_pages.mean", "pages in PCPs, mean", COUNT),
    ("frag.unusable_9.mean", "order 9 unusable, x 1000", COUNT),
    ("cma.movable_share", "of movable pages, from CMA", SHARE),
)
ROWS = {metric: (title.strip(), kind) for metric, title, kind in FEW}


class _Row(NamedTuple):
    """
    One line: of what, how it is written, on how many CPUs.
    """

    title: str
    metric: str
    kind: str
    cpus: int


def table(sweep: Sweep, metrics: Sequence[str] = (), *, everything: bool = False) -> str:
    """
    The table, ending in a newline.

    metrics: dotted names; a block a metric then, a line a number of CPUs. Else a block a number of CPUs with the
    metrics that matter most. everything: also those that are 0 under every policy.
    """
    lines = [*_head(sweep), ""]
    others = [policy.name for policy in sweep.policies[1:]]
    groups = [others[at : at + OTHERS] for at in range(0, len(others), OTHERS)] or [[]]
    for heading, rows in _by_metric(sweep, metrics) if metrics else _by_cpus(sweep, everything):
        for group in groups:
            lines += [
                *_header(heading, [sweep.policies[0].name, *group]),
                *(_line(sweep, row, group) for row in rows),
                "",
            ]
    return "\n".join([*lines, *_foot(sweep)]) + "\n"


def _head(sweep: Sweep) -> list[str]:
    first = next(iter(sweep.runs.values())).manifest
    lines = _wrap(f"{sweep.workload}: {first['workload']['meaning']}")
    if sweep.partial:
        planned = len(sweep.policies) * len(sweep.cpus) * len(sweep.seeds)
        lines[:0] = _wrap(
            f"PARTIAL: stopped when {len(sweep.runs)} of {planned} runs were done; the others are missing."
        )
    nr = len(sweep.seeds)
    seeds = f"{nr} seeds, mean +- half of the {sweep.level:.0%} interval" if nr > 1 else "one seed: no intervals"
    return [*lines, *_wrap(f"Virtual time, costs {first['costs']['name']}; {seeds}.")]


def _by_cpus(sweep: Sweep, everything: bool) -> Iterator[tuple[str, list[_Row]]]:
    for cpus in sweep.cpus:
        known = [run for (_, nr, _), run in sweep.runs.items() if nr == cpus]
        if known:
            shown = [row for row in FEW if everything or _is_shown(row[0], known)]
            memory = size_words(known[0].memory_bytes)
            yield f"{cpus} CPUs, {memory}", [_Row(f"  {title}", metric, kind, cpus) for metric, title, kind in shown]


def _is_shown(metric: str, runs: Sequence[Run]) -> bool:
    """
    Whether it says something: not if it is 0 everywhere, nor a length of time that everybody was given.
    """
    values = {run.metrics.get(metric, 0) for run in runs}
    return values != {0} and not (metric == "time.measured_ns" and len(values) == 1)


def _by_metric(sweep: Sweep, metrics: Sequence[str]) -> Iterator[tuple[str, list[_Row]]]:
    for metric in metrics:
        kind = kind_of(metric)
        yield metric, [_Row(f"  {cpus} CPUs", metric, kind, cpus) for cpus in sweep.cpus]


def kind_of(metric: str) -> str:
    """
    How a figure of that name is written.
    """
    if metric in ROWS:
        return ROWS[metric][1]
    last = metric.rsplit(".", 1)[-1]
    if last == "share" or last in ("utilisation", "from_pcp") or metric.startswith("cpu."):
        return SHARE
    return NS if "_ns" in metric or ".ns." in metric else COUNT


def _header(heading: str, policies: Sequence[str]) -> list[str]:
    """
    Names over the columns. One too long for its column is a number there, and stands in full above.
    """
    names, legend = "", []
    for number, name in enumerate(policies, 1):
        width = FIRST if number == 1 else VALUE
        if len(name) >= width:
            legend.append(f"[{number}] {name}")
            name = f"[{number}]"
        names += name.rjust(width) + ("" if number == 1 else "change".rjust(CHANGE))
    if len(heading) > TITLE:
        return [*legend, heading, " " * TITLE + names]
    return [*legend, heading.ljust(TITLE) + names]


def _line(sweep: Sweep, row: _Row, others: Sequence[str]) -> str:
    first = sweep.policies[0].name
    text = row.title.ljust(TITLE) + _value(sweep.interval(row.metric, first, row.cpus), row.kind).rjust(FIRST)
    for policy in others:
        text += _value(sweep.interval(row.metric, policy, row.cpus), row.kind).rjust(VALUE)
        text += change_text(sweep.change(row.metric, policy, row.cpus), row.kind).rjust(CHANGE)
    return text.rstrip()


def _value(of: Interval, kind: str) -> str:
    """
    "12.3us+-0.4": the half in the unit and with the digits of the mean.
    """
    if not of.n:
        return "-"
    text = {SHARE: share_text, NS: ns_text, COUNT: count_text}[kind](of.mean)
    if of.n == 1 or not of.half:
        return text
    digits = text.rstrip("%numskMGT")
    unit = text[len(digits) :]
    if "e" in digits:
        return text
    scale = {"%": 0.01, "us": 1e3, "ms": 1e6, "s": 1e9, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}.get(unit, 1.0)
    places = len(digits.partition(".")[2])
    half = of.half / scale
    if kind == SHARE and places > 2:  # else it would not fit beside its interval
        text, places = f"{100 * of.mean:.2f}%", 2
    return f"{text}+-{half:.{places}f}" if half >= 0.5 * 10**-places else text


def change_text(change: Change, kind: str) -> str:
    """
    The change with its interval, of shares in points; or in words that there is none, or none that can be told.
    """
    if change.verdict == "equal":
        return "="
    if change.verdict == "no difference found":
        return NO_DIFFERENCE
    if change.verdict == "not run":
        return "-"
    of = change.relative()
    if kind == SHARE:
        of = change.difference
    elif of is None:
        return "from 0"
    elif of.mean > 9.995:
        half = f"+-{of.half:.0f}" if of.n > 1 and of.half >= 0.5 else ""
        return f"x{1 + of.mean:.0f}{half}"
    places = 1 if abs(of.mean) >= 0.000995 else 2
    unit = "pt" if kind == SHARE else "%"
    if abs(of.mean) < 0.00005:
        return f"~0{unit}"
    half = f"{100 * of.half:.{places}f}" if of.n > 1 else ""
    return f"{100 * of.mean:+.{places}f}{unit}" + (f"+-{half}" if half.strip("0.") else "")


def _foot(sweep: Sweep) -> list[str]:
    """
    How to read it, and what is not in it.
    """
    runs = list(sweep.runs.values())
    lines = []
    if len(sweep.seeds) > 1 and len(sweep.policies) > 1:
        lines += _wrap(
            f"{NO_DIFFERENCE}: no difference found, as the {sweep.level:.0%} interval of the change contains 0 "
            f"(paired by seed, Student's t). Changes of shares are in points (pt). Each line is tested alone: of "
            f"{round(1 / (1 - sweep.level))} lines without any difference one is expected to show one."
        )
    if len(sweep.seeds) > 1 and sweep.seedless():
        lines += _wrap("All seeds gave the same figures: nothing here is drawn by chance, so intervals say nothing.")
    for run in (run for run in runs if run.stuck):
        where = f"{run.policy} on {run.metrics['time.cpus']} CPUs, seed {run.manifest['seed']}"
        lines += _wrap(f"STUCK: {where}: every CPU came to wait for another one; figures are of what was before.")
    for sentence in limits(runs[0].manifest):
        lines += _wrap(sentence)
    return [*lines, *command("One of the runs: ", runs[0])]


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)
