"""Decoding takes the memory that an image's header tells, at most 1.5 GiB a process; measured in one of its own."""

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.sharding.pictures import file_of

MEASURE = """
import json, sys
from alexnet_fast.memory import keep_freed_memory
from alexnet_fast.sharding import decode, pillow
from alexnet_fast.sharding.rule import Rule

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))

keep_freed_memory()
rule = Rule(orient=sys.argv[3:] == ["orient"])
decode.to_square(open(sys.argv[1], "rb").read(), 64, rule)  # what is loaded at the first image
data = open(sys.argv[2], "rb").read()
before = peak()
try:
    for _ in range(2):
        decode.to_square(data, 64, rule)
    result = "read"
except ValueError as error:
    result = str(error)
needed = 0 if decode.is_jpeg(data) or result != "read" else pillow.bytes_needed(data, rule)
print(json.dumps({"result": result, "more": peak() - before, "peak": peak(), "needed": needed}))
"""


def measure(tmp_path: Path, small: bytes, data: bytes | Path, *rule: str) -> tuple[str, int, int, float]:
    """Returns the reason, or `read`, the bytes that decoding took, the process' peak, and the bytes foreseen."""
    paths = tmp_path / "small", data if isinstance(data, Path) else tmp_path / "image"
    paths[0].write_bytes(small)
    if isinstance(data, bytes):
        paths[1].write_bytes(data)
    command = [sys.executable, "-c", MEASURE, *map(str, paths), *rule]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(run.stdout)
    return found["result"], found["more"], found["peak"], found["needed"]


def picture(mode: str, side: int) -> Image.Image:
    grey = np.tile(np.linspace(0, 255, side), (side, 1))
    if mode == "I;16":
        return Image.fromarray((grey * 257).astype(np.uint16))
    image = Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if mode == "RGBA":
        image.putalpha(100)
    return image.convert(mode)


@pytest.mark.parametrize(
    ("format", "mode"),
    [
        *(("PNG", mode) for mode in ("L", "P", "I;16", "RGB", "RGBA")),
        *(("TIFF", mode) for mode in ("L", "I;16", "RGB", "RGBA", "CMYK")),
        *(("WEBP", mode) for mode in ("RGB", "RGBA")),
        *(("AVIF", mode) for mode in ("RGB", "RGBA")),
        *(("JPEG2000", mode) for mode in ("L", "RGB", "RGBA")),
        *(("GIF", "P"), ("BMP", "RGB"), ("PPM", "RGB")),
    ],
)
def test_no_more_memory_than_foreseen(format: str, mode: str, tmp_path: Path) -> None:
    """Each is turned, too, which takes a copy."""
    one_strip: dict[str, Any] = {"compression": "tiff_lzw", "tiffinfo": {278: 2500}}
    how = one_strip if format == "TIFF" else {"speed": 10} if format == "AVIF" else {}
    small, large = (file_of(picture(mode, side), format, **how) for side in (80, 2500))
    result, more, _, needed = measure(tmp_path, small, large, "orient")
    assert result == "read"
    assert more < needed + 2**24
    assert needed < 8 * more  # nor is far too much foreseen


SMALL = {format: file_of(picture("RGB", 80), format) for format in ("WEBP", "JPEG2000", "TIFF", "JPEG")}
SIDE = 13_300


def claiming(format: str) -> bytes:
    """A file of 80 x 80 pixels whose header claims SIDE x SIDE."""
    if format == "WEBP":
        canvas = b"VP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + (SIDE - 1).to_bytes(3, "little") * 2
        data = SMALL[format]
        return data[:4] + struct.pack("<I", len(data) + 10) + data[8:12] + canvas + data[12:]
    if format == "JPEG2000":
        was, now = (struct.pack(">II", side, side) for side in (80, SIDE))
        assert SMALL[format].count(was) == 3  # the image's box, its codestream and the tiles' size
        return SMALL[format].replace(was, now)
    if format == "TIFF":
        data = file_of(picture("RGB", 80), "TIFF", compression="tiff_lzw")
        for tag in (256, 257, 278):
            at = data.index(struct.pack("<HHIH", tag, 3, 1, 80)) + 8
            data = data[:at] + struct.pack("<H", SIDE) + data[at + 2 :]
        return data
    data = file_of(picture("RGB", 80), "JPEG", subsampling=0, progressive=True)
    at = data.index(b"\xff\xc2") + 5
    return data[:at] + struct.pack(">HH", SIDE, SIDE) + data[at + 4 :]


@pytest.mark.parametrize("format", ["WEBP", "JPEG2000", "TIFF", "JPEG"])
def test_what_a_header_claims_is_refused_before_it_is_decoded(format: str, tmp_path: Path) -> None:
    result, more, _, _ = measure(tmp_path, SMALL[format], claiming(format))
    assert "bytes of memory to decode, more than the limit of 1,342,177,280" in result
    assert more < 2**25


def test_the_given_image_of_344_kb_fits_a_worker(tmp_path: Path) -> None:
    path = Path(__file__).parents[3] / "shared/cases/images/grey16_13300x13300.png"
    if not path.is_file():
        pytest.skip("needs ../shared/cases/images")
    result, _, peak, _ = measure(tmp_path, file_of(picture("I;16", 80), "PNG"), path)
    assert (result, peak < 1.5 * 2**30) == ("read", True)
