"""Ctrl-C and SIGTERM: before training, and in it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

BOTH = (signal.SIGINT, signal.SIGTERM)


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
def _handled(handler: Callable[[int, Any], None]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in BOTH}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _quit(number: int, _: Any) -> None:
    if os.environ.get("RANK", "0") == "0":
        os.write(2, b"\nStopped before the first step; nothing to save.\n")
    os._exit(0)
