"""The on-disk contract of a shard set: names, members, indexes and manifest.

shards/imagenet/
  manifest.json        how it was made, classes, tars with sizes and sha256, pixel statistics
  train-000000.tar     <key>.cls (ASCII class index) and <key>.jpg, or <key>.npy (uint8 size x size x 3)
  train-000000.idx     DALI's index of that tar, version 1.2
  train.index.npy      one row a sample of the whole split, in stored order: INDEX_DTYPE
"""

from __future__ import annotations

import json
import mmap
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet_fast.errors import InputError

FORMAT = "alexnet-fast shard set"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
MEMBER = {"jpeg": "jpg", "raw": "npy"}
"""Extension of the image member for each encoding."""

INDEX_DTYPE = np.dtype([("shard", "<u4"), ("offset", "<u8"), ("size", "<u4"), ("label", "<i4"), ("crc32", "<u4")])
"""A sample: tar number, first byte and number of bytes of its image member, class index, crc32 of those bytes."""


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


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` holds. The same input, options and seed give the same file, byte for byte."""

    encoding: str
    size: int
    quality: int | None
    seed: int
    classes: list[dict[str, str]]
    splits: dict[str, list[Tar]]
    pixels: Pixels

    def to_json(self) -> str:
        body = {"format": FORMAT, "version": FORMAT_VERSION, **asdict(self)}
        return json.dumps(body, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Raises ValueError, KeyError or TypeError when the text is not a manifest of this version."""
        body = json.loads(text)
        if body.pop("format", None) != FORMAT or body.pop("version", None) != FORMAT_VERSION:
            raise ValueError(f"not version {FORMAT_VERSION} of {FORMAT}")
        body["splits"] = {name: [Tar(**tar) for tar in tars] for name, tars in body["splits"].items()}
        body["pixels"] = Pixels(**body["pixels"])
        return cls(**body)


def tar_name(split: str, number: int) -> str:
    return f"{split}-{number:06d}.tar"


def index_name(split: str) -> str:
    return f"{split}.index.npy"


class Split:
    """One split of a shard set, its tars memory-mapped. Stateless after opening: safe to share between threads."""

    def __init__(self, folder: Path, name: str, manifest: Manifest) -> None:
        self.name = name
        self.encoding = manifest.encoding
        self.size = manifest.size
        self.index: NDArray[np.void] = _load_index(folder / index_name(name))
        self.labels: NDArray[np.int64] = self.index["label"].astype(np.int64)
        tars = manifest.splits[name]
        if len(self.index) != sum(tar.samples for tar in tars):
            raise InputError(
                f"{folder / index_name(name)} lists {len(self.index):,} samples, the manifest "
                f"{sum(tar.samples for tar in tars):,}. Make the shard set again."
            )
        self._tars = [_map_tar(folder / tar.file, tar.bytes) for tar in tars]

    def __len__(self) -> int:
        return len(self.index)

    def read(self, samples: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
        """Zero-copy views of the stored images: JPEG bytes (n,), or raw pixels (size, size, 3), a sample each."""
        rows = self.index[samples]
        views = [
            self._tars[shard][offset : offset + size]
            for shard, offset, size in zip(
                rows["shard"].tolist(), rows["offset"].tolist(), rows["size"].tolist(), strict=True
            )
        ]
        if self.encoding == "raw":  # an .npy file: a header, then the pixels
            shape = (self.size, self.size, 3)
            pixels = int(np.prod(shape))
            return [view[-pixels:].reshape(shape) for view in views]
        return views


class ShardSet:
    """A shard set on disk: `ShardSet(folder).split("train")`.

    Raises InputError when the folder is no shard set, or a tar is missing or has not the size the manifest states.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        path = self.folder / MANIFEST
        if not path.is_file():
            raise InputError(
                f"{self.folder} is not a shard set: it has no {MANIFEST}. "
                "Make one with: alexnet-fast shard --src IMAGES --out " + str(self.folder)
            )
        try:
            self.manifest = Manifest.from_json(path.read_text(encoding="utf-8"))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"it lacks {error}" if isinstance(error, KeyError) else error
            raise InputError(f"{path} cannot be read as a manifest ({reason}). Make the shard set again.") from error

    def __contains__(self, split: str) -> bool:
        return split in self.manifest.splits

    def split(self, name: str) -> Split:
        if name not in self:
            has = ", ".join(self.manifest.splits)
            raise InputError(f"{self.folder} has no split named {name}; it has: {has}.")
        return Split(self.folder, name, self.manifest)


def _load_index(path: Path) -> NDArray[np.void]:
    try:
        index: NDArray[np.void] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} cannot be read ({error}). Make the shard set again.") from error
    if index.dtype != INDEX_DTYPE or index.ndim != 1:
        raise InputError(f"{path} is not a sample index of version {FORMAT_VERSION}. Make the shard set again.")
    return index


def _map_tar(path: Path, expected_bytes: int) -> NDArray[np.uint8]:
    try:
        with path.open("rb") as file:
            actual_bytes = file.seek(0, 2)
            if actual_bytes != expected_bytes:
                raise InputError(
                    f"{path} has {actual_bytes:,} bytes, the manifest says {expected_bytes:,}: "
                    "the copy is not complete, or the file was changed. Copy it again."
                )
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise InputError(f"{path} cannot be opened ({error.strerror}). Copy it again.") from error
    return np.frombuffer(mapped, dtype=np.uint8)
