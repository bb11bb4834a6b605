"""
Recording what a live kernel's page allocator does, through tracefs: bounded, in an instance of our own, and gone after.

The result is a folder that every command reads as a trace: ``cpuN.raw`` with the formats of the events, what /proc said
before and after, and ``recorder.json``.
"""

import contextlib
import dataclasses
import fcntl
import json
import mmap
import os
import platform
import re
import select
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import UsageError
from .events import answers, offered
from .tracefs import Instance, Tracefs, leftovers, remove

__all__ = ["Options", "Recorded", "Until", "clean", "parse_until", "record", "sentences"]

PAGE = 4096
PROC = ("zoneinfo", "pagetypeinfo", "buddyinfo", "vmstat")
SYSCTLS = (
    "min_free_kbytes",
    "watermark_boost_factor",
    "watermark_scale_factor",
    "percpu_pagelist_high_fraction",
    "lowmem_reserve_ratio",
    "zone_reclaim_mode",
    "compaction_proactiveness",
    "defrag_mode",
)
MARKS = 4000  # marker writes that the cost of one event is measured with
ROUND_MS = 100
PROBE_PAGES = 64
SPLICE_NONBLOCK = 2
F_SETPIPE_SZ = 1031
LEAST_BUFFER, MOST_BUFFER = 256 << 10, 16 << 20  # bytes for each CPU while it is read as it fills
SHARE_OF_MEMORY = 20  # buffers take one part of so many of what is available
SIGNALS = {"USR1": signal.SIGUSR1, "USR2": signal.SIGUSR2, "HUP": signal.SIGHUP}


@dataclasses.dataclass(frozen=True, slots=True)
class Until:
    """
    What ends a recording before its time. kind: latency (of memory, in ms), command, or signal.
    """

    kind: str
    value: str


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """
    folder: where it goes, not there yet. seconds, most_bytes: when it ends at the latest. flight: only the last events,
    as many as the buffers hold. buffer_bytes: for each CPU; None: by what the machine has. command: what to run.
    """

    folder: Path
    seconds: float
    most_bytes: int = 1 << 30
    flight: bool = False
    until: Until | None = None
    buffer_bytes: int | None = None
    command: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Recorded:
    """
    What was recorded. facts: all that recorder.json holds. signal: the one that ended it, if one did.
    """

    folder: Path
    facts: dict[str, Any]
    signal: int | None = None


def parse_until(text: str) -> Until:
    """
    "latency 20", "command CMD ..", "signal USR1". Raises UsageError.
    """
    kind, _, value = text.partition(" ")
    value = value.strip()
    wrong = (
        (kind == "latency" and not re.fullmatch(r"\d{1,6}(?:\.\d{1,3})?", value))
        or (kind == "command" and not value)
        or (kind == "signal" and value not in SIGNALS)
    )
    if wrong or kind not in ("latency", "command", "signal"):
        raise UsageError(
            f"--until {text!r}: expected 'latency MS', 'command CMD' (ends when it does) or 'signal USR1|USR2|HUP'"
        )
    return Until(kind, value)


def clean() -> list[str]:
    """
    Remove what recorders that are no more have left behind; gives the names.
    """
    tracefs = Tracefs()
    try:
        return [path.name for path in leftovers(tracefs.root) if remove(path)]
    finally:
        tracefs.close()


def record(options: Options, say: Callable[[str], None] = lambda _: None) -> Recorded:
    """
    Record. say: called with what is worth knowing while it runs, a line each.

    Ended early by SIGINT or SIGTERM it keeps what there is. Raises UsageError where it cannot record.
    """
    if options.folder.exists():
        raise UsageError(f"{options.folder} exists; give another name with -o")
    if not options.folder.resolve().parent.is_dir():
        raise UsageError(f"-o {options.folder}: there is no directory {options.folder.resolve().parent}")
    with _Stop(options.until) as stop:
        tracefs = Tracefs()
        try:
            for left in leftovers(tracefs.root):
                if remove(left):
                    say(f"{left.name}, left behind by a recorder that was killed, removed")
            names = offered(tracefs.root / "events")
            if "kmem/mm_page_alloc" not in names:
                raise UsageError(f"{tracefs.root} has no event kmem:mm_page_alloc; the kernel was built without it")
            with Instance(tracefs) as instance:
                return _Recording(options, tracefs, instance, names, stop, say).run()
        finally:
            tracefs.close()


class _Stop:
    """
    Why a recording ends: signals, noted while this is in use; what was there before is put back.
    """

    def __init__(self, until: Until | None) -> None:
        self.why: str | None = None
        self.signal: int | None = None
        self._numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
        self._wanted = SIGNALS[until.value] if until is not None and until.kind == "signal" else None
        if self._wanted is not None and self._wanted not in self._numbers:
            self._numbers.append(self._wanted)
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "_Stop":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._noted) for number in self._numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _noted(self, number: int, _: object) -> None:
        if number == self._wanted:
            self.why = self.why or f"signal {signal.Signals(number).name}, as --until says"
            return
        self.signal = self.signal or number
        self.why = self.why or f"signal {signal.Signals(number).name}"


class _Recording:
    """
    One recording, from switching on to the files.
    """

    def __init__(
        self,
        options: Options,
        tracefs: Tracefs,
        instance: Instance,
        names: list[str],
        stop: _Stop,
        say: Callable[[str], None],
    ) -> None:
        self.options, self.tracefs, self.instance, self.names = options, tracefs, instance, names
        self.stop, self.say, self.folder = stop, say, options.folder
        self.cpus = sorted(int(path.name[3:]) for path in (instance.path / "per_cpu").glob("cpu*"))
        self.done_bytes = 0
        self.buffer_bytes = options.buffer_bytes or self._buffer_bytes()
        self.clock = "global"

    def _buffer_bytes(self) -> int:
        share = _available_bytes() // SHARE_OF_MEMORY // len(self.cpus)
        most = self.options.most_bytes // len(self.cpus) if self.options.flight else MOST_BUFFER
        return max(LEAST_BUFFER, min(share, most))

    def run(self) -> Recorded:
        cost_ns = self._prepare()
        self._say_before(cost_ns)
        self.folder.mkdir()
        try:
            return self._run(cost_ns)
        except BaseException:
            if not any(self.folder.glob("cpu*.raw")):
                shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def _run(self, cost_ns: float) -> Recorded:
        self._describe()
        self._proc("armed" if self.options.flight else "before")
        began = time.monotonic()
        with contextlib.ExitStack() as stack:
            readers = [_Reader(self.instance, cpu, self.folder, stack) for cpu in self.cpus]
            command = self._start_command(stack)
            until = self._start_until(stack)
            self.instance.write("tracing_on", 1)
            why = self._read(readers, began, command, until)
            self.instance.write("tracing_on", 0)
            seconds = time.monotonic() - began
            self._proc("after")
            for reader in readers:
                self.done_bytes += reader.drain() + reader.rest()
            (self.folder / "saved_cmdlines").write_text(self.tracefs.text("saved_cmdlines"))
            stats = self._stats()
        facts = self._facts(why, seconds, stats, cost_ns)
        (self.folder / "recorder.json").write_text(json.dumps(facts, indent=1) + "\n")
        return Recorded(self.folder, facts, self.stop.signal)

    # -- before -------------------------------------------------------------------------------------------------------

    def _prepare(self) -> float:
        """
        Everything but on: clock, buffers, events. Gives what one event costs, in nanoseconds.
        """
        instance = self.instance
        instance.write("tracing_on", 0)
        source = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
        with contextlib.suppress(OSError):
            if source.read_text().strip() == "tsc" and instance.try_write("trace_clock", "mono"):
                self.clock = "mono"
        if self.clock == "global":
            instance.write("trace_clock", "global")
        cost_ns = _event_cost_ns(instance)
        instance.write("buffer_size_kb", max(4, self.buffer_bytes >> 10))
        instance.try_write("buffer_percent", 25)
        instance.try_write("options/overwrite", 1)  # what is lost is then marked where it is lost
        instance.write("trace", "")
        for name in self.names:
            instance.write(f"events/{name}/enable", 1)
        return cost_ns

    def _say_before(self, cost_ns: float) -> None:
        rate = _page_rate()
        per_cpu = rate / max(1, len(os.sched_getaffinity(0)))
        size = f"{self.buffer_bytes / (1 << 20):.1f} MiB"
        self.say(
            f"{len(self.names)} events, clock {self.clock}, buffers of {size} on each of {len(self.cpus)} CPUs; one "
            f"event costs {cost_ns:.0f} ns here, and at {rate:.0f} pages/s that come and go just now that is "
            f"{rate * cost_ns / 1e7:.2g}% of one CPU ({per_cpu:.0f} events/s on each)"
        )

    def _describe(self) -> None:
        """
        What a reader of the raw files needs: layout of sub-buffers and of each event.
        """
        for name in ("header_page", "header_event"):
            (self.folder / name).write_text(self.tracefs.text(f"events/{name}"))
        for name in (*self.names, "ftrace/print"):
            text = self.tracefs.text(f"events/{name}/format")
            if text:
                target = self.folder / "events" / name
                target.mkdir(parents=True)
                (target / "format").write_text(text)

    def _proc(self, when: str) -> None:
        folder = self.folder / when
        folder.mkdir()
        for name in PROC:
            with contextlib.suppress(OSError):
                (folder / name).write_text((Path("/proc") / name).read_text())
        with contextlib.suppress(OSError):
            lines = Path("/proc/iomem").read_text().splitlines(keepends=True)
            (folder / "iomem").write_text("".join(line for line in lines if line.endswith(": System RAM\n")))
        found = {}
        for name in SYSCTLS:
            with contextlib.suppress(OSError):
                found[name] = Path(f"/proc/sys/vm/{name}").read_text().strip()
        (folder / "vm.json").write_text(json.dumps(found, indent=1) + "\n")

    # -- while it runs ------------------------------------------------------------------------------------------------

    def _start_command(self, stack: contextlib.ExitStack) -> "subprocess.Popen[bytes] | None":
        if not self.options.command:
            return None
        try:
            # Switched on by the time it starts: what it does first is wanted.
            self.instance.write("tracing_on", 1)
            command = subprocess.Popen(self.options.command)
        except OSError as error:
            raise UsageError(f"{self.options.command[0]} cannot be run: {error.strerror}") from None
        stack.callback(_end, command)
        return command

    def _start_until(self, stack: contextlib.ExitStack) -> Callable[[], str | None]:
        until = self.options.until
        if until is None or until.kind == "signal":
            return lambda: None
        if until.kind == "command":
            waiting = subprocess.Popen(
                ["/bin/sh", "-c", until.value], stdout=subprocess.DEVNULL, start_new_session=True
            )
            stack.callback(_end, waiting)
            return lambda: None if waiting.poll() is None else f"the command of --until ended with {waiting.returncode}"
        probe = _LatencyProbe(float(until.value))
        stack.callback(probe.close)
        return lambda: probe.seen

    def _read(
        self,
        readers: Sequence["_Reader"],
        began: float,
        command: "subprocess.Popen[bytes] | None",
        until: Callable[[], str | None],
    ) -> str:
        """
        Until something ends it; says what.
        """
        poll = select.poll()
        if not self.options.flight:
            for reader in readers:
                poll.register(reader.fd, select.POLLIN)
        while True:
            left_s = began + self.options.seconds - time.monotonic()
            if self.stop.why:
                return self.stop.why
            if left_s <= 0:
                return "its time was over"
            if why := until():
                return why
            if command is not None and command.poll() is not None:
                return f"the command ended with {command.returncode}"
            poll.poll(min(ROUND_MS, max(1, left_s * 1000)))
            if not self.options.flight:
                for reader in readers:
                    self.done_bytes += reader.drain(self.options.most_bytes - self.done_bytes)
                if self.done_bytes >= self.options.most_bytes:
                    return "it has the size that --max-size allows"

    def _stats(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for cpu in self.cpus:
            for line in self.instance.text(f"per_cpu/cpu{cpu}/stats").splitlines():
                name, _, value = line.partition(": ")
                if name in ("overrun", "commit overrun", "dropped events", "read events"):
                    found[name] = found.get(name, 0) + int(value)
        return found

    def _facts(self, why: str, seconds: float, stats: dict[str, int], cost_ns: float) -> dict[str, Any]:
        events = stats.get("read events", 0)
        written = events + stats.get("overrun", 0) + stats.get("dropped events", 0)
        return {
            "schema": "pcpbuddy.record/1",
            "kernel": platform.release(),
            "arch": platform.machine(),
            "clock": self.clock,
            "cpus": len(self.cpus),
            "events": self.names,
            "answers": dict(answers(self.names, flight=self.options.flight)),
            "seconds": round(seconds, 3),
            "ended": why,
            "flight": self.options.flight,
            "bytes": self.done_bytes,
            "buffer_bytes_per_cpu": self.buffer_bytes,
            "events_recorded": events,
            "events_lost": written - events,
            "event_cost_ns": round(cost_ns, 1),
            "overhead_of_one_cpu": round(written * cost_ns / 1e9 / max(seconds, 1e-9), 6),
        }


class _Reader:
    """
    The sub-buffers of one CPU into its file: whole ones by splice, the last by read.
    """

    def __init__(self, instance: Instance, cpu: int, folder: Path, stack: contextlib.ExitStack) -> None:
        raw = instance.path / "per_cpu" / f"cpu{cpu}" / "trace_pipe_raw"
        self.fd = os.open(raw, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        stack.callback(os.close, self.fd)
        self._out = os.open(folder / f"cpu{cpu}.raw", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        stack.callback(os.close, self._out)
        self._from, self._into = os.pipe2(os.O_CLOEXEC)
        stack.callback(os.close, self._from)
        stack.callback(os.close, self._into)
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._into, F_SETPIPE_SZ, 1 << 20)

    def drain(self, most: int = 1 << 62) -> int:
        """
        What fills whole sub-buffers, about ``most`` bytes; gives how many.
        """
        total = 0
        while total < most:
            try:
                count = os.splice(self.fd, self._into, 1 << 18, flags=SPLICE_NONBLOCK)
            except BlockingIOError:
                break
            if count <= 0:
                break
            total += count
            while count:
                count -= os.splice(self._from, self._out, count)
        return total

    def rest(self) -> int:
        """
        The sub-buffer that is not full, when tracing is off.
        """
        total = 0
        while True:
            try:
                page = os.read(self.fd, PAGE)
            except BlockingIOError:
                break
            if not page:
                break
            os.write(self._out, page)
            total += len(page)
        return total


class _LatencyProbe:
    """
    A thread that takes and gives back some pages every 10 ms. seen: what it says when that took too long.
    """

    def __init__(self, most_ms: float) -> None:
        self.seen: str | None = None
        self._most_ms, self._over = most_ms, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(0.01):
            began = time.monotonic()
            memory = mmap.mmap(-1, PROBE_PAGES * PAGE)
            for page in range(PROBE_PAGES):
                memory[page * PAGE] = 1
            memory.close()
            took_ms = (time.monotonic() - began) * 1e3
            if took_ms > self._most_ms:
                self.seen = f"{PROBE_PAGES} pages took {took_ms:.1f} ms, more than the {self._most_ms:g} of --until"
                return

    def close(self) -> None:
        """
        End it.
        """
        self._over.set()
        self._thread.join()


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _event_cost_ns(instance: Instance) -> float:
    """
    What an event costs where it is written: a marker's write less a write that does nothing.
    """
    instance.write("tracing_on", 1)
    with (
        open(instance.path / "trace_marker", "wb", buffering=0) as marker,
        open(os.devnull, "wb", buffering=0) as nothing,
    ):
        costs = []
        for file in (marker, nothing):
            best = float("inf")
            for _ in range(4):
                began = time.perf_counter_ns()
                for _ in range(MARKS // 4):
                    file.write(b"pcpbuddy: what does an event cost")
                best = min(best, (time.perf_counter_ns() - began) / (MARKS // 4))
            costs.append(best)
    instance.write("tracing_on", 0)
    return max(1.0, costs[0] - costs[1])


def _page_rate() -> float:
    """
    Pages that are allocated and freed in a second, as vmstat counts them: about as many events.
    """

    def counted() -> int:
        text = Path("/proc/vmstat").read_text()
        return sum(int(count) for _, count in re.findall(r"^(pgalloc_\w+|pgfree) (\d+)$", text, re.MULTILINE))

    try:
        before, began = counted(), time.monotonic()
        time.sleep(0.2)
        return (counted() - before) / (time.monotonic() - began)
    except OSError:
        return 0.0


def _available_bytes() -> int:
    with contextlib.suppress(OSError):
        if match := re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE):
            return int(match[1]) << 10
    return 1 << 30


def sentences(facts: dict[str, Any]) -> Iterator[str]:
    """
    What was recorded, for people.
    """
    lost = f", {facts['events_lost']} lost" if facts["events_lost"] else ", none lost"
    if facts["flight"]:
        lost = f", the last of {facts['events_recorded'] + facts['events_lost']}"
    yield (
        f"{facts['events_recorded']} events in {facts['seconds']:.1f} s{lost}; {facts['bytes'] / (1 << 20):.1f} MiB; "
        f"ended because {facts['ended']}"
    )
    share = 100 * facts["overhead_of_one_cpu"]
    yield f"overhead: about {share:.2g}% of one CPU ({facts['event_cost_ns']:.0f} ns an event)"
    for question, answer in facts["answers"].items():
        yield f"  {question + '?':<33}{answer}"
