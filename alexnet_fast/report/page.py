"""One self-contained HTML page about a run, or comparing several: nothing in it is fetched from elsewhere."""

from __future__ import annotations

import base64
import io
import shlex
import warnings
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from alexnet_fast import __version__
from alexnet_fast.errors import InputError, TrainingError
from alexnet_fast.evaluation.counts import confused
from alexnet_fast.files import written
from alexnet_fast.recipes import RECIPES
from alexnet_fast.report import figures, insight
from alexnet_fast.report.record import Record, labels, read
from alexnet_fast.text import duration
from alexnet_fast.training import checkpoint

TRAINING_IMAGES, VALIDATION_IMAGES = 2000, 5000
"""The most images that are looked at for neighbours, and for confusions: a page then takes a minute at most."""
MATRIX_CLASSES, PAIRS = 30, 20
"""More classes than that are no readable matrix: their most frequent mistakes are listed instead."""
GUESSES, QUERIES, NEAREST = 10, 5, 6
CSS_PIXELS = 96
"""An inch of a figure."""


def write_report(runs: list[Path], out: Path) -> dict[str, Any]:
    """Writes the page `out`, whole or not at all; returns its path, each run's results, and what it leaves out.

    Raises InputError when a folder holds no run or `out` cannot be a page.
    """
    if out.suffix != ".html" or out.is_dir() or not out.absolute().parent.is_dir():
        raise InputError(f"--out {out} must end in .html and lie in a folder that is there.")
    records = [read(run) for run in runs]
    left_out: list[str] = []
    page = _about_one(records[0], left_out) if len(records) == 1 else _comparison(records)
    left_out += [
        f"{record.unread} unreadable lines of {record.folder}/log.jsonl" for record in records if record.unread
    ]
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    empty = dict.fromkeys(
        ("tiles", "comparison", "epochs", "kernels", "guesses", "neighbours", "confusion", "settings")
    )
    html = templates.get_template("report.html.jinja").render(
        **{**empty, "environment": None, "packages": None, **page},
        curves=_curves(records),
        left_out=left_out,
        version=__version__,
        made=f"{datetime.now():%Y-%m-%d %H:%M}",
    )
    with written(out) as temporary:
        temporary.write_bytes(html.encode("utf-8", "replace"))  # a path may hold bytes that are no character
    results = [{"run": str(record.folder), **record.results()} for record in records]
    return {"report": str(out), "runs": results, "left_out": left_out}


def _about_one(record: Record, left_out: list[str]) -> dict[str, Any]:
    """The page's parts about one run; what cannot be shown is told in `left_out`."""
    page: dict[str, Any] = {
        "title": f"AlexNet: {labels([record])[0]}",
        "about": [f"{record.config.get('arch', '?')} network, {record.progress()}.", str(record.folder.absolute())],
        "tiles": _tiles(record),
        "epoch_head": ["epoch", "top-1", "top-5", "top-1 error", "top-5 error", "top-1 of training images"],
        "epochs": _epochs(record),
        "settings": _settings(record.config),
        "settings_note": "Those that differ from the recipe's are listed first, with the recipe's value.",
        "environment": list(_flat({**record.environment, "packages": {}}).items()),
        "packages": list(record.environment["packages"].items()),
    }
    if not record.steps:
        left_out.append("curves: no step is logged yet.")
    if not record.evaluations:
        left_out.append("validation accuracy: no epoch was evaluated yet, or there is no val split.")
    if not checkpoint.find(record.folder).is_file():
        left_out.append("kernels, guesses, neighbours, confusion: no checkpoint is saved yet.")
        return page
    parts: dict[str, Callable[[], Any]] = {"kernels": lambda: _kernels(record)}
    try:
        subject = insight.open_subject(record.folder)
        parts |= {
            "guesses": lambda: _guesses(subject),
            "neighbours": lambda: _neighbours(subject),
            "confusion": lambda: _confusion(subject),
        }
    except (InputError, OSError) as error:
        left_out.append(f"guesses, neighbours, confusion: {error}")
    for name, make in parts.items():
        try:
            page[name] = make()
        except (InputError, TrainingError, OSError) as error:
            left_out.append(f"{name}: {error}")
    return page


def _comparison(records: list[Record]) -> dict[str, Any]:
    names = labels(records)
    head = ["run", "best top-1, %", "top-5, %", "top-1 error, %", "top-5 error, %", "at epoch", "epochs run"]
    comparison = {
        "names": names,
        "head": [*head, "images/s", "data wait, %", "time"],
        "results": [[name, *_result_row(record)] for name, record in zip(names, records, strict=True)],
        "settings": _differences([record.config for record in records]),
        "environment": _differences([_flat(record.environment) for record in records]),
    }
    folders = [str(record.folder.absolute()) for record in records]
    return {"title": f"AlexNet: {len(records)} runs", "about": folders, "comparison": comparison}


def _tiles(record: Record) -> list[tuple[str, str]]:
    results = record.results()
    return [
        ("Best top-1", _number(results["best_top1"], "{:.2f} %")),
        ("Its top-5", _number(results["top5"], "{:.2f} %")),
        ("Images a second", _number(results["images_per_second"], "{:,.0f}")),
        ("Waited for data", _number(results["data_wait"], "{:.2%}").replace("%", " %")),
        ("Training time", _duration(results["seconds"])),
        ("Peak memory", _number(results["peak_gib"], "{:.1f} GiB")),
    ]


def _result_row(record: Record) -> list[str]:
    results = record.results()
    scores = [_number(results[key]) for key in ("best_top1", "top5", "top1_error", "top5_error")]
    wait = results["data_wait"]
    return [
        *scores,
        _number(results["best_epoch"], "{:.0f}"),
        f"{max((line['epoch'] for line in record.evaluations), default=0)} of {record.config['epochs']}",
        _number(results["images_per_second"], "{:,.0f}"),
        _number(None if wait is None else 100 * wait),
        _duration(results["seconds"]),
    ]


def _epochs(record: Record) -> list[list[str]]:
    training = dict(zip(*record.training_top1(), strict=True))
    return [
        [
            str(line["epoch"]),
            *(_number(n) for n in (line["val_top1"], line["val_top5"], 100 - line["val_top1"], 100 - line["val_top5"])),
            _number(training.get(line["epoch"])),
        ]
        for line in record.evaluations
    ]


def _settings(config: dict[str, Any]) -> list[list[str]]:
    """Name, value and, where it is another, the recipe's value; those first."""
    recipe = RECIPES.get(str(config.get("recipe")))
    usual = recipe.as_dict() if recipe else {}
    rows = [
        [name, _text(value), _text(usual[name]) if name in usual and usual[name] != value else ""]
        for name, value in config.items()
    ]
    return sorted(rows, key=lambda row: not row[2])


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


def _curves(records: list[Record]) -> list[dict[str, Any]]:
    """Of what the logs hold: loss, accuracy, throughput, data wait."""
    drawings: list[tuple[str, Callable[[Axes], None]]] = []
    if any(record.steps for record in records):
        drawings = [
            ("Each point is the mean since the one before.", partial(figures.draw_loss, records=records)),
            ("Evaluation is not counted.", partial(figures.draw_rate, records=records)),
            (
                "Share of the training time in which the device had no batch.",
                partial(figures.draw_wait, records=records),
            ),
        ]
    if any(record.evaluations for record in records):
        accuracy: list[tuple[str, Callable[[Axes], None]]] = [
            ("All validation images.", partial(figures.draw_validation, records=records, key=key))
            for key in ("val_top1", "val_top5")
        ]
        if len(records) == 1:
            caption = "All validation images; the training images while they were learnt, cropped at random."
            accuracy = [(caption, partial(figures.draw_accuracy, record=records[0]))]
        drawings[1:1] = accuracy
    curves = []
    for caption, draw in drawings:
        figure = Figure(figsize=(4.8, 3.2 + 0.22 * figures.legend_lines(records)), layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        curves.append(_drawing(figure, axes.get_title(), caption))
    return curves


def _kernels(record: Record) -> dict[str, Any]:
    model = checkpoint.build_model(checkpoint.load(checkpoint.find(record.folder)))
    pictures = figures.conv1_pictures(model)
    kernels, towers = model.layers()["conv1"].weight.shape[0], len(pictures)
    height = sum(picture.shape[0] / picture.shape[1] * 7 + 0.35 for picture in pictures)
    figure = Figure(figsize=(7.2, height), layout="constrained")
    figures.draw_kernels(figure, pictures)
    split = f", {kernels // towers} in each tower" if towers > 1 else ""
    caption = (
        f"The {kernels} kernels of conv1{split}, 11x11 pixels in RGB. Each is scaled by its own largest weight; "
        "grey is 0."
    )
    return _drawing(figure, f"{kernels} kernels of conv1", caption, png=True)


def _guesses(subject: insight.Subject) -> list[dict[str, Any]]:
    seen = insight.guess(subject, GUESSES)
    return [
        {
            "source": _picture(image),
            "name": subject.names[label],
            "guesses": [
                {"name": subject.names[i], "percent": f"{100 * probability[i]:.1f}", "right": bool(i == label)}
                for i in np.argsort(probability)[::-1][:5]
            ],
        }
        for image, label, probability in zip(seen.images, seen.labels, seen.probabilities, strict=True)
    ]


def _neighbours(subject: insight.Subject) -> dict[str, Any]:
    found = insight.neighbours(subject, QUERIES, NEAREST, TRAINING_IMAGES)
    total = len(subject.shards.split("train"))
    searched = (
        f"{found.searched:,} training images drawn at random" if found.searched < total else "all training images"
    )
    rows = [
        [
            {"source": _picture(found.queries[i]), "name": subject.names[found.query_labels[i]]},
            *(
                {
                    "source": _picture(found.images[i, k]),
                    "name": subject.names[found.labels[i, k]],
                    "distance": f"{found.distances[i, k]:.2f}",
                }
                for k in range(found.images.shape[1])
            ),
        ]
        for i in range(len(found.queries))
    ]
    return {
        "caption": f"For {len(rows)} validation images, the nearest of {searched}: L2 distance of the features "
        "of the last hidden layer (the paper's fc7, after its ReLU).",
        "columns": found.images.shape[1],
        "rows": rows,
    }


def _confusion(subject: insight.Subject) -> dict[str, Any]:
    truth, guesses = insight.confusion(subject, VALIDATION_IMAGES)
    classes = len(subject.names)
    total = len(subject.shards.split("val"))
    which = f"{len(truth):,} of {total:,}" if len(truth) < total else f"all {total:,}"
    right = f"{100 * (truth == guesses).mean():.2f} %" if len(truth) else "none"
    caption = f"Best guesses for {which} validation images, one view; {right} are right."
    if classes > MATRIX_CLASSES:
        pairs = confused(truth, guesses, PAIRS)
        rows = [[subject.names[a], subject.names[b], f"{n:,}", f"{100 * share:.0f}"] for a, b, n, share in pairs]
        return {"figure": None, "caption": f"{caption} The most frequent mistakes:", "pairs": rows}
    counts = np.bincount(truth * classes + guesses, minlength=classes**2).reshape(classes, classes)
    side = 2.4 + 0.38 * classes
    figure = Figure(figsize=(side, side), layout="constrained")
    figures.draw_confusion(figure.add_subplot(), counts, subject.names)
    caption += " A row holds the images of one class; the darker, the larger the share of them."
    return {"figure": _drawing(figure, "Confusion matrix", caption, keep=True)}


def _drawing(figure: Figure, alt: str, caption: str, *, png: bool = False, keep: bool = False) -> dict[str, Any]:
    """A matplotlib figure for the page; `keep`: its size, where the window is narrower."""
    data = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a class name may be in any script
        figure.savefig(data, format="png" if png else "svg", dpi=2 * CSS_PIXELS if png else CSS_PIXELS)
    kind = "png" if png else "svg+xml"
    source = _data(kind, data.getvalue())
    return {
        "source": source,
        "alt": alt,
        "caption": caption,
        "width": round(figure.get_figwidth() * CSS_PIXELS),
        "keep": keep,
    }


def _picture(image: NDArray[np.uint8]) -> str:
    data = io.BytesIO()
    Image.fromarray(image).save(data, "JPEG", quality=90)
    return _data("jpeg", data.getvalue())


def _data(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _number(value: float | None, form: str = "{:.2f}") -> str:
    return "–" if value is None else form.format(value)


def _duration(seconds: float | None) -> str:
    return "–" if seconds is None else duration(seconds)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)
