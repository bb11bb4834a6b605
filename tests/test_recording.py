"""
Recordings: what becomes a request, what a node starts from, and how damage is told.

Damage is done to copies of the recordings that the project ships. Whole recordings are read where
PCPBUDDY_ORACLE names their folder, or ../shared/oracle is there.
"""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pcpbuddy
from pcpbuddy import recording
from pcpbuddy.errors import RecordingError, TraceError
from pcpbuddy.names import GFP_HIGHUSER_MOVABLE, UNKNOWN
from pcpbuddy.recording import files, snapshot, stream
from pcpbuddy.requests import ALLOC, BULK, BULK_MORE, FOLD, FREE, ISOLATE, TICK, UNISOLATE

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "recordings"
PARTS = (".parquet", ".snap0.json.zst", ".snap0.npz", ".snap1.json.zst", ".snap1.npz")
# name -> rows, requests, allocations, frees, ticks, folds, rows before snapshot 0
SHIPPED_COUNTS = {
    "tiny-4c": (13387, 3793, 1901, 1878, 14, 0, 324),
    "affinity-cut-4c": (161568, 45868, 24453, 21383, 32, 0, 438),
    "exits-cut-4c": (169308, 56331, 48286, 8001, 44, 0, 317),
    "cma-cut-4c": (142427, 46818, 46726, 76, 10, 6, 480),
    "mixed-cut-4c": (120409, 35011, 20040, 14743, 144, 84, 62),
}
WHOLE_COUNTS = {
    "tiny-4c": (13387, 3793, 1901, 1878, 14, 0, 324),
    "affinity-4c": (536353, 152279, 76121, 76074, 84, 0, 438),
    "exits-4c": (609743, 193157, 96529, 96530, 98, 0, 317),
    "cma-4c": (1087168, 317753, 158856, 158818, 50, 29, 480),
    "mixed-4c": (360390, 106204, 54936, 50839, 268, 161, 62),
    "affinity-plain-4c": (381312, 152730, 76358, 76340, 32, 0, 113),
    "exits-plain-4c": (380998, 193094, 96525, 96513, 56, 0, 80),
}


def oracle():
    """
    The folder of the whole recordings, or None.
    """
    named = os.environ.get("PCPBUDDY_ORACLE")
    folder = Path(named) if named else ROOT.parent / "shared" / "oracle"
    return folder if folder.is_dir() else None


needs_oracle = pytest.mark.skipif(
    oracle() is None, reason="PCPBUDDY_ORACLE names no folder of whole recordings and ../shared/oracle is not there"
)


@pytest.fixture
def tiny(tmp_path):
    """
    A copy of tiny-4c to be damaged; the path has no ending.
    """
    for part in PARTS:
        shutil.copyfile(SHIPPED / f"tiny-4c{part}", tmp_path / f"tiny-4c{part}")
    return tmp_path / "tiny-4c"


def part(base, ending):
    return base.with_name(base.name + ending)


def edit_rows(base, **columns):
    """
    Rewrite the parquet file with some columns changed: name=function of a list of values.
    """
    table = pq.read_table(part(base, ".parquet"))
    for name, change in columns.items():
        values = table[name].to_pylist()
        change(values)
        field = table.schema.field(name)
        kind = pa.int64() if pa.types.is_integer(field.type) else pa.string()
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values, kind))
    pq.write_table(table, part(base, ".parquet"))


def edit_document(base, change, which=0):
    path = part(base, f".snap{which}.json.zst")
    with pa.CompressedInputStream(pa.OSFile(str(path)), "zstd") as file:
        document = json.loads(file.read())
    change(document)
    path.write_bytes(pa.Codec("zstd").compress(json.dumps(document).encode(), asbytes=True))


def edit_arrays(base, change, which=0):
    path = part(base, f".snap{which}.npz")
    with np.load(path) as archive:
        arrays = {name: archive[name].copy() for name in archive.files}
    change(arrays)
    np.savez_compressed(path, **arrays)


def rows_of(base, event):
    return [i for i, name in enumerate(pq.read_table(part(base, ".parquet"))["event"].to_pylist()) if name == event]


def put(row, value):
    def change(values):
        values[row] = value

    return change


def refused(base, *words):
    """
    Loading fails with one sentence that has these words.
    """
    with pytest.raises(RecordingError) as caught:
        recording.load(base)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
    return message


# What becomes a request.


def counts(loaded):
    ops = np.bincount(loaded.requests["op"], minlength=10)
    before = loaded.left_out.get("rows_before_snapshot_0", 0)
    return (loaded.rows, len(loaded.requests), ops[ALLOC], ops[FREE], ops[TICK], ops[FOLD], before)


def live_handles(loaded):
    live = np.zeros(loaded.nr_handles, bool)
    for zone in loaded.state["zones"]:
        for pfn, order, _, _ in zone["allocated"].tolist():
            live[pfn : pfn + (1 << order)] = True
    return live


def check_handles(loaded):
    """
    No page is allocated while it is live, none is freed while it is not.
    """
    live = live_handles(loaded)
    for pfn, _, _, _, op, order in loaded.requests.tolist():
        if op in (ALLOC, FREE):
            pages = slice(pfn, pfn + (1 << order))
            assert live[pages].all() == (op == FREE), (pfn, op, order)
            assert live[pages].any() == (op == FREE), (pfn, op, order)
            live[pages] = op == ALLOC
    return live


@pytest.mark.parametrize("name", SHIPPED_COUNTS)
def test_shipped_recordings(name):
    loaded = recording.load(SHIPPED / f"{name}.parquet")
    assert counts(loaded) == SHIPPED_COUNTS[name]
    assert set(loaded.left_out) == {"rows_before_snapshot_0"}
    assert loaded.derived == ("cut" in name)
    # What is live at the end of the requests is what the second snapshot shows allocated.
    states = files.read_snapshot(SHIPPED / name, 1).arrays["page_state"]
    expected = np.isin(states, (snapshot.ALLOCATED, snapshot.TAIL))
    assert (check_handles(loaded) == expected).all()


@needs_oracle
@pytest.mark.parametrize("name", WHOLE_COUNTS)
def test_whole_recordings(name):
    loaded = recording.load(oracle() / name)
    assert counts(loaded) == WHOLE_COUNTS[name]
    assert set(loaded.left_out) == {"rows_before_snapshot_0"}
    states = files.read_snapshot(oracle() / name, 1).arrays["page_state"]
    expected = np.isin(states, (snapshot.ALLOCATED, snapshot.TAIL))
    assert (check_handles(loaded) == expected).all()


def test_gfp_comes_from_the_tracepoint_that_follows():
    table = pq.read_table(SHIPPED / "tiny-4c.parquet").to_pylist()
    traced = sorted((r["pfn"], r["order"], r["gfp_flags"], r["cpu"]) for r in table if r["event"] == "mm_page_alloc")
    requests = recording.load(SHIPPED / "tiny-4c").requests
    allocs = requests[requests["op"] == ALLOC]
    got = sorted(zip(*(allocs[f].tolist() for f in ("pfn", "order", "gfp", "cpu")), strict=True))
    assert got == traced


def test_contiguous_frees_are_the_entries_they_became():
    requests = recording.load(SHIPPED / "tiny-4c").requests
    frees = requests[requests["op"] == FREE]
    assert np.bincount(frees["order"]).tolist() == [1877, 0, 1]


def test_orders_past_the_pcp_are_requests():
    requests = recording.load(SHIPPED / "mixed-cut-4c").requests
    orders = np.bincount(requests["order"][requests["op"] == ALLOC], minlength=11)
    assert (orders[4:7] > 0).all()
    assert orders[7:9].sum() == 0


def row(event, seq, **fields):
    values = dict.fromkeys((*files.COLUMNS, *files.OPTIONAL_COLUMNS), files.MISSING)
    return event, values | {"ts_ns": seq * 1000, "cpu": 0, "cpu_seq": seq, "phase": 1} | fields


def rows(*made):
    """
    Rows out of nothing, for events that no recording at hand has.
    """
    names = sorted({event for event, _ in made})
    columns = {name: np.array([values[name] for _, values in made], np.int64) for name in made[0][1]}
    return files.Rows("made.parquet", names, np.array([names.index(event) for event, _ in made]), columns)


@pytest.fixture(scope="module")
def first():
    return files.read_snapshot(SHIPPED / "tiny-4c", 0)


def triples(requests, *fields):
    return [tuple(int(record[field]) for field in fields) for record in requests]


def test_bulk_pages_are_one_request_where_the_last_was_taken(first):
    made = rows(
        row("pcp_alloc_bulk", 0, pfn=10, order=0, migratetype=1),
        row("pcp_free", 0, cpu=1, pfn=77, order=0, migratetype=1),
        row("pcp_alloc_bulk", 1, pfn=11, order=0, migratetype=1),
        row("pcp_alloc_bulk", 2, pfn=-1, order=0, migratetype=1),
        row("pcp_alloc", 3, pfn=20, order=0, migratetype=0),
        row("mm_page_alloc", 4, pfn=20, order=0, migratetype=0, gfp_flags=0xCC0),
        row("pcp_alloc_bulk", 5, pfn=12, order=0, migratetype=1),
    )
    requests, left_out = stream.requests(made, first)
    assert triples(requests, "op", "pfn", "nr", "cpu") == [
        (FREE, 77, 0, 1),
        (BULK, 10, 2, 0),
        (BULK_MORE, 11, 0, 0),
        (ALLOC, 20, 0, 0),
        (BULK, 12, 1, 0),
    ]
    assert requests["gfp"][1] == GFP_HIGHUSER_MOVABLE
    assert left_out == {"pcp_alloc_without_page": 1, "gfp_assumed": 3}


def test_a_pop_that_gave_nothing_and_a_failed_trylock_are_the_allocation_that_follows(first):
    made = rows(
        row("pcp_alloc", 0, pfn=-1, order=0, migratetype=1),
        row("mm_page_alloc", 1, pfn=30, order=0, migratetype=1, gfp_flags=0x100CCA),
        row("pcp_alloc_tryfail", 2, order=0, migratetype=1),
        row("mm_page_alloc", 3, pfn=31, order=0, migratetype=1, gfp_flags=0x100CCA),
        row("mm_page_alloc", 4, pfn=-1, order=9, migratetype=1, gfp_flags=0x100CCA),
        row("free_one", 5, pfn=31, order=0),
    )
    requests, left_out = stream.requests(made, first)
    assert triples(requests, "op", "pfn") == [(ALLOC, 30), (ALLOC, 31), (FREE, 31)]
    assert left_out == {"allocs_failed": 1, "pcp_alloc_without_page": 1}


def test_a_task_that_moved_keeps_the_cpu_that_did_the_pop(first):
    made = rows(
        row("pcp_alloc", 0, pfn=30, order=0, migratetype=0),
        row("mm_page_alloc", 0, cpu=2, pfn=30, order=0, migratetype=0, gfp_flags=0xCC0),
    )
    requests, left_out = stream.requests(made, first)
    assert triples(requests, "op", "pfn", "cpu", "gfp") == [(ALLOC, 30, 0, 0xCC0)]
    assert not left_out


def test_a_charge_that_failed_is_an_allocation_and_a_free(first):
    made = rows(
        row("pcp_alloc", 0, pfn=30, order=0, migratetype=2),
        row("mm_page_free", 1, pfn=30, order=0),
        row("pcp_free", 2, pfn=30, order=0, migratetype=2),
        row("mm_page_alloc", 3, pfn=-1, order=0, migratetype=2, gfp_flags=0xCD0),
        row("mm_page_alloc", 4, pfn=30, order=0, migratetype=0, gfp_flags=0xCC0),
    )
    requests, left_out = stream.requests(made, first)
    assert triples(requests, "op", "pfn", "gfp") == [(ALLOC, 30, 0xCD0), (FREE, 30, 0), (ALLOC, 30, 0xCC0)]
    assert left_out == {"allocs_failed": 1, "gfp_assumed": 1}


def test_plain_frees_take_the_order_from_one_row_and_the_place_from_the_other(first):
    made = rows(
        row("mm_page_free", 0, pfn=512, order=9),
        row("mm_page_free", 1, pfn=3, order=0),
        row("mm_page_free_batched", 2, pfn=512, order=0),
        row("mm_page_alloc", 3, pfn=512, order=0, migratetype=1, gfp_flags=0x100CCA),
        row("mm_page_free_batched", 4, pfn=4, order=0),
    )
    requests, left_out = stream.requests(made, first)
    assert triples(requests, "op", "pfn", "order") == [(FREE, 3, 0), (FREE, 512, 9), (ALLOC, 512, 0), (FREE, 4, 0)]
    assert left_out == {"batched_without_free": 1}


def test_plain_recordings_tick_once_a_second_on_every_cpu_in_every_zone(first):
    made = rows(*(row("mm_page_free", i, pfn=i, order=0, ts_ns=i * 700_000_000) for i in range(4)))
    requests, _ = stream.requests(made, first)
    ticks = [(cpu, zone) for cpu in range(4) for zone in range(2)]
    got = triples(requests, "op", "cpu", "nr")
    second = [(TICK, cpu, zone) for cpu, zone in ticks]
    frees = [(FREE, 0, 0)]
    assert got == frees * 2 + second + frees + second + frees


def test_isolation_rows_are_requests_and_compaction_rows_are_counted(first):
    made = rows(
        row("block_isolate", 0, pfn=1024, isolate=1),
        row("block_isolate", 1, pfn=1024, isolate=0),
        row("isolate", 2, pfn=2048, order=0),
        row("cma_alloc_start", 3),
        row("drain_zone", 4, pcp_cpu=2),
        row("mm_page_free", 5, pfn=0, order=0),
    )
    requests, left_out = stream.requests(made, first)
    assert triples(requests, "op", "pfn") == [(ISOLATE, 1024), (UNISOLATE, 1024), (FREE, 0)]
    assert left_out == {"isolate": 1, "cma_alloc_start": 1, "drain_zone": 1}


# What a node starts from.


@pytest.mark.parametrize("name", SHIPPED_COUNTS)
@pytest.mark.parametrize("policy", ["mainline", "fixed"])
def test_the_core_takes_over_the_snapshot(name, policy):
    state = recording.load(SHIPPED / name).state
    which = pcpbuddy.PROFILES[policy]
    zones = [recording.adapt(zone, which) for zone in state["zones"]]
    node = pcpbuddy.Node.from_state({**state, "zones": zones}, which)
    for zone, started in zip(node.zones, zones, strict=True):
        zone.check()
        assert zone.managed == started["managed"]
        got = zone.state()
        for key in ("free", "pcp", "blocks", "stat", "watermark", "pageset", "flags"):
            assert got[key] == started[key], key
        assert len(got["allocated"]) == len(started["allocated"])


def test_allocated_pages_have_order_and_lru_bit_and_no_type():
    state = recording.load(SHIPPED / "tiny-4c").state
    pages = state["zones"][1]["allocated"]
    assert set(pages[:, 2]) == {UNKNOWN}
    assert set(pages[:, 3]) == {0, 1}
    assert (pages[pages[:, 1] > 0, 0] % (1 << pages[pages[:, 1] > 0, 1]) == 0).all()
    assert state["cpus"] == 4
    assert [zone["name"] for zone in state["zones"]] == ["DMA", "DMA32"]
    assert state["zones"][1]["start_pfn"] == 4096


def test_the_shared_list_of_order_9_is_dealt_out_by_block_type():
    blocks = [[0, 0, -1, 0], [2, 0, -1, 0], [4, 0, -1, 0], [1, 1, -1, 0], [1, 0, -1, 0], [1, 0, -1, 0]]
    pcp = {"lists": {(9, 0): [1024, 0, 512, 1536], (9, 1): [2048]}}
    state = {"start_pfn": 0, "blocks": blocks, "pcp": [pcp, {"lists": {(0, 1): [2560]}}]}
    dealt = recording.adapt(state, pcpbuddy.PROFILES["fixed"])
    assert dealt["pcp"][0]["lists"] == {(9, 0): [0], (9, 1): [2048, 1024, 1536], (9, 2): [512]}
    assert dealt["pcp"][1] == state["pcp"][1]
    assert recording.adapt(state, pcpbuddy.PROFILES["mainline"]) is state


# Bad input.


def test_no_such_file(tmp_path):
    refused(tmp_path / "nothing", "neither a workload nor a file")


def test_a_folder(tmp_path):
    refused(tmp_path, "is a folder")


def test_not_a_parquet_file(tmp_path):
    (tmp_path / "trace.txt").write_text("# tracer: nop\n")
    refused(tmp_path / "trace.txt", "trace.txt.parquet has no rows")
    (tmp_path / "notes.txt").write_text("bread\nmilk\n")
    with pytest.raises(TraceError, match=r"notes\.txt is not a recording and not a trace: none of its first lines"):
        recording.load(tmp_path / "notes.txt")


def test_empty_file(tmp_path):
    (tmp_path / "empty.parquet").write_bytes(b"")
    refused(tmp_path / "empty.parquet", "is not a recording")


def test_a_parquet_file_that_is_no_recording(tmp_path):
    pq.write_table(pa.table({"a": [1, 2]}), tmp_path / "other.parquet")
    refused(tmp_path / "other.parquet", "no column event", "cpu_seq", "pfn")


@pytest.mark.parametrize("share", [0.05, 0.5, 0.999])
def test_truncated_parquet(tiny, share):
    path = part(tiny, ".parquet")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    refused(tiny, "tiny-4c.parquet is truncated or damaged")


def test_damage_inside_the_parquet(tiny):
    path = part(tiny, ".parquet")
    data = bytearray(path.read_bytes())
    data[100:4000] = bytes(3900)
    path.write_bytes(data)
    refused(tiny, "tiny-4c.parquet")


def test_no_rows(tiny):
    pq.write_table(pq.read_table(part(tiny, ".parquet")).slice(0, 0), part(tiny, ".parquet"))
    refused(tiny, "has no rows")


def test_a_column_of_another_kind(tiny):
    table = pq.read_table(part(tiny, ".parquet"))
    table = table.set_column(table.schema.get_field_index("pfn"), "pfn", pa.array(["x"] * table.num_rows))
    pq.write_table(table, part(tiny, ".parquet"))
    refused(tiny, "tiny-4c.parquet is truncated or damaged")


@pytest.mark.parametrize(
    ("event", "column", "value", "words"),
    [
        ("mm_page_alloc", "order", 77, ("order 77", "orders are 0 to 10")),
        ("pcp_free", "order", 11, ("order 11",)),
        ("pcp_alloc", "order", -1, ("order -1",)),
        ("pcp_alloc", "order", None, ("no order",)),
        ("mm_page_free", "pfn", -5, ("pfn -5", "names a page")),
        ("pcp_free", "pfn", -1, ("pfn -1", "names a page")),
        ("pcp_alloc", "pfn", -2, ("pfn -2",)),
        ("mm_page_free", "pfn", None, ("no pfn",)),
        ("mm_page_alloc", "pfn", 1 << 30, ("the snapshot ends at page 524252",)),
        ("pcp_alloc", "cpu", 4, ("cpu 4", "CPUs 0 to 3")),
        ("pcp_alloc", "cpu", -1, ("cpu -1",)),
        ("pcp_alloc", "cpu", None, ("no cpu",)),
        ("pcp_alloc", "migratetype", 4, ("migratetype 4", "0, 1 or 2")),
        ("mm_page_alloc", "gfp_flags", None, ("no gfp_flags",)),
        ("mm_page_alloc", "gfp_flags", 0x18, ("gfp_flags 24", "B-25")),
        ("decay", "zone", 7, ("zone 7", "zones 0, 1")),
        ("decay", "pcp_cpu", 9, ("pcp_cpu 9",)),
        ("mm_page_free", "phase", 3, ("phase 3",)),
        ("mm_page_free", "cpu_seq", -1, ("cpu_seq -1",)),
    ],
)
def test_impossible_rows(tiny, event, column, value, words):
    number = rows_of(tiny, event)[-1]
    edit_rows(tiny, **{column: put(number, value)})
    refused(tiny, f"tiny-4c.parquet, row {number} ({event})", *words)


def test_a_page_that_no_order_can_start_at(tiny):
    number = next(i for i, r in enumerate(pq.read_table(part(tiny, ".parquet")).to_pylist()) if r["order"] == 2)
    edit_rows(tiny, pfn=put(number, 4098))
    refused(tiny, f"row {number}", "aligned")


def test_an_unknown_event(tiny):
    edit_rows(tiny, event=put(700, "mm_page_allok"))
    refused(tiny, "row 700", "'mm_page_allok'")


def test_a_row_without_event(tiny):
    edit_rows(tiny, event=put(700, None))
    refused(tiny, "no event name")


def test_a_row_twice(tiny):
    table = pq.read_table(part(tiny, ".parquet"))
    pq.write_table(pa.concat_tables([table, table.slice(table.num_rows - 1)]), part(tiny, ".parquet"))
    refused(tiny, "row 13387", "twice")


def test_lost_rows_are_counted(tiny):
    table = pq.read_table(part(tiny, ".parquet"))
    numbers = rows_of(tiny, "mm_page_free_batched")[100:110]
    keep = np.setdiff1d(np.arange(table.num_rows), numbers)
    pq.write_table(table.take(keep), part(tiny, ".parquet"))
    assert recording.load(tiny).left_out["rows_lost"] == 10


def test_rows_cut_off(tiny):
    pq.write_table(pq.read_table(part(tiny, ".parquet")).slice(0, 9000), part(tiny, ".parquet"))
    refused(tiny, "tiny-4c.snap1", "only", "rows are cut off")


def test_no_snapshot(tiny):
    """
    What a trace is: test_start_states.py. One snapshot alone is a mistake.
    """
    for ending in PARTS[1:3]:
        part(tiny, ending).unlink()
    refused(tiny, "tiny-4c.parquet has snapshot 1 beside it but no snapshot 0", "tiny-4c.snap0.npz")
    for ending in PARTS[3:]:
        part(tiny, ending).unlink()
    assert recording.load(tiny).start == "inferred"


@pytest.mark.parametrize("ending", PARTS[1:])
def test_half_a_snapshot(tiny, ending):
    part(tiny, ending).unlink()
    refused(tiny, f"tiny-4c{ending} is not", "a snapshot is both files")


def test_the_second_snapshot_may_be_missing(tiny):
    for ending in PARTS[3:]:
        part(tiny, ending).unlink()
    assert counts(recording.load(tiny)) == SHIPPED_COUNTS["tiny-4c"]


@pytest.mark.parametrize("which", [0, 1])
def test_a_snapshot_of_another_recording(tiny, which):
    for ending in (f".snap{which}.json.zst", f".snap{which}.npz"):
        shutil.copyfile(SHIPPED / f"exits-cut-4c{ending}", part(tiny, ending))
    refused(tiny, f"tiny-4c.snap{which}", "belongs to another recording")


@pytest.mark.parametrize("other", ["exits-cut-4c", "cma-cut-4c"])
@pytest.mark.parametrize("ending", PARTS[1:3])
def test_half_a_snapshot_of_another_recording(tiny, other, ending):
    shutil.copyfile(SHIPPED / f"{other}{ending}", part(tiny, ending))
    refused(tiny, "tiny-4c.snap0", "not parts of one snapshot")


@pytest.mark.parametrize("ending", PARTS[1:])
@pytest.mark.parametrize("share", [0, 0.4, 0.98])
def test_truncated_snapshot(tiny, ending, share):
    path = part(tiny, ending)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    refused(tiny, f"tiny-4c{ending} is truncated")


def test_a_document_that_is_no_snapshot(tiny):
    edit_document(tiny, lambda document: document.clear())
    refused(tiny, "tiny-4c.snap0.json.zst is not a snapshot")


@pytest.mark.parametrize("key", ["ring", "zones", "kernel", "globals", "zone_stat_items", "max_pfn"])
def test_a_document_without_a_key(tiny, key):
    edit_document(tiny, lambda document: document.pop(key))
    refused(tiny, "tiny-4c.snap0.json.zst is not a snapshot", key)


@pytest.mark.parametrize("key", ["watermark", "vm_stat", "pageset_batch", "pcp"])
def test_a_zone_without_a_key(tiny, key):
    edit_document(tiny, lambda document: document["zones"][1].pop(key))
    refused(tiny, "tiny-4c.snap0.json.zst is not a snapshot", key)


def test_a_free_page_that_is_on_no_list(tiny):
    edit_document(tiny, lambda document: document["zones"][1]["free_area"][0]["free_list"]["1"].pop())
    refused(tiny, "is on no list", "free in the zone")


def test_a_chunk_outside_its_zone(tiny):
    edit_document(tiny, lambda document: document["zones"][0]["free_area"][0]["free_list"]["1"].append(9999))
    refused(tiny, "lists a chunk of order 0 that does not fit zone DMA")


def test_a_tail_without_head(tiny):
    def change(arrays):
        head = np.flatnonzero((arrays["page_state"] == snapshot.ALLOCATED) & (arrays["page_order"] == 2))[0]
        arrays["page_order"][head] = 0

    edit_arrays(tiny, change)
    refused(tiny, "tails of compound pages without a head")


def test_without_pyarrow(tiny):
    script = f"import sys; sys.modules['pyarrow'] = None; from pcpbuddy import recording; recording.load({str(tiny)!r})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "pip install 'pcpbuddy[lab]'" in done.stderr.splitlines()[-1]


# The script that cuts.

TOOL = ROOT / "tools" / "cut_recording.py"


def tool(*args):
    return subprocess.run([sys.executable, TOOL, *args], capture_output=True, text=True, check=False)


def test_following_all_rows_leads_to_the_second_snapshot():
    done = tool(SHIPPED / "tiny-4c", "--check")
    assert done.stdout.splitlines()[-1] == "13387 rows, 0 differences", done.stdout + done.stderr


@needs_oracle
@pytest.mark.parametrize("name", [name for name in WHOLE_COUNTS if "plain" not in name])
def test_following_whole_recordings(name):
    done = tool(oracle() / name, "--check")
    assert re.fullmatch(r"\d+ rows, 0 differences", done.stdout.splitlines()[-1]), done.stdout + done.stderr


def test_a_cut_is_a_recording(tmp_path):
    done = tool(SHIPPED / "tiny-4c", tmp_path / "cut", "--rows", "6000")
    assert done.returncode == 0, done.stderr
    whole, cut = recording.load(SHIPPED / "tiny-4c"), recording.load(tmp_path / "cut")
    assert 6000 <= cut.rows < 7000
    assert cut.derived
    assert (cut.requests == whole.requests[: len(cut.requests)]).all()
    states = files.read_snapshot(tmp_path / "cut", 1).arrays["page_state"]
    assert (check_handles(cut) == np.isin(states, (snapshot.ALLOCATED, snapshot.TAIL))).all()


def test_shipped_files_say_nothing_of_a_machine():
    for path in SHIPPED.iterdir():
        data = path.read_bytes()
        if path.name.endswith(".zst"):
            data = pa.CompressedInputStream(pa.BufferReader(data), "zstd").read()
        assert not [word for word in (b"/home/", b"/root/", b"/tmp/") if word in data]
        if path.suffix == ".parquet":
            assert pq.ParquetFile(io.BytesIO(data)).schema_arrow.metadata is None
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 3 << 20
