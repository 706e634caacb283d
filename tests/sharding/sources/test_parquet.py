"""Parquet files: their rows, classes and labels, and what is refused of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alexnet_fast.errors import InputError
from alexnet_fast.sharding.sources import find_images, parquet
from tests.sharding.sources.layouts import (
    TRAIN,
    Change,
    Photos,
    check_refused,
    contents,
    everything,
    hash_of,
    make_parquet,
    table,
    unlink_all,
    write_files,
)

Rows = list[tuple[bytes | None, str | None, int | None]]


def test_parquet_is_listed_in_stored_order_a_block_a_row_group(tmp_path: Path, photos: Photos) -> None:
    train = find_images(make_parquet(tmp_path, photos)).splits["train"]
    assert [image.name for image in train] == sorted(TRAIN, key=hash_of)
    assert train.blocks.tolist() == [0, 3, 6, 7, 10, 12]


def test_parquet_classes_without_wnids_have_the_names_of_the_schema(tmp_path: Path) -> None:
    rows: list[tuple[bytes | None, str | None, int | None]] = [
        (b"1", "x/1.png", 1),
        (b"2", None, 0),
        (b"3", "3.jpg", 3),
    ]
    pq.write_table(table(rows, ["dog", "crane", "cat", "crane"]), tmp_path / "pets.parquet")
    source = find_images(tmp_path)
    assert source.classes == ["dog", "1", "cat", "3"]
    assert source.names == {"1": "crane", "3": "crane"}
    assert contents(source, "train") == {"1/1": b"1", "dog/pets-000001": b"2", "3/3": b"3"}


def test_parquet_without_names_or_test_labels(tmp_path: Path) -> None:
    pq.write_table(table([(b"1", "1.png", 1)]), tmp_path / "train.parquet")
    pq.write_table(table([(b"2", "2.png", None)]).drop_columns("label"), tmp_path / "test.parquet")
    source = find_images(tmp_path)
    assert source.classes == ["0", "1"]
    assert source.names == {}
    assert source.splits["test"][0].label == -1


def test_parquet_files_of_val_need_not_say_the_wnid(tmp_path: Path) -> None:
    pq.write_table(table([(b"1", "n01440764_1.JPEG", 0)], ["tench"]), tmp_path / "train.parquet")
    pq.write_table(table([(b"2", "ILSVRC2012_val_00000001.JPEG", 0)], ["tench"]), tmp_path / "validation.parquet")
    source = find_images(tmp_path)
    assert source.classes == ["n01440764"]
    assert contents(source, "train") == {"n01440764/n01440764_1": b"1"}
    assert contents(source, "val") == {"n01440764/ILSVRC2012_val_00000001": b"2"}


def test_rows_are_read_in_the_order_given(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rows: list[tuple[bytes | None, str | None, int | None]] = [(f"{n}".encode(), None, 0) for n in range(100)]
    rows[50] = (None, "elsewhere.jpg", 0)
    pq.write_table(table(rows), path, row_group_size=40)
    wanted = [3, 1, 2, 39, 40, 79, 95, 0]
    assert list(parquet.read_rows(path, wanted)) == [f"{n}".encode() for n in wanted]
    before, odd, after = parquet.read_rows(path, [49, 50, 51])
    assert (before, after) == (b"49", b"51")
    assert str(odd) == "the row holds no image"


def test_a_damaged_row_group_costs_its_rows_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rows: list[tuple[bytes | None, str | None, int | None]] = [
        (np.random.default_rng(n).bytes(1500), None, 0) for n in range(6)
    ]
    pq.write_table(table(rows), path, row_group_size=2, compression="gzip", use_dictionary=False)
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    assert column.path_in_schema == "image.bytes"
    data = bytearray(path.read_bytes())
    middle = column.data_page_offset + column.total_compressed_size // 2
    data[middle : middle + 20] = bytes(20)
    path.write_bytes(data)
    first, second, third, fourth, *rest = parquet.read_rows(path, list(range(6)))
    assert [first, second, *rest] == [rows[n][0] for n in (0, 1, 4, 5)]
    assert isinstance(third, OSError)
    assert isinstance(fourth, OSError)


def test_rows_stream_with_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    megabyte = np.random.default_rng(0).bytes(1 << 20)
    pages = {"write_batch_size": 1, "compression": "none", "use_dictionary": False}  # a page a row
    pq.write_table(table([(megabyte, None, 0)] * 64), path, **pages)
    before, highest = pa.total_allocated_bytes(), 0
    for data in parquet.read_rows(path, list(range(64))):
        assert data == megabyte
        highest = max(highest, pa.total_allocated_bytes() - before)
    assert 0 < highest < 48 << 20


def test_a_damaged_parquet_file_is_refused(tmp_path: Path, photos: Photos) -> None:
    path = make_parquet(tmp_path, photos) / "data" / "train-00001-of-00002.parquet"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(
        InputError, match=r"train-00001-of-00002\.parquet is not a whole parquet file \(.*Copy or downl"
    ):
        find_images(tmp_path)


def test_parquet_without_its_package(tmp_path: Path, photos: Photos, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(InputError, match=r"takes PyArrow to read: pip install 'alexnet-fast\[parquet\]'$"):
        find_images(make_parquet(tmp_path, photos))


def with_labels(path: Path, labels: pa.Array) -> None:
    rows = table([(f"{path.stem}{n}".encode(), f"{n}.jpg", 0) for n in range(len(labels))])
    pq.write_table(rows.set_column(1, "label", labels), path, row_group_size=2)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_labels_that_are_texts_are_the_names_of_classes(kind: pa.DataType, tmp_path: Path) -> None:
    with_labels(tmp_path / "train.parquet", pa.array(["dog", "cat", " caf\u00e9", "cafe\u0301"]).cast(kind))
    with_labels(tmp_path / "val.parquet", pa.array(["cat", "dog"]).cast(kind))
    with_labels(tmp_path / "test.parquet", pa.array(["dog", None, ""]).cast(kind))
    source = find_images(tmp_path)
    assert source.classes == ["caf\u00e9", "cat", "dog"]
    labels = {split: [image.label for image in images] for split, images in source.splits.items()}
    assert labels == {"train": [2, 1, 0, 0], "val": [1, 2], "test": [2, -1, -1]}
    assert contents(source, "val") == {"cat/0": b"val0", "dog/1": b"val1"}


def test_labels_that_are_texts_of_numbers_are_in_their_order(tmp_path: Path) -> None:
    with_labels(tmp_path / "train.parquet", pa.array(["10", "9", "7"]))
    source = find_images(tmp_path)
    assert (source.classes, [image.label for image in source.splits["train"]]) == (["7", "9", "10"], [2, 1, 0])


@pytest.mark.parametrize(
    ("train", "val", "message"),
    [
        (["cat"], ["bird"], "has images of classes that train lacks: bird"),
        (["cat"], [0], r"the labels of .*train.parquet are texts, those of .*val.parquet numbers"),
        ([[0]], [[0]], "labels that are neither whole numbers nor texts"),
        (["cat", None], ["cat"], "has an image of train with the label -1"),
    ],
)
def test_labels_that_are_refused(train: list[Any], val: list[Any], message: str, tmp_path: Path) -> None:
    with_labels(tmp_path / "train.parquet", pa.array(train))
    with_labels(tmp_path / "val.parquet", pa.array(val))
    with pytest.raises(InputError, match=message):
        find_images(tmp_path)


STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
COLUMNS: dict[str, tuple[pa.Array, dict[str, Any]]] = {
    "img": (pa.array([{"bytes": b"a", "path": "1.png"}, {"bytes": b"b", "path": "2.png"}], STRUCT), {"_type": "Image"}),
    "audio": (pa.array([{"bytes": b"s", "path": ""}] * 2, STRUCT), {"_type": "Audio"}),
    "jpg": (pa.array([b"c", b"d"]), {"_type": "Value", "dtype": "binary"}),
    "id": (pa.array([7, 8]), {"_type": "Value", "dtype": "int64"}),
    "labels": (pa.array([1, 0], pa.uint8()), {"_type": "ClassLabel", "names": ["cat", "dog"]}),
    "fine_label": (pa.array([0, 1]), {"_type": "ClassLabel", "names": ["tabby", "poodle"]}),
    "caption": (pa.array(["x", "y"]), {"_type": "Value", "dtype": "string"}),
}


def make_table(names: list[str], *, features: bool = True) -> pa.Table:
    """Some of COLUMNS; `features`: with what the datasets library writes of them."""
    written = {"info": {"features": {name: COLUMNS[name][1] for name in names}}}
    found = pa.table({name: COLUMNS[name][0] for name in names})
    return found.replace_schema_metadata({"huggingface": json.dumps(written)} if features else {})


@pytest.mark.parametrize(
    ("names", "keys", "classes", "expected"),
    [
        (["img", "labels"], {}, ["cat", "dog"], {"dog/1": b"a", "cat/2": b"b"}),
        (["img", "labels", "caption"], {"label_key": "caption"}, ["x", "y"], {"x/1": b"a", "y/2": b"b"}),
        (["fine_label", "id", "audio", "img"], {}, ["tabby", "poodle"], {"tabby/1": b"a", "poodle/2": b"b"}),
        (["id", "jpg", "labels"], {}, ["cat", "dog"], {"dog/train-000000": b"c", "cat/train-000001": b"d"}),
        (
            ["labels", "img", "fine_label", "jpg"],
            {"image_key": "img", "label_key": "fine_label"},
            ["tabby", "poodle"],
            {"tabby/1": b"a", "poodle/2": b"b"},
        ),
    ],
)
def test_columns_of_image_and_label(
    names: list[str], keys: dict[str, Any], classes: list[str], expected: dict[str, bytes], tmp_path: Path
) -> None:
    pq.write_table(make_table(names), tmp_path / "train.parquet")
    source = find_images(tmp_path, **keys)
    assert source.classes == classes
    assert contents(source, "train") == expected


def test_columns_are_known_by_their_names_where_the_datasets_library_wrote_nothing(tmp_path: Path) -> None:
    pq.write_table(make_table(["id", "img", "fine_label"], features=False), tmp_path / "train.parquet")
    source = find_images(tmp_path)
    assert source.classes == ["0", "1"]
    assert contents(source, "train") == {"0/1": b"a", "1/2": b"b"}


@pytest.mark.parametrize("features", [3, {"labels": 3}, {"labels": {"_type": "ClassLabel", "names": 3}}])
def test_what_is_written_of_columns_may_be_malformed(features: Any, tmp_path: Path) -> None:
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(make_table(["img", "labels"]).replace_schema_metadata(metadata), tmp_path / "train.parquet")
    assert find_images(tmp_path).classes == ["0", "1"]


CHOOSE = "Choose with --image-key and --label-key."


@pytest.mark.parametrize(
    ("names", "keys", "message"),
    [
        (
            ["img", "labels", "fine_label"],
            {},
            "several columns that may be the label: labels, fine_label; its columns are img (image), labels (class "
            f"label), fine_label (class label). {CHOOSE}",
        ),
        (["img", "id"], {}, f"no column of labels; its columns are img (image), id (int64). {CHOOSE}"),
        (
            ["audio", "id"],
            {},
            "no column of images; its columns are audio (audio), id (int64). A table must hold the bytes of the "
            "images' files: names and URLs alone are not read.",
        ),
        (
            ["img", "labels", "audio"],
            {"label_key": "audio"},
            "labels that are neither whole numbers nor texts; its columns are img (image), labels (class label), audio "
            f"(audio). {CHOOSE}",
        ),
        (["img", "id"], {"label_key": "cat"}, f"no column cat; its columns are img (image), id (int64). {CHOOSE}"),
        (["img"], {"image_key": "jpg"}, f"no column of images jpg; its columns are img (image). {CHOOSE}"),
    ],
)
def test_tables_without_clear_columns_are_refused(
    names: list[str], keys: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "train.parquet"
    pq.write_table(make_table(names), path)
    with pytest.raises(InputError) as error:
        find_images(tmp_path, **keys)
    assert str(error.value) == f"{path} has {message}"


FORMS = {
    "converted": ["default/train/0000.parquet", "default/train/0001.parquet", "default/validation/0000.parquet"],
    "one configuration": ["plain_text/train-00000-of-00002.parquet", "plain_text/train-00001-of-00002.parquet"],
    "split folders": ["train/0000.parquet", "train/0001.parquet", "test/0000.parquet"],
    "partial": ["default/partial-train/0000.parquet", "default/partial-train/0001.parquet"],
}


@pytest.mark.parametrize("form", FORMS)
def test_tables_in_folders(form: str, tmp_path: Path) -> None:
    write_files(tmp_path, {"README.md": b"", ".cache/x.json": b""})
    for number, name in enumerate(FORMS[form]):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        rows: Rows = [(f"{number}".encode(), None, 0)]
        pq.write_table(table(rows, ["cat"]), tmp_path / name)
    source = find_images(tmp_path)
    assert source.classes == ["cat"]
    others = {"converted": ["val"], "split folders": ["test"]}.get(form, [])
    assert list(source.splits) == ["train", *others]
    assert list(contents(source, "train").values()) == [b"0", b"1"]
    assert [list(contents(source, split).values()) for split in others] == [[b"2"]] * len(others)
    assert len(source.notes) == (form in ("partial", "converted"))
    if form == "converted":
        assert source.notes == ["taken for splits: default/validation/0000.parquet as val"]


def test_several_tables_are_refused(tmp_path: Path) -> None:
    for name in ("big/train/0000.parquet", "small/train/0000.parquet"):
        (tmp_path / name).parent.mkdir(parents=True)
        pq.write_table(make_table(["img", "labels"]), tmp_path / name)
    with pytest.raises(InputError, match=f"several tables: big, small. Name the folder of one, --src {tmp_path}/big"):
        find_images(tmp_path)
    assert find_images(tmp_path / "big").classes == ["cat", "dog"]


def test_class_folders_beside_a_table_without_images(tmp_path: Path) -> None:
    write_files(tmp_path, {"cat/1.jpg": b"1", "dog/2.jpg": b"2"})
    for folder in (tmp_path, tmp_path / "cat"):
        pq.write_table(make_table(["caption"]), folder / "metadata.parquet")
        assert find_images(tmp_path).classes == ["cat", "dog"]


def test_rows_of_a_table_keep_their_column(tmp_path: Path) -> None:
    pq.write_table(make_table(["labels", "img"]), tmp_path / "train.parquet")
    assert [image.offset for image in everything(find_images(tmp_path).splits["train"])] == [0, 1]
    assert list(parquet.read_rows(tmp_path / "train.parquet", [1, 0], 1)) == [b"b", b"a"]


REFUSED: list[tuple[str, Change, str]] = [
    (
        "parquet",
        lambda src: unlink_all(src.glob("data/train*")),
        "{src} has files of val and test, but none of train. Put them in one folder.",
    ),
    (
        "parquet",
        lambda src: pq.write_table(pa.table({"pixels": [1]}), src / "data/test-00000-of-00001.parquet"),
        "{src}/data/test-00000-of-00001.parquet has no column of images; its columns are pixels (int64). A table "
        "must hold the bytes of the images' files: names and URLs alone are not read.",
    ),
    (
        "parquet",
        lambda src: pq.write_table(table([(b"1", "1.jpg", -1)]), src / "data/validation-00000-of-00001.parquet"),
        "{src} has an image of val with the label -1. Those of its 4 classes count from 0; -1, for no class, is for "
        "test alone.",
    ),
]


@pytest.mark.parametrize(("form", "change", "message"), REFUSED)
def test_what_is_refused(form: str, change: Change, message: str, tmp_path: Path, photos: Photos) -> None:
    check_refused(form, change, message, tmp_path, photos)
