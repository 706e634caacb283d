"""Any image file becomes the same square that Pillow computes from it; anything else is a ValueError."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from alexnet_fast.sharding.resize import MAX_PIXELS, encode, to_square

SIZE = 96
MEAN_TOLERANCE = 1.0
"""Grey levels, mean absolute difference from Pillow on smooth images: JPEG's own error, and half a source
pixel where an odd number of rows is cut off before resizing, not after. One pixel is 2 to 4 levels."""


def smooth(width: int, height: int) -> Image.Image:
    """Waves with another phase and direction in each channel: a shift of a pixel or swapped channels show."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    waves = [np.sin(5 * x + 2 * y), np.sin(2 * x - 4 * y), np.cos(3 * x * y + 1)]
    return Image.fromarray((127.5 + 120 * np.stack(waves, -1)).astype(np.uint8))


def file_of(image: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def by_pillow(image: Image.Image) -> NDArray[np.uint8]:
    """The paper's rule: shorter side to SIZE, then the central square."""
    scale = SIZE / min(image.size)
    width, height = (round(length * scale) for length in image.size)
    left, top = (width - SIZE) // 2, (height - SIZE) // 2
    resized = image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized.crop((left, top, left + SIZE, top + SIZE)))


def difference(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    return float(np.abs(a.astype(float) - b).mean())


PICTURE = smooth(300, 212)
GREY = PICTURE.convert("L")
PALETTE = PICTURE.quantize(128)
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8))
TURNED = Image.Exif()
TURNED[0x0112] = 6  # orientation: turn by 90 degrees to show


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(file_of(PICTURE, "JPEG", quality=95), PICTURE, id="jpeg"),
        pytest.param(file_of(PICTURE, "JPEG", quality=95, progressive=True), PICTURE, id="progressive"),
        pytest.param(file_of(smooth(1600, 1100), "JPEG", quality=95), smooth(1600, 1100), id="large-jpeg"),
        pytest.param(file_of(smooth(213, 300), "JPEG", quality=95), smooth(213, 300), id="portrait"),
        pytest.param(file_of(PICTURE, "PNG"), PICTURE, id="png"),  # ImageNet has one, named .JPEG
        pytest.param(file_of(PICTURE.convert("CMYK"), "JPEG", quality=95), PICTURE, id="cmyk"),
        pytest.param(file_of(GREY, "JPEG", quality=95), GREY, id="grey-jpeg"),
        pytest.param(file_of(GREY, "PNG"), GREY, id="grey-png"),
        pytest.param(file_of(Image.fromarray(np.asarray(GREY).astype(np.uint16) * 257), "PNG"), GREY, id="grey-16-bit"),
        pytest.param(file_of(PALETTE, "PNG"), PALETTE, id="palette"),
        pytest.param(file_of(PALETTE, "PNG", transparency=bytes(range(128))), PALETTE, id="palette-transparent"),
        pytest.param(file_of(PALETTE, "GIF"), PALETTE, id="gif"),
        pytest.param(file_of(PICTURE.convert("RGBA"), "PNG"), PICTURE, id="rgba"),
        pytest.param(file_of(PICTURE, "WEBP", lossless=True), PICTURE, id="webp"),
        pytest.param(file_of(PICTURE, "JPEG", quality=95, exif=TURNED), PICTURE, id="exif-ignored"),
        pytest.param(file_of(smooth(4000, 8), "PNG"), smooth(4000, 8), id="very-long"),
        pytest.param(file_of(smooth(8, 4000), "PNG"), smooth(8, 4000), id="very-tall"),
        pytest.param(file_of(smooth(41, 31), "PNG"), smooth(41, 31), id="upscaled"),
        pytest.param(file_of(smooth(SIZE, SIZE), "PNG"), smooth(SIZE, SIZE), id="as-it-is"),
        pytest.param(file_of(smooth(1, 1), "PNG"), smooth(1, 1), id="one-pixel"),
        pytest.param(file_of(NOISE, "PNG"), NOISE, id="antialiased"),
    ],
)
def test_same_square_as_pillow(data: bytes, expected: Image.Image) -> None:
    result = to_square(data, SIZE)
    assert result.shape == (SIZE, SIZE, 3)
    assert result.dtype == np.uint8
    assert difference(result, by_pillow(expected)) < MEAN_TOLERANCE


def png_claiming(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


def jpeg_claiming(width: int, height: int) -> bytes:
    data = file_of(PICTURE, "JPEG")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def test_a_header_can_claim_a_size() -> None:
    """The files of the next test are refused for their size, not for how they are made."""
    for data in (png_claiming(30, 20), jpeg_claiming(30, 20)):
        assert Image.open(io.BytesIO(data)).size == (30, 20)


SIDE = int(MAX_PIXELS**0.5) + 1


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"", "^the file is empty$", id="empty"),
        pytest.param(b"no image at all", "^not an image of a known format$", id="text"),
        pytest.param(b"\xff\xd8", "^not an image of a known format$", id="two-bytes-of-jpeg"),
        pytest.param(file_of(PICTURE, "JPEG")[:-2000], "truncated", id="truncated-jpeg"),
        pytest.param(file_of(PICTURE.convert("CMYK"), "JPEG")[:-2000], "truncated", id="truncated-cmyk"),
        pytest.param(file_of(PICTURE, "PNG")[:-2000], "truncated", id="truncated-png"),
        pytest.param(png_claiming(SIDE, SIDE), "pixels.*limit", id="huge-png"),
        pytest.param(jpeg_claiming(SIDE, SIDE), "pixels.*limit", id="huge-jpeg"),
    ],
)
def test_what_is_no_image_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=f"(?s){reason}"):
        to_square(data, SIZE)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_damaged_bytes_never_raise_anything_else(format: str) -> None:
    """One bad file among a million must not end the work: a square or a ValueError, whatever the bytes."""
    good = file_of(PICTURE.resize((40, 30)), format)
    random = np.random.default_rng(1)
    refused = 0
    for _ in range(150):
        data = bytearray(good)
        for at in random.integers(0, min(len(data), 300), 3):
            data[at] = random.integers(256)
        try:
            assert to_square(bytes(data), 16).shape == (16, 16, 3)
        except ValueError:
            refused += 1
    assert refused > 0


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


def test_a_shift_of_one_pixel_would_show() -> None:
    square = by_pillow(PICTURE)
    assert difference(square[1:], square[:-1]) > MEAN_TOLERANCE
    assert difference(square[:, 1:], square[:, :-1]) > MEAN_TOLERANCE
    assert difference(square[..., ::-1], square) > MEAN_TOLERANCE


def central_square(image: Image.Image, size: int, resample: Image.Resampling) -> NDArray[np.uint8]:
    """The paper's rule: shorter side to `size`, then the centre."""
    width, height = (round(length * size / min(image.size)) for length in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    resized = image.convert("RGB").resize((width, height), resample)
    return np.asarray(resized.crop((left, top, left + size, top + size)))


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    return float(10 * np.log10(255**2 / np.square(a.astype(float) - b).mean()))


@pytest.mark.parametrize("size", [256, 96])
def test_real_photographs_are_as_sharp_as_pillows(real_images: Path, size: int) -> None:
    """PSNR against Lanczos within 0.5 dB of Pillow's bilinear's; at 96 the JPEGs are decoded at a half."""
    paths = sorted(real_images.rglob("*.JPEG"))[::29]
    assert len(paths) >= 10
    ours, pillows = [], []
    for path in paths:
        with Image.open(path) as image:
            lanczos = central_square(image, size, Image.Resampling.LANCZOS)
            pillows.append(psnr(central_square(image, size, Image.Resampling.BILINEAR), lanczos))
        ours.append(psnr(to_square(path.read_bytes(), size), lanczos))
    assert abs(np.mean(ours) - np.mean(pillows)) < 0.5
