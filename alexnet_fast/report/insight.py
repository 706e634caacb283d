"""What a network makes of single images: its guesses, its mistakes, and the training images it finds alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet_fast import random
from alexnet_fast.environment import cores
from alexnet_fast.errors import InputError
from alexnet_fast.evaluation.scoring import predict
from alexnet_fast.inference.features import places, taken
from alexnet_fast.inference.networks import open_network
from alexnet_fast.loading.loader import Loader, check_crop
from alexnet_fast.model.alexnet import AlexNet
from alexnet_fast.shards.format import UNLABELLED, Pixels
from alexnet_fast.shards.reader import ShardSet, Split

BATCH = 256


@dataclass(frozen=True)
class Subject:
    """A trained network on the CPU, and the shard set it learnt from. `names` are those of its classes."""

    model: AlexNet
    crop: int
    pixels: Pixels
    names: list[str]
    shards: ShardSet


@dataclass(frozen=True)
class Seen:
    """n images as the network sees them, cropped: RGB (n, S, S, 3), labels (n,), softmax (n, classes)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]


@dataclass(frozen=True)
class Neighbours:
    """The nearest of `searched` training images to n others, nearest first.

    `queries` (n, S, S, 3) and `images` (n, k, S, S, 3) are RGB; `distances` (n, k) are of the features, L2.
    """

    queries: NDArray[np.uint8]
    query_labels: NDArray[np.int64]
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    distances: NDArray[np.float32]
    searched: int


def open_subject(run: Path) -> Subject:
    """The run's best checkpoint, or its last. Raises InputError when it, or the shard set, cannot be read."""
    network = open_network(run)
    config = network.config
    if "://" in config.shards:
        raise InputError(f"the shard set is at {config.shards}, and single images are not fetched from there.")
    shards = ShardSet(config.shards)
    if [entry["id"] for entry in network.classes] != [entry["id"] for entry in shards.manifest.classes]:
        raise InputError(f"{config.shards} holds other classes now than when {run} was trained.")
    check_crop(config.crop, shards.manifest.size)
    return Subject(network.model, config.crop, network.pixels, network.names, shards)


def guess(subject: Subject, count: int) -> Seen:
    """`count` validation images of classes as different as can be."""
    split = _validation(subject)
    (part,) = _parts(subject, split, spread(split.labels, count), count)
    with torch.inference_mode():
        probabilities = predict([subject.model], [part.images]).numpy()
    return Seen(_as_pixels(part.images, subject.pixels), part.labels, probabilities)


def confusion(subject: Subject, most: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Labels and best guesses (n,), one view, of all validation images, or of `most` drawn from them."""
    split = _validation(subject)
    labels, guesses = [], []
    with torch.inference_mode():
        for part in _parts(subject, split, drawn(len(split), most), BATCH):
            labels.append(part.labels)
            guesses.append(subject.model(part.images).argmax(1).numpy())
    return np.concatenate(labels), np.concatenate(guesses)


def neighbours(subject: Subject, queries: int, nearest: int, most: int) -> Neighbours:
    """Of `queries` validation images the `nearest` by the last hidden layer's features, among the training images or
    `most` drawn from them."""
    train, val = subject.shards.split("train"), _validation(subject)
    (query,) = _parts(subject, val, spread(val.labels, queries), queries)
    samples, features = [], []
    for part in _parts(subject, train, drawn(len(train), most), BATCH):
        samples.append(part.samples)
        features.append(last_hidden(subject.model, part.images))
    searched = np.concatenate(samples)
    distances = torch.cdist(
        last_hidden(subject.model, query.images),
        torch.cat(features),
        compute_mode="donot_use_mm_for_euclid_dist",  # whose rounding is larger than small distances
    )
    best = distances.topk(min(nearest, len(searched)), largest=False)
    found = searched[best.indices.numpy()]
    (image,) = _parts(subject, train, np.unique(found), found.size)
    order = np.argsort(image.samples)
    place = order[np.searchsorted(image.samples[order], found)]
    return Neighbours(
        _as_pixels(query.images, subject.pixels),
        query.labels,
        _as_pixels(image.images, subject.pixels)[place],
        image.labels[place],
        best.values.numpy(),
        len(searched),
    )


def last_hidden(model: AlexNet, images: Tensor) -> Tensor:
    """(N, 3, S, S) -> (N, units): what the last layer is given, which is fc7 after its ReLU."""
    with taken(model, list(places(model))[-2]) as output, torch.inference_mode():
        model(images)
    return output()


def spread(labels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """`count` samples, or as many as there are: class by class, of classes as far apart in the list as can be."""
    classes = np.unique(labels)
    if len(classes) > count:
        classes = classes[np.linspace(0, len(classes) - 1, count).astype(int)]
    by_class = [np.flatnonzero(labels == label) for label in classes]
    turns = range(max(map(len, by_class)))
    return np.array([samples[turn] for turn in turns for samples in by_class if turn < len(samples)][:count])


def drawn(samples: int, most: int) -> NDArray[np.int64]:
    """All sample numbers, or `most` of them, always the same, in order."""
    if samples <= most:
        return np.arange(samples)
    return np.sort(random.report_sample().choice(samples, most, replace=False))


@dataclass(frozen=True)
class _Part:
    """Some images as the network takes them (n, 3, S, S), their labels (n,) and sample numbers (n,)."""

    images: Tensor
    labels: NDArray[np.int64]
    samples: NDArray[np.int64]


def _validation(subject: Subject) -> Split:
    split = subject.shards.split("val")
    if not len(split):
        raise InputError(f"the split val of {subject.shards.location} holds no images.")
    return split


def _parts(subject: Subject, split: Split, samples: NDArray[np.int64], size: int) -> Iterator[_Part]:
    """The central crops of `samples`, at most `size` at a time, in whatever order; damaged images are left out."""
    loader = Loader.evaluation(
        split, batch=size, samples=samples, crop=subject.crop, mean=subject.pixels.mean, threads=cores()
    )
    for batch in loader:
        labels = batch.labels.numpy()
        whole = labels != UNLABELLED
        yield _Part(batch.images[whole], labels[whole], batch.rows.samples[whole])


def _as_pixels(images: Tensor, pixels: Pixels) -> NDArray[np.uint8]:
    """Network inputs (n, 3, S, S) -> RGB (n, S, S, 3)."""
    values: NDArray[np.float64] = images.permute(0, 2, 3, 1).numpy() + np.array(pixels.mean)
    return values.round().clip(0, 255).astype(np.uint8)
