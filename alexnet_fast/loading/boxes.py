"""Which box of a stored image each crop is made of: drawn at random as torchvision does, or central. NumPy only.

A box is top, left, height and width in pixels of the stored image. One of exactly the crop's size is cut out as it is;
any other is resized to it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alexnet_fast.random import Generator

RATIO = 3 / 4, 4 / 3
"""Of a random resized crop's width to its height, as in torchvision."""
ATTEMPTS = 10
"""At a box that lies inside its image, before it is the central one: as in torchvision."""
_TOGETHER = 1 << 16
"""Boxes drawn together, so that an epoch's take little memory. Another number would be other boxes."""


@dataclass(frozen=True)
class Boxes:
    """The boxes of one split's crops."""

    sizes: int | NDArray[np.integer]
    """Heights and widths of the stored images, (n, 2) by sample or (2,); or the side of stored squares. Pixels."""
    crop: int
    """Side of the crops, pixels."""
    scale: tuple[float, float] | None = None
    """Range of a random box's share of its image's area; None: each is of the crop's size, so not resized."""
    ratio: tuple[float, float] = RATIO
    """Range of such a box's width divided by its height, even on a logarithmic scale."""
    resize: int | None = None
    """To what the shorter side is resized before a central crop, pixels; None: it is not resized."""

    @property
    def are_resized(self) -> bool:
        """Whether any may have another size than the crop."""
        return self.scale is not None or self.resize is not None

    def random(self, rng: Generator, samples: NDArray[np.integer]) -> NDArray[np.uint16]:
        """A box each of `samples`, of a size by `scale` and `ratio` or the crop's, anywhere in its image: (n, 4), or
        (n, 2) tops and lefts where all have the crop's size; `completed` adds that."""
        sizes = np.asarray(self.sizes)
        if self.scale is None and (sizes == sizes.max(initial=0)).all():  # other draws than of many equal numbers
            margin = int(sizes.max(initial=self.crop)) - self.crop
            return rng.integers(0, margin, (len(samples), 2), np.uint16, endpoint=True)
        drawn = np.empty((len(samples), 4 if self.scale else 2), np.uint16)
        for first in range(0, len(samples), _TOGETHER):
            part = slice(first, first + _TOGETHER)
            of = _of(sizes, samples[part])
            drawn[part] = self._resized(rng, of) if self.scale else rng.integers(0, of - (self.crop - 1))
        return drawn

    def completed(self, boxes: NDArray[np.uint16]) -> NDArray[np.uint16]:
        """(n, 4) what `random` or `central` has returned, or a part of it, with heights and widths."""
        return boxes if boxes.shape[1] == 4 else np.concatenate([boxes, np.full_like(boxes, self.crop)], axis=1)

    def _resized(self, rng: Generator, sizes: NDArray[np.integer]) -> NDArray[np.int64]:
        """As `RandomResizedCrop.get_params` of torchvision, for each of `sizes` (n, 2)."""
        assert self.scale is not None
        area = sizes.prod(axis=1, dtype=np.float64)
        low, high = (math.log(ratio) for ratio in self.ratio)
        shapes = self._largest_central(sizes)
        left = np.arange(len(sizes))
        for _ in range(ATTEMPTS):
            shares, ratios = rng.random((2, len(left)))
            drawn_area = area[left] * (self.scale[0] + (self.scale[1] - self.scale[0]) * shares)
            aspect = np.exp(low + (high - low) * ratios)
            drawn = np.rint(np.sqrt(np.stack([drawn_area / aspect, drawn_area * aspect], axis=1))).astype(np.int64)
            inside = ((drawn > 0) & (drawn <= sizes[left])).all(axis=1)
            shapes[left[inside]] = drawn[inside]
            left = left[~inside]
        free = sizes - shapes
        corners = (rng.random((len(sizes), 2)) * (free + 1)).astype(np.int64)
        corners[left] = free[left] // 2
        return np.concatenate([corners, shapes], axis=1)

    def _largest_central(self, sizes: NDArray[np.integer]) -> NDArray[np.int64]:
        """(n, 2) the most of each image that has an allowed ratio: torchvision's when no attempt succeeds."""
        height, width = sizes.T.astype(np.int64)
        low, high = self.ratio
        ratio = width / height
        flat, upright = ratio > high, ratio < low
        tall, wide = np.where(upright, np.rint(width / low), height), np.where(flat, np.rint(height * high), width)
        return np.stack([tall, wide], axis=1).astype(np.int64).clip(min=1)

    def central(self, samples: NDArray[np.integer]) -> NDArray[np.uint16]:
        """The box in the middle of each image, of the crop's size once its image has been resized; as `random`."""
        sizes = _of(np.asarray(self.sizes), samples)
        if self.resize is None:
            return ((sizes - self.crop) // 2).astype(np.uint16)
        shorter = sizes.min(axis=1, keepdims=True)
        side = np.rint(self.crop * shorter / self.resize).astype(np.int64).clip(1, shorter)
        return np.concatenate([(sizes - side) // 2, side, side], axis=1).astype(np.uint16)


def moved(boxes: NDArray[np.uint16], sizes: NDArray[np.integer], others: NDArray[np.integer]) -> NDArray[np.uint16]:
    """(n, 4) `boxes` of images of the heights and widths `sizes` (n, 2), in proportion on images of the sizes `others`,
    as large as fits there."""
    shapes = np.minimum(boxes[:, 2:], others)
    corners = np.rint(boxes[:, :2] * (others - shapes) / np.maximum(sizes - boxes[:, 2:], 1))
    return np.concatenate([corners, shapes], axis=1).astype(np.uint16)


def _of(sizes: NDArray[np.integer], samples: NDArray[np.integer]) -> NDArray[np.integer]:
    """(len(samples), 2) of each: `Boxes.sizes`, or as many margins."""
    return sizes[samples] if sizes.ndim == 2 else np.broadcast_to(sizes, (len(samples), 2))
