"""ILSVRC-2012 and ILSVRC-2010 as they are handed out: tars of tars, flat validation images, a development kit.

`train`: `ILSVRC2012_img_train.tar` or `ILSVRC2010_images_train.tar`, tars of `<wnid>.tar`; or those inner tars, or
class folders, in `train/`. `val` and `test`: the tars, or folders, of images without classes, which the development
kit labels; nobody published the labels of 2012's test set. 2010's `patch_images.tar` holds replacements for
images of all three splits (mila-iqia/fuel:fuel/converters/ilsvrc2010.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from alexnet_fast.errors import InputError
from alexnet_fast.sharding import archives
from alexnet_fast.sharding.left_out import BESIDE, LeftOut
from alexnet_fast.sharding.listing import Entry, Images, Source
from alexnet_fast.sharding.sources import devkit, folders
from alexnet_fast.sharding.sources.names import read_names
from alexnet_fast.sharding.sources.splits import WNID, list_classes, list_labelled
from alexnet_fast.sharding.sources.tree import count_others
from alexnet_fast.shards.format import UNLABELLED, file_digest

ARCHIVES = {
    "train": ("ILSVRC2012_img_train.tar", "ILSVRC2010_images_train.tar"),
    "val": ("ILSVRC2012_img_val.tar", "ILSVRC2010_images_val.tar"),
    "test": ("ILSVRC2012_img_test*.tar", "ILSVRC2010_images_test.tar"),
}
PATCH = "patch_images.tar"
REPLACED = f"replaced by those in {PATCH}"
"""Kind of what is left out."""
MD5 = {  # pytorch/vision:torchvision/datasets/imagenet.py
    "ILSVRC2012_img_train.tar": "1d675b47d978889d74fa0da5fadfb00e",
    "ILSVRC2012_img_val.tar": "29b22e2961454d5413ddabcf34fc5622",
    "ILSVRC2012_devkit_t12.tar.gz": "fa75699e90414af021442c21a62c3abf",
}

Classes = dict[str, Callable[[], list[Entry]]]


def fits(src: Path) -> bool:
    if not src.is_dir():
        return False
    if any(_archive(src, split) for split in ARCHIVES):
        return True
    flat = (src / "val").is_dir() and not folders.subfolders(src / "val")
    if _class_tars(src):
        return (src / "val").is_dir() or devkit.find(src) is not None
    return flat and (src / "train").is_dir() and (devkit.find(src) is not None or _official(src / "val"))


def read(src: Path) -> Source:
    """Raises InputError when the training images or the development kit are missing, or they do not agree."""
    if not src.is_dir():
        raise InputError(f"{src} is a file. This layout takes the folder of the official archives.")
    kit = devkit.read(src)
    left_out = LeftOut()
    found = _train(src, left_out)
    if not found:
        raise InputError(
            f"{src} has no training images of ILSVRC. Put {ARCHIVES['train'][0]} there, or class folders in train/."
        )
    classes = sorted(found)
    patches = _Patches(src, left_out)
    replaced = {name: partial(patches.patched, "train", find) for name, find in found.items()}
    splits = {"train": list_classes(src, replaced)}
    for split in ("val", "test"):
        images = _flat_split(src, split, classes, kit, patches, left_out)
        if images is not None:
            splits[split] = images
    patches.count_unused()
    return Source(src, classes, splits, kit.names if kit else read_names(src), left_out)


def check_md5(src: Path) -> list[str]:
    """Compares the archives in `src` with the published sums; returns the names of those checked.

    Raises InputError when one differs, or there is none to check.
    """
    present = [name for name in MD5 if (src / name).is_file()]
    if not present:
        raise InputError(f"{src} has no archive whose MD5 sum is published. These have one: {', '.join(MD5)}.")
    for name in present:
        found = file_digest(src / name, "md5")
        if found != MD5[name]:
            raise InputError(
                f"{src / name} is damaged: its MD5 sum is {found}, not the published {MD5[name]}. Download it again."
            )
    return present


def _archive(src: Path, split: str) -> Path | None:
    found = sorted(path for pattern in ARCHIVES[split] for path in src.glob(pattern))
    if len(found) > 1:
        raise InputError(
            f"{src} has both {found[0].name} and {found[1].name}. Move one away: {split} comes from one archive."
        )
    return found[0] if found else None


def _class_tars(src: Path) -> list[Path]:
    """`<wnid>.tar` files in train/, or else in `src`."""
    places = [folder for folder in (src / "train", src) if folder.is_dir()]
    named = ([path for path in archives.tars(place) if WNID.fullmatch(archives.stem(path.name))] for place in places)
    return next((found for found in named if found), [])


def _official(folder: Path) -> bool:
    with os.scandir(folder) as inside:
        return any(entry.name.startswith(("ILSVRC2012_val_", "ILSVRC2010_val_")) for entry in inside)


def _train(src: Path, left_out: LeftOut) -> Classes:
    archive = _archive(src, "train")
    if archive:
        return archives.inner_tars(archive, src, left_out)
    tars = _class_tars(src)
    if tars:
        if tars[0].parent != src:
            count_others(src, "train", (path.name for path in tars), left_out)
        return archives.class_tars(tars, src, left_out)
    train = src / "train"
    if not train.is_dir():
        return {}
    classes = folders.subfolders(train)
    count_others(src, "train", classes, left_out)
    return {name: partial(_files, src, left_out, f"train/{name}") for name in classes}


def _files(src: Path, left_out: LeftOut, folder: str) -> list[Entry]:
    return [Entry(folder, name) for name in folders.files(src / folder, left_out)]


def _flat_split(
    src: Path, split: str, classes: list[str], kit: devkit.Devkit | None, patches: _Patches, left_out: LeftOut
) -> Images | None:
    archive, folder = _archive(src, split), src / split
    if folder.is_dir() and folders.subfolders(folder) and not (archive and kit):
        return folders.split(src, split, classes, left_out)
    if not archive and not folder.is_dir():
        return None
    find = partial(archives.entries, archive, src, left_out) if archive else partial(_files, src, left_out, split)
    entries = sorted(patches.patched(split, find), key=lambda entry: entry.name)
    if not entries:
        raise InputError(f"{archive or folder} holds no images. Copy or download it again.")
    if kit and split in kit.truth:
        return list_labelled(classes, entries, kit.labels(split, len(entries), classes, archive or folder))
    if split == "val":
        raise InputError(
            f"{archive or folder} does not say its images' classes, and the development kit that does is missing. "
            f"Put {devkit.KITS[0]}.tar.gz, or for 2010 {devkit.KITS[1]}.tar.gz, in {src}."
        )
    return list_labelled(classes, entries, [UNLABELLED] * len(entries))


class _Patches:
    """The members of patch_images.tar by split and file name, which are called `.../<split>/<file>`."""

    def __init__(self, src: Path, left_out: LeftOut) -> None:
        self._left_out = left_out
        self._entries: dict[tuple[str, str], Entry] = {}
        for member in archives.members(src / PATCH, left_out=left_out) if (src / PATCH).is_file() else ():
            split = member.path.split("/")[-2:-1]
            if split:
                entry = Entry(PATCH, member.name, member.offset, member.size)
                self._entries[split[0], member.name] = entry
            else:
                left_out.add(BESIDE, f"{PATCH}/{member.path}")

    def patched(self, split: str, find: Callable[[], Iterable[Entry]]) -> list[Entry]:
        """Returns the images of a split, or of a class in it, each that has a patch in its place."""
        found = []
        for entry in find():
            patch = self._entries.pop((split, entry.name.rpartition("/")[2]), None)
            if patch:
                self._left_out.add(REPLACED, f"{entry.file}/{entry.name}")
            found.append(patch or entry)
        return found

    def count_unused(self) -> None:
        """Counts the patches whose images are not there."""
        for split, name in self._entries:
            self._left_out.add(BESIDE, f"{PATCH}/{split}/{name}")
