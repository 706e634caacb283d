"""What find_images lists, in which order, under which keys; and what it refuses, in which words."""

from pathlib import Path

import numpy as np
import pytest

from alexnet_fast.errors import InputError
from alexnet_fast.sharding.listing import Entry, Image, Images, Listing
from alexnet_fast.sharding.sources import find_images


def make(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def names(images: Images) -> list[str]:
    return [image.path for image in images]


def test_train_and_val(tmp_path: Path) -> None:
    make(
        tmp_path,
        "train/b/2.jpg",
        "train/b/1.jpg",
        "train/a/3.jpg",
        "val/b/9.jpg",
        "notes.txt",
    )
    source = find_images(tmp_path)
    assert source.classes == ["a", "b"]
    assert list(source.splits) == ["train", "val"]
    assert names(source.splits["train"]) == ["train/a/3.jpg", "train/b/1.jpg", "train/b/2.jpg"]
    assert [image.label for image in source.splits["train"]] == [0, 1, 1]
    assert [image.key for image in source.splits["train"]] == ["a/3", "b/1", "b/2"]
    assert list(source.splits["val"]) == [Image("val/b", "9.jpg", label=1, key="b/9")]


def test_a_flat_test_split_has_no_labels(tmp_path: Path) -> None:
    source = find_images(make(tmp_path, "train/a/1.jpg", "test/2.jpg", "test/1.jpg"))
    assert list(source.splits["test"]) == [
        Image("test", "1.jpg", label=-1, key="unlabelled/1"),
        Image("test", "2.jpg", label=-1, key="unlabelled/2"),
    ]


def test_a_test_split_of_class_folders_has_labels(tmp_path: Path) -> None:
    source = find_images(make(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "test/b/1.jpg"))
    assert list(source.splits["test"]) == [Image("test/b", "1.jpg", label=1, key="b/1")]


def test_names_of_classes(tmp_path: Path) -> None:
    make(tmp_path, "n01440764/1.jpg", "n01443537/1.jpg")
    (tmp_path / "words.txt").write_text("n01440764\ttench, Tinca tinca\nn00001740\tentity\n\nn01443537\n")
    assert find_images(tmp_path).names == {"n01440764": "tench, Tinca tinca", "n00001740": "entity"}


def test_train_alone(tmp_path: Path) -> None:
    source = find_images(make(tmp_path, "train/a/1.jpg"))
    assert list(source.splits) == ["train"]
    assert names(source.splits["train"]) == ["train/a/1.jpg"]


def test_class_folders_without_splits(tmp_path: Path) -> None:
    source = find_images(make(tmp_path, "cat/1.jpg", "Dog/deep/er/2.png", "dog/1"))
    assert source.classes == ["Dog", "cat", "dog"]  # code points, as sorted() and torchvision do
    assert list(source.splits) == ["train"]
    assert names(source.splits["train"]) == ["Dog/deep/er/2.png", "cat/1.jpg", "dog/1"]


def test_hidden_files_and_folders_are_ignored(tmp_path: Path) -> None:
    make(tmp_path, "a/1.jpg", "a/.DS_Store", "a/.ipynb_checkpoints/1.jpg", "a/x/.git/y/1.jpg", ".cache/1.jpg")
    source = find_images(tmp_path)
    assert source.classes == ["a"]
    assert names(source.splits["train"]) == ["a/1.jpg"]


def test_a_hidden_parent_of_src_hides_nothing(tmp_path: Path) -> None:
    source = find_images(make(tmp_path / ".data" / "set", "a/1.jpg"))
    assert [image.key for image in source.splits["train"]] == ["a/1"]


def test_odd_names_give_unique_plain_keys(tmp_path: Path) -> None:
    make(
        tmp_path,
        *("a b/x.y.z.jpg", "a b/x_y_z.jpg", "a b/x y z.png", "a_b/x.jpg", "a_b/x.png", "a.b/x.jpg"),
        *(
            "ünï/çé 1.jpg",
            "ünï/日本.jpg",
            "ünï/中国.jpg",
            "ünï/-.jpg",
            f"long/{'n' * 200}.jpg",
            f"{'c' * 200}/1.jpg",
        ),
        *("s/sample-00000001.jpeg", "s/sample-00000001.jpg", "s/sub/1.jpg", "s/sub_1.jpg"),
    )
    images = find_images(tmp_path).splits["train"]
    assert len(images) == 16
    assert len({image.key for image in images}) == 16
    for image in images:
        assert image.key.isascii()
        assert not set(image.key) & set(". \t\n:*?\\")
        assert image.key.count("/") == 1
        assert len(f"{image.key}.jpg") <= 100  # the name field of a tar header


def test_a_key_is_not_taken_twice_by_a_file_of_the_substitute_name(tmp_path: Path) -> None:
    source = find_images(make(tmp_path, "s/sample-00000001.JPEG", "s/sample-00000001.jpg"))
    assert [image.key for image in source.splits["train"]] == ["s/sample-00000001", "s/sample-00000001_"]


def listed() -> Images:
    listing = Listing(["a", "b", "c"])
    for label, files in enumerate((["1.jpg"], ["2.png", "2.jpg"], ["3.jpg"])):
        listing.add_class(label, [Entry(f"folder-{label}", file) for file in files])
    listing.add_class(-1, [Entry("test", "4.jpg")])
    return listing.images()


def test_selected_images_keep_their_labels_and_keys() -> None:
    images = listed()
    everything = list(images)
    assert [image.key for image in everything] == ["a/1", "b/2", "b/sample-00000001", "c/3", "unlabelled/4"]
    rows = np.array([4, 2, 0])
    assert list(images.select(rows)) == images.take(rows) == [everything[row] for row in (4, 2, 0)]
    assert images[-1] == everything[4]
    with pytest.raises(IndexError):
        images[5]


def test_relabelled_images_keep_their_keys() -> None:
    images = listed().relabel(np.array([-1, 1, 0], np.int32))
    assert [(image.label, image.key) for image in images] == [
        (1, "b/2"),
        (1, "b/sample-00000001"),
        (0, "c/3"),
        (-1, "unlabelled/4"),
    ]


def test_blocks() -> None:
    listing = Listing(["a"])
    for block, count in enumerate((2, 1, 3)):
        listing.add_block(block, [(0, Entry("t", f"{block}-{row}")) for row in range(count)])
    images = listing.images()
    assert images.blocks.tolist() == [0, 2, 3, 6]
    assert images.select(np.array([0, 3, 5])).blocks.tolist() == [0, 1, 3]
    assert listed().blocks.tolist() == [0, 1, 2, 3, 4, 5]


def test_a_fingerprint_changes_with_everything_that_the_stored_bytes_depend_on() -> None:
    def one(name: str = "1", file: str = "t", offset: int = 0, size: int = 9, label: int = 0, first: str = "a") -> str:
        listing = Listing([first, "b"])
        listing.add_class(label, [Entry(file, name, offset, size)])
        return listing.images().fingerprint()

    changed = [one(name="2"), one(file="u"), one(offset=1), one(size=8), one(label=1), one(first="c")]
    assert one() == one()
    assert len({one(), *changed}) == 7


NO_LAYOUT = (
    " has none of the known layouts: class folders, the official archives of ILSVRC-2012 and 2010, Kaggle's folders, "
    "tars of one class each, parquet files or WebDataset tars. --layout forces one."
)


@pytest.mark.parametrize(
    ("files", "src", "message"),
    [
        (
            ["a/1.jpg"],
            "nowhere",
            "{src} does not exist. --src takes a folder of images, or of ImageNet's archives.",
        ),
        (["file.jpg"], "file.jpg", "{src}" + NO_LAYOUT),
        (["s/1.jpg"], "s", "{src}" + NO_LAYOUT),
        (["s/test/a/1.jpg"], "s", "{src} has test/ but no train/. Name the folder that holds both."),
        (
            ["s/train/a/1.jpg", "s/test/c/1.jpg"],
            "s",
            "{src}/test has class folders that train/ lacks: c. Name them alike.",
        ),
        (["s/val/a/1.jpg"], "s", "{src} has val/ but no train/. Name the folder that holds both."),
        (
            ["s/train/1.jpg", "s/val/a/1.jpg"],
            "s",
            "{src}/train holds no class folders. Expected {src}/train/<class>/<image files>.",
        ),
        (
            ["s/train/a/1.jpg", "s/val/a/1.jpg", "s/val/c/1.jpg", "s/val/b/1.jpg"],
            "s",
            "{src}/val has class folders that train/ lacks: b, c. Name them alike.",
        ),
        (
            ["s/train/a/1.jpg", "s/val/1.jpg"],
            "s",
            "{src}/val holds no class folders. Sort its images into {src}/val/<class>/.",
        ),
        (
            ["s/train/a/.keep"],
            "s",
            "the class folders of {src}/train hold no files. Put images in {src}/train/<class>/.",
        ),
        (
            ["s/train/a/1.jpg", "s/val/a/.keep"],
            "s",
            "the class folders of {src}/val hold no files. Put images in {src}/val/<class>/.",
        ),
    ],
)
def test_what_is_refused(tmp_path: Path, files: list[str], src: str, message: str) -> None:
    make(tmp_path, *files)
    with pytest.raises(InputError) as error:
        find_images(tmp_path / src)
    assert str(error.value) == message.format(src=tmp_path / src)


def test_forced_class_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        find_images(make(tmp_path, "1.jpg"), "folders")
    assert str(error.value) == f"{tmp_path} holds no class folders. Expected {tmp_path}/<class>/<image files>."
