"""Mean, covariance and principal components of RGB pixels, from exact integer sums."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet_fast import native
from alexnet_fast.shards.format import Pixels

STRIDE = 4
"""Every fourth pixel in both directions is counted: 4,096 of a 256 x 256 image."""


@dataclass
class PixelSums:
    """Integer sums, so that adding them up in any order gives the same bits."""

    count: int = 0
    total: NDArray[np.int64] = field(default_factory=lambda: np.zeros(3, np.int64))
    products: NDArray[np.int64] = field(default_factory=lambda: np.zeros((3, 3), np.int64))

    def add_image(self, image: NDArray[np.uint8]) -> None:
        """Counts an RGB image (height, width, 3)."""
        height, width, _ = image.shape
        self.count += -(-height // STRIDE) * -(-width // STRIDE)
        kernel = native.kernels()
        if kernel:
            image = np.ascontiguousarray(image)
            arrays = (self.total.ctypes.data, self.products.ctypes.data)
            kernel.pixel_sums(image.ctypes.data, height, width, STRIDE, *arrays)
            return
        picked = image[::STRIDE, ::STRIDE].reshape(-1, 3)
        pixels = np.ones((4, len(picked)))  # the fourth row, all ones, gives the sums
        pixels[:3] = picked.T
        sums = (pixels @ pixels.T).astype(np.int64)  # exact: far below 2**53
        self.total += sums[3, :3]
        self.products += sums[:3, :3]

    def add(self, other: PixelSums) -> None:
        """Adds the sums of other images."""
        self.count += other.count
        self.total += other.total
        self.products += other.products

    def as_lists(self) -> dict[str, Any]:
        return {"count": self.count, "total": self.total.tolist(), "products": self.products.tolist()}

    @classmethod
    def from_lists(cls, body: dict[str, Any]) -> PixelSums:
        return cls(body["count"], np.array(body["total"], np.int64), np.array(body["products"], np.int64))

    def statistics(self) -> Pixels:
        """Returns mean, covariance and principal components (section 4.1); each vector's largest entry is positive."""
        count = max(self.count, 1)
        mean = self.total / count
        covariance = self.products / count - np.outer(mean, mean)
        values, vectors = np.linalg.eigh(covariance)
        order = np.argsort(values)[::-1]
        components = vectors.T[order]
        signs = np.sign(components[np.arange(3), np.abs(components).argmax(axis=1)])
        return Pixels(
            mean=_rounded(mean),
            covariance=_rounded(covariance),
            deviations=_rounded(np.sqrt(values[order].clip(min=0))),
            components=_rounded(components * signs[:, None]),
        )


def _rounded(values: NDArray[np.float64]) -> Any:
    """Returns the values with eight digits: the last bits of an eigenvector differ between processors."""
    return np.round(values, 8).tolist()
