"""
A replay as text for people: how much was exact, where it first was not and why, and what was taken from the recording.
"""

import textwrap
from collections.abc import Mapping
from typing import Any

from ..names import MIGRATETYPE_NAMES
from ..replay import Replay

__all__ = ["ITEMS", "report"]

WIDTH = 100
MOST_CPUS = 16
MOST_LINES = 12

# R-items of baseline section 18.4, as inputs and as causes.
ITEMS = {
    "R1": "pages taken in bulk, without an event each",
    "R2": "PCP trylocks that failed",
    "R3": "list operation and event apart: preempted, or on another CPU",
    "R4": "a refill of one entry, or one page straight from the zone",
    "R5": "contiguous pages, freed as fewer and larger entries",
    "R6": "compaction, isolation, reserves: chunks moved or taken with no event of the allocator",
    "R7": "ticks: decay of high, folds of counters",
    "R8": "zone flags, watermark boost, kswapd",
    "R9": "LRU bits behind a claim of a pageblock",
    "R10": "the moment at which a counter's fold became visible, at the edge of a test",
    "R11": "lost events",
    "unexplained": "no item explains it",
}
FOUND = {
    "nowhere": "nowhere: the page stayed unknown",
    "pcp_of_this_cpu": "deeper in the same CPU's PCP",
    "pcp_of_another_cpu": "in another CPU's PCP",
    "zone": "free in the zone",
    "allocated": "allocated already, its free was not seen",
}
WHAT = {
    "alloc": "another page was handed out",
    "refill": "another page was taken from the zone",
    "drain": "a drain of another size",
    "drained": "another page was drained",
    "pcp_fields": "the PCP's fields differ",
    "list_type": "freed to the list of another type",
    "free": "a page is freed that is not allocated here",
}


def report(done: Replay) -> str:
    """
    The text, ending in a newline.
    """
    results = done.results
    lines = [*_wrap(done.words)]
    if results["mode"] == "handle":
        return "\n".join([*lines, "", *_handle(results)]) + "\n"
    lines += [f"replay, mode {results['mode']}, from snapshot 0", ""]
    lines += _exactness(results)
    lines += _parts(results)
    lines += _items("divergent allocations by cause", results["causes"])
    lines += _items("taken from the recording", results["taken"])
    if results.get("resyncs"):
        lines += ["", "resyncs: where the recorded page was", *_counts(results["resyncs"], FOUND)]
    lines += _divergence(results["first_divergence"])
    lines += _supplied(results)
    lines += _final(results["final_state"])
    lines += _state(results)
    lines += _recording(results)
    return "\n".join(lines) + "\n"


def _handle(results: Mapping[str, Any]) -> list[str]:
    metrics = results["metrics"]
    lines = [f"mode handle: {results['allocs']} allocations served; nothing is compared in this mode.", ""]
    for name in ("zone_lock.holds", "zone_lock.list_ops", "refill.count", "allocs.from_pcp", "cma.movable_share"):
        value = metrics[name]
        lines.append(f"  {name:<28}{f'{100 * value:.1f}%' if isinstance(value, float) else value:>12}")
    for note in results.get("notes", ()):
        lines += ["", *_wrap(f"{note[:1].upper()}{note[1:]}.")]
    return [*lines, "", *_wrap("`pcpbuddy compare` shows all metrics, and several policies side by side.")]


def _exactness(results: Mapping[str, Any]) -> list[str]:
    lines = [f"{'':30}{'recorded':>10}{'exact':>10}{'share':>12}"]
    rows = (
        ("allocations: same page frame", "allocs", "exact"),
        ("refills: same pages, same order", "refills", "refills_exact"),
        ("drains: same size, same list", "drains", "drains_exact"),
        ("drained pages", "drained", "drained_exact"),
        ("PCP fields", "fields", "fields_exact"),
    )
    for title, seen, exact in rows:
        if results[seen]:
            lines.append(_line(title, results[seen], results[exact], 30))
    return lines


def _line(title: str, seen: int, exact: int, width: int) -> str:
    return f"{title:<{width}}{seen:>10}{exact:>10}{percent(exact, seen):>12}"


def percent(part: int, whole: int) -> str:
    """
    A share that never rounds up to 100 %: what is not exact must not look so.
    """
    if not whole:
        return "-"
    if part == whole:
        return "100 %"
    return f"{int(100000 * part / whole) / 1000:.3f} %"


def _parts(results: Mapping[str, Any]) -> list[str]:
    lines = [""]
    for title, name in (("order", "by_order"), ("type", "by_type"), ("CPU", "by_cpu")):
        parts = results[name]
        if name == "by_cpu" and len(parts) > MOST_CPUS:
            worst = sorted(parts.items(), key=lambda item: item[1]["exact"] / item[1]["allocs"])[:MOST_CPUS]
            parts = dict(worst)
            lines.append(f"the {MOST_CPUS} CPUs with the smallest share:")
        lines += [
            _line(f"  {title} {key}", part["allocs"], part["exact"], 30)
            for key, part in parts.items()
            if part["allocs"]
        ]
    return lines


def _items(title: str, counts: Mapping[str, int]) -> list[str]:
    return ["", title, *_counts(counts, ITEMS)] if counts else []


def _counts(counts: Mapping[str, int], words: Mapping[str, str]) -> list[str]:
    return [f"  {name:<12}{count:>8}  {words[name]}" for name, count in counts.items()]


def _divergence(found: Mapping[str, Any] | None) -> list[str]:
    if found is None:
        return ["", "No divergence."]
    where = f"row {found['row']} ({found['event']}), CPU {found['cpu']}"
    request = ""
    if found["order"] is not None and found["migratetype"] is not None:
        request = f", order {found['order']} {MIGRATETYPE_NAMES[found['migratetype']]}"
    state = found["state"]
    pcp = state["pcp"]
    lines = [
        "",
        f"first divergence: {WHAT[found['what']]}",
        f"  {where}{request}",
        f"  predicted {_page(found['predicted'])}, recorded {_page(found['recorded'])}",
        *_wrap(f"cause: {found['cause']}, {ITEMS[found['cause']]}", "  "),
    ]
    for name in ("predicted", "recorded"):
        if f"{name}_page" in state:
            lines += _wrap(f"page {found[name]} now, here: {state[f'{name}_page']}", "  ")
    lines += [
        "  state behind that row:",
        f"    PCP: count {pcp['count']}, high {pcp['high']}, flags {pcp['flags']}, alloc_factor {pcp['alloc_factor']}, "
        f"free_count {pcp['free_count']}",
        f"    its list: {' '.join(map(str, state['pcp_list'])) or 'empty'}{' ...' if state['pcp_list'] else ''}",
        f"    visible counters: free {state['visible']['free']}, CMA {state['visible']['free_cma']}; "
        f"zone flags {state['zone_flags']}",
        f"    {state['buddyinfo']}",
        *_wrap("list heads: " + ", ".join(f"{name} {pfn}" for name, pfn in state["free_heads"].items()), "    "),
    ]
    return lines


def _page(value: int | None) -> str:
    return "none" if value is None else str(value)


def _supplied(results: Mapping[str, Any]) -> list[str]:
    """
    What the same replay is like with the missing inputs supplied.
    """
    if "guided" not in results:
        return []
    guided = results["guided"]
    more = {
        name: count - results["taken"].get(name, 0)
        for name, count in guided["taken"].items()
        if count > results["taken"].get(name, 0)
    }
    decisions = ", ".join(f"{count} of {name}" for name, count in more.items()) or "none"
    return [
        "",
        *_wrap(
            f"With what the recording shows supplied at those events (mode guided; decisions taken: {decisions}): "
            f"{guided['exact']} of {guided['allocs']} allocations exact, {percent(guided['exact'], guided['allocs'])}."
        ),
    ]


def _final(final: Mapping[str, Any]) -> list[str]:
    if final["equal"] is None:
        return ["", f"Final state not compared: {final['why']}."]
    source = "snapshot 1" + (f" ({final['derived']})" if "derived" in final else "")
    if final["equal"]:
        lines = _wrap(
            f"Final state equal to {source}: every free list and PCP list in order, every PCP field, pageblock type "
            "and counter."
        )
    else:
        total = len(final["differences"]) + final.get("further_differences", 0)
        lines = _wrap(f"Final state differs from {source} in {total} places:")
        for entry in final["differences"][:MOST_LINES]:
            lines.append(f"  {entry['zone']}, {entry['what']}: {_both(entry)}")
        if total > MOST_LINES:
            lines.append(f"  ... {total - MOST_LINES} more; --json - has them")
    if "not_compared" in final:
        lines += _wrap(f"Not compared: {final['not_compared']}.")
    if "open_operations" in final:
        lines += _wrap(f"{final['open_operations']} predicted drains had not come when the recording ended.")
    return ["", *lines]


def _both(entry: Mapping[str, Any]) -> str:
    if "first_difference" not in entry:
        return f"here {entry['ours']}, there {entry['kernel']}"
    if entry["same_pages"]:
        return f"the same {entry['ours']} entries, in another order from entry {entry['first_difference']} on"
    return (
        f"{entry['ours']} entries here, {entry['kernel']} there; they differ from entry {entry['first_difference']} on"
    )


def _state(results: Mapping[str, Any]) -> list[str]:
    if "state" not in results:
        return []
    return ["", f"state before row {results['state']['before_row']}", *results["state"]["buddyinfo"].splitlines()]


def _recording(results: Mapping[str, Any]) -> list[str]:
    """
    What the rows lack: an exact replay of damaged rows is not the whole story.
    """
    recording = results["recording"]
    lines = []
    if recording["lost"]:
        cpus = ", ".join(f"CPU {cpu}: {count}" for cpu, count in recording["lost_by_cpu"].items())
        lines += _wrap(
            f"INCOMPLETE RECORDING (R11): {recording['lost']} rows are missing ({cpus}). What is exact is so only as "
            "far as the rows go."
        )
    if recording["disordered"]:
        lines += _wrap(f"DAMAGED RECORDING: {recording['disordered']} rows stand behind later ones of the same CPU.")
    if recording["outside_zones"]:
        lines += _wrap(f"{recording['outside_zones']} rows name pages outside every zone and were left out.")
    if recording["clock_back"]:
        lines += _wrap(f"The clock goes back at {recording['clock_back']} rows.")
    for name, words in (
        ("rows_without_operation", "rows belong to no operation that was under way here"),
        ("operations_without_rows", "operations were begun here and their further rows never came"),
        ("frees_unknown", "pages were freed that nobody was seen to allocate; they were skipped"),
        ("frees_unseen", "pages were allocated again with no free seen in between"),
    ):
        if results[name]:
            lines += _wrap(f"{results[name]} {words}.")
    return ["", *lines] if lines else []


def _wrap(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        break_long_words=False,
        break_on_hyphens=False,
        initial_indent=indent,
        subsequent_indent=indent + ("  " if indent else ""),
    )
