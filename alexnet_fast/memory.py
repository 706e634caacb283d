"""Memory that is used again, which decides a third of the speed on a CPU: the kernel clears every page that is new."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING
from weakref import ReferenceType, ref

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # the workers of sharding import no torch
    import torch

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""From glibc's malloc.h."""


def keep_freed_memory() -> None:
    """Makes glibc keep what is freed for the next use, for this whole process.

    By default it gives large blocks, each batch and each step's gradients, back to the kernel, which then clears
    every page anew. Does nothing where the C library has no mallopt.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


class Buffers:
    """CPU tensors for batches, in memory of earlier ones that nobody holds any more.

    glibc's aligned blocks are often a few bytes too short for the next of their own size, so it would take new pages.
    """

    MOST = 8
    """More than a loader and its user have at a time; who collects batches gets memory of their own."""
    ALIGNED = 64
    """Bytes: a cache line, as torch's own."""

    def __init__(self) -> None:
        self._buffers: list[tuple[NDArray[np.uint8], ReferenceType[NDArray[np.uint8]]]] = []
        """The memory, and the view of it that the last tensor holds: gone with all of that tensor's views."""

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Not initialised."""
        import torch

        size = int(np.prod(shape)) * dtype.itemsize
        free = (i for i, (memory, user) in enumerate(self._buffers) if user() is None and len(memory) >= size)
        place = next(free, len(self._buffers))
        if place == self.MOST:
            return torch.empty(shape, dtype=dtype)
        memory = self._buffers[place][0] if place < len(self._buffers) else _aligned(size, self.ALIGNED)
        view = memory[:size].reshape(*shape[:-1], -1)
        self._buffers[place : place + 1] = [(memory, ref(view))]
        return torch.from_numpy(view).view(dtype)


def _aligned(size: int, to: int) -> NDArray[np.uint8]:
    memory = np.empty(size + to, np.uint8)
    start = -memory.ctypes.data % to
    return memory[start : start + size]
