"""
``pcpbuddy bench pool``: that the loads do what they say, and what is printed; no speed is asserted.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import pytest

import pcpbuddy
import pcpbuddy.costs
from pcpbuddy import poolbench
from pcpbuddy.cli.main import main
from pcpbuddy.errors import ConfigError
from pcpbuddy.report.poolbench import chart, table

PEER = r"""
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
/*
 * A stack of free pages, which notices a page that is put twice, or not by one of its CPUs. CRASHES, HANGS: when a page
 * is put by another CPU than took it. FEW: most of its pages are not there. SLEEPS: now and then. It writes down its
 * process id.
 */
static uint64_t *stack, size, top; static unsigned char *out; static int cpus, puts_so_far;
static int lock;
static int init(size_t frames, int ncpu, void *arena) {
    const char *pids = getenv("PEER_PIDS");
    FILE *file = pids ? fopen(pids, "a") : NULL;
    if (file) { fprintf(file, "%d\n", (int)getpid()); fclose(file); }
    printf("this is no answer\n"); fflush(stdout);
    (void)arena; size = frames; top = frames; cpus = ncpu;
    stack = malloc(8 * frames); out = calloc(frames, 1);
    for (size_t k = 0; k < frames; k++) stack[k] = k;
#ifdef FEW
    top = 512;
#endif
    return 0;
}
static void take(void) { while (__atomic_exchange_n(&lock, 1, __ATOMIC_ACQUIRE)) ; }
static void drop(void) { __atomic_store_n(&lock, 0, __ATOMIC_RELEASE); }
static uint64_t get(int cpu, int order) {
    uint64_t page = ~(uint64_t)0;
    if (cpu < 0 || cpu >= cpus || order) abort();
    take();
    if (top) { page = stack[--top]; out[page] = 1 + cpu; }
    drop();
    return page;
}
static void put(int cpu, uint64_t page, int order) {
    if (cpu < 0 || cpu >= cpus || order || page >= size) abort();
    take();
    if (!out[page]) abort();
#ifdef CRASHES
    if (out[page] != 1 + cpu) { fprintf(stderr, "not mine\n"); raise(SIGSEGV); }
#endif
#ifdef HANGS
    while (out[page] != 1 + cpu) pause();
#endif
    out[page] = 0; stack[top++] = page;
    drop();
#ifdef SLEEPS
    if (__atomic_add_fetch(&puts_so_far, 1, __ATOMIC_RELAXED) % 1000 == 0) usleep(1000);
#endif
}
static size_t meta(void) { return 9 * size; }
struct { const char *name; int (*init)(size_t, int, void *); uint64_t (*get)(int, int); void (*put)(int, uint64_t, int);
    int is_ptr; size_t (*meta)(void); void (*thread)(int); } pa_ops = {NAME, init, get, put, 0, meta, 0};
"""
MAPS = r"""
#include <stdint.h>
#include <sys/mman.h>
/* Every page comes from the system, is touched, and goes back. */
static int init(uint64_t frames, int ncpu, void *arena) { (void)frames; (void)ncpu; (void)arena; return 0; }
static uint64_t get(int cpu, int order) {
    char *page = mmap(0, 4096ul << order, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    (void)cpu;
    if (page == MAP_FAILED) return ~(uint64_t)0;
    *page = 1;
    return (uint64_t)page;
}
static void put(int cpu, uint64_t page, int order) { (void)cpu; munmap((void *)page, 4096ul << order); }
struct { const char *name; int (*init)(uint64_t, int, void *); uint64_t (*get)(int, int);
    void (*put)(int, uint64_t, int); int is_ptr; uint64_t (*meta)(void); void (*thread)(int); }
    pa_ops = {NAME, init, get, put, 1, 0, 0};
"""
TWO_CPUS = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two threads need two CPUs")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """
    A function that gives a peer as a shared object; its name is also the macro that it is compiled with.
    """
    folder = tmp_path_factory.mktemp("peer")

    def build(name="stack"):
        source, library = folder / f"{name}.c", folder / f"{name}.so"
        if not library.exists():
            source.write_text(MAPS if name == "maps" else PEER)
            macros = [f'-DNAME="{name}"', f"-D{name.upper()}"]
            compiler = os.environ.get("CC", "cc")
            subprocess.run([compiler, "-O1", "-shared", "-fPIC", *macros, source, "-o", library], check=True)
        return str(library)

    return build


@pytest.fixture
def stack(built):
    return built()


@pytest.fixture
def pids(tmp_path, monkeypatch):
    """
    A function that gives the process ids of all stacks so far.
    """
    path = tmp_path / "pids"
    monkeypatch.setenv("PEER_PIDS", str(path))
    return lambda: [int(line) for line in path.read_text().split()]


def tiny(*args):
    return main(["bench", "pool", "--memory", "8MiB", "--rounds", "1", "--quick", "-q", "--no-system", *args])


def test_every_load_gives_back_what_it_took(stack, capsys):
    """
    And takes it by CPUs that there are: the peer would abort. Twice: the second round must find all pages again.
    """
    assert tiny("--policy", "", "--peer", stack, "--json", "-") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "pcpbuddy.bench-pool/1"
    rows = [row for row in document["results"] if row["allocator"] == "stack"]
    loads = set(poolbench.LOADS) if len(os.sched_getaffinity(0)) > 1 else set(poolbench.LOADS) - {"xfree", "xchg"}
    assert {row["workload"] for row in rows} == loads
    for row in rows:
        assert 0 < row["ns_min"] <= row["ns_pair"] <= row["ns_max"]
        assert (row["order"], row["rounds"], row["meta_bytes_per_page"], row["error"]) == (0, 3, 9, None)
        assert row["batch"] == (64 if row["workload"] in ("lifo", "xfree", "xchg") else None)
        assert row["faults_per_pair"] < 0.01
        assert 0 < row["cpu_share"] <= 1
        assert row["threads"] == (2 if row["workload"] in ("xfree", "xchg") else row["threads"])
    assert document["manifest"]["memory_pages"] == 2048
    assert document["partial"] is False


def test_every_load_has_a_new_process(stack, pids, capsys):
    assert tiny("--policy", "", "--peer", stack, "--workload", "lifo,repeat,churn", "--threads", "1") == 0
    capsys.readouterr()
    assert len(pids()) == len(set(pids())) == 3


@TWO_CPUS
def test_batches(stack, capsys):
    """
    A point for each; what has no batches has one point.
    """
    given = ["--policy", "", "--peer", stack, "--workload", "lifo,xfree,xchg,churn", "--threads", "1"]
    assert tiny(*given, "--batch", "64,512", "--json", "-") == 0
    document = json.loads(capsys.readouterr().out)
    rows = [(row["workload"], row["batch"]) for row in document["results"] if row["allocator"] == "stack"]
    assert rows == [(load, n) for load in ("lifo", "xfree", "xchg") for n in (64, 512)] + [("churn", None)]
    assert document["manifest"]["batches"] == [64, 512]
    assert str(poolbench.Point("xfree", 2, batch=512)) == "xfree 512, 2 threads"


def test_a_crash_costs_one_cell(built, stack, capsys):
    """
    The process that crashed says why; the others go on.
    """
    given = ["--policy", "", "--peer", built("crashes"), "--peer", stack, "--workload", "xcpu,lifo", "--threads", "1"]
    assert tiny(*given) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["crashes", "stack", "empty"]
    (row,) = (line.split() for line in lines if line.startswith("xcpu"))
    assert row[3] == "-[1]"
    assert float(row[4].strip("*")) > 0
    assert "[1] crashes, xcpu, 1 thread: its process was ended by SIGSEGV (not mine)." in lines
    (row,) = (line.split() for line in lines if line.startswith("lifo"))
    assert float(row[4].strip("*")) > 0


def test_who_runs_out_costs_one_cell(built, stack, tmp_path, capsys):
    picture = tmp_path / "pool.svg"
    given = ["--policy", "", "--peer", built("few"), "--peer", stack, "--workload", "bulk,lifo", "--plot", str(picture)]
    assert tiny(*given, "--threads", "1", "--json", "-") == 1
    rows = {(row["workload"], row["allocator"]): row for row in json.loads(capsys.readouterr().out)["results"]}
    row = rows["bulk", "few"]
    assert row["error"] == "no page was left under bulk: more memory would do"
    assert {row[key] for key in ("ns_pair", "ns_min", "ns_max", "faults_per_pair", "cpu_share")} == {None}
    assert rows["bulk", "stack"]["ns_pair"] > 0
    assert rows["lifo", "few"]["error"] is None
    assert ">few<" in picture.read_text()


@TWO_CPUS
def test_who_runs_out_among_threads_ends(built):
    """
    Neither of two threads waits for pages that the other will never send; none puts what it never got.
    """
    for load in ("rand", "churn", "xfree", "xchg"):
        point = poolbench.Point(load, 2, batch=512)
        plan = poolbench.Plan((point,), (poolbench.object_file(built("few")),), 1 << 15, rounds=1, pairs=20_000)
        (result,) = poolbench.measure(plan).results
        assert result.error == f"no page was left under {load}: more memory would do"


def test_page_faults_are_counted(built, stack, capsys):
    given = ["--policy", "", "--peer", built("maps"), "--peer", stack, "--workload", "bulk,rand", "--threads", "1"]
    assert tiny(*given, "--json", "-") == 0
    rows = json.loads(capsys.readouterr().out)["results"]
    faults = {name: [row["faults_per_pair"] for row in rows if row["allocator"] == name] for name in ("maps", "stack")}
    assert all(0.5 < each < 2 for each in faults["maps"])
    assert all(each < 0.01 for each in faults["stack"])
    results = [made("bulk", "maps", 100.0, faults=0.5), made("bulk", "stack", 10.0)]
    lines = table(results).splitlines()
    assert lines[1].split()[3:] == ["100!", "10.0*"]
    assert any(line.startswith("! more than 0.01 page faults a pair") for line in lines)
    assert "the most: 0.5, maps, bulk, 1 thread." in lines[-1]


@TWO_CPUS
def test_a_thread_without_its_cpu_is_seen(built, capsys):
    given = ["--policy", "", "--peer", built("sleeps"), "--workload", "lifo"]
    assert tiny(*given, "--threads", "2", "--json", "-") == 0
    share = {row["allocator"]: row["cpu_share"] for row in json.loads(capsys.readouterr().out)["results"]}
    assert 0 < share["sleeps"] < 0.7
    results = [made("bulk", "sleeps", 100.0, share=0.25, threads=threads) for threads in (2, 1)]
    lines = table(results).splitlines()
    assert lines[1].split()[3] == "100*~"
    assert lines[3].split()[3] == "100*"  # one thread: its CPU time
    assert "0.25, sleeps, bulk, 2 threads." in " ".join(" ".join(lines).split())


def test_ctrl_c_keeps_what_was_measured(built, stack, pids):
    """
    The second load hangs in one process. No traceback, and no process that stays.
    """
    loads = ["--workload", "lifo,xcpu", "--threads", "1", "--memory", "8MiB", "--rounds", "1", "--quick"]
    peers = ["--no-system", "--policy", "", "--peer", stack, "--peer", built("hangs")]
    command = [sys.executable, "-m", "pcpbuddy.cli.main", "bench", "pool", *loads, *peers]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said = process.stderr.readline()  # the first point is done
    deadline = time.monotonic() + 20
    while len(pids()) < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert out.startswith("PARTIAL: stopped when 1 of 2 points were done.")
    assert "lifo 64, 1 thread" in out
    assert "xcpu," not in out
    assert said.startswith("bench pool")
    assert err.splitlines() == ["pcpbuddy: interrupted; 1 of 2 points were done"]
    assert len(pids()) == 4
    for pid in pids():
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


class Scripted:
    """
    A worker that answers as was written for it; None: Ctrl-C.
    """

    rounds: ClassVar = []
    meta_bytes_per_page = 0.0

    def __init__(self, *_):
        self.left = list(self.rounds)

    def round(self, _):
        answer = self.left.pop(0)
        if answer is None:
            raise KeyboardInterrupt
        return dict(zip(("ns", "faults"), answer, strict=True))

    def close(self):
        pass


@pytest.fixture
def scripted(monkeypatch):
    """
    A function that measures one allocator by a script of rounds, two of which are wanted.
    """

    def measured(*rounds):
        monkeypatch.setattr(Scripted, "rounds", rounds)
        monkeypatch.setattr(sys.modules["pcpbuddy.poolbench.measure"], "Worker", Scripted)
        plan = poolbench.Plan((poolbench.Point("lifo", 1),), (poolbench.empty(),), 2048, rounds=2)
        return poolbench.measure(plan)

    return measured


@pytest.mark.parametrize(
    ("rounds", "counted"),
    [
        ([(90, 1), (10, 0), (11, 0)], (10, 11)),
        ([(90, 1), (80, 1), (10, 0), (11, 0)], (10, 11)),
        ([(90, 1), (80, 1), (70, 1), (10, 1), (11, 1)], (10, 11)),
        ([(90, 1), (10, 0), (11, 1)], (10, 11)),
    ],
)
def test_rounds_that_warm_up_do_not_count(scripted, rounds, counted):
    (result,) = scripted(*rounds).results
    assert result.ns == counted


def test_a_point_that_was_stopped_counts_if_all_had_a_round(scripted):
    measured = scripted((90, 1), (10, 0), None)
    assert (measured.partial, measured.points, measured.results[0].ns) == (True, 0, (10,))
    assert scripted((90, 1), None).results == ()


def installed():
    return (Path(pcpbuddy.__file__).parent / "libpcpbuddy.so").exists()


@pytest.mark.skipif(not installed(), reason="not an installed package")
def test_our_profiles_and_a_malloc(tmp_path, capsys):
    picture = tmp_path / "pool.svg"
    assert (
        main(["bench", "pool", "--memory", "8MiB", "--quick", "-q", "--workload", "lifo,rand", "--plot", str(picture)])
        == 0
    )
    text = capsys.readouterr().out
    names = text.splitlines()[0].split()
    assert names[:5] == ["handover", "tuned", "fixed", "mainline", "glibc"]
    assert names[-1] == "empty"
    assert "rand, 1 thread" in text
    assert all(name in picture.read_text() for name in names)


def test_predictions():
    """
    Of all loads, and of order 0 alone. Two virtual CPUs take as long as one where they do not meet, and all memory
    takes longer than what the lists hold.
    """
    costs = pcpbuddy.costs.costs("measured-2cpu")
    peers = [poolbench.Peer(name, "our", name) for name in ("fixed", "mainline")] + [poolbench.empty()]
    points = [poolbench.Point(load, 2 if load in ("xfree", "xchg") else 1) for load in poolbench.LOADS]
    points += [poolbench.Point("lifo", 2), poolbench.Point("xfree", 2, batch=512), poolbench.Point("bulk", 1, 9)]
    measured = [poolbench.Result(point, peer, (poolbench.Round(10.0),)) for point in points for peer in peers]
    results = poolbench.predictions(measured, costs, 1 << 15)
    told = {(str(one.point), one.peer.name): one.predicted for one in results}
    for point in points[:-1]:
        assert told[str(point), "fixed"] > 1
        assert told[str(point), "empty"] == 0
    one, two, bulk = (told[name, "fixed"] for name in ("lifo 64, 1 thread", "lifo 64, 2 threads", "bulk, 1 thread"))
    assert one == pytest.approx(two, rel=0.02)
    assert min(told["bulk, 1 thread", "mainline"], bulk) > one
    assert told["xfree 64, 2 threads", "fixed"] != told["xfree 512, 2 threads", "fixed"]
    assert told["bulk order 9, 1 thread", "fixed"] == 0
    # One thread that plays two CPUs pays for no line of another cache: no more than where two meet.
    assert told["xcpu, 1 thread", "fixed"] < told["xchg 64, 2 threads", "fixed"]
    # Random order costs misses.
    assert told["rand, 1 thread", "fixed"] > bulk
    row = poolbench.rows(results)[0]
    assert row["predicted_ratio"] == pytest.approx(10 / row["predicted_ns_pair"], rel=0.01)


def made(load, name, *ns, kind="object", faults=0.0, share=1.0, threads=1, order=0):
    rounds = tuple(poolbench.Round(one, faults, share) for one in ns)
    return poolbench.Result(poolbench.Point(load, threads, order), poolbench.Peer(name, kind), rounds, 13.25)


def test_the_table():
    rounds = {"a": (30.0, 10.0, 20.0), "b": (400.0, 500.0), "empty": (1.0,)}
    lines = table([made("bulk", name, *ns, kind="empty", order=9) for name, ns in rounds.items()]).splitlines()
    assert lines[1].split() == ["bulk", "order", "9,", "1", "thread", "20.0*", "450", "1.0"]
    assert lines[2].split() == ["10.0-30.0", "400-500", "1.0-1.0"]
    assert lines[3].split()[-3:] == ["13.2", "13.2", "13.2"]


def test_no_two_allocators_have_one_colour():
    names = ["handover", "tuned", "fixed", "mainline", *poolbench.peers.MALLOCS, "other", "empty"]
    picture = chart([made("bulk", name, 10.0) for name in names])
    legend = re.findall(r'width="10" height="10" fill="(#\w+)"', picture)
    assert len(set(legend)) == len(legend) == len(names)


def test_ratios_to_the_best_peer():
    """
    The fastest at that point which is neither ours, nor empty, nor failed.
    """
    results = [
        made("bulk", "fixed", 20.0, kind="our"),
        made("bulk", "tuned", 100.0, kind="our"),
        made("bulk", "slow", 200.0, kind="malloc"),
        made("bulk", "quick", 50.0, kind="object"),
        poolbench.Result(poolbench.Point("bulk", 1), poolbench.Peer("ill", "malloc"), (), error="it ended"),
        made("bulk", "empty", 1.0, kind="empty"),
        made("rand", "fixed", 20.0, kind="our"),
    ]
    rows = [(row["allocator"], row["best_peer"], row["ratio_to_best_peer"]) for row in poolbench.rows(results)]
    assert rows[:2] == [("fixed", "quick", 0.4), ("tuned", "quick", 2.0)]
    assert {row[1:] for row in rows[2:]} == {(None, None)}
    lines = table(results[:-1]).splitlines()
    assert lines[3].split() == ["ratio", "to", "quick", "0.40", "2.00"]
    assert lines[1].split()[3:] == ["20.0*", "100", "200", "50.0", "-[1]", "1.0"]
    assert lines[-1] == "[1] ill, bulk, 1 thread: it ended."


def test_the_picture_escapes_names():
    assert "<b>" not in chart([made("bulk", "<b>", 2.0, 3.0)])


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--workload", "fast"], "expected some of bulk"),
        (["--threads", "0"], "expected 1 to"),
        (["--threads", "two"], "expected 1 to"),
        (["--order", "11"], "expected 0 to 10"),
        (["--order", "10"], "chunks of order 10"),
        (["--memory", "1"], "multiple of 4096"),
        (["--rounds", "0"], "1 or more"),
        (["--batch", "513"], "1 to 512"),
        (["--batch", "64,"], "1 to 512"),
        (["--batch", "512", "--memory", "2MiB"], "1024 or more"),
        (["--policy", "fixed+merge=free"], "only profiles"),
        (["--peer", "/nonexistent.so"], "cannot be loaded"),
        (["--plot", "/nonexistent/a.svg"], "a directory that exists"),
    ],
)
def test_wrong_calls(args, words, capsys):
    given = ["bench", "pool", "--no-system", "--quick", "-q", *([] if "--policy" in args else ["--policy", ""]), *args]
    assert main(given) == 2
    said = capsys.readouterr().err
    assert words in said
    assert len(said.splitlines()) == 1


def test_a_library_that_is_no_peer():
    with pytest.raises(ConfigError, match="exports no pa_ops"):
        poolbench.object_file(
            "/lib/x86_64-linux-gnu/libm.so.6" if Path("/lib/x86_64-linux-gnu").exists() else "libm.so.6"
        )


@TWO_CPUS
def test_a_batch_of_more_pages_than_a_thread_has(capsys):
    given = ["bench", "pool", "--no-system", "--quick", "-q", "--policy", "", "--workload", "xfree"]
    assert main([*given, "--batch", "512", "--memory", "4MiB"]) == 2
    assert "xfree 512, 2 threads has 256 chunks of order 0 for each thread" in capsys.readouterr().err


def test_a_peer_that_has_too_few_pages_is_an_error(stack):
    plan = poolbench.Plan((poolbench.Point("xcpu", 1),), (poolbench.object_file(stack),), frames=20, rounds=1)
    (result,) = poolbench.measure(plan).results
    assert result.error == "no page was left under xcpu: more memory would do"
