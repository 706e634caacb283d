"""The lines that a training prints, against numbers computed by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from alexnet_fast.config import TrainConfig
from alexnet_fast.distributed.topology import Topology
from alexnet_fast.evaluation.scoring import Accuracy
from alexnet_fast.model.alexnet import build
from alexnet_fast.recipes import RECIPES
from alexnet_fast.shards.reader import ShardSet
from alexnet_fast.training.messages import evaluation_text, plateau_text, step_text, summary

CPU = Topology(0, 1, torch.device("cpu"))


def test_the_summary_names_what_is_trained_and_on_what(jpeg_shards: Path) -> None:
    config = TrainConfig(arch="onetower", hidden=16, crop=84, precision="fp32", threads=1, epochs=1, batch=60, lr=0.25)
    shards, folder = ShardSet(jpeg_shards), Path("runs/mine")
    model = build(3, config)
    lines = summary(config, model, shards, CPU, 1, folder).splitlines()
    assert [line.split(maxsplit=1)[0] for line in lines] == ["network", "images", "training", "computing", "run"]
    # torchvision's convolutions have 2,469,696 parameters; 256 x 6 x 6 -> 16 -> 16 -> 3
    parameters = 2_469_696 + (9_216 * 16 + 16) + (16 * 16 + 16) + (16 * 3 + 3)
    assert lines[0] == f"network     onetower, {parameters:,} parameters; recipe paper"
    assert lines[1] == "images      60 for training, 18 for validation, 3 classes"
    assert "1 epoch of 1 step, batch 60, crop 84 px, learning rate up to 0.25 (steps)" in lines[2]
    assert lines[3] == "computing   fp32 on the CPU, 1 decoding thread"
    assert lines[4] == "run folder  runs/mine"
    both = Topology(0, 2, torch.device("cuda", 0))
    config = replace(config, threads=8, epochs=30)
    lines = summary(config, model, shards, both, 1_000, folder).splitlines()
    assert lines[2].startswith("training    30 epochs of 1,000 steps")
    assert lines[3] == "computing   fp32 on 2 GPUs, 8 decoding threads in each of 2 processes"
    del shards.manifest.splits["val"]
    lines = summary(config, model, shards, CPU, 1, folder).splitlines()
    assert lines[1] == "images      60 for training, no val split, 3 classes: accuracy will not be measured"


def test_the_live_line_has_the_learning_rate() -> None:
    line = {"loss": 1.25, "top1": 50.0, "lr": 0.01234, "images_per_second": 1234.0, "data_wait": 0.015, "peak_gib": 2.0}
    text = step_text(RECIPES["fast"], 2, line)
    assert text == "epoch 3/30  loss 1.250  top-1 50.0 %  lr 0.012  1,234 images/s  data wait 1.5 %  2.0 GiB"


def test_few_validation_images_have_an_interval() -> None:
    few = evaluation_text(3, Accuracy(50.0, 90.0, 100, 1), "fp32", None)
    assert few == "epoch   3  val top-1 50.00 % [40.4 to 59.6]  top-5 90.00 % (fp32)"  # Wilson's, by hand
    many = evaluation_text(3, Accuracy(50.0, 90.0, 50_000, 1), "bf16", {"loss": 1.0, "images_per_second": 99.6})
    assert many == "epoch   3  val top-1 50.00 %  top-5 90.00 % (bf16)  train loss 1.000  100 images/s"


@pytest.mark.parametrize("schedule", ["plateau", "cosine"])
def test_a_plateau_is_named_when_the_rate_falls(schedule: str) -> None:
    config = TrainConfig(schedule=schedule, patience=2, lr=0.01)
    assert plateau_text(config, [50.0, 49.0], 51.0) == ""
    text = plateau_text(config, [50.0, 49.0], 50.0)
    expected = "no better val top-1 for 2 epochs: the learning rate is divided by 10, to 0.001"
    assert text == (expected if schedule == "plateau" else "")
