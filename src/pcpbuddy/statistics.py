"""
Means with intervals, and differences of paired values: Student's t, two-sided.

Values are taken as independent draws of one distribution that is not far from normal: one value a seed.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["LEVEL", "Interval", "difference", "interval", "t_quantile"]

LEVEL = 0.95
_BISECTIONS = 200


class Interval(NamedTuple):
    """
    A mean and the interval around it; with fewer than two values there is none, and low and high are NaN.

    n: how many values.
    """

    mean: float
    low: float
    high: float
    n: int

    @property
    def half(self) -> float:
        """
        Half the width of the interval.
        """
        return (self.high - self.low) / 2

    @property
    def holds_zero(self) -> bool:
        """
        Whether the interval contains 0. Without an interval nothing is known, so it does.
        """
        return not (self.low > 0 or self.high < 0)


def interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """
    The mean of values with the t interval of their mean.
    """
    n = len(values)
    if not n:
        return Interval(math.nan, math.nan, math.nan, 0)
    if all(value == values[0] for value in values):
        mean, half = float(values[0]), 0.0
    else:
        mean = math.fsum(values) / n
        variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
        half = t_quantile((1 + level) / 2, n - 1) * math.sqrt(variance / n)
    if n == 1:
        return Interval(mean, math.nan, math.nan, 1)
    return Interval(mean, mean - half, mean + half, n)


def difference(first: Sequence[float], second: Sequence[float], level: float = LEVEL) -> Interval:
    """
    Of second - first, pair by pair: what both share, such as the seed of a load, cancels out.
    """
    return interval([b - a for a, b in zip(first, second, strict=True)], level)


def t_quantile(probability: float, degrees: int) -> float:
    """
    Quantile of Student's t distribution with a whole number of degrees of freedom.

    Found by bisection in the finite series of the distribution function (Abramowitz and Stegun 26.7.3, 26.7.4).
    """
    if not 0 < probability < 1 or degrees < 1:
        raise ValueError(f"no t quantile of {probability} with {degrees} degrees of freedom")
    if probability < 0.5:
        return -t_quantile(1 - probability, degrees)
    low, high = 0.0, math.pi / 2  # of the angle whose tangent is t / sqrt(degrees)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if (1 + _two_sided(middle, degrees)) / 2 < probability:
            low = middle
        else:
            high = middle
    return math.sqrt(degrees) * math.tan(low)


def _two_sided(angle: float, degrees: int) -> float:
    """
    Probability that |T| <= sqrt(degrees) * tan(angle).
    """
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term = total = cosine if odd else 1.0
    if degrees == 1:
        return 2 * angle / math.pi
    for k in range(2 + odd, degrees - 1, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
