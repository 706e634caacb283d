"""Where images come from: class folders, with or without `train/` and `val/`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from alexnet_fast.errors import InputError

SPLITS = ("train", "val")


@dataclass(frozen=True)
class Image:
    """One image file. `key` names its sample in the tars: no dots, no spaces, unique in its split."""

    path: str
    label: int
    key: str


@dataclass(frozen=True)
class Source:
    """`classes` are folder names in sorted order (the class index everybody uses); `splits` maps name to images."""

    classes: list[str]
    splits: dict[str, list[Image]]


def find_images(src: Path) -> Source:
    """Lists `src/train/<class>/*` and `src/val/<class>/*`, or `src/<class>/*` as one split `train`.

    Every file that is not hidden, nor in a hidden folder, counts as an image: its content decides later. The
    listing is sorted, so it does not depend on the file system. Raises InputError when there is nothing to shard
    or the classes do not agree.
    """
    if not src.exists():
        raise InputError(f"{src} does not exist. --src takes a folder of class folders, or of train/ and val/.")
    if not src.is_dir():
        raise InputError(f"{src} is a file. --src takes a folder of class folders, or of train/ and val/.")
    present = [name for name in SPLITS if (src / name).is_dir()]
    if present == ["val"]:
        raise InputError(f"{src} has val/ but no train/. Name the folder that holds both.")
    folders = {name: src / name for name in present} or {"train": src}
    classes = _subfolders(folders["train"])
    if not classes:
        raise InputError(
            f"{folders['train']} holds no class folders. Expected {folders['train']}/<class>/<image files>."
        )
    for folder in folders.values():
        unknown = sorted(set(_subfolders(folder)) - set(classes))
        if unknown:
            raise InputError(
                f"{folder} has class folders that train/ lacks: {', '.join(unknown[:5])}. Name them alike."
            )
        if not _subfolders(folder):
            raise InputError(f"{folder} holds no class folders. Sort its images into {folder}/<class>/.")
    splits = {name: _images(folder, classes) for name, folder in folders.items()}
    for name, images in splits.items():
        if not images:
            raise InputError(
                f"the class folders of {folders[name]} hold no files. Put images in {folders[name]}/<class>/."
            )
    return Source(classes, splits)


def _subfolders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _images(folder: Path, classes: list[str]) -> list[Image]:
    images: list[Image] = []
    used: set[str] = set()
    for label, name in enumerate(classes):
        if not (folder / name).is_dir():
            continue
        for path in sorted(path for path in (folder / name).rglob("*") if path.is_file()):
            inside = path.relative_to(folder / name)
            if any(part.startswith(".") for part in inside.parts):  # .DS_Store, .ipynb_checkpoints/x.jpg
                continue
            key = _safe(name) + "/" + _safe(inside.with_suffix("").as_posix())
            if key in used or len(key) > 90:
                key = f"{_safe(name)[:60]}/sample-{len(images):08d}"
            while key in used:  # a file has that very name
                key += "_"
            used.add(key)
            images.append(Image(str(path), label, key))
    return images


def _safe(name: str) -> str:
    """What every reader of tars takes: webdataset ends a key at the first dot, DALI's index at a space."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)
