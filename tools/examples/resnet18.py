"""ResNet-18 trained in plain torch from a shard set, with random resized crops and MixUp.

python -m tools.examples.resnet18 shards/imagenet --epochs 90 --device cuda
"""

from __future__ import annotations

from typing import Any

import click
import timm
import torch
from torch.nn.functional import cross_entropy

from alexnet_fast import Loader, MixUp, ShardSet


@click.command()
@click.argument("shards")
@click.option("--epochs", default=90, show_default=True)
@click.option("--batch", default=256, show_default=True)
@click.option("--crop", default=224, show_default=True)
@click.option("--lr", default=0.1, show_default=True)
@click.option("--device", default="cpu", show_default=True)
def main(shards: str, epochs: int, batch: int, crop: int, lr: float, device: str) -> None:
    shard_set = ShardSet(shards)
    train, val = shard_set.split("train"), shard_set.split("val")
    net = timm.create_model("resnet18", num_classes=len(shard_set.classes))
    net = net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(net.parameters(), lr, momentum=0.9, weight_decay=1e-4, nesterov=True)
    # pixels come as 0-255 minus the mean: 64 is about their standard deviation
    settings: Any = {"batch": batch, "crop": crop, "device": device}
    training = Loader.training(train, num_epochs=epochs, scale=(0.35, 1.0), augment=[MixUp(0.2)], **settings)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=len(training))
    validation = Loader.evaluation(val, **settings)
    seen, total = 0, torch.zeros((), device=device)
    net.train()
    for images, targets in training:
        loss = cross_entropy(net(images / 64), targets, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        seen, total = seen + len(images), total + loss.detach() * len(images)
        if seen % len(train) == 0:  # an epoch's end
            print(f"epoch {seen // len(train):3d}  loss {total / len(train):.3f}  top-1 {top1(net, validation):.2f} %")
            total.zero_()


@torch.inference_mode()
def top1(net: torch.nn.Module, validation: Loader) -> float:
    net.eval()
    right = [(net(images / 64).argmax(1) == labels) for images, labels in validation]
    net.train()
    return 100 * torch.cat(right).float().mean().item()


if __name__ == "__main__":
    main()
