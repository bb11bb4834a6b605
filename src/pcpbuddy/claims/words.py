"""
How findings about memory are put into words, and what several conditions decide together.
"""

from collections.abc import Iterable

from ..statistics import Interval
from .claim import NOT_DECIDABLE, REFUTED, SUPPORTED

__all__ = ["all_of", "bounds", "not_above", "percent", "plain", "points", "signed", "within"]


def percent(of: Interval) -> str:
    """
    "12.3 % [11.0, 13.6]".
    """
    if of.n < 2 or of.low == of.high:
        return f"{of.mean * 100:.1f} %"
    return f"{of.mean * 100:.1f} % [{of.low * 100:.1f}, {of.high * 100:.1f}]"


def points(of: Interval) -> str:
    """
    A difference of shares: "+1.2 points [0.4, 2.0]".
    """
    if of.n < 2 or of.low == of.high:
        return f"{of.mean * 100:+.1f} points"
    return f"{of.mean * 100:+.1f} points [{of.low * 100:+.1f}, {of.high * 100:+.1f}]"


def plain(of: Interval, digits: int = 0) -> str:
    if of.n < 2 or of.low == of.high:
        return f"{of.mean:.{digits}f}"
    return f"{of.mean:.{digits}f} [{of.low:.{digits}f}, {of.high:.{digits}f}]"


def bounds(of: Interval) -> tuple[float, float]:
    """
    The interval of a finding; that of one value, or of equal ones, is the value.
    """
    return (of.mean, of.mean) if of.n < 2 else (of.low, of.high)


def signed(of: Interval, digits: int = 0) -> str:
    low, high = bounds(of)
    if low == high:
        return f"{of.mean:+.{digits}f}"
    return f"{of.mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def all_of(verdicts: Iterable[str]) -> str:
    """
    Of conditions that must all hold: refuted if one is, supported if all are.
    """
    seen = set(verdicts)
    if REFUTED in seen:
        return REFUTED
    return SUPPORTED if seen == {SUPPORTED} else NOT_DECIDABLE


def within(of: Interval, margin: float) -> str:
    """
    Whether a difference is a small one: its interval lies within the margin; beyond it: refuted.
    """
    low, high = bounds(of)
    if -margin <= low and high <= margin:
        return SUPPORTED
    return REFUTED if low > margin or high < -margin else NOT_DECIDABLE


def not_above(of: Interval, margin: float) -> str:
    """
    Whether a difference is not a rise: its upper end is within the margin; refuted: its lower end is beyond it.
    """
    low, high = bounds(of)
    return SUPPORTED if high <= margin else REFUTED if low > margin else NOT_DECIDABLE
