"""What find_images lists of folders, in which order, under which keys; and what it refuses, in which words."""

from pathlib import Path

import pytest

from alexnet_fast.errors import InputError
from alexnet_fast.sharding.listing import Image, Images
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


NO_TRAIN = " but no train/. Give the folder that holds both; or, to train on it, --src {src}/"
OR_A_TABLE = " Or give a table of file names and labels: --labels FILE."


@pytest.mark.parametrize(
    ("files", "src", "message"),
    [
        (
            ["a/1.jpg"],
            "nowhere",
            "{src} does not exist. --src takes a folder of images, or of ImageNet's archives.",
        ),
        (
            ["a/cat/1.jpg", "a/dog/1.jpg"],
            "a/cat",
            "{src} holds no class folders. Expected {src}/<class>/<image files>."
            " If it is itself the folder of one class, give its parent: --src {src.parent}." + OR_A_TABLE,
        ),
        (["s/test/a/1.jpg"], "s", "{src} has test/" + NO_TRAIN + "test."),
        (
            ["s/train/a/1.jpg", "s/test/c/1.jpg"],
            "s",
            "{src}/test has class folders that train/ lacks: c. Name them alike.",
        ),
        (["s/val/a/1.jpg"], "s", "{src} has val/" + NO_TRAIN + "val."),
        (
            ["s/train/1.jpg", "s/val/a/1.jpg"],
            "s",
            "{src}/train holds no class folders. Expected {src}/train/<class>/<image files>." + OR_A_TABLE,
        ),
        (
            ["s/train/a/1.jpg", "s/val/a/1.jpg", "s/val/c/1.jpg", "s/val/b/1.jpg"],
            "s",
            "{src}/val has class folders that train/ lacks: b, c. Name them alike.",
        ),
        (
            ["s/train/a/1.jpg", "s/val/1.jpg"],
            "s",
            "{src}/val holds no class folders. Sort its images into {src}/val/<class>/, or put a table of their names "
            "and labels beside it.",
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
    assert str(error.value) == (
        f"{tmp_path} holds no class folders. Expected {tmp_path}/<class>/<image files>. If it is itself the folder of "
        f"one class, give its parent: --src {tmp_path.parent}.{OR_A_TABLE}"
    )
