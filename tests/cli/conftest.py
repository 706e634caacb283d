"""What the tests of commands share."""

from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture
def source_with_a_bad_file(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "train" / "a").mkdir(parents=True)
    for name in ("1.png", "2.png"):
        Image.new("RGB", (30, 20)).save(folder / "train" / "a" / name)
    (folder / "train" / "a" / "bad.jpg").write_text("no image")
    return folder
