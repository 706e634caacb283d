"""Estimates with 95 % intervals, and what they say about a claim."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from alexnet_fast.results.counts import Z95, wilson

Array = NDArray[np.float64]

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "not decided"


@dataclass(frozen=True)
class Estimate:
    """`low` and `high` end the 95 % interval; `over`: what it is over, in words. `none`: the value that would mean no
    effect, 0 of a difference, 1 of a ratio."""

    value: float
    low: float
    high: float
    over: str
    none: float = 0.0

    def verdict(self) -> str:
        """Of the claim that the value is above `none`."""
        return HOLDS if self.low > self.none else FAILS if self.high < self.none else UNDECIDED


def over_seeds(values: Sequence[float]) -> Estimate:
    """Mean and Student's t-interval of two values or more, one a seed."""
    n = len(values)
    half = float(stdtrit(n - 1, 0.975)) * float(np.std(values, ddof=1)) / math.sqrt(n)
    mean = float(np.mean(values))
    return Estimate(mean, mean - half, mean + half, f"{n} seeds")


def over_images(parts: Sequence[Array]) -> Estimate:
    """The sum of the means of independent samples, a value an image in each; the normal interval."""
    value = sum(float(part.mean()) for part in parts)
    half = Z95 * math.sqrt(sum(float(part.var(ddof=1)) / len(part) for part in parts))
    return Estimate(value, value - half, value + half, "images")


def paired(seeds: Sequence[Sequence[Array]]) -> Estimate:
    """Of differences between two networks of the same seed: over the seeds; with one seed, over the images.

    `seeds`: of each, the independent samples that `over_images` takes.
    """
    if len(seeds) == 1:
        return replace(over_images(seeds[0]), over="1 seed, images")
    return over_seeds([sum(float(part.mean()) for part in parts) for parts in seeds])


def share(seeds: Sequence[Array]) -> Estimate:
    """Of a share, per cent, a value of 0 or 100 an image in each seed's array; with one seed Wilson's interval."""
    values = [float(wrong.mean()) for wrong in seeds]
    if len(values) > 1:
        return over_seeds(values)
    low, high = wilson(values[0], len(seeds[0]))
    return Estimate(values[0], low, high, "images")


def ratio(values: Sequence[float]) -> Estimate:
    """The geometric mean of ratios, one a seed; of one alone nothing tells how sure it is."""
    if len(values) == 1:
        return Estimate(values[0], 0.0, math.inf, "1 seed, no interval", none=1.0)
    logs = over_seeds([math.log(value) for value in values])
    return Estimate(math.exp(logs.value), math.exp(logs.low), math.exp(logs.high), logs.over, none=1.0)
