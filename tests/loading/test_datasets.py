"""A split as a data set of torch's DataLoader, in one process; with workers: tests/system/test_workers.py."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet_fast import IterableDataset, MapDataset, ShardSet
from alexnet_fast.errors import InputError, TrainingError
from alexnet_fast.loading import corruption
from tests.loading.test_corruption import corrupt_copy


def whole(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image))


@pytest.mark.parametrize("encoding", ["jpeg", "raw", "mixed"])
def test_images_are_pillow_s(encoding: str, request: pytest.FixtureRequest) -> None:
    split = ShardSet(request.getfixturevalue(f"{encoding}_shards")).split("train")
    data = MapDataset(split)
    assert (len(data), data.classes) == (60, split.classes)
    seen = list(data)  # type: ignore[call-overload]
    for stored, (image, label), number in zip(split.read(np.arange(60)), seen, split.labels, strict=True):
        assert (image.mode, label) == ("RGB", number)
        expected = stored if stored.ndim == 3 else np.asarray(Image.open(io.BytesIO(stored.tobytes())))
        assert np.array_equal(image, expected)
    assert np.array_equal(data[-1][0], seen[-1][0])
    with pytest.raises(IndexError):
        data[60]


def test_wrong_arguments_are_refused_when_it_is_made(jpeg_shards: Path) -> None:
    with pytest.raises(InputError, match="batch is 0"):
        IterableDataset(ShardSet(jpeg_shards).split("train"), whole, batch=0)


@pytest.mark.parametrize("limit", [0.1, 0.001])
def test_corrupt_samples_are_replaced_by_neighbours(
    limit: float, jpeg_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corruption, "LIMIT", limit)
    data = MapDataset(ShardSet(corrupt_copy(jpeg_shards, "train", [3, 4, 59], tmp_path / "set")).split("train"))
    if limit < 0.01:
        with pytest.raises(TrainingError, match="corrupt"):
            data[3]
        return
    for sample, neighbour in ((3, 5), (4, 5), (59, 0)):
        assert np.array_equal(data[sample][0], data[neighbour][0])
        assert data[sample][1] == data[neighbour][1]
