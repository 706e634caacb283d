"""What each claim compares: from the scores of trained networks to estimates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from alexnet_fast.paper.statistics import Array, Estimate, compared, ratio, share, within
from alexnet_fast.shards.format import UNLABELLED

BASE = "base"
FIGURE_1 = 25.0
"""Training error at which Figure 1 counts the epochs, per cent."""
LEARNT = 0.05
"""The part of the classes' entropy that a network's guesses must give to count as learnt; or it is right twice as often
as who always guesses the most frequent class."""
TINY = 1e-12


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
        """Not where its guesses are worth hardly more than the classes' frequencies: its training has failed."""
        judged = self.labels[self.labels != UNLABELLED]
        frequencies = np.bincount(judged, minlength=self.probabilities.shape[1]) / len(judged)
        entropy = -np.sum(frequencies * np.log(np.maximum(frequencies, TINY)))
        likelihoods = self.probabilities[self.labels != UNLABELLED, judged]
        loss = -np.log(np.maximum(likelihoods, TINY)).mean()
        return bool(loss < (1 - LEARNT) * entropy or self.right10[:, 0].mean() >= 2 * frequencies.max())

    @property
    def tops(self) -> range:
        """Which columns tell something: not whether five guesses hold the label, where there are no more classes."""
        return range(2 if self.probabilities.shape[1] > 5 else 1)


Found = Mapping[str, Mapping[int, Scores]]
"""Scores by network and seed."""
Measure = Callable[[Found], list[Estimate]]
"""Top-1 first, and top-5 where the paper states it; in points of per cent, above 0 where the paper is right."""


def error(network: str) -> Measure:
    """The error of one network, 10 views."""

    def measure(found: Found) -> list[Estimate]:
        each = _seeds(found, network)
        return [share([_wrong(scores.right10, top) for scores in each]) for top in each[0].tops]

    return measure


def error_of_average(members: Mapping[str, int]) -> Measure:
    """The error of averaged predictions, 10 views. `members`: how many seeds of which networks."""

    def measure(found: Found) -> list[Estimate]:
        groups = _groups(found, members)
        rights = [_right_on_average(group) for group in groups]
        return [share([_wrong(right, top) for right in rights], "averages") for top in groups[0][0].tops]

    return measure


def views(found: Found) -> list[Estimate]:
    """How much lower the error is with 10 views than with 1."""
    each = _seeds(found, BASE)
    return [within([_wrong(s.right1, top) - _wrong(s.right10, top) for s in each]) for top in each[0].tops]


def averaging(members: Mapping[str, int]) -> Measure:
    """How much lower the error of the average is than the mean error of its members."""

    def measure(found: Found) -> list[Estimate]:
        groups = _groups(found, members)
        rights = [_right_on_average(group) for group in groups]

        def singles(group: Sequence[Scores], top: int) -> Array:
            wrong: Array = np.mean([_wrong(scores.right10, top) for scores in group], axis=0)
            return wrong

        return [
            within(
                [singles(group, top) - _wrong(right, top) for group, right in zip(groups, rights, strict=True)],
                "averages",
            )
            for top in groups[0][0].tops
        ]

    return measure


def joining(before: Mapping[str, int], after: Mapping[str, int]) -> Measure:
    """How much lower the error of the average of `after` is than that of `before`."""

    def measure(found: Found) -> list[Estimate]:
        groups = list(zip(_groups(found, before), _groups(found, after), strict=False))
        rights = [(_right_on_average(few), _right_on_average(many)) for few, many in groups]
        return [
            within([_wrong(few, top) - _wrong(many, top) for few, many in rights], "averages")
            for top in groups[0][0][0].tops
        ]

    return measure


def difference(worse: str, better: str = BASE) -> Measure:
    """How much lower the error of `better` is than that of `worse`, 10 views."""

    def measure(found: Found) -> list[Estimate]:
        pair = _seeds(found, worse), _seeds(found, better)
        return [compared(*([[_wrong(s.right10, top)] for s in each] for each in pair)) for top in pair[0][0].tops]

    return measure


def gap(network: str) -> Measure:
    """How much wider the gap between training and validation accuracy is than the base network's; top-1, 1 view."""

    def measure(found: Found) -> list[Estimate]:
        pair = _seeds(found, network), _seeds(found, BASE)
        return [compared(*([[_wrong(s.right1, 0), -_wrong(s.train_right[:, None], 0)] for s in each] for each in pair))]

    return measure


def slower(network: str) -> Measure:
    """How many times the base network's epochs `network` takes to the 25 % training error of Figure 1, or to the lowest
    that all of them reached."""

    def measure(found: Found) -> list[Estimate]:
        pair = _seeds(found, network), _seeds(found, BASE)
        level = max(FIGURE_1, *(scores.errors.min() for each in pair for scores in each))
        estimate = ratio(*([epochs_to(scores.errors, level) for scores in each] for each in pair))
        return [replace(estimate, over=f"{estimate.over}, to {level:.1f} % training error")]

    return measure


def epochs_to(errors: Array, level: float) -> float:
    """Epochs until the training error was `level`, between two epochs by a straight line."""
    after = int(np.argmax(errors <= level))
    if after == 0:
        return 1.0
    above, below = errors[after - 1], errors[after]
    return float(after + (above - level) / (above - below))


def _seeds(found: Found, network: str) -> list[Scores]:
    return [scores for _, scores in sorted(found[network].items())]


def _wrong(right: NDArray[np.bool_], top: int) -> Array:
    """(n,) 100 for an image whose label is not among the guesses, else 0. `top` 0: the best guess; 1: the five."""
    wrong: Array = np.where(right[:, top], 0.0, 100.0)
    return wrong


def _groups(found: Found, members: Mapping[str, int]) -> list[list[Scores]]:
    """As many averages as the seeds suffice for: of each network so many, no seed in two."""
    groups = min(len(found[network]) // count for network, count in members.items())
    return [
        [
            scores
            for network, count in members.items()
            for scores in _seeds(found, network)[group * count : (group + 1) * count]
        ]
        for group in range(groups)
    ]


def _right_on_average(each: Sequence[Scores]) -> NDArray[np.bool_]:
    """(n, 2) as `Scores.right10`, of the average, all members weighing alike."""
    mean = np.mean([scores.probabilities for scores in each], axis=0)
    best = np.argsort(-mean, axis=1, kind="stable")[:, :5]
    right = best == each[0].labels[:, None]
    return np.stack([right[:, 0], right.any(1)], 1)
