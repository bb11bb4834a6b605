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
