"""
Replay against the kernel that made a recording: requests per second of KernelReplay, and what it keeps in memory.

Memory is that of a process of its own, so that what others left behind cannot hide what is added.
"""

import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import streams
from measure import Figure, Spread, interleave, ratios, timed

from pcpbuddy import _core, config, recording
from pcpbuddy.recording import files, rows, snapshot

__all__ = ["figures"]

GOAL_RATE = 2.0  # million requests a second, for recordings of more than LARGE rows
LARGE = 100_000
GOAL_MEMORY = 1.1
TIMES = 8
REPEATED = "affinity-cut-4c"
ENOUGH = 500_000  # a timing repeats a short recording until it has seen this many requests


class ByValue(Figure):
    """
    A line whose goal is about the value: its reference does other work, and stands there for orientation.
    """

    @property
    def decides(self) -> Spread:
        """
        What the goal is compared with.
        """
        return self.value


class Recorded:
    """
    A recording, its rows packed. The state of snapshot 0 is put back before each pass.
    """

    def __init__(self, path: Path) -> None:
        base = path.with_suffix("")
        self._file = files.RowFile(path)
        first = files.read_snapshot(base, 0)
        assert first is not None
        self._first, self._last = first, files.read_snapshot(base, 1)
        self._events = self._file.event_names()
        self._batches = list(self._reader().batches())
        self._node = _core.Node.from_state(snapshot.node_state(first), config.policy("mainline"))
        self._snapshots = [zone.snapshot() for zone in self._node.zones]
        self._requests = np.ascontiguousarray(recording.load(path).requests)
        self.nr_rows = self._file.nr_rows
        self.nr_requests = len(self._requests)
        self.counted: dict[str, dict[str, Any]] = {}
        self.fed: dict[str, list[float]] = {}

    def _reader(self) -> rows.Reader:
        return rows.Reader(self._file, self._first, self._last)

    def _restore(self) -> None:
        for zone, state in zip(self._node.zones, self._snapshots, strict=True):
            zone.restore(state)

    def against_kernel(self, mode: str) -> tuple[float, int]:
        """
        One pass as pcpbuddy.replay makes it: nanoseconds of the replay loop, and requests.

        elapsed_ns is wall time. Its share of the wall time of feed is taken of feed's CPU time: the loop alone, without
        the copying of rows, and without what other processes take.
        """
        self._restore()
        core = _core.KernelReplay(
            self._node,
            self._first.json["max_pfn"],
            mode=mode,
            folds="vmfold" in self._events,
            plain=not self._events & {"pcp_alloc", "pcp_free"},
            drift_marks=[zone["percpu_drift_mark"] for zone in self._first.json["zones"]],
        )

        def feed() -> None:
            for batch in self._batches:
                core.feed(batch)
            core.feed(self._batches[-1][:0], last=True)

        start = time.perf_counter_ns()
        spent = timed(feed)
        wall = time.perf_counter_ns() - start
        counted = core.result()
        loop = spent * counted.pop("elapsed_ns") / wall
        self.fed.setdefault(mode, []).append(1e3 * counted["requests"] / spent)
        if self.counted.setdefault(mode, counted) != counted:
            raise RuntimeError(f"two passes of {self._file.label} in {mode} differ: the state was not put back")
        return loop, counted["requests"]

    def as_load(self) -> tuple[float, int]:
        """
        One pass in handle mode under mainline, from the same state.
        """
        self._restore()
        core = _core.HandleReplay(self._node, self._first.json["max_pfn"])
        return timed(lambda: core.run(self._requests)), self.nr_requests

    def decode(self) -> tuple[float, int]:
        """
        From the file to packed rows.
        """

        def read() -> None:
            for _ in self._reader().batches():
                pass

        return timed(read), self.nr_rows

    def note(self, mode: str) -> str:
        """
        The speed with the copying of rows, and whether the replay went the kernel's way.
        """
        seen, exact = self.counted[mode]["allocs"]
        differ = [] if seen == exact else [f"{seen - exact} of {seen} allocations differ"]
        return ", ".join([f"{statistics.median(self.fed[mode]):.2f} with copying", *differ])


def figures(folder: Path, *, quick: bool, rounds: int) -> Iterator[Figure]:
    """
    Two or three lines for each recording, then memory.
    """
    for path in _paths(quick):
        yield from _speed(path, quick=quick, rounds=rounds)
    yield from _memory(folder, rounds=3)


def _paths(quick: bool) -> list[Path]:
    """
    The shipped recordings, and the whole ones where their folder is there (not with --quick).
    """
    found: dict[str, Path] = {}
    for where in streams.FOLDERS[:1] if quick else streams.FOLDERS:
        for path in sorted(where.glob("*.parquet")):
            found.setdefault(path.stem, path)
    return list(found.values())


# -- speed ----------------------------------------------------------------------------------------------------


def _speed(path: Path, *, quick: bool, rounds: int) -> Iterator[Figure]:
    one = Recorded(path)
    modes = ["free-run"] if "-cut-" in path.stem else ["free-run", "guided"]
    passes = max(1, (ENOUGH // 10 if quick else ENOUGH) // one.nr_requests)
    tasks = {"reference": _rate(one.as_load, passes), "decoding": _rate(one.decode, 1)}
    tasks |= {mode: _rate(lambda mode=mode: one.against_kernel(mode), passes) for mode in modes}
    taken = interleave(tasks, rounds)
    group = f"against the kernel {path.stem}, {one.nr_rows} rows, {one.nr_requests} requests"
    for mode in modes:
        yield ByValue(
            group=group,
            name=mode,
            unit="M/s",
            value=Spread.of(taken[mode]),
            reference=Spread.of(taken["reference"]),
            ratio=ratios(taken[mode], taken["reference"]),
            goal=GOAL_RATE if mode == "free-run" and one.nr_rows > LARGE else None,
            at_least=True,
            note=one.note(mode),
        )
    yield Figure(group=group, name="decoding", unit="M rows/s", value=Spread.of(taken["decoding"]))


def _rate(once: Callable[[], tuple[float, int]], passes: int) -> Callable[[], float]:
    """
    Millions a second over some passes.
    """

    def rate() -> float:
        spent, done = map(sum, zip(*(once() for _ in range(passes)), strict=True))
        return 1e3 * done / spent

    return rate


# -- memory ---------------------------------------------------------------------------------------------------


def _memory(folder: Path, *, rounds: int) -> Iterator[Figure]:
    """
    What a replay adds to a process that only imports: the recording as it is, and many times as long.
    """
    source = streams.FOLDERS[0] / f"{REPEATED}.parquet"
    lengths = {}
    for times in (1, TIMES):
        target = folder / f"{times}-times.parquet"
        lengths[times] = (target, _lengthen(source, target, times))
    tasks = {
        "imports": _resident,
        "short": lambda: _resident(lengths[1][0]),
        "long": lambda: _resident(lengths[TIMES][0]),
    }
    taken = interleave(tasks, rounds)
    short, long = (
        [mine - none for mine, none in zip(taken[name], taken["imports"], strict=True)] for name in ("short", "long")
    )
    group = f"memory of a replay, {REPEATED} in resync"
    yield Figure(group=group, name="a process that only imports", unit="MB", value=Spread.of(taken["imports"]))
    yield Figure(group=group, name=f"added, {lengths[1][1]} rows", unit="MB", value=Spread.of(short))
    yield Figure(
        group=group,
        name=f"added, {lengths[TIMES][1]} rows",
        unit="MB",
        value=Spread.of(long),
        reference=Spread.of(short),
        ratio=ratios(long, short),
        goal=GOAL_MEMORY,
    )


def _lengthen(source: Path, target: Path, times: int) -> int:
    """
    The rows of phase 1 over and over, numbering and clock going on, without snapshot 1. Returns how many rows.

    Row groups are those that pyarrow makes by itself, as in the whole recordings: up to 1 Mi rows.
    """
    table = pq.read_table(source)
    table = table.filter(pa.array(table["phase"].to_numpy() == rows.REPLAYED))
    cpu, number, stamp = (table[name].to_numpy() for name in ("cpu", "cpu_seq", "ts_ns"))
    step = np.zeros(cpu.max() + 1, number.dtype)
    for c in np.unique(cpu):
        step[c] = np.ptp(number[cpu == c]) + 1
    parts = []
    for turn in range(times):
        part = table
        for name, values in (("cpu_seq", number + turn * step[cpu]), ("ts_ns", stamp + turn * (np.ptp(stamp) + 1))):
            at = table.schema.get_field_index(name)
            part = part.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type))
        parts.append(part)
    pq.write_table(pa.concat_tables(parts), target, compression="zstd")
    for ending in ("snap0.json.zst", "snap0.npz"):
        shutil.copyfile(source.with_name(f"{source.stem}.{ending}"), target.with_name(f"{target.stem}.{ending}"))
    return times * len(cpu)


def _resident(path: Path | None = None) -> float:
    """
    The most memory in MB that a process had resident: one that replays, or only imports.
    """
    command = [sys.executable, __file__, *([str(path)] if path else [])]
    return float(json.loads(subprocess.check_output(command, text=True))["peak_mb"])


def _child(paths: list[str]) -> None:
    from pcpbuddy.replay import replay

    for path in paths:
        replay(path, "resync")
    status = Path("/proc/self/status").read_text()
    peak = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
    json.dump({"peak_mb": int(peak) * 1024 / 1e6}, sys.stdout)


if __name__ == "__main__":
    _child(sys.argv[1:])
