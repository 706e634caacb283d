"""predict: predictions for image files are those of evaluation for the same images in a shard set."""

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from alexnet_fast.cli.main import main
from alexnet_fast.inference.networks import open_network
from alexnet_fast.training import checkpoint
from tests.conftest import CLASSES, read_npz, save_network


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_network(tmp_path_factory.mktemp("network") / "bn.pt")


def run(*arguments: object) -> tuple[int, dict[str, Any], str]:
    result = CliRunner().invoke(main, [*map(str, arguments), "--gpus", "0", "--json", "-"])
    return result.exit_code, json.loads(result.stdout), result.stderr


@pytest.mark.parametrize("views", ["1", "10"])
def test_probabilities_are_those_of_evaluation(
    views: str, network: Path, raw_shards: Path, image_folder: Path, tmp_path: Path
) -> None:
    code, result, text = run("predict", network, image_folder / "val", "--views", views, "--top", "3")
    assert (code, result["images"], result["unread"]) == (0, 18, [])
    given = ("--shards", raw_shards, "--predictions", tmp_path / "p.npz")
    assert run("eval", network, *given, "--views", views)[0] == 0
    stored = read_npz(tmp_path / "p.npz")
    expected = dict(zip(stored["names"].tolist(), stored["probabilities"], strict=True))
    for row in result["predictions"]:
        name = str(Path(row["file"]).relative_to(image_folder / "val").with_suffix(""))
        by_class = {guess["id"]: guess["probability"] for guess in row["guesses"]}
        np.testing.assert_allclose([by_class[name] for name in CLASSES], expected[name], atol=1e-5)
        shares = [guess["probability"] for guess in row["guesses"]]
        assert shares == sorted(shares, reverse=True)
    assert len(text.splitlines()) == 18
    first = result["predictions"][0]
    best = first["guesses"][0]
    assert text.splitlines()[0].startswith(f"{first['file']}  {best['name']} {100 * best['probability']:.1f} %, ")
    assert best["name"] == best["id"].partition("_")[2]


def test_any_format_and_unreadable_files(network: Path, image_folder: Path, tmp_path: Path) -> None:
    source = next((image_folder / "val").rglob("*.JPEG"))
    folder = tmp_path / "folder" / "inside"
    folder.mkdir(parents=True)
    pixels = Image.open(source)
    pixels.save(folder / "a.png")
    pixels.save(folder / "b.BMP")
    (folder / "c.jpg").write_bytes(source.read_bytes()[:200])
    (folder / "notes.txt").write_text("no image")
    zipped = tmp_path / "named.whatever"
    zipped.write_bytes(gzip.compress((folder / "a.png").read_bytes()))
    code, result, text = run("predict", network, tmp_path / "folder", zipped, "--top", "1")
    assert code == 1
    assert [row["file"] for row in result["predictions"]] == [str(folder / "a.png"), str(folder / "b.BMP"), str(zipped)]
    assert len({json.dumps(row["guesses"]) for row in result["predictions"]}) == 1
    assert [row["file"] for row in result["unread"]] == [str(folder / "c.jpg")]
    assert f"left out: {folder / 'c.jpg'}: Truncated File Read" in text


def test_nothing_to_predict_is_refused(network: Path, tmp_path: Path) -> None:
    shutil.copy(__file__, tmp_path)
    for path, message in (
        (tmp_path / "no.jpg", f"Error: {tmp_path / 'no.jpg'} does not exist. Name images, or folders of images.\n"),
        (tmp_path, f"Error: {tmp_path} holds no image: none of its files ends in .avif, .bmp, "),
    ):
        result = CliRunner().invoke(main, ["predict", str(network), str(path)])
        assert result.exit_code == 2
        assert result.output.startswith(message)


def test_the_stored_side_of_checkpoints_that_do_not_name_it(network: Path, tmp_path: Path) -> None:
    state = checkpoint.load(network)
    for crop, stored in ((224, 256), (84, 96), (112, 128)):
        checkpoint.save(tmp_path / "x.pt", {**state, "size": None, "config": {**state["config"], "crop": crop}})
        assert open_network(tmp_path / "x.pt").stored == stored
