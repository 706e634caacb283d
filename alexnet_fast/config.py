"""Every setting of a training run, once: its name, default, unit and meaning; and the recipes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from alexnet_fast.errors import InputError


def _check(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        raise InputError(f"{name} is {value}; it must be {expected}.")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The defaults are the recipe `paper`: what the original code did (layer file #145, cuda-convnet2)."""

    recipe: str = "paper"
    """Where the other values came from."""
    shards: str = "shards/imagenet"
    """Folder of the shard set, or its URL."""
    arch: str = "paper"
    """paper, onetower or bn: see model/alexnet.py."""
    epochs: int = 90
    batch: int = 128
    """Images a step, over all processes."""
    lr: float = 0.01
    """Peak learning rate of the weights, for this batch."""
    bias_lr_factor: float = 2.0
    """Learning rate of the biases divided by that of the weights."""
    momentum: float = 0.9
    weight_decay: float = 5e-4
    """On weights; never on biases or batch norm."""
    schedule: str = "steps"
    """steps: divided by 250 in all over four equal phases (cuda-convnet2); cosine: to 0."""
    warmup_epochs: float = 0.0
    """The learning rate rises linearly from 0 over these."""
    label_smoothing: float = 0.0
    """Share of the target spread evenly over all classes, 0 to 1."""
    dropout: float = 0.5
    hidden: int = 4096
    """Units of fc6 and fc7."""
    crop: int = 0
    """Side of the network's input, pixels; 0: 7/8 of the stored side, as 224 of 256."""
    augment: bool = True
    """Random crops, flips and colour; False: the central crop only."""
    colour_std: float = 0.1
    """Standard deviation of the PCA colour jitter, in standard deviations of the pixels along each component."""
    order: str = "random"
    """random: a global shuffle; window: of few tars at a time, for disks that want sequential reads."""
    window: int = 16
    """Tars open at a time in the order window."""
    precision: str = "auto"
    """auto: bf16 where the hardware has it, else fp16 on a GPU, else fp32. Or bf16, fp16, fp32."""
    seed: int = 0
    threads: int = 0
    """Threads a process that decode images; 0: the cores divided by the processes."""
    cache: str = ""
    """Folder that keeps the tars of a URL; empty: the user's cache folder."""
    cache_bytes: int = 0
    """Most bytes of tars in it; 0: no limit."""
    log_every: int = 20
    """Steps between two lines of the log."""

    def __post_init__(self) -> None:
        _check(self.arch in ("paper", "onetower", "bn"), "arch", self.arch, "paper, onetower or bn")
        _check(self.schedule in ("steps", "cosine"), "schedule", self.schedule, "steps or cosine")
        _check(self.order in ("random", "window"), "order", self.order, "random or window")
        _check(
            self.precision in ("auto", "bf16", "fp16", "fp32"),
            "precision",
            self.precision,
            "auto, bf16, fp16, fp32",
        )
        for name in ("epochs", "batch", "log_every", "hidden", "window"):
            _check(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in (
            "lr",
            "bias_lr_factor",
            "momentum",
            "weight_decay",
            "warmup_epochs",
            "colour_std",
            "seed",
            "crop",
            "threads",
            "cache_bytes",
        ):
            _check(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        _check(self.seed < 2**32, "seed", self.seed, "below 4294967296")
        for name in ("label_smoothing", "dropout"):
            _check(0 <= getattr(self, name) < 1, name, getattr(self, name), "at least 0 and below 1")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


RECIPES = {
    "paper": TrainConfig(),
    "fast": TrainConfig(
        recipe="fast",
        arch="bn",
        epochs=30,
        batch=1024,
        lr=0.4,
        bias_lr_factor=1.0,
        schedule="cosine",
        warmup_epochs=1.0,
        label_smoothing=0.1,
    ),
}


def make_config(recipe: str, **overrides: Any) -> TrainConfig:
    """The recipe with every override that is not None.

    A batch without a learning rate scales the recipe's rate with it (arXiv 1404.5997 does so, as the original
    code's notes do). Raises InputError naming the setting that is wrong.
    """
    base = RECIPES[recipe]
    given = {name: value for name, value in overrides.items() if value is not None}
    unknown = set(given) - {field.name for field in fields(TrainConfig)}
    if unknown:
        raise InputError(f"unknown setting {', '.join(sorted(unknown))}.")
    if "batch" in given and "lr" not in given:
        given["lr"] = base.lr * given["batch"] / base.batch
    return replace(base, **given)
