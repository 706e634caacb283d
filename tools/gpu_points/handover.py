"""Point 4: what a batch of DALI's costs the host: by DLPack, whose memory DALI frees only after the whole GPU has been
waited for, and by `copy_to_external` into torch's memory."""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from tools.gpu_points.dali_graph import decoding
from tools.gpu_points.setup import Results, Setup
from tools.gpu_points.timing import finish

LAUNCHES, AHEAD = 190, 5
"""Kernels of a step, about what the paper's net has; and steps that the host may be ahead."""
Take = Callable[[Any], torch.Tensor]
"""DALI's pipeline -> its next batch as a tensor that the current stream may read."""


def run(setup: Setup, results: Results) -> None:
    steps = 100 if setup.on_gpu else 3
    batch = 256 if setup.on_gpu else setup.batches[1]
    forms: dict[str, Take] = {"DLPack": by_dlpack, "copy_to_external": Copies(setup)}
    results.put("batch", batch)
    for name, take in forms.items():
        pipeline = decoding(setup, batch)
        loop(setup, pipeline, take, 5 if setup.on_gpu else 1)  # to warm up
        before = seconds_by_thread()
        started = perf_counter()
        latencies = loop(setup, pipeline, take, steps)
        wall = perf_counter() - started
        spent = {key: value - before.get(key, 0.0) for key, value in seconds_by_thread().items()}
        largest = sorted(spent.items(), key=lambda one: -one[1])[:8]
        p50, p99, most = np.percentile(latencies, [50, 99, 100]) * 1e6
        results.put(
            name,
            {
                "images_per_second": steps * batch / wall,
                "launch_us": {"p50": p50, "p99": p99, "max": most},
                "cores_in_use": sum(spent.values()) / wall,
                "cpu_seconds_by_thread": {thread: seconds for thread, seconds in largest if seconds > 0},
            },
        )


def loop(setup: Setup, pipeline: Any, take: Take, steps: int) -> list[float]:
    """Takes a batch a step and queues a step's worth of products. Returns the seconds that each launch took the
    host."""
    side = 4096 if setup.on_gpu else 32
    square = torch.randn(side, side, device=setup.device).bfloat16()
    out = torch.empty_like(square)
    ahead: deque[Any] = deque()
    latencies, total = [], torch.zeros((), dtype=torch.int64, device=setup.device)
    for _ in range(steps):
        pixels = take(pipeline)
        total += pixels.sum()
        for _ in range(LAUNCHES):
            started = perf_counter()
            torch.mm(square, square, out=out)
            latencies.append(perf_counter() - started)
        if setup.on_gpu:
            ahead.append(torch.cuda.current_stream().record_event())
            if len(ahead) > AHEAD:
                ahead.popleft().synchronize()
    finish(setup)
    assert total.item() > 0
    return latencies


def by_dlpack(pipeline: Any) -> torch.Tensor:
    stream = torch.cuda.current_stream() if pipeline.device_id is not None else None
    (images,) = pipeline.run(stream)
    return torch.from_dlpack(images.as_tensor())


class Copies:
    """Copies on a stream of their own; DALI's memory is kept until they are done."""

    def __init__(self, setup: Setup) -> None:
        self._stream = torch.cuda.Stream() if setup.on_gpu else None
        self._under_way: deque[tuple[Any, object]] = deque()

    def __call__(self, pipeline: Any) -> torch.Tensor:
        if self._stream is None:
            (images,) = pipeline.run()
            decoded = images.as_tensor()
            pixels = torch.empty(decoded.shape(), dtype=torch.uint8)
            decoded.copy_to_external(ctypes.c_void_p(pixels.data_ptr()))
            return pixels
        (images,) = pipeline.run(self._stream)
        decoded = images.as_tensor()
        with torch.cuda.stream(self._stream):
            pixels = torch.empty(decoded.shape(), dtype=torch.uint8, device="cuda")
        to, on = ctypes.c_void_p(pixels.data_ptr()), ctypes.c_void_p(self._stream.cuda_stream)
        decoded.copy_to_external(to, on, non_blocking=True)
        while self._under_way and self._under_way[0][0].query():
            self._under_way.popleft()
        self._under_way.append((self._stream.record_event(), images))
        torch.cuda.current_stream().wait_stream(self._stream)
        pixels.record_stream(torch.cuda.current_stream())
        return pixels


def seconds_by_thread() -> dict[str, float]:
    """CPU time of each thread of this process so far, by name and number."""
    found = {}
    for task in Path("/proc/self/task").iterdir():
        try:
            name, fields = (task / "comm").read_text().strip(), (task / "stat").read_text().rpartition(") ")[2].split()
        except OSError:  # it has ended
            continue
        found[f"{name} {task.name}"] = (int(fields[11]) + int(fields[12])) / 100  # utime, stime in ticks of 10 ms
    return found
