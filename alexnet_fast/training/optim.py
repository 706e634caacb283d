"""Optimizers and learning rates: pure functions of the model, the configuration and the progress."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from alexnet_fast.config import EPOCH_SHARES, TrainConfig
from alexnet_fast.model.alexnet import AlexNet
from alexnet_fast.training.optimizers import Lars, Muon

STEPS_FACTOR, STEPS_PHASES = 250.0, 4
"""cuda-convnet2's schedule of weights: /250 in all over four equal phases (each step /6.3) ..."""
BIAS_FACTOR, BIAS_PHASES = 10.0, 2
"""... and of biases: /10 once, half-way."""
PLATEAU_FACTOR, PLATEAU_DROPS = 10.0, 3
"""The paper's: /10, three times before the end (section 5)."""
POLY_POWER = 2
CONV1_SLOW = 0.1
"""The original run's late phase: conv1 at 1e-5 while the others learn at 1e-4."""


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """SGD, LARS or Muon. Weights are decayed, but not kernels by Muon; biases and batch norm are not; conv1's have
    groups of their own, and those that read dropped out units (see `AlexNet.kept_shares`).

    torch multiplies the velocity by the learning rate, the paper the gradient; the two differ only for the few
    steps after the rate changes.
    """
    conv1 = next((set(m.parameters()) for m in model.modules() if isinstance(m, nn.Conv2d)), set())
    shares = model.kept_shares() if isinstance(model, AlexNet) else {}
    members: dict[tuple[bool, bool, float, str], list[nn.Parameter]] = {}
    for p in model.parameters():
        kind = "biases" if p.ndim <= 1 else "kernels" if p.ndim == 4 and config.optimizer == "muon" else "weights"
        members.setdefault((p in conv1, p.ndim <= 1, shares.get(p, 1.0), kind), []).append(p)
    groups: list[dict[str, Any]] = []
    # in this order: a checkpoint has the optimizer's state by number
    for (first, _, kept, kind), parameters in sorted(members.items(), key=lambda item: item[0]):
        decay = config.weight_decay / kept**2 if kind == "weights" else 0.0
        rate = 1.0 if config.optimizer == "lars" else kept**2  # of lars the rate follows from the norms
        if kind == "kernels":
            rate = config.muon_rate / config.lr if config.lr else 0.0
        groups.append({"params": parameters, "weight_decay": decay, "kind": kind, "conv1": first, "rate": rate})
    if config.optimizer == "lars":
        return Lars(groups, config.momentum, config.trust)
    if config.optimizer == "muon":
        dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        return Muon(groups, config.momentum, nesterov=config.nesterov, dtype=dtype)
    # With a loss scaler a skipped first step leaves the fused kernel's momentum uninitialised (torch 2.13).
    return torch.optim.SGD(
        groups, config.lr, config.momentum, nesterov=config.nesterov, fused=config.precision != "fp16"
    )


def set_learning_rates(
    optimizer: torch.optim.Optimizer, config: TrainConfig, progress: float, top1s: Sequence[float] = ()
) -> None:
    """Sets each group's rate. `progress`: epochs done, fractional; `top1s`: validation top-1 after each of them.

    On a GPU it is one that float32 holds, as the optimizer reads it there when a step is replayed: so results are the
    same with and without.
    """
    done = progress / config.epochs
    conv1 = 0.0 if done >= config.conv1_freeze else CONV1_SLOW if done >= config.conv1_slow else 1.0
    for group in optimizer.param_groups:
        rate = learning_rate(config, progress, top1s, biases=group["kind"] == "biases")
        rate = rate * group["rate"] * (conv1 if group["conv1"] else 1.0)
        group["lr"] = float(np.float32(rate)) if group["params"][0].device.type == "cuda" else rate


def learning_rate(config: TrainConfig, progress: float, top1s: Sequence[float] = (), *, biases: bool = False) -> float:
    """Returns the rate after `progress` epochs; `top1s`: validation top-1 of each, for the schedule plateau alone.

    A new schedule has its name in config.CHOICES, a branch here, and an entry in `epochs_alike` where its rate
    does not depend on the number of epochs from the first on.
    """
    peak = config.lr * (config.bias_lr_factor if biases else 1.0)
    if progress < config.warmup_epochs:
        return peak * progress / config.warmup_epochs
    past = min((progress - config.warmup_epochs) / max(config.epochs - config.warmup_epochs, 1e-9), 1.0)
    if config.schedule == "cosine":
        return peak * 0.5 * (1 + math.cos(math.pi * past))
    if config.schedule == "poly":
        return float(peak * (1 - past) ** POLY_POWER)
    if config.schedule == "plateau":
        return float(peak / PLATEAU_FACTOR ** drops(top1s, config.patience))
    assert config.schedule == "steps", config.schedule  # config.CHOICES has the names
    factor, phases = (BIAS_FACTOR, BIAS_PHASES) if biases else (STEPS_FACTOR, STEPS_PHASES)
    phase = min(int(progress / config.epochs * phases), phases - 1)
    return float(peak * factor ** (-phase / (phases - 1)))


def epochs_alike(config: TrainConfig, epochs: int) -> dict[str, float]:
    """Returns, for each setting whose effect depends on the number of epochs, how many of the first epochs are the same
    in a run of `config.epochs` and in one of `epochs`."""
    shorter = min(config.epochs, epochs)
    rate = {"plateau": float(shorter), "steps": shorter / STEPS_PHASES}.get(config.schedule, 0.0)
    shares = {name: getattr(config, name) for name in EPOCH_SHARES}
    later = {name: share * shorter for name, share in shares.items() if share > 0}  # 0: from the first on, however many
    if config.grow_from < 1:
        later["grow_from"] = 0.0
    return {"schedule": max(rate, min(config.warmup_epochs, shorter)), **later}


def drops(top1s: Sequence[float], patience: int) -> int:
    """How often the rate has been divided: whenever `patience` epochs have brought no better top-1; three at most."""
    best, stalled, count = -math.inf, 0, 0
    for top1 in top1s:
        stalled = 0 if top1 > best else stalled + 1
        best = max(best, top1)
        if stalled == patience:
            stalled, count = 0, count + 1
    return min(count, PLATEAU_DROPS)
