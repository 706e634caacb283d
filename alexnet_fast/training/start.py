"""From settings and a run folder to a `Trainer`, which trains in it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from alexnet_fast.config import TrainConfig, config_from
from alexnet_fast.distributed import devices
from alexnet_fast.distributed.topology import Topology, from_first
from alexnet_fast.loading.checks import check_dali, needs_dali
from alexnet_fast.recipes import fitted
from alexnet_fast.shards.reader import ShardSet, located
from alexnet_fast.training import checkpoint, run_folder
from alexnet_fast.training.log import check_tensorboard
from alexnet_fast.training.placement import check_processes
from alexnet_fast.training.settings import as_before, check_epochs
from alexnet_fast.training.trainer import Result, Trainer


def train(topology: Topology, folder: Path, given: dict[str, Any], resume: bool) -> Result:
    """Trains in the run folder `folder` with the settings `given`, by name; every process calls it.

    `resume`: from the newest checkpoint of the run that is there; where there is none, begins it, so that a launcher
    may start the same command again and again. Raises InputError, also for settings that are not the run's and while
    another process trains in it: a new run then leaves no folder; TrainingError as `Trainer.run` does.
    """
    config, is_new = from_first(lambda: _read_settings(folder, given, resume, topology), topology)
    if is_new:
        shards = ShardSet.of(config)
        config = from_first(lambda: _fitted(config, given, shards, topology), topology)
        trainer = Trainer(topology, config, shards, folder, None)  # which checks all that a run needs
        from_first(lambda: run_folder.create(folder, config, shards.manifest), topology)
        with run_folder.only_trainer(folder, topology):
            return trainer.run()
    with run_folder.only_trainer(folder, topology):
        newest = from_first(lambda: checkpoint.newest(folder), topology)
        if newest:
            path, saved = newest
            before = config_from(saved["config"], path)
            config = as_before(config, before, path)
            check_epochs(config, before, saved.get("epoch", 0) + (saved.get("step", 0) > 0), path)
            if given.get("shards") is None:
                config = replace(config, shards=located(config.shards, saved.get("shards_path")))
        trainer = Trainer(topology, config, ShardSet.of(config), folder, newest)
        if newest:
            from_first(lambda: run_folder.write_epochs(folder, config.epochs), topology)
        else:  # nothing was trained with other settings
            from_first(lambda: run_folder.write_settings(folder, config), topology)
        return trainer.run()


def _read_settings(folder: Path, given: dict[str, Any], resume: bool, topology: Topology) -> tuple[TrainConfig, bool]:
    """Returns the settings and whether the run is new. Raises InputError for what this machine lacks."""
    config, is_new = run_folder.settings(folder, given, resume)
    check_processes(config, topology.world_size)
    check_tensorboard(config.tensorboard)
    if config.compile:
        devices.check_compiler(topology.device)
    return config, is_new


def _fitted(config: TrainConfig, given: dict[str, Any], shards: ShardSet, topology: Topology) -> TrainConfig:
    """Returns a new run's settings, the batch fitted to the shard set. Raises InputError where it cannot be decoded."""
    if shards.manifest.encoding != "raw" and needs_dali(topology.device):
        check_dali()
    config, change = fitted(config, given, shards.manifest.images("train"))
    if change:
        print(change, file=sys.stderr)
    return config
