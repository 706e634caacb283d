"""Takes classes or a validation split out of a source: pure functions of its listing and a seed."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np

from alexnet_fast import random
from alexnet_fast.errors import InputError
from alexnet_fast.sharding.keys import class_id
from alexnet_fast.sharding.left_out import OTHER_CLASSES
from alexnet_fast.sharding.limits import MOST_TEXT_BYTES, read_open
from alexnet_fast.sharding.listing import Source
from alexnet_fast.shards.format import UNLABELLED


def read_class_file(path: Path) -> list[str]:
    """Returns the lines that are not empty, without the spaces around them."""
    try:
        with path.open("rb", buffering=0) as file:  # a pipe may be given, too
            lines = read_open(file, MOST_TEXT_BYTES, path).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{path} cannot be read ({reason}). --classes takes a text file, a class id a line."
        ) from error
    wanted = [line.strip() for line in lines if line.strip()]
    if not wanted:
        raise InputError(f"{path} names no class. --classes takes a text file, a class id a line.")
    return wanted


def take_classes(source: Source, lines: list[str]) -> Source:
    """Returns the images of the classes that the lines name alone, labelled from 0 in the order of the lines.

    A line is the name of a class; or its id (a first word with a digit) and what people call it, `n01440764 tench`; or
    a comment, where it begins with # and is no class. Raises InputError when the source lacks one of the classes, or a
    split has no image of any.
    """
    ids = {class_id(name): name for name in source.classes}
    named = [(line, _class_of(class_id(line), ids)) for line in lines]
    comments = [line for line, name in named if name is None and line.startswith("#")]
    unknown = sorted({line for line, name in named if name is None} - set(comments))
    if unknown:
        raise InputError(f"the source has no class {', '.join(unknown[:5])}. Its first is {source.classes[0]}.")
    kept = list(dict.fromkeys(name for _, name in named if name is not None))
    if not kept:
        raise InputError("all lines of --classes begin with # and are no classes: comments. Name the classes to take.")
    new_label = {name: label for label, name in enumerate(kept)}
    relabelled = np.array([new_label.get(name, UNLABELLED) for name in source.classes], np.int32)
    splits = {name: images.relabel(relabelled) for name, images in source.splits.items()}
    empty = [name for name, images in splits.items() if not len(images)]
    if empty:
        raise InputError(f"no image of the split {empty[0]} is of the classes asked for.")
    left_out = deepcopy(source.left_out)
    for images in source.splits.values():
        counts = np.bincount(images.labels[images.labels >= 0], minlength=len(source.classes))
        for name, count in zip(source.classes, counts.tolist(), strict=True):
            left_out.add(OTHER_CLASSES, name, 0 if name in new_label else count)
    notes = [f"{len(comments):,} lines of --classes begin with # and are no class: comments"] if comments else []
    return replace(source, classes=kept, splits=splits, left_out=left_out, notes=source.notes + notes)


def _class_of(line: str, ids: dict[str, str]) -> str | None:
    """Returns the class that a line names."""
    first = line.split()[0]
    return ids.get(line) or (ids.get(first) if any(letter.isdigit() for letter in first) else None)


def split_off(source: Source, fraction: float, seed: int) -> Source:
    """Moves `fraction` of each class of `train`, drawn at random, to a new split `val`.

    A class keeps at least one training image; over all classes the counts add up to the fraction, to within half
    an image. The paper's Fall-2009 release was split in halves (section 6). Raises InputError when there is a
    `val` already, or none comes out.
    """
    if "val" in source.splits:
        raise InputError("the source has a split val already. Leave out --val-fraction and --split.")
    train = source.splits["train"]
    rank = random.val_split(seed).permutation(len(train))
    by_class = np.lexsort((rank, train.labels))  # each class's images in a random order
    counts = np.bincount(train.labels, minlength=len(source.classes))
    if counts.max() == 1:
        raise InputError(
            "every class has one image, which is for training, so none can be split off as val. Add images, put those "
            "for validation in a folder val/ beside train/, or leave out --val-fraction and --split."
        )
    wanted = np.diff(np.rint(fraction * np.cumsum(counts)).astype(np.int64), prepend=0)
    wanted = np.minimum(wanted, np.maximum(counts - 1, 0))
    place = np.arange(len(train)) - np.repeat(np.cumsum(counts) - counts, counts)
    to_val = np.zeros(len(train), bool)
    to_val[by_class] = place < np.repeat(wanted, counts)
    if not to_val.any():
        raise InputError(f"a validation split of {fraction} of {len(train):,} images is empty. Take a larger fraction.")
    splits = {"train": train.select(~to_val), "val": train.select(to_val)}
    return replace(source, splits=splits | {name: s for name, s in source.splits.items() if name != "train"})
