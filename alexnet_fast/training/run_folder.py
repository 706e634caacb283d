"""A run folder: its settings, and the lock of the one trainer that may work in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from alexnet_fast.config import MAY_DIFFER, TrainConfig, config_from, crops_of
from alexnet_fast.distributed.topology import Topology, from_first
from alexnet_fast.environment import environment
from alexnet_fast.errors import InputError
from alexnet_fast.files import Taken, locked, write_json
from alexnet_fast.recipes import make_config
from alexnet_fast.shards.format import Manifest
from alexnet_fast.text import now


def default_folder(recipe: str) -> Path:
    """Returns runs/RECIPE-DATE-TIME."""
    return Path("runs") / f"{recipe}-{datetime.now():%Y%m%d-%H%M%S}"


def settings(folder: Path, given: dict[str, Any], resume: bool) -> tuple[TrainConfig, bool]:
    """Returns the run's settings, and whether it is a new one. Raises InputError.

    A new run's are made of those `given`, by name. A resumed run's are those in its config.json, of which only `epochs`
    is changed after the first checkpoint; of those `given`, only those in MAY_DIFFER may differ.
    """
    path = folder / "config.json"
    if not (resume and path.exists()):
        if resume and not given.keys() - set(MAY_DIFFER):  # most likely a mistyped name
            raise InputError(
                f"{folder} holds no run to resume. To begin one there that --resume finds later, give its settings "
                "too (--recipe fast, say)."
            )
        _check_free(folder)
        return make_config(**{"recipe": "paper", **given}), True
    try:
        values = json.loads(path.read_bytes())
    except ValueError:
        values = None
    config = config_from(values, path)
    named = {name: crops_of(value) if name == "crops" else value for name, value in given.items()}
    changed = {name: value for name, value in named.items() if getattr(config, name) != value}
    if fixed := sorted(changed.keys() - set(MAY_DIFFER)):
        own = ", ".join(f"{name} {getattr(config, name)}" for name in fixed)
        raise InputError(
            f"{folder} was begun with {own}, and --resume keeps the run's own settings: leave out "
            f"{', '.join(fixed)}, or choose another --run. Only {', '.join(MAY_DIFFER)} may differ (shards: where the "
            "same set lies)."
        )
    return replace(config, **changed), False


def create(folder: Path, config: TrainConfig, manifest: Manifest) -> None:
    """Makes the folder of a new run on the shard set of `manifest`. Raises InputError when it already holds a run or
    cannot be made."""
    _check_free(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made ({error.strerror}). Choose another --run.") from error
    images = {f"{split}_images": manifest.images(split) for split in ("train", "val")}
    begin = {"began": now(), **images, "classes": len(manifest.classes)}
    write_json(folder / "environment.json", {**begin, **environment()})
    write_settings(folder, config)


def write_settings(folder: Path, config: TrainConfig) -> None:
    """Writes config.json."""
    write_json(folder / "config.json", config.as_dict())


def write_epochs(folder: Path, epochs: int) -> None:
    """Changes the number of epochs in config.json, and nothing else there."""
    path = folder / "config.json"
    values = json.loads(path.read_bytes())
    if values.get("epochs") != epochs:
        write_json(path, {**values, "epochs": epochs})


def _check_free(folder: Path) -> None:
    if (folder / "config.json").exists():
        raise InputError(f"{folder} already holds a run. Add --resume to resume it, or choose another --run.")


@contextmanager
def only_trainer(folder: Path, topology: Topology) -> Iterator[None]:
    """Holds the run's lock. Raises InputError, in every process, while another trainer has it."""
    lock = folder / ".lock"

    def take() -> None:
        try:
            stack.enter_context(locked(lock))
        except Taken as other:
            raise InputError(
                f"{folder} is being trained already, by {other}. Stop that one first, or choose another --run. "
                f"If that machine is gone for good, delete {lock}."
            ) from other

    with ExitStack() as stack:
        from_first(take, topology)
        yield
