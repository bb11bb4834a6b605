"""
Traces that are text: the front of a line in all its shapes, fields by name, names of flags by kernel, what is no row.
"""

import gzip
import io
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tracedata import perf_line, text_line

from pcpbuddy.errors import TraceError, UsageError
from pcpbuddy.trace import KNOWN, NULLS, gfp, open_trace
from pcpbuddy.trace._parse import TextParser
from pcpbuddy.trace.schema import EVENT
from pcpbuddy.trace.text import _specs

HEAD = "# tracer: nop\n#\n"
FREE = "mm_page_free: page=00000000aa4fb823 pfn=0x66b0 order=2"


def rows_of(batches):
    """
    Rows as dictionaries, without what is null, texts and event names as texts.
    """
    found = []
    for batch in batches:
        for row in batch.rows:
            made = {name: int(row[name]) for name in EVENT.names if int(row[name]) != NULLS[EVENT[name].itemsize]}
            made["event"] = KNOWN[made["event"]]
            for name in ("comm", "marker"):
                if name in made:
                    made[name] = batch.texts(name)[made[name]]
            found.append(made)
    return found


@pytest.fixture
def read(tmp_path):
    """
    Read a text as a trace: (rows, health).
    """

    def read(text, **options):
        path = tmp_path / "trace"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with open_trace(path, **options) as trace:
            return rows_of(trace.batches()), trace.health()

    return read


FRONTS = [
    ("            bash-123     [003] d.h2. 12345.678901: ", ("bash", 123, 3, 12345678901000, 9, 2)),
    ("            bash-123     [003] 12345.678901: ", ("bash", 123, 3, 12345678901000, None, None)),
    ("bash-123 [003] d.h2. 1.000001: ", ("bash", 123, 3, 1000001000, 9, 2)),
    ("            bash-123     (    120) [003] ..s1.  1.000001: ", ("bash", 123, 3, 1000001000, 16, 1)),
    ("            bash-123     (-------) [003] ..s1.  1.000001: ", ("bash", 123, 3, 1000001000, 16, 1)),
    ("            bash-123     [003] ....  1.000001: ", ("bash", 123, 3, 1000001000, 0, 0)),
    ("            bash-123     [003] DNZff  1.000001: ", ("bash", 123, 3, 1000001000, 0x81 | 0x24 | 0x48, 0xFF)),
    ("            bash-123     [003] bLH3.  1.000001: ", ("bash", 123, 3, 1000001000, 0x80 | 0x22 | 0x18, 3)),
    ("            bash-123     [003] .....  1.000001234: ", ("bash", 123, 3, 1000001234, 0, 0)),
    ("            bash-123     [003] .....  123456789012: ", ("bash", 123, 3, 123456789012, 0, 0)),
    ("            bash-123     [1023] ..... 1.000001: ", ("bash", 123, 1023, 1000001000, 0, 0)),
    ("  Web Content [x]-77      [000] ..... 1.000001: ", ("Web Content [x]", 77, 0, 1000001000, 0, 0)),
    ("    a-1 [000] x-5       [001] ..... 2.000000: ", ("a-1 [000] x", 5, 1, 2000000000, 0, 0)),
    ("  a-1 [000] 1.1:-5       [001] ..... 2.000000: ", ("a-1 [000] 1.1:", 5, 1, 2000000000, 0, 0)),
    ("           <...>-4242    [002] ..... 2.000000: ", ("<...>", 4242, 2, 2000000000, 0, 0)),
    ("          <idle>-0       [002] d.... 2.000000: ", ("<idle>", 0, 2, 2000000000, 1, 0)),
    (" kworker/u16:2-e-42      [002] d.... 2.000000: ", ("kworker/u16:2-e", 42, 2, 2000000000, 1, 0)),
    ("mine:             bash-123     [003] .....  1.000001: ", ("bash", 123, 3, 1000001000, 0, 0)),
    ("mine:  Web Content [x]-123     [003] .....  1.000001: ", ("Web Content [x]", 123, 3, 1000001000, 0, 0)),
    ("         sh    12 [001]   100.000001: kmem:", ("sh", 12, 1, 100000001000, None, None)),
    ("       a b-3    12/34    [001]   100.000001: kmem:", ("a b-3", 34, 1, 100000001000, None, None)),
]


@pytest.mark.parametrize(("front", "expected"), FRONTS)
def test_the_front_of_a_line(read, front, expected):
    rows, health = read(HEAD + front + FREE + "\n")
    names = ("comm", "pid", "cpu", "ts_ns", "irq_flags", "preempt_count")
    assert [tuple(row.get(name) for name in names) for row in rows] == [expected]
    assert (rows[0]["pfn"], rows[0]["order"], rows[0]["event"]) == (0x66B0, 2, "mm_page_free")
    assert health.not_understood == health.broken == 0


def test_a_task_that_is_known_is_the_same_again(read):
    """
    The front of a line is looked at once for each task: the second time must give what the first one gave.
    """
    fronts = [front for front, _ in FRONTS]
    once, _ = read(HEAD + "".join(front + FREE + "\n" for front in fronts))
    twice, _ = read(HEAD + "".join(front + FREE + "\n" for front in fronts * 3))
    names = ("comm", "pid", "cpu", "ts_ns")
    assert [[row[name] for name in names] for row in twice] == [[row[name] for name in names] for row in once] * 3


FIELDS = [
    (
        "mm_page_alloc: page=00000000aa4fb823 pfn=0x66b0 order=3 migratetype=1 gfp_flags=GFP_NOFS|__GFP_MOVABLE",
        {"pfn": 0x66B0, "order": 3, "migratetype": 1, "gfp_flags": 0xC48},
    ),
    (
        "mm_page_alloc: page=00000000aa4fb823 pfn=26288 order=0 migratetype=0 gfp_flags=GFP_KERNEL|0x8000000",
        {"pfn": 26288, "order": 0, "migratetype": 0, "gfp_flags": 0x8000CC0},
    ),
    (
        "mm_page_alloc: order=1 gfp_flags=0 nid=3 migratetype=2 pfn=0xffffffff page=00000000aa4fb823",
        {"pfn": 0xFFFFFFFF, "order": 1, "migratetype": 2, "gfp_flags": 0},
    ),
    (
        "mm_page_alloc: page=0000000000000000 pfn=0x0 order=9 migratetype=1 gfp_flags=none",
        {"pfn": -1, "order": 9, "migratetype": 1, "gfp_flags": 0},
    ),
    ("mm_page_alloc: page=(nil) pfn=0x0 order=9 migratetype=1", {"pfn": -1, "order": 9, "migratetype": 1}),
    ("mm_page_free: page=0x0 pfn=0x0 order=0", {"pfn": -1, "order": 0}),
    ("mm_page_free: page=0000000000000001 pfn=0x0 order=0", {"pfn": 0, "order": 0}),
    ("mm_page_free_batched: page=000000006e00f5fb pfn=0x2fca order=0", {"pfn": 0x2FCA}),
    (
        "mm_page_alloc_zone_locked: page=0000000088c pfn=0x8a order=0 migratetype=1 percpu_refill=1",
        {"pfn": 0x8A, "order": 0, "migratetype": 1, "percpu_refill": 1},
    ),
    (
        "mm_page_pcpu_drain: page=00000000e92 pfn=0x1df48 order=0 migratetype=1",
        {"pfn": 0x1DF48, "order": 0, "migratetype": 1},
    ),
    (
        "mm_page_alloc_extfrag: page=00000000e pfn=0x11c00 alloc_order=2 fallback_order=10 pageblock_order=9 "
        "alloc_migratetype=0 fallback_migratetype=1 fragmenting=0 change_ownership=1",
        {
            "pfn": 0x11C00,
            "order": 2,
            "fallback_order": 10,
            "migratetype": 0,
            "fallback_migratetype": 1,
            "change_ownership": 1,
        },
    ),
    ("tracing_mark_write: exits:release now", {"marker": "exits:release now"}),
    ("print: tracing_mark_write: SNAP0", {"marker": "SNAP0"}),
    ("contention_begin: 00000000f00dcafe (flags=SPIN|WRITE)", {"lock_addr": 0xF00DCAFE, "lock_flags": 5}),
    ("contention_end: 0xffff888012345678 (ret=-4)", {"lock_addr": 0xFFFF888012345678 - (1 << 64), "ret": -4}),
    ("mm_vmscan_kswapd_wake: nid=1 order=4", {"nid": 1, "order": 4}),
    ("mm_vmscan_kswapd_sleep: nid=0", {"nid": 0}),
    ("mm_vmscan_wakeup_kswapd: nid=0 order=0 gfp_flags=GFP_ATOMIC", {"nid": 0, "order": 0, "gfp_flags": 0x820}),
    ("mm_vmscan_direct_reclaim_begin: order=0 gfp_flags=GFP_KERNEL", {"order": 0, "gfp_flags": 0xCC0}),
    ("mm_vmscan_direct_reclaim_end: nr_reclaimed=35", {"nr": 35}),
    (
        "mm_compaction_begin: zone_start=0x1000 migrate_pfn=0x1000 free_pfn=0x7ffe00 zone_end=0x7ffe0, mode=async",
        {"pfn": 0x1000},
    ),
    ("cma_alloc_start: name=reserved count=16 align=4", {"nr": 16}),
    (
        "cma_alloc_finish: name=reserved pfn=0x100 page=00000000aa count=16 align=4 errorno=-12",
        {"pfn": 0x100, "nr": 16, "ret": -12},
    ),
    ("cma_release: name=a b pfn=0x100 page=00000000aa count=16", {"pfn": 0x100, "nr": 16}),
    ("test_pages_isolated: start_pfn=0x100 end_pfn=0x300 fin_pfn=0x300 ret=success", {"pfn": 0x100}),
    ("mm_migrate_pages: nr_succeeded=12 nr_failed=0 mode=MIGRATE_SYNC reason=compaction", {"nr": 12}),
    ("mark_victim: pid=55", {}),
    (
        "pcp_free: (free_frozen_page_commit+0x0/0x20) page=1 mt=1 order=0 fpi=0 zflags=0 count=768 high=1802 pflags=2",
        {"migratetype": 1, "order": 0, "fpi": 0, "zflags": 0, "count": 768, "high": 1802, "pflags": 2},
    ),
]


@pytest.mark.parametrize(("rest", "expected"), FIELDS)
@pytest.mark.parametrize("ending", ["", "\r", " "])
def test_fields_are_found_by_name(read, rest, expected, ending):
    rows, _ = read(HEAD + text_line("init", 1, 2, 10**9, rest + ending))
    common = {"ts_ns", "cpu_seq", "cpu", "pid", "comm", "event", "irq_flags", "preempt_count"}
    found = {name: value for name, value in rows[0].items() if name not in common}
    if ending == " " and "marker" in expected:
        expected = {"marker": expected["marker"] + " "}
    assert found == expected


def test_fields_in_changing_orders(read):
    """
    The order of the line before is only expected, never taken for granted.
    """
    parts = ["pfn=0x10", "order=1", "migratetype=2", "gfp_flags=GFP_NOIO", "extra=7", "page=00000000aa4fb823"]
    lines = [
        text_line("init", 1, 0, i * 1000, "mm_page_alloc: " + " ".join(one))
        for i, one in enumerate(itertools.permutations(parts))
    ]
    rows, health = read(HEAD + "".join(lines))
    assert len(rows) == 720
    assert {(row["pfn"], row["order"], row["migratetype"], row["gfp_flags"]) for row in rows} == {(0x10, 1, 2, 0xC00)}
    assert health.broken == 0


@pytest.mark.parametrize(
    ("kernel", "words", "number"),
    [
        ("5.10", "GFP_ATOMIC", 0xA20),
        ("6.2", "GFP_ATOMIC|__GFP_ZERO", 0xB20),
        ("6.3.0-1-amd64", "GFP_ATOMIC", 0x820),
        (None, "GFP_ATOMIC", 0x820),
        ("5.15", "__GFP_HIGH|__GFP_ATOMIC", 0x220),
        ("6.6", "GFP_NOWAIT", 0x800),
        ("6.7", "GFP_NOWAIT", 0x2800),
        ("5.10", "GFP_HIGHUSER_MOVABLE|__GFP_ZERO|__GFP_COMP", 0x140DCA),
        ("7.3", "GFP_TRANSHUGE_LIGHT", 0x1C20CA),
        ("5.15", "GFP_KERNEL|__GFP_ZEROTAGS", 0x800CC0),
        ("5.15", "GFP_KERNEL|__GFP_SKIP_KASAN_POISON", 0x1000CC0),
        ("6.1", "GFP_KERNEL|__GFP_SKIP_KASAN_POISON", 0x4000CC0),
    ],
)
def test_names_of_flags_by_kernel(read, kernel, words, number):
    line = text_line("init", 1, 0, 1000, f"mm_page_alloc: page=00a pfn=0x1 order=0 migratetype=0 gfp_flags={words}")
    rows, health = read(HEAD + line, kernel=kernel)
    assert rows[0]["gfp_flags"] == number
    assert health.unknown_flags == {}
    assert bool(health.notes) == (kernel is None)


def test_unknown_names_of_flags_are_counted_and_shown(read):
    line = "mm_page_alloc: page=00a pfn=0x1 order=0 migratetype=0 gfp_flags=GFP_KERNEL|__GFP_NEW\x1b|__GFP_ATOMIC"
    rows, health = read(HEAD + text_line("init", 1, 0, 1000, line) * 3, kernel="7.3")
    assert {row["gfp_flags"] for row in rows} == {0xCC0}
    assert health.unknown_flags == {"__GFP_ATOMIC": 1, "__GFP_NEW\\x1b": 1}


def test_a_kernel_that_cannot_be(read):
    with pytest.raises(UsageError, match="expected a release such as"):
        read(HEAD + text_line("init", 1, 0, 1000, FREE), kernel="new")
    rows, health = read("# os release : a kernel of my own\n" + perf_line("sh", 5, 1, 1000, FREE))
    assert (len(rows), len(health.notes)) == (1, 1), "what stands in the file is not the caller's mistake"


def test_trace_pipe_begins_anywhere(read):
    line = text_line("sh", 5, 1, 1000, FREE)
    rows, health = read(line[30:] + line * 2)
    assert (len(rows), health.not_understood, health.odd[0].place) == (2, 1, 1)


def test_parts_of_a_line_that_another_line_taught(read):
    """
    What was expected from the line before is never taken from it.
    """
    alloc = "mm_page_alloc: page=00000000aa pfn=0x{:x} order={} migratetype=1 gfp_flags={}"
    made = [
        (0x1, 0, "GFP_NOIO"),
        (0xFFFFFFFF, 10, "GFP_NOIO|__GFP_ZERO"),
        (0x123456789A, 3, "GFP_NO"),
        (0x10, 0, "GFP_NOIO"),
    ]
    rows, health = read(HEAD + "".join(text_line("a", 1, 0, 10, alloc.format(*one)) for one in made * 3))
    assert [(row["pfn"], row["order"], row["gfp_flags"]) for row in rows] == [
        (0x1, 0, 0xC00), (0xFFFFFFFF, 10, 0xD00), (0x123456789A, 3, 0), (0x10, 0, 0xC00)
    ] * 3  # fmt: skip
    assert health.unknown_flags == {"GFP_NO": 1}


@settings(max_examples=300, deadline=None)
@given(st.integers(0, (1 << 64) - 1), st.sampled_from("xX"), st.booleans())
def test_hexadecimal_numbers_of_all_lengths(number, case, padded):
    text = f"{number:016x}" if padded else f"{number:x}"
    line = f"mm_page_free: page=00a pfn=0x{text.upper() if case == 'X' else text} order=0\n"
    rows, *_ = parse((HEAD + text_line("a", 1, 0, 10, line[:-1])).encode(), 1 << 12, 1 << 12, 4)
    assert rows[0][EVENT.names.index("pfn")] == number - (1 << 64 if number >> 63 else 0)


@settings(max_examples=300, deadline=None)
@given(st.text("0123456789abcdefgABCDEFG:;@`/GX-,) ", min_size=1, max_size=9))
def test_what_is_no_number(text):
    rows, odd, *_ = parse(
        (HEAD + text_line("a", 1, 0, 10, f"mm_page_free: order=0 pfn=0x{text}")).encode(), 1 << 12, 1 << 12, 4
    )
    digits = text.split(" ")[0].split(",")[0].split(")")[0]
    if digits and all(one in "0123456789abcdefABCDEF" for one in digits):
        assert rows[0][EVENT.names.index("pfn")] == int(digits, 16)
    else:
        assert (rows, odd[-1][1]) == ([], 1)


def test_lost_events_are_counted_located_and_skipped_in_the_numbers(read):
    line = text_line("init", 1, 2, 1000, FREE)
    text = (
        HEAD + line + "CPU:2 [LOST 123 EVENTS]\n" + line + "CPU:2 [LOST EVENTS]\n" + line + "CPU:3 [9 EVENTS DROPPED]\n"
    )
    rows, health = read(text)
    assert [row["cpu_seq"] for row in rows] == [0, 124, 126]
    assert [(loss.cpu, loss.events, loss.place) for loss in health.losses] == [(2, 123, 4), (2, None, 6), (3, 9, 8)]
    assert (health.lost, health.gaps) == (132, 1)
    assert health.incomplete == "132 events lost, 1 gaps of unknown size"


def test_losses_of_perf(read):
    line = perf_line("sh", 5, 1, 1000, FREE)
    rows, health = read(line + "      sh     5 [001]     0.000002: PERF_RECORD_LOST lost 7\n" + line)
    assert [row["cpu_seq"] for row in rows] == [0, 8]
    assert health.lost == 7


def test_what_the_head_says_was_overwritten(read):
    _, health = read(
        "# tracer: nop\n# entries-in-buffer/entries-written: 1/501   #P:4\n" + text_line("a", 1, 0, 5, FREE)
    )
    assert health.overwritten == {-1: 500}
    assert health.lost == 500


def test_time_going_back_and_ties(read):
    times = [(0, 5000), (1, 5000), (0, 5000), (0, 9000), (1, 7000), (0, 8000)]
    rows, health = read(HEAD + "".join(text_line("a", 1, cpu, ns, FREE) for cpu, ns in times))
    assert [row["ts_ns"] for row in rows] == [ns for _, ns in times], "rows stay in the order of the file"
    assert (health.back, health.back_at, health.ties) == (1, 7, 2)
    assert [cpu.back for cpu in health.cpus] == [1, 0]
    assert health.starts_apart_ns == 0


def test_a_last_line_that_was_cut_off_is_not_taken(read):
    line = text_line("a", 1, 0, 5000, FREE)
    rows, health = read(HEAD + line + line[:-2])
    assert len(rows) == 1
    assert health.truncated.place == 4
    assert "pfn=0x66b0" in health.truncated.what
    assert health.incomplete == "cut off at the end"


def test_unknown_events_are_counted_by_name_and_located(read):
    lines = [FREE, "sched_switch: prev_comm=a prev_pid=1", FREE, "sched_switch: prev_comm=b", "sys_read(fd: 3)"]
    rows, health = read(HEAD + "".join(text_line("a", 1, 0, 5000, one) for one in lines))
    assert [row["cpu_seq"] for row in rows] == [0, 1]
    assert health.unknown_events == {"sched_switch": (2, 4)}
    assert (health.not_understood, health.odd[0].place) == (1, 7)


@pytest.mark.parametrize(
    "rest",
    [
        "mm_page_free: page=00a order=2",
        "mm_page_free: page=00a pfn=zzz order=2",
        "mm_page_alloc: pfn=0x1",
        "mm_page_free:",
    ],
)
def test_an_event_without_what_it_must_have_is_no_row(read, rest):
    rows, health = read(HEAD + text_line("a", 1, 0, 5000, FREE) + text_line("a", 1, 0, 5000, rest))
    assert (len(rows), health.broken, health.odd[0].place) == (1, 1, 4)
    assert health.incomplete == "1 broken events"


def test_lines_that_are_no_events(read):
    noise = "garbage\n[ 12.3] oops\nx-1 [000\nx-1 [000] .....\n-5 [001] ..... 1.000000: a: b\n\n\x00\xff\n"
    rows, health = read(HEAD + noise + text_line("a", 1, 0, 5000, FREE))
    assert len(rows) == 1
    assert health.not_understood == 5
    assert health.unknown_events == {"a": (1, 7)}
    assert all(" " <= one <= "~" for odd in health.odd for one in odd.what)


def test_numbers_that_no_column_can_hold(read):
    rows, health = read(HEAD + text_line("a", 1, 0, 5000, "mm_page_free: page=00a pfn=0x1 order=99999999999"))
    assert "order" not in rows[0]
    assert health.out_of_range == 1


def test_a_marker_of_more_than_a_kernel_takes_is_cut(read):
    rows, health = read(HEAD + text_line("a", 1, 0, 5000, "tracing_mark_write: " + "x" * 4096) * 2)
    assert ([len(row["marker"]) for row in rows], health.out_of_range) == ([4096, 4096], 0)
    rows, health = read(HEAD + text_line("a", 1, 0, 5000, "tracing_mark_write: " + "x" * 4097) * 2)
    assert ([len(row["marker"]) for row in rows], health.out_of_range) == ([4096, 4096], 2)


def test_call_chains_of_perf_are_passed_over(read):
    chain = "\tffffffff8123 __alloc_pages+0x1 ([kernel.kallsyms])\n\t    7f1 main (/bin/sh)\n\n"
    text = "# ========\n# os release : 5.15.0-91-generic\n# ========\n#\n"
    line = perf_line("sh", 5, 1, 1000, "mm_page_alloc: page=0x1 pfn=0x5 order=0 migratetype=1 gfp_flags=GFP_ATOMIC")
    rows, health = read(text + (line + chain) * 2)
    assert [row["gfp_flags"] for row in rows] == [0xA20, 0xA20]
    assert health.not_understood == 0


def test_perf_begins_with_lines_without_a_name_before_the_number(read):
    rows, _ = read(perf_line("my prog", 5, 1, 1500, FREE) + perf_line(":-1", 77, 0, 2500, FREE))
    assert [(row["comm"], row["pid"], row["ts_ns"]) for row in rows] == [("my prog", 5, 1000), (":-1", 77, 2000)]


def parse(text, capacity, step, batch):
    """
    Through a parser with a small buffer, read in small steps, into small batches.
    """
    odd, rows = [], np.zeros(batch, EVENT)
    parser = TextParser(_specs(), gfp.Words(), lambda *one: odd.append(one), capacity)
    file, filled, found = io.BytesIO(text), 0, []
    while True:
        window = parser.window()
        got = file.readinto(memoryview(window)[: min(step, len(window))])
        parser.filled(got)
        while (filled := parser.fill(rows.view(np.uint8), filled)) == batch:
            found += _plain(rows, *parser.tally.take_texts())
            filled = 0
        if not got:
            break
    found += _plain(rows[:filled], *parser.tally.take_texts())
    return found, [(line, kind) for line, _, kind in odd], parser.left(), parser.lines


def _plain(rows, comms, markers):
    texts = {"comm": comms, "marker": markers}
    return [
        tuple(texts[name][row[name]] if name in texts and row[name] >= 0 else int(row[name]) for name in EVENT.names)
        for row in rows
    ]


MIXED = (
    HEAD
    + "".join(front + rest + "\n" for (front, _), (rest, _) in itertools.product(FRONTS[:3], FIELDS))
    + "CPU:1 [LOST 5 EVENTS]\nnoise\n"
    + text_line("b", 2, 1, 77000, FREE)
    + "cut of"
).encode()


@settings(max_examples=60, deadline=None)
@given(st.integers(400, 2000), st.integers(1, 700), st.integers(1, 40))
def test_where_blocks_end_changes_nothing(capacity, step, batch):
    assert parse(MIXED, capacity, step, batch) == parse(MIXED, 1 << 16, 1 << 16, 1000)


def test_a_line_longer_than_the_buffer_is_dropped_and_told():
    line = text_line("b", 2, 1, 77000, FREE).encode()
    found, odd, left, lines = parse(line + b"x" * 5000 + b"\n" + line, 500, 500, 10)
    assert len(found) == 2
    assert (odd, left, lines) == ([(2, 0)], b"", 3)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"hello\nworld\n", "none of its first lines"),
        (b"PAR1\0\0", "imported already"),
        (b"\x1f\x8b" + gzip.compress(b"PERFILE2")[2:], "a perf.data in a pipe or packed"),
        (b"\x7fELF\2\1\1\0", "a program"),
        (b"\0" * 100, "is not a trace: it begins with"),
        (b"# nop latency trace v1.1.5 on 6.1\n  bash-1 0d..1. 12us : mm_page_free: pfn=1\n", "latency-format"),
        (b"\x1f\x8b\x08\0rubbish", "gzip is cut off or damaged"),
        (b"\xfd7zXZ\0rubbish", "xz is cut off or damaged"),
        (b"\x28\xb5\x2f\xfdrubbish", "zstd is cut off or damaged"),
    ],
)
def test_what_is_no_trace_is_refused_in_one_sentence(tmp_path, content, said):
    path = tmp_path / "odd\x1b[name"
    path.write_bytes(content)
    with pytest.raises(TraceError, match=said) as caught, open_trace(path) as trace:
        list(trace.batches())
    text = str(caught.value)
    assert text.startswith("odd\\x1b[name")
    assert "\n" not in text
    assert text.isprintable()
