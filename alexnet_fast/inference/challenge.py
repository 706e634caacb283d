"""Guesses as files: all probabilities, and the form in which the ImageNet challenge took them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from alexnet_fast.errors import InputError
from alexnet_fast.files import save_npz, written
from alexnet_fast.inference.predictions import Guesses
from alexnet_fast.sharding.sources import devkit


def save_predictions(path: Path, guesses: Guesses) -> None:
    """An .npz: `names` (n,) keys of the samples, `probabilities` (n, classes) float32, `labels` (n,), -1 where there is
    none, and `classes` (classes,) their ids."""
    assert guesses.probabilities is not None
    save_npz(
        path,
        names=np.array(guesses.split.keys()),
        probabilities=guesses.probabilities,
        labels=guesses.labels,
        classes=np.array([entry["id"] for entry in guesses.classes]),
    )


def save_submission(path: Path, guesses: Guesses, ids: list[int]) -> None:
    """A line an image, in the order of the images' names: the ids of the five best guesses, the best first
    (ILSVRC-2012 development kit, readme.txt, "Classification"). `ids`: by class index."""
    order = np.argsort(np.array(guesses.split.keys()), kind="stable")
    lines = [" ".join(str(ids[label]) for label in row) for row in guesses.best[order].tolist()]
    with written(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="ascii")


def challenge_ids(folder: Path, classes: list[dict[str, str]]) -> dict[str, int]:
    """The ILSVRC ids, by class id, from the development kit in `folder`. Raises InputError when it does not have
    them."""
    kit = devkit.read(folder) if folder.is_dir() else None
    if kit is None:
        raise InputError(f"{folder} holds no development kit. Put {devkit.KITS[0]}.tar.gz there.")
    ids = {wnid: number for number, wnid in kit.wnids.items()}
    missing = [entry["id"] for entry in classes if entry["id"] not in ids]
    if missing:
        raise InputError(f"the development kit in {folder} does not know the class {missing[0]} of the network.")
    return {entry["id"]: ids[entry["id"]] for entry in classes}
