"""What the fuzzers of the native code begin with: JPEGs of many forms, and trailers that say what is done with each.

An input is a JPEG, maybe a second one that is decoded before it, and TRAILER bytes: see native/input.h.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from alexnet_fast.sharding.jpeg_header import segments
from tests.system.fuzzing.random_tables import random_jpeg

TRAILER, FIXED, SECOND = 16, 96, 128
"""Of the trailer's third byte: from FIXED on no JPEG comes between but pixels, from SECOND on the second JPEG."""
CASES = Path(__file__).resolve().parents[4] / "shared" / "cases" / "jpeg"
"""JPEGs that decoders disagree on, beside the checkout; not part of the repository."""
DQT, DHT, COMMENT = 0xDB, 0xC4, 0xFE

FORMS: dict[str, dict[str, Any]] = {
    "4:2:0": {"subsampling": "4:2:0"},
    "4:2:2": {"subsampling": "4:2:2"},
    "4:4:4": {"subsampling": "4:4:4"},
    "codes of its own": {"optimize": True},
    "progressive": {"progressive": True},
    "progressive 4:4:4": {"progressive": True, "subsampling": "4:4:4"},
    "RGB": {"keep_rgb": True},
    "restarts": {"restart_marker_blocks": 3},
    "a restart for each block": {"restart_marker_blocks": 1, "optimize": True},
    "the most detail": {"quality": 100, "subsampling": "4:4:4"},
    "hardly any": {"quality": 2},
}


def seeds(count: int = 200) -> list[bytes]:
    """Inputs to begin with: every form, the special cases, and `count` of random codes."""
    rng = np.random.default_rng(0)
    jpegs = [*forms(), *special_cases(), *shared_cases(), *(random_jpeg(seed, 40) for seed in range(count))]
    others = jpegs[:: max(len(jpegs) // 20, 1)]
    found = []
    for number, jpeg in enumerate(jpegs):
        second = others[number % len(others)] if number % 3 == 0 else b""
        found.append(jpeg + second + trailer(rng, second))
    kinds = ("4:2:0", "codes of its own", "progressive", "a restart for each block")
    same_size = [pillow(Image.fromarray(picture(64, 48, 10)), **FORMS[kind]) for kind in kinds]
    for jpeg in (*special_cases(), *shared_cases()):
        found += [jpeg + second + trailer(rng, second) for second in same_size]
    return found


def between() -> list[bytes]:
    """JPEGs that the fuzzers decode between two times of another: of other codes, without any, and damaged ones."""
    some = [data for number, data in enumerate(forms()) if number % 4 == 0]
    return [*special_cases(), *shared_cases(), *(random_jpeg(seed, 24) for seed in range(1000, 1012)), *some][:FIXED]


def table_inputs(first: int, count: int) -> list[bytes]:
    """JPEGs of random codes number `first` on, as inputs: of four, one comes with another such in between, and one with
    its own coefficients in codes of the same words for other symbols."""
    rng = np.random.default_rng([first, count])
    jpegs = [random_jpeg(seed) for seed in range(first, first + count)]
    found = []
    for number, jpeg in enumerate(jpegs, first):
        second = b""
        if number % 4 == 1:
            second = jpegs[rng.integers(count)]
        elif number % 4 == 3:
            second = random_jpeg(number, exchange=True)
        found.append(jpeg + second + trailer(rng, second))
    return found


def trailer(rng: np.random.Generator, second: bytes = b"") -> bytes:
    """Random, with `second` decoded in between, or without it one of the fixed images or pixels."""
    which = rng.integers(SECOND, 256) if second else rng.integers(SECOND)
    return len(second).to_bytes(2, "little") + bytes([which]) + rng.bytes(TRAILER - 3)


def picture(width: int, height: int, seed: int) -> NDArray[np.uint8]:
    """Smooth shapes, with noise of another strength in each block."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 4, 3), np.uint8))
    strength = rng.choice([0.0, 2.0, 20.0], (-(-height // 8), -(-width // 8), 1)).repeat(8, 0).repeat(8, 1)
    noise = strength[:height, :width] * rng.normal(0, 1, (height, width, 3))
    smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))
    return (smooth + noise).clip(0, 255).astype(np.uint8)


def forms() -> Iterator[bytes]:
    """Of Pillow and, where it does not write them, of simplejpeg."""
    for number, (width, height) in enumerate([(64, 48), (33, 17), (9, 70), (1, 1), (16, 8), (100, 41)]):
        pixels = picture(width, height, number)
        image = Image.fromarray(pixels)
        for how in FORMS.values():
            yield pillow(image, **how)
        yield pillow(image.convert("L"))
        yield pillow(image.convert("L"), progressive=True)
        for sampling in ("440", "411"):
            yield bytes(simplejpeg.encode_jpeg(pixels, 80, "RGB", sampling))
    yield pillow(image.convert("CMYK"))
    yield pillow(Image.fromarray(picture(290, 300, 9)), quality=30)


def pillow(image: Image.Image, **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **{"quality": 80, **how})
    return file.getvalue()


def special_cases() -> Iterator[bytes]:
    """Without tables, with tables that lack what is used, cut off, with more behind the end."""
    whole = pillow(Image.fromarray(picture(64, 48, 7)), optimize=False)
    yield without(whole, DHT)
    yield without(whole, DQT)
    yield whole[:2] + b"\xff\xfe\x00\x06code" + without(whole, DHT)[2:]
    yield without(without(whole, DHT), DQT)
    yield other_codes(whole, bytes(16), b"")
    yield other_codes(whole, b"\0\1" + bytes(14), b"\0")
    yield other_codes(whole, b"\0\1\1" + bytes(13), b"\0\x0f")
    yield other_codes(whole, bytes(15) + b"\x01", b"\x0b")
    yield whole[: len(whole) // 2]
    yield whole[:-2]
    yield whole[:-2] + b"\xff\xff"
    yield whole[:-2] + b"\xff\xff\xff\xd9"
    yield whole + whole
    yield whole[:-20] + bytes(18) + whole[-2:]
    yield from other_restarts(pillow(Image.fromarray(picture(64, 48, 9)), restart_marker_blocks=2))
    progressive = pillow(Image.fromarray(picture(64, 48, 8)), progressive=True)
    yield b"\xff\xda".join(progressive.split(b"\xff\xda")[:4]) + b"\xff\xd9"


def other_restarts(jpeg: bytes) -> Iterator[bytes]:
    """With a restart that is left out, has another number, comes late, or is of another interval than is said."""
    scan = jpeg.index(b"\xff\xda")
    first, second = (jpeg.index(bytes([0xFF, 0xD0 + number]), scan) for number in (1, 2))
    yield jpeg[:first] + jpeg[first + 2 :]
    yield jpeg[:first] + jpeg[second:]
    yield jpeg[:first] + b"\xff\xd4" + jpeg[first + 2 :]
    yield jpeg[:first] + b"\xff\xd2" + jpeg[first + 2 : second] + b"\xff\xd1" + jpeg[second + 2 :]
    yield jpeg[:first] + bytes(1) + jpeg[first:]
    yield jpeg[:first] + bytes(20) + jpeg[first:]
    yield jpeg[: first - 1] + jpeg[first:]
    yield jpeg[:first] + b"\xff\xff" + jpeg[first:]
    yield jpeg.replace(b"\xff\xdd\0\4\0\2", b"\xff\xdd\0\4\0\1", 1)
    yield jpeg.replace(b"\xff\xdd\0\4\0\2", b"\xff\xdd\0\4\0\3", 1)


def without(jpeg: bytes, marker: int) -> bytes:
    """Without the segments of this kind."""
    for found, content in segments(jpeg):
        if found == marker:
            jpeg = jpeg.replace(b"\xff" + bytes([marker]) + (len(content) + 2).to_bytes(2, "big") + content, b"", 1)
    return jpeg


def other_codes(jpeg: bytes, lengths: bytes, symbols: bytes) -> bytes:
    """With another code for the first component's AC values, in front of the scan."""
    content = b"\x10" + lengths + symbols
    at = jpeg.index(b"\xff\xda")
    return jpeg[:at] + b"\xff\xc4" + (len(content) + 2).to_bytes(2, "big") + content + jpeg[at:]


def shared_cases() -> list[bytes]:
    """Those of CASES, but the largest; none where there is no such folder."""
    return [path.read_bytes() for path in sorted(CASES.glob("*.jpg")) if "bomb" not in path.name]
