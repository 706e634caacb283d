"""What each claim compares: from the scores of trained networks to estimates.

A measure returns top-1 first, and top-5 where the paper has it and there are more than five classes; in points of per
cent, above 0 where the paper is right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from alexnet_fast.paper.statistics import Array, Estimate, compared, ratio, share, within
from alexnet_fast.shards.format import UNLABELLED

BASE = "base"
FIGURE_1 = 25.0
"""Training error at which Figure 1 counts the epochs, per cent."""
LEARNT = 0.05
"""The part of the classes' entropy that a network's predictions must give to count as learnt; or it is right twice as
often as one that always predicts the most frequent class."""
TINY = 1e-12


@dataclass(frozen=True)
class NetworkScores:
    """How a trained network does on the n validation images and on m training images.

    `right1`, `right10` (n, 2): whether its best prediction and its five best hold the label, with 1 view and with 10.
    `train_right` (m,): its best prediction, 1 view, training images not augmented. `probabilities` (n, classes): 10
    views. `labels` (n,): UNLABELLED for images that could not be read. `errors` (epochs,): mean training error of each
    epoch during training, per cent.
    """

    right1: NDArray[np.bool_]
    right10: NDArray[np.bool_]
    train_right: NDArray[np.bool_]
    probabilities: NDArray[np.float32]
    labels: NDArray[np.int64]
    errors: Array

    @property
    def learnt(self) -> bool:
        """False where its predictions are hardly better than the classes' frequencies: its training has failed."""
        labels = self.labels[self.labels != UNLABELLED]
        frequencies = np.bincount(labels, minlength=self.probabilities.shape[1]) / len(labels)
        entropy = -np.sum(frequencies * np.log(np.maximum(frequencies, TINY)))
        likelihoods = self.probabilities[self.labels != UNLABELLED, labels]
        loss = -np.log(np.maximum(likelihoods, TINY)).mean()
        return bool(loss < (1 - LEARNT) * entropy or self.right10[:, 0].mean() >= 2 * frequencies.max())

    @property
    def tops(self) -> range:
        """The columns to compare: not the second, top-5, where there are no more than five classes."""
        return range(2 if self.probabilities.shape[1] > 5 else 1)


Found = Mapping[str, Mapping[int, NetworkScores]]
"""Scores by network and seed."""


def error(found: Found, members: Mapping[str, int]) -> list[Estimate]:
    """The error of one network, or of averaged predictions, 10 views. `members`: how many seeds of which networks."""
    groups = _groups(found, members)
    rights = [_right_on_average(group) for group in groups]
    over = "seeds" if sum(members.values()) == 1 else "averages"
    return [share([_wrong(right[:, top]) for right in rights], over) for top in groups[0][0].tops]


def views(found: Found) -> list[Estimate]:
    """How much lower the error is with 10 views than with 1."""
    each = _seeds(found, BASE)
    return [within([_wrong(s.right1[:, top]) - _wrong(s.right10[:, top]) for s in each]) for top in each[0].tops]


def averaging(found: Found, members: Mapping[str, int]) -> list[Estimate]:
    """How much lower the error of the average is than the mean error of its members."""
    groups = _groups(found, members)
    gains = [
        np.mean([_wrong(scores.right10) for scores in group], axis=0) - _wrong(_right_on_average(group))
        for group in groups
    ]
    return [within([gain[:, top] for gain in gains], "averages") for top in groups[0][0].tops]


def joining(found: Found, before: Mapping[str, int], after: Mapping[str, int]) -> list[Estimate]:
    """How much lower the error of the average of `after` is than that of `before`."""
    groups = list(zip(_groups(found, before), _groups(found, after), strict=False))
    gains = [_wrong(_right_on_average(few)) - _wrong(_right_on_average(many)) for few, many in groups]
    return [within([gain[:, top] for gain in gains], "averages") for top in groups[0][0][0].tops]


def difference(found: Found, worse: str, better: str = BASE) -> list[Estimate]:
    """How much lower the error of `better` is than that of `worse`, 10 views."""
    pair = _seeds(found, worse), _seeds(found, better)
    return [compared(*([[_wrong(s.right10[:, top])] for s in each] for each in pair)) for top in pair[0][0].tops]


def gap(found: Found, network: str) -> list[Estimate]:
    """How much wider the gap between training and validation accuracy is than the base network's; top-1, 1 view."""
    pair = _seeds(found, network), _seeds(found, BASE)
    return [compared(*([[_wrong(s.right1[:, 0]), -_wrong(s.train_right)] for s in each] for each in pair))]


def slower(found: Found, network: str) -> list[Estimate]:
    """How many times the base network's epochs `network` takes to the 25 % training error of Figure 1, or to the lowest
    that all of them reached."""
    pair = _seeds(found, network), _seeds(found, BASE)
    level = max(FIGURE_1, *(scores.errors.min() for each in pair for scores in each))
    estimate = ratio(*([epochs_to(scores.errors, level) for scores in each] for each in pair))
    return [replace(estimate, over=f"{estimate.over}, to {level:.1f} % training error")]


def epochs_to(errors: Array, level: float) -> float:
    """Epochs until the training error was `level`, between two epochs by a straight line."""
    after = int(np.argmax(errors <= level))
    if after == 0:
        return 1.0
    above, below = errors[after - 1], errors[after]
    return float(after + (above - level) / (above - below))


def _seeds(found: Found, network: str) -> list[NetworkScores]:
    return [scores for _, scores in sorted(found[network].items())]


def _wrong(right: NDArray[np.bool_]) -> Array:
    """100 for an image whose label is not among the predictions, else 0."""
    return np.where(right, 0.0, 100.0)


def _groups(found: Found, members: Mapping[str, int]) -> list[list[NetworkScores]]:
    """As many averages as the seeds suffice for: of each network so many, no seed in two."""
    seeds = {network: iter(_seeds(found, network)) for network in members}
    num_groups = min(len(found[network]) // count for network, count in members.items())
    return [
        [next(seeds[network]) for network, count in members.items() for _ in range(count)] for _ in range(num_groups)
    ]


def _right_on_average(group: Sequence[NetworkScores]) -> NDArray[np.bool_]:
    """(n, 2) as `NetworkScores.right10`, of the average, all members weighing alike."""
    if len(group) == 1:
        return group[0].right10
    mean = np.mean([scores.probabilities for scores in group], axis=0)
    best = np.argsort(-mean, axis=1, kind="stable")[:, :5]
    right = best == group[0].labels[:, None]
    return np.stack([right[:, 0], right.any(1)], 1)
