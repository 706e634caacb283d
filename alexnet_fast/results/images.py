"""Image files of any format -> batches, prepared as sharding prepares them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from alexnet_fast.environment import cores
from alexnet_fast.errors import InputError
from alexnet_fast.results.networks import Network
from alexnet_fast.sharding.limits import MOST_IMAGE_BYTES, read_file
from alexnet_fast.sharding.resize import RGB, to_square

BATCH = 64
SUFFIXES = {".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".jp2", ".avif"}
"""Of the files that are taken from a folder; a file that is named itself may be called anything."""


def find_images(paths: list[Path]) -> list[Path]:
    """The files, and of folders all images below them, sorted. Raises InputError when a path is not there or a folder
    holds no image."""
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise InputError(f"{path} does not exist. Name images, or folders of images.")
        found = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.suffix.lower() in SUFFIXES)
        if not found:
            raise InputError(f"{path} holds no image: none of its files ends in {', '.join(sorted(SUFFIXES))}.")
        files += found
    return files


@dataclass
class ImageFiles:
    """Iterates over (files, images): up to BATCH files and their pixels (n, 3, S, S), RGB 0-255 minus the network's
    mean, in channels-last memory on its device; S is the network's `stored` side.

    Files that cannot be read are left out and listed in `unread`, with the reason.
    """

    network: Network
    files: list[Path]
    unread: list[tuple[Path, str]] = field(default_factory=list)

    def __iter__(self) -> Iterator[tuple[list[Path], Tensor]]:
        mean = torch.tensor(self.network.pixels.mean, device=self.network.device)
        coming = iter(self.files)
        with ThreadPoolExecutor(cores()) as threads:
            while chunk := list(islice(coming, BATCH)):
                read = list(zip(chunk, threads.map(self._read, chunk), strict=True))
                self.unread += [(path, square) for path, square in read if isinstance(square, str)]
                squares = {path: square for path, square in read if not isinstance(square, str)}
                if squares:
                    stacked = torch.from_numpy(np.stack(list(squares.values()))).to(self.network.device)
                    yield list(squares), (stacked - mean).permute(0, 3, 1, 2)

    def _read(self, path: Path) -> RGB | str:
        try:
            return to_square(read_file(path, MOST_IMAGE_BYTES), self.network.stored)
        except OSError as error:
            return error.strerror or str(error)
        except ValueError as error:
            return str(error)
