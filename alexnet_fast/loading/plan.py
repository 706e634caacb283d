"""What happens to every sample: an epoch is a pure function of (seed, epoch). NumPy only.

Row k of an epoch says which sample comes k-th and how it is augmented. The rows are cut into steps of equal
length (give or take one), each at most the global batch, and each step into an equal part a rank. So every sample is
seen exactly once, the stream of augmented samples depends neither on the number of ranks nor on threads, and
(seed, epoch, step) is all there is to resume.

The order is a global shuffle, or one of a window that slides over the tars, for disks that want sequential reads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from alexnet_fast import random
from alexnet_fast.loading.augment import Augmentation, Draws, Effects, mixes
from alexnet_fast.loading.boxes import Boxes

_TAR_SPACING = 2**32
"""Places between two tars in the window order's line: so many that two samples hardly ever share one."""


@dataclass(frozen=True)
class ShuffleWindow:
    """An order for sequential reads: few tars are open at a time, each from its first sample to its last.

    The tars stand in a line, shuffled anew every epoch. Each sample gets a place, uniform in a window `open` tars
    wide that is centred on its tar; what falls off an end of the line is mirrored back. The samples come by place.
    Never are more than `open` tars open, whatever their sizes; at the two ends of an epoch it is about half as many.
    With no more than `open` tars in all, the order is the global shuffle.

    Measured for ImageNet's 1,281,167 in tars of 1,000, batches of 256, 16 open: a batch mixes as well as one of
    15.6 tars in equal parts (exp of the entropy; 7.9 at the ends; a global shuffle: 224), and two images of a batch
    share one again in the next epoch with 0.12 % (0.02 %). With 64 open: 56, 29 and 0.025 %.
    """

    tars: NDArray[np.unsignedinteger]
    """(n,) number of the tar each sample is in: column `shard` of the split's index."""
    open: int
    """Tars open at a time, 1 or more."""

    def order(self, rng: random.Generator) -> NDArray[np.signedinteger]:
        """(n,) sample numbers: a permutation."""
        count = int(self.tars.max(initial=0)) + 1
        if count <= self.open:
            return _shuffled(len(self.tars), rng)
        start = rng.permutation(count) * _TAR_SPACING - (self.open - 1) * _TAR_SPACING // 2
        place = start[self.tars]
        place += rng.integers(0, self.open * _TAR_SPACING, len(self.tars))
        np.maximum(place, ~place, out=place)  # -1 becomes 0, -2 becomes 1, ...
        np.minimum(place, 2 * count * _TAR_SPACING + ~place, out=place)
        return np.argsort(place, kind="stable")  # stable: ties too are the same on every machine


@dataclass(frozen=True)
class Rows:
    """One rank's part of one step: n samples and what happens to each."""

    epoch: int
    step: int
    samples: NDArray[np.int64]
    """(n,) sample numbers."""
    crop: NDArray[np.uint16]
    """(n, 4) top, left, height and width of the crop in the stored image, pixels: see boxes.py."""
    mirror: NDArray[np.bool_]
    """(n,) flipped left to right."""
    colour: NDArray[np.float32]
    """(n, 3) multiples of the principal components' standard deviations added to every pixel."""
    effects: Effects | None = None
    """Of the other augmentations, where there are any."""

    def take(self, order: NDArray[np.int64]) -> Rows:
        """Those at the places `order`."""
        columns = {name: getattr(self, name)[order] for name in ("samples", "crop", "mirror", "colour")}
        return replace(self, **columns, effects=self.effects and self.effects.take(order))


def steps_per_epoch(samples: int, batch: int) -> int:
    """The number of steps of an epoch."""
    return -(-samples // batch)


def training_rows(
    samples: int,
    batch: int,
    seed: int,
    *,
    boxes: Boxes,
    colour_std: float,
    colour_epochs: float = math.inf,
    crops: bool = True,
    augment: Sequence[Augmentation] = (),
    window: ShuffleWindow | None = None,
    rank: int = 0,
    world_size: int = 1,
    epochs: range = range(1),
    first_step: int = 0,
) -> Iterator[Rows]:
    """This rank's rows of every step of `epochs`, from `first_step` of the first epoch on.

    `samples`: their number; `batch`: the largest number of rows of a step over all ranks.
    `boxes`: of the crops. Where their size is fixed each offset is uniform in 0..margin, both included (33 values for
    224 of 256, as the original code has it; the paper's count of 2048 crops and flips uses 32).
    `colour_std`: standard deviation of `colour`, 0.1 in the paper (section 4.1), in epochs before `colour_epochs`.
    `augment`: the other augmentations; where images are mixed in pairs, a rank gets both of a pair.
    `crops=False`: the order stays random, every crop is central, nothing is mirrored.
    `window`: of the same samples; None: a global shuffle.
    """
    steps = steps_per_epoch(samples, batch)
    for epoch in epochs:
        std = np.float32(colour_std if epoch < colour_epochs else 0)
        order, drawn, mirror = _draw_epoch(seed, epoch, samples, boxes, crops, window)
        colours = random.epoch_colours(seed, epoch)
        draws = Draws(augment, seed, epoch, boxes.crop)
        for step in range(steps):
            start, stop = part_of(0, samples, step, steps)
            # A step at a time: of ImageNet it is half of the plan's memory and a third of its time. Skipped steps are
            # drawn too, since a normal number takes one draw or more.
            shape = stop - start, 3
            colour = colours.standard_normal(shape, np.float32) * std if std else np.zeros(shape, np.float32)
            effects = draws.step(stop - start)
            if step < first_step:
                continue
            first, last = part_of(start, stop, rank, world_size, 2 if mixes(augment) else 1)
            part = slice(first, last)
            chosen = order[part].astype(np.int64)
            crop = boxes.completed(boxes.central(chosen) if drawn is None else drawn[part])
            effects = effects and effects.take(np.arange(first - start, last - start))
            yield Rows(epoch, step, chosen, crop, mirror[part], colour[first - start : last - start], effects)
        first_step = 0


def evaluation_rows(samples: int, batch: int, *, boxes: Boxes, rank: int = 0, world_size: int = 1) -> Iterator[Rows]:
    """Every sample once over all ranks, in stored order, central crop; `batch` is one rank's."""
    start, stop = part_of(0, samples, rank, world_size)
    for step, first in enumerate(range(start, stop, batch)):
        part = np.arange(first, min(first + batch, stop))
        upright = np.zeros(len(part), bool)
        crop = boxes.completed(boxes.central(part))
        yield Rows(0, step, part, crop, upright, np.zeros((len(part), 3), np.float32))


def part_of(start: int, stop: int, number: int, parts: int, together: int = 1) -> tuple[int, int]:
    """Start and stop of the `number`-th of `parts` near-equal parts of a range, cut at multiples of `together` from its
    start; what is left at its end is of the last part."""
    groups = (stop - start) // together
    first, last = (start + groups * i // parts * together for i in (number, number + 1))
    return first, stop if number == parts - 1 else last


def _draw_epoch(
    seed: int, epoch: int, samples: int, boxes: Boxes, crops: bool, window: ShuffleWindow | None
) -> tuple[NDArray[np.int32], NDArray[np.uint16] | None, NDArray[np.bool_]]:
    """Columns `samples`, `crop` (see `Boxes.random`; None: central) and `mirror` of all of an epoch's rows: row i is
    sample i of its order."""
    rng = random.epoch_order(seed, epoch)
    order = window.order(rng).astype(np.int32, copy=False) if window else _shuffled(samples, rng)
    if not crops:
        return order, None, np.zeros(samples, bool)
    drawn = boxes.random(random.epoch_crops(seed, epoch), order)
    return order, drawn, random.epoch_mirrors(seed, epoch).integers(0, 2, samples, np.uint8).view(np.bool_)


def _shuffled(samples: int, rng: random.Generator) -> NDArray[np.int32]:
    """As `rng.permutation(samples)`, in half of the memory."""
    order = np.arange(samples, dtype=np.int32)
    rng.shuffle(order)
    return order
