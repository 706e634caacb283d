"""The demo at a hundredth of its length: every part is made, and nothing of the user's is touched."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_fast.demo.run import run_demo
from alexnet_fast.errors import InputError
from alexnet_fast.shards.reader import ShardSet


def test_demo_leaves_images_shards_a_run_and_a_picture(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    for _ in range(2):  # a second demo replaces the first
        result, text = run_demo(out, train_per_class=4, epochs=1)
        assert {path.name for path in out.iterdir()} == {".alexnet-fast-demo", "images", "shards", "run", "demo.png"}
        assert (out / "run" / "report.html").is_file()
    assert set(result) == {"top1", "top5", "images", "views", "precision", "seconds"}
    assert (result["images"], result["views"]) == (len(ShardSet(out / "shards").split("val")), 1)
    assert text.startswith(f"top-1 {result['top1']:.2f} %")
    picture = np.asarray(Image.open(out / "demo.png").convert("L"))
    assert min(picture.shape) > 1000
    assert (picture < 128).mean() > 0.02  # something is drawn


def test_demo_touches_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "holiday.jpg").touch()
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InputError) as error:
        run_demo(tmp_path, epochs=1)
    assert str(error.value) == f"{tmp_path} is not empty and holds no demo. Choose an empty --out."
    with pytest.raises(InputError, match=r"is a file\. --out takes a folder"):
        run_demo(tmp_path / "thesis.tex", epochs=1)
    assert (tmp_path / "images" / "holiday.jpg").exists()
