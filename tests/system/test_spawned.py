"""The processes that `--gpus 2` starts, here on the CPU with gloo: all of `topology.run` but the GPUs."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet_fast.config import TrainConfig
from alexnet_fast.distributed.topology import Topology, run_spawned
from alexnet_fast.errors import InputError
from alexnet_fast.recipes import make_config
from alexnet_fast.training import checkpoint, start

ALONE = Topology(0, 1, torch.device("cpu"))


def settings(shards: Path, **more: Any) -> TrainConfig:
    common: dict[str, Any] = {"precision": "fp32", "hidden": 16, "batch": 16, "crop": 64, "threads": 1, "log_every": 1}
    return make_config("paper", shards=str(shards), epochs=2, lr=0.02, dropout=0.0, **{**common, **more})


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_train_as_one(accumulate: int, raw_shards: Path, tmp_path: Path) -> None:
    """Same losses, top-1s and weights, to the rounding of sums; a checkpoint that one process resumes."""
    config = settings(raw_shards, accumulate=accumulate)
    start.train(ALONE, tmp_path / "one", config.as_dict(), resume=False)
    result = run_spawned(start.train, 0, 2, tmp_path / "two", config.as_dict(), False)
    assert result.finished
    ours, theirs = log(tmp_path / "two"), log(tmp_path / "one")
    assert [line.keys() for line in ours] == [line.keys() for line in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        for name in mine.keys() & {"loss", "top1", "val_top1", "val_top5"}:
            assert mine[name] == pytest.approx(other[name], rel=1e-4), (name, mine, other)
    one = checkpoint.load(tmp_path / "one" / "last.pt")["model"]
    for name, values in checkpoint.load(tmp_path / "two" / "last.pt")["model"].items():
        torch.testing.assert_close(values, one[name], rtol=1e-3, atol=1e-5)
    again = start.train(ALONE, tmp_path / "two", {}, resume=True)
    assert (again.epochs, again.top1) == (2, result.top1)


def test_what_one_process_refuses_the_caller_hears(raw_shards: Path, tmp_path: Path) -> None:
    config = replace(settings(raw_shards), crop=97)
    with pytest.raises(InputError, match="crop 97"):
        run_spawned(start.train, 0, 2, tmp_path / "run", config.as_dict(), False)
    assert not (tmp_path / "run").exists()
