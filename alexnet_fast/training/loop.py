"""Training: `train` builds everything and walks through the epochs, `train_step` is one step."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor, nn

from alexnet_fast import random
from alexnet_fast.config import FREE, TrainConfig, config_from
from alexnet_fast.console import Progress, Quiet
from alexnet_fast.distributed.devices import processes_here
from alexnet_fast.distributed.heartbeat import Ranks
from alexnet_fast.distributed.stalls import watched
from alexnet_fast.distributed.topology import Topology, any_stopped, barrier, from_first, share_buffers, without_sync
from alexnet_fast.environment import cores
from alexnet_fast.errors import InputError
from alexnet_fast.evaluation.scoring import Stopped, damage_note, evaluate
from alexnet_fast.loading.corruption import check_damage
from alexnet_fast.loading.loader import Batch, Loader
from alexnet_fast.loading.plan import Window, steps_per_epoch, training_rows
from alexnet_fast.model.alexnet import AlexNet, build
from alexnet_fast.shards.format import Pixels
from alexnet_fast.shards.reader import ShardSet, Split
from alexnet_fast.signals import stop_signals
from alexnet_fast.training import checkpoint, metrics
from alexnet_fast.training.finite import Finite
from alexnet_fast.training.log import Log
from alexnet_fast.training.optim import make_optimizer, set_learning_rates
from alexnet_fast.training.placement import place
from alexnet_fast.training.saver import Saver
from alexnet_fast.training.scales import Scales
from alexnet_fast.training.state import State, restore

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


def train(topology: Topology, config: TrainConfig, run: Path, resume: bool) -> Result:
    """Trains `config` in the run folder `run`; `resume` goes on from its newest checkpoint, if there is one.

    Ctrl-C or SIGTERM saves and returns. Raises InputError for shards that do not fit the configuration,
    TrainingError when the loss is not finite or the last checkpoint could not be saved.
    """
    newest = from_first(lambda: checkpoint.newest(run), topology) if resume else None
    if newest:
        saved_config = config_from(newest[1]["config"], newest[0])
        config = replace(saved_config, **{name: getattr(config, name) for name in FREE})
    shards = ShardSet.of(config)
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
    about = {
        "config": config.as_dict(),
        "classes": classes,
        "pixels": vars(pixels),
        "size": split.size,
        "tars": [tar.sha256 for tar in shards.manifest.splits["train"]],
    }

    state = begin(config, len(classes), topology.device)
    begun_with: list[str] = []
    if newest:
        path, saved = newest
        if saved.get("tars") != about["tars"]:
            raise InputError(f"{config.shards} is not the shard set that {path} was trained on. Give that as --shards.")
        restore(state, saved, path)
    elif config.init:
        begun_with = checkpoint.start_from(
            state.model, Path(config.init), classes, conv_only=config.init_layers == "conv"
        )
    done = state.epoch * steps + state.step
    if config.compile:
        state.model.compile(mode="reduce-overhead" if uses_cuda_graphs(config, topology) else None)
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
    progress = (Progress if topology.first else Quiet)("training", config.epochs * steps, done)
    log = Log(run, steps, config.tensorboard, progress.print)
    if resume and topology.first:
        log.cut(done, state.epoch)
    whole_last = newest is not None and newest[0].name == "last.pt"
    if newest:
        why = "" if whole_last else f"; {run / 'last.pt'} is damaged or gone"
        where = (
            f"epoch {state.epoch + 1}, {done:,} steps done" if state.epoch < config.epochs else "all epochs are done"
        )
        progress.print(f"going on from {newest[0]}: {where}{why}")
    elif config.init:
        new = [name for name in state.model.layers() if name not in begun_with]
        progress.print(f"begins with {', '.join(begun_with)} of {config.init}; newly drawn: {', '.join(new) or 'none'}")
    saver = Saver(
        run=run,
        keep=config.keep,
        first=topology.first,
        about=about,
        say=progress.print,
        previous=done if whole_last else None,
        best_top1=max(state.top1s, default=-1.0),
    )
    loader = _batches(split, pixels, config, topology, data, state)
    window = metrics.Window(topology, loader, state.sums)
    told: set[int] = set()

    def end_epoch(model: AlexNet, train_loss: str) -> bool:
        """Evaluates the whole network and keeps the best; whether that was stopped, so that it is still to come."""
        if val is not None:
            share_buffers(model, topology)
            try:
                accuracy = evaluate(
                    [model],
                    val,
                    pixels,
                    topology,
                    crop=config.crop,
                    dtype=DTYPES[config.precision],
                    threads=config.threads,
                    stopped=stopped,
                )
            except Stopped:
                return True
            scores = {"val_top1": accuracy.top1, "val_top5": accuracy.top5, "val_damaged": accuracy.damaged}
            if topology.first:
                log.add({"epoch": state.epoch + 1, **scores})
            progress.print(
                f"epoch {state.epoch + 1:3d}  val top-1 {accuracy.top1:5.2f} %  top-5 {accuracy.top5:5.2f} %"
                + train_loss
                + damage_note(accuracy)
            )
            state.top1s.append(accuracy.top1)
        state.epoch, state.step = state.epoch + 1, 0
        if val is not None:
            saver.best(replace(state, model=model), accuracy.top1)
        return False

    def save(model: AlexNet, optimizer: torch.optim.Optimizer) -> None:
        state.sums = window.pending()
        saver.last(replace(state, model=model, optimizer=optimizer), done)

    with stop_signals() as stopped, progress, log, Ranks(topology):
        stop = False
        if state.step == steps:  # stopped in this epoch's evaluation
            whole = placed.whole()
            stop = end_epoch(whole[0], "")
            save(*whole)
        for batch in () if stop else watched(loader, topology):
            window.begin()
            # --- the step: nothing here waits for the device
            state.epoch, state.step = batch.rows.epoch, batch.rows.step
            done = state.epoch * steps + state.step
            set_learning_rates(state.optimizer, config, done / steps, state.top1s)
            torch.manual_seed(random.dropout_seed(config.seed, done, placed.dropout_rank))
            share = len(batch.labels) * data.world * steps / len(split)
            ended = state.step + 1 == steps
            is_logged = (done + 1) % config.log_every == 0 or ended
            scales.begin(is_logged)
            sums = train_step(placed.wrapped, state, batch, config, share)
            if placed.counts:
                window.add(*sums, len(batch.labels))
            state.step, done = state.step + 1, done + 1
            finite.look(sums[0], done, batch)
            progress.advance(done)

            # --- now and then: log, evaluate, save
            stop = any_stopped(stopped(), topology)
            if is_logged:
                line, stop = window.read(stopped())
                finite.check(batch)
                for sample in sorted(window.damaged.keys() - told):
                    progress.print(f"damaged, so its neighbour is seen instead: {window.damaged[sample]}")
                told.update(window.damaged)
                check_damage(window.damaged, len(split))
                _say_if_stuck(line["loss"], done, len(classes), progress)
                measured = scales.read()
                if topology.first:
                    log.add({"step": done, "epoch": state.epoch, **line, **measured})
                progress.update(done, _describe(line, state.epoch, config.epochs))
            started = perf_counter()
            if ended or stop or (config.save_every and done % config.save_every == 0):
                whole = placed.whole()  # once for all that looks at it: a network split over processes is sent for it
                if ended:
                    rate = f"  train loss {line['loss']:.3f}  {line['images_per_second']:,.0f} images/s"
                    stop = end_epoch(whole[0], rate) or stop
                save(*whole)
            window.pause(perf_counter() - started)
            if stop:
                break
        barrier(topology)
    saver.check()
    best, last = max(state.top1s, default=None), state.top1s[-1] if state.top1s else None
    return Result(str(run), state.epoch, best, last, *window.totals(), finished=state.epoch == config.epochs)


def _batches(
    split: Split, pixels: Pixels, config: TrainConfig, topology: Topology, data: Topology, state: State
) -> Loader:
    """This process' part, `data`, of every step from where `state` is."""
    rows = training_rows(
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
    )
    return Loader(
        split,
        pixels,
        rows,
        max_batch=-(-config.batch // data.world),
        crop=config.crop,
        device=topology.device,
        dtype=DTYPES[config.precision],
        threads=config.threads,
        whole_tars=config.order == "window",
    )


def begin(config: TrainConfig, classes: int, device: torch.device) -> State:
    """The state before the first step, its weights drawn from the seed; `config` as `resolve` returns it."""
    torch.manual_seed(random.weights_seed(config.seed))
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
    threads = config.threads or max(cores() // processes_here(topology.world), 1)
    return replace(config, crop=crop, precision=precision, threads=threads)


def best_precision(device: torch.device) -> str:
    """bf16 where the hardware has it; else fp16 on a GPU, fp32 on a CPU."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    has = torch.cpu.get_capabilities()
    return "bf16" if has.get("avx512_bf16") or has.get("amx_bf16") else "fp32"


def uses_cuda_graphs(config: TrainConfig, topology: Topology) -> bool:
    """Whether `compile` also replays the network's kernels as one graph, which spares the host their launches.

    On one GPU alone: torch's graphs hold gradients in memory that the next pass overwrites, so a step in parts is
    refused (pytorch issue 169545), and with DDP they have crashed in the evaluation (128218). Without `compile` nothing
    is captured: steps differ by an image, which a captured one could not. None of it is measured: no GPU was at hand.
    """
    return topology.device.type == "cuda" and topology.world == 1 and config.accumulate == 1


def _say_if_stuck(loss: float, step: int, classes: int, progress: Progress) -> None:
    if step >= STUCK_STEPS and loss > math.log(classes) - 0.01:
        progress.print(
            f"step {step}: the loss is still {loss:.3f}, that of guessing (ln {classes}). Likely causes: a learning "
            "rate too low or too high, or an unlucky start (try --seed 1); --arch bn starts reliably."
        )


def _describe(line: dict[str, float], epoch: int, epochs: int) -> str:
    return (
        f"epoch {epoch + 1}/{epochs}  loss {line['loss']:.3f}  top-1 {line['top1']:.1f} %  "
        f"{line['images_per_second']:,.0f} images/s  data wait {100 * line['data_wait']:.1f} %  "
        f"{line['peak_gib']:.1f} GiB"
    )
