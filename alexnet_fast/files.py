"""Files that are whole under their final name or not there, and locks between processes."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from alexnet_fast.errors import InputError


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """Yields a temporary name in the folder of `path`, with its suffix; renamed to `path` when the block ends well."""
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        yield temporary
        publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def append(path: Path, data: bytes) -> None:
    """Adds all of `data` to the end of a file, created where there is none; adds nothing where it raises OSError."""
    with path.open("ab", buffering=0) as file:
        end = file.tell()
        try:
            if file.write(data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            file.truncate(end)
            raise


def publish(temporary: Path, path: Path) -> None:
    """Renames a file of the same file system to `path`; bytes and name are on the disk then, safe from a power cut."""
    flush(temporary)
    os.replace(temporary, path)
    with suppress(OSError):  # not every file system flushes folders
        flush(path.parent)


def flush(path: Path) -> None:
    """Writes to the disk what the system still has in memory: of a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Taken(Exception):
    """Another holder has the lock; the text, from the lock's file, names it."""


@contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Holds the lock of `path` as `file_lock` does, and writes into the file which process it is, for Taken's text.
    Where the file system has no locks, the block runs without one."""
    with file_lock(path, wait=wait, required=False) as file:
        with suppress(OSError):  # a full disk: only that text would be missing
            os.ftruncate(file.fileno(), 0)
            os.pwrite(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield


@contextmanager
def file_lock(
    path: Path, *, wait: bool = True, shared: bool = False, required: bool = True, mode: int = 0o666
) -> Iterator[IO[bytes]]:
    """Holds a lock on the file `path`; yields it open for reading and writing, created empty where there was none.

    The lock excludes other threads and processes, also on other machines (over NFS too), until the block or the process
    ends; the file stays. `shared`: excludes only those that do not share. Raises Taken while another has it, unless
    `wait`; OSError where the file system has no locks, if one is `required`. `mode`: a new file's permissions.
    """
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, mode), "r+b") as file:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX  # on NFS one needs a file that can be read, one written to
        try:
            fcntl.flock(file, kind | (0 if wait else fcntl.LOCK_NB))
        except (BlockingIOError, PermissionError) as error:
            raise Taken(file.read().decode().strip()) from error
        except OSError:
            if required:
                raise
        yield file


def is_locked(path: Path) -> bool:
    """Returns whether somebody holds the exclusive lock of the file; False where there is no file."""
    with suppress(FileNotFoundError), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def check_target(path: Path | None, option: str, suffixes: tuple[str, ...]) -> None:
    """Raises InputError, before the work begins, when `path` has none of the suffixes or lies in no folder."""
    if path is None:
        return
    if path.suffix not in suffixes:
        raise InputError(f"{option} {path} must end in {' or '.join(suffixes)}.")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise InputError(f"{option} {path} must be a file in a folder that is there.")


def write_json(path: Path, body: dict[str, Any]) -> None:
    """Writes a JSON file, whole or not at all."""
    with written(path) as temporary:
        temporary.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")


def save_npz(path: Path, **arrays: Any) -> None:
    """Writes arrays as an .npz file, whole or not at all."""
    with written(path) as temporary:
        np.savez(temporary, **arrays)
