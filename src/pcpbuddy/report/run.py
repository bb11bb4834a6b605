"""
One run in virtual time as plain ASCII, 100 columns: its lock table has the shape of ``perf lock contention``.
"""

import textwrap
from collections.abc import Sequence

from ..names import MIGRATETYPE_NAMES
from ..quantities import count_text, ns_text, share_text, size_words
from ..run import Run
from ..run.limits import limits
from .table import LEFT_OUT

__all__ = ["SECTIONS", "command", "report", "title"]

WIDTH = 100
MOST_STUCK = 8
CPU_TIME = (
    ("user", "user"),
    ("allocator", "allocator"),
    ("zone_wait", "waiting for zone lock"),
    ("pcp_wait", "for PCP lock"),
    ("user_wait", "for other locks"),
    ("interrupt", "interrupts"),
    ("sleep", "asleep"),
    ("done", "done"),
)
# Kind of section -> what it is, and the kernel's function that takes the lock there.
SECTIONS = {
    "zone_lock": {
        "refill": "refill: rmqueue_bulk",
        "direct_alloc": "alloc: rmqueue_buddy",
        "direct_free": "free: free_one_page",
        "drain": "drain: free_pcppages_bulk",
        "other": "other",
    },
    "pcp_lock": {
        "alloc": "alloc: rmqueue_pcplist",
        "free_local": "free: free_frozen_pages",
        "free_remote": "free to another CPU",
        "drain_local": "drain: drain_pages_zone",
        "drain_remote": "drain by another CPU",
    },
}
CALLS = ("alloc", "bulk", "free", "free_batch", "drain", "tick", "other", "contig")
# What kept contiguous ranges busy, by reason.
BUSY = {
    "isolated": "in a block that was isolated already",
    "edge": "at the zone's edge",
    "cma": "in a CMA block",
    "unmovable": "with an unmovable page",
    "hole": "with a hole",
    "pcp": "with a page in a PCP",
    "owned": "with a page in a PCP, of an owned block",
    "remote": "with a page on its way to another CPU's PCP",
    "deferred": "with a deferred free",
    "pinned": "with a page that could not be moved",
    "no_memory": "without memory to move pages to",
    "no_run": "not found in the area",
}
COUNTS = (
    ("allocs.from_pcp", "served without zone lock", share_text),
    ("zone_lock.holds_per_1000_allocs", "zone lock holds per 1000 allocations", count_text),
    ("zone_lock.pages_per_hold", "pages per hold", count_text),
    ("refill.count", "refills", count_text),
    ("refill.phase0_pages", "refilled pages: own fragments", count_text),
    ("refill.phase1_pages", "refilled pages: whole blocks", count_text),
    ("refill.phase2_pages", "refilled pages: larger chunks", count_text),
    ("refill.phase3_pages", "refilled pages: as mainline", count_text),
    ("frees.local", "frees to the own PCP", count_text),
    ("frees.remote", "frees to another CPU's", count_text),
    ("frees.direct", "frees to the zone", count_text),
    ("frees.failed_trylock", "frees after a failed trylock", count_text),
    ("pcp_lock.try_failed", "PCP trylocks that failed", count_text),
    ("zone_lock.merges", "merge steps under the zone lock", count_text),
    ("pcp.merges", "merge steps in PCPs", count_text),
    ("zone_lock.splits", "split steps under the zone lock", count_text),
    ("pcp.splits", "split steps in PCPs", count_text),
    ("cma.movable_share", "of movable pages, from CMA", share_text),
    ("owned.walk_len.p99", "blocks per walk, p99", count_text),
)
# Name of what samples show, its title, and the metric that has its value at the end.
OVER_TIME = (
    ("pages.free", "free in the zones", ""),
    ("pages.in_use", "in use", ""),
    ("pcp.parked_pages", "in per-CPU lists", "pcp.parked_pages"),
    ("cma.free_pages", "free in CMA blocks", ""),
    ("owned.blocks", "owned pageblocks", "owned.blocks"),
    ("frag.unusable_4", "unusable for order 4, x 1000", "frag.unusable_4"),
    ("frag.unusable_9", "unusable for order 9, x 1000", "frag.unusable_9"),
)


def report(run: Run, *, everything: bool = False) -> str:
    """
    The text, ending in a newline. everything: each metric by its dotted name as well, as a list below.
    """
    metrics = run.metrics
    lines = [*_wrap(title(run)), *_wrap(str(run.manifest["workload"]["meaning"])), ""]
    if run.stuck:
        words = "STUCK: every CPU that is not done waits for another one; all figures are of what had happened by then."
        lines[:0] = [*_wrap(words), *_stuck(run), ""]
    if run.partial:
        lines[:0] = [*_wrap("PARTIAL: stopped before its end; all figures are of what had happened by then."), ""]
    times = [f"{name} {share_text(metrics[f'cpu.{key}'])}" for key, name in CPU_TIME if metrics[f"cpu.{key}"]]
    lines += _entry("CPU time", ", ".join(times))
    if metrics["work"]:
        unit = run.manifest["workload"]["unit"] or "units of work"
        lines += _entry("work", f"{count_text(metrics['work'])} {unit}, {count_text(metrics['work.per_s'])} per second")
    refused = f", {count_text(metrics['allocs.failed'])} refused" if metrics["allocs.failed"] else ""
    served = f"{count_text(metrics['allocs'])} served, {count_text(metrics['allocs.per_s'])} per second{refused}"
    lines += _entry("allocations", served)
    if metrics.get("contig.ranges"):
        lines += _entry("contiguous", _contiguous(run))
    if metrics["stall.count"]:
        stalls = f"{count_text(metrics['stall.count'])}, {share_text(metrics['stall.ns.share'])} of CPU time"
        lines += _entry("stalls", f"{stalls}: frees that had to wait for the allocation of their page")
    lines += ["", *_locks(run), "", *_calls(run), "", *_over_time(run), "", *_counts(run), ""]
    left_out = run.manifest["workload"]["left_out"]
    if left_out:
        parts = [f"{count} {LEFT_OUT.get(name, name.replace('_', ' '))}" for name, count in left_out.items()]
        lines += _wrap(f"Not carried out, or not as recorded: {'; '.join(parts)}.")
    for sentence in limits(run.manifest):
        lines += _wrap(sentence)
    lines += command("Again: ", run)
    lines.append(f"digest {run.digest}")
    if everything:
        lines += ["", *(f"{name:<72}{value:>20}" for name, value in metrics.items())]
    return "\n".join(lines) + "\n"


def _contiguous(run: Run) -> str:
    """
    What came of contiguous ranges: obtained, or what kept them busy (docs/reference/contiguous.md, CT-8).
    """
    m = run.metrics
    kept = {words: m[f"contig.ranges.{reason}"] for reason, words in BUSY.items() if m[f"contig.ranges.{reason}"]}
    parts = [f"{count_text(m['contig.ranges'])} ranges tried, {count_text(m['contig.ranges.ok'])} obtained"]
    parts += [f"{count_text(count)} {words}" for words, count in kept.items()]
    refused = f", {count_text(m['contig.moves_refused'])} moves refused" if m["contig.moves_refused"] else ""
    return f"{', '.join(parts)}; {count_text(m['contig.pages_migrated'])} pages moved out of the way{refused}"


def title(run: Run) -> str:
    """
    What it was, in a line.
    """
    config = run.manifest["config"]
    nodes = f" in {config['nodes']} nodes" if config["nodes"] > 1 else ""
    cpus, duration = run.metrics["time.cpus"], ns_text(run.metrics["time.measured_ns"])
    return (
        f"{run.workload} under {run.policy}: {cpus} virtual CPUs{nodes}, {size_words(run.memory_bytes)}, "
        f"{duration} of virtual time, seed {run.manifest['seed']}"
    )


def command(before: str, run: Run) -> list[str]:
    """
    The command line of a run, in several lines that a shell takes as one.
    """
    lines = textwrap.wrap(before + run.manifest["command"], WIDTH - 2, break_long_words=False, break_on_hyphens=False)
    return [*(f"{line} \\" for line in lines[:-1]), lines[-1]]


def _stuck(run: Run) -> list[str]:
    """
    Who waits for whom, the first of them.
    """
    lines = []
    for wait in run.stuck[:MOST_STUCK]:
        thing = f"{wait['waits_for']} {wait['number']}"
        holder = "" if wait["holder"] is None else f", which CPU {wait['holder']} holds"
        lines.append(f"  CPU {wait['cpu']}, {wait['context']}: waits for {thing}{holder}")
    more = len(run.stuck) - MOST_STUCK
    return [*lines, f"  and {more} more"] if more > 0 else lines


def _locks(run: Run) -> list[str]:
    """
    Kind by kind, as `perf lock contention` prints callers, and holds beside them.
    """
    heads = ("contended", "total wait", "max wait", "avg wait", "avg hold", "max hold", "holds")
    lines = [_columns(heads) + "   caller"]
    for lock, name in (("zone_lock", "zone lock"), ("pcp_lock", "PCP locks")):
        m = run.metrics
        share = f"{name}: {share_text(m[f'{lock}.wait_ns.share'])} CPU time"
        body = [_lock_line(run, lock, f".{kind}", words) for kind, words in SECTIONS[lock].items()]
        lines += [_lock_line(run, lock, "", share), *(line for line in body if line)]
    for number in range(sum(name.startswith("user_lock.") and name.endswith(".holds") for name in run.metrics)):
        lines.append(_lock_line(run, f"user_lock.{number}", "", f"lock {number} of the workload"))
    return lines


def _lock_line(run: Run, lock: str, kind: str, caller: str) -> str:
    m = run.metrics
    holds, waits = m[f"{lock}.holds{kind}"], m[f"{lock}.waits{kind}"]
    if kind and not holds:
        return ""
    wait, hold = f"{lock}.wait_ns{kind}", f"{lock}.hold_ns{kind}"
    average = m[f"{wait}.total"] / waits if waits else 0.0
    texts = [count_text(waits), *(ns_text(ns) for ns in (m[f"{wait}.total"], m[f"{wait}.max"], average))]
    texts += [ns_text(m[f"{hold}.mean"]), ns_text(m[f"{hold}.max"]), count_text(holds)]
    return _columns(texts) + f"   {'  ' if kind else ''}{caller}".rstrip()


def _columns(texts: Sequence[str]) -> str:
    """
    The columns of the lock table.
    """
    return "".join(text.rjust(width) for text, width in zip(texts, (10, 11, 10, 10, 10, 10, 8), strict=True))


def _calls(run: Run) -> list[str]:
    lines = [
        f"{'time of a call':<30}" + "".join(f"{head:>10}" for head in ("calls", "mean", "p50", "p99", "p99.9", "max"))
    ]
    for call in CALLS:
        if run.metrics[f"call.{call}.count"]:
            times = [run.metrics[f"call.{call}.ns.{which}"] for which in ("mean", "p50", "p99", "p999", "max")]
            texts = [count_text(run.metrics[f"call.{call}.count"]), *map(ns_text, times)]
            lines.append(f"  {call.replace('_', ' '):<28}" + "".join(f"{text:>10}" for text in texts))
    return lines


def _over_time(run: Run) -> list[str]:
    """
    Pages and indices over the samples, and at the end where the zones know it.
    """
    nr = len(run.over_time()["t_ns"])
    lines = [
        f"{f'pages over time ({nr} samples)':<40}" + "".join(f"{head:>10}" for head in ("mean", "min", "max", "end"))
    ]
    for name, words, end in OVER_TIME:
        values: list[float | None] = [run.metrics.get(f"{name}.{which}") for which in ("mean", "min", "max")]
        if name == "pcp.parked_pages":
            values[2] = run.metrics.get("pcp.parked_pages_max")
        values.append(run.metrics.get(end))
        if any(values):
            texts = ["" if value is None else count_text(value) for value in values]
            lines.append((f"  {words:<38}" + "".join(f"{text:>10}" for text in texts)).rstrip())
    return lines


def _counts(run: Run) -> list[str]:
    """
    What was counted, in two columns.
    """
    shown = [(words, text(run.metrics[name])) for name, words, text in COUNTS if run.metrics.get(name)]
    shown += [
        (f"{name} pageblocks", count_text(run.metrics[f"blocks.by_type.{name.lower()}"]))
        for name in MIGRATETYPE_NAMES
        if run.metrics.get(f"blocks.by_type.{name.lower()}")
    ]
    cells = [f"{words:<36}{text:>10}" for words, text in shown]
    half = -(-len(cells) // 2)
    right = [*cells[half:], *[""] * (2 * half - len(cells))]
    return [f"  {a}    {b}".rstrip() for a, b in zip(cells[:half], right, strict=True)]


def _entry(name: str, text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=f"{name:<14}", subsequent_indent=" " * 14, break_on_hyphens=False)


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)
