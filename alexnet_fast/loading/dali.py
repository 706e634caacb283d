"""JPEGs: (bytes, crop) -> uint8 pixels on the device, by DALI. The only file that imports it."""

from __future__ import annotations

import ctypes
from collections import deque
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from nvidia.dali import fn, pipeline_def, types

from alexnet_fast.loading.handover import on_copy_stream

PIXEL_BYTES = 16
"""What nvJPEG's buffers hold ready for a pixel: of a 256 px image 1 MiB a thread, in place of DALI's 16 and 2 x 8."""


class JpegDecoder:
    """Decodes JPEGs on `threads` of the CPU, or with `gpu` given on that GPU; no more of each than its crop needs.

    `side`: of the stored squares, pixels; None where images keep their shapes. `resized`: whether any box may have
    another size than the crop. `max_batch`: the most images one `submit` takes. Up to `prefetch` batches may be
    submitted before the first is taken by `result`; they come in order.
    """

    def __init__(
        self,
        *,
        side: int | None,
        crop: int,
        resized: bool,
        max_batch: int,
        threads: int,
        gpu: int | None,
        prefetch: int,
    ) -> None:
        # nvJPEG's memory a thread, and the hardware decoder's: by default both are for images of any size.
        memory: dict[str, int] = {}
        if side is not None:
            memory |= dict.fromkeys(("device_memory_padding", "host_memory_padding"), PIXEL_BYTES * side**2)
            memory |= dict.fromkeys(("preallocate_width_hint", "preallocate_height_hint"), side)

        @pipeline_def(batch_size=max_batch, num_threads=threads, device_id=gpu, prefetch_queue_depth=prefetch)
        def graph() -> Any:
            stored = fn.external_source(name="stored", dtype=types.UINT8, ndim=1, no_copy=True)
            y, x = (fn.external_source(name=name, dtype=types.FLOAT, ndim=0, no_copy=True) for name in "yx")
            device = "cpu" if gpu is None else "mixed"
            if resized:
                return _resized(stored, device, crop, memory)
            return fn.decoders.image_crop(
                stored, device=device, adjust_orientation=False, crop=(crop, crop), crop_pos_y=y, crop_pos_x=x, **memory
            )

        self._crop, self._resized = crop, resized
        self._gpu = None if gpu is None else torch.device("cuda", gpu)
        self._pipeline = graph()
        self._pipeline.build()
        self._surplus = prefetch - 1
        """DALI's first run wants all of its queue filled."""
        self._alive: deque[object] = deque(maxlen=prefetch + 2)
        """DALI reads what it was fed without a copy."""
        self._under_way = 0
        self._copies: deque[tuple[Any, object]] = deque()
        """Batches that are copied from DALI's memory, and the event of each copy's end. DALI uses the memory again
        when they are dropped, without waiting for our streams."""

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
        self._under_way += 1
        for _ in range(1 + self._surplus):
            for name, values in inputs.items():
                self._pipeline.feed_input(name, values)
        self._pipeline.schedule_run()
        for _ in range(self._surplus):
            self._pipeline.outputs()
        self._surplus = 0

    def result(self) -> torch.Tensor:
        """The oldest batch submitted, (n, crop, crop, 3) uint8: on a CPU shared with DALI, on a GPU a copy. The host
        does not wait for the GPU. Raises RuntimeError when one of its images does not decode."""
        self._under_way -= 1
        if self._gpu:
            return on_copy_stream(self._copied, self._gpu)
        (images,) = self._pipeline.outputs()
        return torch.from_dlpack(images.as_tensor())

    def _copied(self, stream: torch.cuda.Stream) -> torch.Tensor:
        """The oldest batch, copied on `stream` once it is decoded."""
        # Not by from_dlpack: to free DALI's memory, that waits for the whole GPU. And not on the stream of the steps:
        # the copy would come behind those queued there, and DALI have to wait for its memory until then.
        (images,) = self._pipeline.outputs(stream)
        decoded = images.as_tensor()
        pixels = torch.empty(decoded.shape(), dtype=torch.uint8, device=self._gpu)
        to, on = ctypes.c_void_p(pixels.data_ptr()), ctypes.c_void_p(stream.cuda_stream)
        decoded.copy_to_external(to, on, non_blocking=True)
        while self._copies and self._copies[0][0].query():
            self._copies.popleft()
        self._copies.append((stream.record_event(), images))
        return pixels

    def finish(self) -> None:
        """Waits for the copies of the batches taken so far, after which DALI's memory can be freed or used again."""
        if self._copies:
            self._copies[-1][0].synchronize()
        self._copies.clear()
        if not self._under_way:
            self._alive.clear()


def _resized(stored: Any, device: str, crop: int, memory: dict[str, int]) -> Any:
    """Boxes of the JPEGs `stored`, as shares of their heights and widths, resized to the crop. `memory`: arguments of
    the decoder."""
    corner, shape = (
        fn.external_source(name=name, dtype=types.FLOAT, ndim=1, no_copy=True) for name in ("corner", "shape")
    )
    images = fn.decoders.image_slice(
        stored, corner, shape, device=device, axes=(0, 1), adjust_orientation=False, **memory
    )
    return fn.resize(images, size=(crop, crop), interp_type=types.INTERP_LINEAR, antialias=True)
