"""C files to shared libraries: for this processor, when first needed; or before, for a machine without compiler.

    python -m alexnet_fast.compiled x86-64-v3

compiles all of them for processors with those instructions (`cc -march`) and leaves each beside its source. No torch.
"""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
import tempfile
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

OPTIONS = ("-O3", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-shared", "-fPIC")


def load(source: Path) -> ctypes.CDLL | None:
    """The library of a C file, or None where there is no compiler for it.

    `cc` takes about a second, once a machine: the library is kept in the user's cache folder, where there is one.
    """
    built = _built(source)
    if built.exists() and _can_run_built():
        return ctypes.CDLL(str(built))
    try:
        with suppress(OSError):  # a folder that cannot be written, or a library of another system there
            return ctypes.CDLL(str(_kept(source)))
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


def _kept(source: Path) -> Path:
    """The library in the user's cache folder, under a name that tells sources and processor; compiled if need be.

    Raises OSError where there is no compiler either.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    folder = home / "alexnet-fast" / "compiled"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError  # what another user put there is not run
    texts = [path.read_bytes() for path in (source, *sorted(Path(__file__).parent.glob("*.h")))]
    key = sha256(b"\0".join([*texts, " ".join(OPTIONS).encode(), _processor()])).hexdigest()[:16]
    kept = folder / f"{source.stem}-{key}.so"
    if not kept.exists():
        with tempfile.TemporaryDirectory(dir=folder) as new:
            binary = Path(new) / kept.name
            compile_c(source, binary, "native")
            binary.replace(kept)
    return kept


def _processor() -> bytes:
    """What `-march=native` depends on: /proc/cpuinfo's model and instructions, of the first core."""
    told = Path("/proc/cpuinfo").read_bytes().partition(b"\n\n")[0].splitlines()
    return b"\n".join(line for line in told if not line.startswith((b"cpu MHz", b"bogomips", b"BogoMIPS")))


def _built(source: Path) -> Path:
    return source.with_name(f"lib{source.stem}.so")  # without `lib` Python takes it for a module


def _can_run_built() -> bool:
    """Of x86-64, x86-64-v3 is taken: AVX2 and what came with it."""
    return platform.machine() != "x86_64" or " avx2 " in Path("/proc/cpuinfo").read_text()


if __name__ == "__main__":
    for path in Path(__file__).parent.rglob("*.c"):
        compile_c(path, _built(path), sys.argv[1])
