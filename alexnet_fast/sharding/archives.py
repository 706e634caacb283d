"""Lists the members of uncompressed tars, and of tars inside a tar, without reading their data."""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, NamedTuple

from alexnet_fast.errors import InputError, descriptor_error
from alexnet_fast.sharding.keys import by_class
from alexnet_fast.sharding.left_out import BESIDE, IRREGULAR, LINKS, UNUSABLE, LeftOut, kind_of, kind_of_path
from alexnet_fast.sharding.limits import open_regular
from alexnet_fast.sharding.listing import Entry

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
"""Suffixes of files that are taken for tars; their first bytes decide whether they are compressed."""

_COMPRESSIONS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_BLOCK = tarfile.BLOCKSIZE
_LONGEST_HEADER = 1 << 20
_LONGEST_PATH = 4096
"""Linux' own limit."""


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
    found = (path for path in folder.iterdir() if path.name.endswith(SUFFIXES) and not kind_of(path.name))
    return sorted({stem(path.name): path for path in sorted(found, reverse=True)}.values())


def stem(name: str) -> str:
    """Returns the class of an archive as ImageNet names them: `n01440764` of `n01440764.tar`."""
    return next((name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix)), name)


def members(archive: Path, inside: Member | None = None, left_out: LeftOut | None = None) -> Iterator[Member]:
    """Yields the files of `archive`, or of the tar `inside` it, in stored order, without system files.

    A hard or symbolic link is the file that it leads to in the same tar, under the link's own name; one that leads
    elsewhere is left out. All are counted in `left_out`. Raises InputError when it is compressed, corrupt or truncated.
    """
    where = f"{inside.path} in {archive}" if inside else str(archive)
    try:
        with open(open_regular(archive), "rb") as file:
            end = inside.offset + inside.size if inside else file.seek(0, 2)
            yield from members_of(file, inside.offset if inside else 0, end, where, left_out or LeftOut())
    except OSError as error:
        problem = InputError(f"{archive} cannot be read ({error.strerror or error}).")
        raise descriptor_error(error) or problem from error


def first_paths(archive: Path) -> list[str]:
    """Returns the paths of the first ten members; none where it is not a tar that can be read."""
    try:
        return [member.path for member in islice(members(archive), 10)]
    except InputError as error:
        if descriptor_error(error):
            raise
        return []


def first_names(archive: Path) -> list[str]:
    """Returns the names of the first ten members, without the folders that they are in."""
    return [path.rpartition("/")[2] for path in first_paths(archive)]


def class_tars(archives: Iterable[Path], root: Path, left_out: LeftOut) -> dict[str, Callable[[], list[Entry]]]:
    """Returns, for each class, a function that lists its images: each archive holds one class and has its name."""
    return by_class(root, ((stem(path.name), partial(entries, path, root, left_out)) for path in archives))


def inner_tars(archive: Path, root: Path, left_out: LeftOut) -> dict[str, Callable[[], list[Entry]]]:
    """As `class_tars`, for an archive that holds `<class>.tar`s; what else it holds is left out."""
    inner = []
    for member in members(archive, left_out=left_out):
        if member.name.endswith(SUFFIXES):
            left_out.found -= 1  # its members count, not the tar
            inner.append(member)
        else:
            left_out.add(BESIDE, member.path)
    if not inner:
        raise InputError(f"{archive} holds no tars. Expected one tar a class inside it, <class>.tar.")
    listers = ((stem(member.name), partial(entries, archive, root, left_out, member)) for member in inner)
    return by_class(archive, listers)


def entries(archive: Path, root: Path, left_out: LeftOut, inside: Member | None = None) -> list[Entry]:
    """Returns the members as images, by their names alone: in these archives folders have no meaning."""
    file = archive.relative_to(root).as_posix()
    return [Entry(file, member.name, member.offset, member.size) for member in members(archive, inside, left_out)]


def members_of(file: IO[bytes], start: int, end: int, where: str, left_out: LeftOut) -> Iterator[Member]:
    """As `members`, for the tar in the bytes [start, end) of an open file; `where` names it in messages.

    `tarfile` stops without an error at a corrupt or truncated header, and reads past `end`: so its end is checked.
    """
    cut = f"{where} is truncated. Copy or download it again."
    _check_kind(file, start, end, where)
    links: _Links | None = None
    stopped = start
    try:
        for info, behind in _headers(file, start):
            stopped = behind
            if info.size < 0:
                raise ValueError("a member of negative size")
            if info.issparse():
                raise InputError(f"{where} stores {info.name} with holes. Pack it again without --sparse.")
            if info.isdir():
                continue
            left_out.found += 1
            kind = _kind(info)
            if kind:
                left_out.add(kind, info.name)
            elif info.isfile():
                yield Member(info.name, info.offset_data, info.size)
            else:
                links = links or _Links(file, start)
                place = links.place(info)
                if place:
                    yield Member(info.name, *place)
                else:
                    left_out.add(LINKS, info.name)
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


def _headers(file: IO[bytes], start: int) -> Iterator[tuple[tarfile.TarInfo, int]]:
    """Yields each member of the tar that begins at `start`, and where the next one should; `tarfile` itself would keep
    a kilobyte for every member that it passed."""
    file.seek(start)
    with tarfile.TarFile(fileobj=_Headers(file)) as tar:  # type: ignore[arg-type]
        while (info := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]
            yield info, tar.offset


def _kind(info: tarfile.TarInfo) -> str | None:
    """Returns why a member, which is no folder, cannot be an image; None where it may be one."""
    if len(info.name) > _LONGEST_PATH or "\0" in info.name:
        return UNUSABLE
    if not (info.isfile() or info.islnk() or info.issym()):
        return IRREGULAR
    return kind_of_path(info.name)


class _Links:
    """Where the links of a tar lead: made when the first one is met, in two more passes over the headers."""

    def __init__(self, file: IO[bytes], start: int) -> None:
        self._targets = {_normal(info.name): _target(info) for info, _ in _headers(file, start) if _is_link(info)}
        wanted = set(self._targets.values())
        found = ((_normal(info.name), info) for info, _ in _headers(file, start) if info.isfile())
        self._places = {name: (info.offset_data, info.size) for name, info in found if name in wanted}

    def place(self, link: tarfile.TarInfo) -> tuple[int, int] | None:
        """Returns offset and size of the file that the link leads to, over other links too; None without one."""
        name = _target(link)
        for _ in range(len(self._targets)):  # a circle ends
            if name in self._places or name not in self._targets:
                break
            name = self._targets[name]
        return self._places.get(name)


def _is_link(info: tarfile.TarInfo) -> bool:
    return info.islnk() or info.issym()


def _target(link: tarfile.TarInfo) -> str:
    """Returns the path in the tar to which a link leads: a symbolic one from its own folder."""
    folder = "" if link.islnk() else posixpath.dirname(link.name)
    return _normal(posixpath.join(folder, link.linkname))


def _normal(path: str) -> str:
    return posixpath.normpath(path)


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
