"""Figures of a run, readable in black and white: curves, conv1's kernels, predictions, a confusion matrix.

Each function draws data into the axes, or the figure, that it is given.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from alexnet_fast.files import written
from alexnet_fast.model.alexnet import AlexNet
from alexnet_fast.report.insight import Examples, Neighbours, find_examples, open_with_shards
from alexnet_fast.report.record import RunRecord, read_run, run_names

COLUMNS, ROWS = 5, 2
COLOURS = ("black", "#0072b2", "#d55e00", "#56b4e9")
"""Of the runs in a comparison: they differ in lightness too."""
DASHES = ("-", "--", "-.", ":")
MOST_POINTS = 1000
"""Points of a curve; neighbouring ones of a longer log are averaged."""
KERNELS_A_ROW = 16


def draw_run(run: Path, out: Path) -> None:
    """One PNG: loss and accuracy of the run above, ten validation images with their five best predictions below."""
    records, (network, shards) = [read_run(run)], open_with_shards(run)
    figure = Figure(figsize=(13, 12), layout="constrained")
    grid = figure.add_gridspec(2, 1, height_ratios=[2.4, 2.6 * ROWS])
    above, below = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
    loss, accuracy = above.subplots(1, 2)
    draw_loss(loss, records)
    draw_accuracy(accuracy, records)
    draw_examples(below, find_examples(network, shards, COLUMNS * ROWS), network.names, COLUMNS)
    with written(out) as temporary:
        figure.savefig(temporary, dpi=110)


def draw_loss(axes: Axes, records: list[RunRecord]) -> None:
    """Over steps, or over images where the runs' batches differ."""
    same = len({record.config["batch"] for record in records}) == 1
    for i, record in enumerate(records):
        x = record.column("step") * (1 if same else record.config["batch"])
        _draw_curve(axes, i, x, record.column("loss"))
    _finish(axes, records, "Training loss", "step" if same else "images seen", "cross-entropy")


def draw_accuracy(axes: Axes, records: list[RunRecord]) -> None:
    """Of one run, epoch by epoch: validation top-1 and top-5, and top-1 of the training images."""
    (record,) = records
    lines, top1 = record.evaluations, record.training_top1()
    epochs, few = [line["epoch"] for line in lines], len(lines) <= 40
    axes.plot(epochs, [line["val_top1"] for line in lines], "-", marker="o" * few, color="black")
    axes.plot(epochs, [line["val_top5"] for line in lines], "--", marker="s" * few, color="grey")
    axes.plot(list(top1), list(top1.values()), ":", color="black")
    axes.legend(["top-1", "top-5", "top-1 of training images"], loc="best", fontsize=9)
    _finish(axes, records, "Validation accuracy, one view", "epoch", "per cent")
    axes.set_ylim(0, 102)


def draw_validation(axes: Axes, records: list[RunRecord], key: str) -> None:
    """Of several runs, epoch by epoch: `key` is val_top1 or val_top5."""
    for i, record in enumerate(records):
        epochs, values = ([line[name] for line in record.evaluations] for name in ("epoch", key))
        axes.plot(epochs, values, marker="o" * (len(epochs) <= 40), markersize=4, **_style(i))
    _finish(axes, records, f"Validation top-{key[-1]}, one view", "epoch", "per cent")
    axes.set_ylim(0, 102)


def draw_rate(axes: Axes, records: list[RunRecord]) -> None:
    _draw_over_time(axes, records, "images_per_second", 1, "Throughput", "images/s")


def draw_wait(axes: Axes, records: list[RunRecord]) -> None:
    _draw_over_time(axes, records, "data_wait", 100, "Time spent waiting for data", "per cent")
    axes.set_ylim(0, max(axes.get_ylim()[1], 5))


def draw_kernels(figure: Figure, towers: list[NDArray[np.float32]]) -> None:
    """The pictures that `kernel_pictures` makes, one below the other."""
    rows = figure.subplots(len(towers), 1, squeeze=False)
    for number, (axes, picture) in enumerate(zip(rows[:, 0], towers, strict=True), 1):
        axes.imshow(picture, interpolation="nearest")
        axes.axis("off")
        if len(towers) > 1:
            axes.set_title(f"tower {number}", fontsize=10, loc="left")


def conv1_pictures(model: AlexNet) -> list[NDArray[np.float32]]:
    """Of a network's first layer, as `kernel_pictures` makes them."""
    layers = model.layers()
    towers = max(getattr(layer, "groups", 1) for layer in layers.values())
    return kernel_pictures(layers["conv1"].weight.detach().numpy(), towers)


def kernel_pictures(weights: NDArray[np.float32], towers: int) -> list[NDArray[np.float32]]:
    """(K, 3, 11, 11) -> RGB 0-1, a picture a tower: 16 kernels a row, white lines between.

    Each kernel is scaled by its own largest weight, so that grey is 0.
    """
    scale = np.abs(weights).max((1, 2, 3), keepdims=True)
    tiles = (0.5 + weights / np.where(scale > 0, 2 * scale, 1)).astype(np.float32).transpose(0, 2, 3, 1)
    return [_grid(tower) for tower in np.split(tiles, towers)]


def _grid(tiles: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, h, w, 3) -> one picture, a white pixel between neighbours."""
    n, height, width, _ = tiles.shape
    tiles = np.pad(tiles, ((0, -n % KERNELS_A_ROW), (0, 1), (0, 1), (0, 0)), constant_values=1)
    rows = tiles.reshape(-1, KERNELS_A_ROW, height + 1, width + 1, 3).swapaxes(1, 2)
    return rows.reshape(-1, KERNELS_A_ROW * (width + 1), 3)[:-1, :-1]


def draw_confusion(axes: Axes, counts: NDArray[np.int64], names: list[str]) -> None:
    """`counts` (classes, classes): images of the row's class for which the column's was predicted."""
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Greys", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, f"{count}", ha="center", va="center", fontsize=8, color=colour)
    labels = [short(name) for name in names]
    places = range(len(names))
    axes.set_xticks(places, labels, rotation=45, ha="right", rotation_mode="anchor", fontsize=9, parse_math=False)
    axes.set_yticks(places, labels, fontsize=9, parse_math=False)
    axes.set(xlabel="predicted", ylabel="class")


def draw_examples(figure: FigureBase, examples: Examples, names: list[str], columns: int) -> None:
    """Images in rows; below each, bars of its five best predictions, the right one filled."""
    rows = -(-len(examples.labels) // columns)
    grid = figure.add_gridspec(2 * rows, columns, height_ratios=[1.6, 1.0] * rows)
    for i, label in enumerate(examples.labels):
        row, column = divmod(i, columns)
        _draw_image(figure.add_subplot(grid[2 * row, column]), examples.images[i], names[label])
        axes, best = figure.add_subplot(grid[2 * row + 1, column]), examples.best(i)
        colours = ["darkgrey" if one == label else "white" for one in best]
        axes.barh(range(len(best)), examples.probabilities[i, best], color=colours, edgecolor="grey")
        for place, one in enumerate(best):
            axes.text(0.03, place, short(names[one]), va="center", fontsize=9, parse_math=False)
        axes.set(xlim=(0, 1), ylim=(len(best) - 0.5, -0.5), xticks=[], yticks=[])


def draw_neighbours(figure: FigureBase, found: Neighbours, names: list[str]) -> None:
    """A row a query: first the query itself, with its class, then the nearest, with their classes where others."""
    rows = figure.subplots(len(found.queries), 1 + found.images.shape[1], squeeze=False)
    for i, row in enumerate(rows):
        label = found.query_labels[i]
        _draw_image(row[0], found.queries[i], names[label])
        for axes, image, other in zip(row[1:], found.images[i], found.labels[i], strict=True):
            _draw_image(axes, image, "" if other == label else names[other])


def _draw_image(axes: Axes, image: NDArray[np.uint8], title: str) -> None:
    axes.imshow(image)
    axes.set_title(short(title), fontsize=10, parse_math=False)
    axes.axis("off")


def short(text: str) -> str:
    """At most 28 characters, all of which can be drawn; of a longer text the start and the end."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= 28 else f"{text[:13]}…{text[-14:]}"


def thinned(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) -> at most MOST_POINTS means of neighbouring values."""
    if len(values) <= MOST_POINTS:
        return values
    return np.array([part.mean() for part in np.array_split(values, MOST_POINTS)])


def _draw_over_time(axes: Axes, records: list[RunRecord], key: str, factor: float, title: str, unit: str) -> None:
    times = [np.cumsum(record.seconds) for record in records]
    longest = max((float(time[-1]) for time in times if len(time)), default=0.0)
    name, seconds = ("h", 3600) if longest > 7200 else ("min", 60) if longest > 120 else ("s", 1)
    for i, (record, time) in enumerate(zip(records, times, strict=True)):
        _draw_curve(axes, i, time / seconds, record.column(key) * factor)
    _finish(axes, records, title, f"training time, {name}", unit)


def _draw_curve(axes: Axes, i: int, x: NDArray[np.float64], y: NDArray[np.float64]) -> None:
    marker = "o" if len(x) == 1 else ""
    axes.plot(thinned(x), thinned(y), marker=marker, linewidth=1.2, **_style(i))


def _style(i: int) -> dict[str, Any]:
    """Of the i-th run: 16 differ."""
    return {"color": COLOURS[i % 4], "linestyle": DASHES[(i + i // 4) % 4]}


def _finish(axes: Axes, records: list[RunRecord], title: str, xlabel: str, ylabel: str) -> None:
    highest = max(axes.dataLim.ymax, 0.0)
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel, xlim=(0, None), ylim=(0, 1.08 * highest or 1))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=xlabel == "epoch"))
    axes.grid(alpha=0.3)
    if len(records) > 1:
        columns, names = _legend_columns(records), [short(name) for name in run_names(records)]
        place: Any = "outside lower center"
        legend = axes.figure.legend(axes.lines, names, loc=place, ncols=columns, fontsize=9, handlelength=3.5)
        for text in legend.get_texts():
            text.set_parse_math(False)


def _legend_columns(records: list[RunRecord]) -> int:
    return 2 if max(len(short(name)) for name in run_names(records)) <= 18 else 1


def legend_lines(records: list[RunRecord]) -> int:
    """Lines of the legend below a figure that compares runs; none below that of one."""
    return 0 if len(records) == 1 else -(-len(records) // _legend_columns(records))
