"""The training of one run, from where it is to its end."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from alexnet_fast import random
from alexnet_fast.config import TrainConfig
from alexnet_fast.console import Progress
from alexnet_fast.distributed.heartbeat import Ranks
from alexnet_fast.distributed.stalls import watched
from alexnet_fast.distributed.topology import Topology, any_stopped, barrier, share_buffers
from alexnet_fast.evaluation.scoring import Accuracy, Member, Stopped, corruption_note, evaluate
from alexnet_fast.loading.corruption import check_corruption
from alexnet_fast.loading.loader import Batch, Loader
from alexnet_fast.model.alexnet import AlexNet
from alexnet_fast.shards.reader import Split
from alexnet_fast.signals import stop_signals
from alexnet_fast.training.finite import FiniteCheck
from alexnet_fast.training.log import Log
from alexnet_fast.training.metrics import StepMeter
from alexnet_fast.training.optim import set_learning_rates
from alexnet_fast.training.placement import Placement
from alexnet_fast.training.saver import Saver
from alexnet_fast.training.scales import LayerScales
from alexnet_fast.training.state import State
from alexnet_fast.training.step import DTYPES, train_step

STUCK_STEPS = 500
"""A loss still at ln(classes) after this many steps is called stuck."""


@dataclass(frozen=True)
class Result:
    """`epochs`: done so far. Top-1s in per cent; `data_wait` from 0 to 1; `finished`: not stopped before the end."""

    run: str
    epochs: int
    best_top1: float | None
    top1: float | None
    images_per_second: float
    data_wait: float
    seconds: float
    finished: bool = True


@dataclass(kw_only=True)
class Trainer:
    """Trains from `state.position` to the last epoch's end. `start.make_trainer` makes one."""

    topology: Topology
    config: TrainConfig
    """From `settings.resolve`."""
    folder: Path
    num_images: int
    """Of the training split."""
    num_classes: int
    val: Split | None
    state: State
    placed: Placement
    loader: Loader
    finite: FiniteCheck
    scales: LayerScales
    meter: StepMeter
    log: Log
    saver: Saver
    progress: Progress
    _reported: set[int] = field(default_factory=set)
    """Corrupt samples that were printed, by number."""

    def run(self) -> Result:
        """Trains, and saves at each epoch's end, when due, and when stopped by Ctrl-C or SIGTERM.

        Raises TrainingError when the loss is not finite, too many samples are corrupt, or the last checkpoint could
        not be saved.
        """
        config, topology = self.config, self.topology
        with stop_signals() as stopped, self.progress, self.log, Ranks(topology):
            # the evaluation that the last session was stopped in
            stop = self.state.position.is_epoch_end and not self._evaluate_and_save(stopped)
            for batch in () if stop else watched(self.loader, topology):
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
        set_learning_rates(state.optimizer, config, before.steps_done / before.steps_per_epoch, state.top1s)
        torch.manual_seed(random.dropout_seed(config.seed, before.steps_done, self.placed.dropout_rank))
        self.scales.begin(after.is_log_due(config.log_every))
        share = len(batch.labels) * self.placed.data.world_size * before.steps_per_epoch / self.num_images
        sums = train_step(self.placed.wrapped, state, batch, config, share)
        if self.placed.counts:
            self.meter.add(*sums, len(batch.labels))
        state.position = after
        self.finite.add(sums[0], after.steps_done, batch)
        self.progress.advance(after.steps_done)

    def _log(self, batch: Batch, stopped: bool) -> bool:
        """Logs the steps since the last line, for which the device is waited for; returns whether any process was
        stopped. `batch`: the last one."""
        position = self.state.position
        line, stop = self.meter.read(stopped)
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
        text = (
            f"epoch {position.epoch + 1}/{self.config.epochs}  loss {line['loss']:.3f}  top-1 {line['top1']:.1f} %  "
            f"{line['images_per_second']:,.0f} images/s  data wait {100 * line['data_wait']:.1f} %  "
            f"{line['peak_gib']:.1f} GiB"
        )
        self.progress.update(position.steps_done, text)
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
        state.top1s.append(accuracy.top1)
        state.position = state.position.next_epoch()
        self.saver.save_best(network, state.position.epoch, accuracy.top1)
        return True

    def _log_evaluation(self, accuracy: Accuracy) -> None:
        epoch, line = self.state.position.epoch + 1, self.meter.line
        scores = {"val_top1": accuracy.top1, "val_top5": accuracy.top5, "val_damaged": accuracy.corrupt}
        if self.topology.first:
            self.log.add({"epoch": epoch, **scores})
        self.progress.print(
            f"epoch {epoch:3d}  val top-1 {accuracy.top1:5.2f} %  top-5 {accuracy.top5:5.2f} %"
            + (f"  train loss {line['loss']:.3f}  {line['images_per_second']:,.0f} images/s" if line else "")
            + corruption_note(accuracy)
        )

    def _result(self) -> Result:
        top1s, epochs = self.state.top1s, self.state.position.epoch
        best, last = max(top1s, default=None), top1s[-1] if top1s else None
        return Result(str(self.folder), epochs, best, last, *self.meter.totals(), finished=epochs == self.config.epochs)
