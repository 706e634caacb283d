"""What is stored of a square: a JPEG, its pixels, or the file itself where that fits."""

import gzip
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet_fast.sharding.decode import convert, encode, why_not_kept
from tests.sharding.pictures import (
    MEAN_TOLERANCE,
    PICTURE,
    SIZE,
    TURNED,
    by_pillow,
    difference,
    file_of,
    smooth,
)


def kept(side: int, **options: Any) -> bytes:
    return file_of(smooth(side, side), "JPEG", **{"quality": 95, **options})


def without_huffman_tables(data: bytes) -> bytes:
    """As in a video of JPEGs: decoders then take the standard's, which Pillow writes."""
    while (at := data.find(b"\xff\xc4")) >= 0:
        data = data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") :]
    return data


@pytest.mark.parametrize("side", [SIZE * 7 // 8, SIZE])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_fitting_jpeg_is_kept(side: int, mode: str, packed: bool) -> None:
    data = file_of(smooth(side, side).convert(mode), "JPEG", quality=80)
    given = gzip.compress(data) if packed else data
    pixels, stored, is_enlarged, not_kept = convert(given, size=SIZE, encoding="jpeg", quality=90, keep=True)
    assert (stored, is_enlarged, not_kept) == (data, False, "")
    assert pixels.shape == (side, side, 3)
    assert difference(pixels, np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))) < MEAN_TOLERANCE


@pytest.mark.parametrize(
    ("data", "why"),
    [
        pytest.param(kept(SIZE, progressive=True), "progressive", id="progressive"),
        pytest.param(kept(SIZE, keep_rgb=True), "neither grey nor YCbCr", id="rgb"),
        pytest.param(kept(SIZE, exif=TURNED), "turned by its EXIF orientation", id="exif"),
        pytest.param(without_huffman_tables(kept(SIZE)), "without its own tables", id="no-tables"),
        pytest.param(file_of(smooth(SIZE, SIZE).convert("CMYK"), "JPEG"), "neither grey nor YCbCr", id="cmyk"),
        pytest.param(kept(SIZE * 7 // 8 - 1), "not a square of 84 to 96 pixels", id="too-small"),
        pytest.param(kept(SIZE + 1), "not a square of 84 to 96 pixels", id="too-large"),
        pytest.param(file_of(smooth(SIZE, SIZE - 2), "JPEG"), "not a square of 84 to 96 pixels", id="not-square"),
        pytest.param(file_of(smooth(SIZE, SIZE), "PNG"), "not a JPEG", id="png"),
    ],
)
def test_other_files_are_made_anew(data: bytes, why: str) -> None:
    assert why_not_kept(data, SIZE).startswith(why)
    square, stored, _, not_kept = convert(data, size=SIZE, encoding="jpeg", quality=90, keep=True)
    assert not_kept.startswith(why)
    assert difference(square, by_pillow(Image.open(io.BytesIO(data)))) < MEAN_TOLERANCE
    with Image.open(io.BytesIO(stored)) as image:
        assert (image.format, image.size) == ("JPEG", (SIZE, SIZE))
        assert not {"progressive", "exif"} & image.info.keys()
        assert difference(np.asarray(image), square) < 2


UPRIGHT = Image.Exif()
UPRIGHT[0x0112] = 1
UNTURNED = Image.Exif()
UNTURNED[0x010F] = "a camera"
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>'


@pytest.mark.parametrize(
    ("options", "is_kept"),
    [
        ({"exif": UPRIGHT}, True),
        ({"exif": UNTURNED}, True),
        ({"exif": b"Exif\0\0II*\0" + b"\xff" * 20}, True),  # corrupt
        ({"xmp": XMP % 1}, True),
        ({"xmp": XMP % 6}, False),
    ],
)
def test_an_upright_jpeg_with_exif_is_kept(options: dict[str, Any], is_kept: bool) -> None:
    data = kept(SIZE, **options)
    assert (convert(data, size=SIZE, encoding="jpeg", quality=90, keep=True).data == data) == is_kept


@pytest.mark.parametrize(("side", "is_enlarged"), [(SIZE - 1, True), (SIZE, False), (400, False)])
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_an_image_below_the_size_is_enlarged(format: str, side: int, is_enlarged: bool) -> None:
    for image in (smooth(side, 420), smooth(420, side)):
        found = convert(file_of(image, format), size=SIZE, encoding="jpeg", quality=90, keep=False)
        assert (found.is_enlarged, found.not_kept) == (is_enlarged, "")


def test_what_is_kept_is_whole() -> None:
    with pytest.raises(ValueError, match="truncated"):
        convert(kept(SIZE)[:-500], size=SIZE, encoding="jpeg", quality=90, keep=True)


@pytest.mark.parametrize(("encoding", "keep"), [("raw", True), ("raw", False), ("jpeg", False)])
def test_a_fitting_jpeg_is_made_anew_where_not_asked(encoding: str, keep: bool) -> None:
    data = kept(SIZE)
    square, stored, *_ = convert(data, size=SIZE, encoding=encoding, quality=90, keep=keep)
    assert difference(square, by_pillow(Image.open(io.BytesIO(data)))) < MEAN_TOLERANCE
    if encoding == "raw":
        assert np.array_equal(np.load(io.BytesIO(stored)), square)
    else:
        assert stored != data
        assert difference(np.asarray(Image.open(io.BytesIO(stored))), square) < 2


def test_jpeg_is_baseline_with_halved_colour() -> None:
    square = by_pillow(PICTURE)
    with Image.open(io.BytesIO(encode(square, "jpeg", 90))) as image:
        assert image.format == "JPEG"
        assert "progressive" not in image.info
        # component, horizontal and vertical sampling, quantisation table: 4:2:0 in Pillow's words
        assert [layer[1:3] for layer in image.layer] == [(2, 2), (1, 1), (1, 1)]  # type: ignore[attr-defined]
        assert difference(np.asarray(image), square) < 2


def test_quality_costs_bytes_and_buys_likeness() -> None:
    square = by_pillow(PICTURE)
    low, high = (encode(square, "jpeg", quality) for quality in (30, 95))
    errors = [difference(np.asarray(Image.open(io.BytesIO(data))), square) for data in (low, high)]
    assert len(low) < len(high)
    assert errors[0] > errors[1]


def test_raw_is_an_npy_file() -> None:
    square = by_pillow(PICTURE)
    data = encode(square, "raw", 90)
    assert np.array_equal(np.load(io.BytesIO(data), allow_pickle=False), square)
    assert data.endswith(square.tobytes())  # Split.read takes the pixels from the end
