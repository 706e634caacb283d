"""tools/gpu: all of it in small on the CPU; and that no point can spoil the record of the others."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import wait_for
from tools.gpu_points import report
from tools.gpu_points.__main__ import chosen, run_point
from tools.gpu_points.monitor import Monitor
from tools.gpu_points.point import POINTS
from tools.gpu_points.setup import Setup

ROOT = Path(__file__).resolve().parents[2]
NEED_GPUS = {"2": "needs a GPU, skipped", "8": "needs a GPU, skipped", "11": "needs 2 GPUs, skipped"}


def run(*options: str | Path) -> tuple[int, str]:
    """Exit code and output of tools/gpu on the CPU."""
    command = [ROOT / "tools" / "gpu", "--device", "cpu", *options]
    environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout


def test_all_points_run_on_the_cpu(tmp_path: Path) -> None:
    code, output = run("--minutes", "60", "--out", tmp_path)
    assert code == 0, output + (tmp_path / "output.txt").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", "numbers.json", "profile.txt", "output.txt"}
    points = json.loads((tmp_path / "numbers.json").read_text())["points"]
    assert {number: one["outcome"] for number, one in points.items()} == dict.fromkeys(POINTS, "done") | NEED_GPUS
    assert points["0"]["numbers"] == {"train images": 40, "val images": 10}
    checksums = points["3"]["numbers"]["checksums"]
    assert [one["batches"] for one in checksums.values()] == [3] * 4
    assert set(points["4"]["numbers"]) == {"batch", "DLPack", "copy_to_external"}
    joint = points["7"]["numbers"]["paper, batch 8, raw"]
    assert joint["images_per_second"] > 0
    assert 0 < joint["idle_by_events"] < 1
    assert points["9"]["numbers"]["resumed"]["steps"] == 10  # 2 epochs of 40 images in batches of 8, none lost
    page = (tmp_path / "README.md").read_text()
    assert f"| paper, batch 8, raw | {joint['images_per_second']:,.0f} |" in page
    assert "no number means anything" in page
    assert "see numbers.json" not in page
    assert "aten::" in (tmp_path / "profile.txt").read_text()


def test_a_point_that_fails_does_not_end_the_others(tmp_path: Path) -> None:
    """Nor what an earlier command left in the record."""
    nowhere = tmp_path / "nowhere"
    code, output = run("--images", nowhere, "--points", "3,11", "--out", tmp_path / "record")
    assert code == 1, output
    points = json.loads((tmp_path / "record" / "numbers.json").read_text())["points"]
    outcomes = {number: one["outcome"] for number, one in points.items()}
    assert outcomes["0"].startswith("failed: FileNotFoundError")
    assert str(nowhere) in outcomes["0"]
    assert outcomes["3"].startswith("failed: ")
    assert outcomes["11"] == NEED_GPUS["11"]
    assert list(points) == ["0", "3", "11"]
    assert run("--images", nowhere, "--points", "8", "--out", tmp_path / "record")[0] == 1
    points = json.loads((tmp_path / "record" / "numbers.json").read_text())["points"]
    assert list(points) == ["0", "3", "8", "11"]
    assert "| 8 | train --compile | needs a GPU, skipped |" in (tmp_path / "record" / "README.md").read_text()


def executable(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_a_point_is_ended_at_its_limit_with_all_it_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It keeps the numbers that it has written. Its process: the last argument is the file of its results."""
    python = tmp_path / "python"
    executable(python, f"sleep 1000 & echo $! > '{tmp_path}/child'; shift 4; echo '{{\"half\": 1}}' > \"$1\"; wait")
    monkeypatch.setattr(sys, "executable", str(python))
    result = run_point("5", Setup("cpu", str(tmp_path)), 1, tmp_path)
    assert result["outcome"] == "ended at its limit of 1 s"
    assert result["numbers"] == {"half": 1}
    child = Path("/proc", (tmp_path / "child").read_text().strip(), "stat")
    wait_for(lambda: not child.exists() or child.read_text().rpartition(") ")[2].startswith("Z"))


def test_power_clocks_and_memory_are_nvidia_smi_s(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    readings = ["100.00, 1000, 3201, 512", "[N/A], 1980, 3201, 1024", "700.50, 1980, 3201, 2048"]
    lines = "".join(f"echo '{line}'; " for line in readings)
    executable(tmp_path / "nvidia-smi", f"{lines} : > '{tmp_path}/printed'; exec sleep 1000")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with Monitor() as monitor:
        wait_for((tmp_path / "printed").exists)
    assert monitor.summary["mean_watts"] == pytest.approx((100 + 700.5) / 2)
    assert monitor.summary["max_watts"] == 700.5
    assert monitor.summary["mean_sm_mhz"] == pytest.approx((1000 + 1980 + 1980) / 3)
    assert monitor.summary["max_used_mib"] == 2048
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with Monitor() as monitor:
        pass
    assert monitor.summary == {}


def test_the_points_asked_for() -> None:
    assert chosen("3") == ["3"]
    assert chosen("7-11,0") == ["0", "7", "8", "9", "11", "10"]
    for wrong in ("", "12", "-1", "a", "3-"):
        with pytest.raises(argparse.ArgumentTypeError):
            chosen(wrong)
    assert sum(point.seconds for point in POINTS.values()) == 12 * 60


def test_the_targets_are_judged() -> None:
    """By numbers that a GPU might give."""

    def measured(rate: float, **more: Any) -> dict[str, Any]:
        return {"images_per_second": {"median": rate}, **more}

    joint = {"data_wait": 0.03, "idle_by_events": 0.035, "trials": {"1.0": 31_000.0}, "gib": {"torch_peak": 5.0}}
    steps = {"paper, batch 1024": measured(42_000), "paper, batch 128": measured(21_000)}
    steps["paper without LRN, batch 1024"] = measured(45_000)
    loops = {
        "paper, batch 1024, step alone": measured(42_000),
        "paper, batch 1024, jpeg, host share 0": {"images_per_second": 20_000.0, **joint},
        "paper, batch 1024, jpeg, host share as chosen": {"images_per_second": 31_000.0, **joint},
        "paper, batch 1024, raw": {"images_per_second": 41_000.0, **joint},
    }
    bench = {"images_per_second": {"step": {"median": 31_500.0}, "joint": {"median": 30_000.0}, "copy": None}}
    benches = {"bench, paper, raw, batch 128": bench, "stock DALI numpy, HWC, raw": {"images_per_second": 25_000.0}}
    points = {
        number: {"title": POINTS[number].title, "outcome": "done", "seconds": 1.0, "gpu": {}, "numbers": found}
        for number, found in (("5", steps), ("7", loops), ("10", benches))
    }
    record = {"points": points, "device": "cuda", "date": "2026-11-30", "minutes": 12, "command": ["tools/gpu"]}
    page = report.page(record)
    for line in (
        "| paper's step at 1024, at least 40,000 | 42,000 | yes |",
        "| at 128 of that, at least 75 % | 75.0% | yes |",
        "| raw joint of the step alone, at least 95 % | 97.6% | yes |",
        "| JPEG joint, at least 30,000 | 31,000 | yes |",
        "| LRN of the step, at most 10 % | 6.7% | yes |",
        "| idle share shown, off by at most 1 point | 0.50% | yes |",
        "| paper, batch 1024, raw | 41,000 | 97.6% | 3.00% | 3.50% | 5.0 | - | 1.0: 31,000 |",
        "| paper, raw, batch 128 | - | - | - | - | 31,500 | 30,000 | 25,000 |",
        "| ours, paper | 21,000 | 6.10 | - | - | - | 42,000 | 24.38 | - | - | - |",
    ):
        assert line in page.splitlines()
    assert "see numbers.json" not in page
    loops["paper, batch 1024, raw"] = {"images_per_second": 41_000.0}
    assert "joints: KeyError('trials'); see numbers.json" in report.page(record)
    assert "| 42,000 | yes |" in report.page(record)
