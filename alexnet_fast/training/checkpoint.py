"""Checkpoints: written whole or not at all, checked and read without running code from the file."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path
from typing import IO, Any, cast

import torch

from alexnet_fast.config import TrainConfig, config_from
from alexnet_fast.errors import InputError
from alexnet_fast.files import written
from alexnet_fast.model.alexnet import AlexNet, build

VERSION = 3
"""Of the layout: what is under which key."""


class CorruptError(InputError):
    """A checkpoint's bytes are not those that were written."""


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes a checkpoint, whole or not at all. Raises OSError, naming the size, when it cannot be written."""
    with written(path) as temporary, temporary.open("wb") as file:
        sink = _Sink(file)
        torch.save({"alexnet_fast": VERSION, **state}, cast(IO[bytes], sink))
        if sink.error:
            reason = f"{sink.error.strerror} (the file takes {sink.size / 1e6:,.1f} MB)"
            raise OSError(sink.error.errno, reason) from sink.error


class _Sink(io.RawIOBase):
    """Passes on what torch writes and keeps the first error, in whose place torch would raise one of its own."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.size = file, 0
        self.error: OSError | None = None

    def write(self, data: Any, /) -> int:
        self.size += len(data)
        try:
            if self.error is None:
                self._file.write(data)
        except OSError as error:
            self.error = error
        return len(data)


def load(path: Path) -> dict[str, Any]:
    """Returns a checkpoint's content, every byte compared with its checksum (torch does not). Raises InputError when
    `path` is missing or no checkpoint of this version; CorruptError when it is corrupt."""
    if not path.is_file():
        raise InputError(f"{path} does not exist. Name a run folder, or a checkpoint (last.pt or best.pt) in it.")
    try:
        with zipfile.ZipFile(path) as archive:
            if (member := archive.testzip()) is not None:
                raise zipfile.BadZipFile(member)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CorruptError(f"{path} cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # zipfile and torch raise many kinds on a corrupt file
        raise CorruptError(
            f"{path} cannot be read as a checkpoint: it is corrupt or another program's. Take another, or train in "
            "another --run; alexnet-fast import reads other programs' weights."
        ) from error
    if not isinstance(state, dict) or "alexnet_fast" not in state:
        raise InputError(
            f"{path} is another program's. Where it holds AlexNet's weights, make a checkpoint of it with: "
            f"alexnet-fast import {path} net.pt"
        )
    if state["alexnet_fast"] != VERSION:
        raise InputError(
            f"{path} is a checkpoint of version {state['alexnet_fast']}; this alexnet-fast reads version {VERSION}."
        )
    if "config" in state:
        config_from(state["config"], path)
    return state


def kept(run: Path) -> dict[int, Path]:
    """Returns the earlier checkpoints beside last.pt, by the run's step."""
    matches = [(re.fullmatch(r"step-(\d+)\.pt", path.name), path) for path in run.iterdir()]
    return {int(match[1]): path for match, path in matches if match}


def newest(run: Path) -> tuple[Path, dict[str, Any]] | None:
    """Returns path and content of last.pt; where it is corrupt or missing, of the newest intact one kept; None without
    any. Raises CorruptError when all are corrupt, InputError when one is of another version."""
    corrupt = None
    for path in [run / "last.pt", *(path for _, path in sorted(kept(run).items(), reverse=True))]:
        try:
            if path.exists():
                return path, load(path)
        except CorruptError as error:
            corrupt = corrupt or error
    if corrupt:
        raise corrupt
    return None


def find(path: Path) -> Path:
    """Returns the best checkpoint of a run folder, or its last where there is none; a file's path as it is."""
    if not path.is_dir():
        return path
    return path / "best.pt" if (path / "best.pt").is_file() else path / "last.pt"


def start_from(model: AlexNet, path: Path, classes: list[dict[str, str]], *, conv_only: bool = False) -> list[str]:
    """Copies a checkpoint's parameters into those of `model` that have their name and shape; returns the layers whose
    weights these are, by the paper's names. The last layer is taken only where the classes are the same. `conv_only`:
    convolutions alone, as the original's nets for the whole releases began. Raises InputError when nothing fits."""
    saved = load(find(path))
    layers = model.layers()
    last = list(layers.values())[-1]
    head = {name for name, p in model.named_parameters() if p is last.weight or p is last.bias}
    ours = model.state_dict()
    taken = {
        name: values
        for name, values in saved["model"].items()
        if (name.startswith("features.") or not conv_only)
        and name in ours
        and ours[name].shape == values.shape
        and (name not in head or saved["classes"] == classes)
    }
    if not taken:
        raise InputError(f"{path} holds no layer of this network: it is {saved['config']['arch']}.")
    model.load_state_dict(taken, strict=False)
    begun = [parameter for name, parameter in model.named_parameters() if name in taken]
    return [name for name, layer in layers.items() if any(layer.weight is parameter for parameter in begun)]


def build_model(state: dict[str, Any]) -> AlexNet:
    """Returns the network of a checkpoint, its weights loaded, in evaluation mode."""
    model = build(len(state["classes"]), TrainConfig(**state["config"]))
    model.load_state_dict(state["model"])
    return model.eval()
