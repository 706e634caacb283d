"""The iterator: rows of the plan in, batches on the training device out."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch

from alexnet_fast.loading.memory import keep_freed_memory
from alexnet_fast.loading.plan import Rows
from alexnet_fast.shardset import Pixels, Split

PREFETCH = 2
CHUNK = 4
"""Images the CPU converts at a time: few enough to stay in its cache."""


@dataclass(frozen=True)
class Batch:
    """`images` (n, 3, crop, crop) in channels-last memory, RGB 0-255 minus the mean; `labels` (n,) int64.

    Mirrored images come last: `rows` says which sample each image is.
    """

    images: torch.Tensor
    labels: torch.Tensor
    rows: Rows


class Loader:
    """Iterates once over `rows`; stateless otherwise, so a resumed run just passes the rows still to come.

    `max_batch`: the most rows one item holds. `crop`: side of the images, pixels. `dtype`: of the images; uint8
    leaves out the mean and the colour.
    `threads`: that decode on the CPU. `wait_seconds` sums the time the consumer spent waiting in this iterator.
    """

    def __init__(
        self,
        split: Split,
        pixels: Pixels,
        rows: Iterable[Rows],
        *,
        max_batch: int,
        crop: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        threads: int = 2,
    ) -> None:
        self.wait_seconds = 0.0
        self._split = split
        self._rows = iter(rows)
        self._crop = crop
        self._device = device
        self._dtype = dtype
        self._threads = threads
        self._max_batch = max_batch
        self._mean = torch.tensor(pixels.mean, dtype=torch.float32)
        self._colour_axes = torch.tensor(pixels.deviations)[:, None] * torch.tensor(pixels.components)

    def __iter__(self) -> Iterator[Batch]:
        from alexnet_fast.loading import graph  # DALI takes a second to import

        if self._device.type == "cpu":
            keep_freed_memory()
        waiting: deque[Rows] = deque()
        alive: deque[object] = deque(maxlen=2 * PREFETCH + 2)
        margin = max(self._split.size - self._crop, 1)

        def source(_: int) -> graph.Feed:
            rows = mirrored_last(next(self._rows))
            y, x = np.ascontiguousarray(rows.crop.T.astype(np.float32) / np.float32(margin))
            feed = self._split.read(rows.samples), y, x
            waiting.append(rows)
            alive.append(feed)
            return feed

        pipeline = graph.build(
            source,
            encoding=self._split.encoding,
            crop=self._crop,
            max_batch=self._max_batch,
            threads=self._threads,
            gpu=self._device.index if self._device.type == "cuda" else None,
            prefetch=PREFETCH,
        )
        while True:
            started = perf_counter()
            try:
                pixels = graph.next_batch(pipeline)
            except StopIteration:
                return
            rows = waiting.popleft()
            offset = self._mean - torch.from_numpy(rows.colour) @ self._colour_axes
            with _one_thread():
                images = centre(pixels, int((~rows.mirror).sum()), offset, self._dtype)
            labels = torch.from_numpy(self._split.labels[rows.samples])
            batch = Batch(images, labels.to(self._device, non_blocking=True), rows)
            self.wait_seconds += perf_counter() - started
            yield batch


@contextmanager
def _one_thread() -> Iterator[None]:
    """For many short CPU operations: meeting the other threads after each costs more than it saves."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def mirrored_last(rows: Rows) -> Rows:
    """The same rows with the mirrored ones at the end, so that mirroring a batch is one flip of one slice."""
    by_mirror = np.argsort(rows.mirror, kind="stable")
    return Rows(
        rows.epoch,
        rows.step,
        rows.samples[by_mirror],
        rows.crop[by_mirror],
        rows.mirror[by_mirror],
        rows.colour[by_mirror],
    )


def centre(pixels: torch.Tensor, upright: int, offset: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """uint8 (n, h, w, 3) -> `dtype` (n, 3, h, w) in channels-last memory: pixel minus the image's RGB `offset` (n, 3).

    The first `upright` images stay, the others are mirrored, in place. uint8 stays without the subtraction.
    """
    n, height, width, _ = pixels.shape
    chunk = CHUNK if pixels.device.type == "cpu" else n
    for start in range(upright, n, chunk):
        block = pixels[start : start + chunk]
        block.copy_(block.flip(2))
    if dtype == torch.uint8:
        return pixels.permute(0, 3, 1, 2)
    # A whole image row of the offset: the subtraction then runs along contiguous memory, not along 3 channels.
    offset_rows = offset.to(pixels.device, non_blocking=True).repeat(1, width)[:, None]
    rows = pixels.view(n, height, width * 3)
    out = torch.empty(rows.shape, dtype=dtype, device=pixels.device)
    for start in range(0, n, chunk):
        part = slice(start, start + chunk)
        block = out[part] if dtype == torch.float32 else torch.empty_like(rows[part], dtype=torch.float32)
        block.copy_(rows[part]).sub_(offset_rows[part])
        if dtype != torch.float32:
            out[part] = block
    return out.view(n, height, width, 3).permute(0, 3, 1, 2)
