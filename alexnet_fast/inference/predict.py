"""Images -> the classes that a network predicts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from alexnet_fast.evaluation.scoring import predict, views_of
from alexnet_fast.inference.images import ImageFiles
from alexnet_fast.inference.networks import Network
from alexnet_fast.text import printable


@dataclass(frozen=True)
class Prediction:
    id: str
    name: str
    probability: float


def predict_images(
    network: Network, paths: list[Path], *, views: int = 1, best: int = 5
) -> tuple[dict[Path, list[Prediction]], ImageFiles]:
    """By image, its `best` likeliest classes, the likeliest first; and the files, with those that are left out.

    `paths`: images and folders. `views`: 1 or 10, as in evaluation. Raises InputError when there is no image.
    """
    images = ImageFiles(network, paths)
    predictions: dict[Path, list[Prediction]] = {}
    for files, pixels in images:
        with torch.inference_mode():
            probabilities = predict([network.model], views_of(pixels, network.crop, views))
        top = probabilities.topk(min(best, len(network.classes)), dim=1)
        for file, shares, labels in zip(files, top.values.tolist(), top.indices.tolist(), strict=True):
            named = ((network.classes[label]["id"], network.names[label]) for label in labels)
            predictions[file] = [Prediction(*who, share) for who, share in zip(named, shares, strict=True)]
    return predictions, images


def as_table(predictions: dict[Path, list[Prediction]]) -> str:
    """A line an image: its predictions, each with its probability in per cent."""
    lines = (
        f"{printable(str(file))}  " + ", ".join(f"{printable(one.name)} {100 * one.probability:.1f} %" for one in best)
        for file, best in predictions.items()
    )
    return "\n".join(lines)
