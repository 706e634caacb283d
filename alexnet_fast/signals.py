"""Ctrl-C and SIGTERM: while modules are imported, before training, and in it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

BOTH = (signal.SIGINT, signal.SIGTERM)
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


@contextmanager
def nothing_begun() -> Iterator[None]:
    """While modules are imported, Ctrl-C ends the process at once: of an exception, some make other errors."""
    with _handled(_leave, (signal.SIGINT,)):
        yield


@contextmanager
def start_up() -> Iterator[None]:
    """Until `stop_signals` takes over, either signal ends the process with a line and exit code 0.

    At once, since the modules whose import it interrupts would make other errors of an exception.
    """
    with _handled(_quit):
        yield


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Yields a function that tells whether one came; a second Ctrl-C raises KeyboardInterrupt.

    A second SIGTERM does not: batch systems send it to a launcher and its processes, and the launcher passes it on.
    What remains to be done afterwards, `start_up`'s handler would be wrong about.
    """
    came = False

    def note(number: int, _: Any) -> None:
        nonlocal came
        if came and number == signal.SIGINT:
            raise KeyboardInterrupt
        came = True

    with _handled(note):
        yield lambda: came
    for number in BOTH:
        if signal.getsignal(number) is _quit:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


@contextmanager
def _handled(handler: Callable[[int, Any], None], numbers: tuple[signal.Signals, ...] = BOTH) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _quit(number: int, _: Any) -> None:
    if os.environ.get("RANK", "0") == "0":
        os.write(2, b"\nStopped before the first step; nothing to save.\n")
    os._exit(0)


def _leave(number: int, _: Any) -> None:
    os.write(2, b"\nStopped; nothing was begun.\n")
    os._exit(INTERRUPTED)
