"""What a file becomes where there are several ways: transparency, depths, orientation, line by line of the table in
docs/shard-format.md, against numbers computed by hand. All images are smooth or flat, so that resizing changes
little."""

import gzip
import io
import struct
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from alexnet_fast.sharding.decode import to_square
from alexnet_fast.sharding.rule import Rule, hex_colour
from tests.sharding.pictures import (
    MEAN_TOLERANCE,
    PICTURE,
    SIZE,
    by_pillow,
    difference,
    file_of,
    smooth,
)

SIDE = 80
GLYPH = slice(20, 60)
RAMP = np.tile(np.linspace(0, 1, SIDE), (SIDE, 1))
"""Black at the left, white at the right."""


def square(data: bytes, **rule: Any) -> NDArray[np.int64]:
    return to_square(data, SIDE, Rule(**rule)).astype(np.int64)


def png(*, bits: int, colour: int, rows: bytes, side: int = SIDE, **chunks: bytes) -> bytes:
    """A PNG of any kind; `rows`: each with its filter's byte before it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, bits, colour, 0, 0, 0)
    parts = {"IHDR": header, **chunks, "IDAT": zlib.compress(rows), "IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind.encode(), content) for kind, content in parts.items())


def png_rows(values: NDArray[Any]) -> bytes:
    """Of 16 bits, big-endian, or 8."""
    big = values.astype(">u2" if values.dtype.itemsize == 2 else np.uint8)
    return b"".join(b"\0" + row.tobytes() for row in big)


def tiff(values: NDArray[Any], tags: dict[int, tuple[str, Any]], order: Literal["<", ">"] = "<") -> bytes:
    """An uncompressed TIFF of one strip a plane; `values`: (planes, height, width, channels)."""
    planes, height, width, channels = values.shape
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    kinds = {"H": 3, "I": 4, "f": 11, "h": 8}
    samples = planes * channels
    entries: dict[int, tuple[str, Any]] = {
        256: ("H", [width]),
        257: ("H", [height]),
        258: ("H", [8 * values.dtype.itemsize] * samples),
        259: ("H", [1]),
        262: ("H", [2 if samples > 2 else 1]),
        273: ("I", [0] * planes),
        277: ("H", [samples]),
        278: ("H", [height]),
        279: ("I", [len(data) // planes] * planes),
        284: ("H", [2 if planes > 1 else 1]),
        **tags,
    }
    end = 8 + 2 + 12 * len(entries) + 4
    long = sum(struct.calcsize("=" + kind) * len(value) for kind, value in entries.values() if len(value) > 1)
    start = end + long + 16
    entries[273] = ("I", [start + plane * (len(data) // planes) for plane in range(planes)])
    body, extra = struct.pack(order + "H", len(entries)), b""
    for tag, (kind, value) in sorted(entries.items()):
        packed = struct.pack(order + kind * len(value), *value)
        if len(packed) > 4:
            extra, packed = extra + packed, struct.pack(order + "I", end + len(extra))
        body += struct.pack(order + "HHI", tag, kinds[kind], len(value)) + packed.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    return (head + body + bytes(4) + extra).ljust(start, b"\0") + data


def glyph(front: tuple[int, ...], hidden: tuple[int, ...], alpha: int = 255) -> NDArray[np.uint8]:
    """`front` with `alpha` in the middle; around it `hidden`, which is transparent."""
    image = np.zeros((SIDE, SIDE, len(front) + 1), np.uint8)
    image[...] = (*hidden, 0)
    image[GLYPH, GLYPH] = (*front, alpha)
    return image


def on(background: tuple[int, int, int], front: tuple[int, int, int]) -> NDArray[np.int64]:
    expected = np.tile(np.array(background), (SIDE, SIDE, 1))
    expected[GLYPH, GLYPH] = front
    return expected


RGBA = Image.fromarray(glyph((0, 0, 250), (255, 0, 0)), "RGBA")
LA = Image.fromarray(glyph((10,), (0,)), "LA")
INDEXED = Image.fromarray((np.asarray(RGBA)[..., 3] > 0).astype(np.uint8), "P")
INDEXED.putpalette([255, 0, 0, 0, 0, 250])
KEYED = np.where(np.asarray(RGBA)[..., 3:] > 0, (0, 0, 250), (255, 0, 0)).astype(np.uint8)
PREMULTIPLIED = np.asarray(RGBA).copy()
PREMULTIPLIED[PREMULTIPLIED[..., 3] == 0] = 0
GREY_KEYED = (np.asarray(LA)[..., 1] > 0) * np.uint16(40_000)
_NIBBLES = np.where(np.asarray(LA)[..., 1] > 0, np.uint8(3), np.uint8(15))
GREY_4 = _NIBBLES[:, ::2] << 4 | _NIBBLES[:, 1::2]
LA_16 = glyph((200,), (0,)).astype(np.uint16) * 257
BLUE = (0, 0, 250)


@pytest.mark.parametrize(
    ("data", "front"),
    [
        pytest.param(file_of(RGBA, "PNG"), BLUE, id="rgba"),
        pytest.param(file_of(RGBA, "WEBP", lossless=True, exact=True), BLUE, id="webp"),
        pytest.param(file_of(RGBA, "TIFF"), BLUE, id="tiff-unassociated"),
        pytest.param(file_of(RGBA, "TIFF", compression="tiff_lzw"), BLUE, id="tiff-lzw"),
        pytest.param(tiff(PREMULTIPLIED[None], {338: ("H", [1])}), BLUE, id="tiff-associated"),
        pytest.param(file_of(RGBA, "JPEG2000"), BLUE, id="jpeg2000"),
        pytest.param(file_of(LA, "PNG"), (10, 10, 10), id="la"),
        pytest.param(gzip.compress(file_of(LA, "PNG")), (10, 10, 10), id="gzip"),
        pytest.param(tiff(np.asarray(LA)[None], {338: ("H", [2])}), (10, 10, 10), id="tiff-la"),
        pytest.param(file_of(INDEXED, "PNG", transparency=0), BLUE, id="palette-index"),
        pytest.param(file_of(INDEXED, "PNG", transparency=bytes([0, 255])), BLUE, id="palette-alphas"),
        pytest.param(file_of(INDEXED, "GIF", transparency=0), BLUE, id="gif"),
        pytest.param(file_of(Image.fromarray(KEYED), "PNG", transparency=(255, 0, 0)), BLUE, id="colour-key"),
        pytest.param(
            png(bits=16, colour=2, rows=png_rows(KEYED.astype(np.uint16) * 257), tRNS=struct.pack(">3H", 65535, 0, 0)),
            BLUE,
            id="colour-key-16-bits",
        ),
        pytest.param(
            png(bits=16, colour=0, rows=png_rows(GREY_KEYED), tRNS=b"\0\0"), (156, 156, 156), id="grey-key-16-bits"
        ),
        pytest.param(png(bits=4, colour=0, rows=png_rows(GREY_4), tRNS=b"\0\x0f"), (51, 51, 51), id="grey-key-4-bits"),
        pytest.param(png(bits=16, colour=4, rows=png_rows(LA_16)), (200, 200, 200), id="la-16-bits"),
    ],
)
@pytest.mark.parametrize("background", ["#ffffff", "#00ff00"])
def test_hidden_colours_never_show_and_the_glyph_does(
    data: bytes, front: tuple[int, int, int], background: str
) -> None:
    colours = {"#ffffff": (255, 255, 255), "#00ff00": (0, 255, 0)}
    found = square(data, background=background)
    assert np.abs(found - on(colours[background], front)).max() <= 1
    if background == "#ffffff":
        assert np.array_equal(found, square(data))  # the default


def test_half_transparent_pixels_are_mixed() -> None:
    for alpha in (1, 77, 128, 254):
        found = square(file_of(Image.fromarray(glyph((0, 100, 250), (9, 9, 9), alpha), "RGBA"), "PNG"))
        expected = [255 + (colour - 255) * alpha / 255 for colour in (0, 100, 250)]
        assert np.abs(found[40, 40] - expected).max() <= 1


@pytest.mark.parametrize(
    ("name", "expected"), [("white", "#ffffff"), ("Black", "#000000"), ("#1f0", "#11ff00"), ("#0a0B0c", "#0a0b0c")]
)
def test_names_of_colours(name: str, expected: str) -> None:
    assert hex_colour(name) == expected


@pytest.mark.parametrize("name", ["", "whitish", "#12", "#11223344", "rgba(1,2,3,4)"])
def test_what_is_no_opaque_colour(name: str) -> None:
    with pytest.raises(ValueError, match=r"color|opaque"):
        hex_colour(name)


def levels(values: NDArray[Any], scale: float, kind: Any) -> NDArray[Any]:
    return np.rint(values * scale).astype(kind)[None, ..., None]


FLOAT = ("H", [3])
SIGNED = ("H", [2])
U16, F32 = np.dtype(np.uint16), np.dtype(np.float32)
FULL_16 = levels(RAMP, 65535, np.uint16)
LOW_12 = levels(RAMP, 4095, np.uint16)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(png(bits=16, colour=0, rows=png_rows(FULL_16[0, ..., 0])), id="png-16"),
        pytest.param(png(bits=16, colour=0, rows=png_rows(LOW_12[0, ..., 0]), sBIT=b"\x0c"), id="png-12-stated"),
        pytest.param(
            png(bits=16, colour=0, rows=png_rows(LOW_12[0, ..., 0] * 16), sBIT=b"\x0c"), id="png-12-scaled-up"
        ),
        pytest.param(png(bits=16, colour=2, rows=png_rows(FULL_16[0].repeat(3, -1))), id="png-16-rgb"),
        pytest.param(tiff(FULL_16, {}), id="tiff-16"),
        pytest.param(tiff(FULL_16, {}, ">"), id="tiff-16-big-endian"),
        pytest.param(tiff(65535 - FULL_16, {262: ("H", [0])}), id="tiff-16-white-is-zero"),
        pytest.param(tiff(LOW_12, {340: ("H", [0]), 341: ("H", [4095])}), id="tiff-12-stated"),
        pytest.param(tiff(levels(RAMP, 255, np.int32), {339: SIGNED, 341: ("I", [255])}), id="tiff-int32-stated"),
        pytest.param(
            tiff(levels(RAMP - 0.5, 2000, np.int16), {339: SIGNED, 340: ("h", [-1000]), 341: ("h", [1000])}),
            id="tiff-int16-stated",
        ),
        pytest.param(tiff(RAMP.astype(F32)[None, ..., None], {339: FLOAT}), id="tiff-float"),
        pytest.param(tiff(RAMP.astype(F32)[None, ..., None], {339: FLOAT}, ">"), id="tiff-float-big-endian"),
        pytest.param(
            tiff(1 - RAMP.astype(F32)[None, ..., None], {339: FLOAT, 262: ("H", [0])}), id="tiff-float-white-is-zero"
        ),
        pytest.param(
            tiff(RAMP.astype(F32)[None, ..., None] * 7 - 3, {339: FLOAT, 340: ("f", [-3.0]), 341: ("f", [4.0])}),
            id="tiff-float-stated",
        ),
        pytest.param(tiff(FULL_16.repeat(3, -1), {}), id="tiff-16-rgb"),
        pytest.param(b"P5 80 80 4095\n" + LOW_12.astype(">u2").tobytes(), id="pgm-12"),
        pytest.param(b"P5 80 80 65535\n" + FULL_16.astype(">u2").tobytes(), id="pgm-16"),
        pytest.param(b"Pf\n80 80\n-1.0\n" + RAMP.astype("<f4")[::-1].tobytes(), id="pfm"),
        pytest.param(file_of(Image.fromarray(FULL_16[0, ..., 0]), "JPEG2000"), id="jpeg2000-16"),
        pytest.param(file_of(Image.fromarray(FULL_16[0, ..., 0]), "TIFF", compression="tiff_lzw"), id="tiff-16-lzw"),
    ],
)
def test_a_ramp_of_any_depth_is_the_ramp(data: bytes) -> None:
    found = square(data)
    assert np.abs(found - (255 * RAMP)[..., None]).max() <= 1


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(png(bits=16, colour=0, rows=png_rows(LOW_12[0, ..., 0])), "largest is 4095", id="png-12"),
        pytest.param(png(bits=16, colour=0, rows=png_rows(levels(RAMP, 16383, U16)[0, ..., 0])), "16383", id="png-14"),
        pytest.param(png(bits=16, colour=2, rows=png_rows(LOW_12[0].repeat(3, -1))), "all below 4,096", id="png-rgb"),
        pytest.param(tiff(LOW_12, {}), "largest is 4095", id="tiff-12"),
        pytest.param(tiff(LOW_12.repeat(3, -1), {}), "all below 4,096", id="tiff-12-rgb"),
        pytest.param(tiff(levels(RAMP, 255, np.int32), {339: SIGNED}), "integers of 32 bits or", id="int32"),
        pytest.param(tiff(levels(RAMP, 255, np.uint32), {}), "integers of 32 bits or", id="uint32"),
        pytest.param(tiff(levels(RAMP, 255, np.int16), {339: SIGNED}), "or with a sign", id="int16"),
        pytest.param(tiff(levels(RAMP, 255, F32), {339: FLOAT}), "floats from 0 to 255", id="float-255"),
        pytest.param(tiff(levels(RAMP - 0.5, 2, F32), {339: FLOAT}), "floats from -1 to 1", id="float-signed"),
        pytest.param(tiff((RAMP / 100).astype(F32)[None, ..., None], {339: FLOAT}), "is 0.01 of 1", id="float-dark"),
        pytest.param(
            tiff(np.where(RAMP == 1, np.nan, RAMP).astype(F32)[None, ..., None], {339: FLOAT}), "floats", id="nan"
        ),
        pytest.param(
            tiff(np.where(RAMP == 1, np.inf, RAMP).astype(F32)[None, ..., None], {339: FLOAT, 341: ("f", [1.0])}),
            "no numbers",
            id="infinity",
        ),
    ],
)
def test_a_range_that_cannot_be_known_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        square(data)


def test_black_is_black_at_any_range() -> None:
    assert not square(png(bits=16, colour=0, rows=png_rows(np.zeros((SIDE, SIDE), U16)))).any()
    assert not square(tiff(np.zeros((1, SIDE, SIDE, 1), F32), {339: FLOAT})).any()


@pytest.mark.parametrize("scale", [1, 257])
def test_a_tiff_s_palette_of_8_bits_is_not_black(scale: int) -> None:
    """The specification has 16."""
    colours = np.random.default_rng(0).integers(1, 256, (3, 256))
    indexes = np.arange(SIDE * SIDE).reshape(SIDE, SIDE).astype(np.uint8)
    palette = ("H", (colours * scale).ravel().tolist())
    assert np.array_equal(square(tiff(indexes[None, ..., None], {262: ("H", [3]), 320: palette})), colours.T[indexes])


@pytest.mark.parametrize("order", ["<", ">"])
def test_planes_of_more_than_8_bits_are_never_noise(order: Literal["<", ">"]) -> None:
    """Pillow takes each byte for a sample where they are not compressed."""
    planes = np.asarray(smooth(SIDE, SIDE)).transpose(2, 0, 1)[..., None]
    assert np.array_equal(square(tiff(planes, {}, order))[..., 0], planes[0, ..., 0])
    with pytest.raises(ValueError, match="plane of its own"):
        square(tiff(planes.astype(U16) * 257, {}, order))


@pytest.mark.parametrize("name", ["planar16-le", "planar16-be"])
def test_the_given_planar_tiffs(name: str) -> None:
    path = Path(__file__).parents[3] / "shared/cases/images" / f"{name}.tif"
    if not path.is_file():
        pytest.skip("needs ../shared/cases/images")
    with pytest.raises(ValueError, match="plane of its own"):
        square(path.read_bytes())


def orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


@pytest.mark.parametrize("value", range(10))
@pytest.mark.parametrize(
    ("format", "how", "size"),
    [
        *(("JPEG", {"quality": 95}, size) for size in ((300, 211), (211, 300), (1601, 1100))),
        *(("PNG", {}, size) for size in ((300, 211), (211, 300))),
        ("WEBP", {"lossless": True}, (300, 211)),
    ],
)
def test_orientation_is_ignored_unless_asked_for(
    format: str, how: dict[str, Any], size: tuple[int, int], value: int
) -> None:
    data = file_of(smooth(*size), format, exif=orientation(value), **how)
    with Image.open(io.BytesIO(data)) as image:
        as_it_is, upright = by_pillow(image), by_pillow(ImageOps.exif_transpose(image))
    assert difference(to_square(data, SIZE), as_it_is) < MEAN_TOLERANCE
    assert difference(to_square(data, SIZE, Rule(orient=True)), upright) < MEAN_TOLERANCE
    assert (difference(as_it_is, upright) > MEAN_TOLERANCE) == (2 <= value <= 8)


@pytest.mark.parametrize("orient", [False, True])
def test_a_tiff_s_own_orientation_is_always_applied(orient: bool) -> None:
    pixels = np.asarray(smooth(SIZE, SIZE))
    found = to_square(tiff(pixels[None], {274: ("H", [6])}), SIZE, Rule(orient=orient))
    assert np.array_equal(found, np.rot90(pixels, -1))


def test_icc_profiles_are_ignored() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for format in ("PNG", "JPEG", "TIFF"):
        with_profile, without = (file_of(PICTURE, format, **how) for how in ({"icc_profile": profile}, {}))
        assert with_profile != without
        assert np.array_equal(to_square(with_profile, SIZE), to_square(without, SIZE))
