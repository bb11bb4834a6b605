"""
What is written for other programs: kernel text that is read back, CSV, Parquet, and packets that Perfetto's own classes
take apart, with what its importer asks of them.
"""

import collections
import csv
import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_recording import SHIPPED, needs_oracle, oracle
from test_trace_text import FREE, HEAD, rows_of
from tracedata import text_line

import pcpbuddy as pb
from pcpbuddy.cli.main import main
from pcpbuddy.errors import UsageError
from pcpbuddy.run.locks import HOLD
from pcpbuddy.run.timing import LOCKS
from pcpbuddy.trace import gfp, open_trace

PLAIN = SHIPPED / "tiny-4c.parquet"


def table(path, source):
    """
    A trace as import writes it.
    """
    assert main(["import", str(source), "-o", str(path), "-q", "-f"]) == 0
    return pq.read_table(path)


def equal(mine, theirs, without=()):
    assert mine.num_rows == theirs.num_rows
    for name in theirs.column_names:
        if name not in without:
            assert mine[name].to_pylist() == theirs[name].to_pylist(), name
    assert set(mine.column_names) == set(theirs.column_names) - set(without)


# The kernel's text, there and back.

EVENTS = [
    "mm_page_alloc: page=00000000aa4fb823 pfn=0x66b0 order=2 migratetype=1 gfp_flags=GFP_KERNEL|__GFP_ZERO|0x800000000",
    "mm_page_alloc: page=0000000000000000 pfn=0x0 order=10 migratetype=0 gfp_flags=none",
    "mm_page_free: page=00000000aa4fb823 pfn=0x0 order=2",
    "mm_page_free_batched: page=00000000aa4fb823 pfn=0x66b0 order=0",
    "mm_page_alloc_zone_locked: page=00000000aa4fb823 pfn=0x66b0 order=0 migratetype=1 percpu_refill=1",
    "mm_page_pcpu_drain: page=00000000aa4fb823 pfn=0x66b0 order=0 migratetype=2",
    "mm_page_alloc_extfrag: page=00000000aa4fb823 pfn=0x66b0 alloc_order=0 fallback_order=4 pageblock_order=9 "
    "alloc_migratetype=0 fallback_migratetype=1 fragmenting=1 change_ownership=0",
    "contention_begin: ffff88813bc5f840 (flags=SPIN|READ)",
    "contention_end: ffff88813bc5f840 (ret=-4)",
    "contention_begin: 0000000000000001 (flags=0)",
    "mm_vmscan_kswapd_wake: nid=0 order=3",
    "mm_vmscan_direct_reclaim_end: nr_reclaimed=35",
    "cma_alloc_finish: name=linux,cma pfn=0x10000 page=00000000aa4fb823 count=8 align=0 errorno=-12",
    'tracing_mark_write: SNAP0 "quoted", and more=0x5 [001] 1.0: mm_page_free: page=1 pfn=2 order=0',
    "tracing_mark_write: ",
]
FLAGS = ["d..3.", "D.h21", "bNs..", ".LZ.f", ".bz1.", ".BH..", "dnh.2", ".p...", ".l..."]
COMMS = ["bash", "kworker/u16:2", "a b [1] -5", "<...>", "<idle>", "Web Content", "über", "-"]


def some_text():
    lines = [
        text_line(
            COMMS[i % len(COMMS)], i * 1000, i % 3, 1_000_000 * i + 1_001_000, EVENTS[i % len(EVENTS)], flags=flags
        )
        for i in range(4 * len(EVENTS) * len(FLAGS))
        for flags in [FLAGS[i % len(FLAGS)]]
    ]
    lines[30] = "CPU:1 [LOST 123 EVENTS]\n" + lines[30]
    lines[50] = "CPU:2 [LOST EVENTS]\n" + lines[50]
    return HEAD + "".join(lines)


def test_text_there_and_back(tmp_path):
    source, back = tmp_path / "trace.txt", tmp_path / "back.txt"
    source.write_text(some_text())
    theirs = table(tmp_path / "a.parquet", source)
    assert main(["export", str(source), "-o", str(back), "-q"]) == 0
    equal(table(tmp_path / "b.parquet", back), theirs)
    assert main(["export", str(tmp_path / "a.parquet"), "-o", str(tmp_path / "again.txt"), "-q"]) == 0
    assert (tmp_path / "again.txt").read_bytes() == back.read_bytes(), "a file of rows gives what its trace gives"
    assert theirs.num_rows == 4 * len(EVENTS) * len(FLAGS)
    assert set(theirs["irq_flags"].to_pylist()) >= {0x01, 0x89, 0x80 | 0x24 | 0x10, 0x22 | 0x48}


def test_the_lines_are_those_of_the_kernel(tmp_path):
    source, out = tmp_path / "trace.txt", tmp_path / "out.txt"
    lines = [text_line("bash", 123, 3, 12345678901000, EVENTS[k], flags="d.h2.") for k in (0, 1, 4, 7, 8, 13)]
    source.write_text(HEAD + "".join(lines))
    assert main(["export", str(source), "-o", str(out), "-q", "--kernel", "6.1"]) == 0
    made = out.read_text().splitlines(keepends=True)
    assert made[0] == "# tracer: nop\n"
    assert "# os release : 6.1\n" in made
    page = 0xFFFFEA0000000000 + 64 * 0x66B0
    assert made[-6:] == [line.replace("00000000aa4fb823", f"{page:x}") for line in lines]


def test_times_to_the_nanosecond_only_where_they_are(tmp_path):
    """
    Microseconds as tracefs prints them; but no time is rounded.
    """
    source, out = tmp_path / "trace.txt", tmp_path / "out.txt"
    times = ["1.000001", "1.000002", "1.000003004"]
    body = "".join(f"a-1 [000] ..... {time}: {FREE}\n" for time in times)
    for first, ends in ((times, times), (times[::-1], ["1.000003004", "1.000002000", "1.000001000"])):
        source.write_text(HEAD + (body if first is times else "".join(reversed(body.splitlines(keepends=True)))))
        assert main(["export", str(source), "-o", str(out), "-qf"]) == 0
        if first is times:  # all in one batch, one of them not a whole microsecond
            ends = ["1.000001000", "1.000002000", "1.000003004"]
        assert [line.split("..... ")[1].split(":")[0].strip() for line in out.read_text().splitlines()[-3:]] == ends


@needs_oracle
@pytest.mark.parametrize("name", ["affinity-plain-4c.trace.txt.zst", "exits-plain-4c.trace.dat"])
def test_whole_traces_there_and_back(tmp_path, name):
    theirs = table(tmp_path / "a.parquet", oracle() / name)
    assert main(["export", str(oracle() / name), "-o", str(tmp_path / "a.txt"), "-q"]) == 0
    equal(table(tmp_path / "b.parquet", tmp_path / "a.txt"), theirs)


def test_a_recording_as_text(tmp_path, capsys):
    """
    What the text has no place for is named; everything else comes back.
    """
    out = tmp_path / "tiny.txt"
    assert main(["export", str(SHIPPED / "tiny-4c"), "-o", str(out)]) == 0
    said = capsys.readouterr().err.splitlines()
    assert said[-2:] == [f"{out} written: 13387 rows", "the kernel's text has no place for phase, zone, pcp_cpu"]
    mine, theirs = table(tmp_path / "b.parquet", out), pq.read_table(PLAIN)
    equal(mine.drop(["phase"]), theirs, {"phase", "zone", "pcp_cpu"})


@settings(max_examples=60, deadline=None)
@given(
    comm=st.text(st.characters(codec="utf-8"), max_size=20),
    marker=st.text(st.characters(codec="utf-8"), max_size=60),
)
def test_names_are_data(tmp_path_factory, comm, marker):
    """
    Whatever a task is called and whatever was written into the marker: a row stays one row, in each form.
    """
    folder = tmp_path_factory.mktemp("names")
    rows = pa.table(
        {
            "ts_ns": [1000, 2000, 3000],
            "cpu": pa.array([0, 1, 0], pa.int16()),
            "cpu_seq": [0, 0, 1],
            "pid": pa.array([5, 6, 5], pa.int32()),
            "comm": [comm, "other", comm],
            "event": ["mm_page_free", "print", "print"],
            "pfn": [1, None, None],
            "order": pa.array([0, None, None], pa.int8()),
            "marker": [None, marker, marker],
        }
    )
    pq.write_table(rows, folder / "rows.parquet")
    for ending in ("txt", "csv", "pftrace"):
        assert main(["export", str(folder / "rows.parquet"), "-o", str(folder / f"out.{ending}"), "-q"]) == 0
    with open_trace(folder / "out.txt") as trace:
        found, health = rows_of(trace.batches()), trace.health()
    assert [row["event"] for row in found] == ["mm_page_free", "print", "print"]
    assert [row["pid"] for row in found] == [5, 6, 5]
    assert health.not_understood == health.broken == 0
    if comm.isprintable() and comm.isascii() and len(comm) < 16:
        assert found[0]["comm"] == comm.strip(" ")
    with (folder / "out.csv").open(encoding="utf-8", newline="") as file:
        made = list(csv.reader(file))
    assert [row[made[0].index("comm")] for row in made[1:]] == [comm, "other", comm]
    assert [row[made[0].index("marker")] for row in made[1:]] == ["", marker, marker]
    trace = packets(folder / "out.pftrace")
    named = [one.track_event.name for one in trace if one.track_event.HasField("name")]
    assert named == [marker, marker]


def test_bytes_that_are_no_text_come_back(tmp_path):
    source, out = tmp_path / "trace", tmp_path / "out.txt"
    line = text_line("COMM", 1, 0, 5000, FREE).encode()
    source.write_bytes(HEAD.encode() + line.replace(b"COMM", b"\xff\xfe\x80\x90\xa0\xb0"))
    assert main(["export", str(source), "-o", str(out), "-q"]) == 0
    assert b"\xff\xfe\x80\x90\xa0\xb0-1 " in out.read_bytes()
    equal(table(tmp_path / "b.parquet", out), table(tmp_path / "a.parquet", source))


@given(number=st.integers(0, (1 << 63) - 1), kernel=st.sampled_from(["5.10", "5.15", "6.1", "6.6", "7.3"]))
def test_names_of_flags_are_their_numbers(number, kernel):
    version = gfp.parse_kernel(kernel)
    text = gfp.Names(version)(number)
    words = gfp.Words(version)
    assert words(0, text) == number
    assert words(1, gfp.lock_names(number & 0xFFFF)) == number & 0xFFFF
    assert words.unknown == {}


def test_lost_rows_are_said_in_the_text(tmp_path):
    rows = {"ts_ns": [1, 2, 3], "cpu": pa.array([1, 1, 1], pa.int16()), "cpu_seq": [4, 5, 7], "event": ["vmfold"] * 3}
    pq.write_table(pa.table(rows), tmp_path / "rows.parquet")
    out = tmp_path / "out.txt"
    assert main(["export", str(tmp_path / "rows.parquet"), "-o", str(out), "-q"]) == 0
    lost = [line for line in out.read_text().splitlines() if "LOST" in line]
    assert lost == ["CPU:1 [LOST 4 EVENTS]", "CPU:1 [LOST EVENTS]"]
    assert table(tmp_path / "b.parquet", out)["cpu_seq"].to_pylist() == [4, 5, 7]


# CSV and Parquet.


def test_csv_has_what_the_rows_have(tmp_path):
    out = tmp_path / "tiny.csv"
    assert main(["export", str(PLAIN), "-o", str(out), "-q"]) == 0
    theirs = pq.read_table(PLAIN)
    with out.open(newline="") as file:
        made = list(csv.DictReader(file))
    assert len(made) == theirs.num_rows
    assert list(made[0]) == theirs.column_names
    for name in theirs.column_names:
        assert [row[name] for row in made] == ["" if one is None else str(one) for one in theirs[name].to_pylist()], (
            name
        )


def test_csv_of_a_trace_has_the_columns_that_it_fills(tmp_path):
    source, out = tmp_path / "trace.txt", tmp_path / "out.csv"
    source.write_text(HEAD + text_line('a"b,', 1, 0, 5000, FREE))
    assert main(["export", str(source), "-o", str(out), "-q"]) == 0
    assert out.read_text().splitlines() == [
        '"ts_ns","cpu","cpu_seq","pid","comm","irq_flags","preempt_count","event","pfn","order","migratetype","gfp_flags",'
        '"phase"',
        '5000,0,0,1,"a""b,",0,0,"mm_page_free",26288,2,,,1',
    ]
    assert [path.name for path in tmp_path.iterdir() if path not in (source, out)] == []


def test_parquet_is_what_import_makes(tmp_path):
    source = tmp_path / "trace.txt"
    source.write_text(some_text())
    theirs = table(tmp_path / "a.parquet", source)
    assert main(["export", str(source), "-o", str(tmp_path / "b.parquet"), "-q"]) == 0
    assert pq.read_table(tmp_path / "b.parquet").equals(theirs)
    manifest = json.loads(pq.read_metadata(tmp_path / "b.parquet").metadata[b"pcpbuddy"])
    assert manifest["health"]["lost"] == 123
    assert main(["export", str(tmp_path / "a.parquet"), "-o", str(tmp_path / "c.parquet"), "-q"]) == 0
    assert (tmp_path / "c.parquet").read_bytes() == (tmp_path / "a.parquet").read_bytes()


# Perfetto. The judge is the project's own description of its packets; its importer's demands are checked here.

perfetto = pytest.importorskip("perfetto.protos.perfetto.trace.perfetto_trace_pb2", reason="pip install perfetto")
BEGIN, END, INSTANT, COUNTER = 1, 2, 3, 4
Slice = collections.namedtuple("Slice", "track name begin end notes flows ends_flows")


def packets(path):
    """
    All packets; there is nothing in them that Perfetto does not know.
    """
    trace = perfetto.Trace()
    trace.ParseFromString(path.read_bytes())
    trace.DiscardUnknownFields()
    assert trace.ByteSize() == path.stat().st_size
    return trace.packet


class Decoded:
    """
    A file of Perfetto, taken apart and held against what its importer demands.

    tracks: name by number, with the names of its parents. slices, instants, counters: by track.
    """

    def __init__(self, path):
        self.tracks, self.units, names, notes, categories = {}, {}, {}, {}, {}
        self.slices, self.instants, self.counters = [], [], collections.defaultdict(list)
        self.open, last = collections.defaultdict(list), {}
        for number, packet in enumerate(packets(path)):
            assert packet.trusted_packet_sequence_id == 1
            if number == 0:
                assert packet.sequence_flags == 1
                assert packet.first_packet_on_sequence
            for table, message in (
                (names, "event_names"),
                (notes, "debug_annotation_names"),
                (categories, "event_categories"),
            ):
                for one in getattr(packet.interned_data, message):
                    assert one.iid
                    assert one.iid not in table
                    table[one.iid] = one.name
            if packet.HasField("track_descriptor"):
                self._described(packet.track_descriptor)
            if not packet.HasField("track_event"):
                continue
            assert packet.sequence_flags == 2
            event = packet.track_event
            assert event.track_uuid in self.tracks, "a track is described before its first event"
            assert packet.timestamp >= last.get(event.track_uuid, 0), "time does not go back on a track"
            last[event.track_uuid] = packet.timestamp
            for iid in event.category_iids:
                assert iid in categories
            name = event.name or (names[event.name_iid] if event.name_iid else None)
            told = {notes[one.name_iid]: getattr(one, one.WhichOneof("value")) for one in event.debug_annotations}
            self._event(event, packet.timestamp, name, told)
        assert not any(self.open.values()), "what begins ends"
        begun = [flow for one in self.slices for flow in one.flows]
        ended = [flow for one in self.slices for flow in one.ends_flows]
        assert len(set(begun)) == len(begun)
        assert sorted(begun) == sorted(ended), "each arrow has two ends"

    def _described(self, told):
        assert told.uuid not in self.tracks
        assert told.uuid != 0
        path = (*self.tracks[told.parent_uuid], told.name) if told.HasField("parent_uuid") else ()
        self.tracks[told.uuid] = path
        if told.HasField("counter"):
            self.units[path] = told.counter.unit

    def _event(self, event, ts, name, told):
        track, stack = self.tracks[event.track_uuid], self.open[event.track_uuid]
        if event.type == COUNTER:
            assert track in self.units
            self.counters[track].append((ts, event.counter_value))
            return
        assert track not in self.units
        if event.type == BEGIN:
            assert name
            stack.append((name, ts, told, list(event.flow_ids), list(event.terminating_flow_ids)))
        elif event.type == END:
            begun = stack.pop()
            self.slices.append(Slice(track, begun[0], begun[1], ts, begun[2] | told, begun[3], begun[4]))
        else:
            assert event.type == INSTANT
            self.instants.append((track, ts, name, told))


def exported(tmp_path, source, *options):
    path = tmp_path / "out.pftrace"
    assert main(["export", str(source), "-o", str(path), "-q", "-f", *options]) == 0
    return Decoded(path)


def test_a_recording_for_perfetto(tmp_path):
    """
    Each row is an instant on the track of its CPU, with what it says.
    """
    made, theirs = exported(tmp_path, PLAIN), pq.read_table(PLAIN).to_pylist()
    assert len(made.instants) == len(theirs) == 13387
    for (track, ts, name, told), row in zip(made.instants, theirs, strict=True):
        assert (track, ts) == ((f"CPU {row['cpu']}",), row["ts_ns"])
        assert name == (row["marker"] or row["event"])
        assert (told["comm"], told["pid"]) == (row["comm"], row["pid"])
        assert told.get("pfn") == row["pfn"]
        assert told.get("order") == row["order"]
        if row["gfp_flags"] is not None:
            assert told["gfp_flags"] == gfp.Names()(row["gfp_flags"]).decode()
        if row["event"] == "mm_page_alloc":
            assert told["migratetype"] == ("Unmovable", "Movable", "Reclaimable")[row["migratetype"]]
    pages = sum(
        (1 << row["order"]) * {"mm_page_alloc": 1, "mm_page_free": -1}[row["event"]]
        for row in theirs
        if row["event"] in ("mm_page_alloc", "mm_page_free")
    )
    assert made.counters["pages", "pages allocated less freed"][-1][1] == pages
    drained = sum(1 << row["order"] for row in theirs if row["event"] == "mm_page_pcpu_drain")
    assert made.counters["pages", "pages from PCPs to the zone (drain)"][-1][1] == drained
    for cpu in range(4):
        seen = [
            row["count"] for row in theirs if row["count"] is not None and (row["zone"], row["pcp_cpu"]) == (1, cpu)
        ]
        shown = made.counters["pages in PCPs", f"zone 1, CPU {cpu}"]
        assert shown[-1][1] == seen[-1]
        assert {value for _, value in shown} <= set(seen)


SPIN, MUTEX, READ = "contention_begin: {:016x} (flags=SPIN)", "contention_begin: {:016x} (flags=MUTEX|SPIN)", None
SLEEP, DONE = "contention_begin: {:016x} (flags=MUTEX)", "contention_end: {:016x} (ret={})"


def contended(tmp_path, *events):
    """
    A text of (microsecond, CPU, task, event); an event of None: some are lost on that CPU.
    """
    lines = [
        f"CPU:{cpu} [LOST 5 EVENTS]\n" if what is None else text_line(comm, pid, cpu, us * 1000, what)
        for us, cpu, (comm, pid), what in events
    ]
    path = tmp_path / "trace.txt"
    path.write_text(HEAD + "".join(lines))
    return exported(tmp_path, path)


def found(made):
    return [(one.track, one.name, one.begin // 1000, one.end // 1000) for one in made.slices]


A, B = ("a", 1), ("b", 2)


def test_waits_are_slices_of_their_cpu(tmp_path):
    made = contended(
        tmp_path,
        (10, 0, A, SPIN.format(5)),
        (11, 1, B, SPIN.format(5)),
        (12, 0, A, SPIN.format(6)),  # an interrupt waits, too
        (13, 0, A, DONE.format(6, 0)),
        (14, 0, A, DONE.format(5, -4)),
        (15, 1, B, DONE.format(5, 0)),
    )
    name = "wait: SPIN"
    assert found(made) == [(("CPU 0",), name, 12, 13), (("CPU 0",), name, 10, 14), (("CPU 1",), name, 11, 15)]
    assert made.slices[1].notes == {"comm": "a", "pid": 1, "lock_addr": 5, "ret": -4}
    assert made.instants == []


def test_a_task_that_sleeps_has_a_track(tmp_path):
    """
    It wakes on another CPU; that it spun before it slept is the same wait.
    """
    made = contended(
        tmp_path,
        (10, 0, A, MUTEX.format(5)),
        (11, 0, A, SLEEP.format(5)),
        (12, 0, B, SLEEP.format(5)),
        (14, 3, A, DONE.format(5, 0)),
        (15, 2, B, DONE.format(5, 0)),
    )
    assert found(made) == [
        (("tasks that wait", "a 1"), "wait: SPIN|MUTEX", 10, 14),
        (("tasks that wait", "b 2"), "wait: MUTEX", 12, 15),
    ]


def test_waits_that_are_not_whole(tmp_path, capsys):
    made = contended(
        tmp_path,
        (9, 0, A, DONE.format(7, 0)),
        (10, 0, A, SPIN.format(5)),
        (11, 0, A, SPIN.format(6)),
        (12, 0, A, DONE.format(5, 0)),  # that of 6 was not seen
        (13, 1, B, SPIN.format(5)),
        (13, 1, B, None),
        (14, 1, B, FREE),
        (15, 0, A, SPIN.format(8)),
        (16, 1, B, SLEEP.format(8)),
        (17, 2, B, SLEEP.format(9)),
        (20, 2, A, FREE),
    )
    name = "wait: SPIN"
    assert sorted(found(made)) == [
        (("CPU 0",), name, 10, 12),
        (("CPU 0",), name, 11, 12),
        (("CPU 0",), name, 15, 20),
        (("CPU 1",), name, 13, 14),
        (("tasks that wait", "b 2"), "wait: MUTEX", 16, 17),
        (("tasks that wait", "b 2"), "wait: MUTEX", 17, 20),
    ]
    assert [(ts, name) for _, ts, name, _ in made.instants if name.startswith("cont")] == [(9000, "contention_end")]
    main(["export", str(tmp_path / "trace.txt"), "-o", str(tmp_path / "again.pftrace")])
    said = capsys.readouterr().err
    assert "6 waits for locks as slices; a trace does not say who holds a lock" in said
    assert "5 of them end where their end was not seen" in said
    assert "1 ends of waits whose beginning was not seen are events of their own" in said


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 5),
            st.integers(0, 2),
            st.sampled_from([A, B, ("c", 0)]),
            st.sampled_from([SPIN, SLEEP, MUTEX, DONE, FREE, None]),
            st.integers(0, 3),
        ),
        max_size=40,
    )
)
def test_any_waits_make_sound_slices(tmp_path_factory, steps):
    now, events = 10, []
    for more, cpu, task, what, lock in steps:
        now += more
        events.append((now, cpu, task, what and what.format(lock, 0)))
    made = contended(tmp_path_factory.mktemp("waits"), (1, 0, A, FREE), *events)
    begun = sum(what is not None and what.startswith("contention_begin") for _, _, _, what in events)
    assert len(made.slices) <= begun


def test_large_batches_and_counters_that_come_late(tmp_path):
    """
    A counter shows the last of the values that lie close together, at its own time.
    """
    lines = [text_line("a", 1, 0, 1000 * i, FREE) for i in range(250)] + [text_line("a", 1, 0, 10**9, FREE)]
    (tmp_path / "trace.txt").write_text(HEAD + "".join(lines))
    made = exported(tmp_path, tmp_path / "trace.txt")
    assert made.counters["pages", "pages allocated less freed"] == [
        (0, -4),
        (99000, -4 * 100),
        (198000, -4 * 199),
        (249000, -4 * 250),
        (10**9, -4 * 251),
    ]


# The command.


def test_what_is_refused(tmp_path, capsys):
    out, trace = str(tmp_path / "out.csv"), tmp_path / "trace.txt"
    trace.write_text(HEAD + text_line("a", 1, 0, 5000, FREE))
    other = tmp_path / "other.parquet"
    pq.write_table(pa.table({"x": [1]}), other)
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(PLAIN.read_bytes()[:2000])
    nested = tmp_path / "nested.parquet"
    pq.write_table(pa.table({"ts_ns": [1], "cpu": [0], "event": ["vmfold"], "x": [[1, 2]]}), nested)
    wide = tmp_path / "wide.parquet"
    pq.write_table(pa.table({"ts_ns": [1], "cpu": [1 << 40], "event": ["vmfold"]}), wide)
    os.mkfifo(tmp_path / "fifo")
    for arguments, words in [
        ([str(trace), "-o", str(tmp_path / "out.xyz")], "its ending says no format"),
        ([str(trace), "-o", "-"], "its ending says no format"),
        ([str(trace), "-o", "-", "--format", "parquet"], "not written to standard output"),
        ([str(trace), "-o", str(trace), "-f"], "is the trace itself"),
        ([str(trace), "-o", str(tmp_path / "no" / "out.csv")], "there is no directory"),
        ([str(trace), "-o", str(tmp_path), "--format", "csv"], "is a directory"),
        ([str(tmp_path / "no"), "-o", out], "cannot be read"),
        ([str(other), "-o", out], "other.parquet has no rows of a trace: column ts_ns is not there"),
        ([str(broken), "-o", out], "broken.parquet is truncated or no parquet file"),
        ([str(nested), "-o", out], "nested.parquet cannot be written as csv"),
        ([str(wide), "-o", str(tmp_path / "out.txt")], "numbers in column cpu that no trace has"),
        ([str(trace), "-o", str(tmp_path / "fifo"), "-f", "--format", "csv"], "is no ordinary file"),
        ([str(trace), "-o", out, "--table", "cpus"], "leave --table out"),
        ([str(PLAIN), "-o", out, "--buffer", "x"], "leave --buffer out"),
        ([str(trace), "-o", out, "--kernel", "x"], "expected a release"),
    ]:
        assert main(["export", *arguments, "-q"]) == 2, words
        said = capsys.readouterr().err
        assert words in said
        assert said.count("\n") == 1
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"trace.txt", "fifo", *(f"{name}.parquet" for name in ("other", "broken", "nested", "wide"))}


def test_existing_files_stay(tmp_path, capsys):
    trace, out = tmp_path / "trace.txt", tmp_path / "out.csv"
    trace.write_text(HEAD + text_line("a", 1, 0, 5000, FREE))
    out.write_text("mine")
    assert main(["export", str(trace), "-o", str(out), "-q"]) == 2
    assert "exists; -f replaces it" in capsys.readouterr().err
    trace.write_bytes(b"\x1f\x8b\x08\0" + os.urandom(50))
    assert main(["export", str(trace), "-o", str(out), "-qf"]) == 2
    assert out.read_text() == "mine", "a failure leaves the file that was there"
    assert len(list(tmp_path.iterdir())) == 2


def test_pipes(tmp_path):
    trace = HEAD + text_line("a", 1, 0, 5000, FREE)
    command = [sys.executable, "-m", "pcpbuddy.cli.main", "export", "-", "-o", "-", "--format", "text"]
    done = subprocess.run(command, input=trace.encode(), capture_output=True, check=True)
    assert done.stdout.endswith(b"order=2\n")
    assert done.stdout.startswith(b"# tracer: nop\n")
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, input=trace.encode(), stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert b"standard output cannot be written: No space left on device" in done.stderr


def test_strict(tmp_path, capsys):
    source = tmp_path / "trace.txt"
    source.write_text(some_text())
    for target in (source, tmp_path / "a.parquet"):
        table(tmp_path / "a.parquet", source)
        for ending in ("csv", "txt", "pftrace"):
            out = str(tmp_path / f"out.{ending}")
            assert main(["export", str(target), "-o", out, "-f", "--strict"]) == 4
            assert "Incomplete: 123 events lost, 1 gaps of unknown size." in capsys.readouterr().err
            assert main(["export", str(target), "-o", out, "-qf"]) == 0


def test_rows_that_no_form_can_show_are_counted(tmp_path, capsys):
    rows = {
        "ts_ns": [1, None, -5, 4],
        "cpu": pa.array([0, 0, 0, None], pa.int16()),
        "event": ["vmfold", "vmfold", "vmfold", "unheard_of"],
    }
    pq.write_table(pa.table(rows), tmp_path / "rows.parquet")
    for ending in ("txt", "pftrace"):
        assert main(["export", str(tmp_path / "rows.parquet"), "-o", str(tmp_path / f"out.{ending}")]) == 0
        said = capsys.readouterr().err
        assert "written: 1 rows" in said
        assert "2 rows without a time or a CPU were left out" in said
        assert "rows of events that no trace has were left out: unheard_of (1)" in said


def test_memory_does_not_grow_with_the_trace(tmp_path):
    """
    Ten times the rows.
    """
    code = (
        "import sys\nfrom pcpbuddy.cli.main import main\n"
        "main(['export', sys.argv[1], '-o', sys.argv[2], '-q'])\n"
        "print([line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')][0])"
    )
    lines = [text_line(f"task{i % 50}", i % 50, i % 4, 1000 * i, FREE) for i in range(10000)]
    for ending in ("pftrace", "txt"):
        peaks = []
        for times in (3, 30):
            source = tmp_path / "trace.txt"
            source.write_text(HEAD + "".join(lines) * times)
            command = [sys.executable, "-c", code, str(source), str(tmp_path / f"{times}.{ending}")]
            peaks.append(int(subprocess.run(command, capture_output=True, check=True).stdout))
        assert peaks[1] < 1.1 * peaks[0]


# Runs.


@pytest.fixture(scope="module")
def storm(tmp_path_factory):
    """
    A run with much contention, its log, and its file.
    """
    run = pb.Machine(8, policy="mainline", cma="256MiB").run("exit/storm", log=True, touch_mib=8)
    path = tmp_path_factory.mktemp("run") / "storm.run"
    run.save(path)
    return run, path


def test_a_log_changes_nothing_else(storm):
    run, path = storm
    plain = pb.Machine(8, policy="mainline", cma="256MiB").run("exit/storm", touch_mib=8)
    assert plain.holds is None
    assert plain.metrics == run.metrics
    assert (plain.samples == run.samples).all()
    assert "--log" in run.manifest["command"]
    assert "--log" not in plain.manifest["command"]
    loaded = pb.load_run(path)
    assert (loaded.holds == run.holds).all()
    assert loaded.digest == run.digest
    damaged = path.with_name("damaged.run")
    damaged.write_bytes(path.read_bytes().replace(run.holds[:1].tobytes(), bytes(32), 1))
    with pytest.raises(UsageError, match="damaged"):
        pb.load_run(damaged)


def test_the_log_has_what_was_measured(storm):
    """
    Waits and holds of the zone lock by kind, summed up from the log, are the metrics.
    """
    run, _ = storm
    log = run.tables()["locks"].to_pylist()
    end = run.metrics["time.measured_ns"]
    for kind in ("refill", "drain"):
        of = [row for row in log if (row["lock"], row["kind"]) == ("zone_lock", kind) and row["from_ns"] < end]
        # One that was under way when measuring began counts with its time alone.
        assert sum(row["from_ns"] > 0 for row in of) == run.metrics[f"zone_lock.holds.{kind}"]
        held = sum(min(row["to_ns"], end) - row["from_ns"] for row in of)
        assert held == pytest.approx(run.metrics[f"zone_lock.hold_ns.{kind}.total"], rel=1e-9)
        waited = sum(row["from_ns"] - row["asked_ns"] for row in of)
        assert waited == pytest.approx(run.metrics[f"zone_lock.wait_ns.{kind}.total"], rel=1e-6)
    contended = [row for row in log if row["lock"] == "pcp_lock"]
    assert all(row["number"] in range(8) for row in contended)


def test_a_run_for_perfetto(storm, tmp_path):
    """
    Slices are the log's waits and holds; each arrow goes from a hold to the one that waited for its end.
    """
    run, path = storm
    made, log = exported(tmp_path, path), run.tables()["locks"].to_pylist()
    holds = [one for one in made.slices if not one.name.startswith("wait")]
    waits = [one for one in made.slices if one.name.startswith("wait")]
    assert len(holds) == len(log) > 100
    assert len(waits) == sum(row["asked_ns"] < row["from_ns"] for row in log) > 100
    shown = sorted((one.track[0], one.begin, one.end, one.name, one.notes["zone"]) for one in holds)
    assert shown == sorted(
        (
            f"CPU {row['cpu']}",
            int(row["from_ns"]),
            int(row["to_ns"]),
            f"{row['lock'].replace('_', ' ').replace('pcp', 'PCP')}: {row['kind'].replace('_', ' ')}",
            row["zone"],
        )
        for row in log
    )
    starts = {flow: one for one in holds for flow in one.flows}
    arrived = [(starts[flow], one) for one in holds for flow in one.ends_flows]
    assert len(arrived) == len(waits)
    for before, after in arrived:
        (wait,) = [
            one for one in waits if one.track == after.track and one.end == after.begin and one.name[9:] == after.name
        ]
        assert wait.begin <= before.end <= after.begin
        assert before.track != after.track
    for zone in run.zones:
        over = run.over_time(zone)
        counters = {path[-1]: values for path, values in made.counters.items() if path[0] == f"zone {zone}"}
        assert len(counters) == 16
        assert counters["free CMA pages"][-1] == (int(over["t_ns"][-1]), over["cma_free"][-1])
        assert (
            dict(counters["pages in PCPs"]).items()
            <= dict(zip(over["t_ns"].astype(int).tolist(), over["parked_pages"].tolist(), strict=True)).items()
        )
        for order in range(11):
            assert counters[f"free pages of order {order}"][-1][1] == over["nr_free"][-1][order] << order


@pytest.mark.parametrize("policy", ["mainline", "fixed", "tuned"])
@pytest.mark.parametrize("load", ["cma/pressure", "reclaim/kswapd", "hotplug/cycle", "build/kernel"])
def test_runs_of_all_kinds_are_sound(tmp_path, policy, load):
    run = pb.Machine(4, policy=policy, memory="1GiB").run(load, log=True, duration="2ms")
    run.save(tmp_path / "a.run")
    made = exported(tmp_path, tmp_path / "a.run")
    assert {track[0] for track in made.tracks.values() if track} == {
        *(f"CPU {cpu}" for cpu in range(4)),
        *(f"zone {zone}" for zone in run.zones),
    }, "no slices that cross each other"


def test_a_run_without_a_log(tmp_path, capsys):
    pb.Machine(2, policy="fixed", memory="256MiB").run("build/kernel", duration="1ms").save(tmp_path / "a.run")
    assert main(["export", str(tmp_path / "a.run"), "-o", str(tmp_path / "a.pftrace")]) == 0
    assert "has no log of its locks, so waits and holds are missing: `pcpbuddy run --log`" in capsys.readouterr().err
    made = Decoded(tmp_path / "a.pftrace")
    assert made.counters
    assert not made.slices
    for arguments, words in [
        (["--format", "text"], "has no events of a kernel"),
        (["--format", "csv", "--table", "locks"], "`pcpbuddy run --log` keeps a log of locks"),
        (["--format", "csv", "--table", "x"], "it has metrics, samples, cpus, histograms"),
        (["--format", "perfetto", "--table", "cpus"], "leave --table out"),
        (["--format", "csv", "--kernel", "6.1"], "leave --kernel out"),
    ]:
        assert main(["export", str(tmp_path / "a.run"), "-o", str(tmp_path / "out"), *arguments]) == 2
        assert words in capsys.readouterr().err
    (tmp_path / "b.run").write_bytes(b"PK\x03\x04" + bytes(100))
    assert main(["export", str(tmp_path / "b.run"), "-o", str(tmp_path / "b.csv")]) == 2
    assert "is no run, or damaged" in capsys.readouterr().err


def test_tables_of_a_run(storm, tmp_path):
    run, path = storm
    for name, made in run.tables().items():
        out = tmp_path / f"{name}.csv"
        assert main(["export", str(path), "-o", str(out), "--table", name, "-q"]) == 0
        with out.open(newline="") as file:
            told = list(csv.DictReader(file))
        assert len(told) == made.num_rows
        assert list(told[0]) == made.column_names
        assert main(["export", str(path), "-o", str(tmp_path / "a.parquet"), "--table", name, "-qf"]) == 0
        assert pq.read_table(tmp_path / "a.parquet").equals(made)


def test_the_log_of_the_command(tmp_path):
    arguments = ["run", "exit/storm", "--cpus", "4", "--policy", "mainline", "--set", "touch_mib=2", "-q"]
    assert main([*arguments, "--log", "-o", str(tmp_path / "a.run")]) == 0
    run = pb.load_run(tmp_path / "a.run")
    assert run.manifest["config"]["log"] == {"left_out": 0}
    assert len(run.holds)


def test_arrows_and_lanes_by_hand(tmp_path, storm, capsys):
    """
    Slices that cross each other stand on two tracks; a lock that is held at the end, and who waits for it, are there.
    """
    run, _ = storm
    zone_lock = 8  # of zone 0; 0 to 7 are its PCPs'
    drain = LOCKS["zone_lock"].index("drain")
    start = round(run.metrics["time.before_ns"] * 1000)
    log = np.array(
        [
            (1000, 1000, 5000, 0, 0, 0, 0),
            (3000, 3000, 7000, zone_lock, 0, 0, 0),  # begins within the one before, ends behind it
            (4000, 7000, 9000, zone_lock, 1, drain, 1),
            (8000, 9000, 9900, zone_lock, 2, drain, 2),
            (9500, -1, 9900, zone_lock, 3, 0, 2),
        ],
        HOLD,
    )
    for name in ("asked_ps", "from_ps", "to_ps"):
        log[name] = np.where(log[name] < 0, -1, log[name] * 1000 + start)
    config = {**run.manifest["config"], "log": {"left_out": 7}}
    dataclasses.replace(run, holds=log, manifest={**run.manifest, "config": config}).save(tmp_path / "hand.run")
    assert main(["export", str(tmp_path / "hand.run"), "-o", str(tmp_path / "hand.pftrace")]) == 0
    assert "the log was full after 0.010 ms: 7 holds that ended later are missing" in capsys.readouterr().err
    made = exported(tmp_path, tmp_path / "hand.run")
    assert sorted((one.track, one.name, one.begin, one.end) for one in made.slices) == [
        (("CPU 0",), "PCP lock: alloc", 1000, 5000),
        (("CPU 0, at the same time",), "zone lock: refill", 3000, 7000),
        (("CPU 1",), "wait for zone lock: drain", 4000, 7000),
        (("CPU 1",), "zone lock: drain", 7000, 9000),
        (("CPU 2",), "wait for zone lock: drain", 8000, 9000),
        (("CPU 2",), "zone lock: drain", 9000, 9900),
        (("CPU 3",), "wait for zone lock: refill", 9500, 9900),
    ]
    starts = {flow: one.begin for one in made.slices for flow in one.flows}
    assert sorted((starts[flow], one.begin) for one in made.slices for flow in one.ends_flows) == [
        (3000, 7000),
        (7000, 9000),
    ]
