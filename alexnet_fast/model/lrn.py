"""Local response normalisation as the original code computes it, fast in channels-last memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from alexnet_fast.model import lrn_kernel


class LocalResponseNorm(nn.Module):
    """x / (k + alpha / n * sum of x^2 over n neighbouring maps)^0.75, inside each tower alone.

    Defaults are the paper's constants with alpha divided by n, as the original code and torch do (the paper's
    printed formula does not divide). `towers`: the sum does not cross from one tower's maps to the other's.
    Shapes: (N, C, H, W) in and out, n odd. One compiled pass (`lrn_kernel`) where there is one, elsewhere torch's
    operations: torch's own LRN is many times slower in channels-last.
    """

    band: Tensor

    def __init__(self, channels: int, towers: int = 1, n: int = 5, alpha: float = 1e-4, k: float = 2.0) -> None:
        super().__init__()
        self.towers, self.reach, self.scale, self.k = towers, n // 2, alpha / n, k
        width = channels // towers
        distance = (torch.arange(width)[:, None] - torch.arange(width)).abs()
        band = (distance <= self.reach).float() * (self.scale * SQUARED_SHRINK)
        self.register_buffer("band", band.repeat(towers, 1)[..., None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if lrn_kernel.applies(x, self.reach):
            x = x.contiguous(memory_format=torch.channels_last)  # here, not once more for the backward pass
            return lrn_kernel.lrn(x, self.towers, self.reach, self.scale, self.k)  # type: ignore[no-any-return]
        return _Banded.apply(x, self.band.to(x.dtype), self.towers, self.k)  # type: ignore[no-any-return,no-untyped-call]


class WithinMapNorm(nn.Module):
    """x / (1 + 0.001 / 25 * sum of x^2 over a map's 5x5 neighbours)^0.75, zeros past the edge. Layer file #145 has it
    after the second layer's LRN; the paper does not mention it. Shapes: (N, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        mean = nn.functional.avg_pool2d(wide * wide, 5, stride=1, padding=2)
        return (wide * (1 + 0.001 * mean).pow(-0.75)).to(x.dtype)


SHRINK = 16.0
"""x / 16 has a square below fp16's largest number; the band, alpha / n * 256, is no fp16 subnormal."""
SQUARED_SHRINK = SHRINK**2


class _Banded(torch.autograd.Function):
    """The window's sum as a 1x1 convolution with a banded matrix (C, C / towers, 1, 1), the power two square roots.
    With s = k + a * window(x^2): y = x s^-3/4, dx = g s^-3/4 - 3/2 a x * window(g x s^-7/4)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, band: Tensor, towers: int, k: float) -> Tensor:
        ctx.save_for_backward(x, band)
        ctx.towers, ctx.k = towers, k
        root = _inverse_root(x, band, towers, k)
        return root.sqrt().mul_(root).mul_(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, band = ctx.saved_tensors
        root = _inverse_root(x, band, ctx.towers, ctx.k)
        direct = root.sqrt().mul_(root).mul_(gradient)
        inner = root.mul_(root).mul_(x).mul_(direct)
        windows = nn.functional.conv2d(inner, band, groups=ctx.towers)
        return direct.addcmul_(x, windows, value=-1.5 / SQUARED_SHRINK), None, None, None


def _inverse_root(x: Tensor, band: Tensor, towers: int, k: float) -> Tensor:
    """(k + a * window(x^2))^-1/2, a new tensor."""
    small = x / SHRINK
    return nn.functional.conv2d(small.mul_(small), band, groups=towers).add_(k).rsqrt_()
