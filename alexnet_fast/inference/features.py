"""The output of a network's layer on images, as features for other tools."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from alexnet_fast.environment import cores
from alexnet_fast.errors import InputError
from alexnet_fast.evaluation.scoring import views_of
from alexnet_fast.inference.images import BATCH, ImageFiles
from alexnet_fast.inference.networks import Network
from alexnet_fast.loading.loader import Loader
from alexnet_fast.memory import check_memory
from alexnet_fast.model.alexnet import AlexNet
from alexnet_fast.model.lrn import LocalResponseNorm
from alexnet_fast.shards.format import UNLABELLED
from alexnet_fast.shards.reader import Split


@dataclass(frozen=True)
class Features:
    """`features` (n, ...) float32, one a name; `labels` (n,), UNLABELLED where there is none; `unread`: what could not
    be read and is left out, with the reason; `not_images`: likewise, other files of folders."""

    names: list[str]
    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    unread: dict[str, str] = field(default_factory=dict)
    not_images: dict[str, str] = field(default_factory=dict)


def outputs(model: AlexNet) -> dict[str, nn.Module]:
    """By layer name, the module whose output is the layer's.

    `conv1`, `fc6` and so on: the activation after the layer's nonlinearity, which in the paper's nets comes after
    normalisation and pooling in layer 1. `norm1` and so on: right after local response normalisation; `pool1`: the maps
    right after that pool; in layer 1 of the paper's nets both come before the nonlinearity. The last layer, and a
    bottleneck, have no nonlinearity: theirs are linear outputs.
    """
    weighted = {id(layer): name for name, layer in model.layers().items()}
    found: dict[str, nn.Module] = {}
    layer = ""
    for module in [*model.features, *model.classifier]:
        layer = weighted.get(id(module), layer)
        if id(module) in weighted or isinstance(module, nn.ReLU | nn.Tanh):
            found[layer] = module
        elif isinstance(module, LocalResponseNorm):
            found[f"norm{layer.removeprefix('conv')}"] = module
        elif isinstance(module, nn.MaxPool2d):
            found[f"pool{layer.removeprefix('conv')}"] = module
    return found


@torch.inference_mode()
def layer_output(model: AlexNet, layer: str, images: Tensor) -> Tensor:
    """Images (N, 3, S, S) -> the layer's output (N, ...) float32: a copy, as a nonlinearity may follow in place."""
    kept: list[Tensor] = []
    hook = outputs(model)[layer].register_forward_hook(lambda *call: kept.append(call[2].float().clone()))
    try:
        model(images)
    finally:
        hook.remove()
    return kept[0]


def of_split(network: Network, split: Split, layer: str) -> Features:
    """Features of the central crop of every image of a split, in stored order; corrupt ones are left out.

    Raises InputError when there is no such layer or the features do not fit into memory.
    """
    features = _allocate(network, layer, len(split))
    loader = Loader.evaluation(
        split, batch=BATCH, crop=network.crop, mean=network.pixels.mean, device=network.device, threads=cores()
    )
    for batch in loader:
        features[batch.rows.samples] = layer_output(network.model, layer, batch.images).cpu()
    intact = np.setdiff1d(np.arange(len(split)), list(loader.corrupt))
    if len(intact) < len(split):
        features = features[intact]
    names = split.keys()
    unread = {names[sample]: reason for sample, reason in loader.corrupt.items()}
    return Features([names[sample] for sample in intact], features, split.labels[intact], unread)


def of_images(network: Network, paths: list[Path], layer: str) -> Features:
    """Features of the central crop of image files and folders of them. Raises InputError as `of_split` does, and when
    there is no image."""
    images = ImageFiles(network, paths)
    features = _allocate(network, layer, len(images.files))
    names: list[str] = []
    for files, pixels in images:
        (crops,) = views_of(pixels, network.crop, 1)
        features[len(names) : len(names) + len(files)] = layer_output(network.model, layer, crops).cpu()
        names += map(str, files)
    unread, not_images = ({str(path): why for path, why in left} for left in (images.unread, images.not_images))
    return Features(names, features[: len(names)], np.full(len(names), UNLABELLED), unread, not_images)


def _allocate(network: Network, layer: str, num_images: int) -> NDArray[np.float32]:
    """Memory for the layer's features of so many images. Raises InputError where there is none, or no such layer."""
    if layer not in (names := outputs(network.model)):
        raise InputError(f"the network has no layer {layer}; it has: {', '.join(names)}.")
    probe = torch.zeros(1, 3, network.crop, network.crop, device=network.device)
    shape = (num_images, *layer_output(network.model, layer, probe).shape[1:])
    size, what = 4.0 * np.prod(shape), f"the features of {layer} of {num_images:,} images"
    check_memory(size, what, "Take a later layer or fewer images.")
    return np.empty(shape, np.float32)
