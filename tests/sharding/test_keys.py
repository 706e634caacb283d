"""The keys of samples and the ids of classes: what every reader takes, and what is one class."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import pytest

from alexnet_fast.errors import InputError
from alexnet_fast.sharding.keys import by_class
from alexnet_fast.sharding.listing import Entry, Listing
from alexnet_fast.sharding.sources import find_images
from tests.sharding.sources.layouts import everything, tar, write_files

NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
CLASSES = [
    "n01440764",
    "French horn",
    "a.b",
    "-1",
    "кошка",
    "собака",
    "_",
    "__",
    "__a__",
    ".a",
    "x_",
    "日本",
    "é" * 200,
]
FILES = ["n01440764_10026.JPEG", "a b.jpg", "1.2.jpg", "фото0.jpg", "фото1.jpg", "____.jpg", "__a__.png", "_", "é" * 99]


def keys(classes: list[str], files: list[str]) -> list[str]:
    listing = Listing(classes)
    for label in range(len(classes)):
        listing.add_class(label, [Entry(str(label), file) for file in files])
    return [image.key for image in listing.images()]


def test_keys_of_ordinary_names_are_those_names() -> None:
    assert keys(["n01440764", "French horn", "a.b", "-1"], ["n01440764_9.JPEG", "a b.jpg", "1.2.jpg"])[:6] == [
        "n01440764/1_2",
        "n01440764/a_b",
        "n01440764/n01440764_9",
        "French_horn/1_2",
        "French_horn/a_b",
        "French_horn/n01440764_9",
    ]


def test_keys_of_other_names() -> None:
    assert keys(["кошка", "_____", "_a"], ["фото1.jpg"]) == ["x_____/x____1", "x______/x____1", "x_a/x____1"]


def test_no_key_is_one_that_a_reader_leaves_out_or_cuts() -> None:
    found = keys(CLASSES, FILES)
    assert len(set(found)) == len(CLASSES) * len(FILES)
    for key in found:
        assert re.fullmatch(r"[A-Za-z0-9-][A-Za-z0-9_-]*/[A-Za-z0-9-][A-Za-z0-9_-]*", key)
        assert len(f"{key}.cls") <= 100  # room in a USTAR header


def test_keys_differ_where_the_case_of_letters_is_ignored() -> None:
    """As on disks of macOS and Windows, where one of two such files of an unpacked tar would be lost."""
    found = keys(["Cat", "cat", "CAT"], ["IMG_1.JPG", "img_1.jpg", "Img_2.jpg"])
    assert len({key.lower() for key in found}) == len(found) == 9
    assert found[:4] == ["Cat/IMG_1", "Cat/Img_2", "Cat/sample-00000002", "cat_/IMG_1"]


@pytest.mark.parametrize("packed", [False, True])
def test_two_forms_of_unicode_are_one_class(packed: bool, tmp_path: Path) -> None:
    """In the order of the class ids, whichever form a name has."""
    assert NFC != NFD
    if packed:
        write_files(tmp_path, {f"{name}.tar": tar({"1.jpg": b"1"}) for name in (NFD, "cafz")})
        assert find_images(tmp_path, "whole").classes == ["cafz", NFC]
        return
    write_files(tmp_path, {f"train/{NFD}/1.jpg": b"1", f"val/{NFC}/2.jpg": b"2", "train/cafz/3.jpg": b"3"})
    (tmp_path / "words.txt").write_text(f"{NFD}\tcoffee\n", encoding="utf-8")
    source = find_images(tmp_path)
    assert (source.classes, source.names) == (["cafz", NFC], {NFC: "coffee"})
    assert [(image.path, image.label) for image in everything(source.splits["train"])] == [
        ("train/cafz/3.jpg", 0),
        (f"train/{NFD}/1.jpg", 1),
    ]
    assert [(image.path, image.key) for image in everything(source.splits["val"])] == [(f"val/{NFC}/2.jpg", "caf_/2")]


def test_the_only_class_may_have_either_form(tmp_path: Path) -> None:
    assert find_images(write_files(tmp_path, {f"{NFD}/1.jpg": b"1"})).classes == [NFC]


def test_one_class_twice_in_a_folder_is_refused(tmp_path: Path) -> None:
    write_files(tmp_path, {f"train/{NFD}/1.jpg": b"1", f"train/{NFC}/2.jpg": b"2"})
    with pytest.raises(InputError) as error:
        find_images(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}/train has the class {NFC} twice: its name is written in two forms of Unicode, which look alike "
        r"('cafe\u0301' and 'caf\xe9'). Move the images of one to the other."
    )


def test_the_last_of_one_name_counts_as_for_tar() -> None:
    assert by_class("here", [("a", 1), ("b", 2), ("a", 3)]) == {"a": 3, "b": 2}
