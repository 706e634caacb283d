"""The folders and tars of shared/cases/make_sources.py, each taken for what its table WANTED has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image

from alexnet_fast.cli.main import main
from alexnet_fast.errors import InputError
from alexnet_fast.sharding.plan import Options
from alexnet_fast.sharding.selection import read_class_file, split_off, take_classes
from alexnet_fast.sharding.sources import find_images
from alexnet_fast.sharding.summary import describe
from alexnet_fast.shards.reader import ShardSet
from tests.conftest import write
from tests.sharding.sources.test_arrange import counts

CASES = Path(__file__).parents[4] / "shared" / "cases" / "make_sources.py"
EIGHT = {"cat": 8, "dog": 8}
WANTED: dict[str, dict[str, dict[str, int]] | str] = {
    "valid": {"train": EIGHT, "val": EIGHT, "test": EIGHT},
    "training_validation": {"train": EIGHT, "val": EIGHT},
    "capitals": {"train": EIGHT, "val": EIGHT},
    "wrapper": {"train": EIGHT},
    "wrapper_splits": {"train": EIGHT, "val": EIGHT},
    "flat_with_csv": {"train": {"cat": 10, "dog": 10}},
    "system_folders": {"train": EIGHT},
    "linked_folder": {"train": {"cat": 13, "dog": 8}},
    "composed_names": {"train": {"caf\u00e9": 8, "dog": 8}, "val": {"caf\u00e9": 8, "dog": 8}},
    "hard_links": {"train": {"n00000001": 3, "n00000002": 3}},
    "repeated_key": {"train": {"0": 1, "1": 1, "2": 1}},
    "two_tars": {"train": EIGHT, "val": EIGHT},
    "one_tar": {"train": EIGHT},
    "class_list": {"train": {"#hash": 8, "French horn": 8, "dog": 8}},
    "one_level_down/cat": "give its parent",
}


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not CASES.is_file():
        pytest.skip(f"needs {CASES.relative_to(CASES.parents[2])} beside the checkout")
    folder = tmp_path_factory.mktemp("cases")
    subprocess.run([sys.executable, CASES, folder], check=True)
    return folder


@pytest.mark.parametrize("case", WANTED)
def test_the_table_of_cases(case: str, cases: Path) -> None:
    expected = WANTED[case]
    if isinstance(expected, str):
        with pytest.raises(InputError, match=expected):
            find_images(cases / case)
    else:
        assert counts(find_images(cases / case)) == expected


def test_an_output_in_the_source(cases: Path) -> None:
    src = cases / "out_inside_src"
    for out in (src, src / "shards"):
        result = CliRunner().invoke(main, ["shard", "--src", str(src), "--out", str(out), "--workers", "1"])
        assert result.exit_code == 2
        assert f"--out {out} lies in --src {src}, where the shard set would be taken for images" in result.output
    assert counts(find_images(src)) == {"train": EIGHT}


def test_a_class_list(cases: Path) -> None:
    taken = take_classes(find_images(cases / "class_list"), read_class_file(cases / "class_list.txt"))
    assert counts(taken) == {"train": {"French horn": 8, "#hash": 8}}


def test_classes_of_few_images(cases: Path) -> None:
    source = split_off(find_images(cases / "few"), 0.1, seed=0)
    assert counts(source)["val"]["many"] == 6
    without = [name for name, count in counts(source)["val"].items() if not count]
    assert "one" in without
    assert any(note.endswith(f"no image in val: {', '.join(without)}") for note in describe(source).notes)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves its tars open
def test_names_that_are_not_latin_in_every_reader(cases: Path, tmp_path: Path) -> None:
    """timm and Hugging Face datasets: tests/system/test_interop.py has sets with such names."""
    assert write(find_images(cases / "non_latin"), tmp_path / "set", Options(size=16)).images == 12
    again = find_images(tmp_path / "set")
    assert [*counts(again)["train"].values()] == [4, 4, 4]
    tars = sorted(str(path) for path in (tmp_path / "set").glob("*.tar"))
    found = list(webdataset.WebDataset(tars, shardshuffle=False, empty_check=False))
    assert sorted(int(sample["cls"]) for sample in found) == [0] * 4 + [1] * 4 + [2] * 4
    keys = {sample["__key__"] for sample in found}
    assert len(keys) == 12
    assert not any(part.startswith("__") for key in keys for part in key.split("/"))


# --- drawn here too, where the shared cases are not


RAMP = np.tile(np.linspace(0, 1, 80, dtype=np.float32), (80, 1))


def draw(root: Path) -> None:
    """A glyph, opaque, on hidden black or red; and a ramp in three depths."""
    glyph = np.zeros((80, 80, 2), np.uint8)
    glyph[20:60, 20:60, 1] = 255
    colour = np.zeros((80, 80, 4), np.uint8)
    colour[..., 0] = 255
    colour[20:60, 20:60] = 0, 0, 255, 255
    deep: dict[str, NDArray[Any]] = {
        "bits12.png": (RAMP * 4095).astype(np.uint16),
        "int32.tif": (RAMP * 255).astype(np.int32),
    }
    pictures: dict[str, NDArray[Any]] = {"alpha/la.png": glyph, "alpha/rgba.png": colour, "depths/float.tif": RAMP}
    pictures |= {f"depths/{name}": pixels for name, pixels in deep.items()}
    for name, pixels in pictures.items():
        folder = root / Path(name).with_suffix("")
        folder.mkdir(parents=True)
        for number in range(4):
            Image.fromarray(pixels).save(folder / f"{number}{Path(name).suffix}")


@pytest.fixture(params=["drawn", "shared"])
def pictures(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "shared":
        shared: Path = request.getfixturevalue("cases")
        return shared
    draw(tmp_path / "drawn")
    return tmp_path / "drawn"


def stored(source: Path, out: Path) -> dict[str, list[NDArray[np.uint8]]]:
    """The pixels of a set made of a folder's images, by class."""
    summary = write(find_images(source), out, Options("raw", size=80))
    split = ShardSet(out).split("train")
    found: dict[str, list[NDArray[np.uint8]]] = {entry["id"]: [] for entry in ShardSet(out).manifest.classes}
    assert summary.rejected + len(split) == len(list(source.glob("*/*")))
    for label, pixels in zip(split.index["label"].tolist(), split.read(np.arange(len(split))), strict=True):
        found[list(found)[label]].append(pixels)
    return found


def test_transparent_images_lie_on_white(pictures: Path, tmp_path: Path) -> None:
    found = stored(pictures / "alpha", tmp_path / "out")
    for name, glyph in (("la", (0, 0, 0)), ("rgba", (0, 0, 255))):
        expected = np.full((80, 80, 3), 255, np.uint8)
        expected[20:60, 20:60] = glyph
        assert len(found[name]) == 4
        assert all((pixels == expected).all() for pixels in found[name])


def test_a_ramp_of_each_depth_is_seen_or_rejected_with_the_reason(pictures: Path, tmp_path: Path) -> None:
    found = stored(pictures / "depths", tmp_path / "out")
    rejected = (tmp_path / "out" / "rejected.jsonl").read_text() if any(len(f) < 4 for f in found.values()) else ""
    assert {name: len(images) for name, images in found.items() if images}
    for name, images in found.items():
        assert len(images) == 4 or rejected.count(f'"{name}/') == 4
        for pixels in images:
            assert np.abs(pixels.astype(float) - 255 * RAMP[..., None]).max() < 1.5
