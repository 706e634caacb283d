"""ResNet-18 trained in plain torch from a shard set, with random resized crops and MixUp.

python -m tools.examples.resnet18 shards/imagenet --epochs 90 --device cuda
"""

from __future__ import annotations

from collections.abc import Iterator
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
    train, val = map(ShardSet(shards).split, ("train", "val"))
    net = timm.create_model("resnet18", num_classes=len(train.classes)).to(device)
    settings: Any = {"batch": batch, "crop": crop, "device": device}
    training = Loader.training(train, num_epochs=epochs, scale=(0.35, 1.0), augment=[MixUp(0.2)], **settings)
    validation = Loader.evaluation(val, resize=crop * 8 // 7, **settings)
    for epoch, (loss, top1) in enumerate(fit(net, training, validation, epochs, lr), 1):
        print(f"epoch {epoch:3d}  loss {loss:.3f}  top-1 {top1:.2f} %")


def fit(net: Any, training: Loader, validation: Loader, epochs: int, lr: float) -> Iterator[tuple[float, float]]:
    """Yields each epoch's mean loss, and the top-1 accuracy after it, per cent."""
    net.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr, momentum=0.9, weight_decay=1e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=len(training))
    losses = []
    for images, targets in training:
        # images come as 0-255 minus the mean: 64 is about their standard deviation
        loss = cross_entropy(net.train()(images / 64), targets, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
        if len(losses) == len(training) // epochs:
            with torch.inference_mode():
                right = torch.cat([net.eval()(images / 64).argmax(1) == labels for images, labels in validation])
            yield torch.stack(losses).mean().item(), 100 * right.float().mean().item()
            losses.clear()


if __name__ == "__main__":
    main()
