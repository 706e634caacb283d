"""Checkpoints: written atomically, read without running code from the file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from alexnet_fast.config import TrainConfig
from alexnet_fast.errors import InputError
from alexnet_fast.model.alexnet import AlexNet, build

VERSION = 2


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes under a temporary name, flushes to disk, renames: `path` is always a whole checkpoint."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        torch.save({"alexnet_fast": VERSION, **state}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def load(path: Path) -> dict[str, Any]:
    """Raises InputError when `path` is missing, damaged, or no checkpoint of this program."""
    if not path.is_file():
        raise InputError(f"{path} does not exist. Name a run folder, or a checkpoint (last.pt or best.pt) in it.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises many kinds on a damaged file
        raise InputError(f"{path} cannot be read as a checkpoint: it is damaged or another program's.") from error
    if not isinstance(state, dict) or state.get("alexnet_fast") != VERSION:
        raise InputError(f"{path} is not a checkpoint of this version of alexnet-fast.")
    return state


def find(path: Path) -> Path:
    """A run folder stands for its best checkpoint, or its last."""
    if path.is_dir():
        return path / "best.pt" if (path / "best.pt").is_file() else path / "last.pt"
    return path


def start_from(model: AlexNet, path: Path, classes: list[dict[str, str]], *, conv_only: bool = False) -> list[str]:
    """Copies a checkpoint's parameters into those of `model` that have their name and shape; returns their names.

    The last layer is taken only where the classes are the same. `conv_only`: convolutions alone, as the original's
    nets for the whole releases began. Raises InputError when nothing fits.
    """
    saved = load(find(path))
    last = list(model.layers().values())[-1]
    head = {name for name, p in model.named_parameters() if p is last.weight or p is last.bias}
    ours = model.state_dict()
    taken = [
        name
        for name, values in saved["model"].items()
        if (name.startswith("features.") or not conv_only)
        and name in ours
        and ours[name].shape == values.shape
        and (name not in head or saved["classes"] == classes)
    ]
    if not taken:
        raise InputError(f"{path} holds no layer of this network: it is {saved['config']['arch']}.")
    model.load_state_dict({name: saved["model"][name] for name in taken}, strict=False)
    return taken


def build_model(state: dict[str, Any]) -> AlexNet:
    """The network of a checkpoint, its weights loaded, in evaluation mode."""
    config = TrainConfig(**state["config"])
    model = build(len(state["classes"]), config)
    model.load_state_dict(state["model"])
    return model.eval()
