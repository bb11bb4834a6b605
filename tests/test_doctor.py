"""
``pcpbuddy doctor``: what it finds in recordings, in damaged ones above all, and what it says follows from that.

Damage is done to copies of recordings/tiny-4c, or rows are made up where one small thing is asked.
"""

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import os
import pty
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_recording import PARTS, SHIPPED, SHIPPED_COUNTS, WHOLE_COUNTS, edit_document, needs_oracle, oracle, part

import pcpbuddy
from pcpbuddy import recording
from pcpbuddy.cli.main import main
from pcpbuddy.errors import RecordingError
from pcpbuddy.recording import health, numbering, pagestates, verdicts
from pcpbuddy.report import doctor as report

GOLDEN = Path(__file__).parent / "golden"
TINY = pq.read_table(SHIPPED / "tiny-4c.parquet")
PHASE = np.asarray(TINY["phase"])
CPU = np.asarray(TINY["cpu"])
EVENT = np.array(TINY["event"].cast(pa.string()).to_pylist(), object)


def copy(folder, source="tiny-4c", name="tiny-4c", parts=PARTS):
    for ending in parts:
        shutil.copyfile(SHIPPED / f"{source}{ending}", folder / f"{name}{ending}")
    return folder / name


def damaged(folder, table, name="tiny-4c", parts=PARTS):
    """
    tiny-4c with other rows.
    """
    base = copy(folder, name=name, parts=parts)
    pq.write_table(table, part(base, ".parquet"))
    return base


def examined(base):
    return health.examine(part(base, ".parquet"))


def answers(found):
    return {verdict.question: verdict for verdict in (*verdicts.modes(found), *verdicts.questions(found))}


def left_open(found):
    return [item.name for item in verdicts.items(found) if item.is_open]


def without(rows, table=TINY):
    keep = np.ones(len(table), bool)
    keep[np.asarray(rows, np.int64)] = False
    return table.filter(pa.array(keep))


def in_order(order, table=TINY):
    return table.take(pa.array(np.asarray(order, np.int64)))


def put(column, row, value, table=TINY):
    """
    One value changed; None for null.
    """
    values = table[column].to_pylist()
    values[row] = value
    kind = pa.int64() if pa.types.is_integer(table.schema.field(column).type) else pa.string()
    return table.set_column(table.schema.get_field_index(column), column, pa.array(values, kind))


def made_up(folder, *rows, **columns):
    """
    A recording of rows (event, pfn, order), on CPU 0 one nanosecond apart unless a column says otherwise.
    """
    events, pfns, orders = zip(*rows, strict=True)
    nr = len(rows)
    table = {
        "ts_ns": list(range(nr)),
        "cpu": [0] * nr,
        "cpu_seq": list(range(nr)),
        "phase": [1] * nr,
        "migratetype": [1] * nr,
        "gfp_flags": [0x100CCA] * nr,
        "event": events,
        "pfn": pfns,
        "order": orders,
    } | columns
    pq.write_table(pa.table(table), folder / "made.parquet")
    return folder / "made"


# Recordings that are whole.


@pytest.mark.parametrize("name", SHIPPED_COUNTS)
def test_shipped_recordings(name):
    found = examined(SHIPPED / name)
    rows, _, allocs, frees, ticks, folds, before = SHIPPED_COUNTS[name]
    assert (found.rows, sum(found.events.values()), found.phases) == (rows, rows, (before, rows - before, 0))
    assert (found.pages.allocs, found.pages.frees) == (allocs, frees)
    assert (found.signs.decays, found.signs.folds) == (ticks, folds)
    assert whole(found)
    assert (found.snapshots[1].derived is None) == (name == "tiny-4c")
    assert (found.signs.cma_pages > 0) == (name == "cma-cut-4c")
    cut = set() if name == "tiny-4c" else {"pid", "comm", "irq_flags", "preempt_count"}
    cut |= {"pagesets"} if folds else set()
    assert found.columns_missing.keys() == cut
    assert left_open(found) == (["R10"] if not folds or name.startswith("cma") else [])
    told = answers(found)
    for mode in ("free-run", "guided", "resync", "handle", "compare"):
        expected = "yes, but" if mode == "free-run" and name.startswith("cma") else "yes"
        assert told[mode].answer == expected
    assert told["which task?"].answer == ("no" if cut else "yes, but")
    assert told["CMA share?"].answer == ("yes" if name.startswith("cma") else "yes, but")
    assert str(told["lock waits?"]) == "no: because no lock events are recorded"


def whole(found):
    """
    Nothing is wrong, and the pages of the rows end where snapshot 1 has them.
    """
    pages = found.pages
    assert verdicts.incomplete(found) == []
    assert (found.lost, found.repeated, found.displaced, found.clock.back, found.impossible) == (0, 0, 0, 0, ())
    assert (pages.frees_unknown, pages.frees_double, pages.frees_unseen, pages.pops_without_event) == (0, 0, 0, 0)
    assert (pages.differ_allocated, pages.differ_free, found.first_loss_row) == (0, 0, None)
    assert all(snap.usable and snap.problem is None and not snap.cut_off for snap in found.snapshots)
    assert all(cpu.rows == cpu.last_cpu_seq + 1 and cpu.first_cpu_seq == 0 for cpu in found.cpus)
    return True


@needs_oracle
@pytest.mark.parametrize("name", WHOLE_COUNTS)
def test_whole_recordings(name):
    found = examined(oracle() / name)
    rows, _, allocs, frees, ticks, folds, before = WHOLE_COUNTS[name]
    plain = "plain" in name
    assert (found.rows, found.phases[0], found.with_probes) == (rows, before, not plain)
    assert (found.pages.allocs, found.pages.frees) == (allocs, frees)
    assert (found.signs.decays, found.signs.folds) == ((0, 0) if plain else (ticks, folds))
    assert whole(found)
    assert found.clock.ties <= 0.002 * rows
    assert ("R1" in left_open(found)) == ("R7" in left_open(found)) == plain
    assert (answers(found)["guided"].answer == "yes") == (not plain)


def test_what_the_mixed_recording_shows():
    """
    Contiguous frees enter as entries of order 2, whose pages were allocated as one: none of them is unknown (R5).
    """
    found = examined(SHIPPED / "mixed-cut-4c")
    assert found.signs.contiguous > 500
    assert found.signs.frees_past_pcp > 0
    assert found.signs.claims == 0  # of whole blocks only
    assert found.pages.frees_unknown == 0


@pytest.mark.parametrize(
    ("name", "size"),
    [("damaged", 1), ("damaged", 97), ("tiny-4c", 311), ("mixed-cut-4c", 5003), ("mixed-cut-4c", 1 << 20)],
)
def test_it_does_not_matter_where_batches_end(monkeypatch, tmp_path, name, size):
    base = SHIPPED / name
    if name == "damaged":
        order = np.random.default_rng(5).permutation(len(TINY))[:700]
        base = damaged(tmp_path, in_order([*range(400, 900), *order[:200]]))
    once = examined(base)
    monkeypatch.setattr(health._Rows, "batches", functools.partialmethod(health._Rows.batches, size=size))
    assert examined(base) == once


def test_many_pages_are_followed_in_parts(monkeypatch):
    once = examined(SHIPPED / "mixed-cut-4c")
    monkeypatch.setattr(pagestates, "MOST_PAGES", 1000)
    assert examined(SHIPPED / "mixed-cut-4c") == once


# Rows lost.


def drop_some(seed=1, count=40):
    return np.sort(np.random.default_rng(seed).choice(len(TINY), count, replace=False))


def test_lost_rows_are_counted_by_cpu(tmp_path):
    lost = drop_some()
    found = examined(damaged(tmp_path, without(lost)))
    assert [cpu.lost for cpu in found.cpus] == np.bincount(CPU[lost], minlength=4).tolist()
    assert (found.lost, found.lost_between_snapshots) == (40, int(np.count_nonzero(PHASE[lost] == 1)))
    first = int(lost[PHASE[lost] == 1][0])
    after = next(row for row in range(first + 1, len(TINY)) if CPU[row] == CPU[first] and row not in lost)
    assert found.first_loss_row == after - np.count_nonzero(lost < after)
    assert verdicts.incomplete(found) == ["40 rows lost"]
    told = answers(found)
    assert "40 rows between the snapshots are lost" in told["free-run"].why
    assert f"before row {found.first_loss_row}" in told["guided"].why
    assert {told[mode].answer for mode in ("free-run", "guided", "resync", "handle", "compare")} == {"yes, but"}
    assert "R11" in left_open(found)


def test_rows_lost_before_snapshot_0_hurt_no_replay(tmp_path):
    lost = np.flatnonzero(PHASE == 0)[[3, 5, 20]]
    found = examined(damaged(tmp_path, without(lost)))
    assert (found.lost, found.lost_between_snapshots, found.first_loss_row) == (3, 0, None)
    assert verdicts.incomplete(found) == ["3 rows lost"]
    assert str(answers(found)["free-run"]) == "yes"
    assert found.pages.differ_free == found.pages.differ_allocated == 0


def test_a_missing_end_shows_by_snapshot_1(tmp_path):
    found = examined(damaged(tmp_path, TINY.slice(0, 9000)))
    assert found.lost == found.lost_between_snapshots == len(TINY) - 9000
    assert found.snapshots[1].usable
    assert found.snapshots[1].cut_off == (0, 1, 2, 3)
    told = answers(found)
    assert told["compare"].answer == "no"
    assert "end before snapshot 1 (move it away" in told["compare"].why
    assert told["free-run"].answer == "yes, but"
    alone = examined(damaged(tmp_path, TINY.slice(0, 9000), name="alone", parts=PARTS[:3]))
    assert alone.lost == 0
    assert "would not show" in next(item.why for item in verdicts.items(alone) if item.name == "R11")
    assert answers(alone)["compare"].answer == "yes"
    assert answers(alone)["free-run"].answer == "yes, but"
    assert "no snapshot 1" in answers(alone)["free-run"].why


def test_a_cpu_missing(tmp_path):
    rows = np.flatnonzero(CPU == 2)
    found = examined(damaged(tmp_path, without(rows)))
    gone = found.cpus[2]
    assert (gone.cpu, gone.rows, gone.lost, gone.first_cpu_seq, gone.last_cpu_seq) == (2, 0, len(rows), None, None)
    assert found.lost == len(rows)
    assert found.snapshots[0].cut_off == found.snapshots[1].cut_off == (2,)
    assert found.pages.frees_unknown > 500
    assert found.pages.differ_allocated > 0
    assert answers(found)["compare"].answer == "no"


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_dropped_rows_are_always_reported(data):
    """
    Whatever rows are dropped, beside both snapshots their number is exact, and so is the CPU.
    """
    rows = data.draw(st.sets(st.integers(0, len(TINY) - 1), min_size=1, max_size=60))
    runs = data.draw(st.lists(st.tuples(st.integers(0, len(TINY) - 1), st.integers(1, 3000)), max_size=3))
    rows = sorted(rows.union(*(range(at, min(at + length, len(TINY))) for at, length in runs)))
    with tempfile.TemporaryDirectory() as folder:
        found = examined(damaged(Path(folder), without(rows)))
    assert found.lost == len(rows)
    assert {cpu.cpu: cpu.lost for cpu in found.cpus if cpu.lost} == {
        cpu: int(count) for cpu, count in enumerate(np.bincount(CPU[rows])) if count
    }
    assert found.lost_between_snapshots == np.count_nonzero(PHASE[rows] == 1)
    assert (found.first_loss_row is None) == (found.lost_between_snapshots == 0)
    assert verdicts.incomplete(found)
    assert max(map(len, report.text(found).splitlines())) <= report.WIDTH


def test_what_the_kernel_counted_as_lost(tmp_path):
    base = copy(tmp_path)
    edit_document(base, lambda document: document["ring"][1].update(overrun=7, dropped_events=2), 1)
    found = examined(base)
    assert (found.ring_losses, found.lost) == (9, 0)
    assert verdicts.incomplete(found) == ["the kernel counted 9 events as overwritten or dropped"]
    assert "R11" in left_open(found)
    assert answers(found)["free-run"].answer == "yes, but"


# Rows out of place, and the clock.


def test_swapped_rows(tmp_path):
    order = np.arange(len(TINY))
    at = [i for i in range(500, 13000, 500) if CPU[i] == CPU[i + 1]]
    for i in at:
        order[[i, i + 1]] = order[[i + 1, i]]
    found = examined(damaged(tmp_path, in_order(order)))
    assert (found.lost, found.repeated, found.displaced) == (0, 0, len(at))
    assert found.clock.back == found.clock.back_within_cpu == len(at)
    assert sum(cpu.clock_back_rows_displaced for cpu in found.cpus) == len(at)
    assert found.clock.back_first_row == at[0] + 1
    assert f"{len(at)} rows are out of place" in answers(found)["resync"].why
    assert answers(found)["compare"].answer == "yes, but"


def test_rows_of_different_cpus_swapped(tmp_path):
    """
    Time goes back in row order, but within no CPU: not incomplete, and said.
    """
    order = np.arange(len(TINY))
    at = next(i for i in range(5000, 13000) if CPU[i] != CPU[i + 1])
    order[[at, at + 1]] = order[[at + 1, at]]
    found = examined(damaged(tmp_path, in_order(order)))
    assert (found.clock.back, found.clock.back_within_cpu, found.displaced) == (1, 0, 0)
    assert verdicts.incomplete(found) == []
    assert "time goes back once in row order" in answers(found)["guided"].why
    assert "never within a CPU" in " ".join(report.text(found).split())


def test_a_clock_that_goes_back(tmp_path):
    stamps = np.asarray(TINY["ts_ns"]).copy()
    stamps[7000:] -= 10**10
    found = examined(damaged(tmp_path, TINY.set_column(0, "ts_ns", pa.array(stamps))))
    assert found.clock.back == 1
    assert found.clock.back_within_cpu == 4  # once on each CPU
    assert found.displaced == sum(cpu.clock_back_rows_displaced for cpu in found.cpus) == 0
    assert verdicts.incomplete(found) == ["time goes back 4 times within a CPU"]


def test_ties(tmp_path):
    rows = [("mm_page_alloc", pfn, 0) for pfn in range(6)]
    base = made_up(tmp_path, *rows, ts_ns=[1, 1, 1, 2, 3, 3], cpu=[0, 0, 1, 1, 1, 2], cpu_seq=[0, 1, 0, 1, 2, 0])
    assert examined(base).clock.ties == 2


def test_rows_twice(tmp_path):
    found = examined(damaged(tmp_path, pa.concat_tables([TINY, TINY.slice(6000, 100)])))
    assert (found.repeated, found.lost) == (100, 0)
    assert answers(found)["compare"].why.startswith("100 rows have a number that occurs twice")
    assert answers(found)["resync"].answer == "yes, but"
    assert found.pages.frees_double + found.pages.frees_unseen > 0


@given(st.lists(st.lists(st.integers(0, 200), max_size=30), max_size=12))
def test_the_window_of_numbers(batches):
    """
    Against a set, as long as no number lies further back than the window.
    """
    window = 64
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numbering, "WINDOW", window)
        seen, known, repeated = numbering._Seen(), set(), 0
        for batch in batches:
            near = [number for number in batch if number > max(known, default=-1) - window]
            seen.add(np.array(near, np.int64))
            repeated += len(near) - len(set(near) - known)
            known |= set(near)
        assert (seen.distinct, seen.repeated, seen.top) == (len(known), repeated, max(known, default=-1))
        far = seen.top - window
        if far >= 0:
            seen.add(np.array([far]))
            assert (seen.distinct, seen.repeated) == (len(known), repeated + 1)


# Snapshots.


def test_no_snapshots(tmp_path):
    found = examined(damaged(tmp_path, TINY, parts=PARTS[:1]))
    assert [snap.there for snap in found.snapshots] == [False, False]
    assert found.kernel is found.managed_pages is found.pages.differ_free is None
    assert verdicts.incomplete(found) == ["snapshot 0 is missing", "snapshot 1 is missing"]
    assert found.pages.frees_unknown == found.pages.frees_double == found.pages.frees_unseen == 0
    assert found.pages.frees_earlier == 77
    told = answers(found)
    assert {told[mode].answer for mode in ("free-run", "guided", "resync")} == {"no"}
    assert {told[mode].answer for mode in ("handle", "compare")} == {"yes, but"}
    assert "start state is inferred from the rows alone" in told["compare"].why
    assert told["fragmentation over time?"].answer == "no"
    assert told["page frames exact?"].answer == "yes"


@pytest.mark.parametrize("which", [0, 1])
def test_one_snapshot_missing(tmp_path, which):
    base = copy(tmp_path)
    for ending in (f".snap{which}.json.zst", f".snap{which}.npz"):
        part(base, ending).unlink()
    found = examined(base)
    assert verdicts.incomplete(found) == [f"snapshot {which} is missing"]
    told = answers(found)
    assert told["compare"].answer == ("yes" if which else "no")
    assert told["resync"].answer == ("yes, but" if which else "no")


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize(
    ("ending", "change", "words"),
    [
        (".npz", None, "is there but"),
        (".json.zst", None, "is there but"),
        (".npz", b"PK not a zip file", "not a snapshot"),
        (".npz", 3000, "truncated"),
        (".json.zst", 3000, "truncated"),
        (".json.zst", b"", "truncated"),
    ],
)
def test_a_damaged_snapshot_is_described(tmp_path, which, ending, change, words):
    base = copy(tmp_path)
    path = part(base, f".snap{which}{ending}")
    if change is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:change] if isinstance(change, int) else change)
    found = examined(base)
    snap = found.snapshots[which]
    assert (snap.there, snap.usable) == (True, False)
    assert words in snap.problem
    assert verdicts.incomplete(found) == [f"snapshot {which} cannot be used"]
    assert answers(found)["compare"].answer == "no"
    with pytest.raises(RecordingError):
        recording.load(base)


def test_bytes_of_a_snapshot_changed(tmp_path):
    """
    Whatever its readers raise, the doctor says that the snapshot is damaged.
    """
    base = copy(tmp_path)
    path = part(base, ".snap0.npz")
    data = path.read_bytes()
    for at in range(60, len(data), 997):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])
        found = examined(base)
        assert found.snapshots[0].there
        assert found.rows == len(TINY)


def test_a_document_that_is_none(tmp_path):
    base = copy(tmp_path)
    path = part(base, ".snap0.json.zst")
    for text in ("[]", "{}", "null", '{"ring": 3}', "1" * 5000):
        path.write_bytes(pa.Codec("zstd").compress(text.encode(), asbytes=True))
        assert examined(base).snapshots[0].problem
    edit = ("ring", "zones", "max_pfn", "kernel")
    for key in edit:
        copy(tmp_path)
        edit_document(base, lambda document, key=key: document.pop(key))
        assert key in examined(base).snapshots[0].problem


@pytest.mark.parametrize("which", [(0,), (1,), (0, 1)])
def test_snapshots_of_another_recording(tmp_path, which):
    base = copy(tmp_path)
    for snap in which:
        for ending in (f".snap{snap}.json.zst", f".snap{snap}.npz"):
            shutil.copyfile(SHIPPED / f"mixed-cut-4c{ending}", part(base, ending))
    found = examined(base)
    assert answers(found)["compare"].answer == "no"
    assert verdicts.incomplete(found)
    if 0 in which:
        assert not found.snapshots[0].usable
        assert "belongs to another recording" in found.snapshots[0].problem
        assert not found.pages.from_snapshot
        assert found.lost == 0
    if which == (1,):
        # More rows than are here: another recording, or rows cut off. Nobody knows, so both are said.
        assert found.snapshots[1].cut_off == (0, 1, 2, 3)
        assert found.pages.differ_free > 0


def test_snapshots_of_different_machines(tmp_path):
    base = copy(tmp_path)

    def add_cpu(document):
        document["ring"].append({"cpu": 4, "entries": 0})
        for zone in document["zones"]:
            zone["pcp"].append({**zone["pcp"][0], "cpu": 4, "count": 0, "lists": {}})

    edit_document(base, add_cpu, 1)
    found = examined(base)
    assert not found.snapshots[1].usable
    assert "5 CPUs, but snapshot 0 has 524253 and 4" in found.snapshots[1].problem


# Rows that are few, or cannot be.


def test_no_rows(tmp_path):
    found = examined(damaged(tmp_path, TINY.slice(0, 0)))
    assert (found.rows, found.lost, found.clock.first_ns) == (0, len(TINY), None)
    assert verdicts.incomplete(found)[0] == "there are no rows"
    assert {verdict.answer for verdict in verdicts.modes(found)} == {"no"}
    alone = examined(damaged(tmp_path, TINY.slice(0, 0), name="alone", parts=PARTS[:1]))
    assert alone.cpus == ()
    assert "there are no rows" in report.text(alone)


def test_nothing_between_the_snapshots(tmp_path):
    found = examined(damaged(tmp_path, TINY.filter(pa.array(PHASE != 1))))
    assert found.phases == (324, 0, 0)
    assert found.lost_between_snapshots == 13063
    assert "no row lies between the snapshots (phase 1)" in verdicts.incomplete(found)
    assert {verdict.answer for verdict in verdicts.modes(found)} == {"no"}


IMPOSSIBLE = [
    ("cpu", -1, None),
    ("cpu", 512, None),
    ("cpu", None, None),
    ("phase", 3, None),
    ("phase", None, None),
    ("cpu_seq", -1, None),
    ("pfn", None, "mm_page_free"),
    ("pfn", -1, "mm_page_free"),
    ("pfn", -2, "mm_page_alloc"),
    ("pfn", 1 << 45, "mm_page_alloc"),
    ("pfn", (1 << 62) - 1, "pcp_free"),
    ("order", 11, "mm_page_alloc"),
    ("order", None, "pcp_alloc"),
    ("order", 1, "odd"),
    ("migratetype", 4, "mm_page_alloc"),
    ("gfp_flags", 0x18, "mm_page_alloc"),
    ("gfp_flags", None, "mm_page_alloc"),
    ("pcp_cpu", 4, "pcp_alloc"),
    ("zone", 9, "decay"),
]


@pytest.mark.parametrize(("column", "value", "event"), IMPOSSIBLE)
def test_impossible_rows_are_described(tmp_path, column, value, event):
    rows = np.flatnonzero(PHASE == 1)
    if event == "odd":
        pfns = np.array([pfn if pfn is not None else 0 for pfn in TINY["pfn"].to_pylist()])
        rows = rows[(EVENT[rows] == "mm_page_alloc") & (pfns[rows] % 2 == 1)]
    elif event is not None:
        rows = rows[EVENT[rows] == event]
    row = int(rows[len(rows) // 2])
    base = damaged(tmp_path, put(column, row, value))
    found = examined(base)
    name = "pfn" if event == "odd" else column
    (fault,) = found.impossible
    assert (fault.column, fault.rows, fault.first_row, fault.first_event) == (name, 1, row, EVENT[row])
    assert f"1 row with an impossible {name}" in answers(found)["guided"].why
    assert "1 impossible value" in verdicts.incomplete(found)
    with pytest.raises(RecordingError):
        recording.load(base)


def test_events_that_no_recording_has(tmp_path):
    table = put("event", 800, "mm_page_frob", put("event", 900, None))
    found = examined(damaged(tmp_path, table))
    assert found.events_unknown == {"mm_page_frob": 1, "(no event name)": 1}
    assert "unknown event mm_page_frob" in answers(found)["handle"].why
    assert "mm_page_frob (unknown)" in report.text(found)


def test_families_of_events_keep_their_names(tmp_path):
    rows = [("mm_compaction_begin", None, None), ("mm_vmscan_direct_reclaim_begin", None, None)]
    rows += [("cma_alloc_start", None, None), ("mm_vmscan_kswapd_wake", None, None), ("contention_begin", None, None)]
    found = examined(made_up(tmp_path, *rows))
    assert found.events["mm_compaction_begin"] == found.events["cma_alloc_start"] == 1
    assert found.events["contention_begin"] == 1
    assert found.events_unknown == {}
    assert (found.signs.compaction, found.signs.reclaim) == (2, 2)
    assert "R6" in left_open(found)


# Pages.


def pages_of(folder, *rows, **columns):
    return examined(made_up(folder, *rows, **columns)).pages


def test_lives_in_a_plain_recording(tmp_path):
    pages = pages_of(
        tmp_path,
        ("mm_page_alloc", 8, 2),  # freed in pieces
        ("mm_page_free", 8, 0),
        ("mm_page_free", 10, 1),
        ("mm_page_free", 9, 0),
        ("mm_page_alloc", 16, 1),  # batched: one free, order in the first row (17.6)
        ("mm_page_free", 16, 1),
        ("mm_page_free_batched", 16, 0),
        ("mm_page_alloc", -1, 0),
        ("mm_page_free", 64, 3),  # allocated before the first row
        ("mm_page_alloc", 3, 0),  # never freed
        ("mm_page_alloc", 32, 4),  # half of it never freed
        ("mm_page_free", 32, 3),
    )
    assert (pages.allocs, pages.allocs_failed, pages.pages_allocated) == (4, 1, 4 + 2 + 1 + 16)
    assert (pages.frees, pages.pages_freed) == (6, 4 + 2 + 8 + 8)
    assert (pages.frees_earlier, pages.held, pages.held_pages) == (8, 1, 1 + 8)
    assert (pages.frees_unknown, pages.frees_double, pages.frees_unseen) == (0, 0, 0)


def test_decay_rows_alone_do_not_make_a_recording_with_probes(tmp_path):
    """
    They close R7; who allocates and frees is still told by the tracepoints.
    """
    rows = [("mm_page_alloc", 4, 0), ("mm_page_free", 4, 0), ("mm_page_free_batched", 4, 0), ("decay", None, None)]
    found = examined(made_up(tmp_path, *rows, zone=[None, None, None, 1]))
    assert not found.with_probes
    assert (found.pages.allocs, found.pages.frees, found.pages.held) == (1, 1, 0)
    assert left_open(found) == ["R1", "R2", "R3", "R5", "R8", "R10"]


def test_double_and_unseen_frees(tmp_path):
    pages = pages_of(
        tmp_path,
        ("mm_page_alloc", 4, 0),
        ("mm_page_free", 4, 0),
        ("mm_page_free", 4, 0),  # double
        ("mm_page_alloc", 4, 0),
        ("mm_page_free_batched", 4, 0),  # its mm_page_free is missing: still a free
        ("mm_page_free_batched", 4, 0),  # double
        ("mm_page_alloc", 4, 2),
        ("mm_page_alloc", 4, 1),  # two pages that are still allocated
    )
    assert (pages.frees_double, pages.frees_double_rows) == (2, 2)
    assert (pages.frees_unseen, pages.frees_unseen_rows) == (2, 1)


def test_lives_with_probes(tmp_path):
    found = examined(
        made_up(
            tmp_path,
            ("pcp_alloc", 4, 0),
            ("mm_page_alloc", 4, 0),
            ("pcp_alloc", 5, 0),
            ("pcp_alloc", 6, 0),
            ("mm_page_alloc", 5, 0),  # printed on another CPU (R3)
            ("mm_page_alloc", 16, 4),  # no PCP order
            ("pcp_alloc_bulk", 7, 0),
            ("mm_page_free", 4, 0),
            ("mm_page_free", 5, 0),
            ("mm_page_free", 6, 0),
            ("mm_page_free", 7, 0),
            ("pcp_free", 4, 2),  # as one entry (R5)
            ("free_one", 16, 4),
            ("pcp_alloc_tryfail", -1, 0),
            ("mm_page_alloc", 20, 0),
            ("free_one", 20, 0),
            cpu=[0, 0, 0, 0, 1, *[0] * 11],
            cpu_seq=[0, 1, 2, 3, 0, *range(4, 15)],
            fpi=[0] * 11 + [8, 0, 0, 0, 0],
        )
    )
    pages, signs = found.pages, found.signs
    assert (pages.allocs, pages.pages_allocated, pages.frees, pages.pages_freed) == (6, 21, 3, 21)
    assert (pages.held_pages, pages.frees_unseen, pages.frees_double, pages.frees_earlier) == (0, 0, 0, 0)
    assert (signs.bulk_pages, signs.moved, signs.contiguous, signs.tryfails, signs.frees_past_pcp) == (1, 1, 1, 1, 1)
    assert pages.pops_without_event == 1
    assert found.lost == 0


def test_contiguous_frees_show_when_drained(tmp_path):
    """
    A plain recording: single pages were freed, one entry of order 1 is drained.
    """
    rows = [
        *[("mm_page_alloc", 8, 1), ("mm_page_free", 8, 0), ("mm_page_free", 9, 0), ("mm_page_pcpu_drain", 8, 1)],
        *[("mm_page_alloc", 12, 1), ("mm_page_free", 12, 1), ("mm_page_free_batched", 12, 0)],
        ("mm_page_pcpu_drain", 12, 1),
    ]
    found = examined(made_up(tmp_path, *rows))
    assert found.signs.drained_contiguous == 1
    assert "1 drained entry" in next(item.why for item in verdicts.items(found) if item.name == "R5")


def test_frees_of_pages_that_snapshot_0_has_free(tmp_path):
    """
    A page that no row allocated: taken silently (R1).
    """
    row = int(np.flatnonzero((PHASE == 1) & (EVENT == "pcp_free"))[-1])
    pfn = TINY["pfn"][row].as_py()
    allocated = np.flatnonzero((np.array(TINY["pfn"].to_pylist(), object) == pfn) & (PHASE == 1))
    hidden = [at for at in allocated if EVENT[at] in ("pcp_alloc", "mm_page_alloc")]
    found = examined(damaged(tmp_path, without(hidden)))
    assert found.pages.frees_unknown + found.pages.frees_double >= 1
    assert found.lost == len(hidden)


def test_page_frames_far_apart(tmp_path):
    """
    Memory follows the pages: frames of a machine with petabytes need no petabyte.
    """
    far = (1 << 40) - 64
    pages = pages_of(
        tmp_path,
        *(("mm_page_alloc", pfn, 0) for pfn in (far, 0, far // 3, 64)),
        *(("mm_page_free", pfn, 0) for pfn in (64, far // 3, far)),
        ("mm_page_free", 1 << 30, 0),
    )
    assert (pages.allocs, pages.frees, pages.frees_earlier, pages.held_pages) == (4, 4, 1, 1)


@pytest.mark.parametrize("seed", range(4))
def test_replays_skip_what_the_doctor_counts(tmp_path, seed):
    """
    Handle mode meets the same pages: unknown and double frees, and frees that were not seen.
    """
    last = [np.flatnonzero(cpu == CPU)[-1] for cpu in range(4)]  # without them the rows end before snapshot 1
    base = damaged(tmp_path, without(np.setdiff1d(drop_some(seed, 1500), last)))
    pages = examined(base).pages
    (run,) = pcpbuddy.compare(base, "mainline").runs
    skipped = run.skipped
    assert pages.frees_unknown + pages.frees_double > 10
    assert pages.frees_unseen > 0
    free = skipped.get("frees_unknown", 0) + skipped.get("frees_double", 0)
    assert (free, skipped["frees_unseen"]) == (pages.frees_unknown + pages.frees_double, pages.frees_unseen)


# Agreement with what the readers do.


def agrees(base, found):
    """
    ``compare`` is answered with no exactly where ``load`` refuses. Nothing to replay is not refused, but no use.
    """
    refused = bool(verdicts.refusals(dataclasses.replace(found, phases=(0, 1, 0))))
    try:
        recording.load(base)
    except RecordingError:
        return refused
    return not refused


DAMAGE = st.one_of(
    st.tuples(st.just("drop"), st.lists(st.integers(0, len(TINY) - 1), min_size=1, max_size=300)),
    st.tuples(st.just("swap"), st.lists(st.integers(0, len(TINY) - 2), min_size=1, max_size=50)),
    st.tuples(st.just("cpu"), st.integers(0, 3)),
    st.tuples(st.just("phase"), st.integers(0, 2)),
    st.tuples(st.just("twice"), st.tuples(st.integers(0, len(TINY) - 1), st.integers(1, 200))),
    st.tuples(st.just("cut"), st.tuples(st.integers(0, len(TINY)), st.integers(0, len(TINY)))),
    st.tuples(st.just("shuffle"), st.integers(0, 100)),
    st.tuples(st.just("forget"), st.sampled_from(["pid", "comm", "irq_flags", "zone", "pcp_cpu", "fpi", "zflags"])),
    st.tuples(
        st.just("value"),
        st.tuples(
            st.sampled_from(["ts_ns", "cpu", "cpu_seq", "phase", "pfn", "order", "migratetype", "gfp_flags", "event"]),
            st.integers(0, len(TINY) - 1),
            st.one_of(st.none(), st.integers(-(1 << 62), (1 << 62) - 1), st.integers(-2, 600)),
        ),
    ),
)


def done(table, kind, how):
    rows = len(table)
    match kind:
        case "drop":
            return without([row for row in how if row < rows], table)
        case "swap":
            order = np.arange(rows)
            for row in how:
                if row + 1 < rows:
                    order[[row, row + 1]] = order[[row + 1, row]]
            return in_order(order, table)
        case "cpu" | "phase":
            return table.filter(pa.compute.not_equal(table[kind], how))
        case "twice":
            return pa.concat_tables([table, table.slice(how[0], how[1])])
        case "cut":
            return table.slice(min(how), max(how) - min(how))
        case "shuffle":
            return in_order(np.random.default_rng(how).permutation(rows), table)
        case "forget":
            return table.drop_columns([how]) if how in table.column_names else table
    column, row, value = how
    if column == "event" and value is not None:
        value = ("mm_page_free", "mm_page_frob", "decay", "pcp_free")[value % 4]
    return put(column, row % rows, value, table) if rows else table


@settings(max_examples=60, deadline=None)
@given(
    damage=st.lists(DAMAGE, min_size=1, max_size=3),
    parts=st.sampled_from([PARTS, PARTS, PARTS[:3], PARTS[:1], (*PARTS[:1], *PARTS[3:]), PARTS[:4]]),
    others=st.sampled_from([(), (), (), (0,), (1,), (0, 1)]),
)
def test_no_damage_crashes_it(damage, parts, others):
    """
    Any mixture of damage is examined, told in 100 columns of ASCII and as JSON, and judged as the reader judges it.
    """
    table = functools.reduce(lambda table, step: done(table, *step), damage, TINY)
    with tempfile.TemporaryDirectory() as folder:
        base = damaged(Path(folder), table, parts=parts)
        for which in others:
            for ending in (f".snap{which}.json.zst", f".snap{which}.npz"):
                if ending in parts:
                    shutil.copyfile(SHIPPED / f"mixed-cut-4c{ending}", part(base, ending))
        found = examined(base)
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown):
            assert main(["doctor", str(base), "--json", "-", "-q"]) == 0
        assert json.loads(shown.getvalue())["results"]["rows"] == len(table)
        assert agrees(base, found)
    text = report.text(found)
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= report.WIDTH
    for cpu in found.cpus:
        assert min(cpu.lost, cpu.lost_between_snapshots, cpu.repeated) >= 0
        assert cpu.lost_between_snapshots <= cpu.lost


# Text.


def golden(name, text):
    """
    Compare with a golden file; PCPBUDDY_UPDATE_GOLDEN=1 writes it instead.
    """
    path = GOLDEN / name
    if os.environ.get("PCPBUDDY_UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text(), f"{path.name} differs; PCPBUDDY_UPDATE_GOLDEN=1 rewrites it"


def run(capsys, *argv):
    """
    Run a command in this process: exit code, stdout, stderr.
    """
    try:
        code = main([str(arg) for arg in argv])
    except SystemExit as exit_:
        code = exit_.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def plain(table):
    """
    What of a recording the standard tracepoints alone would have shown.
    """
    keep = np.char.startswith(EVENT.astype(str), "mm_page") | (EVENT == "print")
    table = table.filter(pa.array(keep))
    numbers = np.zeros(len(table), np.int64)
    for cpu in range(4):
        numbers[cpu == CPU[keep]] = np.arange(np.count_nonzero(cpu == CPU[keep]))
    table = table.set_column(table.schema.get_field_index("cpu_seq"), "cpu_seq", pa.array(numbers))
    columns = ("ts_ns", "cpu", "cpu_seq", "event", "pfn", "order", "migratetype", "gfp_flags", "percpu_refill", "phase")
    return table.select(columns)


@pytest.mark.parametrize("name", ["tiny-4c", "cma-cut-4c", "dropped", "no-snapshot", "damaged"])
def test_golden_texts(capsys, tmp_path, name):
    base = SHIPPED / name
    if name == "dropped":
        base = damaged(tmp_path, without(range(400, 13000, 400)), name)
    elif name == "no-snapshot":
        base = damaged(tmp_path, plain(TINY), name, PARTS[:1])
    elif name == "damaged":
        table = put("order", 5000, 44, put("event", 6000, "mm_page_frob"))
        order = np.arange(len(TINY))
        order[[7000, 7001]] = [7001, 7000]
        base = damaged(tmp_path, in_order([*order, 9000, 9001, 9002], table), name)
        shutil.copyfile(SHIPPED / "mixed-cut-4c.snap1.npz", part(base, ".snap1.npz"))
    code, out, err = run(capsys, "doctor", base)
    assert (code, err) == (0, "")
    golden(f"doctor-{name}.txt", out)
    assert out.isascii()
    assert max(map(len, out.splitlines())) <= report.WIDTH


def test_a_large_machine_lists_the_cpus_with_faults_only(tmp_path):
    nr = 400
    rows = [("mm_page_alloc", pfn, 0) for pfn in range(2 * nr)]
    numbers = [0] * nr + [1] * nr
    numbers[nr + 300] = 5
    found = examined(made_up(tmp_path, *rows, cpu=[*range(nr), *range(nr)], cpu_seq=numbers))
    text = report.text(found)
    assert found.cpus[300].lost == 4
    assert "\n    300          2          0          5          4" in text
    assert "399 more CPUs: 798 rows, nothing wrong" in text
    assert len(text.splitlines()) < 64


# The command.


def test_json(capsys):
    code, out, err = run(capsys, "doctor", SHIPPED / "tiny-4c.parquet", "--json", "-")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert list(document) == ["schema", "manifest", "results"]
    assert document["schema"] == "pcpbuddy.doctor/1"
    results = document["results"]
    assert results["rows"] == 13387
    assert results["pages"]["allocs"] == 1901
    assert results["cpus"][0]["rows"] == 7631
    assert [one["question"] for one in results["modes"]] == ["free-run", "guided", "resync", "handle", "compare"]
    assert results["modes"][0] == {"question": "free-run", "answer": "yes", "why": ""}
    assert [one["name"] for one in results["items"]] == [f"R{number}" for number in range(1, 12)]
    assert results["incomplete"] == []
    digest = hashlib.sha256()
    for ending in (".parquet", ".snap0.json.zst", ".snap0.npz"):
        digest.update((SHIPPED / f"tiny-4c{ending}").read_bytes())
    assert document["manifest"]["source_sha256"] == digest.hexdigest()
    assert document["manifest"]["policies"] == {}
    assert str(SHIPPED) not in out
    assert run(capsys, "doctor", SHIPPED / "tiny-4c", "--json", "-")[1] == out


def test_strict(capsys, tmp_path):
    assert run(capsys, "doctor", SHIPPED / "tiny-4c", "--strict")[0] == 0
    assert run(capsys, "doctor", SHIPPED / "cma-cut-4c", "--strict", "-q")[0] == 0
    lost = damaged(tmp_path, without([5000]), "lost")
    assert run(capsys, "doctor", lost)[0] == 0
    code, out, err = run(capsys, "doctor", lost, "--strict")
    assert (code, err) == (4, "")
    assert out.splitlines()[2] == "Incomplete: 1 row lost."
    assert run(capsys, "doctor", lost, "--strict", "--json", "-")[0] == 4
    assert run(capsys, "doctor", damaged(tmp_path, TINY, "alone", PARTS[:3]), "--strict")[0] == 4


def no_column(folder):
    pq.write_table(TINY.drop_columns(["cpu_seq", "phase"]), folder / "x.parquet")
    return folder / "x"


def text_column(folder):
    pq.write_table(
        put("comm", 0, "x").rename_columns(["ts_ns" if c == "comm" else f"_{c}" for c in TINY.column_names]),
        folder / "x.parquet",
    )
    return folder / "x"


def truncated(folder):
    (folder / "x.parquet").write_bytes((SHIPPED / "tiny-4c.parquet").read_bytes()[:20000])
    return folder / "x.parquet"


def broken_inside(folder):
    data = bytearray((SHIPPED / "tiny-4c.parquet").read_bytes())
    data[2000:30000] = bytes(28000)
    (folder / "x.parquet").write_bytes(data)
    return folder / "x.parquet"


def no_recording(folder):
    (folder / "notes.txt").write_text("not a recording\n")
    return folder / "notes.txt"


def folder_itself(folder):
    return folder


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ((no_column,), ("not a recording", "no column cpu_seq, phase")),
        ((text_column,), ("not a recording", "no column event")),
        ((truncated,), ("truncated or damaged",)),
        ((broken_inside,), ("truncated or damaged", "copy or record it again")),
        ((no_recording,), ("notes.txt is not a recording",)),
        ((folder_itself,), ("is a folder; name one recording in it",)),
        (("nowhere/nothing",), ("there is no file nowhere/nothing", "give the NAME.parquet")),
        (("shape/S1",), ("there is no file shape/S1",)),
        (("",), ("",)),
        ((), ("FILE",)),
        ((SHIPPED / "tiny-4c", "--json", "out.json"), ("--json",)),
    ],
)
def test_bad_input(capsys, tmp_path, argv, words):
    """
    One sentence on stderr, nothing on stdout, exit 2.
    """
    argv = [arg(tmp_path) if callable(arg) else arg for arg in argv]
    code, out, err = run(capsys, "doctor", *argv)
    assert (code, out) == (2, "")
    sentence = err.splitlines()[-1]
    assert sentence.startswith("pcpbuddy")
    for word in words:
        assert word in sentence
    if ": error: " not in sentence:  # argparse adds its usage lines
        assert len(err.splitlines()) == 1


def test_help_has_examples(capsys):
    code, out, _ = run(capsys, "doctor", "--help")
    assert code == 0
    assert "pcpbuddy doctor recordings/tiny-4c" in out
    assert "--strict" in out


def test_progress_on_a_terminal_only():
    argv = [sys.executable, "-m", "pcpbuddy.cli.main", "doctor", str(SHIPPED / "tiny-4c")]
    leader, follower = pty.openpty()
    try:
        on_terminal = subprocess.run(argv, stdout=subprocess.PIPE, stderr=follower, text=True, check=True)
        shown = os.read(leader, 65536).decode()
    finally:
        os.close(follower)
        os.close(leader)
    assert "tiny-4c.parquet" in shown
    assert on_terminal.stdout == (GOLDEN / "doctor-tiny-4c.txt").read_text()
    piped = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert (piped.stdout, piped.stderr) == (on_terminal.stdout, "")


def test_progress_counts_both_readings():
    told = []
    health.examine(SHIPPED / "mixed-cut-4c.parquet", progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (2 * 120409, 2 * 120409)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
