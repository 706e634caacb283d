"""Random access to the samples of a shard set: in a folder, or behind a URL by way of a cache."""

from __future__ import annotations

import resource
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from alexnet_fast import native
from alexnet_fast.config import TrainConfig
from alexnet_fast.errors import InputError
from alexnet_fast.shards.cache import TarCache
from alexnet_fast.shards.fetch import Remote
from alexnet_fast.shards.format import (
    MANIFEST,
    UNLABELLED,
    Manifest,
    Tar,
    index_name,
    is_raw,
    load_index,
    parse_manifest,
    rows_fit,
)
from alexnet_fast.shards.local import LocalTars, allow_open_files

ROWS = 1 << 16
"""Of an index, looked at together: the memory that takes does not grow with the set."""


class Tars(Protocol):
    """The tars of a split; `shards` are their places in the manifest's list, one a sample."""

    def map(self, shards: Sequence[int]) -> Mapping[int, NDArray[np.uint8]]:
        """Those tars, and maybe others, memory-mapped."""

    def expect(self, shards: Sequence[int]) -> None:
        """Those will be mapped next, in this order."""

    def ask_for(self, shards: Sequence[int], offsets: Sequence[int], sizes: Sequence[int]) -> None:
        """Has the system read those bytes, without waiting for them."""

    def ask_for_all_of(self, shards: Sequence[int]) -> None:
        """Has the system read those tars from end to end, without waiting for them."""

    def hold_all(self) -> None:
        """Raises InputError when they cannot all be mapped at once."""

    def missing(self, shards: Sequence[int], offsets: Sequence[int], sizes: Sequence[int]) -> str:
        """The path or URL of the first of those that cannot be read just now; empty when all can."""


class Split:
    """One split of a shard set, its tars memory-mapped. Safe to share between threads.

    `tars`: where they come from; None: from `folder`.
    """

    def __init__(self, folder: Path, name: str, manifest: Manifest, tars: Tars | None = None) -> None:
        self.name = name
        self.encoding = manifest.encoding
        self.size = manifest.size
        self.pixels = manifest.pixels
        listed = manifest.splits[name]
        allow_open_files(len(listed) + 1)
        self.index = load_index(folder / index_name(name))
        """(n,) of INDEX_DTYPE, memory-mapped: the processes of a machine share it."""
        self.raw = is_raw(self.index, self.encoding, self.size)
        """(n,) which images are stored as pixels."""
        if len(self.index) != manifest.images(name):
            raise InputError(
                f"{folder / index_name(name)} lists {len(self.index):,} samples, the manifest "
                f"{manifest.images(name):,}. Make the shard set again."
            )
        if not self._fits(listed, len(manifest.classes)):
            raise InputError(
                f"{folder / index_name(name)} does not fit its tars. Make the shard set again; "
                f"alexnet-fast verify {folder} names what is damaged."
            )
        self._tars = tars or LocalTars(folder, listed)
        self._tar_files = [tar.file for tar in listed]
        self._cache = folder if tars else None
        self._asked = np.zeros(len(self.index), bool)
        self._opened = np.full(len(listed), -1)
        """The epoch in which each tar was last asked for as a whole."""
        self._waits = 0
        """Page faults so far that had to wait for a disk."""

    def __len__(self) -> int:
        return len(self.index)

    def labels_of(self, samples: NDArray[np.int64] | slice) -> NDArray[np.int64]:
        """Class indices, or UNLABELLED."""
        labels: NDArray[np.int64] = self.index["label"][samples].astype(np.int64)
        return labels

    @property
    def labels(self) -> NDArray[np.int64]:
        """(n,) of all samples."""
        return self.labels_of(slice(None))

    def _fits(self, tars: list[Tar], classes: int) -> bool:
        tar_bytes = np.array([tar.bytes for tar in tars], np.uint64)
        return all(
            rows_fit(self.index[first : first + ROWS], self.raw[first : first + ROWS], self.size, tar_bytes, classes)
            for first in range(0, len(self), ROWS)
        )

    def read(self, samples: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
        """Zero-copy views of the stored images: JPEG bytes (n,), or raw pixels (size, size, 3), a sample each."""
        shape = (self.size, self.size, 3)
        pixels = 3 * self.size**2  # of an .npy file: a header comes first
        members, raw = self._members(samples), self.raw[samples].tolist()
        return [
            member[-pixels:].reshape(shape) if is_raw else member for member, is_raw in zip(members, raw, strict=True)
        ]

    def intact(self, samples: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the stored bytes of each can be read, and are those that were written, by their crc32."""
        self.expect(samples)  # these reads come on top of those that were announced
        members, sums = self._members(samples), self.index["crc32"][samples].tolist()
        return np.array(
            [
                readable and isal_zlib.crc32(member.data) == crc32
                for member, readable, crc32 in zip(members, native.can_be_read(members).tolist(), sums, strict=True)
            ],
            bool,
        )

    def name_of(self, sample: int) -> str:
        row = self.index[sample]
        tar, again = self._tar_files[row["shard"]], ""
        if self._cache:
            tar, again = str(self._cache / tar), "; delete that file, and it is fetched again"
        return f"sample {sample:,} of {self.name} ({tar}, image at byte {row['offset']:,}{again})"

    def keys(self) -> list[str]:
        """Every sample's name, in stored order, from the tars' own headers: `<class id>/<file>`."""
        numbers = np.arange(len(self))  # few tars at a time: the cache of a remote set may hold no more
        return [key for part in np.split(numbers, numbers[::1000][1:]) for key in self._keys(part)]

    def _keys(self, samples: NDArray[np.int64]) -> list[str]:
        self.expect(samples)
        shards, offsets, _ = self._places(samples)
        tars = self._tars.map(shards)
        heads = [tars[s][offset - 512 : offset - 412] for s, offset in zip(shards, offsets, strict=True)]
        return [head.tobytes().partition(b"\0")[0].partition(b".")[0].decode("ascii", "replace") for head in heads]

    def _members(self, samples: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
        shards, offsets, sizes = self._places(samples)
        tars = self._tars.map(shards)
        return [tars[s][offset : offset + size] for s, offset, size in zip(shards, offsets, sizes, strict=True)]

    def _places(self, samples: NDArray[np.int64]) -> tuple[list[int], list[int], list[int]]:
        rows = self.index[samples]
        return rows["shard"].tolist(), rows["offset"].tolist(), rows["size"].tolist()

    def ask_for(self, samples: NDArray[np.int64]) -> None:
        """Samples that will be read soon: the system is asked for their bytes.

        Once a sample, until the process had to wait for a page: then memory may hold none of them any more.
        """
        waits = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
        if waits != self._waits:
            self._waits = waits
            self._asked[:] = False
        samples = samples[~self._asked[samples]]
        self._asked[samples] = True
        self._tars.ask_for(*self._places(samples))

    def ask_for_tars(self, samples: NDArray[np.int64], epoch: int) -> None:
        """As `ask_for`, in an order that opens few tars at a time: of the whole tars, each once an epoch."""
        shards = np.unique(self.index["shard"][samples])
        shards = shards[self._opened[shards] != epoch]
        if len(shards):
            self._opened[shards] = epoch
            self._tars.ask_for_all_of(shards.tolist())

    def expect(self, samples: NDArray[np.int64]) -> None:
        """Samples that will be read next, in this order: a remote set fetches their tars ahead."""
        self._tars.expect(self.index["shard"][samples].tolist())

    def missing(self, samples: NDArray[np.int64]) -> str:
        """The path or URL of the first tar of those samples that cannot be read just now; empty when all can."""
        return self._tars.missing(*self._places(samples))

    def hold_all(self) -> None:
        """For reading in any order. Raises InputError when the cache of a remote set cannot hold the whole split."""
        self._tars.hold_all()


class ShardSet:
    """A shard set: `ShardSet("shards/imagenet").split("train")`, or a URL such as `s3://bucket/imagenet`.

    The tars of a URL are kept in the folder `cache` (None: the user's cache folder), at most `cache_bytes` of them
    (None: no limit). `folder` holds the manifest and the indexes that were opened.
    Raises InputError when there is no shard set, or a tar is missing or has not the size the manifest states.
    """

    def __init__(self, location: str | Path, cache: str | Path | None = None, cache_bytes: int | None = None) -> None:
        self.location = str(location)
        self._cache = None
        if "://" in self.location:
            self._cache = TarCache(Remote(self.location), cache, cache_bytes)
            self.folder, self.manifest = self._cache.folder, self._cache.manifest
            return
        self.folder = Path(location)
        path = self.folder / MANIFEST
        if not path.is_file():
            raise InputError(
                f"{self.folder} is not a shard set: it has no {MANIFEST}. "
                "Make one with: alexnet-fast shard --src IMAGES --out " + str(self.folder)
            )
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path} cannot be read as a manifest ({error}). Make the shard set again.") from error
        self.manifest = parse_manifest(data, str(path))

    @classmethod
    def of(cls, config: TrainConfig) -> ShardSet:
        """That of a run."""
        return cls(config.shards, config.cache, config.cache_bytes or None)

    def __contains__(self, split: str) -> bool:
        return split in self.manifest.splits

    def split(self, name: str, *, labelled: bool = True) -> Split:
        """Opens a split; with `labelled=False` also one that holds images without a label (theirs is UNLABELLED)."""
        if name not in self:
            has = ", ".join(self.manifest.splits)
            raise InputError(f"{self.location} has no split named {name}; it has: {has}.")
        if self._cache is None:
            split = Split(self.folder, name, self.manifest)
        else:
            self._cache.index(name)
            split = Split(self.folder, name, self.manifest, self._cache.split(name))
        if labelled and (split.index["label"] == UNLABELLED).any():
            raise InputError(
                f"the split {name} of {self.location} has no labels, so a network can be neither trained nor evaluated "
                "on it. Take another split; eval writes guesses of it with --predictions or --submission."
            )
        return split
