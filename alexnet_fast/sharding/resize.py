"""Resizes an image and computes only its central square, by native/resize.c.

A JPEG is decoded row by row, by the libjpeg-turbo that Pillow brings with a faster decoder of ours for the coefficients
(native/huffman.c), and each row resized while it is in the cache; columns beyond the square are passed over, rows only
unpacked, so that damage is found in all of the file.

The arithmetic is that of torch's antialiased uint8 interpolation, so that both write the same bytes: triangle weights
as 16-bit integers, rows first, rounded to uint8 in between. Torch's own computes the whole width and takes 1.4 s to
import.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from alexnet_fast import native


def square(image: NDArray[np.uint8], height: int, width: int, size: int) -> NDArray[np.uint8]:
    """Returns the central (size, size, 3) of RGB `image` resized to (height, width), neither of them below `size`.

    Only where there are native kernels.
    """
    kernel = native.kernels()
    assert kernel is not None
    image = np.ascontiguousarray(image)
    x, y = axis(image.shape[1], width, size), axis(image.shape[0], height, size)
    out = np.empty(3 * size * size + 32, np.uint8)
    if not kernel.square(
        *(image.ctypes.data, image.shape[1], image.shape[0], size, out.ctypes.data), *x.arguments, *y.arguments
    ):
        raise MemoryError
    return out[: 3 * size * size].reshape(size, size, 3)


def jpeg_square(
    data: bytes, eighths: int, decoded: tuple[int, int], resized: tuple[int, int], size: int
) -> NDArray[np.uint8] | None:
    """As `square`, of a JPEG, where there is a native decoder: height and width at `eighths` / 8, and those it is
    resized to.

    None where it is of another size, or at any warning, since another decoder might then give other pixels.
    """
    kernel = native.kernels()
    assert kernel is not None
    y, x = (axis(old, new, size) for old, new in zip(decoded, resized, strict=True))
    out = np.empty(3 * size * size + 32, np.uint8)
    if not kernel.jpeg_square(
        *(data, len(data), eighths, decoded[1], decoded[0], size, out.ctypes.data), *x.arguments, *y.arguments
    ):
        return None
    return out[: 3 * size * size].reshape(size, size, 3)


@dataclass(frozen=True)
class Axis:
    """The resizing and cropping of one side: of each output the first input and the weights (outputs, taps), which are
    scaled by 2^shift. Outputs and taps are filled up to multiples of four."""

    first: NDArray[np.int32]
    weights: NDArray[np.int16]
    shift: int

    @cached_property
    def arguments(self) -> tuple[int, int, int, int]:
        """The axis as arguments of the native kernels."""
        return self.first.ctypes.data, self.weights.ctypes.data, self.weights.shape[1], self.shift


@lru_cache(1024)
def axis(old: int, new: int, size: int) -> Axis:
    """Returns the axis that makes the central `size` of `new` pixels from `old`.

    As torch's `_compute_index_ranges_int16_weights` does (aten/src/ATen/native/cpu/UpSampleKernel.cpp).
    """
    scale = old / new
    reach = max(scale, 1.0)  # of the triangle to either side
    centre = scale * (np.arange(new) + 0.5)
    first = (centre - reach + 0.5).astype(np.int32).clip(min=0)
    end = (centre + reach + 0.5).astype(np.int32).clip(max=old)
    at = first[:, None] + np.arange(_up_to_four(int((end - first).max())))
    weights = (1 - np.abs((at - centre[:, None] + 0.5) / reach)).clip(min=0) * (at < end[:, None])
    weights /= weights.sum(axis=1, keepdims=True)
    largest = weights.max()
    shift = next((p for p in range(22) if int(0.5 + largest * 2 ** (p + 1)) >= 2**15), 22)
    crop = (new - size) // 2 + np.arange(_up_to_four(size)).clip(max=size - 1)
    return Axis(first[crop], (weights[crop] * 2**shift + 0.5).astype(np.int16), shift)


def _up_to_four(count: int) -> int:
    return -(-count // 4) * 4
