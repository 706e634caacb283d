"""Class folders: `train/<class>/*`, `val/<class>/*` and `test/`, or `<class>/*` alone; on disk, or in tars.

A split whose images lie flat takes its labels from a table beside or inside it; `test` may go without.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from alexnet_fast.errors import InputError
from alexnet_fast.sharding import archives
from alexnet_fast.sharding.left_out import LeftOut, kind_of
from alexnet_fast.sharding.listing import Images, Listing, Source
from alexnet_fast.sharding.output import holds_shard_set
from alexnet_fast.sharding.sources.arrange import (
    CLASSES,
    FOLDERS,
    SPLIT_FOLDERS,
    Split,
    arrange,
    count_unused,
    open_split,
)
from alexnet_fast.sharding.sources.flat import Search, find_labels, flat_images, labelled_source, labels_note
from alexnet_fast.sharding.sources.names import read_names
from alexnet_fast.sharding.sources.splits import by_split, split_called, split_notes
from alexnet_fast.sharding.sources.table import Labels
from alexnet_fast.sharding.sources.tree import Folder, is_other, read_folder, read_tars
from alexnet_fast.sharding.sources.unread import advice


def fits(src: Path) -> bool:
    """Whether it holds folders, or a file that is not called something else than an image."""
    if not src.is_dir():
        return False
    with os.scandir(src) as inside:
        return any(not kind_of(entry.name) and (entry.is_dir() or not is_other(entry.name)) for entry in inside)


def read(src: Path, layout: str = FOLDERS) -> Source:
    """Every file that is no system file counts as an image: its content decides later.

    Raises InputError when there is nothing to shard, the classes of the splits do not agree, or the folders can be
    read in two ways.
    """
    if not src.is_dir():
        raise InputError(f"{src} is a file. This layout takes a folder of class folders, or of train/ and val/.")
    left_out = LeftOut()
    return _source(src, src, read_folder(src, left_out), [], left_out, layout)


read_classes = partial(read, layout=CLASSES)
read_splits = partial(read, layout=SPLIT_FOLDERS)


def fits_tars(src: Path) -> bool:
    """Whether all tars begin with images in folders, without anything else beside one, and no folders lie there.

    One that cannot be read is also taken for such where it has a split's name: for `read_tarred` to say so.
    """
    if src.is_dir() and subfolders(src):
        return False
    tars = _tars(src)
    return bool(tars) and all(_is_of_folders(archives.first_paths(tar), tar) for tar in tars)


def read_tarred(src: Path) -> Source:
    """The same of tars of class folders: one, or one or several of each split, by their names. Raises InputError."""
    tars, root = _tars(src), src if src.is_dir() else src.parent
    if not tars:
        raise InputError(
            f"{src} holds no tars. This layout takes tars of class folders: one, or train.tar and val.tar."
        )
    left_out, top, names, notes = LeftOut(), Folder(), list[str](), list[str]()
    if len(tars) == 1 and not split_called(archives.stem(tars[0].name)):
        read_tars(tars, root, top, names, left_out)
    else:
        parts = by_split(src, tars, lambda path: path.name)
        notes = split_notes({split: [path.name for path in found] for split, found in parts.items()})
        for split, found in parts.items():
            read_tars(found, root, top.folder(split), names, left_out)
    source = _source(src, root, top, names, left_out, FOLDERS)
    source.notes += notes
    return source


def subfolders(folder: Path) -> list[str]:
    """Returns the names of the folders in it that are no system folders and hold no shard set."""
    with os.scandir(folder) as inside:
        found = [entry.name for entry in inside if entry.is_dir() and not kind_of(entry.name)]
    return sorted(name for name in found if not holds_shard_set(folder / name))


def files(folder: Path, left_out: LeftOut) -> Iterator[str]:
    """Yields the files below `folder` as paths relative to it, and links to nowhere, which will be rejected by name."""
    return (f"{inside}{name}" for inside, inner in read_folder(folder, left_out).below() for name in inner.names())


def split(src: Path, name: str, classes: list[str], left_out: LeftOut) -> Images:
    """Returns the images of the split's folder `name` in `src`."""
    top = Folder()
    top.folders[name] = read_folder(src, left_out, name)
    found = open_split(top.folders[name], str(src), FOLDERS, [])
    images = _images(found, name, classes, src, top, [], left_out, [])
    count_unused(top, _used(found), left_out)
    return images


def _source(src: Path, root: Path, top: Folder, tars: list[str], left_out: LeftOut, layout: str) -> Source:
    arranged = arrange(top, str(src), layout)
    train = arranged.splits["train"]
    is_split = bool(split_called(train.folder.name)) and layout != CLASSES
    alone = next(iter(train.classes.values())) if len(train.classes) == 1 and layout == FOLDERS else None
    flat = train.flat or alone
    search = find_labels(root, top, flat, "train" if is_split else None) if flat and not tars else Search()
    if search.labels and not is_split:
        return labelled_source(root, top, search.labels, left_out)
    if alone and alone not in train.folder.folders.values():  # images/ in the only class
        raise InputError(
            f"{src} can be read in two ways: {alone.path}/ holds images that are in no class folders (then --labels "
            f"FILE, a table of file names and labels), or all are of one class (then "
            f"--layout {SPLIT_FOLDERS if is_split else CLASSES}).{search}"
        )
    if train.flat:
        if search.labels is None:
            raise InputError(_no_classes(src, train, is_split, search))
        classes = search.labels.classes()
    else:
        classes = sorted(train.classes)
    notes: list[str] = []
    splits = {
        name: _images(found, name, classes, src, top, tars, left_out, notes) for name, found in arranged.splits.items()
    }
    used = [folder for found in arranged.splits.values() for folder in _used(found)]
    passed_over = count_unused(top, used, left_out)
    source = Source(root, classes, splits, read_names(root) or read_names(root / arranged.base.path), left_out)
    if len(splits) > 1 or is_split:
        notes = split_notes({name: [f"{found.folder.path}/"] for name, found in arranged.splits.items()}) + notes
    source.notes += _notes(arranged.passed, arranged.empty, passed_over) + notes
    return source


def _images(
    found: Split,
    name: str,
    classes: list[str],
    src: Path,
    top: Folder,
    tars: list[str],
    left_out: LeftOut,
    notes: list[str],
) -> Images:
    """Returns the images of a split; adds to `notes` whence its labels come, where that is a table. Raises InputError
    when there are none, or of a class that `classes` lacks."""
    at = f"{src}/{found.folder.path}" if found.folder.path else str(src)
    if found.flat:
        search = Search() if tars else find_labels(src, top, found.flat, name)
        _check_splits(search.labels, name, at)
        if search.labels and set(search.labels.labels.values()) <= set(classes):
            notes.append(f"{name}: {labels_note(search.labels)}")
            return flat_images(found.flat, classes, search.labels, left_out)
        if name != "test":
            table = "or put a table of their names and labels beside it"
            raise InputError(f"{at} holds no class folders. Sort its images into {at}/<class>/, {table}.{search}")
        images = flat_images(found.flat, classes, None, left_out)
    else:
        unknown = sorted(set(found.classes) - set(classes))
        if unknown:
            raise InputError(f"{at} has class folders that train/ lacks: {', '.join(unknown[:5])}. Name them alike.")
        listing = Listing(classes)
        for label, class_name in enumerate(classes):
            if class_name in found.classes:
                listing.add_class(label, found.classes[class_name].entries(tars))
        images = listing.images()
    if not images:
        kind = "images, going by the names of their files" if found.folder.count_below() else "files"
        raise InputError(
            f"the class folders of {at} hold no {kind}. Put images in {at}/<class>/.{_advice(found.folder)}"
        )
    return images


def _check_splits(labels: Labels | None, name: str, at: str) -> None:
    """Raises InputError where the table of a split's images says that some are of another split."""
    other = next((cell for cell in set(labels.splits.values()) if split_called(cell) != name), None) if labels else None
    if labels and other:
        raise InputError(
            f"{labels.path} says that images in {at} are of the split {other}. Move them, or let the table decide: "
            f"--labels {labels.path}."
        )


def _advice(folder: Folder) -> str:
    return advice(name for _, inner in folder.below() for name in inner.names())


def _used(found: Split) -> list[Folder]:
    return [found.flat] if found.flat else list(found.classes.values())


def _no_classes(src: Path, train: Split, is_split: bool, search: Search) -> str:
    """Returns the message for training images without classes."""
    at = f"{src}/{train.folder.path}" if train.folder.path else str(src)
    expected = f"{at} holds no class folders. Expected {at}/<class>/<image files>."
    if not train.flat or not train.flat.possible_images():
        return f"{expected}{_advice(train.folder)}"
    table = f"Or give a table of file names and labels: --labels FILE.{search}{_advice(train.folder)}"
    if is_split or train.flat is not train.folder:
        return f"{expected} {table}"
    parent = os.path.dirname(os.path.abspath(at))
    return f"{expected} If it is itself the folder of one class, give its parent: --src {parent}. {table}"


def _notes(passed: list[str], empty: list[str], passed_over: list[str]) -> list[str]:
    notes = [f"looked through to {folder}/" for folder in passed]
    for folders, what in ((empty, "empty folders, no classes"), (passed_over, "folders that were passed over")):
        if folders:
            more = f" and {len(folders) - 10:,} more" if len(folders) > 10 else ""
            notes.append(f"{what}: {', '.join(folders[:10])}{more}")
    return notes


def _tars(src: Path) -> list[Path]:
    if src.is_dir():
        return archives.tars(src)
    return [src] if src.name.endswith(archives.SUFFIXES) else []


def _is_of_folders(paths: list[str], tar: Path) -> bool:
    if not paths:
        return split_called(archives.stem(tar.name)) is not None
    inside = [path for path in paths if "/" in path.removeprefix("./")]
    return bool(inside) and not any(is_other(path) or path.endswith((".cls", *archives.SUFFIXES)) for path in inside)
