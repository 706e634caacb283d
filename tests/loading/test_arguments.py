"""A loader's arguments are checked when it is made; its length, its text, and what iterating over it gives."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alexnet_fast import Loader, ShardSet, environment
from alexnet_fast.errors import InputError
from alexnet_fast.loading.pipeline import Pipeline

CROP = 84
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"batch": 0}, "batch is 0; it must be a whole number, 1 or more"),
    ({"batch": 16.0}, "batch is 16.0"),
    ({"epoch": -1}, "epoch is -1; it must be a whole number, from 0 to"),
    ({"num_epochs": -1}, "num_epochs is -1"),
    ({"first_step": 5}, "first_step is 5; it must be a whole number, from 0 to 3"),
    ({"seed": -3}, "seed is -3"),
    ({"crop": 97}, "crop 97 is larger than the stored images (96 px)"),
    ({"crop": 0}, "crop is 0"),
    ({"scale": (0, 1)}, "scale (0, 1) is no range"),
    ({"scale": (0.5, 1), "ratio": (2, 1)}, "ratio (2, 1) is no range"),
    ({"window": 0}, "window is 0"),
    ({"colour_std": -0.1}, "colour_std is -0.1; it must be a number, 0 or more"),
    ({"colour_std": float("nan")}, "colour_std is nan"),
    ({"world_size": 0}, "world_size is 0"),
    ({"rank": 2, "world_size": 2}, "rank is 2; of a world_size of 2 the ranks are 0 to 1"),
    ({"rank": -1}, "rank is -1"),
    ({"world_size": 16}, "a step has 15 images, or pairs of mixed ones, too few for 16 ranks"),
    ({"dtype": torch.float64}, "dtype is torch.float64; it must be one of torch.uint8, torch.float32"),
    ({"threads": 0}, "threads is 0"),
    ({"device": "gpu"}, "device is 'gpu', which torch does not know"),
    ({"device": "meta"}, "device is 'meta'; it must be cpu, cuda or cuda:N"),
    ({"device": f"cuda:{torch.cuda.device_count()}"}, f"but torch finds {torch.cuda.device_count()} GPUs"),
    ({"samples": [0, 60]}, "samples has numbers from 0 to 60; those of the split train are 0 to 59"),
    ({"samples": [-1]}, "samples has numbers from -1"),
    ({"samples": []}, "at least one"),
    ({"samples": np.ones(60, bool)}, "Of a mask take np.flatnonzero(mask)"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG, ids=[str(wrong) for wrong, _ in WRONG])
def test_each_wrong_argument_is_named(wrong: dict[str, Any], message: str, jpeg_shards: Path) -> None:
    split = ShardSet(jpeg_shards).split("train")
    with pytest.raises(InputError, match=re.escape(message)):
        Loader.training(split, **{"batch": 16, "crop": CROP, **wrong})
    of_both = {"batch", "samples", "crop", "rank", "device", "dtype", "threads"}
    if wrong.keys() <= of_both and len(wrong.get("samples", [0])):
        with pytest.raises(InputError, match=re.escape(message)):
            Loader.evaluation(split, **{"crop": CROP, **wrong})


def test_a_folder_is_no_split(jpeg_shards: Path) -> None:
    folder: Any = str(jpeg_shards)
    for make in (Loader.training, Loader.evaluation):
        with pytest.raises(InputError, match=re.escape(f"split is {folder!r}; it must be one of a shard set")):
            make(folder, batch=16, crop=CROP)


def test_length_and_unpacking(jpeg_shards: Path) -> None:
    split = ShardSet(jpeg_shards).split("train")
    for more, length in (({}, 4), ({"num_epochs": 3, "first_step": 2}, 10), ({"num_epochs": 0}, 0)):
        loader = Loader.training(split, batch=16, crop=CROP, world_size=2, rank=1, **more)  # type: ignore[arg-type]
        assert len(loader) == length
        batches = list(loader)
        assert len(batches) == length
        for batch in batches:
            images, labels = batch
            assert images is batch.images
            assert labels is batch.labels
            assert np.array_equal(labels, split.labels[batch.rows.samples])
    # at the end of an epoch: what is left are the next ones
    assert len(Loader.training(split, batch=16, crop=CROP, num_epochs=2, first_step=4)) == 4
    for ranks in (1, 3):
        lengths = [len(Loader.evaluation(split, batch=7, crop=CROP, rank=r, world_size=ranks)) for r in range(ranks)]
        assert lengths == [-(-60 // ranks // 7)] * ranks


def test_a_batch_goes_to_a_device(jpeg_shards: Path) -> None:
    batch = next(iter(Loader.training(ShardSet(jpeg_shards).split("train"), batch=4, crop=CROP)))
    moved = batch.to("meta")
    assert moved.images.device.type == moved.labels.device.type == "meta"
    assert moved.images.shape == batch.images.shape
    assert moved.rows is batch.rows
    assert moved.tensors.keys() == batch.tensors.keys() == {"images", "labels"}


def test_a_training_is_given_once_and_an_evaluation_again(jpeg_shards: Path) -> None:
    split = ShardSet(jpeg_shards).split("train")
    training = Loader.training(split, batch=16, crop=CROP)
    iter(training)  # nothing is taken
    assert len(list(training)) == 4
    with pytest.raises(InputError, match=r"given already.*epoch="):
        next(iter(training))
    evaluation = Loader.evaluation(split, batch=16, crop=CROP)
    first, second = list(evaluation), list(evaluation)
    assert len(first) == len(second) == 4
    assert all(torch.equal(a.images, b.images) for a, b in zip(first, second, strict=True))


def test_threads_are_the_cores_of_this_process(jpeg_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Noted(Pipeline):
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            asked.append(settings["threads"])
            super().__init__(*arguments, **settings)

    monkeypatch.setattr("alexnet_fast.loading.loader.Pipeline", Noted)
    split = ShardSet(jpeg_shards).split("train")
    Loader.training(split, batch=16, crop=CROP)
    Loader.evaluation(split, crop=CROP)
    Loader.training(split, batch=16, crop=CROP, threads=7)
    assert asked == [environment.cores(), environment.cores(), 7]


def test_the_text_says_what_it_gives(jpeg_shards: Path) -> None:
    split = ShardSet(jpeg_shards).split("train")
    training = Loader.training(split, batch=16, crop=CROP, epoch=3, num_epochs=2, scale=(0.5, 1), dtype=torch.uint8)
    assert repr(training) == (
        "<Loader of train: 60 samples an epoch, epochs 3 to 4 from step 0 of 4, batch 16, rank 0 of 1, random resized "
        "crops and mirror images, PCA colour 0.1, images (3, 84, 84) uint8 on cpu>"
    )
    assert repr(Loader.evaluation(split, crop=CROP)) == (
        "<Loader of train: 60 samples in stored order, batch 256, rank 0 of 1, central crops, images (3, 84, 84) "
        "float32 on cpu>"
    )


def test_the_names_of_the_classes(jpeg_shards: Path) -> None:
    shards = ShardSet(jpeg_shards)
    assert shards.classes == shards.split("train").classes == [entry["name"] for entry in shards.manifest.classes]
