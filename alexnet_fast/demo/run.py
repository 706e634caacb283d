"""`alexnet-fast demo`: every step from images to the report, on images that it draws itself."""

from __future__ import annotations

import shutil
from pathlib import Path
from shlex import quote
from time import perf_counter
from typing import Any

from alexnet_fast.console import Progress
from alexnet_fast.demo.samples import draw_samples
from alexnet_fast.distributed import topology
from alexnet_fast.distributed.devices import choose_gpus
from alexnet_fast.environment import cores
from alexnet_fast.errors import InputError, TrainingError
from alexnet_fast.inference.networks import open_networks
from alexnet_fast.inference.predictions import predict_split
from alexnet_fast.sharding.output import open_output
from alexnet_fast.sharding.plan import Options
from alexnet_fast.sharding.pool import Processes
from alexnet_fast.sharding.sources import find_images
from alexnet_fast.sharding.write import write_shard_set
from alexnet_fast.training import start

PARTS = ("images", "shards", "run")
MARKER = ".alexnet-fast-demo"
"""An empty file that marks a demo's folder: only there may a new demo delete the old."""


def run_demo(out: Path, *, epochs: int, train_per_class: int = 200) -> tuple[dict[str, Any], str]:
    """Draws, shards, trains and evaluates in the folder `out`; returns the result and a summary for people.

    An earlier demo in the same folder is replaced. Raises InputError when `out` holds anything else.
    """
    started = perf_counter()
    _clear(out)
    images, shards, run = (out / part for part in PARTS)
    quoted_images, quoted_shards, quoted_run = (quote(str(path)) for path in (images, shards, run))
    with Progress("demo", 1) as progress:
        progress.print(f"1/4  drawing sample images: {images}")
        draw_samples(images, train_per_class=train_per_class)
        progress.print(f"2/4  alexnet-fast shard --src {quoted_images} --out {quoted_shards} --size 96")
        write_shard_set(find_images(images), open_output([str(shards)]), Options(size=96), lambda: Processes(cores()))
        gpus = choose_gpus(None, most=1)
        progress.print(
            f"3/4  alexnet-fast train --gpus {gpus} --recipe fast --epochs {epochs} --batch 64 "
            f"--shards {quoted_shards} --run {quoted_run}"
        )
    settings = {"recipe": "fast", "shards": str(shards), "epochs": epochs, "batch": 64}
    if not topology.run(start.train, gpus, run, settings, False).finished:
        raise TrainingError("the demo was stopped. Start it again to see the rest.")
    progress.print(f"4/4  alexnet-fast eval {quoted_run}")
    predictions = predict_split(open_networks([run], gpus))
    accuracy = predictions.accuracy()
    assert accuracy is not None  # every sample image has a label

    from alexnet_fast.report.figures import draw_run  # matplotlib takes a second to import
    from alexnet_fast.report.page import write_report

    picture, page = out / "demo.png", run / "report.html"
    draw_run(run, picture)
    write_report([run], page)
    summary = {name: getattr(accuracy, name) for name in ("top1", "top5", "images", "views")}
    summary["precision"] = predictions.precision
    summary["seconds"] = perf_counter() - started
    text = (
        f"top-1 {accuracy.top1:.2f} %  top-5 {accuracy.top5:.2f} %  on {accuracy.images} images not trained on "
        f"({predictions.precision}), "
        f"in {summary['seconds']:.0f} s; curves and predictions: {picture}; report: {page}"
    )
    return summary, text


def _clear(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file. --out takes a folder.")
    if out.is_dir() and any(out.iterdir()) and not (out / MARKER).exists():
        raise InputError(f"{out} is not empty and holds no demo. Choose an empty --out.")
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / MARKER).touch()
    except OSError as error:
        raise InputError(f"{out} cannot be created ({error.strerror}). Choose another --out.") from error
    for part in PARTS:
        shutil.rmtree(out / part, ignore_errors=True)
