"""Two checkouts of this project beside each other: loader, sharding, LRN and training step, in turns.

    python tools/before_after.py BEFORE AFTER --jpeg SHARDS --raw SHARDS --photographs FOLDER [--turns 5]
                                 [--only NAME] [--out tools/records/DATE_NAME_HARDWARE]

BEFORE and AFTER are folders with the package built in them. Every measurement is a process of its own, of this
interpreter, with the package of one of them. Prints the median of the ratios after / before, turn by turn.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import click

THREADS, BATCH, SECONDS = 2, 256, 4.0
FREED = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
"""glibc keeps freed memory, as a training run makes it do."""
LOADERS = [("jpeg", "uint8"), ("jpeg", "float32"), ("raw", "uint8"), ("raw", "float32")]


def rate(batches: Iterator[int], seconds: float = SECONDS) -> float:
    """Images a second, from the second batch on."""
    next(batches)
    started, images = perf_counter(), 0
    while (passed := perf_counter() - started) < seconds:
        images += next(batches)
    return images / passed


def load(shards: str, dtype: str) -> float:
    """Global shuffle, crops, mirror images; of float32 also mean and PCA colour."""
    import torch

    from alexnet_fast import Loader, ShardSet

    split = ShardSet(shards).split("train")

    def batches() -> Iterator[int]:
        for epoch in range(10**6):
            loader = Loader.training(split, batch=BATCH, epoch=epoch, dtype=getattr(torch, dtype), threads=THREADS)
            for batch in loader:
                yield len(batch.labels)

    return rate(batches())


def normalise(dtype: str) -> float:
    """LRN forward and backward of the first layer's maps."""
    import torch

    from alexnet_fast.model.lrn import LocalResponseNorm

    torch.set_num_threads(THREADS)
    lrn = LocalResponseNorm(96, towers=2)
    x = torch.randn(32, 96, 55, 55, dtype=getattr(torch, dtype)).to(memory_format=torch.channels_last).requires_grad_()
    gradient = torch.ones_like(x)

    def passes() -> Iterator[int]:
        while True:
            lrn(x).backward(gradient)
            yield len(x)

    return rate(passes())


def convert(photographs: str) -> float:
    """The command's own figure, with two processes."""
    with tempfile.TemporaryDirectory() as folder:
        result = command("shard", "--src", photographs, "--out", f"{folder}/set", "--workers", str(THREADS))
    return float(result["images_per_second"])


def step(shards: str) -> float:
    return float(command("bench", "--shards", shards, "--batch", "64")["images_per_second"]["step"]["median"])


def command(*line: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "alexnet_fast", *line, "--json", "-"], stdout=subprocess.PIPE, text=True, check=True
    )
    body: dict[str, Any] = json.loads(done.stdout)
    return body


def measure(checkout: Path, name: str, arguments: list[str]) -> float:
    """In a process of its own, with the package of `checkout`."""
    environment = {**os.environ, **FREED, "PYTHONPATH": str(checkout.resolve())}
    line = [sys.executable, str(Path(__file__).resolve()), "measure", name, *arguments]
    done = subprocess.run(line, env=environment, cwd=checkout, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


MEASURES: dict[str, Callable[..., float]] = {"load": load, "normalise": normalise, "convert": convert, "step": step}


@click.command()
@click.argument("before", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("after", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--jpeg", required=True)
@click.option("--raw", required=True)
@click.option("--photographs", required=True, help="Folder of class folders, of the sizes that photographs have.")
@click.option("--turns", default=5, show_default=True)
@click.option("--only", default="", help="Those whose name holds this.")
@click.option("--out", type=click.Path(path_type=Path))
def main(
    before: Path, after: Path, jpeg: str, raw: str, photographs: str, turns: int, only: str, out: Path | None
) -> None:
    folders = {"jpeg": os.path.abspath(jpeg), "raw": os.path.abspath(raw)}
    jobs = {f"loader, {kind} to {dtype}": ["load", folders[kind], dtype] for kind, dtype in LOADERS}
    jobs["sharding"] = ["convert", os.path.abspath(photographs)]
    jobs |= {f"LRN, {dtype}": ["normalise", dtype] for dtype in ("float32", "bfloat16")}
    jobs["training step"] = ["step", folders["jpeg"]]
    rates: dict[str, list[list[float]]] = {name: [] for name in jobs if only in name}
    for turn in range(turns):
        for name in rates:
            pair = (before, after) if turn % 2 == 0 else (after, before)
            found = [measure(checkout, jobs[name][0], jobs[name][1:]) for checkout in pair]
            rates[name].append(found if turn % 2 == 0 else found[::-1])
    lines = ["| | before, images/s | after, images/s | after / before, median | turns |", "|---|---|---|---|---|"]
    for name, pairs in rates.items():
        ratios = [new / old for old, new in pairs]
        olds, news = (median(values) for values in zip(*pairs, strict=True))
        each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        lines.append(f"| {name} | {olds:,.0f} | {news:,.0f} | {median(ratios):.3f} | {each} |")
    print("\n".join(lines))
    if out:
        from alexnet_fast.environment import environment
        from alexnet_fast.files import write_json

        out.mkdir(parents=True)
        write_json(out / "numbers.json", {"threads": THREADS, "batch": BATCH, "rates": rates, **environment()})
        (out / "README.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        print(MEASURES[sys.argv[2]](*sys.argv[3:]))
    else:
        main()
