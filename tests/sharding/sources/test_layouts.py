"""The same images in every form that people have them in: the same classes, keys, labels and bytes; what is refused."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import sys
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as Pillow
from scipy.io import savemat

from alexnet_fast.errors import InputError
from alexnet_fast.sharding import archives
from alexnet_fast.sharding.listing import Images, Source
from alexnet_fast.sharding.reading import read_images
from alexnet_fast.sharding.sources import find_images, ilsvrc, parquet
from alexnet_fast.sharding.sources.matfile import read_structs
from alexnet_fast.shards.format import FORMAT

CLASSES = ["n01440764", "n01484850", "n02085620", "n03000684"]
NAMES = ["tench, Tinca tinca", "great white shark", "Chihuahua", "chain saw, chainsaw"]
IDS = {1: "n02085620", 2: "n03000684", 3: "n01440764", 4: "n01484850"}
TRAIN = [f"{wnid}_{number}.JPEG" for wnid in CLASSES for number in (10026, 9, 217)]
VAL_LABELS = {
    "ILSVRC2012_val_00000001.JPEG": 3,
    "ILSVRC2012_val_00000002.JPEG": 0,
    "ILSVRC2012_val_00000003.JPEG": 2,
    "ILSVRC2012_val_00000004.JPEG": 0,
    "ILSVRC2012_val_00000005.JPEG": 1,
}
VAL_IDS = [2, 3, 1, 3, 4]
TEST_LABELS = {"ILSVRC2012_test_00000001.JPEG": 1, "ILSVRC2012_test_00000002.JPEG": 3}
TEST_IDS = [4, 2]

Photos = dict[str, bytes]


def jpeg(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    file = io.BytesIO()
    Pillow.fromarray(pixels).resize((24, 20)).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture(scope="module")
def photos() -> Photos:
    return {name: jpeg(seed) for seed, name in enumerate([*TRAIN, *VAL_LABELS, *TEST_LABELS])}


def some(photos: Photos, word: str) -> Photos:
    """Last name first, so that the stored order is not that of the names."""
    return {name: photos[name] for name in sorted(photos, reverse=True) if word in name}


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def tar(files: dict[str, bytes], form: int = tarfile.GNU_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def train_folders(photos: Photos) -> dict[str, bytes]:
    return {f"train/{wnid}/{name}": data for wnid in CLASSES for name, data in some(photos, f"{wnid}_").items()}


def class_tars(photos: Photos, inside: str = "") -> dict[str, bytes]:
    return {
        f"{wnid}.tar": tar({f"{inside}{name}": data for name, data in some(photos, f"{wnid}_").items()})
        for wnid in reversed(CLASSES)
    }


def meta(year: int) -> bytes:
    rows = [
        *((number, wnid, NAMES[CLASSES.index(wnid)], 0) for number, wnid in IDS.items()),
        (5, "n00001740", "entity", 3),
    ]
    fields = [(f"ILSVRC{year}_ID", object), ("WNID", object), ("words", object), ("num_children", object)]
    file = io.BytesIO()
    savemat(file, {"synsets": np.array(rows, fields)})
    return file.getvalue()


def numbers(values: list[int]) -> bytes:
    return "".join(f"{value}\n" for value in values).encode()


def devkit(year: int) -> dict[str, bytes]:
    folder = {2012: "ILSVRC2012_devkit_t12", 2010: "devkit-1.0"}[year]
    return {
        f"{folder}/readme.txt": b"",
        f"{folder}/data/meta.mat": meta(year),
        f"{folder}/data/ILSVRC{year}_validation_ground_truth.txt": numbers(VAL_IDS),
    }


def make_folders(root: Path, photos: Photos) -> Path:
    val = {f"val/{CLASSES[label]}/{name}": photos[name] for name, label in VAL_LABELS.items()}
    test = {f"test/{name}": photos[name] for name in TEST_LABELS}
    words = "".join(f"{wnid}\t{name}\n" for wnid, name in zip(CLASSES, NAMES, strict=True)).encode()
    return write_files(root, train_folders(photos) | val | test | {"words.txt": words})


def make_ilsvrc2012(root: Path, photos: Photos) -> Path:
    test = {f"test/{name}": data for name, data in some(photos, "_test_").items()}
    return write_files(
        root,
        {
            "ILSVRC2012_img_train.tar": tar(class_tars(photos)),
            "ILSVRC2012_img_val.tar": tar(some(photos, "_val_"), tarfile.PAX_FORMAT),
            "ILSVRC2012_img_test_v10102019.tar": tar(test),
            "ILSVRC2012_devkit_t12.tar.gz": gzip.compress(tar(devkit(2012))),
        },
    )


def make_unpacked_ilsvrc(root: Path, photos: Photos) -> Path:
    flat = {f"{split}/{name}": data for split in ("val", "test") for name, data in some(photos, f"_{split}_").items()}
    return write_files(root, train_folders(photos) | flat | devkit(2012))


def make_train_tars(root: Path, photos: Photos) -> Path:
    train = {f"train/{name}": data for name, data in class_tars(photos).items()}
    rest = {
        "ILSVRC2012_img_val.tar": tar(some(photos, "_val_")),
        "ILSVRC2012_img_test.tar": tar(some(photos, "_test_")),
    }
    kit = {name.partition("/")[2]: data for name, data in devkit(2012).items()}
    return write_files(root, train | rest | kit)


def make_class_tars_beside_val(root: Path, photos: Photos) -> Path:
    flat = {f"{split}/{name}": data for split in ("val", "test") for name, data in some(photos, f"_{split}_").items()}
    return write_files(root, class_tars(photos, "images/") | flat | devkit(2012))


def make_ilsvrc2010(root: Path, photos: Photos) -> Path:
    patched = [TRAIN[4], "ILSVRC2012_val_00000003.JPEG", "ILSVRC2012_test_00000002.JPEG"]
    broken = photos | dict.fromkeys(patched, b"no image available")
    patches = {
        f"patch_images/train/{patched[0]}": photos[patched[0]],
        f"patch_images/val/{patched[1]}": photos[patched[1]],
        f"patch_images/test/{patched[2]}": photos[patched[2]],
        f"patch_images/val/._{patched[1]}": b"of a Mac",
        f"patch_images/val/{patched[2]}": b"of the same name, but for another split",
    }
    return write_files(
        root,
        {
            "ILSVRC2010_images_train.tar": tar(class_tars(broken)),
            "ILSVRC2010_images_val.tar": tar({f"val/{k}": v for k, v in some(broken, "_val_").items()}),
            "ILSVRC2010_images_test.tar": tar({f"test/{k}": v for k, v in some(broken, "_test_").items()}),
            "ILSVRC2010_devkit-1.0.tar.gz": gzip.compress(tar(devkit(2010))),
            "ILSVRC2010_test_ground_truth.txt": numbers(TEST_IDS),
            "patch_images.tar": tar(patches),
        },
    )


def make_kaggle(root: Path, photos: Photos) -> Path:
    flat = {f"{split}/{name}": data for split in ("val", "test") for name, data in some(photos, f"_{split}_").items()}
    lines = [
        f"{Path(name).stem},{CLASSES[label]} 1 2 30 40 {CLASSES[label]} 5 6 7 8\n"
        for name, label in reversed(VAL_LABELS.items())
    ]
    mapping = "".join(f"{wnid} {name}\n" for wnid, name in zip(CLASSES, NAMES, strict=True))
    write_files(root / "ILSVRC" / "Data" / "CLS-LOC", train_folders(photos) | flat)
    return write_files(
        root,
        {
            "LOC_val_solution.csv": "".join(["ImageId,PredictionString\n", *lines]).encode(),
            "LOC_synset_mapping.txt": mapping.encode(),
        },
    )


def make_moved_kaggle(root: Path, photos: Photos) -> Path:
    """All in one folder."""
    (make_kaggle(root / "unpacked", photos) / "ILSVRC/Data/CLS-LOC").rename(root / "moved")
    for path in (root / "unpacked").glob("*.*"):
        path.rename(root / "moved" / path.name)
    return root


def table(rows: list[tuple[bytes | None, str | None, int | None]], names: list[str] | None = None) -> pa.Table:
    image = pa.array(
        [{"bytes": data, "path": path} for data, path, _ in rows],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    label = pa.array([label for *_, label in rows], pa.int64())
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if names else {}
    return pa.table({"image": image, "label": label}).replace_schema_metadata(metadata)


def make_parquet(root: Path, photos: Photos) -> Path:
    data = root / "data"
    data.mkdir(parents=True)
    train: list[tuple[bytes | None, str | None, int | None]] = [
        (photos[name], f"{name[:-5]}_{name[:9]}.JPEG", CLASSES.index(name[:9])) for name in sorted(TRAIN, key=hash_of)
    ]
    val = [
        (photos[name], f"{name[:-5]}_{CLASSES[label]}.JPEG", label)
        for name, label in sorted(VAL_LABELS.items(), reverse=True)
    ]
    test = [(photos[name], name, -1) for name in sorted(TEST_LABELS, reverse=True)]
    pq.write_table(table(train[:7], NAMES), data / "train-00000-of-00002.parquet", row_group_size=3)
    pq.write_table(table(train[7:], NAMES), data / "train-00001-of-00002.parquet", row_group_size=3)
    pq.write_table(table(list(val), NAMES), data / "validation-00000-of-00001.parquet", row_group_size=2)
    pq.write_table(table(list(test), NAMES), data / "test-00000-of-00001.parquet")
    return root


def hash_of(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def samples(photos: Photos, labels: dict[str, int], extension: str = "jpg") -> dict[str, bytes]:
    members = {}
    for name in sorted(labels, key=hash_of):
        members[f"{name[:-5]}.cls"] = str(labels[name]).encode()
        members[f"{name[:-5]}.{extension}"] = photos[name]
        members[f"{name[:-5]}.json"] = b"{}"
    return members


def make_webdataset(root: Path, photos: Photos) -> Path:
    train = {name: CLASSES.index(name[:9]) for name in TRAIN}
    first, second = dict(list(train.items())[::2]), dict(list(train.items())[1::2])
    words = "".join(f"{wnid}\t{name}\n" for wnid, name in zip(CLASSES, NAMES, strict=True)).encode()
    return write_files(
        root,
        {
            "imagenet1k-train-0000.tar": tar(samples(photos, first), tarfile.PAX_FORMAT),
            "imagenet1k-train-0001.tar": tar(samples(photos, second, "JPEG")),
            "imagenet1k-validation-00.tar": tar(samples(photos, VAL_LABELS)),
            "imagenet1k-test-00.tar": tar(samples(photos, dict.fromkeys(TEST_LABELS, -1))),
            "words.txt": words,
        },
    )


def make_shard_set(root: Path, photos: Photos) -> Path:
    """Of our own: the class is the folder of the key."""

    def keyed(labels: dict[str, int], folders: dict[str, str]) -> dict[str, bytes]:
        return {
            f"{folders[name[:-4]]}/{name}": data
            for name, data in samples(photos, labels).items()
            if name[-4:] != "json"
        }

    train = {name: CLASSES.index(name[:9]) for name in TRAIN}
    parts = {
        "train": (train, {name[:-5]: name[:9] for name in train}),
        "val": (VAL_LABELS, {name[:-5]: CLASSES[label] for name, label in VAL_LABELS.items()}),
        "test": (dict.fromkeys(TEST_LABELS, -1), {name[:-5]: "unlabelled" for name in TEST_LABELS}),
    }
    classes = [{"id": wnid, "name": name} for wnid, name in zip(CLASSES, NAMES, strict=True)]
    return write_files(
        root,
        {f"{split}-000000.tar": tar(keyed(labels, folders)) for split, (labels, folders) in parts.items()}
        | {"manifest.json": json.dumps({"format": FORMAT, "classes": classes}).encode()},
    )


BUILDERS: dict[str, tuple[Callable[[Path, Photos], Path], str]] = {
    "folders": (make_folders, "."),
    "ILSVRC-2012": (make_ilsvrc2012, "."),
    "ILSVRC-2012 unpacked": (make_unpacked_ilsvrc, "."),
    "ILSVRC-2012 with tars in train": (make_train_tars, "."),
    "ILSVRC-2012 with tars beside val": (make_class_tars_beside_val, "."),
    "ILSVRC-2010": (make_ilsvrc2010, "."),
    "Kaggle": (make_kaggle, "."),
    "Kaggle, ILSVRC": (make_kaggle, "ILSVRC"),
    "Kaggle, Data": (make_kaggle, "ILSVRC/Data"),
    "Kaggle, CLS-LOC": (make_kaggle, "ILSVRC/Data/CLS-LOC"),
    "Kaggle, moved": (make_moved_kaggle, "moved"),
    "parquet": (make_parquet, "."),
    "parquet, data": (make_parquet, "data"),
    "WebDataset": (make_webdataset, "."),
    "shard set": (make_shard_set, "."),
}
IN_ORDER_OF_NAMES = [form for form in BUILDERS if not form.startswith("parquet")]


def build(form: str, root: Path, photos: Photos) -> Path:
    builder, inside = BUILDERS[form]
    return builder(root, photos) / inside


def everything(images: Images) -> list[Any]:
    return images.take(np.arange(len(images)))


def contents(source: Source, split: str) -> dict[str, bytes | OSError]:
    return {image.key: data for image, data in read_images(source.root, everything(source.splits[split]))}


@pytest.mark.parametrize("form", BUILDERS)
def test_every_form_gives_the_same_classes_keys_labels_and_bytes(form: str, tmp_path: Path, photos: Photos) -> None:
    source = find_images(build(form, tmp_path, photos))
    assert source.classes == CLASSES
    assert source.names == dict(zip(CLASSES, NAMES, strict=True))
    assert list(source.splits) == ["train", "val", "test"]

    train = {f"{name[:9]}/{name[:-5]}": CLASSES.index(name[:9]) for name in TRAIN}
    val = {f"{CLASSES[label]}/{name[:-5]}": label for name, label in VAL_LABELS.items()}
    test = {f"unlabelled/{name[:-5]}": -1 for name in TEST_LABELS}
    if form == "ILSVRC-2010":
        test = {f"{CLASSES[label]}/{name[:-5]}": label for name, label in TEST_LABELS.items()}
    for split, expected in {"train": train, "val": val, "test": test}.items():
        images = source.splits[split]
        assert len(images) == len(expected)
        assert {image.key: image.label for image in images} == expected
        assert images.labels.tolist() == [image.label for image in images]
        wanted = {key: photos[f"{key.partition('/')[2]}.JPEG"] for key in expected}
        assert contents(source, split) == wanted


@pytest.mark.parametrize("form", IN_ORDER_OF_NAMES)
def test_the_order_is_that_of_class_folders(form: str, tmp_path: Path, photos: Photos) -> None:
    expected = find_images(build("folders", tmp_path / "folders", photos))
    source = find_images(build(form, tmp_path / "other", photos))
    for split in ("train", "val"):
        assert [i.key for i in everything(source.splits[split])] == [i.key for i in everything(expected.splits[split])]


def test_parquet_is_listed_in_stored_order_a_block_a_row_group(tmp_path: Path, photos: Photos) -> None:
    train = find_images(make_parquet(tmp_path, photos)).splits["train"]
    assert [image.name for image in train] == sorted(TRAIN, key=hash_of)
    assert train.blocks.tolist() == [0, 3, 6, 7, 10, 12]


def test_archived_images_are_shown_with_their_archive(tmp_path: Path, photos: Photos) -> None:
    source = find_images(make_ilsvrc2012(tmp_path, photos))
    assert source.splits["train"][0].path == "ILSVRC2012_img_train.tar/n01440764_10026.JPEG"


WHOLE: dict[str, Callable[[Photos], dict[str, bytes]]] = {
    "a tar of tars": lambda photos: {"fall11_whole.tar": tar(class_tars(photos))},
    "a tar of tars in a folder": lambda photos: {"a/fall11_whole.tar": tar(class_tars(photos))},
    "under another name": lambda photos: {"imagenet.tar": tar(class_tars(photos, "images/"))},
    "beside others": lambda photos: {"fall11_whole.tar": tar(class_tars(photos)), "tools.tar": tar({"a.py": b""})},
    "class tars": class_tars,
    "class tars in a folder": lambda photos: {f"all/{name}": data for name, data in class_tars(photos).items()},
    "class tars in train": lambda photos: {f"train/{name}": data for name, data in class_tars(photos).items()},
    "a plain tar called compressed": lambda photos: {"winter21_whole.tar.gz": tar(class_tars(photos))},
    "unpacked and packed": lambda photos: {
        "winter21_whole.tar.gz": gzip.compress(tar(class_tars(photos))),
        "winter21_whole.tar": tar(class_tars(photos)),
    },
}


@pytest.mark.parametrize("form", WHOLE)
def test_releases_without_splits(form: str, tmp_path: Path, photos: Photos) -> None:
    files = WHOLE[form](photos) | {"words.txt": b"n01440764\ttench, Tinca tinca\n\n"}
    source = find_images(write_files(tmp_path, files))
    assert source.classes == CLASSES
    assert source.names == {"n01440764": "tench, Tinca tinca"}
    assert list(source.splits) == ["train"]
    assert [image.key for image in source.splits["train"]] == [f"{n[:9]}/{n[:-5]}" for n in sorted(TRAIN)]
    assert contents(source, "train") == {f"{name[:9]}/{name[:-5]}": photos[name] for name in TRAIN}


def test_one_archive_as_src(tmp_path: Path, photos: Photos) -> None:
    write_files(tmp_path, {"fall11_whole.tar": tar(class_tars(photos)), "words.txt": b"n01440764\ttench\n"})
    source = find_images(tmp_path / "fall11_whole.tar")
    assert source.root == tmp_path
    assert source.names == {"n01440764": "tench"}
    assert contents(source, "train") == {f"{name[:9]}/{name[:-5]}": photos[name] for name in TRAIN}


def test_layout_whole_takes_classes_of_any_name(tmp_path: Path, photos: Photos) -> None:
    inner = {"dog.v1.tar": tar({"1.jpg": photos[TRAIN[0]]}), "cat.tar": tar({"1.jpg": photos[TRAIN[1]]})}
    apart = find_images(write_files(tmp_path / "apart", inner), "whole")
    together = find_images(write_files(tmp_path / "together", {"pets.tar": tar(inner)}), "whole")
    for source in (apart, together):
        assert source.classes == ["cat", "dog.v1"]
        assert contents(source, "train") == {"cat/1": photos[TRAIN[1]], "dog_v1/1": photos[TRAIN[0]]}
    with pytest.raises(InputError, match="none of the known layouts"):
        find_images(tmp_path / "apart")


def test_a_tar_between_class_folders_does_not_make_another_layout(tmp_path: Path) -> None:
    for number, data in enumerate([b"not a tar", gzip.compress(b"a"), tar({"a.jpg": b"a"})]):
        root = write_files(tmp_path / str(number), {"cat/1.jpg": b"1", "dog/2.jpg": b"2", "backup.tar": data})
        assert find_images(root).classes == ["cat", "dog"]


def test_val_sorted_by_the_user_needs_no_labels(tmp_path: Path, photos: Photos) -> None:
    val = {f"val/{CLASSES[label]}/{name}": photos[name] for name, label in VAL_LABELS.items()}
    make_kaggle(tmp_path / "kaggle", photos)
    kaggle = tmp_path / "kaggle" / "ILSVRC" / "Data" / "CLS-LOC"
    for path in (kaggle / "val").iterdir():
        path.unlink()
    write_files(kaggle, val)
    official = {
        "ILSVRC2012_img_train.tar": tar(class_tars(photos)),
        "ILSVRC2012_img_val.tar": tar(some(photos, "_val_")),
    }
    for root in (tmp_path / "kaggle", write_files(tmp_path / "official", official | val)):
        images = find_images(root).splits["val"]
        assert {image.name: image.label for image in images} == VAL_LABELS


def test_webdataset_labels_without_wnids_are_numbers(tmp_path: Path, photos: Photos) -> None:
    members = {
        "a/1.cls": b"2\n",
        "a/1.PNG": b"x",
        "a/__key__.json": b"",
        "n01440764_2.jpg": b"y",
        "n01440764_2.cls": b"0",
    }
    source = find_images(write_files(tmp_path, {"train.tar": tar(members)}))
    assert source.classes == ["n01440764", "1", "2"]
    assert contents(source, "train") == {"2/1": b"x", "n01440764/n01440764_2": b"y"}


def test_parquet_classes_without_wnids_have_the_names_of_the_schema(tmp_path: Path) -> None:
    rows: list[tuple[bytes | None, str | None, int | None]] = [
        (b"1", "x/1.png", 1),
        (b"2", None, 0),
        (b"3", "3.jpg", 3),
    ]
    pq.write_table(table(rows, ["dog", "crane", "cat", "crane"]), tmp_path / "pets.parquet")
    source = find_images(tmp_path)
    assert source.classes == ["dog", "1", "cat", "3"]
    assert source.names == {"1": "crane", "3": "crane"}
    assert contents(source, "train") == {"1/1": b"1", "dog/pets-000001": b"2", "3/3": b"3"}


def test_parquet_without_names_or_test_labels(tmp_path: Path) -> None:
    pq.write_table(table([(b"1", "1.png", 1)]), tmp_path / "train.parquet")
    pq.write_table(table([(b"2", "2.png", None)]).drop_columns("label"), tmp_path / "test.parquet")
    source = find_images(tmp_path)
    assert source.classes == ["0", "1"]
    assert source.names == {}
    assert source.splits["test"][0].label == -1


def test_parquet_files_of_val_need_not_say_the_wnid(tmp_path: Path) -> None:
    pq.write_table(table([(b"1", "n01440764_1.JPEG", 0)], ["tench"]), tmp_path / "train.parquet")
    pq.write_table(table([(b"2", "ILSVRC2012_val_00000001.JPEG", 0)], ["tench"]), tmp_path / "validation.parquet")
    source = find_images(tmp_path)
    assert source.classes == ["n01440764"]
    assert contents(source, "train") == {"n01440764/n01440764_1": b"1"}
    assert contents(source, "val") == {"n01440764/ILSVRC2012_val_00000001": b"2"}


def test_rows_are_read_in_the_order_given(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rows: list[tuple[bytes | None, str | None, int | None]] = [(f"{n}".encode(), None, 0) for n in range(100)]
    rows[50] = (None, "elsewhere.jpg", 0)
    pq.write_table(table(rows), path, row_group_size=40)
    wanted = [3, 1, 2, 39, 40, 79, 95, 0]
    assert list(parquet.read_rows(path, wanted)) == [f"{n}".encode() for n in wanted]
    before, odd, after = parquet.read_rows(path, [49, 50, 51])
    assert (before, after) == (b"49", b"51")
    assert str(odd) == "the row holds no image"


def test_a_damaged_row_group_costs_its_rows_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rows: list[tuple[bytes | None, str | None, int | None]] = [
        (np.random.default_rng(n).bytes(1500), None, 0) for n in range(6)
    ]
    pq.write_table(table(rows), path, row_group_size=2, compression="gzip", use_dictionary=False)
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    assert column.path_in_schema == "image.bytes"
    data = bytearray(path.read_bytes())
    middle = column.data_page_offset + column.total_compressed_size // 2
    data[middle : middle + 20] = bytes(20)
    path.write_bytes(data)
    first, second, third, fourth, *rest = parquet.read_rows(path, list(range(6)))
    assert [first, second, *rest] == [rows[n][0] for n in (0, 1, 4, 5)]
    assert isinstance(third, OSError)
    assert isinstance(fourth, OSError)


def test_rows_stream_with_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    megabyte = np.random.default_rng(0).bytes(1 << 20)
    pages = {"write_batch_size": 1, "compression": "none", "use_dictionary": False}  # a page a row
    pq.write_table(table([(megabyte, None, 0)] * 64), path, **pages)
    before, highest = pa.total_allocated_bytes(), 0
    for data in parquet.read_rows(path, list(range(64))):
        assert data == megabyte
        highest = max(highest, pa.total_allocated_bytes() - before)
    assert 0 < highest < 48 << 20


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_of_a_tar_and_of_the_tar_in_it(form: int, tmp_path: Path) -> None:
    inner = {
        "b.jpg": b"b" * 700,
        f"{'d' * 80}/{'l' * 90}.jpg": b"long",
        ".hidden.jpg": b"h",
        "x/._a.jpg": b"mac",
        "a.jpg": b"",
    }
    path = tmp_path / "outer.tar"
    path.write_bytes(tar({"first.txt": b"1", "inner.tar": tar(inner, form)}, form))
    first, outer = archives.members(path)
    found = list(archives.members(path, outer))
    data = path.read_bytes()
    assert (first.name, outer.name) == ("first.txt", "inner.tar")
    assert [member.name for member in found] == ["b.jpg", f"{'l' * 90}.jpg", "a.jpg"]
    assert [data[m.offset : m.offset + m.size] for m in found] == [b"b" * 700, b"long", b""]


def test_links_folders_and_devices_are_no_members(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            info = tarfile.TarInfo(f"n{kind.decode()}")
            info.type = kind
            archive.addfile(info)
        archive.addfile(tarfile.TarInfo("real"))
    assert [member.name for member in archives.members(tmp_path / "a.tar")] == ["real"]


CUT = "{src}/fall11_whole.tar is truncated. Copy or download it again."


def test_archives_cut_anywhere_are_refused(tmp_path: Path, photos: Photos) -> None:
    whole = tar({"n01440764.tar": tar({"a.JPEG": photos[TRAIN[0]]})})
    ends_at = 512 + len(tar({"a.JPEG": photos[TRAIN[0]]}))
    for length in [513, 1000, 1024, 2000, ends_at - 1, ends_at, ends_at + 1, ends_at + 511]:
        write_files(tmp_path, {"fall11_whole.tar": whole[:length]})
        with pytest.raises(InputError) as error:
            find_images(tmp_path)
        assert str(error.value) == CUT.format(src=tmp_path)
    assert len(find_images(write_files(tmp_path, {"fall11_whole.tar": whole})).splits["train"]) == 1


def test_an_inner_tar_cut_anywhere_is_refused(tmp_path: Path, photos: Photos) -> None:
    inner = tar({"a.JPEG": photos[TRAIN[0]], "b.JPEG": photos[TRAIN[1]]})
    used = len(inner.rstrip(b"\0"))
    used += -used % 512
    for length in [300, 512, 700, 1024, used - 600, used - 1, used, used + 100]:
        broken = {"n01440764.tar": tar({"a.JPEG": b"fine"}), "n01484850.tar": inner[:length], "n02085620.tar": inner}
        write_files(tmp_path, {"fall11_whole.tar": tar(broken)})
        with pytest.raises(InputError) as error:
            find_images(tmp_path)
        what = "not a tar archive" if length < 512 else "truncated"
        assert str(error.value).startswith(f"n01484850.tar in {tmp_path}/fall11_whole.tar is {what}.")


def test_a_damaged_header_is_refused(tmp_path: Path) -> None:
    data = bytearray(tar({"a.JPEG": b"a" * 100, "b.JPEG": b"b" * 100, "c.JPEG": b"c" * 100}))
    data[1024:1030] = b"x" * 6
    write_files(tmp_path, {"n01440764.tar": bytes(data)})
    with pytest.raises(InputError) as error:
        find_images(tmp_path)
    assert str(error.value) == f"{tmp_path}/n01440764.tar is damaged at byte 1,024. Copy or download it again."


Change = Callable[[Path], object]


def unlink_all(paths: Iterable[Path]) -> None:
    for path in list(paths):
        path.unlink()


def packed(path: Path) -> None:
    path.write_bytes(gzip.compress(path.read_bytes()))


COMPRESSED = (
    " is compressed with gzip, so images cannot be read from the middle of it. Unpack it once, with tar -xf: the "
    "images or the tars of one class each that come out are read as they are."
)
KIT = "ILSVRC2012_devkit_t12.tar.gz"

REFUSED: list[tuple[str, Change, str]] = [
    (
        "ILSVRC-2012",
        lambda src: packed(src / "ILSVRC2012_img_train.tar"),
        "{src}/ILSVRC2012_img_train.tar" + COMPRESSED,
    ),
    ("ILSVRC-2012", lambda src: packed(src / "ILSVRC2012_img_val.tar"), "{src}/ILSVRC2012_img_val.tar" + COMPRESSED),
    (
        "ILSVRC-2012",
        lambda src: (src / "ILSVRC2012_img_val.tar").write_bytes(b"<html>not found</html>"),
        "{src}/ILSVRC2012_img_val.tar is not a tar archive. Copy or download it again, or move it away.",
    ),
    (
        "ILSVRC-2012",
        lambda src: (src / "ILSVRC2012_img_val.tar").write_bytes(b""),
        "{src}/ILSVRC2012_img_val.tar is empty. Copy or download it again.",
    ),
    (
        "ILSVRC-2012",
        lambda src: (src / "ILSVRC2012_img_val.tar").write_bytes(tar({})),
        "{src}/ILSVRC2012_img_val.tar holds no images. Copy or download it again.",
    ),
    (
        "ILSVRC-2012",
        lambda src: (src / "ILSVRC2012_img_train.tar").write_bytes(tar({"n01440764/1.JPEG": b""})),
        "{src}/ILSVRC2012_img_train.tar holds no tars. Expected one tar a class inside it, <class>.tar.",
    ),
    (
        "ILSVRC-2012",
        lambda src: (src / "ILSVRC2012_img_train.tar").write_bytes(tar({"n01440764.tar": tar({})})),
        "the archives of {src} hold no images. Copy or download them again.",
    ),
    (
        "ILSVRC-2012",
        lambda src: (src / "ILSVRC2012_img_train.tar").unlink(),
        "{src} has no training images of ILSVRC. Put ILSVRC2012_img_train.tar there, or class folders in train/.",
    ),
    (
        "ILSVRC-2012",
        lambda src: (src / "ILSVRC2010_images_train.tar").touch(),
        "{src} has both ILSVRC2010_images_train.tar and ILSVRC2012_img_train.tar. Move one away: train comes from one "
        "archive.",
    ),
    (
        "ILSVRC-2012",
        lambda src: (src / KIT).unlink(),
        "{src}/ILSVRC2012_img_val.tar does not say its images' classes, and the development kit that does is missing. "
        "Put ILSVRC2012_devkit_t12.tar.gz, or for 2010 ILSVRC2010_devkit-1.0.tar.gz, in {src}.",
    ),
    (
        "ILSVRC-2012",
        lambda src: (src / KIT).write_bytes(gzip.compress(tar({"a": b""}))),
        "{src}/ILSVRC2012_devkit_t12.tar.gz holds no data/meta.mat. Download the development kit again.",
    ),
    (
        "ILSVRC-2012",
        lambda src: (src / KIT).write_bytes((src / KIT).read_bytes()[:-200]),
        "{src}/ILSVRC2012_devkit_t12.tar.gz cannot be read (Compressed file ended before the end-of-stream marker was "
        "reached). Download the development kit again.",
    ),
    (
        "ILSVRC-2012",
        lambda src: (src / KIT).write_bytes(gzip.compress(tar(devkit(2012) | {"x/data/meta.mat": b"damaged" * 100}))),
        "meta.mat of {src}/ILSVRC2012_devkit_t12.tar.gz cannot be read (it is no MATLAB file of version 5). "
        "Download the development kit again.",
    ),
    (
        "ILSVRC-2012 unpacked",
        lambda src: (src / "ILSVRC2012_devkit_t12/data/meta.mat").unlink(),
        "{src}/val does not say its images' classes, and the development kit that does is missing. "
        "Put ILSVRC2012_devkit_t12.tar.gz, or for 2010 ILSVRC2010_devkit-1.0.tar.gz, in {src}.",
    ),
    (
        "ILSVRC-2012 unpacked",
        lambda src: (src / "val/ILSVRC2012_val_00000002.JPEG").unlink(),
        "{src}/val holds 4 images, but the development kit labels 5. One of the two is not whole, or of another year: "
        "copy or download it again.",
    ),
    (
        "ILSVRC-2012 unpacked",
        lambda src: truth_file(src).write_bytes(numbers([1, 2, 3, 4, 5])),
        "the ground truth of val has the class id 5, which meta.mat lacks.",
    ),
    (
        "ILSVRC-2012 unpacked",
        lambda src: truth_file(src).write_bytes(b"1\n2\nthree\n"),
        "the ground truth of val in {src}/ILSVRC2012_devkit_t12/data is not a number a line (invalid literal for int() "
        "with base 10: b'three'). Download it again.",
    ),
    (
        "ILSVRC-2012 with tars in train",
        lambda src: (src / "train/n01484850.tar").unlink(),
        "{src}/ILSVRC2012_img_val.tar has images of 1 classes that train lacks: n01484850. Put the training images of "
        "all classes there, or move it away and use --val-fraction.",
    ),
    (
        "Kaggle",
        lambda src: (src / "LOC_val_solution.csv").unlink(),
        "{src}/ILSVRC/Data/CLS-LOC/val does not say its images' classes, and LOC_val_solution.csv, which does, is "
        "neither in {src}/ILSVRC/Data/CLS-LOC nor in the 3 folders above it. Put it there.",
    ),
    (
        "Kaggle",
        lambda src: (src / "LOC_val_solution.csv").write_text("id,label\n1,2\n"),
        "{src}/LOC_val_solution.csv cannot be read (KeyError('ImageId')). It has the columns ImageId and "
        "PredictionString. Download it again.",
    ),
    (
        "Kaggle",
        lambda src: (src / "ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_00000003.JPEG").unlink(),
        "{src}/LOC_val_solution.csv labels ILSVRC2012_val_00000003, which {src}/ILSVRC/Data/CLS-LOC/val lacks. Unpack "
        "Kaggle's archive again.",
    ),
    (
        "Kaggle",
        lambda src: (src / "ILSVRC/Data/CLS-LOC/val/extra.JPEG").touch(),
        "{src}/LOC_val_solution.csv lacks extra. Unpack Kaggle's archive again.",
    ),
    (
        "Kaggle",
        lambda src: shutil.rmtree(src / "ILSVRC/Data/CLS-LOC/train/n01440764"),
        "{src}/LOC_val_solution.csv has classes that train/ lacks: n01440764.",
    ),
    (
        "Kaggle",
        lambda src: (src / "LOC_synset_mapping.txt").write_bytes(b"n01 \xff\n"),
        "{src}/LOC_synset_mapping.txt cannot be read ('utf-8' codec can't decode byte 0xff in position 4: invalid "
        "start byte). It is a text of lines of class id and name.",
    ),
    (
        "parquet",
        lambda src: unlink_all(src.glob("data/train*")),
        "{src} has files of val and test, but none of train. Put them in one folder.",
    ),
    (
        "parquet",
        lambda src: pq.write_table(pa.table({"pixels": [1]}), src / "data/test-00000-of-00001.parquet"),
        "{src}/data/test-00000-of-00001.parquet has no column `image` of bytes and path. Expected a table like "
        "imagenet-1k's.",
    ),
    (
        "parquet",
        lambda src: pq.write_table(table([(b"1", "1.jpg", -1)]), src / "data/validation-00000-of-00001.parquet"),
        "{src} has an image of val with the label -1. Those of its 4 classes count from 0; -1, for no class, is for "
        "test alone.",
    ),
    (
        "WebDataset",
        lambda src: unlink_all(src.glob("*train*")),
        "{src} has files of val and test, but none of train. Put them in one folder.",
    ),
    (
        "WebDataset",
        lambda src: (src / "imagenet1k-test-00.tar").write_bytes(tar({"a/1.cls": b"0", "a/1.npy": b"", "2.cls": b"1"})),
        "the sample a/1 in {src}/imagenet1k-test-00.tar has no image (jpg, jpeg, png or webp); it has cls, npy.",
    ),
    (
        "WebDataset",
        lambda src: (src / "imagenet1k-train-0001.tar").write_bytes(tar({"1.jpg": b"0", "1.json": b""})),
        "the sample 1 in {src}/imagenet1k-train-0001.tar has no label (cls); it has jpg, json.",
    ),
    (
        "WebDataset",
        lambda src: (src / "imagenet1k-train-0001.tar").write_bytes(tar({"1.jpg": b"0", "1.cls": b"cat"})),
        "1.cls in {src}/imagenet1k-train-0001.tar is not a class index: b'cat'.",
    ),
    (
        "WebDataset",
        lambda src: (src / "imagenet1k-train-0001.tar").write_bytes(tar({"1.jpg": b"0", "1.cls": b"-1"})),
        "{src} has an image of train with the label -1. Those of its 4 classes count from 0; -1, for no class, is for "
        "test alone.",
    ),
    (
        "shard set",
        lambda src: (src / "test-000000.tar").write_bytes(tar({"1.jpg": b"0", "1.cls": b"4"})),
        "{src} has an image of test with the label 4. Those of its 4 classes count from 0; -1, for no class, is for "
        "test alone.",
    ),
    (
        "WebDataset",
        lambda src: (src / "imagenet1k-train-0001.tar").write_bytes(tar({})),
        "{src}/imagenet1k-train-0001.tar holds no samples. Copy or download it again, or move it away.",
    ),
    ("WebDataset", lambda src: packed(src / "imagenet1k-test-00.tar"), "{src}/imagenet1k-test-00.tar" + COMPRESSED),
]


def truth_file(src: Path) -> Path:
    return src / "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"


@pytest.mark.parametrize(("form", "change", "message"), REFUSED)
def test_what_is_refused(form: str, change: Change, message: str, tmp_path: Path, photos: Photos) -> None:
    src = BUILDERS[form][0](tmp_path, photos)
    change(src)
    with pytest.raises(InputError) as error:
        find_images(src)
    assert str(error.value) == message.format(src=src)


def test_compressed_releases_are_refused(tmp_path: Path, photos: Photos) -> None:
    write_files(tmp_path, {"winter21_whole.tar.gz": gzip.compress(tar(class_tars(photos)))})
    for src in (tmp_path, tmp_path / "winter21_whole.tar.gz"):
        with pytest.raises(InputError) as error:
            find_images(src)
        assert str(error.value) == f"{tmp_path}/winter21_whole.tar.gz" + COMPRESSED


def test_a_damaged_parquet_file_is_refused(tmp_path: Path, photos: Photos) -> None:
    path = make_parquet(tmp_path, photos) / "data" / "train-00001-of-00002.parquet"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(
        InputError, match=r"train-00001-of-00002\.parquet is not a whole parquet file \(.*Copy or downl"
    ):
        find_images(tmp_path)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("folders", "{src} is a file. This layout takes a folder of class folders, or of train/ and val/."),
        ("ilsvrc", "{src} is a file. This layout takes the folder of the official archives."),
        ("kaggle", "{src} has no ILSVRC/Data/CLS-LOC/train/. Name the folder that Kaggle's archive unpacks to."),
        ("parquet", "{src} has no .parquet files, nor has its data/. Name the folder that holds them."),
        ("webdataset", "{src} holds no .tar files. This layout takes a folder of WebDataset tars."),
        ("whole", "{src} is not a tar archive. Copy or download it again, or move it away."),
    ],
)
def test_a_forced_layout_that_does_not_fit(layout: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(jpeg(0))
    with pytest.raises(InputError) as error:
        find_images(path, layout)
    assert str(error.value) == message.format(src=path)


def test_layout_whole_of_a_folder_without_tars(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"holds no tars\. This layout takes one tar a class, or one tar that holds them"
    ):
        find_images(tmp_path, "whole")


def test_parquet_without_its_package(tmp_path: Path, photos: Photos, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(InputError, match=r"takes PyArrow to read: pip install 'alexnet-fast\[parquet\]'$"):
        find_images(make_parquet(tmp_path, photos))


@pytest.mark.parametrize("packed", [False, True])
def test_structs_of_a_matlab_file_are_those_that_scipy_writes(packed: bool) -> None:
    """Of fields that ILSVRC's have too, one is an array and one is empty."""
    fields = [(name, object) for name in ("ILSVRC2010_ID", "WNID", "words", "num_children", "children")]
    rows = [(number, f"n{number:08d}", "Wörter, 雪", 0.5 * number, np.arange(number)) for number in range(300)]
    file = io.BytesIO()
    savemat(file, {"other": np.eye(3), "synsets": np.array(rows, fields)}, do_compression=packed)
    found = read_structs(file.getvalue(), "synsets")
    assert [tuple(row.values())[:4] for row in found] == [row[:4] for row in rows]
    assert [row["children"] for row in found[:3]] == [None, 0.0, None]
    with pytest.raises(ValueError, match="no structs other"):
        read_structs(file.getvalue(), "other")


def test_labels_beyond_all_classes_are_refused(tmp_path: Path, photos: Photos) -> None:
    """Classes are counted in memory."""
    members = {"0.jpg": photos[TRAIN[0]], "0.cls": b"999999999"}
    write_files(tmp_path, {"train-0.tar": tar(members)})
    with pytest.raises(InputError, match="the label 999,999,999; at most 1,000,000 classes"):
        find_images(tmp_path)


def test_labels_that_are_no_numbers_are_refused(tmp_path: Path, photos: Photos) -> None:
    rows = table([(photos[TRAIN[0]], "a.jpg", 0)])
    pq.write_table(rows.set_column(1, "label", pa.array(["cat"])), tmp_path / "train.parquet")
    with pytest.raises(InputError, match="labels that are no whole numbers"):
        find_images(tmp_path)


def test_md5_sums(tmp_path: Path, photos: Photos, monkeypatch: pytest.MonkeyPatch) -> None:
    make_ilsvrc2012(tmp_path, photos)
    sums = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in tmp_path.iterdir()}
    monkeypatch.setattr(ilsvrc, "MD5", {name: sums[name] for name in ilsvrc.MD5})
    every = ["ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", KIT]
    assert ilsvrc.check_md5(tmp_path) == every
    with (tmp_path / KIT).open("ab") as file:
        file.write(b"x")
    found = hashlib.md5((tmp_path / KIT).read_bytes()).hexdigest()
    with pytest.raises(InputError) as error:
        ilsvrc.check_md5(tmp_path)
    assert str(error.value) == (
        f"{tmp_path / KIT} is damaged: its MD5 sum is {found}, not the published {sums[KIT]}. Download it again."
    )
    (tmp_path / KIT).unlink()
    assert ilsvrc.check_md5(tmp_path) == every[:2]


def test_md5_sums_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        ilsvrc.check_md5(tmp_path)
    assert str(error.value) == (
        f"{tmp_path} has no archive whose MD5 sum is published. These have one: ILSVRC2012_img_train.tar, "
        "ILSVRC2012_img_val.tar, ILSVRC2012_devkit_t12.tar.gz."
    )
