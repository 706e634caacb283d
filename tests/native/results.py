"""What the loader and sharding make of JPEGs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet_fast.loading.cpu import CropReader
from alexnet_fast.sharding.decode import to_square


def cut(
    stored: list[NDArray[np.uint8]],
    corners: list[tuple[int, int]],
    *,
    crop: int,
    side: int = 256,
    upright: int | None = None,
    dtype: torch.dtype = torch.uint8,
    offset: torch.Tensor | None = None,
    threads: int = 2,
) -> torch.Tensor:
    """Of the set's squares of `side`, cut out at these tops and lefts."""
    boxes = [(top, left, crop, crop) for top, left in corners]
    how = Crops(crop, upright, dtype, offset, threads)
    return how.of(stored, boxes, [(side, side)] * len(stored))


@dataclass(frozen=True)
class Crops:
    """How a batch is made: `CropReader`'s arguments; None: none is mirrored, nothing is subtracted."""

    crop: int
    upright: int | None = None
    dtype: torch.dtype = torch.uint8
    offset: torch.Tensor | None = None
    threads: int = 2

    def of(
        self, stored: list[NDArray[np.uint8]], boxes: list[tuple[int, int, int, int]], sizes: list[tuple[int, int]]
    ) -> torch.Tensor:
        """(n, crop, crop, 3) of `boxes` of images of these heights and widths."""
        reader = CropReader(crop=self.crop, threads=self.threads, pinned=False)
        offset = torch.zeros(len(stored), 3) if self.offset is None else self.offset
        upright = len(stored) if self.upright is None else self.upright
        arrays = np.array(sizes, np.int64), np.array(boxes, np.uint16)
        try:
            return reader.submit(stored, *arrays, upright, offset, self.dtype).result()
        finally:
            reader.close()


def crop_or_reason(
    data: bytes | NDArray[np.uint8], place: tuple[int, int] = (0, 0), *, crop: int, side: int
) -> bytes | str:
    """Of a stored JPEG: the crop's pixels, or why there is none."""
    try:
        return cut([np.frombuffer(data, np.uint8)], [place], crop=crop, side=side, threads=1)[0].numpy().tobytes()
    except ValueError as error:
        return str(error)


def square_or_reason(data: bytes, size: int) -> bytes | str:
    """As sharding makes it."""
    try:
        return to_square(data, size).tobytes()
    except ValueError as error:
        return str(error)
