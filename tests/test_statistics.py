"""
Student's t: its quantiles against the tables, its intervals against figures worked out by hand.
"""

import math

import pytest

from pcpbuddy.statistics import Interval, difference, interval, t_quantile

# 97.5 % quantiles as every table has them.
TABLE = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 9: 2.262, 10: 2.228, 19: 2.093, 29: 2.045, 120: 1.980}


@pytest.mark.parametrize("degrees", TABLE)
def test_quantiles_of_the_table(degrees):
    assert t_quantile(0.975, degrees) == pytest.approx(TABLE[degrees], abs=0.0006)
    assert t_quantile(0.025, degrees) == -t_quantile(0.975, degrees)


def test_closed_forms():
    """
    One degree is Cauchy's distribution; two have a quantile in closed form.
    """
    for p in (0.5, 0.6, 0.9, 0.995, 0.9999):
        assert t_quantile(p, 1) == pytest.approx(math.tan(math.pi * (p - 0.5)), rel=1e-9, abs=1e-9)
        assert t_quantile(p, 2) == pytest.approx((2 * p - 1) / math.sqrt(2 * p * (1 - p)), rel=1e-9, abs=1e-9)


def test_quantile_of_nothing():
    for probability, degrees in ((0, 3), (1, 3), (0.5, 0)):
        with pytest.raises(ValueError, match="no t quantile"):
            t_quantile(probability, degrees)


def test_interval():
    """
    Mean 3, standard deviation sqrt(2.5), n = 5: half is 2.776 * sqrt(2.5 / 5).
    """
    found = interval([1, 2, 3, 4, 5])
    assert found.mean == 3
    assert found.half == pytest.approx(2.7764 * math.sqrt(0.5), abs=1e-3)
    assert interval([1, 2, 3, 4, 5], 0.99).half == pytest.approx(4.6041 * math.sqrt(0.5), abs=1e-3)


def test_pairs_cancel_what_they_share():
    """
    Two series that differ by 1 each time: sure, though each spreads far more.
    """
    first, second = [10, 200, 50, 90], [11, 201.1, 50.9, 91]
    paired = difference(first, second)
    assert paired.mean == pytest.approx(1)
    assert not paired.holds_zero
    assert interval(first).low < interval(second).mean < interval(first).high


def test_few_values():
    assert interval([]).n == 0
    one = interval([5])
    assert (one.mean, one.n) == (5, 1)
    assert math.isnan(one.low)
    assert one.holds_zero
    assert interval([7, 7, 7]) == Interval(7, 7, 7, 3)
    assert not interval([7, 7, 7]).holds_zero
    assert interval([0.1, 0.1, 0.1]).half == 0


def test_pairs_must_be_pairs():
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        difference([1, 2], [1])
