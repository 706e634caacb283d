"""What several layouts need: images listed by class, and splits told by the names of files."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from alexnet_fast.errors import InputError
from alexnet_fast.sharding.listing import Entry, Images, Listing
from alexnet_fast.shards.format import UNLABELLED

F = TypeVar("F")

WNID = re.compile(r"n\d{8}")
"""A WordNet id, as ImageNet names its classes."""

MOST_CLASSES = 1_000_000

SPLITS = ("train", "val", "test")

_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What people call the splits, in any case."""
_FILLERS = {"", "set", "data", "dataset", "image", "images", "split"}
"""Words that the name of a split's folder may have too: `training_set`, `train2017`."""


def split_called(name: str) -> str | None:
    """Returns the split that a folder of that name is; None where it is something else: `train station` is a class."""
    words = set(re.split(r"[^a-z]+", name.lower())) - _FILLERS
    return _WORDS.get(words.pop()) if len(words) == 1 else None


def split_of(name: str) -> str | None:
    """Returns the split that the first such word in a name is of; None without one."""
    return next((_WORDS[word] for word in re.split(r"[^a-z]+", name.lower()) if word in _WORDS), None)


def by_split(src: Path, files: Iterable[F], name: Callable[[F], str]) -> dict[str, list[F]]:
    """Files by the first word in their names that is a split's, as Hugging Face tells them; `train` without one.

    Raises InputError when there are splits, but no `train`.
    """
    found: dict[str, list[F]] = {"train": [], "val": [], "test": []}
    for file in files:
        found[split_of(name(file)) or "train"].append(file)
    present = {split: part for split, part in found.items() if part}
    if "train" not in present:
        raise InputError(f"{src} has files of {' and '.join(present)}, but none of train. Put them in one folder.")
    return present


def split_notes(taken: Mapping[str, Iterable[str]]) -> list[str]:
    """Returns a sentence on which folders or files were taken for which split, of those whose names do not have its
    word: `valid/ as val`. Without other splits, all without a word are `train`: that needs no sentence."""
    parts = []
    for split, names in taken.items():
        other = [name for name in names if split not in re.split(r"[^a-z]+", name.lower())]
        other = [name for name in other if split_of(name) or len(taken) > 1]
        if other:
            parts.append(f"{other[0]}{f' and {len(other) - 1:,} more' * (len(other) > 1)} as {split}")
    return [f"taken for splits: {', '.join(parts)}"] if parts else []


def list_classes(src: Path, classes: Mapping[str, Callable[[], list[Entry]]]) -> Images:
    """The images of each class, labelled with its place in sorted order. Raises InputError when there are none."""
    listing = Listing(sorted(classes))
    for label, name in enumerate(sorted(classes)):
        listing.add_class(label, classes[name]())
    images = listing.images()
    if not len(images):
        raise InputError(f"the archives of {src} hold no images. Copy or download them again.")
    return images


def list_labelled(classes: list[str], entries: Iterable[Entry], labels: Iterable[int]) -> Images:
    """The images by class, those without a label last."""
    groups: dict[int, list[Entry]] = defaultdict(list)
    for entry, label in zip(entries, labels, strict=True):
        groups[label].append(entry)
    listing = Listing(classes)
    for label in (*range(len(classes)), UNLABELLED):
        if label in groups:
            listing.add_class(label, groups[label])
    return listing.images()


def unique_ids(names: Sequence[str | None]) -> list[str]:
    """The name of each class; its number where it has none, or another class has the same."""
    times = Counter(names)
    return [name if name and times[name] == 1 else str(label) for label, name in enumerate(names)]


def in_order(labels: Iterable[str]) -> list[str]:
    """Returns each label once: where all are whole numbers, in their order; else as texts."""
    found = set(labels)
    return sorted(found, key=int) if all(is_number(label) for label in found) else sorted(found)


def is_number(text: str) -> bool:
    return re.fullmatch(r"-?\d{1,18}", text, re.ASCII) is not None


def count_classes(src: Path, labels: Iterable[int], named: int = 0) -> int:
    """One more than the largest label, or `named` classes where that is more. Raises InputError for a label beyond
    MOST_CLASSES, as one damaged byte makes it: what is counted by class takes memory for each."""
    largest = max(labels, default=-1)
    if largest >= MOST_CLASSES:
        raise InputError(f"{src} has an image with the label {largest:,}; at most {MOST_CLASSES:,} classes can be.")
    return max(named, largest + 1)


def check_labels(src: Path, split: str, labels: Sequence[int], classes: int) -> None:
    """Only the images of `test` may be without a label."""
    lowest = 0 if split != "test" else UNLABELLED
    wrong = next((label for label in labels if not lowest <= label < classes), None)
    if wrong is not None:
        raise InputError(
            f"{src} has an image of {split} with the label {wrong}. Those of its {classes:,} classes count from 0; "
            f"{UNLABELLED}, for no class, is for test alone."
        )
