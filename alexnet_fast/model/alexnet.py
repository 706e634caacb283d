"""AlexNet and its variants, one function each; all take RGB 0-255 minus the mean, (N, 3, S, S).

    paper     the published net (layer file #145 of the original code): two towers as groups=2, LRN, overlapping
              pools. 60,965,224 parameters and 724,406,816 multiply-adds an image at 1000 classes, 224 px.
    onetower  torchvision's widths and parameter names ("One weird trick", arXiv 1404.5997), no LRN: 61,100,840.
    bn        onetower with batch normalisation after each convolution.

Shapes at 224 px: conv1 55x55 -> pool 27x27 -> conv2 27x27 -> pool 13x13 -> conv3-5 13x13 -> pool 6x6 -> fc6-8.
Smaller images work: an adaptive pool, the identity at 224 px, feeds fc6. `hidden`: units of fc6 and fc7.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from alexnet_fast.model.conv1 import Conv1
from alexnet_fast.model.lrn import LocalResponseNorm


class AlexNet(nn.Module):
    """`features` (N, 3, S, S) -> (N, 256, 6, 6), `classifier` -> (N, classes) logits."""

    def __init__(self, features: nn.Sequential, classifier: nn.Sequential) -> None:
        super().__init__()
        self.features = features
        self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))  # type: ignore[no-any-return]

    def on(self, device: torch.device) -> AlexNet:
        """Moved there, weights in channels-last memory, as the images come."""
        return self.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def layers(self) -> dict[str, nn.Conv2d | nn.Linear]:
        """The eight layers with weights, by the paper's names: conv1 to conv5, fc6 to fc8."""
        weighted = [m for m in self.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        return {f"{'conv' if isinstance(m, nn.Conv2d) else 'fc'}{i}": m for i, m in enumerate(weighted, 1)}


def paper(classes: int, dropout: float = 0.5, hidden: int = 4096) -> AlexNet:
    """The net whose results the paper publishes, in the order of operations of its layer file.

    conv1 -> LRN -> pool -> ReLU, but conv2 -> ReLU -> LRN -> pool. conv1 sees 3 zero pixels (the mean, after
    subtraction) past the right and lower edge, which is how 224 px and no padding give 55 = 1 + ceil((224-11)/4).
    """
    features = nn.Sequential(
        PadRightBottom(kernel=11, stride=4),
        Conv1(96),
        LocalResponseNorm(96, towers=2),
        nn.MaxPool2d(3, 2),
        nn.ReLU(inplace=True),
        nn.Conv2d(96, 256, 5, padding=2, groups=2),
        nn.ReLU(inplace=True),
        LocalResponseNorm(256, towers=2),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(256, 384, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(384, 384, 3, padding=1, groups=2),
        nn.ReLU(inplace=True),
        nn.Conv2d(384, 256, 3, padding=1, groups=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2),
    )
    classifier = nn.Sequential(
        nn.Linear(256 * 6 * 6, hidden),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Linear(hidden, hidden),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Linear(hidden, classes),
    )
    return _initialise(AlexNet(features, classifier))


def onetower(classes: int, dropout: float = 0.5, hidden: int = 4096) -> AlexNet:
    """torchvision's AlexNet: same widths, places of dropout and parameter names, so its state dict loads.

    Torchvision's own weights expect pixels / 255 divided by a standard deviation; this net's input is not divided.
    """
    return _initialise(AlexNet(_single_tower(lambda width: []), _torchvision_classifier(classes, dropout, hidden)))


def bn(classes: int, dropout: float = 0.5, hidden: int = 4096) -> AlexNet:
    """One tower, batch norm between each convolution and its ReLU; convolutions start as He et al. have it.

    fc6 and fc7 keep torch's own start, whose small outputs let the first steps be large; fc8 starts at zero, the
    loss at that of guessing.
    """
    model = AlexNet(
        _single_tower(lambda width: [nn.BatchNorm2d(width)]), _torchvision_classifier(classes, dropout, hidden)
    )
    for name, layer in model.layers().items():
        if name.startswith("conv"):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(model.layers()["fc8"].weight)
    nn.init.zeros_(model.layers()["fc8"].bias)  # type: ignore[arg-type]
    return model


ARCHITECTURES: dict[str, Callable[[int, float, int], AlexNet]] = {"paper": paper, "onetower": onetower, "bn": bn}


class PadRightBottom(nn.Module):
    """Zeros after the last row and column, so that the last window of a strided convolution is a whole one."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        bottom, right = (-(length - self.kernel) % self.stride for length in x.shape[2:])
        return nn.functional.pad(x, (0, right, 0, bottom))


def _single_tower(norm: Callable[[int], list[nn.Module]]) -> nn.Sequential:
    def conv(inputs: int, width: int, kernel: int, padding: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, width, kernel, padding=padding), *norm(width), nn.ReLU(inplace=True)]

    return nn.Sequential(
        *[Conv1(64, padding=2), *norm(64), nn.ReLU(inplace=True)],
        nn.MaxPool2d(3, 2),
        *conv(64, 192, 5, padding=2),
        nn.MaxPool2d(3, 2),
        *conv(192, 384, 3, padding=1),
        *conv(384, 256, 3, padding=1),
        *conv(256, 256, 3, padding=1),
        nn.MaxPool2d(3, 2),
    )


def _torchvision_classifier(classes: int, dropout: float, hidden: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Dropout(dropout),
        nn.Linear(256 * 6 * 6, hidden),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Linear(hidden, hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, classes),
    )


def _initialise(model: AlexNet) -> AlexNet:
    """Weights N(0, 0.01), but 0.03 in conv3-5; biases 1 in conv2, 4, 5 and fc6, 7, else 0 (layer file #145)."""
    for name, layer in model.layers().items():
        nn.init.normal_(layer.weight, std=0.03 if name in ("conv3", "conv4", "conv5") else 0.01)
        bias = 1.0 if name in ("conv2", "conv4", "conv5", "fc6", "fc7") else 0.0
        nn.init.constant_(layer.bias, bias)  # type: ignore[arg-type]
    return model
