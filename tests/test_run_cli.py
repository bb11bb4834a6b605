"""
``pcpbuddy run`` and ``pcpbuddy compare`` in virtual time: tables, JSON, files, wrong input, Ctrl-C.
"""

import json
import re
import signal
import subprocess
import sys
import time

import pytest
from test_compare_cli import run
from test_recording import SHIPPED

import pcpbuddy

QUICK = ("local/loop", "--cpus", "4", "--memory", "64MiB", "--duration", "50us")


def started(*argv):
    """
    The command in a process of its own, which a signal can reach.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "pcpbuddy.cli.main", *map(str, argv)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell without job control has its children ignore SIGINT, and they would hand that down.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


# Output.


def test_table(capsys):
    code, out, err = run(capsys, "run", *QUICK, "--policy", "mainline", "--seed", "3")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "local/loop under mainline: 4 virtual CPUs, 64MiB, 50.0us of virtual time, seed 3"
    assert max(map(len, lines)) <= 100
    assert out.isascii()
    assert " contended total wait  max wait  avg wait  avg hold  max hold   holds   caller" in lines
    for words in (
        "CPU time",
        "zone lock: 0% CPU time",
        "alloc: rmqueue_pcplist",
        "in per-CPU lists",
        "not calibrated",
    ):
        assert words in out
    assert lines[-1].startswith("digest ")
    assert err.splitlines()[0].startswith("mainline")
    assert re.search(r"mainline: \d+ events in \d+\.\d+ s \(\d+\.\d+ M/s\)", err)


def test_same_command_same_output(capsys, tmp_path):
    outs = [run(capsys, "run", *QUICK, "-q", "-o", tmp_path / name) for name in ("a.run", "b.run")]
    assert outs[0] == outs[1]
    assert outs[0][2] == ""
    assert (tmp_path / "a.run").read_bytes() == (tmp_path / "b.run").read_bytes()
    assert pcpbuddy.load_run(tmp_path / "a.run").digest in outs[0][1]


def test_the_command_in_the_manifest_repeats_the_run(capsys):
    options = ("--nodes", "2", "--zones", "Movable=4MiB", "--cma", "2MiB", "--set", "pages=8", "--tick", "1ms")
    _, first, _ = run(capsys, "run", *QUICK, *options, "--policy", "llist", "--json", "-", "-q")
    command = json.loads(first)["manifest"]["command"].split()
    assert command[:2] == ["pcpbuddy", "run"]
    _, again, _ = run(capsys, *command[1:], "--json", "-", "-q")
    assert again == first


def test_json(capsys):
    code, out, _ = run(capsys, "run", *QUICK, "--json", "-", "-q")
    document = json.loads(out)
    assert code == 0
    assert document["schema"] == "pcpbuddy.run/1"
    assert document["manifest"]["workload"]["name"] == "local/loop"
    assert document["manifest"]["costs"]["calibrated"] is False
    results = document["results"]
    assert set(results) == {"partial", "digest", "metrics", "cpus", "samples"}
    assert results["metrics"]["time.measured_ns"] == 50_000
    assert len(results["cpus"]["work"]) == 4
    assert len(results["samples"]["t_ns"]) == len(results["samples"]["free_pages"])


def test_all_metrics_by_name(capsys):
    _, out, _ = run(capsys, "run", *QUICK, "-q", "--all")
    assert re.search(r"^zones\.Normal\.zone_lock\.wait_ns\.refill\.p999 +0\.0$", out, re.MULTILINE)


def test_files(capsys, tmp_path):
    pytest.importorskip("pyarrow")
    target, tables = tmp_path / "a.run", tmp_path / "tables"
    code, _, err = run(capsys, "run", *QUICK, "-o", target, "--export", tables)
    assert code == 0
    assert f"{target} written" in err
    assert sorted(path.name for path in tables.iterdir()) == [
        f"{name}.parquet" for name in ("cpus", "histograms", "metrics", "samples")
    ]
    before = target.read_bytes()
    code, out, err = run(capsys, "run", *QUICK, "--seed", "1", "-o", target)
    assert (code, out) == (2, "")
    assert err == f"pcpbuddy: -o {target} exists; -f replaces it\n"
    assert target.read_bytes() == before
    code, _, _ = run(capsys, "run", *QUICK, "--seed", "1", "-o", target, "--export", tables, "-f", "-q")
    assert code == 0
    assert target.read_bytes() != before


# Configuration files.


def write(tmp_path, text):
    path = tmp_path / "lab.toml"
    path.write_text(text)
    return path


def test_config_file(capsys, tmp_path):
    config = write(
        tmp_path,
        'workload = "local/loop"\ncpus = 2\nmemory = "64MiB"\npolicy = "mainline"\nduration = "20us"\n'
        '[zones]\nMovable = "4MiB"\n[set]\npages = 4\n',
    )
    code, out, _ = run(capsys, "run", "--config", config, "--json", "-", "-q")
    assert code == 0
    manifest = json.loads(out)["manifest"]
    assert manifest["workload"]["parameters"]["pages"] == 4
    assert [zone["name"] for zone in manifest["zones"]] == ["Normal", "Movable"]
    # What stands on the command line wins.
    _, out, _ = run(capsys, "run", "--config", config, "--cpus", "3", "--set", "pages=5", "--json", "-", "-q")
    manifest = json.loads(out)["manifest"]
    assert (manifest["config"]["cpus"], manifest["workload"]["parameters"]["pages"]) == (3, 5)
    assert list(manifest["policies"]) == ["mainline"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "cpu = 4\n",
            "unknown key 'cpu' (did you mean cpus?); keys are: workload, cpus, policy, memory, nodes, zones,",
        ),
        ("x = 4\n", "unknown key 'x'; keys are: workload, cpus, policy, memory,"),
        ("cpus = 0\n", "cpus=0: expected a whole number from 1 to 512"),
        ("cpus = 2.5\n", "cpus=2.5: expected a whole number from 1 to 512"),
        ("cpus = [1, 2]\n", "cpus: expected one value, not a table or list"),
        ('zones = "DMA"\n', "zones='DMA': expected a table, [zones], with one line for each"),
        ("memory = 1MiB\n", 'words stand in quotes: memory = "4GiB"'),
        ('memory = "1MiB"\n', "memory=1MiB: zone Normal would have 1MiB; expected at least one pageblock, 2MiB"),
        ("policy = 3\n", "policy 3: expected a Policy, or a text"),
        ("[set]\npage = 3\n", "no parameter 'page' (did you mean pages?); it has: pages, think_ns"),
    ],
)
def test_wrong_config_files(capsys, tmp_path, text, sentence):
    code, out, err = run(capsys, "run", "local/loop", "--config", write(tmp_path, text))
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert sentence in err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ((), "no workload given"),
        (("exit/strom",), "unknown load 'exit/strom' (did you mean exit/storm?)"),
        (("nowhere/nothing",), "neither a workload nor a file"),
        (("shape/S1",), "shape/S1 is a fixed sequence of requests without time"),
        (("local/loop", "--cpus", "0"), "cpus=0: expected a whole number from 1 to 512"),
        (("local/loop", "--cpus", "513"), "cpus=513: expected a whole number from 1 to 512"),
        (("local/loop", "--cpus", "four"), "cpus=four: expected a whole number from 1 to 512"),
        (("local/loop", "--memory", "1MiB"), "memory=1MiB: zone Normal would have 1MiB"),
        (("local/loop", "--policy", "best"), "unknown policy 'best'"),
        (("local/loop", "--costs", "cheap"), "unknown cost model 'cheap'"),
        (("local/loop", "--duration", "5"), "duration=5: expected a time such as 10ms"),
        (("local/loop", "--set", "pages"), "--set pages: expected NAME=VALUE"),
        (("local/loop", "--set", "pages=many"), "pages='many': expected a whole number"),
        (("local/loop", "--zones", "Normal=1GiB"), "zones.Normal: expected DMA, DMA32 or Movable"),
        (("local/loop", "--config", "nowhere.toml"), "nowhere.toml cannot be read: No such file"),
        (("local/loop", "-o", "nowhere/a.run"), "-o nowhere/a.run: there is no directory nowhere"),
        ((str(SHIPPED / "tiny-4c"), "--cpus", "3"), "cpus=3: tiny-4c is for 4 CPUs; expected 4"),
    ],
)
def test_wrong_input(capsys, argv, words):
    """
    One sentence on stderr, nothing on stdout, exit 2.
    """
    code, out, err = run(capsys, "run", *argv)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert words in err


# Ctrl-C.


def test_interrupt_keeps_what_was_measured(tmp_path):
    target = tmp_path / "a.run"
    process = started("run", "local/loop", "--cpus", "16", "--memory", "64MiB", "--duration", "3000s", "-o", target)
    assert "fixed" in process.stderr.readline()
    time.sleep(0.7)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out.startswith("PARTIAL: stopped before its end")
    assert "Traceback" not in err
    assert f"{target} written (partial)" in err
    assert err.splitlines()[-1] == "pcpbuddy: interrupted; the run is partial"
    kept = pcpbuddy.load_run(target)
    assert kept.partial
    assert 0 < kept.metrics["time.measured_ns"] < 3000e9
    assert kept.metrics["allocs"] > 0


def test_interrupt_of_a_comparison():
    options = ("--policy", "mainline,fixed", "--cpus", "2,64", "--seeds", "9", "--duration", "400ms")
    process = started("compare", "local/loop", *options, "--memory", "64MiB", "-q")
    time.sleep(2.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert err.startswith("pcpbuddy: interrupted")
    assert out == "" or out.startswith("PARTIAL: stopped when ")


# Comparisons.


def test_compare(capsys):
    options = ("--policy", "mainline,fixed,llist", "--cpus", "1,4", "--seeds", "2", "--duration", "20us")
    code, out, err = run(capsys, "compare", "local/loop", *options, "--memory", "64MiB")
    assert code == 0
    lines = out.splitlines()
    assert lines[1] == "Virtual time, costs server-2s; 2 seeds, mean +- half of the 95% interval."
    assert [line.split()[:3] for line in lines if re.match(r"\d+ CPUs", line)] == [
        ["1", "CPUs,", "64MiB"],
        ["4", "CPUs,", "64MiB"],
    ]
    assert "mainline         fixed        change         llist        change" in out
    assert "no difference found, as the 95% interval of the change contains 0" in out
    assert err.startswith("virtual time: 12 runs ...")
    again = run(capsys, "compare", "local/loop", *options, "--memory", "64MiB", "-q")
    assert again == (0, out, "")


def test_compare_as_json(capsys):
    options = ("--policy", "mainline,fixed", "--cpus", "2", "--seeds", "4,9", "--duration", "20us", "--json", "-", "-q")
    code, out, _ = run(capsys, "compare", "local/loop", *options)
    document = json.loads(out)
    assert code == 0
    assert document["schema"] == "pcpbuddy.sweep/1"
    assert document["manifest"]["seeds"] == [4, 9]
    assert [row["seeds"] for row in document["results"]] == [[4, 9], [4, 9]]


def test_metrics_by_cpus(capsys):
    options = ("--cpus", "1,2", "--seeds", "1", "--duration", "20us", "-q")
    _, out, _ = run(capsys, "compare", "local/loop", *options, "--metric", "allocs.per_s,cpu.user")
    assert re.search(r"^allocs\.per_s +mainline +fixed +change\n  1 CPUs .*\n  2 CPUs ", out, re.MULTILINE)
    code, out, err = run(capsys, "compare", "local/loop", *options, "--metric", "zone_lock.wait_ns.p98")
    assert (code, out) == (2, "")
    assert "--metric zone_lock.wait_ns.p98: there is none of that name; did you mean zone_lock.wait_ns.p9" in err


def test_a_recording_keeps_its_comparison_without_time(capsys):
    _, out, _ = run(capsys, "compare", SHIPPED / "tiny-4c", "-q")
    assert "One thread, no contention" in out
    code, out, _ = run(capsys, "compare", SHIPPED / "tiny-4c", "--machine", "-q")
    assert code == 0
    assert "each CPU's requests in closed loop" in " ".join(out.split())
    assert "one seed: no intervals" in out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("shape/S1", "--seeds", "3"), "--seeds: only runs in virtual time have it; add --cpus N or --machine"),
        (("shape/S1", "--memory", "1GiB"), "--memory: only runs in virtual time have it"),
        (("shape/S1", "--metric", "allocs"), "--metric: only runs in virtual time have it"),
        (("shape/S1", "--set", "a=1"), "--set: only runs in virtual time have it"),
        (("shape/S1", "--cpus", "4"), "shape/S1 is a fixed sequence of requests without time"),
        (("local/loop", "--cpus", "4,x"), "cpus=x: expected a whole number from 1 to 512"),
        (("local/loop", "--cpus", "4,4"), "cpus: 4 is given 2 times"),
        (("local/loop", "--seeds", "0"), "seeds=0: expected how many, 1 to 1000"),
        (("local/loop", "--seeds", "some"), "seeds=some: expected how many, 1 to 1000"),
    ],
)
def test_wrong_comparisons(capsys, argv, words):
    code, out, err = run(capsys, "compare", *argv)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert words in err


def test_help_has_examples(capsys):
    code, out, _ = run(capsys, "run", "--help")
    assert code == 0
    assert "pcpbuddy run exit/storm --cpus 64 --policy mainline" in out
    assert out.count("examples:") == 1
