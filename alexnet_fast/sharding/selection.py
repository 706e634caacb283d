"""Takes classes or a validation split out of a source: pure functions of its listing and a seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from alexnet_fast.errors import InputError
from alexnet_fast.sharding.images import Source
from alexnet_fast.sharding.limits import MOST_TEXT_BYTES, read_open
from alexnet_fast.shardset import UNLABELLED


def read_class_file(path: Path) -> list[str]:
    """The first word of every line; empty lines and those that start with # do not count."""
    try:
        with path.open("rb", buffering=0) as file:  # a pipe may be given, too
            lines = read_open(file, MOST_TEXT_BYTES, path).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}). --classes takes a text file, a class id a line.") from error
    ids = [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]
    if not ids:
        raise InputError(f"{path} names no class. --classes takes a text file, a class id a line.")
    return ids


def take_classes(source: Source, wanted: list[str]) -> Source:
    """The images of the classes `wanted` alone, labelled from 0 in the source's order.

    Raises InputError when the source lacks one of them, or a split has no image of any.
    """
    unknown = sorted(set(wanted) - set(source.classes))
    if unknown:
        raise InputError(f"the source has no class {', '.join(unknown[:5])}. Its first is {source.classes[0]}.")
    kept = [name for name in source.classes if name in set(wanted)]
    new_label = {name: label for label, name in enumerate(kept)}
    relabelled = np.array([new_label.get(name, UNLABELLED) for name in source.classes], np.int32)
    splits = {name: images.relabel(relabelled) for name, images in source.splits.items()}
    empty = [name for name, images in splits.items() if not len(images)]
    if empty:
        raise InputError(f"no image of the split {empty[0]} is of the classes asked for.")
    return replace(source, classes=kept, splits=splits)


def split_off(source: Source, fraction: float, seed: int) -> Source:
    """Moves `fraction` of each class of `train`, drawn at random, to a new split `val`.

    A class keeps at least one training image; over all classes the counts add up to the fraction, to within half
    an image. The paper's Fall-2009 release was split in halves (section 6). Raises InputError when there is a
    `val` already, or none comes out.
    """
    if "val" in source.splits:
        raise InputError("the source has a split val already. Leave out --val-fraction and --split.")
    train = source.splits["train"]
    random = np.random.Generator(np.random.Philox(key=np.array([seed, 1 << 32], np.uint64)))
    rank = random.permutation(len(train))
    by_class = np.lexsort((rank, train.labels))  # each class's images in a random order
    counts = np.bincount(train.labels, minlength=len(source.classes))
    wanted = np.diff(np.rint(fraction * np.cumsum(counts)).astype(np.int64), prepend=0)
    wanted = np.minimum(wanted, np.maximum(counts - 1, 0))
    place = np.arange(len(train)) - np.repeat(np.cumsum(counts) - counts, counts)
    to_val = np.zeros(len(train), bool)
    to_val[by_class] = place < np.repeat(wanted, counts)
    if not to_val.any():
        raise InputError(f"a validation split of {fraction} of {len(train):,} images is empty. Take a larger fraction.")
    splits = {"train": train.select(~to_val), "val": train.select(to_val)}
    return replace(source, splits=splits | {name: s for name, s in source.splits.items() if name != "train"})
