"""
Replays of recordings with the standard tracepoints only.

Most are made from recordings with probes, whose rows are taken away: they know the truth.
"""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_recording import ROOT, needs_oracle, oracle

from pcpbuddy import _core
from pcpbuddy.recording import files, rows, snapshot
from pcpbuddy.replay import replay

STANDARD = (
    "mm_page_alloc",
    "mm_page_free",
    "mm_page_free_batched",
    "mm_page_alloc_zone_locked",
    "mm_page_pcpu_drain",
    "mm_page_alloc_extfrag",
    "print",
)
OF_PROBES = (
    "zone",
    "pcp_cpu",
    "count",
    "high",
    "pflags",
    "afactor",
    "fcount",
    "zflags",
    "aflags",
    "fpi",
    "nr",
    "pindex",
)
PARTS = ("snap0.json.zst", "snap0.npz", "snap1.json.zst", "snap1.npz")


def plain_table(path):
    """
    The rows that a kernel without probes would have written.
    """
    table = pq.read_table(path)
    table = table.filter(pc.is_in(table["event"].cast(pa.string()), value_set=pa.array(STANDARD)))
    return table.select([name for name in table.column_names if name not in OF_PROBES])


def made_plain(folder, base):
    """
    A recording without the probes of another one.
    """
    pq.write_table(plain_table(base.with_name(f"{base.name}.parquet")), folder / f"{base.name}.parquet")
    for part in PARTS:
        shutil.copyfile(base.with_name(f"{base.name}.{part}"), folder / f"{base.name}.{part}")
    return folder / base.name


# What the rows of the probes say of the same recordings: failed trylocks, and entries of contiguous frees.
TRUTH = {"tiny-4c": (0, 1), "affinity-cut-4c": (0, 0), "exits-cut-4c": (0, 0)}
WHOLE_TRUTH = {"affinity-4c": (0, 0), "exits-4c": (34, 4), "mixed-4c": (43, 1724)}


def check_truth(path, mode, truth):
    results = replay(path, mode).results
    assert results["exact"] == results["allocs"] > 1000
    assert results["refills_exact"] == results["refills"]
    assert results["drained_exact"] == results["drained"]
    assert results["final_state"]["equal"]
    assert results["causes"] == {}
    assert results.get("resyncs", {}) == {}
    assert (results["taken"].get("R2", 0), results["taken"].get("R5", 0)) == truth
    assert results["recording"]["lost"] > 0  # the probes' numbers are missing, and that is said


@pytest.mark.parametrize("mode", ["guided", "resync"])
@pytest.mark.parametrize("name", TRUTH)
def test_the_true_order_is_found(tmp_path, name, mode):
    check_truth(made_plain(tmp_path, ROOT / "recordings" / name), mode, TRUTH[name])


@needs_oracle
@pytest.mark.parametrize("name", WHOLE_TRUTH)
def test_the_true_order_of_whole_recordings_is_found(tmp_path, name):
    check_truth(made_plain(tmp_path, oracle() / name), "guided", WHOLE_TRUTH[name])


def test_free_run_says_what_it_was_missing(tmp_path):
    """
    A tick that no row tells of: the first thing that differs, and the cause of all that follows.
    """
    results = replay(made_plain(tmp_path, ROOT / "recordings" / "affinity-cut-4c"), "free-run").results
    assert results["exact"] < results["allocs"]
    assert set(results["causes"]) == {"R7"}
    assert results["first_divergence"]["cause"] == "R7"
    assert results["guided"]["exact"] == results["allocs"]


@needs_oracle
@pytest.mark.parametrize(
    ("name", "free_run", "taken"),
    [
        ("affinity-plain-4c", 5115, {"R5": 1, "R7": 6}),
        ("exits-plain-4c", 85851, {"R3": 2, "R5": 3, "R7": 11}),
    ],
)
def test_whole_plain_recordings(name, free_run, taken):
    results = replay(oracle() / name, "guided").results
    assert results["exact"] == results["allocs"]
    assert results["final_state"]["equal"]
    assert results["taken"] == taken
    assert replay(oracle() / name, "free-run").results["exact"] == free_run


@pytest.mark.parametrize("mode", ["free-run", "guided", "resync"])
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_damage_never_breaks_the_state(mode, data):
    """
    Rows taken away, doubled or moved: the replay ends, counts what did not fit, and every invariant holds.
    """
    base = ROOT / "recordings" / "tiny-4c"
    first = files.read_snapshot(base, 0)
    packed = np.concatenate(list(rows.Reader(files.RowFile(base.with_suffix(".parquet")), first, None).batches()))
    codes = [files.EVENT_CODES[name] for name in STANDARD]
    packed = packed[np.isin(packed["event"], codes)]
    random = np.random.default_rng(data.draw(st.integers(0, 1 << 32)))
    keep = random.random(len(packed)) >= data.draw(st.sampled_from([0.0, 0.001, 0.05, 0.5]))
    packed = packed[keep]
    place = np.arange(len(packed)) + random.normal(0, data.draw(st.sampled_from([0.0, 1.0, 50.0, 1e5])), len(packed))
    packed = packed[np.argsort(place, kind="stable")]
    if data.draw(st.booleans()):
        packed = np.repeat(packed, 1 + (random.random(len(packed)) < 0.01), axis=0)
    node = _core.Node.from_state(snapshot.node_state(first), "mainline")
    core = _core.KernelReplay(node, first.json["max_pfn"], mode=mode, plain=True)
    for part in np.array_split(packed, 7):
        core.feed(np.ascontiguousarray(part))
    core.feed(packed[:0], last=True)
    shown = int(
        np.count_nonzero((packed["event"] == files.EVENT_CODES["mm_page_alloc"]) & (packed["pfn"] != rows.NO_PFN))
    )
    assert core.result()["allocs"][0] == shown
    node.check()
