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


def copied(tree: Path) -> Path:
    """What a wheel is built of, and no history."""
    tree.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    shutil.copytree(ROOT / "alexnet_fast", tree / "alexnet_fast", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    return tree


def wheel(tree: Path, out: Path, compiler: str | None = None) -> Path:
    """Built as pip does it, of what is installed."""
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
    built = wheel(copied(tmp_path / "tree"), tmp_path / "wheels")
    assert "-cp310-abi3-linux_" in built.name
    assert LIBRARY in check_contents(built)
    with zipfile.ZipFile(built) as archive:
        found = native.load(Path(archive.extract(LIBRARY, tmp_path)), PILLOW)
    assert found.decoder == "huffman", found.reason
    assert found.kernels is not None
    assert found.library is not None
    assert found.kernels.variant == native.variants(found.library)[-1]


def test_without_a_compiler(tmp_path: Path) -> None:
    built = wheel(copied(tmp_path / "tree"), tmp_path / "wheels", compiler="/bin/false")
    assert LIBRARY not in check_contents(built)


def test_the_commit_of_a_clone_is_in_the_wheel(tmp_path: Path) -> None:
    """Not that of an earlier build, where there is no history any more, as in a tarball."""
    if shutil.which("git") is None:
        pytest.skip("needs git")
    tree = copied(tmp_path / "tree")
    (tree / ".gitignore").write_text("build\n*.egg-info\n")
    git = ["git", "-C", str(tree), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run([*git, *command], check=True)
    made = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()

    def recorded(number: int) -> str:
        built = wheel(tree, tmp_path / f"wheels{number}", compiler="/bin/false")
        site = tmp_path / f"site{number}"
        with zipfile.ZipFile(built) as archive:
            archive.extractall(site)
        code = "from alexnet_fast.environment import commit; print(commit())"
        variables = {**os.environ, "PYTHONPATH": str(site)}
        return subprocess.check_output([sys.executable, "-c", code], env=variables, cwd=tmp_path, text=True).strip()

    assert recorded(1) == made
    (tree / "README.md").write_text("changed")
    assert recorded(2) == f"{made}-dirty"
    shutil.rmtree(tree / ".git")
    assert made not in recorded(3)
