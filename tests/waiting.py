"""Waiting for what another process or thread does."""

import subprocess
import time
from collections.abc import Callable
from typing import Any


def wait_for(ready: Callable[[], bool], *processes: subprocess.Popen[Any], seconds: float = 120) -> None:
    """Returns once `ready()` holds; fails after `seconds`, or when one of `processes`, which it takes, ends."""
    deadline = time.monotonic() + seconds
    while not ready():
        assert [process.poll() for process in processes] == [None] * len(processes), "a process ended"
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(0.02)
