"""Where a run is, and what is due there."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Position:
    """`step` steps of epoch `epoch` are done, both counted from 0.

    With all steps of an epoch done, its evaluation is still to come: that ends the epoch.
    """

    epoch: int
    step: int
    steps_per_epoch: int

    @property
    def steps_done(self) -> int:
        """Of the whole run."""
        return self.epoch * self.steps_per_epoch + self.step

    @property
    def epochs_done(self) -> float:
        """Fractional."""
        return self.steps_done / self.steps_per_epoch

    @property
    def is_epoch_end(self) -> bool:
        return self.step == self.steps_per_epoch

    def is_log_due(self, log_every: int) -> bool:
        """Every so many steps of the run, and at each epoch's end."""
        return self.steps_done % log_every == 0 or self.is_epoch_end

    def is_save_due(self, save_every: int) -> bool:
        """Every so many steps of the run (0: none), and at each epoch's end."""
        return self.is_epoch_end or (save_every > 0 and self.steps_done % save_every == 0)

    def next_step(self) -> Position:
        return replace(self, step=self.step + 1)

    def next_epoch(self) -> Position:
        return replace(self, epoch=self.epoch + 1, step=0)
