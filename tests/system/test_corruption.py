"""Damaged samples where several processes train, and files that change while they are mapped."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from alexnet_fast import native
from alexnet_fast.distributed import topology
from alexnet_fast.distributed.topology import Topology
from alexnet_fast.errors import TrainingError
from alexnet_fast.loading import corruption
from alexnet_fast.recipes import make_config
from alexnet_fast.training import start
from tests.conftest import epoch_rows
from tests.loading.test_corruption import CROP, corrupt_copy


def train_in(topology: Topology, shards: str, out: str) -> None:
    """Twice: 3 damaged samples may be, then 1."""
    config = make_config("paper", shards=shards, epochs=2, batch=15, hidden=16, crop=64, precision="fp32", log_every=2)
    for tolerated in (3, 1):
        corruption.LIMIT = tolerated / 60
        run = Path(out, str(tolerated))
        try:
            start.train(topology, run, config.as_dict(), resume=False)
        except TrainingError as error:
            (run / f"error-{topology.rank}").write_text(str(error))


@pytest.mark.parametrize("world", [1, 2])
def test_training_continues_and_counts(world: int, jpeg_shards: Path, tmp_path: Path) -> None:
    """Once each over all processes, of which both meet one in the first epoch; together they stop at too many."""
    order = epoch_rows(0, 0, 60, margin=0, colour_std=0).samples
    bad = sorted([int(order[0]), int(order[29])])  # the first of rank 0's first step and the last of rank 1's second
    shards = corrupt_copy(corrupt_copy(jpeg_shards, "train", bad, tmp_path / "a"), "val", [17], tmp_path / "set")
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
        assert f"corrupt, so its neighbour is seen instead: sample {sample} of train (" in done.stderr
    assert done.stderr.count("; 1 corrupt images counted as wrong") == 2
    errors = [path.read_text() for path in sorted((tmp_path / "1").glob("error-*"))]
    assert len(errors) == world
    assert all(error.startswith("2 corrupt samples so far, more than 1.7% of 60, the last") for error in errors)


CUT_OFF = """
import os, sys
from pathlib import Path
from alexnet_fast import Loader, ShardSet
from alexnet_fast.errors import TrainingError
from alexnet_fast.loading import corruption

folder, crop, before = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "before"
corruption.LIMIT = 1
split = ShardSet(folder).split("train")
index = split.index[split.index["shard"] == 0]
cut = int(index["offset"][len(index) // 2])
loader = Loader.training(split, batch=10, num_epochs=2, crop=crop)
if before:
    os.truncate(folder / "train-000000.tar", cut)
batches = iter(loader)
for _ in range(len(split) // 10):
    next(batches)
if before:
    assert len(list(batches)) == len(split) // 10
    assert sorted(loader.corrupt) == list(range(len(index) // 2, len(index)))
else:
    assert not loader.corrupt
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
from alexnet_fast.shards.local import map_tar

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
    topology.run(train_in, 0, *sys.argv[1:])
