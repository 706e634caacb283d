"""The step of every kind of network on torch's meta device, which has shapes and no numbers: what mixes devices, asks
for a number or takes a shape from one fails, as it would wait or fail on a GPU."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from alexnet_fast.config import CHOICES
from alexnet_fast.loading.batch import Batch
from alexnet_fast.recipes import make_config
from alexnet_fast.training.finite import FiniteCheck
from alexnet_fast.training.optim import set_learning_rates
from alexnet_fast.training.state import initial_state
from alexnet_fast.training.step import train_step

META = torch.device("meta")
CASES: list[tuple[str, dict[str, Any]]] = [(recipe, {}) for recipe in ("paper", "fast", "large")]
CASES += [("paper", {"arch": arch}) for arch in CHOICES["arch"] if arch != "paper"]
CASES += [("paper", {"lrn": "all", "within_map_norm": True, "accumulate": 2}), ("paper", {"activation": "tanh"})]


@pytest.mark.parametrize(("recipe", "settings"), CASES)
def test_a_step_needs_no_numbers(recipe: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32, as the meta device has no autocast; but the kernel of torch's fused SGD, which it has not."""

    def fused(*lists: list[torch.Tensor], lr: float, found_inf: torch.Tensor | None, **_: Any) -> None:
        shapes = [[x.shape for x in tensors] for tensors in lists]
        assert shapes[0] == shapes[1] == shapes[2]
        assert {x.device for tensors in lists for x in tensors} == {META}
        assert (found_inf.device if found_inf is not None else None) == (META if config.optimizer == "sgd" else None)
        assert isinstance(lr, float)

    monkeypatch.setattr(torch, "_fused_sgd_", fused)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    # By the module's name: torch.optim has no attribute of it, and torch.compile, once used, wraps the class's methods.
    monkeypatch.setattr(sys.modules[torch.optim.SGD.__module__], "_device_dtype_check_for_fused", lambda _: None)
    config = make_config(recipe, hidden=16, precision="fp32", shards="none", **settings)
    state = initial_state(config, 10, META)
    watch = FiniteCheck(state.model, state.optimizer, config, is_local=True)
    rows: Any = None
    for images in (128, 127):
        pixels = torch.empty(images, 3, 224, 224, device=META).to(memory_format=torch.channels_last)
        batch = Batch(pixels, torch.empty(images, dtype=torch.int64, device=META), rows)
        set_learning_rates(state.optimizer, config, 0.5)
        loss, correct = train_step(state.model, state, batch, config, 1.0)
        is_finite = watch.of_update()
        assert is_finite is not None
        assert {loss.device, correct.device, is_finite.device} == {META}
    with pytest.raises(RuntimeError, match="meta"):  # what a number asked for would do
        loss.item()
