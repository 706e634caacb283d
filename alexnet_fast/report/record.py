"""What a run folder recorded: its settings, environment and log, whatever state the run is in."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet_fast.config import crops_of
from alexnet_fast.errors import InputError
from alexnet_fast.evaluation.counts import wilson
from alexnet_fast.text import local_time
from alexnet_fast.training import checkpoint

STEP = ("step", "epoch", "loss", "top1", "images_per_second", "data_wait", "peak_gib")
EVALUATION = ("epoch", "val_top1", "val_top5")
FINISHED = "finished"
MOST = 2**53  # up to here float64 has every whole number


@dataclass(frozen=True)
class RunRecord:
    """`steps` and `evaluations` are the log's lines, in order; `unread`: number of lines that are no JSON object."""

    folder: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    steps: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    unread: int

    def column(self, key: str) -> NDArray[np.float64]:
        """One number of every step line: (lines,)."""
        return np.array([line[key] for line in self.steps], np.float64)

    @property
    def seconds(self) -> NDArray[np.float64]:
        """Time each step line stands for, of training alone: (lines,).

        Every step counts as a whole batch, which is too much by less than a batch an epoch.
        """
        images = np.diff(self.column("step"), prepend=0) * self.config["batch"]
        return np.asarray(images / self.column("images_per_second"))

    def training_top1(self) -> dict[int, float]:
        """By epoch, counted from 1, the mean accuracy on its training images during training, per cent."""
        steps, epochs, top1 = np.diff(self.column("step"), prepend=0), self.column("epoch"), self.column("top1")
        return {
            int(epoch) + 1: float(np.average(top1[epochs == epoch], weights=steps[epochs == epoch]))
            for epoch in np.unique(epochs)
        }

    def results(self) -> dict[str, float | None]:
        """The last epoch and the best by validation top-1, their scores and errors in per cent; images/s, the share of
        time spent waiting for data (0 to 1) and seconds, of training alone; peak memory, GiB. None: not known yet.

        `low` and `high`: the 95 % interval of the last top-1. That of the best has none: it was chosen by these images.
        """
        last = self.evaluations[-1] if self.evaluations else {}
        images = last.get("val_images")
        interval = wilson(last["val_top1"], images) if type(images) is int and 0 < images < MOST else [None, None]
        best: dict[str, Any] = max(self.evaluations, key=lambda line: line["val_top1"], default={})
        top1, top5 = best.get("val_top1"), best.get("val_top5")
        seconds = float(self.seconds.sum())
        return {
            "last_epoch": last.get("epoch"),
            "last_top1": last.get("val_top1"),
            "last_top5": last.get("val_top5"),
            "low": interval[0],
            "high": interval[1],
            "best_epoch": best.get("epoch"),
            "best_top1": top1,
            "top5": top5,
            "top1_error": None if top1 is None else 100 - top1,
            "top5_error": None if top5 is None else 100 - top5,
            "images_per_second": self.steps[-1]["step"] * self.config["batch"] / seconds if seconds else None,
            "data_wait": float(self.column("data_wait") @ self.seconds) / seconds if seconds else None,
            "seconds": seconds or None,
            "peak_gib": float(self.column("peak_gib").max()) if self.steps else None,
        }

    def about(self) -> list[str]:
        """The run in some lines: its network and how far it has come; its images, classes and dates where they are
        recorded, as those of earlier versions are not; its folder."""
        progress, data = self.progress(), self.environment
        lines = [f"{self.config.get('arch', '?')} network, {progress}."]
        counts = [data.get(key) for key in ("train_images", "val_images", "classes")]
        if all(type(count) is int for count in counts):
            lines.append("{:,} images for training, {:,} for validation, {:,} classes.".format(*counts))
        times = [line.get("time") for line in (*self.steps[-1:], *self.evaluations[-1:])]
        newest = max((time for time in times if isinstance(time, str)), default=None)
        end = "ended" if progress.startswith(FINISHED) else "last logged"
        dates = [(name, local_time(time)) for name, time in (("began", data.get("began")), (end, newest))]
        if known := ", ".join(f"{name} {time}" for name, time in dates if time):
            lines.append(f"{known.capitalize()}.")
        return [*lines, str(self.folder.absolute())]

    def progress(self) -> str:
        """How far the run has come, in words."""
        epochs, done = self.config["epochs"], max((line["epoch"] for line in self.evaluations), default=0)
        with suppress(InputError):  # there is no last.pt before the first epoch's end
            done = max(done, int(checkpoint.load(self.folder / "last.pt")["epoch"]))
        if done >= epochs:
            return f"{FINISHED}: {epochs} epoch{'s' * (epochs > 1)}"
        return f"{done} of {epochs} epochs done: still running, or stopped"


def run_names(records: list[RunRecord]) -> list[str]:
    """The names of the runs' folders, or whole paths where two have the same."""
    names = [record.folder.absolute().name for record in records]
    return names if len(set(names)) == len(names) else [str(record.folder) for record in records]


def read_run(folder: Path) -> RunRecord:
    """Raises InputError when `folder` holds no run.

    A log that ends in half a line, as that of a running one may, is read up to there; lines and keys of other kinds
    are ignored.
    """
    config = _read_json(folder / "config.json")
    if config is None:
        lacks = "it has no config.json" if folder.is_dir() else "there is no such folder"
        raise InputError(f"{folder} is not a run folder: {lacks}. Name a folder that train --run made.")
    for name in ("epochs", "batch"):
        if not _is_number(config.get(name)) or config[name] < 1:
            raise InputError(f"{folder / 'config.json'} is corrupt: its {name} cannot be right.")
    environment = _read_json(folder / "environment.json") or {}
    if not isinstance(environment.setdefault("packages", {}), dict):
        raise InputError(f"{folder / 'environment.json'} is corrupt: its packages are no JSON object.")
    if "crops" in config:
        config["crops"] = crops_of(config["crops"])
    return RunRecord(folder, config, environment, *_read_log(folder / "log.jsonl"))


def _read_json(path: Path) -> dict[str, Any] | None:
    """None when there is no such file."""
    try:
        body = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise InputError(f"{path} is corrupt: it holds no JSON object. Name another run.")
    return body


def _read_log(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]], int]:
    """Step lines, evaluation lines, and the number of lines that could not be read."""
    steps: list[dict[str, Any]] = []
    evaluations: list[dict[str, Any]] = []
    unread = 0
    for text in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            line = None
        if not isinstance(line, dict):
            unread += 1
        elif not all(type(count := line.get(key, 0)) is int and 0 <= count < MOST for key in ("step", "epoch")):
            continue
        elif all(_is_number(line.get(key)) for key in EVALUATION):
            evaluations += [line] * all(0 <= line[key] <= 100 for key in ("val_top1", "val_top5"))
        elif all(_is_number(line.get(key)) for key in STEP) and line["images_per_second"] > 0:
            steps += [line] * (line["step"] > (steps[-1]["step"] if steps else 0))
    return steps, evaluations, unread


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
