"""Intervals and verdicts against printed tables, hand computation and scipy."""

import numpy as np
import pytest
import scipy.stats

from alexnet_fast.paper.statistics import (
    FAILS,
    HOLDS,
    UNDECIDED,
    Estimate,
    between_seeds,
    compared,
    over_images,
    over_seeds,
    ratio,
    share,
    within,
)

T2, T3 = 12.7062, 4.30265
"""Student's t at 97.5 % with 1 and 2 degrees of freedom, from a printed table."""
ONES = np.r_[np.ones(10), np.zeros(90)] * 100


def test_intervals_over_seeds_and_images() -> None:
    estimate = over_seeds([1.0, 2.0, 3.0])
    assert estimate.value == 2.0
    assert estimate.low == pytest.approx(2 - T3 / 3**0.5, abs=1e-4)
    assert over_seeds([4.0, 6.0]).high == pytest.approx(5 + T2, abs=1e-3)
    assert within([ONES, np.r_[ONES, ONES * 0]]) == over_seeds([10.0, 5.0])
    assert share([ONES]).low == pytest.approx(5.52, abs=0.01)  # Wilson's interval of 10 in 100
    assert (share([ONES, ONES * 9]).low, share([ONES, ONES * 9]).high) == (0.0, 100.0)


def test_two_networks_with_seeds_of_their_own() -> None:
    """Student's test as scipy does it; one seed beside several borrows their spread."""
    one, other = [3.0, 5.0, 4.5], [1.0, 2.0, 2.5, 1.5, 3.5]
    theirs = scipy.stats.ttest_ind(one, other).confidence_interval()
    ours = between_seeds(one, other)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))
    assert ours.over == "3 and 5 seeds"
    alone = between_seeds([4.0], [1.0, 2.0, 3.0])
    assert (alone.low, alone.high) == pytest.approx((2 - T3 * (4 / 3) ** 0.5, 2 + T3 * (4 / 3) ** 0.5), abs=1e-4)
    assert ratio([8.0, 2.0], [2.0]).value == pytest.approx(2.0)
    assert ratio([8.0], [2.0]).verdict() == UNDECIDED
    assert ratio([8.0, 8.0], [2.0, 2.0]).verdict() == HOLDS


def test_over_images() -> None:
    """Agresti and Min's interval, half an image more in each cell of the table; McNemar's mid-p test agrees."""
    b, c, n = 10, 4, 102
    middle, half = 100 * (b - c) / n, 195.9964 * ((b + c + 1) - (b - c) ** 2 / n) ** 0.5 / n
    differences = np.r_[np.full(b, 100.0), np.full(c, -100.0), np.zeros(86)]
    estimate = over_images([differences])
    assert estimate.value == pytest.approx(6)
    assert (estimate.low, estimate.high) == pytest.approx((middle - half, middle + half))
    for worse in range(1, 12):  # of 3,925, and none the other way
        holds = over_images([np.r_[np.full(worse, 100.0), np.zeros(3925 - worse)]]).verdict() == HOLDS
        assert holds == (scipy.stats.binomtest(worse, worse).pvalue / 2 < 0.05)
    both = over_images([differences, -differences])
    assert (both.value, both.high) == pytest.approx((0, 2**0.5 * half))
    one = compared([[ONES]], [[ONES * 0]])
    assert (one.over, one.verdict()) == ("1 seed each, images", UNDECIDED)
    assert over_images([ONES]).verdict() == HOLDS


@pytest.mark.parametrize(
    ("low", "high", "none", "verdict"),
    [
        (0.1, 2.0, 0.0, HOLDS),
        (0.0, 2.0, 0.0, UNDECIDED),
        (-1.0, 0.0, 0.0, UNDECIDED),
        (-2.0, -0.1, 0.0, FAILS),
        (0.0, 0.0, 0.0, UNDECIDED),
        (1.1, 9.0, 1.0, HOLDS),
        (0.2, 0.9, 1.0, FAILS),
    ],
)
def test_verdicts(low: float, high: float, none: float, verdict: str) -> None:
    assert Estimate((low + high) / 2, low, high, "", none).verdict() == verdict
