"""Training as users start it: several processes, and SIGTERM."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from shlex import quote

import pytest

from tests.training.test_training import log_of
from tests.waiting import wait_for


def torchrun(processes: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return subprocess.run(
        [*command, "-m", "alexnet_fast", "--", *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_two_processes_train_like_one(jpeg_shards: Path, tmp_path: Path) -> None:
    """Same global batches, so the same losses to float tolerance (no batch norm, whose statistics are local)."""
    common = ["--shards", str(jpeg_shards), "--epochs", "1", "--batch", "16", "--lr", "0.0003", "--precision", "fp32"]
    common += ["--set", "dropout=0", "--set", "log_every=1", "--set", "hidden=256", "--arch", "onetower"]
    runs_made = []
    for processes in (1, 2):
        run = tmp_path / str(processes)
        done = torchrun(processes, "train", "--gpus", "0", "--run", str(run), *common)
        assert done.returncode == 0, done.stderr
        runs_made.append(log_of(run))
    one, two = runs_made
    assert [line.get("step") for line in one] == [line.get("step") for line in two]
    training = [[line["loss"] for line in log if "loss" in line] for log in runs_made]
    assert training[0] == pytest.approx(training[1], rel=1e-4)
    assert [line.get("val_top1") for line in one] == [line.get("val_top1") for line in two]


def test_sigterm_saves_and_says_how_to_go_on(jpeg_shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ["--epochs", "1000", "--batch", "16", "--set", "log_every=1", "--set", "hidden=256", "--run", str(run)]
    process = subprocess.Popen(
        [sys.executable, "-m", "alexnet_fast", "train", "--gpus", "0", "--shards", str(jpeg_shards), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for((run / "log.jsonl").exists, process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert f"  alexnet-fast train --gpus 0 --run {quote(str(run))} --resume\n" in out
    assert (run / "last.pt").exists()
    assert "Traceback" not in err
