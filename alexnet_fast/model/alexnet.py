"""AlexNet and its variants, by the setting `arch`; all take RGB 0-255 minus the mean, (N, 3, S, S).

    paper     the published net (layer file #145 of the original code): two towers as groups=2, LRN, overlapping
              pools. 60,965,224 parameters and 724,406,816 multiply-adds an image at 1000 classes, 224 px.
    half      the paper's control on one GPU (#145-half): one tower, half of the kernels but of conv5: 59,798,312.
    sixconv   paper with a sixth convolution, 3x3 on the last pool's maps of both towers, and no pool after it (#146),
              for pre-training on the big releases: 61,555,304; 110,605,267 with 21,843 classes behind a bottleneck of
              2048 linear units.
    caffe     BVLC's AlexNet (Caffe's models/bvlc_alexnet), for its weights: as paper, but conv1 -> ReLU -> LRN -> pool,
              LRN over all maps with k = 1, 227 px. 60,965,224.
    onetower  torchvision's widths, places of dropout and parameter names ("One weird trick", arXiv 1404.5997), no LRN:
              61,100,840. Torchvision's own weights expect pixels / 255 divided by a standard deviation.
    bn        onetower with batch normalisation between each convolution and its ReLU.

The first three take the changes of the paper's ablations from the configuration: lrn, within_map_norm, pool,
activation, without, bottleneck. Shapes at 224 px: conv1 55x55 -> pool 27x27 -> conv2 27x27 -> pool 13x13 ->
conv3-5 13x13 -> pool 6x6 -> fc6-8. Other sizes work: an adaptive pool feeds fc6 6x6 maps.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn

from alexnet_fast.config import TrainConfig
from alexnet_fast.model.conv1 import Conv1
from alexnet_fast.model.grouped import GroupedConv
from alexnet_fast.model.lrn import LocalResponseNorm, WithinMapNorm

DEFAULTS = TrainConfig()
POOLED = (6, 6)
"""Height and width of what fc6 sees."""


class AlexNet(nn.Module):
    """`features` (N, 3, S, S) -> (N, 256, 6, 6), `classifier` -> (N, classes) logits.

    `original_dropout`: its weights are to learn as in the original, which leaves the units that dropout keeps as they
    are in training, and halves all when testing; torch doubles the kept ones in training.
    """

    def __init__(self, features: nn.Sequential, classifier: nn.Sequential, *, original_dropout: bool = False) -> None:
        super().__init__()
        self.features = features
        self.avgpool = nn.AdaptiveAvgPool2d(POOLED)
        self.classifier = classifier
        self.original_dropout = original_dropout

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.columns(x))  # type: ignore[no-any-return]

    def columns(self, x: Tensor) -> Tensor:
        """What the classifier sees, (N, 9216); less where `Fc6` takes smaller maps as they are."""
        maps = self.features(x)
        if maps.shape[2:] != POOLED and not self._takes(maps):  # at 224 px the pool is the identity, but takes time
            maps = self.avgpool(maps)
        return torch.flatten(maps, 1)

    def _takes(self, maps: Tensor) -> bool:
        """Returns whether the classifier's first layer takes maps that are smaller than 6x6, and sees all their values:
        dropout would leave out some copies of a value and not others."""
        layers = (m for m in self.classifier if not (isinstance(m, nn.Dropout) and (m.p == 0 or not m.training)))
        height, width = maps.shape[2:]
        return isinstance(next(layers), Fc6) and height == width and height in (1, 2, 3)

    def on(self, device: torch.device) -> AlexNet:
        """Moved there, weights in channels-last memory, as the images come."""
        return self.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def layers(self) -> dict[str, nn.Conv2d | nn.Linear]:
        """The layers with weights, by the paper's names: conv1 to conv5, fc6 to fc8."""
        layers: dict[str, nn.Conv2d | nn.Linear] = {}
        for path, m in self.named_modules():
            if isinstance(m, nn.Conv2d | nn.Linear):
                name = path.rpartition(".")[2]
                numbered = f"{'conv' if isinstance(m, nn.Conv2d) else 'fc'}{len(layers) + 1}"
                layers[numbered if name.isdigit() else name] = m
        return layers

    def kept_shares(self) -> dict[Tensor, float]:
        """Of each weight that reads units behind a dropout: the share of them that is kept, where they learn so.

        Then the weight is the original's times this share, and what the net computes is the same, in training too.
        It stays so through every step if the rate is the original's times the share's square and the decay divided
        by it: the gradient is the original's divided by the share.
        """
        shares, share = {}, 1.0
        for layer in self.classifier if self.original_dropout else ():
            if isinstance(layer, nn.Dropout):
                share = 1 - layer.p
            elif isinstance(layer, nn.Linear):
                shares[layer.weight], share = share, 1.0
        return shares


WIDTHS = {
    "paper": [96, 256, 384, 384, 256],
    "half": [48, 128, 192, 192, 256],
    "sixconv": [96, 256, 384, 384, 256, 256],
    "caffe": [96, 256, 384, 384, 256],
}
"""Kernels of the convolutions."""


def build(classes: int, config: TrainConfig = DEFAULTS) -> AlexNet:
    """The network of a configuration, its weights newly drawn from torch's generator."""
    return _paper_net(classes, config) if config.arch in WIDTHS else _torchvision_net(classes, config)


class PadRightBottom(nn.Module):
    """Zeros after the last row and column, so that the last window of a strided convolution is a whole one."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        bottom, right = (-(length - self.kernel) % self.stride for length in x.shape[2:])
        return nn.functional.pad(x, (0, right, 0, bottom))


def _paper_net(classes: int, config: TrainConfig) -> AlexNet:
    """conv1 -> LRN -> pool -> ReLU, but conv2 -> ReLU -> LRN -> pool, as the layer file has them.

    conv1 sees 3 zero pixels (the mean, after subtraction) past the right and lower edge, which is how 224 px and no
    padding give 55 = 1 + ceil((224 - 11) / 4). conv3 and conv6 see the maps of both towers, the others their own.
    As Caffe has it: ReLU before the LRN in layer 1 too, and LRN over all maps with k = 1; and dropout as torch has it.
    """
    features: OrderedDict[str, nn.Module] = OrderedDict()
    widths, towers, as_caffe = WIDTHS[config.arch], 1 if config.arch == "half" else 2, config.arch == "caffe"
    maps = widths[0]

    def convolution(i: int, kernel: int, groups: int) -> None:
        nonlocal maps
        if f"conv{i}" not in config.without.split():
            features[f"conv{i}"] = GroupedConv(maps, widths[i - 1], kernel, padding=kernel // 2, groups=groups)
            features[f"active{i}"] = _activation(config)
            maps = widths[i - 1]

    def norm(i: int) -> None:
        if config.lrn != "none":
            across = as_caffe or config.lrn == "all"
            features[f"lrn{i}"] = LocalResponseNorm(maps, 1 if across else towers, k=1.0 if as_caffe else 2.0)

    features["pad"] = PadRightBottom(kernel=11, stride=4)
    features["conv1"] = Conv1(maps)
    if as_caffe:
        features["active1"] = _activation(config)
    norm(1)
    features["pool1"] = nn.MaxPool2d(config.pool, 2)
    if not as_caffe:
        features["active1"] = _activation(config)
    convolution(2, 5, towers)
    norm(2)
    if config.within_map_norm:
        features["within2"] = WithinMapNorm()
    features["pool2"] = nn.MaxPool2d(config.pool, 2)
    convolution(3, 3, 1)
    convolution(4, 3, towers)
    convolution(5, 3, towers)
    features["pool5"] = nn.MaxPool2d(config.pool, 2)
    if len(widths) == 6:
        convolution(6, 3, 1)
    classifier = _paper_classifier(maps * POOLED[0] * POOLED[1], classes, config)
    model = _initialise(AlexNet(nn.Sequential(features), classifier, original_dropout=not as_caffe))
    if config.activation == "tanh":  # small, as in cuda-convnet's CIFAR-10 layer files; biases of 1 are for ReLUs
        for layer in model.layers().values():
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        nn.init.normal_(model.layers()["conv1"].weight, std=0.0001)
    return model


def _paper_classifier(units: int, classes: int, config: TrainConfig) -> nn.Sequential:
    """fc6, fc7 and fc8 on `units` inputs; fc6 and fc7 may be left out, a bottleneck be put before fc8."""
    classifier: OrderedDict[str, nn.Module] = OrderedDict()
    for i in (6, 7):
        if f"fc{i}" not in config.without.split():
            classifier[f"fc{i}"] = nn.Linear(units, config.hidden)
            classifier[f"active{i}"] = _activation(config)
            classifier[f"dropout{i}"] = nn.Dropout(config.dropout)
            units = config.hidden
    if config.bottleneck:
        classifier["bottleneck"] = nn.Linear(units, config.bottleneck)
        units = config.bottleneck
    classifier["fc8"] = nn.Linear(units, classes)
    return nn.Sequential(classifier)


def _activation(config: TrainConfig) -> nn.Module:
    return nn.Tanh() if config.activation == "tanh" else nn.ReLU(inplace=True)


class Fc6(nn.Linear):
    """(N, maps * 36), maps of 6x6, -> (N, units). Of 3x3, 2x2 or 1x1 it takes each value for all the places that the
    adaptive pool would copy it to: their weights are added up, and there are fewer products.

    Images of 112 px make maps of 2x2, and a step 1.2 times as fast on a CPU (float32, batch 64).
    """

    def __init__(self, maps: int, units: int) -> None:
        super().__init__(maps * POOLED[0] * POOLED[1], units)
        self.maps = maps

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] == self.in_features:
            return super().forward(x)
        side = math.isqrt(x.shape[1] // self.maps)
        along = torch.eye(side, device=x.device).repeat_interleave(POOLED[0] // side, 0)
        copies = torch.kron(along, along)  # (36, side * side): 1 where a place has that value
        weight = self.weight.view(-1, len(copies)) @ copies.to(self.weight.dtype)
        return nn.functional.linear(x, weight.view(self.out_features, -1), self.bias)


def _torchvision_net(classes: int, config: TrainConfig) -> AlexNet:
    """bn's convolutions start as He et al. have it; its fc6 and fc7 keep torch's own start, whose small outputs let the
    first steps be large; its fc8 starts at zero, the loss at that of chance."""
    is_bn = config.arch == "bn"

    def activated(conv: nn.Conv2d) -> list[nn.Module]:
        return [conv, *([nn.BatchNorm2d(conv.out_channels)] if is_bn else []), nn.ReLU(inplace=True)]

    features = nn.Sequential(
        *activated(Conv1(64, padding=2)),
        nn.MaxPool2d(3, 2),
        *activated(nn.Conv2d(64, 192, 5, padding=2)),
        nn.MaxPool2d(3, 2),
        *activated(nn.Conv2d(192, 384, 3, padding=1)),
        *activated(nn.Conv2d(384, 256, 3, padding=1)),
        *activated(nn.Conv2d(256, 256, 3, padding=1)),
        nn.MaxPool2d(3, 2),
    )
    classifier = nn.Sequential(
        nn.Dropout(config.dropout),
        Fc6(256, config.hidden),
        nn.ReLU(inplace=True),
        nn.Dropout(config.dropout),
        nn.Linear(config.hidden, config.hidden),
        nn.ReLU(inplace=True),
        nn.Linear(config.hidden, classes),
    )
    model = AlexNet(features, classifier)
    if not is_bn:
        return _initialise(model)
    for name, layer in model.layers().items():
        if name.startswith("conv"):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(model.layers()["fc8"].weight)
    nn.init.zeros_(model.layers()["fc8"].bias)  # type: ignore[arg-type]
    return model


def _initialise(model: AlexNet) -> AlexNet:
    """Weights N(0, 0.01), but 0.03 in conv3-6; biases 1 in conv2, 4, 5, 6 and fc6, 7, else 0 (layer files). Weights
    behind the original's dropout times their share of `kept_shares`."""
    shares = model.kept_shares()
    for name, layer in model.layers().items():
        std = 0.03 if name in ("conv3", "conv4", "conv5", "conv6") else 0.01
        nn.init.normal_(layer.weight, std=std * shares.get(layer.weight, 1.0))
        bias = 1.0 if name in ("conv2", "conv4", "conv5", "conv6", "fc6", "fc7") else 0.0
        nn.init.constant_(layer.bias, bias)  # type: ignore[arg-type]
    return model
