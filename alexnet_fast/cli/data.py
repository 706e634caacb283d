"""The commands that make and check shard sets: shard, verify."""

from __future__ import annotations

import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from alexnet_fast import signals
from alexnet_fast.cli.options import BytesType, check_alone, check_ignored, json_option, path_type, show
from alexnet_fast.environment import cores
from alexnet_fast.errors import InputError

if TYPE_CHECKING:
    from alexnet_fast.sharding.write import Summary

LAYOUTS = ["folders", "splits", "classes", "tars", "ilsvrc", "kaggle", "whole", "parquet", "webdataset"]
"""The layouts of sharding/sources/, which is not imported for --help."""


class PartType(click.ParamType[tuple[int, int]]):
    """Converts `I/N` to two numbers."""

    name = "I/N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        match = re.fullmatch(r"(\d+)/(\d+)", str(value))
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            self.fail(f"{value!r} is not I/N with I from 1 to N.", param, ctx)
        return int(match[1]), int(match[2])


@click.command("shard", short_help="Resize images and write them as a shard set. Begin here.")
@click.option("--src", type=path_type, help="Images: class folders, ImageNet's archives, parquet files, WebDataset.")
@click.option(
    "--out",
    "outs",
    multiple=True,
    default=["shards/imagenet"],
    show_default=True,
    help="Folder of the shard set, or a URL (s3://...). Several folders: its tars are spread over their disks.",
)
@click.option(
    "--layout",
    type=click.Choice(LAYOUTS),
    help="What --src is; splits: train/, val/ and test/ hold class folders; classes: all its folders are classes, "
    "whatever their names; tars: tars of class folders.  [default: recognised by looking]",
)
@click.option(
    "--labels", type=path_type, metavar="FILE", help="Table of file names and labels: CSV, TSV, JSON or text."
)
@click.option("--image-key", metavar="NAME", help="What holds the image: a table's column; of WebDataset jpg, png, ...")
@click.option(
    "--label-key",
    metavar="NAME",
    help="What holds the label: a column; of WebDataset cls, txt, a field of json.",
)
@click.option(
    "--encoding",
    type=click.Choice(["jpeg", "raw", "mixed"]),
    default="jpeg",
    show_default=True,
    help="mixed: JPEG, and as many training images raw as --budget holds.",
)
@click.option("--budget", type=BytesType(), help="Of mixed: what the whole set may take on disk, 100GB or 93GiB.")
@click.option("--quality", type=click.IntRange(1, 100), default=90, show_default=True, help="Of the JPEGs.")
@click.option(
    "--shape",
    type=click.Choice(["square", "full"]),
    default="square",
    show_default=True,
    help="Of the stored images. square: the centre; full: all of the image.",
)
@click.option(
    "--size",
    type=click.IntRange(0, 4096),
    default=256,
    show_default=True,
    help="Stored shorter side, pixels. 0, with --shape full: images are not resized, and JPEGs stored as they are.",
)
@click.option("--keep", is_flag=True, help="Store a JPEG that has that shape and size already as it is.")
@click.option("--orient", is_flag=True, help="Turn images as their EXIF orientation says.  [default: ignore it]")
@click.option(
    "--background", default="white", show_default=True, metavar="COLOUR", help="Behind transparent images: or #rrggbb."
)
@click.option("--classes", type=path_type, metavar="FILE", help="Only these classes, in this order: one a line.")
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
@click.option("--dry-run", is_flag=True, help="Only print what --src is taken for; writes nothing.")
@click.option("--strict", is_flag=True, help="Exit with 1 when a file could not be read.")
@json_option
def shard_command(
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

    A run that was stopped is resumed by the same command: finished tars are kept.
    """
    with signals.nothing_begun():
        from alexnet_fast.sharding import pool

        if not (finish or scheduler or making["dry_run"]):
            pool.start_server()  # first: what it imports and compiles takes longest
        from alexnet_fast.sharding import run
        from alexnet_fast.sharding.summary import Contents

    if finish:
        check_alone("--finish", {"outs", "strict", "json_file"})
        summary = run.finish(list(outs))
    elif src is None:
        raise click.UsageError("Missing option '--src'.")
    else:
        if scheduler:
            check_ignored("--scheduler", {"workers"})
        if making["encoding"] == "raw":
            check_ignored("--encoding raw", {"quality"})
        try:
            with signals.termination_raised():
                made = run.shard(src, list(outs), workers=workers, scheduler=scheduler, part=part, **making)
        except KeyboardInterrupt as stop:
            click.echo("\nStopped; finished tars are kept. Resume with the same command.", err=True)
            sys.exit(signals.TERMINATED if isinstance(stop, signals.Terminated) else signals.INTERRUPTED)
        if isinstance(made, Contents):
            show("Nothing was written: --dry-run.", made.as_dict(), json_file)
            return
        summary = made
    if not summary.complete:
        click.echo(f"{summary.shards:,} tars are there; other parts are to come: {outs[0]}", err=json_file == "-")
    show(*_summary(summary, outs[0]), json_file)
    if strict and summary.rejected:
        sys.exit(1)


def _summary(summary: Summary, out: str) -> tuple[str, dict[str, Any]]:
    """Returns the result as text and for JSON."""
    from alexnet_fast.sharding.summary import account

    rate = summary.written / summary.seconds
    result = {
        "images": summary.images,
        "rejected": summary.rejected,
        "shards": summary.shards,
        "seconds": summary.seconds,
        "images_per_second": rate,
        "enlarged": summary.enlarged,
        "not_kept": summary.not_kept,
    }
    work = f"in {summary.seconds:.1f} s ({rate:,.0f} images/s)" if summary.written else "were there already"
    text = f"{summary.images:,} images in {summary.shards:,} tar{'s' * (summary.shards > 1)} {work}: {out}"
    text = "\n".join([text, *account(summary.source)])
    if summary.rejected:
        files = f"{summary.rejected:,} file{'s' * (summary.rejected > 1)}"
        text += f"\nLeft out {files} that could not be read: {out}/rejected.jsonl"
    return "\n".join([text, *_converted_lines(summary)]), result


def _converted_lines(summary: Summary) -> list[str]:
    """Returns what became of images that one might have expected otherwise, where there are any."""
    lines = []
    if summary.enlarged:
        lines.append(f"Enlarged {summary.enlarged:,} of {summary.images:,} images, whose shorter side is below --size")
    if summary.not_kept is not None:
        kept = summary.images - sum(summary.not_kept.values())
        reasons = "; ".join(f"{count:,} {why}" for why, count in summary.not_kept.items())
        lines.append(f"Kept {kept:,} JPEGs as they are" + f"; made anew: {reasons}" * bool(reasons))
    return lines


@click.command("verify")
@click.argument("shards", metavar="SHARDS")
@click.option("--quick", is_flag=True, help="Only sizes and indexes; the images are not read.")
@click.option("--workers", type=click.IntRange(1), help="Processes.  [default: one a core]")
@json_option
def verify_command(shards: str, quick: bool, workers: int | None, json_file: str | None) -> None:
    """Read a shard set again and name every corrupt file and sample."""
    from alexnet_fast.console import Progress
    from alexnet_fast.shards.reader import ShardSet
    from alexnet_fast.shards.verify import verify

    if "://" in shards:
        raise InputError(f"verify reads a folder: copy {shards} first. Training compares each tar it fetches anyway.")
    manifest = ShardSet(shards).manifest
    total = sum(map(manifest.images, manifest.splits))
    with Progress("verifying", total) as progress:
        found = verify(Path(shards), quick, workers or cores(), progress.counter("images"))
    lines = [f"{one.file}: {one.sample + ': ' * bool(one.sample)}{one.problem}" for one in found]
    checked = "sizes and indexes of " if quick else ""
    text = f"{len(lines):,} problems: {shards}" if lines else f"{checked}{total:,} samples are whole: {shards}"
    show("\n".join([*lines, text]), {"ok": not lines, "damaged": [asdict(one) for one in found]}, json_file)
    if lines:
        sys.exit(1)


COMMANDS = (shard_command, verify_command)
