"""What the numbers of a file of more than 8 bits a sample mean: the levels from black to white, or a refusal.

They are scaled by the range that the file states: bits a sample, PGM's largest value, TIFF's SMinSampleValue and
SMaxSampleValue, PNG's sBIT where no value is above it. Without one, 16 bits are 0 to 65,535, as PNG and TIFF say, and
floats 0 to 1. That is not believed where all values lie in the lowest quarter: 8 to 14 bits are often stored in 16
without a word, and the picture would be nearly black. Other integers have no usual range. What cannot be known is
refused, not stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alexnet_fast.sharding.formats import RefusedError

WIDE = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")
"""Pillow's modes of one channel of more than 8 bits."""
BITS, PHOTOMETRIC, MIN_VALUE, MAX_VALUE = 258, 262, 340, 341
"""TIFF's tags: BitsPerSample, PhotometricInterpretation, SMinSampleValue, SMaxSampleValue."""
_STRIP = 1 << 20
_SCALE_IT = "Scale it to the whole range, or store it with 8 bits"


@dataclass(frozen=True)
class Range:
    """Values of one channel: that of black and that of white."""

    black: float
    white: float

    def to_uint8(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """Returns the values as 0 to 255. Raises RefusedError for what is no number."""
        if not np.isfinite(values).all():
            raise RefusedError("floats of which some are no numbers")
        levels = (values.astype(np.float32) - np.float32(self.black)) * np.float32(255 / (self.white - self.black))
        return np.asarray(np.rint(levels).clip(0, 255).astype(np.uint8))


def strips(image: Image.Image) -> Iterator[Image.Image]:
    """Yields a loaded image in strips of some million pixels, which can be converted with little memory."""
    rows = max(_STRIP // image.width, 1)
    for top in range(0, image.height, rows):
        yield image.crop((0, top, image.width, min(top + rows, image.height)))


def range_of(image: Image.Image, data: bytes) -> Range | None:
    """Returns the range of a loaded image of more than 8 bits in one channel; None for others, of which Pillow gives
    8 bits a channel. Raises RefusedError where it cannot be known."""
    if image.mode not in WIDE:
        _check_upper_bytes(image, _bits(image, data))
        return None
    extrema = [(values.min(), values.max()) for values in map(np.asarray, strips(image))]
    smallest, largest = (float(found) for found in (np.min(extrema), np.max(extrema)))
    low, high = _stated_range(image, data, largest) or _default_range(image.mode, smallest, largest)
    is_inverted = image.format == "TIFF" and _tag(image, PHOTOMETRIC) == 0
    return Range(high, low) if is_inverted else Range(low, high)


def transparent_key(image: Image.Image, data: bytes) -> Any:
    """Returns the colour that a PNG without a palette has for transparent, on the scale of Pillow's values, or None."""
    key, bits = image.info.get("transparency"), _bits(image, data)
    if image.format != "PNG" or image.mode == "P" or key is None:
        return None
    if bits == 16 and isinstance(key, tuple):
        return tuple(value >> 8 for value in key)
    return key * 255 // (2**bits - 1) if bits in (2, 4) else key


def _bits(image: Image.Image, data: bytes) -> int:
    """Returns the bits a sample of PNGs and TIFFs; 8 for other formats, which Pillow scales."""
    if image.format == "PNG":
        return data[24]
    return int(_tag(image, BITS) or 1) if image.format == "TIFF" else 8


def _tag(image: Image.Image, number: int) -> Any:
    """Returns a TIFF's tag, of the first channel; None where there is none."""
    value = image.tag_v2.get(number)  # type: ignore[attr-defined]
    return value[0] if isinstance(value, tuple) and value else value


def _stated_range(image: Image.Image, data: bytes, largest: float) -> tuple[float, float] | None:
    """Returns the values that the file states for the smallest and the largest level, or None."""
    if image.format == "TIFF":
        low, high = _tag(image, MIN_VALUE) or 0, _tag(image, MAX_VALUE)
        if high is not None and high > low:
            return float(low), float(high)
        bits = _bits(image, data)
        return (0, 2**bits - 1) if bits < 16 else None
    if image.format == "PNG":
        at = data.find(b"sBIT", 0, data.find(b"IDAT"))
        bits = data[at + 4] if at >= 0 else 16
        # The specification scales up what has fewer bits; who states them and does not is as plain.
        return (0, 2**bits - 1) if 0 < bits < 16 and largest < 2**bits else None
    return None if image.mode == "F" else (0, 65535)  # Pillow has scaled JPEG 2000, and PGM by its largest value


def _default_range(mode: str, smallest: float, largest: float) -> tuple[float, float]:
    """Returns the range that values of a mode have where the file states none. Raises RefusedError where they do not
    fit it, or it has none."""
    if mode == "I":
        raise RefusedError(f"integers of 32 bits or with a sign, whose range the file does not state. {_SCALE_IT}")
    if mode == "F" and not 0 <= smallest <= largest <= 1:
        raise RefusedError(
            f"floats from {smallest:g} to {largest:g}, which are not 0 to 1, and the file does not state their range. "
            f"{_SCALE_IT}"
        )
    white = 1 if mode == "F" else 65535
    if 0 < largest < white / 4:
        raise RefusedError(
            f"{'floats' if mode == 'F' else '16 bits a sample'}, of which the largest is {largest:g} of {white:g}: "
            f"whether it is dark or has a smaller range the file does not state. {_SCALE_IT}"
        )
    return 0, white


def _check_upper_bytes(image: Image.Image, bits: int) -> None:
    """Raises RefusedError, as `_default_range` does, for 16 bits in several channels, of which Pillow has the upper 8:
    where they are all small the others hold the picture."""
    if bits == 16:
        extrema: Any = image.getextrema()
        largest = max(high for _, high in (extrema[:-1] if image.mode in ("LA", "RGBA") else extrema))
        if largest < 64:
            raise RefusedError(
                f"16 bits a sample, all below {256 * (largest + 1):,} of 65,535: whether it is dark or has a smaller "
                f"range the file does not state. {_SCALE_IT}"
            )
