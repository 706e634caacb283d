"""Names what a file holds by its first bytes, and says why it is no image that can be read."""

from __future__ import annotations

import re

READ = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
"""Formats, by Pillow's names, that are read: those of photographs, none of those that start other programs."""

_SIGNATURES = (
    (0, rb"\xff\xd8\xff", "JPEG"),
    (0, rb"\x89PNG", "PNG"),
    (0, rb"GIF8", "GIF"),
    (0, rb"RIFF....WEBP", "WEBP"),
    (0, rb"(II|MM)([\x2a\x2b]\0|\0[\x2a\x2b])", "TIFF"),
    (0, rb"P[1-6][\s#]|P[fF]\n", "PPM"),
    (0, rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51", "JPEG2000"),
)
"""(first byte, pattern, format) of those in READ; AVIF has brands, and BMP two letters alone."""

_OTHER_PICTURES = (
    (0, rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (0, rb"8BPS", "PSD"),
    (4, rb"ftypcrx ", "CR3"),
    (0, rb"\0\0[\x01\x02]\0[^\0]\0", "ICO"),
    (0, rb"\x76\x2f\x31\x01", "OpenEXR"),
    (0, rb"#\?R", "Radiance HDR"),
    (0, rb"qoif", "QOI"),
    (0, rb"DDS ", "DDS"),
    (0, rb"%!PS|\xc5\xd0\xd3\xc6", "PostScript"),
    (0, rb"\xd7\xcd\xc6\x9a", "WMF"),
)
_OTHER_FILES = (
    (0, rb"%PDF", "a PDF"),
    (0, rb"PK(\x03\x04|\x05\x06|\x07\x08)", "a ZIP archive"),
    (257, rb"ustar", "a tar archive"),
    (0, rb"Rar!", "a RAR archive"),
    (0, rb"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (0, rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd", "compressed data"),
    (4, rb"ftyp|moov|mdat", "a video or audio file"),
    (0, rb"\x1a\x45\xdf\xa3|RIFF....(AVI |WAVE)|ID3|OggS|fLaC", "a video or audio file"),
    (0, rb"\x93NUMPY", "a NumPy array"),
    (0, rb"\x89HDF", "HDF5"),
    (0, rb"PAR1", "a parquet file"),
    (0, rb"\0\x05\x16\x07", "an AppleDouble file, which macOS writes beside others"),
    (0, rb"\0\0\0\x01Bud1", "a .DS_Store of macOS"),
    (0, rb"\xd0\xcf\x11\xe0", "an OLE file, such as Thumbs.db"),
)
_TEXTS = (
    (rb"version https://git-lfs", "a Git LFS pointer in place of the file: run git lfs pull"),
    (rb"(<!doctype html|<html|<head|<body|<script)", "HTML"),
    (rb"(<\?xml|<!doctype|<!--)", "XML"),
)
_HEAD = 4096
"""First bytes that are looked at."""
_UNSUPPORTED = re.compile(
    r"support|cannot handle|unknown (pixel|data|raw|mode|colour|color)|unable to determine|determine image mode"
    r"|not implemented|no reader|invalid values? for samples",
    re.IGNORECASE,
)
"""In a decoder's message: the file may be sound, but is of a kind that the decoder does not read."""


class RefusedError(ValueError):
    """An image that is refused, with a reason that needs no more words."""


class NotAnImageError(RefusedError):
    """A file that holds no image at all: text, say, or an archive."""


def format_of(data: bytes) -> str:
    """Returns the format, one of READ. Raises RefusedError, or NotAnImageError, saying what else the data are."""
    head = data[:_HEAD]
    if not data:
        raise RefusedError("the file is empty")
    if found := _match(_SIGNATURES, head):
        return found
    if head[4:8] == b"ftyp":
        brands = {head[8:12], *re.findall(rb"(?s).{4}", head[16 : int.from_bytes(head[:4], "big")])}
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        if any(brand[:2] == b"he" or brand in (b"mif1", b"msf1") for brand in brands):
            raise RefusedError(_unsupported("HEIC"))
    if found := _match(_OTHER_PICTURES, head):
        raise RefusedError(_unsupported(found))
    if found := _match(_OTHER_FILES, head):
        raise NotAnImageError(f"{found}, not an image")
    if data.count(0) == len(data):
        raise RefusedError("only zero bytes")
    if found := _text(head):
        if found == "SVG":
            raise RefusedError(_unsupported(found))
        raise NotAnImageError(found if "pointer" in found else f"{found}, not an image")
    if head[:2] == b"BM":  # a signature so short begins texts too
        return "BMP"
    raise NotAnImageError("not an image of a known format")


def describe(format: str, message: str) -> str:
    """Returns why a file of a known format could not be decoded: it is corrupt, or of an unsupported kind. `message`
    is the decoder's."""
    kind = "an" if format[0] == "A" else "a"
    if _UNSUPPORTED.search(message):
        return f"{kind} {format} of an unsupported kind ({message})"
    return f"a corrupt {format} ({message})" if message else f"a corrupt {format}"


def _unsupported(name: str) -> str:
    return f"{name}, which is not supported: convert it to JPEG or PNG"


def _match(table: tuple[tuple[int, bytes, str], ...], head: bytes) -> str:
    return next((name for at, pattern, name in table if re.match(b"(?s)" + pattern, head[at:])), "")


def _text(head: bytes) -> str:
    """Returns what kind of text it is; empty where it is none."""
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "text"
    try:
        head.decode()
    except UnicodeDecodeError as error:
        if len(head) < _HEAD or error.start < _HEAD - 3:  # else the last character is cut
            return ""
    if re.search(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]", head):
        return ""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    found = next((name for pattern, name in _TEXTS if re.match(pattern, start)), "text")
    return "SVG" if found in ("XML", "text") and re.search(rb"<svg[\s>]", start) and start[:1] == b"<" else found
