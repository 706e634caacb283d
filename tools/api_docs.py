"""HTML pages of the package, made from its docstrings:

python tools/api_docs.py [FOLDER]        build/api without one; takes pip install '.[docs]'
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from pkgutil import iter_modules

import pdoc

import alexnet_fast


def write(folder: Path) -> None:
    """A page a module."""
    for name in alexnet_fast.__all__:  # imported on first use only, which pdoc does not know
        setattr(alexnet_fast, name, getattr(alexnet_fast, name))
    parts = [part.name for part in iter_modules(alexnet_fast.__path__, "alexnet_fast.")]
    os.environ["PDOC_ALLOW_EXEC"] = "1"  # a module compiles C when it is imported
    pdoc.pdoc("alexnet_fast", *(part for part in parts if not part.endswith("__main__")), output_directory=folder)


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "build/api"))
