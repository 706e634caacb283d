"""Local response normalisation as the original code computes it, fast in channels-last memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LocalResponseNorm(nn.Module):
    """x / (k + alpha / n * sum of x^2 over n neighbouring maps)^0.75, inside each tower alone.

    Defaults are the paper's constants with alpha divided by n, as the original code and torch do (the paper's
    printed formula does not divide). `towers`: the sum does not cross from one tower's maps to the other's.
    Shapes: (N, C, H, W) in and out. The window sum is a 1x1 convolution with a banded matrix, and the power two
    square roots: torch's own LRN is several times slower in channels-last.
    """

    band: Tensor

    def __init__(self, channels: int, towers: int = 1, n: int = 5, alpha: float = 1e-4, k: float = 2.0) -> None:
        super().__init__()
        self.k = k
        self.towers = towers
        width = channels // towers
        distance = (torch.arange(width)[:, None] - torch.arange(width)).abs()
        band = (distance <= n // 2).float() * (alpha / n)
        self.register_buffer("band", band.repeat(towers, 1)[..., None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        small = x / 16  # whose square stays below fp16's largest number
        scale = nn.functional.conv2d(small * small, (self.band * 256).to(x.dtype), groups=self.towers) + self.k
        inverse_root = scale.rsqrt()
        return x * (inverse_root * inverse_root.sqrt())
