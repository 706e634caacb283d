"""Finds the first step whose loss or gradients are not finite, and the layer where that began."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from alexnet_fast.config import TrainConfig
from alexnet_fast.errors import TrainingError
from alexnet_fast.loading.batch import Batch
from alexnet_fast.model.alexnet import AlexNet

ADVICE = (
    "Most often the learning rate is too high: try --lr a third of this run's, more warm-up "
    "(--set warmup_epochs=5), or --set precision=fp32. last.pt, if there is one, is from before."
)


class FiniteCheck:
    """Checks every step's loss, and the gradients of the biases: a layer's is the sum of its output's gradient, so not
    finite where any of that is not. Nothing waits for the device: the result is read a few steps later at most.

    torch's fused SGD and the loss scaler skip a step with such gradients, on the device; LARS and Muon do not.
    `is_local`: the network can be called without the other processes, to find the layer.
    """

    def __init__(
        self, model: AlexNet, optimizer: torch.optim.Optimizer, config: TrainConfig, *, is_local: bool
    ) -> None:
        self._model, self._config, self._is_local = model, config, is_local
        self._layers = model.layers()
        self._biases = [layer.bias for layer in self._layers.values() if layer.bias is not None]
        device = self._biases[0].device
        self._is_finite: Tensor | None = None
        """Of each bias' gradient in the step under way."""
        self._step = torch.zeros((), dtype=torch.int64, device=device)
        """The first step that was not finite; 0: none."""
        self._at_step = torch.ones(sum(map(len, self._biases)), dtype=torch.bool, device=device)
        self._found = torch.zeros((), dtype=torch.int64, pin_memory=device.type == "cuda")
        optimizer.register_step_pre_hook(lambda optimizer, *_: self._before_update(optimizer))

    def of_update(self) -> Tensor | None:
        """Returns whether each bias' gradient was finite in the step just done; None where the loss scaler left it
        out."""
        is_finite, self._is_finite = self._is_finite, None
        return is_finite

    def add(self, loss: Tensor, is_finite: Tensor | None, step: int, batch: Batch) -> None:
        """Adds the step number `step` (from 1), just done. `is_finite`: what `of_update` returned. Raises TrainingError
        as `check` does."""
        finite = loss.isfinite() if is_finite is None else loss.isfinite() & is_finite.all()
        is_first = ~finite & (self._step == 0)
        self._step = torch.where(is_first, step, self._step)
        if is_finite is not None:
            self._at_step = torch.where(is_first, is_finite, self._at_step)
        self._found.copy_(self._step, non_blocking=True)
        self.check(batch)

    def check(self, batch: Batch) -> None:
        """Raises TrainingError when a step is known not to have been finite, which it is of all steps once the device
        has been waited for. `batch`: the last one."""
        step = int(self._found)
        if step:
            raise TrainingError(f"{self._described(step, batch)} {ADVICE}")

    def _before_update(self, optimizer: Any) -> None:
        self._is_finite = torch.cat([bias.grad for bias in self._biases if bias.grad is not None]).isfinite()
        if optimizer.defaults.get("fused"):
            optimizer.found_inf = (~self._is_finite.all()).float()

    def _described(self, step: int, batch: Batch) -> str:
        finite = [bool(part.all()) for part in self._at_step.split([len(bias) for bias in self._biases])]
        for name, (own, next_one) in zip(self._layers, pairwise(finite), strict=False):
            if next_one and not own:  # the backward pass comes from there
                return f"the gradient is not finite (step {step}), first that of {name}."
        where = self._first_in_forward_pass(batch) if self._is_local else ""
        return f"the loss is not finite (step {step}){', first ' * bool(where)}{where}."

    @torch.no_grad()
    def _first_in_forward_pass(self, batch: Batch) -> str:
        """Returns where the first number that is not finite comes from, or nothing where that is unknown."""
        for name, layer in self._layers.items():
            if not layer.weight.isfinite().all():
                is_cause = self._config.optimizer == "sgd" or self._config.precision == "fp16"
                return f"the weights of {name}" if is_cause else ""  # with LARS and Muon all of them are by now
        if not batch.images.isfinite().all():
            return "the images"
        names: dict[nn.Module, str] = {m: path for path, m in self._model.named_modules() if not list(m.children())}
        names |= {layer: name for name, layer in self._layers.items()}
        first: list[str] = []

        def note(module: nn.Module, _: object, output: Tensor) -> None:
            if not first and not output.isfinite().all():
                first.append(f"the output of {names[module]}")

        for module in names:
            module.register_forward_hook(note)
        self._model.train()
        dtype = batch.images.dtype
        for images in batch.images.tensor_split(self._config.accumulate):
            with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
                self._model.forward(images)  # not the compiled one, which has no hooks
        return "".join(first)


def check_weights(model: nn.Module) -> None:
    """Raises TrainingError where one is not finite: nothing is to be saved of such a network."""
    for name, values in model.state_dict().items():
        if not values.isfinite().all():
            raise TrainingError(f"{name} is not finite, so nothing is saved. {ADVICE}")
