"""Images that grow from epoch to epoch: their sides, the same pixels as loaders of each, and a resumed run."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet_fast import Loader, ShardSet
from alexnet_fast.distributed.topology import Topology
from alexnet_fast.errors import InputError
from alexnet_fast.recipes import make_config
from alexnet_fast.training.batches import Batches, crop_in
from alexnet_fast.training.settings import check_epochs
from alexnet_fast.training.state import Position
from tests.training.test_checkpoint import assert_same, begin, resume_after, settings

ALONE = Topology(0, 1, torch.device("cpu"))
GROWING: dict[str, Any] = {"epochs": 4, "crop": 96, "grow_from": 0.65, "grow_until": 0.75}
SIDES = [64, 80, 80, 96]
"""0.65, 0.77 and 0.88 of 96 px, as multiples of 16; then 96."""


def test_sides() -> None:
    assert [crop_in(make_config("fast", **GROWING), epoch) for epoch in range(4)] == SIDES
    large = make_config("fast", crop=224, grow_from=4 / 7, grow_until=0.7, epochs=10)
    assert [crop_in(large, epoch) for epoch in range(10)] == [128, 144, 160, 176, 176, 192, 208, 224, 224, 224]
    odd = make_config("fast", crop=100, grow_from=0.1, grow_until=0.5, epochs=4)
    assert [crop_in(odd, epoch) for epoch in range(4)] == [64, 64, 100, 100]
    for whole in ({"grow_from": 1.0}, {"grow_from": 0.5, "grow_until": 0.0}):
        assert crop_in(make_config("fast", crop=224, epochs=5, **whole), 0) == 224


@pytest.mark.parametrize("setting", [{"grow_from": 0.0}, {"grow_from": 1.1}, {"grow_until": 1.1}])
def test_what_cannot_be_is_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(setting))):
        make_config("fast", **setting)


def test_batches_are_those_of_a_loader_for_each_epoch(raw_shards: Path) -> None:
    config = settings(raw_shards, **GROWING)
    split = ShardSet.of(config).split("train")
    given: Any = {"batch": config.batch, "threads": 1, "seed": config.seed}
    expected = [
        batch for epoch, side in enumerate(SIDES) for batch in Loader.training(split, epoch=epoch, crop=side, **given)
    ]
    steps = len(expected) // 4
    for done in (0, 1, steps + 1, 3 * steps):
        position = Position(done // steps, done % steps, steps)
        batches = Batches(split, config, position, ALONE, ALONE.device)
        found = list(batches)
        assert len(found) == len(expected) - done
        for one, other in zip(found, expected[done:], strict=True):
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.labels, other.labels)
        assert batches.corrupt == {}


def test_a_run_is_resumed_exactly(raw_shards: Path, tmp_path: Path) -> None:
    """In the epoch in which the side grows, and before."""
    whole = tmp_path / "whole"
    begin(settings(raw_shards, save_every=1, keep=100, **GROWING), whole)
    for done in (3, 5):
        run = shutil.copytree(whole, tmp_path / f"{done}")
        resume_after(run, done)
        assert_same(run, whole)


def test_a_run_that_grows_is_not_lengthened(raw_shards: Path, tmp_path: Path) -> None:
    plateau: dict[str, Any] = {"schedule": "plateau", "patience": 1, "warmup_epochs": 0.0}
    config = settings(raw_shards, **plateau, **GROWING)
    with pytest.raises(InputError, match="by grow_from"):
        check_epochs(make_config(**{**config.as_dict(), "epochs": 5}), config, 1, tmp_path / "run" / "last.pt")
