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
import scipy.stats
import torch
from click.testing import CliRunner, Result
from matplotlib.figure import Figure
from PIL import Image

from alexnet_fast import Batch, Loader, ShardSet
from alexnet_fast.cli.main import main
from alexnet_fast.cli.paper import DurationType
from alexnet_fast.config import TrainConfig
from alexnet_fast.errors import InputError, TrainingError
from alexnet_fast.inference.predictions import Guesses, guess_checkpoints
from alexnet_fast.model.alexnet import build
from alexnet_fast.paper import figures, measures, runs, scores, systems, table
from alexnet_fast.paper.measures import BASE, Scores, epochs_to
from alexnet_fast.paper.statistics import (
    FAILS,
    HOLDS,
    UNDECIDED,
    Estimate,
    between_seeds,
    compared,
    over_images,
    over_seeds,
    ratio,
    share,
    within,
)
from alexnet_fast.report.insight import drawn
from alexnet_fast.sharding.plan import Options
from alexnet_fast.sharding.sources import find_images
from alexnet_fast.training import checkpoint, trainer
from alexnet_fast.training.state import initial_state
from alexnet_fast.training.step import train_step
from alexnet_fast.training.trainer import Trainer
from tests.conftest import interrupted, picture, write

T2, T3 = 12.7062, 4.30265
"""Student's t at 97.5 % with 1 and 2 degrees of freedom, from a printed table."""
N = 100
ONES = np.r_[np.ones(10), np.zeros(90)] * 100


def made_up(wrong1: int, wrong10: int, train_wrong: int = 0, errors: tuple[float, ...] = (90.0, 50.0)) -> Scores:
    """Of 100 images with label 0 the first are wrong, so that pairs of networks differ in as few as possible; of the
    five best guesses half as many. With ten views the probabilities say the same."""

    def right(wrong: int) -> Any:
        return np.arange(N)[:, None] >= [wrong, wrong // 2]

    probabilities = np.tile(np.array([0.55, 0.09, 0.09, 0.09, 0.09, 0.09], np.float32), (N, 1))
    probabilities[:wrong10] = [0.15, 0.25, 0.15, 0.15, 0.15, 0.15]
    probabilities[: wrong10 // 2] = [0.0, 0.2, 0.2, 0.2, 0.2, 0.2]
    train = right(train_wrong)[:, 0]
    return Scores(right(wrong1), right(wrong10), train, probabilities, np.zeros(N, np.int64), np.array(errors))


def test_intervals_over_seeds_and_images() -> None:
    estimate = over_seeds([1.0, 2.0, 3.0])
    assert estimate.value == 2.0
    assert estimate.low == pytest.approx(2 - T3 / 3**0.5, abs=1e-4)
    assert over_seeds([4.0, 6.0]).high == pytest.approx(5 + T2, abs=1e-3)
    assert within([ONES, np.r_[ONES, ONES * 0]]) == over_seeds([10.0, 5.0])
    assert share([ONES]).low == pytest.approx(5.52, abs=0.01)  # Wilson's interval of 10 in 100
    assert (share([ONES, ONES * 9]).low, share([ONES, ONES * 9]).high) == (0.0, 100.0)


def test_two_networks_with_seeds_of_their_own() -> None:
    """Student's test as scipy does it; one seed beside several borrows their spread."""
    one, other = [3.0, 5.0, 4.5], [1.0, 2.0, 2.5, 1.5, 3.5]
    theirs = scipy.stats.ttest_ind(one, other).confidence_interval()
    ours = between_seeds(one, other)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))
    assert ours.over == "3 and 5 seeds"
    alone = between_seeds([4.0], [1.0, 2.0, 3.0])
    assert (alone.low, alone.high) == pytest.approx((2 - T3 * (4 / 3) ** 0.5, 2 + T3 * (4 / 3) ** 0.5), abs=1e-4)
    assert ratio([8.0, 2.0], [2.0]).value == pytest.approx(2.0)
    assert ratio([8.0], [2.0]).verdict() == UNDECIDED
    assert ratio([8.0, 8.0], [2.0, 2.0]).verdict() == HOLDS


def test_over_images() -> None:
    """Agresti and Min's interval, half an image more in each cell of the table; McNemar's mid-p test agrees."""
    b, c, n = 10, 4, 102
    middle, half = 100 * (b - c) / n, 195.9964 * ((b + c + 1) - (b - c) ** 2 / n) ** 0.5 / n
    differences = np.r_[np.full(b, 100.0), np.full(c, -100.0), np.zeros(86)]
    estimate = over_images([differences])
    assert estimate.value == pytest.approx(6)
    assert (estimate.low, estimate.high) == pytest.approx((middle - half, middle + half))
    for worse in range(1, 12):  # of 3,925, and none the other way
        holds = over_images([np.r_[np.full(worse, 100.0), np.zeros(3925 - worse)]]).verdict() == HOLDS
        assert holds == (scipy.stats.binomtest(worse, worse).pvalue / 2 < 0.05)
    both = over_images([differences, -differences])
    assert (both.value, both.high) == pytest.approx((0, 2**0.5 * half))
    one = compared([[ONES]], [[ONES * 0]])
    assert (one.over, one.verdict()) == ("1 seed each, images", UNDECIDED)
    assert over_images([ONES]).verdict() == HOLDS


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
    assert [e.value for e in measures.error(BASE)(found)] == [43.0, 21.5]
    assert measures.views(found) == [over_seeds([10.0, 6.0]), over_seeds([5.0, 3.0])]
    difference = measures.difference("no-lrn")(found)
    assert difference[0] == between_seeds([51.0, 0.0], [40.0, 46.0])
    assert [e.value for e in difference] == [25.5 - 43, 12.5 - 21.5]
    one_each = {BASE: {0: made_up(50, 40)}, "no-lrn": {1: made_up(60, 51)}}
    assert measures.difference("no-lrn")(one_each)[0].value == 11.0


def test_the_gap_is_that_between_training_and_validation() -> None:
    found = {BASE: {0: made_up(50, 0, 45), 1: made_up(50, 0, 41)}, "no-dropout": {0: made_up(48, 0, 10)}}
    (gap,) = measures.gap("no-dropout")(found)
    assert gap == between_seeds([48.0 - 10], [50.0 - 45, 50.0 - 41])
    assert gap.value == (90 - 52) - (57 - 50)


def test_averages_are_those_of_the_probabilities() -> None:
    sure, unsure = made_up(0, 20), made_up(0, 40)
    found = {BASE: {0: sure, 1: unsure}, systems.TUNED: {0: made_up(0, 0)}}
    # of two: images 0-19 are wrong in both; on 20-39 the mean of what is wrong there and (.55, .09, ...) is right
    two = {BASE: 2}
    assert measures.error_of_average(two)(found)[0].value == 20.0
    top1, top5 = measures.averaging(two)(found)
    assert (top1.value, top5.value) == (
        10.0,
        -5.0,
    )  # the five best: 0-9 are wrong in both, 10-19 in one and the average
    spread = np.r_[np.zeros(20), np.full(20, 50.0), np.zeros(60)]
    assert top1.high == over_images([spread]).high
    # with the third, whose 0.55 beats twice 0.2 and 0.09
    joined = measures.joining(two, {BASE: 2, systems.TUNED: 1})(found)
    assert [e.value for e in joined] == [20.0, 20.0]


def test_seeds_for_several_averages() -> None:
    found = {BASE: {seed: made_up(0, wrong) for seed, wrong in enumerate([20, 40, 10, 30, 99])}}
    two = {BASE: 2}
    assert measures.error_of_average(two)(found)[0].value == 15.0
    assert measures.averaging(two)(found)[0] == over_seeds([10.0, 10.0], "averages")


def test_five_guesses_of_five_classes_tell_nothing() -> None:
    few = replace(made_up(20, 20), probabilities=made_up(20, 20).probabilities[:, :5])
    assert len(measures.error(BASE)({BASE: {0: few}})) == 1


def test_epochs_to_a_training_error() -> None:
    errors = np.array([80.0, 40.0, 20.0])
    assert [epochs_to(errors, level) for level in (90, 60, 40, 25)] == [1, 1.5, 2, 2.75]
    found = {
        BASE: {0: made_up(0, 0, errors=(80, 40, 20)), 1: made_up(0, 0, errors=(80, 60, 30))},
        "tanh": {0: made_up(0, 0, errors=(90, 70, 50)), 1: made_up(0, 0, errors=(80, 40, 10))},
    }
    (slower,) = measures.slower("tanh")(found)  # to 50 %
    assert slower.value == pytest.approx((3 * 1.75 / (1.75 * (2 + 1 / 3))) ** 0.5)
    assert slower.over == "2 and 2 seeds, to 50.0 % training error"


def test_a_claim_waits_for_its_networks() -> None:
    found = {BASE: {seed: made_up(9, 9) for seed in range(4)}}
    averaging = next(claim for claim in systems.CLAIMS if claim.name == "averaging")
    assert table.missing(averaging, found) == ["base seed 4"]
    assert [row.claim.name for row in table.rows(found, [averaging], [])] == ["one-cnn", "views"]
    (row,) = [row for row in table.rows(found, [averaging], ["base seed 4"]) if row.lacks]
    assert row.cells()[0::4] == ["averaging five lowers the error", "not tried: base seed 4 left out"]
    named = systems.choose(["ilsvrc-2010"])
    assert [row.claim.name for row in table.rows(found, named, [])] == ["one-cnn", "views", "ilsvrc-2010"]


def test_a_network_that_learnt_nothing_decides_nothing() -> None:
    """It guesses one class for every image, or nearly the same of all, with one of its seeds."""
    constant = np.tile(np.array([0.4, 0.6], np.float32), (N, 1))
    labels = np.arange(N) % 2
    assert not replace(made_up(50, 50), probabilities=constant, labels=labels).learnt
    noise = 0.05 * np.random.default_rng(0).normal(size=(N, 1))
    hardly = (np.full((N, 2), 0.5) + noise * [1, -1]).astype(np.float32)
    stuck = replace(made_up(50, 50), probabilities=hardly, labels=labels)
    assert len(set(hardly.argmax(1).tolist())) == 2
    assert not stuck.learnt
    knowing = np.where(labels[:, None] == [0, 1], 0.7, 0.3).astype(np.float32)
    assert replace(stuck, probabilities=knowing).learnt
    too_sure = np.eye(10, dtype=np.float32)[np.r_[np.arange(40), np.arange(41, 101)] % 10]  # 40 right, the others -inf
    assert replace(made_up(60, 60), probabilities=too_sure, labels=np.arange(N) % 10).learnt

    def knows(wrong: int) -> Scores:
        return replace(made_up(wrong, wrong), probabilities=knowing, labels=labels)

    found = {BASE: {0: knows(20), 1: knows(21)}, "no-fc7": {0: knows(30), 1: stuck}}
    found["no-lrn"] = {seed: knows(30 + seed) for seed in (0, 1)}
    verdicts = {row.claim.name: row.verdict for row in table.rows(found, [], [])}
    assert verdicts["no-fc7"] == "not decided: no-fc7 learnt nothing"
    assert verdicts["no-lrn"] == "holds"
    assert verdicts["one-cnn"] == "-"
    (row,) = [row for row in table.rows({BASE: {0: stuck}}, [], []) if row.claim.name == "one-cnn"]
    assert row.verdict == "base learnt nothing"


def test_the_plan_has_every_seed_and_what_is_started_from() -> None:
    plan = systems.plan(systems.choose(["joining", "no-lrn"]), seeds=2)
    assert plan[:6] == [("base", 0), ("no-lrn", 0), *[("base", seed) for seed in range(1, 5)]]
    assert plan[6:] == [
        *[(name, seed) for seed in (0, 1) for name in (systems.PRETRAINED, systems.TUNED)],
        ("no-lrn", 1),
    ]
    assert len(systems.plan(systems.choose([]), seeds=3)) == 3 * len(systems.NETWORKS) + 2
    with pytest.raises(InputError, match="--only lnr: expected some of one-cnn,"):
        systems.choose(["views", "lnr"])
    assert {claim.name for claim in systems.CLAIMS} - {claim.name for claim in systems.choose([])} == {
        "ilsvrc-2010",
        "fall-2009",
    }


def test_the_numbers_of_the_paper() -> None:
    """Tables 1 and 2, sections 3.1, 3.3 to 3.5, 4.1, 6.1 and 7."""
    paper = {claim.name: [float(number) for number in re.findall(r"\d+\.\d", claim.paper)] for claim in systems.CLAIMS}
    assert {name: numbers for name, numbers in paper.items() if numbers} == {
        "one-cnn": [40.7, 18.2],
        "views": [1.5, 1.3],
        "five-cnns": [38.1, 16.4, 16.4],
        "averaging": [2.6, 1.8],
        "half": [1.7, 1.2],
        "no-lrn": [1.4, 1.2],
        "no-overlap": [0.4, 0.3],
        "tuned": [39.0, 16.6],
        "pretraining": [1.7, 1.6],
        "seven-cnns": [36.7, 15.4, 15.3],
        "joining": [1.4, 1.0],
        "ilsvrc-2010": [37.5, 17.0, 39.0, 18.3],
        "fall-2009": [67.4, 40.9],
    }


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


def noting(run: Callable[[Trainer], Any], calls: list[tuple[str, int]]) -> Callable[[Trainer], Any]:
    def note(self: Trainer) -> Any:
        calls.append((self.folder.name, self.state.position.steps_done))
        return run(self)

    return note


def test_a_stopped_one_is_gone_on_with(small_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert "Go on with the same command." in stopped.output
    assert [claim["name"] for claim in claims_of(parts)[0]] == ["one-cnn", "views"]
    assert paper(small_shards, parts, *only).exit_code == 0
    assert calls == [("base-0", 0), ("no-dropout-0", 0), ("no-dropout-0", 2)]
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
