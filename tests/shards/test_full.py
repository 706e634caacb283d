"""Height and width of each image in the index of a set of shape full: what is wrong with them is found, by verify and
by the reader."""

import hashlib
import io
import json
import shutil
import tarfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_fast.errors import InputError
from alexnet_fast.shards.format import FULL_INDEX_DTYPE, MANIFEST
from alexnet_fast.shards.reader import ShardSet
from alexnet_fast.shards.verify import verify
from tests.conftest import picture

TAR, INDEX = "train-000001.tar", "train.index.npy"
Found = set[tuple[str, str]]
"""(file, sample) of the findings."""


@pytest.fixture(autouse=True)
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads in their place, which take no time to start."""
    monkeypatch.setattr("alexnet_fast.shards.verify.ProcessPoolExecutor", lambda n, mp_context: ThreadPoolExecutor(n))


def check(folder: Path, *, quick: bool = False) -> Found:
    return {(one.file, one.sample) for one in verify(folder, quick, 1, lambda images: None)}


@pytest.fixture(params=["full_shards", "full_raw_shards"])
def copy(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder: Path = request.getfixturevalue(request.param)
    return shutil.copytree(folder, tmp_path / "copy")


def change(folder: Path, sample: int, **values: int) -> None:
    index = np.load(folder / INDEX)
    for name, value in values.items():
        index[name][sample] = value
    np.save(folder / INDEX, index)


def test_a_whole_set(copy: Path) -> None:
    assert check(copy) == check(copy, quick=True) == set()


@pytest.mark.parametrize("is_intact", [True, False])
@pytest.mark.parametrize("field", ["height", "width"])
def test_a_wrong_size_is_blamed_on_the_index(field: str, is_intact: bool, copy: Path) -> None:
    """Also where the manifest does not vouch for the tar: of the image, crc32 is right."""
    split = ShardSet(copy).split("train")
    sample = int(np.flatnonzero(split.index["shard"] == 1)[3])
    expected = {(INDEX, split.keys()[sample])}
    if not is_intact:
        body = json.loads((copy / MANIFEST).read_text())
        body["splits"]["train"][1]["sha256"] = hashlib.sha256(b"").hexdigest()
        (copy / MANIFEST).write_text(json.dumps(body, indent=1) + "\n")
        expected |= {(MANIFEST, "")}
    change(copy, sample, **{field: int(split.index[field][sample]) + 1})
    assert check(copy) == expected
    change(copy, sample, **{field: 0})  # what no image has needs no image to be seen
    assert (INDEX, split.keys()[sample]) in check(copy, quick=True)


def rewrite(folder: Path, name: str, image: bytes, height: int, width: int) -> None:
    """TAR with one sample alone, of which every sum is right."""
    with tarfile.open(folder / TAR, "w", format=tarfile.USTAR_FORMAT) as tar:
        for member, data in [("k/1.cls", b"0"), (f"k/1.{name}", image)]:
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    (folder / TAR).with_suffix(".idx").write_text(f"v1.2 1\ncls 512 1 k/1.cls {name} 1536 {len(image)} k/1.{name}\n")
    index = np.load(folder / INDEX)
    row = np.array([(1, 1536, len(image), 0, zlib.crc32(image), height, width)], FULL_INDEX_DTYPE)
    np.save(folder / INDEX, np.concatenate([index[index["shard"] < 1], row, index[index["shard"] > 1]]))
    body = json.loads((folder / MANIFEST).read_text())
    data = (folder / TAR).read_bytes()
    body["splits"]["train"][1] |= {"samples": 1, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / MANIFEST).write_text(json.dumps(body, indent=1) + "\n")


def jpeg(height: int, width: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.resize(picture(1), (height, width, 3))).save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("image", "size", "file"),
    [
        (jpeg(96, 130), (96, 130), ""),
        (jpeg(768, 96), (768, 96), ""),
        (jpeg(96, 130), (130, 96), INDEX),
        (jpeg(95, 130), (95, 130), TAR),
        (jpeg(97, 130), (97, 130), TAR),
        (jpeg(96, 769), (96, 769), TAR),
        (jpeg(96, 130)[:400], (96, 130), TAR),
        (b"no JPEG", (96, 130), TAR),
    ],
)
def test_an_image_with_right_sums_must_have_the_set_s_size(
    image: bytes, size: tuple[int, int], file: str, full_shards: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(full_shards, tmp_path / "copy")
    rewrite(copy, "jpg", image, *size)
    of_sample = {file for file, sample in check(copy) if sample == "k/1"}
    assert of_sample == ({file, INDEX} if file == TAR and len(image) > 400 else {file} - {""})


@pytest.mark.parametrize(
    ("pixels", "file"),
    [
        (np.zeros((5, 7, 3), np.uint8), ""),
        (np.zeros((7, 5, 3), np.uint8), INDEX),
        (np.zeros((5, 7), np.uint8), TAR),
        (np.zeros((5, 7, 3), np.int8), TAR),
        (np.zeros((5, 7, 3), np.uint8, order="F"), TAR),
        (np.array([None]), TAR),
    ],
)
def test_stored_pixels_are_rgb_of_the_index_s_size(
    pixels: np.ndarray, file: str, full_raw_shards: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(full_raw_shards, tmp_path / "copy")
    data = io.BytesIO()
    np.save(data, pixels)
    rewrite(copy, "npy", data.getvalue(), 5, 7)
    assert {file for file, sample in check(copy) if sample == "k/1"} == {file} - {""}


def test_the_reader_refuses_sizes_that_cannot_be(copy: Path) -> None:
    is_raw = ShardSet(copy).manifest.encoding == "raw"
    for values in ({"height": 0}, {"width": 0}, *([{"height": 60_000}] if is_raw else [])):
        index = np.load(copy / INDEX)
        change(copy, 7, **values)
        with pytest.raises(InputError, match="does not fit its tars"):
            ShardSet(copy).split("train")
        np.save(copy / INDEX, index)
    assert ShardSet(copy).split("train").sizes.min() > 0
