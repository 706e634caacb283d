"""Reads the struct array of a MATLAB file, version 5, as the development kits' meta.mat is one.

From MathWorks' "MAT-File Format": a header of 128 bytes, then elements of a type, a length and content, each filled up
to 8 bytes; type 15 is zlib around another one. SciPy reads these files too, but ends by SIGSEGV on damaged ones.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

MOST_BYTES = 64 << 20
"""That a compressed element may unpack to."""
_NUMBERS = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 9: "d", 12: "q", 13: "Q"}
_TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16"}
"""By type: how numbers and characters are stored."""
_COMPRESSED, _MATRIX = 15, 14
_STRUCT, _CHAR, _FIRST_NUMBER = 2, 4, 6
"""Classes of a matrix."""

Value = str | float | None
"""Text, the only number of a matrix, or None: something else, or nothing."""


def read_structs(data: bytes, name: str) -> list[dict[str, Value]]:
    """The structs of the array `name`, in stored order. Raises ValueError when the file is damaged or has none."""
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None:
        raise ValueError("it is no MATLAB file of version 5")
    try:
        for kind, content in _elements(data[128:], order):
            if kind == _COMPRESSED:
                ((kind, content),) = _elements(_unpacked(content), order)
            if kind == _MATRIX:
                array, title, parts = _matrix(content, order)
                if array == _STRUCT and title == name:
                    return list(_structs(parts, order))
    except (struct.error, IndexError, KeyError, zlib.error) as error:
        raise ValueError(f"it is damaged: {error}") from error
    raise ValueError(f"it has no structs {name}")


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Type and content of each."""
    at = 0
    while at < len(data):
        kind, size = struct.unpack_from(order + "II", data, at)
        start, filled = at + 8, -size % 8 * (kind != _COMPRESSED)
        if kind >> 16:  # up to four bytes of content, in place of the length
            start, size, filled, kind = at + 4, kind >> 16, 4 - (kind >> 16), kind & 0xFFFF
        if filled < 0 or start + size > len(data):
            raise ValueError("it ends too early")
        yield kind, data[start : start + size]
        at = start + size + filled


def _unpacked(data: bytes) -> bytes:
    stream = zlib.decompressobj()
    unpacked = stream.decompress(data, MOST_BYTES)
    if not stream.eof:
        raise ValueError(f"it is truncated, or unpacks to more than {MOST_BYTES:,} bytes")
    return unpacked


def _matrix(content: bytes, order: str) -> tuple[int, str, list[tuple[int, bytes]]]:
    """Its class, its name and the elements that follow."""
    (_, flags), _, (_, name), *parts = _elements(content, order)
    return struct.unpack_from(order + "I", flags)[0] & 0xFF, name.decode("latin-1"), parts


def _structs(parts: list[tuple[int, bytes]], order: str) -> Iterator[dict[str, Value]]:
    """From the length of a field's name, all names, and the values of one struct after another."""
    (length,), names = struct.unpack_from(order + "i", parts[0][1]), parts[1][1]
    if length < 1:
        raise ValueError("its fields have no names")
    fields = [names[at : at + length].partition(b"\0")[0].decode("latin-1") for at in range(0, len(names), length)]
    values = [_value(content, order) for _, content in parts[2:]]
    if not fields or len(values) % len(fields):
        raise ValueError("a struct lacks a field")
    for at in range(0, len(values), len(fields)):
        yield dict(zip(fields, values[at : at + len(fields)], strict=True))


def _value(content: bytes, order: str) -> Value:
    if not content:
        return None
    array, _, parts = _matrix(content, order)
    if array == _CHAR and parts:
        kind, stored = parts[0]
        encoding = _TEXTS[kind]
        return stored.decode(encoding + {"<": "-le", ">": "-be"}[order] * (encoding == "utf-16"))
    if array >= _FIRST_NUMBER and parts:
        kind, stored = parts[0]
        number = struct.Struct(order + _NUMBERS[kind])
        return float(number.unpack(stored)[0]) if len(stored) == number.size else None
    return None
