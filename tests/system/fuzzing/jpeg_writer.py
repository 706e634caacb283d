"""Writes baseline JPEGs of given symbols and codes: the bits of a scan, and the segments before it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]
Code = tuple[Numbers, Numbers]
"""The lengths of its words, never falling, and their symbols."""
Sampling = tuple[tuple[int, int], ...]
"""Of each component its samples horizontally and vertically."""

LONGEST = 16
"""Bits of a word."""


@dataclass(frozen=True)
class Events:
    """A scan's symbols in their order: of which table (0 to 3 DC, 4 to 7 AC), the bits that follow and how many, and
    the interval between restarts."""

    table: Numbers
    symbol: Numbers
    value: Numbers
    bits: Numbers
    interval: Numbers


def words_of(code: Code) -> tuple[Numbers, Numbers]:
    """The word and its length for each of 256 symbols."""
    words, lengths = np.zeros((2, 256), np.int64)
    word = previous = 0
    for length, symbol in zip(*(column.tolist() for column in code), strict=True):
        word <<= length - previous
        words[symbol], lengths[symbol] = word, length
        word, previous = word + 1, length
    return words, lengths


def intervals(events: Events, codes: dict[int, Code]) -> Iterator[bytes]:
    """The bits of the scan, restart markers between them."""
    words, lengths = np.zeros((2, 8, 256), np.int64)
    for table, code in codes.items():
        words[table], lengths[table] = words_of(code)
    count = lengths[events.table, events.symbol] + events.bits
    bits = (words[events.table, events.symbol] << events.bits) | events.value
    starts = np.flatnonzero(np.r_[True, events.interval[1:] != events.interval[:-1]])
    for number, (start, end) in enumerate(zip(starts, [*starts[1:], len(bits)], strict=True)):
        if number:
            yield bytes([0xFF, 0xD0 + (number - 1) % 8])
        lengths_here = count[start:end]
        event = np.repeat(np.arange(start, end), lengths_here)
        place = np.arange(len(event)) - np.repeat(np.cumsum(lengths_here) - lengths_here, lengths_here)
        stream = (bits[event] >> (count[event] - 1 - place) & 1).astype(np.uint8)
        padding = np.ones(-len(stream) % 8, np.uint8)
        yield np.packbits(np.r_[stream, padding]).tobytes().replace(b"\xff", b"\xff\0")


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content


def huffman_table(table: int, code: Code) -> bytes:
    lengths, symbols = code
    counts = np.bincount(lengths, minlength=LONGEST + 1)[1:]
    return bytes([table // 4 * 16 + table % 4]) + counts.astype(np.uint8).tobytes() + symbols.astype(np.uint8).tobytes()


def restarts(interval: int) -> bytes:
    return segment(0xDD, interval.to_bytes(2, "big")) if interval else b""


def frame(sampling: Sampling, height: int, width: int) -> bytes:
    components = b"".join(bytes([i + 1, 16 * h + v, 0]) for i, (h, v) in enumerate(sampling))
    sizes = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return segment(0xC0, b"\x08" + sizes + bytes([len(sampling)]) + components)


def scan_header(slots: list[tuple[int, int]]) -> bytes:
    components = b"".join(bytes([i + 1, 16 * dc + ac]) for i, (dc, ac) in enumerate(slots))
    return segment(0xDA, bytes([len(slots)]) + components + b"\x00\x3f\x00")
