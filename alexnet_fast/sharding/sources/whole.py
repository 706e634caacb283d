"""Releases of ImageNet that have no splits: one tar a class, or a tar of those.

`fall11_whole.tar` (21,841 classes) and `winter21_whole.tar.gz` (19,167; compressed as a whole) hold `<wnid>.tar`s,
which image-net.org also hands out one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath

from alexnet_fast.errors import InputError
from alexnet_fast.sharding import archives
from alexnet_fast.sharding.left_out import LeftOut
from alexnet_fast.sharding.listing import Entry, Source
from alexnet_fast.sharding.sources import folders
from alexnet_fast.sharding.sources.names import read_names
from alexnet_fast.sharding.sources.splits import WNID, list_classes, split_called
from alexnet_fast.sharding.sources.tree import count_others


def fits(src: Path) -> bool:
    """By the names: `n01440764.tar`. A file called a tar is one even if damaged, for `read` to say so."""
    if src.is_file():
        return src.name.endswith(archives.SUFFIXES) and _may_hold_classes(src)
    found = _tars(src)
    if _named_by_wnid(found):
        return True
    archive = _whole(found)
    return archive is not None and _may_hold_classes(archive) and not (folders.subfolders(src) and _unreadable(archive))


def read(src: Path) -> Source:
    """All classes in one split, `train`. Raises InputError when an archive is not whole."""
    root = src.parent if src.is_file() else src
    left_out = LeftOut()
    classes = _classes(src, root, left_out)
    images = list_classes(src, classes)
    used = {PurePosixPath(file) for file in images.files}
    for folder in {path.parent for path in used} - {PurePosixPath()}:
        count_others(root, folder.as_posix(), {path.name for path in used}, left_out)
    return Source(root, sorted(classes), {"train": images}, read_names(root), left_out)


def _classes(src: Path, root: Path, left_out: LeftOut) -> dict[str, Callable[[], list[Entry]]]:
    if src.is_file():
        return archives.inner_tars(src, root, left_out)
    found = _tars(src)
    if not found:
        raise InputError(f"{src} holds no tars. This layout takes one tar a class, or one tar that holds them.")
    named = _named_by_wnid(found)
    if named:
        return archives.class_tars(named, root, left_out)
    archive = _whole(found)
    if archive and (_unreadable(archive) or _holds_tars(archive)):
        return archives.inner_tars(archive, root, left_out)
    if all(split_called(archives.stem(path.name)) for path in found):
        raise InputError(
            f"the tars of {src} have the names of splits, not of classes: {', '.join(path.name for path in found)}. "
            "--layout tars reads tars of class folders, --layout webdataset those of samples."
        )
    return archives.class_tars(found, root, left_out)


def _tars(src: Path) -> list[Path]:
    """Of the folder, or of the only one in it."""
    inside = folders.subfolders(src)
    return archives.tars(src) or (archives.tars(src / inside[0]) if len(inside) == 1 else [])


def _named_by_wnid(found: list[Path]) -> list[Path]:
    return [path for path in found if WNID.fullmatch(archives.stem(path.name))]


def _whole(found: list[Path]) -> Path | None:
    """The one tar that may hold the others."""
    called_so = [path for path in found if "whole" in path.name]
    alone = called_so or found
    return alone[0] if len(alone) == 1 else None


def _may_hold_classes(archive: Path) -> bool:
    names = archives.first_names(archive)
    return not names or any(WNID.fullmatch(archives.stem(name)) for name in names if _is_tar(name))


def _unreadable(archive: Path) -> bool:
    return not archives.first_names(archive)


def _holds_tars(archive: Path) -> bool:
    return any(_is_tar(name) for name in archives.first_names(archive))


def _is_tar(name: str) -> bool:
    return name.endswith(archives.SUFFIXES)
