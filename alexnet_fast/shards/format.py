"""The on-disk contract of a shard set: names, members, indexes and manifest.

shards/imagenet/
  manifest.json        how it was made, classes, tars with sizes and sha256, pixel statistics
  train-000000.tar     <key>.cls (ASCII class index) and <key>.jpg, or <key>.npy (uint8 height x width x 3)
  train-000000.idx     DALI's index of that tar, version 1.2
  train.index.npy      one row a sample of the whole split, in stored order: `index_dtype`

docs/shard-format.md has every detail; sidecars.py makes the small files for other tools.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from alexnet_fast.errors import InputError

FORMAT = "alexnet-fast shard set"
SQUARE, FULL = "square", "full"
"""Shapes of the stored images: the central square, or all of the image."""
VERSIONS = {SQUARE: 1, FULL: 2}
"""Of the format, by the shape of the images: in version 2 the manifest has `shape`, and an index height and width."""
MAX_ASPECT = 8
"""How many times as long as wide a stored image may be that was resized."""
MAX_PIXELS = 178_956_970
"""Of any image: a small file can claim any size, and decoding it would take all memory. Pillow's limit."""
MANIFEST = "manifest.json"
WORK = ".work"
"""The folder in a shard set that holds its plan and a record a finished tar, until the manifest is written."""
MOST_MANIFEST_BYTES = 128 << 20
"""A manifest of a million classes, the most there can be, takes some 100 MB; ImageNet's takes 0.3 MB."""
MEMBER = {"jpeg": "jpg", "raw": "npy"}
"""Extension of the image member for each encoding of a sample."""
MIXED = "mixed"
"""The encoding of a set of both kinds; `is_raw` gives the encoding of each sample."""
NPY_HEADER = 128
"""Bytes of a raw member before its pixels, whatever their number."""

INDEX_DTYPE = np.dtype([("shard", "<u4"), ("offset", "<u8"), ("size", "<u4"), ("label", "<i4"), ("crc32", "<u4")])
"""A sample: place of its tar in the manifest's list, first byte and number of bytes of its image member, class index
(UNLABELLED where there is none), crc32 of those bytes."""
FULL_INDEX_DTYPE = np.dtype([*INDEX_DTYPE.descr, ("height", "<u2"), ("width", "<u2")])
"""Of shape FULL: the pixels of the image, too."""

UNLABELLED = -1
"""The label of images whose class nobody published, as in the test set of ILSVRC-2012."""


@dataclass(frozen=True)
class Pixels:
    """Statistics of the training pixels, RGB, on the scale 0-255. `deviations` (3,) are the standard deviations along
    the principal components, largest first; row i of `components` (3, 3) is the unit vector of component i."""

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

    `shape`: SQUARE, of `size` pixels a side, or FULL, of a shorter side of `size`, any where that is 0.
    `keep`: a stored JPEG may be a source's own file: a side of 7/8 of `size` or more, grey or of any subsampling.
    `raw_share`: of a mixed set, the share of the training samples that are raw; all others are JPEG.
    `not_kept`: with `keep`, the images that were made anew, by reason. `orient`: whether images were turned as EXIF
    says; `background`: what transparent ones lie on, #rrggbb. `enlarged`: per split, the images smaller than `size`.
    `plan`: fingerprint of the listing and options it was made from. `counts`: per split, the labelled samples of
    each class; `source`: what the source was taken for and what became of its files, as sharding/summary.py has it.
    These are empty in sets of earlier versions.
    """

    encoding: str
    shape: str = SQUARE
    size: int
    quality: int | None
    raw_share: float | None = None
    seed: int
    keep: bool = False
    not_kept: dict[str, int] | None = None
    orient: bool = False
    background: str = "#ffffff"
    plan: str = ""
    classes: list[dict[str, str]]
    splits: dict[str, list[Tar]]
    counts: dict[str, list[int]] = field(default_factory=dict)
    enlarged: dict[str, int] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)
    pixels: Pixels

    def images(self, split: str) -> int:
        """0 where there is no such split."""
        return sum(tar.samples for tar in self.splits.get(split, []))

    @property
    def class_names(self) -> list[str]:
        """By label."""
        return [entry["name"] for entry in self.classes]

    def to_json(self) -> str:
        version = VERSIONS[self.shape]
        body = {"format": FORMAT, "version": version, **asdict(self)}
        left_out = {"raw_share": self.raw_share is None, "not_kept": self.not_kept is None, "shape": version == 1}
        for name, is_left_out in left_out.items():
            if is_left_out:
                del body[name]
        return json.dumps(body, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Raises ValueError, KeyError or TypeError when the text is not a manifest of these versions."""
        body = json.loads(text)
        if not isinstance(body, dict):
            raise TypeError("not a JSON object")
        version = body.pop("version", None)
        if body.pop("format", None) != FORMAT or version not in (1, 2):
            raise ValueError(f"not version 1 or 2 of {FORMAT}")
        for name, kind in get_type_hints(cls).items():
            if not fits(body.get(name), kind) and name in body:
                raise ValueError(f"its {name} is of the wrong type")
        body["splits"] = {name: [Tar(**tar) for tar in tars] for name, tars in body["splits"].items()}
        body["pixels"] = Pixels(**body["pixels"])
        manifest = cls(**body)
        if VERSIONS.get(manifest.shape) != version:
            raise ValueError(f"its shape is not one of version {version}")
        _check(manifest)
        manifest.to_json().encode()  # raises a ValueError of its own where a name is no text
        return manifest


def _check(manifest: Manifest) -> None:
    """Raises ValueError where a value of the right type cannot be right."""
    tars = [tar for split in manifest.splits.values() for tar in split]
    names = [*manifest.splits, *(tar.file for tar in tars)]
    pixels = manifest.pixels
    checks = {
        "encoding": manifest.encoding in (*MEMBER, MIXED),
        "raw_share": 0 <= (manifest.raw_share or 0) <= 1
        and (manifest.raw_share is None) == (manifest.encoding != MIXED),
        "size": (manifest.shape == SQUARE) <= manifest.size < 2**16,
        "background": re.fullmatch("#[0-9a-f]{6}", manifest.background) is not None,
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
    """Whether JSON's `value` is of the type `kind`."""
    arguments = get_args(kind)
    if kind is Any:
        return True
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
    """The hexadecimal digest of a file, which is read in blocks."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):  # hashlib.file_digest needs Python 3.11
            digest.update(block)
    return digest.hexdigest()


def index_name(split: str) -> str:
    return f"{split}.index.npy"


def index_dtype(shape: str) -> np.dtype[np.void]:
    """Of the rows of an index, by the shape of the images."""
    return FULL_INDEX_DTYPE if shape == FULL else INDEX_DTYPE


def is_raw(index: NDArray[np.void], encoding: str, size: int) -> NDArray[np.bool_]:
    """Which rows of an index are raw samples; the writer lets no JPEG of a mixed set have just as many bytes."""
    if encoding == MIXED:
        return np.asarray(index["size"] == raw_bytes(size))
    return np.full(len(index), encoding == "raw")


def raw_bytes(size: int) -> int:
    return NPY_HEADER + 3 * size**2


def parse_manifest(data: bytes, path: str) -> Manifest:
    """Raises InputError, naming `path`, when the data are no manifest of these versions."""
    try:
        return Manifest.from_json(data.decode("utf-8"))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise InputError(f"{path} cannot be read as a manifest ({reason}). Make the shard set again.") from error


def load_index(path: Path, shape: str) -> NDArray[np.void]:
    """The index of a split of that shape, memory-mapped. Raises InputError when the file cannot be read or is no such
    index."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            index = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy, and Python's tokenizer below it, raise many kinds on a corrupt header
        raise InputError(f"{path} cannot be read ({error}). Make the shard set again.") from error
    if not isinstance(index, np.ndarray) or index.dtype != index_dtype(shape) or index.ndim != 1:
        raise InputError(f"{path} is not a sample index of version {VERSIONS[shape]}. Make the shard set again.")
    return np.asarray(index)
