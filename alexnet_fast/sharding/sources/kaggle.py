"""Kaggle's ImageNet: `ILSVRC/Data/CLS-LOC/` with class folders in `train/`, flat `val/` and `test/`.

Beside `ILSVRC/` lie `LOC_val_solution.csv` (ImageId,PredictionString; the first word of the latter is the wnid;
its lines are not in the order of names) and `LOC_synset_mapping.txt`.
"""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

from alexnet_fast.errors import InputError
from alexnet_fast.sharding.left_out import LeftOut
from alexnet_fast.sharding.limits import read_text
from alexnet_fast.sharding.listing import Entry, Images, Source
from alexnet_fast.sharding.sources import folders
from alexnet_fast.sharding.sources.names import read_names
from alexnet_fast.sharding.sources.splits import list_labelled

SOLUTION = "LOC_val_solution.csv"
MAPPING = "LOC_synset_mapping.txt"
LEVELS = 3
"""From CLS-LOC up to the folder that holds ILSVRC/."""


def fits(src: Path) -> bool:
    return _data(src) is not None


def read(src: Path) -> Source:
    """Raises InputError when the labels of val/ are missing, or do not agree with what is there."""
    data = _data(src)
    if data is None:
        raise InputError(f"{src} has no ILSVRC/Data/CLS-LOC/train/. Name the folder that Kaggle's archive unpacks to.")
    classes = folders.subfolders(data / "train")
    if not classes:
        raise InputError(f"{data / 'train'} holds no class folders. Unpack Kaggle's archive again.")
    left_out = LeftOut()
    splits = {"train": folders.split(data, "train", classes, left_out)}
    val = data / "val"
    if val.is_dir():
        sorted_already = folders.subfolders(val)
        splits["val"] = (
            folders.split(data, "val", classes, left_out) if sorted_already else _val(data, classes, left_out)
        )
    if (data / "test").is_dir():
        splits["test"] = folders.split(data, "test", classes, left_out)
    mapping = _upwards(data, MAPPING)
    return Source(data, classes, splits, read_names(mapping.parent) if mapping else {}, left_out)


def _data(src: Path) -> Path | None:
    """The folder CLS-LOC, also under another name where the labels lie in it."""
    known = Path(os.path.abspath(src)).name == "CLS-LOC" or (src / SOLUTION).is_file()
    places = [src / "ILSVRC/Data/CLS-LOC", src / "Data/CLS-LOC", src / "CLS-LOC", *([src] if known else [])]
    return next((place for place in places if (place / "train").is_dir()), None)


def _upwards(data: Path, name: str) -> Path | None:
    data = Path(os.path.abspath(data))  # not resolve(): a link's neighbours count
    return next((up / name for up in [data, *data.parents[:LEVELS]] if (up / name).is_file()), None)


def _val(data: Path, classes: list[str], left_out: LeftOut) -> Images:
    solution = _upwards(data, SOLUTION)
    if solution is None:
        raise InputError(
            f"{data / 'val'} does not say its images' classes, and {SOLUTION}, which does, is neither in {data} nor "
            f"in the {LEVELS} folders above it. Put it there."
        )
    wnids = _read_solution(solution)
    entries = [Entry("val", name) for name in folders.files(data / "val", left_out)]
    wanted, present = set(wnids), {Path(entry.name).stem for entry in entries}
    if wanted != present:
        odd = min(wanted ^ present)
        what = f"{solution} labels {odd}, which {data / 'val'} lacks" if odd in wanted else f"{solution} lacks {odd}"
        raise InputError(f"{what}. Unpack Kaggle's archive again.")
    unknown = sorted(set(wnids.values()) - set(classes))
    if unknown:
        raise InputError(f"{solution} has classes that train/ lacks: {', '.join(unknown[:5])}.")
    index = {name: label for label, name in enumerate(classes)}
    return list_labelled(classes, entries, [index[wnids[Path(entry.name).stem]] for entry in entries])


def _read_solution(path: Path) -> dict[str, str]:
    """Image id to wnid."""
    try:
        rows = csv.DictReader(io.StringIO(read_text(path), newline=""))
        return {row["ImageId"]: row["PredictionString"].split()[0] for row in rows}
    except (OSError, UnicodeDecodeError, KeyError, AttributeError, IndexError, csv.Error) as error:
        raise InputError(
            f"{path} cannot be read ({error!r}). It has the columns ImageId and PredictionString. Download it again."
        ) from error
