"""Kaggle's archive: what is refused of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.sharding.sources.layouts import Change, Photos, check_refused

REFUSED: list[tuple[str, Change, str]] = [
    (
        "Kaggle",
        lambda src: (src / "LOC_val_solution.csv").unlink(),
        "{src}/ILSVRC/Data/CLS-LOC/val does not say its images' classes, and LOC_val_solution.csv, which does, is "
        "neither in {src}/ILSVRC/Data/CLS-LOC nor in the 3 folders above it. Put it there.",
    ),
    (
        "Kaggle",
        lambda src: (src / "LOC_val_solution.csv").write_text("id,label\n1,2\n"),
        "{src}/LOC_val_solution.csv cannot be read (KeyError('ImageId')). It has the columns ImageId and "
        "PredictionString. Download it again.",
    ),
    (
        "Kaggle",
        lambda src: (src / "ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_00000003.JPEG").unlink(),
        "{src}/LOC_val_solution.csv labels ILSVRC2012_val_00000003, which {src}/ILSVRC/Data/CLS-LOC/val lacks. Unpack "
        "Kaggle's archive again.",
    ),
    (
        "Kaggle",
        lambda src: (src / "ILSVRC/Data/CLS-LOC/val/extra.JPEG").touch(),
        "{src}/LOC_val_solution.csv lacks extra. Unpack Kaggle's archive again.",
    ),
    (
        "Kaggle",
        lambda src: shutil.rmtree(src / "ILSVRC/Data/CLS-LOC/train/n01440764"),
        "{src}/LOC_val_solution.csv has classes that train/ lacks: n01440764.",
    ),
    (
        "Kaggle",
        lambda src: (src / "LOC_synset_mapping.txt").write_bytes(b"n01 \xff\n"),
        "{src}/LOC_synset_mapping.txt cannot be read ('utf-8' codec can't decode byte 0xff in position 4: invalid "
        "start byte). It is a text of lines of class id and name.",
    ),
]


@pytest.mark.parametrize(("form", "change", "message"), REFUSED)
def test_what_is_refused(form: str, change: Change, message: str, tmp_path: Path, photos: Photos) -> None:
    check_refused(form, change, message, tmp_path, photos)
