"""Pictures of a run: training curves, and images with their five best guesses (the paper's Figure 4, left)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from alexnet_fast.config import TrainConfig
from alexnet_fast.loading.loader import Loader
from alexnet_fast.loading.plan import Rows
from alexnet_fast.results.evaluate import predict
from alexnet_fast.shardset import Pixels, ShardSet
from alexnet_fast.training import checkpoint

COLUMNS, ROWS = 5, 2


def draw_run(run: Path, out: Path) -> None:
    """One PNG: loss and accuracy of the run above, ten validation images with their five best guesses below."""
    images, labels, probabilities, names = guess(run, COLUMNS * ROWS)
    figure = plt.figure(figsize=(13, 12), layout="constrained")
    grid = figure.add_gridspec(1 + 2 * ROWS, 2 * COLUMNS, height_ratios=[2.4, *(1.6, 1.0) * ROWS])
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    draw_loss(figure.add_subplot(grid[0, :COLUMNS]), lines)
    draw_accuracy(figure.add_subplot(grid[0, COLUMNS:]), lines)
    for i, (image, label, probability) in enumerate(zip(images, labels, probabilities, strict=True)):
        row, column = 1 + 2 * (i // COLUMNS), 2 * (i % COLUMNS)
        picture = figure.add_subplot(grid[row, column : column + 2])
        picture.imshow(image)
        picture.set_title(names[label], fontsize=10)
        picture.axis("off")
        draw_guesses(figure.add_subplot(grid[row + 1, column : column + 2]), probability, label, names)
    temporary = out.with_name(f".{out.name}.tmp.png")
    figure.savefig(temporary, dpi=110)
    plt.close(figure)
    os.replace(temporary, out)


def guess(run: Path, count: int) -> tuple[NDArray[np.uint8], list[int], NDArray[np.float32], list[str]]:
    """`count` validation images, class by class: RGB (n, S, S, 3), labels, softmax (n, classes), names of classes."""
    state = checkpoint.load(checkpoint.find(run))
    config = TrainConfig(**state["config"])
    split = ShardSet(config.shards).split("val")
    by_class = [np.flatnonzero(split.labels == label) for label in np.unique(split.labels)]
    turns = [samples[turn] for turn in range(max(map(len, by_class))) for samples in by_class if turn < len(samples)]
    chosen = np.array(turns[:count])
    n, edge = len(chosen), (split.size - config.crop) // 2
    rows = Rows(0, 0, chosen, np.full((n, 2), edge, np.uint16), np.zeros(n, bool), np.zeros((n, 3), np.float32))
    pixels = Pixels(**state["pixels"])
    device = torch.device("cpu")
    (batch,) = Loader(split, pixels, [rows], max_batch=n, crop=config.crop, device=device)
    with torch.inference_mode():
        probabilities = predict([checkpoint.build_model(state)], [batch.images]).numpy()
    images = batch.images.permute(0, 2, 3, 1).numpy() + np.array(pixels.mean)
    names = [entry["name"] for entry in state["classes"]]
    return images.round().clip(0, 255).astype(np.uint8), batch.labels.tolist(), probabilities, names


def draw_loss(axes: Axes, lines: list[dict[str, Any]]) -> None:
    steps = [line for line in lines if "loss" in line]
    axes.plot([line["step"] for line in steps], [line["loss"] for line in steps], color="black", linewidth=1)
    axes.set(title="Training loss", xlabel="step", ylabel="cross-entropy")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)


def draw_accuracy(axes: Axes, lines: list[dict[str, Any]]) -> None:
    epochs = [line for line in lines if "val_top1" in line]
    numbers = [line["epoch"] for line in epochs]
    axes.plot(numbers, [line["val_top1"] for line in epochs], "o-", color="black", label="top-1")
    axes.plot(numbers, [line["val_top5"] for line in epochs], "s--", color="grey", label="top-5")
    axes.set(title="Validation accuracy, one view", xlabel="epoch", ylabel="per cent", ylim=(0, 102))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)


def draw_guesses(axes: Axes, probability: NDArray[np.float32], label: int, names: list[str]) -> None:
    """Horizontal bars of the five best guesses, the right one dark."""
    best = np.argsort(probability)[::-1][:5]
    colours = ["black" if guess == label else "lightgrey" for guess in best]
    axes.barh(range(len(best)), probability[best], color=colours, edgecolor="grey")
    for place, guess in enumerate(best):
        inside = guess == label and probability[guess] > 0.5
        axes.text(0.03, place, names[guess], va="center", fontsize=9, color="white" if inside else "black")
    axes.set(xlim=(0, 1), ylim=(len(best) - 0.5, -0.5), xticks=[], yticks=[])
