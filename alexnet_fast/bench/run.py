"""Measures each stage of training alone and all of them together, in turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet_fast.bench.advice import Setup
from alexnet_fast.bench.report import STAGES, Report
from alexnet_fast.config import TrainConfig
from alexnet_fast.console import Progress
from alexnet_fast.demo.samples import draw_samples
from alexnet_fast.distributed.devices import check_gpus, choose_gpus, usable_gpus
from alexnet_fast.distributed.topology import Topology
from alexnet_fast.environment import cores
from alexnet_fast.loading.loader import PREFETCH, Batch, Loader
from alexnet_fast.loading.plan import Rows, training_rows
from alexnet_fast.loading.synthetic import synthetic
from alexnet_fast.memory import keep_freed_memory
from alexnet_fast.sharding.output import open_output
from alexnet_fast.sharding.plan import Options
from alexnet_fast.sharding.pool import Processes
from alexnet_fast.sharding.sources import find_images
from alexnet_fast.sharding.write import write_shard_set
from alexnet_fast.shards.reader import ShardSet, Split
from alexnet_fast.training import loop

SECONDS, WARM_SECONDS = 1.0, 0.2
"""The least a stage is measured for in a turn, and is warmed up for before."""
CLASSES = 1000
"""Of the network, as ImageNet has them, for sets of fewer."""
SAMPLES_PER_CLASS = 30


@dataclass(frozen=True)
class Stage:
    """`work` does a batch and yields its number of images, without end. What its loader, if it has one, has prepared
    `ahead` of it while other stages ran must not count."""

    work: Iterator[int]
    ahead: Iterator[Batch] | None = None


def bench(config: TrainConfig, gpus: int | None, turns: int) -> Report:
    """Measures `config` on one GPU, or on the CPU with `gpus` 0; None: on a GPU where there is one.

    Raises InputError where training would.
    """
    gpus = choose_gpus(gpus, most=1)
    check_gpus(gpus)
    device = torch.device("cuda", 0) if gpus else torch.device("cpu")
    shards = ShardSet.of(config)
    split = shards.split("train")
    config = loop.resolve(config, split.size, Topology(0, 1, device))
    setup = Setup(
        shards=str(shards.folder),
        encoding=split.encoding,
        size=split.size,
        image_bytes=float(split.index["size"].mean()),
        arch=config.arch,
        batch=config.batch,
        crop=config.crop,
        precision=config.precision,
        device=torch.cuda.get_device_name(device) if gpus else "cpu",
        gpus=usable_gpus(),
        threads=config.threads,
        cores=cores(),
    )
    stages = _stages(shards, split, config, device)
    turns_of: dict[str, list[float]] = {name: [] for name in STAGES}

    def finish() -> None:
        if gpus:
            torch.cuda.synchronize(device)

    with Progress("measuring", turns * len(stages)) as progress:
        for number, (turn, name) in enumerate(product(range(turns), stages)):
            progress.update(number, f"turn {turn + 1}/{turns}  {name}")
            turns_of[name].append(_measure(stages[name], finish))
    return Report(setup, turns_of)


def bench_samples(config: TrainConfig, gpus: int | None, turns: int) -> Report:
    """As `bench`, on sample images of ImageNet's size in a temporary folder."""
    with TemporaryDirectory(prefix="alexnet-fast-bench-") as folder:
        images, shards = Path(folder, "images"), str(Path(folder, "shards"))
        with Progress("drawing", 1) as progress:
            progress.print("drawing sample images; --shards measures your own")
        draw_samples(images, train_per_class=SAMPLES_PER_CLASS, val_per_class=1, size=256)
        write_shard_set(find_images(images), open_output([shards]), Options(size=256), lambda: Processes(cores()))
        report = bench(replace(config, shards=shards), gpus, turns)
    return replace(report, setup=replace(report.setup, shards="sample images"))


def _measure(stage: Stage, finish: Callable[[], None]) -> float:
    """Images/s of one turn; `finish` waits for the device."""
    if stage.ahead:
        for _ in range(PREFETCH):
            next(stage.ahead)
    _rate(stage.work, WARM_SECONDS, finish)
    return _rate(stage.work, SECONDS, finish)


def _rate(work: Iterator[int], seconds: float, finish: Callable[[], None]) -> float:
    """Images/s over so many seconds, or one batch."""
    started = perf_counter()
    images = next(work)
    while perf_counter() - started < seconds:
        images += next(work)
    finish()
    return images / (perf_counter() - started)


def _stages(shards: ShardSet, split: Split, config: TrainConfig, device: torch.device) -> dict[str, Stage]:
    """Every stage of the report that this device has, in the order of measuring."""
    dtype = loop.DTYPES[config.precision]
    classes = max(len(shards.manifest.classes), CLASSES)
    state = loop.begin(replace(config, lr=0.0), classes, device)  # the weights stay, so nothing can diverge
    if device.type == "cpu":
        keep_freed_memory()  # the loader does; so every stage has it

    def load(seed: int, dtype: torch.dtype, augment: bool) -> Iterator[Batch]:
        loader = Loader(
            split,
            shards.manifest.pixels,
            _rows(split, config, seed, augment),
            max_batch=config.batch,
            crop=config.crop,
            device=device,
            dtype=dtype,
            threads=config.threads,
        )
        return iter(loader)

    def count(batches: Iterator[Batch]) -> Iterator[int]:
        return (len(batch.labels) for batch in batches)

    def step(batches: Iterator[Batch]) -> Iterator[int]:
        for batch in batches:
            loop.train_step(state.model, state, batch, config, 1.0)
            yield len(batch.labels)

    decoded, loaded, trained = load(1, torch.uint8, False), load(2, dtype, True), load(3, dtype, True)
    stages = {
        "read": Stage(_read(split, _rows(split, config, 0, False), config.threads)),
        "decode": Stage(count(decoded), decoded),
        "loader": Stage(count(loaded), loaded),
        "step": Stage(step(synthetic(config, classes, dtype, device))),
        "joint": Stage(step(trained), trained),
    }
    return stages if device.type == "cpu" else {**stages, "copy": Stage(_copy(config, device))}


def _rows(split: Split, config: TrainConfig, seed: int, augment: bool) -> Iterator[Rows]:
    """Full batches of the split in a global random order, without end; a small split comes several times an epoch."""
    copies = -(-100 * config.batch // len(split))
    rows = training_rows(
        copies * len(split),
        config.batch,
        seed,
        margin=split.size - config.crop,
        colour_std=config.colour_std,
        crops=augment and config.crops,
        epochs=range(10**9),
    )
    return (replace(row, samples=row.samples % len(split)) for row in rows)


def _read(split: Split, rows: Iterator[Rows], threads: int) -> Iterator[int]:
    """Copies the stored bytes out of the memory-mapped tars."""

    def copy(samples: NDArray[np.int64]) -> None:
        for image in split.read(samples):
            image.copy()

    with ThreadPoolExecutor(threads) as pool:
        for row in rows:
            list(pool.map(copy, np.array_split(row.samples, threads)))
            yield len(row.samples)


def _copy(config: TrainConfig, device: torch.device) -> Iterator[int]:
    """A batch of uint8 crops from page-locked memory to the GPU."""
    images = torch.zeros(config.batch, config.crop, config.crop, 3, dtype=torch.uint8).pin_memory()
    while True:
        images.to(device, non_blocking=True)
        yield len(images)
