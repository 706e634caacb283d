"""Sources drawn at random, with what each file of them must become: for the tests of counts."""

from __future__ import annotations

import io
import os
import tarfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from tests.sharding.sources.layouts import jpeg, table, tar

SPLIT_NAMES = {"train": ("train", "Training"), "val": ("val", "valid", "Validation"), "test": ("test", "Testing")}
JUNK = {
    "system files": (".DS_Store", "._1.jpg", "Thumbs.db", "desktop.ini", "__MACOSX/a/._2.jpg", ".git/x/y"),
    "thumbnails": (".thumbnails/1.jpg", "thumbnails/2.jpg"),
}
JUNK["system files"] += ("@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg", ".ipynb_checkpoints/1.jpg")


@dataclass
class Drawn:
    """`images`: by split and class, how many files must be listed, `bad` of which are no images; `left_out`: others."""

    files: dict[str, bytes] = field(default_factory=dict)
    images: dict[str, Counter[str]] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    bad: int = 0
    empty: list[str] = field(default_factory=list)


def draw(seed: int) -> Drawn:
    """A tree of class folders: with splits or without, in a wrapper or not, with junk, nested folders, files that are
    no images, and folders without files. Paths are as below the source's folder."""
    random = np.random.default_rng(seed)
    drawn = Drawn()
    splits = ["train", *(s for s in ("val", "test") if random.random() < 0.5)] if random.random() < 0.6 else [""]
    root = "wrapper/inner/" if random.random() < 0.3 else ""
    classes = [f"{letter} class" for letter in "abcd"[: random.integers(2, 5)]]
    in_images = random.random() < 0.3
    for split in splits:
        folder = root + (f"{random.choice(SPLIT_NAMES[split])}/" if split else "")
        counts = drawn.images.setdefault(split or "train", Counter())
        for name in classes:
            inside = f"{folder}{name}/images/" if in_images else f"{folder}{name}/"
            for number in range(random.integers(1, 5)):
                nested = "" if in_images or number == 0 else str(random.choice(["", "", "more/", "more/still/"]))
                is_bad = number > 0 and random.random() < 0.1
                drawn.files[f"{inside}{nested}{number}.jpg"] = b"no image" if is_bad else jpeg(len(drawn.files))
                drawn.bad += is_bad
                counts[name] += 1
            _add_junk(drawn, inside, random)
            if in_images and random.random() < 0.5:
                drawn.files[f"{folder}{name}/boxes.txt"] = b"1.jpg 0 0 5 5\n"
                drawn.left_out["beside the images"] += 1
    _add_junk(drawn, root, random)
    for path in ("notes.txt", "labels/a class.xml", "labels/more/b.xml"):
        if random.random() < 0.5:
            drawn.files[root + path] = b"<x/>"
            drawn.left_out["beside the images"] += 1
    if random.random() < 0.5:
        drawn.empty.append(f"{root}{'train/' if splits[0] else ''}empty class")
        if splits[0] and not any(path.startswith(f"{root}train/") for path in drawn.files):
            drawn.empty.clear()
    return drawn


def _add_junk(drawn: Drawn, folder: str, random: np.random.Generator) -> None:
    for kind, paths in JUNK.items():
        for path in paths:
            if random.random() < 0.15:
                drawn.files[folder + path] = b"junk"
                drawn.left_out[kind] += 1


def write_folders(root: Path, drawn: Drawn, seed: int) -> Path:
    """On disk, with links: to a folder that was not there otherwise, to a parent, to nowhere, and a pipe."""
    random = np.random.default_rng(seed)
    src = root / "source"
    for path in drawn.empty:
        (src / path).mkdir(parents=True)
    for path, data in drawn.files.items():
        (src / path).parent.mkdir(parents=True, exist_ok=True)
        (src / path).write_bytes(data)
    counts = next(iter(drawn.images.values()))
    name = next(iter(counts))
    first = next(path for path in drawn.files if f"{name}/" in path and path.endswith("/0.jpg"))
    folder = (src / first).parent
    if folder.name != "images" and random.random() < 0.5:
        (root / "elsewhere").mkdir()
        for number in range(3):
            (root / "elsewhere" / f"{number}.jpg").write_bytes(jpeg(900 + number))
        (folder / "linked").symlink_to(root / "elsewhere")
        counts[name] += 3
    if folder.name != "images" and random.random() < 0.5:
        (folder / "loop").symlink_to("..")
        drawn.left_out["links not followed"] += 1
    if random.random() < 0.5:
        (folder / "nowhere.jpg").symlink_to("gone.jpg")
        counts[name] += 1
        drawn.bad += 1
    if random.random() < 0.5:
        os.mkfifo(folder / "pipe")
        drawn.left_out["pipes, sockets and devices"] += 1
    return src


def write_one_tar(root: Path, drawn: Drawn, seed: int) -> Path:
    """All in one tar, with a hard link, a symbolic one and one to nowhere."""
    random = np.random.default_rng(seed)
    (root / "source").mkdir()
    with tarfile.open(root / "source" / "dataset.tar", "w") as archive:
        add_files(archive, dict(sorted(drawn.files.items(), key=lambda item: "/" not in item[0])))
        counts = next(iter(drawn.images.values()))
        name = next(iter(counts))
        first = next(path for path in drawn.files if f"{name}/" in path and path.endswith("/0.jpg"))
        folder = first.rpartition("/")[0]
        for kind, link, target in (
            (tarfile.LNKTYPE, "hard.jpg", first),
            (tarfile.SYMTYPE, "soft.jpg", "0.jpg"),
            (tarfile.SYMTYPE, "far.jpg", "../../../../../etc/passwd"),
        ):
            if random.random() < 0.6:
                info = tarfile.TarInfo(f"{folder}/{link}")
                info.type, info.linkname = kind, target
                archive.addfile(info)
                counts[name] += link != "far.jpg"
                drawn.left_out["links not followed"] += link == "far.jpg"
    return root / "source"


def write_class_tars(root: Path, drawn: Drawn) -> Path:
    """A tar a class, of the training images; what lies in no class folder is dropped from the drawing."""
    src = root / "source"
    src.mkdir()
    classes: dict[str, dict[str, bytes]] = {}
    random = np.random.default_rng(len(drawn.files))
    result = Drawn(images={"train": Counter()})
    for number in range(3):
        name = f"n{number:08d}"
        members = {f"{name}_{i}.JPEG": jpeg(10 * number + i) for i in range(random.integers(1, 4))}
        result.images["train"][name] = len(members)
        result.files.update({f"{name}/{path}": data for path, data in members.items()})
        if random.random() < 0.5:
            members["._1.jpg"] = b"junk"
            result.left_out["system files"] += 1
        classes[name] = members
    if random.random() < 0.5:
        (src / "readme.md").write_text("x")
        result.left_out["beside the images"] += 1
    for name, members in classes.items():
        (src / f"{name}.tar").write_bytes(tar(members))
    drawn.files, drawn.images, drawn.left_out, drawn.bad, drawn.empty = (
        result.files,
        result.images,
        result.left_out,
        0,
        [],
    )
    return src


def write_table(root: Path, drawn: Drawn, seed: int) -> Path:
    """Flat images and a table of most of them; returns the folder."""
    random = np.random.default_rng(seed)
    src = root / "source"
    (src / "images").mkdir(parents=True)
    rows, counts = ["file,label"], Counter[str]()
    drawn.left_out, drawn.bad, drawn.empty, drawn.files = Counter({"beside the images": 1}), 0, [], {}
    for number in range(random.integers(5, 12)):
        (src / "images" / f"{number}.jpg").write_bytes(jpeg(number))
        if number < 2 or random.random() < 0.8:
            name = "ab"[number % 2]
            rows.append(f"{number}.jpg,{name}")
            counts[name] += 1
        else:
            drawn.left_out["not in the table"] += 1
    (src / "labels.csv").write_text("\n".join(rows))
    drawn.images = {"train": counts}
    return src


def write_webdataset(root: Path, drawn: Drawn, seed: int) -> Path:
    """A tar a split, with members that are no images, some of no sample; returns the folder."""
    random = np.random.default_rng(seed)
    src = root / "source"
    src.mkdir()
    drawn.left_out, drawn.bad, drawn.empty, drawn.files = Counter(), 0, [], {}
    for split in drawn.images:
        members: dict[str, bytes] = {}
        counts = drawn.images[split] = Counter[str]()
        for number in range(random.integers(2, 9)):
            label = str(number % 2)
            is_bad = number > 1 and random.random() < 0.1
            members |= {f"{number}.jpg": b"no image" if is_bad else jpeg(number), f"{number}.cls": label.encode()}
            drawn.bad += is_bad
            counts[label] += 1
            drawn.left_out["labels and other members of samples"] += 1
            if random.random() < 0.3:
                members[f"{number}.json"] = b"{}"
                drawn.left_out["labels and other members of samples"] += 1
        for name in ("._0.jpg", "LICENSE", "__x.txt"):
            if random.random() < 0.5:
                members[name] = b"x"
                drawn.left_out["system files" if name.startswith(".") else "beside the images"] += 1
        (src / f"{split}-0.tar").write_bytes(tar(members))
    for name in (".gitattributes", "readme.md"):
        if random.random() < 0.5:
            (src / name).write_text("x")
            drawn.left_out["system files" if name.startswith(".") else "beside the images"] += 1
    return src


def write_parquet(root: Path, drawn: Drawn, seed: int) -> Path:
    """A table a split in `data/`, rows without an image among them; returns the folder."""
    random = np.random.default_rng(seed)
    src = root / "source"
    (src / "data").mkdir(parents=True)
    drawn.left_out, drawn.bad, drawn.empty, drawn.files = Counter(), 0, [], {}
    for split in drawn.images:
        bad = [number > 1 and random.random() < 0.2 for number in range(random.integers(2, 9))]
        rows: list[tuple[bytes | None, str | None, int | None]] = [
            (None if is_bad else jpeg(number), f"{number}.jpg", number % 2) for number, is_bad in enumerate(bad)
        ]
        pq.write_table(table(rows), src / "data" / f"{split}-0.parquet", row_group_size=3)
        drawn.bad += sum(bad)
        drawn.images[split] = Counter(str(label) for *_, label in rows)
    for path in (".gitattributes", "readme.md", "data/readme.md", "more/still/notes.txt"):
        if random.random() < 0.5:
            (src / path).parent.mkdir(parents=True, exist_ok=True)
            (src / path).write_text("x")
            drawn.left_out["system files" if path.startswith(".") else "beside the images"] += 1
    return src


def add_files(archive: tarfile.TarFile, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        info = tarfile.TarInfo(f"./{name}")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
