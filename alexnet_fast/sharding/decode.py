"""Converts the bytes of any image file to the RGB pixels that are stored, a square or all of it, and encodes them.

One compiled function of ours decodes and resizes a JPEG row by row, with libjpeg-turbo, a Huffman decoder of ours
below it, and the arithmetic of torch's antialiased uint8. Where it cannot, or a JPEG is unusual in any way,
simplejpeg decodes the whole; it encodes, too, and Pillow reads everything else: measured side by side, tools/records/
has the numbers. Most of an ImageNet photograph's time is decoding, and of that most the coefficients. Tried and left
out: cropping before resizing (shifts by part of a pixel: -1.7 dB), decoding at 6/8 (-4 dB, and slower), libjpeg's
fast DCT (-0.2 dB for 2 % of the time), decoding to YCbCr planes (saves 0.08 ms of 1.4; encoding from planes nothing),
decoders in Rust (zune 1.29 ms, edgefirst 0.96, libjpeg-turbo 1.07), encoding in our function (nothing).
"""

from __future__ import annotations

import io
import math
import zlib
from contextlib import nullcontext, suppress
from typing import NamedTuple

import numpy as np
import simplejpeg

from alexnet_fast import native
from alexnet_fast.sharding import pillow, resize
from alexnet_fast.sharding.jpeg_header import BASELINE, PROGRESSIVE, Frame, check_jpeg, has_own_tables, read_frame
from alexnet_fast.sharding.limits import memory_for
from alexnet_fast.sharding.pillow import RGB
from alexnet_fast.sharding.resize import Target
from alexnet_fast.sharding.rule import DEFAULT, Rule
from alexnet_fast.shards.format import FULL, MAX_ASPECT, SQUARE

MAX_UNPACKED = 64 * 2**20
"""Bytes that a gzip-compressed image may unpack to; the largest of ImageNet's files has 15 MB."""


SMALL_JPEG = 2**22
"""Pixels of a JPEG up to which nobody waits for its memory: 64 MB at most."""
MAX_SIDE = 65_500
"""Pixels of a side that libjpeg encodes and decodes."""
_RESIZING, _ENCODING = 6, 7
"""Bytes a pixel of the result that they take at most: rows of the new width and the pixels; pixels, libjpeg-turbo's
buffer of 3 bytes a pixel, and the file."""


class Converted(NamedTuple):
    """`pixels` (height, width, 3) and the `data` to store. `is_enlarged`: the shorter side was below `size`.
    `not_kept`: why a JPEG was not stored as it is, where that was asked for."""

    pixels: RGB
    data: bytes
    is_enlarged: bool = False
    not_kept: str = ""


def convert(
    data: bytes, *, shape: str = SQUARE, size: int, encoding: str, quality: int, keep: bool, rule: Rule = DEFAULT
) -> Converted:
    """Returns the pixels and the bytes to store. With `keep`, a JPEG that fits is stored as it is.

    Raises ValueError with a reason, the same each time, when `data` is no image to be read.
    """
    data, not_kept = unpack(data), ""
    if keep and encoding == "jpeg":
        not_kept = why_not_kept(data, size, shape)
        if not not_kept:
            with suppress(ValueError):  # corrupt or too large: _pixels decides
                return Converted(_decode_kept(data), data)
            not_kept = "corrupt"
    pixels, is_enlarged = _pixels(data, shape, size, rule)
    with memory_for(_ENCODING * pixels.size / 3) if pixels.size > 3 * SMALL_JPEG else nullcontext():
        return Converted(pixels, encode(pixels, encoding, quality), is_enlarged, not_kept)


def why_not_kept(data: bytes, size: int, shape: str = SQUARE) -> str:
    """Returns why a JPEG cannot be stored as it is, in a few words; empty where it can, if it decodes.

    It can where it has the shape, with 7/8 `size` to `size` pixels (any for size 0), is baseline (progressive decodes
    slowly), grey or YCbCr, with its own tables, and upright: readers treat EXIF orientation differently.
    """
    try:
        height, width, colour, _ = simplejpeg.decode_jpeg_header(data)
    except (ValueError, KeyError):
        return "unusual or corrupt" if is_jpeg(data) else "not a JPEG"
    shorter, longer = sorted((height, width))
    has_size = not size or 7 * size <= 8 * shorter <= 8 * size
    if shape == SQUARE and not (has_size and shorter == longer):
        return f"not a square of {-(-7 * size // 8)} to {size} pixels"
    if not has_size:
        return f"its shorter side not of {-(-7 * size // 8)} to {size} pixels"
    if size and longer > MAX_ASPECT * shorter:
        return f"more than {MAX_ASPECT} times as long as wide"
    if read_frame(data).kind != BASELINE:
        return "progressive or extended"
    if colour not in ("Gray", "YCbCr"):
        return "neither grey nor YCbCr"
    if not has_own_tables(data):
        return "without its own tables"
    if (b"Exif\0\0" in data or b"http://ns.adobe.com/xap/" in data) and pillow.orientation(data) != 1:
        return "turned by its EXIF orientation"
    return ""


def to_square(data: bytes, size: int, rule: Rule = DEFAULT) -> RGB:
    """Returns the image's central square, (size, size, 3): shorter side to `size`, then the centre, as in the paper.

    Raises ValueError when `data` is not an image, is corrupt, or takes too much memory to decode; NotAnImageError when
    it is plainly something else.
    """
    return _pixels(unpack(data), SQUARE, size, rule)[0]


def _pixels(data: bytes, shape: str, size: int, rule: Rule) -> tuple[RGB, bool]:
    """Returns the pixels to store, and whether the image was enlarged."""
    if not is_jpeg(data):
        most = MAX_ASPECT * size**2 if shape == FULL else 0  # pixels; those of a square are few
        with memory_for(pillow.bytes_needed(data, rule) + _RESIZING * most):
            image = pillow.decode(data, rule)
            return _resize(image, shape, size), min(image.shape[:2]) < size
    frame = check_jpeg(data)
    is_enlarged = min(frame.height, frame.width) < size
    orientation = pillow.orientation(data) if rule.orient else 1
    # A turned image is decoded whole: what its pixels cover would no longer begin at the first of them.
    eighths = resize.eighths_for(frame, size) if size and orientation == 1 else 8
    has_pixels = min(frame.height, frame.width) > 0  # else its decoder says what is wrong
    made = math.prod(_target(*frame[1:3], shape, size).kept) if size and shape == FULL and has_pixels else 0
    is_small = frame.height * frame.width + made <= SMALL_JPEG
    with nullcontext() if is_small else memory_for(_jpeg_bytes(frame, eighths, orientation) + _RESIZING * made):
        pixels = _resized_jpeg(data, frame, eighths, shape, size) if size and orientation == 1 else None
        if pixels is None:
            image = pillow.turned(decode(data, eighths), orientation)
            pixels = _resize(image, shape, size, frame if eighths < 8 else None)
    return pixels, is_enlarged


def _decode_kept(data: bytes) -> RGB:
    """Returns the pixels of a JPEG that is stored as it is. Raises ValueError when it is corrupt or too large."""
    frame = check_jpeg(data)
    with nullcontext() if frame.height * frame.width <= SMALL_JPEG else memory_for(_jpeg_bytes(frame, 8, 1)):
        image: RGB = simplejpeg.decode_jpeg(data)
        return image


def _resize(image: RGB, shape: str, size: int, frame: Frame | None = None) -> RGB:
    """Returns what is stored of a decoded image; `frame`: of a JPEG that may be decoded at another size than its own.
    Raises ValueError when no JPEG could have its size."""
    if not size:
        if max(image.shape) > MAX_SIDE:
            raise ValueError(f"a side of {max(image.shape):,} pixels, more than the limit of {MAX_SIDE:,}")
        return np.ascontiguousarray(image)
    extent = resize.extent_of(image, frame) if frame else None
    if frame is None or extent is None:
        image = _trim(image)
        target = _target(image.shape[0], image.shape[1], shape, size)
    else:
        target = _target(frame.height, frame.width, shape, size)
    resized = resize.middle if native.kernels() else resize_with_torch
    return resized(image, target, extent)


def _jpeg_bytes(frame: Frame, eighths: int, orientation: int) -> float:
    """Returns the bytes that decoding a JPEG takes at most: two a coefficient where all scans are gathered first, seven
    a pixel of the image, which is decoded whole or at a half at most, and a copy to turn it."""
    pixels = frame.height * frame.width
    largest = max((sampling >> 4) * (sampling & 15) for sampling in frame.sampling)
    samples = sum((sampling >> 4) * (sampling & 15) for sampling in frame.sampling) / max(largest, 1)
    share = 1 if eighths == 8 else 1 / 4
    gathered = 2 * samples if frame.scans > 1 or frame.kind == PROGRESSIVE else 0
    return pixels * (gathered + share * (7 + 3 * (orientation != 1)))


def is_jpeg(data: bytes) -> bool:
    """Returns whether the data begins as JPEGs do."""
    return data[:3] == b"\xff\xd8\xff"


def _resized_jpeg(data: bytes, frame: Frame, eighths: int, shape: str, size: int) -> RGB | None:
    """As `_resize`, without the decoded image in memory. None for what is corrupt, very long or of an unusual kind,
    which `decode` handles."""
    whole = frame.height, frame.width
    if native.decoder() == "none" or not frame.is_usual or not 0 < max(whole) < MAX_ASPECT * min(whole):
        return None
    return resize.jpeg_middle(data, eighths, whole, _target(*whole, shape, size))


def _target(height: int, width: int, shape: str, size: int) -> Target:
    """Returns the target with the shorter side at `size`: of its central square, or of all up to MAX_ASPECT squares."""
    scale = size / min(height, width)
    resized = max(round(height * scale), size), max(round(width * scale), size)
    most = MAX_ASPECT * size if shape == FULL else size
    return Target(resized, (min(resized[0], most), min(resized[1], most)))


def resize_with_torch(image: RGB, target: Target, extent: resize.Extent | None = None) -> RGB:
    """Returns the same as `resize.middle`, by torch."""
    import torch

    image = np.require(image, requirements=["C", "W"])  # torch warns of arrays it may not write to
    # Batched first, permuted second: with these strides torch keeps the channels last, at half the time.
    nchw = torch.from_numpy(image)[None].permute(0, 3, 1, 2)
    # As torch.nn.functional.interpolate(mode="bilinear", antialias=True), which cannot be given the scale as well.
    scales = [
        None if covered == pixels else new / covered
        for pixels, covered, new in zip(image.shape, extent or image.shape[:2], target.resized, strict=False)
    ]
    resized = torch.ops.aten._upsample_bilinear2d_aa(nchw, target.resized, False, *scales)
    top, left = ((new - kept) // 2 for new, kept in zip(*target, strict=True))
    middle = resized[0].permute(1, 2, 0).numpy()[top : top + target.kept[0], left : left + target.kept[1]]
    return np.ascontiguousarray(middle)


def decode(data: bytes, eighths: int = 8, rule: Rule = DEFAULT) -> RGB:
    """Decodes any format to RGB, of an animation the first image; gzip-compressed or not. A JPEG is not turned.

    A JPEG comes at `eighths` / 8 of its size, or at more where its decoder has no such scale.
    """
    data = unpack(data)
    if not is_jpeg(data):
        return pillow.decode(data, rule)
    frame = check_jpeg(data)
    # simplejpeg looks for the smallest scale that gives as much.
    height, width = resize.scaled((frame.height, frame.width), eighths) if eighths < 8 else (0, 0)
    # Unusual files that can be read are left to Pillow; corrupt and too large ones fail there too.
    with suppress(ValueError, KeyError):  # KeyError: a colour space that simplejpeg does not know
        colour = simplejpeg.decode_jpeg_header(data, strict=False)[2]
        if colour not in ("CMYK", "YCCK"):
            image: RGB = simplejpeg.decode_jpeg(data, min_height=height, min_width=width, min_factor=2)
            return image
    at_least = (frame.width * eighths // 8, frame.height * eighths // 8) if eighths < 8 else None
    return pillow.decode(data, at_least=at_least)


def encode(image: RGB, encoding: str, quality: int) -> bytes:
    """Returns a baseline JPEG, 4:2:0 (what decodes fastest), or for `raw` an .npy file of format 1.0."""
    if encoding == "raw":
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(image))
        return b"".join((header.getvalue(), image.data))
    jpeg: bytes = simplejpeg.encode_jpeg(image, quality, colorspace="RGB", colorsubsampling="420")
    return jpeg


def unpack(data: bytes) -> bytes:
    """Returns the data, decompressed where it is gzip: ImageNet's Fall 2011 release has such files named .JPEG."""
    if data[:2] != b"\x1f\x8b":
        return data
    gzip = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        unpacked = gzip.decompress(data, MAX_UNPACKED)
    except zlib.error as error:
        raise ValueError("a corrupt gzip file") from error
    if gzip.unconsumed_tail:
        raise ValueError(f"a gzip file that unpacks to more than the limit of {MAX_UNPACKED:,} bytes")
    if not gzip.eof:
        raise ValueError("a truncated gzip file")
    return unpacked


def _trim(image: RGB) -> RGB:
    """Cuts both ends of a very long image, whose resized form would be huge; its centre stays where it is."""
    keep = MAX_ASPECT * min(image.shape[:2])
    top, left = (max(length - keep, 0) // 2 for length in image.shape[:2])
    return image[top : image.shape[0] - top, left : image.shape[1] - left]
