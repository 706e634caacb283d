"""The official archives of ILSVRC: what is refused of them, and their MD5 sums."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import pytest

from alexnet_fast.errors import InputError
from alexnet_fast.sharding.sources import find_images, ilsvrc
from tests.sharding.sources.layouts import (
    COMPRESSED,
    Change,
    Photos,
    check_refused,
    devkit,
    make_ilsvrc2012,
    numbers,
    packed,
    tar,
)


def test_archived_images_are_shown_with_their_archive(tmp_path: Path, photos: Photos) -> None:
    source = find_images(make_ilsvrc2012(tmp_path, photos))
    assert source.splits["train"][0].path == "ILSVRC2012_img_train.tar/n01440764_10026.JPEG"


KIT = "ILSVRC2012_devkit_t12.tar.gz"


def truth_file(src: Path) -> Path:
    return src / "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"


def test_md5_sums(tmp_path: Path, photos: Photos, monkeypatch: pytest.MonkeyPatch) -> None:
    make_ilsvrc2012(tmp_path, photos)
    sums = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in tmp_path.iterdir()}
    monkeypatch.setattr(ilsvrc, "MD5", {name: sums[name] for name in ilsvrc.MD5})
    every = ["ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", KIT]
    assert ilsvrc.check_md5(tmp_path) == every
    with (tmp_path / KIT).open("ab") as file:
        file.write(b"x")
    found = hashlib.md5((tmp_path / KIT).read_bytes()).hexdigest()
    with pytest.raises(InputError) as error:
        ilsvrc.check_md5(tmp_path)
    assert str(error.value) == (
        f"{tmp_path / KIT} is damaged: its MD5 sum is {found}, not the published {sums[KIT]}. Download it again."
    )
    (tmp_path / KIT).unlink()
    assert ilsvrc.check_md5(tmp_path) == every[:2]


def test_md5_sums_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        ilsvrc.check_md5(tmp_path)
    assert str(error.value) == (
        f"{tmp_path} has no archive whose MD5 sum is published. These have one: ILSVRC2012_img_train.tar, "
        "ILSVRC2012_img_val.tar, ILSVRC2012_devkit_t12.tar.gz."
    )


REFUSED: list[tuple[str, Change, str]] = [
    (
        "ILSVRC-2012",
        lambda src: packed(src / "ILSVRC2012_img_train.tar"),
        "{src}/ILSVRC2012_img_train.tar" + COMPRESSED,
    ),
    ("ILSVRC-2012", lambda src: packed(src / "ILSVRC2012_img_val.tar"), "{src}/ILSVRC2012_img_val.tar" + COMPRESSED),
    (
        "ILSVRC-2012",
        lambda src: (src / "ILSVRC2012_img_val.tar").write_bytes(b"<html>not found</html>"),
        "{src}/ILSVRC2012_img_val.tar is not a tar archive. Copy or download it again, or move it away.",
    ),
    (
        "ILSVRC-2012",
        lambda src: (src / "ILSVRC2012_img_val.tar").write_bytes(b""),
        "{src}/ILSVRC2012_img_val.tar is empty. Copy or download it again.",
    ),
    (
        "ILSVRC-2012",
        lambda src: (src / "ILSVRC2012_img_val.tar").write_bytes(tar({})),
        "{src}/ILSVRC2012_img_val.tar holds no images. Copy or download it again.",
    ),
    (
        "ILSVRC-2012",
        lambda src: (src / "ILSVRC2012_img_train.tar").write_bytes(tar({"n01440764/1.JPEG": b""})),
        "{src}/ILSVRC2012_img_train.tar holds no tars. Expected one tar a class inside it, <class>.tar.",
    ),
    (
        "ILSVRC-2012",
        lambda src: (src / "ILSVRC2012_img_train.tar").write_bytes(tar({"n01440764.tar": tar({})})),
        "the archives of {src} hold no images. Copy or download them again.",
    ),
    (
        "ILSVRC-2012",
        lambda src: (src / "ILSVRC2012_img_train.tar").unlink(),
        "{src} has no training images of ILSVRC. Put ILSVRC2012_img_train.tar there, or class folders in train/.",
    ),
    (
        "ILSVRC-2012",
        lambda src: (src / "ILSVRC2010_images_train.tar").touch(),
        "{src} has both ILSVRC2010_images_train.tar and ILSVRC2012_img_train.tar. Move one away: train comes from one "
        "archive.",
    ),
    (
        "ILSVRC-2012",
        lambda src: (src / KIT).unlink(),
        "{src}/ILSVRC2012_img_val.tar does not say its images' classes, and the development kit that does is missing. "
        "Put ILSVRC2012_devkit_t12.tar.gz, or for 2010 ILSVRC2010_devkit-1.0.tar.gz, in {src}.",
    ),
    (
        "ILSVRC-2012",
        lambda src: (src / KIT).write_bytes(gzip.compress(tar({"a": b""}))),
        "{src}/ILSVRC2012_devkit_t12.tar.gz holds no data/meta.mat. Download the development kit again.",
    ),
    (
        "ILSVRC-2012",
        lambda src: (src / KIT).write_bytes((src / KIT).read_bytes()[:-200]),
        "{src}/ILSVRC2012_devkit_t12.tar.gz cannot be read (Compressed file ended before the end-of-stream marker was "
        "reached). Download the development kit again.",
    ),
    (
        "ILSVRC-2012",
        lambda src: (src / KIT).write_bytes(gzip.compress(tar(devkit(2012) | {"x/data/meta.mat": b"damaged" * 100}))),
        "meta.mat of {src}/ILSVRC2012_devkit_t12.tar.gz cannot be read (it is no MATLAB file of version 5). "
        "Download the development kit again.",
    ),
    (
        "ILSVRC-2012 unpacked",
        lambda src: (src / "ILSVRC2012_devkit_t12/data/meta.mat").unlink(),
        "{src}/val does not say its images' classes, and the development kit that does is missing. "
        "Put ILSVRC2012_devkit_t12.tar.gz, or for 2010 ILSVRC2010_devkit-1.0.tar.gz, in {src}.",
    ),
    (
        "ILSVRC-2012 unpacked",
        lambda src: (src / "val/ILSVRC2012_val_00000002.JPEG").unlink(),
        "{src}/val holds 4 images, but the development kit labels 5. One of the two is not whole, or of another year: "
        "copy or download it again.",
    ),
    (
        "ILSVRC-2012 unpacked",
        lambda src: truth_file(src).write_bytes(numbers([1, 2, 3, 4, 5])),
        "the ground truth of val has the class id 5, which meta.mat lacks.",
    ),
    (
        "ILSVRC-2012 unpacked",
        lambda src: truth_file(src).write_bytes(b"1\n2\nthree\n"),
        "the ground truth of val in {src}/ILSVRC2012_devkit_t12/data is not a number a line (invalid literal for int() "
        "with base 10: b'three'). Download it again.",
    ),
    (
        "ILSVRC-2012 with tars in train",
        lambda src: (src / "train/n01484850.tar").unlink(),
        "{src}/ILSVRC2012_img_val.tar has images of 1 classes that train lacks: n01484850. Put the training images of "
        "all classes there, or move it away and use --val-fraction.",
    ),
]


@pytest.mark.parametrize(("form", "change", "message"), REFUSED)
def test_what_is_refused(form: str, change: Change, message: str, tmp_path: Path, photos: Photos) -> None:
    check_refused(form, change, message, tmp_path, photos)
