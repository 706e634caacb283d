"""A reader written from shards/README.md alone: nothing of alexnet_fast, not even NumPy."""

import ast
import io
import json
import struct
import tarfile
import zlib
from pathlib import Path

import pytest
from PIL import Image

Row = tuple[int, int, int, int, int]


def read_npy(data: bytes) -> tuple[dict[str, object], bytes]:
    """Header and content of an .npy file of format 1.0."""
    assert data[:8] == b"\x93NUMPY\x01\x00"
    (length,) = struct.unpack_from("<H", data, 8)
    return ast.literal_eval(data[10 : 10 + length].decode("latin-1")), data[10 + length :]


def read_index(path: Path) -> list[Row]:
    header, content = read_npy(path.read_bytes())
    names = [name for name, _ in header["descr"]]  # type: ignore[attr-defined]
    assert names == ["shard", "offset", "size", "label", "crc32"]
    assert header["shape"] == (len(content) // 24,)
    return list(struct.iter_unpack("<IQIiI", content))


def read_samples(folder: Path, split: str) -> list[tuple[str, int, bytes]]:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["format"], manifest["version"]) == ("alexnet-fast shard set", 1)
    tars = [(folder / tar["file"]).read_bytes() for tar in manifest["splits"][split]]
    keys = []
    for tar in manifest["splits"][split]:
        head, *lines = (folder / tar["file"].replace(".tar", ".idx")).read_text().splitlines()
        assert head == f"v1.2 {tar['samples']}"
        keys += [line.split(" ")[3].removesuffix(".cls") for line in lines]
    samples = []
    for key, (shard, offset, size, label, crc32) in zip(keys, read_index(folder / f"{split}.index.npy"), strict=True):
        data = tars[shard][offset : offset + size]
        assert zlib.crc32(data) == crc32
        samples.append((key, label, data))
    for label, count in enumerate(manifest["counts"][split]):
        assert count == sum(sample[1] == label for sample in samples)
    return samples


@pytest.mark.parametrize(("shards", "extension"), [("jpeg_shards", "jpg"), ("raw_shards", "npy")])
def test_the_page_is_enough_to_read_a_set(shards: str, extension: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(shards)
    size = json.loads((folder / "manifest.json").read_text())["size"]
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
        for _, _, data in samples:
            if extension == "jpg":
                assert Image.open(io.BytesIO(data)).size == (size, size)
            else:
                header, pixels = read_npy(data)
                assert header == {"descr": "|u1", "fortran_order": False, "shape": (size, size, 3)}
                assert pixels == data[-3 * size * size :]


def test_the_page_names_every_file_and_key(jpeg_shards: Path) -> None:
    page = (Path(__file__).parents[1] / "shards" / "README.md").read_text(encoding="utf-8")
    for path in jpeg_shards.iterdir():
        assert path.name.replace("val", "train").replace("000001", "000000") in page or "-0000" in path.name
    manifest = json.loads((jpeg_shards / "manifest.json").read_text())
    for name in [*manifest, *manifest["pixels"], *manifest["splits"]["train"][0]]:
        assert f"`{name}`" in page or f'"{name}"' in page, name
