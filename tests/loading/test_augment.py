"""The augmentations: drawn as the papers and torchvision have them, applied as torchvision applies them, and the same
bits on any number of ranks and threads, and resumed at any step."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from alexnet_fast import Batch, ColourJitter, CutMix, Erasing, Loader, MixUp, ShardSet
from alexnet_fast.errors import InputError
from alexnet_fast.loading import effects as module
from alexnet_fast.loading.augment import Augmentation, Draws, Effects
from alexnet_fast.loading.effects import applied
from tests.conftest import turn_native_off
from tests.torchvision_here import transforms

CROP = 84
ALL: list[Augmentation] = [ColourJitter(0.4, 0.4, 0.4), Erasing(0.5), MixUp(0.8), CutMix(1.0)]
EACH: list[Sequence[Augmentation]] = [*([one] for one in ALL), ALL]
Key = tuple[int, int, int]


def drawn(n: int, *augment: Augmentation, crop: int = CROP, epoch: int = 0) -> Effects:
    found = Draws(augment, 5, epoch, crop).step(n)
    assert found is not None
    return found


def column(values: NDArray[Any] | None) -> NDArray[Any]:
    assert values is not None
    return values


def by_sample(batches: list[Batch]) -> dict[Key, tuple[bytes, list[float]]]:
    """Image and target by (epoch, step, sample)."""
    return {
        (batch.rows.epoch, batch.rows.step, int(sample)): (
            image.contiguous().float().numpy().tobytes(),
            target.tolist(),
        )
        for batch in batches
        for sample, image, target in zip(batch.rows.samples, batch.images, batch.targets.float(), strict=True)
    }


def loaded(shards: Path, augment: Sequence[Augmentation], **settings: Any) -> dict[Key, tuple[bytes, list[float]]]:
    split = ShardSet(shards).split("train")
    options: dict[str, Any] = {"batch": 22, "num_epochs": 2, "crop": CROP, "augment": augment, **settings}
    return by_sample(list(Loader.training(split, **options)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.bfloat16])
@pytest.mark.parametrize("augment", EACH, ids=lambda augment: "+".join(type(one).__name__ for one in augment))
def test_one_stream_for_any_ranks_and_threads_and_resumed_anywhere(
    augment: Sequence[Augmentation], dtype: torch.dtype, mixed_shards: Path
) -> None:
    whole = loaded(mixed_shards, augment, dtype=dtype, threads=1)
    assert len(whole) == 120
    plain = loaded(mixed_shards, (), dtype=dtype)
    assert plain.keys() == whole.keys()
    assert sum(plain[key] != whole[key] for key in whole) > 20
    for ranks in (2, 4):
        parts: dict[Key, tuple[bytes, list[float]]] = {}
        for rank in range(ranks):
            parts |= loaded(mixed_shards, augment, dtype=dtype, threads=3, rank=rank, world_size=ranks)
        assert parts == whole
    for epoch, step in ((0, 2), (1, 1)):
        rest = loaded(mixed_shards, augment, dtype=dtype, epoch=epoch, num_epochs=2 - epoch, first_step=step)
        assert rest == {key: value for key, value in whole.items() if key[:2] >= (epoch, step)}


def test_without_native_code_too(raw_shards: Path, mixed_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DALI's images come first in a batch then: partners are found all the same."""
    compiled = loaded(raw_shards, ALL)
    turn_native_off(monkeypatch)
    assert loaded(raw_shards, ALL) == compiled
    whole = loaded(mixed_shards, ALL, num_epochs=1)
    parts = [loaded(mixed_shards, ALL, num_epochs=1, rank=rank, world_size=2) for rank in range(2)]
    assert parts[0] | parts[1] == whole


def test_the_number_of_torch_s_threads_changes_no_bit(raw_shards: Path) -> None:
    threads, found = torch.get_num_threads(), []
    try:
        for number in (1, 4):
            torch.set_num_threads(number)
            found.append(loaded(raw_shards, ALL))
    finally:
        torch.set_num_threads(threads)
    assert found[0] == found[1]


def test_without_augmentations_a_batch_has_labels_alone(raw_shards: Path) -> None:
    for batch in Loader.training(ShardSet(raw_shards).split("train"), batch=20, crop=CROP, augment=[Erasing()]):
        assert batch.other_labels is batch.weights is None
        assert batch.targets is batch.labels


@pytest.mark.parametrize(
    "factors", [(0.5, 1, 1), (1.6, 1, 1), (1, 0.3, 1), (1, 1.7, 1), (1, 1, 0), (1, 1, 1.9), (1.3, 0.6, 1.4)]
)
def test_jitter_is_torchvision_s(factors: tuple[float, float, float]) -> None:
    pixels = torch.randint(0, 256, (5, 21, 30, 3), dtype=torch.uint8)
    jitter = np.tile(np.array(factors, np.float32), (5, 1))
    zero = np.zeros(3, np.float32)
    found = applied(pixels, Effects(jitter=jitter), torch.zeros(5, 3), zero, torch.float32)
    expected = pixels.permute(0, 3, 1, 2).float() / 255
    functional = transforms.functional
    for adjust, factor in zip(
        (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation), factors, strict=True
    ):
        expected = adjust(expected, factor)
    # the mean of the contrast is of whole grey values: within 0.05 of a grey level
    torch.testing.assert_close(found.permute(0, 3, 1, 2), expected * 255, atol=0.05, rtol=1e-5)
    rounded = applied(pixels, Effects(jitter=jitter), torch.zeros(5, 3), zero, torch.uint8)
    assert torch.equal(rounded, found.round().byte())


def test_factors_are_even_in_their_ranges() -> None:
    factors = column(drawn(30_000, ColourJitter(0.4, 1.5, 0)).jitter)
    assert np.allclose(factors.min(0), [0.6, 0, 1], atol=1e-3)
    assert np.allclose(factors.max(0), [1.4, 2.5, 1], atol=1e-3)
    assert np.allclose(factors.mean(0), [1, 1.25, 1], atol=0.02)
    assert abs(np.corrcoef(factors[:, 0], factors[:, 1])[0, 1]) < 0.02


def test_boxes_are_erased_as_torchvision_does() -> None:
    erasing = Erasing(0.4, (0.05, 0.5), (0.3, 3.3))
    boxes = column(drawn(20_000, erasing, crop=64).erased).astype(int)
    theirs = transforms.RandomErasing(p=1, scale=erasing.scale, ratio=erasing.ratio, value=0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        reference = np.array(
            [theirs.get_params(torch.zeros(3, 64, 64), theirs.scale, theirs.ratio, [0.0])[:4] for _ in range(4000)]
        )
    ours = boxes[boxes[:, 2] > 0]
    assert abs(len(ours) / len(boxes) - 0.4) < 0.02
    assert ((ours[:, :2] + ours[:, 2:]) <= 64).all()
    for found, expected in zip(measures(ours), measures(reference), strict=True):
        assert np.allclose(found, expected, rtol=0.12, atol=2)


def measures(boxes: NDArray[Any]) -> list[NDArray[Any]]:
    """Quantiles of the areas, ratios and tops of boxes (n, 4)."""
    top, _, height, width = boxes.T
    return [np.quantile(values, [0.1, 0.5, 0.9]) for values in (height * width, height / width, top)]


def test_erased_is_the_mean() -> None:
    pixels = torch.randint(0, 256, (3, 10, 12, 3), dtype=torch.uint8)
    offset, mean = torch.rand(3, 3) * 200, np.array([120.6, 110.2, 99.9], np.float32)
    boxes = np.array([[2, 3, 4, 5], [0, 0, 0, 0], [9, 11, 1, 1]], np.uint16)
    found = applied(pixels, Effects(erased=boxes), offset, mean, torch.float32)
    expected = pixels.float() - offset[:, None, None]
    expected[0, 2:6, 3:8] = 0
    expected[2, 9:, 11:] = 0
    assert torch.equal(found, expected)
    kept = pixels.clone()
    kept[0, 2:6, 3:8] = torch.tensor([121, 110, 100], dtype=torch.uint8)
    kept[2, 9:, 11:] = torch.tensor([121, 110, 100], dtype=torch.uint8)
    assert torch.equal(applied(pixels, Effects(erased=boxes), offset, mean, torch.uint8), kept)


def test_mixing_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = torch.randint(0, 256, (5, 6, 8, 3), dtype=torch.uint8)
    partner, weights = np.array([3, 4, 2, 0, 1]), np.array([0.25, 0.5, 1, 0.25, 0.5], np.float32)
    pasted = np.zeros((5, 4), np.uint16)
    pasted[[1, 4]] = [1, 2, 4, 6]  # half of the image
    effects = Effects(partner=partner, weights=weights, pasted=pasted)
    x = pixels.float() - 100
    expected = torch.stack([0.25 * x[0] + 0.75 * x[3], x[1], x[2], 0.25 * x[3] + 0.75 * x[0], x[4]])
    expected[1, 1:5, 2:] = x[4, 1:5, 2:]
    expected[4, 1:5, 2:] = x[1, 1:5, 2:]
    for chunk in (1, 2, 5):
        monkeypatch.setattr(module, "CHUNK", chunk)
        mean = np.full(3, 100, np.float32)
        assert torch.equal(applied(pixels, effects, torch.full((5, 3), 100.0), mean, torch.float32), expected)
        levels = applied(pixels, effects, torch.zeros(5, 3), mean, torch.uint8)
        assert torch.equal(levels, (expected + 100).round().byte())


def test_targets_are_the_shares_of_both_labels(raw_shards: Path) -> None:
    split = ShardSet(raw_shards).split("train")
    for batch in Loader.training(split, batch=22, crop=CROP, augment=[MixUp(0.5)]):
        effects = batch.rows.effects
        assert effects is not None
        assert batch.other_labels is not None
        labels, others = split.labels[batch.rows.samples], split.labels[batch.rows.samples[column(effects.partner)]]
        assert np.array_equal(batch.labels, labels)
        assert np.array_equal(batch.other_labels, others)
        _, targets = batch
        expected = np.zeros((len(labels), 3))
        for i, weight in enumerate(column(effects.weights)):
            expected[i, labels[i]] += weight
            expected[i, others[i]] += 1 - weight
        torch.testing.assert_close(targets.double(), torch.from_numpy(expected))
        moved = batch.to("cpu", non_blocking=True)
        assert moved.tensors.keys() == {"images", "labels", "other_labels", "weights"}
        assert torch.equal(moved.targets, targets)


def test_pairs_are_neighbours_and_weights_of_a_beta_distribution() -> None:
    effects = drawn(40_001, MixUp(0.4))
    partner, weights = column(effects.partner), column(effects.weights)
    assert np.array_equal(partner[:-1], np.arange(40_000) ^ 1)
    assert (partner[-1], weights[-1]) == (40_000, 1)  # nobody is left for the last
    assert np.array_equal(weights[0:-1:2], weights[1::2])
    assert abs(weights.mean() - 0.5) < 0.01
    assert abs(weights[:-1].var() - 0.25 / 1.8) < 0.005  # 1 / (4 (2 alpha + 1))
    assert not column(effects.pasted).any()


def test_pasted_boxes_have_the_area_of_the_other_label() -> None:
    effects = drawn(20_000, CutMix(1.0), crop=64)
    boxes, weights = column(effects.pasted).astype(int), column(effects.weights)
    assert np.allclose(1 - boxes[:, 2] * boxes[:, 3] / 64**2, weights)
    assert ((boxes[:, :2] + boxes[:, 2:]) <= 64).all()
    # boxes of a square with an even area, cut off at the edges: torchvision's mean share, by its formula in floats
    rng = np.random.default_rng(0)
    half, centre = 32 * np.sqrt(1 - rng.random(100_000)), rng.random((2, 100_000)) * 64
    sides = np.minimum(centre + half, 64) - np.maximum(centre - half, 0)
    assert abs(weights.mean() - (1 - sides.prod(0) / 64**2).mean()) < 0.02


def test_both_mixings_share_the_pairs() -> None:
    effects = drawn(20_000, MixUp(1.0, p=0.5), CutMix(1.0))
    pasted, partner = column(effects.pasted)[:, 2] > 0, column(effects.partner)
    own = partner == np.arange(20_000)
    assert abs(pasted.mean() - 0.5) < 0.03  # some boxes have no pixel
    assert abs(own.mean() - 0.25) < 0.02
    assert (column(effects.weights)[own] == 1).all()


def test_taken_rows_keep_their_partners() -> None:
    effects = drawn(10, *ALL)
    order = np.array([3, 9, 0, 1, 8, 2])
    taken = effects.take(order)
    assert np.array_equal(order[column(taken.partner)], column(effects.partner)[order])
    for name in ("jitter", "erased", "weights", "pasted"):
        assert np.array_equal(getattr(taken, name), getattr(effects, name)[order])


def test_what_cannot_be_is_refused(raw_shards: Path) -> None:
    for make, message in (
        (lambda: ColourJitter(-1), "brightness is -1"),
        (lambda: Erasing(1.5), "p is 1.5"),
        (lambda: Erasing(scale=(0.5, 0.1)), r"scale \(0.5, 0.1\)"),
        (lambda: MixUp(0), "alpha is 0"),
        (lambda: CutMix(p=-1), "p is -1"),
    ):
        with pytest.raises(InputError, match=message):
            make()
    split = ShardSet(raw_shards).split("train")
    for wrong in ([MixUp(), MixUp()], ["mixup"], MixUp()):
        with pytest.raises(InputError, match="a list of ColourJitter, Erasing, MixUp, CutMix, each at most once"):
            Loader.training(split, batch=20, crop=CROP, augment=wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="too few for 4 ranks"):
        Loader.training(split, batch=6, crop=CROP, augment=[MixUp()], world_size=4)
