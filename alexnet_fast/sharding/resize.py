"""Bytes of any image file -> RGB square -> encoded bytes.

libjpeg-turbo (simplejpeg) decodes and encodes JPEG, torch's antialiased uint8 kernel resizes, and Pillow reads
everything else: measured side by side, tools/records/ has the numbers.
"""

from __future__ import annotations

import io
import warnings
from contextlib import suppress

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 178_956_970
"""Larger images are refused: a small file can claim any size, and decoding it would take all memory. Pillow's limit."""

RGB = NDArray[np.uint8]
"""(height, width, 3), 0-255."""


def to_square(data: bytes, size: int) -> RGB:
    """The image's central square, (size, size, 3): shorter side to `size`, then the centre, as in the paper.

    EXIF orientation is ignored, as torchvision's loader does. Raises ValueError when `data` is not an image, is
    damaged, or has more than MAX_PIXELS pixels.
    """
    image = _trim(decode(data, 2 * size))
    height, width, _ = image.shape
    scale = size / min(height, width)
    height, width = max(round(height * scale), size), max(round(width * scale), size)
    if (height, width) != image.shape[:2]:
        nchw = torch.from_numpy(image).permute(2, 0, 1)[None]
        resized = torch.nn.functional.interpolate(nchw, (height, width), mode="bilinear", antialias=True)
        image = resized[0].permute(1, 2, 0).numpy()
    top, left = (height - size) // 2, (width - size) // 2
    return np.ascontiguousarray(image[top : top + size, left : left + size])


def _trim(image: RGB) -> RGB:
    """Cuts both ends of a very long image, whose resized form would be huge; its centre stays where it is."""
    keep = 8 * min(image.shape[:2])
    top, left = (max(length - keep, 0) // 2 for length in image.shape[:2])
    return image[top : image.shape[0] - top, left : image.shape[1] - left]


def decode(data: bytes, min_side: int) -> RGB:
    """Decodes any format to RGB. A JPEG may come at a half, quarter or eighth if both sides stay >= `min_side`."""
    if data[:2] == b"\xff\xd8":
        # Odd but readable files are Pillow's to judge; damaged and too large ones fail there too.
        with suppress(ValueError, KeyError):  # KeyError: a colour space that simplejpeg does not know
            height, width, colour, _ = simplejpeg.decode_jpeg_header(data, strict=False)
            _check_pixels(height * width)
            if colour not in ("CMYK", "YCCK"):
                image: RGB = simplejpeg.decode_jpeg(data, min_height=min_side, min_width=min_side, min_factor=2)
                return image
    return _decode_with_pillow(data)


def encode(image: RGB, encoding: str, quality: int) -> bytes:
    """`jpeg`: baseline, 4:2:0 (what decodes fastest); `raw`: an .npy file, format 1.0."""
    if encoding == "raw":
        file = io.BytesIO()
        np.lib.format.write_array(file, image, version=(1, 0))
        return file.getvalue()
    jpeg: bytes = simplejpeg.encode_jpeg(image, quality, colorspace="RGB", colorsubsampling="420")
    return jpeg


def _decode_with_pillow(data: bytes) -> RGB:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # corrupt EXIF, palettes with bytes transparency: pixels decode
            with Image.open(io.BytesIO(data)) as image:
                _check_pixels(image.width * image.height)
                if image.mode.startswith("I"):  # 16 bits a pixel; Pillow's own conversion would clip at 255
                    grey = np.asarray(image, dtype=np.int64) >> 8
                    return np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
                return np.array(image.convert("RGB"))  # a copy: torch warns of arrays it may not write to
    except UnidentifiedImageError as error:  # Pillow's text holds an address, another one each run
        raise ValueError("not an image of a known format" if data else "the file is empty") from error
    except Exception as error:  # Pillow's plugins raise many kinds on damaged files
        raise ValueError(str(error) or type(error).__name__) from error


def _check_pixels(pixels: int) -> None:
    if pixels > MAX_PIXELS:
        raise ValueError(f"{pixels:,} pixels, more than the limit of {MAX_PIXELS:,}")
