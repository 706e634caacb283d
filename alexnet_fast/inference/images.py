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
from alexnet_fast.inference.networks import Network
from alexnet_fast.sharding.decode import to_square
from alexnet_fast.sharding.formats import NotAnImageError
from alexnet_fast.sharding.limits import MOST_IMAGE_BYTES, read_file
from alexnet_fast.sharding.pillow import RGB

BATCH = 64


def find_files(paths: list[Path]) -> list[Path]:
    """Returns the files, and of folders all files below them, sorted. Raises InputError when a path is not there or a
    folder holds no file."""
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise InputError(f"{path} does not exist. Name images, or folders of images.")
        found = sorted(file for file in path.rglob("*") if not file.is_dir()) if path.is_dir() else [path]
        if not found:
            raise InputError(f"{path} holds no file. Name images, or folders of images.")
        files += found
    return files


@dataclass
class ImageFiles:
    """Iterates over (files, images): up to BATCH files and their pixels (n, 3, S, S), RGB 0-255 minus the network's
    mean, in channels-last memory on its device; S is the network's `stored` side.

    `paths`: images, and folders of any files. Those in folders that hold no image, by their content, are listed in
    `not_images`; images that cannot be read, and what was named itself and is none, in `unread`: with the reason.
    Raises InputError where there is no image at all.
    """

    network: Network
    paths: list[Path]
    unread: list[tuple[Path, str]] = field(default_factory=list)
    not_images: list[tuple[Path, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.files = find_files(self.paths)

    def __iter__(self) -> Iterator[tuple[list[Path], Tensor]]:
        mean = torch.tensor(self.network.pixels.mean, device=self.network.device)
        coming = iter(self.files)
        with ThreadPoolExecutor(cores()) as threads:
            while chunk := list(islice(coming, BATCH)):
                read = list(zip(chunk, threads.map(self._read, chunk), strict=True))
                for path, found in read:
                    if isinstance(found, ValueError | OSError):
                        is_image = path in self.paths or not isinstance(found, NotAnImageError)
                        (self.unread if is_image else self.not_images).append((path, _reason(found)))
                squares = {path: found for path, found in read if not isinstance(found, ValueError | OSError)}
                if squares:
                    stacked = torch.from_numpy(np.stack(list(squares.values()))).to(self.network.device)
                    yield list(squares), (stacked - mean).permute(0, 3, 1, 2)

        if len(self.not_images) == len(self.files):
            path, reason = self.not_images[0]
            raise InputError(f"none of the {len(self.files):,} files is an image; the first is {path} ({reason}).")

    def _read(self, path: Path) -> RGB | ValueError | OSError:
        try:
            return to_square(read_file(path, MOST_IMAGE_BYTES), self.network.stored, self.network.rule)
        except (ValueError, OSError) as error:
            return error


def _reason(error: ValueError | OSError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
