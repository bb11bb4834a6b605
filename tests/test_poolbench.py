"""
``pcpbuddy bench pool``: that the loads do what they say, and what is printed; no speed is asserted.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

import pcpbuddy
import pcpbuddy.costs
from pcpbuddy import poolbench
from pcpbuddy.cli.main import main
from pcpbuddy.errors import ConfigError
from pcpbuddy.report.poolbench import chart, table

PEER = """
#include <stdint.h>
#include <stdlib.h>
/* A stack of free pages, which notices a page that is put twice, or not by one of its CPUs. */
static uint64_t *stack, size, top; static unsigned char *out; static int cpus;
static int lock;
static int init(size_t frames, int ncpu, void *arena) {
    (void)arena; size = frames; top = frames; cpus = ncpu;
    stack = malloc(8 * frames); out = calloc(frames, 1);
    for (size_t k = 0; k < frames; k++) stack[k] = k;
    return 0;
}
static void take(void) { while (__atomic_exchange_n(&lock, 1, __ATOMIC_ACQUIRE)) ; }
static void drop(void) { __atomic_store_n(&lock, 0, __ATOMIC_RELEASE); }
static uint64_t get(int cpu, int order) {
    uint64_t page = ~(uint64_t)0;
    if (cpu < 0 || cpu >= cpus || order) abort();
    take();
    if (top) { page = stack[--top]; out[page] = 1; }
    drop();
    return page;
}
static void put(int cpu, uint64_t page, int order) {
    if (cpu < 0 || cpu >= cpus || order || page >= size) abort();
    take();
    if (!out[page]) abort();
    out[page] = 0; stack[top++] = page;
    drop();
}
static size_t meta(void) { return 9 * size; }
struct { const char *name; int (*init)(size_t, int, void *); uint64_t (*get)(int, int); void (*put)(int, uint64_t, int);
    int is_ptr; size_t (*meta)(void); void (*thread)(int); } pa_ops = {"stack", init, get, put, 0, meta, 0};
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """
    A peer: a shared object that ends the process when a load does what it must not.
    """
    folder = tmp_path_factory.mktemp("peer")
    (folder / "stack.c").write_text(PEER)
    library = folder / "stack.so"
    compiler = os.environ.get("CC", "cc")
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", folder / "stack.c", "-o", library], check=True)
    return str(library)


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
        assert (row["order"], row["rounds"], row["meta_bytes_per_page"]) == (0, 3, 9)
        assert row["threads"] == (2 if row["workload"] in ("xfree", "xchg") else row["threads"])
    assert document["manifest"]["memory_pages"] == 2048


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
    Two virtual CPUs take as long as one where they do not meet, and mainline more where memory must come and go.
    """
    costs = pcpbuddy.costs.costs("measured-2cpu")
    peers = [poolbench.Peer(name, "our", name) for name in ("fixed", "mainline")] + [poolbench.empty()]
    points = [poolbench.Point("lifo", 1, 0), poolbench.Point("lifo", 2, 0), poolbench.Point("bulk", 1, 0)]
    points += [poolbench.Point("xfree", 2, 0), poolbench.Point("rand", 1, 0)]
    made = [poolbench.Result(point, peer, (10.0,), 13) for point in points for peer in peers]
    told = {
        (one.point.load, one.point.threads, one.peer.name): one.predicted
        for one in poolbench.predictions(made, costs, 1 << 15)
    }
    assert told["lifo", 1, "fixed"] == pytest.approx(told["lifo", 2, "fixed"], rel=0.02)
    assert told["bulk", 1, "mainline"] > told["bulk", 1, "fixed"] > told["lifo", 1, "fixed"] > 1
    assert told["xfree", 2, "fixed"] > 1
    assert told["rand", 1, "fixed"] == told["lifo", 1, "empty"] == 0


def made_up(rounds):
    point = poolbench.Point("bulk", 1, 9)
    return [poolbench.Result(point, poolbench.Peer(name, "empty"), values, 13.25) for name, values in rounds.items()]


def test_the_table():
    lines = table(made_up({"a": (30.0, 10.0, 20.0), "b": (400.0, 500.0), "empty": (1.0,)})).splitlines()
    assert lines[1].split() == ["bulk", "order", "9,", "1", "thread", "20.0*", "450", "1.0"]
    assert lines[2].split() == ["10.0-30.0", "400-500", "1.0-1.0"]
    assert lines[3].split()[-3:] == ["13.2", "13.2", "13.2"]


def test_the_picture_escapes_names():
    assert "<b>" not in chart(made_up({"<b>": (2.0, 3.0)}))


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
        (["--batch", "65"], "1 to 64"),
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


def test_a_peer_that_has_too_few_pages_is_an_error(stack):
    plan = poolbench.Plan((poolbench.Point("xcpu", 1, 0),), (poolbench.object_file(stack),), frames=20, rounds=1)
    with pytest.raises(pcpbuddy.PcpBuddyError, match="no page left under xcpu"):
        poolbench.measure(plan)
