"""A run folder: begun with its settings or opened to go on, and trained in by one trainer at a time."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from alexnet_fast.config import FREE, TrainConfig, config_from
from alexnet_fast.distributed import devices
from alexnet_fast.distributed.topology import Topology, from_first
from alexnet_fast.environment import environment
from alexnet_fast.errors import InputError
from alexnet_fast.files import Taken, locked
from alexnet_fast.loading.loader import check_dali, needs_dali
from alexnet_fast.recipes import fitted, make_config
from alexnet_fast.shards.reader import ShardSet
from alexnet_fast.training import loop, metrics
from alexnet_fast.training.log import check_tensorboard
from alexnet_fast.training.placement import check_processes


def default_folder(config: TrainConfig) -> Path:
    return Path("runs") / f"{config.recipe}-{datetime.now():%Y%m%d-%H%M%S}"


def train_in(topology: Topology, run: Path, given: dict[str, Any], resume: bool) -> loop.Result:
    """`loop.train` of the settings `given`, by name, in the folder `run`.

    `resume` goes on with the run that is there, or begins it: the same command does both, so that a launcher may
    start it again and again. Raises InputError, also for settings that are not the run's and while another trains in
    it; TrainingError as `loop.train`.
    """
    config, goes_on = from_first(lambda: _open(run, given, resume, topology), topology)
    with _only_trainer(run, topology):
        return loop.train(topology, config, run, goes_on)


def create(run: Path, config: TrainConfig) -> None:
    """Raises InputError when the folder already holds a run or cannot be made."""
    if (run / "config.json").exists():
        raise InputError(f"{run} already holds a run. Add --resume to go on with it, or choose another --run.")
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{run} cannot be made ({error.strerror}). Choose another --run.") from error
    metrics.write_json(run / "environment.json", environment())
    metrics.write_json(run / "config.json", config.as_dict())


def reopen(run: Path, given: dict[str, Any]) -> TrainConfig:
    """The settings that the run was begun with; of those `given`, only FREE ones may differ (InputError)."""
    path = run / "config.json"
    try:
        values = json.loads(path.read_bytes())
    except ValueError:
        values = None
    config = config_from(values, path)
    changed = {name: value for name, value in given.items() if getattr(config, name) != value}
    if fixed := sorted(changed.keys() - set(FREE)):
        own = ", ".join(f"{name} {getattr(config, name)}" for name in fixed)
        raise InputError(
            f"{run} was begun with {own}, and --resume goes on with the run's own settings: leave out "
            f"{', '.join(fixed)}, or choose another --run. Only {', '.join(FREE)} may differ."
        )
    return replace(config, **changed)


def _open(run: Path, given: dict[str, Any], resume: bool, topology: Topology) -> tuple[TrainConfig, bool]:
    """The configuration, and whether it goes on."""
    if resume and (run / "config.json").exists():
        config = reopen(run, given)
        _check(config, topology)
        return config, True
    if resume and not given.keys() - set(FREE):  # most likely a mistyped name
        raise InputError(
            f"{run} holds no run to resume. To begin one there that --resume goes on with later, give its settings "
            "too (--recipe paper, say)."
        )
    config = make_config(**{"recipe": "paper", **given})
    _check(config, topology)
    manifest = ShardSet.of(config).manifest
    if manifest.encoding != "raw" and needs_dali(topology.device):
        check_dali()
    config, change = fitted(config, given, manifest.images("train"))
    create(run, config)
    if change:
        print(change, file=sys.stderr)
    return config, False


def _check(config: TrainConfig, topology: Topology) -> None:
    """Raises InputError for what this machine lacks."""
    check_processes(config, topology.world)
    check_tensorboard(config.tensorboard)
    if config.compile:
        devices.check_compiler(topology.device)


@contextmanager
def _only_trainer(run: Path, topology: Topology) -> Iterator[None]:
    """Raises InputError, in every process, while another trainer has the run."""
    lock = run / ".lock"

    def take() -> None:
        try:
            stack.enter_context(locked(lock))
        except Taken as other:
            raise InputError(
                f"{run} is being trained already, by {other}. Stop that one first, or choose another --run. "
                f"If that machine is gone for good, delete {lock}."
            ) from other

    with ExitStack() as stack:
        from_first(take, topology)
        yield
