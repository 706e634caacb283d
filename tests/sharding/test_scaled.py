"""A JPEG decoded at a scale gives the square that the whole one gives: nothing shifted, as sharp, as often refused."""

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from alexnet_fast import native
from alexnet_fast.sharding import resize
from alexnet_fast.sharding.decode import decode, to_square
from alexnet_fast.sharding.jpeg_header import read_frame
from tests.conftest import turn_native_off
from tests.sharding.pictures import JPEG, damaged, difference, file_of, frame, smooth

LOSSLESS = Path(__file__).parents[3] / "shared" / "cases" / "images" / "lossless8.jpg"
SIZES = (32, 64, 96, 128, 256, 400)


def central_square(image: Image.Image, size: int, resample: Image.Resampling) -> NDArray[np.uint8]:
    """The paper's rule: shorter side to `size`, then the centre."""
    width, height = (round(length * size / min(image.size)) for length in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    resized = image.convert("RGB").resize((width, height), resample)
    return np.asarray(resized.crop((left, top, left + size, top + size)))


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    return float(10 * np.log10(255**2 / np.square(a.astype(float) - b).mean()))


@pytest.fixture(params=["as found", "no decoder", "no compiler"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of decoding and resizing: row by row; simplejpeg and the compiled resize; simplejpeg and torch."""
    if request.param == "no decoder":
        monkeypatch.setattr(native, "decoder", lambda: "none")
    elif request.param == "no compiler":
        turn_native_off(monkeypatch)
    return str(request.param)


def spot(width: int, height: int, x: float, y: float, radius: float) -> Image.Image:
    """A round white spot with soft edges on black, its middle at (x, y), where a pixel's own is at a half."""
    columns, rows = np.arange(width) + 0.5 - x, np.arange(height) + 0.5 - y
    level = 255 * np.exp(-(columns**2 + rows[:, None] ** 2) / (2 * radius**2))
    return Image.fromarray(level.round().astype(np.uint8)).convert("RGB")


def middle(square: NDArray[np.uint8]) -> tuple[float, float]:
    """Of the spot, by its centroid."""
    level = square.astype(float).mean(-1)
    level[level < 8] = 0  # JPEG's noise beside it
    at = np.arange(len(level)) + 0.5
    return float((level.sum(0) @ at) / level.sum()), float((level.sum(1) @ at) / level.sum())


@pytest.mark.parametrize(("sides", "eighths"), [((107, 113), 3), ((353, 361), 2), ((647, 699), 1), ((101, 103), 8)])
@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
def test_nothing_is_shifted(way: str, sides: tuple[int, int], eighths: int, subsampling: str) -> None:
    """Wherever a spot lies, its middle comes where its place times the scale is, to a twentieth of a pixel."""
    size = 16
    for width, height in itertools.permutations(sides):
        scale = size / min(sides)
        for x, y in ((0.2, 0.3), (0.5, 0.5), (0.8, 0.75)):
            side = min(sides)
            x, y = (width - side) / 2 + x * side, (height - side) / 2 + y * side
            data = file_of(spot(width, height, x, y, side / 14), "JPEG", quality=95, subsampling=subsampling)
            assert resize.eighths_for(read_frame(data), size) == eighths
            resized = [max(round(length * scale), size) for length in (width, height)]
            wanted = [
                place * new / old - (new - size) // 2
                for place, new, old in zip((x, y), resized, (width, height), strict=True)
            ]
            assert middle(to_square(data, size)) == pytest.approx(wanted, abs=0.05), (width, height)


def test_a_cmyk_jpeg_is_not_shifted_either() -> None:
    """Pillow decodes it, at a scale of its own."""
    data = file_of(spot(353, 361, 100, 250, 25).convert("CMYK"), "JPEG", quality=95)
    assert decode(data, 2).shape == (91, 89, 3)
    assert decode(data, 3).shape == (181, 177, 3)  # it has no 3/8
    for size in (16, 40, 96):
        new = round(361 * size / 353)
        wanted = (100 * size / 353, 250 * new / 361 - (new - size) // 2)
        assert middle(to_square(data, size)) == pytest.approx(wanted, abs=0.05)


def leaves(width: int, height: int) -> Image.Image:
    """Discs that cover each other, few large and many small, with some noise: has edges as a photograph has them."""
    random = np.random.default_rng(0)
    image = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(image)
    for share in random.uniform(0, 1, 4000):
        radius = min(width, height) / 4 / np.sqrt(1 + 2000 * share)
        x, y = random.uniform(0, (width, height))
        red, green, blue = (int(level) for level in random.integers(0, 256, 3))
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(red, green, blue))
    noise = random.integers(-4, 5, (height, width, 3), np.int16)
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [(2365, 2364, 256), (1709, 1711, 256), (645, 653, 32), (1285, 1293, 32), (643, 641, 96), (855, 1283, 128)],
)
def test_a_large_image_of_odd_sides_is_as_sharp_as_pillows(width: int, height: int, size: int) -> None:
    data = file_of(leaves(width, height), "JPEG", quality=95)
    assert resize.eighths_for(read_frame(data), size) < 8
    whole = Image.open(io.BytesIO(data))
    lanczos = central_square(whole, size, Image.Resampling.LANCZOS)
    pillows = psnr(central_square(whole, size, Image.Resampling.BILINEAR), lanczos)
    assert psnr(to_square(data, size), lanczos) > pillows - 0.3


@pytest.mark.parametrize("size", SIZES)
def test_real_photographs_are_as_sharp_as_pillows(real_images: Path, size: int) -> None:
    """PSNR against Lanczos, at the least and at the median, within 0.3 dB of that of Pillow's bilinear."""
    paths = sorted(real_images.rglob("*.JPEG"))[::29]
    assert len(paths) >= 10
    ours, pillows = [], []
    for path in paths:
        with Image.open(path) as image:
            lanczos = central_square(image, size, Image.Resampling.LANCZOS)
            pillows.append(psnr(central_square(image, size, Image.Resampling.BILINEAR), lanczos))
        ours.append(psnr(to_square(path.read_bytes(), size), lanczos))
    assert np.median(ours) == pytest.approx(np.median(pillows), abs=0.3)
    assert min(ours) == pytest.approx(min(pillows), abs=0.3)


def test_an_image_of_any_few_pixels(way: str) -> None:
    """1 to 20 px a side, as JPEGs of which nothing is lost but by rounding: as Pillow has them, wherever they lie."""
    for width, height in [*itertools.product((1, 2, 3, 5, 8, 11, 16, 17, 20), repeat=2)]:
        image = smooth(width, height)
        data = file_of(image, "JPEG", quality=100, subsampling="4:4:4")
        whole = Image.open(io.BytesIO(data))
        for size in (8, 13, 64):
            expected = central_square(whole, size, Image.Resampling.BILINEAR)
            assert difference(to_square(data, size), expected) < 1, (width, height, size)


@pytest.mark.parametrize(("width", "height"), [(1, 1000), (1000, 1), (2, 999), (3001, 7), (31, 5000), (40, 321)])
@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
def test_a_long_thin_image(way: str, width: int, height: int, subsampling: str) -> None:
    """Nothing of it is scaled, and its middle is the middle."""
    data = file_of(smooth(width, height), "JPEG", quality=100, subsampling=subsampling)
    assert resize.eighths_for(read_frame(data), 8) == 8
    whole = Image.open(io.BytesIO(data))
    for size in (8, 64, 96):
        expected = central_square(whole, size, Image.Resampling.BILINEAR)
        assert difference(to_square(data, size), expected) < 1, size


KINDS = {
    "12 bits": frame(JPEG, 4, b"\x0c"),
    "lossless": frame(JPEG, 1, b"\xc3"),
    "hierarchical": frame(JPEG, 1, b"\xc5"),
    "arithmetic": frame(JPEG, 1, b"\xc9"),
    "progressive, arithmetic": frame(JPEG, 1, b"\xca"),
    "cut off": JPEG[: len(JPEG) // 2],
    "no end": JPEG[:-2],
    "no scan": JPEG[: JPEG.index(b"\xff\xda")],
    "unusual sampling": file_of(smooth(300, 212), "JPEG", quality=95).replace(b"\1\x22\0", b"\1\x31\0", 1),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_refused_is_so_at_every_size(kind: str) -> None:
    answers = {answer(KINDS[kind], size) for size in (8, 13, 24, 31, 96, 212, 256)}  # 2/8, 3/8, whole
    assert len(answers) == 1, answers


def test_a_lossless_jpeg_is_refused_at_every_size() -> None:
    """libjpeg-turbo reads it, but not at a scale."""
    if not LOSSLESS.exists():
        pytest.skip(f"needs {LOSSLESS.name} of ../shared")
    answers = {answer(LOSSLESS.read_bytes(), size) for size in (8, 32, 96, 128, 250, 256)}
    assert answers == {"a lossless or hierarchical JPEG, which is not supported"}


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": "4:4:4"}], ids=str)
def test_damage_is_judged_alike_at_every_size(options: dict[str, object]) -> None:
    good = file_of(smooth(211, 163), "JPEG", quality=95, **options)
    found = set()
    for number, bad in enumerate(damaged(good, 80)):
        answers = {answer(bad, size) for size in (8, 20, 96)}
        assert len(answers) == 1, (number, answers)
        found |= answers
    assert "a square" in found
    assert len(found) > 1


def answer(data: bytes, size: int) -> str:
    try:
        assert to_square(data, size).shape == (size, size, 3)
    except ValueError as error:
        return str(error)
    return "a square"


def test_simplejpeg_gives_the_scale_that_it_is_asked_for() -> None:
    """Of all sides that are decoded at a scale, the least: other scales have other numbers of pixels."""
    for side in (54, 55, 57, 63, 64, 65):
        data = file_of(smooth(side, side), "JPEG")
        for eighths in (1, 2, 3):
            least = -(-side * eighths // 8)
            shape = simplejpeg.decode_jpeg(data, min_height=least, min_width=least, min_factor=2).shape
            assert shape == (least, least, 3)
            assert resize.extent_of(decode(data, eighths), read_frame(data)) == (side * eighths / 8,) * 2
