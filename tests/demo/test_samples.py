"""The demo's sample images: the same bytes for the same seed, and too hard for a linear model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from alexnet_fast.demo.samples import CLASSES, draw_samples

TRAIN, VAL, SIZE = 100, 20, 64


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("samples")
    draw_samples(out, train_per_class=TRAIN, val_per_class=VAL, size=SIZE)
    return out


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.jpg")}


def test_each_split_has_a_folder_a_class_in_label_order(drawn: Path) -> None:
    for split, count in (("train", TRAIN), ("val", VAL)):
        folders = sorted((drawn / split).iterdir())
        assert tuple(folder.name for folder in folders) == CLASSES
        assert all(len(list(folder.glob("*.jpg"))) == count for folder in folders)


def test_images_are_rgb_of_the_stated_sizes_and_not_all_square(drawn: Path) -> None:
    sizes = set()
    for path in drawn.rglob("*.jpg"):
        with Image.open(path) as image:
            assert image.mode == "RGB"
            sizes.add(image.size)
    assert all(SIZE <= n <= 1.3 * SIZE for size in sizes for n in size)
    assert any(width > height for width, height in sizes)
    assert any(width < height for width, height in sizes)


def test_a_smaller_set_is_the_beginning_of_a_larger_one(drawn: Path, tmp_path: Path) -> None:
    draw_samples(tmp_path, train_per_class=2, val_per_class=1, size=SIZE)
    few, all_ = contents(tmp_path), contents(drawn)
    assert len(few) == 3 * len(CLASSES)
    assert all(all_[name] == data for name, data in few.items())


def test_no_image_comes_twice(drawn: Path, tmp_path: Path) -> None:
    draw_samples(tmp_path, train_per_class=1, val_per_class=1, size=SIZE, seed=1)
    images = [*contents(drawn).values(), *contents(tmp_path).values()]
    assert len(set(images)) == len(images)


@pytest.mark.parametrize("ignored", range(3), ids=["colour", "texture", "shape"])
def test_two_of_colour_texture_and_shape_do_not_tell_the_class(ignored: int) -> None:
    known = {tuple(word for i, word in enumerate(name.split("_")) if i != ignored) for name in CLASSES}
    assert len(known) / len(CLASSES) <= 0.7


def test_a_linear_model_of_the_pixels_fails(drawn: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    (images, labels), (val_images, val_labels) = pixels(drawn / "train"), pixels(drawn / "val")
    model = nn.Linear(images.shape[1], len(CLASSES))
    optimiser = torch.optim.LBFGS(model.parameters(), max_iter=150, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = nn.functional.cross_entropy(model(images), labels) + 0.015 * model.weight.square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    torch.set_num_threads(threads)
    assert accuracy(model, images, labels) > 0.5  # it did learn
    assert 0.1 < accuracy(model, val_images, val_labels) < 0.4  # chance is 0.1


def pixels(folder: Path) -> tuple[Tensor, Tensor]:
    """The images of a split at 32x32, flattened to -0.5..0.5, and their labels."""
    paths = sorted(folder.rglob("*.jpg"))
    images = np.stack([np.asarray(Image.open(path).resize((32, 32))) for path in paths])
    labels = [CLASSES.index(path.parent.name) for path in paths]
    return torch.from_numpy(images).flatten(1) / 255 - 0.5, torch.tensor(labels)


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    return float((model(images).argmax(1) == labels).float().mean())
