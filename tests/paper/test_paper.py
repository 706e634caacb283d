"""The command `paper`: real runs on tiny shard sets, stopped and resumed; the table and figures made of them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from matplotlib.figure import Figure
from PIL import Image

from alexnet_fast import Batch, Loader, ShardSet
from alexnet_fast.cli.main import main
from alexnet_fast.cli.paper import DurationType
from alexnet_fast.config import TrainConfig
from alexnet_fast.errors import TrainingError
from alexnet_fast.inference.predictions import Guesses, guess_checkpoints
from alexnet_fast.model.alexnet import build
from alexnet_fast.paper import figures, runs, scores
from alexnet_fast.paper.measures import BASE
from alexnet_fast.report.insight import drawn
from alexnet_fast.sharding.plan import Options
from alexnet_fast.sharding.sources import find_images
from alexnet_fast.training import checkpoint, loop
from tests.conftest import interrupted, picture, write
from tests.paper.made_up import made_up


def command(shards: Path, out: Path, *more: str) -> list[str]:
    settings = [word for each in ("batch=16", "hidden=32", "schedule=steps") for word in ("--set", each)]
    return ["paper", "--shards", str(shards), "--out", str(out), "--epochs", "1", "--gpus", "0", *settings, *more]


def paper(shards: Path, out: Path, *more: str) -> Result:
    result = CliRunner().invoke(main, command(shards, out, *more))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def claims_of(out: Path) -> Any:
    body = json.loads((out / "paper.json").read_text())
    return body["claims"], body["networks"]


def noting(train: Callable[..., Any], calls: list[tuple[str, bool]]) -> Callable[..., Any]:
    def note(topology: Any, config: Any, run: Path, resume: bool) -> Any:
        calls.append((run.name, resume))
        return train(topology, config, run, resume)

    return note


def test_a_stopped_one_is_gone_on_with(small_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in the middle of the second run: nothing is run twice, and the table is that of no stop."""
    whole, parts, only = tmp_path / "whole", tmp_path / "parts", ("--only", "views,no-dropout")
    done = paper(small_shards, whole, *only)
    assert done.exit_code == 0, done.output
    assert "no dropout" in (whole / "paper.md").read_text()

    calls: list[tuple[str, bool]] = []
    monkeypatch.setattr(loop, "train", noting(loop.train, calls))
    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", interrupted(loop.train_step, 6))  # an epoch has 4
        stopped = paper(small_shards, parts, *only)
    assert stopped.exit_code == 130
    assert "Go on with the same command." in stopped.output
    assert [claim["name"] for claim in claims_of(parts)[0]] == ["one-cnn", "views"]
    assert paper(small_shards, parts, *only).exit_code == 0
    assert calls == [("base-0", False), ("no-dropout-0", False), ("no-dropout-0", True)]
    assert claims_of(parts) == claims_of(whole)
    assert paper(small_shards, parts, *only).exit_code == 0
    assert len(calls) == 3

    assert {path.name for path in whole.glob("*.png")} == {"figure3.png", "figure4.png"}
    claims, networks = claims_of(whole)
    assert [claim["name"] for claim in claims] == ["one-cnn", "views", "no-dropout"]
    accuracy = guess_checkpoints([whole / "base-0" / "last.pt"], 0, views=10).accuracy()
    assert accuracy is not None
    assert claims[0]["ours"][0]["value"] == pytest.approx(100 - accuracy.top1)
    assert networks[0]["10 views"] == f"{accuracy.top1:.1f}"

    refused = paper(small_shards, whole, *only, "--set", "lr=0.5")
    assert refused.exit_code == 2
    assert "was trained with lr=0.00125, not 0.5" in refused.output


@torch.inference_mode()
def sharpened(state: dict[str, Any], seed: int, batches: list[Batch]) -> dict[str, Any]:
    """The checkpoint with random weights whose guesses differ from image to image."""
    torch.manual_seed(seed)
    fresh = build(3, TrainConfig(**state["config"])).eval()
    logits = torch.cat([fresh(batch.images) for batch in batches])
    last = fresh.layers()["fc8"]
    scale = 1 / logits.std(0)
    last.weight.mul_(scale[:, None])
    assert last.bias is not None
    last.bias.copy_((last.bias - logits.mean(0)) * scale)
    return {**state, "config": {**state["config"], "seed": seed}, "model": fresh.state_dict()}


def test_five_networks_from_folders_to_the_table(small_shards: Path, tmp_path: Path) -> None:
    """Scores of the last checkpoint, not the best, by torch's own forward passes; the table's numbers are eval's."""
    assert paper(small_shards, tmp_path, "--only", "views").exit_code == 0
    shards = ShardSet(small_shards)
    train, val = (list(Loader.evaluation(shards.split(name), crop=64)) for name in ("train", "val"))
    state = checkpoint.load(tmp_path / "base-0" / "last.pt")
    (tmp_path / "base-0" / "scores.npz").unlink()
    for seed in range(5):
        folder = tmp_path / f"base-{seed}"
        if seed:
            shutil.copytree(tmp_path / "base-0", folder)
        checkpoint.save(folder / "last.pt", sharpened(state, seed, val))
    result = paper(small_shards, tmp_path, "--only", "averaging", "--seeds", "5")
    assert result.exit_code == 0, result.output

    model = checkpoint.build_model(checkpoint.load(tmp_path / "base-3" / "last.pt")).eval()
    with torch.inference_mode():
        (seen,), (learnt,) = ([(model(b.images).argmax(1) == b.labels, b.rows) for b in of] for of in (val, train))
    found = scores.load(tmp_path / "base-3", "val")
    assert np.array_equal(found.right1[seen[1].samples, 0], seen[0])
    some = drawn(len(shards.split("train")), len(shards.split("val")))
    order = np.argsort(learnt[1].samples)
    assert np.array_equal(found.train_right, learnt[0].numpy()[order][some])
    paths = [tmp_path / f"base-{seed}" / "last.pt" for seed in range(5)]
    alone = [guess_checkpoints([path], 0, views=10).accuracy() for path in paths]
    five = guess_checkpoints(paths, 0, views=10).accuracy()
    errors = [100 - accuracy.top1 for accuracy in alone if accuracy]
    assert len(set(errors)) > 1
    ours = {claim["name"]: [each["value"] for each in claim["ours"]] for claim in claims_of(tmp_path)[0]}
    assert five
    assert ours["five-cnns"] == pytest.approx([100 - five.top1])
    assert ours["averaging"] == pytest.approx([np.mean(errors) - (100 - five.top1)])
    one_view = [guess_checkpoints([path], 0).accuracy() for path in paths]
    gains = [one.top1 for one in one_view if one], [ten.top1 for ten in alone if ten]
    assert ours["views"] == pytest.approx([np.mean(gains[1]) - np.mean(gains[0])])


def test_the_five_best_hold_the_label(raw_shards: Path) -> None:
    best = np.array([[3, 0, 1, 2, 4], [0, 1, 2, 3, 5], [5, 4, 3, 2, 1]])
    split = ShardSet(raw_shards).split("val")
    guesses = Guesses(split, [], best, labels=np.array([3, 5, 0]), views=1, weights=[1.0], damaged=[])
    assert scores._right(guesses).tolist() == [[True, True], [False, True], [False, False]]


def test_judged_by_another_split(small_shards: Path, tmp_path: Path) -> None:
    """By the training images, that is, which the same networks are then scored on besides."""
    for more in ([], ["--split", "train"]):
        assert paper(small_shards, tmp_path, "--only", "ilsvrc-2010", *more).exit_code == 0
        accuracy = guess_checkpoints([tmp_path / "base-0" / "last.pt"], 0, views=10, split=(more or ["", "val"])[1])
        claims = {claim["name"]: claim["ours"][0]["value"] for claim in claims_of(tmp_path)[0]}
        assert claims["ilsvrc-2010"] == pytest.approx(100 - accuracy.accuracy().top1)  # type: ignore[union-attr]
        assert ("Judged by the split train." in (tmp_path / "paper.md").read_text()) == bool(more)
    refused = paper(small_shards, tmp_path, "--split", "test")
    assert refused.exit_code == 2
    assert "no split named test" in refused.output


def test_a_budget_leaves_out_and_says_so(small_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four steps of 10 s and a fifth besides are 48 s; without dropout 4.8 s, which fit. The run then takes much less,
    but the first has had its turn."""
    monkeypatch.setattr(runs, "step_seconds", lambda config, gpus: 10.0 if config.dropout else 1.0)
    result = paper(small_shards, tmp_path, "--only", "no-dropout", "--budget", "40s")
    assert result.exit_code == 0
    assert "left out: base seed 0: would take about 48 s, 40 s of the budget are left" in result.output
    assert "of 2 runs about 1 fit into 40 s: no-dropout seed 0" in result.output
    assert not (tmp_path / "base-0").exists()
    assert (tmp_path / "no-dropout-0" / "scores.npz").is_file()


def test_times_of_a_budget() -> None:
    for text, seconds in {"90s": 90, "90m": 5400, "90min": 5400, "90 min": 5400, "1.5h": 5400}.items():
        assert DurationType().convert(text, None, None) == seconds
    for text in ("90", "90x", "m", "-1h", "1h30m"):
        with pytest.raises(click.BadParameter, match="is not a time like"):
            DurationType().convert(text, None, None)


def test_the_clock_learns_from_the_runs(small_shards: Path, tmp_path: Path) -> None:
    run = runs.Experiment(tmp_path, [], str(small_shards), None, {"epochs": 1, "batch": 16, "hidden": 32}).run(BASE, 0)
    clock = runs.Clock(gpus=0, budget=60)
    said = clock.seconds(run)
    assert said > 0
    clock.learn(said, 3 * said)
    assert clock.seconds(run) == pytest.approx(3 * said)
    clock.learn(3 * said, 5 * said)
    assert clock.seconds(run) == pytest.approx(4 * said)


def test_a_run_that_fails_does_not_end_the_others(
    small_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise TrainingError("the loss is not finite (step 3).")

    monkeypatch.setattr(loop, "train", fail)
    result = paper(small_shards, tmp_path, "--only", "views,tanh,tuned")
    assert result.exit_code == 1
    for reason in ("base seed 0: the loss is", "tanh seed 0: the loss is", "sixconv-tuned seed 0: needs --big SHARDS"):
        assert f"left out: {reason}" in result.output


def test_pre_training_then_fine_tuning(small_shards: Path, tmp_path: Path) -> None:
    """On two classes first, then with a new last layer on three others; conv1 stays close to where it was."""
    for split, count in (("train", 16), ("val", 6)):
        for label in (0, 1):
            folder = tmp_path / "images" / split / f"n09_{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(picture(7000 + 100 * label + number, label)).save(folder / f"{split}{number}.png")
    write(find_images(tmp_path / "images"), tmp_path / "big", Options("raw", size=74))
    result = paper(small_shards, tmp_path / "out", "--only", "tuned", "--big", str(tmp_path / "big"))
    assert result.exit_code == 0, result.output
    states = [checkpoint.load(tmp_path / "out" / name / "last.pt") for name in ("sixconv-big-0", "sixconv-tuned-0")]
    big, tuned = [state["model"] for state in states]
    assert (len(states[0]["classes"]), len(states[1]["classes"])) == (2, 3)
    assert (big["classifier.fc8.weight"].shape, tuned["classifier.fc8.weight"].shape) == ((2, 16), (3, 32))
    torch.manual_seed(0)
    fresh = loop.begin(TrainConfig(**states[1]["config"]), 3, torch.device("cpu")).model.state_dict()
    name = "features.conv3.weight"
    assert (tuned[name] - big[name]).norm() < 0.5 * (fresh[name] - big[name]).norm()
    assert [claim["name"] for claim in claims_of(tmp_path / "out")[0]] == ["tuned"]


def test_figure_1_is_the_training_error_of_both() -> None:
    errors = {"ReLU": np.array([80.0, 40.0, 20.0]), "tanh": np.array([90.0, 70.0, 50.0])}
    axes = Figure().add_subplot()
    figures.draw_errors(axes, errors)
    *curves, level = axes.lines
    for curve, (name, each) in zip(curves, errors.items(), strict=True):
        assert curve.get_label() == name
        assert np.array_equal(curve.get_xydata(), list(enumerate(each, 1)))
    assert np.array_equal(level.get_ydata(), [25, 25])


def test_figures_of_what_is_there(trained_run: Path, raw_shards: Path, tmp_path: Path) -> None:
    """Figure 1 waits for tanh; one that cannot be drawn is named and the others come."""
    given = {"epochs": 2, "batch": 16, "hidden": 32}
    experiment = runs.Experiment(tmp_path, [], str(raw_shards), None, given)
    said: list[str] = []
    assert figures.write(experiment, {}, said.append) == []
    shutil.copytree(trained_run, tmp_path / "base-1")
    found = {BASE: {1: made_up(9, 9)}}
    made = figures.write(experiment, found, said.append)
    assert [path.name for path in made] == ["figure3.png", "figure4.png"]
    for path in made:
        ink = np.asarray(Image.open(path).convert("L")) < 128
        assert all(0.01 < half.mean() < 0.6 for half in np.array_split(ink, 2, axis=1))
    state = checkpoint.load(tmp_path / "base-1" / "last.pt")
    state["config"]["shards"] = "moved/away"
    checkpoint.save(tmp_path / "base-1" / "last.pt", state)
    found["tanh"] = {seed: made_up(9, 9) for seed in (0, 1)}
    assert [path.name for path in figures.write(experiment, found, said.append)] == [
        "figure1.png",
        "figure3.png",
    ]
    (left_out,) = said
    assert left_out.startswith("left out: figure4.png: moved/away is not a shard set")
