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
    assert (code, result["images"], result["unread"], result["not_images"]) == (0, 18, [], [])
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
    assert f"left out: {folder / 'c.jpg'}: a corrupt JPEG (Truncated File Read)" in text
    assert result["not_images"] == [{"file": str(folder / "notes.txt"), "reason": "text, not an image"}]
    assert f"left out: {folder / 'notes.txt'}: text, not an image" in text


@pytest.mark.parametrize("suffix", ["jfif", "pgm", "j2k", "JPE", "bin", ""])
def test_content_decides_what_is_an_image(suffix: str, network: Path, tmp_path: Path) -> None:
    """Each file of a folder is accounted for; only an image that cannot be read is worth an exit code."""
    format = {"pgm": "PPM", "j2k": "JPEG2000"}.get(suffix, "JPEG")
    (tmp_path / "in").mkdir()
    name = tmp_path / "in" / f"picture.{suffix}".rstrip(".")
    Image.new("L", (50, 60), 99).save(name, format)
    (tmp_path / "in" / "b.jpg").write_text("<html></html>")
    (tmp_path / "in" / "gone.jpg").symlink_to("nowhere")
    code, result, _ = run("predict", network, tmp_path / "in")
    assert (code, [row["file"] for row in result["predictions"]]) == (1, [str(name)])
    assert result["not_images"] == [{"file": str(tmp_path / "in/b.jpg"), "reason": "HTML, not an image"}]
    assert result["unread"] == [{"file": str(tmp_path / "in/gone.jpg"), "reason": "No such file or directory"}]
    (tmp_path / "in/gone.jpg").unlink()
    assert run("predict", network, tmp_path / "in")[0] == 0
    assert run("predict", network, name, tmp_path / "in/b.jpg")[0] == 1  # it was named itself


@pytest.mark.parametrize(("rule", "turns"), [({}, 0), ({"orient": True, "background": "#00ff00"}, 1)])
def test_an_image_is_prepared_by_the_rule_of_the_training_set(
    rule: dict[str, Any], turns: int, network: Path, tmp_path: Path
) -> None:
    checkpoint.save(tmp_path / "x.pt", {**checkpoint.load(network), **({"rule": rule} if rule else {})})
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.random.default_rng(0).integers(0, 256, (70, 50, 4), np.uint8)
    pixels[..., 3] = np.where(pixels[..., 3] < 128, 0, 255)
    Image.fromarray(pixels, "RGBA").save(tmp_path / "given.png", exif=exif)
    shown = np.where(pixels[..., 3:] > 0, pixels[..., :3], (0, 255, 0) if rule else (255,) * 3).astype(np.uint8)
    Image.fromarray(np.rot90(shown, -turns)).save(tmp_path / "shown.png")
    _, result, _ = run("predict", tmp_path / "x.pt", tmp_path / "given.png", tmp_path / "shown.png")
    given, expected = (row["guesses"] for row in result["predictions"])
    assert given == expected


def test_names_cannot_command_the_terminal(network: Path, tmp_path: Path) -> None:
    state = checkpoint.load(network)
    names = [{**entry, "name": "\x1b[31mred\r\u202e"} for entry in state["classes"]]
    checkpoint.save(tmp_path / "x.pt", {**state, "classes": names})
    file = tmp_path / "a\x1b[2J\nb.png"
    Image.new("L", (50, 60), 99).save(file)
    (tmp_path / "c\x07.png").write_text("no image")
    _, result, text = run("predict", tmp_path / "x.pt", file, tmp_path / "c\x07.png")
    assert result["predictions"][0]["file"] == str(file)
    assert f"{tmp_path}/a\\x1b[2J\\nb.png  \\x1b[31mred\\r\\u202e " in text
    assert f"left out: {tmp_path}/c\\x07.png: text" in text
    assert not set("\x1b\r\x07\u202e") & set(text)


def test_nothing_to_predict_is_refused(network: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    shutil.copy(__file__, tmp_path / "texts/a.py")
    for path, message in (
        (tmp_path / "no.jpg", f"Error: {tmp_path / 'no.jpg'} does not exist. Name images, or folders of images.\n"),
        (tmp_path / "empty", f"Error: {tmp_path / 'empty'} holds no file. Name images, or folders of images.\n"),
        (
            tmp_path / "texts",
            f"Error: none of the 1 files is an image; the first is {tmp_path / 'texts/a.py'} (text, not an image).\n",
        ),
    ):
        result = CliRunner().invoke(main, ["predict", str(network), str(path)])
        assert result.exit_code == 2
        assert result.output.startswith(message)


def test_the_stored_side_of_checkpoints_that_do_not_name_it(network: Path, tmp_path: Path) -> None:
    state = checkpoint.load(network)
    for crop, stored in ((224, 256), (84, 96), (112, 128)):
        checkpoint.save(tmp_path / "x.pt", {**state, "size": None, "config": {**state["config"], "crop": crop}})
        assert open_network(tmp_path / "x.pt").stored == stored
