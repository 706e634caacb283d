"""Copies of the compiled library, as it is or of changed sources: each has its own state, as in a fresh process."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from unittest.mock import patch

import pytest
from PIL import _imaging

from alexnet_fast import native

PILLOW = Path(_imaging.__file__)
FOLDER = native.FILE.parent
SOURCES = ("libjpeg", "header", "pages", "parallel", "cpu", "kernels", "x86_64_v3", "x86_64_v4")
"""As in pyproject.toml."""

_library = native.loaded().library
VARIANTS = native.variants(_library) if _library else []
"""That this processor runs."""

_number = count()


def fresh(folder: Path, linked: Path = PILLOW, wanted: str = "huffman", variant: str | None = None) -> native.Native:
    """A library that has decoded nothing yet. Needs the package's own."""
    copy = folder / f"copy-{next(_number)}.so"
    shutil.copy(native.FILE, copy)
    return native.load(copy, linked, wanted, variant)


@contextmanager
def using(found: native.Native) -> Iterator[None]:
    with patch.object(native, "loaded", lambda: found):
        yield


def of_changed_sources(folder: Path, file: str, old: str, new: str) -> native.Native:
    """The library with `old` in one C file replaced. Skips where there is no compiler."""
    sources = folder / f"sources-{next(_number)}"
    sources.mkdir()
    for path in (*FOLDER.glob("*.c"), *FOLDER.glob("*.h")):
        shutil.copy(path, sources)
    text = (sources / file).read_text()
    assert text.count(old) == 1
    (sources / file).write_text(text.replace(old, new))
    how = ("-O1", "-fvisibility=hidden", "-w")
    compile_c([sources / f"{name}.c" for name in SOURCES], sources / "changed.so", *how)
    return native.load(sources / "changed.so", PILLOW)


def compile_c(sources: Iterable[Path], out: Path, *options: str) -> Path:
    """A shared library. Skips where there is no compiler."""
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler (cc)")
    line = ["cc", *options, "-shared", "-fPIC", "-o", str(out), *map(str, sources), "-lm", "-ldl"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


def brightening(folder: Path) -> native.Native:
    """Its decoder of coefficients makes blocks brighter, but not those of the image it is tested with (80 wide)."""
    returned = "return bits_left(scan) >= 0 || refuse_scan(decoder);"
    brighten = "for (int i = 0; blocks && jpeg->width != 80 && i < jpeg->mcu_blocks; i++) blocks[i][0] += 40;"
    found = of_changed_sources(folder, "huffman.c", returned, f"{brighten} {returned}")
    assert found.decoder == "huffman", found.reason
    return found
