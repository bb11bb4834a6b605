#!/usr/bin/env python3
"""
Cut a recording short: keep its first rows and its first snapshot, and work out the snapshot at the cut.

    tools/cut_recording.py FOLDER/exits-4c recordings/exits-cut-4c --rows 200000
    tools/cut_recording.py FOLDER/exits-4c --check

The second snapshot of a cut was not taken: it is derived, by following every row from the first (docs/reference/
baseline.md), and says so. Each row also shows state, so a step that does not fit is found where it happens.
``--check`` follows a whole recording and compares the outcome with the snapshot that was taken.

Only recordings with ``ora/*`` rows can be followed. A derived snapshot knows nothing of LRU flags and reference
counts of pages allocated since the first one. The split of a zone counter into its global part and the differences
per CPU is exact only where ``vmfold`` rows were recorded; their sum always is.
"""

import argparse
import json
import shutil
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ORDERS, TYPES, BLOCK, PB, MOVABLE, CMA = 11, 6, 512, 9, 1, 4
BATCH_SCALE_MAX = 5  # S of baseline.md
BELOW_HIGH, RECLAIM_ACTIVE = 4, 2
PREV_FREE_HIGH_ORDER, FREE_HIGH_BATCH = 1, 2
GFP_COMP = 0x40000
FPI_TO_TAIL = 2
BUDDY, PCP, ALLOCATED, TAIL = 2, 3, 4, 5  # page_state
COUNTERS = ("NR_FREE_PAGES", "NR_FREE_PAGES_BLOCKS", "NR_FREE_CMA_PAGES")
TUNING = {"count": "count", "high": "high", "pflags": "flags", "afactor": "alloc_factor", "fcount": "free_count"}

# Columns that no reader of pcpbuddy needs, dropped from a cut: who ran, and in which context.
DROPPED = ("pid", "comm", "irq_flags", "preempt_count", "pagesets")
# Columns that change little from row to row are stored as differences: a third of the size.
SLOW = ("ts_ns", "cpu_seq", "pfn", "count", "nr")
# What a CPU does first in an operation: a cut before one of these does not tear an operation apart.
BEGINNINGS = frozenset(("mm_page_free", "decay", "vmfold", "print", "mm_page_alloc_zone_locked", "pcp_alloc", "split"))


class Torn(Exception):
    """
    A row that does not fit the state that the rows before it lead to.
    """


class Zone:
    """
    Lists, counters and PCPs of one zone, as far as rows determine them.
    """

    def __init__(self, document: dict[str, Any], items: dict[str, int], flags: np.ndarray) -> None:
        self.document = document
        self.start = document["zone_start_pfn"]
        self.end = self.start + document["spanned_pages"]
        self.block_type = flags & 7  # shared by all zones, indexed by pfn / 512
        self.free: dict[tuple[int, int], OrderedDict[int, None]] = {
            (o, T): OrderedDict() for o in range(ORDERS) for T in range(TYPES)
        }
        self.head: dict[int, tuple[int, int]] = {}
        for area in document["free_area"]:
            for T, pfns in area["free_list"].items():
                for pfn in pfns:
                    self.free[area["order"], int(T)][pfn] = None
                    self.head[pfn] = area["order"], int(T)
        self.pcp = [dict(p) for p in sorted(document["pcp"], key=lambda p: p["cpu"])]
        self.listed: dict[int, tuple[int, int]] = {}
        self.lists: list[list[OrderedDict[int, None]]] = []
        for pcp in self.pcp:
            lists = [OrderedDict.fromkeys(pcp["lists"][str(i)]) for i in range(len(pcp["lists"]))]
            self.lists.append(lists)
            for index, pfns in enumerate(lists):
                self.listed |= dict.fromkeys(pfns, (pcp["cpu"], index))
        self.stat = {name: document["vm_stat"][name] for name in COUNTERS}
        self.diff = [{name: pcp["vm_stat_diff"][items[name]] for name in COUNTERS} for pcp in self.pcp]
        self.boost = document["watermark_boost"]
        self.flags = document["flags"]

    # Counters (B-15, B-18, B-30, B-31).

    def count(self, name: str, pages: int, cpu: int) -> None:
        diff = self.diff[cpu][name] + pages
        if abs(diff) > self.pcp[cpu]["stat_threshold"]:
            self.stat[name] += diff
            diff = 0
        self.diff[cpu][name] = diff

    def account(self, pages: int, T: int, cpu: int) -> None:
        self.count("NR_FREE_PAGES", pages, cpu)
        if T == CMA:
            self.count("NR_FREE_CMA_PAGES", pages, cpu)

    def fold(self, cpu: int) -> None:
        if any(self.diff[cpu].values()):
            self.pcp[cpu]["expire"] = 3  # B-101
        for name in COUNTERS:
            self.stat[name] += self.diff[cpu][name]
            self.diff[cpu][name] = 0

    # The zone lists (sections 2 to 5).

    def insert(self, pfn: int, o: int, T: int, cpu: int, tail: bool) -> None:
        self.free[o, T][pfn] = None
        self.free[o, T].move_to_end(pfn, last=tail)
        self.head[pfn] = o, T
        if o >= PB:
            self.count("NR_FREE_PAGES_BLOCKS", 1 << o, cpu)

    def remove(self, pfn: int, cpu: int) -> tuple[int, int]:
        o, T = self.head.pop(pfn)
        del self.free[o, T][pfn]
        if o >= PB:
            self.count("NR_FREE_PAGES_BLOCKS", -(1 << o), cpu)
        return o, T

    def expand(self, pfn: int, low: int, high: int, T: int, cpu: int) -> None:  # B-34
        while high > low:
            high -= 1
            self.insert(pfn + (1 << high), high, T, cpu, tail=False)

    def take(self, pfn: int, have: int, want: int, T: int, cpu: int) -> None:  # B-35
        first = next(iter(self.free[have, T]), None)
        if first != pfn:
            raise Torn(f"page {pfn} is not the head of the order {have} list of type {T}, but {first}")
        self.remove(pfn, cpu)
        self.expand(pfn, want, have, T, cpu)
        self.account(-(1 << want), T, cpu)

    def smallest(self, pfn: int, o: int, T: int, cpu: int) -> None:  # B-41
        for have in range(o, ORDERS):
            if self.free[have, T]:
                return self.take(pfn, have, o, T, cpu)
        raise Torn(f"no chunk of type {T} for order {o}")

    def set_type(self, pfn: int, o: int, T: int) -> None:
        self.block_type[pfn // BLOCK : (pfn + (1 << o) - 1) // BLOCK + 1] = T

    def claim_whole(self, pfn: int, o: int, have: int, T: int, Tf: int, cpu: int) -> None:  # B-47
        if self.remove(pfn, cpu) != (have, Tf):
            raise Torn(f"page {pfn} is no free chunk of order {have} and type {Tf}")
        self.account(-(1 << have), Tf, cpu)
        self.set_type(pfn, have, T)
        self.expand(pfn, o, have, T, cpu)
        self.account((1 << have) - (1 << o), T, cpu)

    def move_block(self, pfn: int, Tf: int, T: int, cpu: int) -> None:  # B-46, B-32
        first = pfn // BLOCK * BLOCK
        for page in range(first, first + BLOCK):
            if page in self.head and self.head[page][1] == Tf:
                o = self.head[page][0]
                del self.free[o, Tf][page]
                self.free[o, T][page] = None
                self.head[page] = o, T
                self.account(-(1 << o), Tf, cpu)
                self.account(1 << o, T, cpu)

    def merge_free(self, pfn: int, o: int, T: int, cpu: int, to_tail: bool = False) -> None:  # B-36
        self.account(1 << o, T, cpu)
        while o < ORDERS - 1:
            buddy = pfn ^ (1 << o)
            if self.head.get(buddy, (-1, 0))[0] != o:
                break
            Tb = T
            if o >= PB:
                Tb = int(self.block_type[buddy // BLOCK])
                if Tb != T and (T >= 3 or Tb >= 3):
                    break
            self.remove(buddy, cpu)
            if Tb != T:
                self.set_type(buddy, o, T)
            pfn &= buddy
            o += 1
        if not to_tail and o < PB:  # B-37
            above = (pfn & ~(1 << o)) ^ (1 << (o + 1))
            to_tail = self.head.get(above, (-1, 0))[0] == o + 1
        self.insert(pfn, o, T, cpu, tail=to_tail)

    # The PCPs (sections 10 and 12). What a row shows is checked against what was worked out.

    def show(self, row: dict[str, Any]) -> None:
        pcp = self.pcp[row["pcp_cpu"]]
        for column, name in TUNING.items():
            if row[column] is not None and pcp[name] != row[column]:
                raise Torn(f"PCP of CPU {row['pcp_cpu']}: {name} is {pcp[name]} here and {row[column]} in the row")

    def limit(self, pcp: dict[str, Any], free_high: bool) -> int:  # B-83; its effect on high is what counts
        pcp["high"] = high = min(max(pcp["high"], pcp["high_min"]), pcp["high_max"])
        low, batch = pcp["high_min"], pcp["batch"]
        if not high:
            return 0
        if free_high:
            pcp["high"] = max(high - (batch << BATCH_SCALE_MAX), low)
            return 0
        shrunk = max(high - max(pcp["free_count"], batch), low)
        if self.flags & RECLAIM_ACTIVE:
            pcp["high"] = shrunk
            return min(4 * batch, shrunk)
        if low == pcp["high_max"]:
            return high
        if self.flags & BELOW_HIGH:
            pcp["high"] = shrunk
            return max(pcp["count"], low)
        need = pcp["free_count"] + batch
        if pcp["count"] >= high and high < need:
            pcp["high"] = min(max(need, low), pcp["high_max"])
        return high

    def commit(self, pfn: int, o: int, index: int, cpu: int) -> None:  # B-81
        pcp = self.pcp[cpu]
        pcp["alloc_factor"] >>= 1
        self.lists[cpu][index][pfn] = None
        self.lists[cpu][index].move_to_end(pfn, last=False)
        self.listed[pfn] = cpu, index
        pcp["count"] += 1 << o
        free_high = False
        if 1 <= o <= 3:
            free_high = bool(
                pcp["free_count"] >= pcp["batch"] + pcp["high_min"] // 2
                and pcp["flags"] & PREV_FREE_HIGH_ORDER
                and (not pcp["flags"] & FREE_HIGH_BATCH or pcp["count"] >= pcp["batch"])
            )
            pcp["flags"] |= PREV_FREE_HIGH_ORDER
        else:
            pcp["flags"] &= ~PREV_FREE_HIGH_ORDER
        if pcp["free_count"] < pcp["batch"] << BATCH_SCALE_MAX:
            pcp["free_count"] += 1 << o
        self.limit(pcp, free_high)

    def decay(self, cpu: int) -> None:  # B-101, B-102; the rows of its drain follow
        self.fold(cpu)
        pcp = self.pcp[cpu]
        if pcp["high"] > pcp["high_min"]:
            excess = pcp["count"] - (pcp["batch"] << BATCH_SCALE_MAX)
            pcp["high"] = max(excess, pcp["high"] - (pcp["high"] >> 3), pcp["high_min"])
        pcp["expire"] = 0 if pcp["expire"] and pcp["count"] else pcp["expire"]

    def drain(self, pfn: int, o: int, T: int, by: int) -> None:  # B-85
        if pfn not in self.listed:
            raise Torn(f"drained page {pfn} is on no PCP list")
        cpu, index = self.listed.pop(pfn)
        if next(reversed(self.lists[cpu][index])) != pfn:
            raise Torn(f"drained page {pfn} is not the tail of its list")
        del self.lists[cpu][index][pfn]
        self.pcp[cpu]["count"] -= 1 << o
        self.merge_free(pfn, o, T, by)

    def pop(self, row: dict[str, Any], got: list[tuple[int, int]]) -> None:  # B-61 to B-63
        cpu, index = row["pcp_cpu"], list_index(row["migratetype"], row["order"])
        entries = self.lists[cpu][index]
        for pfn, o in got:
            if o != row["order"]:
                raise Torn(f"page {pfn} of order {o} was taken for a refill of order {row['order']}")
            entries[pfn] = None
            self.listed[pfn] = cpu, index
        if row["pfn"] >= 0:
            first = next(iter(entries), None)
            if first != row["pfn"]:
                raise Torn(f"page {row['pfn']} is not the head of list {index} of CPU {cpu}, but {first}")
            del entries[first], self.listed[first]
        for column, name in TUNING.items():
            self.pcp[cpu][name] = row[column]

    def problems(self) -> list[str]:
        """
        Where counters and lists contradict each other.
        """
        found = []
        free = sum(len(pfns) << o for (o, T), pfns in self.free.items() if T < 5)
        total = self.stat["NR_FREE_PAGES"] + sum(diff["NR_FREE_PAGES"] for diff in self.diff)
        if free != total:
            found.append(f"NR_FREE_PAGES {total}, lists {free}")
        for cpu, lists in enumerate(self.lists):
            pages = sum(len(pfns) << list_order(index) for index, pfns in enumerate(lists))
            if pages != self.pcp[cpu]["count"]:
                found.append(f"pcp count {self.pcp[cpu]['count']}, lists {pages}")
        return found


def list_index(T: int, o: int) -> int:
    """
    The PCP list of a type and order (B-10).
    """
    return 3 * o + T if o <= 3 else 12 + (T == MOVABLE)


def list_order(index: int) -> int:
    """
    The order of a PCP list (B-11).
    """
    return PB if index >= 12 else index // 3


class Follower:
    """
    The state of all zones after each row.
    """

    def __init__(self, document: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        self.document = document
        self.flags = arrays["pageblock_flags"].copy()
        self.types = self.flags & 7
        self.state = arrays["page_state"].copy()
        self.order = arrays["page_order"].copy()
        self.page_flags = arrays["page_flags"].copy()
        self.zones = [Zone(zone, document["zone_stat_items"], self.types) for zone in document["zones"]]
        for zone in self.zones:
            zone.block_type = self.types
        cpus = len(document["ring"])
        self.got: list[list[tuple[int, int]]] = [[] for _ in range(cpus)]  # taken from a zone, not yet on a list
        self.claims: list[dict[str, Any] | None] = [None] * cpus
        self.popped: set[int] = set()  # left a PCP, mm_page_alloc still to come
        self.freed: set[int] = set()  # mm_page_free came, not yet on a list
        self.passing: dict[int, int] = {}  # free_one came, buddy_free still to come

    def zone_of(self, pfn: int) -> Zone:
        return next(zone for zone in self.zones if zone.start <= pfn < zone.end)

    def quiet(self) -> bool:
        """
        Whether no operation is under way, as far as rows before this point tell.
        """
        return not (self.popped or self.freed or self.passing or any(self.got))

    def step(self, row: dict[str, Any]) -> None:
        handler = getattr(self, f"on_{row['event']}", None)
        if handler is not None:
            handler(row)

    def on_mm_page_alloc_zone_locked(self, row: dict[str, Any]) -> None:
        zone = self.zone_of(row["pfn"])
        zone.smallest(row["pfn"], row["order"], row["migratetype"], row["cpu"])
        self.got[row["cpu"]].append((row["pfn"], row["order"]))

    def on_claim(self, row: dict[str, Any]) -> None:
        self.claims[row["cpu"]] = row
        zone = self.zone_of(row["pfn"])
        factor = self.document["globals"]["watermark_boost_factor"]
        most = zone.document["watermark"][2] * factor // 10000
        if row["fallback_order"] < PB and factor and zone.document["managed_pages"] >= 4 * BLOCK and most:  # B-45
            zone.boost = min(zone.boost + BLOCK, max(BLOCK, most))

    def on_set_pageblock(self, row: dict[str, Any]) -> None:
        claim = self.claims[row["cpu"]]
        T = row["pbflags"] & 7
        if claim and claim["fallback_order"] < PB and claim["pfn"] // BLOCK == row["pfn"] // BLOCK:
            self.zone_of(row["pfn"]).move_block(row["pfn"], claim["fallback_migratetype"], T, row["cpu"])
        self.types[row["pfn"] // BLOCK] = T

    def on_mm_page_alloc_extfrag(self, row: dict[str, Any]) -> None:
        cpu, pfn, o = row["cpu"], row["pfn"], row["order"]
        self.claims[cpu] = None
        if (pfn, o) in self.got[cpu]:  # a claim below pageblock order: the take had its own row (17.4)
            return
        zone, have, Tf = self.zone_of(pfn), row["fallback_order"], row["fallback_migratetype"]
        if have >= PB:
            zone.claim_whole(pfn, o, have, row["migratetype"], Tf, cpu)
        else:
            zone.take(pfn, have, o, Tf, cpu)
        self.got[cpu].append((pfn, o))

    def on_pcp_alloc(self, row: dict[str, Any]) -> None:
        zone = self.zones_by_index(row["zone"])
        zone.pop(row, self.got[row["cpu"]])
        self.got[row["cpu"]].clear()
        if row["pfn"] >= 0:
            self.popped.add(row["pfn"])
            self.mark(row["pfn"], row["order"], ALLOCATED)

    def on_pcp_alloc_bulk(self, row: dict[str, Any]) -> None:
        self.on_pcp_alloc(row)
        self.popped.discard(row["pfn"])

    def on_mm_page_alloc(self, row: dict[str, Any]) -> None:
        pfn, o, cpu = row["pfn"], row["order"], row["cpu"]
        if pfn < 0:
            return
        if pfn not in self.popped:  # past the PCP: one take of this CPU
            if (pfn, o) not in self.got[cpu]:
                raise Torn(f"page {pfn} was allocated but not taken from anywhere")
            self.got[cpu].remove((pfn, o))
        self.popped.discard(pfn)
        self.mark(pfn, o, ALLOCATED, compound=bool(row["gfp_flags"] & GFP_COMP) and o > 0)

    def on_mm_page_free(self, row: dict[str, Any]) -> None:
        self.freed.update(range(row["pfn"], row["pfn"] + (1 << row["order"])))

    def on_pcp_free(self, row: dict[str, Any]) -> None:
        zone = self.zones_by_index(row["zone"])
        zone.flags = row["zflags"]
        zone.show(row)
        zone.commit(row["pfn"], row["order"], list_index(row["migratetype"], row["order"]), row["pcp_cpu"])
        self.entered(row["pfn"], row["order"])

    def on_free_one(self, row: dict[str, Any]) -> None:
        self.passing[row["pfn"]] = row["fpi"] or 0

    def on_buddy_free(self, row: dict[str, Any]) -> None:  # B-38
        zone, fpi = self.zone_of(row["pfn"]), self.passing.pop(row["pfn"], 0)
        for pfn in range(row["pfn"], row["pfn"] + (1 << row["order"]), 1 << min(row["order"], PB)):
            T = int(self.types[pfn // BLOCK])
            zone.merge_free(pfn, min(row["order"], PB), T, row["cpu"], bool(fpi & FPI_TO_TAIL))
        self.entered(row["pfn"], row["order"])

    def on_pcp_bulk_free(self, row: dict[str, Any]) -> None:
        self.zones_by_index(row["zone"]).show(row)

    def on_mm_page_pcpu_drain(self, row: dict[str, Any]) -> None:
        self.zone_of(row["pfn"]).drain(row["pfn"], row["order"], row["migratetype"], row["cpu"])

    def on_decay(self, row: dict[str, Any]) -> None:
        zone = self.zones_by_index(row["zone"])
        zone.show(row)
        zone.decay(row["pcp_cpu"])

    def on_vmfold(self, row: dict[str, Any]) -> None:
        for zone in self.zones:
            zone.fold(row["cpu"])

    def on_split(self, row: dict[str, Any]) -> None:
        self.mark(row["pfn"], row["order"], ALLOCATED)

    def zones_by_index(self, index: int) -> Zone:
        return next(zone for zone in self.zones if zone.document["index"] == index)

    def entered(self, pfn: int, o: int) -> None:
        self.freed.difference_update(range(pfn, pfn + (1 << o)))

    def mark(self, pfn: int, o: int, state: int, compound: bool = False) -> None:
        """
        Note an allocation. Pages of one that is not compound show one by one.
        """
        self.state[pfn : pfn + (1 << o)] = TAIL if compound else state
        self.state[pfn] = state
        self.order[pfn : pfn + (1 << o)] = 0
        self.order[pfn] = o if compound else 0
        self.page_flags[pfn : pfn + (1 << o)] = 0

    def snapshot(self, entries: list[int], origin: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """
        The state as the two parts of a snapshot.
        """
        items = self.document["zone_stat_items"]
        zones = []
        for zone in self.zones:
            copy = dict(zone.document)
            copy["watermark_boost"], copy["flags"] = zone.boost, zone.flags
            copy["vm_stat"] = dict(zone.stat)
            copy["free_area"] = [
                {
                    "order": o,
                    "nr_free": sum(len(zone.free[o, T]) for T in range(TYPES)),
                    "free_list": {str(T): list(zone.free[o, T]) for T in range(TYPES)},
                }
                for o in range(ORDERS)
            ]
            copy["pcp"] = []
            for cpu, pcp in enumerate(zone.pcp):
                diff = [0] * len(pcp["vm_stat_diff"])
                for name in COUNTERS:
                    diff[items[name]] = zone.diff[cpu][name]
                lists = {str(index): list(pfns) for index, pfns in enumerate(zone.lists[cpu])}
                copy["pcp"].append({**pcp, "lists": lists, "vm_stat_diff": diff})
            zones.append(copy)
            self._paint(zone)
        keep = (
            "kernel",
            "max_pfn",
            "nr_orders",
            "migratetypes",
            "pageblock_order",
            "nr_pcp_lists",
            "online_cpus",
            "zone_flag_bits",
            "zone_stat_items",
            "globals",
            "cma",
        )
        document = {name: self.document[name] for name in keep if name in self.document}
        problems = [f"{zone.document['name']}: {text}" for zone in self.zones for text in zone.problems()]
        document |= {
            "snapshot": "snap1",
            "derived": f"worked out by tools/cut_recording.py from {origin}; not taken from a machine",
            "ring": [{"cpu": cpu, "entries": count} for cpu, count in enumerate(entries)],
            "checks": {"problems": problems, "n_problems": len(problems)},
            "zones": zones,
        }
        arrays = {
            "pageblock_flags": (self.flags & ~np.uint8(7)) | self.types,
            "page_state": self.state,
            "page_order": self.order,
            "page_flags": self.page_flags,
        }
        return document, arrays

    def _paint(self, zone: Zone) -> None:
        """
        Write free and PCP pages into the page arrays.
        """
        for pfn, (o, _) in zone.head.items():
            self._chunk(pfn, o, BUDDY)
        for pfn, (_, index) in zone.listed.items():
            self._chunk(pfn, list_order(index), PCP)

    def _chunk(self, pfn: int, o: int, state: int) -> None:
        self.state[pfn : pfn + (1 << o)] = state
        self.order[pfn : pfn + (1 << o)] = 0
        self.order[pfn] = o
        self.page_flags[pfn : pfn + (1 << o)] = 0


def load(base: Path, which: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """
    A snapshot of the recording.
    """
    with pa.CompressedInputStream(pa.OSFile(f"{base}.snap{which}.json.zst"), "zstd") as file:
        document = json.loads(file.read())
    with np.load(f"{base}.snap{which}.npz") as archive:
        return document, {name: archive[name] for name in archive.files}


def rows_of(table: pa.Table) -> Any:
    """
    The rows of phase 1 as dictionaries, with their numbers.
    """
    names = [name for name in table.column_names if name not in DROPPED]
    first = 0
    for batch in table.select(names).to_batches(max_chunksize=65536):
        for number, row in enumerate(batch.to_pylist(), first):
            if row["phase"] == 1:
                yield number, row
        first += batch.num_rows


def follow(follower: Follower, table: pa.Table, cut: int | None) -> int:
    """
    Follow the rows to the first quiet place at or after row ``cut``, or to the end; return the number of rows kept.
    """
    following = next_events(table) if cut is not None else {}
    for number, row in rows_of(table):
        if cut is not None and number >= cut and follower.quiet() and following(number) <= BEGINNINGS:
            return number
        try:
            follower.step(row)
        except Torn as torn:
            raise SystemExit(f"row {number} ({row['event']}, CPU {row['cpu']}): {torn}") from None
    return table.num_rows


def next_events(table: pa.Table) -> Any:
    """
    A function: the next event of every CPU from a row on.
    """
    cpu, event = table["cpu"].to_numpy(), np.array(table["event"].to_pylist())
    at = [np.flatnonzero(cpu == c) for c in np.unique(cpu)]
    return lambda number: {event[rows[i]] for rows in at if (i := np.searchsorted(rows, number)) < len(rows)}


def differences(got: tuple[dict[str, Any], Any], want: tuple[dict[str, Any], Any]) -> list[str]:
    """
    Where a derived snapshot and one that was taken differ.
    """
    found = []
    for mine, real in zip(got[0]["zones"], want[0]["zones"], strict=True):
        name = real["name"]
        for area, truth in zip(mine["free_area"], real["free_area"], strict=True):
            found += [
                f"{name}: free list of order {truth['order']} type {T}"
                for T, pfns in truth["free_list"].items()
                if area["free_list"][T] != pfns
            ]
        for pcp, truth in zip(mine["pcp"], real["pcp"], strict=True):
            for field in (
                "count",
                "high",
                "high_min",
                "high_max",
                "batch",
                "flags",
                "alloc_factor",
                "free_count",
                "lists",
            ):
                if pcp[field] != truth[field]:
                    seen, told = str(pcp[field])[:40], str(truth[field])[:40]
                    found.append(f"{name}: pcp of CPU {truth['cpu']}: {field} {seen} not {told}")
        for field in ("watermark_boost", "flags"):
            if mine[field] != real[field]:
                found.append(f"{name}: {field} {mine[field]} not {real[field]}")
        items = want[0]["zone_stat_items"]
        for counter in COUNTERS:
            sums = [
                z["vm_stat"][counter] + sum(p["vm_stat_diff"][items[counter]] for p in z["pcp"]) for z in (mine, real)
            ]
            if sums[0] != sums[1]:
                found.append(f"{name}: {counter} {sums[0]} not {sums[1]}")
            elif mine["vm_stat"][counter] != real["vm_stat"][counter]:
                found.append(
                    f"({name}: {counter} folded otherwise: {mine['vm_stat'][counter]} not {real['vm_stat'][counter]})"
                )
    for array, bits in (("pageblock_flags", 0x17), ("page_state", 0xFF), ("page_order", 0xFF)):
        wrong = np.flatnonzero((got[1][array] & bits) != (want[1][array] & bits))
        if len(wrong):
            found.append(f"{array}: {len(wrong)} differ, first at {wrong[0]}")
    return found


def write(base: Path, table: pa.Table, document: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """
    Write rows and derived snapshot.
    """
    pq.write_table(
        table,
        f"{base}.parquet",
        compression="zstd",
        compression_level=19,
        row_group_size=table.num_rows,
        use_dictionary=[name for name in table.column_names if name not in SLOW],
        column_encoding={name: "DELTA_BINARY_PACKED" for name in SLOW if name in table.column_names},
    )
    text = json.dumps(document, separators=(",", ":")).encode()
    Path(f"{base}.snap1.json.zst").write_bytes(pa.Codec("zstd", compression_level=19).compress(text, asbytes=True))
    np.savez_compressed(f"{base}.snap1.npz", **arrays)


def main() -> int:
    """
    Parse the command line and cut, or check.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a recording, without .parquet")
    parser.add_argument("target", type=Path, nargs="?", help="the cut, without .parquet")
    parser.add_argument("--rows", type=int, help="cut at the first quiet place at or after this row")
    parser.add_argument("--check", action="store_true", help="follow all rows and compare with the second snapshot")
    args = parser.parse_args()
    table = pq.read_table(f"{args.source}.parquet")
    document, arrays = load(args.source, 0)
    follower = Follower(document, arrays)
    kept = follow(follower, table, None if args.check else args.rows)
    entries = np.bincount(table["cpu"].to_numpy()[:kept], minlength=len(document["ring"])).tolist()
    derived = follower.snapshot(entries, args.source.name)
    if args.check:
        found = differences(derived, load(args.source, 1))
        print("\n".join([*found, f"{kept} rows, {len([f for f in found if f[0] != '('])} differences"]))
        return int(any(text[0] != "(" for text in found))
    if derived[0]["checks"]["problems"]:
        raise SystemExit("; ".join(derived[0]["checks"]["problems"]))
    keep = [name for name in table.column_names if name not in DROPPED]
    write(args.target, table.slice(0, kept).select(keep), *derived)
    for part in ("snap0.json.zst", "snap0.npz"):
        shutil.copyfile(f"{args.source}.{part}", f"{args.target}.{part}")
    print(f"{args.target}: {kept} of {table.num_rows} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
