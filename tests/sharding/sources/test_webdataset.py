"""Tars of samples, WebDataset's and our own: classes and labels, and what is refused of them."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

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
    everything,
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


def make_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    """A tar that may hold a name twice."""
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves tars open
def test_a_change_of_key_begins_a_sample(tmp_path: Path) -> None:
    """As webdataset's own reader has it, also in the case of extensions, in keys with dots and after metadata."""
    import webdataset

    members = [
        *(("000000.JPG", b"red"), ("000000.cls", b"0"), ("000001.jpg", b"green"), ("000001.Cls", b"1")),
        *(("README", b""), ("000000.png", b"blue"), ("000000.cls", b"2"), ("__meta__/about.json", b"{}")),
        *(("a.b/1.jpg", b"grey"), ("a.b/1.cls", b"1"), ("__b/__1.webp", b"white"), ("__b/__1.cls", b"0")),
    ]
    path = make_tar(tmp_path / "train-0.tar", members)
    theirs = webdataset.WebDataset(str(path), shardshuffle=False).to_tuple("jpg;png;webp", "cls")
    source = find_images(tmp_path)
    ours = zip(contents(source, "train").values(), source.splits["train"].labels.tolist(), strict=True)
    assert sorted((data, label) for data, label in ours) == sorted((data, int(label)) for data, label in theirs)
    assert len(source.splits["train"]) == 5


IMG2DATASET = {
    "1.jpg": b"a",
    "1.json": json.dumps({"class": "dog", "index": 1, "text": "7", "nothing": None, "url": "u"}).encode(),
    "1.txt": b"a dog\n",
    "2.jpg": b"b",
    "2.json": json.dumps({"class": "caf\u00e9", "index": 0, "text": "-1", "nothing": 0.5, "url": "v"}).encode(),
    "2.txt": b"a caf\xc3\xa9",
}


@pytest.mark.parametrize(
    ("key", "classes", "labels"),
    [
        ("class", ["café", "dog"], {b"a": 1, b"b": 0}),
        ("index", ["0", "1"], {b"a": 1, b"b": 0}),
        ("txt", ["a café", "a dog"], {b"a": 1, b"b": 0}),
        ("TXT", ["a café", "a dog"], {b"a": 1, b"b": 0}),
    ],
)
def test_the_label_is_where_label_key_says(
    key: str, classes: list[str], labels: dict[bytes, int], tmp_path: Path
) -> None:
    write_files(tmp_path, {"00000.tar": tar(IMG2DATASET), "00000.parquet": b"", "00000_stats.json": b"{}"})
    source = find_images(tmp_path, label_key=key)
    assert source.classes == classes
    images = everything(source.splits["train"])
    found = contents(source, "train")
    assert {found[image.key]: image.label for image in images} == labels


def test_names_of_classes_in_cls(tmp_path: Path) -> None:
    test = {"3.jpg": b"c", "3.cls": b"-1"}
    train = {"1.jpg": b"a", "1.cls": b"cat", "2.jpg": b"b", "2.cls": b"10"}
    write_files(tmp_path, {"train.tar": tar(train), "test.tar": tar(test)})
    source = find_images(tmp_path, label_key="cls")
    assert source.classes == ["10", "cat"]
    assert contents(source, "train") == {"10/2": b"b", "cat/1": b"a"}
    assert contents(source, "test") == {"unlabelled/3": b"c"}
    write_files(tmp_path, {"val.tar": tar({"3.jpg": b"c", "3.cls": b"dog"})})
    with pytest.raises(InputError, match="has images of val of classes that train lacks: dog"):
        find_images(tmp_path, label_key="cls")


def test_the_image_is_what_image_key_says(tmp_path: Path) -> None:
    members = {"1.jpg": b"a", "1.mask.png": b"m", "1.png": b"p", "1.cls": b"0"}
    write_files(tmp_path, {"train.tar": tar(members)})
    for key in ("jpg", "mask.png", "PNG"):
        assert list(contents(find_images(tmp_path, image_key=key), "train").values()) == [members[f"1.{key.lower()}"]]


@pytest.mark.parametrize(
    ("members", "keys", "message"),
    [
        (
            list(IMG2DATASET.items()),
            {},
            "the sample 1 in {tar} has no label (cls); it has jpg, json, txt. Choose one of these or of its json's "
            "fields class, index, text, url with --label-key.",
        ),
        (
            list(IMG2DATASET.items()),
            {"label_key": "nothing"},
            "the sample 1 in {tar} has no label (nothing); it has jpg, json, txt. Choose one of these or of its json's "
            "fields class, index, text, url with --label-key.",
        ),
        (
            list(IMG2DATASET.items())[3:],
            {"label_key": "nothing"},
            "the sample 2 in {tar} has as nothing 0.5, which is neither a class index nor a class name.",
        ),
        (
            [("1.jpg", b""), ("1.json", b"{"), ("1.txt", b"")],
            {"label_key": "class"},
            "the sample 1 in {tar} has a json that cannot be read (Expecting property name enclosed in double quotes: "
            "line 1 column 2 (char 1)).",
        ),
        (
            [("a/1.jpg", b""), ("a/1.cls", b"0"), ("a/1.JPG", b"")],
            {},
            "{tar} has a/1.JPG twice in one sample, so which is meant is not known; two samples that follow each other "
            "must have different keys. Pack it again.",
        ),
        (
            [("1.jpg", b""), ("2.jpg", b""), ("1.cls", b"0"), ("2.cls", b"0")],
            {},
            "the sample 1 in {tar} is in several places, here with jpg: its members must follow each other. Pack the "
            "tar again.",
        ),
        (
            [("cat.1.jpg", b""), ("cat.1.cls", b"0")],
            {},
            "the sample cat in {tar} has no image (jpg, jpeg, png or webp); it has 1.cls, 1.jpg (a key ends at the "
            "first dot of the file's name). Choose one with --image-key.",
        ),
        (
            [("1.jpg", b""), ("1.png", b""), ("1.cls", b"0")],
            {},
            "the sample 1 in {tar} has several images: jpg, png. Choose one with --image-key.",
        ),
    ],
)
def test_samples_that_are_refused(
    members: list[tuple[str, bytes]], keys: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = make_tar(tmp_path / "train.tar", members)
    with pytest.raises(InputError) as error:
        find_images(tmp_path, **keys)
    assert str(error.value) == message.format(tar=path)


def test_keys_are_for_layouts_that_have_some(tmp_path: Path) -> None:
    write_files(tmp_path, {"cat/1.jpg": b"", "dog/1.jpg": b""})
    with pytest.raises(InputError, match=r"but .* is read as folders. Leave them out, or name the layout"):
        find_images(tmp_path, label_key="label")


REFUSED: list[tuple[str, Change, str]] = [
    (
        "WebDataset",
        lambda src: unlink_all(src.glob("*train*")),
        "{src} has files of val and test, but none of train. Put them in one folder.",
    ),
    (
        "WebDataset",
        lambda src: (src / "imagenet1k-test-00.tar").write_bytes(tar({"a/1.cls": b"0", "a/1.npy": b"", "2.cls": b"1"})),
        "the sample a/1 in {src}/imagenet1k-test-00.tar has no image (jpg, jpeg, png or webp); it has cls, "
        "npy. Choose one with --image-key.",
    ),
    (
        "WebDataset",
        lambda src: (src / "imagenet1k-train-0001.tar").write_bytes(tar({"1.jpg": b"0", "1.json": b""})),
        "the sample 1 in {src}/imagenet1k-train-0001.tar has no label (cls); it has jpg, json. Choose one of "
        "these with --label-key.",
    ),
    (
        "WebDataset",
        lambda src: (src / "imagenet1k-train-0001.tar").write_bytes(tar({"1.jpg": b"0", "1.cls": b"cat"})),
        "the sample 1 in {src}/imagenet1k-train-0001.tar has in 1.cls b'cat', which is not a class index. --label-key "
        "cls takes it for the name of a class.",
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
