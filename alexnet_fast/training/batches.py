"""The batches of a run."""

from __future__ import annotations

import torch

from alexnet_fast.config import TrainConfig
from alexnet_fast.distributed.topology import Topology
from alexnet_fast.loading.loader import Loader
from alexnet_fast.shards.reader import Split
from alexnet_fast.training.position import Position
from alexnet_fast.training.step import DTYPES


def training_loader(
    split: Split, config: TrainConfig, position: Position, data: Topology, device: torch.device
) -> Loader:
    """Returns the loader of one process' part of every step from `position` on.

    `data`: which part, of how many; `device`: where the batches are made.
    """
    return Loader.training(
        split,
        batch=config.batch,
        epoch=position.epoch,
        num_epochs=config.epochs - position.epoch,
        first_step=position.step,
        crop=config.crop,
        crops=config.crops,
        seed=config.seed,
        colour_std=config.colour_std,
        colour_epochs=config.colour_off * config.epochs,
        window=config.window if config.order == "window" else None,
        rank=data.rank,
        world_size=data.world_size,
        device=device,
        dtype=DTYPES[config.precision],
        threads=config.threads,
    )
