"""JPEGs: (bytes, crop) -> uint8 pixels on the device, by DALI, and how much of them the host's threads should decode
beside it. The only file that imports DALI."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from nvidia.dali import fn, pipeline_def, types

from alexnet_fast.loading.cpu import CropReader
from alexnet_fast.loading.handover import copied

PARTS = 8
"""The host's share is rounded to so many parts."""


class JpegDecoder:
    """Decodes JPEGs on `threads` of the CPU, or with `gpu` given on that GPU; no more of each than its crop needs.

    `resized`: whether any box may have another size than the crop. `max_batch`: the most images one `submit` takes. Up
    to `prefetch` batches may be submitted before the first is taken by `result`; they come in order.
    """

    def __init__(
        self, *, crop: int, resized: bool, max_batch: int, threads: int, gpu: int | None, prefetch: int
    ) -> None:
        @pipeline_def(batch_size=max_batch, num_threads=threads, device_id=gpu, prefetch_queue_depth=prefetch)
        def graph() -> Any:
            stored = fn.external_source(name="stored", dtype=types.UINT8, ndim=1, no_copy=True)
            y, x = (fn.external_source(name=name, dtype=types.FLOAT, ndim=0, no_copy=True) for name in "yx")
            device = "cpu" if gpu is None else "mixed"
            if resized:
                return _resized(stored, device, crop)
            return fn.decoders.image_crop(
                stored, device=device, adjust_orientation=False, crop=(crop, crop), crop_pos_y=y, crop_pos_x=x
            )

        self._crop, self._resized = crop, resized
        self._pipeline = graph()
        self._pipeline.build()
        self._surplus = prefetch - 1
        """DALI's first run wants all of its queue filled."""
        self._alive: deque[object] = deque(maxlen=prefetch + 2)
        """DALI reads what it was fed without a copy."""

    def submit(self, stored: list[NDArray[np.uint8]], sizes: NDArray[np.integer], boxes: NDArray[np.uint16]) -> None:
        """Begins a batch. `stored`: n JPEGs; `sizes` (n, 2): their heights and widths; `boxes` (n, 4): of these, what
        each crop is made of, as in `Rows.crop`; a JPEG that is smaller has its box in proportion."""
        inputs: dict[str, Any] = {"stored": stored}
        if self._resized:
            inputs |= {"corner": (boxes[:, :2] / sizes).astype(np.float32)}
            inputs |= {"shape": (boxes[:, 2:] / sizes).astype(np.float32)}
        else:
            place = boxes[:, :2] / np.maximum(sizes - self._crop, 1)
            inputs |= dict(zip("yx", np.ascontiguousarray(place.T, np.float32), strict=True))
        self._alive.append(inputs)
        for _ in range(1 + self._surplus):
            for name, values in inputs.items():
                self._pipeline.feed_input(name, values)
        self._pipeline.schedule_run()
        for _ in range(self._surplus):
            self._pipeline.outputs()
        self._surplus = 0

    def result(self) -> torch.Tensor:
        """The oldest batch submitted, (n, crop, crop, 3) uint8; shared with DALI, not copied. Raises RuntimeError when
        one of its images does not decode."""
        # On the stream that will use them: their memory is then not reused before it has.
        gpu = self._pipeline.device_id
        (images,) = self._pipeline.outputs(None if gpu is None else torch.cuda.current_stream(gpu))
        return torch.from_dlpack(images.as_tensor())

    def host_share(
        self,
        jpegs: list[NDArray[np.uint8]],
        sizes: NDArray[np.integer],
        boxes: NDArray[np.uint16],
        reader: CropReader,
        device: torch.device,
    ) -> float:
        """The share of the JPEGs, 0 to 1, with which `reader` on the host and this decoder end together, by the time
        that each takes for all of `jpegs`. Raises RuntimeError or ValueError when one does not decode."""
        n = len(jpegs)
        if not n:
            return 0.0

        def finish() -> None:
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        def on_device() -> None:
            self.submit(jpegs, sizes, boxes)
            self.result()
            finish()

        def on_host() -> None:
            cut = reader.submit(jpegs, sizes, boxes, n, torch.zeros(n, 3), torch.uint8)
            copied(cut.result(), device)
            finish()

        device_seconds, host_seconds = seconds_of_second(on_device), seconds_of_second(on_host)
        return round(PARTS * device_seconds / (device_seconds + host_seconds)) / PARTS


def _resized(stored: Any, device: str, crop: int) -> Any:
    """Boxes of the JPEGs `stored`, as shares of their heights and widths, resized to the crop."""
    corner, shape = (
        fn.external_source(name=name, dtype=types.FLOAT, ndim=1, no_copy=True) for name in ("corner", "shape")
    )
    images = fn.decoders.image_slice(stored, corner, shape, device=device, axes=(0, 1), adjust_orientation=False)
    return fn.resize(images, size=(crop, crop), interp_type=types.INTERP_LINEAR, antialias=True)


def seconds_of_second(work: Callable[[], None]) -> float:
    """Seconds that `work` takes the second time: the first prepares what is used again."""
    work()
    started = perf_counter()
    work()
    return perf_counter() - started
