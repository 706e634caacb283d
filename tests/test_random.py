"""The random streams: the numbers of each are those that shard sets and runs have been made with."""

from __future__ import annotations

import numpy as np
import pytest

from alexnet_fast import random

FIRST = [
    (random.epoch_order(7, 3), [2251081202, 2070726577, 1262456223]),
    (random.epoch_crops(7, 3), [3836665088, 895360646, 3794636322]),
    (random.epoch_mirrors(7, 3), [4246668231, 1542838726, 257299860]),
    (random.epoch_colours(7, 3), [4209481302, 3441873042, 1142745624]),
    (random.stored_order(7, 1), [3212799773, 3790166175, 1724460886]),
    (random.val_split(7), [3002338740, 3283815439, 2576986208]),
    (random.budget_sample(7), [747271829, 2487903238, 2126438678]),
    (random.report_sample(), [3653403231, 2735729615, 2195314465]),
    (random.drawn_image(7, 1, 2, 3), [2920562132, 3525776865, 24876727]),
]
"""Of each stream the first numbers below 2^32, noted at commit 2bc5704, when each was seeded where it was used."""


@pytest.mark.parametrize(("stream", "first"), FIRST)
def test_each_stream_is_as_it_was(stream: np.random.Generator, first: list[int]) -> None:
    assert stream.integers(0, 2**32, 3).tolist() == first


def test_seeds_for_torch_are_as_they_were() -> None:
    assert (random.weights_seed(7), random.dropout_seed(7, 100, 1)) == (7, 3885908496)
