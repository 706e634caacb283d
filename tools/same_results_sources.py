"""Small sources of images for tools/same_results.py: the same images in every layout that `shard` reads."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.random import Generator, Philox
from PIL import Image
from scipy.io import savemat

SIZE = 76
"""Side that the sets store, pixels: the smallest images that AlexNet can be trained on are of 74."""
CLASSES = {"n01440764": "tench, Tinca tinca", "n01484850": "great white shark", "n02085620": "Chihuahua"}
CLASSES |= {"n03000684": "chain saw, chainsaw", "n03445777": "golf ball", "n03888257": "parachute, chute"}
IMAGES = {"train": 14, "val": 5, "test": 1}
"""Of each class."""
UNLABELLED = -1
TINTS = [(60, 0, 0), (0, 60, 0), (0, 0, 60), (40, 40, 0), (0, 40, 40), (40, 0, 40)]
"""Added to RGB, by class: something to learn."""


class Picture(NamedTuple):
    """`wnid` is its class; `name` ends in .JPEG, as ImageNet's do whatever the file holds."""

    split: str
    label: int
    wnid: str
    name: str
    data: bytes


def pictures() -> list[Picture]:
    """All images, by split and class; the same bytes every time on one machine."""
    found: list[Picture] = []
    for split, count in IMAGES.items():
        for label, wnid in enumerate(CLASSES):
            for k in range(count):
                number = k * len(CLASSES) + label + 1
                name = f"{wnid}_{k}.JPEG" if split == "train" else f"ILSVRC2012_{split}_{number:08d}.JPEG"
                data = encoded(label, k, key=1000 * len(found) + k)
                found.append(Picture(split, label, wnid, name, data))
    return found


def encoded(label: int, k: int, key: int) -> bytes:
    """Blocks of colour with noise. One in five is a JPEG, one a square JPEG of SIZE, one grey, one has an alpha
    channel; the last three kinds are PNGs, which do not depend on an encoder's rounding."""
    random = Generator(Philox(key=key))
    height, width = (SIZE, SIZE) if k % 5 == 1 else random.integers(SIZE - 10, 2 * SIZE, 2).tolist()
    blocks = np.kron(random.integers(20, 170, (5, 5, 3)), np.ones((31, 31, 1), np.int64))[:height, :width]
    pixels = (blocks + TINTS[label] + random.integers(0, 26, (height, width, 3))).astype(np.uint8)
    image = Image.fromarray(pixels)
    if k % 5 in (2, 3):
        image = image.convert("L" if k % 5 == 2 else "RGBA")
    file = io.BytesIO()
    image.save(file, "JPEG" if k % 5 < 2 else "PNG", quality=92)
    return file.getvalue()


def write_files(root: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)


def tar(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def flat(images: list[Picture], split: str, folder: str = "") -> dict[str, bytes]:
    return {f"{folder}{image.name}": image.data for image in images if image.split == split}


def by_class(images: list[Picture], split: str) -> dict[str, bytes]:
    return {f"{split}/{image.wnid}/{image.name}": image.data for image in images if image.split == split}


def class_tars(images: list[Picture]) -> dict[str, bytes]:
    train = [image for image in images if image.split == "train"]
    return {f"{wnid}.tar": tar({i.name: i.data for i in train if i.wnid == wnid}) for wnid in CLASSES}


def words() -> bytes:
    return "".join(f"{wnid}\t{name}\n" for wnid, name in CLASSES.items()).encode()


def make_folders(root: Path, images: list[Picture]) -> None:
    """Also a file that is no image, which `shard` leaves out by name."""
    broken = {f"train/{next(iter(CLASSES))}/broken.JPEG": b"no image available"}
    files = by_class(images, "train") | by_class(images, "val") | flat(images, "test", "test/") | broken
    write_files(root, files | {"words.txt": words()})


def make_ilsvrc(root: Path, images: list[Picture]) -> None:
    """ILSVRC-2012's archives. The ids of the development kit are not in the order of the classes."""
    wnids = list(CLASSES)
    ids = {wnid: (place + 2) % len(wnids) + 1 for place, wnid in enumerate(wnids)}
    rows = [(number, wnid, CLASSES[wnid], 0) for wnid, number in ids.items()] + [
        (len(ids) + 1, "n00001740", "entity", 3)
    ]
    fields = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object), ("num_children", object)]
    meta = io.BytesIO()
    savemat(meta, {"synsets": np.array(rows, fields)})
    val = sorted((image for image in images if image.split == "val"), key=lambda image: image.name)
    truth = "".join(f"{ids[image.wnid]}\n" for image in val).encode()
    data = "ILSVRC2012_devkit_t12/data"
    kit = {f"{data}/meta.mat": meta.getvalue(), f"{data}/ILSVRC2012_validation_ground_truth.txt": truth}
    files = {
        "ILSVRC2012_img_train.tar": tar(class_tars(images)),
        "ILSVRC2012_img_val.tar": tar(flat(images, "val")),
        "ILSVRC2012_img_test_v10102019.tar": tar(flat(images, "test", "test/")),
        "ILSVRC2012_devkit_t12.tar.gz": gzip.compress(tar(kit), mtime=0),
    }
    write_files(root, files)


def make_kaggle(root: Path, images: list[Picture]) -> None:
    inside = by_class(images, "train") | flat(images, "val", "val/") | flat(images, "test", "test/")
    solution = ["ImageId,PredictionString"]
    solution += [f"{Path(i.name).stem},{i.wnid} 1 2 30 40" for i in reversed(images) if i.split == "val"]
    mapping = "".join(f"{wnid} {name}\n" for wnid, name in CLASSES.items())
    beside = {"LOC_val_solution.csv": "\n".join([*solution, ""]).encode(), "LOC_synset_mapping.txt": mapping.encode()}
    write_files(root, {f"ILSVRC/Data/CLS-LOC/{name}": data for name, data in inside.items()} | beside)


def make_whole(root: Path, images: list[Picture]) -> None:
    """One tar that holds a tar a class; no splits."""
    write_files(root, {"fall11_whole.tar": tar(class_tars(images)), "words.txt": words()})


def make_parquet(root: Path, images: list[Picture]) -> None:
    """As ILSVRC/imagenet-1k: row groups of seven images, the wnid at the end of each name."""
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(CLASSES.values())}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    root.mkdir(parents=True)
    for split, file in {"train": "train", "val": "validation", "test": "test"}.items():
        part = sorted((image for image in images if image.split == split), key=lambda image: image.data)
        known = split != "test"
        paths = [f"{i.name[:-5]}{f'_{i.wnid}' * known}.JPEG" for i in part]
        rows = [{"bytes": image.data, "path": path} for image, path in zip(part, paths, strict=True)]
        column = pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
        labels = pa.array([image.label if known else UNLABELLED for image in part], pa.int64())
        table = pa.table({"image": column, "label": labels}).replace_schema_metadata(metadata)
        pq.write_table(table, root / f"{file}-00000-of-00001.parquet", row_group_size=7)


def make_webdataset(root: Path, images: list[Picture]) -> None:
    """Two tars of train, one of each other split."""
    for split in IMAGES:
        part = sorted((image for image in images if image.split == split), key=lambda image: image.data)
        halves = [part[::2], part[1::2]] if split == "train" else [part]
        for number, half in enumerate(halves):
            members: dict[str, bytes] = {}
            for image in half:
                members[f"{image.name[:-5]}.cls"] = str(UNLABELLED if split == "test" else image.label).encode()
                members[f"{image.name[:-5]}.jpg"] = image.data
            write_files(root, {f"imagenet1k-{split}-{number:04d}.tar": tar(members), "words.txt": words()})


TORCHVISION = {
    "features.0": (64, 3, 11, 11),
    "features.3": (192, 64, 5, 5),
    "features.6": (384, 192, 3, 3),
    "features.8": (256, 384, 3, 3),
    "features.10": (256, 256, 3, 3),
    "classifier.1": (4096, 9216),
    "classifier.4": (4096, 4096),
    "classifier.6": (len(CLASSES), 4096),
}
"""Shapes of the weights of its AlexNet; a bias has the first number."""


def torchvision_weights() -> dict[str, torch.Tensor]:
    """A state dict in torchvision's layout, of random weights."""
    random = Generator(Philox(key=1))
    state: dict[str, torch.Tensor] = {}
    for name, shape in TORCHVISION.items():
        state[f"{name}.weight"] = torch.from_numpy(0.02 * random.random(shape, np.float32) - np.float32(0.01))
        state[f"{name}.bias"] = torch.from_numpy(random.random(shape[0], np.float32))
    return state


LAYOUTS: dict[str, Callable[[Path, list[Picture]], None]] = {
    "folders": make_folders,
    "ilsvrc": make_ilsvrc,
    "kaggle": make_kaggle,
    "whole": make_whole,
    "parquet": make_parquet,
    "webdataset": make_webdataset,
}
