"""Files that are no images, or too large or broken ones: a ValueError that says why, and nothing else."""

import gzip
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from alexnet_fast.sharding.decode import MAX_UNPACKED, decode, to_square
from alexnet_fast.sharding.jpeg_header import MAX_SCANS, read_frame
from alexnet_fast.sharding.resize import eighths_for
from alexnet_fast.shards.format import MAX_PIXELS
from tests.sharding.pictures import JPEG, PICTURE, SIZE, difference, file_of, frame, of_scans, with_chunk


def png_claiming(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


def jpeg_claiming(width: int, height: int) -> bytes:
    data = file_of(PICTURE, "JPEG")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def test_a_header_can_claim_a_size() -> None:
    """The files of the next test are refused for their size, not for how they are made."""
    for data in (png_claiming(30, 20), jpeg_claiming(30, 20)):
        assert Image.open(io.BytesIO(data)).size == (30, 20)


SIDE = int(MAX_PIXELS**0.5) + 1


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"", "^the file is empty$", id="empty"),
        pytest.param(b"no image at all", "^text, not an image$", id="text"),
        pytest.param(b"\xff\xd8", "^not an image of a known format$", id="two-bytes-of-jpeg"),
        pytest.param(b"\xff\xd8\xff", "a damaged JPEG", id="three-bytes-of-jpeg"),
        pytest.param(JPEG[: JPEG.index(b"\xff\xdb") + 1], "a damaged JPEG", id="half-a-marker"),
        pytest.param(file_of(PICTURE, "JPEG")[:-2000], "truncated", id="truncated-jpeg"),
        pytest.param(file_of(PICTURE.convert("CMYK"), "JPEG")[:-2000], "truncated", id="truncated-cmyk"),
        pytest.param(file_of(PICTURE, "PNG")[:-2000], "truncated", id="truncated-png"),
        pytest.param(png_claiming(SIDE, SIDE), "pixels.*limit", id="huge-png"),
        pytest.param(jpeg_claiming(SIDE, SIDE), "pixels.*limit", id="huge-jpeg"),
        pytest.param(
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
            "^PostScript, which is not supported",
            id="no-programs-are-run",
        ),
        pytest.param(of_scans(MAX_SCANS), f"scans.*limit of {MAX_SCANS}", id="scans"),
        pytest.param(gzip.compress(JPEG)[:-500], "^a truncated gzip file$", id="truncated-gzip"),
        pytest.param(gzip.compress(JPEG)[:20] + b"?" * 500, "^a corrupt gzip file$", id="damaged-gzip"),
        pytest.param(gzip.compress(b"no image"), "^text, not an image$", id="gzip-of-text"),
        pytest.param(gzip.compress(bytes(MAX_UNPACKED + 1), 1), "^a gzip file.*limit", id="gzip-bomb"),
        pytest.param(with_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**24))), "too large", id="png-text-bomb"),
        pytest.param(with_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**24))), "too large", id="png-profile-bomb"),
        pytest.param(frame(JPEG, 4, b"\x0c"), "^a JPEG of an unsupported kind.*12-bit", id="12-bit-jpeg"),
        pytest.param(frame(JPEG, 1, b"\xc3"), "^a lossless or hierarchical JPEG", id="lossless-jpeg"),
        pytest.param(frame(JPEG, 1, b"\xc9"), "arithmetic", id="arithmetic-jpeg"),
        pytest.param(frame(JPEG, 1, b"\xca"), "arithmetic", id="progressive-arithmetic-jpeg"),
        pytest.param(frame(JPEG, 5, b"\0\0"), "^a corrupt JPEG .*no size", id="height-comes-later"),
        pytest.param(frame(JPEG, 7, b"\0\0"), "^a corrupt JPEG .*no size", id="no-width"),
    ],
)
def test_what_is_no_image_is_refused(data: bytes, reason: str, capfd: pytest.CaptureFixture[str]) -> None:
    reasons = set()
    for _ in range(2):
        with pytest.raises(ValueError, match=f"(?s){reason}") as refused:
            to_square(data, SIZE)
        reasons.add(str(refused.value))
    assert len(reasons) == 1
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_damaged_bytes_never_raise_anything_else(format: str, capfd: pytest.CaptureFixture[str]) -> None:
    """One bad file among a million must not end the work: a square or a ValueError, whatever the bytes."""
    good = file_of(PICTURE.resize((40, 30)), format)
    random = np.random.default_rng(1)
    refused, reasons = 0, ""
    for _ in range(150):
        data = bytearray(good)
        for at in random.integers(0, min(len(data), 300), 3):
            data[at] = random.integers(256)
        try:
            assert to_square(bytes(data), 16).shape == (16, 16, 3)
        except ValueError as error:
            refused += 1
            reasons += str(error)
    assert refused > 0
    assert " at 0x" not in reasons  # an address: another one each run
    assert capfd.readouterr() == ("", "")  # a C library that complains would fill the screen


def test_a_huge_jpeg_is_decoded_small() -> None:
    """The 150 MB of its pixels are never held; nor a CMYK one's, which Pillow decodes."""
    for mode, red in (("RGB", (255, 0, 0)), ("CMYK", (0, 255, 255, 0))):
        data = file_of(Image.new(mode, (8000, 6000), red), "JPEG")
        assert eighths_for(read_frame(data), SIZE) == 1
        assert decode(data, 1).shape == (750, 1000, 3)
        square = to_square(data, SIZE)
        assert difference(square, np.full_like(square, (255, 0, 0))) < 4
