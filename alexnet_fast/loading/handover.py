"""Decoded crops to the batch on the training device: mirror, colour and mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet_fast import environment
from alexnet_fast.loading.plan import Rows

CHUNK = 4
"""Images the CPU converts at a time: few enough to stay in its cache."""


def centre(pixels: torch.Tensor, upright: int, offset: torch.Tensor, out: torch.Tensor) -> None:
    """uint8 `pixels` (n, h, w, 3) -> `out`, the same shape of any dtype: pixel minus the image's RGB `offset` (n, 3).
    The first `upright` images stay, the others are mirrored left to right, in place. Where `out` is uint8, which may be
    `pixels` itself, nothing is subtracted. On a GPU one kernel of Triton's does all, where there is Triton."""
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
    """One thread for torch's CPU operations inside: after many short ones, waiting for the others costs more than they
    save. Setting the number makes torch forget the convolutions it has prepared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def arranged(rows: Rows, decoded: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The order of the rows that `joined` needs: those that DALI decodes first, and of each kind the mirrored last, so
    that a slice is to be flipped."""
    return np.lexsort((rows.mirror, ~decoded))


def joined(
    rows: Rows,
    offset: torch.Tensor,
    jpegs: torch.Tensor | None,
    cut: torch.Tensor | None,
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> torch.Tensor:
    """The images of a batch, (n, 3, crop, crop) of type `dtype` in channels-last memory of `device`.

    `jpegs`: of the first rows, uint8, neither mirrored nor centred yet; `cut`: of the others, mirrored, and centred
    where they are of type `dtype`; both (n, crop, crop, 3). `offset`: `centre`'s, a row an image. All on the device.
    """
    if jpegs is None and cut is not None and cut.dtype == dtype:
        return cut.permute(0, 3, 1, 2)
    first = 0 if jpegs is None else len(jpegs)
    upright = int((~rows.mirror[:first]).sum())
    with one_thread():
        if cut is None and jpegs is not None and dtype == torch.uint8:
            images = jpegs
            centre(jpegs, upright, offset, images)
        else:
            some = jpegs if jpegs is not None else cut
            assert some is not None
            images = torch.empty((len(rows.samples), *some.shape[1:]), dtype=dtype, device=device)
            if jpegs is not None:
                centre(jpegs, upright, offset[:first], images[:first])
            if cut is not None and cut.dtype == dtype:
                images[first:] = cut
            elif cut is not None:  # mirrored already
                centre(cut, len(cut), offset[first:], images[first:])
    return images.permute(0, 3, 1, 2)


def copied(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor, which lies on the host, on the device. The host does not wait for a GPU."""
    if device.type != "cuda":
        return tensor.to(device)
    pinned = tensor.pin_memory()  # which torch does not use again before it is copied
    return on_copy_stream(lambda _: pinned.to(device, non_blocking=True), device)


def on_copy_stream(copy: Callable[[torch.cuda.Stream], torch.Tensor], device: torch.device) -> torch.Tensor:
    """What `copy` makes on a GPU's stream for copies, which it is given: beside the step under way, not behind it. The
    stream in use there waits for it, and its memory is not used again before that stream is done with it."""
    copies, current = _copy_stream(device), torch.cuda.current_stream(device)
    with torch.cuda.stream(copies):
        made = copy(copies)
    current.wait_stream(copies)
    made.record_stream(current)
    return made


@cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all loaders of a GPU: torch keeps freed memory for the stream that it was of."""
    return torch.cuda.Stream(device)
