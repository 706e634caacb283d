"""LRN's forward and backward as one pass each over channels-last memory: C, compiled for this processor at first use.

Torch needs many passes, each bound by memory (tools/records: step-parts). Here the maps of one tower at one pixel, a
"row", stay in the first-level cache; bfloat16 is computed in float32. `cc` runs once a process, for under a second.
Without a compiler that knows OpenMP `library()` is None and the caller takes torch's passes.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import torch
from torch import Tensor

from alexnet_fast.compiled import load

SOURCE = r"""
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef uint16_t bf16;
static inline float bf16_up(bf16 v) { uint32_t u = (uint32_t)v << 16; float f; memcpy(&f, &u, 4); return f; }
static inline bf16 bf16_down(float f) { /* to the nearest, ties to even; NaN stays NaN */
    uint32_t u; memcpy(&u, &f, 4);
    return f != f ? 0x7fc0 : (u + 0x7fff + (u >> 16 & 1)) >> 16;
}
static inline float float_up(float v) { return v; }
static inline float float_down(float v) { return v; }

/* padded holds half zeros, c values, half zeros: the sum over 2 half + 1 neighbours of value j, for every j */
static inline void window(const float *padded, float *sum, int c, int half) {
    memcpy(sum, padded, c * sizeof *sum);
    if (half == 2)
        for (int j = 0; j < c; j++) sum[j] += padded[j + 1] + padded[j + 2] + padded[j + 3] + padded[j + 4];
    else
        for (int o = 1; o <= 2 * half; o++) for (int j = 0; j < c; j++) sum[j] += padded[j + o];
}

/* y = x s^-3/4 with s = k + a window(x^2); dx = g s^-3/4 - 3/2 a x window(g x s^-7/4) */
#define LRN(T) \
void forward_##T(const T *x, T *y, long rows, int c, int half, float a, float k, int threads) { \
    _Pragma("omp parallel for num_threads(threads)") for (long i = 0; i < rows; i++) { \
        float square[c + 2 * half], sum[c]; \
        memset(square, 0, sizeof square); \
        for (int j = 0; j < c; j++) { float v = T##_up(x[i * c + j]); square[half + j] = v * v; } \
        window(square, sum, c, half); \
        for (int j = 0; j < c; j++) { \
            float root = 1 / sqrtf(k + a * sum[j]); \
            y[i * c + j] = T##_down(T##_up(x[i * c + j]) * root * sqrtf(root)); \
        } \
    } \
} \
void backward_##T(const T *x, T *dx, long rows, int c, int half, float a, float k, int threads, const T *g) { \
    _Pragma("omp parallel for num_threads(threads)") for (long i = 0; i < rows; i++) { \
        float square[c + 2 * half], sum[c], direct[c]; \
        memset(square, 0, sizeof square); \
        for (int j = 0; j < c; j++) { float v = T##_up(x[i * c + j]); square[half + j] = v * v; } \
        window(square, sum, c, half); \
        for (int j = 0; j < c; j++) { \
            float root = 1 / sqrtf(k + a * sum[j]); \
            direct[j] = T##_up(g[i * c + j]) * root * sqrtf(root); \
            square[half + j] = direct[j] * (T##_up(x[i * c + j]) * root * root); \
        } \
        window(square, sum, c, half); \
        for (int j = 0; j < c; j++) \
            dx[i * c + j] = T##_down(direct[j] - 1.5f * a * T##_up(x[i * c + j]) * sum[j]); \
    } \
}
LRN(float)
LRN(bf16)
"""
NAMES = {torch.float32: "float", torch.bfloat16: "bf16"}


@cache
def library() -> ctypes.CDLL | None:
    """The compiled functions, or None where there is no compiler for them."""
    loaded = load(SOURCE, "-O3", "-fno-math-errno", "-fno-trapping-math", "-fopenmp")
    if loaded is None:
        return None
    pointer, number, real = ctypes.c_void_p, ctypes.c_int, ctypes.c_float
    shared = (pointer, pointer, ctypes.c_long, number, number, real, real, number)
    for name in NAMES.values():
        getattr(loaded, f"forward_{name}").argtypes = shared
        getattr(loaded, f"backward_{name}").argtypes = (*shared, pointer)
    return loaded


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def available() -> bool:
    return library() is not None


def applies(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype in NAMES and available()


@torch.library.custom_op("alexnet_fast::lrn", mutates_args=())
def lrn(x: Tensor, towers: int, half: int, a: float, k: float) -> Tensor:
    """(N, C, H, W) -> the same in channels-last memory: x / (k + a * sum of x^2 over 2 half + 1 maps)^0.75.

    Keeps its input alone for the backward pass: the sums are cheaper to compute again than to store.
    """
    return _call("forward", x, towers, half, a, k)


@torch.library.custom_op("alexnet_fast::lrn_backward", mutates_args=())
def lrn_backward(x: Tensor, gradient: Tensor, towers: int, half: int, a: float, k: float) -> Tensor:
    """The gradient of `x` from that of `lrn`'s result."""
    gradient = gradient.to(x.dtype).contiguous(memory_format=torch.channels_last)
    return _call("backward", x, towers, half, a, k, gradient)


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
    function = getattr(library(), f"{name}_{NAMES[x.dtype]}")
    x = x.contiguous(memory_format=torch.channels_last)
    result, width = torch.empty_like(x), x.shape[1] // towers
    settings = x.numel() // width, width, half, a, k, torch.get_num_threads()
    function(x.data_ptr(), result.data_ptr(), *settings, *(m.data_ptr() for m in more))
    return result
