"""Measures each stage of training alone and all of them together, in turns."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet_fast import environment
from alexnet_fast.bench.advice import BenchSetup
from alexnet_fast.bench.report import STAGES, BenchReport
from alexnet_fast.config import TrainConfig
from alexnet_fast.console import Progress
from alexnet_fast.demo.samples import draw_samples
from alexnet_fast.distributed.devices import check_gpus, choose_gpus, usable_gpus
from alexnet_fast.distributed.topology import Topology
from alexnet_fast.environment import cores
from alexnet_fast.loading.batch import Batch
from alexnet_fast.loading.boxes import Boxes
from alexnet_fast.loading.decoders import PREFETCH
from alexnet_fast.loading.loader import Loader
from alexnet_fast.loading.plan import training_rows
from alexnet_fast.loading.share import ShareTrials
from alexnet_fast.loading.synthetic import synthetic
from alexnet_fast.memory import keep_freed_memory
from alexnet_fast.sharding.output import open_output
from alexnet_fast.sharding.plan import Options
from alexnet_fast.sharding.pool import Processes
from alexnet_fast.sharding.sources import find_images
from alexnet_fast.sharding.write import write_shard_set
from alexnet_fast.shards.reader import ShardSet, Split
from alexnet_fast.training.replay import Replay, Results
from alexnet_fast.training.settings import augmentation, replays_steps, resolve
from alexnet_fast.training.state import initial_state
from alexnet_fast.training.step import DTYPES, train_step

SECONDS, WARM_SECONDS = 1.0, 0.2
"""The least a stage is measured for in a turn, and is warmed up for before."""
EPOCHS = 10**9
"""Of a stage: without end."""
CLASSES = 1000
"""Of the network, as ImageNet has them, for sets of fewer."""
SAMPLES_PER_CLASS = 30


@dataclass(frozen=True)
class Stage:
    """`work` does a batch and yields its number of images, without end. `batches`: of its loader, if it has one: what
    that has prepared while other stages ran must not count. `trials`: of the host's share of the JPEGs."""

    work: Iterator[int]
    batches: Iterator[Batch] | None = None
    trials: ShareTrials | None = None


def bench(config: TrainConfig, gpus: int | None, turns: int) -> BenchReport:
    """Measures `config` on one GPU, or on the CPU with `gpus` 0; None: on a GPU where there is one.

    Raises InputError where training would.
    """
    gpus = choose_gpus(gpus, most=1)
    check_gpus(gpus)
    device = torch.device("cuda", 0) if gpus else torch.device("cpu")
    shards = ShardSet.of(config)
    split = shards.split("train")
    config = resolve(config, split.size, Topology(0, 1, device))
    taken = {name: getattr(config, name) for name in ("arch", "batch", "crop", "precision", "threads")}
    setup = BenchSetup(
        shards=str(shards.folder),
        encoding=split.encoding,
        size=split.size,
        image_bytes=float(split.index["size"].mean()),
        device=torch.cuda.get_device_name(device) if gpus else "cpu",
        gpus=usable_gpus(),
        cores=cores(),
        libnvcuvid=environment.nvcuvid() if gpus and split.encoding != "raw" else None,
        **taken,
    )
    stages = _stages(shards, split, config, device)
    turns_of: dict[str, list[float]] = {name: [] for name in STAGES}

    with Progress("measuring", turns * len(stages)) as progress:
        for name, stage in stages.items():
            while stage.trials and not stage.trials.done:
                progress.update(0, f"{name}: trying how many of the JPEGs the host decodes best")
                next(stage.work)
        for number, (turn, name) in enumerate(product(range(turns), stages)):
            progress.update(number, f"turn {turn + 1}/{turns}  {name}")
            turns_of[name].append(_measure(stages[name], device))
    trials = stages["joint"].trials
    return BenchReport(setup, turns_of, trials.rates if trials else {})


def bench_samples(config: TrainConfig, gpus: int | None, turns: int) -> BenchReport:
    """As `bench`, on sample images of ImageNet's size in a temporary folder."""
    with TemporaryDirectory(prefix="alexnet-fast-bench-") as folder:
        images, shards = Path(folder, "images"), str(Path(folder, "shards"))
        with Progress("drawing", 1) as progress:
            progress.print("drawing sample images; --shards measures your own")
        draw_samples(images, train_per_class=SAMPLES_PER_CLASS, val_per_class=1, size=256)
        write_shard_set(find_images(images), open_output([shards]), Options(size=256), lambda: Processes(cores()))
        report = bench(replace(config, shards=shards), gpus, turns)
    return replace(report, setup=replace(report.setup, shards="sample images"))


def _measure(stage: Stage, device: torch.device) -> float:
    """Images/s of one turn."""
    if stage.batches:
        for _ in range(PREFETCH):
            next(stage.batches)
    _rate(stage.work, WARM_SECONDS, device)
    return _rate(stage.work, SECONDS, device)


def _rate(work: Iterator[int], seconds: float, device: torch.device) -> float:
    """Images/s over so many seconds, or one batch."""
    started = perf_counter()
    images = next(work)
    while perf_counter() - started < seconds:
        images += next(work)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return images / (perf_counter() - started)


def _stages(shards: ShardSet, split: Split, config: TrainConfig, device: torch.device) -> dict[str, Stage]:
    """Every stage of the report that this device has, in the order of measuring."""
    dtype = DTYPES[config.precision]
    classes = max(len(shards.manifest.classes), CLASSES)
    state = initial_state(replace(config, lr=0.0), classes, device)  # the weights stay, so nothing can diverge
    if device.type == "cpu":
        keep_freed_memory()  # the loader does; so every stage has it

    copies = -(-100 * config.batch // len(split))  # so that batches are full, however small the split is
    samples = np.arange(copies * len(split)) % len(split)

    def load(seed: int, dtype: torch.dtype, augment: bool) -> Loader:
        return Loader.training(
            split,
            batch=config.batch,
            num_epochs=EPOCHS,
            samples=samples,
            crop=config.crop,
            **(augmentation(config) if augment else {"crops": False}),
            seed=seed,
            colour_std=config.colour_std,
            device=device,
            dtype=dtype,
            threads=config.threads,
        )

    def update(batch: Batch) -> Results:
        return *train_step(state.model, state, batch, config, 1.0), None

    is_small = replays_steps(config, Topology(0, 1, device), config.batch)
    take = Replay(update, state.optimizer, partial(print, file=sys.stderr)).step if is_small else update

    def step(batches: Iterator[Batch]) -> Iterator[int]:
        for batch in batches:
            take(batch)
            yield len(batch.labels)

    def count(batches: Iterator[Batch]) -> Iterator[int]:
        return (len(batch.labels) for batch in batches)

    def stage(loader: Loader, work: Callable[[Iterator[Batch]], Iterator[int]]) -> Stage:
        batches = iter(loader)
        return Stage(work(batches), batches, loader.trials)

    stages = {
        "read": Stage(_read(split, samples, config)),
        "decode": stage(load(1, torch.uint8, False), count),
        "loader": stage(load(2, dtype, True), count),
        "step": Stage(step(synthetic(config, classes, dtype, device))),
        "joint": stage(load(3, dtype, True), step),
    }
    return stages if device.type == "cpu" else {**stages, "copy": Stage(_copy(config, device))}


def _read(split: Split, samples: NDArray[np.int64], config: TrainConfig) -> Iterator[int]:
    """Copies stored bytes out of the memory-mapped tars, in a random order."""

    def copy(samples: NDArray[np.int64]) -> None:
        for image in split.read(samples):
            image.copy()

    whole = Boxes(split.sizes[samples], 0)
    rows = training_rows(len(samples), config.batch, 0, boxes=whole, colour_std=0, crops=False, epochs=range(EPOCHS))
    with ThreadPoolExecutor(config.threads) as pool:
        for row in rows:
            list(pool.map(copy, np.array_split(samples[row.samples], config.threads)))
            yield len(row.samples)


def _copy(config: TrainConfig, device: torch.device) -> Iterator[int]:
    """A batch of uint8 crops from page-locked memory to the GPU."""
    images = torch.zeros(config.batch, config.crop, config.crop, 3, dtype=torch.uint8).pin_memory()
    while True:
        images.to(device, non_blocking=True)
        yield len(images)
