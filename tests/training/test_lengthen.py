"""Runs resumed with another number of epochs: as if begun with it, bit for bit, or refused."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from alexnet_fast.config import CHOICES, TrainConfig
from alexnet_fast.errors import InputError
from alexnet_fast.recipes import make_config
from alexnet_fast.report.record import read_run
from alexnet_fast.training import checkpoint, trainer
from alexnet_fast.training.optim import make_optimizer, set_learning_rates
from alexnet_fast.training.settings import check_epochs
from alexnet_fast.training.step import train_step
from tests.conftest import interrupted
from tests.training.test_checkpoint import assert_same, begin, resume, settings

PLATEAU: dict[str, Any] = {"schedule": "plateau", "patience": 1, "colour_std": 0.1, "grow_from": 1.0}


@pytest.fixture(scope="module")
def whole(raw_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 3 epochs, of 4 steps each, that was never stopped."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    begin(settings(raw_shards, epochs=3, **PLATEAU), run)
    return run


def assert_same_run(run: Path, other: Path) -> None:
    """Checkpoints, log and settings, bit for bit."""
    assert_same(run, other)
    assert (run / "config.json").read_bytes() == (other / "config.json").read_bytes()
    assert checkpoint.load(run / "last.pt")["config"] == checkpoint.load(other / "last.pt")["config"]


def test_a_finished_run_is_lengthened(raw_shards: Path, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    begin(settings(raw_shards, epochs=1, **PLATEAU), run)
    assert read_run(run).progress() == "finished: 1 epoch"
    result = resume(run, epochs=3)
    assert (result.finished, result.epochs, result.steps) == (True, 3, 12)
    assert read_run(run).progress() == "finished: 3 epochs"
    assert_same_run(run, whole)


def test_a_lengthened_run_keeps_its_length(
    raw_shards: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before it has saved, then stopped in mid-epoch: each time resumed without --epochs."""
    run = tmp_path / "run"
    begin(settings(raw_shards, epochs=1, **PLATEAU), run)

    def killed(*_: object) -> None:
        raise SystemExit

    monkeypatch.setattr(trainer, "train_step", killed)
    with pytest.raises(SystemExit):
        resume(run, epochs=3)
    assert checkpoint.load(run / "last.pt")["config"]["epochs"] == 1
    monkeypatch.setattr(trainer, "train_step", interrupted(train_step, 3))
    assert not resume(run).finished
    monkeypatch.setattr(trainer, "train_step", train_step)
    assert resume(run).finished
    assert_same_run(run, whole)


@pytest.mark.parametrize(("before", "after"), [(5, 3), (2, 3)])
def test_before_a_share_of_the_epochs_is_over_their_number_changes(
    before: int, after: int, raw_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the first epoch; then colour jitter, and conv1, end where they do in a run of the new length."""
    shares = {**PLATEAU, "colour_off": 0.5, "conv1_slow": 0.5, "conv1_freeze": 0.9}
    begin(settings(raw_shards, epochs=after, **shares), tmp_path / "whole")
    monkeypatch.setattr(trainer, "train_step", interrupted(train_step, 2))
    begin(settings(raw_shards, epochs=before, **shares), tmp_path / "run")
    monkeypatch.setattr(trainer, "train_step", train_step)
    assert resume(tmp_path / "run", epochs=after).finished
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_run_is_ended_where_it_is(raw_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    monkeypatch.setattr(trainer, "train_step", interrupted(train_step, 4))
    assert begin(settings(raw_shards, epochs=5, **PLATEAU), run).epochs == 1
    result = resume(run, epochs=1)
    assert (result.finished, result.epochs, result.steps) == (True, 1, 4)
    assert read_run(run).progress() == "finished: 1 epoch"


def test_what_cannot_be_lengthened_is_refused(raw_shards: Path, tmp_path: Path) -> None:
    """Without a change in the run; the line says what to do, and that works."""
    run = tmp_path / "run"
    begin(settings(raw_shards, epochs=2, grow_from=1.0), run)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(InputError) as caught:
        resume(run, epochs=3)
    assert str(caught.value) == (
        f"{run} cannot have 3 epochs in place of 2: what it has trained depends on that number (by schedule). Begin "
        f"another run with its weights: choose another --run, leave out --resume, and add --set init={run / 'last.pt'}"
    )
    with pytest.raises(InputError) as caught:
        resume(run, epochs=1)
    assert str(caught.value) == (
        f"epoch 2 of {run} is begun already, so the run cannot end after 1. Resume it with --epochs 2, as before."
    )
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    assert resume(run, epochs=2).finished
    assert begin(settings(raw_shards, epochs=1, grow_from=1.0, init=str(run / "last.pt")), tmp_path / "more").finished


@pytest.mark.parametrize("schedule", CHOICES["schedule"])
def test_allowed_is_what_changes_nothing_that_was_trained(schedule: str) -> None:
    """Every number of epochs begun, against each step's rates and each epoch's colour with both lengths."""
    base = make_config("paper", schedule=schedule, colour_off=1.0, conv1_slow=1.0, conv1_freeze=1.0)
    shares: tuple[dict[str, Any], ...]
    shares = ({}, {"colour_off": 0.5}, {"conv1_slow": 0.25}, {"conv1_freeze": 0.5}, {"colour_off": 0, "conv1_slow": 0})
    for changes, warmup, (before, after) in product(shares, (0, 2), ((4, 8), (8, 4), (8, 12))):
        saved, config = (replace(base, warmup_epochs=warmup, epochs=epochs, **changes) for epochs in (before, after))
        allowed = [begun for begun in range(before + 1) if is_allowed(config, saved, begun)]
        alike = [begun for begun in range(min(before, after) + 1) if trained(saved, begun) == trained(config, begun)]
        assert allowed == alike, (changes, warmup, before, after)


def trained(config: TrainConfig, begun: int) -> list[Any]:
    """Returns what the steps, five an epoch, of the first `begun` epochs were trained with."""
    optimizer = make_optimizer(nn.Sequential(nn.Conv2d(1, 1, 1), nn.Linear(1, 1)), config)
    values: list[Any] = []
    for step in range(5 * begun):
        set_learning_rates(optimizer, config, step / 5)
        values += [group["lr"] for group in optimizer.param_groups]
        values.append(step // 5 < config.colour_off * config.epochs)
    return values


def is_allowed(config: TrainConfig, saved: TrainConfig, begun: int) -> bool:
    try:
        check_epochs(config, saved, begun, Path("run/last.pt"))
    except InputError:
        return False
    return True
