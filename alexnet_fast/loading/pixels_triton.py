"""`centre` on a GPU as one pass over the pixels, in Triton. To be imported only where Triton is installed."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024
"""Values of one image that a program computes: eight a thread."""
OPTIONS = {"num_warps": BLOCK // 8 // 32, "enable_fp_fusion": True}


def centre(pixels: Tensor, upright: int, offset: Tensor, out: Tensor) -> None:
    """`handover.centre` into a floating-point `out`; leaves `pixels` as they are. All on one GPU, contiguous."""
    n, height, width, _ = pixels.shape
    size = height * width * 3
    assert all(tensor.is_contiguous() for tensor in (pixels, offset, out))
    assert offset.shape == (n, 3)
    if pixels.numel():
        with torch.cuda.device_of(out):  # Triton launches on the current device
            grid = (n * triton.cdiv(size, BLOCK),)
            _centre[grid](pixels, offset, out, upright, width=width, size=size, block=BLOCK, **OPTIONS)


# `upright` differs from batch to batch: one kernel for all
@triton.jit(do_not_specialize=["upright"])
def _centre(pixels, offset, out, upright: tl.int32, width: tl.constexpr, size: tl.constexpr, block: tl.constexpr):
    blocks: tl.constexpr = (size + block - 1) // block
    image = tl.program_id(0) // blocks
    at = (tl.program_id(0) % blocks) * block + tl.arange(0, block)
    inside, channel = at < size, at % 3
    mirrored = at + (width - 1 - 2 * (at // 3 % width)) * 3
    start = image.to(tl.int64) * size
    value = tl.load(pixels + start + tl.where(image < upright, at, mirrored), mask=inside, other=0).to(tl.float32)
    red, green, blue = [tl.load(offset + image * 3 + i).to(tl.float32) for i in (0, 1, 2)]
    value -= tl.where(channel == 0, red, tl.where(channel == 1, green, blue))
    tl.store(out + start + at, value.to(out.dtype.element_ty), mask=inside)
