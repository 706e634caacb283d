"""lrn.c to a shared library. Without torch: `python -m alexnet_fast.model.lrn_compile x86-64-v3` builds the image's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("lrn.c")
OPTIONS = ("-O3", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-shared", "-fPIC")


def compile_lrn(binary: Path, processor: str) -> None:
    """`processor`: whose instructions it may use, as `cc -march` takes it.

    Raises FileNotFoundError without `cc`, CalledProcessError where it fails.
    """
    command = ["cc", *OPTIONS, f"-march={processor}", "-o", str(binary), str(SOURCE), "-lm"]
    subprocess.run(command, check=True, capture_output=True)


if __name__ == "__main__":
    compile_lrn(SOURCE.with_name("liblrn.so"), sys.argv[1])
