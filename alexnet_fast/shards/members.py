"""Samples in a tar, by their headers alone: label and image, each a member of its own."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

import numpy as np
import simplejpeg

from alexnet_fast.shards.format import FULL, MAX_ASPECT, MAX_PIXELS, MEMBER, MIXED, Manifest, raw_bytes

BLOCK = tarfile.BLOCKSIZE
HEAD = 3 * BLOCK
"""Bytes of a sample before its image: the label's header, the label, the image's header."""


@dataclass(frozen=True)
class Kind:
    """What the images of a set are: their shape, `smallest` to `size` pixels a shorter side, labels below `classes`."""

    encoding: str
    shape: str
    smallest: int
    size: int
    classes: int

    @classmethod
    def of(cls, manifest: Manifest) -> Kind:
        """Of a manifest's set."""
        smallest = -(-7 * manifest.size // 8) if manifest.keep else manifest.size
        return cls(manifest.encoding, manifest.shape, smallest, manifest.size, len(manifest.classes))

    def size_problem(self, height: int, width: int) -> str:
        """Why no image of the set has so many pixels, in words; empty when one may."""
        shorter, longer = sorted((height, width))
        if self.shape == FULL and not self.size:
            wanted = f"of 1 to {MAX_PIXELS:,} pixels"
            right = 0 < height * width <= MAX_PIXELS
        elif self.shape == FULL:
            wanted = f"of a shorter side of {self.size} and at most {MAX_ASPECT} times as long"
            right = self.smallest <= shorter <= self.size and longer <= MAX_ASPECT * shorter
        else:
            wanted = f"{self.size} x {self.size}"
            right = self.smallest <= shorter == longer <= self.size
        return "" if right else f"is {height} x {width}, not {wanted}"

    def is_raw(self, size: int) -> bool:
        """Whether an image of so many bytes is stored as pixels."""
        return self.encoding == "raw" or (self.encoding == MIXED and size == raw_bytes(self.size))

    def extension(self, size: int) -> str:
        """Of the image member."""
        return MEMBER["raw" if self.is_raw(size) else "jpeg"]


class Place(NamedTuple):
    """Where a sample is in its tar: first byte and number of bytes of the image, number of bytes of the label."""

    offset: int
    size: int
    label_size: int

    @property
    def end(self) -> int:
        return self.offset + padded(self.size)


class Sample(NamedTuple):
    key: str
    place: Place


class Row(NamedTuple):
    """A row of an index. `height` and `width`: of shape FULL alone, else 0."""

    shard: int
    offset: int
    size: int
    label: int
    crc32: int
    height: int = 0
    width: int = 0

    @property
    def place(self) -> Place:
        return Place(self.offset, self.size, len(str(self.label)))


class StoredTar:
    """An open tar of a shard set. `size`: its bytes."""

    def __init__(self, file: BinaryIO, kind: Kind) -> None:
        self.size = file.seek(0, 2)
        self._file, self._kind = file, kind

    def walk(self) -> Iterator[Sample]:
        """The samples from the tar's start on, as long as one follows another."""
        at = 0
        while sample := self.sample_at(at):
            yield sample
            at = sample.place.end

    def sample_at(self, start: int) -> Sample | None:
        """The sample that begins there, by its headers; None unless both are whole and belong together."""
        head = self.read(start, HEAD)
        label, image = member_of(head[:BLOCK]), member_of(head[2 * BLOCK :])
        if label is None or image is None or not 0 < label[1] <= BLOCK:
            return None
        key = label[0].removesuffix(".cls")
        fits = (label[0], image[0]) == (f"{key}.cls", f"{key}.{self._kind.extension(image[1])}")
        return Sample(key, Place(start + HEAD, image[1], label[1])) if fits else None

    def key_at(self, start: int) -> str:
        """The key of the sample that begins there, from either header."""
        headers = [member_of(self.read(at, BLOCK)) for at in (start, start + 2 * BLOCK)]
        names = [header[0] for header in headers if header]
        return names[0].rpartition(".")[0] if names else f"at byte {start}"

    def read(self, start: int, length: int) -> bytes:
        """Bytes of the tar; fewer where the tar ends or the disk cannot read more."""
        if not 0 <= start < self.size:
            return b""
        try:
            self._file.seek(start)
            return self._file.read(length)
        except OSError:
            return b""


def dali_line(sample: Sample, kind: Kind) -> str:
    """The line of a sample in DALI's index."""
    key, (offset, size, label_size) = sample
    extension = kind.extension(size)
    return f"cls {offset - 2 * BLOCK} {label_size} {key}.cls {extension} {offset} {size} {key}.{extension}"


def parse_dali_line(line: str, kind: Kind) -> Sample | None:
    """The sample of a line of DALI's index; None where `dali_line` gives another line."""
    match = re.fullmatch(r"cls \d+ (\d{1,9}) (\S+)\.cls \w+ (\d{1,18}) (\d{1,18}) \S+", line, re.ASCII)
    if match is None:
        return None
    sample = Sample(match[2], Place(int(match[3]), int(match[4]), int(match[1])))
    return sample if dali_line(sample, kind) == line else None


def member_of(block: bytes) -> tuple[str, int] | None:
    """Name and size of the member that a block is the header of; None when any of its bytes is corrupt."""
    if len(block) != BLOCK or block[148:156] != b"%06o\0 " % (sum(block[:148]) + 8 * ord(" ") + sum(block[156:])):
        return None
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "replace")
    except tarfile.HeaderError:
        return None
    return info.name, info.size


def padded(size: int) -> int:
    """The bytes of the whole blocks that so many bytes take."""
    return -(-size // BLOCK) * BLOCK


def size_of(data: bytes, kind: Kind) -> tuple[int, int]:
    """Height and width of an image, by its header. Raises many kinds of Exception where that is corrupt."""
    if not kind.is_raw(len(data)):
        height, width = simplejpeg.decode_jpeg_header(data)[:2]
        return height, width
    file = io.BytesIO(data)
    np.lib.format.read_magic(file)
    (height, width, channels), fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if (channels, fortran, dtype.str) != (3, False, "|u1") or len(data) != file.tell() + 3 * height * width:
        raise ValueError("not pixels of RGB")
    return height, width


def image_problem(data: bytes, kind: Kind) -> str:
    """Why the bytes are no image as the manifest describes it, in words; empty when they are."""
    try:
        problem = kind.size_problem(*size_of(data, kind))  # first: a corrupt one can claim a size beyond all memory
        if not problem and not kind.is_raw(len(data)):
            simplejpeg.decode_jpeg(data, strict=True)  # grey or in colour: simplejpeg made or has decoded it before
    except Exception as error:  # numpy and simplejpeg raise many kinds on corrupt bytes
        return f"does not decode ({str(error) or type(error).__name__})"
    return problem
