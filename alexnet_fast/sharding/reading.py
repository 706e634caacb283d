"""Reads the bytes of listed images, wherever they are, a little ahead of their use."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from pathlib import Path

from alexnet_fast.sharding.images import TABLE_ROW, WHOLE_FILE, Image

AHEAD = 16
"""Images asked for before they are needed, so that a disk or a network has several requests to work on."""
READERS = 4


def read_images(root: Path, images: list[Image]) -> Iterator[tuple[Image, bytes | OSError]]:
    """Each image with its bytes, in the order given; with the error where that one file cannot be read.

    Raises OSError when the disk or the network fails.
    """
    if images and images[0].size == TABLE_ROW:
        yield from _read_tables(root, images)
        return
    archives: dict[str, int] = {}
    try:
        for name in {image.file for image in images if image.size != WHOLE_FILE}:
            archives[name] = os.open(root / name, os.O_RDONLY | os.O_CLOEXEC)

        def read(image: Image) -> bytes | OSError:
            try:
                if image.size == WHOLE_FILE:
                    return (root / image.path).read_bytes()
                data = os.pread(archives[image.file], image.size, image.offset)
                return data if len(data) == image.size else OSError(f"{image.file} ends before this image does")
            except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
                if not root.exists():  # a disk that went away, not a file
                    raise
                return OSError(error.strerror)

        with ThreadPoolExecutor(READERS) as pool:
            coming: deque[tuple[Image, Future[bytes | OSError]]] = deque()
            for image in images:
                coming.append((image, pool.submit(read, image)))
                if len(coming) > AHEAD:
                    first, future = coming.popleft()
                    yield first, future.result()
            for first, future in coming:
                yield first, future.result()
    finally:
        for descriptor in archives.values():
            os.close(descriptor)


def _read_tables(root: Path, images: list[Image]) -> Iterator[tuple[Image, bytes | OSError]]:
    from alexnet_fast.sharding.layouts import parquet

    for file, group in groupby(images, key=lambda image: image.file):
        rows = list(group)
        yield from zip(rows, parquet.read_rows(root / file, [image.offset for image in rows]), strict=True)
