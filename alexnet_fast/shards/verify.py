"""`alexnet-fast verify`: reads a shard set again and names every corrupt file and sample.

Three witnesses say where a sample lies: a row of the split's index, a line of DALI's index, and the tar's headers.
A tar whose sha256 is the manifest's is right; of any other, what both indexes say is right, and where they differ
the one that the tar's headers confirm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet_fast.errors import InputError, descriptor_error
from alexnet_fast.shards.format import MANIFEST, UNLABELLED, Manifest, index_name, load_index
from alexnet_fast.shards.members import Kind
from alexnet_fast.shards.reader import ShardSet
from alexnet_fast.shards.sidecars import side_files
from alexnet_fast.shards.verify_tar import Finding, TarCheck


def verify(folder: Path, quick: bool, workers: int, progress: Callable[[int], None]) -> list[Finding]:
    """Compares the manifest, the indexes and the tars with each other, and decodes every image; returns what is wrong.

    `quick` reads sizes and indexes alone, and of a tar only where its indexes differ. `progress` is called with the
    number of samples of each tar that is done. Raises InputError when `folder` has no readable manifest.
    """
    manifest = ShardSet(folder).manifest
    kind = Kind.of(manifest)
    findings: list[Finding] = []
    checks: list[TarCheck] = []
    for split, tars in manifest.splits.items():
        name = index_name(split)
        rows: list[NDArray[np.void]] | list[None] = [None] * len(tars)
        try:
            index = load_index(folder / name, manifest.shape)
            with (folder / name).open("rb") as file:
                np.load(file, allow_pickle=False)
                if file.read(1):  # bytes that numpy does not read: the number of rows in the header is corrupt
                    raise InputError(f"{folder / name} has more than the {len(index):,} samples of its header")
        except InputError as error:
            if shortage := descriptor_error(error):
                raise shortage from error
            findings.append(Finding(name, "", str(error)))
        else:
            findings += _check_index(split, index, manifest)
            rows = [index[index["shard"] == shard] for shard in range(len(tars))]
            ends = np.cumsum([tar.samples for tar in tars])
            if len(index) == ends[-1:].sum():  # by the stored order, which a corrupt row does not change
                rows = np.split(index, ends[:-1])
        checks += [TarCheck(folder, tar, name, shard, rows[shard], kind, quick) for shard, tar in enumerate(tars)]
    with ProcessPoolExecutor(workers, mp_context=get_context("forkserver")) as pool:
        for check, found in zip(checks, pool.map(TarCheck.findings, checks), strict=True):
            findings += found
            progress(check.tar.samples)
    return findings + list(_check_others(folder, manifest, any(one.file == MANIFEST for one in findings)))


def _check_index(split: str, index: NDArray[np.void], manifest: Manifest) -> Iterator[Finding]:
    """What is wrong with a split's index that no single row shows."""
    name, tars, labels = index_name(split), manifest.splits[split], index["label"]
    total = sum(tar.samples for tar in tars)
    outside = int((index["shard"] >= len(tars)).sum())
    if outside and len(index) != total:
        yield Finding(name, "", f"{outside:,} samples are in tars that the manifest does not list")
    if not manifest.counts or ((labels < UNLABELLED) | (labels >= len(manifest.classes))).any():
        return
    stated = manifest.counts.get(split, [])
    if stated != np.bincount(labels[labels >= 0], minlength=len(manifest.classes)).tolist():
        possible = len(stated) == len(manifest.classes) and sum(stated) in (0, total)
        problem = "the samples of each class are not as many as the manifest says"
        yield (
            Finding(name, "", problem) if possible else Finding(MANIFEST, "", f"its counts of {split} cannot be right")
        )


def _check_others(folder: Path, manifest: Manifest, manifest_is_corrupt: bool) -> Iterator[Finding]:
    """Tars that other readers would take for ours, and side files that contradict the manifest."""
    listed = {tar.file for tars in manifest.splits.values() for tar in tars}
    for path in sorted(folder.glob("*.tar")):
        if path.name not in listed:
            yield Finding(path.name, "", "is not in the manifest")
    for name, data in side_files(manifest).items():
        path = folder / name
        if not manifest_is_corrupt and path.is_file() and path.read_bytes() != data:
            yield Finding(name, "", "does not agree with the manifest")
