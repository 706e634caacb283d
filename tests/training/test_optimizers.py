"""LARS by its paper's formulas; Muon beside torch's own, the singular value decomposition, and a resumed run."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from alexnet_fast.config import TrainConfig
from alexnet_fast.errors import InputError
from alexnet_fast.model.alexnet import build
from alexnet_fast.recipes import make_config
from alexnet_fast.training.optim import make_optimizer, set_learning_rates
from alexnet_fast.training.optimizers import COEFFICIENTS, ROUNDS, Muon, orthogonal
from tests.training.test_checkpoint import assert_same, begin, resume_after, settings

MUON: dict[str, Any] = {"optimizer": "muon", "nesterov": True}
SGD: dict[str, Any] = {"optimizer": "sgd", "nesterov": True}


def test_lars_is_its_paper_s_update() -> None:
    """v <- 0.9 v + lr 0.001 |w| / (|g| + 0.0005 |w|) (g + 0.0005 w); w <- w - v; biases as plain SGD."""
    layer = nn.Linear(3, 2)
    nn.init.zeros_(layer.bias)
    config = make_config("large")
    optimizer = make_optimizer(layer, config)
    for group in optimizer.param_groups:
        group["lr"] = 5.0
    w, v, b, u = layer.weight.detach().clone(), torch.zeros(2, 3), torch.zeros(2), torch.zeros(2)
    for _ in range(4):
        g, h = torch.randn(2, 3), torch.randn(2)
        layer.weight.grad, layer.bias.grad = g.clone(), h.clone()
        optimizer.step()
        size, slope = w.square().sum().sqrt(), g.square().sum().sqrt()
        v = 0.9 * v + 5.0 * 0.001 * size / (slope + 0.0005 * size) * (g + 0.0005 * w)
        u = 0.9 * u + 5.0 * h
        w, b = w - v, b - u
    torch.testing.assert_close(layer.weight.detach(), w)
    torch.testing.assert_close(layer.bias.detach(), b)


def test_lars_moves_a_layer_that_starts_at_zero() -> None:
    layer = nn.Linear(3, 2, bias=False)
    nn.init.zeros_(layer.weight)
    optimizer = make_optimizer(layer, make_config("large"))
    optimizer.param_groups[0]["lr"] = 0.1
    layer.weight.grad = torch.ones(2, 3)
    optimizer.step()
    torch.testing.assert_close(layer.weight.detach(), torch.full((2, 3), -0.1))


@pytest.mark.parametrize("shape", [(3, 4), (16, 16), (64, 363)])
def test_orthogonal_changes_only_singular_values(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, dtype=torch.float64)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    values /= matrix.square().sum().sqrt()
    a, b, c = COEFFICIENTS
    for _ in range(ROUNDS):
        values = a * values + b * values**3 + c * values**5
    torch.testing.assert_close(orthogonal(matrix), left @ torch.diag(values) @ right, rtol=1e-5, atol=1e-6)
    assert values.median() == pytest.approx(1, abs=0.35)


@pytest.mark.parametrize("nesterov", [False, True])
def test_muon_is_torch_s_on_kernels_of_norm_one(nesterov: bool) -> None:
    """torch's takes matrices only, and computes in bf16."""
    torch.manual_seed(0)
    kernels = nn.Parameter(torch.randn(8, 3, 3, 3).to(memory_format=torch.channels_last))
    matrix = nn.Parameter(kernels.detach().flatten(1).clone())
    how: dict[str, Any] = {"momentum": 0.9, "nesterov": nesterov}
    ours = Muon([{"params": [kernels], "kind": "kernels", "lr": 0.1}], **how, dtype=torch.bfloat16)
    theirs = torch.optim.Muon([matrix], lr=0.1, weight_decay=0.0, ns_steps=ROUNDS, **how)
    for _ in range(5):
        gradient = torch.randn(8, 3, 3, 3)
        kernels.grad, matrix.grad = gradient.clone(), gradient.flatten(1)
        matrix.data *= 8**0.5 / matrix.data.square().sum().sqrt()
        for optimizer in (ours, theirs):
            optimizer.step()
        change = 0.1 * 8**0.5  # of a step
        assert (kernels.detach().flatten(1) - matrix.detach()).norm() < 0.05 * change


def test_all_but_kernels_are_trained_by_sgd() -> None:
    """As with optimizer=sgd, bit by bit; kernels as far as the rate says, whatever the gradient's size."""
    nets = [build(10, TrainConfig(arch="bn", hidden=16)) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    configs = [make_config("fast", precision="fp32", epochs=8, **MUON), make_config("fast", epochs=8, **SGD)]
    optimizers = [make_optimizer(net, config) for net, config in zip(nets, configs, strict=True)]
    for _ in range(3):
        for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        before = {name: layer.weight.detach().clone() for name, layer in nets[0].layers().items()}
        for optimizer, config in zip(optimizers, configs, strict=True):
            set_learning_rates(optimizer, config, 0.5)  # half-way through the warm-up
            optimizer.step()
        for name, layer in nets[0].layers().items():
            if name.startswith("conv"):
                whole: Tensor = before[name] * len(before[name]) ** 0.5 / before[name].norm()
                change = (layer.weight.detach() - whole).norm() / whole.norm()
                assert 0.3 * configs[0].muon_rate < change < 0.6 * configs[0].muon_rate
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(a, b) == (a.ndim != 4)


def test_a_larger_batch_has_longer_steps() -> None:
    """Four times the images: four times the rate of SGD, twice that of Muon."""
    small, large = (make_config("fast", batch=batch, **MUON) for batch in (64, 256))
    assert (large.lr / small.lr, large.muon_rate / small.muon_rate) == (4, 2)
    assert make_config("fast", batch=64, **SGD).muon_rate == make_config("fast").muon_rate


def test_a_run_with_muon_is_resumed_exactly(raw_shards: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    begin(settings(raw_shards, batch=30, save_every=1, keep=100, **MUON), whole)
    run = shutil.copytree(whole, tmp_path / "run")
    resume_after(run, 1)
    assert_same(run, whole)


@pytest.mark.parametrize("other", [{"arch": "onetower"}, {"parallel": "hybrid"}])
def test_muon_is_for_batch_norm_on_whole_nets(other: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"(arch is onetower|optimizer is muon)"):
        make_config("fast", optimizer="muon", **other)
