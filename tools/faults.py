"""Kills `shard` and `train` by SIGKILL at random moments, goes on, and compares with a run that nothing disturbed.

`train` in one process, and in two under torchrun: then one of the two, or torchrun with both.

    python -m tools.faults [--kills 100] [--seed 0] [--out tools/records/DATE_faults_HARDWARE]

A moment is drawn evenly from the time that an undisturbed run takes; the same output is gone on with, and killed
again, until a run gets through. Then every file of a shard set must have the same bytes; of a training the weights,
the optimizer's state and each logged loss and accuracy must be the same bits.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import click
import torch

from alexnet_fast.demo.samples import draw_samples
from alexnet_fast.environment import environment
from alexnet_fast.files import write_json
from alexnet_fast.training import checkpoint
from tests.conftest import files
from tests.system.test_crash import group_members
from tests.system.test_elastic import children, kill

SHARD = ["shard", "--size", "96", "--workers", "2", "--encoding", "jpeg"]
TRAIN = ["train", "--gpus", "0", "--threads", "1", "--epochs", "6", "--batch", "16", "--precision", "fp32"]
TRAIN += ["--set", "hidden=32", "--set", "log_every=1"]

FOREVER = 600.0
"""Seconds in which a run ends by itself."""
TIMES = ("images_per_second", "data_wait", "peak_gib", "time")
"""What a log says of the machine, not of the training."""


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "alexnet_fast", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def killed(moment: float, *arguments: str | Path) -> bool:
    """False when the command was through before; then it must have ended well."""
    process = start(*arguments)
    try:
        _, errors = process.communicate(timeout=moment)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        until = time.monotonic() + 60
        while group_members(process.pid):
            assert time.monotonic() < until, "a worker was left behind"
            time.sleep(0.02)
        return True
    assert process.returncode == 0, errors
    return False


def undisturbed(*arguments: str | Path) -> float:
    """Its seconds."""
    started = time.monotonic()
    assert not killed(FOREVER, *arguments)
    return time.monotonic() - started


def kill_shard(images: Path, folder: Path, kills: int, random: Random) -> Counter[str]:
    command: list[str | Path] = [*SHARD, "--src", images, "--out"]
    seconds = undisturbed(*command, folder / "whole")
    expected, counts = files(folder / "whole"), Counter[str]()
    while counts["kills"] < kills:
        out = folder / str(counts["outputs"])
        while killed(random.uniform(0, seconds) if counts["kills"] < kills else FOREVER, *command, out):
            counts["kills"] += 1
            state = (
                "done" if (out / "manifest.json").exists() else "in work" if (out / ".work").exists() else "starting"
            )
            counts[f"while {state}"] += 1
        counts["outputs"] += 1
        counts["other bytes"] += files(out) != expected
        shutil.rmtree(out)
    return counts


def kill_train(shards: Path, folder: Path, kills: int, random: Random) -> Counter[str]:
    def command(run: Path) -> list[str | Path]:
        """A run without a checkpoint is begun anew: there is nothing to go on from."""
        if (run / "last.pt").exists():
            return ["train", "--gpus", "0", "--threads", "1", "--run", run, "--resume"]
        shutil.rmtree(run, ignore_errors=True)
        return [*TRAIN, "--shards", shards, "--run", run]

    seconds = undisturbed(*command(folder / "whole"))
    expected, counts = what_was_learnt(folder / "whole"), Counter[str]()
    while counts["kills"] < kills:
        run = folder / str(counts["outputs"])
        while killed(random.uniform(0, seconds) if counts["kills"] < kills else FOREVER, *command(run)):
            counts["kills"] += 1
            counts["while training" if (run / "log.jsonl").exists() else "while starting"] += 1
            counts["with a checkpoint to go on from"] += (run / "last.pt").exists()
        counts["outputs"] += 1
        counts["other losses or weights"] += not same(what_was_learnt(run), expected)
        shutil.rmtree(run)
    return counts


def kill_processes(shards: Path, folder: Path, kills: int, random: Random) -> Counter[str]:
    """torchrun starts both again by itself when it loses one; the same command goes on when it is lost too."""

    def start_two(run: Path) -> subprocess.Popen[bytes]:
        torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1000"]
        variables = {**os.environ, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}  # or it does not survive a restart
        ours = ["-m", "alexnet_fast", "--", *TRAIN, "--shards", str(shards), "--run", str(run), "--resume"]
        return subprocess.Popen(
            [sys.executable, "-m", *torchrun, *ours],
            env=variables,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def wait(process: subprocess.Popen[bytes], seconds: float) -> bool:
        """Whether it ended by itself, which must be well."""
        try:
            assert process.wait(timeout=seconds) == 0, process.returncode
        except subprocess.TimeoutExpired:
            return False
        return True

    started = time.monotonic()
    assert wait(start_two(folder / "whole"), FOREVER)
    seconds, expected = time.monotonic() - started, what_was_learnt(folder / "whole")
    counts = Counter[str]()
    while counts["kills"] < kills:
        run = folder / str(counts["outputs"])
        process = start_two(run)
        while counts["kills"] < kills and not wait(process, random.uniform(0, seconds)):
            workers = children(process.pid)
            counts["kills"] += 1
            counts["while training" if (run / "log.jsonl").exists() else "while starting"] += 1
            if workers and random.random() < 0.7:
                counts["of one process"] += 1
                with suppress(ProcessLookupError):
                    os.kill(random.choice(workers), signal.SIGKILL)
            else:
                counts["of torchrun and both"] += 1
                kill(process.pid)
                process.wait()
                process = start_two(run)
        assert wait(process, FOREVER), "it hangs"
        counts["outputs"] += 1
        counts["other losses or weights"] += not same(what_was_learnt(run), expected)
        shutil.rmtree(run)
    return counts


def what_was_learnt(run: Path) -> list[Any]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    log = [{name: value for name, value in line.items() if name not in TIMES} for line in lines]
    saved = [checkpoint.load(run / name) for name in ("last.pt", "best.pt")]
    return [
        log,
        *[{key: state.get(key) for key in ("model", "optimizer", "epoch", "step", "top1s")} for state in saved],
    ]


def same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, torch.Tensor):
        return torch.equal(ours, theirs)
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(same(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list | tuple):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return bool(ours == theirs)


@click.command()
@click.option("--kills", default=100, show_default=True, help="Of each command.")
@click.option("--seed", default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the record.")
def main(kills: int, seed: int, out: Path | None) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw_samples(folder / "images", train_per_class=8, val_per_class=2)
        shards = folder / "shards"
        undisturbed(*SHARD, "--src", folder / "images", "--out", shards)
        counts = {}
        for what, disturb, source in (
            ("train", kill_train, shards),
            ("train in two processes", kill_processes, shards),
            ("shard", kill_shard, folder / "images"),
        ):
            (folder / what).mkdir()
            counts[what] = disturb(source, folder / what, kills, Random(seed))
            print(
                f"{what}: {', '.join(f'{count:,} {name}' for name, count in sorted(counts[what].items()))}", flush=True
            )
    if out:
        out.mkdir(parents=True)
        write_json(out / "numbers.json", {"kills": kills, "seed": seed, **counts, **environment()})
    sys.exit(any(count for one in counts.values() for name, count in one.items() if name.startswith("other")))


if __name__ == "__main__":
    main()
