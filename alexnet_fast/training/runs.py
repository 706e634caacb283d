"""A run folder: made once, with its configuration and environment; or opened to go on."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from alexnet_fast.config import TrainConfig
from alexnet_fast.errors import InputError
from alexnet_fast.training import checkpoint, metrics


def default_folder(config: TrainConfig) -> Path:
    return Path("runs") / f"{config.recipe}-{datetime.now():%Y%m%d-%H%M%S}"


def create(run: Path, config: TrainConfig) -> None:
    """Raises InputError when the folder already holds a run or cannot be made."""
    if (run / "config.json").exists():
        raise InputError(f"{run} already holds a run. Add --resume to go on with it, or choose another --run.")
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{run} cannot be made ({error.strerror}). Choose another --run.") from error
    metrics.write_json(run / "config.json", config.as_dict())
    metrics.write_json(run / "environment.json", metrics.environment())


def reopen(run: Path, threads: int | None = None, **machine: Any) -> TrainConfig:
    """The configuration of the run's last checkpoint; threads, the cache, `parallel` and what is logged may
    differ, nothing that changes the result may."""
    if not (run / "last.pt").is_file():
        raise InputError(f"{run} has no last.pt to resume from. Start it without --resume.")
    config = TrainConfig(**checkpoint.load(run / "last.pt")["config"])
    return replace(config, threads=threads or 0, **machine)
