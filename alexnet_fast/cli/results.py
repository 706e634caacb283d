"""The commands that use runs and trained networks: eval, predict, features, report, export, import."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import click

from alexnet_fast.cli.options import cache_options, gpus_option, json_option, path_type, show
from alexnet_fast.errors import InputError

if TYPE_CHECKING:
    from alexnet_fast.inference.predictions import Guesses

views_option = click.option(
    "--views", type=click.Choice(["1", "10"]), default="1", show_default=True, help="Crops averaged an image."
)


@click.command("eval")
@click.argument("checkpoints", nargs=-1, required=True, type=path_type, metavar="RUN_OR_CHECKPOINT...")
@click.option("--shards", help="Folder of the shard set, or its URL.  [default: the one it was trained on]")
@cache_options
@click.option("--split", default="val", show_default=True)
@views_option
@click.option(
    "--weights",
    default="equal",
    show_default=True,
    metavar="equal|search|W,W,...",
    help="Of several networks in the average; search: the likeliest on this very split.",
)
@click.option("--per-class", is_flag=True, help="Also each class' accuracy and the pairs most often confused.")
@click.option("--predictions", type=path_type, metavar="FILE.npz", help="Write the probabilities of every image.")
@click.option("--submission", type=path_type, metavar="FILE.txt", help="Write five guesses a line, as the challenge.")
@click.option("--devkit", type=path_type, metavar="DIR", help="Of --submission: where the development kit is.")
@gpus_option
@json_option
def evaluate_command(
    checkpoints: tuple[Path, ...],
    shards: str | None,
    cache: str | None,
    cache_bytes: int | None,
    split: str,
    views: str,
    weights: str,
    per_class: bool,
    predictions: Path | None,
    submission: Path | None,
    devkit: Path | None,
    gpus: int | None,
    json_file: str | None,
) -> None:
    """Exact top-1 and top-5 accuracy; several networks: their predictions averaged.

    An image set without labels takes --predictions or --submission.
    """
    if devkit is not None and submission is None:
        raise InputError("--devkit goes with --submission.")
    given = None if weights in ("equal", "search") else _numbers(weights)

    from alexnet_fast.files import check_target
    from alexnet_fast.inference import challenge
    from alexnet_fast.inference.networks import open_networks
    from alexnet_fast.inference.predictions import check_weights, guess_split, summary

    started = perf_counter()
    check_target(predictions, "--predictions", (".npz",))
    check_target(submission, "--submission", (".txt",))
    if given:
        check_weights(given, len(checkpoints))
    networks = open_networks(list(checkpoints), gpus)
    classes = networks[0].classes
    ids = {} if devkit is None else challenge.challenge_ids(devkit, classes)
    guesses = guess_split(
        networks,
        shards,
        split,
        views=int(views),
        weights=given,
        search=weights == "search",
        keep=predictions is not None,
        labelled=weights == "search" or per_class or (predictions is None and submission is None),
        cache=cache,
        cache_bytes=cache_bytes,
    )
    result = {"split": split, **summary(guesses), "weights_from": _origin(weights, split)}
    lines = [*_accuracy_lines(guesses, result), *_softmax_lines(guesses, classes), *_average_lines(guesses, result)]
    if per_class:
        lines += _class_lines(guesses, result)
    if predictions is not None:
        challenge.save_predictions(predictions, guesses)
        lines.append(f"probabilities: {predictions}")
    if submission is not None:
        numbers = [ids.get(entry["id"], label) for label, entry in enumerate(guesses.classes, start=1)]
        challenge.save_submission(submission, guesses, numbers)
        lines.append(_submission_line(submission, devkit))
    show("\n".join(lines), {**result, "seconds": perf_counter() - started}, json_file)


def _softmax_lines(guesses: Guesses, classes: list[dict[str, str]]) -> list[str]:
    """Returns a line where the shard set has not the network's `classes` in their order."""
    if [entry["id"] for entry in guesses.classes] == [entry["id"] for entry in classes]:
        return []
    found = f"{len(guesses.classes):,} of the network's {len(classes):,} classes"
    return [f"softmax over {found}, by class id: those of the shard set"]


def _average_lines(guesses: Guesses, result: dict[str, Any]) -> list[str]:
    if len(guesses.weights) == 1:
        return []
    shown = ", ".join(f"{weight:.4g}" for weight in guesses.weights)
    return [f"{len(guesses.weights)} networks, weights {shown}: {result['weights_from']}"]


def _submission_line(submission: Path, devkit: Path | None) -> str:
    numbered = "ILSVRC ids" if devkit else "class index + 1, in the shard set's order, not ILSVRC ids: give --devkit"
    return f"five guesses a line ({numbered}), in the order of the images' names: {submission}"


def _numbers(text: str) -> list[float]:
    """Returns `0.5,0.3` as numbers. Raises InputError."""
    try:
        return [float(word) for word in text.split(",")]
    except ValueError as error:
        raise InputError(f"--weights {text}: expected equal, search, or numbers like 0.5,0.3,0.2.") from error


def _origin(weights: str, split: str) -> str:
    """Returns where the weights of the average come from."""
    searched = f"searched on {split}, these same images: not a test result"
    return {"equal": "equal", "search": searched}.get(weights, "given")


def _accuracy_lines(guesses: Guesses, result: dict[str, Any]) -> list[str]:
    from alexnet_fast.evaluation.scoring import damage_note

    accuracy = guesses.accuracy()
    seen = f"{len(guesses.labels):,} images, {guesses.views} view{'s' * (guesses.views > 1)}"
    if accuracy is None:
        damaged = f"; {len(guesses.damaged):,} damaged, for which nothing is known" * bool(guesses.damaged)
        return [f"no accuracy: not every image has a label ({seen}{damaged})"]
    ends = {name: " to ".join(f"{end:.2f}" for end in result[f"{name}_interval"]) for name in ("top1", "top5")}
    return [
        f"top-1 {accuracy.top1:.2f} %  top-5 {accuracy.top5:.2f} %  ({seen}{damage_note(accuracy)})",
        f"error {100 - accuracy.top1:.2f} %        {100 - accuracy.top5:.2f} %",
        f"95 % intervals (Wilson): top-1 {ends['top1']} %, top-5 {ends['top5']} %",
    ]


def _class_lines(guesses: Guesses, result: dict[str, Any]) -> list[str]:
    """Adds `classes` and `confusions` to the result; returns lines with the ten worst of each."""
    from alexnet_fast.evaluation.counts import per_class, worst_pairs

    judged = guesses.judged >= 0  # not the corrupt ones
    best, labels = guesses.best[judged], guesses.labels[judged]
    result["classes"] = per_class(best, labels, guesses.classes)
    result["confusions"] = worst_pairs(best, labels, guesses.classes)
    names = {entry["id"]: entry["name"] or entry["id"] for entry in guesses.classes}
    worst = sorted((row for row in result["classes"] if row["images"]), key=lambda row: row["top1"])[:10]
    return [
        "worst classes, top-1 and top-5 in per cent, with 95 % intervals:",
        *(
            f"  {_interval(row, 'top1')}  {_interval(row, 'top5')}  {names[row['id']]} ({row['images']:,} images)"
            for row in worst
        ),
        "most often confused, images and per cent of the class:",
        *(
            f"  {row['images']:6,} {row['share']:6.2f}  {names[row['label']]} taken for {names[row['guess']]}"
            for row in result["confusions"][:10]
        ),
    ]


def _interval(row: dict[str, Any], name: str) -> str:
    low, high = row[f"{name}_interval"]
    return f"{row[name]:6.2f} [{low:5.1f} to {high:5.1f}]"


@click.command("predict")
@click.argument("checkpoint", type=path_type, metavar="RUN_OR_CHECKPOINT")
@click.argument("images", nargs=-1, required=True, type=path_type, metavar="IMAGE_OR_FOLDER...")
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="Guesses an image.")
@views_option
@gpus_option
@json_option
def predict_command(
    checkpoint: Path, images: tuple[Path, ...], top: int, views: str, gpus: int | None, json_file: str | None
) -> None:
    """What is on images of any format: the likeliest classes of each.

    Files that cannot be read are named; the exit code is then 1.
    """
    from alexnet_fast.inference.networks import open_network
    from alexnet_fast.inference.predict import as_table, predict_images

    started = perf_counter()
    guesses, unread = predict_images(open_network(checkpoint, gpus), list(images), views=int(views), best=top)
    predictions = [{"file": str(file), "guesses": [asdict(one) for one in best]} for file, best in guesses.items()]
    result = {"images": len(guesses), "views": int(views), "predictions": predictions}
    named = {str(file): reason for file, reason in unread.items()}
    show(as_table(guesses), {**result, **_unread(named), "seconds": perf_counter() - started}, json_file)
    sys.exit(1 if unread else 0)


def _unread(unread: dict[str, str]) -> dict[str, Any]:
    """Prints the files on standard error; returns the same for JSON."""
    for file, reason in unread.items():
        click.echo(f"left out: {file}: {reason}", err=True)
    return {"unread": [{"file": file, "reason": reason} for file, reason in unread.items()]}


@click.command("features")
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

    fc7, the last hidden layer, is what the paper finds its nearest neighbours with.
    """
    if bool(images) == bool(shards):
        raise InputError("features takes either images and folders, or --shards.")

    from alexnet_fast.files import check_target
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
    found.save(out)
    shape = list(found.features.shape)
    text = f"{layer} of {shape[0]:,} images, {' x '.join(map(str, shape[1:]))} numbers each: {out}"
    result = {"layer": layer, "images": shape[0], "shape": shape, "out": str(out)}
    show(text, {**result, **_unread(found.unread), "seconds": perf_counter() - started}, json_file)
    sys.exit(1 if found.unread else 0)


@click.command("report")
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


@click.command("export")
@click.argument("checkpoint", type=path_type, metavar="RUN_OR_CHECKPOINT")
@click.argument("out", type=path_type, metavar="FILE")
@json_option
def export_command(checkpoint: Path, out: Path, json_file: str | None) -> None:
    """Write a network for other programs; the name of FILE tells the form.

    .pth: torchvision's AlexNet (of onetower and bn). .safetensors: our own parameters. .onnx: mean subtraction inside,
    checked with onnxruntime.
    """
    from alexnet_fast.files import check_target
    from alexnet_fast.inference.networks import open_network
    from alexnet_fast.interchange.export import FORMATS, export

    check_target(out, "FILE", tuple(FORMATS))
    note = export(open_network(checkpoint, 0), out)
    show(f"{out}: {note}", {"out": str(out), "note": note}, json_file)


@click.command("import")
@click.argument("file", type=path_type, metavar="FILE")
@click.argument("out", type=path_type, metavar="CHECKPOINT")
@click.option("--classes", type=path_type, metavar="FILE", help="synset_words.txt: an id and name a line, in order.")
@click.option("--shards", help="In place of --classes: a shard set of the same classes.")
@click.option("--mean", type=path_type, metavar="FILE", help="Of a caffemodel: its mean image, .binaryproto.")
@json_option
def import_command(
    file: Path, out: Path, classes: Path | None, shards: str | None, mean: Path | None, json_file: str | None
) -> None:
    """Make a checkpoint (.pt) of other programs' weights; the name of FILE tells the form.

    .pth: torchvision's AlexNet. .caffemodel: BVLC's AlexNet. .safetensors: what export wrote.
    """
    if classes and shards:
        raise InputError("--classes and --shards both name the classes; give one of the two.")

    from alexnet_fast.files import check_target
    from alexnet_fast.interchange.imports import classes_of, import_weights, read_classes

    check_target(out, "CHECKPOINT", (".pt",))
    named = read_classes(classes) if classes else classes_of(shards) if shards else None
    note = import_weights(file, out, named, mean)
    show(f"{out}: {note}", {"out": str(out), "note": note}, json_file)


COMMANDS = (evaluate_command, predict_command, features_command, report_command, export_command, import_command)
