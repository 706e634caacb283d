"""What people call the classes, where a text file beside the images says so."""

from __future__ import annotations

from pathlib import Path

from alexnet_fast.errors import InputError
from alexnet_fast.sharding.keys import class_id
from alexnet_fast.sharding.limits import read_text

FILES = {"words.txt": "\t", "LOC_synset_mapping.txt": " "}
"""What is between the id and the name: in ImageNet's own list, and in Kaggle's (`n01440764 tench, Tinca tinca`)."""


def read_names(folder: Path) -> dict[str, str]:
    """By class id; nothing where the folder has none of the FILES."""
    names: dict[str, str] = {}
    for file, between in FILES.items():
        path = folder / file
        if path.is_file():
            parts = (line.partition(between) for line in _text(path).splitlines())
            names |= {class_id(number.strip()): name.strip() for number, _, name in parts if name.strip()}
    return names


def _text(path: Path) -> str:
    try:
        return read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}). It is a text of lines of class id and name.") from error
