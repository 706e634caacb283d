"""On request, the norms of each layer's gradient, weights and update: whether all layers learn at a like pace."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from alexnet_fast.config import TrainConfig
from alexnet_fast.distributed.topology import Topology, sum_over_processes
from alexnet_fast.model.alexnet import AlexNet

SPLIT: dict[str, tuple[type[nn.Module], ...]] = {"data": (), "towers": (nn.Conv2d, nn.Linear), "hybrid": (nn.Linear,)}
"""Layers of which each process has a part, by the setting `parallel`."""


class LayerScales:
    """Measures the steps that `begin` announces: L2 norms of each whole layer's weights (biases left out) and of their
    gradient, before the step; and of the step's change of the weights, relative to theirs. Such a step copies them."""

    def __init__(
        self, model: AlexNet, optimizer: torch.optim.Optimizer, topology: Topology, config: TrainConfig
    ) -> None:
        self._layers, self._topology = model.layers(), topology
        self._is_split = [isinstance(layer, SPLIT[config.parallel]) for layer in self._layers.values()]
        self._wanted, self.measures = config.layer_scales, False
        """Whether the step under way is measured."""
        self._before: list[Tensor] = []
        self._squares: list[Tensor] = []
        if self._wanted:
            optimizer.register_step_pre_hook(lambda *_: self._look_before())
            optimizer.register_step_post_hook(lambda *_: self._look_after())

    def begin(self, measures: bool) -> None:
        """Announces a step, and whether it is one to measure."""
        self.measures, self._squares = self._wanted and measures, []

    def read(self) -> dict[str, dict[str, float]]:
        """Returns the last step's numbers by kind and layer; empty if it was not measured or the scaler skipped it."""
        if not self._squares:
            return {}
        squares = torch.stack(self._squares)
        if self._topology.world_size > 1 and any(self._is_split):
            parts = torch.tensor(self._is_split, device=squares.device)
            squares = torch.where(parts, sum_over_processes(squares.clone(), self._topology), squares)
        gradient, weight, change = squares.sqrt()
        kinds = {"gradient_norm": gradient, "weight_norm": weight, "update_ratio": change / weight}
        return {
            kind: {name: float(f"{value:.5g}") for name, value in zip(self._layers, values.tolist(), strict=True)}
            for kind, values in kinds.items()
        }

    def _look_before(self) -> None:
        if self.measures:
            weights = [layer.weight.detach() for layer in self._layers.values()]
            gradients = [layer.weight.grad for layer in self._layers.values()]
            self._before = [weight.clone() for weight in weights]
            self._squares = [_squares([g for g in gradients if g is not None]), _squares(weights)]

    def _look_after(self) -> None:
        if self.measures:
            pairs = zip(self._layers.values(), self._before, strict=True)
            self._squares.append(_squares([before.sub_(layer.weight.detach()) for layer, before in pairs]))
            self._before = []


def _squares(tensors: list[Tensor]) -> Tensor:
    """Returns the squared L2 norm of each, (n,)."""
    return torch.stack([torch.linalg.vector_norm(x) for x in tensors]).square()
