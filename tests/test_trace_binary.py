"""
Traces that are ring buffers: sub-buffers event by event, trace.dat files of both versions, raw files in a folder.
"""

import contextlib
import gzip
import io
import lzma
import struct
import sys
import zlib

import numpy as np
import pyarrow as pa
import pytest
from test_trace_text import rows_of
from tracedata import HEADER_PAGE, PAGE, Kernel, dat6, dat7, page, pages, record

from pcpbuddy.errors import TraceError
from pcpbuddy.trace import open_trace
from pcpbuddy.trace.formats import geometry, parse_formats, plans

OLD, NEW = Kernel("5.10"), Kernel("6.6")
NAMES = b"7 bash\n8 a b [x]\n"


@pytest.fixture
def read(tmp_path):
    """
    Read the bytes of a file as a trace: (rows, health).
    """

    def read(data, **options):
        path = tmp_path / "trace.dat"
        path.write_bytes(data)
        with open_trace(path, **options) as trace:
            return rows_of(trace.batches()), trace.health()

    return read


def dat(cpus, kernel=NEW, **options):
    """
    A trace.dat with one buffer of some CPUs.
    """
    return dat7({"": cpus}, kernel.formats(), **{"codec": "none", "cmdlines": NAMES} | options)


def tried(read, data):
    """
    Read damaged bytes: whatever comes of it, an error is one sentence that names the file.
    """
    with contextlib.suppress(TraceError):
        try:
            read(data)
        except TraceError as error:
            said = str(error)
            raise (error if said.startswith("trace.dat") and said.isprintable() else ValueError(said)) from None


def frees(*times, kernel=NEW, pid=7):
    """
    Events that say when they were.
    """
    return [(ns, kernel.event("mm_page_free", pid=pid, pfn=ns & 0xFFFFFF, order=ns % 11)) for ns in times]


def test_every_field_of_both_kernels(read):
    for kernel in (OLD, NEW):
        extra = {"percpu_refill": 1} if kernel is NEW else {}
        events = [
            (10, kernel.event("mm_page_alloc", 7, 9, 0x12, pfn=-1, order=9, gfp_flags=0x8000CC0, migratetype=1)),
            (20, kernel.event("mm_page_free_batched", 8, pfn=5)),
            (30, kernel.event("mm_page_alloc_zone_locked", 0, pfn=6, order=0, migratetype=2, **extra)),
            (40, kernel.event("mm_page_pcpu_drain", 99, pfn=7, order=3, migratetype=0)),
            (50, kernel.event("sched_switch", 99, prev_pid=3)),
            (60, kernel.event("print", 7, text=b"wl:begin a\n", ip=1)),
        ]
        rows, health = read(dat({2: pages(events)}, kernel))
        assert rows == [
            {"ts_ns": 10, "cpu_seq": 0, "cpu": 2, "pid": 7, "comm": "bash", "event": "mm_page_alloc", "irq_flags": 9,
             "preempt_count": 0x12, "order": 9, "pfn": -1, "gfp_flags": 0x8000CC0, "migratetype": 1},
            {"ts_ns": 20, "cpu_seq": 1, "cpu": 2, "pid": 8, "comm": "a b [x]", "event": "mm_page_free_batched",
             "irq_flags": 0, "preempt_count": 0, "pfn": 5},
            {"ts_ns": 30, "cpu_seq": 2, "cpu": 2, "pid": 0, "comm": "<idle>", "event": "mm_page_alloc_zone_locked",
             "irq_flags": 0, "preempt_count": 0, "order": 0, "pfn": 6, "migratetype": 2, "percpu_refill": 1},
            {"ts_ns": 40, "cpu_seq": 3, "cpu": 2, "pid": 99, "comm": "<...>", "event": "mm_page_pcpu_drain",
             "irq_flags": 0, "preempt_count": 0, "order": 3, "pfn": 7, "migratetype": 0},
            {"ts_ns": 60, "cpu_seq": 4, "cpu": 2, "pid": 7, "comm": "bash", "event": "print", "irq_flags": 0,
             "preempt_count": 0, "marker": "wl:begin a"},
        ]  # fmt: skip
        assert health.unknown_events == {"sched_switch": (1, None)}


def test_contention_is_a_companion(read):
    events = [
        (10, NEW.event("contention_begin", lock_addr=0xFFFF888000000001, flags=1)),
        (20, NEW.event("contention_end", lock_addr=0xFFFF888000000001, ret=-4)),
    ]
    rows, _ = read(dat({0: pages(events)}))
    assert [(row["lock_addr"] & (1 << 64) - 1, row.get("lock_flags"), row.get("ret")) for row in rows] == [
        (0xFFFF888000000001, 1, None),
        (0xFFFF888000000001, None, -4),
    ]


def test_percpu_refill_of_an_old_kernel_is_what_it_prints(read):
    events = [
        (10 * order, OLD.event("mm_page_alloc_zone_locked", pfn=1, order=order, migratetype=0)) for order in (0, 1, 3)
    ]
    rows, _ = read(dat({0: pages(events)}, OLD))
    assert [row["percpu_refill"] for row in rows] == [1, 0, 0]


def test_times_of_all_kinds(read):
    free = NEW.event("mm_page_free", pfn=1, order=0)
    data = (
        record(0, free)
        + record(5, free)
        + record((1 << 27) - 1, free)
        + record((1 << 27) + 3, free)
        + record(1 << 40, free)
        + struct.pack("<II", 31 | 7 << 5, 1 << 20)  # a whole stamp: 2^47 + 7
        + record(1, free)
        + struct.pack("<II", 29 | 4 << 5, 4)  # a discarded event, whose time counts
        + record(2, free)
        + struct.pack("<I", 29)  # the rest is empty
        + record(9, free)
    )
    rows, health = read(dat({0: page(1000, data)}))
    steps = [0, 5, (1 << 27) - 1, (1 << 27) + 3, 1 << 40]
    expected = [*(1000 + np.cumsum(steps)).tolist(), (1 << 47) + 8, (1 << 47) + 14]
    assert [row["ts_ns"] for row in rows] == expected
    assert health.nr_damages == 0


def test_a_whole_stamp_takes_its_highest_bits_from_the_page(read):
    free = NEW.event("mm_page_free", pfn=1, order=0)
    stamp = struct.pack("<II", 31 | 7 << 5, 1 << 20)
    for before, high in ((3 << 59, 3), ((3 << 59) + (1 << 50), 4)):
        rows, _ = read(dat({0: page(before, record(0, free) + stamp + record(1, free))}))
        assert [row["ts_ns"] for row in rows] == [before, (high << 59) + (1 << 47) + 8]


def test_long_events(read):
    events = [(10, NEW.event("print", text=b"x" * 1000, ip=1)), (20, NEW.event("print", text=b"\xff\x1b", ip=1))]
    rows, _ = read(dat({0: pages(events)}))
    assert [row["marker"] for row in rows] == ["x" * 1000, "\\xff\x1b"]


def test_cpus_are_merged_by_time_and_ties_by_cpu(read):
    rng = np.random.default_rng(1)
    times = {cpu: sorted(rng.integers(0, 3000, 2000).tolist()) for cpu in (3, 0, 64, 7, 1000)}
    rows, health = read(dat({cpu: pages(frees(*ns)) for cpu, ns in times.items()}))
    expected = sorted((ns, cpu, seq) for cpu, one in times.items() for seq, ns in enumerate(one))
    assert [(row["ts_ns"], row["cpu"], row["cpu_seq"]) for row in rows] == expected
    assert health.ties > 1000
    assert [cpu.rows for cpu in health.cpus] == [2000] * 5


def test_losses(read):
    one, two = record(0, frees(10)[0][1]), record(0, frees(20)[0][1])
    data = page(10, one) + page(20, two, missed=77) + page(30, one, missed=-1) + page(40, two)
    rows, health = read(dat({1: data}))
    assert [row["cpu_seq"] for row in rows] == [0, 78, 80, 81]
    assert [(loss.cpu, loss.events, loss.ts_ns) for loss in health.losses] == [(1, 77, 20), (1, None, 30)]
    assert health.losses[1].place - health.losses[0].place == PAGE
    assert (health.lost, health.gaps) == (77, 1)


def test_a_full_page_has_no_room_for_the_count(read):
    """
    The kernel stores how many were lost only where there is room behind the last event.
    """
    data = record(0, NEW.event("print", text=b"x" * (PAGE - 16 - 8 - 16 - 1), ip=1))
    assert len(data) == PAGE - 16
    one = bytearray(page(10, data))
    one[8:16] = struct.pack("<Q", len(data) | 3 << 30)
    rows, health = read(dat({1: bytes(one)}))
    assert [len(row["marker"]) for row in rows] == [PAGE - 16 - 8 - 16 - 1]
    assert (health.lost, health.gaps) == (0, 1)


def test_overruns_that_the_kernel_counted(read):
    stats = [(2, b"CPU: 3\nentries: 5\noverrun: 12\ncommit overrun: 1\nbytes: 7\ndropped events: 2\n\0")]
    _, health = read(dat({3: pages(frees(5))}, options=stats))
    assert health.overwritten == {3: 15}
    assert health.incomplete == "15 events lost"


@pytest.mark.parametrize("codec", ["none", "zlib", "zstd"])
def test_packed_sections_and_blocks(read, codec):
    cpus = {cpu: pages(frees(*range(cpu, 9000, 3))) for cpu in range(3)}
    rows, health = read(dat(cpus, codec=codec))
    assert [row["ts_ns"] for row in rows] == list(range(9000))
    assert {row["comm"] for row in rows} == {"bash"}
    assert health.incomplete is None


def test_several_buffers(read):
    buffers = {"": {0: pages(frees(10, 30))}, "mine": {0: pages(frees(20)), 1: pages(frees(20))}}
    data = dat7(buffers, NEW.formats(), codec="zstd")
    rows, health = read(data)
    assert [(row["ts_ns"], row["cpu"], row["cpu_seq"]) for row in rows] == [
        (10, 0, 0),
        (20, 0, 1),
        (20, 1, 0),
        (30, 0, 2),
    ]
    assert "2 buffers in one order of time: the top one, mine" in health.notes[0]
    assert [row["ts_ns"] for row in read(data, buffer="mine")[0]] == [20, 20]
    assert [row["ts_ns"] for row in read(data, buffer="")[0]] == [10, 30]
    with pytest.raises(TraceError, match="no buffer 'other'; it has \"\", mine"):
        read(data, buffer="other")


def test_version_6_with_several_buffers(read):
    buffers = {"": [pages(frees(10, 30, kernel=OLD)), b""]}
    buffers["mine"] = [pages(frees(20, kernel=OLD)), pages(frees(25, kernel=OLD))]
    uname = [(5, b"Linux host 5.10.0-21-amd64 x86_64\0"), (4, b"local [global] mono\0")]
    data = dat6(buffers, OLD.formats(), cmdlines=NAMES, options=uname)
    rows, _ = read(data)
    assert [(row["ts_ns"], row["cpu"]) for row in rows] == [(10, 0), (20, 0), (25, 1), (30, 0)]
    assert rows[0]["comm"] == "bash"


def test_ticks_are_made_nanoseconds_where_the_file_says_how(read):
    mult, shift, offset = 1 << 31, 32, 100  # half a nanosecond a tick
    options = [(14, struct.pack("<IIQ", mult, shift, offset)), (4, b"local [x86-tsc]\0")]
    times = [1 << 50, (1 << 50) + 10]
    rows, health = read(dat({0: pages(frees(*times))}, options=options))
    assert [row["ts_ns"] for row in rows] == [ns // 2 - 100 for ns in times]
    assert health.notes == ()
    rows, health = read(dat({0: pages(frees(*times))}, options=options[1:]))
    assert [row["ts_ns"] for row in rows] == times
    assert "x86-tsc does not count nanoseconds" in health.notes[0]


def test_larger_sub_buffers(read):
    events = frees(*range(1000))
    data = dat7({"": {0: pages(events, size=4 * PAGE)}}, NEW.formats(), codec="zstd", page_size=4 * PAGE)
    assert [row["ts_ns"] for row in read(data)[0]] == list(range(1000))


def test_geometry_of_32_bits():
    text = (
        HEADER_PAGE.replace("offset:8;\tsize:8;", "offset:8;\tsize:4;")
        .replace("offset:16;", "offset:12;")
        .replace("4080", "4084")
    )
    assert geometry(text) == (4096, 8, 4, 12)
    assert geometry(HEADER_PAGE) == (4096, 8, 8, 16)
    assert geometry("field: char data; offset:9999; size:1; signed:0;") is None


def test_a_format_of_which_nothing_fits():
    (only,) = parse_formats("name: mm_page_free\nID: 9\nformat:\n\tfield:u8 pfn[16];\toffset:8;\tsize:16;\tsigned:0;\n")
    assert plans([only]) == {9: (1, 2, [])}
    assert parse_formats("name: mm_page_free\nID: 99999\n") == []


# Damage.


def test_damaged_sub_buffers_are_counted_and_located(read):
    good, bad = page(10, record(0, frees(1)[0][1])), bytearray(page(20, record(0, frees(2)[0][1])))
    for at, value in ((8, 5000), (16, 0), (16, 28 | 7 << 5), (7, 0x80)):
        broken = bytearray(bad)
        broken[at : at + 4] = struct.pack("<I", value) if at != 7 else bytes([value]) + broken[8:11]
        rows, health = read(dat({1: good + bytes(broken) + good}))
        assert len(rows) == 2
        assert health.nr_damages == 1
        assert health.damages[0].what.startswith("CPU 1: ")
        assert health.incomplete == "1 gaps of unknown size, 1 damaged sub-buffers"


def test_nothing_but_damage_is_an_error(read):
    with pytest.raises(
        TraceError, match=r"trace.dat, byte \d+: a sub-buffer is cut off, or says .* no event could be read"
    ):
        read(dat({1: bytes([255]) * PAGE}))


def test_events_shorter_than_their_format(read):
    short = NEW.event("mm_page_free", pfn=1, order=0)[:12]
    rows, health = read(dat({0: page(10, record(0, short) + record(1, frees(1)[0][1]))}))
    assert [row["cpu_seq"] for row in rows] == [1]
    assert health.broken == 1


@pytest.mark.parametrize("make", [
    lambda: dat({0: pages(frees(*range(300)))}),
    lambda: dat({0: pages(frees(*range(300)))}, codec="zstd"),
    lambda: dat6({"": [pages(frees(*range(300)))]}, OLD.formats()),
])  # fmt: skip
def test_cut_off_anywhere_it_is_refused_in_one_sentence(read, make):
    whole = make()
    for cut in [*range(0, 700, 7), *range(700, len(whole), 397)]:
        tried(read, whole[:cut])


def test_versions_and_machines_that_are_not_read(read):
    with pytest.raises(TraceError, match="big-endian machine"):
        read(dat6({"": [b""]}, OLD.formats(), endian=1))
    with pytest.raises(TraceError, match="version 8, and versions 6 and 7"):
        read(dat({0: b""}).replace(b"tracing7", b"tracing8"))
    with pytest.raises(TraceError, match="compressed with lz99"):
        read(dat({0: pages(frees(5))}, codec="zlib").replace(b"zlib\0", b"lz99\0"))


def test_absurd_lengths_take_no_memory(read):
    whole = dat({0: pages(frees(5))})
    for at in range(12, 120, 4):
        for value in (0xFFFFFFFF, 0x7FFFFFFF, 1 << 26):
            data = bytearray(whole)
            data[at : at + 4] = struct.pack("<I", value)
            tried(read, bytes(data))


def test_blocks_that_would_take_gigabytes(read):
    bomb = zlib.compress(bytes(1 << 20))
    data = dat({0: pages(frees(5))}, codec="zlib")
    packed = zlib.compress(pages(frees(5)))
    at = data.index(packed) - 8
    grown = data[:at] + struct.pack("<II", len(bomb), 60 << 20) + bomb + data[at + 8 + len(packed) :]
    tried(read, grown)
    with pytest.raises(TraceError, match="at most 67108864 can be"):
        read(data[:at] + struct.pack("<II", len(packed), 1 << 31) + data[at + 8 :])


def test_cpus_that_lie_over_one_another_or_not_in_the_file(read):
    data = pages(frees(5))
    whole = dat({0: data, 1: data})
    first = whole.index(data)
    both = [struct.pack("<IQQ", cpu, first + cpu * PAGE, PAGE) for cpu in (0, 1)]
    with pytest.raises(TraceError, match=f"byte {first}: the data of CPU 1 lie over those of another"):
        read(whole.replace(both[1], struct.pack("<IQQ", 1, first, PAGE)))
    with pytest.raises(TraceError, match=r"should be 1048576 bytes, .* are missing"):
        read(whole.replace(both[1], struct.pack("<IQQ", 1, first + PAGE, 1 << 20)))


def test_too_many_of_anything(read):
    whole = dat({0: pages(frees(5))})
    events = struct.pack("<I", len(NEW.formats())) + struct.pack("<Q", len(NEW.formats()[0]))
    with pytest.raises(TraceError, match="4294967295 events, at most 100000 can be"):
        read(whole.replace(events, struct.pack("<I", 0xFFFFFFFF) + events[4:]))
    cpus = struct.pack("<II", PAGE, 1) + struct.pack("<I", 0)
    with pytest.raises(TraceError, match="99999 CPUs, at most 8192 can be"):
        read(whole.replace(cpus, struct.pack("<III", PAGE, 99999, 0)))


def test_the_name_of_the_host_is_left_out(tmp_path):
    path = tmp_path / "trace.dat"
    path.write_bytes(dat({0: pages(frees(5))}, options=[(5, b"Linux secret 6.6.1-x x86_64\0")]))
    with open_trace(path) as trace:
        assert trace.kernel == "6.6.1-x"


# Where it comes from.


def test_packed_files_and_pipes(read, tmp_path, monkeypatch):
    whole = dat({0: pages(frees(*range(500)))})
    for packed in (gzip.compress(whole), lzma.compress(whole), pa.compress(whole, codec="zstd", asbytes=True)):
        assert len(read(packed)[0]) == 500

    class Pipe(io.RawIOBase):
        def __init__(self, data):
            self.file = io.BytesIO(data)

        def readable(self):
            return True

        def readinto(self, buffer):
            return self.file.readinto(memoryview(buffer)[:1000])

    monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": Pipe(whole)})())
    with open_trace("-", digest=True) as trace:
        assert len(rows_of(trace.batches())) == 500
        assert (trace.name, trace.size_bytes) == ("standard input", None)
        assert len(trace.sha256) == 64


@pytest.fixture
def folder(tmp_path):
    """
    A folder as it is copied from tracefs.
    """
    for cpu, ns in enumerate(([10, 30], [20])):
        path = tmp_path / f"per_cpu/cpu{cpu}/trace_pipe_raw"
        path.parent.mkdir(parents=True)
        path.write_bytes(pages(frees(*ns)))
    for name in ("mm_page_free", "mm_page_alloc"):
        path = tmp_path / f"events/kmem/{name}/format"
        path.parent.mkdir(parents=True)
        path.write_text(NEW.format(name))
    (tmp_path / "events/header_page").write_text(HEADER_PAGE)
    (tmp_path / "saved_cmdlines").write_bytes(NAMES)
    return tmp_path


def test_raw_files_in_a_folder(folder):
    with open_trace(folder, digest=True) as trace:
        rows = rows_of(trace.batches())
        assert trace.form == "raw sub-buffers"
        assert trace.size_bytes == 2 * PAGE
        assert trace.health().notes == ()
    assert [(row["ts_ns"], row["cpu"], row["comm"]) for row in rows] == [
        (10, 0, "bash"),
        (20, 1, "bash"),
        (30, 0, "bash"),
    ]


def test_raw_files_have_no_buffers_to_choose_from(folder):
    with pytest.raises(TraceError, match="has one buffer; leave --buffer out"):
        open_trace(folder, buffer="mine")


def test_one_raw_file_with_its_descriptions_beside_it(folder):
    path = folder / "cpu1.raw"
    (folder / "per_cpu/cpu1/trace_pipe_raw").rename(path)
    (folder / "per_cpu/cpu0/trace_pipe_raw").unlink()
    with open_trace(path) as trace:
        assert [(row["ts_ns"], row["cpu"]) for row in rows_of(trace.batches())] == [(20, 1)]


def test_raw_files_without_what_explains_them(folder):
    (folder / "events/header_page").unlink()
    with open_trace(folder) as trace:
        assert len(rows_of(trace.batches())) == 3
        assert "no header_page beside the sub-buffers" in trace.health().notes[0]
    for path in folder.rglob("format"):
        path.unlink()
    with pytest.raises(TraceError, match="no format file of an event"):
        open_trace(folder)
    for path in folder.rglob("trace_pipe_raw"):
        path.unlink()
    with pytest.raises(TraceError, match="a folder without raw sub-buffers"):
        open_trace(folder)
