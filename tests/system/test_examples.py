"""tools/examples, each run as it is on a small set."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUN = (
    "import runpy, sys, tests.torchvision_here; runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)


def run(example: str, *arguments: object) -> str:
    command = [sys.executable, "-c", RUN, f"tools.examples.{example}", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_resnet18_in_plain_torch(jpeg_shards: Path) -> None:
    pytest.importorskip("tests.torchvision_here")  # timm needs it
    lines = run("resnet18", jpeg_shards, "--epochs", 4, "--batch", 20, "--crop", 64, "--lr", 0.02).splitlines()
    found = [re.fullmatch(r"epoch +(\d+)  loss ([\d.]+)  top-1 ([\d.]+) %", line) for line in lines]
    assert [match and match[1] for match in found] == ["1", "2", "3", "4"]
    losses = [float(match[2]) for match in found if match]
    assert losses[-1] < 0.8 * losses[0]


def test_resnet18_with_lightning(jpeg_shards: Path, tmp_path: Path) -> None:
    pytest.importorskip("tests.torchvision_here")
    if find_spec("lightning") is None:
        pytest.skip("needs Lightning")
    shown = run("lightning_resnet18", jpeg_shards, "--epochs", 2, "--batch", 20, "--crop", 64, "--out", tmp_path)
    metrics = re.search(r"\{'loss.*\}", shown)
    assert metrics, shown
    assert {"loss", "top1"} <= set(re.findall(r"'(\w+)'", metrics[0]))
    assert list(tmp_path.rglob("*.ckpt"))
