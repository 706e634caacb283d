"""The numbers of a log line, measured over the steps since the last one."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

import torch
from torch import Tensor

from alexnet_fast.distributed.topology import Topology, merged, sum_over_processes
from alexnet_fast.training.batches import Batches


class StepMeter:
    """Sums loss and correct images over the steps since the last log line, on the device, and time over the whole run.
    `sums`: what `pending` returned when the run was saved."""

    def __init__(self, topology: Topology, batches: Batches, sums: list[float]) -> None:
        self.corrupt: dict[int, str] = {}
        """Names of the corrupt samples that any process has met up to the last line, by number."""
        self.line: dict[str, float] | None = None
        """The last log line; None before the first."""
        self._num_corrupt = 0.0
        self._topology, self._batches = topology, batches
        before = sums if topology.first else [0.0, 0.0, 0.0]
        self._sums = torch.tensor(before[:2], dtype=torch.float64, device=topology.device)
        self._old_images, self._new_images = before[2], 0
        self._started: float | None = None
        self._waited_before = 0.0
        self._images = self._seconds = self._waited = 0.0

    def start(self) -> None:
        """Starts the clock, the first time, when the first batch is there: start-up is not training."""
        if self._started is None:
            self._started = perf_counter()

    def add(self, loss: Tensor, correct: Tensor, images: int) -> None:
        """Adds a step's summed loss and correct images, both on the device, and its number of images."""
        self._sums += torch.stack([loss.double(), correct.double()])
        self._new_images += images

    def pending(self) -> list[float]:
        """Returns loss, correct images and images since the last line, over all processes, which call it together."""
        sums = torch.cat([self._sums, self._sums.new_tensor([self._old_images + self._new_images])])
        totals: list[float] = sum_over_processes(sums, self._topology).tolist()
        return totals

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves out the time spent within."""
        began = perf_counter()
        yield
        assert self._started is not None
        self._started += perf_counter() - began

    def read(self, stop: bool) -> tuple[dict[str, float], bool]:
        """Returns the log line of the steps since the last call; and whether any process has `stop` set. Its `peak_gib`
        is of the process, on a GPU of torch's memory there alone: DALI's decoder has its own."""
        more = [self._old_images, float(self._new_images), float(stop), float(len(self._batches.corrupt))]
        sums = torch.cat([self._sums, self._sums.new_tensor(more)])
        loss, correct, old_images, new_images, stops, num_corrupt = sum_over_processes(sums, self._topology).tolist()
        if num_corrupt != self._num_corrupt:  # by name: in later epochs another process meets the same sample
            self._num_corrupt, self.corrupt = num_corrupt, merged(self._batches.corrupt, self._topology)
        assert self._started is not None
        seconds = perf_counter() - self._started
        waited_until = self._batches.wait_seconds  # after the sums, for which a GPU was waited for
        waited, self._waited_before = waited_until - self._waited_before, waited_until
        self._images += new_images
        self._seconds += seconds
        self._waited += waited
        self._sums, self._old_images, self._new_images = torch.zeros_like(self._sums), 0.0, 0
        self._started = perf_counter()
        images, device = old_images + new_images, self._topology.device
        on_gpu, on_host = device.type == "cuda", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        self.line = {
            "loss": loss / images,
            "top1": 100 * correct / images,
            "images_per_second": new_images / seconds,
            "data_wait": waited / seconds,
            "peak_gib": torch.cuda.max_memory_allocated(device) / 2**30 if on_gpu else on_host,
            "damaged": len(self.corrupt),
        }
        return self.line, stops > 0

    def totals(self) -> tuple[float, float, float]:
        """Returns images/s, share of time spent waiting for data (0 to 1), and seconds, all of training alone."""
        seconds = max(self._seconds, 1e-9)
        return self._images / seconds, self._waited / seconds, self._seconds
