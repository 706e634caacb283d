"""The loader: a split and what is to be done with its images in, batches on the training device out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet_fast.loading.boxes import RATIO, Boxes
from alexnet_fast.loading.checks import check_boxes
from alexnet_fast.loading.pipeline import Batch, Pipeline
from alexnet_fast.loading.plan import Rows, ShuffleWindow, evaluation_rows, training_rows
from alexnet_fast.shards.reader import Split


class Loader:
    """Batches on the training device. `training` and `evaluation` make one; it can be iterated over once.

    Iterating raises TrainingError when more than 0.1 % of a training's split are corrupt or an image does not decode,
    InputError where there are JPEGs and nothing to decode them.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        """For the two constructors."""
        self._pipeline = pipeline

    @classmethod
    def training(
        cls,
        split: Split,
        *,
        batch: int,
        epoch: int = 0,
        num_epochs: int = 1,
        first_step: int = 0,
        samples: NDArray[np.int64] | None = None,
        crop: int = 224,
        scale: tuple[float, float] | None = None,
        ratio: tuple[float, float] = RATIO,
        crops: bool = True,
        seed: int = 0,
        colour_std: float = 0.1,
        colour_epochs: float = math.inf,
        window: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        threads: int = 2,
    ) -> Loader:
        """`num_epochs` epochs from number `epoch` on, the first of them from `first_step` on: a pure function of
        (seed, epoch).

        `batch`: the most images of a step over all `world_size` ranks. `samples`: those that an epoch consists of, any
        of them as often as it is there; None: each of the split once. `crop`: side of the images, pixels. `scale`:
        range of the share of a stored image's area that is resized to the crop, `ratio`: of that part's width to its
        height, as torchvision's RandomResizedCrop; None: nothing is resized. With `crops=False` the crops are those of
        `evaluation`, and none is mirrored. `colour_std`: that of the PCA colour in the epochs before number
        `colour_epochs`, 0.1 in the paper. `window`: tars open at a time, for disks that want sequential reads; None: a
        global shuffle. `dtype`: of the images; uint8 leaves out the mean and the colour. `threads`: that decode on the
        CPU. Raises InputError when the crop is larger than the stored images and not resized.
        """
        boxes = _boxes(split, samples, crop, central=not crops, scale=scale, ratio=ratio)
        tars = split.index["shard"] if samples is None else split.index["shard"][samples]
        rows = training_rows(
            *(len(tars), batch, seed),
            boxes=boxes,
            colour_std=colour_std,
            colour_epochs=colour_epochs,
            crops=crops,
            window=ShuffleWindow(tars, window) if window else None,
            rank=rank,
            world_size=world_size,
            epochs=range(epoch, epoch + num_epochs),
            first_step=first_step,
        )
        pipeline = Pipeline(
            *(split, _chosen(rows, samples)),
            max_batch=-(-batch // world_size),
            crop=crop,
            resized=boxes.are_resized,
            device=device,
            dtype=dtype,
            threads=threads,
            whole_tars=bool(window),
        )
        return cls(pipeline)

    @classmethod
    def evaluation(
        cls,
        split: Split,
        *,
        batch: int = 256,
        samples: NDArray[np.int64] | None = None,
        crop: int = 224,
        resize: int | None = None,
        mean: list[float] | None = None,
        rank: int = 0,
        world_size: int = 1,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        threads: int = 2,
    ) -> Loader:
        """Every image once in stored order, or those of `samples` in their order: its central crop.

        `batch`: the most images of one rank's step. `resize`: to what the shorter side is resized before, pixels; None:
        images that keep their shape to crop * 8/7, stored squares not at all. `mean`: RGB, 0-255, which is subtracted;
        None: that of the split's own set. A corrupt image has the label UNLABELLED. The other arguments and errors are
        those of `training`.
        """
        count = len(split) if samples is None else len(samples)
        boxes = _boxes(split, samples, crop, central=True, resize=resize)
        rows = evaluation_rows(count, batch, boxes=boxes, rank=rank, world_size=world_size)
        pipeline = Pipeline(
            split,
            _chosen(rows, samples),
            max_batch=batch,
            crop=crop,
            resized=boxes.are_resized,
            device=device,
            dtype=dtype,
            threads=threads,
            mean=mean,
            strict=True,
        )
        return cls(pipeline)

    @property
    def corrupt(self) -> dict[int, str]:
        """The names of the corrupt samples met so far, by number."""
        return self._pipeline.corrupt

    @property
    def wait_seconds(self) -> float:
        """The time that the consumer has spent waiting for batches."""
        return self._pipeline.wait_seconds

    def waits_for(self) -> str:
        """Why no batch comes, in words, for another thread: the stage, and the file or URL that cannot be read."""
        return self._pipeline.waits_for()

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._pipeline)


def _chosen(rows: Iterator[Rows], samples: NDArray[np.int64] | None) -> Iterator[Rows]:
    """The rows, whose numbers are places in `samples` where that is given."""
    return rows if samples is None else (replace(row, samples=samples[row.samples]) for row in rows)


def _boxes(
    split: Split,
    samples: NDArray[np.int64] | None,
    crop: int,
    *,
    central: bool,
    resize: int | None = None,
    **more: Any,
) -> Boxes:
    """Of the images that an epoch consists of, checked; `resize`: that of `Loader.evaluation`."""
    sizes: int | NDArray[np.int32] = split.size
    if (split.sizes != split.size).any():
        sizes = split.sizes if samples is None else split.sizes[samples]
        resize = round(crop * 8 / 7) if central and resize is None else resize
    boxes = Boxes(sizes, crop, resize=resize, **more)
    check_boxes(boxes, central=central)
    return boxes
