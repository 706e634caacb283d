"""What is left to do with pixels after decoding: mirror, colour and mean."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from alexnet_fast import environment

CHUNK = 4
"""Images the CPU converts at a time: few enough to stay in its cache."""


def centre(pixels: torch.Tensor, upright: int, offset: torch.Tensor, out: torch.Tensor) -> None:
    """uint8 `pixels` (n, h, w, 3) -> `out`, the same shape of any dtype: pixel minus the image's RGB `offset` (n, 3).

    The first `upright` images stay, the others are mirrored left to right, in place. Where `out` is uint8 nothing is
    subtracted; it may be `pixels` itself. On a GPU one kernel of Triton's does all, where there is Triton.
    """
    if out.device.type == "cuda" and out.dtype != torch.uint8 and environment.why_no_triton() is None:
        from alexnet_fast.loading import pixels_triton

        pixels_triton.centre(pixels, upright, offset.to(out.device, non_blocking=True), out)
        return
    n, height, width, _ = pixels.shape
    chunk = CHUNK if pixels.device.type == "cpu" else n
    for start in range(upright, n, chunk):
        block = pixels[start : start + chunk]
        block.copy_(block.flip(2))
    if out.dtype == torch.uint8:
        if out.data_ptr() != pixels.data_ptr():
            out.copy_(pixels)
        return
    # A whole image row of the offset: the subtraction then runs along contiguous memory, not along 3 channels.
    offset_rows = offset.to(pixels.device, non_blocking=True).repeat(1, width)[:, None]
    rows, results = pixels.view(n, height, width * 3), out.view(n, height, width * 3)
    if pixels.device.type != "cpu":
        torch.sub(rows, offset_rows, out=results)  # the same bits without a float32 copy; on a CPU slower
        return
    for start in range(0, n, chunk):
        part = slice(start, start + chunk)
        block = results[part] if out.dtype == torch.float32 else torch.empty_like(rows[part], dtype=torch.float32)
        block.copy_(rows[part]).sub_(offset_rows[part])
        if out.dtype != torch.float32:
            results[part] = block


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch's CPU operations inside: after many short ones, meeting the others costs more than it saves.

    Setting the number makes torch forget the convolutions it has prepared, so not for nothing.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
