"""The lines that a training prints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alexnet_fast.config import TrainConfig
from alexnet_fast.distributed.topology import Topology
from alexnet_fast.evaluation.counts import wilson
from alexnet_fast.evaluation.scoring import Accuracy, corruption_note
from alexnet_fast.model.alexnet import AlexNet
from alexnet_fast.shards.reader import ShardSet
from alexnet_fast.text import number_of
from alexnet_fast.training.optim import PLATEAU_FACTOR, drops, learning_rate

SMALL_VAL = 10_000
"""Validation images below which an accuracy is shown with its 95 % interval: it is then 2 points wide or wider."""


def summary(
    config: TrainConfig, model: AlexNet, shards: ShardSet, topology: Topology, steps_per_epoch: int, folder: Path
) -> str:
    """Returns what is trained, on what, how, where and into which folder, a line each. `config`: from
    `settings.resolve`."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    manifest = shards.manifest
    num_val = f"{manifest.images('val'):,} for validation" if "val" in shards else "no val split"
    without = "" if "val" in shards else ": accuracy will not be measured"
    on_cpu, processes = topology.device.type == "cpu", topology.world_size
    where = "the CPU" if on_cpu else number_of(processes, "GPU")
    each = f" in each of {processes} processes" if processes > 1 else ""
    passes = f"{number_of(config.epochs, 'epoch')} of {number_of(steps_per_epoch, 'step')}"
    rows = {
        "network": f"{config.arch}, {parameters:,} parameters; recipe {config.recipe}",
        "images": f"{manifest.images('train'):,} for training, {num_val}, {len(manifest.classes):,} classes{without}",
        "training": f"{passes}, batch {config.batch:,}, crop {config.crop} px, learning rate up to {config.lr:g} "
        f"({config.schedule})",
        "computing": f"{config.precision} on {where}, {number_of(config.threads, 'decoding thread')}{each}",
        "run folder": str(folder),
    }
    return "\n".join(f"{name:<12}{text}" for name, text in rows.items())


def step_text(config: TrainConfig, epoch: int, line: dict[str, float]) -> str:
    """Returns the text of the live line. `epoch`: from 0; `line`: the log's."""
    return (
        f"epoch {epoch + 1}/{config.epochs}  loss {line['loss']:.3f}  top-1 {line['top1']:.1f} %  "
        f"lr {line['lr']:.2g}  {line['images_per_second']:,.0f} images/s  data wait {100 * line['data_wait']:.1f} %  "
        f"{line['peak_gib']:.1f} GiB"
    )


def evaluation_text(epochs: int, accuracy: Accuracy, precision: str, line: dict[str, float] | None) -> str:
    """Returns the line of an epoch's end. `epochs`: done so far; `line`: the log's last of this session."""
    interval = ""
    if 0 < accuracy.images < SMALL_VAL:
        low, high = wilson(accuracy.top1, accuracy.images)
        interval = f" [{low:.1f} to {high:.1f}]"
    return (
        f"epoch {epochs:3d}  val top-1 {accuracy.top1:5.2f} %{interval}  top-5 {accuracy.top5:5.2f} % ({precision})"
        + (f"  train loss {line['loss']:.3f}  {line['images_per_second']:,.0f} images/s" if line else "")
        + corruption_note(accuracy)
    )


def plateau_text(config: TrainConfig, top1s: Sequence[float], top1: float) -> str:
    """Returns a line where the schedule plateau divides the learning rate after an epoch of validation top-1 `top1`,
    the epochs before which had `top1s`; else nothing."""
    after = [*top1s, top1]
    if config.schedule != "plateau" or drops(after, config.patience) == drops(top1s, config.patience):
        return ""
    rate = learning_rate(config, len(after), after)
    stalled = f"no better val top-1 for {config.patience} epochs"
    return f"{stalled}: the learning rate is divided by {PLATEAU_FACTOR:g}, to {rate:g}"
