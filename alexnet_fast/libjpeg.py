"""The libjpeg-turbo that Pillow brings, for the C files that include jpeg.h."""

from __future__ import annotations

import ctypes
from pathlib import Path


def give_libjpeg(library: ctypes.CDLL) -> bool:
    """Whether one was found for this compiled file, which then decodes with it."""
    return any(library.open_libjpeg(str(path).encode()) for path in _libjpegs())


def _libjpegs() -> list[Path]:
    """Pillow's libjpeg, wherever its wheel or a distribution keeps it: it is loaded. Others' come last."""
    from PIL import _imaging  # noqa: F401

    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return []
    mapped = {Path(line.split(maxsplit=5)[5]) for line in lines if "/libjpeg" in line}
    return sorted(mapped, key=lambda path: ("pillow" not in str(path).lower(), path))
