"""
What a recording can and cannot answer, as plain ASCII text of at most 100 columns.
"""

import textwrap
from collections.abc import Iterable, Sequence

from ..recording.health import Cpu, Health, SnapshotHealth
from ..recording.verdicts import Item, Verdict, incomplete, items, modes, questions

__all__ = ["text"]

WIDTH = 100
LEFT = 28  # where the text beside a name begins
NUMBER = 9
MOST_CPUS = 16  # of a larger machine, only CPUs with something wrong are listed
MOST_CPUS_AT_FAULT = 64
CPU_COLUMNS = ("cpu", "rows", "first seq", "last seq", "lost", "repeated", "seq back", "time back")


def text(health: Health) -> str:
    """
    The whole report, ending in a newline.
    """
    lines = [*_head(health), "", *_cpus(health), "", *_clock(health), *_snapshots(health), ""]
    if health.rows:
        lines += [*_events(health), "", *_pages(health), "", *_items(items(health)), ""]
    lines += ["replay", *_verdicts(_grouped(modes(health))), "", "questions", *_verdicts(questions(health))]
    return "\n".join(lines) + "\n"


def _head(health: Health) -> list[str]:
    parts = [f"{health.rows} rows"]
    if health.rows:
        clock = health.clock
        between = f" ({_seconds(clock.span_between_ns)} between the snapshots)" if health.trace is None else ""
        parts.append(f"{_seconds(clock.span_ns)}{between}")
    if health.kernel is not None:
        parts.append(f"Linux {health.kernel}")
    if health.managed_pages is not None:
        parts.append(f"{health.managed_pages // 256} MiB")
    if health.rows:
        parts.append("with ora/* probe rows" if health.with_probes else "standard tracepoints only")
    faults = incomplete(health)
    verdict = f"Incomplete: {'; '.join(faults)}." if faults else "Complete: no row is lost, both snapshots belong here."
    lines = _wrap(f"{health.name}: {', '.join(parts)}")
    if health.trace is not None:
        texts = f"; /proc texts with it: {', '.join(health.proc)}" if health.proc else ""
        lines += _wrap(f"Imported from a trace: {health.trace}{texts}.")
    lines += _wrap(verdict)
    return [*lines, *(line for note in health.trace_notes for line in _wrap(f"{note[:1].upper()}{note[1:]}."))]


def _cpus(health: Health) -> list[str]:
    """
    A line a CPU; of many CPUs only those with something wrong, and a sum of the others.
    """
    lines = [_cells(CPU_COLUMNS)]
    shown = list(health.cpus)
    if len(shown) > MOST_CPUS:
        shown = [cpu for cpu in shown if cpu.lost or cpu.repeated or cpu.went_back or cpu.clock_back]
        shown = shown[:MOST_CPUS_AT_FAULT]
    lines += [_cpu_line(cpu) for cpu in shown]
    others = [cpu for cpu in health.cpus if cpu not in shown]
    if others:
        rows = sum(cpu.rows for cpu in others)
        wrong = sum(1 for cpu in others if cpu.lost or cpu.repeated or cpu.went_back or cpu.clock_back)
        told = f"{wrong} of them with faults" if wrong else "nothing wrong"
        lines.append(f"  {len(others)} more CPUs: {rows} rows, {told}")
    before, between, after = health.phases
    told = f"rows: {before} before, {between} between (phase 1), {after} behind the snapshots"
    lines += _entry("phases", told)
    if health.ring_losses:
        lines += _entry(
            "counted by the kernel", f"{health.ring_losses} events overwritten or dropped (ring buffer statistics)"
        )
    for fault in health.impossible:
        lines += _entry(
            f"impossible {fault.column}",
            f"rows: {fault.rows}, the first is row {fault.first_row} ({fault.first_event})",
        )
    if health.columns_missing:
        told = "; ".join(f"{name} ({use})" for name, use in health.columns_missing.items())
        lines += _entry("columns missing", told)
    return lines


def _cpu_line(cpu: Cpu) -> str:
    return _cells(
        "-" if value is None else value
        for value in (
            cpu.cpu,
            cpu.rows,
            cpu.first_cpu_seq,
            cpu.last_cpu_seq,
            cpu.lost,
            cpu.repeated,
            cpu.went_back,
            cpu.clock_back,
        )
    )


def _cells(values: Iterable[object]) -> str:
    first, *others = values
    return f"  {first!s:>5}" + "".join(f"{value!s:>11}" for value in others)


def _clock(health: Health) -> list[str]:
    clock = health.clock
    if not clock.back:
        order = "time never goes back in row order"
    else:
        displaced = sum(cpu.clock_back_rows_displaced for cpu in health.cpus)
        order = f"time goes back {_times(clock.back)} in row order (first at row {clock.back_first_row}), "
        order += f"{_times(clock.back_within_cpu)} within a CPU" if clock.back_within_cpu else "never within a CPU"
        if displaced:
            order += f"; at {displaced} of these the number goes back too: rows out of place, not the clock"
    ties = f"{clock.ties} ties of neighbouring rows of different CPUs"
    if clock.ties:
        ties += f" ({_percent(clock.ties, health.rows)}): their order is by CPU number, not by time"
    return [*_entry("clock", order), *_entry("", ties)]


def _snapshots(health: Health) -> list[str]:
    lines = []
    for snap in health.snapshots:
        lines += _entry(f"snapshot {snap.which}", _snapshot(snap, health))
    return lines


def _snapshot(snap: SnapshotHealth, health: Health) -> str:
    if not snap.there:
        return f"missing (there are no files {health.name}.snap{snap.which}.json.zst and .npz)"
    if not snap.usable:
        return f"cannot be used: {snap.problem}"
    told = "belongs to these rows" if health.rows else "there are no rows to hold it against"
    if snap.cut_off and health.rows:
        some = ", ".join(map(str, snap.cut_off))
        told += f", but was taken after more rows than are here (CPU {some})"
    if snap.derived is not None:
        told += f"; derived: {snap.derived}"
    return told


def _events(health: Health) -> list[str]:
    """
    Two columns of names with their counts, the largest first, down and then across.
    """
    cells = [
        f"{name + ' (unknown)' if name in health.events_unknown else name:32}{count:>{NUMBER}}"
        for name, count in health.events.items()
    ]
    half = -(-len(cells) // 2)
    left, right = cells[:half], [*cells[half:], *[""] * (2 * half - len(cells))]
    return ["events", *(f"  {one}    {other}".rstrip() for one, other in zip(left, right, strict=True))]


def _pages(health: Health) -> list[str]:
    pages = health.pages
    since = "from snapshot 0 on" if pages.from_snapshot else "each from its first row on, for want of a snapshot 0"
    failed = f", {pages.allocs_failed} requests more failed" if pages.allocs_failed else ""
    lines = [f"pages, followed {since}"]
    lines += _count("allocations", pages.allocs, f"of {pages.pages_allocated} pages{failed}")
    lines += _count("frees", pages.frees, f"of {pages.pages_freed} pages")
    lines += _count("never freed", pages.held, f"allocations of rows here; {pages.held_pages} pages held at the end")
    if pages.from_snapshot:
        told = "pages that neither snapshot 0 nor a row before had allocated"
        lines += _count("frees of unknown pages", pages.frees_unknown, told + _in_rows(pages.frees_unknown_rows))
    else:
        told = "pages freed by their first row: allocated before it, or unseen"
        lines += _count("frees of unknown pages", pages.frees_earlier, told)
    told = "pages freed again with no allocation in between"
    lines += _count("double frees", pages.frees_double, told + _in_rows(pages.frees_double_rows))
    told = "pages allocated again while still allocated"
    lines += _count("frees not seen", pages.frees_unseen, told + _in_rows(pages.frees_unseen_rows))
    if health.with_probes and pages.pops_without_event:
        told = "pcp_alloc rows without their mm_page_alloc, which shows gfp"
        lines += _count("pops without event", pages.pops_without_event, told)
    if pages.differ_allocated is not None and pages.differ_free is not None:
        differ = pages.differ_allocated + pages.differ_free
        told = "pages in another state there than the rows lead to"
        if differ:
            told = (
                f"pages: {pages.differ_free} that the rows leave allocated and snapshot 1 shows free, "
                f"{pages.differ_allocated} the other way"
            )
        lines += _count("wrong at snapshot 1", differ, told)
    return lines


def _in_rows(rows: int) -> str:
    return f" (in {rows} rows)" if rows else ""


def _count(name: str, count: int, told: str) -> list[str]:
    left = f"  {name:24}{count:>{NUMBER}}  "
    return textwrap.wrap(told, WIDTH, initial_indent=left, subsequent_indent=" " * len(left))


def _items(found: Sequence[Item]) -> list[str]:
    still = [item.name for item in found if item.is_open]
    lines = [f"left open by the rows: {' '.join(still) if still else 'nothing'} (baseline.md, section 18.4)"]
    for item in found:
        left = f"  {item.name:5}{'open' if item.is_open else '-':6}"
        told = f"{item.title}: {item.why}"
        lines += textwrap.wrap(told, WIDTH, initial_indent=left, subsequent_indent=" " * len(left))
    return lines


def _grouped(found: Sequence[Verdict]) -> list[Verdict]:
    """
    Neighbours with the same answer become one line.
    """
    if len({str(verdict) for verdict in found}) == 1:
        return [Verdict("every mode, and compare", found[0].answer, found[0].why)]
    lines: list[tuple[list[str], Verdict]] = []
    for verdict in found:
        names = [*lines[-1][0], verdict.question] if lines else []
        if lines and str(lines[-1][1]) == str(verdict) and len(", ".join(names)) < LEFT - 3:
            lines[-1][0].append(verdict.question)
        else:
            lines.append(([verdict.question], verdict))
    return [Verdict(", ".join(names), one.answer, one.why) for names, one in lines]


def _verdicts(found: Sequence[Verdict]) -> list[str]:
    lines = []
    for verdict in found:
        lines += _entry(verdict.question, str(verdict))
    return lines


def _entry(name: str, told: str) -> list[str]:
    left = f"  {name:{LEFT - 2}}"
    return textwrap.wrap(told, WIDTH, initial_indent=left, subsequent_indent=" " * LEFT, break_on_hyphens=False)


def _wrap(told: str) -> list[str]:
    return textwrap.wrap(told, WIDTH, break_on_hyphens=False)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _seconds(span_ns: int) -> str:
    return f"{span_ns / 1e9:.1f} s"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2g} %" if whole else "0 %"
