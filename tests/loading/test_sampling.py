"""Which samples an epoch consists of: subsets, repeats, and draws by weight, the same on any number of ranks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from alexnet_fast import Loader, ShardSet, Weighted, class_balanced, of_classes
from alexnet_fast.errors import InputError
from alexnet_fast.loading.epochs import Epochs
from alexnet_fast.shards.reader import Split

CROP = 84


@pytest.fixture
def split(jpeg_shards: Path) -> Split:
    return ShardSet(jpeg_shards).split("train")


def samples_of(split: Split, **settings: Any) -> NDArray[np.int64]:
    return np.concatenate([rows.samples for rows in Epochs(**{"split": split, "batch": 16, "crop": CROP, **settings})])


def test_weights_are_frequencies() -> None:
    weights = np.array([0, 1, 2, 0, 5, 0])
    drawn = Weighted(weights, 80_000).draw(3, 1)
    counts = np.bincount(drawn, minlength=6)
    assert counts[weights == 0].sum() == 0
    expected = 80_000 * weights / 8
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected + 1)).all()


def test_draws_are_numpy_s_of_a_stream_of_their_own() -> None:
    weights = np.arange(1, 8.0)
    uniform = np.random.Generator(np.random.Philox(key=[3, 1], counter=[0, 0, 0, 4])).random(500)
    expected = [int((np.cumsum(weights) <= place * 28).sum()) for place in uniform]
    assert Weighted(weights, 500).draw(3, 1).tolist() == expected


def test_an_epoch_has_its_own_draws_on_any_number_of_ranks(split: Split) -> None:
    weighted = Weighted(np.arange(60.0), 100)
    for window in (None, 1):
        settings: dict[str, Any] = {"samples": weighted, "num_epochs": 2, "seed": 4, "window": window}
        alone = list(Epochs(split=split, batch=16, crop=CROP, **settings))
        first, second = (np.concatenate([r.samples for r in alone if r.epoch == e]) for e in (0, 1))
        assert sorted(first) == sorted(weighted.draw(4, 0))
        assert sorted(second) == sorted(weighted.draw(4, 1))
        assert sorted(first) != sorted(second)
        for ranks in (2, 4):
            parts = [
                list(Epochs(split=split, batch=16, crop=CROP, rank=rank, world_size=ranks, **settings))
                for rank in range(ranks)
            ]
            for whole, *step in zip(alone, *parts, strict=True):
                assert np.array_equal(np.concatenate([rows.samples for rows in step]), whole.samples)
                assert np.array_equal(np.concatenate([rows.crop for rows in step]), whole.crop)
        resumed = samples_of(split, **settings | {"epoch": 1, "num_epochs": 1, "first_step": 3})
        assert np.array_equal(resumed, np.concatenate([r.samples for r in alone if r.epoch == 1 and r.step >= 3]))


def test_classes_are_balanced(split: Split) -> None:
    samples = np.concatenate([of_classes(split, [0]), of_classes(split, [1])[:3]])
    few = class_balanced(split, 6000).draw(0, 0)
    assert np.abs(np.bincount(split.labels[few]) - 2000).max() < 200
    weights = np.zeros(60)
    weights[samples] = 1 / np.bincount(split.labels[samples])[split.labels[samples]]
    drawn = Weighted(weights, 6000).draw(0, 0)
    assert set(drawn) == set(samples)
    assert np.abs(np.bincount(split.labels[drawn]) - 3000).max() < 250


def test_a_loader_gives_the_images_of_the_draws(split: Split) -> None:
    weighted = class_balanced(split, 24)
    batches = list(Loader.training(split, batch=8, crop=CROP, samples=weighted, epoch=2, seed=1))
    seen = np.concatenate([batch.rows.samples for batch in batches])
    assert sorted(seen) == sorted(weighted.draw(1, 2))
    every = {
        int(sample): image
        for batch in Loader.evaluation(split, crop=CROP)
        for sample, image in zip(batch.rows.samples, batch.images, strict=True)
    }
    central = Loader.training(split, batch=8, crop=CROP, samples=weighted, epoch=2, seed=1, crops=False, colour_std=0)
    for batch in central:
        assert np.array_equal(batch.labels, split.labels[batch.rows.samples])
        assert all(torch.equal(i, every[int(s)]) for s, i in zip(batch.rows.samples, batch.images, strict=True))


def test_subsets_and_repeats(split: Split) -> None:
    subset = of_classes(split, [2, split.classes[0]])
    assert np.array_equal(subset, [i for i, label in enumerate(split.labels) if label in (0, 2)])
    assert sorted(samples_of(split, samples=subset)) == subset.tolist()
    assert sorted(samples_of(split, samples=[5, 3])) == [3, 5]
    thrice = samples_of(split, samples=np.tile(np.arange(60), 3))
    assert np.bincount(thrice).tolist() == [3] * 60
    assert len(set(thrice[:60])) < 60  # one shuffle over all, not three epochs
    ids = [entry["id"] for entry in split.manifest.classes]
    assert np.array_equal(of_classes(split, ids[1:2]), of_classes(split, [1]))


def test_wrong_weights_and_classes(split: Split) -> None:
    for weights in ([], [0, 0], [1, -1], [1, np.nan], [[1]], ["a"]):
        with pytest.raises(InputError, match="weights"):
            Weighted(weights)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="count is 0"):
        Weighted(np.ones(3), 0)
    with pytest.raises(InputError, match=r"3 weights for the 60 samples of the split train"):
        Loader.training(split, batch=4, crop=CROP, samples=Weighted(np.ones(3)))
    for wrong in (3, -1, "dodo"):
        with pytest.raises(InputError, match=f"{wrong!r} is none of the 3 classes"):
            of_classes(split, [wrong])
    split.manifest.classes[1]["name"] = split.manifest.classes[0]["name"] = "crane"
    with pytest.raises(InputError, match="'crane' is the name of 2 classes; give ids"):
        of_classes(split, ["crane"])
