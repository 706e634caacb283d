"""Whether a loader can give what is asked of it here."""

from __future__ import annotations

import csv
import platform
import re
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from alexnet_fast import native
from alexnet_fast.errors import InputError
from alexnet_fast.loading.boxes import Boxes

DALI_BUILDS = "nvidia-dali-cuda110", "nvidia-dali-cuda120", "nvidia-dali-cuda130"
"""For a major version of CUDA each, with the same files in the same folder. That for 12 runs on drivers for 13 too."""
LIBRARIES = re.compile(r"nvidia/dali/libdali[^/]*\.so")
DTYPES = torch.uint8, torch.float32, torch.bfloat16, torch.float16
"""Of a batch's images."""


def needs_dali(device: torch.device) -> bool:
    """Whether DALI is what decodes JPEGs there: on a GPU, and on a CPU without a native decoder."""
    return device.type != "cpu" or native.decoder() == "none"


def check_dali() -> None:
    """Raises InputError where DALI is not installed, or only in part."""
    if builds := _incomplete_dali():
        raise InputError(
            f"DALI's libraries in {builds[0].locate_file('nvidia/dali')} are not those of "
            f"{' or '.join(f'{build.name} {build.version}' for build in builds)}: its builds for CUDA 12 and 13 share "
            "that folder, and pip removes or overwrites files of one with the other. Install one anew: pip uninstall "
            f"{' '.join(build.name for build in builds)}; pip install nvidia-dali-cuda120 (for drivers of CUDA 12 and "
            "13)."
        )
    if find_spec("nvidia") is None or find_spec("nvidia.dali") is None:  # nvidia: other wheels may bring it
        raise InputError(
            "DALI, which decodes the JPEGs of training on GPUs and where nothing was compiled, is not installed. "
            f"There are wheels for glibc's Linux on x86_64 and aarch64 (this is {platform.machine()}): pip install "
            "nvidia-dali-cuda120. Elsewhere use the Docker image, or shard with --encoding raw, which needs no decoder."
        )


@cache
def _incomplete_dali() -> list[Distribution]:
    """Returns the builds of DALI that pip knows of, if the libraries of none of them are there with their sizes. With
    two builds of one version the one installed last is complete."""
    builds = []
    for name in DALI_BUILDS:
        try:
            builds.append(distribution(name))
        except PackageNotFoundError:
            continue
    return [] if any(map(_is_complete, builds)) else builds


def _is_complete(build: Distribution) -> bool:
    record = csv.reader((build.read_text("RECORD") or "").splitlines())  # `files` leaves out what is missing
    sizes = {Path(str(build.locate_file(name))): size for name, _, size in record if LIBRARIES.fullmatch(name)}
    return all(path.is_file() and str(path.stat().st_size) == size for path, size in sizes.items())


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
    if scale is not None and not (_is_range(scale) and 0 < scale[0] <= scale[1] <= 1):
        raise InputError(f"scale {scale} is no range of an image's share. Give two numbers, such as (0.08, 1.0).")
    if not (_is_range(ratio) and 0 < ratio[0] <= ratio[1]):
        raise InputError(f"ratio {ratio} is no range of width to height. Give two numbers, such as (3/4, 4/3).")
    if (resize if central else scale) is None:
        check_crop(crop, int(np.min(boxes.sizes)))
    if resize is not None and resize < crop:
        raise InputError(
            f"resize {resize} is smaller than the crop ({crop}), which is cut out of the resized image. "
            "Give the crop's side or more."
        )


def _is_range(value: object) -> bool:
    return isinstance(value, (tuple, list, np.ndarray)) and len(value) == 2


def check_whole(name: str, value: object, least: int, most: int | None = None) -> None:
    """Raises InputError when the argument `name` is not a whole number from `least` to `most`."""
    if not isinstance(value, (int, np.integer)) or value < least or (most is not None and value > most):
        allowed = f"{least} or more" if most is None else f"from {least} to {most}"
        raise InputError(f"{name} is {value!r}; it must be a whole number, {allowed}.")


def check_number(name: str, value: object, least: float) -> None:
    """Raises InputError when the argument `name` is not a number of at least `least`."""
    if not isinstance(value, (int, float, np.number)) or not value >= least:
        raise InputError(f"{name} is {value!r}; it must be a number, {least:g} or more.")


def check_ranks(rank: int, world_size: int, smallest_step: int | None = None) -> None:
    """Raises InputError where there is no such rank, or a training's steps have fewer images than there are ranks; of
    images that are mixed, `smallest_step` counts pairs."""
    check_whole("world_size", world_size, 1)
    if not isinstance(rank, (int, np.integer)) or not 0 <= rank < world_size:
        raise InputError(f"rank is {rank!r}; of a world_size of {world_size} the ranks are 0 to {world_size - 1}.")
    if smallest_step is not None and smallest_step < world_size:
        raise InputError(
            f"a step has {smallest_step} images, or pairs of mixed ones, too few for {world_size} ranks. Give a larger "
            "batch, or fewer ranks."
        )


def check_output(dtype: torch.dtype, device: str | torch.device, threads: int) -> None:
    """Raises InputError when no loader gives that kind of images, or not there."""
    if dtype not in DTYPES:
        raise InputError(f"dtype is {dtype!r}; it must be one of {', '.join(map(str, DTYPES))}.")
    check_whole("threads", threads, 1)
    try:
        kind = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device is {device!r}, which torch does not know. Give cpu, cuda or cuda:N.") from error
    if kind.type not in ("cpu", "cuda"):
        raise InputError(f"device is {device!r}; it must be cpu, cuda or cuda:N.")
    if kind.type == "cuda" and (kind.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device is {device!r}, but torch finds {torch.cuda.device_count()} GPUs. Take device cpu.")
