"""The first convolution, 11x11 stride 4 on 3 channels, computed as 3x3 stride 1 on 48 channels where that is faster."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

KERNEL, STRIDE = 11, 4


class Conv1(nn.Conv2d):
    """(N, 3, S, S) -> (N, width, 1 + (S + 2 padding - 11) // 4, the same). Its parameters are nn.Conv2d's.

    Training in bfloat16 on a CPU it takes the 4x4 pixel blocks as channels: oneDNN's gradient for 3 channels at stride
    4 is slow there. Where the plain convolution measured faster (float32, no gradient) or nothing was measured (GPU),
    it is the plain convolution. tools/records: step-parts.
    """

    takes_blocks: bool | None = None
    """Whether it takes the blocks; None: as said."""

    def __init__(self, width: int, padding: int = 0) -> None:
        super().__init__(3, width, KERNEL, STRIDE, padding)

    def forward(self, x: Tensor) -> Tensor:
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        is_faster = x.device.type == "cpu" and dtype == torch.bfloat16 and torch.is_grad_enabled()
        takes_blocks = is_faster if self.takes_blocks is None else self.takes_blocks
        return self.by_blocks(x) if takes_blocks else super().forward(x)

    def by_blocks(self, x: Tensor) -> Tensor:
        """The same numbers from 3x3 windows of 4x4 pixel blocks, the kernel padded with zeros to 12x12."""
        before = int(self.padding[0])
        ends = [STRIDE * ((side + 2 * before - KERNEL) // STRIDE + 3) - side - before for side in x.shape[2:]]
        blocks = space_to_depth(pad(x, (before, ends[1], before, ends[0])))
        return conv2d(blocks, space_to_depth(pad(self.weight, (0, 1, 0, 1))), self.bias)


def space_to_depth(x: Tensor) -> Tensor:
    """(N, C, 4 H, 4 W) -> (N, 16 C, H, W), channels-last: each 4x4 block's pixels become channels. Of images and,
    padded from 11x11 to 12x12 with zeros, of weights alike."""
    n, c, h, w = x.shape
    blocks = x.permute(0, 2, 3, 1).reshape(n, h // STRIDE, STRIDE, w // STRIDE, STRIDE * c).transpose(2, 3)
    return blocks.reshape(n, h // STRIDE, w // STRIDE, STRIDE * STRIDE * c).permute(0, 3, 1, 2)
