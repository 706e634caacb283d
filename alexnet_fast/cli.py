"""The command line: parse, build a configuration, one call, print. Heavy imports stay inside the commands."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import Any

import click

from alexnet_fast import __version__
from alexnet_fast.config import RECIPES, TrainConfig, make_config
from alexnet_fast.errors import InputError, TrainingError


class Commands(click.Group):
    """Shows the errors that are meant for the user in a line or two, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (InputError, TrainingError, OSError) as error:
            if ctx.params["debug"]:
                raise
            if _is_first():
                click.echo(f"Error: {error}", err=True)
            ctx.exit(1 if isinstance(error, TrainingError) else 2)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="alexnet-fast")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def main(debug: bool) -> None:
    """Train AlexNet on ImageNet-style data, as fast as the hardware allows."""


json_option = click.option(
    "--json", "json_file", metavar="FILE", help="Also write the result as JSON; - for standard output."
)
path_type = click.Path(path_type=Path)


@main.command()
@click.option("--src", type=path_type, required=True, help="Folder with train/CLASS/* and val/CLASS/*, or CLASS/*.")
@click.option("--out", type=path_type, default="shards/imagenet", show_default=True, help="Folder of the shard set.")
@click.option("--encoding", type=click.Choice(["jpeg", "raw"]), default="jpeg", show_default=True)
@click.option("--quality", type=click.IntRange(1, 100), default=90, show_default=True, help="Of the JPEGs.")
@click.option("--size", type=click.IntRange(8, 4096), default=256, show_default=True, help="Stored side, pixels.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of the stored order.")
@click.option("--workers", type=click.IntRange(1), help="Processes.  [default: one a core]")
@click.option("--strict", is_flag=True, help="Exit with 1 when a file could not be read.")
@json_option
def shard(
    src: Path,
    out: Path,
    encoding: str,
    quality: int,
    size: int,
    seed: int,
    workers: int | None,
    strict: bool,
    json_file: str | None,
) -> None:
    """Resize images and write them as WebDataset tars with random access."""
    from alexnet_fast.console import Progress
    from alexnet_fast.sharding.sources import find_images
    from alexnet_fast.sharding.write import Options, write_shard_set

    source = find_images(src)
    total = sum(len(images) for images in source.splits.values())
    counts = ", ".join(f"{len(images):,} {split}" for split, images in source.splits.items())
    done = 0
    with Progress("sharding", total) as progress:
        progress.say(f"{counts} images of {len(source.classes):,} classes -> {out}")
        started = _clock()

        def count(images: int) -> None:
            nonlocal done
            done += images
            progress.update(done, f"{done:,}/{total:,} images  {done / (_clock() - started):,.0f} images/s")

        cores = len(os.sched_getaffinity(0))
        summary = write_shard_set(source, out, Options(encoding, quality, size, seed), workers or cores, count)
    result = {**asdict(summary), "images_per_second": summary.images / summary.seconds}
    text = (
        f"{summary.images:,} images in {summary.shards:,} tar{'s' * (summary.shards > 1)} in {summary.seconds:.1f} s "
        f"({result['images_per_second']:,.0f} images/s): {out}"
    )
    if summary.rejected:
        files = f"{summary.rejected:,} file{'s' * (summary.rejected > 1)}"
        text += f"\nLeft out {files} that could not be read: {out / 'rejected.jsonl'}"
    _print(text, result, json_file)
    if strict and summary.rejected:
        sys.exit(1)


@main.command()
@click.option("--gpus", type=click.IntRange(0), help="Number of GPUs; 0 trains on the CPU.  [required]")
@click.option("--shards", help="Folder of the shard set.  [default: shards/imagenet]")
@click.option("--recipe", type=click.Choice(list(RECIPES)), help="Where all settings come from.  [default: paper]")
@click.option("--arch", type=click.Choice(["paper", "onetower", "bn"]), help="Network.  [default: the recipe's]")
@click.option("--epochs", type=click.IntRange(1))
@click.option("--batch", type=click.IntRange(1), help="Images a step over all GPUs; scales the recipe's rate.")
@click.option("--lr", type=float, help="Peak learning rate, for this batch.")
@click.option("--precision", type=click.Choice(["auto", "bf16", "fp16", "fp32"]))
@click.option("--seed", type=click.IntRange(0, 2**32 - 1))
@click.option("--threads", type=click.IntRange(1), help="Decoding threads a process.")
@click.option(
    "--set", "settings", multiple=True, metavar="NAME=VALUE", help="Any other setting; --set help lists them."
)
@click.option("--run", type=path_type, help="Run folder.  [default: runs/RECIPE-DATE-TIME]")
@click.option("--resume", is_flag=True, help="Go on with --run from its last checkpoint, with its settings.")
@json_option
def train(
    gpus: int | None,
    recipe: str | None,
    settings: tuple[str, ...],
    run: Path | None,
    resume: bool,
    json_file: str | None,
    **overrides: Any,
) -> None:
    """Train a network and leave a run folder."""
    if "help" in settings:
        click.echo(_settings_help(recipe or "paper"))
        return
    if gpus is None:
        raise click.UsageError("Missing option '--gpus'.")
    given = {name: value for name, value in overrides.items() if value is not None} | parse_settings(settings)
    if resume and run is None:
        raise InputError("--resume needs --run: the folder of the run to go on with.")
    if resume and (changed := sorted({*given, *(["recipe"] if recipe else [])} - {"threads"})):
        raise InputError(
            f"--resume takes the run's own settings, so leave out {', '.join(changed)}. Only --threads may differ."
        )
    config = make_config(recipe or "paper", **given)

    from alexnet_fast.shardset import ShardSet
    from alexnet_fast.training import distributed, loop, runs

    distributed.check_gpus(min(gpus, 1) if distributed.started_by_torchrun() else gpus)
    folder = run or runs.default_folder(config)
    if resume:
        config = runs.reopen(folder, overrides["threads"])
    ShardSet(config.shards)
    if not resume and _is_first():
        runs.create(folder, config)
    result = distributed.run(loop.train, gpus, config, folder, resume)
    if not _is_first():
        return
    score = "" if result.best_top1 is None else f"best val top-1 {result.best_top1:.2f} %, "
    text = (
        f"{score}{result.images_per_second:,.0f} images/s, data wait {100 * result.data_wait:.2f} %, "
        f"{result.seconds:,.0f} s: {folder}"
    )
    if not result.finished:
        text = f"Stopped in epoch {result.epochs + 1}; saved. Go on with:\n" + _resume_line(gpus, folder) + "\n" + text
    body = {name: value for name, value in asdict(result).items() if name != "finished"}
    _print(text, body, json_file)


@main.command("eval")
@click.argument("checkpoints", nargs=-1, required=True, type=path_type, metavar="RUN_OR_CHECKPOINT...")
@click.option("--shards", help="Folder of the shard set.  [default: the one it was trained on]")
@click.option("--split", default="val", show_default=True)
@click.option(
    "--views", type=click.Choice(["1", "10"]), default="1", show_default=True, help="Crops averaged an image."
)
@click.option("--gpus", type=click.IntRange(0, 1), help="0: on the CPU.  [default: 1 where there is one]")
@json_option
def evaluate_command(
    checkpoints: tuple[Path, ...],
    shards: str | None,
    split: str,
    views: str,
    gpus: int | None,
    json_file: str | None,
) -> None:
    """Exact top-1 and top-5 accuracy; several networks: their predictions averaged."""
    from alexnet_fast.results.evaluate import evaluate_checkpoints

    started = _clock()
    accuracy = evaluate_checkpoints(list(checkpoints), shards, split, int(views), gpus)
    result = {**asdict(accuracy), "seconds": _clock() - started}
    text = (
        f"top-1 {accuracy.top1:.2f} %  top-5 {accuracy.top5:.2f} %  "
        f"({accuracy.images:,} images, {accuracy.views} view{'s' * (accuracy.views > 1)})"
    )
    _print(text, result, json_file)


@main.command()
@click.option("--out", type=path_type, default="runs/demo", show_default=True, help="Folder for all it makes.")
@json_option
def demo(out: Path, json_file: str | None) -> None:
    """Sample images -> shards -> train -> eval -> picture, on any machine, without a download."""
    from alexnet_fast.demo import run_demo

    result, text = run_demo(out)
    _print(text, result, json_file)


def parse_settings(settings: tuple[str, ...]) -> dict[str, Any]:
    """`NAME=VALUE` strings -> values of the types that TrainConfig states. Raises InputError."""
    kinds = {name: type(value) for name, value in TrainConfig().as_dict().items() if name != "recipe"}
    values: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or name not in kinds:
            raise InputError(f"--set {setting}: expected NAME=VALUE with one of the names {', '.join(kinds)}.")
        try:
            values[name] = {"true": True, "false": False}[text.lower()] if kinds[name] is bool else kinds[name](text)
        except (ValueError, KeyError) as error:
            expected = {bool: "true or false", int: "a whole number", float: "a number"}[kinds[name]]
            raise InputError(f"--set {setting}: {name} takes {expected}.") from error
    return values


def _settings_help(recipe: str) -> str:
    return "\n".join(f"{name}={value}" for name, value in RECIPES[recipe].as_dict().items() if name != "recipe")


def _resume_line(gpus: int, folder: Path) -> str:
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return (
            f"  the same torchrun command, with no more than: train --gpus {gpus} --run {quote(str(folder))} --resume"
        )
    return f"  alexnet-fast train --gpus {gpus} --run {quote(str(folder))} --resume"


def _is_first() -> bool:
    """The one process that prints: torchrun starts several."""
    return "TORCHELASTIC_RUN_ID" not in os.environ or os.environ["RANK"] == "0"


def _clock() -> float:
    from time import perf_counter

    return perf_counter()


def _print(text: str, result: dict[str, Any], json_file: str | None) -> None:
    """The summary for people and, where asked for, the same as JSON."""
    click.echo(text, err=json_file == "-")
    if json_file == "-":
        click.echo(json.dumps(result))
    elif json_file:
        Path(json_file).write_text(json.dumps(result) + "\n", encoding="utf-8")
