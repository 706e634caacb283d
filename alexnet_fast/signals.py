"""Handles Ctrl-C and SIGTERM while modules are imported, before training, and during it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import active_children
from typing import Any

BOTH = (signal.SIGINT, signal.SIGTERM)
INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM
"""Exit codes after Ctrl-C and SIGTERM, as shells have them."""


class Terminated(KeyboardInterrupt):
    """SIGTERM came, inside `termination_raised`."""


@contextmanager
def nothing_begun() -> Iterator[None]:
    """Ends the process at once on either signal, with a line and its exit code, while modules are imported: some turn
    an exception into other errors."""
    with _handled(_leave):
        yield


@contextmanager
def start_up() -> Iterator[None]:
    """Ends the process at once on either signal, with a line and exit code 0, until `stop_signals` takes over."""
    with _handled(_quit):
        yield


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Yields a function that returns whether a signal came; a second Ctrl-C raises KeyboardInterrupt, a second SIGTERM
    does not: batch systems send it to a launcher and its processes, and the launcher passes it on. Afterwards
    `start_up`'s handler, whose line would be wrong then, is not put back."""
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
def termination_raised() -> Iterator[None]:
    """Has SIGTERM raise Terminated, as Ctrl-C raises KeyboardInterrupt; a second SIGTERM does nothing: `timeout` and
    batch systems send several."""

    def terminate(number: int, _: Any) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise Terminated

    with _handled(terminate, (signal.SIGTERM,)):
        yield


@contextmanager
def passed_on() -> Iterator[None]:
    """Passes SIGTERM on to the child processes, which stop by themselves; the terminal's Ctrl-C reaches them anyway."""

    def terminate(number: int, _: Any) -> None:
        for child in active_children():
            child.terminate()

    with _handled(signal.SIG_IGN, (signal.SIGINT,)), _handled(terminate, (signal.SIGTERM,)):
        yield


@contextmanager
def _handled(
    handler: Callable[[int, Any], None] | signal.Handlers, numbers: tuple[signal.Signals, ...] = BOTH
) -> Iterator[None]:
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
    os._exit(128 + number)
