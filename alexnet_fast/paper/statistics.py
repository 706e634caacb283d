"""Estimates with 95 % intervals, and the verdict that follows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from alexnet_fast.evaluation.counts import Z95, wilson

Array = NDArray[np.float64]

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "not decided"


@dataclass(frozen=True)
class Estimate:
    """`low` and `high` end the 95 % interval; `over`: what it is over, in words. `none`: the value that would mean no
    effect, 0 of a difference, 1 of a ratio. `decides`: False where what the interval leaves out may be larger."""

    value: float
    low: float
    high: float
    over: str
    none: float = 0.0
    decides: bool = True

    def verdict(self) -> str:
        """Of the claim that the value is above `none`."""
        if not self.decides:
            return UNDECIDED
        return HOLDS if self.low > self.none else FAILS if self.high < self.none else UNDECIDED


def over_seeds(values: Sequence[float], what: str = "seeds") -> Estimate:
    """Mean and Student's t-interval of two values or more, one a seed."""
    n = len(values)
    half = float(stdtrit(n - 1, 0.975)) * float(np.std(values, ddof=1)) / math.sqrt(n)
    mean = float(np.mean(values))
    return Estimate(mean, mean - half, mean + half, f"{n} {what}")


def between_seeds(one: Sequence[float], other: Sequence[float]) -> Estimate:
    """The mean of the first less that of the second, a value a seed, three or more in all: Student's t-interval, with
    the spread pooled of both."""
    n, m = len(one), len(other)
    freedom = n + m - 2
    spread = math.sqrt((n * float(np.var(one)) + m * float(np.var(other))) / freedom)
    half = float(stdtrit(freedom, 0.975)) * spread * math.sqrt(1 / n + 1 / m)
    difference = float(np.mean(one)) - float(np.mean(other))
    return Estimate(difference, difference - half, difference + half, f"{n} and {m} seeds")


def over_images(parts: Sequence[Array]) -> Estimate:
    """The sum of the means of independent samples, a value of -100 to 100 an image in each: the normal interval of two
    images more in each, one of them with +-100, so that a few images alone decide nothing (Agresti and Min 2005)."""
    value = sum(float(part.mean()) for part in parts)
    middle = variance = 0.0
    for part in parts:
        n = len(part) + 2
        mean = float(part.sum()) / n
        middle += mean
        variance += ((float((part**2).sum()) + 100.0**2) / n - mean**2) / n
    half = Z95 * math.sqrt(variance)
    return Estimate(value, middle - half, middle + half, "images")


def compared(one: Sequence[Sequence[Array]], other: Sequence[Sequence[Array]]) -> Estimate:
    """Of two networks, each trained with some seeds, how much greater the first one's sum of means is.

    Of each seed, the independent samples that `over_images` takes, of the same images with all seeds. With one seed
    each, the interval is over the images, and decides nothing: what another seed changes is as large.
    """
    if len(one) == len(other) == 1:
        estimate = over_images([a - b for a, b in zip(one[0], other[0], strict=True)])
        return replace(estimate, over="1 seed each, images", decides=False)
    return between_seeds(*([sum(float(part.mean()) for part in parts) for parts in each] for each in (one, other)))


def within(seeds: Sequence[Array], what: str = "seeds") -> Estimate:
    """Of a difference within each network, a value an image: over the seeds; of one network, over the images."""
    if len(seeds) == 1:
        return over_images(seeds)
    return over_seeds([float(values.mean()) for values in seeds], what)


def share(seeds: Sequence[Array], what: str = "seeds") -> Estimate:
    """Of a share, per cent, a value of 0 or 100 an image in each seed's array; with one seed Wilson's interval."""
    values = [float(wrong.mean()) for wrong in seeds]
    if len(values) > 1:
        estimate = over_seeds(values, what)
        return replace(estimate, low=max(estimate.low, 0.0), high=min(estimate.high, 100.0))
    low, high = wilson(values[0], len(seeds[0]))
    return Estimate(values[0], low, high, "images")


def ratio(one: Sequence[float], other: Sequence[float]) -> Estimate:
    """Of geometric means, a value a seed; of one each there is no interval."""
    if len(one) == len(other) == 1:
        return Estimate(one[0] / other[0], 0.0, math.inf, "1 seed each, no interval", none=1.0, decides=False)
    logs = between_seeds(np.log(one).tolist(), np.log(other).tolist())
    return Estimate(math.exp(logs.value), math.exp(logs.low), math.exp(logs.high), logs.over, none=1.0)
