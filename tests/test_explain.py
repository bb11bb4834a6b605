"""
``pcpbuddy explain``: the followed life of a page against the snapshots, the rows and made-up cases; text and JSON.

What a page merged with is not in the rows, so the proof is the end: every page must be where snapshot 1 has it, in a
chunk of the same order. Damage is done to copies.
"""

import collections
import json
import re
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_compare_cli import GOLDEN, golden, process, run
from test_recording import PARTS, SHIPPED, edit_document, needs_oracle, oracle, part, tiny  # noqa: F401

import pcpbuddy
from pcpbuddy.errors import RecordingError, UsageError
from pcpbuddy.names import gfp_text
from pcpbuddy.recording import life
from pcpbuddy.report.life import WIDTH, text

CUTS = ("affinity-cut-4c", "exits-cut-4c", "cma-cut-4c", "mixed-cut-4c")
STANDARD = {
    "mm_page_alloc",
    "mm_page_free",
    "mm_page_free_batched",
    "mm_page_alloc_zone_locked",
    "mm_page_pcpu_drain",
    "mm_page_alloc_extfrag",
    "print",
}
PLAIN_COLUMNS = (
    *("ts_ns", "cpu", "cpu_seq", "event", "pfn", "order", "migratetype", "gfp_flags", "percpu_refill"),
    *("fallback_order", "fallback_migratetype", "change_ownership", "marker", "phase"),
)
PAGE_STATES = {0: "hole", 1: "reserved", 2: "zone", 3: "pcp", 4: "allocated", 5: "allocated"}


def explain(base, pfn, **options):
    return life.explain(base.with_name(base.name + ".parquet"), pfn, **options)


def neighbourhoods(base):
    """
    First pages of the aligned 1024 pages that rows name.
    """
    pfns = np.array([pfn for pfn in pq.read_table(part(base, ".parquet"))["pfn"].to_pylist() if pfn and pfn > 0])
    return (np.unique(pfns // 1024) * 1024).tolist()


@pytest.fixture
def sweep(monkeypatch):
    """
    Many pages of a few recordings: whether snapshots are whole is not proved again for each (test_recording.py), and
    tasks go without names.
    """
    monkeypatch.setattr(life.snapshot, "verify", lambda snap: None)
    monkeypatch.setattr(life, "_name_tasks", lambda rows, steps, batch: None)


def flat(words):
    return " ".join(words.split())


# The end against snapshot 1, read here without the package.


def snapshot_heads(base, first):
    """
    For 1024 pages: state, and the (head, order) of the chunk, PCP entry or compound page at snapshot 1.
    """
    with np.load(part(base, ".snap1.npz")) as archive:
        states = archive["page_state"][first : first + 1024].tolist()
        orders = archive["page_order"][first : first + 1024].tolist()
    heads, at = [], 0
    while at < len(states):
        size = 1 << orders[at] if states[at] in (2, 3, 4) else 1
        heads += [(PAGE_STATES[states[at]], first + at, orders[at])] * size
        at += size
    return heads


def assert_ends_at_snapshot_1(base, followed):
    """
    All pages of the neighbourhood; an allocation that is not a compound page shows page by page in a snapshot.
    """
    truth = snapshot_heads(base, followed.base)
    assert {place.kind for place in followed.places[len(truth) :]} <= {"hole"}
    for offset, (place, (kind, head, order)) in enumerate(zip(followed.places, truth, strict=False)):
        pfn = followed.base + offset
        assert place.kind == kind, pfn
        if kind in ("zone", "pcp") or (kind == "allocated" and order):
            assert (place.head, place.order) == (head, order), pfn
    return len(truth)


def test_pages_asked_for_one_by_one(sweep):
    """
    Of a block of kernel pages and one of user pages, each page by itself, as a user asks for it.
    """
    base = SHIPPED / "tiny-4c"
    told, spans = collections.Counter(), set()
    for first in (24576, 523264):
        truth = snapshot_heads(base, first & -1024)
        for pfn in range(first + 3, first + 512, 17):
            followed = explain(base, pfn)
            kind, head, order = truth[pfn % 1024]
            assert followed.agrees is True
            assert followed.followed.kind == kind == followed.end["kind"], pfn
            if kind in ("zone", "pcp"):
                assert (followed.followed.head, followed.followed.order) == (head, order), pfn
                assert (followed.end["head"], followed.end["order"]) == (head, order), pfn
            spans.add(sum(followed.times.values()))
            told.update(step.kind for step in followed.steps)
    assert len(spans) == 1
    assert min(told[kind] for kind in ("taken", "allocated", "freed", "drained", "chunk")) > 15, told


def test_every_page_of_every_block_that_tiny_touches(sweep):
    base = SHIPPED / "tiny-4c"
    checked = 0
    for first in neighbourhoods(base):
        followed = explain(base, max(first, 1) + 5)
        checked += assert_ends_at_snapshot_1(base, followed)
        assert followed.misfits == 0
        assert followed.neighbours == {"agree": 1024, "differ": 0, "not_known": 0}
        assert followed.lost == {"rows": 0, "places": 0}
    assert checked == 19 * 1024 - 35  # memory ends at page 524252


@pytest.mark.parametrize("name", CUTS)
def test_pages_of_the_cuts(sweep, name):
    base = SHIPPED / name
    for first in neighbourhoods(base)[1::9]:
        followed = explain(base, first + 77)
        assert_ends_at_snapshot_1(base, followed)
        assert followed.misfits == 0
        assert followed.end_derived


@needs_oracle
@pytest.mark.parametrize("name", ["mixed-4c", "exits-4c", "cma-4c", "affinity-4c"])
def test_pages_of_whole_recordings(sweep, name):
    base = oracle() / name
    for first in neighbourhoods(base)[2::40]:
        followed = explain(base, first + 500)
        assert_ends_at_snapshot_1(base, followed)
        assert followed.misfits == 0


@needs_oracle
@pytest.mark.parametrize(("name", "joined"), [("affinity-plain-4c", 26388), ("exits-plain-4c", 27804)])
def test_plain_recordings(sweep, name, joined):
    """
    All agree, but those that contiguous frees joined: of these it cannot be said.
    """
    base = oracle() / name
    for first in neighbourhoods(base)[3::20]:
        followed = explain(base, first + 3)
        assert followed.neighbours["differ"] == 0
        assert followed.misfits == 0
        assert not followed.probes
    followed = explain(base, joined)
    assert followed.agrees is None
    assert followed.neighbours["differ"] == 0
    words = flat(text(followed))
    assert (
        "unless it was freed as one with its neighbours: then within a larger entry, which no row shows (R5)" in words
    )
    assert "can neither confirm nor refute" in words


# Steps against rows, counted apart.


def covering(rows, event, pfn):
    return [
        number
        for number, (name, head, order, phase) in enumerate(rows)
        if name == event and phase == 1 and head is not None and head <= pfn < head + (1 << (order or 0))
    ]


@pytest.mark.parametrize("name", ["tiny-4c", "mixed-cut-4c"])
def test_every_row_of_the_page_is_told_once(sweep, name):
    base = SHIPPED / name
    table = pq.read_table(part(base, ".parquet"))
    rows = list(zip(*(table[column].to_pylist() for column in ("event", "pfn", "order", "phase")), strict=True))
    rng = np.random.default_rng(7)
    heads = sorted({head for event, head, _, phase in rows if event == "pcp_alloc" and phase == 1 and head > 0})
    for pfn in (rng.choice(heads, 12) + rng.integers(0, 2, 12)).tolist():
        followed = explain(base, pfn)
        told = collections.Counter(number for step in followed.steps for number in step.rows)
        for event in ("mm_page_alloc_zone_locked", "pcp_alloc", "mm_page_alloc", "mm_page_free", "pcp_free"):
            for number in covering(rows, event, pfn):
                assert told[number] == 1, (pfn, number, event)
        drained = [step.rows[0] for step in followed.steps if step.kind == "drained"]
        assert drained == covering(rows, "mm_page_pcpu_drain", pfn)
        assert followed.summary()["allocated"] == len(covering(rows, "mm_page_alloc", pfn))
        assert followed.summary()["freed"] == len(covering(rows, "mm_page_free", pfn))
        starts = [step.rows[0] for step in followed.steps]
        assert starts == sorted(starts)
        assert all(
            step.t_ns == table["ts_ns"][step.rows[0]].as_py() - table["ts_ns"][0].as_py() for step in followed.steps
        )


def test_steps_of_a_life_say_what_the_rows_say():
    """
    One page of tiny-4c, by hand: drained by decay, taken by CPU 2, freed on CPU 0, drained by a free.
    """
    followed = explain(SHIPPED / "tiny-4c", 523600)
    assert followed.start == {
        "kind": "pcp",
        "head": 523600,
        "order": 0,
        "cpu": 0,
        "index": 1,
        "block_type": 1,
        "position": 621,
        "of": 638,
    }
    steps = [step for step in followed.steps if step.kind != "chunk"]
    assert [(step.kind, step.cpu, step.rows[0]) for step in steps] == [
        ("drained", 0, 646),
        ("taken", 2, 4391),
        ("allocated", 2, 4680),
        ("freed", 0, 10703),
        ("drained", 0, 11556),
    ]
    drained, taken, allocated, freed, again = (step.facts for step in steps)
    assert (
        drained["why"] | {"asked": 63, "count": 1347, "high": 1233, "reason": "decay", "reason_row": 599}
        == drained["why"]
    )
    assert drained["merged"] == {"head": 523600, "order": 0, "steps": 0, "exact": True}
    assert taken["refill"] == {"into": "pcp", "nth": 38, "of": 252}
    assert taken["source"] == {"kind": "zone", "head": 523600, "order": 4}
    assert gfp_text(allocated["gfp_flags"]) == "GFP_HIGHUSER_MOVABLE|__GFP_ZERO|__GFP_COMP"
    assert (freed["allocated_on"], freed["pcp_cpu"], freed["batched"]) == (2, 0, True)
    assert (again["why"]["reason"], again["why"]["limit"], again["why"]["pfn"]) == ("free", "high", 26065)
    sums = followed.summary()
    assert (sums["freed_on_another_cpu"], sums["freed_both_known"]) == (1, 1)
    assert sum(sums["time_share"].values()) == pytest.approx(1)
    orders = [step.facts["after"]["order"] for step in followed.steps if step.kind == "chunk"]
    assert orders == [1, 2, 3, 5, 7, 6, 4, 1, 2, 3, 5, 6]


def test_a_page_inside_a_larger_allocation():
    """
    A huge page of mixed: the page is 24 behind the head in each step.
    """
    followed = explain(SHIPPED / "mixed-cut-4c", 75800)
    kinds = [step.kind for step in followed.steps if step.kind != "chunk"]
    assert kinds[:4] == ["taken", "allocated", "freed", "drained"]
    for step in followed.steps[:4]:
        assert (step.facts["head"], step.facts["order"]) == (75776, 9)
    assert "order 9 at 75776 (this is page +24)" in flat(text(followed))


def test_batches_do_not_matter(sweep):
    for name, pfn in (("tiny-4c", 523600), ("mixed-cut-4c", 75800), ("mixed-cut-4c", 111218)):
        whole, split = (explain(SHIPPED / name, pfn, batch=batch) for batch in (1 << 20, 6000))
        assert split.steps == whole.steps
        assert split.times == whole.times
        assert split.places == whole.places


# Text.


@pytest.mark.parametrize(
    ("name", "pfn"),
    [
        ("tiny-4c", 523600),
        ("tiny-4c", 18566),
        ("tiny-4c", 3),
        ("mixed-cut-4c", 75800),
        ("mixed-cut-4c", 73633),
        ("cma-cut-4c", 150000),
        ("affinity-cut-4c", 27140),
    ],
)
def test_golden_lives(capsys, name, pfn):
    code, out, err = run(capsys, "explain", SHIPPED / name, "--pfn", pfn, "-q")
    assert (code, err) == (0, "")
    golden(f"explain-{name}-{pfn}.txt", out)
    assert max(map(len, out.splitlines())) <= WIDTH
    assert out.isascii()


def test_every_golden_file_has_a_test():
    names = {path.name for path in GOLDEN.glob("explain-*.txt")}
    assert len(names) == 7


@needs_oracle
def test_tasks_are_named_where_they_were_recorded(capsys):
    _, with_tasks, _ = run(capsys, "explain", oracle() / "tiny-4c", "--pfn", 523600, "-q")
    assert "affinity/176" in with_tasks
    assert "kworker/0:1/11" in with_tasks
    _, cut, _ = run(capsys, "explain", SHIPPED / "affinity-cut-4c", "--pfn", 27140, "-q")
    assert "task" not in cut
    _, interrupted, _ = run(capsys, "explain", oracle() / "exits-4c", "--pfn", 30734, "-q")
    assert "[in a softirq]" in interrupted
    assert "most likely the PCP's lock was held" in flat(interrupted)


def test_numbers_may_be_hexadecimal(capsys):
    outputs = [run(capsys, "explain", SHIPPED / "tiny-4c", "--pfn", n, "-q")[1] for n in ("18566", "0x4886", "0X4886")]
    assert len(set(outputs)) == 1


# JSON.


def test_json(capsys):
    code, out, err = run(capsys, "explain", SHIPPED / "tiny-4c.parquet", "--pfn", 523600, "--json", "-", "-q")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert list(document) == ["schema", "manifest", "results"]
    assert document["schema"] == "pcpbuddy.explain/1"
    assert document["manifest"]["source"] == "tiny-4c"
    assert document["manifest"]["version"] == pcpbuddy.__version__
    assert re.fullmatch("[0-9a-f]{64}", document["manifest"]["source_sha256"])
    results = document["results"]
    assert results["pfn"] == 523600
    assert results["zone"]["name"] == "DMA32"
    assert results["neighbourhood"] == [523264, 524287]
    assert results["agrees"] is True
    assert results["summary"]["allocated_by_cpu"] == {"2": 1}
    assert results["end"]["order"] == results["followed_to"]["order"] == 6
    kinds = {step["kind"] for step in results["steps"]}
    assert kinds == {"taken", "allocated", "freed", "drained", "chunk"}
    assert str(SHIPPED) not in out


def test_the_same_input_gives_the_same_bytes():
    outputs = {process("explain", SHIPPED / "tiny-4c", "--pfn", 18566, "--json", "-").stdout for _ in range(2)}
    assert len(outputs) == 1


# Exit codes, stdout and stderr.


def test_a_page_that_nothing_happens_to_is_an_answer(capsys):
    code, out, _ = run(capsys, "explain", SHIPPED / "tiny-4c", "--pfn", 400000, "-q")
    assert code == 0
    assert "no row names it or changes the chunk it is in" in out
    assert "Neither allocated nor freed" in out


@pytest.mark.parametrize("pfn", [0, 524253, 1 << 40, -1])
def test_a_page_outside_every_zone(capsys, pfn):
    code, out, err = run(capsys, "explain", SHIPPED / "tiny-4c", f"--pfn={pfn}")
    assert (code, out) == (2, "")
    assert err == (
        f"pcpbuddy: page {pfn} is in no zone of tiny-4c: the zones are DMA 1 to 4095, DMA32 4096 to 524252; "
        "give a page of one of them\n"
    )


@pytest.mark.parametrize("pfn", ["x", "", "0x", "1.5", "0b1"])
def test_a_page_that_is_no_number(capsys, pfn):
    code, out, err = run(capsys, "explain", SHIPPED / "tiny-4c", "--pfn", pfn)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert "no page frame number" in err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ((SHIPPED / "tiny-4c",), "--pfn"),
        (("--pfn", "1"), "FILE"),
        (("nowhere/nothing", "--pfn", "1"), "nothing"),
        ((SHIPPED / "README.md", "--pfn", "1"), "is not a recording"),
        ((SHIPPED / "tiny-4c", "--pfn", "1", "--json", "out.json"), "--json"),
    ],
)
def test_bad_input(capsys, argv, words):
    code, out, err = run(capsys, "explain", *argv)
    assert (code, out) == (2, "")
    assert words in err.splitlines()[-1]


def test_progress_goes_to_stderr(capsys):
    _, out, err = run(capsys, "explain", SHIPPED / "tiny-4c", "--pfn", 18566)
    assert re.fullmatch(r"tiny-4c: 13387 rows read in \d+\.\d s\n", err)
    assert out.startswith("page 18566 (0x4886): zone DMA32")


def test_help_has_an_example(capsys):
    code, out, _ = run(capsys, "explain", "--help")
    assert code == 0
    assert "pcpbuddy explain recordings/tiny-4c.parquet --pfn 18566" in out


# Less is known: no snapshots, standard tracepoints only, lost rows.


def remove_snapshot(base, which):
    for ending in (".json.zst", ".npz"):
        part(base, f".snap{which}{ending}").unlink()


def keep_rows(base, keep):
    table = pq.read_table(part(base, ".parquet"))
    pq.write_table(table.filter(pa.array(keep)), part(base, ".parquet"))


def test_without_snapshot_0(tiny):  # noqa: F811
    remove_snapshot(tiny, 0)
    followed = explain(tiny, 523600)
    words = flat(text(followed))
    assert "no snapshot 0: where it was is not known" in words
    assert "its next buddy's state is not known" in words
    assert "There is no snapshot 0" in words
    assert followed.neighbours["differ"] == 0
    assert followed.misfits == 0
    # What became known on the way is as it was with the snapshot.
    assert [step.kind for step in followed.steps if step.kind != "chunk"] == [
        "drained",
        "taken",
        "allocated",
        "freed",
        "drained",
    ]


def test_without_snapshot_0_nothing_is_guessed(sweep, tiny):  # noqa: F811
    """
    Over all of tiny: a page is where snapshot 1 has it, or it is said that it is not known.
    """
    remove_snapshot(tiny, 0)
    sums = collections.Counter()
    for first in neighbourhoods(tiny):
        followed = explain(tiny, max(first, 1))
        assert followed.misfits == 0
        sums.update(followed.neighbours)
    assert sums["differ"] == 0
    assert sums["agree"] > 1000
    assert sums["not_known"] > 10000


def test_without_any_snapshot(tiny, capsys):  # noqa: F811
    remove_snapshot(tiny, 0)
    remove_snapshot(tiny, 1)
    code, out, _ = run(capsys, "explain", tiny, "--pfn", 523600, "-q")
    assert code == 0
    words = flat(out)
    assert "zone not known" in words
    assert "There is no snapshot 1 to check that with" in words
    assert run(capsys, "explain", tiny, "--pfn", 5, "-q")[0] == 0
    code, _, err = run(capsys, "explain", tiny, "--pfn=-5", "-q")
    assert code == 2
    assert "a page frame number is 0 or more" in err


def test_without_snapshot_1(tiny):  # noqa: F811
    remove_snapshot(tiny, 1)
    followed = explain(tiny, 523600)
    assert followed.agrees is None
    assert "At the end: free in the zone, page +16 of the chunk of order 6 at 523584." in flat(text(followed))


def make_plain(base):
    """
    Standard tracepoints only, with the rows of each CPU numbered anew.
    """
    table = pq.read_table(part(base, ".parquet"))
    table = table.filter(pa.array([name in STANDARD for name in table["event"].to_pylist()]))
    table = table.select([name for name in PLAIN_COLUMNS if name in table.column_names])
    cpus, phases = np.array(table["cpu"].to_pylist()), np.array(table["phase"].to_pylist())
    numbers = np.zeros(len(cpus), np.int64)
    for cpu in np.unique(cpus):
        numbers[cpus == cpu] = np.arange(np.count_nonzero(cpus == cpu))
    table = table.set_column(table.schema.get_field_index("cpu_seq"), "cpu_seq", pa.array(numbers))
    pq.write_table(table, part(base, ".parquet"))
    for which in (0, 1):

        def renumber(document, which=which):
            for ring in document["ring"]:
                ring["entries"] = int(np.count_nonzero((cpus == ring["cpu"]) & (phases <= which)))

        edit_document(base, renumber, which)


def test_standard_tracepoints_only(sweep, tiny):  # noqa: F811
    """
    The same life; what only probes show is missing or told as likely.
    """
    full = explain(tiny, 523600)
    make_plain(tiny)
    followed = explain(tiny, 523600)
    assert not followed.probes
    assert [(step.kind, step.cpu) for step in followed.steps] == [(step.kind, step.cpu) for step in full.steps]
    assert followed.agrees is True
    words = flat(text(followed))
    assert "Only standard tracepoints were recorded" in words
    assert "why, the rows do not say" in words
    assert "most likely the free of page 26065" in words
    sums = collections.Counter()
    for first in neighbourhoods(tiny):
        around = explain(tiny, max(first, 1))
        assert around.misfits == 0
        sums.update(around.neighbours)
    assert sums["differ"] == 0
    assert sums["not_known"] <= 8  # two thread stacks, joined as they were freed (R5)


EVENTS_OF_TINY = sorted(set(pq.read_table(SHIPPED / "tiny-4c.parquet", columns=["event"])["event"].to_pylist()))


@pytest.mark.parametrize("event", EVENTS_OF_TINY)
def test_rows_of_one_event_lost(tiny, event):  # noqa: F811
    events = pq.read_table(part(tiny, ".parquet"))["event"].to_pylist()
    keep_rows(tiny, [name != event for name in events])
    for pfn in (523600, 18566, 24802, 30053):
        followed = explain(tiny, pfn)
        words = flat(text(followed))
        assert followed.lost["rows"] > 0
        assert "rows are lost" in words
        assert "What they did to the page and its neighbours is not known." in words


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01])
def test_rows_lost_here_and_there(sweep, tiny, share):  # noqa: F811
    rng = np.random.default_rng(11)
    keep_rows(tiny, rng.random(13387) >= share)
    doubted = 0
    for first in neighbourhoods(tiny)[::2]:
        followed = explain(tiny, max(first, 1) + 336)
        words = text(followed)
        assert max(map(len, words.splitlines())) <= WIDTH
        assert "rows are lost" in words
        doubted += followed.misfits
    assert doubted


def test_a_missing_row_is_said_at_the_step_that_shows_it(tiny):  # noqa: F811
    """
    The take of page 523600 is lost: the allocation does not fit, and says which row is missing.
    """
    keep_rows(tiny, [number != 4391 for number in range(13387)])
    followed = explain(tiny, 523600)
    assert followed.lost == {"rows": 1, "places": 1}
    allocated = next(step for step in followed.steps if step.kind == "allocated")
    assert allocated.facts["doubt"] == "no row shows it leaving the zone"
    words = flat(text(followed))
    assert "does not fit: no row shows it leaving the zone" in words
    assert "1 rows are lost here: from here on steps can be missing" in words
    assert "(unless lost rows changed its neighbours)" in words


def test_the_end_is_cut_off(tiny):  # noqa: F811
    keep_rows(tiny, [number < 5000 for number in range(13387)])
    followed = explain(tiny, 523600)
    assert followed.agrees is False
    words = flat(text(followed))
    assert "the rows end here" in words
    assert "Snapshot 1 does not agree: the followed life ends allocated, order 0" not in words
    assert "does not agree: the followed life ends allocated. Rows are lost, which can be why." in words


def test_the_start_is_cut_off(tiny):  # noqa: F811
    keep_rows(tiny, [number >= 5000 for number in range(13387)])
    followed = explain(tiny, 523600)
    freed = next(step for step in followed.steps if step.kind == "freed")
    assert "doubt" in freed.facts
    assert followed.lost["rows"] > 4000


def test_snapshot_of_another_recording(tmp_path):
    for ending in PARTS:
        shutil.copyfile(SHIPPED / f"tiny-4c{ending}", tmp_path / f"x{ending}")
    for ending in PARTS[1:3]:
        shutil.copyfile(SHIPPED / f"mixed-cut-4c{ending}", tmp_path / f"x{ending}")
    with pytest.raises(RecordingError, match="belongs to another recording"):
        explain(tmp_path / "x", 5000)


@pytest.mark.parametrize(
    ("column", "event", "value", "words"),
    [
        ("order", "mm_page_pcpu_drain", 11, "orders are 0 to 10"),
        ("order", "pcp_alloc", None, "no order"),
        ("cpu", "pcp_alloc", 64, "CPUs are 0 to 3"),
        ("phase", "pcp_alloc", None, "no phase"),
        ("cpu_seq", "pcp_alloc", -1, "each CPU counts its rows from 0"),
        ("ts_ns", "pcp_alloc", None, "no ts_ns"),
        ("pfn", "pcp_alloc", 523265, "aligned to its size"),
    ],
)
def test_impossible_rows(tiny, column, event, value, words):  # noqa: F811
    table = pq.read_table(part(tiny, ".parquet"))
    rows = list(zip(table["event"].to_pylist(), table["pfn"].to_pylist(), table["phase"].to_pylist(), strict=True))
    number = next(
        n for n, (name, pfn, phase) in enumerate(rows) if name == event and (pfn or 0) >= 523264 and phase == 1
    )
    values = {name: table[name].to_pylist() for name in (column, "order")}
    values[column][number] = value
    if column == "pfn":
        values["order"][number] = 2
    for name, changed in values.items():
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(changed, pa.int64()))
    pq.write_table(table, part(tiny, ".parquet"))
    with pytest.raises(RecordingError, match=re.escape(words)) as caught:
        explain(tiny, 523600)
    assert f"row {number}" in str(caught.value)


# Cases that the recordings do not have, made up row by row.


def made(tmp_path, *rows, probes=True):
    """
    A recording without snapshots from (event, fields) rows, all of CPU 1 unless they say else.
    """
    columns = ["ts_ns", "cpu", "cpu_seq", "phase", "event", "pfn", "order", "migratetype", "gfp_flags"]
    columns += sorted({name for _, fields in rows for name in fields} - set(columns))
    counts = collections.Counter()
    table = []
    for number, (event, fields) in enumerate(rows):
        cpu = fields.get("cpu", 1)
        table.append(
            {"ts_ns": 1000 * (number + 1), "cpu": cpu, "cpu_seq": counts[cpu], "phase": 1, "event": event} | fields
        )
        counts[cpu] += 1
    arrays = [[row.get(name) for row in table] for name in columns]
    kinds = [pa.string() if name == "event" else pa.int64() for name in columns]
    pq.write_table(pa.table(dict(zip(columns, map(pa.array, arrays, kinds), strict=True))), tmp_path / "made.parquet")
    followed = explain(tmp_path / "made", 1000)
    assert followed.probes == probes
    return followed


def zone_locked(pfn, order=0, T=1, **fields):
    return "mm_page_alloc_zone_locked", {"pfn": pfn, "order": order, "migratetype": T, **fields}


def extfrag(pfn, order, T, have, Tf):
    fields = {"fallback_order": have, "fallback_migratetype": Tf}
    return "mm_page_alloc_extfrag", {"pfn": pfn, "order": order, "migratetype": T, **fields}


def pcp_alloc(pfn, order=0, T=1, event="pcp_alloc"):
    return event, {"pfn": pfn, "order": order, "migratetype": T, "zone": 1, "pcp_cpu": 1}


def mm_page_alloc(pfn, order=0, T=1, gfp=0xCC0, **fields):
    return "mm_page_alloc", {"pfn": pfn, "order": order, "migratetype": T, "gfp_flags": gfp, **fields}


def mm_page_free(pfn, order=0, **fields):
    return "mm_page_free", {"pfn": pfn, "order": order, **fields}


def drain(pfn, order=0, T=1, **fields):
    return "mm_page_pcpu_drain", {"pfn": pfn, "order": order, "migratetype": T, **fields}


def test_made_steal(tmp_path):
    followed = made(
        tmp_path, extfrag(1000, 0, 0, 3, 1), pcp_alloc(1000, T=0), mm_page_alloc(1000, T=0), zone_locked(1004, 2)
    )
    taken = followed.steps[0]
    assert taken.facts["source"] == {"kind": "zone", "head": 1000, "order": 3}
    words = flat(text(followed))
    assert (
        "stolen from the zone's Movable lists, from a chunk of order 3, for a request of type Unmovable (B-48" in words
    )
    # What the steal left over is known: 1004 was a chunk of order 2.
    assert followed.places[1004 % 1024].kind == "pcp"
    assert followed.places[1002 % 1024].order == 1
    assert followed.misfits == 0


def test_made_claim_of_part_of_a_block(tmp_path):
    claim = {"pfn": 992, "order": 0, "migratetype": 0, "fallback_order": 5, "fallback_migratetype": 1}
    followed = made(
        tmp_path,
        ("claim", claim),
        ("set_pageblock", {"pfn": 512, "pbflags": 0}),
        zone_locked(1000, T=0),
        extfrag(1000, 0, 0, 5, 1),
        pcp_alloc(1000, T=0),
    )
    (taken,) = [step for step in followed.steps if step.kind == "taken"]
    assert len(taken.rows) == 2
    assert taken.facts["refill"] == {"into": "pcp", "nth": 1, "of": 1}
    assert "after its pageblock was claimed from Movable (B-46)" in flat(text(followed))


def test_made_claim_of_whole_blocks_in_a_plain_trace(tmp_path):
    followed = made(tmp_path, drain(1000), extfrag(0, 0, 0, 10, 1), mm_page_alloc(0, T=0), probes=False)
    kinds = [step.kind for step in followed.steps]
    assert kinds == ["drained", "retyped", "chunk"]
    assert followed.followed == life.Place(kind="zone", head=512, order=9)
    assert "its pageblock becomes Unmovable, was Movable" in flat(text(followed))


def test_made_bulk(tmp_path):
    followed = made(tmp_path, zone_locked(1000), zone_locked(1001), pcp_alloc(1000, event="pcp_alloc_bulk"))
    words = flat(text(followed))
    assert "to refill CPU 1's PCP (order 0, Movable), 1st of 2" in words
    assert "allocated in bulk: order 0, Movable, GFP flags not shown (B-93)" in words


def test_made_take_past_the_pcp(tmp_path):
    followed = made(
        tmp_path,
        ("pcp_alloc_tryfail", {}),
        zone_locked(1000),
        mm_page_alloc(1000),
        pcp_alloc(2000),
        mm_page_alloc(2000),
    )
    words = flat(text(followed))
    assert "for one request, past the PCP (its lock was held)" in words
    assert "allocated: order 0, Movable, GFP_KERNEL; straight from the zone" in words
    assert followed.misfits == 0


def test_made_refill_or_not_in_a_plain_trace(tmp_path):
    one = made(tmp_path, zone_locked(1000), mm_page_alloc(1000), probes=False)
    assert "rows look the same for a refill of one entry and a take past the PCP (R4)" in flat(text(one))
    two = made(tmp_path, zone_locked(1001), zone_locked(1000), mm_page_alloc(1001), probes=False)
    assert "2nd of 2" in flat(text(two))


def test_made_contiguous_frees_that_a_drain_shows(tmp_path):
    frees = [mm_page_free(1000 + n) for n in range(4)]
    followed = made(tmp_path, mm_page_alloc(1000, 2), *frees, drain(1000, 2), probes=False)
    freed, drained = followed.steps[1:]
    assert freed.facts["entry"] == {"head": 1000, "order": 2}
    assert (drained.kind, drained.facts["order"]) == ("drained", 2)
    assert (
        "freed: one page of the allocation of order 2 at 1000 with its neighbours (contiguous pages, B-94, as later"
        in (flat(text(followed)))
    )
    assert followed.misfits == 0


def test_made_free_of_a_page_allocated_in_bulk_in_a_plain_trace(tmp_path):
    followed = made(tmp_path, zone_locked(1000), zone_locked(1001), mm_page_free(1000), probes=False)
    assert "freed, so it had been allocated unseen (R1)" in flat(text(followed))
    assert followed.summary()["allocated_unseen"] == 1


def test_made_task_that_moved(tmp_path):
    followed = made(tmp_path, zone_locked(1000), pcp_alloc(1000), mm_page_alloc(1000, cpu=3))
    assert "the task had moved to CPU 3 when mm_page_alloc was written (R3)" in flat(text(followed))


def test_made_drain_of_all(tmp_path):
    bulk = {"zone": 1, "pcp_cpu": 2, "nr": 40, "pindex": 0, "count": 40, "high": 100}
    followed = made(
        tmp_path,
        ("drain_zone", {"zone": 1, "pcp_cpu": 2}),
        ("decay", {"zone": 1, "pcp_cpu": 1, "cpu": 3}),
        ("pcp_bulk_free", bulk),
        drain(1000),
    )
    words = flat(text(followed))
    assert (
        "drained from CPU 2's PCP to the zone, Movable: drain_zone (row 0); 40 pages asked, PCP had 40, high 100"
        in words
    )


def test_made_drain_that_a_decay_cut_into(tmp_path):
    """
    Batches of a drain begin at the list of the freed page; a decay in between begins at list 0 (B-82, B-102).
    """
    pcp = {"zone": 1, "pcp_cpu": 1}
    followed = made(
        tmp_path,
        ("pcp_free", {"pfn": 7, "order": 0, "migratetype": 1, "count": 100, "high": 100, **pcp}),
        ("pcp_bulk_free", {"nr": 1, "pindex": 1, **pcp}),
        drain(8),
        ("decay", pcp),
        ("pcp_bulk_free", {"nr": 1, "pindex": 0, **pcp}),
        drain(9),
        ("pcp_bulk_free", {"nr": 1, "pindex": 1, **pcp}),
        drain(1000),
    )
    (drained,) = followed.steps
    assert (drained.facts["why"]["reason"], drained.facts["why"]["reason_row"]) == ("free", 0)


def test_made_isolation(tmp_path):
    """
    An isolated block keeps its chunks from merging across, and is as before afterwards (B-36, B-110, B-111).
    """
    followed = made(
        tmp_path,
        extfrag(0, 9, 1, 10, 0),
        ("block_isolate", {"pfn": 512, "isolate": 1}),
        ("free_one", {"pfn": 0, "order": 9, "fpi": 0}),
        ("buddy_free", {"pfn": 0, "order": 9, "fpi": 0}),
        ("block_isolate", {"pfn": 512, "isolate": 0}),
    )
    assert [step.kind for step in followed.steps] == ["isolated", "unisolated", "chunk"]
    assert followed.followed == life.Place(kind="zone", head=0, order=10)


def test_made_compaction(tmp_path):
    followed = made(
        tmp_path,
        drain(1000),
        ("isolate", {"pfn": 1000, "order": 0, "ret": 1}),
        ("putback", {"pfn": 1000, "order": 0, "migratetype": 1}),
        ("take_buddy", {"pfn": 1000}),
        pcp_alloc(2000),
    )
    assert [step.kind for step in followed.steps] == ["drained", "held", "put_back", "held"]
    assert "allocated to nobody" in flat(text(followed))


def test_a_long_name_of_a_task_keeps_the_columns(tmp_path):
    followed = made(tmp_path, zone_locked(1000), pcp_alloc(1000), mm_page_alloc(1000))
    for step in followed.steps:
        step.pid, step.comm = 4194304, "a-very-long-name-of-a-task\u00e9"
    followed.tasks = True
    words = text(followed)
    assert words.isascii()
    assert max(map(len, words.splitlines())) <= WIDTH
    assert "a-very-long-na/4194304" in words


def test_usage_errors_are_usage_errors():
    with pytest.raises(UsageError):
        explain(SHIPPED / "tiny-4c", 0)
