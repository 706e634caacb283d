"""Whether a loader can give what is asked of it here."""

from __future__ import annotations

import platform
from importlib.util import find_spec

import torch

from alexnet_fast import native
from alexnet_fast.errors import InputError
from alexnet_fast.shards.format import SQUARE


def needs_dali(device: torch.device) -> bool:
    """Whether DALI is what decodes JPEGs there: on a GPU, and on a CPU without a native decoder."""
    return device.type != "cpu" or native.decoder() == "none"


def check_dali() -> None:
    """Raises InputError where DALI is not installed."""
    if find_spec("nvidia") is None or find_spec("nvidia.dali") is None:  # nvidia: other wheels may bring it
        raise InputError(
            "DALI, which decodes the JPEGs of training on GPUs and where nothing was compiled, is not installed. "
            f"There are wheels for glibc's Linux on x86_64 and aarch64 (this is {platform.machine()}): pip install "
            "nvidia-dali-cuda120. Elsewhere use the Docker image, or shard with --encoding raw, which needs no decoder."
        )


def check_square(shape: str) -> None:
    """Raises InputError when the stored images keep their shapes: crops are cut from squares."""
    if shape != SQUARE:
        raise InputError(
            f"the images of this shard set are of shape {shape}, and crops are cut from squares alone. "
            f"Shard again with --shape {SQUARE}."
        )


def check_crop(crop: int, size: int) -> None:
    """Raises InputError when a network's crop is larger than the stored images, `size` pixels a side."""
    if crop > size:
        raise InputError(
            f"crop {crop} is larger than the stored images ({size} px). "
            f"Shard with --size {-(-crop * 8 // 7)} or more, or take a smaller crop."
        )
