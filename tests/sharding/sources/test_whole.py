"""Releases without splits: one tar a class, or one tar of such tars."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from alexnet_fast.errors import InputError
from alexnet_fast.sharding.sources import find_images
from tests.sharding.sources.layouts import CLASSES, COMPRESSED, TRAIN, Photos, class_tars, contents, tar, write_files

WHOLE: dict[str, Callable[[Photos], dict[str, bytes]]] = {
    "a tar of tars": lambda photos: {"fall11_whole.tar": tar(class_tars(photos))},
    "a tar of tars in a folder": lambda photos: {"a/fall11_whole.tar": tar(class_tars(photos))},
    "under another name": lambda photos: {"imagenet.tar": tar(class_tars(photos, "images/"))},
    "beside others": lambda photos: {"fall11_whole.tar": tar(class_tars(photos)), "tools.tar": tar({"a.py": b""})},
    "class tars": class_tars,
    "class tars in a folder": lambda photos: {f"all/{name}": data for name, data in class_tars(photos).items()},
    "class tars in train": lambda photos: {f"train/{name}": data for name, data in class_tars(photos).items()},
    "a plain tar called compressed": lambda photos: {"winter21_whole.tar.gz": tar(class_tars(photos))},
    "unpacked and packed": lambda photos: {
        "winter21_whole.tar.gz": gzip.compress(tar(class_tars(photos))),
        "winter21_whole.tar": tar(class_tars(photos)),
    },
}


@pytest.mark.parametrize("form", WHOLE)
def test_releases_without_splits(form: str, tmp_path: Path, photos: Photos) -> None:
    files = WHOLE[form](photos) | {"words.txt": b"n01440764\ttench, Tinca tinca\n\n"}
    source = find_images(write_files(tmp_path, files))
    assert source.classes == CLASSES
    assert source.names == {"n01440764": "tench, Tinca tinca"}
    assert list(source.splits) == ["train"]
    assert [image.key for image in source.splits["train"]] == [f"{n[:9]}/{n[:-5]}" for n in sorted(TRAIN)]
    assert contents(source, "train") == {f"{name[:9]}/{name[:-5]}": photos[name] for name in TRAIN}


def test_one_archive_as_src(tmp_path: Path, photos: Photos) -> None:
    write_files(tmp_path, {"fall11_whole.tar": tar(class_tars(photos)), "words.txt": b"n01440764\ttench\n"})
    source = find_images(tmp_path / "fall11_whole.tar")
    assert source.root == tmp_path
    assert source.names == {"n01440764": "tench"}
    assert contents(source, "train") == {f"{name[:9]}/{name[:-5]}": photos[name] for name in TRAIN}


def test_layout_whole_takes_classes_of_any_name(tmp_path: Path, photos: Photos) -> None:
    inner = {"dog.v1.tar": tar({"1.jpg": photos[TRAIN[0]]}), "cat.tar": tar({"1.jpg": photos[TRAIN[1]]})}
    apart = find_images(write_files(tmp_path / "apart", inner), "whole")
    together = find_images(write_files(tmp_path / "together", {"pets.tar": tar(inner)}), "whole")
    for source in (apart, together):
        assert source.classes == ["cat", "dog.v1"]
        assert contents(source, "train") == {"cat/1": photos[TRAIN[1]], "dog_v1/1": photos[TRAIN[0]]}
    with pytest.raises(InputError, match="--layout whole takes each tar for a class, cat the first"):
        find_images(tmp_path / "apart")


@pytest.mark.parametrize("names", [("train", "val"), ("Training",)])
def test_layout_whole_takes_no_splits_for_classes(names: tuple[str, ...], tmp_path: Path, photos: Photos) -> None:
    members = tar({f"{name[:9]}/{name}": photos[name] for name in TRAIN})
    write_files(tmp_path, {f"{name}.tar": members for name in names})
    with pytest.raises(InputError) as error:
        find_images(tmp_path, "whole")
    assert str(error.value) == (
        f"the tars of {tmp_path} have the names of splits, not of classes: {', '.join(f'{n}.tar' for n in names)}. "
        "--layout tars reads tars of class folders, --layout webdataset those of samples."
    )
    assert list(find_images(tmp_path, "tars").splits) == ["train", "val"][: len(names)]


def test_compressed_releases_are_refused(tmp_path: Path, photos: Photos) -> None:
    write_files(tmp_path, {"winter21_whole.tar.gz": gzip.compress(tar(class_tars(photos)))})
    for src in (tmp_path, tmp_path / "winter21_whole.tar.gz"):
        with pytest.raises(InputError) as error:
            find_images(src)
        assert str(error.value) == f"{tmp_path}/winter21_whole.tar.gz" + COMPRESSED


def test_layout_whole_of_a_folder_without_tars(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"holds no tars\. This layout takes one tar a class, or one tar that holds them"
    ):
        find_images(tmp_path, "whole")
