"""DALI's decoder alone on a set's JPEGs: what the points 4 and 6 vary."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet_fast.shards.reader import ShardSet
from tools.gpu_points.setup import Setup

PREFETCH = 2


def stored_batches(setup: Setup, batch: int) -> Iterator[list[NDArray[np.uint8]]]:
    """The JPEGs of a training, in random order without end."""
    split = ShardSet(setup.shards("jpeg")).split("train")
    random = np.random.default_rng(0)
    while True:
        yield split.read(random.integers(0, len(split), batch))


def decoding(setup: Setup, batch: int, **decoder: Any) -> Any:
    """A built pipeline of one output, the central crops (batch, crop, crop, 3) on the setup's device. `decoder`:
    settings of `fn.decoders.image_crop`."""
    dali = import_module("nvidia.dali")
    source = stored_batches(setup, batch)
    gpu = 0 if setup.on_gpu else None

    @dali.pipeline_def(  # type: ignore[untyped-decorator]
        batch_size=batch, num_threads=setup.threads, device_id=gpu, prefetch_queue_depth=PREFETCH
    )
    def graph() -> Any:
        stored = dali.fn.external_source(source=source, batch=True, no_copy=True, dtype=dali.types.UINT8, ndim=1)
        where = "mixed" if setup.on_gpu else "cpu"
        return dali.fn.decoders.image_crop(
            stored, device=where, adjust_orientation=False, crop=(setup.crop, setup.crop), **decoder
        )

    pipeline = graph()
    pipeline.build()
    return pipeline
