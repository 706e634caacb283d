"""The predictions of a trained network on the images it is judged by: computed once, kept in its run folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from alexnet_fast.files import save_npz
from alexnet_fast.inference.networks import open_network
from alexnet_fast.inference.predictions import predict_split
from alexnet_fast.paper.measures import NetworkScores
from alexnet_fast.report.insight import best_predictions
from alexnet_fast.report.record import read_run
from alexnet_fast.shards.reader import ShardSet


def file(run: Path, split: str) -> Path:
    return run / ("scores.npz" if split == "val" else f"scores-{split}.npz")


def score(run: Path, split: str, gpus: int) -> None:
    """Scores a finished run, the network as it was at the end: none is chosen by the images it is judged by."""
    network = open_network(run / "last.pt", gpus)
    one, ten = (predict_split([network], split=split, views=views, keep=views == 10) for views in (1, 10))
    labels, best = best_predictions(network, ShardSet.of(network.config).split("train"), most=len(one.labels))
    save_npz(
        file(run, split),
        right1=one.right,
        right10=ten.right,
        train_right=labels == best,
        probabilities=ten.probabilities,
        labels=ten.known_labels,
    )


def load(run: Path, split: str) -> NetworkScores:
    with np.load(file(run, split)) as arrays:
        top1 = list(read_run(run).training_top1().values())
        return NetworkScores(**arrays, errors=100 - np.array(top1))
