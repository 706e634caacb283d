"""Which checkpoints a run keeps, and what happens when one cannot be written."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alexnet_fast.errors import TrainingError
from alexnet_fast.model.alexnet import AlexNet
from alexnet_fast.training import checkpoint
from alexnet_fast.training.finite import check_weights
from alexnet_fast.training.state import State, snapshot


@dataclass(kw_only=True)
class Saver:
    """Writes `last.pt`, keeps those before it as `step-N.pt`, and writes `best.pt`.

    All processes call it with the whole network; the `first` one writes. A save that fails leaves the files as they
    were, is printed once, and training continues. Weights that are not finite are never saved (TrainingError).
    """

    folder: Path
    keep: int
    """Of those before last.pt."""
    first: bool
    about: dict[str, Any]
    """What each checkpoint holds beside the state."""
    print_line: Callable[[str], None]
    previous: int | None
    """Steps done in the last.pt that is there; None where there is no intact one."""
    best_top1: float
    """Of the best.pt that is there, per cent."""
    failed: dict[str, str] = field(default_factory=dict)
    """File name -> why it could not be written, until it can."""

    def save_last(self, state: State) -> None:
        """Writes last.pt and deletes the earlier checkpoints that are too many."""
        check_weights(state.model)
        if not self.first:
            return
        if self._save("last.pt", snapshot(state), self._keep_last):
            self.previous = state.position.steps_done
            with suppress(OSError):  # they are deleted after a later save
                self._delete_earlier(self.previous)

    def save_best(self, model: AlexNet, epochs: int, top1: float) -> None:
        """Writes best.pt where `top1`, per cent, is higher than that of the one there is. `epochs`: done so far."""
        check_weights(model)
        content = {"model": model.state_dict(), "epoch": epochs}
        if self.first and top1 > self.best_top1 and self._save("best.pt", content):
            self.best_top1 = top1

    def check(self) -> None:
        """Raises TrainingError when a save failed and no later one of that name worked."""
        if self.failed:
            problems = "; ".join(f"{name} could not be saved: {reason}" for name, reason in self.failed.items())
            raise TrainingError(f"{problems}. {self.folder} holds what was saved before: use --resume to resume there.")

    def _keep_last(self) -> None:
        """Gives last.pt a second name, which stays when the next one comes."""
        if self.keep and self.previous is not None:
            last, aside = self.folder / "last.pt", self.folder / f"step-{self.previous:08d}.pt"
            try:
                aside.unlink(missing_ok=True)
                os.link(last, aside)
            except FileNotFoundError:  # someone deleted last.pt
                pass
            except OSError:  # a file system without hard links; `checkpoint.newest` looks for both names
                os.replace(last, aside)

    def _delete_earlier(self, done: int) -> None:
        """Deletes the checkpoints beside last.pt, of `done` steps, that are too many."""
        kept = checkpoint.kept(self.folder)
        earlier = sorted(step for step in kept if step < done)  # later ones are of before a last.pt was corrupt
        for step in kept.keys() - set(earlier[max(len(earlier) - self.keep, 0) :]):
            kept[step].unlink()

    def _save(self, name: str, content: dict[str, Any], prepare: Callable[[], None] = lambda: None) -> bool:
        """Calls `prepare` and writes a checkpoint; returns whether that worked."""
        try:
            prepare()
            checkpoint.save(self.folder / name, {**self.about, **content})
        except OSError as error:
            reason = error.strerror or str(error)
            if name not in self.failed:
                self.print_line(
                    f"{name} could not be saved: {reason}. What was saved before is kept, and training continues."
                )
            self.failed[name] = reason
            return False
        if self.failed.pop(name, None):
            self.print_line(f"{name} is saved again.")
        return True
