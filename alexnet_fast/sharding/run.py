"""Runs `alexnet-fast shard`: from the values of its options to a shard set."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alexnet_fast.config import LEAST_CROP, default_crop
from alexnet_fast.console import Progress
from alexnet_fast.environment import cores
from alexnet_fast.errors import InputError
from alexnet_fast.sharding.output import Output, check_apart, open_output
from alexnet_fast.sharding.plan import Options
from alexnet_fast.sharding.pool import DaskWorkers, Pool, Processes
from alexnet_fast.sharding.rule import WHITE, hex_colour
from alexnet_fast.sharding.selection import read_class_file, split_off, take_classes
from alexnet_fast.sharding.sources import find_images, ilsvrc
from alexnet_fast.sharding.summary import Contents, describe
from alexnet_fast.sharding.write import Part, Summary, finish_shard_set, write_shard_set
from alexnet_fast.shards.format import FULL, SQUARE

SMALLEST = 8
"""Pixels of a side that images are resized to."""


def shard(
    src: Path,
    outs: list[str],
    *,
    layout: str | None,
    image_key: str | None,
    label_key: str | None,
    encoding: str,
    quality: int,
    shape: str,
    size: int,
    budget: int | None,
    keep: bool,
    orient: bool,
    background: str,
    classes: Path | None,
    val_fraction: float | None,
    split: str | None,
    seed: int,
    workers: int | None,
    scheduler: str | None,
    part: tuple[int, int] | None,
    check_md5: bool,
    labels: Path | None,
    dry_run: bool,
) -> Summary | Contents:
    """Makes the shard set that the options of `alexnet-fast shard` describe; with `dry_run` only prints, and returns,
    what the source was taken for. Raises InputError."""
    if keep and encoding == "raw":
        raise InputError("--keep stores JPEGs as they are; leave it out with --encoding raw.")
    if (budget is None) == (encoding == "mixed"):
        raise InputError("--encoding mixed and --budget go together: --encoding mixed --budget 100GB.")
    _check_shape(shape, size, encoding)
    fraction = _fraction(val_fraction, split)
    check_apart(src, outs)
    colour = _colour(background)
    with Progress("sharding", 1) as progress:
        if check_md5:
            progress.print(f"checked: {', '.join(ilsvrc.check_md5(src))}")
        source = find_images(src, layout, labels, image_key=image_key, label_key=label_key)
        if classes is not None:
            source = take_classes(source, read_class_file(classes))
        if fraction is not None:
            source = split_off(source, fraction, seed)
        contents = describe(source)
        _show(contents, source.classes, size, [] if dry_run else outs, progress)
        if dry_run:
            return contents

        def pool() -> Pool:
            return DaskWorkers(scheduler) if scheduler else Processes(workers or cores())

        output = open_output(outs)
        rule = orient or None, None if colour == WHITE else colour
        kept = keep or (encoding == "jpeg" and not size)  # images that stay as they are
        options = Options(encoding, quality, size, seed, kept, budget, *rule, None if shape == SQUARE else shape)
        with _permitted(output, src):
            return write_shard_set(source, output, options, pool, part=Part(*part) if part else None, progress=progress)


def _check_shape(shape: str, size: int, encoding: str) -> None:
    """Raises InputError where images of that shape cannot be stored so."""
    if shape == FULL and encoding == "mixed":
        raise InputError("--encoding mixed is for --shape square. Take jpeg or raw for all of the images.")
    if size < SMALLEST and (size or shape == SQUARE):
        hint = "Give that or more." if size else "Images stay as they are with --size 0 --shape full."
        raise InputError(f"--size is {size}; the least is {SMALLEST}. {hint}")


def _colour(background: str) -> str:
    """Returns --background as #rrggbb. Raises InputError."""
    try:
        return hex_colour(background)
    except ValueError as error:
        raise InputError(f"--background {background} is no colour: give a name such as black, or #rrggbb.") from error


def _show(contents: Contents, classes: list[str], size: int, outs: list[str], progress: Progress) -> None:
    """Prints what the source was taken for, with the ids of its classes, and `outs`, where it goes; and what keeps the
    set, of images of `size` pixels, from being trained on or measured with."""
    first, *more = contents.lines(classes)
    for line in [f"{first} -> {' '.join(outs)}" if outs else first, *more]:
        progress.print(line)
    if "train" in contents.splits and "val" not in contents.splits:
        progress.print("no val split, on which to measure how well a network does: --val-fraction 0.1 splits one off")
    if size and default_crop(size) < LEAST_CROP:
        way = f"only with train --crop {LEAST_CROP}" if size >= LEAST_CROP else "at no crop"
        progress.print(
            f"--size {size} can be trained on {way}: AlexNet needs {LEAST_CROP} px, and the default crop is 7/8 of the "
            "size; --size 74 is the smallest for it"
        )


def _fraction(val_fraction: float | None, split: str | None) -> float | None:
    """Returns the share of the training images that becomes val; None where no split is asked for."""
    if split and val_fraction is not None:
        raise InputError("--split half is --val-fraction 0.5; give one of the two.")
    fraction = 0.5 if split == "half" else val_fraction
    if fraction is not None and not 0 < fraction < 1:
        raise InputError(f"--val-fraction is {fraction}; it must lie between 0 and 1: 0.1 for 10 %.")
    return fraction


def finish(outs: list[str]) -> Summary:
    """Writes the manifest of a set whose parts are all there. Raises InputError."""
    output = open_output(outs)
    with _permitted(output):
        return finish_shard_set(output)


@contextmanager
def _permitted(output: Output, src: Path | None = None) -> Iterator[None]:
    """Raises InputError where the block, or a worker, lacks the permission to write the output or to read the source,
    perhaps only since a moment ago."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        why = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
        if src and error.filename and Path(error.filename).is_relative_to(src):
            raise InputError(
                f"{src} cannot be read ({why}). Make it readable and run the same command again, which keeps finished "
                "tars."
            ) from error
        raise InputError(
            f"{output} cannot be written to ({why}). Make the folder and what is in it writable and run the same "
            "command again, which keeps finished tars; or choose another --out."
        ) from error
