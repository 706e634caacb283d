"""Runs and their budget of time."""

from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

from alexnet_fast import ShardSet
from alexnet_fast.cli.main import main
from alexnet_fast.cli.paper import DurationType
from alexnet_fast.inference.predictions import Predictions
from alexnet_fast.paper import runs
from alexnet_fast.paper.measures import BASE
from alexnet_fast.training import checkpoint


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


def test_few_images_get_the_smaller_batch_of_train(small_shards: Path, tmp_path: Path) -> None:
    """60 training images: 32, the least, at a quarter of the recipe's 0.01; of the network to pre-train, too."""

    log: list[str] = []

    def fitted(**given: object) -> runs.Experiment:
        return runs.fit(runs.Experiment(tmp_path, [], str(small_shards), str(small_shards), given), log.append)

    experiment = fitted(epochs=1)
    assert log.pop().endswith("2 in all, not 1 and 1; learning rate 0.0025 in place of 0.01")
    for name, rate in ((BASE, 0.0025), ("no-lrn", 0.0025), ("sixconv-big", 0.0025), ("sixconv-tuned", 0.00025)):
        config = experiment.run(name, 0).config
        assert config.batch == 32
        assert config.lr == pytest.approx(rate)
    config = fitted(lr=0.3).run(BASE, 0).config
    assert log.pop().endswith("2 steps an epoch and 180 in all, not 1 and 90")
    assert (config.batch, config.lr) == (32, 0.3)
    assert fitted(batch=128).run(BASE, 0).config.batch == 128
    assert log == []


def test_results_of_another_batch_are_not_mixed_with(small_shards: Path, tmp_path: Path) -> None:
    """A folder of before the batch was fitted: refused, and as it was."""
    old = runs.Experiment(tmp_path, [], str(small_shards), None, {"epochs": 1}).run(BASE, 0)
    old.folder.mkdir()
    checkpoint.save(old.last, {"config": old.config.as_dict(), "epoch": 1})
    before = old.last.read_bytes()
    line = ["paper", "--shards", str(small_shards), "--out", str(tmp_path), "--gpus", "0", "--epochs", "1"]
    result = CliRunner().invoke(main, line)
    assert result.exit_code == 2
    first, error = result.output.splitlines()
    assert first.endswith("2 in all, not 1 and 1; learning rate 0.0025 in place of 0.01")
    assert error.startswith(f"Error: {old.folder} was trained with batch=128, not 32: ")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [old.last]
    assert old.last.read_bytes() == before
