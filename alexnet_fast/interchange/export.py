"""Networks in the formats of other programs: torchvision's layout, safetensors, ONNX."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from alexnet_fast.environment import install_command
from alexnet_fast.errors import InputError, TrainingError
from alexnet_fast.files import written
from alexnet_fast.inference.networks import Network
from alexnet_fast.model.alexnet import build


def export(network: Network, out: Path) -> str:
    """Writes `out`, in the format of its suffix, one of FORMATS; returns what to know about it.

    The network must be on the CPU. Raises InputError when the format cannot hold it or a library is missing.
    """
    try:
        return FORMATS[out.suffix](network, out)
    except ImportError as error:
        raise InputError(
            f"{out.suffix} needs a library that is missing ({error}): {install_command('export')}"
        ) from error


def about(network: Network) -> dict[str, Any]:
    """What a user of the exported network must know: sizes in pixels, mean RGB 0-255, classes in order."""
    mean = network.pixels.mean
    return {
        "arch": network.config.arch,
        "input": {"layout": "NCHW, RGB", "resize_shorter_side": network.stored, "central_crop": network.crop},
        "mean_of_255": mean,
        "after_to_tensor": {"normalize_mean": [value / 255 for value in mean], "normalize_std": [1 / 255] * 3},
        "output": "logits, a class a column",
        "classes": network.classes,
    }


def to_torchvision(network: Network, out: Path) -> str:
    """A state dict that torchvision.models.alexnet(num_classes=...) loads, and beside it a .json of `about`.

    Logits are the same when its input is ToTensor() and Normalize(mean / 255, 1 / 255): the pixels' own scale. With
    torchvision's usual Normalize they are not, and folding that into conv1 would be wrong at the padded border.
    """
    arch, hidden = network.config.arch, network.config.hidden
    if arch not in ("onetower", "bn"):
        raise InputError(
            f"torchvision's AlexNet has neither towers nor local response normalisation, so {network.path}, which is "
            f"{arch}, does not fit its layout. Export it as .onnx or .safetensors, or train --arch onetower or bn."
        )
    if hidden != 4096:
        raise InputError(
            f"torchvision's AlexNet has 4096 units in fc6 and fc7, {network.path} has {hidden}. Export it as .onnx or "
            ".safetensors."
        )
    folded: list[Any] = []  # the layers with weights; batch norm in the convolution before it gives the same numbers
    for module in [*network.model.features, *network.model.classifier]:
        if isinstance(module, nn.BatchNorm2d):
            folded[-1] = fuse_conv_bn_eval(folded[-1], module)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            folded.append(module)
    model = build(len(network.classes), replace(network.config, arch="onetower"))
    for layer, source in zip(model.layers().values(), folded, strict=True):
        layer.load_state_dict(source.state_dict())
    with written(out) as temporary, written(out.with_suffix(".json")) as note:
        torch.save({name: values.contiguous() for name, values in model.state_dict().items()}, temporary)
        note.write_text(json.dumps(about(network), indent=1) + "\n", encoding="utf-8")
    return (
        f"torchvision.models.alexnet(num_classes={len(network.classes)}) loads it. Its input: see after_to_tensor in "
        f"{out.with_suffix('.json')}; torchvision's usual Normalize gives other logits"
    )


def to_safetensors(network: Network, out: Path) -> str:
    """Our own state dict; `about`, the configuration and the pixels' statistics are metadata, as JSON."""
    from safetensors.torch import save

    facts = {
        "config": network.config.as_dict(),
        "classes": network.classes,
        "pixels": vars(network.pixels),
        "size": network.stored,
        "rule": asdict(network.rule),
        "about": about(network),
    }
    metadata = {"format": "pt", **{name: json.dumps(fact) for name, fact in facts.items()}}
    weights = {name: values.contiguous() for name, values in network.model.state_dict().items()}
    with written(out) as temporary:
        temporary.write_bytes(save(weights, metadata))
    return f"alexnet-fast import {out} makes a checkpoint of it again"


def to_onnx(network: Network, out: Path) -> str:
    """Input `images` (N, 3, crop, crop) float32, RGB 0-255, whose mean is subtracted inside -> `logits`.

    Before the file gets its name, onnxruntime computes two images of noise with it. Raises TrainingError when its
    logits are not torch's to within 1e-3 of their range.
    """
    import onnx
    import onnxruntime

    from alexnet_fast.interchange.onnx_graph import OPSET, onnx_graph

    model = onnx_graph(network.model, network.crop, network.pixels.mean)
    onnx.helper.set_model_props(model, {"about": json.dumps(about(network))})
    onnx.checker.check_model(model, full_check=True)
    noise = torch.randint(0, 256, (2, 3, network.crop, network.crop)).float()
    with torch.inference_mode():
        ours = network.model(noise - torch.tensor(network.pixels.mean)[:, None, None])
    with written(out) as temporary:
        onnx.save(model, temporary)
        session = onnxruntime.InferenceSession(temporary, providers=["CPUExecutionProvider"])
        (theirs,) = session.run(["logits"], {"images": noise.numpy()})
        difference = float((ours - torch.from_numpy(theirs)).abs().max() / (ours.max() - ours.min()).clamp(min=1e-6))
        if not difference < 1e-3:
            raise TrainingError(
                f"onnxruntime's logits differ from torch's by {difference:.1e} of their range, so {out} was not "
                "written. Check with alexnet-fast eval whether the network works at all."
            )
    return (
        f"opset {OPSET}; input images (N, 3, {network.crop}, {network.crop}) RGB 0-255, output logits; onnxruntime's "
        f"differ from torch's by {difference:.0e} of their range"
    )


FORMATS: dict[str, Callable[[Network, Path], str]] = {
    ".pth": to_torchvision,
    ".safetensors": to_safetensors,
    ".onnx": to_onnx,
}
"""By suffix."""
