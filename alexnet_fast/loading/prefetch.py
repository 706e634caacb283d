"""What a loader does ahead of reading: it leases the tars of coming batches, and has the system read their pages."""

from __future__ import annotations

import resource
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack
from threading import Thread
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from alexnet_fast.loading.plan import Rows
from alexnet_fast.shards.reader import Split

TARS_AHEAD = 64
"""Batches whose tars are leased before they come up: a remote set fetches them meanwhile."""
PAGES_AHEAD = 4
"""Batches whose pages are prefetched before they are read: a disk then has a queue to work on."""


class Prefetcher:
    """Iterates over `rows`, each leased and prefetched batches before. A batch's lease ends when the next is taken, or
    the iterator closed. `whole_tars`: each tar is prefetched as a whole, once an epoch, when its first sample comes."""

    def __init__(self, split: Split, rows: Iterable[Rows], *, whole_tars: bool) -> None:
        self._split = split
        self._rows = rows
        self._prefetch = self._tars if whole_tars else self._pages
        self._leases: deque[ExitStack] = deque()
        self._opened: dict[int, int] = {}
        """The epoch in which each tar was last prefetched as a whole."""

    def __iter__(self) -> Generator[Rows, None, None]:
        leased = _ahead(self._rows, TARS_AHEAD, self._lease)
        try:
            for rows in _ahead(leased, PAGES_AHEAD, self._prefetch):
                yield rows
                self._leases.popleft().close()
        finally:
            while self._leases:
                self._leases.popleft().close()

    def _lease(self, rows: Rows) -> None:
        self._leases.append(self._split.lease(rows.samples))

    def _pages(self, rows: Rows) -> None:
        if self._split not in _REQUESTS:
            _REQUESTS[self._split] = PageRequests(len(self._split))
        self._split.prefetch(_REQUESTS[self._split].new(rows.samples))

    def _tars(self, rows: Rows) -> None:
        of_samples = np.unique(self._split.index["shard"][rows.samples]).tolist()
        if shards := [shard for shard in of_samples if self._opened.get(shard) != rows.epoch]:
            self._opened |= dict.fromkeys(shards, rows.epoch)
            # In a thread, since a tar may fill the disk's queue.
            Thread(target=self._split.prefetch_tars, args=(shards,), daemon=True).start()


class PageRequests:
    """Which samples of a split were prefetched since this process last had to wait for a page from a disk: until then
    memory holds them all, after it maybe none."""

    def __init__(self, samples: int) -> None:
        self._done = np.zeros(samples, bool)
        self._waits = 0
        """Page faults so far that had to wait for a disk."""

    def new(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of `samples` that were not prefetched, which from now on counts as done."""
        waits = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
        if waits != self._waits:
            self._waits = waits
            self._done[:] = False
        samples = samples[~self._done[samples]]
        self._done[samples] = True
        return samples


_REQUESTS: WeakKeyDictionary[Split, PageRequests] = WeakKeyDictionary()
"""Shared by all loaders of a split: of those that make one an epoch, the second finds its pages in memory."""


def _ahead(rows: Iterable[Rows], batches: int, announce: Callable[[Rows], None]) -> Iterator[Rows]:
    """The rows; each was announced `batches` batches before."""
    waiting: deque[Rows] = deque()
    for one in rows:
        announce(one)
        waiting.append(one)
        if len(waiting) > batches:
            yield waiting.popleft()
    yield from waiting
