"""AlexNet trained by a plain torch loop: what a recipe's accuracy against minutes is compared with (tools/recipes.py).

    python -m tools.plain_training SHARDS RUN [--epochs 10] [--batch 128] [--lr 0.05] [--seed 0]

The loop a good engineer writes in an hour: the same network with batch norm, torch's DataLoader on the stored images
with random crops and mirror images, channels-last, bf16 where the processor has it, SGD with a cosine after an epoch of
warm-up, label smoothing, dropout 0.5. RUN/log.jsonl has a line an epoch: seconds of training so far, validation top-1.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from time import perf_counter
from typing import Any

import click
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

from alexnet_fast import MapDataset, ShardSet
from alexnet_fast.config import TrainConfig
from alexnet_fast.model.alexnet import build
from tools.plain_loop import CPU, precision


class Cropped:
    """RGB image -> (3, crop, crop) float32, 0-255 minus the mean: a random crop or its mirror image, or the centre."""

    def __init__(self, crop: int, mean: list[float], *, random: bool) -> None:
        self.crop, self.mean, self.random = crop, torch.tensor(mean)[:, None, None], random

    def __call__(self, image: Image.Image) -> Tensor:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        down, right = (side - self.crop for side in pixels.shape[1:])
        top, left = down // 2, right // 2
        if self.random:
            top, left = int(torch.randint(down + 1, ())), int(torch.randint(right + 1, ()))
        crop = pixels[:, top : top + self.crop, left : left + self.crop].float() - self.mean
        return crop.flip(2) if self.random and torch.rand(()) < 0.5 else crop


@click.command()
@click.argument("shards", type=click.Path(path_type=Path))
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--epochs", default=10, show_default=True)
@click.option("--batch", default=128, show_default=True)
@click.option("--lr", default=0.05, show_default=True, help="Peak learning rate.")
@click.option("--weight-decay", default=5e-4, show_default=True)
@click.option("--workers", default=1, show_default=True, help="Of the DataLoader.")
@click.option("--seed", default=0, show_default=True)
def main(
    shards: Path, run: Path, epochs: int, batch: int, lr: float, weight_decay: float, workers: int, seed: int
) -> None:
    run.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    shard_set = ShardSet(shards)
    manifest = shard_set.manifest
    crop, mean = manifest.size * 7 // 8, manifest.pixels.mean
    train, val = (
        DataLoader(
            MapDataset(shard_set.split(name), Cropped(crop, mean, random=name == "train")),
            batch_size=min(batch, len(shard_set.split("train"))),
            shuffle=name == "train",
            drop_last=name == "train",
            num_workers=workers,
        )
        for name in ("train", "val")
    )
    net = build(len(shard_set.classes), TrainConfig(arch="bn")).on(CPU)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9, weight_decay=weight_decay)
    steps = len(train)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step / steps, epochs))
    dtype = precision()
    seconds = 0.0
    for epoch in range(epochs):
        net.train()
        begun = perf_counter()
        for images, labels in train:
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                logits = net(images.contiguous(memory_format=torch.channels_last))
            nn.functional.cross_entropy(logits.float(), labels, label_smoothing=0.1).backward()
            optimizer.step()
            schedule.step()
        seconds += perf_counter() - begun
        line = json.dumps({"epoch": epoch + 1, "seconds": round(seconds, 1), "val_top1": round(_top1(net, val), 3)})
        click.echo(line)
        with (run / "log.jsonl").open("a") as log:
            log.write(line + "\n")


def _rate(done: float, epochs: int) -> float:
    """Learning rate relative to its peak after so many epochs: rises over the first, then falls as a cosine to 0."""
    return done if done < 1 else 0.5 * (1 + math.cos(math.pi * min((done - 1) / max(epochs - 1, 1), 1.0)))


@torch.inference_mode()
def _top1(net: nn.Module, val: DataLoader[tuple[Any, int]]) -> float:
    net.eval()
    right = [net(images.contiguous(memory_format=torch.channels_last)).argmax(1) == labels for images, labels in val]
    return 100 * torch.cat(right).float().mean().item()


if __name__ == "__main__":
    main()
