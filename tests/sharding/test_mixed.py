"""A mixed set fits its budget, holds what sets of one kind hold, and is the same bytes whoever writes it."""

import io
import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from alexnet_fast.cli.main import main
from alexnet_fast.cli.options import BytesType
from alexnet_fast.errors import InputError
from alexnet_fast.sharding.decode import encode, to_square
from alexnet_fast.sharding.output import open_output
from alexnet_fast.sharding.plan import Options, jobs, make_plan
from alexnet_fast.sharding.selection import split_off
from alexnet_fast.sharding.sources import find_images
from alexnet_fast.sharding.write import Part
from alexnet_fast.shards.format import raw_bytes
from alexnet_fast.shards.reader import ShardSet
from tests.conftest import MIXED_BUDGET, SIZE, files, picture, write

OPTIONS = Options("mixed", size=SIZE, budget=MIXED_BUDGET)


def images_of(folder: Path, split: str) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of every image member, in stored order."""
    for path in sorted(folder.glob(f"{split}-*.tar")):
        with tarfile.open(path) as tar:
            for info in tar:
                if not info.name.endswith(".cls"):
                    yield info.name, tar.extractfile(info).read()  # type: ignore[union-attr]


def share(folder: Path) -> float:
    return float(json.loads((folder / "manifest.json").read_text())["raw_share"])


def bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def test_every_sample_is_that_of_a_set_of_one_kind(mixed_shards: Path, jpeg_shards: Path, raw_shards: Path) -> None:
    for name in ("train", "val"):
        found = list(images_of(mixed_shards, name))
        there = dict([*images_of(jpeg_shards, name), *images_of(raw_shards, name)])
        assert [data for _, data in found] == [there[name] for name, _ in found]
        assert [key.split(".")[0] for key, _ in found] == [key.split(".")[0] for key, _ in images_of(raw_shards, name)]
        split = ShardSet(mixed_shards).split(name)
        assert split.raw.tolist() == [key.endswith(".npy") for key, _ in found]
        assert split.raw.any() == (name == "train")
        for folder, raw in ((jpeg_shards, False), (raw_shards, True)):
            assert (ShardSet(folder).split(name).raw == raw).all()
    manifests = [json.loads((folder / "manifest.json").read_text()) for folder in (mixed_shards, jpeg_shards)]
    assert manifests[0]["pixels"] == manifests[1]["pixels"]
    assert set(manifests[0]) - set(manifests[1]) == {"raw_share"}
    assert (manifests[0]["encoding"], manifests[0]["quality"]) == ("mixed", 90)


def test_raw_samples_are_spread_evenly(mixed_shards: Path) -> None:
    raw, expected = ShardSet(mixed_shards).split("train").raw, share(mixed_shards)
    assert 0.3 < expected < 0.7
    for length in (5, 20, 60):
        counts = np.convolve(raw, np.ones(length), "valid")
        assert np.abs(counts - length * expected).max() <= 1


@pytest.mark.parametrize("part_of_raw", [0.3, 0.8])
def test_real_photographs_fit_the_budget(part_of_raw: float, real_images: Path, tmp_path: Path) -> None:
    """And use nearly all of it, though the sizes of JPEGs are guessed from a part of them."""
    budget = int(part_of_raw * 350 * raw_bytes(128))
    write(find_images(real_images), tmp_path / "out", Options("mixed", size=128, budget=budget), 2)
    assert 0.95 * budget < bytes_of(tmp_path / "out") <= budget
    assert ShardSet(tmp_path / "out").split("train").raw.mean() == pytest.approx(share(tmp_path / "out"), abs=1 / 350)


def test_a_small_set_fits_the_budget(mixed_shards: Path) -> None:
    assert 0.9 * MIXED_BUDGET < bytes_of(mixed_shards) <= MIXED_BUDGET


def test_more_than_all_is_all_and_less_than_jpeg_is_refused(
    image_folder: Path, jpeg_shards: Path, tmp_path: Path
) -> None:
    source = find_images(image_folder)
    write(source, tmp_path / "all", Options("mixed", size=SIZE, budget=10**12))
    assert share(tmp_path / "all") == 1
    assert ShardSet(tmp_path / "all").split("train").raw.all()
    small = Options("mixed", size=SIZE, budget=10_000)
    with pytest.raises(InputError, match=r"--budget is too small: the set may take 0\.\d\d MB when every") as error:
        write(source, tmp_path / "small", small)
    needed = BytesType().convert(str(error.value).split(" may take ")[1].split(" when ")[0], None, None)
    assert bytes_of(jpeg_shards) <= needed < 1.3 * bytes_of(jpeg_shards)
    write(source, tmp_path / "small", Options("mixed", size=SIZE, budget=needed))  # what it asked for is enough
    assert 0 <= share(tmp_path / "small") < 0.01


@pytest.mark.parametrize(("workers", "parts"), [(2, [None]), (1, [Part(3, 3), Part(1, 3), Part(2, 3)])])
def test_same_bytes_whoever_writes_it(
    workers: int, parts: list[Part | None], image_folder: Path, mixed_shards: Path, tmp_path: Path
) -> None:
    for part in parts:
        write(find_images(image_folder), tmp_path / "out", OPTIONS, workers, part)
    assert files(tmp_path / "out") == files(mixed_shards)
    assert write(find_images(image_folder), tmp_path / "out", OPTIONS).written == 0


def test_the_command_line_writes_the_same_bytes(image_folder: Path, mixed_shards: Path, tmp_path: Path) -> None:
    command = ["shard", "--src", str(image_folder), "--out", str(tmp_path / "out"), "--size", str(SIZE)]
    result = CliRunner().invoke(main, [*command, "--encoding", "mixed", "--budget", f"{MIXED_BUDGET / 1000}kB"])
    assert result.exit_code == 0, result.output
    assert f"{100 * share(mixed_shards):.4g} % of the training images raw, 1.20 MB in all" in result.output
    assert files(tmp_path / "out") == files(mixed_shards)


def test_a_resumed_run_keeps_the_share(image_folder: Path, mixed_shards: Path, tmp_path: Path) -> None:
    """Even when an image that it was estimated from is no longer there."""
    folder = shutil.copytree(image_folder, tmp_path / "in")
    source = find_images(folder)
    write(source, tmp_path / "out", OPTIONS, part=Part(1, 3))
    plan = make_plan(source, OPTIONS)
    later = jobs(source, plan, open_output([str(tmp_path / "out")]), {("train", 1), ("train", 2)})
    gone = [folder / image.path for job in later for image in job.images[:3]]
    for path in gone:
        path.unlink()
    with pytest.raises(InputError, match=rf"\(budget {MIXED_BUDGET}, now {MIXED_BUDGET + 1}\)"):
        write(source, tmp_path / "out", Options("mixed", size=SIZE, budget=MIXED_BUDGET + 1))
    assert write(source, tmp_path / "out", OPTIONS).rejected == len(gone)
    assert share(tmp_path / "out") == share(mixed_shards)
    assert not set(images_of(tmp_path / "out", "train")) - set(images_of(mixed_shards, "train"))


def test_a_jpeg_of_the_size_of_raw_pixels_is_not_taken_for_them(tmp_path: Path) -> None:
    """`--keep` stores a source's file, of any number of bytes."""
    folder = tmp_path / "in" / "a"
    folder.mkdir(parents=True)
    for number in range(16):
        file = io.BytesIO()
        Image.fromarray(picture(number)).resize((SIZE, SIZE)).save(file, "JPEG")
        (folder / f"{number}.jpg").write_bytes(file.getvalue().ljust(raw_bytes(SIZE) * (number % 2), b"\0"))
    options = Options("mixed", size=SIZE, keep=True, budget=13 * raw_bytes(SIZE))
    write(find_images(tmp_path / "in"), tmp_path / "out", options)
    split = ShardSet(tmp_path / "out").split("train")
    found = list(images_of(tmp_path / "out", "train"))
    assert split.raw.tolist() == [name.endswith(".npy") for name, _ in found]
    longer = 0
    for name, data in found:
        given = (tmp_path / "in" / name).with_suffix(".jpg").read_bytes()
        if name.endswith(".npy"):
            assert data == encode(to_square(given, SIZE), "raw", 90)
        else:
            assert data == given + b"\0" * (len(given) == raw_bytes(SIZE))
            assert Image.open(io.BytesIO(data)).size == (SIZE, SIZE)
            longer += data != given
    assert longer


def test_images_that_cannot_be_read_take_no_room(tmp_path: Path) -> None:
    folder = tmp_path / "in" / "a"
    folder.mkdir(parents=True)
    (folder / "bad.jpg").write_text("no image")
    with pytest.raises(InputError, match="no image of the split train could be read"):
        write(find_images(tmp_path / "in"), tmp_path / "out", OPTIONS)
    Image.fromarray(picture(0)).save(folder / "good.jpg")
    write(find_images(tmp_path / "in"), tmp_path / "more", OPTIONS)
    assert ShardSet(tmp_path / "more").split("train").raw.tolist() == [True]


def test_validation_samples_are_jpegs(image_folder: Path, tmp_path: Path) -> None:
    source = split_off(find_images(image_folder / "train"), 0.5, 0)
    write(source, tmp_path / "out", Options("mixed", size=SIZE, budget=10**9))
    assert ShardSet(tmp_path / "out").split("train").raw.all()
    assert not ShardSet(tmp_path / "out").split("val").raw.any()


@pytest.mark.parametrize(
    ("text", "number"),
    [("100GB", 100 * 10**9), ("1.5 mb", 1_500_000), ("93.5GiB", 93.5 * 2**30), ("2TB", 2 * 10**12)],
)
def test_sizes(text: str, number: float) -> None:
    assert BytesType().convert(text, None, None) == number
