"""crops.c against Pillow's decoder and torch's arithmetic."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image

from alexnet_fast import native
from alexnet_fast.sharding.decode import to_square
from tests.native.libraries import brightening, fresh
from tests.native.results import crop_or_reason, cut

DTYPES = [torch.uint8, torch.float32, torch.bfloat16]


pytestmark = pytest.mark.usefixtures("native_decoder")


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth shapes with some noise, which a JPEG stores with coefficients of all kinds."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (9, 11, 3), np.uint8))
    pixels = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    return Image.fromarray((pixels + rng.integers(-12, 13, pixels.shape)).clip(0, 255).astype(np.uint8))


def jpeg(image: Image.Image, **how: Any) -> NDArray[np.uint8]:
    file = io.BytesIO()
    image.save(file, "JPEG", **{"quality": 90, **how})
    return np.frombuffer(file.getvalue(), np.uint8)


def pixels_of(stored: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """As Pillow decodes the whole image."""
    return np.asarray(Image.open(io.BytesIO(stored.tobytes())).convert("RGB"))


def corners_of(margin: int) -> list[tuple[int, int]]:
    """All rows of the first column, then all columns: rows above are skipped in groups of 8 and 16."""
    return [(at, (5 * at) % (margin + 1)) for at in range(margin + 1)]


FORMS: dict[str, dict[str, Any]] = {
    "4:2:0": {"subsampling": "4:2:0"},
    "4:2:2": {"subsampling": "4:2:2"},
    "4:4:4": {"subsampling": "4:4:4"},
    "grey": {},
    "progressive": {"progressive": True},
    "restart markers": {"restart_marker_blocks": 5},
    "a restart for each block": {"restart_marker_blocks": 1},
    "codes of its own": {"optimize": True},
    "the most detail": {"quality": 100, "subsampling": "4:4:4"},
    "hardly any": {"quality": 2},
}


@pytest.mark.parametrize("form", FORMS)
def test_a_crop_is_that_of_pillows_whole_image(form: str) -> None:
    image = picture(256, 256)
    stored = jpeg(image.convert("L") if form == "grey" else image, **FORMS[form])
    places = corners_of(32)
    crops_of = cut([stored] * len(places), places, crop=224)
    whole = pixels_of(stored)
    for got, (top, left) in zip(crops_of.numpy(), places, strict=True):
        np.testing.assert_array_equal(got, whole[top : top + 224, left : left + 224])


def test_our_decoder_of_coefficients_decodes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made to brighten each block, it changes JPEGs of all forms but the one it leaves to libjpeg, in sharding too."""
    if native.decoder() != "huffman":
        pytest.skip(f"it is not in use: {native.loaded().reason}")
    image = picture(256, 256)
    stored = {form: jpeg(image.convert("L") if form == "grey" else image, **how) for form, how in FORMS.items()}
    squares = {form: to_square(data.tobytes(), 96) for form, data in stored.items()}
    changed = brightening(tmp_path)
    monkeypatch.setattr(native, "loaded", lambda: changed)
    for form, data in stored.items():
        pixels = cut([data], [(0, 0)], crop=256)[0].numpy()
        for got, plain in ((pixels, pixels_of(data)), (to_square(data.tobytes(), 96), squares[form])):
            change = np.abs(got.astype(float) - plain).mean()
            assert change == 0 if form == "progressive" else change > 2, form


def contrasts(seed: int) -> Image.Image:
    """Noise of several strengths: blocks up to the last coefficient, long zeros before some, the longest values."""
    rng = np.random.default_rng(seed)
    strength = np.repeat(np.repeat(rng.choice([0.0, 0.1, 1.0, 9.0], (12, 12, 1)), 8, 0), 8, 1)
    return Image.fromarray((128 + strength * rng.normal(0, 40, (96, 96, 3))).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("optimize", [False, True])
@pytest.mark.parametrize("quality", [100, 98, 90, 60, 20])
def test_coefficients_of_every_length(quality: int, optimize: bool) -> None:
    """Of one batch, whose JPEGs have other codes each."""
    how = {"quality": quality, "optimize": optimize, "subsampling": "4:4:4" if quality > 90 else "4:2:0"}
    stored = [jpeg(contrasts(seed), **how) for seed in range(40)]
    for got, item in zip(cut(stored, [(0, 0)] * 40, crop=96, side=96), stored, strict=True):
        np.testing.assert_array_equal(got.numpy(), pixels_of(item))


@pytest.mark.parametrize("crop", [1, 5, 6, 67, 70, 112, 255, 256])
@pytest.mark.parametrize("dtype", DTYPES)
def test_mirrored_and_centred_as_torch_does_it(dtype: torch.dtype, crop: int) -> None:
    stored: list[NDArray[np.uint8]] = [jpeg(picture(256, 256, seed)) for seed in range(3)]
    stored += [pixels_of(item) for item in stored]  # stored pixels in the same batch
    places = [(0, 0), (256 - crop, 256 - crop), ((256 - crop) // 2, (256 - crop) // 3)] * 2
    offset = torch.tensor([[123.68, 116.78, 103.94]]) + torch.arange(18).reshape(6, 3) * 1.37
    got = cut(stored, places, crop=crop, upright=2, dtype=dtype, offset=offset)
    for i, (item, (top, left)) in enumerate(zip(stored, places, strict=True)):
        whole = item if item.ndim == 3 else pixels_of(item)
        wanted = torch.from_numpy(whole[top : top + crop, left : left + crop].copy())
        wanted = wanted.flip(1) if i >= 2 else wanted
        if dtype != torch.uint8:
            wanted = (wanted.float() - offset[i]).to(dtype)
        assert torch.equal(got[i], wanted)


def test_tasks_of_a_batch_join_without_a_seam() -> None:
    stored = [jpeg(picture(80, 80, seed)) for seed in range(50)]
    places = [(seed % 11, (3 * seed) % 11) for seed in range(50)]
    got = {threads: cut(stored, places, crop=70, side=80, upright=23, threads=threads) for threads in (1, 3)}
    assert torch.equal(got[1], got[3])
    for i, (item, (top, left)) in enumerate(zip(stored, places, strict=True)):
        wanted = pixels_of(item)[top : top + 70, left : left + 70]
        np.testing.assert_array_equal(got[1][i].numpy(), wanted[:, ::-1] if i >= 23 else wanted)


def test_a_smaller_jpeg_is_cropped_in_proportion() -> None:
    """Sharding with --keep stores squares of 7/8 of the size and more."""
    stored = jpeg(picture(240, 240))
    got = cut([stored] * 3, [(0, 32), (16, 8), (32, 0)], crop=224)
    whole = pixels_of(stored)
    for image, (top, left) in zip(got.numpy(), [(0, 16), (8, 4), (16, 0)], strict=True):
        np.testing.assert_array_equal(image, whole[top : top + 224, left : left + 224])


def bad_images() -> Iterator[tuple[str, NDArray[np.uint8], str]]:
    good = jpeg(picture(256, 256))
    yield "nothing", good[:0], "no frame header"
    yield "no JPEG", np.frombuffer(b"GIF89a" + bytes(100), np.uint8), "no frame header"
    yield "only half of its header", good[:200], "Premature end of JPEG file"
    yield "too small", jpeg(picture(200, 256)), "smaller than the crop"
    yield "too large", jpeg(picture(256, 257)), "larger than the set"
    yield "half of its scan", good[: len(good) // 2], "Premature end of JPEG file"
    for kind, message in ((0xC3, "lossless or hierarchical"), (0xC5, "lossless or hier"), (0xC9, "arithmetic codes")):
        changed = good.tobytes().replace(b"\xff\xc0", bytes([255, kind]))
        yield f"kind {kind:x}", np.frombuffer(changed, np.uint8), message
    yield "CMYK", jpeg(picture(256, 256).convert("CMYK")), "Unsupported color conversion"


@pytest.mark.parametrize(("stored", "message"), [item[1:] for item in bad_images()], ids=[b[0] for b in bad_images()])
def test_what_does_not_decode_is_an_error_and_no_harm(stored: NDArray[np.uint8], message: str) -> None:
    good = jpeg(picture(256, 256))
    with pytest.raises(ValueError, match=message):
        cut([good, stored, good], [(0, 0)] * 3, crop=224)
    np.testing.assert_array_equal(cut([good], [(3, 4)], crop=224)[0].numpy(), pixels_of(good)[3:227, 4:228])


def test_corrupt_bytes_never_reach_beyond_the_batch() -> None:
    """What a decoder makes of noise is of no interest, only that it ends, and writes where it may."""
    rng = np.random.default_rng(0)
    good = jpeg(picture(96, 96))
    for _ in range(400):
        bad = good[: rng.integers(2, len(good) + 1)].copy()
        bad[rng.integers(0, len(bad), rng.integers(1, 20))] = rng.integers(0, 256)
        try:
            got = cut([good, bad, good], [(1, 2)] * 3, crop=84, side=96)
        except ValueError:
            continue
        for image in (got[0], got[2]):
            np.testing.assert_array_equal(image.numpy(), pixels_of(good)[1:85, 2:86])


def corrupt_scans(count: int) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    good = jpeg(picture(96, 96), restart_marker_blocks=7)
    scan = good.tobytes().index(b"\xff\xda") + 14
    stored = []
    for _ in range(count):
        bad = good.copy()
        bad[rng.integers(scan, len(bad) - 2)] ^= 1 << rng.integers(8)
        stored.append(bad)
    return stored


def whole_or_reason(stored: NDArray[np.uint8]) -> bytes | str:
    """By simplejpeg, which refuses what libjpeg warns of."""
    try:
        return bytes(simplejpeg.decode_jpeg(stored.tobytes(), strict=True).tobytes())
    except ValueError as error:
        return str(error)


def test_a_corrupt_scan_is_refused_where_libjpeg_warns_of_it() -> None:
    """Else it is what libjpeg makes of it; also what it warns of behind the last row, which a crop does not reach."""
    refused = accepted = 0
    for item in corrupt_scans(300):
        found, expected = crop_or_reason(item, crop=96, side=96), whole_or_reason(item)
        if isinstance(found, str):
            assert found == expected
            refused += 1
        else:
            assert found == simplejpeg.decode_jpeg(item.tobytes(), strict=False).tobytes()
            assert isinstance(expected, bytes) or "before marker 0xd9" in expected
            accepted += 1
    assert min(refused, accepted) > 50


def test_damage_below_the_crop_is_not_looked_for() -> None:
    """The rows above are what libjpeg makes of them."""
    accepted = 0
    for item in corrupt_scans(200):
        found = crop_or_reason(item, (0, 3), crop=40, side=96)
        if isinstance(found, bytes):
            whole = simplejpeg.decode_jpeg(item.tobytes(), strict=False)
            assert found == whole[:40, 3:43].tobytes()
            accepted += isinstance(whole_or_reason(item), str)
        else:
            assert found == whole_or_reason(item)
    assert accepted > 20


def test_damage_is_judged_as_by_libjpeg_s_own_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items = corrupt_scans(200)
    places = [(at % 13, at % 7) for at in range(200)]
    ours = [crop_or_reason(item, place, crop=84, side=96) for item, place in zip(items, places, strict=True)]
    plain = fresh(tmp_path, wanted="libjpeg")
    assert plain.decoder == "libjpeg"
    monkeypatch.setattr(native, "loaded", lambda: plain)
    assert ours == [crop_or_reason(item, place, crop=84, side=96) for item, place in zip(items, places, strict=True)]
    assert {type(result) for result in ours} == {bytes, str}
