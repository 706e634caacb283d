"""Image files of all kinds, and the square that Pillow makes of them."""

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

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
OTHER = NOISE.resize(PICTURE.size)
JPEG = file_of(PICTURE, "JPEG", quality=95)
PNG = file_of(PICTURE, "PNG")
ADOBE = b"\xff\xee\x00\x0eAdobe"


def frame(data: bytes, at: int, new: bytes) -> bytes:
    """Overwrites bytes of a JPEG's frame header: kind at 1, bits a sample 4, height 5, width 7."""
    at += data.index(b"\xff\xc0")
    return data[:at] + new + data[at + len(new) :]


def with_chunk(kind: bytes, content: bytes) -> bytes:
    """PNG with another chunk after its header."""
    crc = struct.pack(">I", zlib.crc32(kind + content))
    return PNG[:33] + struct.pack(">I", len(content)) + kind + content + crc + PNG[33:]


def of_scans(extra: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    data = file_of(PICTURE, "JPEG", quality=95, progressive=True)
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * extra + data[-2:]


def damaged(good: bytes, count: int) -> Iterator[bytes]:
    """Yields copies that end too early, and copies with one wrong bit, in turns; the same ones each time."""
    random = np.random.default_rng(0)
    for number in range(count):
        bad = bytearray(good)
        if number % 2:
            bad[int(random.integers(len(bad)))] ^= 1 << int(random.integers(8))
        else:
            del bad[int(random.integers(len(bad))) :]
        yield bytes(bad)
