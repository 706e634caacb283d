"""The folder in which tars of remote shard sets are kept."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from alexnet_fast.console import print_notice
from alexnet_fast.errors import InputError

_notice_once = lru_cache(print_notice)


def cache_folder(given: str | Path | None) -> Path:
    """The folder for the caches of all sets, made and writable: `given`, the user's, or one among temporary files.
    Raises InputError when none can be written."""
    usual = Path(given) if given else _user_cache()
    reason = _why_unwritable(usual) if usual else "the home folder is not known"
    if usual and not reason:
        return usual
    if given:
        raise InputError(f"the cache {given} cannot be written ({reason}). Choose another folder with --cache.")
    try:
        spare = Path(tempfile.gettempdir()) / f"alexnet-fast-{os.getuid()}"
        other = _why_not_ours(spare) or _why_unwritable(spare)
    except OSError as error:  # no folder for temporary files can be written
        raise InputError(f"no cache folder can be written ({reason}; {error.strerror}). Choose a --cache.") from error
    if other:
        where = f"neither {usual} ({reason}) nor" if usual else f"{reason}, and no cache in"
        raise InputError(f"{where} {spare} ({other}) can be written. Choose a --cache.")
    problem = f"{usual} cannot be written ({reason})" if usual else reason
    _notice_once(f"{problem}: tars are kept in {spare}. --cache chooses another folder.")
    return spare


def _user_cache() -> Path | None:
    """Our folder in the user's cache folder; None where the home is not known. Relative paths do not count, as
    XDG_CACHE_HOME's specification has it."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if given.is_absolute():
        return given / "alexnet-fast"
    try:
        home = Path.home()
    except RuntimeError:  # neither HOME nor an entry of this user in the system's list, as in some containers
        return None
    return home / ".cache" / "alexnet-fast" if home.is_absolute() else None


def _why_not_ours(folder: Path) -> str:
    """Why others may write to the folder, which is made where it is not there; empty where they may not. A link counts
    as theirs, wherever it leads: anybody may put one among temporary files."""
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
