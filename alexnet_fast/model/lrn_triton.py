"""LRN on a GPU as one pass each way over channels-last memory, in Triton: what native/lrn.c does on a CPU.

Torch's operations read or write the maps about 50 times forward and backward. Here it is five times: x in and y out;
x and the gradient in, x's gradient out, the sums computed again. Everything is computed in float32. A thread computes
eight neighbouring maps of a pixel; those beyond, which their windows reach, it reads too, from the first-level cache.
To be imported only where Triton is installed.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

REACH = 2
"""The window's maps on each side of its middle: n = 5, as in all of the paper's networks."""
BLOCK = 256
"""Groups of eight maps that a program computes: one a thread."""
OPTIONS = {"num_warps": BLOCK // 32, "enable_fp_fusion": True}


def lrn(x: Tensor, towers: int, a: float, k: float) -> Tensor:
    """Returns `lrn_kernel.lrn`'s result for n = 5, in channels-last memory; other memory is copied first."""
    return _launch(_forward, towers, a, k, x)


def lrn_backward(x: Tensor, gradient: Tensor, towers: int, a: float, k: float) -> Tensor:
    """Returns the gradient of `x` from that of `lrn`'s result, in x's type and channels-last memory."""
    return _launch(_backward, towers, a, k, x, gradient)


def _launch(kernel, towers: int, a: float, k: float, *inputs: Tensor) -> Tensor:
    inputs = tuple(one.contiguous(memory_format=torch.channels_last) for one in inputs)
    result, width = torch.empty_like(inputs[0]), inputs[0].shape[1] // towers
    rows = result.numel() // width
    if rows:
        with torch.cuda.device_of(result):  # Triton launches on the current device
            grid = (triton.cdiv(rows * triton.cdiv(width, 8), BLOCK),)
            kernel[grid](*inputs, result, rows, a, k, width=width, block=BLOCK, **OPTIONS)
    return result


# A row is one tower's maps at one pixel: `width` contiguous values. Their number does not change the kernel: a batch of
# another size compiles nothing.
@triton.jit(do_not_specialize=["rows"])
def _forward(x_maps, y_maps, rows: tl.int64, a, k, width: tl.constexpr, block: tl.constexpr):
    """y = x s^-3/4 with s = k + a window(x^2)."""
    row, first = _place(width, block)
    x = _eight(x_maps, row, first, rows, width, block)
    before = _eight(x_maps, row, first - 8, rows, width, block)
    after = _eight(x_maps, row, first + 8, rows, width, block)
    q = [v * v for v in before[6:8] + x + after[0:2]]
    s = [k + a * (q[i] + q[i + 1] + q[i + 2] + q[i + 3] + q[i + 4]) for i in (0, 1, 2, 3, 4, 5, 6, 7)]
    root = [tl.rsqrt(v) for v in s]
    y = [x[i] * root[i] * tl.sqrt(root[i]) for i in (0, 1, 2, 3, 4, 5, 6, 7)]
    _store_eight(y_maps, row, first, rows, y, width, block)


@triton.jit(do_not_specialize=["rows"])
def _backward(x_maps, g_maps, dx_maps, rows: tl.int64, a, k, width: tl.constexpr, block: tl.constexpr):
    """dx = g s^-3/4 - 3/2 a x window(g x s^-7/4): needs that product of twelve maps and the squares of sixteen."""
    row, first = _place(width, block)
    own = _eight(x_maps, row, first, rows, width, block)
    before = _eight(x_maps, row, first - 8, rows, width, block)
    after = _eight(x_maps, row, first + 8, rows, width, block)
    g_own = _eight(g_maps, row, first, rows, width, block)
    g_before = _eight(g_maps, row, first - 8, rows, width, block)
    g_after = _eight(g_maps, row, first + 8, rows, width, block)
    x, g = before[4:8] + own + after[0:4], g_before[6:8] + g_own + g_after[0:2]
    q = [v * v for v in x]
    s = [k + a * (q[i] + q[i + 1] + q[i + 2] + q[i + 3] + q[i + 4]) for i in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)]
    root = [tl.rsqrt(v) for v in s]
    direct = [g[i] * root[i] * tl.sqrt(root[i]) for i in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)]
    inner = [direct[i] * (x[i + 2] * root[i] * root[i]) for i in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)]
    dx = [
        direct[i + 2] - 1.5 * a * x[i + 4] * (inner[i] + inner[i + 1] + inner[i + 2] + inner[i + 3] + inner[i + 4])
        for i in (0, 1, 2, 3, 4, 5, 6, 7)
    ]
    _store_eight(dx_maps, row, first, rows, dx, width, block)


@triton.jit
def _place(width: tl.constexpr, block: tl.constexpr):
    """The row and the first map of each of this program's groups, two (block,) of int64."""
    groups: tl.constexpr = (width + 7) // 8
    group = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    return group // groups, (group % groups) * 8


@triton.jit
def _eight(maps, row, first, rows, width: tl.constexpr, block: tl.constexpr):
    """Maps `first` to `first` + 7 of each row as eight (block,) of float32; zeros past the row's ends."""
    row, column = row[:, None], first[:, None] + tl.arange(0, 8)[None, :]
    inside = (row < rows) & (column >= 0) & (column < width)
    v = tl.load(maps + (row * width + column), mask=inside, other=0.0).to(tl.float32)
    v0246, v1357 = tl.split(tl.reshape(v, (block, 2, 2, 2)))
    v04, v26 = tl.split(v0246)
    v15, v37 = tl.split(v1357)
    v0, v4 = tl.split(v04)
    v1, v5 = tl.split(v15)
    v2, v6 = tl.split(v26)
    v3, v7 = tl.split(v37)
    return v0, v1, v2, v3, v4, v5, v6, v7


@triton.jit
def _store_eight(maps, row, first, rows, v, width: tl.constexpr, block: tl.constexpr):
    """Writes what `_eight` reads, rounded to the type of `maps`."""
    v0246 = tl.join(tl.join(v[0], v[4]), tl.join(v[2], v[6]))
    v1357 = tl.join(tl.join(v[1], v[5]), tl.join(v[3], v[7]))
    values = tl.reshape(tl.join(v0246, v1357), (block, 8))
    row, column = row[:, None], first[:, None] + tl.arange(0, 8)[None, :]
    inside = (row < rows) & (column < width)
    tl.store(maps + (row * width + column), values.to(maps.dtype.element_ty), mask=inside)
