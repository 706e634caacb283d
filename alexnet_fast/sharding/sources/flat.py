"""Images that lie flat, in no class folders: their labels from a table, given or found beside them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from alexnet_fast.errors import InputError
from alexnet_fast.sharding.left_out import BESIDE, UNLISTED, LeftOut
from alexnet_fast.sharding.listing import Entry, Images, Source
from alexnet_fast.sharding.sources.names import FILES as NAME_FILES
from alexnet_fast.sharding.sources.names import read_names
from alexnet_fast.sharding.sources.splits import SPLITS, list_labelled, split_called, split_notes
from alexnet_fast.sharding.sources.table import SUFFIXES, Labels, Paths, first_row, read_labels
from alexnet_fast.sharding.sources.tree import Folder, is_other, read_folder
from alexnet_fast.shards.format import UNLABELLED

MOST_TABLES = 20
"""Where there are more files that could be tables, each labels one image, and none all."""

MOST_OF_ONE_EACH = 20
"""Where there are more images, and each has a label of its own, these are no classes."""

ONE_TABLE = (
    "One table must label all, with a column `split` where they are of several; --labels FILE leaves out the images "
    "that it lacks."
)


@dataclass
class Search:
    """What came out of looking for a table: `labels`, or why there are none, each reason a sentence."""

    labels: Labels | None = None
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """Returns the first reasons, each after a space."""
        return "".join(f" {problem}" for problem in self.problems[:3])


def read_labelled(src: Path, table: Path) -> Source:
    """Returns the images of `src` that the table names, wherever they lie below. Raises InputError when there are none.

    The split of an image is what the table says, or the first of its folders that has a split's name, else `train`.
    Images of `test` may be without a label; others are left out then.
    """
    if not src.is_dir():
        raise InputError(f"{src} is a file. --labels takes a folder of images as --src.")
    if not table.is_file():
        raise InputError(f"{table} is not there. --labels takes a table of file names and labels.")
    left_out = LeftOut()
    top = read_folder(src, left_out)
    labels = read_labels(table, Paths(_images(top)))
    if labels is None:
        first = next(_images(top), None)
        if first is None:
            raise InputError(
                f"{src} holds no images, going by the names of its files. Give the folder that holds them."
            )
        raise InputError(
            f"{table} names none of the images of {src}: it begins with {first_row(table)}, and {first} is one of the "
            "images. One of its columns must hold their names, with or without folders and suffix."
        )
    return labelled_source(src, top, labels, left_out)


def labelled_source(src: Path, top: Folder, labels: Labels, left_out: LeftOut) -> Source:
    """Returns the source of the images in the tree `top` of `src`."""
    classes = labels.classes()
    index = {name: label for label, name in enumerate(classes)}
    found: dict[str, tuple[list[Entry], list[int]]] = {split: ([], []) for split in SPLITS}
    names: dict[str, dict[str, None]] = {split: {} for split in SPLITS}  # what is taken for it
    for folder, name in _files(top):
        path = f"{folder}/{name}" if folder else name
        split, called = _split(labels.splits.get(path), folder)
        label = labels.labels.get(path)
        if is_other(name) and label is None:
            left_out.add(BESIDE, path)
        elif label is None and split != "test":
            left_out.add(UNLISTED, path)
        else:
            names[split][called] = None
            entries, numbers = found[split]
            entries.append(Entry(folder, name))
            numbers.append(UNLABELLED if label is None else index[label])
    if not found["train"][0]:
        raise InputError(f"{labels.path} names no image of train in {src}. It takes the training images too.")
    splits = {split: list_labelled(classes, *pair) for split, pair in found.items() if pair[0]}
    source = Source(src, classes, splits, read_names(src), left_out)
    source.notes += [labels_note(labels), *split_notes({split: names[split] for split in splits})]
    source.notes += [labels.unused] if labels.unused else []
    return source


def _split(cell: str | None, folder: str) -> tuple[str, str]:
    """Returns the split of an image, and what says so: the table, or a folder that it lies in, or nothing."""
    named = [(cell, cell)] if cell else [(part, f"{part}/") for part in folder.split("/")]
    found = ((split, called) for name, called in named if (split := split_called(name)))
    return next(found, ("train", "images of no named split"))


def find_labels(root: Path, top: Folder, flat: Folder, split: str | None) -> Search:
    """Looks for the table of the images in `flat`: in it, and in the folders above, up to `root`.

    `split`: of which they are, where a folder says so. A table is plain where it labels all of them and no other one
    does; where several do, the one that has the split's name.
    """
    search, whole, last = Search(), list[Labels](), list[str]()
    tables = list(_tables(root, top, flat, split))
    if not tables:
        return search
    names = [name for name in flat.names() if not is_other(name)]
    images = Paths(f"{flat.path}/{name}" if flat.path else name for name in names)
    stems = {os.path.splitext(name)[0] for name in names}  # of captions or boxes, one an image
    tables = [path for path in tables if path.stem not in stems]
    for path in tables if len(tables) <= MOST_TABLES else []:
        try:
            labels = read_labels(path, images)
        except InputError as error:
            search.problems.append(str(error))
            continue
        if labels and len(labels.labels) == len(names):
            if len(names) > MOST_OF_ONE_EACH and len(set(labels.labels.values())) == len(names):
                search.problems.append(
                    f"{path} has another {labels.columns['labels']} for each: captions, not classes."
                )
            else:
                whole.append(labels)
        elif labels:
            search.problems.append(f"{path} labels {len(labels.labels):,} of {len(names):,}.")
            last[:0] = [] if ONE_TABLE in last else [ONE_TABLE]
        else:
            last.append(f"{path} names none of them: it begins with {first_row(path)}.")
    search.problems += last
    named = [labels for labels in whole if split and _split_in(labels.path) == split]
    chosen = named if len(named) == 1 else whole
    if len(chosen) > 1:
        search.problems.insert(0, f"{' and '.join(str(labels.path) for labels in chosen)} both label them.")
    elif chosen:
        search.labels = chosen[0]
    return search


def flat_images(flat: Folder, classes: list[str], labels: Labels | None, left_out: LeftOut) -> Images:
    """Returns the images of a flat split, unlabelled where there are no `labels`."""
    index = {name: label for label, name in enumerate(classes)}
    entries, numbers = [], []
    for name in flat.names():
        path = f"{flat.path}/{name}" if flat.path else name
        if is_other(name):
            left_out.add(BESIDE, path)
        else:
            entries.append(Entry(flat.path, name))
            numbers.append(index[labels.labels[path]] if labels else UNLABELLED)
    return list_labelled(classes, entries, numbers)


def _files(top: Folder) -> Iterator[tuple[str, str]]:
    return ((folder.path, name) for _, folder in top.below() for name in folder.names())


def _images(top: Folder) -> Iterator[str]:
    return (f"{folder}/{name}" if folder else name for folder, name in _files(top) if not is_other(name))


def _tables(root: Path, top: Folder, flat: Folder, split: str | None) -> Iterator[Path]:
    """Yields what may be a table of the images in `flat`: not a list of classes, nor of what to hand in."""
    parts = flat.path.split("/") if flat.path else []
    folder = top
    for place, part in enumerate([*parts, None]):
        for name in sorted(folder.names()):
            stem, suffix = os.path.splitext(name)
            words = set(re.split(r"[^a-z]+", stem.lower()))
            known = name in NAME_FILES or words & {"submission", "readme", "license"}
            of_test = split != "test" or _split_in(Path(name)) == "test" or place >= len(parts)
            if suffix.lower() in SUFFIXES and not known and of_test:
                yield root / folder.path / name
        if part is not None:
            folder = folder.folders[part]


def _split_in(path: Path) -> str | None:
    """Returns the only split that a word of the file's name names."""
    found = {split_called(word) for word in re.split(r"[^a-z]+", path.stem.lower())} - {None}
    return found.pop() if len(found) == 1 else None


def labels_note(labels: Labels) -> str:
    """Returns a sentence on where the labels come from."""
    columns = ", ".join(f"{what} in column {name}" for what, name in labels.columns.items())
    missing = f"; {labels.without_image:,} of its rows are of files that are not there" if labels.without_image else ""
    return f"labels from {labels.path.name}: {columns}{missing}"
