"""Class folders: `train/<class>/*`, `val/<class>/*` and `test/`, or `<class>/*` alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from alexnet_fast.errors import InputError
from alexnet_fast.sharding.keys import by_class
from alexnet_fast.sharding.listing import Entry, Images, Listing, Source
from alexnet_fast.sharding.output import holds_shard_set
from alexnet_fast.sharding.sources.names import read_names
from alexnet_fast.shards.format import UNLABELLED

SPLITS = ("train", "val", "test")


def fits(src: Path) -> bool:
    return src.is_dir() and bool(subfolders(src))


def read(src: Path) -> Source:
    """Every file that is not hidden, nor in a hidden folder, counts as an image: its content decides later.

    Raises InputError when there is nothing to shard or the classes of the splits do not agree.
    """
    if not src.is_dir():
        raise InputError(f"{src} is a file. This layout takes a folder of class folders, or of train/ and val/.")
    present = [name for name in SPLITS if (src / name).is_dir()]
    if present and present[0] != "train":
        raise InputError(f"{src} has {present[0]}/ but no train/. Name the folder that holds both.")
    folders = {name: src / name for name in present} or {"train": src}
    classes = sorted(class_folders(folders["train"]))
    if not classes:
        raise InputError(
            f"{folders['train']} holds no class folders. Expected {folders['train']}/<class>/<image files>."
        )
    splits = {name: split(src, folder, classes) for name, folder in folders.items()}
    return Source(src, classes, splits, read_names(src))


def subfolders(folder: Path) -> list[str]:
    """Without shard sets, which are no classes."""
    with os.scandir(folder) as inside:
        found = [entry.name for entry in inside if entry.is_dir() and not entry.name.startswith(".")]
    return sorted(name for name in found if not holds_shard_set(folder / name))


def class_folders(folder: Path) -> dict[str, str]:
    """Returns the names of the class folders, by class id. Raises InputError when two are of one class."""
    return by_class(folder, ((name, name) for name in subfolders(folder)))


def files(folder: Path) -> Iterator[str]:
    """Regular files below `folder`, as paths relative to it, and links to nowhere, which will be rejected by name;
    hidden ones (.DS_Store, .git/) are left out."""
    pending = [""]
    while pending:
        inside = pending.pop()
        for entry in os.scandir(folder / inside):
            if entry.name.startswith("."):
                continue
            path = f"{inside}/{entry.name}" if inside else entry.name
            if entry.is_dir(follow_symlinks=False):  # a link may lead in a circle
                if not holds_shard_set(entry.path):
                    pending.append(path)
            elif entry.is_file() or not os.path.exists(entry.path):  # not a pipe, which would wait for ever
                yield path


def split(src: Path, folder: Path, classes: list[str]) -> Images:
    """The images of `folder`, which is `src` or in it."""
    present = class_folders(folder)
    unknown = sorted(set(present) - set(classes))
    if unknown:
        raise InputError(f"{folder} has class folders that train/ lacks: {', '.join(unknown[:5])}. Name them alike.")
    listing = Listing(classes)
    inside = "" if folder == src else f"{folder.name}/"
    if not present and folder.name == "test":  # as everybody has it: flat, without labels
        listing.add_class(UNLABELLED, (Entry(folder.name, name) for name in files(folder)))
    elif not present:
        raise InputError(f"{folder} holds no class folders. Sort its images into {folder}/<class>/.")
    for label, name in enumerate(classes):
        if called := present.get(name):
            listing.add_class(label, (Entry(f"{inside}{called}", path) for path in files(folder / called)))
    images = listing.images()
    if not images:
        raise InputError(f"the class folders of {folder} hold no files. Put images in {folder}/<class>/.")
    return images
