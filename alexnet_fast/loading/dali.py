"""JPEGs: (bytes, crop) -> uint8 pixels on the device, by DALI. The only file that imports it."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from nvidia.dali import fn, pipeline_def, types


class JpegDecoder:
    """Decodes JPEGs on `threads` of the CPU, or with `gpu` given on that GPU; no more of each than its crop needs. What
    part of a batch a GPU's JPEG hardware takes is DALI's default (hw_decoder_load): no other was measured yet.

    `max_batch`: the most images one `submit` takes. Up to `prefetch` batches may be submitted before the first is
    taken by `result`; they come in order.
    """

    def __init__(self, *, crop: int, max_batch: int, threads: int, gpu: int | None, prefetch: int) -> None:
        @pipeline_def(batch_size=max_batch, num_threads=threads, device_id=gpu, prefetch_queue_depth=prefetch)
        def graph() -> Any:
            stored = fn.external_source(name="stored", dtype=types.UINT8, ndim=1, no_copy=True)
            y, x = (fn.external_source(name=name, dtype=types.FLOAT, ndim=0, no_copy=True) for name in "yx")
            device = "cpu" if gpu is None else "mixed"
            return fn.decoders.image_crop(
                stored, device=device, adjust_orientation=False, crop=(crop, crop), crop_pos_y=y, crop_pos_x=x
            )

        self._pipeline = graph()
        self._pipeline.build()
        self._surplus = prefetch - 1
        """DALI's first run wants all of its queue filled."""
        self._alive: deque[object] = deque(maxlen=prefetch + 2)
        """DALI reads what it was fed without a copy."""

    def submit(self, stored: list[NDArray[np.uint8]], position: NDArray[np.float32]) -> None:
        """Begins a batch. `stored`: n JPEGs; `position` (n, 2): vertical and horizontal place of the crop, 0 to 1."""
        y, x = np.ascontiguousarray(position.T)
        self._alive.append((stored, y, x))
        for _ in range(1 + self._surplus):
            for name, values in (("stored", stored), ("y", y), ("x", x)):
                self._pipeline.feed_input(name, values)
        self._pipeline.schedule_run()
        for _ in range(self._surplus):
            self._pipeline.outputs()
        self._surplus = 0

    def result(self) -> torch.Tensor:
        """The oldest batch submitted, (n, crop, crop, 3) uint8; shared with DALI, not copied.

        Raises RuntimeError when one of its images does not decode.
        """
        # On the stream that will use them: their memory is then not reused before it has.
        gpu = self._pipeline.device_id
        (images,) = self._pipeline.outputs(None if gpu is None else torch.cuda.current_stream(gpu))
        return torch.from_dlpack(images.as_tensor())
