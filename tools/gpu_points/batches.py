"""Batches of the loader without end, for the points that need a real one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from alexnet_fast.loading.batch import Batch
from alexnet_fast.loading.loader import Loader
from alexnet_fast.shards.reader import ShardSet
from tools.gpu_points.setup import Setup

EPOCHS = 10**9


def loader(
    setup: Setup, encoding: str, batch: int, dtype: torch.dtype = torch.bfloat16, device: str | None = None
) -> Loader:
    """Of training, on `device` or the setup's; every batch is full, however few images there are."""
    split = ShardSet(setup.shards(encoding)).split("train")
    samples = np.arange(-(-100 * batch // len(split)) * len(split)) % len(split)
    where: dict[str, Any] = {"device": device or setup.device, "threads": setup.threads, "crop": setup.crop}
    return Loader.training(split, batch=batch, num_epochs=EPOCHS, samples=samples, dtype=dtype, **where)


def fix_share(loader: Loader, share: float | None) -> None:
    """Has the host decode that share of the JPEGs, where a GPU decodes beside it; None leaves it to the loader."""
    trials = loader.trials
    if trials and share is not None:
        trials.share, trials.done = share, True


def settled(loader: Loader, batches: Iterator[Batch], step: Any, limit: int = 400) -> dict[str, float]:
    """Takes steps until the loader has chosen the host's share, and returns the rates of its trials by share."""
    trials = loader.trials
    taken = 0
    while taken < 3 or (trials and not trials.done and taken < limit):
        step(next(batches))
        taken += 1
    return {str(share): value for share, value in trials.rates.items()} if trials else {}
