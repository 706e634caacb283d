"""Gathers the records of a split's finished tars, one at a time: a row of a record takes ten times that of an index."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from alexnet_fast.sharding.output import Output
from alexnet_fast.sharding.statistics import PixelSums
from alexnet_fast.sharding.tars import read_record
from alexnet_fast.shards.format import Tar, index_dtype


@dataclass
class SplitRecords:
    """`index`: (samples,) of `index_dtype`; `originals`: (samples,) the same number for files of the same bytes, none
    where a tar is of an earlier version; `empty`: tars in which no image could be read; `rejected`: (path, reason);
    `enlarged` and `not_kept`: as a tar's record has them."""

    index: NDArray[np.void]
    originals: NDArray[np.int64]
    tars: list[Tar] = field(default_factory=list)
    empty: list[Tar] = field(default_factory=list)
    rejected: list[list[str]] = field(default_factory=list)
    enlarged: int = 0
    not_kept: Counter[str] = field(default_factory=Counter)
    pixels: PixelSums = field(default_factory=PixelSums)


def read_records(output: Output, split: str, tars: int, images: int, shape: str) -> SplitRecords:
    """Returns what the records of a split's `tars` tars and `images` images of a shape say. Raises InputError as
    `read_record`."""
    index, originals = np.empty(images, index_dtype(shape)), np.empty(images, np.int64)
    found = SplitRecords(index, originals)
    rows = numbers = 0
    for number in range(tars):
        record = read_record(output, split, number)
        found.rejected += record.rejected
        found.pixels.add(record.pixels)
        found.enlarged += record.enlarged
        found.not_kept.update(record.not_kept)
        if not record.tar.samples:
            found.empty.append(record.tar)
            continue
        end = rows + len(record.rows)
        index[rows:end] = [(len(found.tars), *row[1:]) for row in record.rows]
        originals[numbers : numbers + len(record.originals)] = record.originals
        rows, numbers = end, numbers + len(record.originals)
        found.tars.append(record.tar)
    found.index, found.originals = index[:rows], originals[:numbers]
    return found


def shared_images(splits: dict[str, SplitRecords]) -> dict[str, int]:
    """Returns, for each two splits that share any, how many files of the later one are in the earlier one too, byte for
    byte: `{"train, val": 12}`."""
    found = {}
    names = list(splits)
    for place, later in enumerate(names):
        for earlier in names[:place]:
            count = int(np.isin(splits[later].originals, splits[earlier].originals).sum())
            if count:
                found[f"{earlier}, {later}"] = count
    return found
