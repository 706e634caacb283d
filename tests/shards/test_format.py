"""A reader written from docs/shard-format.md alone: nothing of alexnet_fast, not even NumPy to read."""

import ast
import io
import json
import struct
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Row = tuple[int, ...]


def read_npy(data: bytes) -> tuple[dict[str, object], bytes]:
    """Header and content of an .npy file of format 1.0."""
    assert data[:8] == b"\x93NUMPY\x01\x00"
    (length,) = struct.unpack_from("<H", data, 8)
    return ast.literal_eval(data[10 : 10 + length].decode("latin-1")), data[10 + length :]


def read_index(path: Path) -> list[Row]:
    header, content = read_npy(path.read_bytes())
    names = [name for name, _ in header["descr"]]  # type: ignore[attr-defined]
    is_full = "height" in names
    assert names == ["shard", "offset", "size", "label", "crc32", *["height", "width"] * is_full]
    assert header["shape"] == (len(content) // (28 if is_full else 24),)
    return list(struct.iter_unpack("<IQIiIHH" if is_full else "<IQIiI", content))


def read_samples(folder: Path, split: str) -> list[tuple[str, int, bytes]]:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["format"] == "alexnet-fast shard set"
    assert (manifest["version"], manifest.get("shape")) in ((1, None), (2, "full"))
    tars = [(folder / tar["file"]).read_bytes() for tar in manifest["splits"][split]]
    keys = []
    for tar in manifest["splits"][split]:
        head, *lines = (folder / tar["file"].replace(".tar", ".idx")).read_text().splitlines()
        assert head == f"v1.2 {tar['samples']}"
        keys += [line.split(" ")[3].removesuffix(".cls") for line in lines]
    samples = []
    rows = read_index(folder / f"{split}.index.npy")
    for key, (shard, offset, size, label, crc32, *_) in zip(keys, rows, strict=True):
        data = tars[shard][offset : offset + size]
        assert zlib.crc32(data) == crc32
        samples.append((key, label, data))
    for label, count in enumerate(manifest["counts"][split]):
        assert count == sum(sample[1] == label for sample in samples)
    return samples


@pytest.mark.parametrize("shards", ["jpeg_shards", "raw_shards", "mixed_shards", "full_shards", "full_raw_shards"])
def test_the_page_is_enough_to_read_a_set(shards: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(shards)
    manifest = json.loads((folder / "manifest.json").read_text())
    size, encoding = manifest["size"], manifest["encoding"]
    for split in ("train", "val"):
        samples = read_samples(folder, split)
        expected = []
        for path in sorted(folder.glob(f"{split}-*.tar")):
            with tarfile.open(path) as tar:
                members = [(info.name, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]
            expected += [
                (name.removesuffix(".cls"), int(label), image)
                for (name, label), (_, image) in zip(members[::2], members[1::2], strict=True)
            ]
        assert samples == expected
        raw = [encoding == "raw" or (encoding == "mixed" and len(s[2]) == 3 * size**2 + 128) for s in samples]
        assert sum(raw) / len(raw) == pytest.approx(share_of_raw(manifest, split), abs=1 / len(raw))
        rows = read_index(folder / f"{split}.index.npy")
        for (_, _, data), is_raw, (*_, height, width) in zip(samples, raw, rows, strict=True):
            if manifest["version"] == 1:
                height = width = size
            if not is_raw:
                assert Image.open(io.BytesIO(data)).size == (width, height)
            else:
                header, pixels = read_npy(data)
                assert header == {"descr": "|u1", "fortran_order": False, "shape": (height, width, 3)}
                assert pixels == data[-3 * height * width :]
                assert len(data) == 3 * height * width + 128
            if manifest["version"] == 2 and size:
                assert min(height, width) == size


def share_of_raw(manifest: dict[str, Any], split: str) -> float:
    if manifest["encoding"] == "mixed":
        return float(manifest["raw_share"]) if split == "train" else 0
    return float(manifest["encoding"] == "raw")


@pytest.mark.parametrize("shards", ["mixed_shards", "full_shards"])
def test_the_page_names_every_file_and_key(shards: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(shards)
    page = (Path(__file__).parents[2] / "docs" / "shard-format.md").read_text(encoding="utf-8")
    for path in folder.iterdir():
        assert path.name.replace("val", "train").replace("000001", "000000") in page or "-0000" in path.name
    manifest = json.loads((folder / "manifest.json").read_text())
    fields = np.load(folder / "train.index.npy").dtype.names or ()
    for name in [*manifest, *manifest["pixels"], *manifest["splits"]["train"][0], *fields]:
        assert f"`{name}`" in page or f'"{name}"' in page, name
