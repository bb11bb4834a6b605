"""
A comparison as a plain ASCII table, fit for a mail to a kernel list: 100 columns hold four policies.
"""

import textwrap
from collections.abc import Mapping, Sequence

from ..comparison import Comparison, PolicyRun
from ..contig import CONTIG_REASONS
from ..names import MIGRATETYPE_NAMES

__all__ = ["table"]

TITLE_WIDTH = 32
VALUE_WIDTH = 9
CHANGE_WIDTH = 8
WIDTH = 100
SAME = "="

# (group, ((metric, short title, how to print), ...)). Short titles for people, the dotted names for machines.
COUNT, SHARE, RATE, INDEX = "count", "share", "rate", "index"
GROUPS: tuple[tuple[str, tuple[tuple[str, str, str], ...]], ...] = (
    (
        "requests",
        (
            ("allocs", "allocations", COUNT),
            ("allocs.failed", "  refused", COUNT),
            ("pages.allocated", "pages allocated", COUNT),
            ("pages.freed", "pages freed", COUNT),
        ),
    ),
    (
        "zone lock",
        (
            ("zone_lock.holds", "holds", COUNT),
            ("zone_lock.holds.refill", "  refill", COUNT),
            ("zone_lock.holds.direct_alloc", "  direct allocation", COUNT),
            ("zone_lock.holds.direct_free", "  direct free", COUNT),
            ("zone_lock.holds.drain", "  drain", COUNT),
            ("zone_lock.holds.other", "  other", COUNT),
            ("zone_lock.holds_per_1000_allocs", "holds per 1000 allocations", RATE),
            ("zone_lock.list_ops", "list insertions and removals", COUNT),
            ("zone_lock.moves", "chunks moved between types", COUNT),
            ("zone_lock.pages_moved", "pages in and out", COUNT),
            ("zone_lock.pages_per_hold", "pages per hold", RATE),
            ("zone_lock.merges", "merge steps under the lock", COUNT),
            ("zone_lock.splits", "split steps under the lock", COUNT),
            ("drain.entries", "entries drained", COUNT),
            ("drain.pages", "  pages", COUNT),
        ),
    ),
    (
        "refill",
        (
            ("allocs.from_pcp", "served without zone lock", SHARE),
            ("refill.count", "refills", COUNT),
            ("refill.phase0_pages", "  pages: own fragments", COUNT),
            ("refill.phase1_pages", "  pages: whole blocks", COUNT),
            ("refill.phase2_pages", "  pages: larger chunks", COUNT),
            ("refill.phase3_pages", "  pages: as mainline", COUNT),
            ("pcp.merges", "merge steps in PCPs", COUNT),
            ("pcp.splits", "split steps in PCPs", COUNT),
            ("pcp.merge_visited", "entries looked at in merge passes", COUNT),
        ),
    ),
    (
        "where freed pages go",
        (
            ("frees.local", "own PCP", COUNT),
            ("frees.remote", "PCP of another CPU", COUNT),
            ("remote.pushes", "  pushes on remote lists", COUNT),
            ("remote.over_bound", "  turned away at the bound", COUNT),
            ("remote.absorbs", "  remote lists absorbed", COUNT),
            ("remote.absorbed_pages", "    pages", COUNT),
            ("frees.direct", "zone", COUNT),
            ("frees.failed_trylock", "  after a failed trylock", COUNT),
            ("frees.unknown", "page unknown, skipped", COUNT),
            ("frees.double", "freed twice, skipped", COUNT),
        ),
    ),
    (
        "CMA",
        (
            ("cma.alloc_share", "of all pages allocated", SHARE),
            ("cma.movable_share", "of movable pages allocated", SHARE),
            *(
                (f"cma.by_phase.{phase}.rule_{rule}.{pages}_pages", f"phase {phase}, {when}: {what}", COUNT)
                for phase in range(4)
                for rule, when in (("cma", "CMA > half"), ("other", "CMA < half"))
                for pages, what in (("cma", "CMA"), ("other", "other"))
            ),
        ),
    ),
    (
        "fragmentation at the end",
        (
            *((f"blocks.by_type.{name.lower()}", f"{name} pageblocks", COUNT) for name in MIGRATETYPE_NAMES),
            ("blocks.mixed", "pageblocks of mixed types", COUNT),
            *((f"frag.unusable_{order}", f"unusable for order {order}, x 1000", INDEX) for order in range(1, 11)),
            *((f"frag.index_{order}", f"fragmentation {order}, x 1000", INDEX) for order in range(1, 11)),
        ),
    ),
    (
        "parked and owned",
        (
            ("pcp.parked_pages", "pages in PCPs at the end", COUNT),
            ("pcp.parked_pages_max", "pages in PCPs at worst", COUNT),
            ("owned.blocks", "owned pageblocks", COUNT),
            ("owned.walks", "walks over owned blocks", COUNT),
            ("owned.walked", "  blocks looked at", COUNT),
            ("owned.scanned_pfns", "  page frames looked at", COUNT),
            ("owned.walk_len.p99", "blocks per walk, p99", COUNT),
            ("owned.skipped", "blocks skipped in walks", COUNT),
        ),
    ),
    (
        "contiguous ranges",
        (
            ("contig.ranges", "ranges tried", COUNT),
            ("contig.ranges.ok", "  obtained", COUNT),
            *((f"contig.ranges.{reason}", f"  not: {reason}", COUNT) for reason in CONTIG_REASONS[1:]),
            ("contig.ok_share", "obtained", SHARE),
            ("contig.pages", "pages handed out", COUNT),
            ("contig.pages_migrated", "pages moved out of the way", COUNT),
            ("contig.moves_refused", "moves refused", COUNT),
        ),
    ),
)
# Shown with --all only, even where they are not zero: detail that few tables need.
DETAIL = frozenset(
    {f"frag.unusable_{order}" for order in (1, 2, 3, 5, 6, 7, 8)}
    | {f"frag.index_{order}" for order in range(1, 11)}
    | {metric for _, lines in GROUPS for metric, _, _ in lines if metric.startswith("cma.by_phase.")}
    | {"drain.entries", "drain.pages", "pcp.merge_visited", "owned.walks", "owned.walked", "owned.scanned_pfns"}
)

CONTENTION = (
    "One thread, no contention: frees to another CPU never fail here, so posted and fixed differ only where CMA "
    "blocks or failing locks are involved. How long locks are waited for is not part of this table."
)
OVER_BOUND = (
    "Pages turned away at the bound of a remote list went to the zone, one lock hold each: the owner did not allocate, "
    "so it did not look at its list. remote_bound=inf shows the same load without a bound."
)
LEFT_OUT = {
    "rows_before_snapshot_0": "rows before snapshot 0",
    "rows_after_snapshot_1": "rows after snapshot 1",
    "rows_lost": "rows lost in the recording",
    "allocs_failed": "allocations that the recorded kernel refused",
    "pcp_alloc_without_page": "PCP attempts that gave nothing",
    "gfp_assumed": "allocations of which only the type was seen (gfp flags assumed)",
    "batched_without_free": "batched frees without the row that shows their order (taken as order 0)",
}
SKIPPED = {
    "frees_unknown": "frees of pages that nobody was seen to allocate",
    "frees_double": "second frees of a page",
    "frees_unseen": "pages allocated again with no free seen in between (freed at that point)",
    "frees_of_failed": "frees of pages whose allocation failed in this run",
}


def table(comparison: Comparison, *, everything: bool = False) -> str:
    """
    The table, ending in a newline.

    everything: also the metrics that are zero for all policies, and the detail per order and phase.
    """
    runs = comparison.runs
    lines = [*_wrap(comparison.load), "", *_header(runs)]
    hidden = 0
    for group, entries in GROUPS:
        body = []
        for metric, title, kind in entries:
            values = [run.metrics[metric] for run in runs]
            if everything or (any(values) and metric not in DETAIL):
                body.append(_line(title, values, kind))
            else:
                hidden += 1
        if body:
            lines += [group, *body]
    lines.append("")
    if hidden:
        lines += _wrap(f"{hidden} metrics that are zero everywhere or detail are left out; --all shows them.")
    lines += _wrap(CONTENTION)
    if any(run.metrics["remote.over_bound"] for run in runs):
        lines += _wrap(OVER_BOUND)
    lines += _notes(comparison)
    return "\n".join(lines) + "\n"


def _header(runs: Sequence[PolicyRun]) -> list[str]:
    """
    Names over the columns. One too long for its column is a number there, and stands in full above.
    """
    text, legend = " " * TITLE_WIDTH, []
    for number, run in enumerate(runs, 1):
        name, width = run.policy.name, VALUE_WIDTH if number == 1 else VALUE_WIDTH + CHANGE_WIDTH
        if len(name) >= width:
            legend.append(f"[{number}] {name}")
            name = f"[{number}]"
        text += name.rjust(width)
    return [*legend, *([""] if legend else []), text]


def _line(title: str, values: Sequence[float], kind: str) -> str:
    first = values[0]
    text = f"  {title}".ljust(TITLE_WIDTH) + _value(first, kind).rjust(VALUE_WIDTH)
    for value in values[1:]:
        text += _value(value, kind).rjust(VALUE_WIDTH) + _change(value, first, kind).rjust(CHANGE_WIDTH)
    return text.rstrip()


def _value(value: float, kind: str) -> str:
    if kind == SHARE:
        return f"{100 * value:.1f}%"
    if kind == RATE:
        return f"{value:.1f}"
    return str(value)


def _change(value: float, first: float, kind: str) -> str:
    """
    The change against the first policy: in per cent, of shares in points, of indices as is; "~" where it rounds to 0.
    """
    if value == first:
        return SAME
    if kind == INDEX:
        return f"{int(value - first):+d}"
    if kind != SHARE and not first:
        return "new"
    change = 100 * (value - first) if kind == SHARE else 100 * (value - first) / first
    if abs(change) < 0.05:
        return "~"
    if kind == SHARE:
        return f"{change:+.1f}pt"
    return f"{change:+.1f}%" if abs(change) < 1000 else f"x{value / first:.0f}"


def _notes(comparison: Comparison) -> list[str]:
    """
    What did not become a request, and what single runs had to skip (law L8).
    """
    lines = [line for note in comparison.notes for line in _wrap(f"{note[:1].upper()}{note[1:]}.")]
    if comparison.left_out:
        parts = [f"{count} {LEFT_OUT.get(name, f'{name} rows')}" for name, count in comparison.left_out.items()]
        lines += _wrap(f"Not replayed, or not as recorded: {'; '.join(parts)}.")
    told = [run.skipped for run in comparison.runs]
    if told[0] and all(skipped == told[0] for skipped in told):
        return [*lines, *_wrap(f"Skipped under every policy: {_skipped(told[0])}.")]
    for run in comparison.runs:
        if run.skipped:
            lines += _wrap(f"Skipped under {run.policy.name}: {_skipped(run.skipped)}.")
    return lines


def _skipped(counts: Mapping[str, int]) -> str:
    return "; ".join(f"{count} {SKIPPED.get(name, name)}" for name, count in counts.items())


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)
