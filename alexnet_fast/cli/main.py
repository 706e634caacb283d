"""The command line: parse, build a configuration, one call, print. Heavy imports stay inside the commands."""

from __future__ import annotations

import logging
import os
import platform
import re
import sys
from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import Any

import click

from alexnet_fast import __version__, signals
from alexnet_fast.cli import paper, results
from alexnet_fast.cli.options import BytesType, cache_options, json_option, parse_settings, path_type, show
from alexnet_fast.config import CHOICES
from alexnet_fast.environment import cores, environment, limit_threads
from alexnet_fast.errors import InputError, LostProcessError, TrainingError
from alexnet_fast.recipes import RECIPES, fitted, make_config


class Commands(click.Group):
    """Shows the errors that are meant for the user in a line or two, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (InputError, TrainingError, OSError) as error:
            if ctx.params["debug"]:
                raise
            if os.environ.get("LOCAL_RANK", "0") == "0":  # once a machine, each of which may lack something
                click.echo(f"Error: {error}", err=True)
            if isinstance(error, LostProcessError):
                sys.stderr.flush()
                os._exit(1)  # at once: torch's threads may go on waiting for what the other one was to send
            ctx.exit(1 if isinstance(error, TrainingError) else 2)


@click.group(
    cls=Commands,
    invoke_without_command=True,  # for --version
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.option("--version", is_flag=True, help="Show the version and exit.")
@click.option("--verbose", is_flag=True, help="With --version: commit, packages, driver, GPUs and processor.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def main(ctx: click.Context, version: bool, verbose: bool, debug: bool) -> None:
    """Train AlexNet on ImageNet-style data, as fast as the hardware allows."""
    if version:
        click.echo(f"alexnet-fast, version {__version__}")
        if verbose:
            click.echo(_environment_text())
        ctx.exit()
    if verbose:
        raise click.UsageError("--verbose goes with --version.")
    if ctx.invoked_subcommand is None:
        raise click.UsageError("Missing command.")
    if platform.system() != "Linux":
        raise InputError(
            "alexnet-fast runs on Linux, for which NVIDIA's DALI has wheels. Elsewhere use its Docker image or, on "
            "Windows, WSL 2 (wsl --install)."
        )
    limit_threads()
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns of a home that may not be written


# Of sharding/sources.py, which is not imported for --help.
LAYOUTS = ["folders", "ilsvrc", "kaggle", "whole", "parquet", "webdataset"]


class PartType(click.ParamType[tuple[int, int]]):
    """`I/N` as two numbers."""

    name = "I/N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        match = re.fullmatch(r"(\d+)/(\d+)", str(value))
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            self.fail(f"{value!r} is not I/N with I from 1 to N.", param, ctx)
        return int(match[1]), int(match[2])


@main.command()
@click.option("--src", type=path_type, help="Images: class folders, ImageNet's archives, parquet files, WebDataset.")
@click.option(
    "--out",
    "outs",
    multiple=True,
    default=["shards/imagenet"],
    show_default=True,
    help="Folder of the shard set, or a URL (s3://...). Several folders: its tars are spread over their disks.",
)
@click.option("--layout", type=click.Choice(LAYOUTS), help="What --src is.  [default: recognised by looking]")
@click.option(
    "--encoding",
    type=click.Choice(["jpeg", "raw", "mixed"]),
    default="jpeg",
    show_default=True,
    help="mixed: JPEG, and as many training images raw as --budget holds.",
)
@click.option("--budget", type=BytesType(), help="Of mixed: what the whole set may take on disk, 100GB or 93GiB.")
@click.option("--quality", type=click.IntRange(1, 100), default=90, show_default=True, help="Of the JPEGs.")
@click.option("--size", type=click.IntRange(8, 4096), default=256, show_default=True, help="Stored side, pixels.")
@click.option("--keep", is_flag=True, help="Store a JPEG that is a square of that size already as it is.")
@click.option("--classes", type=path_type, metavar="FILE", help="Only these classes: a text file, a class id a line.")
@click.option("--val-fraction", type=float, help="Split this share of every class off as val.")
@click.option(
    "--split", type=click.Choice(["half"]), help="half: as --val-fraction 0.5, the paper's way for Fall 2009."
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of order and split.")
@click.option("--workers", type=click.IntRange(1), help="Processes.  [default: one a core]")
@click.option("--scheduler", metavar="ADDRESS", help="Run on the Dask cluster at tcp://HOST:PORT.")
@click.option("--part", type=PartType(), help="Write every N-th tar, from the I-th: for a batch array.")
@click.option("--finish", is_flag=True, help="Write the manifest of a set whose parts are all there.")
@click.option("--check-md5", is_flag=True, help="First compare the official archives with their known sums.")
@click.option("--strict", is_flag=True, help="Exit with 1 when a file could not be read.")
@json_option
def shard(
    src: Path | None,
    outs: tuple[str, ...],
    workers: int | None,
    scheduler: str | None,
    part: tuple[int, int] | None,
    finish: bool,
    strict: bool,
    json_file: str | None,
    **making: Any,
) -> None:
    """Resize images and write them as WebDataset tars with random access.

    A run that was stopped is gone on with by the same command: finished tars are kept.
    """
    with signals.nothing_begun():
        from alexnet_fast.sharding import pool

        if not (finish or scheduler):
            pool.start_server()  # first: what it imports and compiles takes longest
        from alexnet_fast.sharding import run

    if finish:
        if src or part or scheduler:
            raise InputError("--finish takes --out alone.")
        summary = run.finish(list(outs))
    elif src is None:
        raise click.UsageError("Missing option '--src'.")
    else:
        try:
            summary = run.shard(src, list(outs), workers=workers, scheduler=scheduler, part=part, **making)
        except KeyboardInterrupt:
            click.echo("\nStopped; finished tars are kept. Go on with the same command.", err=True)
            sys.exit(signals.INTERRUPTED)
    if not summary.complete:
        click.echo(f"{summary.shards:,} tars are there; other parts are to come: {outs[0]}", err=json_file == "-")
    rate = summary.written / summary.seconds
    result = {
        "images": summary.images,
        "rejected": summary.rejected,
        "shards": summary.shards,
        "seconds": summary.seconds,
        "images_per_second": rate,
    }
    work = f"in {summary.seconds:.1f} s ({rate:,.0f} images/s)" if summary.written else "were there already"
    text = f"{summary.images:,} images in {summary.shards:,} tar{'s' * (summary.shards > 1)} {work}: {outs[0]}"
    if summary.rejected:
        files = f"{summary.rejected:,} file{'s' * (summary.rejected > 1)}"
        text += f"\nLeft out {files} that could not be read: {outs[0]}/rejected.jsonl"
    show(text, result, json_file)
    if strict and summary.rejected:
        sys.exit(1)


@main.command("verify")
@click.argument("shards", metavar="SHARDS")
@click.option("--quick", is_flag=True, help="Only sizes and indexes; the images are not read.")
@click.option("--workers", type=click.IntRange(1), help="Processes.  [default: one a core]")
@json_option
def verify_command(shards: str, quick: bool, workers: int | None, json_file: str | None) -> None:
    """Read a shard set again and name every damaged file and sample."""
    from alexnet_fast.console import Progress
    from alexnet_fast.shards.reader import ShardSet
    from alexnet_fast.shards.verify import verify

    if "://" in shards:
        raise InputError(f"verify reads a folder: copy {shards} first. Training compares each tar it fetches anyway.")
    manifest = ShardSet(shards).manifest
    total = sum(map(manifest.images, manifest.splits))
    with Progress("verifying", total) as progress:
        damaged = verify(Path(shards), quick, workers or cores(), progress.counter("images"))
    lines = [f"{damage.file}: {damage.sample + ': ' * bool(damage.sample)}{damage.problem}" for damage in damaged]
    checked = "sizes and indexes of " if quick else ""
    text = f"{len(lines):,} problems: {shards}" if lines else f"{checked}{total:,} samples are whole: {shards}"
    show("\n".join([*lines, text]), {"ok": not lines, "damaged": [asdict(d) for d in damaged]}, json_file)
    if lines:
        sys.exit(1)


@main.command()
@click.option("--gpus", type=click.IntRange(0), help="Number of GPUs; 0: the CPU.  [default: all there are]")
@click.option("--shards", help="Folder of the shard set, or its URL.  [default: shards/imagenet]")
@cache_options
@click.option("--recipe", type=click.Choice(list(RECIPES)), help="Where all settings come from.  [default: paper]")
@click.option("--arch", type=click.Choice(list(CHOICES["arch"])), help="Network.  [default: the recipe's]")
@click.option("--epochs", type=click.IntRange(1))
@click.option("--batch", type=click.IntRange(1), help="Images a step over all GPUs; scales the recipe's rate.")
@click.option("--lr", type=float, help="Peak learning rate, for this batch.")
@click.option(
    "--order", type=click.Choice(list(CHOICES["order"])), help="window: few tars at a time.  [default: random]"
)
@click.option("--precision", type=click.Choice(list(CHOICES["precision"])))
@click.option("--compile", is_flag=True, default=None, help="torch.compile the network.")
@click.option("--accumulate", type=click.IntRange(1), help="Parts a step is computed in, to save memory.")
@click.option(
    "--parallel",
    type=click.Choice(list(CHOICES["parallel"])),
    help="What several processes share: the batch, the paper's net, or both.  [default: data]",
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1))
@click.option("--threads", type=click.IntRange(1), help="Decoding threads a process.")
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
@click.option("--resume", is_flag=True, help="Go on with --run from its newest checkpoint, or begin it.")
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
    if resume and run is None:
        raise InputError("--resume needs --run: the folder of the run to go on with.")
    overrides |= {"recipe": recipe, **parse_settings(settings)}
    given = {name: value for name, value in overrides.items() if value is not None}
    config = make_config(**{"recipe": "paper", **given})

    with signals.start_up():
        from alexnet_fast.distributed import devices, topology
        from alexnet_fast.training import run_folder

        if gpus is None:
            gpus = devices.usable_gpus()
            if _is_first():
                click.echo(f"--gpus {gpus}" + ("" if gpus else f": {devices.why_no_gpu()}"), err=True)
        folder = run or run_folder.default_folder(config)
        try:
            result = topology.run(run_folder.train_in, gpus, folder, given, resume)
        except KeyboardInterrupt:
            click.echo("\nStopped at once. What was saved before is whole.", err=True)
            sys.exit(signals.INTERRUPTED)
    if not _is_first():
        return
    score = "" if result.best_top1 is None else f"best val top-1 {result.best_top1:.2f} %, "
    rate = (
        f"{result.images_per_second:,.0f} images/s, data wait {100 * result.data_wait:.2f} %, {result.seconds:,.0f} s"
    )
    text = f"{score}{rate if result.seconds else 'no step was left to do'}: {folder}"
    if not result.finished:
        text = f"Stopped in epoch {result.epochs + 1}; saved. Go on with:\n" + _resume_line(gpus, folder) + "\n" + text
    body = {name: value for name, value in asdict(result).items() if name != "finished"}
    show(text, body, json_file)


@main.command("bench")
@click.option("--shards", help="Folder of the shard set.  [default: 300 sample images, drawn for it]")
@click.option("--gpus", type=click.IntRange(0, 1), help="0: on the CPU.  [default: 1 where there is one]")
@click.option("--recipe", type=click.Choice(list(RECIPES)), help="Where all settings come from.  [default: paper]")
@click.option("--arch", type=click.Choice(list(CHOICES["arch"])), help="Network.  [default: the recipe's]")
@click.option("--batch", type=click.IntRange(1), help="Images a step.  [default: what train takes for that set]")
@click.option("--crop", type=click.IntRange(1), help="Side of the network's input, pixels.  [default: 7/8 of stored]")
@click.option("--precision", type=click.Choice(list(CHOICES["precision"])))
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


@main.command()
@click.option("--out", type=path_type, default="runs/demo", show_default=True, help="Folder for all it makes.")
@click.option("--epochs", type=click.IntRange(1), default=12, show_default=True, help="Fewer: less time, worse.")
@json_option
def demo(out: Path, epochs: int, json_file: str | None) -> None:
    """Sample images -> shards -> train -> eval -> report, on any machine, without a download."""
    from alexnet_fast.demo.run import run_demo

    result, text = run_demo(out, epochs=epochs)
    show(text, result, json_file)


for command in (*results.COMMANDS, paper.paper_command):
    main.add_command(command)


@main.command("report")
@click.argument("run_folders", nargs=-1, required=True, type=path_type, metavar="RUN...")
@click.option("--out", type=path_type, metavar="FILE.html", help="The page.  [default: RUN/report.html, of one run]")
@json_option
def report_command(run_folders: tuple[Path, ...], out: Path | None, json_file: str | None) -> None:
    """One HTML page about a run, or comparing several, that needs no network."""
    if out is None and len(run_folders) > 1:
        raise InputError("a comparison of several runs needs --out FILE.html.")

    from alexnet_fast.report.page import write_report

    result = write_report(list(run_folders), out or run_folders[0] / "report.html")
    show("\n".join([*(f"Left out {note}" for note in result["left_out"]), result["report"]]), result, json_file)


def _environment_text() -> str:
    body = environment()
    versions = [f"  {name}=={version}" for name, version in body.pop("packages").items()]
    body["gpus"] = ", ".join(body["gpus"])
    facts = [f"{name}: {value or 'none'}" for name, value in body.items() if name not in ("alexnet_fast", "command")]
    return "\n".join([*facts, "packages:", *versions])


def _settings_help(recipe: str) -> str:
    return "\n".join(f"{name}={value}" for name, value in RECIPES[recipe].as_dict().items() if name != "recipe")


def _resume_line(gpus: int, folder: Path) -> str:
    command = "torchrun, as before, with: " if "TORCHELASTIC_RUN_ID" in os.environ else "alexnet-fast "
    return f"  {command}train --gpus {gpus} --run {quote(str(folder))} --resume"


def _is_first() -> bool:
    """The one process that prints: torchrun starts several."""
    return "TORCHELASTIC_RUN_ID" not in os.environ or os.environ["RANK"] == "0"
