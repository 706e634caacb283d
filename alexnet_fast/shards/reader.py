"""Random access to the samples of a shard set: in a folder, or behind a URL by way of a cache."""

from __future__ import annotations

from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from tarfile import BLOCKSIZE

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from alexnet_fast import native
from alexnet_fast.config import TrainConfig
from alexnet_fast.errors import InputError
from alexnet_fast.shards.cache import RemoteTars, TarCache
from alexnet_fast.shards.fetch import Remote
from alexnet_fast.shards.format import (
    FULL,
    MANIFEST,
    UNLABELLED,
    WORK,
    Manifest,
    Tar,
    index_name,
    is_raw,
    load_index,
    parse_manifest,
)
from alexnet_fast.shards.local import ByteRanges, LocalTars, allow_open_files

ROWS = 1 << 16
"""Rows of an index that are checked together: the memory for it does not grow with the set."""
NAME_BYTES = 100
"""Length of the name that a tar's header begins with."""


class Split:
    """The samples of one split, read by number from memory-mapped tars. Safe to share between threads: reading changes
    nothing. `tars`: what reads them; None: those in `folder`."""

    def __init__(self, folder: Path, name: str, manifest: Manifest, tars: RemoteTars | None = None) -> None:
        self.name = name
        self.encoding = manifest.encoding
        self.shape, self.size = manifest.shape, manifest.size
        self.pixels = manifest.pixels
        self.manifest = manifest
        self._opened = folder, name, manifest, tars
        listed = manifest.splits[name]
        allow_open_files(len(listed) + 1)
        self.index = load_index(folder / index_name(name), self.shape)
        """(n,) of `index_dtype`, memory-mapped: the processes of a machine share it."""
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
                f"alexnet-fast verify {folder} names what is corrupt."
            )
        self._tars = tars or LocalTars(folder, listed)
        self._listed = listed
        self._cache = folder if tars else None

    def __len__(self) -> int:
        return len(self.index)

    def __reduce__(self) -> tuple[type[Split], tuple[object, ...]]:
        """Pickled, it is opened again in the other process, which maps the tars or fetches them itself."""
        return Split, self._opened

    @property
    def classes(self) -> list[str]:
        """The names of the classes, by label; the manifest has their ids too."""
        return self.manifest.class_names

    @property
    def labels(self) -> NDArray[np.int64]:
        """(n,) class indices of all samples, or UNLABELLED."""
        return self.index["label"].astype(np.int64)

    @cached_property
    def sizes(self) -> NDArray[np.int32]:
        """(n, 2) height and width of each image, pixels. In a set of squares all are `size`, for those JPEGs too that
        `--keep` took over with 7/8 of it or more, which no index names: what is laid on such an image by these sizes
        is laid on it in proportion."""
        if self.shape == FULL:
            return np.stack([self.index["height"], self.index["width"]], axis=1, dtype=np.int32)
        return np.broadcast_to(np.int32(self.size), (len(self), 2))

    def _fits(self, tars: list[Tar], classes: int) -> bool:
        """Whether all rows are of images inside their tars, with labels of a class or UNLABELLED."""
        tar_bytes = np.array([tar.bytes for tar in tars], np.uint64)
        for first in range(0, len(self), ROWS):
            rows, raw = self.index[first : first + ROWS], self.raw[first : first + ROWS]
            shard, size, label = rows["shard"], rows["size"], rows["label"]
            pixels = self.sizes[first : first + ROWS].prod(axis=1, dtype=np.int64)
            if int(shard.max()) >= len(tar_bytes) or (label < UNLABELLED).any() or (label >= classes).any():
                return False
            end = tar_bytes[shard]
            inside = (pixels > 0) & (size >= np.where(raw, 3 * pixels, 1)) & (size <= end)
            if not (inside & (rows["offset"] <= end - np.minimum(size, end))).all():
                return False
        return True

    def read(self, samples: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
        """Zero-copy views of the stored images: JPEG bytes (n,), or raw pixels (height, width, 3), a sample each."""
        members, raw = self._tars.read(self._ranges(samples)), self.raw[samples].tolist()
        return [  # of an .npy file, pixels are the end: a header comes first
            member[-3 * height * width :].reshape(height, width, 3) if is_raw else member
            for member, is_raw, (height, width) in zip(members, raw, self.sizes[samples].tolist(), strict=True)
        ]

    def lease(self, samples: NDArray[np.int64]) -> ExitStack:
        """Announces that those samples will be read next, in this order: `LocalTars.lease` of their tars."""
        return self._tars.lease(self.index["shard"][samples].tolist())

    def prefetch(self, samples: NDArray[np.int64]) -> None:
        """Has the system read the stored bytes of samples; waits no longer than for the disk's queue."""
        self._tars.prefetch(self._ranges(samples))

    def prefetch_tars(self, shards: list[int]) -> None:
        """Has the system read whole tars; waits no longer than for the disk's queue."""
        self._tars.prefetch(ByteRanges(shards, [0] * len(shards), [self._listed[shard].bytes for shard in shards]))

    def intact(self, samples: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the stored bytes of each can be read, and are those that were written, by their crc32."""
        members, sums = self._tars.read(self._ranges(samples)), self.index["crc32"][samples].tolist()
        return np.array(
            [
                readable and isal_zlib.crc32(member.data) == crc32
                for member, readable, crc32 in zip(members, native.can_be_read(members).tolist(), sums, strict=True)
            ],
            bool,
        )

    def name_of(self, sample: int) -> str:
        row = self.index[sample]
        tar, again = self._listed[row["shard"]].file, ""
        if self._cache:
            tar, again = str(self._cache / tar), "; delete that file, and it is fetched again"
        return f"sample {sample:,} of {self.name} ({tar}, image at byte {row['offset']:,}{again})"

    def keys(self) -> list[str]:
        """Every sample's name, in stored order, from the tars' own headers: `<class id>/<file>`."""
        keys = []
        for first in range(0, len(self), 1000):  # few tars at a time: the cache of a remote set may hold no more
            shards, offsets, _ = self._ranges(slice(first, first + 1000))
            headers = ByteRanges(shards, [offset - BLOCKSIZE for offset in offsets], [NAME_BYTES] * len(offsets))
            names = [header.tobytes().partition(b"\0")[0] for header in self._tars.read(headers)]
            keys += [name.partition(b".")[0].decode("ascii", "replace") for name in names]
        return keys

    def _ranges(self, samples: NDArray[np.int64] | slice) -> ByteRanges:
        rows = self.index[samples]
        return ByteRanges(rows["shard"].tolist(), rows["offset"].tolist(), rows["size"].tolist())

    def missing(self, samples: NDArray[np.int64]) -> str:
        """The path or URL of the first tar of the samples that cannot be read just now; empty when all can."""
        return self._tars.missing(self._ranges(samples))

    def check_room(self) -> None:
        """Raises InputError when a remote set's cache cannot hold the whole split, as a random order needs it."""
        self._tars.check_room()


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
            raise InputError(_no_set(self.folder))
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path} cannot be read as a manifest ({error}). Make the shard set again.") from error
        self.manifest = parse_manifest(data, str(path))

    @property
    def path(self) -> str:
        """Its URL or absolute path."""
        return self.location if "://" in self.location else str(self.folder.absolute())

    @property
    def classes(self) -> list[str]:
        """The names of the classes, by label; the manifest has their ids too."""
        return self.manifest.class_names

    @classmethod
    def of(cls, config: TrainConfig) -> ShardSet:
        """The shard set of a run's configuration."""
        return cls(config.shards, config.cache, config.cache_bytes or None)

    def __contains__(self, split: str) -> bool:
        return split in self.manifest.splits

    def _lacks(self, split: str) -> str:
        """Returns the message for a split that is not there."""
        has = list(self.manifest.splits)
        hint = f"eval and features take another one with --split {has[-1]}."
        if has == ["train"]:
            hint = (
                "Shard with --val-fraction 0.1, which splits a tenth of the images off as val, or measure on the "
                "training images themselves with --split train."
            )
        return f"{self.location} has no split named {split}; it has: {', '.join(has)}. {hint}"

    def split(self, name: str, *, labelled: bool = True) -> Split:
        """Opens a split; with `labelled=False` also one that holds images without a label (theirs is UNLABELLED)."""
        if name not in self:
            raise InputError(self._lacks(name))
        tars = None
        if self._cache:
            self._cache.index(name)
            tars = RemoteTars(self._cache, name)
        split = Split(self.folder, name, self.manifest, tars)
        if labelled and (split.index["label"] == UNLABELLED).any():
            raise InputError(
                f"the split {name} of {self.location} has no labels, so a network can be neither trained nor evaluated "
                "on it. Take another split; eval writes predictions of it with --predictions or --submission."
            )
        return split


def located(given: str, path: str | None) -> str:
    """Returns where a run's shard set is: as it was `given`, or where that leads to none from this folder, its absolute
    `path` when the run began."""
    if not path or Path(given, MANIFEST).is_file() or not Path(path, MANIFEST).is_file():
        return given
    return path


def _no_set(folder: Path) -> str:
    """Returns the message for a folder that holds no shard set, with those that lie beside it."""
    lacks = f"it has no {MANIFEST}" if folder.is_dir() else "there is no such folder"
    if folder.is_file():
        lacks = "it is a file"
    if (folder / WORK).is_dir():
        return f"{folder} is not finished: {lacks}. Run the same alexnet-fast shard again, or its missing parts."
    inside, beside = (
        sorted(str(path.parent) for path in place.glob(f"*/{MANIFEST}")) for place in (folder, folder.parent)
    )
    found, where = inside or beside, "in it" if inside else "beside it"
    others = f" Sets {where}: {', '.join(found[:5])}{' ...' if len(found) > 5 else ''}." if found else ""
    return (
        f"{folder} is not a shard set: {lacks}.{others} Give another path (--shards), or make it with: "
        f"alexnet-fast shard --src IMAGES --out {folder}"
    )
