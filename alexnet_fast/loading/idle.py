"""The time in which the training device has nothing to do because no batch is there."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Protocol

import torch


class Moment(Protocol):
    """A moment in a device's work, as `torch.cuda.Event` has it: that at which the work queued before it is done."""

    def query(self) -> bool:
        """Whether it has come; waits for nothing."""

    def elapsed_time(self, end_event: Any) -> float:
        """Milliseconds from this moment to a later one; both have come."""


@dataclass(frozen=True)
class HostMoment:
    """The moment at which it is made: a CPU has no work queued."""

    at: float = field(default_factory=perf_counter)

    def query(self) -> bool:
        return True

    def elapsed_time(self, end_event: HostMoment) -> float:
        return (end_event.at - self.at) * 1000


def moments(device: torch.device) -> Callable[[], Moment]:
    """Returns what makes a moment of the device each time it is called: of a GPU, on the stream then in use there."""
    if device.type != "cuda":
        return HostMoment
    return lambda: torch.cuda.current_stream(device).record_event(torch.cuda.Event(enable_timing=True))


class IdleTime:
    """Adds up how long the device had no batch to work on.

    On a GPU the host is ahead of the device: while it waits for a batch, the device may still work on the steps queued
    before. So both ends of a wait are moments of the device. The first is recorded when a batch is asked for, behind
    the steps queued so far; the second when the batch may be used, behind its copies.
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._coming: deque[tuple[Moment, Moment]] = deque()

    def add(self, asked: Moment, ready: Moment) -> None:
        """Adds a wait, whose end may be still to come."""
        self._coming.append((asked, ready))
        self._collect()

    @property
    def seconds(self) -> float:
        """Of the waits whose ends have come: of all once the device has been waited for."""
        self._collect()
        return self._seconds

    def _collect(self) -> None:
        while self._coming and self._coming[0][1].query():
            asked, ready = self._coming.popleft()
            self._seconds += asked.elapsed_time(ready) / 1000
