"""
One recording in every form gives the same rows; and the command that writes them into a file.

The whole recordings come with the forms that a kernel and trace-cmd wrote. Without them the rows of a shipped one are
written in every form by hand.
"""

import gzip
import hashlib
import io
import json
import subprocess
import sys
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_recording import SHIPPED, needs_oracle, oracle
from test_trace_text import FREE, HEAD
from tracedata import Kernel, dat6, dat7, pages, perf_line, text_line

from pcpbuddy.cli.main import main
from pcpbuddy.names import gfp_text
from pcpbuddy.recording import files
from pcpbuddy.trace import KNOWN, gfp, open_trace, store

NOT_CARRIED = {
    "phase": "is told by the snapshots, which no trace has",
    "zone": "is a pointer in the probes' records",
    "pcp_cpu": "is a pointer in the probes' records",
}
# What each form of a whole recording cannot carry besides: column -> why.
FORMS = [
    ("affinity-plain-4c", "trace.dat", {}),
    ("exits-plain-4c", "trace.dat", {}),
    ("affinity-plain-4c", "trace.txt.zst", {"ts_ns"}),
    ("exits-plain-4c", "trace.txt.zst", {"ts_ns"}),
    ("exits-plain-4c", "trace-cmd-report.txt.zst", {"ts_ns", "irq_flags", "preempt_count"}),
]


def imported(tmp_path, source, **options):
    """
    A trace as the command writes it, read back.
    """
    path = tmp_path / "imported.parquet"
    with open_trace(source, **options) as trace, store.ParquetFile(path) as file:
        for batch in trace.batches():
            file.add(batch)
        file.finish({})
        health = trace.health()
    return pq.read_table(path), health


def same(mine, theirs, without):
    """
    Row by row equality of all columns but some.
    """
    assert mine.num_rows == theirs.num_rows
    for name in theirs.column_names:
        if name not in without:
            assert mine[name].type == theirs[name].type, name
            assert _plain(mine[name]).equals(_plain(theirs[name])), name
    assert set(mine.column_names) <= set(theirs.column_names)


@needs_oracle
@pytest.mark.parametrize(("name", "form", "lost"), FORMS, ids=[f"{name}.{form}" for name, form, _ in FORMS])
def test_a_whole_recording_in_every_form(tmp_path, name, form, lost):
    mine, health = imported(tmp_path, oracle() / f"{name}.{form}")
    theirs = pq.read_table(oracle() / f"{name}.parquet")
    same(mine.cast(_like(mine, theirs)), theirs, {*NOT_CARRIED, *lost})
    if "ts_ns" in lost:
        assert (mine["ts_ns"].to_numpy() == (theirs["ts_ns"].to_numpy() + 500) // 1000 * 1000).all()
    assert health.incomplete is None
    assert health.back == health.broken == health.not_understood == 0
    assert health.unknown_events == {}
    assert health.ties >= 557


def _plain(column):
    """
    Without dictionaries, whose entries may stand in another order.
    """
    return column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column


def _like(mine, theirs):
    """
    The schema of mine with the widths of theirs, where only those differ.
    """
    return pa.schema([theirs.schema.field(one.name) if one.name in theirs.column_names else one for one in mine.schema])


@needs_oracle
def test_raw_sub_buffers_of_a_whole_recording(tmp_path):
    """
    The clock of this one is x86-tsc: the file with its frequency is not among the raw ones, so times are ticks.
    """
    packed = pa.CompressedInputStream(pa.OSFile(str(oracle() / "tiny-4c.trace_pipe_raw.tar.zst")), "zstd")
    for file in (io.BytesIO(packed.read()), (oracle() / "tiny-4c.proc.tar.xz").open("rb")):
        with file, tarfile.open(fileobj=file) as archive:
            archive.extractall(tmp_path, filter="data")
    for name in ("formats.txt", "header_page.txt", "saved_cmdlines.txt"):
        (tmp_path / "tiny-4c" / name).rename(tmp_path / "ring" / name)
    mine, health = imported(tmp_path, tmp_path / "ring")
    theirs = pq.read_table(oracle() / "tiny-4c.parquet")
    same(mine.cast(_like(mine, theirs)), theirs, {*NOT_CARRIED, "ts_ns", "pfn"})
    pfn = np.array(mine["pfn"].to_pylist(), object)
    there = pfn != None  # noqa: E711
    assert (pfn[there] == np.array(theirs["pfn"].to_pylist(), object)[there]).all()
    assert {name for name, one in zip(mine["event"].to_pylist(), there, strict=True) if one} == {
        name for name in mine["event"].unique().to_pylist() if name.startswith("mm_page_")
    }, "the probes keep a pointer to the page, not its number"
    ticks, ns = mine["ts_ns"].to_numpy(), theirs["ts_ns"].to_numpy()
    scale = (ns[-1] - ns[0]) / (ticks[-1] - ticks[0])
    assert np.abs((ticks - ticks[0]) * scale - (ns - ns[0])).max() < 3
    assert health.incomplete is None


# The rows of tiny-4c that a plain kernel would have written, in every form.

PLAIN = [name for name in KNOWN[:7] if name != "mm_page_alloc_extfrag"]


def plain_rows():
    rows = pq.read_table(SHIPPED / "tiny-4c.parquet").to_pylist()
    pids = {cpu: (100 + cpu, f"task [{cpu}] -") for cpu in range(4)}
    return [dict(row, task=pids[row["cpu"]]) for row in rows if row["event"] in PLAIN]


def payload(row):
    """
    What tracefs prints behind the name of the event.
    """
    if row["event"] == "print":
        return f"tracing_mark_write: {row['marker']}"
    text = f"{row['event']}: page=00000000{row['pfn']:08x} pfn=0x{row['pfn']:x} order={row['order'] or 0}"
    for name in ("migratetype", "percpu_refill"):
        text += f" {name}={row[name]}" if row[name] is not None else ""
    return text + (f" gfp_flags={gfp_text(row['gfp_flags'])}" if row["gfp_flags"] is not None else "")


def as_tracefs(rows):
    lines = [text_line(row["task"][1], row["task"][0], row["cpu"], row["ts_ns"], payload(row)) for row in rows]
    return (HEAD + "".join(lines)).encode()


def as_report(rows):
    lines = [f"cpus=4\n"]  # noqa: F541
    for row in rows:
        rest = payload(row) if row["event"] != "print" else "print: " + payload(row)
        name, _, fields = rest.partition(": ")
        lines.append(text_line(row["task"][1], row["task"][0], row["cpu"], row["ts_ns"], f"{name + ':':<21} {fields}"))
    return "".join(lines).encode()


def as_perf(rows):
    lines = []
    for row in rows:
        system = "ftrace" if row["event"] == "print" else "kmem"
        rest = payload(row) if row["event"] != "print" else "print: " + payload(row)
        lines.append(perf_line(row["task"][1], row["task"][0], row["cpu"], row["ts_ns"], rest, system))
    return "".join(lines).encode()


def sub_buffers(rows, kernel):
    cpus = {cpu: [] for cpu in range(4)}
    for row in rows:
        layout, _ = kernel.layout(row["event"])
        fields = {name: row[name] for name in layout if name in row}
        text = row["marker"].encode() + b"\n" if row["marker"] is not None else None
        cpus[row["cpu"]].append((row["ts_ns"], kernel.event(row["event"], row["task"][0], text=text, **fields)))
    return {cpu: pages(events) for cpu, events in cpus.items()}


def cmdlines(rows):
    return b"".join(f"{pid} {comm}\n".encode() for pid, comm in sorted({row["task"] for row in rows}))


def as_dat7(rows):
    kernel = Kernel("6.6")
    return dat7({"": sub_buffers(rows, kernel)}, kernel.formats(), cmdlines=cmdlines(rows), codec="zlib")


def as_dat6(rows):
    kernel = Kernel("5.10")
    buffers = {"": list(sub_buffers(rows, kernel).values())}
    return dat6(buffers, kernel.formats(), cmdlines=cmdlines(rows))


@pytest.mark.parametrize("make", [as_tracefs, as_report, as_perf, as_dat7, as_dat6])
def test_the_shipped_rows_in_every_form(tmp_path, make):
    rows = plain_rows()
    path = tmp_path / "trace"
    path.write_bytes(gzip.compress(make(rows)))
    mine, health = imported(tmp_path, path)
    assert len(rows) == mine.num_rows == 9505
    assert health.incomplete is None
    in_us = make in (as_tracefs, as_report, as_perf)
    if make is as_dat6:  # which prints this without keeping it
        taken = [row for row in rows if row["percpu_refill"] is not None]
        for row in taken:
            row["percpu_refill"] = int(row["order"] == 0)
        assert len(taken) == 1534
    for name in ("cpu", "event", "pfn", "migratetype", "gfp_flags", "marker", "percpu_refill"):
        assert mine[name].to_pylist() == [row[name] for row in rows], name
    assert mine["order"].to_pylist() == [
        row["order"] if row["event"] != "mm_page_free_batched" else None for row in rows
    ]
    assert mine["ts_ns"].to_pylist() == [row["ts_ns"] // 1000 * 1000 if in_us else row["ts_ns"] for row in rows]
    assert list(zip(mine["pid"].to_pylist(), mine["comm"].to_pylist(), strict=True)) == [row["task"] for row in rows]


# The command.


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "trace.txt"
    path.write_text(
        HEAD + text_line("a", 1, 0, 5000, FREE) + "CPU:0 [LOST 3 EVENTS]\n" + text_line("a", 1, 0, 6000, FREE)
    )
    return path


def test_the_command(trace, tmp_path, capsys):
    out = tmp_path / "out.parquet"
    assert main(["import", str(trace), "-o", str(out), "--json", "-"]) == 0
    told = capsys.readouterr()
    document = json.loads(told.out)
    assert document["schema"] == "pcpbuddy.import/1"
    assert document["results"]["rows"] == 2
    assert document["results"]["events"] == {"mm_page_free": 2}
    assert document["results"]["health"]["lost"] == 3
    assert document["results"]["health"]["losses"] == [{"cpu": 0, "events": 3, "place": 4, "ts_ns": None}]
    assert f"{out} written" in told.err
    stored = pq.ParquetFile(out)
    manifest = json.loads(stored.metadata.metadata[b"pcpbuddy"])
    assert manifest["source"] == "trace.txt"
    assert manifest["source_sha256"] == hashlib.sha256(trace.read_bytes()).hexdigest()
    assert manifest["source_bytes"] == trace.stat().st_size
    assert manifest["health"]["lost"] == 3
    assert {"version", "commit", "form", "kernel"} <= manifest.keys()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.parquet", "trace.txt"]
    rows = files.read_rows(out)
    assert (rows.cpu_seq.tolist(), rows.phase.tolist()) == ([0, 4], [1, 1])
    assert "irq_flags" in stored.schema_arrow.names
    assert "fallback_order" not in stored.schema_arrow.names


def test_the_text_of_the_command(trace, tmp_path, capsys):
    trace.write_text(
        trace.read_text() + text_line("a", 1, 1, 5500, "evil\x1b[31m: x") + text_line("a", 1, 1, 5500, FREE)[:-9]
    )
    assert main(["import", str(trace), "-o", str(tmp_path / "out"), "-q"]) == 0
    text = capsys.readouterr().out
    assert max(len(line) for line in text.splitlines()) <= 100
    assert "\x1b" not in text
    assert "Incomplete: 3 events lost, cut off at the end." in text
    assert "3 events of CPU 0 lost before line 4" in text
    assert "cut off, and not taken: line 7: a-1" in text


def test_exit_codes(trace, tmp_path, capsys):
    out = str(tmp_path / "out.parquet")
    assert main(["import", str(trace), "-o", out, "-q", "--strict"]) == 4
    assert main(["import", str(trace), "-o", out, "-q"]) == 2
    assert "exists; -f replaces it" in capsys.readouterr().err
    assert main(["import", str(trace), "-o", out, "-q", "-f"]) == 0
    assert main(["import", str(trace), "-o", str(trace), "-q", "-f"]) == 2
    assert main(["import", str(trace), "-o", str(tmp_path / "no" / "out"), "-q"]) == 2
    assert main(["import", str(tmp_path / "no"), "-o", out, "-qf"]) == 2
    assert main(["import", str(trace), "-o", out, "-qf", "--kernel", "x"]) == 2
    assert main(["import", str(trace), "-o", out, "-qf", "--buffer", "x"]) == 2
    whole = (tmp_path / "out.parquet").read_bytes()
    trace.write_bytes(gzip.compress(trace.read_bytes())[:-9])
    capsys.readouterr()
    assert main(["import", str(trace), "-o", out, "-qf"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("pcpbuddy: trace.txt, byte ")
    assert said.count("\n") == 1
    assert (tmp_path / "out.parquet").read_bytes() == whole, "a failure leaves the file that was there"
    assert len(list(tmp_path.iterdir())) == 2


def test_standard_input(trace, tmp_path):
    out = tmp_path / "out.parquet"
    command = [sys.executable, "-m", "pcpbuddy.cli.main", "import", "-", "-o", str(out), "-q"]
    done = subprocess.run(command, input=trace.read_bytes(), capture_output=True, check=True)
    assert done.stdout.startswith(b"standard input: tracefs text")
    with trace.open("rb") as file:
        subprocess.run([*command, "-f"], stdin=file, capture_output=True, check=True)
    assert pq.read_table(out).num_rows == 2


def test_perf_data_by_way_of_perf(tmp_path, monkeypatch, capsys):
    """
    A stand-in for perf prints what perf would.
    """
    (tmp_path / "bin").mkdir()
    perf, trace = tmp_path / "bin" / "perf", tmp_path / "perf.data"
    trace.write_bytes(b"PERFILE2" + bytes(100))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    command = ["import", str(trace), "-o", str(tmp_path / "out"), "-q", "-f"]
    assert main(command) == 2
    assert "perf is not installed" in capsys.readouterr().err
    line = "sh 5 [001] 1.000000123: kmem:mm_page_alloc: page=0x1 pfn=0x5 order=0 migratetype=1 gfp_flags=GFP_ATOMIC"
    perf.write_text(f"#!/bin/sh\nshift 5\necho '# os release : 5.15.0-91'\ntest $2 = {trace} && echo '{line}'\n")
    perf.chmod(0o755)
    assert main([*command, "--json", "-"]) == 0
    manifest = json.loads(capsys.readouterr().out)["manifest"]
    assert (manifest["kernel"], manifest["source"]) == ("5.15.0-91", "perf.data")
    assert manifest["source_sha256"] == hashlib.sha256(trace.read_bytes()).hexdigest()
    (row,) = pq.read_table(tmp_path / "out").to_pylist()
    assert (row["ts_ns"], row["pid"], row["gfp_flags"]) == (1000000123, 5, 0xA20)
    perf.write_text(f"#!/bin/sh\necho '{line}'\necho oops >&2\nexit 3\n")
    assert main(command) == 2
    assert "perf.data: perf script failed: oops" in capsys.readouterr().err


def test_columns_that_come_late(tmp_path, monkeypatch):
    """
    A column that is filled for the first time after some parts were written: the file has it, null before.
    """
    monkeypatch.setattr(store, "ROWS_AT_ONCE", 3000)
    lines = [text_line("a", 1, 0, i * 1000, FREE) for i in range(20000)]
    lines[15000] = text_line("b", 2, 0, 15000000, "mm_vmscan_kswapd_sleep: nid=5")
    path = tmp_path / "trace"
    path.write_text(HEAD + "".join(lines))
    table, _ = imported(tmp_path, path)
    assert [i for i, nid in enumerate(table["nid"].to_pylist()) if nid is not None] == [15000]
    assert table["ts_ns"].to_pylist() == [i * 1000 for i in range(20000)]
    assert table["comm"].to_pylist() == ["b" if i == 15000 else "a" for i in range(20000)]


def test_numbers_that_are_too_large_for_the_file(tmp_path, capsys):
    (tmp_path / "trace").write_text(HEAD + text_line("a", 1, 0, 5000, FREE.replace("order=2", "order=300")))
    assert main(["import", str(tmp_path / "trace"), "-o", str(tmp_path / "out"), "-q", "--json", "-"]) == 0
    assert pq.read_table(tmp_path / "out")["order"].to_pylist() == [None]
    assert json.loads(capsys.readouterr().out)["results"]["health"]["out_of_range"] == 1


def test_an_empty_trace_is_a_file_without_rows(tmp_path, capsys):
    (tmp_path / "trace").write_text(HEAD)
    assert main(["import", str(tmp_path / "trace"), "-o", str(tmp_path / "out"), "-q"]) == 0
    assert pq.read_table(tmp_path / "out").num_rows == 0
    assert "none that a column is for" in capsys.readouterr().out


def test_the_flags_of_today_are_those_of_names():
    words = gfp.Words()
    for bits in (0xCC0, 0x100CCA, 0x1C24CA, 0x820, 0x2800, 0x7FFDFF, 0):
        assert words(0, gfp_text(bits).encode()) == bits
    assert words.unknown == {}
