"""A shard set behind a URL: its tars are fetched into a cache folder, ahead of their use, and mapped there.

<cache>/<hash of the URL and the manifest>/
  manifest.json, train.index.npy     as they are there
  train-000000.tar                   whole, and compared with the manifest's sha256
  train-000001.tar.part              on its way (see cache_disk.py)

Several processes may share the folder. A tar that is deleted to make room stays readable where it is mapped.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Sequence, Set
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Condition, Lock, Thread

import numpy as np
from numpy.typing import NDArray

from alexnet_fast.errors import InputError
from alexnet_fast.shards.cache_disk import CacheDisk
from alexnet_fast.shards.cache_folder import cache_folder
from alexnet_fast.shards.fetch import Remote
from alexnet_fast.shards.format import MANIFEST, Manifest, index_dtype, index_name, load_index, parse_manifest
from alexnet_fast.shards.local import ByteRanges
from alexnet_fast.text import byte_text

FETCHES = 4
"""Tars that one process fetches at once."""
MOST_NPY_HEADER = 10 + 2**16
"""Bytes before the array of an .npy file of version 1.0, as indexes are."""


class TarCache:
    """The tars of one remote set, of all its splits, in their cache folder. Safe to share between threads.

    `limit`: most bytes of its tars on the disk, those on their way included; None: no limit. What this process has
    mapped and another one deleted to make room comes on top, until it is no longer needed here.
    """

    def __init__(self, remote: Remote, cache: str | Path | None, limit: int | None) -> None:
        """Fetches the manifest. Raises InputError when it cannot be had or the folder cannot be written."""
        self._opened = remote, cache, limit
        data = b"".join(remote.blocks(MANIFEST))
        self.manifest: Manifest = parse_manifest(data, f"{remote.url}/{MANIFEST}")
        name = hashlib.sha256(remote.url.encode() + b"\0" + hashlib.sha256(data).digest()).hexdigest()[:16]
        self.folder = cache_folder(cache) / name
        self._disk = CacheDisk(remote, self.folder, limit)
        self._disk.add(MANIFEST, data)
        self._url = remote.url
        self._limit = limit
        self._tars = {tar.file: tar for tars in self.manifest.splits.values() for tar in tars}
        self._turn = Lock()
        self._changed = Condition()
        # All of these are tars by their file names, and change under `_changed` only.
        self._mapped: dict[str, NDArray[np.uint8]] = {}
        self._needed: Set[str] = set()
        self._leases: dict[str, int] = {}
        """The number of leases of each tar, in the order in which they will be read."""
        self._fetching: set[str] = set()
        self._failed: dict[str, Exception] = {}
        self._touched: dict[str, float] = {}
        self._workers = 0
        self._full = False

    def __reduce__(self) -> tuple[type[TarCache], tuple[object, ...]]:
        """Pickled, it is opened again in the other process: locks and threads stay here."""
        return TarCache, self._opened

    def index(self, split: str) -> Path:
        """The split's sample index, fetched where it is not there yet."""
        samples, shape = self.manifest.images(split), self.manifest.shape
        most = samples * index_dtype(shape).itemsize + MOST_NPY_HEADER
        return self._disk.fetch(index_name(split), most, lambda path: _is_index(path, shape, samples))

    def check_room(self, names: Iterable[str], split: str) -> None:
        """Raises InputError when these tars are more than fit at once."""
        needed = sum(self._tars[name].bytes for name in names)
        if self._limit is not None and needed > self._limit:
            raise InputError(
                f"the split {split} needs {byte_text(needed, round_up=True)} with the random order, the cache may hold "
                f"{byte_text(self._limit)}. Raise --cache-size, or use --order window."
            )

    def lease(self, names: Iterable[str]) -> ExitStack:
        """Announces tars that will be mapped next, in order: they are fetched ahead, and kept until it is closed."""
        leased, lease = list(dict.fromkeys(names)), ExitStack()
        with self._changed:
            for name in leased:
                self._leases[name] = self._leases.get(name, 0) + 1
            self._full = False
            self._start()
        lease.callback(self._give_back, leased)
        return lease

    def _give_back(self, names: list[str]) -> None:
        with self._changed:
            for name in names:
                self._leases[name] -= 1
                if not self._leases[name]:
                    del self._leases[name]
                    self._full = False
            self._start()

    def map(self, names: Set[str], split: str) -> dict[str, NDArray[np.uint8]]:
        """Waits until these tars are there. Raises InputError when one cannot be had, or they do not fit at once."""
        with self._changed:
            if names <= self._mapped.keys():
                return self._take(names)
        self.check_room(names, split)
        with self._turn, self._changed:  # one thread at a time: two might hold the room that the other waits for
            self._wait_for(names)
            return self._take(names)

    def _take(self, names: Set[str]) -> dict[str, NDArray[np.uint8]]:
        now = time.monotonic()
        for name in names if self._limit is not None else ():
            if now - self._touched.get(name, -np.inf) > 1:
                self._touched[name] = now
                self._disk.touch(name)
        return {name: self._mapped[name] for name in names}

    def missing(self, names: Iterable[str]) -> str:
        """The URL of the first of these tars that is not here yet; empty when all are."""
        with self._changed:
            return next((f"{self._url}/{name}" for name in names if name not in self._mapped), "")

    def _wait_for(self, names: Set[str]) -> None:
        self._needed = names
        for name in names:
            self._failed.pop(name, None)  # it failed when it was fetched ahead: try again
        try:
            while missing := names - self._mapped.keys():
                for name in missing & self._failed.keys():
                    raise self._failed[name]
                self._full = False
                self._start()
                self._changed.wait(1)  # another process may have made room
        finally:
            self._needed = set()

    def _wanted(self) -> list[str]:
        """The tars that are still to be fetched, the soonest needed first."""
        settled = self._mapped.keys() | self._fetching | self._failed.keys()
        return [name for name in dict.fromkeys([*self._needed, *self._leases]) if name not in settled]

    def _start(self) -> None:
        """Starts threads where there is something to fetch; each ends when there is nothing left."""
        waiting = 0 if self._full else len(self._wanted())
        for _ in range(min(waiting, FETCHES - self._workers)):
            self._workers += 1
            Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while True:
            with self._changed:
                try:
                    name = self._next()
                except Exception as error:  # for the thread that waits
                    self._failed |= dict.fromkeys(self._needed, self._disk.explained(error))
                    name = None
                if name is None:
                    self._workers -= 1
                    self._changed.notify_all()
                    return
                self._fetching.add(name)
            mapped, failure = None, None
            try:
                mapped = self._disk.fetch_tar(self._tars[name])
            except Exception as error:  # for the thread that waits for this tar
                failure = self._disk.explained(error)
            with self._changed:
                self._fetching.remove(name)
                if failure is not None:
                    self._failed[name] = failure
                elif mapped is not None:  # else room has to be made for it once more
                    self._mapped[name] = mapped
                self._changed.notify_all()

    def _next(self) -> str | None:
        """The first tar that is to be fetched, if there is room for it."""
        name = next(iter(self._wanted()), None)
        if name is not None and not self._make_room(name):
            self._full = True
            return None
        return name

    def _make_room(self, name: str) -> bool:
        """Takes room on the disk for a tar; deletes others for it, but none that is needed sooner."""
        leased = list(self._leases)
        is_next = name in self._needed or name not in self._leases
        first = 0 if is_next else leased.index(name) + 1
        later = {other: place for place, other in enumerate(leased) if place >= first}
        keep = ({*self._needed, *self._fetching, *leased} - later.keys()) | self._needed
        room = self._disk.make_room(self._tars[name], self._tars.keys(), keep, later)
        deleted_by_others = self._mapped.keys() - room.kept - keep - later.keys()
        for other in self._mapped.keys() & (room.deleted | deleted_by_others):
            del self._mapped[other]
        return room.taken


class RemoteTars:
    """The tars of a split of a remote set; the methods are those of `LocalTars`."""

    def __init__(self, cache: TarCache, split: str) -> None:
        self._cache = cache
        self._split = split
        self._names = [tar.file for tar in cache.manifest.splits[split]]

    def read(self, ranges: ByteRanges) -> list[NDArray[np.uint8]]:
        mapped = self._cache.map({self._names[shard] for shard in ranges.shards}, self._split)
        names = self._names
        return [mapped[names[shard]][offset : offset + size] for shard, offset, size in zip(*ranges, strict=True)]

    def lease(self, shards: Sequence[int]) -> ExitStack:
        return self._cache.lease(self._names[shard] for shard in shards)

    def prefetch(self, ranges: ByteRanges) -> None:
        """Nothing to do: they were fetched a moment ago, or are not there yet."""

    def check_room(self) -> None:
        self._cache.check_room(self._names, self._split)

    def missing(self, ranges: ByteRanges) -> str:
        return self._cache.missing(self._names[shard] for shard in ranges.shards)


def _is_index(path: Path, shape: str, samples: int) -> bool:
    with suppress(InputError):
        return len(load_index(path, shape)) == samples
    return False
