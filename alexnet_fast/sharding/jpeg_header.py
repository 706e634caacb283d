"""Reads a JPEG's markers without a decoder; holds the one rule for which JPEGs a decoder is given.

`native/header.c` is the same in C, for each image as it is loaded; a test compares the two.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from alexnet_fast.shards.format import MAX_PIXELS

BASELINE, EXTENDED, PROGRESSIVE = 0xC0, 0xC1, 0xC2
"""Kinds of frame. Others are lossless, hierarchical or arithmetic."""

MAX_SCANS = 200
"""Of one JPEG: every scan passes over the whole image, and a small file can hold thousands. Cameras write 10."""

MAX_SCANNED = 30 * MAX_PIXELS
"""Pixels that all scans of one JPEG pass over together: some seconds of work."""

_HUFFMAN, _END, _SCAN, _QUANTISATION = 0xC4, 0xD9, 0xDA, 0xDB
_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")
"""Of a segment, or the end: no zero of a scan, no restart, nothing else without content."""


class Frame(NamedTuple):
    """`sampling`: of each component a byte, how many samples horizontally and vertically, four bits each.
    `scans`: how many a decoder would read."""

    kind: int = 0
    height: int = 0
    width: int = 0
    sampling: bytes = b""
    scans: int = 0

    @property
    def is_usual(self) -> bool:
        """Whether all decoders take its kind, and its colours and their resolution."""
        kinds, luma = (BASELINE, EXTENDED, PROGRESSIVE), b"\x11\x21\x12\x22\x41"
        colour = len(self.sampling) == 3 and self.sampling[0] in luma and self.sampling[1:] == b"\x11\x11"
        return self.kind in kinds and (len(self.sampling) == 1 or colour)


def read_frame(data: bytes) -> Frame:
    """Returns the first frame, with the number of scans up to the end of the image; `kind` is 0 where there is none.

    What follows that end, a film or a second image, is not read.
    """
    frame, scans = Frame(), 0
    for marker, content in segments(data):
        if _is_frame(marker) and not frame.kind and len(content) >= 6:
            height, width, count = content[1:3], content[3:5], content[5]
            sampling = content[7 : 6 + 3 * count : 3].ljust(count, b"\0")
            frame = Frame(marker, int.from_bytes(height, "big"), int.from_bytes(width, "big"), sampling)
        if marker == _SCAN:
            scans += 1
            is_sequential = frame.kind in (BASELINE, EXTENDED)
            if is_sequential and content[:1] == bytes([len(frame.sampling)]):  # it is the only one
                break
    return frame._replace(scans=scans)


def has_own_tables(data: bytes) -> bool:
    """Whether a JPEG brings every quantisation and Huffman table that its first scan uses. libjpeg-turbo has Huffman
    tables for one that does not, others refuse it."""
    defined: set[tuple[int, int]] = set()  # kind of the table (quantisation, DC codes or AC codes) and its number
    used: set[tuple[int, int]] = set()
    for marker, content in segments(data):
        at = 0
        if marker == _QUANTISATION:
            for _ in range(4):
                if at < len(content):
                    defined.add((marker, content[at] & 15))
                    at += 129 if content[at] >> 4 else 65
        elif marker == _HUFFMAN:
            while at + 17 <= len(content):
                defined.add((content[at] >> 4, content[at] & 15))
                at += 17 + sum(content[at + 1 : at + 17])
        elif _is_frame(marker):
            used |= {(_QUANTISATION, number) for number in content[8::3]}
        elif marker == _SCAN:
            for numbers in content[2 : 1 + 2 * content[0] : 2]:
                used |= {(0, numbers >> 4), (1, numbers & 15)}
            return used <= defined
    return False


def segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Each segment's marker (its second byte) and content, up to the end of the image or of what can be read. Bytes
    between segments are passed over, among them a scan's."""
    at = 2
    while data[:2] == b"\xff\xd8" and (found := _MARKER.search(data, at)) and data[found.end() - 1] != _END:
        at = found.end()
        length = int.from_bytes(data[at : at + 2], "big")
        if length < 2 or at + length > len(data):
            return
        yield data[at - 1], data[at + 2 : at + length]
        at += length


def _is_frame(marker: int) -> bool:
    return 0xC0 <= marker <= 0xCF and marker not in (_HUFFMAN, 0xC8, 0xCC)


def check_jpeg(data: bytes) -> Frame:
    """Returns the frame of a JPEG that a decoder may be given. Raises ValueError with the reason for others."""
    frame = read_frame(data)
    if not frame.kind:
        raise ValueError("a damaged JPEG or one of an unknown kind (it has no frame header)")
    if frame.kind > 0xC8:  # libjpeg-turbo reads Huffman codes as such without a warning
        raise ValueError("a JPEG of arithmetic codes, which are not supported, or one with a damaged header")
    if frame.kind > PROGRESSIVE:
        raise ValueError("a lossless or hierarchical JPEG, which is not supported")
    if frame.scans > MAX_SCANS:
        raise ValueError(f"a JPEG of {frame.scans} scans, more than the limit of {MAX_SCANS}")
    check_pixels(frame.height * frame.width)
    if frame.scans * frame.height * frame.width > MAX_SCANNED:
        raise ValueError(
            f"a JPEG of {frame.scans} scans of {frame.height * frame.width:,} pixels each, more than the limit of "
            f"{MAX_SCANNED:,} together"
        )
    return frame


def check_stored_jpeg(data: bytes, *, crop: int, size: tuple[int, int]) -> None:
    """Raises ValueError, as the crops of native/crops.c do, where a JPEG of a shard set cannot give such a crop.

    `size`: height and width that the set says it has, at most; `crop`: 1 where it is resized."""
    frame = check_jpeg(data)
    if frame.height > size[0] or frame.width > size[1]:
        raise ValueError("it is larger than the set's images")
    if min(frame.height, frame.width) < crop:
        raise ValueError("it is smaller than the crop")


def check_pixels(pixels: int) -> None:
    """Raises ValueError above MAX_PIXELS."""
    if pixels > MAX_PIXELS:
        raise ValueError(f"{pixels:,} pixels, more than the limit of {MAX_PIXELS:,}")
