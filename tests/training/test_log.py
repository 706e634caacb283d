"""What a run logs: the same numbers for TensorBoard as in its JSON lines; each layer's scales."""

import importlib.util
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet_fast.config import TrainConfig
from alexnet_fast.distributed.topology import Topology
from alexnet_fast.environment import install_command
from alexnet_fast.errors import InputError
from alexnet_fast.recipes import make_config
from alexnet_fast.training import checkpoint, log, scales, start, trainer
from alexnet_fast.training.step import train_step
from tests.conftest import interrupted

ALONE = Topology(0, 1, torch.device("cpu"))
STEPS = 4
"""Of an epoch here: 60 images in steps of 15."""


def settings(shards: Path, **overrides: Any) -> TrainConfig:
    common = {"epochs": 2, "batch": 16, "precision": "fp32", "hidden": 32, "crop": 64, "threads": 1, "log_every": 1}
    return make_config("paper", **{"shards": str(shards), "lr": 0.001, **common, **overrides})


def lines_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def flat(lines: list[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """As TensorBoard has it: of every tag, steps and values."""
    scalars: dict[str, list[tuple[int, float]]] = {}
    for line in lines:
        del line["time"]  # TensorBoard's events have their own
        step = line.pop("step", line.pop("epoch") * STEPS)
        for key, value in line.items():
            parts = {f"{key}/{layer}": x for layer, x in value.items()} if isinstance(value, dict) else {key: value}
            for tag, number in parts.items():
                scalars.setdefault(tag, []).append((step, number))
    return scalars


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of TensorBoard's own
def test_tensorboard_has_the_numbers_of_the_json_lines(
    raw_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a run that was killed and resumed: nothing twice, and nothing of what was undone."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    config = settings(raw_shards, tensorboard=True, layer_scales=True)
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "train_step", interrupted(train_step, 6))
        assert not start.train(ALONE, run, config.as_dict(), resume=False).finished
    with log.Log(run, STEPS, True, print) as killed:
        killed.add({"step": 7, "epoch": 1, "loss": 100.0})
        killed.add({"epoch": 2, "val_top1": 100.0})
    assert start.train(ALONE, run, {"threads": 1}, resume=True).finished

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    expected = flat(lines_of(run))
    assert {"loss", "val_top1", "damaged", "gradient_norm/conv1", "update_ratio/fc8"} <= expected.keys()
    assert len(expected["loss"]) == 2 * STEPS
    assert set(events.Tags()["scalars"]) == expected.keys()
    for tag, points in expected.items():
        seen = [(event.step, event.value) for event in events.Scalars(tag)]
        assert [step for step, _ in seen] == [step for step, _ in points]
        assert [value for _, value in seen] == pytest.approx([value for _, value in points], rel=1e-6), tag


def test_tensorboard_has_to_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    log.check_tensorboard(False)
    with pytest.raises(InputError, match=re.escape(install_command("tensorboard"))):
        log.check_tensorboard(True)


def saved_after(steps: int, config: TrainConfig, run: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "train_step", interrupted(train_step, steps))
        start.train(ALONE, run, config.as_dict(), resume=False)
    weights: dict[str, torch.Tensor] = checkpoint.load(run / "last.pt")["model"]
    return weights


@pytest.mark.parametrize("settings_of", [{}, {"optimizer": "lars", "lr": 1.0}, {"accumulate": 2}])
def test_layer_scales_are_those_of_the_weights(
    settings_of: dict[str, Any], raw_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of step 2, by the checkpoints before and after it."""
    config = settings(raw_shards, layer_scales=True, momentum=0.0, weight_decay=0.0, dropout=0.0, **settings_of)
    before = saved_after(1, config, tmp_path / "1", monkeypatch)
    after = saved_after(2, config, tmp_path / "2", monkeypatch)
    line = lines_of(tmp_path / "2")[1]
    names = [name for name in before if name.endswith("weight")]
    layers = [name.split(".")[1] for name in names]
    assert list(line["update_ratio"]) == list(line["gradient_norm"]) == layers
    for name, layer in zip(names, layers, strict=True):
        size, change = before[name].norm().item(), (after[name] - before[name]).norm().item()
        assert line["weight_norm"][layer] == pytest.approx(size, rel=1e-4)
        assert line["update_ratio"][layer] == pytest.approx(change / size, rel=1e-3)
        if config.optimizer == "sgd":  # without momentum and decay the step is the gradient times the rate
            assert line["gradient_norm"][layer] == pytest.approx(change / config.lr, rel=1e-3)


def test_steps_between_log_lines_measure_nothing(
    raw_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They hold no copy of the weights; and the training is the same with and without."""
    counted: list[int] = []
    real = scales._squares

    def count(tensors: list[torch.Tensor]) -> torch.Tensor:
        counted.append(len(tensors))
        return real(tensors)

    monkeypatch.setattr(scales, "_squares", count)
    config = settings(raw_shards, epochs=1, log_every=3, layer_scales=True)
    saved = []
    for name, wanted in (("with", True), ("without", False)):
        start.train(ALONE, tmp_path / name, replace(config, layer_scales=wanted).as_dict(), resume=False)
        saved.append(checkpoint.load(tmp_path / name / "last.pt")["model"])
    assert counted == [8] * 3 * 2  # the third step, and the epoch's last
    assert all(torch.equal(values, saved[1][name]) for name, values in saved[0].items())
