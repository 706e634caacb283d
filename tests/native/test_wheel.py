"""The package as it is built: with the compiled library, or where there is no compiler without it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from alexnet_fast import native
from tests.native.libraries import PILLOW

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = "alexnet_fast/native/_native.abi3.so"


def wheel(folder: Path, compiler: str | None = None) -> Path:
    """Built of a copy of the checkout, as pip does it, of what is installed."""
    tree, out = folder / "tree", folder / "wheels"
    tree.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    shutil.copytree(ROOT / "alexnet_fast", tree / "alexnet_fast", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    environment = {**os.environ, **({"CC": compiler} if compiler else {})}
    offline = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
    line = [sys.executable, "-m", "pip", "wheel", *offline, "-w", str(out), "."]
    done = subprocess.run(line, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.iterdir()
    return built


def check_contents(built: Path) -> set[str]:
    """What is in it whatever was compiled: all but the library. Returns all names."""
    with zipfile.ZipFile(built) as archive:
        names = set(archive.namelist())
    folder = ROOT / "alexnet_fast" / "native"
    for path in (*folder.glob("*.[ch]"), folder / "test-image.jpg", folder / "__init__.py"):
        assert f"alexnet_fast/native/{path.name}" in names
    assert len([name for name in names if name.endswith((".so", ".o"))]) == (LIBRARY in names)
    return names


def test_with_a_compiler(tmp_path: Path) -> None:
    """One wheel for every Python; its library is the one that works here."""
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler (cc)")
    built = wheel(tmp_path)
    assert "-cp310-abi3-linux_" in built.name
    assert LIBRARY in check_contents(built)
    with zipfile.ZipFile(built) as archive:
        found = native.load(Path(archive.extract(LIBRARY, tmp_path)), PILLOW)
    assert found.decoder == "huffman", found.reason
    assert found.kernels is not None
    assert found.library is not None
    assert found.kernels.variant == native.variants(found.library)[-1]


def test_without_a_compiler(tmp_path: Path) -> None:
    built = wheel(tmp_path, compiler="/bin/false")
    assert LIBRARY not in check_contents(built)
