"""The DALI graph: (bytes, crop) -> uint8 pixels on the device. The only file that imports DALI."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from numpy.typing import NDArray
from nvidia.dali import Pipeline, fn, pipeline_def, types

Feed = tuple[list[NDArray[Any]], NDArray[Any], NDArray[Any]]
"""Stored images, and the crops' vertical and horizontal positions from 0 to 1: what `source` returns a batch."""


def build(
    source: Callable[[int], Feed],
    *,
    encoding: str,
    crop: int,
    max_batch: int,
    threads: int,
    gpu: int | None,
    prefetch: int,
) -> Pipeline:
    """A built pipeline that yields one (n, crop, crop, 3) uint8 batch for each call of `source`.

    `gpu`: the device that decodes, None for the CPU. `prefetch`: batches prepared ahead. `source` raises
    StopIteration at the end; what it returns must stay alive for `prefetch` + 1 further calls, as DALI reads it
    without a copy.
    """

    @pipeline_def(batch_size=max_batch, num_threads=threads, device_id=gpu, prefetch_queue_depth=prefetch)
    def graph() -> Any:
        stored, y, x = fn.external_source(
            source,
            num_outputs=3,
            no_copy=True,
            dtype=[types.UINT8, types.FLOAT, types.FLOAT],
            ndim=[1 if encoding == "jpeg" else 3, 0, 0],
            layout=["" if encoding == "jpeg" else "HWC", "", ""],
        )
        position = {"crop": (crop, crop), "crop_pos_y": y, "crop_pos_x": x}
        if encoding == "jpeg":  # decodes no more than the crop needs
            device = "cpu" if gpu is None else "mixed"
            return fn.decoders.image_crop(stored, device=device, adjust_orientation=False, **position)
        cropped = fn.crop(stored, **position)
        return cropped if gpu is None else cropped.gpu()

    pipeline = graph()
    pipeline.build()
    return pipeline


def next_batch(pipeline: Pipeline) -> torch.Tensor:
    """The next (n, crop, crop, 3) uint8 batch, shared with DALI, not copied. Raises StopIteration at the end."""
    # On the stream that will use them: their memory is then not reused before it has.
    stream = None if pipeline.device_id is None else torch.cuda.current_stream(pipeline.device_id)
    (images,) = pipeline.run(stream)
    return torch.from_dlpack(images.as_tensor())
