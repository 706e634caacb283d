"""What a run records: its environment once, and the numbers of a log line, measured here."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from alexnet_fast.distributed.topology import Topology, merged, sum_over_processes
from alexnet_fast.files import written
from alexnet_fast.loading.loader import Loader


def peak_gib(device: torch.device) -> float:
    """Most memory taken so far, GiB: of the GPU by torch, or of the host by this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def write_json(path: Path, body: dict[str, Any]) -> None:
    with written(path) as temporary:
        temporary.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")


class Window:
    """Sums over the steps since the last log line, on the device, and time over the whole run.

    `sums`: what `pending` gave when the run was saved.
    """

    def __init__(self, topology: Topology, loader: Loader, sums: list[float]) -> None:
        self.damaged: dict[int, str] = {}
        """Names of the damaged samples that any process has met until the last line, by number."""
        self._found = 0.0
        self._topology, self._loader = topology, loader
        before = sums if topology.first else [0.0, 0.0, 0.0]
        self._sums = torch.tensor(before[:2], dtype=torch.float64, device=topology.device)
        self._old_images, self._new_images = before[2], 0
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

    def pending(self) -> list[float]:
        """Loss, correct images and images since the last line, over all processes, which call it together."""
        sums = torch.cat([self._sums, self._sums.new_tensor([self._old_images + self._new_images])])
        totals: list[float] = sum_over_processes(sums, self._topology).tolist()
        return totals

    def pause(self, seconds: float) -> None:
        """Leaves out time spent on something else."""
        assert self._started is not None
        self._started += seconds

    def read(self, stop: bool) -> tuple[dict[str, float], bool]:
        """The log line of the steps since the last call; and whether any process was told to stop."""
        more = [self._old_images, float(self._new_images), float(stop), float(len(self._loader.damaged))]
        sums = torch.cat([self._sums, self._sums.new_tensor(more)])
        loss, correct, old_images, new_images, stops, found = sum_over_processes(sums, self._topology).tolist()
        if found != self._found:  # by name: in later epochs another process meets the same sample
            self._found, self.damaged = found, merged(self._loader.damaged, self._topology)
        assert self._started is not None
        seconds = perf_counter() - self._started
        waited = self._loader.wait_seconds - self._waited_before
        self._images, self._seconds, self._waited = (
            self._images + new_images,
            self._seconds + seconds,
            self._waited + waited,
        )
        self._sums, self._old_images, self._new_images = torch.zeros_like(self._sums), 0.0, 0
        self._started, self._waited_before = perf_counter(), self._loader.wait_seconds
        images = old_images + new_images
        line = {
            "loss": loss / images,
            "top1": 100 * correct / images,
            "images_per_second": new_images / seconds,
            "data_wait": waited / seconds,
            "peak_gib": peak_gib(self._topology.device),
            "damaged": len(self.damaged),
        }
        return line, stops > 0

    def totals(self) -> tuple[float, float, float]:
        """Images a second, share of time spent waiting for data (0 to 1), and seconds, all of training alone."""
        seconds = max(self._seconds, 1e-9)
        return self._images / seconds, self._waited / seconds, self._seconds
