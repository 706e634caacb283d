"""LRN's forward and backward as one pass each over channels-last memory, by native/lrn.c or, on a GPU, Triton.

Torch needs many passes, each bound by memory (tools/records: step-parts). Here the maps of one tower at one pixel, a
"row", stay in the first-level cache; bfloat16 is computed in float32. Where there are no native kernels or no OpenMP
library, or no Triton, the caller takes torch's passes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from alexnet_fast import environment, native

NAMES = {torch.float32: "float", torch.bfloat16: "bf16"}
GPU_TYPES = torch.float32, torch.bfloat16, torch.float16


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def available() -> bool:
    return native.kernels() is not None and native.find_openmp()


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def available_on_gpu() -> bool:
    return environment.why_no_triton() is None


def applies(x: Tensor, half: int) -> bool:
    """Whether `lrn` computes windows of 2 half + 1 maps of such a tensor on this machine."""
    if x.device.type == "cuda":
        return half == 2 and x.dtype in GPU_TYPES and available_on_gpu()
    return x.device.type == "cpu" and x.dtype in NAMES and available()


@torch.library.custom_op("alexnet_fast::lrn", mutates_args=())
def lrn(x: Tensor, towers: int, half: int, a: float, k: float) -> Tensor:
    """(N, C, H, W) -> the same in channels-last memory: x / (k + a * sum of x^2 over 2 half + 1 maps)^0.75. Keeps its
    input alone for the backward pass: the sums are cheaper to compute again than to store."""
    return _call("forward", x, towers, half, a, k)


@torch.library.custom_op("alexnet_fast::lrn_backward", mutates_args=())
def lrn_backward(x: Tensor, gradient: Tensor, towers: int, half: int, a: float, k: float) -> Tensor:
    """The gradient of `x` from that of `lrn`'s result."""
    gradient = gradient.to(x.dtype).contiguous(memory_format=torch.channels_last)
    return _call("backward", x, towers, half, a, k, gradient)


@lrn.register_kernel("cuda")
def lrn_on_gpu(x: Tensor, towers: int, half: int, a: float, k: float) -> Tensor:
    from alexnet_fast.model import lrn_triton

    return lrn_triton.lrn(x, towers, a, k)


@lrn_backward.register_kernel("cuda")
def lrn_backward_on_gpu(x: Tensor, gradient: Tensor, towers: int, half: int, a: float, k: float) -> Tensor:
    from alexnet_fast.model import lrn_triton

    return lrn_triton.lrn_backward(x, gradient, towers, a, k)


@lrn.register_fake
def _(x: Tensor, *settings: Any) -> Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last)


@lrn_backward.register_fake
def _(x: Tensor, gradient: Tensor, *settings: Any) -> Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, *ctx.settings = inputs
    ctx.save_for_backward(x)


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    return lrn_backward(*ctx.saved_tensors, gradient, *ctx.settings), *[None] * len(ctx.settings)


lrn.register_autograd(_gradients, setup_context=_keep)


def _call(name: str, x: Tensor, towers: int, half: int, a: float, k: float, *more: Tensor) -> Tensor:
    function = getattr(native.kernels(), f"{name}_{NAMES[x.dtype]}")
    x = x.contiguous(memory_format=torch.channels_last)
    result, width = torch.empty_like(x), x.shape[1] // towers
    settings = x.numel() // width, width, half, a, k, torch.get_num_threads()
    function(x.data_ptr(), result.data_ptr(), *settings, *(m.data_ptr() for m in more))
    return result
