"""The commands that use runs and trained networks: eval, predict, features, report, export, import."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import click

from alexnet_fast.cli.options import (
    cache_options,
    check_cache,
    check_ignored,
    gpus_option,
    json_option,
    path_type,
    show,
)
from alexnet_fast.config import CHOICES
from alexnet_fast.errors import InputError
from alexnet_fast.text import printable

if TYPE_CHECKING:
    from alexnet_fast.inference.predictions import Predictions

precision_option = click.option(
    "--precision",
    type=click.Choice([name for name in CHOICES["precision"] if name != "auto"]),
    help="What the networks compute in.  [default: as in their training]",
)
views_option = click.option(
    "--views", type=click.Choice(["1", "10"]), default="1", show_default=True, help="Crops averaged an image."
)


@click.command("eval", short_help="Top-1 and top-5 accuracy of one network or several.")
@click.argument("checkpoints", nargs=-1, required=True, type=path_type, metavar="RUN_OR_CHECKPOINT...")
@click.option("--shards", help="Folder of the shard set, or its URL.  [default: the one it was trained on]")
@cache_options
@click.option("--split", default="val", show_default=True, help="Of the shard set.")
@views_option
@precision_option
@click.option(
    "--weights",
    default="equal",
    show_default=True,
    metavar="equal|search|W,W,...",
    help="Of several networks in the average; search: the likeliest on this very split.",
)
@click.option("--per-class", is_flag=True, help="Also each class' accuracy and the pairs most often confused.")
@click.option(
    "--predictions", "npz_file", type=path_type, metavar="FILE.npz", help="Write the probabilities of every image."
)
@click.option("--submission", type=path_type, metavar="FILE.txt", help="Write five ids a line, as the challenge.")
@click.option("--devkit", type=path_type, metavar="DIR", help="Of --submission: where the development kit is.")
@gpus_option
@json_option
def evaluate_command(
    checkpoints: tuple[Path, ...],
    split: str,
    views: str,
    precision: str | None,
    weights: str,
    per_class: bool,
    npz_file: Path | None,
    submission: Path | None,
    devkit: Path | None,
    gpus: int | None,
    json_file: str | None,
    **shards: Any,
) -> None:
    """Exact top-1 and top-5 accuracy, kept in the run for its report; several networks: their predictions averaged.

    Images without labels need --predictions or --submission.
    """
    if devkit is not None and submission is None:
        raise InputError("--devkit goes with --submission.")

    from alexnet_fast.files import check_target
    from alexnet_fast.inference import evaluations, predictions
    from alexnet_fast.inference.networks import open_networks

    started = perf_counter()
    check_target(npz_file, "--predictions", (".npz",))
    check_target(submission, "--submission", (".txt",))
    given = predictions.parse_weights(weights, len(checkpoints))
    networks = open_networks(list(checkpoints), gpus)
    check_cache(shards["shards"] or networks[0].config.shards)
    classes = networks[0].classes
    ids = {} if devkit is None else predictions.challenge_ids(devkit, classes)
    found = predictions.predict_split(
        networks,
        split=split,
        views=int(views),
        precision=precision,
        weights=given,
        search=weights == "search",
        keep=npz_file is not None,
        labelled=weights == "search" or per_class or (npz_file is None and submission is None),
        **shards,  # and their cache
    )
    searched = f"searched on {split}, these same images: not a test result"
    weights_from = {"equal": "equal", "search": searched}.get(weights, "given")
    result = {"split": split, **predictions.summary(found), "weights_from": weights_from}
    lines = [*_accuracy_lines(found, result), *_average_lines(found, classes, weights_from)]
    lines += _class_lines(found, result) if per_class else []
    lines += evaluations.keep(networks, found)
    if npz_file is not None:
        predictions.save_predictions(npz_file, found)
        lines.append(f"probabilities: {npz_file}")
    if submission is not None:
        numbers = [ids.get(entry["id"], label) for label, entry in enumerate(found.classes, start=1)]
        predictions.save_submission(submission, found, numbers)
        which = "ILSVRC ids" if devkit else "class index + 1, in the shard set's order, not ILSVRC ids: give --devkit"
        lines.append(f"five predictions a line ({which}), in the order of the images' names: {submission}")
    show("\n".join(lines), {**result, "seconds": perf_counter() - started}, json_file)


def _accuracy_lines(predictions: Predictions, result: dict[str, Any]) -> list[str]:
    from alexnet_fast.evaluation.scoring import corruption_note

    accuracy = predictions.accuracy()
    views = f"{predictions.views} view{'s' * (predictions.views > 1)}"
    seen = f"{len(predictions.labels):,} images, {views}, {predictions.precision}"
    if accuracy is None:
        num_corrupt = len(predictions.corrupt)
        corrupt = f"; {num_corrupt:,} corrupt, without a prediction" * bool(num_corrupt)
        return [f"no accuracy: not every image has a label ({seen}{corrupt})"]
    top1, top5 = (" to ".join(f"{end:.2f}" for end in result[f"{name}_interval"]) for name in ("top1", "top5"))
    return [
        f"top-1 {accuracy.top1:.2f} %  top-5 {accuracy.top5:.2f} %  ({seen}{corruption_note(accuracy)})",
        f"error {100 - accuracy.top1:.2f} %        {100 - accuracy.top5:.2f} %",
        f"95 % intervals (Wilson): top-1 {top1} %, top-5 {top5} %",
    ]


def _average_lines(found: Predictions, classes: list[dict[str, str]], weights_from: str) -> list[str]:
    """Returns what the softmax goes over, where not over the network's `classes`, and what several networks weigh."""
    lines = []
    if [entry["id"] for entry in found.classes] != [entry["id"] for entry in classes]:
        of_all = f"{len(found.classes):,} of the network's {len(classes):,} classes"
        lines.append(f"softmax over {of_all}, by class id: those of the shard set")
    if len(found.weights) > 1:
        shown = ", ".join(f"{weight:.4g}" for weight in found.weights)
        lines.append(f"{len(found.weights)} networks, weights {shown}: {weights_from}")
    return lines


def _class_lines(predictions: Predictions, result: dict[str, Any]) -> list[str]:
    """Adds `classes` and `confusions` to the result; returns lines with the ten worst of each."""
    from alexnet_fast.evaluation.counts import per_class, worst_pairs

    known = predictions.known_labels >= 0  # not the corrupt ones
    best, labels, classes = predictions.best[known], predictions.labels[known], predictions.classes
    result["classes"] = per_class(best, labels, classes)
    result["confusions"] = worst_pairs(best, labels, classes)
    names = {entry["id"]: printable(entry["name"] or entry["id"]) for entry in classes}
    worst = sorted((row for row in result["classes"] if row["images"]), key=lambda row: row["top1"])[:10]
    return [
        "worst classes, top-1 and top-5 in per cent, with 95 % intervals:",
        *(
            f"  {_interval(row, 'top1')}  {_interval(row, 'top5')}  {names[row['id']]} ({row['images']:,} images)"
            for row in worst
        ),
        "most often confused, images and per cent of the class:",
        *(
            f"  {row['images']:6,} {row['share']:6.2f}  {names[row['label']]} predicted as {names[row['guess']]}"
            for row in result["confusions"][:10]
        ),
    ]


def _interval(row: dict[str, Any], name: str) -> str:
    low, high = row[f"{name}_interval"]
    return f"{row[name]:6.2f} [{low:5.1f} to {high:5.1f}]"


@click.command("predict")
@click.argument("checkpoint", type=path_type, metavar="RUN_OR_CHECKPOINT")
@click.argument("images", nargs=-1, required=True, type=path_type, metavar="IMAGE_OR_FOLDER...")
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="Predictions an image.")
@views_option
@gpus_option
@json_option
def predict_command(
    checkpoint: Path, images: tuple[Path, ...], top: int, views: str, gpus: int | None, json_file: str | None
) -> None:
    """Predict the classes of images of any format.

    Files that cannot be read are listed; the exit code is then 1.
    """
    from alexnet_fast.inference.networks import open_network
    from alexnet_fast.inference.predict import as_table, predict_images

    started = perf_counter()
    found, files = predict_images(open_network(checkpoint, gpus), list(images), views=int(views), best=top)
    rows = [{"file": str(file), "guesses": [asdict(one) for one in best]} for file, best in found.items()]
    result: dict[str, Any] = {"images": len(found), "views": int(views), "predictions": rows}
    unread, not_images = ({str(file): why for file, why in left} for left in (files.unread, files.not_images))
    result |= _left_out(unread, not_images)
    show(as_table(found), {**result, "seconds": perf_counter() - started}, json_file)
    sys.exit(1 if unread else 0)


def _left_out(unread: dict[str, str], not_images: dict[str, str]) -> dict[str, Any]:
    """Prints the files on standard error; returns the same for JSON."""
    for file, reason in [*unread.items(), *not_images.items()]:
        click.echo(f"left out: {printable(file)}: {reason}", err=True)
    return {
        name: [{"file": file, "reason": reason} for file, reason in files.items()]
        for name, files in (("unread", unread), ("not_images", not_images))
    }


@click.command("features", short_help="A layer's activations on images or a split.")
@click.argument("checkpoint", type=path_type, metavar="RUN_OR_CHECKPOINT")
@click.argument("images", nargs=-1, type=path_type, metavar="[IMAGE_OR_FOLDER...]")
@click.option("--out", required=True, type=path_type, metavar="FILE.npz", help="Gets names, features and labels.")
@click.option("--layer", default="fc7", show_default=True, help="conv1, pool1, fc6, ...: after its nonlinearity.")
@click.option("--shards", help="In place of images: folder of a shard set, or its URL.")
@cache_options
@click.option("--split", default="val", show_default=True, help="Of the shard set.")
@gpus_option
@json_option
def features_command(
    checkpoint: Path,
    images: tuple[Path, ...],
    out: Path,
    layer: str,
    shards: str | None,
    cache: str | None,
    cache_bytes: int | None,
    split: str,
    gpus: int | None,
    json_file: str | None,
) -> None:
    """A layer's activations on images or a split, for other tools.

    The paper finds its nearest neighbours with fc7, the last hidden layer.
    """
    if bool(images) == bool(shards):
        raise InputError("features takes either images and folders, or --shards.")
    if shards is None:
        check_ignored("features of images", {"split", "cache", "cache_bytes"})
    else:
        check_cache(shards)

    import numpy as np

    from alexnet_fast.files import check_target, save_npz
    from alexnet_fast.inference import features
    from alexnet_fast.inference.networks import open_network
    from alexnet_fast.shards.reader import ShardSet

    started = perf_counter()
    check_target(out, "--out", (".npz",))
    network = open_network(checkpoint, gpus)
    if shards:
        opened = ShardSet(shards, cache, cache_bytes).split(split, labelled=False)
        found = features.of_split(network, opened, layer)
    else:
        found = features.of_images(network, list(images), layer)
    save_npz(out, names=np.array(found.names), features=found.features, labels=found.labels)
    shape = list(found.features.shape)
    text = f"{layer} of {shape[0]:,} images, {' x '.join(map(str, shape[1:]))} numbers each: {out}"
    result: dict[str, Any] = {"layer": layer, "images": shape[0], "shape": shape, "out": str(out)}
    result |= _left_out(found.unread, found.not_images)
    show(text, {**result, "seconds": perf_counter() - started}, json_file)
    sys.exit(1 if found.unread else 0)


@click.command("report", short_help="One HTML page about a run, or comparing several.")
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


@click.command("export", short_help="Write a network for other programs.")
@click.argument("checkpoint", type=path_type, metavar="RUN_OR_CHECKPOINT")
@click.argument("out", type=path_type, metavar="FILE")
@json_option
def export_command(checkpoint: Path, out: Path, json_file: str | None) -> None:
    """Write a network for other programs, in the format of FILE's suffix.

    .pth: torchvision's AlexNet (of onetower and bn). .safetensors: our own parameters. .onnx: mean subtraction inside,
    checked with onnxruntime.
    """
    from alexnet_fast.files import check_target
    from alexnet_fast.inference.networks import open_network
    from alexnet_fast.interchange.export import FORMATS, export

    check_target(out, "FILE", tuple(FORMATS))
    note = export(open_network(checkpoint, 0), out)
    show(f"{out}: {note}", {"out": str(out), "note": note}, json_file)


@click.command("import", short_help="Make a checkpoint of other programs' weights.")
@click.argument("file", type=path_type, metavar="FILE")
@click.argument("out", type=path_type, metavar="CHECKPOINT")
@click.option("--classes", type=path_type, metavar="FILE", help="synset_words.txt: an id and name a line, in order.")
@click.option("--shards", help="In place of --classes: a shard set of the same classes.")
@click.option("--mean", type=path_type, metavar="FILE", help="Of a caffemodel: its mean image, .binaryproto.")
@json_option
def import_command(
    file: Path, out: Path, classes: Path | None, shards: str | None, mean: Path | None, json_file: str | None
) -> None:
    """Make a checkpoint (.pt) of other programs' weights, in the format of FILE's suffix.

    .pth: torchvision's AlexNet. .caffemodel: BVLC's AlexNet. .safetensors: what export wrote.
    """
    if classes and shards:
        raise InputError("--classes and --shards both name the classes; give one of the two.")

    from alexnet_fast.files import check_target
    from alexnet_fast.interchange.imports import import_weights, read_classes
    from alexnet_fast.shards.reader import ShardSet

    check_target(out, "CHECKPOINT", (".pt",))
    named = read_classes(classes) if classes else ShardSet(shards).manifest.classes if shards else None
    note = import_weights(file, out, named, mean)
    show(f"{out}: {note}", {"out": str(out), "note": note}, json_file)


COMMANDS = (evaluate_command, predict_command, features_command, report_command, export_command, import_command)
