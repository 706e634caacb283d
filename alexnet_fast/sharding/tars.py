"""Writes one tar of a shard set, with its DALI index and a record of it: the job of a worker."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isal import isal_zlib

from alexnet_fast.errors import InputError, descriptor_error
from alexnet_fast.sharding.output import Output, sealed, unsealed
from alexnet_fast.sharding.plan import Job, Options
from alexnet_fast.sharding.pool import report
from alexnet_fast.sharding.reading import read_images
from alexnet_fast.sharding.statistics import PixelSums
from alexnet_fast.shards.format import FULL, MEMBER, MIXED, SQUARE, WORK, Tar, raw_bytes, tar_name

if TYPE_CHECKING:
    from alexnet_fast.sharding.decode import Converted

EMPTY_HEADER = tarfile.TarInfo().tobuf(tarfile.USTAR_FORMAT)
Name = tuple[str, int]
"""A tar: its split, and its number there."""


@dataclass(frozen=True)
class TarRecord:
    """What the manifest and the index need of a finished tar.

    `rows` are those of the split's index, `rejected` is (path, reason) of each file that is no readable image;
    `originals` has a number for the file of each row, the same for files of the same bytes. `enlarged` counts the
    images below the set's size; `not_kept`, with --keep, those made anew, by reason.
    """

    tar: Tar
    rows: list[list[int]]
    pixels: PixelSums
    rejected: list[list[str]]
    originals: list[int] = field(default_factory=list)
    enlarged: int = 0
    not_kept: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps({**vars(self), "tar": asdict(self.tar), "pixels": self.pixels.as_lists()})

    @classmethod
    def from_json(cls, text: str) -> TarRecord:
        body: dict[str, Any] = json.loads(text)
        return cls(**{**body, "tar": Tar(**body["tar"]), "pixels": PixelSums.from_lists(body["pixels"])})

    def save(self, output: Output, split: str, number: int) -> None:
        """Writes it: the tar is finished then."""
        output.write(record_name(split, number), sealed(self.to_json()))


def write_tar(job: Job) -> int:
    """Writes one tar, its DALI index and its record; returns the number of images read. Runs in a worker."""
    output = job.output
    rows, lines, rejected, originals = [], [], [], []
    sums, enlarged, not_kept = PixelSums(), 0, Counter[str]()
    temporary = output.temporary(str(job))
    try:
        with _HashedFile(temporary) as file:
            images = zip(read_images(job.root, job.images), job.raw, strict=True)
            for number, ((image, found), raw) in enumerate(images):
                report(number)
                encoding = "raw" if raw else "jpeg"
                try:
                    if isinstance(found, OSError):
                        raise found
                    pixels, data, is_enlarged, why = _convert(found, encoding, job.options)
                    shape = list(pixels.shape[:2]) if job.options.shape == FULL else []
                except (OSError, ValueError) as error:
                    if shortage := descriptor_error(error):
                        raise shortage from error
                    rejected.append([image.path, str(error)])
                    continue
                sums.add_image(pixels)
                originals.append(_number(found))
                enlarged += is_enlarged
                if why:
                    not_kept[why] += 1
                extension = MEMBER[encoding]
                label = str(image.label).encode()
                label_at = _add(file, f"{image.key}.cls", label)
                data_at = _add(file, f"{image.key}.{extension}", data)
                rows.append([job.number, data_at, len(data), image.label, isal_zlib.crc32(data), *shape])
                lines.append(
                    f"cls {label_at} {len(label)} {image.key}.cls "
                    f"{extension} {data_at} {len(data)} {image.key}.{extension}\n"
                )
                del pixels, data  # they may be large, and the next image has all the memory
            _end_tar(file)
        tar = Tar(str(job), len(rows), file.size, file.digest.hexdigest())
        record = TarRecord(tar, rows, sums, rejected, originals, enlarged, dict(not_kept))
        output.publish(temporary, str(job))
    finally:
        temporary.unlink(missing_ok=True)
    output.write(str(job).replace(".tar", ".idx"), (f"v1.2 {len(lines)}\n" + "".join(lines)).encode())
    record.save(output, job.split, job.number)
    return len(job.images)


def missing_tars(output: Output, names: list[Name]) -> list[Name]:
    """Returns those of the tars that have no record yet."""
    there = set(output.names(WORK))
    return [name for name in names if Path(record_name(*name)).name not in there]


def record_name(split: str, number: int) -> str:
    """Returns the name of a tar's record in the output."""
    return f"{WORK}/{tar_name(split, number)}.json"


def read_record(output: Output, split: str, number: int) -> TarRecord:
    """Returns a tar's record. Raises InputError, and deletes it, when it is corrupt or the tar has another size."""
    name = record_name(split, number)
    try:
        record = TarRecord.from_json(unsealed(output.read(name) or b""))
        problem = "" if output.size(record.tar.file) == record.tar.bytes else f"not {record.tar.bytes:,} bytes"
    except (ValueError, KeyError, TypeError) as error:
        problem = f"its record cannot be read ({error})"
    if problem:
        output.delete(name)
        raise InputError(f"{output}/{tar_name(split, number)} is damaged: {problem}. Run the same command again.")
    return record


def _convert(data: bytes, encoding: str, options: Options) -> Converted:
    """Returns the pixels and the bytes to store, as `decode.convert` does."""
    from alexnet_fast.sharding import decode  # may import torch: only where images are made

    found = decode.convert(
        data,
        shape=options.shape or SQUARE,
        size=options.size,
        encoding=encoding,
        quality=options.quality,
        keep=options.keep,
        rule=options.rule,
    )
    if options.encoding == MIXED and encoding == "jpeg" and len(found.data) == raw_bytes(options.size):
        # By its size it would count as raw; what follows the end of a JPEG, decoders do not read.
        return found._replace(data=found.data + b"\0")
    return found


def _number(data: bytes) -> int:
    """Returns crc32 and length as one number below 2**63: two files of one set have the same by chance in one of some
    10**12 pairs."""
    return isal_zlib.crc32(data) << 31 | len(data) & 0x7FFFFFFF


class _HashedFile:
    """A file open for writing, with the size and the sha256 of what was written."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self.digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.size += len(data)
        return self._file.write(data)

    def __enter__(self) -> _HashedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _add(file: _HashedFile, name: str, data: bytes) -> int:
    """Appends a tar member with fixed owner, mode and time; returns the offset of its first byte."""
    file.write(_header(name, len(data)))
    offset = file.size
    file.write(data)
    file.write(bytes(-len(data) % tarfile.BLOCKSIZE))
    return offset


def _header(name: str, size: int) -> bytes:
    """Returns the header of a TarInfo in USTAR format, in a fifth of the time: only name, size and checksum differ."""
    block = bytearray(EMPTY_HEADER)
    block[: len(name)] = name.encode("ascii")
    block[124:135] = b"%011o" % size
    block[148:156] = b" " * 8
    block[148:155] = b"%06o\0" % sum(block)
    return bytes(block)


def _end_tar(file: _HashedFile) -> None:
    """Writes two empty blocks, then zeros up to a whole record, as tar programs do."""
    end = file.size + 2 * tarfile.BLOCKSIZE
    file.write(bytes(end - file.size + -end % tarfile.RECORDSIZE))
