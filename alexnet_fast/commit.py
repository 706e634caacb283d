"""The commit of a checkout, and the file in which the built package keeps it."""

from __future__ import annotations

import subprocess
from pathlib import Path

RECORD = "COMMIT"
"""Written into the package's folder when a wheel is built from a checkout (wheel.py)."""


def of_checkout(root: Path) -> str | None:
    """Returns the commit of the checkout at `root`, with -dirty where files were changed; None where it is none, or git
    cannot be asked."""
    if not (root / ".git").exists():
        return None
    # safe.directory: a mounted checkout may belong to another user; we only look.
    git = ["git", "--no-optional-locks", "-c", "safe.directory=*", "-C", str(root)]
    describe = [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(describe, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
