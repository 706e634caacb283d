"""Files that hold images but are of no layout: what to do with them."""

from __future__ import annotations

import re
from collections.abc import Iterable

_ADVICE = {
    r"\.(?:zip|rar|7z)$": "unpack it first, into a folder of its own",
    r"\.(?:tfrecords?)$|-\d{5}-of-\d{5}$": "TFRecords are not read: write their images as files into class folders",
    r"\.mdb$": "LMDB is not read: write its images as files into class folders",
    r"\.(?:rec|beton)$": "other programs' records are not read: write their images as files into class folders",
    r"\.arrow$": "Arrow files of Hugging Face's save_to_disk are not read: save it with to_parquet",
    r"\.(?:np[yz]|h5|hdf5|mat|pkl|pickle|pth?)$|^(?:data|test)_batch(?:_\d)?$|-ubyte(?:\.gz)?$": (
        "arrays are not read: write their images as files into class folders"
    ),
    r"\.(?:mp4|avi|mov|mkv|webm)$": "videos are not read: write their pictures as files into class folders",
}
"""By the end of a file's name."""
_MOST_LOOKED_AT = 10_000


def advice(names: Iterable[str]) -> str:
    """Returns sentences on the first file of each kind that is not read, each after a space; nothing where there is
    none. `names`: of files, without their folders."""
    found: dict[str, str] = {}
    for _, name in zip(range(_MOST_LOOKED_AT), names, strict=False):
        for pattern, what in _ADVICE.items():
            if re.search(pattern, name.lower()):
                found.setdefault(what, name)
    return "".join(f" {name}: {what}." for what, name in found.items())
