"""The loader: a split and what is to be done with its images in, batches on the training device out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet_fast.environment import cores
from alexnet_fast.errors import InputError
from alexnet_fast.loading.augment import Augmentation
from alexnet_fast.loading.batch import Batch
from alexnet_fast.loading.boxes import RATIO
from alexnet_fast.loading.checks import check_output
from alexnet_fast.loading.epochs import Epochs, Evaluation
from alexnet_fast.loading.pipeline import Pipeline
from alexnet_fast.loading.sampling import Weighted
from alexnet_fast.loading.share import ShareTrials
from alexnet_fast.shards.reader import Split


class Loader:
    """Batches on the training device, `len(loader)` of them: `for images, labels in loader`. `training` and
    `evaluation` make one, and raise InputError, naming the argument, where one cannot be.

    Making one raises InputError too where there are JPEGs and nothing to decode them; iterating raises TrainingError
    when more than 0.1 % of a training's split are corrupt or an image does not decode, InputError where a training's
    epochs were given already.
    """

    def __init__(
        self,
        plan: Epochs | Evaluation,
        *,
        device: str | torch.device,
        dtype: torch.dtype,
        threads: int | None,
        **more: Any,
    ) -> None:
        """For the two constructors; `more`: arguments of `Pipeline`."""
        threads = cores() if threads is None else threads
        check_output(dtype, device, threads)
        output: dict[str, Any] = {"crop": plan.crop, "device": device, "dtype": dtype, "threads": threads}
        self._pipeline = Pipeline(plan.split, plan, resized=plan.resized, **output, **more)
        self._plan = plan
        self._images = f"images (3, {plan.crop}, {plan.crop}) {str(dtype).removeprefix('torch.')} on {device}"
        self._begun = False

    @classmethod
    def training(
        cls,
        split: Split,
        *,
        batch: int,
        epoch: int = 0,
        num_epochs: int = 1,
        first_step: int = 0,
        samples: NDArray[np.int64] | Weighted | None = None,
        crop: int = 224,
        scale: tuple[float, float] | None = None,
        ratio: tuple[float, float] = RATIO,
        crops: bool = True,
        augment: Sequence[Augmentation] = (),
        seed: int = 0,
        colour_std: float = 0.1,
        colour_epochs: float = math.inf,
        window: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        threads: int | None = None,
    ) -> Loader:
        """`num_epochs` epochs from number `epoch` on, the first of them from `first_step` on: a pure function of
        (seed, epoch). It can be iterated over once: the next epochs are another loader's.

        `batch`: the most images of a step over all `world_size` ranks. `samples`: those that an epoch consists of, any
        of them as often as it is there, or `Weighted`; None: each of the split once. `crop`: side of the images,
        pixels. `scale`: the part that is resized to the crop has a share of the stored image's area in this range, and
        `ratio` is that of its width to its height: torchvision's RandomResizedCrop; None: nothing is resized. With
        `crops=False` all crops are central, as `evaluation` has them, and none is mirrored. `augment`: a list of
        what else is done, of ColourJitter, Erasing, MixUp and CutMix. `colour_std`: that of the PCA colour in the
        epochs before number `colour_epochs`, 0.1 in the paper. `window`: tars open at a time, for disks that want
        sequential reads; None: a global shuffle. `dtype`: of the images; uint8 leaves out the mean and the PCA colour.
        `threads`: that decode on the CPU; None: as many as the cores this process may use.
        """
        given = locals()
        plan = Epochs(**{field.name: given[field.name] for field in fields(Epochs)})
        output: dict[str, Any] = {"device": device, "dtype": dtype, "threads": threads}
        return cls(plan, **output, max_batch=plan.max_batch, whole_tars=bool(window))

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
        threads: int | None = None,
    ) -> Loader:
        """Every image once in stored order, or those of `samples` in their order: its central crop. It can be iterated
        over again, and gives the same.

        `batch`: the most images of one rank's step. `resize`: to what the shorter side is resized before, pixels; None:
        images that keep their shape to crop * 8/7, stored squares not at all. `mean`: RGB, 0-255, which is subtracted;
        None: that of the split's own set. A corrupt image has the label UNLABELLED. The other arguments and errors are
        those of `training`.
        """
        plan = Evaluation(split, batch, samples, crop, resize, rank, world_size)
        return cls(plan, device=device, dtype=dtype, threads=threads, max_batch=batch, mean=mean, strict=True)

    @property
    def corrupt(self) -> dict[int, str]:
        """The names of the corrupt samples met so far, by number."""
        return self._pipeline.corrupt

    @property
    def wait_seconds(self) -> float:
        """The time that the device has had nothing to do because no batch was there, the first one left out."""
        return self._pipeline.wait_seconds

    @property
    def trials(self) -> ShareTrials | None:
        """Of the share of the JPEGs that the host decodes beside a GPU; None where nothing is to be tried."""
        return self._pipeline.trials

    def waits_for(self) -> str:
        """Why no batch comes, in words, for another thread: the stage, and the file or URL that cannot be read."""
        return self._pipeline.waits_for()

    def __len__(self) -> int:
        """The number of batches of all its epochs, from the first step on."""
        return len(self._plan)

    def __repr__(self) -> str:
        return f"<Loader of {self._plan}, {self._images}>"

    def __iter__(self) -> Iterator[Batch]:
        if self._begun and isinstance(self._plan, Epochs):
            raise InputError(
                "this loader's epochs were given already; again they would be the same images, crops and colours. Make "
                "a loader for the next ones: Loader.training(..., epoch=...), or one of all with num_epochs."
            )
        self._begun = True
        yield from self._pipeline
