"""Samples whose bytes are not those that were written: training goes on without them, evaluation counts them."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from alexnet_fast import Batch, Loader, ShardSet, native
from alexnet_fast.cli import main
from alexnet_fast.config import TrainConfig, make_config
from alexnet_fast.errors import TrainingError
from alexnet_fast.loading import damage
from alexnet_fast.loading.plan import epoch_plan
from alexnet_fast.model.alexnet import bn
from alexnet_fast.results.evaluate import evaluate
from alexnet_fast.training import distributed, loop, runs
from alexnet_fast.training.distributed import Topology

CROP = 84
CPU = torch.device("cpu")


def damaged_copy(shards: Path, split: str, samples: list[int], out: Path) -> Path:
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
    monkeypatch.setattr(damage, "LIMIT", 0.1)
    shards: Path = request.getfixturevalue(f"{encoding}_shards")
    bad = [3, 4, 59]  # two in a row, and the last
    whole = ShardSet(shards).split("train")
    broken = ShardSet(damaged_copy(shards, "train", bad, tmp_path / "set")).split("train")
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
    assert sorted(loader.damaged) == bad
    row = whole.index[3]
    assert loader.damaged[3] == f"sample 3 of train (train-000000.tar, image at byte {row['offset']:,})"


def test_more_than_a_thousandth_stops_training(jpeg_shards: Path, tmp_path: Path) -> None:
    shards = damaged_copy(jpeg_shards, "train", [7], tmp_path / "set")
    with pytest.raises(
        TrainingError, match=r"1 damaged samples so far, more than 0.1% of 60, the last sample 7 of train"
    ):
        list(Loader.training(ShardSet(shards).split("train"), batch=16, crop=CROP))
    options = ["--gpus", "0", "--recipe", "fast", "--epochs", "1", "--batch", "16", "--set", "hidden=64"]
    result = CliRunner().invoke(main, ["train", "--shards", str(shards), *options, "--run", str(tmp_path / "run")])
    assert result.exit_code == 1
    assert "sample 7 of train" in result.output
    assert "Traceback" not in result.output


def test_evaluation_counts_it_as_wrong(jpeg_shards: Path, tmp_path: Path) -> None:
    shards = ShardSet(damaged_copy(jpeg_shards, "val", [0, 17], tmp_path / "set"))
    split = shards.split("val")
    batches = list(Loader.evaluation(split, batch=5, crop=CROP))
    labels = torch.cat([batch.labels for batch in batches]).numpy()
    samples = np.concatenate([batch.rows.samples for batch in batches])
    assert (labels == -1).sum() == 2
    assert np.array_equal(labels[labels >= 0], split.labels[samples[labels >= 0]])
    torch.manual_seed(0)
    accuracy = evaluate([bn(3, TrainConfig(hidden=64))], split, shards.manifest.pixels, Topology(0, 1, CPU), crop=CROP)
    assert (accuracy.images, accuracy.damaged) == (18, 2)
    assert accuracy.top5 == pytest.approx(100 * 16 / 18)  # three classes: all but the damaged are among the best five


def train_in(topology: Topology, shards: str, out: str) -> None:
    """Twice: 3 damaged samples may be, then 1."""
    config = make_config("paper", shards=shards, epochs=2, batch=15, hidden=16, crop=64, precision="fp32", log_every=2)
    for tolerated in (3, 1):
        damage.LIMIT = tolerated / 60
        run = Path(out, str(tolerated))
        if topology.first:
            runs.create(run, config)
        try:
            loop.train(topology, config, run, resume=False)
        except TrainingError as error:
            (run / f"error-{topology.rank}").write_text(str(error))


@pytest.mark.parametrize("world", [1, 2])
def test_training_goes_on_and_counts(world: int, jpeg_shards: Path, tmp_path: Path) -> None:
    """Once each over all processes, of which both meet one in the first epoch; together they stop at too many."""
    order = epoch_plan(0, 0, 60, margin=0, colour_std=0).order
    bad = sorted([int(order[0]), int(order[29])])  # the first of rank 0's first step and the last of rank 1's second
    shards = damaged_copy(damaged_copy(jpeg_shards, "train", bad, tmp_path / "a"), "val", [17], tmp_path / "set")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [*command, __file__, str(shards), str(tmp_path)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    log = [json.loads(line) for line in (tmp_path / "3" / "log.jsonl").read_text().splitlines()]
    assert [line["damaged"] for line in log if "loss" in line] == [2] * 4
    assert [line["val_damaged"] for line in log if "val_top1" in line] == [1, 1]
    for sample in bad:
        assert f"damaged, so its neighbour is seen instead: sample {sample} of train (" in done.stderr
    assert done.stderr.count("; 1 damaged images counted as wrong") == 2
    errors = [path.read_text() for path in sorted((tmp_path / "1").glob("error-*"))]
    assert len(errors) == world
    assert all(error.startswith("2 damaged samples so far, more than 1.7% of 60, the last") for error in errors)


CUT_OFF = """
import os, sys
from pathlib import Path
import torch
from alexnet_fast import Loader, ShardSet
from alexnet_fast.errors import TrainingError
from alexnet_fast.loading import damage
from alexnet_fast.loading.plan import training_rows

folder, crop, before = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "before"
damage.LIMIT = 1
split = ShardSet(folder).split("train")
index = split.index[split.index["shard"] == 0]
cut = int(index["offset"][len(index) // 2])
rows = training_rows(len(split), 10, 0, margin=split.size - crop, colour_std=0.1, epochs=range(2))
loader = Loader(split, split.pixels, rows, max_batch=10, crop=crop, device=torch.device("cpu"))
if before:
    os.truncate(folder / "train-000000.tar", cut)
batches = iter(loader)
for _ in range(len(split) // 10):
    next(batches)
if before:
    assert len(list(batches)) == len(split) // 10
    assert sorted(loader.damaged) == list(range(len(index) // 2, len(index)))
else:
    assert not loader.damaged
    os.truncate(folder / "train-000000.tar", cut)
    try:
        list(batches)
        raise AssertionError("nothing was noticed")
    except TrainingError as error:
        print(error)
"""


@pytest.mark.usefixtures("native_decoder")
@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
@pytest.mark.parametrize("when", ["before", "later"])
def test_a_tar_that_is_cut_off(encoding: str, when: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Though it is mapped already: its samples are damaged ones, or once it was read the training ends with a line.
    To touch such bytes would kill the process (SIGBUS), as a disk's error would."""
    shutil.copytree(request.getfixturevalue(f"{encoding}_shards"), tmp_path / "set")
    line = [sys.executable, "-c", CUT_OFF, str(tmp_path / "set"), str(CROP), when]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.returncode, done.stderr)
    if when == "later":
        assert "an image of the split train does not decode" in done.stdout
        assert "its file cannot be read any more" in done.stdout


@pytest.mark.skipif(native.kernels() is None, reason="needs the compiled code")
@pytest.mark.parametrize("first", [True, False])
def test_pages_that_others_touch(first: bool, tmp_path: Path) -> None:
    """What can be read is told, before and after; another's touch ends as ever, in Python's handler."""
    code = f"""
import faulthandler, os
import numpy as np
from pathlib import Path
from alexnet_fast.native import can_be_read
from alexnet_fast.mapped import map_tar

path = Path({str(tmp_path / "a.tar")!r})
path.write_bytes(bytes(100_000))
tar = map_tar(path, 100_000)
can_be_read([tar]) if {first} else faulthandler.enable()
os.truncate(path, 50_000)
for _ in range(2):
    found = can_be_read([tar[:1000], tar[60_000:60_001], tar[40_000:], tar[:0], tar[49_000:50_000]])
    assert found.tolist() == [True, False, False, True, True], found
faulthandler.enable()
print("so far", flush=True)
tar[90_000]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == "so far\n", done.stderr
    assert done.returncode == -signal.SIGBUS
    assert "Fatal Python error: Bus error" in done.stderr


if __name__ == "__main__":
    distributed.run(train_in, 0, *sys.argv[1:])
