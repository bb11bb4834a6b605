"""
Readers of traces: bytes a second of text beside memchr and beside Python's re, events a second of trace.dat.

The trace is made of the rows of a shipped recording, written as a kernel and trace-cmd would (tests/tracedata.py).
"""

import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from compiled import lines_library
from measure import Figure, Spread, interleave, ratios, timed

from pcpbuddy.names import gfp_text
from pcpbuddy.trace import open_trace

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from tracedata import Kernel, dat7, pages, text_line

__all__ = ["figures"]

RECORDING = Path(__file__).resolve().parents[1] / "recordings" / "exits-cut-4c.parquet"
EVENTS = (
    "mm_page_alloc",
    "mm_page_free",
    "mm_page_free_batched",
    "mm_page_alloc_zone_locked",
    "mm_page_pcpu_drain",
)
TIMES = 4
SPAN_NS = 10**11
RE_BYTES = 1 << 20
GOAL_MEMCHR, GOAL_RE, GOAL_EVENTS = 0.2, 20.0, 10.0
# What a reader in Python would begin with.
LINE = re.compile(
    r"^ *(?P<comm>.{1,16}?)-(\d+) +\[(\d+)\] (?P<flags>\S+) +(\d+)\.(\d+): (?P<event>\w+): page=\S+ pfn=0x([0-9a-f]+) "
    r"order=(\d+)(?: migratetype=(\d+))?(?: percpu_refill=(\d+))?(?: gfp_flags=(\S+))?$"
)


def figures(folder: Path, *, rounds: int) -> Iterator[Figure]:
    """
    Text against memchr and re, then trace.dat.
    """
    rows = [row for row in pq.read_table(RECORDING).to_pylist() if row["event"] in EVENTS]
    text = _text(rows)
    path = folder / "trace.txt"
    path.write_bytes(text)
    yield from _text_figures(folder, path, text, rounds)
    rows = [dict(row, ts_ns=row["ts_ns"] + turn * SPAN_NS) for turn in range(TIMES) for row in rows]
    for codec in ("none", "zstd"):
        path = folder / f"{codec}.dat"
        path.write_bytes(_dat(rows, codec))
        yield from _dat_figures(path, codec, len(rows), rounds)


def _text_figures(folder: Path, path: Path, text: bytes, rounds: int) -> Iterator[Figure]:
    lines = lines_library(folder)
    some = text[: text.index(b"\n", RE_BYTES) + 1].decode()
    tasks: dict[str, Callable[[], float]] = {
        "ours": lambda: len(text) / timed(lambda: _read(path)),
        "memchr": lambda: len(text) / timed(lambda: lines(text, len(text))),
        "re": lambda: len(some) / timed(lambda: _read_with_re(some)),
    }
    taken = interleave(tasks, rounds)
    for name, goal in (("memchr", GOAL_MEMCHR), ("re", GOAL_RE)):
        yield Figure(
            group="traces",
            name=f"tracefs text, against {name}",
            unit="GB/s",
            value=Spread.of(taken["ours"]),
            reference=Spread.of(taken[name]),
            ratio=ratios(taken["ours"], taken[name]),
            goal=goal,
            at_least=True,
            note=f"{text.count(bytes([10]))} lines, {len(text) >> 20} MiB",
        )


def _dat_figures(path: Path, codec: str, events: int, rounds: int) -> Iterator[Figure]:
    taken = interleave({"ours": lambda: events / _wall_us(path)}, rounds)
    yield Figure(
        group="traces",
        name=f"trace.dat, {'not packed' if codec == 'none' else codec}",
        unit="M events/s",
        value=Spread.of(taken["ours"]),
        goal=GOAL_EVENTS,
        at_least=True,
        note=f"{events} events of 4 CPUs",
    )


def _wall_us(path: Path) -> float:
    """
    Wall time: what is packed is unpacked by a second thread.
    """
    start = time.perf_counter_ns()
    _read(path)
    return (time.perf_counter_ns() - start) / 1e3


def _read(path: Path) -> int:
    """
    All rows of a trace, from opening the file to the last batch.
    """
    with open_trace(path) as trace:
        return sum(len(batch) for batch in trace.batches())


def _read_with_re(text: str) -> list[tuple[object, ...]]:
    """
    The same columns by a regular expression and int(); names of flags by a dictionary, as ours.
    """
    rows: list[tuple[object, ...]] = []
    words: dict[str | None, int] = {}
    for line in text.splitlines():
        match = LINE.match(line)
        if match is None:
            continue
        comm, pid, cpu, flags, whole, part, event, pfn, order, migratetype, refill, gfp = match.groups()
        rows.append(
            (
                int(whole) * 10**9 + int(part) * 1000,
                int(cpu),
                int(pid),
                comm,
                event,
                flags,
                int(pfn, 16),
                int(order),
                None if migratetype is None else int(migratetype),
                None if refill is None else int(refill),
                words.setdefault(gfp, len(words)),
            )
        )
    return rows


def _text(rows: list[dict[str, Any]]) -> bytes:
    made = []
    for row in rows:
        rest = f"{row['event']}: page=00000000{row['pfn']:08x} pfn=0x{row['pfn']:x} order={row['order'] or 0}"
        for name in ("migratetype", "percpu_refill"):
            rest += f" {name}={row[name]}" if row[name] is not None else ""
        rest += f" gfp_flags={gfp_text(row['gfp_flags'])}" if row["gfp_flags"] is not None else ""
        made.append(text_line(f"exits{row['cpu']}", 170 + row["cpu"], row["cpu"], row["ts_ns"], rest, flags="d..3."))
    return ("# tracer: nop\n" + "".join(made) * TIMES).encode()


def _dat(rows: list[dict[str, Any]], codec: str) -> bytes:
    kernel, cpus = Kernel("6.6"), {cpu: [] for cpu in range(4)}  # type: dict[str, Any]
    for row in rows:
        layout, _ = kernel.layout(row["event"])
        fields = {name: row[name] for name in layout if name in row}
        cpus[row["cpu"]].append((row["ts_ns"], kernel.event(row["event"], 170 + row["cpu"], **fields)))
    return dat7({"": {cpu: pages(one) for cpu, one in cpus.items()}}, kernel.formats(), codec=codec, chunk_pages=10)
