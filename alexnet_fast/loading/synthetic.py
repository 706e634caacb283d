"""Batches without a shard set, for measuring steps alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from alexnet_fast.config import TrainConfig
from alexnet_fast.loading.batch import Batch
from alexnet_fast.loading.plan import Rows


def synthetic(config: TrainConfig, classes: int, dtype: torch.dtype, device: torch.device) -> Iterator[Batch]:
    """The same batch without end: noise that looks like pixels minus their mean, in memory of the device."""
    shape = (config.batch, 3, config.crop, config.crop)
    images = torch.empty(shape, dtype=dtype, device=device, memory_format=torch.channels_last).normal_(0, 60)
    labels = torch.randint(classes, (config.batch,), device=device)
    n = config.batch
    rows = Rows(0, 0, np.arange(n), np.zeros((n, 4), np.uint16), np.zeros(n, bool), np.zeros((n, 3), np.float32))
    while True:
        yield Batch(images, labels, rows)
