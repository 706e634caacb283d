"""Finds samples that are not what was written, before a decoder sees them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from alexnet_fast.errors import TrainingError
from alexnet_fast.loading.boxes import moved
from alexnet_fast.loading.plan import Rows
from alexnet_fast.shards.format import UNLABELLED
from alexnet_fast.shards.reader import Split

LIMIT = 0.001
"""The share of a split's samples that may be corrupt before a training stops."""


class CorruptionFilter:
    """Replaces corrupt samples. Each sample's crc32 is compared once, before its first use; a corrupt one is replaced
    by the next intact one in stored order, label included; with `strict` by the same one under the label UNLABELLED.

    `found`: the names of the corrupt samples met, by number.
    """

    def __init__(self, split: Split, strict: bool) -> None:
        self.found: dict[int, str] = {}
        self._split = split
        self._strict = strict
        self._checked = np.zeros(len(split), bool)
        self._substitute: dict[int, int] = {}

    def apply(self, rows: Rows) -> tuple[Rows, NDArray[np.int64]]:
        """`rows` with intact samples only, and their labels. Raises TrainingError when too many are corrupt, unless
        `strict`; in any case when none is intact."""
        samples, labels = self.replaced(rows.samples)
        if samples is not rows.samples:
            sizes = self._split.sizes
            rows = replace(rows, samples=samples, crop=moved(rows.crop, sizes[rows.samples], sizes[samples]))
        return rows, labels

    def replaced(self, samples: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """`samples`, themselves where all are intact, and their labels; errors as those of `apply`."""
        fresh = samples[~self._checked[samples]]
        for sample in fresh[~self._split.intact(fresh)].tolist():
            self.found[sample] = self._split.name_of(sample)
            self._substitute[sample] = self._next_intact(sample)
        self._checked[fresh] = True
        if not self._strict:
            check_corruption(self.found, len(self._split))
        corrupt = []
        if self.found:
            corrupt = [i for i, sample in enumerate(samples.tolist()) if sample in self._substitute]
        if corrupt:
            samples = samples.copy()
            samples[corrupt] = [self._substitute[sample] for sample in samples[corrupt].tolist()]
        labels = self._split.index["label"][samples].astype(np.int64)
        if self._strict:
            labels[corrupt] = UNLABELLED
        return samples, labels

    def _next_intact(self, sample: int) -> int:
        for step in range(1, len(self._split)):
            neighbour = (sample + step) % len(self._split)
            if self._split.intact(np.array([neighbour]))[0]:
                return neighbour
        raise TrainingError(f"no sample of the split {self._split.name} is intact. Copy the shard set again.")


def check_corruption(found: Mapping[int, str], samples: int) -> None:
    """Raises TrainingError when the corrupt samples `found` are too many of a split's `samples`."""
    if len(found) > LIMIT * samples:
        raise TrainingError(
            f"{len(found):,} corrupt samples so far, more than {LIMIT:.1%} of {samples:,}, the last "
            f"{list(found.values())[-1]}. alexnet-fast verify names them all; copy the shard set again."
        )
