"""Small files that let other tools open a shard set as it is; all follow from the manifest."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from alexnet_fast.shards.format import MANIFEST, Manifest, Tar

TIMM = "_info.json"
SUMS = "SHA256SUMS"


def wids_name(split: str) -> str:
    return f"{split}.wids.json"


def side_files(manifest: Manifest) -> dict[str, bytes]:
    """File name -> content: `_info.json` for timm, an index a split for wids, and `SHA256SUMS` for sha256sum."""
    files = {TIMM: _json(_timm(manifest))}
    for split, tars in manifest.splits.items():
        files[wids_name(split)] = _json(_wids(tars))
    return {**files, SUMS: _sums(manifest, files)}


def _timm(manifest: Manifest) -> dict[str, Any]:
    """timm's `_info.json`. Its scripts use the split `validation` by default, so `val` is listed under both names."""
    splits = {
        split: {
            "name": split,
            "num_samples": sum(tar.samples for tar in tars),
            "filenames": [tar.file for tar in tars],
            "shard_lengths": [tar.samples for tar in tars],
        }
        for split, tars in manifest.splits.items()
    }
    if "val" in splits:
        splits.setdefault("validation", splits["val"])
    return {"splits": splits}


def _wids(tars: list[Tar]) -> dict[str, Any]:
    """The index of wids, without the md5 sums, which are optional there: `SHA256SUMS` has better ones."""
    shards = [{"url": tar.file, "nsamples": tar.samples, "filesize": tar.bytes} for tar in tars]
    return {"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": shards}


def _sums(manifest: Manifest, files: dict[str, bytes]) -> bytes:
    """`SHA256SUMS` of the manifest, the other side files and the tars; the indexes follow from the tars."""
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    sums[MANIFEST] = hashlib.sha256(manifest.to_json().encode()).hexdigest()
    sums |= {tar.file: tar.sha256 for tars in manifest.splits.values() for tar in tars}
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())).encode()


def _json(body: dict[str, Any]) -> bytes:
    return (json.dumps(body, indent=1) + "\n").encode()
