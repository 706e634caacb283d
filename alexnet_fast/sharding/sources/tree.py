"""A source as a tree of folders, from a disk or from tars: of each folder the names of its files, in one string.

An image takes its name and one byte here, in a tar 24 bytes more; a Python object for each would take 400.
"""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from alexnet_fast.errors import InputError
from alexnet_fast.sharding import archives
from alexnet_fast.sharding.left_out import BESIDE, IRREGULAR, LINKS, SHARD_SETS, LeftOut, kind_of
from alexnet_fast.sharding.listing import WHOLE_FILE, Entry
from alexnet_fast.sharding.output import holds_shard_set

_IMAGE = re.compile(
    rb"\.(?:jpe?g|jpe|jfif|png|webp|gif|bmp|dib|tiff?|p[bgpn]m|jp2|j2k|jpx|heic|heif|avif|jxl|ico|tga|svg)\0",
    re.IGNORECASE,
)
_OTHER = re.compile(
    rb"\.(?:txt|csv|tsv|jsonl?|xml|ya?ml|md|rst|html?|pdf|docx?|log|py|ipynb|sh|m|mat|np[yz]|pkl|pth?|h5|hdf5|db|sqlite3?"
    rb"|tfrecords?|mdb|arrow|rec|beton|pickle|xlsx?|ods"
    rb"|zip|tar|t?gz|bz2|xz|zst|rar|7z|parquet|idx|bin|dat|url|lnk|mp4|avi|mov|mkv|webm|wav|mp3)\0"
    rb"|(?<![^\0])(?:licen[cs]e|readme|makefile|changelog|authors|md5sums|sha256sums)\0",
    re.IGNORECASE,
)
"""Names by which it is decided which folders are meant to hold images. What a file is, its content decides later."""


class Folder:
    """`path`: where it lies below the root, parts joined by "/"; empty for the root itself."""

    __slots__ = ("_names", "_places", "folders", "path")

    def __init__(self, path: str = "") -> None:
        self.path = path
        self.folders: dict[str, Folder] = {}
        self._names = bytearray()
        self._places = array("q")

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    def folder(self, name: str) -> Folder:
        """Returns the folder of that name in it, which it makes where there is none."""
        if name not in self.folders:
            self.folders[name] = Folder(f"{self.path}/{name}" if self.path else name)
        return self.folders[name]

    def add(self, name: str, place: tuple[int, int, int] | None = None) -> None:
        """Adds a file; `place` in a tar: the number of the tar, offset and size."""
        self._names += os.fsencode(name) + b"\0"
        if place:
            self._places.extend(place)

    def names(self) -> Iterator[str]:
        return map(os.fsdecode, bytes(self._names).split(b"\0")[:-1])

    def files(self) -> Iterator[tuple[str, int, int, int]]:
        """Yields of each file directly in it: name, number of the tar (-1: of no tar), offset and size."""
        for number, name in enumerate(self.names()):
            if self._places:
                tar, offset, size = self._places[3 * number : 3 * number + 3]
                yield name, tar, offset, size
            else:
                yield name, -1, 0, WHOLE_FILE

    def below(self) -> Iterator[tuple[str, Folder]]:
        """Yields the folder itself and all below it, each with what comes before the names of its files."""
        pending = [("", self)]
        while pending:
            inside, folder = pending.pop()
            yield inside, folder
            pending += [(f"{inside}{name}/", inner) for name, inner in folder.folders.items()]

    def count(self) -> int:
        """Returns the number of files directly in it."""
        return self._names.count(0)

    def count_below(self) -> int:
        return sum(folder.count() for _, folder in self.below())

    def images(self) -> int:
        """Returns how many of the files directly in it are called images."""
        return len(_IMAGE.findall(self._names))

    def possible_images(self) -> int:
        """Returns how many of the files directly in it are not called something else than an image."""
        return self.count() - len(_OTHER.findall(self._names))

    def may_hold_images(self) -> bool:
        """Whether there are `possible_images` here, or in a folder below."""
        return any(folder.possible_images() for _, folder in self.below())

    def inner(self) -> list[Folder]:
        """Returns the folders in it that may hold images, by name."""
        return [folder for _, folder in sorted(self.folders.items()) if folder.may_hold_images()]

    def entries(self, tars: list[str]) -> Iterator[Entry]:
        """Yields its files and those below as images; `tars`: by their numbers."""
        for inside, folder in self.below():
            for name, tar, offset, size in folder.files():
                yield Entry(self.path if tar < 0 else tars[tar], inside + name, offset, size)


def is_other(name: str) -> bool:
    """Whether a file is called something else than an image: a text, a table, an archive."""
    return _OTHER.search(os.fsencode(name) + b"\0") is not None


def read_folder(root: Path, left_out: LeftOut, path: str = "") -> Folder:
    """Returns the tree of the folder `path` in `root`, on disk, without system files.

    A link to a folder is followed wherever it leads, but not to a folder that it lies in, nor twice to the same one
    below a folder of the second level, a class, say: so loops end. A link to nowhere counts as a file, to be rejected
    by name. Raises InputError when a folder cannot be read.
    """
    top = Folder(path)
    pending = [top]
    followed: set[tuple[str, str]] = set()
    try:
        while pending:
            folder = pending.pop()
            with os.scandir(root / folder.path) as inside:
                folders = [entry for entry in inside if not _add_file(entry, folder, left_out)]
            for entry in sorted(folders, key=lambda entry: entry.name):
                if entry.is_dir(follow_symlinks=False) or _leads_on(entry.path, root, followed):
                    pending.append(folder.folder(entry.name))
                else:
                    left_out.found += 1
                    left_out.add(LINKS, _path(folder, entry))
    except OSError as error:
        raise InputError(
            f"{error.filename} cannot be read ({error.strerror}). Make it readable, or move it away."
        ) from error
    return top


def count_files(path: str) -> int:
    """Returns the number of files below a folder; links are not followed, and what cannot be read counts as nothing."""
    return sum(len(files) + sum(os.path.islink(f"{at}/{name}") for name in names) for at, names, files in os.walk(path))


def count_others(root: Path, folder: str, used: Iterable[str], left_out: LeftOut) -> None:
    """Counts what lies in `folder`, below `root`, as left out, but for the files and folders `used`, by their names."""
    with os.scandir(root / folder) as inside:
        found = {entry.name: entry for entry in inside}
    for name in sorted(found.keys() - set(used)):
        path = (PurePosixPath(folder) / name).as_posix()
        is_folder = found[name].is_dir(follow_symlinks=False)
        files = count_files(found[name].path) if is_folder else 1
        left_out.found += files
        kind = SHARD_SETS if is_folder and holds_shard_set(found[name].path) else BESIDE
        left_out.add(kind_of(name) or kind, path + "/" * is_folder, files)


def _add_file(entry: os.DirEntry[str], folder: Folder, left_out: LeftOut) -> bool:
    """Adds a file to `folder`, or with a system folder or a shard set to what is left out; returns False for a folder
    to be read, or a link to one."""
    kind = kind_of(entry.name)
    if not kind and entry.is_dir():
        if not holds_shard_set(entry.path):
            return False
        kind = SHARD_SETS
    if not kind and not entry.is_file() and os.path.exists(entry.path):
        kind = IRREGULAR  # a pipe would keep its reader waiting for ever
    files = count_files(entry.path) if kind and entry.is_dir(follow_symlinks=False) else 1
    left_out.found += files
    if kind:
        left_out.add(kind, _path(folder, entry) + "/" * entry.is_dir(follow_symlinks=False), files)
    else:
        folder.add(entry.name)
    return True


def _path(folder: Folder, entry: os.DirEntry[str]) -> str:
    return f"{folder.path}/{entry.name}" if folder.path else entry.name


def _leads_on(link: str, root: Path, followed: set[tuple[str, str]]) -> bool:
    """Whether a linked folder is to be read; remembers it."""
    target, here = os.path.realpath(link), os.path.realpath(os.path.dirname(link))
    if os.path.commonpath([target, here]) == target:
        return False
    below = "/".join(os.path.relpath(os.path.dirname(link), root).split(os.sep)[:2])
    if (below, target) in followed:
        return False
    followed.add((below, target))
    return True


def read_tars(paths: Iterable[Path], root: Path, top: Folder, tars: list[str], left_out: LeftOut) -> None:
    """Adds the members of tars to the tree `top`, and the tars, relative to `root`, to `tars`. Raises InputError."""
    for path in paths:
        number = len(tars)
        tars.append(path.relative_to(root).as_posix())
        for member in archives.members(path, left_out=left_out):
            folder = top
            *parts, name = member.path.split("/")
            for part in parts:
                folder = folder.folder(part) if part not in ("", ".") else folder
            folder.add(name, (number, member.offset, member.size))
