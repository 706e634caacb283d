"""What a trained network is worth: computed once, kept in its run folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet_fast.distributed.topology import Topology
from alexnet_fast.environment import cores
from alexnet_fast.evaluation.scoring import Member, ScoringPass
from alexnet_fast.files import save_npz
from alexnet_fast.inference.networks import Network, open_network
from alexnet_fast.inference.predictions import Guesses, guess_split
from alexnet_fast.paper.measures import Scores
from alexnet_fast.report import record
from alexnet_fast.report.insight import drawn
from alexnet_fast.shards.format import UNLABELLED
from alexnet_fast.shards.reader import ShardSet


def file(run: Path, split: str) -> Path:
    return run / ("scores.npz" if split == "val" else f"scores-{split}.npz")


def score(run: Path, split: str, gpus: int) -> None:
    """Scores a finished run, the network as it was at the end: none is chosen by the images it is judged on."""
    network = open_network(run / "last.pt", gpus)
    one, ten = guess_split([network], split=split), guess_split([network], split=split, views=10, keep=True)
    save_npz(
        file(run, split),
        right1=_right(one),
        right10=_right(ten),
        train_right=_right_in_training(network, most=len(one.labels)),
        probabilities=ten.probabilities,
        labels=ten.judged,
    )


def load(run: Path, split: str) -> Scores:
    with np.load(file(run, split)) as arrays:
        _, top1 = record.read(run).training_top1()
        return Scores(**arrays, errors=100 - np.array(top1))


def _right(guesses: Guesses) -> NDArray[np.bool_]:
    right = guesses.best == guesses.judged[:, None]
    return np.stack([right[:, 0], right.any(1)], 1)


def _right_in_training(network: Network, most: int) -> NDArray[np.bool_]:
    """Of all training images, or of `most` always the same ones: central crop, no augmentation; none damaged."""
    config = network.config
    split = ShardSet.of(config).split("train")
    samples = drawn(len(split), most)
    member, alone = Member(network.model, network.crop, network.pixels.mean), Topology(0, 1, network.device)
    right = []
    for batch, each in ScoringPass([member], split, alone, samples=samples, threads=cores()):
        right.append((each[0].argmax(1) == batch.labels)[batch.labels != UNLABELLED].cpu().numpy())
    return np.concatenate(right)
