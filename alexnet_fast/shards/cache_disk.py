"""The files of one remote set on this machine's disk, which several processes may share. A tar on its way has its whole
length from the start, so that its room is taken; the process that fetches it has it locked."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping, Set
from contextlib import AbstractContextManager, closing, suppress
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from alexnet_fast.errors import InputError
from alexnet_fast.files import file_lock, is_locked
from alexnet_fast.shards.fetch import Remote
from alexnet_fast.shards.format import Tar
from alexnet_fast.shards.local import map_tar


class Room(NamedTuple):
    """What `CacheDisk.make_room` did. `taken`: whether there is room now; `deleted`, `kept`: files of tars."""

    taken: bool
    deleted: Set[str]
    kept: Set[str]


class CacheDisk:
    """The folder of one remote set. `limit`: most bytes of its tars, those on their way included; None: no limit."""

    def __init__(self, remote: Remote, folder: Path, limit: int | None) -> None:
        self.folder, self.limit = folder, limit
        self._remote = remote

    def add(self, name: str, data: bytes) -> None:
        """Writes a small file, unless it is there. Raises InputError when the folder cannot be written."""
        try:
            self.folder.mkdir(exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".part") as file:
                file.write(data)
                file.flush()
                with suppress(FileExistsError):
                    os.link(file.name, self.folder / name)
        except OSError as error:
            raise self.explained(error) from error

    def fetch(self, name: str, most: int, is_right: Callable[[Path], bool]) -> Path:
        """A file of at most so many bytes, fetched unless it is there."""
        self._fetch(name, None, lambda part, _: is_right(part), Path.is_file, most)
        return self.folder / name

    def fetch_tar(self, tar: Tar) -> NDArray[np.uint8] | None:
        """The tar, mapped; fetched unless it is there. None: room has to be made for it once more."""
        path = self.folder / tar.file
        while True:
            if not self._fetch(
                tar.file, tar.bytes, lambda _, sha256: sha256 == tar.sha256, lambda path: _size(path) == tar.bytes
            ):
                return None
            with suppress(FileNotFoundError):  # deleted since by another process
                os.utime(path)
                return map_tar(path, tar.bytes)

    def touch(self, name: str) -> None:
        """Marks a tar as used just now, for all processes."""
        with suppress(FileNotFoundError):
            os.utime(self.folder / name)

    def make_room(self, tar: Tar, tars: Set[str], keep: Set[str], later: Mapping[str, int]) -> Room:
        """Takes room for a tar, unless it is there or on its way; deletes others of `tars` for it where there is a
        limit, but none of `keep`: first those that are not in `later`, longest unused first, then the last of `later`.
        """
        if self.limit is None:
            return Room(True, set(), tars)
        with self._alone():
            own = self._own_files(tars)
            if tar.file in own or f"{tar.file}.part" in own:
                return Room(True, set(), own.keys())
            candidates = sorted(
                (file for file in own if file.removesuffix(".part") not in keep),
                key=lambda file: (file in later, -later.get(file, 0), own[file].st_mtime_ns),
            )
            excess = sum(stat.st_size for stat in own.values()) + tar.bytes - self.limit
            chosen = []
            for file in candidates:
                if excess > 0 and not is_locked(self.folder / file):
                    chosen.append(file)
                    excess -= own[file].st_size
            if excess > 0:
                return Room(False, set(), own.keys())
            for file in chosen:
                (self.folder / file).unlink(missing_ok=True)
            with (self.folder / f"{tar.file}.part").open("wb") as part:
                part.truncate(tar.bytes)
            return Room(True, set(chosen), own.keys() - set(chosen))

    def explained(self, error: Exception) -> Exception:
        """The InputError for an OSError here; other errors as they are."""
        if not isinstance(error, OSError):
            return error
        return InputError(
            f"the cache {self.folder} cannot be written ({error.strerror}). "
            "Choose another folder with --cache, or set a limit with --cache-size."
        )

    def _own_files(self, tars: Set[str]) -> dict[str, os.stat_result]:
        while True:
            files = [file for file in os.listdir(self.folder) if file.removesuffix(".part") in tars]
            with suppress(FileNotFoundError):  # one has come whole meanwhile, under its final name: look again
                return {file: (self.folder / file).stat() for file in files}

    def _fetch(
        self,
        name: str,
        total: int | None,
        is_right: Callable[[Path, str], bool],
        is_there: Callable[[Path], bool],
        most: int = 0,
    ) -> bool:
        """Fetches a file unless it is there; False when there is a limit and the room taken for it was given away. Only
        one process fetches it; the others wait, and one of them takes over if it dies. `total`, `most`: as
        Remote.blocks has them."""
        path = self.folder / name
        part = path.with_name(f"{name}.part")
        while not is_there(path):
            with file_lock(part, mode=0o600) as file:
                if not _is_at(file, part) or is_there(path):  # it was another's, and is finished or given up
                    continue
                if self.limit is not None and total is not None and _size(part) != total:
                    part.unlink(missing_ok=True)
                    return False
                try:
                    self._download(file, name, total, most, lambda sha256: is_right(part, sha256))
                    with self._alone(), suppress(FileNotFoundError):  # deleted just before it was locked
                        os.replace(part, path)
                except BaseException:
                    part.unlink(missing_ok=True)
                    raise
        return True

    def _download(
        self, file: IO[bytes], name: str, total: int | None, most: int, is_right: Callable[[str], bool]
    ) -> None:
        for _ in range(2):
            digest = hashlib.sha256()
            file.seek(0)
            with closing(self._remote.blocks(name, total, most)) as blocks:
                for block in blocks:
                    file.write(block)
                    digest.update(block)
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
            if is_right(digest.hexdigest()):
                return
        raise InputError(
            f"{self._remote.url}/{name} is not the file that its manifest describes: fetched twice, it differed. "
            "Copy the shard set there again."
        )

    def _alone(self) -> AbstractContextManager[object]:
        """Nobody else renames or deletes tars of the folder meanwhile."""
        return file_lock(self.folder / ".lock", mode=0o600)


def _is_at(file: IO[bytes], path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


def _size(path: Path) -> int | None:
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return None
