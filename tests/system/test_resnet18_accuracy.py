"""tools/resnet18_accuracy.py: both sides train on the same images, and what is concluded from their accuracies."""

from math import sqrt
from pathlib import Path

import pytest
import torch

from alexnet_fast import ShardSet

pytest.importorskip("tests.torchvision_here")
from tools.resnet18_accuracy import SIDES, Settings, compared


def test_both_sides_give_the_same_images(jpeg_shards: Path) -> None:
    shard_set, settings = ShardSet(jpeg_shards), Settings(epochs=10, crop=48, batch=10, lr=0.05)
    torch.manual_seed(0)
    (ours, our_val), (theirs, their_val) = (side(shard_set, 0, settings) for side in SIDES.values())
    steps, their_steps = list(ours), list(theirs)
    assert len(steps) == len(their_steps) == len(ours) == len(theirs) == 60
    assert [images.shape for images, _ in steps] == [images.shape for images, _ in their_steps]
    pixels, targets = (torch.cat(column) for column in zip(*steps, strict=True))
    their_pixels, their_targets = (torch.cat(column) for column in zip(*their_steps, strict=True))
    assert targets.sum(0).tolist() == pytest.approx([200] * 3, abs=1e-3)  # each image once an epoch
    assert their_targets.sum(0).tolist() == pytest.approx([200] * 3, abs=1e-3)
    # the two draw other crops, of which a mean of 600 has some error
    assert (pixels.mean((0, 2, 3)) - their_pixels.mean((0, 2, 3))).abs().max() < 3
    assert pixels.std().item() == pytest.approx(their_pixels.std().item(), rel=0.05)

    images, labels = (torch.cat(column) for column in zip(*our_val, strict=True))
    their_images, their_labels = (torch.cat(column) for column in zip(*their_val, strict=True))
    assert torch.equal(labels, their_labels)
    assert (images - their_images).abs().mean() < 1  # grey level: two resizes of the same pixels


def test_intervals_and_verdict() -> None:
    found = compared({"ours": [71.0, 73.0, 75.0], "torchvision": [70.0, 71.0, 72.0]})
    assert found["difference"] == 2
    # differences 1, 2, 3: deviation 1; Student's t at 97.5 % with 2 degrees of freedom, from a printed table: 4.303
    assert found["paired"] == pytest.approx([2 - 4.303 / sqrt(3), 2 + 4.303 / sqrt(3)], abs=1e-3)
    # variances 4 and 1 of 3 values each: 2.94 degrees of freedom, whose t is between those of 2 and 3
    low, high = found["welch"]
    assert low + high == pytest.approx(4)
    assert 3.182 * sqrt(5 / 3) < (high - low) / 2 < 4.303 * sqrt(5 / 3)
    assert found["verdict"] == "no difference beyond the seeds' spread"
    assert compared({"ours": [71.0, 73.0, 75.0], "torchvision": [61.0, 62.0, 65.0]})["verdict"] == "differs"
