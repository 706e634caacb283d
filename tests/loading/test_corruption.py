"""Samples whose bytes are not those that were written: training continues without them, evaluation counts them."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from alexnet_fast import Batch, Loader, ShardSet
from alexnet_fast.cli.main import main
from alexnet_fast.config import TrainConfig
from alexnet_fast.distributed.topology import Topology
from alexnet_fast.errors import TrainingError
from alexnet_fast.evaluation.scoring import Member, evaluate
from alexnet_fast.loading import corruption
from alexnet_fast.model.alexnet import build

CROP = 84
CPU = torch.device("cpu")


def corrupt_copy(shards: Path, split: str, samples: list[int], out: Path) -> Path:
    """The set with one byte of each of those images flipped, in the middle of it."""
    shutil.copytree(shards, out)
    manifest = ShardSet(shards).manifest
    for row in ShardSet(shards).split(split).index[samples]:
        with (out / manifest.splits[split][row["shard"]].file).open("r+b") as file:
            at = int(row["offset"]) + int(row["size"]) // 2
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 255]))
    return out


def by_position(batches: list[Batch]) -> dict[tuple[bytes, bytes], tuple[int, int, torch.Tensor]]:
    """(sample, label, image) by what is unique to a row of the plan: its crop and colour."""
    return {
        (b.rows.crop[i].tobytes(), b.rows.colour[i].tobytes()): (int(b.rows.samples[i]), int(b.labels[i]), b.images[i])
        for b in batches
        for i in range(len(b.labels))
    }


@pytest.mark.parametrize("encoding", ["jpeg", "raw", "mixed"])
def test_a_neighbour_takes_the_place(
    encoding: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corruption, "LIMIT", 0.1)
    shards: Path = request.getfixturevalue(f"{encoding}_shards")
    bad = [3, 4, 59]  # two in a row, and the last
    whole = ShardSet(shards).split("train")
    broken = ShardSet(corrupt_copy(shards, "train", bad, tmp_path / "set")).split("train")
    loader = Loader.training(broken, batch=16, crop=CROP)
    found = by_position(list(loader))
    reference = by_position(list(Loader.training(whole, batch=16, crop=CROP)))
    assert found.keys() == reference.keys()
    for place, (sample, label, image) in reference.items():
        expected = {3: 5, 4: 5, 59: 0}.get(sample, sample)
        assert found[place][:2] == (expected, int(whole.labels[expected]))
        if sample not in bad:
            assert label == whole.labels[sample]
            assert torch.equal(found[place][2], image)
    assert sorted(loader.corrupt) == bad
    row = whole.index[3]
    assert loader.corrupt[3] == f"sample 3 of train (train-000000.tar, image at byte {row['offset']:,})"


def test_more_than_a_thousandth_stops_training(jpeg_shards: Path, tmp_path: Path) -> None:
    shards = corrupt_copy(jpeg_shards, "train", [7], tmp_path / "set")
    with pytest.raises(
        TrainingError, match=r"1 corrupt samples so far, more than 0.1% of 60, the last sample 7 of train"
    ):
        list(Loader.training(ShardSet(shards).split("train"), batch=16, crop=CROP))
    options = ["--gpus", "0", "--recipe", "fast", "--epochs", "1", "--batch", "16", "--set", "hidden=64"]
    result = CliRunner().invoke(main, ["train", "--shards", str(shards), *options, "--run", str(tmp_path / "run")])
    assert result.exit_code == 1
    assert "sample 7 of train" in result.output
    assert "Traceback" not in result.output


def test_evaluation_counts_it_as_wrong(jpeg_shards: Path, tmp_path: Path) -> None:
    shards = ShardSet(corrupt_copy(jpeg_shards, "val", [0, 17], tmp_path / "set"))
    split = shards.split("val")
    batches = list(Loader.evaluation(split, batch=5, crop=CROP))
    labels = torch.cat([batch.labels for batch in batches]).numpy()
    samples = np.concatenate([batch.rows.samples for batch in batches])
    assert (labels == -1).sum() == 2
    assert np.array_equal(labels[labels >= 0], split.labels[samples[labels >= 0]])
    torch.manual_seed(0)
    network = Member(build(3, TrainConfig(arch="bn", hidden=64)), CROP, shards.manifest.pixels.mean)
    accuracy = evaluate(network, split, Topology(0, 1, CPU))
    assert (accuracy.images, accuracy.corrupt) == (18, 2)
    assert accuracy.top5 == pytest.approx(100 * 16 / 18)  # three classes: all but the damaged are among the best five
