"""
Names of flags into numbers, as the kernel that wrote them meant it.

Bits 0x1 to 0x400000 mean the same from Linux 5.10 to 7.3, except 0x200. What differs (include/linux/gfp_types.h, until
6.0 gfp.h, and include/trace/events/mmflags.h at the release tags):

- 0x200 is __GFP_ATOMIC until 6.2 and nothing since; so GFP_ATOMIC is 0xa20 until then and 0x820 since 6.3.
- GFP_NOWAIT is 0x800, and with __GFP_NOWARN 0x2800 since 6.7.
- 0x800000 is __GFP_ZEROTAGS since 5.14. The bits above it moved with nearly every release and with the configuration;
  those here are the numbers of a kernel with hardware tags and lock debugging, which is where the names come from.

A number in a file is the number of the kernel that wrote it; none is changed.
"""

import re
from collections.abc import Callable

from ..errors import UsageError
from ..names import GFP_BITS, GFP_COMPOSITES

__all__ = ["LOCK_FLAGS", "Names", "Words", "lock_names", "parse_kernel"]

Version = tuple[int, int]

# Name -> number from a release on, oldest first; None: the name is gone. A name that stands in names.py and not here
# means the same in all.
_CHANGES: dict[str, tuple[tuple[Version, int | None], ...]] = {
    "__GFP_ATOMIC": (((0, 0), 0x200), ((6, 3), None)),
    "GFP_ATOMIC": (((0, 0), 0xA20), ((6, 3), 0x820)),
    "GFP_NOWAIT": (((0, 0), 0x800), ((6, 7), 0x2800)),
    "__GFP_ZEROTAGS": (((0, 0), None), ((5, 14), 0x800000)),
    "__GFP_SKIP_KASAN_POISON": (((0, 0), None), ((5, 14), 0x1000000), ((5, 18), 0x4000000), ((6, 4), None)),
    "__GFP_SKIP_KASAN_UNPOISON": (((0, 0), None), ((5, 18), 0x2000000), ((6, 4), None)),
    "__GFP_SKIP_ZERO": (((0, 0), None), ((5, 18), 0x1000000)),
    "__GFP_SKIP_KASAN": (((0, 0), None), ((6, 4), 0x2000000)),
    "__GFP_NOLOCKDEP": (((0, 0), 0x800000), ((5, 14), 0x2000000), ((5, 18), 0x8000000), ((6, 4), 0x4000000)),
    "__GFP_NO_OBJ_EXT": (((0, 0), None), ((6, 10), 0x8000000)),
}
# Spellings that differ in nothing else. The first is of kernels before 5.10 whose tables some distributions kept.
_SPELLINGS = {"__GFP_REPEAT": "__GFP_RETRY_MAYFAIL", "__GFP_WAIT": "__GFP_RECLAIM", "none": "0"}
NEWEST: Version = (7, 3)

# LCB_F_* of include/trace/events/lock.h, since 5.19.
LOCK_FLAGS = {"SPIN": 1, "READ": 2, "WRITE": 4, "RT": 8, "PERCPU": 16, "MUTEX": 32}


class Words:
    """
    Makes numbers of flags; what it does not know is counted in ``unknown`` and is no bit of the number.

    kernel: (major, minor) of the kernel that wrote the names.
    """

    MOST = 1000

    def __init__(self, kernel: Version = NEWEST) -> None:
        self.kernel = kernel
        self.unknown: dict[str, int] = {}
        self._gfp = _numbers(kernel)
        self._tables: tuple[Callable[[str], int | None], ...] = (self._gfp.get, LOCK_FLAGS.get)

    def __call__(self, table: int, text: bytes) -> int:
        """
        "GFP_KERNEL|__GFP_ZERO|0x8000000" as a number. table: 0 for gfp_flags, 1 for flags of lock contention.
        """
        number = 0
        for word in text.decode("utf-8", "backslashreplace").split("|"):
            spelled = _SPELLINGS.get(word, word)
            bits = self._tables[table](spelled)
            if bits is None and re.fullmatch(r"0x[0-9a-f]{1,16}|[0-9]{1,19}", spelled):
                bits = int(spelled, 16 if spelled.startswith("0x") else 10)
            if bits is None:
                if word not in self.unknown and len(self.unknown) >= self.MOST:
                    word = "(other names)"
                self.unknown[word] = self.unknown.get(word, 0) + 1
            else:
                number |= bits
        return number & 0x7FFF_FFFF_FFFF_FFFF


class Names:
    """
    Makes names of a number of flags, as a kernel prints them: composites first, greedily, then single bits (B-27).

    kernel: (major, minor) of the kernel whose numbers they are. A bit that it has no name for stands as a number.
    """

    def __init__(self, kernel: Version = NEWEST) -> None:
        numbers = _numbers(kernel)
        composites = [(name, numbers.pop(name)) for name in GFP_COMPOSITES if name in numbers]
        self._names = [*composites, *sorted(numbers.items(), key=lambda one: one[1])]

    def __call__(self, number: int) -> bytes:
        """
        "GFP_KERNEL|__GFP_ZERO".
        """
        parts = []
        for name, bits in self._names:
            if number & bits == bits:
                parts.append(name)
                number &= ~bits
        return "|".join([*parts, *([hex(number)] if number else [])] or ["none"]).encode()


def lock_names(number: int) -> bytes:
    """
    LCB_F_* flags as "SPIN|READ"; "0" for none, where the kernel prints nothing.
    """
    parts = [name for name, bit in LOCK_FLAGS.items() if number & bit]
    rest = number & ~sum(LOCK_FLAGS.values())
    return "|".join([*parts, *([hex(rest)] if rest else [])] or ["0"]).encode()


def _numbers(kernel: Version) -> dict[str, int]:
    """
    Name -> number of all flags that the kernel has.
    """
    numbers = GFP_BITS | GFP_COMPOSITES
    for name, history in _CHANGES.items():
        number = [value for since, value in history if since <= kernel][-1]
        numbers.pop(name, None)
        if number is not None:
            numbers[name] = number
    return numbers


def parse_kernel(text: str) -> Version:
    """
    "6.1", "v5.10.0-21-amd64" or "Linux 6.6" as (major, minor). Raises UsageError for anything else.
    """
    match = re.match(r"(?:Linux |v)?(\d{1,3})\.(\d{1,3})(?!\d)", text)
    if not match:
        raise UsageError(f"--kernel {text!r}: expected a release such as 6.1 or 5.10.0-21-amd64")
    return int(match[1]), int(match[2])
