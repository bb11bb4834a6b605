"""
A recording as a load in closed loop: each CPU carries out its requests, with the recorded time between them.

In closed loop CPUs drift apart, as they would under another policy. So a page frame cannot stay the handle of what was
allocated there: it may be handed out again before another CPU freed it. Each allocation gets handles of its own, and
a free names the handles of the allocation that it ended in the recording.
"""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from .. import recording
from ..errors import ConfigError
from ..names import PAGE_SIZE
from ..requests import ALLOC, BULK, BULK_MORE, FREE
from .plan import HANDLE_BIAS, Load, Stream
from .program import Program

__all__ = ["closed_loop", "recording_load"]

PS_PER_NS = 1000
MOST_GAPS = 1e6


def recording_load(
    source: str | os.PathLike[str], *, gaps: float = 1.0, proc: str | os.PathLike[str] | None = None
) -> Load:
    """
    NAME or NAME.parquet of a recording, or a trace, as a load, on the recorded CPUs, from the recorded start state.

    gaps: the recorded time between two requests of a CPU becomes time in which it computes, so many times as long. It
    holds what the recorded kernel spent in its allocator and waiting for locks, the cost of tracing, and idle time.
    proc: a folder with /proc texts, to start from where there is no snapshot.
    Raises RecordingError or ConfigError.
    """
    if isinstance(gaps, bool) or not isinstance(gaps, int | float) or not 0 <= gaps <= MOST_GAPS:
        raise ConfigError(f"gaps={gaps!r}: expected a number, 0 to {MOST_GAPS:g}")
    recorded = recording.load(source, proc)
    stream = closed_loop(recorded.requests, recorded.times_ns, recorded.state, recorded.left_out, gaps)
    replay = Program(recorded.name)
    replay.replay()
    managed = sum(zone["managed"] for zone in recorded.state["zones"])
    return Load(
        name=recorded.name,
        meaning=f"Linux {recorded.kernel}, {recorded.seconds:.1f} s recorded, each CPU's requests in closed loop",
        source=f"recording {recorded.name}, sha256 {recorded.digest}",
        parameters={"gaps": float(gaps), **({} if proc is None else {"proc": os.path.basename(os.path.abspath(proc))})},
        programs=(replay.instructions(),),
        cpu_program=np.zeros(recorded.state["cpus"], np.uint32),
        nr_queues=0,
        stream=stream,
        memory_bytes=managed * PAGE_SIZE,
        notes=recorded.notes,
    )


class _Pages(NamedTuple):
    """
    What happens to single pages, in the order of the recording.

    request: index of the request. page: its page frame. handle: the handle of the allocation that it makes (ALLOC) or
    ends (FREE); -1: a free of nothing. allocation: which one that is. unseen: handle of what an allocation finds there
    still in use, or -1.
    """

    request: np.ndarray
    allocates: np.ndarray
    handle: np.ndarray
    allocation: np.ndarray
    unseen: np.ndarray


def closed_loop(
    requests: np.ndarray,
    times_ns: np.ndarray,
    state: Mapping[str, Any],
    left_out: Mapping[str, int],
    gaps: float = 1.0,
) -> Stream:
    """
    The stream of a recording: requests in their true order, when they were recorded, the node's state before.
    """
    pages, live, counted = _pages(requests, state)
    handles = np.zeros(len(live) + int(pages.allocates.sum()), np.uint32)
    handles[: len(live)] = live + HANDLE_BIAS
    records, at = [requests[requests["op"] != FREE].copy()], [np.flatnonzero(requests["op"] != FREE)]
    # Allocations are numbered as they come: the first page of each has the handle.
    first_page = np.r_[True, np.diff(pages.request) != 0] & pages.allocates
    paged = np.isin(records[0]["op"], (ALLOC, BULK, BULK_MORE))
    records[0]["pfn"][paged] = pages.handle[first_page]
    unseen = np.flatnonzero(pages.unseen >= 0)
    freed = np.flatnonzero(~pages.allocates & (pages.handle >= 0))
    for rows, pages_of, allocation in (
        (pages.request[unseen], pages.unseen[unseen], -1 - pages.unseen[unseen]),
        (pages.request[freed], pages.handle[freed], pages.allocation[freed]),
    ):
        pieces, row = _pieces(requests, rows, pages_of, allocation)
        records.append(pieces)
        at.append(row)
    counted["frees_in_pieces"] = len(records[2]) - len(np.unique(at[2]))
    # An unseen free stands before the allocation that shows it.
    rank = np.repeat([1, 0, 1], [len(part) for part in records])
    joined, place = np.concatenate(records), np.concatenate(at)
    cpu = joined["cpu"]
    order = np.lexsort((rank, place, cpu))
    joined, place, cpu = joined[order], place[order], cpu[order]
    first = np.searchsorted(cpu, np.arange(state["cpus"] + 1))
    when = times_ns[place] - (times_ns[0] if len(times_ns) else 0)
    think_ns = np.diff(when, prepend=0)
    begins = first[:-1][first[:-1] < first[1:]]
    think_ns[begins] = when[begins]
    return Stream(
        requests=joined,
        think_ps=np.rint(think_ns * (gaps * PS_PER_NS)).astype(np.int64),
        first=first.astype(np.uint64),
        handles=handles,
        state=state,
        left_out={**left_out, **{name: count for name, count in counted.items() if count}},
    )


def _pages(requests: np.ndarray, state: Mapping[str, Any]) -> tuple[_Pages, np.ndarray, dict[str, int]]:
    """
    Requests page by page, the page frames of the start state that they free, and what makes no sense.
    """
    request = np.flatnonzero(np.isin(requests["op"], (ALLOC, BULK, BULK_MORE, FREE)))
    sizes = np.left_shift(1, requests["order"][request].astype(np.int64))
    request = np.repeat(request, sizes)
    offset = np.arange(len(request)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    page = requests["pfn"][request].astype(np.int64) + offset
    allocates = requests["op"][request] != FREE

    # What happened to the same page before: -1 for nothing.
    by_page = np.argsort(page, kind="stable")
    same = np.r_[False, page[by_page[1:]] == page[by_page[:-1]]] if len(page) else np.zeros(0, bool)
    before = np.full(len(page), -1, np.int64)
    before[by_page[same]] = by_page[np.flatnonzero(same) - 1]

    head = _heads(state, int(page.max(initial=0)) + 1)
    at_start = (before < 0) & (head[page] >= 0)
    live = np.unique(page[at_start])
    own = np.where(allocates, len(live) + np.cumsum(allocates) - 1, -1)
    in_use = np.where(before >= 0, allocates[before], at_start)
    found = np.where(before >= 0, own[before], np.searchsorted(live, page))
    # One allocation: the request that made it, or the head of one of the start state. Bulk pages are one each.
    made = np.where(allocates, request, -1)
    whose = np.where(before >= 0, made[before], -1 - head[page])
    freed = ~allocates & in_use
    counted = {
        "frees_unknown": int(np.count_nonzero(~allocates & (before < 0) & ~at_start)),
        "frees_double": int(np.count_nonzero(~allocates & (before >= 0) & ~in_use)),
        "frees_unseen": int(np.count_nonzero(allocates & in_use)),
    }
    pages = _Pages(
        request,
        allocates,
        np.where(allocates, own, np.where(freed, found, -1)),
        np.where(allocates, made, whose),
        np.where(allocates & in_use, found, -1),
    )
    return pages, live, counted


def _heads(state: Mapping[str, Any], nr_pages: int) -> np.ndarray:
    """
    For each page frame the head of the allocation that it is in at the start; -1: not allocated.
    """
    rows = np.concatenate([np.asarray(zone["allocated"], np.int64).reshape(-1, 4) for zone in state["zones"]])
    sizes = np.left_shift(1, rows[:, 1])
    pages = np.repeat(rows[:, 0], sizes) + np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    heads = np.full(max(nr_pages, int(pages.max(initial=0)) + 1), -1, np.int64)
    heads[pages] = np.repeat(rows[:, 0], sizes)
    return heads


def _pieces(
    requests: np.ndarray, request: np.ndarray, handles: np.ndarray, allocation: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """
    Free records for single pages, and the request of each: pages of one request and allocation in a row are one free,
    or as few as their number has powers of two.
    """
    if not len(request):
        return requests[:0].copy(), request
    new = (np.diff(request) != 0) | (np.diff(handles) != 1) | (np.diff(allocation) != 0)
    begin = np.flatnonzero(np.r_[True, new])
    left = np.diff(np.r_[begin, len(request)])
    parts = []
    while len(begin):
        order = np.frexp(left.astype(float))[1] - 1
        parts.append((begin, order))
        begin, left = begin + (1 << order), left - (1 << order)
        begin, left = begin[left > 0], left[left > 0]
    first, order = (np.concatenate(column) for column in zip(*parts, strict=True))
    turn = np.argsort(first, kind="stable")
    first, order = first[turn], order[turn]
    records = np.zeros(len(first), requests.dtype)
    records["op"] = FREE
    records["pfn"] = handles[first]
    records["order"] = order
    records["cpu"] = requests["cpu"][request[first]]
    return records, request[first]
