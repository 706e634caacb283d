"""Stored pixels: the crop is a strided view of the mapped tar, copied once into the batch by a few threads."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet_fast.loading.pixels import CHUNK, centre

TASK = 16
"""Images a thread takes at a time."""


@dataclass(frozen=True)
class Copied:
    """A batch under way."""

    images: torch.Tensor
    tasks: list[Future[None]]

    def result(self) -> torch.Tensor:
        for task in self.tasks:
            task.result()
        return self.images


class RawReader:
    """`pinned`: the batch is page-locked, for a copy to a GPU that nothing waits for."""

    def __init__(self, *, crop: int, threads: int, pinned: bool) -> None:
        self._crop = crop
        self._pinned = pinned
        self._pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))

    def submit(
        self,
        stored: list[NDArray[np.uint8]],
        corners: NDArray[np.uint16],
        upright: int,
        offset: torch.Tensor,
        dtype: torch.dtype,
    ) -> Copied:
        """`stored`: n images (size, size, 3); `corners` (n, 2): top and left of the crops, pixels.

        The result is `centre`'s, in memory (n, crop, crop, 3).
        """
        shape = (len(stored), self._crop, self._crop, 3)
        with torch.inference_mode(False):  # the threads may then write to it, whatever the caller's mode
            images = torch.empty(shape, dtype=dtype, pin_memory=self._pinned)
        places = corners.tolist()

        @torch.inference_mode()
        def copy(first: int) -> None:
            for start in range(first, min(first + TASK, len(stored)), CHUNK):
                part = slice(start, min(start + CHUNK, first + TASK, len(stored)))
                whole = images[part]
                block = whole if dtype == torch.uint8 else torch.empty(whole.shape, dtype=torch.uint8)
                rows = block.numpy()
                for i, (view, (top, left)) in enumerate(zip(stored[part], places[part], strict=True)):
                    rows[i] = view[top : top + self._crop, left : left + self._crop]
                centre(block, max(upright - start, 0), offset[part], whole)

        return Copied(images, [self._pool.submit(copy, first) for first in range(0, len(stored), TASK)])

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
