"""The optimizers that torch does not have: LARS, and Muon for the kernels of convolutions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.sgd import sgd

ROUNDS, COEFFICIENTS = 4, (3.4445, -4.7750, 2.0315)
"""Of Muon's Newton-Schulz iteration. Its author has 3 rounds for CIFAR-10, torch 5."""


class Lars(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (arXiv 1708.03888, algorithm 1).

    v <- momentum v + lr * rate * (g + decay w); w <- w - v, where a weight tensor's rate is
    trust * |w| / (|g| + decay |w|). Biases and batch norm, which start at zero and would stay there, have rate 1.
    """

    def __init__(self, groups: list[dict[str, Any]], momentum: float, trust: float) -> None:
        super().__init__(groups, {"lr": 0.0, "momentum": momentum, "trust": trust, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for w in group["params"]:
                if w.grad is None:
                    continue
                change = w.grad.add(w, alpha=group["weight_decay"])
                if group["kind"] == "weights":
                    size, slope = torch.linalg.vector_norm(w), torch.linalg.vector_norm(w.grad)
                    rate = group["trust"] * size / (slope + group["weight_decay"] * size)
                    change *= torch.where((size > 0) & (slope > 0), rate, 1.0)
                state = self.state[w]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(w)
                state["momentum_buffer"].mul_(group["momentum"]).add_(change, alpha=group["lr"])
                w -= state["momentum_buffer"]


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/), for
    the groups whose kind is "kernels"; SGD for the others, as torch has it.

    As in the author's training of CIFAR-10 (airbench94_muon), each kernel of such a layer has a norm of 1 in the root
    mean square before every step, which changes nothing where batch norm follows; so a rate of 0.1 changes a tenth of
    the weights. `dtype`: what the update is made orthogonal in.
    """

    def __init__(self, groups: list[dict[str, Any]], momentum: float, *, nesterov: bool, dtype: torch.dtype) -> None:
        defaults = {"lr": 0.0, "momentum": momentum, "nesterov": nesterov, "weight_decay": 0.0}
        super().__init__(groups, defaults)
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            weights = [w for w in group["params"] if w.grad is not None]
            for w in weights:
                if not self.state[w]:
                    self.state[w]["momentum_buffer"] = torch.zeros_like(w)
            gradients, velocities = [w.grad for w in weights], [self.state[w]["momentum_buffer"] for w in weights]
            how = {"momentum": group["momentum"], "nesterov": group["nesterov"], "lr": group["lr"]}
            if group["kind"] == "kernels":
                for w, gradient, velocity in zip(weights, gradients, velocities, strict=True):
                    self._step_kernels(w, gradient, velocity, **how)
            else:
                decay = group["weight_decay"]
                sgd(weights, gradients, velocities, weight_decay=decay, dampening=0, maximize=False, fused=True, **how)

    def _step_kernels(
        self, w: Tensor, gradient: Tensor, velocity: Tensor, *, momentum: float, nesterov: bool, lr: float
    ) -> None:
        velocity.mul_(momentum).add_(gradient)
        change = gradient.add(velocity, alpha=momentum) if nesterov else velocity
        w *= len(w) ** 0.5 / torch.linalg.vector_norm(w)
        w -= lr * orthogonal(change.flatten(1).to(self._dtype)).view_as(w)


def orthogonal(matrix: Tensor) -> Tensor:
    """Returns about U V^T of a `matrix` U S V^T, of no more rows than columns: its singular values all near 1."""
    a, b, c = COEFFICIENTS
    x: Tensor = matrix / (torch.linalg.vector_norm(matrix) + 1e-7)
    for _ in range(ROUNDS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x
