"""What each claim compares: from the scores of trained networks to estimates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from alexnet_fast.paper.statistics import Array, Estimate, over_images, paired, ratio, share

BASE = "base"
FIGURE_1 = 25.0
"""Training error at which Figure 1 counts the epochs, per cent."""


@dataclass(frozen=True)
class Scores:
    """What a trained network does on the n validation images and on m training images.

    `right1`, `right10` (n, 2): whether its best guess and its five best hold the label, with 1 view and with 10.
    `train_right` (m,): its best guess, 1 view, training images not augmented. `probabilities` (n, classes): 10 views.
    `labels` (n,): UNLABELLED for images that could not be read. `errors` (epochs,): mean training error of each epoch
    while it was learnt, per cent.
    """

    right1: NDArray[np.bool_]
    right10: NDArray[np.bool_]
    train_right: NDArray[np.bool_]
    probabilities: NDArray[np.float32]
    labels: NDArray[np.int64]
    errors: Array

    @property
    def learnt(self) -> bool:
        """Not where it guesses one and the same class for every image: its training has failed."""
        guesses = self.probabilities.argmax(1)
        return bool((guesses != guesses[0]).any())


Found = Mapping[str, Mapping[int, Scores]]
"""Scores by network and seed."""
Measure = Callable[[Found], list[Estimate]]
"""Top-1 first, and top-5 where the paper states it; in points of per cent, above 0 where the paper is right."""


def error(network: str) -> Measure:
    """The error of one network, 10 views."""

    def measure(found: Found) -> list[Estimate]:
        return [share([_wrong(scores.right10, top) for scores in found[network].values()]) for top in (0, 1)]

    return measure


def error_of_average(members: Mapping[str, int]) -> Measure:
    """The error of averaged predictions, 10 views. `members`: how many seeds of which networks."""

    def measure(found: Found) -> list[Estimate]:
        return [share([wrong]) for wrong in _wrong_on_average(found, members)]

    return measure


def views(found: Found) -> list[Estimate]:
    """How much lower the error is with 10 views than with 1."""
    seeds = found[BASE].values()
    return [paired([[_wrong(s.right1, top) - _wrong(s.right10, top)] for s in seeds]) for top in (0, 1)]


def averaging(members: Mapping[str, int]) -> Measure:
    """How much lower the error of the average is than the mean error of its members, over images."""

    def measure(found: Found) -> list[Estimate]:
        averages, each = _wrong_on_average(found, members), _members(found, members)
        singles = [np.mean([_wrong(scores.right10, top) for scores in each], axis=0) for top in (0, 1)]
        return [over_images([single - average]) for single, average in zip(singles, averages, strict=True)]

    return measure


def joining(before: Mapping[str, int], after: Mapping[str, int]) -> Measure:
    """How much lower the error of the average of `after` is than that of `before`, over images."""

    def measure(found: Found) -> list[Estimate]:
        pairs = zip(_wrong_on_average(found, before), _wrong_on_average(found, after), strict=True)
        return [over_images([few - many]) for few, many in pairs]

    return measure


def difference(worse: str, better: str = BASE) -> Measure:
    """How much lower the error of `better` is than that of `worse`, 10 views."""

    def measure(found: Found) -> list[Estimate]:
        pairs = _pairs(found, worse, better)
        return [paired([[_wrong(w.right10, top) - _wrong(b.right10, top)] for w, b in pairs]) for top in (0, 1)]

    return measure


def gap(network: str) -> Measure:
    """How much wider the gap between training and validation accuracy is than the base network's; top-1, 1 view."""

    def measure(found: Found) -> list[Estimate]:
        return [
            paired(
                [
                    [
                        _wrong(base.train_right[:, None], 0) - _wrong(other.train_right[:, None], 0),
                        _wrong(other.right1, 0) - _wrong(base.right1, 0),
                    ]
                    for other, base in _pairs(found, network, BASE)
                ]
            )
        ]

    return measure


def slower(network: str) -> Measure:
    """How many times the base network's epochs `network` takes to the 25 % training error of Figure 1, or to the lowest
    that both reached."""

    def measure(found: Found) -> list[Estimate]:
        pairs = _pairs(found, network, BASE)
        levels = [max(FIGURE_1, other.errors.min(), base.errors.min()) for other, base in pairs]
        times = [
            epochs_to(other.errors, level) / epochs_to(base.errors, level)
            for (other, base), level in zip(pairs, levels, strict=True)
        ]
        estimate = ratio(times)
        at = ", ".join(f"{level:.1f}" for level in levels)
        return [replace(estimate, over=f"{estimate.over}, to {at} % training error")]

    return measure


def epochs_to(errors: Array, level: float) -> float:
    """Epochs until the training error was `level`, between two epochs by a straight line."""
    after = int(np.argmax(errors <= level))
    if after == 0:
        return 1.0
    above, below = errors[after - 1], errors[after]
    return float(after + (above - level) / (above - below))


def _pairs(found: Found, one: str, other: str) -> list[tuple[Scores, Scores]]:
    """Of the seeds that both networks have."""
    return [(found[one][seed], found[other][seed]) for seed in sorted(found[one].keys() & found[other].keys())]


def _wrong(right: NDArray[np.bool_], top: int) -> Array:
    """(n,) 100 for an image whose label is not among the guesses, else 0. `top` 0: the best guess; 1: the five."""
    wrong: Array = np.where(right[:, top], 0.0, 100.0)
    return wrong


def _members(found: Found, members: Mapping[str, int]) -> list[Scores]:
    """Of each network so many seeds, the lowest first."""
    return [found[network][seed] for network, count in members.items() for seed in sorted(found[network])[:count]]


def _wrong_on_average(found: Found, members: Mapping[str, int]) -> list[Array]:
    """Top-1 and top-5 of the average, all members weighing alike: (n,) each."""
    each = _members(found, members)
    mean = np.mean([scores.probabilities for scores in each], axis=0)
    best = np.argsort(-mean, axis=1, kind="stable")[:, :5]
    right = best == each[0].labels[:, None]
    return [_wrong(np.stack([right[:, 0], right.any(1)], 1), top) for top in (0, 1)]
