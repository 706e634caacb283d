"""Sums over an image's pixels, compiled and by NumPy."""

import numpy as np
import pytest

from alexnet_fast import native
from alexnet_fast.sharding.statistics import STRIDE, PixelSums
from tests.conftest import turn_native_off


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(("height", "width"), [(256, 256), (1, 1), (5, 3), (4, 8), (97, 230)])
def test_sums_are_of_every_fourth_pixel(
    monkeypatch: pytest.MonkeyPatch, compiled: bool, height: int, width: int
) -> None:
    if not compiled:
        turn_native_off(monkeypatch)
    elif native.kernels() is None:
        pytest.skip("needs the compiled code")
    images = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    images[1, ::2] = 255  # the largest sums
    sums = PixelSums()
    for image in (images[0], images[1, :, :, ::-1]):  # whole in memory, and not
        sums.add_image(image)
    picked = [[pixel.tolist() for row in image[::STRIDE] for pixel in row[::STRIDE]] for image in images]
    pixels = picked[0] + [pixel[::-1] for pixel in picked[1]]
    assert sums.count == len(pixels)
    assert sums.total.tolist() == [sum(pixel[i] for pixel in pixels) for i in range(3)]
    assert sums.products.tolist() == [
        [sum(pixel[i] * pixel[j] for pixel in pixels) for j in range(3)] for i in range(3)
    ]
