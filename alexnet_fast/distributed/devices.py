"""Whether this machine has what is asked for, and what to do where it has not: GPUs, driver, compiler."""

from __future__ import annotations

import os
import shutil

import torch

from alexnet_fast.environment import driver
from alexnet_fast.errors import InputError


def started_by_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def processes_here(world_size: int) -> int:
    """How many of the `world_size` processes run on this machine."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if started_by_torchrun() else world_size


def usable_gpus() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def choose_gpus(gpus: int | None, most: int | None = None) -> int:
    """Returns `gpus`; where it is None, the number of GPUs that torch finds, `most` at most: the default of --gpus."""
    if gpus is not None:
        return gpus
    return usable_gpus() if most is None else min(usable_gpus(), most)


def check_gpus(gpus: int) -> None:
    """Raises InputError when fewer GPUs are usable than asked for, or than torchrun's processes here need."""
    usable, wanted = usable_gpus(), processes_here(gpus) if gpus else 0
    if wanted <= usable:
        return
    if started_by_torchrun():
        asked = f"torchrun started {wanted} process{'es' * (wanted > 1)} here, one a GPU"
        fewer = f"--nproc-per-node {usable}"
    else:
        asked, fewer = f"--gpus {gpus} asks for {gpus} GPU{'s' * (gpus > 1)}", f"--gpus {usable}"
    if not usable:
        raise InputError(f"{asked}: {why_no_gpu()} On the CPU: --gpus 0.")
    raise InputError(f"{asked}, torch finds {usable}{_hidden()}. Use {fewer}, or look at nvidia-smi.")


def why_no_gpu() -> str:
    """A sentence that says what torch lacks, and one what to do about it."""
    build = torch.version.cuda
    if build is None:
        return (
            f"torch {torch.__version__} is built without CUDA. "
            "On Linux pip's default is the build with it; see pytorch.org/get-started."
        )
    found = driver()
    if found is None:
        return (
            "there is no NVIDIA driver (no libcuda.so.1). Install it, or give the container the GPUs: "
            "docker run --gpus all, with NVIDIA's container toolkit."
        )
    if found.cuda[0] < int(build.partition(".")[0]):  # an older minor version will do
        name = f"driver {found.version}" if found.version else "driver"
        return (
            f"the NVIDIA {name} runs CUDA {found.cuda[0]}.{found.cuda[1]} at most, torch {torch.__version__} needs "
            f"CUDA {build}. Update the driver, or install torch's build for CUDA {found.cuda[0]}: "
            "pytorch.org/get-started."
        )
    return f"torch finds none{_hidden()}, though there is a driver. Look at nvidia-smi."


def check_compiler(device: torch.device) -> None:
    """Raises InputError where `--compile` has no compiler to call: Triton's launcher takes C, torch's CPU code C++."""
    variable, names = ("CC", ("gcc", "clang", "cc")) if device.type == "cuda" else ("CXX", ("g++", "clang++", "c++"))
    named = os.environ.get(variable)
    if not any(map(shutil.which, [named] if named else names)):
        raise InputError(
            f"--compile needs a C{'++' * (variable == 'CXX')} compiler ({named or ', '.join(names)}), and finds none. "
            "Install one (Debian: apt-get install g++), or leave --compile out."
        )


def _hidden() -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "" if visible is None else f" (CUDA_VISIBLE_DEVICES is {visible!r})"
