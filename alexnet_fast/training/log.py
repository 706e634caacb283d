"""The log of a run: a JSON line a logged step or evaluation; on request the same numbers for TensorBoard."""

from __future__ import annotations

import importlib.util
import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any

from alexnet_fast.errors import InputError


def check_tensorboard(wanted: bool) -> None:
    """Raises InputError where it is wanted but not installed."""
    if wanted and importlib.util.find_spec("tensorboard") is None:
        raise InputError("tensorboard=true needs TensorBoard. Install it with: pip install '.[tensorboard]'")


class Log:
    """`run`/log.jsonl, and with `tensorboard` events in `run`/tensorboard. `steps`: of an epoch.

    Opens nothing before it is written to, which only the first process does.
    """

    def __init__(self, run: Path, steps: int, tensorboard: bool) -> None:
        self._path, self._steps, self._tensorboard = run / "log.jsonl", steps, tensorboard
        self._purge_step: int | None = None

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        if "_events" in vars(self):
            self._events.close()

    def add(self, line: dict[str, Any]) -> None:
        """Numbers of the step `step`, or else after `epoch` epochs; a dict in it holds one a layer."""
        line = {key: round(value, 5) if isinstance(value, float) else value for key, value in line.items()}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if not self._tensorboard:
            return
        step = line["step"] if "step" in line else line["epoch"] * self._steps
        for key, value in line.items():
            if key not in ("step", "epoch"):
                layers = value.items() if isinstance(value, dict) else [("", value)]
                for layer, number in layers:
                    self._events.add_scalar(f"{key}/{layer}" if layer else key, number, step)
        self._events.flush()

    def cut(self, step: int, epoch: int) -> None:
        """Takes out what came after `step` and `epoch`: a killed run may have logged past its checkpoint."""
        self._purge_step = step + 1
        if not self._path.exists():
            return
        lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if _is_before(line, step, epoch)]
        temporary = self._path.with_name(f".{self._path.name}.tmp")
        temporary.write_text("".join(kept), encoding="utf-8")
        os.replace(temporary, self._path)

    @cached_property
    def _events(self) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(self._path.with_name("tensorboard"), purge_step=self._purge_step)


def _is_before(line: str, step: int, epoch: int) -> bool:
    try:
        entry = json.loads(line)
    except ValueError:  # the last line of a killed run may be half a line
        return False
    return bool(entry["step"] <= step if "step" in entry else entry["epoch"] <= epoch)
