"""Our training beside a plain torch loop of the same network on tensors that already lie in memory, in turns.

    python tools/plain_loop.py SHARDS [--turns 5] [--steps 10] [--batch 128] [--out tools/records/DATE_...]

The plain loop has no loader at all: one batch of images in memory, the same batch norm AlexNet, bf16 autocast where
the processor has it, channels-last, torch.optim.SGD. Ours reads JPEGs meanwhile, decodes, crops, flips and colours
them. Each lives in a process of its own and rests while the other has its turn. CPU only.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from time import perf_counter

import click
import torch
from torch import nn

from alexnet_fast.config import TrainConfig
from alexnet_fast.environment import environment
from alexnet_fast.loading.loader import Loader
from alexnet_fast.model.alexnet import build
from alexnet_fast.recipes import make_config
from alexnet_fast.shards.reader import ShardSet
from alexnet_fast.training.optim import make_optimizer
from alexnet_fast.training.settings import best_precision
from alexnet_fast.training.state import State
from alexnet_fast.training.step import train_step

CPU = torch.device("cpu")
Step = Callable[[], float]
"""Does one training step; returns the seconds it has waited for data so far."""


def precision() -> torch.dtype:
    return torch.bfloat16 if best_precision(CPU) == "bf16" else torch.float32


def plain(shards: Path, batch: int) -> Step:
    manifest = ShardSet(shards).manifest
    crop, classes, dtype = manifest.size * 7 // 8, len(manifest.classes), precision()
    model = build(classes, TrainConfig(arch="bn")).on(CPU)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    images = torch.randint(0, 256, (batch, 3, crop, crop)).float().contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, classes, (batch,))

    def step() -> float:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = nn.functional.cross_entropy(model(images), labels, label_smoothing=0.1)
        loss.backward()
        optimizer.step()
        return 0.0

    return step


def ours(shards: Path, batch: int) -> Step:
    shard_set = ShardSet(shards)
    split = shard_set.split("train")
    crop = split.size * 7 // 8
    config = make_config("fast", batch=batch, precision=best_precision(CPU))
    model = build(len(shard_set.manifest.classes), TrainConfig(arch="bn")).on(CPU)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    state = State(model, make_optimizer(model, config), scaler)
    loader = Loader.training(split, batch=batch, num_epochs=10**6, crop=crop, dtype=precision(), threads=2)
    batches = iter(loader)

    def step() -> float:
        train_step(model, state, next(batches), config, 1.0)
        return loader.wait_seconds

    return step


def work(make: Callable[[Path, int], Step], shards: Path, batch: int, pipe: Connection) -> None:
    """Warms up, then for each number of steps received sends back the seconds they took and those spent waiting."""
    step = make(shards, batch)
    for _ in range(3):
        waited_before = step()
    while steps := pipe.recv():
        started = perf_counter()
        for _ in range(steps):
            waited = step()
        pipe.send((perf_counter() - started, waited - waited_before))
        waited_before = waited


@click.command()
@click.argument("shards", type=click.Path(path_type=Path))
@click.option("--turns", default=5, show_default=True)
@click.option("--steps", default=10, show_default=True, help="Of a turn.")
@click.option("--batch", default=128, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the record.")
def main(shards: Path, turns: int, steps: int, batch: int, out: Path | None) -> None:
    context = get_context("spawn")
    pipes: dict[str, Connection] = {}
    for name, make in {"plain": plain, "ours": ours}.items():
        pipes[name], theirs = context.Pipe()
        context.Process(target=work, args=(make, shards, batch, theirs), daemon=True).start()
    rates: dict[str, list[float]] = {name: [] for name in pipes}
    waits: list[float] = []
    for turn in range(turns + 1):
        for name, pipe in pipes.items():
            pipe.send(steps)
            seconds, waited = pipe.recv()
            if turn:  # the first turn waits for both to start
                rates[name].append(steps * batch / seconds)
                waits += [waited / seconds] * (name == "ours")
    for pipe in pipes.values():
        pipe.send(0)
    ratio = median([a / b for a, b in zip(rates["ours"], rates["plain"], strict=True)])
    for name, values in rates.items():
        print(f"{name:6s} {median(values):6.1f} images/s  [{min(values):.1f}-{max(values):.1f}]")
    print(f"ours / plain x{ratio:.2f}; data wait of ours {100 * median(waits):.2f} %")
    if out:
        out.mkdir(parents=True)
        about = {"shards": shards.name, "batch": batch, "steps": steps, "precision": str(precision()), **environment()}
        body = {**about, "images_per_second": rates, "ratio": ratio, "data_wait": waits}
        (out / "numbers.json").write_text(json.dumps(body, indent=1) + "\n")


if __name__ == "__main__":
    main()
