"""The plan of a training or an evaluation on a split: its arguments checked, and all of its rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet_fast.errors import InputError
from alexnet_fast.loading.augment import Augmentation, check_augment, mixes
from alexnet_fast.loading.boxes import RATIO, Boxes
from alexnet_fast.loading.checks import check_boxes, check_number, check_ranks, check_whole
from alexnet_fast.loading.plan import Rows, ShuffleWindow, evaluation_rows, part_of, steps_per_epoch, training_rows
from alexnet_fast.loading.sampling import Weighted, checked
from alexnet_fast.shards.format import SQUARE, Manifest
from alexnet_fast.shards.reader import Split

MOST = 2**64 - 1
"""Of seeds and epochs: they are keys of 64 bits."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Epochs:
    """One rank's rows of a training, again each time it is iterated over. The fields are the arguments of
    `Loader.training`. Raises InputError, naming the argument, where one cannot be."""

    split: Split
    batch: int
    epoch: int = 0
    num_epochs: int = 1
    first_step: int = 0
    samples: NDArray[np.int64] | Weighted | None = None
    crop: int
    scale: tuple[float, float] | None = None
    ratio: tuple[float, float] = RATIO
    crops: bool = True
    augment: Sequence[Augmentation] = ()
    seed: int = 0
    colour_std: float = 0.0
    colour_epochs: float = math.inf
    window: int | None = None
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        _check_split(self.split)
        if isinstance(self.samples, Weighted):
            if len(self.samples.weights) != len(self.split):
                raise InputError(
                    f"there are {len(self.samples.weights):,} weights for the {len(self.split):,} samples of the split "
                    f"{self.split.name}. Give one a sample."
                )
        elif self.samples is not None:
            object.__setattr__(self, "samples", checked(self.samples, self.split))
        check_whole("batch", self.batch, 1)
        check_whole("epoch", self.epoch, 0, MOST)
        check_whole("num_epochs", self.num_epochs, 0)
        check_whole("seed", self.seed, 0, MOST)
        check_whole("crop", self.crop, 1)
        check_boxes(self._boxes(None if isinstance(self.samples, Weighted) else self.samples), central=not self.crops)
        if self.first_step != self.steps:  # at the epoch's end: resumed there, it begins with the next
            check_whole("first_step", self.first_step, 0, self.steps - 1)
        if self.window is not None:
            check_whole("window", self.window, 1)
        check_number("colour_std", self.colour_std, 0)
        check_number("colour_epochs", self.colour_epochs, 0)
        check_augment(self.augment)
        check_ranks(self.rank, self.world_size, self.num_samples // self.steps // self._together)

    @property
    def _together(self) -> int:
        """Rows of a step that are one rank's."""
        return 2 if mixes(self.augment) else 1

    @property
    def max_batch(self) -> int:
        """The most rows of a step that are this rank's."""
        return -(-self.batch // self.world_size) + 2 * (self._together - 1)

    @property
    def num_samples(self) -> int:
        """Of an epoch, over all ranks."""
        return len(self.split) if self.samples is None else len(self.samples)

    @property
    def steps(self) -> int:
        """Of an epoch."""
        return steps_per_epoch(self.num_samples, self.batch)

    def __len__(self) -> int:
        """The number of steps of all epochs from the first step on."""
        return max(self.num_epochs * self.steps - self.first_step, 0)

    def __str__(self) -> str:
        last = self.epoch + self.num_epochs - 1
        epochs = f"epoch {last}" if self.num_epochs == 1 else f"epochs {self.epoch} to {last}"
        crops = "random crops" if self.scale is None else "random resized crops"
        looks = f"{crops} and mirror images, PCA colour {self.colour_std:g}" if self.crops else "central crops"
        looks = ", ".join([looks, *map(str, self.augment)])
        return (
            f"{self.split.name}: {self.num_samples:,} samples an epoch, {epochs} from step {self.first_step} of "
            f"{self.steps:,}, batch {self.batch}, rank {self.rank} of {self.world_size}, {looks}"
        )

    def __iter__(self) -> Iterator[Rows]:
        for epoch in range(self.epoch, self.epoch + self.num_epochs):
            yield from self._epoch(epoch, self.first_step if epoch == self.epoch else 0)

    def _epoch(self, epoch: int, first_step: int) -> Iterator[Rows]:
        drawn = self.samples
        samples = drawn.draw(self.seed, epoch) if isinstance(drawn, Weighted) else drawn
        tars = self.split.index["shard"] if samples is None else self.split.index["shard"][samples]
        rows = training_rows(
            *(len(tars), self.batch, self.seed),
            boxes=self._boxes(samples),
            colour_std=self.colour_std,
            colour_epochs=self.colour_epochs,
            crops=self.crops,
            augment=self.augment,
            window=ShuffleWindow(tars, self.window) if self.window else None,
            rank=self.rank,
            world_size=self.world_size,
            epochs=range(epoch, epoch + 1),
            first_step=first_step,
        )
        return rows if samples is None else (replace(row, samples=samples[row.samples]) for row in rows)

    @property
    def resized(self) -> bool:
        """Whether some crops are resized."""
        return self._boxes(None if isinstance(self.samples, Weighted) else self.samples).are_resized

    def _boxes(self, samples: NDArray[np.int64] | None) -> Boxes:
        return _boxes(self.split, samples, self.crop, central=not self.crops, scale=self.scale, ratio=self.ratio)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One rank's rows of an evaluation, again each time it is iterated over. The fields are the arguments of
    `Loader.evaluation`. Raises InputError, naming the argument, where one cannot be."""

    split: Split
    batch: int
    samples: NDArray[np.int64] | None
    crop: int
    resize: int | None
    rank: int
    world_size: int

    def __post_init__(self) -> None:
        _check_split(self.split)
        if self.samples is not None and len(self.samples):  # of none: no batches
            object.__setattr__(self, "samples", checked(self.samples, self.split))
        check_whole("batch", self.batch, 1)
        check_whole("crop", self.crop, 1)
        check_boxes(self._boxes(), central=True)
        check_ranks(self.rank, self.world_size)

    @property
    def num_samples(self) -> int:
        """Over all ranks."""
        return len(self.split) if self.samples is None else len(self.samples)

    def __len__(self) -> int:
        start, stop = part_of(0, self.num_samples, self.rank, self.world_size)
        return -(-(stop - start) // self.batch)

    def __str__(self) -> str:
        return (
            f"{self.split.name}: {self.num_samples:,} samples in stored order, batch {self.batch}, rank {self.rank} of "
            f"{self.world_size}, central crops"
        )

    def __iter__(self) -> Iterator[Rows]:
        count, boxes = self.num_samples, self._boxes()
        rows = evaluation_rows(count, self.batch, boxes=boxes, rank=self.rank, world_size=self.world_size)
        samples = self.samples
        return rows if samples is None else (replace(row, samples=samples[row.samples]) for row in rows)

    @property
    def resized(self) -> bool:
        """Whether some crops are resized."""
        return self._boxes().are_resized

    def _boxes(self) -> Boxes:
        return _boxes(self.split, self.samples, self.crop, central=True, resize=self.resize)


def _check_split(split: object) -> None:
    """Raises InputError for anything else, such as a path."""
    if not isinstance(split, Split):
        raise InputError(f"split is {split!r}; it must be one of a shard set, such as ShardSet(FOLDER).split('train').")


def evaluated_side(of: Split | Manifest, crop: int) -> int:
    """Returns the side of the square in which an image's crops lie when it is evaluated, pixels: that of the stored
    squares; of images that keep their shapes, whose middle is resized to it, 256 for a crop of 224."""
    return of.size if of.shape == SQUARE else round(crop * 8 / 7)


def _boxes(
    split: Split,
    samples: NDArray[np.int64] | None,
    crop: int,
    *,
    central: bool,
    resize: int | None = None,
    **more: Any,
) -> Boxes:
    """Of `samples`, None: of all; `resize`: that of `Loader.evaluation`."""
    sizes: int | NDArray[np.int32] = split.size
    if split.shape != SQUARE:
        sizes = split.sizes if samples is None else split.sizes[samples]
        resize = evaluated_side(split, crop) if central and resize is None else resize
    return Boxes(sizes, crop, resize=resize, **more)
