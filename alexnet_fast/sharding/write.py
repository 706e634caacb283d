"""Writes a shard set: an independent job a tar, each with a record of its completion, and the manifest at the end."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from alexnet_fast.console import Progress, Quiet
from alexnet_fast.errors import InputError
from alexnet_fast.sharding.budget import estimate_raw_share
from alexnet_fast.sharding.listing import Source
from alexnet_fast.sharding.output import WORK, Output, locked, one_at_a_time, sealed, unsealed
from alexnet_fast.sharding.plan import PLAN, Job, Options, Plan, begin, begun_plan, jobs, make_plan
from alexnet_fast.sharding.pool import Pool, run
from alexnet_fast.sharding.reading import read_images
from alexnet_fast.sharding.statistics import PixelSums
from alexnet_fast.shards.format import (
    INDEX_DTYPE,
    MANIFEST,
    MEMBER,
    MIXED,
    Manifest,
    Tar,
    index_name,
    raw_bytes,
    tar_name,
)
from alexnet_fast.shards.sidecars import side_files
from alexnet_fast.text import byte_text

REJECTED = "rejected.jsonl"
EMPTY_HEADER = tarfile.TarInfo().tobuf(tarfile.USTAR_FORMAT)
Name = tuple[str, int]
"""Of a tar: split and number."""


@dataclass(frozen=True)
class Record:
    """What a finished tar leaves for the manifest. `rows` are those of the split's index, `rejected` is
    (path, reason) of each file that was no image."""

    tar: Tar
    rows: list[list[int]]
    pixels: PixelSums
    rejected: list[list[str]]

    def to_json(self) -> str:
        return json.dumps({**vars(self), "tar": asdict(self.tar), "pixels": self.pixels.as_lists()})

    @classmethod
    def from_json(cls, text: str) -> Record:
        body: dict[str, Any] = json.loads(text)
        return cls(Tar(**body["tar"]), body["rows"], PixelSums.from_lists(body["pixels"]), body["rejected"])


@dataclass(frozen=True)
class Summary:
    """`images`, `rejected` and `shards` count what is in the output; `written` the images of this run.
    `complete`: the manifest is there."""

    images: int
    rejected: int
    shards: int
    written: int
    seconds: float
    complete: bool


@dataclass(frozen=True)
class Part:
    """Part `index` (from 1) of `count`: every `count`-th tar of the plan."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def write_shard_set(
    source: Source,
    output: Output,
    options: Options,
    pool: Callable[[], Pool],
    *,
    part: Part | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Writes what is missing of `source` in `output`, and the manifest once all of it is there.

    A run that was killed at any moment is gone on with by the same call: finished tars are kept. Files that are no
    readable images are left out and listed in `rejected.jsonl`.
    Raises InputError when the output holds something else or is being written to, the disk is full, the budget of a
    mixed set is too small, a worker was killed twice over one tar, or no image of a split could be read.
    """
    started = perf_counter()
    progress = progress or Quiet("", 1)
    plan = make_plan(source, options)
    try:
        finished = _is_finished(output, plan)
        with nullcontext() if finished else locked(output, str(part) if part else None):
            if finished or _is_finished(output, plan):  # by a run that ended just before this one had the lock
                output.delete(WORK)
                return _summary(output, 0, started)
            if part is None:
                output.tidy()
            with one_at_a_time(output):
                plan = begin(plan, output, partial(estimate_raw_share, source, plan, progress.say))
            names = list(plan.tar_names())
            mine = names if part is None else names[part.index - 1 :: part.count]
            written = _write_tars(source, plan, output, mine, pool, progress)
            if output.size(MANIFEST) is None and _missing(output, names):
                return Summary(written, 0, len(mine), written, perf_counter() - started, complete=False)
            _finish(output, plan)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(_disk_full(plan, output)) from error
        raise
    return _summary(output, written, started)


def finish_shard_set(output: Output) -> Summary:
    """Writes the manifest of a set whose parts are all there; raises InputError naming the tars that are not."""
    started = perf_counter()
    if output.size(MANIFEST) is None:
        plan = begun_plan(output)
        missing = _missing(output, list(plan.tar_names()))
        if missing:
            some = ", ".join(tar_name(*name) for name in missing[:5])
            raise InputError(
                f"{len(missing):,} of {sum(plan.tars.values()):,} tars of {output} are missing: {some}"
                f"{' ...' if len(missing) > 5 else ''}. Run the parts that write them (--part I/N), or all with --src."
            )
        _finish(output, plan)
    output.delete(WORK)
    return _summary(output, 0, started)


def write_tar(job: Job) -> int:
    """Writes one tar, its DALI index and its record; returns the number of images read. Runs in a worker."""
    output = job.output
    rows, lines, rejected = [], [], []
    sums = PixelSums()
    temporary = output.temporary(str(job))
    try:
        with _HashedFile(temporary) as file:
            for (image, found), raw in zip(read_images(job.root, job.images), job.raw, strict=True):
                encoding = "raw" if raw else "jpeg"
                try:
                    if isinstance(found, OSError):
                        raise found
                    pixels, data = _convert(found, encoding, job.options)
                except (OSError, ValueError) as error:
                    rejected.append([image.path, str(error)])
                    continue
                sums.add_image(pixels)
                extension = MEMBER[encoding]
                label = str(image.label).encode()
                label_at = _add(file, f"{image.key}.cls", label)
                data_at = _add(file, f"{image.key}.{extension}", data)
                rows.append([job.number, data_at, len(data), image.label, isal_zlib.crc32(data)])
                lines.append(
                    f"cls {label_at} {len(label)} {image.key}.cls "
                    f"{extension} {data_at} {len(data)} {image.key}.{extension}\n"
                )
            _end_tar(file)
        record = Record(Tar(str(job), len(rows), file.size, file.digest.hexdigest()), rows, sums, rejected)
        output.publish(temporary, str(job))
    finally:
        temporary.unlink(missing_ok=True)
    output.write(str(job).replace(".tar", ".idx"), (f"v1.2 {len(lines)}\n" + "".join(lines)).encode())
    output.write(_record_name(job.split, job.number), sealed(record.to_json()))
    return len(job.images)


def _convert(data: bytes, encoding: str, options: Options) -> tuple[NDArray[np.uint8], bytes]:
    """The pixels and the bytes to store, as `decode.convert` makes them."""
    from alexnet_fast.sharding import decode  # may import torch: only where images are made

    pixels, stored = decode.convert(
        data, size=options.size, encoding=encoding, quality=options.quality, keep=options.keep
    )
    if options.encoding == MIXED and encoding == "jpeg" and len(stored) == raw_bytes(options.size):
        stored += b"\0"  # by its size it would count as raw; what follows the end of a JPEG, decoders do not read
    return pixels, stored


def _write_tars(
    source: Source, plan: Plan, output: Output, names: list[Name], pool: Callable[[], Pool], progress: Progress
) -> int:
    """Writes those of the tars that are not there; returns the number of images it read."""
    missing = _missing(output, names)
    if len(missing) < len(names):
        progress.say(f"going on: {len(names) - len(missing):,} of {len(names):,} tars are there already")
    images = sum(plan.images_in(*name) for name in missing)
    progress.expect(images)
    if missing:
        count = progress.counter("images")
        run(pool(), write_tar, jobs(source, plan, output, set(missing)), count, progress.say)
    return images


def _finish(output: Output, plan: Plan) -> None:
    """Reads the records; writes indexes, side files, and the manifest last: a folder that has one is complete."""
    with one_at_a_time(output):
        if output.read(PLAN) is not None:
            _write_manifest(output, plan)


def _write_manifest(output: Output, plan: Plan) -> None:
    sums = PixelSums()
    tars: dict[str, list[Tar]] = {}
    counts: dict[str, list[int]] = {}
    rejected: list[str] = []
    for split, number_of_tars in plan.tars.items():
        records = [_read_record(output, split, number) for number in range(number_of_tars)]
        stored = [record for record in records if record.tar.samples]
        lines = [{"split": split, "path": path, "reason": reason} for r in records for path, reason in r.rejected]
        rejected += [json.dumps(line, ensure_ascii=False) + "\n" for line in lines]
        if not stored:
            for place in plan.tar_names():  # to be tried again
                if _read_record(output, *place).rejected:
                    output.delete(_record_name(*place))
            output.write(REJECTED, "".join(rejected).encode("utf-8", "surrogateescape"))
            raise InputError(
                f"no image of the split {split} could be read; the first was {lines[0]['path']} "
                f"({lines[0]['reason']}). {output}/{REJECTED} lists them all."
            )
        rows = [(shard, *row[1:]) for shard, record in enumerate(stored) for row in record.rows]
        index = np.array(rows, INDEX_DTYPE)
        file = io.BytesIO()
        np.save(file, index)
        output.write(index_name(split), file.getvalue())
        tars[split] = [record.tar for record in stored]
        labels = index["label"]
        counts[split] = np.bincount(labels[labels >= 0], minlength=len(plan.classes)).tolist()
        if split == "train":
            for record in records:
                sums.add(record.pixels)
        for record in records:
            if not record.tar.samples:  # DALI refuses an empty tar
                output.delete(record.tar.file)
                output.delete(record.tar.file.replace(".tar", ".idx"))
    options = plan.options
    manifest = Manifest(
        encoding=options.encoding,
        size=options.size,
        quality=options.quality if options.encoding != "raw" else None,
        raw_share=plan.raw_share,
        keep=options.keep,
        seed=options.seed,
        plan=plan.fingerprint(),
        classes=plan.classes,
        splits=tars,
        counts=counts,
        pixels=sums.statistics(),
    )
    if rejected:
        output.write(REJECTED, "".join(rejected).encode("utf-8", "surrogateescape"))
    else:
        output.delete(REJECTED)
    for name, data in side_files(manifest).items():
        output.write(name, data)
    output.write(MANIFEST, manifest.to_json().encode())
    output.delete(WORK)


def _is_finished(output: Output, plan: Plan) -> bool:
    """Raises InputError when the output holds another shard set."""
    text = output.read(MANIFEST)
    if text is None:
        return False
    try:
        same = Manifest.from_json(text.decode()).plan == plan.fingerprint()
    except (ValueError, KeyError, TypeError):
        same = False
    if not same:
        raise InputError(f"{output} already holds a shard set. Choose another --out, or delete that one first.")
    return True


def _summary(output: Output, written: int, started: float) -> Summary:
    manifest = Manifest.from_json((output.read(MANIFEST) or b"").decode())
    tars = [tar for split in manifest.splits.values() for tar in split]
    rejected = (output.read(REJECTED) or b"").count(b"\n")
    images = sum(tar.samples for tar in tars)
    return Summary(images, rejected, len(tars), written, perf_counter() - started, complete=True)


def _missing(output: Output, names: list[Name]) -> list[Name]:
    there = set(output.names(WORK))
    return [name for name in names if Path(_record_name(*name)).name not in there]


def _record_name(split: str, number: int) -> str:
    return f"{WORK}/{tar_name(split, number)}.json"


def _read_record(output: Output, split: str, number: int) -> Record:
    """Raises InputError when the record, or the tar it speaks of, is damaged."""
    name = _record_name(split, number)
    try:
        record = Record.from_json(unsealed(output.read(name) or b""))
        problem = "" if output.size(record.tar.file) == record.tar.bytes else f"not {record.tar.bytes:,} bytes"
    except (ValueError, KeyError, TypeError) as error:
        problem = f"its record cannot be read ({error})"
    if problem:
        output.delete(name)
        raise InputError(f"{output}/{tar_name(split, number)} is damaged: {problem}. Run the same command again.")
    return record


def _disk_full(plan: Plan, output: Output) -> str:
    """How much more is needed: by the finished tars, or, before the first one, by the size of typical JPEGs."""
    names = list(plan.tar_names())
    missing = set(_missing(output, names))
    sizes = [output.size(tar_name(*name)) or 0 for name in names if name not in missing]
    guess = sum(images * (0.4 + 2.6 * plan.raw_share_of(split)) for split, images in plan.images.items())
    guess = plan.options.size**2 * guess + 2048 * sum(plan.images.values())
    average = sum(sizes) / len(sizes) if sizes else guess / len(names)
    free = output.free()
    needed = f"about {byte_text(average * len(missing))} are needed for the {len(missing):,} tars to come"
    there = "" if free is None else f", {byte_text(free)} are free"
    return (
        f"no space left in {output}: {needed}{there}. Make room and run the same command again: "
        f"the {len(sizes):,} finished tars are kept."
    )


class _HashedFile:
    """A file open for writing that computes the sha256 of what is written, so that nothing is read again."""

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
    file.write(data + bytes(-len(data) % tarfile.BLOCKSIZE))
    return offset


def _header(name: str, size: int) -> bytes:
    """That of a TarInfo in USTAR format, at a fifth of its time: only name, size and checksum differ."""
    block = bytearray(EMPTY_HEADER)
    block[: len(name)] = name.encode("ascii")
    block[124:135] = b"%011o" % size
    block[148:156] = b" " * 8
    block[148:155] = b"%06o\0" % sum(block)
    return bytes(block)


def _end_tar(file: _HashedFile) -> None:
    """Two empty blocks, then up to a whole record, as tar programs write it."""
    end = file.size + 2 * tarfile.BLOCKSIZE
    file.write(bytes(end - file.size + -end % tarfile.RECORDSIZE))
