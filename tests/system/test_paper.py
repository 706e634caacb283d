"""The command `paper`: real runs on tiny shard sets, stopped and resumed, and by several processes at a time."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet_fast import Batch, Loader, ShardSet
from alexnet_fast.config import TrainConfig
from alexnet_fast.errors import TrainingError
from alexnet_fast.inference.networks import open_networks
from alexnet_fast.inference.predictions import predict_split
from alexnet_fast.model.alexnet import build
from alexnet_fast.paper import runs
from alexnet_fast.report.insight import choose_samples
from alexnet_fast.sharding.plan import Options
from alexnet_fast.sharding.sources import find_images
from alexnet_fast.training import checkpoint, trainer
from alexnet_fast.training.state import initial_state
from alexnet_fast.training.step import train_step
from alexnet_fast.training.trainer import Trainer
from tests.conftest import interrupted, picture, write
from tests.paper.command import claims_of, command, paper
from tests.waiting import wait_for


def test_two_at_a_time_share_the_runs(small_shards: Path, tmp_path: Path) -> None:
    """Each run is made by one of them, and both wait for all; what a third has taken is its own until it is killed."""
    hold = f"""
import signal; from pathlib import Path; from alexnet_fast.files import locked
with locked(Path({str(tmp_path / "base-0" / runs.LOCK)!r})): print(flush=True); signal.pause()
"""
    (tmp_path / "base-0").mkdir()
    line = [sys.executable, "-m", "alexnet_fast", *command(small_shards, tmp_path, "--only", "no-dropout,no-crops")]
    with subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE) as third:
        assert third.stdout
        third.stdout.readline()
        both = [subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
        scored = [tmp_path / name / "scores.npz" for name in ("no-dropout-0", "no-crops-0")]
        wait_for(lambda: all(path.exists() for path in scored), *both)
        assert not (tmp_path / "base-0" / "scores.npz").exists()
        third.kill()
    output = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], output
    made = re.findall(r"^\d/3  (.*) seed 0:", "".join(output), re.MULTILINE)
    assert sorted(made) == ["base", "no-crops", "no-dropout"]
    assert all(re.search("^other processes are at .*base seed 0", text, re.MULTILINE) for text in output)
    tables = [text[text.index("error of one") :] for text in output]
    assert tables[0] == tables[1]
    assert [claim["name"] for claim in claims_of(tmp_path)[0]] == ["one-cnn", "views", "no-dropout", "no-crops"]


def noting(run: Callable[[Trainer], Any], calls: list[tuple[str, int]]) -> Callable[[Trainer], Any]:
    def note(self: Trainer) -> Any:
        calls.append((self.folder.name, self.state.position.steps_done))
        return run(self)

    return note


def test_a_stopped_one_is_resumed(small_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in the middle of the second run: nothing is run twice, and the table is that of no stop."""
    whole, parts, only = tmp_path / "whole", tmp_path / "parts", ("--only", "views,no-dropout")
    done = paper(small_shards, whole, *only)
    assert done.exit_code == 0, done.output
    assert "no dropout" in (whole / "paper.md").read_text()

    calls: list[tuple[str, int]] = []
    monkeypatch.setattr(Trainer, "run", noting(Trainer.run, calls))
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "train_step", interrupted(train_step, 6))  # an epoch has 4
        stopped = paper(small_shards, parts, *only)
    assert stopped.exit_code == 130
    assert "Resume with the same command." in stopped.output
    assert [claim["name"] for claim in claims_of(parts)[0]] == ["one-cnn", "views"]
    assert paper(small_shards, parts, *only).exit_code == 0
    assert calls == [("base-0", 0), ("no-dropout-0", 0), ("no-dropout-0", 2)]
    assert claims_of(parts) == claims_of(whole)
    assert paper(small_shards, parts, *only).exit_code == 0
    assert len(calls) == 3

    assert {path.name for path in whole.glob("*.png")} == {"figure3.png", "figure4.png"}
    claims, networks = claims_of(whole)
    assert [claim["name"] for claim in claims] == ["one-cnn", "views", "no-dropout"]
    accuracy = predict_split(open_networks([whole / "base-0" / "last.pt"], 0), views=10, precision="fp32").accuracy()
    assert accuracy is not None
    assert claims[0]["ours"][0]["value"] == pytest.approx(100 - accuracy.top1)
    assert networks[0]["10 views"] == f"{accuracy.top1:.1f}"

    refused = paper(small_shards, whole, *only, "--set", "lr=0.5")
    assert refused.exit_code == 2
    assert "was trained with lr=0.00125, not 0.5" in refused.output


@torch.inference_mode()
def sharpened(state: dict[str, Any], seed: int, batches: list[Batch]) -> dict[str, Any]:
    """The checkpoint with random weights whose predictions differ from image to image."""
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
    found = runs.Experiment(tmp_path, [], str(small_shards), None, {"epochs": 1}).run("base", 3).scores()
    assert np.array_equal(found.right1[seen[1].samples, 0], seen[0])
    some = choose_samples(len(shards.split("train")), len(shards.split("val")))
    order = np.argsort(learnt[1].samples)
    assert np.array_equal(found.train_right, learnt[0].numpy()[order][some])
    paths = [tmp_path / f"base-{seed}" / "last.pt" for seed in range(5)]
    alone = [predict_split(open_networks([path], 0), views=10, precision="fp32").accuracy() for path in paths]
    five = predict_split(open_networks(paths, 0), views=10, precision="fp32").accuracy()
    errors = [100 - accuracy.top1 for accuracy in alone if accuracy]
    assert len(set(errors)) > 1
    ours = {claim["name"]: [each["value"] for each in claim["ours"]] for claim in claims_of(tmp_path)[0]}
    assert five
    assert ours["five-cnns"] == pytest.approx([100 - five.top1])
    assert ours["averaging"] == pytest.approx([np.mean(errors) - (100 - five.top1)])
    one_view = [predict_split(open_networks([path], 0), precision="fp32").accuracy() for path in paths]
    gains = [one.top1 for one in one_view if one], [ten.top1 for ten in alone if ten]
    assert ours["views"] == pytest.approx([np.mean(gains[1]) - np.mean(gains[0])])


def test_judged_by_another_split(small_shards: Path, tmp_path: Path) -> None:
    """By the training images, that is, which the same networks are then scored on besides."""
    for more in ([], ["--split", "train"]):
        assert paper(small_shards, tmp_path, "--only", "ilsvrc-2010", *more).exit_code == 0
        accuracy = predict_split(
            open_networks([tmp_path / "base-0" / "last.pt"], 0),
            views=10,
            precision="fp32",
            split=(more or ["", "val"])[1],
        )
        claims = {claim["name"]: claim["ours"][0]["value"] for claim in claims_of(tmp_path)[0]}
        assert claims["ilsvrc-2010"] == pytest.approx(100 - accuracy.accuracy().top1)  # type: ignore[union-attr]
        assert ("Judged by the split train." in (tmp_path / "paper.md").read_text()) == bool(more)
    refused = paper(small_shards, tmp_path, "--split", "test")
    assert refused.exit_code == 2
    assert "no split named test" in refused.output


def test_a_budget_leaves_out_runs(small_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four steps of 10 s and a fifth besides are 48 s; without dropout 4.8 s, which fit. The run then takes much less,
    but the first has had its turn."""
    monkeypatch.setattr(runs, "step_seconds", lambda config, gpus: 10.0 if config.dropout else 1.0)
    result = paper(small_shards, tmp_path, "--only", "no-dropout", "--budget", "40s")
    assert result.exit_code == 0
    assert "left out: base seed 0: would take about 48 s, 40 s of the budget are left" in result.output
    assert "of 2 runs about 1 fit into 40 s: no-dropout seed 0" in result.output
    assert not (tmp_path / "base-0").exists()
    assert (tmp_path / "no-dropout-0" / "scores.npz").is_file()


def test_a_run_that_fails_does_not_end_the_others(
    small_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise TrainingError("the loss is not finite (step 3).")

    monkeypatch.setattr(Trainer, "run", fail)
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
    fresh = initial_state(TrainConfig(**states[1]["config"]), 3, torch.device("cpu")).model.state_dict()
    name = "features.conv3.weight"
    assert (tuned[name] - big[name]).norm() < 0.5 * (fresh[name] - big[name]).norm()
    assert [claim["name"] for claim in claims_of(tmp_path / "out")[0]] == ["tuned"]
