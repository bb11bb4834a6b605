"""
Times, counts and sizes as people write and read them. Plain ASCII, so that tables fit into mails.
"""

import math
import re

from .errors import ConfigError

__all__ = ["count_text", "ns_exact", "ns_text", "parse_ns", "share_text", "size_text", "size_words"]

_NS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}
LONGEST_NS = 3_600_000_000_000


def parse_ns(time: str | int | float, key: str) -> int:
    """
    Nanoseconds of "10ms", "1.5 s", "250us", or of a plain number of nanoseconds.

    key: the option that the text is for. Raises ConfigError for anything but a time from 0 to an hour.
    """
    allowed = f"{key}={time}: expected a time such as 10ms, with ns, us, ms or s, from 0 to 3600s"
    if isinstance(time, bool) or not isinstance(time, str | int | float):
        raise ConfigError(allowed)
    if isinstance(time, str):
        match = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{0,15})?)\s*(ns|us|ms|s)\s*", time)
        if not match:
            raise ConfigError(allowed)
        value = float(match[1]) * _NS[match[2]]
    else:
        value = float(time)
    if not 0 <= value <= LONGEST_NS:
        raise ConfigError(allowed)
    return round(value)


def ns_exact(ns: int) -> str:
    """
    A whole number of nanoseconds as ``parse_ns`` takes it: "10ms", "1500us".
    """
    for unit, factor in reversed(_NS.items()):
        if ns and ns % factor == 0:
            return f"{ns // factor}{unit}"
    return f"{ns}ns"


def ns_text(ns: float) -> str:
    """
    A time with three digits: "0", "640ns", "12.3us", "4.56ms", "1.20s".
    """
    if not ns:
        return "0"
    for unit, factor in (("ns", 1), ("us", 1_000), ("ms", 1_000_000)):
        if abs(ns) < 999.5 * factor:
            return f"{_digits(ns / factor)}{unit}"
    return f"{_digits(ns / 1e9)}s"


def count_text(count: float) -> str:
    """
    A count with three digits or as it is: "0", "12.5", "9999", "12.3k", "4.56M", "1.20G".
    """
    if abs(count) < 9999.5:
        return str(round(count)) if float(count).is_integer() else _digits(count)
    for unit, factor in (("k", 1e3), ("M", 1e6), ("G", 1e9)):
        if abs(count) < 999.5 * factor:
            return f"{_digits(count / factor)}{unit}"
    return f"{_digits(count / 1e12)}T"


def share_text(share: float) -> str:
    """
    A share in per cent: "0%", "0.012%", "3.4%", "100%". A share that is not 0 never looks like it.
    """
    percent = 100 * share
    if not percent or percent == 100:
        return f"{percent:.0f}%"
    if abs(percent) >= 0.95:
        return f"{percent:.1f}%"
    return f"{percent:.2g}%" if abs(percent) >= 1e-4 else f"{percent:.0e}%"


def size_text(size_bytes: int) -> str:
    """
    A size with the largest unit that divides it, so exactly: "256GiB", "2MiB", "4100KiB".
    """
    for unit, factor in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size_bytes and size_bytes % factor == 0:
            return f"{size_bytes // factor}{unit}"
    return f"{size_bytes}B"


def size_words(size_bytes: int) -> str:
    """
    A size with three digits: "256GiB", "1.99GiB", "512MiB".
    """
    for unit, factor in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20)):
        if size_bytes >= factor:
            whole = size_bytes % factor == 0
            return f"{size_bytes // factor if whole else _digits(size_bytes / factor)}{unit}"
    return size_text(size_bytes)


def _digits(value: float) -> str:
    """
    Three digits, or as many as there are before the point.
    """
    before = 1 if abs(value) < 1 else int(math.log10(abs(value))) + 1
    return f"{value:.{max(3 - before, 0)}f}"
