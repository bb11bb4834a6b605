"""
``pcpbuddy replay``: golden facts of recordings, recordings made by ``fakekernel``, refusals, and what damage may do.

Whole recordings are read where PCPBUDDY_ORACLE names their folder, or ../shared/oracle is there.
"""

import contextlib
import copy
import dataclasses
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import fakekernel
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_recording import PARTS, ROOT, SHIPPED, needs_oracle, oracle

from pcpbuddy import _core, config
from pcpbuddy import replay as replays
from pcpbuddy.cli.main import main
from pcpbuddy.errors import RecordingError, UsageError
from pcpbuddy.recording import difference, files, rows, snapshot
from pcpbuddy.report.replay import report

LONG = bool(os.environ.get("PCPBUDDY_LONG"))
MODES = replays.COMPARING_MODES

# name -> allocations, refills, drains, drained pages, PCP fields compared, frees, inputs taken from the rows
SHIPPED_FACTS = {
    "tiny-4c": (1901, 10, 39, 2077, 3832, 1878, {"R5": 1, "R7": 14}),
    "affinity-cut-4c": (24453, 28, 364, 21554, 46232, 21383, {"R7": 32}),
    "exits-cut-4c": (48286, 42, 2, 126, 56333, 8001, {"R7": 44}),
    "cma-cut-4c": (46726, 41, 2, 126, 46814, 76, {"R7": 16}),
    "mixed-cut-4c": (20040, 890, 727, 18732, 35152, 14743, {"R2": 22, "R5": 801, "R7": 228}),
}
WHOLE_FACTS = {
    "tiny-4c": (1901, 10, 39, 2077, 3832, 1878, {"R5": 1, "R7": 14}),
    "affinity-4c": (76121, 54, 1284, 75805, 153563, 76074, {"R7": 84}),
    "exits-4c": (96529, 77, 794, 49746, 193917, 96530, {"R2": 34, "R5": 4, "R7": 98}),
    "mixed-4c": (54936, 2333, 2667, 62600, 107227, 50839, {"R2": 43, "R5": 1724, "R7": 429}),
}
COUNTED = ("allocs", "refills", "drains", "drained", "fields")
KEYS = (
    *("mode", "allocs", "exact", "exact_share", "refills", "refills_exact", "drains", "drains_exact"),
    *("drained", "drained_exact", "fields", "fields_exact", "first_divergence", "causes", "taken"),
    *("final_state", "recording", "differences", "divergences", "by_order", "by_type", "by_cpu", "metrics"),
)


def examples(n, long=60):
    """
    Settings of a property: the same few examples every time, or many others behind PCPBUDDY_LONG.
    """
    return settings(
        max_examples=long if LONG else n, deadline=None, derandomize=not LONG, suppress_health_check=list(HealthCheck)
    )


@functools.cache
def opened(path):
    """
    A recording, opened and checked once.
    """
    return replays._Opened(path)


@contextlib.contextmanager
def watched():
    """
    The nodes of the replays inside, as they are at the end.
    """
    nodes = []
    collect = replays.metrics.collect

    def watch(node, result):
        nodes.append(node)
        return collect(node, result)

    with mock.patch.object(replays.metrics, "collect", watch):
        yield nodes


def run(recording, mode, until=None):
    """
    One replay of an opened recording: its results. Whatever the rows were, the node's invariants hold at the end.
    """
    with watched() as nodes:
        done = recording.run(mode, config.policy("mainline"), until, None)
    for node in nodes:
        node.check()
    text = json.dumps(done.document(), allow_nan=False)
    assert json.loads(text)["results"]["mode"] == mode
    assert report(done).endswith("\n")
    return done.results


def exact(results):
    """
    Whether everything that was compared is as recorded.
    """
    pairs = [("allocs", "exact"), *((name, f"{name}_exact") for name in COUNTED[1:])]
    return (
        all(results[seen] == results[same] for seen, same in pairs)
        and not any(results["differences"].values())
        and results["first_divergence"] is None
        and results["causes"] == {}
        and results["frees_unknown"] == results["frees_unseen"] == 0
        and results["rows_without_operation"] == results["operations_without_rows"] == 0
        and results["final_state"]["equal"] is not False
    )


def command(capsys, *argv):
    """
    The command in this process: exit code, stdout, stderr.
    """
    try:
        code = main(["replay", *map(str, argv)])
    except SystemExit as exit_:
        code = exit_.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


# Golden facts.


def check_facts(results, facts):
    *numbers, frees, taken = facts
    assert [results[name] for name in COUNTED] == numbers
    assert results["frees"] == frees
    assert results["exact_share"] == 1.0
    assert exact(results), results["first_divergence"]
    assert results["taken"] == taken
    assert results["final_state"]["equal"] is True
    assert results["final_state"]["differences"] == []
    assert results["recording"]["complete"] is True
    assert results["recording"]["lost"] == 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", SHIPPED_FACTS)
def test_shipped_recordings_are_exact(name, mode):
    results = run(opened(SHIPPED / name), mode)
    check_facts(results, SHIPPED_FACTS[name])
    assert ("derived" in results["final_state"]) == ("cut" in name)
    assert results.get("resyncs", {}) == {}
    assert sum(part["allocs"] for part in results["by_order"].values()) == results["allocs"]
    assert results["by_cpu"].keys() <= {"0", "1", "2", "3"}


@needs_oracle
@pytest.mark.parametrize("name", WHOLE_FACTS)
def test_whole_recordings_are_exact(name):
    check_facts(run(opened(oracle() / name), "free-run"), WHOLE_FACTS[name])


@needs_oracle
def test_the_one_decision_in_cma_that_free_run_cannot_know():
    """
    R10: in one take of a refill the kernel saw another value of a counter. Supplied, all is exact.
    """
    results = replays.replay(oracle() / "cma-4c").results
    assert results["allocs"] == 158856
    assert results["causes"] == {"R10": 26}
    assert results["exact"] == 158830
    assert results["taken"] == {"R5": 1, "R7": 79}
    assert results["fields"] == results["fields_exact"] == 320150
    assert results["final_state"]["equal"] is True
    found = results["first_divergence"]
    assert (found["row"], found["what"], found["cause"]) == (579070, "refill", "R10")
    assert (found["predicted"], found["recorded"]) == (107432, 77438)
    assert results["refills"] - results["refills_exact"] == 1
    guided = results["guided"]
    assert guided["exact_share"] == 1.0
    assert guided["taken"] == {"R5": 1, "R7": 79, "R10": 1}
    assert guided["final_state"]["equal"] is True
    assert results["metrics"]["cma.movable_share"] == pytest.approx(0.769, abs=0.0005)


def test_default_mode_and_document():
    done = replays.replay(SHIPPED / "tiny-4c.parquet")
    document = done.document()
    assert document["schema"] == replays.SCHEMA
    assert document["results"]["mode"] == "free-run"
    for key in KEYS:
        assert key in document["results"], key
    assert "guided" not in document["results"]  # nothing to supply
    assert document["manifest"]["mode"] == "free-run"
    assert document["manifest"]["source"] == "tiny-4c"
    assert done.nr_requests == 1901 + 1878
    assert "resyncs" in replays.replay(SHIPPED / "tiny-4c", "resync").results


def test_same_bytes_on_a_second_run(capsys):
    """
    In another process, with other hashes of strings, too.
    """
    argv = (SHIPPED / "tiny-4c", "--mode", "guided", "--json", "-")
    first = command(capsys, *argv, "-q")
    assert first[0] == 0
    assert first[2] == ""
    assert json.loads(first[1])["results"]["exact_share"] == 1.0
    assert command(capsys, *argv)[1] == first[1]
    again = subprocess.run(
        [sys.executable, "-m", "pcpbuddy.cli.main", "replay", *map(str, argv)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONHASHSEED": "12345"},
        cwd=ROOT,
    )
    assert again.returncode == 0, again.stderr
    assert again.stdout == first[1]


# Modes and refusals.


def sentence(caught):
    message = str(caught.value)
    assert "\n" not in message
    assert message[-1] not in ".!"
    return message


def test_handle_mode_compares_nothing():
    results = replays.replay(SHIPPED / "tiny-4c", policy="fixed").results
    assert results["mode"] == "handle"
    assert "exact" not in results
    assert replays.replay(SHIPPED / "tiny-4c", "handle").results["allocs"] == 1901


@pytest.mark.parametrize("mode", MODES)
def test_modes_that_compare_are_for_mainline(mode):
    with pytest.raises(UsageError) as caught:
        replays.replay(SHIPPED / "tiny-4c", mode, "fixed")
    assert f"mode {mode}" in sentence(caught)
    assert "fixed" in sentence(caught)
    assert "--mode handle" in sentence(caught)


def test_unknown_mode():
    with pytest.raises(UsageError) as caught:
        replays.replay(SHIPPED / "tiny-4c", "exact")
    assert "free-run, guided, resync, handle" in sentence(caught)


def test_until_is_not_negative():
    with pytest.raises(UsageError) as caught:
        replays.replay(SHIPPED / "tiny-4c", until=-1)
    assert "-1" in sentence(caught)


def test_until_is_not_for_handle_mode():
    with pytest.raises(UsageError) as caught:
        replays.replay(SHIPPED / "tiny-4c", "handle", until=5)
    assert "--until" in sentence(caught)


def test_refusals_of_the_command(capsys):
    for argv in (("--mode", "guided", "--policy", "fixed"), ("--until", "-1"), ("--mode", "exact"), ("--json", "x")):
        code, out, err = command(capsys, SHIPPED / "tiny-4c", *argv)
        assert code == 2, argv
        assert out == ""
        assert "Traceback" not in err
        assert err


def test_no_snapshot(tmp_path):
    shutil.copyfile(SHIPPED / "tiny-4c.parquet", tmp_path / "tiny-4c.parquet")
    with pytest.raises(RecordingError) as caught:
        replays.replay(tmp_path / "tiny-4c")
    assert "tiny-4c.snap0.json.zst" in sentence(caught)


def test_without_the_second_snapshot(tmp_path):
    for part in PARTS[:3]:
        shutil.copyfile(SHIPPED / f"tiny-4c{part}", tmp_path / f"tiny-4c{part}")
    results = replays.replay(tmp_path / "tiny-4c").results
    assert results["exact_share"] == 1.0
    assert results["final_state"]["equal"] is None
    assert "no snapshot 1" in results["final_state"]["why"]


@pytest.mark.parametrize("until", [0, 324, 331, 345, 5000, 13386, 13387, 99999])
def test_until(until):
    """
    The rows before it are replayed, no more; only a replay of all rows is compared with snapshot 1.
    """
    recording = opened(SHIPPED / "tiny-4c")
    results = run(recording, "free-run", until)
    events, phase = (pq.read_table(SHIPPED / "tiny-4c.parquet")[name].to_pylist() for name in ("event", "phase"))
    before = [name for name, part in zip(events[:until], phase[:until], strict=True) if part == 1]
    assert results["allocs"] == before.count("pcp_alloc")
    assert results["frees"] == before.count("pcp_free") + before.count("free_one")
    assert exact(results)
    whole = until >= 13387
    assert results["final_state"]["equal"] is (True if whole else None)
    assert ("state" in results) is not whole
    if not whole:
        assert results["state"]["before_row"] == until
        assert results["state"]["buddyinfo"].startswith("Node 0, zone")


def test_strict_of_a_whole_recording(capsys):
    code, out, err = command(capsys, SHIPPED / "tiny-4c", "--strict", "-q")
    assert (code, err) == (0, "")
    assert "No divergence." in out


# Recordings of our own allocator: whatever rows do not hide, a replay finds.

SEEDS = st.integers(0, 1 << 24)
# Where the rows hide something, the mode that takes it from them; R8 (zone flags) is in no row soon enough.
HIDING = {"LRU bits": "R9", "late folds": "R10", "rotation": "R6"}


def replayed(recording, mode, keep=None):
    """
    The results of a fake recording, by way of its files.
    """
    with tempfile.TemporaryDirectory() as folder:
        return run(replays._Opened(recording.write(folder, keep=keep)), mode)


def check_counts(results, rows_):
    """
    What the rows hold is what was compared.
    """
    inside = [row for row in rows_ if row["phase"] == 1]
    events = [row["event"] for row in inside]
    pages = [row["event"] for row in inside if row.get("pfn", -1) >= 0]
    assert results["allocs"] == pages.count("mm_page_alloc") + pages.count("pcp_alloc_bulk")
    assert results["frees"] == events.count("pcp_free") + events.count("free_one")
    assert results["drained"] == events.count("mm_page_pcpu_drain")
    assert results["drains"] == events.count("pcp_bulk_free")
    assert results["fields"] == sum(row.get("count") is not None for row in inside)
    assert results["recording"]["replayed"] == len(inside)
    assert results["recording"]["complete"] is True
    assert results["recording"]["clock_back"] == 0


@pytest.mark.parametrize("name", sorted(set(fakekernel.PLANS) - set(HIDING)))
@examples(3)
@given(seed=SEEDS)
def test_fake_recordings_replay_exactly(name, seed):
    recording = fakekernel.record(fakekernel.planned(name, seed))
    results = replayed(recording, "free-run")
    check_counts(results, recording.rows)
    if recording.hidden:  # zone flags that a search without a row has set
        assert set(recording.hidden) == {"R8"}
        return
    assert exact(results), (results["first_divergence"], results["final_state"])
    assert results["final_state"]["equal"] is True
    assert set(results["taken"]) <= {"R2", "R3", "R5", "R6", "R7", "R8"}


@pytest.mark.parametrize("mode", ["guided", "resync"])
@examples(4)
@given(name=st.sampled_from(sorted(set(fakekernel.PLANS) - set(HIDING))), seed=SEEDS)
def test_modes_that_look_ahead_change_nothing_that_is_known(name, seed, mode):
    recording = fakekernel.record(fakekernel.planned(name, seed))
    results = replayed(recording, mode)
    check_counts(results, recording.rows)
    if not recording.hidden:
        assert exact(results), (results["first_divergence"], results["final_state"])
        assert not set(results["taken"]) & {"R9", "R10"}
        assert results.get("resyncs", {}) == {}


@pytest.mark.parametrize("name", ["LRU bits", "late folds"])
@examples(6)
@given(seed=SEEDS)
def test_what_rows_hide_is_named_and_supplied(name, seed):
    """
    A claim that turns on LRU bits (R9), the CMA rule at the edge of a fold (R10): guided follows, free-run names it.
    """
    recording = fakekernel.record(fakekernel.planned(name, seed))
    if "R8" in recording.hidden:
        return
    guided, free = replayed(recording, "guided"), replayed(recording, "free-run")
    assert guided["exact_share"] == 1.0
    assert guided["refills"] == guided["refills_exact"]
    item = HIDING[name]
    if not exact(free):
        found = free["first_divergence"]
        assert found is None or found["cause"] == item
        assert set(free["causes"]) <= {item}
    if free["causes"]:
        assert guided["taken"][item] > 0


@examples(3)
@given(seed=SEEDS)
def test_rotation_that_no_row_tells(seed):
    """
    B-117, R6: nobody can know. Resync brings each page back in, and says so.
    """
    recording = fakekernel.record(fakekernel.planned("rotation", seed))
    for mode in MODES:
        results = replayed(recording, mode)
        assert results["recording"]["complete"] is True
        assert not set(results["causes"]) - {"R6", "unexplained"}


WINDOWS = frozenset(["moves", "kswapd", "decay", "rounds", "expire"])


@examples(6)
@given(name=st.sampled_from(sorted(set(fakekernel.PLANS) - set(HIDING))), seed=SEEDS, pids=st.booleans())
def test_rare_windows(name, seed, pids):
    """
    Moments that a replay does not follow yet (see ``Plan``), and rows without pids: not exact always, but never lost.
    """
    plan = dataclasses.replace(fakekernel.planned(name, seed), windows=WINDOWS, pids=pids)
    recording = fakekernel.record(plan)
    for mode in MODES:
        results = replayed(recording, mode)
        assert results["recording"]["complete"] is True
        assert results["allocs"] > 0
        assert results["exact"] >= 0.2 * results["allocs"]


@examples(6)
@given(name=st.sampled_from(sorted(fakekernel.PLANS)), seed=SEEDS, share=st.sampled_from([0.0, 0.02, 0.3]))
def test_fake_recordings_without_probes(name, seed, share):
    """
    Standard tracepoints only, whole and with rows lost: a replay ends, and knows what is missing.
    """
    recording = fakekernel.record(fakekernel.planned(name, seed)).plain()
    lose = np.random.default_rng(seed).random(len(recording.rows)) < share
    keep = [number for number, row in enumerate(recording.rows) if row["phase"] != 1 or not lose[number]]
    for mode in MODES:
        results = replayed(recording, mode, keep)
        assert results["recording"]["lost"] == len(recording.rows) - len(keep)
        assert results["recording"]["complete"] is (len(keep) == len(recording.rows))


def test_plans_make_what_they_are_for():
    """
    Every kind of row that a kernel with probes writes is in some fake recording; and the same plan makes the same one.
    """
    seen = set()
    for name in fakekernel.PLANS:
        recording = fakekernel.record(fakekernel.planned(name))
        assert recording.rows == fakekernel.record(fakekernel.planned(name)).rows
        seen |= {row["event"] for row in recording.rows if row["phase"] == 1}
    assert seen >= (fakekernel.PROBES - {"take_buddy", "drain_zone_pages"}) | {
        *("mm_page_alloc", "mm_page_free", "mm_page_free_batched", "mm_page_alloc_zone_locked"),
        *("mm_page_pcpu_drain", "mm_page_alloc_extfrag", "mm_vmscan_kswapd_wake", "mm_vmscan_kswapd_sleep"),
    }


@examples(4)
@given(name=st.sampled_from(["busy", "eight CPUs", "reserve", "three zones"]), seed=SEEDS, size=st.integers(1, 300))
def test_the_size_of_batches_does_not_matter(name, seed, size):
    recording = fakekernel.record(fakekernel.planned(name, seed))
    with tempfile.TemporaryDirectory() as folder:
        whole = replays._Opened(recording.write(folder))
    outcomes = []
    for step in (size, 1 << 16):
        node = _core.Node.from_state(whole.state, config.policy("mainline"))
        core = _core.KernelReplay(node, whole.first.json["max_pfn"], mode="guided", folds="vmfold" in whole.events)
        for batch in rows.Reader(whole.file, whole.first, whole.last).batches(step):
            core.feed(batch)
        core.feed(batch[:0], last=True)
        node.check()
        outcomes.append((core.result() | {"elapsed_ns": 0}, core.differences(), node.state()))
    assert outcomes[0] == outcomes[1]


# One thing is changed: the replay is not exact, and names the row.


def first_of(recording, mode="free-run"):
    results = replayed(recording, mode)
    assert not exact(results)
    found = results["first_divergence"]
    return found["row"], found["what"], found["predicted"], found["recorded"]


CHANGES = {
    "pcp_alloc": "alloc",
    "mm_page_pcpu_drain": "drained",
    "mm_page_alloc_zone_locked": "refill",
}


@pytest.mark.parametrize("event", CHANGES)
@examples(4)
@given(seed=SEEDS, data=st.data())
def test_another_page_in_one_row(event, seed, data):
    recording = fakekernel.record(fakekernel.planned("drains", seed))
    at = [n for n, row in enumerate(recording.rows) if row["event"] == event and row["phase"] == 1 and row["pfn"] >= 0]
    row = data.draw(st.sampled_from(at))
    before = recording.rows[row]["pfn"]
    after = before ^ 1 << data.draw(st.integers(recording.rows[row]["order"], 11))
    recording.rows[row] = recording.rows[row] | {"pfn": after}
    assert first_of(recording) == (row, CHANGES[event], before, after)


@examples(6)
@given(seed=SEEDS, data=st.data())
def test_another_count_in_one_row(seed, data):
    recording = fakekernel.record(fakekernel.planned("busy", seed))
    at = [n for n, row in enumerate(recording.rows) if row.get("count") is not None and row["phase"] == 1]
    row = data.draw(st.sampled_from(at))
    field = data.draw(st.sampled_from([name for name in ("count", "high", "fcount") if name in recording.rows[row]]))
    recording.rows[row] = recording.rows[row] | {field: recording.rows[row][field] + 1}
    number, what, _, _ = first_of(recording)
    assert (number, what) == (row, "pcp_fields")


@examples(6)
@given(seed=SEEDS)
def test_two_entries_of_a_list_change_places(seed):
    """
    In snapshot 0, the first two entries of a PCP list: the pop that takes the first of them is named.
    """
    recording = fakekernel.record(fakekernel.planned("busy", seed))
    document, _ = recording.snapshots[0]
    lists = {
        (pcp["cpu"], int(index)): pfns
        for pcp in document["zones"][0]["pcp"]
        for index, pfns in pcp["lists"].items()
        if len(pfns) > 1 and int(index) < 12
    }
    touched = set()
    for number, row in enumerate(recording.rows):
        if row["phase"] != 1 or row["event"] not in ("pcp_alloc", "pcp_free", "pcp_bulk_free"):
            continue
        if row["event"] == "pcp_bulk_free":
            touched |= {(row["pcp_cpu"], index) for index in range(14)}
            continue
        key = row["pcp_cpu"], 3 * row["order"] + row["migratetype"]
        if key not in touched and row["event"] == "pcp_alloc" and row["pfn"] >= 0 and key in lists:
            pfns = lists[key]
            assert pfns[0] == row["pfn"]
            pfns[:2] = pfns[1], pfns[0]
            assert first_of(recording) == (number, "alloc", pfns[0], pfns[1])
            return
        touched.add(key)


@examples(6)
@given(seed=SEEDS)
def test_two_chunks_of_a_list_change_places(seed):
    """
    The same of a zone's list: the first row of a section that would take the first of them is named.
    """
    recording = fakekernel.record(fakekernel.planned("busy", seed))
    areas = recording.snapshots[0][0]["zones"][0]["free_area"]
    for number, row in enumerate(recording.rows):
        if row["phase"] != 1 or row["event"] in ("mm_page_pcpu_drain", "buddy_free", "claim"):
            if row["phase"] == 1:
                return  # lists have changed before
            continue
        if row["event"] == "mm_page_alloc_zone_locked":
            lists = [area["free_list"][str(row["migratetype"])] for area in areas[row["order"] :]]
            pfns = next(pfns for pfns in lists if pfns)
            if len(pfns) > 1:
                assert pfns[0] == row["pfn"]
                pfns[:2] = pfns[1], pfns[0]
                assert first_of(recording) == (number, "refill", pfns[0], pfns[1])
            return


def test_until_stops_before_the_divergence():
    recording = fakekernel.record(fakekernel.planned("drains", 1))
    at = [n for n, row in enumerate(recording.rows) if row["event"] == "pcp_alloc" and row["phase"] == 1]
    row = at[len(at) // 2]
    recording.rows[row] = recording.rows[row] | {"pfn": recording.rows[row]["pfn"] ^ 2048}
    with tempfile.TemporaryDirectory() as folder:
        whole = replays._Opened(recording.write(folder))
        assert run(whole, "free-run", row)["first_divergence"] is None
        assert run(whole, "free-run", row + 1)["first_divergence"]["row"] == row


# How the rows are read.


def read(recording, **changes):
    """
    The health of a recording after all its rows are read.
    """
    with tempfile.TemporaryDirectory() as folder:
        base = recording.write(folder, **changes)
        whole = replays._Opened(base)
        reader = rows.Reader(whole.file, whole.first, whole.last)
        read_ = np.concatenate(list(reader.batches(100)))
    return reader.health, read_


@pytest.fixture(scope="module")
def fake():
    return fakekernel.record(fakekernel.planned("two zones", 3))


def test_health_of_whole_rows(fake):
    health, read_ = read(fake)
    inside = [number for number, row in enumerate(fake.rows) if row["phase"] == 1]
    assert read_["row"].tolist() == inside
    assert health.complete
    assert (health.rows, health.replayed) == (len(fake.rows), len(inside))
    assert (health.lost, health.disordered, health.clock_back, health.outside) == ({}, 0, 0, 0)
    assert sum(health.events.values()) == len(inside)
    fields = {"pfn": "pfn", "count": "count", "high": "high", "fcount": "free_count", "nr": "nr", "aflags": "aflags"}
    for number, got in zip(inside, read_, strict=True):
        for column, name in fields.items():
            value = fake.rows[number].get(column)
            absent = rows.NO_PFN if column == "pfn" else rows.NO_FIELD
            assert got[name] == (absent if value is None or (column, value) == ("pfn", -1) else value)
        assert got["event"] == (files.EVENT_CODES[fake.rows[number]["event"]])


def test_health_of_damaged_rows(fake):
    numbers = list(range(len(fake.rows)))
    inside = [number for number in numbers if fake.rows[number]["phase"] == 1]
    gone = inside[10:13] + inside[-2:]
    lost = np.bincount([fake.rows[number]["cpu"] for number in gone], minlength=2)
    health, _ = read(fake, keep=[number for number in numbers if number not in gone])
    assert health.lost == {cpu: int(n) for cpu, n in enumerate(lost) if n}
    assert not health.complete
    double = numbers[: inside[5] + 1] + numbers[inside[5] :]
    health, _ = read(fake, keep=double)
    assert (health.disordered, health.lost) == (1, {})
    assert not health.complete
    one = next(n for n in inside if fake.rows[n]["cpu"] == fake.rows[n + 1]["cpu"] and n + 1 in inside)
    swapped = [*numbers[:one], one + 1, one, *numbers[one + 2 :]]
    health, _ = read(fake, keep=swapped)
    assert (health.disordered, health.clock_back, health.lost) == (1, 1, {})


def test_rows_of_no_zone_are_left_out(fake):
    changed = fakekernel.record(fakekernel.planned("two zones", 3))
    at = next(n for n, row in enumerate(changed.rows) if row["event"] == "mm_page_pcpu_drain" and row["phase"] == 1)
    changed.rows[at] = changed.rows[at] | {"pfn": 0, "order": 0}  # the DMA zone begins at page 1
    health, read_ = read(changed)
    assert health.outside == 1
    assert at not in read_["row"]
    assert not health.complete


@pytest.mark.parametrize(
    ("event", "change", "words"),
    [
        ("pcp_alloc", {"order": 4, "pfn": -1}, ("order 4", "orders 0 to 3 and 9")),
        ("pcp_free", {"migratetype": 3}, ("type 3", "0, 1 or 2")),
        ("decay", {"zone": 3}, ("zone 3", "zones 0, 1")),
        ("pcp_alloc", {"pcp_cpu": 9}, ("pcp_cpu 9", "CPUs 0 to 1")),
        ("pcp_alloc", {"cpu": 7}, ("cpu 7", "CPUs 0 to 1")),
        ("mm_page_alloc", {"pfn": 1 << 40}, ("pfn", "ends at page")),
    ],
)
def test_impossible_rows_are_refused(event, change, words):
    changed = fakekernel.record(fakekernel.planned("two zones", 3))
    at = next(n for n, row in enumerate(changed.rows) if row["event"] == event and row["phase"] == 1)
    changed.rows[at] = changed.rows[at] | change
    with pytest.raises(RecordingError) as caught:
        read(changed)
    message = sentence_of_damage(caught)
    assert f"row {at}" in message
    for word in words:
        assert word in message, message


def sentence_of_damage(caught):
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("which", [0, 1])
def test_the_snapshot_of_another_recording(which, tmp_path):
    one, other = (fakekernel.record(fakekernel.planned("busy", seed)) for seed in (1, 2))
    base = one.write(tmp_path)
    theirs = other.write(tmp_path, "other")
    for part in (f".snap{which}.json.zst", f".snap{which}.npz"):
        shutil.copyfile(theirs.with_name("other" + part), base.with_name(base.name + part))
    with pytest.raises(RecordingError) as caught:
        replays.replay(base)
    assert "another recording" in sentence_of_damage(caught)


def test_snapshots_of_two_machines(tmp_path):
    one = fakekernel.record(fakekernel.planned("busy", 1)).write(tmp_path)
    other = fakekernel.record(fakekernel.planned("two zones", 1)).write(tmp_path, "other")
    for part in (".snap1.json.zst", ".snap1.npz"):
        shutil.copyfile(other.with_name("other" + part), one.with_name(one.name + part))
    with pytest.raises(RecordingError) as caught:
        replays.replay(one)
    assert "different machines" in sentence_of_damage(caught)


@pytest.mark.parametrize("part", [".parquet", ".snap0.json.zst", ".snap0.npz", ".snap1.npz"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_files_that_are_cut_off(part, share, tmp_path):
    base = fakekernel.record(fakekernel.planned("basic", 1)).write(tmp_path)
    file = base.with_name(base.name + part)
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(RecordingError) as caught:
        replays.replay(base)
    assert base.name in sentence_of_damage(caught)


# Differences of two states.


def states(fake_recording):
    with tempfile.TemporaryDirectory() as folder:
        base = fake_recording.write(folder)
        both = [snapshot.node_state(files.read_snapshot(base, 0)) for _ in range(2)]
    for state in both:
        state["zones"][1]["free"][0, 1] = [1100, 1200, 1300, 1400, 1500, 1600]
    return both


def test_equal_states(fake):
    assert difference.differences(*states(fake), folds=True) == []


def put_field(name, value):
    def change(state):
        state["zones"][1][name] = value

    return change


def put_pcp(name, value):
    def change(state):
        state["zones"][1]["pcp"][1][name] = value

    return change


def turn_list(state):
    state["zones"][1]["free"][0, 1] = state["zones"][1]["free"][0, 1][::-1]


def pop_pcp(state):
    lists = state["zones"][1]["pcp"][0]["lists"]
    lists[next(iter(lists))].pop()


def put_block(state):
    state["zones"][1]["blocks"][-1][:2] = [2, 1]


def drift(state):
    zone = state["zones"][1]
    zone["stat"][0] += 1
    zone["pcp"][0]["stat_diff"][0] -= 1


def leak(state):
    state["zones"][1]["stat"][2] += 512


@pytest.mark.parametrize(
    ("change", "what", "without_folds"),
    [
        (put_field("flags", 4), "zone: flags", True),
        (put_field("watermark_boost", 512), "zone: watermark_boost", True),
        (put_field("nr_reserved_highatomic", 512), "zone: nr_reserved_highatomic", True),
        (put_pcp("high", 1), "pcp of CPU 1: high", True),
        (put_pcp("free_count", 999), "pcp of CPU 1: free_count", True),
        (put_pcp("expire", 2), "pcp of CPU 1: expire", False),
        (turn_list, "free list: order", True),
        (pop_pcp, "pcp list of CPU 0: order", True),
        (put_block, "type of the pageblock of page", True),
        (drift, "counter NR_FREE_PAGES: visible part", False),
        (leak, "counter NR_FREE_PAGES_BLOCKS", True),
    ],
)
def test_a_difference_is_found_and_named(fake, change, what, without_folds):
    ours, theirs = states(fake)
    change(ours)
    found = difference.differences(ours, theirs, folds=True)
    assert len(found) == 1
    assert found[0]["zone"] == "DMA32"
    assert found[0]["what"].startswith(what)
    assert found[0]["ours"] != found[0]["kernel"] or found[0].get("same_pages")
    assert bool(difference.differences(ours, theirs, folds=False)) is without_folds


def test_a_difference_shows_where_a_list_parts(fake):
    ours, theirs = states(fake)
    ours["zones"][1]["free"][0, 1] = [1100, 1300, 1200, 1400, 1500, 1600]
    (found,) = difference.differences(ours, theirs, folds=True)
    assert (found["ours"], found["kernel"], found["same_pages"], found["first_difference"]) == (6, 6, True, 1)
    assert found["ours_there"] == [1300, 1200, 1400, 1500]
    assert found["kernel_there"] == [1200, 1300, 1400, 1500]
    ours["zones"][1]["free"][0, 1] = [1100, 1200]
    (found,) = difference.differences(ours, theirs, folds=True)
    assert (found["ours"], found["kernel"], found["same_pages"], found["first_difference"]) == (2, 6, False, 2)
    assert (found["ours_there"], found["kernel_there"]) == ([], [1300, 1400, 1500, 1600])


# Damage: rows taken away, doubled, out of place.


@functools.cache
def table_of(path):
    return pq.read_table(path.with_name(path.name + ".parquet"))


def with_rows(path, keep, folder):
    """
    A recording with the rows of another in this order; its snapshots stay. It is opened as if from its own files.
    """
    name = Path(folder) / f"{path.name}.parquet"
    pq.write_table(table_of(path).take(pa.array(keep)), name)
    recording = copy.copy(opened(path))
    recording.file = files.RowFile(name)
    recording.events = recording.file.event_names()
    return recording


class Damage:
    """
    What was done to the rows of a recording. keep: which are left, in their new order.
    """

    def __init__(self, path):
        table = table_of(path)
        self.phase = table["phase"].to_numpy()
        self.cpu = table["cpu"].to_numpy()
        self.inside = np.flatnonzero(self.phase == 1)
        self.keep = np.arange(table.num_rows)

    def remove(self, draw):
        n = draw(st.integers(1, min(40, len(self.inside))))
        self._drop(draw(st.lists(st.integers(0, len(self.inside) - 1), min_size=1, max_size=n)))

    def remove_run(self, draw):
        first = draw(st.integers(0, len(self.inside) - 1))
        self._drop(range(first, min(first + draw(st.integers(1, 2000)), len(self.inside))))

    def remove_share(self, draw):
        share, seed = draw(st.sampled_from([0.001, 0.01, 0.1, 0.5, 0.9])), draw(st.integers(0, 1 << 16))
        self._drop(np.flatnonzero(np.random.default_rng(seed).random(len(self.inside)) < share))

    def remove_cpu(self, draw):
        cpu = draw(st.sampled_from(sorted(set(self.cpu.tolist()))))
        self._drop(np.flatnonzero(self.cpu[self.inside] == cpu))

    def truncate(self, draw):
        self._drop(range(draw(st.integers(0, len(self.inside) - 1)), len(self.inside)))

    def swap(self, draw):
        for _ in range(draw(st.integers(1, 8))):
            left = np.flatnonzero(self.phase[self.keep] == 1)
            if len(left) < 2:
                return
            one = draw(st.integers(0, len(left) - 2))
            other = draw(st.sampled_from([one + 1, draw(st.integers(0, len(left) - 1))]))
            self.keep[left[[one, other]]] = self.keep[left[[other, one]]]

    def double(self, draw):
        for _ in range(draw(st.integers(1, 8))):
            left = np.flatnonzero(self.phase[self.keep] == 1)
            if len(left):
                at = left[draw(st.integers(0, len(left) - 1))]
                to = draw(st.sampled_from([at, left[-1]]))
                self.keep = np.insert(self.keep, to + 1, self.keep[at])

    def _drop(self, numbers):
        self.keep = self.keep[~np.isin(self.keep, self.inside[list(numbers)])]

    @property
    def lost(self):
        """
        How many rows between the snapshots are not there any more.
        """
        return len(self.inside) - len(np.intersect1d(self.keep, self.inside))

    @property
    def nothing(self):
        return np.array_equal(self.keep, np.arange(len(self.phase)))


KINDS = ("remove", "remove_run", "remove_share", "remove_cpu", "truncate", "swap", "double")


def check_damaged(path, damage, modes=MODES):
    """
    A replay of damaged rows ends with a result or a refusal. It knows how many are missing, and never says all is well.
    """
    with tempfile.TemporaryDirectory() as folder:
        recording = with_rows(path, damage.keep, folder)
        for mode in modes:
            results = run(recording, mode)
            health = results["recording"]
            assert health["lost"] == damage.lost
            if damage.lost:
                assert health["complete"] is False
            seen = health["complete"] is False or health["clock_back"] > 0
            if not damage.nothing and not seen and not _harmless(path, damage):
                assert results["exact_share"] != 1.0
            assert 0 <= results["exact"] <= results["allocs"]


def _harmless(path, damage):
    """
    Rows of different CPUs with the same stamp have no order between them: nobody can tell that they changed places.
    """
    stamps = table_of(path)["ts_ns"].to_numpy()
    return np.array_equal(np.sort(damage.keep), np.arange(len(damage.phase))) and np.array_equal(
        stamps, stamps[damage.keep]
    )


@pytest.mark.parametrize("kind", KINDS)
@examples(3)
@given(data=st.data())
def test_damaged_rows(kind, data):
    path = SHIPPED / "tiny-4c"
    damage = Damage(path)
    getattr(damage, kind)(data.draw)
    check_damaged(path, damage)


@examples(8)
@given(data=st.data())
def test_rows_damaged_in_several_ways(data):
    path = SHIPPED / "tiny-4c"
    damage = Damage(path)
    for kind in data.draw(st.lists(st.sampled_from(KINDS), min_size=2, max_size=4)):
        getattr(damage, kind)(data.draw)
    check_damaged(path, damage)


VALUES = {
    "pfn": [-1, 0, 5, 1024, 2047],
    "order": range(11),
    "migratetype": range(6),
    "gfp_flags": [0, 0x1, 0x4, 0x820, 0xCC0, 0xCD0, 0x100CCA],
    "aflags": [0, 1, 0x80, 0x200, 0x220, 0xFFF],
    **{name: [-5, 0, 1, 63, 30000] for name in ("count", "high", "fcount", "nr")},
    **{"zone": range(3), "pcp_cpu": range(2), "pindex": range(-1, 14), "pflags": range(4), "afactor": range(7)},
    **{"zflags": range(8), "fpi": [0, 2, 8, 15], "pbflags": range(16), "fallback_order": range(11)},
    **{"fallback_migratetype": range(6), "change_ownership": range(2), "percpu_refill": range(2), "ret": [0, 1, 512]},
    **{"isolate": range(2), "old_migratetype": range(6), "boost": [-1, 0, 512], "irq_flags": [0, 1, 8, 16, 0x48]},
    **{"pid": [0, -1, 100, 101, 150], "event": sorted(fakekernel.PROBES | {"mm_page_alloc", "mm_page_pcpu_drain"})},
}


@examples(12, 300)
@given(name=st.sampled_from(sorted(fakekernel.PLANS)), seed=st.integers(0, 999 if LONG else 2), data=st.data())
def test_changed_values(name, seed, data):
    """
    Any value in any row may be wrong: a replay ends with a result, or is refused with one sentence.
    """
    recording = fakekernel.record(fakekernel.planned(name, seed))
    inside = [number for number, row in enumerate(recording.rows) if row["phase"] == 1]
    for number in data.draw(st.lists(st.sampled_from(inside), min_size=1, max_size=8)):
        row = recording.rows[number]
        column = data.draw(st.sampled_from([name for name in VALUES if row.get(name) is not None]))
        row = row | {column: data.draw(st.sampled_from(VALUES[column]))}
        if row.get("order") and row.get("pfn", -1) > 0:
            row["pfn"] &= -1 << row["order"]
        recording.rows[number] = row
    for mode in MODES:
        with tempfile.TemporaryDirectory() as folder:
            whole = replays._Opened(recording.write(folder))
            refusal = ""
            try:
                run(whole, mode)
            except RecordingError as error:
                refusal = str(error)
            assert "\n" not in refusal


@functools.cache
def fake_files(name, seed):
    """
    The files of a fake recording, kept until the tests end.
    """
    folder = tempfile.TemporaryDirectory()
    base = fakekernel.record(fakekernel.planned(name, seed)).write(folder.name)
    opened(base)
    table_of(base)
    return folder, base


@examples(20, 300)
@given(name=st.sampled_from(sorted(fakekernel.PLANS)), seed=st.integers(0, 999 if LONG else 2), data=st.data())
def test_damaged_rows_of_fake_recordings(name, seed, data):
    _, path = fake_files(name, seed)
    damage = Damage(path)
    for kind in data.draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=3)):
        getattr(damage, kind)(data.draw)
    check_damaged(path, damage)
