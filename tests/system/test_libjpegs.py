"""tools/libjpegs.py, on one Pillow and none."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from shlex import quote

import numpy as np
import pytest
from PIL import Image

from alexnet_fast import native

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _decoder() -> None:
    if native.decoder() == "none":
        pytest.skip(f"needs the compiled code's libjpeg: {native.loaded().reason}")


def photograph(**how: bool) -> bytes:
    pixels = np.random.default_rng(3).integers(0, 256, (9, 9, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((256, 256), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90, **how)
    return file.getvalue()


def test_the_tool_says_which_agree(tmp_path: Path) -> None:
    data = {"plain": photograph(), "progressive": photograph(progressive=True)}
    for name, content in data.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.jpg").write_bytes(content)
    command = [sys.executable, *map(str, (ROOT / "tools/libjpegs.py", tmp_path, tmp_path))]
    for name, interpreter in {
        "this": quote(sys.executable),
        "none": f"env LIBJPEG=/etc/hostname {quote(sys.executable)}",
    }.items():
        command += ["--with", name, interpreter]
    said = subprocess.run([*command, "--with", "no Python", "false"], capture_output=True, text=True)
    _, _, this, none, failed = said.stdout.splitlines()
    assert f"| {native.decoder()} | yes: pillow, {native.decoder()}" in this
    assert "| yes | yes: as found, simplejpeg" in none
    assert "it cannot be opened" in none
    assert "exit code 1" in failed
    assert said.returncode == 1
