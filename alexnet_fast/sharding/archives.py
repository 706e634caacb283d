"""Lists the members of uncompressed tars, and of tars inside a tar, without reading their data."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, NamedTuple

from alexnet_fast.errors import InputError, descriptor_error
from alexnet_fast.sharding.keys import by_class
from alexnet_fast.sharding.limits import open_regular
from alexnet_fast.sharding.listing import Entry

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
"""Suffixes of files that are taken for tars; their first bytes decide whether they are compressed."""

_COMPRESSIONS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_BLOCK = tarfile.BLOCKSIZE
_LONGEST_HEADER = 1 << 20


class Member(NamedTuple):
    """A regular file in a tar: `offset` of its first byte in the file on disk, also where the tar is in a tar."""

    path: str
    offset: int
    size: int

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


def tars(folder: Path) -> list[Path]:
    """Returns the tars of a folder by name; of x.tar and the x.tar.gz that it was unpacked from, x.tar alone."""
    found = (path for path in folder.iterdir() if path.name.endswith(SUFFIXES) and not path.name.startswith("."))
    return sorted({stem(path.name): path for path in sorted(found, reverse=True)}.values())


def stem(name: str) -> str:
    """Returns the class of an archive as ImageNet names them: `n01440764` of `n01440764.tar`."""
    return next((name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix)), name)


def members(archive: Path, inside: Member | None = None) -> Iterator[Member]:
    """Yields the regular files of `archive`, or of the tar `inside` it, that are not hidden, in stored order.

    Raises InputError when it is compressed, corrupt or truncated.
    """
    where = f"{inside.path} in {archive}" if inside else str(archive)
    try:
        with open(open_regular(archive), "rb") as file:
            end = inside.offset + inside.size if inside else file.seek(0, 2)
            yield from members_of(file, inside.offset if inside else 0, end, where)
    except OSError as error:
        problem = InputError(f"{archive} cannot be read ({error.strerror or error}).")
        raise descriptor_error(error) or problem from error


def first_names(archive: Path) -> list[str]:
    """Returns the names of the first ten members; none where it is not a tar that can be read."""
    try:
        return [member.name for member in islice(members(archive), 10)]
    except InputError as error:
        if descriptor_error(error):
            raise
        return []


def class_tars(archives: Iterable[Path], root: Path) -> dict[str, Callable[[], list[Entry]]]:
    """Returns, for each class, a function that lists its images: each archive holds one class and has its name."""
    return by_class(root, ((stem(path.name), _lister(path, None, root)) for path in archives))


def inner_tars(archive: Path, root: Path) -> dict[str, Callable[[], list[Entry]]]:
    """As `class_tars`, for an archive that holds `<class>.tar`s."""
    inner = [member for member in members(archive) if member.name.endswith(SUFFIXES)]
    if not inner:
        raise InputError(f"{archive} holds no tars. Expected one tar a class inside it, <class>.tar.")
    return by_class(archive, ((stem(member.name), _lister(archive, member, root)) for member in inner))


def entries(archive: Path, root: Path, inside: Member | None = None) -> list[Entry]:
    """Returns the members as images, by their names alone: folders inside the tar have no meaning in any layout."""
    file = archive.relative_to(root).as_posix()
    return [Entry(file, member.name, member.offset, member.size) for member in members(archive, inside)]


def _lister(archive: Path, inside: Member | None, root: Path) -> Callable[[], list[Entry]]:
    return lambda: entries(archive, root, inside)


def members_of(file: IO[bytes], start: int, end: int, where: str) -> Iterator[Member]:
    """As `members`, for the tar in the bytes [start, end) of an open file; `where` names it in messages.

    `tarfile` stops without an error at a corrupt or truncated header, and reads past `end`: so its end is checked.
    """
    cut = f"{where} is truncated. Copy or download it again."
    _check_kind(file, start, end, where)
    file.seek(start)
    try:
        with tarfile.TarFile(fileobj=_Headers(file)) as tar:  # type: ignore[arg-type]
            for info in tar:
                if info.size < 0:
                    raise ValueError("a member of negative size")
                if info.issparse():
                    raise InputError(f"{where} stores {info.name} with holes. Pack it again without --sparse.")
                if info.isfile() and not info.name.rpartition("/")[2].startswith("."):
                    yield Member(info.name, info.offset_data, info.size)
            stopped = tar.offset
    except InputError:
        raise
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        raise InputError(cut) from error
    file.seek(stopped)
    last = file.read(min(_BLOCK, max(end - stopped, 0)))
    if len(last) < _BLOCK:
        raise InputError(cut)
    if any(last):
        raise InputError(f"{where} is damaged at byte {stopped:,}. Copy or download it again.")


class _Headers:
    """A file whose headers are read; limits them, as a corrupt one may claim a name that fills all memory."""

    mode, name = "rb", ""

    def __init__(self, file: IO[bytes]) -> None:
        self.seek, self.tell, self._file = file.seek, file.tell, file

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _LONGEST_HEADER:
            raise ValueError(f"a header of {size:,} bytes")
        return self._file.read(size)


def _check_kind(file: IO[bytes], start: int, end: int, where: str) -> None:
    file.seek(start)
    head = file.read(min(_BLOCK, end - start))
    for magic, name in _COMPRESSIONS.items():
        if head.startswith(magic):
            raise InputError(
                f"{where} is compressed with {name}, so images cannot be read from the middle of it. Unpack it once, "
                "with tar -xf: the images or the tars of one class each that come out are read as they are."
            )
    if not head:
        raise InputError(f"{where} is empty. Copy or download it again.")
    try:
        if any(head):  # a tar of nothing is all zeros
            tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise InputError(f"{where} is not a tar archive. Copy or download it again, or move it away.") from error
