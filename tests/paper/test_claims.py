"""The paper's claims: what is measured for each, from made-up scores, and which networks it takes."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from alexnet_fast.cli.main import main
from alexnet_fast.errors import InputError
from alexnet_fast.model.alexnet import build
from alexnet_fast.paper import claims, measures, table
from alexnet_fast.paper.measures import BASE, NetworkScores, epochs_to
from alexnet_fast.paper.statistics import (
    between_seeds,
    over_images,
    over_seeds,
)
from tests.paper.made_up import N, made_up


def test_errors_and_differences_are_those_of_the_images() -> None:
    found = {BASE: {0: made_up(50, 40), 1: made_up(52, 46)}, "no-lrn": {1: made_up(60, 51), 2: made_up(0, 0)}}
    assert [e.value for e in measures.error(found, {BASE: 1})] == [43.0, 21.5]
    assert measures.views(found) == [over_seeds([10.0, 6.0]), over_seeds([5.0, 3.0])]
    difference = measures.difference(found, "no-lrn")
    assert difference[0] == between_seeds([51.0, 0.0], [40.0, 46.0])
    assert [e.value for e in difference] == [25.5 - 43, 12.5 - 21.5]
    one_each = {BASE: {0: made_up(50, 40)}, "no-lrn": {1: made_up(60, 51)}}
    assert measures.difference(one_each, "no-lrn")[0].value == 11.0


def test_the_gap_is_that_between_training_and_validation() -> None:
    found = {BASE: {0: made_up(50, 0, 45), 1: made_up(50, 0, 41)}, "no-dropout": {0: made_up(48, 0, 10)}}
    (gap,) = measures.gap(found, "no-dropout")
    assert gap == between_seeds([48.0 - 10], [50.0 - 45, 50.0 - 41])
    assert gap.value == (90 - 52) - (57 - 50)


def test_averages_are_those_of_the_probabilities() -> None:
    sure, unsure = made_up(0, 20), made_up(0, 40)
    found = {BASE: {0: sure, 1: unsure}, claims.TUNED: {0: made_up(0, 0)}}
    # of two: images 0-19 are wrong in both; on 20-39 the mean of what is wrong there and (.55, .09, ...) is right
    two = {BASE: 2}
    assert measures.error(found, two)[0].value == 20.0
    top1, top5 = measures.averaging(found, two)
    assert (top1.value, top5.value) == (
        10.0,
        -5.0,
    )  # the five best: 0-9 are wrong in both, 10-19 in one and the average
    spread = np.r_[np.zeros(20), np.full(20, 50.0), np.zeros(60)]
    assert top1.high == over_images([spread]).high
    # with the third, whose 0.55 beats twice 0.2 and 0.09
    joined = measures.joining(found, two, {BASE: 2, claims.TUNED: 1})
    assert [e.value for e in joined] == [20.0, 20.0]


def test_seeds_for_several_averages() -> None:
    found = {BASE: {seed: made_up(0, wrong) for seed, wrong in enumerate([20, 40, 10, 30, 99])}}
    two = {BASE: 2}
    assert measures.error(found, two)[0].value == 15.0
    assert measures.averaging(found, two)[0] == over_seeds([10.0, 10.0], "averages")


def test_top_5_of_five_classes_is_left_out() -> None:
    few = replace(made_up(20, 20), probabilities=made_up(20, 20).probabilities[:, :5])
    assert len(measures.error({BASE: {0: few}}, {BASE: 1})) == 1


def test_epochs_to_a_training_error() -> None:
    errors = np.array([80.0, 40.0, 20.0])
    assert [epochs_to(errors, level) for level in (90, 60, 40, 25)] == [1, 1.5, 2, 2.75]
    found = {
        BASE: {0: made_up(0, 0, errors=(80, 40, 20)), 1: made_up(0, 0, errors=(80, 60, 30))},
        "tanh": {0: made_up(0, 0, errors=(90, 70, 50)), 1: made_up(0, 0, errors=(80, 40, 10))},
    }
    (slower,) = measures.slower(found, "tanh")  # to 50 %
    assert slower.value == pytest.approx((3 * 1.75 / (1.75 * (2 + 1 / 3))) ** 0.5)
    assert slower.over == "2 and 2 seeds, to 50.0 % training error"


def test_a_claim_waits_for_its_networks() -> None:
    found = {BASE: {seed: made_up(9, 9) for seed in range(4)}}
    averaging = next(claim for claim in claims.CLAIMS if claim.name == "averaging")
    assert table.missing(averaging, found) == ["base seed 4"]
    assert [row.claim.name for row in table.rows(found, [averaging], [])] == ["one-cnn", "views"]
    (row,) = [row for row in table.rows(found, [averaging], ["base seed 4"]) if not row.estimates]
    assert row.cells()[0::4] == ["averaging five lowers the error", "not tried: base seed 4 left out"]
    named = claims.choose(["ilsvrc-2010"])
    assert [row.claim.name for row in table.rows(found, named, [])] == ["one-cnn", "views", "ilsvrc-2010"]


def test_a_network_that_learnt_nothing_decides_nothing() -> None:
    """It predicts one class for every image, or nearly the same for all, with one of its seeds."""
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

    def knows(wrong: int) -> NetworkScores:
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
    plan = claims.plan(claims.choose(["joining", "no-lrn"]), seeds=2)
    assert plan[:6] == [("base", 0), ("no-lrn", 0), *[("base", seed) for seed in range(1, 5)]]
    assert plan[6:] == [
        *[(name, seed) for seed in (0, 1) for name in (claims.PRETRAINED, claims.TUNED)],
        ("no-lrn", 1),
    ]
    assert len(claims.plan(claims.choose([]), seeds=3)) == 3 * len(claims.NETWORKS) + 2
    with pytest.raises(InputError, match="--only lnr: expected some of one-cnn,"):
        claims.choose(["views", "lnr"])
    assert {claim.name for claim in claims.CLAIMS} - {claim.name for claim in claims.choose([])} == {
        "ilsvrc-2010",
        "fall-2009",
    }


def test_the_numbers_of_the_paper() -> None:
    """Tables 1 and 2, sections 3.1, 3.3 to 3.5, 4.1, 6.1 and 7."""
    paper = {claim.name: [float(number) for number in re.findall(r"\d+\.\d", claim.paper)] for claim in claims.CLAIMS}
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
    big = claims.configure("sixconv-big", 1, "s", "b", {})
    tuned = claims.configure("sixconv-tuned", 1, "s", "b", {}, "start.pt")
    assert (big.shards, big.arch, big.bottleneck, big.seed) == ("b", "sixconv", 2048, 1)
    assert (tuned.shards, tuned.bottleneck, tuned.init, tuned.epochs) == ("s", 0, "start.pt", 54)
    assert (tuned.lr, tuned.conv1_slow, tuned.conv1_freeze) == (0.001, 0.0, 7 / 54)
    base = claims.configure(BASE, 0, "s", "b", {"epochs": 5}).as_dict()
    assert (base["arch"], base["seed"], base["shards"], base["epochs"]) == ("paper", 0, "s", 5)
    changed = {}
    for name, network in claims.NETWORKS.items():
        if not network.big and not network.start:
            config = claims.configure(name, 0, "s", "b", {"epochs": 5}).as_dict()
            changed[name] = {key: value for key, value in config.items() if base[key] != value}
    assert changed == {
        "base": {},
        "no-dropout": {"dropout": 0.0},
        "no-crops": {"crops": "central"},
        **{f"no-{layer}": {"without": layer} for layer in ("conv2", "conv3", "conv4", "conv5", "fc7")},
        "half": {"arch": "half"},
        "no-lrn": {"lrn": "none"},
        "no-overlap": {"pool": 2},
        "no-colour": {"colour_std": 0.0},
        "tanh": {"activation": "tanh"},
        "sixconv": {"arch": "sixconv"},
    }


def test_without_fc6_the_network_is_that_without_fc7() -> None:
    """So one of them is trained."""
    logits = []
    for layer in ("fc6", "fc7"):
        torch.manual_seed(0)
        model = build(10, claims.configure(BASE, 0, "s", "b", {"without": layer, "hidden": 64})).eval()
        logits.append(model(torch.arange(3 * 70 * 70.0).reshape(1, 3, 70, 70) % 255 - 127))
    assert torch.equal(*logits)


def test_the_list_names_every_claim() -> None:
    shown = claims.as_list(width=300)
    for claim in claims.CLAIMS:
        assert f"\n  {claim.name} " in shown
    for words in ("40.7 / 18.2", "36.7 / 15.4", "67.4 / 40.9", "37.5 / 17.0", "--split half", "without=conv4"):
        assert words in shown
    result = CliRunner().invoke(main, ["paper", "--list"], env={"COLUMNS": "130"})
    assert (result.exit_code, result.output.split()) == (0, claims.as_list(130).split())


def test_the_list_as_json(tmp_path: Path) -> None:
    file = tmp_path / "claims.json"
    assert CliRunner().invoke(main, ["paper", "--list", "--json", str(file)]).exit_code == 0
    body = json.loads(file.read_text())
    assert [claim["name"] for claim in body["claims"]] == [claim.name for claim in claims.CLAIMS]
    assert body["networks"]["no-conv4"]["settings"] == {"without": "conv4"}
    result = CliRunner().invoke(main, ["paper", "--list", "--shards", "s"])
    assert (result.exit_code, result.output) == (2, "Error: --list ignores --shards: leave that out.\n")
