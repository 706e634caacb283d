"""The recipes: settings that train well together, and the source of every value."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

from alexnet_fast.config import TrainConfig
from alexnet_fast.errors import InputError

RECIPES = {
    # The published run: layer file #145 of the original code and its run notes; where they and the paper differ,
    # what the code did.
    "paper": TrainConfig(
        recipe="paper",
        arch="paper",  # #145's order of operations; the paper's section 3.5
        epochs=90,  # the paper, section 5: "roughly 90 cycles"; the run of #145-2010 stopped at 93
        batch=128,  # the paper, section 5
        momentum=0.9,  # the paper, section 5
        weight_decay=5e-4,  # the paper, section 5; #145 decays weights only, no biases
        lr=0.01,  # the paper, section 5
        bias_lr_factor=2.0,  # #145: 0.02 for biases; the paper says one rate for all
        schedule="plateau",  # the paper, section 5: "divide by 10 when the validation error stopped improving", 3 times
        patience=5,  # ours: people decided then; #145-2010 fell at epochs 23, 51 and 78
        colour_std=0.1,  # the paper, section 4.1, but of the standard deviation: #145 takes the eigenvalue's root
        colour_off=68 / 93,  # notes of #145-2010: colour noise off at epoch 68 of 93
        conv1_slow=68 / 93,  # the same: conv1 at a tenth of the rate
        conv1_freeze=72 / 93,  # the same: conv1 frozen at epoch 72
        dropout=0.5,  # the paper, section 4.2
        lrn="towers",  # #145: k 2, alpha 1e-4 divided by n 5, beta 0.75, inside each tower
        within_map_norm=False,  # #145 has it after layer 2, the paper does not: an option here
    ),
    # The most accurate of those compared on Imagenette (tools/records/2026-12-01_recipe-fast_xeon-2core); sources are
    # those of the ideas. Not yet trained on ImageNet.
    "fast": TrainConfig(
        recipe="fast",
        arch="bn",
        epochs=30,
        batch=1024,
        lr=0.4,
        bias_lr_factor=1.0,
        optimizer="muon",  # Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/
        muon_rate=0.12,  # 0.03 at 64, where it was chosen
        nesterov=True,  # as its author has it
        weight_decay=1e-4,  # torchvision's for ImageNet; opda's best of 512 settings of AlexNet has 1.3e-4
        schedule="cosine",
        warmup_epochs=1.0,
        label_smoothing=0.1,  # arXiv 1512.00567
        dropout=0.5,
        dropout_from=10.0,  # late dropout, arXiv 2303.01500: it hinders a net that has not yet learnt its images
        grow_from=5 / 7,  # 160 of 224 px, as FFCV's training of ResNet-50 begins
    ),
    # Large batches: the AlexNet-BN solver published with LARS (arXiv 1708.03888): 10 at 8,192 images, 24 at 16,384.
    "large": TrainConfig(
        recipe="large",
        arch="bn",
        epochs=100,
        batch=8192,
        optimizer="lars",
        trust=0.001,
        lr=10.0,
        bias_lr_factor=1.0,
        schedule="poly",
        warmup_epochs=5.0,
    ),
}

EPOCH_STEPS = 20
"""Fewest steps of an epoch: of some hundred images `fast`'s 1024 would make one, which diverges at its rate."""
RUN_STEPS = 1000
"""Fewest steps of a run: three epochs of CIFAR-10 reached 33 to 41 % in 147 steps of `fast`'s 1024, 68 % in 1,173 of
128."""
SMALLEST_BATCH = 32


def batch_for(images: int, epochs: int, batch: int) -> int:
    """Returns a recipe's `batch`, halved while so many epochs of so many images have too few steps; 32 at least."""
    while batch > SMALLEST_BATCH and (images < EPOCH_STEPS * batch or images * epochs < RUN_STEPS * batch):
        batch = max(batch // 2, SMALLEST_BATCH)
    return batch


def make_config(recipe: str, **overrides: Any) -> TrainConfig:
    """Returns the recipe with every override that is not None. A batch without a learning rate scales the recipe's rate
    with it (arXiv 1404.5997, and the original code's notes), and that of Muon, whose steps have a given length, with
    its root (as arXiv 2205.10287 has it for Adam). Raises InputError naming the setting that is wrong."""
    base = RECIPES[recipe]
    given = {name: value for name, value in overrides.items() if value is not None}
    unknown = set(given) - {field.name for field in fields(TrainConfig)}
    if unknown:
        raise InputError(f"unknown setting {', '.join(sorted(unknown))}.")
    if "batch" in given and "lr" not in given:
        given["lr"] = base.lr * given["batch"] / base.batch
    if "batch" in given and "muon_rate" not in given and given.get("optimizer", base.optimizer) == "muon":
        given["muon_rate"] = base.muon_rate * math.sqrt(given["batch"] / base.batch)
    return replace(base, **given)


def fitted(config: TrainConfig, given: dict[str, Any], images: int) -> tuple[TrainConfig, str]:
    """`config`, made of `given`, for so many training images: its batch by `batch_for`, unless one is given; what that
    changed and why, in a line, or nothing."""
    batch = batch_for(images, config.epochs, config.batch)
    if given.get("batch") is not None or batch == config.batch:
        return config, ""
    fitting = make_config(**{**given, "recipe": config.recipe, "batch": batch})
    rate = "" if fitting.lr == config.lr else f"; learning rate {fitting.lr:g} in place of {config.lr:g}"
    before, after = (-(-images // size) for size in (config.batch, batch))
    return fitting, (
        f"batch {batch} in place of the recipe's {config.batch:,}, because {images:,} training images are few: "
        f"{after:,} steps an epoch and {after * config.epochs:,} in all, not {before:,} and "
        f"{before * config.epochs:,}{rate}"
    )
