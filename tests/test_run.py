"""
Runs in virtual time: percentiles and other figures of time, the file, Arrow tables, the notebook's HTML.
"""

import dataclasses
import json
import re
import sys
import zipfile

import labdata
import numpy as np
import pytest

from pcpbuddy import metrics
from pcpbuddy.errors import UsageError
from pcpbuddy.quantities import ns_text, share_text
from pcpbuddy.report.run import report
from pcpbuddy.run import Run, histogram, load_run, overtime, timing


@pytest.fixture
def run():
    return labdata.run()


def exact(values, percent):
    """
    The value that so many per cent do not exceed, by nearest rank; NumPy's own rank of 99.9 % is one off at times.
    """
    return sorted(values)[max(-(-len(values) * round(percent * 1000) // 100_000), 1) - 1]


# Histograms.


def test_bins_are_those_of_the_machine():
    """
    The bin is the value below 32, else 32 * (e - 4) + (value >> (e - 5)) - 32 with e = floor(log2 value).
    """
    for value in [*range(40000), *(int(1.01**k) for k in range(1000, 2900))]:
        e = max(value.bit_length() - 1, 0)
        assert histogram.bin_of(value) == (value if value < 32 else 32 * (e - 4) + (value >> (e - 5)) - 32)
        edges = histogram.bin_edges()
        at = histogram.bin_of(value)
        assert edges[at] <= value < edges[at + 1]


def test_bins_are_narrow():
    edges = histogram.bin_edges()
    assert len(edges) == histogram.NR_BINS + 1
    assert (np.diff(edges) > 0).all()
    assert (np.diff(edges)[32:] * 32 <= edges[33:]).all()


@pytest.mark.parametrize("n", [1, 2, 10, 101, 5000])
def test_percentiles_against_numpy(n):
    """
    Within the width of a bin, 1 part in 32, of the value at that rank.
    """
    values = labdata.times_ns(np.random.default_rng(n), n)
    counts = labdata.histogram_of(values)
    for percent in (0.1, 1, 25, 50, 90, 99, 99.9, 100):
        got = histogram.percentile(counts, percent, float(values.max()))
        assert got == pytest.approx(exact(values, percent), rel=1 / 32)
        assert got <= values.max()
    for percent in (25, 50, 75):
        numpys = np.percentile(values, percent, method="inverted_cdf")
        assert histogram.percentile(counts, percent) == pytest.approx(numpys, rel=1 / 32)


def test_small_percentiles_are_exact():
    values = np.arange(32).repeat(7)
    for percent in range(1, 101):
        assert histogram.percentile(labdata.histogram_of(values), percent) == exact(values, percent)


def test_the_rank_of_a_percentile_is_a_whole_number():
    """
    99.9 % of 1000 values is the 999th, though 1000 * 99.9 / 100 in floating point is a little more.
    """
    counts = labdata.histogram_of([1] * 999 + [20])
    assert histogram.percentile(counts, 99.9) == 1
    assert histogram.percentile(labdata.histogram_of([]), 50) == 0


# Figures of time.


def test_lock_figures_against_the_raw_times():
    counted, raw = labdata.result(seed=3)
    figures = timing.figures(counted, ["Z0", "Z1"])
    cpu_time_ns = 8_000_000 * 4
    cases = [("zone_lock", "", "", range(2), range(5)), ("zone_lock", "zones.Z1.", ".drain", [1], [3])]
    cases += [("pcp_lock", "", ".remote", range(2), [2, 4]), ("pcp_lock", "zones.Z0.", ".local", [0], [0, 1, 3])]
    for lock, prefix, group, zones, kinds in cases:
        chosen = [raw[lock][zone, kind] for zone in zones for kind in kinds]
        waits = np.concatenate([w for w, _ in chosen])
        holds = np.concatenate([h for _, h in chosen])
        assert figures[f"{prefix}{lock}.holds{group}"] == len(holds)
        assert figures[f"{prefix}{lock}.waits{group}"] == len(waits)
        # Acquisitions that did not wait are part of every figure of waits, with 0.
        all_waits = np.concatenate([waits, np.zeros(len(holds) - len(waits), np.int64)])
        for name, values in (("wait_ns", all_waits), ("hold_ns", holds)):
            at = f"{prefix}{lock}.{name}{group}"
            assert figures[f"{at}.total"] == pytest.approx(values.sum())
            assert figures[f"{at}.mean"] == pytest.approx(values.mean())
            assert figures[f"{at}.share"] == pytest.approx(values.sum() / cpu_time_ns)
            assert figures[f"{at}.max"] == values.max()
            for key, percent in histogram.PERCENTILES.items():
                assert figures[f"{at}.{key}"] == pytest.approx(exact(values, percent), rel=1 / 32)


def test_utilisation_is_that_of_the_busiest_lock():
    counted, raw = labdata.result()
    held = [sum(raw["zone_lock"][zone, kind][1].sum() for kind in range(5)) for zone in range(2)]
    figures = timing.figures(counted, ["Z0", "Z1"])
    assert figures["zone_lock.utilisation"] == pytest.approx(max(held) / 8_000_000)
    assert figures["zones.Z0.zone_lock.utilisation"] == pytest.approx(held[0] / 8_000_000)


def test_shares_of_cpu_time_sum_to_one(run):
    shares = [run.metrics[f"cpu.{name}"] for name in timing.CATEGORIES]
    assert sum(shares) == pytest.approx(1)
    busy = 1 - run.metrics["cpu.sleep"] - run.metrics["cpu.done"]
    assert run.metrics["cpu.utilisation"] == pytest.approx(busy)
    assert run.cpus["cpu.user"].mean() == pytest.approx(run.metrics["cpu.user"])


def test_rates_are_per_second_of_virtual_time(run):
    assert run.metrics["time.measured_ns"] == 8_000_000
    assert run.metrics["time.before_ns"] == 5_000_000
    assert run.metrics["allocs.per_s"] == pytest.approx(4000 / 0.008)
    assert run.metrics["work.per_s"] == pytest.approx(run.cpus["work"].sum() / 0.008)


def test_stopped_before_anything_happened():
    """
    No time, no samples: figures are 0, and nothing divides by it.
    """
    counted, _ = labdata.result(samples=0)
    counted["cpu_ps"][:] = 0
    figures = timing.figures(counted, ["Z0", "Z1"])
    assert figures["zone_lock.wait_ns.share"] == figures["cpu.utilisation"] == figures["work.per_s"] == 0


def test_fragmentation_over_time_is_that_of_one_moment():
    """
    The arrays give what metrics.fragmentation_index and .unusable_index give for each row.
    """
    rng = np.random.default_rng(5)
    rows = rng.integers(0, 40, (60, 11)) * (rng.random((60, 11)) < 0.4)
    rows[0] = 0
    for order in range(1, 11):
        index, unusable = overtime.frag_index(rows, order), overtime.unusable(rows, order)
        assert index.tolist() == [metrics.fragmentation_index(row, order) for row in rows]
        assert unusable.tolist() == [metrics.unusable_index(row, order) for row in rows]


def test_memory_over_time(run):
    rows = run.samples
    parked = rows["parked_pages"].reshape(-1, 2)
    assert run.metrics["pcp.parked_pages.mean"] == pytest.approx(parked.sum(axis=1).mean())
    assert run.metrics["pcp.parked_pages_max"] == parked.sum(axis=1).max()
    assert run.metrics["zones.Z1.cma.free_pages.min"] == rows["cma_free"][rows["zone"] == 1].min()
    columns = run.over_time("Z1")
    assert columns["t_ns"].tolist() == [1e6 * k for k in range(1, 9)]
    assert columns["free_pages"].tolist() == rows["free_pages"][rows["zone"] == 1].tolist()


def test_histograms_come_back_whole(run):
    counted, _ = labdata.result()
    assert (run.histogram("zone_lock.wait_ns") == counted["zone_lock"]["wait_hist"].sum(axis=(0, 1))).all()
    assert (
        run.histogram("pcp_lock.hold_ns", kind="free_remote", zone="Z1") == counted["pcp_lock"]["hold_hist"][1, 2]
    ).all()
    assert (run.histogram("call.ns", kind="bulk") == counted["call_hist"][3]).all()


def test_user_locks_have_figures_of_their_own():
    counted, _ = labdata.result()
    counted["user_lock"] = labdata.stacked([[labdata.section([5], [7, 9])], [labdata.section([], [100])]])
    figures = timing.figures(counted, ["Z0", "Z1"])
    assert (figures["user_lock.0.holds"], figures["user_lock.0.waits"], figures["user_lock.0.wait_ns.total"]) == (
        2,
        1,
        5,
    )
    assert figures["user_lock.1.hold_ns.max"] == 100


# The file.


def test_round_trip(run, tmp_path):
    run.save(tmp_path / "a.run")
    again = load_run(tmp_path / "a.run")
    assert again.metrics == run.metrics
    assert list(again.metrics) == list(run.metrics)
    assert again.manifest == run.manifest
    assert (again.samples == run.samples).all()
    assert (again.counts == run.counts).all()
    assert again.samples.dtype == run.samples.dtype
    assert {name: column.tolist() for name, column in again.cpus.items()} == {
        name: column.tolist() for name, column in run.cpus.items()
    }
    assert again.digest == run.digest
    assert repr(again) == repr(run)
    assert again.document() == json.loads(json.dumps(run.document()))


def test_same_run_same_bytes(tmp_path):
    for name in ("a", "b"):
        labdata.run(elapsed_ns=len(name)).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    labdata.run(seed=2).save(tmp_path / "c")
    assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes()
    load_run(tmp_path / "a").save(tmp_path / "d")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "d").read_bytes()


def test_the_file_has_no_date(run, tmp_path):
    run.save(tmp_path / "a.run")
    with zipfile.ZipFile(tmp_path / "a.run") as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert list(tmp_path.iterdir()) == [tmp_path / "a.run"]


def test_digest_is_of_what_was_asked_and_what_came_out(run):
    other_machine = {**run.manifest, "machine": {"cpus": 96}, "commit": "abc", "python": "3.14", "version": "9"}
    assert dataclasses.replace(run, manifest=other_machine).digest == run.digest
    assert labdata.run(seed=2).digest != run.digest
    assert dataclasses.replace(run, manifest={**run.manifest, "seed": 2}).digest != run.digest
    assert dataclasses.replace(run, metrics={**run.metrics, "allocs": 1}).digest != run.digest


def test_files_that_are_no_runs(run, tmp_path):
    def refused(name):
        with pytest.raises(UsageError) as caught:
            load_run(tmp_path / name)
        assert name in str(caught.value)
        return str(caught.value)

    assert "No such file" in refused("nowhere.run")
    (tmp_path / "text.run").write_text("hello")
    assert "no run, or damaged" in refused("text.run")
    run.save(tmp_path / "cut.run")
    (tmp_path / "cut.run").write_bytes((tmp_path / "cut.run").read_bytes()[:-5000])
    assert "no run, or damaged" in refused("cut.run")
    with zipfile.ZipFile(tmp_path / "new.run", "w") as archive:
        archive.writestr("run.json", json.dumps({"schema": "pcpbuddy.run/7", "manifest": {}}))
    assert "schema pcpbuddy.run/7" in refused("new.run")
    with zipfile.ZipFile(tmp_path / "other.run", "w") as archive:
        archive.writestr("something", "else")
    assert "no run, or damaged" in refused("other.run")


def test_a_flipped_byte_is_noticed(run, tmp_path):
    run.save(tmp_path / "a.run")
    data = bytearray((tmp_path / "a.run").read_bytes())
    at = data.index(b'"allocs": 4000') + len('"allocs": ')
    data[at] = ord("9")
    (tmp_path / "a.run").write_bytes(data)
    with pytest.raises(UsageError, match="damaged"):
        load_run(tmp_path / "a.run")


def test_a_directory_that_is_not_there(run, tmp_path):
    with pytest.raises(UsageError, match="cannot be written: No such file or directory"):
        run.save(tmp_path / "nowhere" / "a.run")


# Partial runs.


def test_partial_runs_say_so(tmp_path):
    whole, part = labdata.run(), labdata.run(partial=True)
    assert not whole.partial
    assert part.partial
    assert "partial" in repr(part)
    assert "partial" not in repr(whole)
    assert "partial" in part._repr_html_()
    assert ">partial" not in whole._repr_html_()
    part.save(tmp_path / "a.run")
    assert load_run(tmp_path / "a.run").partial
    assert part.document()["results"]["partial"] is True


# The report.


def test_report_has_the_shape_of_perf_lock_contention(run):
    lines = report(run).splitlines()
    assert max(map(len, lines)) <= 100
    assert all(line.isascii() for line in lines)
    head = lines.index(" contended total wait  max wait  avg wait  avg hold  max hold   holds   caller")
    zone = lines[head + 1].split(maxsplit=7)
    m = run.metrics
    assert zone[0] == str(m["zone_lock.waits"])
    assert zone[3] == ns_text(m["zone_lock.wait_ns.total"] / m["zone_lock.waits"])
    assert zone[6:] == [str(m["zone_lock.holds"]), f"zone lock: {share_text(m['zone_lock.wait_ns.share'])} CPU time"]
    assert lines[head + 2].endswith("     refill: rmqueue_bulk")
    assert sum(line.startswith("  alloc ") for line in lines) == 1
    assert f"digest {run.digest}" in lines


def test_report_ends_with_what_is_not_in_it(run):
    text = " ".join(report(run).split())
    assert "Costs: server-2s, not calibrated on any machine here: compare runs with one another" in text
    assert "Not in the model: reclaim, compaction and OOM" in text
    calibrated = labdata.run(costs={"name": "mine.toml", "calibrated": True, "machine": {"cpu": "x"}})
    assert "Costs: mine.toml, calibrated on the machine that it names." in " ".join(report(calibrated).split())


def test_report_marks_what_did_not_end_well():
    assert report(labdata.run(partial=True)).startswith("PARTIAL: stopped before its end; all figures")
    waits = [
        {"cpu": cpu, "context": "task", "waits_for": "PCP lock", "number": cpu ^ 1, "holder": cpu ^ 1}
        for cpu in range(12)
    ]
    stuck = labdata.run(stuck=waits)
    lines = report(stuck).splitlines()
    assert lines[0].startswith("STUCK: every CPU that is not done waits for another one")
    assert "  CPU 0, task: waits for PCP lock 1, which CPU 1 holds" in lines
    assert "  and 4 more" in lines
    assert "stuck" in repr(stuck)
    assert "every CPU waits for another one" in stuck._repr_html_()


def test_report_says_what_of_a_recording_is_left_out():
    workload = {**labdata.manifest()["workload"], "left_out": {"rows_lost": 7, "frees_in_pieces": 2}}
    text = " ".join(report(labdata.run(workload=workload)).split())
    assert "Not carried out, or not as recorded: 7 rows lost in the recording; 2 frees in pieces." in text


def test_a_long_command_stays_one_for_a_shell():
    command = "pcpbuddy run exit/storm " + " ".join(f"--set parameter_{n}={n}" for n in range(9))
    text = report(labdata.run(command=command))
    shown = text[text.index("Again: ") + len("Again: ") : text.index("digest")]
    assert max(map(len, shown.splitlines())) <= 100
    assert shown.replace("\\\n", "").split() == command.split()


# Tables.


def test_tables(run, tmp_path):
    pa = pytest.importorskip("pyarrow")
    tables = run.tables()
    assert list(tables) == ["metrics", "samples", "cpus", "histograms"]
    values = dict(zip(*(tables["metrics"].column(name).to_pylist() for name in ("metric", "value")), strict=True))
    assert values == run.metrics
    assert tables["samples"].num_rows == len(run.samples)
    assert tables["samples"]["zone"].to_pylist()[:2] == ["Z0", "Z1"]
    assert tables["samples"]["nr_free_3"].to_pylist() == run.samples["nr_free"][:, 3].tolist()
    assert tables["cpus"]["cpu"].to_pylist() == [0, 1, 2, 3]
    rows = tables["histograms"].to_pylist()
    waits = sum(row["count"] for row in rows if row["histogram"] == "zone_lock.wait_ns" and row["kind"] == "refill")
    assert waits == run.metrics["zone_lock.waits.refill"]
    assert all(row["from_ns"] < row["to_ns"] for row in rows)
    assert {row["zone"] for row in rows if row["histogram"] == "call.ns"} == {None}
    for table in tables.values():
        assert json.loads(table.schema.metadata[b"pcpbuddy"]) == run.manifest
    written = run.export(tmp_path / "out")
    assert sorted(path.name for path in written) == [
        "cpus.parquet",
        "histograms.parquet",
        "metrics.parquet",
        "samples.parquet",
    ]
    import pyarrow.parquet as parquet

    assert parquet.read_table(tmp_path / "out" / "samples.parquet") == tables["samples"]
    assert run.export(tmp_path / "a.parquet") == [tmp_path / "a.parquet"]
    assert parquet.read_table(tmp_path / "a.parquet").schema.metadata[b"pcpbuddy"]
    assert pa.types.is_floating(tables["metrics"].schema.field("value").type)


def test_tables_without_pyarrow(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"pip install 'pcpbuddy\[lab\]'"):
        run.tables()


# The notebook.


def test_html_contains_figures_and_nothing_from_elsewhere(run):
    text = run._repr_html_()
    assert "exit/storm" in text
    assert "processes exit at once" in text
    assert "8.00ms of virtual time" in text
    assert f"{100 * run.metrics['zone_lock.wait_ns.share']:.1f}%" in text
    assert "not calibrated" in text
    assert run.digest[:16] in text
    assert text.count("<svg") == text.count("</svg>") >= 4
    assert not re.search(r"https?:|<script|<link|@import|url\(", text)
    assert len(text) < 30_000


def test_html_escapes_names():
    text = labdata.run(
        policy="<b>&", workload={"name": "<i>", "meaning": "a<b", "unit": "", "source": ""}
    )._repr_html_()
    assert "<i>" not in text
    assert "&lt;b&gt;&amp;" in text
    assert "a&lt;b" in text


def test_html_without_samples():
    counted, _ = labdata.result(samples=0)
    from pcpbuddy.run import measured

    made = measured(counted, labdata.COUNTED, [{"allocs": 1}] * 4, labdata.manifest())
    assert "exit/storm" in made._repr_html_()


def test_repr(run):
    assert repr(run).startswith("<Run of exit/storm on 4 CPUs under fixed: 8.00ms, ")
    assert isinstance(run, Run)
