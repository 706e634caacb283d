"""Where a run is, and all that changes while it trains; its way into a checkpoint and back."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from alexnet_fast import random
from alexnet_fast.config import TrainConfig
from alexnet_fast.errors import InputError
from alexnet_fast.model.alexnet import AlexNet, build
from alexnet_fast.training.optim import make_optimizer


@dataclass(frozen=True)
class Position:
    """`step` steps of epoch `epoch` are done, both counted from 0. After the last of them comes the evaluation, which
    ends the epoch."""

    epoch: int
    step: int
    steps_per_epoch: int

    @property
    def steps_done(self) -> int:
        """Of the whole run."""
        return self.epoch * self.steps_per_epoch + self.step

    @property
    def is_epoch_end(self) -> bool:
        return self.step == self.steps_per_epoch

    def is_log_due(self, log_every: int) -> bool:
        """Every so many steps of the run, and at each epoch's end."""
        return self.steps_done % log_every == 0 or self.is_epoch_end

    def is_save_due(self, save_every: int) -> bool:
        """Every so many steps of the run (0: none), and at each epoch's end."""
        return self.is_epoch_end or (save_every > 0 and self.steps_done % save_every == 0)

    def next_step(self) -> Position:
        return replace(self, step=self.step + 1)

    def next_epoch(self) -> Position:
        return replace(self, epoch=self.epoch + 1, step=0)


@dataclass
class State:
    """Of a network split over processes, this process' part."""

    model: AlexNet
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    position: Position = field(default_factory=lambda: Position(0, 0, 1))
    top1s: list[float] = field(default_factory=list)
    """Validation top-1 after each epoch so far, per cent."""
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    """Loss, correct images and images since the last log line, over all processes; as of the last save."""


def initial_state(config: TrainConfig, num_classes: int, device: torch.device, steps_per_epoch: int = 1) -> State:
    """Returns the state before the first step, its weights drawn from the seed. `config`: from `settings.resolve`."""
    torch.manual_seed(random.weights_seed(config.seed))
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    model = build(num_classes, config).on(device)
    scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
    return State(model, make_optimizer(model, config), scaler, Position(0, 0, steps_per_epoch))


def snapshot(state: State) -> dict[str, Any]:
    """Returns what a checkpoint holds of a whole network's state."""
    return {
        "model": state.model.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "scaler": state.scaler.state_dict(),
        "epoch": state.position.epoch,
        "step": state.position.step,
        "top1s": state.top1s,
        "sums": state.sums,
    }


def restore(state: State, saved: dict[str, Any], path: Path) -> None:
    """Copies the checkpoint `saved`, read from `path`, into `state`. Raises InputError when it holds only a network."""
    if missing := snapshot(state).keys() - saved.keys():
        raise InputError(
            f"{path} holds a network but not all of a training's state (no {', '.join(sorted(missing))}), so it cannot "
            f"be resumed. Begin another run with its weights: --set init={path}"
        )
    state.model.load_state_dict(saved["model"])
    state.optimizer.load_state_dict(saved["optimizer"])
    state.scaler.load_state_dict(saved["scaler"])
    state.position = replace(state.position, epoch=saved["epoch"], step=saved["step"])
    state.top1s, state.sums = saved["top1s"], saved["sums"]
