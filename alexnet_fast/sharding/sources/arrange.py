"""Which folders of a tree are splits, and which are classes.

Looked through: a folder that lies alone in another and holds the folders that matter, and `images/` inside a class
folder. What can be read in two ways is refused, naming both: `--layout classes` and `--layout splits` decide.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from alexnet_fast.errors import InputError
from alexnet_fast.sharding.keys import by_class
from alexnet_fast.sharding.left_out import BESIDE, LeftOut
from alexnet_fast.sharding.sources.splits import SPLITS, split_called
from alexnet_fast.sharding.sources.tree import Folder

IMAGE_FOLDERS = {"image", "images", "img", "imgs", "jpeg", "jpegs", "jpg", "jpegimages", "photos", "pictures"}
"""Names of folders, in lower case, that say what is in them, not of which class."""
FOLDERS, CLASSES, SPLIT_FOLDERS = "folders", "classes", "splits"
"""Layouts: to be decided here; all folders are classes; the folders of splits hold the classes."""


@dataclass
class Split:
    """A split's folder, looked through; its class folders by name, none where its images lie flat in `flat`."""

    folder: Folder
    classes: dict[str, Folder]
    flat: Folder | None


@dataclass
class Arrangement:
    """`base`: the folder that holds the splits or classes; `splits`: `train` first; `passed`: folders that were looked
    through to; `empty`: folders without files."""

    base: Folder
    splits: dict[str, Split]
    passed: list[str]
    empty: list[str] = field(default_factory=list)


def arrange(top: Folder, where: str, layout: str = FOLDERS) -> Arrangement:
    """Returns the splits and classes of a tree; `where`: its root, for messages. Raises InputError when there are none,
    or it can be read in two ways."""
    inner = _inside(top) if layout != CLASSES else top
    if layout == FOLDERS:
        _refuse_a_class(inner, _at(where, inner))
    folders = _split_folders(inner, _at(where, inner), layout)
    if not folders:
        folders = {"train": inner}
    elif "train" not in folders:
        first = next(iter(folders.values())).name
        at = _at(where, inner)
        raise InputError(
            f"{at} has {first}/ but no train/. Give the folder that holds both; or, to train on it, --src {at}/{first}."
        )
    result = Arrangement(inner, {}, [inner.path] if inner is not top else [])
    for split, folder in folders.items():
        through = _inside(folder, split) if layout != CLASSES else folder
        result.passed += [through.path] if through is not folder else []
        result.splits[split] = open_split(through, where, layout, result.empty)
    if layout == SPLIT_FOLDERS and folders["train"] is inner:
        raise InputError(f"{_at(where, inner)} has no folder train/. --layout classes takes its folders as classes.")
    return result


def count_unused(top: Folder, used: list[Folder], left_out: LeftOut) -> list[str]:
    """Counts the files of `top` that are in none of the `used` folders nor below; returns the names of whole folders
    that were passed over."""
    whole = {folder.path for folder in used}
    above = {path[:at] for path in whole for at, letter in enumerate(path) if letter == "/"} | {""}
    passed_over = []
    pending = [top]
    while pending:
        folder = pending.pop()
        if folder.path in whole:
            continue
        if folder.path in above:
            for name in folder.names():
                left_out.add(BESIDE, f"{folder.path}/{name}" if folder.path else name)
            pending += folder.folders.values()
        elif files := folder.count_below():
            left_out.add(BESIDE, f"{folder.path}/", files)
            passed_over.append(folder.path)
    return sorted(passed_over)


def _at(where: str, folder: Folder) -> str:
    return f"{where}/{folder.path}" if folder.path else where


def _inside(folder: Folder, split: str | None = None) -> Folder:
    """Looks through folders that lie alone in another; not through the folder of another split than `split`."""
    while True:
        inner = folder.inner()
        if (
            len(inner) != 1
            or folder.possible_images()
            or split_called(inner[0].name) not in (None, split)
            or inner[0].possible_images()
        ):
            return folder
        below = inner[0].inner()
        if not below or (len(below) == 1 and _is_image_folder(below[0])):  # a class with images/ in it
            return folder
        folder = inner[0]


def _is_image_folder(folder: Folder) -> bool:
    return folder.name.lower() in IMAGE_FOLDERS and bool(folder.possible_images()) and not folder.inner()


def _refuse_a_class(folder: Folder, at: str) -> None:
    """Refuses a folder that holds images itself beside folders of images."""
    inner = folder.inner()
    if folder.images() and inner:
        raise InputError(
            f"{at} can be read in two ways: it holds {folder.images():,} images itself, as a class folder does (then "
            f"give its parent), and the folders {_some(inner)}, as a folder of classes does (then --layout classes, "
            "which leaves those images out)."
        )


def _split_folders(folder: Folder, at: str, layout: str) -> dict[str, Folder]:
    """Returns the folders of splits by split, in order; none where there are none, or they are classes."""
    if layout == CLASSES:
        return {}
    inner = folder.inner()
    present = [f for _, f in sorted(folder.folders.items()) if split_called(f.name)]
    if all(split_called(f.name) != "train" for f in present):
        present = [f for f in present if f in inner]  # beside train/, one without images is an error of its own
    called = {split: [f for f in present if split_called(f.name) == split] for split in SPLITS}
    for split, found in called.items():
        if len(found) > 1:
            raise InputError(
                f"{at} can be read in two ways: {_some(found)} are all names of the split {split}. Move all but one "
                "away; or --layout classes takes them as classes."
            )
    named = {split: found[0] for split, found in called.items() if found}
    others = [f for f in inner if f not in named.values() and f.possible_images()]
    flat = all(f.possible_images() and not f.inner() for f in named.values())
    if named and others and layout == FOLDERS and (flat or "train" not in named):
        raise InputError(
            f"{at} can be read in two ways: {_some(named.values())} as classes beside {_some(others)} (--layout "
            "classes), or as splits beside folders that do not belong to the set (--layout splits)."
        )
    return named


def open_split(folder: Folder, where: str, layout: str, empty: list[str]) -> Split:
    """Returns the classes in a split's folder; adds the folders without files to `empty`. Raises InputError."""
    at = _at(where, folder)
    inner = folder.inner()
    empty += [f.path for _, f in sorted(folder.folders.items()) if not f.count_below()]
    if not inner and (folder.possible_images() or not folder.folders):
        return Split(folder, {}, folder)
    if len(inner) == 1 and _is_image_folder(inner[0]) and not folder.possible_images() and layout != CLASSES:
        return Split(folder, {}, inner[0])
    contents = ((found.name, _content(found) if layout != CLASSES else found) for found in inner)
    classes = by_class(at, contents)
    if layout == FOLDERS:
        is_split = any(map(split_called, folder.path.split("/")))
        _refuse_two_levels(list(classes.values()), inner, at, f"--layout {SPLIT_FOLDERS if is_split else CLASSES}")
    return Split(folder, classes, None)


def _content(folder: Folder) -> Folder:
    """Returns `images/` inside a class folder where that holds all its images, else the class folder."""
    inner = folder.inner()
    return inner[0] if len(inner) == 1 and _is_image_folder(inner[0]) and not folder.possible_images() else folder


def _refuse_two_levels(classes: list[Folder], inner: list[Folder], at: str, way: str) -> None:
    """`way`: the option that takes the folders for classes."""
    without = [folder for folder in classes if not folder.possible_images()]
    below = [f for folder in without for f in folder.inner()]
    if classes and len(without) == len(classes):
        names = {f.name for f in below}
        if {split_called(name) for name in names} & {"train"}:
            raise InputError(
                f"{at} holds {_some(inner)}, with folders of splits in them ({_some(below)}). Give one of them as "
                f"--src; or, where these are the classes, move the images to {at}/train/<class>/ and so on."
            )
        if len(names) * len(classes) == len(below) > len(names):
            raise InputError(
                f"{at} can be read in two ways: {_some(inner)} are splits, as the same folders lie in each (then call "
                f"them train, val or test), or classes with folders in them ({way})."
            )
        raise InputError(
            f"{at} can be read in two ways: the classes are {_some(inner)}, with folders in them ({way}); "
            f"or they are the {len(below):,} folders one level down, {_some(below)}: then give the one that holds them "
            "as --src, or move them all into one folder."
        )
    ambiguous = next((folder for folder in without if len(folder.inner()) > 1), None)
    if ambiguous:
        raise InputError(
            f"{at} can be read in two ways: {ambiguous.name} is a class, whose images lie in its folders "
            f"{_some(ambiguous.inner())} ({way}), or these are the classes (then move them to {at}/)."
        )
    misnamed = next((folder for folder in inner if _is_image_folder(folder)), None)
    if misnamed and len(inner) > 1:
        others = [folder for folder in inner if folder is not misnamed]
        raise InputError(
            f"{at} can be read in two ways: {misnamed.name}/ holds images that are in no class folders (then --labels "
            f"FILE, a table of file names and labels), or is a class like {_some(others)} (then {way})."
        )


def _some(folders: Iterable[Folder]) -> str:
    names = list(dict.fromkeys(folder.name for folder in folders))
    return ", ".join(names[:5]) + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")
