"""Files that are no image that can be read are called what they are, by their content."""

import gzip
import io
import re
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from alexnet_fast.sharding.decode import to_square
from alexnet_fast.sharding.formats import NotAnImageError
from tests.sharding.pictures import PICTURE, file_of


def boxes(brand: bytes, *compatible: bytes) -> bytes:
    content = b"ftyp" + brand + b"\0\0\0\0" + b"".join(compatible)
    return struct.pack(">I", len(content) + 4) + content + b"\0\0\0\x08mdat" + bytes(range(64))


def tar_file() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        tar.add(__file__, "test.py")
    return file.getvalue()


def zip_file() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.jpg", "no")
    return file.getvalue()


PAGE = b"\n <!DOCTYPE html>\n<html><head><title>404</title></head><body><svg></svg></body></html>"
SVG = b'<?xml version="1.0"?>\n<!-- drawn -->\n<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (PAGE, "HTML, not an image"),
        (b"\xef\xbb\xbf" + PAGE.lower(), "HTML, not an image"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "XML, not an image"),
        (b'{"error": 404}', "text, not an image"),
        ("Überschrift\n".encode() * 400, "text, not an image"),
        ("text".encode("utf-16"), "text, not an image"),
        (b"BMW is a car, and P6 a name", "text, not an image"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "a Git LFS pointer in place of the f"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "a PDF, not an image"),
        (zip_file(), "a ZIP archive, not an image"),
        (tar_file(), "a tar archive, not an image"),
        (boxes(b"isom", b"mp41"), "a video or audio file, not an image"),
        (b"\0\5\26\7\0\2\0\0Mac OS X        ", "an AppleDouble file"),
        (bytes(range(1, 200)), "not an image of a known format"),
    ],
)
def test_what_is_no_image_is_named(data: bytes, reason: str) -> None:
    for given in (data, gzip.compress(data)):
        with pytest.raises(NotAnImageError) as error:
            to_square(given, 64)
        assert str(error.value).startswith(reason)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (bytes(5000), "only zero bytes"),
        (boxes(b"heic", b"mif1", b"heic"), "HEIC, which is not supported"),
        (boxes(b"mif1", b"mif1", b"heic"), "HEIC, which is not supported"),
        (b"\xff\x0a" + bytes(range(99)), "JPEG XL, which is not supported"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(range(99)), "JPEG XL, which is not supported"),
        (SVG, "SVG, which is not supported"),
        (SVG[SVG.index(b"<svg") :], "SVG, which is not supported"),
        (file_of(PICTURE.resize((32, 32)), "ICO"), "ICO, which is not supported"),
        (b"8BPS\0\1" + bytes(30), "PSD, which is not supported"),
        (boxes(b"avif", b"avif", b"mif1"), "a corrupt AVIF"),
    ],
)
def test_pictures_that_are_not_read_are_named(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{reason}") as error:
        to_square(data, 64)
    assert not isinstance(error.value, NotAnImageError)


@pytest.mark.parametrize("format", ["PNG", "GIF", "TIFF", "WEBP", "BMP", "JPEG2000", "AVIF", "PPM"])
def test_a_corrupt_image_of_a_known_format_is_called_so(format: str) -> None:
    """Wherever it is cut, and with bytes of its header overwritten."""
    data = file_of(PICTURE.resize((60, 40)), format)
    reasons = set()
    for given in (data[:40], data[: len(data) // 2], data[:16] + b"\xff" * 12 + data[28:]):
        try:
            to_square(given, 64)
        except ValueError as error:
            reasons.add(str(error))
    assert reasons
    assert all(re.search(f"{format} |pixels|memory", reason) for reason in reasons), reasons


def test_an_unsupported_variant_is_called_so() -> None:
    data = bytearray(file_of(PICTURE, "BMP"))
    data[28] = 2  # bits a pixel
    with pytest.raises(ValueError, match=r"^a BMP of an unsupported kind .*depth"):
        to_square(bytes(data), 64)
    tiff = file_of(PICTURE, "TIFF")
    at = tiff.index(struct.pack("<HHI", 262, 3, 1)) + 8  # of the colours' kind
    with pytest.raises(ValueError, match=r"^a TIFF of an unsupported kind .*mode"):
        to_square(tiff[:at] + b"\x63" + tiff[at + 1 :], 64)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "group4", "jpeg"])
def test_libtiff_prints_nothing_and_its_error_is_the_reason(
    compression: str, capfd: pytest.CaptureFixture[str]
) -> None:
    image = PICTURE.convert("1") if compression == "group4" else PICTURE
    data = bytearray(file_of(image, "TIFF", compression=compression))
    random, reasons = np.random.default_rng(0), []
    for _ in range(20):
        bad = bytearray(data)
        for at in random.integers(8, len(bad) - 200, 30):
            bad[at] ^= 255
        try:
            to_square(bytes(bad), 64)
        except ValueError as error:
            reasons.append(str(error))
    assert reasons
    assert all("-2" not in reason for reason in reasons), reasons
    assert capfd.readouterr() == ("", "")


def test_a_log_of_pillow_s_reaches_no_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tiff = file_of(PICTURE, "TIFF")
    at = tiff.index(struct.pack("<HHI", 277, 3, 1)) + 8  # samples a pixel
    with pytest.raises(ValueError, match="TIFF"):
        to_square(tiff[:at] + b"\xff\xff" + tiff[at + 2 :], 64)
    assert capfd.readouterr() == ("", "")
