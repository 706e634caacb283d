"""Reads Caffe's binary files, .caffemodel and .binaryproto, without Caffe.

Both are protocol buffers; these are the few fields needed, by number, from Caffe's src/caffe/proto/caffe.proto:
NetParameter: layer 100, and in files of before 2014 layers 2. LayerParameter: name 1, blobs 7; V1LayerParameter: name
4, blobs 6. BlobProto: data 5 (packed float), double_data 8, shape 7, and of before shapes num, channels, height, width
1 to 4. BlobShape: dim 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet_fast.errors import InputError

Array = NDArray[np.float32]
LAYER_FIELDS = ((100, 1, 7), (2, 4, 6))
"""Numbers of a layer in the net, of its name and of its blobs in it; now, and before 2014."""


def read_layers(path: Path) -> dict[str, list[Array]]:
    """The blobs of each layer by its name, in the file's order: weights, then biases; none for a ReLU, say.

    Raises InputError when the file is no caffemodel or not complete.
    """
    layers: dict[str, list[Array]] = {}
    try:
        net = memoryview(path.read_bytes())
        for layer, name, blobs in LAYER_FIELDS:
            for content in _contents(net, layer):
                (title,) = _contents(content, name)
                layers[bytes(title).decode()] = [_blob(blob) for blob in _contents(content, blobs)]
    except (ValueError, TypeError, IndexError, OverflowError) as error:
        raise InputError(f"{path} cannot be read as a caffemodel ({error}). Copy it again.") from error
    if not layers:
        raise InputError(f"{path} holds no layers: it is no caffemodel.")
    return layers


def read_mean(path: Path) -> list[float]:
    """RGB mean of a mean image (.binaryproto), whose maps are BGR, 0-255. Raises InputError when it is none."""
    try:
        image = _blob(memoryview(path.read_bytes()))
        blue, green, red = image.reshape(-1, *image.shape[-3:])[0].mean((1, 2), dtype=np.float64)
    except (ValueError, TypeError, IndexError, OverflowError, OSError) as error:
        raise InputError(f"{path} cannot be read as a mean image ({error}). --mean takes a .binaryproto.") from error
    return [float(red), float(green), float(blue)]


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
        length, at = _varint(data, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
        if at + length > len(data):
            raise ValueError("it ends too early")
        yield tag >> 3, data[at : at + length]
        at += length


def _contents(data: memoryview, number: int) -> list[memoryview]:
    """Of the fields of that number that are texts, arrays or messages."""
    return [content for field, content in _fields(data) if field == number and isinstance(content, memoryview)]


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


def _blob(data: memoryview) -> Array:
    fields: dict[int, Any] = dict(_fields(data))
    with np.errstate(over="ignore"):
        values = np.frombuffer(fields[8], "<f8") if 8 in fields else np.frombuffer(fields.get(5, b""), "<f4")
        shape = _dimensions(fields.get(7, memoryview(b""))) or [fields.get(number, 1) for number in (1, 2, 3, 4)]
        return values.astype(np.float32, copy=False).reshape(shape)


def _dimensions(data: memoryview) -> list[int]:
    """`repeated int64 dim`, the only field, packed or one number a field."""
    lengths: list[int] = []
    for _, content in _fields(data):
        at = 0
        if isinstance(content, int):
            lengths.append(content)
            continue
        while at < len(content):
            length, at = _varint(content, at)
            lengths.append(length)
    return lengths
