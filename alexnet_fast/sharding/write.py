"""Writes a shard set: a seeded global order, then one independent job a tar, on a pool of processes."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import zlib
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from alexnet_fast.errors import InputError
from alexnet_fast.sharding.sources import Image, Source
from alexnet_fast.sharding.statistics import PixelSums
from alexnet_fast.shardset import INDEX_DTYPE, MANIFEST, MEMBER, Manifest, Tar, index_name, tar_name

SAMPLES_PER_TAR = 1000
MIN_TARS = 8
"""A small set is still cut in a few tars, so that several processes have work."""


@dataclass(frozen=True)
class Options:
    """`size`: pixels of the stored square; `quality`: of JPEG, 1 to 100; `seed`: of the stored order."""

    encoding: str = "jpeg"
    quality: int = 90
    size: int = 256
    seed: int = 0


@dataclass(frozen=True)
class Job:
    """A tar to write: which images, in which order. A pure function of the listing, the options and the seed."""

    split: str
    number: int
    images: list[Image]
    options: Options
    out: Path


@dataclass(frozen=True)
class Done:
    """What a job reports back."""

    job: Job
    tar: Tar
    index: NDArray[np.void]
    pixels: PixelSums
    rejected: list[dict[str, str]]


@dataclass(frozen=True)
class Summary:
    images: int
    rejected: int
    shards: int
    seconds: float


def write_shard_set(
    source: Source, out: Path, options: Options, workers: int, progress: Callable[[int], None]
) -> Summary:
    """Writes `source` to the folder `out`; `progress` is told the number of images each finished tar took.

    Everything is written under a temporary name and renamed; the manifest comes last, so a folder with a manifest
    is complete. Files that are not readable images are skipped and listed in `rejected.jsonl`.
    Raises InputError when `out` cannot take a new shard set, or no image at all could be read.
    """
    started = perf_counter()
    _prepare(out)
    jobs = plan_jobs(source, out, options)
    done = _run(jobs, workers, progress)
    by_split = {split: [d for d in done if d.job.split == split] for split in source.splits}
    rejected = [row for d in done for row in d.rejected]
    if rejected:
        _write(out / "rejected.jsonl", "".join(json.dumps(row) + "\n" for row in rejected).encode())
    for split, parts in by_split.items():
        if not sum(d.tar.samples for d in parts):
            first = next(row for d in parts for row in d.rejected)
            raise InputError(
                f"no image of the split {split} could be read; the first was {first['path']} "
                f"({first['reason']}). {out / 'rejected.jsonl'} lists them all."
            )
        file = io.BytesIO()
        np.save(file, np.concatenate([d.index for d in parts]))
        _write(out / index_name(split), file.getvalue())
    sums = PixelSums()
    for part in by_split["train"]:
        sums.add(part.pixels)
    manifest = Manifest(
        encoding=options.encoding,
        size=options.size,
        quality=options.quality if options.encoding == "jpeg" else None,
        seed=options.seed,
        classes=[{"id": name, "name": name} for name in source.classes],
        splits={split: [d.tar for d in parts] for split, parts in by_split.items()},
        pixels=sums.statistics(),
    )
    _write(out / MANIFEST, manifest.to_json().encode())
    stored = sum(d.tar.samples for d in done)
    return Summary(stored, len(rejected), len(done), perf_counter() - started)


def plan_jobs(source: Source, out: Path, options: Options) -> list[Job]:
    """Shuffles each split by (seed, split) and cuts it into tars of near-equal length."""
    jobs = []
    for part, (split, images) in enumerate(source.splits.items()):
        random = np.random.Generator(np.random.Philox(key=np.array([options.seed, part], np.uint64)))
        order = random.permutation(len(images))
        tars = max(-(-len(images) // SAMPLES_PER_TAR), min(MIN_TARS, -(-len(images) // 16)))
        for number, rows in enumerate(np.array_split(order, tars)):
            jobs.append(Job(split, number, [images[row] for row in rows], options, out))
    return jobs


def write_tar(job: Job) -> Done:
    """Writes one tar and its DALI index; runs in a worker process."""
    from alexnet_fast.sharding import resize  # imports torch: only where images are made

    extension = MEMBER[job.options.encoding]
    tar_path = job.out / tar_name(job.split, job.number)
    rows, lines, rejected = [], [], []
    sums = PixelSums()
    temporary = _temporary(tar_path)
    with tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
        for image in job.images:
            try:
                pixels = resize.to_square(Path(image.path).read_bytes(), job.options.size)
            except (OSError, ValueError) as error:
                rejected.append({"path": image.path, "reason": str(error)})
                continue
            sums.add_image(pixels)
            data = resize.encode(pixels, job.options.encoding, job.options.quality)
            label = str(image.label).encode()
            label_at = _add(tar, f"{image.key}.cls", label)
            data_at = _add(tar, f"{image.key}.{extension}", data)
            rows.append((job.number, data_at, len(data), image.label, zlib.crc32(data)))
            lines.append(
                f"cls {label_at} {len(label)} {image.key}.cls {extension} {data_at} {len(data)} {image.key}.{extension}"
            )
    digest = _finish(temporary, tar_path)
    index = f"v1.2 {len(lines)}\n" + "".join(line + "\n" for line in lines)
    _write(tar_path.with_suffix(".idx"), index.encode())
    tar_record = Tar(tar_path.name, len(rows), tar_path.stat().st_size, digest)
    return Done(job, tar_record, np.array(rows, INDEX_DTYPE), sums, rejected)


def _run(jobs: list[Job], workers: int, progress: Callable[[int], None]) -> list[Done]:
    """Runs the jobs on `workers` processes; the results are in the order of the jobs."""
    results: dict[int, Done] = {}
    pool = ProcessPoolExecutor(workers, mp_context=get_context("forkserver"), initializer=_start_worker)
    with pool:
        futures = {pool.submit(write_tar, job): number for number, job in enumerate(jobs)}
        try:
            for future in as_completed(futures):
                number = futures[future]
                results[number] = future.result()
                progress(len(jobs[number].images))
        except BrokenProcessPool as error:
            raise InputError(
                "a worker process was killed, most often for want of memory. Run it again with fewer --workers."
            ) from error
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return [results[number] for number in range(len(jobs))]


def _start_worker() -> None:
    import signal

    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    torch.set_num_threads(1)


def _prepare(out: Path) -> None:
    if (out / MANIFEST).exists():
        raise InputError(f"{out} already holds a shard set. Choose another --out, or delete that folder first.")
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file. --out takes a folder.")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out} cannot be made ({error.strerror}). Choose another --out.") from error
    (out / "rejected.jsonl").unlink(missing_ok=True)  # of an earlier run that failed


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> int:
    """Appends a member with fixed owner, mode and time; returns the offset of its first byte."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
    padded = -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    return int(tar.offset) - padded


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")


def _finish(temporary: Path, final: Path) -> str:
    """Flushes to disk, renames, and returns the sha256 of the content."""
    with temporary.open("rb") as file:
        digest = hashlib.sha256()  # hashlib.file_digest needs Python 3.11
        while block := file.read(1 << 20):
            digest.update(block)
        os.fsync(file.fileno())
    os.replace(temporary, final)
    return digest.hexdigest()


def _write(path: Path, data: bytes) -> None:
    _temporary(path).write_bytes(data)
    _finish(_temporary(path), path)
