"""`alexnet-fast verify`: reads a shard set again and names every damaged file and sample."""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alexnet_fast.errors import InputError
from alexnet_fast.interop import side_files
from alexnet_fast.shardset import (
    INDEX_DTYPE,
    MEMBER,
    UNLABELLED,
    Manifest,
    ShardSet,
    Tar,
    file_digest,
    index_name,
    load_index,
)

IDX_VERSION = "v1.2"


@dataclass(frozen=True)
class Damage:
    """`file`: in the shard set's folder; `sample`: its key, or empty when the file as a whole is meant."""

    file: str
    sample: str
    problem: str


@dataclass(frozen=True)
class Job:
    """One tar to check: `rows` are its rows of the split's index; `smallest` to `size` pixels is an image's side."""

    folder: Path
    tar: Tar
    rows: NDArray[np.void]
    encoding: str
    smallest: int
    size: int
    quick: bool


def verify(folder: Path, quick: bool, workers: int, progress: Callable[[int], None]) -> list[Damage]:
    """Checks everything that the manifest, the indexes and the tars say of each other, and decodes every image.

    `quick` looks at sizes and indexes alone. `progress` is told the samples of each tar that is done.
    Raises InputError when `folder` has no readable manifest.
    """
    manifest = ShardSet(folder).manifest
    damage = list(_strangers(folder, manifest))
    jobs: list[Job] = []
    smallest = -(-7 * manifest.size // 8) if manifest.keep else manifest.size
    for split, tars in manifest.splits.items():
        try:
            index = load_index(folder / index_name(split))
        except InputError as error:
            damage.append(Damage(index_name(split), "", str(error)))
            index = np.empty(0, INDEX_DTYPE)
        else:
            damage += _check_index(split, index, manifest)
        index = index[np.argsort(index["shard"], kind="stable")]
        ends = np.searchsorted(index["shard"], np.arange(len(tars) + 1))
        rows = [index[start:end] for start, end in pairwise(ends)]
        kind = (manifest.encoding, smallest, manifest.size)
        jobs += [Job(folder, tar, part, *kind, quick) for tar, part in zip(tars, rows, strict=True)]
    with ProcessPoolExecutor(workers, mp_context=get_context("forkserver")) as pool:
        for job, found in zip(jobs, pool.map(check_tar, jobs), strict=True):
            damage += found
            progress(job.tar.samples)
    return damage


def check_tar(job: Job) -> list[Damage]:
    """All that is wrong with one tar and its DALI index."""
    path = job.folder / job.tar.file
    try:
        size = path.stat().st_size
    except OSError as error:
        return [Damage(job.tar.file, "", f"cannot be opened ({error.strerror})")]
    damage = []
    if size != job.tar.bytes:
        damage.append(Damage(job.tar.file, "", f"has {size:,} bytes, the manifest says {job.tar.bytes:,}"))
    if len(job.rows) != job.tar.samples:
        problem = f"the index lists {len(job.rows):,} samples, the manifest {job.tar.samples:,}"
        damage.append(Damage(job.tar.file, "", problem))
    keys, found = _check_idx(job, size)
    damage += found
    if not job.quick:
        damage += _check_bytes(job, path, keys)
    return damage


def _strangers(folder: Path, manifest: Manifest) -> Iterator[Damage]:
    """Tars that other readers would take for ours, and side files that say something else than the manifest."""
    listed = {tar.file for tars in manifest.splits.values() for tar in tars}
    for path in sorted(folder.glob("*.tar")):
        if path.name not in listed:
            yield Damage(path.name, "", "is not in the manifest")
    for name, data in side_files(manifest).items():
        path = folder / name
        if path.is_file() and path.read_bytes() != data:
            yield Damage(name, "", "does not agree with the manifest")


def _check_index(split: str, index: NDArray[np.void], manifest: Manifest) -> Iterator[Damage]:
    name, tars, labels = index_name(split), manifest.splits[split], index["label"]
    outside = int((index["shard"] >= len(tars)).sum())
    if outside:
        yield Damage(name, "", f"{outside:,} samples are in tars that the manifest does not list")
    wrong = (labels < UNLABELLED) | (labels >= len(manifest.classes))
    if wrong.any():
        yield Damage(name, "", f"{int(wrong.sum()):,} labels are of no class")
    counted = np.bincount(labels[(labels >= 0) & ~wrong], minlength=len(manifest.classes)).tolist()
    if manifest.counts and manifest.counts.get(split) != counted:
        yield Damage(name, "", "the samples of each class are not as many as the manifest says")


def _check_idx(job: Job, size: int) -> tuple[list[str], list[Damage]]:
    """Compares DALI's index with the rows; returns the keys of the samples as it has them."""
    name = Path(job.tar.file).with_suffix(".idx").name
    extension = MEMBER[job.encoding]
    try:
        head, *lines = (job.folder / name).read_text(encoding="ascii").splitlines()
    except (OSError, ValueError) as error:
        return [""] * len(job.rows), [Damage(name, "", f"cannot be read ({error})")]
    damage = []
    if head != f"{IDX_VERSION} {job.tar.samples}" or len(lines) != job.tar.samples:
        damage.append(Damage(name, "", f"does not list {job.tar.samples:,} samples"))
    keys = []
    for row, line in zip(job.rows, [*lines, *[""] * len(job.rows)], strict=False):
        words = line.split(" ")
        key = words[3].removesuffix(".cls") if len(words) == 8 else ""
        keys.append(key)
        offset, length, label = int(row["offset"]), int(row["size"]), str(row["label"])
        expected = f"{extension} {offset} {length} {key}.{extension}"
        fits = len(words) == 8 and words[0] == "cls" and words[2] == str(len(label)) and " ".join(words[4:]) == expected
        if not fits or not words[1].isdecimal():
            damage.append(Damage(name, key, f"says {line!r}, the split's index {expected!r}"))
        elif offset % 512 or int(words[1]) % 512 or offset + length > size:
            damage.append(Damage(name, key, "points outside the tar or between its blocks"))
    return keys, damage


def _check_bytes(job: Job, path: Path, keys: list[str]) -> Iterator[Damage]:
    if file_digest(path, "sha256") != job.tar.sha256:
        yield Damage(job.tar.file, "", "its sha256 is not the manifest's")
    yield from _check_members(job, path, keys)
    with path.open("rb") as file:
        for row, key in zip(job.rows, keys, strict=True):
            sample = key or f"at byte {row['offset']}"
            if int(row["offset"]) + int(row["size"]) > job.tar.bytes:
                yield Damage(job.tar.file, sample, "lies outside the tar")
                continue
            file.seek(int(row["offset"]))
            data = file.read(int(row["size"]))
            if zlib.crc32(data) != row["crc32"]:
                yield Damage(job.tar.file, sample, "its crc32 is not the index's")
            problem = _image_problem(data, job)
            if problem:
                yield Damage(job.tar.file, sample, problem)


def _check_members(job: Job, path: Path, keys: list[str]) -> Iterator[Damage]:
    """The tar as other programs read it: a label and an image for each sample, in the order of the index."""
    extension = MEMBER[job.encoding]
    members: list[tuple[str, int, bytes]] = []
    try:
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                found = tar.extractfile(info) if info.name.endswith(".cls") and info.size < 16 else None
                members.append((info.name, info.offset_data, found.read() if found else b""))
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        yield Damage(job.tar.file, "", f"tar cannot read it beyond member {len(members):,} ({error})")
    if len(members) != 2 * len(job.rows):
        yield Damage(job.tar.file, "", f"holds {len(members):,} members, not {2 * len(job.rows):,}")
    for number, (row, key) in enumerate(zip(job.rows, keys, strict=True)):
        pair = members[2 * number : 2 * number + 2]
        if len(pair) < 2:
            continue
        (label_name, _, label), (image_name, offset, _) = pair
        if (label_name, image_name) != (f"{key}.cls", f"{key}.{extension}") or offset != row["offset"]:
            yield Damage(job.tar.file, key, f"the tar holds {label_name} and {image_name} in its place")
        elif label != str(row["label"]).encode():
            yield Damage(job.tar.file, key, f"its label is {label!r} in the tar, {row['label']} in the index")


def _image_problem(data: bytes, job: Job) -> str:
    """Empty when the bytes are an image as the manifest says."""
    size = job.size
    try:
        if job.encoding == "raw":
            pixels = np.load(io.BytesIO(data), allow_pickle=False)
            shape, right = pixels.shape, pixels.shape == (size, size, 3) and pixels.dtype == np.uint8
        else:
            with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
                image.load()
                shape = (image.height, image.width)
                right = shape[0] == shape[1] and job.smallest <= shape[0] <= size and image.mode in ("RGB", "L")
    except Exception as error:  # numpy and Pillow raise many kinds on damaged bytes
        return f"does not decode ({str(error) or type(error).__name__})"
    return "" if right else f"is {' x '.join(map(str, shape))}, not {size} x {size}"
