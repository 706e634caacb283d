"""Resized crops: pixels against torch's and Pillow's resizing of the box of Pillow's whole image, and the stream."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from alexnet_fast import native
from alexnet_fast.errors import InputError
from alexnet_fast.loading import decoders
from alexnet_fast.loading.batch import Batch
from alexnet_fast.loading.boxes import Boxes, moved
from alexnet_fast.loading.loader import Loader
from alexnet_fast.shards.reader import ShardSet, Split
from tests.conftest import turn_native_off
from tests.loading.test_crops import FORMS, jpeg, picture, pixels_of
from tests.native.libraries import VARIANTS, fresh, using
from tests.native.results import Crops

Box = tuple[int, int, int, int]


def by_torch(whole: NDArray[np.uint8], box: Box, crop: int) -> NDArray[np.uint8]:
    """The box resized as torchvision's `resized_crop(antialias=True)` does it of a uint8 tensor."""
    top, left, height, width = box
    part = torch.from_numpy(whole[top : top + height, left : left + width].copy()).permute(2, 0, 1)[None]
    made = torch.nn.functional.interpolate(part, (crop, crop), mode="bilinear", antialias=True)
    return np.asarray(made[0].permute(1, 2, 0))


def by_pillow(whole: NDArray[np.uint8], box: Box, crop: int) -> NDArray[np.uint8]:
    top, left, height, width = box
    part = Image.fromarray(whole[top : top + height, left : left + width])
    return np.asarray(part.resize((crop, crop), Image.Resampling.BILINEAR))


def boxes_in(height: int, width: int, count: int, seed: int = 0) -> list[Box]:
    """Of all sizes, at all four borders, the whole image among them, and one pixel."""
    rng = np.random.default_rng(seed)
    boxes = [(0, 0, height, width), (0, 0, height, 1), (height - 1, width - 1, 1, 1), (3, 5, 1, width - 5)]
    while len(boxes) < count:
        tall, wide = int(rng.integers(1, height + 1)), int(rng.integers(1, width + 1))
        boxes.append((int(rng.integers(0, height - tall + 1)), int(rng.integers(0, width - wide + 1)), tall, wide))
    return boxes


@pytest.mark.usefixtures("native_decoder")
@pytest.mark.parametrize("crop", [1, 7, 31, 32, 64, 97, 224])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_compiled_code_gives_torch_s_bytes(variant: str, crop: int, tmp_path: Path) -> None:
    """Of JPEGs and stored pixels of several shapes in one batch, the second half mirrored."""
    stored, boxes, sizes, wholes = [], [], [], []
    for seed, (height, width) in enumerate([(96, 131), (201, 96), (max(3 * crop - 1, 9),) * 2]):
        data = jpeg(picture(width, height, seed))
        for box in boxes_in(height, width, 24, seed):
            if min(box[2:]) < 3 * crop:  # larger ones are decoded at a scale
                stored += [data, pixels_of(data)]
                wholes += [pixels_of(data)] * 2
                boxes += [box] * 2
                sizes += [(height, width)] * 2
    half = len(stored) // 2
    with using(fresh(tmp_path, variant=variant)):
        got = Crops(crop, upright=half).of(stored, boxes, sizes).numpy()
    assert len(got) > 30
    for i, (whole, box, image) in enumerate(zip(wholes, boxes, got, strict=True)):
        expected = by_torch(whole, box, crop)
        np.testing.assert_array_equal(image, expected[:, ::-1] if i >= half else expected, err_msg=str((i, box)))


@pytest.mark.usefixtures("native_decoder")
@pytest.mark.parametrize("form", FORMS)
def test_jpegs_of_all_forms(form: str) -> None:
    image = picture(150, 203)
    data = jpeg(image.convert("L") if form == "grey" else image, **FORMS[form])
    boxes = boxes_in(203, 150, 40)
    got = Crops(70).of([data] * 40, boxes, [(203, 150)] * 40).numpy()
    for box, made in zip(boxes, got, strict=True):
        np.testing.assert_array_equal(made, by_torch(pixels_of(data), box, 70))


@pytest.mark.usefixtures("native_decoder")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_mean_is_subtracted_after_it(dtype: torch.dtype) -> None:
    data, boxes = jpeg(picture(150, 203)), boxes_in(203, 150, 20)
    offset = torch.arange(60).reshape(20, 3) * 1.37 + 90
    how = Crops(50, upright=9)
    stored, sizes = [data, pixels_of(data)] * 10, [(203, 150)] * 20
    pixels, got = how.of(stored, boxes, sizes), replace(how, dtype=dtype, offset=offset).of(stored, boxes, sizes)
    assert torch.equal(got, (pixels.float() - offset[:, None, None]).to(dtype))


def difference(got: NDArray[np.uint8], expected: NDArray[np.uint8]) -> tuple[float, float]:
    """The mean, in grey levels, and the ratio of the signal's peak to the noise, dB."""
    apart = got.astype(float) - expected
    return float(np.abs(apart).mean()), float(20 * np.log10(255 / max(np.sqrt((apart**2).mean()), 1e-9)))


@pytest.mark.usefixtures("native_decoder")
def test_boxes_much_larger_than_the_crop_are_decoded_at_a_scale() -> None:
    """Other pixels than of the whole image, but hardly: 44 dB and more of photographs; these have noise in them."""
    data = jpeg(picture(800, 1000))
    whole, boxes = pixels_of(data), [(3, 5, 120 + 31 * i, 125 + 29 * i) for i in range(23)]
    scaled = 0
    for box, got in zip(boxes, Crops(40).of([data] * 23, boxes, [(1000, 800)] * 23).numpy(), strict=True):
        mean, ratio = difference(got, by_torch(whole, box, 40))
        assert mean < 1, box
        assert ratio > 44, box
        scaled += mean > 0
    assert scaled > 15


@pytest.mark.usefixtures("native_decoder")
def test_a_smaller_jpeg_has_the_box_in_proportion() -> None:
    data = jpeg(picture(120, 100))
    got = Crops(64).of([data], [(20, 30, 100, 40)], [(200, 160)]).numpy()
    np.testing.assert_array_equal(got[0], by_torch(pixels_of(data), (10, 23, 50, 30), 64))


@pytest.mark.usefixtures("native_decoder")
@pytest.mark.parametrize(
    "box", [(0, 0, 0, 50), (0, 0, 50, 0), (51, 0, 50, 50), (0, 60, 50, 61), (65535, 0, 1, 1), (0, 0, 101, 50)]
)
@pytest.mark.parametrize("kind", ["jpeg", "raw"])
def test_boxes_outside_of_their_image_are_an_error(box: Box, kind: str) -> None:
    data = jpeg(picture(120, 100))
    with pytest.raises(ValueError, match="lies outside"):
        Crops(64).of([data if kind == "jpeg" else pixels_of(data)], [box], [(100, 120)])


@pytest.mark.usefixtures("native_decoder")
def test_corrupt_jpegs_never_reach_beyond_their_crop() -> None:
    rng = np.random.default_rng(0)
    good = jpeg(picture(96, 96))
    expected = by_torch(pixels_of(good), (5, 6, 80, 41), 50)
    for _ in range(300):
        bad = good[: rng.integers(2, len(good) + 1)].copy()
        bad[rng.integers(0, len(bad), rng.integers(1, 20))] = rng.integers(0, 256)
        try:
            got = Crops(50).of([good, bad, good], [(5, 6, 80, 41)] * 3, [(96, 96)] * 3).numpy()
        except ValueError:
            continue
        np.testing.assert_array_equal(got[0], expected)
        np.testing.assert_array_equal(got[2], expected)


def test_a_substitute_of_another_size_has_its_box_in_proportion() -> None:
    """In place of a corrupt image: of the same size it is the same box."""
    boxes = np.array([(10, 20, 30, 40), (10, 20, 30, 40), (10, 20, 64, 64), (70, 0, 30, 90)], np.uint16)
    sizes = np.array([(100, 100), (100, 100), (100, 120), (100, 90)])
    others = np.array([(100, 100), (170, 70), (64, 176), (20, 30)])
    expected = [(10, 20, 30, 40), (20, 10, 30, 40), (0, 40, 64, 64), (0, 0, 20, 30)]
    assert moved(boxes, sizes, others).tolist() == [list(box) for box in expected]


# --- the loader


@pytest.fixture(params=["compiled", "DALI and torch", "both"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """By cpu.c, as without a compiler, and as on a GPU, where DALI and the host's threads decode."""
    if request.param == "DALI and torch":
        turn_native_off(monkeypatch)
    elif native.decoder() == "none":
        pytest.skip("needs the compiled code and its libjpeg")
    if request.param == "both":
        monkeypatch.setattr(decoders, "needs_dali", lambda device: True)
    return str(request.param)


def training(split: Split, **more: Any) -> list[Batch]:
    how: dict[str, Any] = {"batch": 16, "crop": 56, "scale": (0.08, 1.0), "dtype": torch.uint8, **more}
    return list(Loader.training(split, **how))


def whole_image(split: Split, sample: int) -> NDArray[np.uint8]:
    (data,) = split.read(np.array([sample]))
    return np.array(data) if data.ndim == 3 else pixels_of(data)


@pytest.mark.parametrize("encoding", ["jpeg", "raw", "mixed"])
def test_images_are_those_of_the_rows(encoding: str, way: str, request: pytest.FixtureRequest) -> None:
    """The compiled code's and torch's bytes are torch's; DALI's are 0.2 grey levels away in the mean, 56 dB."""
    split = ShardSet(request.getfixturevalue(f"{encoding}_shards")).split("train")
    made, expected, mirrored = [], [], 0
    for batch in training(split):
        for image, sample, box, mirror in zip(
            batch.images, batch.rows.samples.tolist(), batch.rows.crop.tolist(), batch.rows.mirror, strict=True
        ):
            by = by_torch(whole_image(split, sample), box, 56)
            made.append(np.asarray(image.permute(1, 2, 0)))
            expected.append(by[:, ::-1] if mirror else by)
            mirrored += bool(mirror)
    assert len(made) == len(split) > mirrored > 0
    if way == "compiled" or encoding == "raw":
        assert np.array_equal(made, expected)
    for one, other in zip(made, expected, strict=True):
        mean, ratio = difference(one, other)
        assert mean < 1
        assert ratio > 38
    mean, ratio = difference(np.array(made), np.array(expected))
    assert mean < 0.5
    assert ratio > 50


def test_pillow_agrees(raw_shards: Path) -> None:
    """Its weights are finer: one grey level at most, here and there."""
    split = ShardSet(raw_shards).split("train")
    for batch in training(split):
        upright = batch.images.permute(0, 2, 3, 1).numpy()
        upright = np.where(batch.rows.mirror[:, None, None, None], upright[:, :, ::-1], upright)
        for image, sample, box in zip(upright, batch.rows.samples.tolist(), batch.rows.crop.tolist(), strict=True):
            apart = np.abs(image.astype(int) - by_pillow(whole_image(split, sample), box, 56))
            assert apart.max() <= 1
            assert apart.mean() < 0.3


@pytest.fixture(params=["full", "full_raw"])
def shaped(request: pytest.FixtureRequest) -> Split:
    """A split whose images keep their shape: JPEGs of 96 px and more, or pixels of 60 to 260 a side."""
    return ShardSet(request.getfixturevalue(f"{request.param}_shards")).split("train")


def check_images(split: Split, batches: list[Batch], crop: int) -> set[tuple[int, int]]:
    """That they are the plan's boxes of their images; returns the boxes' sizes. DALI's may differ by grey levels."""
    sizes = set()
    for batch in batches:
        images = batch.images.permute(0, 2, 3, 1).numpy()
        for image, sample, box, mirror in zip(
            images, batch.rows.samples.tolist(), batch.rows.crop.tolist(), batch.rows.mirror, strict=True
        ):
            expected = by_torch(whole_image(split, sample), box, crop)
            mean, _ = difference(image, expected[:, ::-1] if mirror else expected)
            assert mean < 0.8
            sizes.add((box[2], box[3]))
    assert sum(len(batch.rows.samples) for batch in batches) == len(split)
    return sizes


def test_images_of_any_shape(shaped: Split, way: str) -> None:
    """Random crops resized and not; of an evaluation, the shorter side to 64 and the centre."""
    assert len(check_images(shaped, training(shaped), 56)) > 40
    fixed = training(shaped, scale=None)
    assert check_images(shaped, fixed, 56) == {(56, 56)}
    assert max(batch.rows.crop[:, :2].max() for batch in fixed) > 32  # beyond the smallest images
    evaluation = list(Loader.evaluation(shaped, crop=56, batch=16, dtype=torch.uint8))
    check_images(shaped, evaluation, 56)
    for batch in evaluation:
        for (height, width), (top, left, *shape) in zip(
            shaped.sizes[batch.rows.samples].tolist(), batch.rows.crop.tolist(), strict=True
        ):
            side = round(min(height, width) * 56 / 64)
            assert shape == [side, side]
            assert (top, left) == ((height - side) // 2, (width - side) // 2)
    with pytest.raises(InputError, match="larger than the stored images"):
        training(shaped, scale=None, crop=int(shaped.sizes.min()) + 1)


@pytest.mark.gpu
@pytest.mark.parametrize("encoding", ["jpeg", "mixed"])
def test_on_a_gpu(encoding: str, request: pytest.FixtureRequest) -> None:
    """nvJPEG's pixels differ by a few grey levels, see test_gpu.py."""
    split = ShardSet(request.getfixturevalue(f"{encoding}_shards")).split("train")
    for cpu, gpu in zip(training(split), training(split, device="cuda"), strict=True):
        ours, theirs = np.argsort(cpu.rows.samples), np.argsort(gpu.rows.samples)
        assert np.array_equal(cpu.rows.crop[ours], gpu.rows.crop[theirs])
        assert (cpu.images[ours].float() - gpu.images.cpu()[theirs].float()).abs().mean() < 3


def images_by_sample(batches: list[Batch]) -> dict[int, bytes]:
    return {
        sample: image.numpy().tobytes()
        for batch in batches
        for sample, image in zip(batch.rows.samples.tolist(), batch.images, strict=True)
    }


@pytest.mark.usefixtures("native_decoder")
def test_the_stream_is_the_same_on_any_ranks_and_threads_and_after_a_resume(mixed_shards: Path) -> None:
    split = ShardSet(mixed_shards).split("train")
    alone = training(split, threads=1, dtype=torch.float32)
    whole = [images_by_sample([batch]) for batch in alone]
    for world in (2, 4):
        ranks = [
            training(split, rank=rank, world_size=world, threads=1 + rank % 3, dtype=torch.float32)
            for rank in range(world)
        ]
        for step, expected in enumerate(whole):
            assert images_by_sample([rank[step] for rank in ranks]) == expected
    for step in range(len(whole)):
        rest = training(split, first_step=step, threads=3, dtype=torch.float32)
        assert [images_by_sample([batch]) for batch in rest] == whole[step:]


def test_evaluation_resizes_when_it_is_asked_to(raw_shards: Path) -> None:
    """The central box of the stored squares, 96 px: 56 of 64 are 84 of 96."""
    split = ShardSet(raw_shards).split("train")
    (batch, *_) = Loader.evaluation(split, batch=8, crop=56, resize=64, dtype=torch.uint8)
    assert batch.rows.crop.tolist() == [[6, 6, 84, 84]] * 8
    for image, sample in zip(batch.images, batch.rows.samples.tolist(), strict=True):
        expected = by_torch(whole_image(split, sample), (6, 6, 84, 84), 56)
        np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), expected)


def test_crops_may_be_larger_than_the_images_only_when_they_are_resized(raw_shards: Path) -> None:
    split = ShardSet(raw_shards).split("train")
    assert training(split, crop=150)[0].images.shape == (15, 3, 150, 150)
    for wrong in ({"scale": None, "crop": 150}, {"crop": 150, "crops": False}):
        with pytest.raises(InputError, match=r"crop 150 is larger than the stored images \(96 px\)"):
            training(split, **wrong)
    ranges: dict[str, Any] = {"scale": [(0.5, 0.1), (0, 1), (0.1, 1.5), 0.5], "ratio": [(2, 1), (0, 1), 1]}
    for name, one in [(name, one) for name, wrong_ones in ranges.items() for one in wrong_ones]:
        with pytest.raises(InputError, match="is no range of"):
            training(split, **{name: one})
    with pytest.raises(InputError, match="resize 50 is smaller than the crop"):
        Loader.evaluation(split, crop=56, resize=50)
    assert not Boxes(96, 56).are_resized
