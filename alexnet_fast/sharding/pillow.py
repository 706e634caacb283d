"""Decodes by Pillow what is no usual JPEG: any format, depth and transparency -> RGB, or a reason why not.

docs/shard-format.md has the rules in a table. ICC profiles are ignored; of an animation it is the first image.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImagePalette, UnidentifiedImageError

from alexnet_fast.sharding import libtiff
from alexnet_fast.sharding.depth import BITS, range_of, strips, transparent_key
from alexnet_fast.sharding.formats import READ, RefusedError, describe, format_of
from alexnet_fast.sharding.jpeg_header import check_pixels
from alexnet_fast.sharding.limits import check_bytes
from alexnet_fast.sharding.rule import DEFAULT, Rule

RGB = NDArray[np.uint8]
"""(height, width, 3), 0-255."""

ORIENTATION = 0x0112
"""EXIF's tag; TIFF's own has the same number."""
PLANES, PALETTE = 284, 320
"""TIFF's tags: PlanarConfiguration, ColorMap."""

_STORED = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
"""Bytes a pixel that Pillow holds an image in; 4 in other modes."""
_DECODER = {"WEBP": 13, "AVIF": 16, "TIFF": 8, "PPM": 9}
"""Bytes a pixel that the decoder takes at most beside those: measured, or for a file that is one strip. JPEG2000: 6.5
a channel."""


logging.getLogger("PIL").addHandler(logging.NullHandler())  # or Python prints its errors, without the file's name


def bytes_needed(data: bytes, rule: Rule = DEFAULT) -> float:
    """Returns the bytes that `decode` takes at most for what is no JPEG: Pillow's image, RGB, its copy where it is
    turned, what the decoder holds, and the file twice, as libtiff gets a copy. Raises ValueError for what is no image
    or has more than MAX_PIXELS pixels."""
    if data[8:12] == b"WEBP":  # Pillow takes the memory of two images to open one
        check_bytes(_webp_pixels(data) * _DECODER["WEBP"])
    with _opened(data) as image:
        check_pixels(image.width * image.height)
        decoder = 6.5 * len(image.getbands()) if image.format == "JPEG2000" else _DECODER.get(image.format or "", 0)
        a_pixel = _STORED.get(image.mode, 4) + 3 + 3 * rule.orient + decoder
        return image.width * image.height * a_pixel + 2.0 * len(data)


def decode(data: bytes, rule: Rule = DEFAULT, at_least: tuple[int, int] | None = None) -> RGB:
    """Returns the image, composited on the rule's background and turned as it says. Raises ValueError.

    `at_least`: width and height that are enough of a JPEG, which may then come at 1/8 to 4/8. For other images the
    caller has `bytes_needed` of memory.
    """
    with _opened(data) as image, libtiff.errors() as errors, _reasons(image.format or "", errors):
        if at_least:
            image.draft(None, at_least)
        if image.format == "TIFF":
            _mend_tiff(image)
        image.load()
        if errors:  # libtiff goes on after most
            raise OSError
        return turned(_convert(image, data, rule), _orientation(image) if rule.orient else 1)


def orientation(jpeg: bytes) -> int:
    """Returns the EXIF orientation of a JPEG, 1 to 8, where it has one that can be read; else 1."""
    try:
        with _opened(jpeg) as image:
            return _orientation(image)
    except ValueError:
        return 1


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """Returns the image, of which only the header has been read. Raises RefusedError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # corrupt EXIF, palettes with bytes transparency: pixels decode
        try:
            image = Image.open(io.BytesIO(data), formats=READ)
        except Image.DecompressionBombError as error:
            check_pixels(int(re.sub(r"\D*(\d+).*", r"\1", str(error))))
            raise
        except UnidentifiedImageError:  # Pillow's text holds an address, another one each run
            format = format_of(data)
            with _reasons(format, []):
                Image.OPEN[format][0](io.BytesIO(data), "")  # raises what was wrong
            raise RefusedError(describe(format, "")) from None
        except Exception as error:
            raise RefusedError(describe(format_of(data), _text(error))) from error
        with image:
            yield image


@contextmanager
def _reasons(format: str, errors: list[str]) -> Iterator[None]:
    """Raises RefusedError in place of Pillow's errors, of which its plugins have many kinds on corrupt files."""
    try:
        yield
    except RefusedError:
        raise
    except Exception as error:
        raise RefusedError(describe(format, errors[0] if errors else _text(error))) from error


def _text(error: Exception) -> str:
    """Returns Pillow's message, or a plain one for its own of an image without a side or a mode."""
    text = str(error) or type(error).__name__
    return "its header gives no size or no known colours" if text == "not identified by this driver" else text


def _webp_pixels(data: bytes) -> int:
    """Returns the pixels that a WebP's header claims: of its canvas, or of its only frame."""
    kind, extended, lossless = data[12:16], data[24:30], int.from_bytes(data[21:25], "little")
    if kind == b"VP8X":
        return (1 + int.from_bytes(extended[:3], "little")) * (1 + int.from_bytes(extended[3:], "little"))
    if kind == b"VP8L":
        return (1 + lossless % 2**14) * (1 + (lossless >> 14) % 2**14)
    return int.from_bytes(data[26:28], "little") % 2**14 * (int.from_bytes(data[28:30], "little") % 2**14)


def _mend_tiff(image: Image.Image) -> None:
    """Gives a TIFF whose palette has 8 bits its colours: it should have 16, of which Pillow takes the upper 8, but
    writers differ, and libtiff goes by the same sign. Raises RefusedError for channels in planes of their own that are
    not compressed, where Pillow takes bytes for samples."""
    tags, decoder = image.tag_v2, image.tile[0][0] if image.tile else ""  # type: ignore[attr-defined]
    if tags.get(PLANES) == 2 and decoder == "raw" and set(tags.get(BITS, (1,))) != {8}:
        raise RefusedError(
            "an uncompressed TIFF with each channel in a plane of its own and not 8 bits a sample, which is not "
            "supported: save it compressed, or with its channels side by side"
        )
    colours = tags.get(PALETTE, ())
    if image.mode == "P" and colours and max(colours) < 256:
        image.palette = ImagePalette.raw("RGB;L", bytes(colours))


def _convert(image: Image.Image, data: bytes, rule: Rule) -> RGB:
    """Returns a loaded image as RGB, converted strip by strip."""
    wide, key = range_of(image, data), transparent_key(image, data)
    background = ImageColor.getrgb(rule.background)[:3]
    out = np.empty((image.height, image.width, 3), np.uint8)
    bottom = 0
    for strip in strips(image):
        top, bottom = bottom, bottom + strip.height
        place = out[top:bottom]
        if wide:
            values = np.asarray(strip)
            place[:] = wide.to_uint8(values)[..., None]
            if key is not None:
                place[values == key] = background
        else:
            if key is not None:
                strip.info["transparency"] = key
            place[:] = np.asarray(_composited(strip, background))
    return out


def _composited(image: Image.Image, background: tuple[int, ...]) -> Image.Image:
    """Returns an image of 8 bits as RGB, on the background where it is transparent."""
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    canvas = Image.new("RGB", image.size, background)
    canvas.paste(rgba.convert("RGB"), mask=rgba.getchannel("A"))
    return canvas


def _orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation, 1 where there is none or Pillow has applied it, as it does with TIFF's own tag."""
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except Exception:  # corrupt EXIF
        return 1
    return found if found in range(1, 9) else 1


def turned(image: RGB, orientation: int) -> RGB:
    """Returns the image as it is to be seen: EXIF's orientation says where its first row and column are."""
    if orientation >= 5:
        image = image.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return image
