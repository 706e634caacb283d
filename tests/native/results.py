"""What the loader and sharding make of JPEGs."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet_fast.loading.crops import CropReader
from alexnet_fast.sharding.resize import to_square


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
    reader = CropReader(side=side, crop=crop, threads=threads, pinned=False)
    offset = torch.zeros(len(stored), 3) if offset is None else offset
    upright = len(stored) if upright is None else upright
    try:
        return reader.submit(stored, np.array(corners, np.uint16), upright, offset, dtype).result()
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
