"""The training of one run, from where it is to its end."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from alexnet_fast import random
from alexnet_fast.config import TrainConfig
from alexnet_fast.console import Progress
from alexnet_fast.distributed.heartbeat import Ranks
from alexnet_fast.distributed.stalls import watched
from alexnet_fast.distributed.topology import Topology, any_stopped, barrier, share_buffers
from alexnet_fast.errors import InputError
from alexnet_fast.evaluation.scoring import Accuracy, Member, Stopped, evaluate
from alexnet_fast.loading.batch import Batch
from alexnet_fast.loading.corruption import check_corruption
from alexnet_fast.loading.epochs import evaluated_side
from alexnet_fast.loading.plan import steps_per_epoch
from alexnet_fast.model.alexnet import AlexNet
from alexnet_fast.shards.reader import ShardSet
from alexnet_fast.signals import stop_signals
from alexnet_fast.training import checkpoint
from alexnet_fast.training.batches import Batches
from alexnet_fast.training.finite import FiniteCheck
from alexnet_fast.training.log import Log
from alexnet_fast.training.messages import evaluation_text, plateau_text, step_text, summary
from alexnet_fast.training.metrics import StepMeter
from alexnet_fast.training.optim import learning_rate, set_learning_rates
from alexnet_fast.training.placement import place
from alexnet_fast.training.replay import Replay, Results
from alexnet_fast.training.saver import Saver
from alexnet_fast.training.scales import LayerScales
from alexnet_fast.training.settings import replays_steps, resolve
from alexnet_fast.training.state import State, initial_state, restore
from alexnet_fast.training.step import DTYPES, set_dropout, train_step

STUCK_STEPS = 500
"""A loss still at ln(classes) after this many steps is called stuck."""


@dataclass(frozen=True)
class Result:
    """`epochs` and `steps`: done so far. `precision`: of training and evaluation. Top-1s in per cent; `data_wait` from
    0 to 1; `finished`: not stopped before the end."""

    run: str
    epochs: int
    steps: int
    precision: str
    best_top1: float | None
    top1: float | None
    images_per_second: float
    data_wait: float
    seconds: float
    finished: bool = True


class Trainer:
    """Trains from `state.position` to the last epoch's end. `config`: as `settings.resolve` returns it; `batches`:
    this process' batches of all steps to come; `placed`: its part of the network."""

    def __init__(
        self,
        topology: Topology,
        config: TrainConfig,
        shards: ShardSet,
        folder: Path,
        newest: tuple[Path, dict[str, Any]] | None,
    ) -> None:
        """Prepares to begin, or to resume from `newest`: a checkpoint's path and content. Raises InputError where
        settings, shard set and checkpoint do not fit each other."""
        self.topology, self.folder = topology, folder
        self.config = config = resolve(config, shards.manifest.size, topology)
        split, self.val = shards.split("train"), shards.split("val") if "val" in shards else None
        self.num_images, self.num_classes = len(split), len(shards.manifest.classes)
        if config.order == "random":
            split.check_room()
        steps = steps_per_epoch(self.num_images, config.batch)
        self.state = state = initial_state(config, self.num_classes, topology.device, steps)
        origin = _load(state, config, shards, newest)
        if config.compile:
            state.model.compile()
        self.placed = place(state.model, state.optimizer, topology, config)
        state.model, state.optimizer = self.placed.model, self.placed.optimizer
        _check_fit(config, self.val is not None, self.num_images // steps, self.placed.data.world_size)

        done = state.position.steps_done
        self.progress = Progress("training", config.epochs * steps, done, unit="step", quiet=not topology.first)
        self.progress.print(summary(config, state.model, shards, topology, steps, folder))
        if origin:
            self.progress.print(origin)
        self.log = Log(folder, steps, config.tensorboard, self.progress.print)
        if topology.first:
            self.log.cut(state.position)
        self.saver = Saver(
            folder=folder,
            keep=config.keep,
            first=topology.first,
            about={"config": config.as_dict(), **_about(shards, config.crop)},
            print_line=self.progress.print,
            previous=done if newest and newest[0].name == "last.pt" else None,
            best_top1=max(state.top1s, default=-1.0),
        )
        self.batches = Batches(split, config, state.position, self.placed.data, topology.device)
        is_local = (config.parallel == "data" and not config.sync_bn) or topology.world_size == 1
        self.finite = FiniteCheck(state.model, state.optimizer, config, is_local=is_local)
        self.scales = LayerScales(state.model, state.optimizer, topology, config)
        is_small = replays_steps(config, topology, -(-self.num_images // steps))
        self.replay = Replay(self._update, state.optimizer, self.progress.print) if is_small else None
        self.meter = StepMeter(topology, self.batches, state.sums)
        self._reported: set[int] = set()
        """Corrupt samples that were printed, by number."""

    def run(self) -> Result:
        """Trains, and saves at each epoch's end, when due, and when stopped by Ctrl-C or SIGTERM. Raises TrainingError
        when the loss is not finite, too many samples are corrupt, or the last checkpoint could not be saved."""
        config, topology = self.config, self.topology
        with stop_signals() as stopped, self.progress, self.log, Ranks(topology):
            # the evaluation that the last session was stopped in
            stop = self.state.position.is_epoch_end and not self._evaluate_and_save(stopped)
            for batch in () if stop else watched(self.batches, topology):
                self.meter.start()
                self.step(batch)
                stop = any_stopped(stopped(), topology)
                if self.state.position.is_log_due(config.log_every):
                    stop = self._log(batch, stopped())
                if stop or self.state.position.is_save_due(config.save_every):
                    with self.meter.paused():
                        stop = not self._evaluate_and_save(stopped) or stop
                if stop:
                    break
            barrier(topology)
        self.saver.check()
        return self._result()

    def step(self, batch: Batch) -> None:
        """Trains on the next batch. Nothing here waits for the device."""
        config, state, before = self.config, self.state, self.state.position
        after = before.next_step()
        progress = before.steps_done / before.steps_per_epoch
        set_learning_rates(state.optimizer, config, progress, state.top1s)
        if config.dropout_from and set_dropout(state.model, config, progress) and self.replay:
            self.replay.forget()
        torch.manual_seed(random.dropout_seed(config.seed, before.steps_done, self.placed.dropout_rank))
        self.scales.begin(after.is_log_due(config.log_every))
        update = self.replay.step if self.replay and not self.scales.measures else self._update
        loss, correct, is_finite = update(batch)
        if self.placed.counts:
            self.meter.add(loss, correct, len(batch.labels))
        state.position = after
        self.finite.add(loss, is_finite, after.steps_done, batch)
        self.progress.advance(after.steps_done)

    def _update(self, batch: Batch) -> Results:
        """Updates the weights once, and does nothing else; returns `train_step`'s results, and `FiniteCheck`'s."""
        steps = self.state.position.steps_per_epoch
        share = len(batch.labels) * self.placed.data.world_size * steps / self.num_images
        loss, correct = train_step(self.placed.wrapped, self.state, batch, self.config, share)
        return loss, correct, self.finite.of_update()

    def _log(self, batch: Batch, stopped: bool) -> bool:
        """Logs the steps since the last line, for which the device is waited for; returns whether any process was
        stopped. `batch`: the last one."""
        position = self.state.position
        line, stop = self.meter.read(stopped)
        done_before = (position.steps_done - 1) / position.steps_per_epoch  # the last step, by whose rate it is shown
        line["lr"] = learning_rate(self.config, done_before, self.state.top1s)
        self.finite.check(batch)
        for sample in sorted(self.meter.corrupt.keys() - self._reported):
            self.progress.print(f"corrupt, so its neighbour is seen instead: {self.meter.corrupt[sample]}")
        self._reported.update(self.meter.corrupt)
        check_corruption(self.meter.corrupt, self.num_images)
        if position.steps_done >= STUCK_STEPS and line["loss"] > math.log(self.num_classes) - 0.01:
            self.progress.print(
                f"step {position.steps_done}: the loss is still {line['loss']:.3f}, that of chance "
                f"(ln {self.num_classes}). Likely causes: a learning rate too low or too high, or an unlucky start "
                "(try --seed 1); --arch bn starts reliably."
            )
        scales = self.scales.read()
        if self.topology.first:
            self.log.add({"step": position.steps_done, "epoch": position.epoch, **line, **scales})
        self.progress.update(position.steps_done, step_text(self.config, position.epoch, line))
        return stop

    def _evaluate_and_save(self, stopped: Callable[[], bool]) -> bool:
        """Saves, at an epoch's end after evaluating; returns False where the evaluation was stopped."""
        network, optimizer = self.placed.whole()  # once: a network split over processes is sent for it
        is_done = self._end_epoch(network, stopped) if self.state.position.is_epoch_end else True
        self.state.sums = self.meter.pending()
        self.saver.save_last(replace(self.state, model=network, optimizer=optimizer))
        return is_done

    def _end_epoch(self, network: AlexNet, stopped: Callable[[], bool]) -> bool:
        """Evaluates the whole network, saves it if it is the best so far, and moves on to the next epoch; returns False
        where the evaluation was stopped."""
        state = self.state
        if self.val is None:
            state.position = state.position.next_epoch()
            return True
        share_buffers(network, self.topology)
        try:
            accuracy = evaluate(
                Member(network, self.config.crop, self.val.pixels.mean),
                self.val,
                self.topology,
                dtype=DTYPES[self.config.precision],
                threads=self.config.threads,
                stopped=stopped,
            )
        except Stopped:
            return False
        self._log_evaluation(accuracy)
        if rate_text := plateau_text(self.config, state.top1s, accuracy.top1):
            self.progress.print(rate_text)
        state.top1s.append(accuracy.top1)
        state.position = state.position.next_epoch()
        self.saver.save_best(network, state.position.epoch, accuracy.top1)
        return True

    def _log_evaluation(self, accuracy: Accuracy) -> None:
        epoch = self.state.position.epoch + 1
        scores = {"val_top1": accuracy.top1, "val_top5": accuracy.top5, "val_damaged": accuracy.corrupt}
        scores["val_images"] = accuracy.images
        if self.topology.first:
            self.log.add({"epoch": epoch, **scores})
        self.progress.print(evaluation_text(epoch, accuracy, self.config.precision, self.meter.line))

    def _result(self) -> Result:
        top1s, position = self.state.top1s, self.state.position
        best, last = max(top1s, default=None), top1s[-1] if top1s else None
        return Result(
            *(str(self.folder), position.epoch, position.steps_done, self.config.precision, best, last),
            *self.meter.totals(),
            finished=position.epoch == self.config.epochs,
        )


def _load(state: State, config: TrainConfig, shards: ShardSet, newest: tuple[Path, dict[str, Any]] | None) -> str:
    """Loads the checkpoint to resume from, or the weights to begin with; returns a line that says which, or nothing."""
    classes = shards.manifest.classes
    if newest:
        path, saved = newest
        if saved.get("tars") != _about(shards, config.crop)["tars"]:
            raise InputError(f"{config.shards} is not the shard set that {path} was trained on. Give that as --shards.")
        restore(state, saved, path)
        epoch, done = state.position.epoch, state.position.steps_done
        why = "" if path.name == "last.pt" else f"; {path.with_name('last.pt')} is corrupt or gone"
        where = f"epoch {epoch + 1}, {done:,} steps done" if epoch < config.epochs else "all epochs are done"
        return f"resuming from {path}: {where}{why}"
    if config.init:
        only_convolutions = config.init_layers == "conv"
        taken = checkpoint.start_from(state.model, Path(config.init), classes, conv_only=only_convolutions)
        new = [name for name in state.model.layers() if name not in taken]
        return f"begins with {', '.join(taken)} of {config.init}; newly drawn: {', '.join(new) or 'none'}"
    return ""


def _check_fit(config: TrainConfig, has_val: bool, smallest_step: int, num_parts: int) -> None:
    """Raises InputError where the schedule lacks validation images, or a step of `smallest_step` images has fewer than
    one for each of `accumulate`'s parts in each of `num_parts` processes."""
    if config.schedule == "plateau" and not has_val:
        raise InputError(
            f"{config.shards} has no val split, by which the schedule plateau sees that the top-1 stalls. "
            "Shard with --val-fraction 0.1, or give --set schedule=steps."
        )
    together = 2 if config.mixup or config.cutmix else 1  # both images of a pair are one process'
    if smallest_step // together < num_parts * config.accumulate:
        parts = f" of {config.accumulate} parts" * (config.accumulate > 1)
        raise InputError(
            f"batch {config.batch} is too small for {num_parts} process{'es' * (num_parts > 1)}{parts}. "
            "Give a larger --batch."
        )


def _about(shards: ShardSet, crop: int) -> dict[str, Any]:
    """Returns what each checkpoint holds of its shard set; `tars`: the sums by which it is known wherever it lies;
    `size`: side to which an image is resized before the crop."""
    manifest = shards.manifest
    sums = [tar.sha256 for tar in manifest.splits["train"]]
    return {
        "classes": manifest.classes,
        "pixels": vars(manifest.pixels),
        "size": evaluated_side(manifest, crop),
        "shards_path": shards.path,
        "rule": {"orient": manifest.orient, "background": manifest.background},
        "tars": sums,
    }
