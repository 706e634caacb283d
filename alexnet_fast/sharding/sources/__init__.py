"""Recognises the form in which a user has the images, and lists them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from alexnet_fast.errors import InputError
from alexnet_fast.sharding.left_out import BESIDE, kind_of
from alexnet_fast.sharding.listing import Source
from alexnet_fast.sharding.sources import flat, folders, ilsvrc, kaggle, parquet, webdataset, whole
from alexnet_fast.sharding.sources.tree import count_files


class Layout(NamedTuple):
    """`fits`: whether a path looks like it; `what`: in words; `read`: lists the images, or raises InputError."""

    what: str
    fits: Callable[[Path], bool]
    read: Callable[[Path], Source]


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
"""In the order of trying: the more particular ones first. The last two decide what can be read in two ways."""


IN_TREES = ("folders", "splits", "classes")
"""Those that look through folders themselves."""


def find_images(src: Path, layout: str | None = None, labels: Path | None = None) -> Source:
    """Lists the images of `src`, those that the table `labels` names where it is given; the listing does not depend on
    the file system's order.

    Raises InputError when `src` is not there, no layout fits, or what it holds is not as the layout has it.
    """
    if not src.exists():
        raise InputError(f"{src} does not exist. --src takes a folder of images, or of ImageNet's archives.")
    if labels is not None:
        if layout is not None:
            raise InputError("--labels says itself what --src is: leave out --layout.")
        source = flat.read_labelled(src, labels)
        source.layout = "images with a table of labels"
        return source
    passed = src
    if layout is None:
        layout, src = _recognise(src)
    if layout is None:
        raise InputError(
            f"{src} has none of the known layouts: class folders, the official archives of ILSVRC-2012 and 2010, "
            "Kaggle's folders, tars of one class each or of class folders, parquet files or WebDataset tars. --layout "
            "forces one; --labels FILE takes a table of file names and labels."
        )
    source = LAYOUTS[layout].read(src)
    source.layout = LAYOUTS[layout].what
    if src != passed:
        source.notes.insert(0, f"looked through to {src.relative_to(passed)}/")
    if not source.left_out.found:  # the layout counts its images alone
        source.left_out.found = sum(map(len, source.splits.values())) + source.left_out.total()
    if layout not in (*IN_TREES, "tars"):
        _count_beside(source)
    return source


def _recognise(src: Path) -> tuple[str | None, Path]:
    """Returns the layout of `src`, or of a folder that lies alone in it, and that folder."""
    for place in (src, *_alone_in(src)):
        layout = next((name for name, known in LAYOUTS.items() if name not in IN_TREES and known.fits(place)), None)
        if layout:
            return layout, place
    return next((name for name in IN_TREES if LAYOUTS[name].fits(src)), None), src


def _alone_in(src: Path) -> Iterator[Path]:
    """Yields the folder that lies alone in `src`, but for system files, and the one in that."""
    while src.is_dir():
        inside = [path for path in src.iterdir() if not kind_of(path.name)]
        if len(inside) != 1 or inside[0].is_symlink():
            return
        src = inside[0]
        if src.is_dir():
            yield src


def _count_beside(source: Source) -> None:
    """Counts the files of the source's folder, and of folders in it, that are not read for images."""
    read = {file.partition("/")[0] for images in source.splits.values() for file in images.files}
    left_out = source.left_out
    with os.scandir(source.root) as inside:
        for entry in sorted(inside, key=lambda entry: entry.name):
            if entry.name not in read:
                is_folder = entry.is_dir(follow_symlinks=False)
                files = count_files(entry.path) if is_folder else 1
                left_out.found += files
                left_out.add(kind_of(entry.name) or BESIDE, entry.name + "/" * is_folder, files)
