"""The batches of a run, whose images may grow from epoch to epoch: a loader for each side, one after another."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import torch

from alexnet_fast.config import LEAST_CROP, TrainConfig
from alexnet_fast.distributed.topology import Topology
from alexnet_fast.loading.batch import Batch
from alexnet_fast.loading.loader import Loader
from alexnet_fast.shards.reader import Split
from alexnet_fast.training.settings import augmentation
from alexnet_fast.training.state import Position
from alexnet_fast.training.step import DTYPES

GRAIN = 16
"""Sides below the last one are multiples of it, pixels: for each side a GPU's kernels are chosen anew."""


def crop_in(config: TrainConfig, epoch: int) -> int:
    """Returns the side of the network's input in an epoch, counted from 0, pixels. `config`: from `settings.resolve`.

    It grows linearly, as in FFCV's ResNet recipes: a step on smaller images takes less time.
    """
    done, until = epoch / config.epochs, config.grow_until
    if done >= until:
        return config.crop
    share = config.grow_from + (1 - config.grow_from) * done / until
    side = round(share * config.crop / GRAIN) * GRAIN
    return min(max(side, LEAST_CROP), config.crop)


class Batches:
    """Iterates, once, over the batches of every step from `position` on: of a process' share of its images, which is
    that of `data`, made on `device`. `config`: from `settings.resolve`. Raises InputError as `Loader.training`."""

    def __init__(
        self, split: Split, config: TrainConfig, position: Position, data: Topology, device: torch.device
    ) -> None:
        self._split, self._config, self._position, self._data, self._device = split, config, position, data, device
        epochs = range(position.epoch, config.epochs)
        spans = [list(span) for _, span in groupby(epochs, lambda epoch: crop_in(config, epoch))]
        self._spans = [range(span[0], span[-1] + 1) for span in spans] or [epochs]
        self._waited = 0.0
        self._corrupt: dict[int, str] = {}
        self._loader = self._make_loader(self._spans[0])

    @property
    def corrupt(self) -> dict[int, str]:
        """The names of the corrupt samples met so far, by number."""
        return {**self._corrupt, **self._loader.corrupt}

    @property
    def wait_seconds(self) -> float:
        """The time that the device has had nothing to do because no batch came, the first of each side left out."""
        return self._waited + self._loader.wait_seconds

    def waits_for(self) -> str:
        """Why no batch comes, in words: see `Loader.waits_for`."""
        return self._loader.waits_for()

    def __iter__(self) -> Iterator[Batch]:
        yield from self._loader
        for epochs in self._spans[1:]:
            self._waited, self._corrupt = self.wait_seconds, self.corrupt
            self._loader = self._make_loader(epochs)
            yield from self._loader

    def _make_loader(self, epochs: range) -> Loader:
        config, data = self._config, self._data
        return Loader.training(
            self._split,
            batch=config.batch,
            epoch=epochs.start,
            num_epochs=len(epochs),
            first_step=self._position.step if epochs.start == self._position.epoch else 0,
            crop=crop_in(config, epochs.start),
            **augmentation(config),
            seed=config.seed,
            colour_std=config.colour_std,
            colour_epochs=config.colour_off * config.epochs,
            window=config.window if config.order == "window" else None,
            rank=data.rank,
            world_size=data.world_size,
            device=self._device,
            dtype=DTYPES[config.precision],
            threads=config.threads,
        )
