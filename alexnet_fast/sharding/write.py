"""Writes a shard set: its tars, each an independent job of a worker, then indexes and manifest."""

from __future__ import annotations

import errno
import io
import json
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any, NoReturn

import numpy as np

from alexnet_fast.console import Progress
from alexnet_fast.errors import InputError
from alexnet_fast.sharding.budget import estimate_raw_share
from alexnet_fast.sharding.listing import Source
from alexnet_fast.sharding.output import Output, locked, one_at_a_time
from alexnet_fast.sharding.plan import PLAN, Options, Plan, begin, begun_plan, jobs, make_plan
from alexnet_fast.sharding.pool import Pool, run
from alexnet_fast.sharding.records import SplitRecords, read_records, shared_images
from alexnet_fast.sharding.statistics import PixelSums
from alexnet_fast.sharding.tars import Name, missing_tars, read_record, record_name, write_tar
from alexnet_fast.shards.format import (
    MANIFEST,
    SQUARE,
    WORK,
    Manifest,
    index_name,
    tar_name,
)
from alexnet_fast.shards.sidecars import side_files
from alexnet_fast.text import byte_text

REJECTED = "rejected.jsonl"


@dataclass(frozen=True)
class Summary:
    """`images`, `rejected` and `shards` count what is in the output; `written` the images of this run.
    `complete`: the manifest is there; with it `source`, what it says of the source, `enlarged`, images smaller than the
    set's, and with --keep `not_kept`, JPEGs that were made anew, by reason, or None."""

    images: int
    rejected: int
    shards: int
    written: int
    seconds: float
    complete: bool
    source: dict[str, Any] = field(default_factory=dict)
    enlarged: int = 0
    not_kept: dict[str, int] | None = None


@dataclass(frozen=True)
class Part:
    """Part `index` (from 1) of `count`: every `count`-th tar of the plan."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def write_shard_set(
    source: Source,
    output: Output,
    options: Options,
    pool: Callable[[], Pool],
    *,
    part: Part | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Writes what is missing of `source` in `output`, and the manifest once all of it is there.

    The same call resumes a run that was killed at any moment: finished tars are kept. Files that are no readable
    images are left out and listed in `rejected.jsonl`.
    Raises InputError when the output holds something else or is being written to, the disk is full, the budget of a
    mixed set is too small, a worker was killed twice over one tar, or no image of a split could be read.
    """
    started = perf_counter()
    progress = progress or Progress("", 1, quiet=True)
    plan = make_plan(source, options)
    try:
        finished = _is_finished(output, plan)
        with nullcontext() if finished else locked(output, str(part) if part else None):
            if finished or _is_finished(output, plan):  # by a run that ended just before this one had the lock
                output.delete(WORK)
                return _summary(output, 0, started)
            if part is None:
                output.tidy()
            with one_at_a_time(output):
                plan = begin(plan, output, partial(estimate_raw_share, source, plan, progress.print))
            names = list(plan.tar_names())
            mine = names if part is None else names[part.index - 1 :: part.count]
            written = _write_tars(source, plan, output, mine, pool, progress)
            if output.size(MANIFEST) is None and missing_tars(output, names):
                return Summary(written, 0, len(mine), written, perf_counter() - started, complete=False)
            _finish(output, plan)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(_disk_full(plan, output)) from error
        raise
    return _summary(output, written, started)


def finish_shard_set(output: Output) -> Summary:
    """Writes the manifest of a set whose parts are all there; raises InputError naming the tars that are not."""
    started = perf_counter()
    if output.size(MANIFEST) is None:
        plan = begun_plan(output)
        missing = missing_tars(output, list(plan.tar_names()))
        if missing:
            some = ", ".join(tar_name(*name) for name in missing[:5])
            raise InputError(
                f"{len(missing):,} of {sum(plan.tars.values()):,} tars of {output} are missing: {some}"
                f"{' ...' if len(missing) > 5 else ''}. Run the parts that write them (--part I/N), or all with --src."
            )
        _finish(output, plan)
    output.delete(WORK)
    return _summary(output, 0, started)


def _write_tars(
    source: Source, plan: Plan, output: Output, names: list[Name], pool: Callable[[], Pool], progress: Progress
) -> int:
    """Writes those of the tars that are missing; returns the number of images read."""
    missing = missing_tars(output, names)
    if len(missing) < len(names):
        progress.print(f"going on: {len(names) - len(missing):,} of {len(names):,} tars are there already")
    images = sum(plan.images_in(*name) for name in missing)
    progress.begin(images)
    if missing:
        count = progress.counter("images")
        todo = jobs(source, plan, output, set(missing))
        run(pool(), write_tar, todo, finished=count, moved=partial(count, 0), print_line=progress.print)
    return images


def _finish(output: Output, plan: Plan) -> None:
    """Writes indexes, side files and the manifest, in this order: a folder that has one is complete."""
    with one_at_a_time(output):
        if output.read(PLAN) is not None:
            _write_manifest(output, plan)


def _write_manifest(output: Output, plan: Plan) -> None:
    """Does so from the records of all tars. Raises InputError when a split has no image."""
    options, shape = plan.options, plan.options.shape or SQUARE
    found: dict[str, SplitRecords] = {}
    counts: dict[str, list[int]] = {}
    not_kept = Counter[str]()
    rejected: list[str] = []
    for split, number_of_tars in plan.tars.items():
        records = read_records(output, split, number_of_tars, plan.images[split], shape)
        lines = [{"split": split, "path": path, "reason": reason} for path, reason in records.rejected]
        rejected += [json.dumps(line, ensure_ascii=False) + "\n" for line in lines]
        if not records.tars:
            _refuse_empty(output, plan, rejected, lines[0])
        labels = records.index["label"]
        counts[split] = np.bincount(labels[labels >= 0], minlength=len(plan.classes)).tolist()
        file = io.BytesIO()
        np.save(file, records.index)
        del labels
        records.index = np.empty(0, records.index.dtype)  # 24 bytes an image or more are free
        output.write(index_name(split), file.getvalue())
        for tar in records.empty:  # DALI refuses an empty tar
            output.delete(tar.file)
            output.delete(tar.file.replace(".tar", ".idx"))
        not_kept.update(records.not_kept)
        found[split] = records
    manifest = Manifest(
        encoding=options.encoding,
        shape=shape,
        size=options.size,
        quality=options.quality if options.encoding != "raw" else None,
        raw_share=plan.raw_share,
        keep=options.keep,
        not_kept=dict(sorted(not_kept.items())) if options.keep else None,
        orient=options.rule.orient,
        background=options.rule.background,
        seed=options.seed,
        plan=plan.fingerprint(),
        classes=plan.classes,
        splits={split: records.tars for split, records in found.items()},
        counts=counts,
        enlarged={split: records.enlarged for split, records in found.items()},
        source=_source(plan, found),
        pixels=(found["train"].pixels if "train" in found else PixelSums()).statistics(),
    )
    if rejected:
        output.write(REJECTED, "".join(rejected).encode("utf-8", "surrogateescape"))
    else:
        output.delete(REJECTED)
    for name, data in side_files(manifest).items():
        output.write(name, data)
    output.write(MANIFEST, manifest.to_json().encode())
    output.delete(WORK)


def _refuse_empty(output: Output, plan: Plan, rejected: list[str], first: dict[str, str]) -> NoReturn:
    """Raises InputError for the split of `first`, of which no image could be read; the next run tries them again."""
    for place in plan.tar_names():
        if read_record(output, *place).rejected:
            output.delete(record_name(*place))
    output.write(REJECTED, "".join(rejected).encode("utf-8", "surrogateescape"))
    raise InputError(
        f"no image of the split {first['split']} could be read; the first was {first['path']} ({first['reason']}). "
        f"{output}/{REJECTED} lists them all."
    )


def _source(plan: Plan, found: dict[str, SplitRecords]) -> dict[str, Any]:
    """Returns what the manifest says of the source: what it was taken for, and what became of its files."""
    return {
        **(plan.source or {}),
        "samples": sum(tar.samples for records in found.values() for tar in records.tars),
        "rejected": sum(len(records.rejected) for records in found.values()),
        "shared": shared_images(found),
    }


def _is_finished(output: Output, plan: Plan) -> bool:
    """Returns whether the manifest is there. Raises InputError when it is that of another shard set."""
    text = output.read(MANIFEST)
    if text is None:
        return False
    try:
        same = Manifest.from_json(text.decode()).plan == plan.fingerprint()
    except (ValueError, KeyError, TypeError):
        same = False
    if not same:
        raise InputError(f"{output} already holds a shard set. Choose another --out, or delete that one first.")
    return True


def _summary(output: Output, written: int, started: float) -> Summary:
    """Returns the summary of a finished set."""
    manifest = Manifest.from_json((output.read(MANIFEST) or b"").decode())
    tars = [tar for split in manifest.splits.values() for tar in split]
    rejected = (output.read(REJECTED) or b"").count(b"\n")
    images = sum(tar.samples for tar in tars)
    return Summary(
        images=images,
        rejected=rejected,
        shards=len(tars),
        written=written,
        seconds=perf_counter() - started,
        complete=True,
        source=manifest.source,
        enlarged=sum(manifest.enlarged.values()),
        not_kept=manifest.not_kept,
    )


def _disk_full(plan: Plan, output: Output) -> str:
    """Returns the message for a full disk, with the bytes still needed: by the finished tars or, before the first, by
    the size of typical JPEGs."""
    names = list(plan.tar_names())
    missing = set(missing_tars(output, names))
    sizes = [output.size(tar_name(*name)) or 0 for name in names if name not in missing]
    guess = sum(images * (0.4 + 2.6 * plan.raw_share_of(split)) for split, images in plan.images.items())
    guess = plan.options.size**2 * guess + 2048 * sum(plan.images.values())
    average = sum(sizes) / len(sizes) if sizes else guess / len(names)
    free = output.free()
    needed = f"about {byte_text(average * len(missing))} are needed for the {len(missing):,} tars to come"
    there = "" if free is None else f", {byte_text(free)} are free"
    return (
        f"no space left in {output}: {needed}{there}. Make room and run the same command again: "
        f"the {len(sizes):,} finished tars are kept."
    )
