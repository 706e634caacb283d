"""What a run records: a JSON line a logged step or evaluation; and how it is measured."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from alexnet_fast.loading.loader import Loader
from alexnet_fast.training.distributed import Topology, sum_over_processes


def peak_gib(device: torch.device) -> float:
    """Most memory taken so far, GiB: of the GPU by torch, or of the host by this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def append(path: Path, line: dict[str, Any]) -> None:
    rounded = {key: round(value, 5) if isinstance(value, float) else value for key, value in line.items()}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(rounded) + "\n")


def cut(path: Path, step: int, epoch: int) -> None:
    """Takes out of a log what came after `step` and `epoch`: a killed run may have logged past its checkpoint."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if _is_before(line, step, epoch)]
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text("".join(kept), encoding="utf-8")
    os.replace(temporary, path)


def _is_before(line: str, step: int, epoch: int) -> bool:
    try:
        entry = json.loads(line)
    except ValueError:  # the last line of a killed run may be half a line
        return False
    return bool(entry["step"] <= step if "step" in entry else entry["epoch"] <= epoch)


def write_json(path: Path, body: dict[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


class Window:
    """Sums over the steps since the last log line, on the device, and time over the whole run."""

    def __init__(self, topology: Topology, loader: Loader) -> None:
        self._topology, self._loader = topology, loader
        self._sums = torch.zeros(2, dtype=torch.float64, device=topology.device)
        self._new_images = 0
        self._started: float | None = None
        self._waited_before = 0.0
        self._images = self._seconds = self._waited = 0.0

    def begin(self) -> None:
        """Starts the clock, with the first batch at hand: start-up is not training."""
        if self._started is None:
            self._started, self._waited_before = perf_counter(), self._loader.wait_seconds

    def add(self, loss: Tensor, correct: Tensor, images: int) -> None:
        self._sums += torch.stack([loss.double(), correct.double()])
        self._new_images += images

    def pause(self, seconds: float) -> None:
        """Leaves out time spent on something else."""
        assert self._started is not None
        self._started += seconds

    def read(self, stop: bool) -> tuple[dict[str, float], bool]:
        """The log line of the steps since the last call; and whether any process was told to stop."""
        sums = torch.cat([self._sums, self._sums.new_tensor([float(self._new_images), float(stop)])])
        loss, correct, images, stops = sum_over_processes(sums, self._topology).tolist()
        assert self._started is not None
        seconds = perf_counter() - self._started
        waited = self._loader.wait_seconds - self._waited_before
        self._images, self._seconds, self._waited = (
            self._images + images,
            self._seconds + seconds,
            self._waited + waited,
        )
        self._sums, self._new_images = torch.zeros_like(self._sums), 0
        self._started, self._waited_before = perf_counter(), self._loader.wait_seconds
        line = {
            "loss": loss / images,
            "top1": 100 * correct / images,
            "images_per_second": images / seconds,
            "data_wait": waited / seconds,
            "peak_gib": peak_gib(self._topology.device),
        }
        return line, stops > 0

    def totals(self) -> tuple[float, float, float]:
        """Images a second, share of time spent waiting for data (0 to 1), and seconds, all of training alone."""
        seconds = max(self._seconds, 1e-9)
        return self._images / seconds, self._waited / seconds, self._seconds
