"""Recognises the form in which a user has the images, and lists them."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from alexnet_fast.errors import InputError
from alexnet_fast.sharding.listing import Source
from alexnet_fast.sharding.output import holds_shard_set
from alexnet_fast.sharding.sources import folders, ilsvrc, kaggle, parquet, webdataset, whole

LAYOUTS: dict[str, ModuleType] = {
    "kaggle": kaggle,
    "ilsvrc": ilsvrc,
    "whole": whole,
    "parquet": parquet,
    "webdataset": webdataset,
    "folders": folders,
}
"""In the order of trying: the more particular ones first."""


KEYED = ("parquet", "webdataset")
"""The layouts that have columns, or members, to choose among."""


def find_images(
    src: Path, layout: str | None = None, *, image_key: str | None = None, label_key: str | None = None
) -> Source:
    """Lists the images of `src`; the listing does not depend on the file system's order. `image_key` and `label_key`:
    what holds image and label, of the layouts KEYED; None: the usual names.

    Raises InputError when `src` is not there, no layout fits, or what it holds is not as the layout has it.
    """
    if not src.exists():
        raise InputError(f"{src} does not exist. --src takes a folder of images, or of ImageNet's archives.")
    if layout is None and holds_shard_set(src) and (beside := folders.subfolders(src)):
        raise InputError(
            f"{src} can be read in two ways: as the shard set that lies there (--layout webdataset), or as the folders "
            f"{', '.join(beside[:5])} beside it (--layout folders)."
        )
    if layout is None:
        layout = next((name for name, module in LAYOUTS.items() if module.fits(src)), None)
    if layout is None:
        raise InputError(
            f"{src} has none of the known layouts: class folders, the official archives of ILSVRC-2012 and 2010, "
            "Kaggle's folders, tars of one class each, parquet files or WebDataset tars. --layout forces one."
        )
    keys = {name: key for name, key in (("image_key", image_key), ("label_key", label_key)) if key}
    if keys and layout not in KEYED:
        raise InputError(
            f"--image-key and --label-key are for parquet files and WebDataset tars, but {src} is read as {layout}. "
            f"Leave them out, or name the layout: --layout {' or '.join(KEYED)}."
        )
    source: Source = LAYOUTS[layout].read(src, **keys)
    return source
