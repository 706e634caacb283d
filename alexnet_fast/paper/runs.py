"""`alexnet-fast paper`: a run folder a network and seed, trained and scored one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from time import monotonic, perf_counter, sleep
from typing import Any

import numpy as np
import torch

from alexnet_fast.config import RESUMABLE, TrainConfig, config_from
from alexnet_fast.distributed import devices, topology
from alexnet_fast.distributed.topology import Topology
from alexnet_fast.errors import InputError, TrainingError
from alexnet_fast.files import Taken, locked, save_npz
from alexnet_fast.inference.networks import open_network
from alexnet_fast.inference.predictions import predict_split
from alexnet_fast.loading.plan import steps_per_epoch
from alexnet_fast.loading.synthetic import synthetic
from alexnet_fast.paper.claims import NETWORKS, Claim, configure, plan
from alexnet_fast.paper.measures import BASE, Found, NetworkScores
from alexnet_fast.recipes import fitted
from alexnet_fast.report.insight import best_predictions
from alexnet_fast.report.record import read_run
from alexnet_fast.shards.reader import ShardSet
from alexnet_fast.text import duration
from alexnet_fast.training import checkpoint, placement, start
from alexnet_fast.training.settings import FILLED_IN, resolve
from alexnet_fast.training.state import initial_state
from alexnet_fast.training.step import DTYPES, train_step

SAME_RESULT = {*RESUMABLE, "init"} - {"shards"}
"""Settings in which the runs of a folder may differ from those given: `init` is where a file lies."""
LOCK = ".paper"
"""In the folder of a run, or of all: locked by the process that trains and scores it, or writes the table."""
POLL_SECONDS = 5.0
"""Between two checks of what other processes have finished."""
TIMED_STEPS = 3
OVERHEAD = 1.2
"""Time of a run divided by that of its steps, until one is measured: loader, evaluation, checkpoints, scoring."""


@dataclass(frozen=True)
class PaperRun:
    """One network trained with one seed. `split`: by whose images it is judged. `before`: the run from whose weights it
    starts."""

    network: str
    seed: int
    folder: Path
    config: TrainConfig
    split: str
    before: PaperRun | None

    @property
    def name(self) -> str:
        return f"{self.network} seed {self.seed}"

    @property
    def last(self) -> Path:
        """The checkpoint that is scored: as the network was at the end, not chosen by the images it is judged by."""
        return self.folder / "last.pt"

    @property
    def scores_file(self) -> Path:
        return self.folder / ("scores.npz" if self.split == "val" else f"scores-{self.split}.npz")

    @property
    def done(self) -> bool:
        """Trained and scored; only trained where others start from it."""
        return self.trained if NETWORKS[self.network].big else self.last.is_file() and self.scores_file.is_file()

    @property
    def trained(self) -> bool:
        return self.epochs_done == self.config.epochs

    @property
    def epochs_done(self) -> int:
        return int(checkpoint.load(self.last)["epoch"]) if self.last.is_file() else 0

    def score(self, gpus: int) -> None:
        network = open_network(self.last, gpus)
        one, ten = (
            predict_split([network], split=self.split, views=n, precision="fp32", keep=n == 10) for n in (1, 10)
        )
        labels, best = best_predictions(network, ShardSet.of(network.config).split("train"), most=len(one.labels))
        save_npz(
            self.scores_file,
            right1=one.right,
            right10=ten.right,
            train_right=labels == best,
            probabilities=ten.probabilities,
            labels=ten.known_labels,
        )

    def scores(self) -> NetworkScores:
        top1 = list(read_run(self.folder).training_top1().values())
        with np.load(self.scores_file) as arrays:
            return NetworkScores(**arrays, errors=100 - np.array(top1))


@dataclass(frozen=True)
class Experiment:
    """The claims to be tried, where the runs are, and with which settings: `given` to all networks. `big`: the second
    shard set. `split`: by whose images networks are judged."""

    out: Path
    claims: list[Claim]
    shards: str
    big: str | None = None
    given: dict[str, Any] = field(default_factory=dict)
    split: str = "val"

    def run(self, network: str, seed: int) -> PaperRun:
        start = NETWORKS[network].start
        before = self.run(start, seed) if start else None
        config = configure(network, seed, self.shards, self.big, self.given, str(before.last) if before else "")
        return PaperRun(network, seed, self.out / f"{network}-{seed}", config, self.split, before)

    def found(self) -> Found:
        """The scores of all runs that are done, now or before."""
        return {
            name: seeds
            for name, network in NETWORKS.items()
            if not network.big and (seeds := {run.seed: run.scores() for run in self.runs(name) if run.done})
        }

    def runs(self, network: str) -> Iterator[PaperRun]:
        """The runs that have a folder, finished or not, by seed."""
        seeds = (path.name.removeprefix(f"{network}-") for path in self.out.glob(f"{network}-*"))
        yield from (self.run(network, seed) for seed in sorted(int(seed) for seed in seeds if seed.isdecimal()))


def fit(experiment: Experiment, log: Callable[[str], None]) -> Experiment:
    """Returns the experiment with the batch that `train` would take for so many training images, unless one is given;
    logs what that changed and why. One batch for all networks, also for those of `big`."""
    config = experiment.run(BASE, 0).config
    config, change = fitted(config, experiment.given, ShardSet.of(config).manifest.images("train"))
    if not change:
        return experiment
    log(change)
    return replace(experiment, given={**experiment.given, "batch": config.batch})


def check(experiment: Experiment, gpus: int) -> None:
    """Raises InputError, before the first run, for shard sets, settings or old runs that do not fit."""
    if devices.started_by_torchrun():
        raise InputError("paper starts its processes itself: call it without torchrun, with --gpus N.")
    devices.check_gpus(gpus)
    base = experiment.run(BASE, 0).config
    placement.check_processes(base, max(gpus, 1))
    for location in filter(None, (experiment.shards, experiment.big)):
        if "val" not in ShardSet(location, base.cache, base.cache_bytes or None):
            raise InputError(f"{location} has no val split to judge networks by. Shard with --val-fraction 0.1.")
    ShardSet.of(base).split(experiment.split)
    for name, network in NETWORKS.items():
        for run in experiment.runs(name) if experiment.big or not network.big else ():
            old = config_from(checkpoint.load(run.last)["config"], run.last).as_dict() if run.last.is_file() else {}
            for setting, value in run.config.as_dict().items():
                filled_in = value == FILLED_IN.get(setting)
                if setting not in SAME_RESULT and old.get(setting, value) != value and not filled_in:
                    raise InputError(
                        f"{run.folder} was trained with {setting}={old[setting]}, not {value}: networks are only "
                        "compared with the same settings. Take another --out, or those settings."
                    )


@dataclass(frozen=True)
class Outcome:
    """`left_out`: planned runs that are not there, and why. `failed`: training failed in one. `stopped`: by Ctrl-C,
    so more are to come."""

    left_out: dict[str, str]
    failed: bool = False
    stopped: bool = False


def run_all(
    experiment: Experiment,
    *,
    seeds: int,
    gpus: int,
    budget: float | None,
    log: Callable[[str], None],
    save_table: Callable[[dict[str, str]], object],
) -> Outcome:
    """Trains and scores what is not there yet, and waits for what other processes have begun.

    `budget`: seconds from now; a run that would end later is left out. `save_table` is called after each run, with what
    was left out so far.
    """
    todo, left_out = _missing(experiment, seeds)
    failed = False
    clock = Clock(gpus, budget) if budget is not None else None
    if clock:
        log(_describe_plan(todo, clock))
    waiting, logged = todo, list[PaperRun]()
    while waiting:
        elsewhere: list[PaperRun] = []
        for run in waiting:
            if run.done:  # by another process, meanwhile
                continue
            if run.before in elsewhere:
                elsewhere.append(run)
            elif run.before and not run.before.trained:
                left_out[run.name] = f"{run.before.name}, which it starts from, is not there"
            elif clock and (why_not := clock.why_not(run)):
                left_out[run.name] = why_not
            else:
                try:
                    run.folder.mkdir(parents=True, exist_ok=True)
                    with locked(run.folder / LOCK):
                        log(f"{todo.index(run) + 1}/{len(todo)}  {run.name}: {NETWORKS[run.network].what}")
                        if not _train_and_score(run, gpus, clock):
                            return Outcome(left_out, failed, stopped=True)
                except Taken:
                    elsewhere.append(run)
                except TrainingError as error:
                    left_out[run.name], failed = str(error), True
                else:
                    save_table(left_out)
        if elsewhere:
            if elsewhere != logged:
                log(f"other processes are at {', '.join(run.name for run in elsewhere)}")
            sleep(POLL_SECONDS)
        waiting = logged = elsewhere
    made = {run.name for run in todo if run.done}  # by others too
    return Outcome({name: why for name, why in left_out.items() if name not in made}, failed)


def _missing(experiment: Experiment, seeds: int) -> tuple[list[PaperRun], dict[str, str]]:
    """The runs to be made, and why others cannot be."""
    todo, cannot = [], {}
    for network, seed in plan(experiment.claims, seeds):
        needs_big = NETWORKS[network].big or NETWORKS[network].start
        if needs_big and experiment.big is None:
            cannot[f"{network} seed {seed}"] = "needs --big SHARDS, to pre-train on"
        elif not (run := experiment.run(network, seed)).done:
            todo.append(run)
    return todo, cannot


def _train_and_score(run: PaperRun, gpus: int, clock: Clock | None) -> bool:
    """Begins the run or resumes it; returns whether it was not stopped."""
    estimated = clock.seconds(run) if clock else 0.0
    begun = perf_counter()
    if not run.trained and not topology.run(start.train, gpus, run.folder, run.config.as_dict(), True).finished:
        return False
    if not run.done:
        run.score(min(gpus, 1))
    if clock and estimated:  # there was training to do
        clock.learn(estimated, perf_counter() - begun)
    return True


class Clock:
    """Estimates how long runs take: by a few steps of each network, corrected by the runs that were made since.

    `budget`: seconds from now.
    """

    def __init__(self, gpus: int, budget: float) -> None:
        self.budget = budget
        self._gpus = gpus
        self._end = monotonic() + budget
        self._steps: dict[str, float] = {}
        self._estimated = self._took = 0.0

    def seconds(self, run: PaperRun) -> float:
        """For what is not done of the run yet."""
        if run.network not in self._steps:
            self._steps[run.network] = step_seconds(run.config, self._gpus)
        epochs = run.config.epochs - run.epochs_done
        steps = epochs * steps_per_epoch(len(ShardSet.of(run.config).split("train")), run.config.batch)
        return self._steps[run.network] * steps * self._factor

    def why_not(self, run: PaperRun) -> str:
        """Why the run does not fit into the budget; empty where it does."""
        needed, left = self.seconds(run), self._end - monotonic()
        if needed <= left:
            return ""
        return f"would take about {duration(needed)}, {duration(max(left, 0))} of the budget are left"

    def learn(self, estimated: float, took: float) -> None:
        """Corrects later estimates: a run took so long for which `seconds` had returned `estimated`."""
        self._estimated += estimated / self._factor
        self._took += took

    @property
    def _factor(self) -> float:
        return self._took / self._estimated if self._estimated else OVERHEAD


def step_seconds(config: TrainConfig, gpus: int) -> float:
    """Time of a training step of one process on synthetic images: the shortest of a few."""
    device = torch.device("cuda", 0) if gpus else torch.device("cpu")
    manifest = ShardSet.of(config).manifest
    config = resolve(config, manifest.size, Topology(0, max(gpus, 1), device))
    config = replace(config, batch=max(config.batch // max(gpus, 1), 1), init="")
    state = initial_state(config, len(manifest.classes), device)
    batches = synthetic(config, len(manifest.classes), DTYPES[config.precision], device)
    times = []
    for batch in islice(batches, TIMED_STEPS + 1):
        begun = perf_counter()
        loss, _ = train_step(state.model, state, batch, config, 1.0)
        loss.item()  # waits for the device
        times.append(perf_counter() - begun)
    return min(times[1:])


def _describe_plan(todo: list[PaperRun], clock: Clock) -> str:
    fits: list[PaperRun] = []
    total = 0.0
    for run in todo:
        can_start = run.before is None or run.before in fits or run.before.trained
        if can_start and total + (needed := clock.seconds(run)) <= clock.budget:
            fits.append(run)
            total += needed
    names = ", ".join(run.name for run in fits)
    return f"of {len(todo)} runs about {len(fits)} fit into {duration(clock.budget)}: {names}"
