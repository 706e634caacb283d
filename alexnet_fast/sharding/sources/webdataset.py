"""WebDataset tars: neighbouring members of one key are a sample, `<key>.cls` its label and `<key>.jpg` its image.

As in timm/imagenet-1k-wds, and in shard sets of our own. The key ends at the first dot of the file's name, and a change
of key begins a sample; `.cls` is a number in ASCII (webdataset's README). img2dataset writes no `.cls`: there the label
may be a field of `.json`. The split is a word of the tar's name.
"""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from alexnet_fast.errors import InputError, descriptor_error
from alexnet_fast.sharding import archives
from alexnet_fast.sharding.archives import Member
from alexnet_fast.sharding.keys import class_id
from alexnet_fast.sharding.left_out import BESIDE, OF_SAMPLES, LeftOut
from alexnet_fast.sharding.limits import open_regular, read_file
from alexnet_fast.sharding.listing import Entry, Source
from alexnet_fast.sharding.output import holds_shard_set
from alexnet_fast.sharding.sources import folders
from alexnet_fast.sharding.sources.names import read_names
from alexnet_fast.sharding.sources.splits import (
    WNID,
    by_split,
    check_labels,
    count_classes,
    list_labelled,
    split_notes,
    unique_ids,
)
from alexnet_fast.shards.format import FORMAT, MANIFEST, MOST_MANIFEST_BYTES, UNLABELLED

IMAGES = ("jpg", "jpeg", "png", "webp")
"""Extensions, in any case."""
LABEL = "cls"
TEXTS = ("json", "txt")
"""Extensions of what img2dataset writes beside an image."""
MOST_LABEL_BYTES = 16 << 20
"""Of a member that holds a label."""

_NUMBER = re.compile(r"[+-]?[0-9]{1,18}")

Members = dict[str, Member]
"""The members of a sample, by their extensions in lower case."""


@dataclass(frozen=True)
class Sample:
    """`label`: the text that the source has for it, a class index or, with --label-key, a name."""

    entry: Entry
    label: str


def fits(src: Path) -> bool:
    if not src.is_dir():
        return False
    tars = _tars(src)
    names = archives.first_names(tars[0]) if tars else []
    if not names:  # a damaged tar, for `read` to say so, if there is nothing else
        return bool(tars) and not folders.subfolders(src)
    split = [_split(name) for name in names]
    texts = {key for key, extension in split if extension in TEXTS}
    return any(kind.split(".")[-1] == LABEL or (kind in IMAGES and key in texts) for key, kind in split)


def read(src: Path, image_key: str | None = None, label_key: str | None = None) -> Source:
    """Lists the samples of all tars. `image_key`: the extension of the member that is the image; `label_key`: that of
    the label, or a field of `.json`, which may also hold the name of the class.

    Raises InputError when a tar is not whole, or a sample has no image or no label, or two.
    """
    tars = _tars(src) if src.is_dir() else []
    if not tars:
        raise InputError(f"{src} holds no .tar files. This layout takes a folder of WebDataset tars.")
    if not (src / MANIFEST).exists() and holds_shard_set(src):
        raise InputError(f"{src} holds an unfinished shard set. Finish it with the command that began it.")
    parts = by_split(src, tars, lambda path: path.name)
    left_out = LeftOut()
    splits = {
        split: [sample for path in part for sample in _samples(path, src, image_key, label_key, left_out)]
        for split, part in parts.items()
    }
    texts = {split: [sample.label for sample in part] for split, part in splits.items()}
    ids, names = _own_classes(src)
    if all(_NUMBER.fullmatch(text) for text in chain(*texts.values())):
        labels = {split: [int(text) for text in part] for split, part in texts.items()}
        number = len(ids) or count_classes(src, chain(*labels.values()))
        for split in splits:
            check_labels(src, split, labels[split], number)
        classes = ids or _classes(splits["train"], labels["train"], number)
    else:
        classes = sorted({class_id(text) for text in texts["train"]})
        labels = {split: _indexes(src, split, classes, part) for split, part in texts.items()}
    images = {s: list_labelled(classes, (x.entry for x in part), labels[s]) for s, part in splits.items()}
    notes = split_notes({split: [path.name for path in part] for split, part in parts.items()})
    return Source(src, classes, images, names or read_names(src), left_out, notes)


def _tars(src: Path) -> list[Path]:
    return sorted(path for path in src.glob("*.tar") if not path.name.startswith("."))


def _split(path: str) -> tuple[str, str]:
    """Returns the key, and the extension in lower case, as webdataset compares it; empty where there is no dot."""
    folder, slash, name = path.rpartition("/")
    stem, _, extension = name.partition(".")
    return folder + slash + stem, extension.lower()


def _groups(tar: Path, left_out: LeftOut) -> list[tuple[str, Members]]:
    """Returns the keys and members of the samples. Raises InputError when two members of one have the same name."""
    groups: list[tuple[str, Members]] = []
    for member in archives.members(tar, left_out=left_out):
        key, extension = _split(member.path)
        if not extension:
            left_out.add(BESIDE, member.path)  # README: of no sample
            continue
        if not groups or key != groups[-1][0]:
            groups.append((key, {}))
        if extension in groups[-1][1]:
            raise InputError(
                f"{tar} has {member.path} twice in one sample, so which is meant is not known; two samples that follow "
                "each other must have different keys. Pack it again."
            )
        groups[-1][1][extension] = member
    return groups


def _samples(tar: Path, src: Path, image_key: str | None, label_key: str | None, left_out: LeftOut) -> list[Sample]:
    groups, samples = _groups(tar, left_out), []
    descriptor = open_regular(tar)
    try:
        for key, members in groups:
            where = f"the sample {key} in {tar}"
            images = [kind for kind in ([image_key.lower()] if image_key else IMAGES) if kind in members]
            label = _label(descriptor, members, label_key, where)
            if len(images) == 1 and label is not None:
                image = members[images[0]]
                entry = Entry(tar.relative_to(src).as_posix(), image.name, image.offset, image.size)
                samples.append(Sample(entry, sys.intern(label)))
                for member in members.values():
                    left_out.add(OF_SAMPLES, member.path, int(member is not image))
            elif len(images) > 1:
                raise InputError(f"{where} has several images: {', '.join(images)}. Choose one with --image-key.")
            elif not (key.startswith("__") or "/__" in key):  # metadata, to webdataset and Hugging Face datasets
                apart = sum(key == other for other, _ in groups) > 1
                fields = _fields(descriptor, members) if images else []
                raise InputError(f"{where} {_lacking(members, image_key, label_key, fields, apart, bool(images))}")
            else:
                for member in members.values():
                    left_out.add(BESIDE, member.path)
    finally:
        os.close(descriptor)
    if not samples:
        raise InputError(f"{tar} holds no samples. Copy or download it again, or move it away.")
    return samples


def _label(descriptor: int, members: Members, label_key: str | None, where: str) -> str | None:
    """Returns the text of a sample's label; None where there is none. Raises InputError when it cannot be a label."""
    member = members.get((label_key or LABEL).lower())
    if member is not None:
        data = _content(descriptor, member, where)
        text = data.decode("utf-8", "replace").strip()
        if not _NUMBER.fullmatch(text) and (label_key is None or not text or "\ufffd" in text):
            names = "" if label_key else " --label-key cls takes it for the name of a class."
            raise InputError(f"{where} has in {member.name} {data[:32]!r}, which is not a class index.{names}")
        return text
    if label_key is None or "json" not in members:
        return None
    value = _json(descriptor, members, where).get(label_key)
    if value is not None and (type(value) not in (int, str) or not str(value).strip()):
        raise InputError(f"{where} has as {label_key} {value!r}, which is neither a class index nor a class name.")
    return None if value is None else str(value).strip()


def _content(descriptor: int, member: Member, where: str) -> bytes:
    if member.size > MOST_LABEL_BYTES:
        raise InputError(f"{where} has in {member.name} {member.size:,} bytes: too many for a label.")
    return os.pread(descriptor, member.size, member.offset)


def _json(descriptor: int, members: Members, where: str) -> dict[str, Any]:
    try:
        body = json.loads(_content(descriptor, members["json"], where))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} has a json that cannot be read ({error}).") from error
    return body if isinstance(body, dict) else {}


def _fields(descriptor: int, members: Members) -> list[str]:
    """Returns the fields of a sample's json that may be a label."""
    try:
        body = _json(descriptor, members, "") if "json" in members else {}
    except InputError:
        return []
    return sorted(name for name, value in body.items() if type(value) in (int, str))


def _lacking(
    members: Members, image_key: str | None, label_key: str | None, fields: list[str], apart: bool, has_image: bool
) -> str:
    """Returns what a sample has not, and how to choose among what it has."""
    has = ", ".join(sorted(members)[:12]) + " ..." * (len(members) > 12)
    if any("." in extension for extension in members):
        has += " (a key ends at the first dot of the file's name)"
    if apart:
        return f"is in several places, here with {has}: its members must follow each other. Pack the tar again."
    if not has_image:
        return f"has no image ({image_key or 'jpg, jpeg, png or webp'}); it has {has}. Choose one with --image-key."
    inside = f" or of its json's fields {', '.join(fields)}" if fields else ""
    return f"has no label ({label_key or LABEL}); it has {has}. Choose one of these{inside} with --label-key."


def _indexes(src: Path, split: str, classes: list[str], names: list[str]) -> list[int]:
    """Returns the class indexes of class names. Raises InputError when a class is not one of `classes`."""
    index = {name: label for label, name in enumerate(classes)}
    if split == "test":
        index[str(UNLABELLED)] = UNLABELLED
    unknown = sorted({class_id(name) for name in names} - set(index))
    if unknown:
        raise InputError(f"{src} has images of {split} of classes that train lacks: {', '.join(unknown[:5])}.")
    return [index[class_id(name)] for name in names]


def _classes(train: list[Sample], labels: list[int], number: int) -> list[str]:
    """The wnid with which all training images of a label begin; else the number."""
    wnids: list[set[str | None]] = [set() for _ in range(number)]
    for sample, label in zip(train, labels, strict=True):
        match = WNID.match(sample.entry.name)
        wnids[label].add(match[0] if match else None)
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
    except (OSError, ValueError, KeyError, TypeError) as error:
        if descriptor_error(error):
            raise
        return [], {}
