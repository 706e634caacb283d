"""One trainer a run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from alexnet_fast.distributed.topology import Topology
from alexnet_fast.errors import InputError, TrainingError
from alexnet_fast.training import start
from alexnet_fast.training.trainer import Result, Trainer

LOCK = """
import fcntl, signal, sys
with open(sys.argv[1], "ab", buffering=0) as file:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    file.truncate(0)
    file.write(b"process 7 on elsewhere")
    print("locked", flush=True)
    signal.pause()
"""


def test_two_trainers_in_one_run_are_refused(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the first one is gone, even by kill -9; what locks beside us is another program."""
    run = shutil.copytree(trained_run, tmp_path / "run")
    lock = [sys.executable, "-c", LOCK, str(run / ".lock")]
    with subprocess.Popen(lock, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        try:
            with pytest.raises(InputError, match=r"is being trained already, by process 7 on elsewhere\. Stop that"):
                start.train(Topology(0, 1, torch.device("cpu")), run, {}, resume=True)
        finally:
            other.kill()

    def other_tries(self: Trainer) -> Result:
        done = subprocess.run(lock, capture_output=True, text=True, check=False)
        assert "BlockingIOError" in done.stderr
        raise TrainingError("tried")

    monkeypatch.setattr(Trainer, "run", other_tries)
    with pytest.raises(TrainingError, match="tried"):
        start.train(Topology(0, 1, torch.device("cpu")), run, {}, resume=True)
    assert (run / ".lock").read_text().startswith(f"process {os.getpid()} on ")
