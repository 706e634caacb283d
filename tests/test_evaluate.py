"""Counts, views and averages against hand-computed ones."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from alexnet_fast.results.evaluate import count_correct, evaluate, predict, ten_views
from alexnet_fast.shardset import ShardSet
from alexnet_fast.training.distributed import Topology

CPU = Topology(0, 1, torch.device("cpu"))


def test_count_correct_by_hand() -> None:
    scores = torch.tensor([[9, 8, 7, 6, 5, 4], [9, 8, 7, 6, 5, 4], [1, 2, 3, 4, 5, 6.0]])
    assert count_correct(scores, torch.tensor([0, 5, 1])).tolist() == [1, 2, 3]


def test_ten_views_are_corners_centre_and_mirror_images() -> None:
    image = torch.arange(36.0).view(1, 1, 6, 6)
    views = ten_views(image, 4)
    assert [v[0, 0, 0, 0].item() for v in views[:5]] == [0, 2, 12, 14, 7]
    assert all(torch.equal(mirrored, view.flip(3)) for view, mirrored in zip(views[:5], views[5:], strict=True))


def test_predictions_are_averaged_after_softmax() -> None:
    a, b = nn.Linear(2, 3), nn.Linear(2, 3)
    x, y = torch.randn(4, 2), torch.randn(4, 2)
    expected = sum(model(view).softmax(1) for model in (a, b) for view in (x, y)) / 4
    assert isinstance(expected, Tensor)
    torch.testing.assert_close(predict([a, b], [x, y]), expected)


class MeanColour(nn.Module):
    """Scores three classes by the mean of each channel: the answer can be computed from the pixels alone."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def test_every_image_counts_once_whatever_the_batches(raw_shards: Path) -> None:
    shards = ShardSet(raw_shards)
    split, pixels = shards.split("train"), shards.manifest.pixels
    side, crop = split.size, 84
    stored = np.stack(split.read(np.arange(len(split)))).astype(np.float64) - np.array(pixels.mean)
    edge = (side - crop) // 2
    means = stored[:, edge : edge + crop, edge : edge + crop].mean((1, 2))
    correct = 100 * (means.argmax(1) == split.labels).mean()
    accuracy = evaluate([MeanColour()], split, pixels, CPU, crop=crop)
    assert (accuracy.images, accuracy.views, accuracy.top5) == (len(split), 1, 100)
    assert abs(accuracy.top1 - correct) < 1e-9
    ten = evaluate([MeanColour()], split, pixels, CPU, crop=crop, views=10)
    assert (ten.images, ten.views) == (len(split), 10)
