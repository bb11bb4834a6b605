"""
``pcpbuddy record``: bounded, complete for our readers, and tracefs as it was, however it ends.

What needs a live kernel with a writable tracefs is skipped where there is none, with the reason.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_compare_cli import run

from pcpbuddy import recording
from pcpbuddy.errors import UsageError
from pcpbuddy.record import Until, parse_until
from pcpbuddy.record.events import KMEM, LOCK, answers, offered
from pcpbuddy.record.tracefs import PREFIX, mounted

KILLS = int(os.environ.get("PCPBUDDY_KILLS", "20"))
COMMAND = [sys.executable, "-m", "pcpbuddy.cli.main", "record"]
TOUCHED = (
    "tracing_on",
    "trace_clock",
    "buffer_size_kb",
    "set_event",
    "current_tracer",
    "events/enable",
    "trace_options",
)


def why_not():
    root = mounted()
    if root is None:
        return "tracefs is not mounted here"
    if not os.access(root / "instances", os.W_OK):
        return "tracefs cannot be written here (needs root)"
    if not (root / "events" / "kmem" / "mm_page_alloc").exists():
        return "this kernel has no kmem events"
    return None


live = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


CHURN = """
import mmap
while True:
    with mmap.mmap(-1, 4 << 20) as memory:
        for at in range(0, len(memory), 4096):
            memory[at] = 1
"""


@pytest.fixture(scope="module", autouse=True)
def pages_come_and_go():
    """
    Something to record: a machine at rest may have no event in half a second.
    """
    process = subprocess.Popen([sys.executable, "-c", CHURN], preexec_fn=lambda: os.nice(5))
    yield
    process.kill()
    process.wait()


def fingerprint():
    """
    What tracefs looks like to everybody else.
    """
    root = mounted()
    return {name: (root / name).read_text() for name in TOUCHED}


def ours():
    return sorted(path.name for path in (mounted() / "instances").glob(f"{PREFIX}*"))


def gone(name, seconds=15):
    end = time.monotonic() + seconds
    while name in ours():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def start(*argv, **options):
    return subprocess.Popen(
        [*COMMAND, *map(str, argv)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def until_there(process, name, seconds=20):
    end = time.monotonic() + seconds
    while name not in ours():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.005)


# Without a kernel.


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("latency 20", Until("latency", "20")),
        ("latency 2.5", Until("latency", "2.5")),
        ("command grep -q stall /tmp/x", Until("command", "grep -q stall /tmp/x")),
        ("signal USR1", Until("signal", "USR1")),
    ],
)
def test_until(text, found):
    assert parse_until(text) == found


@pytest.mark.parametrize(
    "text", ["", "latency", "latency soon", "latency -1", "command", "signal KILL", "tuesday", "latency 1 2"]
)
def test_until_what_cannot_be(text):
    with pytest.raises(UsageError, match="expected 'latency MS'"):
        parse_until(text)


def test_the_richest_events_that_there_are(tmp_path):
    there = [
        *KMEM,
        *LOCK,
        "cma/cma_alloc_start",
        "kmem/mm_zone_locked",
        "kmem/mm_zone_lock_unlock",
        "zone_lock/acquire",
    ]
    for name in [*there, "kmem/kmalloc"]:
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "enable").write_text("0\n")
    assert offered(tmp_path) == [
        *KMEM,
        *LOCK,
        "cma/cma_alloc_start",
        "kmem/mm_zone_lock_unlock",
        "kmem/mm_zone_locked",
        "zone_lock/acquire",
    ]
    told = dict(answers(offered(tmp_path)))
    assert told["refill and drain sizes"] == "yes"
    assert told["zone lock holds"].startswith("yes: kmem/mm_zone_lock_unlock")
    poor = dict(answers(["kmem/mm_page_alloc"]))
    assert poor["lock waits"].startswith("no")
    assert poor["zone lock holds"].startswith("no")
    assert "no mm_page_free," in poor["refill and drain sizes"]


@pytest.mark.parametrize("shell", ["sh", "dash", "bash", "busybox"])
@pytest.mark.parametrize("flight", [False, True])
def test_the_script_is_a_script(capsys, tmp_path, shell, flight):
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")
    code, out, err = run(capsys, "record", "--for", "2s", "--print", *(["--flight"] if flight else []))
    assert (code, err) == (0, "")
    assert "@" not in out.replace('"$@"', "")
    assert len(out.splitlines()) < 100
    path = tmp_path / "record.sh"
    path.write_text(out)
    subprocess.run([shell, *(["sh"] if shell == "busybox" else []), "-n", path], check=True)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--for", "soon"), "--for=soon: expected a time"),
        (("--for", "0s"), "expected more than no time"),
        (("--max-size", "many"), "size 'many'"),
        (("--max-size", "4096"), "--max-size is 1MiB at least"),
        (("--until", "tuesday"), "expected 'latency MS'"),
        (("--print", "--until", "latency 3"), "--print goes with --for, --buffer and --flight only"),
        (("--compare", "no-such"), "no-such"),
        (("-o", "/"), "/ exists"),
        (("-o", "/nowhere/at/all"), "there is no directory /nowhere/at"),
    ],
)
def test_bad_input(capsys, argv, words):
    code, out, err = run(capsys, "record", *argv)
    assert (code, out) == (2, "")
    assert words in err
    assert len(err.splitlines()) == 1


# On a live kernel.


@live
def test_a_recording_is_a_trace(capsys, tmp_path):
    before = fingerprint()
    folder = tmp_path / "mine"
    code, out, err = run(capsys, "record", "--for", "500ms", "-o", folder)
    assert code == 0
    assert "ended because its time was over" in out
    assert "zone lock holds?" in out
    assert f"{folder} written" in err
    assert "event costs" in err
    assert fingerprint() == before
    assert f"{PREFIX}{os.getpid()}" not in ours()
    facts = json.loads((folder / "recorder.json").read_text())
    assert facts["kernel"] == os.uname().release
    assert set(KMEM) <= set(facts["events"])
    assert {"zoneinfo", "buddyinfo", "vm.json"} <= set(os.listdir(folder / "before")) & set(
        os.listdir(folder / "after")
    )
    loaded = recording.load(folder)
    assert (loaded.start, loaded.kernel) == ("proc", os.uname().release)
    assert loaded.rows == facts["events_recorded"] > 0
    assert facts["events_lost"] == 0
    code, out, _ = run(capsys, "doctor", folder, "-q")
    assert code == 0
    assert "the start state is assumed, from the /proc texts that came with it" in " ".join(out.split())


@live
def test_all_that_a_command_does_is_there(capsys, tmp_path):
    """
    A child that touches 4000 pages: as many allocations of its own pid, of movable pages.
    """
    folder = tmp_path / "mine"
    code = "import mmap; m = mmap.mmap(-1, 4000 << 12); m.madvise(15); [m.__setitem__(n << 12, 1) for n in range(4000)]"
    done, out, _ = run(capsys, "record", "-o", folder, "-q", "--", sys.executable, "-c", code)
    assert done == 0
    assert "the command ended with 0" in out
    loaded = recording.load(folder)
    assert len(loaded.requests) > 4000


@live
def test_size_is_bounded(capsys, tmp_path):
    busy = "while True: bytearray(64 << 20)"
    code, out, _ = run(
        capsys,
        "record",
        "-o",
        tmp_path / "mine",
        "-q",
        "--max-size",
        "2MiB",
        "--for",
        "20s",
        "--",
        sys.executable,
        "-c",
        busy,
    )
    assert code == 0
    assert "the size that --max-size allows" in out
    assert sum(path.stat().st_size for path in (tmp_path / "mine").glob("cpu*.raw")) < 24 << 20  # and what buffers held


@live
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_and_keeps_what_there_is(tmp_path, number, code):
    before = fingerprint()
    folder = tmp_path / "mine"
    process = start("--for", "60s", "-o", folder)
    until_there(process, f"{PREFIX}{process.pid}")
    while not list(folder.glob("cpu*.raw")):
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(number)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == code
    assert f"ended because signal {number.name}" in out
    assert gone(f"{PREFIX}{process.pid}")
    assert fingerprint() == before
    assert recording.load(folder).rows > 0


@live
@pytest.mark.parametrize("until", ["signal USR1", "command sleep 0.5", "latency 0.001"])
def test_flight(tmp_path, until):
    """
    The buffers keep the last events; texts of the beginning do not fit these, so the start is inferred.
    """
    folder = tmp_path / "mine"
    process = start("--flight", "--for", "30s", "--until", until, "--buffer", "256KiB", "-o", folder)
    while not list(folder.glob("cpu*.raw")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    time.sleep(0.3)
    if until.startswith("signal"):
        process.send_signal(signal.SIGUSR1)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "the last of" in out
    assert "its time was over" not in out
    assert (folder / "armed" / "zoneinfo").exists()
    assert recording.load(folder).start == "inferred"


@live
def test_killed_at_any_moment_it_leaves_nothing(tmp_path):
    """
    SIGKILL at random moments, from before there is an instance to the middle of recording: the watcher takes it away.
    """
    before = fingerprint()
    rng = random.Random(1)
    names = []
    for turn in range(KILLS):
        process = start("--for", "60s", "-o", tmp_path / str(turn), "-q")
        if turn % 2:
            until_there(process, f"{PREFIX}{process.pid}")
        time.sleep(rng.random() * (0.8 if turn % 2 else 1.2))
        process.kill()
        process.communicate()
        names.append(f"{PREFIX}{process.pid}")
    for name in names:
        assert gone(name), f"{name} is still there"
    assert fingerprint() == before


@live
def test_what_is_left_behind_goes_at_the_next_start(capsys):
    """
    Both killed, recorder and watcher: nobody holds the lock any more. One that somebody holds stays.
    """
    folder = mounted() / "instances" / f"{PREFIX}left-{os.getpid()}"
    folder.mkdir()
    try:
        lock = os.open(folder, os.O_RDONLY)
        import fcntl

        fcntl.flock(lock, fcntl.LOCK_EX)
        time.sleep(2.5)
        code, out, _ = run(capsys, "record", "--clean")
        assert code == 0
        assert folder.name not in out
        assert folder.exists()
        os.close(lock)
        code, out, _ = run(capsys, "record", "--clean")
        assert code == 0
        assert folder.name in out
        assert not folder.exists()
    finally:
        if folder.exists():
            folder.rmdir()


@live
@pytest.mark.parametrize("shell", ["dash", "bash"])
@pytest.mark.parametrize("how", ["end", "term", "kill"])
def test_the_script_records_too(capsys, tmp_path, shell, how):
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")
    before = fingerprint()
    _, text, _ = run(capsys, "record", "--for", "1s" if how == "end" else "30s", "--buffer", "1MiB", "--print")
    (tmp_path / "record.sh").write_text(text)
    folder = tmp_path / "mine"
    process = subprocess.Popen(
        [shell, str(tmp_path / "record.sh"), str(folder)], stderr=subprocess.DEVNULL, start_new_session=True
    )
    until_there(process, f"{PREFIX}{process.pid}")
    if how != "end":
        while not (folder / "before" / "buddyinfo").exists():
            time.sleep(0.01)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM if how == "term" else signal.SIGKILL)
    code = process.wait(timeout=60)
    assert code == {"end": 0, "term": 143, "kill": -9}[how]
    assert gone(f"{PREFIX}{process.pid}")
    assert fingerprint() == before
    if how != "kill":
        loaded = recording.load(folder)
        assert loaded.start == "proc"
        assert loaded.rows > 0


@live
def test_record_and_compare(capsys, tmp_path):
    code, out, _ = run(capsys, "record", "--for", "300ms", "-o", tmp_path / "mine", "-q", "--compare", "mainline,fixed")
    assert code == 0
    assert "start state ASSUMED from /proc texts" in " ".join(out.split())


def test_without_rights_it_says_what_to_do(tmp_path):
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root, to become nobody")
    os.chmod(tmp_path, 0o777)
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--clear-groups", *COMMAND, "-o", str(tmp_path / "mine")],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    if "No module" in done.stderr or "Permission denied" in done.stderr:
        pytest.skip("the package cannot be read by nobody here")
    assert done.returncode == 2
    assert "recording needs root: use sudo, or hand the script" in done.stderr
