"""Recognises the form in which a user has the images, and lists them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from alexnet_fast.errors import InputError
from alexnet_fast.sharding.left_out import BESIDE, SHARD_SETS, kind_of
from alexnet_fast.sharding.listing import Source
from alexnet_fast.sharding.output import holds_shard_set
from alexnet_fast.sharding.sources import flat, folders, ilsvrc, kaggle, parquet, webdataset, whole
from alexnet_fast.sharding.sources.tree import count_files


class Layout(NamedTuple):
    """`fits`: whether a path looks like it; `what`: in words; `read`: lists the images, or raises InputError."""

    what: str
    fits: Callable[[Path], bool]
    read: Callable[..., Source]


def _never(src: Path) -> bool:
    return False


LAYOUTS: dict[str, Layout] = {
    "kaggle": Layout("Kaggle's folders", kaggle.fits, kaggle.read),
    "ilsvrc": Layout("official archives of ILSVRC", ilsvrc.fits, ilsvrc.read),
    "whole": Layout("tars of one class each", whole.fits, whole.read),
    "parquet": Layout("parquet files", parquet.fits, parquet.read),
    "webdataset": Layout("WebDataset tars", webdataset.fits, webdataset.read),
    "tars": Layout("tars of class folders", folders.fits_tars, folders.read_tarred),
    "folders": Layout("class folders", folders.fits, folders.read),
    "splits": Layout("class folders in the folders of splits", _never, folders.read_splits),
    "classes": Layout("class folders, all of them", _never, folders.read_classes),
}
"""In the order of trying: the more particular ones first. The last two decide what can be read in two ways.

A new layout is a file here with `fits(path) -> bool` and `read(path) -> listing.Source`, a line above, its name in
cli/data.py, and a row in the table of docs/data.md. `read` counts in `Source.left_out` what it passes over.
"""

FOLDER_LAYOUTS = ("folders", "splits", "classes")
"""Those that look through wrapping folders themselves."""

KEYED = ("parquet", "webdataset")
"""Those that have columns, or members, to choose among."""


def find_images(
    src: Path,
    layout: str | None = None,
    labels: Path | None = None,
    *,
    image_key: str | None = None,
    label_key: str | None = None,
) -> Source:
    """Lists the images of `src`, those that the table `labels` names where it is given; the listing does not depend on
    the file system's order. `image_key` and `label_key`: what holds image and label, of the layouts KEYED; None: the
    usual names.

    Raises InputError when `src` is not there, no layout fits, or what it holds is not as the layout has it.
    """
    if not src.exists():
        raise InputError(f"{src} does not exist. --src takes a folder of images, or of ImageNet's archives.")
    keys = {name: key for name, key in (("image_key", image_key), ("label_key", label_key)) if key}
    if labels is not None:
        if layout is not None:
            raise InputError("--labels says itself what --src is: leave out --layout.")
        if keys:
            raise InputError("--labels says itself what the labels are: leave out --image-key and --label-key.")
        source = flat.read_labelled(src, labels)
        source.layout = "images with a table of labels"
        return source
    given = src
    if layout is None:
        layout, src = _recognise(src)
        _refuse_set_beside_folders(src)
    if layout is None:
        raise InputError(
            f"{src} has none of the known layouts: class folders, the official archives of ILSVRC-2012 and 2010, "
            "Kaggle's folders, tars of one class each or of class folders, parquet files or WebDataset tars. --layout "
            "forces one; --labels FILE takes a table of file names and labels."
        )
    if keys and layout not in KEYED:
        raise InputError(
            f"--image-key and --label-key are for parquet files and WebDataset tars, but {src} is read as {layout}. "
            f"Leave them out, or name the layout: --layout {' or '.join(KEYED)}."
        )
    source = LAYOUTS[layout].read(src, **keys)
    source.layout = LAYOUTS[layout].what
    if src != given:
        source.notes.insert(0, f"looked through to {src.relative_to(given)}/")
    if not source.left_out.found:  # the layout counts its images alone
        source.left_out.found = sum(map(len, source.splits.values())) + source.left_out.total()
    if layout not in (*FOLDER_LAYOUTS, "tars"):
        _count_beside(source, layout)
    return source


def _recognise(src: Path) -> tuple[str | None, Path]:
    """Returns the layout of `src`, or of a folder that lies alone in it, and that folder."""
    for place in (src, *_alone_in(src)):
        others = (name for name in LAYOUTS if name not in FOLDER_LAYOUTS)
        layout = next((name for name in others if LAYOUTS[name].fits(place)), None)
        if layout:
            return layout, place
    return next((name for name in FOLDER_LAYOUTS if LAYOUTS[name].fits(src)), None), src


def _refuse_set_beside_folders(src: Path) -> None:
    if holds_shard_set(src) and (beside := folders.subfolders(src)):
        raise InputError(
            f"{src} can be read in two ways: as the shard set that lies there (--layout webdataset), or as the folders "
            f"{', '.join(beside[:5])} beside it (--layout folders)."
        )


def _alone_in(src: Path) -> Iterator[Path]:
    """Yields the folder that lies alone in `src`, but for system files, and the one in that."""
    while src.is_dir():
        inside = [path for path in src.iterdir() if not kind_of(path.name)]
        if len(inside) != 1 or inside[0].is_symlink():
            return
        src = inside[0]
        if src.is_dir():
            yield src


def _count_beside(source: Source, layout: str) -> None:
    """Counts the files of the source's folder, and of folders in it, that are not read for images. Folders that a
    layout reads whole it has counted itself."""
    read = {file for images in source.splits.values() for file in images.files}
    above = {folder.as_posix() for file in read for folder in PurePosixPath(file).parents} if layout in KEYED else {"."}
    if layout not in KEYED:
        read = {file.partition("/")[0] for file in read}
    for folder in sorted(above):
        with os.scandir(source.root / folder) as inside:
            found = {(PurePosixPath(folder) / entry.name).as_posix(): entry for entry in inside}
        for path in sorted(found.keys() - read - above):
            is_folder = found[path].is_dir(follow_symlinks=False)
            files = count_files(found[path].path) if is_folder else 1
            source.left_out.found += files
            kind = SHARD_SETS if is_folder and holds_shard_set(found[path].path) else BESIDE
            source.left_out.add(kind_of(found[path].name) or kind, path + "/" * is_folder, files)
