"""The commands that train: train, bench, demo."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from alexnet_fast import signals
from alexnet_fast.cli.options import (
    GpusType,
    cache_options,
    check_settings,
    gpus_option,
    json_option,
    path_type,
    settings_help,
    show,
    with_settings,
)
from alexnet_fast.config import CHOICES
from alexnet_fast.environment import environment
from alexnet_fast.errors import InputError
from alexnet_fast.recipes import RECIPES, fitted, make_config
from alexnet_fast.text import byte_text, number_of

if TYPE_CHECKING:
    from alexnet_fast.training.trainer import Result

precision_option = click.option(
    "--precision",
    type=click.Choice(list(CHOICES["precision"])),
    help="What the network computes in.  [default: auto: bf16 where the hardware has it]",
)


@click.command("train")
@click.option("--gpus", type=GpusType(0), help="Number of GPUs; 0: the CPU.  [default: all there are]")
@click.option("--shards", help="Folder of the shard set, or its URL.  [default: shards/imagenet]")
@cache_options
@click.option("--recipe", type=click.Choice(list(RECIPES)), help="Where all settings come from.  [default: paper]")
@click.option("--arch", type=click.Choice(list(CHOICES["arch"])), help="Network.  [default: the recipe's]")
@click.option("--epochs", type=click.IntRange(1), help="Passes over the training images.  [default: the recipe's]")
@click.option(
    "--batch",
    type=click.IntRange(1),
    help="Images a step over all GPUs; scales the recipe's rate.  [default: the recipe's, less for few images]",
)
@click.option("--lr", type=float, help="Peak learning rate, for this batch.  [default: the recipe's]")
@click.option(
    "--order", type=click.Choice(list(CHOICES["order"])), help="window: few tars at a time.  [default: random]"
)
@precision_option
@click.option("--compile", is_flag=True, default=None, help="torch.compile the network.")
@click.option("--accumulate", type=click.IntRange(1), help="Parts a step is computed in, to save memory.  [default: 1]")
@click.option(
    "--parallel",
    type=click.Choice(list(CHOICES["parallel"])),
    help="What several processes share: the batch, the paper's net, or both.  [default: data]",
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="Of all random numbers.  [default: 0]")
@click.option(
    "--threads",
    type=click.IntRange(1),
    help="Decoding threads a process.  [default: the cores divided by the processes]",
)
@click.option(
    "--set", "settings", multiple=True, metavar="NAME=VALUE", help="Any other setting; --set help lists them."
)
@click.option(
    "--save-every",
    type=click.IntRange(0),
    metavar="STEPS",
    help="Also save inside an epoch.  [default: only at its end]",
)
@click.option("--run", type=path_type, help="Run folder.  [default: runs/RECIPE-DATE-TIME]")
@click.option("--resume", is_flag=True, help="Resume --run from its newest checkpoint, or begin it.")
@json_option
def train_command(
    gpus: int | None,
    recipe: str | None,
    settings: tuple[str, ...],
    run: Path | None,
    resume: bool,
    json_file: str | None,
    **overrides: Any,
) -> None:
    """Train a network and leave a run folder."""
    values = tuple(setting for setting in settings if setting != "help")
    given = with_settings({"recipe": recipe, **overrides}, values)
    config = make_config(**{"recipe": "paper", **given})  # wrong ones are found before torch is imported
    if "help" in settings:
        show(settings_help(config), config.as_dict(), json_file)
        return
    if resume and run is None:
        raise InputError("--resume needs --run: the folder of the run to resume.")
    if not resume:  # where the run's own settings are not known here
        check_settings(given, [config])

    with signals.start_up():
        from alexnet_fast.distributed import devices, topology
        from alexnet_fast.training import run_folder, start

        chosen = devices.choose_gpus(gpus)
        if gpus is None and _is_first():
            click.echo(f"--gpus {chosen}" if chosen else f"training on the CPU: {devices.why_no_gpu()}", err=True)
        folder = run or run_folder.default_folder(recipe or "paper")
        try:
            result = topology.run(start.train, chosen, folder, given, resume)
        except KeyboardInterrupt:
            click.echo("\nStopped at once. What was saved before is whole.", err=True)
            sys.exit(signals.INTERRUPTED)
    if _is_first():
        body = {name: value for name, value in asdict(result).items() if name != "finished"}
        show(_result_text(result, chosen, folder), body, json_file)


def _result_text(result: Result, gpus: int, folder: Path) -> str:
    """Returns the result as text; of a run that was stopped, with the command that resumes it."""
    score = "" if result.best_top1 is None else f"best val top-1 {result.best_top1:.2f} % ({result.precision}), "
    rate = (
        f"{result.images_per_second:,.0f} images/s, data wait {100 * result.data_wait:.2f} %, {result.seconds:,.0f} s"
    )
    run, steps = quote(str(folder)), number_of(result.steps, "step")
    text = f"{score}{rate if result.seconds else f'{steps} done'}: {folder}"
    if result.finished:
        evaluate = "" if result.top1 is None else f"alexnet-fast eval {run} --views 10; "  # without a val split
        return f"{text}\n{_kept_text(folder)}\nNext: {evaluate}alexnet-fast report {run}"
    program = "torchrun, as before, with: " if "TORCHELASTIC_RUN_ID" in os.environ else "alexnet-fast "
    command = f"{program}train --gpus {gpus} --run {run} --resume"
    return f"Stopped in epoch {result.epochs + 1}, {steps} done; saved. Resume with:\n  {command}\n{text}"


def _kept_text(folder: Path) -> str:
    """Returns which checkpoints a run keeps, and the disk that they take."""
    files = sorted(folder.glob("*.pt"))
    size = byte_text(sum(path.stat().st_size for path in files))
    return f"Checkpoints kept: {', '.join(path.name for path in files)} ({size})"


def _is_first() -> bool:
    """Returns whether this is the process that prints; torchrun starts several."""
    return "TORCHELASTIC_RUN_ID" not in os.environ or os.environ["RANK"] == "0"


@click.command("bench", short_help="How fast each stage of training is here, and what to change.")
@click.option("--shards", help="Folder of the shard set.  [default: 300 sample images, drawn for it]")
@gpus_option
@click.option("--recipe", type=click.Choice(list(RECIPES)), help="Where all settings come from.  [default: paper]")
@click.option("--arch", type=click.Choice(list(CHOICES["arch"])), help="Network.  [default: the recipe's]")
@click.option("--batch", type=click.IntRange(1), help="Images a step.  [default: what train takes for that set]")
@click.option("--crop", type=click.IntRange(1), help="Side of the network's input, pixels.  [default: 7/8 of stored]")
@precision_option
@click.option("--threads", type=click.IntRange(1), help="Decoding threads.  [default: one a core]")
@click.option("--turns", type=click.IntRange(1), default=5, show_default=True, help="Measurements of each stage.")
@click.option("--picture", type=path_type, metavar="FILE.png", help="Also draw the rates as bars.")
@json_option
def bench_command(
    shards: str | None,
    gpus: int | None,
    recipe: str | None,
    turns: int,
    picture: Path | None,
    json_file: str | None,
    **overrides: Any,
) -> None:
    """How fast each stage of training is here, which is the limit, and what to change."""
    if picture is not None and (picture.suffix != ".png" or not picture.absolute().parent.is_dir()):
        raise InputError(f"--picture {picture} must end in .png and lie in a folder that is there.")
    config = make_config(recipe or "paper", shards=shards, **overrides)

    from alexnet_fast.bench.run import bench, bench_samples
    from alexnet_fast.shards.reader import ShardSet

    if shards:
        config, change = fitted(config, {"shards": shards, **overrides}, ShardSet.of(config).manifest.images("train"))
        if change:
            click.echo(change, err=True)
    report = (bench if shards else bench_samples)(config, gpus, turns)
    if picture is not None:
        report.draw(picture)
    show(report.as_text(), {**report.as_dict(), "environment": environment()}, json_file)


@click.command("demo", short_help="All of it on drawn images, in minutes, without a download.")
@click.option("--out", type=path_type, default="runs/demo", show_default=True, help="Folder for all it makes.")
@click.option("--epochs", type=click.IntRange(1), default=8, show_default=True, help="Fewer: less time, worse.")
@json_option
def demo_command(out: Path, epochs: int, json_file: str | None) -> None:
    """Sample images -> shards -> train -> eval -> report, on any machine, without a download."""
    from alexnet_fast.demo.run import run_demo

    result, text = run_demo(out, epochs=epochs)
    show(text, result, json_file)


COMMANDS = (train_command, bench_command, demo_command)
