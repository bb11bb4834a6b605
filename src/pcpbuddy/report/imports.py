"""
What was imported from a trace, as plain ASCII text of at most 100 columns.
"""

import textwrap
from collections.abc import Iterator

from ..quantities import ns_text
from ..trace.health import Health
from ..trace.importing import Imported
from ..trace.source import shown

__all__ = ["text"]

WIDTH = 100
MOST_CPUS = 16  # of a larger machine, only CPUs with something wrong are listed
MOST_PLACES = 5


def text(done: Imported) -> str:
    """
    The whole report, ending in a newline.
    """
    lines = [*_head(done), "", *_cpus(done.health), "", "events"]
    lines += [f"  {name:<34}{count:>12}" for name, count in done.events.items()] or ["  none that a column is for"]
    for name, (count, _) in done.health.unknown_events.items():
        lines.append(f"  {shown(name, 34):<34}{count:>12}  not kept: no column is for it")
    return "\n".join([*lines, *_faults(done.health), *_wrapped(done.health.notes)]) + "\n"


def _head(done: Imported) -> Iterator[str]:
    health = done.health
    parts = [done.form]
    if done.kernel:
        parts.append(f"Linux {shown(done.kernel.removeprefix('Linux '))}")
    if done.clock:
        parts.append(f"clock {shown(done.clock)}")
    times = [one for cpu in health.cpus for one in (cpu.first_ns, cpu.last_ns) if one is not None]
    span = f" in {ns_text(max(times) - min(times))}" if times else ""
    yield from textwrap.wrap(f"{done.source}: {', '.join(parts)}", WIDTH)
    yield f"{health.rows} rows{span}, {len(health.cpus)} CPUs; columns:"
    yield from textwrap.wrap(" ".join(done.columns), WIDTH, initial_indent="  ", subsequent_indent="  ")
    yield f"Incomplete: {health.incomplete}." if health.incomplete else "Complete: nothing tells of a lost event."


def _cpus(health: Health) -> Iterator[str]:
    """
    A line a CPU; of many CPUs only those with something wrong.
    """
    yield f"{'cpu':>5}{'rows':>12}{'begins':>12}{'ends':>12}{'lost':>10}{'gaps':>8}{'time back':>12}"
    shown_cpus = list(health.cpus)
    if len(shown_cpus) > MOST_CPUS:
        shown_cpus = [cpu for cpu in shown_cpus if cpu.lost or cpu.gaps or cpu.back][:MOST_CPUS]
    start = min((cpu.first_ns for cpu in health.cpus if cpu.first_ns is not None), default=0)
    for cpu in shown_cpus:
        begins, ends = _since(cpu.first_ns, start), _since(cpu.last_ns, start)
        yield f"{cpu.cpu:>5}{cpu.rows:>12}{begins:>12}{ends:>12}{cpu.lost:>10}{cpu.gaps:>8}{cpu.back:>12}"
    others = [cpu for cpu in health.cpus if cpu not in shown_cpus]
    if others:
        yield f"{len(others)} other CPUs with {sum(cpu.rows for cpu in others)} rows"


def _since(ns: int | None, start: int) -> str:
    return "-" if ns is None else f"+{ns_text(ns - start)}" if ns > start else "0"


def _faults(health: Health) -> Iterator[str]:
    """
    What is wrong, each with its place; nothing where nothing is.
    """
    lines: list[str] = []
    for loss in health.losses[:MOST_PLACES]:
        many = "events" if loss.events is None else f"{loss.events} events"
        lines.append(f"{many} of CPU {loss.cpu} lost before {health.unit} {loss.place}")
    _more(lines, len(health.losses))
    for cpu, count in health.overwritten.items():
        which = "the ring buffers" if cpu < 0 else f"the ring buffer of CPU {cpu}"
        lines.append(f"{count} events overwritten in {which}, as the kernel counted them")
    for one in health.damages[:MOST_PLACES]:
        lines.append(f"{health.unit} {one.place}: {one.what}")
    _more(lines, health.nr_damages)
    if health.broken or health.not_understood:
        lines.append(
            f"{health.broken} events lack what they must have; {health.not_understood} other lines not understood"
        )
        lines += [f"  {health.unit} {one.place}: {one.what}" for one in health.odd[:MOST_PLACES]]
    if health.truncated:
        lines.append(f"cut off, and not taken: {health.unit} {health.truncated.place}: {health.truncated.what}")
    if health.back:
        lines.append(f"{health.back} rows earlier than the row before them; the first: {health.unit} {health.back_at}")
    if health.ties:
        lines.append(f"{health.ties} neighbours of different CPUs with the same time")
    if health.unknown_flags:
        names = ", ".join(f"{name} ({count})" for name, count in health.unknown_flags.items())
        lines.append(f"flags without a number: {names}")
    if health.out_of_range:
        lines.append(f"{health.out_of_range} numbers or texts that no column can hold, left null or cut")
    if lines:
        yield ""
        yield "found"
        yield from (line for one in lines for line in _wrapped([one]))


def _more(lines: list[str], total: int) -> None:
    if total > MOST_PLACES:
        lines.append(f"  and {total - MOST_PLACES} more")


def _wrapped(texts: tuple[str, ...] | list[str]) -> Iterator[str]:
    for one in texts:
        yield from textwrap.wrap(one, WIDTH, initial_indent="  ", subsequent_indent="    ")
