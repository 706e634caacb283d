"""What a layer of a network answers to images: features for other tools."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from alexnet_fast.environment import cores
from alexnet_fast.errors import InputError
from alexnet_fast.evaluation.scoring import views_of
from alexnet_fast.files import save_npz
from alexnet_fast.inference.images import BATCH, ImageFiles
from alexnet_fast.inference.networks import Network
from alexnet_fast.loading.loader import Loader
from alexnet_fast.memory import check_memory
from alexnet_fast.model.alexnet import AlexNet
from alexnet_fast.model.lrn import LocalResponseNorm
from alexnet_fast.shards.format import UNLABELLED
from alexnet_fast.shards.reader import Split


@dataclass
class Features:
    """`features` (n, ...) float32, one a name; `labels` (n,), UNLABELLED where there is none; `unread`: what could not
    be read and is left out, with the reason; `not_images`: likewise, other files of folders."""

    names: list[str]
    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    unread: dict[str, str] = field(default_factory=dict)
    not_images: dict[str, str] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        save_npz(path, names=np.array(self.names), features=self.features, labels=self.labels)


def places(model: AlexNet) -> dict[str, nn.Module]:
    """By name, the module whose output is taken.

    `conv1`, `fc6` and so on: the activation after the layer's nonlinearity, which in the paper's nets comes after
    normalisation and pooling in layer 1. `norm1` and so on: right after local response normalisation; `pool1`: the maps
    right after that pool; in layer 1 of the paper's nets both come before the nonlinearity. The last layer, and a
    bottleneck, have no nonlinearity: theirs are linear outputs.
    """
    weighted = {id(layer): name for name, layer in model.layers().items()}
    found: dict[str, nn.Module] = {}
    layer = ""
    for module in [*model.features, *model.classifier]:
        if id(module) in weighted:
            layer = weighted[id(module)]
            found[layer] = module
        elif isinstance(module, nn.ReLU | nn.Tanh):
            found[layer] = module
        elif isinstance(module, LocalResponseNorm):
            found[f"norm{layer.removeprefix('conv')}"] = module
        elif isinstance(module, nn.MaxPool2d):
            found[f"pool{layer.removeprefix('conv')}"] = module
    return found


def of_split(network: Network, split: Split, layer: str) -> Features:
    """Of every image of a split, in stored order, its central crop; damaged ones are left out.

    Raises InputError when there is no such layer or the features do not fit into memory.
    """
    shape = _shape(network, layer, len(split))
    loader = Loader.evaluation(
        split, batch=BATCH, crop=network.crop, mean=network.pixels.mean, device=network.device, threads=cores()
    )
    features = np.empty((len(split), *shape), np.float32)
    with taken(network.model, layer) as output, torch.inference_mode():
        for batch in loader:
            network.model(batch.images)
            features[batch.rows.samples] = output().cpu().numpy()
    intact = np.setdiff1d(np.arange(len(split)), list(loader.damaged))
    names = split.keys()
    if len(intact) < len(split):
        features = features[intact]
    unread = {names[sample]: name for sample, name in loader.damaged.items()}
    return Features([names[sample] for sample in intact], features, split.labels[intact], unread)


def of_images(network: Network, paths: list[Path], layer: str) -> Features:
    """Of image files and folders, the central crop. Raises InputError as `of_split` does, or without an image."""
    images = ImageFiles(network, paths)
    shape = _shape(network, layer, len(images.files))
    features, done = np.empty((len(images.files), *shape), np.float32), 0
    read: list[str] = []
    with taken(network.model, layer) as output, torch.inference_mode():
        for names, pixels in images:
            network.model(*views_of(pixels, network.crop, 1))
            features[done : done + len(names)] = output().cpu().numpy()
            done += len(names)
            read += map(str, names)
    unread, not_images = ({str(path): why for path, why in found} for found in (images.unread, images.not_images))
    return Features(read, features[:done], np.full(done, UNLABELLED), unread, not_images)


class _Output:
    """Keeps a copy: a nonlinearity that follows may work in place."""

    value: Tensor

    def keep(self, module: nn.Module, inputs: object, output: Tensor) -> None:
        self.value = output.detach().float().clone()

    def __call__(self) -> Tensor:
        return self.value


@contextmanager
def taken(model: AlexNet, layer: str) -> Iterator[_Output]:
    """A function that returns the layer's output of the last forward pass, float32."""
    output = _Output()
    handle = places(model)[layer].register_forward_hook(output.keep)
    try:
        yield output
    finally:
        handle.remove()


def _shape(network: Network, layer: str, images: int) -> tuple[int, ...]:
    """Of one image's features, once it is known that those of all fit into memory."""
    if layer not in places(network.model):
        raise InputError(f"the network has no layer {layer}; it has: {', '.join(places(network.model))}.")
    probe = torch.zeros(1, 3, network.crop, network.crop, device=network.device)
    with taken(network.model, layer) as output, torch.inference_mode():
        network.model(probe)
    shape = tuple(output().shape[1:])
    size = 4.0 * images * np.prod(shape)
    check_memory(size, f"the features of {layer} of {images:,} images", "Take a later layer or fewer images.")
    return shape
