"""Training: `train` builds everything and walks through the epochs, `train_step` is one step."""

from __future__ import annotations

import math
import os
import sys
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from alexnet_fast.config import TrainConfig
from alexnet_fast.console import Progress, Quiet
from alexnet_fast.errors import InputError
from alexnet_fast.loading.loader import Batch, Loader
from alexnet_fast.loading.plan import Window, steps_per_epoch, training_rows
from alexnet_fast.model.alexnet import AlexNet, build
from alexnet_fast.results.evaluate import damage_note, evaluate
from alexnet_fast.shardset import ShardSet
from alexnet_fast.training import checkpoint, metrics
from alexnet_fast.training.distributed import (
    Topology,
    any_stopped,
    barrier,
    share_buffers,
    stop_signals,
    without_sync,
)
from alexnet_fast.training.finite import Finite, check_weights
from alexnet_fast.training.log import Log
from alexnet_fast.training.optim import make_optimizer, set_learning_rates
from alexnet_fast.training.placement import place
from alexnet_fast.training.ranks import Ranks
from alexnet_fast.training.scales import Scales
from alexnet_fast.training.stalls import watched

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
"""What the network computes in, by the setting `precision`."""
STUCK_STEPS = 500
"""A loss still at ln(classes) after this many steps is called stuck."""


@dataclass(frozen=True)
class Result:
    run: str
    epochs: int
    best_top1: float | None
    top1: float | None
    images_per_second: float
    data_wait: float
    seconds: float
    finished: bool = True


@dataclass
class State:
    """All that changes while training; of a network split over processes, this one's part."""

    model: AlexNet
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    epoch: int = 0
    step: int = 0
    top1s: list[float] = field(default_factory=list)
    """Validation top-1 after each epoch so far, per cent."""


def train(topology: Topology, config: TrainConfig, run: Path, resume: bool) -> Result:
    """Trains `config` in the run folder `run`; `resume` goes on from its last checkpoint.

    Ctrl-C or SIGTERM saves and returns. Raises InputError for shards that do not fit the configuration,
    TrainingError when the loss is not finite.
    """
    shards = ShardSet(config.shards, config.cache, config.cache_bytes or None)
    split, pixels, classes = shards.split("train"), shards.manifest.pixels, shards.manifest.classes
    if config.order == "random":
        split.hold_all()
    val = shards.split("val") if "val" in shards else None
    config = resolve(config, split.size, topology)
    steps = steps_per_epoch(len(split), config.batch)
    if config.schedule == "plateau" and val is None:
        raise InputError(
            f"{config.shards} has no val split to tell when the top-1 stalls. "
            "Shard with --val-fraction 0.1, or give --set schedule=steps."
        )
    dtype = DTYPES[config.precision]

    state = begin(config, len(classes), topology.device)
    log = Log(run, steps, config.tensorboard)
    if resume:
        _restore(state, run)
        if topology.first:
            log.cut(state.epoch * steps + state.step, state.epoch)
    elif config.init:
        checkpoint.start_from(state.model, Path(config.init), classes, conv_only=config.init_layers == "conv")
    if config.compile:
        # On a GPU with CUDA graphs, which pay where a step's kernels are short. Not measured: no GPU was at hand.
        state.model.compile(mode="reduce-overhead" if topology.device.type == "cuda" else None)
    placed = place(state.model, state.optimizer, topology, config)
    state.model, state.optimizer, data = placed.model, placed.optimizer, placed.data
    if len(split) // steps < data.world * config.accumulate:
        parts = f" of {config.accumulate} parts" * (config.accumulate > 1)
        raise InputError(
            f"batch {config.batch} is too small for {data.world} process{'es' * (data.world > 1)}{parts}. "
            "Give a larger --batch."
        )

    finite = Finite(state.model, state.optimizer, config, alone=config.parallel == "data" or topology.world == 1)
    scales = Scales(state.model, state.optimizer, topology, config)

    def save(name: str, everything: bool) -> None:
        model, optimizer = placed.whole()
        check_weights(model)
        if topology.first:
            whole = replace(state, model=model, optimizer=optimizer)
            what = _snapshot(whole) if everything else {"model": model.state_dict()}
            about = {
                "config": config.as_dict(),
                "classes": classes,
                "pixels": vars(pixels),
                "size": split.size,
                "epoch": state.epoch,
            }
            checkpoint.save(run / name, {**what, **about})

    progress = (Progress if topology.first else Quiet)(
        "training", config.epochs * steps, state.epoch * steps + state.step
    )
    loader = Loader(
        split,
        pixels,
        training_rows(
            len(split),
            config.batch,
            config.seed,
            margin=split.size - config.crop,
            colour_std=config.colour_std,
            colour_epochs=config.colour_off * config.epochs,
            crops=config.crops,
            window=Window(split.index["shard"], config.window) if config.order == "window" else None,
            rank=data.rank,
            world=data.world,
            epochs=range(state.epoch, config.epochs),
            first_step=state.step,
        ),
        max_batch=-(-config.batch // data.world),
        crop=config.crop,
        device=topology.device,
        dtype=dtype,
        threads=config.threads,
    )
    window = metrics.Window(topology, loader)
    top1: float | None = None
    told: list[str] = []
    with stop_signals() as stopped, progress, log, Ranks(topology):
        for batch in watched(loader, topology):
            window.begin()
            # --- the step: nothing here waits for the device
            state.epoch, state.step = batch.rows.epoch, batch.rows.step
            done = state.epoch * steps + state.step
            set_learning_rates(state.optimizer, config, done / steps, state.top1s)
            torch.manual_seed(step_seed(config.seed, done, placed.dropout_rank))
            share = len(batch.labels) * data.world * steps / len(split)
            end_of_epoch = state.step + 1 == steps
            is_logged = (done + 1) % config.log_every == 0 or end_of_epoch
            scales.begin(is_logged)
            sums = train_step(placed.wrapped, state, batch, config, share)
            finite.look(sums[0], done + 1, batch)
            if placed.counts:
                window.add(*sums, len(batch.labels))
            state.step += 1
            progress.advance(done + 1)

            # --- now and then: log, evaluate, save
            stop = any_stopped(stopped(), topology)
            if is_logged or stop:
                line, stop = window.read(stopped())
                finite.check(batch)
                for name in list(loader.damaged.values())[len(told) :]:
                    told.append(name)
                    note = f"damaged, so its neighbour is seen instead: {name}"
                    progress.say(note) if topology.first else print(note, file=sys.stderr)
                _say_if_stuck(line["loss"], done + 1, len(classes), progress)
                measured = scales.read()
                if topology.first:
                    log.add({"step": done + 1, "epoch": state.epoch, **line, "damaged": len(told), **measured})
                progress.update(done + 1, _describe(line, state.epoch, config.epochs))
            started = perf_counter()
            if end_of_epoch:
                state.epoch, state.step = state.epoch + 1, 0
                if val is not None:
                    model, _ = placed.whole()
                    share_buffers(model, topology)
                    accuracy = evaluate(
                        [model],
                        val,
                        pixels,
                        topology,
                        crop=config.crop,
                        dtype=dtype,
                        threads=config.threads,
                    )
                    top1 = accuracy.top1
                    scores = {"epoch": state.epoch, "val_top1": accuracy.top1, "val_top5": accuracy.top5}
                    if topology.first:
                        log.add(scores)
                    progress.say(
                        f"epoch {state.epoch:3d}  val top-1 {accuracy.top1:5.2f} %  top-5 {accuracy.top5:5.2f} %  "
                        f"train loss {line['loss']:.3f}  {line['images_per_second']:,.0f} images/s"
                        + damage_note(accuracy)
                    )
                    state.top1s.append(top1)
                    if top1 > max(state.top1s[:-1], default=-1.0):
                        save("best.pt", everything=False)
            if end_of_epoch or stop:
                save("last.pt", everything=True)
            window.pause(perf_counter() - started)
            if stop:
                break
        barrier(topology)
    finished = state.epoch == config.epochs
    return Result(str(run), state.epoch, max(state.top1s, default=None), top1, *window.totals(), finished=finished)


def begin(config: TrainConfig, classes: int, device: torch.device) -> State:
    """The state before the first step, its weights drawn from the seed; `config` as `resolve` returns it."""
    torch.manual_seed(config.seed)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    model = build(classes, config).on(device)
    scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
    return State(model, make_optimizer(model, config), scaler)


def train_step(
    model: nn.Module, state: State, batch: Batch, config: TrainConfig, share: float
) -> tuple[Tensor, Tensor]:
    """One update; returns the summed loss and the number of correct images, both still on the device.

    `share`: this process' part of the step times the number of processes, about 1. It weighs the loss so that
    the average over processes counts every image alike. `config` as `resolve` returns it.
    """
    model.train()
    device, dtype = batch.images.device.type, DTYPES[config.precision]
    total, correct = torch.zeros(2, device=batch.images.device).unbind()
    parts = list(zip(*(t.tensor_split(config.accumulate) for t in (batch.images, batch.labels)), strict=True))
    for i, (images, labels) in enumerate(parts, 1):
        with without_sync(model) if i < len(parts) else nullcontext():
            with torch.autocast(device, dtype, enabled=dtype != torch.float32):
                logits = model(images)
            loss = nn.functional.cross_entropy(
                logits.float(), labels, label_smoothing=config.label_smoothing, reduction="sum"
            )
            state.scaler.scale(loss * (share / len(batch.labels))).backward()
        total = total + loss.detach()
        correct = correct + (logits.detach().argmax(1) == labels).sum()
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    return total, correct


def resolve(config: TrainConfig, stored_side: int, topology: Topology) -> TrainConfig:
    """Fills in what depends on the shards and the machine: crop, precision, threads."""
    crop = config.crop or stored_side * 7 // 8
    if crop > stored_side:
        raise InputError(f"crop {crop} is larger than the stored images ({stored_side} px). Give a smaller crop.")
    if crop < 64:
        raise InputError(f"crop {crop} is too small for AlexNet, which needs 64 px. Shard with --size 74 or more.")
    precision = config.precision if config.precision != "auto" else best_precision(topology.device)
    cores = len(os.sched_getaffinity(0))
    return replace(config, crop=crop, precision=precision, threads=config.threads or max(cores // topology.world, 1))


def best_precision(device: torch.device) -> str:
    """bf16 where the hardware has it; else fp16 on a GPU, fp32 on a CPU."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    has = torch.cpu.get_capabilities()
    return "bf16" if has.get("avx512_bf16") or has.get("amx_bf16") else "fp32"


def step_seed(seed: int, step: int, rank: int) -> int:
    """Of dropout: a function of where the run is, so that a resumed run draws the same masks."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0])


def _snapshot(state: State) -> dict[str, Any]:
    return {
        "model": state.model.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "scaler": state.scaler.state_dict(),
        "step": state.step,
        "top1s": state.top1s,
    }


def _restore(state: State, run: Path) -> None:
    saved = checkpoint.load(run / "last.pt")
    state.model.load_state_dict(saved["model"])
    state.optimizer.load_state_dict(saved["optimizer"])
    state.scaler.load_state_dict(saved["scaler"])
    state.epoch, state.step, state.top1s = saved["epoch"], saved["step"], saved["top1s"]


def _say_if_stuck(loss: float, step: int, classes: int, progress: Progress) -> None:
    if step >= STUCK_STEPS and loss > math.log(classes) - 0.01:
        progress.say(
            f"step {step}: the loss is still {loss:.3f}, that of guessing (ln {classes}). Likely causes: a learning "
            "rate too low or too high, or an unlucky start (try --seed 1); --arch bn starts reliably."
        )


def _describe(line: dict[str, float], epoch: int, epochs: int) -> str:
    return (
        f"epoch {epoch + 1}/{epochs}  loss {line['loss']:.3f}  top-1 {line['top1']:.1f} %  "
        f"{line['images_per_second']:,.0f} images/s  data wait {100 * line['data_wait']:.1f} %  "
        f"{line['peak_gib']:.1f} GiB"
    )
