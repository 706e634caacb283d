"""Settings that depend on the shard set, the machine or the checkpoint a run is resumed from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from alexnet_fast.config import LEAST_CROP, MAY_DIFFER, TrainConfig, default_crop, span
from alexnet_fast.distributed.devices import processes_here
from alexnet_fast.distributed.topology import Topology
from alexnet_fast.environment import cores
from alexnet_fast.errors import InputError
from alexnet_fast.loading.augment import Augmentation, ColourJitter, CutMix, Erasing, MixUp
from alexnet_fast.loading.checks import check_crop
from alexnet_fast.training.optim import epochs_alike
from alexnet_fast.training.replay import MOST_IMAGES

FILLED_IN = {"crop": 0, "precision": "auto"}
"""Values that `resolve` replaces by those that fit the shard set and the machine; `threads` too, which may change."""


def resolve(config: TrainConfig, stored_side: int, topology: Topology) -> TrainConfig:
    """Returns `config` with crop, precision and threads filled in. Raises InputError for a crop that does not fit.
    `stored_side`: of the shard set's images, their shorter side where they keep their shapes, pixels; 0: any."""
    crop = config.crop or default_crop(stored_side)
    if not crop:
        raise InputError(
            "the stored images have sides of their own. Give the network's: --set crop=224 (bench: --crop 224)."
        )
    if stored_side and config.crops != "resized":
        check_crop(crop, stored_side)
    if crop < LEAST_CROP:
        raise InputError(
            f"crop {crop} is too small for AlexNet, which needs {LEAST_CROP} px. Shard with --size 74 or more."
        )
    precision = config.precision if config.precision != "auto" else best_precision(topology.device)
    threads = config.threads or max(cores() // processes_here(topology.world_size), 1)
    return replace(config, crop=crop, precision=precision, threads=threads)


def as_before(config: TrainConfig, saved: TrainConfig, path: Path) -> TrainConfig:
    """Returns a resumed run's `config` with the crop and precision that `resolve` filled in when the run began: those
    in `saved`, the settings in the checkpoint `path`. Raises InputError where others differ that must not; `epochs` is
    for `check_epochs`."""
    differing = {name: value for name, value in saved.as_dict().items() if getattr(config, name) != value}
    filled_in = {name: value for name, value in differing.items() if getattr(config, name) == FILLED_IN.get(name)}
    if wrong := sorted(differing.keys() - filled_in.keys() - set(MAY_DIFFER)):
        raise InputError(
            f"{path} was trained with {', '.join(f'{name} {differing[name]}' for name in wrong)}, config.json has "
            f"{', '.join(f'{name} {getattr(config, name)}' for name in wrong)}. Make config.json as it was, or "
            "choose another --run."
        )
    return replace(config, **filled_in)


def check_epochs(config: TrainConfig, saved: TrainConfig, begun: int, path: Path) -> None:
    """Raises InputError where a run cannot have `config.epochs` in place of those in `saved`, the settings in its
    checkpoint `path`: where one of the `begun` epochs would have been trained otherwise. The message says how else."""
    if config.epochs == saved.epochs:
        return
    if begun > config.epochs:
        raise InputError(
            f"epoch {begun} of {path.parent} is begun already, so the run cannot end after {config.epochs}. "
            f"Resume it with --epochs {saved.epochs}, as before."
        )
    alike = epochs_alike(saved, config.epochs)
    if wrong := [name for name, epochs in alike.items() if epochs < begun]:
        raise InputError(
            f"{path.parent} cannot have {config.epochs} epochs in place of {saved.epochs}: what it has trained depends "
            f"on that number (by {', '.join(wrong)}). Begin another run with its weights: choose another --run, leave "
            f"out --resume, and add --set init={path}"
        )


def best_precision(device: torch.device) -> str:
    """Returns bf16 where the hardware has it; else fp16 on a GPU, fp32 on a CPU."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    has = torch.cpu.get_capabilities()
    return "bf16" if has.get("avx512_bf16") or has.get("amx_bf16") else "fp32"


def augmentation(config: TrainConfig) -> dict[str, Any]:
    """Returns the arguments of `Loader.training` by which crops, mirror images and all but PCA colour are drawn."""
    augment: list[Augmentation] = []
    if config.brightness or config.contrast or config.saturation:
        augment.append(ColourJitter(config.brightness, config.contrast, config.saturation))
    if config.erasing:
        augment.append(Erasing(config.erasing))
    if config.mixup:
        augment.append(MixUp(config.mixup))
    if config.cutmix:
        augment.append(CutMix(config.cutmix))
    scale = span(config.scale) if config.crops == "resized" else None
    return {"crops": config.crops != "central", "scale": scale, "ratio": span(config.ratio), "augment": augment}


def replays_steps(config: TrainConfig, topology: Topology, largest_step: int) -> bool:
    """Returns whether steps of at most `largest_step` images a process may be replayed as CUDA graphs.

    Not with a loss scaler or LARS, whose Python code reads numbers of the device or the learning rate in each step; nor
    of several processes, whose collectives would have to be recorded too.
    """
    can_be = config.optimizer != "lars" and config.precision != "fp16" and topology.world_size == 1
    return config.cuda_graphs and can_be and topology.device.type == "cuda" and largest_step <= MOST_IMAGES
