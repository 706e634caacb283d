"""Runs and pages that the tests of the report share."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from alexnet_fast.inference.evaluations import EVALUATIONS
from alexnet_fast.report.page import write_report
from alexnet_fast.training import checkpoint

NASTY = '</td><script>alert("1")</script> $x^{ & é 雪\n\'"'


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def evaluation(**values: Any) -> dict[str, Any]:
    """A line that `eval` keeps: 50 and 90 of 100 images right."""
    about = {
        "time": "2026-11-30T21:44:25+00:00",
        "checkpoint": "best.pt",
        "epochs": 1,
        "shards": "/set",
        "split": "val",
    }
    scores = {"top1": 50.0, "top1_interval": [40.4, 59.6], "top5": 90.0, "top5_interval": [82.6, 94.5]}
    return {**about, "views": 1, "crop": 84, "precision": "fp32", "images": 100, "damaged": 0, **scores, **values}


def keep_evaluations(run: Path, *lines: Any) -> None:
    (run / EVALUATIONS).write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def run(trained_run: Path, tmp_path: Path) -> Path:
    """A copy, to be changed."""
    return shutil.copytree(trained_run, tmp_path / "run")


@pytest.fixture(scope="module")
def nasty_page(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class names, the run's path and a setting hold what HTML, matplotlib and file systems trip over."""
    folder = tmp_path_factory.mktemp("nasty") / NASTY.replace("/", "-")
    shutil.copytree(trained_run, folder)
    (folder / "last.pt").unlink()
    state = checkpoint.load(folder / "best.pt")
    state["classes"] = [{**entry, "name": f"{i} {NASTY}"} for i, entry in enumerate(state["classes"])]
    checkpoint.save(folder / "best.pt", state)
    change(folder / "config.json", init=NASTY, arch="<b>", of_the_future=[1])
    keep_evaluations(folder, evaluation(shards=NASTY, split="<i>"))
    write_report([folder], folder / "report.html")
    return folder / "report.html"
