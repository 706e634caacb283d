"""What a result depends on besides its settings: versions, commit, native code, driver, GPUs, processor."""

from __future__ import annotations

import ctypes
import importlib.metadata
import json
import math
import os
import platform
import re
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from shlex import quote
from typing import Any
from urllib.parse import unquote, urlsplit

from alexnet_fast import __version__, native
from alexnet_fast.commit import RECORD, of_checkout

COMMIT_VARIABLE = "ALEXNET_FAST_COMMIT"
"""Set in the image (Dockerfile), where there is no history to ask."""


@dataclass(frozen=True)
class Driver:
    """`version` such as 580.65.06, where the system reports it; `cuda`: the newest CUDA it can run, (major, minor)."""

    version: str | None
    cuda: tuple[int, int]


def environment() -> dict[str, Any]:
    """Returns all of it, ready for JSON. Imports torch, which takes seconds."""
    import torch

    found = driver()
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return {
        "alexnet_fast": __version__,
        "commit": commit(),
        "python": platform.python_version(),
        **native.description(),
        "packages": packages(),
        "cuda": torch.version.cuda,
        "driver": found and found.version,
        "triton": (why_no_triton() or "used") if gpus else None,
        "libnvcuvid": nvcuvid() if gpus else None,
        "gpus": [torch.cuda.get_device_name(i) for i in range(gpus)],
        "processor": _processor(),
        "cores": cores(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


@cache
def packages() -> dict[str, str]:
    """Returns the version of every installed package, by its normalised name (PEP 503)."""
    found = {
        re.sub(r"[-_.]+", "-", one.metadata["Name"]).lower(): one.version for one in importlib.metadata.distributions()
    }
    return dict(sorted(found.items()))


def commit() -> str | None:
    """Returns the commit of this code: of its checkout (with -dirty where files were changed), of the image, of the
    checkout that the package was built from, or of the repository that pip installed it from; None where none of them
    is known."""
    package = Path(__file__).resolve().parent
    if (package.parent / ".git").exists():
        return of_checkout(package.parent)
    if from_image := os.environ.get(COMMIT_VARIABLE):
        return from_image
    if (package / RECORD).is_file():
        return (package / RECORD).read_text(encoding="ascii").strip()
    return _origin().get("vcs_info", {}).get("commit_id")  # type: ignore[no-any-return]


def _origin() -> dict[str, Any]:
    """Returns where pip installed this package from (PEP 610); empty where that was an index, or is not known."""
    try:
        text = importlib.metadata.distribution("alexnet-fast").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return {}
    return json.loads(text or "{}")  # type: ignore[no-any-return]


def install_command(extra: str) -> str:
    """Returns the command that adds an extra of this package to the installation at hand: from the checkout or the
    repository that it came from, else from the index."""
    origin = _origin()
    folder = Path(unquote(urlsplit(origin.get("url", "")).path))
    if "dir_info" in origin and (folder / "constraints.txt").is_file():
        place = "." if folder == Path.cwd() else str(folder)
        editable = "-e " if origin["dir_info"].get("editable") else ""
        return f"pip install -c {quote(str(Path(place, 'constraints.txt')))} {editable}{quote(f'{place}[{extra}]')}"
    if "vcs_info" in origin:
        vcs = origin["vcs_info"]
        return f"pip install 'alexnet-fast[{extra}] @ {vcs['vcs']}+{origin['url']}@{vcs['commit_id']}'"
    return f"pip install 'alexnet-fast[{extra}]'"


def driver() -> Driver | None:
    """Returns NVIDIA's driver, or None where there is none."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    newest = ctypes.c_int()
    library.cuDriverGetVersion(ctypes.byref(newest))
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
    except OSError:
        text = ""
    version = re.search(r"Module.*?\s(\d+\.\d+(?:\.\d+)?)\s", text)
    return Driver(version and version[1], (newest.value // 1000, newest.value % 1000 // 10))


def nvcuvid() -> str:
    """Returns whether the driver's libnvcuvid is there: "found" or a sentence. Through it nvJPEG uses the JPEG hardware
    of the GPUs that have it (A100, H100, H200); without it nvJPEG takes the GPU's cores, and no library says so."""
    try:
        ctypes.CDLL("libnvcuvid.so.1")
    except OSError:
        return (
            "not found, so the GPU's JPEG hardware is not used. It is part of the driver; a container has it with "
            "NVIDIA_DRIVER_CAPABILITIES=compute,utility,video"
        )
    return "found"


@cache
def why_no_triton() -> str | None:
    """Returns why Triton's kernels cannot run on this machine's GPU; None where they can.

    Prints it too, once: LRN and the pass over the pixels then take many passes. Triton comes with torch's CUDA wheels,
    but compiles a part of itself with the machine's C compiler, when it is first used.
    """
    try:
        import triton

        triton.runtime.driver.active.get_current_target()
    except Exception as error:  # no such package, no compiler, no libcuda to link with, a compiler that fails
        what = str(error).strip().rstrip(".") or type(error).__name__
        reason = f"Triton is not used: {what}"
    else:
        return None
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"{reason}. Training on the GPU is slower. Install gcc and Python's headers.", file=sys.stderr)
    return reason


def cores(root: Path = Path("/")) -> int:
    """Returns the number of processors this process may use: those it may run on, at most its container's quota.
    `root`: where /proc and /sys are."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(math.ceil(min(allowed, _quota(root))), 1)


def limit_threads(root: Path = Path("/")) -> None:
    """Keeps OpenMP to `cores` where a container has a quota. To be called before torch is imported."""
    if _quota(root) < math.inf:
        os.environ.setdefault("OMP_NUM_THREADS", str(cores(root)))


def _quota(root: Path) -> float:
    """Returns the smallest CPU quota of the control groups this process is in, in processors; infinite without one."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return math.inf
    quotas = [math.inf]
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / controllers
        # A container sees its own group as the mount's top, whatever the path says: so every folder above counts.
        for folder in (mount / group.lstrip("/"), *(mount / group.lstrip("/")).parents):
            if not folder.is_relative_to(mount):
                break
            quotas.append(_quota_of(folder))
    return min(quotas)


def _quota_of(folder: Path) -> float:
    """Returns the quota of one group, in processors: version 2 has one file, version 1 two; -1 and `max`: no limit."""
    names = ["cpu.max"] if (folder / "cpu.max").exists() else ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
    try:
        quota, period = " ".join((folder / name).read_text(encoding="utf-8") for name in names).split()
    except OSError:
        return math.inf
    return math.inf if quota in ("max", "-1") else int(quota) / int(period)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
