"""Two checkouts of this project beside each other: loader, sharding, LRN and training step, in turns.

    python tools/before_after.py BEFORE AFTER --jpeg SHARDS --raw SHARDS --photographs FOLDER [--turns 25]
                                 [--only NAME] [--out tools/records/DATE_NAME_HARDWARE]

BEFORE and AFTER are folders with the package built in them. Each has a process of its own, of this interpreter, and
they are measured in turns of a second. Prints the median of the ratios after / before, turn by turn.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median, quantiles
from subprocess import PIPE, Popen
from time import perf_counter
from typing import Any

import click

THREADS, BATCH = 2, 256
FILLING, SECONDS, TURNS_A_PROCESS = 0.4, 1.0, 4
FREED = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
"""glibc keeps freed memory, as a training run makes it do."""
LOADERS = [("jpeg", "uint8"), ("jpeg", "float32"), ("raw", "uint8"), ("raw", "float32")]


def rates(batches: Iterator[int]) -> Iterator[float]:
    """Images a second, each time anew: what was ready when it was the other's turn does not count."""
    while True:
        while_filling = perf_counter() + FILLING
        while perf_counter() < while_filling:
            next(batches)
        started, images = perf_counter(), 0
        while (passed := perf_counter() - started) < SECONDS:
            images += next(batches)
        yield images / passed


def load(shards: str, dtype: str) -> Iterator[float]:
    """Global shuffle, crops, mirror images; of float32 also mean and PCA colour."""
    import torch

    from alexnet_fast import Loader, ShardSet

    split = ShardSet(shards).split("train")

    def batches() -> Iterator[int]:
        for epoch in range(10**6):
            loader = Loader.training(split, batch=BATCH, epoch=epoch, dtype=getattr(torch, dtype), threads=THREADS)
            for batch in loader:
                yield len(batch.labels)

    return rates(batches())


def normalise(dtype: str) -> Iterator[float]:
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

    return rates(passes())


def convert(photographs: str) -> Iterator[float]:
    """The command's own figure, with two processes."""
    while True:
        with tempfile.TemporaryDirectory() as folder:
            result = command("shard", "--src", photographs, "--out", f"{folder}/set", "--workers", str(THREADS))
        yield float(result["images_per_second"])


def step(shards: str) -> Iterator[float]:
    while True:
        yield float(command("bench", "--shards", shards, "--batch", "64")["images_per_second"]["step"]["median"])


def command(*line: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "alexnet_fast", *line, "--json", "-"], stdout=subprocess.PIPE, text=True, check=True
    )
    body: dict[str, Any] = json.loads(done.stdout)
    return body


MEASURES: dict[str, Callable[..., Iterator[float]]] = {
    "load": load,
    "normalise": normalise,
    "convert": convert,
    "step": step,
}


def begin(checkout: Path, name: str, arguments: list[str]) -> Popen[str]:
    """A process with the package of `checkout`, that measures once for every line it is given."""
    environment = {**os.environ, **FREED, "PYTHONPATH": str(checkout.resolve())}
    line = [sys.executable, str(Path(__file__).resolve()), "measure", name, *arguments]
    return Popen(line, env=environment, cwd=checkout, stdin=PIPE, stdout=PIPE, text=True)


def ask(process: Popen[str]) -> float:
    assert process.stdin is not None
    assert process.stdout is not None
    print(file=process.stdin, flush=True)
    return float(process.stdout.readline())


def in_turns(before: Path, after: Path, job: list[str], turns: int) -> list[list[float]]:
    """(before, after) of each turn; one waits while the other is measured, and they take turns at being first.

    Every few turns in new processes, since where its memory lies makes one faster than its like by up to a fifth.
    """
    found: list[list[float]] = []
    while len(found) < turns:
        old, new = (begin(checkout, job[0], job[1:]) for checkout in (before, after))
        with old, new:
            for turn in range(TURNS_A_PROCESS):
                pair = [ask(process) for process in ((old, new) if turn % 2 == 0 else (new, old))]
                found.append(pair if turn % 2 == 0 else pair[::-1])
            for process in (old, new):
                process.kill()
    return found


@click.command()
@click.argument("before", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("after", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--jpeg", required=True)
@click.option("--raw", required=True)
@click.option("--photographs", required=True, help="Folder of class folders, of the sizes that photographs have.")
@click.option("--turns", default=25, show_default=True)
@click.option("--only", multiple=True, help="Those whose name holds this; may be repeated.")
@click.option("--out", type=click.Path(path_type=Path))
def main(
    before: Path,
    after: Path,
    jpeg: str,
    raw: str,
    photographs: str,
    turns: int,
    only: tuple[str, ...],
    out: Path | None,
) -> None:
    folders = {"jpeg": os.path.abspath(jpeg), "raw": os.path.abspath(raw)}
    jobs = {f"loader, {kind} to {dtype}": ["load", folders[kind], dtype] for kind, dtype in LOADERS}
    jobs["sharding"] = ["convert", os.path.abspath(photographs)]
    jobs |= {f"LRN, {dtype}": ["normalise", dtype] for dtype in ("float32", "bfloat16")}
    jobs["training step"] = ["step", folders["jpeg"]]
    found = {
        name: in_turns(before, after, job, turns)
        for name, job in jobs.items()
        if not only or any(part in name for part in only)
    }
    heads = ["", "before, images/s", "after, images/s", "after / before, median", "half of the turns"]
    lines = [f"| {' | '.join(heads)} |", "|---|---|---|---|---|"]
    for name, pairs in found.items():
        ratios = [new / old for old, new in pairs]
        olds, news = (median(values) for values in zip(*pairs, strict=True))
        low, _, high = quantiles(ratios, n=4)
        lines.append(f"| {name} | {olds:,.0f} | {news:,.0f} | {median(ratios):.3f} | {low:.2f} to {high:.2f} |")
    print("\n".join(lines))
    if out:
        from alexnet_fast.environment import environment
        from alexnet_fast.files import write_json

        out.mkdir(parents=True)
        write_json(out / "numbers.json", {"threads": THREADS, "batch": BATCH, "rates": found, **environment()})
        (out / "README.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        measured = MEASURES[sys.argv[2]](*sys.argv[3:])
        for _ in sys.stdin:
            print(next(measured), flush=True)
    else:
        main()
