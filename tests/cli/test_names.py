"""Names of every kind, through every command: they are kept where people see them, and harm nothing else."""

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from alexnet_fast.cli.main import main
from alexnet_fast.errors import InputError
from alexnet_fast.sharding.plan import Options
from alexnet_fast.sharding.sources import find_images
from alexnet_fast.shards.reader import ShardSet
from alexnet_fast.text import printable
from tests.conftest import picture, read_npz, write
from tests.report.test_report import Page

CLASSES = sorted(
    ["<script>alert(1)<", "&amp; \"'` é 雪", "a\nb\tc", "-rf $x^{", " lead", "dot.", "CON", "\u202ertl", "x" * 200]
)
FILES = ["a b", "c\nd", "<i>&'\"", "雪", "-x", "NUL", "a..b .", "e" * 200]
ODD = 'ru "<b>&n é'


def call(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """images/, the shard set `set <b>é` and the run ODD, all of it with odd names."""
    folder = tmp_path_factory.mktemp("odd")
    for label, name in enumerate(CLASSES):
        for split, count in {"train": 8, "val": 2}.items():
            (folder / "images" / split / name).mkdir(parents=True)
            for number in range(count):
                path = folder / "images" / split / name / f"{FILES[number]}{number}.JPEG"
                Image.fromarray(picture(100 * label + number, label)).save(path, "JPEG")
    call("shard", "--src", folder / "images", "--out", folder / "set <b>é", "--size", "80", "--workers", "1")
    where: list[str | Path] = ["--shards", folder / "set <b>é", "--run", folder / ODD]
    how = ["--epochs", "1", "--batch", "16", "--set", "hidden=32", "--precision", "fp32"]
    call("train", "--gpus", "0", *where, "--recipe", "fast", *how)
    return folder


def test_a_name_that_is_no_text_is_printed(odd_shards: Path, tmp_path: Path) -> None:
    """On a terminal that stops at what its encoding lacks."""
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.symlink_to(odd_shards)
    assert "24 samples are whole: " in call("verify", folder, "--quick", "--workers", "1").output
    assert "caf\ufffd" in call("verify", folder, "--quick", "--workers", "1").output


def test_a_shard_set_keeps_the_names_of_classes_and_has_plain_keys(odd: Path) -> None:
    shards = ShardSet(odd / "set <b>é")
    assert [entry["name"] for entry in shards.manifest.classes] == CLASSES
    for split, count in {"train": 8, "val": 2}.items():
        opened = shards.split(split)
        keys = opened.keys()
        assert len(set(keys)) == count * len(CLASSES)
        assert all(key.isascii() and key.replace("/", "").replace("_", "").replace("-", "").isalnum() for key in keys)
        assert np.bincount(opened.labels).tolist() == [count] * len(CLASSES)
    call("verify", odd / "set <b>é", "--workers", "1")


def test_the_commands_that_use_a_network_name_them(odd: Path, tmp_path: Path) -> None:
    out = tmp_path / "p é <b>.npz"
    result = call("eval", odd / ODD, "--gpus", "0", "--per-class", "--predictions", out, "--json", tmp_path / "e.json")
    assert all(printable(name) in result.output for name in CLASSES)
    assert json.loads((tmp_path / "e.json").read_text())["images"] == 2 * len(CLASSES)
    assert read_npz(out)["classes"].tolist() == CLASSES
    images = odd / "images" / "val" / CLASSES[0]
    call("predict", odd / ODD, images, "--top", str(len(CLASSES)), "--gpus", "0", "--json", tmp_path / "p.json")
    assert "雪" in json.dumps(json.loads((tmp_path / "p.json").read_text()), ensure_ascii=False)
    call("features", odd / ODD, images, "--gpus", "0", "--out", tmp_path / "f é.npz")
    call("report", odd / ODD, "--out", tmp_path / "r é.html")
    page = Page(tmp_path / "r é.html")
    assert "script" not in page.tags
    assert "<script>alert(1)<" in page.text


def test_a_class_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """Such as `café` in Latin-1: no manifest could hold it."""
    folder = tmp_path / "images" / os.fsdecode(b"caf\xe9")
    folder.mkdir(parents=True)
    Image.fromarray(picture(0)).save(folder / "a.jpg")
    message = r"the class name 'caf\\udce9' in .* is not UTF-8\. Rename the class\."
    with pytest.raises(InputError, match=f"{message}$"):
        write(find_images(tmp_path / "images"), tmp_path / "out", Options(size=16))
    assert not list((tmp_path / "out").iterdir())
    command = ["shard", "--src", str(tmp_path / "images"), "--out", str(tmp_path / "set"), "--workers", "1"]
    for more in ([], ["--dry-run"]):
        result = CliRunner().invoke(main, [*command, *more])
        assert result.exit_code == 2
        assert re.search(message, result.output)
    assert not (tmp_path / "set").exists()


def test_a_file_name_that_is_no_text_is_taken(tmp_path: Path) -> None:
    folder = tmp_path / "images" / "a"
    folder.mkdir(parents=True)
    for name in (b"caf\xe9.jpg", b"\xff\xfe.jpg"):
        Image.fromarray(picture(0)).save(folder / os.fsdecode(name))
    (folder / os.fsdecode(b"no\xe9.jpg")).write_bytes(b"no image")
    summary: Any = write(find_images(tmp_path / "images"), tmp_path / "out", Options(size=16))
    assert (summary.images, summary.rejected) == (2, 1)
