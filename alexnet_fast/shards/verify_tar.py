"""Checks one tar of a shard set against its rows in the split's index and its lines in DALI's index."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mode
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from alexnet_fast.errors import descriptor_error
from alexnet_fast.shards.format import FULL, MANIFEST, UNLABELLED, Tar, file_digest
from alexnet_fast.shards.members import (
    BLOCK,
    HEAD,
    Kind,
    Row,
    Sample,
    StoredTar,
    dali_line,
    image_problem,
    member_of,
    padded,
    parse_dali_line,
    size_of,
)

IDX_VERSION = "v1.2"

T = TypeVar("T")


@dataclass(frozen=True)
class Finding:
    """`file`: in the shard set's folder; `sample`: its key, or empty when the file as a whole is meant."""

    file: str
    sample: str
    problem: str


@dataclass
class TarCheck:
    """The check of tar number `shard` of a split: `rows` are its rows of `index`, None where that cannot be read."""

    folder: Path
    tar: Tar
    index: str
    shard: int
    rows: NDArray[np.void] | None
    kind: Kind
    quick: bool
    intact: bool = False
    """Its sha256 is the manifest's."""
    stored: StoredTar = field(init=False)
    labels: set[bytes] = field(init=False)
    """That there can be, as they are stored."""

    def findings(self) -> list[Finding]:
        """All that is wrong with the tar, its lines and its rows."""
        path = self.folder / self.tar.file
        try:
            with path.open("rb") as file:
                self.intact = not self.quick and _sha256(path) == self.tar.sha256
                self.stored = StoredTar(file, self.kind)
                self.labels = {str(label).encode() for label in range(UNLABELLED, self.kind.classes)}
                return list(self.run())
        except OSError as error:
            if shortage := descriptor_error(error):
                raise shortage from error
            return [Finding(self.tar.file, "", f"cannot be opened ({error.strerror})")]

    @property
    def idx(self) -> str:
        return Path(self.tar.file).with_suffix(".idx").name

    def run(self) -> Iterator[Finding]:
        rows = None if self.rows is None else [Row(*row) for row in self.rows.tolist()]
        try:
            text = (self.folder / self.idx).read_text(encoding="ascii", errors="replace")
            head, *lines = text.removesuffix("\n").split("\n")
        except OSError as error:
            if shortage := descriptor_error(error):
                raise shortage from error
            yield Finding(self.idx, "", f"cannot be read ({error})")
            head, lines = "", None
        walked = list(self.stored.walk()) if self.intact else []
        witnesses = {MANIFEST: self.tar.samples}
        witnesses |= {name: len(found) for name, found in ((self.idx, lines), (self.index, rows)) if found is not None}
        number = mode([len(walked)] * self.intact + list(witnesses.values()))  # the first of them where each is alone
        for name, count in witnesses.items():
            if count != number or (name == self.idx and head != f"{IDX_VERSION} {number}"):
                yield Finding(name, "", f"does not list {number:,} samples of {self.tar.file}")
        found = list(self.samples(rows or [], lines or [], walked, number))
        yield from found
        tar_is_corrupt = rows is None or len(rows) != number or any(one.file == self.tar.file for one in found)
        if not self.quick and not self.intact:
            if tar_is_corrupt:
                yield Finding(self.tar.file, "", "its sha256 is not the manifest's")
            else:
                yield Finding(MANIFEST, "", f"its sha256 of {self.tar.file} is wrong: all of the tar is whole")

    def samples(self, rows: list[Row], lines: list[str], walked: list[Sample], number: int) -> Iterator[Finding]:
        """What is wrong with the samples, one after another: they fill the tar without a gap."""
        row_of = _finder(rows, [row.offset for row in rows], number)
        parsed = [parse_dali_line(line, self.kind) for line in lines]
        line_of = _finder(list(zip(lines, parsed, strict=True)), [one and one.place.offset for one in parsed], number)
        at = 0
        for position in range(number):
            row = row_of(position, at + HEAD)
            line, by_line = line_of(position, at + HEAD) or ("", None)
            sample = walked[position] if position < len(walked) else self.find(at, row, by_line)
            if sample is None:
                problem = "its headers are corrupt and no index says where it is"
                yield Finding(self.tar.file, self.stored.key_at(at), problem)
                later = range(at + BLOCK, self.stored.size, BLOCK)
                at = next((start for start in later if self.stored.sample_at(start)), self.stored.size)
                continue
            if lines and line != dali_line(sample, self.kind):
                yield Finding(self.idx, sample.key, f"says {line!r}, not {dali_line(sample, self.kind)!r}")
            if rows:
                yield from self.check_row(row, sample)
            yield from self.check_sample(row, sample)
            at = sample.place.end
        yield from self.check_end(at)

    def find(self, at: int, row: Row | None, by_line: Sample | None) -> Sample | None:
        """The sample that starts at `at`, as far as its row, its line or its headers show."""
        if row and by_line and row.place == by_line.place:
            return by_line
        places = [one.place for one in (row, by_line) if one]
        places.sort(key=lambda place: place.offset != at + HEAD)
        for start, place in [*((place.offset - HEAD, place) for place in places), (at, None)]:
            sample = self.stored.sample_at(start)
            if sample and place in (sample.place, None):
                return sample
        if not places:
            return None
        if by_line and by_line.place == places[0]:
            return by_line
        return Sample(self.stored.key_at(places[0].offset - HEAD), places[0])

    def check_row(self, row: Row | None, sample: Sample) -> Iterator[Finding]:
        if row is None:
            yield Finding(self.index, sample.key, "has no row for it")
            return
        place = sample.place
        right: dict[str, object] = {"shard": self.shard, "offset": place.offset, "size": place.size}
        if self.intact or row.place.label_size != place.label_size:
            right["label"] = self.stored.read(place.offset - 2 * BLOCK, place.label_size).decode("ascii", "replace")
        is_full = self.kind.shape == FULL
        if self.intact or (is_full and not self.quick):
            image = self.stored.read(place.offset, place.size)
            crc32 = zlib.crc32(image)
            if self.intact:
                right["crc32"] = crc32
            if is_full and (self.intact or crc32 == row.crc32):
                with suppress(Exception):  # it does not decode: check_sample says so
                    right["height"], right["width"] = size_of(image, self.kind)
        values = row._asdict()
        wrong = [
            f"{name} {values[name]}, not {value}" for name, value in right.items() if str(values[name]) != str(value)
        ]
        if not wrong and not UNLABELLED <= row.label < self.kind.classes:
            wrong = [f"label {row.label}, which is of no class"]
        if not wrong and is_full and (problem := self.kind.size_problem(row.height, row.width)):
            wrong = [f"an image that {problem}"]
        if wrong:
            yield Finding(self.index, sample.key, f"has {'; '.join(wrong)}")

    def check_sample(self, row: Row | None, sample: Sample) -> Iterator[Finding]:
        """What is wrong with a sample's bytes in the tar: two headers, label, image and the zeros that fill their last
        blocks."""
        tar, (key, place) = self.tar.file, sample
        if place.end > self.stored.size:
            yield Finding(tar, key, "lies beyond the end of the tar")
        if self.quick or place.end > self.stored.size:
            return
        content = self.stored.read(place.offset - HEAD, HEAD + padded(place.size))
        if len(content) != HEAD + padded(place.size):
            yield Finding(tar, key, "cannot be read from the disk")
            return
        image_at = HEAD + place.size
        members = [(f"{key}.cls", place.label_size), (f"{key}.{self.kind.extension(place.size)}", place.size)]
        for (name, size), start in zip(members, (0, 2 * BLOCK), strict=True):
            header = member_of(content[start : start + BLOCK])
            if header is None:
                yield Finding(tar, key, f"the header of {name} is corrupt")
            elif header != (name, size):
                yield Finding(tar, key, f"the tar holds {header[0]} of {header[1]:,} bytes in place of {name}")
        label, filling = content[BLOCK : 2 * BLOCK][: place.label_size], content[BLOCK + place.label_size : 2 * BLOCK]
        if any(filling) or any(content[image_at:]):
            yield Finding(tar, key, "what fills its last block is not zeros")
        listed = str(row.label).encode() if row and not self.intact else label
        if label != listed and len(label) == len(listed) and listed in self.labels:
            yield Finding(tar, key, f"its label is {label!r} in the tar, {listed!r} in the index")
        elif label not in self.labels:
            yield Finding(tar, key, f"its label {label!r} is of no class")
        image = content[HEAD:image_at]
        if row and not self.intact and zlib.crc32(image) != row.crc32:
            yield Finding(tar, key, "its crc32 is not the index's")
        elif problem := image_problem(image, self.kind):
            yield Finding(tar, key, problem)

    def check_end(self, end: int) -> Iterator[Finding]:
        """What is wrong with what follows the last sample: two blocks of zeros or more, up to a whole record."""
        tar = self.tar
        if self.stored.size != tar.bytes:
            record = tarfile.RECORDSIZE
            whole = self.stored.size == -(-(end + 2 * BLOCK) // record) * record  # just what its samples need
            name, problem = (MANIFEST, f"of {tar.file}: ") if whole else (tar.file, "")
            yield Finding(name, "", f"{problem}has {self.stored.size:,} bytes, the manifest says {tar.bytes:,}")
        rest = b"" if self.quick else self.stored.read(end, self.stored.size - end)
        if any(rest):
            member = member_of(rest[:BLOCK])
            what = member[0] if member else "something"
            yield Finding(tar.file, "", f"holds {what} after its last sample, which no index lists")
        elif not self.quick and len(rest) < 2 * BLOCK:
            yield Finding(tar.file, "", "does not end in two blocks of zeros")


def _finder(entries: list[T], offsets: list[int | None], number: int) -> Callable[[int, int], T | None]:
    """A function (position, offset) -> entry: by the position; by the offset where entries are missing or too many."""
    if len(entries) == number:
        return lambda position, offset: entries[position]
    by_offset = dict(zip(offsets, entries, strict=True))
    return lambda position, offset: by_offset.get(offset)


def _sha256(path: Path) -> str:
    try:
        return file_digest(path, "sha256")
    except OSError as error:  # the disk: the samples that it cannot give are named
        if shortage := descriptor_error(error):
            raise shortage from error
        return ""
