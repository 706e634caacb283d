"""What a JPEG's frame header says, read without a decoder."""

from __future__ import annotations

from typing import NamedTuple

BASELINE, EXTENDED, PROGRESSIVE = 0xC0, 0xC1, 0xC2
"""Kinds. Others are lossless, hierarchical or arithmetic."""

ARITHMETIC = range(0xC9, 0xD0)

MAX_SCANS = 200
"""Of one JPEG: every scan passes over the whole image, and a small file can hold thousands. Cameras write 10."""


class Frame(NamedTuple):
    """`sampling`: of each component a byte, how many samples horizontally and vertically, four bits each."""

    kind: int
    height: int
    width: int
    sampling: bytes

    @property
    def is_usual(self) -> bool:
        """Of a kind, and grey or with colour of a resolution, that all decoders take."""
        kinds, luma = (BASELINE, EXTENDED, PROGRESSIVE), b"\x11\x21\x12\x22\x41"
        colour = len(self.sampling) == 3 and self.sampling[0] in luma and self.sampling[1:] == b"\x11\x11"
        return self.kind in kinds and (len(self.sampling) == 1 or colour)


def read_frame(data: bytes) -> Frame:
    """Zeros where there is none."""
    at = 2
    while data[at : at + 1] == b"\xff" and at + 10 <= len(data):  # a segment: ff, its kind, two of length, content
        kind = data[at + 1]
        if kind < 0xC0 or 0xD0 <= kind <= 0xD9 or kind == 0xFF:  # no segment: decoders pass over it
            break
        if kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):  # tables and a reserved kind
            height, width = (int.from_bytes(data[i : i + 2], "big") for i in (at + 5, at + 7))
            return Frame(kind, height, width, data[at + 11 : at + 10 + 3 * data[at + 9] : 3])
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return Frame(0, 0, 0, b"")


def scans(data: bytes, frame: Frame) -> int:
    """1 of a baseline JPEG: a scan has bits for every block there, so only others' can be many and small. Counting
    costs 5 % of decoding."""
    return 1 if frame.kind == BASELINE else data.count(b"\xff\xda")  # inside a scan, a zero byte follows each ff
