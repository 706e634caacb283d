"""Training end to end on small shards: learning, resuming, failures named plainly."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alexnet_fast.config import TrainConfig
from alexnet_fast.distributed.topology import Topology
from alexnet_fast.errors import InputError, TrainingError
from alexnet_fast.inference.networks import open_networks
from alexnet_fast.inference.predictions import predict_split
from alexnet_fast.loading.batch import Batch
from alexnet_fast.loading.plan import Rows, ShuffleWindow
from alexnet_fast.model.alexnet import build
from alexnet_fast.recipes import batch_for, make_config
from alexnet_fast.sharding.plan import Options
from alexnet_fast.sharding.sources import find_images
from alexnet_fast.shards.reader import ShardSet, Split
from alexnet_fast.training import checkpoint, optim, trainer
from alexnet_fast.training.run_folder import create
from alexnet_fast.training.start import train
from alexnet_fast.training.state import initial_state
from alexnet_fast.training.step import train_step
from alexnet_fast.training.trainer import Result, Trainer
from tests.conftest import SIZE, epoch_rows, interrupted, write

CPU = Topology(0, 1, torch.device("cpu"))
ROWS = Rows(0, 0, np.zeros(0, np.int64), np.zeros(0, np.uint16), np.zeros(0, bool), np.zeros(0, np.float32))


def settings(shards: Path, recipe: str = "fast", **overrides: Any) -> TrainConfig:
    return make_config(
        recipe,
        **{
            "shards": str(shards),
            "epochs": 2,
            "batch": 16,
            "precision": "fp32",
            "log_every": 1,
            "hidden": 256,
            **overrides,
        },
    )


def start(config: TrainConfig, run: Path) -> Result:
    return train(CPU, run, config.as_dict(), resume=False)


def log_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def weights(run: Path, name: str = "last.pt") -> dict[str, torch.Tensor]:
    model: dict[str, torch.Tensor] = checkpoint.load(run / name)["model"]
    return model


def test_a_run_learns_and_leaves_its_folder(jpeg_shards: Path, tmp_path: Path) -> None:
    result = start(settings(jpeg_shards, epochs=6, crops=False, dropout=0.0), tmp_path / "run")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        ".lock",
        "config.json",
        "environment.json",
        "log.jsonl",
        "last.pt",
        "best.pt",
        "step-00000020.pt",  # the one before last.pt
    }
    steps = [line for line in log_of(tmp_path / "run") if "loss" in line]
    evaluations = [line for line in log_of(tmp_path / "run") if "val_top1" in line]
    measured = {"images_per_second", "data_wait", "peak_gib", "time"}
    assert set(steps[0]) == {"step", "epoch", "loss", "top1", "damaged", "lr", *measured}
    # 0.4 for 1,024 images is 0.00625 for 16: reached in an epoch of four steps; half-way from there to the end, half
    rates = [line["lr"] for line in steps]
    assert rates[:5] == pytest.approx([0, 0.0015625, 0.003125, 0.0046875, 0.00625], abs=1e-8)
    assert rates[14] == pytest.approx(0.003125, abs=1e-8)
    # a 20th of the fall before its end: (1 - cos(pi / 20)) / 2 of the peak
    assert rates[-1] == pytest.approx(0.00625 * 0.00615583, rel=1e-4)
    assert steps[0]["loss"] == pytest.approx(1.0986, abs=1e-3)  # ln 3: fc8 starts at zero
    assert steps[-1]["loss"] < 0.7 * steps[0]["loss"]
    assert [line["epoch"] for line in evaluations] == [1, 2, 3, 4, 5, 6]
    assert result.best_top1 == pytest.approx(max(line["val_top1"] for line in evaluations), abs=1e-4)
    accuracy = predict_split(open_networks([tmp_path / "run"], 0)).accuracy()
    assert accuracy is not None
    assert accuracy.top1 == pytest.approx(result.best_top1)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["epochs"] == 6


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_eval_scores_as_training_did(precision: str, jpeg_shards: Path, tmp_path: Path) -> None:
    """A run and `eval` of it take the same precision, so they count the same images as right; and both say which."""
    run = tmp_path / "run"
    result = start(settings(jpeg_shards, epochs=1, precision=precision), run)
    own, *others = (
        predict_split(open_networks([run / "last.pt"]), precision=one, keep=True) for one in (None, "bf16", "fp32")
    )
    assert (result.precision, own.precision) == (precision, precision)
    accuracy = own.accuracy()
    assert accuracy is not None
    assert accuracy.top1 == result.top1
    assert [np.array_equal(own.probabilities, other.probabilities) for other in others] == [  # type: ignore[arg-type]
        precision == "bf16",
        precision == "fp32",
    ]


def test_the_order_window(jpeg_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream is the plan's; tars are read from end to end, one by one."""
    seen: list[Rows] = []
    opened: list[int] = []

    def noted(model: Any, state: Any, batch: Batch, *more: Any) -> Any:
        seen.append(batch.rows)
        return train_step(model, state, batch, *more)

    monkeypatch.setattr(trainer, "train_step", noted)
    monkeypatch.setattr(Split, "prefetch_tars", lambda _, shards: opened.extend(shards))
    start(settings(jpeg_shards, order="window", window=2, hidden=16), tmp_path / "run")
    tars = ShardSet(jpeg_shards).split("train").index["shard"]
    for epoch in range(2):
        order = epoch_rows(0, epoch, 60, margin=0, colour_std=0, window=ShuffleWindow(tars, 2)).samples
        assert [sorted(rows.samples.tolist()) for rows in seen if rows.epoch == epoch] == [
            sorted(part.tolist()) for part in np.split(order, 4)
        ]
    assert sorted(opened) == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("arch", ["paper", "onetower"])
def test_other_networks_train(arch: str, jpeg_shards: Path, tmp_path: Path) -> None:
    config = settings(jpeg_shards, recipe="paper", arch=arch, epochs=1, lr=0.001)
    start(config, tmp_path / "run")
    assert all(torch.isfinite(tensor).all() for tensor in weights(tmp_path / "run").values())


@pytest.fixture(scope="module")
def whole(jpeg_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of these settings that was never stopped."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    start(settings(jpeg_shards), run)
    return run


@pytest.mark.parametrize("stop_after", [1, 3, 4, 6])
def test_resuming_equals_never_having_stopped(
    stop_after: int, whole: Path, jpeg_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, dropout too, stopped in mid-epoch or at its end."""
    config = settings(jpeg_shards)
    monkeypatch.setattr(trainer, "train_step", interrupted(train_step, stop_after))
    first = start(config, tmp_path / "parts")
    assert not first.finished
    assert train(CPU, tmp_path / "parts", {}, resume=True).finished
    expected, parts = weights(whole), weights(tmp_path / "parts")
    assert all(torch.equal(expected[name], parts[name]) for name in expected)
    assert losses(whole) == losses(tmp_path / "parts")


def losses(run: Path) -> list[tuple[str, int, float]]:
    """Of the log: each step's training loss and each epoch's validation accuracy."""
    return [
        ("step", line["step"], line["loss"]) if "step" in line else ("epoch", line["epoch"], line["val_top1"])
        for line in log_of(run)
    ]


def test_resuming_after_a_kill_leaves_one_line_a_step(jpeg_shards: Path, tmp_path: Path) -> None:
    """A killed process has logged steps past its last checkpoint, the last line perhaps not whole."""
    run = tmp_path / "run"
    config = settings(jpeg_shards)
    start(config, run)
    whole = (run / "log.jsonl").read_text()
    with (run / "log.jsonl").open("a") as file:
        file.write('{"step": 900, "epoch": 7, "loss": 1.0}\n{"epoch": 7, "val_top1": 3}\n{"step": 90')
    assert train(CPU, run, {}, resume=True).finished
    assert (run / "log.jsonl").read_text() == whole


def test_a_loss_that_is_not_finite_stops_the_run(jpeg_shards: Path, tmp_path: Path) -> None:
    config = settings(jpeg_shards, recipe="paper", arch="onetower", lr=1e6, warmup_epochs=0.0)
    with pytest.raises(TrainingError, match=r"^the loss is not finite \(step \d\), first the output of fc\d\. Most"):
        start(config, tmp_path / "run")
    assert not (tmp_path / "run" / "last.pt").exists()


def test_a_stuck_loss_is_printed(
    jpeg_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("alexnet_fast.training.trainer.STUCK_STEPS", 2)
    start(settings(jpeg_shards, lr=0.0, epochs=1), tmp_path / "run")
    assert "the loss is still 1.099, that of chance (ln 3)" in capsys.readouterr().err


def test_what_does_not_fit_is_refused(jpeg_shards: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="crop 300 is larger than the stored images"):
        start(settings(jpeg_shards, crop=300), tmp_path / "a")
    with pytest.raises(InputError, match="crop 32 is too small for AlexNet"):
        start(settings(jpeg_shards, crop=32), tmp_path / "b")
    assert not list(tmp_path.iterdir())
    create(tmp_path / "b", settings(jpeg_shards), ShardSet(jpeg_shards).manifest)
    with pytest.raises(InputError, match="already holds a run"):
        start(settings(jpeg_shards), tmp_path / "b")


def test_a_failed_save_keeps_the_previous_checkpoint(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "last.pt", {"epoch": 1})
    with pytest.raises(Exception, match="pickle"):
        checkpoint.save(tmp_path / "last.pt", {"epoch": lambda: 2})
    assert checkpoint.load(tmp_path / "last.pt")["epoch"] == 1


def test_an_accumulated_batch_is_one_step() -> None:
    """4 x 32 accumulated equals 128, to float tolerance: weights after two steps, and the losses."""
    config = make_config("paper", batch=128, hidden=64, dropout=0.0, precision="fp32", lr=0.001)
    results = []
    for accumulate in (1, 4):
        torch.manual_seed(0)
        parts = replace(config, accumulate=accumulate)
        state = initial_state(parts, 10, torch.device("cpu"))
        losses = []
        for step in range(2):
            optim.set_learning_rates(state.optimizer, parts, step)
            images, labels = torch.randn(128, 3, 64, 64) * 50, torch.randint(0, 10, (128,))
            loss, correct = train_step(state.model, state, Batch(images, labels, ROWS), parts, 1.0)
            losses.append((loss.item(), correct.item()))
        results.append((losses, state.model.state_dict()))
    (whole, weights_whole), (parts_, weights_parts) = results
    assert [loss for loss, _ in whole] == pytest.approx([loss for loss, _ in parts_], rel=1e-5)
    assert [correct for _, correct in whole] == [correct for _, correct in parts_]
    for name, values in weights_whole.items():
        torch.testing.assert_close(weights_parts[name], values, rtol=1e-4, atol=1e-6)


def test_a_run_is_resumed_in_other_parts(jpeg_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when memory ran out: the losses, to float tolerance, of a run that was never stopped."""
    config = settings(jpeg_shards, "paper", arch="onetower", dropout=0.0, lr=0.0003, hidden=64)
    start(config, tmp_path / "whole")
    monkeypatch.setattr(trainer, "train_step", interrupted(train_step, 3))
    start(config, tmp_path / "parts")
    parts: list[int] = []

    def noted(model: Any, state: Any, batch: Batch, config: TrainConfig, share: float) -> Any:
        parts.append(config.accumulate)
        return train_step(model, state, batch, config, share)

    monkeypatch.setattr(trainer, "train_step", noted)
    assert train(CPU, tmp_path / "parts", {"accumulate": 4}, resume=True).finished
    assert parts == [4] * 5
    found, expected = ([loss for *_, loss in losses(tmp_path / run)] for run in ("parts", "whole"))
    assert found == pytest.approx(expected, rel=1e-4)


def test_few_images_take_a_smaller_batch(
    jpeg_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A recipe's batch and rate are for a million images; what is given is kept."""
    many = [(images, batch_for(images, 1000, 1024)) for images in (1_281_167, 20_480, 20_479, 9_469, 60)]
    assert many == [(1_281_167, 1024), (20_480, 1024), (20_479, 512), (9_469, 256), (60, 32)]
    assert batch_for(60, 1, 8) == 8
    # of the whole run: ImageNet's are the recipes' own; CIFAR-10, and Imagenette in 30 and in 10 epochs
    for epochs in (30, 90):
        assert [batch_for(1_281_167, epochs, batch) for batch in (128, 1024, 8192)] == [128, 1024, 8192]
    assert [batch_for(50_000, epochs, 1024) for epochs in (30, 21, 20, 3, 1)] == [1024, 1024, 512, 128, 32]
    assert [batch_for(9_469, epochs, 1024) for epochs in (30, 10)] == [256, 64]
    monkeypatch.setattr(Trainer, "run", lambda self: self.config)

    def begun(name: str, **given: Any) -> TrainConfig:
        return train(CPU, tmp_path / name, {"shards": str(jpeg_shards), **given}, resume=False)  # type: ignore[return-value]

    def first_line() -> str:
        return capsys.readouterr().err.splitlines()[0]

    config = begun("a", recipe="fast")
    assert (config.batch, config.lr) == (32, 0.4 * 32 / 1024)
    assert first_line() == (
        "batch 32 in place of the recipe's 1,024, because 60 training images are few: 2 steps an epoch and 60 in all, "
        "not 1 and 30; learning rate 0.0125 in place of 0.4"
    )
    config = begun("b", recipe="fast", lr=0.1)
    assert (config.batch, config.lr) == (32, 0.1)
    assert first_line().endswith("2 steps an epoch and 60 in all, not 1 and 30")
    config = begun("c", recipe="fast", batch=50)
    assert (config.batch, config.lr) == (50, 0.4 * 50 / 1024)
    assert first_line().startswith("network ")


def test_plateau_needs_a_val_split(image_folder: Path, tmp_path: Path) -> None:
    write(find_images(image_folder / "train"), tmp_path / "shards", Options(size=SIZE))
    with pytest.raises(InputError, match=r"has no val split, by which .* Shard with --val-fraction"):
        start(settings(tmp_path / "shards", "paper"), tmp_path / "run")


def test_a_run_begins_with_another_network_s_layers(
    jpeg_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sixth-conv net takes what the paper's has; conv6 is new; the head is kept, for the classes are the same."""
    small: dict[str, Any] = {"recipe": "paper", "epochs": 1, "lr": 1e-9, "bias_lr_factor": 1.0, "weight_decay": 0.0}
    start(settings(jpeg_shards, **small), tmp_path / "first")
    first = weights(tmp_path / "first")
    six = settings(jpeg_shards, **small, seed=1, arch="sixconv", init=str(tmp_path / "first"))
    start(six, tmp_path / "all")
    convolutions = "conv1, conv2, conv3, conv4, conv5"
    begun = f"begins with {convolutions}, fc6, fc7, fc8 of {tmp_path / 'first'}; newly drawn: conv6\n"
    assert begun in capsys.readouterr().err
    start(replace(six, init_layers="conv"), tmp_path / "conv")
    assert f"begins with {convolutions} of {tmp_path / 'first'}; newly drawn: conv6, fc6" in capsys.readouterr().err
    for run, layers in {"all": {"conv", "fc6", "fc7", "fc8"}, "conv": {"conv"}}.items():
        after = weights(tmp_path / run)
        for name, values in first.items():
            kept = any(name.split(".")[1].startswith(layer) for layer in layers)
            assert torch.allclose(after[name], values, atol=1e-5) == kept or name.endswith("bias"), name
    with pytest.raises(InputError, match="holds no layer of this network: it is paper"):
        start(settings(jpeg_shards, arch="bn", init=str(tmp_path / "first")), tmp_path / "bn")


def test_a_new_head_where_the_classes_are_others(tmp_path: Path) -> None:
    config = make_config("paper", hidden=16)
    saved, model = build(3, config), build(3, config)
    classes = [{"id": name, "name": name} for name in "abc"]
    checkpoint.save(tmp_path / "a.pt", {"model": saved.state_dict(), "classes": classes, "config": config.as_dict()})
    others = [{"id": name, "name": name} for name in "abd"]
    taken = checkpoint.start_from(model, tmp_path / "a.pt", others)
    assert taken == ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7"]
    assert all(torch.equal(model.layers()[name].weight, saved.layers()[name].weight) for name in taken)
    assert not torch.equal(model.layers()["fc8"].weight, saved.layers()["fc8"].weight)
