"""C compiled for this processor when it is first needed."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from pathlib import Path


def load(source: str, *options: str) -> ctypes.CDLL | None:
    """The library of `source`, or None where there is no compiler for it; `cc` takes under a second."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        file, binary = Path(folder) / "kernel.c", Path(folder) / "kernel.so"
        file.write_text(source)
        command = [compiler, "-march=native", *options, "-shared", "-fPIC", "-o", str(binary), str(file), "-lm"]
        try:
            subprocess.run(command, check=True, capture_output=True)
            return ctypes.CDLL(str(binary))
        except (subprocess.CalledProcessError, OSError):
            return None
