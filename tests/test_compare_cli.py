"""
``pcpbuddy compare``: the table, the JSON document, exit codes, and what goes to stdout and what to stderr.
"""

import dataclasses
import hashlib
import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_recording import SHIPPED, needs_oracle, oracle

import pcpbuddy
from pcpbuddy import comparison, workload
from pcpbuddy.cli.main import main
from pcpbuddy.errors import UsageError
from pcpbuddy.report import table as report
from pcpbuddy.requests import ALLOC, FREE

GOLDEN = Path(__file__).parent / "golden"

# rfc.md section 17: zone-lock holds and list operations, mainline and fixed.
SHAPES = {
    "S1": ((136, 35958), (11, 45)),
    "S2": ((268, 67916), (1, 2)),
    "S3": ((24, 31743), (20, 62)),
    "S4": ((343, 54322), (343, 35584)),
    "S5": ((288, 96174), (36, 132)),
    "S6": ((174, 32865), (174, 19677)),
}


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


def process(*argv, **options):
    return subprocess.run(
        [sys.executable, "-m", "pcpbuddy.cli.main", *map(str, argv)],
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


# Figures.


@pytest.mark.parametrize("shape", SHAPES)
def test_shape_vectors(shape):
    runs = pcpbuddy.compare(f"shape/{shape}", "mainline,null,fixed").runs
    got = [(r.metrics["zone_lock.holds"], r.metrics["zone_lock.list_ops"]) for r in runs]
    mainline, fixed = SHAPES[shape]
    assert got == [mainline, mainline, fixed]
    assert all(r.metrics["zone_lock.holds.direct_free"] == r.metrics["zone_lock.holds.other"] == 0 for r in runs)


def test_shapes_are_what_their_text_says():
    hand_over = workload.workload("shape/S1").requests
    assert set(hand_over["op"][:8192].tolist()) == {ALLOC}
    assert set(hand_over["op"][8192:].tolist()) == {FREE}
    assert hand_over["cpu"].tolist() == [0] * 8192 + [1] * 8192
    stream = workload.workload("shape/S2").requests
    assert len(stream) == 2 * 16384 - 256
    assert stream[:258]["op"].tolist() == [ALLOC] * 257 + [FREE]
    assert stream["pfn"][255:261].tolist() == [255, 256, 0, 257, 1, 258]
    turns = workload.workload("shape/S5").requests
    assert turns["cpu"][:5].tolist() == [0, 1, 2, 3, 0]
    assert np.bincount(turns["cpu"][turns["op"] == FREE]).tolist() == [6144] * 4


def test_every_policy_sees_the_same_requests():
    compared = pcpbuddy.compare(SHIPPED / "mixed-cut-4c", "mainline,null,posted,fixed")
    assert compared.nr_requests == 35011
    assert (
        len({(r.metrics["allocs"], r.metrics["pages.allocated"], r.metrics["pages.freed"]) for r in compared.runs}) == 1
    )
    assert compared.runs[0].metrics["allocs"] == 20040
    for r in compared.runs:
        assert r.metrics["frees.unknown"] == r.metrics["frees.double"] == 0
        assert not r.skipped


@pytest.mark.parametrize("name", ["tiny-4c", "affinity-cut-4c", "exits-cut-4c", "cma-cut-4c", "mixed-cut-4c"])
def test_shipped_recordings_run_clean(name):
    for r in pcpbuddy.compare(SHIPPED / name, "mainline,null,posted,fixed").runs:
        assert r.metrics["allocs.failed"] == 0
        assert not r.skipped
        assert r.metrics["allocs"] > 1000


@needs_oracle
@pytest.mark.parametrize("name", ["tiny-4c", "exits-4c", "affinity-4c", "cma-4c", "mixed-4c", "exits-plain-4c"])
def test_whole_recordings_run_clean(name):
    for r in pcpbuddy.compare(oracle() / name, "mainline,null,posted,fixed").runs:
        assert r.metrics["allocs.failed"] == 0
        assert not r.skipped


@needs_oracle
def test_mainline_comes_near_the_recorded_kernel():
    """
    In handle mode mainline need not match; where timing leaves it alone it does (replay.md, section 4).
    """
    (cma,) = pcpbuddy.compare(oracle() / "cma-4c", "mainline").runs
    assert cma.metrics["cma.alloc_share"] == pytest.approx(0.761, abs=0.005)
    assert cma.metrics["cma.movable_share"] == pytest.approx(0.769, abs=0.005)
    (tiny,) = pcpbuddy.compare(oracle() / "tiny-4c", "mainline").runs
    assert tiny.metrics["pcp.parked_pages"] == 5413  # as in snapshot 1


# The table.


def golden(name, text):
    """
    Compare with a golden file; PCPBUDDY_UPDATE_GOLDEN=1 writes it instead.
    """
    path = GOLDEN / name
    if os.environ.get("PCPBUDDY_UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text(), f"{path.name} differs; PCPBUDDY_UPDATE_GOLDEN=1 rewrites it"


@pytest.mark.parametrize(
    ("name", "argv"),
    [
        ("compare-S1.txt", ("shape/S1", "--policy", "mainline,fixed")),
        ("compare-S1-four.txt", ("shape/S1", "--policy", "mainline,null,posted,fixed")),
        ("compare-S1-all.txt", ("shape/S1", "--policy", "mainline,fixed", "--all")),
        ("compare-affinity-cut-4c.txt", (SHIPPED / "affinity-cut-4c", "--policy", "mainline,posted,fixed")),
        ("compare-cma-cut-4c.txt", (SHIPPED / "cma-cut-4c", "--policy", "mainline,posted,fixed")),
    ],
)
def test_golden_tables(capsys, name, argv):
    code, out, err = run(capsys, "compare", *argv, "-q")
    assert (code, err) == (0, "")
    golden(name, out)
    assert max(map(len, out.splitlines())) <= report.WIDTH
    assert out.isascii()


def test_all_shows_every_metric_of_the_vocabulary():
    shown = {metric for _, lines in report.GROUPS for metric, _, _ in lines}
    (only,) = pcpbuddy.compare("shape/S1", "fixed").runs
    assert shown == {name for name in only.metrics if not name.startswith(("zones.", "cpus."))}


def made(*runs, **fields):
    """
    A comparison with figures put in by hand: (policy name, changed metrics, skipped).
    """
    compared = pcpbuddy.compare("shape/S2", "fixed")
    (base,) = compared.runs
    which = base.policy
    new = [
        dataclasses.replace(
            base, policy=dataclasses.replace(which, name=name), metrics=base.metrics | changed, skipped=skipped
        )
        for name, changed, skipped in runs
    ]
    return dataclasses.replace(compared, runs=new, **fields)


def line(text, title):
    return next(row for row in text.splitlines() if row.strip().startswith(title)).split()[len(title.split()) :]


def test_changes():
    text = report.table(
        made(
            ("a", {"allocs": 1000, "zone_lock.moves": 0, "allocs.from_pcp": 0.5, "frag.unusable_9": 7}, {}),
            ("b", {"allocs": 1001, "zone_lock.moves": 4, "allocs.from_pcp": 0.753, "frag.unusable_9": 5}, {}),
            ("c", {"allocs": 99999, "zone_lock.moves": 0, "allocs.from_pcp": 0.5001, "frag.unusable_9": 7}, {}),
        )
    )
    assert line(text, "allocations") == ["1000", "1001", "+0.1%", "99999", "x100"]
    assert line(text, "chunks moved between types") == ["0", "4", "new", "0", "="]
    assert line(text, "served without zone lock") == ["50.0%", "75.3%", "+25.3pt", "50.0%", "~"]
    assert line(text, "unusable for order 9, x 1000") == ["7", "5", "-2", "7", "="]


def test_what_was_skipped_stands_below():
    text = report.table(
        made(
            ("a", {}, {"frees_unknown": 3}),
            ("b", {}, {"frees_unknown": 3, "frees_of_failed": 9}),
            left_out={"rows_lost": 12, "drain_zone": 2},
        )
    )
    flat = " ".join(text.split())
    assert "Not replayed, or not as recorded: 12 rows lost in the recording; 2 drain_zone rows." in flat
    assert "Skipped under a: 3 frees of pages that nobody was seen to allocate." in flat
    assert "Skipped under b: 3 frees of pages that nobody was seen to allocate; 9 frees of pages whose" in flat
    same = report.table(made(("a", {}, {"frees_double": 1}), ("b", {}, {"frees_double": 1})))
    assert "Skipped under every policy: 1 second frees of a page." in same


def test_contention_is_spoken_of_under_every_table(capsys):
    _, out, _ = run(capsys, "compare", "shape/S2", "-q")
    assert "One thread, no contention" in out
    assert "posted and fixed differ only where CMA blocks or failing locks" in " ".join(out.split())


def test_a_long_policy_name_keeps_the_columns():
    name = "fixed+gate=never+phase2=off+merge=never"
    text = report.table(pcpbuddy.compare("shape/S4", f"mainline,{name},fixed"))
    assert f"\n[2] {name}\n\n" in text
    assert next(row for row in text.splitlines() if row.startswith("  ")).split() == ["mainline", "[2]", "fixed"]
    assert max(map(len, text.splitlines())) <= report.WIDTH


# JSON.


def test_json(capsys):
    code, out, err = run(capsys, "compare", "shape/S1", "--policy", "mainline,fixed", "--json", "-", "-q")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert list(document) == ["schema", "manifest", "results"]
    assert document["schema"] == "pcpbuddy.compare/1"
    assert [result["policy"] for result in document["results"]] == ["mainline", "fixed"]
    for result, (holds, ops) in zip(document["results"], SHAPES["S1"], strict=True):
        assert set(result) == {"policy", "metrics", "skipped"}
        assert result["metrics"]["zone_lock.holds"] == holds
        assert result["metrics"]["zone_lock.list_ops"] == ops
        assert result["metrics"]["cpus.1.frees.local"] + result["metrics"]["cpus.1.frees.remote"] == 8192
        assert all(type(value) in (int, float) for value in result["metrics"].values())
    manifest = document["manifest"]
    made_again = [pcpbuddy.Policy(name=name, **switches) for name, switches in manifest["policies"].items()]
    assert made_again == [pcpbuddy.policy("mainline"), pcpbuddy.policy("fixed")]
    assert manifest["version"] == pcpbuddy.__version__
    assert manifest["source"] == "shape/S1"
    assert manifest["policies"]["fixed"]["gate"] == "fit"
    assert manifest["seed"] is None
    assert set(manifest["machine"]) == {"system", "arch", "cpus"}


def test_json_of_a_recording_names_its_bytes(capsys):
    _, out, _ = run(capsys, "compare", SHIPPED / "tiny-4c", "--json", "-", "-q")
    manifest = json.loads(out)["manifest"]
    digest = hashlib.sha256()
    for ending in (".parquet", ".snap0.json.zst", ".snap0.npz"):
        digest.update((SHIPPED / f"tiny-4c{ending}").read_bytes())
    assert manifest["source_sha256"] == digest.hexdigest()
    assert manifest["left_out"] == {"rows_before_snapshot_0": 324}
    assert str(SHIPPED) not in out


def test_the_same_input_gives_the_same_bytes():
    first, second = (process("compare", SHIPPED / "tiny-4c", "--json", "-") for _ in range(2))
    assert first.returncode == second.returncode == 0
    assert first.stdout == second.stdout


# Policies.


def test_policies_as_values():
    which = pcpbuddy.Policy(name="mine", gate="never")
    compared = pcpbuddy.compare("shape/S4", ["mainline", which])
    assert [r.policy.name for r in compared.runs] == ["mainline", "mine"]
    assert [r.policy.name for r in pcpbuddy.compare("shape/S4", which).runs] == ["mine"]
    with pytest.raises(UsageError, match="no policy given"):
        pcpbuddy.compare("shape/S4", [])


def test_the_function_stays_a_function():
    assert callable(pcpbuddy.compare)
    assert pcpbuddy.compare is comparison.compare


def test_progress_is_told_between_slices():
    told = []
    pcpbuddy.compare("shape/S5", "fixed", progress=lambda *args: told.append(args))
    assert told == [("fixed", 0, 49152), ("fixed", 49152, 49152)]


# Exit codes, and who writes where.


def snapshot_of_another(folder):
    for ending in (".parquet", ".snap1.json.zst", ".snap1.npz"):
        shutil.copyfile(SHIPPED / f"tiny-4c{ending}", folder / f"x{ending}")
    for ending in (".snap0.json.zst", ".snap0.npz"):
        shutil.copyfile(SHIPPED / f"mixed-cut-4c{ending}", folder / f"x{ending}")
    return folder / "x"


def truncated(folder):
    data = (SHIPPED / "tiny-4c.parquet").read_bytes()
    (folder / "x.parquet").write_bytes(data[:20000])
    return folder / "x.parquet"


def no_recording(folder):
    (folder / "notes.txt").write_text("not a recording\n")
    return folder / "notes.txt"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("shape/S1", "--policy", "best"), ("unknown policy 'best'", "mainline, null, posted, fixed")),
        (("shape/S1", "--policy", ""), ("empty name of a policy",)),
        (
            ("shape/S1", "--policy", "fixed+gate=maybe"),
            ("gate=maybe (P-34): expected fit, always, never, min or plenty",),
        ),
        (("shape/S1", "--policy", "fixed+door=open"), ("no switch 'door'", "switches are: remote")),
        (("shape/S1", "--policy", "mainline+gate=fit"), ("pcp_lists=14 needs gate=never", "seen: gate=fit")),
        (("shape/S1", "--policy", "nowhere.toml"), ("nowhere.toml cannot be read: No such file",)),
        (("shape/S1", "--policy", "fixed+gate"), ("'gate'", "no SWITCH=VALUE")),
        (("shape/S1", "--policy", "fixed,fixed"), ("given 2 times",)),
        (("shape/S7",), ("unknown workload 'shape/S7'", "shape/S6")),
        (("shape/",), ("unknown workload",)),
        (("nowhere/nothing",), ("neither a workload nor a file",)),
        ((no_recording,), ("notes.txt is not a recording",)),
        ((truncated,), ("truncated or damaged",)),
        ((snapshot_of_another,), ("belongs to another recording",)),
        ((), ("SOURCE",)),
        (("shape/S1", "--json", "out.json"), ("--json",)),
        (("shape/S1", "--frobnicate"), ("unrecognized arguments",)),
    ],
)
def test_bad_input(capsys, tmp_path, argv, words):
    """
    One sentence on stderr, nothing on stdout, exit 2, nothing written.
    """
    argv = [arg(tmp_path) if callable(arg) else arg for arg in argv]
    before = sorted(tmp_path.iterdir())
    code, out, err = run(capsys, "compare", *argv)
    assert (code, out) == (2, "")
    sentence = err.splitlines()[-1]
    assert sentence.startswith("pcpbuddy")
    for word in words:
        assert word in sentence
    if ": error: " not in sentence:  # argparse adds its usage lines
        assert len(err.splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before


def test_a_name_that_does_not_exist_is_told_before_anything_runs(capsys):
    _, _, err = run(capsys, "compare", SHIPPED / "tiny-4c", "--policy", "mainline,best")
    assert len(err.splitlines()) == 1


def test_no_command(capsys):
    code, out, err = run(capsys)
    assert (code, out) == (2, "")
    assert "COMMAND" in err


def test_version(capsys):
    assert run(capsys, "--version") == (0, f"pcpbuddy {pcpbuddy.__version__}\n", "")


@pytest.mark.parametrize("argv", [("--help",), ("compare", "--help")])
def test_help_has_an_example(capsys, argv):
    code, out, _ = run(capsys, *argv)
    assert code == 0
    assert "example" in out
    assert "pcpbuddy compare shape/S1 --policy mainline,fixed" in out


def test_errors_that_are_not_the_input_exit_with_1(capsys, monkeypatch):
    def fail(*args, **options):
        raise pcpbuddy.Corruption("I-4 nr_free of order 3: page 8")

    monkeypatch.setattr(comparison, "compare", fail)
    assert run(capsys, "compare", "shape/S1", "-q") == (1, "", "pcpbuddy: I-4 nr_free of order 3: page 8\n")


def test_progress_is_plain_lines_where_there_is_no_terminal(capsys):
    code, out, err = run(capsys, "compare", "shape/S1", "--policy", "mainline,fixed")
    assert code == 0
    assert "\x1b" not in err + out
    lines = err.splitlines()
    assert lines[:2] == ["mainline (1 of 2): 16384 requests ...", "fixed (2 of 2): 16384 requests ..."]
    assert lines[2].startswith("mainline: 16384 requests in ")
    assert out == (GOLDEN / "compare-S1.txt").read_text()


def test_a_bar_on_a_terminal_and_the_table_still_on_stdout():
    leader, follower = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pcpbuddy.cli.main", "compare", "shape/S1", "--policy", "mainline,fixed"],
            stdout=subprocess.PIPE,
            stderr=follower,
            env=os.environ | {"TERM": "xterm"},
            text=True,
            check=True,
        )
        os.close(follower)
        follower = -1
        shown = b""
        while True:
            try:
                more = os.read(leader, 65536)
            except OSError:  # the other end is closed
                break
            if not more:
                break
            shown += more
    finally:
        os.close(leader)
        if follower >= 0:
            os.close(follower)
    assert done.stdout == (GOLDEN / "compare-S1.txt").read_text()
    assert b"16384/16384" in shown


def test_heavy_packages_stay_out():
    """
    A workload needs neither pyarrow nor, without a terminal, rich; help needs nothing at all.
    """
    script = (
        "import sys; from pcpbuddy.cli.main import main; main(['compare', 'shape/S1', '-q']); "
        "print(sorted({'pyarrow', 'rich', 'hypothesis'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
    script = (
        "import sys; from pcpbuddy.cli.main import parser; parser(); "
        "print(sorted({'pyarrow', 'rich', 'numpy', 'pcpbuddy._core'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_reader_that_leaves_early_gets_no_traceback():
    done = subprocess.run(
        f"{sys.executable} -m pcpbuddy.cli.main compare shape/S1 --all -q | head -n 1",
        shell=True,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("shape/S1")
    assert "Traceback" not in done.stderr
