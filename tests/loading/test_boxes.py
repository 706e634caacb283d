"""Random resized crops against torchvision's, and crops of images of any shape."""

from __future__ import annotations

import hashlib
import math
import random

import numpy as np
import pytest
from numpy.typing import NDArray

from alexnet_fast.loading.boxes import Boxes
from alexnet_fast.loading.plan import Rows, evaluation_rows, training_rows

SHAPES = np.array([(256, 256), (256, 341), (500, 375), (333, 500), (64, 200), (1000, 300)])


def drawn(boxes: Boxes, samples: NDArray[np.int64], seed: int = 0) -> NDArray[np.int64]:
    return boxes.completed(boxes.random(np.random.default_rng(seed), samples)).astype(np.int64)


def torchvision_s(
    height: int, width: int, count: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> NDArray[np.int64]:
    rng = random.Random(0)
    return np.array([get_params(height, width, scale, ratio, rng) for _ in range(count)])


def get_params(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], rng: random.Random
) -> tuple[int, int, int, int]:
    """`RandomResizedCrop.get_params` of torchvision 0.28 line by line, with Python's random numbers for torch's."""
    area = height * width
    log_ratio = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(10):
        target_area = area * rng.uniform(*scale)
        aspect_ratio = math.exp(rng.uniform(*log_ratio))
        w = round(math.sqrt(target_area * aspect_ratio))
        h = round(math.sqrt(target_area / aspect_ratio))
        if 0 < w <= width and 0 < h <= height:
            return rng.randint(0, height - h), rng.randint(0, width - w), h, w
    in_ratio = float(width) / float(height)
    if in_ratio < min(ratio):
        w = width
        h = round(w / min(ratio))
    elif in_ratio > max(ratio):
        h = height
        w = round(h * max(ratio))
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


def properties(boxes: NDArray[np.int64], height: int, width: int) -> NDArray[np.float64]:
    """Of each box the area, the ratio of its sides, and its place in the free space."""
    top, left, tall, wide = boxes.T
    free = np.maximum([height - tall, width - wide], 1)
    return np.stack([tall * wide / (height * width), wide / tall, top / free[0], left / free[1]])


def distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Kolmogorov and Smirnov's: the largest difference between the shares below any value."""
    values = np.concatenate([a, b])
    shares = [np.searchsorted(np.sort(one), values, "right") / len(one) for one in (a, b)]
    return float(np.abs(shares[0] - shares[1]).max())


@pytest.mark.parametrize(("height", "width"), SHAPES.tolist())
@pytest.mark.parametrize(
    ("scale", "ratio"), [((0.08, 1.0), (3 / 4, 4 / 3)), ((0.35, 1.0), (3 / 4, 4 / 3)), ((0.5, 0.6), (0.9, 2.0))]
)
def test_random_boxes_are_distributed_as_torchvision_s(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> None:
    count = 5000
    boxes = Boxes(np.array([(height, width)]), 224, scale, ratio)
    ours = drawn(boxes, np.zeros(count, np.int64))
    theirs = torchvision_s(height, width, count, scale, ratio)
    for mine, other in zip(properties(ours, height, width), properties(theirs, height, width), strict=True):
        assert distance(mine, other) < 1.95 * math.sqrt(2 / count)  # by chance in one of 1,000
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, 2:] > 0).all()
    assert (ours[:, :2] + ours[:, 2:] <= (height, width)).all()


@pytest.mark.parametrize(("height", "width"), [(10, 400), (400, 10), (7, 333), (9, 9), (1, 50)])
def test_where_no_box_fits_it_is_torchvision_s_central_one(height: int, width: int) -> None:
    scale, ratio = ((0.9, 1.0), (2.0, 3.0)) if height == width else ((0.08, 1.0), (3 / 4, 4 / 3))
    ours = drawn(Boxes(np.array([height, width]), 224, scale, ratio), np.arange(50))
    assert np.array_equal(np.unique(ours, axis=0), np.unique(torchvision_s(height, width, 50, scale, ratio), axis=0))
    assert len(np.unique(ours, axis=0)) == 1


def test_every_box_is_of_its_own_image() -> None:
    """In an epoch drawn in more than one go, of images of all sizes."""
    sizes = np.random.default_rng(1).integers(20, 600, (150_000, 2))
    samples = np.random.default_rng(2).permutation(len(sizes))
    boxes = drawn(Boxes(sizes, 224, (0.08, 1.0)), samples)
    of = sizes[samples]
    assert (boxes[:, :2] + boxes[:, 2:] <= of).all()
    assert (boxes[:, 2:] > 0).all()
    assert len(np.unique(boxes, axis=0)) > 145_000  # of the smallest images some are alike


def test_fixed_crops_reach_every_place_of_images_of_any_shape() -> None:
    sizes = np.array([(64, 64), (64, 70), (69, 66)])
    samples = np.arange(6000) % 3
    boxes = drawn(Boxes(sizes, 64), samples)
    assert (boxes[:, 2:] == 64).all()
    for sample, (height, width) in enumerate(sizes.tolist()):
        corners, counts = np.unique(boxes[samples == sample, :2], axis=0, return_counts=True)
        assert len(corners) == (height - 63) * (width - 63)
        assert corners.max(axis=0).tolist() == [height - 64, width - 64]
        assert counts.min() > 0.5 * counts.mean()


def test_images_of_one_size_have_the_crops_of_squares() -> None:
    one, each = Boxes(256, 224), Boxes(np.full((100, 2), 256), 224)
    assert np.array_equal(drawn(one, np.arange(100)), drawn(each, np.arange(100)))


@pytest.mark.parametrize(
    ("size", "crop", "resize", "expected"),
    [
        ((256, 256), 224, None, (16, 16, 224, 224)),
        ((256, 341), 224, 256, (16, 58, 224, 224)),
        ((512, 600), 224, 256, (32, 76, 448, 448)),
        ((500, 375), 224, 256, (86, 23, 328, 328)),  # 375 * 224 / 256 = 328.1
        ((128, 200), 224, 256, (8, 44, 112, 112)),
        ((300, 100), 64, 64, (100, 0, 100, 100)),
        ((1, 9), 64, 1000, (0, 4, 1, 1)),
    ],
)
def test_central_boxes_by_hand(size: tuple[int, int], crop: int, resize: int | None, expected: tuple[int, ...]) -> None:
    (rows,) = evaluation_rows(3, 8, boxes=Boxes(np.array([size] * 3), crop, resize=resize))
    assert rows.crop.tolist() == [list(expected)] * 3
    central = Boxes(np.array([size] * 3), crop, (0.1, 1), resize=resize)
    (rows,) = training_rows(3, 8, 0, boxes=central, colour_std=0, crops=False)
    assert rows.crop.tolist() == [list(expected)] * 3


def stream(world: int, **more: object) -> list[list[Rows]]:
    sizes = np.random.default_rng(1).integers(70, 200, (500, 2))
    boxes = Boxes(sizes, 64, (0.08, 1.0))
    how: dict[str, object] = {"boxes": boxes, "colour_std": 0.1, "world_size": world, **more}
    return [list(training_rows(500, 64, 5, rank=rank, **how)) for rank in range(world)]  # type: ignore[arg-type]


def test_random_boxes_are_the_same_on_any_number_of_ranks_and_after_a_resume() -> None:
    (alone,) = stream(1, epochs=range(2))
    for world in (2, 4):
        for parts, whole in zip(zip(*stream(world, epochs=range(2)), strict=True), alone, strict=True):
            assert np.array_equal(np.concatenate([part.crop for part in parts]), whole.crop)
    for step in range(8):
        (rest,) = stream(1, epochs=range(1, 2), first_step=step)
        assert [row.crop.tobytes() for row in rest] == [row.crop.tobytes() for row in alone[8 + step :]]


def test_random_boxes_never_change_between_versions() -> None:
    (rows,) = stream(1)
    crops = np.concatenate([row.crop for row in rows])
    assert crops[:2].tolist() == [[6, 50, 72, 57], [0, 10, 79, 102]]
    assert hashlib.sha256(crops.tobytes()).hexdigest()[:16] == "51ab690f3f2d4568"
