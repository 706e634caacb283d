"""The tars of a split in a folder, memory-mapped: pages come from the disk when they are touched."""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alexnet_fast.errors import InputError, descriptor_error
from alexnet_fast.shards.format import Tar

READ_TIMEOUT = 5.0
"""Seconds after which `missing` takes a file for one that cannot be read."""
WILL_NEED = 3
"""madvise's MADV_WILLNEED, of Linux and macOS."""
PIECE = 128 << 10
"""Bytes of a request: of a longer one Linux reads only as much as it reads ahead on that disk."""
_LIBC = ctypes.CDLL(None)


class ByteRanges(NamedTuple):
    """Parts of tars: place of the tar in the manifest's list, first byte and number of bytes of each."""

    shards: list[int]
    offsets: list[int]
    sizes: list[int]


class LocalTars:
    """The tars of a split, all mapped at opening. `cache.RemoteTars` has the same methods. Safe to share between
    threads: no call depends on earlier ones."""

    def __init__(self, folder: Path, tars: list[Tar]) -> None:
        self._paths = [folder / tar.file for tar in tars]
        self._mapped = [map_tar(path, tar.bytes) for path, tar in zip(self._paths, tars, strict=True)]

    def read(self, ranges: ByteRanges) -> list[NDArray[np.uint8]]:
        """Views of those bytes; of a remote set, waits for tars that are still to be fetched."""
        tars = self._mapped
        return [tars[shard][offset : offset + size] for shard, offset, size in zip(*ranges, strict=True)]

    def lease(self, shards: Sequence[int]) -> ExitStack:
        """Announces tars that will be read next, in this order: a remote set fetches them ahead, and keeps them until
        the lease is closed. Reading needs no lease."""
        return ExitStack()

    def prefetch(self, ranges: ByteRanges) -> None:
        """Has the system read those bytes, where they are on a disk; waits only while the disk's queue is full."""
        for view in self.read(ranges):
            prefetch(view)

    def check_room(self) -> None:
        """Raises InputError when they cannot all be mapped at once."""

    def missing(self, ranges: ByteRanges) -> str:
        """The path or URL of the first of those that cannot be read just now; empty when all can."""
        reading = ""

        def read() -> None:  # in a thread, which a disk or server that does not answer holds up
            nonlocal reading
            for shard, offset, size in zip(*ranges, strict=True):
                reading = str(self._paths[shard])
                try:
                    with self._paths[shard].open("rb") as file:
                        os.pread(file.fileno(), size, offset)
                except OSError:  # whoever needs its bytes says why
                    return
            reading = ""

        thread = Thread(target=read, daemon=True)
        thread.start()
        thread.join(READ_TIMEOUT)
        return reading


def map_tar(path: Path, expected_bytes: int) -> NDArray[np.uint8]:
    """All of a tar, memory-mapped. Raises InputError when it cannot be opened or has another size."""
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
        copy = InputError(f"{path} cannot be opened ({error.strerror}). Copy it again.")
        raise descriptor_error(error) or copy from error
    return np.frombuffer(mapped, dtype=np.uint8)


def prefetch(mapped: NDArray[np.uint8]) -> None:
    """Has the system read part of a mapped file; waits only while the disk's queue is full."""
    address = mapped.ctypes.data
    end = address + len(mapped)
    for start in range(address - address % mmap.PAGESIZE, end, PIECE):
        _LIBC.madvise(ctypes.c_void_p(start), ctypes.c_size_t(min(PIECE, end - start)), WILL_NEED)


def allow_open_files(more: int) -> None:
    """Raises this process' limit of open files, as far as it may: a mapped tar or index keeps its file open."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if now != resource.RLIM_INFINITY:
        wanted = now + more if most == resource.RLIM_INFINITY else min(now + more, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
