"""huffman.c beside libjpeg's own decoder, on what no encoder writes: random symbols of random codes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from alexnet_fast import native
from tests.native import jpegs
from tests.native.libraries import VARIANTS, brightening, fresh, using
from tests.native.results import crop_or_reason

pytestmark = pytest.mark.skipif(native.decoder() != "huffman", reason="huffman.c is not in use")


@pytest.fixture(scope="module")
def written() -> list[bytes]:
    rng = np.random.default_rng(0)
    return [jpegs.zeros_to_the_end(), *(jpegs.random_grey(rng, side=64) for _ in range(150))]


@pytest.mark.parametrize("variant", VARIANTS)
def test_random_symbols(variant: str, written: list[bytes], tmp_path: Path) -> None:
    """Of codes up to 16 bits long, values up to 10, zeros up to the end of the block."""
    with using(fresh(tmp_path, variant=variant)):
        for data in written:
            assert crop_or_reason(data, crop=64, side=64) == simplejpeg.decode_jpeg(data, strict=True).tobytes()


def test_none_of_them_is_left_to_libjpeg(written: list[bytes], tmp_path: Path) -> None:
    with using(brightening(tmp_path)):
        for data in written:
            assert crop_or_reason(data, crop=64, side=64) != simplejpeg.decode_jpeg(data).tobytes()
