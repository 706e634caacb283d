"""A convolution of the two towers' maps as one with groups, or as one a tower: on a GPU either may be the faster."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from alexnet_fast.model.conv1 import Conv1


class GroupedConv(nn.Conv2d):
    """nn.Conv2d at stride 1. `apart`: computed as one convolution a group."""

    apart = False

    def forward(self, x: Tensor) -> Tensor:
        if not self.apart or self.groups == 1:
            return super().forward(x)
        assert self.bias is not None
        split = [each.chunk(self.groups, dim) for each, dim in ((x, 1), (self.weight, 0), (self.bias, 0))]
        padding = int(self.padding[0])
        return torch.cat([conv2d(x, w, b, padding=padding) for x, w, b in zip(*split, strict=True)], 1)


def choose_forms(model: nn.Module, *, conv1_by_blocks: bool | None = None, groups_apart: bool = False) -> None:
    """Sets how the convolutions of `model` are computed, whose results are the same to rounding; None: as `Conv1` has
    it by itself. For tools that measure."""
    for layer in model.modules():
        if isinstance(layer, Conv1):
            layer.takes_blocks = conv1_by_blocks
        elif isinstance(layer, GroupedConv):
            layer.apart = groups_apart
