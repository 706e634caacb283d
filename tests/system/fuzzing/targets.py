"""Every kind of file that the program reads, whole, and what reads it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.torch import save

from alexnet_fast import native
from alexnet_fast.config import TrainConfig
from alexnet_fast.errors import InputError
from alexnet_fast.inference.evaluations import EVALUATIONS
from alexnet_fast.inference.predictions import challenge_ids
from alexnet_fast.interchange.caffemodel import read_mean
from alexnet_fast.interchange.imports import from_caffe, from_safetensors, from_torchvision, read_classes
from alexnet_fast.loading.cpu import CropReader
from alexnet_fast.report import page
from alexnet_fast.report.record import read_run as read_record
from alexnet_fast.sharding import decode
from alexnet_fast.sharding.output import open_output
from alexnet_fast.sharding.plan import Options, begin, jobs, make_plan
from alexnet_fast.sharding.reading import read_images
from alexnet_fast.sharding.selection import read_class_file
from alexnet_fast.sharding.sources import devkit, find_images
from alexnet_fast.sharding.sources.names import read_names
from alexnet_fast.sharding.tars import write_tar
from alexnet_fast.sharding.write import finish_shard_set, write_shard_set
from alexnet_fast.shards import verify
from alexnet_fast.shards.format import Pixels
from alexnet_fast.shards.reader import ShardSet
from alexnet_fast.shards.sidecars import side_files
from alexnet_fast.training import checkpoint
from tests.conftest import picture
from tests.interchange import test_import
from tests.report.conftest import evaluation
from tests.sharding.sources import layouts
from tests.system.fuzzing.harness import Target

SIDE = 16
CLASSES = [{"id": "a", "name": "one"}, {"id": "b", "name": "two"}]


# --- shard sets


class Here:
    """A pool without processes."""

    slots = 1
    killed: type[Exception] = ZeroDivisionError

    def submit(self, slot: int, function: Callable[[Any], Any], job: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(function(job))
        return future

    def renew(self, slot: int) -> None: ...

    def reported(self, slots: list[int]) -> int:
        return 0

    def close(self) -> None: ...


class Serial:
    """In place of a ProcessPoolExecutor."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __enter__(self) -> Serial:
        return self

    def __exit__(self, *_: object) -> None: ...

    def map(self, function: Callable[[Any], Any], jobs: Iterable[Any]) -> Iterator[Any]:
        return map(function, jobs)


def images(folder: Path) -> Path:
    for split, count in {"train": 3, "val": 1}.items():
        for label, name in enumerate(("a", "b")):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                Image.fromarray(picture(10 * label + number)).resize((20, 24)).save(
                    folder / split / name / f"{number}.jpg"
                )
    return folder


def shard_set(folder: Path, *, file: str, encoding: str = "jpeg") -> Path:
    source = find_images(images(folder / "images"))
    write_shard_set(source, open_output([str(folder / "set")]), Options(encoding, size=SIDE), Here)
    return folder / "set" / file


def unfinished_set(folder: Path, *, file: str) -> Path:
    source, output = find_images(images(folder / "images")), open_output([str(folder / "set")])
    plan = begin(make_plan(source, Options(size=SIDE)), output, lambda: 0.0)
    for job in jobs(source, plan, output, set(plan.tar_names())):
        write_tar(job)
    return folder / "set" / ".work" / file


def read_shards(path: Path) -> None:
    shards = ShardSet(path.parent)
    side_files(shards.manifest)
    for name in shards.manifest.splits:
        split = shards.split(name, labelled=False)
        samples = np.arange(len(split))
        split.intact(samples)
        split.read(samples)
        split.keys()


def verify_shards(path: Path) -> None:
    """It refuses a manifest alone; of anything else it says what is damaged."""
    setattr(verify, "ProcessPoolExecutor", Serial)  # noqa: B010
    verify.verify(path.parent, False, 1, lambda samples: None)


def finish_set(path: Path) -> None:
    again = path.parents[2] / "again"
    shutil.rmtree(again, ignore_errors=True)
    shutil.copytree(path.parents[1], again)
    finish_shard_set(open_output([str(again)]))


# --- sources


def source(folder: Path, *, file: str, files: Callable[[], dict[str, bytes]]) -> Path:
    layouts.write_files(folder / "source", files())
    return folder / "source" / file


def photos() -> dict[str, bytes]:
    names = [*layouts.TRAIN, *layouts.VAL_LABELS, *layouts.TEST_LABELS]
    return {name: layouts.jpeg(seed) for seed, name in enumerate(names)}


def tar_of_tars() -> dict[str, bytes]:
    inner = {name: data for name, data in layouts.class_tars(photos()).items() if name < "n02"}
    return {"fall11_whole.tar": layouts.tar(inner)}


def class_tars() -> dict[str, bytes]:
    return layouts.class_tars(photos())


def official_tars() -> dict[str, bytes]:
    found = photos()
    return {
        "train/n01440764.tar": class_tars()["n01440764.tar"],
        "ILSVRC2012_img_test.tar": layouts.tar(layouts.some(found, "_test_")),
    }


def webdataset() -> dict[str, bytes]:
    members: dict[str, bytes] = {}
    for number, data in enumerate(list(photos().values())[:4]):
        members |= {f"{number:04d}.jpg": data, f"{number:04d}.cls": b"%d" % (number % 2), f"{number:04d}.json": b"{}"}
    return {"train-0000.tar": layouts.tar(members)}


def kit() -> dict[str, bytes]:
    return layouts.devkit(2012)


def packed_kit() -> dict[str, bytes]:
    return {"ILSVRC2012_devkit_t12.tar": layouts.tar(kit())}


def kaggle(folder: Path, *, file: str) -> Path:
    return layouts.make_kaggle(folder / "source", photos()) / file


def parquet(folder: Path) -> Path:
    rows: list[tuple[bytes | None, str | None, int | None]] = [
        (photos()[name], f"{name[:-5]}_{name[:9]}.JPEG", number % 2) for number, name in enumerate(layouts.TRAIN[:4])
    ]
    path = folder / "source" / "train-0.parquet"
    path.parent.mkdir()
    pq.write_table(layouts.table(rows, ["a", "b"]), path, row_group_size=2)
    return path


def read_source(path: Path, *, root: str = "source") -> None:
    """As `shard` does, up to the bytes that it would store."""
    folder = next(parent for parent in path.parents if parent.name == root)
    found = find_images(folder)
    make_plan(found, Options()).to_json().encode()
    for listed in found.splits.values():
        for _, data in read_images(found.root, listed.take(np.arange(min(len(listed), 8)))):
            if not isinstance(data, OSError):
                with suppress(OSError, ValueError):  # an image that is left out
                    decode.convert(data, size=SIDE, encoding="jpeg", quality=90, keep=False)


def read_kit(path: Path) -> None:
    folder = next(parent for parent in path.parents if parent.name == "source")
    challenge_ids(folder, [{"id": wnid, "name": ""} for wnid in layouts.CLASSES])
    found = devkit.read(folder)
    if found and "val" in found.truth:
        found.labels("val", len(layouts.VAL_LABELS), layouts.CLASSES, folder)


def text(folder: Path, *, name: str, content: str) -> Path:
    (folder / name).write_text(content, encoding="utf-8")
    return folder / name


# --- images


def image(folder: Path, *, format: str, mode: str = "RGB", **how: Any) -> Path:
    path = folder / f"image.{format.lower()}"
    Image.fromarray(picture(1)).resize((40, 30)).convert(mode).save(path, format, **how)
    return path


def convert(path: Path) -> None:
    """Without and with a JPEG's decoded image in memory: the same square, or the same reason that there is none."""
    data = path.read_bytes()
    with patch.object(native, "decoder", lambda: "none"):
        expected = square_or_reason(data)
    found = square_or_reason(data)
    assert found == expected
    if isinstance(found, str):
        raise ValueError(found)


def square_or_reason(data: bytes) -> bytes | str:
    try:
        return decode.convert(data, size=SIDE, encoding="jpeg", quality=90, keep=False)[0].tobytes()
    except ValueError as error:
        return str(error)


def cut(path: Path) -> None:
    """As the loader does."""
    stored = np.frombuffer(path.read_bytes(), np.uint8)
    reader = CropReader(crop=24, threads=1, pinned=False)
    try:
        for box in ((9, 3, 24, 24), (3, 9, 30, 11)):
            boxes, sizes = np.array([box], np.uint16), np.full((1, 2), 40)
            reader.submit([stored], sizes, boxes, 0, torch.zeros(1, 3), torch.float32).result()
    finally:
        reader.close()


# --- runs and networks


def run_folder(folder: Path, *, file: str) -> Path:
    steps = [
        {"step": n, "epoch": n // 4, "loss": 2.0 - n / 9, "top1": 5.0 * n, "images_per_second": 90.0, "data_wait": 0.1,
         "peak_gib": 1.5, "damaged": 0, "time": f"2026-11-30T21:44:2{n}+00:00"} for n in range(1, 9)
    ]  # fmt: skip
    lines = [*steps, *({"epoch": n, "val_top1": 20.0 * n, "val_top5": 40.0 * n, "val_images": 18} for n in (1, 2))]
    bodies = {
        "config.json": json.dumps(TrainConfig(epochs=2, batch=16).as_dict()),
        "environment.json": json.dumps(
            {
                "began": "2026-11-30T21:44:25+00:00",
                "train_images": 60,
                "val_images": 18,
                "classes": 3,
                "packages": {"torch": "2"},
                "gpus": ["a", "b"],
                "command": ["a", "b c"],
                "cores": 2,
            }
        ),
        "log.jsonl": "".join(json.dumps(line) + "\n" for line in lines),
        EVALUATIONS: json.dumps(evaluation()) + "\n",
    }
    for name, body in bodies.items():
        (folder / name).write_text(body)
    return folder / file


def read_run(path: Path) -> None:
    """All of a page but its pictures."""
    record = read_record(path.parent)
    page.render(page.describe_run(record, []), [], [])
    page.render(page.compare_runs([record, record]), [], [])


def write_page(path: Path) -> None:
    page.write_report([path.parent], path.parent / "report.html")


def small_checkpoint(folder: Path) -> Path:
    model = {"features.conv1.weight": torch.randn(3, 3), "features.conv1.bias": torch.zeros(3)}
    state = {"model": model, "config": TrainConfig().as_dict(), "classes": CLASSES, "epoch": 1, "top1s": [1.0]}
    checkpoint.save(folder / "last.pt", state)
    return folder / "last.pt"


def load_checkpoint(path: Path) -> None:
    touch_all(checkpoint.load(path))


def touch_all(value: Any) -> None:
    """Reads every number: the file is mapped, not read."""
    if isinstance(value, torch.Tensor) and value.numel() < 2**20:
        value.sum() if value.is_floating_point() else value.numpy()
    elif isinstance(value, dict):
        touch_all(list(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            touch_all(part)


def state_dict(folder: Path) -> Path:
    weights = {"features.0.weight": torch.randn(2, 3), "classifier.1.weight": torch.randn(2, 2)}
    torch.save(weights, folder / "alexnet.pth")
    return folder / "alexnet.pth"


def caffemodel(folder: Path) -> Path:
    small = {name: (np.ones((2, 2), np.float32), np.ones(2, np.float32)) for name in test_import.SHAPES}
    (folder / "net.caffemodel").write_bytes(test_import.caffemodel(small))
    return folder / "net.caffemodel"


def old_caffemodel(folder: Path) -> Path:
    small = {name: (np.ones((2, 2), np.float32), np.ones(2, np.float32)) for name in test_import.SHAPES}
    (folder / "net.caffemodel").write_bytes(test_import.old_caffemodel(small))
    return folder / "net.caffemodel"


def binaryproto(folder: Path) -> Path:
    (folder / "mean.binaryproto").write_bytes(test_import.old_blob(np.ones((3, 4, 4), np.float32)))
    return folder / "mean.binaryproto"


def safetensors(folder: Path) -> Path:
    weights = {"features.conv1.weight": torch.randn(2, 2)}
    about = {
        "config": TrainConfig(hidden=2).as_dict(),
        "classes": CLASSES,
        "pixels": vars(Pixels([1.0] * 3, [[1.0] * 3] * 3, [1.0] * 3, [[1.0] * 3] * 3)),
        "size": 256,
    }
    (folder / "net.safetensors").write_bytes(save(weights, {key: json.dumps(value) for key, value in about.items()}))
    return folder / "net.safetensors"


def _targets() -> Iterator[Target]:
    def target(name: str, make: Any, read: Any, form: str = "binary", **more: Any) -> Target:
        return Target(name, make, read, form, **{"refusals": (InputError,), **more})

    for file, form in {
        "manifest.json": "json",
        "train.index.npy": "npy",
        "train-000000.tar": "tar",
        "train-000000.idx": "text",
    }.items():
        yield target(f"shard set: {file}", partial(shard_set, file=file), read_shards, form)
        yield target(f"verify: {file}", partial(shard_set, file=file), verify_shards, form)
    yield target(
        "verify: tar of raw", partial(shard_set, file="train-000000.tar", encoding="raw"), verify_shards, "tar"
    )
    for file in ("plan.json", "train-000000.tar.json"):
        yield target(f"unfinished set: {file}", partial(unfinished_set, file=file), finish_set)
    for name, file, files in (
        ("tar of tars", "fall11_whole.tar", tar_of_tars),
        ("tar a class", "n01440764.tar", class_tars),
        ("official test tar", "ILSVRC2012_img_test.tar", official_tars),
        ("WebDataset of others", "train-0000.tar", webdataset),
    ):
        yield target(f"source: {name}", partial(source, file=file, files=files), read_source, "tar")
    yield target("source: parquet", parquet, read_source, "parquet")
    yield target("source: Kaggle's csv", partial(kaggle, file="LOC_val_solution.csv"), read_source, "text")
    yield target("source: Kaggle's names", partial(kaggle, file="LOC_synset_mapping.txt"), read_source, "text")
    for file, form in {"meta.mat": "mat", "ILSVRC2012_validation_ground_truth.txt": "text"}.items():
        path = f"ILSVRC2012_devkit_t12/data/{file}"
        yield target(f"devkit: {file}", partial(source, file=path, files=kit), read_kit, form)
    yield target(
        "devkit: archive", partial(source, file="ILSVRC2012_devkit_t12.tar", files=packed_kit), read_kit, "tar"
    )
    words = "n01440764 tench, Tinca tinca\nn01484850 great white shark\n"
    yield target("words.txt", partial(text, name="words.txt", content=words.replace(" ", "\t")), names_of, "text")
    yield target("--classes of shard", partial(text, name="classes.txt", content=words), read_class_file, "text")
    yield target("--classes of import", partial(text, name="classes.txt", content=words), read_classes, "text")
    photograph = partial(Target, read=convert, form="binary", refusals=(ValueError,), gibibytes=4)
    for format in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF"):
        yield photograph(f"image: {format}", partial(image, format=format))
    yield photograph("image: JPEG, progressive", partial(image, format="JPEG", progressive=True))
    yield photograph("image: JPEG, grey", partial(image, format="JPEG", mode="L"))
    yield photograph("image: JPEG, CMYK", partial(image, format="JPEG", mode="CMYK"))
    yield photograph("image: TIFF, LZW", partial(image, format="TIFF", compression="tiff_lzw"))
    for progressive in (False, True) if native.decoder() != "none" else ():
        how = partial(image, format="JPEG", progressive=progressive)
        yield photograph(f"stored JPEG{', progressive' * progressive}", how, read=cut)
    of_run = {"config.json": "json", "environment.json": "json", "log.jsonl": "json lines", EVALUATIONS: "json lines"}
    for file, form in of_run.items():
        yield target(f"run: {file}", partial(run_folder, file=file), read_run, form)
        yield target(f"page: {file}", partial(run_folder, file=file), write_page, form, every=50)
    yield target("checkpoint", small_checkpoint, load_checkpoint, "zip")
    yield target("import: .pth", state_dict, partial(import_from, from_torchvision), "zip")
    yield target("import: .caffemodel", caffemodel, partial(import_from, from_caffe))
    yield target("import: .caffemodel of 2013", old_caffemodel, partial(import_from, from_caffe))
    yield target("import: .binaryproto", binaryproto, read_mean)
    yield target("import: .safetensors", safetensors, partial(import_from, from_safetensors), "safetensors")


def names_of(path: Path) -> None:
    read_names(path.parent)


def import_from(read: Callable[..., object], path: Path) -> None:
    read(path, CLASSES, None)


TARGETS = {target.name: target for target in _targets()}
