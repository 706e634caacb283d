"""ImageNet's own releases drawn at random, in the forms that people have them in: for the tests of counts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from tests.sharding.sources.layouts import CLASSES, IDS, devkit, jpeg, numbers, tar, write_files
from tests.sharding.sources.trees import Drawn

Files = dict[str, bytes]
IN_TARS = ("._1.JPEG", ".DS_Store", "__MACOSX/._2.JPEG")
ON_DISK = ("Thumbs.db", ".git/config", "readme.md", "old/1.JPEG", "old/more/2.JPEG")
BAD = b"no image available"


class Release:
    """What is drawn, and the random numbers that it is drawn with."""

    def __init__(self, drawn: Drawn, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        drawn.files, drawn.images, drawn.left_out, drawn.bad, drawn.empty = {}, {}, Counter(), 0, []
        self.drawn = drawn

    def one_of(self, *ways: str) -> str:
        return str(self.random.choice(ways))

    def images(self, split: str, label: str | None, names: list[str]) -> Files:
        """Returns files, some of which are no images; `label`: of all, where they are counted here."""
        counts = self.drawn.images.setdefault(split, Counter())
        found = {}
        for name in names:
            is_bad = self.random.random() < 0.1
            found[name] = BAD if is_bad else jpeg(int(self.random.integers(1 << 30)))
            self.drawn.bad += is_bad
            counts[label or ""] += label is not None
        if label is None:
            del counts[""]
        return found

    def train(self) -> dict[str, Files]:
        return {
            wnid: self.images("train", wnid, [f"{wnid}_{n}.JPEG" for n in range(self.random.integers(1, 5))])
            for wnid in CLASSES
        }

    def flat(self, split: str) -> tuple[Files, list[str]]:
        """Returns the images of a split without class folders, and the class of each."""
        names = [f"ILSVRC2012_{split}_{n:08d}.JPEG" for n in range(1, int(self.random.integers(3, 9)))]
        classes = [self.one_of(*CLASSES) for _ in names]
        found = self.images(split, None, names)
        self.drawn.images[split] = Counter(classes)
        return found, classes

    def with_junk(self, files: Files, names: tuple[str, ...], folder: str = "") -> Files:
        """Returns the files and some that are none of the release's; what is in `folder` counts, of the tar or disk."""
        for name in names:
            if self.random.random() < 0.2:
                files = {f"{folder}{name}": b"junk"} | files
                is_system = name not in ("readme.md", "old/1.JPEG", "old/more/2.JPEG")
                self.drawn.left_out["system files" if is_system else "beside the images"] += 1
        return files

    def tar(self, files: Files) -> bytes:
        return tar(self.with_junk(files, IN_TARS))


def write_ilsvrc(root: Path, drawn: Drawn, seed: int) -> Path:
    """ILSVRC-2012: the official archives, or what people unpacked of them; sometimes with 2010's patches."""
    release = Release(drawn, seed)
    train, (val, val_classes) = release.train(), release.flat("val")
    way = release.one_of("one tar", "class tars", "class folders")
    files: Files = {}
    patches = _patches(release, train) if release.random.random() < 0.5 else {}
    if way == "one tar":
        inner = {f"{wnid}.tar": release.tar(images) for wnid, images in train.items()}
        files["ILSVRC2012_img_train.tar"] = release.tar(inner)
    elif way == "class tars":
        files |= release.with_junk(
            {f"train/{wnid}.tar": release.tar(images) for wnid, images in train.items()}, ON_DISK, "train/"
        )
    else:
        inside = {f"train/{wnid}/{name}": data for wnid, images in train.items() for name, data in images.items()}
        files |= release.with_junk(inside, ("Thumbs.db", ".git/config", "readme.md"), "train/")
        files = release.with_junk(files, ("Thumbs.db", ".git/config"), f"train/{CLASSES[0]}/")
    files |= _flat(release, "val", val)
    if release.random.random() < 0.5:
        test, _ = release.flat("test")
        drawn.images["test"] = Counter({"": len(test)})
        files |= _flat(release, "test", test)
    kit = devkit(2012)
    number = {wnid: identity for identity, wnid in IDS.items()}
    kit["ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"] = numbers([number[c] for c in val_classes])
    drawn.left_out["beside the images"] += len(kit)
    return write_files(root / "source", release.with_junk(files | kit | patches, ON_DISK))


def _flat(release: Release, split: str, images: Files) -> Files:
    if release.random.random() < 0.5:
        return {f"ILSVRC2012_img_{split}.tar": release.tar(images)}
    inside = {f"{split}/{name}": data for name, data in images.items()}
    return release.with_junk(inside, ("Thumbs.db", ".git/config"), f"{split}/")


def _patches(release: Release, train: dict[str, Files]) -> Files:
    """Returns the tar of patches: of some images that are there, and of one that is not."""
    members: Files = {}
    for images in train.values():
        for name in images:
            if release.random.random() < 0.2:
                release.drawn.bad -= images[name] == BAD
                members[f"patch_images/train/{name}"] = jpeg(1)
                release.drawn.left_out["replaced by those in patch_images.tar"] += 1
    members["patch_images/train/n00000000_1.JPEG"] = members["note.JPEG"] = b""
    release.drawn.left_out["beside the images"] += 2
    return {"patch_images.tar": release.tar(members)}


def write_kaggle(root: Path, drawn: Drawn, seed: int) -> Path:
    """Kaggle's folders, with the folder above or without, their val/ flat or sorted."""
    release = Release(drawn, seed)
    train, (val, val_classes) = release.train(), release.flat("val")
    data = "ILSVRC/Data/CLS-LOC/"
    files = {
        f"{data}train/{wnid}/{name}": content for wnid, images in train.items() for name, content in images.items()
    }
    files = release.with_junk(files, ("Thumbs.db", ".git/config", "readme.md"), f"{data}train/")
    sorted_already = release.random.random() < 0.4
    for (name, content), wnid in zip(val.items(), val_classes, strict=True):
        files[f"{data}val/{wnid}/{name}" if sorted_already else f"{data}val/{name}"] = content
    files = release.with_junk(files, ("Thumbs.db", ".git/config"), f"{data}val/")
    if release.random.random() < 0.5:
        test, _ = release.flat("test")
        drawn.images["test"] = Counter({"": len(test)})
        files |= {f"{data}test/{name}": content for name, content in test.items()}
    rows = "".join(f"{Path(name).stem},{wnid} 1 2 3 4\n" for name, wnid in zip(val, val_classes, strict=True))
    beside = {
        "LOC_val_solution.csv": f"ImageId,PredictionString\n{rows}".encode(),
        "LOC_synset_mapping.txt": "".join(f"{wnid} x\n" for wnid in CLASSES).encode(),
        "ILSVRC/Annotations/CLS-LOC/val/1.xml": b"<x/>",
        "ILSVRC/ImageSets/CLS-LOC/val.txt": b"1 1\n",
    }
    drawn.left_out["beside the images"] += len(beside)
    files = release.with_junk(files, ON_DISK, data)
    return write_files(root / "source", release.with_junk(files | beside, ON_DISK))


def write_whole(root: Path, drawn: Drawn, seed: int) -> Path:
    """A release without splits: one tar a class, or a tar of those; returns the folder, or the tar itself."""
    release = Release(drawn, seed)
    tars = {f"{wnid}.tar": release.tar(images) for wnid, images in release.train().items()}
    way = release.one_of("tars", "in a folder", "one tar", "the tar itself")
    if way in ("one tar", "the tar itself"):
        members = {**tars, "readme.md": b"x"}
        drawn.left_out["beside the images"] += 1
        tars = {"fall11_whole.tar": release.tar(members)}
    folder = "tars/" if way == "in a folder" else ""
    files = {f"{folder}{name}": data for name, data in tars.items()}
    if way == "the tar itself":
        return write_files(root / "source", files | {"of another set.jpg": b"x"}) / "fall11_whole.tar"
    names = tuple(name for name in ON_DISK if "/1." not in name and "/2." not in name)
    files = release.with_junk(files, names, folder)
    return write_files(root / "source", release.with_junk(files, ("Thumbs.db",)) if folder else files)
