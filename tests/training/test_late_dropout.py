"""Dropout that begins later: nothing is left out before, and a run is resumed on either side."""

import json
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from alexnet_fast.errors import InputError
from alexnet_fast.model.alexnet import build
from alexnet_fast.recipes import make_config
from alexnet_fast.training.step import set_dropout
from tests.training.test_checkpoint import assert_same, begin, resume_after, settings

LATE: dict[str, Any] = {"epochs": 2, "dropout": 0.5, "dropout_from": 1.0, "log_every": 1}


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_the_share_of_an_epoch() -> None:
    config = make_config("fast", hidden=16, dropout=0.5, dropout_from=2.5)
    model = build(10, config)
    shares = []
    for progress in (0.0, 1.0, 2.49, 2.5, 9.0):
        changed = set_dropout(model, config, progress)
        shares.append((changed, {layer.p for layer in model.modules() if isinstance(layer, nn.Dropout)}))
    assert shares == [(True, {0.0}), (False, {0.0}), (False, {0.0}), (True, {0.5}), (False, {0.5})]


def test_training_is_without_it_until_then(raw_shards: Path, tmp_path: Path) -> None:
    for name, how in {"late": LATE, "none": {**LATE, "dropout": 0.0}, "all": {**LATE, "dropout_from": 0.0}}.items():
        begin(settings(raw_shards, **how), tmp_path / name)
    late, none, always = (losses(tmp_path / name) for name in ("late", "none", "all"))
    steps = len(late) // 2
    assert late[:steps] == none[:steps] != always[:steps]
    assert late[steps:] != none[steps:]


@pytest.mark.parametrize("done", [3, 5])
def test_a_run_is_resumed_exactly(done: int, raw_shards: Path, tmp_path: Path) -> None:
    """Four steps an epoch: in the epoch without dropout, and in the one with it."""
    config = settings(raw_shards, save_every=1, keep=100, **LATE)
    begin(config, tmp_path / "whole")
    run = tmp_path / "run"
    begin(config, run)
    resume_after(run, done)
    assert_same(run, tmp_path / "whole")


def test_the_paper_s_nets_have_none() -> None:
    """Their weights are scaled by the share that dropout keeps."""
    with pytest.raises(InputError, match="dropout_from"):
        make_config("paper", dropout_from=1.0)
