"""Gathers with gradients, between processes that share one network. Imports torch.distributed, as only the room
`distributed` does besides."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class Peers:
    """This process, number `rank` of the `world_size` that hold parts of one network."""

    rank: int
    world_size: int
    host: dist.ProcessGroup | None = None
    """The group for numbers that the host needs; None: the default one, which then must not be NCCL's."""

    @classmethod
    def of_default_group(cls) -> Peers:
        nccl = dist.get_backend() == "nccl"
        return cls(dist.get_rank(), dist.get_world_size(), dist.new_group(backend="gloo") if nccl else None)

    def parts(self, length: int) -> list[int]:
        """The near-equal lengths of all processes' parts of `length` kernels, units or columns."""
        edges = [length * rank // self.world_size for rank in range(self.world_size + 1)]
        return [stop - start for start, stop in pairwise(edges)]

    def own(self, length: int) -> slice:
        """This process' part of them."""
        sizes = self.parts(length)
        return slice(sum(sizes[: self.rank]), sum(sizes[: self.rank + 1]))

    def gather(self, own: Tensor, dim: int, sizes: list[int], replicated: bool = False) -> Tensor:
        """All processes' tensors, joined along `dim`; process i's is sizes[i] long there.

        Backward, a process gets the sum of all processes' gradients of its own tensor. `replicated`: what follows
        is the same computation everywhere, as of the same loss, so its gradient is there already and nothing is sent.
        """
        return _Gather.apply(own, dim, sizes, self.rank, replicated)  # type: ignore[no-any-return,no-untyped-call]

    def counts(self, number: int) -> list[int]:
        """The `number` of every process. Waits for the other hosts, not for the devices."""
        numbers = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world_size)]
        dist.all_gather(numbers, torch.tensor([number]), group=self.host)
        return [int(each) for each in numbers]


class _Gather(torch.autograd.Function):
    """All-gather; its gradient is a reduce-scatter, as an all-to-all and a sum: that sends no more than a ring's
    reduce-scatter, adds in float32, and exists for gloo and NCCL alike. Unequal parts are padded to the largest."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, dim: int, sizes: list[int], rank: int, replicated: bool) -> Tensor:
        ctx.settings = dim, sizes, rank, replicated
        sent = _lengthened(own, dim, max(sizes)).contiguous()
        parts = [torch.empty_like(sent) for _ in sizes]
        dist.all_gather(parts, sent)
        return torch.cat([part.narrow(dim, 0, size) for part, size in zip(parts, sizes, strict=True)], dim)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        dim, sizes, rank, replicated = ctx.settings
        pieces = gradient.split(sizes, dim)
        if replicated:
            return pieces[rank], None, None, None, None
        sent = torch.stack([_lengthened(piece, dim, max(sizes)) for piece in pieces])
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent)
        return received.sum(0).narrow(dim, 0, sizes[rank]), None, None, None, None


def _lengthened(x: Tensor, dim: int, length: int) -> Tensor:
    """With zeros at the end of `dim`."""
    shape = list(x.shape)
    shape[dim] = length - x.shape[dim]
    return torch.cat([x, x.new_zeros(shape)], dim) if shape[dim] else x
