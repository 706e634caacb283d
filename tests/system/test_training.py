"""Training that starts processes: torchrun's, those that compile, and one that SIGTERM stops."""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from shlex import quote

import pytest
import torch

from tests.training.test_training import log_of, settings, start
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


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.skipif(
    " " in os.environ.get("TORCHINDUCTOR_CACHE_DIR", ""),
    reason="torch.compile fails where its cache's path has a space",
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # of torch's own compiler
def test_a_compiled_network_takes_the_same_steps(jpeg_shards: Path, tmp_path: Path) -> None:
    """LRN's own operator included, with no part left to run uncompiled."""
    plain = settings(jpeg_shards, "paper", epochs=1, dropout=0.0, schedule="steps", lr=1e-4, hidden=32)
    torch._dynamo.utils.counters.clear()
    for name, config in {"plain": plain, "compiled": replace(plain, compile=True)}.items():
        start(config, tmp_path / name)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert not torch._dynamo.utils.counters["graph_break"]
    expected, actual = (
        [line["loss"] for line in log_of(tmp_path / n) if "loss" in line] for n in ("plain", "compiled")
    )
    assert actual == pytest.approx(expected, rel=1e-4)
