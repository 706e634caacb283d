"""Schedules and parameter groups against hand-computed numbers and a plain loop."""

import math
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from alexnet_fast.config import TrainConfig
from alexnet_fast.errors import InputError
from alexnet_fast.model.alexnet import build
from alexnet_fast.recipes import make_config
from alexnet_fast.training.optim import learning_rate, make_optimizer, set_learning_rates

PAPER = make_config("paper")


@pytest.mark.parametrize(
    ("epoch", "weights", "biases"),
    [
        (0, 0.01, 0.02),
        (22.4, 0.01, 0.02),
        (22.5, 0.01 / 6.2996, 0.02),
        (45, 0.01 / 39.685, 0.002),
        (67.5, 0.01 / 250, 0.002),
        (89.99, 0.01 / 250, 0.002),
    ],
)
def test_four_steps(epoch: float, weights: float, biases: float) -> None:
    config = make_config("paper", schedule="steps")
    assert learning_rate(config, epoch) == pytest.approx(weights, rel=1e-4)
    assert learning_rate(config, epoch, biases=True) == pytest.approx(biases, rel=1e-4)


@pytest.mark.parametrize(
    ("top1s", "expected"),
    [
        ([], 0.01),
        ([5, 6, 7, 8, 9], 0.01),
        ([9, 8, 9, 7, 8], 0.01),  # four epochs without a better one
        ([9, 8, 9, 7, 8, 9], 0.001),  # five: as good is not better
        ([9, 8, 9, 7, 8, 9, 10, 1, 1, 1, 1], 0.001),
        ([9, 8, 9, 7, 8, 9, 1, 1, 1, 1, 1], 0.0001),  # the count starts afresh after a drop
        ([9, *[1] * 40], 0.00001),  # three drops at most
    ],
)
def test_plateau_divides_by_ten_when_the_top1_stalls(top1s: list[float], expected: float) -> None:
    assert learning_rate(PAPER, 50, top1s) == pytest.approx(expected)
    assert learning_rate(PAPER, 50, top1s, biases=True) == pytest.approx(2 * expected)


def test_the_late_phase_of_the_original_run() -> None:
    """Epochs 68 and 72 of 93 in the notes of #145-2010: conv1 at a tenth of the rate, then frozen."""
    config = make_config("paper", epochs=93)
    optimizer = make_optimizer(build(10, TrainConfig(arch="bn", hidden=16)), config)
    for epoch, factor in [(0, 1.0), (67.9, 1.0), (68, 0.1), (71.9, 0.1), (72, 0.0), (92, 0.0)]:
        set_learning_rates(optimizer, config, epoch)
        rates = {(group["kind"], group["conv1"]): group["lr"] for group in optimizer.param_groups}
        assert rates["weights", False] == pytest.approx(0.01)
        assert rates["biases", False] == pytest.approx(0.02)
        assert rates["weights", True] == pytest.approx(0.01 * factor)
        assert rates["biases", True] == pytest.approx(0.02 * factor)


def test_poly_is_a_parabola_after_the_warm_up() -> None:
    config = make_config("large", lr=8.0, epochs=105)
    assert [learning_rate(config, e) for e in (0, 2.5, 5, 55, 105)] == pytest.approx([0, 4, 8, 2, 0])


def test_fast_schedule_warms_up_then_falls_to_zero() -> None:
    config = make_config("fast", lr=1.0, epochs=12, warmup_epochs=2.0)
    assert [learning_rate(config, e) for e in (0, 1, 2)] == [0, 0.5, 1]
    assert learning_rate(config, 7) == pytest.approx(0.5)
    assert learning_rate(config, 9.5) == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.75)))
    assert learning_rate(config, 12) == pytest.approx(0)


def test_weights_are_decayed_and_biases_and_norms_are_not() -> None:
    model = build(10, TrainConfig(arch="bn"))
    groups = make_optimizer(model, PAPER).param_groups
    decayed = {id(p) for group in groups if group["weight_decay"] == 5e-4 for p in group["params"]}
    plain = {id(p) for group in groups if group["weight_decay"] == 0 for p in group["params"]}
    norms = [p for m in model.modules() if isinstance(m, nn.BatchNorm2d) for p in (m.weight, m.bias)]
    biases = [layer.bias for layer in model.layers().values()]
    assert plain == {id(p) for p in [*norms, *biases]}
    assert decayed == {id(layer.weight) for layer in model.layers().values()}


def test_the_order_of_groups_is_that_of_earlier_checkpoints() -> None:
    for recipe, kinds in {"paper": ["weights"] * 2, "large": ["weights"], "fast": ["kernels", "weights"]}.items():
        config = make_config(recipe, hidden=16)
        groups = make_optimizer(build(10, config), config).param_groups
        conv1 = ["kernels" if recipe == "fast" else "weights", "biases"]
        expected = [(kind, False) for kind in (*kinds, "biases")] + [(kind, True) for kind in conv1]
        assert [(group["kind"], group["conv1"]) for group in groups] == expected


def test_update_is_the_paper_s_while_the_rate_is_constant() -> None:
    """v <- 0.9 v - 0.0005 lr w - lr g; w <- w + v (section 5 of the paper)."""
    layer = nn.Linear(3, 2, bias=False)
    optimizer = make_optimizer(layer, PAPER)
    set_learning_rates(optimizer, PAPER, 0.0)
    w, v = layer.weight.detach().clone(), torch.zeros(2, 3)
    for _ in range(5):
        gradient = torch.randn(2, 3)
        layer.weight.grad = gradient.clone()
        optimizer.step()
        v = 0.9 * v - 0.0005 * 0.01 * w - 0.01 * gradient
        w = w + v
    torch.testing.assert_close(layer.weight.detach(), w)


def test_fused_step_is_the_plain_loop_s() -> None:
    """The velocity is of the same mathematics too, over rates that change and both groups."""
    models = [build(10, TrainConfig(arch="bn", hidden=16)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    config = make_config("paper", precision="bf16")
    ours = make_optimizer(models[0], config)
    assert ours.defaults["fused"]
    groups = make_optimizer(models[1], config).param_groups
    plain = torch.optim.SGD(
        [{key: group[key] for key in ("params", "weight_decay", "kind", "conv1", "rate")} for group in groups],
        lr=config.lr,
        momentum=config.momentum,
        foreach=False,
    )
    for step in range(4):
        for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        for optimizer in (ours, plain):
            set_learning_rates(optimizer, config, step * 20.0)
            optimizer.step()
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("optimizer", ["sgd", "lars"])
def test_dropout_learns_as_in_the_original(optimizer: str) -> None:
    """Kept units as they are in training, all halved when testing: written out, from the same draw of weights."""
    config = make_config("paper", optimizer=optimizer, precision="fp32", hidden=24, dropout=0.3, lr=0.02)
    model = build(5, config)
    original = {name: layer for name, layer in deepcopy(model).layers().items() if name.startswith("fc")}
    for name in ("fc7", "fc8"):
        original[name].weight.data /= 0.7
    ours, theirs = make_optimizer(model, config), make_optimizer(nn.ModuleDict(original), config)
    x, labels = torch.randn(16, 9216), torch.randint(5, (16,))

    def in_original(masks: list[Tensor | float]) -> Tensor:
        seven = original["fc6"](x).relu() * masks[0]
        return original["fc8"](original["fc7"](seven).relu() * masks[1])  # type: ignore[no-any-return]

    for step in range(6):
        torch.manual_seed(step)
        logits = model.classifier(x)
        torch.manual_seed(step)
        masks = [nn.functional.dropout(torch.ones(16, 24), 0.3) * 0.7 for _ in range(2)]
        expected = in_original([*masks])
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
        for of, outputs in ((ours, logits), (theirs, expected)):
            of.zero_grad()
            nn.functional.cross_entropy(outputs, labels).backward()
            set_learning_rates(of, config, 0.0)
            of.step()
    model.eval()
    torch.testing.assert_close(model.classifier(x), in_original([0.7, 0.7]), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(model.classifier(x), in_original([1.0, 1.0]), atol=1e-3)


def test_batch_scales_the_recipe_s_rate_unless_one_is_given() -> None:
    assert make_config("paper", batch=256).lr == pytest.approx(0.02)
    assert make_config("paper", batch=256, lr=0.015).lr == 0.015


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("arch", "vgg", "arch is vgg; it must be paper, half, sixconv, caffe, onetower or bn."),
        ("epochs", 0, "epochs is 0; it must be at least 1."),
        ("dropout", 1.0, "dropout is 1.0; it must be at least 0 and below 1."),
        ("lr", -1.0, "lr is -1.0; it must be 0 or more."),
        ("colour", 1, "unknown setting colour."),
    ],
)
def test_wrong_settings_are_named(name: str, value: object, message: str) -> None:
    with pytest.raises(InputError) as error:
        make_config("paper", **{name: value})
    assert str(error.value) == message


def test_nesterov_s_momentum() -> None:
    """By hand: with momentum 0.5 and a rate of 0.1, gradients of 1 make steps of 0.1 * (1 + 0.5 v), v being 1, 1.5."""
    config = make_config("fast", hidden=16, optimizer="sgd", momentum=0.5, weight_decay=0.0, nesterov=True)
    model = build(2, config)
    optimizer = make_optimizer(model, config)
    bias = model.layers()["fc8"].bias
    assert bias is not None
    before = bias.detach().clone()
    for expected in (0.15, 0.15 + 0.175):
        for group in optimizer.param_groups:
            group["lr"] = 0.1
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
        torch.testing.assert_close(before - bias, torch.full((2,), expected))


@pytest.mark.parametrize("other", [{"momentum": 0.0}, {"optimizer": "lars"}])
def test_nesterov_needs_momentum_and_sgd(other: dict[str, object]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(other))} is"):
        make_config("fast", nesterov=True, **other)
