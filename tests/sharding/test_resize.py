"""Any image file becomes the same square that Pillow computes from it, or torch from its pixels."""

import gzip
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from alexnet_fast import native
from alexnet_fast.sharding import decode as decoding
from alexnet_fast.sharding import resize
from alexnet_fast.sharding.decode import convert, resize_with_torch, to_square
from alexnet_fast.sharding.jpeg_header import read_frame
from alexnet_fast.sharding.resize import Target
from alexnet_fast.shards.format import FULL, SQUARE
from tests.conftest import turn_native_off
from tests.sharding.pictures import (
    ADOBE,
    GREY,
    JPEG,
    MEAN_TOLERANCE,
    NOISE,
    OTHER,
    PALETTE,
    PICTURE,
    SIZE,
    TURNED,
    by_pillow,
    damaged,
    difference,
    file_of,
    of_scans,
    smooth,
)

BROKEN_EXIF = b"\xff\xe1\x00\x20Exif\0\0II*\0" + bytes([255] * 20)


def ycck() -> bytes:
    """PICTURE as Adobe stores it: YCbCr of the inverted colours, then black, all four inverted. Pillow writes the
    channels, here as if they were C, M, Y, and inverts them; the marker then says what they are."""
    inverted = PICTURE.point(lambda level: 255 - level).convert("YCbCr")
    channels = [channel.point(lambda level: 255 - level) for channel in inverted.split()]
    data = file_of(Image.merge("CMYK", [*channels, Image.new("L", PICTURE.size, 0)]), "JPEG", quality=95)
    at = data.index(ADOBE) + 15  # 0: CMYK, 2: YCCK
    return data[:at] + b"\x02" + data[at + 1 :]


def no_adobe() -> bytes:
    data = file_of(PICTURE.convert("CMYK"), "JPEG", quality=95)
    at = data.index(ADOBE)
    return data[:at] + data[at + 16 :]


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
        pytest.param(gzip.compress(JPEG), PICTURE, id="gzip"),  # Fall 2011 has 26, named .JPEG
        pytest.param(no_adobe(), PICTURE, id="cmyk-without-adobe-marker"),  # and 2 such
        pytest.param(ycck(), PICTURE, id="ycck"),
        pytest.param(file_of(PICTURE, "JPEG", quality=95, keep_rgb=True), PICTURE, id="rgb-jpeg"),
        pytest.param(file_of(PICTURE, "JPEG", quality=95, restart_marker_blocks=3), PICTURE, id="restart-markers"),
        pytest.param(JPEG + b"more" * 100, PICTURE, id="trailing-bytes"),
        pytest.param(JPEG[:2] + BROKEN_EXIF + JPEG[2:], PICTURE, id="broken-exif"),
        pytest.param(file_of(PICTURE, "MPO", save_all=True, append_images=[OTHER]), PICTURE, id="mpo"),
        pytest.param(file_of(PICTURE, "PNG", save_all=True, append_images=[OTHER]), PICTURE, id="animated-png"),
        pytest.param(file_of(PALETTE, "GIF", save_all=True, append_images=[OTHER]), PALETTE, id="animated-gif"),
        pytest.param(
            file_of(PICTURE, "WEBP", save_all=True, append_images=[OTHER], lossless=True), PICTURE, id="animated-webp"
        ),
        pytest.param(file_of(PICTURE, "TIFF", compression="tiff_lzw"), PICTURE, id="tiff"),
        pytest.param(file_of(smooth(20_000, 60), "JPEG", quality=95), smooth(20_000, 60), id="20,000-wide"),
        pytest.param(file_of(smooth(1, 1), "JPEG", quality=95), smooth(1, 1), id="one-pixel-jpeg"),
        pytest.param(of_scans(50), PICTURE, id="many-scans"),
    ],
)
def test_same_square_as_pillow(data: bytes, expected: Image.Image) -> None:
    result = to_square(data, SIZE)
    assert result.shape == (SIZE, SIZE, 3)
    assert result.dtype == np.uint8
    assert difference(result, by_pillow(expected)) < MEAN_TOLERANCE


@pytest.fixture
def compiled() -> None:
    if native.kernels() is None:
        pytest.skip("needs the compiled code")


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [
        *((375, 500, 256), (500, 375, 256), (500, 500, 224), (257, 1000, 256), (1023, 1400, 256), (640, 480, 97)),
        *((256, 256, 256), (256, 400, 256), (512, 512, 256), (700, 90, 3), (300, 200, 1)),
        *((100, 60, 256), (1, 1, 96), (1, 8, 16), (8, 1, 5), (15, 16, 16), (2, 3, 7)),
    ],
)
@pytest.mark.parametrize("levels", ["all", "extremes"])
def test_what_is_compiled_gives_torch_s_bytes(compiled: None, height: int, width: int, size: int, levels: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    if levels == "extremes":
        image = np.where(image < 128, np.uint8(0), np.uint8(255))
    scale = size / min(height, width)
    resized = max(round(height * scale), size), max(round(width * scale), size)
    for given in (image, image[..., ::-1]):  # whole in memory, and not
        for kept in ((size, size), resized, (size, resized[1])):
            expected = resize_with_torch(given, Target(resized, kept))
            assert expected.shape == (*kept, 3)
            assert np.array_equal(resize.middle(given, Target(resized, kept)), expected)


def noisy(width: int, height: int) -> Image.Image:
    """With coefficients of all kinds, of which a JPEG's file of 95 keeps most."""
    noise = np.random.default_rng(width * height).integers(-20, 21, (height, width, 3))
    return Image.fromarray((np.asarray(smooth(width, height)) + noise).clip(0, 255).astype(np.uint8))


def turbo(image: Image.Image, sampling: str) -> bytes:
    """What Pillow does not write."""
    pixels = np.ascontiguousarray(image)
    return bytes(simplejpeg.encode_jpeg(pixels, quality=95, colorspace="RGB", colorsubsampling=sampling))


def of_first_scans(image: Image.Image, count: int) -> bytes:
    """A progressive JPEG without its later scans, whole for a decoder, which smooths what they lack."""
    data = file_of(image, "JPEG", quality=95, progressive=True)
    return b"\xff\xda".join(data.split(b"\xff\xda")[: count + 1]) + b"\xff\xd9"


FORMS: dict[str, Callable[[Image.Image], bytes]] = {
    "4:2:0": lambda image: file_of(image, "JPEG", quality=95, subsampling="4:2:0"),
    "4:2:2": lambda image: file_of(image, "JPEG", quality=95, subsampling="4:2:2"),
    "4:4:4": lambda image: file_of(image, "JPEG", quality=95, subsampling="4:4:4"),
    "4:4:0": lambda image: turbo(image, "440"),
    "4:1:1": lambda image: turbo(image, "411"),
    "grey": lambda image: file_of(image.convert("L"), "JPEG", quality=95),
    "RGB": lambda image: file_of(image, "JPEG", quality=95, keep_rgb=True),
    "restart markers": lambda image: file_of(image, "JPEG", quality=95, restart_marker_blocks=3),
    "progressive": lambda image: file_of(image, "JPEG", quality=95, progressive=True),
    "progressive 4:4:4": lambda image: file_of(image, "JPEG", quality=95, progressive=True, subsampling="4:4:4"),
    "progressive grey": lambda image: file_of(image.convert("L"), "JPEG", quality=95, progressive=True),
    "first scan": lambda image: of_first_scans(image, 1),
    "first scans": lambda image: of_first_scans(image, 4),
}
SMOOTHED = ("first scan", "first scans")


@pytest.fixture
def in_one_pass(compiled: None, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What decodes a whole image is not called, but for what versions of libjpeg-turbo smooth differently."""
    if native.decoder() == "none":
        pytest.skip(f"needs the compiled code's libjpeg: {native.loaded().reason}")

    if form in SMOOTHED:
        return

    def whole(*_: object) -> NDArray[np.uint8]:
        raise AssertionError

    monkeypatch.setattr(decoding, "decode", whole)


def square_of_whole(data: bytes, size: int, shape: str = SQUARE) -> NDArray[np.uint8]:
    """simplejpeg decodes, torch resizes from what the picture covers."""
    whole = read_frame(data)[1:3]
    scale = size / min(whole)
    height, width = (max(round(length * scale), size) for length in whole)
    target = Target((height, width), (size, size) if shape == SQUARE else (height, width))
    eighths = resize.eighths_for(read_frame(data), size)
    if eighths == 8:
        return resize_with_torch(simplejpeg.decode_jpeg(data), target)
    least = [-(-length * eighths // 8) for length in whole]
    scaled = simplejpeg.decode_jpeg(data, min_height=least[0], min_width=least[1], min_factor=2)
    assert scaled.shape[:2] == tuple(least)
    return resize_with_torch(scaled, target, (whole[0] * eighths / 8, whole[1] * eighths / 8))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("width", "height"),
    [
        *((150, 113), (113, 150), (130, 97), (97, 131), (96, 96), (97, 97), (105, 400), (400, 105), (761, 100)),
        *((64, 48), (41, 77), (16, 16), (9, 30), (30, 8), (2, 3), (1, 1)),  # enlarged
        *((639, 650), (701, 640), (641, 647)),  # 3/8 begins here
    ],
)
def test_a_jpeg_row_by_row_is_the_whole_one_s(in_one_pass: None, form: str, width: int, height: int) -> None:
    data = FORMS[form](noisy(width, height))
    assert np.array_equal(to_square(data, SIZE), square_of_whole(data, SIZE))
    full = convert(data, shape=FULL, size=SIZE, encoding="raw", quality=90, keep=False).pixels
    assert np.array_equal(full, square_of_whole(data, SIZE, FULL))


@pytest.mark.parametrize("form", FORMS)
def test_a_scaled_jpeg_row_by_row_is_the_whole_one_s(in_one_pass: None, form: str) -> None:
    """Of all sides modulo 8, where 3/8, 2/8 and 1/8 begin at 16 px."""
    scales = set()
    for begin in (107, 320, 640):
        for more in range(-1, 9):
            data = FORMS[form](noisy(begin + more, begin + (5 * more) % 11))
            scales.add(resize.eighths_for(read_frame(data), 16))
            assert np.array_equal(to_square(data, 16), square_of_whole(data, 16)), (begin, more)
            full = convert(data, shape=FULL, size=16, encoding="raw", quality=90, keep=False).pixels
            assert np.array_equal(full, square_of_whole(data, 16, FULL)), (begin, more)
    assert scales == {1, 2, 3, 8}


@pytest.mark.parametrize("form", ["progressive", *SMOOTHED])
def test_what_libjpeg_smooths_is_left_to_simplejpeg(compiled: None, form: str) -> None:
    """libjpeg-turbo smooths since 3.0.1 otherwise than before, and Pillow may bring either."""
    if native.decoder() == "none":
        pytest.skip(f"needs the compiled code's libjpeg: {native.loaded().reason}")
    square = resize.jpeg_middle(FORMS[form](noisy(150, 113)), 8, (113, 150), Target((64, 85), (64, 64)))
    assert (square is None) == (form in SMOOTHED)


@pytest.mark.parametrize("form", FORMS)
def test_wherever_the_square_begins(in_one_pass: None, form: str) -> None:
    """All places in a block, of the first column and row."""
    for more in range(0, 72, 2):
        for shape in ((32 + more, 32), (32, 32 + more)):
            data = FORMS[form](noisy(*shape))
            assert np.array_equal(to_square(data, 32), square_of_whole(data, 32)), shape


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("width", "height"), [(150, 113), (113, 250)])
def test_damage_is_judged_as_in_a_whole_image(
    compiled: None, monkeypatch: pytest.MonkeyPatch, form: str, width: int, height: int
) -> None:
    """Also beside, above and below the square."""
    good = FORMS[form](noisy(width, height))
    judged = [(bad, square_or_reason(bad)) for bad in damaged(good, 60)]
    monkeypatch.setattr(native, "decoder", lambda: "none")
    assert judged == [(bad, square_or_reason(bad)) for bad, _ in judged]
    assert {type(result) for _, result in judged} == {bytes, str}


def square_or_reason(data: bytes) -> bytes | str:
    try:
        return to_square(data, 24).tobytes()
    except ValueError as error:
        return str(error)


def test_bytes_that_fill_up_before_a_marker_change_nothing() -> None:
    """Any number of ff may precede a marker."""
    assert read_frame(JPEG)[:3] == (0xC0, PICTURE.height, PICTURE.width)
    padded = JPEG[:2] + b"\xff" + JPEG[2:]
    padded = padded.replace(b"\xff\xc0\0\x11", b"\xff\xff\xff\xc0\0\x11")
    assert len(padded) == len(JPEG) + 3
    assert read_frame(padded) == read_frame(JPEG)
    assert np.array_equal(to_square(padded, SIZE), to_square(JPEG, SIZE))


@pytest.mark.parametrize("kind", [0xDB, 0xC4])  # quantisation, Huffman
def test_an_image_is_not_decoded_with_the_last_one_s_tables(kind: int) -> None:
    segments = JPEG.split(b"\xff" + bytes([kind]))
    after = (part[int.from_bytes(part[:2], "big") :] for part in segments[1:])
    bare = segments[0] + b"".join(after)
    expected = square_or_reason(bare)
    for other in (file_of(OTHER, "JPEG", quality=20, optimize=True), JPEG):
        to_square(other, SIZE)
        assert square_or_reason(bare) == expected


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_bytes_do_not_depend_on_a_compiler(compiled: None, monkeypatch: pytest.MonkeyPatch, format: str) -> None:
    data = file_of(OTHER, format)
    square, stored = convert(data, size=SIZE, encoding="jpeg", quality=90, keep=False)[:2]
    turn_native_off(monkeypatch)
    torch_s, stored_with_torch = convert(data, size=SIZE, encoding="jpeg", quality=90, keep=False)[:2]
    assert np.array_equal(square, torch_s)
    assert stored == stored_with_torch


def test_torch_is_not_imported_where_a_compiler_is(compiled: None) -> None:
    """It takes longer to import than all else."""
    code = "import sys, alexnet_fast.sharding.decode; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_shift_of_one_pixel_would_show() -> None:
    square = by_pillow(PICTURE)
    assert difference(square[1:], square[:-1]) > MEAN_TOLERANCE
    assert difference(square[:, 1:], square[:, :-1]) > MEAN_TOLERANCE
    assert difference(square[..., ::-1], square) > MEAN_TOLERANCE
