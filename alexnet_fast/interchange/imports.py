"""Weights of other programs -> a checkpoint that `eval`, `predict`, `features` and `--set init=` take."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alexnet_fast.config import TrainConfig
from alexnet_fast.environment import install_command
from alexnet_fast.errors import InputError
from alexnet_fast.interchange.caffemodel import read_layers, read_mean
from alexnet_fast.model.alexnet import build
from alexnet_fast.sharding.rule import Rule
from alexnet_fast.shards.format import Pixels, fits
from alexnet_fast.training import checkpoint

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""RGB of pixels / 255: what torchvision's weights expect (its AlexNet_Weights.transforms)."""
CAFFE_MEAN = [122.67891434, 116.66876762, 104.00698793]
"""RGB 0-255, the channel means of Caffe's ilsvrc_2012_mean (its examples/00-classification)."""

Classes = list[dict[str, str]]


def import_weights(path: Path, out: Path, classes: Classes | None, mean: Path | None = None) -> str:
    """Writes the checkpoint `out` from `path`, in the format of its suffix, one of FORMATS; returns what to know.

    `classes`: in the order of the network's outputs; a .safetensors file has its own. `mean`: Caffe's mean image;
    None: CAFFE_MEAN. Raises InputError when the file is not such a network, or `classes` are not as many.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist. Name a file that ends in {', '.join(FORMATS)}.")
    if path.suffix not in FORMATS:
        raise InputError(f"{path} must end in {', '.join(FORMATS)}, by its format.")
    if path.suffix == ".safetensors" and classes is not None:
        raise InputError(f"{path} has its own classes: leave out --classes and --shards.")
    if path.suffix != ".safetensors" and classes is None:
        raise InputError(
            f"{path} does not name its classes. Give --classes synset_words.txt, a line an output of the network, or "
            "--shards with a set of the same classes."
        )
    if mean is not None and path.suffix != ".caffemodel":
        raise InputError(f"--mean is for a caffemodel; {path} has its own.")
    state, note = FORMATS[path.suffix](path, classes or [], mean)
    checkpoint.save(out, {"epoch": 0, **state})
    return note


def from_torchvision(path: Path, classes: Classes, mean: Path | None) -> tuple[dict[str, Any], str]:
    """torchvision's state dict (alexnet-owt-*.pth): it becomes `onetower`, whose conv1 divides by 255 * std.

    Our own export has that layout too, but another input: it is refused by the file that `export` put beside it.
    """
    beside = path.with_suffix(".json")
    if beside.is_file() and "mean_of_255" in beside.read_text(encoding="utf-8", errors="replace"):
        raise InputError(
            f"{path} was exported by alexnet-fast (see {beside}), with another input than torchvision's. Name the run "
            "it came from instead, or export that as .safetensors."
        )
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds on a corrupt file
        raise InputError(
            f"{path} cannot be read as a state dict: it is corrupt, another program's, or a whole pickled module. Of a "
            "module, save the state dict: torch.save(module.state_dict(), FILE)."
        ) from error
    _check(weights, "features.0.weight", path)
    hidden = _check(weights, "classifier.1.weight", path)
    config = TrainConfig(recipe="imported", arch="onetower", crop=224, hidden=hidden)
    scale = 255 * torch.tensor(IMAGENET_STD)[:, None, None]
    weights = {**weights, "features.0.weight": weights["features.0.weight"] / scale}
    pixels = _pixels([255 * value for value in IMAGENET_MEAN])
    note = "pixels / 255 divided by torchvision's standard deviation is folded into conv1, exactly"
    return _state(path, weights, config, classes, pixels, 256), note


def from_caffe(path: Path, classes: Classes, mean: Path | None) -> tuple[dict[str, Any], str]:
    """BVLC's AlexNet: it becomes `caffe`. Its conv1 takes BGR, so the maps are reversed.

    Caffe subtracts a mean image, this program one mean a channel; of pixels the two differ by up to some 10 of 255.
    """
    layers = read_layers(path)
    order = list(layers)
    if {"pool1", "norm1"} <= layers.keys() and order.index("pool1") < order.index("norm1"):
        raise InputError(
            f"{path} pools before it normalises, as CaffeNet does: that is another network. BVLC's AlexNet "
            "(bvlc_alexnet.caffemodel) can be imported."
        )
    weights: dict[str, Tensor] = {}
    for name in ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"):
        if len(layers.get(name, [])) != 2:
            raise InputError(f"{path} has no weights and biases of {name}: it is no AlexNet of BVLC's.")
        part = "features" if name.startswith("conv") else "classifier"
        matrix, bias = (torch.from_numpy(blob.copy()) for blob in layers[name])
        weights[f"{part}.{name}.bias"] = bias.flatten()
        weights[f"{part}.{name}.weight"] = matrix if part == "features" else matrix.reshape(matrix.shape[-2:])
    weights["features.conv1.weight"] = weights["features.conv1.weight"].flip(1)
    hidden = _check(weights, "classifier.fc6.weight", path)
    config = TrainConfig(recipe="imported", arch="caffe", crop=227, hidden=hidden)
    rgb = CAFFE_MEAN if mean is None else read_mean(mean)
    note = (
        f"BGR became RGB; of the mean image the channels' means are taken, {', '.join(f'{v:.2f}' for v in rgb)}. "
        "Caffe's own images are warped to 256x256, here the central square is taken: accuracies may differ a little"
    )
    return _state(path, weights, config, classes, _pixels(rgb), 256), note


def from_safetensors(path: Path, classes: Classes, mean: Path | None) -> tuple[dict[str, Any], str]:
    """What `export` wrote."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise InputError(f"{path} needs a library that is missing: {install_command('export')}") from error
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        config, classes, pixels, size = (json.loads(metadata[key]) for key in ("config", "classes", "pixels", "size"))
        rule = json.loads(metadata.get("rule", "{}"))
        for value, kind in ((config, TrainConfig), (classes, Classes), (pixels, Pixels), (size, int), (rule, Rule)):
            if not fits(value, kind):
                raise TypeError(f"{value!r:.40} is no {kind}")
        config, pixels = TrainConfig(**config), vars(Pixels(**pixels))
        classes = [{"id": entry["id"], "name": entry["name"]} for entry in classes]
        rule = asdict(Rule(**rule))
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path} is no complete file of alexnet-fast export: {error}.") from error
    state = _state(path, weights, config, classes, pixels, size)
    return {**state, "rule": rule}, f"arch {config.arch}, as it was exported"


FORMATS: dict[str, Callable[[Path, Classes, Path | None], tuple[dict[str, Any], str]]] = {
    ".pth": from_torchvision,
    ".caffemodel": from_caffe,
    ".safetensors": from_safetensors,
}
"""By suffix."""


def read_classes(path: Path) -> Classes:
    """A class a line, `n01440764 tench, Tinca tinca` as in Caffe's synset_words.txt, in the order of class indexes.

    Without a second word the id is the name too. Raises InputError when the file cannot be read or names one twice.
    """
    try:
        lines = [line.split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}). --classes takes a class id and name a line.") from error
    ids = [line[0] for line in lines]
    twice = next((f"{name} twice" for name in ids if ids.count(name) > 1), None)
    if not ids or twice:
        raise InputError(f"{path} names {twice or 'no class'}. --classes takes a class id and name a line.")
    return [{"id": line[0], "name": line[-1].strip()} for line in lines]


def _state(
    path: Path, weights: dict[str, Tensor], config: TrainConfig, classes: Classes, pixels: dict[str, Any], size: int
) -> dict[str, Any]:
    """The checkpoint's content. Raises InputError when the weights are not those of such a network."""
    if other := next((name for name, values in weights.items() if not isinstance(values, Tensor)), None):
        raise InputError(f"{path} holds {other}, which is no tensor: it is not the weights alone.")
    try:
        with torch.device("meta"):  # takes no memory, whatever sizes a corrupt file claims
            model = build(len(classes), config)
        model.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        reason, hint = " ".join(str(error).split()[:40]), ""
        outputs = [len(values) for values in weights.values() if values.ndim == 2][-1:]
        if outputs and outputs != [len(classes)]:
            hint = f" It has {outputs[0]} outputs for {len(classes)} classes."
        raise InputError(f"{path} is not a network of arch {config.arch}.{hint} Torch's error: {reason}") from error
    weights = model.float().state_dict()
    return {"model": weights, "config": config.as_dict(), "classes": classes, "pixels": pixels, "size": size}


def _check(weights: Any, name: str, path: Path) -> int:
    """The first length of the tensor of that name. Raises InputError when there is none."""
    tensor = weights.get(name) if isinstance(weights, dict) else None
    if not isinstance(tensor, Tensor) or not tensor.ndim:
        raise InputError(f"{path} has no {name}: it is no AlexNet in that layout.")
    return len(tensor)


def _pixels(mean: list[float]) -> dict[str, Any]:
    """Statistics of which only the mean is known; inference needs no other."""
    zeros = [0.0, 0.0, 0.0]
    return {"mean": mean, "covariance": [zeros] * 3, "deviations": zeros, "components": np.eye(3).tolist()}
