"""Runs and their budget of time."""

from pathlib import Path

import click
import numpy as np
import pytest

from alexnet_fast import ShardSet
from alexnet_fast.cli.paper import DurationType
from alexnet_fast.inference.predictions import Predictions
from alexnet_fast.paper import runs
from alexnet_fast.paper.measures import BASE


def test_the_five_best_hold_the_label(raw_shards: Path) -> None:
    best = np.array([[3, 0, 1, 2, 4], [0, 1, 2, 3, 5], [5, 4, 3, 2, 1]])
    split = ShardSet(raw_shards).split("val")
    labels = np.array([3, 5, 0])
    predictions = Predictions(split, [], best, labels, views=1, precision="fp32", weights=[1.0], corrupt=[])
    assert predictions.right.tolist() == [[True, True], [False, True], [False, False]]


def test_times_of_a_budget() -> None:
    for text, seconds in {"90s": 90, "90m": 5400, "90min": 5400, "90 min": 5400, "1.5h": 5400}.items():
        assert DurationType().convert(text, None, None) == seconds
    for text in ("90", "90x", "m", "-1h", "1h30m"):
        with pytest.raises(click.BadParameter, match="is not a time like"):
            DurationType().convert(text, None, None)


def test_the_clock_learns_from_the_runs(small_shards: Path, tmp_path: Path) -> None:
    run = runs.Experiment(tmp_path, [], str(small_shards), None, {"epochs": 1, "batch": 16, "hidden": 32}).run(BASE, 0)
    clock = runs.Clock(gpus=0, budget=60)
    first = clock.seconds(run)
    assert first > 0
    clock.learn(first, 3 * first)
    assert clock.seconds(run) == pytest.approx(3 * first)
    clock.learn(3 * first, 5 * first)
    assert clock.seconds(run) == pytest.approx(4 * first)
