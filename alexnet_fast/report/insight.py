"""What a network predicts for single images, its mistakes, and the training images nearest to them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet_fast import random
from alexnet_fast.distributed.topology import Topology
from alexnet_fast.environment import cores
from alexnet_fast.errors import InputError
from alexnet_fast.evaluation.scoring import Member, ScoringPass, predict
from alexnet_fast.inference.features import layer_output, outputs
from alexnet_fast.inference.networks import Network, check_classes, open_network
from alexnet_fast.loading.checks import check_crop
from alexnet_fast.loading.epochs import evaluated_side
from alexnet_fast.loading.loader import Loader
from alexnet_fast.shards.format import UNLABELLED
from alexnet_fast.shards.reader import ShardSet, Split


@dataclass(frozen=True)
class Examples:
    """n images as the network gets them, cropped: RGB (n, S, S, 3), labels (n,), softmax (n, classes)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]

    def best(self, i: int) -> NDArray[np.int64]:
        """Class indexes of image i's five best predictions, the best first."""
        return np.argsort(self.probabilities[i])[::-1][:5]


@dataclass(frozen=True)
class Neighbours:
    """The nearest of `searched` training images, of `total`, to n others, nearest first.

    `queries` (n, S, S, 3) and `images` (n, k, S, S, 3) are RGB; `distances` (n, k) are of the features, L2.
    """

    queries: NDArray[np.uint8]
    query_labels: NDArray[np.int64]
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    distances: NDArray[np.float32]
    searched: int
    total: int


def open_with_shards(run: Path) -> tuple[Network, ShardSet]:
    """The network of the run's best checkpoint, or of this checkpoint, on the CPU, and the shard set that it was
    trained on. Raises InputError when one of them cannot be read or they do not fit."""
    network = open_network(run)
    location = network.config.shards
    if "://" in location:
        raise InputError(f"the shard set is at {location}, and single images are not fetched from there.")
    shards = ShardSet(location)
    check_classes(network, shards.manifest.classes, location)
    check_crop(network.crop, evaluated_side(shards.manifest, network.crop))
    return network, shards


def validation(shards: ShardSet) -> Split:
    """Raises InputError when there are no validation images."""
    split = shards.split("val")
    if not len(split):
        raise InputError(f"the split val of {shards.location} holds no images.")
    return split


def find_examples(network: Network, shards: ShardSet, count: int) -> Examples:
    """`count` validation images of classes as different as can be."""
    split = validation(shards)
    ((images, labels, _),) = _batches(network, split, spread(split.labels, count), count)
    with torch.inference_mode():
        probabilities = predict([network.model], [images]).numpy()
    return Examples(_rgb(network, images), labels, probabilities)


def best_predictions(network: Network, split: Split, most: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Labels and best predictions (n,), one view, of all images of the split, or of `most` of them."""
    member, alone = Member(network.model, network.crop, network.pixels.mean), Topology(0, 1, network.device)
    labels, best = [], []
    for batch, each in ScoringPass([member], split, alone, samples=choose_samples(len(split), most), threads=cores()):
        intact = batch.labels != UNLABELLED
        labels.append(batch.labels[intact].cpu().numpy())
        best.append(each[0].argmax(1)[intact].cpu().numpy())
    return np.concatenate(labels), np.concatenate(best)


def find_neighbours(network: Network, shards: ShardSet, queries: int, nearest: int, most: int) -> Neighbours:
    """The `nearest` training images to each of `queries` validation images, by the features that the last layer is
    given (fc7 after its ReLU), among all training images or `most` of them."""
    train, val = shards.split("train"), validation(shards)
    last_hidden = list(outputs(network.model))[-2]
    ((query, query_labels, _),) = _batches(network, val, spread(val.labels, queries), queries)
    samples, features = [], []
    for images, _, some in _batches(network, train, choose_samples(len(train), most)):
        samples.append(some)
        features.append(layer_output(network.model, last_hidden, images))
    searched = np.concatenate(samples)
    distances = torch.cdist(
        layer_output(network.model, last_hidden, query),
        torch.cat(features),
        compute_mode="donot_use_mm_for_euclid_dist",  # whose rounding is larger than small distances
    )
    best = distances.topk(min(nearest, len(searched)), largest=False)
    found = searched[best.indices.numpy()]
    ((images, labels, some),) = _batches(network, train, np.unique(found), found.size)
    order = np.argsort(some)
    place = order[np.searchsorted(some[order], found)]
    return Neighbours(
        _rgb(network, query),
        query_labels,
        _rgb(network, images)[place],
        labels[place],
        best.values.numpy(),
        len(searched),
        len(train),
    )


def spread(labels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """`count` samples, or as many as there are: class by class, of classes as far apart in the list as can be."""
    classes = np.unique(labels)
    if len(classes) > count:
        classes = classes[np.linspace(0, len(classes) - 1, count).astype(int)]
    by_class = [np.flatnonzero(labels == label) for label in classes]
    turns = range(max(map(len, by_class)))
    return np.array([samples[turn] for turn in turns for samples in by_class if turn < len(samples)][:count])


def choose_samples(total: int, most: int) -> NDArray[np.int64]:
    """All sample numbers, or `most` of them chosen at random, always the same, in order."""
    if total <= most:
        return np.arange(total)
    return np.sort(random.report_sample().choice(total, most, replace=False))


def _batches(
    network: Network, split: Split, samples: NDArray[np.int64], size: int = 256
) -> Iterator[tuple[Tensor, NDArray[np.int64], NDArray[np.int64]]]:
    """Central crops (n, 3, S, S) of `samples`, labels (n,) and sample numbers (n,), at most `size` at a time, in
    whatever order; corrupt images are left out."""
    crop, mean, device = network.crop, network.pixels.mean, network.device
    for batch in Loader.evaluation(
        split, batch=size, samples=samples, crop=crop, mean=mean, device=device, threads=cores()
    ):
        labels = batch.labels.cpu().numpy()
        intact = labels != UNLABELLED
        yield batch.images[intact], labels[intact], batch.rows.samples[intact]


def _rgb(network: Network, images: Tensor) -> NDArray[np.uint8]:
    """Network inputs (n, 3, S, S) -> RGB (n, S, S, 3)."""
    values: NDArray[np.float64] = images.permute(0, 2, 3, 1).numpy() + np.array(network.pixels.mean)
    return values.round().clip(0, 255).astype(np.uint8)
