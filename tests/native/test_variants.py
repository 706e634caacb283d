"""The kernels for each kind of processor compute the same; each in a copy of the library of its own."""

from __future__ import annotations

import ctypes
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from alexnet_fast import native
from alexnet_fast.model import lrn_kernel
from alexnet_fast.model.lrn import LocalResponseNorm
from alexnet_fast.sharding import resize
from alexnet_fast.sharding.resize import Target
from alexnet_fast.sharding.statistics import PixelSums
from tests.native.jpegs import as_array, by_pillow, picture
from tests.native.libraries import VARIANTS, fresh, using
from tests.native.results import cut, square_or_reason

pytestmark = pytest.mark.usefixtures("native_decoder")

FORMS: tuple[dict[str, Any], ...] = (
    {},
    {"subsampling": "4:4:4"},
    {"progressive": True},
    {"optimize": True},
    {"restart_marker_blocks": 3},
)


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> list[native.Native]:
    """The plain one first."""
    folder = tmp_path_factory.mktemp("variants")
    return [fresh(folder, variant=variant) for variant in VARIANTS]


def test_each_is_another(variants: list[native.Native]) -> None:
    """Functions of their own, in libraries of their own."""
    assert [found.kernels and found.kernels.variant for found in variants] == VARIANTS
    assert VARIANTS[0] == "plain"
    assert len({found.library and found.library._handle for found in variants}) == len(VARIANTS)
    assert {found.decoder for found in variants} == {native.decoder()}


def stored(side: int) -> list[NDArray[np.uint8]]:
    jpegs = [as_array(by_pillow(picture(side, seed), **how)) for seed, how in enumerate(FORMS)]
    return [*jpegs, np.asarray(picture(side, 9)), as_array(by_pillow(picture(side, 10).convert("L")))]


@pytest.mark.parametrize("crop", [1, 2, 3, 5, 6, 7, 31, 33, 64, 67, 96])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("upright", [0, 3])
def test_crops(variants: list[native.Native], dtype: torch.dtype, crop: int, upright: int) -> None:
    items, rng = stored(96), np.random.default_rng(crop)
    places = [(int(top), int(left)) for top, left in rng.integers(0, 97 - crop, (len(items), 2))]
    offset = torch.rand(len(items), 3) * 200
    images = []
    for found in variants:
        with using(found):
            images.append(cut(items, places, crop=crop, side=96, upright=upright, dtype=dtype, offset=offset))
    assert images[0].float().std() > 1
    for other in images[1:]:
        assert torch.equal(images[0], other)


@pytest.mark.parametrize("size", [1, 3, 16, 31, 97])
def test_resized(variants: list[native.Native], size: int) -> None:
    rng = np.random.default_rng(size)
    shapes = [(rng.integers(1, 300), rng.integers(1, 300)) for _ in range(12)] + [(1, 1), (500, 17), (8, 640)]
    for height, width in shapes:
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        scale = size / min(height, width)
        resized = max(round(height * scale), size), max(round(width * scale), size)
        for kept in ((size, size), resized):
            results = []
            for found in variants:
                with using(found):
                    results.append(resize.middle(image, Target(resized, kept)))
            assert all(np.array_equal(results[0], other) for other in results[1:]), (height, width, kept)


@pytest.mark.parametrize("side", [17, 64, 150, 501])
@pytest.mark.parametrize("form", range(len(FORMS)))
def test_squares_of_jpegs(variants: list[native.Native], form: int, side: int) -> None:
    image = picture(side).resize((side, side * 3 // 2 + 1))
    for data, size in itertools.product((by_pillow(image, **FORMS[form]), by_pillow(image.convert("L"))), (24, 61)):
        squares = []
        for found in variants:
            with using(found):
                squares.append(square_or_reason(data, size))
        assert isinstance(squares[0], bytes)
        assert len(set(squares)) == 1


def test_sums(variants: list[native.Native]) -> None:
    rng = np.random.default_rng(0)
    for height, width in ((1, 1), (5, 3), (97, 230), (256, 256)):
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        sums = []
        for found in variants:
            with using(found):
                one = PixelSums()
                one.add_image(image)
                sums.append(one.as_lists())
        assert all(one == sums[0] for one in sums)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("channels", "towers", "n"), [(96, 2, 5), (256, 1, 5), (12, 1, 3), (14, 2, 7), (5, 1, 5)])
def test_lrn(variants: list[native.Native], dtype: torch.dtype, channels: int, towers: int, n: int) -> None:
    """Against torch's layer in float64; each variant may round otherwise."""
    x = torch.randn(2, channels, 7, 5, generator=torch.Generator().manual_seed(0)) * 80
    x[:, ::7] *= 10
    x = x.to(dtype, memory_format=torch.channels_last)
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    exact = x.double().requires_grad_()
    layer = torch.nn.LocalResponseNorm(n, alpha=1e-4, beta=0.75, k=2)
    expected = torch.cat([layer(tower) for tower in exact.chunk(towers, dim=1)], dim=1)
    (expected_gradient,) = torch.autograd.grad(expected, exact, weight.double())
    for found in variants:
        with using(found):
            assert lrn_kernel.applies(x, n // 2)  # OpenMP is found anew for each library
            given = x.detach().requires_grad_()
            y = LocalResponseNorm(channels, towers, n)(given)
            (gradient,) = torch.autograd.grad(y, given, weight)
        for ours, theirs in ((y.detach(), expected.detach()), (gradient, expected_gradient)):
            if dtype == torch.float32:
                torch.testing.assert_close(ours, theirs.float(), rtol=1e-5, atol=1e-4)
            else:
                most = theirs.abs().max().item()
                torch.testing.assert_close(ours.double(), theirs, rtol=2**-6, atol=2**-6 * most)


def test_copies_have_states_of_their_own(tmp_path: Path) -> None:
    """So the tests beside may take one for a fresh process."""
    first, second = fresh(tmp_path), fresh(tmp_path, wanted="libjpeg")
    assert (first.decoder, second.decoder) == (native.decoder(), "libjpeg")
    assert first.library is not None
    assert second.library is not None
    places = [library.crops_plain for library in (first.library, second.library)]
    assert len({ctypes.cast(place, ctypes.c_void_p).value for place in places}) == 2
