"""Whether a loader can give what is asked of it here."""

from __future__ import annotations

import platform
from importlib.util import find_spec

import numpy as np
import torch

from alexnet_fast import native
from alexnet_fast.errors import InputError
from alexnet_fast.loading.boxes import Boxes


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


def check_crop(crop: int, size: int) -> None:
    """Raises InputError when a network's crop is larger than the stored images, `size` pixels a side."""
    if crop > size:
        raise InputError(
            f"crop {crop} is larger than the stored images ({size} px). "
            f"Shard with --size {-(-crop * 8 // 7)} or more, or take a smaller crop."
        )


def check_boxes(boxes: Boxes, *, central: bool) -> None:
    """Raises InputError when such boxes cannot be drawn, or with `central` be in the middle of the images."""
    crop, scale, ratio, resize = boxes.crop, boxes.scale, boxes.ratio, boxes.resize
    if scale is not None and not 0 < scale[0] <= scale[1] <= 1:
        raise InputError(f"scale {scale} is no range of an image's share. Give two numbers, such as (0.08, 1.0).")
    if not 0 < ratio[0] <= ratio[1]:
        raise InputError(f"ratio {ratio} is no range of width to height. Give two numbers, such as (3/4, 4/3).")
    if (resize if central else scale) is None:
        check_crop(crop, int(np.min(boxes.sizes)))
    if resize is not None and resize < crop:
        raise InputError(
            f"resize {resize} is smaller than the crop ({crop}), which is cut out of the resized image. "
            "Give the crop's side or more."
        )
