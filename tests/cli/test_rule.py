"""shard --orient, --background and --keep: what is written, counted, printed and recorded."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from alexnet_fast.cli.main import main
from alexnet_fast.shards.format import Manifest, parse_manifest
from alexnet_fast.shards.reader import ShardSet

TURNED = Image.Exif()
TURNED[0x0112] = 3
UPRIGHT = Image.Exif()
UPRIGHT[0x0112] = 1
GREEN = np.array([0, 255, 0])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Class `a`: black above white, EXIF turns it; `b`: transparent; `c`: a JPEG to keep and one not."""
    for name in "abc":
        (tmp_path / "in" / name).mkdir(parents=True)
    half = np.zeros((64, 64, 3), np.uint8)
    half[32:] = 255
    Image.fromarray(half).save(tmp_path / "in/a/0.jpg", exif=TURNED, quality=95)
    Image.new("RGBA", (20, 30), (255, 0, 0, 0)).save(tmp_path / "in/b/0.png")
    Image.new("L", (32, 32), 80).save(tmp_path / "in/c/0.jpg", exif=UPRIGHT)
    Image.new("L", (32, 32), 80).save(tmp_path / "in/c/1.jpg", progressive=True)
    return tmp_path / "in"


def shard(folder: Path, out: Path, *options: str) -> tuple[dict[str, Any], str, Manifest]:
    given = ("--src", folder, "--out", out, "--size", "32", "--workers", "1", "--json", "-", *options)
    result = CliRunner().invoke(main, ["shard", *map(str, given)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout), result.stderr, ShardSet(str(out)).manifest


def stored(out: Path) -> dict[int, Any]:
    """Of each class its last image, decoded by Pillow."""
    split = ShardSet(str(out)).split("train")
    samples = zip(split.labels.tolist(), split.read(np.arange(len(split))), strict=True)
    return {label: np.asarray(Image.open(io.BytesIO(data.tobytes())).convert("RGB"), int) for label, data in samples}


def test_the_defaults(folder: Path, tmp_path: Path) -> None:
    result, text, manifest = shard(folder, tmp_path / "out")
    assert (manifest.orient, manifest.background, manifest.not_kept) == (False, "#ffffff", None)
    assert (result["enlarged"], manifest.enlarged, result["not_kept"]) == (1, {"train": 1}, None)
    assert "Enlarged 1 of 4 images, whose shorter side is below --size" in text
    images = stored(tmp_path / "out")
    assert images[0][:12].mean() < 10
    assert images[1].mean() > 250


def test_orient_and_background(folder: Path, tmp_path: Path) -> None:
    options = ("--orient", "--background", "lime", "--keep")
    result, text, manifest = shard(folder, tmp_path / "out", *options)
    assert (manifest.orient, manifest.background) == (True, "#00ff00")
    images = stored(tmp_path / "out")
    assert images[0][:12].mean() > 245
    assert np.abs(images[1] - GREEN).max() < 8
    expected = {"not a JPEG": 1, "not a square of 28 to 32 pixels": 1, "progressive or extended": 1}
    assert result["not_kept"] == manifest.not_kept == expected
    made_anew = "1 not a JPEG; 1 not a square of 28 to 32 pixels; 1 progressive or extended"
    assert f"Kept 1 JPEGs as they are; made anew: {made_anew}" in text
    again, *_ = shard(folder, tmp_path / "out", *options)
    assert (again["images"], again["not_kept"]) == (4, expected)


def test_manifests_of_before_have_the_defaults(folder: Path, tmp_path: Path) -> None:
    shard(folder, tmp_path / "out", "--orient")
    body = json.loads((tmp_path / "out/manifest.json").read_text())
    for name in ("orient", "background", "enlarged"):
        del body[name]
    manifest = parse_manifest(json.dumps(body).encode(), "manifest.json")
    assert (manifest.orient, manifest.background, manifest.enlarged) == (False, "#ffffff", {})
