"""A split as a data set of torch's DataLoader: every sample once, whatever the workers and ranks."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from alexnet_fast import IterableDataset, MapDataset, ShardSet
from alexnet_fast.errors import InputError, TrainingError
from alexnet_fast.loading import corruption
from alexnet_fast.loading.epochs import Epochs
from tests.loading.test_corruption import corrupt_copy
from tests.torchvision_here import transforms

pytestmark = [
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]


def whole(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image))


def middle(image: Image.Image) -> Any:
    return transforms.CenterCrop(64)(image)


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


@pytest.mark.parametrize("context", ["fork", "forkserver"])
def test_torchvision_s_transforms_in_workers(context: str, jpeg_shards: Path) -> None:
    split = ShardSet(jpeg_shards).split("train")
    data = MapDataset(split, middle)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        loader = DataLoader(data, 8, shuffle=True, num_workers=2, collate_fn=collated, multiprocessing_context=context)
        batches = list(loader)
    images, labels = (torch.cat(part) for part in zip(*batches, strict=True))
    assert images.shape == (60, 64, 64, 3)
    assert sorted(labels.tolist()) == sorted(split.labels)
    expected = [np.asarray(image)[16:80, 16:80].tobytes() for image, _ in MapDataset(split)]  # type: ignore[attr-defined]
    assert sorted(map(key, images)) == sorted(expected)


def collated(items: list[tuple[Image.Image, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.stack([whole(image) for image, _ in items]), torch.tensor([label for _, label in items])


def key(image: torch.Tensor) -> bytes:
    return image.numpy().tobytes()


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_workers_share_the_plan_s_steps(workers: int, ranks: int, jpeg_shards: Path) -> None:
    """Each sample exactly once an epoch over all workers and ranks, in the steps of the loader."""
    split = ShardSet(jpeg_shards).split("train")
    images = MapDataset(split)
    numbers = {key(whole(images[i][0])): i for i in range(60)}
    assert len(numbers) == 60
    last_epoch: list[list[int]] = []
    for rank in range(ranks):
        settings: dict[str, Any] = {"batch": 16, "epoch": 1, "num_epochs": 2, "seed": 3, "first_step": 1}
        settings |= {"rank": rank, "world_size": ranks}
        data = IterableDataset(split, whole, **settings)
        loader = DataLoader(data, batch_size=None, num_workers=workers)
        assert len(loader) == len(data) == 7
        batches = list(loader)
        seen = [[numbers[key(image)] for image in batch] for batch, _ in batches]
        plan = Epochs(split=split, crop=1, **settings)
        assert seen == [rows.samples.tolist() for rows in plan]
        assert all(np.array_equal(labels, split.labels[s]) for s, (_, labels) in zip(seen, batches, strict=True))
        last_epoch += seen[3:]
    assert sorted(sample for step in last_epoch for sample in step) == list(range(60))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("persistent", [False, True])
def test_the_same_epoch_is_refused_a_second_time(workers: int, persistent: bool, jpeg_shards: Path) -> None:
    data = IterableDataset(ShardSet(jpeg_shards).split("train"), whole, batch=16)
    loader = DataLoader(data, batch_size=None, num_workers=workers, persistent_workers=persistent and workers > 0)
    assert len(list(loader)) == 4
    with pytest.raises(InputError, match=r"given already.*epoch="):
        list(loader)


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
