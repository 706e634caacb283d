"""A shard set is complete, exact and the same bytes every time; bad input leaves no shard set behind."""

import hashlib
import io
import json
import shutil
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet_fast.console import Progress
from alexnet_fast.errors import InputError
from alexnet_fast.loading.loader import Loader
from alexnet_fast.sharding.listing import Entry, Listing, Source
from alexnet_fast.sharding.output import open_output
from alexnet_fast.sharding.plan import Options, jobs, make_plan
from alexnet_fast.sharding.sources import find_images
from alexnet_fast.sharding.statistics import STRIDE
from alexnet_fast.sharding.write import Part, Summary
from alexnet_fast.shards.reader import ShardSet
from alexnet_fast.shards.verify import verify
from tests import conftest
from tests.conftest import SIZE, files
from tests.sharding.pictures import MEAN_TOLERANCE, by_pillow, difference


def write(source: Source, out: Path, workers: int = 1, seed: int = 0, part: Part | None = None) -> Summary:
    return conftest.write(source, out, Options(size=SIZE, seed=seed), workers, part)


def members(folder: Path, split: str) -> list[tuple[str, bytes, int, int]]:
    """Name, bytes, tar number and offset of every member as Python's tarfile finds them."""
    found = []
    for number, path in enumerate(sorted(folder.glob(f"{split}-*.tar"))):
        with tarfile.open(path) as tar:
            for info in tar:
                member = tar.extractfile(info)
                assert member is not None
                found.append((info.name, member.read(), number, info.offset_data))
    return found


@pytest.mark.parametrize("workers", [2, 3])
def test_same_bytes_with_any_number_of_workers(
    workers: int, image_folder: Path, jpeg_shards: Path, tmp_path: Path
) -> None:
    summary = write(find_images(image_folder), tmp_path / "out", workers)
    assert (summary.images, summary.rejected) == (78, 0)
    assert files(tmp_path / "out") == files(jpeg_shards)  # jpeg_shards: by one worker


def test_the_files_of_a_shard_set(jpeg_shards: Path) -> None:
    """60 and 18 images in tars of at most 16, and nothing else: no temporary file, no rejected.jsonl."""
    tars = [f"train-{number:06d}" for number in range(4)] + [f"val-{number:06d}" for number in range(2)]
    expected = {f"{tar}.{suffix}" for tar in tars for suffix in ("tar", "idx")}
    expected |= {f"{split}.{suffix}" for split in ("train", "val") for suffix in ("index.npy", "wids.json")}
    assert set(files(jpeg_shards)) == expected | {"_info.json", "SHA256SUMS", "manifest.json"}


def test_another_seed_gives_another_order(image_folder: Path, jpeg_shards: Path, tmp_path: Path) -> None:
    write(find_images(image_folder), tmp_path / "out", seed=1)
    first, second = ([name for name, *_ in members(folder, "train")] for folder in (jpeg_shards, tmp_path / "out"))
    assert first != second
    assert sorted(first) == sorted(second)


def test_every_image_once_in_an_order_that_mixes_classes(image_folder: Path, jpeg_shards: Path) -> None:
    source = find_images(image_folder)
    for split, images in source.splits.items():
        keys = [name.removesuffix(".cls") for name, *_ in members(jpeg_shards, split) if name.endswith(".cls")]
        assert sorted(keys) == sorted(image.key for image in images)
        assert keys != sorted(keys)
        first_tar = [name for name, _, number, _ in members(jpeg_shards, split) if number == 0]
        assert len({name.split("/")[0] for name in first_tar}) == 3


def source_of(count: int, root: Path, *, block: int = 0) -> Source:
    """`count` images of one class that are not there; `block`: so many can only be read together."""
    listing = Listing(["a"])
    entries = [Entry("train/a", f"{number}.jpg") for number in range(count)]
    if block:
        for start in range(0, count, block):
            listing.add_block(start // block, ((0, entry) for entry in entries[start : start + block]))
    else:
        listing.add_class(0, entries)
    return Source(root, ["a"], {"train": listing.images()})


def test_tars_are_of_near_equal_length_and_at_most_1000(tmp_path: Path) -> None:
    for count, tars in ((1, 1), (16, 1), (17, 2), (128, 8), (5000, 8), (8001, 9), (50_001, 51)):
        source = source_of(count, tmp_path)
        plan = make_plan(source, Options())
        assert plan.tars == {"train": tars}
        names = list(plan.tar_names())
        made = list(jobs(source, plan, open_output([str(tmp_path)]), set(names)))
        lengths = [len(job.images) for job in made]
        assert [(job.split, job.number) for job in made] == names
        assert lengths == [plan.images_in(*name) for name in names]
        assert sum(lengths) == count
        assert max(lengths) - min(lengths) <= 1
        assert max(lengths) <= 1000
        assert len({image.key for job in made for image in job.images}) == count


def test_images_that_are_read_together_stay_together(tmp_path: Path) -> None:
    source = source_of(400, tmp_path, block=10)
    plan = make_plan(source, Options())
    names = set(plan.tar_names())
    made = list(jobs(source, plan, open_output([str(tmp_path)]), names))
    order = [int(Path(image.name).stem) for job in made for image in job.images]
    assert sorted(order) == list(range(400))
    blocks = [order[start] // 10 for start in range(0, 400, 10)]
    assert order == [10 * block + row for block in blocks for row in range(10)]
    assert blocks != sorted(blocks)


@pytest.mark.parametrize(("shards", "extension"), [("jpeg_shards", "jpg"), ("raw_shards", "npy")])
def test_index_says_what_tarfile_reads(shards: str, extension: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(shards)
    for split in ("train", "val"):
        found = members(folder, split)
        assert [name.split(".")[0] for name, *_ in found[::2]] == [name.split(".")[0] for name, *_ in found[1::2]]
        assert {Path(name).suffix for name, *_ in found[::2]} == {".cls"}
        assert {Path(name).suffix for name, *_ in found[1::2]} == {f".{extension}"}
        expected = [
            (number, offset, len(data), int(label), zlib.crc32(data))
            for (_, label, _, _), (_, data, number, offset) in zip(found[::2], found[1::2], strict=True)
        ]
        assert np.load(folder / f"{split}.index.npy").tolist() == expected


def test_label_is_the_place_of_the_class_folder_in_sorted_order(image_folder: Path, jpeg_shards: Path) -> None:
    order = sorted(path.name for path in (image_folder / "train").iterdir())
    assert [entry["id"] for entry in json.loads((jpeg_shards / "manifest.json").read_text())["classes"]] == order
    for name, data, *_ in members(jpeg_shards, "train"):
        if name.endswith(".cls"):
            assert order[int(data)] == name.split("/")[0]


def test_manifest_counts_and_digests(jpeg_shards: Path) -> None:
    manifest = json.loads((jpeg_shards / "manifest.json").read_text())
    assert (manifest["encoding"], manifest["size"], manifest["quality"], manifest["seed"]) == (
        "jpeg",
        SIZE,
        90,
        0,
    )
    for split, tars in manifest["splits"].items():
        assert [tar["file"] for tar in tars] == sorted(path.name for path in jpeg_shards.glob(f"{split}-*.tar"))
        for number, tar in enumerate(tars):
            data = (jpeg_shards / tar["file"]).read_bytes()
            assert tar["bytes"] == len(data)
            assert tar["sha256"] == hashlib.sha256(data).hexdigest()
            assert 2 * tar["samples"] == sum(member[2] == number for member in members(jpeg_shards, split))


def test_raw_members_are_the_pixels(image_folder: Path, raw_shards: Path) -> None:
    paths = {image.key: image_folder / image.path for image in find_images(image_folder).splits["val"]}
    found = [(name, data) for name, data, *_ in members(raw_shards, "val") if name.endswith(".npy")]
    assert len(found) == len(paths)
    for name, data in found:
        square = np.load(io.BytesIO(data))
        assert difference(square, by_pillow(Image.open(paths[name.removesuffix(".npy")]))) < MEAN_TOLERANCE
    assert json.loads((raw_shards / "manifest.json").read_text())["quality"] is None


def test_statistics_are_those_of_the_training_pixels_before_encoding(jpeg_shards: Path, raw_shards: Path) -> None:
    """The raw shard set holds the pixels; the JPEG one has the same statistics, of before its own losses."""
    images = [np.load(io.BytesIO(data)) for name, data, *_ in members(raw_shards, "train") if name.endswith(".npy")]
    pixels = np.stack(images)[:, ::STRIDE, ::STRIDE].reshape(-1, 3).astype(np.float64)
    assert len(pixels) == 60 * 24 * 24
    for folder in (jpeg_shards, raw_shards):
        stated = json.loads((folder / "manifest.json").read_text())["pixels"]
        covariance = np.cov(pixels.T, bias=True)
        np.testing.assert_allclose(stated["mean"], pixels.mean(axis=0), atol=1e-6)
        np.testing.assert_allclose(stated["covariance"], covariance, atol=1e-6)
        deviations, components = np.array(stated["deviations"]), np.array(stated["components"])
        assert np.all(np.diff(deviations) < 0)  # largest first
        np.testing.assert_allclose(components @ components.T, np.eye(3), atol=1e-6)
        for deviation, component in zip(deviations, components, strict=True):
            np.testing.assert_allclose(covariance @ component, deviation**2 * component, atol=1e-3)
            np.testing.assert_allclose((pixels @ component).std(), deviation, rtol=1e-6)
            assert component[np.abs(component).argmax()] > 0


def _one_image(folder: Path, name: str = "train/a/good.png") -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 10), (200, 100, 50)).save(folder / name)
    return folder


def test_unreadable_files_are_left_out_and_listed(tmp_path: Path) -> None:
    folder = _one_image(tmp_path / "in")
    (folder / "train/a/empty.jpg").touch()
    (folder / "train/a/text.jpg").write_text("no image")
    whole = io.BytesIO()
    Image.new("RGB", (64, 64)).save(whole, "JPEG")
    (folder / "train/a/half.jpg").write_bytes(whole.getvalue()[:-20])
    summary = write(find_images(folder), tmp_path / "out")
    assert (summary.images, summary.rejected, summary.shards, summary.written) == (1, 3, 1, 4)
    rows = [json.loads(line) for line in (tmp_path / "out/rejected.jsonl").read_text().splitlines()]
    reasons = {row["path"]: row["reason"] for row in rows}
    assert reasons["train/a/empty.jpg"] == "the file is empty"
    assert reasons["train/a/text.jpg"] == "text, not an image"
    assert "truncated" in reasons["train/a/half.jpg"]
    assert len(rows) == 3
    assert [name for name, *_ in members(tmp_path / "out", "train")] == ["a/good.cls", "a/good.jpg"]
    assert len(np.load(tmp_path / "out/train.index.npy")) == 1
    assert not list((tmp_path / "out").glob(".*"))


def test_a_split_without_a_readable_image_is_an_error_and_leaves_no_manifest(tmp_path: Path) -> None:
    folder = _one_image(tmp_path / "in")
    bad = [folder / "train/a/bad.jpg", folder / "val/a/bad.jpg"]
    bad[1].parent.mkdir(parents=True)
    for path in bad:
        path.write_text("no image")
    out = tmp_path / "out"
    with pytest.raises(InputError) as error:
        write(find_images(folder), out)
    assert str(error.value) == (
        f"no image of the split val could be read; the first was val/a/bad.jpg (text, not an image). "
        f"{out / 'rejected.jsonl'} lists them all."
    )
    assert not (out / "manifest.json").exists()
    for path in bad:  # repaired: the same folder takes the shard set, and the old list is gone
        shutil.copy(folder / "train/a/good.png", path)
    assert write(find_images(folder), out).images == 3
    assert (out / "manifest.json").exists()
    assert not (out / "rejected.jsonl").exists()


def test_a_tar_without_a_readable_image_is_dropped(tmp_path: Path) -> None:
    """DALI refuses an index without samples."""
    folder = _one_image(tmp_path / "in")
    for number in range(16):
        (folder / f"train/a/x{number}.jpg").write_text("no image")
    summary = write(find_images(folder), tmp_path / "out")
    assert (summary.images, summary.rejected, summary.shards) == (1, 16, 1)
    (tar,) = (tmp_path / "out").glob("*.tar")
    assert [entry["file"] for entry in json.loads((tmp_path / "out/manifest.json").read_text())["splits"]["train"]] == [
        tar.name
    ]
    assert np.load(tmp_path / "out/train.index.npy")["shard"].tolist() == [0]


def test_a_file_that_vanishes_is_rejected(image_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(image_folder, tmp_path / "in")
    source = find_images(folder)
    gone = folder / source.splits["train"][7].path
    gone.unlink()
    assert write(source, tmp_path / "out").rejected == 1
    (row,) = [json.loads(line) for line in (tmp_path / "out/rejected.jsonl").read_text().splitlines()]
    assert row == {
        "split": "train",
        "path": gone.relative_to(folder).as_posix(),
        "reason": "No such file or directory",
    }


def test_a_link_to_nowhere_is_rejected(image_folder: Path, tmp_path: Path) -> None:
    """As on a disk whose images lie on another one that is not there."""
    source = shutil.copytree(image_folder, tmp_path / "src")
    (source / "train" / "n02_cube" / "gone.JPEG").symlink_to(tmp_path / "unmounted" / "gone.JPEG")
    out = tmp_path / "out"
    assert write(find_images(source), out).rejected == 1
    (line,) = (json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines())
    assert line == {"split": "train", "path": "train/n02_cube/gone.JPEG", "reason": "No such file or directory"}


def test_keep_stores_fitting_squares_as_they_are(tmp_path: Path) -> None:
    """At least 7/8 of the size, so that every training crop fits; the loader reads them beside the others."""
    folder = tmp_path / "in" / "a"
    folder.mkdir(parents=True)
    for side in (96, 90, 84, 83, 97):
        Image.fromarray(conftest.picture(side)).resize((side, side)).save(folder / f"{side}.jpg", quality=95)
    Image.fromarray(conftest.picture(1)).resize((96, 90)).save(folder / "oblong.jpg")
    source = find_images(tmp_path / "in")
    summary = conftest.write(source, tmp_path / "out", Options(size=SIZE, keep=True))
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert summary.not_kept == manifest["not_kept"] == {"not a square of 84 to 96 pixels": 3}
    assert (summary.enlarged, manifest["enlarged"]) == (2, {"train": 2})  # 83.jpg and oblong.jpg
    stored = {name: data for name, data, *_ in members(tmp_path / "out", "train") if name.endswith(".jpg")}
    kept = {name for name, data in stored.items() if data == (folder / Path(name).name).read_bytes()}
    assert kept == {"a/96.jpg", "a/90.jpg", "a/84.jpg"}
    for name, data in stored.items():
        if name not in kept:
            assert Image.open(io.BytesIO(data)).size == (SIZE, SIZE)
    assert verify(tmp_path / "out", False, 1, lambda images: None) == []
    shards = ShardSet(tmp_path / "out")
    (batch,) = Loader.evaluation(shards.split("train"), batch=6, crop=84, dtype=torch.uint8, threads=1)
    assert batch.images.shape == (6, 3, 84, 84)
    at = list(stored).index("a/84.jpg")
    with Image.open(folder / "84.jpg") as image:
        difference = batch.images[at].permute(1, 2, 0).numpy().astype(float) - np.asarray(image)
    assert np.abs(difference).mean() < 1


def test_the_bar_moves_by_image(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every tar reports how many of its images are done, before each; they are shown beside those of finished tars."""
    reported: list[int] = []
    monkeypatch.setattr("alexnet_fast.sharding.tars.report", reported.append)
    write(find_images(image_folder), tmp_path / "out")
    splits = json.loads((tmp_path / "out" / "manifest.json").read_text())["splits"]
    samples = [tar["samples"] for split in ("train", "val") for tar in splits[split]]
    assert sorted(reported) == sorted(number for count in samples for number in range(count))
    Progress("sharding", 8).counter("images")(5, 3)
    assert "8/8 images" in capsys.readouterr().err
