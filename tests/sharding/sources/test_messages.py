"""What a new user reads who gives the wrong folder, or one in a form that is not read: what, where, and what to do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from alexnet_fast.errors import InputError
from alexnet_fast.sharding.sources import find_images
from tests.sharding.sources.layouts import tar, write_files

EXPECTED = " Expected {src}/<class>/<image files>, ImageNet's archives, parquet files or WebDataset tars."
AS_FILES = "are not read: write their images as files into class folders."
FLAT = tar({"1.jpg": b"1", "2.jpg": b"2"})


@pytest.mark.parametrize(
    ("files", "src", "message"),
    [
        ([".DS_Store"], "", "{src} is empty. --src takes a folder of images, or of ImageNet's archives."),
        (["a.pdf", "readme.txt"], "", "{src} holds a.pdf, readme.txt: no layout that is recognised." + EXPECTED),
        (
            ["train.zip", "val.zip"],
            "",
            "{src} holds train.zip, val.zip: no layout that is recognised. train.zip: unpack it first, into a folder "
            "of its own." + EXPECTED,
        ),
        (
            ["a.zip"],
            "a.zip",
            "{src} is a file. --src takes a folder, or a tar. a.zip: unpack it first, into a folder of",
        ),
        (["a.jpg"], "a.jpg", "{src} is a file. --src takes a folder, or a tar."),
        (["a.csv"], "a.csv", "{src} is a file. --src takes the folder of the images, and --labels this table of their"),
        (["a.parquet"], "a.parquet", "{src} is one table. --src takes the folder that holds it."),
        (["a.tfrecord"], "", f"no layout that is recognised. a.tfrecord: TFRecords {AS_FILES}"),
        (["train-00000-of-00002"], "", "holds no class folders. Expected {src}/<class>/<image files>. If it is"),
        (["train-00000-of-00002"], "", f"--labels FILE. train-00000-of-00002: TFRecords {AS_FILES}"),
        (["data.mdb", "lock.mdb"], "", "data.mdb: LMDB is not read: write its images as files into class folders."),
        (["mnist.npz"], "", f"mnist.npz: arrays {AS_FILES}"),
        (
            ["train/data-00000-of-00001.arrow", "dataset_dict.json"],
            "",
            "{src}/train holds no class folders. Expected {src}/train/<class>/<image files>. data-00000-of-00001.arrow"
            ": Arrow files of Hugging Face's save_to_disk are not read: save it with to_parquet.",
        ),
        (
            ["cat/1.mp4", "dog/1.mp4"],
            "",
            "the class folders of {src} hold no images, going by the names of their files. Put images in {src}/<class>/"
            ". 1.mp4: videos are not read: write their pictures as files into class folders.",
        ),
        (
            ["a/train/cat/1.jpg", "b/train/cat/1.jpg"],
            "",
            "{src} holds a, b, with folders of splits in them (train). Give one of them as --src; or, where these are "
            "the classes, move the images to {src}/train/<class>/ and so on.",
        ),
        (["images.tar"], "", "images.tar has no class folders in it: unpack it, and give --labels FILE, a table."),
        (
            ["cat.tar", "dog.tar"],
            "",
            "{src} holds cat.tar, dog.tar: no layout that is recognised. --layout whole takes",
        ),
    ],
)
def test_the_first_message(files: list[str], src: str, message: str, tmp_path: Path) -> None:
    write_files(tmp_path, {name: FLAT if name.endswith(".tar") else b"" for name in files})
    with pytest.raises(InputError) as error:
        find_images(tmp_path / src)
    assert message.format(src=tmp_path / src) in str(error.value)


@pytest.mark.parametrize("folder", [".", "cat"])
def test_a_folder_that_may_not_be_read(folder: str, tmp_path: Path) -> None:
    src = write_files(tmp_path / "source", {"cat/1.jpg": b"", "dog/1.jpg": b""})
    (src / folder).chmod(0)
    is_root = os.geteuid() == 0
    try:
        if is_root:  # who may read all
            os.seteuid(65534)
        with pytest.raises(
            InputError, match=r"cannot be read \(Permission denied\)\. Make it readable, or move it away"
        ):
            find_images(src)
    finally:
        if is_root:
            os.seteuid(0)
        (src / folder).chmod(0o755)


def test_a_url() -> None:
    with pytest.raises(InputError, match="--src takes a folder of this machine, not a URL: copy or mount"):
        find_images(Path("s3://bucket/imagenet"))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file,label\nx1.jpg,cat\n", "labels.csv names none of them: it begins with x1.jpg, cat."),
        (
            "1.jpg,cat\n2.jpg,cat\n",
            "One table must label all, with a column `split` where they are of several; --labels",
        ),
        ("".join(f"{n}.jpg,what is seen in {n}\n" for n in range(3)), "labels.csv labels 3 of 30."),
        (
            "file,text\n" + "".join(f"{n}.jpg,{n}\n" for n in range(30)),
            "labels.csv has another text for each: captions",
        ),
    ],
)
def test_a_table_that_does_not_fit(table: str, message: str, tmp_path: Path) -> None:
    images = 3 if "1.jpg,cat" in table else 30
    write_files(tmp_path, {f"images/{number}.jpg": b"" for number in range(images)})
    (tmp_path / "labels.csv").write_text(table)
    with pytest.raises(InputError) as error:
        find_images(tmp_path)
    assert message in str(error.value)


def test_a_table_of_other_names(tmp_path: Path) -> None:
    write_files(tmp_path, {"images/1.jpg": b"", "labels.csv": b"file,label\nx1.jpg,cat\n"})
    with pytest.raises(InputError) as error:
        find_images(tmp_path, labels=tmp_path / "labels.csv")
    assert str(error.value) == (
        f"{tmp_path}/labels.csv names none of the images of {tmp_path}: it begins with x1.jpg, cat, and images/1.jpg "
        "is one of the images. One of its columns must hold their names, with or without folders and suffix."
    )
    with pytest.raises(InputError, match="holds no images, going by the names of its files"):
        find_images(write_files(tmp_path / "other", {"a.txt": b""}), labels=tmp_path / "labels.csv")


def test_a_split_that_the_table_contradicts(tmp_path: Path) -> None:
    write_files(tmp_path, {f"train/{number}.jpg": b"" for number in range(2)})
    (tmp_path / "train.csv").write_text("file,label,split\n0.jpg,cat,train\n1.jpg,dog,valid\n")
    with pytest.raises(
        InputError, match=r"train\.csv says that images in .*/train are of the split valid\. Move them, "
    ):
        find_images(tmp_path)
    assert {
        split: len(images) for split, images in find_images(tmp_path, labels=tmp_path / "train.csv").splits.items()
    } == {
        "train": 1,
        "val": 1,
    }
