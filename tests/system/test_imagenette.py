"""Real images, thousands of them, where Imagenette is at hand: nothing lost between the folder and the batches."""

import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet_fast.loading.boxes import Boxes
from alexnet_fast.loading.pipeline import Pipeline
from alexnet_fast.loading.plan import Rows, evaluation_rows, training_rows
from alexnet_fast.sharding.plan import Options
from alexnet_fast.sharding.sources import find_images
from alexnet_fast.shards.reader import ShardSet
from tests.conftest import write

SIZE, CROP = 128, 112


@pytest.fixture(scope="module")
def shards(imagenette: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "imagenette"
    summary = write(find_images(imagenette), out, Options(size=SIZE), 2)
    assert (summary.images, summary.rejected) == (9_469 + 3_925, 0)
    return out


def keys(shards: Path, split: str) -> list[str]:
    """Of every sample in stored order, read with tarfile alone."""
    found = []
    for path in sorted(shards.glob(f"{split}-*.tar")):
        with tarfile.open(path) as tar:
            found += [name.removesuffix(".jpg") for name in tar.getnames() if name.endswith(".jpg")]
    return found


def loaded(shards: Path, split: str, rows: list[Rows]) -> list[int]:
    """The samples of the batches that really came out of the decoder."""
    loader = Pipeline(
        ShardSet(shards).split(split),
        rows,
        max_batch=max(len(r.samples) for r in rows),
        crop=CROP,
        device=torch.device("cpu"),
    )
    samples: list[int] = []
    for batch in loader:
        assert len(batch.images) == len(batch.labels) == len(batch.rows.samples)
        samples += batch.rows.samples.tolist()
    return samples


@pytest.mark.parametrize("world", [1, 2])
def test_an_epoch_sees_every_key_exactly_once(world: int, imagenette: Path, shards: Path) -> None:
    names = keys(shards, "train")
    files = (imagenette / "train").glob("*/*")
    assert Counter(names) == Counter(f"{path.parent.name}/{path.stem}" for path in files)
    seen: list[str] = []
    for rank in range(world):
        rows = training_rows(9_469, 256, 0, boxes=Boxes(SIZE, CROP), colour_std=0.1, rank=rank, world_size=world)
        seen += [names[sample] for sample in loaded(shards, "train", list(rows))]
    assert Counter(seen) == Counter(names)
    assert seen != names  # shuffled


@pytest.mark.parametrize("world", [1, 2])
def test_evaluation_sees_every_image_exactly_once(world: int, shards: Path) -> None:
    seen = [
        sample
        for rank in range(world)
        for sample in loaded(
            shards, "val", list(evaluation_rows(3_925, 256, boxes=Boxes(SIZE, CROP), rank=rank, world_size=world))
        )
    ]
    assert np.array_equal(seen, np.arange(3_925))
