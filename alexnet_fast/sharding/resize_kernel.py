"""The central square of a shrunken image, and no pixel more: resize.c, compiled for this processor at first use.

The arithmetic is that of torch's antialiased uint8 interpolation, so that both write the same bytes: triangle weights
as 16-bit integers, rows first, rounded to uint8 in between. Torch's own computes the whole width and takes 1.4 s to
import. `cc` runs once a process, for half a second. Without a compiler, or a processor with AVX2, `library()` is None.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet_fast.compiled import load

SOURCE = Path(__file__).with_name("resize.c")


@cache
def library() -> ctypes.CDLL | None:
    """The compiled function, or None where it cannot be compiled."""
    loaded = load(SOURCE)
    if loaded is None or not hasattr(loaded, "square"):
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_int
    one_axis = (pointer, pointer, number, number)
    loaded.square.argtypes = (pointer, *[number] * 4, *[pointer] * 3, *one_axis, *one_axis)
    loaded.square.restype = None
    return loaded


def square(image: NDArray[np.uint8], height: int, width: int, size: int) -> NDArray[np.uint8]:
    """The central (size, size, 3) of RGB `image` resized to (height, width), neither of them below `size`."""
    kernel = library()
    assert kernel is not None
    image = np.ascontiguousarray(image)
    x, y = axis(image.shape[1], width, size), axis(image.shape[0], height, size)
    top = int(y.first[0])
    lines = min(int(y.first[-1]) + y.taps, image.shape[0]) - top
    rows = np.empty((lines + 1 + y.taps, 3 * size + 16), np.uint8)
    ends = np.empty((2, 3 * (image.shape[1] + x.taps) + 16), np.uint8)
    out = np.empty(3 * size * size + 16, np.uint8)
    kernel.square(
        *(image.ctypes.data, image.shape[1], top, lines, size, rows.ctypes.data, ends.ctypes.data, out.ctypes.data),
        *(x.first.ctypes.data, x.weights.ctypes.data, x.taps, x.shift),
        *(y.first.ctypes.data, y.weights.ctypes.data, y.taps, y.shift),
    )
    return out[: 3 * size * size].reshape(size, size, 3)


@dataclass(frozen=True)
class Axis:
    """How one side is resized and cropped: of each output the first input and the weights (outputs, taps), which are
    scaled by 2^shift. Outputs and taps are filled up to multiples of four."""

    first: NDArray[np.int32]
    weights: NDArray[np.int16]
    shift: int

    @property
    def taps(self) -> int:
        return int(self.weights.shape[1])


@lru_cache(1024)
def axis(old: int, new: int, size: int) -> Axis:
    """The central `size` of `new` pixels from `old`, as torch's `_compute_index_ranges_int16_weights` has them
    (aten/src/ATen/native/cpu/UpSampleKernel.cpp)."""
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
