"""Resizes an image, and computes only what is kept of it: its central square, say, by native/resize.c.

A JPEG is decoded row by row, by the libjpeg-turbo that Pillow brings with a faster decoder of ours for the coefficients
(native/huffman.c), and each row resized while it is in the cache; columns that are not kept are passed over, rows only
unpacked, so that damage is found in all of the file.

The arithmetic is that of torch's antialiased uint8 interpolation, so that both write the same bytes: triangle weights
as 16-bit integers, rows first, rounded to uint8 in between. Torch's own computes the whole width and takes 1.4 s to
import.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alexnet_fast import native
from alexnet_fast.sharding.jpeg_header import Frame
from alexnet_fast.shards.format import MAX_ASPECT

SCALES = {1: 5.0, 2: 5.0, 3: 2.5}
"""Eighths of its size at which a JPEG may be decoded, besides the whole, and how many times the wanted size its shorter
side must still have, for a picture as near to a Lanczos resize as from the whole image: at 3/8 libjpeg keeps the lowest
frequencies, at the others it averages pixels, which blurs. Measured by tools/resize_quality.py."""

Extent = tuple[float, float]
"""Height and width of what an image's pixels cover, in these pixels. A JPEG of 353 rows that is decoded at 3/8 has 133
rows, of which its picture covers 132.375: the last row holds what the encoder filled the last blocks up with."""


class Target(NamedTuple):
    """What becomes of an image: it is `resized` to a height and width, of which the middle `kept` are computed."""

    resized: tuple[int, int]
    kept: tuple[int, int]


def middle(image: NDArray[np.uint8], target: Target, extent: Extent | None = None) -> NDArray[np.uint8]:
    """Returns RGB `image` as `target` has it, (*target.kept, 3).

    `extent`: of the picture, where it is not the whole image. Only where there are native kernels.
    """
    kernel = native.kernels()
    assert kernel is not None
    image = np.ascontiguousarray(image)
    y, x = map(axis, image.shape[:2], extent or image.shape[:2], *target)
    high, wide = target.kept
    out = np.empty(3 * high * wide + 32, np.uint8)
    if not kernel.middle(
        *(image.ctypes.data, image.shape[1], image.shape[0], wide, high, out.ctypes.data), *x.arguments, *y.arguments
    ):
        raise MemoryError
    return out[: 3 * high * wide].reshape(high, wide, 3)


def jpeg_middle(data: bytes, eighths: int, whole: tuple[int, int], target: Target) -> NDArray[np.uint8] | None:
    """As `middle`, of a JPEG decoded at `eighths` / 8, where there is a native decoder. `whole`: its height and width
    when decoded whole.

    None where it is of another size, or at any warning, since another decoder might then give other pixels.
    """
    kernel = native.kernels()
    assert kernel is not None
    height, width = scaled(whole, eighths)
    y, x = map(axis, (height, width), scaled_extent(whole, eighths), *target)
    high, wide = target.kept
    out = np.empty(3 * high * wide + 32, np.uint8)
    if not kernel.jpeg_middle(
        *(data, len(data), eighths, width, height, wide, high, out.ctypes.data), *x.arguments, *y.arguments
    ):
        return None
    return out[: 3 * high * wide].reshape(high, wide, 3)


def eighths_for(frame: Frame, size: int) -> int:
    """Returns at how many eighths a JPEG is decoded for a shorter side of `size`: the fewest SCALES allows, else 8.
    Tiny and very long images, which gain nothing, are decoded whole."""
    short, long = sorted((frame.height, frame.width))
    if long >= MAX_ASPECT * short:
        return 8
    return next((eighths for eighths, times in SCALES.items() if short * eighths >= 8 * times * max(size, 8)), 8)


def extent_of(image: NDArray[np.uint8], frame: Frame) -> Extent | None:
    """Returns the extent of a JPEG that a library decoded at a scale of its choice, or None where that is the whole."""
    whole = frame.height, frame.width
    eighths = next((eighths for eighths in (1, 2, 3, 4) if image.shape[:2] == scaled(whole, eighths)), None)
    return scaled_extent(whole, eighths) if eighths else None


def scaled(whole: tuple[int, int], eighths: int) -> tuple[int, int]:
    """Returns height and width, in pixels, of a JPEG decoded at `eighths` / 8: of each block of 8 x 8 pixels,
    `eighths` x `eighths` that cover it evenly, as far as they hold anything of the picture."""
    height, width = (-(-length * eighths // 8) for length in whole)
    return height, width


def scaled_extent(whole: tuple[int, int], eighths: int) -> Extent:
    """Returns the extent of a JPEG decoded at `eighths` / 8."""
    return whole[0] * eighths / 8, whole[1] * eighths / 8


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
def axis(pixels: int, extent: float, new: int, size: int) -> Axis:
    """Returns the axis that makes the central `size` of `new` pixels, which cover the first `extent` of `pixels`.

    As torch's `_compute_index_ranges_int16_weights` does (aten/src/ATen/native/cpu/UpSampleKernel.cpp).
    """
    scale = extent / new if extent == pixels else 1 / (new / extent)  # torch inverts a scale that it is given
    reach = max(scale, 1.0)  # of the triangle to either side
    centre = scale * (np.arange(new) + 0.5)
    first = (centre - reach + 0.5).astype(np.int32).clip(min=0)
    end = (centre + reach + 0.5).astype(np.int32).clip(max=pixels)
    at = first[:, None] + np.arange(_up_to_four(int((end - first).max())))
    weights = (1 - np.abs((at - centre[:, None] + 0.5) / reach)).clip(min=0) * (at < end[:, None])
    weights /= weights.sum(axis=1, keepdims=True)
    largest = weights.max()
    shift = next((p for p in range(22) if int(0.5 + largest * 2 ** (p + 1)) >= 2**15), 22)
    crop = (new - size) // 2 + np.arange(_up_to_four(size)).clip(max=size - 1)
    return Axis(first[crop], (weights[crop] * 2**shift + 0.5).astype(np.int16), shift)


def _up_to_four(count: int) -> int:
    return -(-count // 4) * 4
