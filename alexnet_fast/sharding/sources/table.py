"""Tables of file names and labels: CSV, TSV, text and JSON, as they lie beside images that are in no class folders.

`labels.csv` with a header or without; Tiny-ImageNet's `val_annotations.txt` (file, class, four numbers); Caffe's lists
(`cat/1.jpg 3`); JSON: file -> label, pairs, objects with a key each for file and label, or those a line.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import sys
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet_fast.errors import InputError
from alexnet_fast.sharding.keys import class_id
from alexnet_fast.sharding.limits import read_text
from alexnet_fast.sharding.sources.splits import in_order, is_number, split_called

SUFFIXES = (".csv", ".tsv", ".txt", ".json", ".jsonl")
LABEL_COLUMNS = (
    *("label", "labels", "class", "category", "target", "wnid", "synset", "species", "breed", "label_name"),
    *("class_name", "classname", "category_name", "class_id", "label_id", "category_id"),
)
"""Names of the column with the label, in lower case, the first that a table has being taken."""
SPLIT_COLUMNS = ("split", "subset", "partition", "set", "dataset")
_IMAGE_NAME = re.compile(r"\.(jpe?g|png|webp|gif|bmp|tiff?|p[bgpn]m)$", re.IGNORECASE)


@dataclass(frozen=True)
class Labels:
    """What a table says: `labels` by the path of the image, and `splits`, in the table's own words, where it has a
    column of them; `without_image`: rows whose file is not there. `columns`: what they are, `files`, `labels` or
    `splits`, and their names, or numbers from 1. `unused`: a sentence on a column of splits that has none, or nothing.
    """

    path: Path
    labels: dict[str, str]
    splits: dict[str, str]
    without_image: int
    columns: dict[str, str]
    unused: str = ""

    def classes(self) -> list[str]:
        return in_order(self.labels.values())


class Paths:
    """The paths of images, to be found by whatever part of them a table has: the path, its end, the name, or the name
    without its suffix; in Unicode's form NFC where it is not as the disk has it. What fits several images finds none.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self._by: dict[str, str | None] = {}
        every = list(paths)
        for path in every:
            name = path.rpartition("/")[2]
            parts = {path, name, os.path.splitext(path)[0], os.path.splitext(name)[0]}
            for part in parts | {_composed(part) for part in parts}:
                self._by[part] = None if part in self._by else path
        self._by.update((path, path) for path in every)

    def find(self, cell: str) -> str | None:
        parts = cell.strip().replace("\\", "/").split("/")
        ends = ("/".join(parts[start:]) for start in range(len(parts)))
        return next((path for end in ends if (path := self._by.get(end) or self._by.get(_composed(end)))), None)


def read_labels(path: Path, images: Paths) -> Labels | None:
    """Returns what a table says of the images; None where it has the names of none.

    Raises InputError when it cannot be read, its column of labels is not plain, or it gives an image two labels.
    """
    rows = _rows(path)
    found = [[images.find(cell) for cell in row] for row in rows]
    hits = [len({row[column] for row in found if column < len(row)} - {None}) for column in range(_width(rows))]
    if not any(hits):
        return None
    at = hits.index(max(hits))
    first = rows[0][at] if at < len(rows[0]) else ""
    is_header = found[0][at : at + 1] == [None] and not _IMAGE_NAME.search(first)  # nor a file that is not there
    header = [cell.strip().lower() for cell in rows[0]] if is_header else None
    start = 1 if header else 0
    label_at = _label_column(path, rows[start:], at, header)
    split_at = next((header.index(name) for name in SPLIT_COLUMNS if header and name in header), None)
    named = [cell.strip() for cell in rows[0]] if header else [str(number + 1) for number in range(_width(rows))]
    unused = ""
    if split_at is not None:
        cells = {row[split_at].strip() for row in rows[start:] if split_at < len(row)} - {""}
        unused = _check_splits(path, named[split_at], cells)
        split_at = None if unused else split_at
    labels: dict[str, str] = {}
    splits: dict[str, str] = {}
    missing = 0
    for row, paths in zip(rows[start:], found[start:], strict=True):
        image = paths[at] if at < len(paths) else None
        if image is None or label_at >= len(row) or not row[label_at].strip():
            missing += image is None
            continue
        label = class_id(row[label_at].strip())
        if labels.setdefault(image, label) != label:
            raise InputError(f"{path} gives {image} two labels: {labels[image]} and {label}. Keep one of the lines.")
        split = row[split_at].strip() if split_at is not None and split_at < len(row) else None
        if split:
            splits[image] = sys.intern(split)
    columns = {"files": named[at], "labels": named[label_at]}
    columns |= {} if split_at is None else {"splits": named[split_at]}
    return Labels(path, labels, splits, missing, columns, unused)


def _check_splits(path: Path, column: str, cells: set[str]) -> str:
    """Returns a sentence where what is called a column of splits has none; nothing where it has. Raises InputError when
    it has others too."""
    others = sorted(cell for cell in cells if not split_called(cell))
    some = ", ".join(others[:5]) + " ..." * (len(others) > 5)
    if not others:
        return ""
    if len(others) == len(cells):
        return f"column {column} of {path.name} is not used: {some} are no names of splits"
    raise InputError(
        f"{path} has in its column {column} {some} beside names of splits. Call these train, val or test too, or take "
        "their rows out."
    )


def first_row(path: Path) -> str:
    """Returns the first row of a table that is no header, as far as that is known, for messages."""
    rows = _rows(path)
    row = rows[min(1, len(rows) - 1)]
    return ", ".join(cell if len(cell) <= 40 else f"{cell[:40]}..." for cell in row[:5]) or "nothing"


def _label_column(path: Path, rows: list[list[str]], at: int, header: list[str] | None) -> int:
    others = [column for column in range(_width(rows)) if column != at]
    if header:
        for name in LABEL_COLUMNS:
            if name in header and header.index(name) != at:
                return header.index(name)
    words = [c for c in others if not all(is_number(row[c].strip()) for row in rows[:1000] if c < len(row))]
    for candidates in (others, words):
        if len(candidates) == 1:
            return candidates[0]
    columns = ", ".join(header or [str(column + 1) for column in range(_width(rows))])
    raise InputError(
        f"{path} has the columns {columns}, and which of them is the label is not plain. Call that column `label`, or "
        "keep two columns: the file's name and its label."
    )


def _rows(path: Path) -> list[list[str]]:
    try:
        text = read_text(path).removeprefix("\ufeff")
        is_json = path.suffix.lower() in (".json", ".jsonl")
        rows = _json_rows(text, path.suffix.lower() == ".jsonl") if is_json else _text_rows(text)
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{path} cannot be read as a table ({reason}). It takes CSV, TSV, JSON, or a file name and label a line."
        ) from error
    return [row for row in rows if any(cell.strip() for cell in row)] or [[""]]


def _text_rows(text: str) -> list[list[str]]:
    first = next((line for line in text.splitlines() if line.strip()), "")
    between = next((mark for mark in "\t,;" if mark in first), None)
    if between:
        return list(csv.reader(io.StringIO(text, newline=""), delimiter=between))
    return [line.rsplit(None, 1) for line in text.splitlines()]


def _json_rows(text: str, by_line: bool) -> list[list[str]]:
    body: Any = [json.loads(line) for line in text.splitlines() if line.strip()] if by_line else json.loads(text)
    if isinstance(body, dict) and isinstance(body.get("labels"), list):
        body = body["labels"]
    if isinstance(body, dict):
        body = list(body.items())
    if not isinstance(body, list):
        raise ValueError("neither a list nor an object")
    if body and all(isinstance(row, dict) for row in body):
        columns = list(dict.fromkeys(key for row in body for key in row))
        body = [columns, *([row.get(key, "") for key in columns] for row in body)]
    if not all(isinstance(row, list | tuple) for row in body):
        raise ValueError("its items are neither pairs nor objects")
    return [["" if cell is None else str(cell) for cell in row] for row in body]


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _width(rows: list[list[str]]) -> int:
    return max(map(len, rows), default=0)
