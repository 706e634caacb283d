"""Every kind of damage to a shard set is found and named; nothing makes the check itself fail."""

import io
import json
import random
import shutil
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_fast.shardset import INDEX_DTYPE, ShardSet
from alexnet_fast.verify import Damage, verify

TAR = "train-000001.tar"


def check(folder: Path, *, quick: bool = False) -> list[Damage]:
    return verify(folder, quick, 1, lambda images: None)


@pytest.fixture
def copy(jpeg_shards: Path, tmp_path: Path) -> Path:
    return shutil.copytree(jpeg_shards, tmp_path / "copy")


def first_sample(folder: Path) -> tuple[str, int, int]:
    """Key, offset and size of the first sample of TAR."""
    words = (folder / TAR).with_suffix(".idx").read_text().splitlines()[1].split()
    return words[3].removesuffix(".cls"), int(words[5]), int(words[6])


def change_byte(path: Path, at: int, xor: int = 1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= xor
    path.write_bytes(data)


@pytest.mark.parametrize("shards", ["jpeg_shards", "raw_shards"])
@pytest.mark.parametrize("quick", [True, False])
def test_a_whole_set_is_whole(shards: str, quick: bool, request: pytest.FixtureRequest) -> None:
    counted: list[int] = []
    assert verify(request.getfixturevalue(shards), quick, 2, counted.append) == []
    assert sum(counted) == 78


def test_a_changed_image_is_named(copy: Path) -> None:
    key, offset, size = first_sample(copy)
    change_byte(copy / TAR, offset + size // 2)
    found = check(copy)
    assert Damage(TAR, "", "its sha256 is not the manifest's") in found
    assert Damage(TAR, key, "its crc32 is not the index's") in found
    assert {damage.file for damage in found} == {TAR}
    assert {damage.sample for damage in found} == {"", key}
    assert check(copy, quick=True) == []  # sizes and indexes are as they were


def test_every_damaged_sample_is_named(copy: Path) -> None:
    lines = (copy / TAR).with_suffix(".idx").read_text().splitlines()[1:]
    for line in lines[2:5]:
        change_byte(copy / TAR, int(line.split()[5]) + 700)
    named = {damage.sample for damage in check(copy) if "crc32" in damage.problem}
    assert named == {line.split()[3].removesuffix(".cls") for line in lines[2:5]}


def test_a_changed_label_in_the_tar_is_named(copy: Path) -> None:
    key, _, _ = first_sample(copy)
    at = int((copy / TAR).with_suffix(".idx").read_text().splitlines()[1].split()[1])
    old = (copy / TAR).read_bytes()[at : at + 1]
    change_byte(copy / TAR, at)
    assert any(
        damage.sample == key and damage.problem.startswith("its label is b") and old.decode() in damage.problem
        for damage in check(copy)
    )


def test_a_changed_name_in_the_tar_is_named(copy: Path) -> None:
    _, offset, _ = first_sample(copy)
    change_byte(copy / TAR, offset - 512)
    assert Damage(TAR, "", "holds 1 members, not 30") in check(copy)


SMALL_DAMAGE: list[tuple[Callable[[Path], object], str, str]] = [
    (lambda folder: (folder / TAR).unlink(), TAR, "cannot be opened (No such file or directory)"),
    (lambda folder: (folder / TAR).write_bytes((folder / TAR).read_bytes()[:-512]), TAR, "bytes, the manifest says"),
    (lambda folder: shutil.copy(folder / TAR, folder / "train-000009.tar"), "train-000009.tar", "not in the manifest"),
    (lambda folder: (folder / "train-000001.idx").unlink(), "train-000001.idx", "cannot be read"),
    (lambda folder: (folder / "train-000001.idx").write_bytes(b"v1.2 \xff\n"), "train-000001.idx", "cannot be read"),
    (lambda folder: (folder / "train-000001.idx").write_text(""), "train-000001.idx", "cannot be read"),
    (lambda folder: shutil.copy(folder / "train-000002.idx", folder / "train-000001.idx"), "train-000001.idx", "says"),
    (lambda folder: edit_index(folder, "label", 99), "train.index.npy", "1 labels are of no class"),
    (lambda folder: edit_index(folder, "label", -2), "train.index.npy", "1 labels are of no class"),
    (lambda folder: edit_index(folder, "shard", 77), "train.index.npy", "1 samples are in tars that the manifest"),
    (lambda folder: edit_index(folder, "offset", 2**60), "train-000000.idx", "says"),
    (lambda folder: edit_index(folder, "size", 2), "train-000000.idx", "says"),
    (lambda folder: np.save(folder / "train.index.npy", np.arange(60)), "train.index.npy", "is not a sample index"),
    (lambda folder: (folder / "val.index.npy").write_bytes(b""), "val.index.npy", "cannot be read"),
    (
        lambda folder: edit_manifest(folder, "counts", {"train": [20, 20, 19], "val": [6, 6, 6]}),
        "train.index.npy",
        "as many",
    ),
    (lambda folder: (folder / "_info.json").write_text("{}"), "_info.json", "does not agree with the manifest"),
    (lambda folder: (folder / "val.wids.json").write_text(""), "val.wids.json", "does not agree with the manifest"),
]


def edit_index(folder: Path, column: str, value: int) -> None:
    index = np.load(folder / "train.index.npy")
    index[column][3] = value
    np.save(folder / "train.index.npy", index)


def edit_manifest(folder: Path, name: str, value: object) -> None:
    body = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(body | {name: value}))


@pytest.mark.parametrize(("damage", "file", "problem"), SMALL_DAMAGE)
@pytest.mark.parametrize("quick", [True, False])
def test_damage_that_the_quick_check_sees(
    damage: Callable[[Path], object], file: str, problem: str, quick: bool, copy: Path
) -> None:
    damage(copy)
    found = check(copy, quick=quick)
    assert any(one.file == file and problem in one.problem for one in found), found


def rewrite(folder: Path, image: bytes) -> None:
    """Replaces the only sample of a new split-less set consistently: every sum is right, only the image is not."""
    (folder / TAR).unlink()
    members = [("k/1.cls", b"0"), ("k/1.jpg", image)]
    with tarfile.open(folder / TAR, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    idx = f"v1.2 1\ncls 512 1 k/1.cls jpg 1536 {len(image)} k/1.jpg\n"
    (folder / TAR).with_suffix(".idx").write_text(idx)
    index = np.load(folder / "train.index.npy")
    row = np.array([(1, 1536, len(image), 0, zlib.crc32(image))], INDEX_DTYPE)
    index = np.concatenate([index[index["shard"] < 1], row, index[index["shard"] > 1]])
    np.save(folder / "train.index.npy", index)


@pytest.mark.parametrize(
    ("size", "broken", "problem"),
    [
        ((96, 96), True, "does not decode"),
        ((90, 90), False, "is 90 x 90"),
        ((96, 80), False, "is 80 x 96"),
        ((96, 96), False, ""),
    ],
)
def test_an_image_with_right_sums_must_still_decode_to_the_size(
    size: tuple[int, int], broken: bool, problem: str, copy: Path
) -> None:
    file = io.BytesIO()
    Image.new("RGB", size).save(file, "JPEG")
    rewrite(copy, file.getvalue()[: 400 if broken else None])
    of_sample = [damage.problem for damage in check(copy) if damage.sample == "k/1"]
    assert len(of_sample) == bool(problem)
    assert all(found.startswith(problem) for found in of_sample)


def test_any_flipped_bit_is_found_and_none_makes_the_check_fail(jpeg_shards: Path, tmp_path: Path) -> None:
    draw = random.Random(0)
    small = [path for path in sorted(jpeg_shards.iterdir()) if path.name not in ("manifest.json", "SHA256SUMS")]
    copy = shutil.copytree(jpeg_shards, tmp_path / "copy")
    for number in range(60):
        path = copy / draw.choice(small).name
        good = path.read_bytes()
        change_byte(path, draw.randrange(len(good)), 1 << draw.randrange(8))
        assert check(copy), f"{number}: {path.name}"
        path.write_bytes(good)
    assert check(copy) == []


def test_a_flipped_bit_of_the_manifest_is_refused_or_found_or_harmless(jpeg_shards: Path, tmp_path: Path) -> None:
    """Harmless: white space, and texts that nothing else repeats, such as a class name or a statistic."""
    draw = random.Random(0)
    copy = shutil.copytree(jpeg_shards, tmp_path / "copy")
    path = copy / "manifest.json"
    good = path.read_bytes()
    for _ in range(60):
        change_byte(path, draw.randrange(len(good)), 1 << draw.randrange(8))
        try:
            check(copy, quick=True)
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017
        path.write_bytes(good)
    assert ShardSet(copy).manifest.splits
