"""All that changes while training; its way into a checkpoint and back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from alexnet_fast.errors import InputError
from alexnet_fast.model.alexnet import AlexNet


@dataclass
class State:
    """Of a network split over processes, this one's part."""

    model: AlexNet
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    epoch: int = 0
    step: int = 0
    """Steps done in this epoch. All of them: its evaluation is still to come."""
    top1s: list[float] = field(default_factory=list)
    """Validation top-1 after each epoch so far, per cent."""
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    """Loss, correct images and images since the last log line, over all processes; as of the last save."""


def snapshot(state: State) -> dict[str, Any]:
    """All of a whole network's state."""
    return {
        "model": state.model.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "scaler": state.scaler.state_dict(),
        "epoch": state.epoch,
        "step": state.step,
        "top1s": state.top1s,
        "sums": state.sums,
    }


def restore(state: State, saved: dict[str, Any], path: Path) -> None:
    """Raises InputError when `saved`, of the file `path`, is a network without the rest."""
    if missing := snapshot(state).keys() - saved.keys():
        raise InputError(
            f"{path} holds a network but not all of a training's state (no {', '.join(sorted(missing))}), so it cannot "
            f"be gone on with. Begin another run with its weights: --set init={path}"
        )
    state.model.load_state_dict(saved["model"])
    state.optimizer.load_state_dict(saved["optimizer"])
    state.scaler.load_state_dict(saved["scaler"])
    state.epoch, state.step, state.top1s, state.sums = (saved[key] for key in ("epoch", "step", "top1s", "sums"))
