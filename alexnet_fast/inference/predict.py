"""Images -> the classes that a network predicts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from alexnet_fast.evaluation.scoring import predict, views_of
from alexnet_fast.inference.images import ImageFiles, find_images
from alexnet_fast.inference.networks import Network


@dataclass(frozen=True)
class Prediction:
    id: str
    name: str
    probability: float


def predict_images(
    network: Network, paths: list[Path], *, views: int = 1, best: int = 5
) -> tuple[dict[Path, list[Prediction]], dict[Path, str]]:
    """By image, its `best` likeliest classes, the likeliest first; and by file that cannot be read, the reason.

    `paths`: images and folders. `views`: 1 or 10, as in evaluation. Raises InputError when there is no image.
    """
    images = ImageFiles(network, find_images(paths))
    predictions: dict[Path, list[Prediction]] = {}
    for files, pixels in images:
        with torch.inference_mode():
            probabilities = predict([network.model], views_of(pixels, network.crop, views))
        top = probabilities.topk(min(best, len(network.classes)), dim=1)
        for file, shares, labels in zip(files, top.values.tolist(), top.indices.tolist(), strict=True):
            named = ((network.classes[label]["id"], network.names[label]) for label in labels)
            predictions[file] = [Prediction(*who, share) for who, share in zip(named, shares, strict=True)]
    return predictions, dict(images.unread)


def as_table(predictions: dict[Path, list[Prediction]]) -> str:
    """A line an image: its predictions, each with its probability in per cent."""
    lines = (
        f"{file}  " + ", ".join(f"{prediction.name} {100 * prediction.probability:.1f} %" for prediction in best)
        for file, best in predictions.items()
    )
    return "\n".join(lines)
