"""Stored samples to crops in the batch, by a few threads of the CPU and native/crops.c.

JPEGs are decoded by the libjpeg-turbo that Pillow brings, their coefficients by a decoder of ours (native/huffman.c),
no row below the crop, and each row is resized where it is to be, mirrored, centred and written to the batch while it is
in the cache; stored pixels are read where the tar is mapped. Without the compiled code only stored pixels are read
here, by NumPy and torch, and DALI decodes JPEGs.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet_fast import native
from alexnet_fast.loading.handover import CHUNK, centre
from alexnet_fast.memory import Buffers

TASK = 16
"""Images a thread takes at a time."""
KINDS = {torch.uint8: 0, torch.float32: 1, torch.bfloat16: 2}
"""What native/crops.c can write."""


@dataclass(frozen=True)
class Cut:
    """A batch of crops under way."""

    images: torch.Tensor
    tasks: list[Future[None]]

    def result(self) -> torch.Tensor:
        """Raises ValueError when a JPEG does not decode."""
        for task in self.tasks:
            task.result()
        return self.images


@dataclass(frozen=True)
class _Batch:
    """What the tasks of a batch share: the arguments of `CropReader.submit`, and `images`, which they fill."""

    stored: list[NDArray[np.uint8]]
    sizes: NDArray[np.integer]
    boxes: NDArray[np.uint16]
    upright: int
    offset: torch.Tensor
    images: torch.Tensor


class CropReader:
    """Makes batches of crops of stored images. `crop`: their side, pixels. `pinned`: the batch is page-locked, for a
    copy to a GPU that nothing waits for."""

    def __init__(self, *, crop: int, threads: int, pinned: bool) -> None:
        self._crop = crop
        self._pinned = pinned
        self._buffers = Buffers()
        self._pool = ThreadPoolExecutor(threads, initializer=None if native.kernels() else _calculate_alone)

    def submit(
        self,
        stored: list[NDArray[np.uint8]],
        sizes: NDArray[np.integer],
        boxes: NDArray[np.uint16],
        upright: int,
        offset: torch.Tensor,
        dtype: torch.dtype,
    ) -> Cut:
        """Begins a batch. `stored`: n images (height, width, 3), or JPEGs where there is a native decoder; `sizes`
        (n, 2): their heights and widths; `boxes` (n, 4): what of these each crop is made of, as in `Rows.crop`; a JPEG
        that is smaller has its box in proportion. `dtype`: one of KINDS.

        The result is `centre`'s, in memory (n, crop, crop, 3). Boxes of another size than the crop are resized as by
        torch's antialiased interpolation.
        """
        shape = (len(stored), self._crop, self._crop, 3)
        with torch.inference_mode(False):  # the threads may then write to it, whatever the caller's mode
            images = (
                torch.empty(shape, dtype=dtype, pin_memory=True) if self._pinned else self._buffers.take(shape, dtype)
            )
        cut = self._compiled if native.kernels() else self._copied
        task = cut(_Batch(stored, sizes, boxes, upright, offset, images))
        return Cut(images, [self._pool.submit(task, first) for first in range(0, len(stored), TASK)])

    def _compiled(self, batch: _Batch) -> Callable[[int], None]:
        compiled = native.kernels()
        assert compiled is not None
        places = np.array([item.ctypes.data for item in batch.stored], np.uintp)
        lengths = np.array([len(item) if item.ndim == 1 else -1 for item in batch.stored], np.int64)
        sizes, boxes = np.ascontiguousarray(batch.sizes, np.int32), np.ascontiguousarray(batch.boxes, np.int32)
        offsets = np.ascontiguousarray(batch.offset.numpy(), np.float32)
        out, one = batch.images.data_ptr(), batch.images[:1].nbytes

        def cut(first: int) -> None:
            count = min(TASK, len(batch.stored) - first)
            message = ctypes.create_string_buffer(200)
            failed = compiled.crops(
                *(count, places[first:].ctypes.data, lengths[first:].ctypes.data, sizes[first:].ctypes.data),
                *(boxes[first:].ctypes.data, batch.upright - first, offsets[first:].ctypes.data),
                *(self._crop, KINDS[batch.images.dtype], out + first * one, message),
            )
            if failed >= 0:
                raise ValueError(message.value.decode(errors="replace"))

        return cut

    def _copied(self, batch: _Batch) -> Callable[[int], None]:
        boxes = batch.boxes.tolist()

        @torch.inference_mode()
        def copy(first: int) -> None:
            for start in range(first, min(first + TASK, len(batch.stored)), CHUNK):
                part = slice(start, min(start + CHUNK, first + TASK, len(batch.stored)))
                whole = batch.images[part]
                block = whole if batch.images.dtype == torch.uint8 else torch.empty(whole.shape, dtype=torch.uint8)
                rows = block.numpy()
                for i, (top, left, height, width) in enumerate(boxes[part]):
                    rows[i] = resized(batch.stored[start + i][top : top + height, left : left + width], self._crop)
                centre(block, max(batch.upright - start, 0), batch.offset[part], whole)

        return copy

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


def resized(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """(side, side, 3) of RGB `pixels` (height, width, 3), by torch's antialiased interpolation."""
    if pixels.shape[:2] == (side, side):
        return pixels
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]
    out = torch.nn.functional.interpolate(image, (side, side), mode="bilinear", antialias=True)
    return np.asarray(out[0].permute(1, 2, 0))


def _calculate_alone() -> None:
    torch.set_num_threads(1)
