"""WebDataset tars: neighbouring members of one key are a sample, `<key>.cls` its label and `<key>.jpg` its image.

As in timm/imagenet-1k-wds, and in shard sets of our own. The key ends at the first dot of the file's name; `.cls` is
a number in ASCII (webdataset's README). The split is a word of the tar's name.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from alexnet_fast.errors import InputError
from alexnet_fast.sharding import archives
from alexnet_fast.sharding.archives import Member
from alexnet_fast.sharding.images import Entry, Source
from alexnet_fast.sharding.layouts import folders
from alexnet_fast.sharding.layouts.names import read_names
from alexnet_fast.sharding.layouts.splits import WNID, by_split, check_labels, count_classes, list_labelled, unique_ids
from alexnet_fast.sharding.limits import open_regular, read_file
from alexnet_fast.shardset import FORMAT, MANIFEST, MOST_MANIFEST_BYTES

IMAGES = ("jpg", "jpeg", "png", "webp")
"""Extensions, in any case."""


@dataclass(frozen=True)
class Sample:
    entry: Entry
    label: int


def fits(src: Path) -> bool:
    if not src.is_dir():
        return False
    tars = _tars(src)
    names = archives.first_names(tars[0]) if tars else []
    if not names:  # a damaged tar, for `read` to say so, if there is nothing else
        return bool(tars) and not folders.subfolders(src)
    return any(_extension(name) == "cls" for name in names)


def read(src: Path) -> Source:
    """Raises InputError when a tar is not whole, or a sample has no image or no label."""
    tars = _tars(src) if src.is_dir() else []
    if not tars:
        raise InputError(f"{src} holds no .tar files. This layout takes a folder of WebDataset tars.")
    parts = by_split(src, tars, lambda path: path.name)
    splits = {split: [sample for path in part for sample in _samples(path, src)] for split, part in parts.items()}
    labels = {split: [sample.label for sample in part] for split, part in splits.items()}
    ids, names = _own_classes(src)
    number = len(ids) or count_classes(src, chain(*labels.values()))
    for split in splits:
        check_labels(src, split, labels[split], number)
    classes = ids or _classes(splits["train"], number)
    images = {s: list_labelled(classes, (x.entry for x in part), labels[s]) for s, part in splits.items()}
    return Source(src, classes, images, names or read_names(src))


def _tars(src: Path) -> list[Path]:
    return sorted(path for path in src.glob("*.tar") if not path.name.startswith("."))


def _extension(name: str) -> str:
    return name.partition(".")[2].lower()


def _samples(tar: Path, src: Path) -> Iterator[Sample]:
    parts: dict[str, dict[str, Member]] = defaultdict(dict)
    for member in archives.members(tar):
        key = member.path.removesuffix(member.name) + member.name.partition(".")[0]
        if not member.name.startswith("__"):  # metadata, to webdataset
            parts[key][_extension(member.name)] = member
    if not parts:
        raise InputError(f"{tar} holds no samples. Copy or download it again, or move it away.")
    descriptor = open_regular(tar)
    try:
        for key, sample in parts.items():
            image = next((sample[kind] for kind in IMAGES if kind in sample), None)
            if image is None or "cls" not in sample:
                lacks = "image (jpg, jpeg, png or webp)" if image is None else "label (cls)"
                raise InputError(f"the sample {key} in {tar} has no {lacks}; it has {', '.join(sorted(sample))}.")
            entry = Entry(tar.relative_to(src).as_posix(), image.name, image.offset, image.size)
            yield Sample(entry, _label(descriptor, sample["cls"], tar))
    finally:
        os.close(descriptor)


def _label(descriptor: int, member: Member, tar: Path) -> int:
    text = os.pread(descriptor, min(member.size, 32), member.offset)
    try:
        return int(text)
    except ValueError as error:
        raise InputError(f"{member.path} in {tar} is not a class index: {text!r}.") from error


def _classes(train: list[Sample], number: int) -> list[str]:
    """The wnid with which all training images of a label begin; else the number."""
    wnids: list[set[str | None]] = [set() for _ in range(number)]
    for sample in train:
        match = WNID.match(sample.entry.name)
        wnids[sample.label].add(match[0] if match else None)
    return unique_ids([found.pop() if len(found) == 1 else None for found in wnids])


def _own_classes(src: Path) -> tuple[list[str], dict[str, str]]:
    """Ids and names from the manifest of a shard set of our own; none without one."""
    try:
        manifest = json.loads(read_file(src / MANIFEST, MOST_MANIFEST_BYTES))
        if manifest["format"] != FORMAT:
            return [], {}
        classes = manifest["classes"]
        names = {entry["id"]: entry["name"] for entry in classes}
        return [entry["id"] for entry in classes], {number: name for number, name in names.items() if number != name}
    except (OSError, ValueError, KeyError, TypeError):
        return [], {}
