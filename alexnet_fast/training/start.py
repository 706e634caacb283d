"""From settings and a run folder to a `Trainer`, which trains in it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from alexnet_fast.config import TrainConfig, config_from
from alexnet_fast.console import Progress, Quiet
from alexnet_fast.distributed import devices
from alexnet_fast.distributed.topology import Topology, from_first
from alexnet_fast.errors import InputError
from alexnet_fast.loading.loader import check_dali, needs_dali
from alexnet_fast.loading.plan import steps_per_epoch
from alexnet_fast.recipes import fitted
from alexnet_fast.shards.reader import ShardSet
from alexnet_fast.training import checkpoint, run_folder
from alexnet_fast.training.batches import training_loader
from alexnet_fast.training.finite import FiniteCheck
from alexnet_fast.training.log import Log, check_tensorboard
from alexnet_fast.training.metrics import StepMeter
from alexnet_fast.training.placement import check_processes, place
from alexnet_fast.training.saver import Saver
from alexnet_fast.training.scales import LayerScales
from alexnet_fast.training.settings import as_before, resolve, uses_cuda_graphs
from alexnet_fast.training.state import State, initial_state, restore
from alexnet_fast.training.trainer import Result, Trainer


def train(topology: Topology, folder: Path, given: dict[str, Any], resume: bool) -> Result:
    """Trains in the run folder `folder` with the settings `given`, by name; every process calls it.

    `resume`: from the newest checkpoint of the run that is there; where there is none, begins it. The same command
    does both, so that a launcher may start it again and again. Raises InputError, also for settings that are not the
    run's and while another process trains in it; TrainingError as `Trainer.run` does.
    """
    config, is_new = from_first(lambda: _read_settings(folder, given, resume, topology), topology)
    if is_new:
        shards = ShardSet.of(config)
        config = from_first(lambda: _begin(folder, config, given, shards, topology), topology)
        with run_folder.only_trainer(folder, topology):
            return make_trainer(topology, config, shards, folder, None).run()
    with run_folder.only_trainer(folder, topology):
        newest = from_first(lambda: checkpoint.newest(folder), topology)
        if newest:
            path, saved = newest
            config = as_before(config, config_from(saved["config"], path), path)
        return make_trainer(topology, config, ShardSet.of(config), folder, newest).run()


def make_trainer(
    topology: Topology,
    config: TrainConfig,
    shards: ShardSet,
    folder: Path,
    newest: tuple[Path, dict[str, Any]] | None,
) -> Trainer:
    """Returns a trainer that begins, or resumes from `newest`: a checkpoint's path and content.

    Raises InputError for settings, a shard set or a checkpoint that do not fit each other.
    """
    config = resolve(config, shards.manifest.size, topology)
    split, val = shards.split("train"), shards.split("val") if "val" in shards else None
    classes = shards.manifest.classes
    if config.order == "random":
        split.hold_all()
    _check_schedule(config, val is not None)
    state = initial_state(config, len(classes), topology.device, steps_per_epoch(len(split), config.batch))
    origin = _load(state, config, shards, newest)
    if config.compile:
        state.model.compile(mode="reduce-overhead" if uses_cuda_graphs(config, topology) else None)
    placed = place(state.model, state.optimizer, topology, config)
    state.model, state.optimizer = placed.model, placed.optimizer
    _check_batch(config, len(split) // state.position.steps_per_epoch, placed.data.world)

    done = state.position.steps_done
    progress = (Progress if topology.first else Quiet)("training", config.epochs * state.position.steps_per_epoch, done)
    if origin:
        progress.print(origin)
    log = Log(folder, state.position.steps_per_epoch, config.tensorboard, progress.print)
    if topology.first:
        log.cut(state.position)
    saver = Saver(
        folder=folder,
        keep=config.keep,
        first=topology.first,
        about=_about(config, shards),
        print_line=progress.print,
        previous=done if newest and newest[0].name == "last.pt" else None,
        best_top1=max(state.top1s, default=-1.0),
    )
    loader = training_loader(split, config, state.position, placed.data, topology.device)
    is_local = config.parallel == "data" or topology.world == 1
    return Trainer(
        topology=topology,
        config=config,
        folder=folder,
        num_images=len(split),
        num_classes=len(classes),
        val=val,
        state=state,
        placed=placed,
        loader=loader,
        finite=FiniteCheck(state.model, state.optimizer, config, is_local=is_local),
        scales=LayerScales(state.model, state.optimizer, topology, config),
        meter=StepMeter(topology, loader, state.sums),
        log=log,
        saver=saver,
        progress=progress,
    )


def _read_settings(folder: Path, given: dict[str, Any], resume: bool, topology: Topology) -> tuple[TrainConfig, bool]:
    """Returns the settings and whether the run is new. Raises InputError for what this machine lacks."""
    config, is_new = run_folder.settings(folder, given, resume)
    check_processes(config, topology.world)
    check_tensorboard(config.tensorboard)
    if config.compile:
        devices.check_compiler(topology.device)
    return config, is_new


def _begin(
    folder: Path, config: TrainConfig, given: dict[str, Any], shards: ShardSet, topology: Topology
) -> TrainConfig:
    """Makes the folder of a new run; returns its settings, the batch fitted to the shard set."""
    if shards.manifest.encoding != "raw" and needs_dali(topology.device):
        check_dali()
    config, change = fitted(config, given, shards.manifest.images("train"))
    run_folder.create(folder, config)
    if change:
        print(change, file=sys.stderr)
    return config


def _load(state: State, config: TrainConfig, shards: ShardSet, newest: tuple[Path, dict[str, Any]] | None) -> str:
    """Loads the checkpoint to resume from, or the weights to begin with; returns a line that says which, or nothing."""
    classes = shards.manifest.classes
    if newest:
        path, saved = newest
        if saved.get("tars") != _tars(shards):
            raise InputError(f"{config.shards} is not the shard set that {path} was trained on. Give that as --shards.")
        restore(state, saved, path)
        epoch, done = state.position.epoch, state.position.steps_done
        why = "" if path.name == "last.pt" else f"; {path.with_name('last.pt')} is damaged or gone"
        where = f"epoch {epoch + 1}, {done:,} steps done" if epoch < config.epochs else "all epochs are done"
        return f"resuming from {path}: {where}{why}"
    if config.init:
        only_convolutions = config.init_layers == "conv"
        taken = checkpoint.start_from(state.model, Path(config.init), classes, conv_only=only_convolutions)
        new = [name for name in state.model.layers() if name not in taken]
        return f"begins with {', '.join(taken)} of {config.init}; newly drawn: {', '.join(new) or 'none'}"
    return ""


def _check_schedule(config: TrainConfig, has_val: bool) -> None:
    """Raises InputError where the schedule needs validation images and there are none."""
    if config.schedule == "plateau" and not has_val:
        raise InputError(
            f"{config.shards} has no val split to tell when the top-1 stalls. "
            "Shard with --val-fraction 0.1, or give --set schedule=steps."
        )


def _check_batch(config: TrainConfig, smallest_step: int, num_parts: int) -> None:
    """Raises InputError where a step of so many images cannot be shared by so many processes, in the parts of
    `accumulate`."""
    if smallest_step < num_parts * config.accumulate:
        parts = f" of {config.accumulate} parts" * (config.accumulate > 1)
        raise InputError(
            f"batch {config.batch} is too small for {num_parts} process{'es' * (num_parts > 1)}{parts}. "
            "Give a larger --batch."
        )


def _about(config: TrainConfig, shards: ShardSet) -> dict[str, Any]:
    """Returns what each checkpoint holds beside the state."""
    manifest = shards.manifest
    return {
        "config": config.as_dict(),
        "classes": manifest.classes,
        "pixels": vars(manifest.pixels),
        "size": manifest.size,
        "rule": {"orient": manifest.orient, "background": manifest.background},
        "tars": _tars(shards),
    }


def _tars(shards: ShardSet) -> list[str]:
    """Returns the sha256 of each training tar, by which a shard set is known wherever it lies."""
    return [tar.sha256 for tar in shards.manifest.splits["train"]]
