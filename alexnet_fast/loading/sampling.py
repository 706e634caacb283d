"""Which of a split's samples an epoch consists of. NumPy only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from alexnet_fast import random
from alexnet_fast.errors import InputError
from alexnet_fast.loading.checks import check_whole
from alexnet_fast.shards.reader import Split


@dataclass(frozen=True, eq=False)
class Weighted:
    """Samples drawn by weight with replacement, anew each epoch: a pure function of (seed, epoch). For the argument
    `samples`. Raises InputError when the weights are not numbers of 0 or more, at least one of them above 0."""

    weights: NDArray[np.float64]
    """(len(split),) how likely each sample is, in any unit."""
    count: int | None = None
    """Samples of an epoch; None: as many as there are weights."""

    def __post_init__(self) -> None:
        try:
            weights = np.asarray(self.weights, np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"the weights are no array of numbers ({error}). Give one a sample.") from error
        if weights.ndim != 1 or not np.isfinite(weights).all() or (weights < 0).any() or not (weights > 0).any():
            raise InputError("the weights must be numbers of 0 or more, one a sample, at least one of them above 0.")
        object.__setattr__(self, "weights", weights)
        if self.count is not None:
            check_whole("count", self.count, 1)

    def __len__(self) -> int:
        return len(self.weights) if self.count is None else self.count

    def draw(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """(len(self),) the epoch's sample numbers, in the order in which they were drawn."""
        upto = np.cumsum(self.weights)
        places = random.epoch_draws(seed, epoch).random(len(self)) * upto[-1]
        places = np.minimum(places, np.nextafter(upto[-1], 0))  # a product may be rounded up
        return np.asarray(np.searchsorted(upto, places, side="right"), np.int64)


def class_balanced(split: Split, count: int | None = None) -> Weighted:
    """Draws every class equally often on average, and the images of a class equally often; `count` an epoch (None: as
    many as the split has)."""
    labels = split.labels
    return Weighted(1 / np.bincount(labels)[labels], count)


def of_classes(split: Split, classes: Iterable[int | str]) -> NDArray[np.int64]:
    """The numbers of all samples of some classes, in stored order. `classes`: labels, ids or names. Raises InputError
    for what is no class of the split, or the name of several, or where no sample is of these."""
    listed = split.manifest.classes
    wanted: list[int] = []
    for one in classes:
        if isinstance(one, str):
            found = [label for label, entry in enumerate(listed) if one == entry["id"]]
            found = found or [label for label, entry in enumerate(listed) if one == entry["name"]]
        else:
            found = [int(one)] if 0 <= one < len(listed) else []
        if len(found) != 1:
            what = f"the name of {len(found)} classes; give ids" if found else f"none of the {len(listed):,} classes"
            raise InputError(f"{one!r} is {what}. The manifest lists ids and names, and labels count from 0.")
        wanted += found
    samples = np.flatnonzero(np.isin(split.labels, wanted))
    if not len(samples):
        raise InputError(f"the split {split.name} has no images of those classes. Give others.")
    return samples


def checked(samples: ArrayLike, split: Split) -> NDArray[np.int64]:
    """`samples` as an array. Raises InputError unless they are numbers of the split's samples, at least one."""
    numbers = np.asarray(samples)
    if numbers.ndim != 1 or not len(numbers) or numbers.dtype.kind not in "iu":
        raise InputError(
            f"samples is an array of {numbers.dtype} and shape {numbers.shape}; it must be a list of sample numbers, "
            "at least one. Of a mask take np.flatnonzero(mask)."
        )
    if int(numbers.min()) < 0 or int(numbers.max()) >= len(split):
        raise InputError(
            f"samples has numbers from {numbers.min()} to {numbers.max()}; those of the split {split.name} are 0 to "
            f"{len(split) - 1}."
        )
    return numbers.astype(np.int64)
