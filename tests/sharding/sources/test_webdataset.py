"""Tars of samples, WebDataset's and our own: classes and labels, and what is refused of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet_fast.errors import InputError
from alexnet_fast.sharding.sources import find_images
from tests.sharding.sources.layouts import (
    COMPRESSED,
    TRAIN,
    Change,
    Photos,
    check_refused,
    contents,
    packed,
    tar,
    unlink_all,
    write_files,
)


def test_webdataset_labels_without_wnids_are_numbers(tmp_path: Path, photos: Photos) -> None:
    members = {
        "a/1.cls": b"2\n",
        "a/1.PNG": b"x",
        "a/__key__.json": b"",
        "n01440764_2.jpg": b"y",
        "n01440764_2.cls": b"0",
    }
    source = find_images(write_files(tmp_path, {"train.tar": tar(members)}))
    assert source.classes == ["n01440764", "1", "2"]
    assert contents(source, "train") == {"2/1": b"x", "n01440764/n01440764_2": b"y"}


def test_labels_beyond_all_classes_are_refused(tmp_path: Path, photos: Photos) -> None:
    """Classes are counted in memory."""
    members = {"0.jpg": photos[TRAIN[0]], "0.cls": b"999999999"}
    write_files(tmp_path, {"train-0.tar": tar(members)})
    with pytest.raises(InputError, match="the label 999,999,999; at most 1,000,000 classes"):
        find_images(tmp_path)


REFUSED: list[tuple[str, Change, str]] = [
    (
        "WebDataset",
        lambda src: unlink_all(src.glob("*train*")),
        "{src} has files of val and test, but none of train. Put them in one folder.",
    ),
    (
        "WebDataset",
        lambda src: (src / "imagenet1k-test-00.tar").write_bytes(tar({"a/1.cls": b"0", "a/1.npy": b"", "2.cls": b"1"})),
        "the sample a/1 in {src}/imagenet1k-test-00.tar has no image (jpg, jpeg, png or webp); it has cls, npy.",
    ),
    (
        "WebDataset",
        lambda src: (src / "imagenet1k-train-0001.tar").write_bytes(tar({"1.jpg": b"0", "1.json": b""})),
        "the sample 1 in {src}/imagenet1k-train-0001.tar has no label (cls); it has jpg, json.",
    ),
    (
        "WebDataset",
        lambda src: (src / "imagenet1k-train-0001.tar").write_bytes(tar({"1.jpg": b"0", "1.cls": b"cat"})),
        "1.cls in {src}/imagenet1k-train-0001.tar is not a class index: b'cat'.",
    ),
    (
        "WebDataset",
        lambda src: (src / "imagenet1k-train-0001.tar").write_bytes(tar({"1.jpg": b"0", "1.cls": b"-1"})),
        "{src} has an image of train with the label -1. Those of its 4 classes count from 0; -1, for no class, is for "
        "test alone.",
    ),
    (
        "shard set",
        lambda src: (src / "test-000000.tar").write_bytes(tar({"1.jpg": b"0", "1.cls": b"4"})),
        "{src} has an image of test with the label 4. Those of its 4 classes count from 0; -1, for no class, is for "
        "test alone.",
    ),
    (
        "WebDataset",
        lambda src: (src / "imagenet1k-train-0001.tar").write_bytes(tar({})),
        "{src}/imagenet1k-train-0001.tar holds no samples. Copy or download it again, or move it away.",
    ),
    ("WebDataset", lambda src: packed(src / "imagenet1k-test-00.tar"), "{src}/imagenet1k-test-00.tar" + COMPRESSED),
]


@pytest.mark.parametrize(("form", "change", "message"), REFUSED)
def test_what_is_refused(form: str, change: Change, message: str, tmp_path: Path, photos: Photos) -> None:
    check_refused(form, change, message, tmp_path, photos)
