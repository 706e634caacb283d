"""Writes files: whole under their final name, or not at all."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_fast.errors import InputError


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """A temporary name in the folder of `path`, with its suffix; renamed to `path` when the block ends well.

    File and name are on the disk then: neither is lost when the power fails.
    """
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        yield temporary
        flush(temporary)
        os.replace(temporary, path)
        with suppress(OSError):  # not every file system flushes folders
            flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, body: dict[str, Any]) -> None:
    """Writes a JSON file, whole or not at all."""
    with written(path) as temporary:
        temporary.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")


def flush(path: Path) -> None:
    """To the disk: a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Taken(Exception):
    """Another process has the lock; its text says which."""


@contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[None]:
    """A lock of this process on the file `path`, seen by other machines where the file system passes locks on.

    The file stays, the lock goes with the process, however it ends. Raises Taken while another has it, unless to wait.
    """
    with path.open("a+b", buffering=0) as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except (BlockingIOError, PermissionError) as error:
            file.seek(0)
            raise Taken(file.read().decode().strip()) from error
        except OSError:
            pass  # a file system without locks
        with suppress(OSError):  # a full disk: only the text above would say less
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield


def check_target(path: Path | None, option: str, suffixes: tuple[str, ...]) -> None:
    """Before the work begins. Raises InputError when nothing can be written there, or the name ends otherwise."""
    if path is None:
        return
    if path.suffix not in suffixes:
        raise InputError(f"{option} {path} must end in {' or '.join(suffixes)}.")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise InputError(f"{option} {path} must be a file in a folder that is there.")


def save_npz(path: Path, **arrays: Any) -> None:
    with written(path) as temporary:
        np.savez(temporary, **arrays)


def check_memory(needed: float, what: str, instead: str) -> None:
    """Raises InputError when `needed` bytes are more than what is free, where the system tells."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return
    free = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    if needed > free:
        raise InputError(f"{what} take {needed / 1e9:,.3g} GB of memory, {free / 1e9:,.3g} GB are free. {instead}")
