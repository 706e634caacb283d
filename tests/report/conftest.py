"""Runs and pages that the tests of the report share."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from alexnet_fast.report.page import write_report
from alexnet_fast.training import checkpoint

NASTY = '</td><script>alert("1")</script> $x^{ & é 雪\n\'"'


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


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
    write_report([folder], folder / "report.html")
    return folder / "report.html"
