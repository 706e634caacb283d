"""One self-contained HTML page about a run, or comparing several: nothing in it is fetched from elsewhere."""

from __future__ import annotations

import base64
import io
import json
import shlex
import warnings
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from alexnet_fast import __version__
from alexnet_fast.errors import InputError, TrainingError
from alexnet_fast.evaluation.counts import confused
from alexnet_fast.files import written
from alexnet_fast.inference.evaluations import EVALUATIONS
from alexnet_fast.inference.networks import Network
from alexnet_fast.recipes import RECIPES
from alexnet_fast.report import figures, insight
from alexnet_fast.report.record import RunRecord, read_run, run_names
from alexnet_fast.shards.reader import ShardSet
from alexnet_fast.text import duration, local_time, number_of
from alexnet_fast.training import checkpoint

TRAINING_IMAGES, VALIDATION_IMAGES = 2000, 5000
"""The most images that are read for neighbours, and for confusions: a page then takes a minute at most."""
MATRIX_CLASSES, PAIRS = 30, 20
"""More classes than that are no readable matrix: their most frequent mistakes are listed instead."""
NUM_EXAMPLES, QUERIES, NEAREST = 10, 5, 6
EVALUATED = ("checkpoint", "shards", "split", "views", "crop")
"""What an evaluation is of: the report shows the newest of each."""
CSS_PIXELS = 96
"""An inch of a figure."""


def write_report(runs: list[Path], out: Path) -> dict[str, Any]:
    """Writes the page `out`, whole or not at all; returns its path, each run's results, and what it leaves out.

    Raises InputError when a folder holds no run or `out` cannot be a page.
    """
    records = [read_run(run) for run in runs]
    if out.suffix != ".html" or out.is_dir() or not out.absolute().parent.is_dir():
        raise InputError(f"--out {out} must end in .html and lie in a folder that is there.")
    left_out: list[str] = []
    content = describe_run(records[0], left_out) if len(records) == 1 else compare_runs(records)
    left_out += [
        f"{record.unread} unreadable lines of {record.folder}/log.jsonl" for record in records if record.unread
    ]
    html = render(content, _curves(records), left_out)
    with written(out) as temporary:
        temporary.write_bytes(html.encode("utf-8", "replace"))  # a path may hold bytes that are no character
    results = [{"run": str(record.folder), **record.results()} for record in records]
    return {"report": str(out), "runs": results, "left_out": left_out}


def render(content: dict[str, Any], curves: list[dict[str, Any]], left_out: list[str]) -> str:
    """The page of what `describe_run` or `compare_runs` returns."""
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters.update(number=_number, duration=duration, picture=_picture)
    made = f"{datetime.now():%Y-%m-%d %H:%M}"
    return templates.get_template("report.html.jinja").render(
        **content, curves=curves, left_out=left_out, version=__version__, made=made
    )


def describe_run(record: RunRecord, left_out: list[str]) -> dict[str, Any]:
    """The page's content about one run; what cannot be shown is added to `left_out`."""
    content: dict[str, Any] = {
        "title": f"AlexNet: {run_names([record])[0]}",
        "about": record.about(),
        "records": [record],
        "accuracies": _kept_evaluations(record.folder, left_out),
        **_settings(record.config),
        "environment": _flat({**record.environment, "packages": {}}).items(),
        "packages": record.environment["packages"].items(),
    }
    if not record.steps:
        left_out.append("curves: no step is logged yet.")
    if not record.evaluations:
        left_out.append("validation accuracy: no epoch was evaluated yet, or there is no val split.")
    if not checkpoint.find(record.folder).is_file():
        left_out.append("kernels, predictions, neighbours, confusion: no checkpoint is saved yet.")
        return content
    parts: dict[str, Callable[[], Any]] = {"kernels": lambda: _kernels(record)}
    try:
        network, shards = insight.open_with_shards(record.folder)
        content["names"] = network.names
        parts |= {
            "predictions": lambda: insight.find_examples(network, shards, NUM_EXAMPLES),
            "neighbours": lambda: insight.find_neighbours(network, shards, QUERIES, NEAREST, TRAINING_IMAGES),
            "confusion": lambda: _confusion(network, shards),
        }
    except (InputError, OSError) as error:
        left_out.append(f"predictions, neighbours, confusion: {error}")
    for name, make in parts.items():
        try:
            content[name] = make()
        except (InputError, TrainingError, OSError) as error:
            left_out.append(f"{name}: {error}")
    return content


def compare_runs(records: list[RunRecord]) -> dict[str, Any]:
    """The page's content about several runs."""
    return {
        "title": f"AlexNet: {len(records)} runs",
        "about": [str(record.folder.absolute()) for record in records],
        "records": records,
        "names": run_names(records),
        "settings": _differences([record.config for record in records]),
        "environment": _differences([_flat(record.environment) for record in records]),
    }


def _settings(config: dict[str, Any]) -> dict[str, list[list[str]]]:
    """`changed`: name, value and the recipe's value of the settings that differ from the recipe; `unchanged`: name and
    value of the others. What the recipe does not have differs from it."""
    recipe = RECIPES.get(str(config.get("recipe")))
    usual = recipe.as_dict() if recipe else {}
    same = {name for name, value in config.items() if name in usual and usual[name] == value}
    changed = [
        [name, _text(value), _text(usual[name]) if name in usual else "–"]
        for name, value in config.items()
        if name not in same
    ]
    return {"changed": changed, "unchanged": [[name, _text(config[name])] for name in config if name in same]}


def _kept_evaluations(run: Path, left_out: list[str]) -> list[list[str]]:
    """Rows of what `eval` kept, in its order: the newest of each checkpoint, split, number of views and crop. Lines
    that cannot be read are counted in `left_out`."""
    path, unread = run / EVALUATIONS, 0
    rows: dict[tuple[Any, ...], list[str]] = {}
    for text in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            line = json.loads(text)
            which, row = tuple(line[key] for key in EVALUATED), _evaluation_row(line)
            rows.pop(which, None)
            rows[which] = row
        except (ValueError, TypeError, LookupError, OverflowError, RecursionError):  # whatever the line holds
            unread += 1
    if unread:
        left_out.append(f"{unread} unreadable lines of {path}")
    return list(rows.values())


def _evaluation_row(line: dict[str, Any]) -> list[str]:
    epochs = f", {number_of(line['epochs'], 'epoch')}" if line["epochs"] else ""
    top1, top5 = (
        f"{line[key]:.2f} ({low:.1f} to {high:.1f})"
        for key in ("top1", "top5")
        for low, high in [line[f"{key}_interval"]]
    )
    images = f"{line['images']:,}" + (f", {line['damaged']:,} corrupt" if line["damaged"] else "")
    others = (str(line[key]) for key in ("views", "crop", "precision", "split", "shards"))
    return [f"{line['checkpoint']}{epochs}", top1, top5, local_time(line["time"]), images, *others]


def _differences(settings: list[dict[str, Any]]) -> list[list[str]]:
    names = list(dict.fromkeys(name for one in settings for name in one))
    rows = [[name, *(_text(one[name]) if name in one else "–" for one in settings)] for name in names]
    return [row for row in rows if len(set(row[1:])) > 1]


def _flat(environment: dict[str, Any]) -> dict[str, str]:
    """The packages as rows of their own; the command as a shell would take it."""
    flat: dict[str, str] = {}
    for name, value in environment.items():
        if isinstance(value, dict):
            flat |= {str(package): _text(version) for package, version in value.items()}
        elif name == "command" and isinstance(value, list):
            flat[name] = shlex.join(map(str, value))
        elif value not in (None, []):
            flat[name] = _text(value)
    return flat


def _curves(records: list[RunRecord]) -> list[dict[str, Any]]:
    """Of what the logs hold: loss, accuracy, throughput, data wait."""
    logged = any(record.steps for record in records)
    evaluated = any(record.evaluations for record in records)
    during_training = "All validation images; the training images during training, cropped at random."
    curves = []
    for wanted, draw, caption in (
        (logged, figures.draw_loss, "Each point is the mean since the one before."),
        (evaluated and len(records) == 1, figures.draw_accuracy, during_training),
        (evaluated and len(records) > 1, partial(figures.draw_validation, key="val_top1"), "All validation images."),
        (evaluated and len(records) > 1, partial(figures.draw_validation, key="val_top5"), "All validation images."),
        (logged, figures.draw_rate, "Evaluation is not counted."),
        (logged, figures.draw_wait, "Share of the training time in which the device had no batch."),
    ):
        if wanted:
            figure = Figure(figsize=(4.8, 3.2 + 0.22 * figures.legend_lines(records)), layout="constrained")
            axes = figure.add_subplot()
            draw(axes, records)
            curves.append(_drawing(figure, axes.get_title(), caption))
    return curves


def _kernels(record: RunRecord) -> dict[str, Any]:
    model = checkpoint.build_model(checkpoint.load(checkpoint.find(record.folder)))
    pictures = figures.conv1_pictures(model)
    num_kernels, towers = model.layers()["conv1"].weight.shape[0], len(pictures)
    height = sum(picture.shape[0] / picture.shape[1] * 7 + 0.35 for picture in pictures)
    figure = Figure(figsize=(7.2, height), layout="constrained")
    figures.draw_kernels(figure, pictures)
    split = f", {num_kernels // towers} in each tower" if towers > 1 else ""
    caption = f"The {num_kernels} kernels of conv1{split}, 11x11 pixels in RGB."
    caption += " Each is scaled by its own largest weight; grey is 0."
    return _drawing(figure, f"{num_kernels} kernels of conv1", caption, png=True)


def _confusion(network: Network, shards: ShardSet) -> dict[str, Any]:
    """A matrix as `figure`, or of many classes a `caption` and `pairs`."""
    names, val = network.names, insight.validation(shards)
    truth, best = insight.best_predictions(network, val, VALIDATION_IMAGES)
    which = f"{len(truth):,} of {len(val):,}" if len(truth) < len(val) else f"all {len(val):,}"
    right = f"{100 * (truth == best).mean():.2f} %" if len(truth) else "none"
    caption = f"Best predictions for {which} validation images, one view; {right} are right."
    if len(names) > MATRIX_CLASSES:
        pairs = confused(truth, best, PAIRS)
        rows = [[names[a], names[b], f"{n:,}", f"{100 * share:.0f}"] for a, b, n, share in pairs]
        return {"caption": f"{caption} The most frequent mistakes:", "pairs": rows}
    counts = np.zeros((len(names), len(names)), np.int64)
    np.add.at(counts, (truth, best), 1)
    side = 2.4 + 0.38 * len(names)
    figure = Figure(figsize=(side, side), layout="constrained")
    figures.draw_confusion(figure.add_subplot(), counts, names)
    caption += " A row holds the images of one class; the darker, the larger the share of them."
    return {"figure": _drawing(figure, "Confusion matrix", caption, keep=True)}


def _drawing(figure: Figure, alt: str, caption: str, *, png: bool = False, keep: bool = False) -> dict[str, Any]:
    """A matplotlib figure for the page; `keep`: its size, where the window is narrower."""
    data = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a class name may be in any script
        figure.savefig(data, format="png" if png else "svg", dpi=2 * CSS_PIXELS if png else CSS_PIXELS)
    width = round(figure.get_figwidth() * CSS_PIXELS)
    source = _data("png" if png else "svg+xml", data.getvalue())
    return {"source": source, "alt": alt, "caption": caption, "width": width, "keep": keep}


def _picture(image: NDArray[np.uint8]) -> str:
    data = io.BytesIO()
    Image.fromarray(image).save(data, "JPEG", quality=90)
    return _data("jpeg", data.getvalue())


def _data(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _number(value: float | None, form: str = "{:.2f}", factor: float = 1) -> str:
    return "–" if value is None else form.format(value * factor)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)
