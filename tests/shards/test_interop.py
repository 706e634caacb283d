"""Other tools read the same shard set alike; a corrupt one is refused in words that say what to do."""

import importlib
import importlib.metadata
import io
import json
import shutil
import sys
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet_fast.errors import InputError
from alexnet_fast.sharding.sources import find_images
from alexnet_fast.shards.format import MANIFEST
from alexnet_fast.shards.reader import ShardSet
from tests.conftest import CLASSES, ODD_CLASSES
from tests.sharding.sources.layouts import contents

ONE_KIND = [
    *(("jpeg_shards", "jpg"), ("odd_shards", "jpg"), ("raw_shards", "npy")),
    *(("full_shards", "jpg"), ("full_raw_shards", "npy")),
]
SHARD_SETS = pytest.mark.parametrize(("shards", "extension"), [*ONE_KIND, ("mixed_shards", "jpg;npy")])
Samples = list[tuple[str, int, bytes]]
"""Key, label and bytes of the image member, in stored order."""


def by_tarfile(folder: Path, split: str, extension: str) -> Samples:
    samples = []
    for path in sorted(folder.glob(f"{split}-*.tar")):
        with tarfile.open(path) as tar:
            data = {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]
        keys = [name.removesuffix(".cls") for name in data if name.endswith(".cls")]
        kinds = extension.split(";")
        images = [next(data[name] for kind in kinds if (name := f"{key}.{kind}") in data) for key in keys]
        samples += [(key, int(data[f"{key}.cls"]), image) for key, image in zip(keys, images, strict=True)]
    return samples


@pytest.mark.parametrize(("shards", "extension"), ONE_KIND)
def test_our_reader(shards: str, extension: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(shards)
    for name in ("train", "val"):
        split = ShardSet(folder).split(name)
        expected = by_tarfile(folder, name, extension)
        assert split.labels.tolist() == [label for _, label, _ in expected]
        for view, (_, _, data) in zip(split.read(np.arange(len(split))), expected, strict=True):
            if extension == "npy":
                assert np.array_equal(view, np.load(io.BytesIO(data)))
            else:
                assert view.tobytes() == data
        some = split.read(np.array([5, 0, 5]))  # any order, also twice
        assert np.array_equal(some[0], some[2])
        assert not np.array_equal(some[0], some[1])


@SHARD_SETS
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves tars open
def test_webdataset(shards: str, extension: str, request: pytest.FixtureRequest) -> None:
    import webdataset

    folder: Path = request.getfixturevalue(shards)
    for split in ("train", "val"):
        tars = sorted(str(path) for path in folder.glob(f"{split}-*.tar"))
        samples = webdataset.WebDataset(tars, shardshuffle=False).to_tuple("__key__", "cls", extension)
        found = [(key, int(label), data) for key, label, data in samples]
        assert found == by_tarfile(folder, split, extension)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("shards", ["raw_shards", "full_raw_shards"])
def test_webdataset_decodes_what_we_wrote(shards: str, request: pytest.FixtureRequest) -> None:
    """Its own `decode()`: .cls is an int, .npy an array."""
    import webdataset

    folder: Path = request.getfixturevalue(shards)
    tars = sorted(str(path) for path in folder.glob("val-*.tar"))
    samples = list(webdataset.WebDataset(tars, shardshuffle=False).decode())
    split = ShardSet(folder).split("val")
    assert [sample["cls"] for sample in samples] == split.labels.tolist()
    for sample, view in zip(samples, split.read(np.arange(len(split))), strict=True):
        assert np.array_equal(sample["npy"], view)


@SHARD_SETS
def test_dali_reads_it_with_our_index(shards: str, extension: str, request: pytest.FixtureRequest) -> None:
    pytest.importorskip("nvidia.dali")
    from nvidia.dali import fn, pipeline_def

    folder: Path = request.getfixturevalue(shards)
    for split in ("train", "val"):
        tars = sorted(folder.glob(f"{split}-*.tar"))

        @pipeline_def(batch_size=6, num_threads=1, device_id=None)  # type: ignore[untyped-decorator]
        def reader(tars: list[Path] = tars) -> Any:
            return tuple(
                fn.readers.webdataset(
                    paths=[str(path) for path in tars],
                    index_paths=[str(path.with_suffix(".idx")) for path in tars],
                    ext=[extension, "cls"],
                    missing_component_behavior="error",
                    name="reader",
                )
            )

        pipeline = reader()
        pipeline.build()
        expected = by_tarfile(folder, split, extension)
        assert pipeline.epoch_size("reader") == len(expected)
        found = []
        for _ in range(len(expected) // 6):
            data, labels = pipeline.run()
            found += [(int(labels.at(i).tobytes()), data.at(i).tobytes()) for i in range(6)]
        assert found == [(label, data) for _, label, data in expected]


@pytest.mark.filterwarnings("ignore")  # wids leaves files open
@pytest.mark.parametrize("shards", ["mixed_shards", "odd_shards", "full_shards", "full_raw_shards"])
def test_wids(shards: str, request: pytest.FixtureRequest) -> None:
    import wids

    folder: Path = request.getfixturevalue(shards)
    for split in ("train", "val"):
        data = wids.ShardListDataset(
            str(folder / f"{split}.wids.json"), cache_dir=str(folder), keep=True, transformations=[]
        )
        found = [
            (sample["__key__"], int(sample[".cls"].read()), sample[".npy" if ".npy" in sample else ".jpg"].read())
            for sample in data
        ]
        assert found == by_tarfile(folder, split, "jpg;npy")


@pytest.mark.parametrize(
    ("shards", "classes", "images"), [("odd_shards", ODD_CLASSES, (12, 12)), ("full_shards", list(CLASSES), (60, 18))]
)
def test_our_own_import(
    shards: str, classes: list[str], images: tuple[int, int], request: pytest.FixtureRequest
) -> None:
    """Each class has the label and the images that it had."""
    folder: Path = request.getfixturevalue(shards)
    source = find_images(folder)
    assert source.classes == classes
    for split, count in zip(("train", "val"), images, strict=True):
        expected = by_tarfile(folder, split, "jpg")
        labels = {image.key: image.label for image in source.splits[split]}
        data = contents(source, split)
        assert sorted((key, labels[key], data[key]) for key in data) == sorted(expected)
        assert len(expected) == count


@pytest.fixture
def timm_reader(monkeypatch: pytest.MonkeyPatch) -> Any:
    """timm's own module, without timm's package around it: that imports torchvision, whose wheel on PyPI wants CUDA."""
    folder = Path(str(importlib.metadata.distribution("timm").locate_file("timm")))
    for name in ("timm", "timm.data", "timm.data.readers"):
        package = ModuleType(name)
        package.__path__ = [str(folder.joinpath(*name.split(".")[1:]))]
        monkeypatch.setitem(sys.modules, name, package)
    return importlib.import_module("timm.data.readers.reader_wds").ReaderWds


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("shards", ["jpeg_shards", "odd_shards", "full_shards"])
def test_timm(timm_reader: Any, shards: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(shards)
    for split, name in (("train", "train"), ("val", "validation")):
        reader = timm_reader(str(folder), split=name, is_training=False, batch_size=4)
        expected = by_tarfile(folder, split, "jpg")
        assert len(reader) == len(expected)
        found = [(label, np.asarray(image.convert("RGB"))) for image, label in reader]
        assert [label for label, _ in found] == [label for _, label, _ in expected]
        for (_, pixels), (_, _, data) in zip(found, expected, strict=True):
            with Image.open(io.BytesIO(data)) as image:
                assert np.array_equal(pixels, np.asarray(image.convert("RGB")))


@pytest.fixture
def copy(jpeg_shards: Path, tmp_path: Path) -> Path:
    return shutil.copytree(jpeg_shards, tmp_path / "copy")


def refusal(folder: Path, split: str = "train") -> str:
    with pytest.raises(InputError) as error:
        ShardSet(folder).split(split)
    return str(error.value)


def test_a_tar_of_another_length_is_refused(copy: Path) -> None:
    tar = copy / "train-000001.tar"
    size = tar.stat().st_size
    for change in (-512, 1):
        data = tar.read_bytes()
        tar.write_bytes(data[:change] if change < 0 else data + b"x")
        assert refusal(copy) == (
            f"{tar} has {size + change:,} bytes, the manifest says {size:,}: "
            "the copy is not complete, or the file was changed. Copy it again."
        )
        tar.write_bytes(data)
    assert len(ShardSet(copy).split("train")) == 60


def test_a_missing_tar_is_refused(copy: Path) -> None:
    (copy / "train-000001.tar").unlink()
    assert refusal(copy) == f"{copy / 'train-000001.tar'} cannot be opened (No such file or directory). Copy it again."
    assert len(ShardSet(copy).split("val")) == 18  # the other split is whole


def test_a_folder_without_a_manifest_is_refused(copy: Path) -> None:
    (copy / MANIFEST).unlink()
    for folder in (copy, copy / "nowhere", copy / "train-000000.tar"):
        lacks = "it has no manifest.json" if folder == copy else "there is no such folder"
        if folder.name == "train-000000.tar":
            lacks = "it is a file"
        assert refusal(folder) == (
            f"{folder} is not a shard set: {lacks}. Give another path (--shards), or make it with: "
            f"alexnet-fast shard --src IMAGES --out {folder}"
        )
    (copy / "begun" / ".work").mkdir(parents=True)
    assert refusal(copy / "begun").startswith(f"{copy / 'begun'} is not finished: it has no manifest.json. Run")
    for name in ("mine", "other"):
        (copy / name).mkdir()
        (copy / name / MANIFEST).touch()
    assert f"no such folder. Sets beside it: {copy / 'mine'}, {copy / 'other'}. Give" in refusal(copy / "mien")
    assert f"it has no {MANIFEST}. Sets in it: {copy / 'mine'}, {copy / 'other'}. Give" in refusal(copy)


def test_a_corrupt_manifest_is_refused(copy: Path) -> None:
    path = copy / MANIFEST
    good = path.read_text()
    other_version = json.dumps({**json.loads(good), "version": 3})
    without_shape = json.dumps({**json.loads(good), "version": 2})
    newer = json.dumps({**json.loads(good), "shape": "full"})
    without_splits = json.dumps({name: value for name, value in json.loads(good).items() if name != "splits"})
    for text, reason in (
        ("{}", "not version 1 or 2 of alexnet-fast shard set"),
        (other_version, "not version 1 or 2 of alexnet-fast shard set"),
        (without_shape, "its shape is not one of version 2"),
        (newer, "its shape is not one of version 1"),
        ("{", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        ("", "Expecting value: line 1 column 1 (char 0)"),
        (without_splits, "it lacks 'splits'"),
    ):
        path.write_text(text)
        assert refusal(copy) == f"{path} cannot be read as a manifest ({reason}). Make the shard set again."
    for text in (
        "[]",
        "3",
        good[:100],
        good.replace('"samples"', '"example"'),
        good.replace('"mean"', '"average"'),
    ):
        path.write_text(text)
        message = refusal(copy)
        assert message.startswith(f"{path} cannot be read as a manifest (")
        assert message.endswith("). Make the shard set again.")


def test_a_corrupt_index_is_refused(copy: Path, full_shards: Path) -> None:
    path = copy / "train.index.npy"
    good = path.read_bytes()
    for data, reason in (
        (b"", "No data left in file"),
        (good[:-7], "cannot be read"),
        (b"no npy file", "cannot be read"),
    ):
        path.write_bytes(data)
        message = refusal(copy)
        assert message.startswith(f"{path} cannot be read (")
        assert reason in message
        assert message.endswith("). Make the shard set again.")
    np.save(path, np.arange(60))
    assert refusal(copy) == f"{path} is not a sample index of version 1. Make the shard set again."
    shutil.copy(full_shards / path.name, path)
    assert refusal(copy) == f"{path} is not a sample index of version 1. Make the shard set again."
    np.save(path, np.load(io.BytesIO(good))[:-1])
    assert refusal(copy) == f"{path} lists 59 samples, the manifest 60. Make the shard set again."
    path.unlink()
    assert refusal(copy).startswith(f"{path} cannot be read (")


def test_a_split_that_is_not_there(jpeg_shards: Path, copy: Path) -> None:
    named = "has no split named"
    hint = "eval and features take another one with --split"
    assert refusal(jpeg_shards, "test") == f"{jpeg_shards} {named} test; it has: train, val. {hint} val."
    path = copy / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["splits"]["test"] = manifest["splits"].pop("val")
    path.write_text(json.dumps(manifest))
    assert refusal(copy, "val") == f"{copy} {named} val; it has: train, test. {hint} test."
    del manifest["splits"]["test"]
    path.write_text(json.dumps(manifest))
    assert refusal(copy, "val") == (
        f"{copy} {named} val; it has: train. Shard with --val-fraction 0.1, which splits a tenth of the images off as "
        "val, or measure on the training images themselves with --split train."
    )
