"""
Ring buffers, from a trace.dat or as they were copied out of tracefs, as batches of rows in the order of time.
"""

import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import Executor

import numpy as np

from . import formats
from ._parse import RingParser
from .health import CpuHealth, Health, Loss, Odd
from .schema import EVENT, Batch

__all__ = ["BATCH_ROWS", "Ring", "ahead", "block_bytes", "cpu_healths", "losses", "merged"]

BATCH_ROWS = 4096
READ_BYTES = 1 << 18
READ_TOGETHER = 64 << 20
IDLE, UNKNOWN_NAME = b"<idle>", b"<...>"

Blocks = Iterator[tuple[bytes, int]]


@dataclasses.dataclass(frozen=True, slots=True)
class Ring:
    """
    One CPU of one buffer: its sub-buffers, some at a time, with the place of each lot in the file.
    """

    cpu: int
    blocks: Blocks


def block_bytes(page_size: int, streams: int) -> int:
    """
    How much of each of so many streams is read at a time: whole sub-buffers, bounded together.
    """
    share = min(READ_BYTES, READ_TOGETHER // max(1, streams))
    return max(1, share // page_size) * page_size


def ahead(blocks: Blocks, pool: Executor) -> Blocks:
    """
    The same blocks, each made by the pool while the one before it is in use: unpacking goes on beside parsing.
    """
    coming = pool.submit(next, blocks, None)
    while (block := coming.result()) is not None:
        coming = pool.submit(next, blocks, None)
        yield block


def ring_parser(
    rings: list[Ring],
    described: list[formats.Format],
    geometry: formats.Geometry,
    clock: tuple[int, int, int],
    cmdlines: dict[int, bytes],
) -> RingParser:
    """
    A parser for these streams.
    """

    def name_of(pid: int) -> bytes:
        return IDLE if pid == 0 else cmdlines.get(pid, UNKNOWN_NAME)

    return RingParser([ring.cpu for ring in rings], geometry, formats.plans(described), clock, name_of)


def merged(parser: RingParser, rings: list[Ring], told: Callable[[int], None] | None = None) -> Iterator[Batch]:
    """
    The rows of all streams. told: hears how many bytes were fed.
    """

    def feed(which: int) -> None:
        data, place = next(rings[which].blocks, (b"", 0))
        parser.feed(which, data, place)
        if told is not None:
            told(len(data))

    while hungry := parser.hungry():
        for which in hungry:
            feed(which)
    rows, filled = np.empty(BATCH_ROWS, EVENT), 0
    while True:
        filled, hungry_one = parser.fill(rows.view(np.uint8), filled)
        if filled == BATCH_ROWS:
            yield Batch(rows, *parser.tally.take_texts())
            rows, filled = np.empty(BATCH_ROWS, EVENT), 0
        while hungry_one >= 0:
            feed(hungry_one)
            hungry_one = next(iter(parser.hungry()), -1)
        if filled < BATCH_ROWS and not parser.ready():
            break
    if filled:
        yield Batch(rows[:filled], *parser.tally.take_texts())


def cpu_healths(found: dict[int, tuple[int, int | None, int | None, int, int, int]]) -> tuple[CpuHealth, ...]:
    """
    What a parser's tally says of each CPU.
    """
    return tuple(CpuHealth(cpu, *numbers) for cpu, numbers in sorted(found.items()))


def losses(found: list[tuple[int, int | None, int, int | None]]) -> tuple[Loss, ...]:
    """
    The losses that a parser's tally kept.
    """
    return tuple(Loss(*one) for one in found)


def ring_health(
    parser: RingParser, described: list[formats.Format], overwritten: dict[int, int], notes: list[str]
) -> Health:
    """
    What became known while the rows were read.
    """
    names = formats.names_by_id(described)
    tally = parser.tally
    rows, back, back_at, ties, out_of_range = tally.numbers()
    unknown: dict[str, tuple[int, int | None]] = {}
    for number, count in parser.unknown().items():
        name = names.get(number, f"(event number {number})")
        unknown[name] = (unknown.get(name, (0, None))[0] + count, None)
    return Health(
        unit="byte",
        rows=rows,
        cpus=cpu_healths(tally.of_cpus()),
        losses=losses(tally.losses),
        overwritten=overwritten,
        back=back,
        back_at=None if back_at < 0 else back_at,
        ties=ties,
        truncated=None,
        broken=parser.too_short,
        not_understood=0,
        odd=(),
        damages=tuple(Odd(place, f"CPU {cpu}: {what}") for cpu, place, what in parser.damages),
        nr_damages=parser.damaged,
        unknown_events=dict(sorted(unknown.items())),
        unknown_flags={},
        out_of_range=out_of_range,
        notes=tuple(notes),
    )
