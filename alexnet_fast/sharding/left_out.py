"""What a source has beside its images: counted by kind, with the names of the first. Here too: which names are an
operating system's or a file manager's, not a user's."""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field

MOST_NAMED = 20
"""Names kept of each kind, for the manifest."""

SYSTEM = "system files"
THUMBNAILS = "thumbnails"
LINKS = "links not followed"
IRREGULAR = "pipes, sockets and devices"
UNUSABLE = "with names that no file can have"
BESIDE = "beside the images"
OTHER_CLASSES = "of other classes"
UNLISTED = "not in the table"
SHARD_SETS = "shard sets"
OF_SAMPLES = "labels and other members of samples"
"""Kinds. A layout may have others; each is a few words that follow a number of files."""

_SYSTEM_NAMES = {
    *("__macosx", "icon\r", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "zbthumbnail.info"),
    *("system volume information", "recycler", "$recycle.bin", "@recycle", "#recycle", "#snapshot", "@eadir"),
    "lost+found",
}
"""In lower case: of macOS, Windows, Synology, QNAP and file systems. Names that begin with a dot come on top:
`.DS_Store`, `._*`, `.git`, `.ipynb_checkpoints`."""
_THUMBNAIL_NAMES = {"thumbnails", "_thumbnails", ".thumbnails", ".thumbs", "_thumbs", "@thumb", ".@__thumb"}


def kind_of(name: str) -> str | None:
    """Returns SYSTEM or THUMBNAILS for the name of a file or folder that is no user's image or class, else None."""
    lower = name.lower()
    if lower in _THUMBNAIL_NAMES or lower.startswith(("synophoto_thumb", "synophoto:thumb")):
        return THUMBNAILS
    return SYSTEM if lower in _SYSTEM_NAMES or lower.startswith(".") else None


def kind_of_path(path: str) -> str | None:
    """Returns the same for a path in a tar, by the first of its parts that has one."""
    parts = path.split("/")
    return next((kind for part in parts if part not in (".", "..") and (kind := kind_of(part))), None)


@dataclass
class LeftOut:
    """Files that are no images of any split: how many of each kind, and the first MOST_NAMED names in their order.

    `found` counts each file of the source as it is met, whatever becomes of it: at the end there must be as many as
    samples, rejected and left-out files together. A layout that does not count leaves it at 0.
    """

    found: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    names: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, name: str, files: int = 1) -> None:
        """Counts `files` files, which `name` (a file, or the folder that holds them) stands for."""
        if files:
            self.counts[kind] = self.counts.get(kind, 0) + files
            named = self.names.setdefault(kind, [])
            insort(named, name)  # the same ones, in whatever order a disk lists its files
            del named[MOST_NAMED:]

    def total(self) -> int:
        return sum(self.counts.values())
