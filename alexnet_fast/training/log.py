"""The log of a run: a JSON line for each logged step or evaluation; on request the same numbers for TensorBoard."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from alexnet_fast.environment import install_command
from alexnet_fast.errors import InputError
from alexnet_fast.files import append, written
from alexnet_fast.text import now
from alexnet_fast.training.state import Position


def check_tensorboard(wanted: bool) -> None:
    """Raises InputError where it is wanted but not installed."""
    if wanted and importlib.util.find_spec("tensorboard") is None:
        raise InputError(f"tensorboard=true needs TensorBoard: {install_command('tensorboard')}")


class Log:
    """Writes `folder`/log.jsonl, and with `tensorboard` events in `folder`/tensorboard.

    Opens nothing before it is written to, which only the first process does. A line that cannot be written (a full
    disk) is reported by `print_line`, kept, and written with a later line.
    """

    def __init__(
        self, folder: Path, steps_per_epoch: int, tensorboard: bool, print_line: Callable[[str], None]
    ) -> None:
        self._path, self._tensorboard, self._print_line = folder / "log.jsonl", tensorboard, print_line
        self._steps_per_epoch = steps_per_epoch
        self._purge_step: int | None = None
        self._waiting: list[str] = []

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        if "_events" in vars(self):
            self._events.close()

    def add(self, line: dict[str, Any]) -> None:
        """Writes the numbers of step `step`, or else of the end of `epoch` epochs, and the time; a dict holds a number
        for each layer."""
        line = {key: _rounded(value) if isinstance(value, float) else value for key, value in line.items()}
        self._write(json.dumps({**line, "time": now()}) + "\n")
        if not self._tensorboard:
            return
        step = line["step"] if "step" in line else line["epoch"] * self._steps_per_epoch
        for key, value in line.items():
            if key not in ("step", "epoch"):
                layers = value.items() if isinstance(value, dict) else [("", value)]
                for layer, number in layers:
                    self._events.add_scalar(f"{key}/{layer}" if layer else key, number, step)
        self._events.flush()

    def _write(self, line: str) -> None:
        is_reported = bool(self._waiting)
        self._waiting.append(line)
        try:
            append(self._path, "".join(self._waiting).encode())
        except OSError as error:
            if not is_reported:
                self._print_line(f"{self._path} cannot be written: {error.strerror}. Its lines wait in memory.")
        else:
            self._waiting.clear()

    def cut(self, position: Position) -> None:
        """Deletes the lines that came after `position`: a killed run may have logged past its checkpoint."""
        if not self._path.exists():
            return
        self._purge_step = position.steps_done + 1
        lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if _is_before(line, position)]
        with written(self._path) as temporary:
            temporary.write_text("".join(kept), encoding="utf-8")

    @cached_property
    def _events(self) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(self._path.with_name("tensorboard"), purge_step=self._purge_step)


def _rounded(value: float) -> float:
    """Returns it with five decimals; what is below 1, as a learning rate, with five digits."""
    return round(value, 5) if abs(value) >= 1 else float(f"{value:.5g}")


def _is_before(line: str, position: Position) -> bool:
    try:
        entry = json.loads(line)
    except ValueError:  # the last line of a killed run may be half a line
        return False
    return bool(entry["step"] <= position.steps_done if "step" in entry else entry["epoch"] <= position.epoch)
