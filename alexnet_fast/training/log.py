"""The log of a run: a JSON line a logged step or evaluation; on request the same numbers for TensorBoard."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from alexnet_fast.errors import InputError
from alexnet_fast.files import written


def check_tensorboard(wanted: bool) -> None:
    """Raises InputError where it is wanted but not installed."""
    if wanted and importlib.util.find_spec("tensorboard") is None:
        raise InputError("tensorboard=true needs TensorBoard. Install it with: pip install '.[tensorboard]'")


class Log:
    """`run`/log.jsonl, and with `tensorboard` events in `run`/tensorboard. `steps`: of an epoch.

    Opens nothing before it is written to, which only the first process does. What cannot be written (a full disk) is
    told to `say`, kept, and written with a later line.
    """

    def __init__(self, run: Path, steps: int, tensorboard: bool, say: Callable[[str], None]) -> None:
        self._path, self._steps, self._tensorboard, self._say = run / "log.jsonl", steps, tensorboard, say
        self._purge_step: int | None = None
        self._waiting: list[str] = []

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        if "_events" in vars(self):
            self._events.close()

    def add(self, line: dict[str, Any]) -> None:
        """Numbers of the step `step`, or else after `epoch` epochs; a dict in it holds one a layer."""
        line = {key: round(value, 5) if isinstance(value, float) else value for key, value in line.items()}
        self._write(json.dumps(line) + "\n")
        if not self._tensorboard:
            return
        step = line["step"] if "step" in line else line["epoch"] * self._steps
        for key, value in line.items():
            if key not in ("step", "epoch"):
                layers = value.items() if isinstance(value, dict) else [("", value)]
                for layer, number in layers:
                    self._events.add_scalar(f"{key}/{layer}" if layer else key, number, step)
        self._events.flush()

    def _write(self, line: str) -> None:
        told = bool(self._waiting)
        self._waiting.append(line)
        try:
            with self._path.open("ab", buffering=0) as file:
                end, lines = file.tell(), "".join(self._waiting).encode()
                try:
                    if file.write(lines) < len(lines):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                except OSError:
                    file.truncate(end)  # no half line
                    raise
        except OSError as error:
            if not told:
                self._say(f"{self._path} cannot be written: {error.strerror}. Its lines wait in memory.")
        else:
            self._waiting.clear()

    def cut(self, step: int, epoch: int) -> None:
        """Takes out what came after `step` and `epoch`: a killed run may have logged past its checkpoint."""
        self._purge_step = step + 1
        if not self._path.exists():
            return
        lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if _is_before(line, step, epoch)]
        with written(self._path) as temporary:
            temporary.write_text("".join(kept), encoding="utf-8")

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
