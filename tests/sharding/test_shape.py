"""shard --shape full: all of an image is stored, of the size and with the pixels that Pillow has for it."""

import gzip
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image, ImageOps

from alexnet_fast import native
from alexnet_fast.cli.main import main
from alexnet_fast.errors import InputError
from alexnet_fast.evaluation.scoring import views_of
from alexnet_fast.inference.images import ImageFiles
from alexnet_fast.inference.networks import open_network
from alexnet_fast.loading.loader import Loader
from alexnet_fast.sharding.decode import MAX_SIDE, convert
from alexnet_fast.sharding.plan import Options
from alexnet_fast.sharding.sources import find_images
from alexnet_fast.sharding.statistics import STRIDE
from alexnet_fast.sharding.write import Part
from alexnet_fast.shards.reader import ShardSet, Split
from alexnet_fast.shards.verify import verify
from tests.conftest import files, turn_native_off, write
from tests.sharding.pictures import MEAN_TOLERANCE, damaged, difference, file_of, frame, smooth

SIDE = 64


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return file_of(smooth(150, 113), "JPEG", quality=95, exif=exif)


def jpeg(width: int, height: int, **options: Any) -> bytes:
    return file_of(smooth(width, height), "JPEG", **{"quality": 95, **options})


def transparent() -> Image.Image:
    image = smooth(90, 120).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


AS_THEY_ARE = {
    "wide": jpeg(300, 212),
    "tall": jpeg(113, 290),
    "large": jpeg(900, 701),
    "square": jpeg(SIDE, SIDE),
    "tiny": jpeg(3, 2),
    "pixel": jpeg(1, 1),
    "long": jpeg(3000, 20),
    "grey": file_of(smooth(100, 77).convert("L"), "JPEG", quality=95),
    "full-colour": jpeg(100, 77, subsampling=0),
    "restarts": jpeg(100, 77, restart_marker_blocks=3),
    "upright": turned(1),
}
"""JPEGs that --size 0 stores byte for byte."""
MADE_ANEW = {
    **{f"turned-{orientation}": turned(orientation) for orientation in range(2, 9)},
    "progressive": jpeg(130, 90, progressive=True),
    "cmyk": file_of(smooth(100, 77).convert("CMYK"), "JPEG", quality=95),
    "rgb": jpeg(100, 77, keep_rgb=True),
    "png": file_of(smooth(97, 131), "PNG"),
    "png-pixel": file_of(smooth(1, 1), "PNG"),
    "png-long": file_of(smooth(20, 3000), "PNG"),
    "palette": file_of(smooth(120, 99).quantize(200), "PNG"),
    "transparent": file_of(transparent(), "PNG"),
    "webp": file_of(smooth(120, 99), "WEBP", lossless=True),
    "sixteen": file_of(Image.fromarray(np.arange(66 * 70, dtype=np.uint16).reshape(66, 70) * 14), "PNG"),
    "packed": gzip.compress(jpeg(130, 90, progressive=True)),
}
IMAGES = {**AS_THEY_ARE, **MADE_ANEW}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("in")
    (folder / "a").mkdir()
    for name, data in IMAGES.items():
        (folder / "a" / f"{name}.img").write_bytes(data)
    return folder


def by_pillow(name: str, *, orient: bool, size: int) -> NDArray[np.uint8]:
    """All of the image, but of very long ones the middle, with a shorter side of `size`; 0: as it is."""
    data = IMAGES[name]
    with Image.open(io.BytesIO(gzip.decompress(data) if name == "packed" else data)) as opened:
        image = ImageOps.exif_transpose(opened) if orient else opened
        if name == "transparent":
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        if name == "sixteen":
            image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
        image = image.convert("RGB")
    if size:
        shorter, longer = min(image.size), min(max(image.size), 8 * min(image.size))
        width, height = (min(length, longer) for length in image.size)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        image = image.crop((left, top, left + width, top + height))
        image = image.resize((round(width * size / shorter), round(height * size / shorter)), Image.Resampling.BILINEAR)
    return np.asarray(image)


def stored(split: Split) -> dict[str, tuple[NDArray[np.uint8], bytes]]:
    """Each image by its key: pixels as Pillow or NumPy reads them from the member, and its bytes or pixels."""
    found = {}
    for key, view, is_raw in zip(split.keys(), split.read(np.arange(len(split))), split.raw, strict=True):
        data = view.tobytes()
        pixels = view if is_raw else np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        found[key.removeprefix("a/")] = pixels, data
    return found


@pytest.mark.parametrize("orient", [False, True])
@pytest.mark.parametrize("size", [SIDE, 0])
@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
def test_the_sizes_and_pixels_are_pillow_s(
    encoding: str, size: int, orient: bool, folder: Path, tmp_path: Path
) -> None:
    options = Options(encoding, quality=98, shape="full", size=size, orient=orient or None)
    assert write(find_images(folder), tmp_path / "out", options).images == len(IMAGES)
    split = ShardSet(tmp_path / "out").split("train")
    found = stored(split)
    assert found.keys() == IMAGES.keys()
    assert (split.sizes.shape, split.sizes.dtype.name) == ((len(IMAGES), 2), "int32")
    for name, (height, width) in zip(found, split.sizes.tolist(), strict=True):
        expected, pixels = by_pillow(name, orient=orient, size=size), found[name][0]
        assert (height, width, 3) == expected.shape == pixels.shape, name
        halved_colour = 2.5 if encoding == "jpeg" else 1  # of a palette's bands it costs most
        assert difference(pixels, expected) < MEAN_TOLERANCE * halved_colour, name
        if encoding == "raw" and not size and name in ("png", "png-long", "webp", "palette", "png-pixel"):
            assert np.array_equal(pixels, expected)
        if encoding == "jpeg":
            with Image.open(io.BytesIO(found[name][1])) as image:
                assert image.format == "JPEG"
                assert not {"progressive", "exif"} & image.info.keys()
    assert verify(tmp_path / "out", False, 1, lambda images: None) == []


def test_statistics_are_those_of_all_stored_pixels(folder: Path, tmp_path: Path) -> None:
    write(find_images(folder), tmp_path / "out", Options("raw", shape="full", size=SIDE))
    shards = ShardSet(tmp_path / "out")
    split = shards.split("train")
    picked = [pixels[::STRIDE, ::STRIDE].reshape(-1, 3) for pixels in split.read(np.arange(len(split)))]
    pixels = np.concatenate(picked).astype(np.float64)
    np.testing.assert_allclose(shards.manifest.pixels.mean, pixels.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(shards.manifest.pixels.covariance, np.cov(pixels.T, bias=True), atol=1e-6)


def shard(folder: Path, out: Path, *options: str, code: int = 0) -> Any:
    given = ["shard", "--src", str(folder), "--out", str(out), "--workers", "1", "--json", "-", *options]
    result = CliRunner().invoke(main, given, catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.stderr if code else json.loads(result.stdout)


def test_size_0_stores_jpegs_byte_for_byte_where_that_is_safe(folder: Path, tmp_path: Path) -> None:
    result = shard(folder, tmp_path / "out", "--shape", "full", "--size", "0")
    manifest = ShardSet(tmp_path / "out").manifest
    assert (manifest.shape, manifest.size, manifest.keep, manifest.enlarged) == ("full", 0, True, {"train": 0})
    assert result["not_kept"] == manifest.not_kept
    assert manifest.not_kept == {
        "neither grey nor YCbCr": 2,
        "not a JPEG": 7,
        "progressive or extended": 2,
        "turned by its EXIF orientation": 7,
    }
    found = stored(ShardSet(tmp_path / "out").split("train"))
    assert {name for name, (_, data) in found.items() if data == IMAGES[name]} == set(AS_THEY_ARE)


def test_keep_with_a_size_stores_what_has_it(folder: Path, tmp_path: Path) -> None:
    """7/8 of the size or more, as of squares; but nothing longer than others may be."""
    given = {
        "fits": jpeg(150, SIDE),
        "smaller": jpeg(56, 90),
        "too-small": jpeg(55, 90),
        "too-large": jpeg(90, SIDE + 1),
        "too-long": jpeg(8 * SIDE + 1, SIDE),
    }
    (tmp_path / "in" / "a").mkdir(parents=True)
    for name, data in given.items():
        (tmp_path / "in" / "a" / f"{name}.jpg").write_bytes(data)
    shard(tmp_path / "in", tmp_path / "out", "--shape", "full", "--size", str(SIDE), "--keep")
    assert ShardSet(tmp_path / "out").manifest.not_kept == {
        "its shorter side not of 56 to 64 pixels": 2,
        "more than 8 times as long as wide": 1,
    }
    split = ShardSet(tmp_path / "out").split("train")
    found = stored(split)
    assert {name for name, (_, data) in found.items() if data == given[name]} == {"fits", "smaller"}
    assert dict(zip(found, split.sizes.tolist(), strict=True)) == {
        "fits": [64, 150],
        "smaller": [90, 56],
        "too-small": [105, 64],
        "too-large": [64, 89],
        "too-long": [64, 512],
    }
    assert verify(tmp_path / "out", False, 1, lambda images: None) == []


@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
def test_a_side_that_no_jpeg_has_is_refused(encoding: str) -> None:
    data = file_of(Image.new("RGB", (MAX_SIDE, 1)), "PNG")
    longest = convert(data, shape="full", size=0, encoding=encoding, quality=90, keep=False)
    assert longest.pixels.shape == (1, MAX_SIDE, 3)
    if encoding == "raw":
        assert len(longest.data) == 3 * MAX_SIDE + 128
        assert np.load(io.BytesIO(longest.data)).shape == (1, MAX_SIDE, 3)
    data = file_of(Image.new("RGB", (1, MAX_SIDE + 1)), "PNG")
    with pytest.raises(ValueError, match=r"a side of 65,501 pixels, more than the limit of 65,500"):
        convert(data, shape="full", size=0, encoding=encoding, quality=90, keep=False)


@pytest.mark.parametrize("size", [SIDE, 0])
def test_damaged_files_are_refused_for_a_reason(size: int) -> None:
    """Whatever the bytes: an image, or a ValueError; also where a header states no height or width, or far too much."""
    good = AS_THEY_ARE["wide"]
    headers = [frame(good, at, bytes(2)) for at in (5, 7)] + [frame(good, 5, b"\xff\xff\xff\xff")]
    refused = 0
    for data in [*headers, *damaged(good, 60), *damaged(MADE_ANEW["png"], 40)]:
        try:
            found = convert(data, shape="full", size=size, encoding="jpeg", quality=90, keep=not size)
        except ValueError:
            refused += 1
            continue
        with Image.open(io.BytesIO(found.data)) as image:
            assert (image.height, image.width, 3) == found.pixels.shape
            image.load()
    assert refused > 60
    for data in headers:
        with pytest.raises(ValueError, match=r"corrupt JPEG|pixels, more than the limit"):
            convert(data, shape="full", size=size, encoding="jpeg", quality=90, keep=not size)


@pytest.mark.parametrize("name", ["wide", "large", "long", "tiny", "png-long", "turned-6"])
def test_bytes_do_not_depend_on_a_compiler(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if native.kernels() is None:
        pytest.skip("needs the compiled code")
    made = convert(IMAGES[name], shape="full", size=SIDE, encoding="jpeg", quality=90, keep=False).data
    turn_native_off(monkeypatch)
    again = convert(IMAGES[name], shape="full", size=SIDE, encoding="jpeg", quality=90, keep=False).data
    assert hashlib.sha256(made).digest() == hashlib.sha256(again).digest()


def test_a_square_image_is_stored_alike_in_both_shapes(tmp_path: Path) -> None:
    """And a set of squares has the format that it always had."""
    (tmp_path / "in" / "a").mkdir(parents=True)
    for side in (40, 64, 200):
        (tmp_path / "in" / "a" / f"{side}.jpg").write_bytes(jpeg(side, side))
    for shape in ("square", "full"):
        shard(tmp_path / "in", tmp_path / shape, "--shape", shape, "--size", str(SIDE))
    square, full = (files(tmp_path / shape) for shape in ("square", "full"))
    same = {name for name, digest in square.items() if full[name] == digest}
    assert same == square.keys() - {"manifest.json", "SHA256SUMS", "train.index.npy"}
    manifests = [json.loads((tmp_path / shape / "manifest.json").read_text()) for shape in ("square", "full")]
    assert [(manifest["version"], manifest.get("shape")) for manifest in manifests] == [(1, None), (2, "full")]
    sizes = [ShardSet(tmp_path / shape).split("train").sizes for shape in ("square", "full")]
    assert np.array_equal(sizes[0], sizes[1])
    assert sizes[0].dtype == sizes[1].dtype == np.int32


def test_parts_and_resumed_runs_write_the_same_bytes(image_folder: Path, full_shards: Path, tmp_path: Path) -> None:
    options = Options("jpeg", shape="full", size=96)
    for index in (2, 1):
        assert write(find_images(image_folder), tmp_path / "out", options, part=Part(index, 2)).complete == (index == 1)
    assert files(tmp_path / "out") == files(full_shards)
    write(find_images(image_folder), tmp_path / "half", options, part=Part(1, 2))
    with pytest.raises(InputError, match=r"other images or options \(shape full, now not given\)"):
        write(find_images(image_folder), tmp_path / "half", Options("jpeg", size=96))
    assert write(find_images(image_folder), tmp_path / "half", options).complete
    assert files(tmp_path / "half") == files(full_shards)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "0"], "--size is 0; the least is 8. Images stay as they are with --size 0 --shape full."),
        (["--size", "7"], "--size is 7; the least is 8. Give that or more."),
        (["--shape", "full", "--size", "7"], "--size is 7; the least is 8. Give that or more."),
        (
            ["--shape", "full", "--encoding", "mixed", "--budget", "1GB"],
            "--encoding mixed is for --shape square. Take jpeg or raw for all of the images.",
        ),
        (
            ["--shape", "full", "--size", "0", "--encoding", "raw", "--keep"],
            "--keep stores JPEGs as they are; leave it out with --encoding raw.",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(options: list[str], message: str, folder: Path, tmp_path: Path) -> None:
    assert message in shard(folder, tmp_path / "out", *options, code=2)
    assert not (tmp_path / "out").exists()


def test_a_network_trains_on_it_and_is_evaluated_as_it_predicts(full_shards: Path, tmp_path: Path) -> None:
    """`predict` makes the same crop of an image of the set as `eval`."""
    run = tmp_path / "run"
    given = "--gpus 0 --recipe fast --epochs 1 --batch 16 --precision fp32"
    settings = "--set hidden=16 --set crop=64 --set crops=resized"
    command = ["train", "--shards", str(full_shards), "--run", str(run), *given.split(), *settings.split()]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    network = open_network(run / "last.pt")
    split = ShardSet(full_shards).split("val")
    (tmp_path / "images").mkdir()
    for sample, stored in enumerate(split.read(np.arange(8))):
        (tmp_path / "images" / f"{sample}.jpg").write_bytes(stored.tobytes())
    ((files, squares),) = ImageFiles(network, [tmp_path / "images"])
    predicted = views_of(squares, network.crop, 1)[0]
    (batch,) = Loader.evaluation(split, samples=np.arange(8), crop=64, mean=network.pixels.mean)
    order = [batch.rows.samples.tolist().index(int(file.stem)) for file in files]
    assert (predicted - batch.images[order]).abs().mean() < 3  # grey levels: resized by other steps


def test_images_of_any_size_need_a_crop(folder: Path, tmp_path: Path) -> None:
    shard(folder, tmp_path / "out", "--shape", "full", "--size", "0")
    start = ["--gpus", "0", "--shards", str(tmp_path / "out")]
    for command in (["train", "--run", str(tmp_path / "run")], ["bench"]):
        result = CliRunner().invoke(main, [*command, *start])
        assert result.exit_code == 2
        assert "the stored images have sides of their own. Give the network's: " in result.output
