"""Predictions of one network or several on a split of a shard set: their accuracy, and as files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet_fast.console import Progress
from alexnet_fast.distributed.topology import Topology
from alexnet_fast.environment import cores
from alexnet_fast.errors import InputError
from alexnet_fast.evaluation.counts import wilson
from alexnet_fast.evaluation.scoring import Accuracy, Member, ScoringPass
from alexnet_fast.files import save_npz, written
from alexnet_fast.inference.networks import Network, scores_of
from alexnet_fast.memory import check_memory
from alexnet_fast.sharding.sources import devkit
from alexnet_fast.shards.format import UNLABELLED
from alexnet_fast.shards.reader import ShardSet, Split
from alexnet_fast.training.step import DTYPES


@dataclass(frozen=True)
class Predictions:
    """Of every image of a split of `shards`, a folder or URL, in stored order.

    `best` (n, up to 5): class indexes, the likeliest first. `labels` (n,): UNLABELLED where nobody published them.
    `precision`: what the networks computed in. `weights`: of the networks in the average, sum 1. `corrupt`: sample
    numbers of the images that could not be read; their predictions mean nothing, their probabilities are equal.
    `probabilities` (n, classes) float32, if asked for.
    """

    split: Split
    classes: list[dict[str, str]]
    best: NDArray[np.int64]
    labels: NDArray[np.int64]
    views: int
    precision: str
    weights: list[float]
    corrupt: list[int]
    probabilities: NDArray[np.float32] | None = None
    shards: str = ""

    @property
    def known_labels(self) -> NDArray[np.int64]:
        """(n,) the labels, UNLABELLED for corrupt images too: no prediction is right there."""
        labels = self.labels.copy()
        labels[self.corrupt] = UNLABELLED
        return labels

    @property
    def right(self) -> NDArray[np.bool_]:
        """(n, 2): whether the best prediction is the label, and whether one of the five is."""
        right = self.best == self.known_labels[:, None]
        return np.stack([right[:, 0], right.any(1)], 1)

    def accuracy(self) -> Accuracy | None:
        """None where an image has no label."""
        if (self.labels == UNLABELLED).any():
            return None
        images = len(self.labels)
        top1, top5 = (100 * int(count) / images for count in self.right.sum(0))
        return Accuracy(top1, top5, images, self.views, len(self.corrupt))


def predict_split(
    networks: list[Network],
    shards: str | None = None,
    split: str = "val",
    *,
    views: int = 1,
    precision: str | None = None,
    weights: list[float] | None = None,
    search: bool = False,
    keep: bool = False,
    labelled: bool = True,
    cache: str | None = None,
    cache_bytes: int | None = None,
) -> Predictions:
    """The networks' averaged softmax on every image of a split, over the classes of the shard set: all of the networks'
    or some of them, in any order.

    `shards`, `cache` and `cache_bytes` are ShardSet's; None: those of the first network's training. `precision`: one of
    DTYPES; None: `trained_precision`. `weights`: one a network, or None: equal; `search`: those with the least negative
    log-likelihood on this very split, which is then read twice. `keep` the probabilities: 200 MB for 50,000 images of
    1,000 classes. `labelled=False`: images need no label. Raises InputError when networks, weights and shards do not
    fit.
    """
    config = networks[0].config
    cache_bytes = config.cache_bytes if cache_bytes is None else cache_bytes
    shard_set = ShardSet(shards or config.shards, cache or config.cache, cache_bytes or None)
    classes = shard_set.manifest.classes
    members = [
        Member(scores_of(network, classes, shard_set.location), network.crop, network.pixels.mean)
        for network in networks
    ]
    images = shard_set.split(split, labelled=labelled)
    precision = precision or trained_precision(networks)

    def scores() -> ScoringPass:
        alone = Topology(0, 1, networks[0].device)
        return ScoringPass(members, images, alone, views=views, dtype=DTYPES[precision], threads=cores())

    if search:
        weights = search_weights(_likelihoods(scores(), len(images)))
    weights = check_weights(weights or [1.0] * len(networks), len(networks))
    kept = None
    if keep:
        size = 4.0 * len(images) * len(classes)
        check_memory(size, f"the probabilities of {len(images):,} images", "Leave them out.")
        kept = np.full((len(images), len(classes)), 1 / len(classes), np.float32)
    best = np.tile(np.arange(min(5, len(classes))), (len(images), 1))
    share, batches = torch.tensor(weights, device=networks[0].device), scores()
    with Progress("evaluating", len(images)) as progress:
        count = progress.counter("images")
        for batch, each in batches:
            mean = torch.tensordot(share, each, 1)
            best[batch.rows.samples] = mean.topk(best.shape[1], dim=1).indices.cpu()
            if kept is not None:
                kept[batch.rows.samples] = mean.cpu()
            count(len(mean))
    # In place of a corrupt image its neighbour was read, under the neighbour's number: its own row is as it was.
    corrupt = sorted(batches.corrupt)
    return Predictions(images, classes, best, images.labels, views, precision, weights, corrupt, kept, shard_set.path)


def trained_precision(networks: list[Network]) -> str:
    """Returns the precision that all the networks were trained in, and evaluated in after each epoch; fp32 where theirs
    differ, or they were not trained here."""
    precisions = {network.config.precision for network in networks}
    precision = precisions.pop()
    return "fp32" if precisions or precision not in DTYPES else precision


def summary(predictions: Predictions) -> dict[str, Any]:
    """For JSON: accuracies, errors and 95 % intervals in per cent; None each where there are no labels."""
    accuracy, images = predictions.accuracy(), len(predictions.labels)
    body: dict[str, Any] = {"images": images, "views": predictions.views, "precision": predictions.precision}
    body["damaged"] = len(predictions.corrupt)
    for name in ("top1", "top5"):
        share = None if accuracy is None else getattr(accuracy, name)
        body[name] = share
        body[f"{name}_error"] = None if share is None else 100 - share
        body[f"{name}_interval"] = None if share is None else wilson(share, images)
    return {**body, "softmax_classes": len(predictions.classes), "weights": predictions.weights}


def parse_weights(text: str, num_networks: int) -> list[float] | None:
    """Returns --weights such as `0.5,0.3` as numbers; None for equal and search. Raises InputError, also for those of
    one network, of which they change nothing."""
    weights = None
    if text not in ("equal", "search"):
        try:
            weights = [float(word) for word in text.split(",")]
        except ValueError as error:
            raise InputError(f"--weights {text}: expected equal, search, or numbers like 0.5,0.3,0.2.") from error
        check_weights(weights, num_networks)
    if num_networks == 1 and text != "equal":
        raise InputError(f"--weights {text} is for the average of several networks: leave it out.")
    return weights


def check_weights(weights: list[float], num_networks: int) -> list[float]:
    """Divided by their sum. Raises InputError when they are not one a network, all 0 or more and not all 0."""
    total = sum(weights)
    if len(weights) != num_networks or not all(weight >= 0 for weight in weights) or not 0 < total < float("inf"):
        raise InputError(
            f"--weights {','.join(f'{w:g}' for w in weights)}: expected {num_networks} numbers, one a network, all 0 "
            "or more and not all 0."
        )
    return [weight / total for weight in weights]


def search_weights(likelihoods: NDArray[np.float64]) -> list[float]:
    """Weights, 0 or more with sum 1, whose average has the greatest likelihood.

    `likelihoods` (n, networks): the probability that each network gives the right class of each image. Expectation
    maximisation: the log-likelihood is concave in the weights, so it ends at the maximum.
    """
    weights = np.full(likelihoods.shape[1], 1 / likelihoods.shape[1])
    for _ in range(10_000):
        parts = np.maximum(weights * likelihoods, 1e-300)
        before, weights = weights, (parts / parts.sum(1, keepdims=True)).mean(0)
        if abs(weights - before).max() < 1e-7:
            break
    return weights.tolist()


def _likelihoods(scores: ScoringPass, num_images: int) -> NDArray[np.float64]:
    """(n, networks): the probability of each readable image's label."""
    parts: list[NDArray[np.float64]] = []
    with Progress("searching weights", num_images) as progress:
        count = progress.counter("images")
        for batch, each in scores:
            right = each[:, torch.arange(len(batch.labels)), batch.labels.clamp(min=0)]
            parts.append(right[:, batch.labels != UNLABELLED].T.double().cpu().numpy())
            count(len(batch.labels))
    return np.concatenate(parts)


def save_predictions(path: Path, predictions: Predictions) -> None:
    """An .npz: `names` (n,) keys of the samples, `probabilities` (n, classes) float32, `labels` (n,), -1 where there is
    none, and `classes` (classes,) their ids."""
    assert predictions.probabilities is not None
    save_npz(
        path,
        names=np.array(predictions.split.keys()),
        probabilities=predictions.probabilities,
        labels=predictions.labels,
        classes=np.array([entry["id"] for entry in predictions.classes]),
    )


def save_submission(path: Path, predictions: Predictions, ids: list[int]) -> None:
    """A line an image, in the order of the images' names: the ids of the five best predictions, the best first, as the
    ImageNet challenge took them (ILSVRC-2012 development kit, readme.txt, "Classification"). `ids`: by class index."""
    order = np.argsort(np.array(predictions.split.keys()), kind="stable")
    lines = [" ".join(str(ids[label]) for label in row) for row in predictions.best[order].tolist()]
    with written(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="ascii")


def challenge_ids(folder: Path, classes: list[dict[str, str]]) -> dict[str, int]:
    """The ILSVRC ids, by class id, from the development kit in `folder`. Raises InputError when it lacks them."""
    kit = devkit.read(folder) if folder.is_dir() else None
    if kit is None:
        raise InputError(f"{folder} holds no development kit. Put {devkit.KITS[0]}.tar.gz there.")
    ids = {wnid: number for number, wnid in kit.wnids.items()}
    if missing := next((entry["id"] for entry in classes if entry["id"] not in ids), None):
        raise InputError(f"the development kit in {folder} does not have the class {missing} of the network.")
    return {entry["id"]: ids[entry["id"]] for entry in classes}
