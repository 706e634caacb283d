"""The ids of classes, and the keys of samples: `<class>/<file>`, names that every reader of WebDataset takes."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable
from typing import TypeVar

from alexnet_fast.errors import InputError

T = TypeVar("T")

LONGEST = 90
"""A longer key is replaced: a tar's header has room for 100 characters, the extension among them."""

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")


def class_id(name: str) -> str:
    """Returns a class's name in Unicode's form NFC: macOS writes the same name in another one, NFD."""
    return unicodedata.normalize("NFC", name)


def by_class(where: object, named: Iterable[tuple[str, T]]) -> dict[str, T]:
    """Returns, by class id, what comes with each name, the last where it comes twice. Raises InputError when two names
    are of one class."""
    found: dict[str, tuple[str, T]] = {}
    for name, thing in named:
        other = found.get(class_id(name), (name, thing))[0]
        if other != name:
            raise InputError(
                f"{where} has the class {class_id(name)} twice: its name is written in two forms of Unicode, which "
                f"look alike ({other!a} and {name!a}). Move the images of one to the other."
            )
        found[class_id(name)] = name, thing
    return {number: thing for number, (_, thing) in found.items()}


def class_prefixes(classes: Iterable[str]) -> list[str]:
    """Returns the first part of the keys of each class, none twice, also where the case of letters is ignored, as on
    disks of macOS and Windows; the last, at UNLABELLED = -1, is for no class."""
    prefixes: dict[str, str] = {}
    for name in [*classes, "unlabelled"]:
        prefix = _safe(name)[:60]
        while prefix.lower() in prefixes:  # "a b" and "a_b", "a" and "A"
            prefix += "_"
        prefixes[prefix.lower()] = prefix
    return list(prefixes.values())


def sample_key(prefix: str, name: str) -> str:
    """Returns the key of the image `name` in the class with that prefix; another image may have the same."""
    return f"{prefix}/{_safe(os.path.splitext(name)[0])}"


def _safe(name: str) -> str:
    """Returns the name with _ for each character that a reader may not take: webdataset ends a key at the first dot,
    DALI's index at a space. Names that begin with _ get an x before it: webdataset, timm and Hugging Face datasets
    skip folders called __a__ or files called __a as metadata."""
    safe = _UNSAFE.sub("_", name) or "_"
    return f"x{safe}" if safe.startswith("_") else safe
