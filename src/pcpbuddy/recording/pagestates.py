"""
The pages that rows name, each from row to row, and signs of what rows alone leave open.

One reading, batch by batch, for ``health``. Memory follows the pages, not the rows.
"""

import dataclasses

import numpy as np

from ..names import CMA, COSTLY_ORDER, MAX_CPUS, NR_MIGRATETYPES, NR_ORDERS, NR_PCP_TYPES, PAGEBLOCK_ORDER
from . import files, snapshot, stream
from .files import EVENT_CODES, EVENT_ORDER, MISSING, OTHER_EVENT
from .numbering import Faults

__all__ = ["NAMED", "PageStates", "Pages"]

MOST_PFN = 1 << 40  # 52 bits of physical address: the most that x86-64 has
UNIT = 64  # pages that get a word together
MOST_PAGES = 1 << 20  # page operations followed at a time
FPI_CONTIGUOUS = 8
IN_INTERRUPT = 0x18  # hard and soft, of the ftrace common flags

# What the last row of a page did to it. With probes FREED is pcp_free and free_one, without it is mm_page_free.
NOTHING, HELD_FREE, HELD, POPPED, BULK, RETURNED, FREED, BATCHED = range(8)
NR_OPS = 8
# What that says of the row after it.
FINE, PAIR, SAME, UNSEEN_FREE, UNKNOWN_FREE, DOUBLE_FREE, EARLIER = range(7)


def _outcomes() -> np.ndarray:
    """
    The outcome of an operation on a page, by what was done to the page before.
    """
    table = np.full((NR_OPS, NR_OPS), FINE, np.uint8)
    taking, giving = [POPPED, BULK, RETURNED], [FREED, BATCHED]
    table[np.ix_([HELD, *taking], taking)] = UNSEEN_FREE
    table[POPPED, RETURNED] = PAIR  # mm_page_alloc of a page whose pop was seen: one allocation
    table[NOTHING, giving] = EARLIER
    table[HELD_FREE, giving] = UNKNOWN_FREE
    table[np.ix_(giving, giving)] = DOUBLE_FREE
    table[FREED, BATCHED] = SAME  # a batched page shows both rows (17.6)
    return table


OUTCOME = _outcomes()

# A page's word: what was done last (3 bits), the order if the page was its first one (4), the CPU (9).
ORDER_SHIFT, CPU_SHIFT, NOT_FIRST = 3, 7, 15


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pages:
    """
    The lives of pages, each followed by itself: a large allocation may be freed in pieces, and pieces together (R5).

    from_snapshot: the state before the rows is known. Otherwise a page counts from its first row on.
    frees_unknown: pages freed that were not allocated in snapshot 0 nor by a row. frees_double: freed, and free by
    the row before. frees_unseen: allocated while still allocated, so a free was not seen. frees_earlier: freed by
    the first row of a page of which nothing is known.
    differ_allocated, differ_free: pages that snapshot 1 shows allocated (free) and the rows leave free (allocated);
    None where the two cannot be compared.
    """

    from_snapshot: bool
    allocs: int
    allocs_failed: int
    pages_allocated: int
    frees: int
    pages_freed: int
    frees_unknown: int
    frees_unknown_rows: int
    frees_double: int
    frees_double_rows: int
    frees_unseen: int
    frees_unseen_rows: int
    frees_earlier: int
    held: int
    held_pages: int
    pops_without_event: int
    differ_allocated: int | None
    differ_free: int | None


def _mask(*names: str) -> np.ndarray:
    """
    A table: whether an event code is one of these.
    """
    table = np.zeros(OTHER_EVENT + 1, bool)
    table[[EVENT_CODES[name] for name in names]] = True
    return table


PAGED, MAY_FAIL, TYPED = _mask(*stream.WITH_PAGE), _mask(*stream.MAY_FAIL), _mask(*stream.REQUEST_TYPED)
ORDERED, TAKEN = _mask(*stream.WITH_ORDER), _mask(*stream.TAKEN)
MOVED = _mask("isolate", "putback")
NAMED = {name: EVENT_CODES[name] for name in EVENT_ORDER}
FREE_ROWS = _mask("pcp_free", "free_one")
REQUEST_ROWS = _mask("mm_page_alloc", "mm_page_free")


class PageStates:
    """
    The second reading: every page from row to row, and signs of what rows alone leave open.
    """

    OPTIONAL = ("zone", "pcp_cpu", "fpi", "zflags", "fallback_order", "irq_flags")

    def __init__(self, first: files.Snapshot | None, with_probes: bool) -> None:
        self.first = first
        self.with_probes = with_probes
        self.rows = 0
        self.faults = Faults()
        self.words = _Words()
        self.max_pfn = MOST_PFN
        self.zones: list[int] | None = None
        self.nr_cpus = MAX_CPUS
        if first is not None:
            states = first.arrays["page_state"]
            self.words.fill(np.where(states >= snapshot.ALLOCATED, HELD, HELD_FREE) | (NOT_FIRST << ORDER_SHIFT))
            self.max_pfn = int(first.json["max_pfn"])
            self.zones = [zone["index"] for zone in first.json["zones"]]
            self.nr_cpus = len(first.json["ring"])
        self.ops = self._operations()
        self.pages = np.zeros(7, np.int64)  # by outcome
        self.outcome_rows = np.zeros(7, np.int64)
        self.done_rows = np.zeros(NR_OPS, np.int64)
        self.done_pages = np.zeros(NR_OPS, np.int64)
        self.whole = np.zeros(7, np.int64)  # by outcome of the first page
        self.whole_pages = np.zeros(7, np.int64)
        self.moved = self.drained_contiguous = self.allocs_failed = 0
        self.counts = np.zeros(OTHER_EVENT + 1, np.int64)
        self.bulk_pages = self.frees_past_pcp = self.contiguous = self.zone_flags_set = self.claims = 0
        self.cma_takes = self.in_interrupt = self.requests = 0

    def _operations(self) -> np.ndarray:
        """
        What each event does to its page, NOTHING for most: those that become requests (replay.md, section 1).
        """
        ops = np.zeros(OTHER_EVENT + 1, np.uint8)
        ops[NAMED["mm_page_alloc"]] = RETURNED
        if self.with_probes:
            ops[NAMED["pcp_alloc"]] = POPPED
            ops[NAMED["pcp_alloc_bulk"]] = BULK
            ops[[NAMED["pcp_free"], NAMED["free_one"]]] = FREED
        else:
            ops[NAMED["mm_page_free"]] = FREED
            ops[NAMED["mm_page_free_batched"]] = BATCHED
        return ops

    def add(self, batch: dict[str, np.ndarray]) -> None:
        """
        Take the next rows.
        """
        possible = self._check(batch)
        inside = (batch["phase"] == stream.REPLAYED) if self.first is not None else np.ones(len(possible), bool)
        self._signs({name: column[inside] for name, column in batch.items()})
        event, pfn, order = batch["event"], batch["pfn"], batch["order"]
        drains = inside & possible & (event == NAMED["mm_page_pcpu_drain"]) & (order > 0) & (not self.with_probes)
        followed = np.flatnonzero(inside & possible & (((self.ops[event] != NOTHING) & (pfn >= 0)) | drains))
        op = np.where(drains, NOTHING, self.ops[event])[followed]
        orders = np.where((op == BATCHED) | (op == BULK) | (order[followed] < 0), 0, order[followed])
        # A drain only looks at its first page.
        pages = np.where(op == NOTHING, 1, np.left_shift(1, orders))
        cpu = np.clip(batch["cpu"][followed], 0, MAX_CPUS - 1)
        start = 0
        total = np.cumsum(pages)
        while start < len(followed):
            done = int(total[start - 1]) if start else 0
            end = max(start + 1, int(np.searchsorted(total, done + MOST_PAGES, side="right")))
            part = slice(start, end)
            self._follow(op[part], pfn[followed[part]], orders[part], pages[part], cpu[part])
            start = end
        self.rows += len(event)

    def _check(self, batch: dict[str, np.ndarray]) -> np.ndarray:
        """
        Which rows can be; the others are counted. The same that ``stream.verify`` refuses.
        """
        event, pfn, order, kind = batch["event"], batch["pfn"], batch["order"], batch["migratetype"]
        paged, may_fail = PAGED[event], MAY_FAIL[event]
        absent = order == MISSING
        bad_order = (order < 0) | (order >= NR_ORDERS)
        bad_order &= ORDERED[event] | ~absent
        sizes = np.left_shift(1, np.where(bad_order | absent, 0, order))
        heads = (paged | may_fail | MOVED[event]) & ~absent
        far = pfn > self.max_pfn - sizes
        wrong = {
            "order": bad_order,
            "pfn": (paged & (pfn < 0))
            | (may_fail & (pfn < -1) & (pfn != MISSING))
            | ((paged | may_fail) & far)
            | (heads & (pfn >= 0) & (pfn % sizes != 0)),
            "migratetype": (TYPED[event] & (pfn >= 0) & ((kind < 0) | (kind >= NR_PCP_TYPES)))
            | (TAKEN[event] & ((kind < 0) | (kind >= NR_MIGRATETYPES))),
        }
        gfp = batch["gfp_flags"]
        both = gfp & stream.BOTH_MOBILITIES == stream.BOTH_MOBILITIES
        wrong["gfp_flags"] = (event == NAMED["mm_page_alloc"]) & (pfn >= 0) & ((gfp < 0) | both)
        if self.zones is not None:
            wrong["zone"] = (event == NAMED["decay"]) & ~np.isin(batch["zone"], self.zones)
        whose = batch["pcp_cpu"]
        wrong["pcp_cpu"] = (whose != MISSING) & ((whose < 0) | (whose >= self.nr_cpus))
        impossible = np.zeros(len(event), bool)
        for column, mask in wrong.items():
            self.faults.add(column, mask, event, self.rows)
            impossible |= mask
        return ~impossible

    def _signs(self, batch: dict[str, np.ndarray]) -> None:
        """
        Count what tells R-items apart.
        """
        event, pfn, order = batch["event"], batch["pfn"], batch["order"]
        self.counts += np.bincount(event, minlength=OTHER_EVENT + 1)
        self.allocs_failed += _number(event == NAMED["mm_page_alloc"], pfn == -1)
        self.bulk_pages += _number(event == NAMED["pcp_alloc_bulk"], pfn >= 0)
        on_lists = (order <= COSTLY_ORDER) | (order == PAGEBLOCK_ORDER)
        fpi, flags, gone = batch["fpi"], batch["zflags"], batch["fallback_order"]
        self.frees_past_pcp += _number(event == NAMED["free_one"], on_lists)
        self.contiguous += _number(FREE_ROWS[event], fpi >= 0, fpi & FPI_CONTIGUOUS != 0)
        self.zone_flags_set += _number(event == NAMED["pcp_free"], flags > 0)
        claim = NAMED["claim"] if self.with_probes else NAMED["mm_page_alloc_extfrag"]
        self.claims += _number(event == claim, gone >= 0, gone < PAGEBLOCK_ORDER)
        self.cma_takes += _number(event == NAMED["mm_page_alloc_zone_locked"], batch["migratetype"] == CMA)
        asked = REQUEST_ROWS[event]
        self.requests += _number(asked)
        self.in_interrupt += _number(asked, batch["irq_flags"] > 0, batch["irq_flags"] & IN_INTERRUPT != 0)

    def _follow(self, op: np.ndarray, pfn: np.ndarray, order: np.ndarray, pages: np.ndarray, cpu: np.ndarray) -> None:
        """
        Operations in row order, page by page: what each does, by what was done to the page before.
        """
        row = np.repeat(np.arange(len(op)), pages)
        offset = np.arange(len(row)) - np.repeat(np.cumsum(pages) - pages, pages)
        at = self.words.places(pfn[row] + offset)
        shown = np.where(offset == 0, order[row], NOT_FIRST)
        word = op[row].astype(np.int64) | (shown << ORDER_SHIFT) | (cpu[row] << CPU_SHIFT)
        looking = op[row] == NOTHING
        looked = np.flatnonzero(looking)
        by_page = np.flatnonzero(~looking)
        by_page = by_page[np.argsort(at[by_page], kind="stable")]
        where, word = at[by_page], word[by_page]
        begins = np.r_[True, where[1:] != where[:-1]] if len(where) else np.zeros(0, bool)
        earlier = np.r_[0, word[:-1]] if len(word) else word
        earlier[begins] = self.words.words[where[begins]]
        outcome = OUTCOME[earlier & 7, word & 7]
        # The batched row prints order 0; the order stands in the row before.
        same = outcome == SAME
        word[same] = (word[same] & ~(15 << ORDER_SHIFT)) | (earlier[same] & (15 << ORDER_SHIFT))
        if len(looked):
            self._drained(at[looked], row[looked], order[row[looked]], where, row[by_page], word)
        self._count(op, pages, outcome, row[by_page], offset[by_page] == 0, pages[row[by_page]])
        self.moved += _number(outcome == PAIR, offset[by_page] == 0, earlier >> CPU_SHIFT != word >> CPU_SHIFT)
        ends = np.r_[begins[1:], True] if len(begins) else begins
        self.words.words[where[ends]] = word[ends].astype(np.uint16)

    def _drained(
        self,
        at: np.ndarray,
        row: np.ndarray,
        order: np.ndarray,
        where: np.ndarray,
        rows: np.ndarray,
        words: np.ndarray,
    ) -> None:
        """
        Entries of higher order that a drain shows, but whose first page was freed as a single one (R5).
        """
        span = int(max(row.max(), rows.max() if len(rows) else 0)) + 1
        place = np.searchsorted(where * span + rows, at * span + row) - 1
        here = (place >= 0) & (where[np.maximum(place, 0)] == at) if len(where) else np.zeros(len(at), bool)
        last = self.words.words[at].astype(np.int64)
        last[here] = words[place[here]]
        freed = (last & 7 == FREED) | (last & 7 == BATCHED)
        self.drained_contiguous += _number(freed, (last >> ORDER_SHIFT) & 15 == 0)

    def _count(
        self,
        op: np.ndarray,
        pages: np.ndarray,
        outcome: np.ndarray,
        row: np.ndarray,
        first: np.ndarray,
        size: np.ndarray,
    ) -> None:
        self.done_rows += np.bincount(op, minlength=NR_OPS)
        self.done_pages += np.bincount(op, pages, minlength=NR_OPS).astype(np.int64)
        self.pages += np.bincount(outcome, minlength=7)
        self.whole += np.bincount(outcome[first], minlength=7)
        self.whole_pages += np.bincount(outcome[first], size[first], minlength=7).astype(np.int64)
        for what in (UNSEEN_FREE, UNKNOWN_FREE, DOUBLE_FREE, EARLIER):
            if (found := outcome == what).any():
                self.outcome_rows[what] += len(np.unique(row[found]))

    def result(self, last: files.Snapshot | None) -> Pages:
        """
        The lives of all pages, compared with snapshot 1 if there is one.
        """
        words = self.words.words
        did = words & 7
        held = (did == POPPED) | (did == BULK) | (did == RETURNED)
        first = (words >> ORDER_SHIFT) & 15 != NOT_FIRST
        differ: tuple[int, int] | None = None
        if self.first is not None and last is not None:
            state = last.arrays["page_state"]
            ours = (held | (did == HELD))[: len(state)]
            theirs = state >= snapshot.ALLOCATED
            differ = _number(theirs, ~ours), _number(ours, ~theirs)
        taken = self.done_rows[[POPPED, BULK, RETURNED]].sum() - self.whole[PAIR]
        taken_pages = self.done_pages[[POPPED, BULK, RETURNED]].sum() - self.whole_pages[PAIR]
        given = self.done_rows[[FREED, BATCHED]].sum() - self.whole[SAME]
        given_pages = self.done_pages[[FREED, BATCHED]].sum() - self.whole_pages[SAME]
        return Pages(
            from_snapshot=self.first is not None,
            allocs=int(taken),
            allocs_failed=self.allocs_failed,
            pages_allocated=int(taken_pages),
            frees=int(given),
            pages_freed=int(given_pages),
            frees_unknown=int(self.pages[UNKNOWN_FREE]),
            frees_unknown_rows=int(self.outcome_rows[UNKNOWN_FREE]),
            frees_double=int(self.pages[DOUBLE_FREE]),
            frees_double_rows=int(self.outcome_rows[DOUBLE_FREE]),
            frees_unseen=int(self.pages[UNSEEN_FREE]),
            frees_unseen_rows=int(self.outcome_rows[UNSEEN_FREE]),
            frees_earlier=int(self.pages[EARLIER]),
            held=_number(held, first),
            held_pages=_number(held),
            pops_without_event=int(self.done_rows[POPPED] - self.whole[PAIR]),
            differ_allocated=None if differ is None else differ[0],
            differ_free=None if differ is None else differ[1],
        )


class _Words:
    """
    A word for every page that occurs, in units of 64 pages: memory follows the pages, not the largest frame.
    """

    def __init__(self) -> None:
        self.units = np.zeros(0, np.int64)  # page frames / UNIT, ascending
        self.slots = np.zeros(0, np.int64)
        self.words = np.zeros(0, np.uint16)
        self.dense = 0  # pages of which place and frame are the same

    def fill(self, words: np.ndarray) -> None:
        """
        Begin with words of pages 0, 1, 2 and so on.
        """
        units = -(-len(words) // UNIT)
        self.words = np.zeros(units * UNIT, np.uint16)
        self.words[: len(words)] = words
        self.units = self.slots = np.arange(units)
        self.dense = len(self.words)

    def places(self, pages: np.ndarray) -> np.ndarray:
        """
        Where the words of these pages are; pages not met before get one.
        """
        if not len(pages) or pages.max() < self.dense:
            return pages
        unique, inverse = np.unique(pages // UNIT, return_inverse=True)
        new = np.setdiff1d(unique, self.units, assume_unique=True)
        if len(new):
            used = len(self.units)
            need = (used + len(new)) * UNIT
            if need > len(self.words):
                self.words = np.concatenate((self.words, np.zeros(need - len(self.words) // 2, np.uint16)))
            at = np.searchsorted(self.units, new)
            self.units = np.insert(self.units, at, new)
            self.slots = np.insert(self.slots, at, np.arange(used, used + len(new)))
        slot = self.slots[np.searchsorted(self.units, unique)]
        places: np.ndarray = slot[inverse] * UNIT + pages % UNIT
        return places


def _number(*masks: np.ndarray) -> int:
    """
    In how many rows all masks hold.
    """
    return int(np.count_nonzero(np.logical_and.reduce(masks)))
