"""Reads Caffe's binary files, .caffemodel and .binaryproto, without Caffe.

Both are protocol buffers; these are the few fields needed, by number, from Caffe's src/caffe/proto/caffe.proto:
NetParameter: layer 100, and in files of before 2014 layers 2. LayerParameter: name 1, blobs 7; V1LayerParameter: name
4, blobs 6. BlobProto: data 5 (packed float), double_data 8, shape 7, and of before shapes num, channels, height, width
1 to 4. BlobShape: dim 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet_fast.errors import InputError

Array = NDArray[np.float32]
_NEW, _OLD = (100, 1, 7), (2, 4, 6)
"""Numbers of a layer in the net, of its name and of its blobs in it."""


def read_layers(path: Path) -> dict[str, list[Array]]:
    """The blobs of each layer by its name, in the file's order: weights, then biases; none for a ReLU, say.

    Raises InputError when the file is no caffemodel or not whole.
    """
    layers: dict[str, list[Array]] = {}
    try:
        for number, content in _fields(memoryview(path.read_bytes())):
            for layer, name, blobs in (_NEW, _OLD):
                if number == layer and isinstance(content, memoryview):
                    inside = list(_fields(content))
                    (title,) = (bytes(value).decode() for key, value in inside if key == name and _is_bytes(value))
                    layers[title] = [_blob(value) for key, value in inside if key == blobs and _is_bytes(value)]
    except (ValueError, IndexError, OverflowError) as error:
        raise InputError(f"{path} cannot be read as a caffemodel ({error}). Copy it again.") from error
    if not layers:
        raise InputError(f"{path} holds no layers: it is no caffemodel.")
    return layers


def read_mean(path: Path) -> list[float]:
    """RGB mean of a mean image (.binaryproto), whose maps are BGR, 0-255. Raises InputError when it is none."""
    try:
        image = _blob(memoryview(path.read_bytes()))
        blue, green, red = image.reshape(-1, *image.shape[-3:])[0].mean((1, 2), dtype=np.float64)
    except (ValueError, IndexError, OverflowError, OSError) as error:
        raise InputError(f"{path} cannot be read as a mean image ({error}). --mean takes a .binaryproto.") from error
    return [float(red), float(green), float(blue)]


def _is_bytes(value: int | memoryview) -> bool:
    return isinstance(value, memoryview)


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and content of each field of a message. Raises ValueError or IndexError when it is not one."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield tag >> 3, value
            continue
        if kind not in (1, 2, 5):
            raise ValueError(f"unknown wire type {kind}")
        length = {1: 8, 5: 4}.get(kind, 0)
        if kind == 2:
            length, at = _varint(data, at)
        if at + length > len(data):
            raise ValueError("it ends too early")
        yield tag >> 3, data[at : at + length]
        at += length


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """Seven bits a byte, the lowest first; the value and the place after it."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def _blob(data: int | memoryview) -> Array:
    if not isinstance(data, memoryview):
        raise ValueError("a number where an array is due")
    legacy, shape, values = {}, [], np.zeros(0, np.float32)
    for number, content in _fields(data):
        if isinstance(content, int):
            legacy[number] = content
        elif number == 5:
            values = np.frombuffer(content, "<f4")
        elif number == 8:
            with np.errstate(over="ignore"):
                values = np.frombuffer(content, "<f8").astype(np.float32)
        elif number == 7:
            shape = _dimensions(content)
    return values.reshape(shape or [legacy.get(number, 1) for number in (1, 2, 3, 4)])


def _dimensions(data: memoryview) -> list[int]:
    """`repeated int64 dim`, packed or one a field."""
    found: list[int] = []
    for number, content in _fields(data):
        if number != 1:
            continue
        if isinstance(content, int):
            found.append(content)
            continue
        at = 0
        while at < len(content):
            value, at = _varint(content, at)
            found.append(value)
    return found
