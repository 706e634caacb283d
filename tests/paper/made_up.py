"""Scores of networks that do not exist, for claims computed by hand."""

from typing import Any

import numpy as np

from alexnet_fast.paper.measures import NetworkScores

N = 100


def made_up(wrong1: int, wrong10: int, train_wrong: int = 0, errors: tuple[float, ...] = (90.0, 50.0)) -> NetworkScores:
    """Of 100 images with label 0 the first are wrong, so that pairs of networks differ in as few as possible; of the
    five best predictions half as many. The probabilities agree with ten views."""

    def right(wrong: int) -> Any:
        return np.arange(N)[:, None] >= [wrong, wrong // 2]

    probabilities = np.tile(np.array([0.55, 0.09, 0.09, 0.09, 0.09, 0.09], np.float32), (N, 1))
    probabilities[:wrong10] = [0.15, 0.25, 0.15, 0.15, 0.15, 0.15]
    probabilities[: wrong10 // 2] = [0.0, 0.2, 0.2, 0.2, 0.2, 0.2]
    train = right(train_wrong)[:, 0]
    return NetworkScores(right(wrong1), right(wrong10), train, probabilities, np.zeros(N, np.int64), np.array(errors))
