"""Jobs that kill the process they are run in; apart, so that it need not import the tests' torch for them."""

import os
import signal
from pathlib import Path


def die_the_first_time(marker: Path) -> str:
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return marker.name


def die(job: str) -> str:
    os.kill(os.getpid(), signal.SIGKILL)
    return job
