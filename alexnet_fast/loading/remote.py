"""A shard set behind a URL: its tars come through fsspec into a cache folder, ahead of their use, and are mapped there.

<cache>/<hash of the URL and the manifest>/
  manifest.json, train.index.npy     as they are there
  train-000000.tar                   whole, and compared with the manifest's sha256
  train-000001.tar.part              on its way, as long as the whole tar: that room is taken; locked by who fetches it

Several processes may share the folder. A tar that is deleted to make room stays readable where it is mapped.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
import socket
import stat
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Set
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from threading import Condition, Lock, Thread
from typing import IO

import numpy as np
from numpy.typing import NDArray

from alexnet_fast.errors import InputError
from alexnet_fast.loading.http import read_range
from alexnet_fast.mapped import map_tar
from alexnet_fast.shardset import (
    INDEX_DTYPE,
    MANIFEST,
    MOST_MANIFEST_BYTES,
    Manifest,
    Tar,
    index_name,
    load_index,
    parse_manifest,
)

FETCHES = 4
"""Tars that one process fetches at once."""
BLOCK = 8 << 20
"""Bytes asked for at a time."""
SMALLEST_BLOCK = 64 << 10
STALL_SECONDS = 30.0
"""A block that takes longer is given up, and a smaller one asked for."""
OUTAGE_SECONDS = 600.0
"""Without a single block; then the file is given up."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds between two tries: twice as long each time."""
MOST_NPY_HEADER = 10 + 2**16
"""Bytes before the array of an .npy file of version 1.0, as indexes are."""
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "http": "http", "https": "http"}
"""Which of our extras installs what fsspec needs for a kind of URL."""

Bytes = Generator[bytes, None, None]


class Remote:
    """Reads the files below a URL. While the network fails, reading takes longer; that is said once an outage."""

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = url.rstrip("/")
        kind = url.partition("://")[0]
        self._is_web = kind in ("http", "https")
        proxies = {"client_kwargs": {"trust_env": True}} if self._is_web else {}
        try:
            self._files, root = fsspec.core.url_to_fs(self.url, skip_instance_cache=True, **proxies)
        except ImportError as error:
            install = f"pip install '.[{EXTRAS[kind]}]'" if kind in EXTRAS else "pip, as that says"
            raise InputError(f"{url} cannot be read: {error}. Install what is missing with: {install}") from error
        except Exception as error:  # every store has its own kinds
            raise InputError(f"{url} cannot be used ({error}). Check the address and credentials.") from error
        self._root = root.rstrip("/")
        self._said = -np.inf
        self._answered = False

    def blocks(self, name: str, total: int | None = None, most: int = MOST_MANIFEST_BYTES) -> Bytes:
        """The bytes of a file, in order. After a failure it goes on where it was.

        `total`: bytes to read; None: to its end, and `most` bytes at the most. Raises InputError when the file is not
        there, may not be read, is shorter than `total` or longer than `most`, when nothing has come for
        OUTAGE_SECONDS, and when there is no such host from the start.
        """
        start, size, pause, since = 0, BLOCK, FIRST_PAUSE, time.monotonic()
        limit = most if total is None else total
        while total is None or start < total:
            # Where the end is not known, the range begins with a byte that is there: one past the end is an error.
            first = start if total is not None else max(start - 1, 0)
            end = start + size if total is None else min(start + size, total)
            at = first
            try:
                with closing(self._range(f"{self._root}/{name}", first, end)) as answer:
                    for data in answer:
                        block = data[max(start - at, 0) :][: limit - start]
                        at += len(data)
                        if block:
                            self._answered = True
                            yield block
                            start, pause, since = start + len(block), FIRST_PAUSE, time.monotonic()
                        if start == total or at > start:  # nothing more, or no more than `most`, is wanted
                            break
                if at == first and (total or not start):
                    raise OSError("it sent nothing")
            except Exception as error:  # every store has its own kinds
                self._judge(name, error, time.monotonic() - since)
                if isinstance(error, asyncio.TimeoutError):
                    size = max(size // 4, SMALLEST_BLOCK)
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            if total is None and at > limit:
                raise InputError(
                    f"{self.url}/{name} does not end after {limit:,} bytes, the most that it can have. Check the "
                    "address: something else answers there."
                )
            if total is None and at != end:  # before it the file ends; beyond it a server without ranges has
                return

    def _range(self, path: str, start: int, end: int) -> Bytes:
        """The bytes [start, end) in one piece; from a server without ranges the file from `start` on, in several.

        Of such a web server no more than a piece is held. Other stores' libraries return an answer whole: they take
        ranges, and one that did not would be held in memory.
        """
        if self._is_web:
            yield from read_range(self._files, path, start, end, STALL_SECONDS)
            return
        if self._files.async_impl:
            from fsspec.asyn import sync

            cat = self._files._cat_file
            data: bytes = sync(self._files.loop, cat, path, start=start, end=end, timeout=STALL_SECONDS)
        else:
            data = self._files.cat_file(path, start=start, end=end)
        yield data[start:] if len(data) > end - start else data

    def _judge(self, name: str, error: Exception, seconds: float) -> None:
        """Raises InputError when there is no sense in another try."""
        file, reason = f"{self.url}/{name}", str(error) or type(error).__name__
        if refusal := _refusal(error):
            raise InputError(f"{file} {refusal} ({reason}). Check the address and your access to it.") from error
        if not self._answered and _is_unknown_host(error):
            raise InputError(f"{file} is on no host that is known ({reason}). Check the address, and the network.")
        if seconds > OUTAGE_SECONDS:
            raise InputError(
                f"nothing came from {file} for {seconds / 60:.0f} minutes ({reason}). Check the network; "
                "what has been fetched is kept, so the same command goes on from there."
            ) from error
        if time.monotonic() - self._said > OUTAGE_SECONDS:
            _say(f"{file} does not come ({reason}); trying on for {OUTAGE_SECONDS / 60:.0f} minutes")
            self._said = time.monotonic()


def _refusal(error: Exception) -> str:
    """In words, an answer that another try would not change; empty for a failure that may pass."""
    status = getattr(error, "code" if type(error).__name__ == "HttpError" else "status", None)  # gcsfs, aiohttp
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        return "is not there"
    if status == 416 or getattr(error, "errno", None) == errno.EINVAL:
        return "is shorter than its manifest says"
    is_client_error = isinstance(status, int) and 400 <= status < 500 and status not in (408, 425, 429)
    # By name: their packages may not be there.
    is_final = any(word in type(error).__name__ for word in ("Credentials", "Certificate", "InvalidU", "ParamValid"))
    return "cannot be read" if isinstance(error, PermissionError) or is_client_error or is_final else ""


def _is_unknown_host(error: BaseException | None) -> bool:
    """Whether that is behind it; a name server that does not answer is another thing."""
    while error is not None:
        if isinstance(error, socket.gaierror):
            return error.errno in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))
        error = error.__cause__ or error.__context__
    return False


class TarCache:
    """The cache folder of one remote set, for all its splits. Safe to share between threads.

    `limit`: most bytes of its tars on the disk, those on their way included; None: no limit. What this process has
    mapped and another one deleted to make room comes on top, until it is no longer needed here.
    """

    def __init__(self, remote: Remote, cache: str | Path | None, limit: int | None) -> None:
        """Fetches the manifest. Raises InputError when it cannot be had or the folder cannot be written."""
        data = b"".join(remote.blocks(MANIFEST))
        self.manifest: Manifest = parse_manifest(data, f"{remote.url}/{MANIFEST}")
        name = hashlib.sha256(remote.url.encode() + b"\0" + hashlib.sha256(data).digest()).hexdigest()[:16]
        self.folder = cache_folder(cache) / name
        try:
            self.folder.mkdir(exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".part") as file:
                file.write(data)
                file.flush()
                with suppress(FileExistsError):
                    os.link(file.name, self.folder / MANIFEST)
        except OSError as error:
            raise self._explained(error) from error
        self._remote = remote
        self._limit = limit
        self._tars = {tar.file: tar for tars in self.manifest.splits.values() for tar in tars}
        self._turn = Lock()
        self._changed = Condition()
        # All of these are tars by their file names, and change under `_changed` only.
        self._mapped: dict[str, NDArray[np.uint8]] = {}
        self._needed: Set[str] = set()
        self._expected: dict[str, int] = {}
        self._fetching: set[str] = set()
        self._failed: dict[str, Exception] = {}
        self._touched: dict[str, float] = {}
        self._workers = 0
        self._full = False

    def index(self, split: str) -> Path:
        """The split's sample index, fetched where it is not there yet."""
        samples = self.manifest.images(split)
        path = self.folder / index_name(split)
        most = samples * INDEX_DTYPE.itemsize + MOST_NPY_HEADER
        self._bring(path.name, None, lambda part, _: _is_index(part, samples), Path.is_file, most)
        return path

    def split(self, name: str) -> SplitTars:
        return SplitTars(self, name)

    def hold(self, names: Iterable[str], split: str) -> None:
        """Raises InputError when these tars are more than fit at once."""
        needed = sum(self._tars[name].bytes for name in names)
        if self._limit is not None and needed > self._limit:
            raise InputError(
                f"the split {split} needs {_gigabytes(needed)} with the random order, the cache may hold "
                f"{_gigabytes(self._limit)}. Raise --cache-size, or use --order window."
            )

    def expect(self, uses: Counter[str]) -> None:
        """The tars that will be mapped next, in order, and how often each: they are fetched ahead."""
        with self._changed:
            for name, count in uses.items():
                self._expected[name] = self._expected.get(name, 0) + count
            self._full = False
            self._start()

    def map(self, uses: Counter[str], split: str) -> dict[str, NDArray[np.uint8]]:
        """Waits until these tars are there. Raises InputError when one cannot be had, or they do not fit at once."""
        with self._changed:
            if mapped := self._take(uses):
                return mapped
        self.hold(uses, split)
        with self._turn, self._changed:  # one thread at a time: two might hold the room that the other waits for
            self._wait_for(uses)
            return self._take(uses) or {}

    def _take(self, uses: Counter[str]) -> dict[str, NDArray[np.uint8]] | None:
        if not uses.keys() <= self._mapped.keys():
            return None
        for name, count in uses.items():
            if name in self._expected:
                self._expected[name] -= count
                if self._expected[name] <= 0:
                    del self._expected[name]
                    self._full = False
        self._touch(uses)
        self._start()
        return {name: self._mapped[name] for name in uses}

    def missing(self, names: Iterable[str]) -> str:
        """The URL of the first of these tars that is not here yet; empty when all are."""
        with self._changed:
            return next((f"{self._remote.url}/{name}" for name in names if name not in self._mapped), "")

    def _wait_for(self, uses: Counter[str]) -> None:
        self._needed = uses.keys()
        for name in uses:
            self._failed.pop(name, None)  # when it was fetched ahead; by now it may come
        try:
            while missing := uses.keys() - self._mapped.keys():
                for name in missing & self._failed.keys():
                    raise self._failed[name]
                self._full = False
                self._start()
                self._changed.wait(1)  # another process may have made room
        finally:
            self._needed = set()

    def _touch(self, names: Iterable[str]) -> None:
        """Marks as used just now, for all processes that share the folder."""
        now = time.monotonic()
        for name in names if self._limit is not None else ():
            if now - self._touched.get(name, -np.inf) > 1:
                self._touched[name] = now
                with suppress(FileNotFoundError):
                    os.utime(self.folder / name)

    def _start(self) -> None:
        """Threads, where there is something to fetch; each ends when there is nothing left."""
        idle = self._mapped.keys() | self._fetching | self._failed.keys()
        waiting = 0 if self._full else len({*self._needed, *self._expected} - idle)
        for _ in range(min(waiting, FETCHES - self._workers)):
            self._workers += 1
            Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while True:
            with self._changed:
                try:
                    name = self._next()
                except Exception as error:  # for the thread that waits
                    self._failed |= dict.fromkeys(self._needed, self._explained(error))
                    name = None
                if name is None:
                    self._workers -= 1
                    self._changed.notify_all()
                    return
                self._fetching.add(name)
            outcome = self._fetch(self._tars[name])
            with self._changed:
                self._fetching.remove(name)
                if isinstance(outcome, Exception):
                    self._failed[name] = outcome
                elif outcome is not None:
                    self._mapped[name] = outcome
                self._changed.notify_all()

    def _next(self) -> str | None:
        """The first tar that is to be fetched, if there is room for it."""
        idle = self._mapped.keys() | self._fetching | self._failed.keys()
        name = next((name for name in [*self._needed, *self._expected] if name not in idle), None)
        if name is not None and not self._make_room(name):
            self._full = True
            return None
        return name

    def _make_room(self, name: str) -> bool:
        """Takes room on the disk for a tar; deletes others for it, but none that is needed sooner."""
        if self._limit is None:
            return True
        with self._alone():
            own = self._own_files()
            if name in own or f"{name}.part" in own:
                return True
            expected = list(self._expected)
            is_next = name in self._needed or name not in self._expected
            later = {other: place for place, other in enumerate(expected) if is_next or place > expected.index(name)}
            busy = {*self._needed, *self._fetching, *self._expected} - later.keys() | self._needed
            for other in self._mapped.keys() - own.keys() - busy - later.keys():  # deleted by another process
                del self._mapped[other]
            # First what nobody here expects, longest unused first; then what is expected last.
            victims = sorted(
                (file for file in own if file.removesuffix(".part") not in busy),
                key=lambda file: (file in later, -later.get(file, 0), own[file].st_mtime_ns),
            )
            excess = sum(stat.st_size for stat in own.values()) + self._tars[name].bytes - self._limit
            chosen = []
            for file in victims:
                if excess > 0 and not _is_locked(self.folder / file):
                    chosen.append(file)
                    excess -= own[file].st_size
            if excess > 0:
                return False
            for file in chosen:
                (self.folder / file).unlink(missing_ok=True)
                self._mapped.pop(file, None)
            with (self.folder / f"{name}.part").open("wb") as part:
                part.truncate(self._tars[name].bytes)
            return True

    def _own_files(self) -> dict[str, os.stat_result]:
        while True:
            files = [file for file in os.listdir(self.folder) if file.removesuffix(".part") in self._tars]
            with suppress(FileNotFoundError):  # one has come whole meanwhile, under its final name: look again
                return {file: (self.folder / file).stat() for file in files}

    def _fetch(self, tar: Tar) -> NDArray[np.uint8] | Exception | None:
        """The tar, mapped; None: room has to be made for it once more."""
        path = self.folder / tar.file
        try:
            while True:
                if not self._bring(
                    tar.file, tar.bytes, lambda _, sha256: sha256 == tar.sha256, lambda path: _size(path) == tar.bytes
                ):
                    return None
                with suppress(FileNotFoundError):  # deleted since by another process
                    os.utime(path)
                    return map_tar(path, tar.bytes)
        except Exception as error:  # for the thread that waits for this tar
            return self._explained(error)

    def _bring(
        self,
        name: str,
        total: int | None,
        is_sound: Callable[[Path, str], bool],
        is_there: Callable[[Path], bool],
        most: int = 0,
    ) -> bool:
        """Fetches a file unless it is there; False when there is a limit and the room taken for it was given away.
        `total`, `most`: as Remote.blocks has them.

        Only one process fetches it; the others wait, or go on if that one dies.
        """
        path = self.folder / name
        part = path.with_name(f"{name}.part")
        while not is_there(path):
            with _lock(part) as file:
                if not _is_at(file, part) or is_there(path):  # it was another's, and is finished or given up
                    continue
                if self._limit is not None and total is not None and _size(part) != total:
                    part.unlink(missing_ok=True)
                    return False
                try:
                    self._download(file, part, name, total, is_sound, most)
                    with self._alone(), suppress(FileNotFoundError):  # deleted just before it was locked
                        os.replace(part, path)
                except BaseException:
                    part.unlink(missing_ok=True)
                    raise
        return True

    def _download(
        self,
        file: IO[bytes],
        part: Path,
        name: str,
        total: int | None,
        is_sound: Callable[[Path, str], bool],
        most: int,
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
            if is_sound(part, digest.hexdigest()):
                return
        raise InputError(
            f"{self._remote.url}/{name} is not the file that its manifest describes: fetched twice, it differed. "
            "Copy the shard set there again."
        )

    def _alone(self) -> AbstractContextManager[object]:
        """Nobody else renames or deletes tars of the folder meanwhile."""
        return _lock(self.folder / ".lock")

    def _explained(self, error: Exception) -> Exception:
        if not isinstance(error, OSError):
            return error
        return InputError(
            f"the cache {self.folder} cannot be written ({error.strerror}). "
            "Choose another folder with --cache, or set a limit with --cache-size."
        )


class SplitTars:
    """What a Split asks for its tars: shards are places in the manifest's list, one a sample."""

    def __init__(self, cache: TarCache, split: str) -> None:
        self._cache = cache
        self._split = split
        self._names = [tar.file for tar in cache.manifest.splits[split]]
        self._shards = {name: shard for shard, name in enumerate(self._names)}

    def expect(self, shards: Sequence[int]) -> None:
        self._cache.expect(Counter(self._names[shard] for shard in shards))

    def map(self, shards: Sequence[int]) -> dict[int, NDArray[np.uint8]]:
        mapped = self._cache.map(Counter(self._names[shard] for shard in shards), self._split)
        return {self._shards[name]: tar for name, tar in mapped.items()}

    def ask_for(self, shards: Sequence[int], offsets: Sequence[int], sizes: Sequence[int]) -> None:
        """They were fetched a moment ago, or are not there yet."""

    def ask_for_all_of(self, shards: Sequence[int]) -> None:
        """The same."""

    def hold_all(self) -> None:
        self._cache.hold(self._names, self._split)

    def missing(self, shards: Sequence[int], offsets: Sequence[int], sizes: Sequence[int]) -> str:
        return self._cache.missing(self._names[shard] for shard in shards)


def cache_folder(given: str | Path | None) -> Path:
    """The folder for all sets, made and writable: the given one, the user's, or one of this user's temporary files.

    Raises InputError when none can be written.
    """
    if given:
        if reason := _why_unwritable(Path(given)):
            raise InputError(f"the cache {given} cannot be written ({reason}). Choose another folder with --cache.")
        return Path(given)
    usual = _user_cache()
    reason = _why_unwritable(usual) if usual else "the home folder is not known"
    if usual and not reason:
        return usual
    try:
        spare = Path(tempfile.gettempdir()) / f"alexnet-fast-{os.getuid()}"
        other = _why_not_ours(spare) or _why_unwritable(spare)
    except OSError as error:  # no folder for temporary files can be written
        raise InputError(f"no cache folder can be written ({reason}; {error.strerror}). Choose a --cache.") from error
    if other:
        where = f"neither {usual} ({reason}) nor" if usual else f"{reason}, and no cache in"
        raise InputError(f"{where} {spare} ({other}) can be written. Choose a --cache.")
    problem = f"{usual} cannot be written ({reason})" if usual else reason
    _say_once(f"{problem}: tars are kept in {spare}. --cache chooses another folder.")
    return spare


def _user_cache() -> Path | None:
    """Our folder in the user's cache folder; None where the home is not known.

    Relative paths do not count, in XDG_CACHE_HOME as its specification has it: they would be in the working folder.
    """
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if given.is_absolute():
        return given / "alexnet-fast"
    try:
        home = Path.home()
    except RuntimeError:  # neither HOME nor an entry of this user in the system's list, as in some containers
        return None
    return home / ".cache" / "alexnet-fast" if home.is_absolute() else None


def _why_not_ours(folder: Path) -> str:
    """Why others may write to the folder, which is made where it is not there; empty where they may not.

    A link counts as theirs, wherever it leads: among temporary files anybody may put one.
    """
    try:
        with suppress(FileExistsError):
            folder.mkdir(0o700)
        found = folder.lstat()
    except OSError as error:
        return error.strerror or str(error)
    if not stat.S_ISDIR(found.st_mode):
        return "it is a link or a file, not a folder"
    if found.st_uid != os.getuid():
        return "it belongs to another user"
    return "other users may write to it" if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) else ""


def _why_unwritable(folder: Path) -> str:
    try:
        folder.mkdir(0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return error.strerror or str(error)


def _is_index(path: Path, samples: int) -> bool:
    with suppress(InputError):
        return len(load_index(path)) == samples
    return False


@contextmanager
def _lock(path: Path) -> Iterator[IO[bytes]]:
    """The file, made where it is not there, for this process alone; another may have deleted it meanwhile."""
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def _is_locked(path: Path) -> bool:
    with suppress(FileNotFoundError), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _is_at(file: IO[bytes], path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


def _size(path: Path) -> int | None:
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return None


def _gigabytes(count: int) -> str:
    return f"{-(-count // 10**7) / 100:,.2f} GB"


def _say(text: str) -> None:
    """On standard error, by one process a machine."""
    from rich.console import Console

    if os.environ.get("LOCAL_RANK", "0") == "0":
        Console(stderr=True).print(text, markup=False, highlight=False, soft_wrap=True)


_say_once = lru_cache(_say)
