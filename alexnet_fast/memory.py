"""Memory: whether there is enough, and buffers that are used again. Reuse decides a third of the speed on a CPU, as
the kernel clears every page that is new."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import ReferenceType, ref

import numpy as np
from numpy.typing import NDArray

from alexnet_fast.errors import InputError
from alexnet_fast.text import byte_text

if TYPE_CHECKING:  # the workers of sharding import no torch
    import torch

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""From glibc's malloc.h."""


def check_memory(needed: float, what: str, instead: str) -> None:
    """Raises InputError when `needed` bytes are more than the free memory, where the system reports it. `what` takes
    them; `instead`: a sentence on what to do."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return
    free = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    if needed > free:
        raise InputError(f"{what} take {byte_text(needed)} of memory, {byte_text(free)} are free. {instead}")


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory for the next use, in the whole process: by default it gives large blocks, such as
    batches and gradients, back to the kernel. Does nothing where the C library has no mallopt."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def give_back_memory() -> None:
    """Gives freed memory back to the kernel, also where `keep_freed_memory` was called; for after something rare and
    large. Does nothing where the C library has no malloc_trim."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim:
        malloc_trim(ctypes.c_size_t(0))


class Buffers:
    """CPU tensors for batches, in the memory of earlier ones that are no longer referenced. glibc's aligned blocks are
    often a few bytes too short for the next of their own size, so it would take new pages."""

    MOST = 8
    """More than a loader and its user hold at a time; further tensors get memory of their own."""
    ALIGNED = 64
    """Bytes: a cache line, as torch's own."""

    def __init__(self) -> None:
        self._buffers: list[tuple[NDArray[np.uint8], ReferenceType[NDArray[np.uint8]]]] = []
        """Each: the memory, and the view of it that the last tensor holds: gone with all of that tensor's views."""

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Returns an uninitialised tensor."""
        import torch

        size = int(np.prod(shape)) * dtype.itemsize
        free = (i for i, (memory, user) in enumerate(self._buffers) if user() is None and len(memory) >= size)
        place = next(free, len(self._buffers))
        if place == self.MOST:
            return torch.empty(shape, dtype=dtype)
        if place < len(self._buffers):
            memory = self._buffers[place][0]
        else:
            memory = np.empty(size + self.ALIGNED, np.uint8)
            start = -memory.ctypes.data % self.ALIGNED
            memory = memory[start : start + size]
        view = memory[:size].reshape(*shape[:-1], -1)
        self._buffers[place : place + 1] = [(memory, ref(view))]
        return torch.from_numpy(view).view(dtype)
