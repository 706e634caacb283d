"""Converts the bytes of any image file to an RGB square, and encodes it.

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
import warnings
import zlib
from contextlib import suppress

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from alexnet_fast import native
from alexnet_fast.sharding import resize
from alexnet_fast.sharding.jpeg_header import BASELINE, Frame, check_jpeg, check_pixels, has_own_tables, read_frame

MAX_UNPACKED = 64 * 2**20
"""Bytes that a gzip-compressed image may unpack to; the largest of ImageNet's files has 15 MB."""

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
"""What Pillow may read: photographs' formats, none of those that start other programs."""

RGB = NDArray[np.uint8]
"""(height, width, 3), 0-255."""


def convert(data: bytes, *, size: int, encoding: str, quality: int, keep: bool) -> tuple[RGB, bytes]:
    """Returns the pixels and the bytes to store. With `keep`, a `keepable` JPEG is stored as it is.

    Raises ValueError with a reason, the same each time, when `data` is no image to be read.
    """
    data = unpack(data)
    if keep and encoding == "jpeg" and keepable(data, size):
        with suppress(ValueError):  # corrupt: to_square decides
            return simplejpeg.decode_jpeg(data), data
    square = to_square(data, size)
    return square, encode(square, encoding, quality)


def keepable(data: bytes, size: int) -> bool:
    """Returns whether a JPEG can be stored as it is; that it decodes is not tested.

    It is a square of 7/8 `size` to `size`, baseline (progressive decodes slowly), grey or YCbCr, with its own tables
    and without EXIF, whose orientation readers treat differently.
    """
    try:
        height, width, colour, _ = simplejpeg.decode_jpeg_header(data)
    except (ValueError, KeyError):
        return False
    fits = height == width and 7 * size <= 8 * height <= 8 * size
    usual = colour in ("Gray", "YCbCr") and read_frame(data).kind == BASELINE
    return fits and usual and has_own_tables(data) and b"Exif\0\0" not in data


def to_square(data: bytes, size: int) -> RGB:
    """Returns the image's central square, (size, size, 3): shorter side to `size`, then the centre, as in the paper.

    EXIF orientation is ignored, as torchvision's loader does. Raises ValueError when `data` is not an image, is
    corrupt, or has more than MAX_PIXELS pixels.
    """
    data = unpack(data)
    frame, eighths = Frame(), 8
    if is_jpeg(data):
        frame = check_jpeg(data)
        eighths = resize.eighths_for(frame, size)
        square = _square_of_jpeg(data, frame, eighths, size)
        if square is not None:
            return square
    image = decode(data, eighths)
    extent = resize.extent_of(image, frame) if eighths < 8 else None
    if extent is None:
        image = _trim(image)
    height, width = (frame.height, frame.width) if extent else image.shape[:2]
    height, width = _resized(height, width, size)
    if native.kernels():
        return resize.square(image, height, width, size, extent)
    return square_with_torch(image, height, width, size, extent)


def is_jpeg(data: bytes) -> bool:
    """Returns whether the data begins as JPEGs do."""
    return data[:3] == b"\xff\xd8\xff"


def _square_of_jpeg(data: bytes, frame: Frame, eighths: int, size: int) -> RGB | None:
    """As `to_square`, without the decoded image in memory. None for what is corrupt, very long or of an unusual kind,
    which `decode` handles."""
    whole = frame.height, frame.width
    if native.decoder() == "none" or not frame.is_usual or not 0 < max(whole) < resize.MAX_ASPECT * min(whole):
        return None
    return resize.jpeg_square(data, eighths, whole, _resized(*whole, size), size)


def _resized(height: int, width: int, size: int) -> tuple[int, int]:
    """Returns height and width with the shorter side at `size`."""
    scale = size / min(height, width)
    return max(round(height * scale), size), max(round(width * scale), size)


def square_with_torch(image: RGB, height: int, width: int, size: int, extent: resize.Extent | None = None) -> RGB:
    """Returns the same as `resize.square`, by torch."""
    import torch

    image = np.require(image, requirements=["C", "W"])  # torch warns of arrays it may not write to
    # Batched first, permuted second: with these strides torch keeps the channels last, at half the time.
    nchw = torch.from_numpy(image)[None].permute(0, 3, 1, 2)
    # As torch.nn.functional.interpolate(mode="bilinear", antialias=True), which cannot be given the scale as well.
    scales = [
        None if covered == pixels else new / covered
        for pixels, covered, new in zip(image.shape, extent or image.shape[:2], (height, width), strict=False)
    ]
    resized = torch.ops.aten._upsample_bilinear2d_aa(nchw, (height, width), False, *scales)
    top, left = (height - size) // 2, (width - size) // 2
    square = resized[0].permute(1, 2, 0).numpy()[top : top + size, left : left + size]
    return np.ascontiguousarray(square)


def decode(data: bytes, eighths: int = 8) -> RGB:
    """Decodes any format to RGB, of an animation the first image; gzip-compressed or not.

    A JPEG comes at `eighths` / 8 of its size, or at more where its decoder has no such scale.
    """
    data = unpack(data)
    if not is_jpeg(data):
        return _decode_with_pillow(data)
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
    return _decode_with_pillow(data, at_least)


def encode(image: RGB, encoding: str, quality: int) -> bytes:
    """Returns a baseline JPEG, 4:2:0 (what decodes fastest), or for `raw` an .npy file of format 1.0."""
    if encoding == "raw":
        file = io.BytesIO()
        np.lib.format.write_array(file, image, version=(1, 0))
        return file.getvalue()
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
        raise ValueError("a damaged gzip file") from error
    if gzip.unconsumed_tail:
        raise ValueError(f"a gzip file that unpacks to more than the limit of {MAX_UNPACKED:,} bytes")
    if not gzip.eof:
        raise ValueError("a truncated gzip file")
    return unpacked


def _trim(image: RGB) -> RGB:
    """Cuts both ends of a very long image, whose resized form would be huge; its centre stays where it is."""
    keep = resize.MAX_ASPECT * min(image.shape[:2])
    top, left = (max(length - keep, 0) // 2 for length in image.shape[:2])
    return image[top : image.shape[0] - top, left : image.shape[1] - left]


def _decode_with_pillow(data: bytes, min_size: tuple[int, int] | None = None) -> RGB:
    """`min_size`: width and height that are enough of a JPEG."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # corrupt EXIF, palettes with bytes transparency: pixels decode
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                check_pixels(image.width * image.height)
                if min_size:
                    image.draft(None, min_size)
                if image.mode.startswith("I"):  # 16 bits a pixel; Pillow's own conversion would clip at 255
                    grey = np.asarray(image, dtype=np.int64) >> 8
                    return np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
                return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except UnidentifiedImageError as error:  # Pillow's text holds an address, another one each run
        raise ValueError(_why_unknown(data)) from error
    except Exception as error:  # Pillow's plugins raise many kinds on corrupt files
        raise ValueError(str(error) or type(error).__name__) from error


def _why_unknown(data: bytes) -> str:
    """Returns why no reader knows the data."""
    if data[:3] != b"\xff\xd8\xff":
        return "not an image of a known format" if data else "the file is empty"
    try:
        simplejpeg.decode_jpeg_header(data)
        simplejpeg.decode_jpeg(data)
    except (ValueError, KeyError) as error:
        return f"a damaged JPEG or one of an unknown kind ({error})"
    return "a damaged JPEG or one of an unknown kind"
