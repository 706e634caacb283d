"""Every layout gives the same classes, keys, labels and bytes; which layout a folder is taken for."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from alexnet_fast.errors import InputError
from alexnet_fast.sharding.sources import find_images
from tests.sharding.sources.layouts import (
    BUILDERS,
    CLASSES,
    NAMES,
    TEST_LABELS,
    TRAIN,
    VAL_LABELS,
    Photos,
    build,
    class_tars,
    contents,
    everything,
    jpeg,
    make_kaggle,
    some,
    tar,
    write_files,
)

IN_ORDER_OF_NAMES = [form for form in BUILDERS if not form.startswith("parquet")]


@pytest.mark.parametrize("form", BUILDERS)
def test_every_form_gives_the_same_classes_keys_labels_and_bytes(form: str, tmp_path: Path, photos: Photos) -> None:
    source = find_images(build(form, tmp_path, photos))
    assert source.classes == CLASSES
    assert source.names == dict(zip(CLASSES, NAMES, strict=True))
    assert list(source.splits) == ["train", "val", "test"]

    train = {f"{name[:9]}/{name[:-5]}": CLASSES.index(name[:9]) for name in TRAIN}
    val = {f"{CLASSES[label]}/{name[:-5]}": label for name, label in VAL_LABELS.items()}
    test = {f"unlabelled/{name[:-5]}": -1 for name in TEST_LABELS}
    if form == "ILSVRC-2010":
        test = {f"{CLASSES[label]}/{name[:-5]}": label for name, label in TEST_LABELS.items()}
    for split, expected in {"train": train, "val": val, "test": test}.items():
        images = source.splits[split]
        assert len(images) == len(expected)
        assert {image.key: image.label for image in images} == expected
        assert images.labels.tolist() == [image.label for image in images]
        wanted = {key: photos[f"{key.partition('/')[2]}.JPEG"] for key in expected}
        assert contents(source, split) == wanted


@pytest.mark.parametrize("form", IN_ORDER_OF_NAMES)
def test_the_order_is_that_of_class_folders(form: str, tmp_path: Path, photos: Photos) -> None:
    expected = find_images(build("folders", tmp_path / "folders", photos))
    source = find_images(build(form, tmp_path / "other", photos))
    for split in ("train", "val"):
        assert [i.key for i in everything(source.splits[split])] == [i.key for i in everything(expected.splits[split])]


def test_a_tar_between_class_folders_does_not_make_another_layout(tmp_path: Path) -> None:
    for number, data in enumerate([b"not a tar", gzip.compress(b"a"), tar({"a.jpg": b"a"})]):
        root = write_files(tmp_path / str(number), {"cat/1.jpg": b"1", "dog/2.jpg": b"2", "backup.tar": data})
        assert find_images(root).classes == ["cat", "dog"]


def test_val_sorted_by_the_user_needs_no_labels(tmp_path: Path, photos: Photos) -> None:
    val = {f"val/{CLASSES[label]}/{name}": photos[name] for name, label in VAL_LABELS.items()}
    make_kaggle(tmp_path / "kaggle", photos)
    kaggle = tmp_path / "kaggle" / "ILSVRC" / "Data" / "CLS-LOC"
    for path in (kaggle / "val").iterdir():
        path.unlink()
    write_files(kaggle, val)
    official = {
        "ILSVRC2012_img_train.tar": tar(class_tars(photos)),
        "ILSVRC2012_img_val.tar": tar(some(photos, "_val_")),
    }
    for root in (tmp_path / "kaggle", write_files(tmp_path / "official", official | val)):
        images = find_images(root).splits["val"]
        assert {image.name: image.label for image in images} == VAL_LABELS


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("folders", "{src} is a file. This layout takes a folder of class folders, or of train/ and val/."),
        ("ilsvrc", "{src} is a file. This layout takes the folder of the official archives."),
        ("kaggle", "{src} has no ILSVRC/Data/CLS-LOC/train/. Name the folder that Kaggle's archive unpacks to."),
        ("parquet", "{src} has no .parquet files, nor has its data/. Name the folder that holds them."),
        ("webdataset", "{src} holds no .tar files. This layout takes a folder of WebDataset tars."),
        ("whole", "{src} is not a tar archive. Copy or download it again, or move it away."),
    ],
)
def test_a_forced_layout_that_does_not_fit(layout: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(jpeg(0))
    with pytest.raises(InputError) as error:
        find_images(path, layout)
    assert str(error.value) == message.format(src=path)
