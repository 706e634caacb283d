"""The development kits of ILSVRC: the ids of the classes, and the labels of the images that lie flat.

`data/meta.mat` holds the structs `synsets` with ILSVRC2012_ID or ILSVRC2010_ID, WNID, words and num_children
(0 for the 1,000 classes; the others are their ancestors). Line i of a ground truth is the id of the i-th image
in the order of names (pytorch/vision:torchvision/datasets/imagenet.py, mila-iqia/fuel:fuel/converters/ilsvrc2010.py).
"""

from __future__ import annotations

import gzip
import io
import zlib
from dataclasses import dataclass
from pathlib import Path

from alexnet_fast.errors import InputError
from alexnet_fast.sharding import archives
from alexnet_fast.sharding.left_out import LeftOut
from alexnet_fast.sharding.limits import MOST_TEXT_BYTES, read_file
from alexnet_fast.sharding.sources.matfile import read_structs

KITS = ("ILSVRC2012_devkit_t12", "ILSVRC2010_devkit-1.0", "devkit-1.0")
"""Folders, or with .tar.gz the archives; ILSVRC2012_devkit_t3 is another one, of the dog breeds."""

_WANTED = {"meta.mat": "meta", "validation_ground_truth.txt": "val", "test_ground_truth.txt": "test"}
"""Ends of file names."""


@dataclass(frozen=True)
class Devkit:
    """`wnids` by ILSVRC id, `names` by wnid, and by split the ILSVRC ids of the images in the order of names."""

    wnids: dict[int, str]
    names: dict[str, str]
    truth: dict[str, list[int]]

    def labels(self, split: str, images: int, classes: list[str], where: Path) -> list[int]:
        """Class indexes. Raises InputError when they cannot be those of the `images` images in `where`."""
        ids = self.truth[split]
        if len(ids) != images:
            raise InputError(
                f"{where} holds {images:,} images, but the development kit labels {len(ids):,}. One of the two is "
                "not whole, or of another year: copy or download it again."
            )
        unknown = sorted({number for number in ids if number not in self.wnids})
        if unknown:
            raise InputError(f"the ground truth of {split} has the class id {unknown[0]}, which meta.mat lacks.")
        label = {name: index for index, name in enumerate(classes)}
        missing = sorted({self.wnids[number] for number in ids} - set(classes))
        if missing:
            raise InputError(
                f"{where} has images of {len(missing):,} classes that train lacks: {', '.join(missing[:5])}. "
                "Put the training images of all classes there, or move it away and use --val-fraction."
            )
        return [label[self.wnids[number]] for number in ids]


def find(src: Path) -> Path | None:
    """The kit's folder `data`, or its archive."""
    folders = [src / "data", *(path for kit in KITS for path in sorted((src / kit).glob("**/data")))]
    archives = [src / f"{kit}{suffix}" for kit in KITS for suffix in (".tar.gz", ".tar")]
    found = [path for path in folders if (path / "meta.mat").is_file()] + [path for path in archives if path.is_file()]
    return found[0] if found else None


def read(src: Path) -> Devkit | None:
    """The kit in `src`, with the ground truth of ILSVRC-2010's test set that lies beside it; None without a kit."""
    kit = find(src)
    if kit is None:
        return None
    files = _folder(src) | (_folder(kit) if kit.is_dir() else _archive(kit))
    if "meta" not in files:
        raise InputError(f"{kit} holds no data/meta.mat. Download the development kit again.")
    wnids, names = _synsets(files.pop("meta"), kit)
    return Devkit(wnids, names, {split: _numbers(data, split, kit) for split, data in files.items()})


def _kind(name: str) -> str | None:
    return next((kind for end, kind in _WANTED.items() if name.endswith(end)), None)


def _folder(folder: Path) -> dict[str, bytes]:
    """What is wanted of its files. Raises InputError when one of them cannot be read."""
    found = {kind: path for path in sorted(folder.iterdir()) if (kind := _kind(path.name))}
    try:
        return {kind: read_file(path, MOST_TEXT_BYTES) for kind, path in found.items()}
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read ({error.strerror}). Download it again.") from error


def _archive(path: Path) -> dict[str, bytes]:
    try:
        with path.open("rb") as file:
            is_packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if is_packed else path.open("rb") as file:
            data = file.read(MOST_TEXT_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read ({error}). Download the development kit again.") from error
    if len(data) > MOST_TEXT_BYTES:
        raise InputError(f"{path} has more than {MOST_TEXT_BYTES:,} bytes. Download the development kit again.")
    members = archives.members_of(io.BytesIO(data), 0, len(data), str(path), LeftOut())
    return {kind: data[m.offset : m.offset + m.size] for m in members if (kind := _kind(m.path))}


def _synsets(data: bytes, kit: Path) -> tuple[dict[int, str], dict[str, str]]:
    wnids, names = {}, {}
    try:
        for row in read_structs(data, "synsets"):
            number = next(row[field] for field in row if field.startswith("ILSVRC"))
            wnid, words = row["WNID"], row["words"]
            if row["num_children"] != 0:
                continue
            if not isinstance(number, float) or not isinstance(wnid, str) or not isinstance(words, str):
                raise ValueError("a synset lacks its id or its words")
            wnids[int(number)], names[wnid] = wnid, words
    except (ValueError, KeyError, OverflowError, StopIteration) as error:
        raise InputError(f"meta.mat of {kit} cannot be read ({error}). Download the development kit again.") from error
    return wnids, names


def _numbers(data: bytes, split: str, kit: Path) -> list[int]:
    try:
        return [int(line) for line in data.split()]
    except ValueError as error:
        raise InputError(
            f"the ground truth of {split} in {kit} is not a number a line ({error}). Download it again."
        ) from error
