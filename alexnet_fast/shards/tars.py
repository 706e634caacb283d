"""What reads the tars of a split, be they in a folder or behind a URL."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class ByteRanges(NamedTuple):
    """Parts of tars: place of the tar in the manifest's list, first byte and number of bytes of each."""

    shards: list[int]
    offsets: list[int]
    sizes: list[int]


class Lease:
    """Tars that will be read soon: those of a remote set are fetched, and kept until `close` gives them back."""

    def __init__(self, give_back: Callable[[], None] | None = None) -> None:
        self._give_back = give_back

    def close(self) -> None:
        """May be called again; only the first call counts."""
        give_back, self._give_back = self._give_back, None
        if give_back:
            give_back()


class Tars(Protocol):
    """The tars of a split, which `shards` names by their places in the manifest's list. Safe to share between threads:
    no call depends on earlier ones."""

    def read(self, ranges: ByteRanges) -> list[NDArray[np.uint8]]:
        """Views of those bytes in memory-mapped tars; waits for tars that are still to be fetched."""

    def lease(self, shards: Sequence[int]) -> Lease:
        """Announces that those will be read next, in this order. Reading needs no lease."""

    def prefetch(self, ranges: ByteRanges) -> None:
        """Has the system read those bytes, where they are on a disk; waits only while the disk's queue is full."""

    def hold_all(self) -> None:
        """Raises InputError when they cannot all be mapped at once."""

    def missing(self, ranges: ByteRanges) -> str:
        """The path or URL of the first of those that cannot be read just now; empty when all can."""
