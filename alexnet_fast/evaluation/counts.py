"""What follows from predictions and labels: intervals, each class' accuracy, the classes most often confused."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Z95 = 1.959964
"""The normal distribution's quantile at 0.975."""


def wilson(share: float, of: int) -> list[float]:
    """The 95 % interval [low, high] of a share seen in `of` trials; all three in per cent (Wilson 1927). The same
    images always give the same share: the interval is that of other images drawn alike."""
    p, z2 = share / 100, Z95**2
    middle = (p + z2 / (2 * of)) / (1 + z2 / of)
    half = Z95 * (p * (1 - p) / of + z2 / (4 * of**2)) ** 0.5 / (1 + z2 / of)
    return [100 * max(middle - half, 0.0), 100 * min(middle + half, 1.0)]


def per_class(
    predictions: NDArray[np.int64], labels: NDArray[np.int64], classes: list[dict[str, str]]
) -> list[dict[str, Any]]:
    """By class index: id, name, images, top1 and top5 in per cent and their 95 % intervals (None without images).
    `predictions` (n, up to 5): class indexes, the best first; `labels` (n,)."""
    right = predictions == labels[:, None]
    images, top1, top5 = (
        np.bincount(labels, weights, minlength=len(classes)) for weights in (None, right[:, 0], right.any(1))
    )
    rows = []
    for label, entry in enumerate(classes):
        row: dict[str, Any] = {**entry, "images": int(images[label])}
        for name, count in (("top1", top1[label]), ("top5", top5[label])):
            share = 100 * float(count / images[label]) if images[label] else None
            row[name] = share
            row[f"{name}_interval"] = None if share is None else wilson(share, row["images"])
        rows.append(row)
    return rows


def confused(
    labels: NDArray[np.int64], predictions: NDArray[np.int64], count: int
) -> list[tuple[int, int, int, float]]:
    """The `count` most frequent mistakes, the worst first, then by class index: label, prediction, images, share of the
    label's images. `labels` and `predictions`: (n,) class indexes."""
    wrong = labels != predictions
    pairs, images = np.unique(np.stack([labels[wrong], predictions[wrong]], 1), axis=0, return_counts=True)
    order = np.argsort(-images, kind="stable")[:count]
    return [
        (int(label), int(prediction), int(n), float(n / (labels == label).sum()))
        for (label, prediction), n in zip(pairs[order], images[order], strict=True)
    ]


def worst_pairs(
    predictions: NDArray[np.int64], labels: NDArray[np.int64], classes: list[dict[str, str]], count: int = 20
) -> list[dict[str, Any]]:
    """`confused` of the first of `predictions` (n, up to 5), for JSON: both classes by id, the share in per cent."""
    return [
        {"label": classes[label]["id"], "guess": classes[prediction]["id"], "images": images, "share": 100 * share}
        for label, prediction, images, share in confused(labels, predictions[:, 0], count)
    ]
