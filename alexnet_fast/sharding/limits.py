"""Reads files of a source: regular files alone, and no more bytes than a limit, whatever lies there."""

from __future__ import annotations

import errno
import io
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Condition

from alexnet_fast.memory import give_back_memory

MOST_IMAGE_BYTES = 256 << 20
"""Of one image's file. ImageNet's largest has 15 MB; what is much larger is another file that lies there by mistake,
or one with holes, and would fill the memory of every worker. An uncompressed photograph of 89 megapixels still fits."""
MOST_TEXT_BYTES = 64 << 20
"""Of a list of classes or labels. The largest there is, words.txt of all 82,115 synsets, has 3 MB; a text becomes
many small objects, which take several times its bytes."""
MOST_DECODED_BYTES = 5 << 28
"""That the images take which a process decodes at a time, from file to RGB: with the program itself 1.5 GiB."""
_PIECE = 64 << 10
_LARGE = 64 << 20
"""Bytes of an image for which freed memory first goes back to the system."""
_room = Condition()
_free = MOST_DECODED_BYTES


class UnfitFileError(OSError):
    """This file alone cannot be read: it is larger than the limit, or no regular file."""


def open_regular(path: Path, most: int | None = None) -> int:
    """Returns a descriptor to read the file from, for the caller to close.

    Raises UnfitFileError when it is no regular file, which might keep a reader waiting for ever, or has more than
    `most` bytes; other OSErrors as os.open does, and for a folder.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags | os.O_NONBLOCK)  # or opening a pipe would wait for its other end
    except BlockingIOError:  # a regular file that a file server has lent out (leases, fcntl(2)): it will be given back
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENODEV) and not stat.S_ISREG(os.stat(path).st_mode):
            raise _irregular(path) from error
        raise
    try:
        found = os.fstat(descriptor)
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(found.st_mode):
            raise _irregular(path)
        if most is not None:
            check_size(found.st_size, most, path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def check_size(size: int, most: int, path: Path | str) -> None:
    """Raises UnfitFileError, before anything is read, when `size` bytes are more than `most`."""
    if size > most:
        raise UnfitFileError(errno.EFBIG, f"{size:,} bytes, more than the limit of {most:,}", str(path))


def read_open(file: io.FileIO, most: int, path: Path) -> bytes:
    """Returns all bytes of an unbuffered file.

    Raises UnfitFileError when they are more than `most`, also where the file grows meanwhile or its size was unknown.
    """
    size = os.fstat(file.fileno()).st_size
    check_size(size, most, path)
    pieces, left = [], most + 1
    while left and (piece := file.read(min(left, max(size + 1, _PIECE)))):
        pieces.append(piece)
        left -= len(piece)
    if not left:
        raise UnfitFileError(errno.EFBIG, f"more bytes than the limit of {most:,}", str(path))
    return b"".join(pieces)


def read_file(path: Path, most: int) -> bytes:
    """Returns all bytes of a regular file. Raises OSError as `open_regular` and `read_open` do."""
    with open(open_regular(path, most), "rb", buffering=0) as file:
        return read_open(file, most, path)


def read_text(path: Path) -> str:
    """Returns the text of a list of classes or labels, in UTF-8. Raises OSError, and UnicodeDecodeError."""
    return read_file(path, MOST_TEXT_BYTES).decode()


def check_bytes(needed: float) -> None:
    """Raises ValueError where decoding an image needs more than MOST_DECODED_BYTES: a small file can claim any size."""
    if needed > MOST_DECODED_BYTES:
        raise ValueError(
            f"it takes {needed:,.0f} bytes of memory to decode, more than the limit of {MOST_DECODED_BYTES:,}"
        )


@contextmanager
def memory_for(needed: float) -> Iterator[None]:
    """Waits until the images that other threads decode leave `needed` bytes of MOST_DECODED_BYTES.

    Raises ValueError where they are more than all of them.
    """
    global _free
    check_bytes(needed)
    taken = math.ceil(needed)
    if needed >= _LARGE:
        give_back_memory()  # what earlier images left in pieces would not do for this one, and would stay beside it
    with _room:
        _room.wait_for(lambda: taken <= _free)
        _free -= taken
    try:
        yield
    finally:
        with _room:
            _free += taken
            _room.notify_all()


def _irregular(path: Path) -> UnfitFileError:
    return UnfitFileError(errno.EINVAL, "not a regular file: a pipe, a socket or a device", str(path))
