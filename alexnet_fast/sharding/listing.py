"""The listing of a source: of each image the place of its bytes, its label, and its key in the shard set."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet_fast.sharding.keys import LONGEST, class_prefixes, sample_key
from alexnet_fast.sharding.left_out import LeftOut
from alexnet_fast.shards.format import UNLABELLED

WHOLE_FILE = -1
TABLE_ROW = -2

COLUMNS = np.dtype(
    [
        ("file", "<u4"),
        ("label", "<i4"),
        ("offset", "<i8"),
        ("size", "<i8"),
        ("block", "<i4"),
        ("name_at", "<u8"),
        ("name_size", "<u2"),
    ]
)
_ROW = struct.Struct("<IiqqiQH")


@dataclass(frozen=True, slots=True)
class Entry:
    """An image as a layout finds it.

    `file` is a path relative to the source's folder. What `offset` and `size` mean:
    size WHOLE_FILE: the image is the file `file/name`; size TABLE_ROW - c: it is row `offset`, column c, of the parquet
    file `file`; else it is the bytes [offset, offset + size) of the archive `file`, where it is called `name`.
    """

    file: str
    name: str
    offset: int = 0
    size: int = WHOLE_FILE


@dataclass(frozen=True, slots=True)
class Image(Entry):
    """An entry with its class index and the key of its sample: no dots, no spaces, unique in its split."""

    label: int = UNLABELLED
    key: str = ""

    @property
    def path(self) -> str:
        """The path for messages, relative to the source's folder."""
        return f"{self.file}/{self.name}" if self.file else self.name


class Images:
    """The images of one split, as columns: some 60 bytes an image. Nothing here is changed once it is made."""

    def __init__(
        self, rows: NDArray[np.void], files: list[str], names: bytearray, prefixes: list[str], keys: dict[int, str]
    ):
        self._rows, self._files, self._names, self._prefixes, self._keys = rows, files, names, prefixes, keys

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Image]:
        return (self._image(row) for row in range(len(self)))

    def __getitem__(self, row: int) -> Image:
        return self._image(range(len(self))[row])

    def take(self, rows: NDArray[np.int64]) -> list[Image]:
        return [self._image(row) for row in rows.tolist()]

    def _image(self, row: int) -> Image:
        file, label, offset, size, _, name_at, name_size = self._rows[row].item()
        name = os.fsdecode(bytes(self._names[name_at : name_at + name_size]))
        key = self._keys.get(name_at) or sample_key(self._prefixes[label], name)
        return Image(self._files[file], name, offset, size, label, key)

    @property
    def files(self) -> list[str]:
        """The folders and archives that images lie in, and perhaps more."""
        return self._files

    @property
    def labels(self) -> NDArray[np.int32]:
        labels: NDArray[np.int32] = self._rows["label"]
        return labels

    @property
    def blocks(self) -> NDArray[np.int64]:
        """Where each block begins, and the end: images that can only be read together are stored together."""
        block = self._rows["block"]
        new = np.ones(len(block), bool)
        new[1:] = (block[1:] != block[:-1]) | (block[1:] < 0)
        return np.append(np.flatnonzero(new), len(block))

    def select(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Images:
        """Returns some of the images, with their labels and keys."""
        return Images(self._rows[rows], self._files, self._names, self._prefixes, self._keys)

    def relabel(self, new: NDArray[np.int32]) -> Images:
        """Returns the images with new labels: `new` (old classes,) holds UNLABELLED for the classes to leave out."""
        kept = self._rows[(new[self.labels] >= 0) | (self.labels < 0)]
        prefixes = [""] * (int(new.max()) + 1)
        for old, label in enumerate(new.tolist()):
            if label >= 0:
                prefixes[label] = self._prefixes[old]
        labelled = kept["label"] >= 0
        kept["label"][labelled] = new[kept["label"][labelled]]
        return Images(kept, self._files, self._names, [*prefixes, self._prefixes[-1]], self._keys)

    def fingerprint(self) -> str:
        """Returns a hash of all that the stored bytes depend on, except the bytes of the images."""
        digest = hashlib.sha256(np.ascontiguousarray(self._rows).view(np.uint8).data)
        digest.update(self._names)
        digest.update(repr((self._files, self._prefixes, self._keys)).encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


@dataclass
class Source:
    """`root`: the folder that `Image.file` is relative to; `classes`: ids in the order of their index;
    `names`: what the source calls a class, where it says so; `splits`: `train` first; `left_out`: its other files;
    `notes`: sentences on how it was read, for the user; `layout`: what it was taken for."""

    root: Path
    classes: list[str]
    splits: dict[str, Images]
    names: dict[str, str] = field(default_factory=dict)
    left_out: LeftOut = field(default_factory=LeftOut)
    notes: list[str] = field(default_factory=list)
    layout: str = ""


class Listing:
    """Collects the images of one split; `classes` are the ids in the order of their index."""

    def __init__(self, classes: list[str]) -> None:
        self._prefixes = class_prefixes(classes)
        self._used: set[str] = set()
        self._rows = bytearray()
        self._names = bytearray()
        self._files: dict[str, int] = {}
        self._keys: dict[int, str] = {}

    def add_class(self, label: int, entries: Iterable[Entry]) -> None:
        """Adds all images of one class, given in any order: they are listed by name, the same for every layout."""
        self._used.clear()  # the class begins every key
        ordered = sorted(entries, key=lambda entry: entry.file)
        ordered.sort(key=lambda entry: entry.name)  # then by file: a pair for each would take more memory than they do
        for entry in ordered:
            self._add(entry, label, -1)

    def add_block(self, block: int, entries: Iterable[tuple[int, Entry]]) -> None:
        """Adds images (label, entry) that can only be read together, in the order of reading."""
        for label, entry in entries:
            self._add(entry, label, block)

    def images(self) -> Images:
        """Returns the images; nothing can be added to the listing then."""
        rows = np.frombuffer(self._rows, COLUMNS)
        return Images(rows, list(self._files), self._names, self._prefixes, self._keys)

    def _add(self, entry: Entry, label: int, block: int) -> None:
        name = os.fsencode(entry.name)
        file = self._files.setdefault(entry.file, len(self._files))
        row = (file, label, entry.offset, entry.size, block, len(self._names), len(name))
        key = sample_key(self._prefixes[label], entry.name)
        if key.lower() in self._used or len(key) > LONGEST:
            key = f"{self._prefixes[label]}/sample-{len(self._used):08d}"
            while key.lower() in self._used:  # a file has that very name
                key += "_"
            self._keys[len(self._names)] = key
        self._used.add(key.lower())  # a tar may be unpacked where A and a are one name
        self._rows += _ROW.pack(*row)
        self._names += name
