"""Rates and times of work that a GPU may still be busy with when the host has queued it."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch

from tools.gpu_points.setup import Setup
from tools.peer_loaders import summary

WARM_UP = 3
"""Calls before the clock starts: kernels are chosen, compiled and given memory."""


def finish(setup: Setup) -> None:
    """Waits for the GPU, where there is one."""
    if setup.on_gpu:
        torch.cuda.synchronize()


def calls_per_second(work: Callable[[], object], setup: Setup) -> list[float]:
    """Of every turn. The calls of a turn are queued one after the other, and the GPU is waited for at its end."""
    for _ in range(WARM_UP if setup.on_gpu else 1):
        work()
    finish(setup)
    started = perf_counter()
    work()
    finish(setup)
    calls = max(round(setup.seconds / (perf_counter() - started)), 1)
    rates = []
    for _ in range(setup.turns):
        started = perf_counter()
        for _ in range(calls):
            work()
        finish(setup)
        rates.append(calls / (perf_counter() - started))
    return rates


def rate(work: Callable[[], object], images: int, setup: Setup) -> dict[str, Any]:
    """Images/s: the median of the turns, low, high, all. `images`: of a call."""
    return summary([images * calls for calls in calls_per_second(work, setup)])


def milliseconds(work: Callable[[], object], setup: Setup) -> dict[str, Any]:
    """Of a call: the median of the turns, low, high, all."""
    return summary([1000 / calls for calls in calls_per_second(work, setup)])


def peak_gib(setup: Setup) -> dict[str, float]:
    """GPU memory: the most that torch had in use since its count was reset, and what all have in use now."""
    if not setup.on_gpu:
        return {}
    free, total = torch.cuda.mem_get_info()
    return {"torch_peak": torch.cuda.max_memory_allocated() / 2**30, "device_in_use": (total - free) / 2**30}
