"""How much of a GPU's JPEGs the host's threads decode beside it."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet_fast.loading.cpu import CropReader
from alexnet_fast.loading.handover import copied

if TYPE_CHECKING:
    from alexnet_fast.loading.dali import JpegDecoder

PARTS = 8
"""The share is rounded to so many parts."""


def host_share(jpegs: list[NDArray[np.uint8]], decoder: JpegDecoder, reader: CropReader, device: torch.device) -> float:
    """The share of the JPEGs, 0 to 1, with which `reader` on the host and `decoder` on the device end together, by the
    time that each takes for all of `jpegs`. Raises RuntimeError or ValueError when one does not decode."""
    n = len(jpegs)
    if not n:
        return 0.0

    def finish() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def on_device() -> None:
        decoder.submit(jpegs, np.zeros((n, 2), np.float32))
        decoder.result()
        finish()

    def on_host() -> None:
        cut = reader.submit(jpegs, np.zeros((n, 2), np.uint16), n, torch.zeros(n, 3), torch.uint8)
        copied(cut.result(), device)
        finish()

    device_seconds, host_seconds = seconds_of_second(on_device), seconds_of_second(on_host)
    return round(PARTS * device_seconds / (device_seconds + host_seconds)) / PARTS


def seconds_of_second(work: Callable[[], None]) -> float:
    """Seconds that `work` takes the second time: the first prepares what is used again."""
    work()
    started = perf_counter()
    work()
    return perf_counter() - started
