"""The same images in every form that people have them in, and what is found there."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
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
from alexnet_fast.sharding.listing import Images, Source
from alexnet_fast.sharding.reading import read_images
from alexnet_fast.sharding.sources import find_images
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


def build(form: str, root: Path, photos: Photos) -> Path:
    builder, inside = BUILDERS[form]
    return builder(root, photos) / inside


def everything(images: Images) -> list[Any]:
    return images.take(np.arange(len(images)))


def contents(source: Source, split: str) -> dict[str, bytes | OSError]:
    return {image.key: data for image, data in read_images(source.root, everything(source.splits[split]))}


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


def check_refused(form: str, change: Change, message: str, root: Path, photos: Photos) -> None:
    """find_images refuses the layout once it was changed, in these words."""
    src = BUILDERS[form][0](root, photos)
    change(src)
    with pytest.raises(InputError) as error:
        find_images(src)
    assert str(error.value) == message.format(src=src)
