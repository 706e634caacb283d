"""The paper's claims: intervals and comparisons against hand-computed ones, and real runs on tiny shard sets."""

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from matplotlib.figure import Figure
from PIL import Image

from alexnet_fast.cli import main
from alexnet_fast.cli_paper import DurationType
from alexnet_fast.config import TrainConfig
from alexnet_fast.errors import InputError, TrainingError
from alexnet_fast.model.alexnet import build
from alexnet_fast.paper import figures, measures, runs, systems, table
from alexnet_fast.paper.measures import BASE, Scores, epochs_to
from alexnet_fast.paper.statistics import (
    FAILS,
    HOLDS,
    UNDECIDED,
    Estimate,
    over_images,
    over_seeds,
    paired,
    ratio,
    share,
)
from alexnet_fast.results.guesses import guess_checkpoints
from alexnet_fast.sharding.plan import Options
from alexnet_fast.sharding.sources import find_images
from alexnet_fast.training import checkpoint, loop
from tests.conftest import interrupted, picture, write

T2, T3 = 12.7062, 4.30265
"""Student's t at 97.5 % with 1 and 2 degrees of freedom, from a printed table."""
N = 100


def made_up(wrong1: int, wrong10: int, train_wrong: int = 0, errors: tuple[float, ...] = (90.0, 50.0)) -> Scores:
    """Of 100 images with label 0 the first are wrong, so that pairs of networks differ in as few as possible. With ten
    views the probabilities say the same; the label is then the sixth best guess."""

    def right(wrong: int) -> Any:
        return np.repeat(np.arange(N)[:, None] >= wrong, 2, axis=1)

    probabilities = np.tile(np.array([0.5, 0.1, 0.1, 0.1, 0.1, 0.1], np.float32), (N, 1))
    probabilities[:wrong10] = [0.0, 0.2, 0.2, 0.2, 0.2, 0.2]
    train = right(train_wrong)[:, 0]
    return Scores(right(wrong1), right(wrong10), train, probabilities, np.zeros(N, np.int64), np.array(errors))


def test_intervals_over_seeds_and_images() -> None:
    estimate = over_seeds([1.0, 2.0, 3.0])
    assert estimate.value == 2.0
    assert estimate.low == pytest.approx(2 - T3 / 3**0.5, abs=1e-4)
    assert over_seeds([4.0, 6.0]).high == pytest.approx(5 + T2, abs=1e-3)
    ones = np.r_[np.ones(10), np.zeros(90)] * 100  # variance 100^2 * 10 * 90 / (100 * 99)
    assert over_images([ones]).high == pytest.approx(10 + 1.959964 * (10000 * 0.09 / 99) ** 0.5)
    both = over_images([ones, -ones])
    assert both.value == 0.0
    assert both.high == pytest.approx(1.959964 * (2 * 10000 * 0.09 / 99) ** 0.5)
    assert paired([[ones]]).over == "1 seed, images"
    assert paired([[ones], [ones, ones]]) == over_seeds([10.0, 20.0])
    assert share([ones]).low == pytest.approx(5.52, abs=0.01)  # Wilson's interval of 10 in 100
    assert ratio([2.0, 8.0]).value == pytest.approx(4.0)
    assert ratio([8.0]).verdict() == UNDECIDED


@pytest.mark.parametrize(
    ("low", "high", "none", "verdict"),
    [
        (0.1, 2.0, 0.0, HOLDS),
        (0.0, 2.0, 0.0, UNDECIDED),
        (-1.0, 0.0, 0.0, UNDECIDED),
        (-2.0, -0.1, 0.0, FAILS),
        (0.0, 0.0, 0.0, UNDECIDED),
        (1.1, 9.0, 1.0, HOLDS),
        (0.2, 0.9, 1.0, FAILS),
    ],
)
def test_verdicts(low: float, high: float, none: float, verdict: str) -> None:
    assert Estimate((low + high) / 2, low, high, "", none).verdict() == verdict


def test_errors_and_differences_are_those_of_the_images() -> None:
    found = {BASE: {0: made_up(50, 40), 1: made_up(52, 46)}, "no-lrn": {1: made_up(60, 51), 2: made_up(0, 0)}}
    assert [e.value for e in measures.error(BASE)(found)] == [43.0, 43.0]
    assert measures.views(found)[0] == over_seeds([10.0, 6.0])
    difference = measures.difference("no-lrn")(found)[0]  # seed 1 alone is in both
    assert difference.value == 5.0
    assert difference.high == pytest.approx(5 + 1.959964 * (10000 * 0.05 * 0.95 / 99) ** 0.5)


def test_the_gap_is_that_between_training_and_validation() -> None:
    found = {BASE: {0: made_up(50, 0, 45)}, "no-dropout": {0: made_up(48, 0, 10)}}
    gap = measures.gap("no-dropout")(found)[0]
    assert gap.value == pytest.approx((90 - 52) - (55 - 50))
    # 35 training images and 2 validation images on which the two differ
    variance = 10000 * (0.35 * 0.65 + 0.02 * 0.98) / 99
    assert gap.low == pytest.approx(gap.value - 1.959964 * variance**0.5)


def test_averages_are_those_of_the_probabilities() -> None:
    sure, unsure = made_up(0, 20), made_up(0, 40)
    found = {BASE: {0: sure, 1: unsure}, systems.TUNED: {0: made_up(0, 0)}}
    # of two: images 0-19 are wrong in both; on 20-39 the mean of (0, .2, ...) and (.5, .1, ...) is right
    two = {BASE: 2}
    assert measures.error_of_average(two)(found)[0].value == 20.0
    top1, top5 = measures.averaging(two)(found)
    assert top1.value == top5.value == 10.0
    spread = np.r_[np.zeros(20), np.full(20, 50.0), np.zeros(60)]
    assert top1.high - top1.value == pytest.approx(1.959964 * spread.std(ddof=1) / 10)
    # with the third, whose 0.5 beats twice 0.2 / 3
    assert measures.joining(two, {BASE: 2, systems.TUNED: 1})(found)[0].value == 20.0


def test_epochs_to_a_training_error() -> None:
    errors = np.array([80.0, 40.0, 20.0])
    assert [epochs_to(errors, level) for level in (90, 60, 40, 25)] == [1, 1.5, 2, 2.75]
    found = {
        BASE: {0: made_up(0, 0, errors=(80, 40, 20)), 1: made_up(0, 0, errors=(80, 40, 30))},
        "tanh": {0: made_up(0, 0, errors=(90, 70, 50)), 1: made_up(0, 0, errors=(80, 40, 10))},
    }
    slower = measures.slower("tanh")(found)[0]
    assert slower.value == pytest.approx((3 / 1.75 * ((2 + 1 / 3) / 3)) ** 0.5)  # to 50 % and to 30 %
    assert slower.over == "2 seeds, to 50.0, 30.0 % training error"


def test_a_claim_waits_for_its_networks() -> None:
    found = {BASE: {seed: made_up(9, 9) for seed in range(4)}}
    averaging = next(claim for claim in systems.CLAIMS if claim.name == "averaging")
    assert table.missing(averaging, found) == ["base seed 4"]
    assert [row.claim.name for row in table.rows(found)] == ["one-cnn", "views"]


def test_a_network_that_learnt_nothing_decides_nothing() -> None:
    """It guesses one class for every image, with one of its seeds."""
    stuck = replace(made_up(90, 90), probabilities=np.tile(np.array([0.4, 0.6], np.float32), (N, 1)))
    found = {BASE: {seed: made_up(20, 20) for seed in (0, 1)}, "no-fc7": {0: made_up(30, 30), 1: stuck}}
    found["no-lrn"] = {seed: made_up(30 + seed, 30) for seed in (0, 1)}
    verdicts = {row.claim.name: row.verdict for row in table.rows(found)}
    assert verdicts["no-fc7"] == "not decided: no-fc7 learnt nothing"
    assert verdicts["no-lrn"] == "holds"
    assert verdicts["one-cnn"] == "-"


def test_the_plan_has_every_seed_and_what_is_started_from() -> None:
    plan = systems.plan(systems.choose(["joining", "no-lrn"]), seeds=1)
    assert plan[:4] == [("base", 0), ("no-lrn", 0), ("sixconv-big", 0), ("sixconv-tuned", 0)]
    assert plan[4:] == [("base", 1), ("sixconv-big", 1), ("sixconv-tuned", 1), ("base", 2), ("base", 3), ("base", 4)]
    assert len(systems.plan(systems.choose([]), seeds=3)) == 3 * len(systems.NETWORKS) + 2
    with pytest.raises(InputError, match="--only lnr: expected some of one-cnn,"):
        systems.choose(["views", "lnr"])


def test_networks_differ_from_the_recipe_as_the_original_s_notes_say() -> None:
    big = systems.configure("sixconv-big", 1, "s", "b", {})
    tuned = systems.configure("sixconv-tuned", 1, "s", "b", {}, "start.pt")
    assert (big.shards, big.arch, big.bottleneck, big.seed) == ("b", "sixconv", 2048, 1)
    assert (tuned.shards, tuned.bottleneck, tuned.init, tuned.epochs) == ("s", 0, "start.pt", 54)
    assert (tuned.lr, tuned.conv1_slow, tuned.conv1_freeze) == (0.001, 0.0, 7 / 54)
    for name, network in systems.NETWORKS.items():
        base = systems.configure(BASE, 0, "s", "b", {"epochs": 5})
        config = systems.configure(name, 0, "s", "b", {"epochs": 5})
        if not network.big and not network.start:
            assert config == replace(base, **network.settings)


@pytest.fixture(scope="module")
def small_shards(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("paper") / "small"
    write(find_images(image_folder), out, Options("raw", size=74))
    return out


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


def test_two_at_a_time_share_the_runs(small_shards: Path, tmp_path: Path) -> None:
    """Each run is made by one of them, and both wait for all; what a third has taken is its own until it is killed."""
    hold = f"""
from pathlib import Path; from time import sleep; from alexnet_fast.files import locked
with locked(Path({str(tmp_path / "base-0" / runs.LOCK)!r})): print(flush=True); sleep(600)
"""
    (tmp_path / "base-0").mkdir()
    line = [sys.executable, "-m", "alexnet_fast", *command(small_shards, tmp_path, "--only", "no-dropout,no-crops")]
    with subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE) as third:
        assert third.stdout
        third.stdout.readline()
        both = [subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
        while {path.parent.name for path in tmp_path.glob("*/scores.npz")} != {"no-dropout-0", "no-crops-0"}:
            assert [process.poll() for process in both] == [None, None]
            time.sleep(0.1)
        third.kill()
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    made = re.findall(r"^\d/3  (.*) seed 0:", "".join(said), re.MULTILINE)
    assert sorted(made) == ["base", "no-crops", "no-dropout"]
    assert all(re.search("^other processes are at .*base seed 0", text, re.MULTILINE) for text in said)
    tables = [text[text.index("error of one") :] for text in said]
    assert tables[0] == tables[1]
    assert [claim["name"] for claim in claims_of(tmp_path)[0]] == ["one-cnn", "views", "no-dropout", "no-crops"]


def test_a_budget_leaves_out_and_says_so(small_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four steps of 10 s and a fifth besides are 48 s; without dropout 4.8 s, which fit. The run then takes much less,
    but the first has had its turn."""
    monkeypatch.setattr(runs, "step_seconds", lambda config, gpus: 10.0 if config.dropout else 1.0)
    result = paper(small_shards, tmp_path, "--only", "no-dropout", "--budget", "40s")
    assert result.exit_code == 0
    assert "left out: base seed 0: would take about 1 min, 1 min of the budget are left" in result.output
    assert "of 2 runs about 1 fit into 1 min: no-dropout seed 0" in result.output
    assert not (tmp_path / "base-0").exists()
    assert (tmp_path / "no-dropout-0" / "scores.npz").is_file()


def test_times_of_a_budget() -> None:
    for text, seconds in {"90s": 90, "90m": 5400, "90min": 5400, "90 min": 5400, "1.5h": 5400}.items():
        assert DurationType().convert(text, None, None) == seconds
    for text in ("90", "90x", "m", "-1h", "1h30m"):
        with pytest.raises(click.BadParameter, match="is not a time like"):
            DurationType().convert(text, None, None)


def test_the_clock_learns_from_the_runs(small_shards: Path, tmp_path: Path) -> None:
    run = runs.Experiment(tmp_path, str(small_shards), None, {"epochs": 1, "batch": 16, "hidden": 32}).run(BASE, 0)
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
    experiment = runs.Experiment(tmp_path, str(raw_shards), None, given)
    said: list[str] = []
    assert figures.write(tmp_path, experiment, {}, said.append) == []
    shutil.copytree(trained_run, tmp_path / "base-1")
    found = {BASE: {1: made_up(9, 9)}}
    drawn = figures.write(tmp_path, experiment, found, said.append)
    assert [path.name for path in drawn] == ["figure3.png", "figure4.png"]
    for path in drawn:
        ink = np.asarray(Image.open(path).convert("L")) < 128
        assert all(0.01 < half.mean() < 0.6 for half in np.array_split(ink, 2, axis=1))
    state = checkpoint.load(tmp_path / "base-1" / "last.pt")
    state["config"]["shards"] = "moved/away"
    checkpoint.save(tmp_path / "base-1" / "last.pt", state)
    found["tanh"] = {seed: made_up(9, 9) for seed in (0, 1)}
    assert [path.name for path in figures.write(tmp_path, experiment, found, said.append)] == [
        "figure1.png",
        "figure3.png",
    ]
    (left_out,) = said
    assert left_out.startswith("left out: figure4.png: moved/away is not a shard set")


def test_without_fc6_the_network_is_that_without_fc7() -> None:
    """So one of them is trained."""
    logits = []
    for layer in ("fc6", "fc7"):
        torch.manual_seed(0)
        model = build(10, systems.configure(BASE, 0, "s", "b", {"without": layer, "hidden": 64})).eval()
        logits.append(model(torch.arange(3 * 70 * 70.0).reshape(1, 3, 70, 70) % 255 - 127))
    assert torch.equal(*logits)


def test_the_list_names_every_claim() -> None:
    shown = systems.as_list(width=300)
    for claim in systems.CLAIMS:
        assert f"\n  {claim.name} " in shown
    for words in ("40.7 / 18.2", "36.7 / 15.4", "67.4 / 40.9", "37.5 / 17.0", "--split half", "without=conv4"):
        assert words in shown
    result = CliRunner().invoke(main, ["paper", "--list"], env={"COLUMNS": "130"})
    assert (result.exit_code, result.output.split()) == (0, systems.as_list(130).split())
