"""
What runs once per byte, line or event of a trace; made into rows of schema.EVENT.
"""

from collections.abc import Callable
from typing import Any

class Tally:
    losses: list[tuple[int, int | None, int, int | None]]
    def take_texts(self) -> tuple[list[str], list[str]]: ...
    def numbers(self) -> tuple[int, int, int, int, int]: ...
    def of_cpus(self) -> dict[int, tuple[int, int | None, int | None, int, int, int]]: ...
    def lose(self, cpu: int, count: int, place: int, ts_ns: int | None = None) -> None: ...

class TextParser:
    tally: Tally
    lines: int
    skipped: int
    ticks: int
    unknown: dict[bytes, list[int]]
    def __init__(
        self,
        events: Any,
        words: Callable[[int, bytes], int],
        odd: Callable[[int, bytes, int], None],
        capacity: int = ...,
    ) -> None: ...
    def window(self) -> Any: ...
    def filled(self, count: int) -> None: ...
    def left(self) -> bytes: ...
    def fill(self, out: Any, at: int = 0) -> int: ...

class RingParser:
    tally: Tally
    events: int
    too_short: int
    damaged: int
    damages: list[tuple[int, int, str]]
    def __init__(
        self,
        cpus: list[int],
        geometry: tuple[int, int, int, int],
        plans: dict[int, Any],
        clock: tuple[int, int, int],
        name_of: Callable[[int], bytes],
    ) -> None: ...
    def unknown(self) -> dict[int, int]: ...
    def feed(self, which: int, data: bytes, place: int) -> None: ...
    def hungry(self) -> list[int]: ...
    def ready(self) -> bool: ...
    def fill(self, out: Any, at: int = 0) -> tuple[int, int]: ...
