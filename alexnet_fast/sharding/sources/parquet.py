"""Hugging Face's parquet files, as of ILSVRC/imagenet-1k: rows of an image's bytes, its path and its label.

They lie in the folder or its `data/`; or as the hub converts other forms, `<configuration>/<split>/0000.parquet`
(`partial-train`: its first 5 GB). A label is a class index or a text, the class's name. Of imagenet-1k it is the index
in the sorted wnids, -1 in the test set. Paths
end in the wnid: `n01440764_10026_n01440764.JPEG`, `ILSVRC2012_val_00000293_n01440764.JPEG`; the names here go without
it, as everywhere else. Which columns are meant, columns.py finds.
"""

from __future__ import annotations

import os
import re
import sys
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from alexnet_fast.environment import install_command
from alexnet_fast.errors import InputError, descriptor_error
from alexnet_fast.sharding.keys import class_id
from alexnet_fast.sharding.left_out import LeftOut
from alexnet_fast.sharding.limits import MOST_IMAGE_BYTES, UnfitFileError, check_size, open_regular
from alexnet_fast.sharding.listing import TABLE_ROW, Entry, Images, Listing, Source
from alexnet_fast.sharding.sources import folders
from alexnet_fast.sharding.sources.columns import Columns, choose, images_in
from alexnet_fast.sharding.sources.splits import (
    WNID,
    by_split,
    check_labels,
    count_classes,
    in_order,
    split_notes,
    split_of,
    unique_ids,
)
from alexnet_fast.shards.format import UNLABELLED

_SUFFIX = re.compile(rf"_({WNID.pattern})(?=\.\w+$)")
_BATCH = 16
"""Rows decoded at a time: a row group holds 100 to 1,000 images of some 110 kB."""
_BUFFER = 1 << 20
_MOST_LISTED = 256 << 20
"""Bytes of the names and labels of a row group. PyArrow puts up to 1,048,576 rows in one, of some 60 bytes each."""
_ERRORS = (ValueError, OSError, NotImplementedError)
"""Bases of what PyArrow raises on damaged files."""


@dataclass(frozen=True)
class Group:
    """The part of a row group that the listing needs."""

    file: str
    column: int
    first_row: int
    names: list[str]
    labels: list[int]
    wnids: list[str | None]


def fits(src: Path) -> bool:
    """Tables without images are of another layout, where there is one."""
    files = _files(src) if src.is_dir() else []
    used = {src / path.relative_to(src).parts[0] for path in files}
    others = {src / name for name in folders.subfolders(src)} | set(src.glob("*.tar")) if files else set()
    return bool(files) and (others <= used or _may_hold_images(files[0]))


def read(src: Path, image_key: str | None = None, label_key: str | None = None) -> Source:
    """`image_key` and `label_key`: the columns of image and label, where their names and types do not say it.

    Raises InputError when a file is damaged, or is not a table of images.
    """
    files = _files(src) if src.is_dir() else []
    if not files:
        raise InputError(f"{src} has no .parquet files, nor has its data/. Name the folder that holds them.")
    _check_one_table(src, files)
    parts = by_split(src, files, lambda path: "/".join(reversed(path.relative_to(src).parts)))
    chosen = {path: choose(path, _schema(path), image_key, label_key) for path in files}
    first = chosen[parts["train"][0]]
    if first.label is None:
        raise InputError(f"{parts['train'][0]} has no column of labels{first.how_to_choose}")
    _check_one_kind(parts, chosen)
    left_out, texts = LeftOut(), _Texts()
    groups = {
        split: [group for path in part for group in _groups(path, src, chosen[path], texts, left_out)]
        for split, part in parts.items()
    }
    names = [class_id(name) for name in first.names]
    if first.has_texts:
        names, groups = _by_text(src, groups, texts)
    labels = [label for part in groups.values() for group in part for label in group.labels]
    classes = _classes(groups["train"], names, count_classes(src, labels, len(names)))
    for split, part in groups.items():
        check_labels(src, split, [label for group in part for label in group.labels], len(classes))
    called = {number: name for number, name in zip(classes, names, strict=False) if name != number}
    partial = sorted({path.parent for path in files if path.parent.name.startswith("partial-")})
    notes = [f"{folder} holds a part of its split alone: the hub converts the first 5 GB" for folder in partial]
    notes += split_notes({split: [path.relative_to(src).as_posix() for path in part] for split, part in parts.items()})
    images = {split: _images(classes, part, src) for split, part in groups.items()}
    return Source(src, classes, images, called, left_out, notes)


def read_rows(path: Path, rows: list[int], column: int = 0) -> Iterator[bytes | OSError]:
    """The images of some rows, in the order given, with the error where one cannot be read. `column`: its number.

    Streams through the row groups that hold them; little is held in memory when the rows ascend.
    """
    with _open(path) as file:
        starts = _starts(file)
        for group, part in groupby(rows, key=lambda row: _group_of(row, starts)):
            yield from _group_rows(file, group, [row - starts[group] for row in part], column)


def _files(src: Path) -> list[Path]:
    """In the folder, but for those beside a tar of the same name, which img2dataset writes; or in its data/; or in
    folders up to two levels down that hold nothing else."""
    here = [path for path in src.glob("*.parquet") if not path.with_suffix(".tar").exists()]
    return sorted(here) or sorted(src.glob("data/*.parquet")) or _nested(src)


def _nested(src: Path) -> list[Path]:
    """Looks no further than to the first other file: class folders may hold a million images."""
    found: list[Path] = []
    for name in folders.subfolders(src):
        inside = folders.subfolders(src / name)
        for folder in [src / name / inner for inner in inside] or [src / name]:
            files = [entry.name for entry in _until_other_file(folder)]
            if not files or not files[-1].endswith(".parquet"):
                return []
            found += [folder / file for file in files]
    return sorted(found)


def _until_other_file(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Yields the entries of a folder that are not hidden, up to the first that is no parquet file."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith("."):
                yield entry
                if not entry.name.endswith(".parquet"):
                    return


def _check_one_table(src: Path, files: list[Path]) -> None:
    """Raises InputError when the files are of several configurations."""
    used = {path.parent for path in files}
    tables = {folder.parent if folder != src and split_of(folder.name) else folder for folder in used}
    if len(tables) > 1:
        named = ", ".join(path.relative_to(src).as_posix() for path in sorted(tables))
        raise InputError(f"{src} holds several tables: {named}. Name the folder of one, --src {min(tables)}.")


def _may_hold_images(path: Path) -> bool:
    try:
        return bool(images_in(_schema(path)))
    except InputError:  # for `read` to show
        return True


def _schema(path: Path) -> Any:
    with _open(path) as file:
        return file.schema_arrow


def _open(path: Path) -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(f"{path} takes PyArrow to read: {install_command('parquet')}") from error
    try:
        os.close(open_regular(path))
        return pyarrow.parquet.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False)
    except _ERRORS as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> InputError:
    whole = InputError(f"{path} is not a whole parquet file ({error}). Copy or download it again.")
    return descriptor_error(error) or whole


class _Texts(dict[str, int]):
    """The labels that are texts, each with its number, in the order in which they are met."""

    def number(self, label: Any) -> int:
        """Returns the number of a label: itself where it is no text, UNLABELLED for none or an empty one."""
        if not isinstance(label, str):
            return UNLABELLED if label is None else int(label)
        text = class_id(label.strip())
        return self.setdefault(text, len(self)) if text else UNLABELLED


def _check_one_kind(parts: dict[str, list[Path]], chosen: dict[Path, Columns]) -> None:
    """Raises InputError when the labels of one file are texts, of another numbers."""
    first = parts["train"][0]
    other = next((p for p, c in chosen.items() if c.label and c.has_texts != chosen[first].has_texts), None)
    if other:
        texts, numbers = (first, other) if chosen[first].has_texts else (other, first)
        raise InputError(
            f"the labels of {texts} are texts, those of {numbers} numbers. Store both alike, or choose columns that "
            "both have with --label-key."
        )


def _by_text(src: Path, groups: dict[str, list[Group]], texts: _Texts) -> tuple[list[str], dict[str, list[Group]]]:
    """Returns the names of the classes in order, and the groups labelled by it. Raises InputError for a class that the
    training images lack."""
    known = {label for group in groups["train"] for label in group.labels}
    unknown = sorted(text for text, number in texts.items() if number not in known)
    if unknown:
        raise InputError(f"{src} has images of classes that train lacks: {', '.join(unknown[:5])}.")
    names = in_order(texts)
    label = {texts[name]: place for place, name in enumerate(names)} | {UNLABELLED: UNLABELLED}
    return names, {
        split: [replace(group, labels=[label[number] for number in group.labels]) for group in part]
        for split, part in groups.items()
    }


def _groups(path: Path, src: Path, columns: Columns, texts: _Texts, left_out: LeftOut) -> Iterator[Group]:
    with _open(path) as file:
        paths_in, label = columns.path, columns.label
        wanted = [name for name in (paths_in, label) if name]
        for number, start in enumerate(_starts(file)):
            rows = file.metadata.row_group(number).num_rows
            left_out.found += rows
            try:
                check_size(_claimed_bytes(file, number, wanted), _MOST_LISTED, path)
                table = file.read_row_group(number, columns=wanted)
                paths = [row and row["path"] for row in table[columns.image].to_pylist()] if paths_in else [None] * rows
                found = [_split_name(path, start + row, name) for row, name in enumerate(paths)]
                labels = table[label].to_pylist() if label else [UNLABELLED] * rows
            except _ERRORS as error:
                raise _damaged(path, error) from error
            labels = [texts.number(label) for label in labels]
            name, number = path.relative_to(src).as_posix(), columns.number
            yield Group(name, number, start, [n for n, _ in found], labels, [w for _, w in found])


def _split_name(path: Path, row: int, name: str | None) -> tuple[str, str | None]:
    """The file's name without the wnid, and the wnid."""
    base = (name or f"{path.stem}-{row:06d}").rpartition("/")[2]
    at_end, at_start = _SUFFIX.search(base), WNID.match(base)
    if at_end:
        return base[: at_end.start()] + base[at_end.end() :], sys.intern(at_end[1])
    return base, sys.intern(at_start[0]) if at_start else None


def _classes(train: list[Group], names: list[str], number: int) -> list[str]:
    """The wnid on which all training images of a label agree; else the name; else the number."""
    wnids: list[set[str | None]] = [set() for _ in range(number)]
    for group in train:
        for label, wnid in zip(group.labels, group.wnids, strict=True):
            if label >= 0:
                wnids[label].add(wnid)
    ids = [found.pop() if len(found) == 1 else None for found in wnids]
    ids = [wnid or (names[label] if label < len(names) else None) for label, wnid in enumerate(ids)]
    return unique_ids(ids)


def _images(classes: list[str], groups: list[Group], src: Path) -> Images:
    listing = Listing(classes)
    for block, group in enumerate(groups):
        size = TABLE_ROW - group.column
        entries = (Entry(group.file, name, group.first_row + row, size) for row, name in enumerate(group.names))
        listing.add_block(block, zip(group.labels, entries, strict=True))
    images = listing.images()
    if not len(images):
        raise InputError(f"the parquet files of {src} hold no rows. Copy or download them again.")
    return images


def _starts(file: Any) -> list[int]:
    """The first row of every row group."""
    starts, at = [], 0
    for number in range(file.num_row_groups):
        starts.append(at)
        at += file.metadata.row_group(number).num_rows
    return starts


def _claimed_bytes(file: Any, group: int, columns: list[str]) -> int:
    """What the columns of a row group take once decompressed, as the file says it."""
    parts = file.metadata.row_group(group)
    chunks = (parts.column(number) for number in range(parts.num_columns))
    return sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema in columns)


def _group_of(row: int, starts: list[int]) -> int:
    return bisect_right(starts, row) - 1


def _group_rows(file: Any, group: int, rows: list[int], column: int) -> Iterator[bytes | OSError]:
    wanted = set(rows)
    held: dict[int, bytes | OSError] = {}
    stream = enumerate(_column(file, group, column))
    for place, row in enumerate(rows):
        try:
            while row not in held:
                at, data = next(stream)
                if at in wanted:
                    held[at] = OSError("the row holds no image") if data is None else data
        except (*_ERRORS, StopIteration) as error:
            for later in rows[place:]:
                yield held.get(later, OSError(f"the table is damaged: {error}"))
            return
        yield held.pop(row)


def _column(file: Any, group: int, number: int) -> Iterator[bytes | OSError | None]:
    """The images of a row group. One that is too large is known only once PyArrow holds it: a parquet file tells the
    size of a group's column, not that of a row, which takes 2 GiB at most. So a group that is large is read row by
    row, which takes 0.2 ms more for each."""
    field = file.schema_arrow.field(number)
    column = f"{field.name}.bytes" if field.type.num_fields else field.name
    batch_size = _BATCH if _claimed_bytes(file, group, [column]) <= 4 * MOST_IMAGE_BYTES else 1
    for batch in file.iter_batches(batch_size=batch_size, row_groups=[group], columns=[column]):
        for row in batch.column(0).field("bytes") if field.type.num_fields else batch.column(0):
            yield _image_bytes(row)


def _image_bytes(row: Any) -> bytes | OSError | None:
    stored = row.as_buffer()
    if stored is None:
        return None
    try:
        check_size(stored.size, MOST_IMAGE_BYTES, "a row")
    except UnfitFileError as error:
        return OSError(error.strerror)
    data: bytes = row.as_py()
    return data
