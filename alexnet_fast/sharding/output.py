"""The places a shard set can be written to: one or several folders, or the URL of an object store.

A file under its final name is whole: it was written under another, flushed to the disk and renamed, or put as one
object.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from alexnet_fast.errors import InputError, descriptor_error
from alexnet_fast.files import Taken, file_lock, flush, publish
from alexnet_fast.sharding.limits import open_regular
from alexnet_fast.shards.format import FORMAT, MANIFEST, WORK


def check_apart(src: Path, places: list[str]) -> None:
    """Raises InputError when an output is the source's folder or lies in it: its tars would be listed as images, by
    another part of this run or by the next one."""
    source = os.path.realpath(src)
    for place in places:
        folder = os.path.realpath(place.removeprefix("file://"))
        if (place.startswith("file://") or "://" not in place) and os.path.commonpath([source, folder]) == source:
            raise InputError(
                f"--out {place} lies in --src {src}, where the shard set would be taken for images. Choose a folder "
                "that is not in it."
            )


def holds_shard_set(folder: str | Path) -> bool:
    """Returns whether a shard set, whole or unfinished, lies in a folder."""
    if os.path.exists(f"{folder}/{WORK}/plan.json"):
        return True
    try:
        with open(open_regular(Path(folder, MANIFEST)), "rb") as file:
            return FORMAT.encode() in file.read(1000)
    except OSError as error:
        if descriptor_error(error):
            raise
        return False


class Output(Protocol):
    """Names are relative to the output: `train-000000.tar`, `.work/plan.json`."""

    def temporary(self, name: str) -> Path:
        """Returns a new local path to write `name` to; the caller then publishes or deletes it."""

    def publish(self, temporary: Path, name: str) -> None:
        """Moves a written file to its final name, durably."""

    def write(self, name: str, data: bytes) -> None:
        """Writes a whole file, durably."""

    def create(self, name: str, data: bytes) -> bool:
        """Writes a file unless it is there; returns whether it wrote. Inside `one_at_a_time` only."""

    def read(self, name: str) -> bytes | None:
        """Returns the bytes of a file; None when it is not there."""

    def size(self, name: str) -> int | None:
        """Returns the bytes that a file takes; None when it is not there."""

    def names(self, folder: str) -> list[str]:
        """Returns the names of the files in a folder, without its path; none when it is not there."""

    def delete(self, name: str) -> None:
        """Deletes a file or a folder; does nothing when it is not there."""

    def tidy(self) -> None:
        """Deletes the unfinished files of killed runs. No other run may be writing."""

    def free(self) -> int | None:
        """Returns the bytes left on the disk, or on the fullest of several; None where that is not known."""

    def __str__(self) -> str: ...


def open_output(places: list[str]) -> Output:
    """Returns the output for one or several folders, or one URL that fsspec knows. Raises InputError."""
    urls = [place for place in places if "://" in place]
    if not urls:
        return Folders.make([Path(place) for place in places])
    if len(places) > 1:
        raise InputError(f"--out {urls[0]} is a URL: give it alone. Several --out are for several local disks.")
    return ObjectStore.connect(urls[0])


@dataclass(frozen=True)
class Folders:
    """Local folders. The first is the shard set; tars are spread over all of them and linked into the first."""

    folders: list[Path]

    @classmethod
    def make(cls, folders: list[Path]) -> Folders:
        folders = [Path(os.path.abspath(folder)) if len(folders) > 1 else folder for folder in folders]
        for folder in folders:
            try:
                if folder.exists() and not folder.is_dir():
                    raise InputError(f"{folder} is a file. --out takes a folder.")
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"{folder} cannot be made ({error.strerror}). Choose another --out.") from error
        return cls(folders)

    def temporary(self, name: str) -> Path:
        path = self._home(name) / WORK / f"{Path(name).name}.{uuid4().hex}.tmp"
        path.parent.mkdir(exist_ok=True)
        return path

    def publish(self, temporary: Path, name: str) -> None:
        home = self._home(name)
        publish(temporary, home / name)
        if home != self.folders[0]:
            link = self.folders[0] / WORK / f"{name}.{uuid4().hex}.tmp"
            link.symlink_to(home / name)
            os.replace(link, self.folders[0] / name)
            flush(self.folders[0])

    def write(self, name: str, data: bytes) -> None:
        temporary = self.temporary(name)
        try:
            temporary.write_bytes(data)
            self.publish(temporary, name)
        finally:
            temporary.unlink(missing_ok=True)

    def create(self, name: str, data: bytes) -> bool:
        if self.size(name) is not None:
            return False
        self.write(name, data)
        return True

    def read(self, name: str) -> bytes | None:
        try:
            return (self.folders[0] / name).read_bytes()
        except FileNotFoundError:
            return None

    def size(self, name: str) -> int | None:
        try:
            return (self.folders[0] / name).stat().st_size
        except FileNotFoundError:
            return None

    def names(self, folder: str) -> list[str]:
        try:
            return os.listdir(self.folders[0] / folder)
        except FileNotFoundError:
            return []

    def delete(self, name: str) -> None:
        for folder in self.folders:
            path = folder / name
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def tidy(self) -> None:
        for folder in self.folders:
            for path in (folder / WORK).glob("*.tmp"):
                path.unlink(missing_ok=True)

    def free(self) -> int | None:
        return min(shutil.disk_usage(folder).free for folder in self.folders)

    def work(self) -> Path:
        """Returns the folder WORK, which it makes where it is not there."""
        folder = self.folders[0] / WORK
        folder.mkdir(exist_ok=True)
        return folder

    def __str__(self) -> str:
        return str(self.folders[0])

    def _home(self, name: str) -> Path:
        if not name.endswith(".tar"):
            return self.folders[0]
        return self.folders[int(name[-10:-4]) % len(self.folders)]


@dataclass(frozen=True)
class ObjectStore:
    """A folder of an fsspec file system: `s3://bucket/imagenet`, `gs://...`. An object is put whole or not at all."""

    files: Any
    root: str
    url: str

    @classmethod
    def connect(cls, url: str) -> ObjectStore:
        import fsspec

        try:
            files, root = fsspec.core.url_to_fs(url)
            files.invalidate_cache()
            files.exists(root)
        except (ImportError, ValueError) as error:
            raise InputError(f"--out {url} cannot be used: {error}") from error
        except Exception as error:  # every store has its own kinds
            raise InputError(f"--out {url} cannot be reached ({error}). Check the address and credentials.") from error
        return cls(files, root.rstrip("/"), url)

    def temporary(self, name: str) -> Path:
        handle, path = tempfile.mkstemp(prefix="alexnet-fast-", suffix=f"-{Path(name).name}")
        os.close(handle)
        return Path(path)

    def publish(self, temporary: Path, name: str) -> None:
        self.files.put_file(str(temporary), f"{self.root}/{name}")
        temporary.unlink()

    def write(self, name: str, data: bytes) -> None:
        self.files.pipe_file(f"{self.root}/{name}", data)

    def create(self, name: str, data: bytes) -> bool:
        try:
            self.files.pipe_file(f"{self.root}/{name}", data, mode="create")
        except Exception:  # every store has its own kinds
            if self.size(name) is not None:
                return False
            self.write(name, data)  # a store that knows no such condition
        return True

    def read(self, name: str) -> bytes | None:
        try:
            data: bytes = self.files.cat_file(f"{self.root}/{name}")
        except FileNotFoundError:
            return None
        return data

    def size(self, name: str) -> int | None:
        try:
            self.files.invalidate_cache()
            size: int = self.files.size(f"{self.root}/{name}")
        except FileNotFoundError:
            return None
        return size

    def names(self, folder: str) -> list[str]:
        self.files.invalidate_cache()
        try:
            return [path.rsplit("/", 1)[-1] for path in self.files.ls(f"{self.root}/{folder}", detail=False)]
        except FileNotFoundError:
            return []

    def delete(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self.files.rm(f"{self.root}/{name}", recursive=True)

    def tidy(self) -> None:
        pass

    def free(self) -> int | None:
        return None

    def __str__(self) -> str:
        return self.url


@contextmanager
def locked(output: Output, part: str | None) -> Iterator[None]:
    """Holds the lock on an output for a run: one part (`1/4`) excludes only itself and whole runs. Raises InputError.

    The lock ends with the process that holds it, however it ends. An object store has no locks, and needs none: two
    runs put the same objects, as the second finds the first one's plan and is refused where its own is another.
    """
    with ExitStack() as held:
        if isinstance(output, Folders):
            work = output.work()
            try:
                held.enter_context(file_lock(work / "lock", wait=False, shared=part is not None))
                if part:
                    held.enter_context(file_lock(work / f"lock-{part.replace('/', '-of-')}", wait=False))
            except Taken as error:
                raise InputError(
                    f"another alexnet-fast shard is writing to {output}. Wait for it, or choose another --out."
                ) from error
        yield


@contextmanager
def one_at_a_time(output: Output) -> Iterator[None]:
    """Waits until no other part is in such a block: each may write the plan or the manifest."""
    with ExitStack() as held:
        if isinstance(output, Folders):
            held.enter_context(file_lock(output.work() / "lock-turn"))
        yield


def sealed(text: str) -> bytes:
    """Returns the text as bytes that begin with their sha256."""
    data = text.encode()
    return hashlib.sha256(data).hexdigest().encode() + b" " + data


def unsealed(data: bytes) -> str:
    """Returns the text of `sealed`. Raises ValueError when the bytes are not those that it returned."""
    digest, _, text = data.partition(b" ")
    if digest != hashlib.sha256(text).hexdigest().encode():
        raise ValueError("its sha256 is another")
    return text.decode()
