"""Parquet files: their rows, classes and labels, and what is refused of them."""

from __future__ import annotations

import sys
from pathlib import Path

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
    hash_of,
    make_parquet,
    table,
    unlink_all,
)


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


def test_labels_that_are_no_numbers_are_refused(tmp_path: Path, photos: Photos) -> None:
    rows = table([(photos[TRAIN[0]], "a.jpg", 0)])
    pq.write_table(rows.set_column(1, "label", pa.array(["cat"])), tmp_path / "train.parquet")
    with pytest.raises(InputError, match="labels that are no whole numbers"):
        find_images(tmp_path)


REFUSED: list[tuple[str, Change, str]] = [
    (
        "parquet",
        lambda src: unlink_all(src.glob("data/train*")),
        "{src} has files of val and test, but none of train. Put them in one folder.",
    ),
    (
        "parquet",
        lambda src: pq.write_table(pa.table({"pixels": [1]}), src / "data/test-00000-of-00001.parquet"),
        "{src}/data/test-00000-of-00001.parquet has no column `image` of bytes and path. Expected a table like "
        "imagenet-1k's.",
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
