"""Training with the loader's augmentations: settings of this version and of earlier ones, resumed bit for bit."""

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet_fast.config import TrainConfig, span
from alexnet_fast.errors import InputError
from alexnet_fast.loading.augment import ColourJitter, CutMix, Erasing, MixUp
from alexnet_fast.report.record import read_run
from alexnet_fast.training import checkpoint
from alexnet_fast.training.settings import augmentation
from tests.training.test_checkpoint import assert_same, begin, resume, resume_after, settings

EVERYTHING: dict[str, Any] = {
    "crops": "resized",
    "scale": "0.35,1",
    "brightness": 0.3,
    "contrast": 0.2,
    "saturation": 0.1,
    "erasing": 0.25,
    "mixup": 0.2,
    "cutmix": 1.0,
}


def rewritten(path: Path, **config: Any) -> None:
    """The checkpoint with other settings, and without those that earlier versions did not have."""
    state = checkpoint.load(path)
    earlier = {name: value for name, value in state["config"].items() if name not in {*EVERYTHING, "ratio"}}
    checkpoint.save(path, {**state, "config": {**earlier, **config}})


def test_settings_become_the_loader_s_arguments() -> None:
    assert augmentation(TrainConfig(**EVERYTHING)) == {
        "crops": True,
        "scale": (0.35, 1.0),
        "ratio": (3 / 4, 4 / 3),
        "augment": [ColourJitter(0.3, 0.2, 0.1), Erasing(0.25), MixUp(0.2), CutMix(1.0)],
    }
    usual: dict[str, Any] = {"crops": True, "scale": None, "ratio": (3 / 4, 4 / 3), "augment": []}
    assert augmentation(TrainConfig()) == usual
    assert augmentation(TrainConfig(crops="central")) == {**usual, "crops": False}
    for text, numbers in (("0.5,2", (0.5, 2)), ("3/4, 4/3", (0.75, 4 / 3)), ("1,1", (1, 1))):
        assert span(text) == numbers
    for text in ("", "1", "1,2,3", "1/0,2", "-1,2", "nan,1", "1e9,2"):
        assert all(map(math.isnan, span(text))), text


def test_a_run_with_all_of_it_is_resumed_exactly(raw_shards: Path, tmp_path: Path) -> None:
    config = settings(raw_shards, save_every=1, keep=100, **EVERYTHING)
    begin(config, tmp_path / "whole")
    plain = settings(raw_shards, save_every=1, keep=100)
    begin(plain, tmp_path / "plain")
    first, other = (checkpoint.load(tmp_path / name / "last.pt")["model"] for name in ("whole", "plain"))
    assert any(not torch.equal(first[name], other[name]) for name in first)
    run = tmp_path / "run"
    begin(config, run)
    resume_after(run, 3)
    assert_same(run, tmp_path / "whole")


@pytest.mark.parametrize(("earlier", "now"), [(True, "random"), (False, "central")])
def test_a_run_of_an_earlier_version_is_resumed(earlier: bool, now: str, raw_shards: Path, tmp_path: Path) -> None:
    """Its config.json and checkpoints have crops true or false, and none of the later settings."""
    begin(settings(raw_shards, crops=now), tmp_path / "whole")
    run = tmp_path / "run"
    begin(settings(raw_shards, crops=earlier, save_every=1, keep=100), run)
    for path in (run / "step-00000003.pt", run / "best.pt"):
        rewritten(path, crops=earlier)
    os.replace(run / "step-00000003.pt", run / "last.pt")
    for path in checkpoint.kept(run).values():
        path.unlink()
    file = run / "config.json"
    values = {k: v for k, v in json.loads(file.read_text()).items() if k not in {*EVERYTHING, "ratio"}}
    file.write_text(json.dumps({**values, "crops": earlier}))
    assert read_run(run).config["crops"] == now
    assert resume(run, save_every=0, crops=str(earlier).lower()).finished
    assert_same(run, tmp_path / "whole")


def test_a_step_too_small_for_pairs_is_refused(raw_shards: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="batch 1 is too small for 1 process"):
        begin(settings(raw_shards, batch=1, mixup=0.2), tmp_path / "run")
    with pytest.raises(InputError, match="ratio is 2,1"):
        TrainConfig(crops="resized", ratio="2,1")
