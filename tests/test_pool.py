"""
PagePool: real threads, real memory. What the threads of C do to it is in tests/native/stress.c (``make sanitize``).
"""

import array
import collections
import ctypes
import gc
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import pcpbuddy
from pcpbuddy import PagePool
from pcpbuddy.config import PROFILES
from pcpbuddy.errors import BadFree, ConfigError, Corruption, OutOfPages, PoolBroken, UsageError

LONG = bool(os.environ.get("PCPBUDDY_LONG"))
PAGE = 4096
MIB = 1 << 20


@pytest.fixture
def pool():
    """
    16 MiB for two CPUs; in the end everything must come back.
    """
    with PagePool("16MiB", cpus=2) as pool:
        yield pool
        gc.collect()
        pool.check()


def whole(pool):
    """
    All memory is free, in the largest chunks.
    """
    pool.drain()
    pool.check()
    return pool.stats()["free"] == len(pool) and pool.zone.census()["nr_free"][10].sum() == len(pool) >> 10


# Pages


@pytest.mark.parametrize("order", range(11))
def test_chunks_are_aligned_and_distinct(pool, order):
    got = [pool.alloc(order) for _ in range(3)]
    assert all(pfn % (1 << order) == 0 for pfn in got)
    assert len(set(got)) == 3
    for pfn in got:
        pool.free(pfn, order)
    assert whole(pool)


def test_all_of_it_can_be_had(pool):
    assert sorted(pool.alloc() for _ in range(len(pool))) == list(range(len(pool)))
    with pytest.raises(OutOfPages, match="0 of 4096 pages are free"):
        pool.alloc()
    for pfn in range(len(pool)):
        pool.free(pfn)
    assert whole(pool)


def test_what_lies_in_lists_of_other_cpus_is_found():
    """
    Before it fails it drains: a page freed elsewhere is not lost to this CPU.
    """
    with PagePool("4MiB", cpus=4, per="thread") as pool:
        pages = pool.alloc_bulk(1024)
        thread = threading.Thread(target=pool.free_bulk, args=(pages,))
        thread.start()
        thread.join()
        assert sorted(pool.alloc_bulk(1024)) == list(range(1024))


def test_bulk_into_an_array(pool):
    out = np.zeros(600, np.int64)
    assert pool.alloc_bulk(600, out) is out
    assert len(set(out.tolist())) == 600
    pool.free_bulk(out)
    pages = pool.alloc_bulk(3)
    assert isinstance(pages, array.array)
    pool.free_bulk(list(pages))
    with pytest.raises(OutOfPages):
        pool.alloc_bulk(4097)  # all or none
    assert whole(pool)


def test_bulk_frees_any_order(pool):
    pool.free_bulk([pool.alloc(order) for order in (0, 3, 9, 10, 1)])
    assert whole(pool)


def test_zeroed_on_request(pool):
    pfn = pool.alloc(2)
    pool.view(pfn, 4)[:] = b"x" * (4 * PAGE)
    pool.free(pfn)
    assert pool.alloc(2) == pfn
    assert bytes(pool.view(pfn)) == b"x" * PAGE
    pool.free(pfn)
    assert pool.alloc(2, zero=True) == pfn
    assert bytes(pool.view(pfn, 4)) == bytes(4 * PAGE)


def test_addresses(pool):
    pfn = pool.alloc()
    pool.view(pfn)[:5] = b"hello"
    assert ctypes.string_at(pool.address(pfn), 5) == b"hello"


# Buffers


def test_pages_are_a_buffer(pool):
    with pool.pages(order=3, zero=True) as page:
        assert len(page) == page.view.nbytes == 8 * PAGE
        page.view[:4] = b"abcd"
        numbers = np.asarray(page)
        assert numbers[:4].tolist() == [97, 98, 99, 100]
        numbers[0] = 7
        assert np.from_dlpack(page)[0] == page.view[0] == 7
        del numbers
    with pytest.raises(BadFree, match="freed already"):
        page.free()
    with pytest.raises(BufferError, match="freed"):
        memoryview(page)
    assert whole(pool)


def test_a_view_ends_with_its_pages_and_an_array_keeps_them(pool):
    page = pool.pages()
    view, numbers = page.view, np.asarray(page)
    with pytest.raises(BufferError, match="1 buffers of it exist"):
        page.free()
    del numbers
    page.free()
    with pytest.raises(ValueError, match="released"):
        view[0]


def test_close_waits_for_no_buffer():
    pool = PagePool("4MiB")
    shown = pool.view(0)
    with pytest.raises(BufferError, match="1 buffers of the pool still exist"):
        pool.close()
    shown[0] = 1
    del shown
    pool.close()
    for call in (pool.alloc, pool.pages, lambda: pool.free(0), lambda: pool.alloc_bulk(1), lambda: memoryview(pool)):
        with pytest.raises(UsageError, match="closed"):
            call()
    pool.close()


# Wrong calls change nothing


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda pool, pfn: pool.free(pfn + 1), BadFree, "not the head of an allocation"),
        (lambda pool, pfn: pool.free(pfn, 1), BadFree, "allocated with order 2, not 1"),
        (lambda pool, pfn: pool.free(len(pool)), BadFree, "outside"),
        (lambda pool, pfn: pool.free(-1), BadFree, "outside"),
        (lambda pool, pfn: pool.free_bulk([pfn, pfn]), BadFree, "in the batch twice"),
        (lambda pool, pfn: pool.free_bulk([pfn, 999]), BadFree, "double free"),
        (lambda pool, pfn: pool.free_bulk(b"1234"), UsageError, "int64"),
        (lambda pool, pfn: pool.alloc(11), UsageError, "order 11"),
        (lambda pool, pfn: pool.alloc(0, 3), UsageError, "migratetype 3"),
        (lambda pool, pfn: pool.alloc_bulk(0), UsageError, "1 or more"),
        (lambda pool, pfn: pool.alloc_bulk(2, bytearray(15)), UsageError, "15 bytes: expected 16"),
        (lambda pool, pfn: pool.view(len(pool)), UsageError, "the pool has"),
        (lambda pool, pfn: pool.cma_alloc(1), UsageError, "no CMA area"),
        (lambda pool, pfn: pool.fileno(), UsageError, "private"),
    ],
)
def test_wrong_calls(pool, call, error, words):
    pfn = pool.alloc(2)
    before = pool.stats()
    with pytest.raises(error, match=words):
        call(pool, pfn)
    assert pool.stats() == before
    pool.free(pfn)
    assert whole(pool)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": "0"}, "a page or more"),
        ({"size": "1PiB"}, "a number with KiB"),
        ({"size": "1000T"}, "on a machine that has|below pfn"),
        ({"cpus": 513}, "1..512"),
        ({"policy": "fast"}, "fast"),
        ({"cma": "1MiB"}, "whole pageblocks"),
        ({"huge": "yes"}, "transparent, explicit, never"),
        ({"per": "process"}, "cpu or thread"),
        ({"share": "/nonexistent/pool"}, "cannot be made"),
        ({"share": "/proc/pool"}, "cannot be made"),
        ({"size": "5MiB", "huge": "explicit"}, "multiple of 2 MiB"),
    ],
)
def test_pools_that_cannot_be(options, words):
    with pytest.raises(ConfigError, match=words):
        PagePool(**({"size": "4MiB"} | options))


def test_explicit_huge_pages_are_there_or_an_error_says_what_to_do():
    said = ""
    try:
        PagePool("4MiB", huge="explicit").close()
    except ConfigError as error:
        said = str(error)
    assert not said or "vm.nr_hugepages" in said


# Threads


@pytest.mark.parametrize("policy", ["mainline", "fixed", "handover", "tuned"])
def test_threads_pass_pages_on(policy):
    """
    Some allocate, others free what those allocated; each page says whose it is.
    """
    with PagePool("32MiB", cpus=2, policy=policy) as pool:
        queues = [[] for _ in range(4)]
        wrong = []

        def work(number):
            pick = random.Random(number)
            for step in range(400):
                if pick.random() < 0.5 and sum(map(len, queues)) < 60:
                    pages = pool.alloc_bulk(pick.randrange(1, 65))
                    for pfn in pages:
                        pool.view(pfn)[:8] = (number << 32 | pfn).to_bytes(8, "little")
                    queues[pick.randrange(4)].append((number, pages))
                elif queues[number]:
                    owner, pages = queues[number].pop()
                    wrong.extend(
                        pfn for pfn in pages if int.from_bytes(pool.view(pfn)[:8], "little") != owner << 32 | pfn
                    )
                    pool.free_bulk(pages)
                if step % 50 == 0:
                    pool.free(pool.alloc(pick.randrange(5)))
                    pool.tick()

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        for queue in queues:
            for _, pages in queue:
                pool.free_bulk(pages)
        assert whole(pool)


def test_a_thread_each():
    with PagePool("8MiB", cpus=3, per="thread") as pool:
        seen = []

        def note():
            seen.append(pool.this_slot())
            pool.free(pool.alloc())

        for _ in range(6):  # one after the other: a thread that is gone leaves its lists to the next but two
            thread = threading.Thread(target=note)
            thread.start()
            thread.join()
        assert {seen[0], seen[1], seen[2]} == {0, 1, 2}
        assert seen[:3] == seen[3:]
        assert whole(pool)


def test_cpus_of_any_number(monkeypatch):
    """
    A container may have CPUs 5 and 70 alone.
    """
    from pcpbuddy import pool as module

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {70, 5})
    assert module._slots(None) == {5: 0, 70: 1}
    assert module._slots(1) == {5: 0, 70: 0}
    with PagePool("4MiB") as pool:
        assert pool.cpus == 2
        pool.free(pool.alloc())
        assert whole(pool)


def test_ticks_come_by_themselves():
    """
    Here the decay of ``high`` (B-102), by the first slow call after a second; without ticks it stays.
    """

    def high(pool):
        return pool.zone.summary()["pcp"][0]["high"]

    with (
        PagePool("64MiB", cpus=1, policy="mainline") as pool,
        PagePool("64MiB", cpus=1, policy="mainline", ticks=False) as other,
    ):
        for each in (pool, other):
            each.free_bulk(each.alloc_bulk(10000))
        assert high(pool) == high(other) > pool.zone.summary()["pcp"][0]["high_min"]
        time.sleep(1.1)
        pool.drain()
        other.drain()
        assert high(pool) < high(other)
        other.tick()
        assert high(pool) == high(other)


def test_ticks_of_a_thread(monkeypatch):
    """
    Nobody comes by: ``high`` decays all the same, in a child too; the thread ends with the pool, not before.
    """
    monkeypatch.setattr("pcpbuddy.pool.TICK_S", 0.02)

    def tickers():
        return [thread for thread in threading.enumerate() if thread.name == "pcpbuddy ticks"]

    def decays(pool):
        pool.free_bulk(pool.alloc_bulk(10000))
        begun = pool.zone.summary()["pcp"][0]["high"]
        until = time.monotonic() + 10
        while pool.zone.summary()["pcp"][0]["high"] == begun:
            assert time.monotonic() < until
            time.sleep(0.01)

    pool = PagePool("64MiB", cpus=1, policy="mainline", ticks="thread")
    decays(pool)
    assert child(lambda: decays(pool)) == 0
    with pool.pages() as page:
        view = memoryview(page)
        with pytest.raises(BufferError):
            pool.close()
        assert len(tickers()) == 1
        view.release()
    decays(pool)
    pool.close()
    assert tickers() == []
    forgotten = PagePool("4MiB", ticks="thread")
    del forgotten
    gc.collect()
    until = time.monotonic() + 10
    while tickers():
        assert time.monotonic() < until
        time.sleep(0.01)
    with pytest.raises(ConfigError, match="expected True, False or thread"):
        PagePool("4MiB", ticks="often")


# Memory


def test_trim_gives_memory_back(pool):
    pages = pool.alloc_bulk(4096)
    for pfn in pages:
        pool.view(pfn)[0] = 1
    keep = pages[:8]
    pool.free_bulk(pages[8:])
    pool.drain()
    assert pool.trim() == 4096 - 8
    assert all(pool.view(pfn)[0] == 1 for pfn in keep)
    got = [pool.alloc(5) for _ in range(20)]
    assert all(not any(pool.view(pfn, 32)) for pfn in got)
    for pfn in [*keep, *got]:
        pool.free(pfn)
    assert whole(pool)


def resident_kb():
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in line)


def test_what_is_not_touched_costs_nothing():
    before = resident_kb()
    with PagePool("1GiB", huge="never") as pool:
        pool.free(pool.alloc())
        assert resident_kb() - before < 16 << 10
        assert pool.stats()["meta_bytes"] <= 16 * len(pool)


# CMA


def test_contents_move_with_their_pages():
    with PagePool("32MiB", cma="16MiB", cpus=1) as pool:
        held = [pool.pages() for _ in range(8192)]
        for number, page in enumerate(held):
            page.view[:8] = number.to_bytes(8, "little")
        for page in held[::2]:
            page.free()
        looked_at = next(page for page in held[1::2] if page.pfn >= 4096)
        view = looked_at.view
        got = pool.cma_alloc(1024, 3)
        assert got.pfn is not None
        assert got.pfn % 8 == 0
        assert got.pages_migrated > 100
        assert not got.pfn <= looked_at.pfn < got.pfn + 1024
        assert int.from_bytes(view[:8], "little") == held.index(looked_at)
        pool.view(got.pfn, 1024)[:] = b"\xff" * (1024 * PAGE)
        for number, page in enumerate(held):
            if number % 2:
                assert int.from_bytes(page.view[:8], "little") == number
        with pytest.raises(BadFree, match="cma_release"):
            pool.free(got.pfn)
        pool.cma_release(got.pfn, 1024)
        del view
        for page in held[1::2]:
            page.free()
        assert whole(pool)


# Shared pools


@pytest.fixture
def name(tmp_path):
    """
    A file that no other test has.
    """
    return tmp_path / "pool"


def test_two_who_map_it_where_they_like(name):
    with PagePool("8MiB", cpus=2, policy="fixed", share=name) as pool, PagePool.attach(name) as other:
        assert (other.policy, other.cpus, len(other)) == (pool.policy, 2, 2048)
        pfn = pool.alloc()
        pool.view(pfn)[:5] = b"hello"
        assert other.address(0) != pool.address(0)
        assert bytes(other.view(pfn)[:5]) == b"hello"
        other.free(pfn)
        assert whole(pool)
        assert pool.broken == other.broken == 0


def test_a_name_in_shared_memory():
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("no /dev/shm")
    name = f"pcpbuddy-test-{os.getpid()}"
    with PagePool("4MiB", share=name) as pool:
        try:
            with pytest.raises(ConfigError, match="exists: attach"):
                PagePool("4MiB", share=name)
            PagePool.attach(name).close()
        finally:
            pool.unlink()
    with pytest.raises(ConfigError, match="cannot be opened"):
        PagePool.attach(name)


def test_a_memfd_goes_to_a_child():
    with PagePool("4MiB", share=True) as pool:
        os.set_inheritable(pool.fileno(), True)
        script = f"from pcpbuddy import PagePool; p = PagePool.attach({pool.fileno()}); p.view(p.alloc())[:2] = b'hi'"
        subprocess.run([sys.executable, "-c", script], pass_fds=[pool.fileno()], check=True)
        assert pool.stats()["used"] == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is no pool"),
        (b"x" * 8192, "is no pool"),
        (b"pcpbuddy pool 1\n" + b"\xff" * 8192, "damaged"),
        (b"pcpbuddy pool 1\n" + b"\x02\0\0\0{}" + bytes(8192), "damaged"),
    ],
)
def test_files_that_are_no_pools(name, content, words):
    name.write_bytes(content)
    with pytest.raises(ConfigError, match=words):
        PagePool.attach(name)


def test_a_pool_that_was_cut(name):
    PagePool("4MiB", share=name).close()
    os.truncate(name, 1 << 20)
    with pytest.raises(ConfigError, match="it was cut"):
        PagePool.attach(name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anything")
def test_a_file_that_is_read_only(name):
    PagePool("4MiB", share=name).close()
    name.chmod(0o400)
    with pytest.raises(ConfigError, match="written by all who use it"):
        PagePool.attach(name)


def test_a_file_system_that_is_full(name, monkeypatch):
    class Full:
        f_bavail, f_frsize, f_blocks = 100, 4096, 1000

    monkeypatch.setattr(os, "fstatvfs", lambda _: Full)
    with pytest.raises(ConfigError, match="409600 bytes free, and the pool needs"):
        PagePool("4MiB", share=name)
    assert not name.exists()


# Forks, and deaths


def child(work):
    """
    The exit status of a fork that does this.
    """
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_fork_copies_private_memory():
    with PagePool("4MiB", cpus=2) as pool:
        pfn = pool.alloc()
        pool.view(pfn)[0] = 1

        def work():
            pool.view(pfn)[0] = 2
            pool.free(pfn)
            assert whole(pool)

        assert child(work) == 0
        assert pool.view(pfn)[0] == 1
        pool.free(pfn)
        assert whole(pool)


def test_a_fork_while_threads_work():
    with PagePool("16MiB", cpus=2) as pool:
        over = threading.Event()

        def churn():
            while not over.is_set():
                pool.free_bulk(pool.alloc_bulk(100))

        threads = [threading.Thread(target=churn) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(20):
                assert child(lambda: pool.free_bulk(pool.alloc_bulk(500))) == 0
        finally:
            over.set()
            for thread in threads:
                thread.join()
        assert whole(pool)


def test_a_fork_has_a_place_of_its_own_in_a_shared_pool(name):
    with PagePool("4MiB", cpus=2, share=name) as pool:

        def work():
            assert pool._place.me == 2
            pool.alloc()

        assert child(work) == 0
        assert pool.stats()["used"] == 1
        assert pool._place.me == 1
        with PagePool.attach(name) as other:
            assert other._place.me == 2  # the child's, who is gone


def hammer(pool):
    while True:
        pool.free_bulk(pool.alloc_bulk(300))


KILLS = pytest.param(1000, marks=[pytest.mark.long, pytest.mark.skipif(not LONG, reason="takes long; PCPBUDDY_LONG=1")])


@pytest.mark.parametrize("kills", [25, KILLS])
def test_killed_at_random(name, kills):
    """
    Whoever is killed with a lock in its hands is found: the others get an error, never a hang. Killed elsewhere, it
    leaves a pool that goes on, less what it held; pages that it had on their way, in no list, ``check()`` misses.
    """
    context = multiprocessing.get_context("fork")
    pick = random.Random(kills)
    ends = collections.Counter()
    for _ in range(kills):
        policy = pick.choice(list(PROFILES))
        with PagePool("8MiB", cpus=2, share=name, policy=policy) as pool:
            victim = context.Process(target=hammer, args=(pool,))
            victim.start()
            time.sleep(0.01 + pick.random() * 0.02)
            os.kill(victim.pid, signal.SIGKILL)  # and it stays a zombie until it is joined
            ends[after_a_death(pool, policy, victim)] += 1
            victim.join()
        name.unlink()
    print(ends)
    assert kills < 1000 or min(ends["sound"], ends["broken"]) > 0


def after_a_death(pool, policy, victim):
    """
    What becomes of the pool when the others go on.
    """
    error = None
    try:
        for _ in range(100):
            pool.free_bulk(pool.alloc_bulk(100))
            pool.drain()
        os.waitid(os.P_PID, victim.pid, os.WEXITED | os.WNOWAIT)  # a signal may take its time
        pool.check()
    except (PoolBroken, Corruption) as seen:
        error = seen
    if isinstance(error, PoolBroken):
        assert "process 2 of this pool died with a lock" in str(error)
        with pytest.raises(PoolBroken):
            pool.alloc()
        with pytest.raises(PoolBroken):
            PagePool.attach(pool.path)
        return "broken"
    assert pool.stats()["free"] > len(pool) - 1200
    if error is None:
        return "sound"
    rule = re.match(r"I-(\d+)", str(error))[1]
    assert rule == "1" or (rule == "7" and policy in ("llist", "handover", "tuned")), error
    return "lost on the way"


# From C and Cython


def test_the_installed_header_and_library(tmp_path):
    root = Path(pcpbuddy.get_include()).parent
    library = root / "libpcpbuddy.so"
    if not library.exists():
        pytest.skip("not an installed package")
    source = Path(__file__).parent.parent / "examples" / "pool.c"
    program = tmp_path / "pool"
    subprocess.run(
        [os.environ.get("CC", "cc"), "-Wall", "-Werror", f"-I{pcpbuddy.get_include()}", source, library, "-o", program],
        check=True,
    )
    done = subprocess.run(
        [program], env=os.environ | {"LD_LIBRARY_PATH": str(root)}, check=True, capture_output=True, text=True
    )
    assert "1024 pages" in done.stdout


def test_the_c_library_and_a_pool_of_python(pool):
    library = Path(pcpbuddy.get_include()).parent / "libpcpbuddy.so"
    if not library.exists():
        pytest.skip("not an installed package")
    capsule = ctypes.pythonapi.PyCapsule_GetPointer
    capsule.restype, capsule.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    there = ctypes.CDLL(str(library))
    there.pcpbuddy_get.argtypes, there.pcpbuddy_get.restype = [ctypes.c_void_p, ctypes.c_int], ctypes.c_int64
    there.pcpbuddy_memory.argtypes = [ctypes.c_void_p, ctypes.c_int64]
    there.pcpbuddy_memory.restype = ctypes.c_void_p
    handle = capsule(pool.capsule, b"pcpbuddy.pool")
    pfn = there.pcpbuddy_get(handle, 3)
    assert there.pcpbuddy_memory(handle, pfn) == pool.address(pfn)
    pool.free(pfn, 3)
    assert whole(pool)
