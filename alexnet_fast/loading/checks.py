"""Whether a loader can give what is asked of it here."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

import torch

from alexnet_fast import native
from alexnet_fast.errors import InputError
from alexnet_fast.shards.format import SQUARE

DALI_BUILDS = "nvidia-dali-cuda110", "nvidia-dali-cuda120", "nvidia-dali-cuda130"
"""For a major version of CUDA each, with the same files in the same folder. That for 12 runs on drivers for 13 too."""


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


def check_square(shape: str) -> None:
    """Raises InputError when the stored images keep their shapes: crops are cut from squares."""
    if shape != SQUARE:
        raise InputError(
            f"the images of this shard set are of shape {shape}, and crops are cut from squares alone. "
            f"Shard again with --shape {SQUARE}."
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
    libraries = [file for file in build.files or () if file.match("nvidia/dali/libdali*.so")]
    paths = [Path(str(build.locate_file(file))) for file in libraries]
    return all(p.is_file() and p.stat().st_size == file.size for p, file in zip(paths, libraries, strict=True))


def check_crop(crop: int, size: int) -> None:
    """Raises InputError when a network's crop is larger than the stored images, `size` pixels a side."""
    if crop > size:
        raise InputError(
            f"crop {crop} is larger than the stored images ({size} px). "
            f"Shard with --size {-(-crop * 8 // 7)} or more, or take a smaller crop."
        )
