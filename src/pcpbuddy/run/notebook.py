"""
A run as a piece of HTML: what a notebook shows. It needs nothing but itself, and fits light and dark pages.
"""

from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from ..quantities import count_text, ns_text, share_text, size_words
from .limits import limits

if TYPE_CHECKING:
    from . import Run

__all__ = ["html"]

# Text and lines take the page's own colour. The fills are Okabe and Ito's, apart for colour-blind readers too.
STYLE = """
.pcpbuddy{font:13px/1.45 system-ui,sans-serif;max-width:780px;color:inherit}
.pcpbuddy table{border-collapse:collapse;margin:.6em 0;font-variant-numeric:tabular-nums;color:inherit}
.pcpbuddy th,.pcpbuddy td{padding:1px 7px;text-align:right;border:0;background:none;color:inherit;white-space:nowrap}
.pcpbuddy th{font-weight:600;border-bottom:1px solid currentColor}
.pcpbuddy th:first-child,.pcpbuddy td:first-child{text-align:left;padding-left:0}
.pcpbuddy td.part{padding-left:1.2em!important;opacity:.75}
.pcpbuddy .faint{opacity:.7;font-size:12px}
.pcpbuddy .partial{background:#d55e00;color:#fff;padding:1px 7px;border-radius:3px}
.pcpbuddy figure{display:inline-block;margin:0 16px 8px 0}
.pcpbuddy svg{display:block}
.pcpbuddy .key{display:inline-block;width:.8em;height:.8em;margin:0 .3em 0 .8em;vertical-align:-1px}
"""
CPU_TIME = (
    ("user", "user", "#56b4e9"),
    ("allocator", "allocator", "#009e73"),
    ("zone_wait", "waiting for zone lock", "#d55e00"),
    ("pcp_wait", "waiting for PCP lock", "#e69f00"),
    ("user_wait", "waiting for other locks", "#cc79a7"),
    ("interrupt", "interrupts", "#f0e442"),
    ("sleep", "asleep", "#8884"),
    ("done", "done", "#8882"),
)
ROWS = (
    ("zone_lock", "", "zone lock"),
    *(("zone_lock", f".{kind}", kind.replace("_", " ")) for kind in ("refill", "direct_alloc", "direct_free", "drain")),
    ("pcp_lock", "", "PCP locks"),
    ("pcp_lock", ".local", "own"),
    ("pcp_lock", ".remote", "another CPU's"),
)
BAR, HEIGHT, CHART = 760, 14, (360, 96)
LEAST_SHARE = 0.0005  # of CPU time, to be seen in the bar


def html(run: "Run") -> str:
    """
    The piece of HTML.
    """
    manifest, metrics = run.manifest, run.metrics
    config = manifest["config"]
    facts = [
        f"{metrics['time.cpus']} CPUs" + (f" in {config['nodes']} nodes" if config["nodes"] > 1 else ""),
        size_words(run.memory_bytes),
        f"{ns_text(metrics['time.measured_ns'])} of virtual time",
        f"seed {manifest['seed']}",
    ]
    marks = {"partial: stopped before its end": run.partial, "stuck: every CPU waits for another one": run.stuck}
    partial = "".join(f' <span class="partial">{mark}</span>' for mark, is_so in marks.items() if is_so)
    rates = [f"{count_text(metrics['allocs.per_s'])} allocations/s"]
    if metrics["work"]:
        rates.append(f"{count_text(metrics['work.per_s'])} {manifest['workload']['unit'] or 'units of work'}/s")
    if metrics["allocs.failed"]:
        rates.append(f"{count_text(metrics['allocs.failed'])} allocations refused")
    parts = [
        f'<div class="pcpbuddy"><style>{STYLE}</style>',
        f"<div><b>{escape(run.workload)}</b> under <b>{escape(run.policy)}</b>: "
        f"{escape(', '.join(facts))}{partial}</div>",
        f'<div class="faint">{escape(manifest["workload"]["meaning"])}</div>',
        _cpu_time(run),
        f"<div>{escape('; '.join(rates))}</div>",
        _locks(run),
        _charts(run),
        f'<div class="faint">{escape(" ".join(limits(manifest)))}<br>digest {run.digest[:16]}</div></div>',
    ]
    return "\n".join(part for part in parts if part)


def _cpu_time(run: "Run") -> str:
    """
    A bar of what the CPUs did, and its key.
    """
    rects, keys, x = [], [], 0.0
    for name, title, fill in CPU_TIME:
        share = run.metrics[f"cpu.{name}"]
        if share < LEAST_SHARE:
            continue
        text = f"{title} {share_text(share)}"
        width = BAR * share
        rects.append(
            f'<rect x="{x:.1f}" width="{width:.1f}" height="{HEIGHT}" fill="{fill}"><title>{text}</title></rect>'
        )
        keys.append(f'<span class="key" style="background:{fill}"></span>{text}')
        x += width
    bar = f'<svg viewBox="0 0 {BAR} {HEIGHT}" width="100%" height="{HEIGHT}" preserveAspectRatio="none" role="img">'
    return f'<div style="margin:.5em 0">CPU time{bar}{"".join(rects)}</svg><div>{"".join(keys)}</div></div>'


def _locks(run: "Run") -> str:
    heads = ("", "holds", "waited", "wait, CPU time", "wait p50", "p99", "max", "hold p50", "p99", "max")
    lines = ["<table><tr>" + "".join(f"<th>{head}</th>" for head in heads) + "</tr>"]
    for lock, kind, title in ROWS:
        m = run.metrics
        if not m[f"{lock}.holds{kind}"]:
            continue
        wait, hold = f"{lock}.wait_ns{kind}", f"{lock}.hold_ns{kind}"
        cells = [
            count_text(m[f"{lock}.holds{kind}"]),
            share_text(m[f"{lock}.waits{kind}"] / m[f"{lock}.holds{kind}"]),
            share_text(m[f"{wait}.share"]),
            *(ns_text(m[f"{time}.{which}"]) for time in (wait, hold) for which in ("p50", "p99", "max")),
        ]
        first = f'<td class="part">{title}</td>' if kind else f"<td>{title}</td>"
        lines.append("<tr>" + first + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return "\n".join([*lines, "</table>"])


def _charts(run: "Run") -> str:
    """
    What changed while the run went on: a small chart each, if it changed at all.
    """
    columns = run.over_time()
    t = columns["t_ns"]
    if len(t) < 2:
        return ""
    spans = np.maximum(np.diff(t), 1) * float(run.metrics["time.cpus"])
    charts = [
        ("waiting for the zone lock, of CPU time", t[1:], np.diff(columns["zone_wait_ns"]) / spans, share_text),
        ("pages in per-CPU lists", t, columns["parked_pages"], count_text),
        ("free pages in the zones", t, columns["free_pages"], count_text),
        ("unusable for order 9, of free memory", t, columns["frag.unusable_9"] / 1000, share_text),
        ("free CMA pages", t, columns["cma_free"], count_text),
        ("owned pageblocks", t, columns["owned_blocks"], count_text),
    ]
    return "\n".join(_chart(title, xs, ys, text) for title, xs, ys, text in charts if np.ptp(ys))


def _chart(title: str, xs: np.ndarray, ys: np.ndarray, text: Callable[[float], str]) -> str:
    """
    A line over the whole measured time, its bottom at 0, its top the largest value.
    """
    width, height = CHART
    top = float(ys.max())
    points = zip(
        (xs - xs[0]) / max(float(xs[-1] - xs[0]), 1) * width, height - 1 - ys / (top or 1) * (height - 2), strict=True
    )
    line = " ".join(f"{x:.0f},{y:.1f}" for x, y in points)
    words = (
        f"max {text(top)}, mean {text(float(ys.mean()))}, at the end, {ns_text(float(xs[-1]))}: {text(float(ys[-1]))}"
    )
    return (
        f"<figure><figcaption>{title}</figcaption>"
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">'
        f"<title>{title}: {words}</title>"
        f'<path d="M0 {height - 0.5}H{width}M.5 0V{height}" stroke="currentColor" stroke-opacity=".35" fill="none"/>'
        f'<polyline points="{line}" fill="none" stroke="#2f8fd0" stroke-width="1.5" stroke-linejoin="round"/></svg>'
        f'<div class="faint">{words}</div></figure>'
    )
