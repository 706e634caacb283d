"""ResNet-18 trained by Lightning from a shard set, on one or several processes, with transforms of one's own.

python -m tools.examples.lightning_resnet18 shards/imagenet --epochs 90
"""

from __future__ import annotations

from typing import Any

import click
import lightning
import timm
import torch
from torch.nn.functional import cross_entropy

from alexnet_fast import Batch, Loader, ShardSet


class ResNet18(lightning.LightningModule):
    """`trainer.fit` takes the loaders from it: `reload_dataloaders_every_n_epochs=1` asks for one each epoch."""

    def __init__(self, shards: str, batch: int, crop: int, lr: float) -> None:
        super().__init__()
        self.shards, self.batch, self.crop, self.lr = ShardSet(shards), batch, crop, lr
        self.net = timm.create_model("resnet18", num_classes=len(self.shards.classes))

    def settings(self) -> dict[str, Any]:
        """uint8 crops on this process' device: every rank takes its part of each step, whatever their number."""
        rank, ranks = self.trainer.global_rank, self.trainer.world_size
        return {"crop": self.crop, "device": self.device, "dtype": torch.uint8, "rank": rank, "world_size": ranks}

    def train_dataloader(self) -> Loader:
        split = self.shards.split("train")
        return Loader.training(split, batch=self.batch, epoch=self.trainer.current_epoch, **self.settings())

    def val_dataloader(self) -> Loader:
        return Loader.evaluation(self.shards.split("val"), batch=self.batch, **self.settings())

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Any transforms of a whole batch on the device: here noise, and ImageNet's usual mean and deviation."""
        images, labels = batch
        images = images.float()
        if self.trainer.training:
            images += 4 * torch.randn_like(images)
        mean, deviation = (images.new_tensor(three)[:, None, None] for three in ((124, 116, 104), (58, 57, 57)))
        return (images - mean) / deviation, labels

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], number: int) -> torch.Tensor:
        images, labels = batch
        loss = cross_entropy(self.net(images), labels, label_smoothing=0.1)
        self.log("loss", loss, on_epoch=True, batch_size=len(labels))
        return loss

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], number: int) -> None:
        images, labels = batch
        right = (self.net(images).argmax(1) == labels).float().mean()
        self.log("top1", 100 * right, batch_size=len(labels), sync_dist=True, prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), self.lr, momentum=0.9, weight_decay=1e-4, nesterov=True)


@click.command()
@click.argument("shards")
@click.option("--epochs", default=90, show_default=True)
@click.option("--batch", default=256, show_default=True)
@click.option("--crop", default=224, show_default=True)
@click.option("--lr", default=0.1, show_default=True)
@click.option("--out", default="runs/lightning", show_default=True, help="Folder of logs and checkpoints.")
def main(shards: str, epochs: int, batch: int, crop: int, lr: float, out: str) -> None:
    trainer = lightning.Trainer(
        max_epochs=epochs, reload_dataloaders_every_n_epochs=1, use_distributed_sampler=False, default_root_dir=out
    )
    trainer.fit(ResNet18(shards, batch, crop, lr))
    print({name: round(float(value), 3) for name, value in trainer.callback_metrics.items()})


if __name__ == "__main__":
    main()
