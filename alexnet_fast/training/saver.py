"""Which checkpoints a run keeps, and what happens when one cannot be written."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alexnet_fast.errors import TrainingError
from alexnet_fast.training import checkpoint
from alexnet_fast.training.finite import check_weights
from alexnet_fast.training.state import State, snapshot


@dataclass(kw_only=True)
class Saver:
    """Writes `last.pt`, keeps those before it as `step-N.pt`, and writes `best.pt`.

    It takes the whole network's state, which all processes have; the `first` one writes. A save that fails leaves the
    files as they were, is told once, and training goes on; `check` comes at the end. Weights that are not finite are
    never saved (TrainingError, in every process).
    """

    run: Path
    keep: int
    """Of those before last.pt."""
    first: bool
    about: dict[str, Any]
    """What each checkpoint holds beside the state."""
    say: Callable[[str], None]
    previous: int | None
    """Steps of the last.pt that is there; None where there is no whole one."""
    best_top1: float
    """Of the best.pt that is there, per cent."""
    failed: dict[str, str] = field(default_factory=dict)
    """File name -> why it could not be written, until it can."""

    def last(self, state: State, done: int) -> None:
        """`done`: steps of the whole run."""
        check_weights(state.model)
        if not self.first:
            return
        self._set_aside()
        if self._save("last.pt", snapshot(state)):
            self.previous = done
            kept = checkpoint.kept(self.run)
            earlier = sorted(step for step in kept if step < done)  # later ones are of before a last.pt was damaged
            for step in kept.keys() - set(earlier[max(len(earlier) - self.keep, 0) :]):
                kept[step].unlink()

    def best(self, state: State, top1: float) -> None:
        """Only where `top1`, of the validation images, is higher than that of the best.pt there is."""
        check_weights(state.model)
        content = {"model": state.model.state_dict(), "epoch": state.epoch}
        if self.first and top1 > self.best_top1 and self._save("best.pt", content):
            self.best_top1 = top1

    def check(self) -> None:
        """Raises TrainingError when a save failed and no later one of that name worked."""
        if self.failed:
            problems = "; ".join(f"{name} could not be saved: {reason}" for name, reason in self.failed.items())
            raise TrainingError(f"{problems}. {self.run} holds what was saved before: go on from there with --resume.")

    def _set_aside(self) -> None:
        """Gives last.pt its second name, under which it stays when the next one takes the first."""
        if self.keep and self.previous is not None:
            last, aside = self.run / "last.pt", checkpoint.kept_path(self.run, self.previous)
            try:
                aside.unlink(missing_ok=True)
                os.link(last, aside)
            except FileNotFoundError:  # someone deleted last.pt
                pass
            except OSError:  # a file system without hard links; `checkpoint.newest` looks for both names
                os.replace(last, aside)

    def _save(self, name: str, content: dict[str, Any]) -> bool:
        try:
            checkpoint.save(self.run / name, {**self.about, **content})
        except OSError as error:
            reason = error.strerror or str(error)
            if name not in self.failed:
                self.say(f"{name} could not be saved: {reason}. What was saved before is kept, and training goes on.")
            self.failed[name] = reason
            return False
        if self.failed.pop(name, None):
            self.say(f"{name} is saved again.")
        return True
