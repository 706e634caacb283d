"""Recognises the form in which a user has the images, and lists them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from alexnet_fast.errors import InputError
from alexnet_fast.sharding import archives
from alexnet_fast.sharding.left_out import kind_of
from alexnet_fast.sharding.listing import Source
from alexnet_fast.sharding.output import holds_shard_set
from alexnet_fast.sharding.sources import flat, folders, ilsvrc, kaggle, parquet, table, webdataset, whole
from alexnet_fast.sharding.sources.tree import count_others
from alexnet_fast.sharding.sources.unread import advice


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


@contextmanager
def _permission() -> Iterator[None]:
    """Raises InputError where a file or folder may not be read."""
    try:
        yield
    except PermissionError as error:
        what = f"{error.filename} cannot be read ({error.strerror})"
        raise InputError(f"{what}. Make it readable, or move it away.") from error


@_permission()
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
        if re.match(r"[a-z0-9]{2,}:/", str(src)):
            raise InputError(f"--src takes a folder of this machine, not a URL: copy or mount {src} first.")
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
        raise InputError(_unknown(src))
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
    if layout not in (*FOLDER_LAYOUTS, "tars") and src.is_dir():
        _count_beside(source, layout, src)
    return source


def _recognise(src: Path) -> tuple[str | None, Path]:
    """Returns the layout of `src`, or of a folder that lies alone in it, and that folder."""
    for place in (src, *_alone_in(src)):
        others = (name for name in LAYOUTS if name not in FOLDER_LAYOUTS)
        layout = next((name for name in others if LAYOUTS[name].fits(place)), None)
        if layout:
            return layout, place
    return next((name for name in FOLDER_LAYOUTS if LAYOUTS[name].fits(src)), None), src


def _unknown(src: Path) -> str:
    """Returns the message for what is of no layout."""
    if src.is_file():
        if src.suffix.lower() == ".parquet":
            return f"{src} is one table. --src takes the folder that holds it."
        if src.suffix.lower() in table.SUFFIXES:
            return f"{src} is a file. --src takes the folder of the images, and --labels this table of their labels."
        return f"{src} is a file. --src takes a folder, or a tar.{advice([src.name])}"
    names = sorted(path.name for path in src.iterdir() if not kind_of(path.name))
    if not names:
        return f"{src} is empty. --src takes a folder of images, or of ImageNet's archives."
    some = ", ".join(names[:5]) + " ..." * (len(names) > 5)
    message = f"{src} holds {some}: no layout that is recognised.{advice(names)}"
    tars = archives.tars(src)
    if len(tars) > 1 and all(map(archives.first_names, tars)):
        return f"{message} --layout whole takes each tar for a class, {archives.stem(tars[0].name)} the first."
    if tars:
        return f"{message} {tars[0].name} has no class folders in it: unpack it, and give --labels FILE, a table."
    return f"{message} Expected {src}/<class>/<image files>, ImageNet's archives, parquet files or WebDataset tars."


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


def _count_beside(source: Source, layout: str, src: Path) -> None:
    """Counts the files of the source's folder, and of folders in it, that are not read for images. Folders that a
    layout reads whole it has counted itself."""
    outside = source.root.relative_to(src).parts  # Kaggle's CLS-LOC
    for place, name in enumerate(outside):
        count_others(src, "/".join(outside[:place]), {name}, source.left_out)
    read = {file for images in source.splits.values() for file in images.files}
    if layout not in KEYED:
        read = {file.partition("/")[0] for file in read}
    read |= {ilsvrc.PATCH}  # its members have been counted
    used: dict[str, set[str]] = {}  # names by folder
    for path in map(PurePosixPath, read):
        for inside in (path, *path.parents[:-1]):
            used.setdefault(inside.parent.as_posix(), set()).add(inside.name)
    for folder in sorted(used):
        count_others(source.root, folder, used[folder], source.left_out)
