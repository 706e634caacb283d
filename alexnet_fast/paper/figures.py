"""The paper's figures 1, 3 and 4, of the networks that `paper` trained."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from alexnet_fast.errors import InputError, TrainingError
from alexnet_fast.files import written
from alexnet_fast.inference.networks import open_network
from alexnet_fast.paper.measures import BASE, FIGURE_1, Found
from alexnet_fast.paper.runs import Experiment
from alexnet_fast.paper.statistics import Array
from alexnet_fast.report import insight
from alexnet_fast.report.figures import conv1_pictures, draw_examples, draw_kernels, draw_neighbours

NUM_EXAMPLES, QUERIES, NEAREST = 8, 5, 6
"""As many as the paper's Figure 4 has."""
SEARCHED = 2000
"""Training images among which the neighbours are searched, at most."""


def write(experiment: Experiment, found: Found, log: Callable[[str], None]) -> list[Path]:
    """Draws the figures whose networks are done, of the first seed that is, into the experiment's folder. Returns the
    files; logs why one could not be drawn."""
    figures: dict[str, Callable[[Figure], None]] = {}
    if seeds := sorted(found.get(BASE, {}).keys() & found.get("tanh", {}).keys()):
        errors = {"ReLU": found[BASE][seeds[0]].errors, "tanh": found["tanh"][seeds[0]].errors}
        figures["figure1.png"] = lambda figure: draw_errors(figure.add_subplot(), errors)
    if found.get(BASE):
        last = experiment.run(BASE, min(found[BASE])).last
        figures |= {"figure3.png": partial(_draw_kernels, last), "figure4.png": partial(_draw_predictions, last)}
    drawn = []
    for name, draw in figures.items():
        figure = Figure(layout="constrained")
        try:
            draw(figure)
            with written(experiment.out / name) as temporary:
                figure.savefig(temporary, dpi=150)
            drawn.append(experiment.out / name)
        except (InputError, TrainingError, OSError) as error:
            log(f"left out: {name}: {error}")
    return drawn


def draw_errors(axes: Axes, errors: dict[str, Array]) -> None:
    """`errors`: training error by epoch, per cent, of two networks. Dotted: where Figure 1 counts the epochs."""
    for (name, each), style in zip(errors.items(), ("-", "--"), strict=True):
        axes.plot(range(1, len(each) + 1), each, style, marker="o", markersize=3, color="black", label=name)
    axes.axhline(FIGURE_1, color="grey", linestyle=":")
    axes.set(xlabel="epoch", ylabel="training error, per cent", xlim=(0, None), ylim=(0, 100))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.legend()


def _draw_kernels(last: Path, figure: Figure) -> None:
    figure.set_size_inches(7.2, 3.8)
    draw_kernels(figure, conv1_pictures(open_network(last).model))


def _draw_predictions(last: Path, figure: Figure) -> None:
    """Examples with their predictions beside nearest neighbours."""
    network, shards = insight.open_with_shards(last)
    figure.set_size_inches(16, 7.5)
    grid = figure.add_gridspec(1, 2)
    left, right = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
    draw_examples(left, insight.find_examples(network, shards, NUM_EXAMPLES), network.names, NUM_EXAMPLES // 2)
    draw_neighbours(right, insight.find_neighbours(network, shards, QUERIES, NEAREST, SEARCHED), network.names)
