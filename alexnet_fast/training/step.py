"""One training step, in which nothing waits for the device."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from alexnet_fast.config import TrainConfig
from alexnet_fast.distributed.topology import without_sync
from alexnet_fast.loading.batch import Batch
from alexnet_fast.training.state import State

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
"""What the network computes in, by the setting `precision`."""


def set_dropout(model: nn.Module, config: TrainConfig, progress: float) -> bool:
    """Sets the share that dropout leaves out after `progress` epochs; returns whether that is another than before.

    Without dropout at first and with it later: "late dropout" of arXiv 2303.01500.
    """
    share = config.dropout if progress >= config.dropout_from else 0.0
    layers = [m for m in model.modules() if isinstance(m, nn.Dropout) and m.p != share]
    for layer in layers:
        layer.p = share
    return bool(layers)


def train_step(
    model: nn.Module, state: State, batch: Batch, config: TrainConfig, share: float
) -> tuple[Tensor, Tensor]:
    """Updates the weights once; returns the summed loss and the number of correct images, both still on the device.

    `share`: this process' part of the step times the number of processes, about 1. It weighs the loss so that
    the average over processes counts every image alike. `config`: from `settings.resolve`.
    """
    model.train()
    device, dtype = batch.images.device.type, DTYPES[config.precision]
    total, correct = torch.zeros(2, device=batch.images.device).unbind()
    columns = batch.images, batch.targets, batch.labels
    parts = list(zip(*(t.tensor_split(config.accumulate) for t in columns), strict=True))
    for i, (images, targets, labels) in enumerate(parts, 1):
        with without_sync(model) if i < len(parts) else nullcontext():
            with torch.autocast(device, dtype, enabled=dtype != torch.float32):
                logits = model(images)
            loss = nn.functional.cross_entropy(
                logits.float(), targets, label_smoothing=config.label_smoothing, reduction="sum"
            )
            state.scaler.scale(loss * (share / len(batch.labels))).backward()
        total = total + loss.detach()
        correct = correct + (logits.detach().argmax(1) == labels).sum()
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    return total, correct
