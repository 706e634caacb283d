"""Settings of a recipe compared: each trained with several seeds, one process a core, and a table with intervals.

    python -m tools.recipes RUNS --shards SET [--recipe fast] [--epochs 10] [--seeds 3] ["dropout=0 lr=0.05" ...]

Every argument is a candidate: settings that differ from the recipe's. The recipe as it is comes first; `plain` is the
plain torch loop of tools/plain_training.py. RUNS holds a run folder for each candidate and seed; the same command with
more candidates or seeds trains only those, and resumes what was stopped. Accuracies are those of the last epoch, never
of the best; minutes are of training alone until the first epoch's end at --target per cent.

Choose by a set whose val split is of the training images (`alexnet-fast shard --src .../train --layout classes
--val-fraction 0.2`), and take the set with the real validation images once, for the chosen candidate.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import click

from alexnet_fast.environment import cores, environment
from alexnet_fast.files import Taken, locked
from alexnet_fast.paper.statistics import Estimate, between_seeds, over_seeds
from alexnet_fast.report.record import read_run

RECIPE, PLAIN = "recipe", "plain"
"""The candidates that are no settings: the recipe as it is, the plain loop."""


@dataclass(frozen=True)
class Trial:
    """One candidate with one seed."""

    candidate: str
    seed: int
    folder: Path
    epochs: int

    @property
    def is_done(self) -> bool:
        return len(self.curve()) == self.epochs

    def curve(self) -> list[tuple[float, float]]:
        """Returns the seconds of training and the validation top-1, per cent, of each epoch's end so far."""
        log = self.folder / "log.jsonl"
        if not log.is_file():
            return []
        if self.candidate == PLAIN:
            return [(line["seconds"], line["val_top1"]) for line in map(json.loads, log.read_text().splitlines())]
        run = read_run(self.folder)
        epochs, seconds = run.column("epoch"), run.seconds
        return [(float(seconds[epochs < line["epoch"]].sum()), line["val_top1"]) for line in run.evaluations]

    def command(self, recipe: str, shards: str) -> list[str]:
        python = [sys.executable, "-m"]
        if self.candidate == PLAIN:
            what = ["--epochs", str(self.epochs), "--seed", str(self.seed)]
            return [*python, "tools.plain_training", shards, str(self.folder), *what]
        settings = [f"--set={setting}" for setting in self.candidate.split() if setting != RECIPE]
        run = ["--run", str(self.folder), "--resume", "--gpus", "0", "--threads", "1", "--seed", str(self.seed)]
        what = ["--recipe", recipe, "--shards", shards, "--epochs", str(self.epochs), *settings]
        return [*python, "alexnet_fast", "train", *run, *what]


@click.command()
@click.argument("runs", type=click.Path(path_type=Path))
@click.argument("candidates", nargs=-1)
@click.option("--shards", required=True)
@click.option("--recipe", default="fast", show_default=True)
@click.option("--epochs", default=10, show_default=True)
@click.option("--seeds", default=3, show_default=True)
@click.option("--target", default=75.0, show_default=True, help="Top-1 whose minutes are shown, per cent.")
@click.option(
    "--processes", type=int, default=cores, help="Trainings at a time, each on one core.  [default: one a core]"
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the record.")
def main(
    runs: Path,
    candidates: tuple[str, ...],
    shards: str,
    recipe: str,
    epochs: int,
    seeds: int,
    target: float,
    processes: int,
    out: Path | None,
) -> None:
    names = list(dict.fromkeys([RECIPE, *(" ".join(sorted(text.split())) for text in candidates)]))
    trials = [
        Trial(name, seed, runs / f"{name.replace(' ', '_').replace('/', ':')}-{seed}", epochs)
        for seed in range(seeds)
        for name in names
    ]
    free: SimpleQueue[int] = SimpleQueue()
    for core in sorted(os.sched_getaffinity(0))[:processes]:
        free.put(core)

    def train(trial: Trial) -> None:
        core = free.get()
        try:
            _train(trial, trial.command(recipe, shards), core)
        finally:
            free.put(core)

    with ThreadPoolExecutor(processes) as pool:
        list(pool.map(train, trials))
    done = [trial for trial in trials if trial.is_done]
    click.echo("\n".join(table(names, done, target)))
    if out:
        out.mkdir(parents=True)
        rows = [{"candidate": trial.candidate, "seed": trial.seed, "curve": trial.curve()} for trial in done]
        about = {"shards": Path(shards).name, "recipe": recipe, "epochs": epochs, **environment()}
        (out / "numbers.json").write_text(json.dumps({**about, "runs": rows}, indent=1) + "\n")


def _train(trial: Trial, command: list[str], core: int) -> None:
    """Trains what is left of it on that core, unless another process does."""
    trial.folder.mkdir(parents=True, exist_ok=True)
    try:
        with locked(trial.folder / ".trial"), (trial.folder / "output.txt").open("a") as output:
            if trial.is_done:
                return
            if trial.candidate == PLAIN:  # it begins anew
                (trial.folder / "log.jsonl").unlink(missing_ok=True)
            environ = os.environ | {"OMP_NUM_THREADS": "1"}
            pinned = [shutil.which("taskset") or "taskset", "-c", str(core)]
            result = subprocess.run([*pinned, *command], env=environ, stdout=output, stderr=output, check=False)
    except Taken:
        return
    if result.returncode:
        click.echo(f"{trial.candidate}, seed {trial.seed}: exit {result.returncode}, see {trial.folder}/output.txt")
    elif trial.is_done:
        click.echo(f"{trial.candidate}, seed {trial.seed}: {trial.curve()[-1][1]:.2f} %")


def table(names: list[str], trials: list[Trial], target: float) -> list[str]:
    """Returns a line a candidate: top-1, its mean over seeds with Student's interval; how much that is more than the
    recipe's; minutes until `target`."""
    curves = {name: [trial.curve() for trial in trials if trial.candidate == name] for name in names}
    last = {name: [curve[-1][1] for curve in each] for name, each in curves.items()}
    lines = []
    for name, own in last.items():
        if not own:
            continue
        line = f"{name:50s} {sum(own) / len(own):6.2f}"
        if len(own) > 1:
            line += f" {_interval(over_seeds(own))}"
        of_recipe = last.get(RECIPE, [])
        if name != RECIPE and of_recipe and len(own) + len(of_recipe) > 2:
            difference = between_seeds(own, of_recipe)
            line += f"  {difference.value:+.2f} {_interval(difference)}"
        times = [next((seconds / 60 for seconds, top1 in curve if top1 >= target), None) for curve in curves[name]]
        reached = [minutes for minutes in times if minutes is not None]
        if len(reached) == len(times):
            line += f"  {target:g} % after {sum(reached) / len(reached):.1f} min"
        lines.append(line)
    return lines


def _interval(estimate: Estimate) -> str:
    return f"[{estimate.low:.2f}, {estimate.high:.2f}]"


if __name__ == "__main__":
    main()
