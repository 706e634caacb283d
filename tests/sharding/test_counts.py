"""Counts add up in every layout: files in = samples + rejected + left out, by kind; in the manifest and printed."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from alexnet_fast.cli.main import main
from alexnet_fast.config import TrainConfig
from alexnet_fast.distributed.topology import Topology
from alexnet_fast.errors import InputError
from alexnet_fast.sharding.listing import Source
from alexnet_fast.sharding.plan import Options
from alexnet_fast.sharding.sources import find_images
from alexnet_fast.sharding.summary import account, describe
from alexnet_fast.training.settings import resolve
from tests.conftest import write
from tests.sharding.sources import releases, trees
from tests.sharding.sources.layouts import BUILDERS, Photos, build, jpeg, write_files

SEEDS = range(25)
RELEASES = {"ILSVRC": releases.write_ilsvrc, "Kaggle": releases.write_kaggle, "whole": releases.write_whole}
LAYOUTS = ("folders", "one tar", "class tars", "table", "webdataset", "parquet", *RELEASES)


def found_in(layout: str, root: Path, drawn: trees.Drawn, seed: int) -> Source:
    if layout == "folders":
        return find_images(trees.write_folders(root, drawn, seed))
    if layout == "one tar":
        return find_images(trees.write_one_tar(root, drawn, seed), "tars")
    if layout == "class tars":
        return find_images(trees.write_class_tars(root, drawn))
    if layout == "webdataset":
        return find_images(trees.write_webdataset(root, drawn, seed))
    if layout in RELEASES:
        return find_images(RELEASES[layout](root, drawn, seed))
    if layout == "parquet":
        return find_images(trees.write_parquet(root, drawn, seed))
    src = trees.write_table(root, drawn, seed)
    return find_images(src, labels=src / "labels.csv")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("seed", SEEDS)
def test_every_file_of_a_random_tree_is_counted_once(seed: int, layout: str, tmp_path: Path) -> None:
    drawn = trees.draw(seed)
    source = found_in(layout, tmp_path, drawn, seed)
    names = [*source.classes, ""]  # at -1, for no label
    listed = {split: Counter(names[image.label] for image in images) for split, images in source.splits.items()}
    assert listed == drawn.images
    assert source.left_out.counts == {kind: count for kind, count in drawn.left_out.items() if count}
    files = sum(counts.total() for counts in drawn.images.values()) + drawn.left_out.total()
    assert source.left_out.found == describe(source).found == files
    if layout == "folders":
        assert any("empty class" in note for note in source.notes) == bool(drawn.empty)


@pytest.mark.parametrize("seed", SEEDS[:3])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_manifest_and_the_screen_have_the_same_counts(seed: int, layout: str, tmp_path: Path) -> None:
    drawn = trees.draw(seed)
    source = found_in(layout, tmp_path, drawn, seed)
    summary = write(source, tmp_path / "out", Options(size=16))
    said = json.loads((tmp_path / "out" / "manifest.json").read_text())["source"]
    files = sum(counts.total() for counts in drawn.images.values()) + drawn.left_out.total()
    assert said["found"] == files == said["samples"] + said["rejected"] + sum(said["left_out"].values())
    assert (said["samples"], said["rejected"]) == (summary.images, summary.rejected)
    assert said["rejected"] == drawn.bad
    assert said["left_out"] == {kind: count for kind, count in drawn.left_out.items() if count}
    lines = account(summary.source)
    if files > summary.images:
        parts = [f"{summary.images:,} samples", f"{drawn.bad:,} rejected"]
        parts += [f"{count:,} left out ({kind})" for kind, count in sorted(drawn.left_out.items()) if count]
        assert lines[0] == f"{files:,} files = {' + '.join(parts)}"


@pytest.mark.parametrize("form", BUILDERS)
def test_known_forms_add_up_too(form: str, tmp_path: Path, photos: Photos) -> None:
    contents = describe(find_images(build(form, tmp_path, photos)))
    assert contents.found == sum(split.images for split in contents.splits.values()) + sum(contents.left_out.values())
    assert contents.splits["train"].images == 12
    assert (contents.splits["train"].fewest, contents.splits["train"].most) == (3, 3)


def test_dry_run_prints_it_and_writes_nothing(tmp_path: Path) -> None:
    drawn = trees.draw(3)
    src = trees.write_folders(tmp_path, drawn, 3)
    before = sorted(tmp_path.rglob("*"))
    line = ["shard", "--src", str(src), "--out", str(tmp_path / "out"), "--dry-run", "--json", "-"]
    result = CliRunner().invoke(main, line)
    assert result.exit_code == 0, result.output
    assert sorted(tmp_path.rglob("*")) == before
    body = json.loads(result.stdout)
    assert body["splits"]["train"]["images"] == drawn.images["train"].total()
    assert body["left_out"] == {kind: count for kind, count in drawn.left_out.items() if count}
    assert "images a class: " in result.output


@pytest.mark.parametrize(("size", "way"), [(16, "at no crop"), (63, "at no crop"), (64, "--crop 64"), (73, "--crop")])
def test_a_size_that_the_default_crop_makes_too_small_is_noted(size: int, way: str, tmp_path: Path) -> None:
    src = write_files(tmp_path, {"a/1.jpg": b"", "b/1.jpg": b""})
    result = CliRunner().invoke(main, ["shard", "--src", str(src), "--dry-run", "--size", str(size)])
    line = next(line for line in result.output.splitlines() if line.startswith(f"--size {size} can be trained on "))
    assert way in line
    assert line.endswith("--size 74 is the smallest for it")
    assert "can be trained on" not in CliRunner().invoke(main, ["shard", "--src", str(src), "--dry-run"]).output
    with pytest.raises(InputError, match="--size 74 or more"):
        resolve(TrainConfig(), size, Topology(0, 1, torch.device("cpu")))
    assert resolve(TrainConfig(), 74, Topology(0, 1, torch.device("cpu"))).crop == 64


def test_the_same_image_in_two_splits(tmp_path: Path) -> None:
    files = {f"train/a/{i}.jpg": jpeg(i) for i in range(4)} | {"val/a/9.jpg": jpeg(2), "val/a/8.jpg": jpeg(7)}
    for encoding in ("jpeg", "raw"):
        source = find_images(
            write_files(tmp_path / "src", files | {"train/b/1.jpg": jpeg(20), "val/b/1.jpg": jpeg(21)})
        )
        summary = write(source, tmp_path / encoding, Options(encoding, size=16))
        assert summary.source["shared"] == {"train, val": 1}
        assert account(summary.source) == ["1 of the images of val are in train too, byte for byte"]


def test_what_is_printed_of_a_source(tmp_path: Path) -> None:
    names = ["train/cat/1.jpg", "train/cat/2.jpg", "train/dog/1.jpg", "test/1.jpg", "test/2.jpg", "test/Thumbs.db"]
    source = find_images(write_files(tmp_path, dict.fromkeys(names, b"")))
    assert describe(source).lines(source.classes) == [
        "class folders: 3 train, 2 test images of 2 classes",
        "classes: cat, dog",
        "images a class: 1 to 2 in train",
        "images without a label: 2 in test",
        "left out 1 of 6 files: system files 1 (test/Thumbs.db)",
    ]
