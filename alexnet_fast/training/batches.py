"""The batches of a run."""

from __future__ import annotations

import torch

from alexnet_fast.config import TrainConfig
from alexnet_fast.distributed.topology import Topology
from alexnet_fast.loading.loader import Loader
from alexnet_fast.loading.plan import Window, training_rows
from alexnet_fast.shards.reader import Split
from alexnet_fast.training.position import Position
from alexnet_fast.training.step import DTYPES


def training_loader(
    split: Split, config: TrainConfig, position: Position, data: Topology, device: torch.device
) -> Loader:
    """Returns the loader of one process' part of every step from `position` on.

    `data`: which part, of how many; `device`: where the batches are made.
    """
    rows = training_rows(
        len(split),
        config.batch,
        config.seed,
        margin=split.size - config.crop,
        colour_std=config.colour_std,
        colour_epochs=config.colour_off * config.epochs,
        crops=config.crops,
        window=Window(split.index["shard"], config.window) if config.order == "window" else None,
        rank=data.rank,
        world=data.world,
        epochs=range(position.epoch, config.epochs),
        first_step=position.step,
    )
    return Loader(
        split,
        split.pixels,
        rows,
        max_batch=-(-config.batch // data.world),
        crop=config.crop,
        device=device,
        dtype=DTYPES[config.precision],
        threads=config.threads,
        whole_tars=config.order == "window",
    )
