"""Parameter groups and learning rates: pure functions of the model, the configuration and the progress."""

from __future__ import annotations

import math

import torch
from torch import nn

from alexnet_fast.config import TrainConfig

STEPS_FACTOR, STEPS_PHASES = 250.0, 4
"""cuda-convnet2's schedule of weights: /250 in all over four equal phases (each step /6.3) ..."""
BIAS_FACTOR, BIAS_PHASES = 10.0, 2
"""... and of biases: /10 once, half-way."""


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.SGD:
    """SGD with two groups: weights, decayed; biases and batch norm, not decayed.

    torch multiplies the velocity by the learning rate, the paper the gradient; the two differ only for the few
    steps after the rate changes.
    """
    weights = [p for p in model.parameters() if p.ndim > 1]
    biases = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": weights, "weight_decay": config.weight_decay, "kind": "weights"},
        {"params": biases, "weight_decay": 0.0, "kind": "biases"},
    ]
    # With a loss scaler a skipped first step leaves the fused kernel's momentum uninitialised (torch 2.13).
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=config.precision != "fp16")


def set_learning_rates(optimizer: torch.optim.Optimizer, config: TrainConfig, progress: float) -> None:
    """`progress`: epochs done, fractional."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(config, progress, biases=group["kind"] == "biases")


def learning_rate(config: TrainConfig, progress: float, *, biases: bool = False) -> float:
    """The rate after `progress` epochs."""
    peak = config.lr * (config.bias_lr_factor if biases else 1.0)
    if progress < config.warmup_epochs:
        return peak * progress / config.warmup_epochs
    if config.schedule == "cosine":
        past = (progress - config.warmup_epochs) / max(config.epochs - config.warmup_epochs, 1e-9)
        return peak * 0.5 * (1 + math.cos(math.pi * min(past, 1.0)))
    factor, phases = (BIAS_FACTOR, BIAS_PHASES) if biases else (STEPS_FACTOR, STEPS_PHASES)
    phase = min(int(progress / config.epochs * phases), phases - 1)
    return float(peak * factor ** (-phase / (phases - 1)))
