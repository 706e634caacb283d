"""A split as a data set of torch's DataLoader, for transforms of one's own on PIL images in its worker processes.

The loader of loader.py is many times as fast; this is for what it cannot do.
"""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset, default_collate, get_worker_info
from torch.utils.data import IterableDataset as TorchIterableDataset

from alexnet_fast.errors import InputError
from alexnet_fast.loading.corruption import CorruptionFilter
from alexnet_fast.loading.epochs import Epochs
from alexnet_fast.loading.sampling import Weighted
from alexnet_fast.shards.reader import Split

Transform = Callable[[Image.Image], Any]
"""Any callable on an RGB image, such as one of torchvision's."""
MOST_WORKERS = 4096


class MapDataset(Dataset[tuple[Any, int]]):
    """`dataset[i]`: sample i of the split as (image, label), the image a PIL image or what `transform` makes of it.

    In place of a corrupt sample comes the next intact one in stored order; TrainingError is raised when more than
    0.1 % of the split are corrupt.
    """

    def __init__(self, split: Split, transform: Transform | None = None) -> None:
        self.classes = split.classes
        self._images = _Images(split)
        self._transform = transform
        self._len = len(split)

    def __len__(self) -> int:
        return self._len

    def __getitem__(self, sample: int) -> tuple[Any, int]:
        if not -self._len <= sample < self._len:  # also what ends `for image, label in dataset`
            raise IndexError(f"sample {sample} of {self._len:,}")
        ((image, label),) = self._images.read(np.array([sample % self._len]))
        return (self._transform(image) if self._transform else image), label


class IterableDataset(TorchIterableDataset[Any]):
    """The batches of `Loader.training`'s steps, (images, labels), for `DataLoader(dataset, batch_size=None,
    num_workers=N)`: worker w of N makes step w and every N-th after it, so that every sample comes exactly once, in the
    plan's order whatever N is.

    `transform` makes a tensor of each PIL image; they are stacked as torch's default_collate does. The other arguments
    are those of `Loader.training`; transforms draw their random numbers from torch's generators. It can be iterated
    over once: the next epochs are another data set's. Corrupt samples are replaced as in `MapDataset`.
    """

    def __init__(
        self,
        split: Split,
        transform: Transform,
        *,
        batch: int,
        epoch: int = 0,
        num_epochs: int = 1,
        first_step: int = 0,
        samples: NDArray[np.int64] | Weighted | None = None,
        seed: int = 0,
        window: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._plan = Epochs(
            split=split,
            batch=batch,
            epoch=epoch,
            num_epochs=num_epochs,
            first_step=first_step,
            samples=samples,
            crop=1,  # the images come whole
            crops=False,
            seed=seed,
            window=window,
            rank=rank,
            world_size=world_size,
        )
        self._images = _Images(split)
        self._transform = transform
        self._begun = torch.zeros(MOST_WORKERS, dtype=torch.bool).share_memory_()
        """Which workers have iterated over it, in whatever process."""

    def __len__(self) -> int:
        """The number of batches of all workers."""
        return len(self._plan)

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        if self._begun[worker]:
            raise InputError(
                "this data set's epochs were given already; again they would be the same order. Make a data set and a "
                "DataLoader for the next ones: IterableDataset(..., epoch=...), or one of all with num_epochs."
            )
        self._begun[worker] = True
        for number, rows in enumerate(self._plan):
            if number % workers == worker:
                items = [(self._transform(image), label) for image, label in self._images.read(rows.samples)]
                yield default_collate(items)


class _Images:
    """Decodes samples of a split, which each process opens anew: a remote set's threads and locks are not inherited."""

    def __init__(self, split: Split) -> None:
        self._split = split
        self._filter = CorruptionFilter(split, strict=False)
        self._process = os.getpid()

    def __reduce__(self) -> tuple[type[_Images], tuple[Split]]:
        return _Images, (self._split,)

    def read(self, samples: NDArray[np.int64]) -> Iterator[tuple[Image.Image, int]]:
        """Images and labels of samples. Raises TrainingError when too many are corrupt."""
        if self._process != os.getpid():
            self.__init__(pickle.loads(pickle.dumps(self._split)))  # type: ignore[misc]
        samples, labels = self._filter.replaced(samples)
        for sample, label in zip(samples, labels.tolist(), strict=True):
            (stored,) = self._split.read(np.array([sample]))
            image = Image.open(io.BytesIO(stored.data)) if stored.ndim == 1 else Image.fromarray(stored)
            yield image.convert("RGB"), label
