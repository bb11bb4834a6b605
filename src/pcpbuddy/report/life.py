"""
The life of a page as plain ASCII text: a line a step, told in words, and what it comes to below.
"""

import textwrap
from collections.abc import Callable, Iterator
from typing import Any

from ..names import (
    COSTLY_ORDER,
    ISOLATE,
    MAX_PAGE_ORDER,
    MIGRATETYPE_NAMES,
    NR_PCP_TYPES,
    PAGEBLOCK_ORDER,
    PAGEBLOCK_PAGES,
    gfp_text,
)
from ..recording.life import Life, Step

__all__ = ["text"]

WIDTH = 110
LONGEST_TASK = 22
LONGEST_CHAIN = 12  # sizes of a free chunk that one line shows
GLUE = "\0"
LATE_NS = 1_000_000  # from here on it is told how long a free took to reach a list

PLAIN = (
    "Only standard tracepoints were recorded. What they do not show: why a PCP was drained; frees that went past a PCP "
    "whose lock was held (R2); entries that contiguous frees become (R5); pages allocated in bulk (R1). Where such a "
    "thing is met it is told; a neighbour that did one of them unseen can make a merge come out wrong."
)
NO_START = (
    "There is no snapshot 0: where pages were before the first row that names them is not known, and so neither is "
    "what the page was split out of or merged with, unless rows had shown the neighbours before."
)
LIMITS = {
    "high": "went over the limit",
    "free_high": "came after another high-order free (free_high, B-81)",
    "reclaim": "went over the limit of 4 batches while reclaim ran (B-83)",
    None: "set it off",
}
TIMES = {
    "allocated": "allocated",
    "pcp": "in PCPs",
    "zone": "free in the zone",
    "unknown": "not known",
    "reserved": "reserved",
    "hole": "no memory",
}


def text(life: Life) -> str:
    """
    The life, ending in a newline.
    """
    lines = [*_header(life), ""]
    lines += _table(life)
    lines.append("")
    for paragraph in _comes_to(life):
        lines += _wrap(paragraph)
    return "\n".join(lines) + "\n"


def _header(life: Life) -> list[str]:
    first = life.pfn // PAGEBLOCK_PAGES * PAGEBLOCK_PAGES
    if life.zone is None:
        where = "zone not known"
    else:
        where = f"zone {life.zone['name']} (pages {life.zone['first']} to {life.zone['last']})"
    kernel = f"Linux {life.kernel}, " if life.kernel else ""
    probes = "with probes" if life.probes else "standard tracepoints only"
    return [
        f"page {life.pfn} ({life.pfn:#x}): {where}, pageblock {life.pfn // PAGEBLOCK_PAGES} (pages {first} to "
        f"{first + PAGEBLOCK_PAGES - 1})",
        f"{life.name}: {kernel}{life.nr_rows} rows, {probes}, {life.span_ns / 1e9:.3f} s",
    ]


# The table.


def _table(life: Life) -> list[str]:
    """
    Time since the first row of the recording, row, CPU, task, and what happened.
    """
    steps = list(_grouped(life.steps))
    tasks = {id(step): _task(step) for step, _ in steps} if life.tasks else {}
    width = min(max((len(task) for task in tasks.values()), default=4), LONGEST_TASK)
    last = life.nr_rows - 1

    def line(seconds: str, row: str, cpu: str, task: str, words: str) -> list[str]:
        left = f"{seconds:>10} {row:>8} {cpu:>3}  " + (f"{task:{width}}  " if life.tasks else "")
        return _wrap(words, left, " " * len(left))

    lines = line("seconds", "row", "CPU", "task", "what happened")
    if life.start is not None:
        lines += line("", "", "", "", f"snapshot 0: {_where(life.start, life.pfn)}")
    else:
        lines += line("", "", "", "", "no snapshot 0: where it was is not known")
    shaken = False
    for step, more in steps:
        shaken = shaken or step.kind == "lost"
        words = _words(life, step, more) + (_shaken(step) if shaken else "")
        row = str(step.rows[0]) if step.rows[0] <= last else "end"
        lines += line(f"{step.t_ns / 1e9:.6f}", row, str(step.cpu), tasks.get(id(step), ""), words)
    if not steps:
        lines += line("", "", "", "", "no row names it or changes the chunk it is in")
    if life.end is not None:
        lines += line("", "", "", "", f"snapshot 1: {_where(life.end, life.pfn)}")
    return lines


def _grouped(steps: list[Step]) -> Iterator[tuple[Step, list[Step]]]:
    """
    Changes of the free chunk that follow each other are one line.
    """
    at = 0
    while at < len(steps):
        end = at + 1
        while steps[at].kind == "chunk" and end < len(steps) and steps[end].kind == "chunk":
            end += 1
        yield steps[at], steps[at + 1 : end]
        at = end


def _task(step: Step) -> str:
    """
    The task as name/pid. Too long a name loses its end, not the pid.
    """
    if step.pid is None:
        return ""
    pid = f"/{step.pid}"
    name = (step.comm or "<...>").encode("ascii", "replace").decode()
    return name[: LONGEST_TASK - len(pid)] + pid


def _words(life: Life, step: Step, more: list[Step]) -> str:
    told: str = WORDS[step.kind](life, step, more)
    facts = step.facts
    if facts.get("context") and step.kind != "chunk":
        told += f" [in a {facts['context']}]"
    if facts.get("doubt"):
        told += f" [does not fit: {facts['doubt']}]"
    return told


def _shaken(step: Step) -> str:
    """
    After lost rows, what a chunk is depends on what they did.
    """
    facts = step.facts
    sized = step.kind == "chunk" or "merged" in facts or facts.get("source")
    return " (unless lost rows changed its neighbours)" if sized else ""


def _taken(life: Life, step: Step, _: list[Step]) -> str:
    facts, refill = step.facts, step.facts["refill"]
    order, have = facts["order"], facts.get("fallback_order")
    if have is None:
        told = f"taken from the zone, {_type(facts['type'])} lists,"
    elif have >= PAGEBLOCK_ORDER:
        told = (
            f"taken from the zone for a request of type {_type(facts['type'])} that found nothing of its own: a whole "
            f"chunk of order {have}, type {_type(facts['fallback_type'])}, was claimed (B-47), and this was taken"
        )
    elif len(step.rows) == 1:
        told = (
            f"stolen from the zone's {_type(facts['fallback_type'])} lists, from a chunk of order {have}, for a "
            f"request of type {_type(facts['type'])} (B-48: the block keeps its type),"
        )
    else:
        told = (
            f"taken from the zone, {_type(facts['type'])} lists, after its pageblock was claimed from "
            f"{_type(facts['fallback_type'])} (B-46),"
        )
    if order:
        told += f" as {_entry(facts, life.pfn)},"
    if refill["into"] == "pcp":
        told += f" to refill CPU {step.cpu}'s PCP ({_list(facts.get('list'))})"
        if refill.get("of", 0) > 1:
            told += f", {_ordinal(refill['nth'])} of {refill['of']}"
        elif "of" in refill:
            told += ", its only entry"
    elif refill["into"] == "request":
        told += " for one request, past the PCP"
        if refill.get("trylock_failed"):
            told += " (its lock was held)"
        elif order > COSTLY_ORDER and order != PAGEBLOCK_ORDER:
            told += f" (order {order} is not kept in PCPs)"
    else:
        told += " for one request: rows look the same for a refill of one entry and a take past the PCP (R4)"
    source = facts.get("source")
    if source is None:
        return told + "; what it was split out of is not known"
    if source["order"] == order:
        return told + ("; a chunk of that order" if order else "; a chunk of one page")
    return told + f"; split out of {_chunk(source)}"


def _allocated(life: Life, step: Step, _: list[Step]) -> str:
    facts = step.facts
    told = "allocated in bulk" if facts.get("bulk") else "allocated"
    told += f": {_entry(facts, life.pfn)}, {_type(facts['type'])}"
    if "gfp_flags" in facts:
        told += f", {gfp_text(facts['gfp_flags'])}"
    elif facts.get("bulk"):
        told += ", GFP flags not shown (B-93)"
    else:
        told += "; no mm_page_alloc followed, so GFP flags are not known"
    where = facts["from"]
    if "list" in facts:
        told += f"; off the head of CPU {facts.get('pcp_cpu', step.cpu)}'s PCP ({_list(facts['list'])})"
    elif where["kind"] == "pcp":
        told += f"; off CPU {where['cpu']}'s PCP"
        if where["cpu"] != step.cpu:
            told += f", though told on CPU {step.cpu}: the task moved in between (R3)"
    elif where["kind"] == "moving":
        told += "; straight from the zone"
    if "returned_on" in facts:
        told += f"; the task had moved to CPU {facts['returned_on']} when mm_page_alloc was written (R3)"
    return told


def _freed(life: Life, step: Step, _: list[Step]) -> str:
    facts = step.facts
    allocation, entry = facts.get("allocation"), facts.get("entry")
    told = "freed"
    if facts.get("missing"):
        told += " (the row mm_page_free is missing)"
    if facts.get("unseen"):
        told += ", so it had been allocated unseen (R1)"
    part = False
    if allocation is not None and allocation["order"] > facts["order"]:
        part = True
        size = f"{1 << facts['order']} pages" if facts["order"] else "one page"
        told += f": {size} of the allocation of order {allocation['order']} at {allocation['head']}"
    elif facts["order"]:
        told += f": {_entry(facts, life.pfn)}"
    joined = entry is not None and "merged" not in facts and entry["order"] > facts["order"]
    if joined:
        shown = "" if life.probes else ", as later rows show"
        told += f" with its neighbours (contiguous pages, B-94{shown})"
    if facts.get("batched"):
        told += ", in a batch"
    if facts.get("allocated_on") not in (None, step.cpu):
        told += f", allocated on CPU {facts['allocated_on']}"
    late = facts.get("entered_after_ns", 0)
    after = f", {late / 1e6:.1f} ms later" if late >= LATE_NS else ""
    if "merged" in facts:
        told += "; past the PCP into the zone" + after
        if facts.get("type") == ISOLATE:
            told += " (its pageblock is isolated)"
        elif facts["order"] <= COSTLY_ORDER or facts["order"] == PAGEBLOCK_ORDER:
            told += " (most likely the PCP's lock was held, B-80)"
        else:
            told += f" (order {facts['order']} is not kept in PCPs)"
        return f"{told}, {_type(facts.get('type'))}; {_merged(facts['merged'])}"
    if entry is None:
        return told + "; it reached no list before the recording ended"
    told += f"; as {_entry(entry, life.pfn)}" if joined else ";"
    told += f" onto the head of CPU {facts['pcp_cpu']}'s PCP ({_list(facts.get('list'))})" + after
    if not life.probes and not joined and not facts.get("batched") and (facts.get("contiguous") or part):
        told += ", unless it was freed as one with its neighbours: then within a larger entry, which no row shows (R5)"
    return told


def _drained(life: Life, step: Step, _: list[Step]) -> str:
    facts, why = step.facts, step.facts["why"]
    owner = f"CPU {facts['pcp_cpu']}'s PCP" if facts.get("pcp_cpu") is not None else "a PCP"
    told = f"drained from {owner} to the zone, {_type(facts['type'])}"
    if facts["order"]:
        told += f", as {_entry(facts, life.pfn)}"
    reason = why.get("reason")
    if reason == "free":
        own = "this page" if life.pfn == why["pfn"] else f"page {why['pfn']}"
        told += f": the free of {own} (row {why['reason_row']}) {LIMITS[why.get('limit')]}"
    elif reason == "decay":
        told += f": decay of the PCP (row {why['reason_row']})"
    elif reason is not None:
        told += f": {reason} (row {why['reason_row']})"
    elif why.get("lost"):
        told += ": why, is among the lost rows"
    elif why.get("likely") == "free":
        told += f": most likely the free of page {why['pfn']} before it (row {why['row']}) went over the limit (R7)"
    elif not life.probes and (step.comm or "").startswith("kworker"):
        told += ": most likely decay, since a kworker did it (R7)"
    else:
        told += ": why, the rows do not say"
    if "asked" in why:
        told += f"; {why['asked']} pages asked"
        told += f", PCP had {why['count']}, high {why['high']}" if {"count", "high"} <= set(why) else ""
    return f"{told}; {_merged(facts['merged'])}"


def _changed(_: Life, step: Step, more: list[Step]) -> str:
    """
    The chunk that the page lies free in was split, or merged.
    """
    steps = [step, *more]
    orders = [steps[0].facts["before"].get("order"), *(each.facts["after"].get("order") for each in steps)]
    chain = ["?" if order is None else str(order) for order in orders]
    if len(chain) > LONGEST_CHAIN:
        half = LONGEST_CHAIN // 2
        chain = [*chain[:half], "...", *chain[-half:]]
    after = steps[-1].facts["after"]
    ways = {
        "mm_page_alloc_zone_locked": "pages of it were taken",
        "mm_page_alloc_extfrag": "pages of it were taken",
        "mm_page_pcpu_drain": "neighbours were drained",
        "buddy_free": "neighbours were freed",
        "mm_page_free": "neighbours were freed",
    }
    causes = list(dict.fromkeys(ways.get(each.facts["by"], f"{each.facts['by']} changed it") for each in steps))
    until = f" until row {more[-1].rows[0]}" if more else ""
    told = f"its free chunk changed as {' and '.join(causes)}{until}: order {' -> '.join(chain)}"
    return told + (f", at {after['head']}" if "head" in after else "; how large it is now is not known")


def _retyped(_: Life, step: Step, __: list[Step]) -> str:
    facts = step.facts
    told = f"its pageblock becomes {_type(facts['after'])}, was {_type(facts['before'])}"
    claim = facts.get("claim")
    if claim is not None:
        told += f": claimed for a request of order {claim['order']}, {_type(claim['type'])}, with a chunk of order "
        told += str(claim["have"])
    return told


def _lost(life: Life, step: Step, _: list[Step]) -> str:
    places = life.lost["places"]
    if step.rows[0] >= life.nr_rows:
        return f"the rows end here; {life.lost['rows']} that were written before snapshot 1 are lost"
    where = "here" if places == 1 else f"at {places} places, of which this is the first"
    return f"{life.lost['rows']} rows are lost {where}: from here on steps can be missing"


WORDS: dict[str, Callable[[Life, Step, list[Step]], str]] = {
    "taken": _taken,
    "allocated": _allocated,
    "freed": _freed,
    "drained": _drained,
    "chunk": _changed,
    "retyped": _retyped,
    "lost": _lost,
    "split": lambda life, step, _: (
        f"{_entry(step.facts, life.pfn)} is split into single pages (split_page), each to be freed by itself"
    ),
    "isolated": lambda *_: "its pageblock is isolated",
    "unisolated": lambda *_: "its pageblock is no longer isolated",
    "held": lambda life, step, _: f"taken off its free list as {_entry(step.facts, life.pfn)}, allocated to nobody",
    "put_back": lambda _, step, __: f"put back into the zone; {_merged(step.facts['merged'])}",
}


# What it comes to.


def _comes_to(life: Life) -> Iterator[str]:
    sums = life.summary()
    times = ", ".join(
        f"{TIMES[kind]} {100 * share:.1f} %"
        for kind, share in sorted(sums["time_share"].items(), key=lambda item: -item[1])
    )
    told = "Not allocated"
    if sums["allocated"]:
        told = f"Allocated {_times(sums['allocated'])}{_by_cpu(sums['allocated_by_cpu'])}"
    if sums["allocated_unseen"]:
        told += f" and {_times(sums['allocated_unseen'])} unseen"
    told += f", freed {_times(sums['freed'])}{_by_cpu(sums['freed_by_cpu'])}" if sums["freed"] else ", not freed"
    if not sums["allocated"] and not sums["freed"]:
        told = "Neither allocated nor freed"
    if sums["freed_both_known"]:
        told += (
            f"; {sums['freed_on_another_cpu']} of {sums['freed_both_known']} on another CPU than it was allocated on"
        )
    yield f"{told}. Time: {times}." if times else f"{told}."
    yield from _check(life)
    if life.lost["rows"]:
        yield (
            f"{life.lost['rows']} rows are lost at {life.lost['places']} places (the numbering of a CPU skips them). "
            "What they did to the page and its neighbours is not known."
        )
    if life.misfits:
        yield f"{life.misfits} rows about the page or its neighbours do not fit the rows before them."
    if life.start is None:
        yield NO_START
    if not life.probes:
        yield PLAIN
    if life.outside:
        yield f"{life.outside} rows before snapshot 0 or after snapshot 1 name the page; they are left out here."


def _check(life: Life) -> Iterator[str]:
    """
    Whether the followed life ends where snapshot 1 has the page.
    """
    followed = _where(life.followed.facts(), life.pfn)
    if life.end is None or life.neighbours is None:
        yield f"At the end: {followed}. There is no snapshot 1 to check that with."
        return
    derived = " (not taken from the machine but worked out from the same rows)" if life.end_derived else ""
    around = f"{life.base} to {life.base + sum(life.neighbours.values()) - 1}"
    if life.agrees is None:
        told = f"Snapshot 1{derived} can neither confirm nor refute the followed life, which ends: {followed}."
        if life.followed.kind == "pcp":
            told += " Contiguous frees became a larger entry, which these rows do not show (R5)."
    elif life.agrees:
        told = f"Snapshot 1{derived} agrees with the followed life."
        if life.followed.kind == "allocated" and life.followed.order and not life.end.get("order"):
            told += f" The order {life.followed.order} is not in it: not a compound page, or split since."
    else:
        told = f"Snapshot 1{derived} does not agree: the followed life ends {followed}."
        told += (
            " Rows are lost, which can be why." if life.lost["rows"] else " No row is lost, so one of both is wrong."
        )
    counts = life.neighbours
    if not counts["differ"] and not counts["not_known"]:
        yield told + f" So do all {counts['agree']} pages from {around}." if life.agrees else told
    else:
        yield told + (
            f" Of the pages {around}, followed to work out merges, {counts['agree']} agree, {counts['differ']} "
            f"do not, and of {counts['not_known']} it cannot be said."
        )


# Words.


def _where(facts: dict[str, Any], pfn: int) -> str:
    """
    A place, as a snapshot or the followed life has it.
    """
    kind = facts["kind"]
    place = f", {_ordinal(facts['position'])} of {facts['of']} from the head" if "position" in facts else ""
    block = f", in {_a(_type(facts['block_type']))} pageblock" if "block_type" in facts else ""
    if kind == "zone":
        if "order" not in facts:
            return "free in the zone, in a chunk of which the size is not known" + block
        T = f" on the {_type(facts['list_type'])} list{place}" if "list_type" in facts else ""
        return f"free in the zone, {_inside(facts, pfn, 'chunk')}{T}"
    if kind == "pcp":
        entry = f", within {_entry(facts, pfn)}" if facts["order"] else ""
        return f"on CPU {facts['cpu']}'s PCP ({_list(facts.get('index'))}){place}{entry}{block}"
    if kind == "allocated":
        entry = f", {_entry(facts, pfn)}" if facts["order"] else ""
        lru = f", {'' if facts['lru'] else 'not '}on an LRU list" if "lru" in facts else ""
        return f"allocated{entry}{lru}{block}"
    return {
        "unknown": "not known",
        "hole": "no memory (a hole in the zone)",
        "reserved": "reserved, never given to the allocator",
        "moving": "off the free lists, not yet handed out",
    }[kind]


def _inside(facts: dict[str, Any], pfn: int, what: str) -> str:
    """
    The chunk a page is in: its own if it is the first page of it.
    """
    if facts["order"] == 0:
        return f"a {what} of its own (order 0)"
    if facts["head"] == pfn:
        return f"first page of {_chunk(facts, what)}"
    return f"page +{pfn - facts['head']} of {_chunk(facts, what)}"


def _chunk(facts: dict[str, Any], what: str = "chunk") -> str:
    return f"the {what} of order {facts['order']} at {facts['head']}"


def _entry(facts: dict[str, Any], pfn: int) -> str:
    """
    An order, and where the page is in it.
    """
    order, head = facts["order"], facts["head"]
    if not order:
        return "order 0"
    return (
        f"order {order} from this page on" if head == pfn else f"order {order} at {head} (this is page +{pfn - head})"
    )


def _merged(merged: dict[str, Any]) -> str:
    size = f"{_chunk(merged)}"
    if not merged["exact"]:
        steps = f"merged into {size}, or a larger one" if merged["steps"] else f"now in {size} or a larger one"
        return f"{steps}: its next buddy's state is not known"
    if merged["order"] == MAX_PAGE_ORDER and not merged["steps"]:
        return f"a chunk of order {MAX_PAGE_ORDER}, the largest"
    if not merged["steps"]:
        return f"no free buddy: a chunk of order {merged['order']}"
    return f"merged with {_buddies(merged['steps'])} into {size}"


def _buddies(steps: int) -> str:
    return "its buddy" if steps == 1 else f"{steps} buddies, one after the other,"


def _list(index: int | None) -> str:
    """
    A PCP list in words (B-10, B-11).
    """
    if index is None:
        return "list not known"
    if index >= 4 * NR_PCP_TYPES:
        return f"order {PAGEBLOCK_ORDER}, {'Movable' if index > 4 * NR_PCP_TYPES else 'not Movable'}"
    return f"order {index // NR_PCP_TYPES}, {MIGRATETYPE_NAMES[index % NR_PCP_TYPES]}"


def _type(T: int | None) -> str:
    if T is None or not 0 <= T < len(MIGRATETYPE_NAMES):
        return "of unknown type" if T is None else f"type {T}"
    return MIGRATETYPE_NAMES[T]


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "UIaeiou" else f"a {noun}"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _by_cpu(counts: dict[str, int]) -> str:
    if not counts:
        return ""
    if len(counts) == 1:
        return f" (CPU {next(iter(counts))})"
    return f" ({', '.join(f'CPU {cpu}: {count}' for cpu, count in counts.items())})"


def _ordinal(number: int) -> str:
    ending = "th" if number // 10 % 10 == 1 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def _wrap(words: str, first: str = "", others: str = "") -> list[str]:
    """
    Lines of at most WIDTH. GFP flags may break behind a bar, and without a blank.
    """
    wrapper = textwrap.TextWrapper(WIDTH, first, others, break_on_hyphens=False)
    lines = wrapper.wrap(words.replace("|", f"|{GLUE} "))
    return [line.replace(f"{GLUE} ", "").removesuffix(GLUE) for line in lines]
