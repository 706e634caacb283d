"""Points 8, 9 and 11: alexnet-fast's own commands, from the start of the process to its end."""

from __future__ import annotations

import json
import math
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

from alexnet_fast.config import TrainConfig
from tools.gpu_points.setup import ROOT, Results, Setup

EPOCHS = 4


def command(setup: Setup, run: str, *options: str, gpus: int | None = None, encoding: str = "jpeg") -> list[str]:
    """`train` with a run folder of that name in the working folder, and the result in a file beside it."""
    gpus = int(setup.on_gpu) if gpus is None else gpus
    folder = Path(setup.work, run)
    where = ["--gpus", str(gpus), "--shards", str(setup.shards(encoding)), "--run", str(folder)]
    small = [] if setup.on_gpu else ["--set", "hidden=32"]
    return [*program("train"), *where, *options, *small, "--json", str(result_file(setup, run))]


def program(name: str) -> list[str]:
    return [sys.executable, "-m", "alexnet_fast", name]


def result_file(setup: Setup, run: str) -> Path:
    return Path(setup.work, f"{run}.json")


def losses(setup: Setup, run: str) -> list[float]:
    """Of the run's log, a value a line of training."""
    log = Path(setup.work, run, "log.jsonl")
    lines = log.read_text().splitlines() if log.exists() else []
    return [line["loss"] for line in map(json.loads, lines) if "loss" in line]


def train(setup: Setup, run: str, *options: str, gpus: int | None = None, encoding: str = "jpeg") -> dict[str, Any]:
    """A whole run in a new folder: its result, with its losses. Raises where it fails or a loss is not finite."""
    shutil.rmtree(Path(setup.work, run), ignore_errors=True)
    started = time.monotonic()
    subprocess.run(command(setup, run, *options, gpus=gpus, encoding=encoding), check=True, cwd=ROOT)
    result = json.loads(result_file(setup, run).read_text())
    values = losses(setup, run)
    assert values, "no loss was logged"
    assert all(map(math.isfinite, values)), values
    names = "images_per_second", "data_wait", "top1"
    whole = {"process_seconds": time.monotonic() - started, "first_loss": values[0], "last_loss": values[-1]}
    shutil.rmtree(Path(setup.work, run))  # checkpoints are large
    return {name: result[name] for name in names} | whole


def compiled(setup: Setup, results: Results) -> None:
    """Three times on JPEGs: what goes wrong in a capture may do so now and then."""
    setup.need_gpus()
    small, large = (["--recipe", "paper", "--epochs", str(EPOCHS), "--batch", str(n)] for n in setup.batches)
    for number in range(3):
        results.put(f"jpeg, --compile, run {number + 1}", train(setup, "compiled", *large, "--compile"))
    results.put("raw, --compile", train(setup, "compiled", *large, "--compile", encoding="raw"))
    results.put("raw", train(setup, "plain", *large, encoding="raw"))
    results.put(f"raw, batch {setup.batches[0]}", train(setup, "plain", *small, encoding="raw"))
    if "cuda_graphs" in {field.name for field in fields(TrainConfig)}:
        without = train(setup, "plain", *small, "--set", "cuda_graphs=false", encoding="raw")
        results.put(f"raw, batch {setup.batches[0]}, cuda_graphs=false", without)


def resumed(setup: Setup, results: Results) -> None:
    """SIGTERM at the first log line; the same command again with --resume; then the ten-crop evaluation."""
    run = "resumed"
    shutil.rmtree(Path(setup.work, run), ignore_errors=True)
    batch = str(512 if setup.on_gpu else 8)
    options = ["--recipe", "fast", "--epochs", "2", "--batch", batch, "--set", "log_every=1", "--resume"]
    process = subprocess.Popen(command(setup, run, *options), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    while not losses(setup, run) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate()
    print(printed)
    before = len(losses(setup, run))
    results.put("exit code after SIGTERM", process.returncode)
    results.put("steps before it", before)
    assert process.returncode == 0, "train did not save and end"

    subprocess.run(command(setup, run, *options), check=True, cwd=ROOT)
    values = losses(setup, run)
    assert all(map(math.isfinite, values)), values
    result = json.loads(result_file(setup, run).read_text())
    results.put("resumed", {"steps": len(values), "last_loss": values[-1], "top1": result["top1"]})
    evaluate = ["--shards", str(setup.shards("jpeg")), "--views", "10", "--json", str(result_file(setup, "eval"))]
    subprocess.run([*program("eval"), str(Path(setup.work, run)), *evaluate], check=True, cwd=ROOT)
    scores = json.loads(result_file(setup, "eval").read_text())
    results.put("eval, 10 views", {name: scores[name] for name in ("top1", "top5", "images", "views", "seconds")})
    shutil.rmtree(Path(setup.work, run))


def two_gpus(setup: Setup, results: Results) -> None:
    setup.need_gpus(2)
    options = ["--recipe", "paper", "--epochs", str(EPOCHS), "--batch", str(setup.batches[1])]
    for gpus, parallel in ((1, "data"), (2, "data"), (2, "towers"), (2, "hybrid")):
        numbers = train(setup, "two", *options, "--parallel", parallel, gpus=gpus, encoding="raw")
        results.put(f"{gpus} GPU{'s' * (gpus > 1)}, {parallel}", numbers)
