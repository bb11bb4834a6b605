"""
Stubs of the compiled writers of rows (trace/_write.pyx). What people use is ``pcpbuddy export``.
"""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

NUMBERS: dict[str, int]

class Shapes:
    """
    How each event is written, and the names of flags.
    """

    def __init__(
        self,
        shapes: Mapping[int, tuple[bytes, int, bool, bool, bytes, list[tuple[bytes, int, int, int, int, int]]]],
        words: Callable[[int, int], bytes],
    ) -> None: ...

class TextRows:
    """
    Lines of tracefs. fine: all times to the nanosecond; else those that need it.
    """

    nr_rows: int
    nr_lost: int
    left_out: int
    def __init__(self, shapes: Shapes, fine: bool) -> None: ...
    def rows(self, rows: npt.NDArray[np.uint8], comms: list[bytes], markers: list[bytes]) -> bytes:
        """
        The lines of a batch.
        """

class PerfettoRows:
    """
    Packets of Perfetto: a track event a row, waits as slices, counters.

    codes: numbers of events by name. describe(what, number, name) -> (track, bytes) makes the packet that must stand
    before a track's first event.
    """

    nr_rows: int
    left_out: int
    waits: int
    cut_off: int
    ends: int
    def __init__(
        self, shapes: Shapes, codes: dict[str, int], describe: Callable[[int, int, bytes], tuple[int, bytes]]
    ) -> None: ...
    def rows(self, rows: npt.NDArray[np.uint8], comms: list[bytes], markers: list[bytes]) -> bytes:
        """
        The packets of a batch.
        """
    def finish(self) -> bytes:
        """
        The ends of what is still open, and the last value of each counter.
        """

_Ints = npt.NDArray[np.int64]

def lanes(begin: _Ints, end: _Ints, cpu: _Ints, lane: npt.NDArray[np.uint8]) -> int:
    """
    The lane of each interval, so that on one lane of a CPU those that overlap lie within each other; 255 for what fits
    on none, which is counted.
    """

def edges(begin: _Ints, end: _Ints, track: _Ints, out: _Ints) -> None:
    """
    Beginnings and ends in the order of time of each track: 2 * interval, and 1 more for its end.
    """

def slice_packets(
    edges: _Ints,
    ts_ns: _Ints,
    track: _Ints,
    name: _Ints,
    category: _Ints,
    note: _Ints,
    notes: list[bytes],
    to: _Ints,
    by: _Ints,
) -> bytes:
    """
    Packets of beginnings and ends, at ts_ns, one of each edge; the rest is one of each interval.
    """

def counter_packets(ts_ns: _Ints, values: _Ints, track: int) -> bytes:
    """
    Packets of a counter.
    """
