"""What a source was taken for: printed before a run begins, kept in its plan, and part of the manifest.

Another fact about a source is a sentence in `Source.notes`, or a kind of `Source.left_out`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from alexnet_fast.errors import InputError
from alexnet_fast.sharding.listing import Images, Source

SHOWN = 5
"""Names shown of a kind; the manifest has more."""


@dataclass(frozen=True)
class SplitContents:
    """`fewest` and `most`: labelled images of a class, of those that have any; `classes_without`: ids of the others."""

    images: int
    unlabelled: int
    fewest: int
    most: int
    classes_without: list[str]


@dataclass(frozen=True)
class Contents:
    """`found`: files of the source, which are the images of all splits and those left out: `left_out` of each kind,
    `names` the first of each; `notes`: sentences on how it was read and what is unusual in it."""

    layout: str
    found: int
    classes: int
    splits: dict[str, SplitContents]
    left_out: dict[str, int]
    names: dict[str, list[str]]
    notes: list[str]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self, classes: list[str]) -> list[str]:
        """Returns what is printed of it, the counts of images first; `classes`: their ids."""
        counts = ", ".join(f"{split.images:,} {name}" for name, split in self.splits.items())
        lines = [f"{self.layout}: {counts} images of {self.classes:,} class{'es' * (self.classes != 1)}"]
        lines.append(f"classes: {_as_text(_some(classes))}")
        ranges = [f"{_range(split)} in {name}" for name, split in self.splits.items() if split.most]
        lines += [f"images a class: {', '.join(ranges)}"] if ranges else []
        unlabelled = [f"{split.unlabelled:,} in {name}" for name, split in self.splits.items() if split.unlabelled]
        lines += [f"images without a label: {', '.join(unlabelled)}"] if unlabelled else []
        if self.left_out:
            kinds = (f"{kind} {count:,} ({_some(self.names[kind])})" for kind, count in self.left_out.items())
            lines.append(f"left out {sum(self.left_out.values()):,} of {self.found:,} files: {'; '.join(kinds)}")
        return lines + self.notes


def describe(source: Source) -> Contents:
    """Returns the contents of a source as it will be written: after classes and splits were taken out of it. Raises
    InputError when a class has a name that no manifest can hold."""
    for name in (*source.classes, *source.names.values()):
        if not _is_text(name):
            raise InputError(f"the class name {name!a} in {source.root} is not UTF-8. Rename the class.")
    splits = {name: _describe_split(images, source.classes) for name, images in source.splits.items()}
    left_out = source.left_out
    kinds = sorted(left_out.counts)
    return Contents(
        source.layout,
        left_out.found,
        len(source.classes),
        splits,
        {kind: left_out.counts[kind] for kind in kinds},
        {kind: [_as_text(name) for name in left_out.names[kind]] for kind in kinds},
        [_as_text(note) for note in (*source.notes, *_unusual(source.classes, splits))],
    )


def account(source: dict[str, Any]) -> list[str]:
    """Returns, of a manifest's `source`, what became of the files, and how many images are in two splits; nothing where
    each file became a sample of its own, or the manifest is of an earlier version."""
    lines = []
    if source and source.get("samples") != source.get("found"):
        parts = [f"{source['samples']:,} samples", f"{source['rejected']:,} rejected"]
        parts += [f"{count:,} left out ({kind})" for kind, count in source["left_out"].items()]
        lines.append(f"{source['found']:,} files = {' + '.join(parts)}")
    for key, count in source.get("shared", {}).items():
        earlier, later = key.split(", ")
        lines.append(f"{count:,} of the images of {later} are in {earlier} too, byte for byte")
    return lines


def _describe_split(images: Images, classes: list[str]) -> SplitContents:
    labels = images.labels
    counts = np.bincount(labels[labels >= 0], minlength=len(classes))
    there = counts[counts > 0]
    fewest, most = (int(there.min()), int(there.max())) if len(there) else (0, 0)
    without = [classes[label] for label in np.flatnonzero(counts == 0)] if len(there) else []
    return SplitContents(len(images), int((labels < 0).sum()), fewest, most, [_as_text(name) for name in without])


def _unusual(classes: list[str], splits: dict[str, SplitContents]) -> list[str]:
    notes = []
    if len(classes) == 1:
        notes.append(f"only one class, {classes[0]}: there is nothing to tell it from")
    for name, split in splits.items():
        if split.classes_without:
            count = len(split.classes_without)
            few = f"{count:,} of {len(classes):,} classes have" if count > 1 else f"1 of {len(classes):,} classes has"
            notes.append(f"{few} no image in {name}: {_some(split.classes_without)}")
    if all(name.isdecimal() for name in classes) and classes == sorted(classes) != sorted(classes, key=int):
        notes.append(
            f"the classes have numbers as names, and are in the order of texts: {_some(classes)}; --classes FILE, a "
            "list of them, gives another order"
        )
    return notes


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _as_text(name: str) -> str:
    """Returns a file's name with replacement characters for bytes that are not UTF-8."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _range(split: SplitContents) -> str:
    return f"{split.fewest:,} to {split.most:,}" if split.fewest != split.most else f"{split.most:,}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + " ..." * (len(names) > SHOWN)
