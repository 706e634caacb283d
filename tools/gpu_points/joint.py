"""Point 7: loader and step together, by who decodes: the rate, and the GPU's idle share as shown and by events."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from time import perf_counter
from typing import Any

import torch

from alexnet_fast.config import TrainConfig
from alexnet_fast.loading.batch import Batch
from alexnet_fast.loading.loader import Loader
from alexnet_fast.loading.synthetic import synthetic
from alexnet_fast.recipes import make_config
from alexnet_fast.training.state import State, initial_state
from alexnet_fast.training.step import DTYPES, train_step
from tools.gpu_points.batches import fix_share, loader, settled
from tools.gpu_points.setup import Results, Setup
from tools.gpu_points.timing import finish, peak_gib, rate

CLASSES = 1000
SHARES = {"host share 0": 0.0, "host share as chosen": None, "host share 1": 1.0}


def run(setup: Setup, results: Results) -> None:
    for recipe, batch in (("paper", setup.batches[1]), ("fast", setup.batches[1]), ("paper", setup.batches[0])):
        config = replace(make_config(recipe, batch=batch, **setup.settings), lr=0.0)  # the weights stay
        state = initial_state(config, CLASSES, torch.device(setup.device))
        key = f"{recipe}, batch {batch}"
        same = next(synthetic(config, CLASSES, DTYPES[config.precision], torch.device(setup.device)))
        results.put(f"{key}, step alone", {"images_per_second": rate(partial(step, state, config, same), batch, setup)})
        shares = SHARES if (recipe, batch) == ("paper", setup.batches[1]) else {"host share as chosen": None}
        for name, share in shares.items():
            results.put(f"{key}, jpeg, {name}", joint(setup, state, config, "jpeg", share))
        results.put(f"{key}, raw", joint(setup, state, config, "raw", None))


def step(state: State, config: TrainConfig, batch: Batch) -> None:
    train_step(state.model, state, batch, config, 1.0)


def joint(setup: Setup, state: State, config: TrainConfig, encoding: str, share: float | None) -> dict[str, Any]:
    """The rate of the loop, the data wait that the loader shows, and the idle share by events."""
    source = loader(setup, encoding, config.batch, DTYPES[config.precision])
    fix_share(source, share)
    batches = iter(source)
    if setup.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    trials = settled(source, batches, partial(step, state, config))
    finish(setup)
    numbers = measured(setup, source, batches, partial(step, state, config))
    return numbers | {"trials": trials, "gib": peak_gib(setup)}


def measured(setup: Setup, source: Loader, batches: Iterator[Batch], step: Any) -> dict[str, float]:
    """Steps for some turns' time. The true idle share: of the time since the first step's start, what lies between a
    step's end and the start of the next, both by the GPU's own events. The pass over a batch's pixels is in it."""
    seconds, images = 4 * setup.seconds, 0
    moments: list[tuple[Any, Any]] = []
    waited, started = source.wait_seconds, perf_counter()
    while perf_counter() - started < seconds or len(moments) < 2:
        batch = next(batches)
        began = moment(setup)
        step(batch)
        moments.append((began, moment(setup)))
        images += len(batch.labels)
    finish(setup)
    wall = perf_counter() - started
    gaps = [between(last[1], first[0]) for last, first in pairwise(moments)]
    return {
        "images_per_second": images / wall,
        "data_wait": (source.wait_seconds - waited) / wall,
        "idle_by_events": sum(gaps) / between(moments[0][0], moments[-1][1]),
    }


def moment(setup: Setup) -> Any:
    """An event behind all that is queued; on a CPU, which has no queue, the time."""
    if not setup.on_gpu:
        return perf_counter()
    return torch.cuda.current_stream().record_event(torch.cuda.Event(enable_timing=True))


def between(first: Any, last: Any) -> float:
    """Seconds from one moment to another."""
    return last - first if isinstance(first, float) else first.elapsed_time(last) / 1000  # type: ignore[no-any-return]
