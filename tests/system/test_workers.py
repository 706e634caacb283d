"""A split as a data set of torch's DataLoader with workers: every sample once, whatever the workers and ranks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from alexnet_fast import IterableDataset, MapDataset, ShardSet
from alexnet_fast.errors import InputError
from alexnet_fast.loading.epochs import Epochs
from tests.torchvision_here import transforms

pytestmark = [
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]


def whole(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image))


def middle(image: Image.Image) -> Any:
    return transforms.CenterCrop(64)(image)


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
