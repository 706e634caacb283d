"""Points 1 and 2: what the machine has, and the tests that need a GPU."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys

from tools.gpu_points.setup import ROOT, Results, Setup

COMPILERS = "gcc", "g++", "nvcc"
DALI = "nvidia-dali-cuda120", "nvidia-dali-cuda130"


def run(setup: Setup, results: Results) -> None:
    results.put("missing packages", missing())
    results.put("compilers", {name: printed(name, "--version") for name in COMPILERS})
    results.put("nvidia-smi", printed("nvidia-smi").splitlines())
    results.put("nvcuvid", re.findall(r"libnvcuvid\S*", printed("ldconfig", "-p")))
    import torch

    from alexnet_fast.environment import environment

    results.put("environment", environment())
    if setup.on_gpu:
        properties = torch.cuda.get_device_properties(0)
        results.put("gpu", {"name": properties.name, "gib": properties.total_memory / 2**30})
    results.put("cudnn", torch.backends.cudnn.version())


def compile_native(results: Results) -> None:
    """Compiles the native code in a bare checkout; without a compiler everything runs all the same, slower."""
    if not list((ROOT / "alexnet_fast" / "native").glob("_native*.so")):
        setup = "from setuptools import setup; setup()"
        print(printed(sys.executable, "-W", "ignore", "-c", setup, "-q", "build_ext", "--inplace"))
        results.put("native code compiled", bool(list((ROOT / "alexnet_fast" / "native").glob("_native*.so"))))


def missing() -> list[str]:
    """The packages that pyproject.toml asks for and that are not installed; one of DALI's builds is enough."""
    listed = (ROOT / "pyproject.toml").read_text().partition("\ndependencies = [")[2].partition("\n]")[0]
    names = re.findall(r'^ *"([\w-]+)', listed, re.MULTILINE)
    found = {re.sub(r"[-_.]+", "-", one.metadata["Name"]).lower() for one in importlib.metadata.distributions()}
    return [name for name in names if name not in found and not (name in DALI and found & set(DALI))]


def printed(*command: str) -> str:
    """What a command prints; empty where there is no such command."""
    path = shutil.which(command[0])
    if not path:
        return ""
    done = subprocess.run([path, *command[1:]], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)
    return done.stdout.strip()


def tests(setup: Setup, results: Results) -> None:
    """Raises CalledProcessError where one fails, or pytest is not there."""
    setup.need_gpus()
    pytest = [sys.executable, "-m", "pytest", "-m", "gpu", "-n", "0", "-rfE", "--tb=short", "tests/test_gpu.py"]
    done = subprocess.run(pytest, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    print(done.stdout)
    lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    results.put("tests", [*lines, *done.stdout.strip().splitlines()[-1:]])
    done.check_returncode()
