"""The paper's figures, drawn of made-up errors and of a run."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from alexnet_fast.paper import figures, runs
from alexnet_fast.paper.measures import BASE
from alexnet_fast.training import checkpoint
from tests.paper.made_up import made_up


def test_figure_1_is_the_training_error_of_both() -> None:
    errors = {"ReLU": np.array([80.0, 40.0, 20.0]), "tanh": np.array([90.0, 70.0, 50.0])}
    axes = Figure().add_subplot()
    figures.draw_errors(axes, errors)
    *curves, level = axes.lines
    for curve, (name, each) in zip(curves, errors.items(), strict=True):
        assert curve.get_label() == name
        assert np.array_equal(curve.get_xydata(), list(enumerate(each, 1)))
    assert np.array_equal(level.get_ydata(), [25, 25])


@pytest.mark.system  # draws five figures
def test_figures_of_what_is_there(trained_run: Path, raw_shards: Path, tmp_path: Path) -> None:
    """Figure 1 waits for tanh; one that cannot be drawn is named and the others come."""
    given = {"epochs": 2, "batch": 16, "hidden": 32}
    experiment = runs.Experiment(tmp_path, [], str(raw_shards), None, given)
    logged: list[str] = []
    assert figures.write(experiment, {}, logged.append) == []
    shutil.copytree(trained_run, tmp_path / "base-1")
    found = {BASE: {1: made_up(9, 9)}}
    made = figures.write(experiment, found, logged.append)
    assert [path.name for path in made] == ["figure3.png", "figure4.png"]
    for path in made:
        ink = np.asarray(Image.open(path).convert("L")) < 128
        assert all(0.01 < half.mean() < 0.6 for half in np.array_split(ink, 2, axis=1))
    state = checkpoint.load(tmp_path / "base-1" / "last.pt")
    state["config"]["shards"] = state["shards_path"] = "moved/away"
    checkpoint.save(tmp_path / "base-1" / "last.pt", state)
    found["tanh"] = {seed: made_up(9, 9) for seed in (0, 1)}
    assert [path.name for path in figures.write(experiment, found, logged.append)] == [
        "figure1.png",
        "figure3.png",
    ]
    (left_out,) = logged
    assert left_out.startswith("left out: figure4.png: moved/away is not a shard set")
