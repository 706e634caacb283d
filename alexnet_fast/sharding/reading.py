"""Reads the bytes of listed images, wherever they are; prefetches them a little ahead of their use."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from alexnet_fast.sharding.limits import MOST_IMAGE_BYTES, UnfitFileError, check_size, open_regular, read_open
from alexnet_fast.sharding.listing import TABLE_ROW, WHOLE_FILE, Image
from alexnet_fast.shards.local import allow_open_files

AHEAD = 16
"""Images that are prefetched, so that a disk or a network has several requests to work on. Threads that
read ahead cost a quarter of the conversion's time."""


def read_images(root: Path, images: list[Image]) -> Iterator[tuple[Image, bytes | OSError]]:
    """Yields each image with its bytes, in the order given.

    With the error in their place where that one file cannot be read, is larger than MOST_IMAGE_BYTES or not regular.

    Raises OSError when the disk or the network fails.
    """
    if images and images[0].size <= TABLE_ROW:
        yield from _read_tables(root, images)
        return
    archives: dict[str, int] = {}
    prefetched: deque[tuple[Image, int | OSError]] = deque()  # with the descriptor to read it from
    try:
        names = {image.file for image in images if image.size != WHOLE_FILE}
        allow_open_files(len(names))
        for name in names:
            archives[name] = open_regular(root / name)
        for image in images:
            prefetched.append((image, _prefetch(root, image, archives)))
            if len(prefetched) > AHEAD:
                yield _read(root, *prefetched.popleft())
        while prefetched:
            yield _read(root, *prefetched.popleft())
    finally:
        for descriptor in archives.values():
            os.close(descriptor)
        for image, opened in prefetched:
            if image.size == WHOLE_FILE and isinstance(opened, int):
                os.close(opened)


def _prefetch(root: Path, image: Image, archives: dict[str, int]) -> int | OSError:
    """Opens the image's file and starts to prefetch it; returns the descriptor, or the error of this file."""
    try:
        whole = image.size == WHOLE_FILE
        if not whole:
            check_size(image.size, MOST_IMAGE_BYTES, image.path)
        opened = open_regular(root / image.path, MOST_IMAGE_BYTES) if whole else archives[image.file]
        if hasattr(os, "posix_fadvise"):
            start, length = (0, 0) if whole else (image.offset, image.size)
            os.posix_fadvise(opened, start, length, os.POSIX_FADV_WILLNEED)
        return opened
    except OSError as error:
        return _of_one_file(root, error)


def _read(root: Path, image: Image, opened: int | OSError) -> tuple[Image, bytes | OSError]:
    if isinstance(opened, OSError):
        return image, opened
    try:
        if image.size == WHOLE_FILE:
            with open(opened, "rb", buffering=0) as file:
                return image, read_open(file, MOST_IMAGE_BYTES, root / image.path)
        data = os.pread(opened, image.size, image.offset)
        return image, data if len(data) == image.size else OSError(f"{image.file} ends before this image does")
    except OSError as error:
        return image, _of_one_file(root, error)


def _of_one_file(root: Path, error: OSError) -> OSError:
    """Returns the error for a single file that cannot be read; raises that of a disk that went away."""
    of_one = FileNotFoundError | PermissionError | IsADirectoryError | UnfitFileError
    if not isinstance(error, of_one) or not root.exists():
        raise error
    return OSError(error.strerror)


def _read_tables(root: Path, images: list[Image]) -> Iterator[tuple[Image, bytes | OSError]]:
    from alexnet_fast.sharding.sources import parquet

    for (file, size), group in groupby(images, key=lambda image: (image.file, image.size)):
        rows = list(group)
        found = parquet.read_rows(root / file, [image.offset for image in rows], TABLE_ROW - size)
        yield from zip(rows, found, strict=True)
