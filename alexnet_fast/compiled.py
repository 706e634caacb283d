"""C files to shared libraries: for this processor when first needed; or before, for a machine without compiler.

    python -m alexnet_fast.compiled x86-64-v3

compiles all of them for processors with those instructions (`cc -march`) and leaves each beside its source. No torch.
"""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

OPTIONS = ("-O3", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-shared", "-fPIC")


def load(source: Path) -> ctypes.CDLL | None:
    """The library of a C file, or None where there is no compiler for it; `cc` takes under a second."""
    built = _built(source)
    if built.exists() and _can_run_built():
        return ctypes.CDLL(str(built))
    try:
        with tempfile.TemporaryDirectory() as folder:
            binary = Path(folder) / built.name
            compile_c(source, binary, "native")
            return ctypes.CDLL(str(binary))
    except (subprocess.CalledProcessError, OSError):
        return None


def compile_c(source: Path, binary: Path, processor: str) -> None:
    """Raises FileNotFoundError without `cc`, CalledProcessError where it fails."""
    command = ["cc", *OPTIONS, f"-march={processor}", "-o", str(binary), str(source), "-lm", "-ldl"]
    subprocess.run(command, check=True, capture_output=True)


def _built(source: Path) -> Path:
    return source.with_name(f"lib{source.stem}.so")  # without `lib` Python takes it for a module


def _can_run_built() -> bool:
    """Of x86-64, x86-64-v3 is taken: AVX2 and what came with it."""
    return platform.machine() != "x86_64" or " avx2 " in Path("/proc/cpuinfo").read_text()


if __name__ == "__main__":
    for path in Path(__file__).parent.rglob("*.c"):
        compile_c(path, _built(path), sys.argv[1])
