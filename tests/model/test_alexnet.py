"""The networks against the paper's numbers, torch's own layers and hand computation."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from alexnet_fast.config import CHOICES, TrainConfig
from alexnet_fast.errors import InputError
from alexnet_fast.model.alexnet import AlexNet, build
from alexnet_fast.model.conv1 import Conv1
from alexnet_fast.model.grouped import choose_forms
from alexnet_fast.model.lrn import WithinMapNorm


def multiply_adds(model: nn.Module, side: int) -> int:
    """Of convolutions and linear layers, counted from the shapes that pass through them."""
    total = 0

    def count(layer: nn.Conv2d | nn.Linear, _: object, output: torch.Tensor) -> None:
        nonlocal total
        total += output[0].numel() * layer.weight[0].numel()

    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    model(torch.zeros(1, 3, side, side))
    return total


@pytest.mark.parametrize(
    ("arch", "classes", "bottleneck", "parameters", "operations"),
    [
        ("paper", 1000, 0, 60_965_224, 724_406_816),
        ("half", 1000, 0, 59_798_312, 391_514_384),
        ("sixconv", 1000, 0, 61_555_304, 745_640_480),
        ("sixconv", 10_184, 0, 99_182_152, 783_258_144),
        ("sixconv", 21_843, 2048, 110_605_267, 794_667_552),
        ("onetower", 1000, 0, 61_100_840, 714_188_480),
    ],
)
def test_parameters_and_multiply_adds(
    arch: str, classes: int, bottleneck: int, parameters: int, operations: int
) -> None:
    model = build(classes, TrainConfig(arch=arch, bottleneck=bottleneck)).eval()
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert multiply_adds(model, 224) == operations


@pytest.mark.parametrize(
    ("change", "gone", "new"),
    [
        ({"lrn": "none"}, {"lrn1", "lrn2"}, {}),
        (
            {"without": "conv3 fc7"},
            {"conv3", "active3", "fc7", "active7", "dropout7"},
            {"conv4.weight": (384, 128, 3, 3)},
        ),
        ({"without": "conv5"}, {"conv5", "active5"}, {"fc6.weight": (64, 384 * 36)}),
        ({"without": "conv2"}, {"conv2", "active2"}, {"conv3.weight": (384, 96, 3, 3)}),
        ({"without": "fc6"}, {"fc6", "active6", "dropout6"}, {"fc7.weight": (64, 9216)}),
    ],
)
def test_an_ablation_takes_out_what_it_names(
    change: dict[str, str], gone: set[str], new: dict[str, tuple[int, ...]]
) -> None:
    whole, ablated = (build(7, TrainConfig(hidden=64, **each)) for each in ({}, change))  # type: ignore[arg-type]
    names = [
        {name for part in (m.features, m.classifier) for name, _ in part.named_children()} for m in (whole, ablated)
    ]
    assert names[0] - names[1] == gone
    assert names[1] <= names[0]
    shapes = {name.partition(".")[2]: tuple(p.shape) for name, p in ablated.named_parameters()}
    assert new.items() <= shapes.items()
    assert ablated(torch.zeros(1, 3, 224, 224)).shape == (1, 7)


def test_tanh_begins_unsaturated() -> None:
    """On pixels of 0-255 less their mean, where the paper's 0.01 and biases of 1 leave most units at -1 or 1."""
    torch.manual_seed(0)
    model = build(7, TrainConfig(hidden=64, activation="tanh")).eval()
    activations: list[torch.Tensor] = []
    for layer in model.modules():
        if isinstance(layer, nn.Tanh):
            layer.register_forward_hook(lambda layer, inputs, output: activations.append(output))
    model(60 * torch.randn(4, 3, 224, 224))
    assert len(activations) == 7
    assert all((active.abs() < 0.9).float().mean() > 0.95 for active in activations)


def test_pooling_without_overlap_and_tanh() -> None:
    model = build(7, TrainConfig(hidden=64, pool=2, activation="tanh"))
    assert {m.kernel_size for m in model.modules() if isinstance(m, nn.MaxPool2d)} == {2}
    assert sum(isinstance(m, nn.Tanh) for m in model.modules()) == 7
    assert not any(isinstance(m, nn.ReLU) for m in model.modules())
    assert model.features(torch.zeros(1, 3, 224, 224)).shape == (1, 256, 6, 6)


def test_within_map_norm_is_the_sum_over_25_neighbours() -> None:
    """Layer file #145: scale .001 / 25, pow .75, and a constant of 1."""
    x = torch.randn(2, 3, 7, 9) * 40
    y = WithinMapNorm()(x)
    for n, c, row, column in [(0, 0, 0, 0), (1, 2, 3, 4), (0, 1, 6, 8), (1, 0, 1, 7)]:
        window = x[n, c, max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3]
        expected = x[n, c, row, column] / (1 + 0.001 / 25 * (window**2).sum()) ** 0.75
        assert y[n, c, row, column].item() == pytest.approx(expected.item(), rel=1e-5)
    names = [name for name, _ in build(7, TrainConfig(within_map_norm=True)).features.named_children()]
    assert names[names.index("lrn2") : names.index("pool2") + 1] == ["lrn2", "within2", "pool2"]


def test_lrn_over_all_maps_is_torch_s() -> None:
    ours = build(7, TrainConfig(lrn="all")).features.get_submodule("lrn2")
    x = torch.randn(2, 256, 5, 5) * 40
    torch.testing.assert_close(ours(x), nn.functional.local_response_norm(x, 5, 1e-4, 0.75, 2.0))


def test_only_the_paper_s_nets_have_ablations() -> None:
    with pytest.raises(InputError, match="pool is 2; it must be 3 with arch bn"):
        TrainConfig(arch="bn", pool=2)


def test_shapes_of_the_paper() -> None:
    model, shapes = build(10), []
    x = torch.zeros(1, 3, 224, 224)
    for layer in model.features:
        x = layer(x)
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            shapes.append(tuple(x.shape[1:]))
    conv, pool = [(96, 55, 55), (256, 27, 27)], [(96, 27, 27), (256, 13, 13)]
    assert shapes == [conv[0], pool[0], conv[1], pool[1], *[(384, 13, 13)] * 2, (256, 13, 13), (256, 6, 6)]
    assert torch.equal(model.avgpool(x), x)  # the identity at 224 px


def test_last_window_of_conv1_sees_three_zero_pixels_past_the_edge() -> None:
    model = build(10)
    x = torch.randn(1, 3, 224, 224)
    padded = torch.zeros(1, 3, 227, 227)
    padded[:, :, :224, :224] = x
    expected = nn.functional.conv2d(padded, model.features[1].weight, model.features[1].bias, stride=4)  # type: ignore[arg-type]
    assert torch.equal(model.features[1](model.features[0](x)), expected)


def test_order_of_the_first_two_layers_is_the_layer_file_s() -> None:
    names = [type(m).__name__ for m in build(10).features]
    assert names[1:5] == ["Conv1", "LocalResponseNorm", "MaxPool2d", "ReLU"]
    assert names[5:9] == ["GroupedConv", "ReLU", "LocalResponseNorm", "MaxPool2d"]


def test_initialisation_is_the_layer_file_s() -> None:
    """fc7 and fc8 read outputs that the original halves when testing, and torch doubles in training."""
    for name, layer in build(1000).layers().items():
        std = 0.03 if name in ("conv3", "conv4", "conv5") else 0.005 if name in ("fc7", "fc8") else 0.01
        bias = 1.0 if name in ("conv2", "conv4", "conv5", "fc6", "fc7") else 0.0
        assert layer.weight.std().item() == pytest.approx(std, rel=0.02)
        assert layer.bias is not None
        assert (layer.bias == bias).all()


def test_onetower_has_torchvision_s_names_and_shapes() -> None:
    widths: dict[str, tuple[int, ...]] = {
        "0": (64, 3, 11, 11),
        "3": (192, 64, 5, 5),
        "6": (384, 192, 3, 3),
        "8": (256, 384, 3, 3),
    }
    widths["10"] = (256, 256, 3, 3)
    expected: dict[str, tuple[int, ...]] = {f"features.{i}.weight": shape for i, shape in widths.items()}
    expected |= {f"features.{i}.bias": shape[:1] for i, shape in widths.items()}
    for i, shape in {"1": (4096, 9216), "4": (4096, 4096), "6": (1000, 4096)}.items():
        expected |= {f"classifier.{i}.weight": shape, f"classifier.{i}.bias": shape[:1]}
    model = build(1000, TrainConfig(arch="onetower"))
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == expected
    conv1 = model.layers()["conv1"]
    assert isinstance(conv1, nn.Conv2d)
    assert (conv1.stride, conv1.padding) == ((4, 4), (2, 2))


@pytest.mark.parametrize("arch", CHOICES["arch"])
@pytest.mark.parametrize("side", [64, 112, 224])
def test_smaller_inputs_work_and_reach_every_weight(arch: str, side: int) -> None:
    model: AlexNet = build(7, TrainConfig(arch=arch, hidden=64))
    logits = model(torch.randn(2, 3, side, side) * 50)
    assert logits.shape == (2, 7)
    nn.functional.cross_entropy(logits, torch.tensor([0, 1])).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("side", "maps", "dropout"), [(64, 1, 0.0), (112, 2, 0.0), (128, 3, 0.0), (160, 4, 0.0), (112, 2, 0.5)]
)
def test_fc6_takes_small_maps_as_the_pooled_ones(side: int, maps: int, dropout: float) -> None:
    """Outputs and gradients, in float64, of maps that the adaptive pool makes 6x6; where dropout is to leave out values
    they are pooled first, and it leaves out the same ones."""
    net = build(10, TrainConfig(arch="bn", hidden=8, dropout=dropout)).double()
    nn.init.normal_(net.layers()["fc8"].weight)
    x = torch.randn(3, 3, side, side, dtype=torch.float64)
    assert net.features(x).shape == (3, 256, maps, maps)

    def pooled(x: Tensor) -> Tensor:
        return net.classifier(net.avgpool(net.features(x)).flatten(1))  # type: ignore[no-any-return]

    results = []
    for forward in (net, pooled):
        net.zero_grad()
        torch.manual_seed(1)
        logits = forward(x)
        (logits**2).sum().backward()
        results.append([logits.detach(), *(p.grad for p in net.parameters())])
    torch.testing.assert_close(*results)
    assert (net.columns(x).shape[1] < 256 * 36) == (maps < 4 and not dropout)
    net.eval()
    torch.testing.assert_close(net(x), pooled(x))


def test_bn_starts_at_the_loss_of_chance() -> None:
    torch.manual_seed(0)
    loss = nn.functional.cross_entropy(
        build(10, TrainConfig(arch="bn"))(torch.randn(16, 3, 112, 112) * 60), torch.arange(16) % 10
    )
    assert loss.item() == pytest.approx(math.log(10), abs=1e-5)


@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize("shape", [(224, 224), (227, 112), (64, 65), (11, 98)])
def test_conv1_by_blocks_is_the_plain_convolution(padding: int, shape: tuple[int, int]) -> None:
    layer = Conv1(8, padding).double()
    x = torch.randn(2, 3, *shape, dtype=torch.float64, requires_grad=True)
    plain = nn.functional.conv2d(x, layer.weight, layer.bias, stride=4, padding=padding)
    blocks = layer.by_blocks(x)
    torch.testing.assert_close(blocks, plain)
    weights = torch.randn_like(plain)
    inputs = [x, layer.weight, layer.bias]
    for ours, theirs in zip(*(torch.autograd.grad((y * weights).sum(), inputs) for y in (blocks, plain)), strict=True):  # type: ignore[arg-type]
        torch.testing.assert_close(ours, theirs)


def test_conv1_takes_blocks_only_when_it_trains_in_bfloat16() -> None:
    layer, x = Conv1(8), torch.randn(2, 3, 67, 67) * 50
    plain = nn.functional.conv2d(x, layer.weight, layer.bias, stride=4)
    assert torch.equal(layer(x), plain)
    with torch.autocast("cpu", torch.bfloat16):
        y, blocks = layer(x), layer.by_blocks(x)
    assert torch.equal(y, blocks)
    torch.testing.assert_close(y.float(), plain, rtol=2**-6, atol=2**-6 * plain.abs().max().item())


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_other_forms_of_convolutions_give_the_same_numbers(memory: torch.memory_format) -> None:
    """The weights keep their names and shapes: a form is chosen for a network that is there."""
    torch.manual_seed(0)
    model = build(5, TrainConfig(hidden=8, dropout=0.0)).double().to(memory_format=memory)  # type: ignore[call-overload]
    x = (torch.randn(2, 3, 64, 64, dtype=torch.float64) * 50).to(memory_format=memory)
    called: list[int] = []

    def numbers() -> list[torch.Tensor]:
        y = model(x)
        return [y, *torch.autograd.grad((y * torch.arange(5)).sum(), list(model.parameters()))]

    def counted(*inputs: Any, **settings: Any) -> torch.Tensor:
        called.append(1)
        return nn.functional.conv2d(*inputs, **settings)

    expected = numbers()
    with pytest.MonkeyPatch.context() as patch:
        for module in ("conv1", "grouped"):
            patch.setattr(f"alexnet_fast.model.{module}.conv2d", counted)
        for blocks, apart, calls in [(True, False, 1), (False, True, 6), (True, True, 7), (None, False, 0)]:
            choose_forms(model, conv1_by_blocks=blocks, groups_apart=apart)
            called.clear()
            for ours, theirs in zip(numbers(), expected, strict=True):
                torch.testing.assert_close(ours, theirs)
            assert len(called) == calls
