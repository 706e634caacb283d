"""The on-disk contract of a shard set: names, members, indexes and manifest.

shards/imagenet/
  manifest.json        how it was made, classes, tars with sizes and sha256, pixel statistics
  train-000000.tar     <key>.cls (ASCII class index) and <key>.jpg, or <key>.npy (uint8 size x size x 3)
  train-000000.idx     DALI's index of that tar, version 1.2
  train.index.npy      one row a sample of the whole split, in stored order: INDEX_DTYPE

shards/README.md has every detail; alexnet_fast/interop.py makes the small files for other tools.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from threading import Thread
from typing import Any, Protocol, get_args, get_origin, get_type_hints

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from alexnet_fast import native
from alexnet_fast.config import TrainConfig
from alexnet_fast.errors import InputError
from alexnet_fast.mapped import ask_for, map_tar

FORMAT = "alexnet-fast shard set"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
MOST_MANIFEST_BYTES = 128 << 20
"""A manifest of a million classes, the most there can be, takes some 100 MB; ImageNet's has 0.3."""
MEMBER = {"jpeg": "jpg", "raw": "npy"}
"""Extension of the image member for each encoding of a sample."""
MIXED = "mixed"
"""The encoding of a set of both kinds; `is_raw` tells which sample is of which."""
NPY_HEADER = 128
"""Bytes of a raw member before its pixels, whatever their number."""

INDEX_DTYPE = np.dtype([("shard", "<u4"), ("offset", "<u8"), ("size", "<u4"), ("label", "<i4"), ("crc32", "<u4")])
"""A sample: place of its tar in the manifest's list, first byte and number of bytes of its image member, class index
(UNLABELLED where there is none), crc32 of those bytes."""

PATIENCE = 5.0
"""Seconds after which a read that has not ended counts as one that does not."""

ROWS = 1 << 16
"""Of an index, looked at together: the memory that takes does not grow with the set."""

UNLABELLED = -1
"""The label of images whose class nobody published, as in the test set of ILSVRC-2012."""


@dataclass(frozen=True)
class Pixels:
    """Statistics of the training pixels, RGB, on the scale 0-255.

    `deviations` (3,) are the standard deviations along the principal components, largest first;
    row i of `components` (3, 3) is the unit vector of component i.
    """

    mean: list[float]
    covariance: list[list[float]]
    deviations: list[float]
    components: list[list[float]]


@dataclass(frozen=True)
class Tar:
    file: str
    samples: int
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What `manifest.json` holds. The same input, options and seed give the same file, byte for byte.

    `keep`: a stored JPEG may be a source's own file: a square of 7/8 of `size` or more, grey or of any subsampling.
    `raw_share`: of a mixed set, the share of the training samples that are raw; all others are JPEG.
    `plan`: fingerprint of the listing and options it was made from. `counts`: per split, the labelled samples of
    each class. These three are empty in sets of before they were there.
    """

    encoding: str
    size: int
    quality: int | None
    raw_share: float | None = None
    seed: int
    keep: bool = False
    plan: str = ""
    classes: list[dict[str, str]]
    splits: dict[str, list[Tar]]
    counts: dict[str, list[int]] = field(default_factory=dict)
    pixels: Pixels

    def images(self, split: str) -> int:
        """0 where there is no such split."""
        return sum(tar.samples for tar in self.splits.get(split, []))

    def to_json(self) -> str:
        body = {"format": FORMAT, "version": FORMAT_VERSION, **asdict(self)}
        if self.raw_share is None:
            del body["raw_share"]
        return json.dumps(body, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Raises ValueError, KeyError or TypeError when the text is not a manifest of this version."""
        body = json.loads(text)
        if not isinstance(body, dict):
            raise TypeError("not a JSON object")
        if body.pop("format", None) != FORMAT or body.pop("version", None) != FORMAT_VERSION:
            raise ValueError(f"not version {FORMAT_VERSION} of {FORMAT}")
        for name, kind in get_type_hints(cls).items():
            if not fits(body.get(name), kind) and name in body:
                raise ValueError(f"its {name} is of the wrong type")
        body["splits"] = {name: [Tar(**tar) for tar in tars] for name, tars in body["splits"].items()}
        body["pixels"] = Pixels(**body["pixels"])
        manifest = cls(**body)
        _check(manifest)
        manifest.to_json().encode()  # raises a ValueError of its own where a name is no text
        return manifest


def _check(manifest: Manifest) -> None:
    """What the types alone do not say."""
    tars = [tar for split in manifest.splits.values() for tar in split]
    names = [*manifest.splits, *(tar.file for tar in tars)]
    pixels = manifest.pixels
    checks = {
        "encoding": manifest.encoding in (*MEMBER, MIXED),
        "raw_share": 0 <= (manifest.raw_share or 0) <= 1
        and (manifest.raw_share is None) == (manifest.encoding != MIXED),
        "size": 0 < manifest.size < 2**16,
        "classes": all({"id", "name"} <= entry.keys() for entry in manifest.classes),
        "splits": all(0 <= tar.samples < 2**32 and 0 < tar.bytes < 2**63 for tar in tars)
        and all(name and not {"/", "\0"} & set(name) for name in names),
        "pixels": all(len(vector) == 3 for vector in (pixels.mean, pixels.deviations))
        and all([len(row) for row in matrix] == [3, 3, 3] for matrix in (pixels.covariance, pixels.components)),
    }
    for name, is_right in checks.items():
        if not is_right:
            raise ValueError(f"its {name} cannot be right")


def fits(value: Any, kind: Any) -> bool:
    """Whether JSON's `value` is of the type `kind`: a damaged number, say, may still be JSON."""
    arguments = get_args(kind)
    if is_dataclass(kind):
        kinds = get_type_hints(kind)
        return type(value) is dict and all(fits(value[name], kinds[name]) for name in kinds.keys() & value.keys())
    if get_origin(kind) is list:
        return type(value) is list and all(fits(item, arguments[0]) for item in value)
    if get_origin(kind) is dict:
        return type(value) is dict and all(fits(item, arguments[1]) for item in value.values())
    if arguments:
        return any(fits(value, one) for one in arguments)
    return type(value) in ((int, float) if kind is float else (kind,))


def tar_name(split: str, number: int) -> str:
    return f"{split}-{number:06d}.tar"


def file_digest(path: Path, algorithm: str) -> str:
    """The hexadecimal sum of a file, for which it is not held in memory."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):  # hashlib.file_digest needs Python 3.11
            digest.update(block)
    return digest.hexdigest()


def index_name(split: str) -> str:
    return f"{split}.index.npy"


def is_raw(index: NDArray[np.void], encoding: str, size: int) -> NDArray[np.bool_]:
    """Which rows of an index are raw samples; the writer lets no JPEG of a mixed set have just as many bytes."""
    if encoding == MIXED:
        return np.asarray(index["size"] == raw_bytes(size))
    return np.full(len(index), encoding == "raw")


def raw_bytes(size: int) -> int:
    return NPY_HEADER + 3 * size**2


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


class LocalTars:
    """Tars in a folder, all mapped at opening."""

    def __init__(self, folder: Path, tars: list[Tar]) -> None:
        self._paths = [folder / tar.file for tar in tars]
        self._mapped = {shard: map_tar(self._paths[shard], tar.bytes) for shard, tar in enumerate(tars)}

    def map(self, shards: Sequence[int]) -> Mapping[int, NDArray[np.uint8]]:
        return self._mapped

    def expect(self, shards: Sequence[int]) -> None:
        pass

    def ask_for(self, shards: Sequence[int], offsets: Sequence[int], sizes: Sequence[int]) -> None:
        for shard, offset, size in zip(shards, offsets, sizes, strict=True):
            ask_for(self._mapped[shard][offset : offset + size])

    def ask_for_all_of(self, shards: Sequence[int]) -> None:
        def ask() -> None:
            for shard in shards:
                ask_for(self._mapped[shard])

        Thread(target=ask, daemon=True).start()  # a tar may fill the disk's queue

    def hold_all(self) -> None:
        pass

    def missing(self, shards: Sequence[int], offsets: Sequence[int], sizes: Sequence[int]) -> str:
        """Reads them in a thread, which a disk or server that does not answer holds up."""
        reading = ""

        def read() -> None:
            nonlocal reading
            for shard, offset, size in zip(shards, offsets, sizes, strict=True):
                reading = str(self._paths[shard])
                with self._paths[shard].open("rb") as file:
                    os.pread(file.fileno(), size, offset)
            reading = ""

        thread = Thread(target=read, daemon=True)
        thread.start()
        thread.join(PATIENCE)
        return reading


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
        _allow_open_files(len(listed) + 1)
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
            _rows_fit(self.index[first : first + ROWS], self.raw[first : first + ROWS], self.size, tar_bytes, classes)
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
            from alexnet_fast.loading.remote import Remote, TarCache

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


def parse_manifest(data: bytes, path: str) -> Manifest:
    """Raises InputError, naming `path`, when the data are no manifest of this version."""
    try:
        return Manifest.from_json(data.decode("utf-8"))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise InputError(f"{path} cannot be read as a manifest ({reason}). Make the shard set again.") from error


def _rows_fit(
    index: NDArray[np.void], raw: NDArray[np.bool_], side: int, tar_bytes: NDArray[np.uint64], classes: int
) -> bool:
    """Whether all rows are of images inside their tars, with labels that there are."""
    shard, offset, size, label = (index[column] for column in ("shard", "offset", "size", "label"))
    if int(shard.max()) >= len(tar_bytes):
        return False
    end = tar_bytes[shard]
    smallest = np.where(raw, 3 * side**2, 1)
    inside = (size >= smallest) & (size <= end) & (offset <= end - np.minimum(size, end))
    return bool(inside.all() and (label >= UNLABELLED).all() and (label < classes).all())


def load_index(path: Path) -> NDArray[np.void]:
    """Memory-mapped. Raises InputError when the file cannot be read or is no sample index."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            index = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy, and Python's tokenizer below it, raise many kinds on a damaged header
        raise InputError(f"{path} cannot be read ({error}). Make the shard set again.") from error
    if not isinstance(index, np.ndarray) or index.dtype != INDEX_DTYPE or index.ndim != 1:
        raise InputError(f"{path} is not a sample index of version {FORMAT_VERSION}. Make the shard set again.")
    return np.asarray(index)


def _allow_open_files(more: int) -> None:
    """Raises the process' own limit, as far as the system lets it: every mapped tar or index keeps a file open."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if now != resource.RLIM_INFINITY:
        wanted = now + more if most == resource.RLIM_INFINITY else min(now + more, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
