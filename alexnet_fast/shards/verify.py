"""`alexnet-fast verify`: reads a shard set again and names every damaged file and sample.

Three witnesses say where a sample lies: a row of the split's index, a line of DALI's index, and the tar's headers.
A tar whose sha256 is the manifest's is right; of any other, what both indexes say is right, and where they differ
the one that the tar's headers confirm.
"""

from __future__ import annotations

import io
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import mode
from typing import BinaryIO, NamedTuple, TypeVar

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from alexnet_fast.errors import InputError
from alexnet_fast.shards.format import (
    MANIFEST,
    MEMBER,
    MIXED,
    UNLABELLED,
    Manifest,
    Tar,
    file_digest,
    index_name,
    load_index,
    raw_bytes,
)
from alexnet_fast.shards.reader import ShardSet
from alexnet_fast.shards.sidecars import side_files

IDX_VERSION = "v1.2"
BLOCK = tarfile.BLOCKSIZE
HEAD = 3 * BLOCK
"""Bytes of a sample before its image: the label's header, the label, the image's header."""

T = TypeVar("T")


@dataclass(frozen=True)
class Damage:
    """`file`: in the shard set's folder; `sample`: its key, or empty when the file as a whole is meant."""

    file: str
    sample: str
    problem: str


@dataclass(frozen=True)
class Kind:
    """What the images of a set are: `smallest` to `size` pixels a side, labels below `classes`."""

    encoding: str
    smallest: int
    size: int
    classes: int

    def is_raw(self, size: int) -> bool:
        """Whether an image of so many bytes is stored as pixels."""
        return self.encoding == "raw" or (self.encoding == MIXED and size == raw_bytes(self.size))

    def extension(self, size: int) -> str:
        return MEMBER["raw" if self.is_raw(size) else "jpeg"]


@dataclass(frozen=True)
class Job:
    """Tar number `shard` of a split to check: `rows` are its rows of `index`, None where that cannot be read."""

    folder: Path
    tar: Tar
    index: str
    shard: int
    rows: NDArray[np.void] | None
    kind: Kind
    quick: bool

    @property
    def idx(self) -> str:
        return Path(self.tar.file).with_suffix(".idx").name


class Place(NamedTuple):
    """Of a sample in its tar: first byte and number of bytes of the image, number of bytes of the label."""

    offset: int
    size: int
    label_size: int

    @property
    def end(self) -> int:
        return self.offset + _padded(self.size)


class Sample(NamedTuple):
    key: str
    place: Place


class Row(NamedTuple):
    """A row of INDEX_DTYPE."""

    shard: int
    offset: int
    size: int
    label: int
    crc32: int

    @property
    def place(self) -> Place:
        return Place(self.offset, self.size, len(str(self.label)))


def verify(folder: Path, quick: bool, workers: int, progress: Callable[[int], None]) -> list[Damage]:
    """Checks everything that the manifest, the indexes and the tars say of each other, and decodes every image.

    `quick` looks at sizes and indexes alone, and into a tar only where its indexes differ. `progress` is told the
    samples of each tar that is done. Raises InputError when `folder` has no readable manifest.
    """
    manifest = ShardSet(folder).manifest
    smallest = -(-7 * manifest.size // 8) if manifest.keep else manifest.size
    kind = Kind(manifest.encoding, smallest, manifest.size, len(manifest.classes))
    damage: list[Damage] = []
    jobs: list[Job] = []
    for split, tars in manifest.splits.items():
        name = index_name(split)
        rows: list[NDArray[np.void]] | list[None] = [None] * len(tars)
        try:
            index = load_index(folder / name)
            if _goes_on(folder / name):
                raise InputError(f"{folder / name} has more than the {len(index):,} samples of its header")
        except InputError as error:
            damage.append(Damage(name, "", str(error)))
        else:
            damage += _check_index(split, index, manifest)
            rows = _rows_of_tars(index, tars)
        jobs += [Job(folder, tar, name, shard, rows[shard], kind, quick) for shard, tar in enumerate(tars)]
    with ProcessPoolExecutor(workers, mp_context=get_context("forkserver")) as pool:
        for job, found in zip(jobs, pool.map(check_tar, jobs), strict=True):
            damage += found
            progress(job.tar.samples)
    return damage + list(_check_others(folder, manifest, any(one.file == MANIFEST for one in damage)))


def _check_index(split: str, index: NDArray[np.void], manifest: Manifest) -> Iterator[Damage]:
    """What no single row shows."""
    name, tars, labels = index_name(split), manifest.splits[split], index["label"]
    total = sum(tar.samples for tar in tars)
    outside = int((index["shard"] >= len(tars)).sum())
    if outside and len(index) != total:
        yield Damage(name, "", f"{outside:,} samples are in tars that the manifest does not list")
    if not manifest.counts or ((labels < UNLABELLED) | (labels >= len(manifest.classes))).any():
        return
    stated = manifest.counts.get(split, [])
    if stated != np.bincount(labels[labels >= 0], minlength=len(manifest.classes)).tolist():
        possible = len(stated) == len(manifest.classes) and sum(stated) in (0, total)
        problem = "the samples of each class are not as many as the manifest says"
        yield Damage(name, "", problem) if possible else Damage(MANIFEST, "", f"its counts of {split} cannot be right")


def _goes_on(index: Path) -> bool:
    """Whether an index has bytes that numpy does not read: the number of rows in its header is damaged."""
    with index.open("rb") as file:
        np.load(file, allow_pickle=False)
        return bool(file.read(1))


def _rows_of_tars(index: NDArray[np.void], tars: list[Tar]) -> list[NDArray[np.void]]:
    """By the stored order, which a damaged row does not change; by what the rows say where some are missing."""
    ends = np.cumsum([tar.samples for tar in tars])
    if len(index) == ends[-1:].sum():
        return np.split(index, ends[:-1])
    return [index[index["shard"] == shard] for shard in range(len(tars))]


def _check_others(folder: Path, manifest: Manifest, manifest_is_damaged: bool) -> Iterator[Damage]:
    """Tars that other readers would take for ours, and side files that say something else than the manifest."""
    listed = {tar.file for tars in manifest.splits.values() for tar in tars}
    for path in sorted(folder.glob("*.tar")):
        if path.name not in listed:
            yield Damage(path.name, "", "is not in the manifest")
    for name, data in side_files(manifest).items():
        path = folder / name
        if not manifest_is_damaged and path.is_file() and path.read_bytes() != data:
            yield Damage(name, "", "does not agree with the manifest")


def check_tar(job: Job) -> list[Damage]:
    """All that is wrong with one tar, its DALI index and its rows."""
    path = job.folder / job.tar.file
    try:
        with path.open("rb") as file:
            intact = not job.quick and _sha256(path) == job.tar.sha256
            return list(_Check(job, file, intact).run())
    except OSError as error:
        return [Damage(job.tar.file, "", f"cannot be opened ({error.strerror})")]


class _Check:
    """The check of one tar; `intact`: its sha256 is the manifest's."""

    def __init__(self, job: Job, file: BinaryIO, intact: bool) -> None:
        self.job, self.file, self.intact = job, file, intact
        self.size = file.seek(0, 2)
        self.labels = {str(label).encode() for label in range(UNLABELLED, job.kind.classes)}

    def run(self) -> Iterator[Damage]:
        job = self.job
        rows = None if job.rows is None else [Row(*row) for row in job.rows.tolist()]
        try:
            text = (job.folder / job.idx).read_text(encoding="ascii", errors="replace")
            head, *lines = text.removesuffix("\n").split("\n")
        except OSError as error:
            yield Damage(job.idx, "", f"cannot be read ({error})")
            head, lines = "", None
        walked = list(self.walk()) if self.intact else []
        listed = {MANIFEST: job.tar.samples}
        listed |= {name: len(samples) for name, samples in ((job.idx, lines), (job.index, rows)) if samples is not None}
        number = mode([len(walked)] * self.intact + list(listed.values()))  # the first of them where each is alone
        for name, count in listed.items():
            if count != number or (name == job.idx and head != f"{IDX_VERSION} {number}"):
                yield Damage(name, "", f"does not list {number:,} samples of {job.tar.file}")
        found = list(self.samples(rows or [], lines or [], walked, number))
        yield from found
        tar_is_damaged = rows is None or len(rows) != number or any(one.file == job.tar.file for one in found)
        if not job.quick and not self.intact:
            if tar_is_damaged:
                yield Damage(job.tar.file, "", "its sha256 is not the manifest's")
            else:
                yield Damage(MANIFEST, "", f"its sha256 of {job.tar.file} is wrong: all of the tar is whole")

    def samples(self, rows: list[Row], lines: list[str], walked: list[Sample], number: int) -> Iterator[Damage]:
        """All samples, one after another: they fill the tar without a gap."""
        row_of = _finder(rows, [row.offset for row in rows], number)
        parsed = [self.parse(line) for line in lines]
        line_of = _finder(list(zip(lines, parsed, strict=True)), [one and one.place.offset for one in parsed], number)
        at = 0
        for position in range(number):
            row = row_of(position, at + HEAD)
            line, said = line_of(position, at + HEAD) or ("", None)
            sample = walked[position] if position < len(walked) else self.find(at, row, said)
            if sample is None:
                yield Damage(self.job.tar.file, self.key(at), "its headers are damaged and no index says where it is")
                later = range(at + BLOCK, self.size, BLOCK)
                at = next((start for start in later if self.sample_at(start)), self.size)
                continue
            if lines and line != self.line(sample):
                yield Damage(self.job.idx, sample.key, f"says {line!r}, not {self.line(sample)!r}")
            if rows:
                yield from self.check_row(row, sample)
            yield from self.check_sample(row, sample)
            at = sample.place.end
        yield from self.check_end(at)

    def find(self, at: int, row: Row | None, said: Sample | None) -> Sample | None:
        """The sample that starts at `at`, as far as its row, its line or its headers can tell."""
        if row and said and row.place == said.place:
            return said
        places = [one.place for one in (row, said) if one]
        places.sort(key=lambda place: place.offset != at + HEAD)
        for start, place in [*((place.offset - HEAD, place) for place in places), (at, None)]:
            sample = self.sample_at(start)
            if sample and place in (sample.place, None):
                return sample
        if not places:
            return None
        return said if said and said.place == places[0] else Sample(self.key(places[0].offset - HEAD), places[0])

    def check_row(self, row: Row | None, sample: Sample) -> Iterator[Damage]:
        if row is None:
            yield Damage(self.job.index, sample.key, "has no row for it")
            return
        place = sample.place
        right: dict[str, object] = {"shard": self.job.shard, "offset": place.offset, "size": place.size}
        if self.intact or row.place.label_size != place.label_size:
            right["label"] = self.read(place.offset - 2 * BLOCK, place.label_size).decode("ascii", "replace")
        if self.intact:
            right["crc32"] = zlib.crc32(self.read(place.offset, place.size))
        values = row._asdict()
        wrong = [
            f"{name} {values[name]}, not {value}" for name, value in right.items() if str(values[name]) != str(value)
        ]
        if not wrong and not UNLABELLED <= row.label < self.job.kind.classes:
            wrong = [f"label {row.label}, which is of no class"]
        if wrong:
            yield Damage(self.job.index, sample.key, f"has {'; '.join(wrong)}")

    def check_sample(self, row: Row | None, sample: Sample) -> Iterator[Damage]:
        """The tar's own bytes: two headers, the label, the image and the zeros that fill their last blocks."""
        tar, (key, place) = self.job.tar.file, sample
        if place.end > self.size:
            yield Damage(tar, key, "lies beyond the end of the tar")
        if self.job.quick or place.end > self.size:
            return
        content = self.read(place.offset - HEAD, HEAD + _padded(place.size))
        if len(content) != HEAD + _padded(place.size):
            yield Damage(tar, key, "cannot be read from the disk")
            return
        image_at = HEAD + place.size
        members = [(f"{key}.cls", place.label_size), (f"{key}.{self.job.kind.extension(place.size)}", place.size)]
        for (name, size), start in zip(members, (0, 2 * BLOCK), strict=True):
            header = _header(content[start : start + BLOCK])
            if header is None:
                yield Damage(tar, key, f"the header of {name} is damaged")
            elif header != (name, size):
                yield Damage(tar, key, f"the tar holds {header[0]} of {header[1]:,} bytes in place of {name}")
        label, filling = content[BLOCK : 2 * BLOCK][: place.label_size], content[BLOCK + place.label_size : 2 * BLOCK]
        if any(filling) or any(content[image_at:]):
            yield Damage(tar, key, "what fills its last block is not zeros")
        listed = str(row.label).encode() if row and not self.intact else label
        if label != listed and len(label) == len(listed) and listed in self.labels:
            yield Damage(tar, key, f"its label is {label!r} in the tar, {listed!r} in the index")
        elif label not in self.labels:
            yield Damage(tar, key, f"its label {label!r} is of no class")
        image = content[HEAD:image_at]
        if row and not self.intact and zlib.crc32(image) != row.crc32:
            yield Damage(tar, key, "its crc32 is not the index's")
        elif problem := _image_problem(image, self.job.kind):
            yield Damage(tar, key, problem)

    def check_end(self, end: int) -> Iterator[Damage]:
        """What follows the last sample: two blocks of zeros or more, up to a whole record."""
        tar = self.job.tar
        if self.size != tar.bytes:
            record = tarfile.RECORDSIZE
            whole = self.size == -(-(end + 2 * BLOCK) // record) * record  # just what its samples need
            name, problem = (MANIFEST, f"of {tar.file}: ") if whole else (tar.file, "")
            yield Damage(name, "", f"{problem}has {self.size:,} bytes, the manifest says {tar.bytes:,}")
        rest = b"" if self.job.quick else self.read(end, self.size - end)
        if any(rest):
            member = _header(rest[:BLOCK])
            what = member[0] if member else "something"
            yield Damage(tar.file, "", f"holds {what} after its last sample, which no index lists")
        elif not self.job.quick and len(rest) < 2 * BLOCK:
            yield Damage(tar.file, "", "does not end in two blocks of zeros")

    def walk(self) -> Iterator[Sample]:
        at = 0
        while sample := self.sample_at(at):
            yield sample
            at = sample.place.end

    def sample_at(self, start: int) -> Sample | None:
        """By its headers; None unless both are whole and belong together."""
        head = self.read(start, HEAD)
        label, image = _header(head[:BLOCK]), _header(head[2 * BLOCK :])
        if label is None or image is None or not 0 < label[1] <= BLOCK:
            return None
        key = label[0].removesuffix(".cls")
        fits = (label[0], image[0]) == (f"{key}.cls", f"{key}.{self.job.kind.extension(image[1])}")
        return Sample(key, Place(start + HEAD, image[1], label[1])) if fits else None

    def key(self, start: int) -> str:
        """Of the sample there, from either header."""
        headers = [_header(self.read(at, BLOCK)) for at in (start, start + 2 * BLOCK)]
        names = [header[0] for header in headers if header]
        return names[0].rpartition(".")[0] if names else f"at byte {start}"

    def line(self, sample: Sample) -> str:
        """What DALI's index says of it."""
        key, (offset, size, label_size) = sample
        extension = self.job.kind.extension(size)
        return f"cls {offset - 2 * BLOCK} {label_size} {key}.cls {extension} {offset} {size} {key}.{extension}"

    def parse(self, line: str) -> Sample | None:
        match = re.fullmatch(r"cls \d+ (\d{1,9}) (\S+)\.cls \w+ (\d{1,18}) (\d{1,18}) \S+", line, re.ASCII)
        if match is None:
            return None
        sample = Sample(match[2], Place(int(match[3]), int(match[4]), int(match[1])))
        return sample if self.line(sample) == line else None

    def read(self, start: int, length: int) -> bytes:
        """Fewer bytes where the tar or the disk has no more."""
        if not 0 <= start < self.size:
            return b""
        try:
            self.file.seek(start)
            return self.file.read(length)
        except OSError:
            return b""


def _finder(entries: list[T], offsets: list[int | None], number: int) -> Callable[[int, int], T | None]:
    """Finds the entry of a sample by its position; by its offset where entries are missing or too many."""
    if len(entries) == number:
        return lambda position, offset: entries[position]
    by_offset = dict(zip(offsets, entries, strict=True))
    return lambda position, offset: by_offset.get(offset)


def _header(block: bytes) -> tuple[str, int] | None:
    """Name and size of a tar's member; None when any of the header's bytes is damaged."""
    if len(block) != BLOCK or block[148:156] != b"%06o\0 " % (sum(block[:148]) + 8 * ord(" ") + sum(block[156:])):
        return None
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "replace")
    except tarfile.HeaderError:
        return None
    return info.name, info.size


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _sha256(path: Path) -> str:
    try:
        return file_digest(path, "sha256")
    except OSError:  # the disk: the samples that it cannot give are named
        return ""


def _image_problem(data: bytes, kind: Kind) -> str:
    """Empty when the bytes are an image as the manifest says."""
    size = kind.size
    try:
        if kind.is_raw(len(data)):
            pixels = np.load(io.BytesIO(data), allow_pickle=False)
            shape, right = pixels.shape, pixels.shape == (size, size, 3) and pixels.dtype == np.uint8
        else:
            shape = simplejpeg.decode_jpeg_header(data)[:2]  # first: a damaged one can claim a size beyond all memory
            right = shape[0] == shape[1] and kind.smallest <= shape[0] <= size
            if right:  # grey or in colour: simplejpeg made it, or has decoded it when it was kept
                simplejpeg.decode_jpeg(data, strict=True)
    except Exception as error:  # numpy and simplejpeg raise many kinds on damaged bytes
        return f"does not decode ({str(error) or type(error).__name__})"
    return "" if right else f"is {' x '.join(map(str, shape))}, not {size} x {size}"
