"""Files in memory as the system maps them: pages come from the disk when they are touched."""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet_fast.errors import InputError

WILL_NEED = 3
"""madvise's MADV_WILLNEED, of Linux and macOS."""
PIECE = 128 << 10
"""Bytes asked for at a time: of more Linux reads only as much as it reads ahead on that disk."""
_LIBC = ctypes.CDLL(None)


def map_tar(path: Path, expected_bytes: int) -> NDArray[np.uint8]:
    try:
        with path.open("rb") as file:
            actual_bytes = file.seek(0, 2)
            if actual_bytes != expected_bytes:
                raise InputError(
                    f"{path} has {actual_bytes:,} bytes, the manifest says {expected_bytes:,}: "
                    "the copy is not complete, or the file was changed. Copy it again."
                )
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise InputError(f"{path} cannot be opened ({error.strerror}). Copy it again.") from error
    return np.frombuffer(mapped, dtype=np.uint8)


def ask_for(mapped: NDArray[np.uint8]) -> None:
    """Has the system read part of a mapped file. Waits only where the disk's queue is full."""
    address = mapped.ctypes.data
    end = address + len(mapped)
    for start in range(address - address % mmap.PAGESIZE, end, PIECE):
        _LIBC.madvise(ctypes.c_void_p(start), ctypes.c_size_t(min(PIECE, end - start)), WILL_NEED)
