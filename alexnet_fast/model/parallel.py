"""One network over several processes: the paper's two towers, and the hybrid of "One weird trick" (arXiv 1404.5997).

    towers   each of two processes holds half of the kernels and units of every layer and sees the whole batch. conv2,
             conv4, conv5 (two groups) read the process' own maps; conv3, conv6 and fc6-8 read those of both.
    hybrid   each process holds all convolutions and its part of every linear layer's units. The convolutions see its
             own images, the linear layers the features of all.

Only where a layer reads what others hold is anything sent: a gather before it, and its gradient. What each process
computes is what one process would, so losses agree to the rounding of sums; with dropout too, where images come in the
same order: the loader puts a process' mirrored images last, so hybrid's masks then fall on other images. Batch norm is
the exception, also where only the batch is shared: its statistics are those of each process' own images, unless
`synchronise_batch_norm` changes that.

torch's tensor parallelism (DTensor) is not used: it wants equal shares of every batch, where an epoch's steps differ by
an image, and it does not draw dropout on a CPU as one process does.
"""

from __future__ import annotations

from collections import OrderedDict
from copy import deepcopy

import torch
from torch import Tensor, nn

from alexnet_fast.model.alexnet import AlexNet
from alexnet_fast.model.collectives import Peers
from alexnet_fast.model.lrn import LocalResponseNorm


def tower(model: AlexNet, peers: Peers) -> AlexNet:
    """This process' half of a two-tower `model`; (N, 3, S, S) -> all classes' logits (N, classes) on both processes.
    Parameters come in the model's order under its names, the first dimension of each halved."""
    classifier = _split(model.classifier, peers, is_part=True)
    last = len(list(model.layers().values())[-1].weight)
    classifier["gather_logits"] = Gather(peers, last, replicated=True)
    features = _split(model.features, peers, is_part=False)
    return AlexNet(nn.Sequential(features), nn.Sequential(classifier), original_dropout=model.original_dropout)


class HybridNet(AlexNet):
    """All convolutions and this process' units of the linear layers; own images in, their logits (n, classes) out.

    `features` are the model's own, wrapped so that their gradients are averaged over the processes. Those of the linear
    layers, sums over all images, are divided to be averages too. Processes may have different numbers of images.
    """

    def __init__(self, model: AlexNet, features: nn.Module, peers: Peers) -> None:
        classifier = _split(model.classifier, peers, is_part=False)
        last = len(list(model.layers().values())[-1].weight)
        classifier["gather_logits"] = Gather(peers, last)
        super().__init__(nn.Sequential(features), nn.Sequential(classifier), original_dropout=model.original_dropout)
        self.peers = peers
        for p in self.classifier.parameters():
            p.register_hook(lambda gradient: gradient / peers.world_size)

    def forward(self, x: Tensor) -> Tensor:
        images = self.peers.counts(len(x))
        logits: Tensor = self.classifier(self.peers.gather(self.columns(x), 0, images))
        first = sum(images[: self.peers.rank])
        return logits[first : first + len(x)]


def synchronise_batch_norm(features: nn.Sequential) -> None:
    """Makes the batch norms of `features` take their statistics over the images of all processes, in training.
    Parameters and buffers stay the same tensors. torch's own module works on GPUs alone."""
    if next(features.parameters()).device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(features)
        return
    peers = Peers.of_default_group()
    for name, layer in features.named_children():
        if isinstance(layer, nn.BatchNorm2d):
            setattr(features, name, SyncBatchNorm(layer, peers))


class SyncBatchNorm(nn.BatchNorm2d):
    """Batch norm over the images of all `peers`, with the tensors of `norm`; (N, C, H, W), N of each process' own."""

    def __init__(self, norm: nn.BatchNorm2d, peers: Peers) -> None:
        super().__init__(norm.num_features)
        self._parameters, self._buffers, self.peers = norm._parameters, norm._buffers, peers

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        var, mean = torch.var_mean(x.float(), (0, 2, 3), correction=0)
        own = torch.stack([mean, var, torch.full_like(mean, x.numel() / self.num_features)])
        means, variances, counts = self.peers.gather(own[None], 0, [1] * self.peers.world_size).unbind(1)
        count = counts.sum(0)
        shares = counts / count
        mean = (shares * means).sum(0)
        var = (shares * (variances + (means - mean).square())).sum(0)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * count / (count - 1), self.momentum)
            self.num_batches_tracked += 1
        scale = self.weight * (var + self.eps).rsqrt()
        return ((x - mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


class Gather(nn.Module):
    """This process' share of maps (N, C, H, W) or units (N, U), along dimension 1 -> all `width` of them."""

    def __init__(self, peers: Peers, width: int, replicated: bool = False) -> None:
        super().__init__()
        self.peers, self.sizes, self.replicated = peers, peers.parts(width), replicated

    def forward(self, x: Tensor) -> Tensor:
        columns = x.movedim(1, -1)  # of maps in channels-last memory no copy
        return self.peers.gather(columns, -1, self.sizes, self.replicated).movedim(-1, 1)


class PartDropout(nn.Dropout):
    """Dropout of this process' units, by the mask that one process with all `width` of them would draw."""

    def __init__(self, p: float, peers: Peers, width: int) -> None:
        super().__init__(p)
        self.width, self.own = width, peers.own(width)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x * nn.functional.dropout(x.new_ones(len(x), self.width), self.p)[:, self.own]


def _split(layers: nn.Sequential, peers: Peers, is_part: bool) -> OrderedDict[str, nn.Module]:
    """This process' part of `layers`, under their names, with a gather before each that reads what others hold.
    `is_part`: the input is this process' part of the maps or units, not all of them."""
    split: OrderedDict[str, nn.Module] = OrderedDict()
    width = 0
    for name, layer in layers.named_children():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            if is_part and not (isinstance(layer, nn.Conv2d) and layer.groups == peers.world_size):
                split[f"gather_{name}"] = Gather(peers, layer.weight.shape[1])
            split[name] = _own_kernels(layer, peers)
            width, is_part = len(layer.weight), True
        elif isinstance(layer, LocalResponseNorm):
            split[name] = LocalResponseNorm(layer.band.shape[1])
        elif isinstance(layer, nn.Dropout) and is_part:
            split[name] = PartDropout(layer.p, peers, width)
        else:
            split[name] = deepcopy(layer)
    return split


def _own_kernels(layer: nn.Conv2d | nn.Linear, peers: Peers) -> nn.Module:
    """The layer with this process' kernels or units alone; those of two groups then have one."""
    own, part = deepcopy(layer), peers.own(len(layer.weight))
    for name, parameter in layer.named_parameters():
        setattr(own, name, nn.Parameter(parameter.detach()[part].clone()))
    if isinstance(own, nn.Conv2d):
        own.in_channels, own.groups = own.in_channels // own.groups, 1
        own.out_channels = len(own.weight)
    else:
        own.out_features = len(own.weight)
    return own
